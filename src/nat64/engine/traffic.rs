//! What a NAT64 does with packets (PROTOCOL.md sections 3 and 10, repairs 1 and 4): it forwards
//! them by an entry that it has or makes, or asks the server.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::lifetime::Lifetime;
use super::packet::{DataPacket, Inbound, Outbound, PacketKind, whole_ipv4, whole_ipv6};
use super::peer::{EntryOrigin, Peer, Silence};
use super::requests::{emit_token, report};
use super::sources::Network;
use super::{
    Action, ENTRIES_MAX, Ignored, Nat64, PORT_DRAWS, SERVERS_MAX, ServerState, draw, forward,
    peer_of, push_request,
};
use crate::handoff::entry::{Client, Entry, MappedPort};
use crate::handoff::message::{self, message_type};
use crate::handoff::ports::{self, MAPPED_PORT_MIN};
use crate::ip::address::extract;
use crate::ip::ipv6::Ipv6;

impl Nat64 {
    pub(super) fn try_client_packet(
        &mut self,
        now: Duration,
        octets: &[u8],
        actions: &mut Vec<Action>,
    ) -> Result<(), Ignored> {
        let view = whole_ipv6(octets)?;
        self.check_client(view)?;
        let packet = Outbound::parse(view)?;
        let at = actions.len();
        if let Some((server, entry)) = self.try_outbound(now, &packet, actions)? {
            actions.insert(at, forward(server, entry, view.octets()));
        }
        Ok(())
    }

    fn check_client(&self, packet: Ipv6<'_>) -> Result<(), Ignored> {
        if !Client::can_have(packet.source()) {
            return Err(Ignored::ClientAddress);
        }
        let is_ours = self.config.prefixes.contains(&packet.destination_prefix());
        is_ours.then_some(()).ok_or(Ignored::NotOurs)
    }

    /// The packet was found to be from a possible client to one of the prefixes.
    pub(super) fn try_outbound(
        &mut self,
        now: Duration,
        packet: &Outbound<'_>,
        actions: &mut Vec<Action>,
    ) -> Result<Option<(Ipv4Addr, Entry)>, Ignored> {
        let server = extract(packet.view.destination());
        if let Some(entry) = self.find_outbound(now, server, packet) {
            self.report_late(now, server, entry, actions);
            return Ok(Some((server, entry)));
        }
        if matches!(packet.kind, PacketKind::Data(_))
            && let Some(peer) = self.peers.get_mut(&server)
        {
            match peer.silence(now) {
                Silence::None => {}
                Silence::Asks => actions.push(self.question(now, server)),
                Silence::Falls => {
                    self.silent = Some(server);
                    return self.try_outbound(now, packet, actions);
                }
            }
        }
        let (state, source) = (self.state(server), packet.view.source());
        if let PacketKind::Data(data) = packet.kind
            && !asks(state, &data)
        {
            if !data.opens() && self.awaits(now, server, actions) {
                return Err(Ignored::ServerDead);
            }
            let made = self.own_entry(now, server, &data);
            self.report_or_ask(now, server, source, made.ok(), actions);
            return Ok(Some((server, made?)));
        }
        if state == ServerState::Dead {
            self.report_or_ask(now, server, source, None, actions);
            return Err(Ignored::ServerDead);
        }
        let unknown = state == ServerState::Unknown;
        if unknown && !self.sources.may_probe(now, source) {
            return Err(Ignored::ProbeRate);
        }
        self.check_tunnel(server, packet)?;
        let payload = self.client_request(now, server, packet);
        push_request(server, payload, actions)?;
        Ok(None)
    }

    /// Finds and refreshes the entry of a client's packet. `None` for a first fragment that only
    /// the server remembers.
    pub(super) fn find_outbound(
        &mut self,
        now: Duration,
        server: Ipv4Addr,
        packet: &Outbound<'_>,
    ) -> Option<Entry> {
        let peer = self.peers.get_mut(&server)?;
        let (port, client) = match packet.kind {
            PacketKind::Data(data) => {
                let unknown_here = data.fragment && !self.config.remembers_fragments;
                if unknown_here && asks(peer.state, &data) {
                    return None;
                }
                (peer.touch(&data.key, now, data.usage)?, data.key)
            }
            PacketKind::Error(client) => (peer.port_of(&client)?, client),
            PacketKind::LaterFragment | PacketKind::Other => return None,
        };
        Some(Entry { port, client })
    }

    /// The server and the entry of a client's packet of which nobody is to be told: the entry is
    /// known, and needs no report. `None` where that is not so, and [`Self::outbound`] is for it.
    pub fn entry_of_outbound(
        &mut self,
        now: Duration,
        packet: &Outbound<'_>,
    ) -> Option<(Ipv4Addr, Entry)> {
        let server = extract(packet.view.destination());
        let entry = self.find_outbound(now, server, packet)?;
        let unreported = self.peers.get(&server).is_some_and(|peer| {
            peer.state == ServerState::Unknown && peer.is_unreported(&entry.client)
        });
        (!unreported).then_some((server, entry))
    }

