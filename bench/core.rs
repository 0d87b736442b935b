//! What the pure core costs, without any I/O: `cargo bench --bench core`. Tokens and authenticators
//! have 16 octets.
//!
//! `handle`: nanoseconds for each request of a batch, by kind, for one full table and for
//! `BENCH_TABLES` (default 1000, which need 4 GiB). NAT64s and entries are random, so that caches
//! are cold. Requests are written into their buffers before the clock starts, as the kernel would.
//! Prints the median of several rounds, the lowest and the highest.
//!
//! `memory`: octets for each entry, with all that the NAT64 has: what was asked of the allocator,
//! and what became resident, the allocator's own bookkeeping included. Each line is measured in a
//! process of its own. 1000 full tables need up to 8 GiB; where there is less, there are fewer
//! tables.
//!
//! Names of parts or of kinds (`client`, `service`, `report`, `echo`, `new`) as arguments run only
//! those. `once KIND` answers a fixed number of requests of that kind at one full table, for tools
//! that count instructions, and prints the command to use.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::alloc::System;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nat64handoff::handoff::change::{Change, Now, Timestamp};
use nat64handoff::handoff::entry::{Client, ControlPort, Entry, MappedPort, TableKey};
use nat64handoff::handoff::message::{
    self, HANDOFF_PORT, HEAD_ROOM, PROTOCOL_IDENTIFIER, message_type,
};
use nat64handoff::handoff::opaque::{Authenticator, Token};
use nat64handoff::handoff::ports::{NEVER_MAPPED, TABLE_CAPACITY};
use nat64handoff::handoff::random::Random;
use nat64handoff::handoff::rate::ICMP_RATE_MAX;
use nat64handoff::handoff::server::{
    Batch, Budget, Datagram, NoneKnown, Outbox, PREFETCH_MAX, Prepared, Server, ServerConfig,
};
use nat64handoff::handoff::table::TableLimits;
use nat64handoff::handoff::validation::ValidationRate;
use nat64handoff::ip::{address::synthesize, build};
use nat64handoff::kernel::huge_pages;
use nat64handoff::nat64::engine::WELL_KNOWN_PREFIX;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The address of the server, and of the service that embedded packets are to or from.
const LOCAL: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
const CONTROL: u16 = 40_000;
const TOKEN: [u8; 16] = *b"token of a NAT64";
/// Octets in an embedded UDP datagram: a client packet has 150 octets then, as in `load`.
const DATA: [u8; 66] = [b'x'; 66];
/// Requests in a batch.
const BATCHES: [usize; 3] = [1, 64, 256];
const ROUNDS: usize = 7;
/// Requests of each kind in a round.
const REQUESTS: usize = 1 << 17;
/// The most ICMP requests of one NAT64 in a second: more are not answered.
const ECHOES_MAX: usize = ICMP_RATE_MAX as usize;
/// More octets than a full table takes, the list of its clients included.
const FULL_TABLE_OCTETS_MAX: usize = 16 << 20;
/// Requests of `once`.
const ONCE: usize = 1 << 16;

fn main() {
    // Arguments that begin with a hyphen are what cargo passes on.
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|part| !part.starts_with('-')).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // As the server does; but a tool that counts instructions would not follow the exec.
    if arguments.first() != Some(&"once") {
        huge_pages::ask();
    }
    match arguments[..] {
        ["once", kind] => return once(kind),
        ["resident", shape, entries, tables] => {
            return resident(shape, entries.parse().unwrap(), tables.parse().unwrap());
        }
        _ => {}
    }
    let tables = std::env::var("BENCH_TABLES").map_or(1000, |text| text.parse().expect("a number"));
    let wanted = |name: &str| arguments.is_empty() || arguments.contains(&name);
    if wanted("memory") {
        memory(tables);
    }
    let named = |kind: &Kind| arguments.contains(&kind.name());
    let some: Vec<Kind> = Kind::ALL.into_iter().filter(named).collect();
    if !some.is_empty() {
        handle(tables, &some);
    } else if wanted("handle") {
        handle(tables, &Kind::ALL);
    }
}

// --- Full tables ---

/// How clients share addresses.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Shape {
    /// Each client address has four ports and is in a /64 of its own.
    FourPorts,
    /// Each entry has a client address and a /64 of its own.
    Distinct,
}

