//! The second half of a start: the event log is completed from the journal; then the journal
//! continues, perhaps with another number of shards; then the log does (PROTOCOL.md section 9). A
//! crash in between is harmless: the next start does the same once more.
//!
//! Where the disk has no room for one of these steps, or the log's reader takes nothing, they are
//! tried again in the background, in the same order. The server serves meanwhile what it knows, and
//! makes no change: its reactors have no [`ChangeRecorder`] yet.

use std::io;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use crate::disk::eventlog::{
    self, Destination, EventLog, JournalEnds, LogConfig, LogError, LogSync, LogToComplete, Logged,
    PreparedLog, Rotation,
};
use crate::disk::fs::{Disk, is_no_room};
use crate::disk::storage::{Opened, Started, StateDirectory, Storage, StorageError, SyncPolicy};
use crate::handoff::change::LogFormat;
use crate::handoff::stats::Stats;
use crate::kernel::clock::Clock;
use crate::kernel::limits;
use crate::kernel::socket;
use crate::kernel::stderr::{say, warn};
use crate::programs::serve::admin::Gauges;
use crate::programs::serve::reactor::ChangeRecorder;

/// The file in the epoch's folder that says how many events the log has.
pub const LOG_CURSOR: &str = "log.cursor";
/// How often the log is made durable where each reply waits for the journal.
const LOG_SYNC_INTERVAL: Duration = Duration::from_millis(100);
/// How long a start waits until changes can be recorded. Then it serves without.
const PATIENCE: Duration = Duration::from_secs(2);
/// Time between two tries; and how many times as long as the last try took, if that is more.
pub const RETRY_INTERVAL: Duration = Duration::from_millis(500);
const RETRY_AFTER: u32 = 4;

/// Why the state cannot be used, or nothing be recorded.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The state cannot be read, or made ready.
    #[error(transparent)]
    Storage(StorageError),
    /// The event log cannot be completed, or started.
    #[error(transparent)]
    Log(LogError),
    /// What makes it ready has no thread, or ended without a word.
    #[error("no thread that makes the journal and the event log ready: {}", limits::explained(.0))]
    Thread(io::Error),
}

impl RecoverError {
    /// Whether there may be room later.
    fn is_no_room(&self) -> bool {
        match self {
            RecoverError::Storage(StorageError::Io { cause, .. })
            | RecoverError::Log(
                LogError::Open { cause, .. }
                | LogError::Cursor { cause, .. }
                | LogError::Incomplete { cause, .. },
            ) => is_no_room(cause),
            _ => false,
        }
    }
}

/// How far it is.
pub enum RecordingState {
    /// The journal was read.
    Opened(Box<Opened>),
    /// The log is complete, and the journal can be written.
    Started(Box<Started>),
    /// There is no journal.
    Locked(StateDirectory),
    /// It is with those who use it.
    Given,
}

/// What is to be made ready.
pub struct Recording {
    disk: Arc<dyn Disk>,
    state: RecordingState,
    shards: usize,
    /// None while something tries.
    log: Option<Destination>,
    format: LogFormat,
    /// How many days the log's files of former days are kept; 0: for ever.
    keep_days: u32,
    sync: Option<SyncPolicy>,
    /// What compaction asks how many events the log has. The log starts after the journal, which
    /// says where it continues.
    logged: Arc<OnceLock<Logged>>,
    /// What the admin socket tells of journal and log, as soon as they are there.
    gauges: Arc<OnceLock<Gauges>>,
    /// What the operator was told.
    said: Vec<String>,
    /// Why it is to be tried again.
    waits_for: String,
    /// Whether threads work for the log.
    threads: bool,
}

/// Keeps what records changes, as long as there are reactors.
pub struct Keeper {
    pub log: EventLog,
    /// Works in the background, and keeps the state directory locked: to be dropped last.
    pub storage: Option<Storage>,
    /// Keeps it locked where there is no journal.
    _lock: Option<StateDirectory>,
}

/// All is ready, and nobody works for the log yet.
pub struct ReadyToRecord {
    pub log: PreparedLog,
    pub storage: Option<Storage>,
    /// One for each shard.
    pub recorders: Vec<ChangeRecorder>,
    lock: Option<StateDirectory>,
}

impl ReadyToRecord {
    fn spawn(self) -> Result<(Keeper, Vec<ChangeRecorder>), RecoverError> {
        let Self { log, storage, recorders, lock } = self;
        let log = log.spawn().map_err(RecoverError::Log)?;
        Ok((Keeper { log, storage, _lock: lock }, recorders))
    }
}

/// A [`Keeper`] that is there, or may come.
pub enum Keeping {
    Here(Box<Keeper>),
    Coming(mpsc::Receiver<Result<Keeper, RecoverError>>),
    Failed(RecoverError),
}

/// What the thread of a [`Recording`] tells.
enum News {
    /// It tries again, for this reason.
    Waits(String),
    Ended,
}

