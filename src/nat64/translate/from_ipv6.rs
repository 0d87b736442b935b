//! From IPv6 to IPv4 (RFC 7915 section 5).

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::ip::address::is_routable_client;
use crate::ip::checksum;
use crate::ip::fields::{IPV4_HEADER, IPV6_HEADER, ipv4 as field, protocol, put_u16};
use crate::ip::flow::classify_ipv6;
use crate::ip::fragment::Fragment;
use crate::ip::icmp::{IcmpError, v6};
use crate::ip::ipv4;
use crate::ip::ipv6::{Ipv6, Walk};

use super::carried::Carried;
use super::quoted::{ErrorMessage, MAY_FRAGMENT_MAX, Quoted6};
use super::upper::{self, ClientIs, Update};
use super::{
    Flow, GROWTH_MAX, HEADER_DIFFERENCE, IPV6_MTU_MIN, Inside, Limits, Packets, Refusal, Refused,
    Rewrite, Transport,
};

/// RFC 6146 section 3.4.
const UNKNOWN_PROTOCOL: Refused = Refused {
    reason: Refusal::Protocol,
    error: Some(IcmpError { kind: v6::UNREACHABLE, code: v6::PORT, word: 0 }),
};

/// An IPv6 packet that nothing in itself keeps from being translated.
#[derive(Debug, Clone, Copy)]
pub struct Ipv6Packet<'a> {
    pub(super) view: Ipv6<'a>,
    pub(super) walk: Walk,
    /// The transport header and all behind it.
    pub(super) upper: &'a [u8],
    pub(super) body: Carried<ErrorMessage<'a, Quoted6<'a>>>,
}

impl<'a> Ipv6Packet<'a> {
    /// Parses the packet that `octets` start with. Its source must be an address that a client can
    /// have, also that of an ICMPv6 error. The prefix of its destination is not checked.
    ///
    /// # Errors
    /// The packet cannot be translated with any mapping.
    pub fn parse(octets: &'a [u8]) -> Result<Self, Refused> {
        let view = Ipv6::whole(octets).ok_or(Refusal::PacketTruncated)?;
        if !is_routable_client(view.source()) || view.destination().is_multicast() {
            return Err(Refusal::Addresses.into());
        }
        let walk = view.walk()?;
        let upper = view.upper(&walk);
        check_fragment(&walk, upper.len())?;
        let fragmented = |fragment: Fragment| fragment.more || !fragment.first;
        if walk.protocol == protocol::ICMPV6 && walk.fragment.is_some_and(fragmented) {
            return Err(Refused::discarded_ipv6(Refusal::IcmpFragment));
        }
        let (class, protocol) = (classify_ipv6(view, &walk), walk.protocol);
        let (source, destination) = (view.source(), view.destination());
        let error = || ErrorMessage::<Quoted6<'_>>::parse(upper, source, destination);
        let body = Carried::of(class, protocol, UNKNOWN_PROTOCOL, v6::is_echo, error)?;
        if let Carried::Transport(transport) = body {
            upper::check_header(transport, upper)?;
            // RFC 8200 section 8.1: over IPv6 every datagram has one.
            if transport == Transport::Udp && upper::udp_without_checksum(upper) {
                return Err(Refusal::UdpWithoutChecksum.into());
            }
        }
        Ok(Self { view, walk, upper, body })
    }

    /// A super-packet of TCP or UDP of which here are only the `headers`, for
    /// [`Self::forward_to_ipv4`] alone. `None` where it cannot be translated with any mapping.
    pub fn of_headers(headers: &'a [u8]) -> Option<Self> {
        let view = Ipv6::new(headers)?;
        let walk = view.walk().ok().filter(|walk| walk.fragment.is_none())?;
        let (upper, transport) = (view.upper(&walk), Transport::of(walk.protocol)?);
        upper::check_header(transport, upper).ok()?;
        let is_right = is_routable_client(view.source()) && !view.destination().is_multicast();
        is_right.then_some(Self { view, walk, upper, body: Carried::Transport(transport) })
    }

    /// Octets of the transport header and all behind it.
    pub(super) fn upper_length(&self) -> usize {
        (IPV6_HEADER + self.view.payload_length()).saturating_sub(self.walk.upper_at)
    }

