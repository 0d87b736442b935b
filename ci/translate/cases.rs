//! The packets that both translators get.

use std::net::{Ipv4Addr, Ipv6Addr};

use nat64handoff::ip::checksum::checksum;

use crate::judge::samples::{TO_IPV4, TO_IPV6, from4, from6, octets};

/// The client, and the address that stands for it.
pub const CLIENT: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x17);
pub const CLIENT4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
/// The service, and the address that it has behind the prefix.
pub const SERVICE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xd246, 0, 0, 0, 0xcb00, 0x7105);
pub const SERVICE4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);

/// The prefix of the samples. TAYGA translates no documentation addresses with it (RFC 6052 section
/// 3.1).
const WELL_KNOWN: [u8; 12] = [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0];

/// A packet with a name.
pub struct Case {
    pub name: String,
    pub packet: Vec<u8>,
}

fn case(name: impl Into<String>, packet: Vec<u8>) -> Case {
    Case { name: name.into(), packet: other_prefix(packet) }
}

/// The same packet with the prefix of [`SERVICE`], which adds up to 0 too: all checksums stay as
/// they are.
pub fn other_prefix(mut packet: Vec<u8>) -> Vec<u8> {
    for at in 0..packet.len().saturating_sub(WELL_KNOWN.len()) {
        if packet[at..].starts_with(&WELL_KNOWN) {
            put(&mut packet, at, &SERVICE.octets()[..WELL_KNOWN.len()]);
        }
    }
    packet
}

fn put(packet: &mut [u8], at: usize, octets: &[u8]) {
    packet[at..at + octets.len()].copy_from_slice(octets);
}

/// Sets lengths and checksums of the outside right, that of the transport too where it is whole.
pub fn mend(packet: &mut [u8]) {
    let length = packet.len();
    let (protocol, at, addresses) = if packet[0] >> 4 == 6 {
        put(packet, 4, &((length - 40) as u16).to_be_bytes());
        (packet[6], 40, packet[8..40].to_vec())
    } else {
        let at = usize::from(packet[0] & 15) * 4;
        put(packet, 2, &(length as u16).to_be_bytes());
        put(packet, 10, &[0, 0]);
        let checksum = checksum(&[&packet[..at]]);
        put(packet, 10, &checksum.to_be_bytes());
        (packet[9], at, packet[12..20].to_vec())
    };
    let checksum_at = match protocol {
        1 | 58 => at + 2,
        6 => at + 16,
        17 => at + 6,
        _ => return,
    };
    put(packet, checksum_at, &[0, 0]);
    let length = ((length - at) as u32).to_be_bytes();
    let pseudo = [&addresses[..], &length, &[0, 0, 0, protocol]].concat();
    let pseudo = if protocol == 1 { &[][..] } else { &pseudo };
    let checksum = checksum(&[pseudo, &packet[at..]]);
    put(packet, checksum_at, &checksum.to_be_bytes());
}

fn mended(mut packet: Vec<u8>) -> Vec<u8> {
    mend(&mut packet);
    packet
}

/// A sample with octets changed at `at`.
fn changed(mut packet: Vec<u8>, at: usize, octets: &[u8]) -> Vec<u8> {
    put(&mut packet, at, octets);
    mended(packet)
}

/// A sample made `length` octets long.
fn long(mut packet: Vec<u8>, length: usize) -> Vec<u8> {
    packet.resize(length, b'x');
    mended(packet)
}

