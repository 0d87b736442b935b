//! The event log: from the reactors to the file, without losing a line (PROTOCOL.md section 8).
//!
//! Every reactor has a [`Sender`], the one end of a bounded queue; at the other end of all of them one
//! thread formats the events and writes them through fern. All lines of a table come from one reactor
//! and therefore stay in order. When the log cannot be written, the queues fill and the reactors wait:
//! this is an audit log, and what it does not say must not have happened. A batch that comes alone is written at
//! once; where many come, the thread looks for them every two milliseconds instead of being woken for each.
//!
//! What each end may assume: an event that was sent is written once, as one whole line, unless
//! [`EventLog::join`] says that it was not. After a crash, [`complete()`] writes from the journal what
//! the log lacks, so that this holds across processes (PROTOCOL.md section 9); the [`Cursor`] says
//! where to look.
//!
//! | file | what it is |
//! | --- | --- |
//! | `output` | the opened destination |
//! | `place` | a place in a log file |
//! | `cursor` | which events are in the log, as a file |
//! | `recorder` | counts lines, syncs the log, keeps the cursor |
//! | `compare` | which of the journal's events some octets of the log lack: a pure function |
//! | `complete` | finds those octets after a crash, and writes what is missing |
//! | `logger` | the thread |
//!
//! Not here: what a line says (`change`), when to reopen (`control`) or to stop (`serve`), rotation itself
//! (logrotate), and the journal (`storage`).

mod compare;
mod complete;
mod cursor;
mod logger;
mod output;
mod place;
mod recorder;

use std::fmt;
use std::io::{self, Write};
use std::mem;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use rtrb::{Producer, PushError, RingBuffer};

use crate::disk::fs::{Disk, parent};
use crate::handoff::change::{Event, LogFormat};
use crate::handoff::line;
use crate::handoff::stats::{Counter, Stats};
use crate::kernel::stderr::say;

pub use complete::{Completed, complete, known_events};
use cursor::CursorFile;
pub use cursor::{Cursor, SHARDS_MAX, Unknown};
use logger::Logger;
use output::Output;
pub use place::{FileId, Place};
pub use recorder::Logged;
use recorder::Recorder;

/// Events that a queue holds before its reactor has to wait.
pub const QUEUE_EVENTS: usize = 8192;
/// Octets of formatted lines in memory; while they are there, nothing more is taken from the queues.
pub const BATCH_OCTETS: usize = 256 * 1024;
/// More than the longest line has, in octets, with its line feed.
const LINE_MAX: usize = 256;
/// Events taken from one queue before it is the next one's turn.
const TURN_EVENTS: usize = 256;
/// How long after a write error the next attempt is made.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// The same, for a destination that is only slow (a pipe or terminal in non-blocking mode).
const BUSY_INTERVAL: Duration = Duration::from_millis(5);
/// How long the thread looks away between two batches while reactors have woken it more often than this. It is
/// the latest that a line is written when nothing hinders it.
const NAP: Duration = Duration::from_millis(2);
/// How often a reactor looks for room in its queue before it begins to sleep in between.
const WAIT_SPINS: u32 = 100;
/// The first such sleep; each is twice as long as the one before...
const WAIT_MIN: Duration = Duration::from_micros(20);
/// ...up to this.
const WAIT_MAX: Duration = Duration::from_millis(1);
/// How long the thread may take to notice that it was given up.
const GIVE_UP_GRACE: Duration = Duration::from_millis(200);

const _: () = assert!(line::LINE_MAX < LINE_MAX);
const _: () = assert!(TURN_EVENTS <= QUEUE_EVENTS);
const _: () = assert!(TURN_EVENTS * LINE_MAX < BATCH_OCTETS);

/// Where the event log goes.
pub enum Destination {
    /// Standard output. When its reader goes away, the log has failed.
    Stdout,
    /// Appended to a file, which is created if need be, in a directory that exists.
    File(PathBuf),
    /// Anything else. It may write less than it was asked to; it is never flushed.
    Writer(Box<dyn Write + Send>),
}

