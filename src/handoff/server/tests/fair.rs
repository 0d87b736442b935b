//! PROTOCOL.md section 6. `--max-entries` is shared fairly by NAT64s.

use super::*;

const ENTRIES_MAX: usize = 160;
const COMMON: usize = 150;

fn table(number: u8) -> TableKey {
    TableKey { local: LOCAL, nat64: Ipv4Addr::new(192, 0, 2, number) }
}

struct World {
    shard: Shard,
    budget: Arc<Budget>,
    /// The ports that have a connection, of every NAT64.
    live: Arc<Mutex<Option<PortSet>>>,
}

struct SameForAll(Arc<Mutex<Option<PortSet>>>, PortSet, u64);

impl LiveConnections for SameForAll {
    fn of(&mut self, _: TableKey) -> Option<LivePorts<'_>> {
        if let Some(ports) = self.0.lock().unwrap().take() {
            self.1 = ports;
        }
        self.2 += 1;
        Some(LivePorts { poll: self.2, ports: &self.1 })
    }
}

impl World {
    fn new() -> Self {
        let budget = Arc::new(Budget::new(100, ENTRIES_MAX));
        let live: Arc<Mutex<Option<PortSet>>> = Arc::default();
        let known = SameForAll(Arc::clone(&live), PortSet::new(vec![]), 0);
        let shard = Shard::with_live(Box::new(known), |config| {
            config.budget = Arc::clone(&budget);
            config.limits.client_share = 1.0;
        });
        Self { shard, budget, live }
    }

    /// Entries of this NAT64.
    fn count(&self, number: u8) -> usize {
        self.shard.server.entries().filter(|(of, _)| *of == table(number)).count()
    }

    fn map(&mut self, number: u8, port: u16) {
        let sent =
            self.shard.send_between(table(number), CONTROL, &client_packet(&udp6(CLIENT, port)));
        assert_eq!(sent[0].0, SocketAddrV4::new(table(number).nat64, CONTROL));
        assert!(self.budget.entries() <= ENTRIES_MAX);
    }

    /// Returns whether it is admitted.
    fn tries(&mut self, number: u8) -> bool {
        let mut sent = Vec::new();
        while sent.is_empty() {
            let question = client_packet(&udp6(CLIENT, 1));
            sent = self.shard.send_between(table(number), CONTROL, &question);
        }
        let packet = returned(table(number).nat64, &sent[0].1);
        !self.shard.send_between(table(number), CONTROL, &service_packet(&packet)).is_empty()
    }

    /// Which entries tending deletes.
    fn tend(&mut self) -> Vec<(TableKey, Change)> {
        self.shard.time += Duration::from_millis(20);
        let Shard { server, batch, live, outbox, time } = &mut self.shard;
        outbox.clear();
        batch.now.monotonic = *time;
        server.tend(batch, TEND_EVENTS, &mut **live, outbox);
        assert_eq!(server.contradiction(), None);
        outbox.changes.clone()
    }
}

#[test]
fn section_6_a_small_nat64_gets_its_share() {
    let mut world = World::new();
    assert!(world.tries(1));
    (1..=200).for_each(|port| world.map(1, port));
    assert_eq!((world.count(1), world.tend().len()), (ENTRIES_MAX, 0), "nobody else wants any");
    // A second one wants some: the least recently used go.
    assert!(!world.tries(2));
    assert_eq!(world.shard.server.stats().dropped(DropReason::EntriesLimit), 1);
    world.shard.time += Duration::from_secs(1);
    let oldest: Vec<_> = world.shard.server.entries().take(10).map(|(_, entry)| entry).collect();
    let went = world.tend();
    assert_eq!(
        went,
        oldest.into_iter().map(|entry| (table(1), deleted(entry))).collect::<Vec<_>>()
    );
    assert!(world.tries(2));
    // It grows at once by what is kept for it, and further as the other one gives back.
    for port in 1..=80 {
        world.map(2, port);
        assert_eq!(world.count(2), usize::from(port));
        world.map(1, 1000 + port);
        world.tend();
    }
    assert_eq!((world.count(1), world.count(2)), (80, 80));
    // Now both have their share, and replace their own.
    for port in 2000..2100 {
        world.map(1, port);
        world.map(2, port);
        assert_eq!(world.tend(), []);
    }
    assert_eq!((world.count(1), world.count(2)), (80, 80));
    // A third one, and then many.
    for number in 3..=20 {
        while !world.tries(number) {
            world.tend();
        }
        for port in 1..=200 {
            world.map(number, port);
            world.map(1, 5000 + port);
            world.tend();
        }
        let share = ENTRIES_MAX / usize::from(number);
        let least = (1..=number).map(|number| world.count(number)).min().unwrap();
        assert!(least + 2 >= share, "{least} of {share}");
    }
}

