//! A shard of full tables, and how a batch of requests passes through it.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv6Net;
use nat64handoff::handoff::bans::Bans;
use nat64handoff::handoff::change::{Change, Now, Timestamp};
use nat64handoff::handoff::entry::{Client, ControlPort, MappedPort, TableKey};
use nat64handoff::handoff::message::{HANDOFF_PORT, HEAD_ROOM};
use nat64handoff::handoff::opaque::{Authenticator, Token};
use nat64handoff::handoff::ports::NEVER_MAPPED;
use nat64handoff::handoff::random::{Random, SecretHash};
use nat64handoff::handoff::server::{
    Batch, Budget, LiveConnections, NoneKnown, Outbox, PREFETCH_MAX, Prepared, Server, ServerConfig,
};
use nat64handoff::handoff::table::TableLimits;
use nat64handoff::handoff::validation::ValidationRate;
use nat64handoff::nat64::engine::WELL_KNOWN_PREFIX;

use crate::requests::Requests;

/// The address of the server, and of the service that embedded packets are to or from.
pub const LOCAL: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
pub const CONTROL: u16 = 40_000;
pub const TOKEN: [u8; 16] = *b"token of a NAT64";

/// How clients share addresses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Shape {
    /// Each client address has four ports and is in a /64 of its own.
    FourPorts,
    /// Each entry has a client address and a /64 of its own.
    Distinct,
    /// Half of the entries are in one /64, and the others as in `FourPorts`.
    Heavy,
}

impl Shape {
    pub fn client(self, table: usize, number: usize) -> Client {
        let (host, port) = match self {
            Shape::FourPorts | Shape::Heavy => (number / 4, number % 4),
            Shape::Distinct => (number, 0),
        };
        let mut client = client(table, host, 40_000 + port as u16);
        if self == Shape::Heavy && host.is_multiple_of(2) {
            let address = 0x2001_0db8_ffff << 80 | host as u128;
            client.address = Ipv6Addr::from_bits(address);
        }
        client
    }
}

pub fn client(table: usize, host: usize, port: u16) -> Client {
    let network = (table as u128) << 17 | host as u128;
    let address = Ipv6Addr::from_bits(0x2001_0db8 << 96 | network << 64 | 1);
    Client { prefix: WELL_KNOWN_PREFIX, address, port }
}

pub fn key(table: usize) -> TableKey {
    TableKey { local: LOCAL, nat64: Ipv4Addr::from_bits(0xc000_0000 + table as u32) }
}

pub fn authenticator(client: &Client) -> [u8; 16] {
    client.address.octets()
}

/// So many clients are banned that never ask (`BENCH_BANS`), or networks of clients, of each of
/// these lengths in turn (`BENCH_BAN_LENGTHS`, with commas).
fn bans() -> Option<Arc<Bans>> {
    let count: u128 = std::env::var("BENCH_BANS").ok()?.parse().expect("a number");
    let lengths = std::env::var("BENCH_BAN_LENGTHS").unwrap_or_else(|_| "128".into());
    let lengths: Vec<u8> =
        lengths.split(',').map(|length| length.parse().expect("lengths of prefixes")).collect();
    let net = |number: u128| {
        let length = lengths[number as usize % lengths.len()];
        let address = Ipv6Addr::from_bits(0xfd00 << 112 | number << 80 | number);
        Ipv6Net::new_assert(address, length).trunc()
    };
    let all: Vec<_> = (0..count).map(|number| (net(number), Duration::MAX)).collect();
    Some(Arc::new(Bans::of(SecretHash::new([5; 16]), all.into_iter())))
}

/// A shard, and where its entries are.
pub struct Shard {
    pub server: Server,
    pub shape: Shape,
    pub tables: usize,
    /// The mapped port of client `i`, in each table.
    pub ports: Vec<u16>,
    pub now: Now,
    pub outbox: Outbox,
    prepared: Vec<Prepared>,
    pub random: Random,
}

