//! Reads files of records in order, finds out where one is torn or damaged, and decides which of both it is
//! (`journal`, last section).

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::StorageError;
use super::epoch::{self, ShardFiles};
use crate::disk::fs::{Boot, Disk, DiskFile, read_full};
use crate::disk::journal::{
    FileId, FileKind, HEADER_LENGTH, Header, HeaderError, Invalid, Position, RECORD_MAX, Record,
    RecordNumber, Seal,
};

/// How much of a file is read at a time.
const BUFFER: usize = 1 << 20;

const _: () = assert!(BUFFER >= 2 * RECORD_MAX);

/// A file from some offset on.
pub(super) struct RecordReader {
    file: Arc<dyn DiskFile>,
    seal: Seal,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Of `start`, in the file.
    offset: u64,
    file_ended: bool,
}

/// What stands at an offset.
pub(super) enum Step<'a> {
    Record(Record<'a>),
    Invalid(Invalid),
    End,
}

impl RecordReader {
    /// Reads from `offset` on, or from the first record.
    pub fn new(file: Arc<dyn DiskFile>, id: FileId, offset: Option<u64>) -> io::Result<Self> {
        let mut header = [0; HEADER_LENGTH];
        read_full(&*file, &mut header, 0)?;
        let seal = id.seal(&Header::boot_in(&header));
        let offset = offset.unwrap_or(HEADER_LENGTH as u64);
        let buffer = vec![0; BUFFER];
        Ok(Self { file, seal, buffer, start: 0, end: 0, offset, file_ended: false })
    }

    /// Where the next step stands.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// What stands here. Goes behind it where it is a record.
    pub fn step(&mut self) -> io::Result<Step<'_>> {
        self.fill()?;
        let octets = &self.buffer[self.start..self.end];
        if octets.is_empty() {
            return Ok(Step::End);
        }
        Ok(match Record::decode(octets, self.seal) {
            Ok(record) => {
                self.start += record.length;
                self.offset += record.length as u64;
                Step::Record(record)
            }
            Err(invalid) => Step::Invalid(invalid),
        })
    }

    /// Goes to the next valid record behind something invalid. Whether there is one.
    pub fn skip(&mut self) -> io::Result<bool> {
        loop {
            self.fill()?;
            if self.start == self.end {
                return Ok(false);
            }
            if Record::decode(&self.buffer[self.start..self.end], self.seal).is_ok() {
                return Ok(true);
            }
            self.start += 1;
            self.offset += 1;
        }
    }

    /// A whole record is in the buffer, if it is in the file.
    fn fill(&mut self) -> io::Result<()> {
        if self.end - self.start >= RECORD_MAX || self.file_ended {
            return Ok(());
        }
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let rest = &mut self.buffer[self.end..];
        let length = read_full(&*self.file, rest, self.offset + self.end as u64)?;
        self.file_ended = length < rest.len();
        self.end += length;
        Ok(())
    }
}

/// Something that is not as it was written, with valid records behind it or where nothing can be torn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Damage {
    pub id: FileId,
    pub offset: u64,
    pub what: String,
    /// How many octets are not readable, as far as can be told.
    pub octets: u64,
    /// The records that are missing, from and up to, where that can be told.
    pub records: Option<(RecordNumber, RecordNumber)>,
}

/// The end of a journal that was torn off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tear {
    pub id: FileId,
    pub offset: u64,
    /// How many octets the file has from there on.
    pub octets: u64,
    /// How many valid records are behind a hole, and go with it.
    pub records: u64,
}

/// What all files of an epoch have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Common {
    pub shards: u16,
    pub handoff_port: u16,
}

/// What there is of a shard.
#[derive(Debug, Clone)]
pub(super) struct ShardEnd {
    /// What comes next.
    pub position: Position,
    /// The snapshot that counts.
    pub snapshot: u64,
    pub snapshot_octets: u64,
    /// The last segment that has a record.
    pub last_segment: Option<u64>,
    /// Of all segments from the snapshot on.
    pub segment_octets: u64,
    /// Whether it ends as after a clean stop.
    pub ended: bool,
    pub tear: Option<Tear>,
    pub records: u64,
}

