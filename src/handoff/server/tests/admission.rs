//! PROTOCOL.md section 5. Who is admitted at `--max-nat64s`, and who goes for that.

use super::*;
use std::collections::BTreeSet;

/// With which NAT64s this host has a live connection: as a test says.
#[derive(Clone, Default)]
pub(super) struct Connected(pub(super) Arc<Mutex<BTreeSet<TableKey>>>);

impl LiveConnections for Connected {
    fn of(&mut self, _: TableKey) -> Option<LivePorts<'_>> {
        None
    }

    fn any(&mut self, table: TableKey) -> Option<bool> {
        Some(self.0.lock().unwrap().contains(&table))
    }
}

fn nat64(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, number)
}

fn table(number: u8) -> TableKey {
    TableKey { local: LOCAL, nat64: nat64(number) }
}

/// A shard that may know this number of NAT64s, and who is connected.
fn limited(nat64s: usize) -> (Shard, Connected) {
    let connected = Connected::default();
    let shard = Shard::with_live(Box::new(connected.clone()), |config| {
        config.budget = Arc::new(Budget::new(nat64s, 100_000));
        config.limits.client_share = 1.0;
    });
    (shard, connected)
}

impl Shard {
    /// Proves an address; returns whether it was admitted.
    fn tries(&mut self, nat64: Ipv4Addr) -> bool {
        let table = TableKey { local: LOCAL, nat64 };
        let question = client_packet(&udp6(CLIENT, 1));
        let mut sent = self.send_between(table, CONTROL, &question);
        if sent.is_empty() {
            sent = self.send_between(table, CONTROL, &question);
        }
        assert_eq!(sent[0].0, SocketAddrV4::new(nat64, VALIDATION_PORT), "also at the limit");
        let proof = service_packet(&returned(nat64, &sent[0].1));
        let sent = self.send_between(table, CONTROL, &proof);
        assert!(!sent.is_empty() || self.outbox.changes.is_empty());
        sent.iter().any(|(to, _)| *to == SocketAddrV4::new(nat64, CONTROL))
    }

    /// What tending changed.
    fn tend(&mut self) -> Vec<(TableKey, Change)> {
        self.outbox.clear();
        self.batch.now.monotonic = self.time;
        self.server.tend(&self.batch, TEND_EVENTS, &mut *self.live, &mut self.outbox);
        assert_eq!(self.server.contradiction(), None);
        let events = self.outbox.changes.iter().filter(|(_, change)| change.is_event());
        assert!(events.count() <= TEND_EVENTS);
        self.outbox.changes.clone()
    }

    /// An entry of this NAT64 for this client port.
    fn map(&mut self, table: TableKey, port: u16) {
        let sent = self.send_between(table, CONTROL, &client_packet(&udp6(CLIENT, port)));
        assert_eq!(sent[0].0, SocketAddrV4::new(table.nat64, CONTROL));
    }
}

/// What forgets the one identity of a NAT64.
fn identity_forgotten() -> Change {
    let (port, token) = (ControlPort(CONTROL), crate::handoff::opaque::Token::new(TOKEN).unwrap());
    Change::IdentityForgotten { port, token }
}

#[test]
fn section_5_no_more_tables_than_entries() {
    let (mut shard, _) = limited(4);
    shard.server = Shard::new(|config| config.budget = Arc::new(Budget::new(10, 3))).server;
    for number in 1..=3 {
        assert!(shard.tries(nat64(number)));
    }
    shard.time += MINUTE;
    assert!(!shard.tries(nat64(4)));
    assert_eq!(shard.server.stats().dropped(DropReason::Nat64sLimit), 1);
    assert!(shard.tend().contains(&(table(1), Change::Forgotten)));
    shard.tend();
    assert!(shard.tries(nat64(4)));
}

/// Who is connected is known from the fourth question on.
struct KnownLater(Connected, usize);

impl LiveConnections for KnownLater {
    fn of(&mut self, _: TableKey) -> Option<LivePorts<'_>> {
        None
    }

    fn any(&mut self, table: TableKey) -> Option<bool> {
        self.1 += 1;
        self.0.any(table).filter(|_| self.1 > 3)
    }
}