impl Shape {
    fn client(self, table: usize, number: usize) -> Client {
        let (host, port) = match self {
            Shape::FourPorts => (number / 4, number % 4),
            Shape::Distinct => (number, 0),
        };
        client(table, host, 40_000 + port as u16)
    }
}

fn client(table: usize, host: usize, port: u16) -> Client {
    let network = (table as u128) << 17 | host as u128;
    let address = Ipv6Addr::from_bits(0x2001_0db8 << 96 | network << 64 | 1);
    Client { prefix: WELL_KNOWN_PREFIX, address, port }
}

fn key(table: usize) -> TableKey {
    TableKey { local: LOCAL, nat64: Ipv4Addr::from_bits(0xc000_0000 + table as u32) }
}

fn authenticator(client: &Client) -> [u8; 16] {
    client.address.octets()
}

/// A shard, and where its entries are.
struct Shard {
    server: Server,
    shape: Shape,
    tables: usize,
    /// The mapped port of client `i`, in each table.
    ports: Vec<u16>,
    now: Now,
    outbox: Outbox,
    prepared: Vec<Prepared>,
    random: Random,
}

impl Shard {
    fn new(shape: Shape, tables: usize, entries: usize) -> Shard {
        let config = ServerConfig {
            handoff_port: HANDOFF_PORT,
            limits: TableLimits::default(),
            validation_rate: Arc::new(ValidationRate::new(1000)),
            create_rate: 1_000_000_000,
            budget: Arc::new(Budget::new(usize::MAX, usize::MAX)),
            access: Arc::default(),
        };
        let server = Server::new(config, [7; 32], Duration::ZERO, Arc::default());
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

    fn fill(&mut self) {
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
    fn use_all(&mut self) {
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

    fn random_table(&mut self) -> usize {
        self.random.below(self.tables as u32) as usize
    }

    fn random_entry(&mut self) -> usize {
        self.random.below(self.ports.len() as u32) as usize
    }

    /// Answers a batch: the part that is measured.
    #[inline(never)]
    fn answer(&mut self, batch: &mut Requests) {
        self.outbox.clear();
        // The buckets of what a NAT64 may create fill with time.
        self.now.monotonic += Duration::from_micros(100);
        let now = Batch::at(self.now);
        for (chunk, requests) in batch.requests[..batch.length].chunks_mut(PREFETCH_MAX).enumerate()
        {
            let prepared = &mut self.prepared[..requests.len()];
            for (index, request) in requests.iter().enumerate() {
                let payload = &request.buffer[HEAD_ROOM..];
                self.server.prepare(request.table, payload, index, prepared);
            }
            self.server.prefetch(prepared);
            for (index, (request, prepared)) in requests.iter_mut().zip(&self.prepared).enumerate()
            {
                let datagram = request.datagram(chunk * PREFETCH_MAX + index);
                let live = &mut NoneKnown;
                self.server.handle_prepared(&now, live, datagram, prepared, &mut self.outbox);
            }
        }
    }
}

fn shuffle<T>(items: &mut [T], random: &mut Random) {
    for i in (1..items.len()).rev() {
        items.swap(i, random.below(i as u32 + 1) as usize);
    }
}

// --- Requests ---

struct Request {
    table: TableKey,
    buffer: Vec<u8>,
}

impl Request {
    fn datagram(&mut self, index: usize) -> Datagram<'_> {
        let payload = HEAD_ROOM..self.buffer.len();
        let (table, buffer) = (self.table, &mut self.buffer);
        Datagram { index, table, port: CONTROL, buffer, payload, room: 0 }
    }
}

/// Requests in buffers that are used again.
struct Requests {
    requests: Vec<Request>,
    length: usize,
}

impl Requests {
    fn new(length: usize) -> Requests {
        let request = || Request { table: key(0), buffer: Vec::with_capacity(HEAD_ROOM + 256) };
        Requests { requests: (0..length).map(|_| request()).collect(), length: 0 }
    }

    fn clear(&mut self) {
        self.length = 0;
    }

    /// The payload of the next request, which begins with the token.
    fn next(&mut self, table: usize) -> &mut Vec<u8> {
        let request = &mut self.requests[self.length];
        self.length += 1;
        request.table = key(table);
        request.buffer.clear();
        request.buffer.resize(HEAD_ROOM, 0);
        message::emit(&mut request.buffer, message_type::TOKEN, &TOKEN);
        &mut request.buffer
    }

    fn client_packet(&mut self, table: usize, client: &Client) {
        let payload = self.next(table);
        message::emit(payload, message_type::AUTHENTICATOR, &authenticator(client));
        payload.extend_from_slice(&build::ipv6_udp(from(client), to(client), &DATA));
    }

    fn echo(&mut self, table: usize, client: &Client) {
        let payload = self.next(table);
        message::emit(payload, message_type::AUTHENTICATOR, &authenticator(client));
        let (from, to) = (client.address, *to(client).ip());
        payload.extend_from_slice(&build::ipv6_echo_request(from, to, 1, 2, &DATA));
    }

    fn service_packet(&mut self, table: usize, port: u16) {
        let to = SocketAddrV4::new(key(table).nat64, port);
        let from = SocketAddrV4::new(LOCAL, 443);
        self.next(table).extend_from_slice(&build::ipv4_udp(from, to, &DATA));
    }

    fn report(&mut self, table: usize, client: Client, port: u16) {
        let payload = self.next(table);
        message::emit(payload, message_type::IDENTIFIER, PROTOCOL_IDENTIFIER);
        message::emit(payload, message_type::AUTHENTICATOR, &authenticator(&client));
        payload.extend_from_slice(&Entry { port: MappedPort(port), client }.emit());
    }
}

fn from(client: &Client) -> SocketAddrV6 {
    SocketAddrV6::new(client.address, client.port, 0, 0)
}

fn to(client: &Client) -> SocketAddrV6 {
    SocketAddrV6::new(synthesize(client.prefix, LOCAL), 443, 0, 0)
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Client,
    Service,
    Report,
    Echo,
    New,
}

impl Kind {
    const ALL: [Kind; 5] = [Kind::Client, Kind::Service, Kind::Report, Kind::Echo, Kind::New];

    fn name(self) -> &'static str {
        match self {
            Kind::Client => "client",
            Kind::Service => "service",
            Kind::Report => "report",
            Kind::Echo => "echo",
            Kind::New => "new",
        }
    }

    fn meaning(self) -> &'static str {
        match self {
            Kind::Client => "client packet, known client",
            Kind::Service => "service packet, known port",
            Kind::Report => "report that agrees",
            Kind::Echo => "ICMPv6 echo request",
            Kind::New => "new client, another goes",
        }
    }

