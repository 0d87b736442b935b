//! A gateway between a client, an IPv4 host, and the server on that host, all in memory.

use std::collections::VecDeque;
use std::net::{SocketAddrV4, SocketAddrV6};

use super::*;
use crate::handoff::entry::MappedPort;
use crate::handoff::stats::Counter;
use crate::ip::address::synthesize;
use crate::ip::build::{ipv4_tcp, ipv4_udp, ipv6_echo_request, ipv6_tcp};
use crate::ip::checksum::{self, checksum};
use crate::ip::fields::tcp::{ACK, FIN, RST, SYN};
use crate::ip::fields::{IPV4_HEADER, IPV6_HEADER, protocol};
use crate::ip::icmp::{v4, v6};
use crate::ip::transport::ports;
use crate::ip::{ipv4, ipv6};
use crate::nat64::engine::{ASK_INTERVAL, Ignored};
use world::*;

mod delivering;
mod fragments;
mod geneve;
mod hairpin;
mod lost;
mod offloaded;
mod pool;
mod share;
mod silent;
mod tunnelled;
mod tunnelled_joined;
mod world;

/// Type and code of an ICMPv6 error, and what it quotes.
fn error6(packet: &[u8]) -> (u8, u8, &[u8]) {
    assert_eq!(packet[6], protocol::ICMPV6);
    (packet[40], packet[41], &packet[48..])
}

/// Its type and code alone.
fn kind_and_code(packet: &[u8]) -> [u8; 2] {
    let (kind, code, _) = error6(packet);
    [kind, code]
}

#[test]
fn an_ordinary_host_sees_an_ordinary_nat64() {
    for (handoff, per_entry) in [(Handoff::Closed, 1), (Handoff::Silent, 4)] {
        let mut world = World::new(handoff);
        let mapped = world.exchange(40_000, SYN, SYN | ACK);
        assert!(mapped >= 1024);
        // The same port for the rest of the connection, whatever comes.
        for flags in [ACK, ACK | FIN, ACK, RST] {
            assert_eq!(world.exchange(40_000, flags, flags), mapped);
        }
        // UDP from the same port shares the entry.
        let there = world.at_host(&udp6(40_000, b"query"));
        assert_eq!(ports(&there[20..]), Some((mapped, 53)));
        let back = world.at_client(&udp4(53, mapped, b"answer"));
        assert_eq!(&back[48..], b"answer");
        // One report, and its repetitions where nobody says a word; then no more.
        for _ in 0..60 {
            world.now += Duration::from_secs(1);
            world.tick();
        }
        assert_eq!(world.requests, per_entry);
        assert_eq!(world.changes, []);
    }
}

#[test]
fn with_a_server_entries_are_the_servers() {
    let mut world = World::known();
    let mapped = world.exchange(40_000, SYN, SYN | ACK);
    assert_eq!(world.exchange(40_000, ACK, ACK), mapped);
    let Handoff::Open(server) = &world.handoff else { unreachable!() };
    let entries: Vec<_> = server.entries().map(|(_, entry)| entry).collect();
    let of_client = |entry: &&Entry| entry.client.port == 40_000;
    let entry = entries.iter().find(of_client).unwrap();
    assert_eq!((entry.port.0, entry.client.address), (mapped, CLIENT));
    // One request in all: what is cached is not asked for.
    let requests = world.requests;
    world.exchange(40_000, ACK, ACK);
    assert_eq!(world.requests, requests);
}

#[test]
fn section_9_a_connection_outlives_a_reboot_when_the_client_speaks() {
    let mut world = World::known();
    let mapped = world.exchange(40_000, SYN, SYN | ACK);
    world.gateway.reboot([9; 32]);
    assert_eq!(world.gateway.nat64().state(HOST), ServerState::Unknown);
    world.drain();
    // Authenticators of before are not believed.
    for _ in 0..6 {
        world.send(&tcp4(mapped, ACK));
    }
    assert!(world.to_client.is_empty());
    assert!(world.gateway.ignored(Ignored::BadAuthenticator) > 0);
    world.send(&tcp6(40_000, ACK));
    assert_eq!(world.to_host.len(), 1, "{:?}", world.drops());
    assert_eq!(world.exchange(40_000, ACK, ACK), mapped);
    assert_eq!(world.changes, [ServerChange::Known; 2]);
}

