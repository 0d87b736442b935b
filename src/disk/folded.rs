//! [`FoldedTable`]: a table made of changes alone, to be written down as the changes that make it.

use crate::handoff::change::{Change, Timestamp};
use crate::handoff::entry::{MappedPort, TableKey};
use crate::handoff::names::PoolNames;
use crate::handoff::random::SecretHash;
use crate::handoff::server::Channel;
use crate::handoff::table::TableLimits;

/// A table that changes made.
pub(super) struct FoldedTable {
    pub key: TableKey,
    pub initialized: Timestamp,
    handoff_port: u16,
    hash: SecretHash,
    /// Without content where it is a block of the pool.
    nat64: Channel,
    /// None where it is no block of the pool.
    names: PoolNames,
    is_forgotten: bool,
}

impl FoldedTable {
    /// Nothing has happened to it yet.
    pub fn new(key: TableKey, handoff_port: u16, hash: SecretHash) -> Self {
        Self {
            key,
            initialized: Timestamp::default(),
            handoff_port,
            hash,
            nat64: Channel::new(TableLimits::default(), handoff_port, hash),
            names: PoolNames::default(),
            is_forgotten: false,
        }
    }

    pub fn apply(&mut self, change: &Change) {
        if self.key.is_block() {
            return self.names.apply(change);
        }
        self.is_forgotten = *change == Change::Forgotten;
        if self.is_forgotten {
            self.nat64 = Channel::new(TableLimits::default(), self.handoff_port, self.hash);
        } else {
            self.nat64.apply(change, 0);
        }
    }

    /// Deletes what contradicts a change that is to be applied next: what would have deleted it was
    /// lost.
    pub fn make_room(&mut self, change: &Change) {
        if self.key.is_block() {
            return self.names.make_room(change);
        }
        let Change::Created { port, client } = change else { return };
        let table = self.nat64.table();
        let in_the_way: Vec<Change> = [table.find_port(*port), table.find(client)]
            .into_iter()
            .flatten()
            .map(|slot| table.entry(slot))
            .map(|entry| Change::Deleted { port: entry.port, client: entry.client })
            .collect();
        in_the_way.iter().for_each(|change| self.nat64.apply(change, 0));
    }

    /// Whether there is nothing to be written down.
    pub fn is_gone(&self) -> bool {
        self.is_forgotten || self.key.is_block() && self.names.is_empty()
    }

    /// How many entries and names it has.
    pub fn counts(&self) -> (usize, usize) {
        (self.nat64.table().len(), self.names.len())
    }

    /// The changes that make it, but for `Initialized`.
    pub fn changes(&self) -> impl Iterator<Item = Change> {
        self.nat64.changes().chain(self.names.changes())
    }

    /// Deletes the entry on `port`, which is becoming a handoff port.
    pub fn bar(&mut self, port: u16) -> Option<Change> {
        let table = self.nat64.table();
        let entry = table.entry(table.find_port(MappedPort(port))?);
        let change = Change::Deleted { port: entry.port, client: entry.client };
        self.nat64.apply(&change, 0);
        Some(change)
    }
}
