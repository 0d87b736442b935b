//! Counts the lines of each shard as they are written, and keeps the [`Cursor`] behind them.
//!
//! The order is always: lines, fdatasync of the log, cursor. So whatever happens, the log has at
//! least what the cursor says. Not here: the cursor's form (`cursor`).

use std::fmt;
use std::io;
use std::mem;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::disk::UNLOGGED_MAX;
use crate::kernel::clock::Clock;

use super::LogSync;
use super::cursor::{Cursor, CursorFile};
use super::output::Output;

/// How often the cursor is written if the log is never synced.
const WRITE_INTERVAL: Duration = Duration::from_millis(100);
/// Writes of the cursor for each sync of it, while lines come. What the journal may forget lags
/// behind by as many writes...
const WRITES_PER_SYNC: u32 = 16;
/// ...or by this time: the journal also grows by changes that have no line, and would never be
/// compacted if the cursor waited for the next ones.
const SYNC_LAG_MAX: Duration = Duration::from_secs(1);
/// ...or when this many lines of a shard came: reactors make no more changes at [`UNLOGGED_MAX`].
const SYNC_LINES_MAX: u64 = UNLOGGED_MAX / 4;

/// For each shard, the number of its events that the log has durably: the journal may forget them.
#[derive(Debug, Clone)]
pub struct Logged(Arc<[AtomicU64]>);

impl Logged {
    pub(super) fn new(events: &[u64]) -> Self {
        Self(events.iter().map(|&events| AtomicU64::new(events)).collect())
    }

    /// From the start of the epoch; 0 for a shard that does not exist.
    pub fn get(&self, shard: usize) -> u64 {
        self.0.get(shard).map_or(0, |events| events.load(Ordering::Acquire))
    }
}

/// How much a call of [`Recorder::record`] does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Firmness {
    /// What is due each interval.
    Usual,
    /// The cursor is made durable, too.
    Firm,
}

/// Why the cursor stays where it is.
pub(super) enum CursorTrouble {
    /// The log's fdatasync failed: nobody knows what is on the disk.
    Log(io::Error),
    /// The cursor cannot be written.
    Cursor(PathBuf, io::Error),
}

impl fmt::Display for CursorTrouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CursorTrouble::Log(cause) => write!(
                f,
                "cannot be synced: {cause}; it is written on, and the journal is kept until the \
                 next start, which compares them: start again soon, as new clients get no answer \
                 after {UNLOGGED_MAX} more lines"
            ),
            CursorTrouble::Cursor(path, cause) => {
                write!(f, "has no cursor {}: {cause}; the journal is kept", path.display())
            }
        }
    }
}

pub(super) struct Recorder {
    events: Vec<u64>,
    logged: Logged,
    sync: LogSync,
    cursor: Option<CursorFile>,
    clock: Clock,
    /// When the first line was written that the cursor does not know.
    dirty_since: Option<Duration>,
    /// Writes of the cursor since its last sync.
    writes: u32,
    /// When the first of these was made.
    unsynced_since: Option<Duration>,
    /// See [`SYNC_LAG_MAX`].
    sync_lag_max: Duration,
    /// See [`SYNC_LINES_MAX`].
    is_behind: bool,
    /// A sync of the log failed. It is never tried again, as it could succeed without the lines
    /// that were lost.
    failed: bool,
    complained: bool,
}

impl Recorder {
    pub(super) fn new(
        events: Vec<u64>,
        sync: LogSync,
        cursor: Option<CursorFile>,
        clock: Clock,
    ) -> Self {
        Self {
            logged: Logged::new(&events),
            events,
            sync,
            cursor,
            clock,
            dirty_since: None,
            writes: 0,
            unsynced_since: None,
            sync_lag_max: SYNC_LAG_MAX,
            is_behind: false,
            failed: false,
            complained: false,
        }
    }

    pub(super) fn logged(&self) -> Logged {
        self.logged.clone()
    }

    /// The time by which it goes.
    pub(super) fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    /// Whether the cursor counts all lines, durably.
    pub(super) fn is_settled(&self) -> bool {
        !self.failed && self.dirty_since.is_none() && self.unsynced_since.is_none()
    }

    /// Whether the cursor cannot be moved: the file that it names has to be compared at the next
    /// start.
    pub(super) fn is_stuck(&self) -> bool {
        self.failed || self.complained
    }

