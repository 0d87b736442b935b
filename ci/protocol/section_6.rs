//! The table, while it has room: uniqueness, eligible ports, hints, authenticators, control ports.

use crate::judge::client::{Client, OTHER_PREFIX, PUBLIC, SERVICE};
use crate::judge::eventlog::Kind;
use crate::judge::nat64::Nat64;
use crate::judge::packet::{self, Ipv4};
use crate::judge::wire::{self, Reply};
use crate::random::Random;
use crate::server::Server;
use std::collections::HashSet;

/// One port for a client, whatever it sends and to whichever port; TCP and UDP alike.
#[test]
fn section_6_one_port_for_a_client() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let client = Client::nth(1);
    let mapped = nat64.map(client);
    let source = (client.address, client.port);
    for port in [1, 80, 443, 65535] {
        let udp = packet::udp6(source, (client.service(), port), b"");
        let tcp = packet::tcp6(source, (client.service(), port), b"data");
        for packet in [udp, tcp] {
            let reply = nat64.ask(&nat64.client_request(b"authen", &packet));
            assert_eq!(reply, Reply::mapping(b"authen", client.at(mapped), &packet));
        }
        let udp = Ipv4::udp((SERVICE, port), (PUBLIC, mapped), b"").octets();
        let tcp = Ipv4::tcp((SERVICE, port), (PUBLIC, mapped), b"").octets();
        for packet in [udp, tcp] {
            let reply = nat64.ask(&nat64.service_request(&packet));
            assert_eq!(reply, Reply::mapping(b"authen", client.at(mapped), &packet));
        }
    }
    // The embedded addresses of the IPv4 service do not matter, only the prefix does.
    let mut service = client.service().octets();
    service[12..].copy_from_slice(&[198, 51, 100, 99]);
    let packet = packet::udp6(source, (service.into(), 53), b"");
    let reply = nat64.ask(&nat64.client_request(b"authen", &packet));
    assert_eq!(reply, Reply::mapping(b"authen", client.at(mapped), &packet));
    assert_eq!(server.events_from(2).len(), 2);
}

/// Prefix, address and port all tell clients apart; both directions are unique.
#[test]
fn section_6_clients_are_told_apart() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let mut next_prefix = crate::judge::client::PREFIX;
    next_prefix[11] = 1;
    let one = Client::parse("2001:db8::17", 53186);
    let clients = [
        one,
        one.port(53187),
        one.port(1),
        one.port(65535),
        one.prefix(OTHER_PREFIX),
        one.prefix(next_prefix),
        Client::parse("2001:db8::18", 53186),
        Client::parse("3001:db8::17", 53186),
        Client::parse("fd00::17", 53186),
    ];
    let ports: Vec<_> = clients.iter().map(|&client| nat64.map(client)).collect();
    assert_eq!(ports.iter().collect::<HashSet<_>>().len(), clients.len());
    for (&client, &port) in clients.iter().zip(&ports) {
        assert_eq!(nat64.map(client), port);
        assert_eq!(nat64.find(port), Some((client.at(port), client.authenticator())));
    }
    let events = server.events_from(1 + clients.len());
    for ((event, client), port) in events[1..].iter().zip(clients).zip(ports) {
        let entry = Some((port, client.address, client.port));
        assert_eq!(event.what(), (Kind::Created, entry));
    }
}

