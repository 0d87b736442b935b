//! Servers that deliver clients' packets on their own host (PROTOCOL.md section 10, point 9):
//! packets go there whole, and what comes back is from the service itself.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use subtle::ConstantTimeEq;

use super::packet::{Outbound, PacketKind};
use super::peer::Silence;
use super::requests::emit_token;
use super::{Action, Ignored, Nat64, ServerState};
use crate::handoff::entry::Client;
use crate::handoff::message::{IPV4_UDP_HEADERS, MESSAGE_HEADER};
use crate::ip::address::{Prefix96, extract, synthesize};
use crate::ip::fields::{IPV4_HEADER, UDP_HEADER, ports, protocol, put_u16, udp};
use crate::ip::ipv4;
use crate::ip::ipv6::Ipv6;
use crate::nat64::translate::IPV6_MTU_MIN;

/// UDP's discard port, which is never mapped: so no server has an entry for a packet to it, and
/// each returns it (PROTOCOL.md section 7).
const DISCARD: u16 = 9;
/// The time to live of a question. The server takes one away.
const QUESTION_TTL: u8 = 2;

/// The authenticator that was verified last: most packets have that of the one before.
#[derive(Debug, Default)]
pub(super) struct Verified {
    of: Option<(Ipv4Addr, Ipv6Addr)>,
    authenticator: Vec<u8>,
}

impl Verified {
    fn is(&self, server: Ipv4Addr, client: Ipv6Addr, authenticator: &[u8]) -> bool {
        self.of == Some((server, client)) && bool::from(self.authenticator.ct_eq(authenticator))
    }

    fn set(&mut self, server: Ipv4Addr, client: Ipv6Addr, authenticator: &[u8]) {
        self.of = Some((server, client));
        self.authenticator.clear();
        self.authenticator.extend_from_slice(authenticator);
    }
}

impl Nat64 {
    /// The longest packet of a client that fits in a request without fragments, at least 1280.
    /// `None` where no MTU of the path is configured.
    pub fn tunnel_mtu(&self) -> Option<u16> {
        let token = MESSAGE_HEADER + self.keys.token_length();
        let authenticator = MESSAGE_HEADER + self.keys.authenticator_length();
        let rotation = token;
        let before = IPV4_UDP_HEADERS + token + rotation + authenticator;
        let before = u16::try_from(before).unwrap_or(u16::MAX);
        Some(self.config.path_mtu?.saturating_sub(before).max(IPV6_MTU_MIN))
    }

    /// Whether `server` sent a packet of its own that no entry carries, so that it delivers what it
    /// is sent.
    pub fn delivers(&self, server: Ipv4Addr) -> bool {
        self.peers.get(&server).is_some_and(|peer| peer.delivers)
    }

    /// Whether a client's packet for which there is no entry may go to `server` as long as it is.
    pub(super) fn check_tunnel(
        &self,
        server: Ipv4Addr,
        packet: &Outbound<'_>,
    ) -> Result<(), Ignored> {
        let is_long =
            self.tunnel_mtu().is_some_and(|mtu| packet.view.octets().len() > usize::from(mtu));
        if is_long && self.state(server) == ServerState::Alive && self.delivers(server) {
            return Err(Ignored::TunnelTooBig);
        }
        Ok(())
    }

    /// Writes what stands before a client's packet of TCP or UDP in a request to a server that
    /// delivers it, or before each of its segments, of which `longest` is the longest. Returns
    /// whether it is one: it was found to be to one of the prefixes, there is no entry for it, and
    /// [`Self::outbound`] would do no more about it than that and carry out `actions`.
    ///
    /// # Errors
    /// A segment is longer than [`Self::tunnel_mtu`]. It is counted.
    pub fn tunnel(
        &mut self,
        now: Duration,
        packet: &Outbound<'_>,
        longest: usize,
        front: &mut Vec<u8>,
        actions: &mut Vec<Action>,
    ) -> Result<bool, Ignored> {
        let server = extract(packet.view.destination());
        let PacketKind::Data(data) = packet.kind else { return Ok(false) };
        let longest_allowed = self.tunnel_mtu().map_or(usize::MAX, usize::from);
        let peer = self.peers.get_mut(&server);
        let Some(peer) = peer.filter(|peer| peer.delivers && peer.state == ServerState::Alive)
        else {
            return Ok(false);
        };
        if data.fragment || peer.port_of(&data.key).is_some() {
            return Ok(false);
        }
        if longest > longest_allowed {
            self.count(Err(Ignored::TunnelTooBig));
            return Err(Ignored::TunnelTooBig);
        }
        match peer.silence(now) {
            Silence::None => {}
            Silence::Asks => actions.push(self.question(now, server)),
            Silence::Falls => {
                self.silent = Some(server);
                return Ok(false);
            }
        }
        front.clear();
        self.emit_front(now, server, packet, front);
        Ok(true)
    }

