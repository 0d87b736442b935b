//! [`NameWriter`]: what a reactor recorded becomes names.

use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use foldhash::HashMap;

use crate::handoff::change::{Change, Event, EventKind};
use crate::handoff::entry::{Client, MappedPort, TableKey};
use crate::handoff::stats::{Counter, Stats};
use crate::kernel::bpf::BpfError;
use crate::kernel::bpf::peer_names::{self, NAMES, PeerName};

/// The most names that wait for the disk; an entry for which there is no room has none.
const HELD_NAMES_MAX: usize = 65_536;

/// A key of the map of names.
pub(super) type NameKey = [u8; NAMES.key_octets];

pub(super) fn name_of(client: &Client) -> PeerName {
    PeerName { client: client.address, client_port: client.port, pool: None }
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
    pub(super) fn new(map: M, generation: u32, stats: Arc<Stats>) -> Self {
        Self {
            map,
            generation,
            stats,
            going: Vec::new(),
            keys: Vec::new(),
            values: Vec::new(),
            places: HashMap::default(),
            refused: Vec::new(),
            held: HashMap::default(),
            held_order: VecDeque::new(),
        }
    }

    /// After the changes were recorded, and before they are announced. Where they wait until the
    /// record of this number is durable, so do the names that come; those that go do so now.
    pub fn follow(&mut self, changes: &[(TableKey, Change)], waits_for: Option<u64>) {
        for (table, change) in changes {
            match change {
                Change::Created { port, client } => self.come(*table, *port, client, waits_for),
                Change::Deleted { port, .. } => self.remove(&peer_names::key(*table, port.0)),
                _ => {}
            }
        }
        self.write();
    }

    /// The same, for changes that could not be recorded at once.
    pub fn follow_late(&mut self, events: &[Event], waits_for: Option<u64>) {
        for event in events {
            match &event.kind {
                EventKind::Created { port, client } => {
                    self.come(event.table, *port, client, waits_for);
                }
                EventKind::Deleted { port, .. } => {
                    self.remove(&peer_names::key(event.table, port.0));
                }
                _ => {}
            }
        }
        self.write();
    }

    /// The records up to this one are durable, and what they say is announced next.
    pub fn release(&mut self, durable: u64) {
        if self.held_order.is_empty() {
            return;
        }
        while let Some((record, key)) =
            self.held_order.pop_front_if(|(record, _)| *record <= durable)
        {
            // Not one that is of a later record.
            if let Some((_, name)) = self.held.get(&key).copied().filter(|(of, _)| *of == record) {
                self.add(key, name);
            }
        }
        self.write();
    }

    /// What is not durable never will be: the NAT64s are not told of it.
    pub fn drop_held(&mut self) {
        self.held.clear();
        self.held_order.clear();
    }

    fn waiting(&self) -> usize {
        self.keys.len() / NAMES.key_octets
    }

    fn come(&mut self, table: TableKey, port: MappedPort, client: &Client, waits_for: Option<u64>) {
        let (key, name) = (peer_names::key(table, port.0), name_of(client));
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

    /// All that was added and removed.
    fn write(&mut self) {
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

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeMap;
    use std::io;

    use super::*;
    use crate::handoff::change::Timestamp;
    use crate::ip::address::Prefix96;
    use crate::kernel::bpf::BpfStep;

    /// A map with room for so many names, of which the kernel may refuse to remove any, or to
    /// change that of one port.
    #[derive(Default)]
    struct TestMap {
        stuck: Option<u16>,
        names: RefCell<BTreeMap<Vec<u8>, Vec<u8>>>,
        room: usize,
        refuses: bool,
        given_up: Cell<bool>,
    }

    fn refused() -> BpfError {
        let cause = io::Error::from_raw_os_error(libc::E2BIG);
        BpfError { step: BpfStep::Change, cause, verifier: None }
    }

    impl NameMap for &TestMap {
        fn set_all(&self, keys: &[u8], values: &[u8]) -> (usize, Option<BpfError>) {
            let mut names = self.names.borrow_mut();
            let pairs = keys.chunks(NAMES.key_octets).zip(values.chunks(NAMES.value_octets));
            for (done, (key, value)) in pairs.enumerate() {
                let is_stuck = peer_names::read_key(key.first_chunk().unwrap()).1;
                let is_full = names.len() >= self.room && !names.contains_key(key);
                if is_full || self.stuck == Some(is_stuck) {
                    return (done, Some(refused()));
                }
                names.insert(key.to_vec(), value.to_vec());
            }
            (keys.len() / NAMES.key_octets, None)
        }

        fn remove_all(&self, keys: &[u8]) -> Result<(), BpfError> {
            if self.refuses {
                return Err(refused());
            }
            let mut names = self.names.borrow_mut();
            keys.chunks(NAMES.key_octets).for_each(|key| drop(names.remove(key)));
            Ok(())
        }

        fn give_up(&self) {
            self.given_up.set(true);
        }

        fn is_lost(&self) -> bool {
            self.given_up.get()
        }
    }

    const TABLE: TableKey =
        TableKey { local: std::net::Ipv4Addr::LOCALHOST, nat64: std::net::Ipv4Addr::BROADCAST };

    fn client(number: u16) -> Client {
        let address = [0x2001, 0xdb8, 0, 0, 0, 0, 0, number].into();
        Client { prefix: Prefix96([0; 12]), address, port: 1000 + number }
    }

    fn created(port: u16, number: u16) -> (TableKey, Change) {
        (TABLE, Change::Created { port: MappedPort(port), client: client(number) })
    }

    fn deleted(port: u16, number: u16) -> (TableKey, Change) {
        (TABLE, Change::Deleted { port: MappedPort(port), client: client(number) })
    }

    impl TestMap {
        fn with(room: usize) -> Self {
            Self { room, ..Self::default() }
        }

        /// Ports with the numbers of their clients.
        fn ports(&self) -> Vec<(u16, u16)> {
            let names = self.names.borrow();
            let pair = |(key, value): (&Vec<u8>, &Vec<u8>)| {
                let key = key.first_chunk().unwrap();
                let (table, port) = peer_names::read_key(key);
                assert_eq!(table, TABLE);
                let number = u16::from_be_bytes([value[14], value[15]]);
                assert_eq!(value[..], peer_names::value(key, name_of(&client(number)), 7));
                (port, number)
            };
            let mut ports: Vec<_> = names.iter().map(pair).collect();
            ports.sort_unstable();
            ports
        }
    }

    #[test]
    fn names_are_those_of_the_entries_after_each_batch() {
        let (map, stats) = (TestMap::with(100), Arc::<Stats>::default());
        let mut writer = NameWriter::new(&map, 7, stats);
        let mut commit = |changes: &[(TableKey, Change)]| writer.follow(changes, None);
        commit(&[created(5000, 1), created(5001, 2)]);
        assert_eq!(map.ports(), [(5000, 1), (5001, 2)]);
        commit(&[deleted(5000, 1), created(5000, 3)]);
        assert_eq!(map.ports(), [(5000, 3), (5001, 2)]);
        // One that comes and goes within a batch, and one that comes again.
        commit(&[created(5002, 4), deleted(5002, 4), created(5003, 5)]);
        commit(&[deleted(5003, 5), created(5003, 6), deleted(5003, 6), created(5003, 7)]);
        assert_eq!(map.ports(), [(5000, 3), (5001, 2), (5003, 7)]);
        commit(&[deleted(5001, 2), created(5001, 10), deleted(5001, 10)]);
        assert_eq!(map.ports(), [(5000, 3), (5003, 7)]);
        let events = [created(5004, 8), deleted(5004, 8), created(5004, 9)];
        let at = Timestamp::from_micros(0);
        let events: Vec<_> =
            events.iter().filter_map(|(table, change)| change.event(at, *table)).collect();
        writer.follow_late(&events, None);
        assert_eq!(map.ports(), [(5000, 3), (5003, 7), (5004, 9)]);
        assert!(!map.given_up.get());
    }

    #[test]
    fn what_has_no_room_has_no_name_and_is_counted() {
        let (map, stats) = (TestMap::with(2), Arc::<Stats>::default());
        let mut writer = NameWriter::new(&map, 7, Arc::clone(&stats));
        let changes: Vec<_> = (0..5).map(|number| created(5000 + number, number)).collect();
        writer.follow(&changes, None);
        assert_eq!(map.ports(), [(5000, 0), (5001, 1)]);
        assert_eq!(stats.get(Counter::Unnamed), 3);
        writer.follow(&[deleted(5000, 0), created(5005, 5)], None);
        assert_eq!(map.ports(), [(5001, 1), (5005, 5)]);
        assert_eq!(stats.get(Counter::Unnamed), 3);
    }

    #[test]
    fn a_name_that_cannot_be_taken_away_makes_all_invalid() {
        let map = TestMap { refuses: true, ..TestMap::with(9) };
        let mut writer = NameWriter::new(&map, 7, Arc::default());
        writer.follow(&[created(5000, 1)], None);
        assert!(!map.given_up.get());
        writer.follow(&[deleted(5000, 1)], None);
        assert!(map.given_up.get());
    }

    #[test]
    fn a_name_that_cannot_be_changed_goes() {
        let mut map = TestMap::with(9);
        NameWriter::new(&map, 7, Arc::default())
            .follow(&[created(5000, 1), created(5001, 2)], None);
        map.stuck = Some(5000);
        let changes = [deleted(5000, 1), created(5000, 3), deleted(5001, 2), created(5001, 4)];
        NameWriter::new(&map, 7, Arc::default()).follow(&changes, None);
        assert_eq!(map.ports(), [(5001, 4)]);
        assert!(!map.given_up.get());
    }

    /// What is not durable may never be announced: until then nobody has the port.
    #[test]
    fn names_come_when_their_record_is_durable_and_go_before() {
        let map = TestMap::with(9);
        let mut writer = NameWriter::new(&map, 7, Arc::default());
        writer.follow(&[created(5000, 1), created(5001, 2)], None);
        writer.follow(&[deleted(5000, 1), created(5000, 3)], Some(8));
        assert_eq!(map.ports(), [(5001, 2)], "neither has it");
        // The next one has it before the disk is heard of again.
        writer.follow(&[deleted(5000, 3), created(5000, 4), created(5002, 5)], Some(9));
        writer.release(7);
        writer.release(8);
        assert_eq!(map.ports(), [(5001, 2)]);
        writer.release(9);
        assert_eq!(map.ports(), [(5000, 4), (5001, 2), (5002, 5)]);
        writer.follow(&[created(5003, 6), deleted(5003, 6), created(5003, 7)], Some(10));
        writer.release(10);
        assert_eq!(map.ports(), [(5000, 4), (5001, 2), (5002, 5), (5003, 7)]);
        // The disk fails.
        writer.follow(&[deleted(5000, 4), created(5000, 8)], Some(11));
        writer.drop_held();
        writer.release(u64::MAX);
        assert_eq!(map.ports(), [(5001, 2), (5002, 5), (5003, 7)]);
    }

    #[test]
    fn as_many_names_wait_for_the_disk_as_there_is_room_for() {
        let (map, stats) = (TestMap::with(100_000), Arc::<Stats>::default());
        let mut writer = NameWriter::new(&map, 7, Arc::clone(&stats));
        let nth = |number: u32| {
            let table = TableKey { local: number.into(), ..TABLE };
            (table, created(5000, 1).1)
        };
        let changes: Vec<_> = (0..HELD_NAMES_MAX as u32 + 3).map(nth).collect();
        writer.follow(&changes, Some(1));
        assert_eq!(stats.get(Counter::Unnamed), 3);
        writer.release(1);
        assert_eq!(map.names.borrow().len(), HELD_NAMES_MAX);
    }
}
