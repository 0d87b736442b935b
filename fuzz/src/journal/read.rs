//! Damage of the files that were written, and what a start says of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nat64handoff::disk::fs::Disk;
use nat64handoff::disk::journal::HEADER_LENGTH;
use nat64handoff::disk::storage::{
    Cut, Storage, StorageConfig, StorageError, SyncPolicy, check_at, repair_at,
};
use nat64handoff::handoff::change::{Change, Timestamp};
use nat64handoff::handoff::entry::TableKey;

use super::input::Input;
use super::memory::Memory;
use super::written::{HANDOFF_PORT, Happened, ROOT, State, Written, shard_of, time};

/// So few octets are flipped that a CRC still fits only by an unlikely chance.
const FLIPS_MAX: u8 = 3;
const DAMAGES_MAX: u8 = 6;

/// Table after table: those of each in the order in which they happened. A start replays a table's
/// part of a snapshot when the next table begins there, and what came after it later.
fn by_table(mut changes: Vec<Happened>) -> Vec<Happened> {
    changes.sort_by_key(|&(_, table, _)| table);
    changes
}

/// What a start did: what was replayed, and the ends that were cut off.
struct Start {
    replayed: Vec<Vec<Happened>>,
    cuts: Result<Vec<(PathBuf, u64, u64)>, StorageError>,
}

fn start(disk: &Memory, shards: usize) -> Start {
    let mut config = StorageConfig::new(shards, HANDOFF_PORT, SyncPolicy::Always);
    config.threads = false;
    let mut replayed: Vec<Vec<Happened>> = vec![Vec::new(); shards];
    let mut replays: Vec<_> = replayed
        .iter_mut()
        .map(|shard| {
            |at: Timestamp, table: TableKey, change: &Change| {
                shard.push((at, table, change.clone()));
            }
        })
        .collect();
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let opened = Storage::open_at(disk, Path::new(ROOT), config, shard_of, |_| None, &mut replays);
    let cuts = opened.map(|opened| {
        let cut = |cut: Cut| (cut.file, cut.offset, cut.records);
        opened.report.cuts.into_iter().map(cut).collect()
    });
    Start { replayed: replayed.into_iter().map(by_table).collect(), cuts }
}

impl State {
    /// Nothing that was not written, nothing out of order, nothing left out but at the end.
    fn start(&self) -> Start {
        let found = start(&self.disk, self.shards.len());
        for (shard, replayed) in self.shards.iter().zip(&found.replayed) {
            let written = shard.up_to(shard.records.len());
            let first = by_table(written[..replayed.len()].to_vec());
            assert_eq!(*replayed, first, "of {written:?}");
        }
        found
    }

    /// A check finds what a start does, and a repair makes it good.
    fn repair(&self, good: bool) {
        let root = Path::new(ROOT);
        let checked = check_at(&self.disk, root).unwrap();
        assert_eq!(checked.is_good(), good, "{checked}");
        assert!(good || checked.epoch.is_some());
        if !self.repairs {
            return;
        }
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let repaired = repair_at(&disk, root, time(10)).unwrap();
        let checked = check_at(&self.disk, root).unwrap();
        assert!(checked.is_good(), "{repaired}{checked}");
        let again = start(&self.disk, self.shards.len());
        if let Err(error) = again.cuts {
            panic!("{repaired}{error}");
        }
    }
}

