//! Client packets that are delivered on this host (PROTOCOL.md section 11): those of clients
//! without an entry, to ports of which [`HostDelivery`] says so.
//!
//! An entry comes first: where there is one, the NAT64 and this server go on as they did, and its
//! connection lives on. A new connection on an entry without a live one ends the entry.

use std::net::Ipv6Addr;
use std::sync::Arc;

use super::banned::show_alive;
use super::channel::Channel;
use super::exchange::{Effects, Exchange};
use super::{Server, Translated};
use crate::handoff::delivery::{DeliveredFlow, HostDelivery, LastFlow, Tunnel, Via};
use crate::handoff::entry::{Client, ControlPort};
use crate::handoff::message::{ClientPacket, Span};
use crate::handoff::stats::{Counter, DropReason};
use crate::handoff::table::{HashedClient, Slot};
use crate::ip::address::Prefix96;
use crate::ip::fields::{protocol, tcp};
use crate::ip::flow::{self, Class, Quoted};
use crate::ip::ipv6::{Ipv6, Walk};
use crate::ip::transport::Transport;

/// Where a NAT64's packets are delivered, it is told at least so often, in seconds, that the server
/// is alive: programs need not answer.
const TOLD_EVERY: u32 = 2;

impl Server {
    /// From now on client packets are delivered as `delivery` says.
    pub fn deliver(&mut self, delivery: Arc<HostDelivery>) {
        self.shared.delivery = Some(delivery);
    }
}

impl Channel {
    /// Delivers a TCP or UDP packet of `sender`, which is no fragment, if it is to be.
    #[inline(never)]
    pub(super) fn delivers(
        &mut self,
        sender: &HashedClient,
        token: Span,
        parts: ClientPacket,
        exchange: &mut Exchange<'_>,
    ) -> Result<bool, DropReason> {
        let Some(view) = Ipv6::new(exchange.datagram.octets(parts.packet)) else {
            return Ok(false);
        };
        let walk = view.walk()?;
        let slot = self.table.find_near(exchange.probable, sender);
        let delivery = exchange.effects.shared.delivery.as_deref();
        let going_on = || slot.is_none().then(|| goes_on(view, &walk, &exchange.effects)).flatten();
        let to_deliver = to_deliver(view, &walk, delivery)
            .filter(|(flow, translates)| may_deliver(view, &walk, flow, *translates, exchange));
        let Some((flow, translates)) = to_deliver.or_else(going_on) else {
            return Ok(false);
        };
        if let Some(slot) = slot
            && (!opens(view, &walk) || !self.is_free(slot, &mut exchange.effects))
        {
            return Ok(false);
        }
        if translates && !gives_address(&flow, &mut exchange.effects)? {
            return Ok(false);
        }
        if let Some(slot) = slot {
            self.free(slot, &mut exchange.effects);
        }
        self.deliver(flow, translates, token, parts, exchange).map(|()| true)
    }

    /// Delivers the first fragment of a TCP or UDP packet, whose client has no entry, if it is to
    /// be.
    pub(super) fn delivers_fragment(
        &mut self,
        client: &Client,
        token: Span,
        parts: ClientPacket,
        exchange: &mut Exchange<'_>,
    ) -> Result<bool, DropReason> {
        if self.table.find(client).is_some() {
            return Ok(false);
        }
        let view = Ipv6::new(exchange.datagram.octets(parts.packet));
        let view = view.ok_or(DropReason::PacketTruncated)?;
        let walk = view.walk()?;
        let delivery = exchange.effects.shared.delivery.as_deref();
        match to_deliver(view, &walk, delivery.filter(|delivery| !delivery.is_away())) {
            Some((flow, translates)) => {
                if translates && !gives_address(&flow, &mut exchange.effects)? {
                    return Ok(false);
                }
                self.deliver(flow, translates, token, parts, exchange).map(|()| true)
            }
            None => Ok(false),
        }
    }

    /// Delivers a later fragment, whose first one left no note, if its client has flows here: the
    /// host puts them together. Of a client that has flows that are translated, and others, it goes
    /// both ways: where the first one went not, it is thrown away.
    pub(super) fn deliver_later(
        &mut self,
        token: Span,
        parts: ClientPacket,
        exchange: &mut Exchange<'_>,
    ) -> Result<(), DropReason> {
        let flow = whole_flow(protocol::FRAGMENT, parts, exchange)?;
        let Effects { table, shared, .. } = &exchange.effects;
        let delivery = shared.delivery.as_ref().ok_or(DropReason::FragmentUnknown)?;
        let is_native = delivery.routes.has(&flow, *table);
        let is_translated = delivery.routes.has(&flow.translated(table.local), *table);
        if !is_native && !is_translated {
            return Err(DropReason::FragmentUnknown);
        }
        let translated = Translated { client: flow.client, table: *table };
        if is_native {
            delivery.check_service(flow.service)?;
            self.hand_over(None, token, parts, exchange)?;
        }
        if is_translated {
            self.hand_over(Some(translated), token, parts, exchange)?;
        }
        Ok(())
    }