    /// An answer of authenticator and IPv6 packet, whole, from a server that is alive. It goes to
    /// the client as it is.
    ///
    /// # Errors
    /// As for [`Self::control_payload`]. It is counted.
    pub fn delivered(
        &mut self,
        server: Ipv4Addr,
        authenticator: &[u8],
        packet: Ipv6<'_>,
    ) -> Result<(), Ignored> {
        let outcome = self.check_delivered(server, authenticator, packet);
        match self.peers.get_mut(&server) {
            Some(peer) if outcome.is_ok() => peer.has_spoken(),
            _ => self.count(outcome),
        }
        outcome
    }

    /// The server replies to the client for the service, or the service itself does, to which the
    /// server delivered the client's packet. That is so where the packet needs an entry otherwise:
    /// echo replies and errors are what any server makes.
    pub(super) fn check_delivered(
        &mut self,
        server: Ipv4Addr,
        authenticator: &[u8],
        packet: Ipv6<'_>,
    ) -> Result<(), Ignored> {
        let client = packet.destination();
        if !self.verified.is(server, client, authenticator) {
            if !self.keys.is_authenticator(server, client, authenticator) {
                return Err(Ignored::BadAuthenticator);
            }
            self.verified.set(server, client, authenticator);
        }
        self.may_send(server, packet)?;
        if let Some(peer) = self.peers.get_mut(&server)
            && !peer.delivers
        {
            peer.delivers = packet.walk().is_ok_and(|walk| walk.protocol != protocol::ICMPV6);
        }
        Ok(())
    }

    /// Whether a server may send this packet to its client: it is of its own service.
    ///
    /// # Errors
    /// It may not.
    pub fn may_send(&self, server: Ipv4Addr, packet: Ipv6<'_>) -> Result<(), Ignored> {
        let prefix = Prefix96::of(packet.source());
        let may = self.config.prefixes.contains(&prefix)
            && packet.source() == synthesize(prefix, server)
            && Client::can_have(packet.destination());
        may.then_some(()).ok_or(Ignored::PacketMismatch)
    }

    /// Whether there is an entry for a client's packet, or for what its error is about.
    pub fn has_entry(&self, packet: &Outbound<'_>) -> bool {
        let client = match packet.kind {
            PacketKind::Data(data) => data.key,
            PacketKind::Error(client) => client,
            PacketKind::LaterFragment | PacketKind::Other => return false,
        };
        let peer = self.peers.get(&extract(packet.view.destination()));
        peer.is_some_and(|peer| peer.port_of(&client).is_some())
    }

    /// Whether a client may cause something to be sent to a host of which nothing was heard. If so,
    /// it does.
    pub fn may_probe(&mut self, now: Duration, client: Ipv6Addr) -> bool {
        self.sources.may_probe(now, client)
    }

    /// Whether a packet of a connection that the server may have delivered is not to get an entry
    /// of ours: that would end it. Asks the server whether it is back.
    pub(super) fn awaits(
        &mut self,
        now: Duration,
        server: Ipv4Addr,
        actions: &mut Vec<Action>,
    ) -> bool {
        let Some(peer) = self.peers.get_mut(&server).filter(|peer| peer.may_return(now)) else {
            return false;
        };
        if peer.may_ask(now) {
            actions.push(self.question(now, server));
        }
        true
    }

    /// `4, [5], IPv4`: a packet of the service for which there is no entry anywhere. A server that
    /// is there returns it.
    pub(super) fn question(&self, now: Duration, server: Ipv4Addr) -> Action {
        let mut datagram = [0; UDP_HEADER];
        put_u16(&mut datagram, ports::SOURCE, DISCARD);
        put_u16(&mut datagram, ports::DESTINATION, DISCARD);
        put_u16(&mut datagram, udp::LENGTH, UDP_HEADER as u16);
        let length = IPV4_HEADER + UDP_HEADER;
        let address = self.config.address;
        let header = ipv4::header(length, QUESTION_TTL, protocol::UDP, server, address);
        let mut payload = Vec::new();
        emit_token(&self.keys, now, server, &mut payload);
        payload.extend_from_slice(&header);
        payload.extend_from_slice(&datagram);
        Action::Request { server, payload }
    }
}
