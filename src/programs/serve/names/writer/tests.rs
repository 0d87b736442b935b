//! Names after each batch, in a map that may be full or refuse.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use super::*;
use crate::handoff::change::Timestamp;
use crate::handoff::entry::MappedPort;
use crate::handoff::pool::{AddressPool, Coming, PoolSettings, PoolShareOfBoth, PoolUnit};
use crate::handoff::random::SecretHash;
use crate::ip::address::Prefix96;

/// A map with room for so many names.
#[derive(Default)]
struct TestMap {
    names: RefCell<BTreeMap<(TableKey, u16), PeerName>>,
    room: usize,
    is_lost: Cell<bool>,
}

impl NameMap for &TestMap {
    fn give(&self, table: TableKey, port: MappedPort, name: &PeerName) -> bool {
        let mut names = self.names.borrow_mut();
        let is_full = names.len() >= self.room && !names.contains_key(&(table, port.0));
        if !is_full {
            names.insert((table, port.0), *name);
        }
        !is_full
    }

    fn take(&self, table: TableKey, port: MappedPort) {
        self.names.borrow_mut().remove(&(table, port.0));
    }

    fn prefetch(&self, _: impl Iterator<Item = NameKey>) {}

    fn is_lost(&self) -> bool {
        self.is_lost.get()
    }
}

const NOW: Duration = Duration::ZERO;
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
        let pair = |(&(table, port), name): (&(TableKey, u16), &PeerName)| {
            assert_eq!(table, TABLE);
            let number = name.client.segments()[7];
            assert_eq!(*name, name_of(&client(number), None));
            (port, number)
        };
        names.iter().map(pair).collect()
    }
}

#[test]
fn names_are_those_of_the_entries_after_each_batch() {
    let (map, stats) = (TestMap::with(100), Arc::<Stats>::default());
    let mut writer = NameWriter::new(&map, stats, None);
    let mut commit = |changes: &[(TableKey, Change)]| writer.follow(NOW, changes, None);
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
    writer.follow_late(NOW, &events, None);
    assert_eq!(map.ports(), [(5000, 3), (5003, 7), (5004, 9)]);
}

#[test]
fn what_has_no_room_has_no_name_and_is_counted() {
    let (map, stats) = (TestMap::with(2), Arc::<Stats>::default());
    let mut writer = NameWriter::new(&map, Arc::clone(&stats), None);
    let changes: Vec<_> = (0..5).map(|number| created(5000 + number, number)).collect();
    writer.follow(NOW, &changes, None);
    assert_eq!(map.ports(), [(5000, 0), (5001, 1)]);
    assert_eq!(stats.get(Counter::Unnamed), 3);
    writer.follow(NOW, &[deleted(5000, 0), created(5005, 5)], None);
    assert_eq!(map.ports(), [(5001, 1), (5005, 5)]);
    assert_eq!(stats.get(Counter::Unnamed), 3);
}

/// What is not durable may never be announced: until then nobody has the port.
#[test]
fn names_come_when_their_record_is_durable_and_go_before() {
    let map = TestMap::with(9);
    let mut writer = NameWriter::new(&map, Arc::default(), None);
    writer.follow(NOW, &[created(5000, 1), created(5001, 2)], None);
    writer.follow(NOW, &[deleted(5000, 1), created(5000, 3)], Some(8));
    assert_eq!(map.ports(), [(5001, 2)], "neither has it");
    // The next one has it before the disk is heard of again.
    writer.follow(NOW, &[deleted(5000, 3), created(5000, 4), created(5002, 5)], Some(9));
    writer.release(7);
    writer.release(8);
    assert_eq!(map.ports(), [(5001, 2)]);
    writer.release(9);
    assert_eq!(map.ports(), [(5000, 4), (5001, 2), (5002, 5)]);
    writer.follow(NOW, &[created(5003, 6), deleted(5003, 6), created(5003, 7)], Some(10));
    writer.release(10);
    assert_eq!(map.ports(), [(5000, 4), (5001, 2), (5002, 5), (5003, 7)]);
    // The disk fails.
    writer.follow(NOW, &[deleted(5000, 4), created(5000, 8)], Some(11));
    writer.drop_held();
    writer.release(u64::MAX);
    assert_eq!(map.ports(), [(5001, 2), (5002, 5), (5003, 7)]);
}

