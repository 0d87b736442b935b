//! Views of the embedded IPv4 and IPv6 packets, the walk through extension headers, and checksums.
//!
//! Implements what PROTOCOL.md section 7 needs to know of a packet: who sent it to whom, which transport it
//! carries, whether it is a fragment. It does not translate and does not judge TCP or UDP.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::handoff::message::Prefix96;
use crate::handoff::stats::DropReason;

/// The octets of an IPv6 header.
pub const IPV6_HEADER: usize = 40;
/// The octets of an IPv4 header without options.
pub const IPV4_HEADER: usize = 20;
/// The octets of an ICMP or ICMPv6 header.
pub const ICMP_HEADER: usize = 8;
/// The most extension headers that are walked (PROTOCOL.md section 7).
pub const EXTENSION_HEADERS_MAX: usize = 8;

/// Protocol and next header numbers.
pub mod protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// Authentication header.
    pub const AUTHENTICATION: u8 = 51;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// Nothing follows.
    pub const NO_NEXT_HEADER: u8 = 59;
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
}

/// ICMP and ICMPv6 message types.
pub mod icmp_type {
    /// ICMP: echo reply.
    pub const ECHO_REPLY: u8 = 0;
    /// ICMP: destination unreachable.
    pub const UNREACHABLE: u8 = 3;
    /// ICMP: echo request.
    pub const ECHO_REQUEST: u8 = 8;
    /// ICMPv6: parameter problem.
    pub const V6_PARAMETER_PROBLEM: u8 = 4;
    /// ICMPv6: echo request.
    pub const V6_ECHO_REQUEST: u8 = 128;
    /// ICMPv6: echo reply.
    pub const V6_ECHO_REPLY: u8 = 129;
}

/// Whether a datagram of ICMP type `kind` reports an error (RFC 792, RFC 1122 section 3.2.2).
pub fn icmp_is_error(kind: u8) -> bool {
    matches!(kind, 3 | 4 | 5 | 11 | 12)
}

/// Whether ICMP type `kind` is a query or its answer that RFC 792, 950 and 1256 know.
pub fn icmp_is_query(kind: u8) -> bool {
    matches!(kind, 0 | 8 | 9 | 10 | 13..=18)
}

/// Whether ICMPv6 type `kind` reports an error (RFC 4443 section 2.1).
pub fn icmpv6_is_error(kind: u8) -> bool {
    kind < 128
}

/// Whether a transport of this number has entries.
pub fn has_entries(protocol: u8) -> bool {
    matches!(protocol, protocol::TCP | protocol::UDP)
}

fn u16_at(octets: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(octets.get(at..at + 2)?.try_into().ok()?))
}

/// Source and destination port, where TCP and UDP have them.
pub fn ports(transport: &[u8]) -> Option<(u16, u16)> {
    Some((u16_at(transport, 0)?, u16_at(transport, 2)?))
}

/// What a fragment says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// Which packet it is a part of.
    pub identification: u32,
    /// Whether it is the first part, with the transport header.
    pub first: bool,
    /// Whether more parts follow.
    pub more: bool,
    /// Where its data stand in those of the packet, in octets; a multiple of 8.
    pub offset: u16,
}

/// A view of an IPv6 packet: at least the whole fixed header.
#[derive(Debug, Clone, Copy)]
pub struct Ipv6<'a> {
    header: &'a [u8; IPV6_HEADER],
    octets: &'a [u8],
}

/// What stands behind the extension headers of an IPv6 packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Walk {
    /// The number of the upper-layer protocol.
    pub protocol: u8,
    /// Where that number stands, from the start of the packet.
    pub protocol_at: usize,
    /// Where the upper layer begins, from the start of the packet. In a later fragment, where its data do.
    pub upper_at: usize,
    /// The fragment header, if there was one.
    pub fragment: Option<Fragment>,
    /// Where it stands, from the start of the packet.
    pub fragment_at: Option<usize>,
}

impl Walk {
    /// Where no extension header was seen yet.
    fn start(packet: Ipv6<'_>) -> Self {
        Self {
            protocol: packet.header[6],
            protocol_at: 6,
            upper_at: IPV6_HEADER,
            fragment: None,
            fragment_at: None,
        }
    }
}

/// Why a walk ended before the upper layer, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalkEnd {
    /// Why.
    pub reason: DropReason,
    /// From the start of the packet: the field for the segments left, or the header that is one too many or
    /// runs past the end.
    pub at: usize,
}

