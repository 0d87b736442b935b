//! [`Budget`]: how many NAT64s and entries all shards together may have (PROTOCOL.md section 5).
//!
//! The one thing in the pure rooms that several threads change: it is shared by all shards, so that
//! a limit refuses nobody as long as any shard leaves room. A quota for each shard would need no
//! atomics, and would refuse a new NAT64 in a full shard beside an empty one. The counters order
//! nothing but themselves, hence `Relaxed`; and they are in no replayed decision, as what they
//! decided stands in the journal.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::handoff::stats::DropReason;

/// From 7/8 full on, live connections are looked up: before an eviction is needed.
const NEARLY_FULL_SLACK: usize = 8;

/// Whether `used` of `max` leave less than one in [`NEARLY_FULL_SLACK`].
pub fn is_nearly_full(used: usize, max: usize) -> bool {
    used + max / NEARLY_FULL_SLACK + 1 >= max
}

/// The NAT64s and entries of all shards together, and their limits.
#[derive(Debug)]
pub struct Budget {
    nat64s_max: usize,
    entries_max: usize,
    nat64s: AtomicUsize,
    /// An empty table counts as one entry, so that it can always have one.
    entries: AtomicUsize,
}

impl Budget {
    /// Nothing used yet.
    pub fn new(nat64s_max: usize, entries_max: usize) -> Self {
        let (nat64s, entries) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { nat64s_max, entries_max, nat64s, entries }
    }

    /// How many NAT64s there are.
    pub fn nat64s(&self) -> usize {
        self.nat64s.load(Ordering::Relaxed)
    }

    /// How many entries there are; an empty table counts as one.
    pub fn entries(&self) -> usize {
        self.entries.load(Ordering::Relaxed)
    }

    /// Whether tables have to replace their own entries, or soon will.
    pub(super) fn is_nearly_used(&self) -> bool {
        is_nearly_full(self.entries(), self.entries_max)
    }

    /// Whether a new NAT64 can be admitted.
    pub(super) fn has_room(&self) -> Result<(), DropReason> {
        if self.nat64s() >= self.nat64s_max {
            return Err(DropReason::Nat64sLimit);
        }
        if self.entries() >= self.entries_max {
            return Err(DropReason::EntriesLimit);
        }
        Ok(())
    }

    /// Counts a new NAT64 with an empty table, unless that exceeds a limit.
    pub(super) fn admit(&self) -> Result<(), DropReason> {
        if !take(&self.nat64s, self.nat64s_max) {
            return Err(DropReason::Nat64sLimit);
        }
        if !self.take_entry() {
            self.nat64s.fetch_sub(1, Ordering::Relaxed);
            return Err(DropReason::EntriesLimit);
        }
        Ok(())
    }

    /// Counts one more entry, unless the limit is reached.
    pub(super) fn take_entry(&self) -> bool {
        take(&self.entries, self.entries_max)
    }

    /// Counts one entry less.
    pub(super) fn give_entry(&self) {
        self.entries.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts a NAT64 less, whose table has `entries`.
    pub(super) fn give_nat64(&self, entries: usize) {
        self.nat64s.fetch_sub(1, Ordering::Relaxed);
        self.entries.fetch_sub(weight(entries), Ordering::Relaxed);
    }

    /// Counts a NAT64 whose table has `entries`, whatever the limits are: it was admitted before a
    /// restart.
    pub(super) fn replayed_nat64(&self, entries: usize) {
        self.nat64s.fetch_add(1, Ordering::Relaxed);
        self.entries.fetch_add(weight(entries), Ordering::Relaxed);
    }

    /// A table has `after` entries instead of `before`, by a replayed change.
    pub(super) fn replayed_entries(&self, before: usize, after: usize) {
        let (before, after) = (weight(before), weight(after));
        self.entries.fetch_add(after.saturating_sub(before), Ordering::Relaxed);
        self.entries.fetch_sub(before.saturating_sub(after), Ordering::Relaxed);
    }
}

/// What a table with `entries` counts.
pub(super) fn weight(entries: usize) -> usize {
    entries.max(1)
}

fn take(counter: &AtomicUsize, max: usize) -> bool {
    let next = |n| (n < max).then_some(n + 1);
    counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
}