pub fn flipped(input: &mut Input<'_>) {
    let state = State::write(input);
    let mut paths = state.disk.paths();
    paths.retain(|path| !path.ends_with("log.cursor"));
    let mut flips: BTreeMap<(PathBuf, usize), u8> = BTreeMap::new();
    for _ in 0..input.u8() % (FLIPS_MAX + 1) {
        let path = paths[input.below(paths.len())].clone();
        let at = input.below(state.disk.content(&path).len());
        *flips.entry((path, at)).or_default() ^= input.u8();
    }
    flips.retain(|_, flip| *flip != 0);
    for ((path, at), flip) in &flips {
        let mut content = state.disk.content(path);
        content[*at] ^= flip;
        state.disk.put(path.clone(), content);
    }
    let is_hit = |record: &Written| {
        flips.keys().any(|(path, at)| *path == record.path && record.range.contains(at))
    };
    // Only records of segments can be torn.
    let mut good = flips.keys().all(|(path, at)| {
        path.extension().is_some_and(|extension| extension == "journal") && *at >= HEADER_LENGTH
    });
    let mut cuts = Vec::new();
    let mut kept = Vec::new();
    for shard in &state.shards {
        let hit = shard.records.iter().position(is_hit);
        kept.push(by_table(shard.up_to(hit.unwrap_or(shard.records.len()))));
        let Some(hit) = hit else { continue };
        let behind = shard.records[hit..].iter().filter(|record| !is_hit(record));
        let expected = shard.records[hit].number;
        let synced = behind.clone().map(|record| record.synced).max();
        good &= synced.is_none_or(|synced| state.power_cut && synced < expected);
        let first = &shard.records[hit];
        cuts.push((first.path.clone(), first.range.start as u64, behind.count() as u64));
    }
    let found = state.start();
    match found.cuts {
        Ok(found_cuts) => {
            assert!(good, "{flips:?} unnoticed, cut {found_cuts:?}");
            assert_eq!(found_cuts, cuts);
            assert_eq!(found.replayed, kept);
            // What was cut is gone, and not reported again.
            let again = state.start();
            assert!(again.cuts.unwrap().is_empty());
            assert_eq!(again.replayed, kept);
        }
        Err(error) => assert!(!good, "{error}"),
    }
    state.repair(good);
}

/// Each keeps to octets that were written, or zeros.
pub fn damaged(input: &mut Input<'_>) {
    let state = State::write(input);
    let mut paths = state.disk.paths();
    paths.retain(|path| !path.ends_with("log.cursor") && !path.ends_with("current"));
    let records: Vec<&Written> = state.shards.iter().flat_map(|shard| &shard.records).collect();
    for _ in 0..input.u8() % (DAMAGES_MAX + 1) {
        let path = &paths[input.below(paths.len())];
        let mut content = state.disk.find(path).unwrap_or_default();
        let (kind, at) = (input.u8() % 8, input.below(content.len() + 1));
        let record = |input: &mut Input<'_>| {
            let record = records.get(input.below(records.len()))?;
            let file = state.disk.find(&record.path)?;
            Some((file.get(record.range.clone())?.to_vec(), *record))
        };
        match kind {
            0 => content.truncate(at),
            1 => {
                let end = (at + input.below(400)).min(content.len());
                content[at..end].fill(0);
            }
            2 => content.extend(std::iter::repeat_n(0, input.below(300))),
            3 => {
                // A piece of the same file, elsewhere, over what is there or between.
                let from = input.below(content.len() + 1);
                let piece = content[from..(from + input.below(300)).min(content.len())].to_vec();
                let over = if input.u8() & 1 == 1 { piece.len() } else { 0 };
                let end = (at + over).min(content.len());
                content.splice(at..end, piece);
            }
            4 => {
                // A record once more, of this file or of another.
                let Some((octets, _)) = record(input) else { continue };
                let at = if input.u8() & 1 == 1 { content.len() } else { at };
                content.splice(at..at, octets);
            }
            5 => {
                // Two records of one file change places.
                let Some((_, a)) = record(input) else { continue };
                let Some((_, b)) = record(input) else { continue };
                swap(&state.disk, a, b);
                continue;
            }
            6 => {
                let Some(octet) = content.get_mut(at) else { continue };
                *octet ^= 1 << (input.u8() % 8);
            }
            _ => {
                drop(state.disk.remove(path));
                continue;
            }
        }
        state.disk.put(path.clone(), content);
    }
    let found = state.start();
    if found.cuts.is_ok() {
        let again = state.start();
        assert!(again.cuts.unwrap().is_empty());
        assert_eq!(again.replayed, found.replayed);
    }
    state.repair(found.cuts.is_ok());
}

/// Two records of one file change places, where both are still in it.
fn swap(disk: &Memory, a: &Written, b: &Written) {
    let (a, b) = if a.range.start <= b.range.start { (a, b) } else { (b, a) };
    if a.path != b.path || a.number == b.number {
        return;
    }
    let mut content = disk.content(&a.path);
    let (Some(first), Some(second)) = (content.get(a.range.clone()), content.get(b.range.clone()))
    else {
        return;
    };
    let (first, second) = (first.to_vec(), second.to_vec());
    content.splice(b.range.clone(), first);
    content.splice(a.range.clone(), second);
    disk.put(a.path.clone(), content);
}
