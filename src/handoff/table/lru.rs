//! Which entry was used least recently, found out when one has to go.
//!
//! Each use has a number, and an entry has that of its last one. So a use costs a number in a record that is at hand
//! anyway; a list in the order of use would have the memory of four more records moved for it. When an entry has to
//! go, those with the lowest numbers are looked for, [`QUEUE_MAX`] at once, and queue from then on. One that was
//! used since has another number, and is left out; and none is older than those that were not, as numbers only grow.

use super::EntryRecord;
use super::records::{Slot, Slots};

/// So many are looked for at once.
const QUEUE_MAX: usize = 2048;

/// The number of a use: a later one has a higher.
pub type UseNumber = u32;

/// Counts the uses of a table.
#[derive(Debug, Default)]
pub struct Uses(UseNumber);

impl Uses {
    /// The number of the next use. `None` where they are used up: the entries must be numbered anew.
    #[inline]
    pub fn next(&mut self) -> Option<UseNumber> {
        self.0 = self.0.checked_add(1)?;
        Some(self.0)
    }

    /// How many there were.
    pub fn count(&self) -> UseNumber {
        self.0
    }

    /// So many are counted now.
    pub fn set(&mut self, uses: UseNumber) {
        self.0 = uses;
    }
}

/// The least recently used entries of a table or a /64, as they were when they were looked for.
#[derive(Debug, Default)]
pub struct LruQueue(Vec<(UseNumber, Slot)>);

impl LruQueue {
    /// The least recently used, if any is left that was not used since.
    pub fn first(&mut self, records: &Slots<EntryRecord>) -> Option<Slot> {
        while let Some(entry) = self.0.last() {
            if is_unused(entry, records) {
                return Some(entry.1);
            }
            self.0.pop();
        }
        None
    }

    /// The same, where the queue must stay as it is.
    pub fn peek(&self, records: &Slots<EntryRecord>) -> Option<Slot> {
        self.0.iter().rev().find(|entry| is_unused(entry, records)).map(|entry| entry.1)
    }

    /// Looks for them anew, among all of the `count` entries.
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

    /// None are known any more.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// Whether the entry is there, and was not used since.
fn is_unused(&(last_use, slot): &(UseNumber, Slot), records: &Slots<EntryRecord>) -> bool {
    records.try_get(slot).is_some_and(|record| record.last_use == last_use)
}

/// Keeps the lowest, and returns the highest of them.
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
