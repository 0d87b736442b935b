//! Lives of a server on a disk that fails at each of its operations in turn, loses its power at
//! each, and is started again with another number of shards. Nothing here runs in threads, so that
//! a seed is a run.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nat64handoff::disk::fs::Disk;
use nat64handoff::disk::journal::RecordNumber;
use nat64handoff::disk::storage::{
    JournalState, Opened, Started, Storage, StorageConfig, StorageError, SyncPolicy,
};
use nat64handoff::handoff::entry::TableKey;
use nat64handoff::handoff::random::Random;

use crate::model::{Changer, HANDOFF_PORT, Model};
use crate::real::{Shard, at, merged};
use crate::sim::{FAULTS, Fault, SimDisk};

const ROOT: &str = "/state";
const TABLES: u8 = 5;
pub const INTERVAL: SyncPolicy = SyncPolicy::Interval(Duration::from_millis(100));

pub fn shard_of(shards: usize) -> impl Fn(Ipv4Addr) -> usize + Send + Sync + 'static {
    move |nat64| usize::from(nat64.octets()[3]) % shards
}

pub fn config(shards: usize, policy: SyncPolicy) -> StorageConfig {
    let mut config = StorageConfig::new(shards, HANDOFF_PORT, policy);
    config.segment_max = 1500;
    config.compact_min = 6000;
    config.compact_memory = 2000;
    config.threads = false;
    config
}

pub fn open(
    disk: &SimDisk,
    shards: usize,
    policy: SyncPolicy,
) -> Result<(Opened, Model), StorageError> {
    open_on(Arc::new(disk.clone()), shards, policy, |_| None)
}

/// `cursor` as of [`Storage::open_at`].
pub fn open_on(
    disk: Arc<dyn Disk>,
    shards: usize,
    policy: SyncPolicy,
    cursor: impl FnOnce(&Path) -> Option<Vec<u64>>,
) -> Result<(Opened, Model), StorageError> {
    let mut replayed: Vec<Shard> = (0..shards).map(|_| Shard::default()).collect();
    let config = config(shards, policy);
    let root = Path::new(ROOT);
    let opened = Storage::open_at(disk, root, config, shard_of(shards), cursor, &mut replayed)?;
    Ok((opened, merged(replayed)))
}

/// What a shard went through since it was started.
struct Past {
    /// After each batch, the first being what it was started with.
    states: Vec<Model>,
    /// Of each batch.
    numbers: Vec<RecordNumber>,
    /// The number of states that were announced.
    announced: usize,
    /// The number of states that no power cut may take.
    promised: usize,
}

/// A server that comes and goes.
struct World {
    disk: SimDisk,
    policy: SyncPolicy,
    random: Random,
    pasts: Vec<Past>,
    time: u64,
    seed: u64,
}

impl World {
    fn new(seed: u64, policy: SyncPolicy) -> Self {
        let disk = SimDisk::new(Path::new(ROOT));
        let mut octets = [9; 32];
        octets[..8].copy_from_slice(&seed.to_be_bytes());
        Self { disk, policy, random: Random::new(octets), pasts: Vec::new(), time: 0, seed }
    }

    /// For each shard, changes that go on from what was recovered.
    fn changers(&self, recovered: &Model, shards: usize) -> Vec<Changer> {
        (0..shards)
            .map(|shard| {
                let mut changer = Changer::new(self.seed.wrapping_add(self.time), TABLES);
                changer.model.0 = recovered.0.clone();
                changer.model.0.retain(|key, _| shard_of(shards)(key.nat64) == shard);
                changer
            })
            .collect()
    }

    /// Starts, works for some steps, and is gone again. Errors are the disk's.
    fn live(&mut self, shards: usize, steps: usize, stop: bool) -> Result<(), StorageError> {
        let (mut opened, recovered) = open(&self.disk, shards, self.policy)?;
        self.check(&recovered, |past| past.announced, &format!("{}", opened.report));
        let started = opened.start(at(self.time), Arc::new(|_| u64::MAX))?;
        let Started { storage, mut writers, .. } = started;
        let of = shard_of(shards);
        let mut changers = self.changers(&recovered, shards);
        self.pasts = changers
            .iter()
            .map(|changer| Past {
                states: vec![changer.model.clone()],
                numbers: vec![RecordNumber(0)],
                announced: 0,
                promised: 0,
            })
            .collect();
        for _ in 0..steps {
            self.time += 1;
            let shard = self.random.below(shards as u32) as usize;
            let (writer, past) = (&mut writers[shard], &mut self.pasts[shard]);
            match self.random.below(10) {
                0..7 => match writer.state() {
                    JournalState::Fine => {
                        let changer = &mut changers[shard];
                        let mine = |key: TableKey| of(key.nat64) == shard;
                        let changes = changer.batch_of(at(self.time), 4, mine);
                        if !changes.is_empty() {
                            past.states.push(changer.model.clone());
                            past.numbers.push(writer.next_number());
                            let _ = writer.append(at(self.time), &changes);
                        }
                    }
                    JournalState::NoSpace => drop(writer.retry()),
                    JournalState::Failed | JournalState::Full => {}
                },
                7..9 => {
                    let written = past.numbers.iter().rposition(|&n| n <= writer.durable());
                    if storage.sync(shard).is_ok() && self.policy == INTERVAL {
                        past.promised = past.promised.max(written.unwrap_or(0));
                    }
                }
                _ => drop(storage.compact(shard, true)),
            }
            let durable = writer.durable();
            let reached = past.numbers.iter().rposition(|&n| n <= durable).unwrap_or(0);
            past.announced = past.announced.max(reached);
            if self.policy == SyncPolicy::Always {
                past.promised = past.announced;
            }
        }
        if stop {
            for (writer, past) in writers.into_iter().zip(&mut self.pasts) {
                if writer.close(at(self.time)).is_ok() {
                    past.announced = past.states.len() - 1;
                    past.promised = past.announced;
                }
            }
        }
        Ok(())
    }

