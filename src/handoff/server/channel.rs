//! [`Channel`]: one NAT64 at one local address (PROTOCOL.md section 1), with its table and who may
//! speak for it.
//!
//! What it answers stands in `report`, `client_packet`, `service_packet` and `reply`; here is what
//! they share.

use std::net::Ipv6Addr;
use std::time::Duration;

use hashbrown::HashMap;

use super::batch::Coarse;
use super::budget::is_nearly_full;
use super::exchange::{Effects, Exchange, Shared, record};
use super::late::{LateRecord, RECORD_EVERY};
use super::price::Buckets;
use crate::handoff::change::Change;
use crate::handoff::entry::{ControlPort, MappedPort};
use crate::handoff::identity::{Attenuation, IDENTITIES_MAX, Identities, SeenIdentity};
use crate::handoff::message::{ReportedPacket, Request, RequestKind};
use crate::handoff::opaque::Token;
use crate::handoff::random::SecretHash;
use crate::handoff::rate::Rate;
use crate::handoff::stats::{Counter, DropReason};
use crate::handoff::table::{HashedClient, Slot, Table, TableLimits};

/// The state of one control channel.
#[derive(Debug)]
pub struct Channel {
    pub(super) table: Table,
    identities: Identities,
    /// For unknown identities of this address.
    attenuation: Attenuation,
    pub(super) icmp_rate: Rate,
    pub(super) buckets: Buckets,
    /// The records of entries that came or went, by mapped port, that may not be durable yet...
    unstable: HashMap<u16, u64, SecretHash>,
    /// ...and the last of these records.
    newest: u64,
    /// When it was made, or the server started.
    pub(super) since: Duration,
    /// Requests since then.
    pub(super) requests: u64,
    /// Entries that were created since then.
    pub(super) created: u64,
    /// The second in which it was last told, beside its packets that are delivered, that somebody
    /// is here.
    pub(super) told: u32,
    /// The second in which a frame of Geneve came last.
    pub(super) framed: u32,
}

impl Channel {
    /// A channel with an empty table and no known identity.
    pub fn new(limits: TableLimits, handoff_port: u16, hash: SecretHash) -> Self {
        Self {
            table: Table::new(limits, handoff_port, hash),
            identities: Identities::default(),
            attenuation: Attenuation::default(),
            icmp_rate: Rate::default(),
            buckets: Buckets::default(),
            unstable: HashMap::with_hasher(hash),
            newest: 0,
            since: Duration::ZERO,
            requests: 0,
            created: 0,
            told: 0,
            framed: 0,
        }
    }

    /// The same, made when the server ran already.
    pub fn made_at(self, since: Duration) -> Self {
        Self { since, ..self }
    }

    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Whether an entry has to go for a new one, or soon will have to.
    pub fn is_nearly_full(&self) -> bool {
        is_nearly_full(self.table.len(), self.table.capacity())
    }

    /// Reads what every request needs, so that it is in the caches.
    pub fn prefetch(&self) -> u64 {
        self.newest ^ self.identities.prefetch() ^ self.table.len() as u64
    }

    pub fn attenuation(&mut self) -> &mut Attenuation {
        &mut self.attenuation
    }

    pub fn is_known(&self, port: ControlPort, token: &[u8]) -> bool {
        self.identities.is_known(port, token)
    }

    /// Its identities, the most recently used first, and how many there are.
    pub fn seen_identities(&self) -> ([SeenIdentity; IDENTITIES_MAX], usize) {
        self.identities.seen()
    }

    /// When something came of it last; or when the server started, if that was later.
    pub fn last_used(&self) -> Duration {
        self.identities.last_used().max(Duration::from_secs(self.framed.into()))
    }

    /// The port of the identity that was used last, if there is any.
    pub fn control_port(&self) -> Option<ControlPort> {
        self.identities.control_ports().next()
    }

    /// What makes one more of its identities unknown, if it has any.
    pub fn next_identity(&self) -> Option<Change> {
        let (port, token) = self.identities.oldest_first().next()?;
        Some(Change::IdentityForgotten { port, token: token.clone() })
    }

    /// As [`Identities::recognize`].
    #[inline]
    pub fn recognize(&mut self, port: ControlPort, token: &[u8], second: u32) -> Option<u64> {
        self.identities.recognize(port, token, second)
    }

    /// Whether it is time for another proof of the identity that was recognized last.
    #[inline]
    pub fn is_proof_due(&self, second: u32) -> bool {
        self.identities.is_proof_due(second)
    }

    /// As [`Identities::asks`].
    pub fn asks(&mut self, second: u32) -> bool {
        self.identities.asks(second)
    }

    /// The identity that was recognized last proved itself again.
    pub fn prove(&mut self, second: u32) {
        self.identities.prove(second);
    }

