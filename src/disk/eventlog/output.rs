//! The destination of the event log, opened.
//!
//! Not here: what is written, and what becomes of write errors (`logger`).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::mem;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::LINE_MAX;
use rustix::process::geteuid;

use super::days::{self, Day};
use super::error::LogError;
use super::place::{Inode, LogPosition, TAIL_MAX, Tail};
use crate::disk::fs::{Disk, RealDisk, parent};
use crate::kernel::clock;

/// Mode of a new log file: the group may read it, others not, as it says who was behind an address.
pub(super) const FILE_MODE: u32 = 0o640;

/// Where the event log goes.
pub enum Destination {
    /// Standard output. When its reader goes away, the log has failed.
    Stdout,
    /// Appended to a file, which is created if need be, in a directory that exists.
    File(PathBuf),
    /// The same, where somebody else makes the calls that can fail: for tests.
    FileBy(PathBuf, Arc<dyn LogCalls>),
    /// Anything else. It may write less than it was asked to; it is never flushed.
    Writer(Box<dyn Write + Send>),
}

impl Destination {
    /// The same once more, where it can be had twice.
    pub fn again(&self) -> Option<Destination> {
        match self {
            Destination::Stdout => Some(Destination::Stdout),
            Destination::File(path) => Some(Destination::File(path.clone())),
            Destination::FileBy(path, calls) => {
                Some(Destination::FileBy(path.clone(), Arc::clone(calls)))
            }
            Destination::Writer(_) => None,
        }
    }

    /// The path of a file.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Destination::File(path) | Destination::FileBy(path, _) => Some(path),
            Destination::Stdout | Destination::Writer(_) => None,
        }
    }

    fn file(path: PathBuf, calls: Option<Arc<dyn LogCalls>>) -> Self {
        match calls {
            None => Destination::File(path),
            Some(calls) => Destination::FileBy(path, calls),
        }
    }
}

/// The calls of a log's file that fail where a disk does.
pub trait LogCalls: Send + Sync {
    /// Appends, perhaps only the first part.
    fn write(&self, file: &File, octets: &[u8]) -> io::Result<usize>;
    /// Makes content and length durable.
    fn sync(&self, file: &File) -> io::Result<()>;
}

/// The opened destination.
pub(super) enum Output {
    Stdout(File),
    File(LogFile),
    /// A named pipe that nobody reads: each write tries to open it.
    Unread(PathBuf),
    Writer(Box<dyn Write + Send>),
}

/// Opened to append.
pub(super) struct LogFile {
    file: File,
    /// None: the system's own.
    calls: Option<Arc<dyn LogCalls>>,
    pub(super) path: PathBuf,
    /// None for a device or a pipe.
    pub(super) id: Option<Inode>,
    /// The position behind the last octet that is known.
    at: u64,
    /// What stands before that, as far as it is known: the last line may be half a one, and before
    /// it there are enough octets for a [`Tail`].
    last: Vec<u8>,
    /// Somebody else made the file shorter: how long it was, and is.
    shortened: Option<(u64, u64)>,
    /// That was seen before the next line was written.
    was_seen: bool,
}

/// Octets that [`LogFile`] remembers.
const LAST_MAX: usize = TAIL_MAX + LINE_MAX;

impl Output {
    pub(super) fn open(destination: Destination) -> Result<Self, LogError> {
        Self::opened(destination, LogFile::open_by)
    }

    /// As [`Output::open`], but half a line at the end of a file stays as it is.
    pub(super) fn open_as_is(destination: Destination) -> Result<Self, LogError> {
        Self::opened(destination, LogFile::open_as_is)
    }

    fn opened(
        destination: Destination,
        open: impl FnOnce(PathBuf, Option<Arc<dyn LogCalls>>) -> Result<LogFile, LogError>,
    ) -> Result<Self, LogError> {
        match destination {
            Destination::Stdout => stdout().map(Output::Stdout),
            Destination::File(path) => match open(path, None) {
                Err(LogError::Unread(path)) => Ok(Output::Unread(path)),
                log => log.map(Output::File),
            },
            Destination::FileBy(path, calls) => open(path, Some(calls)).map(Output::File),
            Destination::Writer(writer) => Ok(Output::Writer(writer)),
        }
    }

