//! On the disk of the machine, with all threads.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nat64handoff::disk::fs::RealDisk;
use nat64handoff::disk::storage::{
    DirectoryError, JournalWriter, Opened, ReadAhead, Replay, Report, Started, StateDirectory,
    Storage, StorageConfig, StorageError, SyncPolicy,
};
use nat64handoff::handoff::change::{Change, Timestamp};
use nat64handoff::handoff::entry::TableKey;

use crate::model::{Changer, HANDOFF_PORT, Model};

/// How often a lock is tried, each millisecond.
const LOCK_TRIES: u32 = 30_000;

/// Shards are models here.
#[derive(Default)]
pub struct Shard(pub Model);

impl Replay for Shard {
    fn replay(&mut self, at: Timestamp, table: TableKey, change: &Change) {
        self.0.apply(at, table, change);
    }
}

pub fn merged(shards: Vec<Shard>) -> Model {
    Model(shards.into_iter().flat_map(|shard| shard.0.0).collect())
}

pub fn at(n: u64) -> Timestamp {
    Timestamp::from_micros(1_700_000_000_000_000 + n)
}

/// Locks a state directory that nobody uses. A process that another test forks just now holds the
/// lock of the one before, too, until it calls execve.
pub fn lock(path: &Path) -> StateDirectory {
    for _ in 0..LOCK_TRIES {
        match StateDirectory::open(path) {
            Err(DirectoryError::InUse { .. }) => std::thread::sleep(Duration::from_millis(1)),
            locked => return locked.unwrap(),
        }
    }
    panic!("{} is in use", path.display());
}

fn open(path: &Path, config: StorageConfig) -> Result<(Opened, Model), StorageError> {
    let directory = lock(path);
    let shards = config.shards;
    let mut replayed: Vec<Shard> = (0..shards).map(|_| Shard::default()).collect();
    let of = move |nat64: Ipv4Addr| usize::from(nat64.octets()[3]) % shards;
    let opened =
        Storage::open(Arc::new(RealDisk), directory, config, of, |_| None, None, &mut replayed)?;
    Ok((opened, merged(replayed)))
}

#[test]
fn recovery_equals_what_was_written_with_any_policy_and_number_of_shards() {
    for policy in
        [SyncPolicy::None, SyncPolicy::Always, SyncPolicy::Interval(Duration::from_millis(2))]
    {
        let state = tempfile::tempdir().unwrap();
        let mut changer = Changer::new(1, 9);
        let mut time = 0;
        for (round, shards) in [1, 1, 3, 2, 2, 5].into_iter().enumerate() {
            let mut config = StorageConfig::new(shards, HANDOFF_PORT, policy);
            config.segment_max = 4096;
            config.compact_min = 8192;
            let (mut opened, recovered) = open(state.path(), config).unwrap();
            assert_eq!(recovered, changer.model, "{policy}, round {round}: {}", opened.report);
            let stopped = round == 0 || round % 2 == 0;
            assert!(round == 0 || opened.report.clean == stopped, "{}", opened.report);
            let logged: Arc<_> = Arc::new(|_: usize| u64::MAX);
            let Started { storage, mut writers, .. } = opened.start(at(time), logged).unwrap();
            for _ in 0..300 {
                time += 1;
                let mut by_shard = vec![Vec::new(); shards];
                for change in changer.batch(at(time), 5) {
                    by_shard[usize::from(change.0.nat64.octets()[3]) % shards].push(change);
                }
                for (writer, changes) in writers.iter_mut().zip(by_shard) {
                    let last = writer.append(at(time), &changes).unwrap();
                    while writer.durable() < last {
                        std::thread::yield_now();
                    }
                }
            }
            for shard in 0..shards {
                storage.compact(shard, true).unwrap();
                assert_eq!(storage.trouble(shard), None);
            }
            if round % 2 == 1 {
                for writer in writers {
                    writer.close(at(time)).unwrap();
                }
            }
        }
    }
}

