//! A server that was lost is found again (PROTOCOL.md section 10, repair 8).

use super::*;

/// The ports that one server's table has for a NAT64 (PROTOCOL.md section 6).
const CAPACITY: u16 = 64_508;
const SECOND: Duration = Duration::from_secs(1);

/// A world in which the tables of server and gateway are full.
fn full() -> World {
    let mut world = World::known();
    for port in 1..=CAPACITY {
        world.send(&udp6(port, b"hello"));
        world.drain();
    }
    assert_eq!(world.gateway.nat64().entries(HOST).count(), usize::from(CAPACITY));
    world
}

#[test]
fn section_10_repair_8_with_a_full_table_a_server_that_was_away_is_found_again() {
    let mut world = full();
    let Handoff::Open(server) = std::mem::replace(&mut world.handoff, Handoff::Closed) else {
        unreachable!()
    };
    let mut server = Some(server);
    let mut waiting: Vec<u16> = (CAPACITY + 1..=CAPACITY + 1000).collect();
    let (requests, mut told) = (world.requests, 0);
    for second in 0..5 {
        if second == 2 {
            assert_eq!(waiting.len(), 1000, "no port is free without the server");
            // Each client but the first is told, and again as far as the rate of errors allows.
            assert!(told >= 999, "{told}");
            // What found out that the server is away, then a question a second.
            assert!(world.requests - requests <= 3, "{}", world.requests - requests);
            world.handoff = Handoff::Open(server.take().unwrap());
        }
        waiting.retain(|&port| {
            world.drain();
            world.send(&tcp6(port, SYN));
            let errors = world.to_client.iter().map(|packet| (error6(packet).0, error6(packet).1));
            told += errors.filter(|&error| error == (1, 3)).count();
            world.to_host.is_empty()
        });
        world.now += SECOND;
        world.tick();
    }
    assert_eq!(waiting.len(), 0, "{:?}", world.drops());
    assert_eq!(world.changes, [ServerChange::Known, ServerChange::Down, ServerChange::Back]);
    // Server and gateway agree about each of them.
    let Handoff::Open(server) = &world.handoff else { unreachable!() };
    let ours: Vec<_> = world.gateway.nat64().entries(HOST).collect();
    let theirs = server.entries().map(|(_, entry)| entry);
    let new = |entry: &Entry| entry.client.port > CAPACITY;
    let theirs: Vec<_> = theirs.filter(new).collect();
    assert_eq!(theirs.len(), 1000);
    assert!(theirs.iter().all(|entry| ours.contains(entry)));
}

#[test]
fn section_10_repair_8_a_question_that_was_put_off_is_asked_when_no_packet_comes() {
    let mut world = World::known();
    let server = std::mem::replace(&mut world.handoff, Handoff::Closed);
    world.send(&tcp6(41_000, SYN));
    world.exchange(41_001, SYN, SYN | ACK);
    world.handoff = server;
    world.exchange(41_002, SYN, SYN | ACK);
    assert_eq!(world.gateway.nat64().state(HOST), ServerState::Dead);
    for _ in 0..3 {
        world.now += SECOND;
        world.tick();
    }
    assert_eq!(world.gateway.nat64().state(HOST), ServerState::Alive);
}

#[test]
fn section_10_repair_8_a_dead_server_is_asked_once_a_second() {
    let mut world = World::known();
    world.handoff = Handoff::Closed;
    world.send(&tcp6(41_000, SYN));
    let requests = world.requests;
    for number in 0..100 {
        world.exchange(42_000 + number, SYN, SYN | ACK);
        world.now += SECOND / 10;
    }
    assert!((9..=10).contains(&(world.requests - requests)), "{}", world.requests - requests);
}

#[test]
fn a_host_that_rejects_requests_has_no_server() {
    let answers = |code| {
        let mut world = World::new(Handoff::Silent);
        let mut outbox = GatewayOutbox::default();
        world.gateway.packet(world.now, &tcp6(40_000, SYN), &mut outbox);
        let request: Vec<_> = outbox.packets().filter(|packet| world.is_control(packet)).collect();
        let [request] = request[..] else { unreachable!() };
        world.send(&icmp4(HOST, 3, code, request));
        world.gateway.nat64().state(HOST)
    };
    for code in 0..=15 {
        let none = matches!(code, 2 | 3 | 9 | 10 | 13);
        let expected = if none { ServerState::Dead } else { ServerState::Unknown };
        assert_eq!(answers(code), expected, "{code}");
    }
    // None of them is believed without the token.
    let mut world = World::known();
    let control = SocketAddrV4::new(POOL, world.gateway.nat64().control_port().0);
    let quoted = ipv4_udp(control, SocketAddrV4::new(HOST, HANDOFF), &[0x34, 1, 7, 7]);
    for code in [2, 3, 9, 10, 13] {
        world.send(&icmp4(HOST, 3, code, &quoted));
    }
    assert_eq!(world.gateway.ignored(Ignored::BadToken), 5);
    assert_eq!(world.gateway.nat64().state(HOST), ServerState::Alive);
}