    /// Whether it is a named pipe that had no reader the last time that somebody looked.
    pub(super) fn is_unread(&self) -> bool {
        matches!(self, Output::Unread(_))
    }

    pub(super) fn close(self) -> Destination {
        match self {
            Output::Stdout(_) => Destination::Stdout,
            Output::File(LogFile { path, calls, .. }) => Destination::file(path, calls),
            Output::Unread(path) => Destination::File(path),
            Output::Writer(writer) => Destination::Writer(writer),
        }
    }

    pub(super) fn name(&self) -> String {
        match self {
            Output::Stdout(_) => "the event log on standard output".to_owned(),
            Output::File(LogFile { path, .. }) | Output::Unread(path) => {
                format!("the event log {}", path.display())
            }
            Output::Writer(_) => "the event log".to_owned(),
        }
    }

    pub(super) fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        match self {
            Output::Stdout(file) => file.write(octets),
            Output::File(log) => log.write(octets),
            Output::Unread(path) => {
                let mut log = LogFile::open_by(path.clone(), None).map_err(LogError::into_cause)?;
                let written = log.write(octets);
                *self = Output::File(log);
                written
            }
            Output::Writer(writer) => writer.write(octets),
        }
    }

    /// Whether it is a named pipe that nobody reads now.
    pub(super) fn may_be_read_again(&self, error: &io::Error) -> bool {
        self.is_unread() || error.kind() == io::ErrorKind::BrokenPipe && !self.is_gone(error)
    }

    /// Whether another attempt is useless. A named pipe can get a new reader, a pipe cannot.
    pub(super) fn is_gone(&self, error: &io::Error) -> bool {
        error.kind() == io::ErrorKind::BrokenPipe
            && !matches!(self, Output::File(..) | Output::Unread(..))
    }

    /// The position in a regular file before the last `part` octets of what was written last. Not
    /// known to be synced.
    pub(super) fn position(&self, part: u64) -> Option<LogPosition> {
        // Not the length: others may have appended something that is not ours.
        match self {
            Output::File(log) => log.position(part),
            _ => None,
        }
    }

    /// The position of the next line, in a regular file.
    pub(super) fn end(&mut self) -> io::Result<Option<LogPosition>> {
        if let Output::File(log) = self
            && log.id.is_some()
        {
            log.seek_end()?;
        }
        Ok(self.position(0))
    }

    /// Whether what was written can be read again, after a crash.
    pub(super) fn is_regular(&self) -> bool {
        matches!(self, Output::File(LogFile { id: Some(_), .. }))
    }

    /// Whether somebody else has made the file shorter since this was asked last: how long it was,
    /// and became.
    pub(super) fn shortened(&mut self) -> Option<(u64, u64)> {
        let Output::File(log) = self else { return None };
        log.look();
        log.shortened.take()
    }

    /// The day of the last line of a regular file. None where it has none.
    pub(super) fn day(&self) -> Option<Day> {
        match self {
            Output::File(log) if log.id.is_some() && log.at > 0 => log.day(),
            _ => None,
        }
    }

    /// Makes the lines durable, where that means something.
    pub(super) fn sync(&self) -> io::Result<()> {
        match self {
            Output::File(log) if log.id.is_some() => match &log.calls {
                None => log.file.sync_data(),
                Some(calls) => calls.sync(&log.file),
            },
            _ => Ok(()),
        }
    }

    /// Makes the name of the file durable.
    pub(super) fn sync_name(&self) -> io::Result<()> {
        match self {
            Output::File(LogFile { id: Some(_), path, .. }) => RealDisk.sync_dir(parent(path)),
            _ => Ok(()),
        }
    }

    /// Removes the last `octets`, a part of a line, from a file to which nothing is written any
    /// more. If that fails, they stay: no harm is done.
    pub(super) fn take_back(&mut self, octets: u64) {
        if let Output::File(log) = self
            && log.id.is_some()
            && octets > 0
            && log.file.metadata().is_ok_and(|metadata| metadata.len() == log.at)
            && log.file.set_len(log.at - octets).is_ok()
        {
            let _ = log.seek_end();
        }
    }
}

