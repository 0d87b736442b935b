use std::net::SocketAddrV6;

use super::packets::*;
use super::*;
use crate::handoff::message::{self, message_type};
use crate::handoff::message::{PROTOCOL_IDENTIFIER, RequestKind, parse};
use crate::ip::packet::icmp_type;

const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
const FROM: SocketAddrV4 = SocketAddrV4::new(SERVER, HANDOFF_PORT);
const PUBLIC: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const NOW: Duration = Duration::from_secs(1000);

fn nat64_of(config: Config) -> Nat64 {
    Nat64::new(config, [7; 32])
}

fn nat64() -> Nat64 {
    nat64_of(Config::new(PUBLIC))
}

/// Tokens and authenticators of no octets: requests are known to the last one.
fn bare() -> Nat64 {
    nat64_of(Config { token_units: 0, authenticator_units: 0, ..Config::new(PUBLIC) })
}

fn client(host: u16, port: u16) -> Client {
    Client {
        prefix: WELL_KNOWN_PREFIX,
        address: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host),
        port,
    }
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

#[test]
fn section_3_client_packet_octets() {
    let mut nat64 = bare();
    alive(&mut nat64);
    let packet = segment(client(0x17, 53186), SYN);
    let actions = by_client(&mut nat64, &packet);
    #[rustfmt::skip]
    assert_eq!(the_request(&actions), [
        0x34, 0, 0x36, 0,
        0x60, 0, 0, 0, 0, 20, 6, 64,
        0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x17,
        0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, 203, 0, 113, 5,
        0xcf, 0xc2, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0x75, 0xfa, 0, 0,
    ]);
}

#[test]
fn section_3_hint_octets() {
    let mut nat64 = nat64_of(Config {
        token_units: 1,
        authenticator_units: 1,
        hints: true,
        ..Config::new(PUBLIC)
    });
    alive(&mut nat64);
    let token = nat64.token(SERVER);
    let authenticator = nat64.authenticator(SERVER, client(1, 0).address);
    let packet = segment(client(1, 0x1234), SYN);
    let actions = by_client(&mut nat64, &packet);
    let expected =
        [&[0x34, 1][..], &token, &[0x36, 1], &authenticator, &[0x38, 1, 0x12, 0x34], &packet]
            .concat();
    assert_eq!(the_request(&actions), expected);
    for port in [80, 3544, 6081, HANDOFF_PORT, nat64.control_port().0] {
        let actions = by_client(&mut nat64, &segment(client(1, port), SYN));
        let request = parse(the_request(&actions)).unwrap();
        let RequestKind::ClientPacket(packet) = request.kind else { panic!("{request:?}") };
        assert_eq!(packet.hint, None, "{port}");
    }
}

#[test]
fn section_3_service_packet_octets() {
    let mut nat64 = bare();
    let packet = ipv4_udp(FROM, SocketAddrV4::new(PUBLIC, 9), b"validation");
    let actions = by_service(&mut nat64, &packet);
    assert_eq!(the_request(&actions), [&[0x34, 0][..], &packet].concat());
    let request = parse(the_request(&actions)).unwrap();
    assert!(matches!(request.kind, RequestKind::ServicePacket { .. }));
    assert_eq!(nat64.state(SERVER), ServerState::Unknown);
}

#[test]
fn section_3_report_octets() {
    let mut nat64 = bare();
    let packet = segment(client(0x17, 53186), SYN);
    let actions = by_client(&mut nat64, &packet);
    let (entry, forwarded) = the_forwarded(&actions);
    assert_eq!(forwarded, packet);
    assert_eq!(entry.client, client(0x17, 53186));
    let [high, low] = entry.port.0.to_be_bytes();
    #[rustfmt::skip]
    let expected = [
        &[0x31, 72][..], PROTOCOL_IDENTIFIER, &[0x34, 0, 0x36, 0, 0x37, 16, high, low],
        &[0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x17, 0xcf, 0xc2],
    ].concat();
    assert_eq!(requests(&actions), [expected]);
    let request = parse(requests(&actions)[0]).unwrap();
    assert!(matches!(
        request.kind,
        RequestKind::Report { packet: None, entry: reported, .. } if reported == entry
    ));
}

