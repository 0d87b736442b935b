//! Hosts that announce the address of the service to a router by BGP, as README says it: the router
//! leads to another host before one is silent.

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::PATIENCE;
use crate::harness::process::{Process, print_if_failed, wait_until};
use crate::harness::skip::cannot_run;
use crate::judge::client::Client;
use crate::judge::nat64::Nat64;
use crate::served::{Told, ask_until_answered};
use crate::site::{Host, SERVICE, Site};

const README: &str = include_str!("../../README.md");
/// Where a router is in README.
const NEIGHBOUR: &str = "198.51.100.254";
/// How long a host that stops goes on, by the option that all have.
const WITHDRAW: Duration = Duration::from_secs(2);
/// What operators have already.
const ALWAYS: &str = "log stderr all;\nprotocol device {}\n";

/// What stands in README in the fence of this kind that begins with that.
fn readme(kind: &str, begins: &str) -> &'static str {
    let fence = format!("```{kind}\n{begins}");
    let at = README.find(&fence).unwrap_or_else(|| panic!("README has no {fence}"));
    let text = &README[at + kind.len() + 4..];
    &text[..text.find("```").unwrap()]
}

/// The router, and what runs beside each host.
struct Routing {
    hosts: Vec<Ipv4Addr>,
    router: Process,
    beside: Vec<Process>,
    _directory: TempDir,
}

impl Drop for Routing {
    fn drop(&mut self) {
        print_if_failed("the router", &self.router.said());
        for beside in &self.beside {
            print_if_failed("beside a host", &beside.said());
        }
    }
}

fn bird(configuration: &Path, socket: &Path) -> Command {
    let mut command = Command::new("bird");
    command.arg("-f").arg("-c").arg(configuration).arg("-s").arg(socket);
    command
}

impl Routing {
    /// The first host is preferred, as long as it is announced.
    fn begin(site: &Site) -> Self {
        let version = Command::new("bird").arg("--version").stderr(Stdio::null()).status();
        if version.is_err() {
            cannot_run("bird: Debian's bird2");
        }
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let mut router = format!("router id {NEIGHBOUR};\n{ALWAYS}");
        router += "protocol kernel { ipv4 { import none; export all; }; }\n";
        let mut beside = Vec::new();
        for (number, host) in site.hosts.iter().enumerate() {
            let (near, far, preference) = (host.near(), host.address(), 200 - number);
            writeln!(
                router,
                "protocol bgp {{ local {near} as 64512; neighbor {far} as 64513; connect delay time 1;\n\
                 ipv4 {{ import all; export none; preference {preference}; }}; }}"
            )
            .unwrap();
            let announces = readme("conf", "protocol static service");
            let announces = announces.replace(NEIGHBOUR, &near.to_string());
            let text = format!("router id {far};\n{ALWAYS}{announces}");
            let configuration = file(&format!("host{number}.conf"), &text);
            // As on a host of its own, with all that runs there.
            let script = format!(
                "mount -t tmpfs tmpfs /run && mkdir /run/bird /run/nat64handoff && \
                 mount --bind {} /run/nat64handoff && bird -c {} || exit 1\n{}",
                host.state().display(),
                configuration.display(),
                readme("sh", "while sleep"),
            );
            let mut command = Command::new("unshare");
            command.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", &script]);
            beside.push(host.starts(&mut command));
        }
        let configuration = file("router.conf", &router);
        let mut command = bird(&configuration, &directory.path().join("router.ctl"));
        let router = Process::spawn(&mut command);
        let hosts = site.hosts.iter().map(Host::address).collect();
        Self { hosts, router, beside, _directory: directory }
    }

    /// The host that requests of this NAT64 reach, if there is one.
    fn leads_to(&self, nat64: Ipv4Addr) -> Option<usize> {
        let (to, from) = (SERVICE.ip().to_string(), nat64.to_string());
        let ip = Command::new("ip").args(["route", "get", &to, "from", &from]).output().unwrap();
        let said = String::from_utf8_lossy(&ip.stdout).into_owned();
        let via = said.split_once(" via ")?.1.split_whitespace().next()?;
        self.hosts.iter().position(|host| host.to_string() == via)
    }
}

/// Asks all the time until that is so: each request is asked once.
fn asks_until(nat64: &Nat64, told: &Told, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        told.check(nat64);
        assert!(begin.elapsed() < PATIENCE, "it is not so");
    }
    told.check(nat64);
}

fn has_the_table(host: &Host) -> bool {
    host.asks("/metrics").1.contains("nat64handoff_fleet_tables 1\n")
}

#[test]
fn the_route_of_a_host_goes_before_it_is_silent() {
    Site::with_options(2, &["--fleet-withdraw", "2s"], |site| {
        let nat64 = site.nat64();
        let from = nat64.address;
        site.route_no_more();
        let routing = Routing::begin(site);
        let leads_to = |host| routing.leads_to(from) == Some(host);
        assert!(wait_until(PATIENCE, || leads_to(0)), "no route to the first host");
        nat64.introduce();
        let mut told = Told::default();
        told.map(&nat64, 0..20);
        // It is drained, and is there until its route has gone, and after.
        let host = &site.hosts[0];
        std::thread::scope(|scope| {
            let drained = scope.spawn(|| host.runs(&["fleet", "drain"]));
            asks_until(&nat64, &told, || drained.is_finished());
            assert_eq!(drained.join().unwrap().0, 0);
        });
        asks_until(&nat64, &told, || leads_to(1));
        told.map(&nat64, 20..30);
        site.hosts[0].stop();
        told.check(&nat64);
        // It begins again, and gets the table, as all comes through it; then it is stopped.
        site.begin(0);
        site.wait_until_ready(0);
        asks_until(&nat64, &told, || leads_to(0));
        asks_until(&nat64, &told, || has_the_table(&site.hosts[0]));
        let host = &mut site.hosts[0];
        let begin = Instant::now();
        std::thread::scope(|scope| {
            let stopped = scope.spawn(|| {
                host.stop();
                routing.leads_to(from)
            });
            let mut gone = None;
            asks_until(&nat64, &told, || {
                gone = gone.or_else(|| leads_to(1).then(|| begin.elapsed()));
                stopped.is_finished()
            });
            let at_its_end = stopped.join().unwrap();
            println!(
                "host stopped: its route has gone after {gone:?}, and it after {:?}",
                begin.elapsed()
            );
            assert_eq!(at_its_end, Some(1), "the host has ended, and its route is there");
            // So long as another way to look at it may take.
            assert!(begin.elapsed() >= WITHDRAW, "it goes on for as long as it was told to");
        });
        told.map(&nat64, 30..40);
        // Without etcd it is not ready either: its route goes, and the other takes its tables.
        site.begin(0);
        site.wait_until_ready(0);
        asks_until(&nat64, &told, || leads_to(0) && has_the_table(&site.hosts[0]));
        let address = site.hosts[0].address();
        let nodes = site.cluster.nodes.iter().map(|node| (address, node.address));
        let begin = Instant::now();
        site.cut(&nodes.collect::<Vec<_>>());
        assert!(wait_until(PATIENCE, || leads_to(1)), "its route is there");
        println!("host cut off from etcd: its route has gone after {:?}", begin.elapsed());
        assert_eq!(site.hosts[0].asks("/readyz").0, 503);
        // The host that is cut off may answer for known clients until then.
        assert!(wait_until(PATIENCE, || {
            ask_until_answered(&nat64, Client::nth(7));
            has_the_table(&site.hosts[1])
        }));
        told.map(&nat64, 40..50);
        site.cut(&[]);
        asks_until(&nat64, &told, || leads_to(0));
    });
}