/// Ports of new entries: eligible, different, and drawn uniformly from the whole range.
#[test]
fn section_6_ports_are_random() {
    const COUNT: u32 = 6400;
    const BUCKETS: usize = 64;
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let mut ports = Vec::new();
    let requests = (0..COUNT).map(|number| {
        let client = Client::nth(number);
        nat64.client_request(&client.authenticator(), &client.udp(b""))
    });
    nat64.pipeline(requests, |reply| ports.push(reply.entry.unwrap().mapped));
    assert!(ports.iter().all(|&port| nat64.is_eligible(port)));
    assert_eq!(ports.iter().collect::<HashSet<_>>().len(), COUNT as usize);
    // 63 degrees of freedom: mean 63, standard deviation 11. Of the high part, the low part, and
    // the steps from one port to the next.
    let expected = COUNT as f64 / BUCKETS as f64;
    let chi_square = |bucket: &dyn Fn(usize) -> usize| {
        let mut counts = [0f64; BUCKETS];
        (1..ports.len()).for_each(|place| counts[bucket(place)] += 1.0);
        counts.iter().map(|count| (count - expected).powi(2) / expected).sum::<f64>()
    };
    let high = |port: u16| usize::from(port - 1024) * BUCKETS / 64512;
    for (what, value) in [
        ("high", chi_square(&|place| high(ports[place]))),
        ("low", chi_square(&|place| usize::from(ports[place]) % BUCKETS)),
        (
            "steps",
            chi_square(&|place| {
                let from = usize::from(ports[place - 1]) + 64512;
                (from - usize::from(ports[place])) % 64512 * BUCKETS / 64512
            }),
        ),
    ] {
        println!("{what}: {value}");
        assert!((15.0..150.0).contains(&value), "{what}: chi square {value}");
    }
}

/// A hint that is eligible and free is taken; one that is not makes no difference.
#[test]
fn section_6_hints() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let other = nat64.other_port(0);
    other.introduce();
    for (number, hint) in [1024, 65535, 3543, 3545, 6080, 6082, 12345].into_iter().enumerate() {
        assert_eq!(nat64.map_hinted(Client::nth(number as u32), hint), hint);
    }
    // A client that is there keeps its port.
    assert_eq!(nat64.map_hinted(Client::nth(0), 20000), 1024);
    // Taken, or not eligible; `map_hinted` checks that the port is eligible.
    let server_port = nat64.server.port();
    let wrong = [12345, 0, 1, 80, 1023, 3544, 6081, server_port, nat64.port(), other.port()];
    for (number, hint) in wrong.into_iter().enumerate() {
        let mapped = nat64.map_hinted(Client::nth(100 + number as u32), hint);
        assert!(mapped != hint && mapped != other.port());
        assert_eq!(nat64.map(Client::nth(100 + number as u32)), mapped);
    }
}

/// The authenticator belongs to the address: client packets and reports of any of its ports refresh
/// it, and the next service packet carries it.
#[test]
fn section_6_authenticators_are_refreshed() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let (client, second) = (Client::nth(1), Client::nth(1).port(50000));
    let other = Client::nth(2);
    let (first_port, second_port) = (nat64.map(client), nat64.map(second));
    let other_port = nat64.map(other);
    let check = |authenticator: &[u8]| {
        let expected = authenticator.to_vec();
        assert_eq!(nat64.find(first_port), Some((client.at(first_port), expected.clone())));
        assert_eq!(nat64.find(second_port), Some((second.at(second_port), expected)));
        let expected = other.authenticator();
        assert_eq!(nat64.find(other_port), Some((other.at(other_port), expected)));
    };
    check(&client.authenticator());
    nat64.map_with(client, b"newer1");
    check(b"newer1");
    nat64.map_with(second, b"another length");
    check(b"another length");
    nat64.map_with(client, b"");
    check(b"");
    // A new port of the same address.
    nat64.map_with(client.port(50001), b"of a new port!");
    check(b"of a new port!");
    // Reports: agreeing, conflicting, adopted; multi report.
    nat64.ask(&nat64.report_request(b"report", client.at(first_port)));
    check(b"report");
    let answer = nat64.ask(&nat64.report_request(b"conflict", client.at(second_port)));
    assert_eq!(answer, Reply::report(b"conflict", client.at(first_port)));
    check(b"conflict");
    let adopted = client.port(50002).at(nat64.eligible_port(1));
    nat64.ask(&nat64.report_request(b"adopted.", adopted));
    check(b"adopted.");
    nat64.ask(&wire::payload(&[
        &wire::identifier(),
        &nat64.token_message(),
        &wire::authenticator(b"multi report"),
        &wire::entry(second.at(second_port)),
        &wire::entry(adopted),
    ]));
    check(b"multi report");
}

/// "Every authenticated client packet" refreshes it: an echo request is one.
#[test]
fn section_6_an_echo_request_refreshes_the_authenticator() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let client = Client::nth(1);
    let mapped = nat64.map(client);
    let echo = packet::icmpv6(client.address, client.service(), 128, 0, &[0, 1, 0, 1]);
    nat64.ask(&nat64.client_request(b"of an echo", &echo));
    assert_eq!(nat64.find(mapped), Some((client.at(mapped), b"of an echo".to_vec())));
}