    /// Delivers a ping, or a packet of another protocol, if it is to be.
    pub(super) fn delivers_other(
        &mut self,
        walk: &Walk,
        token: Span,
        parts: ClientPacket,
        exchange: &mut Exchange<'_>,
    ) -> Result<bool, DropReason> {
        let others = |delivery: &&Arc<HostDelivery>| {
            delivery.ports.others(walk.protocol) && !delivery.is_away()
        };
        let Some(delivery) = exchange.effects.shared.delivery.as_ref().filter(others) else {
            return Ok(false);
        };
        let translates = delivery.ports.translates_others();
        let flow = whole_flow(walk.protocol, parts, exchange)?;
        if translates && !gives_address(&flow, &mut exchange.effects)? {
            return Ok(false);
        }
        self.deliver(flow, translates, token, parts, exchange).map(|()| true)
    }

    /// Delivers an ICMPv6 error about a packet that this host sent, and that it quotes, to a client
    /// whose packets are delivered and who came by this NAT64, if there is one. Whoever sent the
    /// error is no client.
    pub(super) fn delivers_error(
        &mut self,
        quoted: &Quoted<Ipv6Addr>,
        token: Span,
        parts: ClientPacket,
        exchange: &mut Exchange<'_>,
    ) -> Result<bool, DropReason> {
        let flow = whole_flow(protocol::ICMPV6, parts, exchange)?;
        let (client, service_port) = (quoted.destination, quoted.source_port);
        let through = Prefix96::of(flow.service) == Prefix96::of(quoted.source);
        let quoted = DeliveredFlow { client, ..flow };
        let Effects { table, shared, .. } = &exchange.effects;
        let Some(delivery) = &shared.delivery else { return Ok(false) };
        let translated =
            delivery.ports.translates(service_port).then_some(Translated { client, table: *table });
        let known = if translated.is_some() { quoted.translated(table.local) } else { quoted };
        if !through || !delivery.routes.has(&known, *table) {
            return Ok(false);
        }
        if translated.is_none() {
            delivery.check_service(flow.service)?;
        }
        self.hand_over(translated, token, parts, exchange).map(|()| true)
    }

    /// Notes where the answers go, and hands the packet over to the host: as it is, or to be
    /// translated.
    fn deliver(
        &mut self,
        flow: DeliveredFlow,
        translates: bool,
        token: Span,
        parts: ClientPacket,
        exchange: &mut Exchange<'_>,
    ) -> Result<(), DropReason> {
        let Exchange { datagram, effects, .. } = &mut *exchange;
        let authenticator = datagram.octets(parts.authenticator);
        let tunnel = Tunnel::Control(ControlPort(datagram.port));
        let (table, client) = (effects.table, flow.client);
        let via = Via { table, tunnel, authenticator, service: flow.service };
        let translated = translates.then_some(Translated { client, table });
        if came(flow, translates, via, effects)? {
            self.learn_sender(parts, exchange);
        }
        self.hand_over(translated, token, parts, exchange)
    }

    /// Hands a packet for a service over to the host, and sees that the NAT64 knows that somebody
    /// is here.
    fn hand_over(
        &mut self,
        translated: Option<Translated>,
        token: Span,
        parts: ClientPacket,
        exchange: &mut Exchange<'_>,
    ) -> Result<(), DropReason> {
        let Exchange { datagram, effects, .. } = &mut *exchange;
        effects.shared.stats.add(Counter::Delivered, 1);
        effects.outbox.deliver(datagram.index, datagram.range(parts.packet), translated);
        let second = effects.batch.coarse.second;
        if second < self.told + TOLD_EVERY {
            return Ok(());
        }
        self.told = second;
        show_alive(token, exchange)
    }

    /// Whether the entry in `slot` may end for a new connection of its client: no other lives on
    /// it, and that can be recorded.
    pub(super) fn is_free(&self, slot: Slot, effects: &mut Effects<'_>) -> bool {
        let port = self.table.port(slot);
        let live = effects.live.of(effects.table).filter(|live| live.poll > 0);
        live.is_some_and(|live| !live.ports.contains(port)) && effects.batch.frozen.is_none()
    }

    /// Ends it.
    pub(super) fn free(&mut self, slot: Slot, effects: &mut Effects<'_>) {
        self.delete(effects, |table, changed| table.delete(slot, changed));
    }
}

