//! Reads the files of a shard in order, finds out where one is torn or damaged, and decides which
//! of both it is (`journal`, last section).

mod records;
mod segments;
mod snapshot;

use std::path::Path;
use std::sync::Arc;

use super::StorageError;
use super::epoch::{self, EpochFiles, ShardFiles};
use crate::disk::fs::{Boot, Disk, DiskFile, read_full};
use crate::disk::journal::{
    FileId, FileKind, HEADER_LENGTH, Header, HeaderError, Position, Record, RecordNumber,
};

pub(super) use records::{RecordReader, Step};
use segments::Reach;

/// Something that is not as it was written, with valid records behind it or where nothing can be
/// torn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Damage {
    pub id: FileId,
    pub offset: u64,
    pub what: String,
    /// Octets that are not readable, as far as can be told.
    pub octets: u64,
    /// The first and the last record that are missing, where that can be told.
    pub records: Option<(RecordNumber, RecordNumber)>,
}

/// The end of a journal that was torn off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tear {
    pub id: FileId,
    pub offset: u64,
    /// Octets of the file from there on.
    pub octets: u64,
    /// Valid records behind a hole, which go with it.
    pub records: u64,
}

/// What all files of an epoch have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Common {
    pub shards: u16,
    pub handoff_port: u16,
}

/// What was read of a shard, and where it ends.
#[derive(Debug, Clone)]
pub(super) struct ShardEnd {
    /// The position of the next record.
    pub position: Position,
    /// The snapshot that counts.
    pub snapshot: u64,
    pub snapshot_octets: u64,
    /// The last segment that has a record.
    pub last_segment: Option<u64>,
    /// Octets of all segments from the snapshot on.
    pub segment_octets: u64,
    /// Whether it ends as after a clean stop.
    pub ended: bool,
    pub tear: Option<Tear>,
    pub records: u64,
}

/// Reads the snapshot and the segments of a shard.
pub(super) struct ShardReader<'a> {
    pub disk: &'a dyn Disk,
    pub root: &'a Path,
    pub epoch: u64,
    pub shard: u16,
    pub files: &'a ShardFiles,
    pub boot: Boot,
}

