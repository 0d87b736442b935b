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

#[derive(Debug)]
pub(super) struct Sources {
    records: HashMap<u64, Source, SecretHash>,
    others: Source,
}

#[derive(Debug, Default)]
struct Source {
    probes: Rate,
    used: Duration,
    /// Entries that were made without a server, oldest first. Some have been answered since, or are
    /// gone.
    silent: VecDeque<(Ipv4Addr, Client)>,
}

impl Sources {
    pub(super) fn new(hash: SecretHash) -> Self {
        Self { records: HashMap::with_hasher(hash), others: Source::default() }
    }

    fn of(&mut self, client: Ipv6Addr) -> &mut Source {
        let network = (client.to_bits() >> 64) as u64;
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

    /// Remembers an entry that is being made. Returns the one that it is instead of.
    pub(super) fn made(&mut self, server: Ipv4Addr, client: Client) -> Option<(Ipv4Addr, Client)> {
        let source = self.of(client.address);
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
            !source.silent.is_empty() || now < source.used.saturating_add(IDLE_MAX)
        });
        self.others.silent.retain(|(server, client)| is_silent(*server, client));
    }
}
