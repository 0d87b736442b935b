//! Clients' packets on the way to a server that delivers them, as a device with offloads gives
//! them: each segment of a super-packet goes in a control datagram of its own, and those are one
//! super-packet again.

use std::time::Duration;

use crate::ip::address::extract;
use crate::ip::ipv6::Ipv6;
use crate::ip::offload::Offload;
use crate::ip::segments::{Pieces, Segments};
use crate::nat64::engine::Outbound;
use crate::nat64::gateway::ends::ControlEnds;
use crate::nat64::gateway::offloaded::is_of_flow;
use crate::nat64::gateway::pool::Which;
use crate::nat64::gateway::{Done, Gateway, GatewayOutbox};
use crate::nat64::translate::Ipv6Packet;

/// What is to be done with a client's packet.
enum Tunnelled {
    /// It goes between these ends, and has so many octets.
    To(ControlEnds, usize),
    /// It is too long.
    TooBig,
}

impl Gateway {
    /// Sends a client's packet of TCP or UDP, or each of its segments, to a server that delivers
    /// it. Returns whether it was one of these; if not, nothing was done yet, and the packet is for
    /// [`Self::in_pieces`].
    pub fn tunnel_offloaded(
        &mut self,
        now: Duration,
        packet: &[u8],
        offload: &Offload,
        out: &mut GatewayOutbox,
    ) -> bool {
        match self.tunnelled(now, packet, offload, out) {
            Some(Tunnelled::To(ends, length)) => {
                self.send_tunnelled(&ends, &packet[..length], offload, out);
            }
            Some(Tunnelled::TooBig) => self.tell_too_big(now, packet, offload, out),
            None => return false,
        }
        true
    }

    /// Leaves in `front` what stands before each segment.
    fn tunnelled(
        &mut self,
        now: Duration,
        packet: &[u8],
        offload: &Offload,
        out: &mut GatewayOutbox,
    ) -> Option<Tunnelled> {
        if packet.first()? >> 4 != 6 {
            return None;
        }
        let packet = Ipv6Packet::parse(packet).ok()?;
        let view = packet.view();
        self.ends_of_client(view).ok()?;
        if !is_of_flow(packet.inside()) {
            return None;
        }
        // The first piece is as long as any.
        let longest = Pieces::of(view.octets(), offload)?.next_length()?;
        let outbound = Outbound::translatable(&packet);
        let which = self.pool.of_client(now, view.source());
        if self.pool[which].tunnels.is_some() {
            let framed = self.framed(now, which, &outbound, view, longest, out);
            if framed.is_some() {
                return framed;
            }
        }
        let mut actions = std::mem::take(&mut self.actions);
        let nat64 = &mut self.pool[which].nat64;
        let done = nat64.tunnel(now, &outbound, longest, &mut self.front, &mut actions);
        self.carry_out(now, which, actions, out);
        match done {
            Ok(true) => {
                let ends = self.control_ends(which, extract(view.destination()));
                Some(Tunnelled::To(ends, view.octets().len()))
            }
            Ok(false) => None,
            Err(_) => Some(Tunnelled::TooBig),
        }
    }

    /// The same, where it goes by a tunnel of Geneve.
    fn framed(
        &mut self,
        now: Duration,
        which: Which,
        outbound: &Outbound<'_>,
        view: Ipv6<'_>,
        longest: usize,
        out: &mut GatewayOutbox,
    ) -> Option<Tunnelled> {
        self.offer_tunnel(now, which, view, out);
        let (nat64, server) = (&self.pool[which].nat64, extract(view.destination()));
        let most = nat64.tunnel_mtu().map_or(usize::MAX, usize::from);
        if nat64.has_entry(outbound) || !self.begin_frame(now, which, server) {
            return None;
        }
        if longest > most {
            return Some(Tunnelled::TooBig);
        }
        self.did(Done::Framed);
        Some(Tunnelled::To(self.frame_ends(which, server), view.octets().len()))
    }

    fn send_tunnelled(
        &mut self,
        ends: &ControlEnds,
        packet: &[u8],
        offload: &Offload,
        out: &mut GatewayOutbox,
    ) {
        let Some(mut pieces) = Pieces::of(packet, offload) else { return };
        if offload.segments.is_some() {
            self.did(Done::Super);
        }
        let front = self.front.len();
        while let Some(length) = pieces.next_length() {
            let payload = out.datagram(ends, front + length);
            payload[..front].copy_from_slice(&self.front);
            pieces.next_piece(&mut payload[front..]);
            self.did(Done::Requests);
        }
        out.finish_datagrams();
    }

    /// Tells the client once, whatever the packet stands for.
    fn tell_too_big(
        &mut self,
        now: Duration,
        packet: &[u8],
        offload: &Offload,
        out: &mut GatewayOutbox,
    ) {
        let Some(error) = self.too_big() else { return };
        let mut segment = std::mem::take(&mut self.segment);
        let first = Segments::of(packet, offload)
            .and_then(|mut segments| segments.next_segment(&mut segment));
        let about = first.map_or(packet, |length| &segment[..length]);
        self.tell_client(now, error, about, out);
        self.segment = segment;
    }
}
