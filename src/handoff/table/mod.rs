//! One table: the entries of one NAT64 at one local address (PROTOCOL.md section 6).
//!
//! [`Table::create`], [`Table::learn`] and [`Table::bar`] decide, and say what they did as
//! [`Change`]s; [`Table::apply`] does what a change says and decides nothing, so replaying the
//! changes gives the same entries. A use ([`Table::touch`]) is a change only once in a while.
//!
//! Nothing here knows of payloads, clocks or identities, and nothing is deleted for being idle.
//!
//! Much of the time that a request takes is spent waiting for memory, so a look-up and a use read
//! little of it: one index by the hash of the whole client, then the record of the entry, and from
//! there that of its client's address. A full table takes about 55 octets for each entry where four
//! share a client address, 110 where none does.

mod changes;
mod check;
mod eviction;
mod index;
mod lru;
mod members;
mod records;
mod seen;
mod shared;
#[cfg(test)]
mod tests;

use std::net::Ipv6Addr;
use std::num::NonZeroU16;

use crate::handoff::change::Change;
use crate::handoff::entry::{Client, ControlPort, Entry, MappedPort};
use crate::handoff::message::{self, ENTRY_LENGTH};
use crate::handoff::opaque::Authenticator;
use crate::handoff::ports::{PortSet, Ports, TABLE_CAPACITY};
use crate::handoff::random::{Random, SecretHash};
use crate::handoff::stats::DropReason;
use crate::ip::address::Prefix96;
use index::{Hash, Index};
use lru::{LruQueues, UseNumber, Uses};
use members::{Links, Members};
use records::{Keyed, Pool, Shares, SlabEntry, Slots};

pub use records::Slot;

/// The most entries by which control ports lower a table's capacity.
const CAPACITY_LOSS_MAX: usize = 8;

/// What a table may hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TableLimits {
    /// The most entries, at most [`TABLE_CAPACITY`].
    pub entries_max: usize,
    /// A /64 with more than this part of the capacity is heavy: above 0, at most 1.
    pub client_share: f64,
}

impl Default for TableLimits {
    fn default() -> Self {
        Self { entries_max: TABLE_CAPACITY, client_share: 0.125 }
    }
}

/// The ports of the NAT64 that had live connections at the last poll: eviction passes over the
/// entries on them, as long as another can go.
#[derive(Debug, Clone, Copy)]
pub struct LivePorts<'a> {
    /// The number of the poll that saw them: another one each time.
    pub poll: u64,
    pub ports: &'a PortSet,
}

/// The entries of one NAT64.
#[derive(Debug)]
pub struct Table {
    records: Slots<EntryRecord>,
    /// All entries, by the hash of their client.
    index: Index,
    clients: Pool<ClientRecord>,
    prefixes: Pool<PrefixRecord>,
    subnets: Pool<SubnetRecord>,
    uses: Uses,
    tick: u16,
    second: u16,
    ports: Ports,
    hash: SecretHash,
    /// The client whose entry was made last, whose authenticator is mostly learned next.
    newest_client: Slot,
    /// The /64s that are heavy or nearly so.
    heavy: Vec<Slot>,
    /// The least recently used entries.
    lru: LruQueues,
    /// Those of /64s that are heavy, or were not long ago.
    lru_of: Vec<(Slot, LruQueues)>,
    limits: TableLimits,
}

/// A client, and the hash by which its entry is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashedClient {
    pub client: Client,
    hash: Hash,
}

impl HashedClient {
    /// `hash` is the one that its table was made with.
    #[inline(always)] // To avoid a store-forwarding stall on the returned struct.
    pub fn new(hash: &SecretHash, client: Client) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = client.prefix.0;
        let address = client.address.to_bits();
        let words = [
            u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
            u64::from(u32::from_ne_bytes([i, j, k, l])) << 16 | u64::from(client.port),
            (address >> 64) as u64,
            address as u64,
        ];
        Self { client, hash: Hash(hash.of_words(words) as u32) }
    }

    /// The hash, which is keyed.
    pub fn hash(&self) -> u32 {
        self.hash.0
    }
}

/// An entry, packed.
#[derive(Debug)]
struct EntryRecord {
    hash: Hash,
    client: Slot,
    prefix: Slot,
    /// That of its client, kept here to save a look-up.
    subnet: Slot,
    client_port: u16,
    /// Never 0, so that a slab needs no additional octet to mark a vacant entry.
    port: NonZeroU16,
    /// The tick in which its use was last recorded.
    used: u16,
    last_use: UseNumber,
    /// In the list of its /64.
    links: Links,
}

impl EntryRecord {
    fn port(&self) -> MappedPort {
        MappedPort(self.port.get())
    }
}

