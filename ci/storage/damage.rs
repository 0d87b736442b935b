//! The end of a journal cut off at every octet, and every octet of all files flipped.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nat64handoff::disk::fs::Disk;
use nat64handoff::disk::storage::{
    JournalError, Started, Storage, StorageConfig, StorageError, SyncPolicy, check_at, repair_at,
};
use nat64handoff::handoff::random::Random;

use crate::model::{Changer, HANDOFF_PORT, Model};
use crate::real::{Shard, at};
use crate::sim::{Fault, SimDisk};

const ROOT: &str = "/state";

fn config() -> StorageConfig {
    let mut config = StorageConfig::new(1, HANDOFF_PORT, SyncPolicy::Always);
    config.segment_max = 1500;
    config.threads = false;
    config
}

fn recover(disk: &SimDisk) -> Result<(Model, usize), StorageError> {
    let mut shards = [Shard::default()];
    let disk = Arc::new(disk.clone());
    let opened = Storage::open_at(disk, Path::new(ROOT), config(), |_| 0, |_| None, &mut shards)?;
    let [shard] = shards;
    Ok((shard.0, opened.report.cuts.len()))
}

/// A disk with a snapshot and several segments, killed, and the states after each record.
fn written() -> (SimDisk, Vec<Model>) {
    let disk = SimDisk::new(Path::new(ROOT));
    let mut changer = Changer::new(7, 2);
    let mut states = vec![Model::default()];
    let mut shards = [Shard::default()];
    let shared = Arc::new(disk.clone());
    let mut opened =
        Storage::open_at(shared, Path::new(ROOT), config(), |_| 0, |_| None, &mut shards).unwrap();
    let Started { storage, mut writers, .. } = opened.start(at(0), Arc::new(|_| u64::MAX)).unwrap();
    for n in 0..40 {
        let changes = changer.batch(at(n), 3);
        writers[0].append(at(n), &changes).unwrap();
        states.push(changer.model.clone());
        storage.sync(0).unwrap();
        if n == 15 {
            storage.compact(0, true).unwrap().unwrap();
        }
    }
    (disk, states)
}

fn last_segment(disk: &SimDisk) -> PathBuf {
    let mut segments = disk.files();
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "journal"));
    segments.retain(|path| disk.content(path).len() > 80);
    segments.pop().unwrap()
}

#[test]
fn journal_cut_at_every_octet_of_its_last_segment() {
    let (disk, states) = written();
    assert_eq!(recover(&disk.copy()).unwrap().0, *states.last().unwrap());
    let path = last_segment(&disk);
    let whole = disk.content(&path);
    let mut least = 0;
    for length in 80..whole.len() {
        let disk = disk.copy();
        disk.set_content(&path, whole[..length].to_vec());
        let (recovered, _) = recover(&disk).unwrap();
        let found = states.iter().rposition(|state| *state == recovered).unwrap();
        assert!(found >= least, "cut at {length}: state {found} after {least}");
        least = found;
        // What was cut stays cut, and is not reported again.
        assert_eq!(recover(&disk).unwrap(), (recovered, 0));
    }
    assert!(least >= states.len() - 3);
}

#[test]
fn every_flipped_octet_is_found() {
    let (disk, states) = written();
    let last = last_segment(&disk);
    let (mut damaged, mut torn) = (0, 0);
    for path in disk.files() {
        let whole = disk.content(&path);
        for at in 0..whole.len() {
            let disk = disk.copy();
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            disk.set_content(&path, flipped);
            match recover(&disk) {
                Err(error) => {
                    damaged += 1;
                    let text = error.to_string();
                    assert!(text.contains("nat64handoff journal check /state"), "{text}");
                    assert!(!text.contains('\n'), "{text}");
                    if at % 5 == 0 {
                        let checked = check_at(&disk, Path::new(ROOT)).unwrap();
                        assert!(!checked.is_good(), "{checked}");
                        repair_and_start(&disk);
                    }
                }
                Ok((recovered, cuts)) => {
                    torn += 1;
                    assert!(path == last && cuts == 1, "{path:?} at {at} of {}", whole.len());
                    assert!(states[states.len() - 2..].contains(&recovered));
                }
            }
        }
    }
    println!("{damaged} refused, {torn} cut as torn");
    assert!(damaged > 1000 && torn > 50);
}