#[test]
fn section_3_multi_report_octets() {
    let nat64 = bare();
    let entries =
        [entry(0x1111, client(1, 2)), entry(0x2222, client(1, 3)), entry(0x3333, client(2, 2))];
    let payload = nat64.report(NOW, SERVER, &entries);
    #[rustfmt::skip]
    let expected = [
        &[0x31, 72][..], PROTOCOL_IDENTIFIER, &[0x34, 0],
        &[0x36, 0], &entries[0].emit(), &entries[1].emit(),
        &[0x36, 0], &entries[2].emit(),
    ].concat();
    assert_eq!(payload, expected);
    assert_eq!(parse(&payload).unwrap().kind, RequestKind::MultiReport);
}

#[test]
fn answers_are_cached_and_used_both_ways() {
    let mut nat64 = nat64();
    alive(&mut nat64);
    let (one, packet) = (client(1, 1000), segment(client(1, 1000), SYN));
    assert!(matches!(by_client(&mut nat64, &packet)[..], [Action::Request { .. }]));
    let payload = answer(&nat64, entry(4000, one), &packet);
    let actions = by_server(&mut nat64, &payload);
    assert_eq!(actions, [forward(SERVER, entry(4000, one), &packet)]);
    // From now on both directions are translated without a request.
    let actions = by_client(&mut nat64, &segment(one, ACK));
    assert_eq!(the_forwarded(&actions).0, entry(4000, one));
    let actions = by_service(&mut nat64, &service_segment(4000));
    assert_eq!(actions, [forward(SERVER, entry(4000, one), &service_segment(4000))]);
    // The server gave the port to somebody else: it is authoritative.
    let payload = answer(&nat64, entry(4000, client(2, 5)), &[]);
    assert_eq!(by_server(&mut nat64, &payload), []);
    assert_eq!(nat64.client_of(SERVER, MappedPort(4000)), Some(client(2, 5)));
    assert_eq!(nat64.port_of(SERVER, &one), None);
    assert_eq!(nat64.entries(SERVER).count(), 1);
}

#[test]
fn section_4_shapes() {
    let mut nat64 = nat64();
    alive(&mut nat64);
    let one = client(1, 1000);
    // A service packet with its entry.
    let payload = answer(&nat64, entry(4000, one), &service_segment(4000));
    let actions = by_server(&mut nat64, &payload);
    assert_eq!(the_forwarded(&actions).0, entry(4000, one));
    // An echo reply, translated already.
    let reply = ipv6_echo_request(*service().ip(), one.address, 1, 1, b"x");
    let authenticator = nat64.authenticator(SERVER, one.address);
    let payload = [&message(message_type::AUTHENTICATOR, &authenticator), &reply[..]].concat();
    assert_eq!(by_server(&mut nat64, &payload), [deliver_of(&reply)]);
    // An ICMP error in our name.
    let mut error = service_segment(1);
    error[12..20].copy_from_slice(&[192, 0, 2, 7, 203, 0, 113, 5]);
    let payload = returned(&nat64, &error);
    assert_eq!(by_server(&mut nat64, &payload), [deliver_of(&error)]);
    // A packet that came back finds an entry that was made meanwhile.
    let payload = returned(&nat64, &service_segment(4000));
    let actions = by_server(&mut nat64, &payload);
    assert_eq!(the_forwarded(&actions).0, entry(4000, one));
}

fn deliver_of(packet: &[u8]) -> Action {
    Action::Deliver { packet: packet.to_vec() }
}

