//! [`ChangesTold`]: what peers tell about their entries: the changes that the caller asks for, and
//! which clients have entries and ports.

use std::collections::BTreeMap;
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr};

use hashbrown::HashMap;
use hashbrown::hash_map::Entry as Slot;

use super::holders::PortHolders;
use super::peer::{Peer, PeerChange};
use super::reserved::Reserved;
use super::{ENTRIES_MAX, EntryChange, Nat64Config};
use crate::handoff::entry::Entry;
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
    /// Ports whose last holder the file of kept entries may still name; `None` where there is no
    /// file.
    reserved: Option<Reserved>,
}

impl ChangesTold {
    pub(super) fn new(config: &Nat64Config, hash: SecretHash) -> Self {
        let (nat64, asked) = (config.address, config.tells_changes);
        let reserved = config.keeps_entries.then(|| Reserved::new(hash));
        Self {
            reserved,
            nat64,
            asked,
            changes: Vec::new(),
            clients: HashMap::with_hasher(hash),
            holders: PortHolders::new(hash),
        }
    }

    /// Takes over what happened to the entries of this peer.
    pub(super) fn hear(&mut self, server: Ipv4Addr, peer: &mut Peer) {
        for PeerChange { entry, made, own } in peer.take_changes() {
            self.count(entry.client.address, made);
            self.holders.hear(entry, made);
            if own && !made {
                self.reserve(server, entry);
            }
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

    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub(super) fn take(&mut self) -> Vec<EntryChange> {
        mem::take(&mut self.changes)
    }

    /// Those were before.
    pub(super) fn keep(&mut self, changes: Vec<EntryChange>) {
        self.changes = changes;
    }

    /// The file may name the client of that entry, which is not its own any more.
    pub(super) fn reserve(&mut self, server: Ipv4Addr, entry: Entry) {
        if let Some(reserved) = &mut self.reserved {
            reserved.add(server, entry);
        }
    }

    /// Whether nobody else may have the port of that entry yet.
    pub(super) fn is_reserved(&self, server: Ipv4Addr, entry: &Entry) -> bool {
        self.reserved.as_ref().is_some_and(|reserved| reserved.is_of_another(server, entry))
    }

    /// Whether so many ports are reserved that no entry is to be made: for long, nothing could be
    /// kept.
    pub(super) fn is_full(&self) -> bool {
        self.reserved.as_ref().is_some_and(|reserved| reserved.ports() >= ENTRIES_MAX)
    }

    pub(super) fn reserved(&mut self) -> Option<&mut Reserved> {
        self.reserved.as_mut()
    }

    /// Takes over entries of before a restart, of which no change is told: they went on.
    pub(super) fn restored(&mut self, server: Ipv4Addr, peer: &mut Peer) {
        let asked = mem::replace(&mut self.asked, false);
        self.hear(server, peer);
        self.asked = asked;
    }

    /// Adds to the changes that this entry is gone.
    pub(super) fn gone(&mut self, server: Ipv4Addr, entry: Entry) {
        if self.asked {
            self.changes.push(EntryChange { nat64: self.nat64, server, entry, made: false });
        }
    }

    /// Adds to the changes that each entry is gone, as it will be; `learned`: those alone that
    /// servers know.
    pub(super) fn end(&mut self, peers: &BTreeMap<Ipv4Addr, Peer>, learned: bool) {
        for (&server, peer) in peers {
            if learned {
                peer.learned().for_each(|entry| self.gone(server, entry));
            } else {
                peer.entries().for_each(|entry| self.gone(server, entry));
            }
        }
    }
}
