//! Start: [`Storage::open`] reads what there is and cuts off what is torn; [`Opened::start`] makes what is to be
//! written next, and a new epoch where shards or port are others.

use std::fmt;
use std::net::Ipv4Addr;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::compact::{Compactor, SnapshotWriter};
use super::epoch::{self, EpochFiles, ShardFiles};
use super::read::{Common, ShardEnd, ShardReader, Tear, refuse};
use super::replay::{self, Dealer, Places};
use super::sync::{Logged, Place, Shard, Storage};
use super::tables::{Source, TableState, Tables};
use super::{JournalWriter, Replay, StateDirectory, StorageConfig, StorageError};
use crate::disk::fs::{Boot, Disk, write_full, write_new};
use crate::disk::journal::{self, FileId, FileKind, Header, Position, RecordNumber};
use crate::handoff::change::{Change, Event, Timestamp};
use crate::handoff::entry::TableKey;
use crate::handoff::random::SecretHash;
use crate::kernel::{clock, entropy};

/// A torn end of a journal that was cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// Of which file.
    pub file: PathBuf,
    /// Where.
    pub offset: u64,
    /// How many octets.
    pub octets: u64,
    /// How many whole records were behind a hole. They had not been synced when the power went.
    pub records: u64,
}

/// What was found at start: one line for the operator.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The epoch that was read, if there was one.
    pub epoch: Option<u64>,
    /// How many shards it has.
    pub shards: usize,
    /// How many octets were read.
    pub octets: u64,
    /// How many records were read.
    pub records: u64,
    /// How long it took.
    pub took: Duration,
    /// Whether the server before was stopped, not killed.
    pub clean: bool,
    /// What was cut off.
    pub cuts: Vec<Cut>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(epoch) = self.epoch else {
            return f.write_str("state: none yet");
        };
        write!(
            f,
            "state: epoch {epoch}, {} shards, {} octets in {} records read in {:.1} s, {}",
            self.shards,
            self.octets,
            self.records,
            self.took.as_secs_f64(),
            if self.clean { "cleanly stopped" } else { "not cleanly stopped" }
        )?;
        for Cut { file, offset, octets, records } in &self.cuts {
            write!(f, "; cut {octets} torn octets off {} at {offset}", file.display())?;
            if *records > 0 {
                write!(f, " ({records} records that had not been synced)")?;
            }
        }
        Ok(())
    }
}

/// An epoch that was read.
struct Found {
    number: u64,
    common: Common,
    files: EpochFiles,
    ends: Vec<ShardEnd>,
}

/// State that was read, and is not yet written to.
pub struct Opened {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    directory: Option<StateDirectory>,
    config: StorageConfig,
    found: Option<Found>,
    shard_of: Box<dyn Fn(Ipv4Addr) -> usize + Send>,
    /// What was read.
    pub report: Report,
    /// The folder of the epoch that was read, with the log's cursor in it.
    pub epoch_folder: Option<PathBuf>,
    /// For each shard of that epoch the events that the log may not have, with their numbers, in order.
    pub unlogged: Vec<Vec<(u64, Event)>>,
}

/// State that is ready to be written.
pub struct Started {
    /// What works in the background: keep it until the writers are closed.
    pub storage: Storage,
    /// One for each shard.
    pub writers: Vec<JournalWriter>,
    /// The folder of the epoch that counts now.
    pub epoch_folder: PathBuf,
    /// Whether this is another epoch than the one that was read: events are numbered from 0 again, and the log
    /// has none of them.
    pub is_new_epoch: bool,
    /// For each shard the number of its next event.
    pub first_events: Vec<u64>,
    /// For each shard the events that starting made (deletions from what is the handoff port now), in order. The
    /// first has number 0 of a new epoch, and the last is just before [`Started::first_events`].
    pub events: Vec<Vec<Event>>,
}

impl Storage {
    /// Reads all state in a directory: cuts off what is torn, and gives all changes, in order for each table,
    /// to the shard in `shards` that `shard_of` says. There are as many as `config` says; or the same number of
    /// parts of each, one shard's after the other's, and each table goes to one of its shard's. Each works in
    /// a thread of its own. `cursor` reads from the folder of the epoch how many events of each of its shards the
    /// event log has, if that is known.
    ///
    /// # Errors
    /// Where anything is damaged or cannot be read. Nothing was changed then.
    pub fn open<R: Replay>(
        disk: Arc<dyn Disk>,
        directory: StateDirectory,
        config: StorageConfig,
        shard_of: impl Fn(Ipv4Addr) -> usize + Send + Sync + 'static,
        cursor: impl FnOnce(&Path) -> Option<Vec<u64>>,
        shards: &mut [R],
    ) -> Result<Opened, StorageError> {
        let root = directory.path().to_owned();
        let mut opened = Self::open_at(disk, &root, config, shard_of, cursor, shards)?;
        opened.directory = Some(directory);
        Ok(opened)
    }

