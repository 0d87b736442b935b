//! [`ChangesTold`]: what peers tell about their entries: the changes that the caller asks for, and
//! which clients have entries and ports.

use std::collections::BTreeMap;
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr};

use hashbrown::HashMap;
use hashbrown::hash_map::Entry as Slot;

use super::EntryChange;
use super::holders::PortHolders;
use super::peer::Peer;
use crate::handoff::random::SecretHash;

#[derive(Debug)]
pub(super) struct ChangesTold {
    /// Whose entries they are.
    nat64: Ipv4Addr,
    /// Whether the caller asks for changes.
    asked: bool,
    changes: Vec<EntryChange>,
    /// How many entries each client has, by its address. None has 0.
    clients: HashMap<Ipv6Addr, u32, SecretHash>,
    holders: PortHolders,
}

impl ChangesTold {
    pub(super) fn new(nat64: Ipv4Addr, asked: bool, hash: SecretHash) -> Self {
        Self {
            nat64,
            asked,
            changes: Vec::new(),
            clients: HashMap::with_hasher(hash),
            holders: PortHolders::new(hash),
        }
    }

    /// Takes over what happened to the entries of this peer.
    pub(super) fn hear(&mut self, server: Ipv4Addr, peer: &mut Peer) {
        for (entry, made) in peer.take_changes() {
            self.count(entry.client.address, made);
            self.holders.hear(entry, made);
            if self.asked {
                self.changes.push(EntryChange { nat64: self.nat64, server, entry, made });
            }
        }
    }

    fn count(&mut self, client: Ipv6Addr, made: bool) {
        match self.clients.entry(client) {
            Slot::Vacant(slot) if made => {
                slot.insert(1);
            }
            Slot::Vacant(_) => {}
            Slot::Occupied(mut slot) if made => *slot.get_mut() += 1,
            Slot::Occupied(slot) if *slot.get() == 1 => {
                slot.remove();
            }
            Slot::Occupied(mut slot) => *slot.get_mut() -= 1,
        }
    }

    pub(super) fn has_client(&self, client: Ipv6Addr) -> bool {
        self.clients.contains_key(&client)
    }

    /// Which client has which port, whoever the server is.
    pub(super) fn holders(&self) -> &PortHolders {
        &self.holders
    }

    /// The changes, the oldest first.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = EntryChange> {
        self.changes.drain(..)
    }

    pub(super) fn take(&mut self) -> Vec<EntryChange> {
        mem::take(&mut self.changes)
    }

    /// Those were before.
    pub(super) fn keep(&mut self, changes: Vec<EntryChange>) {
        self.changes = changes;
    }

    /// Adds to the changes that each entry is gone, as it will be.
    pub(super) fn end(&mut self, peers: &BTreeMap<Ipv4Addr, Peer>) {
        if self.asked {
            let nat64 = self.nat64;
            let entries = peers.iter().flat_map(|(&server, peer)| {
                peer.entries().map(move |entry| EntryChange { nat64, server, entry, made: false })
            });
            self.changes.extend(entries);
        }
    }
}
