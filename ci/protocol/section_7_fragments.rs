//! Fragments: first ones count as what they carry and leave a note, later ones are answered by it.

use crate::judge::client::{Client, PUBLIC, SERVICE};
use crate::judge::nat64::Nat64;
use crate::judge::packet::{
    self, DESTINATION, HOP_BY_HOP, Ipv4, UDP, chain, fragment6, ipv6, options,
};
use crate::judge::wire::Reply;
use crate::server::Server;
use std::net::Ipv4Addr;
use std::time::Duration;

/// The first fragment of a datagram with these ports.
fn first6(client: Client, id: u32) -> Vec<u8> {
    let segment = client.udp(&[5; 100])[40..56].to_vec();
    let (next, octets) = chain(&[fragment6(0, true, id)], UDP, &segment);
    ipv6(client.address, client.service(), next, &octets)
}

fn later6(client: Client, id: u32, offset: u16, more: bool) -> Vec<u8> {
    let (next, octets) = chain(&[fragment6(offset, more, id)], UDP, &[6; 24]);
    ipv6(client.address, client.service(), next, &octets)
}

/// IPv6: first, later ones in any order, last; each answered with 6, 7 and itself.
#[test]
fn section_7_ipv6_fragments() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let client = Client::nth(1);
    let first = first6(client, 77);
    let reply = nat64.ask(&nat64.client_request(b"authen", &first));
    let entry = client.at(reply.entry.expect("an entry").mapped);
    assert_eq!(reply, Reply::mapping(b"authen", entry, &first));
    assert_eq!(nat64.map(client), entry.mapped);
    for (offset, more) in [(16, true), (64, true), (40, true), (88, false), (65504, false)] {
        let packet = later6(client, 77, offset, more);
        let reply = nat64.ask(&nat64.client_request(b"authen", &packet));
        assert_eq!(reply, Reply::mapping(b"authen", entry, &packet), "offset {offset}");
    }
    // Behind other headers, in both places.
    let headers = [options(HOP_BY_HOP), fragment6(0, true, 78), options(DESTINATION)];
    let (next, octets) = chain(&headers, UDP, &client.udp(&[5; 100])[40..56]);
    let packet = ipv6(client.address, client.service(), next, &octets);
    let reply = nat64.ask(&nat64.client_request(b"authen", &packet));
    assert_eq!(reply, Reply::mapping(b"authen", entry, &packet));
    let headers = [options(HOP_BY_HOP), fragment6(24, false, 78)];
    let (next, octets) = chain(&headers, DESTINATION, &[8; 32]);
    let packet = ipv6(client.address, client.service(), next, &octets);
    let reply = nat64.ask(&nat64.client_request(b"authen", &packet));
    assert_eq!(reply, Reply::mapping(b"authen", entry, &packet));
    // An atomic fragment is a first one.
    let (next, octets) = chain(&[fragment6(0, false, 79)], UDP, &client.udp(b"data")[40..]);
    let packet = ipv6(client.address, client.service(), next, &octets);
    let reply = nat64.ask(&nat64.client_request(b"authen", &packet));
    assert_eq!(reply, Reply::mapping(b"authen", entry, &packet));
}

/// A later fragment without a note (source, destination and identification all count) is dropped.
#[test]
fn section_7_ipv6_fragments_without_a_note() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let client = Client::nth(1);
    nat64.map(client);
    let silent = |what: &str, packet: &[u8]| {
        nat64.silent(what, &nat64.client_request(b"authen", packet));
    };
    silent("no note", &later6(client, 77, 16, false));
    nat64.ask(&nat64.client_request(b"authen", &first6(client, 77)));
    silent("other identification", &later6(client, 78, 16, false));
    silent("other source", &later6(Client::nth(2), 77, 16, false));
    let other_prefix = client.prefix(crate::judge::client::OTHER_PREFIX);
    silent("other destination", &later6(other_prefix, 77, 16, false));
    let mut last = later6(client, 77, 16, false);
    last[39] ^= 1;
    silent("other destination", &last);
    // A first fragment that has no ports leaves no note.
    let (next, octets) = chain(&[fragment6(0, true, 90)], UDP, &[]);
    silent("no ports", &ipv6(client.address, client.service(), next, &octets));
    silent("no note", &later6(client, 90, 16, false));
    // Another NAT64's notes are its own.
    let other = Nat64::known(&server);
    other.silent("other NAT64", &other.client_request(b"authen", &later6(client, 77, 16, false)));
    assert_eq!(server.events_from(3).len(), 3);
}

/// At most 1024 notes in a shard, the oldest goes first.
#[test]
fn section_7_fragment_notes_are_bounded() {
    let server = Server::start_single(&[]);
    let nat64 = Nat64::known(&server);
    let client = Client::nth(1);
    let mapped = nat64.map(client);
    let make = |id: u32| {
        let packet = first6(client, id);
        let reply = nat64.ask(&nat64.client_request(b"authen", &packet));
        assert_eq!(reply, Reply::mapping(b"authen", client.at(mapped), &packet));
    };
    let known = |id: u32| {
        let packet = later6(client, id, 16, false);
        let reply = nat64.ask(&nat64.client_request(b"authen", &packet));
        assert_eq!(reply, Reply::mapping(b"authen", client.at(mapped), &packet));
    };
    (0..1024).for_each(make);
    (0..1024).rev().for_each(known);
    make(1024);
    make(1025);
    for id in [0, 1] {
        let request = nat64.client_request(b"authen", &later6(client, id, 16, false));
        nat64.silent("oldest note", &request);
    }
    (2..1026).for_each(known);
}

