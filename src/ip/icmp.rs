//! ICMP and ICMPv6: types and codes, what they mean, and the messages that we originate.
//!
//! [`v6_error`] and [`v4_error`] are the only writers of errors. About which packets there may be
//! one is said by [`v6_allows_error`] and [`v4_allows_error`]; from and to which addresses, by the
//! caller.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::address::{is_group, is_single_host};
use super::checksum::{self, checksum};
use super::fields::{ICMP_HEADER, IPV4_HEADER, IPV6_HEADER, icmp as field, protocol, put_u16};
use super::fragment::is_later;
use super::ipv4::{self, Ipv4};
use super::ipv6::{self, Ipv6, Walk};

/// The most octets of an ICMPv6 error, its IPv6 header included (RFC 4443 section 2.4 c).
pub const ICMPV6_ERROR_MAX: usize = 1280;
/// The most octets of an ICMP error, its IPv4 header included (RFC 1812 section 4.3.2.3).
const ICMP_ERROR_MAX: usize = 576;
/// Hop limit and time to live of what we originate.
const HOP_LIMIT: u8 = 64;
/// Octets of the headers of an error over IPv6, and over IPv4.
const V6_HEADERS: usize = IPV6_HEADER + ICMP_HEADER;
const V4_HEADERS: usize = IPV4_HEADER + ICMP_HEADER;

/// ICMP types, and codes of some of them (RFC 792).
pub mod v4 {
    /// Type: echo reply.
    pub const ECHO_REPLY: u8 = 0;
    /// Type: destination unreachable.
    pub const UNREACHABLE: u8 = 3;
    /// Type: echo request.
    pub const ECHO_REQUEST: u8 = 8;
    /// Type: time exceeded.
    pub const TIME_EXCEEDED: u8 = 11;
    /// Type: parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 12;

    /// Code of [`UNREACHABLE`]: host unreachable.
    pub const HOST: u8 = 1;
    /// Code of [`UNREACHABLE`]: protocol unreachable.
    pub const PROTOCOL: u8 = 2;
    /// Code of [`UNREACHABLE`]: port unreachable.
    pub const PORT: u8 = 3;
    /// Code of [`UNREACHABLE`]: fragmentation needed and DF set.
    pub const FRAGMENTATION_NEEDED: u8 = 4;
    /// Code of [`UNREACHABLE`]: source route failed.
    pub const SOURCE_ROUTE_FAILED: u8 = 5;
    /// Code of [`UNREACHABLE`]: network administratively prohibited (RFC 1122 section 3.2.2.1).
    pub const NETWORK_PROHIBITED: u8 = 9;
    /// Code of [`UNREACHABLE`]: host administratively prohibited (RFC 1122 section 3.2.2.1).
    pub const HOST_PROHIBITED: u8 = 10;
    /// Code of [`UNREACHABLE`]: communication administratively prohibited (RFC 1812 section
    /// 5.2.7.1).
    pub const PROHIBITED: u8 = 13;

    /// Whether a message of type `kind` reports an error (RFC 1122 section 3.2.2).
    #[inline]
    pub fn is_error(kind: u8) -> bool {
        matches!(kind, 3 | 4 | 5 | 11 | 12)
    }

    /// Whether type `kind` is a query, or an answer to one, that RFC 792, 950 and 1256 define.
    #[inline]
    pub fn is_query(kind: u8) -> bool {
        matches!(kind, 0 | 8 | 9 | 10 | 13..=18)
    }

    /// Whether type `kind` is an echo request or reply.
    #[inline]
    pub fn is_echo(kind: u8) -> bool {
        matches!(kind, ECHO_REQUEST | ECHO_REPLY)
    }
}

