//! How long a start takes: `cargo bench --bench recover`.
//!
//! The library's own writer makes a state of `BENCH_ENTRIES` entries (with commas for several;
//! default 1000000). It is compacted when nine tenths of it are there, so that there is a snapshot,
//! and segments with the rest. Files are in the page cache.
//!
//! `read`: the time of [`Storage::open_at`] when nothing is done with the changes: reading,
//! checking and decoding. `fill`: the same, when they fill the tables of a [`Server`]. `mixed`: as
//! `fill`, from a state without a snapshot, in whose records the tables come in turn. `start`: from
//! exec of the whole server to the first answer to a known client. Names of parts as arguments run
//! only those.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::fs::{self, File};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nat64handoff::disk::fs::RealDisk;
use nat64handoff::disk::storage::{
    JournalWriter, Replay, Started, Storage, StorageConfig, SyncPolicy,
};
use nat64handoff::handoff::change::{Change, Timestamp};
use nat64handoff::handoff::entry::{Client, ControlPort, MappedPort, TableKey};
use nat64handoff::handoff::message::{self, message_type};
use nat64handoff::handoff::opaque::{Authenticator, Token};
use nat64handoff::handoff::server::{Budget, Server, ServerConfig};
use nat64handoff::handoff::stats::Stats;
use nat64handoff::handoff::table::TableLimits;
use nat64handoff::handoff::validation::ValidationRate;
use nat64handoff::ip::{address::synthesize, build};
use nat64handoff::nat64::engine::WELL_KNOWN_PREFIX;

/// The service that embedded packets are to or from.
const SERVICE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
/// Entries of each table, and where their ports begin.
const TABLE_ENTRIES: u32 = 50_000;
const TABLE_PORTS: u16 = 10_000;
const TABLE_CONTROL: u16 = 61_000;
/// Measurements of `read` and of `fill`.
const ROUNDS: usize = 5;
/// `6, 7, IPv6`: where the entry begins.
const REPLY_ENTRY_AT: usize = 2 + 16;

fn main() {
    // Arguments that begin with a hyphen are what cargo passes on.
    let parts: Vec<String> =
        std::env::args().skip(1).filter(|part| !part.starts_with('-')).collect();
    let wanted = |name: &str| parts.is_empty() || parts.iter().any(|part| part == name);
    let entries = std::env::var("BENCH_ENTRIES").unwrap_or_else(|_| "1000000".into());
    for entries in entries.split(',') {
        let entries: u32 = entries.parse().expect("BENCH_ENTRIES: numbers with commas");
        assert!(entries >= TABLE_ENTRIES && entries.is_multiple_of(TABLE_ENTRIES), "whole tables");
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (port, state) = (free_port(), directory.path().join("state"));
        let begin = Instant::now();
        build(&state, port, entries);
        println!();
        println!(
            "recover: {entries} entries, {TABLE_ENTRIES} a table, made in {:.1?}; snapshot {} MB, segments {} MB",
            begin.elapsed(),
            octets_of(&state, "snapshot") / 1_000_000,
            octets_of(&state, "journal") / 1_000_000
        );
        if wanted("read") {
            measure("read", || {
                open(&state, port, &mut [|_: Timestamp, _: TableKey, _: &Change| {}])
            });
        }
        if wanted("fill") {
            measure_fill("fill", &state, port, entries);
        }
        if wanted("mixed") {
            let mixed = directory.path().join("mixed");
            build_mixed(&mixed, port, entries);
            measure_fill("mixed", &mixed, port, entries);
        }
        if wanted("start") {
            start(directory.path(), port, entries);
        }
    }
}

fn measure_fill(name: &str, state: &Path, port: u16, entries: u32) {
    let server = server(port, entries as usize);
    for parts in [1, 2, 4] {
        let fill = || {
            let mut replayed: Vec<_> = (0..parts).map(|_| server.replayed()).collect();
            open(state, port, &mut replayed)
        };
        measure(&format!("{name}, in {parts} threads"), fill);
    }
}

/// The median, in all and for each entry.
fn measure(name: &str, what: impl Fn() -> Duration) {
    let mut times: Vec<Duration> = (0..ROUNDS).map(|_| what()).collect();
    times.sort();
    let (low, median, high) = (times[0], times[ROUNDS / 2], times[ROUNDS - 1]);
    println!(
        "  {name:38} {:>7.3} s ({:.3}-{:.3})",
        median.as_secs_f64(),
        low.as_secs_f64(),
        high.as_secs_f64()
    );
}

