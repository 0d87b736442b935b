//! The transport header: what changes in it, and its checksum with that (RFC 7915 sections 4.5 and 5.5).
//!
//! Checksums are mended by what changed (RFC 1624), so one that was wrong stays wrong, and the receiver sees it.

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

/// Whether the UDP datagram, or first fragment of one, has no checksum. `upper` starts with a whole header.
pub(super) fn udp_without_checksum(upper: &[u8]) -> bool {
    u16_at(upper, udp::CHECKSUM) == 0
}

/// The sum over what a pseudo-header has of the addresses alone.
pub(super) fn sum4(source: Ipv4Addr, destination: Ipv4Addr) -> u16 {
    sum(&[&source.octets(), &destination.octets()])
}

/// The sum over what a pseudo-header has of the addresses alone.
pub(super) fn sum6(source: Ipv6Addr, destination: Ipv6Addr) -> u16 {
    sum(&[&source.octets(), &destination.octets()])
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
            (Transport::Echo, _) => field::IDENTIFIER,
            (_, ClientIs::Source) => ports::SOURCE,
            (_, ClientIs::Destination) => ports::DESTINATION,
        };
        let mut before = sum(&[&self.before.to_be_bytes(), &upper[port_at..port_at + 2]]);
        let mut after = sum(&[&self.after.to_be_bytes(), &self.client_port.to_be_bytes()]);
        put_u16(upper, port_at, self.client_port);
        if self.transport == Transport::Echo {
            before = sum(&[&before.to_be_bytes(), &upper[..2]]);
            upper[0] = counterpart(upper[0]);
            after = sum(&[&after.to_be_bytes(), &upper[..2]]);
        }
        let at = self.transport.checksum_at();
        let Some(&[high, low]) = upper.get(at..at + 2) else {
            return;
        };
        let old = u16::from_be_bytes([high, low]);
        let none = self.transport == Transport::Udp && old == 0;
        if !none {
            checksum::put(upper, self.transport, checksum::update(old, before, after));
        }
    }
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
    let length = usize::from(u16_at(upper, udp::LENGTH));
    if !(UDP_HEADER..=upper.len()).contains(&length) {
        return Err(Refusal::HeaderTruncated);
    }
    let pseudo = checksum::pseudo_ipv6(source, destination, protocol::UDP, length);
    let checksum = checksum::with_pseudo(pseudo, &[&upper[..length]]);
    checksum::put(upper, Transport::Udp, checksum);
    Ok(())
}

/// An echo's type in the other ICMP.
fn counterpart(kind: u8) -> u8 {
    match kind {
        v4::ECHO_REQUEST => v6::ECHO_REQUEST,
        v4::ECHO_REPLY => v6::ECHO_REPLY,
        v6::ECHO_REQUEST => v4::ECHO_REQUEST,
        _ => v4::ECHO_REPLY,
    }
}
