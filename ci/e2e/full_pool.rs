//! PROTOCOL.md section 11, DELIVERY.md: clients for whom the pool has no address are served by
//! entries, as where nothing is delivered.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use crate::field::{Field, SERVICE6};
use crate::judge::eventlog::Kind;
use crate::process::{PATIENCE, run, wait_until};
use crate::programs::{Server, url};
use crate::translate::translating;

const PORT: u16 = 53;
/// Of a pool of 62, what one NAT64 gets.
const NAMED: u16 = 47;

fn client(number: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 1, number)
}

/// A client asks a program of UDP, which answers: from where that saw it.
fn seen(field: &Field, program: &UdpSocket, number: u16) -> Ipv4Addr {
    let socket = field.client().inside(|| UdpSocket::bind((client(number), 0)).unwrap());
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut buffer = [0; 100];
    let question = number.to_be_bytes();
    // What is lost on the way is asked for again.
    for _ in 0..PATIENCE.as_secs() {
        socket.send_to(&question, (SERVICE6, PORT)).unwrap();
        while let Ok((length, from)) = program.recv_from(&mut buffer) {
            program.send_to(&buffer[..length], from).unwrap();
            let SocketAddr::V4(from) = from else { panic!("{from}") };
            if buffer[..length] == question
                && socket.recv(&mut buffer).is_ok_and(|length| buffer[..length] == question)
            {
                return *from.ip();
            }
        }
    }
    panic!("client {number} is not answered");
}

/// A client downloads a file from nginx.
fn downloads(field: &Field, number: u16) {
    let (from, url) = (client(number).to_string(), url("hello"));
    let words = ["-6", "--silent", "--fail", "--max-time", "60", "--interface", &from, &url];
    let output = run(field.client(), "curl", &words);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hello\n", "client {number}");
}

#[test]
fn section_11_where_no_address_is_left_clients_have_entries() {
    let field = Field::new();
    let options = ["--deliver", "translate", "--reactors", "1", "--peer-pool"];
    let small = [&options[..], &["100.64.0.0/26"]].concat();
    let (mut server, _gateways, nginx) = translating(&field, &small);
    let site = &field.sites[0];
    let clients = 0..NAMED + 2;
    let lines = clients.map(|number| format!("address add {}/64 dev out nodad\n", client(number)));
    field.client().ip(&lines.collect::<String>());
    let program = field.server.inside(|| UdpSocket::bind(("0.0.0.0", PORT)).unwrap());
    program.set_read_timeout(Some(Duration::from_secs(1))).unwrap();

    // The first one asks twice.
    let named: BTreeMap<_, _> =
        (0..NAMED).map(|number| (seen(&field, &program, number), number)).collect();
    assert_eq!(named.len(), usize::from(NAMED), "each has one of its own: {named:?}");
    let pool: ipnet::Ipv4Net = "100.64.0.0/26".parse().unwrap();
    assert!(named.keys().all(|address| pool.contains(address)), "{named:?}");
    let made = |server: &Server, number| {
        let entries = server.entries(Kind::Created);
        entries.iter().filter(|(_, _, address, _)| *address == client(number)).count()
    };
    assert_eq!(made(&server, 0), 0);

    // The next ones are seen by the NAT64's address, by UDP and by TCP, and the others by theirs.
    assert_eq!(seen(&field, &program, NAMED), site.pool);
    downloads(&field, NAMED);
    downloads(&field, 0);
    downloads(&field, NAMED);
    let addresses: Vec<_> = nginx.accesses(4)[1..].iter().map(|access| access.address).collect();
    let (first, _) = named.iter().find(|(_, number)| **number == 0).unwrap();
    let by_nat64 = IpAddr::V4(site.pool);
    assert_eq!(addresses, [by_nat64, IpAddr::V4(*first), by_nat64]);
    wait_until("the log has its entries", || made(&server, NAMED) == 3);
    wait_until("that is said", || server.said().contains("pool_share: "));
    // A ping is answered by the server.
    let (from, service) = (client(NAMED).to_string(), SERVICE6.to_string());
    let ping = ["-6", "-c", "1", "-W", "5", "-I", &from, &service];
    assert!(run(field.client(), "ping", &ping).status.success());
    server.stop();
    let said = server.said();
    assert!(said.matches("pool_share: ").count() < 3, "{said}");
    assert!(!said.contains("client_unnamed"), "{said}");

    // Where there are addresses again, it gets one, and the others keep theirs.
    let large = [&options[..], &["100.64.0.0/25"]].concat();
    let mut server = Server::start_with(&field, &large);
    let address = seen(&field, &program, NAMED);
    assert!(address != site.pool && !named.contains_key(&address), "{address}");
    assert_eq!(seen(&field, &program, 0), *first);
    downloads(&field, NAMED);
    assert_eq!(nginx.accesses(5)[4].address, IpAddr::V4(address));
    server.stop();
}
