//! `--peer-names both`: an unchanged program that listens at 0.0.0.0 sees an address of IPv4 that
//! stands for the client of a NAT64, and the log says for whom.

use super::peer_names::{Service, again};
use crate::admin::asked;
use crate::annotate::annotated;
use crate::harness::process::wait_until;
use crate::harness::skip::cannot_run;
use crate::http::get;
use crate::judge::PATIENCE;
use crate::judge::client::Client;
use crate::judge::names::Names;
use crate::judge::nat64::Nat64;
use crate::peers::Place;
use crate::run::run;
use crate::server::Server;
use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};

/// As that of `peer_names`, of IPv4 alone.
const SERVICE: &str = "
import socket, sys
listener = socket.create_server(('0.0.0.0', int(sys.argv[1])))
print('listening', flush=True)
while True:
    connection, peer = listener.accept()
    connection.recv(1)
    print('peer', *peer, *connection.getpeername(), flush=True)
    connection.close()
";

fn attached() -> Place {
    let place = Place::make().unwrap_or_else(|missing| cannot_run(&missing));
    let words = place.attaching();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let (code, said, error) = run(&[&words[..], &["--peer-names", "both"]].concat());
    assert!(code == 0 && said.contains("--peer-names both"), "{said}{error}");
    place
}

/// For a server with the names of this place.
fn options<'a>(maps: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["--peer-names", "both", "--peer-maps", maps], more].concat()
}

fn start(place: &Place, more: &[&str]) -> Server {
    Server::start(&options(&place.maps(), more))
}

fn names(server: &Server) -> Names {
    Names::of(&std::fs::read_to_string(server.log_path()).unwrap())
}

/// Waits until the log has this many names.
fn wait_for_names(server: &Server, count: usize) -> Names {
    let has = wait_until(PATIENCE, || names(server).len() == count);
    let names = names(server);
    assert!(has, "{names:?}");
    names
}

/// The address that stands for a client, by the log and for a program.
fn sees(service: &mut Service, server: &Server, from: SocketAddrV4, client: Client) -> Ipv4Addr {
    let mut address = None;
    let said = wait_until(PATIENCE, || {
        address = names(server).address_of(client.address);
        address.is_some()
    });
    assert!(said, "no line about {client:?}");
    let address = address.unwrap();
    // On a busy machine the server may not have said for a while that it is there.
    let is_named = wait_until(PATIENCE, || {
        let seen = service.sees(from);
        let named = (address.to_string(), client.port);
        assert!(seen == named || seen == (from.ip().to_string(), from.port()), "{seen:?}");
        seen == named
    });
    assert!(is_named, "{from} is {address}");
    address
}

/// What the log says of an address with a client's own port: which client of the /64 it was; and an
/// access log comes out with the /64.
fn is_told(server: &Server, client: Client, address: Ipv4Addr) {
    let log = server.log_path();
    let network = Ipv6Addr::from_bits(client.address.to_bits() & u128::MAX << 64);
    let of_log = ["--log", log.to_str().unwrap()];
    let asked = format!("{address}:{}", client.port);
    let (code, said, error) = run(&[&["who", &asked], &of_log[..]].concat());
    let name = format!("{address} was {network}/64, since ");
    let exactly = format!(" was {} port {} (to 127.0.0.1), since ", client.address, client.port);
    assert!(code == 0 && said.starts_with(&name) && said.contains(&exactly), "{said}{error}");
    let line =
        |address: &str| format!("{address} - - \"GET / HTTP/1.1\" 200 3 port={}\n", client.port);
    let (out, said) = annotated(&log, line(&address.to_string()).as_bytes(), &["--now"]);
    assert_eq!(String::from_utf8(out).unwrap(), line(&format!("{network}/64")), "{said}");
}

/// One address for the clients of a /64, which stays over kills, another number of reactors, and a
/// hand-over; named once.
#[test]
fn an_ipv4_program_sees_an_address_that_stands_for_the_client() {
    let place = attached();
    let maps = place.maps();
    let mut service = place.program(SERVICE);
    let mut server = start(&place, &["--reactors", "1", "--log-format", "full"]);
    server.check_log = false;
    let nat64 = Nat64::known(&server);
    let clients = [Client::within(1, 1), Client::within(1, 2).port(41000), Client::within(2, 1)];
    let froms = clients.map(|client| SocketAddrV4::new(nat64.address, nat64.map(client)));
    let mut all = |server: &Server| {
        let seen: Vec<_> = froms
            .iter()
            .zip(clients)
            .map(|(from, client)| sees(&mut service, server, *from, client))
            .collect();
        let log = names(server);
        assert_eq!((log.named, log.unnamed), (2, 0));
        seen
    };
    let before = all(&server);
    assert!(before[0] == before[1] && before[0] != before[2], "{before:?}");
    for reactors in ["1", "3"] {
        let more = ["--reactors", reactors, "--log-format", "full"];
        server = again(server, &options(&maps, &more), |_| ());
        server.check_log = false;
        assert_eq!(all(&server), before, "{reactors} reactors");
    }
    let status = asked(&server, &["status"]);
    assert!(status.1.contains("IPv4 names  2 of 1048574 (--peer-pool)"), "{status:?}");
    server.process.signal(libc::SIGUSR2);
    let serves = |server: &Server| server.process.said().matches("serving").count();
    assert!(wait_until(PATIENCE, || serves(&server) > 1), "{}", server.process.said());
    assert_eq!(all(&server), before, "after a hand-over");
    let metrics = get(&server.admin(), "/metrics").body;
    assert!(metrics.contains("nat64handoff_pool_used 2\n"), "{metrics}");
    clients.into_iter().zip(before).for_each(|(client, address)| is_told(&server, client, address));
}

