//! Tunnels of Geneve that this gateway offers to servers (PROTOCOL.md section 12): where one has
//! taken it, clients' packets that have no entry go by it as they are, and come back likewise.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use super::ends::ControlEnds;
use super::pool::Which;
use super::tunnels::{Ask, GeneveTunnels, TunnelEnds};
use super::{Done, Dropped, Gateway, GatewayOutbox, ServerChange};
use crate::ip::address::extract;
use crate::ip::fields::UDP_HEADER;
use crate::ip::geneve::{Frame, GENEVE_PORT, bypass_front, emit_bypass_front};
use crate::ip::ipv4::Ipv4;
use crate::ip::ipv6::Ipv6;
use crate::ip::neighbor::{
    ADVERTISEMENT, Advertisement, NEIGHBOR_PACKET_MAX, SOLICITATION, Solicitation, group_link,
    kind_of, solicited_node,
};
use crate::ip::transport::ports;
use crate::nat64::engine::{Ignored, Outbound, ServerState};

/// What an offer tells who reads a capture.
const MESSAGE: &str =
    "nat64handoff gateway: answer to have clients' packets as IPv6, not translated";

impl Gateway {
    /// A client's packet is for a server: offers that a tunnel, where that is due.
    pub(super) fn offer_tunnel(
        &mut self,
        now: Duration,
        which: Which,
        view: Ipv6<'_>,
        out: &mut GatewayOutbox,
    ) {
        let public = &mut self.pool[which];
        let Some(tunnels) = &mut public.tunnels else { return };
        let server = extract(view.destination());
        if !tunnels.may_offer(now, server) {
            return;
        }
        let is_known = public.nat64.state(server) == ServerState::Alive;
        if (is_known || public.nat64.may_probe(now, view.source()))
            && let Some(ask) = tunnels.offers(now, server, view.destination())
        {
            self.ask(which, server, ask, out);
        }
    }

    /// Repeats offers, and asks servers of which nothing was heard.
    pub(super) fn tick_tunnels(&mut self, now: Duration, which: Which, out: &mut GatewayOutbox) {
        let Some(tunnels) = &mut self.pool[which].tunnels else { return };
        let (mut asks, mut lost) = (Vec::new(), Vec::new());
        tunnels.tick(now, &mut asks, &mut lost);
        for (server, ask) in asks {
            self.ask(which, server, ask, out);
        }
        for server in lost {
            out.notice(self.pool.table(which, server), ServerChange::TunnelLost);
        }
    }

    fn ask(&mut self, which: Which, server: Ipv4Addr, ask: Ask, out: &mut GatewayOutbox) {
        let Some(tunnels) = &self.pool[which].tunnels else { return };
        let (vni, link) = (tunnels.vni(server), tunnels.own_link(server));
        let (target, to, to_link) = match ask {
            Ask::Offer(target) => {
                let group = solicited_node(target);
                (target, group, group_link(group))
            }
            Ask::Probe(target, link) => (target, target, link),
        };
        let from = tunnels.own_address(server);
        let mut packet = [0; NEIGHBOR_PACKET_MAX];
        let length = Solicitation { from, to, target, link: Some(link) }.emit(&mut packet);
        let mut frame = std::mem::take(&mut self.front);
        frame.clear();
        emit_bypass_front(&mut frame, vni, to_link, link, MESSAGE);
        frame.extend_from_slice(&packet[..length]);
        self.did(Done::Offers);
        let ends = self.frame_ends(which, server);
        self.send_datagram(&ends, &frame, out);
        self.front = frame;
    }

    /// Between which ends frames to `server` go.
    pub(super) fn frame_ends(&mut self, which: Which, server: Ipv4Addr) -> ControlEnds {
        ControlEnds {
            from: SocketAddrV4::new(self.pool[which].nat64.address(), GENEVE_PORT),
            to: SocketAddrV4::new(server, GENEVE_PORT),
            identification: self.next_identification(),
        }
    }

    /// Whether packets to `server` that have no entry go by a tunnel. If so, leaves in `front` what
    /// stands before each.
    pub(super) fn begin_frame(&mut self, now: Duration, which: Which, server: Ipv4Addr) -> bool {
        let Some(tunnels) = &mut self.pool[which].tunnels else { return false };
        let Some(link) = tunnels.link_of(now, server) else { return false };
        let headers = bypass_front(tunnels.vni(server), link, tunnels.own_link(server));
        self.front.clear();
        self.front.extend_from_slice(&headers);
        true
    }

    /// Sends a client's packet by a tunnel, if its server has taken one, and there is no entry for
    /// it. Returns whether it did, or told the client why not.
    pub(super) fn sends_framed(
        &mut self,
        now: Duration,
        which: Which,
        outbound: &Outbound<'_>,
        view: Ipv6<'_>,
        out: &mut GatewayOutbox,
    ) -> bool {
        let server = extract(view.destination());
        if self.pool[which].nat64.has_entry(outbound) || !self.begin_frame(now, which, server) {
            return false;
        }
        let most = self.pool[which].nat64.tunnel_mtu();
        if most.is_some_and(|most| view.octets().len() > usize::from(most)) {
            self.after_outbound(now, which, Some(Ignored::TunnelTooBig), view, out);
            return true;
        }
        self.did(Done::Framed);
        let mut frame = std::mem::take(&mut self.front);
        frame.extend_from_slice(view.octets());
        let ends = self.frame_ends(which, server);
        self.send_datagram(&ends, &frame, out);
        self.front = frame;
        true
    }

