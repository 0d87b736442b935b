//! Attacks of NAT64s that are known, and of strangers, while an honest NAT64 on the same reactor
//! asks about known clients: how long it waits, against how long it waits alone.
//!
//! Short times alone and under attack take turns; each ratio is that of two neighbours, and what is
//! printed is their median, as one moment without a core spoils a p99. A latency is that from just
//! before a request is sent until the kernel has its answer: it does not contain when the load,
//! which also makes the attack, gets round to reading it.
//!
//! All threads of the server share a core, also those that are not a reactor. Each attack lasts for
//! a while before it is measured, so that what a bucket permits at once is used up.

use std::io::{PipeReader, Read};
use std::net::{Ipv4Addr, UdpSocket};
use std::thread;
use std::time::Duration;

use nat64handoff::handoff::entry::{Client, Entry, MappedPort};
use nat64handoff::handoff::message::{
    self, ENTRY_LENGTH, MULTI_REPORT_MAX, PROTOCOL_IDENTIFIER, message_type,
};
use nat64handoff::ip::{build, fields::protocol, ipv6};
use nat64handoff::nat64::engine::WELL_KNOWN_PREFIX;

use crate::generator::Load;
use crate::nat64::{Answer, CLIENT_PORT, Kind, Nat64, Peer, SERVICE, client_address};
use crate::net::{self, Burst};
use crate::newcomers::{NAT64S_MAX, Newcomers};
use crate::process::Process;
use crate::report::{goal, spread};

/// The clients of the honest NAT64, and of the hostile one.
const CLIENTS: u32 = 256;
/// How often the honest NAT64 asks.
const ASK_EVERY: Duration = Duration::from_micros(400);
/// Each time alone, and under attack.
const TIME: Duration = Duration::from_millis(150);
/// The time before each: who has a real-time priority may not use all of a second.
const PAUSE: Duration = Duration::from_millis(20);
/// Times of each in a round.
const TURNS: usize = 6;
/// How long an attack lasts before it is measured.
const WARM_UP: Duration = Duration::from_millis(2500);
/// What may come back to a hostile NAT64 before it is read.
const READ_EVERY: u64 = 16;
/// Answers may take this many times what they take alone.
const SLOWER_MAX: &str = "1.5";
/// Most attacks, in requests a second.
const RATE: f64 = 80_000.0;
/// The multi reports of an attack that has this many Mbit/s.
const fn multi_reports(mbits: f64) -> f64 {
    mbits * 1e6 / 8.0 / (MULTI_REPORT_MAX + message::IPV4_UDP_HEADERS) as f64
}

/// An attack: its rate, and what makes the payload of datagram number so and so.
struct Attack {
    name: &'static str,
    rate: f64,
    make: fn(&Nat64, u64, &mut Vec<u8>),
    from: From,
}

/// Whom its datagrams are from.
#[derive(PartialEq)]
enum From {
    /// A NAT64 that is known.
    Known,
    /// Another address each.
    Anywhere,
    /// NAT64s that prove themselves, and find no room.
    Newcomers,
}

const ATTACKS: [Attack; 8] = [
    known("multi reports, 52 Mbit/s", multi_reports(52.0), multi_report),
    known("multi reports, 105 Mbit/s", multi_reports(105.0), multi_report),
    known("always another authenticator", RATE, changing_authenticator),
    known("always another client", RATE, new_client),
    known("conflicts", RATE, conflict),
    known("first fragments", RATE, first_fragment),
    known("always another token", RATE, unknown_token),
    Attack { name: "spoofed sources", rate: RATE, make: stranger, from: From::Anywhere },
];

const fn known(name: &'static str, rate: f64, make: fn(&Nat64, u64, &mut Vec<u8>)) -> Attack {
    Attack { name, rate, make, from: From::Known }
}

