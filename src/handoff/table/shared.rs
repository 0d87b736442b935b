//! Entries come and go, and with them what they share: the records of client addresses, /64s and
//! prefixes, which stay as long as an entry has them.

use std::num::NonZeroU16;

use super::members::{Links, Members};
use super::records::{Shares, Slot};
use super::{ClientRecord, EntryRecord, HashedClient, PrefixRecord, SubnetRecord, Table};
use crate::handoff::entry::MappedPort;
use crate::handoff::opaque::Authenticator;
use crate::handoff::ports::TABLE_CAPACITY;

impl Table {
    /// Adds an entry for a client that has none, unless `port` is not free or there are too many.
    pub(super) fn insert(&mut self, port: MappedPort, sought: &HashedClient) -> Option<Slot> {
        let &HashedClient { client, hash } = sought;
        if !self.ports.is_free(port) || self.len() >= TABLE_CAPACITY {
            return None;
        }
        // A free port is at least 1024, so it is not 0.
        let number = NonZeroU16::new(port.0)?;
        let (address, subnet) = self.share_client(client.address.octets(), client.subnet());
        self.newest_client = address;
        let prefix = self.share_prefix(client.prefix.0);
        let last_use = self.next_use();
        let slot = self.records.insert(EntryRecord {
            hash,
            client: address,
            prefix,
            subnet,
            client_port: client.port,
            port: number,
            used: self.tick,
            last_use,
            links: Links::default(),
        });
        let records = &self.records;
        self.index.insert(hash, slot, |slot| records.get(slot).hash);
        self.ports.take(port, slot);
        let record = self.subnets.get_mut(subnet);
        record.members.add(&mut self.records, slot);
        let entries = record.entries.get();
        if self.may_be_heavy(entries) && !self.may_be_heavy(entries - 1) {
            self.heavy.push(subnet);
        }
        self.lru.added(last_use, slot);
        if let Some((_, queue)) = self.lru_of.iter_mut().find(|of| of.0 == subnet) {
            queue.added(last_use, slot);
        }
        Some(slot)
    }

    /// The records of a client address and of its /64, with one more entry.
    fn share_client(&mut self, address: [u8; 16], prefix: [u8; 8]) -> (Slot, Slot) {
        let Self { clients, subnets, hash, second, .. } = self;
        let (slot, is_new) = clients.find_or_insert(hash, address, || {
            let make =
                || SubnetRecord { prefix, entries: Shares::ONE, members: Members::default() };
            let (subnet, is_new) = subnets.find_or_insert(hash, prefix, make);
            if !is_new {
                subnets.get_mut(subnet).entries.add();
            }
            ClientRecord {
                address,
                authenticator: Authenticator::default(),
                subnet,
                entries: Shares::ONE,
                recorded: second.wrapping_sub(1),
                late: false,
            }
        });
        let client = clients.get_mut(slot);
        let subnet = client.subnet;
        if !is_new {
            client.entries.add();
            subnets.get_mut(subnet).entries.add();
        }
        (slot, subnet)
    }

    /// The record of a prefix, with one more entry.
    fn share_prefix(&mut self, prefix: [u8; 12]) -> Slot {
        let make = || PrefixRecord { prefix, entries: Shares::ONE };
        let (slot, is_new) = self.prefixes.find_or_insert(&self.hash, prefix, make);
        if !is_new {
            self.prefixes.get_mut(slot).entries.add();
        }
        slot
    }

    /// Removes an entry, and the records that no other entry shares with it.
    pub(super) fn remove(&mut self, slot: Slot) {
        let hash = self.records.get(slot).hash;
        let &EntryRecord { client, prefix, subnet, .. } = self.records.get(slot);
        let record = self.subnets.get_mut(subnet);
        record.members.remove(&mut self.records, slot);
        let entries = record.entries.get();
        if self.may_be_heavy(entries) && !self.may_be_heavy(entries - 1) {
            self.heavy.retain(|&heavy| heavy != subnet);
        }
        // Kept while the /64 may soon be heavy again: a search costs more than the memory.
        if entries == 1 || !self.may_be_heavy(entries.saturating_mul(2)) {
            self.lru_of.retain(|&(of, _)| of != subnet);
        }
        if !self.subnets.get_mut(subnet).entries.take() {
            self.subnets.remove(&self.hash, subnet);
        }
        if !self.clients.get_mut(client).entries.take() {
            self.clients.remove(&self.hash, client);
        }
        if !self.prefixes.get_mut(prefix).entries.take() {
            self.prefixes.remove(&self.hash, prefix);
        }
        let records = &self.records;
        self.index.remove(hash, slot, |slot| records.get(slot).hash);
        let record = self.records.remove(slot);
        self.ports.release(record.port());
    }
}
