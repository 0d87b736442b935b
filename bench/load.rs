//! What the journal costs, and how long a start takes: `cargo bench --bench load` (root, for UDP port 9).
//!
//! `load`: in each round, each way of keeping the journal gets a server of its own with an empty state, on one
//! core; NAT64s on loopback, on another core, ask for new clients and then for the same ones again. CPU time of
//! the server is that of all of its threads. Compare ratios: the rounds alternate, and each ratio is that to
//! the server without a journal in the same round.
//!
//! `recover`: a state of `BENCH_ENTRIES` entries (with commas for several; default 1000000) is made by the
//! library's own writer and compacted when nine tenths of it are there: a snapshot, and in segments what is too
//! young for it. Measured is the time from exec to the first answer to a known client; files are in the page
//! cache.
//!
//! Names of parts as arguments run only those. `BENCH_ROUNDS` (default 5) and `BENCH_WINDOW` (default 64
//! requests under way, a power of 2) change the first part.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nat64handoff::change::{Change, TableKey, Timestamp};
use nat64handoff::nat64::{WELL_KNOWN_PREFIX, packets};
use nat64handoff::storage::{JournalWriter, RealDisk, Started, Storage, StorageConfig, SyncPolicy};
use nat64handoff::wire::{
    self, Authenticator, Client, ControlPort, MappedPort, Token, VALIDATION_PORT, message_type,
};

const SERVER_CORE: &str = "0";
const LOAD_CORE: &str = "1";
const BOTH_CORES: &str = "0,1";
/// What embedded packets name as the service.
const SERVICE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);

const NAT64S: u32 = 16;
/// New clients of each NAT64 in each round; odd strides visit all of them, as it is a power of 2.
const CLIENTS: u32 = 4096;
/// How often each of them is asked for again.
const REPEATS: u32 = 2;
const STRIDE: u32 = 2654435761;

/// What the first part compares; the first is what the others are compared with.
/// The second is the same once more, and shows how much of a difference is noise.
const VARIANTS: [(&str, &[&str]); 5] = [
    ("off", &["--no-journal"]),
    ("off, again", &["--no-journal"]),
    ("none", &["--sync", "none"]),
    ("interval:100ms", &["--sync", "interval:100ms"]),
    ("always", &["--sync", "always"]),
];

/// Entries of each table of the second part, and where their ports begin.
const TABLE_ENTRIES: u32 = 50_000;
const TABLE_PORTS: u16 = 10_000;
const TABLE_CONTROL: u16 = 61_000;

fn main() {
    // What cargo passes on is not for us, but for the names of parts.
    let parts: Vec<String> =
        std::env::args().skip(1).filter(|part| !part.starts_with('-')).collect();
    let wanted = |name: &str| parts.is_empty() || parts.iter().any(|part| part == name);
    pin_to(LOAD_CORE);
    if wanted("load") {
        load(setting("BENCH_ROUNDS", 5), setting("BENCH_WINDOW", 64));
    }
    if wanted("recover") {
        let entries = std::env::var("BENCH_ENTRIES").unwrap_or_else(|_| "1000000".into());
        for entries in entries.split(',') {
            recover(entries.parse().expect("BENCH_ENTRIES: numbers with commas"));
        }
    }
}

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}

/// The threads that this one starts later are there too.
fn pin_to(core: &str) {
    let id = std::process::id().to_string();
    let status = Command::new("taskset")
        .args(["--pid", "--cpu-list", core, &id])
        .stdout(Stdio::null())
        .status();
    assert!(status.expect("taskset").success(), "taskset");
}

// --- The server, as a process ---

struct Server {
    process: Child,
    address: SocketAddrV4,
}

impl Server {
    fn start(directory: &Path, port: u16, cores: &str, options: &[&str]) -> Server {
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        let program = env!("CARGO_BIN_EXE_nat64handoff");
        let process = Command::new("taskset")
            .args(["--cpu-list", cores, program, "serve", "--reactors", "1"])
            .args(["--listen", &address.to_string()])
            .arg("--state")
            .arg(directory.join("state"))
            .arg("--log")
            .arg(directory.join("events.log"))
            .args(options)
            .stderr(File::create(directory.join("stderr")).unwrap())
            .spawn()
            .expect("taskset");
        Server { process, address }
    }

