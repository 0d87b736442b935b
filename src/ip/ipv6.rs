//! A view of an IPv6 packet, the walk through its extension headers, and its header written.

use std::net::Ipv6Addr;

use super::address::Prefix96;
use super::fields::{
    FRAGMENT_HEADER, IPV6_HEADER, extension, ipv6 as field, protocol, put_u16, u16_at,
};
use super::fragment::{Fragment, FragmentKey};
use super::transport::has_ports;

/// The most extension headers that are walked (PROTOCOL.md section 7).
pub const EXTENSION_HEADERS_MAX: usize = 8;

/// A view of an IPv6 packet: at least the whole fixed header.
#[derive(Debug, Clone, Copy)]
pub struct Ipv6<'a> {
    header: &'a [u8; IPV6_HEADER],
    octets: &'a [u8],
}

/// What stands behind the extension headers of an IPv6 packet. Offsets are in octets from the start
/// of the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Walk {
    /// The number of the upper-layer protocol.
    pub protocol: u8,
    /// Where that number stands.
    pub protocol_at: usize,
    /// Where the upper layer begins. In a later fragment, where its data do.
    pub upper_at: usize,
    /// The fragment header, if there was one.
    pub fragment: Option<Fragment>,
    /// Behind a fragment header stands, or in the first fragment stood, another extension header.
    pub extension_in_fragments: bool,
}

impl Walk {
    /// No extension header was seen yet.
    fn start(packet: Ipv6<'_>) -> Self {
        Self {
            protocol: packet.header[field::NEXT_HEADER],
            protocol_at: field::NEXT_HEADER,
            upper_at: IPV6_HEADER,
            fragment: None,
            extension_in_fragments: false,
        }
    }
}

/// Why a walk ended before the upper layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalkError {
    /// There are more than [`EXTENSION_HEADERS_MAX`].
    TooMany,
    /// A routing header has segments left.
    SegmentsLeft {
        /// The offset of the field that says so, from the start of the packet.
        at: usize,
    },
    /// A header runs past the end.
    Truncated,
}

impl<'a> Ipv6<'a> {
    /// A view of `packet`, which may be cut short behind the fixed header, as inside of an ICMPv6
    /// error. `None` where even that is not whole, or the version is another.
    pub fn new(packet: &'a [u8]) -> Option<Self> {
        let header = packet.first_chunk()?;
        (header[field::VERSION_AND_CLASS] >> 4 == 6).then_some(Self { header, octets: packet })
    }

    /// A view of the packet that `octets` start with, cut to the length that it says. `None` where
    /// there are fewer octets.
    #[inline]
    pub fn whole(octets: &'a [u8]) -> Option<Self> {
        let view = Self::new(octets)?;
        let octets = octets.get(..IPV6_HEADER + view.payload_length())?;
        Some(Self { octets, ..view })
    }

    pub fn octets(self) -> &'a [u8] {
        self.octets
    }

    #[inline]
    pub fn source(self) -> Ipv6Addr {
        const AT: usize = field::SOURCE.start;
        Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(|i| self.header[AT + i]))
    }

    #[inline]
    pub fn destination(self) -> Ipv6Addr {
        const AT: usize = field::DESTINATION.start;
        Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(|i| self.header[AT + i]))
    }

    /// The octets behind the fixed header, as that says.
    pub fn payload_length(self) -> usize {
        usize::from(u16_at(self.header, field::PAYLOAD_LENGTH))
    }

    pub fn traffic_class(self) -> u8 {
        let at = field::VERSION_AND_CLASS;
        self.header[at] << 4 | self.header[at + 1] >> 4
    }

    pub fn hop_limit(self) -> u8 {
        self.header[field::HOP_LIMIT]
    }

    /// The NAT64 prefix in the destination address.
    pub fn destination_prefix(self) -> Prefix96 {
        Prefix96::of(self.destination())
    }

    /// Which packet `fragment`, which is what it says of itself, is a part of.
    pub fn fragment_key(self, fragment: Fragment) -> FragmentKey {
        FragmentKey::Ipv6 {
            source: self.source(),
            destination: self.destination(),
            identification: fragment.identification,
        }
    }

    /// What stands behind the extension headers that `walk` passed. Empty where the packet ends
    /// before.
    #[inline]
    pub fn upper(self, walk: &Walk) -> &'a [u8] {
        self.octets.get(walk.upper_at..).unwrap_or_default()
    }

    /// Walks the extension headers.
    ///
    /// # Errors
    /// See [`WalkError`].
    #[inline(always)] // On the path of every request: a call would return the walk through memory.
    pub fn walk(self) -> Result<Walk, WalkError> {
        if has_ports(self.header[field::NEXT_HEADER]) {
            // By far the most have no extension headers.
            return Ok(Walk::start(self));
        }
        self.walk_extensions()
    }

    #[inline(never)]
    fn walk_extensions(self) -> Result<Walk, WalkError> {
        let mut walk = Walk::start(self);
        for walked in 0.. {
            let length = match walk.protocol {
                protocol::HOP_BY_HOP | protocol::DESTINATION_OPTIONS | protocol::ROUTING => None,
                protocol::FRAGMENT => Some(FRAGMENT_HEADER),
                _ => break,
            };
            if walked == EXTENSION_HEADERS_MAX {
                return Err(WalkError::TooMany);
            }
            let header = self.upper(&walk);
            let &[next, units, ..] = header else {
                return Err(WalkError::Truncated);
            };
            let length = length.unwrap_or(8 * (usize::from(units) + 1));
            let header = header.get(..length).ok_or(WalkError::Truncated)?;
            if walk.protocol == protocol::ROUTING && header[extension::SEGMENTS_LEFT] != 0 {
                let at = walk.upper_at + extension::SEGMENTS_LEFT;
                return Err(WalkError::SegmentsLeft { at });
            }
            let fragment = (walk.protocol == protocol::FRAGMENT).then(|| Fragment::of_ipv6(header));
            if fragment.is_some() {
                walk.fragment = fragment;
                walk.extension_in_fragments |= is_extension(next);
            }
            walk.protocol = next;
            walk.protocol_at = walk.upper_at + extension::NEXT_HEADER;
            walk.upper_at += length;
            if fragment.is_some_and(|fragment| !fragment.first) {
                // What follows is data of a packet whose headers stand in its first fragment.
                break;
            }
        }
        Ok(walk)
    }
}

