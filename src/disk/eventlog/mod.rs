//! The event log: from the reactors to the file, without losing a line (PROTOCOL.md section 8).
//!
//! Every reactor has a [`Sender`], the one end of a bounded queue; at the other end of all of them
//! one thread formats the events and writes them through fern. All lines of a table come from one
//! reactor and therefore stay in order. When the log cannot be written, the queues fill, and
//! backpressure makes the reactors refuse changes: this is an audit log, and what it does not say
//! must not have happened. A batch that comes alone is written at once; under load the thread
//! polls every two milliseconds instead of being woken for each batch.
//!
//! What each end may assume: an event that was sent is written once, as one whole line, unless
//! [`EventLog::join`] says that it was not. After a crash, [`complete()`] writes from the journal
//! what the log lacks, so that this holds across processes (PROTOCOL.md section 9); the [`Cursor`]
//! says where to look.
//!
//! | file | what it is |
//! | --- | --- |
//! | `output` | the opened destination |
//! | `error` | what can go wrong |
//! | `place` | a position in a log file, and how the file is known again |
//! | `cursor` | which events are in the log, as a file |
//! | `recorder` | counts lines, syncs the log, keeps the cursor |
//! | `compare` | which of the journal's events some octets of the log lack: a pure function |
//! | `find` | finds the log of the cursor again, whatever its name is now |
//! | `beside` | finds files that were the log before or since |
//! | `ahead` | lines that are later than what the journal has: a pure function |
//! | `complete` | finds those octets after a crash, and writes what is missing |
//! | `days` | whose day a line is of, and the names of the files of former days |
//! | `archive` | compresses these files, and removes those that are too old |
//! | `follow` | reads the log as it grows, over all of its files |
//! | `past` | its lines from the beginning on, or from a place on |
//! | `on` | reads them once, and says how far it is |
//! | `sender` | the reactors' ends of the queues |
//! | `tap` | lines for whoever watches them as they are written |
//! | `logger` | what the thread does |
//! | `turning` | the day of the log's file |
//! | `prepared` | a log that is open, before a thread works for it, or who makes its steps |
//!
//! Not here: what a line says (`handoff::line`), when to reopen or to stop (`programs::serve`), and
//! the journal (`storage`).

mod ahead;
mod archive;
mod beside;
mod compare;
mod complete;
mod cursor;
mod days;
mod error;
mod find;
mod follow;
mod logger;
mod on;
mod output;
mod past;
mod place;
mod prepared;
mod recorder;
mod sender;
mod tap;
mod turning;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::disk::UNLOGGED_MAX;
use crate::disk::fs::Disk;
use crate::handoff::change::{LogFormat, Timestamp};
use crate::handoff::line;
use crate::kernel::clock::Clock;
use crate::kernel::stderr::{Priority, say, tell};

pub use complete::{
    Completed, JournalEnds, LogToComplete, complete, complete_saying, known_events,
};
pub use cursor::{Cursor, SHARDS_MAX, Unknown};
pub use days::Day;
pub use error::{LogError, directory_of};
pub use follow::{
    CURSOR_OCTETS, FollowCursor, FollowStart, FollowStep, FollowedLine, Follower, Lost,
    NoFollowCursor,
};
pub use on::LogReader;
pub use output::{Destination, LogCalls, may_follow};
pub use past::{OpenedPast, PastFile, lines_with, open_past, open_past_from, past_of};
pub use place::{Inode, LogPlace, LogPosition, NoPlace, Tail};
pub use prepared::{LogSteps, PreparedLog};
pub use recorder::Logged;
use sender::LogShared;
pub use sender::Sender;
pub use tap::{LogTap, TapReader, log_tap};