impl<'a> Ipv6<'a> {
    /// A view of `packet`, which may be cut short behind the fixed header, as inside of an ICMPv6 error.
    /// `None` where even that is not whole, or the version is another.
    pub fn new(packet: &'a [u8]) -> Option<Self> {
        let header = packet.first_chunk()?;
        (header[0] >> 4 == 6).then_some(Self { header, octets: packet })
    }

    /// All octets.
    pub fn octets(self) -> &'a [u8] {
        self.octets
    }

    /// The source address.
    pub fn source(self) -> Ipv6Addr {
        Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(|i| self.header[8 + i]))
    }

    /// The destination address.
    pub fn destination(self) -> Ipv6Addr {
        Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(|i| self.header[24 + i]))
    }

    /// The octets behind the fixed header that it names.
    pub fn payload_length(self) -> usize {
        usize::from(u16::from_be_bytes([self.header[4], self.header[5]]))
    }

    /// The traffic class.
    pub fn traffic_class(self) -> u8 {
        self.header[0] << 4 | self.header[1] >> 4
    }

    /// The hop limit.
    pub fn hop_limit(self) -> u8 {
        self.header[7]
    }

    /// The NAT64 prefix in the destination address.
    pub fn destination_prefix(self) -> Prefix96 {
        Prefix96::of(self.destination())
    }

    /// Walks the extension headers.
    ///
    /// # Errors
    /// More than [`EXTENSION_HEADERS_MAX`] of them, a routing header with segments left, or a header that
    /// runs past the end.
    pub fn walk(self) -> Result<Walk, DropReason> {
        if has_entries(self.header[6]) {
            // By far the most have no extension headers.
            return Ok(Walk::start(self));
        }
        self.walk_to().map_err(|end| end.reason)
    }

    /// The same, and on failure where it stopped.
    ///
    /// # Errors
    /// As [`Self::walk`].
    pub fn walk_to(self) -> Result<Walk, WalkEnd> {
        let mut walk = Walk::start(self);
        for walked in 0.. {
            let length = match walk.protocol {
                protocol::HOP_BY_HOP | protocol::DESTINATION_OPTIONS | protocol::ROUTING => None,
                protocol::FRAGMENT => Some(8),
                _ => break,
            };
            let end = |reason| WalkEnd { reason, at: walk.upper_at };
            if walked == EXTENSION_HEADERS_MAX {
                return Err(end(DropReason::ExtensionHeaders));
            }
            let header = self.octets.get(walk.upper_at..).unwrap_or_default();
            let &[next, units, ..] = header else {
                return Err(end(DropReason::HeaderTruncated));
            };
            let length = length.unwrap_or(8 * (usize::from(units) + 1));
            let header = header.get(..length).ok_or(end(DropReason::HeaderTruncated))?;
            if walk.protocol == protocol::ROUTING && header[3] != 0 {
                return Err(WalkEnd { reason: DropReason::SegmentsLeft, at: walk.upper_at + 3 });
            }
            if walk.protocol == protocol::FRAGMENT {
                let fragment = ipv6_fragment(header);
                walk.fragment = Some(fragment);
                walk.fragment_at = Some(walk.upper_at);
                if !fragment.first {
                    // What follows is data of a packet whose headers stand in its first fragment.
                    walk.protocol = next;
                    walk.protocol_at = walk.upper_at;
                    walk.upper_at += length;
                    break;
                }
            }
            walk.protocol = next;
            walk.protocol_at = walk.upper_at;
            walk.upper_at += length;
        }
        Ok(walk)
    }
}

fn ipv6_fragment(header: &[u8]) -> Fragment {
    let offset_and_flags = u16::from_be_bytes([header[2], header[3]]);
    Fragment {
        identification: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
        first: offset_and_flags >> 3 == 0,
        more: offset_and_flags & 1 != 0,
        offset: offset_and_flags & !7,
    }
}

/// A view of an IPv4 packet: at least the whole header, options included.
#[derive(Debug, Clone, Copy)]
pub struct Ipv4<'a>(&'a [u8]);

impl<'a> Ipv4<'a> {
    /// A view of `packet`, which may be cut short behind its header, as inside of an ICMP error. `None`
    /// where even that is not whole, or the version is another.
    pub fn new(packet: &'a [u8]) -> Option<Self> {
        let header = usize::from(packet.first()? & 0x0f) * 4;
        (packet[0] >> 4 == 4 && header >= IPV4_HEADER && packet.len() >= header)
            .then_some(Self(packet))
    }

