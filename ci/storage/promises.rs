//! One promise at a time: what a full disk, a failed sync, another port and a log that lags behind
//! lead to.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use nat64handoff::disk::storage::{
    JournalError, JournalState, Opened, Started, StateDirectory, Storage, StorageConfig,
    StorageError, SyncPolicy, check,
};
use nat64handoff::handoff::change::{Change, Event, EventKind};
use nat64handoff::handoff::entry::{Client, MappedPort, TableKey};
use nat64handoff::ip::address::Prefix96;

use crate::model::{Changer, HANDOFF_PORT, Model};
use crate::real::{Shard, at, merged};
use crate::sim::{Fault, SimDisk};

const ROOT: &str = "/state";

fn config(shards: usize) -> StorageConfig {
    let mut config = StorageConfig::new(shards, HANDOFF_PORT, SyncPolicy::Always);
    config.segment_max = 1500;
    config.threads = false;
    config
}

fn open(disk: &SimDisk, config: StorageConfig, cursor: Option<Vec<u64>>) -> (Opened, Model) {
    let shards = config.shards;
    let mut replayed: Vec<Shard> = (0..shards).map(|_| Shard::default()).collect();
    let of = move |nat64: Ipv4Addr| usize::from(nat64.octets()[3]) % shards;
    let shared = Arc::new(disk.clone());
    let opened =
        Storage::open_at(shared, Path::new(ROOT), config, of, |_| cursor, &mut replayed).unwrap();
    (opened, merged(replayed))
}

fn start(disk: &SimDisk) -> (Started, Model) {
    let (mut opened, model) = open(disk, config(1), None);
    (opened.start(at(0), Arc::new(|_| u64::MAX)).unwrap(), model)
}

fn disk() -> SimDisk {
    SimDisk::new(Path::new(ROOT))
}

fn created(port: u16) -> (TableKey, Change) {
    let client = Client {
        prefix: Prefix96([0; 12]),
        address: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, port),
        port,
    };
    (Changer::key(1), Change::Created { port: MappedPort(port), client })
}

#[test]
fn full_disk_is_waited_for_and_nothing_is_written_twice() {
    for fault in [Fault::NoSpace, Fault::Short] {
        let disk = disk();
        let (mut started, _) = start(&disk);
        let writer = &mut started.writers[0];
        let first = writer.append(at(1), &[created(2000)]).unwrap();
        disk.fail(0, fault, true);
        if fault == Fault::NoSpace {
            let number = writer.next_number();
            assert_eq!(writer.append(at(2), &[created(2001)]), Err(JournalError::NoSpace));
            assert_eq!(writer.state(), JournalState::NoSpace);
            assert!(writer.cause().is_some());
            // Refused, not kept.
            assert_eq!(writer.append(at(3), &[created(2002)]), Err(JournalError::NoSpace));
            assert_eq!(writer.retry(), Err(JournalError::NoSpace));
            assert_eq!(writer.next_number(), number.next());
            disk.heal();
            assert_eq!(writer.retry(), Ok(()));
        } else {
            writer.append(at(2), &[created(2001)]).unwrap();
            disk.heal();
        }
        assert_eq!(writer.state(), JournalState::Fine);
        let last = writer.append(at(4), &[created(2003)]).unwrap();
        assert_eq!(last.0, first.0 + 2);
        assert!(started.writers[0].durable() < first);
        started.storage.sync(0).unwrap();
        assert_eq!(started.writers[0].durable(), last);
        drop(started);
        let (_, model) = open(&disk, config(1), None);
        let ports: Vec<u16> =
            model.0[&Changer::key(1)].entries.iter().map(|entry| entry.0).collect();
        assert_eq!(ports, [2000, 2001, 2003]);
    }
}

#[test]
fn start_on_a_full_disk_serves_what_is_known() {
    let disk = disk();
    let (mut started, _) = start(&disk);
    started.writers[0].append(at(1), &[created(2000)]).unwrap();
    drop(started);
    let (mut opened, model) = open(&disk, config(1), None);
    assert_eq!(model.0[&Changer::key(1)].entries.len(), 1);
    disk.fail(0, Fault::NoSpace, true);
    // Listing and reading need room here, too; a real disk has it.
    disk.heal();
    let before = disk.operations();
    let started = opened.start(at(2), Arc::new(|_| u64::MAX)).unwrap();
    let operations = disk.operations() - before;
    drop(started);
    let mut served = 0;
    for operation in 0..operations {
        let (mut opened, _) = open(&disk, config(1), None);
        disk.fail(operation, Fault::NoSpace, true);
        if let Ok(mut started) = opened.start(at(3), Arc::new(|_| u64::MAX)) {
            let writer = &mut started.writers[0];
            if writer.state() == JournalState::NoSpace {
                served += 1;
                assert_eq!(writer.retry(), Err(JournalError::NoSpace));
                disk.heal();
                started.storage.sync(0).unwrap();
                writer.retry().unwrap();
                writer.append(at(4), &[created(3000 + served)]).unwrap();
            }
        }
        disk.heal();
    }
    let (_, model) = open(&disk, config(1), None);
    assert!(served > 0);
    assert_eq!(model.0[&Changer::key(1)].entries.len(), 1 + usize::from(served));
}