#[test]
fn what_cannot_be_verified_is_ignored_and_counted() {
    let one = client(1, 1000);
    let template = nat64();
    let good = answer(&template, entry(4000, one), &[]);
    let flipped = |at: usize, payload: &[u8]| {
        let mut payload = payload.to_vec();
        payload[at] ^= 1;
        payload
    };
    let packet = segment(one, ACK);
    let other = segment(client(2, 1000), ACK);
    let token = message(message_type::TOKEN, &template.token(SERVER));
    let authenticator = template.authenticator(SERVER, one.address);
    let authenticator = message(message_type::AUTHENTICATOR, &authenticator);
    let mut elsewhere = entry(4000, one);
    elsewhere.client.prefix = Prefix96([9; 12]);
    let cases = [
        (vec![], Ignored::Malformed),
        (vec![0x34], Ignored::Malformed),
        (vec![0x50, 0], Ignored::Malformed),
        (token.clone(), Ignored::Shape),
        (authenticator.clone(), Ignored::Shape),
        (entry(4000, one).emit().to_vec(), Ignored::Shape),
        (service_segment(4000), Ignored::Shape),
        ([&token[..], &packet].concat(), Ignored::Shape),
        (flipped(5, &good), Ignored::BadAuthenticator),
        (flipped(2, &returned(&template, &service_segment(1))), Ignored::BadToken),
        // The right authenticator of another client.
        (
            [&authenticator[..], &entry(4000, client(2, 1)).emit()].concat(),
            Ignored::BadAuthenticator,
        ),
        ([&flipped(2, &token)[..], &good].concat(), Ignored::BadToken),
        (answer(&template, entry(1023, one), &[]), Ignored::BadEntry),
        (answer(&template, entry(3544, one), &[]), Ignored::BadEntry),
        (answer(&template, entry(template.control_port().0, one), &[]), Ignored::BadEntry),
        (answer(&template, entry(4000, client(1, 0)), &[]), Ignored::BadEntry),
        (answer(&template, elsewhere, &[]), Ignored::BadEntry),
        (answer(&template, entry(4000, one), &other), Ignored::PacketMismatch),
        (answer(&template, entry(4000, one), &service_segment(4001)), Ignored::PacketMismatch),
        ([&authenticator[..], &packet].concat(), Ignored::BadAuthenticator),
        (
            [
                &message(
                    message_type::AUTHENTICATOR,
                    &template.authenticator(SERVER, *service().ip()),
                )[..],
                &packet,
            ]
            .concat(),
            Ignored::PacketMismatch,
        ),
        (
            returned(&template, &ipv4_udp(FROM, SocketAddrV4::new(SERVER, 9), b"")),
            Ignored::PacketMismatch,
        ),
    ];
    for (payload, reason) in cases {
        let mut nat64 = nat64();
        assert_eq!(by_server(&mut nat64, &payload), [], "{reason:?}");
        let counted: Vec<_> =
            Ignored::ALL.iter().copied().filter(|&reason| nat64.ignored(reason) != 0).collect();
        assert_eq!(counted, [reason], "{payload:02x?}");
    }
    // Every truncation, and the wrong port.
    let whole = answer(&template, entry(4000, one), &packet);
    for length in 0..whole.len() {
        let mut nat64 = nat64();
        let actions = by_server(&mut nat64, &whole[..length]);
        assert_eq!(actions, [], "{length}");
    }
    let mut nat64 = nat64();
    let mut actions = Vec::new();
    nat64.control_payload(NOW, SocketAddrV4::new(SERVER, 1), &whole, &mut actions);
    assert_eq!((actions, nat64.ignored(Ignored::NotHandoffPort)), (vec![], 1));
}

#[test]
fn section_10_repair_1_old_connections_go_to_the_server() {
    let mut nat64 = nat64();
    let one = client(1, 1000);
    let actions = by_client(&mut nat64, &segment(one, ACK));
    let request = parse(the_request(&actions)).unwrap();
    assert!(matches!(request.kind, RequestKind::ClientPacket(_)));
    assert_eq!(nat64.port_of(SERVER, &one), None);
    // The server knows it.
    let payload = answer(&nat64, entry(4000, one), &segment(one, ACK));
    let actions = by_server(&mut nat64, &payload);
    assert_eq!(actions, [forward(SERVER, entry(4000, one), &segment(one, ACK))]);
    // But where nobody listens, it must go on without.
    let mut nat64 = self::nat64();
    let asked = by_client(&mut nat64, &segment(one, ACK));
    nat64.port_unreachable(NOW, SERVER, the_request(&asked));
    assert_eq!(nat64.state(SERVER), ServerState::Dead);
    let actions = by_client(&mut nat64, &segment(one, ACK));
    assert_eq!(the_forwarded(&actions).0.client, one);
}

