//! `--peer-names`: an unchanged program that listens at `[::]` sees who the client of a NAT64 is.
//! In a control group of the test's own.

use crate::admin::asked;
use crate::harness::process::{Process, wait_until};
use crate::harness::program::{LOCAL, command, free_port};
use crate::harness::skip::cannot_run;
use crate::http::get;
use crate::judge::PATIENCE;
use crate::judge::client::Client;
use crate::judge::nat64::Nat64;
use crate::peers::Place;
use crate::run::run;
use crate::server::{Server, fresh_directory};
use std::collections::HashSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Prints the peer of each connection: as accept has it, and as getpeername has it later.
const SERVICE: &str = "
import socket, sys
listener = socket.create_server(('::', int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
print('listening', flush=True)
while True:
    connection, peer = listener.accept()
    connection.recv(1)
    print('peer', *peer[:2], *connection.getpeername()[:2], flush=True)
    connection.close()
";

impl Place {
    pub fn attach(&self, names_max: &str) -> (i32, String) {
        let arguments = self.attaching();
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let (code, stdout, stderr) = run(&[&arguments[..], &["--names-max", names_max]].concat());
        (code, stdout + &stderr)
    }

    /// A service in the group that prints its peers.
    pub fn service(&self) -> Service {
        self.program(SERVICE)
    }

    /// A program of Python in the group, which is given a port to listen at.
    pub fn program(&self, text: &str) -> Service {
        let port = free_port();
        let script = self.path("service.py");
        fs::write(&script, text).unwrap();
        let line = self.within(&format!("python3 {} {port}", script.display()));
        let mut process = Process::spawn(Command::new("sh").args(["-c", &line]));
        assert!(process.says("listening", PATIENCE), "{}", process.said());
        Service { process, port, seen: 0 }
    }
}

pub struct Service {
    process: Process,
    pub port: u16,
    seen: usize,
}

impl Service {
    /// Who a connection from this address and port is, for the service.
    pub fn sees(&mut self, from: SocketAddrV4) -> (String, u16) {
        self.sees_at(from, LOCAL)
    }

    fn sees_at(&mut self, from: SocketAddrV4, at: Ipv4Addr) -> (String, u16) {
        let connection = connect(from, SocketAddrV4::new(at, self.port));
        assert_eq!(connection.peer_addr().unwrap().port(), self.port);
        self.greeted(&connection)
    }

    /// Whether a connection from there is this client for the service. On a busy machine the server
    /// may not have said for seconds that it is there: then, for a while, there are no names.
    pub fn names(&mut self, from: SocketAddrV4, client: Client) {
        self.names_at(from, LOCAL, client);
    }

    /// The same at another address of the service.
    pub fn names_at(&mut self, from: SocketAddrV4, at: Ipv4Addr, client: Client) {
        let is_named = wait_until(PATIENCE, || {
            let seen = self.sees_at(from, at);
            let named = (client.address.to_string(), client.port);
            assert!(seen == named || seen == (from.ip().to_string(), from.port()), "{seen:?}");
            seen == named
        });
        assert!(is_named, "{from} is {client:?}");
    }

    /// Who a connection that is open is, for the service.
    pub fn greeted(&mut self, connection: &TcpStream) -> (String, u16) {
        let [accepted, now] = self.told(connection);
        assert_eq!(accepted, now, "accept and getpeername");
        now
    }

    /// Who it was when it was accepted, and who it is now.
    pub fn told(&mut self, mut connection: &TcpStream) -> [(String, u16); 2] {
        std::io::Write::write_all(&mut connection, b"x").unwrap();
        let mut lines = Vec::new();
        let seen = self.seen;
        let is_told = wait_until(PATIENCE, || {
            let said = self.process.stdout.get();
            lines =
                said.lines().filter(|line| line.starts_with("peer ")).map(str::to_owned).collect();
            lines.len() > seen
        });
        assert!(is_told, "{}", self.process.said());
        self.seen = lines.len();
        let words: Vec<_> = lines[seen].split(' ').collect();
        [1, 3].map(|at| {
            let address = words[at].trim_start_matches("::ffff:").to_owned();
            (address, words[at + 1].parse().unwrap())
        })
    }
}

/// From this address and port, also when they were just used.
pub fn connect(from: SocketAddrV4, to: SocketAddrV4) -> TcpStream {
    use rustix::io::Errno;
    use rustix::net::sockopt::{
        Timeout, set_socket_linger, set_socket_reuseaddr, set_socket_timeout,
    };
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
    // Not for programs that other tests start meanwhile.
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
    set_socket_reuseaddr(&socket, true).unwrap();
    // Whoever closes it first, nothing of it is left here.
    set_socket_linger(&socket, Some(Duration::ZERO)).unwrap();
    set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE)).unwrap();
    bind(&socket, &SocketAddr::from(from)).unwrap();
    // A process that another test starts has the one before, for a moment.
    let mut done = Ok(());
    wait_until(PATIENCE, || {
        done = connect(&socket, &SocketAddr::from(to));
        done != Err(Errno::ADDRNOTAVAIL)
    });
    done.unwrap();
    socket.into()
}

pub fn start(place: &Place, extra: &[&str]) -> Server {
    let maps = place.maps();
    let own = ["--peer-names", "ipv6", "--peer-maps", &maps];
    Server::start_single(&[&own, extra].concat())
}

/// Killed, and started again with the same state, after `meanwhile`.
pub fn killed_and_restarted(place: &Place, server: Server, meanwhile: impl FnOnce()) -> Server {
    let maps = place.maps();
    let arguments = ["--reactors", "1", "--peer-names", "ipv6", "--peer-maps", &maps];
    again(server, &arguments, |_| meanwhile())
}

