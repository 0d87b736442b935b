//! Client packets: TCP and UDP, extension headers, other protocols, source addresses.

use crate::judge::SHORT;
use crate::judge::client::Client;
use crate::judge::nat64::Nat64;
use crate::judge::packet::{
    self, DESTINATION, HOP_BY_HOP, ICMPV6, TCP, UDP, chain, ipv6, options, routing,
};
use crate::judge::wire::Reply;
use crate::random::Random;
use crate::server::Server;

/// The client's packet behind these extension headers.
fn behind(client: Client, headers: &[(u8, Vec<u8>)], last: u8, payload: &[u8]) -> Vec<u8> {
    let (first, octets) = chain(headers, last, payload);
    ipv6(client.address, client.service(), first, &octets)
}

fn segment(client: Client) -> Vec<u8> {
    client.udp(b"data")[40..].to_vec()
}

fn many_options(count: usize) -> Vec<(u8, Vec<u8>)> {
    let kind = |place| if place == 0 { HOP_BY_HOP } else { DESTINATION };
    (0..count).map(|place| options(kind(place))).collect()
}

/// TCP and UDP of all sizes: 6, 7 and the packet unchanged.
#[test]
fn section_7_client_tcp_and_udp() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let mut random = Random::new("client packets");
    for (number, size) in [0, 1, 7, 8, 100, 1280, 1500, 9000].into_iter().enumerate() {
        let client = Client::nth(number as u32);
        let data = random.octets(size);
        let mut mapped = None;
        for packet in [client.udp(&data), client.tcp(&data)] {
            let reply = nat64.ask(&nat64.client_request(b"authen", &packet));
            let entry = reply.entry.expect("an entry");
            assert_eq!(reply, Reply::mapping(b"authen", client.at(entry.mapped), &packet));
            assert_eq!(*mapped.get_or_insert(entry.mapped), entry.mapped);
        }
    }
}

/// Traffic class, flow label and hop limit make no difference and are not changed.
#[test]
fn section_7_client_headers_are_not_changed() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let client = Client::nth(1);
    let mapped = nat64.map(client);
    for (first, hops) in [([0x6f, 0xff, 0xff, 0xff], 255), ([0x61, 0x23, 0x45, 0x67], 1)] {
        let mut packet = client.tcp(b"data");
        packet[..4].copy_from_slice(&first);
        packet[7] = hops;
        let reply = nat64.ask(&nat64.client_request(b"authen", &packet));
        assert_eq!(reply, Reply::mapping(b"authen", client.at(mapped), &packet));
    }
}

/// Hop-by-hop, destination options and routing without segments left are walked, eight at most.
#[test]
fn section_7_extension_headers_are_walked() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let client = Client::nth(1);
    let mapped = nat64.map(client);
    let mut mixed = many_options(4);
    mixed.push(routing(0));
    mixed.push(options(DESTINATION));
    // 32 octets: one PadN.
    let long = vec![(DESTINATION, [&[3, 1, 28][..], &[0; 28]].concat())];
    for headers in [
        many_options(1),
        vec![options(DESTINATION)],
        vec![routing(0)],
        mixed,
        long,
        many_options(7),
        many_options(8),
    ] {
        let packet = behind(client, &headers, UDP, &segment(client));
        let reply = nat64.ask(&nat64.client_request(b"authen", &packet));
        assert_eq!(reply, Reply::mapping(b"authen", client.at(mapped), &packet));
        let tcp = client.tcp(b"")[40..].to_vec();
        let packet = behind(client, &headers, TCP, &tcp);
        let reply = nat64.ask(&nat64.client_request(b"authen", &packet));
        assert_eq!(reply, Reply::mapping(b"authen", client.at(mapped), &packet));
    }
}

/// Nine headers, a routing header with segments left, headers past the end: dropped.
#[test]
fn section_7_extension_headers_that_are_dropped() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let client = Client::nth(1);
    let silent = |what: &str, packet: &[u8]| {
        nat64.silent(what, &nat64.client_request(b"authen", packet));
    };
    for count in [9, 10, 100] {
        let packet = behind(client, &many_options(count), UDP, &segment(client));
        silent("too many headers", &packet);
    }
    for segments in [1, 255] {
        let packet = behind(client, &[routing(segments)], UDP, &segment(client));
        silent("segments left", &packet);
        let headers = [options(HOP_BY_HOP), routing(segments)];
        silent("segments left", &behind(client, &headers, UDP, &segment(client)));
    }
    // A header whose length runs past the end of the packet.
    for length in [1, 5, 255] {
        let header = vec![(DESTINATION, vec![length, 1, 4, 0, 0, 0, 0])];
        silent("header past the end", &behind(client, &header, UDP, b""));
    }
    // Packets that end within a header, or without the ports.
    for end in 0..8 {
        let (first, octets) = chain(&[options(DESTINATION)], UDP, b"");
        let packet = ipv6(client.address, client.service(), first, &octets[..end]);
        silent("end within a header", &packet);
    }
    for end in 0..4 {
        for protocol in [TCP, UDP] {
            let half = &segment(client)[..end];
            silent("no ports", &ipv6(client.address, client.service(), protocol, half));
            silent("no ports", &behind(client, &many_options(1), protocol, half));
        }
    }
    assert_eq!(server.events_from(1).len(), 1, "only Initialized");
}

