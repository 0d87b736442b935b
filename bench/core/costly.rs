//! The requests of each kind that cost the server the most, and what each takes against a known
//! client's. Those that take more than a datagram may are charged to a bucket of the NAT64 that
//! sends them, so that there cannot be many.
//!
//! The kinds take turns with the known client, and what counts of each is its fastest round: where
//! cores are busy with other things, a time can only be too long.

use std::net::{Ipv6Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use nat64handoff::handoff::entry::{Client, Entry, MappedPort};
use nat64handoff::handoff::message::{
    self, ENTRY_LENGTH, HANDOFF_PORT, HEAD_ROOM, MULTI_REPORT_MAX, PROTOCOL_IDENTIFIER,
    VALIDATION_PORT, message_type,
};
use nat64handoff::handoff::ports::TABLE_CAPACITY;
use nat64handoff::handoff::server::Body;
use nat64handoff::ip::fields::{FRAGMENT_HEADER, ICMP_HEADER, IPV4_HEADER, UDP_HEADER, protocol};
use nat64handoff::ip::{build, ipv4, ipv6};

use crate::requests::{Requests, from, to};
use crate::shard::{LOCAL, Shape, Shard, TOKEN, authenticator, client, key};

/// The most that a datagram may take for each 1500 octets of it, or part of them, in known clients,
/// unless it is charged.
pub const PRICE_MAX: f64 = 20.0;
/// Octets in a packet of the longest kinds, so that a request is about as long as a multi report.
const LONG: usize = 1100;
const BATCH: usize = 64;
pub const ROUNDS: usize = 21;
/// Batches of each kind in a round.
const BATCHES: usize = 8;
/// Extension headers that are walked.
const EXTENSIONS: usize = 8;

/// A kind of requests.
pub struct Costly {
    pub name: &'static str,
    /// Whether a bucket bounds how many of them a NAT64 may send.
    pub charged: bool,
    /// The time in which the buckets are filled again with what a batch takes.
    every: Duration,
    /// Makes one more request about a random entry; the number says which one it is.
    make: fn(&mut Shard, &mut Requests, usize),
}

/// What a request of a kind takes.
pub struct Price {
    pub nanoseconds: f64,
    pub octets: usize,
    /// In known clients, for each 1500 octets or part of them.
    pub price: f64,
}

const fn kind(
    name: &'static str,
    charged: bool,
    every: u64,
    make: fn(&mut Shard, &mut Requests, usize),
) -> Costly {
    Costly { name, charged, every: Duration::from_millis(every), make }
}

/// All kinds; the first is the known client.
pub const KINDS: &[Costly] = &[
    kind("client packet, known client", false, 0, known),
    kind("the same, eight extension headers", false, 0, extended),
    kind("the same, always another authenticator", false, 0, changing_authenticator),
    kind("new client, another goes", true, 0, new_client),
    kind("service packet, known port", false, 0, service),
    kind("service packet, free port", false, 0, service_unmapped),
    kind("report that agrees", false, 0, report),
    kind("report of another port", true, 0, conflict),
    kind("multi report that agrees", true, 100, multi_agreeing),
    kind("multi report of other ports", true, 300, multi_conflicting),
    kind("ICMPv6 echo request, 1100 octets", true, 1000, echo),
    kind("IPv6 packet of another protocol", true, 1000, other_protocol),
    kind("ICMPv6 error with a long quote", false, 0, client_error),
    kind("ICMP error with a long quote", false, 0, service_error),
    kind("first fragment", false, 0, first_fragment),
    kind("first fragment and a later one", false, 0, later_fragment),
    kind("token rotation", true, 7000, rotation),
    kind("proof of a new identity", true, 7000, proof),
    kind("always another token", false, 100, unknown_token),
    kind("550 messages without a meaning", false, 0, no_ops),
    kind("275 hints", false, 0, hints),
];

/// What each kind takes, in the order of [`KINDS`].
pub fn prices() -> Vec<Price> {
    let mut known = Measured::new(&KINDS[0]);
    let price = |kind| {
        let mut own = Measured::new(kind);
        let (mut least, mut least_known) = (f64::MAX, f64::MAX);
        for _ in 0..ROUNDS {
            least_known = least_known.min(known.round());
            least = least.min(own.round());
        }
        let price = least / least_known / own.octets.div_ceil(1500) as f64;
        Price { nanoseconds: least, octets: own.octets, price }
    };
    KINDS.iter().map(price).collect()
}

/// A kind, with a shard of its own.
struct Measured<'a> {
    kind: &'a Costly,
    shard: Shard,
    batch: Requests,
    made: usize,
    octets: usize,
}

