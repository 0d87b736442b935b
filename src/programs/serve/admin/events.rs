//! The event log's lines as they are written, for those who listen: server-sent events.
//!
//! One task takes the lines from the log's [tap](crate::disk::eventlog::LogTap) and gives each
//! listener a copy. It never waits for one: whoever reads too slowly is cut off. While nobody
//! listens, the log copies nothing.
//!
//! | event | what it says |
//! | --- | --- |
//! | (none) | lines of the log, one in each line of the data; first the last ones of its file |
//! | `missed` | how many lines came too fast to be shown |

use std::fs::File;
use std::future::pending;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::body::Bytes;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::disk::eventlog::{LogTap, TapReader, log_tap};
use crate::kernel::stderr::warn;
use crate::programs::serve::admin::AdminShared;

/// The most listeners.
const LISTENERS_MAX: usize = 8;
/// Messages that wait for a listener; each has what came in [`COLLECTED_FOR`].
const MESSAGES_MAX: usize = 32;
/// Lines that come within this time are one message.
const COLLECTED_FOR: Duration = Duration::from_millis(100);
/// So that the other end is known to be there.
const BEAT_EVERY: Duration = Duration::from_secs(10);
/// Octets of the log's file that a listener is shown at first.
const TAIL_OCTETS: u64 = 16 * 1024;

/// The log's end, and ours, with what is readable when there are lines.
fn source() -> io::Result<(LogTap, TapReader, UnixStream)> {
    let (tell, told) = net::UnixStream::pair()?;
    tell.set_nonblocking(true)?;
    told.set_nonblocking(true)?;
    // Where it is full, enough is said.
    let (tap, reader) = log_tap(move || drop((&tell).write(&[0])));
    Ok((tap, reader, UnixStream::from_std(told)?))
}

/// Told when a listener is cut off.
#[derive(Debug, Clone, Default)]
pub struct CutOff(pub Arc<Notify>);

/// All who listen.
#[derive(Default)]
pub struct Listeners {
    all: Mutex<Vec<Listener>>,
    /// One came, or went.
    changed: Notify,
}

struct Listener {
    messages: mpsc::Sender<Bytes>,
    /// It may be in the middle of a message that nobody reads.
    cut_off: CutOff,
}

/// What a listener gets.
pub struct Hearing {
    pub messages: mpsc::Receiver<Bytes>,
    pub cut_off: CutOff,
}

impl Listeners {
    fn lock(&self) -> MutexGuard<'_, Vec<Listener>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more, who is shown the last lines of `log` first. None: there are too many.
    pub fn add(&self, log: Option<&Path>) -> Option<Hearing> {
        let mut all = self.lock();
        all.retain(|listener| !listener.messages.is_closed());
        if all.len() >= LISTENERS_MAX {
            return None;
        }
        let (sender, messages) = mpsc::channel(MESSAGES_MAX);
        let cut_off = CutOff::default();
        let mut first = b": from now on\n\n".to_vec();
        if let Some(Ok(tail)) = log.map(tail_of) {
            message(&mut first, &tail, 0);
        }
        // The queue is empty.
        let _ = sender.try_send(first.into());
        all.push(Listener { messages: sender, cut_off: cut_off.clone() });
        self.changed.notify_one();
        Some(Hearing { messages, cut_off })
    }

    /// Returns how many were too slow.
    fn give(&self, message: &Bytes) -> u64 {
        let mut slow = 0;
        self.lock().retain(|listener| match listener.messages.try_send(message.clone()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(_)) => {
                slow += 1;
                listener.cut_off.0.notify_one();
                false
            }
        });
        slow
    }

    fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }
}

