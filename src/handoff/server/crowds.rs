//! [`Crowds`]: how many tables belong to each NAT64 address, to its /24 and to its /16, so that no
//! one of them takes more than its share of `--max-nat64s` (PROTOCOL.md section 5).
//!
//! A count-min sketch of a fixed size, which all shards change without locks: each table is counted
//! when it comes and counted out when it goes, so nothing decays. A count is never too low, and
//! seldom too high by more than a small part of a share. Nobody outside can choose addresses that
//! share cells, as the hash is keyed.

use std::net::Ipv4Addr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::handoff::random::SecretHash;

/// Each address or network has a cell in each row; the lower one is its count.
const ROWS: usize = 2;
/// Cells of a row: a power of two. 128 KiB for both rows.
const CELLS: usize = 1 << 14;

/// A share of `--max-nat64s`: that of an address, or of a network.
struct Share {
    /// The length of the prefix.
    bits: u32,
    /// One in so many...
    part: usize,
    /// ...but at least so many tables.
    least: usize,
}

const SHARES: [Share; 3] = [
    Share { bits: 32, part: 64, least: 4 },
    Share { bits: 24, part: 16, least: 16 },
    Share { bits: 16, part: 4, least: 64 },
];

/// The tables of all shards, counted by address and network.
#[derive(Debug)]
pub struct Crowds {
    nat64s_max: usize,
    hash: OnceLock<SecretHash>,
    /// Row by row.
    cells: Box<[AtomicU32]>,
}

impl Crowds {
    /// No table yet.
    pub fn new(nat64s_max: usize) -> Self {
        let cells = (0..ROWS * CELLS).map(|_| AtomicU32::new(0)).collect();
        Self { nat64s_max, hash: OnceLock::new(), cells }
    }

    /// The hash that all shards count by is that of the first one that calls this.
    pub fn set_hash(&self, hash: SecretHash) {
        self.hash.get_or_init(|| hash);
    }

    /// There is one more table of this NAT64.
    pub fn add(&self, nat64: Ipv4Addr) {
        for cell in SHARES.iter().flat_map(|share| self.cells_of(nat64, share)) {
            cell.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// There is one table less of this NAT64.
    pub fn take(&self, nat64: Ipv4Addr) {
        for cell in SHARES.iter().flat_map(|share| self.cells_of(nat64, share)) {
            cell.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether the address or a network that it is in has more than its share, with so many `more`
    /// tables.
    pub fn is_over(&self, nat64: Ipv4Addr, more: usize) -> bool {
        SHARES.iter().any(|share| {
            let counts = self.cells_of(nat64, share).map(|cell| cell.load(Ordering::Relaxed));
            let count = counts.into_iter().min().unwrap_or(0) as usize;
            count + more > (self.nat64s_max / share.part).max(share.least)
        })
    }

    fn cells_of(&self, nat64: Ipv4Addr, share: &Share) -> [&AtomicU32; ROWS] {
        let hash = self.hash.get_or_init(|| SecretHash::new([0; 16]));
        let prefix = nat64.to_bits() >> (u32::BITS - share.bits);
        let hash = hash.of_words([prefix.into(), share.bits.into()]);
        std::array::from_fn(|row| {
            let within = (hash >> (32 * row)) as usize % CELLS;
            &self.cells[row * CELLS + within]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crowds() -> Crowds {
        let crowds = Crowds::new(1000);
        crowds.set_hash(SecretHash::new([5; 16]));
        crowds
    }

    #[test]
    fn an_address_a_network_and_a_large_network_have_shares() {
        let crowds = crowds();
        let address = |a, b, c| Ipv4Addr::new(198, a, b, c);
        // One address, by many local addresses.
        (0..15).for_each(|_| crowds.add(address(1, 1, 1)));
        assert!(!crowds.is_over(address(1, 1, 1), 0) && crowds.is_over(address(1, 1, 1), 1));
        assert!(!crowds.is_over(address(1, 1, 2), 1));
        // Its /24, with the others in it.
        (0..47).for_each(|last| crowds.add(address(1, 1, 100 + last)));
        assert!(!crowds.is_over(address(1, 1, 2), 0) && crowds.is_over(address(1, 1, 2), 1));
        assert!(!crowds.is_over(address(1, 2, 2), 1));
        // Its /16.
        (0..188).for_each(|number| crowds.add(address(1, 2 + number, 1)));
        assert!(!crowds.is_over(address(1, 255, 2), 0) && crowds.is_over(address(1, 255, 2), 1));
        assert!(!crowds.is_over(address(2, 1, 1), 1));
        // What goes is counted out.
        crowds.take(address(1, 2, 1));
        assert!(!crowds.is_over(address(1, 255, 2), 1));
        assert!(crowds.is_over(address(1, 1, 2), 1));
    }

    /// As many tables as there can be, each of an address of its own: nobody else is over a share.
    #[test]
    fn a_full_sketch_says_of_nobody_else_that_he_has_too_many() {
        let crowds = crowds();
        let address = |number: u32| Ipv4Addr::from_bits(number.wrapping_mul(0x9e37_79b1));
        (0..1000).for_each(|number| crowds.add(address(number)));
        assert_eq!((0..20_000).filter(|&number| crowds.is_over(address(number), 1)).count(), 0);
        (0..1000).for_each(|number| crowds.take(address(number)));
        assert!(crowds.cells.iter().all(|cell| cell.load(Ordering::Relaxed) == 0));
    }
}