impl Measured<'_> {
    fn new(kind: &Costly) -> Measured<'_> {
        let mut shard = Shard::new(Shape::FourPorts, 1, TABLE_CAPACITY);
        shard.fill();
        Measured { kind, shard, batch: Requests::new(BATCH), made: 0, octets: 0 }
    }

    /// Nanoseconds for each request.
    fn round(&mut self) -> f64 {
        let (mut elapsed, mut requests) = (Duration::ZERO, 0);
        for _ in 0..BATCHES {
            self.batch.clear();
            while self.batch.has_room() {
                (self.kind.make)(&mut self.shard, &mut self.batch, self.made);
                self.made += 1;
            }
            self.octets = self.batch.all()[BATCH - 1].buffer.len() - HEAD_ROOM;
            requests += BATCH;
            self.shard.now.monotonic += self.kind.every;
            let begin = Instant::now();
            self.shard.answer(&mut self.batch);
            elapsed += begin.elapsed();
            // Some tokens are attenuated, and some kinds are only half for an answer.
            let answered = self.shard.outbox.replies.len();
            assert!(
                2 * answered >= BATCH,
                "{}: {answered} of {BATCH} were answered",
                self.kind.name
            );
        }
        elapsed.as_nanos() as f64 / requests as f64
    }
}

// --- Packets ---

fn random_client(shard: &mut Shard) -> (usize, Client) {
    let number = shard.random_entry();
    (number, shard.shape.client(0, number))
}

/// `4, 6`; the packet is to follow.
fn begin<'a>(batch: &'a mut Requests, client: &Client) -> &'a mut Vec<u8> {
    let payload = batch.next_by(0, &TOKEN);
    message::emit(payload, message_type::AUTHENTICATOR, &authenticator(client));
    payload
}

/// An IPv6 packet of `client` to the service.
fn ipv6_of(client: &Client, next: u8, data: &[u8]) -> Vec<u8> {
    ipv6_between(client.address, *to(client).ip(), next, data)
}

fn ipv6_between(source: Ipv6Addr, destination: Ipv6Addr, next: u8, data: &[u8]) -> Vec<u8> {
    let mut packet = ipv6::header(data.len(), next, 64, source, destination).to_vec();
    packet.extend_from_slice(data);
    packet
}

/// Extension headers, and a UDP header with these ports and data behind it.
fn udp_behind_extensions(ports: [u16; 2], data: usize) -> Vec<u8> {
    let mut octets = Vec::new();
    for number in 1..=EXTENSIONS {
        let last = number == EXTENSIONS;
        let next = if last { protocol::UDP } else { protocol::DESTINATION_OPTIONS };
        octets.extend_from_slice(&[next, 0, 1, 4, 0, 0, 0, 0]);
    }
    octets.extend(ports.iter().flat_map(|port| port.to_be_bytes()));
    octets.resize(octets.len() + UDP_HEADER / 2 + data, 0);
    octets
}

fn known(shard: &mut Shard, batch: &mut Requests, _: usize) {
    let (_, client) = random_client(shard);
    batch.client_packet(0, &client);
}

fn extended(shard: &mut Shard, batch: &mut Requests, _: usize) {
    let (_, client) = random_client(shard);
    let data = udp_behind_extensions([client.port, 443], LONG);
    let packet = ipv6_of(&client, protocol::DESTINATION_OPTIONS, &data);
    begin(batch, &client).extend_from_slice(&packet);
}

fn changing_authenticator(shard: &mut Shard, batch: &mut Requests, number: usize) {
    let (_, client) = random_client(shard);
    let payload = batch.next_by(0, &TOKEN);
    message::emit(payload, message_type::AUTHENTICATOR, &(number as u128).to_be_bytes());
    payload.extend_from_slice(&build::ipv6_udp(from(&client), to(&client), b"data"));
}