    /// Counts whole lines of a shard's events that were written.
    pub(super) fn wrote(&mut self, shard: usize, lines: u64) {
        self.events[shard] += lines;
        let needed = self.cursor.is_some() || matches!(self.sync, LogSync::Interval(_));
        if !needed {
            self.publish();
        }
        if lines > 0 && needed && !self.failed && self.dirty_since.is_none() {
            self.dirty_since = Some(self.clock.monotonic());
        }
        self.is_behind |= self.cursor.is_some()
            && !self.failed
            && self.events[shard] - self.logged.get(shard) >= SYNC_LINES_MAX;
    }

    /// Time until [`Recorder::record`] is due. None where there is nothing to record.
    pub(super) fn due(&self, output: &Output) -> Option<Duration> {
        let interval = match self.sync {
            // Nothing can be compared after a crash: the cursor follows each write.
            _ if !output.is_regular() || self.is_behind => Duration::ZERO,
            LogSync::Interval(interval) => interval,
            LogSync::None => WRITE_INTERVAL,
        };
        let write = self.left(self.dirty_since, interval);
        let sync = self.left(self.unsynced_since, self.sync_lag_max);
        write.into_iter().chain(sync).min()
    }

    /// Syncs the log and writes the cursor. `part` octets of an unfinished line stand at the log's
    /// end.
    ///
    /// After an error the cursor is older than it could be, which is safe. Each kind of error is
    /// returned once.
    pub(super) fn record(
        &mut self,
        output: &mut Output,
        part: u64,
        firmness: Firmness,
    ) -> Result<(), CursorTrouble> {
        self.dirty_since = None;
        let overdue =
            self.left(self.unsynced_since, self.sync_lag_max).is_some_and(|d| d.is_zero());
        let behind = mem::take(&mut self.is_behind);
        let firmness = if overdue || behind { Firmness::Firm } else { firmness };
        self.unsynced_since = self.unsynced_since.filter(|_| firmness == Firmness::Usual);
        if self.failed {
            return Ok(());
        }
        let synced = match self.sync {
            LogSync::None => Ok(()),
            LogSync::Interval(_) => output.sync(),
        };
        if let Err(cause) = synced {
            self.failed = true;
            return Err(CursorTrouble::Log(cause));
        }
        match self.write_cursor(output, part, firmness) {
            Ok(()) => {
                self.complained = false;
                Ok(())
            }
            Err(cause) => {
                // Tried again, though not at once, also where reactors wait for it and no line
                // comes.
                self.unsynced_since = Some(self.clock.monotonic());
                if mem::replace(&mut self.complained, true) {
                    return Ok(());
                }
                let path = self.cursor.as_ref().map(|cursor| cursor.path().to_owned());
                Err(CursorTrouble::Cursor(path.unwrap_or_default(), cause))
            }
        }
    }

    fn write_cursor(
        &mut self,
        output: &mut Output,
        part: u64,
        firmness: Firmness,
    ) -> io::Result<()> {
        let Some(file) = &mut self.cursor else {
            self.publish();
            return Ok(());
        };
        let mut position = output.position(part);
        if let Some(position) = &mut position {
            position.synced = matches!(self.sync, LogSync::Interval(_));
        }
        file.write(&Cursor { events: self.events.clone(), position })?;
        self.writes += 1;
        match self.sync {
            LogSync::None if firmness == Firmness::Usual => file.turn(),
            _ if firmness == Firmness::Firm || self.writes >= WRITES_PER_SYNC => file.sync()?,
            _ => {
                self.unsynced_since = self.unsynced_since.or_else(|| Some(self.clock.monotonic()));
                return Ok(());
            }
        }
        self.writes = 0;
        self.unsynced_since = None;
        self.publish();
        Ok(())
    }

    /// All that was written is in the log, as durably as it is to be.
    fn publish(&self) {
        for (logged, &events) in self.logged.0.iter().zip(&self.events) {
            logged.store(events, Ordering::Release);
        }
    }

