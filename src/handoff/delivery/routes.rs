//! [`DeliveryRoutes`]: by which NAT64 an answer goes to a client (PROTOCOL.md section 11).
//!
//! A flow stays with the NAT64 that opened it: another one that says that it has the same client
//! cannot take over the answers of its connections. Where no flow is known, as for a packet that
//! this host sends first, the NAT64 that had the client first gets it, until it had not for long.
//!
//! Whatever comes here was validated. All is bounded; what was not used for long goes first, and
//! where a NAT64 has more than its share of the clients, its own do.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hashbrown::HashMap;

use super::store::{Store, Stored};
use crate::handoff::entry::{ControlPort, TableKey};
use crate::handoff::opaque::Authenticator;
use crate::handoff::random::SecretHash;
use crate::handoff::stats::DropReason;
use crate::ip::address::{Prefix96, extract, synthesize};

/// The most clients that have routes, where there is memory for so many.
pub const CLIENTS_MAX: usize = 1 << 17;
/// For each of these, so many flows are known at most.
pub const FLOWS_EACH: usize = 4;
/// The most NAT64s that one client can come by.
pub const ROUTES_MAX: usize = 4;
/// For so many seconds after its last packet a flow stays with its NAT64, and packets without a
/// flow go by the NAT64 that had the client first.
pub const FLOW_HELD: u32 = 300;
/// A NAT64 that has more than one in so many of the clients makes room by its own.
const SHARE: usize = 8;
/// Parts that are locked by themselves.
pub(super) const PARTS: usize = 64;
/// The fewest clients that each has room for.
const PART_MIN: usize = 16;

/// In place of a NAT64's prefix in the [`DeliveredFlow`]s of packets that are translated: behind it
/// stands the service's IPv4 address, as this host has it.
const TRANSLATED: Prefix96 = Prefix96([0; 12]);

/// One flow, seen from its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliveredFlow {
    /// The address of the service behind the NAT64's prefix.
    pub service: Ipv6Addr,
    pub client: Ipv6Addr,
    /// The protocol, by the number of its next header.
    pub protocol: u8,
    /// 0 where the protocol has none.
    pub service_port: u16,
    /// 0 where the protocol has none.
    pub client_port: u16,
}

impl DeliveredFlow {
    /// The same flow where its packets are translated, for this address of this host. What the host
    /// answers tells that address, and not by which prefix the client knows the service.
    pub fn translated(self, service: Ipv4Addr) -> Self {
        Self { service: synthesize(TRANSLATED, service), ..self }
    }
}

/// In what packets come from a NAT64, and go to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tunnel {
    /// In control payloads, between the handoff port and this one.
    Control(ControlPort),
    /// In frames of Geneve, to the link-layer address that it had last (section 12).
    Geneve,
}

/// By whom a packet came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Via<'a> {
    pub table: TableKey,
    pub tunnel: Tunnel,
    /// None but in control payloads.
    pub authenticator: &'a [u8],
    /// Where its client sent it: the service behind the NAT64's prefix.
    pub service: Ipv6Addr,
}

/// Where an answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerPath {
    pub table: TableKey,
    pub tunnel: Tunnel,
    /// From where the client expects it.
    pub service: Ipv6Addr,
}

#[derive(Debug)]
pub(super) struct Route {
    pub(super) table: TableKey,
    pub(super) tunnel: Tunnel,
    pub(super) authenticator: Authenticator,
    pub(super) service: Ipv6Addr,
    pub(super) used: u32,
}

#[derive(Debug)]
pub(super) struct RoutedClient {
    pub(super) hash: u64,
    pub(super) prefix: Prefix96,
    pub(super) address: Ipv6Addr,
    pub(super) first: Route,
    /// Of other NAT64s: mostly there are none.
    pub(super) others: Vec<Route>,
}

#[derive(Debug)]
pub(super) struct FlowRecord {
    pub(super) hash: u64,
    pub(super) table: TableKey,
    pub(super) used: u32,
}

impl Stored for RoutedClient {
    fn hash(&self) -> u64 {
        self.hash
    }

