//! Literal packets both ways, what is refused, MTUs and fragments.

use super::samples::{Sample, TO_IPV4, TO_IPV6, octets};
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

fn sample(samples: &[Sample], name: &str) -> Vec<u8> {
    octets(samples.iter().find(|sample| sample.name == name).unwrap().from)
}

fn from6(name: &str) -> Vec<u8> {
    sample(&TO_IPV4, name)
}

fn from4(name: &str) -> Vec<u8> {
    sample(&TO_IPV6, name)
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

/// A cut on the way is seen by the length, whatever else.
#[test]
fn every_truncation_is_refused() {
    for sample in TO_IPV4 {
        let packet = octets(sample.from);
        for length in 0..packet.len() {
            let refused = refused(to_ipv4(&packet[..length], &LIMITS));
            assert_eq!(refused, Refusal::PacketTruncated, "{} {length}", sample.name);
        }
    }
    for sample in TO_IPV6 {
        let packet = octets(sample.from);
        for length in 0..packet.len() {
            let refused = refused(to_ipv6(&packet[..length], &LIMITS));
            assert_eq!(refused, Refusal::PacketTruncated, "{} {length}", sample.name);
        }
    }
}

/// Packets that were sent shorter: refused where a header is not whole, for that reason.
#[test]
fn every_shorter_packet_is_refused_where_headers_end() {
    use Refusal::*;
    // Where headers must be whole, counted from the end of the fixed header.
    let headers = |name: &str| match name {
        "tcp" => 20,
        "later_fragment" => 0,
        _ => 8,
    };
    // The checksum may be right by chance: an IPv4 packet that is quoted whole adds up to 0.
    let of_errors = [HeaderTruncated, IcmpChecksum, QuotedTruncated];
    for sample in TO_IPV4 {
        let packet = octets(sample.from);
        let upper_at = Ipv6::new(&packet).unwrap().walk().unwrap().upper_at;
        for length in 40..packet.len() {
            let result = to_ipv4(&cut(&packet, length), &LIMITS);
            let context = format!("{} {length}", sample.name);
            if sample.name.starts_with("extension")
                && let Ok(packets) = &result
            {
                // Padding and extension add up to 0; without all of an extension there is none.
                assert_eq!(packets[0][25], 0, "{context}");
            } else if packet[upper_at] < 128 && packet[6] == 58 {
                assert!(of_errors.contains(&refused(result)), "{context}");
            } else if length < upper_at + headers(sample.name) {
                let reason = refused(result);
                let of_fragments = sample.name.ends_with("fragment") && reason == FragmentBounds;
                assert!(reason == HeaderTruncated || of_fragments, "{context}");
            } else if sample.name == "first_fragment" {
                assert_eq!(result.is_ok(), (length - 48) % 8 == 0, "{context}");
            } else {
                assert_eq!(result.unwrap()[0].len(), length - upper_at + 20, "{context}");
            }
        }
    }
    for sample in TO_IPV6 {
        let packet = octets(sample.from);
        let upper_at = Ipv4::new(&packet).unwrap().header_length();
        for length in upper_at..packet.len() {
            let result = to_ipv6(&cut(&packet, length), &LIMITS);
            let context = format!("{} {length}", sample.name);
            if sample.name.starts_with("extension")
                && let Ok(packets) = &result
            {
                assert_eq!(packets[0][44], 0, "{context}");
            } else if packet[9] == 1 && !matches!(packet[upper_at], 0 | 8) {
                assert!(of_errors.contains(&refused(result)), "{context}");
            } else if length < upper_at + headers(sample.name) {
                let reason = refused(result);
                let of_fragments = sample.name.ends_with("fragment") && reason == FragmentBounds;
                assert!(reason == HeaderTruncated || of_fragments, "{context}");
            } else if sample.name == "first_fragment" {
                assert_eq!(result.is_ok(), (length - 20) % 8 == 0, "{context}");
            } else if sample.name == "udp_without_checksum" {
                // Its length says that there is more, and what it would be summed over is not there.
                assert_eq!(refused(result), HeaderTruncated, "{context}");
            } else {
                let fragment = if sample.name == "later_fragment" { 8 } else { 0 };
                let expected = length - upper_at + 40 + fragment;
                assert_eq!(result.unwrap()[0].len(), expected, "{context}");
            }
        }
    }
}

/// An error that quotes less and less: translated as long as the ports are there.
#[test]
fn every_truncation_of_a_quoted_packet() {
    for (name, ports_end) in [("quoted_udp", 44), ("quoted_tcp_cut", 44), ("quoted_echo", 48)] {
        let whole = from6(name);
        for quoted in 0..whole.len() - 48 {
            let mut packet = cut(&whole, 48 + quoted);
            let view = Ipv6::new(&whole).unwrap();
            packet[42..44].fill(0);
            let sum = checksum::icmpv6(view.source(), view.destination(), &packet[40..]);
            packet[42..44].copy_from_slice(&sum.to_be_bytes());
            let result = to_ipv4(&packet, &LIMITS);
            if quoted < ports_end {
                assert_eq!(refused(result), Refusal::QuotedTruncated, "{name} {quoted}");
            } else {
                let packets = result.unwrap();
                assert_eq!(packets[0].len(), 20 + 8 + quoted - 20, "{name} {quoted}");
                assert_eq!(checksum(&[&packets[0][20..]]), 0, "{name} {quoted}");
            }
        }
    }
    for (name, ports_end) in [("quoted_udp", 24), ("quoted_tcp_cut", 24), ("quoted_echo", 28)] {
        let whole = from4(name);
        for quoted in 0..whole.len() - 28 {
            let mut packet = cut(&whole, 28 + quoted);
            packet[22..24].fill(0);
            let sum = checksum(&[&packet[20..]]);
            packet[22..24].copy_from_slice(&sum.to_be_bytes());
            let result = to_ipv6(&packet, &LIMITS);
            if quoted < ports_end {
                assert_eq!(refused(result), Refusal::QuotedTruncated, "{name} {quoted}");
            } else {
                let packets = result.unwrap();
                assert_eq!(packets[0].len(), 40 + 8 + quoted + 20, "{name} {quoted}");
                let view = Ipv6::new(&packets[0]).unwrap();
                let (source, destination) = (view.source(), view.destination());
                let sum = checksum::icmpv6(source, destination, &packets[0][40..]);
                assert_eq!(sum, 0, "{name} {quoted}");
            }
        }
    }
}

#[test]
fn hop_limits_end_here() {
    for hop_limit in [0, 1] {
        let mut packet = from6("tcp");
        packet[7] = hop_limit;
        let expected = Refused::with(Refusal::HopLimit, 3, 0, 0);
        assert_eq!(to_ipv4(&packet, &LIMITS), Err(expected));
        let mut packet = from4("tcp");
        packet[8] = hop_limit;
        mend_header(&mut packet);
        assert_eq!(to_ipv6(&packet, &LIMITS), Err(Refused::with(Refusal::HopLimit, 11, 0, 0)));
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

#[test]
fn rfc7915_5_1_routing_header_with_segments_left() {
    let mut packet = from6("udp");
    packet[59] = 1;
    let expected = Refused::with(Refusal::SegmentsLeft, 4, 0, 59);
    assert_eq!(to_ipv4(&packet, &LIMITS), Err(expected));
    let out = octets_of(ipv6_error(expected.error.unwrap(), SERVICE, &packet).unwrap());
    assert_eq!(out[40..42], [4, 0]);
    assert_eq!(out[44..48], [0, 0, 0, 59]);
    assert_eq!(out[48..], packet);
    assert_eq!(checksum::icmpv6(SERVICE, CLIENT, &out[40..]), 0);
}

#[test]
fn rfc7915_4_1_source_routes() {
    for kind in [131, 137] {
        let mut packet = from4("udp");
        (packet[20], packet[22]) = (kind, 4);
        mend_header(&mut packet);
        let expected = Refused::with(Refusal::SourceRoute, 3, 5, 0);
        assert_eq!(to_ipv6(&packet, &LIMITS), Err(expected));
        let out = octets_of(ipv4_error(expected.error.unwrap(), CLIENT4, &packet).unwrap());
        assert_eq!(out[20..22], [3, 5]);
        assert_eq!(out[28..], packet);
        assert_eq!(checksum(&[&out[20..]]), 0);
        packet[22] = 8;
        mend_header(&mut packet);
        assert!(to_ipv6(&packet, &LIMITS).is_ok());
    }
    for options in [[68, 1, 0, 0], [68, 9, 0, 0], [1, 1, 1, 131], [131, 2, 0, 0]] {
        let mut packet = from4("tcp");
        packet[20..24].copy_from_slice(&options);
        mend_header(&mut packet);
        assert_eq!(refused(to_ipv6(&packet, &LIMITS)), Refusal::OptionsMalformed, "{options:?}");
    }
    let mut ended = from4("tcp");
    ended[20..24].copy_from_slice(&[0, 131, 3, 4]);
    mend_header(&mut ended);
    assert!(to_ipv6(&ended, &LIMITS).is_ok(), "behind the end of the list");
}

/// A router that has no better address tells what is wrong all the same.
#[test]
fn rfc7915_4_1_icmp_errors_from_any_address() {
    let from = |name, source: [u8; 4]| {
        let mut packet = from4(name);
        packet[12..16].copy_from_slice(&source);
        mend_header(&mut packet);
        to_ipv6(&packet, &LIMITS)
    };
    for first in [0, 127, 224, 240, 255] {
        let source = [first, 0, 0, 1];
        for name in ["quoted_udp", "quoted_tcp_cut", "quoted_echo"] {
            let packets = from(name, source).unwrap();
            let view = Ipv6::new(&packets[0]).unwrap();
            assert_eq!(view.source(), synthesize(Prefix96::of(SERVICE), source.into()), "{name}");
            let sum = checksum::icmpv6(view.source(), CLIENT, &packets[0][40..]);
            assert_eq!(sum, 0, "{name}");
        }
        assert_eq!(from("echo_request", source), Err(Refusal::Addresses.into()));
    }
    assert_eq!(from("quoted_udp", [169, 254, 0, 1]), Err(Refusal::Addresses.into()));
}

#[test]
fn refused_without_an_answer() {
    let ipv4 = |name, at: usize, octet| {
        let mut packet = from4(name);
        packet[at] = octet;
        mend_header(&mut packet);
        to_ipv6(&packet, &LIMITS)
    };
    for octet in [0, 127, 224, 240, 255] {
        assert_eq!(ipv4("tcp", 12, octet), Err(Refusal::Addresses.into()));
        assert_eq!(ipv4("tcp", 16, octet), Err(Refusal::Addresses.into()));
    }
    for kind in [9, 10, 13, 14, 15, 16, 17, 18, 19, 255] {
        assert_eq!(ipv4("echo_request", 20, kind), Err(Refusal::IcmpType.into()), "{kind}");
    }
    assert_eq!(ipv4("first_fragment", 9, 1), Err(Refusal::IcmpFragment.into()));
    assert_eq!(ipv4("echo_request", 7, 1), Err(Refusal::IcmpFragment.into()));
    assert_eq!(ipv4("quoted_udp", 25, 1), Err(Refusal::IcmpChecksum.into()));
    assert_eq!(ipv4("quoted_udp", 19, 8), Err(Refusal::QuotedSource.into()));
    let mut packet = from4("tcp");
    packet[1] ^= 1;
    assert_eq!(to_ipv6(&packet, &LIMITS), Err(Refusal::HeaderChecksum.into()));

    let ipv6 = |name, at: usize, octet| {
        let mut packet = from6(name);
        packet[at] = octet;
        to_ipv4(&packet, &LIMITS)
    };
    assert_eq!(ipv6("tcp", 8, 0xff), Err(Refusal::Addresses.into()));
    assert_eq!(ipv6("tcp", 24, 0xff), Err(Refusal::Addresses.into()));
    for kind in [130, 131, 132, 133, 134, 135, 136, 137, 143, 255] {
        assert_eq!(ipv6("echo_request", 40, kind), Err(Refusal::IcmpType.into()), "{kind}");
    }
    assert_eq!(ipv6("quoted_udp", 45, 1), Err(Refusal::IcmpChecksum.into()));
    for next in [0, 43, 44, 51, 60] {
        let refused = Err(Refusal::FragmentedExtension.into());
        assert_eq!(ipv6("later_fragment", 40, next), refused, "{next}");
    }
    assert_eq!(ipv6("later_fragment", 40, 58), Err(Refusal::IcmpFragment.into()));
    let mut packet = from6("later_fragment");
    packet[42..44].copy_from_slice(&[0xff, 0xf8]);
    assert_eq!(to_ipv4(&packet, &LIMITS), Err(Refusal::FragmentBounds.into()));
    let mut packet = from4("later_fragment");
    packet[6..8].copy_from_slice(&[0x1f, 0xff]);
    mend_header(&mut packet);
    assert_eq!(to_ipv6(&packet, &LIMITS), Err(Refusal::FragmentBounds.into()));
}

#[test]
fn rfc6146_3_4_other_protocols() {
    let mut packet = from6("tcp");
    packet[6] = 132;
    assert_eq!(to_ipv4(&packet, &LIMITS), Err(Refused::with(Refusal::Protocol, 1, 4, 0)));
    let mut packet = from4("tcp");
    packet[9] = 132;
    mend_header(&mut packet);
    assert_eq!(to_ipv6(&packet, &LIMITS), Err(Refused::with(Refusal::Protocol, 3, 2, 0)));
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

#[test]
fn rfc7915_5_1_dont_fragment_from_1261_octets() {
    for (length, flags) in [(1279, 0), (1280, 0), (1281, 0x40), (1500, 0x40)] {
        let packets = to_ipv4(&ipv6_packet(length), &LIMITS).unwrap();
        assert_eq!(packets.len(), 1);
        assert_eq!(packets[0][4..8], [0x12, 0x34, flags, 0], "{length}");
    }
}

#[test]
fn rfc7915_5_1_fragments_for_a_narrow_link() {
    let limits = Limits::new(600, 1500).unwrap();
    let packet = ipv6_packet(1280);
    let packets = to_ipv4(&packet, &limits).unwrap();
    let lengths: Vec<_> = packets.iter().map(Vec::len).collect();
    assert_eq!(lengths, [596, 596, 108], "data in multiples of 8");
    let fields: Vec<_> = packets.iter().map(|packet| &packet[4..8]).collect();
    assert_eq!(fields, [[0x12, 0x34, 0x20, 0], [0x12, 0x34, 0x20, 72], [0x12, 0x34, 0, 144]]);
    let data: Vec<u8> = packets.iter().flat_map(|packet| packet[20..].to_vec()).collect();
    let whole = &to_ipv4(&packet, &LIMITS).unwrap()[0];
    assert_eq!(data, whole[20..]);
    assert!(packets.iter().all(|packet| Ipv4::new(packet).unwrap().checksum_is_right()));
    // One octet more, and it must not be.
    let expected = Refused::with(Refusal::TooBig, 2, 0, 1280);
    assert_eq!(to_ipv4(&ipv6_packet(1281), &limits), Err(expected));
    let limits = Limits::new(1400, 1500).unwrap();
    let expected = Refused::with(Refusal::TooBig, 2, 0, 1420);
    assert_eq!(to_ipv4(&ipv6_packet(1421), &limits), Err(expected));
    assert_eq!(to_ipv4(&ipv6_packet(1420), &limits).unwrap()[0].len(), 1400);
}

#[test]
fn rfc7915_5_1_1_fragments_of_a_fragment() {
    // The third to the last of a packet, 1448 octets at 2896, on a link of 1000.
    let data: Vec<u8> = (0..1448_u32).map(|n| n as u8).collect();
    let header = ipv6::header(8 + data.len(), 44, 64, CLIENT, SERVICE);
    let fragment = [6, 0, 0x0b, 0x51, 1, 2, 3, 4];
    let packet = [&header[..], &fragment, &data].concat();
    let packets = to_ipv4(&packet, &Limits::new(1000, 1500).unwrap()).unwrap();
    assert_eq!(packets.len(), 2);
    assert_eq!(packets[0][2..8], [0x03, 0xe4, 3, 4, 0x21, 0x6a], "976 octets at 2896, more follow");
    assert_eq!(packets[1][2..8], [0x01, 0xec, 3, 4, 0x21, 0xe4], "472 at 3872, more follow");
    assert_eq!([&packets[0][20..], &packets[1][20..]].concat(), data);
}

#[test]
fn rfc7915_4_1_fragments_of_1280_octets() {
    assert_eq!(to_ipv6(&ipv4_packet(1260, false), &LIMITS).unwrap()[0].len(), 1280);
    let packet = ipv4_packet(1500, false);
    let packets = to_ipv6(&packet, &LIMITS).unwrap();
    let lengths: Vec<_> = packets.iter().map(Vec::len).collect();
    assert_eq!(lengths, [1280, 48 + 248]);
    assert_eq!(packets[0][4..8], [0x04, 0xd8, 44, 63]);
    assert_eq!(packets[0][40..48], [6, 0, 0, 1, 0, 0, 0, 7]);
    assert_eq!(packets[1][4..8], [0x01, 0x00, 44, 63]);
    assert_eq!(packets[1][40..48], [6, 0, 0x04, 0xd0, 0, 0, 0, 7], "at 1232");
    // As the network is known to carry 1500.
    let wide = Limits { ipv6_path_mtu: 1500, ..LIMITS };
    assert_eq!(to_ipv6(&ipv4_packet(1480, false), &wide).unwrap()[0].len(), 1500);
    assert_eq!(to_ipv6(&packet, &wide).unwrap()[0].len(), 1496);
    // Nothing is fragmented that must not be.
    let whole = to_ipv6(&ipv4_packet(1480, true), &LIMITS).unwrap();
    assert_eq!((whole.len(), whole[0].len()), (1, 1500));
    assert_eq!(whole[0][40..], to_ipv6(&ipv4_packet(1480, false), &wide).unwrap()[0][40..]);
    let expected = Refused::with(Refusal::TooBig, 3, 4, 1480);
    assert_eq!(to_ipv6(&ipv4_packet(1481, true), &LIMITS), Err(expected));
    // A fragment has a fragment header besides.
    let mut fragment = ipv4_packet(1476, true);
    fragment[6] = 0x60;
    mend_header(&mut fragment);
    let expected = Refused::with(Refusal::TooBig, 3, 4, 1472);
    assert_eq!(to_ipv6(&fragment, &LIMITS), Err(expected));
}

#[test]
fn limits_have_limits() {
    assert!(Limits::new(67, 1280).is_none());
    assert!(Limits::new(68, 1279).is_none());
    let limits = Limits::new(68, 1400).unwrap();
    assert_eq!(limits.path_mtu(), 1280);
    assert_eq!(Limits { ipv6_path_mtu: 1401, ..limits }.path_mtu(), 1400);
    assert_eq!(Limits { ipv6_path_mtu: 1300, ..limits }.path_mtu(), 1300);
    assert_eq!(Limits { ipv6_path_mtu: 0, ..limits }.path_mtu(), 1280);
}

/// The longest quoted packet on the narrowest link, and an extension that has no room.
#[test]
fn errors_fit_into_the_mtu() {
    let mut limits = Limits::new(68, 1280).unwrap();
    let packets = to_ipv4(&from6("extension_long"), &limits).unwrap();
    assert_eq!((packets.len(), packets[0].len(), packets[0][25]), (1, 68, 0));
    assert_eq!(checksum(&[&packets[0][20..]]), 0);
    limits = Limits::new(20 + 8 + 128 + 12, 1280).unwrap();
    let packets = to_ipv4(&from6("extension_long"), &limits).unwrap();
    assert_eq!((packets[0].len(), packets[0][25]), (168, 32), "the quoted packet is cut");
    let mut long = from4("quoted_udp");
    long.resize(1500, 7);
    (long[46 - 16], long[47 - 16]) = (0x05, 0xc0); // the quoted packet's length: 1472
    mend_header(&mut long[28..]);
    put_u16(&mut long, 2, 1500);
    put_u16(&mut long, 22, 0);
    let sum = checksum(&[&long[20..]]);
    put_u16(&mut long, 22, sum);
    mend_header(&mut long);
    let packets = to_ipv6(&long, &LIMITS).unwrap();
    assert_eq!((packets.len(), packets[0].len()), (1, 1280), "RFC 4443 section 2.4 (c)");
}

#[test]
fn no_error_about_what_must_not_have_one() {
    let error = IcmpError { kind: 3, code: 0, word: 0 };
    let about =
        |packet: &[u8]| ipv6_error(error, SERVICE, packet).map(|error| octets_of(error).len());
    assert_eq!(about(&from6("tcp")), Some(48 + from6("tcp").len()));
    assert_eq!(about(&from6("echo_request")), Some(48 + from6("echo_request").len()));
    assert_eq!(about(&[&from6("tcp")[..], &[0; 2000]].concat()), Some(48 + from6("tcp").len()));
    assert_eq!(about(&ipv6_packet(1500)), Some(1280));
    for name in ["quoted_udp", "quoted_tcp_cut", "extension"] {
        assert_eq!(about(&from6(name)), None, "{name}");
    }
    for at in [8, 24] {
        let mut group = from6("tcp");
        group[at] = 0xff;
        assert_eq!(about(&group), None);
    }
    let mut redirect = from6("echo_request");
    redirect[40] = 137;
    assert_eq!(about(&redirect), None);
    let mut icmp_later = from6("later_fragment");
    icmp_later[40] = 58;
    assert_eq!(about(&icmp_later), None, "which may be of an error");
    assert_eq!(about(&cut(&from6("echo_request"), 40)), None);

    let about =
        |packet: &[u8]| ipv4_error(error, CLIENT4, packet).map(|error| octets_of(error).len());
    assert_eq!(about(&from4("tcp")), Some(28 + from4("tcp").len()));
    assert_eq!(about(&from4("echo_request")), Some(28 + from4("echo_request").len()));
    assert_eq!(about(&ipv4_packet(1500, true)), Some(576));
    for name in ["quoted_udp", "quoted_tcp_cut", "extension", "later_fragment"] {
        assert_eq!(about(&from4(name)), None, "{name}");
    }
    for (at, octet) in [(12, 0), (12, 127), (12, 224), (16, 224), (16, 255)] {
        let mut group = from4("tcp");
        group[at] = octet;
        assert_eq!(about(&group), None);
    }
}
