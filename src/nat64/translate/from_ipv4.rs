//! From IPv4 to IPv6 (RFC 7915 section 4).

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::ip::address::{Prefix96, is_routable_host, synthesize};
use crate::ip::checksum;
use crate::ip::fields::{FRAGMENT_HEADER, IPV6_HEADER, protocol};
use crate::ip::flow::classify_ipv4;
use crate::ip::fragment::Fragment;
use crate::ip::icmp::{IcmpError, v4};
use crate::ip::ipv4::Ipv4;
use crate::ip::ipv6;

use super::carried::Carried;
use super::quoted::{ErrorMessage, Quoted4};
use super::upper::{self, ClientIs, Update};
use super::{
    Flow, GROWTH_MAX, HEADER_DIFFERENCE, Inside, Limits, Packets, Refusal, Refused, Rewrite,
    Transport,
};

/// Options of one octet: end of the list, and no operation (RFC 791 section 3.1).
const OPTION_END: u8 = 0;
const OPTION_NONE: u8 = 1;
/// Loose and strict source routes.
const OPTION_LOOSE_ROUTE: u8 = 131;
const OPTION_STRICT_ROUTE: u8 = 137;

/// RFC 6146 section 3.4.
const UNKNOWN_PROTOCOL: Refused = Refused {
    reason: Refusal::Protocol,
    error: Some(IcmpError { kind: v4::UNREACHABLE, code: v4::PROTOCOL, word: 0 }),
};

/// An IPv4 packet that nothing in itself keeps from being translated.
#[derive(Debug, Clone, Copy)]
pub struct Ipv4Packet<'a> {
    pub(super) view: Ipv4<'a>,
    /// The transport header and all behind it.
    pub(super) upper: &'a [u8],
    pub(super) body: Carried<ErrorMessage<'a, Quoted4<'a>>>,
}

impl<'a> Ipv4Packet<'a> {
    /// Parses the packet that `octets` start with. Its source must be the address of a single host,
    /// unless it is an ICMP error. Whose address its destination is, is not checked.
    ///
    /// # Errors
    /// The packet cannot be translated with any mapping.
    pub fn parse(octets: &'a [u8]) -> Result<Self, Refused> {
        let view = Ipv4::whole(octets).ok_or(Refusal::PacketTruncated)?;
        if !view.checksum_is_right() {
            return Err(Refusal::HeaderChecksum.into());
        }
        if !source_is_right(view) || !is_routable_host(view.destination()) {
            return Err(Refusal::Addresses.into());
        }
        check_options(view.options())?;
        let upper = view.data();
        let fragment = view.fragment();
        check_fragment(fragment, upper.len())?;
        if view.protocol() == protocol::ICMP && fragment.is_some() {
            return Err(Refused::discarded_ipv4(Refusal::IcmpFragment));
        }
        let (class, protocol) = (classify_ipv4(view), view.protocol());
        let error = || ErrorMessage::<Quoted4<'_>>::parse(upper, view.destination());
        let body = Carried::of(class, protocol, UNKNOWN_PROTOCOL, v4::is_echo, error)?;
        if let Carried::Transport(transport) = body {
            upper::check_header(transport, upper)?;
            // A fragment has not all that the checksum is over (section 4.5, RFC 6146 section 3.4).
            let none = transport == Transport::Udp && upper::udp_without_checksum(upper);
            if none && fragment.is_some() {
                return Err(Refused::discarded_ipv4(Refusal::UdpWithoutChecksum));
            }
        }
        Ok(Self { view, upper, body })
    }

