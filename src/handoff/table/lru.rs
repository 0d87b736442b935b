//! LRU: which entry was used least recently, found when one has to be evicted.
//!
//! Uses are numbered, and each entry keeps the number of its last one. So a use writes one number
//! to a record that is in the caches anyway, where a linked list in the order of use would touch
//! four more records. An eviction searches all entries that can go for the [`QUEUE_MAX`] lowest
//! numbers, and the next evictions take them from that queue. An entry that was used meanwhile has
//! another number than in the queue. Those that are left are the oldest still, as numbers only
//! grow.
//!
//! A queue that got all entries that can go is *complete*, and stays so: new entries are added at
//! its end, and one that was used is put back where it belongs now. So where nearly all entries are
//! live, those few that are not are found without another search, however many clients come.

use std::collections::VecDeque;

use super::EntryRecord;
use super::records::{Slot, Slots};

/// The most entries that one search puts into a queue. A complete queue grows to twice as many.
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

/// The queues of a table or a /64. Where all entries are live, each poll asks for both in turn.
#[derive(Debug, Default)]
pub struct LruQueues {
    /// Of all its entries.
    pub all: LruQueue,
    /// Of those that were not live at the last poll.
    pub not_live: LruQueue,
}

impl LruQueues {
    /// As [`LruQueue::added`].
    pub fn added(&mut self, last_use: UseNumber, slot: Slot) {
        self.all.added(last_use, slot);
        self.not_live.added(last_use, slot);
    }

    /// As [`LruQueue::clear`].
    pub fn clear(&mut self) {
        self.all.clear();
        self.not_live.clear();
    }
}

/// The least recently used entries of a table or a /64, of those that could go at the time of the
/// last search.
#[derive(Debug, Default)]
pub struct LruQueue {
    /// The least recently used first.
    entries: VecDeque<(UseNumber, Slot)>,
    is_complete: bool,
    /// Which entries can go: those that were not live at this poll, or all.
    poll: Option<u64>,
    /// How often all entries were searched: for tests.
    pub(super) searches: u32,
}

impl LruQueue {
    /// Whether the queue is of the entries that were not live at `poll`, or of all. If it is not,
    /// or where it has no [`LruQueue::first`] and is not complete, [`LruQueue::fill`] comes next.
    pub fn is_of(&self, poll: Option<u64>) -> bool {
        self.poll == poll && (self.is_complete || !self.entries.is_empty())
    }

    /// Whether all entries that can go are in the queue.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// The least recently used entry that can go, if any is left in the queue.
    pub fn first(
        &mut self,
        records: &Slots<EntryRecord>,
        can_go: impl Fn(&EntryRecord) -> bool,
    ) -> Option<Slot> {
        while let Some(&(last_use, slot)) = self.entries.front() {
            let record = records.try_get(slot).filter(|record| can_go(record));
            match record {
                Some(record) if record.last_use == last_use => return Some(slot),
                Some(record) if self.is_complete => {
                    self.entries.pop_front();
                    let entry = (record.last_use, slot);
                    if let Err(at) = self.entries.binary_search(&entry) {
                        self.entries.insert(at, entry);
                    }
                }
                _ => _ = self.entries.pop_front(),
            }
        }
        None
    }

    /// The least recently used entry of all, if the queue is of all and knows it: for checks.
    pub fn peek(&self, records: &Slots<EntryRecord>) -> Option<Slot> {
        let is_unused = |&&(last_use, slot): &&(UseNumber, Slot)| {
            records.try_get(slot).is_some_and(|record| record.last_use == last_use)
        };
        let first = self.entries.iter().find(is_unused).map(|entry| entry.1);
        // A complete queue may have an older one behind that, which was used since.
        first.filter(|_| self.poll.is_none() && !self.is_complete)
    }

    /// There is a new entry, used last.
    pub fn added(&mut self, last_use: UseNumber, slot: Slot) {
        if self.is_complete {
            if self.entries.len() < 2 * QUEUE_MAX {
                self.entries.push_back((last_use, slot));
            } else {
                self.is_complete = false;
            }
        }
    }

    /// Searches the `count` entries, or fewer, that can go for the least recently used ones.
    pub fn fill(
        &mut self,
        poll: Option<u64>,
        count: usize,
        entries: impl Iterator<Item = (UseNumber, Slot)>,
    ) {
        let mut oldest = Vec::from(std::mem::take(&mut self.entries));
        oldest.clear();
        oldest.reserve_exact(count.min(2 * QUEUE_MAX));
        let mut limit = UseNumber::MAX;
        let mut is_complete = true;
        for entry in entries {
            if entry.0 > limit {
                continue;
            }
            if oldest.len() == 2 * QUEUE_MAX {
                limit = cut(&mut oldest);
                is_complete = false;
            }
            oldest.push(entry);
        }
        if oldest.len() > QUEUE_MAX {
            cut(&mut oldest);
            is_complete = false;
        }
        oldest.sort_unstable_by_key(|entry| entry.0);
        let searches = self.searches.wrapping_add(1);
        *self = Self { entries: oldest.into(), is_complete, poll, searches };
    }

    /// Forgets all of them.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.is_complete = false;
    }
}

/// Keeps the [`QUEUE_MAX`] lowest numbers, and returns the highest of these.
fn cut(oldest: &mut Vec<(UseNumber, Slot)>) -> UseNumber {
    // No two have the same number.
    let (_, &mut (highest, _), _) =
        oldest.select_nth_unstable_by_key(QUEUE_MAX - 1, |entry| entry.0);
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
                queue.fill(None, count, all.iter().copied());
                all.sort_unstable();
                all.truncate(QUEUE_MAX);
                assert_eq!(queue.entries, all);
                assert_eq!(queue.is_complete, count <= QUEUE_MAX);
                assert!(queue.entries.capacity() <= 2 * QUEUE_MAX);
            }
        }
    }
}
