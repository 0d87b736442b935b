//! What the server does for one NAT64: every branch of PROTOCOL.md section 7, and the reports of section 6.

use std::net::Ipv6Addr;
use std::ops::Range;
use std::time::Duration;

use hashbrown::HashMap;

use super::{Context, Exchange, Outbox, is_nearly_full};
use crate::handoff::change::Change;
use crate::handoff::entry::{Client, ControlPort, Entry, MappedPort, TableKey};
use crate::handoff::fragments::FragmentKey;
use crate::handoff::identity::{Attenuation, Identities};
use crate::handoff::message::{
    self, ClientPacket, ENTRY_LENGTH, MESSAGE_HEADER, PAYLOAD_MAX, Prefix96, ReportedPacket,
    Request, RequestKind, Span, message_type,
};
use crate::handoff::opaque::Token;
use crate::handoff::random::SecretHash;
use crate::handoff::rate::Rate;
use crate::handoff::stats::{Counter, DropReason, Stats};
use crate::handoff::table::{HashedClient, Slot, Table, TableLimits};
use crate::ip::icmp;
use crate::ip::packet::{self, Fragment, ICMP_HEADER, Ipv4, Ipv6, Walk, icmp_type, protocol};

/// One NAT64 at one local address: the table, and who may speak for it.
#[derive(Debug)]
pub struct Nat64 {
    table: Table,
    identities: Identities,
    /// For unknown identities of this address.
    attenuation: Attenuation,
    icmp_rate: Rate,
    /// Entries whose record was not durable when it was last looked, by mapped port...
    unstable: HashMap<u16, u64, SecretHash>,
    /// ...and the last of these records.
    newest: u64,
}

impl Nat64 {
    /// With an empty table, and no identity known.
    pub fn new(limits: TableLimits, handoff_port: u16, hash: SecretHash) -> Self {
        Self {
            table: Table::new(limits, handoff_port, hash),
            identities: Identities::default(),
            attenuation: Attenuation::default(),
            icmp_rate: Rate::default(),
            unstable: HashMap::with_hasher(hash),
            newest: 0,
        }
    }

    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Whether an entry has to go for a new one, or soon will have to.
    pub fn is_nearly_full(&self) -> bool {
        is_nearly_full(self.table.len(), self.table.capacity())
    }

    /// Looks at what every request needs, so that it is in the caches.
    pub fn glance(&self) -> u64 {
        self.newest ^ self.identities.glance() ^ self.table.len() as u64
    }

    pub fn attenuation(&mut self) -> &mut Attenuation {
        &mut self.attenuation
    }

    pub fn is_known(&self, port: ControlPort, token: &[u8]) -> bool {
        self.identities.is_known(port, token)
    }

    /// As [`Identities::recognize`].
    pub fn recognize(&mut self, port: ControlPort, token: &[u8]) -> Option<u64> {
        self.identities.recognize(port, token)
    }

    /// (`port`, `token`) becomes known, and its port is not mapped any more.
    pub(super) fn admit(
        &mut self,
        port: ControlPort,
        token: Token,
        table: TableKey,
        outbox: &mut Outbox,
        context: &Context,
    ) {
        let had = self.table.len();
        self.table.bar(port, |change| record(&context.stats, outbox, table, change));
        if had > 1 && self.table.len() < had {
            context.budget.give_entry();
        }
        // Which one goes hangs on the order of use, which is not a change: so that it goes is one.
        if let Some((port, token)) = self.identities.least_recently_used_of_too_many() {
            let change = Change::IdentityForgotten { port, token: token.clone() };
            self.apply(&change, outbox.record);
            record(&context.stats, outbox, table, change);
        }
        let change = Change::IdentityKnown { port, token };
        self.apply(&change, outbox.record);
        record(&context.stats, outbox, table, change);
    }

    /// Does what `change` says, which stands in record `since`.
    pub fn apply(&mut self, change: &Change, since: u64) {
        match change {
            Change::IdentityKnown { port, token } => {
                // Live, it was deleted by a change before this one; a table never has such an entry.
                self.table.bar(*port, |_| {});
                self.identities.learn(*port, token.clone(), since);
                self.table.set_control_ports(self.identities.control_ports());
            }
            Change::IdentityForgotten { port, token } => {
                self.identities.forget(*port, token);
                self.table.set_control_ports(self.identities.control_ports());
            }
            _ => self.table.apply(change),
        }
    }

