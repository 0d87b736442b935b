//! ICMP errors: the packet that they quote, and the extension behind it (RFC 7915 sections 4.3 and
//! 5.3, RFC 4884).
//!
//! A quoted packet is translated as if it went the other way, with the same mapping. It may be cut
//! short anywhere behind its ports, and its header says the length of the whole packet.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::ip::address::is_routable_host;
use crate::ip::checksum::{self, checksum};
use crate::ip::fields::{
    FRAGMENT_HEADER, ICMP_HEADER, IPV4_HEADER, IPV6_HEADER, icmp as field, ipv4 as field4,
    protocol, put_u16, u32_at,
};
use crate::ip::flow::{Class, Truncated, classify_ipv4, classify_ipv6};
use crate::ip::fragment::Fragment;
use crate::ip::icmp::{ICMPV6_ERROR_MAX, v4, v6};
use crate::ip::ipv4::{self, Ipv4};
use crate::ip::ipv6::{self, Ipv6};

use super::counterparts::{self, Counterpart, Detail};
use super::upper::{self, ClientIs, Update};
use super::{Flow, Limits, Refusal, Rewrite, Transport};

/// The least length of the quoted packet, padding included, where an extension follows (RFC 4884
/// section 3).
const QUOTED_MIN: usize = 128;
/// IPv4 packets made from IPv6 may be fragmented up to this length, in octets (RFC 7915 section
/// 5.1).
pub(super) const MAY_FRAGMENT_MAX: usize = 1260;

/// An ICMP error in its parts.
#[derive(Debug, Clone, Copy)]
pub(super) struct ErrorMessage<'a, Q> {
    kind: u8,
    code: u8,
    /// What follows the checksum.
    word: u32,
    pub quoted: Q,
    /// What stands behind the quoted packet, if a length says that there is an extension.
    extension: &'a [u8],
}

#[derive(Debug, Clone, Copy)]
pub(super) struct QuotedPacket<'a, V, A> {
    view: V,
    pub flow: Flow<A>,
    fragment: Option<Fragment>,
    /// The transport header and all behind it, as far as it was quoted.
    upper: &'a [u8],
    /// The octets that the whole packet had of that.
    upper_length: usize,
}

pub(super) type Quoted4<'a> = QuotedPacket<'a, Ipv4<'a>, Ipv4Addr>;
pub(super) type Quoted6<'a> = QuotedPacket<'a, Ipv6<'a>, Ipv6Addr>;

/// Splits an error message into the word behind its checksum, the quoted packet and the extension.
/// `length_at` is the offset of the length of RFC 4884, and its unit.
fn split(
    message: &[u8],
    length_at: Option<(usize, usize)>,
) -> Result<(u32, &[u8], &[u8]), Refusal> {
    let (header, behind) = message.split_at_checked(ICMP_HEADER).ok_or(Refusal::HeaderTruncated)?;
    let word = u32_at(header, field::WORD.start);
    let length = length_at.map_or(0, |(at, unit)| usize::from(header[at]) * unit);
    // Without a length there is no extension; a length that runs past the end is ignored.
    let (quoted, extension) = match behind.split_at_checked(length) {
        Some(parts) if length > 0 => parts,
        _ => (behind, &[][..]),
    };
    Ok((word, quoted, extension))
}

