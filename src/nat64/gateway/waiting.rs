//! Later fragments that arrived before the first of their packet, which alone has the ports (RFC
//! 6146 section 3.4: fragments are handled in any order).
//!
//! They wait for [`WAITING_LIFETIME`]. Memory is bounded by [`WAITING_MAX`], and a source (a /64 of
//! clients, or an IPv4 host) has at most [`WAITING_SHARER_MAX`] of it: beyond its share it evicts
//! its own packets, oldest first. Where all is taken, the source that has most loses its oldest.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::Duration;

use hashbrown::HashMap;

use crate::handoff::random::SecretHash;
use crate::ip::fragment::FragmentKey;

/// How long a fragment waits: at least FRAGMENT_MIN, 2 s (RFC 6146 section 4).
pub const WAITING_LIFETIME: Duration = Duration::from_secs(2);
/// The maximum cost of all that waits, in octets.
pub const WAITING_MAX: usize = 4 << 20;
/// The maximum cost of what waits of one sharer: more than that of the longest packet.
pub const WAITING_SHARER_MAX: usize = 128 << 10;
/// What a packet costs beside its fragments, and a fragment beside its octets.
const PACKET_COST: usize = 1024;
const FRAGMENT_COST: usize = 64;

#[derive(Debug)]
pub(super) struct Waiting {
    /// Oldest first.
    packets: VecDeque<WaitingPacket>,
    cost: usize,
    /// The cost of what waits of each sharer. None has 0.
    sharers: HashMap<Sharer, usize, SecretHash>,
}

/// The fragments of one packet.
#[derive(Debug)]
struct WaitingPacket {
    key: FragmentKey,
    expires: Duration,
    fragments: Vec<Vec<u8>>,
    cost: usize,
}

/// Who shares the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Sharer {
    /// A /64 of clients.
    Network(u64),
    Host(Ipv4Addr),
}

impl Sharer {
    fn of(key: FragmentKey) -> Self {
        match key {
            FragmentKey::Ipv6 { source, .. } => Sharer::Network((source.to_bits() >> 64) as u64),
            FragmentKey::Ipv4 { source, .. } => Sharer::Host(source),
        }
    }
}

impl Waiting {
    pub(super) fn new(hash: SecretHash) -> Self {
        Self { packets: VecDeque::new(), cost: 0, sharers: HashMap::with_hasher(hash) }
    }

    /// Keeps a fragment, as it was received. Returns how many others were evicted for it.
    pub(super) fn hold(&mut self, now: Duration, key: FragmentKey, fragment: &[u8]) -> usize {
        let sharer = Sharer::of(key);
        let fragment_cost = FRAGMENT_COST + fragment.len();
        let mut evicted = 0;
        while self.cost_of(sharer) + fragment_cost + PACKET_COST > WAITING_SHARER_MAX {
            evicted += self.evict_oldest_of(sharer);
        }
        while self.cost + fragment_cost + PACKET_COST > WAITING_MAX
            && let Some((&heaviest, _)) = self.sharers.iter().max_by_key(|&(_, &cost)| cost)
        {
            evicted += self.evict_oldest_of(heaviest);
        }
        let at = self.packets.iter().position(|held| held.key == key).unwrap_or_else(|| {
            let expires = now.saturating_add(WAITING_LIFETIME);
            self.packets.push_back(WaitingPacket { key, expires, fragments: Vec::new(), cost: 0 });
            self.packets.len() - 1
        });
        let held = &mut self.packets[at];
        let cost = fragment_cost + if held.fragments.is_empty() { PACKET_COST } else { 0 };
        held.fragments.push(fragment.to_vec());
        held.cost += cost;
        self.cost += cost;
        *self.sharers.entry(sharer).or_default() += cost;
        evicted
    }

    /// The fragments that wait for the first one of this packet, in the order of their arrival.
    pub(super) fn take(&mut self, now: Duration, key: FragmentKey) -> Vec<Vec<u8>> {
        let at = self.packets.iter().position(|held| held.key == key && now < held.expires);
        at.map_or_else(Vec::new, |at| self.remove(at))
    }

    /// Removes those that waited in vain. Returns how many fragments they were.
    pub(super) fn expire(&mut self, now: Duration) -> usize {
        let mut expired = 0;
        while self.packets.front().is_some_and(|oldest| now >= oldest.expires) {
            expired += self.remove(0).len();
        }
        expired
    }

