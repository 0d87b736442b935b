//! An idle connection at a table that is full: the kernel knows that it is live.

use std::net::UdpSocket;
use std::ops::RangeFrom;

use crate::field::{Field, Site};
use crate::http::Connection;
use crate::judge::eventlog::Kind;
use crate::process::{PATIENCE, wait_until};
use crate::programs::{Gateway, Nginx, Server};
use crate::udp::Echo;

/// What the server may hold.
const ENTRIES: usize = 8;

/// So many new clients come by, each with a port that none had before: the kernel would give one
/// twice.
fn come_by(site: &Site, ports: &mut RangeFrom<u16>, clients: usize) {
    for port in ports.take(clients) {
        let socket = site.client.inside(|| UdpSocket::bind((site.address, port)).unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Echo::ask(&socket, &format!("here is {port}"));
    }
}

#[test]
fn idle_connection_survives_a_table_that_is_filled_several_times() {
    let field = Field::new();
    let site = &field.sites[0];
    let limit = ENTRIES.to_string();
    let mut server = Server::start_with(&field, &["--max-entries", &limit, "--client-share", "1"]);
    let _nginx = Nginx::start(&field);
    let _echo = Echo::start(&field);
    let gateway = Gateway::start(site);
    // Below those that the kernel chooses from for the connection.
    let mut ports = 10_000..;
    come_by(site, &mut ports, 1);
    server.wait_until_known(site.pool);

    let mut connection = Connection::open(site);
    assert_eq!(connection.get("hello"), b"hello\n");
    let port = connection.port();
    let of_connection = |kind| {
        let entries = server.entries(kind).into_iter();
        entries.filter(|&(_, _, client, of)| client == site.address && of == port).count()
    };
    wait_until("it has an entry", || of_connection(Kind::Created) == 1);

    // Once the table is nearly full it is looked for connections.
    come_by(site, &mut ports, ENTRIES - 3);
    server.wait_for_look();
    for round in 1..=5 {
        come_by(site, &mut ports, ENTRIES);
        let deleted = round * ENTRIES - 1;
        wait_until("others go", || server.entries(Kind::Deleted).len() >= deleted);
        assert_eq!(of_connection(Kind::Deleted), 0, "round {round}");
    }
    // The NAT64 has nothing but the table to go by, and the connection lives on.
    gateway.reboot();
    assert_eq!(connection.get("hello"), b"hello\n");
    assert_eq!((of_connection(Kind::Created), of_connection(Kind::Deleted)), (1, 0));

    // When it is over its entry goes as any other.
    drop(connection);
    wait_until("it went in its time", || {
        come_by(site, &mut ports, ENTRIES);
        of_connection(Kind::Deleted) == 1
    });
    server.stop();
}
