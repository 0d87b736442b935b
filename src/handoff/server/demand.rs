//! [`Demand`]: what somebody wanted not long ago, for each of a few kinds, between shards.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What was wanted, and found no room, is waited for for this long: it is asked for again.
pub const WANTED_FOR: Duration = Duration::from_secs(5);

/// For each kind, until when it is wanted, in milliseconds; 0 where it is not.
#[derive(Debug)]
pub struct Demand<const KINDS: usize>([AtomicU64; KINDS]);

fn millis(time: Duration) -> u64 {
    time.as_millis() as u64
}

impl<const KINDS: usize> Demand<KINDS> {
    /// Nothing is.
    pub fn new() -> Self {
        Self([const { AtomicU64::new(0) }; KINDS])
    }

    /// It is wanted from now on.
    pub fn want(&self, now: Duration, kind: usize) {
        self.0[kind].fetch_max(millis(now + WANTED_FOR), Ordering::Relaxed);
    }

    /// It is there. Others that still want some will say so again.
    pub fn has(&self, kind: usize) {
        if self.0[kind].load(Ordering::Relaxed) > 0 {
            self.0[kind].store(0, Ordering::Relaxed);
        }
    }

    /// Whether it is wanted.
    pub fn is_wanted(&self, now: Duration, kind: usize) -> bool {
        self.0[kind].load(Ordering::Relaxed) > millis(now)
    }

    /// Whether anything is, or was not long ago.
    pub fn was_wanted(&self) -> bool {
        self.0.iter().any(|until| until.load(Ordering::Relaxed) > 0)
    }

    /// Forgets what is not wanted any more.
    pub fn forget(&self, now: Duration) {
        for until in &self.0 {
            let past = until.load(Ordering::Relaxed);
            if past > 0 && past <= millis(now) {
                // Another shard may have wanted it just now: then this is not done.
                _ = until.compare_exchange(past, 0, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }
}