#[test]
fn section_9_with_a_key_that_is_kept_the_service_may_speak_first() {
    let nat64 = Nat64Config { authenticator_key: Some([5; 16]), ..Nat64Config::new(POOL) };
    let mut world = World::with(server(), nat64);
    let mapped = loop {
        world.drain();
        world.send(&tcp6(40_000, SYN));
        if world.gateway.nat64().state(HOST) == ServerState::Alive {
            break world.exchange(40_000, SYN, SYN | ACK);
        }
    };
    world.gateway.reboot([9; 32]);
    world.drain();
    // One is spent on validation, another perhaps on attenuation.
    for _ in 0..3 {
        world.send(&tcp4(mapped, ACK));
    }
    assert!(!world.to_client.is_empty(), "{:?}", world.drops());
    assert_eq!(world.gateway.ignored(Ignored::BadAuthenticator), 0);
    assert_eq!(world.exchange(40_000, ACK, ACK), mapped);
}

#[test]
fn without_a_server_a_reboot_ends_a_connection() {
    let mut world = World::new(Handoff::Closed);
    let mapped = world.exchange(40_000, SYN, SYN | ACK);
    world.gateway.reboot([9; 32]);
    world.drain();
    world.send(&tcp4(mapped, ACK));
    assert!(world.to_client.is_empty());
    // The host is asked once, says that nobody listens, and what is sent again gets another port.
    world.send(&tcp6(40_000, ACK));
    assert_ne!(world.exchange(40_000, ACK, RST), mapped);
}

#[test]
fn a_server_goes_down_and_comes_back() {
    let mut world = World::known();
    let mapped = world.exchange(40_000, SYN, SYN | ACK);
    let Handoff::Open(server) = std::mem::replace(&mut world.handoff, Handoff::Closed) else {
        unreachable!()
    };
    // The first to miss finds out; sent again, it gets a port from the gateway.
    world.drain();
    world.send(&tcp6(41_000, SYN));
    assert!(world.to_host.is_empty());
    assert_eq!(world.changes, [ServerChange::Known, ServerChange::Down]);
    let own = world.exchange(41_000, SYN, SYN | ACK);
    assert_eq!(world.exchange(40_000, ACK, ACK), mapped, "cached entries are kept");
    world.handoff = Handoff::Open(server);
    world.now += ASK_INTERVAL;
    world.exchange(42_000, SYN, SYN | ACK);
    assert_eq!(world.changes[2..], [ServerChange::Back]);
    let Handoff::Open(server) = &world.handoff else { unreachable!() };
    let known = |port| server.entries().any(|(_, entry)| entry.client.port == port);
    assert!(known(40_000) && known(41_000) && known(42_000));
    assert_eq!(world.exchange(41_000, ACK, ACK), own);
}

#[test]
fn a_server_that_is_silent_is_not_dead() {
    let mut world = World::known();
    let mapped = world.exchange(40_000, SYN, SYN | ACK);
    world.handoff = Handoff::Silent;
    assert_eq!(world.exchange(40_000, ACK, ACK), mapped);
    world.drain();
    world.send(&tcp6(41_000, SYN));
    assert!(world.to_host.is_empty() && world.to_client.is_empty());
    assert_eq!(world.gateway.nat64().state(HOST), ServerState::Alive);
}

