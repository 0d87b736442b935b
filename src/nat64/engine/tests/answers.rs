//! What a server says (PROTOCOL.md section 4): believed, used, or ignored.

use super::*;

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
        (answer(&template, entry(template.control_port().0, one), &[]), Ignored::Contradicted),
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
}

/// A server that knows the NAT64 by another address is alive all the same.
#[test]
fn section_10_a_right_token_is_a_sign_of_life() {
    let mut nat64 = nat64();
    let payload = returned(&nat64, &ipv4_udp(FROM, SocketAddrV4::new(SERVER, 9), b""));
    assert_eq!(nat64.state(SERVER), ServerState::Unknown);
    assert_eq!(by_server(&mut nat64, &payload), []);
    assert_eq!(nat64.state(SERVER), ServerState::Alive);
    assert_eq!(nat64.ignored(Ignored::PacketMismatch), 1);
}

#[test]
fn truncated_payloads_and_those_from_another_port_are_ignored() {
    let one = client(1, 1000);
    let whole = answer(&nat64(), entry(4000, one), &segment(one, ACK));
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
