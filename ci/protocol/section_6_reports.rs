//! Reports and multi reports, row by row of the table in section 6.

use crate::judge::client::{Client, Entry};
use crate::judge::eventlog::Kind;
use crate::judge::nat64::Nat64;
use crate::judge::wire::{self, Reply, payload};
use crate::server::Server;

type Line = (Kind, Option<(u16, std::net::Ipv6Addr, u16)>);

fn line(kind: Kind, entry: Entry) -> Line {
    (kind, Some((entry.mapped, entry.client.address, entry.client.port)))
}

fn log(server: &Server, count: usize) -> Vec<Line> {
    server.events_from(count).iter().map(|event| event.what()).collect()
}

/// Neither client nor port known: adopted. The client on the same port: used, nothing logged.
#[test]
fn section_6_reports_are_adopted() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let (one, two) = (Client::nth(1).at(1024), Client::nth(2).at(65535));
    for entry in [one, two, one, two, one] {
        assert_eq!(nat64.report(entry), entry);
    }
    assert_eq!(nat64.map(one.client), one.mapped);
    assert_eq!(nat64.find(two.mapped), Some((two, two.client.authenticator())));
    // What a client packet made is confirmed by a report.
    let three = Client::nth(3);
    let three = three.at(nat64.map(three));
    assert_eq!(nat64.report(three), three);
    let expected = [(Kind::Initialized, None), line(Kind::Created, one), line(Kind::Created, two)];
    let events = log(&server, 4);
    assert_eq!(events[..3], expected);
    assert_eq!(events[3..], [line(Kind::Created, three)]);
}

/// The client on another port: the table's entry stands.
#[test]
fn section_6_a_report_of_another_port_is_a_conflict() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let client = Client::nth(1);
    let stands = client.at(20001);
    assert_eq!(nat64.report(stands), stands);
    let taken = Client::nth(2).at(20002);
    assert_eq!(nat64.report(taken), taken);
    let mut expected =
        vec![(Kind::Initialized, None), line(Kind::Created, stands), line(Kind::Created, taken)];
    // Free, taken by another, not eligible.
    for port in [20003, 20002, 80, 3544, 6081, nat64.server.port(), nat64.port()] {
        assert_eq!(nat64.report(client.at(port)), stands);
        expected.push(line(Kind::Conflict, client.at(port)));
    }
    assert_eq!(nat64.find(20003), None);
    assert_eq!(nat64.find(20002), Some((taken, taken.client.authenticator())));
    assert_eq!(log(&server, expected.len()), expected);
}

/// The client not known, the port taken or not eligible: a conflict, then a port of its own.
#[test]
fn section_6_a_report_of_a_taken_port_is_a_conflict() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let holder = Client::nth(1).at(20001);
    assert_eq!(nat64.report(holder), holder);
    let mut expected = vec![(Kind::Initialized, None), line(Kind::Created, holder)];
    let wrong = [20001, 1, 1023, 3544, 6081, nat64.server.port(), nat64.port()];
    for (number, port) in wrong.into_iter().enumerate() {
        let client = Client::nth(100 + number as u32);
        // `report` checks that the port is eligible.
        let own = nat64.report(client.at(port));
        assert_ne!(own.mapped, port);
        expected.push(line(Kind::Conflict, client.at(port)));
        expected.push(line(Kind::Created, own));
        assert_eq!(nat64.find(own.mapped), Some((own, client.authenticator())));
    }
    assert_eq!(nat64.find(20001), Some((holder, holder.client.authenticator())));
    assert_eq!(log(&server, expected.len()), expected);
}

/// A multi report is answered with one payload for each entry that differs.
#[test]
fn section_6_multi_reports_with_differences() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let (one, two) = (Client::nth(1).at(20001), Client::nth(2).at(20002));
    assert_eq!((nat64.report(one), nat64.report(two)), (one, two));
    let (three, four, five) = (Client::nth(3), Client::nth(4), Client::nth(5));
    let reported = [
        one,                    // stands
        two.client.at(20009),   // stands on another port: differs
        three.at(20003),        // adopted
        four.at(20001),         // taken: differs
        five.at(6081),          // not eligible: differs
        five.port(7).at(20005), // adopted
    ];
    nat64.send(&nat64.multi_request(&reported));
    let mut answers: Vec<_> = (0..3).map(|_| nat64.reply()).collect();
    answers.sort_by_key(|answer| answer.entry);
    nat64.fence();
    let mut entries: Vec<Entry> = answers.iter().map(|answer| answer.entry.unwrap()).collect();
    for (answer, &entry) in answers.iter().zip(&entries) {
        assert_eq!(*answer, Reply::report(&entry.client.authenticator(), entry));
        assert!(nat64.is_eligible(entry.mapped));
    }
    entries.sort_by_key(|entry| entry.client);
    assert_eq!(entries[0], two);
    assert_eq!([entries[1].client, entries[2].client], [four, five]);
    let expected = [
        (Kind::Initialized, None),
        line(Kind::Created, one),
        line(Kind::Created, two),
        line(Kind::Conflict, reported[1]),
        line(Kind::Created, reported[2]),
        line(Kind::Conflict, reported[3]),
        line(Kind::Created, entries[1]),
        line(Kind::Conflict, reported[4]),
        line(Kind::Created, entries[2]),
        line(Kind::Created, reported[5]),
    ];
    assert_eq!(log(&server, expected.len()), expected);
    // The same again, as the table has it: exactly one answer, for the first.
    let agreed = [one, two, reported[2], entries[1], entries[2], reported[5]];
    let answer = nat64.ask(&nat64.multi_request(&agreed));
    assert_eq!(answer, Reply::report(&one.client.authenticator(), one));
    nat64.fence();
    assert_eq!(log(&server, expected.len()).len(), expected.len());
}

