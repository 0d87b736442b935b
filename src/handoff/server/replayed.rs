//! [`Replayed`]: tables that are filled from the journal apart from the shard that they will belong
//! to, so that several threads can fill the tables of one shard.

use hashbrown::HashMap;

use super::Server;
use super::channel::Channel;
use crate::handoff::change::Change;
use crate::handoff::entry::TableKey;
use crate::handoff::names::PoolNames;
use crate::handoff::random::SecretHash;
use crate::handoff::table::TableLimits;

/// Tables for a [`Server`], see [`Server::replayed`]. They count in no budget yet.
pub struct Replayed {
    channels: HashMap<TableKey, Box<Channel>, SecretHash>,
    /// Of the blocks of the pool.
    names: PoolNames,
    /// The one that was changed last, as many changes in a row are of the same table.
    current: Option<(TableKey, Box<Channel>)>,
    limits: TableLimits,
    handoff_port: u16,
    hash: SecretHash,
}

impl Replayed {
    /// Makes room in a table, see [`Table::reserve`].
    ///
    /// [`Table::reserve`]: crate::handoff::table::Table::reserve
    pub fn expect(&mut self, table: TableKey, entries: usize, clients: usize) {
        self.turn_to(table).reserve(entries, clients);
    }

    /// As [`Server::replay`].
    pub fn replay(&mut self, table: TableKey, change: &Change) {
        if table.is_block() {
            return self.names.apply(change);
        }
        if *change == Change::Forgotten {
            self.current.take_if(|current| current.0 == table);
            self.channels.remove(&table);
            return;
        }
        match &mut self.current {
            Some((key, channel)) if *key == table => channel.apply(change, 0),
            _ => self.turn_to(table).apply(change, 0),
        }
    }

    /// The table with this key, which is made where it is not there.
    fn turn_to(&mut self, table: TableKey) -> &mut Channel {
        self.channels.extend(self.current.take());
        let Self { limits, handoff_port, hash, .. } = *self;
        let channel = self
            .channels
            .remove(&table)
            .unwrap_or_else(|| Box::new(Channel::new(limits, handoff_port, hash)));
        &mut self.current.insert((table, channel)).1
    }
}

impl Server {
    /// What fills tables for this shard: no table yet. Of several, each table must be in one.
    pub fn replayed(&self) -> Replayed {
        let (limits, handoff_port, hash) =
            (self.config().limits, self.config().handoff_port, self.shared.hash);
        let channels = HashMap::with_hasher(hash);
        let names = PoolNames::default();
        Replayed { channels, names, current: None, limits, handoff_port, hash }
    }

    /// Takes the tables over.
    ///
    /// # Panics
    /// Where the shard has one of them: a table is replayed in one place.
    pub fn adopt(&mut self, replayed: Replayed) {
        self.names.append(replayed.names);
        for (table, channel) in replayed.channels.into_iter().chain(replayed.current) {
            self.shared.budget.replayed_nat64(table.nat64, channel.table().len());
            self.admission.channels.adopt(&self.shared.hash, table, channel);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::handoff::entry::{Client, ControlPort, MappedPort};
    use crate::handoff::opaque::Token;
    use crate::handoff::server::{Budget, ServerConfig};
    use crate::handoff::stats::Stats;
    use crate::handoff::validation::ValidationRate;
    use crate::ip::address::Prefix96;

    fn server() -> Server {
        let config = ServerConfig {
            handoff_port: 64064,
            limits: TableLimits::default(),
            validation_rate: Arc::new(ValidationRate::new(1)),
            create_rate: 2000,
            budget: Arc::new(Budget::new(100, 100)),
            access: Arc::default(),
        };
        let stats = Arc::new(Stats::default());
        Server::new(config, [1; 32], Duration::ZERO, stats)
    }

    fn table(number: u8) -> TableKey {
        let (local, nat64) = (Ipv4Addr::new(203, 0, 113, 5), Ipv4Addr::new(192, 0, 2, number));
        TableKey { local, nat64 }
    }

    /// The changes of several tables, interleaved; one of them stays empty, another becomes so.
    fn changes() -> Vec<(TableKey, Change)> {
        let client = |number: u8| {
            let address = format!("2001:db8::{number:x}").parse().unwrap();
            Client { prefix: Prefix96([7; 12]), address, port: 7 }
        };
        let mut changes = Vec::new();
        for number in 1..=6 {
            let (port, token) = (ControlPort(4000), Token::new(&[number; 4]).unwrap());
            changes.push((table(number), Change::Initialized));
            changes.push((table(number), Change::IdentityKnown { port, token }));
        }
        for round in 1..=5 {
            for number in 1..=5 {
                let (port, client) = (MappedPort(5000 + u16::from(round)), client(round));
                changes.push((table(number), Change::Created { port, client }));
                if number == 5 {
                    changes.push((table(number), Change::Deleted { port, client }));
                }
            }
        }
        // A table that is given up is gone, and may come again.
        for number in 7..=8 {
            changes.push((table(number), Change::Initialized));
            changes.push((
                table(number),
                Change::Created { port: MappedPort(6000), client: client(1) },
            ));
            changes.push((
                table(number),
                Change::Deleted { port: MappedPort(6000), client: client(1) },
            ));
            changes.push((table(number), Change::Forgotten));
        }
        changes.push((table(1), Change::Used { port: MappedPort(5001) }));
        changes.push((table(8), Change::Initialized));
        // Of two blocks of the pool; a snapshot begins each as it begins a table.
        for (block, last) in [(0, 7), (1, 8), (1, 9)] {
            let address = Ipv4Addr::new(100, 64, block, last);
            let client = format!("2001:db8::{last:x}/128").parse().unwrap();
            changes.push((TableKey::block_of(address), Change::Initialized));
            changes.push((TableKey::block_of(address), Change::Named { address, client }));
            if last == 8 {
                changes.push((TableKey::block_of(address), Change::Unnamed { address, client }));
            }
        }
        changes
    }

    #[test]
    fn tables_that_are_adopted_are_as_if_replayed_here() {
        let (mut whole, mut adopting) = (server(), server());
        let mut parts = [adopting.replayed(), adopting.replayed()];
        for (table, change) in changes() {
            whole.replay(table, &change);
            let [.., block, last] = table.nat64.octets();
            parts[usize::from(block ^ last) % 2].replay(table, &change);
        }
        assert_eq!(adopting.config().budget.entries(), 0);
        parts.into_iter().for_each(|part| adopting.adopt(part));
        let entries = |server: &Server| {
            let mut entries: Vec<_> = server.entries().collect();
            // Within a table they are in the order of use.
            entries.sort_by_key(|&(table, _)| table);
            entries
        };
        assert_eq!(entries(&adopting), entries(&whole));
        assert_eq!(entries(&adopting).len(), 4 * 5);
        let budget =
            |server: &Server| (server.config().budget.nat64s(), server.config().budget.entries());
        assert_eq!(budget(&adopting), budget(&whole));
        assert_eq!(budget(&adopting), (7, 4 * 5 + 3));
        assert_eq!((whole.nat64s(), adopting.nat64s()), (7, 7));
        assert_eq!(adopting.contradiction(), None);
        let names = whole.take_names();
        assert_eq!(
            names.iter().map(|(address, _)| address.octets()[3]).collect::<Vec<_>>(),
            [7, 9]
        );
        assert_eq!(adopting.take_names(), names);
        assert!(whole.take_names().is_empty());
        assert!((1..=6).all(|n| adopting.is_known(table(n), ControlPort(4000), &[n; 4])));
    }
}
