//! A disk that counts what is read of it, so that somebody can see how far that is.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::fs::{Boot, Disk, DiskFile, RealDisk};

/// [`RealDisk`], with the octets that were read of its files since.
#[derive(Debug, Clone, Default)]
pub struct CountedDisk {
    read: Arc<AtomicU64>,
}

impl CountedDisk {
    /// Counts in `read`.
    pub fn new(read: Arc<AtomicU64>) -> Self {
        Self { read }
    }

    fn counted(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(CountedFile { file, read: Arc::clone(&self.read) })
    }
}

/// Octets of the files in a directory, and in those in it. What cannot be looked at counts nothing.
pub fn octets_in(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let octets = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => octets_in(&entry.path()),
        Ok(metadata) if metadata.is_file() => metadata.len(),
        _ => 0,
    });
    octets.sum()
}

impl Disk for CountedDisk {
    fn list(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        RealDisk.list(directory)
    }

    fn create_dir(&self, directory: &Path) -> io::Result<()> {
        RealDisk.create_dir(directory)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        RealDisk.create(path)
    }

    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn DiskFile>> {
        RealDisk.open(path, write).map(|file| self.counted(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }

    fn remove_dir(&self, directory: &Path) -> io::Result<()> {
        RealDisk.remove_dir(directory)
    }

    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        RealDisk.sync_dir(directory)
    }

    fn boot(&self) -> Boot {
        RealDisk.boot()
    }
}

#[derive(Debug)]
struct CountedFile {
    file: Arc<dyn DiskFile>,
    read: Arc<AtomicU64>,
}

impl DiskFile for CountedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let read = self.file.read_at(buffer, offset)?;
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }

    fn write_at(&self, octets: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(octets, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.file.truncate(length)
    }

    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("below")).unwrap();
        let path = folder.path().join("below/file");
        std::fs::write(&path, [7; 1000]).unwrap();
        std::fs::write(folder.path().join("other"), [7; 10]).unwrap();
        assert_eq!(octets_in(folder.path()), 1010);
        assert_eq!(octets_in(&folder.path().join("none")), 0);
        let read = Arc::new(AtomicU64::new(0));
        let file = CountedDisk::new(Arc::clone(&read)).open(&path, false).unwrap();
        assert_eq!(file.read_at(&mut [0; 600], 0).unwrap(), 600);
        assert_eq!(file.read_at(&mut [0; 600], 600).unwrap(), 400);
        assert_eq!(read.load(Ordering::Relaxed), 1000);
    }
}