#[test]
fn a_forged_port_unreachable_changes_nothing() {
    let mut world = World::known();
    let control = world.gateway.nat64().control_port().0;
    let token = [0x34, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let to = SocketAddrV4::new(HOST, HANDOFF);
    let quoted = ipv4_udp(SocketAddrV4::new(POOL, control), to, &token);
    assert_eq!(world.dropped(&icmp4(HOST, 3, 3, &quoted)), "bad_token");
    // Another error says nothing, and neither does a wrong checksum.
    assert_eq!(world.dropped(&icmp4(HOST, 3, 1, &quoted)), "control_error");
    let mut wrong = icmp4(HOST, 3, 3, &quoted);
    *wrong.last_mut().unwrap() ^= 1;
    assert_eq!(world.dropped(&wrong), "control_checksum");
    assert_eq!(world.gateway.nat64().state(HOST), ServerState::Alive);
}

#[test]
fn a_control_datagram_that_is_no_good() {
    let mut world = World::known();
    let control = world.gateway.nat64().control_port().0;
    let mut wrong = udp4(HANDOFF, control, b"????");
    *wrong.last_mut().unwrap() ^= 1;
    assert_eq!(world.dropped(&wrong), "control_checksum");
    assert_eq!(world.dropped(&udp4(HANDOFF, control, b"????")), "malformed");
    assert_eq!(world.dropped(&udp4(HANDOFF + 1, control, b"????")), "not_handoff_port");
    let mut overlap = fragments4(&udp4(HANDOFF, control, &[0; 64]), 77, 60);
    assert_eq!(overlap.len(), 2);
    world.send(&overlap[0]);
    overlap[1][7] -= 1; // 8 octets further in front
    let sum = checksum::update(u16::from_be_bytes([overlap[1][10], overlap[1][11]]), 1, 0);
    overlap[1][10..12].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(world.dropped(&overlap[1]), "fragment_overlap");
}

#[test]
fn packets_of_the_whole_mtu_go_through_the_control_channel() {
    let mut world = World::known();
    let data: Vec<u8> = (0..1452).map(|i| i as u8).collect();
    let packet = udp6(43_000, &data);
    assert_eq!(packet.len(), usize::from(MTU));
    let requests = world.requests;
    let there = world.at_host(&packet);
    assert_eq!(&there[28..], &data[..]);
    assert_eq!(world.requests, requests + 1);
    // A service that speaks first after a reboot: the answer brings its packet back.
    let (mapped, _) = ports(&there[20..]).unwrap();
    let back = world.at_client(&udp4(53, mapped, &data[..1400]));
    // No more than 1280 octets go into the IPv6 network at once, unless they must stay together.
    assert_eq!(back.len(), 1448);
}

#[test]
fn echo_works_without_a_server() {
    for mut world in [World::new(Handoff::Closed), World::new(Handoff::Silent)] {
        // What is repeated to the server is.
        world.now += Duration::from_secs(60);
        world.tick();
        world.drain();
        let requests = world.requests;
        let there = world.at_host(&echo6(17));
        assert_eq!(there[20], v4::ECHO_REQUEST);
        let identifier = u16::from_be_bytes([there[24], there[25]]);
        let reply = |from| {
            let mut reply = there.clone();
            reply[20..24].copy_from_slice(&[v4::ECHO_REPLY, 0, 0, 0]);
            let sum = checksum(&[&reply[20..]]);
            reply[22..24].copy_from_slice(&sum.to_be_bytes());
            ip4(protocol::ICMP, from, POOL, &reply[20..])
        };
        let back = world.at_client(&reply(HOST));
        assert_eq!(back[40], v6::ECHO_REPLY);
        assert_eq!(&back[44..], &echo6(17)[44..]);
        assert_eq!(world.dropped(&reply(ROUTER)), "no_echo");
        // An error about it is the pinging client's.
        let back = world.at_client(&icmp4(ROUTER, 11, 0, &there));
        let (kind, code, quoted) = error6(&back);
        assert_eq!((kind, code), (3, 0));
        assert_eq!(&quoted[24..40], &SERVICE.octets());
        assert_eq!(&quoted[44..46], &17_u16.to_be_bytes());
        // A minute later nobody knows it any more.
        world.now += ECHO_LIFETIME + Duration::from_secs(1);
        world.tick();
        assert_eq!(world.dropped(&reply(HOST)), "no_echo");
        assert_eq!(world.requests, requests, "echo needs no server");
        assert_eq!(identifier, 17);
    }
}

#[test]
fn two_clients_with_one_identifier_have_two() {
    let mut world = World::new(Handoff::Closed);
    let first = world.at_host(&echo6(17));
    let other = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x18);
    let second = world.at_host(&ipv6_echo_request(other, SERVICE, 17, 7, b"ping"));
    assert_ne!(first[24..26], second[24..26]);
}

