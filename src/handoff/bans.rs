//! [`Bans`]: which clients get no connection, and until when (PROTOCOL.md section 7).
//!
//! A ban is of an address or a network. Whoever asks whether an address is banned waits for one bit
//! for each length of prefix that is banned, and mostly for nothing else, however many bans there
//! are. Not here: who bans, and where it is kept.

use std::net::Ipv6Addr;
use std::time::Duration;

use hashbrown::HashTable;
use ipnet::Ipv6Net;

use crate::handoff::random::SecretHash;

/// The most bans.
pub const BANS_MAX: usize = 65_536;
/// Bits of the filter for each ban: of addresses that are not banned, so many pass to one that does
/// not.
const FILTER_BITS: usize = 16;
const FILTER_WORDS_MIN: usize = 16;

/// All bans at one time. It is made anew where one comes or goes.
#[derive(Debug, Clone)]
pub struct Bans {
    hash: SecretHash,
    /// The lengths of prefixes that there are, and their masks.
    masks: Vec<(u8, u128)>,
    /// By a hash: where the bit is not set, nothing is banned. A power of two of words.
    filter: Vec<u64>,
    bans: HashTable<Ban>,
}

#[derive(Debug, Clone, Copy)]
struct Ban {
    network: u128,
    length: u8,
    /// By the monotonic clock.
    end: Duration,
}

impl Bans {
    /// Networks, and when the ban of each ends; [`Duration::MAX`] is never. Of equal networks, the
    /// last one counts. An attacker chooses what is banned: `hash` has a secret key.
    pub fn of(hash: SecretHash, all: impl ExactSizeIterator<Item = (Ipv6Net, Duration)>) -> Self {
        let words = (all.len() * FILTER_BITS).div_ceil(64).max(FILTER_WORDS_MIN);
        let filter = vec![0; words.next_power_of_two()];
        let bans = HashTable::with_capacity(all.len());
        let mut these = Self { hash, masks: Vec::new(), filter, bans };
        all.for_each(|(net, end)| these.add(net, end));
        these
    }

    fn add(&mut self, net: Ipv6Net, end: Duration) {
        let (length, mask) = (net.prefix_len(), net.netmask().to_bits());
        if let Err(at) = self.masks.binary_search(&(length, mask)) {
            self.masks.insert(at, (length, mask));
        }
        let network = net.network().to_bits();
        let hash = self.hash_of(network);
        let (word, bit) = self.bit(hash);
        self.filter[word] |= bit;
        if let Some(ban) =
            self.bans.find_mut(hash, |ban| (ban.network, ban.length) == (network, length))
        {
            ban.end = end;
            return;
        }
        let hash_of = |ban: &Ban| hash_of(&self.hash, ban.network);
        self.bans.insert_unique(hash, Ban { network, length, end }, hash_of);
    }

    /// How many there are, those that ended among them.
    pub fn len(&self) -> usize {
        self.bans.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bans.is_empty()
    }

    /// The networks, in no order.
    pub fn nets(&self) -> impl ExactSizeIterator<Item = Ipv6Net> {
        let net = |ban: &Ban| Ipv6Net::new_assert(Ipv6Addr::from_bits(ban.network), ban.length);
        self.bans.iter().map(net)
    }

    /// Whether `address` is banned.
    #[inline]
    pub fn has(&self, address: Ipv6Addr, now: Duration) -> bool {
        let bits = address.to_bits();
        self.masks.iter().any(|&(length, mask)| {
            let network = bits & mask;
            let hash = self.hash_of(network);
            let (word, bit) = self.bit(hash);
            self.filter[word] & bit != 0 && self.has_network(hash, network, length, now)
        })
    }

    #[cold]
    fn has_network(&self, hash: u64, network: u128, length: u8, now: Duration) -> bool {
        let is_it = |ban: &Ban| (ban.network, ban.length) == (network, length);
        self.bans.find(hash, is_it).is_some_and(|ban| now < ban.end)
    }

    fn hash_of(&self, network: u128) -> u64 {
        hash_of(&self.hash, network)
    }