    /// As [`Storage::open`], in a directory that nobody locks: for disks that are not real.
    pub fn open_at<R: Replay>(
        disk: Arc<dyn Disk>,
        root: &Path,
        config: StorageConfig,
        shard_of: impl Fn(Ipv4Addr) -> usize + Send + Sync + 'static,
        cursor: impl FnOnce(&Path) -> Option<Vec<u64>>,
        shards: &mut [R],
    ) -> Result<Opened, StorageError> {
        assert!(!shards.is_empty() && shards.len().is_multiple_of(config.shards));
        let mut opened = Opened {
            root: root.to_owned(),
            directory: None,
            config,
            found: None,
            shard_of: Box::new(|_| 0),
            report: Report::default(),
            epoch_folder: None,
            unlogged: Vec::new(),
            disk,
        };
        match epoch::current(&*opened.disk, root)? {
            Some(number) => opened.read(number, &shard_of, cursor, shards)?,
            None => opened.refuse_orphans()?,
        }
        opened.shard_of = Box::new(shard_of);
        Ok(opened)
    }
}

impl Opened {
    /// Without a current epoch there must be none with anything in it.
    fn refuse_orphans(&self) -> Result<(), StorageError> {
        for number in epoch::epochs(&*self.disk, &self.root)? {
            let files = epoch::files(&*self.disk, &self.root, number)?;
            if let Some(id) = first_file_with_changes(&*self.disk, &self.root, number, &files)? {
                return Err(StorageError::Damaged {
                    directory: self.root.clone(),
                    file: self.root.join("current"),
                    offset: 0,
                    what: format!(
                        "is missing, though there is state in {}",
                        epoch::path(&self.root, id).display()
                    ),
                });
            }
        }
        Ok(())
    }

    fn read<R: Replay>(
        &mut self,
        number: u64,
        shard_of: &(impl Fn(Ipv4Addr) -> usize + Sync),
        cursor: impl FnOnce(&Path) -> Option<Vec<u64>>,
        shards: &mut [R],
    ) -> Result<(), StorageError> {
        let begin = clock::instant();
        let (disk, root) = (&*self.disk, &*self.root);
        let folder = epoch::folder(root, number);
        if !epoch::epochs(disk, root)?.contains(&number) {
            return Err(StorageError::Damaged {
                directory: root.to_owned(),
                file: root.join("current"),
                offset: 0,
                what: format!("names epoch {number}, which is not there"),
            });
        }
        let files = epoch::files(disk, root, number)?;
        let count = shard_count(disk, root, number, &files)?;
        let logged = cursor(&folder);
        let parts = shards.len() / self.config.shards;
        let none = ShardFiles::default();
        let next = AtomicUsize::new(0);
        let results: Mutex<Vec<_>> = Mutex::new(Vec::new());
        let boot = disk.boot();
        let places = Places::default();
        let read_some = |queues: Vec<SyncSender<replay::Batch>>| {
            loop {
                let shard = next.fetch_add(1, Ordering::Relaxed);
                if shard >= usize::from(count) {
                    return;
                }
                let files = files.shards.get(&(shard as u16)).unwrap_or(&none);
                let reader =
                    ShardReader { disk, root, epoch: number, shard: shard as u16, files, boot };
                let logged = logged.as_ref().and_then(|logged| logged.get(shard).copied());
                let dealer = Dealer::new(&queues, parts, &places, shard_of);
                let result = read_shard(&reader, logged.unwrap_or(0), dealer);
                let stop = result.is_err();
                results.lock().unwrap_or_else(PoisonError::into_inner).push((shard, result));
                if stop {
                    next.store(usize::from(count), Ordering::Relaxed);
                }
            }
        };
        thread::scope(|scope| {
            let mut queues = Vec::new();
            for shard in shards {
                let (sender, queue) = replay::queue();
                queues.push(sender);
                scope.spawn(move || replay::replay_all(queue, shard));
            }
            let threads = thread::available_parallelism().map_or(1, NonZero::get);
            for _ in 1..threads.min(usize::from(count)) {
                let (read_some, queues) = (&read_some, queues.clone());
                scope.spawn(move || read_some(queues));
            }
            read_some(queues);
        });
        let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        results.sort_by_key(|(shard, _)| *shard);
        let mut common = None;
        let mut ends = Vec::new();
        for (shard, result) in results {
            let (found, end, unlogged) = result?;
            if *common.get_or_insert(found) != found {
                let kind = FileKind::Snapshot;
                let id = FileId { kind, epoch: number, shard: shard as u16, number: end.snapshot };
                return Err(StorageError::Damaged {
                    directory: root.to_owned(),
                    file: epoch::path(root, id),
                    offset: 0,
                    what: "header contradicts those of other shards".into(),
                });
            }
            ends.push(end);
            self.unlogged.push(unlogged);
        }
        let common = common.unwrap_or(Common { shards: count, handoff_port: 0 });
        let found = Found { number, common, files, ends };
        self.report = Report {
            epoch: Some(number),
            shards: found.ends.len(),
            octets: found.ends.iter().map(|end| end.snapshot_octets + end.segment_octets).sum(),
            records: found.ends.iter().map(|end| end.records).sum(),
            clean: found.ends.iter().all(|end| end.ended || end.last_segment.is_none()),
            took: Duration::ZERO,
            cuts: Vec::new(),
        };
        self.epoch_folder = Some(folder);
        // Nothing is changed before everything was read.
        for (shard, end) in found.ends.iter().enumerate() {
            self.settle(&found, shard as u16, end)?;
            if let Some(Tear { id, offset, octets, records }) = end.tear {
                let file = epoch::path(&self.root, id);
                self.report.cuts.push(Cut { file, offset, octets, records });
            }
        }
        self.report.took = begin.elapsed();
        self.found = Some(found);
        Ok(())
    }

