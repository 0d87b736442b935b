//! The first half of a start: [`Storage::open`] reads what there is, replays it, and cuts off what
//! is torn.

use std::collections::VecDeque;
use std::fmt;
use std::net::Ipv4Addr;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::epoch::{self, EpochFiles, ShardFiles};
use super::read::{Common, ShardEnd, ShardReader, Tear, refuse, shard_count};
use super::replay::{self, Dealer, Dealt, To};
use super::sync::Storage;
use super::{Replay, StateDirectory, StorageConfig, StorageError};
use crate::disk::UNLOGGED_MAX;
use crate::disk::fs::Disk;
use crate::disk::journal::{FileId, FileKind, Record};
use crate::handoff::change::Event;
use crate::kernel::clock;

/// A torn end of a journal that was cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    pub file: PathBuf,
    /// The length that was left.
    pub offset: u64,
    /// Octets that were cut off.
    pub octets: u64,
    /// Whole records among them, behind a hole. They had not been synced before the power cut.
    pub records: u64,
}

/// What was found at start: one line for the operator.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The epoch that was read, if there was one.
    pub epoch: Option<u64>,
    /// Shards of the epoch.
    pub shards: usize,
    /// Octets that were read.
    pub octets: u64,
    /// Records that were read.
    pub records: u64,
    /// Duration of reading and replay.
    pub took: Duration,
    /// Whether most was read before that, see [`Storage::read_ahead`].
    pub ahead: bool,
    /// Whether the previous server was stopped, not killed.
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
            "state: epoch {epoch}, {} shards, {} octets in {} records read {} {:.1} s, {}",
            self.shards,
            self.octets,
            self.records,
            if self.ahead { "ahead, and to the end in" } else { "in" },
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
pub(super) struct FoundEpoch {
    pub number: u64,
    pub common: Common,
    pub files: EpochFiles,
    pub ends: Vec<ShardEnd>,
    /// Whether it has names of the pool, or had some.
    pub has_names: bool,
}

/// Where the state is.
#[derive(Debug)]
pub enum StatePlace {
    /// In a directory that is locked.
    Locked(StateDirectory),
    /// In a directory of a disk that is not real, which nobody else has.
    NotLocked(PathBuf),
}

impl StatePlace {
    /// The path of the directory.
    pub fn path(&self) -> &Path {
        match self {
            StatePlace::Locked(directory) => directory.path(),
            StatePlace::NotLocked(path) => path,
        }
    }

    fn lock(self) -> Option<StateDirectory> {
        match self {
            StatePlace::Locked(directory) => Some(directory),
            StatePlace::NotLocked(_) => None,
        }
    }
}

/// State that was read, and is not yet written to.
pub struct Opened {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) root: PathBuf,
    pub(super) directory: Option<StateDirectory>,
    pub(super) config: StorageConfig,
    pub(super) found: Option<FoundEpoch>,
    pub(super) shard_of: Box<dyn Fn(Ipv4Addr) -> usize + Send>,
    /// What was read.
    pub report: Report,
    /// The folder of the epoch that was read, with the log's cursor in it.
    pub epoch_folder: Option<PathBuf>,
    /// For each shard of that epoch the events that the log may not have, with their numbers, in
    /// order: where it is not known how many it has, the last `UNLOGGED_MAX`.
    pub unlogged: Vec<Vec<(u64, Event)>>,
    /// For each shard of that epoch the number of the event after the last one that was read.
    pub next_events: Vec<u64>,
}

impl Storage {
    /// Reads all state in a directory, cuts off what is torn, and replays all changes, in order for
    /// each table.
    ///
    /// `shards` has the same number of parts for each shard of `config`, at least one: those of the
    /// first shard, then those of the second, and so on. A table is replayed to one part of the
    /// shard that `shard_of` returns. Each part works in a thread of its own. `cursor` reads from
    /// the folder of the epoch the number of events of each of its shards that the event log has,
    /// if that is known. What was read `ahead` is in the same `shards` already, and
    /// [`ReadAhead::fits`].
    ///
    /// # Errors
    /// Where anything is damaged or cannot be read. Nothing was changed then.
    pub fn open<R: Replay>(
        disk: Arc<dyn Disk>,
        directory: StateDirectory,
        config: StorageConfig,
        shard_of: impl Fn(Ipv4Addr) -> usize + Send + Sync + 'static,
        cursor: impl FnOnce(&Path) -> Option<Vec<u64>>,
        ahead: Option<ReadAhead>,
        shards: &mut [R],
    ) -> Result<Opened, StorageError> {
        let place = StatePlace::Locked(directory);
        Self::open_in(disk, place, config, shard_of, cursor, ahead, shards)
    }

