//! [`FairShare`]: how `--max-entries` is shared among NAT64s, when they want more than there is
//! (PROTOCOL.md section 6).
//!
//! As long as there is room, everybody has as much as he likes. Where there is not, those that have
//! more than their share give back, as others want some of theirs. So that those others need not
//! wait for that, the last part of all entries is theirs alone.

use std::time::Duration;

use super::demand::{Demand, WANTED_FOR};

/// The part of all entries that is for tables below their share: one in so many, and at least one.
const RESERVED_PART: usize = 16;
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
    /// By each of [`Wants`].
    wanted: Demand<2>,
}

impl FairShare {
    /// Nobody wants any.
    pub fn new(entries_max: usize) -> Self {
        Self { entries_max, wanted: Demand::new() }
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
        if !self.wanted.is_wanted(now + WANTED_FOR - NOTED_EVERY, who as usize) {
            self.wanted.want(now, who as usize);
        }
    }

    /// Whoever had no table has one.
    pub fn has_table(&self) {
        self.wanted.has(Wants::Table as usize);
    }

    /// Whether anybody wants any, or did not long ago.
    pub fn was_wanted(&self) -> bool {
        self.wanted.was_wanted()
    }

    /// Forgets what is not wanted any more.
    pub fn forget(&self, now: Duration) {
        self.wanted.forget(now);
    }

    /// Tables with more entries than this give some back, if any do. `nat64s` is how many there
    /// are, and `entries` how many these have.
    pub fn above(&self, now: Duration, nat64s: usize, entries: usize) -> Option<usize> {
        let is_wanted = |who: Wants| self.wanted.is_wanted(now, who as usize);
        if entries <= self.common() {
            None
        } else if is_wanted(Wants::Table) {
            Some(self.of(nat64s + 1))
        } else {
            is_wanted(Wants::Share).then(|| self.of(nat64s))
        }
    }
}
