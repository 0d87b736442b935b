//! Literal packets both ways, and what they are made of.

mod mtu;
mod refused;
mod truncated;

use super::samples::{TO_IPV4, TO_IPV6, from4, from6, octets};
use super::*;
use crate::ip::address::{Prefix96, synthesize};
use crate::ip::checksum::{self, checksum};
use crate::ip::fields::put_u16;
use crate::ip::icmp::ErrorPacket;
use crate::ip::ipv4::{self, Ipv4};
use crate::ip::ipv6::{self, Ipv6};
use std::net::{Ipv4Addr, Ipv6Addr};

pub(super) const CLIENT: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x17);
pub(super) const SERVICE: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0xcb00, 0x7105);
pub(super) const CLIENT4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
pub(super) const SERVICE4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
pub(super) const CLIENT_PORT: u16 = 53186;
pub(super) const MAPPED_PORT: u16 = 3719;
pub(super) const IDENTIFICATION: u16 = 0x1234;
pub(super) const LIMITS: Limits = Limits::new(1500, 1500).unwrap();

pub(super) const TO4: Rewrite<Ipv4Addr> =
    Rewrite { client: CLIENT4, client_port: MAPPED_PORT, service: SERVICE4 };
pub(super) const TO6: Rewrite<Ipv6Addr> =
    Rewrite { client: CLIENT, client_port: CLIENT_PORT, service: SERVICE };

fn collect(mut packets: Packets<'_>) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(packet) = packets.next_packet() {
        all.push(packet.to_vec());
    }
    all
}

pub(super) fn to_ipv4(packet: &[u8], limits: &Limits) -> Result<Vec<Vec<u8>>, Refused> {
    let mut out = vec![0xc5; packet.len() + GROWTH_MAX];
    let packet = Ipv6Packet::parse(packet)?;
    packet.to_ipv4(&TO4, IDENTIFICATION, limits, &mut out).map(collect)
}

pub(super) fn to_ipv6(packet: &[u8], limits: &Limits) -> Result<Vec<Vec<u8>>, Refused> {
    let mut out = vec![0xc5; packet.len() + GROWTH_MAX];
    Ipv4Packet::parse(packet)?.to_ipv6(&TO6, limits, &mut out).map(collect)
}

pub(super) fn octets_of<const N: usize>(error: ErrorPacket<'_, N>) -> Vec<u8> {
    [&error.headers, error.quoted].concat()
}