#[test]
fn failed_sync_is_for_good_and_told_at_once() {
    let disk = disk();
    let (mut started, _) = start(&disk);
    let woken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&woken);
    started.writers[0].set_wake(Arc::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
    }));
    let number = started.writers[0].append(at(1), &[created(2000)]).unwrap();
    disk.fail(0, Fault::InputOutput, false);
    started.storage.sync(0).unwrap_err();
    assert_eq!(woken.load(Ordering::Relaxed), 1);
    started.storage.sync(0).unwrap_err();
    let writer = &mut started.writers[0];
    assert!(writer.durable() < number);
    assert_eq!(writer.state(), JournalState::Failed);
    assert_eq!(writer.append(at(2), &[created(2001)]), Err(JournalError::Failed));
    assert_eq!(writer.retry(), Err(JournalError::Failed));
    assert!(started.storage.trouble(0).unwrap().contains("Input/output error"));
    assert_eq!(started.storage.trouble(0), None);
}

#[test]
fn entry_on_the_new_handoff_port_is_deleted_with_its_event() {
    let disk = disk();
    let (mut started, _) = start(&disk);
    let changes = [(Changer::key(1), Change::Initialized), created(2000), created(2001)];
    started.writers[0].append(at(1), &changes).unwrap();
    started.storage.sync(0).unwrap();
    drop(started);
    let mut other = config(3);
    other.handoff_port = 2001;
    let (mut opened, _) = open(&disk, other.clone(), Some(vec![3]));
    assert_eq!(opened.unlogged, [vec![]]);
    let Started { events, first_events, is_new_epoch, .. } =
        opened.start(at(9), Arc::new(|_| 0)).unwrap();
    let (table, Change::Created { port, client }) = created(2001) else { unreachable!() };
    let deleted = Event { at: at(9), table, kind: EventKind::Deleted { port, client } };
    assert!(is_new_epoch);
    assert_eq!(events, [vec![], vec![deleted], vec![]]);
    assert_eq!(first_events, [0, 1, 0]);
    // Killed before the log had it.
    let (opened, model) = open(&disk, other, None);
    assert_eq!(opened.unlogged, [vec![], vec![(0, deleted)], vec![]]);
    let table = &model.0[&Changer::key(1)];
    assert_eq!((table.entries.len(), table.initialized), (1, at(1)));
}

#[test]
fn segments_stay_until_the_log_has_their_events() {
    let disk = disk();
    let (mut opened, _) = open(&disk, config(1), None);
    let logged = Arc::new(AtomicU64::new(0));
    let known = Arc::clone(&logged);
    let mut started =
        opened.start(at(0), Arc::new(move |_| known.load(Ordering::Relaxed))).unwrap();
    for port in 2000..2100 {
        started.writers[0].append(at(1), &[created(port)]).unwrap();
        started.storage.sync(0).unwrap();
    }
    assert_eq!(started.storage.compact(0, true).unwrap(), None);
    logged.store(50, Ordering::Relaxed);
    let done = started.storage.compact(0, true).unwrap().unwrap();
    assert!(done.segments >= 1);
    drop(started);
    let (opened, model) = open(&disk, config(1), Some(vec![50]));
    let numbers: Vec<u64> = opened.unlogged[0].iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (50..100).collect::<Vec<_>>());
    assert_eq!(model.0[&Changer::key(1)].entries.len(), 100);
}

/// Where nobody knows what the log has, a start holds no more events than the log may have lacked.
#[test]
fn a_start_without_a_cursor_holds_a_bounded_number_of_events() {
    const EVENTS: u64 = 300_000;
    const HELD: u64 = 131_072;
    let disk = disk();
    let large = StorageConfig { segment_max: 32 << 20, ..config(1) };
    let (mut opened, _) = open(&disk, large.clone(), None);
    let mut started = opened.start(at(0), Arc::new(|_| 0)).unwrap();
    for _ in 0..EVENTS / 1000 {
        let client = |port| [created(port), (Changer::key(1), deleted_again(port))];
        let changes: Vec<_> = (2000..2500).flat_map(client).collect();
        started.writers[0].append(at(1), &changes).unwrap();
    }
    drop(started);
    let (opened, _) = open(&disk, large, None);
    let numbers: Vec<u64> = opened.unlogged[0].iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (EVENTS - HELD..EVENTS).collect::<Vec<_>>());
}