impl<'a> ErrorMessage<'a, Quoted6<'a>> {
    /// An ICMPv6 message of an error type, sent from `source` to `destination`.
    pub(super) fn parse(
        message: &'a [u8],
        source: Ipv6Addr,
        destination: Ipv6Addr,
    ) -> Result<Self, Refusal> {
        let length_at = counterparts::extension_length_v6(message[0]);
        let (word, quoted, extension) = split(message, length_at)?;
        if checksum::icmpv6(source, destination, message) != 0 {
            return Err(Refusal::IcmpChecksum);
        }
        let quoted = Quoted6::parse(quoted)?;
        if quoted.view.source() != destination {
            return Err(Refusal::QuotedSource);
        }
        Ok(Self { kind: message[0], code: message[1], word, quoted, extension })
    }

    /// Its counterpart in ICMP.
    ///
    /// # Errors
    /// It has no counterpart.
    pub(super) fn counterpart(&self, limits: &Limits) -> Result<Counterpart, Refusal> {
        let fragment_header = self.quoted.fragment.is_some();
        counterparts::to_ipv4(self.kind, self.code, self.word, fragment_header, limits)
    }

    /// Writes the ICMP message of `counterpart` and the quoted packet to `out`. Returns its length:
    /// at most what fits into the MTU.
    pub(super) fn emit(
        &self,
        counterpart: Counterpart,
        rewrite: &Rewrite<Ipv4Addr>,
        limits: &Limits,
        out: &mut [u8],
    ) -> usize {
        let traffic_class = limits.traffic_class(self.quoted.view.traffic_class());
        let quoted = self.quoted.emit(rewrite, traffic_class, &mut out[ICMP_HEADER..]);
        let extension = counterpart.extension(self.extension);
        let message_max = usize::from(limits.ipv4_mtu) - IPV4_HEADER;
        let (length, units) = finish(out, quoted, extension, 4, message_max);
        let [high, low] = match counterpart.detail {
            Detail::Mtu(mtu) => mtu.to_be_bytes(),
            _ => [0, 0],
        };
        let pointer = match counterpart.detail {
            Detail::Pointer(pointer) => pointer,
            _ => 0,
        };
        let header = [counterpart.kind, counterpart.code, 0, 0, pointer, units, high, low];
        out[..ICMP_HEADER].copy_from_slice(&header);
        let checksum = checksum(&[&out[..length]]);
        put_u16(out, field::CHECKSUM, checksum);
        length
    }
}

impl<'a> ErrorMessage<'a, Quoted4<'a>> {
    /// An ICMP message of an error type, sent to `destination`.
    pub(super) fn parse(message: &'a [u8], destination: Ipv4Addr) -> Result<Self, Refusal> {
        let length_at = counterparts::extension_length_v4(message[0]);
        let (word, quoted, extension) = split(message, length_at)?;
        if checksum(&[message]) != 0 {
            return Err(Refusal::IcmpChecksum);
        }
        let quoted = Quoted4::parse(quoted)?;
        if quoted.view.source() != destination {
            return Err(Refusal::QuotedSource);
        }
        // No packet was sent there, so the error is forged, and no host may be told about it.
        if !is_routable_host(quoted.view.destination()) {
            return Err(Refusal::Addresses);
        }
        Ok(Self { kind: message[0], code: message[1], word, quoted, extension })
    }

    /// Its counterpart in ICMPv6.
    ///
    /// # Errors
    /// It has no counterpart.
    pub(super) fn counterpart(&self, limits: &Limits) -> Result<Counterpart, Refusal> {
        let quoted_length = self.quoted.view.total_length();
        counterparts::to_ipv6(self.kind, self.code, self.word, quoted_length, limits)
    }

    /// The destination of the quoted packet.
    pub(super) fn quoted_destination(&self) -> Ipv4Addr {
        self.quoted.view.destination()
    }

    /// Writes the ICMPv6 message of `counterpart` and the quoted packet to `out`, from `source` to
    /// the client. Returns its length: at most that of an ICMPv6 error (RFC 4443 section 2.4 c).
    pub(super) fn emit(
        &self,
        counterpart: Counterpart,
        source: Ipv6Addr,
        rewrite: &Rewrite<Ipv6Addr>,
        limits: &Limits,
        out: &mut [u8],
    ) -> usize {
        let traffic_class = limits.traffic_class(self.quoted.view.type_of_service());
        let quoted = self.quoted.emit(rewrite, traffic_class, &mut out[ICMP_HEADER..]);
        let extension = counterpart.extension(self.extension);
        let message_max = ICMPV6_ERROR_MAX - IPV6_HEADER;
        let (length, units) = finish(out, quoted, extension, 8, message_max);
        let word = match counterpart.detail {
            Detail::Nothing => [units, 0, 0, 0],
            Detail::Pointer(pointer) => u32::from(pointer).to_be_bytes(),
            Detail::Mtu(mtu) => u32::from(mtu).to_be_bytes(),
        };
        out[..4].copy_from_slice(&[counterpart.kind, counterpart.code, 0, 0]);
        out[4..ICMP_HEADER].copy_from_slice(&word);
        let checksum = checksum::icmpv6(source, rewrite.client, &out[..length]);
        put_u16(out, field::CHECKSUM, checksum);
        length
    }
}

