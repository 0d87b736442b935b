//! A gateway between a client, an IPv4 host, and the [`Server`] on that host, all in memory.

use std::collections::VecDeque;
use std::net::{SocketAddrV4, SocketAddrV6};
use std::sync::Arc;

use super::*;
use crate::nat64::packets::{
    ACK, FIN, RST, SYN, ipv4_tcp, ipv4_udp, ipv6_echo_request, ipv6_tcp, ipv6_udp,
};
use crate::packet::{self, IPV4_HEADER, IPV6_HEADER, icmp_type, protocol};
use crate::server::{self, Body, Budget, Datagram, NoneKnown, Server, ServerConfig};
use crate::stats::Stats;
use crate::table::TableLimits;
use crate::wire::HEAD_ROOM;

const POOL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const HOST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
const ROUTER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const CLIENT: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x17);
const SERVICE: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0xcb00, 0x7105);
const HANDOFF: u16 = 64064;
const MTU: u16 = 1500;

/// What is at the host's handoff port.
enum Handoff {
    /// Nobody, and its kernel says so.
    Closed,
    /// A firewall that drops.
    Silent,
    /// The server.
    Open(Box<Server>),
}

struct World {
    gateway: Gateway,
    now: Duration,
    handoff: Handoff,
    /// Fragments of a control datagram on the host: each comes behind the one before.
    partial: Vec<u8>,
    to_client: VecDeque<Vec<u8>>,
    to_host: VecDeque<Vec<u8>>,
    changes: Vec<ServerChange>,
    /// Control datagrams that the host got.
    requests: usize,
    identification: u16,
}

impl World {
    fn new(handoff: Handoff) -> Self {
        let config = Config { nat64: nat64::Config::new(POOL), mtu: MTU };
        Self {
            gateway: Gateway::new(config, [3; 32]).unwrap(),
            now: Duration::from_secs(100),
            handoff,
            partial: Vec::new(),
            to_client: VecDeque::new(),
            to_host: VecDeque::new(),
            changes: Vec::new(),
            requests: 0,
            identification: 0,
        }
    }

    /// With a server that is known already.
    fn known() -> Self {
        let mut world = Self::new(server());
        for port in [1, 2, 3] {
            world.send(&udp6(port, b"hello"));
            world.drain();
        }
        assert_eq!(world.gateway.nat64().state(HOST), ServerState::Alive);
        assert_eq!(world.changes, [ServerChange::Known]);
        world
    }

    fn drain(&mut self) {
        self.to_client.clear();
        self.to_host.clear();
    }

    /// Gives the gateway a packet, and carries about what comes of it until nothing more does.
    fn send(&mut self, packet: &[u8]) {
        let mut queue = VecDeque::from([packet.to_vec()]);
        let mut outbox = Outbox::default();
        while let Some(packet) = queue.pop_front() {
            self.gateway.packet(self.now, &packet, &mut outbox);
            self.carry(&mut outbox, &mut queue);
        }
    }

    fn tick(&mut self) {
        let (mut outbox, mut queue) = (Outbox::default(), VecDeque::new());
        self.gateway.tick(self.now, &mut outbox);
        self.carry(&mut outbox, &mut queue);
        while let Some(packet) = queue.pop_front() {
            self.send(&packet);
        }
    }

    fn carry(&mut self, outbox: &mut Outbox, queue: &mut VecDeque<Vec<u8>>) {
        for packet in outbox.packets() {
            check(packet);
            match packet[0] >> 4 {
                6 => self.to_client.push_back(packet.to_vec()),
                _ if self.is_control(packet) => queue.extend(self.control(packet)),
                _ => self.to_host.push_back(packet.to_vec()),
            }
        }
        self.changes.extend(outbox.notices().iter().map(|notice| {
            assert_eq!(notice.server, HOST);
            notice.change
        }));
        outbox.clear();
    }

    fn is_control(&self, packet: &[u8]) -> bool {
        let view = Ipv4::new(packet).unwrap();
        let later = view.fragment().is_some_and(|fragment| !fragment.first);
        let to = packet::ports(view.data()).map(|(_, to)| to);
        view.protocol() == protocol::UDP
            && ((later && !self.partial.is_empty()) || (!later && to == Some(HANDOFF)))
    }

