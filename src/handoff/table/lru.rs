//! LRU: which entry was used least recently, found when one has to be evicted.
//!
//! Uses are numbered, and each entry keeps the number of its last one. So a use writes one number
//! to a record that is in the caches anyway, where a linked list in the order of use would touch
//! four more records. An eviction searches all entries for the [`QUEUE_MAX`] lowest numbers, and
//! the next evictions take them from that queue. An entry that was used meanwhile has another
//! number than in the queue, and is skipped. Those that are left are the oldest still, as numbers
//! only grow.

use super::EntryRecord;
use super::records::{Slot, Slots};

/// The most entries that one search puts into a queue.
const QUEUE_MAX: usize = 2048;

/// The number of a use: a later one has a higher.
pub type UseNumber = u32;

/// Counts the uses of a table.
#[derive(Debug, Default)]
pub struct Uses(UseNumber);

impl Uses {
    /// The number of the next use. `None` after the last number: then the entries must be numbered
    /// anew.
    #[inline]
    pub fn next(&mut self) -> Option<UseNumber> {
        self.0 = self.0.checked_add(1)?;
        Some(self.0)
    }

    /// The number of the last use.
    pub fn count(&self) -> UseNumber {
        self.0
    }

    /// Makes `uses` the number of the last use.
    pub fn set(&mut self, uses: UseNumber) {
        self.0 = uses;
    }
}

/// The least recently used entries of a table or a /64 at the time of the last search.
#[derive(Debug, Default)]
pub struct LruQueue(Vec<(UseNumber, Slot)>);

impl LruQueue {
    /// The least recently used entry, if any is left that was not used since the search.
    pub fn first(&mut self, records: &Slots<EntryRecord>) -> Option<Slot> {
        while let Some(entry) = self.0.last() {
            if is_unused(entry, records) {
                return Some(entry.1);
            }
            self.0.pop();
        }
        None
    }

    /// As [`LruQueue::first`], without removing the entries that were used since.
    pub fn peek(&self, records: &Slots<EntryRecord>) -> Option<Slot> {
        self.0.iter().rev().find(|entry| is_unused(entry, records)).map(|entry| entry.1)
    }

    /// Searches the `count` entries for the least recently used ones.
    pub fn fill(&mut self, count: usize, entries: impl Iterator<Item = (UseNumber, Slot)>) {
        let oldest = &mut self.0;
        oldest.clear();
        oldest.reserve_exact(count.min(2 * QUEUE_MAX));
        let mut limit = UseNumber::MAX;
        for entry in entries {
            if entry.0 > limit {
                continue;
            }
            if oldest.len() == 2 * QUEUE_MAX {
                limit = cut(oldest);
            }
            oldest.push(entry);
        }
        if oldest.len() > QUEUE_MAX {
            cut(oldest);
        }
        oldest.sort_unstable_by(|one, other| other.cmp(one));
    }

    /// Forgets all of them.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// Whether the entry still exists and was not used since the search.
fn is_unused(&(last_use, slot): &(UseNumber, Slot), records: &Slots<EntryRecord>) -> bool {
    records.try_get(slot).is_some_and(|record| record.last_use == last_use)
}

/// Keeps the [`QUEUE_MAX`] lowest numbers, and returns the highest of these.
fn cut(oldest: &mut Vec<(UseNumber, Slot)>) -> UseNumber {
    let (_, &mut (highest, _), _) = oldest.select_nth_unstable(QUEUE_MAX - 1);
    oldest.truncate(QUEUE_MAX);
    highest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_numbers_queue() {
        for count in [0, 1, QUEUE_MAX, QUEUE_MAX + 1, 2 * QUEUE_MAX, 2 * QUEUE_MAX + 1, 60_000] {
            // Ascending, descending, and mixed: 7919 is a prime.
            let mixed = |n: usize| n * 7919 % count;
            for number in
                [&|n| n as UseNumber, &|n| (count - n) as UseNumber, &|n| mixed(n) as UseNumber]
                    as [&dyn Fn(usize) -> UseNumber; 3]
            {
                let mut all: Vec<_> = (0..count).map(|n| (number(n), n as Slot)).collect();
                let mut queue = LruQueue::default();
                queue.fill(count, all.iter().copied());
                all.sort_unstable();
                all.truncate(QUEUE_MAX);
                all.reverse();
                assert_eq!(queue.0, all);
                assert!(queue.0.capacity() <= 2 * QUEUE_MAX);
            }
        }
    }
}
