//! Many clients at once, and two NAT64s to one server.

use std::collections::HashSet;
use std::net::{Ipv6Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::sync::Barrier;
use tokio::time::timeout;

use crate::eventlog::Kind;
use crate::field::{Field, SERVICE6};
use crate::http::Connection;
use crate::process::{PATIENCE, wait_until};
use crate::programs::{Gateway, Nginx, Server, curl};

/// Each with an address of its own.
const CLIENTS: usize = 200;

fn address_of(number: usize) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 1, number as u16 + 1)
}

/// All connect, and when all are connected, each asks for a file.
async fn visit(number: usize, all: &Barrier) -> SocketAddr {
    let socket = TcpSocket::new_v6().unwrap();
    socket.bind((address_of(number), 0).into()).unwrap();
    let connected = timeout(PATIENCE, socket.connect((SERVICE6, 80).into())).await;
    let mut stream = connected.expect("it can connect").unwrap();
    all.wait().await;
    let request = format!("GET /hello?{number} HTTP/1.0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("an answer").unwrap();
    assert!(answer.ends_with("\r\n\r\nhello\n"), "{answer}");
    stream.local_addr().unwrap()
}

#[test]
fn two_hundred_clients_at_once() {
    let Some(field) = Field::new() else { return };
    let site = &field.sites[0];
    let addresses: Vec<String> = (0..CLIENTS).map(|n| address_of(n).to_string()).collect();
    let lines: Vec<String> =
        addresses.iter().map(|address| format!("address add {address}/64 dev out")).collect();
    site.client.ip(&lines.join("\n"));
    let mut server = Server::start(&field);
    let nginx = Nginx::start(&field);
    let _gateway = Gateway::start(site);

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let visitors = site.client.inside(|| {
        runtime.block_on(async {
            let all = std::sync::Arc::new(Barrier::new(CLIENTS));
            let visits: Vec<_> = (0..CLIENTS)
                .map(|number| {
                    let all = all.clone();
                    tokio::spawn(async move { visit(number, &all).await })
                })
                .collect();
            let mut visitors = Vec::new();
            for visit in visits {
                visitors.push(visit.await.unwrap());
            }
            visitors
        })
    });

    // Each line of nginx's log has a port of its own, and the event log says whose it was.
    let accesses = nginx.accesses(CLIENTS);
    let ports: HashSet<u16> = accesses.iter().map(|access| access.port).collect();
    assert_eq!(ports.len(), CLIENTS);
    wait_until("each has an entry", || server.entries(Kind::Created).len() == CLIENTS);
    for access in &accesses {
        let number: usize = access.path.strip_prefix("/hello?").unwrap().parse().unwrap();
        let (client, port) = server.who(site.pool, access.port);
        assert_eq!(SocketAddr::from((client, port)), visitors[number]);
    }
    assert_eq!(server.entries(Kind::Conflict), []);
    server.stop();
}

#[test]
fn two_nat64s_have_a_table_each() {
    let Some(field) = Field::of_two() else { return };
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
