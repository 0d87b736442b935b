//! The next process of a service, beside the one that serves: that one starts it as its
//! [`Successor`], and serves on until it is prepared. Then it ends its own work and lets the
//! successor, whose [`Predecessor`] it is, take over: descriptors, files, and the service manager's
//! attention. Until then the successor ends with it, however it ends.
//!
//! Only where a service manager can be told of the new process. Elsewhere a program that is
//! executed anew has to be the same process ([`service::execute`]).
//!
//! The service manager waits for the end of its own children alone. So the process that is started
//! starts the successor and ends: the successor is the service manager's child then.

use std::env;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::{self, Child};
use std::sync::mpsc;
use std::thread;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::kernel::service::{self, CHANNEL, PassedFile};
use crate::kernel::signals;
use crate::kernel::stderr::{self, say};

/// Set for the process that starts the successor and ends.
const DETACH: &str = "DETACH_BY_NAT64HANDOFF";

/// From the successor: it is there. Its number follows.
const HELLO: u8 = b'h';
/// From the successor: all is prepared.
const READY: u8 = b'r';
/// From the successor: it cannot prepare anything as long as the other one serves.
const CANNOT: u8 = b'c';
/// To the successor: nothing is left to wait for.
const GO: u8 = b'g';

/// What a successor says at a time: one of the above, and a number.
pub type ChannelMessage = [u8; 5];

fn message(kind: u8, number: u32) -> ChannelMessage {
    let [a, b, c, d] = number.to_le_bytes();
    [kind, a, b, c, d]
}

/// The process that will take over from this one. It ends when this is dropped.
#[derive(Debug)]
pub struct Successor {
    /// It starts the other one.
    starter: Child,
    process: Option<(Pid, OwnedFd)>,
    channel: UnixStream,
}

/// What a successor has to say.
#[derive(Debug, PartialEq, Eq)]
pub enum Word {
    /// It waits for [`Successor::take_over`].
    Ready,
    /// There is nothing that it could do beforehand.
    Cannot,
    /// It has ended, and told the operator why if it could.
    Ended(String),
}

impl Successor {
    /// Starts the program of this process beside it, perhaps another version of it, with the same
    /// arguments. It has these descriptors, too.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn start(files: &[PassedFile]) -> io::Result<Self> {
        let (channel, other_end) = UnixStream::pair()?;
        channel.set_nonblocking(true)?;
        let mut command = service::anew(files);
        command.env(CHANNEL, other_end.as_raw_fd().to_string()).env(DETACH, "1");
        // The service manager watches whoever is the service.
        command.env_remove("WATCHDOG_PID");
        fcntl_setfd(&other_end, FdFlags::empty())?;
        let starter = service::pass(files, FdFlags::empty()).and_then(|()| command.spawn());
        let passed = service::pass(files, FdFlags::CLOEXEC);
        let started = Self { starter: starter?, process: None, channel };
        passed.map(|()| started)
    }

    /// Another handle of its channel, on which it says [`ChannelMessage`]s. Reading does not block.
    ///
    /// # Errors
    /// Where the process may not open another descriptor.
    pub fn channel(&self) -> io::Result<UnixStream> {
        self.channel.try_clone()
    }

    /// What it said, if there is something to be done now.
    pub fn hear(&mut self, message: ChannelMessage) -> Option<Word> {
        let [kind, number @ ..] = message;
        match (kind, Pid::from_raw(i32::from_le_bytes(number))) {
            (HELLO, Some(process)) => {
                // It ends as soon as it has started the other one.
                let _ = self.starter.wait();
                match pidfd_open(process, PidfdFlags::empty()) {
                    Ok(file) => self.process = Some((process, file)),
                    Err(error) => return Some(Word::Ended(error.to_string())),
                }
                None
            }
            (READY, _) if self.process.is_some() => Some(Word::Ready),
            (CANNOT, _) => Some(Word::Cannot),
            _ => Some(Word::Ended("it says what this server does not understand".into())),
        }
    }

    /// It has closed its channel.
    pub fn gone(&mut self) -> Word {
        match (&self.process, self.starter.wait()) {
            (None, Ok(status)) if !status.success() => Word::Ended(status.to_string()),
            _ => Word::Ended("see what it said".into()),
        }
    }

    /// Lets it take over, with the signals that this process has not heeded any more; this process
    /// has nothing more to do then than to end.
    ///
    /// # Errors
    /// Where the service manager cannot be told of it, or it is not there any more.
    pub fn take_over(mut self) -> io::Result<()> {
        let Some((process, file)) = self.process.take() else {
            return Err(io::Error::other("it has no number"));
        };
        // Writing into a channel that is closed is an error, too.
        let gone = service::is_now(process.as_raw_nonzero().get().unsigned_abs())
            .and_then(|()| self.channel.write_all(&[GO]));
        match gone {
            Ok(()) => {
                for signal in signals::pending().filter_map(Signal::from_named_raw) {
                    // Fails where it has ended already.
                    let _ = pidfd_send_signal(&file, signal);
                }
            }
            Err(_) => self.process = Some((process, file)),
        }
        gone
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        // Fails where it has ended. One that has said nothing yet ends when it does.
        match self.process.take() {
            Some((_, file)) => drop(pidfd_send_signal(&file, Signal::KILL)),
            None => drop(self.starter.kill()),
        }
        drop(self.starter.wait());
    }
}

