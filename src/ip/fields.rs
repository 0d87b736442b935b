//! Where the fields of the headers stand, in octets from the start of their header, and the
//! numbers of protocols. Fields of 16 bits are named by their first octet.

use std::ops::Range;

/// Octets of an IPv4 header without options (RFC 791).
pub const IPV4_HEADER: usize = 20;
/// Octets of an IPv6 header (RFC 8200).
pub const IPV6_HEADER: usize = 40;
/// Octets of an IPv6 fragment header (RFC 8200 section 4.5).
pub const FRAGMENT_HEADER: usize = 8;
/// Octets of an ICMP or ICMPv6 header.
pub const ICMP_HEADER: usize = 8;
/// Octets of a TCP header without options (RFC 9293).
pub const TCP_HEADER: usize = 20;
/// Octets of a UDP header (RFC 768).
pub const UDP_HEADER: usize = 8;

/// Protocol and next header numbers.
pub mod protocol {
    /// IPv6 hop-by-hop options (RFC 8200 section 4.3).
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP (RFC 792).
    pub const ICMP: u8 = 1;
    /// TCP (RFC 9293).
    pub const TCP: u8 = 6;
    /// UDP (RFC 768).
    pub const UDP: u8 = 17;
    /// IPv6 routing header (RFC 8200 section 4.4).
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header (RFC 8200 section 4.5).
    pub const FRAGMENT: u8 = 44;
    /// Authentication header (RFC 4302).
    pub const AUTHENTICATION: u8 = 51;
    /// ICMPv6 (RFC 4443).
    pub const ICMPV6: u8 = 58;
    /// Nothing follows (RFC 8200 section 4.7).
    pub const NO_NEXT_HEADER: u8 = 59;
    /// IPv6 destination options (RFC 8200 section 4.6).
    pub const DESTINATION_OPTIONS: u8 = 60;
}

/// The IPv4 header.
pub(crate) mod ipv4 {
    use super::Range;

    /// Version, and the header's length in units of 4 octets.
    pub const VERSION_AND_LENGTH: usize = 0;
    pub const TYPE_OF_SERVICE: usize = 1;
    pub const TOTAL_LENGTH: usize = 2;
    pub const IDENTIFICATION: usize = 4;
    /// Three flags, then the fragment offset in units of 8 octets.
    pub const FLAGS_AND_OFFSET: usize = 6;
    pub const TTL: usize = 8;
    pub const PROTOCOL: usize = 9;
    pub const CHECKSUM: usize = 10;
    pub const SOURCE: Range<usize> = 12..16;
    pub const DESTINATION: Range<usize> = 16..20;

    /// Bits of [`FLAGS_AND_OFFSET`].
    pub const DONT_FRAGMENT: u16 = 0x4000;
    pub const MORE_FRAGMENTS: u16 = 0x2000;
    pub const OFFSET_MASK: u16 = 0x1fff;
}

/// The IPv6 header.
pub(crate) mod ipv6 {
    use super::Range;

    /// Version, and the upper half of the traffic class.
    pub const VERSION_AND_CLASS: usize = 0;
    pub const PAYLOAD_LENGTH: usize = 4;
    pub const NEXT_HEADER: usize = 6;
    pub const HOP_LIMIT: usize = 7;
    pub const SOURCE: Range<usize> = 8..24;
    pub const DESTINATION: Range<usize> = 24..40;
}

/// Extension headers of IPv6.
pub(crate) mod extension {
    pub const NEXT_HEADER: usize = 0;
    /// Routing header.
    pub const SEGMENTS_LEFT: usize = 3;
    /// Fragment header: the offset in octets in the upper 13 bits, [`MORE_FRAGMENTS`] in the last.
    pub const OFFSET_AND_FLAGS: usize = 2;
    /// Fragment header: 32 bits.
    pub const IDENTIFICATION: usize = 4;

    /// Parts of [`OFFSET_AND_FLAGS`].
    pub const MORE_FRAGMENTS: u16 = 1;
    pub const OFFSET_MASK: u16 = !7;
}

/// TCP and UDP alike.
pub(crate) mod ports {
    pub const SOURCE: usize = 0;
    pub const DESTINATION: usize = 2;
}

/// The TCP header.
pub(crate) mod tcp {
    use super::Range;

    /// Of the first octet of data: 32 bits.
    pub const SEQUENCE: Range<usize> = 4..8;
    /// The header's length in units of 4 octets, in the upper 4 bits.
    pub const DATA_OFFSET: usize = 12;
    pub const FLAGS: usize = 13;
    pub const CHECKSUM: usize = 16;

    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronize sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Push what came to the program.
    pub const PSH: u8 = 0x08;
    /// The acknowledgment field is significant.
    pub const ACK: u8 = 0x10;
    /// Congestion was experienced (RFC 3168).
    pub const ECE: u8 = 0x40;
    /// The congestion window was reduced (RFC 3168).
    pub const CWR: u8 = 0x80;
}

/// The UDP header.
pub(crate) mod udp {
    pub const LENGTH: usize = 4;
    pub const CHECKSUM: usize = 6;
}

/// The ICMP and ICMPv6 headers.
pub(crate) mod icmp {
    use super::Range;

    pub const TYPE: usize = 0;
    pub const CODE: usize = 1;
    pub const CHECKSUM: usize = 2;
    /// What an error says beyond type and code: an MTU, a pointer, or nothing.
    pub const WORD: Range<usize> = 4..8;
    /// Echo messages.
    pub const IDENTIFIER: usize = 4;
}

/// The header of a neighbor solicitation or advertisement (RFC 4861 section 4).
pub(crate) mod neighbor {
    use super::Range;

    /// Advertisement: what it is.
    pub const FLAGS: usize = 4;
    pub const TARGET: Range<usize> = 8..24;

    /// Bits of [`FLAGS`].
    pub const SOLICITED: u8 = 0x40;
    pub const OVERRIDE: u8 = 0x20;
}

/// The Geneve header (RFC 8926 section 3.4).
pub(crate) mod geneve {
    /// Two bits of version, then the length of the options in units of 4 octets.
    pub const VERSION_AND_LENGTH: usize = 0;
    pub const FLAGS: usize = 1;
    pub const PROTOCOL: usize = 2;
    /// 24 bits.
    pub const VNI: usize = 4;

    /// A bit of [`FLAGS`]: the frame is for the ends of the tunnel alone.
    pub const CONTROL: u8 = 0x80;
}

/// The header of an option of Geneve (RFC 8926 section 3.5).
pub(crate) mod geneve_option {
    pub const CLASS: usize = 0;
    pub const KIND: usize = 2;
    /// In units of 4 octets, in the lower 5 bits.
    pub const LENGTH: usize = 3;

    /// A bit of [`KIND`]: who does not know the option must not take the frame.
    pub const CRITICAL: u8 = 0x80;
}

/// The Ethernet header.
pub(crate) mod ethernet {
    pub const TO: usize = 0;
    pub const FROM: usize = 6;
    pub const KIND: usize = 12;
}

/// The 16 bits at `at`, which `octets` must have.
#[inline]
pub(crate) fn u16_at(octets: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([octets[at], octets[at + 1]])
}

/// The 32 bits at `at`, which `octets` must have.
#[inline]
pub(crate) fn u32_at(octets: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]])
}

/// Writes 16 bits at `at`, where `octets` must have room.
#[inline]
pub(crate) fn put_u16(octets: &mut [u8], at: usize, word: u16) {
    octets[at..at + 2].copy_from_slice(&word.to_be_bytes());
}