/// Mends the checksum of an IPv4 header.
pub(super) fn mend_header(packet: &mut [u8]) {
    let header = usize::from(packet[0] & 15) * 4;
    packet[10..12].fill(0);
    let sum = checksum(&[&packet[..header]]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// The packet cut to its first `length` octets, as if it had been sent so.
fn cut(packet: &[u8], length: usize) -> Vec<u8> {
    let mut packet = packet[..length].to_vec();
    if packet[0] >> 4 == 6 {
        put_u16(&mut packet, 4, (length - 40) as u16);
    } else {
        put_u16(&mut packet, 2, length as u16);
        mend_header(&mut packet);
    }
    packet
}

fn refused(result: Result<Vec<Vec<u8>>, Refused>) -> Refusal {
    result.unwrap_err().reason
}

#[test]
fn rfc7915_samples_to_ipv4() {
    for sample in TO_IPV4 {
        let packets = to_ipv4(&octets(sample.from), &LIMITS).unwrap();
        assert_eq!(packets, [octets(sample.to)], "{}", sample.name);
    }
}

#[test]
fn rfc7915_samples_to_ipv6() {
    for sample in TO_IPV6 {
        let packets = to_ipv6(&octets(sample.from), &LIMITS).unwrap();
        assert_eq!(packets, [octets(sample.to)], "{}", sample.name);
    }
}

#[test]
fn octets_behind_the_packet_are_ignored() {
    for sample in TO_IPV4 {
        let packet = [octets(sample.from), vec![7; 9]].concat();
        assert_eq!(to_ipv4(&packet, &LIMITS).unwrap(), [octets(sample.to)], "{}", sample.name);
    }
    for sample in TO_IPV6 {
        let packet = [octets(sample.from), vec![7; 9]].concat();
        assert_eq!(to_ipv6(&packet, &LIMITS).unwrap(), [octets(sample.to)], "{}", sample.name);
    }
}

#[test]
fn what_is_inside() {
    let flow6 = |transport, service_port| Flow {
        transport,
        client: CLIENT,
        client_port: CLIENT_PORT,
        service: SERVICE,
        service_port,
    };
    let identification = 0xaabb_ccdd;
    let key = FragmentKey::Ipv6 { source: CLIENT, destination: SERVICE, identification };
    let inside = |transport, service_port, tcp_flags, fragments| {
        let flow = flow6(transport, service_port);
        Inside::Flow { flow, tcp_flags, fragments }
    };
    for (name, expected) in [
        ("tcp", inside(Transport::Tcp, 443, 2, None)),
        ("udp", inside(Transport::Udp, 443, 0, None)),
        ("echo_request", inside(Transport::Echo, 0, 0, None)),
        ("echo_reply", inside(Transport::Echo, 0, 0, None)),
        ("first_fragment", inside(Transport::Udp, 443, 0, Some(key))),
        ("later_fragment", Inside::Later(key)),
        ("atomic_fragment", inside(Transport::Udp, 443, 0, None)),
        ("quoted_udp", Inside::Error(flow6(Transport::Udp, 443))),
        ("quoted_tcp_cut", Inside::Error(flow6(Transport::Tcp, 443))),
        ("quoted_echo", Inside::Error(flow6(Transport::Echo, 0))),
        ("quoted_fragment", Inside::Error(flow6(Transport::Udp, 443))),
    ] {
        assert_eq!(Ipv6Packet::parse(&from6(name)).unwrap().inside(), expected, "{name}");
    }

    let flow4 = |transport, service_port| Flow {
        transport,
        client: CLIENT4,
        client_port: MAPPED_PORT,
        service: SERVICE4,
        service_port,
    };
    let key = FragmentKey::Ipv4 {
        source: SERVICE4,
        destination: CLIENT4,
        protocol: 17,
        identification: 0xccdd,
    };
    let inside = |transport, service_port, tcp_flags, fragments| {
        let flow = flow4(transport, service_port);
        Inside::Flow { flow, tcp_flags, fragments }
    };
    for (name, expected) in [
        ("tcp", inside(Transport::Tcp, 443, 0x12, None)),
        ("udp", inside(Transport::Udp, 443, 0, None)),
        ("echo_request", inside(Transport::Echo, 0, 0, None)),
        ("first_fragment", inside(Transport::Udp, 443, 0, Some(key))),
        ("later_fragment", Inside::Later(key)),
        ("quoted_udp", Inside::Error(flow4(Transport::Udp, 443))),
        ("quoted_tcp_cut", Inside::Error(flow4(Transport::Tcp, 443))),
        ("quoted_echo", Inside::Error(flow4(Transport::Echo, 0))),
        ("quoted_fragment", Inside::Error(flow4(Transport::Udp, 443))),
    ] {
        assert_eq!(Ipv4Packet::parse(&from4(name)).unwrap().inside(), expected, "{name}");
    }
}

#[test]
fn traffic_class_may_be_left_behind() {
    let limits = Limits { copy_traffic_class: false, ..LIMITS };
    assert_eq!(to_ipv4(&from6("tcp"), &limits).unwrap()[0][1], 0);
    assert_eq!(to_ipv6(&from4("tcp"), &limits).unwrap()[0][..2], [0x60, 0]);
    assert_eq!(to_ipv4(&from6("quoted_udp"), &limits).unwrap()[0][29], 0);
    assert_eq!(to_ipv6(&from4("quoted_udp"), &limits).unwrap()[0][48..50], [0x60, 0]);
}

#[test]
fn rfc7915_4_5_udp_without_checksum() {
    let limits = Limits { make_udp_checksums: false, ..LIMITS };
    let refusal = Refusal::UdpWithoutChecksum;
    assert_eq!(refused(to_ipv6(&from4("udp_without_checksum"), &limits)), refusal);
    let mut fragment = from4("first_fragment");
    fragment[26..28].fill(0);
    assert_eq!(refused(to_ipv6(&fragment, &LIMITS)), refusal);
    let mut ipv6 = from6("udp");
    ipv6[70..72].fill(0);
    assert_eq!(refused(to_ipv4(&ipv6, &LIMITS)), refusal);
}

/// A checksum that adds up to 0 is sent as 0xffff (RFC 768), in UDP alone.
#[test]
fn checksums_of_zero() {
    let mut zeros = [0; 2];
    for word in 0..=u16::MAX {
        let mut udp = from6("udp");
        let end = udp.len();
        udp[5] -= 1;
        let udp = &mut udp[..end - 1];
        udp[68 + 1] -= 1; // the length in its header
        udp[72..74].copy_from_slice(&word.to_be_bytes());
        udp[70..72].copy_from_slice(&[0, 1]);
        let length = (udp.len() - 64) as u32;
        let pseudo = [&udp[8..40], &length.to_be_bytes(), &[0, 0, 0, 17]].concat();
        udp[70..72].fill(0);
        let sum = checksum(&[&pseudo, &udp[64..]]);
        let sum = if sum == 0 { 0xffff } else { sum };
        udp[70..72].copy_from_slice(&sum.to_be_bytes());
        let out = &to_ipv4(udp, &LIMITS).unwrap()[0];
        let field = [out[26], out[27]];
        assert_ne!(field, [0, 0], "{word}");
        zeros[0] += u32::from(sum == 0xffff);
        zeros[1] += u32::from(field == [0xff, 0xff]);
    }
    assert_eq!(zeros, [1, 1], "both came by once");
}

/// A segment of `length` octets with its header, from the service or to it.
fn segment(length: usize) -> Vec<u8> {
    let mut segment = vec![0; length];
    segment[..4].copy_from_slice(&[0x01, 0xbb, 0x0e, 0x87]);
    segment[12] = 0x50;
    for (at, octet) in segment.iter_mut().enumerate().skip(20) {
        *octet = at as u8;
    }
    segment
}

fn ipv6_packet(length: usize) -> Vec<u8> {
    let header = ipv6::header(length - 40, 6, 64, CLIENT, SERVICE);
    [&header[..], &segment(length - 40)].concat()
}

/// Identification 7.
fn ipv4_packet(length: usize, dont_fragment: bool) -> Vec<u8> {
    let header = ipv4::header(length, 64, 6, SERVICE4, CLIENT4);
    let mut packet = [&header[..], &segment(length - 20)].concat();
    packet[5] = 7;
    packet[6] = if dont_fragment { 0x40 } else { 0 };
    mend_header(&mut packet);
    packet
}
