//! [`NamePool`]: entries that come get addresses of the pool, and those that go give them back
//! (`--peer-names ipv4`). Clients whose packets are translated (`--deliver translate`) have theirs
//! from the server; that is recorded here, and taken back.
//!
//! An address that is given is recorded in front of the entries of its batch. It is told to
//! programs, and to the other reactors, when that is as durable as it is to be. Addresses that are
//! idle are taken back, some at a time; the record of that comes before they are given again.

use std::collections::VecDeque;
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv6Net;

use super::{Names, PeerNameWriter, name_writer};
use crate::handoff::change::Change;
use crate::handoff::entry::{BLOCK_ADDRESSES, Client, TableKey};
use crate::handoff::pool::{AddressPool, Coming, Name, Nameless, PoolShare, PoolShareOfBoth};
use crate::handoff::random::SecretHash;
use crate::handoff::server::Server;
use crate::handoff::stats::{Counter, Stats};
use crate::kernel::entropy;
use crate::kernel::routes;
use crate::kernel::socket::steered_to;
use crate::programs::options::ServeConfig;

/// How often a reactor looks for idle addresses.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// At how many it looks then: all of them in a quarter of an hour, where there are half a million.
/// Where most of a pool is given, at more.
const LOOKS: usize = 512;
const LOOKS_CROWDED: usize = 8192;
/// The most that are taken back at a time.
const TAKEN_BACK_MAX: usize = 2048;

/// The fewest blocks of a pool for each reactor, to which they are dealt by chance.
const BLOCKS_LEAST: u64 = 16;

/// What is recorded of an address.
#[derive(Clone, Copy)]
pub(super) enum PoolStep {
    /// It stands for these clients.
    Named(Ipv6Net),
    /// It stands for them no more.
    Unnamed(Name),
}

/// What a reactor does with the pool.
pub(super) struct NamePool {
    share: PoolShareOfBoth,
    /// Whether entries get addresses.
    names: bool,
    stats: Arc<Stats>,
    /// For each entry that came and has no name yet, in their order: its address.
    coming: VecDeque<Option<Ipv4Addr>>,
    /// What was given or taken back, and whose record is not durable yet, with its number: the
    /// first one first.
    unrecorded: VecDeque<(u64, PoolStep)>,
    /// Clients of entries that went, and whose names go.
    gone: Vec<Ipv6Addr>,
    /// What was given last, which is to be recorded in front of the entries that it is given for.
    new: Vec<(TableKey, Change)>,
    /// When it is looked for idle addresses next.
    look_at: Duration,
}

impl NamePool {
    pub fn new(share: PoolShareOfBoth, stats: Arc<Stats>) -> Self {
        let names = share.lock().pool().settings().names;
        Self {
            share,
            names,
            stats,
            coming: VecDeque::new(),
            unrecorded: VecDeque::new(),
            gone: Vec::new(),
            new: Vec::new(),
            look_at: Duration::ZERO,
        }
    }

    /// Before changes are recorded: entries that come get addresses, if they are to get any.
    pub fn give(&mut self, changes: &mut Vec<(TableKey, Change)>, gives: bool) {
        if !self.names {
            return;
        }
        let Self { share, stats, coming, new, .. } = self;
        let mut share = share.lock();
        for (table, change) in changes.iter() {
            let Change::Created { client, .. } = change else { continue };
            let address = if gives {
                let comes = share.come(client.address, table.nat64);
                counted(comes, stats).map(|(address, named)| {
                    new.extend(named);
                    address
                })
            } else {
                share.come_without(client.address);
                None
            };
            coming.push_back(address);
        }
        drop(share);
        if !self.new.is_empty() {
            // Those of a block are together so, and the journal names their table once.
            self.new.append(changes);
            mem::swap(changes, &mut self.new);
        }
    }

    /// The address of the entry whose record is followed now: of each in turn.
    pub fn next_address(&mut self) -> Option<Ipv4Addr> {
        self.coming.pop_front().flatten()
    }

    /// An entry went, and its name goes with the next ones.
    pub fn goes(&mut self, client: &Client) {
        if self.names {
            self.gone.push(client.address);
        }
    }

    /// The names of those that went are gone.
    pub fn went(&mut self, now: Duration) {
        if self.gone.is_empty() {
            return;
        }
        let share = self.share.lock();
        for client in self.gone.drain(..) {
            share.go(client, now);
        }
    }

    /// What was given or taken back is recorded, and durable when this record is.
    pub fn recorded(&mut self, step: PoolStep, waits_for: Option<u64>) {
        match waits_for {
            None => self.do_now(step),
            Some(record) => self.unrecorded.push_back((record, step)),
        }
    }

    fn do_now(&mut self, step: PoolStep) {
        match step {
            PoolStep::Named(client) => self.share.lock().recorded(client),
            PoolStep::Unnamed(name) => self.share.lock().freed(name),
        }
    }

    /// The records up to this one are durable.
    pub fn release(&mut self, durable: u64) {
        while self.unrecorded.front().is_some_and(|(record, _)| *record <= durable)
            && let Some((_, step)) = self.unrecorded.pop_front()
        {
            self.do_now(step);
        }
    }

    /// How soon [`NamePool::take_back`] is to be called, if no datagram comes before.
    pub fn due(&self) -> Option<Duration> {
        (self.share.lock().given() > 0).then_some(LOOK_EVERY)
    }