/// Gives the lines to those who listen. Does not return.
pub async fn give_all(shared: &AdminShared) {
    let (tap, mut reader, mut told) = match source() {
        Ok(source) => source,
        Err(error) => {
            warn(format_args!("nobody is shown events as they happen: {error}"));
            return pending().await;
        }
    };
    let mut tap = Some(tap);
    let mut beat = interval(BEAT_EVERY);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut lines, mut words) = (Vec::new(), [0; 64]);
    let listeners = &shared.state.listeners;
    loop {
        // The log may be ready later than we are.
        if let Some(gauges) = shared.gauges.get()
            && let Some(tap) = tap.take()
        {
            gauges.log.show(tap);
        }
        reader.set_wanted(!listeners.is_empty());
        let mut octets = Vec::new();
        tokio::select! {
            () = listeners.changed.notified() => continue,
            _ = beat.tick() => octets.extend(b": there\n\n"),
            _ = told.read(&mut words) => {
                sleep(COLLECTED_FOR).await;
                lines.clear();
                let missed = reader.read(&mut lines);
                message(&mut octets, &lines, missed);
            }
        }
        if !octets.is_empty() {
            let slow = listeners.give(&octets.into());
            shared.state.counts.cut_off.fetch_add(slow, Ordering::Relaxed);
        }
    }
}

/// Appends whole lines, and how many are missing.
fn message(octets: &mut Vec<u8>, lines: &[u8], missed: u64) {
    let mut lines = lines.split(|&octet| octet == b'\n').filter(|line| !line.is_empty()).peekable();
    if lines.peek().is_some() {
        for line in lines {
            octets.extend(b"data: ");
            octets.extend(line.iter().filter(|&&octet| octet != b'\r'));
            octets.push(b'\n');
        }
        octets.push(b'\n');
    }
    if missed > 0 {
        octets.extend(format!("event: missed\ndata: {missed}\n\n").bytes());
    }
}

/// The last whole lines of a file.
fn tail_of(log: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(log)?;
    if !file.metadata()?.is_file() {
        return Ok(Vec::new());
    }
    let from = file.metadata()?.len().saturating_sub(TAIL_OCTETS);
    let mut tail = vec![0; TAIL_OCTETS as usize];
    let read = file.read_at(&mut tail, from)?;
    tail.truncate(read);
    let end = tail.iter().rposition(|&octet| octet == b'\n').map_or(0, |end| end + 1);
    tail.truncate(end);
    let cut =
        if from == 0 { Some(0) } else { tail.iter().position(|&o| o == b'\n').map(|at| at + 1) };
    tail.drain(..cut.unwrap_or(end));
    Ok(tail)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn text(messages: &mut mpsc::Receiver<Bytes>) -> Option<String> {
        messages.try_recv().ok().map(|octets| String::from_utf8(octets.to_vec()).unwrap())
    }

    #[test]
    fn listeners_are_shown_the_last_lines_and_then_all() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("events.log");
        fs::write(&log, "one\ntwo\nthr").unwrap();
        let listeners = Listeners::default();
        let Hearing { mut messages, .. } = listeners.add(Some(&log)).unwrap();
        assert_eq!(text(&mut messages).unwrap(), ": from now on\n\ndata: one\ndata: two\n\n");
        let mut octets = Vec::new();
        message(&mut octets, b"three\nfour\n", 5);
        assert_eq!(listeners.give(&octets.into()), 0);
        let expected = "data: three\ndata: four\n\nevent: missed\ndata: 5\n\n";
        assert_eq!(text(&mut messages).unwrap(), expected);
        fs::write(&log, "0123456\n".repeat(10_000)).unwrap();
        let tail = tail_of(&log).unwrap();
        assert_eq!(tail.len() as u64, TAIL_OCTETS - 8);
        assert!(tail.starts_with(b"0123456\n"));
    }

    #[test]
    fn slow_listeners_are_cut_off_and_there_are_not_many() {
        let listeners = Listeners::default();
        let mut all: Vec<_> = (0..LISTENERS_MAX).map(|_| listeners.add(None).unwrap()).collect();
        assert!(listeners.add(None).is_none());
        all.truncate(2);
        assert!(listeners.add(None).is_some(), "others have gone");
        let mut slow = 0;
        for _ in 0..MESSAGES_MAX {
            assert!(text(&mut all[0].messages).is_some());
            slow += listeners.give(&Bytes::from_static(b"data: x\n\n"));
        }
        assert_eq!(slow, 1);
        assert!(text(&mut all[0].messages).is_some(), "who reads is still told");
        assert_eq!(listeners.lock().len(), 1);
    }
}
