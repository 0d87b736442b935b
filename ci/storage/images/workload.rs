//! The lives of a server, as a list of moments: what the disk was before each of its operations,
//! and what had been promised by then.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use nat64handoff::disk::bans::{self, KeptBan};
use nat64handoff::disk::eventlog::Logged;
use nat64handoff::disk::fs::Disk;
use nat64handoff::disk::storage::{JournalWriter, Opened, Started, Storage, SyncPolicy};
use nat64handoff::handoff::change::{Change, Event, LogFormat};
use nat64handoff::handoff::entry::TableKey;
use nat64handoff::handoff::random::Random;

use super::log::{Mirror, RealLog, RunningLog, open_with_log};
use crate::faults::{open, shard_of};
use crate::model::{Changer, Model};
use crate::real::at;
use crate::sim::{Moment, SimDisk};

pub const ROOT: &str = "/state";
const TABLES: u8 = 4;
const STEPS: usize = 28;
/// The numbers of shards of the lives: the same twice, and another one.
const SHARDS: [usize; 4] = [1, 1, 2, 1];

/// What is promised of a shard: numbers of states of its life.
#[derive(Debug, Clone, Copy, Default)]
pub struct Least {
    /// That was written last.
    written: usize,
    /// That was announced: no kill may take it.
    pub announced: usize,
    /// That no power cut may take.
    pub promised: usize,
}

/// What is promised at a time.
#[derive(Debug, Clone, Default)]
pub struct Mark {
    pub life: usize,
    pub least: Vec<Least>,
    /// The first and the last of the sets of bans that may be kept.
    pub bans: (usize, usize),
    /// Whether the life ended by a power cut.
    pub is_cut: bool,
}

/// A server between its start and its end.
pub struct Life {
    /// Of each shard the state after each batch, the first being what it was started with.
    pub states: Vec<Vec<Model>>,
    pub log: Option<LifeLog>,
}

/// The event log of a life.
#[derive(Default)]
pub struct LifeLog {
    /// What it had when the life began, and all tables.
    pub base: Vec<u8>,
    pub begin: Model,
    /// Of each shard its lines, and how many there are with each of its states.
    pub lines: Vec<Vec<String>>,
    pub counts: Vec<Vec<usize>>,
}

pub struct Workload {
    pub seed: u64,
    pub policy: SyncPolicy,
    pub lives: Vec<Life>,
    pub bans: Vec<Vec<KeptBan>>,
    pub marks: Vec<Mark>,
    pub moments: Vec<Moment>,
    pub log: Option<Arc<RealLog>>,
}

/// Keeps what is promised, also while a sync is under way.
#[derive(Clone)]
struct Promises {
    disk: SimDisk,
    marks: Arc<Mutex<Vec<Mark>>>,
}

impl Promises {
    fn change(&self, change: impl FnOnce(&mut Mark)) {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut mark = marks.last().cloned().unwrap_or_default();
        change(&mut mark);
        self.disk.mark(marks.len());
        marks.push(mark);
    }
}

struct Recorder {
    seed: u64,
    policy: SyncPolicy,
    disk: SimDisk,
    random: Random,
    promises: Promises,
    lives: Vec<Life>,
    bans: Vec<Vec<KeptBan>>,
    time: u64,
    /// Where there is an event log.
    mirror: Option<Mirror>,
    running: Option<RunningLog>,
}

/// How a life ends.
#[derive(Clone, Copy)]
enum End {
    Stop,
    Kill,
    PowerCut,
}

/// Whether no image with this hash was counted before, by anybody.
pub fn is_counted_first(hash: u64) -> bool {
    static COUNTED: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());
    COUNTED.lock().unwrap_or_else(PoisonError::into_inner).insert(hash)
}

pub fn seeded(seed: u64, what: u8) -> Random {
    let mut octets = [what; 32];
    octets[..8].copy_from_slice(&seed.to_be_bytes());
    Random::new(octets)
}

