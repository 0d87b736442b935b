//! [`Storage`]: what works behind the reactors. A thread for each shard syncs what its reactor wrote and makes
//! the next segment; one for all shards compacts.
//!
//! A sync that failed is never tried again: the kernel may have thrown away what it could not write. The
//! shard takes no more changes then.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use rtrb::{Consumer, Producer};

use super::compact::{Compacted, Compactor};
use super::epoch;
use super::read::Common;
use super::writer::Segment;
use super::{StateDirectory, StorageError, SyncPolicy};
use crate::disk::fs::{Disk, write_full, write_new};
use crate::disk::journal::{FileId, FileKind, Header, RecordNumber};
use crate::handoff::change::Timestamp;
use crate::kernel::clock;

/// What is called when a sync has ended.
pub type Wake = dyn Fn() + Send + Sync;
/// How many events of a shard are durably in the event log.
pub type Logged = dyn Fn(usize) -> u64 + Send + Sync;

/// How often it is tried to make a segment that could not be made, and looked for what can be compacted.
const LOOK: Duration = Duration::from_secs(1);
/// Segments that were begun, as the sync thread has not yet seen. Segments are made one at a time, so there
/// are never more than two.
const BEGUN_MAX: usize = 4;

/// What a reactor and the threads behind it share about a shard.
#[derive(Debug)]
pub(super) struct Shard {
    pub policy: SyncPolicy,
    pub segment_max: u64,
    /// The last record that was written.
    pub written: AtomicU64,
    /// The last that is known to be synced.
    pub synced: AtomicU64,
    /// The segment that is written to; all before it are closed.
    pub segment: AtomicU64,
    /// How long it is.
    pub length: AtomicU64,
    pub failed: AtomicBool,
    pub stopped: AtomicBool,
    wake: Mutex<Option<Wakeup>>,
    thread: OnceLock<Thread>,
    /// Held during input and output, and never asked for by the reactor before it closes.
    behind: Mutex<Behind>,
    trouble: Mutex<Option<String>>,
}

struct Wakeup(Arc<Wake>);

impl fmt::Debug for Wakeup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wakeup")
    }
}

/// The other ends of what a writer has.
#[derive(Debug)]
struct Behind {
    begun: Consumer<Segment>,
    next: Producer<Segment>,
    /// What was written since the last sync is in these.
    dirty: Vec<Segment>,
    next_number: u64,
}

/// Where segments are made.
pub(super) struct Place {
    pub disk: Arc<dyn Disk>,
    pub root: PathBuf,
    pub epoch: u64,
    pub common: Common,
    pub time: Timestamp,
}

impl Place {
    /// Makes a segment without records, durably.
    pub fn make(&self, shard: usize, number: u64) -> Result<Segment, StorageError> {
        let id = FileId { kind: FileKind::Segment, epoch: self.epoch, shard: shard as u16, number };
        let header = self.header(id, RecordNumber(0), 0);
        let path = epoch::path(&self.root, id);
        let file = write_new(&*self.disk, &path, |file| write_full(file, &header.encode(), 0))
            .map_err(StorageError::io("make", &path))?;
        Ok(Segment { file, number, seal: header.seal() })
    }