    /// All octets.
    pub fn octets(self) -> &'a [u8] {
        self.0
    }

    /// The length of the header, options included.
    pub fn header_length(self) -> usize {
        usize::from(self.0[0] & 0x0f) * 4
    }

    /// What stands behind the header.
    pub fn data(self) -> &'a [u8] {
        &self.0[self.header_length()..]
    }

    /// The protocol number.
    pub fn protocol(self) -> u8 {
        self.0[9]
    }

    /// The source address.
    pub fn source(self) -> Ipv4Addr {
        Ipv4Addr::new(self.0[12], self.0[13], self.0[14], self.0[15])
    }

    /// The destination address.
    pub fn destination(self) -> Ipv4Addr {
        Ipv4Addr::new(self.0[16], self.0[17], self.0[18], self.0[19])
    }

    /// What it says of itself as a fragment; `None` where it is whole.
    pub fn fragment(self) -> Option<Fragment> {
        let offset_and_flags = u16::from_be_bytes([self.0[6], self.0[7]]);
        let fragment = Fragment {
            identification: u32::from(u16::from_be_bytes([self.0[4], self.0[5]])),
            first: offset_and_flags & 0x1fff == 0,
            more: offset_and_flags & 0x2000 != 0,
            offset: offset_and_flags << 3,
        };
        (!fragment.first || fragment.more).then_some(fragment)
    }

    /// The total length that the header names.
    pub fn total_length(self) -> usize {
        usize::from(u16::from_be_bytes([self.0[2], self.0[3]]))
    }

    /// The identification.
    pub fn identification(self) -> u16 {
        u16::from_be_bytes([self.0[4], self.0[5]])
    }

    /// Whether it must not be fragmented.
    pub fn dont_fragment(self) -> bool {
        self.0[6] & 0x40 != 0
    }

    /// The type of service octet.
    pub fn type_of_service(self) -> u8 {
        self.0[1]
    }

    /// The time to live.
    pub fn ttl(self) -> u8 {
        self.0[8]
    }

    /// The options, which may be none.
    pub fn options(self) -> &'a [u8] {
        &self.0[IPV4_HEADER..self.header_length()]
    }

    /// Whether the header's checksum is right.
    pub fn checksum_is_right(self) -> bool {
        checksum(&[&self.0[..self.header_length()]]) == 0
    }
}

/// A header without options, for a whole packet of `total_length` octets that is not to be fragmented.
pub fn ipv4_header(
    total_length: usize,
    ttl: u8,
    protocol: u8,
    source: Ipv4Addr,
    destination: Ipv4Addr,
) -> [u8; IPV4_HEADER] {
    let mut header = [0; IPV4_HEADER];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&(total_length as u16).to_be_bytes());
    header[6] = 0x40;
    (header[8], header[9]) = (ttl, protocol);
    header[12..16].copy_from_slice(&source.octets());
    header[16..].copy_from_slice(&destination.octets());
    let checksum = checksum(&[&header]);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    header
}

/// A header for a packet of `payload_length` octets behind it.
pub fn ipv6_header(
    payload_length: usize,
    next_header: u8,
    hop_limit: u8,
    source: Ipv6Addr,
    destination: Ipv6Addr,
) -> [u8; IPV6_HEADER] {
    let mut header = [0; IPV6_HEADER];
    header[0] = 0x60;
    header[4..6].copy_from_slice(&(payload_length as u16).to_be_bytes());
    (header[6], header[7]) = (next_header, hop_limit);
    header[8..24].copy_from_slice(&source.octets());
    header[24..].copy_from_slice(&destination.octets());
    header
}

/// Sets the time to live of an IPv4 packet and mends its header checksum (RFC 1624).
/// `packet` has at least a whole header.
pub fn set_ttl(packet: &mut [u8], ttl: u8) {
    let old = u16::from_be_bytes([packet[8], packet[9]]);
    packet[8] = ttl;
    let new = u16::from_be_bytes([packet[8], packet[9]]);
    let checksum = u16::from_be_bytes([packet[10], packet[11]]);
    packet[10..12].copy_from_slice(&checksum_update(checksum, old, new).to_be_bytes());
}

/// The time to live of an IPv4 packet with at least a whole header.
pub fn ttl(packet: &[u8]) -> u8 {
    packet[8]
}

/// RFC 1624 equation 3: the checksum after one 16 bit word changed, or several that add up to `old` and now to
/// `new` as [`sum`] says. Where any word is not 0 it is what summing up anew gives: never 0xffff.
pub fn checksum_update(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(u32::from(!checksum) + u32::from(!old) + u32::from(new))
}