#[test]
fn section_5_a_silent_table_stays_until_its_connections_are_known() {
    let (mut shard, connected) = limited(1);
    assert!(shard.tries(nat64(1)));
    connected.0.lock().unwrap().insert(table(1));
    for _ in 0..3 {
        shard.time += MINUTE * 5;
        shard.live = Box::new(KnownLater(connected.clone(), 0));
        for _ in 0..10 {
            assert!(!shard.tries(nat64(2)));
            assert_eq!(shard.tend(), []);
            shard.time += Duration::from_secs(1);
        }
    }
    // Where it stays unknown, that is not waited for any longer.
    shard.time += MINUTE * 5;
    shard.live = Box::new(NoneKnown);
    for _ in 0..3 {
        assert!(!shard.tries(nat64(2)));
        assert_eq!(shard.tend(), []);
        shard.time += Duration::from_secs(1);
    }
    assert!(!shard.tries(nat64(2)));
    assert!(shard.tend().contains(&(table(1), Change::Forgotten)));
}

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn section_5_the_least_worthy_table_makes_room() {
    let (mut shard, connected) = limited(4);
    for number in 1..=4 {
        assert!(shard.tries(nat64(number)));
    }
    let due = Some(Duration::from_secs(1));
    assert_eq!((shard.tend(), shard.server.tend_due()), (vec![], due), "nobody asked");
    shard.map(table(1), 1);
    shard.map(table(2), 1);
    shard.time += Duration::from_secs(1);
    shard.map(table(3), 1);
    shard.map(table(4), 1);
    connected.0.lock().unwrap().insert(table(1));
    // A newcomer that is not connected waits while all are in use.
    assert!(!shard.tries(nat64(5)));
    assert_eq!(shard.server.stats().dropped(DropReason::Nat64sLimit), 1);
    let due = Some(Duration::from_millis(20));
    assert_eq!((shard.tend(), shard.server.tend_due()), (vec![], due));
    shard.time += MINUTE - Duration::from_secs(1);
    assert!(!shard.tries(nat64(5)));
    let gone = shard.server.entries().find(|(of, _)| *of == table(2)).unwrap().1;
    // Nothing is given up while nothing can be recorded.
    shard.batch.frozen = Some(DropReason::JournalUnavailable);
    assert_eq!(shard.tend(), []);
    shard.batch.frozen = None;
    let expected = [identity_forgotten(), deleted(gone), Change::Forgotten];
    assert_eq!(shard.tend(), expected.map(|change| (table(2), change)));
    assert!(!shard.tries(nat64(5)), "it may not be written yet");
    shard.batch.frozen = Some(DropReason::JournalUnavailable);
    assert_eq!(shard.tend(), []);
    shard.batch.frozen = None;
    assert!(!shard.tries(nat64(5)), "it is not written yet");
    assert_eq!(shard.tend(), []);
    assert!(shard.tries(nat64(5)));
    assert_eq!(shard.server.stats().get(Counter::Forgotten), 1);
    assert_eq!(shard.server.nat64s(), 4);
    // Room for one was made.
    assert!(!shard.tries(nat64(6)));
    // The one that went proves itself anew, when there is room for it.
    assert!(!shard.tries(nat64(2)));
    shard.time += Duration::from_secs(1);
    let went: Vec<_> = shard.tend().into_iter().map(|change| change.0).collect();
    assert_eq!(went, [table(3); 3]);
    shard.tend();
    assert!(shard.tries(nat64(2)));
    shard.map(table(2), 1);
}

