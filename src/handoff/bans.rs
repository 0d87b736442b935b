//! [`Bans`]: which clients get no connection, and until when (PROTOCOL.md section 7).
//!
//! A ban is of an address or a network. Whoever asks whether an address is banned waits for one
//! bit, which says whether anything is banned in its network of the shortest length that there is;
//! and mostly for nothing else, however many bans there are, and of how many lengths. Not here: who
//! bans, and where it is kept.

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
/// Shorter prefixes are asked for by themselves, and do not count for the shortest length: too many
/// others share a network that is so large with somebody who is banned.
const LONG_MIN: u8 = 48;

/// All bans at one time. It is made anew where one comes or goes.
#[derive(Debug, Clone)]
pub struct Bans {
    hash: SecretHash,
    /// The lengths of prefixes that there are, from the shortest.
    lengths: Vec<BannedLength>,
    /// Those that are asked for first. Who is banned has a bit of one of these.
    first: Vec<BannedLength>,
    /// Where the bit of a network is not set, it is not banned. A power of two of words.
    filter: Vec<u64>,
    /// Odd, secret. Who finds networks that have the same bit makes the server look into the table,
    /// and that is all.
    multipliers: Halves,
    /// So many bits of a product do not count.
    shift: u32,
    bans: HashTable<Ban>,
}

/// Those of an address, as the memory has them.
type Halves = [u64; 2];

/// A length of prefixes, and the mask of its networks.
#[derive(Debug, Clone, Copy)]
struct BannedLength {
    length: u8,
    mask: Halves,
}

impl BannedLength {
    fn new(length: u8) -> Option<Self> {
        let any = Ipv6Net::new(Ipv6Addr::UNSPECIFIED, length).ok()?;
        Some(Self { length, mask: halves(any.netmask()) })
    }

    #[inline(always)] // As `Bans::may_have`.
    fn network(&self, [one, other]: Halves) -> Halves {
        [one & self.mask[0], other & self.mask[1]]
    }
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
        let all: Vec<_> = all.collect();
        let words = (all.len() * FILTER_BITS).div_ceil(64).max(FILTER_WORDS_MIN);
        let filter = vec![0; words.next_power_of_two()];
        let multipliers = [0, 1].map(|which| hash.of_words([which, FILTER_BITS as u64]) | 1);
        let shift = 64 - filter.len().trailing_zeros() - 6;
        let mut lengths: Vec<u8> = all.iter().map(|(net, _)| net.prefix_len()).collect();
        lengths.sort_unstable();
        lengths.dedup();
        let lengths: Vec<_> = lengths.into_iter().filter_map(BannedLength::new).collect();
        let short = lengths.iter().take_while(|of| of.length < LONG_MIN).count();
        let first = lengths.iter().take(short + 1).copied().collect();
        let bans = HashTable::with_capacity(all.len());
        let mut these = Self { hash, lengths, first, filter, multipliers, shift, bans };
        all.into_iter().for_each(|(net, end)| these.add(net, end));
        these
    }

    fn add(&mut self, net: Ipv6Net, end: Duration) {
        let length = net.prefix_len();
        let wanted = halves(net.network());
        // The last of them is the shortest length from `LONG_MIN` on.
        let asked = self.first.iter().rev().find(|of| of.length <= length).copied();
        for of in BannedLength::new(length).into_iter().chain(asked) {
            let (word, bit) = self.bit(of.network(wanted));
            self.filter[word] |= 1 << bit;
        }
        let network = net.network().to_bits();
        let hash = hash_of(&self.hash, network);
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

    /// Whether `address` is banned. Each request asks this: it is to be short where no prefix is
    /// short, and nobody's bit is set.
    #[inline]
    pub fn has(&self, address: Ipv6Addr, now: Duration) -> bool {
        match &self.first[..] {
            [] => false,
            [only] => self.may_have(only, halves(address)) && self.has_any(address, now),
            _ => self.has_any(address, now),
        }
    }

    /// Whether the bit of its network is set.
    #[inline(always)] // Its values stay in registers.
    fn may_have(&self, of: &BannedLength, wanted: Halves) -> bool {
        let (word, bit) = self.bit(of.network(wanted));
        self.filter.get(word).is_some_and(|word| word >> bit & 1 != 0)
    }

    #[inline(never)]
    fn has_any(&self, address: Ipv6Addr, now: Duration) -> bool {
        let wanted = halves(address);
        if !self.first.iter().any(|of| self.may_have(of, wanted)) {
            return false;
        }
        let mut may_have = self.lengths.iter().filter(|of| self.may_have(of, wanted));
        may_have.any(|of| self.has_network(address, of.length, now))
    }

    #[cold]
    fn has_network(&self, address: Ipv6Addr, length: u8, now: Duration) -> bool {
        let network = Ipv6Net::new_assert(address, length).network().to_bits();
        let is_it = |ban: &Ban| (ban.network, ban.length) == (network, length);
        let found = self.bans.find(hash_of(&self.hash, network), is_it);
        found.is_some_and(|ban| now < ban.end)
    }

    /// Where a network stands in the filter: the word, and the bit in it.
    #[inline(always)] // As `may_have`.
    fn bit(&self, [one, other]: Halves) -> (usize, u32) {
        let [first, second] = self.multipliers;
        let mixed = one.wrapping_mul(first).wrapping_add(other.wrapping_mul(second));
        let at = mixed.wrapping_shr(self.shift);
        ((at / 64) as usize, (at % 64) as u32)
    }
}