    /// The packet, cut to its own length.
    pub(crate) fn view(&self) -> Ipv6<'a> {
        self.view
    }

    /// The key of its mapping.
    pub fn inside(&self) -> Inside<Ipv6Addr> {
        let key = |fragment| self.view.fragment_key(fragment);
        match (&self.body, self.walk.fragment) {
            (Carried::Error(error), _) => Inside::Error(error.quoted.flow),
            (Carried::Later(_), Some(fragment)) => Inside::Later(key(fragment)),
            (Carried::Transport(transport) | Carried::Later(transport), fragment) => {
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

    /// Writes the packet as IPv4 to `out`, from `rewrite.client` to `rewrite.service`. A packet
    /// without a fragment header gets `identification`, which must not repeat soon, and
    /// should be hard to guess (RFC 7915 section 5.1, RFC 7739).
    ///
    /// # Errors
    /// The hop limit is used up, the packet is too big, or an ICMPv6 error has no counterpart.
    ///
    /// # Panics
    /// `out` is not longer than the packet by [`GROWTH_MAX`].
    pub fn to_ipv4<'b>(
        &self,
        rewrite: &Rewrite<Ipv4Addr>,
        identification: u16,
        limits: &Limits,
        out: &'b mut [u8],
    ) -> Result<Packets<'b>, Refused> {
        assert!(out.len() >= self.view.octets().len() + GROWTH_MAX, "the buffer is too short");
        if self.view.hop_limit() <= 1 {
            return Err(Refused::with(Refusal::HopLimit, v6::TIME_EXCEEDED, 0, 0));
        }
        let mtu = usize::from(limits.ipv4_mtu);
        let (transport, end) = match &self.body {
            Carried::Error(error) => {
                let counterpart = error.counterpart(limits)?;
                let length = error.emit(counterpart, rewrite, limits, &mut out[IPV4_HEADER..]);
                (Transport::Echo, IPV4_HEADER + length)
            }
            Carried::Transport(transport) | Carried::Later(transport) => {
                let end = IPV4_HEADER + self.upper.len();
                if end > mtu && !self.may_fragment(end) {
                    let mtu = limits.ipv4_mtu.saturating_add(HEADER_DIFFERENCE).max(IPV6_MTU_MIN);
                    let mtu = u32::from(mtu);
                    return Err(Refused::with(Refusal::TooBig, v6::PACKET_TOO_BIG, 0, mtu));
                }
                let upper = &mut out[IPV4_HEADER..end];
                upper.copy_from_slice(self.upper);
                if matches!(self.body, Carried::Transport(_)) {
                    self.update(*transport, rewrite).apply(upper);
                }
                (*transport, end)
            }
        };
        let header = self.header(transport, end, end, rewrite, identification, limits);
        Ok(Packets::new(out, &header, end, mtu, self.walk.fragment))
    }

    /// The header of `end` octets as IPv4, its checksum not made. What says whether the packet may
    /// be fragmented is `longest`: the octets of each of its segments, where there are several.
    pub(super) fn header(
        &self,
        transport: Transport,
        end: usize,
        longest: usize,
        rewrite: &Rewrite<Ipv4Addr>,
        identification: u16,
        limits: &Limits,
    ) -> [u8; IPV4_HEADER] {
        let (protocol, client) = (transport.ipv4_protocol(), rewrite.client);
        let hop_limit = self.view.hop_limit().saturating_sub(1);
        let mut header = ipv4::draft(end, hop_limit, protocol, client, rewrite.service);
        header[field::TYPE_OF_SERVICE] = limits.traffic_class(self.view.traffic_class());
        let own = self.walk.fragment.map(|fragment| fragment.identification as u16);
        put_u16(&mut header, field::IDENTIFICATION, own.unwrap_or(identification));
        if self.may_fragment(longest) {
            put_u16(&mut header, field::FLAGS_AND_OFFSET, 0);
        }
        header
    }

    /// Whether the packet may be fragmented where it has `length` octets as IPv4 (RFC 7915 sections
    /// 5.1 and 5.1.1).
    fn may_fragment(&self, length: usize) -> bool {
        length <= MAY_FRAGMENT_MAX || self.walk.fragment.is_some()
    }

    pub(super) fn update(&self, transport: Transport, rewrite: &Rewrite<Ipv4Addr>) -> Update {
        let (from, to) = (self.view.source(), self.view.destination());
        let (before, after) = if transport == Transport::Echo {
            (checksum::pseudo_ipv6(from, to, protocol::ICMPV6, self.upper.len()), 0)
        } else {
            (upper::sum6(from, to), upper::sum4(rewrite.client, rewrite.service))
        };
        let client_port = rewrite.client_port;
        Update { transport, client_is: ClientIs::Source, client_port, before, after }
    }
}

fn check_fragment(walk: &Walk, length: usize) -> Result<(), Refused> {
    // Section 5.1.1.
    if walk.extension_in_fragments {
        return Err(Refused::discarded_ipv6(Refusal::FragmentedExtension));
    }
    let holds = walk.fragment.is_none_or(|fragment| fragment.can_have(length));
    holds.then_some(()).ok_or(Refusal::FragmentBounds.into())
}
