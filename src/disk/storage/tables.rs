//! The tables of a shard, one after another in the order of their keys, from its files alone: the
//! snapshot is streamed, and the changes of the segments are held in memory by table, in several
//! passes where they are too many. Those of a table that has too many by itself are not held:
//! the segments are read once more when it is its turn, and only its state is in memory.
//! Compaction and re-sharding write them again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::StorageError;
use super::epoch::{self, ShardFiles};
use super::read::{Common, RecordReader, ShardEnd, ShardReader, Step, refuse};
use crate::disk::folded::FoldedTable;
use crate::disk::fs::{Boot, Disk};
use crate::disk::journal::{FileId, FileKind, Record, changes_in};
use crate::handoff::change::Timestamp;
use crate::handoff::entry::TableKey;
use crate::handoff::random::SecretHash;

/// Which files of a shard are read.
#[derive(Clone)]
pub(super) struct ShardSource {
    pub disk: Arc<dyn Disk>,
    pub root: PathBuf,
    pub epoch: u64,
    pub shard: u16,
    /// One snapshot, and the segments from it on.
    pub files: ShardFiles,
    pub boot: Boot,
    /// What the headers of the epoch say.
    pub common: Common,
    /// For a repair: skips damage, and resolves contradictions that the lost changes leave.
    pub tolerant: bool,
    /// For the tables' indexes.
    pub hash: SecretHash,
}

/// The changes of one table, encoded.
struct Group {
    first: Timestamp,
    initialized: Option<Timestamp>,
    /// None where they are too many: they are read when they are needed.
    changes: Option<Vec<u8>>,
}

impl Group {
    /// Octets that it takes in memory.
    fn octets(&self) -> usize {
        GROUP_OVERHEAD + self.changes.as_ref().map_or(0, Vec::len)
    }
}

/// Octets of memory that a group takes beyond its changes.
const GROUP_OVERHEAD: usize = 128;

/// All tables of a [`ShardSource`].
pub(super) struct Tables {
    source: ShardSource,
    memory: usize,
    snapshot: Option<RecordReader>,
    /// The next record of the snapshot.
    ahead: Option<(TableKey, Timestamp, Vec<u8>)>,
    groups: BTreeMap<TableKey, Group>,
    /// The first key of the next pass over the segments, if there is one.
    next_pass: Option<Option<TableKey>>,
    /// The end of the shard, as the first pass found it.
    end: Option<ShardEnd>,
}

impl Tables {
    /// Reads only the beginning of the snapshot. `memory`: octets of changes that are held at a
    /// time.
    pub fn new(source: ShardSource, memory: usize) -> Result<Self, StorageError> {
        let snapshot = match source.files.snapshot() {
            Some(number) => {
                let id = Self::snapshot_id(&source, number);
                let path = epoch::path(&source.root, id);
                let file =
                    source.disk.open(&path, false).map_err(StorageError::io("open", &path))?;
                Some(RecordReader::new(file, id, None).map_err(StorageError::io("read", &path))?)
            }
            None => None,
        };
        let mut tables = Self {
            source,
            memory,
            snapshot,
            ahead: None,
            groups: BTreeMap::new(),
            next_pass: Some(None),
            end: None,
        };
        tables.advance()?;
        Ok(tables)
    }

    fn snapshot_id(source: &ShardSource, number: u64) -> FileId {
        let ShardSource { epoch, shard, .. } = *source;
        FileId { kind: FileKind::Snapshot, epoch, shard, number }
    }

    /// The end of the shard. Known once the first table was asked for.
    pub fn end(&self) -> Option<&ShardEnd> {
        self.end.as_ref()
    }

    /// The key of the next table.
    pub fn peek(&mut self) -> Result<Option<TableKey>, StorageError> {
        loop {
            let in_snapshot = self.ahead.as_ref().map(|ahead| ahead.0);
            let in_segments = self.groups.first_key_value().map(|(&key, _)| key);
            let key = in_snapshot.into_iter().chain(in_segments).min();
            match self.next_pass {
                Some(from) if key.is_none_or(|key| from.is_none_or(|from| key >= from)) => {
                    self.pass(from)?;
                }
                _ => return Ok(key),
            }
        }
    }

    /// Whether there is a block of the pool. To be asked before the first table is taken.
    pub fn has_names(&mut self) -> Result<bool, StorageError> {
        // In the order of their keys, blocks are before all NAT64s.
        Ok(self.peek()?.is_some_and(TableKey::is_block))
    }

    pub fn next(&mut self) -> Result<Option<FoldedTable>, StorageError> {
        while let Some(key) = self.peek()? {
            if let Some(table) = self.table(key)? {
                return Ok(Some(table));
            }
        }
        Ok(None)
    }

