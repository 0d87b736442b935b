//! What stands in a file of a history, on this machine or in a copy elsewhere: of that, the octets
//! are brought that are read, or all of them where all are read.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};

use hyper::body::Bytes;
use parquet::errors::Result;
use parquet::file::reader::{ChunkReader, Length};

use crate::disk::copies::CopyStore;

/// A file that can be read at any place.
pub(super) trait ReadsAt: Length {
    /// Octets from a place on, which fill the buffer.
    fn fill_at(&self, buffer: &mut [u8], begin: u64) -> io::Result<()>;
}

impl ReadsAt for File {
    fn fill_at(&self, buffer: &mut [u8], begin: u64) -> io::Result<()> {
        self.read_exact_at(buffer, begin)
    }
}

/// A file of a history.
pub(super) enum PieceContent {
    Here(File),
    There(CopiedContent),
}

/// One in a copy.
#[derive(Clone)]
pub(super) struct CopiedContent {
    store: Arc<dyn CopyStore>,
    path: String,
    octets: u64,
    /// All of it, once that was brought.
    whole: Arc<OnceLock<File>>,
}

impl CopiedContent {
    pub(super) fn open(store: &Arc<dyn CopyStore>, path: String) -> io::Result<Self> {
        let (store, octets) = (Arc::clone(store), store.octets(&path)?);
        Ok(Self { store, path, octets, whole: Arc::default() })
    }

    fn fill_at(&self, buffer: &mut [u8], begin: u64) -> io::Result<()> {
        match self.whole.get() {
            Some(file) => file.fill_at(buffer, begin),
            None => self.store.read(&self.path, buffer, begin),
        }
    }
}

impl PieceContent {
    /// All of it is going to be read.
    pub(super) fn bring(&self) -> io::Result<()> {
        if let Self::There(copied) = self
            && copied.whole.get().is_none()
        {
            // Whoever was first has the same.
            drop(copied.whole.set(copied.store.open(&copied.path)?));
        }
        Ok(())
    }

    /// The file, where it is on this machine.
    pub(super) fn file(&self) -> Option<&File> {
        match self {
            Self::Here(file) => Some(file),
            Self::There(copied) => copied.whole.get(),
        }
    }
}

impl ReadsAt for PieceContent {
    fn fill_at(&self, buffer: &mut [u8], begin: u64) -> io::Result<()> {
        match self {
            Self::Here(file) => file.fill_at(buffer, begin),
            Self::There(copied) => copied.fill_at(buffer, begin),
        }
    }
}

impl Length for PieceContent {
    fn len(&self) -> u64 {
        match self {
            Self::Here(file) => file.len(),
            Self::There(copied) => copied.octets,
        }
    }
}

impl ChunkReader for PieceContent {
    type T = Box<dyn Read + Send>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        Ok(match self {
            Self::Here(file) => Box::new(file.get_read(start)?),
            Self::There(copied) => {
                let reading = CopiedReading { content: copied.clone(), at: start };
                Box::new(BufReader::new(reading))
            }
        })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        if let Self::Here(file) = self {
            return file.get_bytes(start, length);
        }
        if start.saturating_add(length as u64) > self.len() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let mut octets = vec![0; length];
        self.fill_at(&mut octets, start)?;
        Ok(octets.into())
    }
}

/// Reads one from a place on.
struct CopiedReading {
    content: CopiedContent,
    at: u64,
}

impl Read for CopiedReading {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.content.octets.saturating_sub(self.at);
        let count = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.content.fill_at(&mut buffer[..count], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}