    /// Of all of its threads, by name.
    fn cpu(&self) -> BTreeMap<String, Duration> {
        let mut threads = BTreeMap::new();
        for thread in fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap() {
            let path = thread.unwrap().path();
            // It may just have ended.
            let (Ok(name), Ok(times)) =
                (fs::read_to_string(path.join("comm")), fs::read_to_string(path.join("schedstat")))
            else {
                continue;
            };
            let nanoseconds = times.split(' ').next().unwrap().parse().unwrap();
            *threads.entry(name.trim().to_owned()).or_default() +=
                Duration::from_nanos(nanoseconds);
        }
        threads
    }

    fn signal(&mut self, name: &str) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
        self.process.wait().unwrap();
    }
}

/// A port that nobody has now, beyond those that the system gives by itself and those of the tables here.
fn free_port() -> u16 {
    (62_000..64_000)
        .find(|&port| UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
        .expect("a free port")
}

// --- NAT64s ---

struct Nat64 {
    control: UdpSocket,
    discard: UdpSocket,
    address: Ipv4Addr,
    token: [u8; 16],
    server: SocketAddrV4,
}

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

/// What the NAT64 knows a client by; that it is secret makes no difference here.
fn authenticator(client: &Client) -> [u8; 16] {
    client.address.octets()
}

impl Nat64 {
    fn new(number: u32, port: u16, server: SocketAddrV4) -> Nat64 {
        let address = nat64_address(number);
        let control = UdpSocket::bind((address, port)).unwrap();
        control.connect(server).unwrap();
        control.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let discard = UdpSocket::bind((address, VALIDATION_PORT)).expect("UDP port 9, for root");
        discard.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        Nat64 { control, discard, address, token: token_of(number), server }
    }

    /// Proves that it is where it says. The server may not be there yet, and may not want to hear of it at once.
    fn introduce(&self) {
        let service = SocketAddrV4::new(SERVICE, 443);
        let anything = packets::ipv4_udp(service, SocketAddrV4::new(self.address, 7), b"anything");
        let mut challenge = [0; 2048];
        let length = (0..250)
            .find_map(|_| {
                // Refused before the server listens.
                drop(self.control.send(&self.service_request(&anything)));
                self.discard.recv(&mut challenge).ok()
            })
            .expect("a validation packet");
        let here = SocketAddrV4::new(self.address, VALIDATION_PORT);
        let proof = packets::ipv4_udp(self.server, here, &challenge[..length]);
        self.control.send(&self.service_request(&proof)).unwrap();
        self.control.recv(&mut challenge).expect("an answer to the proof");
    }

    /// How many replies came when nobody waited for them any more.
    fn late(&self) -> usize {
        self.control.set_nonblocking(true).unwrap();
        let late = std::iter::from_fn(|| self.control.recv(&mut [0; 2048]).ok()).count();
        self.control.set_nonblocking(false).unwrap();
        late
    }

    /// `4, IPv4`
    fn service_request(&self, packet: &[u8]) -> Vec<u8> {
        let mut payload = Vec::new();
        wire::emit(&mut payload, message_type::TOKEN, &self.token);
        payload.extend_from_slice(packet);
        payload
    }

    /// `4, 6, IPv6`: appends 150 octets.
    fn client_request(&self, payload: &mut Vec<u8>, client: &Client) {
        wire::emit(payload, message_type::TOKEN, &self.token);
        wire::emit(payload, message_type::AUTHENTICATOR, &authenticator(client));
        let from = SocketAddrV6::new(client.address, client.port, 0, 0);
        let to = SocketAddrV6::new(packets::synthesize(client.prefix, SERVICE), 443, 0, 0);
        payload.extend_from_slice(&packets::ipv6_udp(from, to, &[b'x'; 66]));
    }
}

const REQUEST: usize = 150;
/// `6, 7, IPv6`: an entry instead of the token.
const REPLY: usize = REQUEST - (2 + 16) + wire::ENTRY_LENGTH;
const REPLY_ENTRY_AT: usize = 2 + 16;

/// Many datagrams in a system call, so that the load is no slower than the server.
struct Burst {
    octets: Vec<u8>,
    iovecs: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

impl Burst {
    fn new() -> Burst {
        Burst { octets: Vec::new(), iovecs: Vec::new(), headers: Vec::new() }
    }

    /// Divides the octets into datagrams.
    fn prepare(&mut self, each: usize) {
        self.iovecs.clear();
        self.iovecs.extend(
            self.octets
                .chunks_exact_mut(each)
                .map(|chunk| libc::iovec { iov_base: chunk.as_mut_ptr().cast(), iov_len: each }),
        );
        self.headers.clear();
        self.headers.extend(self.iovecs.iter_mut().map(|iovec| {
            // SAFETY: null pointers and lengths of 0 are valid in a message header.
            let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
            header.msg_hdr.msg_iov = iovec;
            header.msg_hdr.msg_iovlen = 1;
            header
        }));
    }

    fn send(&mut self, socket: &UdpSocket) {
        self.prepare(REQUEST);
        let mut rest = &mut self.headers[..];
        while !rest.is_empty() {
            // SAFETY: the headers refer to `iovecs` and these to `octets`; neither changed since.
            let sent = unsafe {
                libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as u32, 0)
            };
            assert!(sent > 0, "send: {}", io::Error::last_os_error());
            rest = &mut rest[sent as usize..];
        }
    }

    /// Receives so many replies; how many never came.
    fn receive(&mut self, socket: &UdpSocket, count: usize) -> usize {
        let mut missing = count;
        while missing > 0 {
            self.octets.resize(missing * REPLY, 0);
            self.prepare(REPLY);
            // SAFETY: as above; no timeout is given.
            let received = unsafe {
                libc::recvmmsg(
                    socket.as_raw_fd(),
                    self.headers.as_mut_ptr(),
                    missing as u32,
                    libc::MSG_WAITFORONE,
                    std::ptr::null_mut(),
                )
            };
            let Ok(received) = usize::try_from(received) else {
                let error = io::Error::last_os_error();
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "receive: {error}");
                break;
            };
            for (header, reply) in self.headers.iter().zip(self.octets.chunks(REPLY)).take(received)
            {
                let entry = wire::header(message_type::ENTRY, wire::ENTRY_LENGTH - 2);
                let is_mapping =
                    header.msg_len as usize == REPLY && reply[REPLY_ENTRY_AT..].starts_with(&entry);
                assert!(is_mapping, "another reply: {:02x?}", &reply[..header.msg_len as usize]);
            }
            missing -= received;
        }
        missing
    }
}

