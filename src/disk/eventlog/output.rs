//! The destination of the event log, opened.
//!
//! Not here: what is written, and what becomes of write errors (`logger`).

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::error::LogError;
use super::place::{Inode, LogPosition};
use crate::disk::fs::{Disk, RealDisk, parent};

/// Mode of a new log file: the group may read it, others not, as it says who was behind an address.
pub(super) const FILE_MODE: u32 = 0o640;

/// Where the event log goes.
pub enum Destination {
    /// Standard output. When its reader goes away, the log has failed.
    Stdout,
    /// Appended to a file, which is created if need be, in a directory that exists.
    File(PathBuf),
    /// Anything else. It may write less than it was asked to; it is never flushed.
    Writer(Box<dyn Write + Send>),
}

/// The opened destination.
pub(super) enum Output {
    Stdout(File),
    File(LogFile),
    Writer(Box<dyn Write + Send>),
}

/// Opened to append.
pub(super) struct LogFile {
    pub(super) file: File,
    pub(super) path: PathBuf,
    /// None for a device or a pipe.
    pub(super) id: Option<Inode>,
}

impl Output {
    pub(super) fn open(destination: Destination) -> Result<Self, LogError> {
        match destination {
            Destination::Stdout => stdout().map(Output::Stdout),
            Destination::File(path) => LogFile::open(path).map(Output::File),
            Destination::Writer(writer) => Ok(Output::Writer(writer)),
        }
    }

    /// As [`Output::open`], but half a line at the end of a file stays as it is.
    pub(super) fn open_as_is(destination: Destination) -> Result<Self, LogError> {
        match destination {
            Destination::File(path) => LogFile::open_as_is(path).map(Output::File),
            destination => Self::open(destination),
        }
    }

    pub(super) fn close(self) -> Destination {
        match self {
            Output::Stdout(_) => Destination::Stdout,
            Output::File(log) => Destination::File(log.path),
            Output::Writer(writer) => Destination::Writer(writer),
        }
    }

    pub(super) fn name(&self) -> String {
        match self {
            Output::Stdout(_) => "the event log on standard output".to_owned(),
            Output::File(log) => format!("the event log {}", log.path.display()),
            Output::Writer(_) => "the event log".to_owned(),
        }
    }

    pub(super) fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        match self {
            Output::Stdout(file) => file.write(octets),
            Output::File(log) => log.file.write(octets),
            Output::Writer(writer) => writer.write(octets),
        }
    }

    /// Whether another attempt is useless. A named pipe can get a new reader, a pipe cannot.
    pub(super) fn is_gone(&self, error: &io::Error) -> bool {
        error.kind() == io::ErrorKind::BrokenPipe && !matches!(self, Output::File(..))
    }

    /// The position after what was written last, in a regular file. Not known to be synced.
    pub(super) fn position(&mut self) -> io::Result<Option<LogPosition>> {
        match self {
            Output::File(LogFile { file, id: Some(id), .. }) => {
                // Not the length: others may have appended something that is not ours.
                Ok(Some(LogPosition { file: *id, offset: file.stream_position()?, synced: false }))
            }
            _ => Ok(None),
        }
    }

    /// The position of the next line, in a regular file.
    pub(super) fn end(&mut self) -> io::Result<Option<LogPosition>> {
        if let Output::File(LogFile { file, id: Some(_), .. }) = self {
            file.seek(SeekFrom::End(0))?;
        }
        self.position()
    }

    /// Whether what was written can be read again, after a crash.
    pub(super) fn is_regular(&self) -> bool {
        matches!(self, Output::File(LogFile { id: Some(_), .. }))
    }

    /// Makes the lines durable, where that means something.
    pub(super) fn sync(&self) -> io::Result<()> {
        match self {
            Output::File(LogFile { file, id: Some(_), .. }) => file.sync_data(),
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
        if let Output::File(LogFile { file, id: Some(_), .. }) = self
            && octets > 0
            && let (Ok(end), Ok(metadata)) = (file.stream_position(), file.metadata())
            && end == metadata.len()
            && file.set_len(end - octets).is_ok()
        {
            let _ = file.seek(SeekFrom::End(0));
        }
    }
}

impl LogFile {
    /// Opens or creates it, and ends the part of a line that may stand at its end.
    pub(super) fn open(path: PathBuf) -> Result<LogFile, LogError> {
        let mut log = Self::open_as_is(path)?;
        match log.end_line() {
            Ok(()) => Ok(log),
            Err(cause) => Err(LogError::Open { path: log.path, cause }),
        }
    }

    pub(super) fn open_as_is(path: PathBuf) -> Result<LogFile, LogError> {
        let open = || {
            let mut file =
                OpenOptions::new().append(true).create(true).mode(FILE_MODE).open(&path)?;
            let id = inode_of(&file)?;
            if id.is_some() {
                file.seek(SeekFrom::End(0))?;
            }
            Ok((file, id))
        };
        match open() {
            Ok((file, id)) => Ok(LogFile { file, path, id }),
            Err(cause) => Err(LogError::Open { path, cause }),
        }
    }

    /// After a crash the last line may be a part of one: it must not become the beginning of ours.
    fn end_line(&mut self) -> io::Result<()> {
        if self.id.is_some() && last_octet(&self.path).is_ok_and(|octet| octet != b'\n') {
            self.file.write_all(b"\n")?;
        }
        Ok(())
    }
}

/// Not `io::stdout()`, which has a buffer of its own between us and write(2).
fn stdout() -> Result<File, LogError> {
    io::stdout().as_fd().try_clone_to_owned().map(File::from).map_err(LogError::Stdout)
}

/// None where it is not a regular file.
pub(super) fn inode_of(file: &File) -> io::Result<Option<Inode>> {
    let metadata = file.metadata()?;
    let id = Inode { device: metadata.dev(), inode: metadata.ino() };
    Ok(metadata.is_file().then_some(id))
}

fn last_octet(path: &Path) -> io::Result<u8> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::End(-1))?;
    let mut octet = [0];
    file.read_exact(&mut octet)?;
    Ok(octet[0])
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
        assert_eq!(output.position().unwrap().unwrap().offset, 4);
        // Not when somebody else has appended something.
        assert_eq!(output.write(b"hal").unwrap(), 3);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"x").unwrap();
        output.take_back(3);
        assert_eq!(std::fs::read(&path).unwrap(), b"one\nhalx");
    }
}
