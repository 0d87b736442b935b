//! Messages: formats, types, lengths, what is skipped and what is dropped.

use crate::judge::client::{Client, PUBLIC, SERVICE};
use crate::judge::nat64::Nat64;
use crate::judge::packet::{self, Ipv4};
use crate::judge::wire::{self, PAYLOAD_MAX, Reply, message, payload};
use crate::server::Server;

/// Types that are reserved or that the server has no use for are skipped, at any length, wherever
/// they stand.
#[test]
fn section_2_unknown_types_are_skipped() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let client = Client::nth(1);
    let mapped = nat64.map(client);
    let packet = client.udp(b"x");
    let expected = Reply::mapping(&client.authenticator(), client.at(mapped), &packet);
    let token = nat64.token_message();
    let authenticator = wire::authenticator(&client.authenticator());
    for kind in [0, 2, 3, 9, 10, 11, 12, 13, 14, 15] {
        for length in [0, 2, 144, 510] {
            // The data looks like a payload: nothing in it may be read.
            let data = [0x34, 0].repeat(255);
            let skipped = message(kind, &data[..length]);
            for parts in [
                [&skipped[..], &token, &authenticator, &packet],
                [&token, &skipped, &authenticator, &packet],
                [&token, &authenticator, &skipped, &packet],
            ] {
                assert_eq!(nat64.ask(&payload(&parts)), expected, "type {kind}, {length} octets");
            }
        }
    }
}

/// A payload with a message of an unknown format is dropped whole, wherever the message stands.
#[test]
fn section_2_unknown_formats_drop_the_payload() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let client = Client::nth(1);
    let (token, packet) = (nat64.token_message(), client.udp(b"x"));
    let authenticator = wire::authenticator(&client.authenticator());
    for format in [0u8, 1, 2, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15] {
        for low in [0, 4, 6, 15] {
            let unknown = [format << 4 | low, 1, 0, 0];
            for parts in [
                [&unknown[..], &token, &authenticator, &packet],
                [&token, &unknown, &authenticator, &packet],
                [&token, &authenticator, &unknown, &packet],
            ] {
                nat64.silent(&format!("format {format}"), &payload(&parts));
            }
        }
        nat64.silent("one octet", &[format << 4]);
        // At the end of a report.
        let report = nat64.report_request(&client.authenticator(), client.at(20000));
        nat64.silent("after a report", &payload(&[&report, &[format << 4]]));
    }
    assert_eq!(nat64.find(20000), None);
    assert_eq!(server.events_from(1).len(), 1, "only Initialized");
}

/// Every truncation of requests that have no packet, a message that runs past the end, an empty
/// payload: dropped.
#[test]
fn section_2_truncated_messages_drop_the_payload() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let client = Client::nth(1);
    nat64.silent("empty", b"");
    let report = nat64.report_request(&client.authenticator(), client.at(20000));
    for end in 0..report.len() {
        nat64.silent(&format!("{end} octets of a report"), &report[..end]);
    }
    let request = nat64.client_request(&client.authenticator(), &client.udp(b"data"));
    for end in 0..request.len() {
        nat64.silent(&format!("{end} octets of a client packet"), &request[..end]);
    }
    let packet = Ipv4::tcp((SERVICE, 80), (PUBLIC, 20000), b"data").octets();
    let request = nat64.service_request(&packet);
    for end in 0..request.len() {
        nat64.silent(&format!("{end} octets of a service packet"), &request[..end]);
    }
    for kind in 0..16 {
        let past = [0x30 | kind, 255, 0, 0];
        nat64.silent("past the end", &payload(&[&nat64.token_message(), &past]));
        nat64.silent("past the end", &past);
    }
    assert_eq!(server.events_from(1).len(), 1, "only Initialized");
}

/// An embedded packet whose own header is impossible is malformed.
#[test]
fn section_2_impossible_packets_drop_the_payload() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let client = Client::nth(1);
    let good = Ipv4::udp((SERVICE, 443), (PUBLIC, 20000), b"data").octets();
    // Total lengths: one more than there is, less than a header.
    for total in [good.len() as u16 + 1, 65535, 0, 19] {
        let mut packet = good.clone();
        packet[2..4].copy_from_slice(&total.to_be_bytes());
        nat64.silent("IPv4 total length", &nat64.service_request(&packet::with_ttl(&packet, 9)));
    }
    // Header lengths: less than five words, more than there is.
    for words in [0, 1, 4, 15] {
        let mut packet = good.clone();
        packet[0] = 0x40 | words;
        nat64.silent("IPv4 header length", &nat64.service_request(&packet));
    }
    let mut packet = client.udp(b"data");
    for length in [packet.len() as u16 - 39, 65535] {
        packet[4..6].copy_from_slice(&length.to_be_bytes());
        nat64.silent("IPv6 length", &nat64.client_request(&client.authenticator(), &packet));
    }
}