/// The versions of the format of all files of a state.
fn versions(state: &Path) -> BTreeSet<u16> {
    let folders = std::fs::read_dir(state).unwrap().map(|entry| entry.unwrap().path());
    let files = folders
        .filter(|path| path.is_dir())
        .flat_map(|folder| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
    let ours = files.filter(|path| path.extension().is_some_and(|kind| kind != "cursor"));
    let octets = ours.map(|path| std::fs::read(path).unwrap());
    octets.map(|octets| u16::from_be_bytes([octets[8], octets[9]])).collect()
}

/// Only a state that has names of the pool, or may get some, is one that releases before them do
/// not read.
#[test]
fn a_state_is_of_the_format_that_it_needs() {
    let state = tempfile::tempdir().unwrap();
    let run = |names: bool, shards: usize, changes: &[(TableKey, Change)]| {
        let mut config = StorageConfig::new(shards, HANDOFF_PORT, SyncPolicy::Always);
        (config.names, config.threads) = (names, false);
        let (mut opened, _) = open(state.path(), config).unwrap();
        let started = opened.start(at(0), Arc::new(|_| u64::MAX)).unwrap();
        let Started { storage, mut writers, .. } = started;
        writers[0].append(at(1), changes).unwrap();
        storage.sync(0).unwrap();
        writers.into_iter().for_each(|writer| writer.close(at(2)).unwrap());
        versions(state.path())
    };
    let address = Ipv4Addr::new(100, 64, 0, 7);
    let (block, client) = (TableKey::block_of(address), "2001:db8::17/128".parse().unwrap());
    let (named, unnamed) = (Change::Named { address, client }, Change::Unnamed { address, client });
    let (without, with) = (BTreeSet::from([2]), BTreeSet::from([3]));
    assert_eq!(run(false, 1, &[(Changer::key(2), Change::Initialized)]), without);
    assert_eq!(run(false, 2, &[]), without, "in a new epoch");
    assert_eq!(run(true, 2, &[(block, named)]), &without | &with);
    assert_eq!(run(false, 1, &[]), with, "in a new epoch with a name");
    assert_eq!(run(false, 1, &[(block, unnamed)]), with);
    assert_eq!(run(false, 2, &[]), with, "the files that were read have one");
    assert_eq!(run(false, 1, &[]), without, "none has one any more");
}

/// Segments are begun, synced and let go of for as long as a server runs, whoever waits for a sync.
#[test]
fn many_segments_with_any_policy() {
    for policy in
        [SyncPolicy::None, SyncPolicy::Always, SyncPolicy::Interval(Duration::from_millis(1))]
    {
        let state = tempfile::tempdir().unwrap();
        let mut config = StorageConfig::new(1, HANDOFF_PORT, policy);
        config.segment_max = 1000;
        let (mut opened, _) = open(state.path(), config.clone()).unwrap();
        // Nothing is compacted, as the log has nothing.
        let mut started = opened.start(at(0), Arc::new(|_| 0)).unwrap();
        let mut changer = Changer::new(2, 3);
        let mut batches = 0;
        while std::fs::read_dir(&started.epoch_folder).unwrap().count() < 15 {
            let changes = changer.batch(at(batches), 5);
            started.writers[0].append(at(batches), &changes).unwrap();
            batches += 1;
            assert!(batches < 100_000);
        }
        for writer in started.writers {
            writer.close(at(batches)).unwrap();
        }
        drop(started.storage);
        let (opened, recovered) = open(state.path(), config).unwrap();
        assert_eq!(recovered, changer.model);
        assert!(opened.report.clean, "{}", opened.report);
    }
}

/// A process that reads while another one writes has, once that one has ended, what a start would
/// read.
#[test]
fn reading_ahead_and_on_equals_reading_all_at_once() {
    const SHARDS: usize = 2;
    let of = |nat64: Ipv4Addr| usize::from(nat64.octets()[3]) % SHARDS;
    let all_logged = || Some(vec![u64::MAX; SHARDS]);
    for (round, compacted) in [(0, false), (1, true), (2, false)] {
        let state = tempfile::tempdir().unwrap();
        let mut changer = Changer::new(round, 9);
        let mut config = StorageConfig::new(SHARDS, HANDOFF_PORT, SyncPolicy::None);
        config.segment_max = 4096;
        let (mut opened, _) = open(state.path(), config.clone()).unwrap();
        let logged: Arc<_> = Arc::new(|_: usize| u64::MAX);
        let Started { storage, mut writers, .. } = opened.start(at(0), logged).unwrap();
        let mut time = 0;
        let mut write = |batches: usize, writers: &mut [JournalWriter]| {
            for _ in 0..batches {
                time += 1;
                let mut by_shard = vec![Vec::new(); SHARDS];
                for change in changer.batch(at(time), 5) {
                    by_shard[of(change.0.nat64)].push(change);
                }
                for (writer, changes) in writers.iter_mut().zip(by_shard) {
                    writer.append(at(time), &changes).unwrap();
                }
            }
        };
        // The second time nothing was written before.
        let before = if round == 2 { 0 } else { 300 };
        write(before, &mut writers);
        for shard in 0..SHARDS {
            storage.compact(shard, before > 0).unwrap();
        }
        write(before, &mut writers);
        let mut parts: Vec<Shard> = (0..2 * SHARDS).map(|_| Shard::default()).collect();
        // What is written while it is read may be read by half.
        let ahead: ReadAhead = std::thread::scope(|scope| {
            scope.spawn(|| write(300, &mut writers));
            Storage::read_ahead(&RealDisk, state.path(), &config, of, &mut parts).unwrap().unwrap()
        });
        write(300, &mut writers);
        // On busy cores it takes a while until there is another segment, and one to be compacted.
        while compacted && storage.compact(1, true).unwrap().is_none() {
            write(10, &mut writers);
        }
        writers.into_iter().for_each(|writer| writer.close(at(9999)).unwrap());
        drop(storage);
        drop(opened);

        let fits = |logged: Option<&[u64]>| ahead.fits(&RealDisk, state.path(), logged).unwrap();
        assert_eq!(fits(all_logged().as_deref()), !compacted);
        assert!(!fits(None), "who knows what the log has");
        assert!(before == 0 || !fits(Some(&[u64::MAX, 0])), "the log lacks what was read");
        if compacted {
            continue;
        }
        let report = read_on(state.path(), &config, of, ahead, &mut parts);
        assert_eq!(merged(parts), changer.model, "round {round}");
        let (whole, recovered) = open(state.path(), config).unwrap();
        assert_eq!(recovered, changer.model);
        assert_eq!(whole.report.records, report.records);
    }
}

/// What a process sees that reads while a record is written: a half of it, in the last segment but
/// one, as the next one is ready.
#[test]
fn a_record_that_is_read_by_half_is_read_whole_later() {
    for cut in [1, 20, 200] {
        let state = tempfile::tempdir().unwrap();
        let config = StorageConfig::new(1, HANDOFF_PORT, SyncPolicy::None);
        let (mut opened, _) = open(state.path(), config.clone()).unwrap();
        let logged: Arc<_> = Arc::new(|_: usize| u64::MAX);
        let Started { storage, mut writers, .. } = opened.start(at(0), logged).unwrap();
        let mut changer = Changer::new(cut, 9);
        for time in 0..100 {
            writers[0].append(at(time), &changer.batch(at(time), 9)).unwrap();
        }
        // Until then the segment that is written is the last but one.
        let segments = || {
            let files = std::fs::read_dir(state.path().join("epoch-1")).unwrap();
            let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
            paths.retain(|path| path.extension().is_some_and(|extension| extension == "journal"));
            paths.sort();
            paths
        };
        storage.sync(0).unwrap();
        let written = &segments()[segments().len() - 2];
        let whole = std::fs::read(written).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(written).unwrap();
        file.set_len(whole.len() as u64 - cut).unwrap();
        let mut parts = [Shard::default(), Shard::default()];
        let of = |_| 0;
        let ahead = Storage::read_ahead(&RealDisk, state.path(), &config, of, &mut parts);
        let ahead = ahead.unwrap().unwrap();
        assert_ne!(
            merged(vec![Shard(parts[0].0.clone()), Shard(parts[1].0.clone())]),
            changer.model
        );
        std::fs::write(written, &whole).unwrap();
        writers.remove(0).close(at(9999)).unwrap();
        drop(storage);
        drop(opened);
        read_on(state.path(), &config, of, ahead, &mut parts);
        assert_eq!(merged(parts.into()), changer.model);
    }
}

/// All that there is now, into the same parts as what was read ahead.
fn read_on(
    state: &Path,
    config: &StorageConfig,
    of: impl Fn(Ipv4Addr) -> usize + Send + Sync + 'static,
    ahead: ReadAhead,
    parts: &mut [Shard],
) -> Report {
    let files = std::fs::read_dir(ahead.epoch_folder(state)).unwrap();
    let octets: u64 = files.map(|file| file.unwrap().metadata().unwrap().len()).sum();
    let directory = lock(state);
    let shards = config.shards;
    let cursor = move |_: &Path| Some(vec![u64::MAX; shards]);
    let disk = Arc::new(RealDisk);
    let read = Storage::open(disk, directory, config.clone(), of, cursor, Some(ahead), parts);
    let report = read.unwrap().report;
    assert!(report.clean, "{report}");
    assert_eq!(report.octets, octets);
    report
}
