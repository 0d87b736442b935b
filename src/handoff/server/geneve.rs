//! Frames of Geneve (PROTOCOL.md section 12): offers of a tunnel are answered, and what a gateway
//! that has taken the answer sends by it is delivered on this host.
//!
//! Nothing is kept of an offer: the answer tells a link-layer address that only this server can
//! make, and whoever sends to that receives what is sent to its IPv4 address. From then on it is a
//! NAT64 like one of the control channel, with a place among as many.

use std::net::SocketAddrV4;
use std::ops::Range;

use super::admission::Admission;
use super::channel::Channel;
use super::channels::hash_of;
use super::delivered::{came, flow_of, gives_address, opens};
use super::exchange::{Effects, Exchange, Shared, Wanted, record};
use super::reply::AuthenticatorFrom;
use super::{Batch, Datagram, LiveConnections, Outbox, Server, Translated};
use crate::handoff::change::Change;
use crate::handoff::delivery::{DeliveredFlow, HostDelivery, LastFlow, LastTunnel, Tunnel, Via};
use crate::handoff::entry::{Client, ControlPort, TableKey};
use crate::handoff::message::Span;
use crate::handoff::rate::ICMP_RATE_MAX;
use crate::handoff::stats::{Counter, DropReason};
use crate::ip::address::Prefix96;
use crate::ip::fields::protocol;
use crate::ip::flow::{self, Class};
use crate::ip::geneve::{Frame, FrameRefusal, GENEVE_PORT, LinkAddress, PLAIN_FRONT, plain_front};
use crate::ip::icmp;
use crate::ip::ipv6::Ipv6;
use crate::ip::neighbor::{
    Advertisement, NEIGHBOR_PACKET_MAX, NeighborMalformed, SOLICITATION, Solicitation, kind_of,
};

impl From<FrameRefusal> for DropReason {
    fn from(refusal: FrameRefusal) -> Self {
        match refusal {
            FrameRefusal::Truncated => DropReason::FrameTruncated,
            FrameRefusal::NotUnderstood => DropReason::FrameNotUnderstood,
            FrameRefusal::NotIpv6 => DropReason::FrameNotIpv6,
        }
    }
}

impl From<NeighborMalformed> for DropReason {
    fn from(_: NeighborMalformed) -> Self {
        DropReason::OfferMalformed
    }
}

impl Server {
    /// Takes a datagram that came to the port of Geneve: leaves in `outbox` what is delivered, or
    /// an answer, or counts why there is neither.
    pub fn handle_frame(
        &mut self,
        batch: &Batch,
        live: &mut dyn LiveConnections,
        datagram: Datagram<'_>,
        outbox: &mut Outbox,
    ) {
        let Self { admission, shared, .. } = self;
        shared.stats.add(Counter::Datagrams, 1);
        let effects = Effects { table: datagram.table, batch, live, outbox, shared };
        let (wanted, probable, known_since) = (&Wanted::Nothing, None, 0);
        let mut exchange = Exchange { datagram, wanted, probable, known_since, effects };
        if let Err(reason) = admission.receive_frame(&mut exchange) {
            exchange.effects.shared.stats.count_drop(reason);
        }
    }
}

impl Admission {
    fn receive_frame(&mut self, exchange: &mut Exchange<'_>) -> Result<(), DropReason> {
        let Exchange { datagram, effects, .. } = &mut *exchange;
        if !self.config.access.permits(datagram.table.nat64) {
            return Err(DropReason::NotAllowed);
        }
        let frame = Frame::parse(datagram.payload())?;
        let (vni, link, to) = (frame.vni, frame.from, frame.to);
        let (table, second) = (effects.table, effects.batch.coarse.second);
        let last = LastTunnel { table, front: plain_front(vni, to, link), second };
        let packet = datagram.payload.start + frame.packet_at..datagram.payload.end;
        let is_offer = frame.message.is_some();
        if effects.shared.last_tunnel != Some(last) {
            let geneve = geneve_of(effects.shared.delivery.as_deref())?;
            if !geneve.is_proof(table, vni, to) {
                let own = geneve.own_link(table, vni);
                let may_offer = is_offer && to.is_group() && !link.is_group();
                may_offer.then_some(()).ok_or(DropReason::FrameUnproved)?;
                return self.answer_offer(plain_front(vni, link, own), own, packet, exchange);
            }
            self.admit_gateway(effects)?;
            let geneve = geneve_of(effects.shared.delivery.as_deref())?;
            geneve.came(table, vni, link, second);
            effects.shared.last_tunnel = Some(last);
        }
        let view = Ipv6::whole(&datagram.buffer[packet.clone()]);
        let view = view.ok_or(DropReason::PacketTruncated)?;
        if kind_of(view) == Some(SOLICITATION) {
            // It asks whether we are there still.
            return self.answer_offer(plain_front(vni, link, to), to, packet, exchange);
        }
        let length = view.octets().len();
        self.take_packet(plain_front(vni, link, to), packet.start..packet.start + length, exchange)
    }

