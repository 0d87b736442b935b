//! The target `translate`: translation in both directions, the same as a second translator's; the
//! ICMP errors made of what is refused; and that what comes out goes in again.

use std::net::{Ipv4Addr, Ipv6Addr};

use nat64handoff::nat64::translate::{
    self, Flow, GROWTH_MAX, Inside, Ipv4Packet, Ipv6Packet, Limits, Packets, Refusal, Refused,
    Rewrite, Transport,
};

use super::judge::packet::{checksum, icmpv6_checksum};
use super::naive::{self, Setting, Translated};

/// What the last octet of the options says.
pub mod flag {
    /// The traffic class is copied.
    pub const TRAFFIC_CLASS: u8 = 1;
    /// UDP checksums are made.
    pub const UDP_CHECKSUMS: u8 = 2;
    /// The fuzzer need not find right lengths and checksums: they are mended first.
    pub const MEND: u8 = 4;
    /// More than 1280 octets are known to fit through the IPv6 network.
    pub const PATH_MTU: u8 = 8;
}

const CLIENT: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const SERVICE: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0xcb00, 0x7105);
const NAT64: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const SERVICE4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
const TO_IPV4: Rewrite<Ipv4Addr> =
    Rewrite { client: NAT64, client_port: 20_000, service: SERVICE4 };
const TO_IPV6: Rewrite<Ipv6Addr> = Rewrite { client: CLIENT, client_port: 443, service: SERVICE };
const IDENTIFICATION: u16 = 0xabcd;

/// `data` is options (two octets for the MTU of either side, and flags), and an IP packet of either
/// version, cut anywhere.
pub fn check(data: &[u8]) {
    let Some((&[ipv4_high, ipv4_low, ipv6_high, ipv6_low, flags], packet)) =
        data.split_first_chunk()
    else {
        return;
    };
    let ipv4_mtu = u16::from_be_bytes([ipv4_high, ipv4_low]).max(68);
    let ipv6_mtu = u16::from_be_bytes([ipv6_high, ipv6_low]).max(1280);
    let path_mtu = if flags & flag::PATH_MTU > 0 { ipv6_mtu } else { 1280 };
    let mut limits = Limits::new(ipv4_mtu, ipv6_mtu).expect("none is below its minimum");
    limits.copy_traffic_class = flags & flag::TRAFFIC_CLASS > 0;
    limits.make_udp_checksums = flags & flag::UDP_CHECKSUMS > 0;
    limits.ipv6_path_mtu = path_mtu;
    let mut packet = packet.to_vec();
    if flags & flag::MEND > 0 {
        mend(&mut packet);
    }
    let setting = Setting {
        ipv4_mtu: usize::from(ipv4_mtu),
        ipv6_mtu: usize::from(ipv6_mtu),
        path_mtu: usize::from(path_mtu),
        copy_traffic_class: limits.copy_traffic_class,
        make_udp_checksums: limits.make_udp_checksums,
        identification: IDENTIFICATION,
        client6: CLIENT.octets(),
        client6_port: TO_IPV6.client_port,
        client4: NAT64.octets(),
        client4_port: TO_IPV4.client_port,
        service6: SERVICE.octets(),
        service4: SERVICE4.octets(),
    };
    match packet.first().map(|first| first >> 4) {
        Some(6) => {
            let ours = from_ipv6(&packet, &limits, usize::from(ipv4_mtu));
            same_as(&naive::to_ipv4(&packet, &setting), &ours);
        }
        Some(4) => {
            let dont_fragment = packet.get(6).is_some_and(|flags| flags & 0x40 > 0);
            let mtu = if dont_fragment { ipv6_mtu } else { path_mtu };
            let ours = from_ipv4(&packet, &limits, usize::from(mtu));
            same_as(&naive::to_ipv6(&packet, &setting), &ours);
        }
        _ => {
            assert_eq!(Ipv6Packet::parse(&packet).unwrap_err().reason, Refusal::PacketTruncated);
            assert_eq!(Ipv4Packet::parse(&packet).unwrap_err().reason, Refusal::PacketTruncated);
        }
    }
}

