//! [`Replayed`]: tables that are filled from the journal apart from the shard that they will belong
//! to, so that several threads can fill the tables of one shard.

use std::collections::BTreeMap;
use std::fmt;

use hashbrown::HashMap;

use super::Server;
use super::budget::is_nearly_full;
use super::channel::Channel;
use super::exchange::Shared;
use crate::handoff::change::Change;
use crate::handoff::entry::TableKey;
use crate::handoff::names::PoolNames;
use crate::handoff::random::SecretHash;
use crate::handoff::table::TableLimits;

/// As many entries as are filled at a time, where a table has not more: about 0.2 ms.
const FILLED_MAX: usize = 1000;

/// Gives changes, in order, to what applies each.
pub type GiveChanges = Box<dyn FnOnce(&mut dyn FnMut(&Change)) + Send>;

/// Changes of a table that are applied when it is needed first. They do not give it up.
pub struct ChangesLater {
    /// How many entries the table has more after them than before: below 0 where it has fewer.
    pub entries: i64,
    /// About how many client addresses it has more.
    pub addresses: usize,
    /// Gives them.
    pub give: GiveChanges,
}

impl ChangesLater {
    fn apply(self, channel: &mut Channel) {
        channel.reserve(usize::try_from(self.entries).unwrap_or(0), self.addresses);
        (self.give)(&mut |change| channel.apply(change, 0));
    }
}

/// A table that is filled when it is needed first.
pub struct Unfilled {
    channel: Box<Channel>,
    /// How many it will have.
    entries: usize,
    rest: Vec<ChangesLater>,
}

impl Unfilled {
    pub fn entries(&self) -> usize {
        self.entries
    }

    pub fn is_nearly_full(&self) -> bool {
        is_nearly_full(self.entries, self.channel.table().capacity())
    }

    pub fn fill(self) -> Box<Channel> {
        let Self { mut channel, rest, .. } = self;
        rest.into_iter().for_each(|changes| changes.apply(&mut channel));
        channel
    }
}

impl fmt::Debug for Unfilled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unfilled").field("entries", &self.entries).finish_non_exhaustive()
    }
}

/// Tables for a [`Server`], see [`Server::replayed`]. They count in no budget yet.
pub struct Replayed {
    channels: FilledChannels,
    /// Changes that come after those of `channels`.
    later: BTreeMap<TableKey, Vec<ChangesLater>>,
    /// Of the blocks of the pool.
    names: PoolNames,
    /// The one that was changed last, as many changes in a row are of the same table.
    current: Option<(TableKey, Box<Channel>)>,
    fills_later: bool,
    limits: TableLimits,
    handoff_port: u16,
    hash: SecretHash,
}

type FilledChannels = HashMap<TableKey, Box<Channel>, SecretHash>;

impl Replayed {
    /// The same, whose tables are to be filled when they are needed.
    pub fn later(self) -> Self {
        Self { fills_later: true, ..self }
    }

    /// Whether [`Replayed::replay_later`] is to be called, where it can be.
    pub fn fills_later(&self) -> bool {
        self.fills_later
    }

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
            self.later.remove(&table);
            return;
        }
        match &mut self.current {
            Some((key, channel)) if *key == table => channel.apply(change, 0),
            _ => self.turn_to(table).apply(change, 0),
        }
    }

    /// As [`Replayed::replay`] with each of these changes, when the table is needed first.
    pub fn replay_later(&mut self, table: TableKey, changes: ChangesLater) {
        // What is replayed now of this table comes after them.
        self.channels.extend(self.current.take());
        self.later.entry(table).or_default().push(changes);
    }

    /// The table with this key, which is made where it is not there.
    fn turn_to(&mut self, table: TableKey) -> &mut Channel {
        self.channels.extend(self.current.take());
        let mut channel = self.take(table);
        let later = self.later.remove(&table).unwrap_or_default();
        later.into_iter().for_each(|changes| changes.apply(&mut channel));
        &mut self.current.insert((table, channel)).1
    }

    fn take(&mut self, table: TableKey) -> Box<Channel> {
        let Self { limits, handoff_port, hash, .. } = *self;
        let known = self.channels.remove(&table);
        known.unwrap_or_else(|| Box::new(Channel::new(limits, handoff_port, hash)))
    }

    /// Ends: returns what is filled, and what is not.
    fn finish(mut self) -> (FilledChannels, Vec<(TableKey, Unfilled)>) {
        self.channels.extend(self.current.take());
        let later = std::mem::take(&mut self.later).into_iter();
        let unfilled = later.map(|(table, rest)| {
            let channel = self.take(table);
            let more: i64 = rest.iter().map(|changes| changes.entries).sum();
            let entries = channel.table().len().saturating_add_signed(more as isize);
            (table, Unfilled { channel, entries, rest })
        });
        let unfilled = unfilled.collect();
        (self.channels, unfilled)
    }
}

