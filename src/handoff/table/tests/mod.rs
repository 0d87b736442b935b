mod avoided;

use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;

use super::*;

const HANDOFF: u16 = 64064;

fn client(subnet: u8, host: u8, prefix: u8, port: u16) -> Client {
    let mut address = [0; 16];
    address[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
    (address[7], address[15]) = (subnet, host);
    Client { prefix: Prefix96([prefix; 12]), address: Ipv6Addr::from(address), port }
}

fn table(entries_max: usize, client_share: f64) -> Table {
    Table::new(TableLimits { entries_max, client_share }, HANDOFF, SecretHash::new([1; 16]))
}

fn create(
    table: &mut Table,
    client: Client,
    wanted: Option<u16>,
    random: &mut Random,
) -> Vec<Change> {
    let mut changes = Vec::new();
    let slot = table
        .create(table.hashed(client), wanted.map(MappedPort), false, None, random, |change| {
            changes.push(change)
        })
        .unwrap();
    assert_eq!(table.entry(slot).client, client);
    changes
}

fn ports_by_use(table: &Table) -> Vec<u16> {
    table.by_use().map(|entry| entry.port.0).collect()
}

#[test]
fn room_for_entries_changes_none_of_them() {
    let (mut plain, mut roomy) = (table(1000, 1.0), table(1000, 1.0));
    for number in 0..200 {
        if number % 50 == 0 {
            // More than a table can have, too.
            roomy.reserve([0, 7, 300, usize::MAX][usize::from(number / 50)], usize::from(number));
        }
        let change = Change::Created {
            port: MappedPort(2000 + u16::from(number)),
            client: client(number % 9, number % 17, number % 2, u16::from(number)),
        };
        plain.apply(&change);
        roomy.apply(&change);
    }
    assert_eq!(roomy.len(), 200);
    assert!(roomy.by_use().eq(plain.by_use()));
    assert!(roomy.by_use().all(|entry| roomy.find(&entry.client) == roomy.find_port(entry.port)));
    assert_eq!(roomy.contradiction(), None);
}

#[test]
fn section_6_hint_or_draw() {
    let mut random = Random::new([2; 32]);
    let mut table = table(TABLE_CAPACITY, 0.125);
    create(&mut table, client(1, 1, 1, 1), Some(5000), &mut random);
    assert_eq!(ports_by_use(&table), [5000]);
    for taken_or_not_eligible in [5000, 3544, 6081, HANDOFF, 80, 0] {
        let other = client(1, 1, 1, taken_or_not_eligible.max(2));
        create(&mut table, other, Some(taken_or_not_eligible), &mut random);
        let entry = table.entry(table.find(&other).unwrap());
        assert_ne!(entry.port.0, taken_or_not_eligible);
    }
    assert_eq!(table.contradiction(), None);
}

#[test]
fn section_6_a_full_table_replaces_its_least_recently_used() {
    let mut random = Random::new([2; 32]);
    let mut table = table(3, 1.0);
    for (i, port) in [5001, 5002, 5003].into_iter().enumerate() {
        create(&mut table, client(1, i as u8, 1, 1), Some(port), &mut random);
    }
    table.touch(table.find(&client(1, 0, 1, 1)).unwrap(), true);
    assert_eq!(ports_by_use(&table), [5002, 5003, 5001]);
    let changes = create(&mut table, client(1, 9, 1, 1), None, &mut random);
    assert_eq!(
        changes,
        [
            Change::Deleted { port: MappedPort(5002), client: client(1, 1, 1, 1) },
            Change::Created { port: MappedPort(5002), client: client(1, 9, 1, 1) },
        ]
    );
    // A hint that is free is taken all the same, and one that is not is no hint.
    create(&mut table, client(1, 10, 1, 1), Some(6000), &mut random);
    assert_eq!(ports_by_use(&table), [5001, 5002, 6000]);
    create(&mut table, client(1, 11, 1, 1), Some(5002), &mut random);
    assert_eq!(ports_by_use(&table), [5002, 6000, 5001]);
    assert_eq!(table.contradiction(), None);
}

/// Who had to go for a new client: the port, if any did.
fn replaced(table: &mut Table, client: Client, live: Option<LivePorts<'_>>) -> Option<u16> {
    let mut gone = None;
    let changed = |change| {
        if let Change::Deleted { port, .. } = change {
            gone = Some(port.0);
        }
    };
    let sought = table.hashed(client);
    table.create(sought, None, false, live, &mut Random::new([3; 32]), changed).unwrap();
    gone
}

/// With `clients` on ports from 2000 on, in the order of their use.
fn filled(client_share: f64, clients: impl ExactSizeIterator<Item = Client>) -> Table {
    let mut random = Random::new([2; 32]);
    let mut table = table(clients.len(), client_share);
    for (client, port) in clients.zip((2000..).filter(|port| ![3544, 6081].contains(port))) {
        create(&mut table, client, Some(port), &mut random);
    }
    table
}

/// A client in a /64 of its own, or nearly.
fn nth(i: usize) -> Client {
    client((i >> 8) as u8, i as u8, 1, 1)
}

#[test]
fn section_6_live_entries_are_passed_over() {
    let mut table = filled(1.0, (0..3).map(nth));
    let mut next = 10;
    let mut replaced = |look, live: &[u16]| {
        next += 1;
        let ports = PortSet::new(live.to_vec());
        replaced(&mut table, nth(next), Some(LivePorts { poll: look, ports: &ports }))
    };
    assert_eq!(replaced(1, &[2000]), Some(2001));
    // That is no use of it: it is the first to go when its connection is over.
    assert_eq!(replaced(2, &[]), Some(2000));
    assert_eq!(replaced(3, &[2000, 2001]), Some(2002));
    assert_eq!(replaced(4, &[]), Some(2001));
}

#[test]
fn section_6_more_live_entries_than_are_looked_at_at_once() {
    const LIVE: u16 = 3 * 4096;
    let mut table = filled(1.0, (0..20_000).map(nth));
    let ports = PortSet::new((2000..2000 + LIVE).collect());
    let live = Some(LivePorts { poll: 1, ports: &ports });
    // No live one is evicted, however many are the oldest, but the least recently used of the
    // others.
    let gone: Vec<_> =
        (0..100).map(|i| replaced(&mut table, nth(30_000 + i), live).unwrap()).collect();
    assert!(gone.iter().all(|&port| port >= 2000 + LIVE), "{gone:?}");
    let in_order = gone.iter().zip(gone.iter().skip(1)).all(|(one, next)| one < next);
    assert!(in_order, "{gone:?}");
    assert_eq!(table.contradiction(), None);
}

#[test]
fn section_6_the_only_one_that_can_go_is_found_each_time() {
    let mut table = filled(1.0, (0..20_000).map(nth));
    let all = 2000..2000 + 20_100;
    let ports = PortSet::new(all.filter(|&port| port != 15_000).collect());
    for i in 0..100 {
        let live = Some(LivePorts { poll: 1, ports: &ports });
        assert_eq!(replaced(&mut table, nth(30_000 + i), live), Some(15_000), "{i}");
    }
    assert_eq!(table.contradiction(), None);
}

/// A full table in which all but a few are live, and a flood of new clients: entries are searched
/// once for each poll, not for each client.
#[test]
fn section_6_one_search_for_each_poll_where_all_but_a_few_are_live() {
    for can_go in [1, 10, 1000] {
        let mut table = filled(1.0, (0..60_000).map(nth));
        let ports = PortSet::new((2000 + can_go..=u16::MAX).collect());
        for poll in 1..=3 {
            let live = Some(LivePorts { poll, ports: &ports });
            for i in 0..5000 {
                let client = nth(60_000 + (poll as usize * 5000 + i) % 5536);
                if table.find(&client).is_none() {
                    let gone = replaced(&mut table, client, live);
                    assert!(gone.is_some_and(|port| port < 2000 + can_go), "{gone:?}");
                }
            }
            let searches = table.lru.not_live.searches + table.lru.all.searches;
            assert!(u64::from(searches) <= poll, "{searches}");
        }
        assert_eq!(table.contradiction(), None);
    }
}

/// More than one search queues, used again while they are queued.
#[test]
fn section_6_the_least_recently_used_of_many() {
    const ENTRIES: u32 = 20_000;
    // A /64 for each; and one that is heavy.
    let apart = |n: u32| client((n % 251) as u8, (n / 251 % 256) as u8, 1, (n / 64_256) as u16 + 1);
    let together = |n: u32| client(1, (n % 256) as u8, 1, (n / 256) as u16 + 1);
    for (clients, share) in [(&apart as &dyn Fn(u32) -> Client, 1.0), (&together, 0.125)] {
        let mut table = filled(share, (0..ENTRIES).map(clients));
        let mut order: BTreeMap<u32, Client> = (0..ENTRIES).map(|n| (n, clients(n))).collect();
        let mut random = Random::new([5; 32]);
        for now in ENTRIES..3 * ENTRIES {
            // One that would go soon, or any one.
            let soon = if now % 2 == 0 { 6000 } else { ENTRIES };
            let from = order.first_key_value().unwrap().0 + random.below(soon);
            let (&at, &used) =
                order.range(from..).next().unwrap_or(order.last_key_value().unwrap());
            table.touch(table.find(&used).unwrap(), false);
            order.remove(&at);
            order.insert(2 * now, used);
            let (_, oldest) = order.pop_first().unwrap();
            let mut gone = None;
            let sought = table.hashed(clients(now));
            let note = |change| {
                if let Change::Deleted { client, .. } = change {
                    gone = Some(client);
                }
            };
            table.create(sought, None, false, None, &mut random, note).unwrap();
            assert_eq!(gone, Some(oldest), "{now}");
            order.insert(2 * now + 1, clients(now));
        }
        assert_eq!(table.contradiction(), None);
    }
}

#[test]
fn section_6_where_all_are_live_the_least_recently_used_goes() {
    for entries in [3, 20_000] {
        let mut table = filled(1.0, (0..entries).map(nth));
        let ports = PortSet::new((0..=u16::MAX).collect());
        let live = Some(LivePorts { poll: 1, ports: &ports });
        let mut order = ports_by_use(&table);
        for i in 0..5 {
            assert_eq!(replaced(&mut table, nth(30_000 + i), live), Some(order[0]));
            order.rotate_left(1);
            assert_eq!(ports_by_use(&table), order, "nothing is passed over");
        }
        // A free port that has no connection yet is one that can go.
        let free = PortSet::new((0..=u16::MAX).filter(|&port| port != 65_000).collect());
        let live = Some(LivePorts { poll: 2, ports: &free });
        replaced(&mut table, nth(40_000), live);
        let (sought, mut random) = (table.hashed(nth(40_001)), Random::new([3; 32]));
        table.create(sought, Some(MappedPort(65_000)), false, live, &mut random, drop).unwrap();
        assert_eq!(replaced(&mut table, nth(40_002), live), Some(65_000));
        assert_eq!(table.contradiction(), None);
    }
}

#[test]
fn section_6_live_entries_of_a_heavy_64() {
    // Three of a /64 that is heavy, between others.
    let of = |subnet, host| client(subnet, host, 1, 1);
    let clients = [of(1, 1), of(2, 1), of(2, 2), of(3, 1), of(2, 3), of(4, 1)];
    let heavy = [2001, 2002, 2004];
    let replaced_by = |client, live: &[u16]| {
        let mut table = filled(0.4, clients.into_iter());
        let ports = PortSet::new(live.to_vec());
        let gone =
            replaced(&mut table, client, Some(LivePorts { poll: 1, ports: &ports })).unwrap();
        assert_eq!(table.contradiction(), None);
        gone
    };
    for newcomer in [of(2, 9), of(9, 9)] {
        assert_eq!(replaced_by(newcomer, &[]), 2001);
        assert_eq!(replaced_by(newcomer, &[2000, 2001]), 2002);
        // All that it has are live: it pays all the same. No other /64 pays for what is above its
        // share, whether that one's own entries are live or not.
        assert_eq!(replaced_by(newcomer, &heavy), 2001);
        assert_eq!(replaced_by(newcomer, &[&heavy[..], &[2000]].concat()), 2001);
        assert_eq!(replaced_by(newcomer, &[2000, 2001, 2002, 2003, 2004, 2005]), 2001);
        // Up to its share its connections protect it.
        let mut table = filled(0.5, clients.into_iter());
        let ports = PortSet::new(heavy.to_vec());
        let live = Some(LivePorts { poll: 1, ports: &ports });
        assert_eq!(replaced(&mut table, newcomer, live), Some(2000));
        assert_eq!(table.contradiction(), None);
    }
}

/// A /64 holds half of a full table, all by live connections. Newcomers, its own and others, are at
/// its cost, and it is searched a few times for each poll, not for each newcomer.
#[test]
fn section_6_few_searches_of_a_heavy_64_whose_entries_are_live() {
    const HALF: u16 = 20_000;
    let of = |i: u16| client(1, i as u8, 1, 1 + (i >> 8));
    let others = (0..HALF).map(|i| client(2 + (i % 200) as u8, (i / 200) as u8, 1, 1));
    let all: Vec<_> = (0..HALF).map(of).chain(others).collect();
    let mut table = filled(0.125, all.into_iter());
    let last = table.port(table.find(&of(HALF - 1)).unwrap()).0;
    let ports = PortSet::new((2000..=last).collect());
    for poll in 1..=3 {
        let live = Some(LivePorts { poll: u64::from(poll), ports: &ports });
        for i in 0..2000 {
            let number = HALF + poll * 2000 + i;
            let newcomer = if i % 2 == 0 { of(number) } else { client(0, i as u8, 1, number) };
            let gone = replaced(&mut table, newcomer, live).unwrap();
            assert!(gone <= last, "{gone}");
        }
        let queues = &table.lru_of[0].1;
        let searches = (queues.not_live.searches, queues.all.searches);
        assert!(searches.0 <= poll.into() && searches.1 <= 3, "{searches:?}");
    }
    assert_eq!((table.lru_of.len(), table.lru.not_live.searches), (1, 0));
    assert_eq!(table.contradiction(), None);
}

#[test]
fn section_6_a_new_look_is_heeded() {
    let mut table = filled(1.0, (0..20_000).map(nth));
    let all_but =
        |ports: &[u16]| PortSet::new((0..=u16::MAX).filter(|p| !ports.contains(p)).collect());
    let (none, one) = (all_but(&[]), all_but(&[15_000]));
    // All are live: the search is over for this poll, whatever `ports` are.
    assert_ne!(
        replaced(&mut table, nth(30_000), Some(LivePorts { poll: 1, ports: &none })),
        Some(15_000)
    );
    assert_ne!(
        replaced(&mut table, nth(30_001), Some(LivePorts { poll: 1, ports: &one })),
        Some(15_000)
    );
    // By the next poll one can go.
    for i in 0..100 {
        let live = Some(LivePorts { poll: 2, ports: &one });
        assert_eq!(replaced(&mut table, nth(40_000 + i), live), Some(15_000));
    }
}

#[test]
fn section_6_passing_over_is_no_change_and_keeps_the_recorded_use() {
    let mut table = filled(1.0, (0..3).map(nth));
    table.set_time(0, 7);
    let ports = PortSet::new(vec![2000]);
    assert_eq!(
        replaced(&mut table, nth(10), Some(LivePorts { poll: 1, ports: &ports })),
        Some(2001)
    );
    // Its use is still to be recorded in this tick.
    assert!(table.touch(table.find(&nth(0)).unwrap(), true));
}

#[test]
fn section_6_fair_share() {
    let mut random = Random::new([2; 32]);
    let mut table = table(8, 0.25);
    let mut next_port = 5000;
    let mut add = |table: &mut Table, subnet, host| {
        next_port += 1;
        create(table, client(subnet, host, 1, 1), Some(next_port), &mut random)
    };
    let gone = |changes: &[Change]| match changes[0] {
        Change::Deleted { client, .. } => {
            (client.address.segments()[3], client.address.segments()[7])
        }
        ref other => panic!("{other:?}"),
    };
    for (subnet, host) in [(1, 1), (2, 1), (2, 2), (2, 3), (3, 1), (3, 2), (4, 1), (5, 1)] {
        add(&mut table, subnet, host);
    }
    // Only 2 is heavy (3 > 0.25 * 8): it pays for the newcomer though 1 is older.
    assert_eq!(gone(&add(&mut table, 6, 1)), (2, 1));
    // None is heavy any more: the least recently used of all goes.
    assert_eq!(gone(&add(&mut table, 3, 3)), (1, 1));
    // Now 3 is, and a client of its own pushes out its own.
    assert_eq!(gone(&add(&mut table, 3, 4)), (3, 1));
    assert_eq!(gone(&add(&mut table, 7, 1)), (3, 2));
    assert_eq!(table.contradiction(), None);
}

#[test]
fn section_6_authenticator_belongs_to_the_address() {
    let mut random = Random::new([2; 32]);
    let mut table = table(8, 1.0);
    let address = client(1, 1, 1, 1).address;
    table.learn(address, &[1, 2], true, |change| panic!("{change:?}"));
    create(&mut table, client(1, 1, 1, 1), None, &mut random);
    create(&mut table, client(1, 1, 2, 2), None, &mut random);
    let mut changes = Vec::new();
    table.learn(address, &[1, 2], true, |change| changes.push(change));
    table.learn(address, &[1, 2], true, |change| changes.push(change));
    assert_eq!(changes.len(), 1);
    for entry in [client(1, 1, 1, 1), client(1, 1, 2, 2)] {
        assert_eq!(table.authenticator(table.find(&entry).unwrap()).octets(), [1, 2]);
    }
}

#[test]
fn section_6_a_control_port_is_not_mapped() {
    let mut random = Random::new([2; 32]);
    let mut table = table(TABLE_CAPACITY, 1.0);
    create(&mut table, client(1, 1, 1, 1), Some(5000), &mut random);
    let mut gone = None;
    table.bar(ControlPort(5001), |change| panic!("{change:?}"));
    table.bar(ControlPort(5000), |change| gone = Some(change));
    table.set_control_ports([ControlPort(5000)].into_iter());
    assert_eq!(gone, Some(Change::Deleted { port: MappedPort(5000), client: client(1, 1, 1, 1) }));
    assert!(table.is_empty() && !table.is_eligible(MappedPort(5000)));
    create(&mut table, client(1, 1, 1, 1), Some(5000), &mut random);
    assert_ne!(ports_by_use(&table), [5000]);
}

#[test]
fn section_6_capacity_is_64508() {
    let mut random = Random::new([2; 32]);
    let mut table = table(TABLE_CAPACITY, 1.0);
    table.set_control_ports([ControlPort(40000)].into_iter());
    assert_eq!(table.capacity(), 64508);
    let nth = |i: u32| client((i >> 24) as u8, (i >> 16) as u8, 1, i as u16);
    for i in 0..64508 {
        assert_eq!(create(&mut table, nth(i), None, &mut random).len(), 1, "{i}");
    }
    assert_eq!(create(&mut table, nth(64508), None, &mut random).len(), 2);
    assert_eq!((table.len(), table.find(&nth(0)), table.contradiction()), (64508, None, None));
    // Ports are only lost to control ports, and the entry on one with it.
    table.bar(ControlPort(40001), drop);
    table.set_control_ports([40000, 40001].map(ControlPort).into_iter());
    assert_eq!((table.len(), table.capacity(), table.contradiction()), (64507, 64507, None));
}

/// What a table must do, without any index: entries in the order of their use.
struct Model {
    entries: Vec<(Client, u16)>,
    control: Vec<u16>,
    capacity: usize,
    share: f64,
}

impl Model {
    fn free(&self, port: u16) -> bool {
        let barred = [3544, 6081, HANDOFF].contains(&port) || self.control.contains(&port);
        port >= 1024 && !barred && self.entries.iter().all(|entry| entry.1 != port)
    }

    fn victim(&self, client: Client, stays: &HashSet<u16>) -> (Client, u16) {
        let count = |subnet| self.entries.iter().filter(|entry| entry.0.subnet() == subnet).count();
        let heavy = |subnet| count(subnet) as f64 > self.share * self.capacity as f64;
        let subnets: HashSet<_> = self.entries.iter().map(|entry| entry.0.subnet()).collect();
        let heaviest = subnets
            .into_iter()
            .filter(|&subnet| heavy(subnet))
            .max_by_key(|&subnet| (count(subnet), std::cmp::Reverse(subnet)));
        let of = if heavy(client.subnet()) { Some(client.subnet()) } else { heaviest };
        let members = |entries: &[(Client, u16)], of: Option<[u8; 8]>| -> Vec<(Client, u16)> {
            let is_member = |entry: &&(Client, u16)| of.is_none_or(|of| of == entry.0.subnet());
            entries.iter().filter(is_member).copied().collect()
        };
        let members = members(&self.entries, of);
        *members.iter().find(|entry| !stays.contains(&entry.1)).unwrap_or(&members[0])
    }
}

#[derive(Debug, Clone)]
enum Step {
    Want(Client, Option<u16>),
    Touch(Client),
    Bar(u16),
    Learn(Client, Vec<u8>),
}

fn any_client() -> impl Strategy<Value = Client> {
    (0..4_u8, 0..3_u8, 0..2_u8, 0..4_u16).prop_map(|(a, b, c, d)| client(a, b, c, d))
}

fn any_step() -> impl Strategy<Value = Step> {
    let port = prop_oneof![5000..5012_u16, Just(3544), Just(80), Just(HANDOFF)];
    prop_oneof![
        6 => (any_client(), prop::option::of(port)).prop_map(|(client, port)| Step::Want(client, port)),
        3 => any_client().prop_map(Step::Touch),
        1 => (5000..5012_u16).prop_map(Step::Bar),
        1 => (any_client(), prop::collection::vec(any::<u8>(), 2)).prop_map(|(client, a)| Step::Learn(client, a)),
    ]
}

proptest! {
    #![proptest_config(crate::cases::config())]

    /// The table does what the naive model does, step by step, and its changes replayed give it
    /// again.
    #[test]
    fn section_6_as_the_naive_model(
        steps in prop::collection::vec(any_step(), 1..80),
        stays in prop::collection::hash_set(5000..5012_u16, 0..6),
        capacity in 1..12_usize,
        share in prop::sample::select(vec![0.125, 0.3, 0.5, 1.0]),
        // Their numbers may end on the way.
        uses in prop_oneof![Just(0), UseNumber::MAX - 100..UseNumber::MAX],
    ) {
        let mut random = Random::new([4; 32]);
        let mut table = table(capacity, share);
        table.uses.set(uses);
        let mut replayed = self::table(capacity, share);
        let mut model = Model { entries: Vec::new(), control: Vec::new(), capacity, share };
        let mut changes = Vec::new();
        let (mut second, mut late) = (1, Vec::new());
        table.set_time(second, 0);
        let ports = PortSet::new(stays.iter().copied().collect());
        for (step, number) in steps.into_iter().zip(0..) {
            changes.clear();
            // Now and then there is a new poll, which sees the same.
            let live = Some(LivePorts { poll: 1 + number / 5, ports: &ports });
            match step {
                Step::Want(client, wanted) => {
                    if let Some(slot) = table.find(&client) {
                        table.touch(slot, true);
                        let at = model.entries.iter().position(|entry| entry.0 == client).unwrap();
                        let entry = model.entries.remove(at);
                        model.entries.push(entry);
                        prop_assert_eq!(table.entry(slot).port.0, entry.1);
                        continue;
                    }
                    let free = wanted.filter(|&port| model.free(port));
                    let full = model.entries.len() >= capacity;
                    let victim = full.then(|| model.victim(client, &stays));
                    let slot = table
                        .create(
                            table.hashed(client), wanted.map(MappedPort), false, live,
                            &mut random, |change| changes.push(change),
                        )
                        .unwrap();
                    let port = table.entry(slot).port;
                    if let Some(victim) = victim {
                        prop_assert_eq!(
                            &changes[0],
                            &Change::Deleted { client: victim.0, port: MappedPort(victim.1) }
                        );
                        prop_assert_eq!(port.0, free.unwrap_or(victim.1));
                        model.entries.retain(|entry| *entry != victim);
                    } else if let Some(free) = free {
                        prop_assert_eq!(port.0, free);
                    }
                    prop_assert!(model.free(port.0));
                    prop_assert_eq!(changes.last(), Some(&Change::Created { client, port }));
                    prop_assert_eq!(changes.len(), 1 + usize::from(full));
                    model.entries.push((client, port.0));
                }
                Step::Touch(client) => {
                    let slot = table.find(&client);
                    let at = model.entries.iter().position(|entry| entry.0 == client);
                    prop_assert_eq!(slot.is_some(), at.is_some());
                    if let (Some(slot), Some(at)) = (slot, at) {
                        table.touch(slot, true);
                        let entry = model.entries.remove(at);
                        model.entries.push(entry);
                    }
                }
                Step::Bar(port) => {
                    table.bar(ControlPort(port), |change| changes.push(change));
                    model.entries.retain(|entry| entry.1 != port);
                    model.control.push(port);
                    if model.control.len() > 4 {
                        model.control.remove(0);
                    }
                    table.set_control_ports(model.control.iter().map(|&port| ControlPort(port)));
                    replayed.set_control_ports(std::iter::empty());
                }
                Step::Learn(client, authenticator) => {
                    if authenticator[1] % 4 == 0 {
                        second += 1;
                        table.set_time(second, 0);
                    }
                    if table.learn(client.address, &authenticator, true, |change| changes.push(change)) {
                        late.push(client.address);
                    }
                    if let Some(slot) = table.find(&client) {
                        prop_assert_eq!(table.authenticator(slot).octets(), &authenticator[..]);
                    }
                }
            }
            changes.iter().for_each(|change| replayed.apply(change));
            replayed.set_control_ports(model.control.iter().map(|&port| ControlPort(port)));
            let by_use: Vec<_> = table.by_use().map(|entry| (entry.client, entry.port.0)).collect();
            prop_assert_eq!(&by_use, &model.entries);
            prop_assert_eq!(table.contradiction(), None);
        }
        for address in late {
            table.record_late(address, |change| replayed.apply(&change));
        }
        prop_assert_eq!(replayed.len(), table.len());
        for entry in table.by_use() {
            let (here, there) = (table.find(&entry.client).unwrap(), replayed.find(&entry.client));
            prop_assert!(there.is_some_and(|slot| replayed.entry(slot) == entry));
            prop_assert_eq!(table.authenticator(here), replayed.authenticator(there.unwrap()));
        }
    }
}
