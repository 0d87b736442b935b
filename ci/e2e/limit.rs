//! A table that may not grow any more.

use std::collections::HashMap;
use std::net::UdpSocket;

use crate::field::Field;
use crate::http::Connection;
use crate::judge::eventlog::Kind;
use crate::process::{PATIENCE, wait_until};
use crate::programs::{Gateway, Nginx, Server};
use crate::udp::Echo;

/// What the server may hold.
const ENTRIES: usize = 8;
/// Clients that come by, each with a port of its own.
const CLIENTS: usize = 40;

#[test]
fn full_table_deletes_the_least_recently_used_and_others_live() {
    let field = Field::new();
    let site = &field.sites[0];
    let limit = ENTRIES.to_string();
    let mut server = Server::start_with(&field, &["--max-entries", &limit, "--client-share", "1"]);
    let _nginx = Nginx::start(&field);
    let _echo = Echo::start(&field);
    let gateway = Gateway::start(site);

    let open = || {
        let socket = site.client.inside(|| UdpSocket::bind((site.address, 0)).unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    };
    let mut sockets = Vec::new();
    for number in 0..CLIENTS {
        let socket = open();
        Echo::ask(&socket, &format!("first of {number}"));
        server.wait_until_known(site.pool);
        // The NAT64 made the first one itself, and reports it as soon as it knows the server.
        wait_until("its entry is in the log", || server.entries(Kind::Created).len() > number);
        sockets.push(socket);
    }

    // By the log alone: never more than may be, and who went was the oldest.
    let mut held: HashMap<u16, u16> = HashMap::new();
    let mut deleted = Vec::new();
    for event in server.events() {
        let Some((mapped, _, port)) = event.entry else { continue };
        match event.kind {
            Kind::Created => assert_eq!(held.insert(mapped, port), None),
            Kind::Deleted => {
                assert_eq!(held.remove(&mapped), Some(port));
                deleted.push(port);
            }
            Kind::Conflict | Kind::Initialized | Kind::Forgotten => {}
        }
        assert!(held.len() <= ENTRIES, "{held:?}");
    }
    let ports: Vec<u16> =
        sockets.iter().map(|socket| socket.local_addr().unwrap().port()).collect();
    let (old, new) = ports.split_at(CLIENTS - ENTRIES);
    assert_eq!(deleted, old, "they go in the order in which they came");
    assert!(new.iter().all(|port| held.values().any(|held| held == port)));

    // Those that are held live on, also when the NAT64 has only the table to go by. So does a new
    // one.
    gateway.reboot();
    for (number, socket) in sockets.iter().enumerate().skip(CLIENTS - ENTRIES) {
        Echo::ask(socket, &format!("second of {number}"));
    }
    let mut connection = Connection::open(site);
    assert_eq!(connection.get("hello"), b"hello\n");
    // An old one comes back as a new one.
    Echo::ask(&sockets[0], "back again");
    server.stop();
}
