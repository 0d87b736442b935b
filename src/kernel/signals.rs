//! Signals of the process.
//!
//! The gateway polls for them together with its TUN device: a signal writes to a socket that is
//! polled as well. The server gets its signals from tokio, like all events of its control plane.
//!
//! A signal that comes before there is a handler must neither end the program nor be lost: [`hold`]
//! is the first thing that `main` does, and a program lets the signals through when its handlers
//! stand. Signals that are held or ignored stay so when the program executes itself again.

use std::io::{self, ErrorKind, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::ptr;
use std::sync::Arc;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGTTOU, SIGUSR1, SIGUSR2};
use signal_hook::{flag, low_level, low_level::pipe};

/// What would end a program at once, and what one of our programs has another use for.
const HELD: [i32; 5] = [SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2];

/// The signals that this process had blocked when it started.
#[derive(Clone, Copy)]
pub struct HeldSignals {
    before: libc::sigset_t,
}

/// Holds the signals that a program may have a handler for, and ignores SIGXFSZ: a limit on the
/// size of files is an error of the write, and does not end the program. To be called before there
/// is another thread.
pub fn hold() -> HeldSignals {
    ignore(libc::SIGXFSZ);
    let mut before = MaybeUninit::zeroed();
    // SAFETY: both point to signal sets, of which the second is written.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &held(), before.as_mut_ptr()) };
    // SAFETY: it is plain data, of which zeros are a value.
    HeldSignals { before: unsafe { before.assume_init() } }
}

impl HeldSignals {
    /// For a program without handlers: this thread gets the signals as it would have without
    /// [`hold`].
    pub fn let_go(self) {
        // SAFETY: it points to a signal set.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, ptr::null_mut()) };
    }
}

/// For a program whose handlers stand: this thread gets the signals that were held, and those of a
/// kind that came before now.
pub fn let_through() {
    // SAFETY: it points to a signal set.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &held(), ptr::null_mut()) };
}

/// Those that came since they are held, and wait.
pub fn pending() -> impl Iterator<Item = i32> {
    let mut set = MaybeUninit::zeroed();
    // SAFETY: it points to a signal set, which is written.
    unsafe { libc::sigpending(set.as_mut_ptr()) };
    // SAFETY: it is plain data, of which zeros are a value.
    let set: libc::sigset_t = unsafe { set.assume_init() };
    // SAFETY: it points to a signal set.
    let waits = move |&signal: &i32| unsafe { libc::sigismember(&set, signal) } == 1;
    HELD.into_iter().filter(waits)
}

/// The held signals that the server has no use for do nothing, nor does a terminal stop it for
/// what it says.
pub fn ignore_those_without_use() {
    [SIGUSR1, SIGTTOU].into_iter().for_each(ignore);
}

/// Waits for SIGTERM, SIGINT or SIGHUP, which all threads must hold.
pub fn wait_for_end() -> i32 {
    let ends = set_of(&[SIGTERM, SIGINT, SIGHUP]);
    let mut signal = 0;
    // SAFETY: both point to what they must, and the second is written.
    while unsafe { libc::sigwait(&ends, &mut signal) } != 0 {}
    signal
}

/// Ends this process as a signal that it does not handle would.
pub fn end_by(signal: i32) -> ! {
    // SAFETY: it points to a signal set.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &set_of(&[signal]), ptr::null_mut()) };
    // Returns only for a signal that does not end a process.
    drop(low_level::emulate_default_handler(signal));
    std::process::exit(1)
}

/// Sends a signal to a child of this process that was not waited for.
pub fn pass_on(child: u32, signal: i32) {
    // SAFETY: takes numbers alone.
    unsafe { libc::kill(child as libc::pid_t, signal) };
}

fn held() -> libc::sigset_t {
    set_of(&HELD)
}

fn set_of(signals: &[i32]) -> libc::sigset_t {
    let mut set = MaybeUninit::zeroed();
    // SAFETY: it points to a signal set, which is written.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    for &signal in signals {
        // SAFETY: it points to a signal set that was initialized.
        unsafe { libc::sigaddset(set.as_mut_ptr(), signal) };
    }
    // SAFETY: it was initialized above.
    unsafe { set.assume_init() }
}

fn ignore(signal: i32) {
    // SAFETY: no handler is set, so nothing of ours is called.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

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
    /// From now on, SIGTERM, SIGINT and SIGUSR1 only make something to read here. SIGHUP and
    /// SIGUSR2 are ignored.
    ///
    /// # Errors
    /// Where the process may not open another descriptor.
    pub fn new() -> io::Result<Self> {
        flag::register(SIGHUP, Arc::default())?;
        ignore(SIGUSR2);
        ignore(SIGTTOU);
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

/// A signal that ends a program, as something to be polled.
#[derive(Debug)]
pub struct EndSignal(UnixStream);

impl EndSignal {
    /// From now on, SIGTERM, SIGINT and SIGHUP only make something to read here. SIGUSR1 and
    /// SIGUSR2 are ignored.
    ///
    /// # Errors
    /// Where the process may not open another descriptor.
    pub fn new() -> io::Result<Self> {
        [SIGUSR1, SIGUSR2].into_iter().for_each(ignore);
        Ok(Self(receiver(&[SIGTERM, SIGINT, SIGHUP])?))
    }

    /// Whether one has come since this was asked last.
    pub fn has_come(&self) -> bool {
        has_come(&self.0)
    }
}

impl AsFd for EndSignal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
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
    ignore(libc::SIGPIPE);
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
