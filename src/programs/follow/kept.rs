//! The file of `--cursor`: how far it came.
//!
//! It has one line of a fixed length, which is written in place, in one write and within a page:
//! who is killed meanwhile leaves the old one or the new one. It is made under another name, synced
//! and renamed.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::disk::eventlog::FollowCursor;
use crate::disk::fs::{RealDisk, write_full, write_new};
use crate::kernel::clock;
use crate::programs::exit::ExitError;

/// How often it is made durable: after a power cut, lines of this time come again.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// A file that is longer is another one.
const LENGTH_MAX: u64 = 1024;

/// A cursor that outlives the program.
pub struct KeptCursor {
    path: PathBuf,
    /// None: it is made with the first cursor.
    file: Option<File>,
    kept: Option<FollowCursor>,
    /// When it was last synced, and whether it was written since.
    synced: Instant,
    is_dirty: bool,
}

impl KeptCursor {
    /// Reads it, if it is there.
    ///
    /// # Errors
    /// Where it cannot be read or written, has something else, or another process has it open.
    pub fn open(path: &Path) -> Result<Self, ExitError> {
        let mut kept = Self {
            path: path.to_owned(),
            file: None,
            kept: None,
            synced: clock::instant(),
            is_dirty: false,
        };
        match OpenOptions::new().read(true).write(true).open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(kept.failed(&error)),
            Ok(file) => {
                kept.lock(&file)?;
                let mut text = String::new();
                let read = (&file).take(LENGTH_MAX).read_to_string(&mut text);
                read.map_err(|error| kept.failed(&error))?;
                // Who made an empty one wants it to be begun.
                if !text.is_empty() {
                    let cursor = text.parse().map_err(|_| {
                        let path = path.display();
                        ExitError::failed(format_args!(
                            "--cursor: {path} has no cursor in it; name another file, or remove it to \
                             begin by --from"
                        ))
                    })?;
                    kept.kept = Some(cursor);
                    kept.file = Some(file);
                }
            }
        }
        Ok(kept)
    }

    /// What it has.
    pub fn cursor(&self) -> Option<FollowCursor> {
        self.kept
    }

    /// Keeps how far it came.
    ///
    /// # Errors
    /// Where it cannot be written: what comes from now on would come again.
    pub fn keep(&mut self, cursor: FollowCursor) -> Result<(), ExitError> {
        if self.kept == Some(cursor) {
            return Ok(());
        }
        let line = format!("{cursor}\n");
        match &self.file {
            Some(file) => {
                let written = file.write_all_at(line.as_bytes(), 0);
                written.map_err(|error| self.failed(&error))?;
                self.is_dirty = true;
            }
            None => {
                write_new(&RealDisk, &self.path, |file| write_full(file, line.as_bytes(), 0))
                    .map_err(|error| self.failed(&error))?;
                let file = OpenOptions::new().read(true).write(true).open(&self.path);
                let file = file.map_err(|error| self.failed(&error))?;
                self.lock(&file)?;
                self.file = Some(file);
            }
        }
        self.kept = Some(cursor);
        match clock::instant().saturating_duration_since(self.synced) > SYNC_INTERVAL {
            true => self.sync(),
            false => Ok(()),
        }
    }

    /// Makes it durable.
    ///
    /// # Errors
    /// Where that fails.
    pub fn sync(&mut self) -> Result<(), ExitError> {
        if let Some(file) = self.file.as_ref().filter(|_| self.is_dirty) {
            file.sync_data().map_err(|error| self.failed(&error))?;
            self.synced = clock::instant();
            self.is_dirty = false;
        }
        Ok(())
    }

    fn lock(&self, file: &File) -> Result<(), ExitError> {
        match file.try_lock() {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => Err(ExitError::failed(format_args!(
                "--cursor: {} is used by another process; give each its own",
                self.path.display()
            ))),
            // A file system without locks.
            Err(TryLockError::Error(_)) => Ok(()),
        }
    }

    fn failed(&self, error: &io::Error) -> ExitError {
        let path = self.path.display();
        ExitError::failed(format_args!(
            "--cursor: {path} cannot be used: {error}; name a file in a directory with room that this \
             user may write"
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn cursor(at: u64) -> FollowCursor {
        format!("1-{:016x}-{at:015x}-{at:012x}-{at:016x}-{at:015x}", 7).parse().unwrap()
    }

    #[test]
    fn a_cursor_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cursor");
        for before in [None, Some(String::new())] {
            let _ = fs::remove_file(&path);
            if let Some(text) = before {
                fs::write(&path, text).unwrap();
            }
            let mut kept = KeptCursor::open(&path).unwrap();
            assert_eq!(kept.cursor(), None);
            for at in 1..4 {
                kept.keep(cursor(at)).unwrap();
                assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", cursor(at)));
            }
            let error = KeptCursor::open(&path).err().unwrap();
            assert!(error.message.contains("another process"), "{}", error.message);
            drop(kept);
            assert_eq!(KeptCursor::open(&path).unwrap().cursor(), Some(cursor(3)));
        }
        fs::write(&path, "something else").unwrap();
        let error = KeptCursor::open(&path).err().unwrap();
        assert!(error.message.contains("has no cursor"), "{}", error.message);
        let mut kept = KeptCursor::open(&folder.path().join("none/cursor")).unwrap();
        assert!(kept.keep(cursor(1)).is_err());
    }
}
