//! Client packets: IPv6, from a client to the service (PROTOCOL.md section 7).

use std::net::Ipv6Addr;

use super::banned::quietly;
use super::channel::Channel;
use super::exchange::{Exchange, Wanted};
use super::reply::AuthenticatorFrom;
use crate::handoff::entry::{Client, MappedPort};
use crate::handoff::message::{self, ClientPacket, Span, message_type};
use crate::handoff::stats::DropReason;
use crate::handoff::table::{HashedClient, Slot};
use crate::ip::address::Prefix96;
use crate::ip::flow::{self, Class, Quoted};
use crate::ip::icmp;
use crate::ip::ipv6::{Ipv6, Walk};

impl Channel {
    /// Answers a client packet. The first pass over the batch has mostly found out who sent it.
    #[inline]
    pub(super) fn client_packet(
        &mut self,
        token: Span,
        parts: ClientPacket,
        exchange: &mut Exchange<'_>,
    ) -> Result<(), DropReason> {
        match exchange.wanted.sender() {
            Some(sender) => {
                if exchange.effects.bans(sender.client.address) {
                    return self.refuse(token, parts, exchange);
                }
                if matches!(exchange.wanted, Wanted::Delivered(_))
                    && self.delivers(sender, token, parts, exchange)?
                {
                    return Ok(());
                }
                let slot = self.sender(sender, parts.hint, exchange)?;
                self.answer_client(slot, parts, exchange)
            }
            None => self.other_client_packet(token, parts, exchange),
        }
    }

    /// Answers a client packet of which the first pass could not tell who sent it.
    #[inline(never)]
    fn other_client_packet(
        &mut self,
        token: Span,
        parts: ClientPacket,
        exchange: &mut Exchange<'_>,
    ) -> Result<(), DropReason> {
        let view =
            Ipv6::new(exchange.datagram.octets(parts.packet)).ok_or(DropReason::PacketTruncated)?;
        if !Client::can_have(view.source()) {
            return Err(DropReason::ClientAddress);
        }
        let walk = view.walk()?;
        let class = flow::classify_ipv6(view, &walk)?;
        // An error is about the client that it quotes, whoever sends it.
        if !matches!(class, Class::Error(_)) && exchange.effects.bans(view.source()) {
            return self.refuse(token, parts, exchange);
        }
        match class {
            Class::Later(fragment) => {
                let client = exchange.effects.noted(view.fragment_key(fragment));
                let slot = client.and_then(|client| self.table.find(&client));
                let Some(slot) = slot else {
                    return self.deliver_later(token, parts, exchange);
                };
                self.touch(slot, &mut exchange.effects);
                self.answer_client(slot, parts, exchange)
            }
            Class::Ports { source_port: port, .. } => {
                if port == 0 {
                    // No entry has port 0: a report of one would be refused, too.
                    return Err(DropReason::EntryInvalid);
                }
                let client =
                    Client { prefix: view.destination_prefix(), address: view.source(), port };
                let first = walk.fragment.filter(|fragment| fragment.more);
                let note = first.map(|fragment| view.fragment_key(fragment));
                if exchange.effects.shared.delivery.is_some()
                    && self.delivers_fragment(&client, token, parts, exchange)?
                {
                    return Ok(());
                }
                let slot = self.sender(&self.table.hashed(client), parts.hint, exchange)?;
                if let Some(note) = note {
                    exchange.effects.leave_note(note, client);
                }
                self.answer_client(slot, parts, exchange)
            }
            Class::Error(quoted) => {
                let quoted = flow::quoted_ipv6(quoted);
                let quoted = quoted.map_err(|_| DropReason::IcmpErrorUnmatched)?;
                self.client_error(token, parts, &quoted, exchange)
            }
            Class::Icmp(kind) => {
                let kind = kind.ok_or(DropReason::HeaderTruncated)?;
                self.icmp(kind, &walk, token, parts, exchange)
            }
            Class::Other => {
                if self.delivers_other(&walk, token, parts, exchange)? {
                    return Ok(());
                }
                self.learn_sender(parts, exchange);
                self.unrecognized(parts, &walk, exchange)
            }
        }
    }

    /// Answers an ICMPv6 message that is no error.
    fn icmp(
        &mut self,
        kind: u8,
        walk: &Walk,
        token: Span,
        parts: ClientPacket,
        exchange: &mut Exchange<'_>,
    ) -> Result<(), DropReason> {
        if icmp::v6::is_echo(kind) && self.delivers_other(walk, token, parts, exchange)? {
            return Ok(());
        }
        if kind != icmp::v6::ECHO_REQUEST {
            return Err(DropReason::IcmpIgnored);
        }
        if walk.fragment.is_some() {
            return Err(DropReason::IcmpFragment);
        }
        self.learn_sender(parts, exchange);
        self.echo(parts, walk, exchange)
    }

