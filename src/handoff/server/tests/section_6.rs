//! PROTOCOL.md section 6. The table: reports, control ports, live connections.

use super::*;
use crate::handoff::opaque::Authenticator;

#[test]
fn section_6_a_control_port_that_was_mapped() {
    let mut shard = Shard::known();
    shard.ask(&hinted(41000, &udp6(CLIENT, 1)));
    shard.prove(NAT64, 41000, b"second");
    assert_eq!(shard.events(), [deleted(entry(41000, client(CLIENT, 1)))]);
    let hinted = shard.ask(&hinted(41000, &udp6(CLIENT, 1)));
    assert_ne!(hinted[18..20], 41000_u16.to_be_bytes());
}

#[test]
fn section_6_reports() {
    let mut shard = Shard::known();
    let (one, two, three) = (client(CLIENT, 1), client(CLIENT, 2), client(CLIENT, 3));
    // Adopted, then agreed with.
    assert_eq!(
        shard.ask(&report(b"a1", &[entry(5000, one)])),
        answer(b"a1", entry(5000, one), &[])
    );
    assert_eq!(shard.events(), [created(entry(5000, one))]);
    shard.time += Duration::from_secs(1);
    assert_eq!(
        shard.ask(&report(b"a2", &[entry(5000, one)])),
        answer(b"a2", entry(5000, one), &[])
    );
    assert_eq!(shard.outbox.changes.len(), 1, "the authenticator is another");
    // The client has another port.
    assert_eq!(
        shard.ask(&report(b"a2", &[entry(5001, one)])),
        answer(b"a2", entry(5000, one), &[])
    );
    assert_eq!(shard.events(), [conflict(entry(5001, one))]);
    // The port is taken, or not eligible.
    for (port, client) in [(5000, two), (3544, three)] {
        let reply = shard.ask(&report(b"a2", &[entry(port, client)]));
        let events = shard.events();
        let [Change::Conflict { .. }, Change::Created { port: own, .. }] = events[..] else {
            panic!("{events:?}")
        };
        assert_eq!(events[0], conflict(entry(port, client)));
        assert_ne!(own.0, port);
        assert_eq!(reply, answer(b"a2", entry(own.0, client), &[]));
    }
    // What cannot be an entry.
    for bad in [entry(0, one), entry(5000, client(CLIENT, 0)), entry(5000, client("fe80::1", 1))] {
        assert_eq!(shard.dropped(&report(b"a2", &[bad])), DropReason::EntryInvalid);
    }
}

#[test]
fn section_6_multi_reports() {
    let mut shard = Shard::known();
    let [one, two, three] = [1, 2, 3].map(|port| entry(5000 + port, client(CLIENT, port)));
    // None differs: exactly the first.
    assert_eq!(shard.ask(&report(b"a1", &[one, two])), answer(b"a1", one, &[]));
    assert_eq!(shard.events(), [created(one), created(two)]);
    // Each that differs is answered, under its own authenticator.
    let other = client("2001:db8::99", 9);
    let payload = [
        report(b"a1", &[one, entry(6000, two.client), entry(0, one.client)]),
        message(6, b"b1"),
        entry(5001, other).emit().to_vec(),
        three.emit().to_vec(),
    ];
    let sent = shard.send(&payload.concat());
    let own = shard.server.entries().find(|(_, entry)| entry.client == other).unwrap().1;
    let replies: Vec<_> = sent.into_iter().map(|(_, reply)| reply).collect();
    assert_eq!(replies, [answer(b"a1", two, &[]), answer(b"b1", own, &[])]);
    let expected = [
        conflict(entry(6000, two.client)),
        conflict(entry(5001, other)),
        created(own),
        created(three),
    ];
    assert_eq!(shard.events(), expected);
    assert_eq!(shard.server.stats().dropped(DropReason::EntryInvalid), 1);
    let nothing = report(b"a1", &[entry(0, one.client), entry(0, two.client)]);
    assert_eq!(shard.send(&nothing), []);
    assert_eq!(shard.server.stats().dropped(DropReason::EntryInvalid), 3);
}

/// Connections that a test says there are, and how often it was asked for them.
#[derive(Clone)]
struct Said(Arc<Mutex<(u64, Vec<u16>)>>, Arc<PortSet>);