    /// (`port`, `token`) becomes known, and its port is not mapped any more: by a proof, or else as
    /// the successor of the identity that was recognized last.
    pub(super) fn admit(
        &mut self,
        port: ControlPort,
        token: Token,
        proof: bool,
        effects: &mut Effects<'_>,
    ) {
        let second = effects.batch.coarse.second;
        let proved = if proof { second } else { self.identities.last_proof() };
        self.delete(effects, |table, changed| table.bar(port, changed));
        // The order of use is not journaled, so replay could not repeat this choice: the eviction
        // itself is a change.
        if let Some((port, token)) = self.identities.to_evict(port, &token) {
            let change = Change::IdentityForgotten { port, token: token.clone() };
            self.apply(&change, effects.batch.record);
            effects.record(change);
        }
        self.know(port, token.clone(), effects.batch.record, second, proved);
        effects.record(Change::IdentityKnown { port, token });
    }

    /// Deletes what `delete` does of the table: one entry or none.
    pub(super) fn delete(
        &mut self,
        effects: &mut Effects<'_>,
        delete: impl FnOnce(&mut Table, &mut dyn FnMut(Change)),
    ) {
        let Self { table, buckets, unstable, newest, .. } = self;
        let (had, number) = (table.len(), effects.batch.record);
        delete(table, &mut |change| {
            buckets.changed(&change);
            if let Change::Deleted { port, .. } = change {
                unstable.insert(port.0, number);
                *newest = number;
            }
            effects.record(change);
        });
        // The budget counts an empty table as one entry.
        if had > 1 && table.len() < had {
            effects.shared.budget.give_entry();
        }
    }

    /// (`port`, `token`) is known from this `second` on, as record `since` says, for when it
    /// `proved` itself. No entry is on its port.
    fn know(&mut self, port: ControlPort, token: Token, since: u64, second: u32, proved: u32) {
        self.identities.learn(port, token, since, second, proved);
        self.table.set_control_ports(self.identities.control_ports());
    }

    /// Does what `change` says, which stands in record `since`. What is replayed counts as used and
    /// proved when the server starts, as its journal does not say when it was.
    pub fn apply(&mut self, change: &Change, since: u64) {
        match change {
            Change::IdentityKnown { port, token } => {
                // A change before this one deleted the entry on this port, if there was one:
                // nothing happens here.
                self.table.bar(*port, |_| {});
                self.know(*port, token.clone(), since, 0, 0);
            }
            Change::IdentityForgotten { port, token } => {
                self.identities.forget(*port, token);
                self.table.set_control_ports(self.identities.control_ports());
            }
            _ => self.table.apply(change),
        }
    }

    /// As [`Table::reserve`].
    pub fn reserve(&mut self, entries: usize, clients: usize) {
        self.table.reserve(entries, clients);
    }

    /// The changes that make this from a [`Channel::new`], but for `Initialized`.
    pub fn changes(&self) -> impl Iterator<Item = Change> {
        let known = self.identities.oldest_first().map(|(port, token)| {
            let token = token.clone();
            Change::IdentityKnown { port, token }
        });
        known.chain(self.table.changes())
    }

    /// Answers a request of a known identity. `proof`: the request carries the proof of that.
    #[inline]
    pub(super) fn request(
        &mut self,
        request: &Request,
        proof: bool,
        exchange: &mut Exchange<'_>,
    ) -> Result<(), DropReason> {
        let counter = match request.kind {
            RequestKind::ClientPacket(_) => Counter::ClientPackets,
            RequestKind::ServicePacket { .. } => Counter::ServicePackets,
            RequestKind::Report { .. } => Counter::Reports,
            RequestKind::MultiReport => Counter::MultiReports,
        };
        exchange.effects.shared.stats.add(counter, 1);
        let Coarse { second, tick } = exchange.effects.batch.coarse;
        self.table.set_time(second as u16, tick);
        self.requests += 1;
        if self.newest <= exchange.effects.batch.durable {
            self.unstable.clear();
        }
        match request.kind {
            RequestKind::ClientPacket(parts) => self.client_packet(request.token, parts, exchange),
            RequestKind::ServicePacket { packet } => {
                self.service_packet(request.token, packet, proof, exchange)
            }
            RequestKind::Report { authenticator, entry, packet } => {
                let reported = self.report(request.token, authenticator, entry, exchange);
                let Some(packet) = packet else {
                    return reported;
                };
                if let Err(reason) = reported {
                    exchange.effects.shared.stats.count_drop(reason);
                }
                match packet {
                    ReportedPacket::Client(parts) => {
                        self.client_packet(request.token, parts, exchange)
                    }
                    ReportedPacket::Service(packet) => {
                        self.service_packet(request.token, packet, proof, exchange)
                    }
                }
            }
            RequestKind::MultiReport => self.multi_report(request.token, exchange),
        }
    }

