use std::net::Ipv6Addr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use super::*;
use crate::disk::journal::{self, FileId, FileKind, Position, RecordNumber};
use crate::handoff::change::Change;
use crate::handoff::entry::{Client, MappedPort};
use crate::ip::address::Prefix96;

const SHARDS: usize = 2;
const PARTS: usize = 3;
const TABLES: u8 = 30;
const CHANGES: u16 = 20_000;

fn shard_of(nat64: Ipv4Addr) -> usize {
    usize::from(nat64.octets()[3]) % SHARDS
}

/// Changes of all tables through each other, in records of several sizes: more than the batches
/// hold.
fn records(seal: journal::Seal) -> Vec<u8> {
    let changes: Vec<_> = (0..CHANGES)
        .flat_map(|number| {
            // Not each time in the same order, and sometimes several of one table in a row.
            let table = (u32::from(number).wrapping_mul(0x9e37_79b1) >> 16) as u8 % TABLES;
            let nat64 = Ipv4Addr::new(192, 0, 2, table);
            let table = TableKey { local: Ipv4Addr::new(203, 0, 113, 5), nat64 };
            (0..1 + number % 9).map(move |_| (table, Change::Used { port: MappedPort(number) }))
        })
        .collect();
    let mut octets = Vec::new();
    let mut position = Position { record: RecordNumber(1), event: 0 };
    for (index, changes) in changes.chunks(777).enumerate() {
        let time = Timestamp::from_micros(index as u64);
        journal::encode(&mut octets, seal, &mut position, RecordNumber(0), time, changes);
    }
    octets
}

#[test]
fn each_table_is_replayed_in_order_and_in_one_part_of_its_shard() {
    let id = FileId { kind: FileKind::Segment, epoch: 1, shard: 0, number: 1 };
    let seal = id.seal(&[7; 16]);
    let octets = records(seal);
    let mut seen: Vec<Vec<(Timestamp, TableKey, Change)>> = vec![Vec::new(); SHARDS * PARTS];
    let mut expected = Vec::new();
    let all = Dealt::new(2);
    thread::scope(|scope| {
        let mut queues = Vec::new();
        for seen in &mut seen {
            let (sender, queue) = queue();
            queues.push(To::Thread(sender));
            let all = &all;
            scope.spawn(move || {
                let mut see = |time: Timestamp, table: TableKey, change: &Change| {
                    seen.push((time, table, change.clone()));
                };
                all.replay_all(queue, &mut see);
            });
        }
        let mut dealer = Dealer::new(&queues, PARTS, &all, 1, shard_of);
        let mut rest = &octets[..];
        while !rest.is_empty() {
            let record = Record::decode(rest, seal).unwrap();
            let changes = record.changes();
            expected.extend(changes.map(|(table, change)| (record.time, table, change)));
            dealer.deal(&record, false);
            rest = &rest[record.length..];
        }
        dealer.finish();
    });
    assert_eq!(seen.iter().map(Vec::len).sum::<usize>(), expected.len());
    for table in 0..TABLES {
        let nat64 = Ipv4Addr::new(192, 0, 2, table);
        let of = |changes: &[(Timestamp, TableKey, Change)]| -> Vec<_> {
            changes.iter().filter(|(_, key, _)| key.nat64 == nat64).cloned().collect()
        };
        let places: Vec<usize> =
            (0..seen.len()).filter(|&place| !of(&seen[place]).is_empty()).collect();
        assert_eq!(places.len(), 1, "{nat64}");
        assert_eq!(places[0] / PARTS, shard_of(nat64));
        assert_eq!(of(&seen[places[0]]), of(&expected));
    }
    // Every part had something to do.
    assert!(seen.iter().all(|seen| seen.len() > expected.len() / (4 * SHARDS * PARTS)));
}