/// What a phase cost.
struct Sample {
    requests: u32,
    lost: usize,
    elapsed: Duration,
    cpu: Duration,
    threads: BTreeMap<String, Duration>,
}

impl Sample {
    fn micros(&self, cpu: Duration) -> f64 {
        cpu.as_secs_f64() * 1e6 / f64::from(self.requests)
    }
}

/// Lets all NAT64s ask `repeats` times for all of their clients, in an order of no use to caches. Half of the
/// window is on its way to the server while the other half comes back.
fn ask(server: &Server, nat64s: &[Nat64], repeats: u32, window: usize) -> Sample {
    let before = server.cpu();
    let half = window as u32 / 2;
    let bursts = CLIENTS * repeats / half * NAT64S;
    let (mut sent, mut received, mut lost) = (Burst::new(), Burst::new(), 0);
    let begin = Instant::now();
    for burst in 0..=bursts {
        if burst < bursts {
            let nat64 = burst % NAT64S;
            sent.octets.clear();
            for step in 0..half {
                let number = (burst / NAT64S * half + step).wrapping_mul(STRIDE) % CLIENTS;
                nat64s[nat64 as usize].client_request(&mut sent.octets, &client(nat64, number));
            }
            sent.send(&nat64s[nat64 as usize].control);
        }
        if let Some(answered) = burst.checked_sub(1) {
            let nat64 = &nat64s[(answered % NAT64S) as usize];
            lost += received.receive(&nat64.control, half as usize);
        }
    }
    let elapsed = begin.elapsed();
    // What the event log, syncs and compaction have still to do belongs to it.
    thread::sleep(Duration::from_millis(250));
    let late: usize = nat64s.iter().map(Nat64::late).sum();
    if lost > 0 {
        println!("no reply within half a second to {lost} requests, {late} replies were late");
    }
    lost = lost.saturating_sub(late);
    let threads: BTreeMap<_, _> = server
        .cpu()
        .into_iter()
        .map(|(name, cpu)| {
            let cpu = cpu.saturating_sub(before.get(&name).copied().unwrap_or_default());
            (name, cpu)
        })
        .collect();
    Sample { requests: bursts * half, lost, elapsed, cpu: threads.values().sum(), threads }
}

