//! [`Bans`]: which clients get no connection, and until when (PROTOCOL.md section 7).
//!
//! A ban is of an address or a network. Whoever asks whether an address is banned waits for one
//! look-up for each length of prefix that is banned, however many bans there are. Not here: who
//! bans, and where it is kept.

use std::net::Ipv6Addr;
use std::time::Duration;

use hashbrown::HashMap;
use ipnet::Ipv6Net;

use crate::handoff::random::SecretHash;

/// The most bans.
pub const BANS_MAX: usize = 65_536;

/// All bans at one time. It is made anew where one comes or goes.
#[derive(Debug, Clone)]
pub struct Bans {
    /// The lengths of prefixes that there are, and their masks.
    masks: Vec<(u8, u128)>,
    /// When each ends, by the monotonic clock.
    ends: HashMap<(u128, u8), Duration, SecretHash>,
}

impl Bans {
    /// No bans. An attacker chooses what is banned: `hash` has a secret key.
    pub fn none(hash: SecretHash) -> Self {
        Self { masks: Vec::new(), ends: HashMap::with_hasher(hash) }
    }

    /// How many there are, those that ended among them.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bans a network until `end`; [`Duration::MAX`] is for good.
    pub fn add(&mut self, net: Ipv6Net, end: Duration) {
        let (length, mask) = (net.prefix_len(), net.netmask().to_bits());
        if let Err(at) = self.masks.binary_search(&(length, mask)) {
            self.masks.insert(at, (length, mask));
        }
        self.ends.insert((net.network().to_bits(), length), end);
    }

    /// Whether `address` is banned.
    pub fn has(&self, address: Ipv6Addr, now: Duration) -> bool {
        let bits = address.to_bits();
        let is_within = |&(length, mask): &(u8, u128)| {
            self.ends.get(&(bits & mask, length)).is_some_and(|&end| now < end)
        };
        self.masks.iter().any(is_within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bans(nets: &[(&str, u64)]) -> Bans {
        let mut bans = Bans::none(SecretHash::new([3; 16]));
        for (net, end) in nets {
            bans.add(net.parse().unwrap(), Duration::from_secs(*end));
        }
        bans
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
        let mut bans = bans(&[("2001:db8::17/128", 5)]);
        bans.add("2001:db8::17/128".parse().unwrap(), Duration::MAX);
        assert!(bans.len() == 1 && has(&bans, "2001:db8::17", u64::from(u32::MAX)));
    }
}
