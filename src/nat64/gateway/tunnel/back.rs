//! Packets of a server that delivers, on the way back to clients: control datagrams, which a device
//! with offloads gives many at once. They are verified, and those of one connection become one
//! super-packet, whose data stay where they are.

use std::net::Ipv4Addr;
use std::ops::Range;

use crate::handoff::message::{MESSAGE_HEADER, message_type};
use crate::ip::fields::{UDP_HEADER, protocol};
use crate::ip::ipv4::Ipv4;
use crate::ip::ipv6::Ipv6;
use crate::ip::joined::Joined;
use crate::ip::neighbor::kind_of;
use crate::ip::offload::{ChecksumLeft, Offload};
use crate::ip::transport::{Transport, ports};
use crate::nat64::engine::ServerState;
use crate::nat64::gateway::channel::udp_payload;
use crate::nat64::gateway::geneve::packet_of_frame;
use crate::nat64::gateway::pool::Which;
use crate::nat64::gateway::tunnels::TunnelEnds;
use crate::nat64::gateway::{Done, Gateway};

/// A message with an authenticator, by its first octet.
const AUTHENTICATOR: u8 = 0x30 | message_type::AUTHENTICATOR;

/// Packets for clients within one packet of the device. Reused from one to the next.
#[derive(Debug, Default)]
pub struct Deliveries {
    groups: Vec<Together>,
    /// Where data stand, in octets from the start of the device's packet.
    parts: Vec<Range<usize>>,
    /// The device takes no super-packets of UDP.
    tcp_only: bool,
}

/// What is written as one packet.
#[derive(Debug)]
struct Together {
    /// Where there may be several.
    joined: Option<Joined>,
    /// The first packet.
    whole: Range<usize>,
    parts: Range<usize>,
}

/// A packet to be written: `front` and, behind it, what stands at `parts`.
#[derive(Debug)]
pub struct Delivered<'a> {
    pub offload: Offload,
    pub front: &'a [u8],
    pub parts: &'a [Range<usize>],
}

impl Deliveries {
    /// For a device that takes no super-packets of UDP.
    pub fn without_udp_segments() -> Self {
        Self { tcp_only: true, ..Self::default() }
    }

    /// The packets, in the order of writing.
    pub fn each(&mut self) -> impl Iterator<Item = Delivered<'_>> {
        let parts = &self.parts;
        self.groups.iter_mut().map(|group| {
            let several = group.joined.as_mut().filter(|joined| joined.packets() > 1);
            match several.map(Joined::finish) {
                Some((front, offload)) => {
                    Delivered { offload, front, parts: &parts[group.parts.clone()] }
                }
                None => {
                    let parts = std::slice::from_ref(&group.whole);
                    Delivered { offload: Offload::default(), front: &[], parts }
                }
            }
        })
    }

    fn clear(&mut self) {
        self.groups.clear();
        self.parts.clear();
    }

    /// Adds the packet that stands at `whole` in `octets`.
    fn add(&mut self, octets: &[u8], whole: Range<usize>) {
        let packet = &octets[whole.clone()];
        let at = |data: Range<usize>| whole.start + data.start..whole.start + data.end;
        if let Some(Together { joined: Some(joined), parts, .. }) = self.groups.last_mut()
            && let Some(data) = joined.join(packet)
        {
            self.parts.push(at(data));
            parts.end += 1;
            return;
        }
        let first = self.parts.len();
        let joined = Joined::begin(packet, !self.tcp_only).map(|(joined, data)| {
            self.parts.push(at(data));
            joined
        });
        self.groups.push(Together { joined, whole, parts: first..self.parts.len() });
    }
}

/// A packet of the device that is control datagrams from one server.
struct Datagrams<'a> {
    which: Which,
    server: Ipv4Addr,
    /// Where they stand.
    at: usize,
    payloads: &'a [u8],
    /// Octets of each but the last.
    size: usize,
    /// They are frames of Geneve, with these ends.
    framed: Option<TunnelEnds>,
}