/// A type 1 with other content, a type 7 of other length than 32, a type 8 of other length than 2:
/// malformed, whatever else is there.
#[test]
fn section_2_wrong_content_drops_the_payload() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let client = Client::nth(1);
    let packet = client.udp(b"x");
    let authenticator = wire::authenticator(&client.authenticator());
    let mut wrong = Vec::new();
    for place in [0, 1, 71, 142, 143] {
        let mut identifier = *wire::IDENTIFIER;
        identifier[place] ^= 0x20;
        wrong.push(message(1, &identifier));
    }
    wrong.push(message(1, &wire::IDENTIFIER[..142]));
    wrong.push(message(1, &[&wire::IDENTIFIER[..], b"  "].concat()));
    wrong.push(message(1, b""));
    for length in [0, 2, 30, 34, 64, 510] {
        wrong.push(message(7, &vec![0x20; length]));
    }
    for length in [0, 4, 510] {
        wrong.push(message(8, &vec![0x20; length]));
    }
    for wrong in wrong {
        let what = format!("type {}, {} octets", wrong[0] & 15, wrong.len() - 2);
        let parts = [&nat64.token_message()[..], &authenticator, &wrong, &packet];
        nat64.silent(&what, &payload(&parts));
        let entry = wire::entry(client.at(20000));
        let parts = [&nat64.token_message()[..], &authenticator, &entry, &wrong];
        nat64.silent(&what, &payload(&parts));
    }
    assert_eq!(server.events_from(1).len(), 1, "only Initialized");
}

/// A token of any length is accepted, kept and sent back exactly.
#[test]
fn section_2_tokens_of_all_lengths() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let mut random = crate::random::Random::new("tokens");
    let mut before = nat64.token.clone();
    // By rotation: all lengths. The second request shows that the token was kept.
    for length in (0..256).rev().map(|units| 2 * units) {
        let token = random.octets(length);
        let next = nat64.other_token(&token);
        let packet = next.unmapped_packet();
        let aged = packet::with_ttl(&packet, packet::TTL - 1);
        let request = payload(&[&next.token_message(), &wire::rotation(&before), &packet]);
        assert_eq!(next.ask(&request), Reply::returned(&token, &aged), "{length} octets");
        assert!(next.is_known(), "{length} octets");
        before = token;
    }
    // By proof.
    for length in [0, 2, 16, 32, 254, 256, 508, 510] {
        let nat64 = Nat64 { token: random.octets(length), ..Nat64::unknown(&server) };
        nat64.introduce();
    }
}

/// An authenticator of any length is accepted, kept and sent back exactly.
#[test]
fn section_2_authenticators_of_all_lengths() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let mut random = crate::random::Random::new("authenticators");
    for length in (0..=510).step_by(2) {
        let client = Client::nth(length as u32);
        let authenticator = random.octets(length);
        let mapped = nat64.map_with(client, &authenticator);
        assert_eq!(nat64.find(mapped), Some((client.at(mapped), authenticator)), "{length}");
    }
}

/// The messages of a client packet in every order, with and without 5 and 8.
#[test]
fn section_2_messages_in_every_order() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let client = Client::nth(1);
    let mapped = nat64.map(client);
    let packet = client.tcp(b"x");
    let expected = Reply::mapping(&client.authenticator(), client.at(mapped), &packet);
    let parts = [
        nat64.token_message(),
        wire::authenticator(&client.authenticator()),
        wire::hint(20000),
        wire::rotation(b"unknown."),
        wire::noop(b"ab"),
    ];
    for order in wire::permutations(&parts) {
        let request = [order.concat(), packet.clone()].concat();
        assert_eq!(nat64.ask(&request), expected, "{order:02x?}");
    }
    let entry = client.at(mapped);
    let parts = [
        wire::identifier(),
        nat64.token_message(),
        wire::authenticator(&client.authenticator()),
        wire::entry(entry),
        wire::rotation(b"unknown."),
    ];
    for order in wire::permutations(&parts) {
        let expected = Reply::report(&client.authenticator(), entry);
        assert_eq!(nat64.ask(&order.concat()), expected, "{order:02x?}");
    }
}

