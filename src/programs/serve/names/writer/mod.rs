//! [`NameWriter`]: what a reactor recorded becomes names.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use foldhash::HashMap;

use super::pool::{NamePool, PoolStep};
use crate::handoff::change::{Change, Event};
use crate::handoff::entry::{Client, MappedPort, TableKey};
use crate::handoff::server::PREFETCH_MAX;
use crate::handoff::stats::{Counter, Stats};
use crate::kernel::bpf::names::PeerName;

/// The most names that wait for the disk; an entry for which there is no room has none.
const HELD_NAMES_MAX: usize = 65_536;

/// With fewer changes than this, prefetching costs more than it saves.
const PREFETCH_MIN: usize = 4;

/// Whose name it is.
pub type NameKey = (TableKey, MappedPort);

fn named_port((table, change): &(TableKey, Change)) -> Option<NameKey> {
    match change {
        Change::Created { port, .. } | Change::Deleted { port, .. } => Some((*table, *port)),
        _ => None,
    }
}

pub(super) fn name_of(client: &Client, pool: Option<Ipv4Addr>) -> PeerName {
    PeerName { client: client.address, client_port: client.port, pool }
}

/// Where names are: the maps of the kernel, or a test's.
pub trait NameMap {
    /// As [`NameTable::give`](crate::kernel::bpf::names::NameTable::give).
    fn give(&self, table: TableKey, port: MappedPort, name: &PeerName) -> bool;

    /// As [`NameTable::take`](crate::kernel::bpf::names::NameTable::take).
    fn take(&self, table: TableKey, port: MappedPort);

    /// As [`NameTable::prefetch`](crate::kernel::bpf::names::NameTable::prefetch).
    fn prefetch(&self, ports: impl Iterator<Item = NameKey> + Clone);

    /// Whether none is valid any more, whatever is written.
    fn is_lost(&self) -> bool;
}

impl<M: NameMap> NameMap for Option<M> {
    fn give(&self, table: TableKey, port: MappedPort, name: &PeerName) -> bool {
        self.as_ref().is_some_and(|map| map.give(table, port, name))
    }

    fn take(&self, table: TableKey, port: MappedPort) {
        self.iter().for_each(|map| map.take(table, port));
    }

    fn prefetch(&self, ports: impl Iterator<Item = NameKey> + Clone) {
        self.iter().for_each(|map| map.prefetch(ports.clone()));
    }

    fn is_lost(&self) -> bool {
        self.as_ref().is_none_or(M::is_lost)
    }
}

/// A reactor's writer of names.
pub struct NameWriter<M> {
    map: M,
    stats: Arc<Stats>,
    /// None: names have no address of IPv4.
    pool: Option<NamePool>,
    /// Names whose record is not durable yet, with its number.
    held: HashMap<NameKey, (u64, PeerName)>,
    /// Their records, the first one first; some may not be held any more.
    held_order: VecDeque<(u64, NameKey)>,
}

impl<M: NameMap> NameWriter<M> {
    pub(super) fn new(map: M, stats: Arc<Stats>, pool: Option<NamePool>) -> Self {
        Self { map, stats, pool, held: HashMap::default(), held_order: VecDeque::new() }
    }

    /// Whether a change may lead to another one, which [`NameWriter::give`] adds.
    pub fn gives(&self) -> bool {
        self.pool.is_some()
    }

    /// Before the changes are recorded: adds which addresses of the pool stand for the clients that
    /// come, in front of all entries.
    pub fn give(&mut self, changes: &mut Vec<(TableKey, Change)>) {
        if let Some(pool) = &mut self.pool {
            // Addresses that nobody is told are not given.
            pool.give(changes, !self.map.is_lost());
        }
    }

    /// How soon [`NameWriter::take_back`] is to be called, if no datagram comes before.
    pub fn due(&self) -> Option<Duration> {
        self.pool.as_ref().and_then(NamePool::due)
    }