/// When lines are made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogSync {
    /// Left to the kernel: lines survive the process, and not a power cut.
    None,
    /// So long after the first of them, at the latest.
    Interval(Duration),
}

/// What the log is, and where it stands.
pub struct LogConfig {
    /// Where it goes.
    pub destination: Destination,
    /// How much a line tells.
    pub format: LogFormat,
    /// When lines are made durable.
    pub sync: LogSync,
    /// The file of the cursor, made anew. None: nothing is known of the log after a crash.
    pub cursor: Option<PathBuf>,
    /// For each shard, the number of its next event: all before it are in the log.
    pub first_events: Vec<u64>,
}

/// Why there is no event log, or not all of it.
#[derive(Debug)]
pub enum Error {
    /// The file cannot be opened.
    Open {
        /// Which one.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// Standard output cannot be used.
    Stdout(io::Error),
    /// The cursor cannot be made.
    Cursor {
        /// Its file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// What a crash left unwritten cannot be written now.
    Incomplete {
        /// The log, as [`EventLog`] calls it in its messages.
        log: String,
        /// Why.
        cause: io::Error,
    },
    /// The system gives us no thread.
    Thread(io::Error),
    /// The log ended before everything was written.
    Unwritten {
        /// The log, as [`EventLog`] calls it in its messages.
        log: String,
        /// How many lines are missing.
        lines: u64,
        /// The write error behind it, if there was one.
        cause: Option<io::Error>,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Open { path, cause } => {
                let directory = parent(path);
                write!(f, "the event log {} cannot be opened: ", path.display())?;
                match cause.kind() {
                    io::ErrorKind::NotFound => write!(
                        f,
                        "there is no directory {0}; create it, or choose another file with --log",
                        directory.display()
                    ),
                    io::ErrorKind::PermissionDenied => write!(
                        f,
                        "{cause}; make it writable for this user, or choose another file with --log"
                    ),
                    _ => write!(f, "{cause}; choose another file with --log"),
                }
            }
            Error::Stdout(cause) => write!(
                f,
                "the event log cannot be written to standard output: {cause}; \
                 choose a file with --log"
            ),
            Error::Cursor { path, cause } => write!(
                f,
                "the cursor of the event log, {}, cannot be written: {cause}; \
                 make room, or see that the state directory is writable for this user",
                path.display()
            ),
            Error::Incomplete { log, cause } => write!(
                f,
                "{log} cannot be completed from the journal: {cause}; make it readable, writable and \
                 large enough, and start again"
            ),
            Error::Thread(cause) => write!(
                f,
                "the event log gets no thread: {cause}; see the limit on tasks of this service"
            ),
            Error::Unwritten { log, lines, cause } => {
                let plural = if *lines == 1 { "" } else { "s" };
                write!(f, "{lines} line{plural} could not be written to {log}: ")?;
                match cause {
                    Some(cause) => cause.fmt(f),
                    None => f.write_str("it took too long"),
                }
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Open { cause, .. }
            | Error::Cursor { cause, .. }
            | Error::Incomplete { cause, .. }
            | Error::Stdout(cause)
            | Error::Thread(cause) => Some(cause),
            Error::Unwritten { cause, .. } => cause.as_ref().map(|cause| cause as _),
        }
    }
}

/// What the reactors, the thread and the supervisor know of each other.
#[derive(Default)]
struct Shared {
    /// The thread sleeps, or is about to: whoever has news wakes it.
    asleep: AtomicBool,
    /// Senders that were not dropped yet.
    senders: AtomicUsize,
    /// The path is to be opened anew.
    reopen: AtomicBool,
    /// Nobody waits any more: not for room in a queue, not for the next attempt after an error.
    give_up: AtomicBool,
    /// The thread ended before its work did.
    failed: AtomicBool,
    /// Events in the queues, ever: added up at the end of a batch.
    sent: AtomicU64,
    /// Lines written.
    written: AtomicU64,
    /// Events that found no room in a queue that nobody empties.
    lost: AtomicU64,
}

impl Shared {
    fn unwritten(&self) -> u64 {
        // `written` first: then what is written meanwhile cannot make the difference negative for long,
        // and lines written before their batch was published make it zero.
        let written = self.written.load(Ordering::Acquire);
        let sent = self.sent.load(Ordering::Acquire);
        sent.saturating_sub(written) + self.lost.load(Ordering::Relaxed)
    }
}

/// The reactor's end.
pub struct Sender {
    queue: Producer<Event>,
    /// In the queue, and not yet in `Shared::sent`.
    unpublished: u64,
    /// An event was lost. All after it are, too: the cursor counts lines, and takes them for the first ones.
    lost: bool,
    thread: Thread,
    shared: Arc<Shared>,
}

impl Sender {
    /// Puts an event into the queue. When there is no room, waits until there is; when there never will
    /// be, counts the event as lost. A sleeping logger does not notice before [`Sender::publish`].
    pub fn send(&mut self, event: Event, stats: &Stats) {
        if self.lost {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        match self.queue.push(event) {
            Ok(()) => self.unpublished += 1,
            Err(PushError::Full(event)) => self.wait(event, stats),
        }
    }

    /// At the end of a batch: wakes the logger, if it sleeps.
    pub fn publish(&mut self) {
        if self.unpublished > 0 {
            self.shared.sent.fetch_add(mem::take(&mut self.unpublished), Ordering::Release);
            self.wake();
        }
    }

    /// The counterpart of [`Logger::sleep`]. Of our write (to the queue) and our read (of `asleep`), and
    /// its write (of `asleep`) and its read (of the queue), the fences let at least one read see the
    /// other's write.
    fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.shared.asleep.load(Ordering::Relaxed)
            && self.shared.asleep.swap(false, Ordering::Relaxed)
        {
            self.thread.unpark();
        }
    }

    #[cold]
    fn wait(&mut self, mut event: Event, stats: &Stats) {
        self.publish();
        // It may look away, which does not end by itself for long enough.
        self.thread.unpark();
        let mut turns = 0;
        let mut pause = WAIT_MIN;
        loop {
            if self.queue.is_abandoned() || self.shared.give_up.load(Ordering::Relaxed) {
                self.lost = true;
                self.shared.lost.fetch_add(1, Ordering::Relaxed);
                return;
            }
            match turns {
                0 => stats.add(Counter::LogQueueWaits, 1),
                1..WAIT_SPINS => std::hint::spin_loop(),
                _ => {
                    thread::sleep(pause);
                    pause = (2 * pause).min(WAIT_MAX);
                }
            }
            turns = WAIT_SPINS.min(turns + 1);
            match self.queue.push(event) {
                Ok(()) => {
                    self.unpublished += 1;
                    return;
                }
                Err(PushError::Full(back)) => event = back,
            }
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.publish();
        self.shared.senders.fetch_sub(1, Ordering::Release);
        self.wake();
    }
}

/// The supervisor's end.
pub struct EventLog {
    name: String,
    thread: JoinHandle<()>,
    /// How the thread ended. Closed without a word when it panicked.
    ended: mpsc::Receiver<Result<(), io::Error>>,
    shared: Arc<Shared>,
    logged: Logged,
}

impl EventLog {
    /// Opens the destination, makes the cursor, and starts the thread. One sender for each shard of
    /// `first_events`.
    ///
    /// The cursor is on `disk`. `on_failure` is called, on the logger's thread, if the log ends before its senders do (the reader
    /// of standard output went away): the server is to stop then.
    ///
    /// # Errors
    /// The first thing that is missing; then nothing runs.
    pub fn start(
        disk: &dyn Disk,
        config: LogConfig,
        on_failure: impl FnOnce() + Send + 'static,
    ) -> Result<(EventLog, Vec<Sender>), Error> {
        Self::start_saying(disk, config, on_failure, say)
    }

    fn start_saying(
        disk: &dyn Disk,
        config: LogConfig,
        on_failure: impl FnOnce() + Send + 'static,
        say: impl FnMut(fmt::Arguments<'_>) + Send + 'static,
    ) -> Result<(EventLog, Vec<Sender>), Error> {
        let LogConfig { destination, format, sync, cursor, first_events } = config;
        let mut output = Output::open(destination)?;
        let name = output.name();
        let cursor = match cursor {
            Some(path) => {
                // `complete` has synced what is before this; that the name is there, as in a rotation.
                let _ = output.sync_name();
                let create = output.place().and_then(|place| {
                    CursorFile::create(disk, &path, &Cursor { events: first_events.clone(), place })
                });
                Some(create.map_err(|cause| Error::Cursor { path, cause })?)
            }
            None => None,
        };
        let reactors = first_events.len();
        let recorder = Recorder::new(first_events, sync, cursor);
        let logged = recorder.logged();
        let shared = Arc::new(Shared::default());
        shared.senders.store(reactors, Ordering::Relaxed);
        let (producers, queues): (Vec<_>, Vec<_>) =
            (0..reactors).map(|_| RingBuffer::new(QUEUE_EVENTS)).unzip();
        let (end, ended) = mpsc::channel();
        let logger =
            Logger::new(queues, format, output, recorder, Arc::clone(&shared), on_failure, say);
        let thread = thread::Builder::new()
            .name("eventlog".to_owned())
            .spawn(move || {
                let result = logger.run();
                // When nobody wants to know any more, nobody needs to.
                let _ = end.send(result);
            })
            .map_err(Error::Thread)?;
        let senders = producers
            .into_iter()
            .map(|queue| Sender {
                queue,
                unpublished: 0,
                lost: false,
                thread: thread.thread().clone(),
                shared: Arc::clone(&shared),
            })
            .collect();
        let log = EventLog { name, thread, ended, shared, logged };
        Ok((log, senders))
    }

    /// Opens the file's path anew, soon, on the logger's thread: logrotate has renamed it. Lines that
    /// are formatted already go to the old file. If the new one cannot be opened, the old one is kept.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        self.thread.thread().unpark();
    }

    /// Whether the log ended before its senders did.
    pub fn failed(&self) -> bool {
        self.shared.failed.load(Ordering::Acquire)
    }

    /// From now on nobody waits: reactors lose events that find no room, and the thread ends at the next
    /// write error or when the queues are empty. For a server that has to stop while the log cannot be
    /// written.
    pub fn give_up(&self) {
        self.shared.give_up.store(true, Ordering::Release);
        self.thread.thread().unpark();
    }

    /// How many events of each shard the journal need not keep for the log.
    pub fn logged(&self) -> Logged {
        self.logged.clone()
    }

    /// Events that were sent, and not written until now.
    pub fn unwritten(&self) -> u64 {
        self.shared.unwritten()
    }

    /// Waits until everything is written, which takes that all senders were dropped. After `deadline` it
    /// gives up. Returns the number of lines written, ever.
    pub fn join(self, deadline: Duration) -> Result<u64, Error> {
        let mut end = self.ended.recv_timeout(deadline);
        if matches!(end, Err(mpsc::RecvTimeoutError::Timeout)) {
            self.give_up();
            end = self.ended.recv_timeout(GIVE_UP_GRACE);
        }
        let cause = match end {
            Ok(Ok(())) => None,
            Ok(Err(cause)) => Some(cause),
            // The thread hangs in write(2), and ends with the process.
            Err(mpsc::RecvTimeoutError::Timeout) => None,
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                Some(io::Error::other("the thread of the event log panicked"))
            }
        };
        match (self.shared.unwritten(), cause) {
            (0, None) => Ok(self.shared.written.load(Ordering::Acquire)),
            (lines, cause) => Err(Error::Unwritten { log: self.name, lines, cause }),
        }
    }
}

#[cfg(test)]
mod tests;
