//! [`OwnAddresses`]: the addresses that one reactor gives, and takes back.

use std::collections::VecDeque;
use std::hash::Hash;
use std::net::Ipv4Addr;

use hashbrown::HashMap;

use super::{PoolSettings, PoolUnit};
use crate::handoff::entry::{BLOCK_ADDRESSES, TableKey};
use crate::handoff::random::SecretHash;
use crate::handoff::stats::Counter;

/// While more than this part of a reactor's addresses stand for somebody, no NAT64 gets more of
/// them than its share, and no /64 of clients.
const CROWDED: (usize, usize) = (3, 4);
/// The share of each in them then.
const SHARE: (usize, usize) = (1, 8);

// A block has its addresses in a word.
const _: () = assert!(BLOCK_ADDRESSES == u64::BITS);

/// Why a client has no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nameless {
    /// This reactor has none left.
    Full,
    /// Most of them are given, and those who came through the same NAT64, or from the same /64,
    /// have their share.
    Share,
    /// Another reactor gave it one, and has not recorded it yet.
    Unrecorded,
}

impl Nameless {
    /// What is counted.
    pub fn counter(self) -> Counter {
        match self {
            Nameless::Full => Counter::PoolFull,
            Nameless::Share => Counter::PoolShare,
            Nameless::Unrecorded => Counter::PoolUnrecorded,
        }
    }
}

/// The /64 of clients.
fn network(key: u128) -> u64 {
    (key >> 64) as u64
}