/// Called for each damage. `Err` ends the reading; else it goes on behind the damage.
pub(super) type OnDamage<'a> = &'a mut dyn FnMut(Damage) -> Result<(), StorageError>;
/// Called for each record, with the file that it is in.
pub(super) type Sink<'a> = &'a mut dyn FnMut(FileId, &Record<'_>) -> Result<(), StorageError>;

/// An [`OnDamage`] that ends the reading with an error.
pub(super) fn refuse(root: &Path) -> impl FnMut(Damage) -> Result<(), StorageError> + use<> {
    let directory = root.to_owned();
    move |damage| {
        Err(StorageError::Damaged {
            file: epoch::path(&directory, damage.id),
            directory: directory.clone(),
            offset: damage.offset,
            what: damage.what,
        })
    }
}

impl ShardReader<'_> {
    fn id(&self, kind: FileKind, number: u64) -> FileId {
        FileId { kind, epoch: self.epoch, shard: self.shard, number }
    }

    fn open(&self, id: FileId) -> Result<Arc<dyn DiskFile>, StorageError> {
        let path = epoch::path(self.root, id);
        self.disk.open(&path, false).map_err(StorageError::io("open", &path))
    }

    /// The header of a file, or what is wrong with it.
    pub fn header(
        &self,
        id: FileId,
        file: &dyn DiskFile,
    ) -> Result<Result<Header, String>, StorageError> {
        let path = epoch::path(self.root, id);
        let mut octets = [0; HEADER_LENGTH];
        let length = read_full(file, &mut octets, 0).map_err(StorageError::io("read", &path))?;
        match Header::decode(&octets[..length]) {
            Ok(header) if header.id == id => Ok(Ok(header)),
            Ok(_) => Ok(Err("header of another file".into())),
            Err(HeaderError::Newer(version)) => Err(StorageError::Newer { file: path, version }),
            Err(error) => Ok(Err(error.to_string())),
        }
    }

    fn missing(&self, id: FileId) -> Damage {
        let what = "file is missing".into();
        Damage { id, offset: 0, what, octets: 0, records: None }
    }

    /// Reads everything in order.
    pub fn read(
        &self,
        common: &mut Option<Common>,
        on_damage: OnDamage<'_>,
        sink: Sink<'_>,
    ) -> Result<ShardEnd, StorageError> {
        self.read_to(false, common, on_damage, sink)
    }

    /// As [`ShardReader::read`], while somebody writes: what is not whole at the end of the segment
    /// that is written is not there yet.
    pub fn read_live(
        &self,
        common: &mut Option<Common>,
        on_damage: OnDamage<'_>,
        sink: Sink<'_>,
    ) -> Result<ShardEnd, StorageError> {
        self.read_to(true, common, on_damage, sink)
    }

    /// Reads on where reading ended `before`.
    pub fn read_on(
        &self,
        before: &ShardEnd,
        common: &mut Option<Common>,
        on_damage: OnDamage<'_>,
        sink: Sink<'_>,
    ) -> Result<ShardEnd, StorageError> {
        let mut end = ShardEnd { tear: None, segment_octets: 0, ..before.clone() };
        let first = before.last_segment.unwrap_or(before.snapshot);
        for &number in self.files.segments.iter().filter(|n| (before.snapshot..first).contains(n)) {
            let id = self.id(FileKind::Segment, number);
            let length = self.open(id)?.length();
            let path = epoch::path(self.root, id);
            end.segment_octets += length.map_err(StorageError::io("read", &path))?;
        }
        // The records of the last segment tell their numbers once more.
        let known = before.last_segment.is_none();
        let reach = Reach { first: Some(first), from: before.position.record, live: false };
        self.read_segments(reach, known, common, &mut *on_damage, sink, &mut end)?;
        if end.position.record < before.position.record {
            let id = self.id(FileKind::Segment, first);
            let what = "records that were read before are not there any more".into();
            on_damage(Damage { id, offset: 0, what, octets: 0, records: None })?;
        }
        Ok(end)
    }

    fn read_to(
        &self,
        live: bool,
        common: &mut Option<Common>,
        on_damage: OnDamage<'_>,
        sink: Sink<'_>,
    ) -> Result<ShardEnd, StorageError> {
        let snapshot = self.files.snapshot();
        let mut end = self.nothing();
        let mut known = false;
        match snapshot {
            Some(number) => {
                let id = self.id(FileKind::Snapshot, number);
                if let Some(header) = self.read_snapshot(id, common, on_damage, sink, &mut end)? {
                    end.position =
                        Position { record: header.next_record, event: header.next_event };
                    known = true;
                }
            }
            None => on_damage(self.missing(self.id(FileKind::Snapshot, end.snapshot)))?,
        }
        self.read_segments(
            Reach { live, ..Reach::default() },
            known,
            common,
            on_damage,
            sink,
            &mut end,
        )?;
        Ok(end)
    }

    /// Reads the segments in order, whose first record may have any number.
    pub fn read_segments_only(
        &self,
        common: &mut Option<Common>,
        on_damage: OnDamage<'_>,
        sink: Sink<'_>,
    ) -> Result<ShardEnd, StorageError> {
        let mut end = self.nothing();
        self.read_segments(Reach::default(), false, common, on_damage, sink, &mut end)?;
        Ok(end)
    }

    fn nothing(&self) -> ShardEnd {
        let first = self.files.snapshot().or_else(|| self.files.segments.first().copied());
        ShardEnd {
            position: Position { record: RecordNumber(1), event: 0 },
            snapshot: first.unwrap_or_default(),
            snapshot_octets: 0,
            last_segment: None,
            segment_octets: 0,
            ended: false,
            tear: None,
            records: 0,
        }
    }

    fn check_common(
        common: &mut Option<Common>,
        header: Result<Header, String>,
    ) -> Result<Header, String> {
        let header = header?;
        let found = Common { shards: header.shards, handoff_port: header.handoff_port };
        if *common.get_or_insert(found) != found {
            return Err("header contradicts those of other files".into());
        }
        Ok(header)
    }
}

/// The number of shards of an epoch, from the first header that can be read.
pub(super) fn shard_count(
    disk: &dyn Disk,
    root: &Path,
    epoch: u64,
    files: &EpochFiles,
) -> Result<u16, StorageError> {
    let boot = disk.boot();
    for (&shard, shard_files) in &files.shards {
        let reader = ShardReader { disk, root, epoch, shard, files: shard_files, boot };
        let snapshots = shard_files.snapshots.iter().map(|&n| (FileKind::Snapshot, n));
        let segments = shard_files.segments.iter().map(|&n| (FileKind::Segment, n));
        for (kind, number) in snapshots.chain(segments) {
            let id = FileId { kind, epoch, shard, number };
            let path = epoch::path(root, id);
            let file = disk.open(&path, false).map_err(StorageError::io("open", &path))?;
            if let Ok(header) = reader.header(id, &*file)? {
                return Ok(header.shards);
            }
        }
    }
    Ok(files.shards.last_key_value().map_or(1, |(&shard, _)| shard.saturating_add(1)))
}