    /// Where a hash stands in the filter. The table uses other bits of it first.
    fn bit(&self, hash: u64) -> (usize, u64) {
        let word = (hash >> 20) as usize & (self.filter.len() - 1);
        (word, 1 << (hash >> 44 & 63))
    }
}

fn hash_of(hash: &SecretHash, network: u128) -> u64 {
    hash.of_words([(network >> 64) as u64, network as u64])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bans(nets: &[(&str, u64)]) -> Bans {
        let all = nets.iter().map(|(net, end)| (net.parse().unwrap(), Duration::from_secs(*end)));
        Bans::of(SecretHash::new([3; 16]), all)
    }

    fn has(bans: &Bans, address: &str, now: u64) -> bool {
        bans.has(address.parse().unwrap(), Duration::from_secs(now))
    }

    #[test]
    fn addresses_and_networks_are_banned() {
        let bans = bans(&[("2001:db8::17/128", 100), ("2001:db8:5::/64", 50), ("2a00::/19", 9)]);
        assert_eq!(bans.len(), 3);
        for (address, until) in [
            ("2001:db8::17", 100),
            ("2001:db8:5::", 50),
            ("2001:db8:5:0:ffff:ffff:ffff:ffff", 50),
            ("2a00:1fff:1::1", 9),
        ] {
            assert!(has(&bans, address, 0) && has(&bans, address, until - 1), "{address}");
            assert!(!has(&bans, address, until), "{address} after its end");
        }
        for address in ["2001:db8::16", "2001:db8::18", "2001:db8:5:1::", "2a00:2000::", "::"] {
            assert!(!has(&bans, address, 0), "{address}");
        }
    }

    #[test]
    fn the_longest_of_several_that_hold_an_address_counts() {
        let bans = bans(&[("2001:db8::/32", 10), ("2001:db8::/64", 30), ("2001:db8::17/128", 20)]);
        assert!(has(&bans, "2001:db8::17", 29) && !has(&bans, "2001:db8::17", 30));
        assert!(has(&bans, "2001:db8:1::17", 9) && !has(&bans, "2001:db8:1::17", 10));
    }

    #[test]
    fn everything_and_nothing() {
        let (all, none) = (bans(&[("::/0", 5)]), bans(&[]));
        assert!(has(&all, "2001:db8::1", 4) && has(&all, "::", 0) && !has(&all, "::", 5));
        assert!(none.is_empty() && !has(&none, "::", 0));
        // Host bits of a network are none of it.
        assert!(has(&bans(&[("2001:db8::17/64", 5)]), "2001:db8::18", 0));
    }

    #[test]
    fn a_ban_that_comes_again_has_its_new_end() {
        let bans = bans(&[("2001:db8::17/128", 5), ("2001:db8::17/128", 99)]);
        assert!(
            bans.len() == 1 && has(&bans, "2001:db8::17", 98) && !has(&bans, "2001:db8::17", 99)
        );
    }

    /// As many as there may be are all found, and nobody else is; few others pass the filter.
    #[test]
    fn as_many_as_there_may_be() {
        let address = |number: u128| Ipv6Addr::from_bits(0x2001_0db8 << 96 | number << 3);
        let all: Vec<_> =
            (0..BANS_MAX as u128).map(|n| (Ipv6Net::from(address(n)), Duration::MAX)).collect();
        let bans = Bans::of(SecretHash::new([9; 16]), all.into_iter());
        assert_eq!(bans.len(), BANS_MAX);
        assert!((0..BANS_MAX as u128).all(|n| bans.has(address(n), Duration::ZERO)));
        let mut passed = 0;
        for number in 0..BANS_MAX as u128 {
            let other = Ipv6Addr::from_bits(address(number).to_bits() + 1);
            assert!(!bans.has(other, Duration::ZERO));
            let (word, bit) = bans.bit(bans.hash_of(other.to_bits()));
            passed += usize::from(bans.filter[word] & bit != 0);
        }
        assert!(passed < BANS_MAX / 8, "{passed}");
    }
}
