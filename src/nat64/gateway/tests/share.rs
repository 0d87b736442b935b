//! What one /64 of clients may have (RFC 6888 section 3, REQ-4).

use super::*;
use crate::nat64::engine::{ENTRIES_MAX, TCP_TRANSITORY_LIFETIME};

/// Of all that there is, so that there is little to fill.
const SHARE: f64 = 1.0 / 1024.0;
/// Of 64508 ports.
const PORTS: usize = 62;

/// Nobody else is in its /64.
const NEIGHBOUR: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0x17);

fn world() -> World {
    World::with(Handoff::Closed, Nat64Config { client_share: SHARE, ..Nat64Config::new(POOL) })
}

/// One of as many packets as one likes: another address and port each, all in the same /64.
fn syn(number: usize, host: Ipv4Addr) -> Vec<u8> {
    let address = Ipv6Addr::from_bits((CLIENT.to_bits() & !0xffff) + number as u128 % 7);
    let from = SocketAddrV6::new(address, 1024 + number as u16, 0, 0);
    let to = SocketAddrV6::new(synthesize(Prefix96::of(SERVICE), host), 80, 0, 0);
    ipv6_tcp(from, to, SYN, b"")
}

impl World {
    /// How many packets are written for this one, errors among them.
    fn give(&mut self, packet: &[u8]) -> Vec<Vec<u8>> {
        let mut outbox = GatewayOutbox::default();
        self.gateway.packet(self.now, packet, &mut outbox);
        outbox.packets().map(<[u8]>::to_vec).collect()
    }
}

#[test]
fn one_network_has_its_share_of_the_ports_towards_a_server() {
    let mut world = world();
    world.send(&tcp6(1, SYN));
    for number in 1..PORTS {
        world.give(&syn(number, HOST));
    }
    assert_eq!(world.gateway.nat64().entries(HOST).count(), PORTS);
    let told = world.give(&syn(PORTS, HOST));
    assert_eq!(kind_and_code(told.last().unwrap()), [v6::UNREACHABLE, v6::ADDRESS]);
    assert_eq!(world.gateway.ignored(Ignored::ClientShare), 1);
    // What it has works on; others, and other servers, are as ever.
    assert!(!world.give(&syn(1, HOST)).is_empty());
    world.give(&ipv6_tcp(SocketAddrV6::new(NEIGHBOUR, 1, 0, 0), service(80), SYN, b""));
    assert_eq!(world.gateway.nat64().entries(HOST).count(), PORTS + 1);
    world.give(&syn(PORTS, ROUTER));
    assert_eq!(world.gateway.nat64().entries(ROUTER).count(), 1);
    // When its connections are over there is room again.
    world.now += TCP_TRANSITORY_LIFETIME;
    world.tick();
    world.give(&syn(PORTS, HOST));
    assert_eq!(world.gateway.nat64().entries(HOST).count(), 1);
    assert_eq!(world.gateway.ignored(Ignored::ClientShare), 1);
}

#[test]
fn one_network_has_its_share_of_all_entries() {
    let mut world = world();
    let share = (ENTRIES_MAX as f64 * SHARE) as usize;
    for number in 0..share + 3 {
        let packet = syn(number, Ipv4Addr::from(0x0b00_0000 + number as u32));
        world.give(&packet);
    }
    assert_eq!(world.gateway.nat64().entries_held(), share);
    assert_eq!(world.gateway.ignored(Ignored::ClientShare), 3);
    world.give(&ipv6_tcp(SocketAddrV6::new(NEIGHBOUR, 1, 0, 0), service(80), SYN, b""));
    assert_eq!(world.gateway.nat64().entries_held(), share + 1);
    world.now += TCP_TRANSITORY_LIFETIME;
    world.tick();
    world.give(&syn(0, HOST));
    assert_eq!(world.gateway.nat64().entries_held(), 1);
}

/// What the server gives is its own to share out.
#[test]
fn entries_of_a_server_are_no_part_of_it() {
    let nat64 = Nat64Config { client_share: SHARE, ..Nat64Config::new(POOL) };
    let mut world = World::with(server(), nat64);
    for port in 0..2 * PORTS as u16 {
        world.send(&tcp6(1024 + port, SYN));
    }
    assert!(world.gateway.nat64().entries(HOST).count() > PORTS);
    assert_eq!(world.gateway.ignored(Ignored::ClientShare), 0);
}

#[test]
fn one_network_has_its_share_of_echo_identifiers() {
    let mut world = world();
    let share = (ECHOES_MAX as f64 * SHARE) as usize;
    for identifier in 0..share as u16 {
        world.at_host(&echo6(identifier));
    }
    world.send(&echo6(1024));
    assert_eq!(kind_and_code(world.to_client.back().unwrap()), [v6::UNREACHABLE, v6::ADDRESS]);
    assert_eq!(world.gateway.dropped(Dropped::EchoShare), 1);
    let to_host = world.give(&ipv6_echo_request(NEIGHBOUR, SERVICE, 7, 7, b"ping"));
    assert_eq!(to_host[0][0] >> 4, 4);
    world.now += ECHO_LIFETIME;
    world.tick();
    world.at_host(&echo6(1024));
}