impl Shard {
    pub fn new(shape: Shape, tables: usize, entries: usize) -> Shard {
        let config = ServerConfig {
            handoff_port: HANDOFF_PORT,
            limits: TableLimits::default(),
            validation_rate: Arc::new(ValidationRate::new(1_000_000)),
            create_rate: 1_000_000_000,
            budget: Arc::new(Budget::new(usize::MAX, usize::MAX)),
            access: Arc::default(),
        };
        let mut server = Server::new(config, [7; 32], Duration::ZERO, Arc::default());
        server.set_bans(bans());
        let mut random = Random::new([1; 32]);
        let barred = [NEVER_MAPPED[0], NEVER_MAPPED[1], HANDOFF_PORT, CONTROL];
        let mut ports: Vec<u16> = (1024..=u16::MAX).filter(|port| !barred.contains(port)).collect();
        shuffle(&mut ports, &mut random);
        ports.truncate(entries);
        let now = Now { wall: Timestamp::from_micros(0), monotonic: Duration::from_secs(1) };
        let prepared = (0..PREFETCH_MAX).map(|_| Prepared::default()).collect();
        let outbox = Outbox::default();
        Shard { server, shape, tables, ports, now, outbox, prepared, random }
    }

    pub fn fill(&mut self) {
        for table in 0..self.tables {
            self.fill_table(table);
        }
    }

    fn fill_table(&mut self, table: usize) {
        let key = key(table);
        let known = Change::IdentityKnown {
            port: ControlPort(CONTROL),
            token: Token::new(&TOKEN).unwrap(),
        };
        self.server.replay(key, &Change::Initialized);
        self.server.replay(key, &known);
        for (number, &port) in self.ports.iter().enumerate() {
            let client = self.shape.client(table, number);
            self.server.replay(key, &Change::Created { port: MappedPort(port), client });
            if self.shape == Shape::Distinct || number % 4 == 0 {
                let authenticator = Authenticator::new(&authenticator(&client)).unwrap();
                let address = client.address;
                let learned = Change::AuthenticatorLearned { address, authenticator };
                self.server.replay(key, &learned);
            }
        }
    }

    /// Uses all entries, table by table, in an order in which neighbours are not neighbours in
    /// memory.
    pub fn use_all(&mut self) {
        let mut order: Vec<u32> = (0..self.ports.len() as u32).collect();
        shuffle(&mut order, &mut self.random);
        let mut batch = Requests::new(256);
        for table in 0..self.tables {
            for numbers in order.chunks(256) {
                batch.clear();
                for &number in numbers {
                    batch.client_packet(table, &self.shape.client(table, number as usize));
                }
                self.answer(&mut batch);
            }
        }
    }

    pub fn random_entry(&mut self) -> usize {
        self.random.below(self.ports.len() as u32) as usize
    }

    /// Answers a batch: the part that is measured.
    #[inline(never)]
    pub fn answer(&mut self, batch: &mut Requests) {
        self.answer_with(batch, &mut NoneKnown);
    }

    /// The same, where these connections are `live`.
    #[inline(always)]
    pub fn answer_with(&mut self, batch: &mut Requests, live: &mut dyn LiveConnections) {
        self.outbox.clear();
        // The buckets of what a NAT64 may create fill with time.
        self.now.monotonic += Duration::from_micros(100);
        let now = Batch::at(self.now);
        for (chunk, requests) in batch.all().chunks_mut(PREFETCH_MAX).enumerate() {
            let prepared = &mut self.prepared[..requests.len()];
            for (index, request) in requests.iter().enumerate() {
                let payload = &request.buffer[HEAD_ROOM..];
                self.server.prepare(request.table, payload, index, prepared);
            }
            self.server.prefetch(prepared);
            for (index, (request, prepared)) in requests.iter_mut().zip(&self.prepared).enumerate()
            {
                let datagram = request.datagram(chunk * PREFETCH_MAX + index);
                self.server.handle_prepared(&now, live, datagram, prepared, &mut self.outbox);
            }
        }
    }
}

pub fn shuffle<T>(items: &mut [T], random: &mut Random) {
    for i in (1..items.len()).rev() {
        items.swap(i, random.below(i as u32 + 1) as usize);
    }
}
