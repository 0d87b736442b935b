//! What the network says when something does not work: the client must hear it, from whichever side
//! it comes.

use std::io;
use std::net::{SocketAddr, TcpStream, UdpSocket};

use crate::field::{Field, SERVICE6};
use crate::process::{PATIENCE, run};
use crate::programs::{Gateway, known};

/// A port that nobody listens on.
const CLOSED: u16 = 4444;

fn closed_ports_refuse(field: &Field) {
    let site = &field.sites[0];
    let address = SocketAddr::from((SERVICE6, CLOSED));
    let connected = site.client.inside(|| TcpStream::connect_timeout(&address, PATIENCE));
    assert_eq!(connected.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    // The service's host says it of a datagram by ICMP.
    let socket = site.client.inside(|| UdpSocket::bind((site.address, 0)).unwrap());
    socket.connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send(b"anybody there?").unwrap();
    let got = socket.recv(&mut [0; 64]);
    assert_eq!(got.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
}

#[test]
fn closed_ports_refuse_without_a_server() {
    let field = Field::new();
    let _gateway = Gateway::start(&field.sites[0]);
    closed_ports_refuse(&field);
}

#[test]
fn closed_ports_refuse_with_a_server() {
    let field = Field::new();
    let (mut server, _gateway, _nginx) = known(&field);
    closed_ports_refuse(&field);
    server.stop();
}

/// Who answers a ping with this hop limit, and with what.
fn hop(field: &Field, hops: u8) -> String {
    let (service, hops) = (SERVICE6.to_string(), hops.to_string());
    let arguments = ["-6", "-n", "-c", "1", "-W", "5", "-t", &hops, &service];
    let output = run(field.client(), "ping", &arguments);
    let text = String::from_utf8(output.stdout).unwrap();
    // `From 2001:db8::1 icmp_seq=1 Time exceeded: Hop limit`, `64 bytes from 2001:db8::1:
    // icmp_seq=1 ttl=...`
    let (who, what) = text.lines().nth(1).unwrap().split_once(" icmp_seq=1 ").expect(&text);
    let who = who.rsplit(' ').next().unwrap().trim_end_matches(':');
    let what = if what.starts_with("ttl=") { "is there" } else { what };
    format!("{who} {what}")
}

#[test]
fn each_hop_on_the_way_says_that_time_is_exceeded() {
    let field = Field::narrow(1500, 1500);
    let _gateway = Gateway::start(&field.sites[0]);
    let hops: Vec<String> = (1..=6).map(|hops| hop(&field, hops)).collect();
    let expected = [
        // The router of the clients, the NAT64's kernel, the gateway.
        "2001:db8::1 Time exceeded: Hop limit",
        "2001:db8:0:1::1 Time exceeded: Hop limit",
        "64:ff9b::c000:207 Time exceeded: Hop limit",
        // The NAT64's kernel again, now with IPv4: 198.51.100.1; the router of the servers:
        // 198.51.100.2.
        "64:ff9b::c633:6401 Time exceeded: Hop limit",
        "64:ff9b::c633:6402 Time exceeded: Hop limit",
        "64:ff9b::cb00:7105 is there",
    ];
    assert_eq!(hops, expected);
}
