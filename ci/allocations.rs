//! In the steady state a request allocates nothing: known clients, service packets, reports, pings,
//! new clients at a full table, where each evicts an entry without a live connection, and packets
//! that are delivered on this host, also translated, and those by Geneve. So do a gateway's packets
//! to and from a server that delivers them. One test only, as the allocator counts for the whole
//! process.

use std::alloc::System;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::sync::Arc;
use std::time::Duration;

use nat64handoff::handoff::change::{Change, Now, Timestamp};
use nat64handoff::handoff::delivery::{
    DeliveredPorts, DeliveryRoutes, GeneveGateways, HostDelivery,
};
use nat64handoff::handoff::entry::{Client, ControlPort, Entry, MappedPort, TableKey};
use nat64handoff::handoff::message::{
    self, HANDOFF_PORT, HEAD_ROOM, PROTOCOL_IDENTIFIER, message_type,
};
use nat64handoff::handoff::opaque::{Authenticator, Token};
use nat64handoff::handoff::pool::{AddressPool, Coming, PoolSettings, PoolUnit};
use nat64handoff::handoff::ports::{PortSet, TABLE_CAPACITY};
use nat64handoff::handoff::random::SecretHash;
use nat64handoff::handoff::server::{
    Batch, Budget, Datagram, LiveConnections, NoneKnown, Outbox, PREFETCH_MAX, Prepared, Server,
    ServerConfig,
};
use nat64handoff::handoff::stats::{Counter, Stats};
use nat64handoff::handoff::table::{LivePorts, TableLimits};
use nat64handoff::handoff::validation::ValidationRate;
use nat64handoff::ip::geneve::{Frame, GENEVE_PORT, LinkAddress, Vni, bypass_front, plain_front};
use nat64handoff::ip::ipv6::Ipv6;
use nat64handoff::ip::neighbor::{Advertisement, NEIGHBOR_PACKET_MAX, Solicitation};
use nat64handoff::ip::offload::{ChecksumLeft, Offload, Segmentation};
use nat64handoff::ip::transport::Transport;
use nat64handoff::ip::{address::synthesize, build};
use nat64handoff::nat64::engine::{Nat64Config, WELL_KNOWN_PREFIX};
use nat64handoff::nat64::gateway::{Deliveries, Gateway, GatewayConfig, GatewayOutbox};
use nat64handoff::programs::serve::deliver::Translator;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const TABLE: TableKey =
    TableKey { local: Ipv4Addr::new(203, 0, 113, 5), nat64: Ipv4Addr::new(192, 0, 2, 7) };
const CONTROL: u16 = 40_000;
const TOKEN: [u8; 16] = *b"token of a NAT64";
/// Batches of each kind; each asks for [`PREFETCH_MAX`] things.
const BATCHES: usize = 64;

fn client(number: usize) -> Client {
    let address = Ipv6Addr::from_bits(0x2001_0db8 << 96 | (number as u128) << 64 | 1);
    Client { prefix: WELL_KNOWN_PREFIX, address, port: 40_000 }
}

fn authenticator(client: &Client) -> [u8; 16] {
    client.address.octets()
}

/// Every second port has a live connection, and each time is another poll.
struct EverySecond {
    poll: u64,
    ports: PortSet,
}

impl LiveConnections for EverySecond {
    fn of(&mut self, _: TableKey) -> Option<LivePorts<'_>> {
        self.poll += 1;
        Some(LivePorts { poll: self.poll, ports: &self.ports })
    }
}

struct Shard {
    server: Server,
    stats: Arc<Stats>,
    now: Now,
    prepared: Vec<Prepared>,
    live: EverySecond,
    outbox: Outbox,
    buffers: Vec<Vec<u8>>,
}

