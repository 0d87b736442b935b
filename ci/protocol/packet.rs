//! IP packets to embed: builders with correct checksums, and their checks.

use std::net::{Ipv4Addr, Ipv6Addr};

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;
pub const HOP_BY_HOP: u8 = 0;
pub const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
pub const DESTINATION: u8 = 60;
/// TTL and hop limit of what the builders make.
pub const TTL: u8 = 57;

/// The internet checksum of the concatenation; all but the last part must be of even length.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for pair in parts.iter().flat_map(|part| part.chunks(2)) {
        sum += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

fn pseudo6(src: Ipv6Addr, dst: Ipv6Addr, next: u8, length: usize) -> Vec<u8> {
    let mut octets = [src.octets(), dst.octets()].concat();
    octets.extend_from_slice(&(length as u32).to_be_bytes());
    octets.extend_from_slice(&[0, 0, 0, next]);
    octets
}

fn pseudo4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, length: usize) -> Vec<u8> {
    let mut octets = [src.octets(), dst.octets()].concat();
    octets.extend_from_slice(&[0, protocol]);
    octets.extend_from_slice(&(length as u16).to_be_bytes());
    octets
}

fn segment(protocol: u8, pseudo: &[u8], sport: u16, dport: u16, data: &[u8]) -> Vec<u8> {
    let mut octets = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
    let place = if protocol == UDP {
        octets.extend_from_slice(&(8 + data.len() as u16).to_be_bytes());
        octets.extend_from_slice(&[0, 0]);
        6
    } else {
        // Sequence 1, acknowledgement 2, data offset 5, ACK, window 1024.
        octets.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 4, 0, 0, 0, 0, 0]);
        16
    };
    octets.extend_from_slice(data);
    let mut sum = checksum(&[pseudo, &octets]);
    if protocol == UDP && sum == 0 {
        sum = 0xffff;
    }
    octets[place..place + 2].copy_from_slice(&sum.to_be_bytes());
    octets
}

pub fn ipv6(src: Ipv6Addr, dst: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut octets = vec![0x60, 0, 0, 0];
    octets.extend_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
    octets.extend_from_slice(&[next, TTL]);
    octets.extend_from_slice(&src.octets());
    octets.extend_from_slice(&dst.octets());
    octets.extend_from_slice(payload);
    octets
}

/// UDP header and data as in an IPv6 packet.
pub fn udp6_segment(src: (Ipv6Addr, u16), dst: (Ipv6Addr, u16), data: &[u8]) -> Vec<u8> {
    segment(UDP, &pseudo6(src.0, dst.0, UDP, 8 + data.len()), src.1, dst.1, data)
}

pub fn udp6(src: (Ipv6Addr, u16), dst: (Ipv6Addr, u16), data: &[u8]) -> Vec<u8> {
    ipv6(src.0, dst.0, UDP, &udp6_segment(src, dst, data))
}

pub fn tcp6(src: (Ipv6Addr, u16), dst: (Ipv6Addr, u16), data: &[u8]) -> Vec<u8> {
    let pseudo = pseudo6(src.0, dst.0, TCP, 20 + data.len());
    ipv6(src.0, dst.0, TCP, &segment(TCP, &pseudo, src.1, dst.1, data))
}

/// An ICMPv6 message; `rest` is what follows the checksum.
pub fn icmpv6(src: Ipv6Addr, dst: Ipv6Addr, kind: u8, code: u8, rest: &[u8]) -> Vec<u8> {
    let mut octets = [&[kind, code, 0, 0], rest].concat();
    let sum = checksum(&[&pseudo6(src, dst, ICMPV6, octets.len()), &octets]);
    octets[2..4].copy_from_slice(&sum.to_be_bytes());
    ipv6(src, dst, ICMPV6, &octets)
}

/// Whether an IPv6 packet without extension headers has a right ICMPv6 checksum.
pub fn icmpv6_checksum_holds(packet: &[u8]) -> bool {
    let (src, dst) = addresses6(packet);
    checksum(&[&pseudo6(src, dst, ICMPV6, packet.len() - 40), &packet[40..]]) == 0
}

pub fn addresses6(packet: &[u8]) -> (Ipv6Addr, Ipv6Addr) {
    let address = |from: usize| <[u8; 16]>::try_from(&packet[from..from + 16]).unwrap().into();
    (address(8), address(24))
}

/// A chain of extension headers (kind, body without the next-header octet) in front of a payload.
/// Returns the first next header and the octets.
pub fn chain(headers: &[(u8, Vec<u8>)], last: u8, payload: &[u8]) -> (u8, Vec<u8>) {
    let mut octets = Vec::new();
    for (place, (_, body)) in headers.iter().enumerate() {
        octets.push(headers.get(place + 1).map_or(last, |header| header.0));
        octets.extend_from_slice(body);
    }
    octets.extend_from_slice(payload);
    (headers.first().map_or(last, |header| header.0), octets)
}

/// Hop-by-hop or destination options of 8 octets: one PadN.
pub fn options(kind: u8) -> (u8, Vec<u8>) {
    (kind, vec![0, 1, 4, 0, 0, 0, 0])
}

pub fn routing(segments_left: u8) -> (u8, Vec<u8>) {
    (ROUTING, vec![0, 4, segments_left, 0, 0, 0, 0])
}