/// Reads the snapshot and the segments of a shard.
pub(super) struct ShardReader<'a> {
    pub disk: &'a dyn Disk,
    pub root: &'a Path,
    pub epoch: u64,
    pub shard: u16,
    pub files: &'a ShardFiles,
    pub boot: Boot,
}

/// What to do about damage: `Err` ends it, else reading goes on behind it.
pub(super) type OnDamage<'a> = &'a mut dyn FnMut(Damage) -> Result<(), StorageError>;
/// What to do with each record, the file that it is in, and where.
pub(super) type Sink<'a> = &'a mut dyn FnMut(FileId, &Record<'_>) -> Result<(), StorageError>;

/// Refuses damage.
pub(super) fn refuse(root: &Path) -> impl FnMut(Damage) -> Result<(), StorageError> + use<> {
    let directory = root.to_owned();
    move |damage| {
        Err(StorageError::Damaged {
            file: epoch::path(&directory, damage.id),
            directory: directory.clone(),
            offset: damage.offset,
            what: damage.what,
        })
    }
}

/// What stands behind something invalid.
struct Behind {
    first: (RecordNumber, u64),
    in_same_file: bool,
    offset: u64,
    records: u64,
    synced: RecordNumber,
}

impl ShardReader<'_> {
    fn id(&self, kind: FileKind, number: u64) -> FileId {
        FileId { kind, epoch: self.epoch, shard: self.shard, number }
    }

    fn open(&self, id: FileId) -> Result<Arc<dyn DiskFile>, StorageError> {
        let path = epoch::path(self.root, id);
        self.disk.open(&path, false).map_err(StorageError::io("open", &path))
    }

    /// The header of a file, or what is wrong with it.
    pub fn header(
        &self,
        id: FileId,
        file: &dyn DiskFile,
    ) -> Result<Result<Header, String>, StorageError> {
        let path = epoch::path(self.root, id);
        let mut octets = [0; HEADER_LENGTH];
        let length = read_full(file, &mut octets, 0).map_err(StorageError::io("read", &path))?;
        match Header::decode(&octets[..length]) {
            Ok(header) if header.id == id => Ok(Ok(header)),
            Ok(_) => Ok(Err("header of another file".into())),
            Err(HeaderError::Newer(version)) => Err(StorageError::Newer { file: path, version }),
            Err(error) => Ok(Err(error.to_string())),
        }
    }

    fn missing(&self, id: FileId) -> Damage {
        let what = "file is missing".into();
        Damage { id, offset: 0, what, octets: 0, records: None }
    }

    /// Reads everything in order.
    pub fn read(
        &self,
        common: &mut Option<Common>,
        on_damage: OnDamage<'_>,
        sink: Sink<'_>,
    ) -> Result<ShardEnd, StorageError> {
        let snapshot = self.files.snapshot();
        let mut end = self.nothing();
        let mut known = false;
        match snapshot {
            Some(number) => {
                let id = self.id(FileKind::Snapshot, number);
                if let Some(header) = self.read_snapshot(id, common, on_damage, sink, &mut end)? {
                    end.position =
                        Position { record: header.next_record, event: header.next_event };
                    known = true;
                }
            }
            None => on_damage(self.missing(self.id(FileKind::Snapshot, end.snapshot)))?,
        }
        self.read_segments(known, common, on_damage, sink, &mut end)?;
        Ok(end)
    }

    /// Reads the segments in order, whose first record may have any number.
    pub fn read_segments_only(
        &self,
        common: &mut Option<Common>,
        on_damage: OnDamage<'_>,
        sink: Sink<'_>,
    ) -> Result<ShardEnd, StorageError> {
        let mut end = self.nothing();
        self.read_segments(false, common, on_damage, sink, &mut end)?;
        Ok(end)
    }

    fn nothing(&self) -> ShardEnd {
        let first = self.files.snapshot().or_else(|| self.files.segments.first().copied());
        ShardEnd {
            position: Position { record: RecordNumber(1), event: 0 },
            snapshot: first.unwrap_or_default(),
            snapshot_octets: 0,
            last_segment: None,
            segment_octets: 0,
            ended: false,
            tear: None,
            records: 0,
        }
    }

    fn check_common(
        common: &mut Option<Common>,
        header: Result<Header, String>,
    ) -> Result<Header, String> {
        let header = header?;
        let found = Common { shards: header.shards, handoff_port: header.handoff_port };
        if *common.get_or_insert(found) != found {
            return Err("header contradicts those of other files".into());
        }
        Ok(header)
    }

    fn read_snapshot(
        &self,
        id: FileId,
        common: &mut Option<Common>,
        on_damage: OnDamage<'_>,
        sink: Sink<'_>,
        end: &mut ShardEnd,
    ) -> Result<Option<Header>, StorageError> {
        let path = epoch::path(self.root, id);
        let failed = |cause| StorageError::io("read", &path)(cause);
        let file = self.open(id)?;
        end.snapshot_octets = file.length().map_err(failed)?;
        let header = match Self::check_common(common, self.header(id, &*file)?) {
            Ok(header) => Some(header),
            Err(what) => {
                let octets = HEADER_LENGTH as u64;
                on_damage(Damage { id, offset: 0, what, octets, records: None })?;
                None
            }
        };
        let mut reader = RecordReader::new(file, id, None).map_err(failed)?;
        let mut expected = RecordNumber(1);
        let mut ended = false;
        loop {
            let offset = reader.offset();
            let what = match reader.step().map_err(failed)? {
                Step::End if ended => return Ok(header),
                Step::End => {
                    let what = "snapshot cut off".into();
                    on_damage(Damage { id, offset, what, octets: 0, records: None })?;
                    return Ok(header);
                }
                Step::Record(record) if record.number == expected && !ended => {
                    expected = expected.next();
                    end.records += 1;
                    ended = record.is_end();
                    if !ended {
                        sink(id, &record)?;
                    }
                    continue;
                }
                Step::Record(record) => {
                    let what = format!("record {} where {expected} should be", record.number);
                    let records = Some((expected, RecordNumber(record.number.0.saturating_sub(1))));
                    expected = record.number.next();
                    on_damage(Damage { id, offset, what, octets: 0, records })?;
                    ended = record.is_end();
                    if !ended {
                        sink(id, &record)?;
                    }
                    continue;
                }
                Step::Invalid(why) => why.to_string(),
            };
            reader.skip().map_err(failed)?;
            let octets = reader.offset() - offset;
            // Which records are missing shows at the next valid one, and is one damage with this.
            let next = match reader.step().map_err(failed)? {
                Step::Record(record) => Some(record),
                _ => None,
            };
            let next_number = next.map(|record| record.number);
            let records =
                next_number.map(|next| (expected, RecordNumber(next.0.saturating_sub(1))));
            expected = next_number.map_or(expected, RecordNumber::next);
            // Before what is behind it: where damage is refused, that is not to be seen.
            on_damage(Damage { id, offset, what, octets, records })?;
            if let Some(record) = next {
                ended = record.is_end();
                if !ended {
                    sink(id, &record)?;
                }
            }
        }
    }

    fn read_segments(
        &self,
        mut known: bool,
        common: &mut Option<Common>,
        on_damage: OnDamage<'_>,
        sink: Sink<'_>,
        end: &mut ShardEnd,
    ) -> Result<(), StorageError> {
        let first = end.snapshot;
        let segments: Vec<u64> =
            self.files.segments.iter().copied().filter(|&number| number >= first).collect();
        if segments.first() != Some(&first) {
            on_damage(self.missing(self.id(FileKind::Segment, first)))?;
            known = false;
        }
        for (index, &number) in segments.iter().enumerate() {
            let id = self.id(FileKind::Segment, number);
            let path = epoch::path(self.root, id);
            let failed = |cause| StorageError::io("read", &path)(cause);
            if let Some(before) = index.checked_sub(1).map(|before| segments[before])
                && before + 1 != number
            {
                on_damage(self.missing(self.id(FileKind::Segment, before + 1)))?;
                known = false;
            }
            let file = self.open(id)?;
            let length = file.length().map_err(failed)?;
            end.segment_octets += length;
            let mut boot = None;
            match Self::check_common(common, self.header(id, &*file)?) {
                Ok(header) => boot = Some(header.boot),
                Err(what) => {
                    let octets = length.min(HEADER_LENGTH as u64);
                    on_damage(Damage { id, offset: 0, what, octets, records: None })?;
                }
            }
            let mut reader = RecordReader::new(Arc::clone(&file), id, None).map_err(failed)?;
            loop {
                let offset = reader.offset();
                let what = match reader.step().map_err(failed)? {
                    Step::End => break,
                    Step::Invalid(why) => why.to_string(),
                    Step::Record(record) => {
                        let here = Position { record: record.number, event: record.event };
                        if !known || here == end.position {
                            known = true;
                            end.position = Position {
                                record: here.record.next(),
                                event: here.event.saturating_add(record.events()),
                            };
                            end.records += 1;
                            end.last_segment = Some(number);
                            // One that only closes a segment comes in the same write as what is before it.
                            end.ended = record.is_end() && record.synced.next() == record.number;
                            if !record.is_end() {
                                sink(id, &record)?;
                            }
                            continue;
                        }
                        format!("record {} where {} should be", here.record, end.position.record)
                    }
                };
                let behind = self.behind(&segments[index..], offset)?;
                let expected = end.position.record;
                let unsynced = |behind: &Behind| {
                    let power_cut = boot.is_some_and(|boot| {
                        boot != self.boot && boot != [0; 16] && self.boot != [0; 16]
                    });
                    power_cut && known && behind.synced < expected
                };
                // One whose header is damaged may have records that do not show.
                let hidden = behind.as_ref().is_none_or(unsynced)
                    && self.is_header_damaged(&segments[index + 1..])?;
                match behind {
                    None if hidden => {
                        let octets = length - offset;
                        on_damage(Damage { id, offset, what, octets, records: None })?;
                        known = false;
                        break;
                    }
                    None => {
                        end.tear = Some(Tear { id, offset, octets: length - offset, records: 0 });
                        return Ok(());
                    }
                    Some(behind) if !hidden && unsynced(&behind) => {
                        let (octets, records) = (length - offset, behind.records);
                        end.tear = Some(Tear { id, offset, octets, records });
                        return Ok(());
                    }
                    Some(behind) => {
                        let octets =
                            if behind.in_same_file { behind.offset } else { length } - offset;
                        let last = RecordNumber(behind.first.0.0.saturating_sub(1));
                        let records = known.then_some((expected, last));
                        on_damage(Damage { id, offset, what, octets, records })?;
                        known = false;
                        if !behind.in_same_file {
                            break;
                        }
                        reader = RecordReader::new(Arc::clone(&file), id, Some(behind.offset))
                            .map_err(failed)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn is_header_damaged(&self, segments: &[u64]) -> Result<bool, StorageError> {
        for &number in segments {
            let id = self.id(FileKind::Segment, number);
            if self.header(id, &*self.open(id)?)?.is_err() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What is valid in `segments`, from `offset` in the first of them on.
    fn behind(&self, segments: &[u64], offset: u64) -> Result<Option<Behind>, StorageError> {
        let mut behind: Option<Behind> = None;
        for (index, &number) in segments.iter().enumerate() {
            let id = self.id(FileKind::Segment, number);
            let path = epoch::path(self.root, id);
            let failed = |cause| StorageError::io("read", &path)(cause);
            let start = (index == 0).then_some(offset);
            let mut reader = RecordReader::new(self.open(id)?, id, start).map_err(failed)?;
            while reader.skip().map_err(failed)? {
                let offset = reader.offset();
                if let Step::Record(record) = reader.step().map_err(failed)? {
                    let behind = behind.get_or_insert(Behind {
                        first: (record.number, record.event),
                        in_same_file: index == 0,
                        offset,
                        records: 0,
                        synced: RecordNumber(0),
                    });
                    behind.records += 1;
                    behind.synced = behind.synced.max(record.synced);
                }
            }
        }
        Ok(behind)
    }
}
