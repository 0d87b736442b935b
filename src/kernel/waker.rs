//! What wakes a reactor from another thread: an eventfd.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use crate::kernel::backend::Waker;

/// Wakes a backend from any thread, by an eventfd that it reads.
#[derive(Debug, Clone)]
pub struct EventWaker(Arc<File>);

impl EventWaker {
    /// A new one. io_uring can only wait for a blocking one, so it is.
    ///
    /// # Errors
    /// Where there is no more descriptor to be had.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor and nothing else knows it.
        Ok(Self(Arc::new(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))))
    }

    /// The file: 8 octets can be read when it was woken.
    pub(crate) fn file(&self) -> &File {
        &self.0
    }
}

impl AsFd for EventWaker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Waker for EventWaker {
    fn wake(&self) {
        // This can only fail when 2^64 - 2 wakes are waiting to be seen.
        let _ = (&*self.0).write(&1u64.to_ne_bytes());
    }
}