/// The same entry twice, and two clients with the same port, within one multi report.
#[test]
fn section_6_a_multi_report_against_itself() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let (one, two) = (Client::nth(1), Client::nth(2));
    let reported = [one.at(20001), one.at(20001), two.at(20001), one.at(20002)];
    nat64.send(&nat64.multi_request(&reported));
    let mut entries = [nat64.reply().entry.unwrap(), nat64.reply().entry.unwrap()];
    nat64.fence();
    entries.sort_by_key(|entry| entry.client);
    assert_eq!(entries[0], one.at(20001));
    assert_eq!(entries[1].client, two);
    let expected = [
        (Kind::Initialized, None),
        line(Kind::Created, one.at(20001)),
        line(Kind::Conflict, two.at(20001)),
        line(Kind::Created, entries[1]),
        line(Kind::Conflict, one.at(20002)),
    ];
    assert_eq!(log(&server, expected.len()), expected);
}

/// Entries with an address that cannot be a client's, or with port 0, are ignored.
#[test]
fn section_6_impossible_entries_are_ignored() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let mut wrong: Vec<_> = ["::", "::1", "ff02::1", "ff0e::7", "::ffff:192.0.2.1", "fe80::1"]
        .map(|address| Client::parse(address, 40000).at(20001))
        .to_vec();
    wrong.push(Client::nth(1).port(0).at(20001));
    for &entry in &wrong {
        let what = format!("{entry:?}");
        nat64.silent(&what, &nat64.report_request(b"authen", entry));
    }
    // In a multi report the others count.
    let (one, two) = (Client::nth(1).at(20001), Client::nth(2).at(20002));
    let mut entries = vec![one];
    entries.extend(&wrong);
    entries.push(two);
    let answer = nat64.ask(&nat64.multi_request(&entries));
    assert_eq!(answer, Reply::report(&one.client.authenticator(), one));
    nat64.fence();
    assert_eq!(nat64.find(20002), Some((two, two.client.authenticator())));
    // With a packet, the packet is still handled.
    let client = Client::nth(3);
    let packet = client.udp(b"data");
    let report = nat64.report_request(b"authen", wrong[0]);
    let answer = nat64.ask(&payload(&[&report, &packet]));
    let mapped = answer.entry.unwrap().mapped;
    assert_eq!(answer, Reply::mapping(b"authen", client.at(mapped), &packet));
    let expected = [
        (Kind::Initialized, None),
        line(Kind::Created, one),
        line(Kind::Created, two),
        line(Kind::Created, client.at(mapped)),
    ];
    assert_eq!(log(&server, 4), expected);
}

/// Mapped port 0: ignored (as an entry with port 0), or a conflict (as a port that is not
/// eligible): the text fits either. It is never adopted.
#[test]
fn section_6_mapped_port_0() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let client = Client::nth(1);
    nat64.send(&nat64.report_request(b"authen", client.at(0)));
    if let Some(reply) = nat64.try_reply(crate::judge::SHORT) {
        let entry = reply.entry.unwrap();
        assert!(nat64.is_eligible(entry.mapped));
        assert_eq!(reply, Reply::report(b"authen", client.at(entry.mapped)));
    }
    assert_eq!(nat64.find(0), None);
}

/// Prefixes of reported entries are kept: the same client through two prefixes has two entries.
#[test]
fn section_6_reports_keep_the_prefix() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let one = Client::nth(1);
    let two = one.prefix(crate::judge::client::OTHER_PREFIX);
    assert_eq!(nat64.report(one.at(20001)).mapped, 20001);
    assert_eq!(nat64.report(two.at(20002)).mapped, 20002);
    assert_eq!(nat64.map(one), 20001);
    assert_eq!(nat64.map(two), 20002);
    // A group may have entries of several ports and prefixes.
    let request = payload(&[
        &wire::identifier(),
        &nat64.token_message(),
        &wire::authenticator(b"authen"),
        &wire::entry(two.at(20002)),
        &wire::entry(one.at(20001)),
        &wire::entry(one.port(9).at(20003)),
    ]);
    assert_eq!(nat64.ask(&request), Reply::report(b"authen", two.at(20002)));
    assert_eq!(nat64.map(one.port(9)), 20003);
}
