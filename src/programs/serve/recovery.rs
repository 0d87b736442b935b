//! The state of the last run is read, and journal and event log are made ready to be written, in
//! the one right order.
//!
//! PROTOCOL.md section 9: the journal is read first; then the log is completed from it; then the
//! journal continues, perhaps with another number of shards; then the log does. A crash in between
//! is harmless: the next start does the same once more. `disk::journal` and `disk::storage` say
//! what the files look like.

use std::num::NonZero;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use crate::disk::eventlog::{self, Destination, EventLog, LogConfig, LogSync};
use crate::disk::fs::{Disk, RealDisk};
use crate::disk::storage::{
    JournalWriter, Opened, Replay, Started, StateDirectory, Storage, StorageConfig, StorageError,
    SyncPolicy,
};
use crate::handoff::change::{Change, LogFormat, Timestamp};
use crate::handoff::entry::TableKey;
use crate::handoff::server::{Replayed, Server};
use crate::handoff::stats::Stats;
use crate::kernel::clock::Clock;
use crate::kernel::socket;

/// The file in the epoch's folder that says how many events the log has.
const LOG_CURSOR: &str = "log.cursor";
/// How often the log is made durable where each reply waits for the journal.
const LOG_SYNC_INTERVAL: Duration = Duration::from_millis(100);
/// The most threads that fill the tables of one shard: the one that reads cannot feed more.
const PARTS_MAX: usize = 8;

/// Why nothing can be recovered.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The state cannot be read, or made ready.
    #[error(transparent)]
    Storage(StorageError),
    /// The event log cannot be completed, or started.
    #[error(transparent)]
    Log(eventlog::LogError),
}

/// What survives a run, and where it is.
pub struct Kept {
    pub state: StateDirectory,
    /// When the journal is made durable. `None`: there is no journal.
    pub sync: Option<SyncPolicy>,
    pub log: Destination,
    /// What the log's lines look like.
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
    pub log: EventLog,
    /// One for each shard.
    pub senders: Vec<eventlog::Sender>,
    /// What an operator should know about the state that was found, a line each.
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
        let tightened = self.state.tightened_from().map(|mode| {
            let path = self.state.path().display();
            format!("the state directory {path} had mode {mode:04o}, and has 0700 now")
        });
        let mut recovered = match self.sync {
            None => self.without_journal(servers.len(), on_log_failure),
            Some(sync) => {
                let config = StorageConfig::new(servers.len(), handoff_port, sync);
                self.with_journal(config, sync, servers, clock, on_log_failure)
            }
        }?;
        recovered.found.splice(0..0, tightened);
        Ok(recovered)
    }

    fn without_journal(
        self,
        shards: usize,
        on_log_failure: impl FnOnce() + Send + 'static,
    ) -> Result<Recovered, RecoverError> {
        let config = LogConfig {
            destination: self.log,
            format: self.format,
            sync: LogSync::None,
            cursor: None,
            first_events: vec![0; shards],
        };
        let (log, senders) =
            EventLog::start(&RealDisk, config, on_log_failure).map_err(RecoverError::Log)?;
        Ok(Recovered {
            storage: None,
            lock: Some(self.state),
            journals: (0..shards).map(|_| None).collect(),
            log,
            senders,
            found: Vec::new(),
        })
    }

    fn with_journal(
        self,
        config: StorageConfig,
        sync: SyncPolicy,
        servers: &mut [Server],
        clock: Clock,
        on_log_failure: impl FnOnce() + Send + 'static,
    ) -> Result<Recovered, RecoverError> {
        let Kept { state, mut log, format, .. } = self;
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let mut opened = replay(&disk, state, config, &log, servers)?;
        let found = vec![opened.report.to_string()];

        if let Some(folder) = &opened.epoch_folder {
            let unlogged = std::mem::take(&mut opened.unlogged);
            let cursor = folder.join(LOG_CURSOR);
            (log, _) = eventlog::complete(&*disk, log, format, &cursor, unlogged)
                .map_err(RecoverError::Log)?;
        }

        // Compaction asks how many events the log has. The log starts after the journal, which says
        // where it continues.
        let logged: Arc<OnceLock<eventlog::Logged>> = Arc::default();
        let asked = Arc::clone(&logged);
        let logged_of = move |shard| asked.get().map_or(0, |logged| logged.get(shard));
        let started =
            opened.start(clock.now().wall, Arc::new(logged_of)).map_err(RecoverError::Storage)?;

        let log_config = log_config(&started, log, format, sync);
        let (log, mut senders) =
            EventLog::start(&*disk, log_config, on_log_failure).map_err(RecoverError::Log)?;
        // This is the only place that sets it, so it cannot be set already.
        drop(logged.set(log.logged()));
        for (sender, events) in senders.iter_mut().zip(started.events) {
            let stats = Stats::default();
            events.into_iter().for_each(|event| sender.send(event, &stats));
            sender.publish();
        }
        let journals = started.writers.into_iter().map(Some).collect();
        Ok(Recovered { storage: Some(started.storage), lock: None, journals, log, senders, found })
    }
}

/// Fills `servers` from the journal.
fn replay(
    disk: &Arc<dyn Disk>,
    state: StateDirectory,
    config: StorageConfig,
    log: &Destination,
    servers: &mut [Server],
) -> Result<Opened, RecoverError> {
    let shards = servers.len();
    let parts = parts(shards);
    let mut replayed: Vec<Replayed> = servers
        .iter()
        .flat_map(|server| std::iter::repeat_with(|| server.replayed()).take(parts))
        .collect();
    let opened = Storage::open(
        Arc::clone(disk),
        state,
        config,
        move |nat64| socket::steered_to(nat64, shards),
        |folder| eventlog::known_events(&**disk, log, &folder.join(LOG_CURSOR)),
        &mut replayed,
    )
    .map_err(RecoverError::Storage)?;
    for (index, replayed) in replayed.into_iter().enumerate() {
        servers[index / parts].adopt(replayed);
    }
    Ok(opened)
}

/// The event log continues with the events that starting the journal made.
fn log_config(
    started: &Started,
    destination: Destination,
    format: LogFormat,
    sync: SyncPolicy,
) -> LogConfig {
    let first = |(&next, own): (&u64, &Vec<_>)| next - own.len() as u64;
    LogConfig {
        destination,
        format,
        sync: match sync {
            SyncPolicy::None => LogSync::None,
            SyncPolicy::Always => LogSync::Interval(LOG_SYNC_INTERVAL),
            SyncPolicy::Interval(interval) => LogSync::Interval(interval),
        },
        cursor: Some(started.epoch_folder.join(LOG_CURSOR)),
        first_events: started.first_events.iter().zip(&started.events).map(first).collect(),
    }
}

/// In how many parts the tables of a shard are filled, so that all cores are busy. Each shard has
/// one more thread, which reads and needs a core for a part of the time.
fn parts(shards: usize) -> usize {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    (cores / shards).clamp(1, PARTS_MAX)
}

impl Replay for Replayed {
    fn replay(&mut self, _: Timestamp, table: TableKey, change: &Change) {
        Replayed::replay(self, table, change);
    }
}