impl TestMap {
    /// Ports with the last octets of their addresses of the pool; 0: none.
    fn addresses(&self) -> Vec<(u16, u8)> {
        let names = self.names.borrow();
        let last = |name: &PeerName| name.pool.map_or(0, |address| address.octets()[3]);
        names.iter().map(|(&(_, port), name)| (port, last(name))).collect()
    }
}

/// One for each of two reactors, of which the first has all addresses.
fn pools(network: &str) -> [NamePool; 2] {
    let settings = PoolSettings {
        network: network.parse().unwrap(),
        unit: PoolUnit::Address,
        idle: Duration::from_secs(10),
        names: true,
        translates: false,
    };
    let (_, shares, _) = AddressPool::new(settings, SecretHash::new([7; 16]), 2, |_| 0, []);
    let pools: Vec<_> = shares
        .into_iter()
        .map(PoolShareOfBoth::new)
        .map(|share| NamePool::new(share, Arc::default()))
        .collect();
    pools.try_into().ok().unwrap()
}

fn named(last: u8, number: u16) -> (TableKey, Change) {
    let address = Ipv4Addr::new(100, 64, 0, last);
    (TableKey::block_of(address), Change::Named { address, client: client(number).address.into() })
}

fn unnamed(last: u8, number: u16) -> (TableKey, Change) {
    let address = Ipv4Addr::new(100, 64, 0, last);
    let client = client(number).address.into();
    (TableKey::block_of(address), Change::Unnamed { address, client })
}

#[test]
fn an_address_is_recorded_in_front_of_the_entries_and_told_when_that_is_durable() {
    let (map, other_map) = (TestMap::with(9), TestMap::with(9));
    let [pool, other] = pools("100.64.0.0/26");
    let mut writer = NameWriter::new(&map, Arc::default(), Some(pool));
    let mut other = NameWriter::new(&other_map, Arc::default(), Some(other));
    let mut changes = vec![created(5000, 1), deleted(4000, 9), created(5001, 2), created(5002, 1)];
    writer.give(&mut changes);
    let expected = [
        named(1, 1),
        named(2, 2),
        created(5000, 1),
        deleted(4000, 9),
        created(5001, 2),
        created(5002, 1),
    ];
    assert_eq!(changes, expected);
    writer.follow(NOW, &changes, Some(8));
    assert_eq!(map.addresses(), []);
    // Another reactor has an entry of the same client meanwhile.
    let mut follow_other = |port| {
        let mut changes = vec![created(port, 1)];
        other.give(&mut changes);
        assert_eq!(changes.len(), 1, "it is the other's to give");
        other.follow(NOW, &changes, None);
    };
    follow_other(6000);
    writer.release(8);
    follow_other(6001);
    assert_eq!(map.addresses(), [(5000, 1), (5001, 2), (5002, 1)]);
    assert_eq!(other_map.addresses(), [(6000, 0), (6001, 1)]);
}

#[test]
fn an_address_is_taken_back_when_all_names_with_it_are_gone() {
    let map = TestMap::with(9);
    let [pool, _] = pools("100.64.0.0/26");
    let mut writer = NameWriter::new(&map, Arc::default(), Some(pool));
    let mut commit = |seconds, waits_for, mut changes: Vec<(TableKey, Change)>| {
        let now = Duration::from_secs(seconds);
        if let Some(record) = waits_for {
            writer.release(record - 1);
        }
        writer.take_back(now, 100, &mut changes);
        writer.give(&mut changes);
        writer.follow(now, &changes, waits_for);
        changes
    };
    commit(1, None, vec![created(5000, 1), created(5001, 1), created(5002, 2)]);
    assert_eq!(map.addresses(), [(5000, 1), (5001, 1), (5002, 2)]);
    commit(3, None, vec![deleted(5000, 1)]);
    assert_eq!(commit(30, None, vec![]), []);
    commit(31, None, vec![deleted(5001, 1)]);
    assert_eq!(commit(40, None, vec![]), []);
    assert_eq!(commit(41, Some(5), vec![]), [unnamed(1, 1)]);
    // As long as that is not durable, its client gets no other one.
    assert_eq!(commit(41, Some(5), vec![created(5003, 1)]), [created(5003, 1)]);
    let changes = commit(41, Some(6), vec![created(5004, 1)]);
    assert_eq!(changes, [named(3, 1), created(5004, 1)]);
    commit(41, Some(7), vec![]);
    assert_eq!(map.addresses(), [(5002, 2), (5003, 0), (5004, 3)]);
}

