//! What is asked of a file system, as traits, so that tests can put one in its place that fails,
//! tears and forgets. [`RealDisk`] is `std::fs`.
//!
//! In a state directory nothing is reached through a symbolic link, and no file is emptied that
//! somebody else may have under another name.
//!
//! Paths are whole. Content is durable after [`DiskFile::sync`], names after [`Disk::sync_dir`].
//! [`write_new`] makes a file that is either there with all of its content or not at all.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::kernel::stderr::warn;

/// The state says who is behind an address, and holds tokens: it is for nobody else.
pub const DIRECTORY_MODE: u32 = 0o700;
/// The same for the files in it.
pub const FILE_MODE: u32 = 0o600;
/// The end of a file's name before the file is whole.
pub const TEMPORARY: &str = ".tmp";

/// Identifies a run of the machine.
pub type Boot = [u8; 16];

pub trait Disk: Send + Sync {
    /// The names in a directory, in any order.
    fn list(&self, directory: &Path) -> io::Result<Vec<OsString>>;
    /// Makes a directory, which must not be there.
    fn create_dir(&self, directory: &Path) -> io::Result<()>;
    /// Makes a file, in place of the one that may have the name.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file that is there, to read it and, if `write`, to change it.
    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn DiskFile>>;
    /// Gives a file or directory another name. A file that has this name is replaced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, directory: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, directory: &Path) -> io::Result<()>;
    /// The run of the machine: what was written in the same one and not synced is still there.
    /// Zeros where that is not known.
    fn boot(&self) -> Boot;
}

/// A file of a [`Disk`].
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Reads from `offset` on; 0 octets mean the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes at `offset`, perhaps only the first part.
    fn write_at(&self, octets: &[u8], offset: u64) -> io::Result<usize>;
    /// Makes content and length durable.
    fn sync(&self) -> io::Result<()>;
    /// Cuts the file off after `length` octets.
    fn truncate(&self, length: u64) -> io::Result<()>;
    /// Octets of the file.
    fn length(&self) -> io::Result<u64>;
}

/// Whether a write was refused as there is no room: no blocks or inodes, no more for this user, or
/// no more in one file (RLIMIT_FSIZE). There may be room later.
pub fn is_no_room(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// Reads until `buffer` is full or the file ends.
pub fn read_full(file: &dyn DiskFile, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Writes all of `octets`.
pub fn write_full(file: &dyn DiskFile, octets: &[u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < octets.len() {
        match file.write_at(&octets[done..], offset + done as u64) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Makes a file, in place of the one that may have the name: under a temporary name it is written
/// by `write` and synced, then it is renamed, and the directory is synced.
///
/// # Errors
/// Where one of these steps is refused. The file that had the name is then still there, unless the
/// last step, the sync of the directory, failed.
pub fn write_new(
    disk: &dyn Disk,
    path: &Path,
    write: impl FnOnce(&dyn DiskFile) -> io::Result<()>,
) -> io::Result<Arc<dyn DiskFile>> {
    let temporary = temporary(path);
    let file = disk.create(&temporary)?;
    write(&*file)
        .and_then(|()| file.sync())
        .and_then(|()| disk.rename(&temporary, path))
        .inspect_err(|_| drop(disk.remove(&temporary)))?;
    disk.sync_dir(parent(path))?;
    Ok(file)
}

/// The name of a file until it is whole.
pub fn temporary(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(TEMPORARY);
    name.into()
}

/// The directory that a file is in.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn list(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name())).collect()
    }

    fn create_dir(&self, directory: &Path) -> io::Result<()> {
        DirBuilder::new().mode(DIRECTORY_MODE).create(directory)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(FILE_MODE);
        match options.open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(path)?;
                Ok(Arc::new(options.open(path)?))
            }
            file => Ok(Arc::new(file?)),
        }
    }

    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn DiskFile>> {
        // A pipe is opened at once, and then refused.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
        let file = OpenOptions::new().read(true).write(write).custom_flags(flags).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        Ok(Arc::new(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, directory: &Path) -> io::Result<()> {
        fs::remove_dir(directory)
    }

    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        let refused = match File::open(directory)?.sync_all() {
            Err(error) if cannot_sync_directories(&error) => error,
            synced => return synced,
        };
        // Some network and FUSE file systems keep names in their own way.
        static SAID: AtomicBool = AtomicBool::new(false);
        if !SAID.swap(true, Ordering::Relaxed) {
            warn(format_args!(
                "the file system of {} does not sync directories ({refused}): a power cut may take \
                 files that were made just before",
                directory.display()
            ));
        }
        Ok(())
    }

    fn boot(&self) -> Boot {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
        u128::from_str_radix(&digits, 16).unwrap_or_default().to_be_bytes()
    }
}

fn cannot_sync_directories(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOTSUP | libc::ENOSYS))
}

impl DiskFile for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }

    fn write_at(&self, octets: &[u8], offset: u64) -> io::Result<usize> {
        FileExt::write_at(self, octets, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_link_is_not_followed_and_its_target_stays() {
        let directory = tempfile::tempdir().unwrap();
        let (target, link) = (directory.path().join("target"), directory.path().join("link"));
        fs::write(&target, "words").unwrap();
        symlink(&target, &link).unwrap();
        let error = RealDisk.open(&link, true).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
        drop(RealDisk.create(&link).unwrap());
        assert_eq!(fs::read(&target).unwrap(), b"words");
        assert!(fs::symlink_metadata(&link).unwrap().is_file());
        // Nor is a file emptied that has two names.
        fs::remove_file(&link).unwrap();
        fs::hard_link(&target, &link).unwrap();
        drop(write_new(&RealDisk, &link, |file| write_full(file, b"new", 0)).unwrap());
        fs::hard_link(&target, temporary(&link)).unwrap();
        drop(write_new(&RealDisk, &link, |file| write_full(file, b"newer", 0)).unwrap());
        assert_eq!(fs::read(&target).unwrap(), b"words");
        assert_eq!(fs::read(&link).unwrap(), b"newer");
    }

    #[test]
    fn what_is_no_file_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let error = RealDisk.open(directory.path(), false).unwrap_err();
        assert_eq!(error.to_string(), "it is not a regular file");
    }

    /// The kernel's own file systems do not sync directories.
    #[test]
    fn a_file_system_may_refuse_to_sync_directories() {
        let proc = Path::new("/proc/self");
        let refused = File::open(proc).unwrap().sync_all().unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EINVAL));
        RealDisk.sync_dir(proc).unwrap();
        RealDisk.sync_dir(Path::new("/nowhere")).unwrap_err();
    }
}
