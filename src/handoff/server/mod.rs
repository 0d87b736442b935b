//! One shard: its NAT64s, and [`Server::handle`], which answers a datagram (PROTOCOL.md sections 5 to 7).
//!
//! Pure: the clock comes with each datagram, randomness from a seed, and what is to be sent or logged is
//! left in an [`Outbox`]. Replies are written in place, in front of the embedded packet.

mod channels;
mod nat64;
mod prefetch;
mod replayed;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ipnet::Ipv4Net;

use crate::handoff::change::{Change, Now};
use crate::handoff::entry::{ControlPort, Entry, TableKey};
use crate::handoff::fragments::FragmentNotes;
use crate::handoff::identity::Attenuation;
use crate::handoff::message::{ReportedPacket, Request, RequestKind, Span, VALIDATION_PORT};
use crate::handoff::opaque::Token;
use crate::handoff::proof::{self, ProofKeys, ValidationRate};
use crate::handoff::random::{Random, SEED_LENGTH, SecretHash};
use crate::handoff::stats::{Counter, DropReason, Stats};
use crate::handoff::table::{Live, TableLimits};
use crate::ip::packet::Ipv4;
use channels::Nat64s;
pub(crate) use nat64::Nat64;
pub use prefetch::{AHEAD_MAX, Foreseen};
pub use replayed::Replayed;

/// A request, and whom it came from.
#[derive(Debug)]
pub struct Datagram<'a> {
    /// The addresses that it was sent between.
    pub table: TableKey,
    /// The port that it came from.
    pub port: u16,
    /// The buffer that it stands in. Replies are written into it.
    pub buffer: &'a mut [u8],
    /// Where the payload stands in the buffer.
    pub payload: Range<usize>,
    /// From here on the buffer can be written to. A reply that has no room in front of its packet is written
    /// elsewhere; with [`message::HEAD_ROOM`] octets in front of the payload there is always room.
    pub room: usize,
}

/// Where a reply's payload stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// In the buffer of the datagram that is answered.
    InPlace(Range<usize>),
    /// In [`Outbox::copies`].
    Copied(Range<usize>),
}

/// A payload to send to the NAT64, from the address that the request was sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Which datagram of the batch it answers: see [`Outbox::datagram`].
    pub datagram: usize,
    /// Where it goes.
    pub to: SocketAddrV4,
    /// What it says.
    pub body: Body,
    /// It announces what this record says: it may leave when that is durable.
    pub after: u64,
}

/// What came of a batch of datagrams, in order. Kept from batch to batch: it allocates no more once it
/// is large enough.
#[derive(Debug, Default)]
pub struct Outbox {
    /// The number that replies to the next datagram are to carry.
    pub datagram: usize,
    /// The number of the record that the changes of this batch will stand in.
    pub record: u64,
    /// The number of the last record that is durable.
    pub durable: u64,
    /// Nothing can be recorded now: there must be no change.
    pub frozen: bool,
    /// What is to be sent.
    pub replies: Vec<Reply>,
    /// What changed, and where.
    pub changes: Vec<(TableKey, Change)>,
    copies: Vec<u8>,
}

impl Outbox {
    /// Empty again.
    pub fn clear(&mut self) {
        self.replies.clear();
        self.changes.clear();
        self.copies.clear();
    }

    /// The payloads that were not written in place.
    pub fn copies(&self) -> &[u8] {
        &self.copies
    }

    /// Replies with what was written to `range` of the datagram's buffer.
    pub fn in_place(&mut self, to: SocketAddrV4, after: u64, range: Range<usize>) {
        let body = Body::InPlace(range);
        self.replies.push(Reply { datagram: self.datagram, to, body, after });
    }