#[test]
fn section_10_repair_2_own_entries_are_reported_when_the_server_is_known() {
    let mut nat64 = nat64();
    let mut own = Vec::new();
    for host in 1..=50 {
        for port in [1, 2] {
            let actions = by_client(&mut nat64, &segment(client(host, port), SYN));
            own.push(the_forwarded(&actions).0);
            assert_eq!(requests(&actions).len(), 1);
        }
    }
    let payload = returned(&nat64, &service_segment(9));
    let actions = by_server(&mut nat64, &payload);
    let mut reported = Vec::new();
    for payload in requests(&actions) {
        assert!(payload.len() <= MULTI_REPORT_MAX, "{}", payload.len());
        assert_eq!(parse(payload).unwrap().kind, RequestKind::MultiReport);
        for (authenticator, entry) in message::multi_report(payload) {
            let expected = nat64.authenticator(SERVER, entry.client.address);
            assert_eq!(authenticator.of(payload), expected);
            reported.push(entry);
        }
    }
    assert_eq!(reported, own);
    // One answer is enough for one multi report; the others are repeated.
    let multi_reports = requests(&actions).len();
    let payload = answer(&nat64, own[0], &[]);
    assert_eq!(by_server(&mut nat64, &payload), []);
    let repeated = tick(&mut nat64, NOW + REPORT_INTERVAL);
    assert_eq!(requests(&repeated), requests(&actions)[1..]);
    assert_eq!(repeated.len(), multi_reports - 1);
}

#[test]
fn section_10_repair_2_a_report_is_repeated_three_times() {
    let mut nat64 = nat64();
    let actions = by_client(&mut nat64, &segment(client(1, 1), SYN));
    let first = requests(&actions)[0].to_vec();
    let mut sent = 0;
    for second in 0..60 {
        for payload in requests(&tick(&mut nat64, NOW + Duration::from_secs(second))) {
            assert_eq!(payload, first);
            sent += 1;
        }
    }
    assert_eq!(sent, REPORT_REPEATS_MAX);
}

/// All entries in the requests, which are reports.
fn reported(actions: &[Action]) -> Vec<Entry> {
    let entries =
        requests(actions).into_iter().flat_map(|payload| match parse(payload).unwrap().kind {
            RequestKind::Report { entry, .. } => vec![entry],
            _ => message::multi_report(payload).map(|(_, entry)| entry).collect(),
        });
    entries.collect()
}

#[test]
fn section_10_repair_2_an_answer_about_one_client_is_none_to_a_report_of_many() {
    let mut nat64 = nat64();
    // Each is reported alone, and a late one of these reports reaches a server that has just begun.
    let own: Vec<Entry> = (1..=3000)
        .map(|port| the_forwarded(&by_client(&mut nat64, &segment(client(1, port), SYN))).0)
        .collect();
    let payload = answer(&nat64, own[0], &[]);
    let at_once = reported(&by_server(&mut nat64, &payload));
    // It answers others, too: some that stand in reports that left, some in reports that did not yet.
    for &entry in own.iter().skip(5).step_by(31) {
        let payload = answer(&nat64, entry, &[]);
        assert_eq!(by_server(&mut nat64, &payload), []);
    }
    let soon = NOW + REPORT_INTERVAL / 2;
    let then = reported(&tick(&mut nat64, soon));
    let all: Vec<Entry> = [own[..1].to_vec(), at_once.clone(), then].concat();
    assert!(all == own, "{} of {} are reported", all.len(), own.len());
    // Those that left at once are repeated, but for the few whose first client the server named by chance.
    let again = reported(&tick(&mut nat64, NOW + REPORT_INTERVAL));
    assert!(2 * again.len() > at_once.len(), "{} of {}", again.len(), at_once.len());
}