/// Events that a queue holds. While there is no room for those of a request, the reactor makes no
/// changes.
///
/// The thread that empties it may get no core for a while: at 300,000 new clients a second this
/// lasts for a tenth of a second.
pub const QUEUE_EVENTS: usize = 32_768;
/// Octets of formatted lines in memory; while they are there, nothing more is taken from the
/// queues.
pub const BATCH_OCTETS: usize = 256 * 1024;
/// Upper bound of a line's octets, with its line feed.
const LINE_MAX: usize = 256;
/// Events taken from one queue before it is the next one's turn.
const TURN_EVENTS: usize = 256;
/// Time between a write error and the next attempt.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// The same, where the log's path cannot be opened anew.
const REOPEN_INTERVAL: Duration = Duration::from_secs(1);
/// The same, for a destination that is only slow (a pipe or terminal in non-blocking mode).
const BUSY_INTERVAL: Duration = Duration::from_millis(5);
/// While reactors wake the thread more often than this, it sleeps this long between two batches. So
/// it is also the delay of a line when nothing hinders it.
const NAP: Duration = Duration::from_millis(2);
/// The same, where the file of a day that is over cannot be put aside.
const ROTATE_INTERVAL: Duration = Duration::from_secs(60);
/// How long the thread may take to notice that it was given up.
const GIVE_UP_GRACE: Duration = Duration::from_millis(200);
/// How often the end of a server waits for a log that is slow, but writes.
pub const JOIN_WAITS_MAX: u32 = 25;

// What is in the queue and in a batch is written before the next sync of the cursor is due.
const _: () = assert!(4 * QUEUE_EVENTS as u64 <= UNLOGGED_MAX);
const _: () = assert!(line::LINE_MAX < LINE_MAX);
const _: () = assert!(TURN_EVENTS <= QUEUE_EVENTS);
const _: () = assert!(TURN_EVENTS * LINE_MAX < BATCH_OCTETS);

/// When lines are made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogSync {
    /// Left to the kernel: lines survive the process, and not a power cut.
    None,
    /// At the latest this long after the first line that is not durable.
    Interval(Duration),
}

/// One file a day, UTC.
#[derive(Clone)]
pub struct Rotation {
    /// How many days the files of former days are kept; 0: for ever.
    pub keep_days: u32,
    /// The present time. Lines have times of their own.
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

/// What the log is, and how far it is.
pub struct LogConfig {
    /// Where it goes.
    pub destination: Destination,
    /// The format of its lines.
    pub format: LogFormat,
    /// Whether a regular file has the lines of one day. None: it goes on.
    pub rotation: Option<Rotation>,
    /// When lines are made durable.
    pub sync: LogSync,
    /// The file of the cursor, made anew. None: nothing is known of the log after a crash.
    pub cursor: Option<PathBuf>,
    /// For each shard, the number of its next event: all before it are in the log.
    pub first_events: Vec<u64>,
    /// What tells when something is due.
    pub clock: Clock,
    /// Whether threads do all of it. Without them, [`LogSteps`] do it when they are made.
    pub threads: bool,
}

/// The supervisor's end.
pub struct EventLog {
    name: String,
    thread: JoinHandle<()>,
    /// How the thread ended. Closed without a word when it panicked.
    ended: mpsc::Receiver<Result<(), io::Error>>,
    shared: Arc<LogShared>,
    logged: Logged,
}

/// Tells how far the event log is.
#[derive(Clone)]
pub struct LogGauge {
    name: String,
    shared: Arc<LogShared>,
}

impl LogGauge {
    /// What the log is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number of lines written since the start.
    pub fn written(&self) -> u64 {
        self.shared.written.load(Ordering::Acquire)
    }

    /// The number of events that were sent and are not written yet.
    pub fn unwritten(&self) -> u64 {
        self.shared.unwritten()
    }

    /// As [`EventLog::waits_for_system`].
    pub fn waits_for_system(&self) -> bool {
        self.shared.in_system.load(Ordering::Relaxed)
    }

    /// Shows the lines to somebody as they are written, from about now on. The first one that is
    /// given is it.
    pub fn show(&self, tap: LogTap) {
        // Another one is dropped.
        let _ = self.shared.tap.set(tap);
    }
}

impl EventLog {
    /// Opens the destination, makes the cursor, and starts the thread. One sender for each shard of
    /// `first_events`.
    ///
    /// The cursor is on `disk`. `on_failure` is called, on the logger's thread, if the log ends
    /// before its senders do (the reader of standard output went away): the server is to stop then.
    ///
    /// # Errors
    /// Where the log, the cursor or the thread cannot be had. Then nothing runs.
    pub fn start(
        disk: &dyn Disk,
        config: LogConfig,
        on_failure: impl FnOnce() + Send + 'static,
    ) -> Result<(EventLog, Vec<Sender>), LogError> {
        Self::start_saying(disk, config, on_failure, tell)
    }