    /// The changes that make this from a [`Nat64::new`], but for `Initialized`.
    pub fn changes(&self) -> impl Iterator<Item = Change> {
        let known = self.identities.oldest_first().map(|(port, token)| {
            let token = token.clone();
            Change::IdentityKnown { port, token }
        });
        known.chain(self.table.changes())
    }

    /// Answers a request of a known identity. `proof`: it carries the proof of that.
    #[inline]
    pub(super) fn request(
        &mut self,
        request: &Request,
        proof: bool,
        exchange: &mut Exchange<'_>,
        context: &mut Context,
    ) -> Result<(), DropReason> {
        let counter = match request.kind {
            RequestKind::ClientPacket(_) => Counter::ClientPackets,
            RequestKind::ServicePacket { .. } => Counter::ServicePackets,
            RequestKind::Report { .. } => Counter::Reports,
            RequestKind::MultiReport => Counter::MultiReports,
        };
        context.stats.add(counter, 1);
        self.table.set_tick(tick(exchange.now.monotonic));
        if self.newest <= exchange.outbox.durable {
            self.unstable.clear();
        }
        match request.kind {
            RequestKind::ClientPacket(parts) => self.client_packet(parts, exchange, context),
            RequestKind::ServicePacket { packet } => {
                self.service_packet(request.token, packet, proof, exchange, context)
            }
            RequestKind::Report { authenticator, entry, packet } => {
                let reported = self.report(authenticator, entry, exchange, context);
                let Some(packet) = packet else {
                    return reported;
                };
                if let Err(reason) = reported {
                    context.stats.count_drop(reason);
                }
                match packet {
                    ReportedPacket::Client(parts) => self.client_packet(parts, exchange, context),
                    ReportedPacket::Service(packet) => {
                        self.service_packet(request.token, packet, proof, exchange, context)
                    }
                }
            }
            RequestKind::MultiReport => self.multi_report(exchange, context),
        }
    }

    // --- Reports (section 6)

    fn report(
        &mut self,
        authenticator: Span,
        reported: Entry,
        exchange: &mut Exchange<'_>,
        context: &mut Context,
    ) -> Result<(), DropReason> {
        let &mut Exchange {
            table,
            source,
            ref mut buffer,
            ref payload,
            ref mut outbox,
            since,
            foreseen,
            ..
        } = exchange;
        let authenticator = authenticator.of(&buffer[payload.clone()]);
        let client = foreseen.reported().copied();
        let client = client.unwrap_or_else(|| self.table.hashed(reported.client));
        let sought = (reported.port, client, foreseen.probable);
        let slot = self.reported_entry(authenticator, sought, table, outbox, context)?;
        let entry = self.table.entry(slot);
        let after = self.after_report(reported, entry, since, outbox);
        outbox.copy(source, after, |out| emit_entry(out, authenticator, entry))
    }

    fn multi_report(
        &mut self,
        exchange: &mut Exchange<'_>,
        context: &mut Context,
    ) -> Result<(), DropReason> {
        let &mut Exchange {
            table, source, ref mut buffer, ref payload, ref mut outbox, since, ..
        } = exchange;
        let payload = &buffer[payload.clone()];
        let changes = outbox.changes.len();
        let mut first = None;
        let mut answered = false;
        let mut refused = None;
        for (authenticator, reported) in message::multi_report(payload) {
            let authenticator = authenticator.of(payload);
            let sought = (reported.port, self.table.hashed(reported.client), None);
            match self.reported_entry(authenticator, sought, table, outbox, context) {
                Ok(slot) => {
                    let entry = self.table.entry(slot);
                    first = first.or(Some((authenticator, entry)));
                    if entry != reported {
                        let after = self.after_report(reported, entry, since, outbox);
                        outbox.copy(source, after, |out| emit_entry(out, authenticator, entry))?;
                        answered = true;
                    }
                }
                // The last one is counted when it is known whether the payload got an answer.
                Err(reason) => {
                    if let Some(before) = refused.replace(reason) {
                        context.stats.count_drop(before);
                    }
                }
            }
        }
        let Some((authenticator, entry)) = first else {
            return Err(refused.unwrap_or(DropReason::EntryInvalid));
        };
        if let Some(reason) = refused {
            context.stats.count_drop(reason);
        }
        if answered {
            return Ok(());
        }
        // It speaks for all of them, so it waits for all that they changed.
        let changed = outbox.changes.len() > changes;
        let after = if changed { outbox.record } else { self.after(entry.port, since) };
        outbox.copy(source, after.max(since), |out| emit_entry(out, authenticator, entry))
    }

