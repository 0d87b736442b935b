//! [`Replayed`]: tables that are filled from what was kept, away from the shard that they will belong to, so that
//! several threads can fill the tables of one shard.

use std::sync::atomic::Ordering;

use hashbrown::HashMap;

use super::{Nat64, Server};
use crate::change::{Change, TableKey};
use crate::random::SecretHash;
use crate::table::TableLimits;

/// Tables for a [`Server`], see [`Server::replayed`]. They count in no budget yet.
pub struct Replayed {
    nat64s: HashMap<TableKey, Box<Nat64>, SecretHash>,
    /// The one that was changed last. Changes of a table come many in a row.
    current: Option<(TableKey, Box<Nat64>)>,
    limits: TableLimits,
    handoff_port: u16,
    hash: SecretHash,
}

impl Replayed {
    /// As [`Server::replay`].
    pub fn replay(&mut self, table: TableKey, change: &Change) {
        match &mut self.current {
            Some((key, nat64)) if *key == table => nat64.apply(change, 0),
            _ => self.turn_to(table).apply(change, 0),
        }
    }

    fn turn_to(&mut self, table: TableKey) -> &mut Nat64 {
        self.nat64s.extend(self.current.take());
        let Self { limits, handoff_port, hash, .. } = *self;
        let nat64 = self
            .nat64s
            .remove(&table)
            .unwrap_or_else(|| Box::new(Nat64::new(limits, handoff_port, hash)));
        &mut self.current.insert((table, nat64)).1
    }
}

impl Server {
    /// What fills tables for this shard: no table yet. Of several, each table must be in one.
    pub fn replayed(&self) -> Replayed {
        let (limits, handoff_port, hash) =
            (self.config.limits, self.config.handoff_port, self.context.hash);
        let nat64s = HashMap::with_hasher(hash);
        Replayed { nat64s, current: None, limits, handoff_port, hash }
    }

    /// Takes the tables over. The shard must have none of them.
    pub fn adopt(&mut self, replayed: Replayed) {
        let budget = &self.context.budget;
        for (table, nat64) in replayed.nat64s.into_iter().chain(replayed.current) {
            budget.nat64s.fetch_add(1, Ordering::Relaxed);
            budget.entries.fetch_add(nat64.table().len().max(1), Ordering::Relaxed);
            let before = self.nat64s.insert(table, nat64);
            assert!(before.is_none(), "a table is replayed in one place");
        }
    }
}