impl Shard {
    /// With a full table: client `i` has the `i`th of the ports.
    fn new(ports: &[MappedPort]) -> Shard {
        let config = ServerConfig {
            handoff_port: HANDOFF_PORT,
            limits: TableLimits::default(),
            validation_rate: Arc::new(ValidationRate::new(1000)),
            create_rate: 1_000_000_000,
            budget: Arc::new(Budget::new(1, TABLE_CAPACITY)),
            access: Arc::default(),
        };
        let stats = Arc::new(Stats::default());
        let every_second = ports.iter().map(|port| port.0).filter(|port| port % 2 == 0).collect();
        let live = EverySecond { poll: 0, ports: PortSet::new(every_second) };
        let mut server = Server::new(config, [7; 32], Duration::ZERO, Arc::clone(&stats));
        let token = Token::new(&TOKEN).unwrap();
        server.replay(TABLE, &Change::Initialized);
        server.replay(TABLE, &Change::IdentityKnown { port: ControlPort(CONTROL), token });
        for (number, &port) in ports.iter().enumerate() {
            let client = client(number);
            let authenticator = Authenticator::new(&authenticator(&client)).unwrap();
            let address = client.address;
            server.replay(TABLE, &Change::Created { port, client });
            server.replay(TABLE, &Change::AuthenticatorLearned { address, authenticator });
        }
        let now = Now { wall: Timestamp::from_micros(0), monotonic: Duration::from_secs(1) };
        let prepared = (0..PREFETCH_MAX).map(|_| Prepared::default()).collect();
        let outbox = Outbox::default();
        Shard { server, stats, now, prepared, live, outbox, buffers: Vec::new() }
    }

    fn answer(&mut self) {
        self.outbox.clear();
        let prepared = &mut self.prepared[..self.buffers.len()];
        for (index, buffer) in self.buffers.iter().enumerate() {
            self.server.prepare(TABLE, &buffer[HEAD_ROOM..], index, prepared);
        }
        self.server.prefetch(prepared);
        let batch = Batch::at(self.now);
        for (index, (buffer, prepared)) in self.buffers.iter_mut().zip(&self.prepared).enumerate() {
            let payload = HEAD_ROOM..buffer.len();
            let datagram =
                Datagram { index, table: TABLE, port: CONTROL, buffer, payload, room: 0 };
            let (live, outbox) = (&mut self.live, &mut self.outbox);
            self.server.handle_prepared(&batch, live, datagram, prepared, outbox);
        }
    }

    /// Answers batches of what `request` writes; how often memory was asked for meanwhile. The
    /// first few do not count, as buffers that are kept grow to their size.
    fn allocations(&mut self, name: &str, mut request: impl FnMut(usize) -> Vec<u8>) -> usize {
        let mut allocations = 0;
        for batch in 0..BATCHES {
            self.now.monotonic += Duration::from_secs(3);
            self.buffers.clear();
            self.buffers
                .extend((0..PREFETCH_MAX).map(|index| request(batch * PREFETCH_MAX + index)));
            let before = ALLOCATOR.stats();
            self.answer();
            let after = ALLOCATOR.stats();
            if batch >= BATCHES / 4 {
                allocations += after.allocations - before.allocations;
                allocations += after.reallocations - before.reallocations;
            }
            let done = self.outbox.replies.len().max(self.outbox.delivered.len());
            assert_eq!(done, PREFETCH_MAX, "{name}: not all were answered");
        }
        allocations
    }
}

fn request(parts: &[(u8, &[u8])], packet: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; HEAD_ROOM];
    message::emit(&mut buffer, message_type::TOKEN, &TOKEN);
    parts.iter().for_each(|(kind, data)| message::emit(&mut buffer, *kind, data));
    buffer.extend_from_slice(packet);
    buffer
}

fn client_packet(client: &Client) -> Vec<u8> {
    let from = SocketAddrV6::new(client.address, client.port, 0, 0);
    let to = SocketAddrV6::new(synthesize(client.prefix, TABLE.local), 443, 0, 0);
    let packet = build::ipv6_udp(from, to, &[b'x'; 66]);
    request(&[(message_type::AUTHENTICATOR, &authenticator(client))], &packet)
}

