//! PROTOCOL.md section 5. Who is a NAT64: identities, proofs, limits.

use super::*;

#[test]
fn section_5_nothing_is_kept_before_the_proof() {
    let mut shard = Shard::new(|_| {});
    for i in 0..100 {
        let table = TableKey { local: LOCAL, nat64: Ipv4Addr::from(0x0a00_0000 + i) };
        let payload = client_packet(&udp6(CLIENT, 1));
        for (to, reply) in shard.send_between(table, CONTROL, &payload) {
            assert_eq!(to, SocketAddrV4::new(table.nat64, 9));
            assert!(reply.len() <= payload.len());
        }
        assert_eq!((shard.server.nat64s(), shard.outbox.changes.len()), (0, 0));
    }
    assert_eq!(shard.server.stats().dropped(DropReason::Attenuated), shard.drops().len() as u64);
}

#[test]
fn section_5_proof_initializes_and_is_returned_with_ttl_1() {
    let mut shard = Shard::new(|_| {});
    let question = client_packet(&udp6(CLIENT, 1));
    let validation = shard.send(&question).remove(0).1;
    let mut packet = returned(NAT64, &validation);
    let proof = service_packet(&packet);
    let reply = shard.ask(&proof);
    assert_eq!(shard.events(), [Change::Initialized]);
    ipv4::set_ttl(&mut packet, 1);
    assert_eq!(reply, service_packet(&packet));
    // Another validation packet was under way: its proof is one still, and nothing is initialized
    // again.
    assert_eq!(shard.ask(&proof), service_packet(&packet));
    assert_eq!(shard.outbox.changes, []);
}

#[test]
fn section_5_a_proof_to_a_mapped_port_is_answered_from_its_entry() {
    let mut shard = Shard::known();
    let own = make(&mut shard, CLIENT, 1);
    // Another identity of the same NAT64 returns its proof in a packet for that port.
    let table = TableKey { local: LOCAL, nat64: NAT64 };
    let question = client_packet(&udp6(CLIENT, 1));
    let validation = shard.send_between(table, CONTROL + 1, &question).remove(0).1;
    let data = [&transport(80, own.port.0)[..], &validation].concat();
    let packet = ip4(protocol::TCP, LOCAL, NAT64, &data);
    let sent = shard.send_between(table, CONTROL + 1, &service_packet(&packet));
    let expected = answer(AUTHENTICATOR, own, &packet);
    assert_eq!(sent, [(SocketAddrV4::new(NAT64, CONTROL + 1), expected)]);
    assert!(shard.server.is_known(table, ControlPort(CONTROL + 1), TOKEN));
}

#[test]
fn section_5_a_wrong_proof_is_none() {
    let mut shard = Shard::new(|_| {});
    let validation = shard.send(&client_packet(&udp6(CLIENT, 1))).remove(0).1;
    let proof = service_packet(&returned(NAT64, &validation));
    for at in proof.len() - 16..proof.len() {
        let mut wrong = proof.clone();
        wrong[at] ^= 0x10;
        shard.send(&wrong);
    }
    let elsewhere = [
        (TableKey { local: NAT64, nat64: NAT64 }, CONTROL),
        (TableKey { local: LOCAL, nat64: LOCAL }, CONTROL),
        (TableKey { local: LOCAL, nat64: NAT64 }, CONTROL + 1),
    ];
    for (table, port) in elsewhere {
        shard.send_between(table, port, &proof);
    }
    shard.send(&[message(4, b"other!"), returned(NAT64, &validation)].concat());
    assert_eq!(shard.server.nat64s(), 0);
    shard.time += Duration::from_secs(121);
    shard.send(&proof);
    assert_eq!(shard.server.nat64s(), 0);
}

