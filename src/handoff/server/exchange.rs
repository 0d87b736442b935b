//! [`Exchange`]: one request on its way through the server, in two parts that are borrowed apart:
//! what was asked, and the [`Effects`] of it.

use std::sync::Arc;
use std::time::Duration;

use super::batch::{Batch, Datagram, LiveConnections, Outbox};
use super::budget::Budget;
use super::late::LateRecords;
use crate::handoff::bans::Bans;
use crate::handoff::change::Change;
use crate::handoff::delivery::{HostDelivery, LastFlow, LastTunnel};
use crate::handoff::entry::{Client, MappedPort, TableKey};
use crate::handoff::fragments::FragmentNotes;
use crate::handoff::pool::ClientAddresses;
use crate::handoff::proof::ProofKeys;
use crate::handoff::random::{Random, SecretHash};
use crate::handoff::stats::{Counter, Stats};
use crate::handoff::table::{HashedClient, Slot};
use crate::ip::fragment::FragmentKey;

/// What the channels of a shard share.
pub struct Shared {
    pub random: Random,
    pub keys: ProofKeys,
    pub hash: SecretHash,
    pub notes: FragmentNotes,
    pub late: LateRecords,
    pub create_rate: u32,
    /// None: nobody is banned.
    pub bans: Option<Arc<Bans>>,
    /// None: nothing is delivered on this host.
    pub delivery: Option<Arc<HostDelivery>>,
    /// None: nothing is translated, or whoever does it gives addresses.
    pub addresses: Option<ClientAddresses>,
    pub last_flow: Option<LastFlow>,
    pub last_tunnel: Option<LastTunnel>,
    pub budget: Arc<Budget>,
    pub stats: Arc<Stats>,
}

/// What the entry of a request is looked up by, where the first pass over the batch could tell.
#[derive(Debug, Clone, Copy)]
pub enum Wanted {
    /// The client that sent the packet: TCP or UDP, not a fragment, from an address and port that a
    /// client can have.
    Sender(HashedClient),
    /// The same, where the packet is delivered if there is no entry.
    Delivered(HashedClient),
    /// The client of the entry that was reported.
    Reported(HashedClient),
    /// The mapped port that a packet was sent to.
    Port(MappedPort),
    Nothing,
}

impl Wanted {
    /// Who sent the client packet, where it came without a report and needs no closer look.
    pub fn sender(&self) -> Option<&HashedClient> {
        match self {
            Wanted::Sender(client) | Wanted::Delivered(client) => Some(client),
            _ => None,
        }
    }

    /// Whose entry was reported, if one was.
    pub fn reported(&self) -> Option<&HashedClient> {
        match self {
            Wanted::Reported(client) => Some(client),
            _ => None,
        }
    }
}

/// One request, and what comes of it.
pub struct Exchange<'a> {
    pub datagram: Datagram<'a>,
    pub wanted: &'a Wanted,
    /// Where the wanted entry probably is.
    pub probable: Option<Slot>,
    /// The record by which the identity that asks became known. Every reply waits until it is
    /// durable.
    pub known_since: u64,
    pub effects: Effects<'a>,
}

/// What a request can change, and what the changes depend on.
pub struct Effects<'a> {
    pub table: TableKey,
    pub batch: &'a Batch,
    pub live: &'a mut dyn LiveConnections,
    pub outbox: &'a mut Outbox,
    pub shared: &'a mut Shared,
}

impl Effects<'_> {
    /// Since some fixed moment, never backwards.
    pub fn now(&self) -> Duration {
        self.batch.now.monotonic
    }

    /// Counts a change of this table and passes it on.
    pub fn record(&mut self, change: Change) {
        record(&self.shared.stats, self.outbox, self.table, change);
    }

    /// Whose packet `key` is, if the note of its first fragment says so.
    pub fn noted(&self, key: FragmentKey) -> Option<Client> {
        self.shared.notes.find(self.now(), self.table, key)
    }

    /// Notes whose packet `key` is, for the later fragments.
    pub fn leave_note(&mut self, key: FragmentKey, client: Client) {
        self.shared.notes.leave(self.batch.now.monotonic, self.table, key, client);
    }
}

/// As [`Effects::record`], where its parts are borrowed apart.
pub fn record(stats: &Stats, outbox: &mut Outbox, table: TableKey, change: Change) {
    let counter = match change {
        Change::Initialized => Counter::Initialized,
        Change::Created { .. } => Counter::Created,
        Change::Deleted { .. } => Counter::Deleted,
        Change::Conflict { .. } => Counter::Conflicts,
        Change::IdentityKnown { .. } => Counter::IdentitiesLearned,
        Change::AuthenticatorLearned { .. } => Counter::AuthenticatorsLearned,
        Change::IdentityForgotten { .. } => Counter::IdentitiesForgotten,
        Change::Used { .. } => Counter::EntriesUsed,
        Change::Forgotten => Counter::Forgotten,
        Change::Named { .. } => Counter::PoolNamed,
        Change::Unnamed { .. } => Counter::PoolUnnamed,
    };
    stats.add(counter, 1);
    outbox.changes.push((table, change));
}
