//! The next process of a service, beside the one that serves: that one starts it as its
//! [`Successor`], and serves on until it is prepared. Then it ends its own work and lets the
//! successor, whose [`Predecessor`] it is, take over: descriptors, files, and the service manager's
//! attention. However either process ends, the other one knows, as its channel is closed then.
//!
//! Only where a service manager can be told of the new process. Elsewhere a program that is
//! executed anew has to be the same process ([`service::execute`]).

use std::env;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::Child;

use rustix::io::{FdFlags, fcntl_setfd};

use crate::kernel::service::{self, CHANNEL, PassedFile};

/// From the successor: all is prepared.
const READY: u8 = b'r';
/// From the successor: it cannot prepare anything as long as the other one serves.
const CANNOT: u8 = b'c';
/// To the successor: nothing is left to wait for.
const GO: u8 = b'g';

/// The process that will take over from this one. Dropped, it ends by itself.
#[derive(Debug)]
pub struct Successor {
    process: Child,
    channel: UnixStream,
}

/// What a successor has to say.
#[derive(Debug, PartialEq, Eq)]
pub enum Word {
    /// It waits for [`Successor::take_over`].
    Ready,
    /// There is nothing that it could do beforehand.
    Cannot,
    /// It has ended, for a reason that it has told the operator.
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
        command.env(CHANNEL, other_end.as_raw_fd().to_string());
        // The service manager watches whoever is the service.
        command.env_remove("WATCHDOG_PID");
        service::pass(files, FdFlags::empty())?;
        fcntl_setfd(&other_end, FdFlags::empty())?;
        let process = command.spawn();
        service::pass(files, FdFlags::CLOEXEC)?;
        Ok(Self { process: process?, channel })
    }

    /// Another handle of its channel, on which it says one [`Word`]. Reading does not block.
    ///
    /// # Errors
    /// Where the process may not open another descriptor.
    pub fn channel(&self) -> io::Result<UnixStream> {
        self.channel.try_clone()
    }

    /// What it said, by the octet that was read of its channel, or none where that is closed.
    pub fn word(&mut self, octet: Option<u8>) -> Word {
        match octet {
            Some(READY) => Word::Ready,
            Some(CANNOT) => Word::Cannot,
            _ => Word::Ended(self.end()),
        }
    }

    /// Lets it take over; this process has nothing more to do then than to end.
    ///
    /// # Errors
    /// Where the service manager cannot be told of it, or it is not there any more. Then it has
    /// ended.
    pub fn take_over(mut self) -> io::Result<()> {
        let gone = service::is_now(self.process.id()).and_then(|()| self.channel.write_all(&[GO]));
        if gone.is_err() {
            self.end();
            // It is this one again.
            drop(service::is_now(std::process::id()));
        }
        gone
    }

    /// Ends it, and says how it ended.
    pub fn end(&mut self) -> String {
        // Fails where it has ended.
        drop(self.process.kill());
        self.process.wait().map_or_else(|error| error.to_string(), |status| status.to_string())
    }
}

/// The process that serves, as its successor sees it.
#[derive(Debug)]
pub struct Predecessor(UnixStream);

impl Predecessor {
    /// Who started this process as a successor, if somebody did. To be called once, before there is
    /// another thread.
    pub fn of_process() -> Option<Self> {
        let channel: RawFd = env::var(CHANNEL).ok()?.parse().ok().filter(|&number| number > 2)?;
        // SAFETY: takes numbers alone, and fails where there is no such descriptor.
        if unsafe { libc::fcntl(channel, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
            return None;
        }
        // SAFETY: it is open, and whoever started this process gave it to us alone; this is done
        // once.
        Some(Self(UnixStream::from(unsafe { OwnedFd::from_raw_fd(channel) })))
    }

    /// Says that there is nothing that this process could do beforehand. The other one ends it.
    pub fn say_that_nothing_can_be_done(mut self) {
        self.say(CANNOT);
        self.waits_for_go();
    }

    /// Says that this process is prepared, and waits until the other one has nothing more to do.
    ///
    /// # Errors
    /// Where the other one has ended by itself: what it had is not this process's to take.
    pub fn take_over(mut self) -> io::Result<()> {
        self.say(READY);
        match self.waits_for_go() {
            true => Ok(()),
            false => Err(io::Error::other("the process before this one did not hand over")),
        }
    }

    /// Fails where the other one has ended: then the next read says so.
    fn say(&mut self, word: u8) {
        drop(self.0.write_all(&[word]));
    }

    fn waits_for_go(&mut self) -> bool {
        let mut octet = [0];
        self.0.read_exact(&mut octet).is_ok() && octet == [GO]
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// A successor that is a shell, with its end of the channel as standard input and output, and
    /// the word that it says.
    fn word_of(script: &str) -> (Successor, Word) {
        let (channel, other_end) = UnixStream::pair().unwrap();
        let input = OwnedFd::from(other_end.try_clone().unwrap());
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(input).stdout(OwnedFd::from(other_end));
        let process = command.spawn().unwrap();
        drop(command);
        let mut successor = Successor { process, channel };
        let mut octet = [0];
        let read = successor.channel().unwrap().read(&mut octet).unwrap();
        let word = successor.word((read == 1).then_some(octet[0]));
        (successor, word)
    }

    #[test]
    fn a_successor_says_how_far_it_is() {
        let (mut ready, word) = word_of("printf r; read word");
        assert_eq!(word, Word::Ready);
        assert_eq!(ready.end(), "signal: 9 (SIGKILL)");
        assert_eq!(word_of("printf c; read word").1, Word::Cannot);
        assert_eq!(word_of("exec 0<&- 1<&-; exit 3").1, Word::Ended("exit status: 3".into()));
        assert_eq!(word_of("printf x; read word").1, Word::Ended("signal: 9 (SIGKILL)".into()));
    }

    #[test]
    fn who_was_not_let_go_does_not_take_over() {
        let pair = || UnixStream::pair().unwrap();
        let (mut before, after) = pair();
        before.write_all(&[GO]).unwrap();
        Predecessor(after).take_over().unwrap();
        let mut word = [0];
        before.read_exact(&mut word).unwrap();
        assert_eq!(word, [READY]);

        let (before, after) = pair();
        drop(before);
        assert!(Predecessor(after).take_over().is_err(), "it ended");
        let (mut before, after) = pair();
        before.write_all(b"?").unwrap();
        assert!(Predecessor(after).take_over().is_err(), "it said something else");
    }
}
