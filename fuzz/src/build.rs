//! Makes what a NAT64 sends: payloads and the packets within, of every kind that PROTOCOL.md tells apart.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::messages::{Entry, IDENTIFIER, icmpv6_sum, sum};

/// The service, as an IPv4 host.
pub const SERVICE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
/// The NAT64, as the service sees it.
pub const NAT64: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
/// The ICMPv6 error in [`ipv6`] comes from here.
const ROUTER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1);
/// How many kinds of packet [`ipv6`] and [`ipv4`] make.
pub const PACKET_KINDS: u8 = 16;
/// The service's port.
const HTTPS: u16 = 443;
/// The octets of a packet that fits into a payload with its messages, but not with an entry more.
const LARGE: usize = 65_480;

/// A message of section 2.
pub fn message(kind: u8, data: &[u8]) -> Vec<u8> {
    [&[0x30 | kind, (data.len() / 2) as u8][..], data].concat()
}

/// A protocol identifier message.
pub fn identifier() -> Vec<u8> {
    message(1, IDENTIFIER)
}

/// A message of type 7.
pub fn entry_message(entry: Entry) -> Vec<u8> {
    let (port, client_port) = (entry.port.to_be_bytes(), entry.client_port.to_be_bytes());
    message(7, &[&port[..], &entry.prefix, &entry.address.octets(), &client_port].concat())
}

/// The first octets of TCP or UDP.
fn transport(source: u16, destination: u16) -> Vec<u8> {
    [&source.to_be_bytes()[..], &destination.to_be_bytes(), &[0, 12, 0, 0, b'd', b'a', b't', b'a']]
        .concat()
}

/// An IPv6 packet.
fn ipv6_packet(next: u8, source: Ipv6Addr, destination: Ipv6Addr, data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u16).to_be_bytes();
    let front = [0x60, 0, 0, 0, length[0], length[1], next, 64];
    [&front[..], &source.octets(), &destination.octets(), data].concat()
}

fn icmpv6(kind: u8, source: Ipv6Addr, destination: Ipv6Addr, data: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, 0, 0, 0, 0, 0, 0, 1][..], data].concat();
    let checksum = !icmpv6_sum(source, destination, &message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    message
}

/// A packet of the client that `entry` stands for (its mapped port does not matter) to the service, of the
/// kind `kind` modulo [`PACKET_KINDS`]. `id` tells packets apart that come in fragments.
pub fn ipv6(kind: u8, entry: Entry, id: u8) -> Vec<u8> {
    let service = [&entry.prefix[..], &SERVICE.octets()].concat();
    let service = Ipv6Addr::from(<[u8; 16]>::try_from(service).unwrap());
    let client = entry.address;
    let udp = transport(entry.client_port, HTTPS);
    let packet = |next, data: &[u8]| ipv6_packet(next, client, service, data);
    let behind = |header: &[u8], data: &[u8]| [header, data].concat();
    match kind % PACKET_KINDS {
        0 => packet(6, &udp),
        1 => packet(17, &udp),
        // Hop-by-hop options, then destination options, then UDP.
        2 => packet(0, &behind(&[60, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0], &udp)),
        // A first fragment, and a later one.
        3 => packet(44, &behind(&[17, 0, 0, 1, 0, 0, 0, id], &udp)),
        4 => packet(44, &behind(&[17, 0, 0, 16, 0, 0, 0, id], b"more of it")),
        5 => packet(58, &icmpv6(128, client, service, b"ping")),
        6 => packet(58, &behind(&[128, 0, 0, 0, 0, 0, 0, id], b"a wrong checksum")),
        // Packet too big, from a router, about a packet that went to the client.
        7 => {
            let about = ipv6_packet(17, service, client, &transport(HTTPS, entry.client_port));
            ipv6_packet(58, ROUTER, service, &icmpv6(2, ROUTER, service, &about))
        }
        8 => packet(58, &icmpv6(129, client, service, b"pong")),
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
            let about = behind(&[17, 0, 0, 16, 0, 0, 0, id], &transport(HTTPS, entry.client_port));
            let about = ipv6_packet(44, service, client, &about);
            ipv6_packet(58, client, service, &icmpv6(1, client, service, &about))
        }
        _ => packet(17, &behind(&udp, &vec![0; LARGE - 40 - udp.len()])),
    }
}

/// An IPv4 packet with `options`, whose flags and offset are `fragment`.
fn ipv4_packet(
    protocol: u8,
    [source, destination]: [Ipv4Addr; 2],
    fragment: u16,
    ttl: u8,
    options: &[u8],
    data: &[u8],
) -> Vec<u8> {
    let header = 20 + options.len();
    let length = ((header + data.len()) as u16).to_be_bytes();
    let fragment = fragment.to_be_bytes();
    let first = 0x40 | (header / 4) as u8;
    let front =
        [first, 0, length[0], length[1], 0, 1, fragment[0], fragment[1], ttl, protocol, 0, 0];
    let mut packet = [&front[..], &source.octets(), &destination.octets(), options, data].concat();
    let checksum = !sum(&packet[..header]);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// A packet of the service to the NAT64's mapped port `port`, of the kind `kind` modulo [`PACKET_KINDS`].
pub fn ipv4(kind: u8, port: u16) -> Vec<u8> {
    const WHOLE: u16 = 0x4000;
    const MORE: u16 = 0x2000;
    let to = [SERVICE, NAT64];
    let udp = transport(HTTPS, port);
    let packet = |protocol, data: &[u8]| ipv4_packet(protocol, to, WHOLE, 64, &[], data);
    // What the NAT64 sent, and some router has to say about it.
    let about = |protocol, fragment| {
        let about =
            ipv4_packet(protocol, [NAT64, SERVICE], fragment, 1, &[], &transport(port, HTTPS));
        packet(1, &[&[11, 0, 0, 0, 0, 0, 0, 0][..], &about].concat())
    };
    match kind % PACKET_KINDS {
        0 => packet(6, &udp),
        1 => packet(17, &udp),
        2 => ipv4_packet(17, to, WHOLE, 64, &[1; 8], &udp),
        3 => ipv4_packet(17, to, MORE, 64, &[], &udp),
        4 => ipv4_packet(17, to, 2, 64, &[], b"more of it"),
        5 => about(6, WHOLE),
        6 => packet(1, &[8, 0, 0, 0, 0, 0, 0, 1]),
        7 => packet(1, &[200, 0, 0, 0, 0, 0, 0, 0]),
        8 => packet(132, &udp),
        9 => packet(17, &udp[..3]),
        10 => about(1, WHOLE),
        11 => ipv4_packet(6, to, WHOLE, (port & 1) as u8, &[], &udp),
        12 => about(17, 2),
        13 => ipv4_packet(132, [Ipv4Addr::BROADCAST, NAT64], WHOLE, 64, &[], &udp),
        14 => ipv4_packet(1, to, MORE, 64, &[], &[8, 0, 0, 0, 0, 0, 0, 1]),
        _ => packet(17, &[&udp[..], &vec![0; LARGE - 20 - udp.len()]].concat()),
    }
}

/// A validation packet as it arrived at port 9 of the NAT64: what is returned to prove that.
pub fn validation_datagram(payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len()) as u16;
    let ports = [64064_u16, 9, length, 0].map(u16::to_be_bytes).concat();
    ipv4_packet(17, [SERVICE, NAT64], 0, 60, &[], &[&ports, payload].concat())
}