impl Recording {
    pub fn new(
        disk: Arc<dyn Disk>,
        state: RecordingState,
        shards: usize,
        log: Destination,
        format: LogFormat,
        keep_days: u32,
        sync: Option<SyncPolicy>,
    ) -> Self {
        Self {
            disk,
            state,
            shards,
            log: Some(log),
            format,
            keep_days,
            sync,
            logged: Arc::default(),
            gauges: Arc::default(),
            said: Vec::new(),
            waits_for: String::new(),
            threads: true,
        }
    }

    /// Without threads of the log: see [`PreparedLog::by_steps`].
    pub fn by_steps(self) -> Self {
        Self { threads: false, ..self }
    }

    /// Tells of journal and log, as soon as they are there.
    pub fn gauges(&self) -> Arc<OnceLock<Gauges>> {
        Arc::clone(&self.gauges)
    }

    /// Makes all ready, and says where that needs longer than a start can wait. Returns where each
    /// reactor finds what it records changes with. Ends when `stop` is set. `on_failure` is called,
    /// on another thread, when it cannot be made ready, and when the log fails later.
    ///
    /// # Errors
    /// Where something else is wrong than room that is missing.
    pub fn begin(
        self,
        clock: Clock,
        stop: &Arc<AtomicBool>,
        on_failure: &Arc<dyn Fn() + Send + Sync>,
    ) -> Result<(Vec<mpsc::Receiver<ChangeRecorder>>, Keeping), RecoverError> {
        let (senders, receivers) = (0..self.shards).map(|_| mpsc::channel()).unzip();
        let ((tell, news), (end, ended)) = (mpsc::channel(), mpsc::channel());
        let (stop, on_failure) = (Arc::clone(stop), Arc::clone(on_failure));
        let run = move || self.run(clock, &stop, &on_failure, senders, &tell, &end);
        let thread = thread::Builder::new().name("recover".into()).spawn(run);
        drop(thread.map_err(RecoverError::Thread)?);
        match news.recv_timeout(PATIENCE) {
            Ok(News::Waits(why)) => {
                warn(format_args!("{why}; {MEANWHILE}; it goes on by itself when there is room"))
            }
            Err(mpsc::RecvTimeoutError::Timeout) => warn(format_args!(
                "the event log is not complete yet; see whether its reader has stopped; {MEANWHILE}"
            )),
            Ok(News::Ended) | Err(mpsc::RecvTimeoutError::Disconnected) => {}
        }
        let mut keeping = Keeping::Coming(ended);
        keeping.look();
        match keeping {
            Keeping::Failed(error) => Err(error),
            keeping => Ok((receivers, keeping)),
        }
    }

    fn run(
        mut self,
        clock: Clock,
        stop: &AtomicBool,
        on_failure: &Arc<dyn Fn() + Send + Sync>,
        recorders: Vec<mpsc::Sender<ChangeRecorder>>,
        tell: &mpsc::Sender<News>,
        end: &mpsc::Sender<Result<Keeper, RecoverError>>,
    ) {
        let mut waits = false;
        // Sending fails where the server was stopped meanwhile: then nobody needs it.
        while !stop.load(Ordering::Acquire) {
            let begin = clock.monotonic();
            let tried = self.try_once(&clock, on_failure);
            match tried.and_then(|tried| tried.map(ReadyToRecord::spawn).transpose()) {
                Ok(Some((keeper, ready))) => {
                    for (to, recorder) in recorders.into_iter().zip(ready) {
                        drop(to.send(recorder));
                    }
                    drop(end.send(Ok(keeper)));
                    if tell.send(News::Ended).is_err() || waits {
                        say(format_args!(
                            "journal and event log are written: new clients are served"
                        ));
                    }
                    return;
                }
                Ok(None) => {
                    let why = mem::take(&mut self.waits_for);
                    if !mem::replace(&mut waits, true) {
                        drop(tell.send(News::Waits(why)));
                    }
                    let took = clock.monotonic().saturating_sub(begin);
                    thread::sleep(RETRY_INTERVAL.max(RETRY_AFTER * took));
                }
                Err(error) => {
                    drop(end.send(Err(error)));
                    drop(tell.send(News::Ended));
                    return on_failure();
                }
            }
        }
    }

    /// Tries to make all ready: `None` where there is no room for something, so that it is to be
    /// tried again after [`RETRY_INTERVAL`].
    ///
    /// # Errors
    /// Where something else is wrong: nothing can be recorded.
    pub fn try_once(
        &mut self,
        clock: &Clock,
        on_failure: &Arc<dyn Fn() + Send + Sync>,
    ) -> Result<Option<ReadyToRecord>, RecoverError> {
        let spare = self.log.as_ref().and_then(Destination::again);
        match (self.prepare(clock, on_failure), spare) {
            (Err(error), Some(spare)) if error.is_no_room() => {
                self.log = Some(spare);
                self.waits_for = error.to_string();
                Ok(None)
            }
            (prepared, _) => prepared.map(Some),
        }
    }

