//! The server on its host, as the world drives it: a real process, on a disk in memory.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use ipnet::Ipv6Net;
use nat64handoff::disk::storage::SyncPolicy;
use nat64handoff::handoff::change::{Now, Timestamp};
use nat64handoff::handoff::entry::{Client, Entry, MappedPort, TableKey};
use nat64handoff::handoff::stats::Counter;
use nat64handoff::handoff::table::TableLimits;
use nat64handoff::kernel::bpf::names::PeerName;
use nat64handoff::kernel::clock::HandClock;
use nat64handoff::kernel::socket::steered_to;
use nat64handoff::programs::serve::inquiry::Question;
use nat64handoff::programs::serve::names::Names;
use nat64handoff::programs::serve::recovery::StateAhead;
use tempfile::TempDir;

use crate::dice::Dice;
use crate::former::{COMPRESSED, next_former, text_of};
use crate::kind::Kind;
use crate::process::{Actor, LogTear, Place, Process, ProcessConfig, Sent, Sockets, Waiting};
use crate::sim::{Fault, SimDisk};

const ROOT: &str = "/state";
/// The error of a full disk.
const NO_SPACE: i32 = 28;
/// Time between two syncs.
const SYNC_EVERY: Duration = Duration::from_millis(100);
/// In which the times of files are counted, or less.
const TICK: Duration = Duration::from_millis(1);
/// By which names find their places.
const NAMES_SEED: u64 = 0x1122_3344_5566_7788;
/// The most steps until the server has nothing to do.
const STEPS_MAX: usize = 2000;

/// How the server is set up.
#[derive(Debug, Clone)]
pub struct Setup {
    pub nat64s_max: usize,
    pub entries_max: usize,
    pub table_max: usize,
    /// How many peers may have names.
    pub names_max: u32,
    /// Nothing is announced before it is synced.
    pub always: bool,
    /// The journal is compacted early and often.
    pub small_journal: bool,
    /// The most datagrams that a reactor takes at once.
    pub batch_max: usize,
}

/// The tables, each with its entries by their ports.
pub type Tables = BTreeMap<TableKey, Vec<Entry>>;

/// What the server counted since it was started.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    pub datagrams: u64,
    pub dropped: u64,
    /// Entries whose ports have no name.
    pub unnamed: u64,
}

/// See above.
pub struct Host {
    place: Place,
    config: ProcessConfig,
    pub disk: SimDisk,
    directory: TempDir,
    process: Option<Process>,
    sockets: Sockets,
    /// What a successor has read ahead, and from which seed.
    ahead: Option<(StateAhead, [u8; 32])>,
    rotations: usize,
    names_max: u32,
    sent: Vec<Sent>,
    /// Whose next step it is, of those that could make one.
    dice: Dice,
    /// Operations of the disk failed since the server was started: a sync may have, too.
    pub disk_failed: bool,
    /// Those who work for the disk make no steps.
    pub disk_waits: bool,
    /// The canary that is on: see [`crate::mutant`].
    pub mutant: Option<Kind>,
    /// The disk at an earlier time, for canaries.
    earlier: Option<SimDisk>,
    /// Operations of the disk that it survives.
    dies_at: Option<u64>,
    /// When the last sync of each shard began.
    synced: Vec<Duration>,
}

impl Host {
    /// Not started yet.
    pub fn new(setup: &Setup, dice: Dice, now: Now) -> Self {
        let disk = SimDisk::new(Path::new(ROOT));
        let (mut place, directory) = Place::in_memory(&disk, ROOT, now);
        place.names = Some(no_names(setup.names_max));
        let sync = if setup.always { SyncPolicy::Always } else { SyncPolicy::Interval(SYNC_EVERY) };
        let default = ProcessConfig::default();
        let limits = TableLimits { entries_max: setup.table_max, ..TableLimits::default() };
        let config = ProcessConfig {
            sync,
            nat64s_max: setup.nat64s_max,
            entries_max: setup.entries_max,
            limits,
            segment_max: if setup.small_journal { 1500 } else { default.segment_max },
            compact_min: if setup.small_journal { 4000 } else { default.compact_min },
            batch_max: setup.batch_max,
            ..default
        };
        Self {
            place,
            config,
            disk,
            directory,
            process: None,
            sockets: Sockets::default(),
            ahead: None,
            rotations: 0,
            names_max: setup.names_max,
            sent: Vec::new(),
            dice,
            disk_failed: false,
            disk_waits: false,
            mutant: None,
            earlier: None,
            dies_at: None,
            synced: Vec::new(),
        }
    }

