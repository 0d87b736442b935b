//! What a NAT64 does with a server's payloads (PROTOCOL.md section 4; repairs 2 and 3 of section
//! 10).
//!
//! Nothing is believed before its token or authenticator is verified.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use super::packet::{Inbound, Outbound, PacketKind, whole_ipv4, whole_ipv6};
use super::peer::Contradicted;
use super::reply::{Packet, ServerReply};
use super::requests::{divide, send_reports};
use super::{Action, ENTRIES_MAX, Ignored, Nat64, ServerState, forward, peer_of};
use crate::handoff::entry::{Client, Entry};
use crate::handoff::ports;
use crate::ip::address::synthesize;
use crate::ip::ipv4::Ipv4;

impl Nat64 {
    pub(super) fn try_control_payload(
        &mut self,
        now: Duration,
        from: SocketAddrV4,
        payload: &[u8],
        actions: &mut Vec<Action>,
    ) -> Result<(), Ignored> {
        if from.port() != self.config.handoff_port {
            return Err(Ignored::NotHandoffPort);
        }
        let server = *from.ip();
        let reply = ServerReply::parse(payload)?;
        if let Some(token) = reply.token
            && !self.keys.is_token(now, server, token)
        {
            return Err(Ignored::BadToken);
        }
        let answered = match (reply.authenticator, reply.entry, reply.packet) {
            (Some(authenticator), Some(entry), packet) => {
                self.check_entry(server, authenticator, entry)?;
                let delivery = packet.map(|packet| self.delivery(server, entry, packet));
                self.answer(now, server, entry, delivery.transpose()?, actions)?;
                // Where it contradicts ours, the server may never have heard of ours.
                let is_ours = self.port_of(server, &entry.client) == Some(entry.port);
                is_ours.then_some(entry.client)
            }
            (Some(authenticator), None, Some(Packet::Ipv6(packet))) => {
                let view = whole_ipv6(packet)?;
                self.check_delivered(server, authenticator, view)?;
                actions.push(deliver(view.octets()));
                None
            }
            (_, None, Some(Packet::Ipv4(packet))) if reply.token.is_some() => {
                let returned = self.returned(now, server, whole_ipv4(packet)?, actions);
                // The token says that it is the server, whatever the packet is: behind a 1:1 NAT it
                // knows this NAT64 by another address.
                returned.or_else(|why| self.now_alive(now, server, None, actions).and(Err(why)))?;
                None
            }
            _ => return Err(Ignored::Shape),
        };
        self.now_alive(now, server, answered, actions)
    }

    fn check_entry(
        &self,
        server: Ipv4Addr,
        authenticator: &[u8],
        entry: Entry,
    ) -> Result<(), Ignored> {
        let Entry { port, client } = entry;
        if !self.keys.is_authenticator(server, client.address, authenticator) {
            return Err(Ignored::BadAuthenticator);
        }
        let is_ours = self.config.prefixes.contains(&client.prefix)
            && Client::can_have(client.address)
            && client.port != 0;
        // The server does not know our control port where a NAT gives it another one on the way: it
        // may map it, and that is no reason to leave the client without an answer.
        let can_be_mapped = ports::is_eligible(port, self.config.handoff_port, &[]);
        (is_ours && can_be_mapped).then_some(()).ok_or(Ignored::BadEntry)
    }

