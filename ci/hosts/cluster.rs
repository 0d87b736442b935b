//! Three nodes of etcd with short timers: on loopback, or each in a network of its own.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};

use nat64handoff::disk::fleet::etcd::{Etcd, EtcdAccess};
use tempfile::TempDir;
use tokio::runtime::Builder;
use tokio::time::timeout;

use crate::PATIENCE;
use crate::harness::process::{Process, print_if_failed, wait_until};
use crate::harness::skip::cannot_run;
use crate::namespace::Namespace;

pub const NODES: usize = 3;

pub struct Node {
    name: String,
    pub address: Ipv4Addr,
    client: u16,
    peer: u16,
    /// Of what clients say to it.
    scheme: &'static str,
    /// Where it runs, if that is not where the test is.
    namespace: Option<Namespace>,
    process: Option<Process>,
}

impl Node {
    fn at(number: usize, address: Ipv4Addr, ports: [u16; 2], network: Option<Namespace>) -> Self {
        let [client, peer] = ports;
        let name = format!("node{number}");
        let (scheme, namespace) = ("http", network);
        Self { name, address, client, peer, scheme, namespace, process: None }
    }

    /// Where it answers clients.
    fn url(&self) -> String {
        format!("{}://{}:{}", self.scheme, self.address, self.client)
    }

    /// Where it answers other nodes.
    fn peer_url(&self) -> String {
        format!("http://{}:{}", self.address, self.peer)
    }

    pub fn runs(&self) -> bool {
        self.process.is_some()
    }
}

pub struct Cluster {
    directory: TempDir,
    pub nodes: Vec<Node>,
    /// Whether its members have been together before.
    state: &'static str,
    /// Further options of each node, and of etcdctl.
    options: Vec<String>,
    ctl: Vec<String>,
}

/// Ports that nobody has now, each once.
fn free_ports<const N: usize>(address: Ipv4Addr) -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind((address, 0)).unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// Does a test of the engine, which ends in time.
pub fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { timeout(3 * PATIENCE, test).await.expect("it ends") })
}

impl Cluster {
    pub fn start() -> Self {
        Self::start_with(Self::local("http"), |_| Default::default())
    }

    /// Clients speak to it over TLS, with further options of each node and of etcdctl, which may
    /// name files in the folder.
    pub fn start_secured(options: impl FnOnce(&Path) -> (Vec<String>, Vec<String>)) -> Self {
        Self::start_with(Self::local("https"), options)
    }

    fn local(scheme: &'static str) -> Vec<Node> {
        let local = Ipv4Addr::LOCALHOST;
        let ports = free_ports::<{ 2 * NODES }>(local);
        let node = |number| {
            let its = [ports[2 * number], ports[2 * number + 1]];
            Node { scheme, ..Node::at(number, local, its, None) }
        };
        (0..NODES).map(node).collect()
    }

    /// Each node in a network of its own, with this address.
    pub fn start_in(networks: [(Ipv4Addr, Namespace); NODES]) -> Self {
        let nodes = networks.into_iter().enumerate();
        let nodes = nodes.map(|(number, (address, network))| {
            Node::at(number, address, [2379, 2380], Some(network))
        });
        Self::start_with(nodes.collect(), |_| Default::default())
    }

    fn start_with(
        nodes: Vec<Node>,
        options: impl FnOnce(&Path) -> (Vec<String>, Vec<String>),
    ) -> Self {
        let version = Command::new("etcd").arg("--version").stdout(Stdio::null()).status();
        if version.is_err() {
            cannot_run("etcd and etcdctl: Debian's etcd-server and etcd-client");
        }
        let directory = tempfile::tempdir().unwrap();
        let (options, ctl) = options(directory.path());
        let mut cluster = Self { directory, nodes, state: "new", options, ctl };
        (0..NODES).for_each(|node| cluster.begin(node));
        cluster.wait_for_leader();
        cluster.state = "existing";
        cluster
    }

    /// Starts a node that does not run.
    pub fn begin(&mut self, number: usize) {
        let all = self.nodes.iter().map(|node| format!("{}={}", node.name, node.peer_url()));
        let all = all.collect::<Vec<_>>().join(",");
        let node = &mut self.nodes[number];
        let mut command = Command::new("etcd");
        command
            .args(["--name", &node.name, "--log-level", "error"])
            .arg("--data-dir")
            .arg(self.directory.path().join(&node.name))
            .args(["--listen-client-urls", &node.url(), "--advertise-client-urls", &node.url()])
            .args(["--listen-peer-urls", &node.peer_url()])
            .args(["--initial-advertise-peer-urls", &node.peer_url()])
            .args(["--initial-cluster", &all, "--initial-cluster-state", self.state])
            .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
            .args(&self.options);
        node.process = Some(match &node.namespace {
            None => Process::spawn(&mut command),
            Some(network) => network.inside(|| Process::spawn(&mut command)),
        });
    }

    /// For files. It is gone with the value.
    pub fn folder(&self) -> &Path {
        self.directory.path()
    }

    /// What `--fleet` gets.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Node::url).collect()
    }

    pub fn engine(&self, cell: &str) -> Etcd {
        let access = EtcdAccess { nodes: self.urls(), ..EtcdAccess::default() };
        Etcd::new(access, &cell.parse().unwrap())
    }

    /// What `etcdctl` says, if it succeeds.
    pub fn ask(&self, arguments: &[&str]) -> Option<String> {
        self.ask_nodes(&self.urls().join(","), arguments)
    }

    fn ask_nodes(&self, urls: &str, arguments: &[&str]) -> Option<String> {
        let asked = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", urls, "--command-timeout", "2s"])
            .args(&self.ctl)
            .args(arguments)
            .stderr(Stdio::null())
            .output()
            .unwrap();
        asked.status.success().then(|| String::from_utf8(asked.stdout).unwrap())
    }

    /// The number of the node that leads, of those that run.
    pub fn leader(&self) -> Option<usize> {
        self.leader_among(&[true; NODES])
    }

    /// Of those that run, these are asked: what is stopped gives no answer.
    pub fn leader_among(&self, asked: &[bool]) -> Option<usize> {
        self.nodes.iter().zip(asked).position(|(node, asked)| {
            let status = || self.ask_nodes(&node.url(), &["endpoint", "status"]);
            // ENDPOINT, ID, VERSION, DB SIZE, IS LEADER, ...
            let leads = |said: String| said.split(", ").nth(4) == Some("true");
            *asked && node.runs() && status().is_some_and(leads)
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
