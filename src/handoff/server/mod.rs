//! [`Server`]: the pure state of one shard, and [`Server::handle`], which answers a datagram
//! (PROTOCOL.md sections 5 to 7).
//!
//! The time, the live connections and a seed are arguments, and what is to be sent or recorded is
//! left in an [`Outbox`]. Replies are written in place, in front of the embedded packet. Frames of
//! Geneve come by [`Server::handle_frame`] (section 12).
//!
//! A datagram goes from `prefetch` (parsed) to `admission` (who is it), `channel` and its branches
//! `client_packet`, `service_packet` and `report` (what is asked), and to `reply`.

mod addressed;
mod admission;
mod banned;
mod batch;
mod budget;
mod channel;
mod channels;
mod client_packet;
mod crowds;
mod delivered;
mod demand;
mod exchange;
mod fair;
mod geneve;
mod late;
mod prefetch;
mod price;
mod replayed;
mod reply;
mod report;
mod room;
mod seen;
mod service_packet;
mod tend;
#[cfg(test)]
mod tests;
mod worth;

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;

use crate::handoff::change::{Change, Now};
use crate::handoff::entry::{ControlPort, Entry, TableKey};
use crate::handoff::fragments::FragmentNotes;
use crate::handoff::identity::Attenuation;
use crate::handoff::names::PoolNames;
use crate::handoff::proof::ProofKeys;
use crate::handoff::random::{Random, SEED_LENGTH, SecretHash};
use crate::handoff::secret::FleetSecret;
use crate::handoff::stats::{Counter, Stats};
use crate::handoff::table::TableLimits;
use crate::handoff::validation::{Validation, ValidationRate};
use admission::{Admission, carries_proof};
pub use batch::{
    Batch, Body, Coarse, Datagram, DeliveredPacket, EVENTS_BESIDE, LiveConnections, NoneKnown,
    Outbox, Reply, Translated, events_max,
};
pub use budget::Budget;
pub(crate) use channel::Channel;
use channels::Channels;
use exchange::{Effects, Exchange, Shared};
pub use late::RECORD_EVERY;
use late::{LateRecord, LateRecords};
pub use prefetch::{PREFETCH_MAX, Prepared};
pub use price::CREATE_RATE_DEFAULT;
pub use replayed::{ChangesLater, Replayed};
pub use seen::{ClientsPlace, SEEN_ENTRIES_MAX, SEEN_TABLES_MAX, SeenTable};
use tend::Tending;
pub use tend::{DroppedTable, TEND_EVENTS};

/// The most changes that [`Server::record_late`] leaves at a time.
const LATE_RECORDS_MAX: usize = 1_024;

/// Which NAT64 addresses are served at all.
#[derive(Debug, Clone, Default)]
pub struct AccessList {
    /// Only these, unless it is empty.
    pub allow: Vec<Ipv4Net>,
    /// None of these, even where `allow` has them.
    pub deny: Vec<Ipv4Net>,
}

impl AccessList {
    /// Whether a NAT64 with this address is served.
    #[inline(always)] // Mostly there are no lists.
    pub fn permits(&self, nat64: Ipv4Addr) -> bool {
        (self.allow.is_empty() && self.deny.is_empty()) || self.lists_permit(nat64)
    }

    #[inline(never)]
    fn lists_permit(&self, nat64: Ipv4Addr) -> bool {
        let within = |nets: &[Ipv4Net]| nets.iter().any(|net| net.contains(&nat64));
        (self.allow.is_empty() || within(&self.allow)) && !within(&self.deny)
    }
}

/// What a shard is made with.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// The port that requests come in by.
    pub handoff_port: u16,
    /// The bounds of each table.
    pub limits: TableLimits,
    /// The most validation packets a second. Shared by all shards.
    pub validation_rate: Arc<ValidationRate>,
    /// The most entries that one NAT64 may have created in a second, and conflicts that it may
    /// report, after two whole tables of them at once.
    pub create_rate: u32,
    /// Shared by all shards.
    pub budget: Arc<Budget>,
    /// Shared by all shards.
    pub access: Arc<AccessList>,
}

/// The state of one shard.
pub struct Server {
    admission: Admission,
    shared: Shared,
    /// Of the blocks of the pool that were replayed.
    names: PoolNames,
}

