//! What a NAT64 costs: ours, a relay that does nothing, and TAYGA (Debian's package), between two
//! namespaces: `cargo bench --bench gateway` (root).
//!
//! ```text
//!   client ──── NAT64 ──── service
//! ```
//!
//! All three stand in the same namespace, each with a TUN device of its own, and take turns. The
//! relay reads a packet from its device, super-packets among them, and writes it back as it is: it
//! is what anything costs that stands there. CPU is that of the process between, all its threads,
//! from /proc/PID/task/*/schedstat; what the kernel does for it in other names is in none of them.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

#[path = "../../ci/e2e/field.rs"]
#[allow(dead_code, reason = "the end to end tests need more of it")]
mod field;
#[path = "../../ci/e2e/namespace.rs"]
mod namespace;
mod relay;
#[path = "../../ci/harness/skip.rs"]
mod skip;
mod traffic;

use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use field::{Field, SERVICE, SERVICE6, Site};
use traffic::{Direction, Service};

const ROUNDS: usize = 5;
/// How long one measurement sends.
const TIME: Duration = Duration::from_millis(700);
const PATIENCE: Duration = Duration::from_secs(30);
/// The service's address behind the relay, which translates nothing.
const BEHIND_RELAY: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x5, 0, 0, 0, 0, 5);
/// TAYGA translates no documentation addresses behind the well-known prefix.
const TAYGA_PREFIX: &str = "2001:db8:d246::";
const TAYGA_SERVICE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xd246, 0, 0, 0, 0xcb00, 0x7105);
/// The client is this to the service, through TAYGA.
const TAYGA_CLIENT: &str = "192.0.2.8";

/// What stands between client and service.
struct Between {
    name: &'static str,
    /// The service, as the client calls it.
    service: Ipv6Addr,
    child: Child,
}

impl Drop for Between {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Between {
    fn start(site: &Site, name: &'static str, service: Ipv6Addr, command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = site.nat64.inside(|| command.spawn()).unwrap_or_else(|error| {
            panic!("{name}: {error}");
        });
        Self { name, service, child }
    }

    fn cpu(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let of = |task: std::io::Result<fs::DirEntry>| {
            let text = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            text.split(" ").next()?.parse::<u64>().ok()
        };
        Duration::from_nanos(tasks.filter_map(of).sum())
    }

    /// Does something, and returns the CPU seconds for each of what it counted.
    fn cost(&self, work: impl FnOnce() -> u64) -> f64 {
        let before = self.cpu();
        let count = work();
        (self.cpu() - before).as_secs_f64() / count as f64
    }
}

fn main() {
    if let [_, command, device, ..] = &*std::env::args().collect::<Vec<_>>()
        && command == "relay"
    {
        relay::run(device);
    }
    let field = Field::new();
    let site = &field.sites[0];
    lay_out(&field, site);
    let service = Service::start(&field.server);
    let all = [gateway(site), relay(site), tayga(&field, site)];
    for between in &all {
        wait_for(site, between, &service);
    }

    println!(
        "TCP, CPU seconds of the process for a GB, median of {ROUNDS} rounds (low-high), and to the relay's"
    );
    for (direction, flows) in
        [(Direction::Up, 1), (Direction::Up, 8), (Direction::Down, 1), (Direction::Down, 8)]
    {
        let what = format!("{flows} {}", if direction == Direction::Up { "up" } else { "down" });
        let rounds = rounds(&all, |between| {
            let to = (between.service, service.port).into();
            let bytes = || service.bulk(&site.client, to, direction, flows, TIME);
            between.cost(bytes) * 1e9
        });
        print(&what, &all, &rounds, "s/GB");
        goal(&format!("gateway, TCP {what} / a relay"), 1.5, &rounds, 0, 1);
        goal(&format!("gateway, TCP {what} / TAYGA"), 1.0 / 6.0, &rounds, 0, 2);
    }
    println!("UDP echo of 64 octets, CPU microseconds of the process for a request and its answer");
    let rounds = rounds(&all, |between| {
        let to = (between.service, service.port).into();
        between.cost(|| service.echoes(&site.client, to, TIME)) * 1e6
    });
    print("echo", &all, &rounds, "us");
    goal("gateway, UDP echo of 64 octets / TAYGA", 0.5, &rounds, 0, 2);
}