    /// Writes a payload elsewhere; nothing is sent where `emit` fails.
    ///
    /// # Errors
    /// Those of `emit`.
    pub fn copy(
        &mut self,
        to: SocketAddrV4,
        after: u64,
        emit: impl FnOnce(&mut Vec<u8>) -> Result<(), DropReason>,
    ) -> Result<(), DropReason> {
        let start = self.copies.len();
        let result = emit(&mut self.copies);
        match result {
            Ok(()) => {
                let body = Body::Copied(start..self.copies.len());
                self.replies.push(Reply { datagram: self.datagram, to, body, after });
            }
            Err(_) => self.copies.truncate(start),
        }
        result
    }
}

/// What is filled but for one part in so many is nearly full: then it is time to know which connections are live.
const NEARLY_FULL_BUT: usize = 8;

/// Whether so many of at most so many are all, or nearly.
fn is_nearly_full(used: usize, max: usize) -> bool {
    used + max / NEARLY_FULL_BUT + 1 >= max
}

/// How many NAT64s and entries all shards together may have (PROTOCOL.md section 5).
#[derive(Debug)]
pub struct Budget {
    nat64s_max: usize,
    entries_max: usize,
    nat64s: AtomicUsize,
    /// A table counts as one entry while it has none, so that it can always have one.
    entries: AtomicUsize,
}

impl Budget {
    /// Nothing used yet.
    pub fn new(nat64s_max: usize, entries_max: usize) -> Self {
        let (nat64s, entries) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { nat64s_max, entries_max, nat64s, entries }
    }

    /// How many NAT64s there are.
    pub fn nat64s(&self) -> usize {
        self.nat64s.load(Ordering::Relaxed)
    }

    /// How many entries there are; an empty table counts as one.
    pub fn entries(&self) -> usize {
        self.entries.load(Ordering::Relaxed)
    }

    /// Whether tables have to replace their own entries, or soon will.
    fn is_nearly_used(&self) -> bool {
        is_nearly_full(self.entries(), self.entries_max)
    }

    /// Whether a new NAT64 can be admitted.
    fn has_room(&self) -> Result<(), DropReason> {
        if self.nat64s() >= self.nat64s_max {
            return Err(DropReason::Nat64sLimit);
        }
        if self.entries() >= self.entries_max {
            return Err(DropReason::EntriesLimit);
        }
        Ok(())
    }

    fn admit(&self) -> Result<(), DropReason> {
        if !take(&self.nat64s, self.nat64s_max) {
            return Err(DropReason::Nat64sLimit);
        }
        if !self.take_entry() {
            self.nat64s.fetch_sub(1, Ordering::Relaxed);
            return Err(DropReason::EntriesLimit);
        }
        Ok(())
    }

    fn take_entry(&self) -> bool {
        take(&self.entries, self.entries_max)
    }

    fn give_entry(&self) {
        self.entries.fetch_sub(1, Ordering::Relaxed);
    }
}

fn take(counter: &AtomicUsize, max: usize) -> bool {
    let next = |n| (n < max).then_some(n + 1);
    counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
}

/// Which NAT64 addresses are served at all.
#[derive(Debug, Clone, Default)]
pub struct AccessList {
    /// Where this is not empty, only these.
    pub allow: Vec<Ipv4Net>,
    /// None of these, even if allowed.
    pub deny: Vec<Ipv4Net>,
}

impl AccessList {
    fn permits(&self, nat64: Ipv4Addr) -> bool {
        let within = |nets: &[Ipv4Net]| nets.iter().any(|net| net.contains(&nat64));
        (self.allow.is_empty() || within(&self.allow)) && !within(&self.deny)
    }
}

/// Tells on which mapped ports this host has a live TCP connection with the NAT64: those entries are
/// passed over when one has to go (PROTOCOL.md section 6).
pub trait LiveConnections: Send {
    /// What is known of `table`, which is full or soon will be. Must not wait.
    fn of(&mut self, table: TableKey) -> Option<Live<'_>>;
}

/// Knows of no connection.
#[derive(Debug, Clone, Copy)]
pub struct NoneKnown;

