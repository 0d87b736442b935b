//! Packets that a server delivers (PROTOCOL.md section 10, point 9).

use super::delivering::ip6;
use super::*;
use crate::ip::build::ipv6_udp;
use crate::nat64::engine::{RETURN_MAX, SILENCE_MAX, UNANSWERED_MAX};

const SCTP: u8 = 132;
const GRE: u8 = 47;
const ESP: u8 = 50;
/// Of a path of 1500 octets: IPv4 and UDP, token, authenticator, and a token before.
const TUNNEL_MTU: usize = 1500 - 28 - 3 * 18;

/// An ICMPv6 message with its checksum.
fn icmp6(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    let sum = checksum::icmpv6(from, to, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ip6(protocol::ICMPV6, from, to, &message)
}

#[test]
fn any_protocol_is_delivered_and_answered() {
    let mut world = World::delivering();
    for number in [SCTP, GRE, ESP, 59, 253] {
        let packet = ip6(number, CLIENT, SERVICE, b"what only the ends understand");
        assert_eq!(world.at_service(&packet), packet);
        world.service_sends(&ip6(number, SERVICE, CLIENT, b"an answer"));
    }
    assert_eq!(world.at_service(&echo6(7)), echo6(7));
    world.service_sends(&icmp6(SERVICE, CLIENT, &[129, 0, 0, 0, 0, 7, 0, 7, 1, 2]));
    // Another ICMPv6 message, and one in fragments.
    let query = icmp6(CLIENT, SERVICE, &[139, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(world.at_service(&query), query);
    for part in fragments6(&echo6(7), 9, 8) {
        assert_eq!(world.at_service(&part), part);
    }
    // A router's error about what went to the client, of a protocol that has no ports.
    let answer = ip6(ESP, SERVICE, CLIENT, b"too long for a link behind the router");
    let error = icmp6(CLIENT, SERVICE, &[&[2, 0, 0, 0, 0, 0, 5, 20], &answer[..]].concat());
    assert_eq!(world.at_service(&error), error);
    assert_eq!(world.gateway.nat64().entries_held(), 1, "no mapping was made");
    assert_eq!(world.drops(), []);
}

#[test]
fn what_is_not_of_this_server_reaches_no_client() {
    let mut world = World::delivering();
    world.at_service(&ip6(ESP, CLIENT, SERVICE, b"there"));
    let good = world.by_tunnel(&ip6(ESP, SERVICE, CLIENT, b"back"));
    let forged = |at: usize| {
        let mut payload = good[28..].to_vec();
        payload[at] ^= 1;
        let control = u16::from_be_bytes([good[22], good[23]]);
        udp4(HANDOFF, control, &payload)
    };
    // The authenticator, the prefix, the server's address, the client's.
    for (at, why) in [
        (2, "bad_authenticator"),
        (18 + 8, "packet_mismatch"),
        (18 + 23, "packet_mismatch"),
        (18 + 39, "bad_authenticator"),
    ] {
        assert_eq!(world.dropped(&forged(at)), why);
    }
    let mut elsewhere = good;
    elsewhere[15] ^= 1; // Another host sends it.
    elsewhere[10..12].fill(0);
    let sum = checksum(&[&elsewhere[..20]]);
    elsewhere[10..12].copy_from_slice(&sum.to_be_bytes());
    elsewhere[26..28].fill(0);
    assert_eq!(world.dropped(&elsewhere), "bad_authenticator");
}

#[test]
fn a_connection_needs_no_entry() {
    let mut world = World::delivering();
    let (here, there) = (client(40_000), service(80));
    for (of_client, flags, data) in [
        (true, SYN, &b""[..]),
        (false, SYN | ACK, b""),
        (true, ACK, b""),
        (true, ACK, b"GET / HTTP/1.0\r\n\r\n"),
        (false, ACK, b"HTTP/1.0 200 OK\r\n\r\nwhom it knows by an IPv6 address"),
        (true, ACK, b""),
        (false, ACK | FIN, b""),
        (true, ACK | FIN, b""),
        (false, ACK, b""),
    ] {
        if of_client {
            let packet = ipv6_tcp(here, there, flags, data);
            assert_eq!(world.at_service(&packet), packet);
        } else {
            world.service_sends(&ipv6_tcp(there, here, flags, data));
        }
    }
    assert!(world.gateway.nat64().delivers(HOST));
    // The first one, of before the server was known, goes on by its entry.
    assert_eq!(world.gateway.nat64().entries_held(), 1);
    world.exchange(1, ACK, ACK);
    assert_eq!(world.drops(), []);
    // What goes on survives a reboot: the server is asked about what opens nothing.
    world.gateway.reboot([9; 32]);
    let packet = ipv6_tcp(client(40_001), there, ACK, b"still here");
    assert_eq!(world.at_service(&packet), packet);
    world.service_sends(&ipv6_tcp(there, client(40_001), ACK, b"so am I"));
}

#[test]
fn a_server_that_delivers_nothing_says_so() {
    let mut world = World::known();
    // It may have to prove itself again.
    let told = world.at_client(&ip6(SCTP, CLIENT, SERVICE, &[7; 40]));
    let (kind, code, quoted) = error6(&told);
    assert_eq!((kind, code), (v6::PARAMETER_PROBLEM, 1), "unrecognised next header");
    assert_eq!(quoted[..40], ip6(SCTP, CLIENT, SERVICE, &[7; 40])[..40]);
    assert_eq!(Ipv6::new(&told).unwrap().source(), SERVICE);
    let pong = world.at_client(&echo6(17));
    assert_eq!((pong[40], &pong[44..]), (v6::ECHO_REPLY, &echo6(17)[44..]));
    assert!(!world.gateway.nat64().delivers(HOST));
    assert_eq!(world.gateway.done(Done::Tunnelled), 2);
}

#[test]
fn other_protocols_alone_make_a_server_known() {
    let mut world = World::new(server());
    let packet = ip6(SCTP, CLIENT, SERVICE, &[7; 40]);
    world.send(&packet);
    // As RFC 6146 has it, where no server is known.
    assert_eq!(kind_and_code(&world.to_client[0]), [v6::UNREACHABLE, 4]);
    for _ in 0..3 {
        world.send(&packet);
    }
    assert_eq!(world.changes, [ServerChange::Known]);
    assert_eq!(kind_and_code(world.to_client.back().unwrap()), [v6::PARAMETER_PROBLEM, 1]);
    // Where nobody listens, that is found out once.
    let mut world = World::new(Handoff::Closed);
    for _ in 0..10 {
        world.send(&packet);
    }
    assert_eq!((world.requests, world.to_client.len()), (1, 10));
}

#[test]
fn clients_learn_how_long_a_tunnelled_packet_may_be() {
    let mut world = World::delivering();
    let of_length = |length: usize| ip6(ESP, CLIENT, SERVICE, &vec![7; length - 40]);
    // It is not known yet that the server delivers: it is asked in fragments.
    assert_eq!(world.at_service(&of_length(1500)).len(), 1500);
    world.service_sends(&ip6(ESP, SERVICE, CLIENT, b"back"));
    world.at_service(&of_length(TUNNEL_MTU));
    for packet in [of_length(TUNNEL_MTU + 1), udp6(40_000, &[7; 1452])] {
        world.drain();
        world.send(&packet);
        let told = world.to_client.pop_front().expect("packet too big");
        assert_eq!(kind_and_code(&told), [v6::PACKET_TOO_BIG, 0]);
        assert_eq!(told[44..48], (TUNNEL_MTU as u32).to_be_bytes());
        assert!(world.host().delivered.is_empty());
    }
    assert_eq!(world.drops(), [("tunnel_too_big", 2)]);
    // By an entry, longer ones go as ever.
    world.at_host(&ipv6_tcp(client(1), service(80), ACK, &[7; 1440]));
    // A rotation does not make them longer.
    world.gateway.rotate_token(world.now);
    let before = world.requests;
    world.at_service(&of_length(TUNNEL_MTU));
    assert_eq!(world.requests, before + 1);
}

#[test]
fn fragments_of_a_datagram_follow_the_first() {
    let mut world = World::delivering();
    let parts = fragments6(&udp6(44_000, &[7; 3000]), 1, 1200);
    world.send(&parts[2]);
    assert!(world.host().delivered.is_empty(), "whose it is is not known yet");
    world.send(&parts[0]);
    world.send(&parts[1]);
    let delivered: Vec<_> = world.host().delivered.drain(..).collect();
    assert_eq!(delivered, [&parts[0][..], &parts[2], &parts[1]]);
    for part in fragments6(&ip6(protocol::UDP, SERVICE, CLIENT, &[7; 3000]), 1, 1200) {
        world.service_sends(&part);
    }
}

/// A client that only speaks (of a log, say) is no reason to give up a server that delivers.
#[test]
fn a_server_that_delivers_need_not_answer() {
    let mut world = World::delivering();
    world.at_service(&udp6(40_000, b"hello"));
    world.service_sends(&ipv6_udp(service(53), client(40_000), b"hello"));
    for _ in 0..100 {
        world.now += SILENCE_MAX / 7;
        world.at_service(&udp6(40_000, b"a line"));
    }
    for _ in 0..10 {
        world.now += 3 * SILENCE_MAX;
        world.at_service(&udp6(40_000, b"a line"));
    }
    assert_eq!(world.changes, [ServerChange::Known]);
    // But where nothing is answered any more, it is.
    world.handoff = Handoff::Silent;
    for _ in 0..UNANSWERED_MAX {
        world.drain();
        world.now += SILENCE_MAX;
        world.send(&udp6(40_000, b"a line"));
    }
    for _ in 0..2 {
        world.now += SILENCE_MAX;
        world.send(&udp6(40_000, b"a line"));
    }
    assert_eq!(world.changes, [ServerChange::Known, ServerChange::Silent]);
    assert!(!world.to_host.is_empty(), "by an entry of the gateway's own");
}

/// While it is being started again, say.
#[test]
fn connections_outlive_a_server_that_delivers_and_is_dead_for_a_while() {
    let mut world = World::delivering();
    let packet = ipv6_tcp(client(40_000), service(80), ACK, b"still here");
    world.at_service(&packet);
    world.service_sends(&ipv6_tcp(service(80), client(40_000), ACK, b"so am I"));
    let before = std::mem::replace(&mut world.handoff, Handoff::Closed);
    world.drain();
    world.send(&packet);
    assert_eq!(world.changes.last(), Some(&ServerChange::Down));
    for _ in 0..3 {
        assert_eq!(world.dropped(&packet), "server_dead");
        world.now += ASK_INTERVAL;
    }
    // A new one is served without it.
    world.exchange(40_001, SYN, SYN | ACK);
    world.now += ASK_INTERVAL;
    world.handoff = before;
    world.send(&packet);
    assert_eq!(world.changes.last(), Some(&ServerChange::Back), "it was asked");
    assert_eq!(world.at_service(&packet), packet);
    // One that does not come back keeps nobody waiting for ever.
    world.handoff = Handoff::Closed;
    world.drain();
    world.send(&packet);
    world.now += RETURN_MAX;
    let there = world.at_host(&packet);
    assert_eq!(ports(&there[20..]).unwrap().1, 80);
}
