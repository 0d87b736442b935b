use std::net::SocketAddrV6;

use super::*;
use crate::handoff::message::{self, MESSAGE_HEADER, message_type};
use crate::handoff::message::{PROTOCOL_IDENTIFIER, RequestKind, parse};
use crate::ip::address::synthesize;
use crate::ip::build::*;
use crate::ip::fields::tcp::{ACK, SYN};
use crate::ip::icmp;

const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
const FROM: SocketAddrV4 = SocketAddrV4::new(SERVER, HANDOFF_PORT);
const PUBLIC: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const NOW: Duration = Duration::from_secs(1000);

fn nat64_of(config: Nat64Config) -> Nat64 {
    Nat64::new(config, [7; 32])
}

fn nat64() -> Nat64 {
    nat64_of(Nat64Config::new(PUBLIC))
}

/// Tokens and authenticators of no octets: requests are known to the last one.
fn bare() -> Nat64 {
    nat64_of(Nat64Config { token_units: 0, authenticator_units: 0, ..Nat64Config::new(PUBLIC) })
}

fn client(host: u16, port: u16) -> Client {
    Client {
        prefix: WELL_KNOWN_PREFIX,
        address: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host),
        port,
    }
}

/// A client in a network of its own, so that none has its share used up (section 10, point 11).
fn alone(network: u16, port: u16) -> Client {
    let address = Ipv6Addr::new(0x2001, 0xdb8, 0, network, 0, 0, 0, 1);
    Client { address, ..client(1, port) }
}

fn from(client: Client) -> SocketAddrV6 {
    SocketAddrV6::new(client.address, client.port, 0, 0)
}

fn service() -> SocketAddrV6 {
    SocketAddrV6::new(synthesize(WELL_KNOWN_PREFIX, SERVER), 80, 0, 0)
}

fn segment(client: Client, flags: u8) -> Vec<u8> {
    ipv6_tcp(from(client), service(), flags, b"")
}

fn service_segment(port: u16) -> Vec<u8> {
    ipv4_tcp(SocketAddrV4::new(SERVER, 80), SocketAddrV4::new(PUBLIC, port), ACK, b"")
}

fn message(kind: u8, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    message::emit(&mut out, kind, data);
    out
}

/// What the server says about `entry`, as section 4 has it.
fn answer(nat64: &Nat64, entry: Entry, packet: &[u8]) -> Vec<u8> {
    let authenticator = nat64.authenticator(SERVER, entry.client.address);
    let authenticator = message(message_type::AUTHENTICATOR, &authenticator);
    [&authenticator, &entry.emit()[..], packet].concat()
}

/// A packet that the server returns with the token.
fn returned(nat64: &Nat64, packet: &[u8]) -> Vec<u8> {
    [&message(message_type::TOKEN, &nat64.token(SERVER)), packet].concat()
}

fn entry(port: u16, client: Client) -> Entry {
    Entry { port: MappedPort(port), client }
}

fn by_client(nat64: &mut Nat64, packet: &[u8]) -> Vec<Action> {
    let mut actions = Vec::new();
    nat64.client_packet(NOW, packet, &mut actions);
    actions
}

fn by_service(nat64: &mut Nat64, packet: &[u8]) -> Vec<Action> {
    let mut actions = Vec::new();
    nat64.service_packet(NOW, packet, &mut actions);
    actions
}

fn by_server(nat64: &mut Nat64, payload: &[u8]) -> Vec<Action> {
    let mut actions = Vec::new();
    nat64.control_payload(NOW, FROM, payload, &mut actions);
    actions
}

fn tick(nat64: &mut Nat64, now: Duration) -> Vec<Action> {
    let mut actions = Vec::new();
    nat64.tick(now, &mut actions);
    actions
}

fn requests(actions: &[Action]) -> Vec<&[u8]> {
    let payloads = actions.iter().filter_map(|action| match action {
        Action::Request { server, payload } => {
            assert_eq!(*server, SERVER);
            Some(&payload[..])
        }
        _ => None,
    });
    payloads.collect()
}

fn the_request(actions: &[Action]) -> &[u8] {
    let requests = requests(actions);
    assert!(requests.len() == 1 && actions.len() == 1, "{actions:?}");
    requests[0]
}

fn the_forwarded(actions: &[Action]) -> (Entry, &[u8]) {
    let forwarded = actions.iter().find_map(|action| match action {
        Action::Forward { entry, packet, .. } => Some((*entry, &packet[..])),
        _ => None,
    });
    forwarded.unwrap_or_else(|| panic!("{actions:?}"))
}

/// The server is alive from here on, and knows nothing.
fn alive(nat64: &mut Nat64) {
    let payload = returned(nat64, &service_segment(9));
    let actions = by_server(nat64, &payload);
    assert!(matches!(actions[..], [Action::Unmapped { .. }]), "{actions:?}");
    assert_eq!(nat64.state(SERVER), ServerState::Alive);
}

/// A router's error about `about`, which went from the NAT64 to a server.
fn icmp_error(about: &[u8]) -> Vec<u8> {
    let router = SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 1), 0);
    let message = [&[icmp::v4::UNREACHABLE, 1, 0, 0, 0, 0, 0, 0][..], about].concat();
    let mut packet = ipv4_udp(router, SocketAddrV4::new(PUBLIC, 0), &message);
    packet.drain(20..28);
    let length = packet.len() as u16;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet[9] = 1;
    packet
}

mod answers;
mod arbitrary;
mod kept;
mod repairs;
mod requests;
mod state;