#[test]
fn section_5_rotation() {
    let mut shard = Shard::known();
    let packet = udp6(CLIENT, 1);
    let rotation = |old: &[u8]| {
        [&message(5, old), &message(4, b"new-token-"), &message(6, AUTHENTICATOR), &packet[..]]
            .concat()
    };
    assert_eq!(shard.send(&rotation(b"unknown!")).remove(0).0.port(), 9);
    let table = TableKey { local: LOCAL, nat64: NAT64 };
    let elsewhere = shard.send_between(table, CONTROL + 1, &rotation(TOKEN));
    assert!(elsewhere.iter().all(|(to, _)| to.port() == 9));
    assert!(shard.ask(&rotation(TOKEN)).ends_with(&packet));
    assert!(shard.server.is_known(table, ControlPort(CONTROL), b"new-token-"));
    assert!(shard.server.is_known(table, ControlPort(CONTROL), TOKEN));
}

#[test]
fn section_5_rotation_keeps_the_token_before() {
    let mut shard = Shard::known();
    for i in 0..3 {
        shard.prove(NAT64, 41000 + i, b"other!");
    }
    // Four are known, and the first is the least recently used: it is the one that rotates.
    let packet = udp6(CLIENT, 1);
    let request =
        [&message(5, TOKEN), &message(4, b"new-token-"), &message(6, AUTHENTICATOR), &packet[..]];
    assert!(shard.ask(&request.concat()).ends_with(&packet));
    assert!(shard.ask(&client_packet(&packet)).ends_with(&packet), "in flight with the old token");
}

/// Whoever has the address by then is sent nothing that is longer than what was sent in its name.
#[test]
fn section_5_an_identity_unused_for_a_day_proves_itself_again() {
    let mut shard = Shard::known();
    let own = make(&mut shard, CLIENT, 1);
    let table = TableKey { local: LOCAL, nat64: NAT64 };
    let day = Duration::from_secs(24 * 60 * 60);
    shard.time += day - Duration::from_secs(1);
    make_again(&mut shard, own);
    shard.time += day;
    let rotation =
        [message(5, TOKEN), message(4, b"new-token-"), message(6, AUTHENTICATOR), udp6(CLIENT, 1)];
    let conflicting = entry(own.port.0 ^ 1, own.client);
    let requests = [
        client_packet(&udp6(CLIENT, 1)),
        service_packet(&to_mapped(own.port.0)),
        report(AUTHENTICATOR, &[own]),
        report(AUTHENTICATOR, &[conflicting; 20]),
        rotation.concat(),
    ];
    let (mut asked, mut sent) = (0, 0);
    for request in requests.iter().cycle().take(50) {
        asked += request.len();
        for (to, octets) in shard.send(request) {
            assert_eq!(to, SocketAddrV4::new(NAT64, VALIDATION_PORT));
            assert!(octets.len() <= request.len());
            sent += octets.len();
        }
        assert_eq!(shard.outbox.changes, []);
    }
    assert!(sent > 0 && sent <= asked, "{sent} octets for {asked}");
    // It proves itself, and finds its entry as it was.
    shard.prove(NAT64, CONTROL, TOKEN);
    assert_eq!(shard.events(), []);
    make_again(&mut shard, own);
    assert!(shard.server.is_known(table, ControlPort(CONTROL), TOKEN));
    assert!(!shard.server.is_known(table, ControlPort(CONTROL), b"new-token-"));
}