#[test]
fn the_steady_state_allocates_nothing() {
    let barred = [3544, 6081, HANDOFF_PORT, CONTROL];
    let ports: Vec<_> =
        (1024..=u16::MAX).filter(|port| !barred.contains(port)).map(MappedPort).collect();
    assert_eq!(ports.len(), TABLE_CAPACITY);
    let mut shard = Shard::new(&ports);
    let scattered = |i: usize| i * 7919 % TABLE_CAPACITY;

    // What makes an allocation is counted: this test can fail.
    let before = ALLOCATOR.stats().allocations;
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(ALLOCATOR.stats().allocations, before + 1);

    let known = shard.allocations("client packet", |i| client_packet(&client(scattered(i))));
    let service_packets = shard.allocations("service packet", |i| {
        let to = SocketAddrV4::new(TABLE.nat64, ports[scattered(i)].0);
        request(&[], &build::ipv4_udp(SocketAddrV4::new(TABLE.local, 443), to, b"answer"))
    });
    let report = shard.allocations("report", |i| {
        let (port, client) = (ports[scattered(i)], client(scattered(i)));
        let parts = [
            (message_type::IDENTIFIER, &PROTOCOL_IDENTIFIER[..]),
            (message_type::AUTHENTICATOR, &authenticator(&client)[..]),
        ];
        request(&parts, &Entry { port, client }.emit())
    });
    let echo = shard.allocations("echo request", |i| {
        let client = client(scattered(i));
        let to = synthesize(client.prefix, TABLE.local);
        let packet = build::ipv6_echo_request(client.address, to, 1, 2, b"ping");
        request(&[(message_type::AUTHENTICATOR, &authenticator(&client))], &packet)
    });
    let created = shard.stats.get(Counter::Created);
    let new = shard.allocations("new client", |i| client_packet(&client(TABLE_CAPACITY + i)));
    assert_eq!(shard.stats.get(Counter::Created) - created, (BATCHES * PREFETCH_MAX) as u64);
    assert_eq!(shard.server.contradiction(), None);

    let service = synthesize(WELL_KNOWN_PREFIX, TABLE.local);
    let ports = DeliveredPorts::new(false, |_, port| port == 443);
    let routes = DeliveryRoutes::new([7; 16], TABLE_CAPACITY);
    shard.server.deliver(Arc::new(HostDelivery::new(ports, vec![service], routes)));
    // Their flows begin in the first quarter.
    let delivered = shard.allocations("delivered packet", |i| {
        client_packet(&client(2 * TABLE_CAPACITY + i % (PREFETCH_MAX * BATCHES / 4)))
    });
    assert_eq!(shard.stats.get(Counter::Delivered), (BATCHES * PREFETCH_MAX) as u64);
    assert_eq!(delivered, 0, "delivered packets");
    assert_eq!(frame_allocations(&mut shard.server, service), 0, "packets by Geneve");

    let counted =
        [("known", known), ("service", service_packets), ("report", report), ("echo", echo)];
    assert_eq!(counted.map(|kind| kind.1), [0; 4], "{counted:?}");
    assert_eq!(new, 0, "new clients");
    let by_channel = tunnel_allocations(Tunnel::new());
    assert_eq!(by_channel, 0, "a NAT64's packets of a server that delivers");
    assert_eq!(tunnel_allocations(Tunnel::of_geneve()), 0, "the same by a tunnel of Geneve");
    assert_eq!(translated_allocations(), 0, "packets that are translated");
}

/// How often a server asks for memory for packets that a gateway sends by Geneve.
fn frame_allocations(server: &mut Server, service: Ipv6Addr) -> usize {
    let (ports, vni) = (DeliveredPorts::new(false, |_, _| true), Vni::new([1, 2, 3]));
    let routes = DeliveryRoutes::new([7; 16], TABLE_CAPACITY);
    let gateways = GeneveGateways::new([7; 16]);
    let (own, link) = (gateways.own_link(TABLE, vni), LinkAddress([2; 6]));
    let delivery = HostDelivery::new(ports, vec![service], routes).with_geneve(Some(gateways));
    server.deliver(Arc::new(delivery));
    let packet = build::ipv6_tcp(AT_CLIENT, AT_SERVICE, ACK, &[7; 1300]);
    let frame = [&[0; HEAD_ROOM][..], &bypass_front(vni, own, link), &packet].concat();
    let (mut outbox, mut allocations) = (Outbox::default(), 0);
    for round in 0..1000 {
        let monotonic = Duration::from_secs(1000) + Duration::from_millis(10 * round);
        let batch = Batch::at(Now { wall: Default::default(), monotonic });
        let mut buffer = frame.clone();
        let (index, port, payload) = (0, 6081, HEAD_ROOM..buffer.len());
        let room = 0;
        let datagram = Datagram { index, table: TABLE, port, buffer: &mut buffer, payload, room };
        let before = ALLOCATOR.stats();
        outbox.clear();
        server.handle_frame(&batch, &mut NoneKnown, datagram, &mut outbox);
        let after = ALLOCATOR.stats();
        assert_eq!(outbox.delivered.len(), 1);
        if round >= 10 {
            allocations += after.allocations - before.allocations;
            allocations += after.reallocations - before.reallocations;
        }
    }
    allocations
}

