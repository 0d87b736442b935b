//! Servers that deliver clients' packets on their own host (PROTOCOL.md section 10, point 9):
//! packets go there whole, and what comes back is from the service itself.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::packet::Outbound;
use super::requests::emit_token;
use super::{Action, Ignored, Nat64, ServerState};
use crate::handoff::message::{IPV4_UDP_HEADERS, MESSAGE_HEADER};
use crate::ip::fields::{IPV4_HEADER, UDP_HEADER, ports, protocol, put_u16, udp};
use crate::ip::ipv4;
use crate::ip::ipv6::Ipv6;
use crate::nat64::translate::IPV6_MTU_MIN;

/// UDP's discard port, which is never mapped: so no server has an entry for a packet to it, and
/// each returns it (PROTOCOL.md section 7).
const DISCARD: u16 = 9;
/// The time to live of a question. The server takes one away.
const QUESTION_TTL: u8 = 2;

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

    /// The server sent a client a packet that needs no entry. Echo replies and errors are what any
    /// server makes.
    pub(super) fn hear_of_delivery(&mut self, server: Ipv4Addr, packet: Ipv6<'_>) {
        if let Some(peer) = self.peers.get_mut(&server)
            && packet.walk().is_ok_and(|walk| walk.protocol != protocol::ICMPV6)
        {
            peer.delivers = true;
        }
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