impl LiveConnections for Said {
    fn of(&mut self, table: TableKey) -> Option<LivePorts<'_>> {
        assert_eq!(table, TableKey { local: LOCAL, nat64: NAT64 });
        let mut said = self.0.lock().unwrap();
        said.0 += 1;
        self.1 = Arc::new(PortSet::new(said.1.clone()));
        Some(LivePorts { poll: said.0, ports: &self.1 })
    }
}

/// The table is limited by itself, or by what all may hold together.
#[test]
fn section_6_live_connections_at_a_full_table() {
    for of_all in [false, true] {
        let said = Said(Arc::default(), Arc::new(PortSet::new(Vec::new())));
        let mut shard = Shard::with_live(Box::new(said.clone()), |config| {
            match of_all {
                true => config.budget = Arc::new(Budget::new(100, 16)),
                false => config.limits.entries_max = 16,
            }
            config.limits.client_share = 1.0;
        });
        shard.prove(NAT64, CONTROL, TOKEN);
        let idle = make(&mut shard, CLIENT, 1);
        // Nobody asks before it is nearly full...
        for port in 2..13 {
            make(&mut shard, CLIENT, port);
        }
        assert_eq!((said.0.lock().unwrap().0, shard.server.nearly_full().count()), (0, 0));
        // ...and then for each new client, before one has to go.
        for port in 13..17 {
            make(&mut shard, CLIENT, port);
        }
        assert_eq!((said.0.lock().unwrap().0, shard.server.nearly_full().count()), (3, 1));
        // It stays, however many come.
        said.0.lock().unwrap().1 = vec![idle.port.0];
        for port in 100..200 {
            make(&mut shard, CLIENT, port);
            assert_eq!(shard.outbox.changes.len(), 2, "{:?}", shard.outbox.changes);
            assert!(!shard.outbox.changes.iter().any(|(_, change)| *change == deleted(idle)));
        }
        assert!(shard.server.entries().any(|(_, entry)| entry == idle));
        // When the connection is over, it is evicted in its turn.
        said.0.lock().unwrap().1.clear();
        let went = (200..216).filter(|&port| {
            make(&mut shard, CLIENT, port);
            shard.outbox.changes.iter().any(|(_, change)| *change == deleted(idle))
        });
        assert_eq!(went.count(), 1);
        // While nothing can be recorded, nothing is passed over either.
        shard.batch.frozen = Some(DropReason::JournalUnavailable);
        let asked = said.0.lock().unwrap().0;
        assert_eq!(
            shard.dropped(&client_packet(&udp6(CLIENT, 300))),
            DropReason::JournalUnavailable
        );
        assert_eq!(said.0.lock().unwrap().0, asked);
    }
}

/// Of one client at most one authenticator is recorded in a second, and the latest one in the end;
/// in answers it is used at once.
#[test]
fn section_6_authenticators_are_recorded_once_a_second() {
    let mut shard = Shard::known();
    let own = make(&mut shard, CLIENT, 1);
    let other = make(&mut shard, "2001:db8::18", 1);
    let speak = |shard: &mut Shard, address: &str, authenticator: &[u8]| {
        let packet = udp6(address, 1);
        shard.send(&[message(4, TOKEN), message(6, authenticator), packet].concat());
        shard.outbox.changes.iter().map(|(_, change)| change.clone()).collect::<Vec<_>>()
    };
    let late = |shard: &mut Shard| {
        shard.outbox.clear();
        shard.batch.set_time(shard.time);
        shard.server.record_late(&shard.batch, &mut shard.outbox);
        shard.outbox.changes.drain(..).map(|(_, change)| change).collect::<Vec<_>>()
    };
    let learned = |entry: Entry, authenticator: &[u8]| Change::AuthenticatorLearned {
        address: entry.client.address,
        authenticator: Authenticator::new(authenticator).unwrap(),
    };
    shard.time += Duration::from_secs(10);
    assert!(speak(&mut shard, CLIENT, b"a0").contains(&learned(own, b"a0")));
    for number in 1..1_000_u16 {
        // An empty one is one, too.
        let next = number.to_be_bytes();
        let next = if number % 3 == 0 { &[][..] } else { &next[..] };
        assert_eq!(speak(&mut shard, CLIENT, next), []);
        let packet = to_mapped(own.port.0);
        assert_eq!(shard.ask(&service_packet(&packet)), answer(next, own, &packet));
    }
    assert!(speak(&mut shard, "2001:db8::18", b"b0").contains(&learned(other, b"b0")));
    assert_eq!(speak(&mut shard, "2001:db8::18", b"b1"), []);
    assert!(shard.server.is_late());
    assert_eq!(late(&mut shard), [], "not before a second is over");
    shard.time += Duration::from_secs(1);
    shard.batch.frozen = Some(DropReason::JournalUnavailable);
    assert_eq!(late(&mut shard), []);
    shard.batch.frozen = None;
    assert_eq!(late(&mut shard), [learned(own, b""), learned(other, b"b1")]);
    assert!(!shard.server.is_late());
    // That was one of this second; one that was recorded since is not recorded again.
    assert_eq!(speak(&mut shard, CLIENT, b"c0"), []);
    shard.time += Duration::from_secs(1);
    assert_eq!(speak(&mut shard, CLIENT, b"c1"), [learned(own, b"c1")]);
    assert_eq!(late(&mut shard), []);
    assert!(!shard.server.is_late());
}

