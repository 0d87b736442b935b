//! Compaction folds a snapshot and the closed segments after it into a newer snapshot. It works on
//! files alone, in a thread of its own; the reactors are not involved.
//!
//! Killed at any step, it leaves either the old files or the new snapshot: the snapshot gets its
//! name when it is durable, and only then are the old files removed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::StorageError;
use super::epoch::{self, ShardFiles};
use super::read::{RecordReader, Step};
use super::shard::{LogProgress, ShardState};
use super::tables::{ShardSource, Tables};
use crate::disk::fs::{Disk, DiskFile, parent, temporary, write_full};
use crate::disk::journal::{
    self, Encoder, FileId, FileKind, HEADER_LENGTH, Header, Position, RecordNumber, Seal,
};
use crate::handoff::change::{Change, Timestamp};
use crate::handoff::entry::TableKey;

/// Octets that are written at a time.
const BUFFER: usize = 1 << 20;

/// A snapshot that is being written, under a temporary name.
pub(super) struct SnapshotWriter {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    temporary: PathBuf,
    file: Arc<dyn DiskFile>,
    seal: Seal,
    position: Position,
    time: Timestamp,
    buffer: Vec<u8>,
    offset: u64,
    finished: bool,
}

impl SnapshotWriter {
    pub fn new(disk: &Arc<dyn Disk>, root: &Path, header: &Header) -> Result<Self, StorageError> {
        let path = epoch::path(root, header.id);
        let temporary = temporary(&path);
        let file = disk.create(&temporary).map_err(StorageError::io("make", &temporary))?;
        let mut buffer = Vec::with_capacity(BUFFER);
        buffer.extend_from_slice(&header.encode());
        Ok(Self {
            disk: Arc::clone(disk),
            path,
            temporary,
            file,
            seal: header.seal(),
            position: Position { record: RecordNumber(1), event: header.next_event },
            time: header.time,
            buffer,
            offset: 0,
            finished: false,
        })
    }