    fn used(&self) -> u32 {
        self.routes().map(|route| route.used).max().unwrap_or(0)
    }
}

impl Stored for FlowRecord {
    fn hash(&self) -> u64 {
        self.hash
    }

    fn used(&self) -> u32 {
        self.used
    }
}

impl RoutedClient {
    fn is(&self, flow: &DeliveredFlow) -> bool {
        self.address == flow.client && self.prefix == Prefix96::of(flow.service)
    }

    pub(super) fn routes(&self) -> impl Iterator<Item = &Route> {
        [&self.first].into_iter().chain(&self.others)
    }

    fn route_mut(&mut self, table: TableKey) -> Option<&mut Route> {
        let Self { first, others, .. } = self;
        [first].into_iter().chain(others).find(|route| route.table == table)
    }

    /// The client came by this NAT64. Returns whether that is another way than before.
    fn came(&mut self, via: Via<'_>, second: u32) -> Result<bool, DropReason> {
        let mut changed = true;
        if let Some(route) = self.route_mut(via.table) {
            changed = route.came(via, second);
        } else if self.others.len() + 1 < ROUTES_MAX {
            self.others.push(Route::new(via, second)?);
        } else {
            let oldest = self.others.iter_mut().min_by_key(|route| route.used);
            let oldest = oldest.filter(|route| is_old(route.used, second));
            *oldest.ok_or(DropReason::FlowOfAnother)? = Route::new(via, second)?;
        }
        if self.first.table != via.table && is_old(self.first.used, second) {
            let other = self.others.iter_mut().find(|route| route.table == via.table);
            other.into_iter().for_each(|other| std::mem::swap(other, &mut self.first));
            changed = true;
        }
        Ok(changed)
    }
}

impl Route {
    fn new(via: Via<'_>, used: u32) -> Result<Self, DropReason> {
        // Whatever stood in a message can be kept.
        let authenticator =
            Authenticator::new(via.authenticator).ok_or(DropReason::MessageTruncated)?;
        let Via { table, tunnel, service, .. } = via;
        Ok(Self { table, tunnel, authenticator, service, used })
    }

    /// Returns whether that is another way than before.
    fn came(&mut self, via: Via<'_>, second: u32) -> bool {
        let before = (self.tunnel, self.service, self.authenticator.is(via.authenticator));
        (self.tunnel, self.service, self.used) = (via.tunnel, via.service, second);
        if !before.2
            && let Some(authenticator) = Authenticator::new(via.authenticator)
        {
            self.authenticator = authenticator;
        }
        before != (via.tunnel, via.service, true)
    }
}

fn is_old(used: u32, second: u32) -> bool {
    second.saturating_sub(used) > FLOW_HELD
}

/// The clients whose hashes begin alike, and their flows.
#[derive(Debug)]
pub(super) struct RoutesPart {
    pub(super) clients: Store<RoutedClient>,
    pub(super) flows: Store<FlowRecord>,
    /// How many clients came first by which NAT64.
    held: HashMap<TableKey, usize, SecretHash>,
}

/// By which NAT64 answers go.
#[derive(Debug)]
pub struct DeliveryRoutes {
    key: [u8; 16],
    hash: SecretHash,
    /// Since that was asked last, one came or changed.
    changed: AtomicBool,
    parts: Box<[Mutex<RoutesPart>]>,
    /// In each part.
    clients_max: usize,
}

impl DeliveryRoutes {
    /// None yet, and never of more than `clients` and their flows, or [`CLIENTS_MAX`] if those are
    /// fewer; but there is room for some. `key` is secret.
    pub fn new(key: [u8; 16], clients: usize) -> Self {
        let hash = SecretHash::new(key);
        let clients = (clients.min(CLIENTS_MAX) / PARTS).max(PART_MIN);
        let part = || RoutesPart {
            clients: Store::new(clients),
            flows: Store::new(FLOWS_EACH * clients),
            held: HashMap::with_hasher(hash),
        };
        let parts = (0..PARTS).map(|_| Mutex::new(part())).collect();
        let changed = AtomicBool::new(false);
        Self { key, hash, changed, parts, clients_max: clients }
    }