    /// Makes `length` requests to random tables about random entries. `created` counts new clients.
    fn prepare(self, shard: &mut Shard, batch: &mut Requests, length: usize, created: &mut usize) {
        batch.clear();
        for _ in 0..length {
            let (table, number) = (shard.random_table(), shard.random_entry());
            let known = shard.shape.client(table, number);
            match self {
                Kind::Client => batch.client_packet(table, &known),
                Kind::Service => batch.service_packet(table, shard.ports[number]),
                Kind::Report => batch.report(table, known, shard.ports[number]),
                Kind::Echo => batch.echo(table, &known),
                Kind::New => {
                    *created += 1;
                    batch.client_packet(table, &client(0x1_0000 + table, *created, 40_000));
                }
            }
        }
        if matches!(self, Kind::Echo) {
            // The answers of a second are limited.
            shard.now.monotonic += Duration::from_secs(3);
        }
    }
}

// --- Time ---

fn handle(tables: usize, kinds: &[Kind]) {
    println!("handle: nanoseconds for each request, medians of {ROUNDS} rounds, (low-high)");
    println!("{:<30}{:>7}{:>26}{:>26}{:>26}", "", "tables", "one", "64 at once", "256 at once");
    for tables in [1, tables] {
        let mut shard = Shard::new(Shape::FourPorts, tables, TABLE_CAPACITY);
        shard.fill();
        shard.use_all();
        let mut created = 0;
        for &kind in kinds {
            print!("{:<30}{tables:>7}", kind.meaning());
            for length in BATCHES {
                if matches!(kind, Kind::Echo) && length > ECHOES_MAX * tables {
                    print!("{:>26}", "-");
                    continue;
                }
                let mut rounds: Vec<f64> = (0..ROUNDS)
                    .map(|_| nanoseconds(kind, &mut shard, length, &mut created))
                    .collect();
                rounds.sort_by(f64::total_cmp);
                let (low, high) = (rounds[0], rounds[ROUNDS - 1]);
                let text = format!("{:.0} ({low:.0}-{high:.0})", rounds[ROUNDS / 2]);
                print!("{text:>26}");
            }
            println!();
        }
    }
}