    /// Takes back addresses of the pool that are idle: adds at most so many `events`.
    pub fn take_back(
        &mut self,
        now: Duration,
        events: usize,
        changes: &mut Vec<(TableKey, Change)>,
    ) {
        if let Some(pool) = &mut self.pool {
            pool.take_back(now, events, changes);
        }
    }

    /// After the changes were recorded, and before they are announced. Where they wait until the
    /// record of this number is durable, so do the names that come; those that go do so now.
    pub fn follow(
        &mut self,
        now: Duration,
        changes: &[(TableKey, Change)],
        waits_for: Option<u64>,
    ) {
        let is_lost = self.is_lost();
        for some in changes.chunks(PREFETCH_MAX) {
            if some.len() >= PREFETCH_MIN && !is_lost {
                self.map.prefetch(some.iter().filter_map(named_port));
            }
            for (table, change) in some {
                self.see(*table, change, waits_for, is_lost);
            }
        }
        self.went(now);
    }

    /// The same, for changes that could not be recorded at once.
    pub fn follow_late(&mut self, now: Duration, events: &[Event], waits_for: Option<u64>) {
        let is_lost = self.is_lost();
        for event in events {
            self.see(event.table, &event.kind.into(), waits_for, is_lost);
        }
        self.went(now);
    }

    /// The pool may take back what went.
    fn went(&mut self, now: Duration) {
        if let Some(pool) = &mut self.pool {
            pool.went(now);
        }
    }

    /// Whether nothing is to be written any more.
    fn is_lost(&mut self) -> bool {
        let is_lost = self.map.is_lost();
        if is_lost {
            self.drop_held();
        }
        is_lost
    }

    fn see(&mut self, table: TableKey, change: &Change, waits_for: Option<u64>, is_lost: bool) {
        match change {
            Change::Created { port, client } => {
                let address = self.pool.as_mut().and_then(NamePool::next_address);
                if !is_lost {
                    self.come((table, *port), name_of(client, address), waits_for);
                }
            }
            Change::Deleted { port, client } => {
                if !is_lost {
                    self.remove((table, *port));
                }
                if let Some(pool) = &mut self.pool {
                    pool.goes(client);
                }
            }
            Change::Named { client, .. } => {
                if let Some(pool) = &mut self.pool {
                    pool.recorded(PoolStep::Named(*client), waits_for);
                }
            }
            Change::Unnamed { address, client } => {
                if let Some(pool) = &mut self.pool {
                    pool.recorded(PoolStep::Unnamed((*address, *client)), waits_for);
                }
            }
            _ => {}
        }
    }

    /// The records up to this one are durable, and what they say is announced next.
    pub fn release(&mut self, durable: u64) {
        if let Some(pool) = &mut self.pool {
            pool.release(durable);
        }
        if self.held_order.is_empty() || self.is_lost() {
            return;
        }
        while self.held_order.front().is_some_and(|(record, _)| *record <= durable)
            && let Some((record, key)) = self.held_order.pop_front()
        {
            // Not one that is of a later record.
            if let Some((_, name)) = self.held.get(&key).copied().filter(|(of, _)| *of == record) {
                self.held.remove(&key);
                self.set(key, &name);
            }
        }
    }

    /// What is not durable never will be: the NAT64s are not told of it.
    pub fn drop_held(&mut self) {
        self.held.clear();
        self.held_order.clear();
    }

    fn come(&mut self, key: NameKey, name: PeerName, waits_for: Option<u64>) {
        let Some(record) = waits_for else {
            self.held.remove(&key);
            return self.set(key, &name);
        };
        // Whoever had the port before.
        self.remove(key);
        if self.held_order.len() >= HELD_NAMES_MAX {
            return self.stats.add(Counter::Unnamed, 1);
        }
        self.held_order.push_back((record, key));
        self.held.insert(key, (record, name));
    }

    fn set(&self, (table, port): NameKey, name: &PeerName) {
        if !self.map.give(table, port, name) {
            self.stats.add(Counter::Unnamed, 1);
        }
    }

    fn remove(&mut self, key: NameKey) {
        self.held.remove(&key);
        self.map.take(key.0, key.1);
    }
}
