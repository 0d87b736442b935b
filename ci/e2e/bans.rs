//! Bans that bite: what the NAT64 has in its cache is kept out by `ban-set`, open connections are
//! ended, and the neighbour behind the same NAT64 notices nothing.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, TcpStream};

use crate::field::{Field, SERVICE6, Site};
use crate::judge::eventlog::Kind;
use crate::process::{PATIENCE, Process, run, wait_until};
use crate::programs::{Gateway, Nginx, Server};

const NAT64HANDOFF: &str = env!("CARGO_BIN_EXE_nat64handoff");
const SET: &str = "inet nat64handoff banned";

/// A server, its set, and an attacker and a neighbour behind one NAT64.
struct Bans {
    field: Field,
    server: Server,
    set: Process,
    _nginx: Nginx,
    gateway: Gateway,
    neighbour: Ipv6Addr,
}

impl Bans {
    fn start(options: &[&str]) -> Self {
        let field = Field::new();
        let neighbour = "2001:db8:0::18".parse().unwrap();
        field.client().ip(&format!("address add {neighbour}/64 dev out nodad"));
        let server = Server::start_with(&field, options);
        let nginx = Nginx::start(&field);
        let gateway = Gateway::start(&field.sites[0]);
        let set = keeps_out(&field);
        let mut bans = Self { field, server, set, _nginx: nginx, gateway, neighbour };
        // The first packets of a NAT64 that does not know the server yet go on without it.
        bans.get(bans.neighbour).unwrap();
        bans.gateway.wait_for("is known");
        bans
    }

    fn site(&self) -> &Site {
        &self.field.sites[0]
    }

    fn attacker(&self) -> Ipv6Addr {
        self.site().address
    }

    /// Downloads a file from one of the addresses of the client's host.
    fn get(&self, from: Ipv6Addr) -> Result<(), String> {
        let (from, url) = (from.to_string(), crate::programs::url("hello"));
        let words = ["-6", "-sS", "--fail", "--max-time", "20", "--interface", &from, &url];
        let output = run(&self.site().client, "curl", &words);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        output.status.success().then_some(()).ok_or(said)
    }

    /// An open connection, that was served once.
    fn connect(&self, from: Ipv6Addr) -> TcpStream {
        let connection = self.site().client.inside(|| {
            let to = SocketAddr::from(SocketAddrV6::new(SERVICE6, 80, 0, 0));
            bound(from, to)
        });
        assert!(is_served(&connection), "{from}");
        connection
    }

    /// Asks the server, and returns what it says.
    fn asks(&self, words: &[&str]) -> String {
        let admin = self.field.path("state/admin.sock");
        let words = [words, &["--admin", admin.to_str().unwrap()]].concat();
        let output = run(&self.field.server, NAT64HANDOFF, &words);
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{words:?}: {said}");
        said
    }

    /// The elements of the set: ports of the NAT64.
    fn elements(&self) -> Vec<u16> {
        let words = [&["-j", "list", "set"][..], &SET.split(' ').collect::<Vec<_>>()].concat();
        let output = run(&self.field.server, "nft", &words);
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let set = json["nftables"].as_array().unwrap().iter().find_map(|of| of.get("set")).unwrap();
        let elements = set["elem"].as_array().cloned().unwrap_or_default();
        let port = |element: &serde_json::Value| {
            let concat = &element["elem"]["val"]["concat"];
            assert_eq!(concat[0], self.site().pool.to_string());
            concat[1].as_u64().unwrap() as u16
        };
        elements.iter().map(port).collect()
    }

    /// The ports that the log names for a client.
    fn ports(&self, client: Ipv6Addr) -> Vec<u16> {
        let entries = self.server.entries(Kind::Created).into_iter();
        entries.filter(|entry| entry.2 == client).map(|entry| entry.1).collect()
    }
}

/// Keeps the set in the namespace of the server, where a rule uses it.
pub fn keeps_out(field: &Field) -> Process {
    let set = keeps(field);
    nft(
        field,
        "add chain inet nat64handoff input { type filter hook input priority -10; }
         add rule inet nat64handoff input ip saddr . th sport . ip daddr @banned counter drop",
    );
    set
}

fn keeps(field: &Field) -> Process {
    let admin = field.path("state/admin.sock");
    let words = ["ban-set", "--admin", admin.to_str().unwrap()];
    let mut set = Process::start(&field.server, NAT64HANDOFF, &words);
    set.wait_for("keeping the set");
    set
}