    fn prepare(
        &mut self,
        clock: &Clock,
        on_failure: &Arc<dyn Fn() + Send + Sync>,
    ) -> Result<ReadyToRecord, RecoverError> {
        let disk = Arc::clone(&self.disk);
        if matches!(self.state, RecordingState::Opened(_)) {
            self.start_journal(clock)?;
        }
        let Some(destination) = self.log.take() else {
            return Err(RecoverError::Thread(io::Error::other("there is no log")));
        };
        let config = self.log_config(destination, clock.clone());
        let on_log_failure = Arc::clone(on_failure);
        let (log, mut senders) = PreparedLog::new(&*disk, config, move || on_log_failure())
            .map_err(RecoverError::Log)?;
        // This is the only place that sets it, so it cannot be set already.
        drop(self.logged.set(log.logged()));
        let (storage, lock, journals) = match mem::replace(&mut self.state, RecordingState::Given) {
            RecordingState::Started(started) => {
                for (sender, events) in senders.iter_mut().zip(started.events) {
                    let stats = Stats::default();
                    events.into_iter().for_each(|event| sender.send(event, &stats));
                    sender.publish();
                }
                let journals = started.writers.into_iter().map(Some).collect();
                (Some(started.storage), None, journals)
            }
            RecordingState::Locked(lock) => {
                (None, Some(lock), (0..self.shards).map(|_| None).collect())
            }
            RecordingState::Opened(_) | RecordingState::Given => (None, None, Vec::new()),
        };
        let journal = storage.as_ref().map(Storage::gauge);
        // This is the only place that sets it, too.
        drop(self.gauges.set(Gauges { journal, log: log.gauge() }));
        let recorders = journals.into_iter().zip(senders);
        let recorders = recorders.map(|(journal, log)| ChangeRecorder { journal, log }).collect();
        Ok(ReadyToRecord { log, storage, recorders, lock })
    }

    /// Completes the log, and makes the journal ready.
    fn start_journal(&mut self, clock: &Clock) -> Result<(), RecoverError> {
        let RecordingState::Opened(opened) = &mut self.state else { return Ok(()) };
        if let Some(folder) = &opened.epoch_folder
            && let Some(log) = self.log.take()
        {
            let cursor = folder.join(LOG_CURSOR);
            let said = &mut self.said;
            let say_once = |message: std::fmt::Arguments<'_>| {
                let message = message.to_string();
                if !said.contains(&message) {
                    warn(format_args!("{message}"));
                    said.push(message);
                }
            };
            let unlogged = &mut opened.unlogged;
            let (format, now) = (self.format, clock.wall());
            let journal =
                JournalEnds { next_events: &opened.next_events, shard_of: &socket::steered_to };
            let journal = Some(journal);
            let log = LogToComplete { destination: log, format, cursor: &cursor, now, journal };
            let completed = eventlog::complete_saying(&*self.disk, log, unlogged, say_once);
            self.log = Some(completed.map_err(RecoverError::Log)?.0);
        }
        let asked = Arc::clone(&self.logged);
        let logged_of = move |shard| asked.get().map_or(0, |logged: &Logged| logged.get(shard));
        let started = opened.start(clock.wall(), Arc::new(logged_of));
        self.state = RecordingState::Started(Box::new(started.map_err(RecoverError::Storage)?));
        Ok(())
    }

    /// The event log continues with the events that starting the journal made.
    fn log_config(&self, destination: Destination, clock: Clock) -> LogConfig {
        let (cursor, first_events) = match &self.state {
            RecordingState::Started(started) => {
                let first = |(&next, own): (&u64, &Vec<_>)| next - own.len() as u64;
                let first = started.first_events.iter().zip(&started.events).map(first).collect();
                (Some(started.epoch_folder.join(LOG_CURSOR)), first)
            }
            _ => (None, vec![0; self.shards]),
        };
        let wall = clock.clone();
        LogConfig {
            destination,
            format: self.format,
            rotation: Some(Rotation {
                keep_days: self.keep_days,
                clock: Arc::new(move || wall.wall()),
            }),
            sync: match self.sync {
                None | Some(SyncPolicy::None) => LogSync::None,
                Some(SyncPolicy::Always) => LogSync::Interval(LOG_SYNC_INTERVAL),
                Some(SyncPolicy::Interval(interval)) => LogSync::Interval(interval),
            },
            cursor,
            first_events,
            clock,
            threads: self.threads,
        }
    }
}

/// What the operator is told about a server whose changes cannot be recorded yet.
const MEANWHILE: &str = "meanwhile known clients are served, and new ones get no answer";

impl Keeping {
    /// Finds out whether it has come.
    pub fn look(&mut self) {
        let Keeping::Coming(ended) = self else { return };
        match ended.try_recv() {
            Ok(Ok(keeper)) => *self = Keeping::Here(Box::new(keeper)),
            Ok(Err(error)) => *self = Keeping::Failed(error),
            Err(mpsc::TryRecvError::Empty) => {}
            Err(mpsc::TryRecvError::Disconnected) => {
                *self = Keeping::Failed(RecoverError::Thread(io::Error::other("it ended")));
            }
        }
    }

    /// The keeper, if it is there by now.
    pub fn keeper(&mut self) -> Option<&Keeper> {
        self.look();
        match self {
            Keeping::Here(keeper) => Some(keeper),
            Keeping::Coming(_) | Keeping::Failed(_) => None,
        }
    }
}
