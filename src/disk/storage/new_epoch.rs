//! Writes an epoch from the tables of another one: when the number of shards or the port changes,
//! and for a repair.

use std::path::Path;
use std::sync::Arc;

use super::compact::SnapshotWriter;
use super::epoch;
use super::read::{Common, ShardEnd};
use super::tables::Tables;
use super::{StorageError, version_of};
use crate::disk::folded::FoldedTable;
use crate::disk::fs::{Boot, Disk, write_full, write_new};
use crate::disk::journal::{self, FileId, FileKind, Header, Position, RecordNumber};
use crate::handoff::change::{Change, Event, Timestamp};
use crate::handoff::entry::TableKey;

/// An epoch that is being written.
pub(super) struct NewEpoch<'a> {
    pub disk: &'a Arc<dyn Disk>,
    pub root: &'a Path,
    pub number: u64,
    pub common: Common,
    pub now: Timestamp,
    pub boot: Boot,
    /// Whether names may be recorded in it, or are there.
    pub names: bool,
}

pub(super) struct EpochWritten {
    pub ends: Vec<ShardEnd>,
    /// For each shard, the events of entries on the port that is the handoff port now.
    pub events: Vec<Vec<Event>>,
}

impl NewEpoch<'_> {
    fn header(&self, kind: FileKind, shard: u16, number: u64) -> Header {
        let next_record = RecordNumber(u64::from(kind == FileKind::Snapshot));
        Header {
            version: version_of(self.names),
            id: FileId { kind, epoch: self.number, shard, number },
            shards: self.common.shards,
            handoff_port: self.common.handoff_port,
            time: self.now,
            boot: self.boot,
            next_record,
            next_event: 0,
        }
    }

    /// Writes the tables of `sources` durably; the epoch does not count before `current` names it.
    /// `shard_of` gives the new shard of a table, by the index of its source and its state.
    pub fn write(
        &self,
        mut sources: Vec<Tables>,
        shard_of: &dyn Fn(usize, &FoldedTable) -> usize,
    ) -> Result<EpochWritten, StorageError> {
        let folder = epoch::folder(self.root, self.number);
        self.disk.create_dir(&folder).map_err(StorageError::io("make", &folder))?;
        let shards = self.common.shards;
        let mut writers = Vec::new();
        for shard in 0..shards {
            let header = self.header(FileKind::Snapshot, shard, 0);
            writers.push(SnapshotWriter::new(self.disk, self.root, &header)?);
        }
        let mut deleted: Vec<Vec<(TableKey, Change)>> = vec![Vec::new(); usize::from(shards)];
        while let Some((key, index)) = least(&mut sources)? {
            let Some(mut table) = sources[index].table(key)? else {
                continue;
            };
            let shard = shard_of(index, &table);
            let change = table.bar(self.common.handoff_port);
            deleted[shard].extend(change.map(|change| (key, change)));
            writers[shard].table(key, table.initialized, table.changes())?;
        }
        let (mut ends, mut events) = (Vec::new(), Vec::new());
        for (shard, (writer, deleted)) in writers.into_iter().zip(deleted).enumerate() {
            let snapshot_octets = writer.finish()?;
            let position = self.first_segment(shard as u16, &deleted)?;
            let event = |(key, change): &(TableKey, Change)| change.event(self.now, *key);
            events.push(deleted.iter().filter_map(event).collect());
            ends.push(ShardEnd {
                position,
                snapshot: 0,
                snapshot_octets,
                last_segment: (!deleted.is_empty()).then_some(0),
                segment_octets: 0,
                ended: true,
                tear: None,
                records: 0,
            });
        }
        self.disk.sync_dir(self.root).map_err(StorageError::io("sync", self.root))?;
        Ok(EpochWritten { ends, events })
    }

    /// Writes segment 0, which has the changes that snapshot 0 does not have.
    fn first_segment(
        &self,
        shard: u16,
        changes: &[(TableKey, Change)],
    ) -> Result<Position, StorageError> {
        let header = self.header(FileKind::Segment, shard, 0);
        let mut position = Position { record: RecordNumber(1), event: 0 };
        let mut octets = header.encode().to_vec();
        let (seal, none) = (header.seal(), RecordNumber(0));
        journal::encode(&mut octets, seal, &mut position, none, self.now, changes);
        if !changes.is_empty() {
            journal::encode_end(&mut octets, seal, &mut position, none, self.now);
        }
        let path = epoch::path(self.root, header.id);
        write_new(&**self.disk, &path, |file| write_full(file, &octets, 0))
            .map_err(StorageError::io("make", &path))?;
        Ok(position)
    }
}

/// The least key of all sources, and the index of its source.
fn least(sources: &mut [Tables]) -> Result<Option<(TableKey, usize)>, StorageError> {
    let mut least: Option<(TableKey, usize)> = None;
    for (index, tables) in sources.iter_mut().enumerate() {
        if let Some(key) = tables.peek()?
            && least.is_none_or(|(least, _)| key < least)
        {
            least = Some((key, index));
        }
    }
    Ok(least)
}
