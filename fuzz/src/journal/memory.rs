//! A disk in memory.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use nat64handoff::disk::fs::{Boot, Disk, DiskFile};

/// Files in memory. Everything is durable at once.
#[derive(Clone)]
pub struct Memory {
    files: Arc<Mutex<BTreeMap<PathBuf, Content>>>,
    pub boot: Boot,
}

type Content = Arc<Mutex<Vec<u8>>>;

#[derive(Debug)]
struct File(Content);

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Memory {
    pub fn new(boot: Boot) -> Self {
        Self { files: Arc::default(), boot }
    }

    pub fn put(&self, path: PathBuf, content: Vec<u8>) {
        self.files.lock().unwrap().insert(path, Arc::new(Mutex::new(content)));
    }

    pub fn content(&self, path: &Path) -> Vec<u8> {
        self.files.lock().unwrap()[path].lock().unwrap().clone()
    }

    /// The content of a file, if it is there.
    pub fn find(&self, path: &Path) -> Option<Vec<u8>> {
        let files = self.files.lock().unwrap();
        files.get(path).map(|content| content.lock().unwrap().clone())
    }

    pub fn paths(&self) -> Vec<PathBuf> {
        self.files.lock().unwrap().keys().cloned().collect()
    }
}

impl Disk for Memory {
    fn list(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        let depth = directory.components().count();
        let files = self.files.lock().unwrap();
        let inside = files.keys().filter(|path| path.starts_with(directory));
        let mut names: Vec<_> =
            inside.filter_map(|path| Some(path.iter().nth(depth)?.to_owned())).collect();
        names.dedup();
        Ok(names)
    }

    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.put(path.to_owned(), Vec::new());
        self.open(path, true)
    }

    fn open(&self, path: &Path, _: bool) -> io::Result<Arc<dyn DiskFile>> {
        let files = self.files.lock().unwrap();
        Ok(Arc::new(File(Arc::clone(files.get(path).ok_or_else(not_found)?))))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = self.files.lock().unwrap();
        let inside: Vec<_> = files.keys().filter(|path| path.starts_with(from)).cloned().collect();
        for path in inside {
            let content = files.remove(&path).unwrap();
            let rest = path.strip_prefix(from).unwrap();
            files.insert(if path == from { to.to_owned() } else { to.join(rest) }, content);
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.files.lock().unwrap().remove(path).ok_or_else(not_found).map(drop)
    }

    fn remove_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn boot(&self) -> Boot {
        self.boot
    }
}

impl DiskFile for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let content = self.0.lock().unwrap();
        let rest = content.get(offset as usize..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn write_at(&self, octets: &[u8], offset: u64) -> io::Result<usize> {
        let mut content = self.0.lock().unwrap();
        let end = offset as usize + octets.len();
        let length = content.len().max(end);
        content.resize(length, 0);
        content[offset as usize..end].copy_from_slice(octets);
        Ok(octets.len())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.0.lock().unwrap().resize(length as usize, 0);
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }
}
