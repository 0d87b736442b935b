//! Whole packets for demos, simulations and tests: what clients send, what a service sends, and a UDP
//! payload as the IPv4 packet in which it reaches the NAT64.
//!
//! Lengths and checksums are right; there are no options, no extension headers and no fragments.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};

use crate::handoff::message::Prefix96;
use crate::ip::packet::{IPV4_HEADER, IPV6_HEADER, checksum, icmp_type, icmpv6_checksum, protocol};

/// TCP: the connection is to be closed.
pub const FIN: u8 = 0x01;
/// TCP: the connection is to be opened.
pub const SYN: u8 = 0x02;
/// TCP: the connection is broken off.
pub const RST: u8 = 0x04;
/// TCP: data arrived.
pub const ACK: u8 = 0x10;

const HOP_LIMIT: u8 = 64;

/// The address by which a client reaches `address` through a NAT64 with `prefix` (RFC 6052).
pub fn synthesize(prefix: Prefix96, address: Ipv4Addr) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets[..12].copy_from_slice(&prefix.0);
    octets[12..].copy_from_slice(&address.octets());
    octets.into()
}

/// The IPv4 address within an address that [`synthesize`] made.
pub fn extract(address: Ipv6Addr) -> Ipv4Addr {
    let [.., a, b, c, d] = address.octets();
    Ipv4Addr::new(a, b, c, d)
}

/// A TCP segment with `flags` in an IPv6 packet. `data` beyond 65,515 octets is cut off.
pub fn ipv6_tcp(from: SocketAddrV6, to: SocketAddrV6, flags: u8, data: &[u8]) -> Vec<u8> {
    let segment = tcp(from.port(), to.port(), flags, data);
    ipv6(*from.ip(), *to.ip(), protocol::TCP, segment)
}

/// A UDP datagram in an IPv6 packet. `data` beyond 65,507 octets is cut off.
pub fn ipv6_udp(from: SocketAddrV6, to: SocketAddrV6, data: &[u8]) -> Vec<u8> {
    let datagram = udp(from.port(), to.port(), data);
    ipv6(*from.ip(), *to.ip(), protocol::UDP, datagram)
}

/// An ICMPv6 echo request. `data` beyond 65,507 octets is cut off.
pub fn ipv6_echo_request(
    from: Ipv6Addr,
    to: Ipv6Addr,
    identifier: u16,
    sequence: u16,
    data: &[u8],
) -> Vec<u8> {
    let mut message = vec![icmp_type::V6_ECHO_REQUEST, 0, 0, 0];
    message.extend_from_slice(&identifier.to_be_bytes());
    message.extend_from_slice(&sequence.to_be_bytes());
    message.extend_from_slice(cut(data));
    ipv6(from, to, protocol::ICMPV6, message)
}

/// A TCP segment with `flags` in an IPv4 packet. `data` beyond 65,495 octets is cut off.
pub fn ipv4_tcp(from: SocketAddrV4, to: SocketAddrV4, flags: u8, data: &[u8]) -> Vec<u8> {
    let segment = tcp(from.port(), to.port(), flags, data);
    ipv4(*from.ip(), *to.ip(), protocol::TCP, segment)
}

/// A UDP datagram in an IPv4 packet. `data` beyond 65,507 octets is cut off.
pub fn ipv4_udp(from: SocketAddrV4, to: SocketAddrV4, data: &[u8]) -> Vec<u8> {
    let datagram = udp(from.port(), to.port(), data);
    ipv4(*from.ip(), *to.ip(), protocol::UDP, datagram)
}

/// What fits behind the longer of the headers, with some room: no length field can overflow.
fn cut(data: &[u8]) -> &[u8] {
    &data[..data.len().min(usize::from(u16::MAX) - IPV4_HEADER - 8)]
}

fn tcp(from: u16, to: u16, flags: u8, data: &[u8]) -> Vec<u8> {
    let mut segment = vec![0; 20];
    segment[..2].copy_from_slice(&from.to_be_bytes());
    segment[2..4].copy_from_slice(&to.to_be_bytes());
    segment[12] = 5 << 4; // the header's length in words
    segment[13] = flags;
    segment[14..16].copy_from_slice(&u16::MAX.to_be_bytes()); // window
    segment.extend_from_slice(&data[..data.len().min(usize::from(u16::MAX) - IPV4_HEADER - 20)]);
    segment
}

fn udp(from: u16, to: u16, data: &[u8]) -> Vec<u8> {
    let data = cut(data);
    let mut datagram = Vec::with_capacity(8 + data.len());
    datagram.extend_from_slice(&from.to_be_bytes());
    datagram.extend_from_slice(&to.to_be_bytes());
    datagram.extend_from_slice(&((8 + data.len()) as u16).to_be_bytes());
    datagram.extend_from_slice(&[0, 0]);
    datagram.extend_from_slice(data);
    datagram
}

