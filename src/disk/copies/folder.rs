//! Copies in a directory, which may be on a file system that hosts share.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::{CopiedFile, CopyStore};
use crate::disk::fs::{Disk, RealDisk, parent, write_full, write_new};

/// Octets that are copied at once.
const PIECE_OCTETS: usize = 1 << 18;

/// A directory with a folder for each host.
#[derive(Debug)]
pub struct CopyFolder(PathBuf);

impl CopyFolder {
    /// The directory is made with the first file that is put there.
    pub fn new(folder: PathBuf) -> Self {
        Self(folder)
    }
}

impl fmt::Display for CopyFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

impl CopyStore for CopyFolder {
    fn hosts(&self) -> io::Result<Vec<String>> {
        let mut hosts = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            if entry.path().is_dir() {
                hosts.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        Ok(hosts)
    }

    fn list(&self, folder: &str) -> io::Result<Vec<CopiedFile>> {
        let entries = match fs::read_dir(self.0.join(folder)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry?;
            let metadata = entry.metadata()?;
            let modified = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
            if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
                let modified = u64::try_from(modified.as_micros()).unwrap_or(u64::MAX);
                files.push(CopiedFile { name, octets: metadata.len(), modified });
            }
        }
        Ok(files)
    }

    fn read(&self, path: &str, buffer: &mut [u8], begin: u64) -> io::Result<()> {
        self.open(path)?.read_exact_at(buffer, begin)
    }

    fn open(&self, path: &str) -> io::Result<File> {
        File::open(self.0.join(path))
    }

    fn begin(&self, path: &str, octets: u64) -> io::Result<Vec<u8>> {
        let mut begin = Vec::new();
        self.open(path)?.take(octets).read_to_end(&mut begin)?;
        Ok(begin)
    }

    fn put(&self, path: &str, content: &File) -> io::Result<()> {
        let path = self.0.join(path);
        make_folder(parent(&path))?;
        let copied = write_new(&RealDisk, &path, |file| {
            let (mut octets, mut offset) = (vec![0; PIECE_OCTETS], 0);
            loop {
                let read = match content.read_at(&mut octets, offset) {
                    Ok(0) => return Ok(()),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    read => read?,
                };
                write_full(file, &octets[..read], offset)?;
                offset += read as u64;
            }
        });
        copied.map(drop)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.0.join(path))
    }
}

/// Makes a folder and those that it is in, as far as they are not there.
fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let above = parent(folder);
    make_folder(above)?;
    match RealDisk.create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.and_then(|()| RealDisk.sync_dir(above)),
    }
}