    /// `4, [5], 6, [8], IPv6`
    fn client_request(&self, now: Duration, server: Ipv4Addr, packet: &Outbound<'_>) -> Vec<u8> {
        let mut payload = Vec::new();
        self.emit_front(now, server, packet, &mut payload);
        payload.extend_from_slice(packet.view.octets());
        payload
    }

    /// What stands before the packet.
    pub(super) fn emit_front(
        &self,
        now: Duration,
        server: Ipv4Addr,
        packet: &Outbound<'_>,
        payload: &mut Vec<u8>,
    ) {
        emit_token(&self.keys, now, server, payload);
        let authenticator = self.keys.authenticator(server, packet.view.source());
        message::emit(payload, message_type::AUTHENTICATOR, &authenticator);
        if self.config.hints
            && let PacketKind::Data(DataPacket { key: Client { port, .. }, .. }) = packet.kind
            && self.is_eligible(MappedPort(port))
        {
            message::emit(payload, message_type::HINT, &port.to_be_bytes());
        }
    }

    /// Makes an entry as an ordinary NAT64 does, without a server. It is to be reported.
    pub(super) fn own_entry(
        &mut self,
        now: Duration,
        server: Ipv4Addr,
        data: &DataPacket<Client>,
    ) -> Result<Entry, Ignored> {
        self.make_room(server);
        if self.entries_held >= ENTRIES_MAX || self.told.is_full() {
            return Err(Ignored::EntriesLimit);
        }
        if self.has_its_share(server, data.key.address) {
            return Err(Ignored::ClientShare);
        }
        let port = self.choose_port(server, &data.key).ok_or(Ignored::NoPort)?;
        let entry = Entry { port, client: data.key };
        let peer = peer_of(&mut self.peers, server)?;
        peer.insert(entry, EntryOrigin::Own, Lifetime::new(now, Some(data.usage)));
        self.entries_held += 1;
        self.told.hear(server, peer);
        peer.leave_unreported(&entry.client);
        if peer.state == ServerState::Alive {
            peer.sent_report(entry.client, now);
        }
        if let Some((server, client)) = self.sources.made(server, entry.client) {
            self.evict_silent(server, client);
        }
        Ok(entry)
    }

    /// Whether the network of that client has all entries that it may have without a server.
    fn has_its_share(&mut self, server: Ipv4Addr, client: Ipv6Addr) -> bool {
        let share = |of: usize| (of as f64 * self.config.client_share) as usize;
        let (ports, entries) = (share(self.ports_eligible()), share(ENTRIES_MAX));
        let peer = self.peers.get(&server);
        peer.is_some_and(|peer| peer.own_of(Network::of(client)) >= ports)
            || self.sources.own(client) >= entries
    }

    /// Where no more entries or servers can be had, those towards hosts that never answered go.
    fn make_room(&mut self, server: Ipv4Addr) {
        let new = !self.peers.contains_key(&server);
        if self.entries_held >= ENTRIES_MAX || (new && self.peers.len() >= SERVERS_MAX) {
            for (server, client) in self.sources.oldest() {
                self.evict_silent(server, client);
            }
        }
    }

    /// Removes the entry, unless a server or the service has used it.
    pub(super) fn evict_silent(&mut self, server: Ipv4Addr, client: Client) {
        let Some(peer) = self.peers.get_mut(&server) else {
            return;
        };
        if peer.is_silent(&client) {
            peer.remove(&client);
            self.told.hear(server, peer);
            self.entries_held -= 1;
            self.sources.lost(client.address);
            if peer.length() == 0 && !peer.has_answered {
                self.peers.remove(&server);
            }
            self.count(Err(Ignored::SilentLimit));
        }
    }

    /// Reports an entry of which no report was sent yet, if now that may be: another packet of its
    /// client uses it.
    fn report_late(
        &mut self,
        now: Duration,
        server: Ipv4Addr,
        entry: Entry,
        actions: &mut Vec<Action>,
    ) {
        if let Some(peer) = self.peers.get_mut(&server)
            && peer.state == ServerState::Unknown
            && peer.is_unreported(&entry.client)
            && self.sources.may_probe(now, entry.client.address)
        {
            peer.sent_report(entry.client, now);
            actions.push(self.report_request(now, server, entry));
        }
    }