// --- The first part ---

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn load(rounds: usize, window: usize) {
    let windows = 2..=2 * CLIENTS as usize;
    assert!(window.is_power_of_two() && windows.contains(&window), "BENCH_WINDOW");
    // [phase][variant][round]
    let mut samples: [[Vec<Sample>; VARIANTS.len()]; 2] = Default::default();
    for round in 0..rounds {
        for step in 0..VARIANTS.len() {
            let variant = (round + step) % VARIANTS.len();
            let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
            let options = VARIANTS[variant].1;
            let mut server = Server::start(directory.path(), free_port(), SERVER_CORE, options);
            let nat64s: Vec<_> =
                (0..NAT64S).map(|number| Nat64::new(number, 0, server.address)).collect();
            nat64s.iter().for_each(Nat64::introduce);
            samples[0][variant].push(ask(&server, &nat64s, 1, window));
            samples[1][variant].push(ask(&server, &nat64s, REPEATS, window));
            server.signal("TERM");
            if samples.iter().any(|phase| phase[variant][round].lost > 0) {
                print!("{}", fs::read_to_string(directory.path().join("stderr")).unwrap());
            }
        }
    }
    println!("load: {NAT64S} NAT64s, {window} requests under way, medians of {rounds} rounds");
    for (phase, name) in ["new clients", "known clients"].into_iter().enumerate() {
        let requests = samples[phase][0][0].requests;
        println!();
        println!("{name}: {requests} requests a round");
        println!(
            "{:16}{:>12}{:>14}{:>20}{:>12}{:>8}  threads, us",
            "journal", "CPU us", "to off", "(lowest-highest)", "requests/s", "lost"
        );
        for (variant, (name, _)) in VARIANTS.into_iter().enumerate() {
            let own = &samples[phase][variant];
            let off = &samples[phase][0];
            let ratios: Vec<f64> = own
                .iter()
                .zip(off)
                .map(|(own, off)| own.cpu.as_secs_f64() / off.cpu.as_secs_f64())
                .collect();
            let (low, high) = ratios
                .iter()
                .fold((f64::MAX, 0_f64), |(low, high), &ratio| (low.min(ratio), high.max(ratio)));
            let threads: Vec<String> = own[0]
                .threads
                .keys()
                .map(|thread| {
                    let of = |sample: &Sample| {
                        sample.micros(sample.threads.get(thread).copied().unwrap_or_default())
                    };
                    (thread, median(own.iter().map(of)))
                })
                .filter(|&(_, micros)| micros >= 0.01)
                .map(|(thread, micros)| format!("{thread} {micros:.2}"))
                .collect();
            println!(
                "{name:16}{:>12.2}{:>14.2}{:>20}{:>12.0}{:>8}  {}",
                median(own.iter().map(|sample| sample.micros(sample.cpu))),
                median(ratios.iter().copied()),
                format!("({low:.2}-{high:.2})"),
                median(
                    own.iter()
                        .map(|sample| f64::from(sample.requests) / sample.elapsed.as_secs_f64())
                ),
                own.iter().map(|sample| sample.lost).sum::<usize>(),
                threads.join(", ")
            );
        }
    }
}

