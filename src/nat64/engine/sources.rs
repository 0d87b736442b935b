//! What a NAT64 keeps for each network of clients, a /64: so that none of them makes it send much
//! to hosts of which nothing was heard, or fills its memory with entries towards hosts that never
//! answer (PROTOCOL.md section 10, point 11).

use std::collections::VecDeque;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use hashbrown::HashMap;

use crate::handoff::entry::Client;
use crate::handoff::random::SecretHash;
use crate::handoff::rate::Rate;

/// The maximum number of requests per second that one /64 causes to hosts of which nothing was
/// heard, or that were found to have no server. Repetitions of reports are not counted.
pub const PROBE_RATE_MAX: u32 = 32;
/// Of its entries towards hosts that never answered, a /64 keeps at least those that are among the
/// last of this many that it made.
pub const SILENT_MAX: usize = 4096;
/// The maximum number of networks that are told apart. All others share one record.
const SOURCES_MAX: usize = 65_536;
/// How many entries are evicted at once where the NAT64 can have no more.
const EVICTED_AT_ONCE: usize = 64;
/// How long a record without entries is kept: the time that its rate looks back.
const IDLE_MAX: Duration = Duration::from_secs(2);

/// A network of clients: a /64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Network(u64);

impl Network {
    /// That of the address.
    pub fn of(client: Ipv6Addr) -> Self {
        Self((client.to_bits() >> 64) as u64)
    }
}

#[derive(Debug)]
pub(super) struct Sources {
    records: HashMap<Network, Source, SecretHash>,
    others: Source,
}

#[derive(Debug, Default)]
struct Source {
    probes: Rate,
    used: Duration,
    /// Entries that were made without a server, oldest first. Some have been answered since, or are
    /// gone.
    silent: VecDeque<(Ipv4Addr, Client)>,
    /// How many entries towards all servers were made without them: at most so many are there.
    own: usize,
}

impl Sources {
    pub(super) fn new(hash: SecretHash) -> Self {
        Self { records: HashMap::with_hasher(hash), others: Source::default() }
    }

    fn of(&mut self, client: Ipv6Addr) -> &mut Source {
        let network = Network::of(client);
        if self.records.len() >= SOURCES_MAX && !self.records.contains_key(&network) {
            return &mut self.others;
        }
        self.records.entry(network).or_default()
    }

    /// Whether a packet of this client may cause a request to a host that is not known to have a
    /// server. If so, it does.
    pub(super) fn may_probe(&mut self, now: Duration, client: Ipv6Addr) -> bool {
        let source = self.of(client);
        source.used = now;
        source.probes.take(now, PROBE_RATE_MAX)
    }

    /// How many entries that were made without a server the client's network has, towards all of
    /// them; it may be less.
    pub(super) fn own(&mut self, client: Ipv6Addr) -> usize {
        self.of(client).own
    }

    /// An entry of this client that was made without a server is gone.
    pub(super) fn lost(&mut self, client: Ipv6Addr) {
        let source = self.of(client);
        source.own = source.own.saturating_sub(1);
    }

    /// Counts anew how many of these entries each network has.
    pub(super) fn count_own(&mut self, own: impl Iterator<Item = (Network, usize)>) {
        for source in self.records.values_mut().chain([&mut self.others]) {
            source.own = 0;
        }
        for (network, count) in own {
            self.records.get_mut(&network).unwrap_or(&mut self.others).own += count;
        }
    }

    /// Remembers an entry that is being made. Returns the one that it is instead of.
    pub(super) fn made(&mut self, server: Ipv4Addr, client: Client) -> Option<(Ipv4Addr, Client)> {
        let source = self.of(client.address);
        source.own += 1;
        source.silent.push_back((server, client));
        if source.silent.len() > SILENT_MAX { source.silent.pop_front() } else { None }
    }

    /// The oldest entries of the network that has most.
    pub(super) fn oldest(&mut self) -> Vec<(Ipv4Addr, Client)> {
        let all = self.records.values_mut().chain([&mut self.others]);
        let Some(heaviest) = all.max_by_key(|source| source.silent.len()) else {
            return Vec::new();
        };
        let count = heaviest.silent.len().min(EVICTED_AT_ONCE);
        heaviest.silent.drain(..count).collect()
    }

    /// Keeps those entries that are still silent, and no records without a use.
    pub(super) fn retain(&mut self, now: Duration, is_silent: impl Fn(Ipv4Addr, &Client) -> bool) {
        self.records.retain(|_, source| {
            source.silent.retain(|(server, client)| is_silent(*server, client));
            let used = now < source.used.saturating_add(IDLE_MAX);
            used || source.own > 0 || !source.silent.is_empty()
        });
        self.others.silent.retain(|(server, client)| is_silent(*server, client));
    }
}