    /// Makes durable what was read, and cuts off what was not. Segments behind go from the last to the first,
    /// so that a hole is never where a cut is under way.
    fn settle(&self, found: &Found, shard: u16, end: &ShardEnd) -> Result<(), StorageError> {
        let disk = &*self.disk;
        let folder = epoch::folder(&self.root, found.number);
        let id = |number| FileId { kind: FileKind::Segment, epoch: found.number, shard, number };
        let none = ShardFiles::default();
        let files = found.files.shards.get(&shard).unwrap_or(&none);
        let torn = end.tear.map(|tear| tear.id.number);
        let last = end.last_segment.or(torn).unwrap_or(end.snapshot).max(torn.unwrap_or(0));
        for &number in files.segments.iter().rev().filter(|&&number| number > last) {
            let path = epoch::path(&self.root, id(number));
            disk.remove(&path).map_err(StorageError::io("remove", &path))?;
            disk.sync_dir(&folder).map_err(StorageError::io("sync", &folder))?;
        }
        // Also after a clean stop: its last sync may have failed. Where nothing is to be written it costs nothing.
        for &number in files.segments.iter().filter(|&&n| (end.snapshot..=last).contains(&n)) {
            let path = epoch::path(&self.root, id(number));
            let file = disk.open(&path, true).map_err(StorageError::io("open", &path))?;
            if let Some(tear) = end.tear.filter(|tear| tear.id.number == number) {
                file.truncate(tear.offset).map_err(StorageError::io("cut", &path))?;
            }
            file.sync().map_err(StorageError::io("sync", &path))?;
        }
        Ok(())
    }

    /// Makes the state ready to be written. The log must have everything in [`Opened::unlogged`] by now.
    /// `logged` says from now on how many events of each new shard it has.
    ///
    /// # Errors
    /// Where the disk refuses. What there was is still there then.
    pub fn start(self, now: Timestamp, logged: Arc<Logged>) -> Result<Started, StorageError> {
        let same = |found: &&Found| {
            found.ends.len() == self.config.shards
                && found.common.handoff_port == self.config.handoff_port
        };
        match self.found.as_ref().filter(same) {
            Some(found) => {
                let ends = found.ends.clone();
                let (number, common, files) = (found.number, found.common, found.files.clone());
                for path in &files.unfinished {
                    self.disk.remove(path).map_err(StorageError::io("remove", path))?;
                }
                self.remove_other_epochs(number);
                self.begin(number, common, ends, Vec::new(), now, logged)
            }
            None => {
                let (number, common, ends, events) = self.new_epoch(now)?;
                self.remove_other_epochs(number);
                self.begin(number, common, ends, events, now, logged)
            }
        }
    }

