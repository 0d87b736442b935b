//! A plain model of what the server must know, and its comparison with the server.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;
use std::time::Duration;

use nat64handoff::handoff::change::Change;
use nat64handoff::handoff::entry::{MappedPort, TableKey};
use nat64handoff::handoff::message::HANDOFF_PORT;

use super::super::judge::client::{Client, Entry};
use super::super::judge::wire::Messages;
use super::{
    Asker, BUDGET_ENTRIES, BUDGET_NAT64S, CLIENT_SHARE, ENTRIES_MAX, IDENTITIES_MAX, NO_CLIENTS,
    World, is_connected, is_live,
};

/// What the server must know of one NAT64.
#[derive(Debug, Default)]
pub(super) struct Nat64 {
    /// By mapped port.
    pub(super) entries: BTreeMap<u16, Entry>,
    /// By client address.
    pub(super) authenticators: BTreeMap<Ipv6Addr, Vec<u8>>,
    /// Port and token, the most recently used first.
    pub(super) identities: Vec<(u16, Vec<u8>)>,
    /// When it was sent ICMP messages of the server's own.
    pub(super) icmp: Vec<Duration>,
}

impl Nat64 {
    pub(super) fn authenticator(&self, address: Ipv6Addr) -> &[u8] {
        self.authenticators.get(&address).map(Vec::as_slice).unwrap_or_default()
    }

    pub(super) fn uses(&mut self, port: u16, token: &[u8]) {
        self.identities.retain(|known| *known != (port, token.to_vec()));
        self.identities.insert(0, (port, token.to_vec()));
        self.identities.truncate(IDENTITIES_MAX);
    }

    pub(super) fn is_eligible(&self, port: u16) -> bool {
        port >= 1024
            && ![3544, 6081, HANDOFF_PORT].contains(&port)
            && !self.identities.iter().any(|known| known.0 == port)
    }

    pub(super) fn delete(&mut self, entry: Entry) {
        assert_eq!(self.entries.remove(&entry.mapped), Some(entry));
        let address = entry.client.address;
        if !self.entries.values().any(|other| other.client.address == address) {
            self.authenticators.remove(&address);
        }
    }

    /// What comes `next` says why an entry was deleted.
    pub(super) fn check_reason(&self, entry: Entry, control_port: u16, next: Option<&Change>) {
        match next {
            Some(Change::Created { .. }) => {
                let network = |entry: &Entry| entry.client.address.to_bits() >> 64;
                let own = |other: &&Entry| network(other) == network(&entry);
                let held = 1 + self.entries.values().filter(own).count();
                let is_heavy = held as f64 > CLIENT_SHARE * ENTRIES_MAX as f64;
                let mut others = self.entries.values().filter(|other| !is_heavy || own(other));
                assert!(
                    !is_live(entry.mapped) || others.all(|other| is_live(other.mapped)),
                    "an entry in use went before one that was not"
                );
            }
            Some(Change::IdentityKnown { .. } | Change::IdentityForgotten { .. }) => {
                assert_eq!(control_port, entry.mapped);
            }
            next => panic!("{entry:?} was deleted for {next:?}"),
        }
    }
}

impl World {
    pub(super) fn is_known(&self, asker: &Asker, token: &[u8]) -> bool {
        let known = self.nat64s.get(&asker.table);
        known.is_some_and(|nat64| nat64.identities.contains(&(asker.port, token.to_vec())))
    }

    /// How old the proof is that an IPv4 packet ends with, if it is one for this identity.
    pub(super) fn proof_age(
        &self,
        asker: &Asker,
        token: &[u8],
        request: &Messages<'_>,
    ) -> Option<Duration> {
        let packet = request.packet.filter(|packet| packet[0] >> 4 == 4)?;
        let data = &packet[4 * usize::from(packet[0] & 15)..];
        let proof = data.last_chunk::<16>()?;
        let mine = self.proofs.iter().filter(|issued| {
            issued.asker == *asker && issued.asker.token == token && issued.octets == proof
        });
        mine.map(|issued| self.now - issued.at).min()
    }

    pub(super) fn mapped(&self, table: &TableKey) -> BTreeSet<Entry> {
        let known = self.nat64s.get(table);
        known.map(|nat64| nat64.entries.values().copied().collect()).unwrap_or_default()
    }