#[test]
fn echo_mappings_are_bounded() {
    let mut world = World::new(Handoff::Closed);
    for number in 0..ECHOES_MAX {
        // Four servers, so that identifiers do not run out first.
        let service =
            synthesize(Prefix96::of(SERVICE), Ipv4Addr::from(0xcb00_7100 + number as u32 % 4));
        let from = Ipv6Addr::from(u128::from(CLIENT) + number as u128);
        let mut outbox = GatewayOutbox::default();
        let packet = ipv6_echo_request(from, service, 1, 1, b"");
        world.gateway.packet(world.now, &packet, &mut outbox);
        assert_eq!(outbox.packets().count(), 1);
    }
    world.send(&echo6(60_000));
    assert_eq!(world.gateway.dropped(Dropped::NoIdentifier), 1);
    let told = world.to_client.pop_front().unwrap();
    assert_eq!((error6(&told).0, error6(&told).1), (1, 3));
    assert!(world.to_host.is_empty());
    world.now += ECHO_LIFETIME;
    world.tick();
    world.at_host(&echo6(60_000));
}

#[test]
fn errors_of_routers_reach_the_client_and_the_host() {
    for mut world in [World::new(Handoff::Closed), World::known()] {
        let there = world.at_host(&tcp6(40_000, SYN));
        let back = world.at_client(&icmp4(ROUTER, 3, 1, &there[..28]));
        let view = Ipv6::new(&back).unwrap();
        assert_eq!(view.source(), synthesize(Prefix96::of(SERVICE), ROUTER));
        let (kind, code, quoted) = error6(&back);
        assert_eq!((kind, code), (1, 0));
        assert_eq!(ports(&quoted[40..]), Some((40_000, 80)));
        // The other way: a router of the client's says that a packet of the host is too big.
        let (mapped, _) = ports(&there[20..]).unwrap();
        let packet = world.at_client(&tcp4(mapped, SYN | ACK));
        let mut message = [&[2, 0, 0, 0, 0, 0, 0x05, 0x14], &packet[..]].concat(); // MTU 1300
        let router = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1);
        let sum = checksum::icmpv6(router, SERVICE, &message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let header = ipv6::header(message.len(), protocol::ICMPV6, 64, router, SERVICE);
        let there = world.at_host(&[&header[..], &message].concat());
        assert_eq!(there[20..22], [3, 4]);
        assert_eq!(u16::from_be_bytes([there[26], there[27]]), 1280);
        assert_eq!(ports(&there[48..]), Some((80, mapped)));
    }
}

