//! The state that changes lead to, as naively as can be, and changes drawn at random.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::Ipv6Net;
use nat64handoff::handoff::change::{Change, Timestamp};
use nat64handoff::handoff::entry::{Client, ControlPort, MappedPort, TableKey};
use nat64handoff::handoff::opaque::{Authenticator, Token};
use nat64handoff::handoff::random::Random;
use nat64handoff::ip::address::Prefix96;

/// The port that no entry is on.
pub const HANDOFF_PORT: u16 = 64064;

/// What is known of a NAT64.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableModel {
    pub initialized: Timestamp,
    /// From the least to the most recently used.
    pub entries: Vec<(u16, Client)>,
    pub authenticators: BTreeMap<Ipv6Addr, Authenticator>,
    /// From the least to the most recently used.
    pub identities: Vec<(u16, Token)>,
    /// Of a block of the pool, which has nothing else.
    pub names: BTreeMap<Ipv4Addr, Ipv6Net>,
}

/// All tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model(pub BTreeMap<TableKey, TableModel>);

impl Model {
    pub fn apply(&mut self, at: Timestamp, key: TableKey, change: &Change) {
        if *change == Change::Forgotten {
            self.0.remove(&key);
            return;
        }
        if key.is_block() {
            return self.name(key, change);
        }
        let table = self.0.entry(key).or_default();
        match change {
            Change::Initialized => table.initialized = at,
            Change::Created { port, client } => {
                let taken = table.entries.iter().any(|(p, c)| *p == port.0 || c == client);
                if !taken {
                    table.entries.push((port.0, *client));
                }
            }
            Change::Deleted { port, client } => {
                table.entries.retain(|entry| *entry != (port.0, *client));
                if !table.entries.iter().any(|(_, c)| c.address == client.address) {
                    table.authenticators.remove(&client.address);
                }
            }
            Change::Conflict { .. }
            | Change::Forgotten
            | Change::Named { .. }
            | Change::Unnamed { .. } => {}
            Change::IdentityKnown { port, token } => {
                table.identities.retain(|known| *known != (port.0, token.clone()));
                table.identities.push((port.0, token.clone()));
            }
            Change::IdentityForgotten { port, token } => {
                table.identities.retain(|known| *known != (port.0, token.clone()));
            }
            Change::AuthenticatorLearned { address, authenticator } => {
                if table.entries.iter().any(|(_, c)| c.address == *address) {
                    table.authenticators.insert(*address, authenticator.clone());
                }
            }
            Change::Used { port } => {
                if let Some(at) = table.entries.iter().position(|(p, _)| *p == port.0) {
                    let entry = table.entries.remove(at);
                    table.entries.push(entry);
                }
            }
        }
    }
}

impl Model {
    fn name(&mut self, key: TableKey, change: &Change) {
        let block = self.0.entry(key).or_default();
        match *change {
            Change::Named { address, client } => {
                assert_eq!(TableKey::block_of(address), key);
                assert_eq!(block.names.insert(address, client), None);
            }
            Change::Unnamed { address, client } => {
                assert_eq!(block.names.remove(&address), Some(client));
            }
            // As a snapshot begins it.
            Change::Initialized => assert!(block.names.is_empty()),
            _ => panic!("{change:?} of a block"),
        }
        if block.names.is_empty() {
            self.0.remove(&key);
        }
    }
}

/// Draws changes that fit a model, and applies them.
pub struct Changer {
    pub random: Random,
    pub model: Model,
    pub tables: u8,
}

impl Changer {
    pub fn new(seed: u64, tables: u8) -> Self {
        let mut octets = [0; 32];
        octets[..8].copy_from_slice(&seed.to_be_bytes());
        Self { random: Random::new(octets), model: Model::default(), tables }
    }

    pub fn key(n: u8) -> TableKey {
        TableKey { local: Ipv4Addr::new(203, 0, 113, n % 2), nat64: Ipv4Addr::new(192, 0, 2, n) }
    }