/// Killed, and started again with the same state and these options, after `meanwhile`.
pub fn again(mut server: Server, options: &[&str], meanwhile: impl FnOnce(&Path)) -> Server {
    server.process.signal(libc::SIGKILL);
    server.wait_exit(PATIENCE);
    meanwhile(server.directory.path());
    let (port, listen) = (server.port, server.listen.clone());
    let directory = std::mem::replace(&mut server.directory, fresh_directory());
    drop(server);
    Server::launch(command(), directory, port, listen, options)
}

/// A client has its name from when it is announced until its entry is gone, over kills; nobody else
/// has one.
#[test]
fn peers_are_named_as_long_as_there_are_entries() {
    let place = Place::make().unwrap_or_else(|missing| cannot_run(&missing));
    let (code, said) = place.attach("1000");
    assert_eq!(code, 0, "{said}");
    let mut service = place.service();
    let server = start(&place, &["--max-entries", "40"]);
    let nat64 = Nat64::known(&server);
    let at = |port| SocketAddrV4::new(nat64.address, port);
    let named = |client: Client| (client.address.to_string(), client.port);
    let clients: Vec<_> = (0..40).map(Client::nth).collect();
    let ports: Vec<_> = clients.iter().map(|client| nat64.map(*client)).collect();
    service.names(at(ports[3]), clients[3]);
    let other = (1024..).find(|port| !ports.contains(port)).unwrap();
    assert_eq!(service.sees(at(other)), (nat64.address.to_string(), other), "nobody's port");
    // The least recently used one goes, and the newcomer gets its port.
    let newcomer = Client::nth(100);
    assert_eq!(nat64.map(newcomer), ports[0]);
    service.names(at(ports[0]), newcomer);

    let server = killed_and_restarted(&place, server, || {
        let seen = service.sees(at(ports[5]));
        let is_true = seen == (nat64.address.to_string(), ports[5]);
        assert!(is_true || seen == named(clients[5]), "while there is no server: {seen:?}");
    });
    service.names(at(ports[0]), newcomer);
    let late = Client::nth(101);
    let its = nat64.map(late);
    service.names(at(its), late);

    let address = nat64.address.to_string();
    let held = connect(at(ports[5]), SocketAddrV4::new(LOCAL, service.port));
    let dropped = asked(&server, &["drop-table", &address, "--yes"]);
    assert_eq!(dropped.0, 0, "{dropped:?}");
    // The connection is its own still, whose name does not change.
    let seen = service.greeted(&held);
    let had_none = seen == (address.clone(), ports[5]);
    assert!(seen == named(clients[5]) || had_none, "since before its entry went: {seen:?}");
    drop(held);
    assert_eq!(service.sees(at(ports[6])), (address.clone(), ports[6]), "its entry is gone");

    let again = nat64.rebooted();
    again.introduce();
    let its = again.map(clients[8]);
    service.names(SocketAddrV4::new(again.address, its), clients[8]);
    let (code, said, _) = run(&["peer-names", "detach", "--maps", &place.maps()]);
    assert!(code == 0 && said.starts_with("detached"), "{said}");
    let true_peer = (again.address.to_string(), its);
    assert_eq!(service.sees(SocketAddrV4::new(again.address, its)), true_peer, "detached");
}

/// A full map leaves clients without names, and says how many; none is wrong.
#[test]
fn peers_without_room_are_what_they_are() {
    let place = Place::make().unwrap_or_else(|missing| cannot_run(&missing));
    assert_eq!(place.attach("10").0, 0);
    let mut service = place.service();
    let server = start(&place, &[]);
    let nat64 = Nat64::known(&server);
    let clients: Vec<_> = (0..15).map(Client::nth).collect();
    let ports: Vec<_> = clients.iter().map(|client| nat64.map(*client)).collect();
    let mut named = HashSet::new();
    // On a busy machine there may be no names for a while.
    let all = wait_until(PATIENCE, || {
        for (client, port) in clients.iter().zip(&ports) {
            let seen = service.sees(SocketAddrV4::new(nat64.address, *port));
            if seen == (client.address.to_string(), client.port) {
                named.insert(*port);
            } else {
                assert_eq!(seen, (nat64.address.to_string(), *port), "the name of nobody else");
            }
        }
        named.len() >= 10
    });
    assert!(all && named.len() == 10, "{named:?}");
    let metrics = get(&server.admin(), "/metrics").body;
    assert!(metrics.contains("nat64handoff_unnamed_total 5\n"), "{metrics}");
    let (code, said, _) = run(&["peer-names", "status", "--maps", &place.maps()]);
    assert!(code == 0 && said.starts_with("10 of at most 10 names; the server is there"), "{said}");
}

/// What is missing is said, with what to do.
#[test]
fn peer_names_say_what_is_missing() {
    let (code, _, said) = run(&["peer-names", "attach", "--maps", "/nowhere/maps", "--user", "0"]);
    assert!(code == 1 && said.contains("mount -t bpf bpf"), "{said}");
    let (code, _, said) = run(&["peer-names", "attach", "--cgroup", "/tmp", "--user", "0"]);
    assert!(code == 1 && said.contains("/tmp is no control group v2"), "{said}");
    let (code, _, said) = run(&["peer-names", "attach", "--user", "nobody-of-that-name"]);
    assert!(code == 1 && said.contains("--user"), "{said}");
    let (code, _, said) = run(&["peer-names", "status", "--maps", "/nowhere/maps"]);
    assert!(code == 1 && said.contains("peer-names attach"), "{said}");
    // A server that has no maps serves all the same.
    let server = Server::start(&["--peer-names", "ipv6", "--peer-maps", "/nowhere"]);
    Nat64::known(&server).map(Client::nth(1));
    let said = server.stderr();
    assert!(said.contains("no peer has a name") && said.contains("peer-names attach"), "{said}");
}