    /// A gateway proved itself: it is a NAT64 of this server, if there is room.
    fn admit_gateway(&mut self, effects: &mut Effects<'_>) -> Result<(), DropReason> {
        let (now, table, second) = (effects.now(), effects.table, effects.batch.coarse.second);
        let hash = hash_of(&effects.shared.hash, table);
        if let Some(channel) = self.channels.find_mut(None, hash, table) {
            channel.framed = second;
            return Ok(());
        }
        if let Some(reason) = effects.batch.frozen {
            return Err(reason);
        }
        if self.tending.is_going(table) {
            return Err(DropReason::Nat64sLimit);
        }
        let Shared { budget, stats, hash, .. } = &*effects.shared;
        let (limits, handoff_port) = (self.config.limits, self.config.handoff_port);
        let make = || -> Result<_, DropReason> {
            budget.admit(now, table.nat64, || effects.live.any(table) == Some(true))?;
            record(stats, effects.outbox, table, Change::Initialized);
            Ok(Channel::new(limits, handoff_port, *hash).made_at(now))
        };
        self.channels.find_or_insert(hash, table, make)?.framed = second;
        Ok(())
    }

    /// Answers a solicitation with an advertisement of `own` behind `front`, written over it: it is
    /// never longer.
    fn answer_offer(
        &mut self,
        front: [u8; PLAIN_FRONT],
        own: LinkAddress,
        packet: Range<usize>,
        exchange: &mut Exchange<'_>,
    ) -> Result<(), DropReason> {
        let Exchange { datagram, effects, .. } = exchange;
        let view = Ipv6::whole(&datagram.buffer[packet]).ok_or(DropReason::PacketTruncated)?;
        if kind_of(view) != Some(SOLICITATION) {
            return Err(DropReason::FrameUnproved);
        }
        let asked = Solicitation::parse(view)?;
        if asked.from.is_unspecified() || asked.from.is_multicast() {
            return Err(DropReason::OfferMalformed);
        }
        let table = effects.table;
        let delivery = effects.shared.delivery.as_deref().ok_or(DropReason::NothingAsked)?;
        delivery.check_service(asked.target)?;
        let room = datagram.payload.len().saturating_sub(PLAIN_FRONT);
        // Who asked the address itself need not be told the other.
        let link = (asked.to.is_multicast() || room >= NEIGHBOR_PACKET_MAX).then_some(own);
        let (from, to, target) = (asked.target, asked.from, asked.target);
        let told = Advertisement { from, to, target, link, solicited: true };
        let mut answer = [0; NEIGHBOR_PACKET_MAX];
        let length = told.emit(&mut answer);
        if length > room {
            return Err(DropReason::OfferShort);
        }
        let hash = hash_of(&effects.shared.hash, table);
        let known = self.channels.find(hash, table).is_some();
        let (now, port) = (effects.now(), ControlPort(GENEVE_PORT));
        let random = &mut effects.shared.random;
        self.validation.take(now, known, table, port, &front, random)?;
        effects.shared.stats.add(Counter::OffersAnswered, 1);
        let start = datagram.payload.start;
        let place = start..start + PLAIN_FRONT + length;
        let (first, second) = datagram.buffer[place.clone()].split_at_mut(PLAIN_FRONT);
        first.copy_from_slice(&front);
        second.copy_from_slice(&answer[..length]);
        let to = SocketAddrV4::new(table.nat64, GENEVE_PORT);
        effects.outbox.in_place(datagram.index, to, 0, place);
        Ok(())
    }

