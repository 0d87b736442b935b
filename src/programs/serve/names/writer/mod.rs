//! [`NameWriter`]: what a reactor recorded becomes names.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use foldhash::HashMap;

use super::pool::{NamePool, PoolStep};
use crate::handoff::change::{Change, Event, EventKind, Timestamp};
use crate::handoff::entry::{Client, TableKey};
use crate::handoff::stats::{Counter, Stats};
use crate::kernel::bpf::BpfError;
use crate::kernel::bpf::peer_names::{self, NAMES, PeerName};

/// The most names that wait for the disk; an entry for which there is no room has none.
const HELD_NAMES_MAX: usize = 65_536;

/// A key of the map of names.
pub(super) type NameKey = [u8; NAMES.key_octets];

pub(super) fn name_of(client: &Client, pool: Option<Ipv4Addr>) -> PeerName {
    PeerName { client: client.address, client_port: client.port, pool }
}

/// Where names are: the maps of the kernel, or a test's.
pub trait NameMap {
    /// As [`BpfMap::set_all`](crate::kernel::bpf::BpfMap::set_all).
    fn set_all(&self, keys: &[u8], values: &[u8]) -> (usize, Option<BpfError>);

    /// As [`BpfMap::remove_all`](crate::kernel::bpf::BpfMap::remove_all).
    ///
    /// # Errors
    /// As there.
    fn remove_all(&self, keys: &[u8]) -> Result<(), BpfError>;

    /// From now on, no name is valid.
    fn give_up(&self);

    /// Whether none is valid any more, whatever is written.
    fn is_lost(&self) -> bool;
}

/// A reactor's writer of names.
pub struct NameWriter<M> {
    map: M,
    generation: u32,
    stats: Arc<Stats>,
    /// None: names have no address of IPv4.
    pool: Option<NamePool>,
    /// Keys of names that are to go.
    going: Vec<u8>,
    /// Keys and values of names that come, after those have gone. Each key is there once.
    keys: Vec<u8>,
    values: Vec<u8>,
    /// Where in `keys` a key is.
    places: HashMap<NameKey, usize>,
    /// Keys that the map did not take.
    refused: Vec<u8>,
    /// Names whose record is not durable yet, with its number.
    held: HashMap<NameKey, (u64, PeerName)>,
    /// Their records, the first one first; some may not be held any more.
    held_order: VecDeque<(u64, NameKey)>,
}

impl<M: NameMap> NameWriter<M> {
    pub(super) fn new(map: M, generation: u32, stats: Arc<Stats>, pool: Option<NamePool>) -> Self {
        Self {
            map,
            generation,
            stats,
            pool,
            going: Vec::new(),
            keys: Vec::new(),
            values: Vec::new(),
            places: HashMap::default(),
            refused: Vec::new(),
            held: HashMap::default(),
            held_order: VecDeque::new(),
        }
    }

    /// Whether a change may lead to another one, which [`NameWriter::give`] adds.
    pub fn gives(&self) -> bool {
        self.pool.is_some()
    }