/// ICMPv6 types, and codes of some of them (RFC 4443).
pub mod v6 {
    /// Type: destination unreachable.
    pub const UNREACHABLE: u8 = 1;
    /// Type: packet too big.
    pub const PACKET_TOO_BIG: u8 = 2;
    /// Type: time exceeded.
    pub const TIME_EXCEEDED: u8 = 3;
    /// Type: parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 4;
    /// Type: echo request.
    pub const ECHO_REQUEST: u8 = 128;
    /// Type: echo reply.
    pub const ECHO_REPLY: u8 = 129;
    /// Type: redirect (RFC 4861).
    pub const REDIRECT: u8 = 137;

    /// Code of [`UNREACHABLE`]: no route to destination.
    pub const NO_ROUTE: u8 = 0;
    /// Code of [`UNREACHABLE`]: administratively prohibited.
    pub const PROHIBITED: u8 = 1;
    /// Code of [`UNREACHABLE`]: address unreachable.
    pub const ADDRESS: u8 = 3;
    /// Code of [`UNREACHABLE`]: port unreachable.
    pub const PORT: u8 = 4;
    /// Code of [`PARAMETER_PROBLEM`]: erroneous header field.
    pub const HEADER_FIELD: u8 = 0;
    /// Code of [`PARAMETER_PROBLEM`]: unrecognized next header.
    pub const NEXT_HEADER: u8 = 1;

    /// Whether a message of type `kind` reports an error (RFC 4443 section 2.1).
    #[inline]
    pub fn is_error(kind: u8) -> bool {
        kind < 128
    }

    /// Whether type `kind` is an echo request or reply.
    #[inline]
    pub fn is_echo(kind: u8) -> bool {
        matches!(kind, ECHO_REQUEST | ECHO_REPLY)
    }
}

/// An ICMP or ICMPv6 error: which of the two is clear from the packet that it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IcmpError {
    pub kind: u8,
    pub code: u8,
    /// What follows the checksum: an MTU, a pointer, or 0.
    pub word: u32,
}

impl IcmpError {
    fn header(self) -> [u8; ICMP_HEADER] {
        let mut header = [0; ICMP_HEADER];
        (header[field::TYPE], header[field::CODE]) = (self.kind, self.code);
        header[field::WORD].copy_from_slice(&self.word.to_be_bytes());
        header
    }
}

/// Why a message is not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IcmpRefusal {
    /// The message that it would answer has no whole header.
    Truncated,
    /// The message that it would answer has a wrong checksum.
    Checksum,
    /// RFC 4443 section 2.4 or RFC 1122 section 3.2.2 forbids it.
    Forbidden,
}

/// An error as a packet: its headers, behind which stands what it quotes of another packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorPacket<'a, const HEADERS: usize> {
    /// The IP and ICMP headers.
    pub headers: [u8; HEADERS],
    /// The beginning of the packet that it is about.
    pub quoted: &'a [u8],
}

/// An ICMPv6 error as a packet.
pub type V6Error<'a> = ErrorPacket<'a, V6_HEADERS>;
/// An ICMP error as a packet.
pub type V4Error<'a> = ErrorPacket<'a, V4_HEADERS>;

impl<const HEADERS: usize> ErrorPacket<'_, HEADERS> {
    /// Appends the packet to `out`.
    pub fn append_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.headers);
        out.extend_from_slice(self.quoted);
    }

    /// The packet in two parts: its headers, and what it quotes.
    pub fn parts(&self) -> (&[u8], &[u8]) {
        (&self.headers, self.quoted)
    }
}

