//! The transport header: what changes in it, and its checksum with that (RFC 7915 sections 4.5 and 5.5).
//!
//! Checksums are mended by what changed (RFC 1624), so one that was wrong stays wrong, and the receiver sees it.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::ip::packet::{self, icmp_type, protocol};

use super::{Refusal, Transport, put_u16, u16_at};

/// The octets of a TCP header without options.
const TCP_HEADER: usize = 20;
/// The octets of a UDP header.
const UDP_HEADER: usize = 8;
/// The octets of an echo's header.
const ECHO_HEADER: usize = 8;
/// Where the identifier of an echo stands.
const ECHO_IDENTIFIER_AT: usize = 4;
const TCP_FLAGS_AT: usize = 13;
const UDP_LENGTH_AT: usize = 4;

impl Transport {
    /// The transport that has the same number in either header.
    pub(super) fn of(protocol: u8) -> Option<Self> {
        match protocol {
            protocol::TCP => Some(Self::Tcp),
            protocol::UDP => Some(Self::Udp),
            _ => None,
        }
    }

    /// The number in an IPv4 header.
    pub(super) fn ipv4_protocol(self) -> u8 {
        match self {
            Self::Tcp => protocol::TCP,
            Self::Udp => protocol::UDP,
            Self::Echo => protocol::ICMP,
        }
    }

    /// The number in an IPv6 header.
    pub(super) fn ipv6_protocol(self) -> u8 {
        match self {
            Self::Echo => protocol::ICMPV6,
            other => other.ipv4_protocol(),
        }
    }

    fn header_length(self) -> usize {
        match self {
            Self::Tcp => TCP_HEADER,
            Self::Udp => UDP_HEADER,
            Self::Echo => ECHO_HEADER,
        }
    }

    fn checksum_at(self) -> usize {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
            Self::Echo => 2,
        }
    }

    /// Whether `upper` starts with a whole header.
    pub(super) fn check_header(self, upper: &[u8]) -> Result<(), Refusal> {
        if upper.len() < self.header_length() {
            return Err(Refusal::HeaderTruncated);
        }
        Ok(())
    }

    /// Source and destination port, or identifier and 0. `None` where `upper` ends before.
    pub(super) fn ports(self, upper: &[u8]) -> Option<(u16, u16)> {
        match self {
            Self::Tcp | Self::Udp => packet::ports(upper),
            Self::Echo if upper.len() < ECHO_HEADER => None,
            Self::Echo => Some((u16_at(upper, ECHO_IDENTIFIER_AT), 0)),
        }
    }

    pub(super) fn tcp_flags(self, upper: &[u8]) -> u8 {
        if self == Self::Tcp { upper[TCP_FLAGS_AT] } else { 0 }
    }
}

/// Whether the UDP datagram, or first fragment of one, has no checksum. `upper` starts with a whole header.
pub(super) fn udp_without_checksum(upper: &[u8]) -> bool {
    u16_at(upper, Transport::Udp.checksum_at()) == 0
}

/// The sum over what a pseudo-header has of the addresses alone.
pub(super) fn sum4(source: Ipv4Addr, destination: Ipv4Addr) -> u16 {
    packet::sum(&[&source.octets(), &destination.octets()])
}

/// The sum over what a pseudo-header has of the addresses alone.
pub(super) fn sum6(source: Ipv6Addr, destination: Ipv6Addr) -> u16 {
    packet::sum(&[&source.octets(), &destination.octets()])
}

/// The pseudo-header of an ICMPv6 message of `length` octets; ICMP has none (RFC 4443 section 2.3).
pub(super) fn icmpv6_pseudo(source: Ipv6Addr, destination: Ipv6Addr, length: usize) -> u16 {
    packet::sum(&[
        &source.octets(),
        &destination.octets(),
        &(length as u32).to_be_bytes(),
        &[0, 0, 0, protocol::ICMPV6],
    ])
}

/// Which of its ports a packet has on the client's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientIs {
    Source,
    Destination,
}

/// What changes in a transport header.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change {
    pub transport: Transport,
    pub client_is: ClientIs,
    pub client_port: u16,
    /// The sums over the pseudo-headers before and after, or the parts of them that differ.
    pub before: u16,
    pub after: u16,
}

impl Change {
    /// Makes the change. `upper` has at least the ports; where it is cut before the checksum, there is none to
    /// mend. An echo's type is changed into its counterpart.
    pub(super) fn apply(self, upper: &mut [u8]) {
        let port_at = match (self.transport, self.client_is) {
            (Transport::Echo, _) => ECHO_IDENTIFIER_AT,
            (_, ClientIs::Source) => 0,
            (_, ClientIs::Destination) => 2,
        };
        let mut before = packet::sum(&[&self.before.to_be_bytes(), &upper[port_at..port_at + 2]]);
        let mut after = packet::sum(&[&self.after.to_be_bytes(), &self.client_port.to_be_bytes()]);
        put_u16(upper, port_at, self.client_port);
        if self.transport == Transport::Echo {
            before = packet::sum(&[&before.to_be_bytes(), &upper[..2]]);
            upper[0] = counterpart(upper[0]);
            after = packet::sum(&[&after.to_be_bytes(), &upper[..2]]);
        }
        let at = self.transport.checksum_at();
        let Some(&[high, low]) = upper.get(at..at + 2) else {
            return;
        };
        let old = u16::from_be_bytes([high, low]);
        let none = self.transport == Transport::Udp && old == 0;
        if !none {
            put_checksum(upper, self.transport, packet::checksum_update(old, before, after));
        }
    }
}

fn put_checksum(upper: &mut [u8], transport: Transport, checksum: u16) {
    // RFC 768: 0 is for none, so it is sent in its other form.
    let zero_means_none = transport == Transport::Udp;
    let checksum = if zero_means_none && checksum == 0 { 0xffff } else { checksum };
    put_u16(upper, transport.checksum_at(), checksum);
}

/// Gives a UDP datagram that has none its checksum over IPv6. `upper` has at least a whole header.
///
/// # Errors
/// A length that the datagram cannot have.
pub(super) fn make_udp_checksum(
    upper: &mut [u8],
    source: Ipv6Addr,
    destination: Ipv6Addr,
) -> Result<(), Refusal> {
    let length = usize::from(u16_at(upper, UDP_LENGTH_AT));
    if !(UDP_HEADER..=upper.len()).contains(&length) {
        return Err(Refusal::HeaderTruncated);
    }
    let checksum = packet::checksum(&[
        &source.octets(),
        &destination.octets(),
        &[0, 0, 0, protocol::UDP],
        &(length as u32).to_be_bytes(),
        &upper[..length],
    ]);
    put_checksum(upper, Transport::Udp, checksum);
    Ok(())
}

/// An echo's type in the other ICMP.
fn counterpart(kind: u8) -> u8 {
    match kind {
        icmp_type::ECHO_REQUEST => icmp_type::V6_ECHO_REQUEST,
        icmp_type::ECHO_REPLY => icmp_type::V6_ECHO_REPLY,
        icmp_type::V6_ECHO_REQUEST => icmp_type::ECHO_REQUEST,
        _ => icmp_type::ECHO_REPLY,
    }
}