    /// Reads all that there is while another process writes it, and replays it as
    /// [`Storage::open`] does. `None`: there is no state yet.
    ///
    /// # Errors
    /// Where anything is damaged or cannot be read; also where files came and went meanwhile: then
    /// another try may do.
    pub fn read_ahead<R: Replay>(
        disk: &dyn Disk,
        root: &Path,
        config: &StorageConfig,
        shard_of: impl Fn(Ipv4Addr) -> usize + Send + Sync,
        shards: &mut [R],
    ) -> Result<Option<ReadAhead>, StorageError> {
        let Some(number) = epoch::current(disk, root)? else { return Ok(None) };
        let files = epoch::files(disk, root, number)?;
        let all = Dealt::new(threads(config));
        let reading = EpochReader {
            disk,
            root,
            number,
            files: &files,
            count: shard_count(disk, root, number, &files)?,
            logged: vec![u64::MAX; usize::from(u16::MAX)],
            parts: shards.len() / config.shards,
            all: &all,
            threads: threads(config),
            how: How::Live,
        };
        let read = reading.read(&shard_of, shards)?;
        let ends = read.into_iter().map(|read| read.end).collect();
        all.give_back_memory();
        Ok(Some(ReadAhead { epoch: number, ends, all }))
    }

    /// As [`Storage::open`], in a directory without a lock: for disks that are not real.
    pub fn open_at<R: Replay>(
        disk: Arc<dyn Disk>,
        root: &Path,
        config: StorageConfig,
        shard_of: impl Fn(Ipv4Addr) -> usize + Send + Sync + 'static,
        cursor: impl FnOnce(&Path) -> Option<Vec<u64>>,
        shards: &mut [R],
    ) -> Result<Opened, StorageError> {
        let place = StatePlace::NotLocked(root.to_owned());
        Self::open_in(disk, place, config, shard_of, cursor, None, shards)
    }

    /// As [`Storage::open`], in any place.
    pub fn open_in<R: Replay>(
        disk: Arc<dyn Disk>,
        place: StatePlace,
        config: StorageConfig,
        shard_of: impl Fn(Ipv4Addr) -> usize + Send + Sync + 'static,
        cursor: impl FnOnce(&Path) -> Option<Vec<u64>>,
        ahead: Option<ReadAhead>,
        shards: &mut [R],
    ) -> Result<Opened, StorageError> {
        assert!(!shards.is_empty() && shards.len().is_multiple_of(config.shards));
        let root = place.path().to_owned();
        let mut opened = Opened {
            root: root.clone(),
            directory: place.lock(),
            config,
            found: None,
            shard_of: Box::new(|_| 0),
            report: Report::default(),
            epoch_folder: None,
            unlogged: Vec::new(),
            next_events: Vec::new(),
            disk,
        };
        match epoch::current(&*opened.disk, &root)? {
            Some(number) => opened.read(number, &shard_of, cursor, ahead, shards)?,
            None => opened.refuse_orphans()?,
        }
        opened.shard_of = Box::new(shard_of);
        Ok(opened)
    }
}