/// An ICMPv6 error about `about`, to its source. Whether it is allowed is not asked.
pub fn v6_error(error: IcmpError, from: Ipv6Addr, about: Ipv6<'_>) -> V6Error<'_> {
    let octets = about.octets();
    let quoted = &octets[..octets.len().min(ICMPV6_ERROR_MAX - V6_HEADERS)];
    let (to, length) = (about.source(), ICMP_HEADER + quoted.len());
    let mut message = error.header();
    let pseudo = checksum::pseudo_ipv6(from, to, protocol::ICMPV6, length);
    let checksum = checksum::with_pseudo(pseudo, &[&message, quoted]);
    put_u16(&mut message, field::CHECKSUM, checksum);
    let mut headers = [0; V6_HEADERS];
    let header = ipv6::header(length, protocol::ICMPV6, HOP_LIMIT, from, to);
    headers[..IPV6_HEADER].copy_from_slice(&header);
    headers[IPV6_HEADER..].copy_from_slice(&message);
    ErrorPacket { headers, quoted }
}

/// An ICMP error about `about`, to its source. Whether it is allowed is not asked.
pub fn v4_error(error: IcmpError, from: Ipv4Addr, about: Ipv4<'_>) -> V4Error<'_> {
    let octets = about.octets();
    let quoted = &octets[..octets.len().min(ICMP_ERROR_MAX - V4_HEADERS)];
    let (to, length) = (about.source(), V4_HEADERS + quoted.len());
    let mut message = error.header();
    let checksum = checksum(&[&message, quoted]);
    put_u16(&mut message, field::CHECKSUM, checksum);
    let mut headers = [0; V4_HEADERS];
    let header = ipv4::header(length, HOP_LIMIT, protocol::ICMP, from, to);
    headers[..IPV4_HEADER].copy_from_slice(&header);
    headers[IPV4_HEADER..].copy_from_slice(&message);
    ErrorPacket { headers, quoted }
}

/// Whether RFC 4443 section 2.4 (e) allows an error about this packet: one between single hosts
/// that is not an ICMPv6 error or redirect, nor may be one whose header is not there.
pub fn v6_allows_error(about: Ipv6<'_>) -> bool {
    if about.destination().is_multicast() || about.source().is_multicast() {
        return false;
    }
    // A routing header with segments left ends the walk, and is answered.
    let Ok(walk) = about.walk() else {
        return true;
    };
    let forbids = |kind: &u8| v6::is_error(*kind) || *kind == v6::REDIRECT;
    let kind = about.upper(&walk).first();
    walk.protocol != protocol::ICMPV6 || !(is_later(walk.fragment) || kind.is_none_or(forbids))
}

/// Whether RFC 1122 section 3.2.2 allows an error about this packet, whatever its source: one to a
/// single host that is neither a later fragment nor an ICMP error, nor may be such an error.
pub fn v4_allows_error(about: Ipv4<'_>) -> bool {
    let forbids = |kind: &u8| v4::is_error(*kind);
    let is_error = about.protocol() == protocol::ICMP && about.data().first().is_none_or(forbids);
    !is_group(about.destination()) && !is_later(about.fragment()) && !is_error
}

/// The ICMPv6 parameter problem that says that the header at which `walk` ended is not recognized,
/// in the name of the destination of `about`.
///
/// # Errors
/// Where [`v6_allows_error`] does not hold.
pub fn parameter_problem<'a>(about: Ipv6<'a>, walk: &Walk) -> Result<V6Error<'a>, IcmpRefusal> {
    if !v6_allows_error(about) {
        return Err(IcmpRefusal::Forbidden);
    }
    let (kind, code) = (v6::PARAMETER_PROBLEM, v6::NEXT_HEADER);
    let error = IcmpError { kind, code, word: walk.protocol_at as u32 };
    Ok(v6_error(error, about.destination(), about))
}