// --- The second part ---

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

fn build(state: &Path, port: u16, entries: u32) {
    fs::create_dir(state).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let now = Timestamp::from_micros(now.as_micros() as u64);
    let config = StorageConfig::new(1, port, SyncPolicy::None);
    let nothing = |_: Timestamp, _: TableKey, _: &Change| {};
    let disk = Arc::new(RealDisk);
    let opened = Storage::open_at(disk, state, config, |_| 0, |_| None, &mut [nothing]).unwrap();
    let Started { storage, mut writers, .. } = opened.start(now, Arc::new(|_| u64::MAX)).unwrap();
    let mut writer = writers.remove(0);
    let tables = entries / TABLE_ENTRIES;
    let compacted = tables * 9 / 10 * TABLE_ENTRIES;
    append_tables(&mut writer, now, 0..compacted);
    storage.compact(0, true).unwrap();
    append_tables(&mut writer, now, compacted..entries);
    writer.close(now).unwrap();
}

fn recover(entries: u32) {
    assert!(entries >= TABLE_ENTRIES && entries.is_multiple_of(TABLE_ENTRIES), "whole tables only");
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (port, state) = (free_port(), directory.path().join("state"));
    let begin = Instant::now();
    build(&state, port, entries);
    println!();
    println!(
        "recover: {entries} entries, {} a table, made in {:.1?}",
        TABLE_ENTRIES,
        begin.elapsed()
    );
    for (name, end) in [
        ("first start, the log has no line yet", "KILL"),
        ("after kill -9", "KILL"),
        ("after kill -9, again", "TERM"),
        ("after SIGTERM", "TERM"),
    ] {
        let (snapshots, segments) = (octets_of(&state, "snapshot"), octets_of(&state, "journal"));
        let begin = Instant::now();
        let options = ["--max-entries", &entries.to_string()];
        let mut server = Server::start(directory.path(), port, BOTH_CORES, &options);
        first_answer(&server, entries);
        let took = begin.elapsed();
        let status = fs::read_to_string(format!("/proc/{}/status", server.process.id())).unwrap();
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        println!(
            "  {name:38} {:>7.3} s (snapshot {} MB, segments {} MB, resident {})",
            took.as_secs_f64(),
            snapshots / 1_000_000,
            segments / 1_000_000,
            memory.trim()
        );
        server.signal(end);
        let said = fs::read_to_string(directory.path().join("stderr")).unwrap();
        said.lines()
            .filter(|line| line.contains("state: "))
            .for_each(|line| println!("    {line}"));
    }
}

/// Asks for the last client of the last NAT64 until there is an answer.
fn first_answer(server: &Server, entries: u32) {
    let last = entries - 1;
    let (number, member) = (last / TABLE_ENTRIES, last % TABLE_ENTRIES);
    let nat64 = Nat64::new(number, TABLE_CONTROL, server.address);
    nat64.control.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let mut request = Vec::new();
    nat64.client_request(&mut request, &client(number, member));
    let deadline = Instant::now() + Duration::from_secs(120);
    let mut reply = [0; 2048];
    while Instant::now() < deadline {
        if nat64.control.send(&request).is_err() {
            // Nobody listens yet.
            thread::sleep(Duration::from_millis(1));
        } else if let Ok(length) = nat64.control.recv(&mut reply) {
            assert_eq!(length, REPLY);
            let port = TABLE_PORTS + member as u16;
            assert_eq!(reply[REPLY_ENTRY_AT + 2..][..2], port.to_be_bytes(), "its entry as before");
            return;
        }
    }
    panic!("no answer");
}

/// How much is in the files whose names end so.
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
