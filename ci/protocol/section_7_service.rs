//! Service packets: found, not found, other protocols.

use crate::judge::client::{Client, PUBLIC, SERVICE};
use crate::judge::nat64::Nat64;
use crate::judge::packet::{self, Ipv4};
use crate::judge::wire::Reply;
use crate::random::Random;
use crate::server::Server;
use std::net::Ipv4Addr;

/// Found: the stored 6, 7, and the packet unchanged, whatever its TTL, options or size.
#[test]
fn section_7_service_packets_that_are_found() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let mut random = Random::new("service packets");
    let client = Client::nth(1);
    let entry = client.at(nat64.map(client));
    for size in [0, 1, 99, 1460, 9000, 60000] {
        let data = random.octets(size);
        for ttl in [255, 64, 2, 1] {
            let (from, to) = ((SERVICE, 443), (PUBLIC, entry.mapped));
            let plain = Ipv4 { ttl, ..Ipv4::udp(from, to, &data) };
            let options = Ipv4 { ttl, options: vec![1; 40], ..Ipv4::tcp(from, to, &data) };
            for packet in [plain.octets(), options.octets()] {
                let reply = nat64.ask(&nat64.service_request(&packet));
                assert!(reply == Reply::mapping(&client.authenticator(), entry, &packet));
            }
        }
    }
    // The embedded addresses are not compared with anything.
    let elsewhere = (Ipv4Addr::new(10, 9, 8, 7), 5);
    for to in [Ipv4Addr::new(10, 1, 2, 3), Ipv4Addr::LOCALHOST, nat64.address] {
        let packet = Ipv4::udp(elsewhere, (to, entry.mapped), b"data").octets();
        let reply = nat64.ask(&nat64.service_request(&packet));
        assert_eq!(reply, Reply::mapping(&client.authenticator(), entry, &packet));
    }
}

/// Not found: returned with the token, the TTL decreased, the header checksum right; nothing else
/// of it is changed.
#[test]
fn section_7_service_packets_that_are_not_found() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let mut random = Random::new("service packets");
    for size in [0, 1, 99, 1460, 9000] {
        let data = random.octets(size);
        for port in [0, 7, 9, 1024, 3544, 6081, nat64.port(), nat64.server.port(), 65535] {
            // Every TTL once, with options and without.
            let ttl = 2 + random.below(254) as u8;
            let (from, to) = ((SERVICE, 443), (PUBLIC, port));
            let plain = Ipv4 { ttl, ..Ipv4::udp(from, to, &data) };
            let options = Ipv4 { ttl, options: vec![1; 12], ..Ipv4::tcp(from, to, &data) };
            for packet in [plain.octets(), options.octets()] {
                let reply = nat64.ask(&nat64.service_request(&packet));
                let aged = packet::with_ttl(&packet, ttl - 1);
                assert_eq!(reply, Reply::returned(&nat64.token, &aged));
                assert!(packet::header_checksum_holds(&aged));
            }
        }
    }
    for ttl in 2..=255 {
        // Identifications that make the checksum wander over all its carries.
        let id = 257 * u16::from(ttl);
        let packet = Ipv4 { ttl, id, ..Ipv4::udp((SERVICE, 1), (PUBLIC, 7), b"") }.octets();
        let reply = nat64.ask(&nat64.service_request(&packet));
        let aged = packet::with_ttl(&packet, ttl - 1);
        assert_eq!(reply, Reply::returned(&nat64.token, &aged));
    }
    assert_eq!(server.events_from(1).len(), 1, "service packets make no entries");
}

/// A packet that would be returned with TTL 0 is dropped.
#[test]
fn section_7_returned_packets_end() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    for ttl in [0, 1] {
        let (from, to) = ((SERVICE, 443), (PUBLIC, 7));
        let udp = Ipv4 { ttl, ..Ipv4::udp(from, to, b"data") }.octets();
        let tcp = Ipv4 { ttl, ..Ipv4::tcp(from, to, b"data") }.octets();
        nat64.silent("TTL", &nat64.service_request(&udp));
        nat64.silent("TTL", &nat64.service_request(&tcp));
    }
    // Two ends that find no entry: it goes back and forth no more often than the TTL says.
    let mut packet = Ipv4 { ttl: 9, ..Ipv4::udp((SERVICE, 1), (PUBLIC, 7), b"") }.octets();
    for _ in 0..8 {
        packet = nat64.ask(&nat64.service_request(&packet)).packet.unwrap();
    }
    nat64.silent("TTL", &nat64.service_request(&packet));
}

