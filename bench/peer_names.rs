//! What names of peers cost the kernel and programs on the host: `cargo bench --bench peer_names`
//! (root). What they cost the server: `cargo bench --bench load -- names`.
//!
//! Connections over loopback, in a control group of its own: without the programs, with empty ones
//! at their places (what the kernel takes for running any), with ours and no name, and with a name
//! for each, in turns. The map has a million names.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nat64handoff::handoff::entry::{MappedPort, TableKey};
use nat64handoff::handoff::server::PREFETCH_MAX;
use nat64handoff::kernel::bpf::names::{FoundName, PeerName};
use nat64handoff::kernel::bpf::peer_names::{NamesState, PeerMaps, attach_empty};
use nat64handoff::kernel::socket::network_namespace;
use nat64handoff::kernel::{bpf::place, clock};

const NAMES_MAX: u32 = 1_000_000;
const GENERATION: u32 = 1;
/// So many are taken back and given again.
const RENAMED: u32 = 100_000;
/// As the server does.
const AT_ONCE: usize = PREFETCH_MAX;
const ROUNDS: usize = 45;
const CONNECTIONS: usize = 500;
const OPEN_AT_ONCE: usize = 100;
/// Who connects to this address of the loopback has no name.
const UNNAMED: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Longer than the connections of a round take, and not longer than the programs believe.
const VALID: Duration = Duration::from_secs(8);

fn main() {
    let namespace = TcpListener::bind("[::]:0").and_then(network_namespace).unwrap_or_default();
    let maps = PeerMaps::create(NAMES_MAX + 70_000).expect("as root, on Linux 5.8 or later");
    fill(&maps);
    let group = Group::enter().expect("a control group of its own");
    let folder = File::open(&group.0).unwrap();
    let kinds = ["without", "an empty program", "attached, no name", "attached, named"];
    let mut times = kinds.map(|_| Vec::new());
    for round in 0..ROUNDS {
        for step in 0..kinds.len() {
            let kind = (round + step) % kinds.len();
            let links = match kind {
                0 => Vec::new(),
                1 => attach_empty(&folder).unwrap().into(),
                _ => maps.attach(&folder, true, false).unwrap(),
            };
            let until = (clock::since_boot() + VALID).as_nanos() as u64;
            let found = NamesState::read(&maps.state).unwrap();
            let said = NamesState { generation: GENERATION, until, namespace, ..found };
            said.write(&maps.state).unwrap();
            times[kind].push(connections(kind == 3));
            drop(links);
        }
    }
    println!(
        "{CONNECTIONS} connections in each of {ROUNDS} rounds, ns for each (low-high), median ratio of a round"
    );
    println!("{:20} {:>26} {:>26}", "", "connect and accept", "accept and getpeername");
    let without = &times[0];
    for (name, times) in kinds.iter().zip(&times) {
        print!("{name:20}");
        for which in [0, 1] {
            let (low, median, high) = median(times, which);
            // The machine may be faster or slower in another round.
            let pairs = times.iter().zip(without);
            let ratio = |(time, without): (&[u64; 2], &[u64; 2])| {
                time[which] as f64 / without[which] as f64
            };
            let mut ratios: Vec<_> = pairs.map(ratio).collect();
            ratios.sort_unstable_by(f64::total_cmp);
            print!(" {median:7} ({low}-{high}) {:.2}", ratios[ratios.len() / 2]);
        }
        println!();
    }
}

/// What stands for nothing, but has its place.
fn other(number: u32) -> (TableKey, MappedPort) {
    let table = TableKey { local: [203, 0, 113, 5].into(), nat64: (number >> 16).into() };
    (table, MappedPort(number as u16))
}

fn name() -> PeerName {
    PeerName { client: "2001:db8::17".parse().unwrap(), client_port: 53186, pool: None }
}