pub fn run(rounds: usize) -> Result<(), String> {
    println!(
        "one honest NAT64, a request each {ASK_EVERY:?}; {} times {TIME:?} alone and attacked",
        rounds * TURNS
    );
    println!(
        "  {:<32}{:>10}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}  p99 / alone",
        "", "attacks/s", "p50 us", "p99", "alone", "p99", "lost", "CPU"
    );
    for attack in &ATTACKS {
        let mut honest = Honest::new(Process::limited(&[]));
        let hostile = Hostile::new(&honest.process, attack);
        measure(&mut honest, hostile, rounds, None);
    }
    // All entries are those of the hostile one, as soon as the honest one has its own.
    let attack = known("another client at --max-entries", RATE, new_client);
    let mut honest = Honest::new(Process::limited(&["--max-entries", "40k"]));
    let hostile = Hostile::new(&honest.process, &attack);
    measure(&mut honest, hostile, rounds, None);
    let attack = known("another client, log not read", RATE, new_client);
    let (process, log) = Process::unread();
    let mut honest = Honest::new(process);
    let hostile = Hostile::new(&honest.process, &attack);
    measure(&mut honest, hostile, rounds, Some(log));
    newcomers(rounds)
}

/// Proofs of newcomers at `--max-nat64s`, while tables with many entries are given up for them.
fn newcomers(rounds: usize) -> Result<(), String> {
    let attack = Attack {
        name: "newcomers at --max-nat64s",
        rate: RATE,
        make: |_, _, _| {},
        from: From::Newcomers,
    };
    let limit = ["--max-nat64s", &NAT64S_MAX.to_string()];
    let mut honest = Honest::new(Process::limited(&limit));
    let mut hostile = Hostile::new(&honest.process, &attack);
    // Beside the honest one and the hostile one that each attack has.
    hostile.newcomers = Some(Newcomers::at_the_limit(honest.process.address, 2));
    measure(&mut honest, hostile, rounds, None);
    let given_up = honest.process.log_lines(" Forgotten ");
    println!("    {given_up} tables were given up meanwhile");
    if given_up == 0 { Err("no table was given up".to_owned()) } else { Ok(()) }
}

/// What came of the requests in one time, in nanoseconds.
#[derive(Default)]
struct Waits {
    sorted: Vec<u64>,
    sent: u64,
}

impl Waits {
    /// In microseconds. A request without an answer has waited for ever.
    fn quantile(&mut self, quantile: f64) -> f64 {
        self.sorted.sort_unstable();
        let at = (self.sent as f64 * quantile) as usize;
        self.sorted.get(at).map_or(f64::INFINITY, |&wait| wait as f64 / 1e3)
    }
}

fn measure(honest: &mut Honest, mut hostile: Hostile<'_>, rounds: usize, log: Option<PipeReader>) {
    honest.listen(WARM_UP, Some(&mut hostile));
    let mut p50 = [Vec::new(), Vec::new()];
    let mut p99 = [Vec::new(), Vec::new()];
    let (mut lost, mut attacks) = (0, 0);
    let before = honest.process.cpu();
    for _ in 0..rounds * TURNS {
        for attacked in [false, true] {
            let sent = hostile.sent;
            thread::sleep(PAUSE);
            let mut waits = honest.listen(TIME, attacked.then_some(&mut hostile));
            attacks += hostile.sent - sent;
            lost += waits.sent - waits.sorted.len() as u64;
            p50[usize::from(attacked)].push(waits.quantile(0.5));
            p99[usize::from(attacked)].push(waits.quantile(0.99));
        }
    }
    let attacked = TIME * (rounds * TURNS) as u32;
    let cpu: Duration = honest.process.cpu_since(&before).values().sum();
    let ratios = spread(p99[1].iter().zip(&p99[0]).map(|(attacked, alone)| attacked / alone));
    let [alone50, attacked50] = p50.map(|values| spread(values).median);
    let [alone99, attacked99] = p99.map(|values| spread(values).median);
    let name = hostile.attack.name;
    println!(
        "  {name:<32}{:>10.0}{attacked50:>9.0}{attacked99:>9.0}{alone50:>9.0}{alone99:>9.0}{lost:>9}{:>8.0}%  {:.2} ({:.2}-{:.2})",
        attacks as f64 / attacked.as_secs_f64(),
        100.0 * cpu.as_secs_f64() / (2.0 * attacked.as_secs_f64()),
        ratios.median,
        ratios.low,
        ratios.high
    );
    goal(&format!("attack, {name}: p99 of others / alone"), SLOWER_MAX, ratios);
    // Only now: what a pipe holds is what nobody has read.
    if let Some(mut log) = log {
        let mut octets = [0; 1024];
        assert!(log.read(&mut octets).is_ok_and(|length| length > 0), "the log had something");
    }
}