    /// What the host answers to a control datagram.
    fn control(&mut self, packet: &[u8]) -> Vec<Vec<u8>> {
        let view = Ipv4::new(packet).unwrap();
        assert_eq!((view.source(), view.destination()), (POOL, HOST));
        if let Some(fragment) = view.fragment() {
            assert_eq!(usize::from(fragment.offset), self.partial.len());
            self.partial.extend_from_slice(view.data());
            if fragment.more {
                return Vec::new();
            }
        } else {
            self.partial = view.data().to_vec();
        }
        let datagram = std::mem::take(&mut self.partial);
        let (from, to) = packet::ports(&datagram).unwrap();
        assert_eq!((from, to), (self.gateway.nat64().control_port().0, HANDOFF));
        assert_eq!(usize::from(u16::from_be_bytes([datagram[4], datagram[5]])), datagram.len());
        assert_eq!(transport_sum(POOL, HOST, protocol::UDP, &datagram), 0, "UDP checksum");
        self.requests += 1;
        match &mut self.handoff {
            Handoff::Silent => Vec::new(),
            Handoff::Closed => {
                let whole = ip4(protocol::UDP, POOL, HOST, &datagram);
                vec![icmp4(HOST, 3, 3, &whole[..whole.len().min(548)])]
            }
            Handoff::Open(server) => {
                let replies = ask(server, self.now, from, &datagram[8..]);
                let wrap = |(port, payload): (u16, Vec<u8>)| {
                    self.identification += 1;
                    let whole = udp4(HANDOFF, port, &payload);
                    fragments4(&whole, self.identification, usize::from(MTU))
                };
                replies.into_iter().flat_map(wrap).collect()
            }
        }
    }

    fn drops(&self) -> Vec<(&'static str, u64)> {
        self.gateway.drops().collect()
    }

    /// The one packet that the host gets when the client sends this.
    fn at_host(&mut self, packet: &[u8]) -> Vec<u8> {
        self.drain();
        self.send(packet);
        assert_eq!(self.to_client.len(), 0, "{:02x?}", self.to_client);
        assert_eq!(self.to_host.len(), 1, "{:?}", self.drops());
        self.to_host.pop_front().unwrap()
    }

    /// The one packet that the client gets when the host, or a router, sends this.
    fn at_client(&mut self, packet: &[u8]) -> Vec<u8> {
        self.drain();
        self.send(packet);
        assert_eq!(self.to_host.len(), 0, "{:02x?}", self.to_host);
        assert_eq!(self.to_client.len(), 1, "{:?}", self.drops());
        self.to_client.pop_front().unwrap()
    }

    /// Nobody gets anything, for this reason alone.
    fn dropped(&mut self, packet: &[u8]) -> &'static str {
        self.drain();
        let before = self.drops();
        self.send(packet);
        assert!(self.to_client.is_empty() && self.to_host.is_empty());
        let mut news = self.drops();
        news.retain(|new| !before.contains(new));
        assert_eq!(news.len(), 1, "{news:?}");
        news[0].0
    }

    /// A request of the client and its answer, both as TCP; the mapped port.
    fn exchange(&mut self, client_port: u16, flags: u8, answer: u8) -> u16 {
        let there = self.at_host(&tcp6(client_port, flags));
        let view = Ipv4::new(&there).unwrap();
        assert_eq!((view.source(), view.destination()), (POOL, HOST));
        let (mapped, to) = packet::ports(view.data()).unwrap();
        assert_eq!(to, 80);
        let back = self.at_client(&tcp4(mapped, answer));
        let view = Ipv6::new(&back).unwrap();
        assert_eq!((view.source(), view.destination()), (SERVICE, CLIENT));
        assert_eq!(packet::ports(&back[40..]), Some((80, client_port)));
        mapped
    }
}

fn server() -> Handoff {
    let config = ServerConfig {
        handoff_port: HANDOFF,
        limits: TableLimits::default(),
        validation_rate: 1000,
        budget: Arc::new(Budget::new(100, 100_000)),
        access: Arc::default(),
    };
    let stats = Arc::new(Stats::default());
    let server = Server::new(config, [7; 32], Duration::ZERO, Box::new(NoneKnown), stats);
    Handoff::Open(Box::new(server))
}

/// The ports and payloads of a server's replies.
fn ask(server: &mut Server, now: Duration, port: u16, payload: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut buffer = vec![0; HEAD_ROOM];
    buffer.extend_from_slice(payload);
    let payload = HEAD_ROOM..buffer.len();
    let mut outbox = server::Outbox::default();
    let table = TableKey { local: HOST, nat64: POOL };
    let datagram = Datagram { table, port, buffer: &mut buffer, payload, room: 0 };
    let time = crate::change::Now { wall: Default::default(), monotonic: now };
    server.handle(time, datagram, &mut outbox);
    let body = |reply: &server::Reply| match reply.body.clone() {
        Body::InPlace(range) => buffer[range].to_vec(),
        Body::Copied(range) => outbox.copies()[range].to_vec(),
    };
    let port = |reply: &server::Reply| {
        assert_eq!(*reply.to.ip(), POOL);
        reply.to.port()
    };
    outbox.replies.iter().map(|reply| (port(reply), body(reply))).collect()
}