    fn cost_of(&self, sharer: Sharer) -> usize {
        self.sharers.get(&sharer).copied().unwrap_or_default()
    }

    fn evict_oldest_of(&mut self, sharer: Sharer) -> usize {
        let at = self.packets.iter().position(|held| Sharer::of(held.key) == sharer);
        at.map_or(0, |at| self.remove(at).len())
    }

    fn remove(&mut self, at: usize) -> Vec<Vec<u8>> {
        let Some(held) = self.packets.remove(at) else {
            return Vec::new();
        };
        self.cost -= held.cost;
        let sharer = Sharer::of(held.key);
        if let Some(cost) = self.sharers.get_mut(&sharer) {
            *cost -= held.cost;
            if *cost == 0 {
                self.sharers.remove(&sharer);
            }
        }
        held.fragments
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ip::fragment::IPV4_DATA_MAX;

    const NOW: Duration = Duration::from_secs(1);

    fn waiting() -> Waiting {
        Waiting::new(SecretHash::new([3; 16]))
    }

    /// A packet of the host with this number.
    fn key(host: u32, identification: u32) -> FragmentKey {
        let (source, destination) = (Ipv4Addr::from(0x0a00_0000 + host), Ipv4Addr::LOCALHOST);
        FragmentKey::Ipv4 { source, destination, protocol: 17, identification }
    }

    fn check(waiting: &Waiting) {
        assert!(waiting.cost <= WAITING_MAX, "{}", waiting.cost);
        assert!(waiting.sharers.values().all(|&cost| (1..=WAITING_SHARER_MAX).contains(&cost)));
        assert_eq!(waiting.sharers.values().sum::<usize>(), waiting.cost);
        assert_eq!(waiting.packets.iter().map(|held| held.cost).sum::<usize>(), waiting.cost);
    }

    #[test]
    fn fragments_wait_for_two_seconds() {
        let mut waiting = waiting();
        waiting.hold(NOW, key(1, 1), b"one");
        waiting.hold(NOW, key(1, 1), b"two");
        waiting.hold(NOW, key(1, 2), b"three");
        assert_eq!(waiting.expire(NOW + WAITING_LIFETIME - Duration::from_nanos(1)), 0);
        assert_eq!(waiting.take(NOW, key(1, 1)), [b"one", b"two"]);
        assert_eq!(waiting.take(NOW, key(1, 1)), [[0; 0]; 0]);
        assert_eq!(waiting.take(NOW + WAITING_LIFETIME, key(1, 2)), [[0; 0]; 0]);
        assert_eq!(waiting.expire(NOW + WAITING_LIFETIME), 1);
        check(&waiting);
        assert_eq!((waiting.cost, waiting.packets.len()), (0, 0));
    }

    #[test]
    fn the_longest_packet_can_wait() {
        let mut waiting = waiting();
        let all = vec![7; IPV4_DATA_MAX];
        let evicted: usize = all
            .chunks(552)
            .map(|data| waiting.hold(NOW, key(1, 1), &[&[0; 20], data].concat()))
            .sum();
        assert_eq!(evicted, 0);
        assert_eq!(waiting.take(NOW, key(1, 1)).len(), IPV4_DATA_MAX.div_ceil(552));
    }

    #[test]
    fn a_source_evicts_its_own_and_memory_is_bounded() {
        let mut waiting = waiting();
        waiting.hold(NOW, key(1, 0), &[1; 1500]);
        // One that sends as much as it can.
        let mut evicted = 0;
        for number in 0..100_000 {
            evicted += waiting.hold(NOW, key(2, number), &[2; 28]);
        }
        check(&waiting);
        assert_eq!(evicted + waiting.packets.len(), 100_001);
        assert_eq!(waiting.take(NOW, key(1, 0)).len(), 1);
        // Many that send as much as they can: who sends little keeps it.
        waiting.hold(NOW, key(1, 0), &[1; 1500]);
        for number in 0..100_000 {
            waiting.hold(NOW, key(2 + number % 1000, number), &[2; 1500]);
            if number % 1000 == 0 {
                check(&waiting);
            }
        }
        assert!(waiting.cost > WAITING_MAX / 2);
        assert_eq!(waiting.take(NOW, key(1, 0)).len(), 1);
    }
}
