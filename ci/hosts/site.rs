//! Networks with NAT64s, etcd, and hosts that have the same address of a service.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;

use tempfile::TempDir;

use crate::PATIENCE;
use crate::cluster::Cluster;
use crate::harness::process::{Process, print_if_failed};
use crate::harness::program::{SERVING, command};
use crate::harness::skip::cannot_run;
use crate::judge::eventlog::{Event, parse_all};
use crate::judge::nat64::Nat64;
use crate::namespace::Namespace;

pub const SERVICE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 5), 64064);
const ETCD: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 254);
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

    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("it runs")
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
    nat64s: u8,
}

impl Site {
    /// Does a test with the calling thread in the network of etcd and NAT64s.
    pub fn with(hosts: u8, test: impl FnOnce(&mut Self)) {
        // SAFETY: takes nothing and cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            cannot_run("network namespaces: run it as root");
        }
        let middle = Namespace::new();
        middle.ip(&format!("address add {ETCD}/32 dev lo"));
        let hosts = (0..hosts).map(|number| {
            let namespace = Namespace::new();
            let (near, far) = (Self::near(number), Self::far(number));
            middle.ip(&format!(
                "link add host{number} type veth peer name out netns {}\n\
                 address add {near}/30 dev host{number}\n\
                 link set host{number} up",
                namespace.path()
            ));
            namespace.ip(&format!(
                "address add {far}/30 dev out\n\
                 link set out up\n\
                 address add {}/32 dev lo\n\
                 route add default via {near}",
                SERVICE.ip()
            ));
            let directory = tempfile::tempdir().unwrap();
            Host { number, namespace, directory, process: None }
        });
        let hosts: Vec<_> = hosts.collect();
        middle.inside(|| {
            let mut site = Self { hosts, cluster: Cluster::start_at(ETCD), nat64s: 0 };
            (0..site.hosts.len()).for_each(|host| site.begin(host));
            (0..site.hosts.len()).for_each(|host| site.wait_until_ready(host));
            site.route(0);
            test(&mut site);
        });
    }

    fn near(host: u8) -> Ipv4Addr {
        Ipv4Addr::new(198, 51, 100, 4 * host + 1)
    }

    fn far(host: u8) -> Ipv4Addr {
        Ipv4Addr::new(198, 51, 100, 4 * host + 2)
    }

    /// Starts a host that does not run.
    pub fn begin(&mut self, host: usize) {
        let urls = self.cluster.urls().join(",");
        let host = &mut self.hosts[host];
        let mut command = command();
        command
            .args(["serve", "--listen", &SERVICE.to_string(), "--reactors", "2"])
            .arg("--state")
            .arg(host.directory.path().join("state"))
            .arg("--log")
            .arg(host.log_path())
            .args(["--fleet", &urls, "--fleet-cell", "site"])
            .args(["--fleet-host", &host.number.to_string()])
            .args(["--fleet-address", &format!("{}:64065", Self::far(host.number))]);
        host.process = Some(host.namespace.inside(|| Process::spawn(&mut command)));
    }

    pub fn wait_until_ready(&mut self, host: usize) {
        let process = self.hosts[host].process();
        for said in [SERVING, READ] {
            assert!(process.says(said, PATIENCE), "{said}: {}", process.said());
        }
    }

    /// From now on all requests reach this host.
    pub fn route(&self, host: usize) {
        let (far, service) = (Self::far(self.hosts[host].number), SERVICE.ip());
        let ip = std::process::Command::new("ip")
            .args(["route", "replace", &format!("{service}/32"), "via", &far.to_string()])
            .status();
        assert!(ip.unwrap().success());
    }

    /// A NAT64 that no host knows.
    pub fn nat64(&mut self) -> Nat64 {
        self.nat64s += 1;
        let address = Ipv4Addr::new(192, 0, 2, self.nat64s);
        let ip = std::process::Command::new("ip")
            .args(["address", "add", &format!("{address}/32"), "dev", "lo"])
            .status();
        assert!(ip.unwrap().success());
        Nat64::at(SERVICE, address)
    }
}