fn transport_sum(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, upper: &[u8]) -> u16 {
    let length = (upper.len() as u16).to_be_bytes();
    packet::checksum(&[&from.octets(), &to.octets(), &[0, protocol], &length, upper])
}

/// What holds for each packet that the gateway writes: lengths, checksums, the MTU.
fn check(packet: &[u8]) {
    assert!(packet.len() <= usize::from(MTU), "{} octets", packet.len());
    if packet[0] >> 4 == 4 {
        let view = Ipv4::new(packet).unwrap();
        assert!(view.checksum_is_right());
        assert_eq!(view.total_length(), packet.len());
        assert_eq!(view.source(), POOL);
        if view.fragment().is_none() {
            let sum = match view.protocol() {
                protocol::ICMP => packet::checksum(&[view.data()]),
                other => transport_sum(view.source(), view.destination(), other, view.data()),
            };
            assert_eq!(sum, 0, "{packet:02x?}");
        }
    } else {
        let view = Ipv6::new(packet).unwrap();
        assert_eq!(IPV6_HEADER + view.payload_length(), packet.len());
        assert_eq!(view.destination(), CLIENT);
        let walk = view.walk().unwrap();
        if walk.fragment.is_none() {
            let upper = &packet[walk.upper_at..];
            let length = (upper.len() as u32).to_be_bytes();
            let pseudo = [0, 0, 0, walk.protocol];
            let (from, to) = (view.source().octets(), view.destination().octets());
            assert_eq!(packet::checksum(&[&from, &to, &length, &pseudo, upper]), 0);
        }
    }
}

fn client(port: u16) -> SocketAddrV6 {
    SocketAddrV6::new(CLIENT, port, 0, 0)
}

fn service(port: u16) -> SocketAddrV6 {
    SocketAddrV6::new(SERVICE, port, 0, 0)
}

fn tcp6(port: u16, flags: u8) -> Vec<u8> {
    ipv6_tcp(client(port), service(80), flags, b"to the host")
}

fn tcp4(mapped: u16, flags: u8) -> Vec<u8> {
    ipv4_tcp(SocketAddrV4::new(HOST, 80), SocketAddrV4::new(POOL, mapped), flags, b"back")
}

fn udp6(port: u16, data: &[u8]) -> Vec<u8> {
    ipv6_udp(client(port), service(53), data)
}

fn udp4(from: u16, to: u16, data: &[u8]) -> Vec<u8> {
    ipv4_udp(SocketAddrV4::new(HOST, from), SocketAddrV4::new(POOL, to), data)
}

fn echo6(identifier: u16) -> Vec<u8> {
    ipv6_echo_request(CLIENT, SERVICE, identifier, 7, b"ping")
}

fn ip4(protocol: u8, from: Ipv4Addr, to: Ipv4Addr, data: &[u8]) -> Vec<u8> {
    [&packet::ipv4_header(IPV4_HEADER + data.len(), 64, protocol, from, to), data].concat()
}