impl<'a> Quoted6<'a> {
    fn parse(octets: &'a [u8]) -> Result<Self, Refusal> {
        let view = Ipv6::new(octets).ok_or(Refusal::QuotedTruncated)?;
        let walk = view.walk().map_err(|_| Refusal::QuotedProtocol)?;
        // As of the packet itself: none like it was translated.
        if walk.extension_in_fragments {
            return Err(Refusal::QuotedProtocol);
        }
        let view = Ipv6::whole(octets).unwrap_or(view);
        let upper = view.octets().get(walk.upper_at..).ok_or(Refusal::QuotedTruncated)?;
        let upper_length = IPV6_HEADER + view.payload_length() - walk.upper_at;
        check_fragment(walk.fragment, walk.protocol == protocol::ICMPV6)?;
        let transport = transport_of(classify_ipv6(view, &walk), v6::is_echo)?;
        if IPV4_HEADER + upper_length > usize::from(u16::MAX) {
            return Err(Refusal::QuotedProtocol);
        }
        // The quoted packet went to the client.
        let (source, destination) = transport.ports(upper).ok_or(Refusal::QuotedTruncated)?;
        let flow = Flow {
            transport,
            client: view.destination(),
            client_port: if transport == Transport::Echo { source } else { destination },
            service: view.source(),
            service_port: if transport == Transport::Echo { 0 } else { source },
        };
        Ok(Self { view, flow, fragment: walk.fragment, upper, upper_length })
    }

    /// Writes the packet as IPv4 to `out`. Returns its length.
    fn emit(&self, rewrite: &Rewrite<Ipv4Addr>, traffic_class: u8, out: &mut [u8]) -> usize {
        let total = IPV4_HEADER + self.upper_length;
        let (source, destination) = (rewrite.service, rewrite.client);
        let (header, upper) = out.split_at_mut(IPV4_HEADER);
        let (hop_limit, protocol) = (self.view.hop_limit(), self.flow.transport.ipv4_protocol());
        header.copy_from_slice(&ipv4::draft(total, hop_limit, protocol, source, destination));
        header[field4::TYPE_OF_SERVICE] = traffic_class;
        if let Some(fragment) = self.fragment {
            let more = if fragment.more { field4::MORE_FRAGMENTS } else { 0 };
            put_u16(header, field4::IDENTIFICATION, fragment.identification as u16);
            put_u16(header, field4::FLAGS_AND_OFFSET, more);
        } else if total <= MAY_FRAGMENT_MAX {
            put_u16(header, field4::FLAGS_AND_OFFSET, 0);
        }
        ipv4::set_checksum(header);
        let upper = &mut upper[..self.upper.len()];
        upper.copy_from_slice(self.upper);
        let (from, to) = (self.view.source(), self.view.destination());
        let (before, after) = if self.flow.transport == Transport::Echo {
            (checksum::pseudo_ipv6(from, to, protocol::ICMPV6, self.upper_length), 0)
        } else {
            (upper::sum6(from, to), upper::sum4(source, destination))
        };
        let (transport, client_port) = (self.flow.transport, rewrite.client_port);
        let client_is = ClientIs::Destination;
        Update { transport, client_is, client_port, before, after }.apply(upper);
        IPV4_HEADER + self.upper.len()
    }
}

impl<'a> Quoted4<'a> {
    fn parse(octets: &'a [u8]) -> Result<Self, Refusal> {
        let view = Ipv4::new(octets).ok_or(Refusal::QuotedTruncated)?;
        let total = view.total_length();
        let upper_length =
            total.checked_sub(view.header_length()).ok_or(Refusal::QuotedTruncated)?;
        let view = Ipv4::whole(octets).unwrap_or(view);
        let upper = view.data();
        check_fragment(view.fragment(), view.protocol() == protocol::ICMP)?;
        let transport = transport_of(classify_ipv4(view), v4::is_echo)?;
        // The quoted packet came from the client.
        let (client_port, service_port) = transport.ports(upper).ok_or(Refusal::QuotedTruncated)?;
        let (client, service) = (view.source(), view.destination());
        let flow = Flow { transport, client, client_port, service, service_port };
        Ok(Self { view, flow, fragment: view.fragment(), upper, upper_length })
    }