impl Gateway {
    /// Takes a packet from the device that is control datagrams of a server that is alive, each an
    /// authenticator and a packet that goes to its client as it is. Returns whether it was that; if
    /// not, nothing was done yet, and the packet is for [`Self::in_pieces`].
    pub fn deliver_offloaded(
        &mut self,
        packet: &[u8],
        offload: &Offload,
        deliveries: &mut Deliveries,
    ) -> bool {
        deliveries.clear();
        let Some(datagrams) = self.datagrams_of(packet, offload) else { return false };
        let mut at = datagrams.at;
        for payload in datagrams.payloads.chunks(datagrams.size) {
            if let Some(ends) = datagrams.framed {
                let (which, server) = (datagrams.which, datagrams.server);
                if let Some((frame, inner)) = packet_of_frame(ends, payload)
                    && self.delivers_framed(which, server, &frame, inner)
                {
                    let start = at + frame.packet_at;
                    deliveries.add(packet, start..start + inner.octets().len());
                }
            } else if let Some((authenticator, inner)) = plain(payload) {
                self.did(Done::Answers);
                let nat64 = &mut self.pool[datagrams.which].nat64;
                if nat64.delivered(datagrams.server, authenticator, inner).is_ok() {
                    self.did(Done::Delivered);
                    let start = at + MESSAGE_HEADER + authenticator.len();
                    deliveries.add(packet, start..start + inner.octets().len());
                }
            }
            at += payload.len();
        }
        if offload.segments.is_some() {
            self.did(Done::Super);
        }
        true
    }

    /// `None` where any of them may be anything else.
    fn datagrams_of<'a>(&self, packet: &'a [u8], offload: &Offload) -> Option<Datagrams<'a>> {
        let view = Ipv4::whole(packet)?;
        let which = self.ends_of_service(view).ok()?;
        let datagram = view.data();
        let is_whole = view.protocol() == protocol::UDP
            && view.fragment().is_none()
            && view.checksum_is_right();
        let server = view.source();
        let is_frame = is_whole && self.is_to_tunnel_port(which, datagram);
        let tunnels = self.pool[which].tunnels.as_ref().filter(|_| is_frame);
        let framed = tunnels.map(|tunnels| tunnels.ends(server));
        let is_control = is_whole
            && self.is_to_control_port(which, datagram)
            && self.pool[which].nat64.state(server) == ServerState::Alive;
        if !is_control && framed.is_none() {
            return None;
        }
        if offload.segments.is_some_and(|segments| segments.transport != Transport::Udp) {
            return None;
        }
        let left = offload.checksum;
        if left.is_some_and(|left| left != ChecksumLeft::of(Transport::Udp, view.header_length())) {
            return None;
        }
        // What the kernel has not summed yet was not on a wire since: or it was joined, and each
        // datagram had its own checksum.
        let (port, payloads) = match (offload.segments, left) {
            (Some(_), _) => (ports(datagram)?.0, datagram.get(UDP_HEADER..)?),
            (None, left) => udp_payload(server, view.destination(), datagram, left.is_some())?,
        };
        let size = offload.segments.map_or(payloads.len(), |segments| segments.size.into());
        if (framed.is_none() && port != self.handoff_port) || payloads.is_empty() {
            return None;
        }
        let at = view.header_length() + UDP_HEADER;
        let is_plain = |payload: &[u8]| match framed {
            Some(ends) => {
                packet_of_frame(ends, payload).is_some_and(|(_, inner)| kind_of(inner).is_none())
            }
            None => plain(payload).is_some(),
        };
        let all_plain = payloads.chunks(size).all(is_plain);
        all_plain.then_some(Datagrams { which, server, at, payloads, size, framed })
    }
}

/// The authenticator and the packet, where a payload is nothing else.
fn plain(payload: &[u8]) -> Option<(&[u8], Ipv6<'_>)> {
    let &[AUTHENTICATOR, units, ref rest @ ..] = payload else { return None };
    let (authenticator, packet) = rest.split_at_checked(2 * usize::from(units))?;
    Some((authenticator, Ipv6::whole(packet)?))
}