#[test]
fn senders_are_told_why() {
    let mut world = World::new(Handoff::Closed);
    let mapped = world.exchange(40_000, SYN, SYN | ACK);
    // The hop limit ends here.
    let mut packet = tcp6(40_000, ACK);
    packet[7] = 1;
    world.drain();
    world.send(&packet);
    let told = world.to_client.pop_front().unwrap();
    assert_eq!(Ipv6::new(&told).unwrap().source(), synthesize(Prefix96::of(SERVICE), POOL));
    assert_eq!(error6(&told).0, 3);
    assert_eq!(error6(&told).2, &packet[..]);
    // So does the time to live.
    let mut packet = tcp4(mapped, ACK);
    ipv4::set_ttl(&mut packet, 1);
    world.send(&packet);
    let told = world.to_host.pop_front().unwrap();
    assert_eq!((told[9], told[20], told[21]), (protocol::ICMP, 11, 0));
    // Too big for the IPv6 side: 1480 octets fit.
    let big =
        ipv4_tcp(SocketAddrV4::new(HOST, 80), SocketAddrV4::new(POOL, mapped), ACK, &[0; 1460]);
    assert_eq!(big.len(), 1500);
    world.send(&big);
    let told = world.to_host.pop_front().unwrap();
    assert_eq!((told[20], told[21], u16::from_be_bytes([told[26], told[27]])), (3, 4, 1480));
    // Destination options within the fragments (RFC 7915 section 5.1.1).
    let mut packet = fragments6(&udp6(40_000, &[7; 64]), 1, 72)[0].clone();
    packet[40] = 60;
    packet.splice(48..48, [17, 0, 1, 4, 0, 0, 0, 0]);
    packet[5] += 8;
    world.send(&packet);
    let told = world.to_client.pop_front().unwrap();
    assert_eq!((error6(&told).0, error6(&told).1), (1, 1));
    // The first fragment of a datagram without a checksum.
    let mut whole = udp4(53, mapped, &[7; 64]);
    whole[26..28].fill(0);
    let parts = fragments4(&whole, 9, 60);
    world.send(&parts[0]);
    let told = world.to_host.pop_front().unwrap();
    assert_eq!((told[20], told[21]), (3, 13));
    // A transport that nobody translates.
    let mut packet = tcp6(40_000, ACK);
    packet[6] = 132;
    world.send(&packet);
    assert_eq!(&error6(&world.to_client.pop_front().unwrap()).0, &1);
    world.send(&ip4(132, HOST, POOL, &[0; 12]));
    let told = world.to_host.pop_front().unwrap();
    assert_eq!((told[20], told[21]), (3, 2));
    assert!(world.to_client.is_empty() && world.to_host.is_empty());
    assert_eq!(world.gateway.done(Done::Errors), 7);
}

#[test]
fn what_rfc_7915_leaves_to_the_operator_is_as_he_says() {
    for as_preferred in [true, false] {
        let config = GatewayConfig {
            copies_traffic_class: as_preferred,
            makes_udp_checksums: as_preferred,
            ..GatewayConfig::new(Nat64Config::new(POOL), MTU)
        };
        let mut world = World::of(Handoff::Closed, config);
        let (class, expected) = (0xb8, if as_preferred { 0xb8 } else { 0 });
        let mut packet = udp6(40_000, &[7; 64]);
        ipv6::set_traffic_class(&mut packet, class);
        let there = world.at_host(&packet);
        assert_eq!(Ipv4::new(&there).unwrap().type_of_service(), expected);
        let (mapped, _) = ports(&there[20..]).unwrap();
        let mut packet = udp4(53, mapped, &[7; 64]);
        packet[1] = class;
        ipv4::set_checksum(&mut packet[..IPV4_HEADER]);
        let back = world.at_client(&packet);
        assert_eq!(Ipv6::new(&back).unwrap().traffic_class(), expected);
        packet[26..28].fill(0);
        if as_preferred {
            check(&world.at_client(&packet));
        } else {
            world.send(&packet);
            assert!(world.to_client.is_empty());
            assert!(world.drops().contains(&("translate_udp_without_checksum", 1)));
        }
    }
}

#[test]
fn errors_are_rate_limited() {
    let mut world = World::new(Handoff::Closed);
    let mut packet = tcp6(40_000, SYN);
    packet[7] = 1;
    for _ in 0..ICMP_RATE_MAX + 10 {
        world.send(&packet);
    }
    let told = world.to_client.len();
    assert!(told <= ICMP_RATE_MAX as usize, "{told}");
    assert_eq!(world.gateway.dropped(Dropped::IcmpRate), 10);
}

