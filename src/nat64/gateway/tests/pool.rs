//! Several public addresses: each client has one of them, and each is a NAT64 of its own to a
//! server.

use std::collections::BTreeSet;

use super::*;
use crate::handoff::server::Server;
use crate::ip::build::ipv6_udp;
use crate::nat64::engine::TCP_ESTABLISHED_LIFETIME;

pub(super) const ADDRESSES: [Ipv4Addr; 3] =
    [POOL, Ipv4Addr::new(192, 0, 2, 9), Ipv4Addr::new(192, 0, 2, 11)];

/// A gateway of these addresses, in front of hosts without a server, or with one at `HOST`.
pub(super) struct Several {
    pub(super) gateway: Gateway,
    pub(super) now: Duration,
    server: Option<Box<Server>>,
    notices: Vec<Notice>,
}

impl Several {
    pub(super) fn new(handoff: Handoff) -> Self {
        let nat64 =
            Nat64Config { authenticator_key: Some([5; 16]), ..Nat64Config::new(ADDRESSES[0]) };
        let further = ADDRESSES[1..].to_vec();
        let config = GatewayConfig { further, ..GatewayConfig::new(nat64, MTU) };
        let gateway = Gateway::new(config, [3; 32]).unwrap();
        let server = match handoff {
            Handoff::Open(server) => Some(server),
            _ => None,
        };
        Self { gateway, now: Duration::from_secs(100), server, notices: Vec::new() }
    }

    /// What is written for this packet: control datagrams are carried to the server and back, or
    /// lost.
    pub(super) fn give(&mut self, packet: &[u8]) -> Vec<Vec<u8>> {
        let mut written = Vec::new();
        let mut queue = VecDeque::from([packet.to_vec()]);
        let mut outbox = GatewayOutbox::default();
        while let Some(packet) = queue.pop_front() {
            self.gateway.packet(self.now, &packet, &mut outbox);
            for packet in outbox.packets() {
                let view = Ipv4::new(packet).filter(|view| view.protocol() == protocol::UDP);
                let ends = view.and_then(|view| ports(view.data()));
                let Some((view, (from, _))) = view.zip(ends).filter(|(_, ends)| ends.1 == HANDOFF)
                else {
                    written.push(packet.to_vec());
                    continue;
                };
                let Some(server) = &mut self.server else { continue };
                let nat64 = view.source();
                for (port, payload) in ask(server, nat64, self.now, from, &view.data()[8..]) {
                    let (from, to) = ends_of(HOST, HANDOFF, nat64, port);
                    queue.push_back(ipv4_udp(from, to, &payload));
                }
            }
            self.notices.extend(outbox.notices());
            outbox.clear();
        }
        written
    }

    /// From where the host gets the client's packet: it gets one, and nobody anything else.
    pub(super) fn source(&mut self, packet: &[u8]) -> SocketAddrV4 {
        let written = self.give(packet);
        assert_eq!(written.len(), 1, "{:?}", self.gateway.drops().collect::<Vec<_>>());
        let view = Ipv4::new(&written[0]).unwrap();
        let port = ports(view.data()).map_or(0, |ports| ports.0);
        SocketAddrV4::new(view.source(), port)
    }

    pub(super) fn entries(&self) -> Vec<usize> {
        self.gateway.nat64s().map(Nat64::entries_held).collect()
    }
}

pub(super) fn ends_of(
    from: Ipv4Addr,
    port: u16,
    to: Ipv4Addr,
    to_port: u16,
) -> (SocketAddrV4, SocketAddrV4) {
    (SocketAddrV4::new(from, port), SocketAddrV4::new(to, to_port))
}

/// The address of one of many clients.
pub(super) fn address(number: u16) -> Ipv6Addr {
    Ipv6Addr::from_bits(CLIENT.to_bits() + (u128::from(number) << 64))
}

pub(super) fn of(client: Ipv6Addr, port: u16, host: Ipv4Addr) -> (SocketAddrV6, SocketAddrV6) {
    let service = synthesize(Prefix96::of(SERVICE), host);
    (SocketAddrV6::new(client, port, 0, 0), SocketAddrV6::new(service, 80, 0, 0))
}