    /// Does to the model what the changes say, and nothing that cannot be. Returns every entry that
    /// was there at some time meanwhile.
    pub(super) fn replay(
        &mut self,
        asker: &Asker,
        token: &[u8],
        changes: &[(TableKey, Change)],
    ) -> BTreeSet<Entry> {
        let mut ever_mapped = self.mapped(&asker.table);
        for (n, (table, change)) in changes.iter().enumerate() {
            if *change == Change::Initialized {
                assert!(self.nat64s.insert(*table, Nat64::default()).is_none());
                continue;
            }
            let nat64 = self.nat64s.get_mut(table).expect("a change of no table");
            match *change {
                Change::Initialized => {}
                Change::Forgotten => panic!("a request gives up its own table"),
                Change::Named { .. } | Change::Unnamed { .. } => panic!("a shard names nobody"),
                Change::Used { port } => {
                    assert!(nat64.entries.contains_key(&port.0), "{port} used, and not mapped");
                }
                Change::Created { port, client } => {
                    let entry = entry(port, client);
                    assert!(
                        nat64.is_eligible(entry.mapped),
                        "{entry:?} on a port that none may have"
                    );
                    assert!(!NO_CLIENTS.contains(&entry.client.address.to_string().as_str()));
                    let twice = |other: &Entry| other.client == entry.client;
                    assert!(!nat64.entries.values().any(twice), "{entry:?} created twice");
                    assert_eq!(nat64.entries.insert(entry.mapped, entry), None);
                    ever_mapped.insert(entry);
                }
                Change::Deleted { port, client } => {
                    let entry = entry(port, client);
                    nat64.delete(entry);
                    let next = changes.get(n + 1).map(|change| &change.1);
                    nat64.check_reason(entry, asker.port, next);
                }
                Change::Conflict { port, client } => {
                    let entry = entry(port, client);
                    assert_ne!(nat64.entries.get(&entry.mapped), Some(&entry));
                }
                Change::IdentityKnown { port, token: ref learned } => {
                    assert_eq!((port.0, learned.octets()), (asker.port, token));
                    nat64.uses(port.0, token);
                    assert!(!nat64.entries.contains_key(&port.0));
                }
                Change::IdentityForgotten { port, ref token } => {
                    let oldest = (port.0, token.octets().to_vec());
                    assert_eq!(nat64.identities.len(), IDENTITIES_MAX);
                    assert_eq!(nat64.identities.pop(), Some(oldest));
                }
                Change::AuthenticatorLearned { address, ref authenticator } => {
                    // What was put off may be what it was before.
                    let is_late = n >= self.in_time;
                    assert!(is_late || nat64.authenticator(address) != authenticator.octets());
                    assert!(nat64.entries.values().any(|entry| entry.client.address == address));
                    nat64.authenticators.insert(address, authenticator.octets().to_vec());
                }
            }
        }
        ever_mapped
    }

    /// Does to the model what the server gave up: entries for NAT64s that have less than their
    /// share, and a whole table without a connection for one that has none.
    pub(super) fn given_up(&mut self, changes: Vec<(TableKey, Change)>) {
        for (table, change) in changes {
            let nat64 = self.nat64s.get_mut(&table).expect("a change of no table");
            match change {
                Change::Deleted { port, client } => nat64.delete(entry(port, client)),
                Change::IdentityForgotten { port, token } => {
                    let forgotten = (port.0, token.octets().to_vec());
                    assert_eq!(nat64.identities.pop(), Some(forgotten));
                }
                Change::Forgotten => {
                    assert!(nat64.entries.is_empty() && nat64.identities.is_empty());
                    assert!(!is_connected(table), "a NAT64 with a connection was given up");
                    self.nat64s.remove(&table);
                }
                change => panic!("{change:?} for nothing"),
            }
        }
        self.compare();
    }

    /// The server holds what the model holds, of every NAT64, and keeps its limits.
    pub(super) fn compare(&self) {
        assert_eq!(self.server.contradiction(), None);
        let held: BTreeSet<_> = (self.server.entries())
            .map(|(table, held)| (table, entry(held.port, held.client)))
            .collect();
        let expected = (self.nat64s.iter())
            .flat_map(|(&table, nat64)| nat64.entries.values().map(move |&entry| (table, entry)));
        assert!(held.iter().copied().eq(expected.collect::<BTreeSet<_>>()));
        assert_eq!(self.server.nat64s(), self.nat64s.len());
        // The place of a table that was given up is free when that is written: some turns later.
        let going = self.budget.nat64s() - self.nat64s.len();
        assert!(going <= 1);
        let lengths = || self.nat64s.values().map(|nat64| nat64.entries.len());
        let entries = lengths().map(|length| length.max(1)).sum::<usize>();
        assert_eq!(self.budget.entries(), entries + going);
        assert!(self.nat64s.len() <= BUDGET_NAT64S && self.budget.entries() <= BUDGET_ENTRIES);
        assert!(lengths().all(|length| length <= ENTRIES_MAX));
    }
}

/// One more at `now`, of no more than `limit` in any second.
pub(super) fn count_rate(sent: &mut Vec<Duration>, now: Duration, limit: usize) {
    sent.retain(|at| now - *at < Duration::from_secs(1));
    sent.push(now);
    assert!(sent.len() <= limit, "more than {limit} in a second");
}

pub(super) fn entry(port: MappedPort, client: nat64handoff::handoff::entry::Client) -> Entry {
    Client { prefix: client.prefix.0, address: client.address, port: client.port }.at(port.0)
}