/// The number of a packet's transport and where it starts, if nothing stands between it and the
/// fixed header.
fn transport(packet: &[u8]) -> Option<(u8, usize)> {
    match packet.first()? >> 4 {
        4 => Some((*packet.get(9)?, 4 * usize::from(packet[0] & 15))),
        _ => Some((*packet.get(6)?, 40)),
    }
}

/// Sets the packet's length right, then the checksums of its header and of an ICMP message within.
pub(super) fn mend(packet: &mut [u8]) {
    let length = packet.len();
    let Some((protocol, at)) = transport(packet).filter(|it| length >= it.1 && it.1 >= 20) else {
        return;
    };
    if packet[0] >> 4 == 6 {
        packet[4..6].copy_from_slice(&((length - 40) as u16).to_be_bytes());
        if protocol == 58 && length >= at + 4 {
            packet[at + 2..at + 4].fill(0);
            let checksum = icmpv6_checksum(address(packet, 8), address(packet, 24), &packet[at..]);
            packet[at + 2..at + 4].copy_from_slice(&checksum.to_be_bytes());
        }
    } else {
        packet[2..4].copy_from_slice(&(length as u16).to_be_bytes());
        packet[10..12].fill(0);
        let sum = checksum(&[&packet[..at]]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        if protocol == 1 && length >= at + 4 {
            packet[at + 2..at + 4].fill(0);
            let checksum = checksum(&[&packet[at..]]);
            packet[at + 2..at + 4].copy_from_slice(&checksum.to_be_bytes());
        }
    }
}

fn address(packet: &[u8], at: usize) -> Ipv6Addr {
    Ipv6Addr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap())
}

/// Whether the checksum of a whole TCP, UDP or ICMP message is right; `addresses` are those of
/// either version.
fn adds_up(addresses: &[u8], protocol: u8, message: &[u8]) -> bool {
    let length = (message.len() as u32).to_be_bytes();
    let pseudo = [addresses, &length, &[0, 0, 0, protocol]].concat();
    let pseudo = if protocol == 1 { &[][..] } else { &pseudo };
    checksum(&[pseudo, message]) == 0
}

/// All packets, and that nothing behind them was written.
fn collect(mut packets: Packets<'_>) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(packet) = packets.next_packet() {
        all.push(packet.to_vec());
    }
    assert!(packets.next_packet().is_none());
    assert!(!all.is_empty());
    all
}

/// What the packets of one translation have behind their headers, in a row, and which transport it
/// is; `first` says of a packet its protocol, where its data start, their offset, and whether more
/// follow.
fn data_of(
    packets: &[Vec<u8>],
    fields: impl Fn(&[u8]) -> (u8, usize, usize, bool),
) -> (u8, usize, Vec<u8>, bool) {
    let (protocol, _, start, _) = fields(&packets[0]);
    let mut data = Vec::new();
    let mut more = false;
    for (n, packet) in packets.iter().enumerate() {
        let (here, at, offset, follows) = fields(packet);
        assert_eq!((here, offset), (protocol, start + data.len()));
        assert!(follows || n + 1 == packets.len());
        data.extend_from_slice(&packet[at..]);
        more = follows;
    }
    (protocol, start, data, more)
}

/// Another reading of the RFC comes to the same packets, or refuses as well.
fn same_as(expected: &Translated, ours: &Result<Vec<Vec<u8>>, Refused>) {
    match (expected, ours) {
        (Ok(expected), Ok(ours)) => assert_eq!(expected, ours),
        (Err(told), Err(refused)) => {
            let error = refused.error.map(|error| (error.kind, error.code, error.word));
            assert!(told.is_none() || *told == error, "{told:?}, {refused:?}");
        }
        _ => panic!("expected {expected:?}, got {ours:?}"),
    }
}

