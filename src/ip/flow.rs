//! Which connection a packet is of, and an ICMP error: as far as the packet alone says.
//!
//! Whatever looks for the entry of a packet asks here. What is done with a packet of no connection,
//! and which of its two ends is the client's, is for the caller to say.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::fields::{ICMP_HEADER, protocol};
use super::fragment::Fragment;
use super::icmp::{v4, v6};
use super::ipv4::Ipv4;
use super::ipv6::{Ipv6, Walk};
use super::transport::{Transport, has_ports, ports};

/// What a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class<'a> {
    /// TCP or UDP: whole, or the first fragment.
    Ports {
        transport: Transport,
        /// The port of the packet's source.
        source_port: u16,
        /// The port of its destination.
        destination_port: u16,
    },
    /// A fragment behind the first, of any protocol: its connection is that of the first.
    Later(Fragment),
    /// An ICMP error of the packet's own IP version, with the packet that it quotes, which may be
    /// cut short anywhere. See [`quoted_ipv6`] and [`quoted_ipv4`].
    Error(&'a [u8]),
    /// Another ICMP message of the packet's own IP version, and its type if that is there.
    Icmp(Option<u8>),
    Other,
}

/// The ports of a TCP or UDP packet are not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Truncated;

/// The connection of a packet that an ICMP error quotes. The error goes the other way: to its
/// source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quoted<A> {
    /// Who sent the quoted packet.
    pub source: A,
    /// From which port.
    pub source_port: u16,
    /// Whom it was for.
    pub destination: A,
    /// To which port.
    pub destination_port: u16,
}

/// Why it is not clear which connection a quoted packet is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotedError {
    /// It is neither TCP nor UDP, or its headers are not whole.
    NoTransport,
    /// It is TCP or UDP, but a later fragment or cut before its ports.
    NoPorts,
}

/// Classifies an IPv6 packet. `walk` is that through its extension headers.
///
/// # Errors
/// Where it is TCP or UDP and its ports are not there.
#[inline(always)] // On the path of every request, whose callers need a part of the result only.
pub fn classify_ipv6<'a>(packet: Ipv6<'a>, walk: &Walk) -> Result<Class<'a>, Truncated> {
    let upper = packet.upper(walk);
    classify(walk.fragment, walk.protocol, upper, protocol::ICMPV6, v6::is_error)
}

/// Classifies an IPv4 packet.
///
/// # Errors
/// Where it is TCP or UDP and its ports are not there.
#[inline(always)] // As above.
pub fn classify_ipv4(packet: Ipv4<'_>) -> Result<Class<'_>, Truncated> {
    let (fragment, protocol) = (packet.fragment(), packet.protocol());
    classify(fragment, protocol, packet.data(), protocol::ICMP, v4::is_error)
}

#[inline(always)]
fn classify(
    fragment: Option<Fragment>,
    protocol: u8,
    upper: &[u8],
    icmp: u8,
    is_error: impl Fn(u8) -> bool,
) -> Result<Class<'_>, Truncated> {
    if let Some(fragment) = fragment
        && !fragment.first
    {
        return Ok(Class::Later(fragment));
    }
    if let Some(transport) = Transport::of(protocol) {
        let (source_port, destination_port) = ports(upper).ok_or(Truncated)?;
        return Ok(Class::Ports { transport, source_port, destination_port });
    }
    Ok(match upper.first() {
        _ if protocol != icmp => Class::Other,
        Some(&kind) if is_error(kind) => Class::Error(upper.get(ICMP_HEADER..).unwrap_or_default()),
        kind => Class::Icmp(kind.copied()),
    })
}

/// The connection of the IPv6 packet that an ICMPv6 error quotes.
///
/// # Errors
/// See [`QuotedError`].
pub fn quoted_ipv6(quoted: &[u8]) -> Result<Quoted<Ipv6Addr>, QuotedError> {
    let packet = Ipv6::new(quoted).ok_or(QuotedError::NoTransport)?;
    let walk = packet.walk().map_err(|_| QuotedError::NoTransport)?;
    let class = classify_ipv6(packet, &walk);
    quoted_of(class, walk.protocol, packet.source(), packet.destination())
}

/// The connection of the IPv4 packet that an ICMP error quotes.
///
/// # Errors
/// See [`QuotedError`].
pub fn quoted_ipv4(quoted: &[u8]) -> Result<Quoted<Ipv4Addr>, QuotedError> {
    let packet = Ipv4::new(quoted).ok_or(QuotedError::NoTransport)?;
    let class = classify_ipv4(packet);
    quoted_of(class, packet.protocol(), packet.source(), packet.destination())
}