    /// The key of the hash.
    pub(super) fn key(&self) -> [u8; 16] {
        self.key
    }

    /// Whether one came or changed since the last call.
    pub fn take_changed(&self) -> bool {
        self.changed.swap(false, Ordering::Relaxed)
    }

    /// A packet of `flow` came from its client: answers go by where it came from.
    ///
    /// # Errors
    /// [`DropReason::FlowOfAnother`] where the flow is another NAT64's, or so many have the client
    /// that this one has no place.
    pub fn came(&self, flow: &DeliveredFlow, via: Via<'_>, second: u32) -> Result<(), DropReason> {
        let (client, hash) = self.hashes(flow);
        let mut part = self.part(client);
        let RoutesPart { clients, flows, held } = &mut *part;
        let known = flows.find_mut(hash, |record| record.hash == hash);
        if known
            .as_ref()
            .is_some_and(|known| known.table != via.table && !is_old(known.used, second))
        {
            return Err(DropReason::FlowOfAnother);
        }
        let is_new = known.is_none();
        match clients.find_mut(client, |record| record.is(flow)) {
            Some(record) => {
                let before = record.first.table;
                let changed = record.came(via, second)?;
                self.note(changed || is_new);
                if record.first.table != before {
                    give_back(held, before);
                    *held.entry(record.first.table).or_default() += 1;
                }
            }
            None => {
                let record = RoutedClient {
                    hash: client,
                    prefix: Prefix96::of(flow.service),
                    address: flow.client,
                    first: Route::new(via, second)?,
                    others: Vec::new(),
                };
                part_put(clients, held, record, (self.clients_max / SHARE).max(1));
                self.note(true);
            }
        }
        match known {
            Some(known) => (known.table, known.used) = (via.table, second),
            None => {
                flows.add(FlowRecord { hash, table: via.table, used: second }, |_| false);
            }
        }
        Ok(())
    }

    /// Where an answer goes, or a packet that this host sends first, and with which authenticator,
    /// which is written to the start of `authenticator`: see [`DeliveryRoutes::answer`]'s length.
    ///
    /// `None` where nobody has the client.
    pub fn answer<'a>(
        &self,
        flow: &DeliveredFlow,
        second: u32,
        authenticator: &'a mut [u8; crate::handoff::message::MESSAGE_DATA_MAX],
    ) -> Option<(AnswerPath, &'a [u8])> {
        let (client, hash) = self.hashes(flow);
        let mut part = self.part(client);
        let RoutesPart { clients, flows, .. } = &mut *part;
        let record = clients.find_mut(client, |record| record.is(flow))?;
        let known = flows.find_mut(hash, |record| record.hash == hash);
        let table = known.map_or(record.first.table, |known| {
            known.used = known.used.max(second);
            known.table
        });
        let route = match record.route_mut(table) {
            Some(route) => &*route,
            None => &record.first,
        };
        let octets = route.authenticator.octets();
        let place = &mut authenticator[..octets.len()];
        place.copy_from_slice(octets);
        let Route { table, tunnel, service, .. } = *route;
        Some((AnswerPath { table, tunnel, service }, place))
    }

    /// Whether the client of `flow` came by this NAT64.
    pub fn has(&self, flow: &DeliveredFlow, table: TableKey) -> bool {
        let (client, _) = self.hashes(flow);
        let part = self.part(client);
        let record = part.clients.find(client, |record| record.is(flow));
        record.is_some_and(|record| record.routes().any(|route| route.table == table))
    }

    /// Whether packets of `flow` came from its client by this NAT64, or went to it, not long ago.
    pub fn goes_on(&self, flow: &DeliveredFlow, table: TableKey, second: u32) -> bool {
        let (client, hash) = self.hashes(flow);
        let part = self.part(client);
        let known = part.flows.find(hash, |record| record.hash == hash);
        known.is_some_and(|known| known.table == table && !is_old(known.used, second))
    }

    fn note(&self, changed: bool) {
        if changed && !self.changed.load(Ordering::Relaxed) {
            self.changed.store(true, Ordering::Relaxed);
        }
    }

    /// Adds a client that was kept.
    pub(super) fn put(&self, record: RoutedClient) {
        let mut part = self.part(record.hash);
        let RoutesPart { clients, held, .. } = &mut *part;
        part_put(clients, held, record, usize::MAX);
    }

    fn part(&self, client: u64) -> MutexGuard<'_, RoutesPart> {
        // The low bits choose the place within the part.
        self.part_at((client >> 40) as usize % PARTS)
    }

    pub(super) fn part_at(&self, number: usize) -> MutexGuard<'_, RoutesPart> {
        let part = &self.parts[number];
        // Nothing panics while it is held; if it did, what is in it is still whole.
        part.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn client_hash(&self, prefix: Prefix96, address: Ipv6Addr) -> u64 {
        let [a, b] = halves(address.to_bits());
        let [c, d] = halves(synthesize(prefix, Ipv4Addr::UNSPECIFIED).to_bits());
        self.hash.of_words([a, b, c, d])
    }

    /// The hash of the client, and that of the flow.
    fn hashes(&self, flow: &DeliveredFlow) -> (u64, u64) {
        let client = self.client_hash(Prefix96::of(flow.service), flow.client);
        let service = u64::from(extract(flow.service).to_bits());
        let ports = u64::from(flow.client_port) << 16 | u64::from(flow.service_port);
        let ports = service << 32 | ports;
        (client, self.hash.of_words([client, ports, u64::from(flow.protocol), 0]))
    }
}

