//! The state that is kept, its bounds, and packets without state.

use super::*;

#[test]
fn a_dead_server_comes_back() {
    let mut nat64 = nat64();
    alive(&mut nat64);
    let cached = entry(4000, client(1, 1));
    let payload = answer(&nat64, cached, &[]);
    by_server(&mut nat64, &payload);
    // Without the token anybody could forge it.
    let request = [&message(message_type::TOKEN, &[0; 16])[..], &service_segment(9)].concat();
    nat64.port_unreachable(NOW, SERVER, &request);
    nat64.port_unreachable(NOW, SERVER, &[]);
    assert_eq!(nat64.state(SERVER), ServerState::Alive);
    let request = returned(&nat64, &service_segment(9));
    nat64.port_unreachable(NOW, SERVER, &request[..17]);
    assert_eq!(nat64.state(SERVER), ServerState::Alive);
    nat64.port_unreachable(NOW, SERVER, &request[..18]);
    assert_eq!(nat64.state(SERVER), ServerState::Dead);
    // Cached entries are used; others are made without the server and reported once.
    let actions = by_client(&mut nat64, &segment(client(1, 1), ACK));
    assert_eq!(actions, [forward(SERVER, cached, &segment(client(1, 1), ACK))]);
    let actions = by_client(&mut nat64, &segment(client(2, 2), SYN));
    let (own, _) = the_forwarded(&actions);
    assert_eq!(requests(&actions), [nat64.report(NOW, SERVER, &[own])]);
    assert_eq!(tick(&mut nat64, NOW + Duration::from_secs(100)), []);
    let ping = ipv6_echo_request(client(1, 1).address, *service().ip(), 1, 1, b"");
    assert_eq!(by_client(&mut nat64, &ping), []);
    assert_eq!(nat64.ignored(Ignored::ServerDead), 1);
    // An answer to that report shows that it is alive: all other entries are reported.
    let payload = answer(&nat64, own, &[]);
    let actions = by_server(&mut nat64, &payload);
    assert_eq!(requests(&actions), [nat64.report(NOW, SERVER, &[cached])]);
    assert_eq!(nat64.state(SERVER), ServerState::Alive);
}

/// An error quotes 548 octets of a request, as RFC 1812 has it: a report's token does not fit in
/// there if it is long.
#[test]
fn a_token_that_is_quoted_in_part_is_known_by_its_start() {
    let mut nat64 = nat64_of(Nat64Config { token_units: 255, ..Nat64Config::new(PUBLIC) });
    let report = nat64.report(NOW, SERVER, &[entry(4000, client(1, 1))]);
    let token_at = MESSAGE_HEADER + PROTOCOL_IDENTIFIER.len() + MESSAGE_HEADER;
    let quoted = &report[..548 - 28];
    assert!(quoted.len() < token_at + 510);
    let mut other = quoted.to_vec();
    other[token_at + 15] ^= 1;
    // A shorter token that is whole would be another one.
    let shorter = message(message_type::TOKEN, &report[token_at..][..16]);
    for forged in [&other, &quoted[..token_at + 15], &quoted[..token_at], &shorter] {
        nat64.port_unreachable(NOW, SERVER, forged);
        assert_eq!(nat64.state(SERVER), ServerState::Unknown);
    }
    nat64.port_unreachable(NOW, SERVER, &quoted[..token_at + 16]);
    assert_eq!(nat64.state(SERVER), ServerState::Dead);
}

#[test]
fn a_reboot_forgets_everything() {
    let mut nat64 = nat64();
    alive(&mut nat64);
    let payload = answer(&nat64, entry(4000, client(1, 1)), &[]);
    by_server(&mut nat64, &payload);
    let (port, token) = (nat64.control_port(), nat64.token(SERVER));
    nat64.reboot([7; 32]);
    assert_ne!(nat64.control_port(), port);
    nat64.reboot([8; 32]);
    assert_ne!(nat64.token(SERVER), token);
    assert_eq!(nat64.state(SERVER), ServerState::Unknown);
    assert_eq!(nat64.entries(SERVER).count(), 0);
    assert_eq!(by_server(&mut nat64, &payload), []);
    assert_eq!(nat64.ignored(Ignored::BadAuthenticator), 1);
}

