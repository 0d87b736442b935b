//! [`fold`]: the log of a cell becomes snapshots of its tables.
//!
//! What it writes is made of what stands in the engine alone, as it was at one revision: so it does
//! not matter who does it, nor who owns the tables. The steps, in this order:
//!
//! 1. The parts of a table's next snapshot are put, under keys that nobody else uses.
//! 2. Where the table has the snapshot still that this one was made from, it gets this one: from
//!    then on the parts of all others mean nothing, and are removed with that. So are those of who
//!    did not get that far.
//! 3. When that was done for all tables, records go that are behind all of these snapshots, and
//!    whose lines their host has written ([`FleetKey::Cursor`]).
//! 4. How far the log was folded is put down, and what was before the last time is not kept for
//!    who watches.
//!
//! So whoever ends between two steps, and whoever does the same at the same time, leaves snapshots
//! and a log that together say what was recorded. Who reads them passes over what a record says of
//! a table whose snapshot covers it.
//!
//! The last record of a shard stays as long as its run may go on: each record wants the one before
//! it to be there, so that one that was sent long ago, and arrives when it has been folded, is not
//! done once more.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::iter;

use thiserror::Error;

use super::body::runs_of;
use super::keys::parts_of_table;
use super::read::{FleetLogReader, read_all, read_page};
use super::{
    BodyDamaged, FleetCommit, FleetEngine, FleetEngineError, FleetKey, Folded, KeyIs, KeyRange,
    PartKey, RecordKey, ShardRun, SnapshotId, TableSnapshot, changes_in_part, host_in, parts_of,
    parts_of_snapshot,
};
use crate::disk::folded::FoldedTable;
use crate::disk::journal::changes_in;
use crate::handoff::change::{Change, Timestamp};
use crate::handoff::entry::TableKey;
use crate::handoff::ownership::{HostId, HostRun, Revision};
use crate::handoff::random::SecretHash;

/// How often something is tried that may have been done, or not.
const TRIES: u32 = 8;

/// What of a fold is bounded.
#[derive(Debug, Clone, Copy)]
pub struct FoldLimits {
    /// Octets of changes that are held in memory: what comes behind is folded the next time.
    pub memory: usize,
    /// Records that are removed at a time: etcd answers nobody else meanwhile.
    pub removed_each: u64,
}

impl Default for FoldLimits {
    fn default() -> Self {
        Self { memory: 256 << 20, removed_each: 1000 }
    }
}