/// The whole of a destination unreachable, code 2, about this packet.
fn check_unreachable(nat64: &Nat64, packet: &[u8]) {
    let reply = nat64.ask(&nat64.service_request(packet));
    let answer = reply.packet.clone().expect("a packet");
    assert_eq!(reply, Reply::returned(&nat64.token, &answer));
    let header = 4 * (packet[0] & 15) as usize;
    assert_eq!(answer[0], 0x45);
    assert!(packet::header_checksum_holds(&answer));
    assert!(answer[8] > 0, "TTL");
    assert_eq!(answer[9], packet::ICMP);
    assert_eq!(answer[12..16], packet[16..20], "from where it should have gone");
    assert_eq!(answer[16..20], packet[12..16], "to where it came from");
    assert_eq!(answer[20..22], [3, 2], "destination unreachable, protocol");
    assert_eq!(packet::checksum(&[&answer[20..]]), 0);
    assert_eq!(answer[24..28], [0; 4], "unused");
    // The header and at least 8 octets (RFC 1122).
    let about = &answer[28..];
    assert!(about.len() >= packet.len().min(header + 8), "{} octets", about.len());
    assert_eq!(about, &packet[..about.len()]);
}

/// Other protocols: token and an ICMP destination unreachable, code 2.
#[test]
fn section_7_other_protocols_are_unreachable() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    for protocol in [0, 2, 4, 33, 41, 47, 50, 51, 58, 59, 132, 136, 253, 255] {
        let packet = Ipv4::new(SERVICE, PUBLIC, protocol, &[7; 40]);
        check_unreachable(&nat64, &packet.octets());
    }
    for size in [0, 1, 7, 8, 9, 500, 548, 549, 1500, 9000] {
        let packet = Ipv4::new(SERVICE, PUBLIC, 47, &vec![7; size]);
        check_unreachable(&nat64, &packet.octets());
        let packet = Ipv4 { options: vec![1; 8], ..packet };
        check_unreachable(&nat64, &packet.octets());
    }
    // A first fragment counts as what it is.
    let packet = Ipv4 { more: true, ..Ipv4::new(SERVICE, PUBLIC, 47, &[7; 16]) };
    check_unreachable(&nat64, &packet.octets());
}

/// An ICMP message that is no error is "anything else" too.
#[test]
fn section_7_icmp_echo_is_unreachable() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    for kind in [8, 13] {
        check_unreachable(&nat64, &Ipv4::icmp(SERVICE, PUBLIC, kind, 0, &[0; 20]).octets());
    }
}

/// Within the limits of RFC 1122, section 3.2.2: not about later fragments, nor to or about
/// addresses that are not a single host's.
#[test]
fn section_7_no_unreachable_where_rfc_1122_forbids_it() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let gre = Ipv4::new(SERVICE, PUBLIC, 47, &[0; 16]);
    let silent = |what: &str, packet: Ipv4| {
        nat64.silent(what, &nat64.service_request(&packet.octets()));
    };
    silent("later fragment", Ipv4 { offset: 8, ..gre.clone() });
    silent("last fragment", Ipv4 { offset: 64, more: true, ..gre.clone() });
    for dst in [[224, 0, 0, 1], [239, 1, 2, 3], [255; 4]] {
        silent("destination", Ipv4 { dst: dst.into(), ..gre.clone() });
    }
    for src in [[0; 4], [224, 0, 0, 1], [255; 4], [240, 0, 0, 1]] {
        silent("source", Ipv4 { src: src.into(), ..gre.clone() });
    }
}

/// The same section names a loopback address among the sources that get no ICMP error.
#[test]
fn section_7_no_unreachable_to_loopback() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let packet = Ipv4::new(Ipv4Addr::LOCALHOST, PUBLIC, 47, &[0; 16]).octets();
    nat64.silent("source", &nat64.service_request(&packet));
}

/// TCP and UDP that end before their ports: dropped.
#[test]
fn section_7_service_packets_without_ports_are_dropped() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let mapped = nat64.map(Client::nth(1));
    for end in 0..4 {
        for protocol in [packet::TCP, packet::UDP] {
            let payload = &[[1, 187], mapped.to_be_bytes()].concat()[..end];
            let packet = Ipv4::new(SERVICE, PUBLIC, protocol, payload).octets();
            nat64.silent("no ports", &nat64.service_request(&packet));
        }
    }
}
