//! What wakes a reactor from another thread: an eventfd.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::kernel::backend::Waker;

/// Wakes a backend from any thread, by an eventfd that the backend reads.
#[derive(Debug, Clone)]
pub struct EventWaker(Arc<File>);

impl EventWaker {
    /// Makes a blocking eventfd: io_uring cannot wait for one that does not block.
    ///
    /// # Errors
    /// Where the process may not open another descriptor.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?.into())))
    }

    /// Whether it was woken since the last call: for whoever polls it, and reads it here alone.
    pub fn was_woken(&self) -> bool {
        let mut polled = [PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(poll(&mut polled, Some(&now)), Ok(1)) && (&*self.0).read(&mut [0; 8]).is_ok()
    }

    /// The eventfd: 8 octets can be read from it once it was woken.
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
