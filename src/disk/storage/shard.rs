//! What a reactor and the threads behind it share about a shard: how far the journal is written and
//! synced, and the segments that go from one to the other.
//!
//! A sync that failed is never tried again: the kernel may have thrown away what it could not
//! write. The shard takes no more changes then.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;

use rtrb::{Consumer, Producer};

use super::epoch;
use super::read::Common;
use super::{JOURNAL_MAX_SNAPSHOTS, StorageError, SyncPolicy};
use crate::disk::fs::{Disk, DiskFile, write_full, write_new};
use crate::disk::journal::{FileId, FileKind, Header, RecordNumber, Seal};
use crate::handoff::change::Timestamp;
use crate::handoff::histogram::Histogram;
use crate::kernel::clock;

/// Called from another thread when a sync has ended.
pub type Wake = dyn Fn() + Send + Sync;
/// The number of events of a shard that are durably in the event log.
pub type LogProgress = dyn Fn(usize) -> u64 + Send + Sync;

/// Segments the reactor has begun and the sync thread has not yet collected: at most two, as
/// segments are made one at a time.
const BEGUN_MAX: usize = 4;

/// A segment that is ready to be written, or being written.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub file: Arc<dyn DiskFile>,
    pub number: u64,
    pub seal: Seal,
}

/// What a reactor and the threads behind it share about a shard.
#[derive(Debug)]
pub(super) struct ShardState {
    pub policy: SyncPolicy,
    pub segment_max: u64,
    /// The last record that was written.
    pub written: AtomicU64,
    /// The last record that is known to be synced.
    pub synced: AtomicU64,
    /// The number of the segment that is written to; all before it are closed.
    pub segment: AtomicU64,
    /// Octets of that segment.
    pub length: AtomicU64,
    /// Octets of all segments before it.
    pub closed: AtomicU64,
    /// Octets of all segments at which the shard takes no more changes.
    journal_max: AtomicU64,
    /// Microseconds that syncs took.
    pub syncs: Histogram,
    pub failed: AtomicBool,
    pub stopped: AtomicBool,
    wake: Mutex<Option<Wakeup>>,
    /// The sync thread.
    pub thread: OnceLock<Thread>,
    /// Locked during input and output. The reactor takes the lock only when it closes.
    sync_side: Mutex<SyncSide>,
    /// See [`super::Storage::trouble`].
    pub trouble: Mutex<Option<String>>,
}

struct Wakeup(Arc<Wake>);

impl fmt::Debug for Wakeup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wakeup")
    }
}

/// The sync thread's ends of the queues, and what it has to sync.
#[derive(Debug)]
struct SyncSide {
    begun: Consumer<Segment>,
    next: Producer<Segment>,
    /// The segments with what was written since the last sync.
    dirty: Vec<Segment>,
    next_number: u64,
}

/// Makes the segments of an epoch.
pub(super) struct SegmentMaker {
    pub disk: Arc<dyn Disk>,
    pub root: PathBuf,
    pub epoch: u64,
    pub common: Common,
    pub time: Timestamp,
    pub version: u16,
}