/// From the client.
pub fn ipv6_cases() -> Vec<Case> {
    let mut cases: Vec<_> = TO_IPV4.iter().map(|it| case(it.name, octets(it.from))).collect();
    for length in [1279, 1280, 1281, 1400, 1500] {
        cases.push(case(format!("tcp of {length}"), long(from6("tcp"), length)));
        cases.push(case(format!("echo of {length}"), long(from6("echo_request"), length)));
    }
    for hop_limit in [0, 1, 2, 255] {
        cases.push(case(format!("hop limit {hop_limit}"), changed(from6("tcp"), 7, &[hop_limit])));
    }
    cases.push(case("hop limit 1 of an error", changed(from6("quoted_udp"), 7, &[1])));
    // Types and codes of ICMPv6 errors, and queries.
    for kind in [0, 1, 2, 3, 4, 5, 100, 127] {
        for code in 0..=8 {
            let mtu: u32 = if kind == 2 { 1400 } else { 0 };
            let packet = changed(from6("quoted_udp"), 44, &mtu.to_be_bytes());
            let packet = changed(packet, 40, &[kind, code]);
            cases.push(case(format!("error {kind}/{code}"), packet));
        }
    }
    for pointer in 0..=42 {
        let packet = changed(from6("pointer"), 47, &[pointer]);
        cases.push(case(format!("pointer {pointer}"), packet));
    }
    for kind in 130..=140 {
        cases.push(case(format!("query {kind}"), changed(from6("echo_request"), 40, &[kind])));
    }
    for mtu in [0, 576, 1279, 1280, 1281, 1400, 1500, 9000, 70_000_u32] {
        let too_big = changed(from6("quoted_udp"), 40, &[2, 0]);
        let packet = changed(too_big, 44, &mtu.to_be_bytes());
        cases.push(case(format!("too big {mtu}"), packet));
    }
    for name in ["quoted_tcp_cut", "quoted_echo"] {
        let packet = changed(changed(from6(name), 8, &CLIENT.octets()), 40, &[3, 0]);
        cases.push(case(format!("{name} of the client"), packet));
    }
    let mut segments_left = from6("udp");
    segments_left[59] = 1;
    cases.push(case("segments left", segments_left));
    let mut no_checksum = from6("udp");
    put(&mut no_checksum, 70, &[0, 0]);
    cases.push(case("udp without checksum", no_checksum));
    cases
}

/// From the service.
pub fn ipv4_cases() -> Vec<Case> {
    let mut cases: Vec<_> = TO_IPV6.iter().map(|it| case(it.name, octets(it.from))).collect();
    for length in [1260, 1261, 1400, 1480, 1481, 1500] {
        let plain = [&[0x45][..], &from4("tcp")[1..20], &from4("tcp")[24..]].concat();
        for flags in [0, 0x40] {
            let packet = changed(long(plain.clone(), length), 6, &[flags]);
            cases.push(case(format!("tcp of {length} flags {flags:#x}"), packet));
        }
    }
    for ttl in [0, 1, 2, 255] {
        cases.push(case(format!("ttl {ttl}"), changed(from4("tcp"), 8, &[ttl])));
    }
    cases.push(case("ttl 1 of an error", changed(from4("quoted_udp"), 8, &[1])));
    for kind in [3, 4, 5, 11, 12] {
        for code in 0..=17 {
            let packet = changed(from4("quoted_udp"), 20, &[kind, code]);
            cases.push(case(format!("error {kind}/{code}"), packet));
        }
    }
    for pointer in 0..=22 {
        let packet = changed(from4("pointer"), 24, &[pointer]);
        cases.push(case(format!("pointer {pointer}"), packet));
    }
    for kind in [9, 10, 13, 14, 15, 16, 17, 18, 19, 42] {
        cases.push(case(format!("query {kind}"), changed(from4("echo_request"), 20, &[kind])));
    }
    for mtu in [0, 68, 576, 1260, 1280, 1400, 1480, 1500, 9000_u16] {
        let needed = changed(from4("quoted_udp"), 20, &[3, 4]);
        let packet = changed(needed, 26, &mtu.to_be_bytes());
        cases.push(case(format!("fragmentation needed {mtu}"), packet));
    }
    cases.push(case("source route", changed(from4("udp"), 22, &[4])));
    let mut fragment = from4("first_fragment");
    put(&mut fragment, 26, &[0, 0]);
    cases.push(case("first fragment without checksum", fragment));
    let mut wrong = from4("tcp");
    wrong[10] ^= 1;
    cases.push(case("wrong header checksum", wrong));
    cases
}