impl LiveConnections for NoneKnown {
    fn of(&mut self, _: TableKey) -> Option<Live<'_>> {
        None
    }
}

/// What a shard is made with.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// The port that requests come in by.
    pub handoff_port: u16,
    /// The bounds of each table.
    pub limits: TableLimits,
    /// The most validation packets a second from this shard.
    pub validation_rate: u32,
    /// Shared by all shards.
    pub budget: Arc<Budget>,
    /// Shared by all shards.
    pub access: Arc<AccessList>,
}

/// The state of one shard.
pub struct Server {
    config: ServerConfig,
    nat64s: Nat64s,
    /// For addresses that are not known: they have no state of their own.
    attenuation: Attenuation,
    validation_rate: ValidationRate,
    context: Context,
}

/// What the NAT64s of a shard share.
struct Context {
    random: Random,
    keys: ProofKeys,
    hash: SecretHash,
    notes: FragmentNotes,
    live: Box<dyn LiveConnections>,
    budget: Arc<Budget>,
    stats: Arc<Stats>,
}

/// One request on its way through: the addresses, the time, and where its answer goes.
struct Exchange<'a> {
    now: &'a Now,
    table: TableKey,
    /// Where replies go: the address and port that the request came from.
    source: SocketAddrV4,
    buffer: &'a mut [u8],
    payload: Range<usize>,
    /// See [`Datagram::room`].
    room: usize,
    outbox: &'a mut Outbox,
    foreseen: &'a Foreseen,
    /// The record that made the identity known that asks.
    since: u64,
}

impl Exchange<'_> {
    fn payload(&self) -> &[u8] {
        &self.buffer[self.payload.clone()]
    }

    /// Where `span` stands in the buffer.
    fn range(&self, span: Span) -> Range<usize> {
        self.payload.start + span.start()..self.payload.start + span.end()
    }

    fn octets(&self, span: Span) -> &[u8] {
        span.of(self.payload())
    }
}

impl Server {
    /// An empty shard. `seed` is for all that must not be predictable.
    pub fn new(
        config: ServerConfig,
        seed: [u8; SEED_LENGTH],
        now: Duration,
        live: Box<dyn LiveConnections>,
        stats: Arc<Stats>,
    ) -> Self {
        let mut random = Random::new(seed);
        let hash = SecretHash::new(random.key());
        Self {
            nat64s: Nat64s::default(),
            attenuation: Attenuation::default(),
            validation_rate: ValidationRate::new(config.validation_rate),
            context: Context {
                keys: ProofKeys::new(now, &mut random),
                random,
                hash,
                notes: FragmentNotes::new(hash),
                live,
                budget: Arc::clone(&config.budget),
                stats,
            },
            config,
        }
    }

    /// Answers a datagram: leaves replies and changes in `outbox`, or counts why there are none.
    ///
    /// # Panics
    /// Where the payload is not within its part of the buffer: the backend's contract.
    pub fn handle(&mut self, now: Now, datagram: Datagram<'_>, outbox: &mut Outbox) {
        let mut foreseen = [Foreseen::default()];
        let payload = &datagram.buffer[datagram.payload.clone()];
        self.foresee(datagram.table, payload, 0, &mut foreseen);
        self.handle_foreseen(&now, datagram, &foreseen[0], outbox);
    }

    /// As [`Server::handle`], for one of a batch of datagrams. `foreseen` is what [`Server::foresee`] said of this
    /// one; any others may have been answered since.
    ///
    /// # Panics
    /// Likewise.
    pub fn handle_foreseen(
        &mut self,
        now: &Now,
        datagram: Datagram<'_>,
        foreseen: &Foreseen,
        outbox: &mut Outbox,
    ) {
        let Datagram { table, port, buffer, payload, room } = datagram;
        assert!(room <= payload.start && payload.end <= buffer.len());
        self.context.stats.add(Counter::Datagrams, 1);
        let source = SocketAddrV4::new(table.nat64, port);
        let mut exchange =
            Exchange { now, table, source, buffer, payload, room, outbox, foreseen, since: 0 };
        if let Err(reason) = self.receive(&mut exchange) {
            self.context.stats.count_drop(reason);
        }
    }

