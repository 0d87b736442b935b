//! The octets of requests (PROTOCOL.md section 3), and the tokens in them.

use super::*;

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
    let mut nat64 = nat64_of(Nat64Config {
        token_units: 1,
        authenticator_units: 1,
        hints: true,
        ..Nat64Config::new(PUBLIC)
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
fn every_length_of_token_and_authenticator() {
    for (token_units, authenticator_units) in [(0, 0), (0, 255), (255, 0), (255, 255), (1, 9)] {
        let config = Nat64Config { token_units, authenticator_units, ..Nat64Config::new(PUBLIC) };
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