    /// The state is one that each shard went through, and not before `least`.
    fn check(&self, recovered: &Model, least: impl Fn(&Past) -> usize, what: &str) {
        let shards = self.pasts.len();
        for (shard, past) in self.pasts.iter().enumerate() {
            let mut here = recovered.clone();
            here.0.retain(|key, _| shard_of(shards)(key.nat64) == shard);
            let found = past.states.iter().rposition(|state| *state == here);
            let least = least(past);
            assert!(
                found.is_some_and(|found| found >= least),
                "seed {}: shard {shard} is in state {found:?} of {}, {least} was promised: {what}",
                self.seed,
                past.states.len(),
            );
        }
    }

    /// The power goes, and what comes back is what was promised.
    fn power_cut(&mut self, shards: usize) {
        self.disk.power_cut(&mut self.random);
        let (opened, recovered) = open(&self.disk, shards, self.policy)
            .unwrap_or_else(|error| panic!("seed {}: {error}", self.seed));
        self.check(&recovered, |past| past.promised, &format!("{}", opened.report));
        self.accept(&recovered);
    }

    /// The process goes, and what comes back is what was announced.
    fn kill(&mut self, shards: usize) {
        self.disk.heal();
        let (opened, recovered) = open(&self.disk, shards, self.policy)
            .unwrap_or_else(|error| panic!("seed {}: {error}", self.seed));
        self.check(&recovered, |past| past.announced, &format!("{}", opened.report));
        self.accept(&recovered);
    }

    /// From now on this is what there was.
    fn accept(&mut self, recovered: &Model) {
        let shards = self.pasts.len();
        for (shard, past) in self.pasts.iter_mut().enumerate() {
            let mut here = recovered.clone();
            here.0.retain(|key, _| shard_of(shards)(key.nat64) == shard);
            *past = Past {
                states: vec![here],
                numbers: vec![RecordNumber(0)],
                announced: 0,
                promised: 0,
            };
        }
    }
}

pub fn policies() -> [SyncPolicy; 3] {
    [SyncPolicy::Always, INTERVAL, SyncPolicy::None]
}

/// The number of runs: more by an environment variable.
fn runs(few: u64) -> u64 {
    let factor = std::env::var("NAT64HANDOFF_TEST_FACTOR").ok();
    few * factor.and_then(|factor| factor.parse().ok()).unwrap_or(1)
}

#[test]
fn lives_end_by_power_cuts_kills_and_stops() {
    for seed in 0..runs(60) {
        for policy in policies() {
            let mut world = World::new(seed, policy);
            for life in 0..5 {
                let shards = 1 + world.random.below(3) as usize;
                let stop = world.random.below(4) == 0;
                world.live(shards, 60, stop).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
                let shards = 1 + world.random.below(3) as usize;
                match life % 2 {
                    0 => world.power_cut(shards),
                    _ => world.kill(shards),
                }
            }
        }
    }
}

/// Each operation of a life in turn goes wrong, once or for good; then the process or the power
/// goes.
#[test]
fn every_operation_fails_in_turn() {
    for (seed, policy) in policies().into_iter().enumerate() {
        let seed = 100 + seed as u64;
        // A life before, so that there is something to lose; then more shards than before.
        let prepared = || {
            let mut world = World::new(seed, policy);
            world.live(1, 40, false).unwrap();
            world
        };
        let mut world = prepared();
        let before = world.disk.operations();
        world.live(2, 60, true).unwrap();
        let operations = world.disk.operations() - before;
        println!("seed {seed}: {operations} operations with {policy}");
        for (fault, for_good) in FAULTS {
            for at in 0..operations {
                let mut world = prepared();
                world.disk.fail(at, fault, for_good);
                let _ = world.live(2, 60, true);
                if fault == Fault::Crash || at % 2 == 0 {
                    world.power_cut(1 + (at % 3) as usize);
                } else {
                    world.kill(1 + (at % 3) as usize);
                }
                world.live(2, 20, true).unwrap_or_else(|error| {
                    panic!("seed {seed}, operation {at}, {fault:?} {for_good}: {error}")
                });
                world.power_cut(2);
            }
        }
    }
}

/// A disk that only says that it has synced must be found out.
#[test]
fn canary_disk_that_does_not_sync() {
    let caught = (0..20).any(|seed| {
        std::panic::catch_unwind(|| {
            let mut world = World::new(seed, SyncPolicy::Always);
            world.live(1, 1, true).unwrap();
            world.disk.ignore_sync();
            world.live(1, 60, false).unwrap();
            world.power_cut(1);
        })
        .is_err()
    });
    assert!(caught, "the simulation does not see a disk that loses what was synced");
}