    /// Does again what a record says.
    pub fn replay(&mut self, table: TableKey, change: &Change) {
        let budget = &self.context.budget;
        let limits = self.config.limits;
        let hash = self.context.hash;
        let make = || {
            budget.nat64s.fetch_add(1, Ordering::Relaxed);
            budget.entries.fetch_add(1, Ordering::Relaxed);
            Ok::<_, Infallible>(Nat64::new(limits, self.config.handoff_port, hash))
        };
        let Ok(nat64) = self.nat64s.find_or_insert(&hash, table, make);
        let weight = |nat64: &Nat64| nat64.table().len().max(1);
        let before = weight(nat64);
        nat64.apply(change, 0);
        let after = weight(nat64);
        budget.entries.fetch_add(after.saturating_sub(before), Ordering::Relaxed);
        budget.entries.fetch_sub(before.saturating_sub(after), Ordering::Relaxed);
    }

    /// The counters of this shard.
    pub fn stats(&self) -> &Stats {
        &self.context.stats
    }

    /// How many NAT64s this shard knows.
    pub fn nat64s(&self) -> usize {
        self.nat64s.len()
    }

    /// The tables where an entry has to go for a new one, or soon will have to.
    pub fn nearly_full(&self) -> impl Iterator<Item = TableKey> {
        let nearly_used = self.config.budget.is_nearly_used();
        let nearly_full = move |nat64: &Nat64| nearly_used || nat64.is_nearly_full();
        self.nat64s.iter().filter(move |(_, nat64)| nearly_full(nat64)).map(|(key, _)| key)
    }

    /// All entries of all tables: for tests and tools.
    pub fn entries(&self) -> impl Iterator<Item = (TableKey, Entry)> {
        self.nat64s
            .iter()
            .flat_map(|(key, nat64)| nat64.table().by_use().map(move |entry| (key, entry)))
    }

    /// Whether (`port`, `token`) of the table's NAT64 has proved itself.
    pub fn is_known(&self, table: TableKey, port: ControlPort, token: &[u8]) -> bool {
        let hash = channels::hash_of(&self.context.hash, table);
        let nat64 = self.nat64s.find(hash, table).map(|number| self.nat64s.get(number));
        nat64.is_some_and(|nat64| nat64.is_known(port, token))
    }

    /// What contradicts itself in here, if anything does: for tests and fuzzing. Looks at every entry.
    pub fn contradiction(&self) -> Option<String> {
        let weight = |nat64: &Nat64| nat64.table().len().max(1);
        let entries: usize = self.nat64s.iter().map(|(_, nat64)| weight(nat64)).sum();
        if entries > self.config.budget.entries() || self.nat64s.len() > self.config.budget.nat64s()
        {
            return Some(format!("{entries} entries are more than the budget knows of"));
        }
        self.nat64s.iter().find_map(|(_, nat64)| nat64.table().contradiction())
    }