    /// Whether a UDP datagram is for the port of tunnels, and there may be such.
    pub(super) fn is_to_tunnel_port(&self, which: Which, datagram: &[u8]) -> bool {
        self.pool[which].tunnels.is_some()
            && ports(datagram).is_some_and(|(_, to)| to == GENEVE_PORT)
    }

    /// Whether a client may have this packet of a server, and that has taken the tunnel.
    pub(super) fn delivers_framed(
        &mut self,
        which: Which,
        server: Ipv4Addr,
        frame: &Frame<'_>,
        view: Ipv6<'_>,
    ) -> bool {
        let public = &mut self.pool[which];
        let is_heard = |of: &mut GeneveTunnels| of.hears(server, frame.from);
        let delivers = public.nat64.may_send(server, view).is_ok()
            && public.tunnels.as_mut().is_some_and(is_heard);
        self.did(if delivers { Done::Delivered } else { Done::Answers });
        if !delivers {
            self.drop(Dropped::Frame);
        }
        delivers
    }

    /// A frame from a server, whatever is in it.
    pub(super) fn take_frame(
        &mut self,
        now: Duration,
        which: Which,
        server: Ipv4Addr,
        payload: &[u8],
        out: &mut GatewayOutbox,
    ) -> Result<(), Dropped> {
        let tunnels = self.pool[which].tunnels.as_ref().ok_or(Dropped::Frame)?;
        let ends = tunnels.ends(server);
        let (frame, view) = packet_of_frame(ends, payload).ok_or(Dropped::Frame)?;
        match kind_of(view) {
            Some(ADVERTISEMENT) => {
                let told = Advertisement::parse(view).map_err(|_| Dropped::Frame)?;
                let tunnels = self.pool[which].tunnels.as_mut().ok_or(Dropped::Frame)?;
                let is_it = told.to == tunnels.own_address(server)
                    && told.link.is_none_or(|link| link == frame.from);
                is_it.then_some(()).ok_or(Dropped::Frame)?;
                if tunnels.taken(now, server, told.target, frame.from) {
                    out.notice(self.pool.table(which, server), ServerChange::TunnelTaken);
                }
            }
            Some(SOLICITATION) => self.answer_server(which, server, &frame, view, out)?,
            _ => {
                if self.delivers_framed(which, server, &frame, view) {
                    out.push(&[view.octets()]);
                }
            }
        }
        Ok(())
    }

    /// A server asks for our link-layer address.
    fn answer_server(
        &mut self,
        which: Which,
        server: Ipv4Addr,
        frame: &Frame<'_>,
        view: Ipv6<'_>,
        out: &mut GatewayOutbox,
    ) -> Result<(), Dropped> {
        let asked = Solicitation::parse(view).map_err(|_| Dropped::Frame)?;
        let tunnels = self.pool[which].tunnels.as_mut().ok_or(Dropped::Frame)?;
        let from = tunnels.own_address(server);
        if asked.target != from || asked.from.is_unspecified() || !tunnels.hears(server, frame.from)
        {
            return Err(Dropped::Frame);
        }
        let link = tunnels.own_link(server);
        let told =
            Advertisement { from, to: asked.from, target: from, link: Some(link), solicited: true };
        let mut packet = [0; NEIGHBOR_PACKET_MAX];
        let length = told.emit(&mut packet);
        let front = bypass_front(frame.vni, frame.from, link);
        let payload = [&front[..], &packet[..length]].concat();
        let ends = self.frame_ends(which, server);
        self.send_datagram(&ends, &payload, out);
        Ok(())
    }

    /// The server that an ICMP error about a frame of ours is about, from what the error quotes.
    pub(super) fn server_of_frame(&self, which: Which, quoted: Ipv4<'_>) -> Option<Ipv4Addr> {
        let tunnels = self.pool[which].tunnels.as_ref()?;
        let server = quoted.destination();
        let is_frame = ports(quoted.data()) == Some((GENEVE_PORT, GENEVE_PORT));
        // Who does not see what we send does not know the number.
        let vni = quoted.data().get(UDP_HEADER + 4..UDP_HEADER + 7)?;
        (is_frame && vni == tunnels.vni(server).octets()).then_some(server)
    }

    /// A server's host says that nobody takes frames there.
    pub(super) fn lose_tunnel(
        &mut self,
        now: Duration,
        which: Which,
        server: Ipv4Addr,
        out: &mut GatewayOutbox,
    ) {
        if let Some(tunnels) = &mut self.pool[which].tunnels
            && tunnels.gone(now, server)
        {
            out.notice(self.pool.table(which, server), ServerChange::TunnelLost);
        }
    }
}

/// The packet that a server sends in a frame, if that has these ends and not our option.
pub(super) fn packet_of_frame(ends: TunnelEnds, payload: &[u8]) -> Option<(Frame<'_>, Ipv6<'_>)> {
    let frame = Frame::parse(payload).ok()?;
    let ours = frame.message.is_none() && (frame.vni, frame.to) == (ends.vni, ends.own);
    let view = Ipv6::whole(&payload[frame.packet_at..]).filter(|_| ours)?;
    Some((frame, view))
}
