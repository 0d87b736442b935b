//! A table from changes, and changes from a table: journal, snapshot and replay.

use std::net::Ipv6Addr;

use super::Table;
use super::records::Slot;
use crate::handoff::change::Change;
use crate::handoff::entry::{Client, Entry};
use crate::handoff::ports::TABLE_CAPACITY;
use crate::ip::address::Prefix96;

/// In a snapshot, the client of a `Conflict`: of the conflict, only the port is kept.
const NOBODY: Client =
    Client { prefix: Prefix96([0; 12]), address: Ipv6Addr::UNSPECIFIED, port: 0 };

impl Table {
    /// The changes that make a table like this one from an empty one, the order of use included,
    /// and the ports that are avoided.
    pub fn changes(&self) -> impl Iterator<Item = Change> {
        let avoided = self.ports.avoided();
        let avoided = avoided.map(|port| Change::Conflict { port, client: NOBODY });
        let mut told = vec![false; TABLE_CAPACITY];
        let entries = self.slots_by_use().into_iter().flat_map(move |slot| {
            let Entry { port, client } = self.entry(slot);
            let told = &mut told[usize::from(self.records.get(slot).client)];
            let first = !std::mem::replace(told, true);
            let authenticator = self.authenticator(slot);
            let learned = (first && !authenticator.octets().is_empty()).then(|| {
                let (address, authenticator) = (client.address, authenticator.clone());
                Change::AuthenticatorLearned { address, authenticator }
            });
            [Some(Change::Created { port, client }), learned].into_iter().flatten()
        });
        entries.chain(avoided)
    }

    /// Makes room for so many more entries, of so many more client addresses: no more than a table
    /// can have.
    pub fn reserve(&mut self, entries: usize, clients: usize) {
        let left = TABLE_CAPACITY.saturating_sub(self.len());
        let (entries, clients) = (entries.min(left), clients.min(left));
        let records = &self.records;
        self.index.reserve(entries, |slot| records.get(slot).hash);
        self.records.reserve(entries);
        self.clients.reserve(&self.hash, clients);
        self.subnets.reserve(&self.hash, clients);
    }

    /// Does what `change` says, if it is about entries or authenticators. One that does not fit
    /// what the table holds (an entry created twice, or deleted without being there) does nothing.
    pub fn apply(&mut self, change: &Change) {
        match *change {
            Change::Created { port, client } => {
                let sought = self.hashed(client);
                if self.find_hashed(&sought).is_none() {
                    self.insert(port, &sought);
                }
            }
            Change::Deleted { port, client } => {
                if let Some(slot) =
                    self.find_port(port).filter(|&slot| self.entry(slot).client == client)
                {
                    self.remove(slot);
                }
            }
            Change::AuthenticatorLearned { address, ref authenticator } => {
                let octets = address.octets();
                let newest = Some(self.newest_client);
                let is_it = |&slot: &Slot| {
                    self.clients.try_get(slot).is_some_and(|client| client.address == octets)
                };
                let slot = newest.filter(is_it).or_else(|| self.clients.find(&self.hash, octets));
                if let Some(slot) = slot {
                    self.clients.get_mut(slot).authenticator.clone_from(authenticator);
                }
            }
            Change::Used { port } => {
                if let Some(slot) = self.find_port(port) {
                    self.touch(slot, true);
                }
            }
            Change::Conflict { port, .. } => self.avoid(port),
            Change::Initialized
            | Change::IdentityKnown { .. }
            | Change::IdentityForgotten { .. }
            | Change::Forgotten
            | Change::Named { .. }
            | Change::Unnamed { .. } => {}
        }
    }
}
