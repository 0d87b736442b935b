//! Networks with NAT64s, nodes of etcd, and hosts that have the same address of a service. All lead
//! to each other through the NAT64s' one.

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::PATIENCE;
use crate::cluster::{Cluster, NODES};
use crate::harness::process::{Process, print_if_failed, wait_until};
use crate::harness::program::{SERVING, command};
use crate::harness::skip::cannot_run;
use crate::http;
use crate::judge::eventlog::{Event, parse_all};
use crate::judge::nat64::Nat64;
use crate::namespace::Namespace;

pub const SERVICE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 5), 64064);
/// The port at which a host serves clients.
pub const SERVED: u16 = 8080;
/// The cell that hosts belong to, unless a test wants another.
const CELL: &str = "site";
/// The number of the first node of etcd among the networks.
const FIRST_NODE: u8 = 40;
/// What a host says when it has read all that there is.
const READ: &str = "--fleet: read";

/// A host of the service.
pub struct Host {
    number: u8,
    namespace: Namespace,
    directory: TempDir,
    process: Option<Process>,
}

impl Host {
    pub fn log_path(&self) -> PathBuf {
        self.directory.path().join("events.log")
    }

    pub fn events(&self) -> Vec<Event> {
        parse_all(&std::fs::read_to_string(self.log_path()).unwrap_or_default())
    }

    /// Where it tells what it has.
    pub fn admin_path(&self) -> PathBuf {
        self.state().join("admin.sock")
    }

    /// Its address among hosts and nodes.
    pub fn address(&self) -> Ipv4Addr {
        far(self.number)
    }

    /// Where its state and its admin socket are.
    pub fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// What leads to it.
    pub fn near(&self) -> Ipv4Addr {
        near(self.number)
    }

    /// Starts something else in its network.
    pub fn starts(&self, command: &mut Command) -> Process {
        self.namespace.inside(|| Process::spawn(command))
    }

    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("it runs")
    }

    /// A service of this host, at the service's address.
    pub fn listener(&self) -> TcpListener {
        self.namespace.inside(|| TcpListener::bind((*SERVICE.ip(), SERVED)).unwrap())
    }

    /// What the admin socket answers.
    pub fn asks(&self, what: &str) -> (u16, String) {
        let answer = http::get(&self.admin_path(), what);
        (answer.code, answer.body)
    }

    /// The exit code of a command that asks this host, and what it says.
    pub fn runs(&self, arguments: &[&str]) -> (i32, String) {
        let ran = command().args(arguments).arg("--admin").arg(self.admin_path()).output().unwrap();
        let said = [ran.stdout, ran.stderr].concat();
        (ran.status.code().unwrap_or(-1), String::from_utf8(said).unwrap())
    }

    /// SIGKILL. It is gone when this returns.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.signal(libc::SIGKILL);
        process.wait(PATIENCE).expect("it ends");
    }

    /// SIGTERM: it ends as it should.
    pub fn stop(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.signal(libc::SIGTERM);
        let status = process.wait(PATIENCE).expect("it ends");
        assert!(status.success(), "{}", process.said());
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(process) = &self.process {
            print_if_failed(&format!("host {}", self.number), &process.said());
        }
    }
}

pub struct Site {
    pub hosts: Vec<Host>,
    pub cluster: Cluster,
    options: &'static [&'static str],
    nat64s: u8,
}

impl Site {
    /// Does a test with the calling thread in the network of etcd and NAT64s.
    pub fn with(hosts: u8, test: impl FnOnce(&mut Self)) {
        Self::with_options(hosts, &[], test);
    }