    /// That one could not be removed is no reason not to start: it is tried again the next time.
    fn remove_other_epochs(&self, current: u64) {
        for number in epoch::epochs(&*self.disk, &self.root).unwrap_or_default() {
            if number != current {
                drop(epoch::remove(&*self.disk, &self.root, number));
            }
        }
    }

    fn begin(
        self,
        number: u64,
        common: Common,
        ends: Vec<ShardEnd>,
        mut events: Vec<Vec<Event>>,
        now: Timestamp,
        logged: Arc<Logged>,
    ) -> Result<Started, StorageError> {
        let Self { disk, root, directory, config, found, .. } = self;
        let boot = disk.boot();
        let hash = secret_hash();
        let place = Place { disk, root: root.clone(), epoch: number, common, time: now };
        let (mut shards, mut writers, mut compactors) = (Vec::new(), Vec::new(), Vec::new());
        let mut first_events = Vec::new();
        for (index, end) in ends.iter().enumerate() {
            // Where the last one has no record, the new one takes its place.
            let next = end.last_segment.map_or(end.snapshot, |last| last + 1);
            let last = RecordNumber(end.position.record.0.saturating_sub(1));
            let (shard, next_segment, begun) =
                Shard::new(config.sync, config.segment_max, last, next);
            match shard.make_next(index, &place) {
                // It is made when there is room; meanwhile what is known is served.
                Err(StorageError::Io { cause, .. }) if is_no_space(&cause) => {}
                result => result?,
            }
            compactors.push(Compactor {
                source: Source {
                    disk: Arc::clone(&place.disk),
                    root: root.clone(),
                    epoch: number,
                    shard: index as u16,
                    files: ShardFiles::default(),
                    boot,
                    common,
                    tolerant: false,
                    hash,
                },
                shard: Arc::clone(&shard),
                logged: Arc::clone(&logged),
                snapshot_octets: end.snapshot_octets,
                compact_min: config.compact_min,
                segments_max: config.segments_max,
                memory: config.compact_memory,
                time: now,
            });
            first_events.push(end.position.event);
            let writer = JournalWriter::new(Arc::clone(&shard), next_segment, begun, end.position);
            // The next one, so that the first can be left.
            match shard.make_next(index, &place) {
                Err(StorageError::Io { cause, .. }) if is_no_space(&cause) => {}
                result => result?,
            }
            writers.push(writer);
            shards.push(shard);
        }
        events.resize_with(ends.len(), Vec::new);
        let is_new_epoch = found.is_none_or(|found| found.number != number);
        let threads = config.threads;
        let storage = Storage::new(directory, place, shards, compactors, threads)
            .map_err(StorageError::io("start the threads for", &root))?;
        Ok(Started {
            storage,
            writers,
            epoch_folder: epoch::folder(&root, number),
            is_new_epoch,
            first_events,
            events,
        })
    }

    /// Writes an epoch for the shards and the port that there are now, from the one that was read.
    #[expect(clippy::type_complexity, reason = "what `begin` needs, in its order")]
    fn new_epoch(
        &self,
        now: Timestamp,
    ) -> Result<(u64, Common, Vec<ShardEnd>, Vec<Vec<Event>>), StorageError> {
        let hash = secret_hash();
        let boot = self.disk.boot();
        let memory = self.config.compact_memory / self.config.shards.max(1);
        let mut sources = Vec::new();
        if let Some(found) = &self.found {
            for (shard, files) in &found.files.shards {
                // A file that is no shard's of this epoch was not read either.
                let Some(end) = found.ends.get(usize::from(*shard)) else { continue };
                let number = end.snapshot;
                let last = end.last_segment.unwrap_or(number);
                let mut files = files.clone();
                files.snapshots.retain(|&n| n == number);
                files.segments.retain(|&n| (number..=last).contains(&n));
                let source = Source {
                    disk: Arc::clone(&self.disk),
                    root: self.root.clone(),
                    epoch: found.number,
                    shard: *shard,
                    files,
                    boot,
                    common: found.common,
                    tolerant: false,
                    hash,
                };
                sources.push(Tables::new(source, memory)?);
            }
        }
        let number = epoch::unused(&*self.disk, &self.root)?;
        let common =
            Common { shards: self.config.shards as u16, handoff_port: self.config.handoff_port };
        let new = NewEpoch { disk: &self.disk, root: &self.root, number, common, now, boot };
        let (ends, events) = new.write(sources, &|_, table| (self.shard_of)(table.key.nat64))?;
        epoch::set_current(&*self.disk, &self.root, number)?;
        Ok((number, common, ends, events))
    }
}