/// Whatever reactors their NAT64s belong to.
#[test]
fn a_client_of_many_nat64s_has_one_address() {
    let place = attached();
    let mut service = place.program(SERVICE);
    let server = start(&place, &["--reactors", "3"]);
    let client = Client::nth(1);
    let mut seen = HashSet::new();
    for _ in 0..8 {
        let nat64 = Nat64::known(&server);
        let from = SocketAddrV4::new(nat64.address, nat64.map(client));
        seen.insert(sees(&mut service, &server, from, client));
    }
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(names(&server).named, 1);
}

/// With `address`, each client has its own.
#[test]
fn addresses_can_stand_for_each_client() {
    let place = attached();
    let mut service = place.program(SERVICE);
    let more = ["--reactors", "1", "--peer-pool", "10.64.0.0/24", "--peer-pool-for", "address"];
    let server = start(&place, &more);
    let nat64 = Nat64::known(&server);
    let mut seen = HashSet::new();
    for member in 1..=3 {
        let client = Client::within(1, member);
        let from = SocketAddrV4::new(nat64.address, nat64.map(client));
        let address = sees(&mut service, &server, from, client);
        assert_eq!(address.octets()[..3], [10, 64, 0]);
        seen.insert(address);
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
}

/// Names end with a line, when their clients have had no entry for a while, or when the operator
/// wants another pool, or none.
#[test]
fn names_end_with_a_line() {
    let place = attached();
    let maps = place.maps();
    let mut service = place.program(SERVICE);
    let more = ["--reactors", "2", "--peer-pool-idle", "1s"];
    let mut server = start(&place, &more);
    let nat64 = Nat64::known(&server);
    let client = Client::nth(1);
    let from = SocketAddrV4::new(nat64.address, nat64.map(client));
    sees(&mut service, &server, from, client);
    let dropped = asked(&server, &["drop-table", &nat64.address.to_string(), "--yes"]);
    assert_eq!(dropped.0, 0, "{dropped:?}");
    wait_for_names(&server, 0);
    // It comes again.
    let nat64 = nat64.rebooted();
    nat64.introduce();
    let from = SocketAddrV4::new(nat64.address, nat64.map(client));
    let first = sees(&mut service, &server, from, client);
    assert_eq!(names(&server).named, 2);

    // Another pool: who comes from now on has an address of that.
    let more = ["--reactors", "2", "--peer-pool", "10.64.0.0/16"];
    server = again(server, &options(&maps, &more), |_| ());
    wait_for_names(&server, 0);
    let other = SocketAddrV4::new(nat64.address, nat64.map(client.port(41000)));
    let second = sees(&mut service, &server, other, client.port(41000));
    assert!(second.octets()[0] == 10 && first.octets()[0] == 100, "{first} {second}");

    // None. The log says so also where the server is killed at once.
    let none = ["--reactors", "2", "--peer-maps", &maps];
    server = again(server, &none, |_| ());
    let log = wait_for_names(&server, 0);
    assert_eq!((log.named, log.unnamed), (3, 3));
    assert_eq!(service.sees(other), (other.ip().to_string(), other.port()));
    server = again(server, &none, |_| ());
    let log = names(&server);
    assert_eq!((log.named, log.unnamed), (3, 3), "once");
}

/// Who finds no address is what he is, and that is counted. Others keep theirs.
#[test]
fn a_small_pool_names_whom_it_can() {
    let place = attached();
    let mut service = place.program(SERVICE);
    let server = start(&place, &["--reactors", "1", "--peer-pool", "10.64.0.0/26"]);
    let said = server.stderr();
    assert!(said.contains("it is small for 1 reactors"), "{said}");
    let nat64 = Nat64::known(&server);
    let clients: Vec<_> = (0..60).map(Client::nth).collect();
    let ports: Vec<_> = clients.iter().map(|client| nat64.map(*client)).collect();
    // Three quarters of 62.
    let log = wait_for_names(&server, 47);
    let from = |number: usize| SocketAddrV4::new(nat64.address, ports[number]);
    sees(&mut service, &server, from(0), clients[0]);
    sees(&mut service, &server, from(46), clients[46]);
    assert_eq!(log.address_of(clients[47].address), None);
    assert_eq!(service.sees(from(47)), (nat64.address.to_string(), ports[47]));
    // Its client has an address for each NAT64 that is not the only one.
    let other = Nat64::known(&server);
    let at = SocketAddrV4::new(other.address, other.map(clients[50]));
    sees(&mut service, &server, at, clients[50]);
    let metrics = get(&server.admin(), "/metrics").body;
    assert!(metrics.contains("nat64handoff_pool_share_total 13\n"), "{metrics}");
}

/// A server that was told of IPv4 names, and has no program for them, says so.
#[test]
fn what_is_not_attached_is_said() {
    let place = Place::make().unwrap_or_else(|missing| cannot_run(&missing));
    assert_eq!(place.attach("1000").0, 0);
    let server = start(&place, &[]);
    let said = server.stderr();
    assert!(said.contains("peers of ipv4 sockets have no name"), "{said}");
    assert!(said.contains("attach --peer-names both"), "{said}");
    let (code, _, said) = run(&["check-config", "--peer-names", "both", "--no-journal"]);
    assert!(code == 2 && said.contains("wants a journal"), "{said}");
}
