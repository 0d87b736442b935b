//! The second half of a start: [`Opened::start`] makes the next segments, in the epoch that was
//! read, or in a new one where the number of shards or the port changed.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::compact::Compactor;
use super::epoch::{self, ShardFiles};
use super::new_epoch::{EpochWritten, NewEpoch};
use super::open::{FoundEpoch, Opened};
use super::read::{Common, ShardEnd};
use super::shard::{LogProgress, SegmentMaker, ShardState};
use super::sync::Storage;
use super::tables::{ShardSource, Tables, any_has_names};
use super::{JournalWriter, StorageError, version_of};
use crate::disk::fs::is_no_room;
use crate::disk::journal::RecordNumber;
use crate::disk::secret_hash;
use crate::handoff::change::{Event, Timestamp};

/// State that is ready to be written.
pub struct Started {
    /// What works in the background: keep it until the writers are closed.
    pub storage: Storage,
    /// One for each shard.
    pub writers: Vec<JournalWriter>,
    /// The folder of the epoch that counts now.
    pub epoch_folder: PathBuf,
    /// Whether this is another epoch than the one that was read: events are numbered from 0 again,
    /// and the log has none of them.
    pub is_new_epoch: bool,
    /// For each shard the number of its next event.
    pub first_events: Vec<u64>,
    /// For each shard the events that starting made (deletions from what is the handoff port now),
    /// in order. The first has number 0 of a new epoch, and the last is just before
    /// [`Started::first_events`].
    pub events: Vec<Vec<Event>>,
}

/// The epoch that is to be written on.
struct Begin {
    number: u64,
    common: Common,
    ends: Vec<ShardEnd>,
    /// For each shard the events that writing a new epoch made; none where it is not new.
    events: Vec<Vec<Event>>,
    is_new: bool,
}

impl Opened {
    /// Makes the state ready to be written. The log must have everything in [`Opened::unlogged`] by
    /// now. `logged` returns from now on the number of events of a shard that the log has.
    ///
    /// # Errors
    /// Where the disk refuses. Then the state is as it was, and this can be called again. To be
    /// called once more after it succeeded is an error of ours: the directory is locked no more.
    pub fn start(
        &mut self,
        now: Timestamp,
        logged: Arc<LogProgress>,
    ) -> Result<Started, StorageError> {
        let same = |found: &&FoundEpoch| {
            found.ends.len() == self.config.shards
                && found.common.handoff_port == self.config.handoff_port
        };
        let begin = match self.found.as_ref().filter(same) {
            Some(found) => {
                for path in &found.files.unfinished {
                    self.disk.remove(path).map_err(StorageError::io("remove", path))?;
                }
                Begin {
                    number: found.number,
                    common: found.common,
                    ends: found.ends.clone(),
                    events: vec![Vec::new(); found.ends.len()],
                    is_new: false,
                }
            }
            None => self.new_epoch(now)?,
        };
        self.remove_other_epochs(begin.number);
        self.begin(begin, now, &logged)
    }

    /// An epoch that cannot be removed is no reason not to start: the next start tries again.
    fn remove_other_epochs(&self, current: u64) {
        for number in epoch::epochs(&*self.disk, &self.root).unwrap_or_default() {
            if number != current {
                drop(epoch::remove(&*self.disk, &self.root, number));
            }
        }
    }

