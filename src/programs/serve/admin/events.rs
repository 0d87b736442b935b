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
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::disk::eventlog::{LogTap, TapReader, log_tap};
use crate::kernel::stderr::warn;
use crate::programs::options::LogDestination;
use crate::programs::serve::admin::AdminShared;
use crate::programs::serve::admin::guard::Door;

/// The most listeners.
const LISTENERS_MAX: usize = 8;
/// Messages that wait for a listener; each has what came in [`COLLECTED_FOR`].
const MESSAGES_MAX: usize = 32;
/// Lines that come within this time are one message.
const COLLECTED_FOR: Duration = Duration::from_millis(100);
/// So that the other end is known to be there.
const BEAT_EVERY: Duration = Duration::from_secs(10);
/// How long a listener waits for these.
const TAIL_WAIT: Duration = Duration::from_secs(1);
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
    /// One came.
    changed: Notify,
}

struct Listener {
    messages: mpsc::Sender<Bytes>,
    /// It may be in the middle of a message that nobody reads.
    cut_off: CutOff,
    door: Door,
    /// It was shown nothing yet.
    is_new: bool,
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

    /// One more. None: there are too many at that door.
    pub fn add(&self, door: Door) -> Option<Hearing> {
        let mut all = self.lock();
        all.retain(|listener| !listener.messages.is_closed());
        if all.iter().filter(|listener| listener.door == door).count() >= LISTENERS_MAX {
            return None;
        }
        let (messages, receiver) = mpsc::channel(MESSAGES_MAX);
        let cut_off = CutOff::default();
        all.push(Listener { messages, cut_off: cut_off.clone(), door, is_new: true });
        self.changed.notify_one();
        Some(Hearing { messages: receiver, cut_off })
    }

    /// Nobody hears any more.
    pub fn end_all(&self) {
        self.lock().clear();
    }