#[test]
fn section_10_repair_3_an_own_entry_in_use_stands() {
    let mut nat64 = nat64();
    let one = client(1, 1000);
    let actions = by_client(&mut nat64, &segment(one, SYN));
    let (own, _) = the_forwarded(&actions);
    let other = if own.port.0 == 4000 { 4001 } else { 4000 };
    // The server has the client on another port.
    let payload = answer(&nat64, entry(other, one), &segment(one, ACK));
    let actions = by_server(&mut nat64, &payload);
    assert_eq!(actions[0], forward(SERVER, own, &segment(one, ACK)));
    assert_eq!(nat64.port_of(SERVER, &one), Some(own.port));
    // It has another client on our port.
    let payload = answer(&nat64, entry(own.port.0, client(2, 2)), &segment(client(2, 2), ACK));
    assert_eq!(by_server(&mut nat64, &payload), []);
    assert_eq!(nat64.client_of(SERVER, own.port), Some(one));
    assert_eq!(nat64.ignored(Ignored::Contradicted), 2);
    // Where that one opens a connection, it gets another port, and the server hears of it.
    let payload = answer(&nat64, entry(own.port.0, client(2, 2)), &segment(client(2, 2), SYN));
    let actions = by_server(&mut nat64, &payload);
    let (others, packet) = the_forwarded(&actions);
    assert_eq!((others.client, packet), (client(2, 2), &segment(client(2, 2), SYN)[..]));
    assert_ne!(others.port, own.port);
    let [reported] = requests(&actions)[..] else { panic!("{actions:?}") };
    let RequestKind::Report { entry: reported, .. } = parse(reported).unwrap().kind else {
        panic!("no report");
    };
    assert_eq!(reported, others);
    // What the server says to that changes nothing, and goes round no more.
    let payload = answer(&nat64, entry(own.port.0, client(2, 2)), &[]);
    assert_eq!(by_server(&mut nat64, &payload), []);
    assert_eq!(nat64.port_of(SERVER, &client(2, 2)), Some(others.port));
    assert_eq!(tick(&mut nat64, NOW + 60 * REPORT_INTERVAL), []);
    // When no connection depends on it any more, the server is asked and believed.
    tick(&mut nat64, NOW + TCP_ESTABLISHED_LIFETIME);
    let actions = by_client(&mut nat64, &segment(one, SYN));
    the_request(&actions);
    let payload = answer(&nat64, entry(other, one), &segment(one, SYN));
    let actions = by_server(&mut nat64, &payload);
    assert_eq!(the_forwarded(&actions).0, entry(other, one));
}

/// A router's error about `about`, which went from the NAT64 to a server.
fn icmp_error(about: &[u8]) -> Vec<u8> {
    let router = SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 1), 0);
    let message = [&[icmp_type::UNREACHABLE, 1, 0, 0, 0, 0, 0, 0][..], about].concat();
    let mut packet = ipv4_udp(router, SocketAddrV4::new(PUBLIC, 0), &message);
    packet.drain(20..28);
    let length = packet.len() as u16;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet[9] = 1;
    packet
}

#[test]
fn section_10_repair_4_icmp_errors_go_to_the_quoted_destination() {
    let mut nat64 = nat64();
    let sent = |port| {
        let from = SocketAddrV4::new(PUBLIC, port);
        ipv4_tcp(from, SocketAddrV4::new(SERVER, 80), SYN, b"")
    };
    let error = icmp_error(&sent(4000));
    let actions = by_service(&mut nat64, &error);
    assert!(the_request(&actions).ends_with(&error));
    // With an entry it goes to the client, without a request.
    let payload = answer(&nat64, entry(4000, client(1, 1)), &error);
    let actions = by_server(&mut nat64, &payload);
    assert_eq!(the_forwarded(&actions), (entry(4000, client(1, 1)), &error[..]));
    let actions = by_service(&mut nat64, &error);
    assert_eq!(the_forwarded(&actions), (entry(4000, client(1, 1)), &error[..]));
}

