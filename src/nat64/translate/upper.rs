//! What translation changes in a transport header, and its checksum (RFC 7915 sections 4.5 and
//! 5.5).
//!
//! A checksum is updated by what changed (RFC 1624). One that was wrong stays wrong, and the
//! receiver sees it.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::ip::checksum::{self, sum};
use crate::ip::fields::{UDP_HEADER, icmp as field, ports, protocol, put_u16, u16_at, udp};
use crate::ip::icmp::{v4, v6};

use super::{Refusal, Transport};

/// Whether `upper` starts with a whole header of `transport`.
pub(super) fn check_header(transport: Transport, upper: &[u8]) -> Result<(), Refusal> {
    let whole = upper.len() >= transport.header_length();
    whole.then_some(()).ok_or(Refusal::HeaderTruncated)
}

/// Whether a UDP datagram, or the first fragment of one, has no checksum. `upper` starts with a
/// whole header.
pub(super) fn udp_without_checksum(upper: &[u8]) -> bool {
    u16_at(upper, udp::CHECKSUM) == 0
}

/// The sum over the addresses of an IPv4 pseudo-header.
pub(super) fn sum4(source: Ipv4Addr, destination: Ipv4Addr) -> u16 {
    sum(&[&source.octets(), &destination.octets()])
}

/// The sum over the addresses of an IPv6 pseudo-header.
pub(super) fn sum6(source: Ipv6Addr, destination: Ipv6Addr) -> u16 {
    sum(&[&source.octets(), &destination.octets()])
}

/// Which of a packet's two ends the client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientIs {
    Source,
    Destination,
}

/// A change of a transport header.
#[derive(Debug, Clone, Copy)]
pub(super) struct Update {
    pub transport: Transport,
    pub client_is: ClientIs,
    pub client_port: u16,
    /// Sums over the two pseudo-headers, or over the parts in which they differ.
    pub before: u16,
    pub after: u16,
}

impl Update {
    /// Makes the change. `upper` has at least the ports. A checksum that was cut off is not
    /// updated. An echo's type becomes its counterpart.
    pub(super) fn apply(self, upper: &mut [u8]) {
        let port_at = match (self.transport, self.client_is) {
            (Transport::Echo, _) => field::IDENTIFIER,
            (_, ClientIs::Source) => ports::SOURCE,
            (_, ClientIs::Destination) => ports::DESTINATION,
        };
        let mut before = sum(&[&self.before.to_be_bytes(), &upper[port_at..port_at + 2]]);
        let mut after = sum(&[&self.after.to_be_bytes(), &self.client_port.to_be_bytes()]);
        put_u16(upper, port_at, self.client_port);
        if self.transport == Transport::Echo {
            before = sum(&[&before.to_be_bytes(), &upper[..2]]);
            upper[field::TYPE] = echo_counterpart(upper[field::TYPE]);
            after = sum(&[&after.to_be_bytes(), &upper[..2]]);
        }
        let at = self.transport.checksum_at();
        if upper.len() < at + 2 {
            return;
        }
        let old = u16_at(upper, at);
        let is_absent = self.transport == Transport::Udp && old == 0;
        if !is_absent {
            checksum::put(upper, self.transport, checksum::update(old, before, after));
        }
    }
}

/// Writes the checksum over IPv6 of a UDP datagram that has none. `upper` has at least a whole
/// header.
///
/// # Errors
/// The datagram cannot have the length that its header says.
pub(super) fn make_udp_checksum(
    upper: &mut [u8],
    source: Ipv6Addr,
    destination: Ipv6Addr,
) -> Result<(), Refusal> {
    let length = usize::from(u16_at(upper, udp::LENGTH));
    if !(UDP_HEADER..=upper.len()).contains(&length) {
        return Err(Refusal::HeaderTruncated);
    }
    let pseudo = checksum::pseudo_ipv6(source, destination, protocol::UDP, length);
    let checksum = checksum::with_pseudo(pseudo, &[&upper[..length]]);
    checksum::put(upper, Transport::Udp, checksum);
    Ok(())
}

/// The type of an echo message in the other ICMP.
fn echo_counterpart(kind: u8) -> u8 {
    match kind {
        v4::ECHO_REQUEST => v6::ECHO_REQUEST,
        v4::ECHO_REPLY => v6::ECHO_REPLY,
        v6::ECHO_REQUEST => v4::ECHO_REQUEST,
        _ => v4::ECHO_REPLY,
    }
}