/// A client address, with what the NAT64 knows it by.
#[derive(Debug)]
struct ClientRecord {
    address: [u8; 16],
    authenticator: Authenticator,
    subnet: Slot,
    entries: Shares,
    /// The second in which its authenticator was last recorded.
    recorded: u16,
    /// It has another authenticator since, which is to be recorded.
    late: bool,
}

impl ClientRecord {
    /// As [`Table::learn`], where it is another one. `second`: now, where it can be recorded now.
    #[inline(never)]
    fn learn(
        &mut self,
        authenticator: &[u8],
        second: Option<u16>,
        changed: impl FnOnce(Change),
    ) -> bool {
        let Some(authenticator) = Authenticator::new(authenticator) else {
            return false;
        };
        self.authenticator = authenticator;
        match second.filter(|&second| self.recorded != second) {
            Some(second) => {
                self.record(second, changed);
                false
            }
            None => !std::mem::replace(&mut self.late, true),
        }
    }

    fn record(&mut self, second: u16, changed: impl FnOnce(Change)) {
        (self.recorded, self.late) = (second, false);
        let (address, authenticator) = (Ipv6Addr::from(self.address), self.authenticator.clone());
        changed(Change::AuthenticatorLearned { address, authenticator });
    }
}

impl Keyed for ClientRecord {
    type Key = [u8; 16];
    fn key(&self) -> [u8; 16] {
        self.address
    }
}

#[derive(Debug)]
struct PrefixRecord {
    prefix: [u8; 12],
    entries: Shares,
}

impl Keyed for PrefixRecord {
    type Key = [u8; 12];
    fn key(&self) -> [u8; 12] {
        self.prefix
    }
}

/// A /64 of clients: the unit of fair share.
#[derive(Debug)]
struct SubnetRecord {
    prefix: [u8; 8],
    entries: Shares,
    members: Members,
}

impl Keyed for SubnetRecord {
    type Key = [u8; 8];
    fn key(&self) -> [u8; 8] {
        self.prefix
    }
}

// There are up to 64508 of each of these in each table.
const _: () = assert!(size_of::<SlabEntry<EntryRecord>>() == 24);
const _: () = assert!(size_of::<SlabEntry<ClientRecord>>() == 48);
const _: () = assert!(size_of::<SlabEntry<PrefixRecord>>() == 16);
const _: () = assert!(size_of::<SlabEntry<SubnetRecord>>() == 16);

