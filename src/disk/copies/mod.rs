//! [`CopyStore`]: where copies of the histories of several hosts are, a folder for each, in a
//! directory or in a bucket. Whoever reads there sees a file whole, or not at all.
//!
//! Paths are relative: `HOST/history/held/FILE`. Not here: which files are copied
//! (`history::copy`), and who asks (`programs::who`).

#[cfg(feature = "fleet")]
pub mod bucket;
#[cfg(feature = "fleet")]
pub mod folder;

use std::fmt;
use std::fs::File;
use std::io;

/// A file that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopiedFile {
    /// Without the folder that it is in.
    pub name: String,
    pub octets: u64,
    /// When it was put there, in microseconds since 1970.
    pub modified: u64,
}

/// A directory or a bucket. `Display` is what it is called.
pub trait CopyStore: fmt::Debug + fmt::Display + Send + Sync {
    /// Which hosts have a folder there, in any order.
    ///
    /// # Errors
    /// Where that cannot be asked.
    fn hosts(&self) -> io::Result<Vec<String>>;

    /// The files that are directly in a folder, in any order; none where there is no such folder.
    /// They may be those of when it was asked first, up to [`Self::forget`].
    ///
    /// # Errors
    /// Where that cannot be asked.
    fn list(&self, folder: &str) -> io::Result<Vec<CopiedFile>>;

    /// What was listed may be different by now, and is asked again.
    fn forget(&self) {}

    /// How many octets a file has, as it was listed.
    ///
    /// # Errors
    /// As [`Self::list`]; of the kind `NotFound` where it is not there.
    fn octets(&self, path: &str) -> io::Result<u64> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let its = self.list(folder)?.into_iter().find(|file| file.name == name);
        its.map(|file| file.octets).ok_or(io::ErrorKind::NotFound.into())
    }

    /// Octets of a file from a place on, which fill the buffer.
    ///
    /// # Errors
    /// As [`Self::open`], or where the file has not so many.
    fn read(&self, path: &str, buffer: &mut [u8], begin: u64) -> io::Result<()>;

    /// A file, to be read from its beginning.
    ///
    /// # Errors
    /// Where it cannot be read; of the kind `NotFound` where it is not there.
    fn open(&self, path: &str) -> io::Result<File>;

    /// The first octets of a file, at most so many.
    ///
    /// # Errors
    /// As [`Self::open`].
    fn begin(&self, path: &str, octets: u64) -> io::Result<Vec<u8>>;

    /// Puts all that a file of this machine has there, from its beginning on: in the place of what
    /// may be there by that name, and at once.
    ///
    /// # Errors
    /// Where that cannot be done. What was there is there still.
    fn put(&self, path: &str, content: &File) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// Where that cannot be done.
    fn remove(&self, path: &str) -> io::Result<()>;
}