    /// Finds or creates the entry of whoever sent a packet.
    #[inline(always)] // As `Channel::touch`.
    fn sender(
        &mut self,
        sender: &HashedClient,
        hint: Option<MappedPort>,
        exchange: &mut Exchange<'_>,
    ) -> Result<Slot, DropReason> {
        match self.table.find_near(exchange.probable, sender) {
            Some(slot) => {
                self.touch(slot, &mut exchange.effects);
                Ok(slot)
            }
            None => self.create(*sender, hint, &mut exchange.effects),
        }
    }

    /// Answers a client packet that belongs to the entry in `slot`.
    #[inline(always)] // As `Channel::touch`.
    fn answer_client(
        &mut self,
        slot: Slot,
        parts: ClientPacket,
        exchange: &mut Exchange<'_>,
    ) -> Result<(), DropReason> {
        let Exchange { datagram, effects, .. } = &mut *exchange;
        self.learn_at(slot, datagram.octets(parts.authenticator), effects);
        let authenticator = AuthenticatorFrom::Request(datagram.range(parts.authenticator));
        self.answer(slot, authenticator, parts.packet, exchange);
        Ok(())
    }

    /// The address that sent a packet has this authenticator, if it has entries.
    pub(super) fn learn_sender(&mut self, parts: ClientPacket, exchange: &mut Exchange<'_>) {
        let Exchange { datagram, effects, .. } = exchange;
        if let Some(view) = Ipv6::new(datagram.octets(parts.packet)) {
            self.learn_address(view.source(), datagram.octets(parts.authenticator), effects);
        }
    }

    /// Answers an ICMPv6 error: it belongs to the client that the packet it is about went to.
    fn client_error(
        &mut self,
        token: Span,
        parts: ClientPacket,
        quoted: &Quoted<Ipv6Addr>,
        exchange: &mut Exchange<'_>,
    ) -> Result<(), DropReason> {
        let receiver = receiver_of(quoted);
        if exchange.effects.bans(receiver.address) {
            return quietly(token, exchange);
        }
        let Some(slot) = self.table.find(&receiver) else {
            let delivered = self.delivers_error(quoted, token, parts, exchange)?;
            return if delivered { Ok(()) } else { Err(DropReason::IcmpErrorUnmatched) };
        };
        self.touch(slot, &mut exchange.effects);
        self.answer(slot, AuthenticatorFrom::Table, parts.packet, exchange);
        Ok(())
    }

    /// Answers a ping, as the service's host would.
    fn echo(
        &mut self,
        parts: ClientPacket,
        walk: &Walk,
        exchange: &mut Exchange<'_>,
    ) -> Result<(), DropReason> {
        let Exchange { datagram, known_since, effects, .. } = exchange;
        let packet = datagram.range(parts.packet);
        let authenticator = datagram.range(parts.authenticator);
        let (index, to) = (datagram.index, datagram.source());
        let buffer = &mut *datagram.buffer;
        let start = icmp::echo_reply(buffer, packet.start, packet.end, walk)?;
        self.icmp_rate.take_icmp(effects.now())?;
        let start = message::move_before(buffer, start, message_type::AUTHENTICATOR, authenticator);
        effects.outbox.in_place(index, to, *known_since, start..packet.end);
        Ok(())
    }

    /// Answers anything else: the service's host would not know this next header.
    fn unrecognized(
        &mut self,
        parts: ClientPacket,
        walk: &Walk,
        exchange: &mut Exchange<'_>,
    ) -> Result<(), DropReason> {
        let Exchange { datagram, known_since, effects, .. } = exchange;
        let about = Ipv6::new(datagram.octets(parts.packet)).ok_or(DropReason::PacketTruncated)?;
        let authenticator = datagram.octets(parts.authenticator);
        let (now, rate) = (effects.now(), &mut self.icmp_rate);
        effects.outbox.copy(datagram.index, datagram.source(), *known_since, |out| {
            message::emit(out, message_type::AUTHENTICATOR, authenticator);
            icmp::parameter_problem(about, walk)?.append_to(out);
            rate.take_icmp(now)
        })
    }
}

/// The client that a packet of the service went to, as an ICMPv6 error quotes it.
fn receiver_of(quoted: &Quoted<Ipv6Addr>) -> Client {
    let prefix = Prefix96::of(quoted.source);
    Client { prefix, address: quoted.destination, port: quoted.destination_port }
}