fn nft(field: &Field, script: &str) {
    let file = field.path("script.nft");
    std::fs::write(&file, script).unwrap();
    let output = run(&field.server, "nft", &["-f", file.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A connection from one of several addresses.
fn bound(from: Ipv6Addr, to: SocketAddr) -> TcpStream {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let socket = socket(AddressFamily::INET6, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddrV6::new(from, 0, 0, 0)).unwrap();
    connect(&socket, &to).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Whether a request on it is answered.
fn is_served(mut connection: &TcpStream) -> bool {
    let request = b"HEAD /hello HTTP/1.1\r\nHost: service\r\n\r\n";
    let mut answer = [0; 4096];
    connection.write_all(request).is_ok()
        && connection
            .read(&mut answer)
            .is_ok_and(|length| answer[..length].starts_with(b"HTTP/1.1 200"))
}

#[test]
fn a_banned_client_is_kept_out_and_its_neighbour_is_not() {
    let mut bans = Bans::start(&[]);
    let (attacker, neighbour) = (bans.attacker(), bans.neighbour);
    bans.get(attacker).unwrap();
    let (open, other) = (bans.connect(attacker), bans.connect(neighbour));
    let said = bans.asks(&["ban", &attacker.to_string(), "--kill"]);
    assert!(said.ends_with("\n1 connection was ended\n"), "{said}");
    assert!(!is_served(&open), "it was ended");
    assert!(is_served(&other));
    let mut elements = bans.elements();
    let mut ports = bans.ports(attacker);
    elements.sort_unstable();
    ports.sort_unstable();
    assert_eq!(elements, ports);
    let refused = bans.get(attacker).unwrap_err();
    assert!(!refused.contains("timed out"), "it is told at once: {refused}");
    bans.get(neighbour).unwrap();
    // A port that the NAT64 has in its cache: the server is not asked, and the set is what helps.
    let cached = open.local_addr().unwrap();
    drop(open);
    let connects_again = || {
        bans.site().client.inside(|| {
            use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};
            let socket = socket(AddressFamily::INET6, SocketType::STREAM, None).unwrap();
            sockopt::set_socket_reuseaddr(&socket, true).unwrap();
            bind(&socket, &cached).unwrap();
            let timeout = Some(std::time::Duration::from_secs(3));
            sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, timeout).unwrap();
            connect(&socket, &SocketAddr::from(SocketAddrV6::new(SERVICE6, 80, 0, 0))).is_ok()
        })
    };
    assert!(!connects_again(), "by the cache of its NAT64");
    bans.asks(&["unban", &attacker.to_string()]);
    wait_until("the set is empty", || bans.elements().is_empty());
    bans.get(attacker).unwrap();
    assert!(is_served(&other));
    bans.set.stop();
    bans.server.stop();
}

#[test]
fn the_set_follows_whatever_happens() {
    let mut bans = Bans::start(&["--max-entries", "8", "--client-share", "1"]);
    let (attacker, neighbour) = (bans.attacker(), bans.neighbour);
    bans.get(attacker).unwrap();
    bans.asks(&["ban", &attacker.to_string()]);
    let own = bans.ports(attacker);
    wait_until("its port is in the set", || bans.elements() == own);
    // Killed and started again, or changed by somebody else, it has the same elements.
    bans.set.kill();
    nft(
        &bans.field,
        &format!("flush set {SET}\nadd element {SET} {{ 192.0.2.7 . 9 . 203.0.113.5 }}"),
    );
    bans.set = keeps(&bans.field);
    wait_until("all is as it was", || bans.elements() == own);
    bans.server.kill();
    bans.server = Server::start_with(&bans.field, &["--max-entries", "8", "--client-share", "1"]);
    // A full table gives its port to others, who are let in.
    for number in 0..12 {
        bans.get(neighbour).unwrap_or_else(|error| panic!("{number}: {error}"));
    }
    wait_until("its entry went, and its element with it", || bans.elements().is_empty());
    assert!(bans.server.entries(Kind::Deleted).iter().any(|entry| entry.2 == attacker));
    bans.get(attacker).unwrap_err();
    // What ends by itself lets it in.
    bans.asks(&["ban", &neighbour.to_string(), "--for", "2s"]);
    wait_until("its ports are in the set", || !bans.elements().is_empty());
    wait_until("the ban is over", || bans.elements().is_empty());
    bans.get(neighbour).unwrap();
    bans.asks(&["ban", &neighbour.to_string()]);
    wait_until("its ports are in the set", || !bans.elements().is_empty());
    // Who ends lets all in, rather than keep out those whose port it is then.
    bans.set.stop();
    assert!(bans.elements().is_empty());
    wait_until("nobody follows any more", || {
        let said = bans.asks(&["ban", &neighbour.to_string(), "--kill"]);
        said.contains("not ended: nobody does that here; start nat64handoff ban-set")
    });
}