/// Entries that have a connection stay, as long as their table has others.
#[test]
fn section_6_entries_in_use_are_given_back_last() {
    let mut world = World::new();
    assert!(world.tries(1));
    (1..=160).for_each(|port| world.map(1, port));
    let used: Vec<_> = world.shard.server.entries().take(100).map(|(_, entry)| entry).collect();
    *world.live.lock().unwrap() =
        Some(PortSet::new(used.iter().map(|entry| entry.port.0).collect()));
    while !world.tries(2) {
        world.tend();
    }
    for port in 1..=40 {
        world.map(2, port);
        world.tend();
    }
    let is_there = |entry: &&Entry| {
        world.shard.server.entries().any(|(of, held)| of == table(1) && held == **entry)
    };
    assert_eq!(used.iter().filter(is_there).count(), 100);
    assert!(world.budget.entries() <= COMMON + 10);
}

/// What is not known may be known soon: nothing is taken before.
#[test]
fn section_6_connections_are_known_before_entries_are_given_back() {
    let mut world = World::new();
    world.shard.live = Box::new(NoneKnown);
    assert!(world.tries(1));
    (1..=160).for_each(|port| world.map(1, port));
    let mut waited = 0;
    while !world.tries(2) {
        world.tend();
        world.shard.time += Duration::from_millis(500);
        waited += 1;
    }
    assert!((6..=9).contains(&waited), "{waited}");
}

/// A table that nobody asked about yet is waited for as long as the first one was.
#[test]
fn section_6_the_connections_of_each_table_are_waited_for() {
    let mut world = World::new();
    world.shard.live = Box::new(NoneKnown);
    assert!(world.tries(1) && world.tries(2));
    (1..=118).for_each(|port| world.map(1, port));
    (1..=40).for_each(|port| world.map(2, port));
    assert_eq!(world.tend(), [], "the first one has more than its share");
    world.shard.time += Duration::from_secs(2);
    assert!(world.tries(3) && world.tries(4) && !world.tries(5));
    assert_eq!(world.tend(), [], "and now the second one");
    world.shard.time += Duration::from_secs(1);
    let went: Vec<_> = world.tend().into_iter().map(|change| change.0).collect();
    assert_eq!(went, [table(1); 10]);
}

#[test]
fn section_6_one_table_at_a_time_gives_back() {
    let mut world = World::new();
    assert!((1..=4).all(|number| world.tries(number)));
    (1..=4).for_each(|number| (1..=40).for_each(|port| world.map(number, port)));
    assert!(!world.tries(5));
    let [first, second] = [(); 2].map(|()| world.tend());
    assert_eq!((first.len(), second.len()), (8, 2));
    assert!(first.iter().all(|change| change.0 == first[0].0));
    assert_ne!(first[0].0, second[0].0);
}

#[test]
fn section_8_a_report_is_recorded_again_when_its_port_was_given_back() {
    let mut world = World::new();
    assert!(world.tries(1));
    (1..=160).for_each(|port| world.map(1, port));
    let entries: Vec<_> = world.shard.server.entries().map(|(_, entry)| entry).collect();
    let wrong = entry(entries[0].port.0, entries[159].client);
    let reported = |world: &mut World| {
        world.shard.send_between(table(1), CONTROL, &report(b"a1", &[wrong]));
        world.shard.events()
    };
    assert_eq!(reported(&mut world), [conflict(wrong)]);
    assert_eq!(reported(&mut world), []);
    assert!(!world.tries(2));
    assert!(world.tend().contains(&(table(1), deleted(entries[0]))));
    assert_eq!(reported(&mut world), [conflict(wrong)]);
}
