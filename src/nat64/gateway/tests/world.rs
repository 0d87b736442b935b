//! The world around a gateway, and the packets that go about in it.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::sync::Arc;
use std::time::Duration;

use crate::handoff::change::Now;
use crate::handoff::entry::TableKey;
use crate::handoff::message::HEAD_ROOM;
use crate::handoff::server::{
    self, Batch, Body, Budget, Datagram, NoneKnown, Server, ServerConfig,
};
use crate::handoff::stats::Stats;
use crate::handoff::table::TableLimits;
use crate::handoff::validation::ValidationRate;
use crate::ip::build::{ipv4_tcp, ipv4_udp, ipv6_echo_request, ipv6_tcp, ipv6_udp};
use crate::ip::checksum::checksum;
use crate::ip::fields::{IPV4_HEADER, IPV6_HEADER, protocol};
use crate::ip::ipv4::{self, Ipv4};
use crate::ip::ipv6::Ipv6;
use crate::ip::transport::ports;
use crate::nat64::engine::{Nat64Config, ServerState};
use crate::nat64::gateway::{Gateway, GatewayConfig, GatewayOutbox, ServerChange};

use super::delivering::DeliveringHost;

pub(super) const POOL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
pub(super) const HOST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
pub(super) const ROUTER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub(super) const CLIENT: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x17);
pub(super) const SERVICE: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0xcb00, 0x7105);
pub(super) const HANDOFF: u16 = 64064;
pub(super) const MTU: u16 = 1500;

/// What is at the host's handoff port.
pub(super) enum Handoff {
    /// Nobody, and its kernel says so.
    Closed,
    /// A firewall that drops.
    Silent,
    /// The server.
    Open(Box<Server>),
    /// One that delivers packets.
    Delivering(DeliveringHost),
}

pub(super) struct World {
    pub(super) gateway: Gateway,
    pub(super) now: Duration,
    pub(super) handoff: Handoff,
    /// Fragments of a control datagram on the host: each comes behind the one before.
    pub(super) partial: Vec<u8>,
    pub(super) to_client: VecDeque<Vec<u8>>,
    pub(super) to_host: VecDeque<Vec<u8>>,
    pub(super) changes: Vec<ServerChange>,
    /// Control datagrams that the host got.
    pub(super) requests: usize,
    pub(super) identification: u16,
}

impl World {
    pub(super) fn new(handoff: Handoff) -> Self {
        Self::with(handoff, Nat64Config::new(POOL))
    }

    pub(super) fn with(handoff: Handoff, nat64: Nat64Config) -> Self {
        Self::of(handoff, GatewayConfig::new(nat64, MTU))
    }

    pub(super) fn of(handoff: Handoff, config: GatewayConfig) -> Self {
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
    pub(super) fn known() -> Self {
        let mut world = Self::new(server());
        for port in [1, 2, 3] {
            world.send(&udp6(port, b"hello"));
            world.drain();
        }
        assert_eq!(world.gateway.nat64().state(HOST), ServerState::Alive);
        assert_eq!(world.changes, [ServerChange::Known]);
        world
    }

    pub(super) fn drain(&mut self) {
        self.to_client.clear();
        self.to_host.clear();
    }

    /// Gives the gateway a packet, and carries about what comes of it until nothing more does.
    pub(super) fn send(&mut self, packet: &[u8]) {
        let mut queue = VecDeque::from([packet.to_vec()]);
        let mut outbox = GatewayOutbox::default();
        while let Some(packet) = queue.pop_front() {
            self.gateway.packet(self.now, &packet, &mut outbox);
            self.carry(&mut outbox, &mut queue);
        }
    }

    pub(super) fn tick(&mut self) {
        let (mut outbox, mut queue) = (GatewayOutbox::default(), VecDeque::new());
        self.gateway.tick(self.now, &mut outbox);
        self.carry(&mut outbox, &mut queue);
        while let Some(packet) = queue.pop_front() {
            self.send(&packet);
        }
    }

    pub(super) fn carry(&mut self, outbox: &mut GatewayOutbox, queue: &mut VecDeque<Vec<u8>>) {
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

    pub(super) fn is_control(&self, packet: &[u8]) -> bool {
        let view = Ipv4::new(packet).unwrap();
        let later = view.fragment().is_some_and(|fragment| !fragment.first);
        let to = ports(view.data()).map(|(_, to)| to);
        view.protocol() == protocol::UDP
            && ((later && !self.partial.is_empty()) || (!later && to == Some(HANDOFF)))
    }

    /// What the host answers to a control datagram.
    pub(super) fn control(&mut self, packet: &[u8]) -> Vec<Vec<u8>> {
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
        let (from, to) = ports(&datagram).unwrap();
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
                let replies = ask(server, POOL, self.now, from, &datagram[8..]);
                let wrap = |(port, payload): (u16, Vec<u8>)| {
                    self.identification = self.identification.wrapping_add(1);
                    let whole = udp4(HANDOFF, port, &payload);
                    fragments4(&whole, self.identification, usize::from(MTU))
                };
                replies.into_iter().flat_map(wrap).collect()
            }
            Handoff::Delivering(host) => {
                let answers = host.take(from, &datagram[8..]);
                answers.iter().map(|payload| udp4(HANDOFF, from, payload)).collect()
            }
        }
    }