impl Table {
    /// An empty table. `hash` is for its indexes.
    pub fn new(limits: TableLimits, handoff_port: u16, hash: SecretHash) -> Self {
        Self {
            records: Slots::new(),
            index: Index::default(),
            clients: Pool::new(),
            prefixes: Pool::new(),
            subnets: Pool::new(),
            uses: Uses::default(),
            tick: 0,
            second: 0,
            ports: Ports::new(handoff_port, hash),
            hash,
            newest_client: records::NONE,
            heavy: Vec::new(),
            lru: LruQueues::default(),
            lru_of: Vec::new(),
            limits,
        }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many entries there can be: fewer than the limit only where control ports leave fewer
    /// ports.
    pub fn capacity(&self) -> usize {
        self.limits.entries_max.min(self.ports.eligible())
    }

    /// The entry of `client`.
    pub fn find(&self, client: &Client) -> Option<Slot> {
        self.find_hashed(&self.hashed(*client))
    }

    /// `client`, with its hash in this table.
    pub fn hashed(&self, client: Client) -> HashedClient {
        HashedClient::new(&self.hash, client)
    }

    /// The entry of a client whose hash is known.
    fn find_hashed(&self, sought: &HashedClient) -> Option<Slot> {
        self.index.find(sought.hash, |slot| self.is_of(self.records.get(slot), sought))
    }

    /// As [`Table::find_hashed`], where the entry is probably in slot `probable`, which may be
    /// empty by now.
    #[inline]
    pub(crate) fn find_near(&self, probable: Option<Slot>, sought: &HashedClient) -> Option<Slot> {
        let is_there = |slot: &Slot| {
            self.records.try_get(*slot).is_some_and(|record| self.is_of(record, sought))
        };
        probable.filter(is_there).or_else(|| self.find_hashed(sought))
    }

    #[inline]
    fn is_of(&self, record: &EntryRecord, HashedClient { client, hash }: &HashedClient) -> bool {
        record.hash == *hash
            && record.client_port == client.port
            && self.clients.get(record.client).address == client.address.octets()
            && self.prefixes.get(record.prefix).prefix == client.prefix.0
    }

    /// The client's entry as the index alone tells it: another one's in about one of 65,536 cases.
    pub(crate) fn probable(&self, sought: &HashedClient) -> Option<Slot> {
        self.index.find(sought.hash, |_| true)
    }

    /// Reads the entry in `slot` alone, so that it is in the caches.
    #[inline(always)] // As a call, it costs a known port 2 % more instructions.
    pub(crate) fn prefetch(&self, slot: Slot) -> u64 {
        let record = self.records.get(slot);
        // The record may lie across two cache lines: both are read.
        u64::from(record.hash.0) ^ u64::from(record.used)
    }

    /// Reads the client and the prefix of the entry in `slot`, so that they are in the caches.
    #[inline(always)] // As a call, it costs a known port 2 % more instructions.
    pub(crate) fn prefetch_client(&self, slot: Slot) -> u64 {
        let at = self.records.get(slot);
        let client = self.clients.get(at.client);
        let client = client.address[0] ^ client.authenticator.octets().last().unwrap_or(&0);
        let prefix = self.prefixes.get(at.prefix).prefix[0];
        u64::from(client ^ prefix)
    }

    /// The entry that has `port`.
    pub fn find_port(&self, port: MappedPort) -> Option<Slot> {
        self.ports.slot(port)
    }

    /// Whether an entry may have `port`.
    pub fn is_eligible(&self, port: MappedPort) -> bool {
        self.ports.is_eligible(port)
    }

    /// The entry in `slot`.
    ///
    /// # Panics
    /// Where `slot` has no entry, here and below: a slot is good until the next change of the
    /// table.
    pub fn entry(&self, slot: Slot) -> Entry {
        let record = self.records.get(slot);
        Entry {
            port: record.port(),
            client: Client {
                prefix: Prefix96(self.prefixes.get(record.prefix).prefix),
                address: Ipv6Addr::from(self.clients.get(record.client).address),
                port: record.client_port,
            },
        }
    }

    /// The mapped port of the entry in `slot`.
    pub fn port(&self, slot: Slot) -> MappedPort {
        self.records.get(slot).port()
    }

    /// Writes the entry in `slot` as a message: what [`Entry::emit`] makes of it.
    #[inline]
    pub fn emit_entry(&self, slot: Slot, out: &mut [u8; ENTRY_LENGTH]) {
        let record = self.records.get(slot);
        let client = self.clients.get(record.client);
        let prefix = self.prefixes.get(record.prefix);
        message::emit_entry(
            out,
            record.port(),
            &prefix.prefix,
            &client.address,
            record.client_port,
        );
    }

    /// The authenticator of the entry in `slot`: its client's.
    pub fn authenticator(&self, slot: Slot) -> &Authenticator {
        &self.clients.get(self.records.get(slot).client).authenticator
    }

    /// The second, for [`Table::learn`]: any number that is another one in the next second. And the
    /// coarse time for [`Table::touch`]: any number that changes when uses are to be recorded
    /// again.
    #[inline]
    pub fn set_time(&mut self, second: u16, tick: u16) {
        (self.second, self.tick) = (second, tick);
    }

    /// The entry in `slot` was used: it is the most recently used now. Returns whether that is to
    /// be recorded: it has not been in this tick, and `can_record` says that it can be.
    #[inline(always)] // Measured: as calls, these cost a known client 4 % more instructions.
    pub fn touch(&mut self, slot: Slot, can_record: bool) -> bool {
        let number = self.next_use();
        let record = self.records.get_mut(slot);
        record.last_use = number;
        let to_record = can_record && record.used != self.tick;
        if to_record {
            record.used = self.tick;
        }
        to_record
    }

    #[inline(always)] // As above.
    fn next_use(&mut self) -> UseNumber {
        self.uses.next().unwrap_or_else(|| self.number_anew())
    }

    /// Gives all entries new numbers, in the order of their last use, and returns that of the next
    /// use.
    #[cold]
    fn number_anew(&mut self) -> UseNumber {
        let mut number = 0;
        for slot in self.slots_by_use() {
            number += 1;
            self.records.get_mut(slot).last_use = number;
        }
        self.lru.clear();
        self.lru_of.clear();
        number += 1;
        self.uses.set(number);
        number
    }

    fn slots_by_use(&self) -> Vec<Slot> {
        let mut slots: Vec<_> =
            self.records.iter().map(|(slot, record)| (record.last_use, slot)).collect();
        slots.sort_unstable();
        slots.into_iter().map(|(_, slot)| slot).collect()
    }

    /// All entries, from the least to the most recently used.
    pub fn by_use(&self) -> impl Iterator<Item = Entry> {
        self.slots_by_use().into_iter().map(|slot| self.entry(slot))
    }

    /// Makes an entry for the client that was `sought`, which has none. In a full table, or where
    /// `at_limit` says that no entry may be added, another one is evicted; those that are `live`
    /// are passed over as long as another can go. The port is `wanted`
    /// if that is eligible and free, else that of the evicted entry, unless that is avoided and
    /// another is free, else one drawn from the free ones.
    ///
    /// # Errors
    /// [`DropReason::NoPort`] where nothing can go and nothing is free.
    pub fn create(
        &mut self,
        sought: HashedClient,
        wanted: Option<MappedPort>,
        at_limit: bool,
        live: Option<LivePorts<'_>>,
        random: &mut Random,
        mut changed: impl FnMut(Change),
    ) -> Result<Slot, DropReason> {
        debug_assert!(self.find_hashed(&sought).is_none());
        let wanted = wanted.filter(|&port| self.ports.is_free(port));
        let port = if self.len() >= self.capacity() || at_limit {
            let evicted = match wanted {
                Some(_) => self.choose_evicted(Some(&sought.client), live),
                None => self.choose_replaced(&sought.client, live),
            };
            let evicted = evicted.ok_or(DropReason::NoPort)?;
            let Entry { port, client } = self.entry(evicted);
            self.remove(evicted);
            changed(Change::Deleted { port, client });
            let avoids = wanted.is_none() && self.ports.is_avoided(port);
            let other = if avoids { self.ports.draw(random) } else { wanted };
            other.unwrap_or(port)
        } else {
            match wanted {
                Some(port) => port,
                None => self.ports.draw(random).ok_or(DropReason::NoPort)?,
            }
        };
        let slot = self.insert(port, &sought).ok_or(DropReason::NoPort)?;
        changed(Change::Created { port, client: sought.client });
        Ok(slot)
    }

    /// The NAT64 knows the client at `address` by `authenticator` now. Not a change where it did
    /// before, or where the address has no entry; nor where another one was recorded in this
    /// second, or `can_record` says that nothing can be. Then this returns whether
    /// [`Table::record_late`] is to be called.
    pub fn learn(
        &mut self,
        address: Ipv6Addr,
        authenticator: &[u8],
        can_record: bool,
        changed: impl FnOnce(Change),
    ) -> bool {
        match self.clients.find(&self.hash, address.octets()) {
            Some(client) => self.learn_client(client, authenticator, can_record, changed),
            None => false,
        }
    }

    /// As [`Table::learn`], about the client of the entry in `slot`.
    #[inline(always)] // Measured: as calls, these cost a known client 4 % more instructions.
    pub fn learn_at(
        &mut self,
        slot: Slot,
        authenticator: &[u8],
        can_record: bool,
        changed: impl FnOnce(Change),
    ) -> bool {
        self.learn_client(self.records.get(slot).client, authenticator, can_record, changed)
    }

    #[inline]
    fn learn_client(
        &mut self,
        client: Slot,
        authenticator: &[u8],
        can_record: bool,
        changed: impl FnOnce(Change),
    ) -> bool {
        let client = self.clients.get_mut(client);
        !client.authenticator.is(authenticator)
            && client.learn(authenticator, can_record.then_some(self.second), changed)
    }

    /// Records the authenticator of the client at `address`, where [`Table::learn`] did not.
    pub fn record_late(&mut self, address: Ipv6Addr, changed: impl FnOnce(Change)) {
        if let Some(client) = self.clients.find(&self.hash, address.octets()) {
            let client = self.clients.get_mut(client);
            if client.late {
                client.record(self.second, changed);
            }
        }
    }

    /// Deletes the entry that has mapped `control`, which is becoming a control port.
    pub fn bar(&mut self, control: ControlPort, changed: impl FnOnce(Change)) {
        if let Some(slot) = self.find_port(MappedPort(control.0)) {
            let Entry { port, client } = self.entry(slot);
            let change = Change::Deleted { port, client };
            self.apply(&change);
            changed(change);
        }
    }

    /// The NAT64 uses `port` for a client that the table has on another one.
    pub fn avoid(&mut self, port: MappedPort) {
        self.ports.avoid(port);
    }

    /// The NAT64 uses `port` for the client that the table has on it.
    pub fn forgive(&mut self, port: MappedPort) {
        self.ports.forgive(port);
    }

    /// From now on the control ports are `control`; none of them may be mapped: see [`Table::bar`].
    pub fn set_control_ports(&mut self, control: impl Iterator<Item = ControlPort>) {
        self.ports.set_control(control);
    }

    fn is_heavy(&self, subnet: Slot) -> bool {
        f64::from(self.subnets.get(subnet).entries.get())
            > self.limits.client_share * self.capacity() as f64
    }

    /// Whether a /64 with `entries` may be heavy, whatever the control ports are.
    fn may_be_heavy(&self, entries: u16) -> bool {
        let capacity_min = self.limits.entries_max.saturating_sub(CAPACITY_LOSS_MAX);
        f64::from(entries) > self.limits.client_share * capacity_min as f64
    }
}