    /// The table is authoritative: adopts what does not contradict it, and answers with what it has.
    fn reported_entry(
        &mut self,
        authenticator: &[u8],
        (port, sought, probable): (MappedPort, HashedClient, Option<Slot>),
        table: TableKey,
        outbox: &mut Outbox,
        context: &mut Context,
    ) -> Result<Slot, DropReason> {
        let client = sought.client;
        if !Client::can_have(client.address) || client.port == 0 || port.0 == 0 {
            return Err(DropReason::EntryInvalid);
        }
        let known = self.table.find_near(probable, &sought);
        let agrees = match known {
            Some(slot) => self.table.entry(slot).port == port,
            None => self.table.is_eligible(port) && self.table.find_port(port).is_none(),
        };
        if !agrees {
            if outbox.frozen {
                return Err(DropReason::JournalUnavailable);
            }
            record(&context.stats, outbox, table, Change::Conflict { port, client });
        }
        let slot = match known {
            Some(slot) => {
                self.touch(slot, table, outbox, context);
                slot
            }
            None => self.create(sought, agrees.then_some(port), table, outbox, context)?,
        };
        self.learn_at(slot, authenticator, table, outbox, context);
        Ok(slot)
    }

    // --- Client packets (section 7)

    #[inline]
    fn client_packet(
        &mut self,
        parts: ClientPacket,
        exchange: &mut Exchange<'_>,
        context: &mut Context,
    ) -> Result<(), DropReason> {
        match exchange.foreseen.sender() {
            Some(sender) => {
                let slot = self.sender(sender, parts.hint, exchange, context)?;
                self.answer_client(slot, parts, exchange, context)
            }
            None => self.other_client_packet(parts, exchange, context),
        }
    }

    /// One that needs a closer look.
    #[inline(never)]
    fn other_client_packet(
        &mut self,
        parts: ClientPacket,
        exchange: &mut Exchange<'_>,
        context: &mut Context,
    ) -> Result<(), DropReason> {
        let table = exchange.table;
        let view = Ipv6::new(exchange.octets(parts.packet)).ok_or(DropReason::PacketTruncated)?;
        let (source, destination, prefix) =
            (view.source(), view.destination(), view.destination_prefix());
        if !Client::can_have(source) {
            return Err(DropReason::ClientAddress);
        }
        let walk = view.walk()?;
        let upper = view.octets().get(walk.upper_at..).unwrap_or_default();
        let note = |fragment: Fragment| {
            let identification = fragment.identification;
            FragmentKey::Ipv6 { source, destination, identification }
        };
        let slot = match walk.fragment {
            Some(fragment) if !fragment.first => {
                let client = context.notes.find(exchange.now.monotonic, table, note(fragment));
                let slot = client.and_then(|client| self.table.find(&client));
                let slot = slot.ok_or(DropReason::FragmentUnknown)?;
                self.touch(slot, table, exchange.outbox, context);
                slot
            }
            _ if packet::has_entries(walk.protocol) => {
                let (port, _) = packet::ports(upper).ok_or(DropReason::HeaderTruncated)?;
                if port == 0 {
                    // No entry has port 0: a report of one would be refused, too.
                    return Err(DropReason::EntryInvalid);
                }
                let client = Client { prefix, address: source, port };
                let note = walk.fragment.filter(|fragment| fragment.more).map(note);
                let sender = self.table.hashed(client);
                let slot = self.sender(&sender, parts.hint, exchange, context)?;
                if let Some(note) = note {
                    context.notes.leave(exchange.now.monotonic, table, note, client);
                }
                slot
            }
            fragment if walk.protocol == protocol::ICMPV6 => {
                let kind = *upper.first().ok_or(DropReason::HeaderTruncated)?;
                if packet::icmpv6_is_error(kind) {
                    return self.client_error(parts.packet, &walk, exchange, context);
                }
                if kind != icmp_type::V6_ECHO_REQUEST {
                    return Err(DropReason::IcmpIgnored);
                }
                if fragment.is_some() {
                    return Err(DropReason::IcmpFragment);
                }
                self.learn_address(source, parts.authenticator, exchange, context);
                return self.echo(parts, &walk, exchange);
            }
            _ => {
                self.learn_address(source, parts.authenticator, exchange, context);
                return self.unrecognized(parts, &walk, exchange);
            }
        };
        self.answer_client(slot, parts, exchange, context)
    }

