//! What stands in the engine, read at one revision, a page at a time.

use std::collections::{BTreeMap, VecDeque};

use super::keys::writer_prefix;
use super::{
    FleetEngine, FleetEngineError, FleetKey, FleetPage, FleetValue, KeyRange, RecordKey,
    TableSnapshot, claim_in, parts_of_snapshot,
};
use crate::handoff::entry::TableKey;
use crate::handoff::ownership::{Claim, Revision};

/// How many short values are read at a time.
const SHORT_EACH: usize = 512;
/// How many records of a shard are read at a time: each has 1.5 MiB at most, but mostly a few KiB.
const RECORDS_EACH: usize = 16;
/// How many parts of a snapshot are read at a time: each has 1 MiB.
const PARTS_EACH: usize = 4;
/// About the octets of records that are given at a time.
const PAGE_OCTETS: u64 = 256 << 10;
/// How often a page is asked for: each time another node may answer.
const TRIES: u32 = 8;

/// A page, from whichever node answers.
///
/// # Errors
/// None does.
pub async fn read_page(
    engine: &impl FleetEngine,
    range: &KeyRange,
    most: usize,
    at: Option<Revision>,
) -> Result<FleetPage, FleetEngineError> {
    let mut tries = 1;
    loop {
        match engine.page(range, most, at).await {
            Err(FleetEngineError::Unanswered(_)) if tries < TRIES => tries += 1,
            answer => return answer,
        }
    }
}

/// All keys of a range with short values, as they were at a revision, or as they are; and when that
/// is.
///
/// # Errors
/// They cannot be read.
pub async fn read_all(
    engine: &impl FleetEngine,
    range: KeyRange,
    at: Option<Revision>,
) -> Result<(Revision, Vec<FleetValue>), FleetEngineError> {
    let (mut at, mut range, mut all) = (at, range, Vec::new());
    loop {
        let FleetPage { revision, values, rest } =
            read_page(engine, &range, SHORT_EACH, at).await?;
        let at = *at.get_or_insert(revision);
        all.extend(values);
        match rest {
            Some(rest) => range = rest,
            None => return Ok((at, all)),
        }
    }
}

/// The records of one shard, which stand in the order in which they were made.
#[derive(Debug)]
struct ShardLog {
    read: VecDeque<(RecordKey, FleetValue)>,
    rest: Option<KeyRange>,
}

impl ShardLog {
    fn take(&mut self, page: FleetPage) {
        self.rest = page.rest;
        let records = page.values.into_iter().filter_map(|value| match value.key {
            FleetKey::Record(key) => Some((key, value)),
            _ => None,
        });
        self.read.extend(records);
    }
}

/// All records that there are at a revision, in the order in which they were made: some of each
/// shard are in memory.
#[derive(Debug)]
pub struct FleetLogReader {
    at: Revision,
    shards: Vec<ShardLog>,
}

impl FleetLogReader {
    /// Of this revision.
    ///
    /// # Errors
    /// They cannot be read.
    pub async fn open(engine: &impl FleetEngine, at: Revision) -> Result<Self, FleetEngineError> {
        let (mut shards, mut range) = (Vec::new(), KeyRange::beginning("log/"));
        loop {
            // The first record of the next shard.
            let first = read_page(engine, &range, 1, Some(at)).await?;
            let (rest, is_some) = (first.rest.clone(), !first.values.is_empty());
            let Some(FleetKey::Record(key)) = first.values.first().map(|value| value.key) else {
                match rest {
                    // A later version put that there.
                    Some(rest) if !is_some => range = rest,
                    _ => return Ok(Self { at, shards }),
                }
                continue;
            };
            let of_shard = KeyRange::beginning(&writer_prefix(key.by));
            range.from.clone_from(&of_shard.until);
            let mut shard = ShardLog { read: VecDeque::new(), rest: None };
            shard.take(first);
            shard.rest = Some(of_shard.behind(&FleetKey::Record(key).to_string()));
            shards.push(shard);
        }
    }

    /// The next record.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn next(
        &mut self,
        engine: &impl FleetEngine,
    ) -> Result<Option<(RecordKey, FleetValue)>, FleetEngineError> {
        for shard in &mut self.shards {
            while shard.read.is_empty()
                && let Some(rest) = shard.rest.take()
            {
                let next = read_page(engine, &rest, RECORDS_EACH, Some(self.at)).await;
                match next {
                    Ok(next) => shard.take(next),
                    Err(why) => {
                        shard.rest = Some(rest);
                        return Err(why);
                    }
                }
            }
        }
        self.shards.retain(|shard| !shard.read.is_empty());
        let revision = |shard: &&mut ShardLog| shard.read.front().map(|(_, at)| at.revision);
        let first = self.shards.iter_mut().min_by_key(revision);
        Ok(first.and_then(|shard| shard.read.pop_front()))
    }
}

