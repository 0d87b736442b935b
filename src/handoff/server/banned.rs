//! What is answered about banned clients (PROTOCOL.md section 7): something that shows that the
//! server is alive, and that gives the client no connection.
//!
//! Their entries stay as they are, so that the log is true and a ban that ends has broken nothing.
//! They count as not used, so that they are the first to go.

use std::net::Ipv6Addr;
use std::sync::Arc;

use super::Server;
use super::channel::Channel;
use super::exchange::{Effects, Exchange};
use crate::handoff::bans::Bans;
use crate::handoff::message::{self, ClientPacket, Span, message_type};
use crate::handoff::rate::ICMP_RATE_MAX;
use crate::handoff::stats::{Counter, DropReason};
use crate::handoff::table::Slot;
use crate::ip::fields::{IPV4_HEADER, protocol};
use crate::ip::icmp;
use crate::ip::ipv4;
use crate::ip::ipv6::Ipv6;

/// Of the ICMP messages that one NAT64 may be sent in a second, banned clients leave half to
/// others.
const PROHIBITED_RATE_MAX: u32 = ICMP_RATE_MAX / 2;

impl Server {
    /// From now on these are the bans, `None` being none. Returns those before.
    pub fn set_bans(&mut self, bans: Option<Arc<Bans>>) -> Option<Arc<Bans>> {
        std::mem::replace(&mut self.shared.bans, bans.filter(|bans| !bans.is_empty()))
    }

    /// The bans, if there are any.
    pub fn bans(&self) -> Option<&Bans> {
        self.shared.bans.as_deref()
    }
}

impl Effects<'_> {
    /// Whether the client at `address` is banned.
    #[inline(always)] // Mostly there are no bans.
    pub fn bans(&self, address: Ipv6Addr) -> bool {
        self.shared.bans.is_some() && self.bans_any(address)
    }

    #[inline(never)]
    fn bans_any(&self, address: Ipv6Addr) -> bool {
        self.shared.bans.as_ref().is_some_and(|bans| bans.has(address, self.now()))
    }
}

impl Channel {
    /// Whether the client of the entry in `slot` is banned.
    #[inline(always)] // As `Effects::bans`.
    pub(super) fn is_banned(&self, slot: Slot, effects: &Effects<'_>) -> bool {
        effects.shared.bans.is_some() && effects.bans_any(self.table.entry(slot).client.address)
    }

    /// Answers a packet of a banned client: by an ICMPv6 error, as far as there may be one, or else
    /// quietly.
    #[cold]
    pub(super) fn refuse(
        &mut self,
        token: Span,
        parts: ClientPacket,
        exchange: &mut Exchange<'_>,
    ) -> Result<(), DropReason> {
        let Exchange { datagram, known_since, effects, .. } = &mut *exchange;
        let about = Ipv6::new(datagram.octets(parts.packet)).ok_or(DropReason::PacketTruncated)?;
        let now = effects.now();
        let Ok(error) = icmp::prohibited(about) else { return quietly(token, exchange) };
        if !self.icmp_rate.take(now, PROHIBITED_RATE_MAX) {
            return quietly(token, exchange);
        }
        effects.shared.stats.add(Counter::Banned, 1);
        let authenticator = datagram.octets(parts.authenticator);
        effects.outbox.copy(datagram.index, datagram.source(), *known_since, |out| {
            message::emit(out, message_type::AUTHENTICATOR, authenticator);
            error.append_to(out);
            Ok(())
        })
    }
}

/// Answers a request about a banned client so that the NAT64 alone hears it.
#[cold]
pub fn quietly(token: Span, exchange: &mut Exchange<'_>) -> Result<(), DropReason> {
    exchange.effects.shared.stats.add(Counter::BannedQuietly, 1);
    show_alive(token, exchange)
}

/// Answers with an empty packet that ends at the NAT64: token and IPv4 packet, so that it knows
/// that the server is alive.
#[cold]
pub fn show_alive(token: Span, exchange: &mut Exchange<'_>) -> Result<(), DropReason> {
    let Exchange { datagram, known_since, effects, .. } = exchange;
    let (local, nat64) = (datagram.table.local, datagram.table.nat64);
    let empty = ipv4::header(IPV4_HEADER, 1, protocol::NO_NEXT_HEADER, local, nat64);
    let token = datagram.octets(token);
    effects.outbox.copy(datagram.index, datagram.source(), *known_since, |out| {
        message::emit(out, message_type::TOKEN, token);
        out.extend_from_slice(&empty);
        Ok(())
    })
}