impl Server {
    /// What fills tables for this shard: no table yet. Of several, each table must be in one.
    pub fn replayed(&self) -> Replayed {
        let (limits, handoff_port, hash) =
            (self.config().limits, self.config().handoff_port, self.shared.hash);
        let channels = HashMap::with_hasher(hash);
        let names = PoolNames::default();
        let later = BTreeMap::new();
        Replayed {
            channels,
            later,
            names,
            current: None,
            fills_later: false,
            limits,
            handoff_port,
            hash,
        }
    }

    /// Takes the tables over.
    ///
    /// # Panics
    /// Where the shard has one of them: a table is replayed in one place.
    pub fn adopt(&mut self, mut replayed: Replayed) {
        let Self { shared: Shared { budget, hash, .. }, admission, names } = self;
        names.append(std::mem::take(&mut replayed.names));
        let (filled, unfilled) = replayed.finish();
        for (table, channel) in filled {
            budget.replayed_nat64(table.nat64, channel.table().len());
            admission.channels.adopt(hash, table, channel);
        }
        for (table, unfilled) in unfilled {
            budget.replayed_nat64(table.nat64, unfilled.entries());
            admission.channels.adopt_unfilled(hash, table, unfilled);
        }
    }

    /// Whether there are tables that will be filled when they are needed.
    pub fn is_filling(&self) -> bool {
        self.channels().unfilled() > 0
    }

    /// Fills some of the tables that are to be filled yet: one, or more with not many entries in
    /// all.
    pub fn fill_some(&mut self) {
        let mut filled = 0;
        while filled < FILLED_MAX {
            let Some(entries) = self.channels().fill_next(&self.shared.hash) else { break };
            filled += 1 + entries;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::handoff::entry::{Client, ControlPort, Entry, MappedPort};
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

    /// Within a table they are in the order of use.
    fn entries(server: &Server) -> Vec<(TableKey, Entry)> {
        let mut entries: Vec<_> = server.entries().collect();
        entries.sort_by_key(|&(table, _)| table);
        entries
    }

    fn later(change: Change) -> ChangesLater {
        let entries = match change {
            Change::Created { .. } => 1,
            Change::Deleted { .. } => -1,
            _ => 0,
        };
        ChangesLater { entries, addresses: 0, give: Box::new(move |apply| apply(&change)) }
    }

    #[test]
    fn tables_that_are_filled_later_are_as_if_they_were_now() {
        // Every `now`th change is replayed at once, with all of its table that came before.
        for now in 1..9 {
            let (mut whole, mut adopting) = (server(), server());
            let mut replayed = adopting.replayed().later();
            assert!(replayed.fills_later() && !adopting.replayed().fills_later());
            for (number, (table, change)) in changes().into_iter().enumerate() {
                whole.replay(table, &change);
                let must = table.is_block() || change == Change::Forgotten;
                if must || number % now == now - 1 {
                    replayed.replay(table, &change);
                } else {
                    replayed.replay_later(table, later(change));
                }
            }
            adopting.adopt(replayed);
            let budget = |server: &Server| {
                (server.config().budget.nat64s(), server.config().budget.entries())
            };
            assert_eq!(budget(&adopting), budget(&whole));
            assert_eq!(adopting.nat64s(), whole.nat64s());
            assert_eq!(adopting.nearly_full().count(), whole.nearly_full().count());
            assert_eq!(adopting.is_filling(), now > 1);
            // One is asked about, and another given up, before they are filled.
            assert!(adopting.is_known(table(1), ControlPort(4000), &[1; 4]));
            for server in [&mut whole, &mut adopting] {
                server.replay(table(2), &Change::Forgotten);
            }
            while adopting.is_filling() {
                let left = adopting.channels().unfilled();
                adopting.fill_some();
                assert!(adopting.channels().unfilled() < left);
            }
            assert_eq!(entries(&adopting), entries(&whole), "{now}");
            assert_eq!(entries(&adopting).len(), 3 * 5);
            assert_eq!(adopting.contradiction(), None);
            assert_eq!(budget(&adopting), budget(&whole));
        }
    }

    #[test]
    fn as_many_tables_are_filled_at_a_time_as_have_some_entries() {
        let mut server = server();
        let mut replayed = server.replayed().later();
        let client = |number: usize| {
            let address = std::net::Ipv6Addr::from_bits(number as u128);
            Client { prefix: Prefix96([7; 12]), address, port: 7 }
        };
        for number in 0..7 {
            replayed.replay_later(table(number), later(Change::Initialized));
            let entries = if number == 6 { 10 * FILLED_MAX } else { FILLED_MAX / 3 };
            for port in 0..entries {
                let (port, client) = (MappedPort(1024 + port as u16), client(port));
                replayed.replay_later(table(number), later(Change::Created { port, client }));
            }
        }
        server.adopt(replayed);
        let left = |server: &mut Server| {
            server.fill_some();
            server.channels().unfilled()
        };
        assert_eq!([(); 4].map(|()| left(&mut server)), [4, 1, 0, 0]);
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