impl Workload {
    pub fn record(seed: u64, policy: SyncPolicy) -> Self {
        Self::record_on(&SimDisk::new(Path::new(ROOT)), seed, policy)
    }

    /// With an event log.
    pub fn record_with_log(seed: u64, policy: SyncPolicy) -> Self {
        let disk = SimDisk::new(Path::new(ROOT));
        let mirror = Mirror::new(&disk, policy);
        Self::record_by(&disk, Some(mirror), seed, policy)
    }

    /// `disk` is empty.
    pub fn record_on(disk: &SimDisk, seed: u64, policy: SyncPolicy) -> Self {
        Self::record_by(disk, None, seed, policy)
    }

    fn record_by(disk: &SimDisk, mirror: Option<Mirror>, seed: u64, policy: SyncPolicy) -> Self {
        let promises = Promises { disk: disk.clone(), marks: Arc::default() };
        promises.change(|_| {});
        disk.keep_moments();
        let mut recorder = Recorder {
            seed,
            policy,
            disk: disk.clone(),
            random: seeded(seed, 5),
            promises,
            lives: vec![Life { states: vec![vec![Model::default()]], log: None }],
            bans: vec![Vec::new()],
            time: 0,
            mirror,
            running: None,
        };
        recorder.promises.change(|mark| mark.least = vec![Least::default()]);
        for shards in SHARDS {
            recorder.live(shards);
        }
        let Recorder { promises, lives, bans, mirror, .. } = recorder;
        let log = mirror.map(|mirror| Arc::clone(mirror.log()));
        let marks = promises.marks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Workload { seed, policy, lives, bans, marks, moments: disk.take_moments(), log }
    }
}

impl Recorder {
    fn live(&mut self, shards: usize) {
        let (mut opened, recovered) =
            self.open(shards).unwrap_or_else(|error| panic!("seed {}: {error}", self.seed));
        let of = shard_of(shards);
        let changers = (0..shards).map(|shard| {
            let mut changer = Changer::new(self.seed.wrapping_add(self.time), TABLES);
            changer.model.0 = recovered.0.clone();
            changer.model.0.retain(|key, _| of(key.nat64) == shard);
            changer
        });
        let mut changers: Vec<Changer> = changers.collect();
        let states = changers.iter().map(|changer| vec![changer.model.clone()]).collect();
        let log = self.mirror.as_ref().map(|mirror| LifeLog {
            base: mirror.log().content(),
            begin: recovered.clone(),
            lines: vec![Vec::new(); shards],
            counts: vec![vec![0]; shards],
        });
        self.lives.push(Life { states, log });
        let life = self.lives.len() - 1;
        self.promises.change(|mark| {
            (mark.life, mark.least) = (life, vec![Least::default(); shards]);
            mark.is_cut = false;
        });
        let (has_log, logged) = (self.mirror.is_some(), Arc::new(OnceLock::<Logged>::new()));
        let asked = Arc::clone(&logged);
        let logged_of = move |shard| match asked.get() {
            Some(logged) => logged.get(shard),
            None if has_log => 0,
            None => u64::MAX,
        };
        let started = opened.start(at(self.time), Arc::new(logged_of));
        let started = started.unwrap_or_else(|error| panic!("seed {}: {error}", self.seed));
        if let Some(mirror) = &self.mirror {
            let running = RunningLog::start(mirror, &started, self.policy);
            drop(logged.set(running.logged()));
            self.running = Some(running);
        }
        let Started { storage, mut writers, .. } = started;
        for (shard, writer) in writers.iter().enumerate() {
            let (promises, policy) = (self.promises.clone(), self.policy);
            writer.set_wake(Arc::new(move || {
                promises.change(|mark| mark.least[shard].synced(policy));
            }));
        }
        for _ in 0..STEPS {
            self.step(&storage, &mut writers, &mut changers);
        }
        self.end(writers);
    }

