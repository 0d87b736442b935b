//! Builders of whole packets for the demo and tests: those of clients and services, and the IPv4
//! packet in which a UDP payload reaches a NAT64.
//!
//! Lengths and checksums are right. There are no options, extension headers or fragments.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};

use super::fields::{IPV4_HEADER, TCP_HEADER, UDP_HEADER};
use super::transport::Transport;
use super::{checksum, icmp, ipv4, ipv6};

const HOP_LIMIT: u8 = 64;

/// A TCP segment with `flags` in an IPv6 packet. `data` beyond 65,515 octets is cut off.
pub fn ipv6_tcp(from: SocketAddrV6, to: SocketAddrV6, flags: u8, data: &[u8]) -> Vec<u8> {
    let segment = tcp(from.port(), to.port(), flags, data);
    ipv6_packet(*from.ip(), *to.ip(), Transport::Tcp, segment)
}

/// A UDP datagram in an IPv6 packet. `data` beyond 65,507 octets is cut off.
pub fn ipv6_udp(from: SocketAddrV6, to: SocketAddrV6, data: &[u8]) -> Vec<u8> {
    let datagram = udp(from.port(), to.port(), data);
    ipv6_packet(*from.ip(), *to.ip(), Transport::Udp, datagram)
}

/// An ICMPv6 echo request. `data` beyond 65,507 octets is cut off.
pub fn ipv6_echo_request(
    from: Ipv6Addr,
    to: Ipv6Addr,
    identifier: u16,
    sequence: u16,
    data: &[u8],
) -> Vec<u8> {
    let mut message = vec![icmp::v6::ECHO_REQUEST, 0, 0, 0];
    message.extend_from_slice(&identifier.to_be_bytes());
    message.extend_from_slice(&sequence.to_be_bytes());
    message.extend_from_slice(cut(data));
    ipv6_packet(from, to, Transport::Echo, message)
}

/// A TCP segment with `flags` in an IPv4 packet. `data` beyond 65,495 octets is cut off.
pub fn ipv4_tcp(from: SocketAddrV4, to: SocketAddrV4, flags: u8, data: &[u8]) -> Vec<u8> {
    let segment = tcp(from.port(), to.port(), flags, data);
    ipv4_packet(*from.ip(), *to.ip(), Transport::Tcp, segment)
}

/// A UDP datagram in an IPv4 packet. `data` beyond 65,507 octets is cut off.
pub fn ipv4_udp(from: SocketAddrV4, to: SocketAddrV4, data: &[u8]) -> Vec<u8> {
    let datagram = udp(from.port(), to.port(), data);
    ipv4_packet(*from.ip(), *to.ip(), Transport::Udp, datagram)
}

/// Cuts data to what fits behind the headers of either version, so that no length field overflows.
fn cut(data: &[u8]) -> &[u8] {
    &data[..data.len().min(usize::from(u16::MAX) - IPV4_HEADER - UDP_HEADER)]
}

fn tcp(from: u16, to: u16, flags: u8, data: &[u8]) -> Vec<u8> {
    let mut segment = vec![0; TCP_HEADER];
    segment[..2].copy_from_slice(&from.to_be_bytes());
    segment[2..4].copy_from_slice(&to.to_be_bytes());
    segment[12] = 5 << 4; // the header's length in words
    segment[13] = flags;
    segment[14..16].copy_from_slice(&u16::MAX.to_be_bytes()); // window
    segment.extend_from_slice(
        &data[..data.len().min(usize::from(u16::MAX) - IPV4_HEADER - TCP_HEADER)],
    );
    segment
}

fn udp(from: u16, to: u16, data: &[u8]) -> Vec<u8> {
    let data = cut(data);
    let mut datagram = Vec::with_capacity(UDP_HEADER + data.len());
    datagram.extend_from_slice(&from.to_be_bytes());
    datagram.extend_from_slice(&to.to_be_bytes());
    datagram.extend_from_slice(&((UDP_HEADER + data.len()) as u16).to_be_bytes());
    datagram.extend_from_slice(&[0, 0]);
    datagram.extend_from_slice(data);
    datagram
}

fn ipv6_packet(from: Ipv6Addr, to: Ipv6Addr, transport: Transport, mut upper: Vec<u8>) -> Vec<u8> {
    let next = transport.ipv6_protocol();
    let pseudo = checksum::pseudo_ipv6(from, to, next, upper.len());
    let sum = checksum::with_pseudo(pseudo, &[&upper]);
    checksum::put(&mut upper, transport, sum);
    [&ipv6::header(upper.len(), next, HOP_LIMIT, from, to)[..], &upper].concat()
}

fn ipv4_packet(from: Ipv4Addr, to: Ipv4Addr, transport: Transport, mut upper: Vec<u8>) -> Vec<u8> {
    let protocol = transport.ipv4_protocol();
    let pseudo = checksum::pseudo_ipv4(from, to, protocol, upper.len());
    let sum = checksum::with_pseudo(pseudo, &[&upper]);
    checksum::put(&mut upper, transport, sum);
    let header = ipv4::header(IPV4_HEADER + upper.len(), HOP_LIMIT, protocol, from, to);
    [&header[..], &upper].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ip::checksum::checksum;
    use crate::ip::fields::tcp::{ACK, SYN};
    use crate::ip::fields::{IPV6_HEADER, protocol};

    fn v6(text: &str) -> SocketAddrV6 {
        text.parse().unwrap()
    }

    fn v4(text: &str) -> SocketAddrV4 {
        text.parse().unwrap()
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
