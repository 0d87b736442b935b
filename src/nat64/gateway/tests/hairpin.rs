//! Clients that reach each other through the public addresses (RFC 6146 section 3.8).

use super::pool::{ADDRESSES, Several, address, syn};
use super::*;
use crate::ip::build::ipv6_udp;
use crate::ip::offload::{ChecksumLeft, Offload, Segmentation};

/// A gateway of several addresses, and two clients that have talked to a host.
struct Pair {
    several: Several,
    /// Each with what it is to the host, which is what others reach it by.
    one: (SocketAddrV6, SocketAddrV4),
    other: (SocketAddrV6, SocketAddrV4),
}

impl Pair {
    /// Whether their public address is the same one.
    fn new(same: bool) -> Self {
        let mut several = Several::new(Handoff::Silent);
        let mut known = |number: u16, port: u16| {
            let outside = several.source(&syn(address(number), port, HOST));
            (SocketAddrV6::new(address(number), port, 0, 0), outside)
        };
        let one = known(0, 5000);
        let other = (1..40).map(|number| known(number, 6000));
        let other = { other }.find(|other| (other.1.ip() == one.1.ip()) == same).unwrap();
        Self { several, one, other }
    }

    /// The one packet that is written for this one, to a client.
    fn arrives(&mut self, packet: &[u8]) -> Vec<u8> {
        let mut written = self.several.give(packet);
        let drops: Vec<_> = self.several.gateway.drops().collect();
        assert_eq!(written.len(), 1, "{drops:?}");
        let packet = written.remove(0);
        verify(&packet);
        packet
    }
}

/// What others call it.
fn behind(outside: SocketAddrV4) -> SocketAddrV6 {
    let address = synthesize(Prefix96::of(SERVICE), *outside.ip());
    SocketAddrV6::new(address, outside.port(), 0, 0)
}

/// Lengths and checksums of an IPv6 packet that is no fragment.
fn verify(packet: &[u8]) {
    let view = Ipv6::new(packet).unwrap();
    assert_eq!(IPV6_HEADER + view.payload_length(), packet.len());
    let upper = &packet[IPV6_HEADER..];
    let length = (upper.len() as u32).to_be_bytes();
    let ends = [view.source().octets(), view.destination().octets()].concat();
    assert_eq!(checksum(&[&ends, &length, &[0, 0, 0, packet[6]], upper]), 0);
}

/// Between which ends a packet goes.
fn ends_of6(packet: &[u8]) -> (SocketAddrV6, SocketAddrV6) {
    let view = Ipv6::new(packet).unwrap();
    let (from, to) = ports(&packet[IPV6_HEADER..]).unwrap();
    let end = |address, port| SocketAddrV6::new(address, port, 0, 0);
    (end(view.source(), from), end(view.destination(), to))
}

#[test]
fn rfc_6146_section_3_8_clients_reach_each_other_by_their_ports() {
    for same in [true, false] {
        let mut pair = Pair::new(same);
        let ((one, one_outside), (other, other_outside)) = (pair.one, pair.other);
        let there = pair.arrives(&ipv6_udp(one, behind(other_outside), b"hello"));
        // From the port that it has to the host, too: what the other may have been told.
        assert_eq!(ends_of6(&there), (behind(one_outside), other));
        assert_eq!(&there[48..], b"hello");
        let back = pair.arrives(&ipv6_udp(other, behind(one_outside), b"you too"));
        assert_eq!(ends_of6(&back), (behind(other_outside), one));
        // A connection, and its end.
        for flags in [SYN, ACK, ACK | FIN, RST] {
            let there = pair.arrives(&ipv6_tcp(one, behind(other_outside), flags, b"data"));
            assert_eq!(ends_of6(&there), (behind(one_outside), other));
            assert_eq!(there[40 + 13], flags);
            let back = pair.arrives(&ipv6_tcp(other, behind(one_outside), flags | ACK, b""));
            assert_eq!(ends_of6(&back), (behind(other_outside), one));
        }
        // One reaches itself as well.
        let back = pair.arrives(&ipv6_udp(one, behind(one_outside), b"who is there?"));
        assert_eq!(ends_of6(&back), (behind(one_outside), one));
        // Nobody asks or tells a public address anything.
        let mut outbox = GatewayOutbox::default();
        for _ in 0..20 {
            pair.several.now += Duration::from_secs(1);
            pair.several.gateway.tick(pair.several.now, &mut outbox);
        }
        let to_one = |packet: &[u8]| {
            Ipv4::new(packet).is_some_and(|view| ADDRESSES.contains(&view.destination()))
        };
        assert!(!outbox.packets().any(to_one));
        // It was all by entries, which end as others do.
        pair.several.now += Duration::from_secs(3 * 3600);
        pair.several.gateway.tick(pair.several.now, &mut outbox);
        assert_eq!(pair.several.entries(), [0; 3]);
        pair.several.give(&ipv6_udp(one, behind(other_outside), b"hello"));
        assert_eq!(pair.several.gateway.dropped(Dropped::Hairpin), 1);
    }
}