impl LogFile {
    /// Opens or creates what has its path now, as it was opened.
    pub(super) fn open_again(&self) -> Result<LogFile, LogError> {
        Self::open_by(self.path.clone(), self.calls.clone())
    }

    /// Opens or creates it, and ends the part of a line that may stand at its end.
    fn open_by(path: PathBuf, calls: Option<Arc<dyn LogCalls>>) -> Result<LogFile, LogError> {
        let mut log = Self::open_as_is(path, calls)?;
        match log.end_line() {
            Ok(()) => Ok(log),
            Err(cause) => Err(LogError::Open { path: log.path, cause }),
        }
    }

    fn open_as_is(path: PathBuf, calls: Option<Arc<dyn LogCalls>>) -> Result<LogFile, LogError> {
        let follow = may_follow(&path)?;
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(FILE_MODE)
            // Nothing is waited for: not a pipe's reader, and not a terminal's.
            .custom_flags(
                libc::O_NONBLOCK | libc::O_NOCTTY | if follow { 0 } else { libc::O_NOFOLLOW },
            )
            .open(&path);
        let failed = |cause: io::Error| LogError::Open { path: path.clone(), cause };
        let file = match file {
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {
                let kind = fs::metadata(&path).map_err(failed)?.file_type();
                return Err(match kind.is_fifo() {
                    true => LogError::Unread(path),
                    false if kind.is_socket() => LogError::NoLog(path, "it is a socket"),
                    false => failed(error),
                });
            }
            file => file.map_err(failed)?,
        };
        let metadata = file.metadata().map_err(failed)?;
        if metadata.file_type().is_block_device() {
            return Err(LogError::NoLog(path, "it is a block device"));
        }
        let id = metadata.is_file().then(|| Inode::of(&metadata));
        let mut log = LogFile {
            file,
            calls,
            path: path.clone(),
            id,
            at: 0,
            last: Vec::new(),
            shortened: None,
            was_seen: false,
        };
        if id.is_some() {
            log.seek_end().map_err(failed)?;
        }
        Ok(log)
    }

    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let written = match &self.calls {
            None => self.file.write(octets)?,
            Some(calls) => calls.write(&self.file, octets)?,
        };
        if self.id.is_some() {
            // Appended: behind what others may have appended meanwhile.
            let expected = self.at + written as u64;
            let before =
                mem::replace(&mut self.at, self.file.stream_position().unwrap_or(expected));
            if self.at != expected {
                self.last.clear();
            }
            if self.at < expected && !mem::take(&mut self.was_seen) {
                let after = self.at.saturating_sub(written as u64);
                self.shortened = self.shortened.or(Some((before, after)));
            }
            self.remember(&octets[..written]);
        }
        Ok(written)
    }

    /// Looks whether it is as long as it was. The position stays: a cursor behind the file's end
    /// tells the next start what happened.
    fn look(&mut self) {
        let Ok(metadata) = self.file.metadata() else { return };
        if self.id.is_some() && metadata.len() < self.at && !mem::replace(&mut self.was_seen, true)
        {
            self.shortened = Some((self.at, metadata.len()));
        }
    }

    fn day(&self) -> Option<Day> {
        let written =
            || Some(Day::of(clock::timestamp(self.file.metadata().ok()?.modified().ok()?)));
        Day::of_last_line(&self.last).or_else(written)
    }

    /// Gives it the name of a day. Returns both names, or nothing where somebody else has done so.
    pub(super) fn put_aside(&self, day: Day, today: Day) -> io::Result<Option<(PathBuf, PathBuf)>> {
        // The target of a link is what is renamed.
        let path = match fs::canonicalize(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            path => path?,
        };
        let there = fs::metadata(&path)?;
        match there.is_file().then(|| Inode::of(&there)) == self.id {
            true => Ok(Some((days::put_aside(&path, day, today)?, path))),
            false => Ok(None),
        }
    }

    /// The octets before `self.at`.
    fn remember(&mut self, octets: &[u8]) {
        self.last.extend_from_slice(&octets[octets.len().saturating_sub(LAST_MAX)..]);
        self.last.drain(..self.last.len().saturating_sub(LAST_MAX));
    }

    /// Goes to the end, whoever wrote what is there.
    fn seek_end(&mut self) -> io::Result<()> {
        self.at = self.file.seek(SeekFrom::End(0))?;
        self.last.clear();
        // A file that may not be read is known by less.
        if let Ok(octets) = self.read_last() {
            self.remember(&octets);
        }
        Ok(())
    }

    fn read_last(&self) -> io::Result<Vec<u8>> {
        let file = open_to_read(&self.path)?;
        if inode_of(&file)? != self.id {
            return Err(io::Error::other("it was renamed just now"));
        }
        let length = self.at.min(LAST_MAX as u64);
        // At most LAST_MAX.
        let mut octets = vec![0; length as usize];
        file.read_exact_at(&mut octets, self.at - length)?;
        Ok(octets)
    }

    fn position(&self, part: u64) -> Option<LogPosition> {
        let known = self.last.len().saturating_sub(usize::try_from(part).unwrap_or(usize::MAX));
        Some(LogPosition {
            file: self.id?,
            offset: self.at.saturating_sub(part),
            synced: false,
            tail: Tail::of(&self.last[..known]),
        })
    }

    /// After a crash the last line may be a part of one: it must not become the beginning of ours.
    fn end_line(&mut self) -> io::Result<()> {
        if self.last.last().is_some_and(|&octet| octet != b'\n') {
            self.write_all(b"\n")?;
        }
        Ok(())
    }

    fn write_all(&mut self, mut octets: &[u8]) -> io::Result<()> {
        while !octets.is_empty() {
            match self.write(octets) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => octets = octets.get(length..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Whether the path's last name is a symbolic link that may be followed: nobody made it or can
/// change it but us and root.
///
/// # Errors
/// Where it is one that another user can change.
pub fn may_follow(path: &Path) -> Result<bool, LogError> {
    let trusted = |metadata: &fs::Metadata| [0, geteuid().as_raw()].contains(&metadata.uid());
    match fs::symlink_metadata(path) {
        Ok(link) if link.is_symlink() => {
            let directory = fs::metadata(parent(path)).is_ok_and(|metadata| trusted(&metadata));
            if directory && trusted(&link) {
                Ok(true)
            } else {
                let why =
                    "it is a symbolic link that another user can change; name what it leads to";
                Err(LogError::NoLog(path.to_owned(), why))
            }
        }
        _ => Ok(false),
    }
}

/// Not `io::stdout()`, which has a buffer of its own between us and write(2).
fn stdout() -> Result<File, LogError> {
    io::stdout().as_fd().try_clone_to_owned().map(File::from).map_err(LogError::Stdout)
}

/// None where it is not a regular file.
pub(super) fn inode_of(file: &File) -> io::Result<Option<Inode>> {
    let metadata = file.metadata()?;
    Ok(metadata.is_file().then(|| Inode::of(&metadata)))
}

/// Only to be read: logs may be append-only, or somebody else's by now.
pub(super) fn open_to_read(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_line_is_taken_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.log");
        let mut output = Output::open(Destination::File(path.clone())).unwrap();
        assert_eq!(output.write(b"one\nhal").unwrap(), 7);
        output.take_back(3);
        assert_eq!(std::fs::read(&path).unwrap(), b"one\n");
        assert_eq!(output.position(0).unwrap().offset, 4);
        // Not when somebody else has appended something.
        assert_eq!(output.write(b"hal").unwrap(), 3);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"x").unwrap();
        output.take_back(3);
        assert_eq!(std::fs::read(&path).unwrap(), b"one\nhalx");
    }
}