#[test]
fn every_length_of_token_and_authenticator() {
    for (token_units, authenticator_units) in [(0, 0), (0, 255), (255, 0), (255, 255), (1, 9)] {
        let config = Config { token_units, authenticator_units, ..Config::new(PUBLIC) };
        let mut nat64 = nat64_of(config);
        let one = client(1, 1);
        assert_eq!(nat64.token(SERVER).len(), 2 * usize::from(token_units));
        for host in 1..=3 {
            by_client(&mut nat64, &segment(client(host, 1), SYN));
        }
        nat64.rotate_token(NOW);
        let payload = returned(&nat64, &service_segment(9));
        let actions = by_server(&mut nat64, &payload);
        let reports = requests(&actions);
        let entries: usize = reports
            .iter()
            .map(|payload| {
                assert!(payload.len() <= MULTI_REPORT_MAX);
                match parse(payload).unwrap().kind {
                    RequestKind::Report { .. } => 1,
                    _ => message::multi_report(payload).count(),
                }
            })
            .sum();
        assert_eq!(entries, 3);
        let actions = by_client(&mut nat64, &segment(client(9, 9), ACK));
        let payload = the_request(&actions);
        let request = parse(payload).unwrap();
        assert_eq!(request.token.of(payload), nat64.token(SERVER));
        let authenticator = request.authenticator.unwrap().of(payload);
        assert_eq!(authenticator, nat64.authenticator(SERVER, client(9, 9).address));
        let port = nat64.port_of(SERVER, &one).unwrap();
        let payload = answer(&nat64, entry(port.0, one), &[]);
        by_server(&mut nat64, &payload);
        assert!(Ignored::ALL.iter().all(|&reason| nat64.ignored(reason) == 0));
    }
}

#[test]
fn a_rotation_tells_the_token_before_for_a_while() {
    let mut nat64 = nat64();
    let before = nat64.token(SERVER);
    let old = returned(&nat64, &service_segment(9));
    nat64.rotate_token(NOW);
    assert_ne!(nat64.token(SERVER), before);
    let actions = by_service(&mut nat64, &service_segment(9));
    let payload = the_request(&actions);
    let request = parse(payload).unwrap();
    assert_eq!(request.rotation.unwrap().of(payload), before);
    assert_eq!(request.token.of(payload), nat64.token(SERVER));
    assert_eq!(by_server(&mut nat64, &old).len(), 1);
    let later = NOW + ROTATION_LIFETIME;
    let mut actions = Vec::new();
    nat64.service_packet(later, &service_segment(9), &mut actions);
    assert_eq!(parse(the_request(&actions)).unwrap().rotation, None);
    actions.clear();
    nat64.control_payload(later, FROM, &old, &mut actions);
    assert_eq!((actions.len(), nat64.ignored(Ignored::BadToken)), (0, 1));
}