fn count_down<K: Eq + Hash>(counts: &mut HashMap<K, usize, SecretHash>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

/// The first address of the block that an address is in.
pub(super) fn block(address: Ipv4Addr) -> Ipv4Addr {
    TableKey::block_of(address).nat64
}

/// Addresses that are given, and recorded, together.
struct Block {
    first: u32,
    /// A bit for each that is not to be given as one that never was.
    taken: u64,
}

/// An address that stands for somebody.
pub(super) struct Given {
    pub address: u32,
    pub key: u128,
    /// The NAT64 through which they came, where it is known.
    pub via: Option<Ipv4Addr>,
}

/// Those of one reactor.
pub(super) struct OwnAddresses {
    blocks: Vec<Block>,
    /// The block that may have addresses that were not given since the start, and how many blocks
    /// there may be from there on. The first one is another at each start: what was taken back last
    /// before it is hardly given first after it.
    next: usize,
    blocks_left: usize,
    /// What was given and taken back, the first one first: given again as late as can be.
    free: VecDeque<u32>,
    /// What stands for somebody.
    pub given: Vec<Given>,
    /// How many of that came through each NAT64.
    via: HashMap<Ipv4Addr, usize, SecretHash>,
    /// How many of that each /64 has. `None` where none has more than one.
    networks: Option<HashMap<u64, usize, SecretHash>>,
    /// How many there are in all.
    capacity: usize,
}

impl OwnAddresses {
    /// Deals out all blocks.
    pub fn of_all(
        settings: &PoolSettings,
        hash: SecretHash,
        shares: usize,
        owner_of: impl Fn(Ipv4Addr) -> usize,
    ) -> Vec<Self> {
        let empty = || Self {
            blocks: Vec::new(),
            next: 0,
            blocks_left: 0,
            free: VecDeque::new(),
            given: Vec::new(),
            via: HashMap::with_hasher(hash),
            networks: (settings.unit == PoolUnit::Address).then(|| HashMap::with_hasher(hash)),
            capacity: 0,
        };
        let mut all: Vec<_> = (0..shares).map(|_| empty()).collect();
        let (first, last) = (settings.network.network(), settings.network.broadcast());
        let mut first = Some(block(first).to_bits());
        while let Some(number) = first.filter(|first| *first <= last.to_bits()) {
            let address = |bit| Ipv4Addr::from(number | bit);
            let is_whole = [0, BLOCK_ADDRESSES - 1].iter().all(|&bit| settings.has(address(bit)));
            // Those that are no addresses of the pool.
            let others =
                (0..BLOCK_ADDRESSES).filter(|&bit| !is_whole && !settings.has(address(bit)));
            let taken = others.fold(0_u64, |taken, bit| taken | 1 << bit);
            let own = &mut all[owner_of(address(0))];
            own.capacity += (!taken).count_ones() as usize;
            own.blocks.push(Block { first: number, taken });
            first = number.checked_add(BLOCK_ADDRESSES);
        }
        for (number, own) in all.iter_mut().enumerate() {
            own.blocks_left = own.blocks.len();
            let random = hash.of_words([number as u64, 0]);
            own.next = (random % own.blocks.len().max(1) as u64) as usize;
        }
        all
    }

    /// An address that somebody had when the server started.
    pub fn is_taken(&mut self, address: Ipv4Addr) {
        let first = block(address).to_bits();
        if let Ok(at) = self.blocks.binary_search_by_key(&first, |block| block.first) {
            self.blocks[at].taken |= 1 << (address.to_bits() - first);
        }
    }

    /// And still has.
    pub fn found(&mut self, address: Ipv4Addr, key: u128) {
        self.given.push(Given { address: address.to_bits(), key, via: None });
        self.count_network(key);
    }

    fn count_network(&mut self, key: u128) {
        if let Some(networks) = &mut self.networks {
            *networks.entry(network(key)).or_default() += 1;
        }
    }

    /// When all were found.
    pub fn are_found(&mut self) {
        self.given.sort_unstable_by_key(|given| given.address);
    }

    /// Who was found to have an address has an entry through this NAT64. To be called before
    /// anything is given.
    pub fn found_via(&mut self, address: Ipv4Addr, nat64: Ipv4Addr) {
        let place = self.given.binary_search_by_key(&address.to_bits(), |given| given.address);
        if let Ok(place) = place
            && self.given[place].via.is_none()
        {
            self.given[place].via = Some(nat64);
            *self.via.entry(nat64).or_default() += 1;
        }
    }

    /// Gives one to clients that came through a NAT64.
    pub fn give(&mut self, key: u128, via: Ipv4Addr) -> Result<Ipv4Addr, Nameless> {
        if self.is_crowded() && self.would_be_above_share(key, Some(via)) {
            return Err(Nameless::Share);
        }
        let address = self.new_one().or_else(|| self.free.pop_front()).ok_or(Nameless::Full)?;
        self.given.push(Given { address, key, via: Some(via) });
        *self.via.entry(via).or_default() += 1;
        self.count_network(key);
        Ok(address.into())
    }

    /// Whether with one more, those who came through a NAT64, or those of a /64, had more than
    /// their share. One is always in it.
    fn would_be_above_share(&self, key: u128, via: Option<Ipv4Addr>) -> bool {
        let of_nat64 = via.and_then(|via| self.via.get(&via));
        let networks = self.networks.as_ref();
        let of_network = networks.and_then(|networks| networks.get(&network(key)));
        let is_above = |&its: &usize| its > 0 && (its + 1) * SHARE.1 > self.capacity * SHARE.0;
        [of_nat64, of_network].into_iter().flatten().any(is_above)
    }

    /// Whether most are given, and this one is of a NAT64 or a /64 that gets no more.
    pub fn is_above_share(&self, given: &Given) -> bool {
        self.is_crowded() && self.would_be_above_share(given.key, given.via)
    }

    /// One that was not given since the start.
    fn new_one(&mut self) -> Option<u32> {
        while self.blocks_left > 0 {
            let block = self.blocks.get_mut(self.next)?;
            let bit = block.taken.trailing_ones();
            if bit < BLOCK_ADDRESSES {
                block.taken |= 1 << bit;
                return Some(block.first | bit);
            }
            self.blocks_left -= 1;
            self.next = (self.next + 1) % self.blocks.len();
        }
        None
    }

    /// Takes back what was given in this place: it can be given again after [`Self::free`].
    pub fn take_back(&mut self, place: usize) {
        let Given { via, key, .. } = self.given.swap_remove(place);
        if let Some(via) = via {
            count_down(&mut self.via, via);
        }
        if let Some(networks) = &mut self.networks {
            count_down(networks, network(key));
        }
    }

    /// One that was taken back, as is recorded by now.
    pub fn free(&mut self, address: Ipv4Addr) {
        let first = block(address).to_bits();
        if self.blocks.binary_search_by_key(&first, |block| block.first).is_ok() {
            self.free.push_back(address.to_bits());
        }
    }

    /// Whether most of them stand for somebody.
    pub fn is_crowded(&self) -> bool {
        self.given.len() * CROWDED.1 >= self.capacity * CROWDED.0
    }

    /// How many there are in all.
    pub fn capacity(&self) -> usize {
        self.capacity
    }
}
