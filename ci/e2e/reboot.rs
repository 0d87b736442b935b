//! The NAT64 forgets all it knows. With the server, connections do not notice; without, they are
//! dead.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use crate::downloads::octets;
use crate::field::{Field, SERVICE, SERVICE6, Site};
use crate::http::Connection;
use crate::process::{PATIENCE, Process, wait_until};
use crate::programs::{Gateway, Nginx, Server, curl, known, url};

/// How a NAT64 loses its table.
#[derive(Clone, Copy)]
enum Reboot {
    /// Told to.
    Signal,
    /// Killed, and started again.
    Kill,
}

impl Reboot {
    fn of(self, gateway: Gateway, site: &Site) -> Gateway {
        let mut gateway = gateway;
        match self {
            Reboot::Signal => {
                gateway.reboot();
                gateway
            }
            Reboot::Kill => {
                gateway.kill();
                Gateway::start(site)
            }
        }
    }
}

/// An idle connection to nginx, a reboot, and another request on the connection.
fn idle_connection_lives(reboot: Reboot) {
    let field = Field::new();
    let site = &field.sites[0];
    let (mut server, mut gateway, nginx) = known(&field);

    let mut connection = Connection::open(site);
    assert_eq!(connection.get("hello"), b"hello\n");
    for round in 0..3 {
        gateway = reboot.of(gateway, site);
        assert_eq!(connection.get("hello"), b"hello\n", "after reboot {}", round + 1);
    }

    // nginx saw one connection, and the log says whose.
    let accesses = nginx.accesses(5);
    let behind = server.who(site.pool, accesses[1].port);
    assert_eq!(behind, (site.address, connection.port()));
    assert!(accesses[1..].iter().all(|access| access.port == accesses[1].port), "{accesses:?}");
    gateway.stop();
    server.stop();
}

#[test]
fn idle_connection_survives_when_the_nat64_empties_its_table() {
    idle_connection_lives(Reboot::Signal);
}

#[test]
fn idle_connection_survives_when_the_nat64_is_killed() {
    idle_connection_lives(Reboot::Kill);
}

fn idle_connection_dies(reboot: Reboot) {
    let field = Field::new();
    let site = &field.sites[0];
    let nginx = Nginx::start(&field);
    let gateway = Gateway::start(site);
    let mut connection = Connection::open(site);
    assert_eq!(connection.get("hello"), b"hello\n");
    assert_eq!(connection.get("hello"), b"hello\n");
    let _gateway = reboot.of(gateway, site);
    assert!(connection.is_dead(), "who told the NAT64 about it?");
    curl(site, "hello").unwrap();
    nginx.accesses(3);
}

#[test]
fn idle_connection_dies_without_a_server_when_the_nat64_empties_its_table() {
    idle_connection_dies(Reboot::Signal);
}

#[test]
fn idle_connection_dies_without_a_server_when_the_nat64_is_killed() {
    idle_connection_dies(Reboot::Kill);
}

#[test]
fn download_survives_reboots_in_its_middle() {
    let field = Field::new();
    let site = &field.sites[0];
    let (mut server, gateway, nginx) = known(&field);
    let file = octets(10_000_000);
    nginx.put("large", &file);
    let (got, url) = (field.path("got"), url("large"));
    let arguments = ["-6", "-sS", "--limit-rate", "8M", "-o", got.to_str().unwrap(), &url];
    let mut curl = Process::start(&site.client, "curl", &arguments);
    let length = || std::fs::metadata(&got).map_or(0, |data| data.len());
    for part in 1..=5 {
        wait_until("the download goes on", || length() > part * 1_500_000);
        gateway.reboot();
    }
    curl.wait_for_success();
    assert!(std::fs::read(&got).unwrap() == file);
    assert_eq!(nginx.accesses(2)[1].address, site.pool);
    server.stop();
}

/// A connection, both ends of it, which the server has in its table.
fn connect(field: &Field, server: &Server, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let site = &field.sites[0];
    let address = SocketAddr::from((SERVICE6, PORT));
    let client = site.client.inside(|| TcpStream::connect_timeout(&address, PATIENCE).unwrap());
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let at_service = listener.accept().unwrap().0;
    let mapped = at_service.peer_addr().unwrap().port();
    let port = client.local_addr().unwrap().port();
    assert_eq!(server.who(site.pool, mapped), (site.address, port));
    (client, at_service)
}

const PORT: u16 = 5222;

fn expect_message(client: &mut TcpStream) {
    let mut got = [0; 9];
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"a message");
}

/// A message to clients that have been silent since before the reboot.
#[test]
fn service_reaches_idle_clients_after_a_reboot() {
    let field = Field::new();
    let site = &field.sites[0];
    let mut server = Server::start(&field);
    let listener = field.server.inside(|| TcpListener::bind((SERVICE, PORT)).unwrap());
    let mut gateway = Gateway::start(site);
    // The first is mapped by the NAT64, the second by the server.
    let mut connections = [(); 2].map(|()| connect(&field, &server, &listener));
    for reboot in [Reboot::Signal, Reboot::Kill, Reboot::Signal] {
        gateway = reboot.of(gateway, site);
        for (client, at_service) in &mut connections {
            at_service.write_all(b"a message").unwrap();
            expect_message(client);
        }
    }
    server.stop();
}

/// Where the key of authenticators is gone, too, the NAT64 believes what the server says about a
/// client when that has spoken again, on whatever connection (PROTOCOL.md section 6).
#[test]
fn service_reaches_clients_that_spoke_again_after_a_reboot_without_the_secret() {
    let field = Field::new();
    let site = &field.sites[0];
    let mut server = Server::start(&field);
    let _nginx = Nginx::start(&field);
    let listener = field.server.inside(|| TcpListener::bind((SERVICE, PORT)).unwrap());
    let gateway = Gateway::start_with(site, &[]);
    let mut connections = [(); 2].map(|()| connect(&field, &server, &listener));
    gateway.reboot();
    for (_, at_service) in &mut connections {
        at_service.write_all(b"a message").unwrap();
    }
    curl(site, "hello").unwrap();
    for (client, _) in &mut connections {
        expect_message(client);
    }
    server.stop();
}