/// A packet about which the parameter problem is checked: the whole answer.
fn check_problem(nat64: &Nat64, client: Client, packet: &[u8], pointer: u32) {
    let reply = nat64.ask(&nat64.client_request(b"authen", packet));
    let answer = reply.packet.clone().expect("a packet");
    assert_eq!(reply.authenticator.as_deref(), Some(&b"authen"[..]));
    assert_eq!((reply.token, reply.entry), (None, None));
    assert!(answer.len() <= 1280, "{} octets", answer.len());
    assert_eq!(answer[0] >> 4, 6);
    assert_eq!(answer[6], ICMPV6);
    assert!(answer[7] > 0, "hop limit");
    assert_eq!(packet::addresses6(&answer), (client.service(), client.address));
    assert_eq!(answer[40..42], [4, 1], "parameter problem, unrecognised next header");
    assert_eq!(answer[44..48], pointer.to_be_bytes(), "pointer");
    assert!(packet::icmpv6_checksum_holds(&answer));
    // As much of the packet as fits.
    let about = &answer[48..];
    assert_eq!(about, &packet[..packet.len().min(1280 - 48)]);
}

/// Other next headers: parameter problem, code 1, with the right pointer, at most 1280 octets.
#[test]
fn section_7_other_next_headers_are_a_parameter_problem() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let client = Client::nth(1);
    // 59 (no next header) is left out: nothing is unrecognised there.
    for protocol in [1, 2, 4, 33, 41, 47, 50, 51, 132, 135, 136, 139, 140, 253, 254, 255] {
        let packet = ipv6(client.address, client.service(), protocol, b"some data");
        check_problem(&nat64, client, &packet, 6);
    }
    for (headers, pointer) in [(1, 40), (2, 48), (7, 88), (8, 96)] {
        let packet = behind(client, &many_options(headers), 253, b"some data");
        check_problem(&nat64, client, &packet, pointer);
    }
    let packet = behind(client, &[packet::fragment6(0, true, 7)], 253, &[9; 16]);
    check_problem(&nat64, client, &packet, 40);
    for size in [0, 1, 1191, 1192, 1193, 1232, 1240, 1500, 9000] {
        let packet = ipv6(client.address, client.service(), 253, &vec![7; size]);
        check_problem(&nat64, client, &packet, 6);
    }
    assert_eq!(server.events_from(1).len(), 1, "only Initialized");
}

/// Never about a packet to a multicast address (RFC 4443, section 2.4), nor without a usable
/// source.
#[test]
fn section_7_no_parameter_problem_about_multicast() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let client = Client::nth(1);
    for destination in ["ff02::1", "ff0e::cb00:7105"] {
        let packet = ipv6(client.address, destination.parse().unwrap(), 253, b"data");
        nat64.silent("to multicast", &nat64.client_request(b"authen", &packet));
    }
    for source in ["ff02::1", "ff0e::1", "::", "::1", "fe80::1", "::ffff:192.0.2.1"] {
        let packet = ipv6(source.parse().unwrap(), client.service(), 253, b"data");
        nat64.silent("bad source", &nat64.client_request(b"authen", &packet));
    }
}

/// No next header (59): what to do with it is left open, only that no entry comes of it.
#[test]
fn section_7_no_next_header() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let client = Client::nth(1);
    let packet = ipv6(client.address, client.service(), 59, &segment(client));
    nat64.send(&nat64.client_request(b"authen", &packet));
    if let Some(reply) = nat64.try_reply(SHORT) {
        assert_eq!(reply.entry, None);
        let answer = reply.packet.unwrap();
        assert_eq!(answer[40..42], [4, 1]);
        assert_eq!(answer[44..48], [0, 0, 0, 6]);
        assert!(packet::icmpv6_checksum_holds(&answer));
    }
    assert_eq!(server.events_from(1).len(), 1, "only Initialized");
}

/// Sources that cannot be clients: dropped, whatever the packet is.
#[test]
fn section_7_impossible_sources_are_dropped() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    for source in [
        "::",
        "::1",
        "ff01::1",
        "ff02::1",
        "ff0e::1",
        "ffff::1",
        "::ffff:192.0.2.1",
        "::ffff:0:0",
        "fe80::1",
        "fe80:1::1",
        "febf::1",
    ] {
        let client = Client::parse(source, 40000);
        let echo = packet::icmpv6(client.address, client.service(), 128, 0, &[0, 1, 0, 1]);
        for packet in [client.udp(b"data"), client.tcp(b""), echo] {
            nat64.silent(source, &nat64.client_request(b"authen", &packet));
        }
    }
    assert_eq!(server.events_from(1).len(), 1, "only Initialized");
    // Their neighbours can be.
    for source in ["::2", "fe7f::1", "fec0::1", "fd00::1", "feff:ffff::1", "::fffe:192.0.2.1"] {
        nat64.map(Client::parse(source, 40000));
    }
}

/// The destination's last 32 bits and the outer addresses are not compared; checksums of TCP and
/// UDP are not the server's business (a packet is translated elsewhere).
#[test]
fn section_7_destinations_are_not_compared() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let client = Client::nth(1);
    let mapped = nat64.map(client);
    for last in [[0, 0, 0, 0], [127, 0, 0, 1], [10, 1, 2, 3], [255; 4]] {
        let mut service = client.service().octets();
        service[12..].copy_from_slice(&last);
        let packet = packet::udp6((client.address, client.port), (service.into(), 80), b"data");
        let reply = nat64.ask(&nat64.client_request(b"authen", &packet));
        assert_eq!(reply, Reply::mapping(b"authen", client.at(mapped), &packet));
    }
}