/// Whether `next` is the number of an extension header that hosts know before a transport (RFC 8200
/// section 4, RFC 4302), but for ESP, behind which nothing can be read.
fn is_extension(next: u8) -> bool {
    matches!(
        next,
        protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::FRAGMENT
            | protocol::AUTHENTICATION
            | protocol::DESTINATION_OPTIONS
    )
}

/// A header for a packet of `payload_length` octets behind it.
pub fn header(
    payload_length: usize,
    next_header: u8,
    hop_limit: u8,
    source: Ipv6Addr,
    destination: Ipv6Addr,
) -> [u8; IPV6_HEADER] {
    let mut header = [0; IPV6_HEADER];
    header[field::VERSION_AND_CLASS] = 0x60;
    put_u16(&mut header, field::PAYLOAD_LENGTH, payload_length as u16);
    (header[field::NEXT_HEADER], header[field::HOP_LIMIT]) = (next_header, hop_limit);
    header[field::SOURCE].copy_from_slice(&source.octets());
    header[field::DESTINATION].copy_from_slice(&destination.octets());
    header
}

/// Sets the traffic class of a header whose flow label is 0.
pub fn set_traffic_class(header: &mut [u8], traffic_class: u8) {
    let at = field::VERSION_AND_CLASS;
    (header[at], header[at + 1]) = (0x60 | traffic_class >> 4, traffic_class << 4);
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

    fn walk(next: u8, rest: &[u8]) -> Result<Walk, WalkError> {
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
            extension_in_fragments: false,
        };
        assert_eq!(plain, upper(17, 6, 40));
        // Hop-by-hop of 8 octets, destination options of 16, then TCP.
        let mut rest = vec![60, 0, 0, 0, 0, 0, 0, 0, 6, 1];
        rest.resize(24, 0);
        let walked = walk(0, &rest).unwrap();
        assert_eq!(walked, upper(6, 48, 64));
        for cut in 0..24 {
            assert_eq!(walk(0, &rest[..cut]), Err(WalkError::Truncated), "{cut}");
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
        assert_eq!(chain(9), Err(WalkError::TooMany));
    }

    #[test]
    fn section_7_routing_headers() {
        assert_eq!(walk(43, &[17, 0, 4, 0, 0, 0, 0, 0]).unwrap().protocol, 17);
        assert_eq!(walk(43, &[17, 0, 4, 1, 0, 0, 0, 0]), Err(WalkError::SegmentsLeft { at: 43 }));
        // Behind a hop-by-hop header, RFC 7915 section 5.1 wants to know where.
        let packet = ipv6(0, &[43, 0, 1, 4, 0, 0, 0, 0, 17, 0, 4, 1, 0, 0, 0, 0]);
        let ended = Ipv6::new(&packet).unwrap().walk();
        assert_eq!(ended, Err(WalkError::SegmentsLeft { at: 51 }));
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
        assert_eq!((later.protocol, later.upper_at), (60, 48));
    }

    #[test]
    fn extension_headers_in_fragments_are_told() {
        let fragment = |next, flags| [next, 0, 0, flags, 0, 0, 0, 1];
        let options = |next| [next, 0, 0, 0, 0, 0, 0, 0];
        for (first, headers, expected) in [
            (44, vec![fragment(17, 0)], false),
            (60, vec![options(44), fragment(17, 1)], false),
            (44, vec![fragment(60, 0), options(17)], true),
            (44, vec![fragment(60, 8)], true),
            (44, vec![fragment(51, 1)], true),
            // The last of two, with nothing else behind it.
            (44, vec![fragment(44, 0), fragment(17, 0)], true),
            (44, vec![fragment(60, 0), options(44), fragment(17, 0)], true),
        ] {
            let walked = walk(first, &headers.concat()).unwrap();
            assert_eq!(walked.extension_in_fragments, expected, "{headers:?}");
        }
    }

    #[test]
    fn a_whole_packet_is_cut_to_its_own_length() {
        let packet = ipv6(6, &[0; 9]);
        let longer = [&packet[..], &[7; 5]].concat();
        assert_eq!(Ipv6::whole(&longer).unwrap().octets(), packet);
        for length in 0..packet.len() {
            assert!(Ipv6::whole(&packet[..length]).is_none(), "{length}");
        }
    }

    #[test]
    fn fields_of_the_header() {
        let mut packet = ipv6(6, &[0; 258]);
        packet[0..2].copy_from_slice(&[0x6a, 0xb7]);
        packet[7] = 9;
        let view = Ipv6::new(&packet).unwrap();
        assert_eq!((view.payload_length(), view.traffic_class(), view.hop_limit()), (258, 0xab, 9));
        let mut header = header(258, 6, 9, view.source(), view.destination());
        set_traffic_class(&mut header, 0xab);
        packet[1] &= 0xf0; // the flow label
        assert_eq!(header, packet[..IPV6_HEADER]);
    }
}
