//! Eviction (PROTOCOL.md section 6): the least recently used entry without a live connection, of a
//! heavy /64 first.
//!
//! An entry that is passed over counts as used, so that the search meets all others before it meets
//! this one again. That is not recorded: replay reads in the journal which entry was evicted, and
//! after a restart the connections are polled anew. All work is bounded. Where very many of the
//! least recently used entries are live, as in a table of idle connections, the search may end at
//! an entry that is not the least recently used of the others, but never at a live one as long as
//! there is another.

use super::lru::LruQueue;
use super::records::Slot;
use super::{LivePorts, Table};
use crate::handoff::entry::{Client, MappedPort};

/// The most live entries that one eviction passes over, in the heavy /64 and in the whole table
/// each.
const PASSES_AT_ONCE_MAX: usize = 2048;
/// Entries that may be passed over between two polls of the connections, in heavy /64s and in the
/// whole table each: `PASSES_PER_ENTRY` * entries + `PASSES_MIN`.
const PASSES_PER_ENTRY: usize = 4;
const PASSES_MIN: usize = 4096;
/// The entries of a /64 with more than 1/16 of all are found sooner by a scan of all records than
/// by the list of the /64, which jumps to and fro in memory.
const SCAN_SHARE: usize = 16;

/// The state of the search for entries that can be evicted, since the last poll of the connections.
#[derive(Debug, Default)]
pub struct Search {
    poll: u64,
    /// How many more entries may be passed over, in the whole table and in heavy /64s.
    pub(super) passes_left: [u32; 2],
    /// All entries are live.
    all_live: bool,
    /// The slot at which the search for one that is not live goes on.
    hand: Slot,
}

impl Search {
    fn begin(&mut self, poll: u64, entries: usize) {
        if self.poll != poll {
            let passes = (PASSES_PER_ENTRY * entries + PASSES_MIN) as u32;
            *self = Self { poll, passes_left: [passes; 2], all_live: false, hand: self.hand };
        }
    }

    /// There is a new entry on `port`.
    pub fn added(&mut self, port: MappedPort, live: Option<LivePorts<'_>>) {
        if live.is_none_or(|live| !live.ports.contains(port)) {
            self.all_live = false;
        }
    }
}

impl Table {
    /// The entry to evict for a new one of `client`: the least recently used of its own /64 if that
    /// is heavy, else of the heaviest /64 if any is, else of all. A live one only where all are
    /// live.
    pub(super) fn choose_evicted(
        &mut self,
        client: &Client,
        live: Option<LivePorts<'_>>,
    ) -> Option<Slot> {
        let heavy = self.heavy_for(client);
        if let Some(live) = live
            && let Some(slot) = self.search(heavy, live)
        {
            return Some(slot);
        }
        self.oldest(heavy)
    }

    /// The heavy /64 that has to make room for `client`, if there is one.
    fn heavy_for(&self, client: &Client) -> Option<Slot> {
        let own =
            self.subnets.find(&self.hash, client.subnet()).filter(|&subnet| self.is_heavy(subnet));
        let heaviest = || {
            let heavy = self.heavy.iter().copied().filter(|&subnet| self.is_heavy(subnet));
            // Of two that are equally heavy the lower one, so that the choice does not depend on
            // history.
            heavy.max_by_key(|&subnet| {
                let subnet = self.subnets.get(subnet);
                (subnet.entries.get(), std::cmp::Reverse(subnet.prefix))
            })
        };
        own.or_else(heaviest)
    }

    /// An entry that is not live, if there is one.
    fn search(&mut self, heavy: Option<Slot>, live: LivePorts<'_>) -> Option<Slot> {
        self.search.begin(live.poll, self.len());
        if self.search.all_live {
            return None;
        }
        // Whether there is one at all comes first: if all are live, nothing may be passed over.
        let Some(any) = self.any(live) else {
            self.search.all_live = true;
            return None;
        };
        self.search.hand = any;
        let of_heavy = heavy.and_then(|_| self.first(heavy, live));
        of_heavy.or_else(|| self.first(None, live)).or_else(|| {
            self.search.hand = any + 1;
            Some(any)
        })
    }

    /// The least recently used entry of a /64, or of all, that is not live, within the bounds on
    /// passes.
    fn first(&mut self, subnet: Option<Slot>, live: LivePorts<'_>) -> Option<Slot> {
        let kind = usize::from(subnet.is_some());
        let left = self.search.passes_left[kind];
        let entries = self.count(subnet);
        let passes_max = entries.min(PASSES_AT_ONCE_MAX).min(left as usize) as u32;
        let mut passes = 0;
        let found = loop {
            let slot = self.oldest(subnet)?;
            if !live.ports.contains(self.records.get(slot).port()) {
                break Some(slot);
            }
            if passes == passes_max {
                break None;
            }
            self.touch(slot, false);
            passes += 1;
        };
        self.search.passes_left[kind] = left - passes;
        found
    }

    /// How many entries a /64 has, or the table.
    fn count(&self, subnet: Option<Slot>) -> usize {
        subnet.map_or(self.len(), |subnet| usize::from(self.subnets.get(subnet).entries.get()))
    }

    /// The least recently used entry of a /64, or of all.
    fn oldest(&mut self, subnet: Option<Slot>) -> Option<Slot> {
        let count = self.count(subnet);
        let records = &self.records;
        let queue = match subnet {
            None => &mut self.lru,
            Some(subnet) => {
                let at = self.lru_of.iter().position(|&(of, _)| of == subnet);
                let at = at.unwrap_or_else(|| {
                    self.lru_of.push((subnet, LruQueue::default()));
                    self.lru_of.len() - 1
                });
                &mut self.lru_of[at].1
            }
        };
        queue.first(records).or_else(|| {
            let all = records.iter().map(|(slot, record)| (slot, record.subnet, record.last_use));
            match subnet {
                None => queue.fill(count, all.map(|(slot, _, last_use)| (last_use, slot))),
                Some(subnet) if count > records.len() / SCAN_SHARE => {
                    let of_subnet = all.filter(|&(_, of, _)| of == subnet);
                    queue.fill(count, of_subnet.map(|(slot, _, last_use)| (last_use, slot)));
                }
                Some(subnet) => {
                    let members = self.subnets.get(subnet).members.iter(records);
                    queue.fill(count, members.map(|slot| (records.get(slot).last_use, slot)));
                }
            }
            queue.first(records)
        })
    }

    /// The next entry that is not live, in the order of slots, which is fast.
    fn any(&self, live: LivePorts<'_>) -> Option<Slot> {
        let (hand, end) = (self.search.hand, self.records.end());
        let can_go = |slot: &Slot| {
            self.records.try_get(*slot).is_some_and(|record| !live.ports.contains(record.port()))
        };
        (hand..end).chain(0..hand.min(end)).find(can_go)
    }
}