/// Where `protocol` has its checksum, from the start of its header.
fn checksum_at(protocol: u8) -> usize {
    match protocol {
        protocol::TCP => 16,
        protocol::UDP => 6,
        _ => 2,
    }
}

/// A UDP checksum of 0 means none, so it is sent as its other representation (RFC 768).
fn put_checksum(upper: &mut [u8], protocol: u8, sum: u16) {
    let sum = if sum == 0 && protocol == protocol::UDP { 0xffff } else { sum };
    let at = checksum_at(protocol);
    upper[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

fn ipv6(from: Ipv6Addr, to: Ipv6Addr, next: u8, mut upper: Vec<u8>) -> Vec<u8> {
    let length = upper.len() as u16;
    let sum = if next == protocol::ICMPV6 {
        icmpv6_checksum(from, to, &upper)
    } else {
        let pseudo = [0, 0, 0, next];
        let wide = u32::from(length).to_be_bytes();
        checksum(&[&from.octets(), &to.octets(), &wide, &pseudo, &upper])
    };
    put_checksum(&mut upper, next, sum);
    let mut packet = Vec::with_capacity(IPV6_HEADER + upper.len());
    packet.extend_from_slice(&[0x60, 0, 0, 0]);
    packet.extend_from_slice(&length.to_be_bytes());
    packet.extend_from_slice(&[next, HOP_LIMIT]);
    packet.extend_from_slice(&from.octets());
    packet.extend_from_slice(&to.octets());
    packet.append(&mut upper);
    packet
}

fn ipv4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, mut upper: Vec<u8>) -> Vec<u8> {
    let length = (upper.len() as u16).to_be_bytes();
    let pseudo = [0, protocol];
    let sum = checksum(&[&from.octets(), &to.octets(), &pseudo, &length, &upper]);
    put_checksum(&mut upper, protocol, sum);
    let mut packet = vec![0; IPV4_HEADER];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&((IPV4_HEADER + upper.len()) as u16).to_be_bytes());
    packet[6] = 0x40; // do not fragment
    packet[8] = HOP_LIMIT;
    packet[9] = protocol;
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..20].copy_from_slice(&to.octets());
    let sum = checksum(&[&packet]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.append(&mut upper);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v6(text: &str) -> SocketAddrV6 {
        text.parse().unwrap()
    }

    fn v4(text: &str) -> SocketAddrV4 {
        text.parse().unwrap()
    }

    #[test]
    fn synthesized_addresses() {
        let prefix = Prefix96::of("64:ff9b::".parse().unwrap());
        let address = synthesize(prefix, Ipv4Addr::new(203, 0, 113, 5));
        assert_eq!(address.to_string(), "64:ff9b::cb00:7105");
        assert_eq!(extract(address), Ipv4Addr::new(203, 0, 113, 5));
    }

    #[test]
    fn ipv4_udp_octets() {
        let packet = ipv4_udp(v4("203.0.113.5:64064"), v4("192.0.2.7:9"), b"abc");
        #[rustfmt::skip]
        assert_eq!(packet, [
            0x45, 0, 0, 31, 0, 0, 0x40, 0, 64, 17, 0x3c, 0xc1, 203, 0, 113, 5, 192, 0, 2, 7,
            0xfa, 0x40, 0, 9, 0, 11, 0x43, 0x1e, b'a', b'b', b'c',
        ]);
    }

    /// The sum over pseudo-header and upper layer, checksum included, is 0 where it is right.
    #[test]
    fn checksums_are_right() {
        let (from, to) = (v6("[2001:db8::17]:53186"), v6("[64:ff9b::cb00:7105]:80"));
        for data in [&b""[..], b"x", b"even", &[0xff; 1001], &[0; 70_000]] {
            for (next, packet) in [
                (protocol::TCP, ipv6_tcp(from, to, SYN, data)),
                (protocol::UDP, ipv6_udp(from, to, data)),
                (protocol::ICMPV6, ipv6_echo_request(*from.ip(), *to.ip(), 1, 2, data)),
            ] {
                let upper = &packet[IPV6_HEADER..];
                assert_eq!(upper.len(), usize::from(u16::from_be_bytes([packet[4], packet[5]])));
                let length = (upper.len() as u32).to_be_bytes();
                let addresses = &packet[8..40];
                assert_eq!(checksum(&[addresses, &length, &[0, 0, 0, next], upper]), 0);
            }
            let (from, to) = (v4("203.0.113.5:80"), v4("192.0.2.7:3719"));
            for packet in [ipv4_tcp(from, to, ACK, data), ipv4_udp(from, to, data)] {
                assert_eq!(packet.len(), usize::from(u16::from_be_bytes([packet[2], packet[3]])));
                assert_eq!(checksum(&[&packet[..20]]), 0);
                let length = ((packet.len() - 20) as u16).to_be_bytes();
                let pseudo = [&packet[12..20], &[0, packet[9]], &length].concat();
                assert_eq!(checksum(&[&pseudo, &packet[20..]]), 0);
            }
        }
    }
}