/// The ICMPv6 error that says that communication with the destination of `about` is
/// administratively prohibited, in its name.
///
/// # Errors
/// Where [`v6_allows_error`] does not hold, or a later fragment does not tell.
pub fn prohibited(about: Ipv6<'_>) -> Result<V6Error<'_>, IcmpRefusal> {
    let is_whole = about.walk().is_ok_and(|walk| !is_later(walk.fragment));
    if !is_whole || !v6_allows_error(about) {
        return Err(IcmpRefusal::Forbidden);
    }
    let error = IcmpError { kind: v6::UNREACHABLE, code: v6::PROHIBITED, word: 0 };
    Ok(v6_error(error, about.destination(), about))
}

/// The ICMPv6 error that says that the destination of `about` cannot be reached, in its name.
///
/// # Errors
/// Where [`v6_allows_error`] does not hold.
pub fn address_unreachable(about: Ipv6<'_>) -> Result<V6Error<'_>, IcmpRefusal> {
    if !v6_allows_error(about) {
        return Err(IcmpRefusal::Forbidden);
    }
    let error = IcmpError { kind: v6::UNREACHABLE, code: v6::ADDRESS, word: 0 };
    Ok(v6_error(error, about.destination(), about))
}

/// The ICMP error that says that the protocol of `about` is unreachable, in the name of its
/// destination.
///
/// Its source must be a single host. Where `about` went between the two addresses of `loopback`,
/// its source and its destination, a loopback source is one as well: as in a test on one machine.
///
/// # Errors
/// Where [`v4_allows_error`] does not hold, or the source is not a single host.
pub fn protocol_unreachable(
    about: Ipv4<'_>,
    loopback: (Ipv4Addr, Ipv4Addr),
) -> Result<V4Error<'_>, IcmpRefusal> {
    let (source, destination) = (about.source(), about.destination());
    let between_the_two = source.is_loopback() && (source, destination) == loopback;
    if !v4_allows_error(about) || !(is_single_host(source) || between_the_two) {
        return Err(IcmpRefusal::Forbidden);
    }
    let error = IcmpError { kind: v4::UNREACHABLE, code: v4::PROTOCOL, word: 0 };
    Ok(v4_error(error, destination, about))
}

/// Turns an ICMPv6 echo request into its reply, in place. The packet is `buffer[packet_at..end]`,
/// and its ICMPv6 message stands where `walk` ended. Returns where the reply starts: behind the
/// request's extension headers.
///
/// # Errors
/// A message that is not whole or has a wrong checksum, or a request to a group.
pub fn echo_reply(
    buffer: &mut [u8],
    packet_at: usize,
    end: usize,
    walk: &Walk,
) -> Result<usize, IcmpRefusal> {
    let view = Ipv6::new(&buffer[packet_at..end]).ok_or(IcmpRefusal::Truncated)?;
    let (source, destination) = (view.source(), view.destination());
    let message_at = packet_at + walk.upper_at;
    let message = &buffer[message_at..end];
    if message.len() < ICMP_HEADER {
        return Err(IcmpRefusal::Truncated);
    }
    if checksum::icmpv6(source, destination, message) != 0 {
        return Err(IcmpRefusal::Checksum);
    }
    if destination.is_multicast() {
        return Err(IcmpRefusal::Forbidden);
    }
    let header = ipv6::header(message.len(), protocol::ICMPV6, HOP_LIMIT, destination, source);
    buffer[message_at - IPV6_HEADER..message_at].copy_from_slice(&header);
    let message = &mut buffer[message_at..end];
    (message[field::TYPE], message[field::CODE]) = (v6::ECHO_REPLY, 0);
    put_u16(message, field::CHECKSUM, 0);
    let checksum = checksum::icmpv6(destination, source, message);
    put_u16(message, field::CHECKSUM, checksum);
    Ok(message_at - IPV6_HEADER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv6Addr;

    const CLIENT: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x17);
    const SERVICE: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0xcb00, 0x7105);

    fn ipv6_packet(next_header: u8, destination: Ipv6Addr, data: &[u8]) -> Vec<u8> {
        let header = ipv6::header(data.len(), next_header, 7, CLIENT, destination);
        [&header[..], data].concat()
    }

    /// An echo request behind destination options.
    fn echo_request() -> Vec<u8> {
        let mut message = [128, 0, 0, 0, 0xab, 0xcd, 0, 1, b'h', b'e', b'l', b'l', b'o'];
        let checksum = checksum::icmpv6(CLIENT, SERVICE, &message);
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
        ipv6_packet(60, SERVICE, &[&[58, 0, 1, 4, 0, 0, 0, 0][..], &message].concat())
    }

    fn reply_to(request: &[u8]) -> Result<Vec<u8>, IcmpRefusal> {
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
        assert_eq!(checksum::icmpv6(SERVICE, CLIENT, &reply[40..]), 0);
    }

    #[test]
    fn section_7_echo_with_a_wrong_checksum_is_dropped() {
        for at in 48..61 {
            let mut request = echo_request();
            request[at] ^= 1;
            assert_eq!(reply_to(&request), Err(IcmpRefusal::Checksum), "{at}");
        }
        assert_eq!(
            reply_to(&ipv6_packet(58, SERVICE, &[128, 0, 0, 0])),
            Err(IcmpRefusal::Truncated)
        );
    }

    #[test]
    fn section_7_parameter_problem() {
        for length in [0, 1, 100, 5000] {
            let about = ipv6_packet(
                60,
                SERVICE,
                &[&[132, 0, 1, 4, 0, 0, 0, 0][..], &vec![7; length]].concat(),
            );
            let view = Ipv6::new(&about).unwrap();
            let mut out = vec![1, 2, 3];
            parameter_problem(view, &view.walk().unwrap()).unwrap().append_to(&mut out);
            let problem = &out[3..];
            assert!(problem.len() <= 1280);
            assert_eq!(problem[40..42], [4, 1]);
            assert_eq!(problem[44..48], [0, 0, 0, 40], "points at the next header field");
            assert_eq!(problem[48..], about[..problem.len() - 48]);
            assert_eq!(problem.len(), (48 + about.len()).min(1280));
            assert_eq!(checksum::icmpv6(SERVICE, CLIENT, &problem[40..]), 0);
            assert_eq!(
                usize::from(u16::from_be_bytes([problem[4], problem[5]])),
                problem.len() - 40
            );
        }
        let group = ipv6_packet(132, "ff02::1".parse().unwrap(), &[]);
        let view = Ipv6::new(&group).unwrap();
        let refused = parameter_problem(view, &view.walk().unwrap());
        assert_eq!(refused, Err(IcmpRefusal::Forbidden));
    }

    #[test]
    fn section_7_protocol_unreachable() {
        let (service, nat64) = (Ipv4Addr::new(203, 0, 113, 5), Ipv4Addr::new(192, 0, 2, 7));
        let loopback = (Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 1, 1));
        let packet_of = |source, destination, data: &[u8]| {
            let header = ipv4::header(20 + data.len(), 9, 132, source, destination);
            [&header[..], data].concat()
        };
        let emit = |packet: &[u8]| {
            let mut out = Vec::new();
            protocol_unreachable(Ipv4::new(packet).unwrap(), loopback)?.append_to(&mut out);
            Ok(out)
        };
        for length in [0, 9, 2000] {
            let about = packet_of(service, nat64, &vec![7; length]);
            let out = emit(&about).unwrap();
            assert_eq!(out.len(), (28 + about.len()).min(576));
            assert_eq!(checksum(&[&out[..20]]), 0);
            assert_eq!(checksum(&[&out[20..]]), 0);
            assert_eq!(out[20..22], [3, 2]);
            assert_eq!(out[12..20], [192, 0, 2, 7, 203, 0, 113, 5]);
            assert_eq!(out[28..], about[..out.len() - 28]);
        }
        for source in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1"] {
            let about = packet_of(source.parse().unwrap(), nat64, &[]);
            assert_eq!(emit(&about), Err(IcmpRefusal::Forbidden), "{source}");
        }
        emit(&packet_of(loopback.0, loopback.1, &[])).unwrap();
        let to_group = packet_of(service, Ipv4Addr::new(224, 0, 0, 1), &[]);
        assert_eq!(emit(&to_group), Err(IcmpRefusal::Forbidden));
        let mut later = packet_of(service, nat64, &[]);
        later[7] = 1;
        assert_eq!(emit(&later), Err(IcmpRefusal::Forbidden));
    }
}