    /// Finds or creates the entry of whoever sent a packet.
    #[inline(always)] // Counted: as calls, these cost a known client 4 % more instructions.
    fn sender(
        &mut self,
        sender: &HashedClient,
        hint: Option<MappedPort>,
        exchange: &mut Exchange<'_>,
        context: &mut Context,
    ) -> Result<Slot, DropReason> {
        let &mut Exchange { table, ref mut outbox, foreseen, .. } = exchange;
        match self.table.find_near(foreseen.probable, sender) {
            Some(slot) => {
                self.touch(slot, table, outbox, context);
                Ok(slot)
            }
            None => self.create(*sender, hint, table, outbox, context),
        }
    }

    /// Answers a client packet that belongs to the entry in `slot`.
    #[inline(always)] // Counted: as calls, these cost a known client 4 % more instructions.
    fn answer_client(
        &mut self,
        slot: Slot,
        parts: ClientPacket,
        exchange: &mut Exchange<'_>,
        context: &Context,
    ) -> Result<(), DropReason> {
        let octets = parts.authenticator.of(&exchange.buffer[exchange.payload.clone()]);
        self.learn_at(slot, octets, exchange.table, exchange.outbox, context);
        let authenticator = exchange.range(parts.authenticator);
        self.answer(slot, AuthenticatorFrom::Request(authenticator), parts.packet, exchange);
        Ok(())
    }

    /// An ICMPv6 error belongs to the client that the packet it is about went to.
    fn client_error(
        &mut self,
        packet: Span,
        walk: &Walk,
        exchange: &mut Exchange<'_>,
        context: &Context,
    ) -> Result<(), DropReason> {
        let slot = {
            let about = exchange.octets(packet).get(walk.upper_at + ICMP_HEADER..);
            let about = about.and_then(Ipv6::new).ok_or(DropReason::IcmpErrorUnmatched)?;
            let walk = about.walk().map_err(|_| DropReason::IcmpErrorUnmatched)?;
            let first = walk.fragment.is_none_or(|fragment| fragment.first);
            let upper = about.octets().get(walk.upper_at..).unwrap_or_default();
            let ports =
                packet::ports(upper).filter(|_| first && packet::has_entries(walk.protocol));
            let (_, port) = ports.ok_or(DropReason::IcmpErrorUnmatched)?;
            let client =
                Client { prefix: Prefix96::of(about.source()), address: about.destination(), port };
            self.table.find(&client).ok_or(DropReason::IcmpErrorUnmatched)?
        };
        self.touch(slot, exchange.table, exchange.outbox, context);
        self.answer(slot, AuthenticatorFrom::Table, packet, exchange);
        Ok(())
    }

    /// Answers a ping, as the service's host would.
    fn echo(
        &mut self,
        parts: ClientPacket,
        walk: &Walk,
        exchange: &mut Exchange<'_>,
    ) -> Result<(), DropReason> {
        let packet = exchange.range(parts.packet);
        let authenticator = exchange.range(parts.authenticator);
        let &mut Exchange { now, ref mut buffer, source, ref mut outbox, since, .. } = exchange;
        let start = icmp::echo_reply(buffer, packet.start, packet.end, walk)?;
        if !self.icmp_rate.take(now.monotonic, icmp::RATE_MAX) {
            return Err(DropReason::IcmpRate);
        }
        let start = message::move_before(buffer, start, message_type::AUTHENTICATOR, authenticator);
        outbox.in_place(source, since, start..packet.end);
        Ok(())
    }