    pub(super) fn drops(&self) -> Vec<(&'static str, u64)> {
        self.gateway.drops().collect()
    }

    /// The one packet that the host gets when the client sends this.
    pub(super) fn at_host(&mut self, packet: &[u8]) -> Vec<u8> {
        self.drain();
        self.send(packet);
        assert_eq!(self.to_client.len(), 0, "{:02x?}", self.to_client);
        assert_eq!(self.to_host.len(), 1, "{:?}", self.drops());
        self.to_host.pop_front().unwrap()
    }

    /// The one packet that the client gets when the host, or a router, sends this.
    pub(super) fn at_client(&mut self, packet: &[u8]) -> Vec<u8> {
        self.drain();
        self.send(packet);
        assert_eq!(self.to_host.len(), 0, "{:02x?}", self.to_host);
        assert_eq!(self.to_client.len(), 1, "{:?}", self.drops());
        self.to_client.pop_front().unwrap()
    }

    /// Nobody gets anything, for this reason alone.
    pub(super) fn dropped(&mut self, packet: &[u8]) -> &'static str {
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
    pub(super) fn exchange(&mut self, client_port: u16, flags: u8, answer: u8) -> u16 {
        let there = self.at_host(&tcp6(client_port, flags));
        let view = Ipv4::new(&there).unwrap();
        assert_eq!((view.source(), view.destination()), (POOL, HOST));
        let (mapped, to) = ports(view.data()).unwrap();
        assert_eq!(to, 80);
        let back = self.at_client(&tcp4(mapped, answer));
        let view = Ipv6::new(&back).unwrap();
        assert_eq!((view.source(), view.destination()), (SERVICE, CLIENT));
        assert_eq!(ports(&back[40..]), Some((80, client_port)));
        mapped
    }
}

pub(super) fn server() -> Handoff {
    let config = ServerConfig {
        handoff_port: HANDOFF,
        limits: TableLimits::default(),
        validation_rate: Arc::new(ValidationRate::new(1000)),
        create_rate: 2000,
        budget: Arc::new(Budget::new(100, 100_000)),
        access: Arc::default(),
    };
    let stats = Arc::new(Stats::default());
    let server = Server::new(config, [7; 32], Duration::ZERO, stats);
    Handoff::Open(Box::new(server))
}