fn quoted_of<A>(
    class: Result<Class<'_>, Truncated>,
    protocol: u8,
    source: A,
    destination: A,
) -> Result<Quoted<A>, QuotedError> {
    match class {
        Ok(Class::Ports { source_port, destination_port, .. }) => {
            Ok(Quoted { source, source_port, destination, destination_port })
        }
        _ if has_ports(protocol) => Err(QuotedError::NoPorts),
        _ => Err(QuotedError::NoTransport),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ipv4, ipv6};
    use super::*;

    const FROM: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
    const TO: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
    const PORTS: [u8; 8] = [0x01, 0xbb, 0x0e, 0x87, 0, 0, 0, 0];

    fn packet4(protocol: u8, upper: &[u8]) -> Vec<u8> {
        [&ipv4::header(20 + upper.len(), 64, protocol, FROM, TO)[..], upper].concat()
    }

    fn packet6(next: u8, upper: &[u8]) -> Vec<u8> {
        let (from, to) = (FROM.to_ipv6_mapped(), TO.to_ipv6_mapped());
        [&ipv6::header(upper.len(), next, 64, from, to)[..], upper].concat()
    }

    fn of6(next: u8, upper: &[u8]) -> Result<Class<'static>, Truncated> {
        let packet = packet6(next, upper).leak();
        let view = Ipv6::new(packet).unwrap();
        classify_ipv6(view, &view.walk().unwrap())
    }

    fn of4(protocol: u8, upper: &[u8]) -> Result<Class<'static>, Truncated> {
        classify_ipv4(Ipv4::new(packet4(protocol, upper).leak()).unwrap())
    }

    fn with_ports(transport: Transport) -> Result<Class<'static>, Truncated> {
        Ok(Class::Ports { transport, source_port: 443, destination_port: 3719 })
    }

    #[test]
    fn every_class() {
        for of in [of4, of6] {
            assert_eq!(of(6, &PORTS), with_ports(Transport::Tcp));
            assert_eq!(of(17, &PORTS), with_ports(Transport::Udp));
            for length in 0..4 {
                assert_eq!(of(17, &PORTS[..length]), Err(Truncated));
            }
            assert_eq!(of(132, &PORTS), Ok(Class::Other));
        }
        let error = [3, 0, 0, 0, 0, 0, 0, 0, 7, 8];
        for (of, icmp, other, echo) in [(of4 as fn(_, &_) -> _, 1, 58, 8), (of6, 58, 1, 128)] {
            assert_eq!(of(icmp, &error), Ok(Class::Error(&[7, 8])));
            assert_eq!(of(icmp, &error[..3]), Ok(Class::Error(&[])));
            assert_eq!(of(icmp, &[echo]), Ok(Class::Icmp(Some(echo))));
            assert_eq!(of(icmp, &[]), Ok(Class::Icmp(None)));
            assert_eq!(of(other, &error), Ok(Class::Other));
        }
    }

    #[test]
    fn fragments() {
        let first = of6(44, &[&[17, 0, 0, 1, 0, 0, 0, 9][..], &PORTS].concat());
        assert_eq!(first, with_ports(Transport::Udp));
        let later = of6(44, &[&[17, 0, 0, 9, 0, 0, 0, 9][..], &PORTS].concat());
        let fragment = Fragment { identification: 9, first: false, more: true, offset: 8 };
        assert_eq!(later, Ok(Class::Later(fragment)));
        for (flags, expected) in [
            ([0x20, 0], with_ports(Transport::Tcp)),
            ([0x20, 1], Ok(Class::Later(Fragment { identification: 0, ..fragment }))),
        ] {
            let mut packet = packet4(6, &PORTS);
            packet[6..8].copy_from_slice(&flags);
            assert_eq!(classify_ipv4(Ipv4::new(&packet).unwrap()), expected);
        }
    }

    #[test]
    fn every_truncation_of_a_quoted_packet() {
        let (from6, to6) = (FROM.to_ipv6_mapped(), TO.to_ipv6_mapped());
        for protocol in [6, 17, 132] {
            let no_ports = [QuotedError::NoPorts, QuotedError::NoTransport];
            let no_ports = no_ports[usize::from(protocol == 132)];
            for length in 0..=48 {
                let found = quoted_ipv6(&packet6(protocol, &PORTS)[..length]);
                let expected = match length {
                    0..40 => Err(QuotedError::NoTransport),
                    44.. if protocol != 132 => Ok(Quoted {
                        source: from6,
                        source_port: 443,
                        destination: to6,
                        destination_port: 3719,
                    }),
                    _ => Err(no_ports),
                };
                assert_eq!(found, expected, "{protocol} {length}");
            }
            for length in 0..=28 {
                let found = quoted_ipv4(&packet4(protocol, &PORTS)[..length]);
                let expected = match length {
                    0..20 => Err(QuotedError::NoTransport),
                    24.. if protocol != 132 => Ok(Quoted {
                        source: FROM,
                        source_port: 443,
                        destination: TO,
                        destination_port: 3719,
                    }),
                    _ => Err(no_ports),
                };
                assert_eq!(found, expected, "{protocol} {length}");
            }
        }
        let mut later = packet4(6, &PORTS);
        later[7] = 1;
        assert_eq!(quoted_ipv4(&later), Err(QuotedError::NoPorts));
        later[9] = 1;
        assert_eq!(quoted_ipv4(&later), Err(QuotedError::NoTransport));
    }
}