#[test]
fn ports_run_out_and_are_unique() {
    let mut nat64 = nat64();
    let mut ports = std::collections::BTreeSet::new();
    let mut actions = Vec::new();
    let capacity = 64508;
    for number in 0..=capacity {
        let one = alone((number >> 10) as u16, 1 + (number & 1023) as u16);
        actions.clear();
        nat64.client_packet(NOW, &segment(one, SYN), &mut actions);
        match nat64.port_of(SERVER, &one) {
            Some(port) => assert!(ports.insert(port) && port.0 >= 1024),
            None => assert_eq!(number, capacity),
        }
    }
    assert_eq!((ports.len(), nat64.ignored(Ignored::NoPort)), (64508, 1));
    for port in [3544, 6081, HANDOFF_PORT, nat64.control_port().0] {
        assert!(!ports.contains(&MappedPort(port)));
    }
}

#[test]
fn ports_that_can_be_mapped_are_counted() {
    for (handoff_port, expected) in
        [(HANDOFF_PORT, 64508), (53, 64509), (1024, 64508), (6081, 64509)]
    {
        let nat64 = nat64_of(Nat64Config { handoff_port, ..Nat64Config::new(PUBLIC) });
        let eligible = (0..=u16::MAX).filter(|&port| nat64.is_eligible(MappedPort(port))).count();
        assert_eq!((nat64.ports_eligible(), eligible), (expected, expected), "{handoff_port}");
    }
}

#[test]
fn servers_without_entries_are_forgotten_where_there_are_many() {
    for (servers, expected) in [(100, ServerState::Alive), (SERVERS_CROWDED, ServerState::Unknown)]
    {
        let mut nat64 = bare();
        let one = entry(2000, client(1, 1));
        let payload = answer(&nat64, one, &[]);
        let mut actions = Vec::new();
        for number in 0..servers {
            let server = Ipv4Addr::from_bits(SERVER.to_bits() + number as u32);
            let from = SocketAddrV4::new(server, HANDOFF_PORT);
            nat64.control_payload(NOW, from, &payload, &mut actions);
            assert_eq!(nat64.state(server), ServerState::Alive);
        }
        // While there are entries, all are known.
        tick(&mut nat64, NOW);
        assert_eq!(nat64.state(SERVER), ServerState::Alive);
        tick(&mut nat64, NOW + UDP_LIFETIME);
        assert_eq!((nat64.state(SERVER), nat64.entries(SERVER).count()), (expected, 0));
    }
}

#[test]
fn foreign_and_broken_packets_are_ignored() {
    let mut nat64 = nat64();
    let good = segment(client(1, 1), ACK);
    for length in 0..good.len() {
        assert_eq!(by_client(&mut nat64, &good[..length]), []);
        assert_eq!(by_service(&mut nat64, &service_segment(1)[..length.min(39)]), []);
    }
    let mut multicast = good.clone();
    multicast[8] = 0xff;
    assert_eq!(by_client(&mut nat64, &multicast), []);
    assert_eq!(nat64.ignored(Ignored::ClientAddress), 1);
    let mut elsewhere = good.clone();
    elsewhere[24] = 0x20;
    assert_eq!(by_client(&mut nat64, &elsewhere), []);
    let not_us = ipv4_udp(FROM, SocketAddrV4::new(SERVER, 9), b"");
    assert_eq!(by_service(&mut nat64, &not_us), []);
    assert_eq!(nat64.ignored(Ignored::NotOurs), 2);
    let huge = ipv6_udp(from(client(1, 1)), service(), &[0; 65507]);
    alive(&mut nat64);
    assert_eq!(by_client(&mut nat64, &huge), []);
    assert_eq!(nat64.ignored(Ignored::PacketTooLong), 1);
}