/// Whatever was damaged: what is left starts, and the damaged files are still there.
fn repair_and_start(disk: &SimDisk) {
    let before: Vec<_> = disk.files();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let repaired = repair_at(&shared, Path::new(ROOT), at(1)).unwrap();
    let checked = check_at(disk, Path::new(ROOT)).unwrap();
    assert!(checked.is_good(), "{repaired}{checked}");
    let (recovered, cuts) = recover(disk).unwrap();
    assert_eq!(cuts, 0);
    let nat64s = recovered.0.keys().filter(|key| !key.is_block()).count();
    assert!(nat64s <= 2);
    if repaired.made.is_some() {
        let aside = repaired.aside.unwrap();
        let kept = disk.files().iter().filter(|path| path.starts_with(&aside)).count();
        let there = before.iter().filter(|path| path.parent() != Some(Path::new(ROOT))).count();
        assert_eq!(kept, there);
    }
}

#[test]
fn repair_says_what_is_lost_and_keeps_the_rest() {
    let (disk, states) = written();
    let mut segments = disk.files();
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "journal"));
    let path = segments[0].clone();
    // The body of the first record.
    let mut content = disk.content(&path);
    content[80 + 44 + 12] ^= 1;
    disk.set_content(&path, content);
    let checked = check_at(&disk, Path::new(ROOT)).unwrap();
    let [loss] = &checked.losses[..] else { panic!("{checked}") };
    let (first, last) = loss.records.unwrap();
    assert_eq!((first, loss.offset), (last, 80));
    assert_eq!(loss.between.0, None);
    assert!(loss.between.1.is_some());
    let error = recover(&disk).unwrap_err().to_string();
    let text = "offset 80: record with a wrong checksum; see what is left with: ";
    assert!(error.contains(text), "{error}");
    repair_and_start(&disk);
    let entries = |model: &Model| model.0.values().map(|table| table.entries.len()).sum::<usize>();
    let (recovered, _) = recover(&disk).unwrap();
    let (kept, all) = (entries(&recovered), entries(states.last().unwrap()));
    assert!(kept + 4 >= all && kept > 0, "{kept} of {all}");
}

#[test]
fn files_that_are_missing_are_damage() {
    let (disk, _) = written();
    for path in disk.files() {
        let disk = disk.copy();
        let empty = disk.content(&path).len() <= 80;
        disk.remove(&path).unwrap();
        let result = recover(&disk);
        // The last segment has no record yet, and is made again.
        assert!(result.is_err() || empty && path != Path::new("/state/current"), "{path:?}");
        if result.is_err() {
            repair_and_start(&disk);
        }
    }
}

/// What was written before the disk was full is durable when the server has stopped.
#[test]
fn a_stop_without_room_syncs_what_was_written() {
    (0..16).for_each(stop_without_room);
}

fn stop_without_room(seed: u8) {
    let disk = SimDisk::new(Path::new(ROOT));
    let policy = SyncPolicy::Interval(std::time::Duration::from_secs(1));
    let mut config = StorageConfig::new(1, HANDOFF_PORT, policy);
    config.threads = false;
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let mut shards = [Shard::default()];
    let mut opened =
        Storage::open_at(shared, Path::new(ROOT), config, |_| 0, |_| None, &mut shards).unwrap();
    let Started { storage, mut writers, .. } = opened.start(at(0), Arc::new(|_| u64::MAX)).unwrap();
    let mut writer = writers.pop().unwrap();
    let mut changer = Changer::new(3, 2);
    let changes = changer.batch(at(1), 5);
    writer.append(at(1), &changes).unwrap();
    let announced = changer.model.clone();
    disk.fail(0, Fault::NoSpace, true);
    assert_eq!(writer.append(at(2), &changer.batch(at(2), 5)), Err(JournalError::NoSpace));
    // There is room for nothing new, but what has its room can be synced.
    disk.fail(0, Fault::NoSpace, false);
    assert_eq!(writer.close(at(3)), Err(JournalError::NoSpace));
    drop(storage);
    disk.heal();
    disk.power_cut(&mut Random::new([seed; 32]));
    assert_eq!(recover(&disk).unwrap().0, announced);
}

/// Without its header, records of a file cannot be told from what was torn in the file before.
#[test]
fn a_damaged_header_behind_a_torn_end_is_damage() {
    let (disk, _) = written();
    let last = last_segment(&disk);
    let mut segments = disk.files();
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "journal"));
    let before = segments[segments.iter().position(|path| *path == last).unwrap() - 1].clone();
    let mut content = disk.content(&before);
    content.truncate(content.len() - 50);
    disk.set_content(&before, content);
    for at in [0, 9, 30, 60, 75, 79] {
        let disk = disk.copy();
        let mut content = disk.content(&last);
        content[at] ^= 1;
        disk.set_content(&last, content);
        assert!(recover(&disk).is_err(), "{at}");
        repair_and_start(&disk);
    }
}