    /// Before the changes are recorded: adds which addresses of the pool stand for the clients that
    /// come, each in front of the first entry of them.
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
        let event =
            |(table, change): &(TableKey, Change)| change.event(Timestamp::default(), *table);
        for event in changes.iter().filter_map(event) {
            self.see(&event, waits_for);
        }
        self.write(now);
    }

    /// The same, for changes that could not be recorded at once.
    pub fn follow_late(&mut self, now: Duration, events: &[Event], waits_for: Option<u64>) {
        events.iter().for_each(|event| self.see(event, waits_for));
        self.write(now);
    }

    fn see(&mut self, event: &Event, waits_for: Option<u64>) {
        match &event.kind {
            EventKind::Created { port, client } => {
                let address = self.pool.as_mut().and_then(NamePool::next_address);
                let key = peer_names::key(event.table, port.0);
                self.come(key, name_of(client, address), waits_for);
            }
            EventKind::Deleted { port, client } => {
                self.remove(&peer_names::key(event.table, port.0));
                if let Some(pool) = &mut self.pool {
                    pool.goes(client);
                }
            }
            EventKind::Named { client, .. } => {
                if let Some(pool) = &mut self.pool {
                    pool.recorded(PoolStep::Named(*client), waits_for);
                }
            }
            EventKind::Unnamed { address, client } => {
                if let Some(pool) = &mut self.pool {
                    pool.recorded(PoolStep::Unnamed((*address, *client)), waits_for);
                }
            }
            EventKind::Initialized | EventKind::Conflict { .. } | EventKind::Forgotten => {}
        }
    }

    /// The records up to this one are durable, and what they say is announced next.
    pub fn release(&mut self, durable: u64) {
        if let Some(pool) = &mut self.pool {
            pool.release(durable);
        }
        if self.held_order.is_empty() {
            return;
        }
        while self.held_order.front().is_some_and(|(record, _)| *record <= durable)
            && let Some((record, key)) = self.held_order.pop_front()
        {
            // Not one that is of a later record.
            if let Some((_, name)) = self.held.get(&key).copied().filter(|(of, _)| *of == record) {
                self.add(key, name);
            }
        }
        self.write_names();
    }

    /// What is not durable never will be: the NAT64s are not told of it.
    pub fn drop_held(&mut self) {
        self.held.clear();
        self.held_order.clear();
    }

    fn waiting(&self) -> usize {
        self.keys.len() / NAMES.key_octets
    }

    fn come(&mut self, key: NameKey, name: PeerName, waits_for: Option<u64>) {
        let Some(record) = waits_for else { return self.add(key, name) };
        // Whoever had the port before.
        if !self.going.ends_with(&key) {
            self.remove(&key);
        }
        if self.held_order.len() >= HELD_NAMES_MAX {
            return self.stats.add(Counter::Unnamed, 1);
        }
        self.held_order.push_back((record, key));
        self.held.insert(key, (record, name));
    }

    fn add(&mut self, key: NameKey, name: PeerName) {
        self.held.remove(&key);
        // As where a newcomer has the port of another: it is enough to write over that one's.
        if self.going.ends_with(&key) {
            self.going.truncate(self.going.len() - key.len());
        }
        let value = peer_names::value(&key, name, self.generation);
        let next = self.waiting();
        match self.places.entry(key) {
            Entry::Occupied(place) => {
                let at = place.get() * NAMES.value_octets;
                self.values[at..at + NAMES.value_octets].copy_from_slice(&value);
            }
            Entry::Vacant(place) => {
                place.insert(next);
                self.keys.extend(key);
                self.values.extend(value);
            }
        }
    }

    fn remove(&mut self, key: &NameKey) {
        self.held.remove(key);
        self.going.extend(key);
        // It may have come just now: then the last one has its place.
        let Some(place) = self.places.remove(key) else { return };
        let last = self.waiting() - 1;
        self.keys.copy_within(last * NAMES.key_octets.., place * NAMES.key_octets);
        self.keys.truncate(last * NAMES.key_octets);
        self.values.copy_within(last * NAMES.value_octets.., place * NAMES.value_octets);
        self.values.truncate(last * NAMES.value_octets);
        if let Some(moved) = self.keys.as_chunks().0.get(place) {
            self.places.insert(*moved, place);
        }
    }

    /// All that was added and removed. Then the pool may take back what went.
    fn write(&mut self, now: Duration) {
        self.write_names();
        if let Some(pool) = &mut self.pool {
            pool.went(now);
        }
    }

    fn write_names(&mut self) {
        if self.map.is_lost() {
            self.drop_held();
            self.keys.clear();
            self.going.clear();
        }
        self.take_away();
        let (mut keys, mut values) = (&self.keys[..], &self.values[..]);
        while !keys.is_empty() {
            let (done, refused) = self.map.set_all(keys, values);
            if refused.is_none() {
                break;
            }
            self.stats.add(Counter::Unnamed, 1);
            let end = (done + 1) * NAMES.key_octets;
            self.refused.extend(&keys[done * NAMES.key_octets..end]);
            keys = &keys[end..];
            values = &values[(done + 1) * NAMES.value_octets..];
        }
        self.keys.clear();
        self.values.clear();
        self.places.clear();
        // Another's name may still be there.
        std::mem::swap(&mut self.going, &mut self.refused);
        self.take_away();
    }

    fn take_away(&mut self) {
        if !self.going.is_empty() && self.map.remove_all(&self.going).is_err() {
            self.map.give_up();
        }
        self.going.clear();
    }
}
