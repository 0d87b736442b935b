//! What a NAT64 costs: ours, a relay that does nothing, and TAYGA (Debian's package), between two
//! namespaces: `cargo bench --bench gateway` (root); with `-- tcp`, `-- echo`, `-- tunnel` or
//! `-- geneve` that part alone.
//!
//! ```text
//!   client ──── NAT64 ──── service
//! ```
//!
//! All stand in the same namespace, each with a TUN device of its own, and take turns. The
//! relay reads a packet from its device, super-packets among them, and writes it back as it is: it
//! is what anything costs that stands there. CPU is that of the process between, all its threads,
//! from /proc/PID/task/*/schedstat; what the kernel does for it in other names is in none of them.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

#[path = "../../ci/harness/delivering.rs"]
mod delivering;
#[path = "../../ci/e2e/field.rs"]
#[allow(dead_code, reason = "the end to end tests need more of it")]
mod field;
mod geneve;
#[allow(dead_code, reason = "what delivery costs needs more of it")]
mod measured;
#[path = "../../ci/e2e/namespace.rs"]
mod namespace;
mod relay;
#[path = "../../ci/harness/skip.rs"]
mod skip;
mod traffic;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::time::Duration;

use field::{Field, SERVICE, SERVICE6, Site};
use measured::{Process, goal, ip6, print, rounds, until};
use traffic::{FLOWS, Service, label};

/// How long one measurement sends.
const TIME: Duration = Duration::from_millis(700);
/// The service's address behind the relay, which translates nothing.
const BEHIND_RELAY: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x5, 0, 0, 0, 0, 5);
/// TAYGA translates no documentation addresses behind the well-known prefix.
const TAYGA_PREFIX: &str = "2001:db8:d246::";
const TAYGA_SERVICE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xd246, 0, 0, 0, 0xcb00, 0x7105);
/// The client is this to the service, through TAYGA.
const TAYGA_CLIENT: &str = "192.0.2.8";

/// A server that delivers what another gateway sends it, and what clients call it there.
const DELIVERING: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 6);
const DELIVERING6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x6464, 0, 0, 0, 0xcb00, 0x7106);
const TUNNEL_PREFIX: &str = "2001:db8:6464::/96";
const TUNNEL_POOL: &str = "192.0.2.9";

/// What stands between client and service.
struct Between {
    name: &'static str,
    /// The service, as the client calls it.
    service: Ipv6Addr,
    process: Process,
}

impl Between {
    fn start(site: &Site, name: &'static str, service: Ipv6Addr, command: &mut Command) -> Self {
        Self { name, service, process: Process::start(&site.nat64, name, command) }
    }
}

fn main() {
    if let [_, command, device, ..] = &*std::env::args().collect::<Vec<_>>()
        && command == "relay"
    {
        relay::run(device);
    }
    let wanted: Vec<_> = std::env::args().skip(1).filter(|part| !part.starts_with('-')).collect();
    let wants = |part: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == part);
    if wants("geneve") {
        geneve::measure();
    }
    if wanted.iter().all(|part| part == "geneve") && !wanted.is_empty() {
        return;
    }
    let field = Field::new();
    let site = &field.sites[0];
    lay_out(&field, site);
    let service = Service::start(&field.server);
    let all = [gateway(site), relay(site), tayga(&field, site)];
    for between in &all {
        wait_for(site, between, &service);
    }
    if wants("tcp") {
        measure_tcp(site, &service, &all);
    }
    if wants("echo") {
        measure_echo(site, &service, &all);
    }
    if wants("tunnel") {
        measure_tunnel(&field, site, &service, &all[1]);
    }
}

fn measure_tcp(site: &Site, service: &Service, all: &[Between; 3]) {
    let names = all.each_ref().map(|between| between.name);
    println!(
        "TCP, CPU seconds of the process for a GB, median of five rounds (low-high), and to the relay's"
    );
    for (direction, flows) in FLOWS {
        let what = label(direction, flows);
        let rounds = rounds(|which| {
            let to = (all[which].service, service.port).into();
            let bytes = || service.bulk(&site.client, to, direction, flows, TIME);
            all[which].process.cost(bytes) * 1e9
        });
        print(&what, names, &rounds, 1, "s/GB");
        goal(&format!("gateway, TCP {what} / a relay"), 1.5, &rounds, 0, 1);
        goal(&format!("gateway, TCP {what} / TAYGA"), 1.0 / 6.0, &rounds, 0, 2);
    }
}

fn measure_echo(site: &Site, service: &Service, all: &[Between; 3]) {
    let names = all.each_ref().map(|between| between.name);
    println!("UDP echo of 64 octets, CPU microseconds of the process for a request and its answer");
    let rounds = rounds(|which| {
        let to = (all[which].service, service.port).into();
        all[which].process.cost(|| service.echoes(&site.client, to, TIME)) * 1e6
    });
    print("echo", names, &rounds, 1, "us");
    goal("gateway, UDP echo of 64 octets / TAYGA", 0.5, &rounds, 0, 2);
}

/// Of a gateway whose server delivers, beside the relay. No figure is a goal of its own.
fn measure_tunnel(field: &Field, site: &Site, service: &Service, relay: &Between) {
    let tunnel = tunnel(field, site);
    // The first connection through it is by an entry.
    wait_for(site, &tunnel, service);
    wait_for(site, &tunnel, service);
    let both = [&tunnel, relay];
    println!("TCP through the tunnel to a server that delivers, likewise");
    for (direction, flows) in FLOWS {
        let what = label(direction, flows);
        let rounds = rounds(|which| {
            let to = (both[which].service, service.port).into();
            let bytes = || service.bulk(&site.client, to, direction, flows, TIME);
            both[which].process.cost(bytes) * 1e9
        });
        print(&what, both.map(|between| between.name), &rounds, 1, "s/GB");
    }
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
        ip6(&site.nat64, line);
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

/// The gateway once more, towards a server that delivers what it sends it.
fn tunnel(field: &Field, site: &Site) -> Between {
    field.server.ip(&format!(
        "address add {DELIVERING}/32 dev lo\n\
         route add {TUNNEL_POOL} via 198.51.100.1 src {DELIVERING}"
    ));
    site.nat64.ip(&format!("route add {DELIVERING} via 198.51.100.2"));
    field.server.inside(|| delivering::deliver(DELIVERING, DELIVERING6));
    let mut command = Command::new(env!("CARGO_BIN_EXE_nat64handoff"));
    command.args(["gateway", "--pool", TUNNEL_POOL, "--prefix", TUNNEL_PREFIX, "--tun", "tunnel"]);
    Between::start(site, "tunnel", DELIVERING6, &mut command)
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