    /// Writes the packet as IPv6 to `out`. Returns its length.
    fn emit(&self, rewrite: &Rewrite<Ipv6Addr>, traffic_class: u8, out: &mut [u8]) -> usize {
        let (source, destination) = (rewrite.client, rewrite.service);
        let (from, to) = (self.view.source(), self.view.destination());
        let protocol = self.flow.transport.ipv6_protocol();
        let behind = if self.fragment.is_some() { FRAGMENT_HEADER } else { 0 };
        let next = if self.fragment.is_some() { protocol::FRAGMENT } else { protocol };
        let length = behind + self.upper_length;
        let header = ipv6::header(length, next, self.view.ttl(), source, destination);
        out[..IPV6_HEADER].copy_from_slice(&header);
        ipv6::set_traffic_class(out, traffic_class);
        if let Some(fragment) = self.fragment {
            let header = fragment.ipv6_header(protocol);
            out[IPV6_HEADER..IPV6_HEADER + FRAGMENT_HEADER].copy_from_slice(&header);
        }
        let upper_at = IPV6_HEADER + behind;
        let upper = &mut out[upper_at..upper_at + self.upper.len()];
        upper.copy_from_slice(self.upper);
        let (before, after) = if self.flow.transport == Transport::Echo {
            (0, checksum::pseudo_ipv6(source, destination, protocol::ICMPV6, self.upper_length))
        } else {
            (upper::sum4(from, to), upper::sum6(source, destination))
        };
        let (transport, client_port) = (self.flow.transport, rewrite.client_port);
        let client_is = ClientIs::Source;
        Update { transport, client_is, client_port, before, after }.apply(upper);
        upper_at + self.upper.len()
    }
}

/// The transport of a quoted packet. `is_echo` is asked about ICMP types of its IP version.
fn transport_of(
    class: Result<Class<'_>, Truncated>,
    is_echo: impl Fn(u8) -> bool,
) -> Result<Transport, Refusal> {
    match class {
        Ok(Class::Ports { transport, .. }) => Ok(transport),
        Ok(Class::Icmp(Some(kind))) if is_echo(kind) => Ok(Transport::Echo),
        Ok(Class::Error(_)) => Err(Refusal::QuotedError),
        Ok(Class::Later(_)) => Err(Refusal::QuotedFragment),
        Ok(Class::Icmp(None)) | Err(Truncated) => Err(Refusal::QuotedTruncated),
        Ok(Class::Icmp(Some(_)) | Class::Other) => Err(Refusal::QuotedProtocol),
    }
}

/// Refuses fragments that were never translated: of ICMP, and those without ports.
fn check_fragment(fragment: Option<Fragment>, icmp: bool) -> Result<(), Refusal> {
    match fragment {
        Some(fragment) if !fragment.first || (icmp && fragment.more) => {
            Err(Refusal::QuotedFragment)
        }
        _ => Ok(()),
    }
}

/// Finishes an error message in `out`, where `quoted` octets of the quoted packet stand behind the
/// ICMP header: cuts it to `message_max` octets, or appends the extension where both fit. Returns
/// the length of the message in octets, and that of the quoted packet in units of `unit` if an
/// extension follows.
fn finish(
    out: &mut [u8],
    quoted: usize,
    extension: &[u8],
    unit: usize,
    message_max: usize,
) -> (usize, u8) {
    let room = message_max.saturating_sub(ICMP_HEADER + extension.len()) / unit * unit;
    if extension.is_empty() || room < QUOTED_MIN {
        return ((ICMP_HEADER + quoted).min(message_max), 0);
    }
    let units_max = usize::from(u8::MAX);
    let padded = quoted.max(QUOTED_MIN).next_multiple_of(unit).min(room).min(units_max * unit);
    let end = ICMP_HEADER + padded;
    if padded > quoted {
        out[ICMP_HEADER + quoted..end].fill(0);
    }
    out[end..end + extension.len()].copy_from_slice(extension);
    (end + extension.len(), (padded / unit) as u8)
}