    /// Gives those who came before a message, and those who are new another one. Returns how many
    /// were too slow.
    fn give(&self, message: &Bytes, first: Option<&Bytes>) -> u64 {
        let mut slow = 0;
        self.lock().retain_mut(|listener| {
            let message = match (listener.is_new, first) {
                (true, Some(first)) => first,
                // It will be shown this, too, with what was before.
                (true, None) => return true,
                (false, _) => message,
            };
            listener.is_new = false;
            if message.is_empty() {
                return !listener.messages.is_closed();
            }
            match listener.messages.try_send(message.clone()) {
                Ok(()) => true,
                Err(mpsc::error::TrySendError::Closed(_)) => false,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    slow += 1;
                    listener.cut_off.0.notify_one();
                    false
                }
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
    let mut past = LogEnd::default();
    loop {
        // The log may be ready later than we are.
        if let Some(gauges) = shared.gauges.get()
            && let Some(tap) = tap.take()
        {
            gauges.log.show(tap);
        }
        reader.set_wanted(!listeners.is_empty());
        let (mut is_first, mut octets) = (false, Vec::new());
        tokio::select! {
            () = listeners.changed.notified() => is_first = true,
            _ = beat.tick() => octets.extend(b": there\n\n"),
            _ = told.read(&mut words) => sleep(COLLECTED_FOR).await,
        }
        // What is written from here on is in the ring; what was before is in the file.
        reader.set_wanted(!listeners.is_empty());
        let tail = match &shared.config.log {
            LogDestination::File(log) if is_first => past.tail_of(log).await,
            _ => Vec::new(),
        };
        lines.clear();
        let missed = reader.read(&mut lines);
        message(&mut octets, &lines, missed);
        let first = is_first.then(|| {
            let mut first = b": from now on\n\n".to_vec();
            message(&mut first, &tail, 0);
            message(&mut first, not_in(&lines, &tail), missed);
            first.into()
        });
        let slow = listeners.give(&octets.into(), first.as_ref());
        shared.state.counts.cut_off.fetch_add(slow, Ordering::Relaxed);
    }
}

/// Of lines that were just written, those behind the last one of the file's end.
fn not_in<'a>(lines: &'a [u8], tail: &[u8]) -> &'a [u8] {
    let Some(last) = tail.split_inclusive(|&octet| octet == b'\n').next_back() else {
        return lines;
    };
    let mut end = 0;
    let mut behind = 0;
    for line in lines.split_inclusive(|&octet| octet == b'\n') {
        end += line.len();
        if line == last {
            behind = end;
        }
    }
    &lines[behind..]
}

/// Reads the end of the log's file, in a thread for that: the disk may hang.
#[derive(Default)]
struct LogEnd(Option<JoinHandle<io::Result<Vec<u8>>>>);

impl LogEnd {
    /// The last lines; none where the disk does not answer.
    async fn tail_of(&mut self, log: &Path) -> Vec<u8> {
        if self.0.as_ref().is_some_and(|reading| !reading.is_finished()) {
            return Vec::new();
        }
        let log = log.to_owned();
        let reading = self.0.insert(spawn_blocking(move || tail_of(&log)));
        match timeout(TAIL_WAIT, reading).await {
            Ok(Ok(Ok(tail))) => tail,
            _ => Vec::new(),
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
    fn lines_are_shown_once() {
        let (lines, tail) = (&b"three\nfour\nfive\n"[..], &b"one\ntwo\nthree\nfour\n"[..]);
        assert_eq!(not_in(lines, tail), b"five\n");
        assert_eq!(not_in(lines, b"zero\n"), lines, "the file's end is older");
        assert_eq!(not_in(lines, b""), lines);
        assert_eq!(not_in(b"", tail), b"");
        assert_eq!(not_in(lines, b"five\n"), b"", "the file's end is as new");
    }

    #[test]
    fn messages_have_lines_and_what_is_missing() {
        let mut octets = Vec::new();
        message(&mut octets, b"three\nfour\n", 5);
        assert_eq!(octets, b"data: three\ndata: four\n\nevent: missed\ndata: 5\n\n");
        octets.clear();
        message(&mut octets, b"", 0);
        assert_eq!(octets, b"");
    }

    #[test]
    fn the_end_of_a_file_has_whole_lines() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("events.log");
        fs::write(&log, "one\ntwo\nthr").unwrap();
        assert_eq!(tail_of(&log).unwrap(), b"one\ntwo\n");
        fs::write(&log, "0123456\n".repeat(10_000)).unwrap();
        let tail = tail_of(&log).unwrap();
        assert_eq!(tail.len() as u64, TAIL_OCTETS - 8);
        assert!(tail.starts_with(b"0123456\n"));
    }

    #[test]
    fn who_is_new_hears_the_past_first() {
        let listeners = Listeners::default();
        let mut old = listeners.add(Door::Unix).unwrap();
        let (now, first) = (Bytes::from_static(b"now"), Bytes::from_static(b"past, now"));
        assert_eq!(listeners.give(&now, None), 0);
        assert_eq!(text(&mut old.messages), None, "it waits for the past");
        assert_eq!(listeners.give(&now, Some(&first)), 0);
        assert_eq!(text(&mut old.messages).unwrap(), "past, now");
        let mut new = listeners.add(Door::Web).unwrap();
        assert_eq!(listeners.give(&now, Some(&first)), 0);
        assert_eq!(text(&mut old.messages).unwrap(), "now");
        assert_eq!(text(&mut new.messages).unwrap(), "past, now");
    }

    #[test]
    fn slow_listeners_are_cut_off_and_there_are_not_many() {
        let listeners = Listeners::default();
        let add = |door| listeners.add(door);
        let mut all: Vec<_> = (0..LISTENERS_MAX).map(|_| add(Door::Unix).unwrap()).collect();
        assert!(add(Door::Unix).is_none());
        assert!(add(Door::Web).is_some(), "the other door has places of its own");
        all.truncate(2);
        assert!(add(Door::Unix).is_some(), "others have gone");
        let message = Bytes::from_static(b"data: x\n\n");
        let mut slow = 0;
        for _ in 0..=MESSAGES_MAX {
            slow += listeners.give(&message, Some(&message));
            assert!(text(&mut all[0].messages).is_some(), "who reads is told all");
        }
        assert_eq!(slow, 1);
        assert_eq!(listeners.lock().len(), 1);
    }
}