pub(super) fn syn(client: Ipv6Addr, port: u16, host: Ipv4Addr) -> Vec<u8> {
    let (from, to) = of(client, port, host);
    ipv6_tcp(from, to, SYN, b"")
}

#[test]
fn a_client_has_one_address_for_all_that_it_does() {
    let mut several = Several::new(Handoff::Silent);
    let mut all = BTreeSet::new();
    for number in 0..40 {
        let client = address(number);
        let first = several.source(&syn(client, 1000, HOST));
        all.insert(*first.ip());
        for port in 1001..1010 {
            let host = if port % 2 == 0 { HOST } else { ROUTER };
            assert_eq!(several.source(&syn(client, port, host)).ip(), first.ip());
            let (from, to) = of(client, port, host);
            assert_eq!(several.source(&ipv6_udp(from, to, b"query")).ip(), first.ip());
        }
        let echo = ipv6_echo_request(client, SERVICE, 7, 1, b"ping");
        assert_eq!(several.source(&echo).ip(), first.ip());
        let whole = ipv6_udp(of(client, 1, HOST).0, of(client, 1, HOST).1, &[7; 3000]);
        for fragment in fragments6(&whole, 77, 1024).iter().rev() {
            for packet in several.give(fragment) {
                assert_eq!(Ipv4::new(&packet).unwrap().source(), *first.ip());
            }
        }
        // Answers to it reach the client; those to another address do not, nor has that the port.
        let (from, to) = ends_of(HOST, 80, *first.ip(), first.port());
        let back = several.give(&ipv4_tcp(from, to, SYN | ACK, b""));
        assert_eq!(Ipv6::new(&back[0]).unwrap().destination(), client);
        let other = ADDRESSES.into_iter().find(|other| other != first.ip()).unwrap();
        let (from, to) = ends_of(HOST, 80, other, first.port());
        assert!(several.give(&ipv4_tcp(from, to, SYN | ACK, b"")).is_empty());
    }
    assert_eq!(all, BTreeSet::from(ADDRESSES));
    assert_eq!(several.gateway.dropped(Dropped::FragmentUnknown), 0);
    // From one address to another nothing is let through, whoever says so.
    let (from, to) = ends_of(ADDRESSES[1], 80, ADDRESSES[0], 1024);
    assert!(several.give(&ipv4_tcp(from, to, SYN, b"")).is_empty());
    assert_eq!(several.gateway.dropped(Dropped::Loop), 1);
}

#[test]
fn the_address_is_the_same_after_a_reboot() {
    let mut several = Several::new(Handoff::Silent);
    let sources = |several: &mut Several| {
        (0..50).map(|number| *several.source(&syn(address(number), 1, HOST)).ip()).collect()
    };
    let before: Vec<Ipv4Addr> = sources(&mut several);
    several.gateway.reboot([9; 32]);
    assert_eq!(several.entries(), [0; 3]);
    let after: Vec<Ipv4Addr> = sources(&mut several);
    assert_eq!(after, before);
}

#[test]
fn who_comes_when_an_address_is_crowded_gets_another_and_keeps_it() {
    let mut several = Several::new(Handoff::Silent);
    let busy = address(0);
    let crowded = *several.source(&syn(busy, 1, HOST)).ip();
    let alike: Vec<_> = (1..200)
        .map(address)
        .filter(|&client| *several.source(&syn(client, 1, HOST)).ip() == crowded)
        .take(2)
        .collect();
    several.gateway.reboot([9; 32]);
    let [stays, comes] = alike[..] else { panic!("{alike:?}") };
    assert_eq!(*several.source(&syn(stays, 1, HOST)).ip(), crowded);
    for port in 1..1200 {
        several.source(&syn(busy, port, HOST));
    }
    let given = *several.source(&syn(comes, 1, HOST)).ip();
    assert_ne!(given, crowded);
    assert_eq!(*several.source(&syn(stays, 2, HOST)).ip(), crowded);
    // The load is gone; the client has no entry, but maybe a connection that a server delivers.
    several.now += TCP_ESTABLISHED_LIFETIME - Duration::from_secs(60);
    several.gateway.tick(several.now, &mut GatewayOutbox::default());
    assert_eq!(several.entries(), [0; 3]);
    assert_eq!(*several.source(&syn(comes, 2, HOST)).ip(), given);
    several.now += PAIRING_LIFETIME + Duration::from_secs(60);
    several.gateway.tick(several.now, &mut GatewayOutbox::default());
    assert_eq!(*several.source(&syn(comes, 3, HOST)).ip(), crowded);
}

