//! Three nodes of etcd on loopback, with short timers.

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Stdio};

use nat64handoff::disk::fleet::etcd::{Etcd, EtcdAccess};
use tempfile::TempDir;

use crate::PATIENCE;
use crate::harness::process::{Process, print_if_failed, wait_until};
use crate::harness::skip::cannot_run;

const NODES: usize = 3;

pub struct Node {
    name: String,
    client: u16,
    peer: u16,
    process: Option<Process>,
}

pub struct Cluster {
    directory: TempDir,
    /// Where all of them are.
    address: Ipv4Addr,
    pub nodes: Vec<Node>,
    /// Whether its members have been together before.
    state: &'static str,
}

/// Ports that nobody has now, each once.
fn free_ports<const N: usize>(address: Ipv4Addr) -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind((address, 0)).unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

impl Cluster {
    pub fn start() -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST)
    }

    /// At an address of the calling thread's network.
    pub fn start_at(address: Ipv4Addr) -> Self {
        let version = Command::new("etcd").arg("--version").stdout(Stdio::null()).status();
        if version.is_err() {
            cannot_run("etcd and etcdctl: Debian's etcd-server and etcd-client");
        }
        let ports = free_ports::<{ 2 * NODES }>(address);
        let nodes = (0..NODES).map(|number| {
            let (client, peer) = (ports[2 * number], ports[2 * number + 1]);
            Node { name: format!("node{number}"), client, peer, process: None }
        });
        let (directory, nodes) = (tempfile::tempdir().unwrap(), nodes.collect());
        let mut cluster = Self { directory, address, nodes, state: "new" };
        (0..NODES).for_each(|node| cluster.begin(node));
        cluster.wait_for_leader();
        cluster.state = "existing";
        cluster
    }

    /// Starts a node that does not run.
    pub fn begin(&mut self, number: usize) {
        let address = self.address;
        let local = |port: u16| format!("http://{address}:{port}");
        let all = self.nodes.iter().map(|node| format!("{}={}", node.name, local(node.peer)));
        let all = all.collect::<Vec<_>>().join(",");
        let node = &mut self.nodes[number];
        let mut command = Command::new("etcd");
        command
            .args(["--name", &node.name, "--log-level", "error"])
            .arg("--data-dir")
            .arg(self.directory.path().join(&node.name))
            .args(["--listen-client-urls", &local(node.client)])
            .args(["--advertise-client-urls", &local(node.client)])
            .args(["--listen-peer-urls", &local(node.peer)])
            .args(["--initial-advertise-peer-urls", &local(node.peer)])
            .args(["--initial-cluster", &all, "--initial-cluster-state", self.state])
            .args(["--heartbeat-interval", "50", "--election-timeout", "500"]);
        node.process = Some(Process::spawn(&mut command));
    }

    /// What `--fleet` gets.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(|node| format!("http://{}:{}", self.address, node.client)).collect()
    }

    pub fn engine(&self, cell: &str) -> Etcd {
        let access = EtcdAccess { nodes: self.urls(), ..EtcdAccess::default() };
        Etcd::new(access, &cell.parse().unwrap())
    }

    /// What `etcdctl` says, if it succeeds.
    pub fn ask(&self, arguments: &[&str]) -> Option<String> {
        Self::ask_nodes(&self.urls().join(","), arguments)
    }

    fn ask_nodes(urls: &str, arguments: &[&str]) -> Option<String> {
        let asked = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", urls, "--command-timeout", "2s"])
            .args(arguments)
            .stderr(Stdio::null())
            .output()
            .unwrap();
        asked.status.success().then(|| String::from_utf8(asked.stdout).unwrap())
    }

    /// The number of the node that leads. Those that do not run are not asked.
    pub fn leader(&self) -> Option<usize> {
        self.nodes.iter().position(|node| {
            let status = || {
                let url = format!("http://{}:{}", self.address, node.client);
                Self::ask_nodes(&url, &["endpoint", "status"])
            };
            // ENDPOINT, ID, VERSION, DB SIZE, IS LEADER, ...
            let leads = |said: String| said.split(", ").nth(4) == Some("true");
            node.process.is_some() && status().is_some_and(leads)
        })
    }

    pub fn wait_for_leader(&self) -> usize {
        let mut leader = None;
        wait_until(PATIENCE, || {
            leader = self.leader();
            leader.is_some() && self.ask(&["put", "ready", "yes"]).is_some()
        });
        leader.expect("a leader")
    }

    pub fn kill(&mut self, number: usize) {
        let mut process = self.nodes[number].process.take().expect("it runs");
        process.signal(libc::SIGKILL);
        process.wait(PATIENCE).expect("it ends");
    }

    pub fn signal(&self, number: usize, signal: i32) {
        self.nodes[number].process.as_ref().expect("it runs").signal(signal);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &self.nodes {
            if let Some(process) = &node.process {
                print_if_failed(&node.name, &process.said());
            }
        }
    }
}
