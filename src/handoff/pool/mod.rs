//! The pool of IPv4 addresses that stand for clients, where a program can be told no IPv6 address:
//! which one is whose. Peers are named by them, and packets that are translated for this host come
//! from them.
//!
//! All reactors share an [`AddressPool`]: for each [`PoolUnit`] of clients its address, and how
//! many entries it has. Each reactor has a [`PoolShare`]: the addresses of its own blocks, which it
//! alone gives, and takes back. What it gives and takes back it records (`Named`, `Unnamed`) before
//! anybody is told. Others may use what it gave when that is recorded; and as long as the end of a
//! name is not, its address is given to nobody, and its client gets no other one. So an address
//! never stands for two, and nobody has two, in no order in which the records become durable.
//!
//! A lock is held while one place of a map is looked up, or changed. No clock, no I/O.

mod addresses;
mod share;
#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hashbrown::hash_table::Entry;
use hashbrown::{HashMap, HashTable};
use ipnet::{Ipv4Net, Ipv6Net};

pub use self::addresses::Nameless;
pub use self::share::{ClientAddresses, Coming, PoolShare, PoolShareOfBoth};
use crate::handoff::delivery::FLOW_HELD;
use crate::handoff::random::SecretHash;

/// The maps of a pool, each with a lock: many more than there are reactors.
const PARTS: usize = 256;

/// For whom an address of the pool stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PoolUnit {
    /// All clients of a /64: as a host changes its address within it.
    #[default]
    Prefix64,
    /// One address.
    Address,
}

impl PoolUnit {
    fn length(self) -> u8 {
        match self {
            PoolUnit::Prefix64 => 64,
            PoolUnit::Address => 128,
        }
    }

    fn key(self, client: Ipv6Addr) -> u128 {
        client.to_bits() & u128::MAX << (128 - self.length())
    }

    /// What stands in the journal and in the log.
    fn net(self, key: u128) -> Ipv6Net {
        Ipv6Net::new_assert(key.into(), self.length())
    }
}

/// What an operator says about the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolSettings {
    pub network: Ipv4Net,
    pub unit: PoolUnit,
    /// How long an address is kept for those who have no entry.
    pub idle: Duration,
    /// Whether peers are named by its addresses, those of entries.
    pub names: bool,
    /// Whether packets are translated from its addresses and to them: then it is known whose an
    /// address is, and an address is taken back when no connection can be left, but not before.
    pub translates: bool,
}

/// How long an address is kept that packets are translated from: as long as NATs keep a connection
/// of TCP on which nothing is sent (RFC 5382 REQ-5), and where most are given, and many of them to
/// the same, as long as a flow stays with its NAT64.
const TRANSLATED_IDLE_MIN: Duration = Duration::from_mins(124);
const TRANSLATED_IDLE_CROWDED: Duration = Duration::from_secs(FLOW_HELD as u64);

impl PoolSettings {
    /// Whether an address can stand for somebody. The first and the last one cannot: programs may
    /// take them for the network itself, and its broadcast address.
    pub fn has(&self, address: Ipv4Addr) -> bool {
        self.network.contains(&address)
            && address != self.network.network()
            && address != self.network.broadcast()
    }

    /// How long an address is kept.
    fn idle(&self) -> Duration {
        if self.translates { self.idle.max(TRANSLATED_IDLE_MIN) } else { self.idle }
    }

    /// The same where others need it.
    fn idle_crowded(&self) -> Duration {
        if self.translates { TRANSLATED_IDLE_CROWDED } else { Duration::ZERO }
    }

    /// How many there are of those.
    pub fn addresses(&self) -> u64 {
        (1_u64 << (32 - self.network.prefix_len())).saturating_sub(2)
    }
}

/// Clients that have entries, or an address.
struct PoolClients {
    key: u128,
    entries: u32,
    /// In seconds: since when there are none, and no packet was translated.
    idle_since: u32,
    /// 0: none.
    address: u32,
    recorded: Recorded,
}

/// What of the address of clients is recorded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Recorded {
    /// That they have it.
    Named,
    /// Not yet: the share with this number records it.
    NotYet(u16),
    /// They have it no more, as its owner is recording.
    Ends,
}

/// For all reactors.
pub struct AddressPool {
    settings: PoolSettings,
    hash: SecretHash,
    parts: Box<[Mutex<HashTable<PoolClients>>]>,
    /// Whose the addresses are, as far as that is recorded; `None` where nobody asks. Each with a
    /// lock, too.
    holders: Option<Box<[Mutex<Holders>]>>,
    /// Addresses that stand for somebody.
    named: AtomicU64,
}

/// Addresses, and whose they are.
type Holders = HashMap<u32, u128, SecretHash>;

/// A name that was found, or is to end.
pub type Name = (Ipv4Addr, Ipv6Net);

