//! Writes one file of a history. It has its name when it is whole and on the disk.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use foldhash::fast::RandomState;
use parquet::data_type::{ByteArray, ByteArrayType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};

use super::NOTE_SUM;
use super::columns::{Column, HistoryRow, Kind, Texts, word};
use super::ports::{NotedPlace, NotedPorts};
use super::sum::{NO_SUM, Summed, put_sum};
use crate::disk::fs::{Disk, RealDisk, TEMPORARY, parent};
use crate::handoff::change::Timestamp;
use crate::handoff::line;
use crate::handoff::names::client_text;

/// Rows that are in memory, and of which a file has so many in one part (row group).
pub(super) const GROUP_ROWS: usize = 1 << 17;
/// Room that the file system keeps: the log and the journal may want it.
const ROOM_OCTETS: u64 = 16 << 20;

/// A file that is written.
pub(super) struct Writing {
    kind: Kind,
    writer: SerializedFileWriter<Summed>,
    rows: Vec<HistoryRow>,
    temporary: PathBuf,
    is_whole: bool,
    /// How many rows were given.
    pub(super) count: u64,
}

impl Writing {
    /// Begins a file that is to be at `path`, or beside that. Who may read what `like` is of may
    /// read it.
    pub(super) fn begin(kind: Kind, path: &Path, like: &Metadata) -> io::Result<Self> {
        let temporary = hidden(path);
        let mode = like.permissions().mode() & 0o666;
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(mode).open(&temporary)?;
        give(&file, like);
        let properties = kind.properties(GROUP_ROWS).map_err(failed)?;
        let schema = kind.schema().map_err(failed)?;
        let writer = SerializedFileWriter::new(Summed::new(file), schema, properties);
        let writer = writer.map_err(failed)?;
        let rows = Vec::new();
        Ok(Self { kind, writer, rows, temporary, is_whole: false, count: 0 })
    }

    /// One more row, behind those before it.
    pub(super) fn push(&mut self, row: HistoryRow) -> io::Result<()> {
        self.count += 1;
        self.rows.push(row);
        if self.rows.len() == GROUP_ROWS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        has_room(self.writer.inner().file())?;
        let mut group = self.writer.next_row_group().map_err(failed)?;
        for &column in self.kind.columns() {
            let writer = group.next_column().map_err(failed)?;
            // There are as many as the schema has.
            let mut writer = writer.ok_or(io::ErrorKind::InvalidInput)?;
            write_column(&mut writer, self.kind, column, &self.rows).map_err(failed)?;
            writer.close().map_err(failed)?;
        }
        group.close().map_err(failed)?;
        self.rows.clear();
        Ok(())
    }

    /// Gives the file its name, with `sets` of ports behind its rows. Returns how many octets it
    /// has.
    pub(super) fn finish(
        mut self,
        path: &Path,
        notes: Vec<(&str, String)>,
        sets: &[(&str, NotedPorts)],
    ) -> io::Result<u64> {
        self.flush()?;
        let note = |writer: &mut SerializedFileWriter<Summed>, name: &str, value: String| {
            writer.append_key_value_metadata(KeyValue::new(name.to_owned(), value));
        };
        for (name, ports) in sets {
            let octets = ports.to_octets();
            let offset = self.writer.bytes_written() as u64;
            self.writer.write_all(&octets)?;
            note(&mut self.writer, name, NotedPlace::new(offset, &octets).to_note());
        }
        for (name, value) in notes {
            note(&mut self.writer, name, value);
        }
        note(&mut self.writer, NOTE_SUM, String::from_utf8_lossy(NO_SUM).into_owned());
        self.writer.finish().map_err(failed)?;
        let (file, crc) = self.writer.inner_mut().end()?;
        put_sum(file, crc)?;
        file.sync_all()?;
        let octets = file.metadata()?.len();
        fs::rename(&self.temporary, path)?;
        self.is_whole = true;
        RealDisk.sync_dir(parent(path))?;
        Ok(octets)
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if !self.is_whole {
            // What is left is removed before the next one is written.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// What a file is called until it is whole: no pattern that finds the history's files finds it.
fn hidden(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(TEMPORARY);
    parent(path).join(name)
}

/// Whether a file of this name is one that was not finished.
pub(super) fn is_hidden(name: &OsString) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(b".") && name.ends_with(TEMPORARY.as_bytes())
}

/// Gives a file or a folder to whom the log is of, as far as that is allowed.
pub(super) fn give(file: &File, like: &Metadata) {
    // Where root builds the history, the server goes on with it.
    if fchown(file, Some(like.uid()), Some(like.gid())).is_err() {
        let _ = fchown(file, None, Some(like.gid()));
    }
}

/// Fails where the file system of `file` has less room than it is to keep.
pub(super) fn has_room(file: &File) -> io::Result<()> {
    let room = rustix::fs::fstatvfs(file)?;
    match room.f_bavail.saturating_mul(room.f_frsize) < ROOM_OCTETS {
        true => Err(io::Error::new(
            io::ErrorKind::StorageFull,
            "the last 16 MiB of the disk are left to log and journal; make room",
        )),
        false => Ok(()),
    }
}

/// What went wrong, as far as it has to do with the file.
pub(super) fn failed(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(cause) => match cause.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(other) => io::Error::other(other),
        },
        other => io::Error::other(other),
    }
}