    /// What is left of the time `interval` after `since`.
    fn left(&self, since: Option<Duration>, interval: Duration) -> Option<Duration> {
        since.map(|since| (since + interval).saturating_sub(self.now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::eventlog::Destination;
    use crate::disk::fs::RealDisk;

    #[test]
    fn an_idle_log_wakes_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let (log, path) = (directory.path().join("events.log"), directory.path().join("cursor"));
        let mut output = Output::open(Destination::File(log)).unwrap();
        for sync in [LogSync::None, LogSync::Interval(Duration::from_secs(3_600))] {
            let cursor = Cursor { events: vec![0, 0], position: output.position(0) };
            let file = CursorFile::create(&RealDisk, &path, &cursor).unwrap();
            let mut recorder = Recorder::new(vec![0, 0], sync, Some(file), Clock::new());
            assert_eq!(recorder.due(&output), None);
            recorder.wrote(1, 2);
            assert!(recorder.due(&output).is_some_and(|due| due > Duration::ZERO));
            assert!(recorder.record(&mut output, 0, Firmness::Usual).is_ok());
            assert_eq!(Cursor::read(&RealDisk, &path).unwrap().events, [0, 2]);
            if sync != LogSync::None {
                // What is left to do is the sync of the cursor, once, also if no line comes.
                assert_eq!(recorder.logged().get(1), 0);
                assert!(recorder.due(&output).is_some_and(|due| due <= SYNC_LAG_MAX));
                recorder.sync_lag_max = Duration::ZERO;
                assert_eq!(recorder.due(&output), Some(Duration::ZERO));
                assert!(recorder.record(&mut output, 0, Firmness::Usual).is_ok());
            }
            assert_eq!(recorder.due(&output), None);
            assert_eq!(recorder.logged().get(1), 2, "the journal may forget them");
        }
        // Without a cursor and without syncs there is nothing to do at all.
        let mut recorder = Recorder::new(vec![0], LogSync::None, None, Clock::new());
        recorder.wrote(0, 1);
        assert_eq!(recorder.due(&output), None);
    }

    /// However seldom it is synced, a start has a bounded number of events to compare.
    #[test]
    fn many_lines_are_recorded_durably_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let (log, path) = (directory.path().join("events.log"), directory.path().join("cursor"));
        let mut output = Output::open(Destination::File(log)).unwrap();
        let cursor = Cursor { events: vec![7, 0], position: None };
        let file = CursorFile::create(&RealDisk, &path, &cursor).unwrap();
        let sync = LogSync::Interval(Duration::from_secs(3_600));
        let mut recorder = Recorder::new(cursor.events, sync, Some(file), Clock::new());
        recorder.wrote(0, SYNC_LINES_MAX - 1);
        assert!(recorder.due(&output).is_some_and(|due| due > Duration::from_secs(3_000)));
        recorder.wrote(1, SYNC_LINES_MAX);
        assert_eq!(recorder.due(&output), Some(Duration::ZERO));
        assert!(recorder.record(&mut output, 0, Firmness::Usual).is_ok());
        assert_eq!(recorder.logged().get(0), 7 + SYNC_LINES_MAX - 1);
        assert_eq!(recorder.logged().get(1), SYNC_LINES_MAX);
        assert_eq!(recorder.due(&output), None);
    }

    #[test]
    fn the_journal_may_forget_what_a_synced_cursor_counts() {
        let directory = tempfile::tempdir().unwrap();
        let (log, path) = (directory.path().join("events.log"), directory.path().join("cursor"));
        let mut output = Output::open(Destination::File(log)).unwrap();
        let file =
            CursorFile::create(&RealDisk, &path, &Cursor { events: vec![0], position: None })
                .unwrap();
        let sync = LogSync::Interval(Duration::from_secs(3_600));
        let mut recorder = Recorder::new(vec![0], sync, Some(file), Clock::new());
        recorder.sync_lag_max = Duration::from_secs(3_600);
        let logged = recorder.logged();
        for write in 1..=2 * u64::from(WRITES_PER_SYNC) {
            recorder.wrote(0, 1);
            assert!(recorder.record(&mut output, 0, Firmness::Usual).is_ok());
            let every = u64::from(WRITES_PER_SYNC);
            assert_eq!(logged.get(0), write / every * every);
        }
        recorder.wrote(0, 1);
        assert!(recorder.record(&mut output, 0, Firmness::Firm).is_ok());
        assert_eq!(logged.get(0), 2 * u64::from(WRITES_PER_SYNC) + 1);
        assert_eq!(logged.get(7), 0);
    }
}