    #[inline]
    fn receive(&mut self, exchange: &mut Exchange<'_>) -> Result<(), DropReason> {
        if exchange.source.port() == 0 {
            return Err(DropReason::SourcePortZero);
        }
        if !self.config.access.permits(exchange.table.nat64) {
            return Err(DropReason::NotAllowed);
        }
        let foreseen = exchange.foreseen;
        let request = foreseen.request.as_ref().map_err(|&reason| reason)?;
        let Context { keys, random, .. } = &mut self.context;
        keys.renew(exchange.now.monotonic, random);
        let port = ControlPort(exchange.source.port());
        let known = self.nat64s.find_mut(foreseen.nat64, foreseen.nat64_hash, exchange.table);
        let is_known_nat64 = known.is_some();
        let mut rotated = false;
        match known {
            Some(nat64) => {
                if let Some(since) = nat64.recognize(port, exchange.octets(request.token)) {
                    exchange.since = since;
                    return nat64.request(request, false, exchange, &mut self.context);
                }
                let old = request.rotation.map(|old| exchange.octets(old));
                // It was used: it must not be the one that makes room for its successor.
                rotated = old.is_some_and(|old| nat64.recognize(port, old).is_some());
            }
            None => self.config.budget.has_room()?,
        }
        if exchange.outbox.frozen {
            return Err(DropReason::JournalUnavailable);
        }
        let proof = self.carries_proof(request, exchange);
        if proof || rotated {
            self.admit(request, proof, exchange)
        } else {
            self.validate(request, exchange, is_known_nat64)
        }
    }

    /// Whether the request returns the proof that was sent to whoever it comes from.
    fn carries_proof(&self, request: &Request, exchange: &Exchange<'_>) -> bool {
        let (RequestKind::ServicePacket { packet }
        | RequestKind::Report { packet: Some(ReportedPacket::Service(packet)), .. }) = request.kind
        else {
            return false;
        };
        let token = exchange.octets(request.token);
        let port = ControlPort(exchange.source.port());
        Ipv4::new(exchange.octets(packet)).is_some_and(|packet| {
            self.context.keys.verify(exchange.table, port, token, packet.data())
        })
    }

    /// The identity of this request has proved itself, or is the successor of one that had.
    fn admit(
        &mut self,
        request: &Request,
        proof: bool,
        exchange: &mut Exchange<'_>,
    ) -> Result<(), DropReason> {
        exchange.since = exchange.outbox.record;
        let Context { budget, stats, hash, .. } = &self.context;
        let make = || {
            budget.admit()?;
            stats.add(Counter::Initialized, 1);
            exchange.outbox.changes.push((exchange.table, Change::Initialized));
            Ok(Nat64::new(self.config.limits, self.config.handoff_port, *hash))
        };
        let nat64 = self.nat64s.find_or_insert(hash, exchange.table, make)?;
        let port = ControlPort(exchange.source.port());
        // A token that was parsed has a length that a token can have.
        if let Some(token) = Token::new(exchange.octets(request.token)) {
            nat64.admit(port, token, exchange.table, exchange.outbox, &self.context);
        }
        nat64.request(request, proof, exchange, &mut self.context)
    }

    /// Asks an unknown identity for its proof, keeping nothing.
    fn validate(
        &mut self,
        request: &Request,
        exchange: &mut Exchange<'_>,
        known: bool,
    ) -> Result<(), DropReason> {
        let &Foreseen { nat64, nat64_hash, .. } = exchange.foreseen;
        let attenuation = match self.nat64s.find_mut(nat64, nat64_hash, exchange.table) {
            Some(nat64) => nat64.attenuation(),
            None => &mut self.attenuation,
        };
        if !attenuation.passes(&mut self.context.random) {
            return Err(DropReason::Attenuated);
        }
        if !self.validation_rate.take(exchange.now.monotonic, known) {
            return Err(DropReason::ValidationRate);
        }
        let payload = &exchange.buffer[exchange.payload.clone()];
        let token = request.token.of(payload);
        let proof =
            self.context.keys.proof(exchange.table, ControlPort(exchange.source.port()), token);
        let authenticator = request.authenticator.map(|span| span.of(payload));
        let to = SocketAddrV4::new(exchange.table.nat64, VALIDATION_PORT);
        self.context.stats.add(Counter::ValidationPackets, 1);
        exchange.outbox.copy(to, 0, |out| {
            proof::emit_validation_packet(out, payload.len(), token, authenticator, &proof);
            Ok(())
        })
    }
}