/// In the process that was only started to start the successor: does that, and ends.
pub fn start_and_end() {
    if env::var_os(DETACH).is_none() {
        return;
    }
    let started = service::program().args(env::args_os().skip(1)).env_remove(DETACH).spawn();
    process::exit(i32::from(started.is_err()))
}

/// The process that serves, as its successor sees it. Until that one hands over, this process ends
/// with it.
#[derive(Debug)]
pub struct Predecessor {
    channel: UnixStream,
    go: mpsc::Receiver<()>,
}

impl Predecessor {
    /// Who started this process as a successor, if somebody did. To be called once, before there is
    /// another thread.
    pub fn of_process() -> Option<Self> {
        let channel: RawFd = env::var(CHANNEL).ok()?.parse().ok().filter(|&number| number > 2)?;
        // SAFETY: whoever started this process gave it to us alone; this is done once.
        let channel = unsafe { service::started_with(channel) }?;
        Self::new(channel.into(), || {
            say(format_args!(
                "not taking over, as the server beside which this process was started did not hand over"
            ));
            stderr::flush();
            process::exit(1)
        })
        .ok()
    }

    /// `on_end` is called, on another thread, where the other process ends before it hands over.
    fn new(channel: UnixStream, on_end: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let (tell, go) = mpsc::channel();
        let mut heard = channel.try_clone()?;
        thread::Builder::new().name("predecessor".into()).spawn(move || {
            let mut octet = [0];
            match heard.read_exact(&mut octet) {
                Ok(()) if octet == [GO] => drop(tell.send(())),
                _ => on_end(),
            }
        })?;
        let mut predecessor = Self { channel, go };
        predecessor.say(message(HELLO, process::id()));
        Ok(predecessor)
    }

    /// Says that there is nothing that this process could do beforehand. The other one ends it.
    pub fn say_that_nothing_can_be_done(mut self) {
        self.say(message(CANNOT, 0));
        let _ = self.go.recv();
    }

    /// Says that this process is prepared, and waits until the other one has nothing more to do.
    ///
    /// # Errors
    /// Where the other one has ended by itself: what it had is not this process's to take.
    pub fn take_over(mut self) -> io::Result<()> {
        self.say(message(READY, 0));
        self.go.recv().map_err(|_| io::Error::other("the process before this one has ended"))?;
        service::is_this_process();
        Ok(())
    }

    /// Fails where the other one has ended, which the thread notices.
    fn say(&mut self, message: ChannelMessage) {
        drop(self.channel.write_all(&message));
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn started(script: &str) -> Successor {
        let (channel, _) = UnixStream::pair().unwrap();
        let starter = Command::new("sh").args(["-c", script]).spawn().unwrap();
        Successor { starter, process: None, channel }
    }

    #[test]
    fn a_successor_says_how_far_it_is() {
        let mut other = Command::new("sleep").arg("1000").spawn().unwrap();
        let mut successor = started("exit 0");
        assert_eq!(successor.hear(message(HELLO, other.id())), None);
        assert_eq!(successor.hear(message(READY, 0)), Some(Word::Ready));
        assert_eq!(successor.hear(message(CANNOT, 0)), Some(Word::Cannot));
        assert!(matches!(successor.hear(message(b'?', 0)), Some(Word::Ended(_))));
        drop(successor);
        assert_eq!(other.wait().unwrap().to_string(), "signal: 9 (SIGKILL)");

        let mut unknown = started("exit 3");
        assert!(matches!(unknown.hear(message(READY, 0)), Some(Word::Ended(_))), "nobody");
        assert_eq!(unknown.gone(), Word::Ended("exit status: 3".into()));
        assert!(unknown.take_over().is_err());
    }

    #[test]
    fn who_was_not_let_go_does_not_take_over() {
        static ENDED: AtomicBool = AtomicBool::new(false);
        let predecessor =
            |channel| Predecessor::new(channel, || ENDED.store(true, Ordering::Release)).unwrap();
        let (mut before, after) = UnixStream::pair().unwrap();
        before.write_all(&[GO]).unwrap();
        predecessor(after).take_over().unwrap();
        let mut words = [0; 10];
        before.read_exact(&mut words).unwrap();
        assert_eq!(words[..5], message(HELLO, process::id()));
        assert_eq!(words[5..], message(READY, 0));
        assert!(!ENDED.load(Ordering::Acquire));

        let (before, after) = UnixStream::pair().unwrap();
        drop(before);
        assert!(predecessor(after).take_over().is_err(), "it ended");
        assert!(ENDED.swap(false, Ordering::AcqRel));
        let (mut before, after) = UnixStream::pair().unwrap();
        before.write_all(b"?").unwrap();
        assert!(predecessor(after).take_over().is_err(), "it said something else");
        assert!(ENDED.load(Ordering::Acquire));
    }
}