fn server(port: u16, entries: usize) -> Server {
    let config = ServerConfig {
        handoff_port: port,
        limits: TableLimits::default(),
        validation_rate: Arc::new(ValidationRate::new(1)),
        create_rate: 1_000_000_000,
        budget: Arc::new(Budget::new(usize::MAX, entries)),
        access: Arc::default(),
    };
    Server::new(config, [7; 32], Duration::ZERO, Arc::new(Stats::default()))
}

fn open(state: &Path, port: u16, shards: &mut [impl Replay]) -> Duration {
    let config = StorageConfig::new(1, port, SyncPolicy::None);
    let begin = Instant::now();
    let all_logged = |_: &Path| Some(vec![u64::MAX]);
    let disk = Arc::new(RealDisk);
    Storage::open_at(disk, state, config, |_| 0, all_logged, shards).unwrap();
    begin.elapsed()
}

// --- The state ---

fn nat64_address(number: u32) -> Ipv4Addr {
    Ipv4Addr::new(127, 1, (number / 200) as u8, 1 + (number % 200) as u8)
}

fn token_of(number: u32) -> [u8; 16] {
    (u128::from(number) | 0x746f_6b65_6e00 << 64).to_be_bytes()
}

/// Each client is in a /64 of its own.
fn client(nat64: u32, number: u32) -> Client {
    let network = u128::from(nat64) << 20 | u128::from(number);
    let address = Ipv6Addr::from_bits(0x2001_0db8 << 96 | network << 64 | 1);
    Client { prefix: WELL_KNOWN_PREFIX, address, port: 40_000 }
}

/// The authenticator of a client. Here it need not be secret.
fn authenticator(client: &Client) -> [u8; 16] {
    client.address.octets()
}

/// Appends table after table, in batches as a reactor would.
fn append_tables(writer: &mut JournalWriter, now: Timestamp, entries: std::ops::Range<u32>) {
    let mut batch: Vec<(TableKey, Change)> = Vec::new();
    for entry in entries {
        let (nat64, number) = (entry / TABLE_ENTRIES, entry % TABLE_ENTRIES);
        let table = TableKey { local: Ipv4Addr::LOCALHOST, nat64: nat64_address(nat64) };
        if number == 0 {
            let (port, token) = (ControlPort(TABLE_CONTROL), Token::new(&token_of(nat64)).unwrap());
            batch.push((table, Change::Initialized));
            batch.push((table, Change::IdentityKnown { port, token }));
        }
        let client = client(nat64, number);
        let (port, address) = (MappedPort(TABLE_PORTS + number as u16), client.address);
        let authenticator = Authenticator::new(&authenticator(&client)).unwrap();
        batch.push((table, Change::Created { port, client }));
        batch.push((table, Change::AuthenticatorLearned { address, authenticator }));
        if number % 64 == 63 || number + 1 == TABLE_ENTRIES {
            writer.append(now, &batch).unwrap();
            batch.clear();
        }
    }
    writer.append(now, &batch).unwrap();
}

/// Appends all tables in turn, a batch of each.
fn append_mixed(writer: &mut JournalWriter, now: Timestamp, entries: u32) {
    for first in (0..TABLE_ENTRIES).step_by(64) {
        for table in 0..entries / TABLE_ENTRIES {
            let begin = table * TABLE_ENTRIES;
            append_tables(writer, now, begin + first..begin + TABLE_ENTRIES.min(first + 64));
        }
    }
}

fn build_mixed(state: &Path, port: u16, entries: u32) {
    let (_storage, mut writer, now) = begin(state, port);
    append_mixed(&mut writer, now, entries);
    writer.close(now).unwrap();
}

fn begin(state: &Path, port: u16) -> (Storage, JournalWriter, Timestamp) {
    fs::create_dir(state).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let now = Timestamp::from_micros(now.as_micros() as u64);
    let config = StorageConfig::new(1, port, SyncPolicy::None);
    let nothing = |_: Timestamp, _: TableKey, _: &Change| {};
    let disk = Arc::new(RealDisk);
    let mut opened =
        Storage::open_at(disk, state, config, |_| 0, |_| None, &mut [nothing]).unwrap();
    let Started { storage, mut writers, .. } = opened.start(now, Arc::new(|_| u64::MAX)).unwrap();
    (storage, writers.remove(0), now)
}