fn deleted_again(port: u16) -> Change {
    let (_, Change::Created { port, client }) = created(port) else { unreachable!() };
    Change::Deleted { port, client }
}

/// Whatever is written, by whomever, and whatever the log does: changes wait for the compaction.
#[test]
fn journal_has_a_hard_cap() {
    const MAX: u64 = 6000;
    let disk = disk();
    let capped = || StorageConfig { journal_max: MAX, ..config(1) };
    let logged = Arc::new(AtomicU64::new(0));
    let start = |disk: &SimDisk| {
        let known = Arc::clone(&logged);
        let (mut opened, model) = open(disk, capped(), None);
        (opened.start(at(0), Arc::new(move |_| known.load(Ordering::Relaxed))).unwrap(), model)
    };
    let octets = |disk: &SimDisk| -> u64 {
        disk.files().iter().map(|path| disk.content(path).len() as u64).sum()
    };
    let mut port = 2000;
    let mut fill = |started: &mut Started, disk: &SimDisk, snapshot: u64| {
        while started.writers[0].state() == JournalState::Fine {
            started.writers[0].append(at(1), &[created(port)]).unwrap();
            started.storage.sync(0).unwrap();
            port += 1;
            assert!(octets(disk) - snapshot < MAX.max(4 * snapshot) + 1000, "it grows on");
        }
        assert_eq!(started.writers[0].state(), JournalState::Full);
        port - 2000
    };
    let (mut started, _) = start(&disk);
    let held = fill(&mut started, &disk, 0);
    assert!(held > 30);
    // It has all that it took, and nothing is to be tried again.
    assert_eq!(started.writers[0].retry(), Ok(()));
    assert_eq!(started.storage.compact(0, false).unwrap(), None, "the log has nothing");
    assert_eq!(started.writers[0].state(), JournalState::Full);
    // Nor does a restart make room.
    drop(started);
    let (mut started, model) = start(&disk);
    assert_eq!(model.0[&Changer::key(1)].entries.len(), usize::from(held));
    assert_eq!(started.writers[0].state(), JournalState::Full);
    logged.store(u64::MAX, Ordering::Relaxed);
    let snapshot = started.storage.compact(0, true).unwrap().unwrap().octets;
    assert_eq!(started.writers[0].state(), JournalState::Fine);
    let held = fill(&mut started, &disk, snapshot);
    drop(started);
    let (_, model) = start(&disk);
    assert_eq!(model.0[&Changer::key(1)].entries.len(), usize::from(held));
}

#[test]
fn disk_use_is_bounded() {
    let disk = disk();
    let mut small = config(1);
    (small.compact_min, small.compact_memory) = (6000, 1000);
    let (mut opened, _) = open(&disk, small, None);
    let mut started = opened.start(at(0), Arc::new(|_| u64::MAX)).unwrap();
    let mut changer = Changer::new(3, 4);
    let mut most = 0;
    for n in 0..1500 {
        let changes = changer.batch(at(n), 4);
        started.writers[0].append(at(n), &changes).unwrap();
        started.storage.sync(0).unwrap();
        started.storage.compact(0, false).unwrap();
        let octets: usize = disk.files().iter().map(|path| disk.content(path).len()).sum();
        most = most.max(octets);
    }
    let live: usize = disk
        .files()
        .iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "snapshot"))
        .map(|path| disk.content(path).len())
        .sum();
    assert!(most < 2 * live + 6000 + 4 * 1500, "{most} octets for a state of {live}");
}

#[test]
fn epoch_without_its_pointer_is_not_forgotten() {
    let disk = disk();
    let (mut started, _) = start(&disk);
    started.writers[0].append(at(1), &[created(2000)]).unwrap();
    drop(started);
    nat64handoff::disk::fs::Disk::remove(&disk, &Path::new(ROOT).join("current")).unwrap();
    let mut shards = [Shard::default()];
    let shared = Arc::new(disk.clone());
    let error =
        Storage::open_at(shared, Path::new(ROOT), config(1), |_| 0, |_| None, &mut shards).err();
    assert!(matches!(error, Some(StorageError::Damaged { .. })));
}

#[test]
fn check_of_a_directory_in_use_says_by_whom() {
    let state = tempfile::tempdir().unwrap();
    let _held = StateDirectory::open(state.path()).unwrap();
    let error = check(state.path()).unwrap_err().to_string();
    assert!(error.contains(&format!("(pid {})", std::process::id())), "{error}");
    assert!(check(&state.path().join("not there")).is_err());
    assert!(!state.path().join("not there").exists());
}