/// What a NAT64 reported of a port, and the table could not adopt, holds for that port until the
/// table must give it away: the log names nobody else for it. As before and after a start.
#[test]
fn section_6_a_port_that_was_reported_for_another_is_drawn_last() {
    let roomy = |config: &mut ServerConfig| config.budget = Arc::new(Budget::new(100, 100_000));
    let (mut shard, mut restarted) = (Shard::new(roomy), Shard::new(roomy));
    shard.prove(NAT64, CONTROL, TOKEN);
    let mut journal = std::mem::take(&mut shard.outbox.changes);
    let own = make(&mut shard, CLIENT, 1);
    journal.append(&mut shard.outbox.changes);
    let reported = [5000, 5001, 5002];
    for port in reported {
        assert_eq!(shard.ask(&report(b"a1", &[entry(port, own.client)])), answer(b"a1", own, &[]));
        journal.append(&mut shard.outbox.changes);
    }
    // One port stays free beside these.
    let table = TableKey { local: LOCAL, nat64: NAT64 };
    let is_left = |port: &u16| {
        ![3544, 6000, 6081, CONTROL, own.port.0, 64064].contains(port) && !reported.contains(port)
    };
    for port in (1024..=u16::MAX).filter(is_left) {
        journal.push((table, created(entry(port, client("2001:db8::f", port)))));
        shard.server.replay(table, &journal.last().unwrap().1);
    }
    journal.iter().for_each(|(table, change)| restarted.server.replay(*table, change));
    for shard in [&mut shard, &mut restarted] {
        assert_eq!(make(shard, "2001:db8::1", 1).port, MappedPort(6000));
        let others = (2..=4).map(|number| make(shard, &format!("2001:db8::{number}"), 1).port.0);
        let mut others: Vec<_> = others.collect();
        others.sort_unstable();
        assert_eq!(others, reported);
        assert_eq!(shard.server.entries().count(), 64_508);
    }
}

/// Where the entry goes that has the port, another port is given to who takes its place.
#[test]
fn section_6_a_port_that_was_reported_for_another_is_not_taken_over() {
    let mut shard = Shard::new(|config| config.limits.entries_max = 2);
    shard.prove(NAT64, CONTROL, TOKEN);
    let oldest = make(&mut shard, "2001:db8::1", 1);
    let other = make(&mut shard, "2001:db8::2", 1);
    let wrong = entry(oldest.port.0, other.client);
    assert_eq!(shard.ask(&report(b"a1", &[wrong])), answer(b"a1", other, &[]));
    let third = make(&mut shard, "2001:db8::3", 1);
    assert_eq!(shard.events(), [deleted(oldest), created(third)]);
    assert_ne!(third.port, oldest.port);
    // As without a report.
    let fourth = make(&mut shard, "2001:db8::4", 1);
    assert_eq!((shard.events(), fourth.port), (vec![deleted(other), created(fourth)], other.port));
}