#[test]
fn each_address_is_a_nat64_of_its_own_to_a_server() {
    let mut several = Several::new(server());
    let mut of_address: Vec<Option<Ipv6Addr>> = vec![None; 3];
    for number in 0..40 {
        let client = address(number);
        for port in 1..6 {
            let (from, to) = of(client, port, HOST);
            for packet in several.give(&ipv6_udp(from, to, b"hello")) {
                let source = Ipv4::new(&packet).unwrap().source();
                let at = ADDRESSES.iter().position(|&address| address == source).unwrap();
                of_address[at] = Some(client);
            }
        }
    }
    let known: BTreeSet<_> = several.notices.iter().map(|notice| notice.nat64).collect();
    assert_eq!(known, BTreeSet::from(ADDRESSES));
    assert_eq!(several.notices.len(), 3, "{:?}", several.notices);
    // The server has each client in the table of its address alone.
    let in_tables: Vec<_> = several.server.as_ref().unwrap().entries().collect();
    for (table, entry) in &in_tables {
        let others = in_tables.iter().filter(|(_, other)| other.client == entry.client);
        assert_eq!(others.count(), 1);
        assert_eq!(several.gateway.pool.of_client(several.now, entry.client.address), {
            several.gateway.pool.which(table.nat64).unwrap()
        });
    }
    assert_eq!(in_tables.len(), several.entries().iter().sum::<usize>());
    // After a reboot a service that speaks first reaches its client, by the table of that address.
    several.gateway.reboot([9; 32]);
    for (address, client) in ADDRESSES.into_iter().zip(of_address) {
        let client = client.unwrap();
        let is_its = |(_, entry): &&(TableKey, Entry)| entry.client.address == client;
        let (table, entry) = in_tables.iter().find(is_its).unwrap();
        assert_eq!(table.nat64, address);
        let (from, to) = ends_of(HOST, 80, address, entry.port.0);
        let answer = ipv4_udp(from, to, b"hello");
        // One is spent on validation, another perhaps on attenuation.
        let back: Vec<_> = (0..4).flat_map(|_| several.give(&answer)).collect();
        let clients: BTreeSet<_> =
            back.iter().map(|packet| Ipv6::new(packet).unwrap().destination()).collect();
        assert_eq!(clients, BTreeSet::from([client]));
    }
}

#[test]
fn errors_come_from_the_address_that_they_are_about() {
    let mut several = Several::new(Handoff::Silent);
    for address in ADDRESSES {
        let mut mapped =
            (0..40).map(|number| several.source(&syn(super::pool::address(number), 1, HOST)));
        let mapped = mapped.find(|mapped| *mapped.ip() == address).unwrap();
        // It cannot be passed on: its time is over.
        let (from, to) = ends_of(HOST, 80, address, mapped.port());
        let mut packet = ipv4_tcp(from, to, SYN | ACK, b"");
        packet[8] = 1;
        packet[10..12].fill(0);
        let sum = checksum(&[&packet[..20]]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        for error in several.give(&packet) {
            let view = Ipv4::new(&error).unwrap();
            assert_eq!((view.source(), view.destination()), (address, HOST));
            assert_eq!(view.data()[0], v4::TIME_EXCEEDED);
        }
        assert_eq!(several.gateway.done(Done::Errors), 1, "{address}");
        several = Several::new(Handoff::Silent);
    }
}