fn from_ipv6(octets: &[u8], limits: &Limits, mtu: usize) -> Result<Vec<Vec<u8>>, Refused> {
    let parsed = match Ipv6Packet::parse(octets) {
        Ok(parsed) => parsed,
        Err(refused) => {
            refused_ipv6(refused, octets);
            return Err(refused);
        }
    };
    let inside = parsed.inside();
    let mut out = vec![0xc5; octets.len() + GROWTH_MAX];
    let packets = match parsed.to_ipv4(&TO_IPV4, IDENTIFICATION, limits, &mut out) {
        Ok(packets) => collect(packets),
        Err(refused) => {
            refused_ipv6(refused, octets);
            return Err(refused);
        }
    };
    for packet in &packets {
        assert!(packet.len() <= mtu);
        assert_eq!((packet[0], packet[8]), (0x45, octets[7] - 1));
        assert_eq!(usize::from(u16::from_be_bytes([packet[2], packet[3]])), packet.len());
        assert_eq!(checksum(&[&packet[..20]]), 0);
        assert_eq!(packet[12..20], [NAT64.octets(), SERVICE4.octets()].concat());
    }
    let (protocol, start, data, more) = data_of(&packets, |packet| {
        let flags = u16::from_be_bytes([packet[6], packet[7]]);
        (packet[9], 20, 8 * usize::from(flags & 0x1fff), flags & 0x2000 > 0)
    });
    let whole = start == 0 && !more;
    let length = usize::from(u16::from_be_bytes([octets[4], octets[5]])) + 40;
    let error = matches!(inside, Inside::Error(_));
    if error {
        assert!(whole && packets.len() == 1 && adds_up(&[], 1, &data));
    } else {
        assert!(data.len() + 40 <= length, "what is skipped is in front");
        let before = if protocol == 1 { 58 } else { protocol };
        let right = adds_up(&octets[8..40], before, &octets[length - data.len()..length]);
        assert!(!whole || adds_up(&packets[0][12..20], protocol, &data) == right);
    }
    if protocol != 1 || packets.len() == 1 {
        let again = Ipv4Packet::parse(&packets[0]).expect("what comes out goes in").inside();
        same_kind(&inside, &again, TO_IPV4.client_port);
    }
    Ok(packets)
}

fn from_ipv4(octets: &[u8], limits: &Limits, mtu: usize) -> Result<Vec<Vec<u8>>, Refused> {
    let parsed = match Ipv4Packet::parse(octets) {
        Ok(parsed) => parsed,
        Err(refused) => {
            refused_ipv4(refused, octets);
            return Err(refused);
        }
    };
    let inside = parsed.inside();
    let mut out = vec![0xc5; octets.len() + GROWTH_MAX];
    let packets = match parsed.to_ipv6(&TO_IPV6, limits, &mut out) {
        Ok(packets) => collect(packets),
        Err(refused) => {
            refused_ipv4(refused, octets);
            return Err(refused);
        }
    };
    let error = matches!(inside, Inside::Error(_));
    let source = address(&packets[0], 8);
    for packet in &packets {
        assert!(packet.len() <= if error { 1280 } else { mtu });
        assert_eq!((packet[0] >> 4, packet[7]), (6, octets[8] - 1));
        assert_eq!(packet[1] & 15, 0, "no flow label");
        assert_eq!(usize::from(u16::from_be_bytes([packet[4], packet[5]])) + 40, packet.len());
        assert_eq!((address(packet, 8), address(packet, 24)), (source, CLIENT));
    }
    let router = [&SERVICE.octets()[..12], &octets[12..16]].concat();
    assert!(source == SERVICE || (error && source.octets()[..] == router));
    let (protocol, start, data, more) = data_of(&packets, |packet| {
        if packet[6] != 44 {
            return (packet[6], 40, 0, false);
        }
        let flags = u16::from_be_bytes([packet[42], packet[43]]);
        (packet[40], 48, usize::from(flags & !7), flags & 1 > 0)
    });
    let whole = start == 0 && !more;
    let (before, at) = transport(octets).expect("what was parsed has a header");
    let upper = &octets[at..usize::from(u16::from_be_bytes([octets[2], octets[3]]))];
    if error {
        assert!(whole && packets.len() == 1 && adds_up(&packets[0][8..40], 58, &data));
    } else {
        assert_eq!(data.len(), upper.len());
        let without = before == 17 && whole && upper[6..8] == [0, 0];
        // Over nothing but zeros, 0 is wrong for 0xffff; but what is changed is the difference,
        // which is right.
        let zeros = before == 1 && upper.iter().all(|&octet| octet == 0);
        let right = zeros || adds_up(&octets[12..20], before, upper);
        // One that is made is over the datagram's own length.
        let over =
            if without { usize::from(u16::from_be_bytes([data[4], data[5]])) } else { data.len() };
        let now = adds_up(&packets[0][8..40], protocol, &data[..over]);
        assert!(!whole || now == (right || without));
        assert!(protocol != 17 || start > 0 || data[6..8] != [0, 0]);
    }
    if protocol != 58 || packets.len() == 1 {
        let again = Ipv6Packet::parse(&packets[0]).expect("what comes out goes in").inside();
        same_kind(&inside, &again, TO_IPV6.client_port);
    }
    Ok(packets)
}