fn first4(mapped: u16, id: u16) -> Ipv4 {
    let mut packet = Ipv4::udp((SERVICE, 443), (PUBLIC, mapped), &[5; 100]);
    packet.payload.truncate(16);
    (packet.id, packet.more) = (id, true);
    packet
}

fn later4(id: u16, offset: u16, more: bool) -> Ipv4 {
    let packet = Ipv4::new(SERVICE, PUBLIC, UDP, &[6; 24]);
    Ipv4 { id, offset, more, ..packet }
}

/// IPv4: first, later ones, last; each answered with the stored 6, 7 and itself.
#[test]
fn section_7_ipv4_fragments() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let client = Client::nth(1);
    let entry = client.at(nat64.map(client));
    let ask = |packet: &Ipv4| {
        let octets = packet.octets();
        let reply = nat64.ask(&nat64.service_request(&octets));
        let stored = client.authenticator();
        assert_eq!(reply, Reply::mapping(&stored, entry, &octets));
    };
    ask(&first4(entry.mapped, 77));
    for (offset, more) in [(16, true), (64, true), (40, true), (88, false)] {
        ask(&later4(77, offset, more));
    }
    // Options, and don't-fragment is not a fragment.
    ask(&Ipv4 { options: vec![1; 4], ..later4(77, 112, false) });
    let mut packet = Ipv4::tcp((SERVICE, 443), (PUBLIC, entry.mapped), b"").octets();
    packet[6] |= 0x40;
    let packet = packet::with_ttl(&packet, 3);
    let reply = nat64.ask(&nat64.service_request(&packet));
    assert_eq!(reply, Reply::mapping(&client.authenticator(), entry, &packet));
}

/// Without a note: dropped. A first fragment to a port that is not mapped goes back as any packet,
/// and leaves no note.
#[test]
fn section_7_ipv4_fragments_without_a_note() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let client = Client::nth(1);
    let entry = client.at(nat64.map(client));
    let silent = |what: &str, packet: &Ipv4| {
        nat64.silent(what, &nat64.service_request(&packet.octets()));
    };
    silent("no note", &later4(77, 16, false));
    let first = first4(entry.mapped, 77).octets();
    nat64.ask(&nat64.service_request(&first));
    silent("other identification", &later4(78, 16, false));
    let other = Ipv4Addr::new(198, 51, 100, 1);
    silent("other source", &Ipv4 { src: other, ..later4(77, 16, false) });
    silent("other destination", &Ipv4 { dst: other, ..later4(77, 16, false) });
    let lost = first4(7, 79).octets();
    let reply = nat64.ask(&nat64.service_request(&lost));
    let aged = packet::with_ttl(&lost, packet::TTL - 1);
    assert_eq!(reply, Reply::returned(&nat64.token, &aged));
    silent("no note", &later4(79, 16, false));
    // Later fragments of other protocols: no ICMP about them either (RFC 1122).
    silent("other protocol", &Ipv4 { protocol: 47, ..later4(80, 16, false) });
}

/// A note of one family is none for the other, and TCP is noted like UDP.
#[test]
fn section_7_fragments_of_tcp() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let client = Client::nth(1);
    let entry = client.at(nat64.map(client));
    let segment = client.tcp(&[5; 100])[40..64].to_vec();
    let (next, octets) = chain(&[fragment6(0, true, 77)], packet::TCP, &segment);
    let packet = ipv6(client.address, client.service(), next, &octets);
    let reply = nat64.ask(&nat64.client_request(b"authen", &packet));
    assert_eq!(reply, Reply::mapping(b"authen", entry, &packet));
    let (next, octets) = chain(&[fragment6(24, false, 77)], packet::TCP, &[9; 8]);
    let packet = ipv6(client.address, client.service(), next, &octets);
    let reply = nat64.ask(&nat64.client_request(b"authen", &packet));
    assert_eq!(reply, Reply::mapping(b"authen", entry, &packet));
    let mut packet = Ipv4::tcp((SERVICE, 443), (PUBLIC, entry.mapped), &[5; 100]);
    packet.payload.truncate(24);
    (packet.id, packet.more) = (77, true);
    let octets = packet.octets();
    let reply = nat64.ask(&nat64.service_request(&octets));
    assert_eq!(reply, Reply::mapping(b"authen", entry, &octets));
    let later = Ipv4 { protocol: packet::TCP, ..later4(77, 24, false) }.octets();
    let reply = nat64.ask(&nat64.service_request(&later));
    assert_eq!(reply, Reply::mapping(b"authen", entry, &later));
}

/// Notes last 15 s.
#[test]
fn section_7_fragment_notes_expire() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let client = Client::nth(1);
    let entry = client.at(nat64.map(client));
    nat64.ask(&nat64.client_request(b"authen", &first6(client, 77)));
    nat64.ask(&nat64.service_request(&first4(entry.mapped, 77).octets()));
    // The time itself is what this is about.
    std::thread::sleep(Duration::from_secs(12));
    // Still there. (The first is not asked again before 15 s are over: whether use prolongs a note
    // is not said.)
    let later = later4(77, 16, false).octets();
    let reply = nat64.ask(&nat64.service_request(&later));
    assert_eq!(reply, Reply::mapping(b"authen", entry, &later));
    std::thread::sleep(Duration::from_secs(4));
    let request = nat64.client_request(b"authen", &later6(client, 77, 16, false));
    nat64.silent("a note of 16 s", &request);
}
