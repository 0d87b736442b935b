//! Entries that outlive a restart of their NAT64: those that it made without a server. What a
//! server named is asked for again: it may have another holder since.
//!
//! | octets | |
//! | --- | --- |
//! | 4 | the host that runs the service |
//! | 32 | the entry, as the data of a message of type 7 |
//! | 1 | 1: the service has sent a packet by it |
//! | 9 | how long it lives, and the connection that decides it |
//!
//! A port that becomes free while entries are kept is nobody else's until they were kept without it
//! (`reserved`). So of whatever moment the file is, none of its entries is another client's now.

use std::net::Ipv4Addr;
use std::ops::Bound;
use std::time::Duration;

use super::lifetime::{LIFETIME_OCTETS, Lifetime};
use super::{CONTROL_PORT_MIN, ENTRIES_MAX, Nat64, peer_of};
use crate::handoff::entry::{Client, ControlPort, Entry};
use crate::handoff::message::{ENTRY_LENGTH, MESSAGE_HEADER};
use crate::ip::address::is_routable_host;

const SERVER: usize = 4;
const ENTRY: usize = ENTRY_LENGTH - MESSAGE_HEADER;
/// Octets of an entry that is kept.
pub const KEPT_ENTRY: usize = SERVER + ENTRY + 1 + LIFETIME_OCTETS;
/// About so many entries are collected at once.
const AT_ONCE: usize = 2048;

/// What became of entries of before a restart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restored {
    /// How many are there again.
    pub entries: usize,
    /// How many are not: they expired meanwhile, or cannot be with these options.
    pub lost: usize,
}

impl Nat64 {
    /// All entries are about to be collected, by [`Self::keep`].
    pub fn begin_keeping(&mut self) {
        if let Some(reserved) = self.told.reserved() {
            reserved.begin();
        }
    }

    /// Appends the first entries of servers behind `after`, each of [`KEPT_ENTRY`] octets. Returns
    /// behind which to go on, if there may be more.
    pub fn keep(
        &self,
        now: Duration,
        after: Option<Ipv4Addr>,
        out: &mut Vec<u8>,
    ) -> Option<Ipv4Addr> {
        let start = out.len();
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        for (&server, peer) in self.peers.range((after, Bound::Unbounded)) {
            peer.each_own(|entry, answered, lifetime| {
                out.extend_from_slice(&server.octets());
                out.extend_from_slice(&entry.emit()[MESSAGE_HEADER..]);
                out.push(answered.into());
                out.extend_from_slice(&lifetime.encode(now));
            });
            if out.len() - start >= AT_ONCE * KEPT_ENTRY {
                return Some(server);
            }
        }
        None
    }

    /// What was collected last is in the file, and nothing else; or there is no file.
    pub fn kept(&mut self) {
        if let Some(reserved) = self.told.reserved() {
            reserved.end();
        }
    }

    /// Takes over what was kept so long before, and the control port: no entry has that. To be
    /// called before anything else. `None` where `kept` is nothing of the kind, and nothing was
    /// done.
    pub fn restore(
        &mut self,
        now: Duration,
        elapsed: Duration,
        control_port: ControlPort,
        kept: &[u8],
    ) -> Option<Restored> {
        if !kept.len().is_multiple_of(KEPT_ENTRY) {
            return None;
        }
        if control_port.0 >= CONTROL_PORT_MIN && control_port.0 != self.config.handoff_port {
            self.control_port = control_port;
        }
        let mut restored = Restored::default();
        for octets in kept.chunks_exact(KEPT_ENTRY) {
            match self.restore_one(now, elapsed, octets) {
                true => restored.entries += 1,
                false => restored.lost += 1,
            }
        }
        self.sources.count_own(self.peers.values().flat_map(super::Peer::own));
        Some(restored)
    }

    fn restore_one(&mut self, now: Duration, elapsed: Duration, octets: &[u8]) -> bool {
        let (server, rest) = octets.split_at(SERVER);
        let (entry, rest) = rest.split_at(ENTRY);
        let server =
            Ipv4Addr::from_bits(server.iter().fold(0, |bits, &o| bits << 8 | u32::from(o)));
        let Some(entry) = Entry::parse(entry) else { return false };
        let Entry { port, client } = entry;
        let lifetime = Lifetime::decode(now, elapsed, &rest[1..]);
        let can_be = is_routable_host(server)
            && self.config.prefixes.contains(&client.prefix)
            && Client::can_have(client.address)
            && client.port != 0
            && self.is_eligible(port)
            && self.client_of(server, port).is_none()
            && self.port_of(server, &client).is_none()
            && self.entries_held < ENTRIES_MAX;
        let lifetime = lifetime.filter(|_| can_be);
        let (Some(lifetime), Ok(peer)) = (lifetime, peer_of(&mut self.peers, server)) else {
            self.told.gone(server, entry);
            self.told.reserve(server, entry);
            return false;
        };
        let answered = rest[0] == 1;
        peer.restore(entry, answered, lifetime);
        self.told.restored(server, peer);
        self.entries_held += 1;
        if !answered && let Some((server, client)) = self.sources.made(server, client) {
            self.evict_silent(server, client);
        }
        true
    }
}