fn fill(maps: &PeerMaps) {
    let (names, name) = (&maps.names, name());
    let begin = Instant::now();
    for number in 0..NAMES_MAX {
        let (table, port) = other(number);
        assert!(names.give(table, port, &name, GENERATION));
    }
    println!("{NAMES_MAX} names given in {:?}", begin.elapsed());
    let (begin, mut seen) = (Instant::now(), 0);
    names.retain(GENERATION, |_, _, _| {
        seen += 1;
        FoundName::Stays
    });
    println!("{seen} names read in {:?}", begin.elapsed());
    let all: Vec<_> = (0..RENAMED).map(|number| other(number * 10)).collect();
    let renew = |(table, port)| {
        names.take(table, port);
        names.give(table, port, &name, GENERATION);
    };
    let begin = Instant::now();
    all.iter().copied().for_each(renew);
    let one = begin.elapsed().as_nanos() / u128::from(RENAMED);
    let all: Vec<_> = (0..RENAMED).map(|number| other(number * 10 + 5)).collect();
    let begin = Instant::now();
    for some in all.chunks(AT_ONCE) {
        names.prefetch(some.iter().copied());
        some.iter().copied().for_each(renew);
    }
    let at_once = begin.elapsed().as_nanos() / u128::from(RENAMED);
    println!("one taken back and given, each by itself: {one} ns; {AT_ONCE} at once: {at_once} ns");
    let descriptor = maps.names_map().as_fd().as_raw_fd();
    let information = fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}")).unwrap();
    let locked = information.lines().find_map(|line| line.strip_prefix("memlock:\t"));
    let octets: u64 = locked.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    println!("memory for a name: {} octets", octets / u64::from(names.names_max()));
    let table = TableKey { local: Ipv4Addr::LOCALHOST, nat64: Ipv4Addr::LOCALHOST };
    for port in 1024..=u16::MAX {
        assert!(names.give(table, MappedPort(port), &name, GENERATION));
    }
}

/// Nanoseconds of a connection, and of its accept with getpeername.
fn connections(is_named: bool) -> [u64; 2] {
    let listener = TcpListener::bind("[::]:0").unwrap();
    let local = if is_named { Ipv4Addr::LOCALHOST } else { UNNAMED };
    let to = SocketAddr::from((local, listener.local_addr().unwrap().port()));
    let (mut all, mut accepting) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..CONNECTIONS / OPEN_AT_ONCE {
        let begin = Instant::now();
        let clients: Vec<_> = (0..OPEN_AT_ONCE).map(|_| TcpStream::connect(to).unwrap()).collect();
        let accepted = Instant::now();
        let servers: Vec<_> = (0..OPEN_AT_ONCE)
            .map(|_| {
                let (server, peer) = listener.accept().unwrap();
                assert_eq!(peer.ip() == name().client, is_named);
                assert_eq!(server.peer_addr().unwrap(), peer);
                server
            })
            .collect();
        accepting += accepted.elapsed();
        all += begin.elapsed();
        drop((clients, servers));
    }
    [all, accepting].map(|time| time.as_nanos() as u64 / CONNECTIONS as u64)
}

fn median(times: &[[u64; 2]], which: usize) -> (u64, u64, u64) {
    let mut times: Vec<_> = times.iter().map(|time| time[which]).collect();
    times.sort_unstable();
    (times[0], times[times.len() / 2], times[times.len() - 1])
}

/// This process is in it as long as the value lives.
struct Group(PathBuf, PathBuf);

impl Group {
    fn enter() -> io::Result<Self> {
        let root = place::control_groups().ok_or(io::ErrorKind::NotFound)?;
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
        let group = root.join(format!("nat64handoff-bench-{}", std::process::id()));
        fs::create_dir(&group)?;
        let entered = Self(group, root.join(own));
        enter(&entered.0)?;
        Ok(entered)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = enter(&self.1);
        let _ = fs::remove_dir(&self.0);
    }
}

fn enter(group: &Path) -> io::Result<()> {
    fs::write(group.join("cgroup.procs"), std::process::id().to_string())
}