    /// As [`Site::with`]: all hosts have these options.
    pub fn with_options(hosts: u8, options: &'static [&'static str], test: impl FnOnce(&mut Self)) {
        // SAFETY: takes nothing and cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            cannot_run("network namespaces: run it as root");
        }
        let middle = Namespace::new();
        let hosts = (0..hosts).map(|number| {
            let namespace = network(&middle, number);
            namespace.ip(&format!("address add {}/32 dev lo", SERVICE.ip()));
            let directory = tempfile::tempdir().unwrap();
            Host { number, namespace, directory, process: None }
        });
        let hosts: Vec<_> = hosts.collect();
        middle.inside(|| {
            let nodes: [_; NODES] = std::array::from_fn(|node| FIRST_NODE + node as u8);
            let nodes = nodes.map(|number| (far(number), network(&middle, number)));
            let mut site = Self { hosts, cluster: Cluster::start_in(nodes), options, nat64s: 0 };
            (0..site.hosts.len()).for_each(|host| site.begin(host));
            (0..site.hosts.len()).for_each(|host| site.wait_until_ready(host));
            site.wait_until_all_hear();
            site.route(0);
            test(&mut site);
        });
    }

    /// Starts a host that does not run.
    pub fn begin(&mut self, host: usize) {
        self.begin_in(host, CELL);
    }

    /// As a host of this cell.
    pub fn begin_in(&mut self, host: usize, cell: &str) {
        let urls = self.cluster.urls().join(",");
        let host = &mut self.hosts[host];
        let mut command = command();
        command
            .args(["serve", "--listen", &SERVICE.to_string(), "--reactors", "2"])
            .arg("--state")
            .arg(host.state())
            .arg("--log")
            .arg(host.log_path())
            .args(["--fleet", &urls, "--fleet-cell", cell])
            .args(["--fleet-host", &host.number.to_string()])
            .args(["--fleet-address", &format!("{}:64065", host.address())]);
        // Routes of most tests are there as long as they are wanted.
        if !self.options.contains(&"--fleet-withdraw") {
            command.args(["--fleet-withdraw", "0s"]);
        }
        command.args(self.options);
        host.process = Some(host.namespace.inside(|| Process::spawn(&mut command)));
    }

    pub fn wait_until_ready(&mut self, host: usize) {
        let process = self.hosts[host].process();
        for said in [SERVING, READ] {
            assert!(process.says(said, PATIENCE), "{said}: {}", process.said());
        }
        let is_ready = || self.hosts[host].asks("/readyz").0 == 200;
        assert!(wait_until(PATIENCE, is_ready), "host {host} is not ready");
    }

    fn wait_until_all_hear(&self) {
        let hears = |host: &Host| host.asks("/status").1.contains("\"hears_others\":true");
        let all_hear = || self.hosts.len() < 2 || self.hosts.iter().all(hears);
        assert!(wait_until(PATIENCE, all_hear), "hosts do not hear each other");
    }

    /// From now on all requests reach this host.
    pub fn route(&self, host: usize) {
        self.route_among(&[host]);
    }

    /// From now on another program keeps the route to the service.
    pub fn route_no_more(&self) {
        let service = format!("{}/32", SERVICE.ip());
        assert!(Command::new("ip").args(["route", "del", &service]).status().unwrap().success());
    }

    /// From now on each NAT64's requests reach one of these hosts, whichever the addresses lead to.
    pub fn route_among(&self, hosts: &[usize]) {
        let mut words = vec!["route".to_owned(), "replace".into(), format!("{}/32", SERVICE.ip())];
        for &host in hosts {
            words.extend(["nexthop".into(), "via".into(), self.hosts[host].address().to_string()]);
        }
        assert!(Command::new("ip").args(words).status().unwrap().success());
    }

    /// From now on nothing passes between any of these pairs of addresses, and all else does.
    pub fn cut(&self, pairs: &[(Ipv4Addr, Ipv4Addr)]) {
        let mut rules = "table ip cut\ndelete table ip cut\n".to_owned();
        rules += "table ip cut { chain forward { type filter hook forward priority 0;\n";
        for (one, other) in pairs {
            for (from, to) in [(one, other), (other, one)] {
                writeln!(rules, "ip saddr {from} ip daddr {to} drop").unwrap();
            }
        }
        rules += "}\n}\n";
        let nft = Command::new("nft").arg(rules).status();
        assert!(nft.unwrap_or_else(|_| cannot_run("nft: Debian's nftables")).success());
    }

    /// A NAT64 that no host knows.
    pub fn nat64(&mut self) -> Nat64 {
        self.nat64s += 1;
        let address = Ipv4Addr::new(192, 0, 2, self.nat64s);
        let ip = Command::new("ip")
            .args(["address", "add", &format!("{address}/32"), "dev", "lo"])
            .status();
        assert!(ip.unwrap().success());
        Nat64::at(SERVICE, address)
    }
}

/// A new network behind `middle`, with this number, in which there is one address.
fn network(middle: &Namespace, number: u8) -> Namespace {
    let namespace = Namespace::new();
    let near = near(number);
    middle.ip(&format!(
        "link add net{number} type veth peer name out netns {}\n\
         address add {near}/30 dev net{number}\n\
         link set net{number} up",
        namespace.path()
    ));
    namespace.ip(&format!(
        "address add {}/30 dev out\n\
         link set out up\n\
         route add default via {near}",
        far(number)
    ));
    namespace
}

/// The address in the network with this number.
fn far(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 51, 100, 4 * number + 2)
}

/// What leads to it.
fn near(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 51, 100, 4 * number + 1)
}
