//! From IPv6 to IPv4 (RFC 7915 section 5).

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::ip::address::is_routable_client;
use crate::ip::checksum;
use crate::ip::fields::{IPV4_HEADER, ipv4 as field, protocol, put_u16};
use crate::ip::flow::{Class, classify_ipv6};
use crate::ip::fragment::{Fragment, IPV4_DATA_MAX};
use crate::ip::icmp::{IcmpError, v6};
use crate::ip::ipv4;
use crate::ip::ipv6::{Ipv6, Walk};

use super::quoted::{Error, MAY_FRAGMENT_MAX, Quoted6};
use super::upper::{self, Change, ClientIs};
use super::{
    Flow, GROWTH_MAX, HEADER_DIFFERENCE, IPV6_MTU_MIN, Inside, Limits, Packets, Refusal, Refused,
    Rewrite, Transport,
};

/// RFC 6146 section 3.4.
const UNKNOWN_PROTOCOL: Refused = Refused {
    reason: Refusal::Protocol,
    error: Some(IcmpError { kind: v6::UNREACHABLE, code: v6::PORT, word: 0 }),
};

/// An IPv6 packet that can be translated, as far as it alone says.
#[derive(Debug, Clone, Copy)]
pub struct Ipv6Packet<'a> {
    view: Ipv6<'a>,
    walk: Walk,
    /// The transport header and all behind it.
    upper: &'a [u8],
    body: Body<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Body<'a> {
    Transport(Transport),
    Later(Transport),
    Error(Error<'a, Quoted6<'a>>),
}

impl<'a> Ipv6Packet<'a> {
    /// Says what `octets` are. What stands behind the packet's own length is ignored. The source is one that a
    /// client can have, of an ICMPv6 error too. Whether a destination has the prefix is not asked.
    ///
    /// # Errors
    /// What cannot be translated whatever the mapping.
    pub fn parse(octets: &'a [u8]) -> Result<Self, Refused> {
        let view = Ipv6::whole(octets).ok_or(Refusal::PacketTruncated)?;
        if !is_routable_client(view.source()) || view.destination().is_multicast() {
            return Err(Refusal::Addresses.into());
        }
        let walk = view.walk()?;
        let upper = view.upper(&walk);
        check_fragment(view.octets(), &walk, upper.len())?;
        let fragmented = |fragment: Fragment| fragment.more || !fragment.first;
        if walk.protocol == protocol::ICMPV6 && walk.fragment.is_some_and(fragmented) {
            return Err(Refusal::IcmpFragment.into());
        }
        let body = match classify_ipv6(view, &walk).map_err(|_| Refusal::HeaderTruncated)? {
            Class::Ports { transport, .. } => Body::Transport(transport),
            Class::Icmp(kind) if v6::is_echo(kind.ok_or(Refusal::HeaderTruncated)?) => {
                Body::Transport(Transport::Echo)
            }
            Class::Icmp(_) => return Err(Refusal::IcmpType.into()),
            Class::Error(_) => {
                let (source, destination) = (view.source(), view.destination());
                Body::Error(Error::<Quoted6<'_>>::parse(upper, source, destination)?)
            }
            Class::Later(_) => Body::Later(Transport::of(walk.protocol).ok_or(UNKNOWN_PROTOCOL)?),
            Class::Other => return Err(UNKNOWN_PROTOCOL),
        };
        if let Body::Transport(transport) = body {
            upper::check_header(transport, upper)?;
            // RFC 8200 section 8.1: over IPv6 there is none without.
            if transport == Transport::Udp && upper::udp_without_checksum(upper) {
                return Err(Refusal::UdpWithoutChecksum.into());
            }
        }
        Ok(Self { view, walk, upper, body })
    }

    /// The packet, cut to its own length.
    pub(crate) fn view(&self) -> Ipv6<'a> {
        self.view
    }

    /// By what to look up its mapping.
    pub fn inside(&self) -> Inside<Ipv6Addr> {
        let key = |fragment| self.view.fragment_key(fragment);
        match (&self.body, self.walk.fragment) {
            (Body::Error(error), _) => Inside::Error(error.quoted.flow),
            (Body::Later(_), Some(fragment)) => Inside::Later(key(fragment)),
            (Body::Transport(transport) | Body::Later(transport), fragment) => {
                // A transport was checked to have its whole header.
                let (client_port, service_port) = transport.ports(self.upper).unwrap_or_default();
                let (client, service) = (self.view.source(), self.view.destination());
                let flow =
                    Flow { transport: *transport, client, client_port, service, service_port };
                let fragments = fragment.filter(|fragment| fragment.more).map(key);
                let tcp_flags = transport.tcp_flags(self.upper).unwrap_or_default();
                Inside::Flow { flow, tcp_flags, fragments }
            }
        }
    }

