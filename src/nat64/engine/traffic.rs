//! What a NAT64 makes of packets (PROTOCOL.md sections 3 and 10, repairs 1 and 4): it has an entry for them, makes
//! one, or asks the server.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::flow::{self, Flow, ServiceKey, Transport};
use super::lifetime::Lifetime;
use super::packets::extract;
use super::peer::{Origin, Peer};
use super::requests::{emit_token, report};
use super::{
    Action, ENTRIES_MAX, Ignored, Nat64, PORT_DRAWS, PORT_MIN, RESERVED_PORTS, ServerState, draw,
    forward, peer_of, push_request, whole_ipv4, whole_ipv6,
};
use crate::handoff::entry::{Client, Entry, MappedPort};
use crate::handoff::message::{self, message_type};
use crate::ip::packet::Ipv6;

impl Nat64 {
    pub(super) fn try_client_packet(
        &mut self,
        now: Duration,
        packet: &[u8],
        actions: &mut Vec<Action>,
    ) -> Result<(), Ignored> {
        let view = whole_ipv6(packet)?;
        if !Client::can_have(view.source()) {
            return Err(Ignored::ClientAddress);
        }
        if !self.config.prefixes.contains(&view.destination_prefix()) {
            return Err(Ignored::NotOurs);
        }
        let server = extract(view.destination());
        let state = self.state(server);
        match flow::of_client_packet(view)? {
            Flow::Transport(flow) => {
                if let Some(entry) = self.entry_of_client(now, server, &flow) {
                    actions.push(forward(server, entry, view.octets()));
                    return Ok(());
                }
                if !asks(state, &flow) {
                    return self.own_entry(now, server, flow, view, actions);
                }
            }
            Flow::Error(client) => {
                if let Some(port) = self.port_of(server, &client) {
                    let entry = Entry { port, client };
                    actions.push(forward(server, entry, view.octets()));
                    return Ok(());
                }
            }
            Flow::Other => {}
        }
        if state == ServerState::Dead {
            return Err(Ignored::ServerDead);
        }
        let payload = self.client_request(now, server, view);
        push_request(server, payload, actions)
    }

    /// Uses the entry of a client's packet, unless only the server can say whose its fragments are.
    pub(super) fn entry_of_client(
        &mut self,
        now: Duration,
        server: Ipv4Addr,
        flow: &Transport<Client>,
    ) -> Option<Entry> {
        let peer = self.peers.get_mut(&server)?;
        if flow.fragment && asks(peer.state, flow) && !self.config.remembers_fragments {
            return None;
        }
        let port = peer.touch(&flow.key, now, flow.usage)?;
        Some(Entry { port, client: flow.key })
    }

    /// Likewise, of a packet of the service.
    pub(super) fn entry_of_service(
        &mut self,
        now: Duration,
        flow: &Transport<ServiceKey>,
    ) -> Option<Entry> {
        let (server, port) = flow.key;
        let peer = self.peers.get_mut(&server)?;
        if flow.fragment && peer.state == ServerState::Alive && !self.config.remembers_fragments {
            return None;
        }
        let client = peer.client_of(port)?;
        peer.touch(&client, now, flow.usage);
        Some(Entry { port, client })
    }

    /// `4, [5], 6, [8], IPv6`
    pub(super) fn client_request(
        &self,
        now: Duration,
        server: Ipv4Addr,
        packet: Ipv6<'_>,
    ) -> Vec<u8> {
        let mut payload = Vec::new();
        emit_token(&self.keys, now, server, &mut payload);
        let authenticator = self.keys.authenticator(server, packet.source());
        message::emit(&mut payload, message_type::AUTHENTICATOR, &authenticator);
        if self.config.hints
            && let Ok(Flow::Transport(flow)) = flow::of_client_packet(packet)
            && self.is_eligible(MappedPort(flow.key.port))
        {
            message::emit(&mut payload, message_type::HINT, &flow.key.port.to_be_bytes());
        }
        payload.extend_from_slice(packet.octets());
        payload
    }

