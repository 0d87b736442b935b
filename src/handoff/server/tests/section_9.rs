//! PROTOCOL.md section 9. What an answer waits for, what cannot be recorded, and replay.

use super::*;
use crate::handoff::opaque::Authenticator;

/// That a report was contradicted is in the log before the NAT64 hears of it.
#[test]
fn section_9_conflicts_are_recorded_before_they_are_answered() {
    let mut shard = Shard::known();
    let [one, two] = [1, 2].map(|port| entry(5000 + port, client(CLIENT, port)));
    shard.ask(&report(b"a1", &[one, two]));
    (shard.batch.record, shard.batch.durable) = (9, 8);
    let after = |shard: &mut Shard, entries: &[Entry]| {
        shard.ask(&report(b"a1", entries));
        shard.outbox.replies[0].after
    };
    assert_eq!(after(&mut shard, &[one]), 0);
    assert_eq!(after(&mut shard, &[entry(6000, one.client)]), 9);
    assert_eq!(after(&mut shard, &[one, entry(6000, two.client)]), 9);
    assert_eq!(after(&mut shard, &[one, two]), 0);
}

#[test]
fn section_9_an_answer_waits_for_what_it_announces() {
    let mut shard = Shard::known();
    let mut in_batch = |record, durable, payload: &[u8]| {
        (shard.batch.record, shard.batch.durable) = (record, durable);
        shard.send(payload);
        shard.outbox.replies.iter().map(|reply| reply.after).collect::<Vec<_>>()
    };
    let (one, two) = (client_packet(&udp6(CLIENT, 1)), client_packet(&udp6(CLIENT, 2)));
    assert_eq!(in_batch(5, 4, &one), [5]);
    assert_eq!(in_batch(6, 4, &one), [5], "a later look-up announces it too");
    assert_eq!(in_batch(6, 4, &two), [6]);
    assert_eq!(in_batch(7, 5, &one), [5], "not above what is durable");
    assert_eq!(in_batch(7, 6, &one), [0]);
    assert_eq!(in_batch(7, 6, &two), [0]);
    let reported = report(b"a1", &[entry(5000, client(CLIENT, 3)), entry(5001, client(CLIENT, 1))]);
    assert_eq!(in_batch(8, 6, &reported), [8], "it announces the conflict");
    let reported = report(b"a1", &[entry(5000, client(CLIENT, 3)), entry(5002, client(CLIENT, 4))]);
    assert_eq!(in_batch(9, 8, &reported), [9], "the first speaks for all of them");
    assert_eq!(in_batch(10, 9, &reported), [0], "nothing changed");
    // A successor's answers wait for the record that makes it known.
    let rotated = [
        &message(5, TOKEN),
        &message(4, b"next"),
        &message(6, AUTHENTICATOR),
        &udp6(CLIENT, 1)[..],
    ];
    assert_eq!(in_batch(9, 8, &rotated.concat()), [9]);
    assert_eq!(in_batch(10, 8, &rotated.concat()), [9]);
}

/// That nobody has a port any more is announced by a packet that comes back.
#[test]
fn section_9_a_packet_to_a_port_that_was_taken_away_waits_for_that() {
    let mut shard = Shard::new(|config| config.limits.entries_max = 2);
    shard.prove(NAT64, CONTROL, TOKEN);
    let [oldest, _] = [1, 2].map(|port| make(&mut shard, CLIENT, port));
    (shard.batch.record, shard.batch.durable) = (9, 8);
    let free = if oldest.port.0 == 5000 { 5001 } else { 5000 };
    let reported = entry(free, client("2001:db8::3", 1));
    shard.ask(&report(b"a1", &[reported]));
    assert_eq!(shard.events(), [deleted(oldest), created(reported)]);
    let mut after = |port, record, durable| {
        (shard.batch.record, shard.batch.durable) = (record, durable);
        shard.ask(&service_packet(&to_mapped(port)));
        shard.outbox.replies[0].after
    };
    assert_eq!(after(oldest.port.0, 10, 8), 9);
    assert_eq!(after(free ^ 1 ^ 2, 10, 8), 0, "nobody had it");
    assert_eq!(after(oldest.port.0, 10, 9), 0);
}

#[test]
fn section_9_what_cannot_be_recorded_does_not_happen() {
    let mut shard = Shard::known();
    let own = make(&mut shard, CLIENT, 1);
    shard.batch.frozen = Some(DropReason::JournalUnavailable);
    let packet = udp6(CLIENT, 1);
    let fresh = [message(4, TOKEN), message(6, b"fresh!"), packet.clone()].concat();
    assert_eq!(shard.ask(&fresh), answer(b"fresh!", own, &packet));
    // The service reaches its client by the authenticator that the NAT64 has now.
    let packet = to_mapped(own.port.0);
    assert_eq!(shard.ask(&service_packet(&packet)), answer(b"fresh!", own, &packet));
    for refused in [
        client_packet(&udp6(CLIENT, 2)),
        report(b"a1", &[entry(5000, client(CLIENT, 2))]),
        report(b"a1", &[entry(5000, own.client)]),
        [message(5, TOKEN), message(4, b"next"), message(6, b""), udp6(CLIENT, 1)].concat(),
    ] {
        assert_eq!(shard.dropped(&refused), DropReason::JournalUnavailable);
        assert_eq!(shard.outbox.changes, []);
    }
    // What is known of a known client is recorded when anything can be.
    shard.time += Duration::from_secs(10);
    shard.batch.set_time(shard.time);
    for frozen in [shard.batch.frozen, None] {
        shard.outbox.clear();
        shard.batch.frozen = frozen;
        shard.server.record_late(&shard.batch, &mut shard.outbox);
        let (address, fresh) = (own.client.address, Authenticator::new(b"fresh!").unwrap());
        let learned = Change::AuthenticatorLearned { address, authenticator: fresh };
        let recorded: Vec<_> = shard.outbox.changes.drain(..).map(|(_, change)| change).collect();
        assert_eq!(recorded, if frozen.is_none() { vec![learned] } else { vec![] });
    }
    make(&mut shard, CLIENT, 2);
}

#[test]
fn section_9_replay_gives_the_same_shard() {
    let mut shard = Shard::new(|config| config.limits.entries_max = 3);
    let mut changes = Vec::new();
    let mut keep = |shard: &Shard| changes.extend_from_slice(&shard.outbox.changes);
    let question = client_packet(&udp6(CLIENT, 1));
    let validation = shard.send(&question).remove(0).1;
    shard.send(&service_packet(&returned(NAT64, &validation)));
    keep(&shard);
    for port in [1, 2, 3, 1, 4, 5] {
        shard.time += Duration::from_secs(3600);
        shard.send(&client_packet(&udp6(CLIENT, port)));
        keep(&shard);
    }
    shard.send(&report(b"a1", &[entry(5000, client(CLIENT, 5))]));
    keep(&shard);
    let mut replayed = Shard::new(|config| config.limits.entries_max = 3);
    changes.iter().for_each(|(table, change)| replayed.server.replay(*table, change));
    let entries = |shard: &Shard| shard.server.entries().collect::<Vec<_>>();
    assert_eq!(entries(&replayed), entries(&shard));
    assert_eq!(
        entries(&replayed).iter().map(|(_, entry)| entry.client.port).collect::<Vec<_>>(),
        [1, 4, 5]
    );
    assert_eq!(replayed.server.contradiction(), None);
    let packet = to_mapped(entries(&shard)[0].1.port.0);
    assert_eq!(replayed.ask(&service_packet(&packet)), shard.ask(&service_packet(&packet)));
}