/// Adds a client. Where there is no room, and its NAT64 has its `share` of them, one of its own
/// goes.
fn part_put(
    clients: &mut Store<RoutedClient>,
    held: &mut HashMap<TableKey, usize, SecretHash>,
    record: RoutedClient,
    share: usize,
) {
    let table = record.first.table;
    let own = held.get(&table).is_some_and(|&held| held >= share);
    let gone = clients.add(record, |other| own && other.first.table == table);
    gone.into_iter().for_each(|gone| give_back(held, gone.first.table));
    *held.entry(table).or_default() += 1;
}

fn give_back(held: &mut HashMap<TableKey, usize, SecretHash>, table: TableKey) {
    if let Some(count) = held.get_mut(&table) {
        *count -= 1;
        if *count == 0 {
            held.remove(&table);
        }
    }
}

fn halves(bits: u128) -> [u64; 2] {
    [(bits >> 64) as u64, bits as u64]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handoff::delivery::tests::flow;
    use crate::handoff::message::MESSAGE_DATA_MAX;

    fn routes() -> DeliveryRoutes {
        DeliveryRoutes::new([3; 16], CLIENTS_MAX)
    }

    fn table(nat64: u8) -> TableKey {
        TableKey { local: Ipv4Addr::new(203, 0, 113, 5), nat64: Ipv4Addr::new(192, 0, 2, nat64) }
    }

    fn via(nat64: u8) -> Via<'static> {
        let service = flow(1, 1).service;
        let authenticator = b"sixteen octets!!";
        Via {
            table: table(nat64),
            tunnel: Tunnel::Control(ControlPort(4000)),
            authenticator,
            service,
        }
    }

    fn goes(routes: &DeliveryRoutes, flow: &DeliveredFlow, second: u32) -> Option<u8> {
        let mut room = [0; MESSAGE_DATA_MAX];
        let answer = routes.answer(flow, second, &mut room);
        answer.map(|(answer, _)| answer.table.nat64.octets()[3])
    }

    #[test]
    fn section_11_answers_go_where_the_client_came_from() {
        let routes = routes();
        assert_eq!(goes(&routes, &flow(1, 1000), 0), None);
        routes.came(&flow(1, 1000), via(7), 0).unwrap();
        let mut room = [0; MESSAGE_DATA_MAX];
        let service = flow(1, 1).service;
        let answer =
            AnswerPath { table: table(7), tunnel: Tunnel::Control(ControlPort(4000)), service };
        let expected = Some((answer, &b"sixteen octets!!"[..]));
        assert_eq!(routes.answer(&flow(1, 1000), 0, &mut room), expected);
        // A flow that is not known, of the same client through the same prefix.
        assert_eq!(goes(&routes, &flow(1, 1001), 0), Some(7));
        assert_eq!(goes(&routes, &flow(2, 1000), 0), None);
        let service = "64:ff9b:1::203.0.113.5".parse().unwrap();
        assert_eq!(goes(&routes, &DeliveredFlow { service, ..flow(1, 1000) }, 0), None);
        // Port and authenticator are those of the last packet.
        let later =
            Via { tunnel: Tunnel::Control(ControlPort(5000)), authenticator: b"xy", ..via(7) };
        routes.came(&flow(1, 1000), later, 1).unwrap();
        let answer = AnswerPath { tunnel: Tunnel::Control(ControlPort(5000)), ..answer };
        assert_eq!(routes.answer(&flow(1, 1000), 1, &mut room), Some((answer, &b"xy"[..])));
        assert!(routes.has(&flow(1, 9), table(7)) && !routes.has(&flow(1, 9), table(8)));
    }

    #[test]
    fn section_11_a_flow_stays_with_the_nat64_that_opened_it() {
        let routes = routes();
        routes.came(&flow(1, 1000), via(7), 0).unwrap();
        assert_eq!(routes.came(&flow(1, 1000), via(8), 1), Err(DropReason::FlowOfAnother));
        assert!(!routes.has(&flow(1, 0), table(8)));
        routes.came(&flow(1, 2000), via(8), 1).unwrap();
        let goes = |flow, second| goes(&routes, &flow, second);
        assert_eq!([goes(flow(1, 1000), 1), goes(flow(1, 2000), 1)], [Some(7), Some(8)]);
        // What this host sends first goes by the first.
        assert_eq!(goes(flow(1, 3000), 1), Some(7));
        // Answers keep a flow, too.
        assert_eq!(goes(flow(1, 1000), FLOW_HELD), Some(7));
        let second = FLOW_HELD + 2;
        assert_eq!(routes.came(&flow(1, 1000), via(8), second), Err(DropReason::FlowOfAnother));
        // The first one has not had the client for long.
        routes.came(&flow(1, 2000), via(8), second).unwrap();
        assert_eq!(goes(flow(1, 3000), second), Some(8));
        assert_eq!(goes(flow(1, 1000), second), Some(7));
        let second = second + FLOW_HELD + 1;
        routes.came(&flow(1, 1000), via(8), second).unwrap();
        assert_eq!(goes(flow(1, 1000), second), Some(8));
    }

    #[test]
    fn section_11_so_many_nat64s_have_one_client() {
        let routes = routes();
        for nat64 in 1..=ROUTES_MAX as u8 {
            routes.came(&flow(1, u16::from(nat64)), via(nat64), 0).unwrap();
        }
        assert_eq!(routes.came(&flow(1, 100), via(9), 1), Err(DropReason::FlowOfAnother));
        routes.came(&flow(1, 100), via(9), FLOW_HELD + 1).unwrap();
        assert_eq!(goes(&routes, &flow(1, 100), FLOW_HELD + 1), Some(9));
    }

    #[test]
    fn section_11_one_nat64_does_not_push_out_the_clients_of_another() {
        let routes = DeliveryRoutes::new([3; 16], 64 * PARTS);
        for client in 0..100 {
            routes.came(&flow(client, 1), via(7), 0).unwrap();
        }
        for client in 1000..60_000 {
            routes.came(&flow(client, 1), via(8), 1).unwrap();
        }
        let kept = (0..100).filter(|&client| routes.has(&flow(client, 1), table(7))).count();
        assert!(kept > 80, "{kept} of 100");
        for part in &routes.parts {
            let part = part.lock().unwrap();
            assert_eq!((part.clients.len(), part.flows.len()), (64, FLOWS_EACH * 64));
            assert_eq!(part.held.values().sum::<usize>(), 64);
        }
    }
}