    /// Anything else: the host would not know this next header.
    fn unrecognized(
        &mut self,
        parts: ClientPacket,
        walk: &Walk,
        exchange: &mut Exchange<'_>,
    ) -> Result<(), DropReason> {
        let &mut Exchange {
            now, source, ref mut buffer, ref payload, ref mut outbox, since, ..
        } = exchange;
        let payload = &buffer[payload.clone()];
        let about = Ipv6::new(parts.packet.of(payload)).ok_or(DropReason::PacketTruncated)?;
        let rate = &mut self.icmp_rate;
        outbox.copy(source, since, |out| {
            message::emit(out, message_type::AUTHENTICATOR, parts.authenticator.of(payload));
            icmp::emit_parameter_problem(out, about, walk)?;
            rate.take(now.monotonic, icmp::RATE_MAX).then_some(()).ok_or(DropReason::IcmpRate)
        })
    }

    // --- Service packets (section 7)

    fn service_packet(
        &mut self,
        token: Span,
        packet: Span,
        proof: bool,
        exchange: &mut Exchange<'_>,
        context: &mut Context,
    ) -> Result<(), DropReason> {
        if proof {
            return return_packet(token, packet, exchange, |_| Some(1));
        }
        let table = exchange.table;
        let view = Ipv4::new(exchange.octets(packet)).ok_or(DropReason::PacketTruncated)?;
        let note = |fragment: Fragment| FragmentKey::Ipv4 {
            source: view.source(),
            destination: view.destination(),
            protocol: view.protocol(),
            identification: fragment.identification,
        };
        let slot = match view.fragment() {
            Some(fragment) if !fragment.first => {
                let client = context.notes.find(exchange.now.monotonic, table, note(fragment));
                let slot = client.and_then(|client| self.table.find(&client));
                Some(slot.ok_or(DropReason::FragmentUnknown)?)
            }
            _ if packet::has_entries(view.protocol()) => {
                let (_, port) = packet::ports(view.data()).ok_or(DropReason::HeaderTruncated)?;
                self.table.find_port(MappedPort(port))
            }
            _ if view.protocol() == protocol::ICMP => {
                let kind = *view.data().first().ok_or(DropReason::HeaderTruncated)?;
                if packet::icmp_is_query(kind) {
                    return self.unreachable(token, packet, exchange);
                }
                if !packet::icmp_is_error(kind) {
                    return Err(DropReason::IcmpIgnored);
                }
                let about = view.data().get(ICMP_HEADER..).and_then(Ipv4::new);
                let about = about.ok_or(DropReason::IcmpErrorUnmatched)?;
                if !packet::has_entries(about.protocol()) {
                    return Err(DropReason::IcmpErrorUnmatched);
                }
                let first = about.fragment().is_none_or(|fragment| fragment.first);
                let ports = packet::ports(about.data()).filter(|_| first);
                ports.and_then(|(port, _)| self.table.find_port(MappedPort(port)))
            }
            _ => return self.unreachable(token, packet, exchange),
        };
        // By the note of a first fragment the later ones are answered.
        let first = view.fragment().filter(|fragment| fragment.first);
        if let (Some(fragment), Some(slot)) = (first, slot) {
            let client = self.table.entry(slot).client;
            context.notes.leave(exchange.now.monotonic, table, note(fragment), client);
        }
        match slot {
            Some(slot) => {
                self.touch(slot, table, exchange.outbox, context);
                self.answer(slot, AuthenticatorFrom::Table, packet, exchange);
                Ok(())
            }
            None => {
                // A proof that comes again, as several validation packets were under way, is still one.
                let port = ControlPort(exchange.source.port());
                let again = context.keys.verify(table, port, exchange.octets(token), view.data());
                return_packet(token, packet, exchange, |ttl| {
                    if again { Some(1) } else { ttl.checked_sub(1).filter(|&ttl| ttl > 0) }
                })
            }
        }
    }

    /// Anything else: no host behind the NAT64 would know this protocol.
    fn unreachable(
        &mut self,
        token: Span,
        packet: Span,
        exchange: &mut Exchange<'_>,
    ) -> Result<(), DropReason> {
        let &mut Exchange {
            now,
            table,
            source,
            ref mut buffer,
            ref payload,
            ref mut outbox,
            since,
            ..
        } = exchange;
        let payload = &buffer[payload.clone()];
        let about = Ipv4::new(packet.of(payload)).ok_or(DropReason::PacketTruncated)?;
        let rate = &mut self.icmp_rate;
        outbox.copy(source, since, |out| {
            message::emit(out, message_type::TOKEN, token.of(payload));
            icmp::emit_protocol_unreachable(out, about, table)?;
            rate.take(now.monotonic, icmp::RATE_MAX).then_some(()).ok_or(DropReason::IcmpRate)
        })
    }