/// The sum in one's complement over `parts`, each but the last of even length.
pub fn sum(parts: &[&[u8]]) -> u16 {
    !checksum(parts)
}

/// The Internet checksum (RFC 1071) over `parts`, each but the last of even length.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u64;
    for part in parts {
        let mut words = part.chunks_exact(2);
        sum += words
            .by_ref()
            .map(|word| u64::from(u16::from_be_bytes([word[0], word[1]])))
            .sum::<u64>();
        if let &[last] = words.remainder() {
            sum += u64::from(last) << 8;
        }
    }
    // Two folds bring the sum of 2^16 words into 32 bits and leave no more than that to do.
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    !fold(u32::try_from(sum).unwrap_or(u32::MAX))
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The checksum of an ICMPv6 message, pseudo-header included (RFC 4443 section 2.3). It is 0 where the
/// message stands with a right checksum.
pub fn icmpv6_checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let length = (message.len() as u32).to_be_bytes();
    checksum(&[
        &source.octets(),
        &destination.octets(),
        &length,
        &[0, 0, 0, protocol::ICMPV6],
        message,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header of version 6 with `next`, then `rest`.
    fn ipv6(next: u8, rest: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; IPV6_HEADER];
        packet[0] = 0x60;
        packet[4..6].copy_from_slice(&(rest.len() as u16).to_be_bytes());
        packet[6] = next;
        packet[8..24].copy_from_slice(&"2001:db8::17".parse::<Ipv6Addr>().unwrap().octets());
        packet[24..40].copy_from_slice(&"64:ff9b::cb00:7105".parse::<Ipv6Addr>().unwrap().octets());
        packet.extend_from_slice(rest);
        packet
    }

    fn walk(next: u8, rest: &[u8]) -> Result<Walk, DropReason> {
        Ipv6::new(&ipv6(next, rest)).unwrap().walk()
    }

    #[test]
    fn section_7_addresses() {
        let packet = ipv6(6, &[]);
        let view = Ipv6::new(&packet).unwrap();
        assert_eq!(view.source().to_string(), "2001:db8::17");
        assert_eq!(view.destination_prefix().to_string(), "64:ff9b::/96");
        assert!(Ipv6::new(&packet[..39]).is_none());
        assert!(Ipv6::new(&[0x45; 40]).is_none());
    }

    #[test]
    fn section_7_extension_headers_are_walked() {
        let plain = walk(17, &[0; 8]).unwrap();
        let upper = |protocol, protocol_at, upper_at| Walk {
            protocol,
            protocol_at,
            upper_at,
            fragment: None,
            fragment_at: None,
        };
        assert_eq!(plain, upper(17, 6, 40));
        // Hop-by-hop of 8 octets, destination options of 16, then TCP.
        let mut rest = vec![60, 0, 0, 0, 0, 0, 0, 0, 6, 1];
        rest.resize(24, 0);
        let walked = walk(0, &rest).unwrap();
        assert_eq!(walked, upper(6, 48, 64));
        for cut in 0..24 {
            assert_eq!(walk(0, &rest[..cut]), Err(DropReason::HeaderTruncated), "{cut}");
        }
    }

    #[test]
    fn section_7_at_most_eight_extension_headers() {
        let chain = |n: usize| {
            let mut rest = Vec::new();
            for i in 0..n {
                rest.extend_from_slice(&[if i + 1 == n { 17 } else { 60 }, 0, 1, 4, 0, 0, 0, 0]);
            }
            walk(60, &rest)
        };
        assert_eq!(chain(8).unwrap().upper_at, 104);
        assert_eq!(chain(9), Err(DropReason::ExtensionHeaders));
    }

    #[test]
    fn section_7_routing_headers() {
        assert_eq!(walk(43, &[17, 0, 4, 0, 0, 0, 0, 0]).unwrap().protocol, 17);
        assert_eq!(walk(43, &[17, 0, 4, 1, 0, 0, 0, 0]), Err(DropReason::SegmentsLeft));
        // Behind a hop-by-hop header, RFC 7915 section 5.1 wants to know where.
        let packet = ipv6(0, &[43, 0, 1, 4, 0, 0, 0, 0, 17, 0, 4, 1, 0, 0, 0, 0]);
        let end = Ipv6::new(&packet).unwrap().walk_to().unwrap_err();
        assert_eq!(end, WalkEnd { reason: DropReason::SegmentsLeft, at: 51 });
    }

    #[test]
    fn section_7_fragments() {
        let fragment = |flags: [u8; 2]| {
            walk(44, &[17, 0, flags[0], flags[1], 1, 2, 3, 4]).unwrap().fragment.unwrap()
        };
        let identification = 0x0102_0304;
        let expected = |offset, more| Fragment { identification, first: offset == 0, more, offset };
        assert_eq!(fragment([0, 1]), expected(0, true));
        assert_eq!(fragment([0, 0]), expected(0, false));
        assert_eq!(fragment([0, 8]), expected(8, false));
        assert_eq!(fragment([1, 1]), expected(256, true));
        assert_eq!(fragment([0xff, 0xff]), expected(65528, true));
        // What looks like an extension header in a later fragment is data.
        let later = walk(44, &[60, 0, 0, 8, 0, 0, 0, 0]).unwrap();
        assert_eq!((later.protocol, later.upper_at, later.fragment_at), (60, 48, Some(40)));
    }

    #[test]
    fn section_7_ipv4_fragments() {
        let with = |flags: u16| {
            let mut packet = vec![0; 20];
            packet[0] = 0x45;
            packet[4..6].copy_from_slice(&[0xab, 0xcd]);
            packet[6..8].copy_from_slice(&flags.to_be_bytes());
            Ipv4::new(&packet).unwrap().fragment()
        };
        assert_eq!(with(0), None);
        assert_eq!(with(0x4000), None);
        let identification = 0xabcd;
        let expected =
            |offset, more| Some(Fragment { identification, first: offset == 0, more, offset });
        assert_eq!(with(0x2000), expected(0, true));
        assert_eq!(with(0x2001), expected(8, true));
        assert_eq!(with(0x00ff), expected(2040, false));
        assert_eq!(with(0x1fff), expected(65528, false));
    }

    #[test]
    fn section_7_ipv4_view_wants_its_whole_header() {
        let mut packet = vec![0; 24];
        packet[0] = 0x46;
        assert_eq!(Ipv4::new(&packet).unwrap().header_length(), 24);
        assert!(Ipv4::new(&packet[..23]).is_none());
        packet[0] = 0x44;
        assert!(Ipv4::new(&packet).is_none());
        assert!(Ipv4::new(&[]).is_none());
    }

    #[test]
    fn checksums() {
        // The example of RFC 1071 section 3.
        assert_eq!(checksum(&[&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]), !0xddf2);
        assert_eq!(checksum(&[&[0xff; 65536], &[1]]), !0x0100);
        // A header from the wire; its sum, checksum included, is 0.
        let mut header = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8,
            0x00, 0x01, 0xc0, 0xa8, 0x00, 0xc7,
        ];
        assert_eq!(checksum(&[&header]), 0);
        for ttl in [63, 1, 255, 0, 64] {
            set_ttl(&mut header, ttl);
            assert_eq!(super::ttl(&header), ttl);
            assert_eq!(checksum(&[&header]), 0, "{ttl}");
        }
        assert_eq!(header[10..12], [0xb8, 0x61]);
    }

    #[test]
    fn fields_of_the_headers() {
        let mut packet = ipv6(6, &[0; 258]);
        packet[0..2].copy_from_slice(&[0x6a, 0xb7]);
        packet[7] = 9;
        let view = Ipv6::new(&packet).unwrap();
        assert_eq!((view.payload_length(), view.traffic_class(), view.hop_limit()), (258, 0xab, 9));
        let header = [
            0x46, 0xb8, 0x01, 0x73, 0xab, 0xcd, 0x40, 0, 9, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2,
            1, 1, 1, 0,
        ];
        let view = Ipv4::new(&header).unwrap();
        assert_eq!((view.total_length(), view.identification(), view.ttl()), (371, 0xabcd, 9));
        assert_eq!((view.type_of_service(), view.options()), (0xb8, &[1, 1, 1, 0][..]));
        assert!(view.dont_fragment() && !view.checksum_is_right());
    }

    #[test]
    fn a_checksum_with_many_words_replaced_is_that_of_the_new_words() {
        let (old, new, rest) = ([0xfe_u8; 32], [1_u8, 2, 3, 4, 0xff, 0xff], [7_u8, 8, 9]);
        let before = checksum(&[&old, &rest]);
        let after = checksum(&[&new, &rest]);
        assert_eq!(checksum_update(before, sum(&[&old]), sum(&[&new])), after);
        // 0 has two forms; the sum 0xffff stands for it where any word is not 0.
        assert_eq!(checksum(&[&[0xff, 0xfe, 0, 1]]), 0);
        assert_eq!(checksum_update(0xffff, 0xffff, 0xffff), 0);
    }
}