    pub fn header(&self, id: FileId, next_record: RecordNumber, next_event: u64) -> Header {
        let Common { shards, handoff_port } = self.common;
        let boot = self.disk.boot();
        Header { id, shards, handoff_port, time: self.time, boot, next_record, next_event }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is inside is whole between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shard {
    /// A shard, all of whose records up to `last` are synced, and the writer's ends of its queues. The next
    /// segment will be `next_number`.
    pub fn new(
        policy: SyncPolicy,
        segment_max: u64,
        last: RecordNumber,
        next_number: u64,
    ) -> (Arc<Self>, Consumer<Segment>, Producer<Segment>) {
        let (next, next_segment) = rtrb::RingBuffer::new(1);
        let (begun_in, begun) = rtrb::RingBuffer::new(BEGUN_MAX);
        let behind = Behind { begun, next, dirty: Vec::new(), next_number };
        let shard = Self {
            policy,
            segment_max,
            written: AtomicU64::new(last.0),
            synced: AtomicU64::new(last.0),
            segment: AtomicU64::new(next_number),
            length: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            wake: Mutex::new(None),
            thread: OnceLock::new(),
            behind: Mutex::new(behind),
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

    /// The thread behind the shard ends soon.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.unpark();
    }

    /// No more changes, for good.
    pub fn fail(&self, cause: &io::Error) {
        self.failed.store(true, Ordering::Release);
        self.tell(format!("the journal failed: {cause}"));
    }

    fn tell(&self, trouble: String) {
        *lock(&self.trouble) = Some(trouble);
    }

    /// Makes durable what was written before this call.
    pub fn sync(&self) -> io::Result<()> {
        let mut behind = lock(&self.behind);
        if self.failed.load(Ordering::Acquire) {
            return Err(io::Error::other("failed before"));
        }
        // Before the queue is looked at: what was written by now is in a segment that was begun by now.
        let written = self.written.load(Ordering::Acquire);
        let Behind { begun, dirty, .. } = &mut *behind;
        dirty.extend(std::iter::from_fn(|| begun.pop().ok()));
        if written == self.synced.load(Ordering::Relaxed) {
            return Ok(());
        }
        for segment in dirty.iter() {
            if let Err(error) = segment.file.sync() {
                self.fail(&error);
                self.wake();
                return Err(error);
            }
        }
        // The last one may be written to again.
        dirty.drain(..dirty.len().saturating_sub(1));
        self.synced.store(written, Ordering::Release);
        drop(behind);
        self.wake();
        Ok(())
    }

    /// Whether there are closed segments that were not synced.
    fn has_closed(&self) -> bool {
        lock(&self.behind).dirty.len() > 1
    }

    /// Makes the next segment if there is none ready.
    pub fn make_next(&self, index: usize, place: &Place) -> Result<(), StorageError> {
        let mut behind = lock(&self.behind);
        let Behind { begun, dirty, .. } = &mut *behind;
        dirty.extend(std::iter::from_fn(|| begun.pop().ok()));
        if behind.next.is_full() || self.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        let segment = place.make(index, behind.next_number)?;
        behind.next_number += 1;
        // There is room: nobody else makes segments.
        drop(behind.next.push(segment));
        Ok(())
    }
}

/// The files of a running server, and the threads that look after them. [`super::JournalWriter`]s write.
/// Dropping it ends the threads, and no more: see [`super::JournalWriter::close`].
pub struct Storage {
    directory: Option<StateDirectory>,
    shards: Vec<Arc<Shard>>,
    place: Arc<Place>,
    compactors: Arc<Vec<Mutex<Compactor>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Storage").field("root", &self.place.root).finish_non_exhaustive()
    }
}

impl Storage {
    pub(super) fn new(
        directory: Option<StateDirectory>,
        place: Place,
        shards: Vec<Arc<Shard>>,
        compactors: Vec<Compactor>,
        threads: bool,
    ) -> io::Result<Self> {
        let mut storage = Self {
            directory,
            shards,
            place: Arc::new(place),
            compactors: Arc::new(compactors.into_iter().map(Mutex::new).collect()),
            stop: Arc::default(),
            threads: Vec::new(),
        };
        if threads {
            storage.start_threads()?;
        }
        Ok(storage)
    }

    fn start_threads(&mut self) -> io::Result<()> {
        for (index, shard) in self.shards.iter().enumerate() {
            let (shard, place) = (Arc::clone(shard), Arc::clone(&self.place));
            let name = format!("sync-{index}");
            let run = move || look_after(index, &shard, &place);
            self.threads.push(thread::Builder::new().name(name).spawn(run)?);
        }
        let (shards, stop) = (self.shards.clone(), Arc::clone(&self.stop));
        let compactors = Arc::clone(&self.compactors);
        let run = move || {
            while !stop.load(Ordering::Acquire) {
                for (index, compactor) in compactors.iter().enumerate() {
                    if let Err(error) = lock(compactor).run(false) {
                        shards[index].tell(format!("compaction: {error}"));
                    }
                }
                thread::park_timeout(LOOK);
            }
        };
        self.threads.push(thread::Builder::new().name("compact".into()).spawn(run)?);
        Ok(())
    }

    /// The state directory, if there is a real one.
    pub fn directory(&self) -> Option<&StateDirectory> {
        self.directory.as_ref()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.place.root
    }

    /// The last trouble of a shard that its reactor has not been told of, once: a sync that failed, a segment
    /// that could not be made, a compaction that could not be done.
    pub fn trouble(&self, shard: usize) -> Option<String> {
        lock(&self.shards.get(shard)?.trouble).take()
    }

    /// Does now what the thread of `shard` does by itself: sync, and make the next segment.
    ///
    /// # Errors
    /// Where one of both was not possible.
    pub fn sync(&self, shard: usize) -> Result<(), StorageError> {
        let Some(behind) = self.shards.get(shard) else {
            return Ok(());
        };
        behind.sync().map_err(StorageError::io("sync the journal in", &self.place.root))?;
        behind.make_next(shard, &self.place)
    }

    /// Does now what the compacting thread does by itself; `even_if_small`: whatever the thresholds say.
    /// Nothing is done for segments whose events are not yet in the log.
    ///
    /// # Errors
    /// Where it was not possible. All is as it was then.
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
        // A compaction that is under way sees it between two tables.
        self.shards.iter().for_each(|shard| shard.stop());
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            // It has nothing to say: a thread that panicked has said it.
            drop(thread.join());
        }
    }
}

fn look_after(index: usize, shard: &Shard, place: &Place) {
    let _ = shard.thread.set(thread::current());
    let interval = match shard.policy {
        SyncPolicy::Interval(interval) => interval.min(LOOK),
        SyncPolicy::None | SyncPolicy::Always => LOOK,
    };
    let mut refused_at = None;
    while !shard.stopped.load(Ordering::Acquire) {
        let begin = clock::instant();
        if refused_at.is_none_or(|at| begin.duration_since(at) >= LOOK) {
            refused_at = None;
            if let Err(error) = shard.make_next(index, place) {
                refused_at = Some(begin);
                shard.tell(error.to_string());
            }
        }
        // Nobody waits for a sync with `none`, but what is closed is let go of.
        if (shard.policy != SyncPolicy::None || shard.has_closed()) && shard.sync().is_err() {
            return;
        }
        let again = shard.policy == SyncPolicy::Always
            && shard.written.load(Ordering::Acquire) != shard.synced.load(Ordering::Relaxed);
        if !again {
            thread::park_timeout(interval.saturating_sub(begin.elapsed()));
        }
    }
}