impl Server {
    /// An empty shard. `seed` is for all that must not be predictable.
    pub fn new(
        config: ServerConfig,
        seed: [u8; SEED_LENGTH],
        now: Duration,
        stats: Arc<Stats>,
    ) -> Self {
        let mut random = Random::new(seed);
        let hash = SecretHash::new(random.key());
        let shared = Shared {
            keys: ProofKeys::new(now, &mut random),
            random,
            hash,
            notes: FragmentNotes::new(hash),
            late: LateRecords::default(),
            create_rate: config.create_rate,
            bans: None,
            delivery: None,
            addresses: None,
            last_flow: None,
            last_tunnel: None,
            budget: Arc::clone(&config.budget),
            stats,
        };
        let admission = Admission {
            channels: Channels::default(),
            attenuation: Attenuation::default(),
            validation: Validation::new(Arc::clone(&config.validation_rate), hash),
            tending: Tending::new(config.budget.join(hash)),
            config,
        };
        Self { admission, shared, names: PoolNames::default() }
    }

    fn config(&self) -> &ServerConfig {
        &self.admission.config
    }

    fn channels(&self) -> &Channels {
        &self.admission.channels
    }

    /// Answers a datagram: leaves replies and changes in `outbox`, or counts why there are none.
    ///
    /// # Panics
    /// Where the payload is not within its part of the buffer: the backend's contract.
    pub fn handle(
        &mut self,
        batch: &Batch,
        live: &mut dyn LiveConnections,
        datagram: Datagram<'_>,
        outbox: &mut Outbox,
    ) {
        let mut prepared = [Prepared::default()];
        self.prepare(datagram.table, datagram.payload(), 0, &mut prepared);
        self.handle_prepared(batch, live, datagram, &prepared[0], outbox);
    }

    /// As [`Server::handle`]. `prepared` is what [`Server::prepare`] made of this datagram; any
    /// others of the batch may have been answered since.
    ///
    /// # Panics
    /// As [`Server::handle`].
    pub fn handle_prepared(
        &mut self,
        batch: &Batch,
        live: &mut dyn LiveConnections,
        datagram: Datagram<'_>,
        prepared: &Prepared,
        outbox: &mut Outbox,
    ) {
        assert!(
            datagram.room <= datagram.payload.start
                && datagram.payload.end <= datagram.buffer.len()
        );
        let Self { admission, shared, .. } = self;
        shared.stats.add(Counter::Datagrams, 1);
        let effects = Effects { table: datagram.table, batch, live, outbox, shared };
        let (wanted, probable) = (&prepared.wanted, prepared.probable);
        let mut exchange = Exchange { datagram, wanted, probable, known_since: 0, effects };
        if let Err(reason) = admission.receive(prepared, &mut exchange) {
            exchange.effects.shared.stats.count_drop(reason);
        }
    }

    /// Whether [`Server::record_late`] is to be called within [`RECORD_EVERY`], even if no datagram
    /// comes.
    pub fn is_late(&self) -> bool {
        !self.shared.late.is_empty()
    }

    /// Leaves in `outbox` the changes that were put off, as far as they are due and there are not
    /// too many: to be called with each batch.
    pub fn record_late(&mut self, batch: &Batch, outbox: &mut Outbox) {
        let Self { admission, shared, .. } = self;
        let now = batch.now.monotonic;
        for _ in 0..LATE_RECORDS_MAX {
            if batch.frozen.is_some() {
                return;
            }
            let Some(LateRecord { table, address, .. }) = shared.late.pop(now) else { return };
            let hash = channels::hash_of(&shared.hash, table);
            let channel = admission.channels.find_mut(None, hash, table);
            if let Some(change) =
                channel.and_then(|channel| channel.record_late(batch.coarse, address))
            {
                exchange::record(&shared.stats, outbox, table, change);
            }
        }
    }

    /// When [`Server::tend`] is to be called, if no datagram comes before.
    pub fn tend_due(&self) -> Option<Duration> {
        self.admission.tending.due(&self.shared.budget, self.nat64s())
    }

    /// Gives up tables for newcomers that found no room, some entries at a time. To be called with
    /// each batch, when the changes of the one before are written. Where fewer than [`TEND_EVENTS`]
    /// `events` may be left in `outbox`, nothing is done.
    pub fn tend(
        &mut self,
        batch: &Batch,
        events: usize,
        live: &mut dyn LiveConnections,
        outbox: &mut Outbox,
    ) {
        let has_work = self.admission.tending.has_work(&self.shared.budget);
        if has_work && !self.is_filling() && batch.frozen.is_none() && events >= TEND_EVENTS {
            let Self { admission: Admission { tending, channels, .. }, shared, .. } = self;
            tending.tend(batch.now.monotonic, batch.record, channels, live, outbox, shared);
        }
    }