impl SegmentMaker {
    /// Makes a segment without records, durably.
    pub fn make(&self, shard: usize, number: u64) -> Result<Segment, StorageError> {
        let id = FileId { kind: FileKind::Segment, epoch: self.epoch, shard: shard as u16, number };
        let Common { shards, handoff_port } = self.common;
        let header = Header {
            version: self.version,
            id,
            shards,
            handoff_port,
            time: self.time,
            boot: self.disk.boot(),
            next_record: RecordNumber(0),
            next_event: 0,
        };
        let path = epoch::path(&self.root, id);
        let file = write_new(&*self.disk, &path, |file| write_full(file, &header.encode(), 0))
            .map_err(StorageError::io("make", &path))?;
        Ok(Segment { file, number, seal: header.seal() })
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic cannot leave it half changed: each change of what is inside is one statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ShardState {
    /// A shard, all of whose records up to `last` are synced, and the writer's ends of its queues.
    /// The next segment will be `next_number`.
    pub fn new(
        policy: SyncPolicy,
        segment_max: u64,
        last: RecordNumber,
        next_number: u64,
    ) -> (Arc<Self>, Consumer<Segment>, Producer<Segment>) {
        let (next, next_segment) = rtrb::RingBuffer::new(1);
        let (begun_in, begun) = rtrb::RingBuffer::new(BEGUN_MAX);
        let side = SyncSide { begun, next, dirty: Vec::new(), next_number };
        let shard = Self {
            policy,
            segment_max,
            written: AtomicU64::new(last.0),
            synced: AtomicU64::new(last.0),
            segment: AtomicU64::new(next_number),
            length: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            journal_max: AtomicU64::new(u64::MAX),
            syncs: Histogram::default(),
            failed: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            wake: Mutex::new(None),
            thread: OnceLock::new(),
            sync_side: Mutex::new(side),
            trouble: Mutex::new(None),
        };
        (Arc::new(shard), next_segment, begun_in)
    }

    /// The reactor writes to segment `number` from now on.
    pub fn begin(&self, number: u64) {
        self.segment.store(number, Ordering::Release);
        self.unpark();
    }

    /// The reactor has written all up to `last`.
    pub fn wrote(&self, last: RecordNumber) {
        self.written.store(last.0, Ordering::Release);
        if self.policy == SyncPolicy::Always {
            self.unpark();
        }
    }

    /// The shard has a snapshot of that size; without one, its segments may have `least` octets.
    pub fn set_snapshot(&self, octets: u64, least: u64) {
        let max = octets.saturating_mul(JOURNAL_MAX_SNAPSHOTS).max(least);
        self.journal_max.store(max, Ordering::Relaxed);
    }

    /// A compaction has removed segments with these octets.
    pub fn folded(&self, octets: u64) {
        // Less than there are only where the disk told another length than was written.
        let less = |closed: u64| Some(closed.saturating_sub(octets));
        let _ = self.closed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Octets of all segments, and at how many there are no more changes.
    pub fn octets(&self) -> (u64, u64) {
        let octets = self.closed.load(Ordering::Relaxed) + self.length.load(Ordering::Relaxed);
        (octets, self.journal_max.load(Ordering::Relaxed))
    }

    /// Whether changes have to wait for a compaction.
    pub fn is_full(&self) -> bool {
        let (octets, max) = self.octets();
        octets >= max
    }

    fn unpark(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    pub fn set_wake(&self, wake: Arc<Wake>) {
        *lock(&self.wake) = Some(Wakeup(wake));
    }

    fn wake(&self) {
        let wake = lock(&self.wake).as_ref().map(|wake| Arc::clone(&wake.0));
        if let Some(wake) = wake {
            wake();
        }
    }

    /// Asks the sync thread to end.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.unpark();
    }

    /// From now on the shard takes no more changes.
    pub fn fail(&self, cause: &io::Error) {
        self.failed.store(true, Ordering::Release);
        self.tell(format!("the journal failed: {cause}"));
    }

    pub fn tell(&self, trouble: String) {
        *lock(&self.trouble) = Some(trouble);
    }

    /// Makes durable what was written before this call.
    pub fn sync(&self) -> io::Result<()> {
        let mut side = lock(&self.sync_side);
        if self.failed.load(Ordering::Acquire) {
            return Err(io::Error::other("failed before"));
        }
        // Loaded before the queue is emptied: what was written by now is in a segment that was
        // begun by now.
        let written = self.written.load(Ordering::Acquire);
        let SyncSide { begun, dirty, .. } = &mut *side;
        dirty.extend(std::iter::from_fn(|| begun.pop().ok()));
        if written == self.synced.load(Ordering::Relaxed) {
            return Ok(());
        }
        let begin = clock::instant();
        for segment in dirty.iter() {
            if let Err(error) = segment.file.sync() {
                self.fail(&error);
                self.wake();
                return Err(error);
            }
        }
        // The last segment may be written to again.
        dirty.drain(..dirty.len().saturating_sub(1));
        self.syncs.count(begin.elapsed().as_micros() as u64);
        self.synced.store(written, Ordering::Release);
        drop(side);
        self.wake();
        Ok(())
    }

    /// Whether there are closed segments that were not synced.
    pub fn has_closed(&self) -> bool {
        lock(&self.sync_side).dirty.len() > 1
    }

    /// Whether somebody waits for a sync.
    pub fn is_sync_wanted(&self) -> bool {
        self.policy == SyncPolicy::Always
            && self.written.load(Ordering::Acquire) != self.synced.load(Ordering::Relaxed)
            && !self.failed.load(Ordering::Acquire)
    }

    /// Whether the next segment is to be made.
    pub fn needs_segment(&self) -> bool {
        !lock(&self.sync_side).next.is_full() && !self.failed.load(Ordering::Acquire)
    }

    /// Makes the next segment if there is none ready.
    pub fn make_next(&self, index: usize, maker: &SegmentMaker) -> Result<(), StorageError> {
        let mut side = lock(&self.sync_side);
        let SyncSide { begun, dirty, .. } = &mut *side;
        dirty.extend(std::iter::from_fn(|| begun.pop().ok()));
        if side.next.is_full() || self.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        let segment = maker.make(index, side.next_number)?;
        side.next_number += 1;
        // There is room: nobody else makes segments.
        drop(side.next.push(segment));
        Ok(())
    }
}