    /// The packet, cut to its own length.
    pub(crate) fn view(&self) -> Ipv4<'a> {
        self.view
    }

    /// The key of its mapping.
    pub fn inside(&self) -> Inside<Ipv4Addr> {
        let key = |fragment| self.view.fragment_key(fragment);
        match (&self.body, self.view.fragment()) {
            (Carried::Error(error), _) => Inside::Error(error.quoted.flow),
            (Carried::Later(_), Some(fragment)) => Inside::Later(key(fragment)),
            (Carried::Transport(transport) | Carried::Later(transport), fragment) => {
                // A transport was checked to have its whole header.
                let (source, destination) = transport.ports(self.upper).unwrap_or_default();
                let echo = *transport == Transport::Echo;
                let flow = Flow {
                    transport: *transport,
                    client: self.view.destination(),
                    client_port: if echo { source } else { destination },
                    service: self.view.source(),
                    service_port: if echo { 0 } else { source },
                };
                let tcp_flags = transport.tcp_flags(self.upper).unwrap_or_default();
                Inside::Flow { flow, tcp_flags, fragments: fragment.map(key) }
            }
        }
    }

    /// Writes the packet as IPv6 to `out`, from `rewrite.service` to `rewrite.client`. The source
    /// of a router's ICMP error is the router's address behind the prefix of the service (RFC 7915
    /// section 4.1, RFC 5508 section 4.2.1). By RFC 6146 sections 3.6 and 3.7 it would be the
    /// service's address, and no route could be traced.
    ///
    /// # Errors
    /// The time to live is used up, the packet is too big and must not be fragmented, an ICMP error
    /// has no counterpart, or a UDP checksum is missing.
    ///
    /// # Panics
    /// `out` is not longer than the packet by [`GROWTH_MAX`].
    pub fn to_ipv6<'b>(
        &self,
        rewrite: &Rewrite<Ipv6Addr>,
        limits: &Limits,
        out: &'b mut [u8],
    ) -> Result<Packets<'b>, Refused> {
        assert!(out.len() >= self.view.octets().len() + GROWTH_MAX, "the buffer is too short");
        if self.view.ttl() <= 1 {
            return Err(Refused::with(Refusal::HopLimit, v4::TIME_EXCEEDED, 0, 0));
        }
        match &self.body {
            Carried::Error(error) => {
                let counterpart = error.counterpart(limits)?;
                let router = self.view.source() != error.quoted_destination();
                let source = if router {
                    synthesize(Prefix96::of(rewrite.service), self.view.source())
                } else {
                    rewrite.service
                };
                let message = &mut out[IPV6_HEADER..];
                let length = error.emit(counterpart, source, rewrite, limits, message);
                let header = self.header(protocol::ICMPV6, source, rewrite.client, limits);
                let end = IPV6_HEADER + length;
                Ok(Packets::new(out, &header, end, end, None))
            }
            Carried::Transport(transport) | Carried::Later(transport) => {
                self.transport_to_ipv6(*transport, rewrite, limits, out)
            }
        }
    }

    fn transport_to_ipv6<'b>(
        &self,
        transport: Transport,
        rewrite: &Rewrite<Ipv6Addr>,
        limits: &Limits,
        out: &'b mut [u8],
    ) -> Result<Packets<'b>, Refused> {
        let fragment = self.view.fragment();
        let mtu = if self.view.dont_fragment() { limits.ipv6_mtu } else { limits.path_mtu() };
        let whole = IPV6_HEADER + self.upper.len();
        let too_big = match fragment {
            None => whole > usize::from(mtu),
            Some(_) => whole + FRAGMENT_HEADER > usize::from(mtu),
        };
        if too_big && self.view.dont_fragment() {
            let longer = HEADER_DIFFERENCE + if fragment.is_some() { 8 } else { 0 };
            let mtu = u32::from(limits.ipv6_mtu - longer);
            let (kind, code) = (v4::UNREACHABLE, v4::FRAGMENTATION_NEEDED);
            return Err(Refused::with(Refusal::TooBig, kind, code, mtu));
        }
        // A packet that is to be cut starts as one fragment with all its data.
        let fragment = fragment.or(too_big.then(|| Fragment {
            identification: u32::from(self.view.identification()),
            first: true,
            more: false,
            offset: 0,
        }));
        let protocol = transport.ipv6_protocol();
        let next = if fragment.is_some() { protocol::FRAGMENT } else { protocol };
        let mut header = [0; IPV6_HEADER + FRAGMENT_HEADER];
        let front = self.header(next, rewrite.service, rewrite.client, limits);
        header[..IPV6_HEADER].copy_from_slice(&front);
        let header = match fragment {
            Some(fragment) => {
                header[IPV6_HEADER..].copy_from_slice(&fragment.ipv6_header(protocol));
                &header[..]
            }
            None => &header[..IPV6_HEADER],
        };
        let end = header.len() + self.upper.len();
        let upper = &mut out[header.len()..end];
        upper.copy_from_slice(self.upper);
        if matches!(self.body, Carried::Transport(_)) {
            let made = transport == Transport::Udp && upper::udp_without_checksum(upper);
            self.update(transport, rewrite).apply(upper);
            if made {
                if !limits.make_udp_checksums {
                    return Err(Refused::discarded_ipv4(Refusal::UdpWithoutChecksum));
                }
                upper::make_udp_checksum(upper, rewrite.service, rewrite.client)?;
            }
        }
        Ok(Packets::new(out, header, end, usize::from(mtu), fragment))
    }

    pub(super) fn header(
        &self,
        next_header: u8,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        limits: &Limits,
    ) -> [u8; IPV6_HEADER] {
        let hop_limit = self.view.ttl() - 1;
        let mut header = ipv6::header(0, next_header, hop_limit, source, destination);
        ipv6::set_traffic_class(&mut header, limits.traffic_class(self.view.type_of_service()));
        header
    }

    pub(super) fn update(&self, transport: Transport, rewrite: &Rewrite<Ipv6Addr>) -> Update {
        let (from, to) = (self.view.source(), self.view.destination());
        let (before, after) = if transport == Transport::Echo {
            (
                0,
                checksum::pseudo_ipv6(
                    rewrite.service,
                    rewrite.client,
                    protocol::ICMPV6,
                    self.upper.len(),
                ),
            )
        } else {
            (upper::sum4(from, to), upper::sum6(rewrite.service, rewrite.client))
        };
        let client_port = rewrite.client_port;
        Update { transport, client_is: ClientIs::Destination, client_port, before, after }
    }
}