#[test]
fn fragments_are_the_servers_business() {
    let mut nat64 = nat64();
    alive(&mut nat64);
    let one = client(1, 1000);
    let payload = answer(&nat64, entry(4000, one), &[]);
    by_server(&mut nat64, &payload);
    let fragment = |flags: [u8; 2]| {
        let mut packet = segment(one, ACK);
        packet.splice(40..40, [6, 0, flags[0], flags[1], 0, 0, 0, 1]);
        packet[5] += 8;
        packet[6] = 44;
        packet
    };
    for flags in [[0, 1], [0, 8]] {
        let packet = fragment(flags);
        let actions = by_client(&mut nat64, &packet);
        assert!(the_request(&actions).ends_with(&packet));
        let payload = answer(&nat64, entry(4000, one), &packet);
        let actions = by_server(&mut nat64, &payload);
        assert_eq!(the_forwarded(&actions), (entry(4000, one), &packet[..]));
    }
}

/// As it may have no room for this NAT64 any more: see PROTOCOL.md section 5.
#[test]
fn section_10_point_12_a_server_that_answers_nothing_is_done_without() {
    let mut nat64 = nat64();
    alive(&mut nat64);
    let cached = entry(4000, client(1, 1));
    let payload = answer(&nat64, cached, &[]);
    by_server(&mut nat64, &payload);
    let ask = |nat64: &mut Nat64, port: u16, after: Duration| {
        let mut actions = Vec::new();
        nat64.client_packet(NOW + after, &segment(client(2, port), SYN), &mut actions);
        actions
    };
    // Few requests tell nothing, however long ago, and nor do many in a short time.
    let hour = Duration::from_secs(3600);
    for _ in 1..UNANSWERED_MAX {
        the_request(&ask(&mut nat64, 1, Duration::ZERO));
    }
    the_request(&ask(&mut nat64, 1, hour));
    let payload = answer(&nat64, cached, &[]);
    by_server(&mut nat64, &payload);
    for _ in 0..100 {
        the_request(&ask(&mut nat64, 1, hour));
    }
    let nearly = hour + SILENCE_MAX - Duration::from_nanos(1);
    the_request(&ask(&mut nat64, 1, nearly));
    assert_eq!((nat64.state(SERVER), nat64.take_silent()), (ServerState::Alive, None));
    // A new client is served without it, and it is told of that.
    let actions = ask(&mut nat64, 1, hour + SILENCE_MAX);
    let (own, _) = the_forwarded(&actions);
    assert_eq!(requests(&actions), [nat64.report(NOW, SERVER, &[own])]);
    assert_eq!((nat64.state(SERVER), nat64.take_silent()), (ServerState::Unknown, Some(SERVER)));
    assert_eq!(nat64.take_silent(), None);
    // What it has cached is used, and old connections are still its own.
    assert_eq!(the_forwarded(&by_client(&mut nat64, &segment(client(1, 1), ACK))).0, cached);
    the_request(&by_client(&mut nat64, &segment(client(3, 3), ACK)));
    // It is alive as soon as it answers, and is told of all.
    let payload = answer(&nat64, own, &[]);
    let actions = by_server(&mut nat64, &payload);
    assert_eq!(requests(&actions), [nat64.report(NOW, SERVER, &[cached])]);
    assert_eq!(nat64.state(SERVER), ServerState::Alive);
    the_request(&ask(&mut nat64, 4, hour + 2 * SILENCE_MAX));
}

#[test]
fn section_10_point_12_fragments_go_by_the_entry_where_the_server_is_silent() {
    let mut nat64 = nat64();
    alive(&mut nat64);
    let one = client(1, 1000);
    let payload = answer(&nat64, entry(4000, one), &[]);
    by_server(&mut nat64, &payload);
    let mut packet = segment(one, SYN);
    packet.splice(40..40, [6, 0, 0, 1, 0, 0, 0, 1]);
    packet[5] += 8;
    packet[6] = 44;
    for _ in 0..UNANSWERED_MAX {
        assert!(the_request(&by_client(&mut nat64, &packet)).ends_with(&packet));
    }
    let mut actions = Vec::new();
    nat64.client_packet(NOW + SILENCE_MAX, &packet, &mut actions);
    assert_eq!(the_forwarded(&actions), (entry(4000, one), &packet[..]));
}