    /// Applies a change of a table, as a record of the journal tells it.
    pub fn replay(&mut self, table: TableKey, change: &Change) {
        if table.is_block() {
            return self.names.apply(change);
        }
        let Shared { budget, hash, .. } = &self.shared;
        let ServerConfig { limits, handoff_port, .. } = self.admission.config;
        if *change == Change::Forgotten {
            if let Some(channel) = self.admission.channels.remove(hash, table) {
                budget.replayed_forgotten(table.nat64, channel.table().len());
            }
            return;
        }
        let make = || {
            budget.replayed_nat64(table.nat64, 0);
            Ok::<_, Infallible>(Channel::new(limits, handoff_port, *hash))
        };
        let Ok(channel) = self.admission.channels.find_or_insert(hash, table, make);
        let before = channel.table().len();
        channel.apply(change, 0);
        budget.entries_changed(before, channel.table().len());
    }

    /// Takes out all names of the blocks of the pool that were replayed: whoever gives addresses
    /// of the pool to clients goes on with them.
    pub fn take_names(&mut self) -> PoolNames {
        std::mem::take(&mut self.names)
    }

    /// From now on proofs are those of all hosts with this secret.
    pub fn share_proofs(&mut self, now: Now, secret: FleetSecret) {
        self.shared.keys = ProofKeys::of_fleet(now, secret);
    }

    /// Whether a request comes from an identity that is known, or returns its proof: then it is
    /// answered by whoever has the table. Others are asked for a proof, by anybody.
    pub fn has_proved(&mut self, now: Now, datagram: &Datagram<'_>, prepared: &Prepared) -> bool {
        let Ok(request) = &prepared.request else { return false };
        let Self { admission, shared: Shared { keys, random, .. }, .. } = self;
        if datagram.port == 0 || !admission.config.access.permits(datagram.table.nat64) {
            return false;
        }
        keys.renew(now, random);
        let port = ControlPort(datagram.port);
        let channel = admission.channels.find_mut(prepared.channel, prepared.hash, datagram.table);
        let knows = |token| channel.as_ref().is_some_and(|known| known.is_known(port, token));
        knows(datagram.octets(request.token))
            || request.rotation.is_some_and(|old| knows(datagram.octets(old)))
            || carries_proof(request, datagram, keys)
    }

    /// The counters of this shard.
    pub fn stats(&self) -> &Stats {
        &self.shared.stats
    }

    /// How many NAT64s this shard knows.
    pub fn nat64s(&self) -> usize {
        self.channels().len()
    }

    /// The tables where an entry has to go for a new one, or soon will have to.
    pub fn nearly_full(&self) -> impl Iterator<Item = TableKey> {
        let nearly_used = self.shared.budget.is_nearly_used();
        let all = self.channels().nearly_full();
        all.filter(move |&(_, nearly_full)| nearly_used || nearly_full).map(|(key, _)| key)
    }

    /// Whether an entry of this table has to go for a new one, or soon will have to.
    pub fn is_nearly_full(&self, table: TableKey) -> bool {
        let number = self.channels().find(channels::hash_of(&self.shared.hash, table), table);
        number.map(|number| self.channels().get(number)).is_some_and(|channel| {
            let nearly_used = self.shared.budget.is_nearly_used() && !channel.table().is_empty();
            nearly_used || channel.is_nearly_full()
        })
    }

    /// All entries of all tables: for tests and tools.
    pub fn entries(&self) -> impl Iterator<Item = (TableKey, Entry)> {
        self.channels()
            .iter()
            .flat_map(|(key, channel)| channel.table().by_use().map(move |entry| (key, entry)))
    }

    /// Whether (`port`, `token`) of the table's NAT64 has proved itself.
    pub fn is_known(&self, table: TableKey, port: ControlPort, token: &[u8]) -> bool {
        let hash = channels::hash_of(&self.shared.hash, table);
        let channel = self.channels().find(hash, table).map(|number| self.channels().get(number));
        channel.is_some_and(|channel| channel.is_known(port, token))
    }

    /// The first contradiction between the structures of the shard, if there is any: for tests and
    /// fuzzing. Reads every entry.
    pub fn contradiction(&self) -> Option<String> {
        let tables = || self.channels().iter().map(|(_, channel)| channel.table());
        let entries: usize = tables().map(|table| budget::weight(table.len())).sum();
        let budget = &self.shared.budget;
        if entries > budget.entries() || self.nat64s() > budget.nat64s() {
            return Some(format!("{entries} entries are more than the budget knows of"));
        }
        tables().find_map(|table| table.contradiction())
    }
}