fn new_client(_: &mut Shard, batch: &mut Requests, number: usize) {
    batch.client_packet(0, &client(0x1_0000, number, 40_000));
}

fn service(shard: &mut Shard, batch: &mut Requests, _: usize) {
    let (number, _) = random_client(shard);
    let port = shard.ports[number];
    batch.service_packet(0, port);
}

fn service_unmapped(_: &mut Shard, batch: &mut Requests, _: usize) {
    batch.service_packet(0, 7);
}

fn report(shard: &mut Shard, batch: &mut Requests, _: usize) {
    let (number, client) = random_client(shard);
    let port = shard.ports[number];
    batch.report(0, client, port);
}

fn conflict(shard: &mut Shard, batch: &mut Requests, number: usize) {
    let (own, client) = random_client(shard);
    let port = shard.ports[(own + 1 + number) % shard.ports.len()];
    batch.report(0, client, port);
}

fn multi_agreeing(shard: &mut Shard, batch: &mut Requests, _: usize) {
    let payload = batch.next_by(0, &TOKEN);
    message::emit(payload, message_type::IDENTIFIER, PROTOCOL_IDENTIFIER);
    let each = message::MESSAGE_HEADER + 16 + ENTRY_LENGTH;
    while payload.len() - HEAD_ROOM + each <= MULTI_REPORT_MAX {
        let (number, client) = random_client(shard);
        message::emit(payload, message_type::AUTHENTICATOR, &authenticator(&client));
        let port = MappedPort(shard.ports[number]);
        payload.extend_from_slice(&Entry { port, client }.emit());
    }
}

/// All with one authenticator, so that there are the more entries.
fn multi_conflicting(shard: &mut Shard, batch: &mut Requests, request: usize) {
    let payload = batch.next_by(0, &TOKEN);
    message::emit(payload, message_type::IDENTIFIER, PROTOCOL_IDENTIFIER);
    message::emit(payload, message_type::AUTHENTICATOR, &(request as u16).to_be_bytes());
    while payload.len() - HEAD_ROOM + ENTRY_LENGTH <= MULTI_REPORT_MAX {
        let (number, client) = random_client(shard);
        let port = MappedPort(shard.ports[(number + 1) % shard.ports.len()]);
        payload.extend_from_slice(&Entry { port, client }.emit());
    }
}

fn echo(shard: &mut Shard, batch: &mut Requests, _: usize) {
    let (_, client) = random_client(shard);
    let packet = build::ipv6_echo_request(client.address, *to(&client).ip(), 1, 2, &[0; LONG]);
    begin(batch, &client).extend_from_slice(&packet);
}

/// What is answered with an ICMPv6 error that quotes it.
fn other_protocol(shard: &mut Shard, batch: &mut Requests, _: usize) {
    let (_, client) = random_client(shard);
    let packet = ipv6_of(&client, 132, &[0; LONG]);
    begin(batch, &client).extend_from_slice(&packet);
}

fn client_error(shard: &mut Shard, batch: &mut Requests, _: usize) {
    let (_, client) = random_client(shard);
    let data = udp_behind_extensions([443, client.port], LONG);
    let service = *to(&client).ip();
    let quoted = ipv6_between(service, client.address, protocol::DESTINATION_OPTIONS, &data);
    // Destination unreachable, with extension headers of its own.
    let mut error = udp_behind_extensions([0, 0], 0);
    error.truncate(EXTENSIONS * 8);
    error[EXTENSIONS * 8 - 8] = protocol::ICMPV6;
    error.extend_from_slice(&[1, 4, 0, 0, 0, 0, 0, 0]);
    error.extend_from_slice(&quoted);
    let packet = ipv6_of(&client, protocol::DESTINATION_OPTIONS, &error);
    begin(batch, &client).extend_from_slice(&packet);
}

fn service_error(shard: &mut Shard, batch: &mut Requests, _: usize) {
    let (number, _) = random_client(shard);
    let port = shard.ports[number];
    let nat64 = key(0).nat64;
    let translated = SocketAddrV4::new(nat64, port);
    let quoted = build::ipv4_udp(translated, SocketAddrV4::new(LOCAL, 443), &[0; LONG]);
    let length = IPV4_HEADER + ICMP_HEADER + quoted.len();
    let mut packet = ipv4::header(length, 64, protocol::ICMP, LOCAL, nat64).to_vec();
    packet.extend_from_slice(&[3, 3, 0, 0, 0, 0, 0, 0]);
    packet.extend_from_slice(&quoted);
    batch.next_by(0, &TOKEN).extend_from_slice(&packet);
}