impl AddressPool {
    /// The pool, with the names that were `found`; a share for each reactor; and for each reactor
    /// the names that are no more to be: it records their end, and then calls
    /// [`PoolShare::freed`]. `owner_of` gives the reactor that has a block, by its first address.
    pub fn new(
        settings: PoolSettings,
        hash: SecretHash,
        shares: usize,
        owner_of: impl Fn(Ipv4Addr) -> usize,
        found: impl IntoIterator<Item = Name>,
    ) -> (Arc<Self>, Vec<PoolShare>, Vec<Vec<Name>>) {
        let parts = (0..PARTS).map(|_| Mutex::new(HashTable::new())).collect();
        let empty = || Mutex::new(Holders::with_hasher(hash));
        let holders = settings.translates.then(|| (0..PARTS).map(|_| empty()).collect());
        let pool = Self { settings, hash, parts, holders, named: AtomicU64::new(0) };
        let mut ending = vec![Vec::new(); shares];
        let mut all = addresses::OwnAddresses::of_all(&pool.settings, hash, shares, &owner_of);
        for (address, client) in found {
            let owner = owner_of(addresses::block(address));
            all[owner].is_taken(address);
            let key = client.network().to_bits();
            let is_its = client.prefix_len() == pool.settings.unit.length();
            let stays = pool.settings.has(address);
            let recorded = if stays { Recorded::Named } else { Recorded::Ends };
            if is_its && pool.adopt(key, address, recorded) && stays {
                all[owner].found(address, key);
            } else {
                ending[owner].push((address, client));
            }
        }
        all.iter_mut().for_each(addresses::OwnAddresses::are_found);
        let pool = Arc::new(pool);
        let share = |(number, own)| PoolShare::new(Arc::clone(&pool), number, own);
        let shares = all.into_iter().enumerate().map(share).collect();
        (pool, shares, ending)
    }

    /// What the operator said.
    pub fn settings(&self) -> &PoolSettings {
        &self.settings
    }

    /// How many addresses stand for somebody.
    pub fn named(&self) -> u64 {
        self.named.load(Ordering::Relaxed)
    }

    /// At the start: an entry that is there. Returns the address of its client.
    pub fn found_entry(&self, client: Ipv6Addr) -> Option<Ipv4Addr> {
        let mut address = None;
        self.with(self.settings.unit.key(client), |clients| {
            clients.entries = clients.entries.saturating_add(1);
            address = some(clients.address).filter(|_| clients.recorded == Recorded::Named);
        });
        address
    }

    /// The address that stands for a client, once that is recorded.
    pub fn address_of(&self, client: Ipv6Addr) -> Option<Ipv4Addr> {
        let key = self.settings.unit.key(client);
        let hash = self.hash_of(key);
        let part = self.part(hash);
        let found = part.find(hash, |clients| clients.key == key);
        let named = found.filter(|clients| clients.recorded == Recorded::Named);
        named.and_then(|clients| some(clients.address))
    }

    /// Whose this address is, once that is recorded, where packets are translated: of a network its
    /// first address.
    pub fn client_of(&self, address: Ipv4Addr) -> Option<Ipv6Addr> {
        self.holders(address)?.get(&address.to_bits()).map(|&key| key.into())
    }

    /// A packet to or from a client was translated: its address is in use.
    pub fn touch(&self, client: Ipv6Addr, now: Duration) {
        self.with_found(self.settings.unit.key(client), |clients| {
            clients.idle_since = now.as_secs() as u32;
            false
        });
    }

    /// These clients have this address from now on, as is recorded.
    fn hold(&self, address: u32, key: u128) {
        if let Some(mut holders) = self.holders(address.into()) {
            holders.insert(address, key);
        }
    }

    /// Nobody has it any more.
    fn let_go(&self, address: u32) {
        if let Some(mut holders) = self.holders(address.into()) {
            holders.remove(&address);
        }
    }

    fn holders(&self, address: Ipv4Addr) -> Option<MutexGuard<'_, Holders>> {
        let holders = self.holders.as_ref()?;
        // Neighbours are in one block, and so one reactor's.
        let holders = &holders[address.to_bits() as usize % PARTS];
        Some(holders.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A name of the run before. False where the client has one already: then this one is none.
    fn adopt(&self, key: u128, address: Ipv4Addr, recorded: Recorded) -> bool {
        let mut is_first = false;
        self.with(key, |clients| {
            is_first = clients.address == 0;
            if is_first {
                (clients.address, clients.recorded) = (address.to_bits(), recorded);
            }
        });
        let is_named = is_first && recorded == Recorded::Named;
        if is_named {
            self.hold(address.to_bits(), key);
        }
        self.named.fetch_add(u64::from(is_named), Ordering::Relaxed);
        is_first
    }

    /// Looks at these clients, or makes them.
    fn with(&self, key: u128, look: impl FnOnce(&mut PoolClients)) {
        let hash = self.hash_of(key);
        let mut part = self.part(hash);
        let again = |clients: &PoolClients| self.hash_of(clients.key);
        let clients = match part.entry(hash, |clients| clients.key == key, again) {
            Entry::Occupied(found) => found.into_mut(),
            Entry::Vacant(place) => {
                let recorded = Recorded::Named;
                let new = PoolClients { key, entries: 0, idle_since: 0, address: 0, recorded };
                place.insert(new).into_mut()
            }
        };
        look(clients);
    }

    /// Looks at these clients, if they are there. They go if `look` says so.
    fn with_found(&self, key: u128, look: impl FnOnce(&mut PoolClients) -> bool) {
        let hash = self.hash_of(key);
        let mut part = self.part(hash);
        if let Ok(mut found) = part.find_entry(hash, |clients| clients.key == key)
            && look(found.get_mut())
        {
            found.remove();
        }
    }

    fn hash_of(&self, key: u128) -> u64 {
        self.hash.of_words([(key >> 64) as u64, key as u64])
    }

    fn part(&self, hash: u64) -> MutexGuard<'_, HashTable<PoolClients>> {
        // Not the bits that say where in the map it is.
        let part = &self.parts[(hash >> 40) as usize % PARTS];
        // No change of a map can be left half done by a panic.
        part.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// None of 0.0.0.0, which is in no pool.
fn some(address: u32) -> Option<Ipv4Addr> {
    (address != 0).then(|| address.into())
}