#[test]
fn section_5_a_newcomer_with_a_connection_does_not_wait() {
    let (mut shard, connected) = limited(3);
    for number in 1..=3 {
        assert!(shard.tries(nat64(number)));
        shard.map(table(number), 1);
        shard.time += Duration::from_secs(1);
    }
    connected.0.lock().unwrap().extend([table(1), table(2), table(9)]);
    assert!(!shard.tries(nat64(9)));
    assert!(shard.tend().contains(&(table(3), Change::Forgotten)));
    shard.tend();
    // The place is kept for it.
    assert!(!shard.tries(nat64(3)));
    assert!(shard.tries(nat64(9)));
    assert_eq!(shard.tend(), [], "room for one was made");
    // All have a connection: nobody goes, for as long as it takes.
    connected.0.lock().unwrap().insert(table(8));
    for _ in 0..10 {
        shard.time += MINUTE * 60;
        assert!(!shard.tries(nat64(8)));
        assert_eq!(shard.tend(), []);
    }
    // One ends.
    connected.0.lock().unwrap().remove(&table(1));
    shard.time += Duration::from_secs(2);
    assert!(!shard.tries(nat64(8)));
    assert!(shard.tend().contains(&(table(1), Change::Forgotten)));
    shard.tend();
    assert!(shard.tries(nat64(8)));
}

/// Nobody is answered from a table that is going, and nobody waits long for what deletes it.
#[test]
fn section_5_a_large_table_goes_in_turns() {
    let (mut shard, _) = limited(1);
    assert!(shard.tries(nat64(1)));
    (1..=600).for_each(|port| shard.map(table(1), port));
    shard.time += MINUTE;
    assert!(!shard.tries(nat64(2)));
    let mut replayed = Shard::new(|_| {});
    for (of, entry) in shard.server.entries() {
        replayed.server.replay(of, &created(entry));
    }
    for (turn, left) in [344, 88, 0].into_iter().enumerate() {
        assert_eq!(shard.server.tend_due(), Some(Duration::from_millis([20, 2, 2][turn])));
        for (of, change) in shard.tend() {
            replayed.server.replay(of, &change);
        }
        assert_eq!(shard.server.entries().count(), left);
        assert_eq!(replayed.server.entries().count(), left);
        assert!(!shard.server.is_known(table(1), ControlPort(CONTROL), TOKEN));
        assert!(!shard.tries(nat64(1)), "also with another proof");
    }
    assert_eq!((shard.server.nat64s(), replayed.server.nat64s()), (0, 0));
    shard.tend();
    assert!(shard.tries(nat64(1)) || shard.tries(nat64(2)));
}

/// One NAT64 address, towards many local ones: the newcomers of others find room at once, and then
/// it pays, although it has a connection everywhere.
#[test]
fn section_5_one_address_has_its_share_of_tables() {
    let (mut shard, connected) = limited(320);
    let hostile = |number: u16| {
        let [high, low] = number.to_be_bytes();
        TableKey { local: Ipv4Addr::new(10, 0, high, low), nat64: nat64(66) }
    };
    let honest = |number: u32| {
        let nat64 = Ipv4Addr::from_bits(0x6400_0001 + (number << 16));
        TableKey { local: LOCAL, nat64 }
    };
    let tries = |shard: &mut Shard, table: TableKey| {
        connected.0.lock().unwrap().insert(table);
        let mut sent = Vec::new();
        while sent.is_empty() {
            sent = shard.send_between(table, CONTROL, &client_packet(&udp6(CLIENT, 1)));
        }
        let packet = returned(table.nat64, &sent[0].1);
        !shard.send_between(table, CONTROL, &service_packet(&packet)).is_empty()
    };
    let admitted = (0..1000).filter(|&number| {
        shard.time += Duration::from_millis(10);
        tries(&mut shard, hostile(number))
    });
    assert_eq!(admitted.count(), 279, "7/8");
    assert_eq!(shard.server.stats().dropped(DropReason::Nat64sShare), 1000 - 279);
    // An hour later it is not used any more, but has its connections.
    let mut waited = Duration::ZERO;
    for number in 0..315 {
        let begin = shard.time;
        while !tries(&mut shard, honest(number)) {
            shard.time += Duration::from_millis(100);
            shard.tend();
            assert!(shard.time < begin + MINUTE, "{number}");
        }
        shard.time += Duration::from_millis(300);
        waited = waited.max(shard.time - begin);
    }
    eprintln!("admitted within {waited:?}");
    assert_eq!(shard.server.stats().get(Counter::Forgotten), 279 - 5);
    let hostile = (0..1000)
        .filter(|&number| shard.server.is_known(hostile(number), ControlPort(CONTROL), TOKEN));
    assert_eq!(hostile.count(), 5, "its share");
}
