//! [`PublicAddresses`]: the public addresses, and which of them a client has.
//!
//! Each has an engine of its own, as each is a NAT64 of its own to a handoff server: with its own
//! control channel, tokens and tables. All connections of a client go through one of them (RFC 4787
//! REQ-2, RFC 6888 REQ-2: paired). Which one that is follows from the client's address alone, so
//! that it is the same after a reboot, when a server knows connections that the gateway does not;
//! unless that one is crowded when the client comes: then it is the emptiest.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::{Index, IndexMut};
use std::time::Duration;

use hashbrown::HashMap;

use super::echo::Echoes;
use super::tunnels::GeneveTunnels;
use crate::handoff::entry::TableKey;
use crate::handoff::random::SecretHash;
use crate::nat64::engine::{Nat64, TCP_ESTABLISHED_LIFETIME};
use crate::nat64::translate::{Inside, Ipv6Packet};

/// The most public addresses: each has tables of its own.
pub const ADDRESSES_MAX: usize = 64;
/// The maximum number of clients of which is remembered which public address they have. For others
/// it is found anew with each packet.
pub const PAIRINGS_MAX: usize = 1 << 20;
/// How long a client without an entry keeps its public address: as long as a connection lives that
/// a server delivers.
pub const PAIRING_LIFETIME: Duration = TCP_ESTABLISHED_LIFETIME;
/// An address with more entries than this, and more than twice those of another, is crowded.
const CROWDED_MIN: usize = 1024;
/// Time between two searches for pairings that are over.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(10);

/// A public address, with its entries and its mappings of echo.
#[derive(Debug)]
pub(super) struct Public {
    pub(super) nat64: Nat64,
    pub(super) echoes: Echoes,
    /// `None`: no server is offered one.
    pub(super) tunnels: Option<GeneveTunnels>,
}

/// Which of the public addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Which(usize);

#[derive(Debug)]
pub(super) struct PublicAddresses {
    /// At least one.
    publics: Vec<Public>,
    /// Those of `publics`, in the same order.
    addresses: Vec<Ipv4Addr>,
    /// Empty where there is only one address.
    pairings: HashMap<Ipv6Addr, Pairing, SecretHash>,
    expiry_due: Duration,
}

#[derive(Debug)]
struct Pairing {
    which: Which,
    used: Duration,
}

impl PublicAddresses {
    pub(super) fn new(publics: Vec<Public>, hash: SecretHash) -> Self {
        assert!(!publics.is_empty(), "a NAT64 has a public address");
        let addresses = publics.iter().map(|public| public.nat64.address()).collect();
        let pairings = HashMap::with_hasher(hash);
        Self { publics, addresses, pairings, expiry_due: Duration::ZERO }
    }

    pub(super) fn has(&self, address: Ipv4Addr) -> bool {
        self.addresses.contains(&address)
    }

    pub(super) fn which(&self, address: Ipv4Addr) -> Option<Which> {
        self.addresses.iter().position(|&one| one == address).map(Which)
    }

    /// The first of them.
    pub(super) fn first(&self) -> &Public {
        &self.publics[0]
    }

    pub(super) fn each(&self) -> impl Iterator<Item = &Public> {
        self.publics.iter()
    }

