//! A NAT64 of several public addresses: each client has one of them, and each has a table of its
//! own at the server.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use crate::field::{Field, SERVICE, SERVICE6};
use crate::http::Connection;
use crate::judge::eventlog::Kind;
use crate::process::{PATIENCE, wait_until};
use crate::programs::{Gateway, Nginx, Server};

const PORT: u16 = 7777;
const CLIENTS: u8 = 12;
/// Connections of each client.
const FLOWS: usize = 4;

/// The public addresses of a gateway of two, which the server's host reaches.
pub fn two_addresses(field: &Field) -> [Ipv4Addr; 2] {
    let second = Ipv4Addr::new(192, 0, 2, 8);
    field.server.ip(&format!("route add {second} via 198.51.100.1 src {SERVICE}"));
    [field.sites[0].pool, second]
}

/// Client addresses beside the first, all of one host.
fn addresses(field: &Field) -> Vec<Ipv6Addr> {
    let address = |number| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 1, number);
    let addresses: Vec<_> = (0..CLIENTS.into()).map(address).collect();
    for address in &addresses {
        field.client().ip(&format!("address add {address}/64 dev out nodad"));
    }
    addresses
}

/// The service gets one datagram and sends it back. From where it was to it.
fn exchange(client: &UdpSocket, service: &UdpSocket) -> (Ipv4Addr, u16) {
    let mut buffer = [0; 100];
    client.send_to(b"hello", (SERVICE6, PORT)).unwrap();
    let (length, from) = service.recv_from(&mut buffer).unwrap();
    service.send_to(&buffer[..length], from).unwrap();
    let (length, _) = client.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"hello");
    match from {
        SocketAddr::V4(from) => (*from.ip(), from.port()),
        SocketAddr::V6(_) => panic!("{from}"),
    }
}

#[test]
fn each_client_has_one_address_and_each_address_a_table() {
    let field = Field::new();
    let site = &field.sites[0];
    let pool = two_addresses(&field);
    let mut server = Server::start(&field);
    let nginx = Nginx::start(&field);
    let options = ["--secret", site.secret.to_str().unwrap()];
    let mut gateway = Gateway::start_of(site, &pool, &options);
    let open = |at: &Field, address: Ipv6Addr| {
        let socket = at.client().inside(|| UdpSocket::bind((address, 0)).unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    };
    let service = field.server.inside(|| UdpSocket::bind((SERVICE, PORT)).unwrap());
    service.set_read_timeout(Some(PATIENCE)).unwrap();

    let mut seen = Vec::new();
    for address in addresses(&field) {
        let sockets: Vec<_> = (0..FLOWS).map(|_| open(&field, address)).collect();
        let of: Vec<_> = sockets.iter().map(|socket| exchange(socket, &service)).collect();
        let first = of[0].0;
        assert!(pool.contains(&first) && of.iter().all(|&(nat64, _)| nat64 == first), "{of:?}");
        let ports = sockets.iter().map(|socket| socket.local_addr().unwrap().port());
        seen.extend(
            of.into_iter().zip(ports).map(|((nat64, mapped), port)| (nat64, mapped, address, port)),
        );
    }
    let used: BTreeSet<_> = seen.iter().map(|seen| seen.0).collect();
    assert_eq!(used, BTreeSet::from(pool));

    // To the server they are two NAT64s, and it has who was behind each port of both.
    for nat64 in pool {
        server.wait_until_known(nat64);
        gateway.wait_for(&format!("server {SERVICE} is known to {nat64}\n"));
    }
    let of_log = || server.entries(Kind::Created).into_iter().collect::<BTreeSet<_>>();
    let all = BTreeSet::from_iter(seen);
    wait_until("all of them are in the log", || of_log().is_superset(&all));

    // A reboot changes nothing for a connection: the client has the same address again.
    let mut connection = Connection::open(site);
    assert_eq!(connection.get("hello"), b"hello\n");
    gateway.reboot();
    assert_eq!(connection.get("hello"), b"hello\n");
    let accesses = nginx.accesses(2);
    assert_eq!(accesses[0].port, accesses[1].port);
    assert_eq!(accesses[0].address, accesses[1].address);
    gateway.stop();
    server.stop();
}