/// Requests in its name keep an identity in use, also where its address is another's by now, and an
/// answer may be longer than they. It is asked for its proof while it is answered, and what it does
/// not prove in two days is not known any more.
#[test]
fn section_5_an_identity_in_use_proves_itself_again() {
    let question = client_packet(&udp6(CLIENT, 1));
    let rotation =
        [message(5, TOKEN), message(4, b"new-token-"), message(6, AUTHENTICATOR), udp6(CLIENT, 1)];
    let rotation = rotation.concat();
    for proves in [true, false] {
        let mut shard = Shard::known();
        let own = make(&mut shard, CLIENT, 1);
        shard.ask(&rotation);
        let (mut answered, mut asked) = (0, 0);
        // Three days, a request each half hour, of the identity or of its successor.
        for half in 0..2 * 72 {
            let successor = [&message(4, b"new-token-")[..], &question[8..]].concat();
            let (token, request) = match half % 2 {
                0 => (TOKEN, question.clone()),
                _ => (&b"new-token-"[..], successor),
            };
            for (to, octets) in shard.send(&request) {
                if to.port() == CONTROL {
                    assert_eq!(octets, answer(AUTHENTICATOR, own, &udp6(CLIENT, 1)));
                    answered += 1;
                    continue;
                }
                assert!(to.port() == VALIDATION_PORT && octets.len() <= request.len());
                asked += 1;
                if proves {
                    let proof = [&message(4, token)[..], &returned(NAT64, &octets)].concat();
                    let reply = shard.ask(&proof);
                    assert_eq!(reply[..token.len() + 2], message(4, token), "with the token");
                    assert_eq!(reply[token.len() + 2 + 8], 1, "its TTL is 1");
                }
            }
            assert_eq!(shard.events(), []);
            // Once a minute, it is not asked again.
            assert!(shard.send(&request).iter().all(|(to, _)| to.port() == CONTROL) || !proves);
            shard.time += Duration::from_secs(30 * 60);
        }
        if proves {
            // Each was asked twice.
            assert_eq!((answered, asked), (2 * 72, 4));
        } else {
            assert_eq!(answered, 2 * 48, "for two days");
        }
    }
}

/// The entry that was made before is answered.
fn make_again(shard: &mut Shard, own: Entry) {
    assert_eq!(make(shard, CLIENT, 1), own);
}

#[test]
fn section_5_limits_are_silent() {
    let mut shard = Shard::new(|config| config.budget = Arc::new(Budget::new(1, 1000)));
    shard.prove(NAT64, CONTROL, TOKEN);
    let other = TableKey { local: LOCAL, nat64: Ipv4Addr::new(192, 0, 2, 8) };
    let validation = shard.send_between(other, CONTROL, &client_packet(&udp6(CLIENT, 1)));
    let proof = service_packet(&returned(other.nat64, &validation[0].1));
    for _ in 0..5 {
        assert_eq!(shard.send_between(other, CONTROL, &proof), []);
        assert_eq!(shard.outbox.changes, []);
    }
    assert_eq!(shard.drops(), [DropReason::Nat64sLimit; 5]);

    let mut shard = Shard::new(|config| config.budget = Arc::new(Budget::new(10, 2)));
    shard.prove(NAT64, CONTROL, TOKEN);
    let first = make(&mut shard, "2001:db8::1", 1);
    make(&mut shard, "2001:db8::2", 1);
    let validation = shard.send_between(other, CONTROL, &client_packet(&udp6(CLIENT, 1)));
    let proof = service_packet(&returned(other.nat64, &validation[0].1));
    assert_eq!(shard.send_between(other, CONTROL, &proof), []);
    assert_eq!(shard.server.stats().dropped(DropReason::EntriesLimit), 1);
    // The table that exists goes on by replacing its own.
    let third = make(&mut shard, "2001:db8::3", 1);
    assert_eq!(third.port, first.port);
    assert_eq!(shard.server.entries().count(), 2);
}

#[test]
fn section_5_access_lists() {
    let net = |text: &str| text.parse::<Ipv4Net>().unwrap();
    let list = AccessList { allow: vec![net("192.0.2.0/24")], deny: vec![net("192.0.2.128/25")] };
    assert!(list.permits(NAT64));
    assert!(!list.permits(Ipv4Addr::new(192, 0, 2, 200)));
    assert!(!list.permits(Ipv4Addr::new(198, 51, 100, 1)));
    assert!(AccessList::default().permits(Ipv4Addr::new(198, 51, 100, 1)));
    let mut shard = Shard::new(|config| {
        config.access = Arc::new(AccessList { deny: vec![net("192.0.2.7/32")], ..list })
    });
    assert_eq!(shard.dropped(&client_packet(&udp6(CLIENT, 1))), DropReason::NotAllowed);
}

#[test]
fn section_5_port_0_is_never_answered() {
    let mut shard = Shard::new(|_| {});
    let table = TableKey { local: LOCAL, nat64: NAT64 };
    assert_eq!(shard.send_between(table, 0, &client_packet(&udp6(CLIENT, 1))), []);
    assert_eq!(shard.drops(), [DropReason::SourcePortZero]);
}