/// A gateway whose client has a connection that a server delivers.
struct Tunnel {
    gateway: Gateway,
    outbox: GatewayOutbox,
    deliveries: Deliveries,
    /// What stands before each packet of the server.
    front: Vec<u8>,
    /// Between which ends that goes.
    from: SocketAddrV4,
    to: SocketAddrV4,
}

const AT_CLIENT: SocketAddrV6 =
    SocketAddrV6::new(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x17), 40_000, 0, 0);
const AT_SERVICE: SocketAddrV6 =
    SocketAddrV6::new(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0xcb00, 0x7105), 443, 0, 0);
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

impl Tunnel {
    fn with(nat64: Nat64Config, from: u16, to: u16) -> Tunnel {
        let gateway = Gateway::new(GatewayConfig::new(nat64, 1500), [7; 32]).unwrap();
        let (outbox, deliveries) = (GatewayOutbox::default(), Deliveries::default());
        let (front, from) = (Vec::new(), SocketAddrV4::new(TABLE.local, from));
        let to = SocketAddrV4::new(TABLE.nat64, to);
        Tunnel { gateway, outbox, deliveries, front, from, to }
    }

    /// By the control channel.
    fn new() -> Tunnel {
        let mut tunnel = Tunnel::with(Nat64Config::new(TABLE.nat64), HANDOFF_PORT, 0);
        let nat64 = tunnel.gateway.nat64();
        tunnel.to.set_port(nat64.control_port().0);
        let authenticator = nat64.authenticator(TABLE.local, *AT_CLIENT.ip());
        message::emit(&mut tunnel.front, message_type::AUTHENTICATOR, &authenticator);
        let mut alive = Vec::new();
        message::emit(&mut alive, message_type::TOKEN, &nat64.token(TABLE.local));
        let from = SocketAddrV4::new(TABLE.local, 443);
        alive.extend_from_slice(&build::ipv4_udp(from, SocketAddrV4::new(TABLE.nat64, 9), b""));
        let answer = tunnel.answer(&build::ipv6_tcp(AT_SERVICE, AT_CLIENT, ACK, b"back"));
        tunnel.take(&alive);
        tunnel.take(&answer);
        assert!(tunnel.gateway.nat64().delivers(TABLE.local));
        tunnel
    }

    /// By a tunnel of Geneve that the server has taken.
    fn of_geneve() -> Tunnel {
        const UDP: usize = 28;
        let config = Nat64Config { tunnel_key: Some([5; 16]), ..Nat64Config::new(TABLE.nat64) };
        let mut tunnel = Tunnel::with(config, GENEVE_PORT, GENEVE_PORT);
        // What the offer comes with has an entry, and keeps it.
        let other = SocketAddrV6::new(*AT_CLIENT.ip(), 41_000, 0, 0);
        let syn = build::ipv6_tcp(other, AT_SERVICE, SYN, b"");
        tunnel.gateway.packet(Duration::from_secs(1), &syn, &mut tunnel.outbox);
        let offered = |packet: &[u8]| {
            let frame = Frame::parse(packet.get(UDP..)?).ok()?;
            let asked = Ipv6::whole(packet.get(UDP + frame.packet_at..)?)?;
            Some((frame.vni, frame.from, Solicitation::parse(asked).ok()?))
        };
        let (vni, link, asked) = tunnel.outbox.packets().find_map(offered).expect("an offer");
        let own = LinkAddress([2; 6]);
        tunnel.front.extend(plain_front(vni, link, own));
        let (from, to, target) = (asked.target, asked.from, asked.target);
        let mut told = [0; NEIGHBOR_PACKET_MAX];
        let length =
            Advertisement { from, to, target, link: Some(own), solicited: true }.emit(&mut told);
        let taken = tunnel.answer(&told[..length]);
        tunnel.take(&taken);
        tunnel
    }

    fn take(&mut self, payload: &[u8]) {
        let datagram = self.datagram(payload);
        self.gateway.packet(Duration::from_secs(1), &datagram, &mut self.outbox);
    }

    fn answer(&self, packet: &[u8]) -> Vec<u8> {
        [&self.front, packet].concat()
    }