/// Section 4.1: options are ignored, except for a source route that is not used up.
fn check_options(mut options: &[u8]) -> Result<(), Refused> {
    while let &[kind, ref rest @ ..] = options {
        match kind {
            OPTION_END => break,
            OPTION_NONE => options = rest,
            _ => {
                let length = usize::from(*rest.first().ok_or(Refusal::OptionsMalformed)?);
                let option = options.get(..length).filter(|option| option.len() >= 2);
                let option = option.ok_or(Refusal::OptionsMalformed)?;
                if matches!(kind, OPTION_LOOSE_ROUTE | OPTION_STRICT_ROUTE) {
                    let pointer = usize::from(*option.get(2).ok_or(Refusal::OptionsMalformed)?);
                    if pointer <= length {
                        let (kind, code) = (v4::UNREACHABLE, v4::SOURCE_ROUTE_FAILED);
                        return Err(Refused::with(Refusal::SourceRoute, kind, code, 0));
                    }
                }
                options = &options[length..];
            }
        }
    }
    Ok(())
}

fn check_fragment(fragment: Option<Fragment>, length: usize) -> Result<(), Refusal> {
    let holds = fragment.is_none_or(|fragment| fragment.can_have(length));
    holds.then_some(()).ok_or(Refusal::FragmentBounds)
}

/// Section 4.1: the source must be a single host. An ICMP error is useful to the client whatever
/// its source, unless that is link-local, which no router passes on.
fn source_is_right(view: Ipv4<'_>) -> bool {
    let kind = view.data().first().filter(|_| view.protocol() == protocol::ICMP);
    let is_error = kind.is_some_and(|&kind| v4::is_error(kind));
    is_routable_host(view.source()) || (is_error && !view.source().is_link_local())
}
