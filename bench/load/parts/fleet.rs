//! A host of a fleet, against a server that is alone: known clients, new ones as fast as they are
//! answered, and how much later one of a thousand a second has its answer. etcd's three nodes run
//! on the same cores.

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::{NO_END, SETTLE, TIME};
use crate::generator::{KNOWN, NEW, Sending};
use crate::nat64::Peer;
use crate::open_loop::Phase;
use crate::process::{Process, free_port, on_cores};
use crate::report::{Rounds, Sample, Spread, Target, goal, spread};

const NAT64S: u32 = 16;
const CLIENTS: u32 = 4096;
/// New clients of a round.
const NEW_CLIENTS: u64 = 16 * 4096;
const NEW_RATE: f64 = 1_000.0;
const LISTENED: Duration = Duration::from_secs(2);
const TIME_MAX: Duration = Duration::from_secs(20);
/// How long etcd may take until it has a leader, and a host until it has read all.
const BEGIN_MAX: Duration = Duration::from_secs(30);
const NODES: u16 = 3;
/// The first port of a node: that for clients, and then that for the other nodes.
const FIRST_PORT: u16 = 61_000;

const VARIANTS: [&str; 3] = ["--fleet", "alone, again", "alone"];
const FLEET: usize = 0;

pub fn run(rounds: usize) -> Result<(), String> {
    let etcd = Etcd::start()?;
    known(rounds, &etcd)?;
    new(rounds, &etcd)?;
    latency(rounds, &etcd)
}

/// A server that knows these clients of each NAT64.
fn target(variant: usize, etcd: &Etcd, known: u32) -> Result<Target, String> {
    let process = if variant == FLEET { etcd.host()? } else { Process::server(1, &[]) };
    let mut target = Target::new(VARIANTS[variant], process, Peer::Server, 0..NAT64S, known);
    target.load.fill();
    Ok(target)
}

fn known(rounds: usize, etcd: &Etcd) -> Result<(), String> {
    let targets = (0..VARIANTS.len()).map(|variant| target(variant, etcd, CLIENTS));
    let mut targets = targets.collect::<Result<Vec<_>, _>>()?;
    let samples = Rounds::measure(&mut targets, rounds, SETTLE, |load| {
        load.closed(KNOWN, Sending::Plain, NO_END, TIME)
    });
    println!("{NAT64S} NAT64s with {CLIENTS} known clients each, at their owner");
    samples.print();
    let ratio = samples.ratio(FLEET, Sample::micros);
    goal("known client, --fleet: CPU of all threads / alone", "1.05", ratio);
    Ok(())
}

fn new(rounds: usize, etcd: &Etcd) -> Result<(), String> {
    let mut samples = Rounds::new(VARIANTS.map(str::to_owned));
    for round in 0..rounds {
        for step in 0..VARIANTS.len() {
            let variant = (round + step) % VARIANTS.len();
            let mut target = target(variant, etcd, 1)?;
            let before = etcd.cpu();
            let sample = target
                .measure(SETTLE, |load| load.closed(NEW, Sending::Plain, NEW_CLIENTS, TIME_MAX));
            if variant == FLEET {
                let micros = (etcd.cpu() - before).as_secs_f64() * 1e6;
                println!(
                    "  etcd, all nodes: {:.1} us a new client",
                    micros / sample.tally.answered.max(1) as f64
                );
            }
            samples.push(variant, sample);
        }
    }
    println!("{NAT64S} NAT64s, {NEW_CLIENTS} new clients a round");
    samples.print();
    let rate = samples.spread(FLEET, |sample| sample.tally.rate());
    goal("new clients a second, --fleet", ">20000", rate);
    Ok(())
}