#[inline(always)] // As `Bans::may_have`.
fn halves(address: Ipv6Addr) -> Halves {
    let bits = u128::from_ne_bytes(address.octets());
    [bits as u64, (bits >> 64) as u64]
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

    /// Networks that hold each other, and neighbours of all of them.
    #[test]
    fn of_all_lengths_as_by_a_look_at_each() {
        let bits = |number: u128| number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        let lengths = [128, 127, 72, 64, 56, 48, 47, 32, 19];
        for (first, count) in [(0, 1), (0, 4), (0, 9), (2, 3), (4, 3), (6, 3), (8, 1)] {
            let lengths = &lengths[first..first + count];
            let nets = (0..90).map(|number| {
                let address = Ipv6Addr::from_bits(bits(number) >> 4);
                let length = lengths[number as usize % count];
                (Ipv6Net::new_assert(address, length).trunc(), Duration::from_secs(9))
            });
            let nets: Vec<_> = nets.collect();
            let bans = Bans::of(SecretHash::new([6; 16]), nets.clone().into_iter());
            for flipped in 0..128 {
                for (net, _) in &nets {
                    let address = Ipv6Addr::from_bits(net.broadcast().to_bits() ^ 1 << flipped);
                    let expected = nets.iter().any(|(net, _)| net.contains(&address));
                    assert_eq!(
                        bans.has(address, Duration::ZERO),
                        expected,
                        "{address} {lengths:?}"
                    );
                }
            }
        }
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
        let networks = (0..BANS_MAX as u128).map(|number| Ipv6Net::from(address(number)));
        assert_all_are_found(networks.collect());
        // Where networks differ in their upper half alone, and of all lengths.
        let network = |number: u128| Ipv6Addr::from_bits(0x2001 << 112 | number << 64);
        let networks = (0..BANS_MAX as u128)
            .map(|number| Ipv6Net::new_assert(network(number), 64 + (number % 65) as u8));
        assert_all_are_found(networks.collect());
    }

    fn assert_all_are_found(networks: Vec<Ipv6Net>) {
        let all: Vec<_> = networks.iter().map(|net| (*net, Duration::MAX)).collect();
        let bans = Bans::of(SecretHash::new([9; 16]), all.into_iter());
        assert_eq!(bans.len(), BANS_MAX);
        let has = |address| bans.has(address, Duration::ZERO);
        let mut passed = 0;
        for net in networks {
            assert!(has(net.network()) && has(net.broadcast()), "{net}");
            // No other one begins so.
            let other = Ipv6Addr::from_bits(net.network().to_bits() ^ 0x8000 << 96);
            assert!(!has(other), "{other}");
            let only = BannedLength { length: net.prefix_len(), mask: halves(net.netmask()) };
            passed += usize::from(bans.may_have(&only, halves(other)));
        }
        assert!(passed < BANS_MAX / 8, "{passed}");
    }
}