/// `offset` in octets.
pub fn fragment6(offset: u16, more: bool, id: u32) -> (u8, Vec<u8>) {
    assert!(offset.is_multiple_of(8));
    let mut body = vec![0];
    body.extend_from_slice(&(offset | u16::from(more)).to_be_bytes());
    body.extend_from_slice(&id.to_be_bytes());
    (FRAGMENT, body)
}

/// An IPv4 packet, field by field.
#[derive(Clone)]
pub struct Ipv4 {
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub protocol: u8,
    pub ttl: u8,
    pub id: u16,
    /// In octets.
    pub offset: u16,
    pub more: bool,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Ipv4 {
    pub fn new(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, payload: &[u8]) -> Ipv4 {
        let (options, payload) = (Vec::new(), payload.to_vec());
        Ipv4 { src, dst, protocol, ttl: TTL, id: 0x1d1d, offset: 0, more: false, options, payload }
    }

    pub fn udp(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), data: &[u8]) -> Ipv4 {
        let pseudo = pseudo4(src.0, dst.0, UDP, 8 + data.len());
        Ipv4::new(src.0, dst.0, UDP, &segment(UDP, &pseudo, src.1, dst.1, data))
    }

    pub fn tcp(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), data: &[u8]) -> Ipv4 {
        let pseudo = pseudo4(src.0, dst.0, TCP, 20 + data.len());
        Ipv4::new(src.0, dst.0, TCP, &segment(TCP, &pseudo, src.1, dst.1, data))
    }

    /// `rest` is what follows the checksum.
    pub fn icmp(src: Ipv4Addr, dst: Ipv4Addr, kind: u8, code: u8, rest: &[u8]) -> Ipv4 {
        let mut octets = [&[kind, code, 0, 0], rest].concat();
        let sum = checksum(&[&octets]);
        octets[2..4].copy_from_slice(&sum.to_be_bytes());
        Ipv4::new(src, dst, ICMP, &octets)
    }

    pub fn octets(&self) -> Vec<u8> {
        assert!(self.offset.is_multiple_of(8) && self.options.len().is_multiple_of(4));
        let header = 20 + self.options.len();
        let total = u16::try_from(header + self.payload.len()).unwrap();
        let fragment = (self.offset / 8) | if self.more { 0x2000 } else { 0 };
        let mut octets = vec![0x40 | (header / 4) as u8, 0];
        octets.extend_from_slice(&total.to_be_bytes());
        octets.extend_from_slice(&self.id.to_be_bytes());
        octets.extend_from_slice(&fragment.to_be_bytes());
        octets.extend_from_slice(&[self.ttl, self.protocol, 0, 0]);
        octets.extend_from_slice(&self.src.octets());
        octets.extend_from_slice(&self.dst.octets());
        octets.extend_from_slice(&self.options);
        let sum = checksum(&[&octets]);
        octets[10..12].copy_from_slice(&sum.to_be_bytes());
        octets.extend_from_slice(&self.payload);
        octets
    }
}

/// The same IPv4 packet with another TTL and the right header checksum.
pub fn with_ttl(packet: &[u8], ttl: u8) -> Vec<u8> {
    let mut octets = packet.to_vec();
    let header = 4 * (octets[0] & 15) as usize;
    octets[8] = ttl;
    octets[10..12].fill(0);
    let sum = checksum(&[&octets[..header]]);
    octets[10..12].copy_from_slice(&sum.to_be_bytes());
    octets
}

pub fn header_checksum_holds(packet: &[u8]) -> bool {
    checksum(&[&packet[..4 * (packet[0] & 15) as usize]]) == 0
}

#[test]
fn builders_write_literal_octets() {
    let (src, dst) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(198, 51, 100, 2));
    let udp = Ipv4::udp((src, 1234), (dst, 53), b"hi!").octets();
    // Checksums computed by another program.
    assert_eq!(
        udp,
        [
            0x45, 0, 0, 31, 0x1d, 0x1d, 0, 0, 57, 17, 0x78, 0x7a, 192, 0, 2, 1, 198, 51, 100, 2, 4,
            0xd2, 0, 53, 0, 11, 0x85, 0x30, b'h', b'i', b'!'
        ]
    );
    assert!(header_checksum_holds(&udp));
    let aged = with_ttl(&udp, 56);
    assert_eq!(aged[8], 56);
    assert!(header_checksum_holds(&aged));
    // The example of RFC 1071, section 3.
    assert_eq!(checksum(&[&[0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7]]), !0xddf2);
    let (src, dst) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
    let echo = icmpv6(src, dst, 128, 0, &[0, 1, 0, 2]);
    assert_eq!(echo[..8], [0x60, 0, 0, 0, 0, 8, 58, 57]);
    assert_eq!(echo[40..], [0x80, 0, 0x24, 0x45, 0, 1, 0, 2]);
    assert!(icmpv6_checksum_holds(&echo));
    let (next, octets) = chain(&[options(HOP_BY_HOP), fragment6(8, true, 7)], UDP, b"x");
    assert_eq!(next, 0);
    assert_eq!(octets, [44, 0, 1, 4, 0, 0, 0, 0, 17, 0, 0, 9, 0, 0, 0, 7, b'x']);
}