    fn begin(
        &mut self,
        begin: Begin,
        now: Timestamp,
        logged: &Arc<LogProgress>,
    ) -> Result<Started, StorageError> {
        let Begin { number, common, ends, events, is_new } = begin;
        let source = ShardSource {
            disk: Arc::clone(&self.disk),
            root: self.root.clone(),
            epoch: number,
            shard: 0,
            files: ShardFiles::default(),
            boot: self.disk.boot(),
            common,
            tolerant: false,
            hash: secret_hash(),
        };
        let (disk, root) = (Arc::clone(&self.disk), self.root.clone());
        let has_names = self.found.as_ref().is_some_and(|found| found.has_names);
        let version = version_of(self.config.names || has_names);
        let maker = SegmentMaker { disk, root, epoch: number, common, time: now, version };
        let (mut shards, mut writers, mut compactors) = (Vec::new(), Vec::new(), Vec::new());
        for (index, end) in ends.iter().enumerate() {
            let (shard, writer) = self.begin_shard(index, end, &maker)?;
            compactors.push(Compactor {
                source: ShardSource { shard: index as u16, ..source.clone() },
                shard: Arc::clone(&shard),
                logged: Arc::clone(logged),
                snapshot_octets: end.snapshot_octets,
                compact_min: self.config.compact_min,
                segments_max: self.config.segments_max,
                journal_max: self.config.journal_max,
                memory: self.config.compact_memory,
                time: now,
                version,
            });
            writers.push(writer);
            shards.push(shard);
        }
        let Self { directory, root, config, .. } = self;
        let storage = Storage::new(directory.take(), maker, shards, compactors, config.threads)
            .map_err(StorageError::io("start the threads for", root))?;
        Ok(Started {
            storage,
            writers,
            epoch_folder: epoch::folder(root, number),
            is_new_epoch: is_new,
            first_events: ends.iter().map(|end| end.position.event).collect(),
            events,
        })
    }

    fn begin_shard(
        &self,
        index: usize,
        end: &ShardEnd,
        maker: &SegmentMaker,
    ) -> Result<(Arc<ShardState>, JournalWriter), StorageError> {
        // Where the last segment has no record, the new one takes its place.
        let next = end.last_segment.map_or(end.snapshot, |last| last + 1);
        let last = RecordNumber(end.position.record.0.saturating_sub(1));
        let (shard, next_segment, begun) =
            ShardState::new(self.config.sync, self.config.segment_max, last, next);
        let torn = end.tear.map_or(0, |tear| tear.octets);
        shard.closed.store(end.segment_octets.saturating_sub(torn), Ordering::Relaxed);
        shard.set_snapshot(end.snapshot_octets, self.config.journal_max);
        make_next_if_there_is_room(&shard, index, maker)?;
        let writer = JournalWriter::new(Arc::clone(&shard), next_segment, begun, end.position);
        // The segment after the first, so that the first can be closed.
        make_next_if_there_is_room(&shard, index, maker)?;
        Ok((shard, writer))
    }

    /// Writes an epoch for the shards and the port that there are now, from the one that was read.
    fn new_epoch(&self, now: Timestamp) -> Result<Begin, StorageError> {
        let hash = secret_hash();
        let boot = self.disk.boot();
        let memory = self.config.compact_memory / self.config.shards.max(1);
        let mut sources = Vec::new();
        if let Some(found) = &self.found {
            for (shard, files) in &found.files.shards {
                // Files of shards that the epoch does not have were not read either.
                let Some(end) = found.ends.get(usize::from(*shard)) else { continue };
                let number = end.snapshot;
                let last = end.last_segment.unwrap_or(number);
                let mut files = files.clone();
                files.snapshots.retain(|&n| n == number);
                files.segments.retain(|&n| (number..=last).contains(&n));
                let source = ShardSource {
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
        let names = self.config.names || any_has_names(&mut sources)?;
        let (disk, root) = (&self.disk, &*self.root);
        let new = NewEpoch { disk, root, number, common, now, boot, names };
        let written = new.write(sources, &|_, table| (self.shard_of)(table.key.nat64));
        let written = written.and_then(|written| {
            epoch::set_current(&*self.disk, &self.root, number).map(|()| written)
        });
        let EpochWritten { ends, events } = written.inspect_err(|_| {
            // It would take room from the next try, which makes another one.
            if epoch::current(&*self.disk, &self.root).is_ok_and(|now| now != Some(number)) {
                drop(epoch::remove(&*self.disk, &self.root, number));
            }
        })?;
        Ok(Begin { number, common, ends, events, is_new: true })
    }
}

/// Without room, the segment is made later; meanwhile what is known is served.
fn make_next_if_there_is_room(
    shard: &ShardState,
    index: usize,
    maker: &SegmentMaker,
) -> Result<(), StorageError> {
    match shard.make_next(index, maker) {
        Err(StorageError::Io { cause, .. }) if is_no_room(&cause) => Ok(()),
        result => result,
    }
}