    /// Delivers a whole packet, if it is one for a service. `front` leads back.
    fn take_packet(
        &mut self,
        front: [u8; PLAIN_FRONT],
        packet: Range<usize>,
        exchange: &mut Exchange<'_>,
    ) -> Result<(), DropReason> {
        let Exchange { datagram, effects, .. } = exchange;
        let view = Ipv6::new(&datagram.buffer[packet.clone()]);
        let view = view.ok_or(DropReason::PacketTruncated)?;
        if !Client::can_have(view.source()) {
            return Err(DropReason::ClientAddress);
        }
        let walk = view.walk()?;
        let class = flow::classify_ipv6(view, &walk)?;
        if !matches!(class, Class::Error(_)) && effects.bans(view.source()) {
            return self.refuse_banned(front, view, datagram.index, effects);
        }
        let delivery = effects.shared.delivery.as_deref().ok_or(DropReason::NothingAsked)?;
        let (table, client) = (effects.table, view.source());
        let translated = Translated { client, table };
        let whole = whole_flow(view, walk.protocol);
        let (flow, translates) = match class {
            Class::Ports { destination_port, .. } => {
                let flow = flow_of(view, &walk).ok_or(DropReason::HeaderTruncated)?;
                (flow, delivery.ports.translates(destination_port))
            }
            Class::Icmp(Some(kind)) if icmp::v6::is_echo(kind) => {
                (whole, delivery.ports.translates_others())
            }
            Class::Other => (whole, false),
            Class::Icmp(_) => return Err(DropReason::IcmpIgnored),
            Class::Later(_) => {
                let flow = whole_flow(view, protocol::FRAGMENT);
                let [native, other] = known_ways(delivery, flow, table)?;
                if native {
                    hand_over(effects, datagram.index, packet.clone(), None);
                }
                if other {
                    hand_over(effects, datagram.index, packet, Some(translated));
                }
                return Ok(());
            }
            Class::Error(quoted) => {
                let translated = error_way(delivery, whole, quoted, table)?;
                hand_over(effects, datagram.index, packet, translated);
                return Ok(());
            }
        };
        let (tunnel, authenticator) = (Tunnel::Geneve, &[][..]);
        let via = Via { table, tunnel, authenticator, service: flow.service };
        let second = effects.batch.coarse.second;
        let known = if translates { flow.translated(table.local) } else { flow };
        let is_last = |last: &LastFlow| last.is(&known, via, second);
        if !effects.shared.last_flow.as_ref().is_some_and(is_last) {
            if flow.client_port != 0 && walk.fragment.is_none() {
                let opens = opens(view, &walk);
                if self.answers_by_entry(&flow, opens, packet.clone(), exchange) {
                    return Ok(());
                }
            }
            wants_address(&flow, translates, &mut exchange.effects)?;
            came(flow, translates, via, &mut exchange.effects)?;
        }
        let Exchange { datagram, effects, .. } = exchange;
        let translated = translates.then_some(translated);
        hand_over(effects, datagram.index, packet, translated);
        Ok(())
    }

    /// Answers a packet whose client has an entry from the table, by the control channel: its
    /// connection lives on. A new connection on an entry without a live one ends the entry. Returns
    /// whether there is an answer.
    #[inline(never)]
    fn answers_by_entry(
        &mut self,
        flow: &DeliveredFlow,
        opens: bool,
        packet: Range<usize>,
        exchange: &mut Exchange<'_>,
    ) -> bool {
        let hash = hash_of(&exchange.effects.shared.hash, exchange.effects.table);
        let channel = self.channels.find_mut(None, hash, exchange.effects.table);
        let Some(channel) = channel.filter(|channel| !channel.table().is_empty()) else {
            return false;
        };
        let prefix = Prefix96::of(flow.service);
        let client = Client { prefix, address: flow.client, port: flow.client_port };
        let (Some(slot), Some(port)) = (channel.table().find(&client), channel.control_port())
        else {
            return false;
        };
        if opens && channel.is_free(slot, &mut exchange.effects) {
            channel.free(slot, &mut exchange.effects);
            return false;
        }
        channel.touch(slot, &mut exchange.effects);
        let datagram = &mut exchange.datagram;
        let start = packet.start - datagram.payload.start;
        // It leaves by another socket than it came by, so it is written elsewhere.
        (datagram.port, datagram.room) = (port.0, packet.start);
        let packet = Span::new(start, packet.len());
        channel.answer(slot, AuthenticatorFrom::Table, packet, exchange);
        true
    }