/// Where the journal had no room, all goes on as it was.
#[test]
fn addresses_of_what_is_recorded_late_are_those_that_were_given() {
    let map = TestMap::with(9);
    let [pool, _] = pools("100.64.0.0/26");
    let mut writer = NameWriter::new(&map, Arc::default(), Some(pool));
    let mut changes = vec![created(5000, 1), created(5001, 2)];
    writer.give(&mut changes);
    let event = |(table, change): &(TableKey, Change)| change.event(Timestamp::default(), *table);
    let events: Vec<_> = changes.iter().filter_map(event).collect();
    assert_eq!((events.len(), map.addresses()), (4, vec![]));
    writer.follow_late(NOW, &events, None);
    assert_eq!(map.addresses(), [(5000, 1), (5001, 2)]);
    // Nobody is told anything more: nothing is given.
    map.is_lost.set(true);
    let mut changes = vec![created(5002, 3)];
    writer.give(&mut changes);
    assert_eq!(changes, [created(5002, 3)]);
}

#[test]
fn as_many_names_wait_for_the_disk_as_there_is_room_for() {
    let (map, stats) = (TestMap::with(100_000), Arc::<Stats>::default());
    let mut writer = NameWriter::new(&map, Arc::clone(&stats), None);
    let nth = |number: u32| {
        let table = TableKey { local: number.into(), ..TABLE };
        (table, created(5000, 1).1)
    };
    let changes: Vec<_> = (0..HELD_NAMES_MAX as u32 + 3).map(nth).collect();
    writer.follow(NOW, &changes, Some(1));
    assert_eq!(stats.get(Counter::Unnamed), 3);
    writer.release(1);
    assert_eq!(map.names.borrow().len(), HELD_NAMES_MAX);
}

#[test]
fn clients_whose_packets_are_translated_have_addresses_and_entries_have_none() {
    let settings = PoolSettings {
        network: "100.64.0.0/26".parse().unwrap(),
        unit: PoolUnit::Address,
        idle: Duration::ZERO,
        names: false,
        translates: true,
    };
    let (pool, mut shares, _) = AddressPool::new(settings, SecretHash::new([7; 16]), 1, |_| 0, []);
    let stats = Arc::<Stats>::default();
    let share = PoolShareOfBoth::new(shares.remove(0));
    let own = NamePool::new(share.clone(), Arc::clone(&stats));
    let mut writer = NameWriter::new(None::<&TestMap>, Arc::clone(&stats), Some(own));
    let mut changes = vec![created(5000, 1)];
    writer.give(&mut changes);
    assert_eq!(changes, [created(5000, 1)]);
    // The server gives them.
    for number in 1..=4 {
        let coming = share.lock().come_for_packet(client(number).address, TABLE.nat64, NOW);
        assert!(matches!(coming, Ok(Coming::New(..))), "{coming:?}");
        changes.push(named(number as u8, number));
    }
    let address = |number| pool.address_of(client(number).address);
    assert_eq!(address(1), None);
    writer.follow(NOW, &changes, Some(8));
    assert_eq!(address(1), None);
    writer.release(8);
    assert_eq!(address(1), Some(Ipv4Addr::new(100, 64, 0, 1)));
    // An entry that goes ends nothing.
    writer.follow(NOW, &[deleted(5000, 1)], None);
    assert_eq!((address(1), address(5), pool.named()), (address(1), None, 4));
}
