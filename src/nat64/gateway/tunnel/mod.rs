//! Clients' packets that no entry carries go to the server whole (PROTOCOL.md sections 3 and 10,
//! point 9): those about which it is asked, and those that translation refuses, for it to deliver.

mod back;
mod there;

use std::net::Ipv4Addr;
use std::time::Duration;

pub use back::{Delivered, Deliveries};

use super::pool::{Public, Which};
use super::{Gateway, GatewayOutbox, ServerChange, errors};
use crate::ip::address::extract;
use crate::ip::icmp::{IcmpError, v6};
use crate::ip::ipv6::Ipv6;
use crate::nat64::engine::{Ignored, Outbound, ServerState};
use crate::nat64::gateway::Done;
use crate::nat64::translate::{Inside, Ipv6Packet, Refusal, Refused};

impl Gateway {
    /// Forwards a client's packet by its entry, or asks the server.
    pub(super) fn outbound_by_entry(
        &mut self,
        now: Duration,
        which: Which,
        packet: &Ipv6Packet<'_>,
        out: &mut GatewayOutbox,
    ) {
        let outbound = Outbound::translatable(packet);
        let found = if self.sends_framed(now, which, &outbound, packet.view(), out) {
            Ok(None)
        } else {
            let mut actions = std::mem::take(&mut self.actions);
            let found = self.pool[which].nat64.outbound(now, &outbound, &mut actions);
            if let Ok(Some((server, entry))) = found {
                self.forward_outbound(now, self.pool.table(which, server), entry, packet, out);
            }
            self.carry_out(now, which, actions, out);
            self.after_outbound(now, which, found.err(), packet.view(), out);
            found
        };
        if let (Ok(None), Inside::Flow { flow, fragments: Some(key), .. }) =
            (found, packet.inside())
        {
            let table = self.pool.table(which, extract(flow.service));
            self.asked_notes.leave(now, table, key, super::client_of(flow));
            self.release(now, key, out);
        }
    }

    /// Sends a client's packet that translation refuses to a server that is known, and tells the
    /// client of all others. A server that does not deliver it says so itself.
    pub(super) fn untranslatable(
        &mut self,
        now: Duration,
        packet: &[u8],
        refused: Refused,
        out: &mut GatewayOutbox,
    ) {
        let whole = Ipv6::whole(packet).filter(|_| can_be_delivered(refused.reason));
        let Some(view) = whole else {
            return self.refuse_client(now, refused, packet, out);
        };
        let which = self.pool.of_client(now, view.source());
        self.offer_tunnel(now, which, view, out);
        let server = extract(view.destination());
        let state = match self.takes_whole(which, server) {
            true => ServerState::Alive,
            false => self.pool[which].nat64.state(server),
        };
        if state != ServerState::Alive {
            self.refuse_client(now, refused, packet, out);
        }
        // Whoever speaks such a protocol alone would never know whether there is a server.
        if state == ServerState::Unknown && refused.reason == Refusal::Protocol {
            self.send_whole(now, which, view, out);
        } else if state == ServerState::Alive {
            self.tunnel(now, which, view, out);
        }
    }

    /// Sends a client's packet to a server that is known, for it to deliver or to answer.
    pub(super) fn tunnel(
        &mut self,
        now: Duration,
        which: Which,
        view: Ipv6<'_>,
        out: &mut GatewayOutbox,
    ) {
        self.did(Done::Tunnelled);
        self.send_whole(now, which, view, out);
    }

    /// Whether a server takes packets that translation refuses: it is known by the control channel,
    /// or has taken a tunnel.
    pub(super) fn takes_whole(&self, which: Which, server: Ipv4Addr) -> bool {
        let Public { nat64, tunnels, .. } = &self.pool[which];
        nat64.state(server) == ServerState::Alive
            || tunnels.as_ref().is_some_and(|tunnels| tunnels.is_taken(server))
    }

    fn send_whole(&mut self, now: Duration, which: Which, view: Ipv6<'_>, out: &mut GatewayOutbox) {
        if self.sends_framed(now, which, &Outbound::untranslatable(view), view, out) {
            return;
        }
        let mut actions = std::mem::take(&mut self.actions);
        let nat64 = &mut self.pool[which].nat64;
        let found = nat64.outbound(now, &Outbound::untranslatable(view), &mut actions);
        self.carry_out(now, which, actions, out);
        self.after_outbound(now, which, found.err(), view, out);
    }

    /// What a client is told whose packet is too long for the tunnel.
    fn too_big(&self) -> Option<IcmpError> {
        let word = u32::from(self.pool.first().nat64.tunnel_mtu()?);
        Some(IcmpError { kind: v6::PACKET_TOO_BIG, code: 0, word })
    }

    /// Tells the client why its packet was ignored, where it should be told.
    pub(super) fn after_outbound(
        &mut self,
        now: Duration,
        which: Which,
        ignored: Option<Ignored>,
        view: Ipv6<'_>,
        out: &mut GatewayOutbox,
    ) {
        let error = match ignored {
            // RFC 6146 sections 3.5.1.1 and 3.5.2.2.
            Some(
                Ignored::NoPort
                | Ignored::ClientShare
                | Ignored::EntriesLimit
                | Ignored::ServersLimit,
            ) => Some(errors::NO_RESOURCES),
            Some(Ignored::TunnelTooBig) => self.too_big(),
            _ => None,
        };
        if let Some(error) = error {
            self.tell_client(now, error, view.octets(), out);
        }
        if let Some(server) = self.pool[which].nat64.take_silent() {
            out.notice(self.pool.table(which, server), ServerChange::Silent);
        }
    }
}

/// Whether a host that gets the packet whole may make something of it. The others have headers that
/// no router, and no server, passes on.
fn can_be_delivered(reason: Refusal) -> bool {
    matches!(
        reason,
        Refusal::Protocol
            | Refusal::IcmpType
            | Refusal::IcmpFragment
            | Refusal::FragmentedExtension
            | Refusal::QuotedTruncated
            | Refusal::QuotedFragment
            | Refusal::QuotedProtocol
    )
}