    /// Answers a packet of a banned client by an ICMPv6 error, as far as there may be one.
    #[cold]
    fn refuse_banned(
        &mut self,
        front: [u8; PLAIN_FRONT],
        about: Ipv6<'_>,
        index: usize,
        effects: &mut Effects<'_>,
    ) -> Result<(), DropReason> {
        let table = effects.table;
        let hash = hash_of(&effects.shared.hash, table);
        let error = icmp::prohibited(about)?;
        let now = effects.now();
        let channel = self.channels.find_mut(None, hash, table).ok_or(DropReason::Nat64sLimit)?;
        if !channel.icmp_rate.take(now, ICMP_RATE_MAX / 2) {
            return Err(DropReason::IcmpRate);
        }
        effects.shared.stats.add(Counter::Banned, 1);
        let to = SocketAddrV4::new(table.nat64, GENEVE_PORT);
        effects.outbox.copy(index, to, 0, |out| {
            out.extend_from_slice(&front);
            error.append_to(out);
            Ok(())
        })
    }
}

/// Where a packet is to be translated, its client is to have an address: there is no entry to fall
/// back to.
fn wants_address(
    flow: &DeliveredFlow,
    translates: bool,
    effects: &mut Effects<'_>,
) -> Result<(), DropReason> {
    let has = !translates || gives_address(flow, effects)?;
    has.then_some(()).ok_or(DropReason::ClientUnnamed)
}

fn geneve_of(
    delivery: Option<&HostDelivery>,
) -> Result<&crate::handoff::delivery::GeneveGateways, DropReason> {
    delivery.and_then(|delivery| delivery.geneve.as_ref()).ok_or(DropReason::NothingAsked)
}

/// The flow of all packets of a protocol between the ends of this one.
fn whole_flow(view: Ipv6<'_>, protocol: u8) -> DeliveredFlow {
    let (service, client) = (view.destination(), view.source());
    DeliveredFlow { service, client, protocol, service_port: 0, client_port: 0 }
}

/// Whether a later fragment goes to the host as it is, and whether it is translated: as flows of
/// its client do.
fn known_ways(
    delivery: &HostDelivery,
    flow: DeliveredFlow,
    table: TableKey,
) -> Result<[bool; 2], DropReason> {
    let native = delivery.routes.has(&flow, table) && delivery.is_service(flow.service);
    let translated = delivery.routes.has(&flow.translated(table.local), table);
    (native || translated).then_some([native, translated]).ok_or(DropReason::FragmentUnknown)
}

/// How an error about a packet of this host goes to it, where the client that the packet was for
/// came by this NAT64. Whoever sent the error is no client.
fn error_way(
    delivery: &HostDelivery,
    whole: DeliveredFlow,
    quoted: &[u8],
    table: TableKey,
) -> Result<Option<Translated>, DropReason> {
    let (client, from, port) = match flow::quoted_ipv6(quoted) {
        Ok(quoted) => (quoted.destination, quoted.source, quoted.source_port),
        Err(_) => {
            let about = Ipv6::new(quoted).ok_or(DropReason::IcmpErrorUnmatched)?;
            (about.destination(), about.source(), 0)
        }
    };
    let is_translated = delivery.ports.translates(port);
    let of_client = DeliveredFlow { client, ..whole };
    let known = if is_translated { of_client.translated(table.local) } else { of_client };
    let through = Prefix96::of(whole.service) == Prefix96::of(from);
    if !through || !delivery.routes.has(&known, table) {
        return Err(DropReason::IcmpErrorUnmatched);
    }
    if !is_translated {
        delivery.check_service(whole.service)?;
    }
    Ok(is_translated.then_some(Translated { client, table }))
}

fn hand_over(
    effects: &mut Effects<'_>,
    index: usize,
    packet: Range<usize>,
    translated: Option<Translated>,
) {
    effects.shared.stats.add(Counter::Delivered, 1);
    effects.outbox.deliver(index, packet, translated);
}
