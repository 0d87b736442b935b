//! The first half of a start: the state of the last run is read, and the tables are filled.
//! `disk::journal` and `disk::storage` say what the files look like.
//!
//! Not here: how journal and event log are made ready to be written (`recording`).

use std::num::NonZero;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use crate::disk::counted::{CountedDisk, octets_in};
use crate::disk::eventlog::{self, Destination};
use crate::disk::fs::{Disk, RealDisk};
use crate::disk::journal::Growth;
use crate::disk::storage::{
    self, Opened, Replay, StateDirectory, StatePlace, Storage, StorageConfig, StorageError,
    SyncPolicy, TableChanges,
};
use crate::handoff::change::{Change, LogFormat, Timestamp};
use crate::handoff::entry::TableKey;
use crate::handoff::server::{ChangesLater, Replayed, Server};
use crate::kernel::socket;
use crate::kernel::stderr::say;
use crate::programs::options::ServeConfig;
use crate::programs::progress::Progress;
use crate::programs::serve::recording::{LOG_CURSOR, Recording, RecordingState, RecoverError};

/// The most threads that fill the tables of one shard: the one that reads cannot feed more.
const PARTS_MAX: usize = 8;
/// The fewest parts of all shards together, where these are not more.
const PARTS_LEAST: usize = 16;

/// What survives a run, and where it is.
pub struct Kept {
    pub state: StateDirectory,
    /// When the journal is made durable. `None`: there is no journal.
    pub sync: Option<SyncPolicy>,
    pub log: Destination,
    /// What the log's lines look like.
    pub format: LogFormat,
    /// How many days its files of former days are kept; 0: for ever.
    pub keep_days: u32,
    /// Whether addresses of the pool may come to stand for clients.
    pub names: bool,
}

/// What was read of a state while another process served with it.
pub struct StateAhead {
    read: storage::ReadAhead,
    /// The tables as they were then.
    replayed: Vec<Replayed>,
}

/// How often it is tried to read a state that another process writes: it may have compacted it
/// meanwhile, and removed what was to be read.
const AHEAD_TRIES: usize = 3;

impl StateAhead {
    /// Reads what there is for `servers`, one for each shard. `None`: there is no state yet.
    ///
    /// # Errors
    /// Where anything is damaged, or the disk refuses.
    pub fn read(
        state: &Path,
        sync: SyncPolicy,
        handoff_port: u16,
        servers: &[Server],
    ) -> Result<Option<Self>, RecoverError> {
        Self::read_on(
            &RealDisk,
            state,
            &StorageConfig::new(servers.len(), handoff_port, sync),
            servers,
        )
    }

    /// As [`StateAhead::read`], on any disk.
    ///
    /// # Errors
    /// As there.
    pub fn read_on(
        disk: &dyn Disk,
        state: &Path,
        config: &StorageConfig,
        servers: &[Server],
    ) -> Result<Option<Self>, RecoverError> {
        let try_once = || -> Result<Option<Self>, StorageError> {
            // There is time: another process serves.
            let mut replayed = replayed(servers, parts_of(config), Server::replayed);
            let shards = servers.len();
            let shard_of = move |nat64| socket::steered_to(nat64, shards);
            let read = Storage::read_ahead(disk, state, config, shard_of, &mut replayed)?;
            Ok(read.map(|read| Self { read, replayed }))
        };
        let mut result = try_once();
        for _ in 1..AHEAD_TRIES {
            if result.is_ok() {
                break;
            }
            result = try_once();
        }
        result.map_err(RecoverError::Storage)
    }

    /// Whether the state goes on where this ended.
    fn fits(&self, disk: &dyn Disk, root: &Path, log: &Destination) -> Result<bool, StorageError> {
        let cursor = self.read.epoch_folder(root).join(LOG_CURSOR);
        let logged = eventlog::known_events(disk, log, &cursor);
        self.read.fits(disk, root, logged.as_deref())
    }
}

/// What was read.
pub struct StateFound {
    /// To be made ready, so that changes can be recorded.
    pub recording: Recording,
    /// What an operator should know about the state that was found, a line each.
    pub lines: Vec<String>,
}

impl Kept {
    /// What a server with this configuration keeps.
    pub fn of(config: &ServeConfig, state: StateDirectory, log: Destination) -> Self {
        Self {
            state,
            sync: config.has_journal().then_some(config.sync),
            log,
            format: config.log_format,
            keep_days: config.log_keep,
            names: config.pool().is_some(),
        }
    }