/// An epoch that is being written.
pub(super) struct NewEpoch<'a> {
    pub disk: &'a Arc<dyn Disk>,
    pub root: &'a Path,
    pub number: u64,
    pub common: Common,
    pub now: Timestamp,
    pub boot: Boot,
}

impl NewEpoch<'_> {
    fn header(&self, kind: FileKind, shard: u16, number: u64) -> Header {
        let next_record = RecordNumber(u64::from(kind == FileKind::Snapshot));
        Header {
            id: FileId { kind, epoch: self.number, shard, number },
            shards: self.common.shards,
            handoff_port: self.common.handoff_port,
            time: self.now,
            boot: self.boot,
            next_record,
            next_event: 0,
        }
    }

    /// Writes the tables of `sources`, durably, but not that they count. `shard_of` says where a table goes
    /// that comes from some source.
    pub fn write(
        &self,
        mut sources: Vec<Tables>,
        shard_of: &dyn Fn(usize, &TableState) -> usize,
    ) -> Result<(Vec<ShardEnd>, Vec<Vec<Event>>), StorageError> {
        let folder = epoch::folder(self.root, self.number);
        self.disk.create_dir(&folder).map_err(StorageError::io("make", &folder))?;
        let shards = self.common.shards;
        let mut writers = Vec::new();
        for shard in 0..shards {
            let header = self.header(FileKind::Snapshot, shard, 0);
            writers.push(SnapshotWriter::new(self.disk, self.root, &header)?);
        }
        let mut deleted: Vec<Vec<(TableKey, Change)>> = vec![Vec::new(); usize::from(shards)];
        loop {
            let mut first: Option<(TableKey, usize)> = None;
            for (index, tables) in sources.iter_mut().enumerate() {
                if let Some(key) = tables.peek()?
                    && first.is_none_or(|(least, _)| key < least)
                {
                    first = Some((key, index));
                }
            }
            let Some((key, index)) = first else {
                break;
            };
            let Some(mut table) = sources[index].next()? else {
                break;
            };
            let shard = shard_of(index, &table);
            let change = table.bar(self.common.handoff_port);
            deleted[shard].extend(change.map(|change| (key, change)));
            writers[shard].table(key, table.initialized, table.nat64.changes())?;
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
        Ok((ends, events))
    }

    /// Every shard has the segment that its snapshot stands before.
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

/// What reading a shard gives: what its headers say, where it ends, and the events that are to be logged.
type Read = (Common, ShardEnd, Vec<(u64, Event)>);

fn read_shard(
    reader: &ShardReader<'_>,
    logged: u64,
    mut dealer: Dealer<'_, impl Fn(Ipv4Addr) -> usize>,
) -> Result<Read, StorageError> {
    let mut common = None;
    let mut unlogged = Vec::new();
    let end = reader.read(&mut common, &mut refuse(reader.root), &mut |id, record| {
        if id.kind == FileKind::Segment && record.event.saturating_add(record.events()) > logged {
            let events = record
                .changes()
                .filter_map(|(table, change)| change.event(record.time, table))
                .zip(record.event..)
                .map(|(event, number)| (number, event));
            unlogged.extend(events.filter(|&(number, _)| number >= logged));
        }
        dealer.deal(record);
        Ok(())
    })?;
    dealer.finish();
    Ok((common.unwrap_or(Common { shards: 1, handoff_port: 0 }), end, unlogged))
}

/// How many shards an epoch has, from the first header that can be read.
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

/// A file in which something is said about a table.
fn first_file_with_changes(
    disk: &dyn Disk,
    root: &Path,
    epoch: u64,
    files: &EpochFiles,
) -> Result<Option<FileId>, StorageError> {
    let boot = disk.boot();
    for (&shard, files) in &files.shards {
        let reader = ShardReader { disk, root, epoch, shard, files, boot };
        let mut found = None;
        reader.read(&mut None, &mut |_| Ok(()), &mut |id, _| {
            found = found.or(Some(id));
            Ok(())
        })?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

fn is_no_space(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

/// For indexes of tables that nobody else sees: remotes chose what is in them.
pub(super) fn secret_hash() -> SecretHash {
    // Without randomness it is only slower against somebody who knows.
    SecretHash::new(entropy::octets().unwrap_or_default())
}