    /// Works on as an ordinary NAT64: makes an entry, uses it, and reports it.
    pub(super) fn own_entry(
        &mut self,
        now: Duration,
        server: Ipv4Addr,
        flow: Transport<Client>,
        packet: Ipv6<'_>,
        actions: &mut Vec<Action>,
    ) -> Result<(), Ignored> {
        if self.entries_held >= ENTRIES_MAX {
            return Err(Ignored::EntriesLimit);
        }
        let port = self.draw_port(server).ok_or(Ignored::NoPort)?;
        let entry = Entry { port, client: flow.key };
        let peer = peer_of(&mut self.peers, server)?;
        peer.insert(entry, Origin::Own, Lifetime::new(now, Some(flow.usage)));
        self.entries_held += 1;
        if peer.state != ServerState::Dead {
            peer.sent_report(entry.client, now);
        } // Else one report asks whether it is back; its host answers where it is not.
        actions.push(forward(server, entry, packet.octets()));
        push_request(server, report(&self.keys, now, server, &[entry]), actions)
    }

    pub(super) fn is_eligible(&self, port: MappedPort) -> bool {
        port.0 >= PORT_MIN
            && !RESERVED_PORTS.contains(&port.0)
            && port.0 != self.config.handoff_port
            && port.0 != self.control_port.0
    }

    /// How many ports there are for which [`Self::is_eligible`] holds.
    pub(super) fn ports_eligible(&self) -> usize {
        let [teredo, geneve] = RESERVED_PORTS;
        let mut never = [teredo, geneve, self.config.handoff_port, self.control_port.0];
        never.sort_unstable();
        let distinct = never.chunk_by(|one, next| one == next).map(|same| same[0]);
        let never = distinct.filter(|&port| port >= PORT_MIN).count();
        usize::from(u16::MAX - PORT_MIN) + 1 - never
    }

    /// A port that no client has towards `server`: a random one, or the next free after one.
    pub(super) fn draw_port(&mut self, server: Ipv4Addr) -> Option<MappedPort> {
        // Where all are taken, each packet of a new client would search them all to find that out.
        let taken = self.peers.get(&server).map_or(0, Peer::length);
        if taken >= self.ports_eligible() {
            return None;
        }
        let mut candidate = MappedPort(PORT_MIN);
        for _ in 0..PORT_DRAWS {
            candidate = MappedPort(draw(&mut self.random, PORT_MIN));
            if self.is_eligible(candidate) && self.client_of(server, candidate).is_none() {
                return Some(candidate);
            }
        }
        (candidate.0..=u16::MAX)
            .chain(PORT_MIN..candidate.0)
            .map(MappedPort)
            .find(|&port| self.is_eligible(port) && self.client_of(server, port).is_none())
    }

    pub(super) fn try_service_packet(
        &mut self,
        now: Duration,
        packet: &[u8],
        actions: &mut Vec<Action>,
    ) -> Result<(), Ignored> {
        let view = whole_ipv4(packet)?;
        if view.destination() != self.config.address {
            return Err(Ignored::NotOurs);
        }
        let mut server = view.source();
        match flow::of_service_packet(view)? {
            Flow::Transport(flow) => {
                let (_, port) = flow.key;
                let ask = flow.fragment
                    && !self.config.remembers_fragments
                    && self.state(server) == ServerState::Alive;
                let client = self.client_of(server, port).filter(|_| !ask);
                if let Some(client) = client
                    && let Some(peer) = self.peers.get_mut(&server)
                {
                    peer.touch(&client, now, flow.usage);
                    actions.push(forward(server, Entry { port, client }, view.octets()));
                    return Ok(());
                }
            }
            Flow::Error((about, port)) => {
                if let Some(client) = self.client_of(about, port) {
                    actions.push(forward(about, Entry { port, client }, view.octets()));
                    return Ok(());
                }
                server = about; // Repair 4.
            }
            Flow::Other => {}
        }
        let mut payload = Vec::new();
        emit_token(&self.keys, now, server, &mut payload);
        payload.extend_from_slice(view.octets());
        push_request(server, payload, actions)
    }
}

/// Whether a server in this state is asked about a client's packet that there is no entry for.
fn asks(state: ServerState, flow: &Transport<Client>) -> bool {
    match state {
        ServerState::Alive => true,
        // Repair 1: the server may know a connection that we do not.
        ServerState::Unknown => !flow.opens,
        ServerState::Dead => false,
    }
}
