//! [`Storage`]: what works behind the reactors. A thread for each shard syncs what its reactor
//! wrote and makes the next segment; one for all shards compacts.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::compact::{Compacted, Compactor};
use super::shard::{SegmentMaker, ShardState, lock};
use super::{StateDirectory, StorageError, SyncPolicy};
use crate::handoff::histogram::HistogramCounts;
use crate::kernel::clock::Clock;

/// Interval at which a segment that could not be made is tried again, and compaction is considered.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The files of a running server, and the threads that look after them. [`super::JournalWriter`]s
/// write. Dropping it ends the threads, and no more: see [`super::JournalWriter::close`].
pub struct Storage {
    directory: Option<StateDirectory>,
    shards: Vec<Arc<ShardState>>,
    maker: Arc<SegmentMaker>,
    compactors: Arc<Vec<Mutex<Compactor>>>,
    stop: Arc<AtomicBool>,
    /// Whether the compacting thread does nothing.
    held: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// Tells how far the journals of all shards are.
#[derive(Debug, Clone)]
pub struct JournalGauge(Vec<Arc<ShardState>>);

/// How far the journals of all shards together are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JournalFigures {
    /// Octets of the segments, and those of the shard that is nearest to its limit with that limit:
    /// at it there are no more changes before a compaction.
    pub octets: u64,
    pub fullest: (u64, u64),
    /// Records that are written and not known to be synced.
    pub unsynced: u64,
    /// A shard takes no more changes, as its disk failed.
    pub failed: bool,
    /// Microseconds that syncs took.
    pub syncs: HistogramCounts,
}

impl JournalGauge {
    /// What it is now.
    pub fn read(&self) -> JournalFigures {
        let mut figures = JournalFigures::default();
        for shard in &self.0 {
            let synced = shard.synced.load(Ordering::Acquire);
            let (octets, max) = shard.octets();
            figures.unsynced += shard.written.load(Ordering::Acquire).saturating_sub(synced);
            figures.octets += octets;
            figures.failed |= shard.failed.load(Ordering::Acquire);
            figures.syncs.add(&shard.syncs);
            let (fullest, its_max) = figures.fullest;
            if u128::from(octets) * u128::from(its_max) >= u128::from(fullest) * u128::from(max) {
                figures.fullest = (octets, max);
            }
        }
        figures
    }
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Storage").field("root", &self.maker.root).finish_non_exhaustive()
    }
}

impl Storage {
    pub(super) fn new(
        directory: Option<StateDirectory>,
        maker: SegmentMaker,
        shards: Vec<Arc<ShardState>>,
        compactors: Vec<Compactor>,
        threads: bool,
    ) -> io::Result<Self> {
        let mut storage = Self {
            directory,
            shards,
            maker: Arc::new(maker),
            compactors: Arc::new(compactors.into_iter().map(Mutex::new).collect()),
            stop: Arc::default(),
            held: Arc::default(),
            threads: Vec::new(),
        };
        if threads {
            storage.start_threads()?;
        }
        Ok(storage)
    }

    fn start_threads(&mut self) -> io::Result<()> {
        for (index, shard) in self.shards.iter().enumerate() {
            let (shard, maker) = (Arc::clone(shard), Arc::clone(&self.maker));
            let name = format!("sync-{index}");
            let run = move || SyncSteps::new(index, shard, maker).run();
            self.threads.push(thread::Builder::new().name(name).spawn(run)?);
        }
        let (shards, stop) = (self.shards.clone(), Arc::clone(&self.stop));
        let (compactors, held) = (Arc::clone(&self.compactors), Arc::clone(&self.held));
        let run = move || {
            while !stop.load(Ordering::Acquire) {
                for (shard, compactor) in shards.iter().zip(&*compactors) {
                    compact_if_due(shard, compactor, &held);
                }
                thread::park_timeout(CHECK_INTERVAL);
            }
        };
        self.threads.push(thread::Builder::new().name("compact".into()).spawn(run)?);
        Ok(())
    }

    /// The state directory, if there is a real one.
    pub fn directory(&self) -> Option<&StateDirectory> {
        self.directory.as_ref()
    }

    /// The path of the state directory.
    pub fn path(&self) -> &Path {
        &self.maker.root
    }

    /// While it is held, the compacting thread begins nothing, and removes nothing soon.
    pub fn hold_compaction(&self, held: bool) {
        self.held.store(held, Ordering::Release);
    }

    /// Reads from any thread how far the journals are.
    pub fn gauge(&self) -> JournalGauge {
        JournalGauge(self.shards.clone())
    }