/// An unknown identity refreshes nothing.
#[test]
fn section_6_strangers_refresh_nothing() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let client = Client::nth(1);
    let mapped = nat64.map(client);
    let stranger = nat64.other_token(b"wrong!");
    stranger.send(&stranger.client_request(b"forged", &client.udp(b"")));
    stranger.send(&stranger.report_request(b"forged", client.at(mapped)));
    assert_eq!(nat64.find(mapped), Some((client.at(mapped), client.authenticator())));
}

/// When a control port becomes known that an entry has mapped, that entry is deleted, and the port
/// is not given out again while it is known.
#[test]
fn section_6_a_control_port_is_not_mapped() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let other = nat64.other_port(0);
    let (client, port) = (Client::nth(1), other.port());
    assert_eq!(nat64.map_hinted(client, port), port);
    other.introduce();
    let events = server.events_from(3);
    let entry = Some((port, client.address, client.port));
    assert_eq!(events[1].what(), (Kind::Created, entry));
    assert_eq!(events[2].what(), (Kind::Deleted, entry));
    assert_eq!(nat64.find(port), None);
    assert_ne!(nat64.map(client), port);
    assert_ne!(nat64.map_hinted(Client::nth(2), port), port);
    // Reported by the NAT64 itself: a conflict.
    let third = Client::nth(3);
    assert_ne!(other.report(third.at(port)).mapped, port);
    let conflict = Some((port, third.address, third.port));
    assert_eq!(server.events_from(7)[5].what(), (Kind::Conflict, conflict));
    // The rotation of a token keeps the port.
    let rotated = other.other_token(b"rotated.");
    let (four, five) = (rotated.token_message(), wire::rotation(&other.token));
    rotated.ask(&wire::payload(&[&four, &five, &rotated.unmapped_packet()]));
    assert_ne!(rotated.map_hinted(Client::nth(4), port), port);
}

/// A control port that is known no more is eligible again.
#[test]
fn section_6_a_forgotten_control_port_is_eligible() {
    let server = Server::start(&[]);
    let first = Nat64::known(&server);
    let mut later = Vec::new();
    for _ in 0..4 {
        let nat64 = first.rebooted();
        nat64.introduce();
        later.push(nat64);
    }
    assert!(!first.is_known());
    let port = first.port();
    let client = Client::nth(1);
    let packet = client.udp(b"");
    let six = wire::authenticator(&client.authenticator());
    let parts = [&later[3].token_message()[..], &six, &wire::hint(port), &packet];
    let reply = later[3].ask(&wire::payload(&parts));
    assert_eq!(reply.entry, Some(client.at(port)));
}

/// Many clients at random, with hints and without, against a model: nothing is lost or doubled.
#[test]
fn section_6_against_a_model() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let mut random = Random::new("model");
    let mut model = std::collections::HashMap::new();
    for _ in 0..3000 {
        let client = Client::nth(random.below(300) as u32).port(1 + random.below(3) as u16);
        let port = 2000 + random.below(1000) as u16;
        let taken = |model: &std::collections::HashMap<Client, u16>| {
            model.values().any(|&mapped| mapped == port)
        };
        let before = model.get(&client).copied();
        let mapped = match random.below(3) {
            0 => nat64.map(client),
            1 => {
                let free = !taken(&model);
                let mapped = nat64.map_hinted(client, port);
                assert!(before.is_some() || !free || mapped == port);
                mapped
            }
            _ => {
                let found = nat64.find(port).map(|(entry, _)| entry.client);
                let expected = model.iter().find(|&(_, &mapped)| mapped == port);
                assert_eq!(found, expected.map(|(&client, _)| client));
                continue;
            }
        };
        assert!(before.is_none_or(|before| before == mapped));
        if before.is_none() {
            assert!(model.values().all(|&other| other != mapped));
            model.insert(client, mapped);
        }
    }
    assert_eq!(server.events_from(1 + model.len()).len(), 1 + model.len());
}