fn build(state: &Path, port: u16, entries: u32) {
    let (storage, mut writer, now) = begin(state, port);
    let tables = entries / TABLE_ENTRIES;
    let compacted = tables * 9 / 10 * TABLE_ENTRIES;
    append_tables(&mut writer, now, 0..compacted);
    storage.compact(0, true).unwrap();
    append_tables(&mut writer, now, compacted..entries);
    writer.close(now).unwrap();
}

/// The octets in the files whose names end in this.
fn octets_of(state: &Path, extension: &str) -> u64 {
    let epochs = fs::read_dir(state).unwrap().map(|entry| entry.unwrap().path());
    epochs
        .filter(|path| path.is_dir())
        .flat_map(|epoch| fs::read_dir(epoch).unwrap())
        .map(|entry| entry.unwrap())
        .filter(|file| file.path().extension().is_some_and(|found| found == extension))
        .map(|file| file.metadata().unwrap().len())
        .sum()
}

// --- The server, as a process ---

struct Running {
    process: Child,
    address: SocketAddrV4,
}

impl Running {
    fn start(directory: &Path, port: u16, entries: u32) -> Running {
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        let process = Command::new(env!("CARGO_BIN_EXE_nat64handoff"))
            .args(["serve", "--reactors", "1", "--listen", &address.to_string(), "--state"])
            .arg(directory.join("state"))
            .arg("--log")
            .arg(directory.join("events.log"))
            .args(["--max-entries", &entries.to_string()])
            .stderr(File::create(directory.join("stderr")).unwrap())
            .spawn()
            .expect("the server");
        Running { process, address }
    }

    fn signal(&mut self, name: &str) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
        self.process.wait().unwrap();
    }
}

/// A free port, outside the ephemeral range and the ports of the tables here.
fn free_port() -> u16 {
    (62_000..64_000)
        .find(|&port| UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
        .expect("a free port")
}

fn start(directory: &Path, port: u16, entries: u32) {
    for (name, end) in [
        ("first start, the log has no line yet", "KILL"),
        ("after kill -9", "KILL"),
        ("after kill -9, again", "TERM"),
        ("after SIGTERM", "TERM"),
    ] {
        let begin = Instant::now();
        let mut server = Running::start(directory, port, entries);
        first_answer(&server, entries);
        let took = begin.elapsed();
        let status = fs::read_to_string(format!("/proc/{}/status", server.process.id())).unwrap();
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        println!("  start: {name:38} {:>7.3} s (resident {})", took.as_secs_f64(), memory.trim());
        server.signal(end);
        let said = fs::read_to_string(directory.join("stderr")).unwrap();
        said.lines()
            .filter(|line| line.contains("state: "))
            .for_each(|line| println!("    {line}"));
    }
}

/// `4, 6, IPv6`
fn request(nat64: u32, client: &Client) -> Vec<u8> {
    let mut payload = Vec::new();
    message::emit(&mut payload, message_type::TOKEN, &token_of(nat64));
    message::emit(&mut payload, message_type::AUTHENTICATOR, &authenticator(client));
    let from = SocketAddrV6::new(client.address, client.port, 0, 0);
    let to = SocketAddrV6::new(synthesize(client.prefix, SERVICE), 443, 0, 0);
    payload.extend_from_slice(&build::ipv6_udp(from, to, &[b'x'; 66]));
    payload
}

/// Asks for the last client of the last NAT64 until there is an answer.
fn first_answer(server: &Running, entries: u32) {
    let last = entries - 1;
    let (number, member) = (last / TABLE_ENTRIES, last % TABLE_ENTRIES);
    let control = UdpSocket::bind((nat64_address(number), TABLE_CONTROL)).unwrap();
    control.connect(server.address).unwrap();
    control.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let request = request(number, &client(number, member));
    let deadline = Instant::now() + Duration::from_secs(120);
    let mut reply = [0; 2048];
    while Instant::now() < deadline {
        if control.send(&request).is_err() {
            // Nobody listens yet.
            thread::sleep(Duration::from_millis(1));
        } else if let Ok(length) = control.recv(&mut reply) {
            let entry = &reply[REPLY_ENTRY_AT..length];
            assert!(
                entry.starts_with(&message::header(message_type::ENTRY, message::ENTRY_LENGTH - 2))
            );
            let port = TABLE_PORTS + member as u16;
            assert_eq!(entry[2..4], port.to_be_bytes(), "its entry as before");
            return;
        }
    }
    panic!("no answer");
}