    /// The last trouble of a shard that its reactor has not been told of, once: a sync that failed,
    /// a segment that could not be made, a compaction that could not be done.
    pub fn trouble(&self, shard: usize) -> Option<String> {
        lock(&self.shards.get(shard)?.trouble).take()
    }

    /// Does now what the thread of `shard` does by itself: sync, and make the next segment.
    ///
    /// # Errors
    /// Where the sync or the new segment failed.
    pub fn sync(&self, shard: usize) -> Result<(), StorageError> {
        let Some(state) = self.shards.get(shard) else {
            return Ok(());
        };
        state.sync().map_err(StorageError::io("sync the journal in", &self.maker.root))?;
        state.make_next(shard, &self.maker)
    }

    /// What the thread of `shard` would do, for whoever does it instead. None: there is no such
    /// shard.
    pub fn sync_steps(&self, shard: usize) -> Option<SyncSteps> {
        let state = Arc::clone(self.shards.get(shard)?);
        Some(SyncSteps::new(shard, state, Arc::clone(&self.maker)))
    }

    /// What the compacting thread would do for `shard` each [`CHECK_INTERVAL`].
    pub fn compact_step(&self, shard: usize) {
        if let (Some(state), Some(compactor)) = (self.shards.get(shard), self.compactors.get(shard))
        {
            compact_if_due(state, compactor, &self.held);
        }
    }

    /// Does now what the compacting thread does by itself; `even_if_small`: whatever the thresholds
    /// say. Nothing is done for segments whose events are not yet in the log.
    ///
    /// # Errors
    /// Where it failed. Then all is as it was.
    pub fn compact(
        &self,
        shard: usize,
        even_if_small: bool,
    ) -> Result<Option<Compacted>, StorageError> {
        match self.compactors.get(shard) {
            Some(compactor) => lock(compactor).run(even_if_small),
            None => Ok(None),
        }
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // A running compaction checks for this between two tables.
        self.shards.iter().for_each(|shard| shard.stop());
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            // A thread has no result, and a panic was reported by the thread itself.
            drop(thread.join());
        }
    }
}

fn compact_if_due(shard: &ShardState, compactor: &Mutex<Compactor>, held: &AtomicBool) {
    if !held.load(Ordering::Acquire)
        && let Err(error) = lock(compactor).run(false)
    {
        shard.tell(format!("compaction: {error}"));
    }
}

/// What looks after the journal of a shard, a step at a time.
pub struct SyncSteps {
    index: usize,
    shard: Arc<ShardState>,
    maker: Arc<SegmentMaker>,
    /// When a segment could not be made.
    refused_at: Option<Duration>,
}

impl SyncSteps {
    fn new(index: usize, shard: Arc<ShardState>, maker: Arc<SegmentMaker>) -> Self {
        Self { index, shard, maker, refused_at: None }
    }

    fn run(mut self) {
        let _ = self.shard.thread.set(thread::current());
        let clock = Clock::new();
        loop {
            let begin = clock.monotonic();
            let Some(next) = self.step(begin) else { return };
            if !next.is_zero() {
                thread::park_timeout((begin + next).saturating_sub(clock.monotonic()));
            }
        }
    }

    /// Makes the next segment if there is none, and syncs what was written. Returns how long after
    /// `now` the next step is due, if it [is not wanted](Self::is_wanted) before. None: it has
    /// ended, or its disk failed.
    pub fn step(&mut self, now: Duration) -> Option<Duration> {
        let Self { index, shard, maker, refused_at } = self;
        if shard.stopped.load(Ordering::Acquire) {
            return None;
        }
        if refused_at.is_none_or(|at| now.saturating_sub(at) >= CHECK_INTERVAL) {
            *refused_at = None;
            if let Err(error) = shard.make_next(*index, maker) {
                *refused_at = Some(now);
                shard.tell(error.to_string());
            }
        }
        // With `none` nobody waits for a sync; it is done so that closed segments can be dropped.
        if (shard.policy != SyncPolicy::None || shard.has_closed()) && shard.sync().is_err() {
            return None;
        }
        Some(match shard.policy {
            SyncPolicy::Always if shard.is_sync_wanted() => Duration::ZERO,
            SyncPolicy::Interval(interval) => interval.min(CHECK_INTERVAL),
            SyncPolicy::None | SyncPolicy::Always => CHECK_INTERVAL,
        })
    }

    /// Whether the thread would have been woken since the last step.
    pub fn is_wanted(&self) -> bool {
        let shard = &self.shard;
        let needs_segment = || self.refused_at.is_none() && shard.needs_segment();
        shard.stopped.load(Ordering::Acquire) || shard.is_sync_wanted() || needs_segment()
    }
}
