//! Memory of a map that the programs in the kernel read while this process writes it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::slice;
use std::sync::atomic::AtomicU64;

use memmap2::{MmapOptions, MmapRaw};

/// Words that others may read and write at any time.
#[derive(Debug)]
pub(super) struct SharedWords {
    memory: MmapRaw,
    length: usize,
}

impl SharedWords {
    /// The first `length` words of a map that can be mapped: also to write, or only to read.
    pub(super) fn of_map(map: BorrowedFd<'_>, length: usize, writes: bool) -> io::Result<Self> {
        let mut options = MmapOptions::new();
        let options = options.len(length * size_of::<u64>());
        let memory = match writes {
            true => options.map_raw(map.as_raw_fd()),
            false => options.map_raw_read_only(map.as_raw_fd()),
        };
        Ok(Self { memory: memory?, length })
    }

    /// Of no map.
    pub(super) fn of_nobody(length: usize) -> io::Result<Self> {
        let memory = MmapOptions::new().len(length * size_of::<u64>()).map_anon()?;
        Ok(Self { memory: memory.into(), length })
    }

    #[inline]
    pub(super) fn all(&self) -> &[AtomicU64] {
        let start = self.memory.as_ptr().cast::<AtomicU64>();
        // SAFETY: so many words are mapped, at the start of a page, as long as `self` lives. Any
        // octets are a word, and whoever changes them meanwhile is met as other threads are: all
        // accesses of this process are atomic. Writing where only reading was asked for ends the
        // process, and is no other harm.
        unsafe { slice::from_raw_parts(start, self.length) }
    }
}