    pub fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// It is that time now.
    pub fn set_time(&mut self, now: Now) {
        self.place.clock.set(now);
    }

    /// Starts the server with that many reactors on what it left.
    ///
    /// # Errors
    /// What it says where it cannot.
    pub fn start(&mut self, reactors: usize) -> Result<(), String> {
        if reactors != self.config.reactors {
            if let Some(earlier) = self.earlier.take() {
                // What was written by another number of reactors is not read.
                self.use_disk(earlier);
            }
            self.synced = vec![self.synced.iter().copied().min().unwrap_or_default(); reactors];
        }
        self.config.reactors = reactors;
        let sockets = std::mem::take(&mut self.sockets);
        let (ahead, seed) = match self.ahead.take() {
            Some((ahead, seed)) => (Some(ahead), seed),
            None => (None, self.dice.seed()),
        };
        let kept = sockets.clone();
        let process = Process::start(&self.place, &self.config, sockets, ahead, seed);
        match process {
            Ok(process) => {
                if self.mutant == Some(Kind::Reactors) {
                    self.earlier = Some(self.disk.copy());
                }
                self.process = Some(process);
                Ok(())
            }
            Err(why) => {
                self.sockets = kept;
                Err(why)
            }
        }
    }

    /// The process is gone at once. Its sockets are kept.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            self.sockets = process.kill();
            if self.mutant == Some(Kind::Kill) {
                // What was not synced is lost, as by a power cut.
                self.disk.power_cut(self.dice.random());
            }
        }
        self.sent.clear();
        self.ahead = None;
    }

    /// The process ends as it should, where it can; maybe for the successor that has read ahead.
    pub fn stop(&mut self, succeeds: bool) {
        if !succeeds {
            self.ahead = None;
        }
        if let Some(process) = self.process.take() {
            let mut stopped = process.stop();
            self.sent.append(&mut stopped.sent);
            self.sockets = stopped.sockets;
            if self.mutant == Some(Kind::HandOver) && self.ahead.is_some() {
                // The successor takes what it has read for all.
                self.ahead = None;
                if let Some(earlier) = self.earlier.take() {
                    self.use_disk(earlier);
                }
            }
        }
    }

    /// A successor reads the state while this one serves.
    pub fn read_ahead(&mut self) {
        if let Some(process) = &self.process {
            process.hold_compaction(true);
            let seed = self.dice.seed();
            let ahead = Process::read_ahead(&self.place, &self.config, seed);
            if self.mutant == Some(Kind::HandOver) {
                self.earlier = Some(self.disk.copy());
            }
            self.ahead = ahead.ok().flatten().map(|ahead| (ahead, seed));
        }
    }

    /// The successor has given up.
    pub fn read_in_vain(&mut self) {
        self.ahead = None;
        if let Some(process) = &self.process {
            process.hold_compaction(false);
        }
    }

    /// What was announced before that time outlives the loss of power.
    pub fn is_synced_since(&self) -> Duration {
        match self.config.sync {
            SyncPolicy::Always => Duration::MAX,
            _ => self.synced.iter().copied().min().unwrap_or_default(),
        }
    }

    /// The power is gone, and what was not synced.
    pub fn cut_power(&mut self, now: Now) {
        self.place.clock = Arc::new(HandClock::new(now));
        self.kill();
        if self.config.fills_names {
            // They are in the kernel's memory.
            self.place.names = Some(no_names(self.names_max));
        }
        self.dies_at = None;
        self.disk.power_cut(self.dice.random());
        let tear = if self.dice.chance(5000) { LogTear::Cut } else { LogTear::Hole };
        // Of former files it is not known what is synced: they are compressed by other means.
        if self.log_files().len() == 1 {
            self.config.log_disk.power_cut(self.directory.path(), tear, self.dice.random());
        }
        self.config.log_disk.fail(None);
        self.sockets = Sockets::default();
    }

    /// The server is killed within an operation of the disk: the so-manieth from now on.
    pub fn die_in_disk(&mut self, operation: u64) {
        self.dies_at = Some(self.disk.operations() + operation);
        self.disk.fail(operation, Fault::Crash, true);
        if self.mutant == Some(Kind::KillInDisk) {
            self.earlier = Some(self.disk.copy());
        }
    }

    /// Whether the operation was reached within which it is killed. Then all else is as it was
    /// after the one before.
    pub fn died(&mut self) -> bool {
        let died = self.dies_at.is_some_and(|at| self.disk.operations() > at);
        if died {
            self.revive_disk();
            if let Some(earlier) = self.earlier.take() {
                // A write that is cut takes those before it with it.
                self.use_disk(earlier);
            }
        }
        died
    }

    /// Whether it is to be killed within an operation of the disk.
    pub fn is_to_die(&self) -> bool {
        self.dies_at.is_some()
    }

    /// Whether its journal and its log are ready.
    pub fn is_recording(&self) -> bool {
        self.process.as_ref().is_some_and(Process::is_recording)
    }

    /// A disk that only a process that is no more saw fail.
    fn revive_disk(&mut self) {
        self.dies_at = None;
        self.kill();
        self.use_disk(self.disk.copy());
    }

    fn use_disk(&mut self, disk: SimDisk) {
        self.disk = disk;
        self.place.disk = Arc::new(self.disk.clone());
    }

    /// The log's file can take nothing more, for now.
    pub fn fill_log_disk(&mut self) {
        self.config.log_disk.fail(Some(NO_SPACE));
    }

    /// The disk works again.
    pub fn heal_disk(&mut self) {
        self.died();
        self.dies_at = None;
        self.disk.heal();
        self.config.log_disk.fail(None);
    }

    /// The disk, as it is now, is kept for canaries.
    pub fn remember_disk(&mut self) {
        self.earlier = Some(self.disk.copy());
    }

    /// The disk is as it was when it was kept.
    pub fn forget_writes(&mut self) {
        if let Some(earlier) = self.earlier.take() {
            self.use_disk(earlier);
        }
    }

    /// A datagram comes to its socket. Returns whether there was room for it.
    pub fn deliver(&mut self, datagram: Waiting) -> bool {
        if let Some(process) = &mut self.process {
            return process.deliver(datagram);
        }
        let queues = &mut self.sockets.0;
        if queues.is_empty() {
            queues.resize(self.config.reactors, VecDeque::new());
        }
        let queue = steered_to(*datagram.from.ip(), queues.len());
        let has_room = queues[queue].len() < self.config.queue_max;
        if has_room {
            queues[queue].push_back(datagram);
        }
        has_room
    }

    fn can_step(&self, actor: Actor) -> bool {
        !(self.disk_waits && matches!(actor, Actor::Sync(_) | Actor::Compact(_) | Actor::Log))
    }

    /// How soon somebody has something to do; none where nobody will by itself.
    pub fn due(&self) -> Option<Duration> {
        let process = self.process.as_ref()?;
        let mut due = None;
        for actor in process.actors().filter(|&actor| self.can_step(actor)) {
            let its = process.due(actor);
            if its == Some(Duration::ZERO) {
                return its;
            }
            due = due.into_iter().chain(its).min();
        }
        due
    }

    /// One of those who have something to do does it: a step.
    ///
    /// # Errors
    /// Why the server ends by itself.
    pub fn step(&mut self, now: Duration) -> Result<Option<Actor>, String> {
        let Some(process) = &self.process else { return Ok(None) };
        let is_due = |actor: &Actor| process.due(*actor) == Some(Duration::ZERO);
        let ready = process.actors().filter(|&actor| self.can_step(actor));
        let ready: Vec<_> = ready.filter(is_due).collect();
        if ready.is_empty() {
            return Ok(None);
        }
        let actor = *self.dice.pick(&ready);
        let Some(process) = &mut self.process else { return Ok(None) };
        process.step(actor, &mut self.sent)?;
        if process.has_failed() {
            return Err("a part of it has failed".into());
        }
        if let Actor::Sync(shard) = actor
            && !self.disk_failed
        {
            self.synced.resize(self.config.reactors, now);
            self.synced[shard] = now;
        }
        Ok(Some(actor))
    }

    /// Steps until nobody has anything to do.
    ///
    /// # Errors
    /// As [`Host::step`]; where that is never so.
    pub fn settle(&mut self, now: Duration) -> Result<(), String> {
        for _ in 0..STEPS_MAX {
            if self.step(now)?.is_none() && !self.wake_log()? {
                return Ok(());
            }
        }
        Err("it is never done".into())
    }

    /// Under load the log naps between two batches, and is woken here where lines wait. Whether it
    /// has written any.
    fn wake_log(&mut self) -> Result<bool, String> {
        let Some(process) = self.process.as_mut().filter(|_| !self.disk_waits) else {
            return Ok(false);
        };
        let unwritten = |process: &Process| process.log_gauge().map_or(0, |log| log.unwritten());
        let before = unwritten(process);
        if before > 0 {
            process.step(Actor::Log, &mut self.sent)?;
        }
        Ok(unwritten(process) < before)
    }

    /// What it sent since this was asked last.
    pub fn take_sent(&mut self) -> Vec<Sent> {
        std::mem::take(&mut self.sent)
    }

    /// The files of its event log, in their order: those of former days, then the log itself.
    fn log_files(&self) -> Vec<PathBuf> {
        let all = fs::read_dir(self.directory.path()).expect("the log's directory");
        let names = all.map(|file| file.expect("its name").file_name());
        let place = |name: &str| {
            let rest = name.strip_prefix("events.log-")?.trim_end_matches(COMPRESSED);
            let (day, number) = rest.split_once('.').unwrap_or((rest, "0"));
            Some((day.to_owned(), number.parse::<usize>().ok()?))
        };
        let mut former: Vec<_> = names
            .filter_map(|name| Some((place(name.to_str()?)?, name)))
            .map(|(place, name)| (place, self.directory.path().join(name)))
            .collect();
        former.sort();
        former.into_iter().map(|(_, path)| path).chain([self.place.log.clone()]).collect()
    }

    /// All of its event log.
    pub fn log(&self) -> String {
        let mut all = String::new();
        for path in self.log_files() {
            // The power may have cut the end of a file, and the next one begins with a line.
            if !all.is_empty() && !all.ends_with('\n') {
                all.push('\n');
            }
            all += &text_of(&path);
        }
        all
    }

    /// The operator moves the log's file away, and has another one opened.
    pub fn rotate_log(&mut self) {
        self.rotations += 1;
        let mut former = self.place.log.clone();
        if self.mutant == Some(Kind::LogRotation) {
            former.set_extension(format!("lost.{}", self.rotations));
        } else {
            former = next_former(&self.log_files(), &self.place.log);
        }
        self.be_later();
        let _ = fs::rename(&self.place.log, &former);
        self.reopen_log();
    }

    /// The log was written later than the files that were the log before, also by the times of the
    /// files: seconds lie between in the simulation, and too little for a file system outside of
    /// it.
    fn be_later(&self) {
        let time = |path: &Path| fs::metadata(path).and_then(|data| data.modified()).ok();
        let latest = self.log_files().iter().filter_map(|path| time(path)).max();
        let Ok(log) = fs::File::options().append(true).open(&self.place.log) else { return };
        let folder = self.place.log.parent().expect("its folder");
        loop {
            let made = tempfile::tempfile_in(folder).and_then(|file| file.metadata()?.modified());
            let Ok(now) = made else { return };
            if latest.is_none_or(|latest| latest < now) {
                let _ = log.set_modified(now);
                return;
            }
            thread::sleep(TICK);
        }
    }

    /// The operator has the log's file opened again.
    pub fn reopen_log(&mut self) {
        if self.mutant == Some(Kind::Reload) {
            // It is made empty.
            let _ = fs::write(&self.place.log, "");
        }
        if let Some(process) = &self.process {
            process.reopen_log();
        }
    }

    /// The operator bans a client.
    pub fn ban(&mut self, address: Ipv6Addr) -> bool {
        let process = self.process.as_mut();
        process.is_some_and(|process| process.ban(Ipv6Net::from(address), None).is_ok())
    }

    /// And bans it no more.
    pub fn unban(&mut self, address: Ipv6Addr) -> bool {
        let process = self.process.as_mut();
        process.is_some_and(|process| process.unban(Ipv6Net::from(address)).is_ok())
    }

    /// The operator has a table given up.
    pub fn drop_table(&mut self, table: TableKey) {
        if let Some(process) = &self.process {
            let _ = process.ask(process.reactor_of(table.nat64), Question::Drop(table));
        }
    }

    pub fn tables(&mut self) -> Tables {
        let mut tables = Tables::new();
        let all = self.process.as_mut().map(Process::tables).unwrap_or_default();
        for (table, entry) in all {
            tables.entry(table).or_default().push(entry);
        }
        tables
    }

    /// What contradicts itself in it.
    pub fn contradiction(&mut self) -> Option<String> {
        self.process.as_mut()?.contradiction()
    }

    /// NAT64s and entries that it counts.
    pub fn used(&self) -> (usize, usize) {
        self.process.as_ref().map(Process::used).unwrap_or_default()
    }

    /// The names of peers that are there now: at which port, and of whom.
    pub fn names(&self) -> Vec<(TableKey, MappedPort, PeerName)> {
        let mut all = Vec::new();
        if let Some(names) = &self.place.names {
            names.each(|table, port, name| all.push((table, port, name)));
        }
        all
    }

    /// The client that an entry is of.
    pub fn client_at(&mut self, table: TableKey, port: MappedPort) -> Option<Client> {
        self.process.as_mut()?.client_at(table, port)
    }

    /// By a canary: it takes the names that it finds for right.
    pub fn trust_names(&mut self) {
        self.config.fills_names = false;
    }

    /// Datagrams that wait in its sockets.
    pub fn waiting(&self) -> usize {
        match &self.process {
            Some(process) => process.waiting(),
            None => self.sockets.0.iter().map(VecDeque::len).sum(),
        }
    }

    pub fn counts(&self) -> Counts {
        let stats = self.process.as_ref().map(Process::stats).unwrap_or_default();
        let mut counts = Counts::default();
        for stats in stats {
            counts.datagrams += stats.get(Counter::Datagrams);
            counts.dropped += stats.dropped_all();
            counts.unnamed += stats.get(Counter::Unnamed);
        }
        counts
    }
}

/// A place for names, without any.
fn no_names(names_max: u32) -> Arc<Names> {
    Arc::new(Names::in_memory(names_max, NAMES_SEED).expect("memory"))
}

/// The wall clock at that time since some moment.
pub fn wall(micros: u64) -> Timestamp {
    Timestamp::from_micros(micros)
}

/// Where clients live.
pub fn client_address(nat64: usize, client: usize) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, nat64 as u16, (client / 3) as u16, 0, 0, 0, client as u16 + 1)
}

/// The address of a NAT64.
pub fn nat64_address(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, 7 + number as u8)
}