#[test]
fn a_table_that_several_deal_goes_to_one_part() {
    let seal = FileId { kind: FileKind::Segment, epoch: 1, shard: 0, number: 1 }.seal(&[7; 16]);
    let table = |last| {
        let nat64 = Ipv4Addr::new(192, 0, 2, last);
        TableKey { local: Ipv4Addr::new(203, 0, 113, 5), nat64 }
    };
    let all = Dealt::new(2);
    let deal = |mut dealer: Dealer<'_, '_, '_, fn(Ipv4Addr) -> usize>, tables: &[u8]| {
        let used = |&last: &u8| (table(last), Change::Used { port: MappedPort(1024) });
        let changes: Vec<_> = tables.iter().map(used).collect();
        let mut octets = Vec::new();
        let mut position = Position { record: RecordNumber(1), event: 0 };
        let time = Timestamp::from_micros(0);
        journal::encode(&mut octets, seal, &mut position, RecordNumber(0), time, &changes);
        dealer.deal(&Record::decode(&octets, seal).unwrap(), false);
        dealer.finish();
    };
    let shard_of: fn(Ipv4Addr) -> usize = |_| 0;
    let mut seen: Vec<Vec<TableKey>> = vec![Vec::new(); PARTS];
    thread::scope(|scope| {
        let mut queues = Vec::new();
        for seen in &mut seen {
            let (sender, queue) = queue();
            queues.push(To::Thread(sender));
            let all = &all;
            scope.spawn(move || {
                let mut see = |_: Timestamp, table: TableKey, _: &Change| seen.push(table);
                all.replay_all(queue, &mut see);
            });
        }
        // Each alone would put the first that it meets into the first part.
        deal(Dealer::new(&queues, PARTS, &all, 1, shard_of), &[1, 2, 3]);
        deal(Dealer::new(&queues, PARTS, &all, 1, shard_of), &[3, 1, 2]);
    });
    seen.iter_mut().for_each(|seen| seen.sort());
    assert_eq!(seen, [1, 2, 3].map(|last| vec![table(last); 2]));
}

fn numbered(last: u8) -> TableKey {
    TableKey { local: Ipv4Addr::new(203, 0, 113, 5), nat64: Ipv4Addr::new(192, 0, 2, last) }
}

/// What a dealer gives to one [`Replay`]: calls of `expect`, and runs of changes of a table.
#[derive(Default)]
struct Seen {
    expected: Vec<(TableKey, usize)>,
    runs: Vec<(TableKey, usize)>,
}

impl Replay for Seen {
    fn replay(&mut self, _: Timestamp, table: TableKey, _: &Change) {
        match self.runs.last_mut() {
            Some((last, count)) if *last == table => *count += 1,
            _ => self.runs.push((table, 1)),
        }
    }

    fn expect(&mut self, table: TableKey, entries: usize, _: usize) {
        self.expected.push((table, entries));
    }
}