#[test]
fn a_dead_server_comes_back() {
    let mut nat64 = nat64();
    alive(&mut nat64);
    let cached = entry(4000, client(1, 1));
    let payload = answer(&nat64, cached, &[]);
    by_server(&mut nat64, &payload);
    // Without the token anybody could say so.
    let request = [&message(message_type::TOKEN, &[0; 16])[..], &service_segment(9)].concat();
    nat64.port_unreachable(NOW, SERVER, &request);
    nat64.port_unreachable(NOW, SERVER, &[]);
    assert_eq!(nat64.state(SERVER), ServerState::Alive);
    let request = returned(&nat64, &service_segment(9));
    nat64.port_unreachable(NOW, SERVER, &request[..17]);
    assert_eq!(nat64.state(SERVER), ServerState::Alive);
    nat64.port_unreachable(NOW, SERVER, &request[..18]);
    assert_eq!(nat64.state(SERVER), ServerState::Dead);
    // What is cached is used; the rest is made here and reported once.
    let actions = by_client(&mut nat64, &segment(client(1, 1), ACK));
    assert_eq!(actions, [forward(SERVER, cached, &segment(client(1, 1), ACK))]);
    let actions = by_client(&mut nat64, &segment(client(2, 2), SYN));
    let (own, _) = the_forwarded(&actions);
    assert_eq!(requests(&actions), [nat64.report(NOW, SERVER, &[own])]);
    assert_eq!(tick(&mut nat64, NOW + Duration::from_secs(100)), []);
    let ping = ipv6_echo_request(client(1, 1).address, *service().ip(), 1, 1, b"");
    assert_eq!(by_client(&mut nat64, &ping), []);
    assert_eq!(nat64.ignored(Ignored::ServerDead), 1);
    // It answers that report, so it is alive and told everything else.
    let payload = answer(&nat64, own, &[]);
    let actions = by_server(&mut nat64, &payload);
    assert_eq!(requests(&actions), [nat64.report(NOW, SERVER, &[cached])]);
    assert_eq!(nat64.state(SERVER), ServerState::Alive);
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
        let one = client((number >> 10) as u16, 1 + (number & 1023) as u16);
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
        let nat64 = nat64_of(Config { handoff_port, ..Config::new(PUBLIC) });
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
fn packets_that_are_none_of_its_business() {
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

mod arbitrary {
    use super::*;
    use proptest::prelude::*;

    /// What is done to a packet or payload that was in order.
    #[derive(Debug, Clone)]
    struct Damage {
        flips: Vec<(usize, u8)>,
        cut: Option<usize>,
    }

    fn damage() -> impl Strategy<Value = Damage> {
        let flips = prop::collection::vec((any::<usize>(), any::<u8>()), 0..3);
        (flips, prop::option::weighted(0.1, any::<usize>()))
            .prop_map(|(flips, cut)| Damage { flips, cut })
    }

    fn damaged(mut octets: Vec<u8>, damage: &Damage) -> Vec<u8> {
        for &(at, bits) in &damage.flips {
            let at = at % octets.len();
            octets[at] ^= bits;
        }
        octets.truncate(damage.cut.map_or(usize::MAX, |cut| cut % 200));
        octets
    }

    proptest! {
        /// No input panics, and the entries stay unique both ways.
        #[test]
        fn no_input_breaks_it(
            steps in prop::collection::vec((0_u8..8, 0_u16..8, 1024_u16..1032, damage()), 1..60),
        ) {
            let mut nat64 = nat64();
            let mut now = NOW;
            let mut actions = Vec::new();
            for (kind, host, port, damage) in steps {
                let one = client(host, 1 + port % 3);
                let with = |octets| damaged(octets, &damage);
                match kind {
                    0 => nat64.client_packet(now, &with(segment(one, SYN)), &mut actions),
                    1 => nat64.client_packet(now, &with(segment(one, ACK)), &mut actions),
                    2 => nat64.service_packet(now, &with(service_segment(port)), &mut actions),
                    3 => {
                        let payload = with(answer(&nat64, entry(port, one), &segment(one, ACK)));
                        nat64.control_payload(now, FROM, &payload, &mut actions);
                    }
                    4 => {
                        let payload = with(returned(&nat64, &service_segment(port)));
                        nat64.control_payload(now, FROM, &payload, &mut actions);
                    }
                    5 => {
                        let payload = with(returned(&nat64, &service_segment(port)));
                        nat64.port_unreachable(now, SERVER, &payload);
                    }
                    6 => nat64.service_packet(now, &with(icmp_error(&service_segment(port))), &mut actions),
                    _ => {
                        now += Duration::from_secs(u64::from(port - 1024) * 60);
                        nat64.tick(now, &mut actions);
                    }
                }
                for action in actions.drain(..) {
                    if let Action::Request { payload, .. } = action {
                        prop_assert!(parse(&payload).is_ok());
                    }
                }
                let entries: Vec<Entry> = nat64.entries(SERVER).collect();
                for entry in entries {
                    prop_assert_eq!(nat64.client_of(SERVER, entry.port), Some(entry.client));
                }
            }
        }
    }
}