/// An honest NAT64, and the server.
struct Honest {
    process: Process,
    load: Load,
    reply: [u8; 2048],
}

impl Honest {
    fn new(process: Process) -> Honest {
        let nat64 = Nat64::new(0, CLIENTS, Peer::Server, process.address);
        let mut load = Load::new(vec![nat64]);
        load.fill();
        if std::env::var_os("BENCH_FIFO").is_some() {
            process.prefer_reactors();
        }
        let control = &load.nat64s[0].control;
        net::take_apart(control);
        net::stamp(control);
        Honest { process, load, reply: [0; 2048] }
    }

    /// Asks for `time`, under attack or alone.
    fn listen(&mut self, time: Duration, mut hostile: Option<&mut Hostile<'_>>) -> Waits {
        let mut waits = Waits::default();
        let begin = net::stamp_now();
        let end = begin + time.as_nanos() as u64;
        let mut due = begin;
        let mut attacked = 0;
        loop {
            let now = net::stamp_now();
            if now >= end {
                break;
            }
            if now >= due {
                due += ASK_EVERY.as_nanos() as u64;
                self.ask();
                waits.sent += 1;
            } else if let Some(hostile) = &mut hostile
                && hostile.due(now - begin) > attacked
            {
                hostile.send();
                attacked += 1;
            }
            self.receive(&mut waits);
        }
        // The last answers.
        let end = end + 4 * ASK_EVERY.as_nanos() as u64;
        while net::stamp_now() < end {
            self.receive(&mut waits);
        }
        self.load.nat64s[0].asked.clear();
        waits
    }

    fn ask(&mut self) {
        let Load { nat64s, burst, .. } = &mut self.load;
        burst.clear();
        nat64s[0].ask(Kind::Known, net::stamp_now(), burst);
        burst.send(&nat64s[0].control, 1);
    }

    fn receive(&mut self, waits: &mut Waits) {
        let nat64 = &mut self.load.nat64s[0];
        if let Some((length, at)) = net::receive_stamped(&nat64.control, &mut self.reply)
            && let Answer::To(asked, _) = nat64.answered(&self.reply[..length])
        {
            waits.sorted.push(at.saturating_sub(asked.at));
        }
    }
}

/// Who attacks.
struct Hostile<'a> {
    attack: &'a Attack,
    nat64: Nat64,
    anywhere: UdpSocket,
    burst: Burst,
    payload: Vec<u8>,
    server: std::net::SocketAddrV4,
    sent: u64,
    inbox: net::Inbox,
    newcomers: Option<Newcomers>,
}

