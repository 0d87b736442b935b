//! The four repairs of PROTOCOL.md section 10.

use super::*;

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
            let actions = by_client(&mut nat64, &segment(alone(host, port), SYN));
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
    // One answer answers one multi report; the others are repeated. The first one may be to the
    // report that was sent before.
    let multi_reports = requests(&actions).len();
    let payload = answer(&nat64, own[0], &[]);
    for _ in 0..2 {
        assert_eq!(by_server(&mut nat64, &payload), []);
    }
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
    // It also names clients of reports that were sent, and of some that were not yet.
    for &entry in own.iter().skip(5).step_by(31) {
        let payload = answer(&nat64, entry, &[]);
        assert_eq!(by_server(&mut nat64, &payload), []);
    }
    let soon = NOW + REPORT_INTERVAL / 2;
    let then = reported(&tick(&mut nat64, soon));
    let all: Vec<Entry> = [own[..1].to_vec(), at_once.clone(), then].concat();
    assert!(all == own, "{} of {} are reported", all.len(), own.len());
    // Those sent at once are repeated, except the few whose first client was named by chance.
    let again = reported(&tick(&mut nat64, NOW + REPORT_INTERVAL));
    assert!(2 * again.len() > at_once.len(), "{} of {}", again.len(), at_once.len());
}

/// Two clients came before the server was known. That begins with an answer to the validation, and
/// then it answers the report of the one, which it had got before the report of both: that one was
/// lost.
#[test]
fn section_10_repair_5_an_answer_to_a_report_of_one_is_none_to_the_report_of_both() {
    let mut nat64 = nat64();
    let [one, other] =
        [1, 2].map(|host| the_forwarded(&by_client(&mut nat64, &segment(alone(host, 1), SYN))).0);
    let payload = returned(&nat64, &service_segment(9));
    let actions = by_server(&mut nat64, &payload);
    assert_eq!(reported(&actions), [one, other]);
    for entry in [one, other] {
        let payload = answer(&nat64, entry, &[]);
        assert_eq!(by_server(&mut nat64, &payload), []);
    }
    let again = tick(&mut nat64, NOW + REPORT_INTERVAL);
    assert_eq!(requests(&again), requests(&actions));
    // Now it is the answer to both.
    let payload = answer(&nat64, one, &[]);
    assert_eq!(by_server(&mut nat64, &payload), []);
    assert_eq!(tick(&mut nat64, NOW + 60 * REPORT_INTERVAL), []);
}

/// A request about a packet of the one waited at the server, which does not understand the report
/// of both: it knows neither of our last two tokens.
#[test]
fn section_10_repair_2_an_answer_with_a_packet_is_none_to_a_report_of_many() {
    let mut nat64 = nat64();
    let [one, _] =
        [1, 2].map(|host| the_forwarded(&by_client(&mut nat64, &segment(alone(host, 1), SYN))).0);
    // The server's host says that nobody listens: what awaited an answer does so no more.
    nat64.peers.get_mut(&SERVER).unwrap().dies(NOW);
    let payload = returned(&nat64, &service_segment(9));
    let actions = by_server(&mut nat64, &payload);
    assert_eq!(reported(&actions).len(), 2);
    let payload = answer(&nat64, one, &segment(one.client, ACK));
    assert_eq!(by_server(&mut nat64, &payload).len(), 1, "the packet is forwarded");
    let again = tick(&mut nat64, NOW + REPORT_INTERVAL);
    assert_eq!(requests(&again), requests(&actions));
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
    // It may answer anything else about this client: it is told of our entry once more.
    assert_eq!(requests(&actions), [nat64.report(NOW, SERVER, &[own])]);
    let payload = answer(&nat64, entry(other, one), &[]);
    assert_eq!(by_server(&mut nat64, &payload), []);
    // It has another client on our port.
    let payload = answer(&nat64, entry(own.port.0, client(2, 2)), &segment(client(2, 2), ACK));
    assert_eq!(by_server(&mut nat64, &payload), []);
    assert_eq!(nat64.client_of(SERVER, own.port), Some(one));
    assert_eq!(nat64.ignored(Ignored::Contradicted), 3);
    // Where that client opens a connection, it gets another port, which is reported.
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
    // The answer to that changes nothing and causes no further request.
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

/// A NAT on the way gives the control channel another port, so the server may map the one that it
/// has here.
#[test]
fn section_10_repair_6_the_control_port_is_no_clients() {
    let mut nat64 = nat64();
    alive(&mut nat64);
    let one = client(1, 1000);
    let payload = answer(&nat64, entry(4000, one), &[]);
    by_server(&mut nat64, &payload);
    let unusable = entry(nat64.control_port().0, one);
    // What it had is no more, and a segment of that connection has no way.
    let payload = answer(&nat64, unusable, &segment(one, ACK));
    assert_eq!(by_server(&mut nat64, &payload), []);
    assert_eq!(nat64.port_of(SERVER, &one), None);
    // The next connection has one.
    let payload = answer(&nat64, unusable, &segment(one, SYN));
    let actions = by_server(&mut nat64, &payload);
    let (own, packet) = the_forwarded(&actions);
    assert_eq!((own.client, packet), (one, &segment(one, SYN)[..]));
    assert_ne!(own.port, unusable.port);
    assert_eq!(requests(&actions), [nat64.report(NOW, SERVER, &[own])]);
    // The server answers that its entry stands, and then it is not asked any more.
    let payload = answer(&nat64, unusable, &[]);
    assert_eq!(by_server(&mut nat64, &payload), []);
    assert_eq!(tick(&mut nat64, NOW + 60 * REPORT_INTERVAL), []);
    assert_eq!(nat64.port_of(SERVER, &one), Some(own.port));
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
