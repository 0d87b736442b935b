//! What a NAT64 sends: the shapes that are answered, and all that is less.

use crate::judge::client::Client;
use crate::judge::nat64::Nat64;
use crate::judge::packet;
use crate::judge::wire::{self, Reply, payload};
use crate::server::Server;

/// Each missing part makes a request incomplete: no answer, no validation packet, no change.
#[test]
fn section_3_incomplete_requests_are_dropped() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    for (what, request) in incomplete(&nat64) {
        nat64.silent(what, &request);
    }
    assert_eq!(server.events_from(1).len(), 1, "only Initialized");
}

/// What is not well-formed, all with this NAT64's token where there is one.
pub fn incomplete(nat64: &Nat64) -> Vec<(&'static str, Vec<u8>)> {
    let client = Client::nth(77);
    let token = nat64.token_message();
    let authenticator = wire::authenticator(&client.authenticator());
    let entry = wire::entry(client.at(20000));
    let (ipv6, ipv4) = (client.udp(b"data"), nat64.unmapped_packet());
    let identifier = wire::identifier();
    let hint = wire::hint(20000);
    vec![
        ("nothing", payload(&[])),
        ("no-op", payload(&[&wire::noop(&[])])),
        ("token alone", payload(&[&token])),
        ("token, authenticator", payload(&[&token, &authenticator])),
        ("token, identifier", payload(&[&token, &identifier])),
        ("token, hint", payload(&[&token, &hint])),
        ("all but an entry", payload(&[&identifier, &token, &authenticator, &hint])),
        ("IPv4 without token", payload(&[&ipv4])),
        ("IPv4, authenticator, no token", payload(&[&authenticator, &ipv4])),
        ("IPv4, rotation, no token", payload(&[&wire::rotation(&nat64.token), &ipv4])),
        ("IPv6 without token", payload(&[&authenticator, &ipv6])),
        ("IPv6 without authenticator", payload(&[&token, &ipv6])),
        ("IPv6 with hint, without authenticator", payload(&[&token, &hint, &ipv6])),
        ("entry alone", payload(&[&entry])),
        ("entry without identifier", payload(&[&token, &authenticator, &entry])),
        ("entry without authenticator", payload(&[&identifier, &token, &entry])),
        ("entry without token", payload(&[&identifier, &authenticator, &entry])),
        ("entry, IPv6, no identifier", payload(&[&token, &authenticator, &entry, &ipv6])),
        ("entry, IPv4, no identifier", payload(&[&token, &authenticator, &entry, &ipv4])),
        ("entry, IPv4, no authenticator", payload(&[&identifier, &token, &entry, &ipv4])),
    ]
}

/// A client packet may carry a hint, an identifier, a rotation; a service packet an authenticator.
#[test]
fn section_3_more_than_needed_is_accepted() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let client = Client::nth(1);
    let (token, packet) = (nat64.token_message(), client.udp(b"x"));
    let authenticator = wire::authenticator(&client.authenticator());
    let mapped = nat64.map(client);
    let expected = Reply::mapping(&client.authenticator(), client.at(mapped), &packet);
    let request = payload(&[&wire::identifier(), &token, &authenticator, &packet]);
    assert_eq!(nat64.ask(&request), expected);
    let rotation = wire::rotation(b"expired.");
    let request = payload(&[&token, &rotation, &authenticator, &wire::hint(1), &packet]);
    assert_eq!(nat64.ask(&request), expected);
    let ipv4 = nat64.unmapped_packet();
    let expected = Reply::returned(&nat64.token, &packet::with_ttl(&ipv4, packet::TTL - 1));
    for extra in [rotation, authenticator, wire::identifier(), wire::hint(20000)] {
        assert_eq!(nat64.ask(&payload(&[&token, &extra, &ipv4])), expected);
    }
    assert_eq!(nat64.find(20000), None);
}

/// One 6 and one 7 are a report, whatever their order.
#[test]
fn section_3_a_report_in_either_order() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    for (number, swapped) in [(1, false), (2, true)] {
        let client = Client::nth(number);
        let entry = client.at(20000 + number as u16);
        let (six, seven) = (wire::authenticator(b"authen"), wire::entry(entry));
        let (first, second) = if swapped { (&seven, &six) } else { (&six, &seven) };
        let parts = [&wire::identifier()[..], &nat64.token_message(), first, second];
        assert_eq!(nat64.ask(&payload(&parts)), Reply::report(b"authen", entry));
        assert_eq!(nat64.find(entry.mapped), Some((entry, b"authen".to_vec())));
    }
}