    pub(super) fn each_mut(&mut self) -> impl Iterator<Item = &mut Public> {
        self.publics.iter_mut()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = Which> + use<> {
        (0..self.publics.len()).map(Which)
    }

    /// The table that `server` has of this address.
    pub(super) fn table(&self, which: Which, server: Ipv4Addr) -> TableKey {
        TableKey { local: server, nat64: self.addresses[which.0] }
    }

    /// Which address a client has, one of whose packets there is.
    pub(super) fn of_client(&mut self, now: Duration, client: Ipv6Addr) -> Which {
        if self.publics.len() == 1 {
            return Which(0);
        }
        if let Some(pairing) = self.pairings.get_mut(&client) {
            pairing.used = now;
            return pairing.which;
        }
        let which = self.choose(client);
        if self.pairings.len() < PAIRINGS_MAX {
            self.pairings.insert(client, Pairing { which, used: now });
        }
        which
    }

    /// Which address the sender of a packet has. An error may come from a router: it is about its
    /// client's packet.
    pub(super) fn of_sender(&mut self, now: Duration, packet: &Ipv6Packet<'_>) -> Which {
        let client = match packet.inside() {
            Inside::Error(flow) => flow.client,
            Inside::Flow { .. } | Inside::Later(_) => packet.view().source(),
        };
        self.of_client(now, client)
    }

    pub(super) fn forget_pairings(&mut self) {
        self.pairings.clear();
    }

    fn choose(&self, client: Ipv6Addr) -> Which {
        // A server may have named an entry of it to a service that spoke first.
        if let Some(at) = self.publics.iter().position(|public| public.nat64.has_client(client)) {
            return Which(at);
        }
        let entries = |at: &usize| self.publics[*at].nat64.entries_held();
        let of_address = (0..self.publics.len())
            .max_by_key(|&at| weight(client, self.addresses[at]))
            .unwrap_or_default();
        let emptiest = (0..self.publics.len()).min_by_key(entries).unwrap_or_default();
        let most = entries(&emptiest).saturating_mul(2).saturating_add(CROWDED_MIN);
        Which(if entries(&of_address) > most { emptiest } else { of_address })
    }

    /// Forgets which address those clients had that have not sent for long, and have no entries.
    pub(super) fn tick(&mut self, now: Duration) {
        if now < self.expiry_due {
            return;
        }
        self.expiry_due = now.saturating_add(EXPIRY_INTERVAL);
        let publics = &self.publics;
        self.pairings.retain(|&client, &mut Pairing { which: Which(at), used }| {
            now < used.saturating_add(PAIRING_LIFETIME) || publics[at].nat64.has_client(client)
        });
    }
}

impl Index<Which> for PublicAddresses {
    type Output = Public;

    fn index(&self, which: Which) -> &Public {
        &self.publics[which.0]
    }
}

impl IndexMut<Which> for PublicAddresses {
    fn index_mut(&mut self, which: Which) -> &mut Public {
        &mut self.publics[which.0]
    }
}

/// Each client has the address that weighs most with it: so where an address is added or taken
/// away, only the clients change that get it or had it. No secret: it is to be the same after each
/// start, and a client that chooses an address by it wins nothing.
fn weight(client: Ipv6Addr, address: Ipv4Addr) -> u64 {
    let bits = client.to_bits();
    mixed(mixed(mixed((bits >> 64) as u64) ^ bits as u64) ^ u64::from(address.to_bits()))
}

/// The finalizer of SplitMix64: each bit of the result depends on all of the word.
fn mixed(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, number)
    }

    fn heaviest(client: u128, count: u8) -> u8 {
        let client = Ipv6Addr::from_bits((0x2001_0db8_u128 << 96) + client);
        (1..=count).max_by_key(|&number| weight(client, address(number))).unwrap()
    }

    #[test]
    fn clients_spread_and_few_change_with_the_addresses() {
        for clients in [(0..8000).collect::<Vec<u128>>(), (0..8000).map(|n| n << 64).collect()] {
            let mut counts = [0; 4];
            for &client in &clients {
                counts[usize::from(heaviest(client, 4)) - 1] += 1;
            }
            assert!(counts.iter().all(|&n| (1850..2150).contains(&n)), "{counts:?}");
            let changed = |&&client: &&u128| heaviest(client, 5) != heaviest(client, 4);
            let changed: Vec<_> = clients.iter().filter(changed).collect();
            assert!((1450..1750).contains(&changed.len()), "{}", changed.len());
            assert!(changed.iter().all(|&&client| heaviest(client, 5) == 5));
        }
        // It is the same in each version of this program.
        assert_eq!([1, 2, 3, 4, 5, 6].map(|client| heaviest(client, 4)), [4, 3, 1, 2, 4, 3]);
    }
}