/// Why the log was not folded, or not to its end. It can be tried again.
#[derive(Debug, Error)]
pub enum FoldError {
    #[error("{0}")]
    Engine(#[from] FleetEngineError),
    /// Somebody else does it.
    #[error("another host does the same")]
    Overtaken,
    /// What stands there is not what was put there.
    #[error("{0} in etcd is not what was recorded: {1}; see whether something else writes there")]
    Damaged(FleetKey, BodyDamaged),
}

/// Who folds, and what of the server it has to know.
#[derive(Debug, Clone, Copy)]
pub struct Folder {
    pub by: HostRun,
    pub handoff_port: u16,
    pub hash: SecretHash,
    pub limits: FoldLimits,
}

/// What the log says of one table.
#[derive(Debug)]
struct TableLog {
    first: Timestamp,
    changes: Vec<u8>,
}

/// What the log has of one shard.
#[derive(Debug)]
struct WriterLog {
    first: u64,
    last: u64,
    /// The last one that may go.
    until: Option<u64>,
    /// The octets of those that may.
    octets: u64,
    /// Those of the last one.
    last_octets: u64,
}

/// What was read of the log.
#[derive(Debug, Default)]
struct ReadLog {
    groups: BTreeMap<TableKey, TableLog>,
    writers: BTreeMap<ShardRun, WriterLog>,
    octets: u64,
    held: usize,
    /// What was done later is not among it.
    end: Option<Revision>,
}

/// What stands beside the log.
#[derive(Debug, Default)]
struct BesideLog {
    snapshots: BTreeMap<TableKey, (Revision, TableSnapshot)>,
    runs: BTreeMap<HostId, HostRun>,
    cursors: BTreeMap<HostId, Revision>,
    folded: Option<(Revision, Folded)>,
}

/// Folds what the log has into snapshots, and removes it. Returns how far.
///
/// # Errors
/// It was not done to the end. What was done is of use the next time.
pub async fn fold(engine: &impl FleetEngine, folder: &Folder) -> Result<Folded, FoldError> {
    let (at, values) = read_all(engine, KeyRange::beginning("snap/"), None).await?;
    let mut beside = BesideLog::default();
    for value in values {
        if let (FleetKey::Snapshot(table), Some(octets)) = (value.key, &value.value)
            && let Some(snapshot) = TableSnapshot::parse(octets)
        {
            beside.snapshots.insert(table, (value.revision, snapshot));
        }
    }
    beside.read_rest(engine, at).await?;
    let log = read_log(engine, folder, at, &beside).await?;
    let covers = log.end.unwrap_or(at);
    for (table, group) in log.groups {
        let new = fold_table(engine, folder, table, &group, covers, at, &beside).await?;
        beside.snapshots.insert(table, (Revision(0), new));
    }
    let mut left = log.octets;
    for (by, writer) in log.writers {
        left = left.saturating_sub(remove(engine, folder, by, writer, &beside).await?);
    }
    let snapshots = beside.snapshots.values().map(|(_, snapshot)| snapshot.octets).sum();
    let folded = Folded { at: covers, log: left, snapshots };
    let is = beside.folded.map_or(KeyIs::Absent, |(revision, _)| KeyIs::At(revision));
    let value = folded.value().into_bytes();
    let commit = FleetCommit {
        conditions: vec![(FleetKey::Folded, is)],
        puts: vec![(FleetKey::Folded, value)],
        removes: Vec::new(),
    };
    commit_once(engine, &commit).await?;
    if let Some((_, before)) = beside.folded {
        engine.compact(before.at).await?;
    }
    Ok(folded)
}

impl BesideLog {
    async fn read_rest(
        &mut self,
        engine: &impl FleetEngine,
        at: Revision,
    ) -> Result<(), FoldError> {
        let ranges = ["host/", "cursor/"].map(KeyRange::beginning);
        for range in ranges.into_iter().chain([KeyRange::of("folded")]) {
            for value in read_all(engine, range, Some(at)).await?.1 {
                let Some(octets) = &value.value else { continue };
                match value.key {
                    FleetKey::Host(host) => {
                        let run = host_in(host, octets).map(|(run, _)| (host, run));
                        self.runs.extend(run);
                    }
                    FleetKey::Cursor(host) => {
                        self.cursors.extend(revision_in(octets).map(|cursor| (host, cursor)));
                    }
                    FleetKey::Folded => {
                        self.folded = Folded::parse(octets).map(|folded| (value.revision, folded));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Up to where the lines of a host's records are written.
    fn cursor(&self, host: HostId) -> Revision {
        self.cursors.get(&host).copied().unwrap_or_default()
    }
}

/// The value of a [`FleetKey::Cursor`].
fn revision_in(value: &[u8]) -> Option<Revision> {
    Some(Revision(str::from_utf8(value).ok()?.parse().ok()?))
}

/// All that the log says of each table beyond its snapshot, and what of it may go then.
async fn read_log(
    engine: &impl FleetEngine,
    folder: &Folder,
    at: Revision,
    beside: &BesideLog,
) -> Result<ReadLog, FoldError> {
    let mut log = ReadLog::default();
    let mut reader = FleetLogReader::open(engine, at).await?;
    while let Some((key, value)) = reader.next(engine).await? {
        let octets = value.value.as_deref().unwrap_or_default();
        log.octets += octets.len() as u64;
        let may_go = log.end.is_none() && value.revision <= beside.cursor(key.by.run.host);
        log.count(key, octets.len() as u64, may_go);
        if log.end.is_some() {
            continue;
        }
        let damaged = |why| FoldError::Damaged(value.key, why);
        for (time, table, changes) in runs_of(&key, octets).map_err(damaged)? {
            let snapshot = beside.snapshots.get(&table);
            if snapshot.is_some_and(|(_, snapshot)| value.revision <= snapshot.id.covers) {
                continue;
            }
            let new = || TableLog { first: time, changes: Vec::new() };
            log.groups.entry(table).or_insert_with(new).changes.extend_from_slice(changes);
            log.held += changes.len();
        }
        if log.held >= folder.limits.memory {
            log.end = Some(value.revision);
        }
    }
    Ok(log)
}

impl ReadLog {
    fn count(&mut self, key: RecordKey, octets: u64, may_go: bool) {
        let number = key.number;
        let writer = match self.writers.entry(key.by) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(WriterLog {
                first: number,
                last: number,
                until: None,
                octets: 0,
                last_octets: 0,
            }),
        };
        (writer.last, writer.last_octets) = (number, octets);
        if may_go {
            writer.until = Some(number);
            writer.octets += octets;
        }
    }
}

/// Puts the next snapshot of a table there.
async fn fold_table(
    engine: &impl FleetEngine,
    folder: &Folder,
    key: TableKey,
    group: &TableLog,
    covers: Revision,
    at: Revision,
    beside: &BesideLog,
) -> Result<TableSnapshot, FoldError> {
    let before = beside.snapshots.get(&key);
    let mut table = FoldedTable::new(key, folder.handoff_port, folder.hash);
    table.initialized = group.first;
    if let Some((_, before)) = before {
        for number in 0..before.parts {
            let part = PartKey { table: key, of: before.id, number };
            let range = KeyRange::of(&FleetKey::Part(part).to_string());
            let read = read_page(engine, &range, 1, Some(at)).await?.values.pop();
            let value = read.and_then(|value| value.value).unwrap_or_default();
            let damaged = |why| FoldError::Damaged(FleetKey::Part(part), why);
            for (time, _, change) in changes_in_part(&part, &value).map_err(damaged)? {
                table.initialized = time;
                table.apply(&change);
            }
        }
    }
    changes_in(&group.changes).for_each(|change| table.apply(&change));
    let id = SnapshotId { covers, by: folder.by };
    let parts = match table.is_gone() {
        true => Vec::new(),
        false => {
            let changes = iter::once(Change::Initialized).chain(table.changes());
            parts_of(key, id, table.initialized, changes)
        }
    };
    let octets = parts.iter().map(|part| part.len() as u64).sum();
    let snapshot = TableSnapshot { id, parts: parts.len() as u32, octets };
    let keys =
        (0..snapshot.parts).map(|number| FleetKey::Part(PartKey { table: key, of: id, number }));
    for (key, part) in keys.zip(&parts) {
        put(engine, &key, part).await?;
    }
    let is = before.map_or(KeyIs::Absent, |&(revision, _)| KeyIs::At(revision));
    let (all, its) = (parts_of_table(key), parts_of_snapshot(key, id));
    let commit = FleetCommit {
        conditions: vec![(FleetKey::Snapshot(key), is)],
        puts: vec![(FleetKey::Snapshot(key), snapshot.value().into_bytes())],
        removes: vec![
            KeyRange { from: all.from, until: its.from },
            KeyRange { from: its.until, until: all.until },
        ],
    };
    commit_once(engine, &commit).await?;
    Ok(snapshot)
}

/// Removes what may go of a shard's records. Returns the octets of them.
async fn remove(
    engine: &impl FleetEngine,
    folder: &Folder,
    by: ShardRun,
    writer: WriterLog,
    beside: &BesideLog,
) -> Result<u64, FoldError> {
    let WriterLog { first, last, until: Some(until), mut octets, last_octets } = writer else {
        return Ok(0);
    };
    let is_over = beside.runs.get(&by.run.host).is_some_and(|&run| run != by.run);
    let mut end = until + 1;
    if until == last && !is_over {
        (end, octets) = (until, octets - last_octets);
    }
    let key = |number| FleetKey::Record(RecordKey { by, number }).to_string();
    let mut from = first;
    while from < end {
        let until = end.min(from + folder.limits.removed_each);
        let commit = FleetCommit {
            removes: vec![KeyRange { from: key(from), until: key(until) }],
            ..FleetCommit::default()
        };
        commit_once(engine, &commit).await?;
        from = until;
    }
    Ok(octets)
}

async fn put(
    engine: &impl FleetEngine,
    key: &FleetKey,
    value: &[u8],
) -> Result<(), FleetEngineError> {
    let mut tries = 1;
    loop {
        match engine.put(key, value).await {
            Err(FleetEngineError::Unanswered(_)) if tries < TRIES => tries += 1,
            answer => return answer,
        }
    }
}

/// Does what may be done once, and says so also where nobody knew at first.
async fn commit_once(engine: &impl FleetEngine, commit: &FleetCommit) -> Result<(), FoldError> {
    let mut tries = 1;
    loop {
        match engine.commit(commit).await {
            Ok(true) => return Ok(()),
            Ok(false) if tries > 1 && is_done(engine, commit).await? => return Ok(()),
            Ok(false) => return Err(FoldError::Overtaken),
            Err(FleetEngineError::Unanswered(_)) if tries < TRIES => tries += 1,
            Err(why) => return Err(why.into()),
        }
    }
}

/// Whether all that was to be put is there: nobody else puts the same.
async fn is_done(
    engine: &impl FleetEngine,
    commit: &FleetCommit,
) -> Result<bool, FleetEngineError> {
    for (key, value) in &commit.puts {
        let there = read_page(engine, &KeyRange::of(&key.to_string()), 1, None).await?.values.pop();
        if there.and_then(|there| there.value).as_ref() != Some(value) {
            return Ok(false);
        }
    }
    Ok(true)
}