fn nanoseconds(kind: Kind, shard: &mut Shard, length: usize, created: &mut usize) -> f64 {
    let mut batch = Requests::new(length);
    let mut elapsed = Duration::ZERO;
    // Few, so that evictions do not replace the whole table.
    let requests = if matches!(kind, Kind::New | Kind::Echo) { REQUESTS / 16 } else { REQUESTS };
    for _ in 0..requests / length {
        kind.prepare(shard, &mut batch, length, created);
        let begin = Instant::now();
        shard.answer(&mut batch);
        elapsed += begin.elapsed();
        assert!(shard.outbox.replies.len() == length, "{kind:?}: not all were answered");
    }
    elapsed.as_nanos() as f64 / requests as f64
}

/// `kind` is the name of a [`Kind`].
fn once(kind: &str) {
    let Some(kind) = Kind::ALL.into_iter().find(|known| known.name() == kind) else {
        let names: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        eprintln!("once: one of {}", names.join(", "));
        std::process::exit(2);
    };
    let mut shard = Shard::new(Shape::FourPorts, 1, TABLE_CAPACITY);
    shard.fill();
    let mut batch = Requests::new(64);
    let mut created = 0;
    for _ in 0..ONCE / 64 {
        kind.prepare(&mut shard, &mut batch, 64, &mut created);
        shard.answer(&mut batch);
    }
    let program = std::env::current_exe().unwrap();
    println!(
        "{ONCE} requests ({}) at a full table, 64 at once. Instructions for each:",
        kind.meaning()
    );
    println!(
        "    valgrind --tool=callgrind --toggle-collect='core::Shard::answer' {} once {}",
        program.display(),
        kind.name()
    );
    println!("and divide what it collected by {ONCE}.");
}

// --- Memory ---

fn memory(tables: usize) {
    println!("memory: octets for each entry, all of the NAT64 in");
    // Full tables are all of one size, so where memory is short, fewer will do.
    let full_tables = tables.min(available_octets() / FULL_TABLE_OCTETS_MAX).max(1);
    println!(
        "{:<28}{:>8}{:>8}{:>12}{:>12}",
        "clients", "tables", "entries", "asked for", "resident"
    );
    let lines = [
        // Many small tables, so that the memory of the process itself does not count.
        ("distinct", 1, 10_000),
        ("four", 100, 1000),
        ("distinct", 100, 1000),
        ("four", TABLE_CAPACITY, 1),
        ("distinct", TABLE_CAPACITY, 1),
        ("four", TABLE_CAPACITY, full_tables),
        ("distinct", TABLE_CAPACITY, full_tables),
    ];
    for (shape, entries, tables) in lines {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["resident", shape, &entries.to_string(), &tables.to_string()])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        print!("{}", String::from_utf8_lossy(&output.stdout));
    }
}

fn resident(shape: &str, entries: usize, tables: usize) {
    let (shape, name) = match shape {
        "four" => (Shape::FourPorts, "four ports an address"),
        _ => (Shape::Distinct, "each address and /64 once"),
    };
    let mut shard = Shard::new(shape, tables, entries);
    let (asked, resident) = (asked_for(), resident_octets());
    shard.fill();
    let each = |octets: usize| octets as f64 / (entries * tables) as f64;
    println!(
        "{name:<28}{tables:>8}{entries:>8}{:>12.1}{:>12.1}",
        each(asked_for() - asked),
        each(resident_octets() - resident)
    );
}

fn asked_for() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

fn resident_octets() -> usize {
    octets_of("/proc/self/status", "VmRSS:")
}

fn available_octets() -> usize {
    octets_of("/proc/meminfo", "MemAvailable:")
}

fn octets_of(path: &str, name: &str) -> usize {
    let text = fs::read_to_string(path).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
}