    fn open(&self, shards: usize) -> Result<(Opened, Model), String> {
        let Some(mirror) = &self.mirror else {
            return open(&self.disk, shards, self.policy).map_err(|error| error.to_string());
        };
        let disk: Arc<dyn Disk> = Arc::new(mirror.clone());
        let opened = open_with_log(&disk, &mirror.log().path, shards, self.policy, true);
        mirror.look();
        opened
    }

    fn end(&mut self, writers: Vec<JournalWriter>) {
        let end = [End::Stop, End::Kill, End::PowerCut][self.random.below(3) as usize];
        match end {
            End::Stop => {
                for writer in writers {
                    writer.close(at(self.time)).unwrap();
                }
                self.running.iter_mut().for_each(RunningLog::send);
            }
            End::Kill => {}
            End::PowerCut => {
                self.end_log();
                self.disk.power_cut(&mut self.random);
                self.mirror.iter().for_each(Mirror::power_was_cut);
                self.promises.change(|mark| {
                    mark.is_cut = true;
                    mark.least.iter_mut().for_each(|least| least.announced = least.promised);
                });
            }
        }
        self.end_log();
    }

    fn end_log(&mut self) {
        if let Some(running) = self.running.take() {
            running.end();
        }
    }

    /// The log gets the events of a batch, some time later.
    fn log(&mut self, shard: usize, changes: &[(TableKey, Change)]) {
        let Some(running) = &mut self.running else { return };
        let now = at(self.time);
        let events: Vec<Event> =
            changes.iter().filter_map(|(table, change)| change.event(now, *table)).collect();
        let log = self.lives.last_mut().unwrap().log.as_mut().unwrap();
        let lines = events.iter().map(|event| event.line(LogFormat::Full).to_string());
        log.lines[shard].extend(lines);
        log.counts[shard].push(log.lines[shard].len());
        running.take(shard, events.into_iter());
        if self.random.below(3) == 0 {
            running.send();
        }
    }

    fn step(&mut self, storage: &Storage, writers: &mut [JournalWriter], changers: &mut [Changer]) {
        self.time += 1;
        let shard = self.random.below(writers.len() as u32) as usize;
        match self.random.below(20) {
            0..14 => {
                let of = shard_of(writers.len());
                let mine = |key: TableKey| of(key.nat64) == shard;
                let changes = changers[shard].batch_of(at(self.time), 4, mine);
                if !changes.is_empty() {
                    let states = &mut self.lives.last_mut().unwrap().states[shard];
                    states.push(changers[shard].model.clone());
                    writers[shard].append(at(self.time), &changes).unwrap();
                    self.promises.change(|mark| mark.least[shard].appended(self.policy));
                    self.log(shard, &changes);
                }
            }
            14..17 => storage.sync(shard).unwrap(),
            17..19 => drop(storage.compact(shard, true).unwrap()),
            _ => self.ban(),
        }
    }

    fn ban(&mut self) {
        let ban = |n: usize| KeptBan {
            net: format!("2001:db8:{n:x}::/48").parse().unwrap(),
            since: at(self.time),
            end: n.is_multiple_of(2).then(|| at(self.time + 1)),
        };
        let kept: Vec<KeptBan> = (0..=self.random.below(8) as usize).map(ban).collect();
        self.bans.push(kept.clone());
        let last = self.bans.len() - 1;
        self.promises.change(|mark| mark.bans.1 = last);
        bans::write(&self.disk, Path::new(ROOT), &bans::encode(kept.into_iter())).unwrap();
        self.promises.change(|mark| mark.bans.0 = last);
    }
}

impl Least {
    fn appended(&mut self, policy: SyncPolicy) {
        self.written += 1;
        if policy != SyncPolicy::Always {
            self.announced = self.written;
        }
    }

    fn synced(&mut self, policy: SyncPolicy) {
        if policy != SyncPolicy::None {
            (self.announced, self.promised) = (self.written, self.written);
        }
    }
}