#[test]
fn a_client_without_a_port_gets_one_by_it() {
    let mut pair = Pair::new(false);
    let new = SocketAddrV6::new(address(50), 7000, 0, 0);
    let (other, outside) = pair.other;
    let there = pair.arrives(&ipv6_tcp(new, behind(outside), SYN, b""));
    let (from, to) = ends_of6(&there);
    assert_eq!(to, other);
    let back = pair.arrives(&ipv6_tcp(other, from, SYN | ACK, b""));
    assert_eq!(ends_of6(&back), (behind(outside), new));
    // To a host it is the same.
    let outside = pair.several.source(&syn(address(50), 7000, ROUTER));
    assert_eq!(behind(outside), from);
}

#[test]
fn errors_reach_who_sent_what_they_are_about() {
    for same in [true, false] {
        let mut pair = Pair::new(same);
        let ((one, one_outside), (other, other_outside)) = (pair.one, pair.other);
        let there = pair.arrives(&ipv6_udp(one, behind(other_outside), b"hello"));
        let error = icmp6(*other.ip(), *behind(one_outside).ip(), [v6::UNREACHABLE, 4], &there);
        let told = pair.arrives(&error);
        let view = Ipv6::new(&told).unwrap();
        assert_eq!(view.destination(), *one.ip());
        assert_eq!(view.source(), *behind(other_outside).ip());
        let (kind, code, quoted) = error6(&told);
        assert_eq!((kind, code), (v6::UNREACHABLE, 4));
        assert_eq!(ends_of6(quoted), (one, behind(other_outside)));
        // The gateway is two routers: both tell whose time is over.
        for hops in [1, 2] {
            let mut last = ipv6_udp(one, behind(other_outside), b"hello");
            last[7] = hops;
            let told = pair.arrives(&last);
            let (kind, _, quoted) = error6(&told);
            assert_eq!(kind, v6::TIME_EXCEEDED, "{hops}");
            assert_eq!(Ipv6::new(&told).unwrap().destination(), *one.ip());
            assert_eq!(ends_of6(quoted), (one, behind(other_outside)));
        }
    }
}