    /// A batch of up to `max` changes at `at`.
    pub fn batch(&mut self, at: Timestamp, max: u32) -> Vec<(TableKey, Change)> {
        let mut changes = Vec::new();
        for _ in 0..=self.random.below(max) {
            if self.random.below(6) == 0 {
                changes.push(self.name(at));
                continue;
            }
            let key = Self::key(self.random.below(u32::from(self.tables)) as u8);
            let mut add = |model: &mut Model, change: Change| {
                model.apply(at, key, &change);
                changes.push((key, change));
            };
            if !self.model.0.contains_key(&key) {
                add(&mut self.model, Change::Initialized);
            }
            let table = self.model.0[&key].clone();
            let pick = |random: &mut Random, n: usize| random.below(n as u32) as usize;
            match self.random.below(100) {
                0..50 => {
                    let client = self.client();
                    let port = 2000 + self.random.below(60) as u16;
                    let free = !table.entries.iter().any(|(p, c)| *p == port || *c == client)
                        && !table.identities.iter().any(|(p, _)| *p == port);
                    let port = MappedPort(port);
                    if free {
                        add(&mut self.model, Change::Created { port, client });
                    } else {
                        add(&mut self.model, Change::Conflict { port, client });
                    }
                }
                50..70 if !table.entries.is_empty() => {
                    let (port, client) = table.entries[pick(&mut self.random, table.entries.len())];
                    add(&mut self.model, Change::Deleted { port: MappedPort(port), client });
                }
                70..80 if !table.entries.is_empty() => {
                    let (port, _) = table.entries[pick(&mut self.random, table.entries.len())];
                    add(&mut self.model, Change::Used { port: MappedPort(port) });
                }
                80..90 if !table.entries.is_empty() => {
                    let (_, client) = table.entries[pick(&mut self.random, table.entries.len())];
                    let octets = self.random.key();
                    let length = 2 + 2 * self.random.below(7) as usize;
                    let authenticator = Authenticator::new(&octets[..length]).unwrap();
                    let address = client.address;
                    add(&mut self.model, Change::AuthenticatorLearned { address, authenticator });
                }
                90 => {
                    for &(port, client) in &table.entries {
                        add(&mut self.model, Change::Deleted { port: MappedPort(port), client });
                    }
                    add(&mut self.model, Change::Forgotten);
                }
                _ => {
                    let port = 2000 + self.random.below(80) as u16;
                    if table.identities.len() == 4 {
                        let at = pick(&mut self.random, 4);
                        let (port, token) = table.identities[at].clone();
                        let port = ControlPort(port);
                        add(&mut self.model, Change::IdentityForgotten { port, token });
                    }
                    if let Some(&(_, client)) = table.entries.iter().find(|(p, _)| *p == port) {
                        add(&mut self.model, Change::Deleted { port: MappedPort(port), client });
                    }
                    let token = Token::new(&self.random.key()[..8]).unwrap();
                    add(&mut self.model, Change::IdentityKnown { port: ControlPort(port), token });
                }
            }
        }
        changes
    }

    /// A batch of those tables that are `mine`: what was drawn for others is left out.
    pub fn batch_of(
        &mut self,
        at: Timestamp,
        max: u32,
        mine: impl Fn(TableKey) -> bool,
    ) -> Vec<(TableKey, Change)> {
        let before = self.model.clone();
        let mut changes = self.batch(at, max);
        changes.retain(|(key, _)| mine(*key));
        self.model = before;
        for (key, change) in &changes {
            self.model.apply(at, *key, change);
        }
        changes
    }

    /// A client comes to an address of the pool, or goes.
    fn name(&mut self, at: Timestamp) -> (TableKey, Change) {
        let address = Ipv4Addr::new(100, 64, 0, self.random.below(200) as u8);
        let key = TableKey::block_of(address);
        let has = self.model.0.get(&key).and_then(|block| block.names.get(&address));
        let change = match has {
            Some(&client) => Change::Unnamed { address, client },
            None => {
                let length = [64, 128][self.random.below(2) as usize];
                let client = self.client().address;
                Change::Named { address, client: Ipv6Net::new(client, length).unwrap().trunc() }
            }
        };
        self.model.apply(at, key, &change);
        (key, change)
    }

    fn client(&mut self) -> Client {
        let host = self.random.below(20) as u16;
        Client {
            prefix: Prefix96([
                0,
                0x64,
                0xff,
                0x9b,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                self.random.below(2) as u8,
            ]),
            address: Ipv6Addr::new(0x2001, 0xdb8, 0, self.random.below(3) as u16, 0, 0, 0, host),
            port: 1000 + self.random.below(5) as u16,
        }
    }
}