/// Deals a record of each of these tables in turn, so many times, and looks at the dealer after
/// each.
fn deal_in_turn(
    times: u16,
    tables: &[u8],
    is_snapshot: bool,
    mut look: impl FnMut(&mut Dealer<'_, '_, '_, fn(Ipv4Addr) -> usize>),
) -> Seen {
    let seal = FileId { kind: FileKind::Segment, epoch: 1, shard: 0, number: 1 }.seal(&[7; 16]);
    let (all, mut seen) = (Dealt::new(1), Seen::default());
    let itself = [To::Itself(Mutex::new(&mut seen))];
    let mut dealer = Dealer::new(&itself, 1, &all, 1, (|_| 0) as fn(Ipv4Addr) -> usize);
    let mut position = Position { record: RecordNumber(1), event: 0 };
    for time in 0..times {
        for &last in tables {
            let client = Client {
                prefix: Prefix96([1; 12]),
                address: Ipv6Addr::from_bits(time.into()),
                port: 1,
            };
            let change = Change::Created { port: MappedPort(1024 + time), client };
            let mut octets = Vec::new();
            let at = Timestamp::from_micros(time.into());
            let none = RecordNumber(0);
            let changes = [(numbered(last), change)];
            journal::encode(&mut octets, seal, &mut position, none, at, &changes);
            dealer.deal(&Record::decode(&octets, seal).unwrap(), is_snapshot);
            look(&mut dealer);
        }
    }
    dealer.finish();
    assert_eq!(all.work().sent, 0);
    drop(itself);
    seen
}

#[test]
fn tables_that_come_in_turn_are_filled_one_after_another() {
    let seen = deal_in_turn(1000, &[3, 1, 2], false, |_| ());
    let all = [1, 2, 3].map(|last| (numbered(last), 1000));
    assert_eq!((&seen.expected[..], &seen.runs[..]), (&all[..], &all[..]));
}

#[test]
fn what_is_collected_is_bounded() {
    const MAX: usize = 20_000;
    let mut most = 0;
    let seen = deal_in_turn(1000, &[3, 1, 2], false, |dealer| {
        dealer.collected_max = MAX;
        let size: usize = dealer.tables.values().map(TableChanges::size).sum();
        assert_eq!(dealer.collected, size);
        most = most.max(size);
    });
    assert!((MAX / 2..=MAX).contains(&most), "{most}");
    let of = |last| {
        let own = seen.runs.iter().filter(move |run| run.0 == numbered(last));
        own.map(|run| run.1)
    };
    for last in 1..=3 {
        assert_eq!(of(last).sum::<usize>(), 1000);
        assert!((2..100).contains(&of(last).count()));
    }
}

#[test]
fn a_table_of_a_snapshot_ends_where_the_next_one_begins() {
    let seen = deal_in_turn(2, &[1, 2], true, |dealer| {
        assert_eq!(dealer.tables.len(), 1);
    });
    assert_eq!(seen.runs, [1, 2, 1, 2].map(|last| (numbered(last), 1)));
}

/// Takes the changes of all tables but one, for later.
#[derive(Default)]
struct Waiting {
    waits: Vec<(TableKey, TableChanges)>,
    now: Vec<TableKey>,
}

impl Replay for Waiting {
    fn replay(&mut self, _: Timestamp, table: TableKey, _: &Change) {
        self.now.push(table);
    }

    fn later(&mut self, table: TableKey, changes: TableChanges) -> Option<TableChanges> {
        if table == numbered(1) {
            return Some(changes);
        }
        self.waits.push((table, changes));
        None
    }
}

#[test]
fn changes_wait_where_they_may() {
    let (octets, table) = (vec![0; 3 * WAITING_OCTETS / 8], numbered(2));
    let big = || TableChanges { runs: Vec::new(), octets: octets.clone() };
    let all = Dealt::new(1);
    let sent = |tables: Vec<(TableKey, TableChanges)>| SentTables {
        all: &all,
        sent: DealtTables { tables, size: 0 },
    };
    let mut to = Waiting::default();
    // Those that are not taken leave the room to others.
    for _ in 0..9 {
        sent(vec![(numbered(1), big())]).replay(&mut to);
    }
    sent(vec![(table, big()), (table, big())]).replay(&mut to);
    assert_eq!(to.waits.len(), 2);
    // There is no room for a third one.
    sent(vec![(table, big())]).replay(&mut to);
    assert_eq!(to.waits.len(), 2);
    // What waits is whole: the first was given away, and is not filled again.
    assert!(to.waits.iter().all(|(_, changes)| changes.octets == octets));
}

#[test]
fn a_replay_that_panics_keeps_nobody_waiting() {
    let seal = FileId { kind: FileKind::Segment, epoch: 1, shard: 0, number: 1 }.seal(&[7; 16]);
    let (octets, all) = (records(seal), Dealt::new(1));
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        thread::scope(|scope| {
            let mut queues = Vec::new();
            for part in 0..2 {
                let (sender, queue) = queue();
                queues.push(To::Thread(sender));
                let all = &all;
                scope.spawn(move || {
                    let mut to = |_: Timestamp, _: TableKey, _: &Change| assert_eq!(part, 0);
                    all.replay_all(queue, &mut to);
                });
            }
            let mut dealer = Dealer::new(&queues, 2, &all, 1, |_| 0);
            dealer.collected_max = 0;
            let mut rest = &octets[..];
            while !rest.is_empty() {
                let record = Record::decode(rest, seal).unwrap();
                dealer.deal(&record, false);
                rest = &rest[record.length..];
            }
            dealer.finish();
        });
    }));
    assert!(panicked.is_err());
    let work = all.work();
    assert_eq!((work.free, work.sent), (1, 0));
}