fn write_column(
    writer: &mut SerializedColumnWriter<'_>,
    kind: Kind,
    column: Column,
    rows: &[HistoryRow],
) -> Result<(), ParquetError> {
    match column {
        Column::Client if kind == Kind::Names => {
            let client = |row: &HistoryRow| Some(row.name()?.client);
            texts(writer, rows, client, |out, client| display(out, client_text(client)))
        }
        Column::Nat64 => texts(writer, rows, |row| Some(*row.nat64().ip()), display),
        Column::Client => clients(writer, rows),
        Column::Local => texts(writer, rows, HistoryRow::local, display),
        Column::Prefix => texts(writer, rows, |row| row.held()?.prefix, display),
        Column::Ended => texts(
            writer,
            rows,
            |row| row.held()?.ended,
            |out, ended| {
                out.extend_from_slice(word(ended).as_bytes());
            },
        ),
        // The log does not say it.
        Column::Came => texts(writer, rows, |_| None::<u8>, display),
        Column::Port => numbers(writer, rows, |row| row.nat64().port()),
        Column::ClientPort => numbers(writer, rows, HistoryRow::client_port),
        Column::Since | Column::Until | Column::PerhapsUntil | Column::At => {
            let level = i16::from(column != Column::At);
            times(writer, rows.iter().map(|row| row.time(column)), level)
        }
    }
}

fn display(out: &mut Vec<u8>, value: impl std::fmt::Display) {
    // A vector takes all that is written to it.
    let _ = io::Write::write_fmt(out, format_args!("{value}"));
}

fn texts<T: PartialEq + Copy>(
    writer: &mut SerializedColumnWriter<'_>,
    rows: &[HistoryRow],
    value: impl Fn(&HistoryRow) -> Option<T>,
    write: impl Fn(&mut Vec<u8>, T),
) -> Result<(), ParquetError> {
    let (mut all, mut before, mut levels) = (Texts::default(), None, Vec::new());
    for row in rows {
        let value = value(row);
        levels.push(i16::from(value.is_some()));
        if let Some(value) = value {
            all.push(before == Some(value), |out| write(out, value));
            before = Some(value);
        }
    }
    let values: Vec<ByteArray> = all.into_values();
    // A column that must have a value takes no levels.
    writer.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).map(drop)
}

/// As [`texts`]. A client has many ports, and its address is written once.
fn clients(
    writer: &mut SerializedColumnWriter<'_>,
    rows: &[HistoryRow],
) -> Result<(), ParquetError> {
    let (mut all, mut known) = (Texts::default(), HashMap::with_hasher(RandomState::default()));
    for row in rows {
        let client = row.client();
        let span = known.entry(client).or_insert_with(|| all.add(|out| line::ipv6(out, client)));
        all.again(*span);
    }
    writer.typed::<ByteArrayType>().write_batch(&all.into_values(), None, None).map(drop)
}

fn numbers(
    writer: &mut SerializedColumnWriter<'_>,
    rows: &[HistoryRow],
    value: impl Fn(&HistoryRow) -> u16,
) -> Result<(), ParquetError> {
    let values: Vec<i32> = rows.iter().map(|row| value(row).into()).collect();
    writer.typed::<Int32Type>().write_batch(&values, None, None).map(drop)
}

fn times(
    writer: &mut SerializedColumnWriter<'_>,
    rows: impl Iterator<Item = Option<Timestamp>> + Clone,
    level: i16,
) -> Result<(), ParquetError> {
    let values: Vec<i64> = rows.clone().flatten().map(|at| at.as_micros().cast_signed()).collect();
    let levels: Vec<i16> = rows.map(|at| i16::from(at.is_some()) * level).collect();
    writer.typed::<Int64Type>().write_batch(&values, Some(&levels), None).map(drop)
}
