//! Signals of the process.
//!
//! The gateway polls for them together with its TUN device: a signal writes to a socket that is
//! polled as well. The server gets its signals from tokio, like all events of its control plane.

use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::{flag, low_level::pipe};

/// The signals that a gateway knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT: the gateway ends.
    Stop,
    /// SIGUSR1: the gateway forgets all entries.
    Flush,
}

/// Signals as something to be polled and read.
#[derive(Debug)]
pub struct Signals {
    stop: UnixStream,
    flush: UnixStream,
}

impl Signals {
    /// From now on, SIGTERM, SIGINT and SIGUSR1 only make something to read here. SIGHUP is
    /// ignored.
    ///
    /// # Errors
    /// Where the process may not open another descriptor.
    pub fn new() -> io::Result<Self> {
        flag::register(SIGHUP, Arc::default())?;
        Ok(Self { stop: receiver(&[SIGTERM, SIGINT])?, flush: receiver(&[SIGUSR1])? })
    }

    /// The next signal that came, if one did. Several of a kind may count as one.
    pub fn next_signal(&self) -> Option<Signal> {
        if has_come(&self.stop) {
            return Some(Signal::Stop);
        }
        has_come(&self.flush).then_some(Signal::Flush)
    }

    /// What becomes readable when a signal comes.
    pub(crate) fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.stop.as_fd(), self.flush.as_fd()]
    }
}

/// The end of a socket pair to read from: each of `signals` writes an octet to the other end.
fn receiver(signals: &[i32]) -> io::Result<UnixStream> {
    let (receiver, sender) = UnixStream::pair()?;
    receiver.set_nonblocking(true)?;
    for &signal in signals {
        pipe::register(signal, sender.try_clone()?)?;
    }
    Ok(receiver)
}

fn has_come(mut receiver: &UnixStream) -> bool {
    loop {
        match receiver.read(&mut [0; 64]) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            read => return read.is_ok_and(|length| length > 0),
        }
    }
}

/// Ignores SIGPIPE, as the Rust runtime does at the start of a program: to write to a closed pipe
/// or socket is an error of the write, and does not end the program.
pub(crate) fn ignore_broken_pipes() {
    // SAFETY: no handler is set, so nothing of ours is called.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

#[cfg(test)]
mod tests {
    use signal_hook::consts::SIGWINCH;
    use signal_hook::low_level::raise;

    use super::*;

    // SIGTERM and SIGINT would no longer end the tests: the end to end tests have them.
    #[test]
    fn signals_are_read_once_and_end_nothing() {
        let receiver = receiver(&[SIGUSR1, SIGWINCH]).unwrap();
        assert!(!has_come(&receiver));
        for signals in [&[SIGUSR1][..], &[SIGWINCH], &[SIGUSR1, SIGWINCH, SIGUSR1]] {
            signals.iter().for_each(|&signal| raise(signal).unwrap());
            assert!(has_come(&receiver));
            assert!(!has_come(&receiver));
        }
    }
}