impl Opened {
    /// Where no epoch is current, no epoch may have changes.
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
        ahead: Option<ReadAhead>,
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
        let fresh = Dealt::new(threads(&self.config));
        let all = ahead.as_ref().map_or(&fresh, |ahead| &ahead.all);
        let reading = EpochReader {
            disk,
            root,
            number,
            files: &files,
            count,
            logged: cursor(&folder).unwrap_or_default(),
            parts: shards.len() / self.config.shards,
            all,
            threads: threads(&self.config),
            how: ahead.as_ref().map_or(How::Whole, |ahead| How::On(&ahead.ends)),
        };
        let mut ends = Vec::new();
        let (mut common, mut unlogged) = (None, Vec::new());
        for read in reading.read(shard_of, shards)? {
            common = common.or(Some(read.common));
            ends.push(read.end);
            unlogged.push(read.unlogged);
        }
        let common = common.unwrap_or(Common { shards: count, handoff_port: 0 });
        let has_names = all.has_names();
        let found = FoundEpoch { number, common, files, ends, has_names };
        self.unlogged = unlogged;
        self.next_events = found.ends.iter().map(|end| end.position.event).collect();
        self.report = Report {
            epoch: Some(number),
            shards: found.ends.len(),
            octets: found.ends.iter().map(|end| end.snapshot_octets + end.segment_octets).sum(),
            records: found.ends.iter().map(|end| end.records).sum(),
            clean: found.ends.iter().all(|end| end.ended || end.last_segment.is_none()),
            took: Duration::ZERO,
            ahead: ahead.is_some(),
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

    /// Makes durable what was read, and cuts off what was not. Later segments are removed from the
    /// last to the first, so that a crash in between leaves no hole.
    fn settle(&self, found: &FoundEpoch, shard: u16, end: &ShardEnd) -> Result<(), StorageError> {
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
        // Also after a clean stop, whose last sync may have failed. Costs nothing where nothing is
        // dirty.
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
}

/// An epoch that is being read.
struct EpochReader<'a> {
    disk: &'a dyn Disk,
    root: &'a Path,
    number: u64,
    files: &'a EpochFiles,
    /// The number of its shards.
    count: u16,
    /// For each shard the number of events that the log has; not known for those beyond the end.
    logged: Vec<u64>,
    /// The number of [`Replay`]s of each shard.
    parts: usize,
    all: &'a Dealt,
    /// How many threads read. One does all, and there are no others that replay.
    threads: usize,
    how: How<'a>,
}

/// How many threads may read. With one, files are read, and replayed, in the same order each time.
fn threads(config: &StorageConfig) -> usize {
    if !config.threads {
        return 1;
    }
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// What is read of an epoch.
#[derive(Clone, Copy)]
enum How<'a> {
    Whole,
    /// All that there is, while somebody writes.
    Live,
    /// What came after these.
    On(&'a [ShardEnd]),
}

/// What [`Storage::read_ahead`] read: how far, and where its tables are.
pub struct ReadAhead {
    epoch: u64,
    ends: Vec<ShardEnd>,
    all: Dealt,
}

impl ReadAhead {
    /// Whether what is there now goes on where this ended: the same files, with perhaps more of
    /// them, and an event log that has all events of this. `logged` is what the log's cursor says.
    ///
    /// # Errors
    /// Where the directory cannot be read.
    pub fn fits(
        &self,
        disk: &dyn Disk,
        root: &Path,
        logged: Option<&[u64]>,
    ) -> Result<bool, StorageError> {
        if epoch::current(disk, root)? != Some(self.epoch) {
            return Ok(false);
        }
        let files = epoch::files(disk, root, self.epoch)?;
        let snapshot_of = |shard: usize| files.shards.get(&(shard as u16))?.snapshot();
        let mut ends = self.ends.iter().enumerate();
        Ok(ends.all(|(shard, end)| {
            let logged = logged.and_then(|logged| logged.get(shard).copied());
            snapshot_of(shard) == Some(end.snapshot)
                && logged.is_some_and(|logged| logged >= end.position.event)
        }))
    }

    /// The folder with the log's cursor.
    pub fn epoch_folder(&self, root: &Path) -> PathBuf {
        epoch::folder(root, self.epoch)
    }
}

/// What reading a shard gives.
struct ShardRead {
    common: Common,
    end: ShardEnd,
    /// The events that are to be logged.
    unlogged: Vec<(u64, Event)>,
}

impl<'a> EpochReader<'a> {
    /// Reads all shards, several at a time, and replays them.
    fn read<R: Replay>(
        &self,
        shard_of: &(impl Fn(Ipv4Addr) -> usize + Sync),
        shards: &mut [R],
    ) -> Result<Vec<ShardRead>, StorageError> {
        let next = AtomicUsize::new(0);
        let results: Mutex<Vec<_>> = Mutex::new(Vec::new());
        let (all, dealers) = (self.all, self.threads.min(usize::from(self.count)).max(1));
        let read_some = |to: Vec<To<'a, '_>>| {
            loop {
                let shard = next.fetch_add(1, Ordering::Relaxed);
                if shard >= usize::from(self.count) {
                    return;
                }
                let dealer = Dealer::new(&to, self.parts, all, dealers, shard_of);
                let result = self.read_shard(shard as u16, dealer);
                if result.is_err() {
                    next.store(usize::from(self.count), Ordering::Relaxed);
                }
                results.lock().unwrap_or_else(PoisonError::into_inner).push((shard, result));
            }
        };
        if self.threads == 1 {
            let itself = |shard| To::Itself(Mutex::new(shard as &mut dyn Replay));
            read_some(shards.iter_mut().map(itself).collect());
        } else {
            thread::scope(|scope| {
                let mut queues = Vec::new();
                for shard in shards {
                    let (sender, queue) = replay::queue();
                    queues.push(sender);
                    scope.spawn(move || all.replay_all(queue, shard));
                }
                let to = |queues: Vec<Sender<_>>| queues.into_iter().map(To::Thread).collect();
                for _ in 1..dealers {
                    let (read_some, queues) = (&read_some, queues.clone());
                    scope.spawn(move || read_some(to(queues)));
                }
                read_some(to(queues));
            });
        }
        let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        results.sort_by_key(|(shard, _)| *shard);
        let mut read: Vec<ShardRead> = Vec::new();
        for (shard, result) in results {
            let result = result?;
            if read.first().is_some_and(|first| first.common != result.common) {
                return Err(self.contradiction(shard as u16, result.end.snapshot));
            }
            read.push(result);
        }
        Ok(read)
    }

    fn contradiction(&self, shard: u16, snapshot: u64) -> StorageError {
        let (kind, epoch) = (FileKind::Snapshot, self.number);
        let id = FileId { kind, epoch, shard, number: snapshot };
        StorageError::Damaged {
            directory: self.root.to_owned(),
            file: epoch::path(self.root, id),
            offset: 0,
            what: "header contradicts those of other shards".into(),
        }
    }

    fn read_shard(
        &self,
        shard: u16,
        mut dealer: Dealer<'_, '_, '_, impl Fn(Ipv4Addr) -> usize>,
    ) -> Result<ShardRead, StorageError> {
        let Self { disk, root, number: epoch, .. } = *self;
        let none = ShardFiles::default();
        let files = self.files.shards.get(&shard).unwrap_or(&none);
        let reader = ShardReader { disk, root, epoch, shard, files, boot: disk.boot() };
        let known = self.logged.get(usize::from(shard)).copied();
        let (logged, unlogged_max) = match known {
            Some(logged) => (logged, usize::MAX),
            None => (0, UNLOGGED_MAX as usize),
        };
        let (mut common, mut unlogged) = (None, VecDeque::new());
        let mut deal = |id: FileId, record: &Record<'_>| {
            if id.kind == FileKind::Segment && record.event.saturating_add(record.events) > logged {
                let events = record
                    .changes()
                    .filter_map(|(table, change)| change.event(record.time, table))
                    .zip(record.event..)
                    .map(|(event, number)| (number, event));
                unlogged.extend(events.filter(|&(number, _)| number >= logged));
                // The log had those before: the next ones were not made before it did.
                unlogged.drain(..unlogged.len().saturating_sub(unlogged_max));
            }
            dealer.deal(record, id.kind == FileKind::Snapshot);
            Ok(())
        };
        let (common_of, refuse) = (&mut common, &mut refuse(root));
        let end = match self.how {
            How::Whole => reader.read(common_of, refuse, &mut deal)?,
            How::Live => reader.read_live(common_of, refuse, &mut deal)?,
            How::On(ends) => {
                reader.read_on(&ends[usize::from(shard)], common_of, refuse, &mut deal)?
            }
        };
        dealer.finish();
        let common = common.unwrap_or(Common { shards: 1, handoff_port: 0 });
        Ok(ShardRead { common, end, unlogged: unlogged.into() })
    }
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