    /// The table with `key`, which [`Tables::peek`] said is the next one. `None` where it was given
    /// up.
    pub fn table(&mut self, key: TableKey) -> Result<Option<FoldedTable>, StorageError> {
        let ShardSource { common, hash, tolerant, .. } = self.source;
        let mut table = FoldedTable::new(key, common.handoff_port, hash);
        let mut initialized = None;
        let mut apply = |octets: &[u8]| {
            for change in changes_in(octets) {
                if tolerant {
                    table.make_room(&change);
                }
                table.apply(&change);
            }
        };
        while let Some((_, time, octets)) = self.ahead.take_if(|ahead| ahead.0 == key) {
            initialized = initialized.or(Some(time));
            apply(&octets);
            self.advance()?;
        }
        if let Some(group) = self.groups.remove(&key) {
            initialized = group.initialized.or(initialized).or(Some(group.first));
            match group.changes {
                Some(changes) => apply(&changes),
                None => self.read_changes(key, &mut apply)?,
            }
        }
        table.initialized = initialized.unwrap_or_default();
        Ok((!table.is_gone()).then_some(table))
    }

    /// Reads the next record of the snapshot. It has changes of one table only.
    fn advance(&mut self) -> Result<(), StorageError> {
        let Some(reader) = &mut self.snapshot else {
            return Ok(());
        };
        let number = self.source.files.snapshot().unwrap_or_default();
        let id = Self::snapshot_id(&self.source, number);
        let path = epoch::path(&self.source.root, id);
        loop {
            let offset = reader.offset();
            let damaged = match reader.step().map_err(StorageError::io("read", &path))? {
                Step::Record(record) if record.is_end() => break,
                Step::Record(record) => {
                    let mut octets = Vec::with_capacity(record.length);
                    let mut key = None;
                    for (table, raw) in record.changes().raw() {
                        key = key.or(Some(table));
                        octets.extend_from_slice(raw.octets());
                    }
                    if let Some(key) = key {
                        self.ahead = Some((key, record.time, octets));
                        return Ok(());
                    }
                    continue;
                }
                Step::End => "snapshot cut off".into(),
                Step::Invalid(why) => why.to_string(),
            };
            if !self.source.tolerant {
                return Err(StorageError::Damaged {
                    directory: self.source.root.clone(),
                    file: path,
                    offset,
                    what: damaged,
                });
            }
            if !reader.skip().map_err(StorageError::io("read", &path))? {
                break;
            }
        }
        self.snapshot = None;
        self.ahead = None;
        Ok(())
    }

    /// Reads all segments, and keeps the changes of the tables from `from` on that there is memory
    /// for.
    fn pass(&mut self, from: Option<TableKey>) -> Result<(), StorageError> {
        let Self { source, memory, groups, .. } = self;
        let mut limit: Option<TableKey> = None;
        let mut used = 0;
        let end = source.read_segments(&mut |record| {
            for (key, raw) in record.changes().raw() {
                if from.is_some_and(|from| key < from) || limit.is_some_and(|limit| key >= limit) {
                    continue;
                }
                let group = groups.entry(key).or_insert_with(|| {
                    used += GROUP_OVERHEAD;
                    Group { first: record.time, initialized: None, changes: Some(Vec::new()) }
                });
                if raw.is_initialized() {
                    group.initialized = Some(record.time);
                }
                if raw.is_forgotten() {
                    // What was before it means nothing any more.
                    used -= group.octets() - GROUP_OVERHEAD;
                    group.changes = Some(Vec::new());
                }
                if let Some(changes) = &mut group.changes {
                    changes.extend_from_slice(raw.octets());
                    used += raw.octets().len();
                }
                while used > *memory && groups.len() > 1 {
                    if let Some((last, group)) = groups.pop_last() {
                        used = used.saturating_sub(group.octets());
                        limit = Some(last);
                    }
                }
                if used > *memory
                    && let Some((_, alone)) = groups.iter_mut().next()
                {
                    alone.changes = None;
                    used = alone.octets();
                }
            }
        })?;
        self.end.get_or_insert(end);
        self.next_pass = limit.map(Some);
        Ok(())
    }

    /// Reads all segments, and applies the changes of one table.
    fn read_changes(
        &self,
        key: TableKey,
        apply: &mut impl FnMut(&[u8]),
    ) -> Result<(), StorageError> {
        let apply_own = &mut |record: &Record<'_>| {
            let own = record.runs().filter(|&(table, _)| table == key);
            own.for_each(|(_, changes)| apply(changes));
        };
        self.source.read_segments(apply_own).map(drop)
    }
}

/// Whether one of them has a block of the pool.
pub(super) fn any_has_names(all: &mut [Tables]) -> Result<bool, StorageError> {
    for tables in all {
        if tables.has_names()? {
            return Ok(true);
        }
    }
    Ok(false)
}

impl ShardSource {
    /// Reads all segments, in order.
    fn read_segments(&self, sink: &mut dyn FnMut(&Record<'_>)) -> Result<ShardEnd, StorageError> {
        let reader = ShardReader {
            disk: &*self.disk,
            root: &self.root,
            epoch: self.epoch,
            shard: self.shard,
            files: &self.files,
            boot: self.boot,
        };
        let mut refuse = refuse(&self.root);
        reader.read_segments_only(
            &mut Some(self.common),
            &mut |damage| if self.tolerant { Ok(()) } else { refuse(damage) },
            &mut |_, record| {
                sink(record);
                Ok(())
            },
        )
    }
}
