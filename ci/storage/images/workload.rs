//! The lives of a server, as a list of moments: what the disk was before each of its operations,
//! and what had been promised by then.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use nat64handoff::disk::bans::{self, KeptBan};
use nat64handoff::disk::storage::{JournalWriter, Started, Storage, SyncPolicy};
use nat64handoff::handoff::entry::TableKey;
use nat64handoff::handoff::random::Random;

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
}

/// A server between its start and its end.
pub struct Life {
    /// Of each shard the state after each batch, the first being what it was started with.
    pub states: Vec<Vec<Model>>,
}

pub struct Workload {
    pub seed: u64,
    pub policy: SyncPolicy,
    pub lives: Vec<Life>,
    pub bans: Vec<Vec<KeptBan>>,
    pub marks: Vec<Mark>,
    pub moments: Vec<Moment>,
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
}

/// How a life ends.
#[derive(Clone, Copy)]
enum End {
    Stop,
    Kill,
    PowerCut,
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

    /// `disk` is empty.
    pub fn record_on(disk: &SimDisk, seed: u64, policy: SyncPolicy) -> Self {
        let promises = Promises { disk: disk.clone(), marks: Arc::default() };
        promises.change(|_| {});
        disk.keep_moments();
        let mut recorder = Recorder {
            seed,
            policy,
            disk: disk.clone(),
            random: seeded(seed, 5),
            promises,
            lives: vec![Life { states: vec![vec![Model::default()]] }],
            bans: vec![Vec::new()],
            time: 0,
        };
        recorder.promises.change(|mark| mark.least = vec![Least::default()]);
        for shards in SHARDS {
            recorder.live(shards);
        }
        let Recorder { promises, lives, bans, .. } = recorder;
        let marks = promises.marks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Workload { seed, policy, lives, bans, marks, moments: disk.take_moments() }
    }
}

impl Recorder {
    fn live(&mut self, shards: usize) {
        let (mut opened, recovered) = open(&self.disk, shards, self.policy)
            .unwrap_or_else(|error| panic!("seed {}: {error}", self.seed));
        let of = shard_of(shards);
        let changers = (0..shards).map(|shard| {
            let mut changer = Changer::new(self.seed.wrapping_add(self.time), TABLES);
            changer.model.0 = recovered.0.clone();
            changer.model.0.retain(|key, _| of(key.nat64) == shard);
            changer
        });
        let mut changers: Vec<Changer> = changers.collect();
        let states = changers.iter().map(|changer| vec![changer.model.clone()]).collect();
        self.lives.push(Life { states });
        let life = self.lives.len() - 1;
        self.promises.change(|mark| {
            (mark.life, mark.least) = (life, vec![Least::default(); shards]);
        });
        let started = opened.start(at(self.time), Arc::new(|_| u64::MAX));
        let Started { storage, mut writers, .. } =
            started.unwrap_or_else(|error| panic!("seed {}: {error}", self.seed));
        for (shard, writer) in writers.iter().enumerate() {
            let (promises, policy) = (self.promises.clone(), self.policy);
            writer.set_wake(Arc::new(move || {
                promises.change(|mark| mark.least[shard].synced(policy));
            }));
        }
        for _ in 0..STEPS {
            self.step(&storage, &mut writers, &mut changers);
        }
        let end = [End::Stop, End::Kill, End::PowerCut][self.random.below(3) as usize];
        match end {
            End::Stop => {
                for writer in writers {
                    writer.close(at(self.time)).unwrap();
                }
            }
            End::Kill => {}
            End::PowerCut => {
                self.disk.power_cut(&mut self.random);
                self.promises.change(|mark| {
                    mark.least.iter_mut().for_each(|least| least.announced = least.promised);
                });
            }
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
