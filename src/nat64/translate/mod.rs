//! Translation of packets between IPv6 and IPv4, as a stateful NAT64 does it (RFC 7915 with RFC
//! 6146).
//!
//! It translates TCP, UDP, ICMP echo, and ICMP errors with the packet that they quote, whole or in
//! fragments. It is stateless: [`Ipv6Packet::parse`] and [`Ipv4Packet::parse`] say what a packet is
//! ([`Inside`]), the caller looks up the mapping, and passes that as a [`Rewrite`] to
//! [`Ipv6Packet::to_ipv4`] or [`Ipv4Packet::to_ipv6`]. These write the result into the caller's
//! buffer. From there [`Packets`] returns one packet after the other: fragments, where the next
//! link is too narrow for the whole packet.
//!
//! A packet that came from a device with offloads, so that its checksum is not made yet, or that
//! stands for several ([`crate::ip::offload::Offload`]), becomes a [`Forwarded`]: other headers
//! before the same data.
//!
//! A packet that is not translated is [`Refused`] for a named reason. If its sender should be told,
//! the refusal has an [`IcmpError`], and [`ipv6_error`] and [`ipv4_error`] make a packet of that.
//! The caller limits their rate.
//!
//! Hairpinning takes two steps: to IPv4 with the mapping of one client, then to IPv6 with the
//! mapping of the other. Not done: protocols that RFC 6146 leaves out, ICMP messages in fragments
//! (RFC 7915 section 1.2), fragments of UDP datagrams without a checksum (which RFC 6146 section
//! 3.4 would reassemble), multicast.

mod carried;
mod counterparts;
mod errors;
mod from_ipv4;
mod from_ipv6;
mod offloaded;
mod quoted;
mod upper;

use crate::handoff::stats::counters;
use crate::ip::fragment::FragmentKey;
pub use crate::ip::fragment::Packets;
use crate::ip::icmp::{IcmpError, v4, v6};
use crate::ip::ipv6::WalkError;
pub use crate::ip::transport::Transport;

pub use errors::{ipv4_error, ipv6_error};
pub use from_ipv4::Ipv4Packet;
pub use from_ipv6::Ipv6Packet;
pub use offloaded::{Forwarded, NewHeaders};

/// The caller's buffer must be this many octets longer than the packet: the most that one grows.
///
/// That is two longer headers with a fragment header each, where one is quoted, and up to 128
/// octets of padding behind the quoted packet (RFC 4884 section 3).
pub const GROWTH_MAX: usize = 256;
/// The minimum MTU of IPv6 (RFC 8200 section 5).
pub const IPV6_MTU_MIN: u16 = 1280;
/// The minimum MTU of IPv4 (RFC 791 section 3.2).
pub const IPV4_MTU_MIN: u16 = 68;
/// An IPv6 header is longer than an IPv4 header by this many octets.
const HEADER_DIFFERENCE: u16 = 20;