    /// Reports the entry that was `made` without a server. Where the server is dead, or no entry
    /// could be made, the report asks whether the server is there again (section 10, repair 8):
    /// then any entry will do, once in [`super::ASK_INTERVAL`].
    fn report_or_ask(
        &mut self,
        now: Duration,
        server: Ipv4Addr,
        source: Ipv6Addr,
        made: Option<Entry>,
        actions: &mut Vec<Action>,
    ) {
        let Some(peer) = self.peers.get_mut(&server) else {
            return;
        };
        let asks = peer.state == ServerState::Dead || made.is_none();
        let Some(entry) = made.or_else(|| peer.entries().next()) else {
            return;
        };
        if (asks && !peer.may_ask(now)) || !self.sources.may_probe(now, source) {
            return;
        }
        if !asks {
            // A question is not repeated but by the next packet.
            peer.sent_report(entry.client, now);
        }
        actions.push(self.report_request(now, server, entry));
    }

    /// The report of an entry that was just made.
    pub(super) fn report_request(&self, now: Duration, server: Ipv4Addr, entry: Entry) -> Action {
        let payload = report(&self.keys, now, server, &[entry]);
        Action::Request { server, payload }
    }

    pub(super) fn is_eligible(&self, port: MappedPort) -> bool {
        ports::is_eligible(port, self.config.handoff_port, &[self.control_port.0])
    }

    /// The number of ports for which [`Self::is_eligible`] holds.
    pub(super) fn ports_eligible(&self) -> usize {
        ports::count_eligible(self.config.handoff_port, &[self.control_port.0])
    }

    /// A port that no client has towards `server`: where it can be the one that this client has
    /// elsewhere (RFC 6146 section 3.5.1.1), else a random one that nobody has, or any that is
    /// free.
    fn choose_port(&mut self, server: Ipv4Addr, client: &Client) -> Option<MappedPort> {
        let elsewhere = self.told.holders().port_of(client);
        elsewhere
            .filter(|&port| self.is_free(server, Entry { port, client: *client }))
            .or_else(|| self.draw_port(server, client))
    }

    /// Whether that can be made an entry.
    fn is_free(&self, server: Ipv4Addr, entry: Entry) -> bool {
        self.is_eligible(entry.port)
            && self.client_of(server, entry.port).is_none()
            && !self.told.is_reserved(server, &entry)
    }

    fn draw_port(&mut self, server: Ipv4Addr, client: &Client) -> Option<MappedPort> {
        // Else each packet of a new client would search all ports to find that none is free.
        let taken = self.peers.get(&server).map_or(0, Peer::length);
        if taken >= self.ports_eligible() {
            return None;
        }
        let mut candidate = MappedPort(MAPPED_PORT_MIN);
        let mut held_elsewhere = None;
        for _ in 0..PORT_DRAWS {
            candidate = MappedPort(draw(&mut self.random, MAPPED_PORT_MIN));
            if self.is_free(server, Entry { port: candidate, client: *client }) {
                if self.told.holders().client_of(candidate).is_none() {
                    return Some(candidate);
                }
                held_elsewhere = held_elsewhere.or(Some(candidate));
            }
        }
        if held_elsewhere.is_some() {
            return held_elsewhere;
        }
        (candidate.0..=u16::MAX)
            .chain(MAPPED_PORT_MIN..candidate.0)
            .map(MappedPort)
            .find(|&port| self.is_free(server, Entry { port, client: *client }))
    }

    pub(super) fn try_service_packet(
        &mut self,
        now: Duration,
        octets: &[u8],
        actions: &mut Vec<Action>,
    ) -> Result<(), Ignored> {
        let view = whole_ipv4(octets)?;
        if view.destination() != self.config.address {
            return Err(Ignored::NotOurs);
        }
        let packet = Inbound::parse(view)?;
        if let Some((server, entry)) = self.entry_of_inbound(now, &packet) {
            actions.push(forward(server, entry, view.octets()));
            return Ok(());
        }
        self.try_request_for_inbound(now, &packet, actions)
    }

    /// `4, [5], IPv4`
    pub(super) fn try_request_for_inbound(
        &self,
        now: Duration,
        packet: &Inbound<'_>,
        actions: &mut Vec<Action>,
    ) -> Result<(), Ignored> {
        let server = match packet.kind {
            PacketKind::Error((about, _)) => about, // Repair 4.
            _ => packet.view.source(),
        };
        let mut payload = Vec::new();
        emit_token(&self.keys, now, server, &mut payload);
        payload.extend_from_slice(packet.view.octets());
        push_request(server, payload, actions)
    }
}

/// Whether a server in this state is asked about a client's packet for which there is no entry.
fn asks(state: ServerState, packet: &DataPacket<Client>) -> bool {
    match state {
        ServerState::Alive => true,
        // Repair 1: the server may know a connection that we do not.
        ServerState::Unknown => !packet.opens(),
        ServerState::Dead => false,
    }
}
