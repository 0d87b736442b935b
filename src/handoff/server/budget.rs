//! [`Budget`]: how many NAT64s and entries all shards together may have (PROTOCOL.md section 5).
//!
//! The one thing in the pure rooms that several threads change: it is shared by all shards, so that
//! a limit refuses nobody as long as any shard leaves room. A quota for each shard would need no
//! atomics, and would refuse a new NAT64 in a full shard beside an empty one. The counters order
//! nothing but themselves, hence `Relaxed`; and they are in no replayed decision, as what they
//! decided stands in the journal.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::crowds::Crowds;
use super::fair::{FairShare, Wants};
use super::room::Room;
use super::worth::Newcomer;
use crate::handoff::random::SecretHash;
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
    pub(super) crowds: Crowds,
    pub(super) room: Room,
    pub(super) fair: FairShare,
}

impl Budget {
    /// Nothing used yet.
    pub fn new(nat64s_max: usize, entries_max: usize) -> Self {
        // Each table needs one entry, even if it is empty. With more NAT64s than entries, the limit
        // where tables make room for newcomers would never be reached.
        let nat64s_max = nat64s_max.min(entries_max);
        let (nat64s, entries) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (crowds, room) = (Crowds::new(nat64s_max), Room::new(nat64s_max));
        let fair = FairShare::new(entries_max);
        Self { nat64s_max, entries_max, nat64s, entries, crowds, room, fair }
    }

    /// There is one more shard, which knows this secret. Returns its number.
    pub(super) fn join(&self, hash: SecretHash) -> usize {
        self.crowds.set_hash(hash);
        self.room.join()
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

    /// Whether newcomers or new entries may soon find no room.
    pub(super) fn is_nearly_full(&self) -> bool {
        is_nearly_full(self.nat64s(), self.nat64s_max) || self.is_nearly_used()
    }

    /// Whether there is no room for another NAT64.
    pub(super) fn is_at_limit(&self) -> bool {
        self.nat64s() >= self.nat64s_max
    }

    /// Counts a new NAT64 with an empty table, unless that exceeds a limit. `is_connected` says
    /// whether this host has a live connection with it, and is asked only where room is scarce.
    pub(super) fn admit(
        &self,
        now: Duration,
        nat64: Ipv4Addr,
        is_connected: impl FnOnce() -> bool,
    ) -> Result<(), DropReason> {
        let is_scarce = is_nearly_full(self.nat64s(), self.nat64s_max);
        let newcomer = match is_scarce {
            true if self.crowds.is_over(nat64, 1) => Newcomer::Crowded,
            true if !is_connected() => Newcomer::Stranger,
            _ => Newcomer::Connected,
        };
        if !self.take_place(now, newcomer) {
            self.room.want(now, newcomer);
            return Err(match newcomer {
                Newcomer::Crowded => DropReason::Nat64sShare,
                _ => DropReason::Nat64sLimit,
            });
        }
        if !take(&self.entries, self.entries_max) {
            self.nat64s.fetch_sub(1, Ordering::Relaxed);
            self.fair.want(now, Wants::Table);
            return Err(DropReason::EntriesLimit);
        }
        self.crowds.add(nat64);
        self.room.has(newcomer);
        self.fair.has_table();
        if self.entries() >= self.fair.common() {
            // For its next ones.
            self.fair.want(now, Wants::Share);
        }
        Ok(())
    }

    fn take_place(&self, now: Duration, newcomer: Newcomer) -> bool {
        let is_last = self.nat64s() + 1 >= self.nat64s_max;
        if newcomer < Newcomer::Connected
            && is_last
            && self.room.is_wanted(now, Newcomer::Connected)
        {
            return false;
        }
        (newcomer > Newcomer::Crowded && take(&self.nat64s, self.nat64s_max))
            || take_back(&self.room.owed)
    }

    /// For which newcomer a table is to be given up now.
    pub(super) fn wants_room(&self, now: Duration) -> Option<Newcomer> {
        let owes = self.room.owed.load(Ordering::Relaxed) > 0;
        let wants = |&newcomer: &Newcomer| {
            self.room.is_wanted(now, newcomer)
                && !owes
                && (newcomer == Newcomer::Crowded || self.is_at_limit())
        };
        [Newcomer::Connected, Newcomer::Stranger, Newcomer::Crowded].into_iter().find(wants)
    }

    /// Counts the table of a NAT64 less, which was emptied and given up for such a newcomer.
    pub(super) fn give_up(&self, nat64: Ipv4Addr, newcomer: Newcomer) {
        match newcomer {
            // Its place is for whoever may have none of the others.
            Newcomer::Crowded => _ = self.room.owed.fetch_add(1, Ordering::Relaxed),
            _ => _ = self.nat64s.fetch_sub(1, Ordering::Relaxed),
        }
        self.entries.fetch_sub(weight(0), Ordering::Relaxed);
        self.crowds.take(nat64);
    }

    /// Counts one more entry of a table that `had` so many, unless the limit is reached, or what is
    /// there for tables that have their share.
    pub(super) fn take_entry(&self, now: Duration, had: usize) -> bool {
        let common = self.fair.common();
        let is_below = had < self.fair.of(self.nat64s());
        if is_below && self.entries() >= common {
            self.fair.want(now, Wants::Share);
        }
        take(&self.entries, if is_below { self.entries_max } else { common })
    }

    /// Tables with more entries than this give some back now, if any do.
    pub(super) fn gives_above(&self, now: Duration) -> Option<usize> {
        self.fair.above(now, self.nat64s(), self.entries())
    }

    /// Counts one entry less.
    pub(super) fn give_entry(&self) {
        self.entries.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts a NAT64 less, whose table has `entries`, by a replayed change.
    pub(super) fn replayed_forgotten(&self, nat64: Ipv4Addr, entries: usize) {
        self.nat64s.fetch_sub(1, Ordering::Relaxed);
        self.entries.fetch_sub(weight(entries), Ordering::Relaxed);
        self.crowds.take(nat64);
    }

    /// Counts a NAT64 whose table has `entries`, whatever the limits are: it was admitted before a
    /// restart.
    pub(super) fn replayed_nat64(&self, nat64: Ipv4Addr, entries: usize) {
        self.nat64s.fetch_add(1, Ordering::Relaxed);
        self.entries.fetch_add(weight(entries), Ordering::Relaxed);
        self.crowds.add(nat64);
    }

    /// A table has `after` entries instead of `before`, whatever the limits are.
    pub(super) fn entries_changed(&self, before: usize, after: usize) {
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

fn take_back(counter: &AtomicUsize) -> bool {
    counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok()
}