/// The ports and payloads of a server's replies.
pub(super) fn ask(
    server: &mut Server,
    nat64: Ipv4Addr,
    now: Duration,
    port: u16,
    payload: &[u8],
) -> Vec<(u16, Vec<u8>)> {
    let mut buffer = vec![0; HEAD_ROOM];
    buffer.extend_from_slice(payload);
    let payload = HEAD_ROOM..buffer.len();
    let mut outbox = server::Outbox::default();
    let table = TableKey { local: HOST, nat64 };
    let datagram = Datagram { index: 0, table, port, buffer: &mut buffer, payload, room: 0 };
    let batch = Batch::at(Now { wall: Default::default(), monotonic: now });
    server.handle(&batch, &mut NoneKnown, datagram, &mut outbox);
    let body = |reply: &server::Reply| match reply.body.clone() {
        Body::InPlace(range) => buffer[range].to_vec(),
        Body::Copied(range) => outbox.copies()[range].to_vec(),
    };
    let port = |reply: &server::Reply| {
        assert_eq!(*reply.to.ip(), nat64);
        reply.to.port()
    };
    outbox.replies.iter().map(|reply| (port(reply), body(reply))).collect()
}

pub(super) fn transport_sum(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, upper: &[u8]) -> u16 {
    let length = (upper.len() as u16).to_be_bytes();
    checksum(&[&from.octets(), &to.octets(), &[0, protocol], &length, upper])
}

/// What holds for each packet that the gateway writes: lengths, checksums, the MTU.
pub(super) fn check(packet: &[u8]) {
    assert!(packet.len() <= usize::from(MTU), "{} octets", packet.len());
    if packet[0] >> 4 == 4 {
        let view = Ipv4::new(packet).unwrap();
        assert!(view.checksum_is_right());
        assert_eq!(view.total_length(), packet.len());
        assert_eq!(view.source(), POOL);
        if view.fragment().is_none() {
            let sum = match view.protocol() {
                protocol::ICMP => checksum(&[view.data()]),
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
            if [protocol::TCP, protocol::UDP, protocol::ICMPV6].contains(&walk.protocol) {
                assert_eq!(checksum(&[&from, &to, &length, &pseudo, upper]), 0);
            }
        }
    }
}

pub(super) fn client(port: u16) -> SocketAddrV6 {
    SocketAddrV6::new(CLIENT, port, 0, 0)
}

pub(super) fn service(port: u16) -> SocketAddrV6 {
    SocketAddrV6::new(SERVICE, port, 0, 0)
}

pub(super) fn tcp6(port: u16, flags: u8) -> Vec<u8> {
    ipv6_tcp(client(port), service(80), flags, b"to the host")
}

pub(super) fn tcp4(mapped: u16, flags: u8) -> Vec<u8> {
    ipv4_tcp(SocketAddrV4::new(HOST, 80), SocketAddrV4::new(POOL, mapped), flags, b"back")
}

pub(super) fn udp6(port: u16, data: &[u8]) -> Vec<u8> {
    ipv6_udp(client(port), service(53), data)
}

pub(super) fn udp4(from: u16, to: u16, data: &[u8]) -> Vec<u8> {
    ipv4_udp(SocketAddrV4::new(HOST, from), SocketAddrV4::new(POOL, to), data)
}

pub(super) fn echo6(identifier: u16) -> Vec<u8> {
    ipv6_echo_request(CLIENT, SERVICE, identifier, 7, b"ping")
}

pub(super) fn ip4(protocol: u8, from: Ipv4Addr, to: Ipv4Addr, data: &[u8]) -> Vec<u8> {
    [&ipv4::header(IPV4_HEADER + data.len(), 64, protocol, from, to), data].concat()
}

/// An ICMP message to the public address: an error about `quoted`, or a query.
pub(super) fn icmp4(from: Ipv4Addr, kind: u8, code: u8, quoted: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, code, 0, 0, 0, 0, 0, 0], quoted].concat();
    let sum = checksum(&[&message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ip4(protocol::ICMP, from, POOL, &message)
}

/// The packet in fragments for links of that MTU.
pub(super) fn fragments4(packet: &[u8], identification: u16, mtu: usize) -> Vec<Vec<u8>> {
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
        let sum = checksum(&[&header]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        [&header, part].concat()
    };
    data.chunks(size).enumerate().map(part).collect()
}

/// The packet in fragments of so much data.
pub(super) fn fragments6(packet: &[u8], identification: u32, size: usize) -> Vec<Vec<u8>> {
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