/// Where a type occurs twice, the first counts.
#[test]
fn section_2_the_first_of_a_type_counts() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let client = Client::nth(1);
    let packet = client.udp(b"x");
    let reply = nat64.ask(&payload(&[
        &nat64.token_message(),
        &wire::token(b"another token!"),
        &wire::authenticator(b"first1"),
        &wire::authenticator(b"second"),
        &wire::hint(20000),
        &wire::hint(20001),
        &packet,
    ]));
    assert_eq!(reply, Reply::mapping(b"first1", client.at(20000), &packet));
    assert_eq!(nat64.find(20000), Some((client.at(20000), b"first1".to_vec())));
    // The unknown token first: no answer, even though a known one follows.
    nat64.send(&payload(&[&wire::token(b"another1"), &nat64.token_message(), &packet]));
    let twice = [&wire::token(b"another1"), &nat64.token_message()[..]].concat();
    nat64.send(&payload(&[&twice, &nat64.unmapped_packet()]));
    nat64.fence();
    nat64.forget_challenges();
    // Of two rotations, the first.
    let next = nat64.other_token(b"next");
    let known = wire::rotation(&nat64.token);
    let unmapped = next.unmapped_packet();
    let request = payload(&[&wire::token(b"next"), &wire::rotation(b"ab"), &known, &unmapped]);
    next.send(&request);
    nat64.fence();
    assert!(!next.is_known());
    let request = payload(&[&wire::token(b"next"), &known, &wire::rotation(b"ab"), &unmapped]);
    let aged = packet::with_ttl(&unmapped, packet::TTL - 1);
    assert_eq!(next.ask(&request), Reply::returned(b"next", &aged));
}

/// Nothing after an embedded packet is parsed, and it is not sent back.
#[test]
fn section_2_octets_after_the_packet_are_ignored() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let client = Client::nth(1);
    let mapped = nat64.map(client);
    let packet = client.udp(b"data");
    let service = Ipv4::udp((SERVICE, 443), (PUBLIC, mapped), b"data").octets();
    let unmapped = nat64.unmapped_packet();
    let authenticator = client.authenticator();
    for extra in [&b"\x00"[..], b"\xff\xff", &wire::token(b"no"), &[0x10; 100], &packet] {
        let request = nat64.client_request(&authenticator, &packet);
        assert_eq!(
            nat64.ask(&payload(&[&request, extra])),
            Reply::mapping(&authenticator, client.at(mapped), &packet)
        );
        let request = nat64.service_request(&service);
        assert_eq!(
            nat64.ask(&payload(&[&request, extra])),
            Reply::mapping(&authenticator, client.at(mapped), &service)
        );
        let request = nat64.service_request(&unmapped);
        assert_eq!(
            nat64.ask(&payload(&[&request, extra])),
            Reply::returned(&nat64.token, &packet::with_ttl(&unmapped, packet::TTL - 1))
        );
    }
    // A token or an authenticator that stands after the packet is not there.
    nat64.silent("token last", &payload(&[&service, &nat64.token_message()]));
    let late = wire::authenticator(&authenticator);
    let request = payload(&[&nat64.token_message(), &packet, &late]);
    nat64.silent("authenticator last", &request);
}

/// Requests up to the largest UDP payload are answered; an answer that would be larger comes
/// without the packet (section 7).
#[test]
fn section_2_payloads_up_to_65507_octets() {
    let server = Server::start(&[]);
    let plain = Nat64::known(&server);
    let client = Client::nth(1);
    let mapped = plain.map(client);
    let authenticator = client.authenticator();
    // The answer has an entry (34) in place of the token message (2 + token).
    for (length, fits) in [(0, false), (30, false), (32, true), (34, true)] {
        let nat64 = Nat64 { token: vec![b't'; length], ..plain.rebooted() };
        nat64.introduce();
        let overhead = nat64.client_request(&authenticator, &client.udp(b"")).len();
        let packet = client.udp(&vec![0xa5; PAYLOAD_MAX - overhead]);
        let request = nat64.client_request(&authenticator, &packet);
        assert_eq!(request.len(), PAYLOAD_MAX);
        let expected = if fits {
            Reply::mapping(&authenticator, client.at(mapped), &packet)
        } else {
            Reply::report(&authenticator, client.at(mapped))
        };
        let reply = nat64.ask(&request);
        assert!(reply == expected, "token of {length} octets, {:?}", reply.entry);
        plain.fence(); // so that it stays among the four known identities
    }
    // A service packet that is not found comes back as large as it went.
    let udp = Ipv4::udp((SERVICE, 443), (PUBLIC, 7), b"").octets();
    let overhead = plain.service_request(&udp).len();
    let data = vec![0x5a; PAYLOAD_MAX - overhead];
    let packet = Ipv4::udp((SERVICE, 443), (PUBLIC, 7), &data).octets();
    let reply = plain.ask(&plain.service_request(&packet));
    assert!(reply == Reply::returned(&plain.token, &packet::with_ttl(&packet, packet::TTL - 1)));
    // One that is found: 6 and 7 are more than the token, so the packet does not fit.
    let packet = Ipv4::udp((SERVICE, 443), (PUBLIC, mapped), &data).octets();
    let reply = plain.ask(&plain.service_request(&packet));
    assert!(reply == Reply::report(&authenticator, client.at(mapped)));
}