/// A packet of `flow` came, and is to be delivered: notes where answers go. Returns whether that is
/// noted for the first time in this second.
pub(super) fn came(
    flow: DeliveredFlow,
    translates: bool,
    via: Via<'_>,
    effects: &mut Effects<'_>,
) -> Result<bool, DropReason> {
    let Effects { table, batch, shared, .. } = effects;
    let (second, client, service) = (batch.coarse.second, flow.client, flow.service);
    let flow = if translates { flow.translated(table.local) } else { flow };
    if shared.last_flow.as_ref().is_some_and(|last| last.is(&flow, via, second)) {
        return Ok(false);
    }
    let delivery = shared.delivery.as_ref().ok_or(DropReason::NothingAsked)?;
    if !translates {
        delivery.check_service(service)?;
    }
    check_client(client, service, delivery)?;
    delivery.routes.came(&flow, via, second)?;
    shared.last_flow = LastFlow::new(flow, via, second);
    Ok(true)
}

/// Whether the client of a flow that is to be translated has an address, or gets one now: see
/// [`Effects::gives_address`].
///
/// # Errors
/// Those of that, or that it can be no client.
pub(super) fn gives_address(
    flow: &DeliveredFlow,
    effects: &mut Effects<'_>,
) -> Result<bool, DropReason> {
    let delivery = effects.shared.delivery.as_deref().ok_or(DropReason::NothingAsked)?;
    check_client(flow.client, flow.service, delivery)?;
    effects.gives_address(flow.client)
}

fn check_client(
    client: Ipv6Addr,
    service: Ipv6Addr,
    delivery: &HostDelivery,
) -> Result<(), DropReason> {
    let is_one = delivery.can_be_client(client) && Prefix96::of(client) != Prefix96::of(service);
    is_one.then_some(()).ok_or(DropReason::ClientAddress)
}

/// Whether it is a segment that opens a connection.
pub(super) fn opens(view: Ipv6<'_>, walk: &Walk) -> bool {
    let flags = view.upper(walk).get(tcp::FLAGS).copied().unwrap_or(0);
    walk.protocol == protocol::TCP && flags & (tcp::SYN | tcp::ACK) == tcp::SYN
}

/// The flow of a TCP or UDP packet, if it is to be delivered where its client has no entry, and
/// whether it is translated.
fn to_deliver(
    view: Ipv6<'_>,
    walk: &Walk,
    delivery: Option<&HostDelivery>,
) -> Option<(DeliveredFlow, bool)> {
    let (ports, transport) = (&delivery?.ports, Transport::of(walk.protocol)?);
    let flow = flow_of(view, walk).filter(|flow| ports.has(transport, flow.service_port))?;
    Some((flow, ports.translates(flow.service_port)))
}

/// Whether a packet that is to be delivered is: where the device is gone, only if it is of a flow
/// that came by this NAT64 before.
fn may_deliver(
    view: Ipv6<'_>,
    walk: &Walk,
    flow: &DeliveredFlow,
    translates: bool,
    exchange: &Exchange<'_>,
) -> bool {
    let Effects { table, batch, shared, .. } = &exchange.effects;
    let Some(delivery) = shared.delivery.as_ref().filter(|delivery| delivery.is_away()) else {
        return true;
    };
    let known = if translates { flow.translated(table.local) } else { *flow };
    !opens(view, walk) && delivery.routes.goes_on(&known, *table, batch.coarse.second)
}

/// The flow of a segment that opens no connection, to a port that is not delivered to any more, if
/// it is one that came by this NAT64. It is not translated, as no port is that may be another's.
fn goes_on(view: Ipv6<'_>, walk: &Walk, effects: &Effects<'_>) -> Option<(DeliveredFlow, bool)> {
    let Effects { table, batch, shared, .. } = effects;
    let delivery = shared.delivery.as_ref().filter(|delivery| delivery.ports.follows())?;
    if walk.protocol != protocol::TCP || opens(view, walk) {
        return None;
    }
    let came = |flow: &DeliveredFlow| delivery.routes.goes_on(flow, *table, batch.coarse.second);
    flow_of(view, walk).filter(came).map(|flow| (flow, false))
}

/// The flow of a TCP or UDP packet.
pub(super) fn flow_of(view: Ipv6<'_>, walk: &Walk) -> Option<DeliveredFlow> {
    let Ok(Class::Ports { source_port, destination_port, .. }) = flow::classify_ipv6(view, walk)
    else {
        return None;
    };
    Some(DeliveredFlow {
        service: view.destination(),
        client: view.source(),
        protocol: walk.protocol,
        service_port: destination_port,
        client_port: source_port,
    })
}

/// The flow of all packets of a protocol between two addresses.
fn whole_flow(
    protocol: u8,
    parts: ClientPacket,
    exchange: &Exchange<'_>,
) -> Result<DeliveredFlow, DropReason> {
    let view = Ipv6::new(exchange.datagram.octets(parts.packet));
    let view = view.ok_or(DropReason::PacketTruncated)?;
    let (service, client) = (view.destination(), view.source());
    Ok(DeliveredFlow { service, client, protocol, service_port: 0, client_port: 0 })
}
