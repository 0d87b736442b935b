//! Memory that the kernel reads and writes.
//!
//! It is mapped apart from the heap, so that Rust never holds a reference to what the kernel may be
//! writing, and so that it can be left alone if the kernel does not let go of it.

use std::io;
use std::marker::PhantomData;
use std::mem::size_of;
use std::ptr::{self, NonNull};

use io_uring::types::BufRingEntry;

/// Zeroed memory of its own for `length` values.
pub(crate) struct Mapping<T> {
    base: NonNull<T>,
    length: usize,
    owns: PhantomData<T>,
}

/// Types that any octets are a valid value of, and that need no drop.
///
/// # Safety
/// Only for such types.
pub(crate) unsafe trait Plain {}
// SAFETY: an integer.
unsafe impl Plain for u8 {}
// SAFETY: an integer.
unsafe impl Plain for u64 {}
// SAFETY: two integers for the address and length, two for number and tail.
unsafe impl Plain for BufRingEntry {}
// SAFETY: a structure of the C interface: a raw pointer and a length.
unsafe impl Plain for libc::iovec {}
// SAFETY: a structure of the C interface, of integers and raw pointers.
unsafe impl Plain for libc::mmsghdr {}

impl<T: Plain> Mapping<T> {
    pub(crate) fn new(length: usize) -> io::Result<Self> {
        let size = length * size_of::<T>();
        // SAFETY: a new private mapping at an address that the kernel picks touches nothing else.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // A huge page would bring in the pages that nobody touches. Where it cannot be said, there
        // are none.
        // SAFETY: advice about the mapping made above changes none of its content.
        unsafe { libc::madvise(base, size, libc::MADV_NOHUGEPAGE) };
        let base = NonNull::new(base.cast()).expect("a mapping is not at address 0");
        Ok(Self { base, length, owns: PhantomData })
    }

    pub(crate) fn at(&self, index: usize) -> *mut T {
        assert!(index < self.length);
        // SAFETY: `index` is within the mapping, as was just asserted.
        unsafe { self.base.as_ptr().add(index) }
    }
}

impl<T> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `new` made, of the same size, and it goes away only here.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.length * size_of::<T>()) };
    }
}