counters! {
/// Why a packet is not translated. RFC 7915 where nothing else is named.
Refusal:
    /// No whole header of this version, or a packet shorter than it says.
    PacketTruncated = "translate_packet_truncated",
    /// A header behind the first one, of the transport too, runs past the end.
    HeaderTruncated = "translate_header_truncated",
    /// RFC 1812 section 5.2.2: the checksum of the IPv4 header is wrong.
    HeaderChecksum = "translate_header_checksum",
    /// Sections 4.1 and 5.1: a source that no single host, or no client, can have, except for that
    /// of an ICMP error over IPv4; a group as destination, also of a quoted packet; any link-local
    /// address.
    Addresses = "translate_addresses",
    /// Section 4.1: an IPv4 source route that has not expired.
    SourceRoute = "translate_source_route",
    /// IPv4 options that cannot be told apart, so that there may be a source route among them.
    OptionsMalformed = "translate_options_malformed",
    /// More than 8 IPv6 extension headers.
    ExtensionHeaders = "translate_extension_headers",
    /// Section 5.1: a routing header with segments left.
    SegmentsLeft = "translate_segments_left",
    /// Section 5.1.1: an extension header within the fragments.
    FragmentedExtension = "translate_fragmented_extension",
    /// A fragment that is not the last and whose length is no multiple of 8, or one that ends
    /// behind the end of the longest packet.
    FragmentBounds = "translate_fragment_bounds",
    /// Section 1.2: a fragment of an ICMP message, whose checksum cannot be updated.
    IcmpFragment = "translate_icmp_fragment",
    /// RFC 6146 section 3.4: neither TCP nor UDP nor ICMP.
    Protocol = "translate_protocol",
    /// Section 4.5: a UDP datagram without a checksum, where none can be made or is to be made.
    /// Over IPv6 there are none (RFC 8200 section 8.1).
    UdpWithoutChecksum = "translate_udp_without_checksum",
    /// Sections 4.2 and 5.2: an ICMP query other than echo, or a type that is not known.
    IcmpType = "translate_icmp_type",
    /// Sections 4.2 and 5.2: an ICMP error of a code that has no counterpart.
    IcmpCode = "translate_icmp_code",
    /// Figures 3 and 6: a parameter problem that points at a field that the other header does not
    /// have.
    IcmpPointer = "translate_icmp_pointer",
    /// An ICMP error with a wrong checksum (RFC 5508 section 4.1).
    IcmpChecksum = "translate_icmp_checksum",
    /// An ICMP error that quotes too little to tell which connection it is about.
    QuotedTruncated = "translate_quoted_truncated",
    /// An ICMP error about a fragment without the ports, or of an ICMP message.
    QuotedFragment = "translate_quoted_fragment",
    /// An ICMP error about a packet that is not translated: its protocol, ICMP type or headers.
    QuotedProtocol = "translate_quoted_protocol",
    /// Sections 4.3 and 5.3: an ICMP error about an ICMP error.
    QuotedError = "translate_quoted_error",
    /// An ICMP error that is not sent to the source of the packet that it quotes (RFC 5508 section
    /// 4.2).
    QuotedSource = "translate_quoted_source",
    /// The time to live, or hop limit, ends here.
    HopLimit = "translate_hop_limit",
    /// Too big for the next link, and not to be fragmented.
    TooBig = "translate_too_big",
}

/// Why a packet is not translated, and what its sender is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// The reason, which has a counter.
    pub reason: Refusal,
    /// What the sender is told. [`ipv6_error`] and [`ipv4_error`] make nothing of it where no error
    /// about the packet is allowed.
    pub error: Option<IcmpError>,
}

impl Refused {
    fn with(reason: Refusal, kind: u8, code: u8, word: u32) -> Self {
        Self { reason, error: Some(IcmpError { kind, code, word }) }
    }

    /// A well-formed IPv6 packet that is discarded: its sender is told so (RFC 7915 section 5.4).
    fn discarded_ipv6(reason: Refusal) -> Self {
        Self::with(reason, v6::UNREACHABLE, v6::PROHIBITED, 0)
    }

    /// A well-formed IPv4 packet that is discarded (section 4.4).
    fn discarded_ipv4(reason: Refusal) -> Self {
        Self::with(reason, v4::UNREACHABLE, v4::PROHIBITED, 0)
    }
}

impl From<Refusal> for Refused {
    fn from(reason: Refusal) -> Self {
        Self { reason, error: None }
    }
}

/// Of the packet itself. In a quoted packet each of these is [`Refusal::QuotedProtocol`].
impl From<WalkError> for Refused {
    fn from(error: WalkError) -> Self {
        match error {
            WalkError::TooMany => Self::discarded_ipv6(Refusal::ExtensionHeaders),
            WalkError::SegmentsLeft { at } => Refused::with(
                Refusal::SegmentsLeft,
                v6::PARAMETER_PROBLEM,
                v6::HEADER_FIELD,
                at as u32,
            ),
            WalkError::Truncated => Refusal::HeaderTruncated.into(),
        }
    }
}