    // --- What they share

    /// Replies with authenticator, entry and packet, in place, or without the packet where that would be
    /// too long.
    #[inline]
    fn answer(
        &self,
        slot: Slot,
        authenticator: AuthenticatorFrom,
        packet: Span,
        exchange: &mut Exchange<'_>,
    ) {
        let packet = exchange.range(packet);
        let &mut Exchange { ref mut buffer, source, room, ref mut outbox, since, .. } = exchange;
        let after = self.after(self.table.port(slot), since);
        let length = match &authenticator {
            AuthenticatorFrom::Request(range) => range.len(),
            AuthenticatorFrom::Table => self.table.authenticator(slot).octets().len(),
        };
        let front = MESSAGE_HEADER + length + ENTRY_LENGTH;
        let end = if front + packet.len() > PAYLOAD_MAX { packet.start } else { packet.end };
        let start = packet.start.checked_sub(front);
        let Some(start) = start.filter(|&start| start >= room) else {
            let authenticator = match authenticator {
                AuthenticatorFrom::Request(range) => &buffer[range],
                AuthenticatorFrom::Table => self.table.authenticator(slot).octets(),
            };
            // It does not fail.
            let _ = outbox.copy(source, after, |out| {
                let at = out.len();
                // Whatever stands in front of the packet is copied in one go with it, and written over.
                match start {
                    Some(start) => out.extend_from_slice(&buffer[start..end]),
                    None => {
                        out.resize(at + front, 0);
                        out.extend_from_slice(&buffer[packet.start..end]);
                    }
                }
                let front = &mut out[at..at + front];
                let (front, entry) = front.split_last_chunk_mut().expect("an entry fits in it");
                self.table.emit_entry(slot, entry);
                message::write_before(
                    front,
                    front.len(),
                    message_type::AUTHENTICATOR,
                    authenticator,
                );
                Ok(())
            });
            return;
        };
        let entry_at = packet.start - ENTRY_LENGTH;
        // The authenticator moves first: the entry may be written over where it stood.
        let kind = message_type::AUTHENTICATOR;
        match authenticator {
            AuthenticatorFrom::Request(range) => {
                message::move_before(buffer, entry_at, kind, range)
            }
            AuthenticatorFrom::Table => message::write_before(
                buffer,
                entry_at,
                kind,
                self.table.authenticator(slot).octets(),
            ),
        };
        let (_, front) = buffer[..packet.start].split_last_chunk_mut().expect("there is room");
        self.table.emit_entry(slot, front);
        outbox.in_place(source, after, start..end);
    }

    /// When an answer about the entry on `port` may leave, to an identity known `since`.
    fn after(&self, port: MappedPort, since: u64) -> u64 {
        self.unstable.get(&port.0).map_or(since, |&record| record.max(since))
    }

    /// The same, to a report: where it says something else, it announces the conflict as well.
    fn after_report(&self, reported: Entry, entry: Entry, since: u64, outbox: &Outbox) -> u64 {
        let after = self.after(entry.port, since);
        if entry == reported { after } else { after.max(outbox.record) }
    }

    /// The entry in `slot` was used.
    #[inline(always)] // Counted: as calls, these cost a known client 4 % more instructions.
    fn touch(&mut self, slot: Slot, table: TableKey, outbox: &mut Outbox, context: &Context) {
        if self.table.touch(slot, !outbox.frozen) {
            let port = self.table.entry(slot).port;
            record(&context.stats, outbox, table, Change::Used { port });
        }
    }