    fn start_saying(
        disk: &dyn Disk,
        config: LogConfig,
        on_failure: impl FnOnce() + Send + 'static,
        say: impl FnMut(Priority, fmt::Arguments<'_>) + Clone + Send + 'static,
    ) -> Result<(EventLog, Vec<Sender>), LogError> {
        let (prepared, senders) = PreparedLog::open(disk, config, on_failure, say)?;
        Ok((prepared.spawn()?, senders))
    }

    /// Opens the file's path anew, soon, on the logger's thread: logrotate has renamed it. Lines
    /// that are formatted already go to the old file. If the new one cannot be opened, the old one
    /// is kept.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        self.thread.thread().unpark();
    }

    /// Whether the log ended before its senders did.
    pub fn failed(&self) -> bool {
        self.shared.failed.load(Ordering::Acquire)
    }

    /// From now on nobody waits: reactors lose events that find no room, and the thread ends at the
    /// next write error or when the queues are empty. For a server that has to stop while the log
    /// cannot be written.
    pub fn give_up(&self) {
        self.shared.give_up.store(true, Ordering::Release);
        self.thread.thread().unpark();
    }

    /// How many turns the thread has made, which is asked for one more: who finds the same number
    /// after a while knows that it hangs, or [waits](Self::waits_for_system) for others.
    pub fn turns(&self) -> u64 {
        self.thread.thread().unpark();
        self.shared.turns.load(Ordering::Relaxed)
    }

    /// Whether the thread is in a call that writes, syncs, opens or renames the log: if it hangs
    /// there, the disk or the reader does, and a new process would hang just so.
    pub fn waits_for_system(&self) -> bool {
        self.shared.in_system.load(Ordering::Relaxed)
    }

    /// Reads from any thread how far the log is.
    pub fn gauge(&self) -> LogGauge {
        LogGauge { name: self.name.clone(), shared: Arc::clone(&self.shared) }
    }

    /// What the log is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number of events of each shard that the journal need not keep for the log.
    pub fn logged(&self) -> Logged {
        self.logged.clone()
    }

    /// The number of lines written since the start.
    pub fn written(&self) -> u64 {
        self.shared.written.load(Ordering::Acquire)
    }

    /// The number of events that were sent and are not written yet.
    pub fn unwritten(&self) -> u64 {
        self.shared.unwritten()
    }

    /// Waits until everything is written; all senders must be dropped for that. It gives up where
    /// no line was written for `deadline`, and after [`JOIN_WAITS_MAX`] times that. Returns the
    /// number of lines written since the start.
    ///
    /// # Errors
    /// Where lines are missing.
    pub fn join(self, deadline: Duration) -> Result<u64, LogError> {
        self.end(deadline).map(|(lines, _)| lines)
    }

    /// As [`EventLog::join`]; and whether the threads of the log have ended. They have not where
    /// one hangs in a call of the system: it ends with the process.
    ///
    /// # Errors
    /// As [`EventLog::join`].
    pub fn end(self, deadline: Duration) -> Result<(u64, bool), LogError> {
        let mut end = Err(mpsc::RecvTimeoutError::Timeout);
        for _ in 0..JOIN_WAITS_MAX {
            let before = self.written();
            end = self.ended.recv_timeout(deadline);
            if end.is_ok() || self.written() == before {
                break;
            }
        }
        if matches!(end, Err(mpsc::RecvTimeoutError::Timeout)) {
            self.give_up();
            end = self.ended.recv_timeout(GIVE_UP_GRACE);
        }
        let has_ended = end.is_ok();
        let cause = match end {
            Ok(Ok(())) => None,
            Ok(Err(cause)) => Some(cause),
            Err(mpsc::RecvTimeoutError::Timeout) => None,
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                Some(io::Error::other("the thread of the event log panicked"))
            }
        };
        match (self.shared.unwritten(), cause) {
            (0, None) => Ok((self.written(), has_ended)),
            (lines, cause) => Err(LogError::Unwritten { log: self.name, lines, cause }),
        }
    }
}

#[cfg(test)]
mod rotation_tests;
#[cfg(test)]
mod tests;