fn latency(rounds: usize, etcd: &Etcd) -> Result<(), String> {
    let targets = (0..VARIANTS.len()).map(|variant| target(variant, etcd, 1));
    let mut targets = targets.collect::<Result<Vec<_>, _>>()?;
    let phase = Phase { rate: NEW_RATE, time: LISTENED };
    let samples = Rounds::measure(&mut targets, rounds, SETTLE, |load| {
        load.open(NEW, Sending::Plain, &[phase]).remove(0)
    });
    println!("{NAT64S} NAT64s, {NEW_RATE} new clients a second");
    samples.print();
    for (quantile, name, most) in [(0.5, "p50", "5"), (0.99, "p99", "50")] {
        let millis =
            |variant| samples.spread(variant, |sample| sample.tally.quantile(quantile) / 1e3);
        let (with, without) = (millis(FLEET), millis(FLEET + 2));
        let Spread { median, low, high } = with;
        let added = spread([low, median, high].map(|with| with - without.median));
        goal(&format!("a new client at {NEW_RATE} a second, {name}: ms added"), most, added);
    }
    Ok(())
}

/// Three nodes. They end with the value.
struct Etcd {
    nodes: Vec<Child>,
    /// How many there were.
    cells: Cell<u32>,
    _directory: tempfile::TempDir,
}

impl Etcd {
    fn start() -> Result<Self, String> {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).map_err(text)?;
        let nodes = (0..NODES).map(|node| begin(node, directory.path()));
        let etcd = Self {
            nodes: nodes.collect::<Result<_, _>>()?,
            cells: Cell::new(0),
            _directory: directory,
        };
        let begin = Instant::now();
        while begin.elapsed() < BEGIN_MAX {
            let mut ask = Command::new("etcdctl");
            ask.env("ETCDCTL_API", "3").args(["--endpoints", &urls(), "put", "ready", "yes"]);
            if ask.stdout(Stdio::null()).stderr(Stdio::null()).status().map_err(text)?.success() {
                return Ok(etcd);
            }
        }
        Err("etcd has no leader".to_owned())
    }

    /// A host of a cell of its own.
    fn host(&self) -> Result<Process, String> {
        // What is listened at has a port of that range as well.
        let address = format!("{}:{}", Ipv4Addr::new(127, 0, 0, 2), free_port());
        let cell = format!("bench-{}", self.cells.replace(self.cells.get() + 1));
        let urls = urls();
        let options = ["--fleet", &urls, "--fleet-cell", &cell, "--fleet-host", "1"];
        let process = Process::server(1, &[&options[..], &["--fleet-address", &address]].concat());
        let begin = Instant::now();
        while !process.messages().contains("--fleet: read") {
            if begin.elapsed() > BEGIN_MAX {
                return Err(process.messages());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(process)
    }

    fn cpu(&self) -> Duration {
        let of_node = |node: &Child| {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", node.id()));
            let stat = stat.unwrap_or_default();
            let words: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split(' ').collect();
            let ticks = |word: usize| words.get(word).and_then(|word| word.parse::<u64>().ok());
            // utime and stime, in hundredths of a second.
            Duration::from_millis(10 * (ticks(12).unwrap_or(0) + ticks(13).unwrap_or(0)))
        };
        self.nodes.iter().map(of_node).sum()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            drop(node.kill());
            drop(node.wait());
        }
    }
}

fn text(error: std::io::Error) -> String {
    format!("{error}: this part wants etcd and etcdctl, and the feature `fleet`")
}

fn url(port: u16) -> String {
    format!("http://{}:{port}", Ipv4Addr::LOCALHOST)
}

fn urls() -> String {
    (0..NODES).map(|node| url(FIRST_PORT + node)).collect::<Vec<_>>().join(",")
}

/// A node, on all cores.
fn begin(node: u16, directory: &Path) -> Result<Child, String> {
    let peer = |node: u16| url(FIRST_PORT + NODES + node);
    let all = (0..NODES).map(|node| format!("node{node}={}", peer(node)));
    let name = format!("node{node}");
    let cores = thread::available_parallelism().map_or(2, usize::from).max(2);
    let mut command = on_cores(cores);
    command
        .args(["etcd", "--name", &name, "--log-level", "error", "--data-dir"])
        .arg(directory.join(&name))
        .args(["--listen-client-urls", &url(FIRST_PORT + node)])
        .args(["--advertise-client-urls", &url(FIRST_PORT + node)])
        .args(["--listen-peer-urls", &peer(node), "--initial-advertise-peer-urls", &peer(node)])
        .args(["--initial-cluster", &all.collect::<Vec<_>>().join(",")])
        .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
        .args(["--quota-backend-bytes", "8589934592"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().map_err(text)
}