/// The service's other addresses, and the ways to them.
fn lay_out(field: &Field, site: &Site) {
    field.server.ip(&format!(
        "address add {BEHIND_RELAY}/128 dev lo nodad\n\
         address add 2001:db8:6::2/64 dev nat64-0 nodad\n\
         route add {}/128 via 2001:db8:6::1 src {BEHIND_RELAY}\n\
         route add {TAYGA_CLIENT} via 198.51.100.1 src {SERVICE}",
        site.address
    ));
    site.nat64.ip("address add 2001:db8:6::1/64 dev servers nodad");
}

fn gateway(site: &Site) -> Between {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nat64handoff"));
    command.args(["gateway", "--pool", &site.pool.to_string()]);
    Between::start(site, "gateway", SERVICE6, &mut command)
}

fn relay(site: &Site) -> Between {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["relay", "relay"]);
    let between = Between::start(site, "relay", BEHIND_RELAY, &mut command);
    has_device(site, "relay");
    // What comes out of the device goes on; what is to go through it goes in.
    for line in [
        "rule add iif relay lookup 64 priority 64",
        &format!("rule add iif clients to {BEHIND_RELAY} lookup 65 priority 65"),
        &format!("rule add iif servers to {} lookup 65 priority 65", site.address),
        &format!("route add {BEHIND_RELAY} via 2001:db8:6::2 dev servers table 64"),
        &format!("route add {} dev clients table 64", site.address),
        "route add default dev relay table 65",
    ] {
        let mut ip = Command::new("ip");
        ip.arg("-6").args(line.split(' '));
        assert!(site.nat64.inside(|| ip.status()).unwrap().success(), "ip -6 {line}");
    }
    between
}

fn tayga(field: &Field, site: &Site) -> Between {
    let config = field.path("tayga.conf");
    let lines = format!(
        "tun-device tayga\nipv4-addr 192.0.2.254\nipv6-addr 2001:db8:64::1\n\
         prefix {TAYGA_PREFIX}/96\nmap {TAYGA_CLIENT} {}\ndata-dir {}\n",
        site.address,
        field.folder().display()
    );
    fs::write(&config, lines).unwrap();
    let mut command = Command::new("tayga");
    command.args(["--nodetach", "--config"]).arg(&config);
    let between = Between::start(site, "tayga", TAYGA_SERVICE, &mut command);
    has_device(site, "tayga");
    site.nat64.ip(&format!(
        "link set tayga up\n\
         route add {TAYGA_CLIENT}/32 dev tayga\n\
         route add {TAYGA_PREFIX}/96 dev tayga"
    ));
    between
}

fn has_device(site: &Site, name: &str) {
    let there = || {
        let found = site
            .nat64
            .inside(|| Command::new("ip").args(["link", "show", "dev", name]).output().unwrap());
        found.status.success() && (name != "relay" || found.stdout.windows(3).any(|w| w == b",UP"))
    };
    until(&format!("device {name}"), there);
}

fn wait_for(site: &Site, between: &Between, service: &Service) {
    let to = (IpAddr::V6(between.service), service.port).into();
    until(between.name, || traffic::reaches(&site.client, to));
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "{what}: not there");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// One figure of each in each round, which begins with another one each time.
fn rounds(all: &[Between; 3], mut measure: impl FnMut(&Between) -> f64) -> Vec<[f64; 3]> {
    (0..ROUNDS)
        .map(|round| {
            let mut figures = [0.0; 3];
            for step in 0..all.len() {
                let which = (round + step) % all.len();
                figures[which] = measure(&all[which]);
            }
            figures
        })
        .collect()
}

fn print(what: &str, all: &[Between; 3], rounds: &[[f64; 3]], unit: &str) {
    for (which, between) in all.iter().enumerate() {
        let (low, median, high) = spread(rounds.iter().map(|round| round[which]).collect());
        let (_, ratio, _) = spread(rounds.iter().map(|round| round[which] / round[1]).collect());
        println!(
            "  {what:8} {:8} {median:7.3} ({low:.3}-{high:.3}) {unit:5} {ratio:6.2}",
            between.name
        );
    }
}

fn goal(what: &str, at_most: f64, rounds: &[[f64; 3]], ours: usize, theirs: usize) {
    let ratios = rounds.iter().map(|round| round[ours] / round[theirs]).collect();
    let (low, median, high) = spread(ratios);
    println!("goal | {what} | {at_most:.2} | {median:.2} ({low:.2}-{high:.2})");
}

fn spread(mut figures: Vec<f64>) -> (f64, f64, f64) {
    figures.sort_unstable_by(f64::total_cmp);
    (figures[0], figures[figures.len() / 2], figures[figures.len() - 1])
}