    /// The record that must be durable before an answer about `port` may leave, to an identity
    /// known `since`.
    pub(super) fn durable_before(&self, port: MappedPort, since: u64) -> u64 {
        self.unstable.get(&port.0).map_or(since, |&record| record.max(since))
    }

    /// The entry in `slot` was used.
    // Measured: as calls, it and the others so marked cost a known client 4 % more instructions.
    #[inline(always)]
    pub(super) fn touch(&mut self, slot: Slot, effects: &mut Effects<'_>) {
        if self.table.touch(slot, effects.batch.frozen.is_none()) {
            let port = self.table.entry(slot).port;
            effects.record(Change::Used { port });
        }
    }

    /// Makes an entry for a client that has none, on the port that is `wanted` where it can be.
    pub(super) fn create(
        &mut self,
        sought: HashedClient,
        wanted: Option<MappedPort>,
        effects: &mut Effects<'_>,
    ) -> Result<Slot, DropReason> {
        self.create_or(sought, wanted, true, effects)
    }

    /// As [`Channel::create`], where no other entry has to go for it, unless that `evicts`.
    pub(super) fn create_or(
        &mut self,
        sought: HashedClient,
        wanted: Option<MappedPort>,
        evicts: bool,
        effects: &mut Effects<'_>,
    ) -> Result<Slot, DropReason> {
        let Effects { table, batch, live, outbox, shared } = effects;
        let Shared { budget, random, stats, create_rate, .. } = &mut **shared;
        if let Some(reason) = batch.frozen {
            return Err(reason);
        }
        self.buckets.create(batch.now.monotonic, *create_rate)?;
        let nearly_full = self.is_nearly_full() || budget.is_nearly_used();
        let had = self.table.len();
        // The budget counts an empty table as one entry, so that the first one is in it already.
        let takes_one = had > 0 && had < self.table.capacity();
        let evicts = evicts && !batch.keeps_all;
        if !evicts && had >= self.table.capacity() {
            return Err(DropReason::NoPort);
        }
        let at_limit = takes_one && !budget.take_entry(batch.now.monotonic, had);
        if at_limit && !evicts {
            return Err(DropReason::EntriesLimit);
        }
        let live = if nearly_full || at_limit { live.of(*table) } else { None };
        let created = self.table.create(sought, wanted, at_limit, live, random, |change| {
            self.buckets.changed(&change);
            if let Change::Deleted { port, .. } = change {
                self.unstable.insert(port.0, batch.record);
            }
            record(stats, outbox, *table, change);
        });
        if takes_one && !at_limit && self.table.len() == had {
            budget.give_entry();
        }
        if let Ok(slot) = created {
            self.unstable.insert(self.table.entry(slot).port.0, batch.record);
            self.newest = batch.record;
            self.created += 1;
        }
        created
    }

    /// The NAT64 knows the client of the entry in `slot` by this authenticator.
    #[inline(always)] // As `touch`.
    pub(super) fn learn_at(&mut self, slot: Slot, authenticator: &[u8], effects: &mut Effects<'_>) {
        let can_record = effects.batch.frozen.is_none();
        if (can_record || effects.shared.late.has_room())
            && self.table.learn_at(slot, authenticator, can_record, |change| effects.record(change))
        {
            self.record_later(self.table.entry(slot).client.address, effects);
        }
    }

    /// The NAT64 knows the client at `address` by this authenticator.
    pub(super) fn learn_address(
        &mut self,
        address: Ipv6Addr,
        authenticator: &[u8],
        effects: &mut Effects<'_>,
    ) {
        let can_record = effects.batch.frozen.is_none();
        let has_room = can_record || effects.shared.late.has_room();
        let record = |change| effects.record(change);
        if has_room && self.table.learn(address, authenticator, can_record, record) {
            self.record_later(address, effects);
        }
    }

    /// The authenticator of `address` is recorded in a second, by [`Channel::record_late`], or when
    /// anything can be. Where nothing can be now, there is room for that.
    #[cold]
    fn record_later(&mut self, address: Ipv6Addr, effects: &mut Effects<'_>) {
        let (due, table) = (effects.now() + RECORD_EVERY, effects.table);
        if !effects.shared.late.push(LateRecord { due, table, address }) {
            self.table.record_late(address, |change| effects.record(change));
        }
    }

    /// Records the authenticator of `address`, unless that was done, or the address has gone.
    pub(super) fn record_late(&mut self, now: Coarse, address: Ipv6Addr) -> Option<Change> {
        self.table.set_time(now.second as u16, now.tick);
        let mut recorded = None;
        self.table.record_late(address, |change| recorded = Some(change));
        recorded
    }
}