/// What stands beside snapshots and records, at the revision that all is read at.
#[derive(Debug, Default)]
pub struct CellBeside {
    pub revision: Revision,
    pub claims: Vec<(TableKey, Revision, Claim)>,
    pub hosts: Vec<FleetValue>,
    /// Up to where a table's snapshot goes.
    covered: BTreeMap<TableKey, Revision>,
}

impl CellBeside {
    /// Whether what a value says of a table is to be applied: not what a record says that the
    /// table's snapshot has.
    pub fn is_new(&self, value: &FleetValue, table: TableKey) -> bool {
        let is_record = matches!(value.key, FleetKey::Record(_));
        let covered = self.covered.get(&table);
        !is_record || covered.is_none_or(|&covered| value.revision > covered)
    }
}

/// All that there is at one revision: snapshots, and then the log behind them. Some of it is in
/// memory.
#[derive(Debug)]
pub struct CellReader {
    at: Revision,
    snapshots: VecDeque<(TableKey, TableSnapshot)>,
    /// What is left of the first of these.
    parts: Option<KeyRange>,
    log: Option<FleetLogReader>,
    /// Octets of the records that were read...
    pub log_octets: u64,
    /// ...and of all snapshots.
    pub snapshot_octets: u64,
}

impl CellReader {
    /// What is there now.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn open(engine: &impl FleetEngine) -> Result<(CellBeside, Self), FleetEngineError> {
        let (at, values) = read_all(engine, KeyRange::beginning("own/"), None).await?;
        let claims = values.iter().filter_map(|value| match value.key {
            FleetKey::Owner(table) => {
                Some((table, value.revision, claim_in(value.value.as_deref()?)?))
            }
            _ => None,
        });
        let claims = claims.collect();
        let (_, hosts) = read_all(engine, KeyRange::beginning("host/"), Some(at)).await?;
        let (_, values) = read_all(engine, KeyRange::beginning("snap/"), Some(at)).await?;
        let snapshots = values.iter().filter_map(|value| match value.key {
            FleetKey::Snapshot(table) => {
                Some((table, TableSnapshot::parse(value.value.as_deref()?)?))
            }
            _ => None,
        });
        let snapshots: VecDeque<_> = snapshots.collect();
        let covered = snapshots.iter().map(|(table, snapshot)| (*table, snapshot.id.covers));
        let beside = CellBeside { revision: at, claims, hosts, covered: covered.collect() };
        let snapshot_octets = snapshots.iter().map(|(_, snapshot)| snapshot.octets).sum();
        let (parts, log) = (None, None);
        Ok((beside, Self { at, snapshots, parts, log, log_octets: 0, snapshot_octets }))
    }

    /// Some more parts or records, in the order in which they are to be applied. `None`: that was
    /// all.
    ///
    /// # Errors
    /// They cannot be read.
    pub async fn next(
        &mut self,
        engine: &impl FleetEngine,
    ) -> Result<Option<Vec<FleetValue>>, FleetEngineError> {
        while self.parts.is_some() || !self.snapshots.is_empty() {
            let range = self.parts.take().or_else(|| {
                let (table, snapshot) = self.snapshots.pop_front()?;
                Some(parts_of_snapshot(table, snapshot.id))
            });
            let Some(range) = range else { break };
            let page = read_page(engine, &range, PARTS_EACH, Some(self.at)).await?;
            self.parts = page.rest;
            if !page.values.is_empty() {
                return Ok(Some(page.values));
            }
        }
        let log = match &mut self.log {
            Some(log) => log,
            None => self.log.insert(FleetLogReader::open(engine, self.at).await?),
        };
        let (mut values, mut octets) = (Vec::new(), 0);
        while octets < PAGE_OCTETS
            && let Some((_, value)) = log.next(engine).await?
        {
            octets += value.value.as_ref().map_or(0, Vec::len) as u64;
            values.push(value);
        }
        self.log_octets += octets;
        Ok(Some(values).filter(|values| !values.is_empty()))
    }
}