fn fragment_of(client: &Client, identification: u32, first: bool) -> Vec<u8> {
    // An offset of 0, or 1, and more fragments behind.
    let mut data = vec![protocol::UDP, 0, 0, if first { 1 } else { 9 }];
    data.extend_from_slice(&identification.to_be_bytes());
    debug_assert_eq!(data.len(), FRAGMENT_HEADER);
    data.extend([client.port, 443].iter().flat_map(|port| port.to_be_bytes()));
    data.resize(data.len() + UDP_HEADER / 2, 0);
    ipv6_of(client, protocol::FRAGMENT, &data)
}

fn first_fragment(shard: &mut Shard, batch: &mut Requests, number: usize) {
    let (_, client) = random_client(shard);
    let packet = fragment_of(&client, number as u32, true);
    begin(batch, &client).extend_from_slice(&packet);
}

/// One after the other, of one client.
fn later_fragment(shard: &mut Shard, batch: &mut Requests, number: usize) {
    let client = shard.shape.client(0, number / 2 * 7919 % TABLE_CAPACITY);
    let packet = fragment_of(&client, number as u32 / 2, number.is_multiple_of(2));
    begin(batch, &client).extend_from_slice(&packet);
}

/// The token of identity `number`: the known one is the first.
fn token(number: usize) -> [u8; 16] {
    if number == 0 { TOKEN } else { (number as u128 | 1 << 100).to_be_bytes() }
}

fn rotation(shard: &mut Shard, batch: &mut Requests, number: usize) {
    let (_, client) = random_client(shard);
    let payload = batch.next_by(0, &token(number + 1));
    message::emit(payload, message_type::ROTATION, &token(number));
    message::emit(payload, message_type::AUTHENTICATOR, &authenticator(&client));
    payload.extend_from_slice(&build::ipv6_udp(from(&client), to(&client), b"data"));
}

fn proof(shard: &mut Shard, batch: &mut Requests, number: usize) {
    let mut unknown = Requests::new(1);
    let challenge = loop {
        unknown.clear();
        unknown_token(shard, &mut unknown, number);
        shard.answer(&mut unknown);
        // Some are attenuated.
        let Some(reply) = shard.outbox.replies.first() else { continue };
        let Body::Copied(range) = reply.body.clone() else { panic!("not a challenge: {reply:?}") };
        break shard.outbox.copies()[range].to_vec();
    };
    let server = SocketAddrV4::new(LOCAL, HANDOFF_PORT);
    let discard = SocketAddrV4::new(key(0).nat64, VALIDATION_PORT);
    let packet = build::ipv4_udp(server, discard, &challenge);
    batch.next_by(0, &token(number + 1)).extend_from_slice(&packet);
}

fn unknown_token(_: &mut Shard, batch: &mut Requests, number: usize) {
    let (from, to) = (SocketAddrV4::new(LOCAL, 443), SocketAddrV4::new(key(0).nat64, 7));
    let packet = build::ipv4_udp(from, to, b"a packet of the service");
    batch.next_by(0, &token(number + 1)).extend_from_slice(&packet);
}

fn no_ops(shard: &mut Shard, batch: &mut Requests, _: usize) {
    let (_, client) = random_client(shard);
    let payload = begin(batch, &client);
    (0..550).for_each(|_| message::emit(payload, message_type::NO_OP, &[]));
    payload.extend_from_slice(&build::ipv6_udp(from(&client), to(&client), b"data"));
}

fn hints(shard: &mut Shard, batch: &mut Requests, number: usize) {
    let (_, client) = random_client(shard);
    let payload = begin(batch, &client);
    let hint = (number as u16).to_be_bytes();
    (0..275).for_each(|_| message::emit(payload, message_type::HINT, &hint));
    payload.extend_from_slice(&build::ipv6_udp(from(&client), to(&client), b"data"));
}