/// What is inside of a packet that was translated, against what was before. It goes on the same
/// way, so what parses it takes the service for the client, and finds the client's port where it
/// looks for the service's.
fn same_kind<A, B>(before: &Inside<A>, after: &Inside<B>, port: u16) {
    let same = |before: &Flow<A>, after: &Flow<B>| {
        assert_eq!(before.transport, after.transport);
        let expected = match before.transport {
            Transport::Echo => (port, 0),
            Transport::Tcp | Transport::Udp => (before.service_port, port),
        };
        assert_eq!((after.client_port, after.service_port), expected);
    };
    match (before, after) {
        (
            Inside::Flow { flow: before, tcp_flags, .. },
            Inside::Flow { flow: after, tcp_flags: flags, .. },
        ) => {
            same(before, after);
            assert_eq!(tcp_flags, flags);
        }
        (Inside::Error(before), Inside::Error(after)) => same(before, after),
        (Inside::Later(_), Inside::Later(_)) => {}
        _ => panic!("another kind of packet"),
    }
}

fn refused_ipv6(refused: Refused, about: &[u8]) {
    let Some(error) = refused.error else {
        return;
    };
    let Some(told) = translate::ipv6_error(error, SERVICE, about) else {
        assert!(about[24] == 0xff || about[6] == 58 || matches!(about[6], 0 | 43 | 44 | 60));
        return;
    };
    let whole = usize::from(u16::from_be_bytes([about[4], about[5]])) + 40;
    let out = [&told.headers, told.quoted].concat();
    let length = out.len();
    assert_eq!(length, (whole + 48).min(1280));
    assert_eq!(usize::from(u16::from_be_bytes([out[4], out[5]])) + 40, length);
    assert_eq!(out[40..42], [error.kind, error.code]);
    assert_eq!(out[44..48], error.word.to_be_bytes());
    assert_eq!(out[48..length], about[..length - 48]);
    assert_eq!(out[24..40], about[8..24]);
    assert_eq!(icmpv6_checksum(SERVICE, address(about, 8), &out[40..length]), 0);
}

fn refused_ipv4(refused: Refused, about: &[u8]) {
    let Some(error) = refused.error else {
        return;
    };
    let Some(told) = translate::ipv4_error(error, NAT64, about) else {
        assert!(about[9] == 1 || about[6] & 0x1f > 0 || about[7] > 0);
        return;
    };
    let whole = usize::from(u16::from_be_bytes([about[2], about[3]]));
    let out = [&told.headers, told.quoted].concat();
    let length = out.len();
    assert_eq!(length, (whole + 28).min(576));
    assert_eq!(usize::from(u16::from_be_bytes([out[2], out[3]])), length);
    assert_eq!(checksum(&[&out[..20]]), 0);
    assert_eq!(checksum(&[&out[20..length]]), 0);
    assert_eq!(out[20..22], [error.kind, error.code]);
    assert_eq!(out[24..28], error.word.to_be_bytes());
    assert_eq!(out[28..length], about[..length - 28]);
    assert_eq!(out[16..20], about[12..16]);
}