/// The connection of a packet. The client is the source of a packet to IPv4 and the destination of
/// a packet from there. In a packet that an ICMP error quotes it is the other way round, so that
/// client and service are the same as those of the error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow<A> {
    /// TCP, UDP or echo.
    pub transport: Transport,
    /// The client's address; in IPv4 that of the NAT64.
    pub client: A,
    /// The client's port, or the identifier of an echo; in IPv4 the mapped one.
    pub client_port: u16,
    /// The service's address; in IPv6 a synthesized one.
    pub service: A,
    /// The service's port; 0 for an echo.
    pub service_port: u16,
}

/// What a packet is to a NAT64: the key of its mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inside<A> {
    /// TCP, UDP or an ICMP echo: whole, or the first fragment.
    Flow {
        flow: Flow<A>,
        /// The flags of a TCP segment, else 0.
        tcp_flags: u8,
        /// The key of later fragments, if there are any.
        fragments: Option<FragmentKey>,
    },
    /// An ICMP error about a packet of this connection.
    Error(Flow<A>),
    /// A fragment behind the first.
    Later(FragmentKey),
}

/// What addresses and client's port become: a mapping. A later fragment has the mapping of the
/// first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rewrite<A> {
    /// Replaces the client's address: to IPv4 the NAT64's, to IPv6 the client's own.
    pub client: A,
    /// Replaces the client's port, or the identifier of an echo.
    pub client_port: u16,
    /// Replaces the service's address. To IPv6, routers are given the prefix of this address as
    /// well.
    pub service: A,
}

/// MTUs of the two sides, and what RFC 7915 leaves to configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    ipv4_mtu: u16,
    ipv6_mtu: u16,
    /// The smallest MTU of any link in the IPv6 network, where that is known to be more than 1280
    /// (RFC 7915 section 4.1): IPv4 packets that may be fragmented are, so that they are no longer
    /// as IPv6. Taken for 1280 where it is less, and for the next link's MTU where it is more.
    pub ipv6_path_mtu: u16,
    /// Whether the traffic class becomes the type of service and back, or both become 0 (RFC 7915
    /// sections 4.1 and 5.1).
    pub copy_traffic_class: bool,
    /// Whether a UDP datagram without a checksum gets one, or is refused (RFC 7915 section 4.5).
    pub make_udp_checksums: bool,
}

impl Limits {
    /// The MTU of the next link on either side, in octets, 68 to 65535 and 1280 to 65535. The path
    /// MTU is 1280, the traffic class is copied, and UDP checksums are made where there are none.
    /// `None` where an MTU is too small.
    pub const fn new(ipv4_mtu: u16, ipv6_mtu: u16) -> Option<Self> {
        if ipv4_mtu < IPV4_MTU_MIN || ipv6_mtu < IPV6_MTU_MIN {
            return None;
        }
        Some(Self {
            ipv4_mtu,
            ipv6_mtu,
            ipv6_path_mtu: IPV6_MTU_MIN,
            copy_traffic_class: true,
            make_udp_checksums: true,
        })
    }

    /// As [`Self::new`], where an MTU that is too small is taken for the smallest.
    pub fn at_least(ipv4_mtu: u16, ipv6_mtu: u16) -> Self {
        let [ipv4_mtu, ipv6_mtu] = [ipv4_mtu.max(IPV4_MTU_MIN), ipv6_mtu.max(IPV6_MTU_MIN)];
        Self { ipv4_mtu, ipv6_mtu, ..const { Self::new(IPV4_MTU_MIN, IPV6_MTU_MIN).unwrap() } }
    }

    /// The longest IPv6 packet that the IPv6 network is known to carry.
    fn path_mtu(&self) -> u16 {
        self.ipv6_path_mtu.clamp(IPV6_MTU_MIN, self.ipv6_mtu)
    }

    fn traffic_class(&self, octet: u8) -> u8 {
        if self.copy_traffic_class { octet } else { 0 }
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod tests;
