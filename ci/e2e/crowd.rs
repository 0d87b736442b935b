//! Many clients at once, and two NAT64s to one server.

use std::collections::{HashMap, HashSet};
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Barrier;
use tokio::time::timeout;

use crate::field::{Field, SERVICE6};
use crate::http::Connection;
use crate::judge::eventlog::Kind;
use crate::process::{PATIENCE, wait_until};
use crate::programs::{Gateway, Nginx, Server, curl, known};

/// Each with an address of its own.
const CLIENTS: usize = 200;

fn address_of(number: usize) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 1, number as u16 + 1)
}

/// Asks for a file, and leaves the connection open.
async fn ask(stream: &mut TcpStream, path: &str) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: service\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let (mut answer, mut part) = (Vec::new(), [0; 1024]);
    while !answer.ends_with(b"\r\n\r\nhello\n") {
        let got = timeout(PATIENCE, stream.read(&mut part)).await.expect("an answer").unwrap();
        assert_ne!(got, 0, "the end after {}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&part[..got]);
    }
}

/// All connect, when all are connected each asks, and again when the NAT64 has rebooted.
async fn visit(number: usize, all: &Barrier) -> SocketAddr {
    let socket = TcpSocket::new_v6().unwrap();
    socket.bind((address_of(number), 0).into()).unwrap();
    let connected = timeout(PATIENCE, socket.connect((SERVICE6, 80).into())).await;
    let mut stream = connected.expect("it can connect").unwrap();
    all.wait().await;
    ask(&mut stream, &format!("/hello?{number}")).await;
    all.wait().await;
    all.wait().await; // It reboots.
    ask(&mut stream, &format!("/hello?{number}")).await;
    stream.local_addr().unwrap()
}

#[test]
fn two_hundred_clients_at_once_and_a_reboot() {
    let field = Field::new();
    let site = &field.sites[0];
    let addresses =
        (0..CLIENTS).map(|n| format!("address add {}/64 dev out nodad\n", address_of(n)));
    site.client.ip(&addresses.collect::<String>());
    // One more client comes first, so that the server is known: an entry that the NAT64 made by
    // itself and had no time to report would go with its reboot.
    let (mut server, gateway, nginx) = known(&field);

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let visit_all = async {
        let all = Arc::new(Barrier::new(CLIENTS + 1));
        let visits = (0..CLIENTS).map(|number| {
            let all = Arc::clone(&all);
            tokio::spawn(async move { visit(number, &all).await })
        });
        let visits: Vec<_> = visits.collect();
        timeout(PATIENCE, all.wait()).await.expect("all connect");
        timeout(PATIENCE, all.wait()).await.expect("all have an answer");
        wait_until("each has an entry", || server.entries(Kind::Created).len() == 1 + CLIENTS);
        gateway.reboot();
        all.wait().await;
        let mut visitors = Vec::new();
        for visit in visits {
            visitors.push(visit.await.unwrap());
        }
        visitors
    };
    let visitors = site.client.inside(|| runtime.block_on(visit_all));

    // Each client kept its port through all of it, and the event log says whose it was.
    let accesses = nginx.accesses(1 + 2 * CLIENTS).split_off(1);
    let ports: HashSet<u16> = accesses.iter().map(|access| access.port).collect();
    assert_eq!(ports.len(), CLIENTS);
    assert_eq!(server.entries(Kind::Created).len(), 1 + CLIENTS);
    let clients: HashMap<u16, SocketAddr> = server
        .entries(Kind::Created)
        .into_iter()
        .map(|(_, mapped, client, port)| (mapped, SocketAddr::from((client, port))))
        .collect();
    for access in &accesses {
        let number: usize = access.path.strip_prefix("/hello?").unwrap().parse().unwrap();
        assert_eq!(clients[&access.port], visitors[number]);
    }
    assert_eq!(server.entries(Kind::Conflict), []);
    assert_eq!(server.entries(Kind::Deleted), []);
    server.stop();
}

#[test]
fn two_nat64s_have_a_table_each() {
    let field = Field::of_two();
    let mut server = Server::start(&field);
    let nginx = Nginx::start(&field);
    let gateways: Vec<Gateway> = field.sites.iter().map(Gateway::start).collect();
    let mut count = 0;
    let mut connections = Vec::new();
    for site in &field.sites {
        curl(site, "hello").unwrap();
        server.wait_until_known(site.pool);
        let mut connection = Connection::open(site);
        connection.get("hello");
        count += 2;
        let access = &nginx.accesses(count)[count - 1];
        assert_eq!(access.address, site.pool);
        assert_eq!(server.who(site.pool, access.port), (site.address, connection.port()));
        connections.push(connection);
    }
    // One reboots, and neither connection notices.
    gateways[0].reboot();
    for connection in &mut connections {
        assert_eq!(connection.get("hello"), b"hello\n");
    }
    for site in &field.sites {
        let of_site = |&(nat64, _, client, _): &_| nat64 == site.pool && client == site.address;
        assert_eq!(server.entries(Kind::Created).into_iter().filter(of_site).count(), 2);
    }
    assert_eq!(server.entries(Kind::Created).len(), 4);
    server.stop();
}
