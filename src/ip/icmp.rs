//! The ICMP and ICMPv6 messages that we originate, and their limits (PROTOCOL.md section 7).
//!
//! What is received is looked at in `server`; packets that merely pass are not its business.

use std::net::Ipv4Addr;

use crate::handoff::entry::TableKey;
use crate::handoff::stats::DropReason;
use crate::ip::packet::{
    self, ICMP_HEADER, IPV4_HEADER, IPV6_HEADER, Ipv4, Ipv6, Walk, icmp_type, protocol,
};

/// The most messages of our own to one NAT64 in a second, echo replies among them.
pub const RATE_MAX: u32 = 100;
/// The most octets of an ICMPv6 error, all in (RFC 4443 section 2.4 c).
pub const ICMPV6_ERROR_MAX: usize = 1280;
/// The most octets of an ICMP error, all in (RFC 1812 section 4.3.2.3).
pub const ICMP_ERROR_MAX: usize = 576;

/// What a packet of ours starts with.
const HOP_LIMIT: u8 = 64;
const CODE_UNRECOGNIZED_NEXT_HEADER: u8 = 1;
const CODE_PROTOCOL_UNREACHABLE: u8 = 2;

/// Turns an ICMPv6 echo request into its reply, in place. The packet is `buffer[packet_at..end]`, its ICMPv6
/// message is where `walk` says. Returns where the reply starts: behind the request's extension headers.
///
/// # Errors
/// A message that is not whole or has a wrong checksum, or a request to a group.
pub fn echo_reply(
    buffer: &mut [u8],
    packet_at: usize,
    end: usize,
    walk: &Walk,
) -> Result<usize, DropReason> {
    let view = Ipv6::new(&buffer[packet_at..end]).ok_or(DropReason::HeaderTruncated)?;
    let (source, destination) = (view.source(), view.destination());
    let message_at = packet_at + walk.upper_at;
    let message = &buffer[message_at..end];
    if message.len() < ICMP_HEADER {
        return Err(DropReason::HeaderTruncated);
    }
    if packet::icmpv6_checksum(source, destination, message) != 0 {
        return Err(DropReason::EchoChecksum);
    }
    if destination.is_multicast() {
        return Err(DropReason::IcmpForbidden);
    }
    let header =
        packet::ipv6_header(message.len(), protocol::ICMPV6, HOP_LIMIT, destination, source);
    buffer[message_at - IPV6_HEADER..message_at].copy_from_slice(&header);
    let message = &mut buffer[message_at..end];
    message[..4].copy_from_slice(&[icmp_type::V6_ECHO_REPLY, 0, 0, 0]);
    let checksum = packet::icmpv6_checksum(destination, source, message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    Ok(message_at - IPV6_HEADER)
}

/// Appends an ICMPv6 parameter problem to `out`: the header that `walk` ended at is not recognized.
///
/// # Errors
/// Where RFC 4443 section 2.4 (e) forbids one.
pub fn emit_parameter_problem(
    out: &mut Vec<u8>,
    about: Ipv6<'_>,
    walk: &Walk,
) -> Result<(), DropReason> {
    if about.destination().is_multicast() || about.source().is_multicast() {
        return Err(DropReason::IcmpForbidden);
    }
    let octets = about.octets();
    let quoted = &octets[..octets.len().min(ICMPV6_ERROR_MAX - IPV6_HEADER - ICMP_HEADER)];
    let mut message =
        [icmp_type::V6_PARAMETER_PROBLEM, CODE_UNRECOGNIZED_NEXT_HEADER, 0, 0, 0, 0, 0, 0];
    message[4..].copy_from_slice(&(walk.protocol_at as u32).to_be_bytes());
    let (source, destination) = (about.destination(), about.source());
    let length = ICMP_HEADER + quoted.len();
    out.extend_from_slice(&packet::ipv6_header(
        length,
        protocol::ICMPV6,
        HOP_LIMIT,
        source,
        destination,
    ));
    let message_at = out.len();
    out.extend_from_slice(&message);
    out.extend_from_slice(quoted);
    let checksum = packet::icmpv6_checksum(source, destination, &out[message_at..]);
    out[message_at + 2..message_at + 4].copy_from_slice(&checksum.to_be_bytes());
    Ok(())
}

/// Appends an ICMP destination unreachable, protocol unreachable, to `out`. `table` has the addresses that the
/// request was sent between.
///
/// # Errors
/// Where RFC 1122 section 3.2.2 forbids one. That the packet is no ICMP error is for the caller to see to.
pub fn emit_protocol_unreachable(
    out: &mut Vec<u8>,
    about: Ipv4<'_>,
    table: TableKey,
) -> Result<(), DropReason> {
    let later_fragment = about.fragment().is_some_and(|fragment| !fragment.first);
    let (source, destination) = (about.destination(), about.source());
    // A service that the NAT64 reaches at a loopback address, as in a test, is a single host to it.
    let between_the_two =
        destination.is_loopback() && (source, destination) == (table.nat64, table.local);
    if later_fragment || !(is_single_host(destination) || between_the_two) || is_group(source) {
        return Err(DropReason::IcmpForbidden);
    }
    let octets = about.octets();
    let quoted = &octets[..octets.len().min(ICMP_ERROR_MAX - IPV4_HEADER - ICMP_HEADER)];
    let mut message = [icmp_type::UNREACHABLE, CODE_PROTOCOL_UNREACHABLE, 0, 0, 0, 0, 0, 0];
    let checksum = packet::checksum(&[&message, quoted]);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    let length = IPV4_HEADER + ICMP_HEADER + quoted.len();
    out.extend_from_slice(&packet::ipv4_header(
        length,
        HOP_LIMIT,
        protocol::ICMP,
        source,
        destination,
    ));
    out.extend_from_slice(&message);
    out.extend_from_slice(quoted);
    Ok(())
}

/// Whether `source` defines a single host (RFC 1122 section 3.2.2).
fn is_single_host(source: Ipv4Addr) -> bool {
    source.octets()[0] != 0 && !is_group(source) && !source.is_loopback()
}

/// Multicast, broadcast, and the class E addresses that it belongs to.
fn is_group(address: Ipv4Addr) -> bool {
    address.octets()[0] >= 224
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv6Addr;

    const CLIENT: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x17);
    const SERVICE: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0xcb00, 0x7105);

    fn ipv6(next_header: u8, destination: Ipv6Addr, data: &[u8]) -> Vec<u8> {
        let header = packet::ipv6_header(data.len(), next_header, 7, CLIENT, destination);
        [&header[..], data].concat()
    }

    /// An echo request behind destination options.
    fn echo_request() -> Vec<u8> {
        let mut message = [128, 0, 0, 0, 0xab, 0xcd, 0, 1, b'h', b'e', b'l', b'l', b'o'];
        let checksum = packet::icmpv6_checksum(CLIENT, SERVICE, &message);
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
        ipv6(60, SERVICE, &[&[58, 0, 1, 4, 0, 0, 0, 0][..], &message].concat())
    }

    fn reply_to(request: &[u8]) -> Result<Vec<u8>, DropReason> {
        let mut buffer = [&[0xff; 5][..], request].concat();
        let walk = Ipv6::new(request).unwrap().walk().unwrap();
        let end = buffer.len();
        let start = echo_reply(&mut buffer, 5, end, &walk)?;
        Ok(buffer[start..].to_vec())
    }

    #[test]
    fn section_7_echo_reply() {
        let reply = reply_to(&echo_request()).unwrap();
        let view = Ipv6::new(&reply).unwrap();
        assert_eq!((view.source(), view.destination()), (SERVICE, CLIENT));
        assert_eq!(reply[4..8], [0, 13, 58, 64]);
        assert_eq!(reply[40..42], [129, 0]);
        assert_eq!(reply[44..], [0xab, 0xcd, 0, 1, b'h', b'e', b'l', b'l', b'o']);
        assert_eq!(packet::icmpv6_checksum(SERVICE, CLIENT, &reply[40..]), 0);
    }

    #[test]
    fn section_7_echo_with_a_wrong_checksum_is_dropped() {
        for at in 48..61 {
            let mut request = echo_request();
            request[at] ^= 1;
            assert_eq!(reply_to(&request), Err(DropReason::EchoChecksum), "{at}");
        }
        assert_eq!(reply_to(&ipv6(58, SERVICE, &[128, 0, 0, 0])), Err(DropReason::HeaderTruncated));
    }

    #[test]
    fn section_7_parameter_problem() {
        for length in [0, 1, 100, 5000] {
            let about =
                ipv6(60, SERVICE, &[&[132, 0, 1, 4, 0, 0, 0, 0][..], &vec![7; length]].concat());
            let view = Ipv6::new(&about).unwrap();
            let mut out = vec![1, 2, 3];
            emit_parameter_problem(&mut out, view, &view.walk().unwrap()).unwrap();
            let problem = &out[3..];
            assert!(problem.len() <= 1280);
            assert_eq!(problem[40..42], [4, 1]);
            assert_eq!(problem[44..48], [0, 0, 0, 40], "points at the next header field");
            assert_eq!(problem[48..], about[..problem.len() - 48]);
            assert_eq!(problem.len(), (48 + about.len()).min(1280));
            assert_eq!(packet::icmpv6_checksum(SERVICE, CLIENT, &problem[40..]), 0);
            assert_eq!(
                usize::from(u16::from_be_bytes([problem[4], problem[5]])),
                problem.len() - 40
            );
        }
        let group = ipv6(132, "ff02::1".parse().unwrap(), &[]);
        let view = Ipv6::new(&group).unwrap();
        let refused = emit_parameter_problem(&mut Vec::new(), view, &view.walk().unwrap());
        assert_eq!(refused, Err(DropReason::IcmpForbidden));
    }

    #[test]
    fn section_7_protocol_unreachable() {
        let (service, nat64) = (Ipv4Addr::new(203, 0, 113, 5), Ipv4Addr::new(192, 0, 2, 7));
        let table = TableKey { local: Ipv4Addr::LOCALHOST, nat64: Ipv4Addr::new(127, 0, 1, 1) };
        let packet_of = |source, destination, data: &[u8]| {
            let header = packet::ipv4_header(20 + data.len(), 9, 132, source, destination);
            [&header[..], data].concat()
        };
        let emit = |packet: &[u8]| {
            let mut out = Vec::new();
            emit_protocol_unreachable(&mut out, Ipv4::new(packet).unwrap(), table).map(|()| out)
        };
        for length in [0, 9, 2000] {
            let about = packet_of(service, nat64, &vec![7; length]);
            let out = emit(&about).unwrap();
            assert_eq!(out.len(), (28 + about.len()).min(576));
            assert_eq!(packet::checksum(&[&out[..20]]), 0);
            assert_eq!(packet::checksum(&[&out[20..]]), 0);
            assert_eq!(out[20..22], [3, 2]);
            assert_eq!(out[12..20], [192, 0, 2, 7, 203, 0, 113, 5]);
            assert_eq!(out[28..], about[..out.len() - 28]);
        }
        for source in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1"] {
            let about = packet_of(source.parse().unwrap(), nat64, &[]);
            assert_eq!(emit(&about), Err(DropReason::IcmpForbidden), "{source}");
        }
        emit(&packet_of(table.local, table.nat64, &[])).unwrap();
        let to_group = packet_of(service, Ipv4Addr::new(224, 0, 0, 1), &[]);
        assert_eq!(emit(&to_group), Err(DropReason::IcmpForbidden));
        let mut later = packet_of(service, nat64, &[]);
        later[7] = 1;
        assert_eq!(emit(&later), Err(DropReason::IcmpForbidden));
    }
}
