//! [`FairShare`]: how `--max-entries` is shared among NAT64s, when they want more than there is
//! (PROTOCOL.md section 6).
//!
//! As long as there is room, everybody has as much as he likes. Where there is not, those that have
//! more than their share give back, as others want some of theirs. So that those others need not
//! wait for that, the last part of all entries is theirs alone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The part of all entries that is for tables below their share: one in so many, and at least one.
const RESERVED_PART: usize = 16;
/// Entries that somebody wanted are made free for this long.
const WANTED_FOR: Duration = Duration::from_secs(5);
/// What is wanted still after this time is noted again: it is wanted with each new entry.
const NOTED_EVERY: Duration = Duration::from_secs(1);

/// Who wants entries that others have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wants {
    /// A table below its share.
    Share,
    /// A NAT64 that has no table yet.
    Table,
}

/// The share, and who wants it.
#[derive(Debug)]
pub struct FairShare {
    entries_max: usize,
    /// Until when entries are wanted, in milliseconds, for each of [`Wants`].
    wanted: [AtomicU64; 2],
}

impl FairShare {
    /// Nobody wants any.
    pub fn new(entries_max: usize) -> Self {
        Self { entries_max, wanted: Default::default() }
    }

    /// What is there for those that have their share.
    pub fn common(&self) -> usize {
        self.entries_max - (self.entries_max / RESERVED_PART).max(1)
    }

    /// The share of each of so many NAT64s.
    pub fn of(&self, nat64s: usize) -> usize {
        (self.entries_max / nat64s.max(1)).max(1)
    }

    /// Somebody wants entries.
    pub fn want(&self, now: Duration, who: Wants) {
        let until = (now + WANTED_FOR).as_millis() as u64;
        let wanted = &self.wanted[who as usize];
        if wanted.load(Ordering::Relaxed) + NOTED_EVERY.as_millis() as u64 <= until {
            wanted.store(until, Ordering::Relaxed);
        }
    }

    /// Whoever had no table has one.
    pub fn has_table(&self) {
        let wanted = &self.wanted[Wants::Table as usize];
        if wanted.load(Ordering::Relaxed) > 0 {
            wanted.store(0, Ordering::Relaxed);
        }
    }

    /// Whether anybody wants any, or did not long ago.
    pub fn was_wanted(&self) -> bool {
        self.wanted.iter().any(|until| until.load(Ordering::Relaxed) > 0)
    }

    /// Forgets what is not wanted any more.
    pub fn forget(&self, now: Duration) {
        let now = now.as_millis() as u64;
        for until in &self.wanted {
            let past = until.load(Ordering::Relaxed);
            if past > 0 && past <= now {
                _ = until.compare_exchange(past, 0, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }

    /// Tables with more entries than this give some back, if any do. `nat64s` is how many there
    /// are, and `entries` how many these have.
    pub fn above(&self, now: Duration, nat64s: usize, entries: usize) -> Option<usize> {
        let is_wanted =
            |who: Wants| self.wanted[who as usize].load(Ordering::Relaxed) > now.as_millis() as u64;
        if entries <= self.common() {
            None
        } else if is_wanted(Wants::Table) {
            Some(self.of(nat64s + 1))
        } else {
            is_wanted(Wants::Share).then(|| self.of(nat64s))
        }
    }
}
