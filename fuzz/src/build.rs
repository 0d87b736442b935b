//! Makes what a NAT64 sends: payloads and the packets within, of every kind that PROTOCOL.md tells
//! apart.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::judge::client::Entry;
pub use super::judge::client::{PUBLIC as NAT64, SERVICE};
use super::judge::packet::{self, Ipv4};

/// The ICMPv6 error in [`ipv6`] comes from here.
const ROUTER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1);
/// How many kinds of packet [`ipv6`] and [`ipv4`] make.
pub const PACKET_KINDS: u8 = 16;
/// The service's port.
const HTTPS: u16 = 443;
/// The octets of a packet that fits into a payload with its messages, but not with an entry more.
const LARGE: usize = 65_480;

/// The first octets of TCP or UDP.
fn transport(source: u16, destination: u16) -> Vec<u8> {
    [&source.to_be_bytes()[..], &destination.to_be_bytes(), &[0, 12, 0, 0, b'd', b'a', b't', b'a']]
        .concat()
}

/// A packet of the client that `entry` stands for (its mapped port does not matter) to the service,
/// of the kind `kind` modulo [`PACKET_KINDS`]. `id` tells packets apart that come in fragments.
pub fn ipv6(kind: u8, entry: Entry, id: u8) -> Vec<u8> {
    let (service, client) = (entry.client.service(), entry.client.address);
    let udp = transport(entry.client.port, HTTPS);
    let packet = |next, data: &[u8]| packet::ipv6(client, service, next, data);
    let behind = |header: &[u8], data: &[u8]| [header, data].concat();
    let icmp = |kind, source, data: &[u8]| {
        packet::icmpv6(source, service, kind, 0, &[&[0, 0, 0, 1], data].concat())
    };
    match kind % PACKET_KINDS {
        0 => packet(6, &udp),
        1 => packet(17, &udp),
        // Hop-by-hop options, then destination options, then UDP.
        2 => packet(0, &behind(&[60, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0], &udp)),
        // A first fragment, and a later one.
        3 => packet(44, &behind(&[17, 0, 0, 1, 0, 0, 0, id], &udp)),
        4 => packet(44, &behind(&[17, 0, 0, 16, 0, 0, 0, id], b"more of it")),
        5 => icmp(128, client, b"ping"),
        6 => packet(58, &behind(&[128, 0, 0, 0, 0, 0, 0, id], b"a wrong checksum")),
        // Packet too big, from a router, about a packet that went to the client.
        7 => {
            let about = packet::ipv6(service, client, 17, &transport(HTTPS, entry.client.port));
            icmp(2, ROUTER, &about)
        }
        8 => icmp(129, client, b"pong"),
        9 => packet(132, &udp),
        10 => packet(43, &behind(&[17, 0, 4, id & 1, 0, 0, 0, 0], &udp)),
        11 => packet(
            60,
            &behind(
                &[60, 0, 1, 4, 0, 0, 0, 0].repeat(7 + usize::from(id & 1)),
                &[17, 0, 1, 4, 0, 0, 0, 0, 1, 0, 1, 0],
            ),
        ),
        12 => packet(60, &behind(&[132, 0, 1, 4, 0, 0, 0, 0], &udp)),
        13 => packet(17, &udp[..2]),
        // The same error about a later fragment.
        14 => {
            let about = behind(&[17, 0, 0, 16, 0, 0, 0, id], &transport(HTTPS, entry.client.port));
            let about = packet::ipv6(service, client, 44, &about);
            icmp(1, client, &about)
        }
        _ => packet(17, &behind(&udp, &vec![0; LARGE - 40 - udp.len()])),
    }
}

/// A packet of the service to the NAT64's mapped port `port`, of the kind `kind` modulo
/// [`PACKET_KINDS`].
pub fn ipv4(kind: u8, port: u16) -> Vec<u8> {
    let udp = transport(HTTPS, port);
    let to = |protocol, data: &[u8]| Ipv4 { id: 1, ..Ipv4::new(SERVICE, NAT64, protocol, data) };
    let whole = |protocol, data: &[u8]| Ipv4 { dont_fragment: true, ..to(protocol, data) };
    // What the NAT64 sent, and some router has to say about it.
    let about = |protocol, offset| {
        let about = Ipv4 {
            src: NAT64,
            dst: SERVICE,
            ttl: 1,
            offset,
            dont_fragment: offset == 0,
            ..to(protocol, &transport(port, HTTPS))
        };
        whole(1, &[&[11, 0, 0, 0, 0, 0, 0, 0][..], &about.octets()].concat())
    };
    let packet = match kind % PACKET_KINDS {
        0 => whole(6, &udp),
        1 => whole(17, &udp),
        2 => Ipv4 { options: vec![1; 8], ..whole(17, &udp) },
        3 => Ipv4 { more: true, ..to(17, &udp) },
        4 => Ipv4 { offset: 16, ..to(17, b"more of it") },
        5 => about(6, 0),
        6 => whole(1, &[8, 0, 0, 0, 0, 0, 0, 1]),
        7 => whole(1, &[200, 0, 0, 0, 0, 0, 0, 0]),
        8 => whole(132, &udp),
        9 => whole(17, &udp[..3]),
        10 => about(1, 0),
        11 => Ipv4 { ttl: (port & 1) as u8, ..whole(6, &udp) },
        12 => about(17, 16),
        13 => Ipv4 { src: Ipv4Addr::BROADCAST, ..whole(132, &udp) },
        14 => Ipv4 { more: true, ..to(1, &[8, 0, 0, 0, 0, 0, 0, 1]) },
        _ => whole(17, &[&udp[..], &vec![0; LARGE - 20 - udp.len()]].concat()),
    };
    packet.octets()
}

/// A validation packet as it arrived at port 9 of the NAT64: what is returned to prove that.
pub fn validation_datagram(payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len()) as u16;
    let ports = [64064_u16, 9, length, 0].map(u16::to_be_bytes).concat();
    let data = [&ports, payload].concat();
    Ipv4 { id: 1, ttl: 60, ..Ipv4::new(SERVICE, NAT64, 17, &data) }.octets()
}