    /// Writes it as IPv4 to `out`, from `rewrite.client` to `rewrite.service`. `identification` is given to a
    /// packet that has none of its own, and is to be another for each (RFC 7915 section 5.1).
    ///
    /// # Errors
    /// The hop limit ends here, the packet is too big, or an ICMPv6 error has no counterpart.
    ///
    /// # Panics
    /// Where `out` is not longer than the packet by [`GROWTH_MAX`].
    pub fn to_ipv4<'b>(
        &self,
        rewrite: &Rewrite<Ipv4Addr>,
        identification: u16,
        limits: &Limits,
        out: &'b mut [u8],
    ) -> Result<Packets<'b>, Refused> {
        assert!(out.len() >= self.view.octets().len() + GROWTH_MAX, "the buffer is too short");
        let hop_limit = self.view.hop_limit();
        if hop_limit <= 1 {
            return Err(Refused::with(Refusal::HopLimit, v6::TIME_EXCEEDED, 0, 0));
        }
        let mtu = usize::from(limits.ipv4_mtu);
        let (transport, end) = match &self.body {
            Body::Error(error) => {
                let counterpart = error.counterpart(limits)?;
                let length = error.emit(counterpart, rewrite, limits, &mut out[IPV4_HEADER..]);
                (Transport::Echo, IPV4_HEADER + length)
            }
            Body::Transport(transport) | Body::Later(transport) => {
                let end = IPV4_HEADER + self.upper.len();
                if end > mtu && !self.may_fragment(end) {
                    let mtu = limits.ipv4_mtu.saturating_add(HEADER_DIFFERENCE).max(IPV6_MTU_MIN);
                    let mtu = u32::from(mtu);
                    return Err(Refused::with(Refusal::TooBig, v6::PACKET_TOO_BIG, 0, mtu));
                }
                let upper = &mut out[IPV4_HEADER..end];
                upper.copy_from_slice(self.upper);
                if matches!(self.body, Body::Transport(_)) {
                    self.change(*transport, rewrite).apply(upper);
                }
                (*transport, end)
            }
        };
        let (protocol, client) = (transport.ipv4_protocol(), rewrite.client);
        let mut header = ipv4::draft(end, hop_limit - 1, protocol, client, rewrite.service);
        header[field::TYPE_OF_SERVICE] = limits.traffic_class(self.view.traffic_class());
        let own = self.walk.fragment.map(|fragment| fragment.identification as u16);
        put_u16(&mut header, field::IDENTIFICATION, own.unwrap_or(identification));
        if self.may_fragment(end) {
            put_u16(&mut header, field::FLAGS_AND_OFFSET, 0);
        }
        Ok(Packets::new(out, &header, end, mtu, self.walk.fragment))
    }

    /// Whether it may be fragmented as an IPv4 packet of `length` octets (RFC 7915 sections 5.1 and 5.1.1).
    fn may_fragment(&self, length: usize) -> bool {
        length <= MAY_FRAGMENT_MAX || self.walk.fragment.is_some()
    }

    fn change(&self, transport: Transport, rewrite: &Rewrite<Ipv4Addr>) -> Change {
        let (from, to) = (self.view.source(), self.view.destination());
        let (before, after) = if transport == Transport::Echo {
            (checksum::pseudo_ipv6(from, to, protocol::ICMPV6, self.upper.len()), 0)
        } else {
            (upper::sum6(from, to), upper::sum4(rewrite.client, rewrite.service))
        };
        let client_port = rewrite.client_port;
        Change { transport, client_is: ClientIs::Source, client_port, before, after }
    }
}

fn check_fragment(octets: &[u8], walk: &Walk, length: usize) -> Result<(), Refusal> {
    let (Some(fragment), Some(at)) = (walk.fragment, walk.fragment_at) else {
        return Ok(());
    };
    // Section 5.1.1.
    let next = octets[at];
    if matches!(
        next,
        protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::FRAGMENT
            | protocol::AUTHENTICATION
            | protocol::DESTINATION_OPTIONS
    ) {
        return Err(Refusal::FragmentedExtension);
    }
    let end = usize::from(fragment.offset) + length;
    if (fragment.more && !length.is_multiple_of(8)) || end > IPV4_DATA_MAX {
        return Err(Refusal::FragmentBounds);
    }
    Ok(())
}
