//! IP packets to embed, and the checks of those that come back. Headers and checksums are those of
//! etherparse, which knows nothing of the server.

use etherparse::checksum::Sum16BitWords;
use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, Ipv6Header, PacketBuilder};
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
pub const TTL: u8 = 64;

/// The checksum of RFC 1071 over the concatenation: 0 over what stands with its right checksum.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    Sum16BitWords::new().add_slice(&parts.concat()).ones_complement().to_be()
}

/// The checksum of an ICMPv6 message, with the pseudo-header of its packet.
pub fn icmpv6_checksum(src: Ipv6Addr, dst: Ipv6Addr, message: &[u8]) -> u16 {
    let length = (message.len() as u32).to_be_bytes();
    checksum(&[&src.octets(), &dst.octets(), &length, &[0, 0, 0, ICMPV6], message])
}

pub fn ipv6(src: Ipv6Addr, dst: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let header = Ipv6Header {
        payload_length: payload.len().try_into().unwrap(),
        next_header: IpNumber(next),
        hop_limit: TTL,
        source: src.octets(),
        destination: dst.octets(),
        ..Ipv6Header::default()
    };
    [&header.to_bytes()[..], payload].concat()
}

/// UDP header and data as in an IPv6 packet.
pub fn udp6_segment(src: (Ipv6Addr, u16), dst: (Ipv6Addr, u16), data: &[u8]) -> Vec<u8> {
    udp6(src, dst, data)[40..].to_vec()
}

pub fn udp6(src: (Ipv6Addr, u16), dst: (Ipv6Addr, u16), data: &[u8]) -> Vec<u8> {
    let mut octets = Vec::new();
    let builder = PacketBuilder::ipv6(src.0.octets(), dst.0.octets(), TTL).udp(src.1, dst.1);
    builder.write(&mut octets, data).unwrap();
    octets
}

pub fn tcp6(src: (Ipv6Addr, u16), dst: (Ipv6Addr, u16), data: &[u8]) -> Vec<u8> {
    let mut octets = Vec::new();
    let builder = PacketBuilder::ipv6(src.0.octets(), dst.0.octets(), TTL);
    builder.tcp(src.1, dst.1, 1, 1024).ack(2).write(&mut octets, data).unwrap();
    octets
}

/// An ICMPv6 message; `rest` is what follows the checksum.
pub fn icmpv6(src: Ipv6Addr, dst: Ipv6Addr, kind: u8, code: u8, rest: &[u8]) -> Vec<u8> {
    let mut octets = [&[kind, code, 0, 0], rest].concat();
    let sum = icmpv6_checksum(src, dst, &octets);
    octets[2..4].copy_from_slice(&sum.to_be_bytes());
    ipv6(src, dst, ICMPV6, &octets)
}

/// Whether an IPv6 packet without extension headers has a right ICMPv6 checksum.
pub fn icmpv6_checksum_holds(packet: &[u8]) -> bool {
    let (src, dst) = addresses6(packet);
    icmpv6_checksum(src, dst, &packet[40..]) == 0
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
    pub dont_fragment: bool,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Ipv4 {
    pub fn new(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, payload: &[u8]) -> Ipv4 {
        Ipv4 {
            src,
            dst,
            protocol,
            ttl: TTL,
            id: 0x1d1d,
            offset: 0,
            more: false,
            dont_fragment: false,
            options: Vec::new(),
            payload: payload.to_vec(),
        }
    }

    pub fn udp(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), data: &[u8]) -> Ipv4 {
        let mut octets = Vec::new();
        let builder = PacketBuilder::ipv4(src.0.octets(), dst.0.octets(), TTL);
        builder.udp(src.1, dst.1).write(&mut octets, data).unwrap();
        Ipv4::new(src.0, dst.0, UDP, &octets[20..])
    }

    pub fn tcp(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), data: &[u8]) -> Ipv4 {
        let mut octets = Vec::new();
        let builder = PacketBuilder::ipv4(src.0.octets(), dst.0.octets(), TTL);
        builder.tcp(src.1, dst.1, 1, 1024).ack(2).write(&mut octets, data).unwrap();
        Ipv4::new(src.0, dst.0, TCP, &octets[20..])
    }

    /// `rest` is what follows the checksum.
    pub fn icmp(src: Ipv4Addr, dst: Ipv4Addr, kind: u8, code: u8, rest: &[u8]) -> Ipv4 {
        let mut octets = [&[kind, code, 0, 0], rest].concat();
        let sum = checksum(&[&octets]);
        octets[2..4].copy_from_slice(&sum.to_be_bytes());
        Ipv4::new(src, dst, ICMP, &octets)
    }

    pub fn octets(&self) -> Vec<u8> {
        assert!(self.offset.is_multiple_of(8));
        let mut header = Ipv4Header {
            identification: self.id,
            dont_fragment: self.dont_fragment,
            more_fragments: self.more,
            fragment_offset: IpFragOffset::try_new(self.offset / 8).unwrap(),
            time_to_live: self.ttl,
            protocol: IpNumber(self.protocol),
            source: self.src.octets(),
            destination: self.dst.octets(),
            options: Ipv4Options::try_from(&self.options[..]).unwrap(),
            ..Ipv4Header::default()
        };
        header.set_payload_len(self.payload.len()).unwrap();
        header.header_checksum = header.calc_header_checksum();
        [&header.to_bytes()[..], &self.payload].concat()
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
