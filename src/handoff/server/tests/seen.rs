//! What an operator sees of a shard, and has it give up.

use super::*;

/// A shard with this number of tables, each with as many entries as its number.
fn shard(tables: u32) -> Server {
    let config = ServerConfig {
        handoff_port: 64064,
        limits: TableLimits::default(),
        validation_rate: Arc::new(ValidationRate::new(1000)),
        create_rate: 2000,
        budget: Arc::new(Budget::new(10_000, 1_000_000)),
        access: Arc::default(),
    };
    let mut server = Server::new(config, [7; 32], Duration::ZERO, Arc::default());
    for number in 0..tables {
        server.replay(key(number), &Change::Initialized);
        (0..number).for_each(|entry| server.replay(key(number), &created(entry)));
    }
    server
}

fn key(number: u32) -> TableKey {
    TableKey { local: LOCAL, nat64: Ipv4Addr::from_bits(0xc000_0200 + number) }
}

fn created(entry: u32) -> Change {
    let client = Client {
        prefix: Prefix96([0; 12]),
        address: Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(entry)),
        port: 5000,
    };
    Change::Created { port: MappedPort(2000 + entry as u16), client }
}

/// All tables; between two calls `meanwhile` may change some.
fn tables(server: &mut Server, mut meanwhile: impl FnMut(&mut Server)) -> Vec<SeenTable> {
    let (mut all, mut below) = (Vec::new(), Some(usize::MAX));
    while let Some(place) = below {
        let mut seen = Vec::new();
        below = server.see_tables(place, &mut seen);
        assert!(seen.len() <= SEEN_TABLES_MAX);
        all.extend(seen);
        meanwhile(server);
    }
    all
}

#[test]
fn each_table_that_stays_is_seen() {
    let mut server = shard(500);
    let seen = tables(&mut server, |_| ());
    assert_eq!(seen.len(), 500);
    for table in &seen {
        assert_eq!(
            table.entries,
            u32::from(table.key.nat64.octets()[3])
                + 256 * (u32::from(table.key.nat64.octets()[2]) - 2)
        );
        assert_eq!((table.capacity, table.identities().len()), (64_508, 0));
    }
    // Those that go meanwhile leave their places to others, which are seen all the same.
    let mut gone = (0..500).step_by(5);
    let seen = tables(&mut server, |server| {
        for number in gone.by_ref().take(30) {
            server.replay(key(number), &Change::Forgotten);
        }
    });
    for number in (0..500).filter(|number| number % 5 != 0) {
        assert!(seen.iter().any(|table| table.key == key(number)), "{number}");
    }
    assert!(gone.next().is_none(), "not all went meanwhile");
    assert_eq!(tables(&mut shard(0), |_| ()), []);
}

#[test]
fn each_entry_that_stays_is_seen_once() {
    let mut server = shard(2001);
    let table = key(2000);
    let (mut all, mut from) = (Vec::new(), Some(0));
    while let Some(place) = from {
        let mut seen = Vec::new();
        from = server.see_entries(table, place, &mut seen);
        assert!(seen.len() <= SEEN_ENTRIES_MAX);
        all.extend(seen.into_iter().map(|entry| entry.port.0));
        // One of those that were seen, and one of those that were not.
        for entry in [place as u32, 1999 - place as u32] {
            if let Change::Created { port, client } = created(entry) {
                server.replay(table, &Change::Deleted { port, client });
            }
        }
    }
    all.sort_unstable();
    let before = all.len();
    all.dedup();
    assert_eq!(all.len(), before);
    assert!((1990..=2000).contains(&all.len()), "{}", all.len());
    let mut none = Vec::new();
    assert_eq!(server.see_entries(key(7000), 0, &mut none), None);
    assert!(none.is_empty());
}

#[test]
fn section_5_a_table_goes_when_an_operator_wants_it_to() {
    let mut server = shard(1001);
    let (table, other) = (key(1000), key(7000));
    let order = server.drop_table(table).unwrap();
    let gone_already = server.drop_table(other).unwrap();
    assert_eq!(server.dropped_table(order), None);
    assert_eq!(server.tend_due(), Some(Duration::from_millis(2)), "at once");
    let (mut deleted, mut record) = (0, 1);
    while server.dropped_table(gone_already).is_none() {
        let mut outbox = Outbox::default();
        let now = Now {
            wall: crate::handoff::change::Timestamp::default(),
            monotonic: Duration::from_secs(record),
        };
        let frozen = Batch { frozen: Some(DropReason::JournalFull), ..Batch::at(now) };
        server.tend(&frozen, TEND_EVENTS, &mut NoneKnown, &mut outbox);
        assert!(outbox.changes.is_empty(), "nothing that cannot be recorded");
        server.tend(&Batch { record, ..Batch::at(now) }, TEND_EVENTS, &mut NoneKnown, &mut outbox);
        assert!(outbox.changes.iter().all(|(at, _)| *at == table));
        let is_deletion = |change: &Change| matches!(change, Change::Deleted { .. });
        deleted += outbox.changes.iter().filter(|(_, change)| is_deletion(change)).count();
        let ends = outbox.changes.iter().any(|(_, change)| *change == Change::Forgotten);
        let expected = DroppedTable { order, entries: 1000, record };
        assert_eq!(server.dropped_table(order).filter(|_| ends), ends.then_some(expected));
        record += 1;
        assert!(record < 100, "it does not go");
    }
    assert_eq!(deleted, 1000, "a line for each entry");
    assert_eq!(server.dropped_table(gone_already).map(|dropped| dropped.entries), Some(0));
    assert_eq!((server.nat64s(), server.config().budget.nat64s()), (1000, 1000));
    assert_eq!(server.contradiction(), None);
    let stats = server.stats();
    assert_eq!((stats.get(Counter::TablesDropped), stats.get(Counter::Forgotten)), (1, 0));
    // One that was not begun is taken back, once.
    let order = server.drop_table(key(3)).unwrap();
    assert_eq!((server.revoke_drop(order), server.revoke_drop(order)), (true, false));
    // No more wait than may.
    let orders = std::iter::from_fn(|| server.drop_table(key(1))).count();
    assert!((1..100).contains(&orders), "{orders}");
}
