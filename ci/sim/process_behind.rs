//! Who works behind the reactors for the journal: at once, or so that others may come between any
//! two operations of the disk.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use nat64handoff::disk::storage::{CHECK_INTERVAL, Storage, SyncSteps};

use super::worker::Worker;

/// Who syncs the journal of a shard, and makes its segments.
pub struct Syncing {
    steps: Arc<Mutex<SyncSteps>>,
    worker: Option<Worker>,
    /// When it began last.
    began: Duration,
    /// None: it has ended.
    until: Option<Duration>,
}

impl Syncing {
    pub fn new(steps: SyncSteps, now: Duration, interleaves: bool) -> Self {
        let steps = Arc::new(Mutex::new(steps));
        let worker = interleaves.then(|| {
            let steps = Arc::clone(&steps);
            Worker::new(move |now| steps.lock().unwrap().step(now))
        });
        Self { steps, worker, began: now, until: Some(now) }
    }

    pub fn due(&self, now: Duration) -> Option<Duration> {
        let until = self.until?;
        let is_within = self.worker.as_ref().is_some_and(Worker::is_within);
        // The steps are locked while it is within one.
        let is_now = is_within || self.steps.lock().unwrap().is_wanted();
        Some(if is_now { Duration::ZERO } else { until.saturating_sub(now) })
    }

    pub fn step(&mut self, now: Duration) {
        if self.until.is_none() {
            return;
        }
        let Self { steps, worker, began, .. } = self;
        if !worker.as_ref().is_some_and(Worker::is_within) {
            *began = now;
        }
        let done = match worker {
            Some(worker) => worker.step(now),
            None => Some(steps.lock().unwrap().step(now)),
        };
        if let Some(next) = done {
            self.until = next.map(|next| self.began + next);
        }
    }

    /// Others wait for what it is doing.
    pub fn finish(&mut self, now: Duration) {
        while self.worker.as_ref().is_some_and(Worker::is_within) {
            self.step(now);
        }
    }
}

/// Who compacts the journal of a shard.
pub struct Compacting {
    storage: Arc<Storage>,
    shard: usize,
    worker: Option<Worker>,
    at: Duration,
}

impl Compacting {
    pub fn new(storage: &Arc<Storage>, shard: usize, now: Duration, interleaves: bool) -> Self {
        let worker = interleaves.then(|| {
            let storage = Arc::clone(storage);
            Worker::new(move |_| {
                storage.compact_step(shard);
                None
            })
        });
        Self { storage: Arc::clone(storage), shard, worker, at: now }
    }

    pub fn is_within(&self) -> bool {
        self.worker.as_ref().is_some_and(Worker::is_within)
    }

    pub fn due(&self, now: Duration) -> Duration {
        if self.is_within() { Duration::ZERO } else { self.at.saturating_sub(now) }
    }

    pub fn step(&mut self, now: Duration) {
        let is_done = match &mut self.worker {
            Some(worker) => worker.step(now).is_some(),
            None => {
                self.storage.compact_step(self.shard);
                true
            }
        };
        if is_done {
            self.at = now + CHECK_INTERVAL;
        }
    }

    /// Others wait for what it is doing.
    pub fn finish(&mut self, now: Duration) {
        while self.is_within() {
            self.step(now);
        }
    }
}