#[test]
fn what_goes_nowhere() {
    let mut world = World::new(Handoff::Silent);
    let elsewhere = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
    let to = SocketAddrV6::new(elsewhere, 80, 0, 0);
    assert_eq!(world.dropped(&ipv6_tcp(client(1), to, SYN, b"")), "elsewhere");
    let here = SocketAddrV4::new(HOST, 80);
    let there = SocketAddrV4::new(ROUTER, 80);
    assert_eq!(world.dropped(&ipv4_tcp(here, there, SYN, b"")), "elsewhere");
    assert_eq!(world.dropped(&[]), "not_ip");
    assert_eq!(world.dropped(&[0x60; 39]), "not_ip");
    // Hairpinning, and what no host has, are refused, and the client is told.
    for (address, reason) in [
        (POOL, Dropped::Hairpin),
        (Ipv4Addr::LOCALHOST, Dropped::Destination),
        (Ipv4Addr::BROADCAST, Dropped::Destination),
        (Ipv4Addr::new(224, 0, 0, 1), Dropped::Destination),
        (Ipv4Addr::new(169, 254, 169, 254), Dropped::Destination),
    ] {
        let before = world.gateway.dropped(reason);
        let to = SocketAddrV6::new(synthesize(Prefix96::of(SERVICE), address), 80, 0, 0);
        world.drain();
        world.send(&ipv6_tcp(client(1), to, SYN, b""));
        assert_eq!(world.gateway.dropped(reason), before + 1);
        assert_eq!(error6(&world.to_client[0]).0, 1);
        assert!(world.to_host.is_empty());
    }
}

#[test]
fn nothing_goes_round_in_circles() {
    let mut world = World::known();
    let ourselves = SocketAddrV4::new(POOL, 80);
    let syn = ipv4_tcp(ourselves, SocketAddrV4::new(POOL, 2000), SYN, b"");
    assert_eq!(world.dropped(&syn), "loop");
    // An error of a router about such a packet.
    assert_eq!(world.dropped(&icmp4(ROUTER, 11, 0, &syn)), "loop");
    // And one about a packet that went to no host: nobody is to be asked about it.
    let link_local = Ipv4Addr::new(169, 254, 169, 254);
    for nobody in
        [Ipv4Addr::BROADCAST, Ipv4Addr::LOCALHOST, Ipv4Addr::new(224, 0, 0, 1), link_local]
    {
        let there = SocketAddrV4::new(nobody, 80);
        let quoted = ipv4_tcp(SocketAddrV4::new(POOL, 2000), there, SYN, b"");
        assert_eq!(world.dropped(&icmp4(ROUTER, 11, 0, &quoted)), "translate_addresses");
    }
    let behind = SocketAddrV6::new(synthesize(Prefix96::of(SERVICE), ROUTER), 80, 0, 0);
    assert_eq!(world.dropped(&ipv6_tcp(behind, service(80), SYN, b"")), "loop");
}

#[test]
fn strangers_make_few_packets_of_ours() {
    let mut world = World::new(Handoff::Silent);
    for number in 0..UNSOLICITED_RATE_MAX + 100 {
        let from = SocketAddrV4::new(HOST, 1024 + (number % 1000) as u16);
        let port = 2000 + (number % 30_000) as u16;
        world.send(&ipv4_tcp(from, SocketAddrV4::new(POOL, port), SYN, b""));
    }
    assert_eq!(world.requests, UNSOLICITED_RATE_MAX as usize);
    assert_eq!(world.gateway.dropped(Dropped::UnsolicitedRate), 100);
    assert!(world.to_client.is_empty() && world.to_host.is_empty());
}

#[test]
fn filtering_is_address_dependent() {
    let mut world = World::new(Handoff::Closed);
    let mapped = world.exchange(40_000, SYN, SYN | ACK);
    // From another port of the host it is let in, from another host it is not.
    let other_port = SocketAddrV4::new(HOST, 81);
    let to = SocketAddrV4::new(POOL, mapped);
    world.at_client(&ipv4_tcp(other_port, to, ACK, b""));
    assert_eq!(world.gateway.nat64().client_of(ROUTER, MappedPort(mapped)), None);
}

