//! What an operator may see of a shard, and order: its tables, the entries of one, and that one is
//! to go. Each call looks at a bounded part, so that no request waits long; whoever asks goes on
//! where the last call ended.
//!
//! What a walk over several calls guarantees: a table, or an entry, that is there all the time is
//! told. One that came or went meanwhile is told or not. A table may be told twice.

use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv6Net;

use super::Server;
use super::channel::Channel;
use super::channels::hash_of;
use super::tend::DroppedTable;
use crate::handoff::entry::{Client, Entry, MappedPort, TableKey};
use crate::handoff::identity::{IDENTITIES_MAX, SeenIdentity};

/// The most tables that one call of [`Server::see_tables`] looks at.
pub const SEEN_TABLES_MAX: usize = 128;
/// The most tables whose addresses one call of [`Server::find_tables`] reads.
const FOUND_TABLES_MAX: usize = 4096;
/// The most places of entries that one call of [`Server::see_entries`] looks at.
pub const SEEN_ENTRIES_MAX: usize = 512;
/// To look whether a table has a client at all takes as long as to look at so many places.
const TABLE_PLACES: usize = 2;

/// Where a walk over the entries of some clients goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientsPlace {
    /// The tables below this are left.
    below: usize,
    /// Of the last of these, the slots from this on.
    slot: usize,
}

impl ClientsPlace {
    /// Where it begins.
    pub const START: Self = Self { below: usize::MAX, slot: 0 };
}

/// What is known of a table. Times are those of the clock that the server is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenTable {
    pub key: TableKey,
    pub entries: u32,
    /// How many entries it can have, as long as all tables together have room.
    pub capacity: u32,
    /// The first so many are there, the most recently used first.
    pub identities: [SeenIdentity; IDENTITIES_MAX],
    pub identities_count: u8,
    /// Requests of known identities since it came into being, or the server started.
    pub requests: u64,
    /// Entries that were created since then.
    pub created: u64,
    /// When it was asked something last; or when the server started, if that was later.
    pub last_used: Duration,
    /// When it came into being, or the server started.
    pub since: Duration,
    /// It is being given up.
    pub is_going: bool,
}

impl SeenTable {
    /// Those of its identities that are there.
    pub fn identities(&self) -> &[SeenIdentity] {
        &self.identities[..usize::from(self.identities_count).min(IDENTITIES_MAX)]
    }
}

impl Server {
    /// Looks at tables below place `below` (at the first call: any number above all), from the last
    /// to the first, as a table that goes leaves its place to the last one. Adds what it sees to
    /// `seen`, and returns below which place to go on, if there are more.
    pub fn see_tables(&self, below: usize, seen: &mut Vec<SeenTable>) -> Option<usize> {
        let below = below.min(self.nat64s());
        let first = below.saturating_sub(SEEN_TABLES_MAX);
        for place in (first..below).rev() {
            if let Some((key, channel)) = self.channels().nth(place) {
                let is_going = self.admission.tending.is_going(key);
                seen.push(SeenTable { key, is_going, ..channel.seen() });
            }
        }
        (first > 0).then_some(first)
    }

    /// As [`Server::see_tables`], for those of one NAT64: adds between which addresses they are.
    pub fn find_tables(
        &self,
        nat64: Ipv4Addr,
        below: usize,
        found: &mut Vec<TableKey>,
    ) -> Option<usize> {
        let below = below.min(self.nat64s());
        let first = below.saturating_sub(FOUND_TABLES_MAX);
        let keys = (first..below).rev().filter_map(|place| self.channels().nth(place));
        found.extend(keys.map(|(key, _)| key).filter(|key| key.nat64 == nat64));
        (first > 0).then_some(first)
    }

    /// Looks at the entries of a table from place `from` on. Adds those that it sees to `seen`, and
    /// returns where to go on, if there are more: `None` is also returned where there is no such
    /// table.
    pub fn see_entries(
        &self,
        table: TableKey,
        from: usize,
        seen: &mut Vec<Entry>,
    ) -> Option<usize> {
        let number = self.channels().find(hash_of(&self.shared.hash, table), table)?;
        let table = self.channels().get(number).table();
        let places = from..from.saturating_add(SEEN_ENTRIES_MAX);
        let next = places.end;
        table.see_entries(places, seen).then_some(next)
    }

    /// Looks at the entries of the clients in `net`, in all tables, from `place` on. Adds them to
    /// `seen`, and returns where to go on, if there are more.
    pub fn see_clients(
        &self,
        net: Ipv6Net,
        place: ClientsPlace,
        seen: &mut Vec<(TableKey, Entry)>,
    ) -> Option<ClientsPlace> {
        let ClientsPlace { below, mut slot } = place;
        let mut below = below.min(self.nat64s());
        let mut left = SEEN_ENTRIES_MAX;
        while left > 0 && below > 0 {
            let Some((key, channel)) = self.channels().nth(below - 1) else { break };
            let add = |entry| seen.push((key, entry));
            let (looked_at, next) = channel.table().see_clients(net, slot, left, add);
            left = left.saturating_sub(looked_at + TABLE_PLACES);
            match next {
                Some(next) => slot = next,
                None => (below, slot) = (below - 1, 0),
            }
        }
        (below > 0).then_some(ClientsPlace { below, slot })
    }

    /// The client that a port of a NAT64 stands for, if it stands for any.
    pub fn client_at(&self, table: TableKey, port: MappedPort) -> Option<Client> {
        let number = self.channels().find(hash_of(&self.shared.hash, table), table)?;
        let table = self.channels().get(number).table();
        table.find_port(port).map(|slot| table.entry(slot).client)
    }

    /// Orders that a table is given up: first its identities are forgotten, then its entries are
    /// deleted, some with each [`Server::tend`], and then it is forgotten, as for a newcomer.
    /// Returns the number of the order; `None` where as many orders wait as may.
    pub fn drop_table(&mut self, table: TableKey) -> Option<u64> {
        self.admission.tending.order(table)
    }

    /// Takes an order back, if nothing was done for it yet. Returns whether that is so.
    pub fn revoke_drop(&mut self, order: u64) -> bool {
        self.admission.tending.revoke(order)
    }

    /// What came of an order, if it was carried out and not many were since.
    pub fn dropped_table(&self, order: u64) -> Option<DroppedTable> {
        self.admission.tending.carried_out(order)
    }
}

impl Channel {
    fn seen(&self) -> SeenTable {
        let key = TableKey { local: 0.into(), nat64: 0.into() };
        let (identities, count) = self.seen_identities();
        SeenTable {
            key,
            entries: self.table().len() as u32,
            capacity: self.table().capacity() as u32,
            identities,
            identities_count: count as u8,
            requests: self.requests,
            created: self.created,
            last_used: self.last_used().max(self.since),
            since: self.since,
            is_going: false,
        }
    }
}
