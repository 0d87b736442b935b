//! Packets of a device with offloads: super-packets, and those whose checksum is not made yet.
//!
//! What has an entry and needs other headers alone is forwarded as it is
//! ([`Gateway::forward_offloaded`]). All else is cut into the packets that it stands for, with
//! their checksums ([`Gateway::in_pieces`]).

use std::time::Duration;

use super::pool::Which;
use super::{Done, Dropped, Gateway, GatewayOutbox};
use crate::handoff::entry::Entry;
use crate::ip::address::synthesize;
use crate::ip::fields::{IPV6_HEADER, protocol};
use crate::ip::ipv4::Ipv4;
use crate::ip::ipv6::Ipv6;
use crate::ip::offload::Offload;
use crate::ip::segments::Segments;
use crate::nat64::engine::{Inbound, Outbound};
use crate::nat64::translate::{Forwarded, Inside, Ipv4Packet, Ipv6Packet, Rewrite, Transport};

impl Gateway {
    /// Translates a packet from the device that needs nothing but other headers, as most do. `None`
    /// for all others, of which nothing was done yet: they are for [`Self::in_pieces`].
    pub fn forward_offloaded<'a>(
        &mut self,
        now: Duration,
        packet: &'a [u8],
        offload: &Offload,
    ) -> Option<Forwarded<'a>> {
        let (forwarded, done) = match packet.first()? >> 4 {
            6 => (self.forward_to_ipv4(now, packet, offload)?, Done::ToIpv4),
            4 => (self.forward_to_ipv6(now, packet, offload)?, Done::ToIpv6),
            _ => return None,
        };
        self.did(done);
        if offload.segments.is_some() {
            self.did(Done::Super);
        }
        Some(forwarded)
    }

    /// Handles a packet that [`Self::forward_offloaded`] did not: whole, with its checksum made, or
    /// each of its segments. What is to be written is appended to `out`, as by [`Self::packet`].
    pub fn in_pieces(
        &mut self,
        now: Duration,
        packet: &mut [u8],
        offload: &Offload,
        out: &mut GatewayOutbox,
    ) {
        if offload.segments.is_none() {
            if offload.checksum.is_none_or(|left| left.make(whole(packet))) {
                self.packet(now, packet, out);
            } else {
                self.drop(Dropped::Offload);
            }
            return;
        }
        let Some(mut segments) = Segments::of(packet, offload) else {
            return self.drop(Dropped::Offload);
        };
        let mut segment = std::mem::take(&mut self.segment);
        while let Some(length) = segments.next_segment(&mut segment) {
            self.packet(now, &segment[..length], out);
        }
        self.segment = segment;
    }

    fn forward_to_ipv4<'a>(
        &mut self,
        now: Duration,
        packet: &'a [u8],
        offload: &Offload,
    ) -> Option<Forwarded<'a>> {
        let packet = Ipv6Packet::parse(packet).ok()?;
        self.ends_of_client(packet.view()).ok()?;
        if !is_of_flow(packet.inside()) {
            return None;
        }
        let outbound = Outbound::translatable(&packet);
        let which = self.pool.of_client(now, packet.view().source());
        let nat64 = &mut self.pool[which].nat64;
        let (server, entry) = nat64.entry_of_outbound(now, &outbound)?;
        let client = nat64.address();
        let identification = self.next_identification();
        let rewrite = Rewrite { client, client_port: entry.port.0, service: server };
        packet.forward_to_ipv4(offload, &rewrite, identification, &self.limits)
    }

    fn forward_to_ipv6<'a>(
        &mut self,
        now: Duration,
        packet: &'a [u8],
        offload: &Offload,
    ) -> Option<Forwarded<'a>> {
        let packet = Ipv4Packet::parse(packet).ok()?;
        let view = packet.view();
        let which = self.ends_of_service(view).ok()?;
        if self.may_be_control(which, view) || !is_of_flow(packet.inside()) {
            return None;
        }
        let inbound = Inbound::translatable(&packet);
        let (server, Entry { client, .. }) =
            self.pool[which].nat64.entry_of_inbound(now, &inbound)?;
        let service = synthesize(client.prefix, server);
        let rewrite = Rewrite { client: client.address, client_port: client.port, service };
        packet.forward_to_ipv6(offload, &rewrite, &self.limits)
    }

    /// Whether the packet has the port of the control channel: of one that is no fragment.
    fn may_be_control(&self, which: Which, view: Ipv4<'_>) -> bool {
        view.protocol() == protocol::UDP && self.is_to_control_port(which, view.data())
    }
}

/// TCP or UDP, whole.
pub(super) fn is_of_flow<A>(inside: Inside<A>) -> bool {
    matches!(inside, Inside::Flow { flow, fragments: None, .. } if flow.transport != Transport::Echo)
}

/// The packet, cut to the length that it says: what stands behind is no part of its checksum.
fn whole(packet: &mut [u8]) -> &mut [u8] {
    let length = match packet.first().map(|octet| octet >> 4) {
        Some(4) => Ipv4::new(packet).map(Ipv4::total_length),
        _ => Ipv6::new(packet).map(|view| IPV6_HEADER + view.payload_length()),
    };
    let end = length.unwrap_or(0).min(packet.len());
    &mut packet[..end]
}