impl<'a> Hostile<'a> {
    fn new(process: &Process, attack: &'a Attack) -> Hostile<'a> {
        let mut load = Load::new(vec![Nat64::new(1, CLIENTS, Peer::Server, process.address)]);
        load.fill();
        Hostile {
            attack,
            nat64: load.nat64s.remove(0),
            anywhere: UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a socket"),
            burst: Burst::default(),
            payload: Vec::new(),
            server: process.address,
            sent: 0,
            inbox: net::Inbox::new(),
            newcomers: None,
        }
    }

    /// How many datagrams are due after this many nanoseconds.
    fn due(&self, passed: u64) -> u64 {
        (passed as f64 * self.attack.rate / 1e9) as u64
    }

    fn send(&mut self) {
        if let Some(newcomers) = &mut self.newcomers {
            newcomers.prove(self.sent);
            self.sent += 1;
            if self.sent.is_multiple_of(READ_EVERY) {
                newcomers.drain();
            }
            return;
        }
        self.payload.clear();
        (self.attack.make)(&self.nat64, self.sent, &mut self.payload);
        if self.attack.from == From::Known {
            self.burst.clear();
            self.burst.append(&self.payload);
            self.burst.send(&self.nat64.control, 1);
        } else {
            let source = Ipv4Addr::from_bits(0x7f40_0000 | self.sent as u32 & 0x3f_ffff);
            net::send_from(&self.anywhere, source, self.server, &self.payload);
        }
        self.sent += 1;
        if self.sent.is_multiple_of(READ_EVERY) {
            while self.inbox.receive(&self.nat64.control, false) {}
        }
    }
}

// --- What it sends ---

fn nth(client: u32) -> Client {
    Client { prefix: WELL_KNOWN_PREFIX, address: client_address(1, client), port: CLIENT_PORT }
}

fn token(nat64: &Nat64, payload: &mut Vec<u8>) {
    message::emit(payload, message_type::TOKEN, &nat64.token());
}

fn authenticator(client: &Client, payload: &mut Vec<u8>) {
    message::emit(payload, message_type::AUTHENTICATOR, &client.address.octets());
}

fn packet_of(client: &Client, payload: &mut Vec<u8>) {
    let from = std::net::SocketAddrV6::new(client.address, client.port, 0, 0);
    let to = nat64handoff::ip::address::synthesize(WELL_KNOWN_PREFIX, *SERVICE.ip());
    let to = std::net::SocketAddrV6::new(to, SERVICE.port(), 0, 0);
    payload.extend_from_slice(&build::ipv6_udp(from, to, b"data"));
}

/// Full, about clients that the table has on other ports.
fn multi_report(nat64: &Nat64, number: u64, payload: &mut Vec<u8>) {
    message::emit(payload, message_type::IDENTIFIER, PROTOCOL_IDENTIFIER);
    token(nat64, payload);
    let each = message::MESSAGE_HEADER + 16 + ENTRY_LENGTH;
    for entry in 0.. {
        if payload.len() + each > MULTI_REPORT_MAX {
            break;
        }
        let client = nth((number as u32 + entry) % CLIENTS);
        authenticator(&client, payload);
        let port = MappedPort(1024 + (number as u16).wrapping_mul(97) % 50_000 + entry as u16);
        payload.extend_from_slice(&Entry { port, client }.emit());
    }
}

fn changing_authenticator(nat64: &Nat64, number: u64, payload: &mut Vec<u8>) {
    token(nat64, payload);
    message::emit(payload, message_type::AUTHENTICATOR, &number.to_be_bytes());
    packet_of(&nth(number as u32 % CLIENTS), payload);
}

fn new_client(nat64: &Nat64, number: u64, payload: &mut Vec<u8>) {
    let address = client_address(2 + (number >> 16) as u32, number as u16 as u32);
    let client = Client { address, ..nth(0) };
    token(nat64, payload);
    authenticator(&client, payload);
    packet_of(&client, payload);
}

fn conflict(nat64: &Nat64, number: u64, payload: &mut Vec<u8>) {
    let client = nth(number as u32 % CLIENTS);
    message::emit(payload, message_type::IDENTIFIER, PROTOCOL_IDENTIFIER);
    token(nat64, payload);
    authenticator(&client, payload);
    let port = MappedPort(1024 + (number % 64_000) as u16);
    payload.extend_from_slice(&Entry { port, client }.emit());
}

fn first_fragment(nat64: &Nat64, number: u64, payload: &mut Vec<u8>) {
    let client = nth(number as u32 % CLIENTS);
    token(nat64, payload);
    authenticator(&client, payload);
    let mut data = vec![protocol::UDP, 0, 0, 1];
    data.extend_from_slice(&(number as u32).to_be_bytes());
    data.extend([client.port, SERVICE.port()].iter().flat_map(|port| port.to_be_bytes()));
    data.extend_from_slice(&[0; 36]);
    let to = nat64handoff::ip::address::synthesize(WELL_KNOWN_PREFIX, *SERVICE.ip());
    let header = ipv6::header(data.len(), protocol::FRAGMENT, 64, client.address, to);
    payload.extend_from_slice(&header);
    payload.extend_from_slice(&data);
}

fn unknown_token(_: &Nat64, number: u64, payload: &mut Vec<u8>) {
    message::emit(payload, message_type::TOKEN, &(u128::from(number) | 1 << 100).to_be_bytes());
    payload.extend_from_slice(&build::ipv4_udp(SERVICE, SERVICE, b"a packet of the service"));
}

/// All from one port with one token: each source is a NAT64 that is not known.
fn stranger(nat64: &Nat64, _: u64, payload: &mut Vec<u8>) {
    unknown_token(nat64, 0, payload);
}
