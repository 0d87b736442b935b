//! Memory that the kernel reads and writes.
//!
//! It is mapped apart from the heap and handed out as raw pointers only, so that Rust never holds a
//! reference to what the kernel may be writing, and so that it can stay mapped for good if the
//! kernel does not let go of it.

use std::io;
use std::marker::PhantomData;
use std::mem::size_of;

use io_uring::types::BufRingEntry;
use memmap2::{Advice, MmapOptions, MmapRaw};

/// Zeroed, page-aligned memory for `length` values of `T`.
pub(crate) struct Mapping<T> {
    memory: MmapRaw,
    length: usize,
    /// Neither `Send` nor `Sync`, like the pointers that it gives.
    values: PhantomData<*mut T>,
}

/// Types for which all octets are valid, and which need no drop.
///
/// # Safety
/// Only for such types: a `&mut T` to fresh memory of a [`Mapping`] must be sound.
pub(crate) unsafe trait Plain {}
// SAFETY: an integer.
unsafe impl Plain for u8 {}
// SAFETY: only integers: address, length, number, and the queue's tail.
unsafe impl Plain for BufRingEntry {}
// SAFETY: a structure of the C interface: a raw pointer and a length.
unsafe impl Plain for libc::iovec {}
// SAFETY: a structure of the C interface, of integers and raw pointers.
unsafe impl Plain for libc::mmsghdr {}

impl<T: Plain> Mapping<T> {
    pub(crate) fn new(length: usize) -> io::Result<Self> {
        let size = length * size_of::<T>();
        let memory = MmapOptions::new().len(size).no_reserve_swap().map_anon()?;
        // A huge page would make resident what nobody touches. A kernel that refuses the advice
        // has no huge pages.
        let _ = memory.advise(Advice::NoHugePage);
        Ok(Self { memory: memory.into(), length, values: PhantomData })
    }

    /// Value `index`. The pointer comes from the mapping itself, so it stays good when a reference
    /// to the same value is made later.
    ///
    /// # Panics
    /// If there is no such value.
    pub(crate) fn at(&self, index: usize) -> *mut T {
        assert!(index < self.length);
        self.memory.as_mut_ptr().cast::<T>().wrapping_add(index)
    }
}