    pub fn table(
        &mut self,
        key: TableKey,
        initialized: Timestamp,
        changes: impl Iterator<Item = Change>,
    ) -> Result<(), StorageError> {
        let mut changes = std::iter::once(Change::Initialized).chain(changes).peekable();
        while changes.peek().is_some() {
            let Self { buffer, seal, position, .. } = self;
            let synced = RecordNumber(position.record.0 - 1);
            let mut record = Encoder::new(buffer, *seal, *position, synced, initialized);
            while !record.is_full()
                && let Some(change) = changes.next()
            {
                record.add(key, &change);
            }
            // Changes in a snapshot are not events: the log has had them for long.
            position.record = record.finish_without_events().record;
            if self.buffer.len() >= BUFFER {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StorageError> {
        write_full(&*self.file, &self.buffer, self.offset)
            .map_err(StorageError::io("write", &self.temporary))?;
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Makes the snapshot durable and gives it its name. Returns its octets.
    pub fn finish(mut self) -> Result<u64, StorageError> {
        let Self { buffer, seal, position, time, .. } = &mut self;
        let synced = RecordNumber(position.record.0 - 1);
        journal::encode_end(buffer, *seal, position, synced, *time);
        self.flush()?;
        let (temporary, folder) = (&self.temporary, parent(&self.path));
        self.file.sync().map_err(StorageError::io("sync", temporary))?;
        self.disk.rename(temporary, &self.path).map_err(StorageError::io("rename", temporary))?;
        self.finished = true;
        self.disk.sync_dir(folder).map_err(StorageError::io("sync", folder))?;
        Ok(self.offset)
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        if !self.finished {
            // If this fails, the next start removes the file.
            drop(self.disk.remove(&self.temporary));
        }
    }
}

/// What a compaction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compacted {
    /// Segments that were folded into the snapshot.
    pub segments: usize,
    /// Octets of the snapshot.
    pub octets: u64,
}

pub(super) struct Compactor {
    /// Without its files: they are listed for each compaction.
    pub source: ShardSource,
    pub shard: Arc<ShardState>,
    pub logged: Arc<LogProgress>,
    pub snapshot_octets: u64,
    pub compact_min: u64,
    pub segments_max: usize,
    pub journal_max: u64,
    pub memory: usize,
    pub time: Timestamp,
    pub version: u16,
}

impl Compactor {
    fn id(&self, kind: FileKind, number: u64) -> FileId {
        FileId { kind, epoch: self.source.epoch, shard: self.source.shard, number }
    }

    /// Compacts if it is worth it.
    pub fn run(&mut self, even_if_small: bool) -> Result<Option<Compacted>, StorageError> {
        if self.shard.failed.load(Ordering::Acquire) {
            return Ok(None);
        }
        let open_segment = self.shard.segment.load(Ordering::Acquire);
        let ShardSource { disk, root, epoch, shard, .. } = &self.source;
        let mut files = epoch::files(&**disk, root, *epoch)?;
        let files = files.shards.remove(shard).unwrap_or_default();
        let Some(snapshot) = files.snapshot() else {
            return Ok(None);
        };
        self.remove_before(snapshot, &files)?;
        let mut closed: Vec<u64> = files.segments.clone();
        closed.retain(|&number| (snapshot..open_segment).contains(&number));
        let mut lengths = Vec::new();
        for &number in &closed {
            let path = epoch::path(root, self.id(FileKind::Segment, number));
            let file = disk.open(&path, false).map_err(StorageError::io("open", &path))?;
            lengths.push(file.length().map_err(StorageError::io("read", &path))?);
        }
        let octets: u64 = lengths.iter().sum();
        let due = octets >= self.compact_min.max(self.snapshot_octets)
            || closed.len() >= self.segments_max;
        if closed.is_empty() || !(due || even_if_small) {
            return Ok(None);
        }
        // After a crash the log is completed from segments, so they stay until it has all of their
        // events.
        let logged = (self.logged)(usize::from(self.source.shard));
        let mut next = None;
        for number in (snapshot + 1..=open_segment).rev() {
            if let Some(first) = self.first_position(number)?
                && first.event <= logged
            {
                next = Some((number, first));
                break;
            }
        }
        let Some((number, first)) = next else {
            return Ok(None);
        };
        let segments: Vec<u64> = closed.iter().copied().filter(|&closed| closed < number).collect();
        let Some(octets) = self.write(snapshot, &segments, number, first)? else {
            return Ok(None);
        };
        self.snapshot_octets = octets;
        self.remove_before(number, &files)?;
        let folded: u64 = lengths.iter().take(segments.len()).sum();
        self.shard.folded(folded);
        self.shard.set_snapshot(octets, self.journal_max);
        Ok(Some(Compacted { segments: segments.len(), octets }))
    }

    /// The position of the first record of a segment.
    fn first_position(&self, number: u64) -> Result<Option<Position>, StorageError> {
        let id = self.id(FileKind::Segment, number);
        let path = epoch::path(&self.source.root, id);
        let file = self.source.disk.open(&path, false).map_err(StorageError::io("open", &path))?;
        let mut reader =
            RecordReader::new(file, id, None).map_err(StorageError::io("read", &path))?;
        // The segment that is being written may end with a part of a record.
        Ok(match reader.step().map_err(StorageError::io("read", &path))? {
            Step::Record(record) => Some(Position { record: record.number, event: record.event }),
            Step::Invalid(_) | Step::End => None,
        })
    }

    /// Writes the new snapshot and returns its octets; `None` where the server stops meanwhile.
    fn write(
        &self,
        snapshot: u64,
        segments: &[u64],
        number: u64,
        first: Position,
    ) -> Result<Option<u64>, StorageError> {
        let files = ShardFiles { snapshots: vec![snapshot], segments: segments.to_vec() };
        let source = ShardSource { files, ..self.source.clone() };
        let (root, common) = (source.root.clone(), source.common);
        let id = self.id(FileKind::Snapshot, number);
        let header = Header {
            version: self.version,
            id,
            shards: common.shards,
            handoff_port: common.handoff_port,
            time: self.time,
            boot: source.boot,
            next_record: first.record,
            next_event: first.event,
        };
        let disk = Arc::clone(&source.disk);
        let mut tables = Tables::new(source, self.memory)?;
        let mut writer = SnapshotWriter::new(&disk, &root, &header)?;
        while let Some(table) = tables.next()? {
            if self.shard.stopped.load(Ordering::Acquire) {
                return Ok(None);
            }
            writer.table(table.key, table.initialized, table.changes())?;
        }
        let end = tables.end().filter(|end| end.tear.is_none());
        if end.is_none_or(|end| end.position != first) {
            return Err(StorageError::Damaged {
                directory: root.clone(),
                file: epoch::path(&root, self.id(FileKind::Segment, number)),
                offset: HEADER_LENGTH as u64,
                what: format!("record {} does not follow the segment before", first.record),
            });
        }
        writer.finish().map(Some)
    }

    /// Removes the files that snapshot `number` replaces.
    fn remove_before(&self, number: u64, files: &ShardFiles) -> Result<(), StorageError> {
        let ShardSource { disk, root, epoch, .. } = &self.source;
        let snapshots = files.snapshots.iter().map(|&number| (FileKind::Snapshot, number));
        let segments = files.segments.iter().map(|&number| (FileKind::Segment, number));
        let mut removed = false;
        for (kind, old) in segments.chain(snapshots).filter(|&(_, old)| old < number) {
            let path = epoch::path(root, self.id(kind, old));
            match disk.remove(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                result => result.map_err(StorageError::io("remove", &path))?,
            }
            removed = true;
        }
        if removed {
            let folder = epoch::folder(root, *epoch);
            disk.sync_dir(&folder).map_err(StorageError::io("sync", &folder))?;
        }
        Ok(())
    }
}
