//! What the backends share of their dealings with the kernel: memory, what comes with a datagram, replies on
//! their way out, and what wakes a reactor.
//!
//! `unsafe` is allowed here as in the backends themselves. Nothing here makes a system call, but for memory,
//! the waker's eventfd, and a signal to ignore.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use crate::backend::Waker;

mod control;
mod memory;
mod outgoing;
pub(crate) mod slot;

#[cfg(test)]
pub(crate) use control::tests as test_data;
pub(crate) use control::{Flaw, Received, receive_space, received, u32_at};
pub(crate) use memory::Mapping;
#[cfg(test)]
pub(crate) use outgoing::{ARENA_SIZE, SEGMENT_MAX, SEGMENTS_MAX};
pub(crate) use outgoing::{MESSAGES_MAX, Outgoing, Way};

/// That nobody reads a pipe or socket any more is an error of the write, and does not end the program: as at the
/// start of every Rust program.
pub(crate) fn ignore_broken_pipes() {
    // SAFETY: no handler is set, so nothing of ours is called.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

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