    /// Fills `servers`, one for each shard, which are empty; from what was read `ahead` for them as
    /// far as that is so still.
    ///
    /// # Errors
    /// Where anything is damaged, or the disk refuses.
    pub fn read(
        self,
        handoff_port: u16,
        servers: &mut [Server],
        ahead: Option<StateAhead>,
    ) -> Result<StateFound, RecoverError> {
        let Kept { state, sync, log, format, keep_days, names } = self;
        let tightened = state.tightened_from().map(|mode| {
            let path = state.path().display();
            format!(
                "the state directory {path} had mode {mode:04o}, and has 0700 now (in a unit, \
                 StateDirectoryMode=0700 keeps it so)"
            )
        });
        let mut lines: Vec<String> = tightened.into_iter().collect();
        let progress = match sync {
            Some(_) => Progress::begin("reading the state", octets_in(state.path())),
            None => Progress::hidden(),
        };
        let disk: Arc<dyn Disk> = match progress.counter() {
            Some(read) => Arc::new(CountedDisk::new(read)),
            None => Arc::new(RealDisk),
        };
        let state = match sync {
            None => RecordingState::Locked(state),
            Some(sync) => {
                let config = StorageConfig {
                    names,
                    ..StorageConfig::new(servers.len(), handoff_port, sync)
                };
                let place = StatePlace::Locked(state);
                let opened = replay(&disk, place, config, &log, servers, ahead)?;
                lines.push(opened.report.to_string());
                RecordingState::Opened(Box::new(opened))
            }
        };
        drop(progress);
        let shards = servers.len();
        let recording = Recording::new(disk, state, shards, log, format, keep_days, sync);
        Ok(StateFound { recording, lines })
    }
}

/// Fills `servers` from the journal on a disk, and from what was read `ahead` as far as that is so
/// still.
///
/// # Errors
/// Where anything is damaged, or the disk refuses.
pub fn replay(
    disk: &Arc<dyn Disk>,
    state: StatePlace,
    config: StorageConfig,
    log: &Destination,
    servers: &mut [Server],
    ahead: Option<StateAhead>,
) -> Result<Opened, RecoverError> {
    let shards = servers.len();
    let fits = ahead.as_ref().map(|ahead| ahead.fits(&**disk, state.path(), log));
    let fits = fits.transpose().map_err(RecoverError::Storage)?.unwrap_or(false);
    if ahead.is_some() && !fits {
        say(format_args!(
            "the state is read once more: it was compacted, or its event log was not complete, since it was read"
        ));
    }
    let (ahead, mut replayed) = match ahead.filter(|_| fits) {
        Some(StateAhead { read, replayed }) => (Some(read), replayed),
        // Who asks first is served before all tables are filled.
        None => (None, replayed(servers, parts_of(&config), |server| server.replayed().later())),
    };
    let opened = Storage::open_in(
        Arc::clone(disk),
        state,
        config,
        move |nat64| socket::steered_to(nat64, shards),
        |folder| eventlog::known_events(&**disk, log, &folder.join(LOG_CURSOR)),
        ahead,
        &mut replayed,
    )
    .map_err(RecoverError::Storage)?;
    // As many as there were when it was read ahead.
    let parts = replayed.len() / shards;
    for (index, replayed) in replayed.into_iter().enumerate() {
        servers[index / parts].adopt(replayed);
    }
    Ok(opened)
}

/// What the state is replayed to: for each shard as many as its parts.
fn replayed(servers: &[Server], parts: usize, new: impl Fn(&Server) -> Replayed) -> Vec<Replayed> {
    let of = |server: &Server| -> Vec<_> { (0..parts).map(|_| new(server)).collect() };
    servers.iter().flat_map(of).collect()
}

/// How many threads read the state, and fill the tables of this number of shards.
pub fn threads(shards: usize) -> usize {
    shards * (1 + parts(shards))
}

/// In how many parts the tables of a shard are filled: more than there are cores for it, so that
/// all cores are busy to the end, as tables are unequal. Each shard has one more thread, which
/// reads and needs a core for a part of the time.
fn parts(shards: usize) -> usize {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    ((2 * cores).max(PARTS_LEAST) / shards).clamp(1, PARTS_MAX)
}

/// One for each shard where there are to be no threads.
fn parts_of(config: &StorageConfig) -> usize {
    if config.threads { parts(config.shards) } else { 1 }
}

impl Replay for Replayed {
    fn replay(&mut self, _: Timestamp, table: TableKey, change: &Change) {
        Replayed::replay(self, table, change);
    }

    fn expect(&mut self, table: TableKey, entries: usize, clients: usize) {
        Replayed::expect(self, table, entries, clients);
    }

    fn later(&mut self, table: TableKey, changes: TableChanges) -> Option<TableChanges> {
        if !self.fills_later() || table.is_block() {
            return Some(changes);
        }
        let Growth { entries, addresses, is_forgotten } = changes.growth();
        if is_forgotten {
            return Some(changes);
        }
        let give = move |apply: &mut dyn FnMut(&Change)| {
            changes.iter().for_each(|(_, change)| apply(&change));
        };
        self.replay_later(table, ChangesLater { entries, addresses, give: Box::new(give) });
        None
    }
}