    fn datagram(&self, payload: &[u8]) -> Vec<u8> {
        build::ipv4_udp(self.from, self.to, payload)
    }
}

/// How often the gateway asks for memory for packets of a connection that a server delivers.
fn tunnel_allocations(mut tunnel: Tunnel) -> usize {
    let there = build::ipv6_tcp(AT_CLIENT, AT_SERVICE, ACK, &[7; 40_000]);
    let segments = Segmentation { transport: Transport::Tcp, size: 1300, headers: 60, ecn: false };
    let checksum = Some(ChecksumLeft::of(Transport::Tcp, 40));
    let super_packet = Offload { checksum, segments: Some(segments) };
    let part = tunnel.answer(&build::ipv6_tcp(AT_SERVICE, AT_CLIENT, ACK, &[7; 1300]));
    let back = tunnel.datagram(&part.repeat(40));
    let size = part.len() as u16;
    let segments = Segmentation { transport: Transport::Udp, size, headers: 28, ecn: false };
    let checksum = Some(ChecksumLeft::of(Transport::Udp, 20));
    let datagrams = Offload { checksum, segments: Some(segments) };
    let single = tunnel.datagram(&part);
    let mut allocations = 0;
    for round in 0..100 {
        let now = Duration::from_secs(2) + Duration::from_millis(round);
        let before = ALLOCATOR.stats();
        let Tunnel { gateway, outbox, deliveries, .. } = &mut tunnel;
        outbox.clear();
        assert!(gateway.tunnel_offloaded(now, &there, &super_packet, outbox));
        assert_eq!(outbox.packets().count(), 1);
        assert!(gateway.deliver_offloaded(&back, &datagrams, deliveries));
        assert_eq!(deliveries.each().count(), 40, "their sequence numbers are the same");
        assert!(gateway.deliver_offloaded(&single, &Offload::default(), deliveries));
        let after = ALLOCATOR.stats();
        if round >= 10 {
            allocations += after.allocations - before.allocations;
            allocations += after.reallocations - before.reallocations;
        }
    }
    allocations
}

/// How often a server asks for memory for packets that it translates, joined and alone, and for
/// answers.
fn translated_allocations() -> usize {
    let settings = PoolSettings {
        network: "100.64.0.0/24".parse().unwrap(),
        unit: PoolUnit::Address,
        idle: Duration::ZERO,
        names: false,
        translates: true,
    };
    let (pool, mut shares, _) = AddressPool::new(settings, SecretHash::new([7; 16]), 1, |_| 0, []);
    let coming = shares[0].come_for_packet(*AT_CLIENT.ip(), TABLE.nat64, Duration::ZERO);
    let Ok(Coming::New(address, net)) = coming else { panic!("{coming:?}") };
    shares[0].recorded(net);
    let mut translator = Translator::new(pool, 1398, [7; 32]);
    let udp = build::ipv6_udp(AT_CLIENT, AT_SERVICE, &[7; 1000]);
    let ping = build::ipv6_echo_request(*AT_CLIENT.ip(), *AT_SERVICE.ip(), 1, 2, b"ping");
    let [service, back] =
        [(TABLE.local, 443), (address, 40_000)].map(|(ip, port)| SocketAddrV4::new(ip, port));
    let answer = [vec![0; 20], build::ipv4_tcp(service, back, ACK, &[7; 1300])].concat();
    let (mut buffer, mut allocations) = (answer.clone(), 0);
    for round in 0..100 {
        let now = Duration::from_millis(300 * round);
        let before = ALLOCATOR.stats();
        let given = translator.address_of(*AT_CLIENT.ip(), now).unwrap();
        let packets = [&udp[..], &udp, &udp, &ping].into_iter();
        let mut written = 0;
        let refused = translator.give_host(given, TABLE.local, packets, true, |_, _, data| {
            written += data.len().max(1);
        });
        assert_eq!((refused, written), (0, 4));
        buffer.copy_from_slice(&answer);
        let what = translator.answer_of(&buffer[20..], now).ok().unwrap();
        let rewrite = what.rewrite(*AT_SERVICE.ip());
        assert!(
            translator.change_headers(&mut buffer, 20, &Offload::default(), &rewrite).is_some()
        );
        let after = ALLOCATOR.stats();
        if round >= 10 {
            allocations += after.allocations - before.allocations;
            allocations += after.reallocations - before.reallocations;
        }
    }
    allocations
}