    /// Where to send a packet that came with `entry`, if it belongs to that entry and that server.
    fn delivery<'a>(
        &self,
        server: Ipv4Addr,
        entry: Entry,
        packet: Packet<'a>,
    ) -> Result<Delivery<'a>, Ignored> {
        match packet {
            Packet::Ipv6(octets) => {
                let view = whole_ipv6(octets)?;
                let service = synthesize(entry.client.prefix, server);
                if view.source() == service && view.destination() == entry.client.address {
                    return Ok(Delivery::AsItIs(octets));
                }
                let packet = Outbound::parse(view)
                    .ok()
                    .filter(|packet| view.destination() == service && packet.is_of(entry.client));
                packet.map(Delivery::ToService).ok_or(Ignored::PacketMismatch)
            }
            Packet::Ipv4(octets) => {
                let view = whole_ipv4(octets)?;
                let address = self.config.address;
                if view.source() == address && view.destination() == server {
                    return Ok(Delivery::AsItIs(octets));
                }
                let packet = Inbound::parse(view)
                    .ok()
                    .filter(|packet| view.destination() == address && packet.is_to(entry.port));
                packet.map(Delivery::ToClient).ok_or(Ignored::PacketMismatch)
            }
        }
    }

    /// An answer of authenticator and entry, with or without a packet.
    fn answer(
        &mut self,
        now: Duration,
        server: Ipv4Addr,
        entry: Entry,
        delivery: Option<Delivery<'_>>,
        actions: &mut Vec<Action>,
    ) -> Result<(), Ignored> {
        let usage = match &delivery {
            Some(Delivery::ToService(packet)) => packet.kind.usage(),
            Some(Delivery::ToClient(packet)) => packet.kind.usage(),
            Some(Delivery::AsItIs(_)) | None => None,
        };
        let peer = peer_of(&mut self.peers, server)?;
        if self.entries_held >= ENTRIES_MAX && peer.port_of(&entry.client).is_none() {
            return Err(Ignored::EntriesLimit);
        }
        let before = peer.length();
        let was_own = peer.is_own(&entry);
        let learned = if self.told.is_reserved(server, &entry) {
            Err(Contradicted)
        } else {
            peer.learn(entry, delivery.is_some(), now, usage, self.control_port)
        };
        if was_own {
            self.told.reserve(server, entry);
        }
        self.told.hear(server, peer);
        self.entries_held = self.entries_held + peer.length() - before;
        // Differs from the answer's where that contradicts an entry of our own, or is none where
        // the answer's is our control port.
        let in_use = peer.port_of(&entry.client);
        if learned.is_err() {
            self.count(Err(Ignored::Contradicted));
        }
        match delivery {
            Some(Delivery::AsItIs(octets)) => actions.push(deliver(octets)),
            Some(Delivery::ToService(packet)) => match in_use {
                Some(port) => {
                    let entry = Entry { port, ..entry };
                    actions.push(forward(server, entry, packet.view.octets()));
                }
                None => self.other_port(now, server, &packet, actions)?,
            },
            Some(Delivery::ToClient(packet)) if learned.is_ok() => {
                actions.push(forward(server, entry, packet.view.octets()));
            }
            Some(Delivery::ToClient(_)) | None => {}
        }
        Ok(())
    }

    /// Another client uses the port that the server has for this one, or we do. A new connection
    /// gets another port rather than none; the report of it tells the server whose that is.
    fn other_port(
        &mut self,
        now: Duration,
        server: Ipv4Addr,
        packet: &Outbound<'_>,
        actions: &mut Vec<Action>,
    ) -> Result<(), Ignored> {
        if let PacketKind::Data(data) = packet.kind
            && data.opens()
        {
            let entry = self.own_entry(now, server, &data)?;
            actions.push(forward(server, entry, packet.view.octets()));
            actions.push(self.report_request(now, server, entry));
        }
        Ok(())
    }

    /// An answer of token and IPv4 packet: the server has no entry for a packet that we sent it, or
    /// has translated one.
    fn returned(
        &mut self,
        now: Duration,
        server: Ipv4Addr,
        packet: Ipv4<'_>,
        actions: &mut Vec<Action>,
    ) -> Result<(), Ignored> {
        // A translated packet in our name must be one to the server itself.
        if packet.source() == self.config.address && packet.destination() == server {
            actions.push(deliver(packet.octets()));
            return Ok(());
        }
        if packet.destination() != self.config.address {
            return Err(Ignored::PacketMismatch);
        }
        if let Ok(Inbound { kind: PacketKind::Data(data), .. }) = Inbound::parse(packet)
            && let (_, port) = data.key
            && let Some(peer) = self.peers.get_mut(&server)
            && let Some(client) = peer.client_of(port)
        {
            peer.touch(&client, now, data.usage);
            actions.push(forward(server, Entry { port, client }, packet.octets()));
            return Ok(());
        }
        let packet = packet.octets().to_vec();
        actions.push(Action::Unmapped { server, packet });
        Ok(())
    }

    /// The server answered. If it was not alive before, all entries are reported to it (section 10,
    /// repair 2) except that of `answered`, which this very answer named as it is.
    fn now_alive(
        &mut self,
        now: Duration,
        server: Ipv4Addr,
        answered: Option<Client>,
        actions: &mut Vec<Action>,
    ) -> Result<(), Ignored> {
        let peer = peer_of(&mut self.peers, server)?;
        peer.has_spoken();
        if peer.state == ServerState::Alive {
            return Ok(());
        }
        peer.state = ServerState::Alive;
        peer.has_answered = true;
        let reports = {
            let others = peer.entries().filter(|entry| Some(entry.client) != answered);
            divide(&self.keys, now, server, others)
        };
        peer.report_all(now, reports);
        send_reports(&self.keys, now, server, peer, actions);
        Ok(())
    }
}

/// Where a packet that came with an entry is sent.
enum Delivery<'a> {
    /// To where it says, untranslated.
    AsItIs(&'a [u8]),
    /// To the service, after translation.
    ToService(Outbound<'a>),
    /// To the client, after translation.
    ToClient(Inbound<'a>),
}

fn deliver(packet: &[u8]) -> Action {
    let packet = packet.to_vec();
    Action::Deliver { packet }
}