/// An ICMP message to the public address: an error about `quoted`, or a query.
fn icmp4(from: Ipv4Addr, kind: u8, code: u8, quoted: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, code, 0, 0, 0, 0, 0, 0], quoted].concat();
    let sum = packet::checksum(&[&message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ip4(protocol::ICMP, from, POOL, &message)
}

/// The packet in fragments for links of that MTU.
fn fragments4(packet: &[u8], identification: u16, mtu: usize) -> Vec<Vec<u8>> {
    let mut whole = packet.to_vec();
    whole[4..6].copy_from_slice(&identification.to_be_bytes());
    whole[6] = 0;
    let data = &whole[IPV4_HEADER..];
    let size = (mtu - IPV4_HEADER) & !7;
    let part = |(number, part): (usize, &[u8])| {
        let mut header = whole[..IPV4_HEADER].to_vec();
        let offset = number * size;
        let more = offset + part.len() < data.len();
        header[2..4].copy_from_slice(&((IPV4_HEADER + part.len()) as u16).to_be_bytes());
        let field = u16::from(more) << 13 | (offset / 8) as u16;
        header[6..8].copy_from_slice(&field.to_be_bytes());
        header[10..12].fill(0);
        let sum = packet::checksum(&[&header]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        [&header, part].concat()
    };
    data.chunks(size).enumerate().map(part).collect()
}

/// The packet in fragments of so much data.
fn fragments6(packet: &[u8], identification: u32, size: usize) -> Vec<Vec<u8>> {
    let data = &packet[IPV6_HEADER..];
    let part = |(number, part): (usize, &[u8])| {
        let offset = number * size;
        let more = offset + part.len() < data.len();
        let mut out = packet[..IPV6_HEADER].to_vec();
        out[4..6].copy_from_slice(&(8 + part.len() as u16).to_be_bytes());
        let next = std::mem::replace(&mut out[6], protocol::FRAGMENT);
        out.extend_from_slice(&[next, 0]);
        out.extend_from_slice(&(offset as u16 | u16::from(more)).to_be_bytes());
        out.extend_from_slice(&identification.to_be_bytes());
        out.extend_from_slice(part);
        out
    };
    data.chunks(size).enumerate().map(part).collect()
}

/// Type and code of an ICMPv6 error, and what it quotes.
fn error6(packet: &[u8]) -> (u8, u8, &[u8]) {
    assert_eq!(packet[6], protocol::ICMPV6);
    (packet[40], packet[41], &packet[48..])
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
        assert_eq!(packet::ports(&there[20..]), Some((mapped, 53)));
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
fn section_9_a_connection_outlives_a_reboot_whoever_speaks_first() {
    for client_first in [true, false] {
        let mut world = World::known();
        let mapped = world.exchange(40_000, SYN, SYN | ACK);
        world.gateway.reboot([9; 32]);
        assert_eq!(world.gateway.nat64().state(HOST), ServerState::Unknown);
        assert_eq!(world.gateway.nat64().client_of(HOST, crate::wire::MappedPort(mapped)), None);
        world.drain();
        // The first of them is spent on validation, at most two more on attenuation.
        let mut arrived = false;
        for _ in 0..6 {
            if client_first {
                world.send(&tcp6(40_000, ACK));
                arrived = !world.to_host.is_empty();
            } else {
                // An authenticator of before the reboot is refused until the client speaks.
                world.send(&tcp4(mapped, ACK));
                world.send(&tcp6(40_000, ACK));
                arrived = !world.to_host.is_empty();
            }
            if arrived {
                break;
            }
        }
        assert!(arrived, "{:?}", world.drops());
        assert_eq!(world.exchange(40_000, ACK, ACK), mapped);
        assert_eq!(world.changes, [ServerChange::Known; 2]);
    }
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
    let sum = packet::checksum_update(u16::from_be_bytes([overlap[1][10], overlap[1][11]]), 1, 0);
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
    let (mapped, _) = packet::ports(&there[20..]).unwrap();
    let back = world.at_client(&udp4(53, mapped, &data[..1400]));
    // No more than 1280 octets go into the IPv6 network at once, unless they must stay together.
    assert_eq!(back.len(), 1448);
}

#[test]
fn echo_works_with_and_without_a_server() {
    for mut world in [World::new(Handoff::Closed), World::new(Handoff::Silent), World::known()] {
        let requests = world.requests;
        let there = world.at_host(&echo6(17));
        assert_eq!(there[20], icmp_type::ECHO_REQUEST);
        let identifier = u16::from_be_bytes([there[24], there[25]]);
        let reply = |from| {
            let mut reply = there.clone();
            reply[20..24].copy_from_slice(&[icmp_type::ECHO_REPLY, 0, 0, 0]);
            let sum = packet::checksum(&[&reply[20..]]);
            reply[22..24].copy_from_slice(&sum.to_be_bytes());
            ip4(protocol::ICMP, from, POOL, &reply[20..])
        };
        let back = world.at_client(&reply(HOST));
        assert_eq!(back[40], icmp_type::V6_ECHO_REPLY);
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
        let mut outbox = Outbox::default();
        let packet = ipv6_echo_request(from, service, 1, 1, b"");
        world.gateway.packet(world.now, &packet, &mut outbox);
        assert_eq!(outbox.packets().count(), 1);
    }
    assert_eq!(world.dropped(&echo6(60_000)), "no_identifier");
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
        assert_eq!(packet::ports(&quoted[40..]), Some((40_000, 80)));
        // The other way: a router of the client's says that a packet of the host is too big.
        let (mapped, _) = packet::ports(&there[20..]).unwrap();
        let packet = world.at_client(&tcp4(mapped, SYN | ACK));
        let mut message = [&[2, 0, 0, 0, 0, 0, 0x05, 0x14], &packet[..]].concat(); // MTU 1300
        let router = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1);
        let sum = packet::icmpv6_checksum(router, SERVICE, &message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let header = packet::ipv6_header(message.len(), protocol::ICMPV6, 64, router, SERVICE);
        let there = world.at_host(&[&header[..], &message].concat());
        assert_eq!(there[20..22], [3, 4]);
        assert_eq!(u16::from_be_bytes([there[26], there[27]]), 1280);
        assert_eq!(packet::ports(&there[48..]), Some((80, mapped)));
    }
}

#[test]
fn fragments_both_ways() {
    for mut world in [World::new(Handoff::Closed), World::known()] {
        let data: Vec<u8> = (0..3000).map(|i| i as u8).collect();
        let parts = fragments6(&udp6(44_000, &data), 0x1234_5678, 1200);
        assert_eq!(parts.len(), 3);
        // Out of order: nobody knows whose it is, unless there is a server to ask, who does not either.
        world.drain();
        world.send(&parts[1]);
        assert!(world.to_host.is_empty());
        for part in &parts {
            world.send(part);
        }
        assert_eq!(world.to_host.len(), 3, "{:?}", world.drops());
        let mut whole = Vec::new();
        for part in &world.to_host {
            let view = Ipv4::new(part).unwrap();
            let fragment = view.fragment().unwrap();
            assert_eq!(fragment.identification, 0x5678);
            assert_eq!(usize::from(fragment.offset), whole.len());
            whole.extend_from_slice(view.data());
        }
        assert_eq!(transport_sum(POOL, HOST, protocol::UDP, &whole), 0);
        assert_eq!(&whole[8..], &data[..]);
        let (mapped, _) = packet::ports(&whole).unwrap();

        let answer = udp4(53, mapped, &data);
        let parts = fragments4(&answer, 0x4321, 1500);
        world.drain();
        world.send(&parts[1]);
        assert!(world.to_client.is_empty());
        for part in &parts {
            world.send(part);
        }
        let mut whole = Vec::new();
        for part in &world.to_client {
            let walk = Ipv6::new(part).unwrap().walk().unwrap();
            let fragment = walk.fragment.unwrap();
            assert_eq!(usize::from(fragment.offset), whole.len());
            whole.extend_from_slice(&part[walk.upper_at..]);
        }
        assert_eq!(&whole[8..], &data[..]);
        // After a while, notes are gone.
        world.now += Duration::from_secs(16);
        world.drain();
        world.send(&parts[1]);
        assert!(world.to_client.is_empty());
    }
}

#[test]
fn an_unknown_later_fragment_is_dropped_without_a_server() {
    let mut world = World::new(Handoff::Closed);
    let parts = fragments6(&udp6(44_000, &[7; 2000]), 1, 1200);
    assert_eq!(world.dropped(&parts[1]), "fragment_unknown");
    let parts = fragments4(&udp4(53, 9000, &[7; 2000]), 1, 1500);
    assert_eq!(world.dropped(&parts[1]), "fragment_unknown");
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
    packet::set_ttl(&mut packet, 1);
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
    // A transport that nobody translates.
    let mut packet = tcp6(40_000, ACK);
    packet[6] = 132;
    world.send(&packet);
    assert_eq!(&error6(&world.to_client.pop_front().unwrap()).0, &1);
    world.send(&ip4(132, HOST, POOL, &[0; 12]));
    let told = world.to_host.pop_front().unwrap();
    assert_eq!((told[20], told[21]), (3, 2));
    assert!(world.to_client.is_empty() && world.to_host.is_empty());
    assert_eq!(world.gateway.done(Done::Errors), 5);
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
    assert_eq!(world.gateway.nat64().client_of(ROUTER, crate::wire::MappedPort(mapped)), None);
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

#[test]
fn every_truncation_of_every_kind_of_packet() {
    let mut world = World::known();
    let there = world.at_host(&tcp6(40_000, SYN));
    let (mapped, _) = packet::ports(&there[20..]).unwrap();
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
            let mut outbox = Outbox::default();
            world.gateway.packet(world.now, &packet[..cut], &mut outbox);
            outbox.packets().for_each(check);
            // And saying of itself that it is whole.
            let mut shorter = packet[..cut].to_vec();
            if packet[0] >> 4 == 6 && cut >= IPV6_HEADER {
                shorter[4..6].copy_from_slice(&((cut - IPV6_HEADER) as u16).to_be_bytes());
            } else if packet[0] >> 4 == 4 && cut >= IPV4_HEADER {
                shorter[2..4].copy_from_slice(&(cut as u16).to_be_bytes());
                shorter[10..12].fill(0);
                let sum = packet::checksum(&[&shorter[..20]]);
                shorter[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            world.gateway.packet(world.now, &shorter, &mut outbox);
        }
    }
    assert_eq!(world.gateway.nat64().state(HOST), ServerState::Alive);
}