/// An ICMPv6 error of these type and code.
fn icmp6(from: Ipv6Addr, to: Ipv6Addr, kind: [u8; 2], quoted: &[u8]) -> Vec<u8> {
    let mut message = [&kind[..], &[0; 6], quoted].concat();
    let length = (message.len() as u32).to_be_bytes();
    let next = [0, 0, 0, protocol::ICMPV6];
    let sum = checksum(&[&from.octets(), &to.octets(), &length, &next, &message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut header =
        ipv6_udp(SocketAddrV6::new(from, 1, 0, 0), SocketAddrV6::new(to, 1, 0, 0), b"");
    header.truncate(IPV6_HEADER);
    header[4..6].copy_from_slice(&(message.len() as u16).to_be_bytes());
    header[6] = protocol::ICMPV6;
    [header, message].concat()
}

#[test]
fn fragments_in_any_order_reach_the_other() {
    for backwards in [false, true] {
        let mut pair = Pair::new(false);
        let ((one, _), (other, outside)) = (pair.one, pair.other);
        let data: Vec<u8> = (0..3000).map(|i| (i % 251) as u8).collect();
        let mut fragments = fragments6(&ipv6_udp(one, behind(outside), &data), 77, 1024);
        if backwards {
            fragments.reverse();
        }
        let mut arrived = vec![0; 8 + data.len()];
        let mut octets = 0;
        for packet in fragments.iter().flat_map(|fragment| pair.several.give(fragment)) {
            let view = Ipv6::new(&packet).unwrap();
            assert_eq!((view.destination(), packet[6]), (*other.ip(), protocol::FRAGMENT));
            let offset = usize::from(u16::from_be_bytes([packet[42], packet[43]]) & !7);
            let part = &packet[48..];
            arrived[offset..offset + part.len()].copy_from_slice(part);
            octets += part.len();
        }
        assert_eq!(octets, arrived.len());
        assert_eq!(arrived[8..], data);
    }
}

#[test]
fn super_packets_reach_the_other_in_pieces() {
    let mut pair = Pair::new(false);
    let ((one, _), (other, outside)) = (pair.one, pair.other);
    pair.arrives(&ipv6_tcp(one, behind(outside), SYN, b""));
    let mut packet = ipv6_tcp(one, behind(outside), ACK, &[7; 5000]);
    let headers = (packet.len() - 5000) as u16;
    let offload = Offload {
        checksum: Some(ChecksumLeft::of(Transport::Tcp, IPV6_HEADER)),
        segments: Some(Segmentation { transport: Transport::Tcp, size: 1000, headers, ecn: false }),
    };
    let (now, mut outbox) = (pair.several.now, GatewayOutbox::default());
    let gateway = &mut pair.several.gateway;
    assert!(gateway.forward_offloaded(now, &packet, &offload).is_none());
    assert!(!gateway.tunnel_offloaded(now, &packet, &offload, &mut outbox));
    gateway.in_pieces(now, &mut packet, &offload, &mut outbox);
    assert_eq!(outbox.packets().count(), 5);
    for packet in outbox.packets() {
        verify(packet);
        assert_eq!(ends_of6(packet).1, other);
    }
}

#[test]
fn who_is_nobodys_port_is_told() {
    let mut pair = Pair::new(true);
    let ((one, _), (_, outside)) = (pair.one, pair.other);
    let control = pair.several.gateway.nat64().control_port().0;
    let free = (1024..).find(|port| ![one.port(), outside.port(), control].contains(port)).unwrap();
    let port = |port| behind(SocketAddrV4::new(*outside.ip(), port));
    let cases = [
        ipv6_udp(one, port(free), b"hello"),
        ipv6_tcp(one, port(free), SYN, b""),
        ipv6_udp(one, behind(SocketAddrV4::new(ADDRESSES[0], control)), b"hello"),
        ipv6_udp(one, port(HANDOFF), b"hello"),
        ipv6_echo_request(*one.ip(), *port(1).ip(), 7, 1, b"ping"),
    ];
    for (number, packet) in cases.iter().enumerate() {
        let told = pair.arrives(packet);
        assert_eq!(kind_and_code(&told), [v6::UNREACHABLE, v6::PROHIBITED], "{number}");
        assert_eq!(pair.several.gateway.dropped(Dropped::Hairpin), number as u64 + 1);
    }
    // What opens nothing makes no entry.
    let mut pair = Pair::new(true);
    let before = pair.several.entries();
    pair.arrives(&ipv6_tcp(pair.one.0, behind(pair.other.1), ACK, b""));
    assert_eq!(pair.several.entries(), before);
}