    fn create(
        &mut self,
        sought: HashedClient,
        wanted: Option<MappedPort>,
        table: TableKey,
        outbox: &mut Outbox,
        context: &mut Context,
    ) -> Result<Slot, DropReason> {
        if outbox.frozen {
            return Err(DropReason::JournalUnavailable);
        }
        let nearly_full = self.is_nearly_full() || context.budget.is_nearly_used();
        let had = self.table.len();
        // An empty table has its first entry in the budget already.
        let takes_one = had > 0 && had < self.table.capacity();
        let at_limit = takes_one && !context.budget.take_entry();
        let Context { live, random, stats, .. } = context;
        let created = self.table.create(
            sought,
            wanted,
            at_limit,
            if nearly_full || at_limit { live.of(table) } else { None },
            random,
            |change| record(stats, outbox, table, change),
        );
        if takes_one && !at_limit && self.table.len() == had {
            context.budget.give_entry();
        }
        if let Ok(slot) = created {
            self.unstable.insert(self.table.entry(slot).port.0, outbox.record);
            self.newest = outbox.record;
        }
        created
    }

    /// The client of the entry in `slot` is known by this authenticator.
    #[inline(always)] // Counted: as calls, these cost a known client 4 % more instructions.
    fn learn_at(
        &mut self,
        slot: Slot,
        authenticator: &[u8],
        table: TableKey,
        outbox: &mut Outbox,
        context: &Context,
    ) {
        if !outbox.frozen {
            self.table.learn_at(slot, authenticator, |change| {
                record(&context.stats, outbox, table, change);
            });
        }
    }

    fn learn_address(
        &mut self,
        address: Ipv6Addr,
        authenticator: Span,
        exchange: &mut Exchange<'_>,
        context: &Context,
    ) {
        let &mut Exchange { table, ref mut buffer, ref payload, ref mut outbox, .. } = exchange;
        let authenticator = authenticator.of(&buffer[payload.clone()]);
        if !outbox.frozen {
            self.table.learn(address, authenticator, |change| {
                record(&context.stats, outbox, table, change);
            });
        }
    }
}

/// How often the use of an entry is recorded: the order of use survives a restart as coarsely.
const USE_RECORDED_EVERY: Duration = Duration::from_secs(30 * 60);

/// Never 0, which is the tick of entries that were replayed.
fn tick(now: Duration) -> u16 {
    1 + (now.as_secs() / USE_RECORDED_EVERY.as_secs() % u64::from(u16::MAX)) as u16
}

/// Which authenticator an answer carries.
enum AuthenticatorFrom {
    /// The request's, which stands here in the buffer.
    Request(Range<usize>),
    /// The one that the table keeps for the entry's client.
    Table,
}

fn emit_entry(out: &mut Vec<u8>, authenticator: &[u8], entry: Entry) -> Result<(), DropReason> {
    message::emit(out, message_type::AUTHENTICATOR, authenticator);
    out.extend_from_slice(&entry.emit());
    Ok(())
}

/// Sends a packet back with the token, in place. `next` says its time to live from the one it had.
fn return_packet(
    token: Span,
    packet: Span,
    exchange: &mut Exchange<'_>,
    next: impl FnOnce(u8) -> Option<u8>,
) -> Result<(), DropReason> {
    let (token, packet) = (exchange.range(token), exchange.range(packet));
    let &mut Exchange { ref mut buffer, source, ref mut outbox, since, .. } = exchange;
    let octets = &mut buffer[packet.clone()];
    let ttl = next(packet::ttl(octets)).ok_or(DropReason::TtlExpired)?;
    packet::set_ttl(octets, ttl);
    let start = message::move_before(buffer, packet.start, message_type::TOKEN, token);
    outbox.in_place(source, since, start..packet.end);
    Ok(())
}

/// Counts a change and passes it on.
pub(super) fn record(stats: &Stats, outbox: &mut Outbox, table: TableKey, change: Change) {
    let counter = match change {
        Change::Initialized => Counter::Initialized,
        Change::Created { .. } => Counter::Created,
        Change::Deleted { .. } => Counter::Deleted,
        Change::Conflict { .. } => Counter::Conflicts,
        Change::IdentityKnown { .. } => Counter::IdentitiesLearned,
        Change::AuthenticatorLearned { .. } => Counter::AuthenticatorsLearned,
        Change::IdentityForgotten { .. } => Counter::IdentitiesForgotten,
        Change::Used { .. } => Counter::EntriesUsed,
    };
    stats.add(counter, 1);
    outbox.changes.push((table, change));
}