/// In a multi report each 7 belongs to the nearest 6 before it.
#[test]
fn section_3_multi_reports_have_groups() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let (one, two, three) = (Client::nth(1), Client::nth(2), Client::nth(3));
    let request = payload(&[
        &wire::identifier(),
        &nat64.token_message(),
        &wire::authenticator(b"first."),
        &wire::entry(one.at(20001)),
        &wire::entry(one.port(50000).at(20002)),
        &wire::authenticator(b"second"),
        &wire::entry(two.at(20003)),
        &wire::noop(b"skip"),
        &wire::entry(two.port(50000).at(20004)),
        &wire::authenticator(b"third."),
        &wire::entry(three.at(20005)),
    ]);
    // None differs: exactly one answer, for the first.
    assert_eq!(nat64.ask(&request), Reply::report(b"first.", one.at(20001)));
    nat64.fence();
    for (entry, authenticator) in [
        (one.at(20001), b"first."),
        (one.port(50000).at(20002), b"first."),
        (two.at(20003), b"second"),
        (two.port(50000).at(20004), b"second"),
        (three.at(20005), b"third."),
    ] {
        assert_eq!(nat64.find(entry.mapped), Some((entry, authenticator.to_vec())));
    }
    // Identifier and token may stand elsewhere too.
    let request = payload(&[
        &wire::authenticator(b"later."),
        &wire::entry(one.at(20001)),
        &wire::identifier(),
        &wire::entry(one.port(50000).at(20002)),
        &nat64.token_message(),
    ]);
    assert_eq!(nat64.ask(&request), Reply::report(b"later.", one.at(20001)));
    // Two 6 and one 7 are a multi report, so the nearest 6 counts. (Whether a group without a 7 is
    // legal is not said: silence is accepted.)
    let request = payload(&[
        &wire::identifier(),
        &nat64.token_message(),
        &wire::authenticator(b"groupA"),
        &wire::authenticator(b"groupB"),
        &wire::entry(two.at(20003)),
    ]);
    nat64.send(&request);
    if let Some(reply) = nat64.try_reply(crate::judge::SHORT) {
        assert_eq!(reply, Reply::report(b"groupB", two.at(20003)));
    }
}

/// A 7 before the first 6, or a packet, in a multi report: malformed.
#[test]
fn section_3_malformed_multi_reports() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let (one, two) = (Client::nth(1), Client::nth(2));
    let (start, token) = (wire::identifier(), nat64.token_message());
    let six = wire::authenticator(b"authen");
    let (first, second) = (wire::entry(one.at(20001)), wire::entry(two.at(20002)));
    for (what, parts) in [
        ("7, 6, 7", vec![&start, &token, &first, &six, &second]),
        ("7, 7, 6", vec![&start, &token, &first, &second, &six]),
        ("7, 6, 6", vec![&start, &token, &first, &six, &six]),
        ("7, 7, no 6", vec![&start, &token, &first, &second]),
        ("no identifier", vec![&token, &six, &first, &second]),
        ("no token", vec![&start, &six, &first, &second]),
    ] {
        nat64.silent(what, &payload(&parts.iter().map(|part| &part[..]).collect::<Vec<_>>()));
    }
    let multi = payload(&[&start, &token, &six, &first, &second]);
    nat64.silent("IPv6", &payload(&[&multi, &one.udp(b"data")]));
    nat64.silent("IPv4", &payload(&[&multi, &nat64.unmapped_packet()]));
    assert_eq!(server.events_from(1).len(), 1, "only Initialized");
}

/// A multi report of more than 1232 octets is malformed, however it became so long.
#[test]
fn section_3_long_multi_reports_are_malformed() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let entries: Vec<_> = (0..1300).map(|n| Client::nth(n).at(20000 + n as u16)).collect();
    let entries: Vec<_> =
        entries.into_iter().filter(|entry| nat64.is_eligible(entry.mapped)).collect();
    let request = nat64.multi_request(&entries);
    assert!(request.len() > 60_000);
    nat64.silent("65 kB", &request);
    let short = nat64.multi_request(&entries[..4]);
    let of_length = |length: usize| {
        let mut request = short.clone();
        while request.len() < length {
            // A message has at most 512 octets, its own header among them.
            let more = (length - request.len()).min(512);
            request.extend(wire::noop(&vec![0; more - 2]));
        }
        request
    };
    nat64.silent("1234", &of_length(1234));
    assert_eq!(server.events_from(1).len(), 1, "only Initialized");
    let first = entries[0];
    assert_eq!(nat64.ask(&of_length(1232)), Reply::report(&first.client.authenticator(), first));
    // The limit is not for what is no multi report.
    let single = [of_length(1232), nat64.report_request(b"authen", first)].concat();
    nat64.silent("two multi reports", &single);
    let mut report = nat64.report_request(b"authen", first);
    (0..4).for_each(|_| report.extend(wire::noop(&[0; 510])));
    assert_eq!(nat64.ask(&report), Reply::report(b"authen", first));
    assert_eq!(server.events_from(5).len(), 5);
}

/// A report that also carries a packet: the entry first, then the packet, each with an answer.
#[test]
fn section_3_a_report_with_a_packet() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let client = Client::nth(1);
    let (entry, authenticator) = (client.at(20001), client.authenticator());
    let report = nat64.report_request(&authenticator, entry);
    let mut replies = Vec::new();
    // The packet is of the reported client: it finds the entry that was just adopted.
    let ipv6 = client.tcp(b"SYN");
    nat64.send(&payload(&[&report, &ipv6]));
    replies.push(nat64.reply());
    replies.push(nat64.reply());
    assert_eq!(replies[0], Reply::report(&authenticator, entry));
    assert_eq!(replies[1], Reply::mapping(&authenticator, entry, &ipv6));
    // A service packet to the port of a client that is reported with it.
    let next = Client::nth(2).at(20002);
    let packet = packet::Ipv4::udp(
        (crate::judge::client::SERVICE, 53),
        (crate::judge::client::PUBLIC, 20002),
        b"answer",
    )
    .octets();
    let authenticator = next.client.authenticator();
    nat64.send(&payload(&[&nat64.report_request(&authenticator, next), &packet]));
    assert_eq!(nat64.reply(), Reply::report(&authenticator, next));
    assert_eq!(nat64.reply(), Reply::mapping(&authenticator, next, &packet));
    nat64.fence();
}
