//! What is kept is read, and made ready to be written: journal and event log, in the one right order.
//!
//! PROTOCOL.md section 9: the journal is read first; then the log is completed from it; then the journal
//! goes on, maybe in another number of shards; then the log does. A crash in between is repeated by the
//! next start. What the files look like is `journal`'s and `storage`'s.

use std::fmt;
use std::num::NonZero;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use crate::disk::eventlog::{self, Destination, EventLog, LogConfig, LogSync};
use crate::disk::fs::{Disk, RealDisk};
use crate::disk::storage::{
    JournalWriter, Replay, StateDirectory, Storage, StorageConfig, StorageError, SyncPolicy,
};
use crate::handoff::change::{Change, LogFormat, Timestamp};
use crate::handoff::entry::TableKey;
use crate::handoff::server::{Replayed, Server};
use crate::handoff::stats::Stats;
use crate::kernel::clock::Clock;
use crate::kernel::socket;

/// How far the event log is, in the folder of the epoch.
const LOG_CURSOR: &str = "log.cursor";
/// How often the log is made durable where each reply waits for the journal to be.
const LOG_SYNC_INTERVAL: Duration = Duration::from_millis(100);

/// The most threads that fill the tables of one shard: one that reads cannot feed more.
const PARTS_MAX: usize = 8;

/// Why nothing can be recovered.
#[derive(Debug)]
pub enum RecoverError {
    /// The state cannot be read, or made ready.
    Storage(StorageError),
    /// The event log cannot.
    Log(eventlog::Error),
}

impl fmt::Display for RecoverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecoverError::Storage(error) => error.fmt(f),
            RecoverError::Log(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for RecoverError {}

/// What is kept, and where.
pub struct Kept {
    /// The state directory.
    pub state: StateDirectory,
    /// When the journal is made durable. `None`: there is no journal.
    pub sync: Option<SyncPolicy>,
    /// The event log.
    pub log: Destination,
    /// How much its lines tell.
    pub format: LogFormat,
}

/// All that is ready to be written.
pub struct Recovered {
    /// Works in the background, and keeps the state directory locked: to be dropped last.
    pub storage: Option<Storage>,
    /// Keeps it locked where there is no journal.
    pub lock: Option<StateDirectory>,
    /// One for each shard.
    pub journals: Vec<Option<JournalWriter>>,
    /// The event log.
    pub log: EventLog,
    /// One for each shard.
    pub senders: Vec<eventlog::Sender>,
    /// What is to be said about it, a line each.
    pub found: Vec<String>,
}

impl Kept {
    /// Fills `servers`, one for each shard, which are empty.
    ///
    /// # Errors
    /// Where anything is damaged, or the disk refuses.
    pub fn recover(
        self,
        handoff_port: u16,
        servers: &mut [Server],
        clock: Clock,
        on_log_failure: impl FnOnce() + Send + 'static,
    ) -> Result<Recovered, RecoverError> {
        let Kept { state, sync, log, format } = self;
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let mut found = Vec::new();
        if let Some(mode) = state.tightened_from() {
            let path = state.path().display();
            found.push(format!("the state directory {path} had mode {mode:04o}, and has 0700 now"));
        }
        let shards = servers.len();
        let Some(sync) = sync else {
            let (sync, first_events) = (LogSync::None, vec![0; shards]);
            let config = LogConfig { destination: log, format, sync, cursor: None, first_events };
            let (log, senders) =
                EventLog::start(&*disk, config, on_log_failure).map_err(RecoverError::Log)?;
            let journals = (0..shards).map(|_| None).collect();
            return Ok(Recovered {
                storage: None,
                lock: Some(state),
                journals,
                log,
                senders,
                found,
            });
        };

        let mut replayed: Vec<Replayed> = servers
            .iter()
            .flat_map(|server| std::iter::repeat_with(|| server.replayed()).take(parts(shards)))
            .collect();
        let mut opened = Storage::open(
            Arc::clone(&disk),
            state,
            StorageConfig::new(shards, handoff_port, sync),
            move |nat64| socket::steered_to(nat64, shards),
            |folder| eventlog::known_events(&RealDisk, &log, &folder.join(LOG_CURSOR)),
            &mut replayed,
        )
        .map_err(RecoverError::Storage)?;
        for (index, replayed) in replayed.into_iter().enumerate() {
            servers[index / parts(shards)].adopt(replayed);
        }
        found.push(opened.report.to_string());

        let mut log = log;
        if let Some(folder) = &opened.epoch_folder {
            let unlogged = std::mem::take(&mut opened.unlogged);
            let cursor = folder.join(LOG_CURSOR);
            (log, _) = eventlog::complete(&*disk, log, format, &cursor, unlogged)
                .map_err(RecoverError::Log)?;
        }

        // Compaction asks how far the log is, which can be started only when the journal says where it goes on.
        let logged: Arc<OnceLock<eventlog::Logged>> = Arc::default();
        let asked = Arc::clone(&logged);
        let logged_of = move |shard| asked.get().map_or(0, |logged| logged.get(shard));
        let started =
            opened.start(clock.now().wall, Arc::new(logged_of)).map_err(RecoverError::Storage)?;

        let own = started.events;
        let first = |(&next, own): (&u64, &Vec<_>)| next - own.len() as u64;
        let log_config = LogConfig {
            destination: log,
            format,
            sync: match sync {
                SyncPolicy::None => LogSync::None,
                SyncPolicy::Always => LogSync::Interval(LOG_SYNC_INTERVAL),
                SyncPolicy::Interval(interval) => LogSync::Interval(interval),
            },
            cursor: Some(started.epoch_folder.join(LOG_CURSOR)),
            first_events: started.first_events.iter().zip(&own).map(first).collect(),
        };
        let (log, mut senders) =
            EventLog::start(&*disk, log_config, on_log_failure).map_err(RecoverError::Log)?;
        // Set here for the first time, so it takes it.
        drop(logged.set(log.logged()));
        for (sender, events) in senders.iter_mut().zip(own) {
            let stats = Stats::default();
            events.into_iter().for_each(|event| sender.send(event, &stats));
            sender.publish();
        }
        let journals = started.writers.into_iter().map(Some).collect();
        Ok(Recovered { storage: Some(started.storage), lock: None, journals, log, senders, found })
    }
}

/// In how many parts the tables of a shard are filled, so that all cores are at work. There is one more thread
/// for each shard that reads, which takes a core for a part of the time.
fn parts(shards: usize) -> usize {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    (cores / shards).clamp(1, PARTS_MAX)
}

impl Replay for Replayed {
    fn replay(&mut self, _: Timestamp, table: TableKey, change: &Change) {
        Replayed::replay(self, table, change);
    }
}
