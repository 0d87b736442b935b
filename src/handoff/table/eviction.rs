//! Eviction (PROTOCOL.md section 6): the least recently used entry of a heavy /64, if there is one,
//! else of all; one without a live connection first.
//!
//! The search for entries that can go looks at all of a table, once for some thousands of evictions
//! and once for each poll of the connections: see `lru`. An entry that is passed over for its
//! connection is not used by that, so what goes is exactly the least recently used of those that
//! can.

use super::records::Slot;
use super::{LivePorts, Table};
use crate::handoff::change::Change;
use crate::handoff::entry::{Client, Entry};

/// The entries of a /64 with more than 1/16 of all are found sooner by a scan of all records than
/// by the list of the /64, which jumps to and fro in memory.
const SCAN_SHARE: usize = 16;
/// Entries that are not live are found sooner by their ports than by a scan of all records, where
/// they are less than 1/8 of all.
const FEW_SHARE: usize = 8;
/// How many entries are passed over at a time for their ports. A NAT64 that makes them more has
/// its entries replaced as if it had reported nothing.
const PASSED_OVER_MAX: usize = 8;

impl Table {
    /// What deletes `count` of its entries, or all of them where it has no more, in no order.
    pub fn deletions(&self, count: usize) -> Vec<Change> {
        let some = self.records.iter().take(count).map(|(slot, _)| self.entry(slot));
        some.map(|Entry { port, client }| Change::Deleted { port, client }).collect()
    }

    /// Deletes the entry in `slot`.
    pub fn delete(&mut self, slot: Slot, changed: impl FnOnce(Change)) {
        let Entry { port, client } = self.entry(slot);
        self.remove(slot);
        changed(Change::Deleted { port, client });
    }

    /// Deletes the entry that goes first, if there is any.
    pub fn evict(&mut self, live: Option<LivePorts<'_>>, changed: impl FnOnce(Change)) -> bool {
        let evicted = self.choose_evicted(None, live);
        if let Some(slot) = evicted {
            self.delete(slot, changed);
        }
        evicted.is_some()
    }

    /// The entry to evict for a new one of `client`, if it is for one: the least recently used of
    /// its own /64 if that is heavy, else of the heaviest /64 if any is, else of all. A live one
    /// only where all of these are live: connections protect a /64 up to its share, and no other
    /// pays for more.
    pub(super) fn choose_evicted(
        &mut self,
        client: Option<&Client>,
        live: Option<LivePorts<'_>>,
    ) -> Option<Slot> {
        let heavy = self.heavy_for(client);
        let not_live = live.and_then(|live| self.oldest(heavy, Some(live)));
        not_live.or_else(|| self.oldest(heavy, None))
    }

    /// As [`Table::choose_evicted`], for a client that gets the port of what goes where no other
    /// is free. One whose port is avoided is passed over then, as if it had been used.
    pub(super) fn choose_replaced(
        &mut self,
        client: &Client,
        live: Option<LivePorts<'_>>,
    ) -> Option<Slot> {
        let mut evicted = self.choose_evicted(Some(client), live)?;
        if !self.ports.is_avoided(self.port(evicted)) || self.ports.has_unavoided() {
            return Some(evicted);
        }
        for _ in 0..PASSED_OVER_MAX {
            if !self.ports.is_avoided(self.port(evicted)) {
                break;
            }
            self.touch(evicted, false);
            evicted = self.choose_evicted(Some(client), live)?;
        }
        Some(evicted)
    }

    /// The heavy /64 that has to make room for `client`, if there is one.
    fn heavy_for(&self, client: Option<&Client>) -> Option<Slot> {
        let own = client.and_then(|client| self.subnets.find(&self.hash, client.subnet()));
        let own = own.filter(|&subnet| self.is_heavy(subnet));
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

    /// How many entries a /64 has, or the table.
    fn count(&self, subnet: Option<Slot>) -> usize {
        subnet.map_or(self.len(), |subnet| usize::from(self.subnets.get(subnet).entries.get()))
    }

    /// The least recently used entry of a /64, or of all, of those that are not live.
    fn oldest(&mut self, subnet: Option<Slot>, live: Option<LivePorts<'_>>) -> Option<Slot> {
        let count = self.count(subnet);
        let records = &self.records;
        let queues = match subnet {
            None => &mut self.lru,
            Some(subnet) => {
                let at = self.lru_of.iter().position(|&(of, _)| of == subnet);
                let at = at.unwrap_or_else(|| {
                    self.lru_of.push((subnet, Default::default()));
                    self.lru_of.len() - 1
                });
                &mut self.lru_of[at].1
            }
        };
        let queue = if live.is_some() { &mut queues.not_live } else { &mut queues.all };
        let can_go = |record: &super::EntryRecord| {
            subnet.is_none_or(|subnet| record.subnet == subnet)
                && live.is_none_or(|live| !live.ports.contains(record.port()))
        };
        let poll = live.map(|live| live.poll);
        if queue.is_of(poll) {
            let first = queue.first(records, can_go);
            if first.is_some() || queue.is_complete() {
                return first;
            }
        }
        let beside = live.and_then(|live| self.ports.taken_beside(live.ports));
        let few = beside.filter(|beside| beside.count() <= records.len() / FEW_SHARE);
        match (few, subnet) {
            (Some(few), _) => {
                let few = few.slots().map(|slot| (slot, records.get(slot)));
                let few = few.filter(|(_, record)| can_go(record));
                queue.fill(poll, count, few.map(|(slot, record)| (record.last_use, slot)));
            }
            (None, Some(subnet)) if count <= records.len() / SCAN_SHARE => {
                let members = self.subnets.get(subnet).members.iter(records);
                let members = members.map(|slot| (slot, records.get(slot)));
                let members = members.filter(|(_, record)| can_go(record));
                queue.fill(poll, count, members.map(|(slot, record)| (record.last_use, slot)));
            }
            (None, None) if live.is_none() => {
                let all = records.iter();
                queue.fill(poll, count, all.map(|(slot, record)| (record.last_use, slot)));
            }
            _ => {
                let all = records.iter().filter(|(_, record)| can_go(record));
                queue.fill(poll, count, all.map(|(slot, record)| (record.last_use, slot)));
            }
        }
        queue.first(records, can_go)
    }
}