#[test]
fn a_rotation_is_not_noticed() {
    let mut world = World::known();
    let mapped = world.exchange(40_000, SYN, SYN | ACK);
    let drops = world.drops();
    for port in 41_000..41_005 {
        world.gateway.rotate_token(world.now);
        world.now += Duration::from_secs(10);
        world.exchange(port, SYN, SYN | ACK);
    }
    assert_eq!(world.exchange(40_000, ACK, ACK), mapped);
    assert_eq!(world.changes, [ServerChange::Known]);
    assert_eq!(world.drops(), drops);
}

/// The server asks for its proof each day, and each new connection has an entry of the server all
/// the same, with a new token each hour.
#[test]
fn section_5_a_daily_proof_is_not_noticed() {
    let mut world = World::known();
    for number in 0..5 * 48 {
        world.now += Duration::from_secs(30 * 60);
        if number % 2 == 0 {
            world.gateway.rotate_token(world.now);
        }
        world.tick();
        let port = 41_000 + number;
        let mapped = MappedPort(world.exchange(port, SYN, SYN | ACK));
        let Handoff::Open(server) = &world.handoff else { unreachable!() };
        let mut entries = server.entries().map(|(_, entry)| (entry.client.port, entry.port));
        assert!(entries.any(|entry| entry == (port, mapped)), "number {number}");
    }
    let Handoff::Open(server) = &world.handoff else { unreachable!() };
    // Once to become known, and once for each day: seldom again, where attenuation held one back.
    let asked = server.stats().get(Counter::ValidationPackets);
    assert!((5..=6).contains(&asked), "{asked}");
    assert_eq!(world.changes, [ServerChange::Known]);
}

#[test]
fn every_truncation_of_every_kind_of_packet() {
    let mut world = World::known();
    let there = world.at_host(&tcp6(40_000, SYN));
    let (mapped, _) = ports(&there[20..]).unwrap();
    let control = world.gateway.nat64().control_port().0;
    let kinds = [
        tcp6(40_000, ACK),
        udp6(40_000, b"data"),
        echo6(17),
        fragments6(&udp6(1, &[0; 100]), 1, 64)[0].clone(),
        fragments6(&udp6(1, &[0; 100]), 1, 64)[1].clone(),
        tcp4(mapped, ACK),
        udp4(53, mapped, b"data"),
        icmp4(ROUTER, 3, 3, &there),
        icmp4(HOST, 8, 0, b"ping"),
        udp4(HANDOFF, control, &[0x34, 1, 2, 3]),
        fragments4(&udp4(HANDOFF, control, &[0; 100]), 1, 60)[0].clone(),
        icmp4(HOST, 3, 3, &udp4(control, HANDOFF, &[0x34, 1, 2, 3])),
    ];
    for packet in kinds {
        for cut in 0..packet.len() {
            let mut outbox = GatewayOutbox::default();
            world.gateway.packet(world.now, &packet[..cut], &mut outbox);
            outbox.packets().for_each(check);
            // And saying of itself that it is whole.
            let mut shorter = packet[..cut].to_vec();
            if packet[0] >> 4 == 6 && cut >= IPV6_HEADER {
                shorter[4..6].copy_from_slice(&((cut - IPV6_HEADER) as u16).to_be_bytes());
            } else if packet[0] >> 4 == 4 && cut >= IPV4_HEADER {
                shorter[2..4].copy_from_slice(&(cut as u16).to_be_bytes());
                shorter[10..12].fill(0);
                let sum = checksum(&[&shorter[..20]]);
                shorter[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            world.gateway.packet(world.now, &shorter, &mut outbox);
        }
    }
    assert_eq!(world.gateway.nat64().state(HOST), ServerState::Alive);
}