    /// Takes back some addresses that are idle, with at most so many `events`.
    pub fn take_back(
        &mut self,
        now: Duration,
        events: usize,
        changes: &mut Vec<(TableKey, Change)>,
    ) {
        if now < self.look_at {
            return;
        }
        self.look_at = now + LOOK_EVERY;
        let mut share = self.share.lock();
        let looks = if share.is_crowded() { LOOKS_CROWDED } else { LOOKS };
        let before = changes.len();
        share.take_back(now, looks, events.min(TAKEN_BACK_MAX), |(address, client)| {
            changes.push(unnamed(address, client));
        });
        self.stats.add(Counter::PoolUnnamed, (changes.len() - before) as u64);
    }
}

/// An address that a client has, and what is to be recorded first.
fn counted(
    coming: Result<Coming, Nameless>,
    stats: &Stats,
) -> Option<(Ipv4Addr, Option<(TableKey, Change)>)> {
    match coming {
        Ok(Coming::Has(address)) => Some((address, None)),
        Ok(Coming::New(address, net)) => {
            stats.add(Counter::PoolNamed, 1);
            Some((address, Some(named(address, net))))
        }
        Err(why) => {
            stats.add(why.counter(), 1);
            None
        }
    }
}

fn named(address: Ipv4Addr, client: Ipv6Net) -> (TableKey, Change) {
    (TableKey::block_of(address), Change::Named { address, client })
}

fn unnamed(address: Ipv4Addr, client: Ipv6Net) -> (TableKey, Change) {
    (TableKey::block_of(address), Change::Unnamed { address, client })
}

/// What becomes of the addresses that were given before a start.
pub(in crate::programs::serve) struct FoundPool {
    /// None: no address is to be given.
    pub pool: Option<(Arc<AddressPool>, Vec<PoolShare>)>,
    /// For each reactor what it records first: addresses that are taken back, as the operator wants
    /// another pool, or none.
    pub ending: Vec<Vec<(TableKey, Change)>>,
}

impl FoundPool {
    /// Takes them from the servers, one of each reactor.
    pub fn take(config: &ServeConfig, servers: &mut [Server]) -> Self {
        let shares = servers.len();
        let found: Vec<Name> = servers
            .iter_mut()
            .flat_map(|server| server.take_names().iter().collect::<Vec<_>>())
            .collect();
        let owner_of = |block| steered_to(block, shares);
        let (pool, ending) = match config.pool() {
            Some(settings) => {
                // Where the kernel refuses randomness, the worst case is that it is slow.
                let hash = SecretHash::new(entropy::octets().unwrap_or_default());
                let (pool, shares, ending) =
                    AddressPool::new(settings, hash, shares, owner_of, found);
                (Some((pool, shares)), ending)
            }
            None => {
                let mut ending = vec![Vec::new(); shares];
                for (address, client) in found {
                    ending[owner_of(TableKey::block_of(address).nat64)].push((address, client));
                }
                (None, ending)
            }
        };
        let changes = |names: Vec<Name>| {
            names.into_iter().map(|(address, client)| unnamed(address, client)).collect()
        };
        Self { pool, ending: ending.into_iter().map(changes).collect() }
    }

    /// To the reactors, each of which has its server and `stats`. Returns the pool, too, if
    /// addresses of it are given.
    pub fn deal(
        self,
        names: Option<&Names>,
        servers: &mut [Server],
        stats: &[Arc<Stats>],
    ) -> DealtPool {
        let Self { pool, ending } = self;
        let gives = |pool: &AddressPool| names.is_some() || pool.settings().translates;
        let (pool, shares) = pool.filter(|(pool, _)| gives(pool)).unzip();
        let mut shares = shares.into_iter().flatten();
        let translates = pool.as_ref().is_some_and(|pool| pool.settings().translates);
        let of_each = ending.into_iter().zip(servers).zip(stats).map(|((first, server), stats)| {
            let share = shares.next().map(PoolShareOfBoth::new);
            if let Some(share) = share.as_ref().filter(|_| translates) {
                server.give_addresses(share.clone());
            }
            let stats = Arc::clone(stats);
            let writer = match names {
                Some(names) => Some(names.writer(stats, share)),
                None => share.map(|share| name_writer(None, stats, Some(share))),
            };
            ReactorNames { writer, first }
        });
        let of_each = of_each.collect();
        (pool, of_each)
    }
}

/// The pool, if addresses of it are given, and what each reactor has of it.
pub(in crate::programs::serve) type DealtPool = (Option<Arc<AddressPool>>, Vec<ReactorNames>);

/// For one reactor.
pub(in crate::programs::serve) struct ReactorNames {
    /// None: peers have no names.
    pub writer: Option<PeerNameWriter>,
    /// What is recorded before anything else.
    pub first: Vec<(TableKey, Change)>,
}

/// What an operator should know of the pool, if there is one, though the server starts.
pub(in crate::programs::serve) fn pool_lines(config: &ServeConfig) -> Vec<String> {
    let Some(pool) = config.pool() else { return Vec::new() };
    let network = pool.network;
    // Where packets are translated there is to be a route to it, and what else there is, is said of
    // that.
    let overlapping = Some(network).filter(|_| !pool.translates).map(routes::overlapping);
    let mut lines: Vec<_> = overlapping
        .into_iter()
        .flatten()
        .map(|route| {
            format!(
                "--peer-pool {network}: this host has an address in {route}, or a route to it; for programs here, \
                 who comes from there looks like a client of a NAT64: choose another network"
            )
        })
        .collect();
    let blocks = 1_u64 << (32 - network.prefix_len()).saturating_sub(BLOCK_ADDRESSES.ilog2() as u8);
    if blocks < BLOCKS_LEAST * config.reactors as u64 {
        lines.push(format!(
            "--peer-pool {network}: it is small for {} reactors, of which each has its own blocks of {BLOCK_ADDRESSES} \
             addresses: some may have no address for a client while others do; choose a larger one",
            config.reactors
        ));
    }
    lines
}
