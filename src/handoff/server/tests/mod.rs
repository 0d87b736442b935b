//! What the server answers, from outside. Sections 3 and 4, and what belongs to none, stand here.

mod admission;
mod banned;
mod fair;
mod month;
mod price;
mod section_11;
mod section_12;
mod section_5;
mod section_6;
mod section_7;
mod section_9;
mod seen;

use super::*;
use crate::handoff::change::Now;
use crate::handoff::entry::{Client, MappedPort};
use crate::handoff::message::{self, HEAD_ROOM, PAYLOAD_MAX, PROTOCOL_IDENTIFIER, VALIDATION_PORT};
use crate::handoff::ports::PortSet;
use crate::handoff::stats::DropReason;
use crate::handoff::table::LivePorts;
use crate::ip::address::Prefix96;
use crate::ip::fields::protocol;
use crate::ip::{checksum, ipv4, ipv6};
use std::net::{Ipv6Addr, SocketAddrV4};
use std::sync::Mutex;

const LOCAL: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
const NAT64: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const CONTROL: u16 = 40000;
const TOKEN: &[u8] = b"token-";
const AUTHENTICATOR: &[u8] = b"authenticator!";
const CLIENT: &str = "2001:db8::17";
const SERVICE: &str = "64:ff9b::cb00:7105";

/// A shard, a clock, and what it did last.
struct Shard {
    server: Server,
    time: Duration,
    batch: Batch,
    live: Box<dyn LiveConnections>,
    outbox: Outbox,
}

/// What was sent: where, and which octets.
type Sent = Vec<(SocketAddrV4, Vec<u8>)>;

impl Shard {
    fn new(adjust: impl FnOnce(&mut ServerConfig)) -> Self {
        Self::with_live(Box::new(NoneKnown), adjust)
    }

    fn with_live(live: Box<dyn LiveConnections>, adjust: impl FnOnce(&mut ServerConfig)) -> Self {
        let mut config = ServerConfig {
            handoff_port: 64064,
            limits: TableLimits::default(),
            validation_rate: Arc::new(ValidationRate::new(1000)),
            create_rate: 2000,
            budget: Arc::new(Budget::new(100, 1000)),
            access: Arc::default(),
        };
        adjust(&mut config);
        let stats = Arc::new(Stats::default());
        let server = Server::new(config, [7; 32], Duration::ZERO, stats);
        let time = Duration::from_secs(1);
        let batch = Batch::at(Now { wall: Default::default(), monotonic: time });
        Self { server, time, batch, live, outbox: Outbox::default() }
    }

    /// One with [`NAT64`] known.
    fn known() -> Self {
        let mut shard = Self::new(|_| {});
        shard.prove(NAT64, CONTROL, TOKEN);
        shard
    }

    fn send_between(&mut self, table: TableKey, port: u16, payload: &[u8]) -> Sent {
        self.send_with_room(table, port, payload, HEAD_ROOM)
    }

    /// With `free` octets in front that can be written to.
    fn send_with_room(&mut self, table: TableKey, port: u16, payload: &[u8], free: usize) -> Sent {
        let mut prepared = [Prepared::default()];
        self.server.prepare(table, payload, 0, &mut prepared);
        self.send_prepared(table, port, payload, free, &prepared[0])
    }

    fn send_prepared(
        &mut self,
        table: TableKey,
        port: u16,
        payload: &[u8],
        free: usize,
        prepared: &Prepared,
    ) -> Sent {
        let mut buffer = vec![0xee; HEAD_ROOM];
        buffer.extend_from_slice(payload);
        let payload = HEAD_ROOM..buffer.len();
        let room = HEAD_ROOM - free;
        self.outbox.clear();
        self.batch.set_time(self.time);
        let datagram = Datagram { index: 0, table, port, buffer: &mut buffer, payload, room };
        let (live, outbox) = (&mut *self.live, &mut self.outbox);
        self.server.handle_prepared(&self.batch, live, datagram, prepared, outbox);
        assert!(buffer[..room].iter().all(|&octet| octet == 0xee), "another's octets");
        assert_eq!(self.server.contradiction(), None);
        self.sent(&buffer)
    }

    fn sent(&self, buffer: &[u8]) -> Sent {
        let body = |reply: &Reply| match reply.body.clone() {
            Body::InPlace(range) => buffer[range].to_vec(),
            Body::Copied(range) => self.outbox.copies()[range].to_vec(),
        };
        self.outbox.replies.iter().map(|reply| (reply.to, body(reply))).collect()
    }

    /// A datagram to the port of Geneve.
    fn send_frame(&mut self, table: TableKey, payload: &[u8]) -> Sent {
        let mut buffer = [&[0xee; HEAD_ROOM][..], payload].concat();
        let payload = HEAD_ROOM..buffer.len();
        self.outbox.clear();
        self.batch.set_time(self.time);
        let (index, port, room) = (0, 50_000, HEAD_ROOM);
        let datagram = Datagram { index, table, port, buffer: &mut buffer, payload, room };
        let (live, outbox) = (&mut *self.live, &mut self.outbox);
        self.server.handle_frame(&self.batch, live, datagram, outbox);
        assert!(buffer[..room].iter().all(|&octet| octet == 0xee), "another's octets");
        self.sent(&buffer)
    }

    fn send(&mut self, payload: &[u8]) -> Sent {
        self.send_between(TableKey { local: LOCAL, nat64: NAT64 }, CONTROL, payload)
    }

    /// The one reply, which goes back to where the request came from.
    fn ask(&mut self, payload: &[u8]) -> Vec<u8> {
        let mut sent = self.send(payload);
        assert_eq!(sent.len(), 1, "{sent:?}, drops {:?}", self.drops());
        let (to, reply) = sent.remove(0);
        assert_eq!(to, SocketAddrV4::new(NAT64, CONTROL));
        reply
    }

    /// The one reason why there is no reply.
    fn dropped(&mut self, payload: &[u8]) -> DropReason {
        let before = self.drops();
        assert_eq!(self.send(payload), []);
        let mut reasons = self.drops();
        for reason in before {
            let at = reasons.iter().position(|&other| other == reason).unwrap();
            reasons.remove(at);
        }
        assert_eq!(reasons.len(), 1, "{reasons:?}");
        reasons[0]
    }

    fn drops(&self) -> Vec<DropReason> {
        let times =
            |&reason: &DropReason| vec![reason; self.server.stats().dropped(reason) as usize];
        DropReason::ALL.iter().flat_map(times).collect()
    }

    fn prove(&mut self, nat64: Ipv4Addr, port: u16, token: &[u8]) {
        let table = TableKey { local: LOCAL, nat64 };
        let question = [message(4, token), message(6, AUTHENTICATOR), udp6(CLIENT, 1)].concat();
        let mut sent = self.send_between(table, port, &question);
        if sent.is_empty() {
            sent = self.send_between(table, port, &question);
        }
        assert_eq!(sent[0].0, SocketAddrV4::new(nat64, 9));
        assert!(sent[0].1.len() <= question.len());
        let proof = [message(4, token), returned(nat64, &sent[0].1)].concat();
        let sent = self.send_between(table, port, &proof);
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].0, SocketAddrV4::new(nat64, port));
    }

    /// What changed, but for identities and authenticators.
    fn events(&self) -> Vec<Change> {
        let is_event =
            |change: &Change| change.event(Default::default(), self.outbox.changes[0].0).is_some();
        self.outbox.changes.iter().map(|(_, change)| change.clone()).filter(is_event).collect()
    }
}

fn message(kind: u8, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    message::emit(&mut out, kind, data);
    out
}

/// A validation packet, as the NAT64 sees it: a whole IPv4 packet for its port 9.
fn returned(nat64: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let ports = [64064_u16.to_be_bytes(), 9_u16.to_be_bytes()].concat();
    let length = (8 + payload.len() as u16).to_be_bytes();
    ip4(protocol::UDP, LOCAL, nat64, &[&ports, &length[..], &[0, 0], payload].concat())
}

fn ip4(protocol: u8, source: Ipv4Addr, destination: Ipv4Addr, data: &[u8]) -> Vec<u8> {
    [&ipv4::header(20 + data.len(), 64, protocol, source, destination), data].concat()
}

fn ip6(next_header: u8, source: &str, destination: &str, data: &[u8]) -> Vec<u8> {
    let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
    [&ipv6::header(data.len(), next_header, 64, source, destination), data].concat()
}

/// Transport headers, of which only the ports are read.
fn transport(source: u16, destination: u16) -> Vec<u8> {
    [&source.to_be_bytes()[..], &destination.to_be_bytes(), &[0; 16]].concat()
}

fn udp6(client: &str, port: u16) -> Vec<u8> {
    ip6(protocol::UDP, client, SERVICE, &transport(port, 80))
}

fn client(address: &str, port: u16) -> Client {
    let prefix = Prefix96::of(SERVICE.parse().unwrap());
    Client { prefix, address: address.parse().unwrap(), port }
}

fn client_packet(packet: &[u8]) -> Vec<u8> {
    [&message(4, TOKEN), &message(6, AUTHENTICATOR), packet].concat()
}

fn hinted(port: u16, packet: &[u8]) -> Vec<u8> {
    [&message(4, TOKEN), &message(6, AUTHENTICATOR), &message(8, &port.to_be_bytes()), packet]
        .concat()
}

fn service_packet(packet: &[u8]) -> Vec<u8> {
    [&message(4, TOKEN), packet].concat()
}

fn to_mapped(port: u16) -> Vec<u8> {
    ip4(protocol::TCP, LOCAL, NAT64, &transport(80, port))
}

fn entry(port: u16, client: Client) -> Entry {
    Entry { port: MappedPort(port), client }
}

fn report(authenticator: &[u8], entries: &[Entry]) -> Vec<u8> {
    let mut out =
        [message(1, PROTOCOL_IDENTIFIER), message(4, TOKEN), message(6, authenticator)].concat();
    entries.iter().for_each(|entry| out.extend_from_slice(&entry.emit()));
    out
}

fn answer(authenticator: &[u8], entry: Entry, packet: &[u8]) -> Vec<u8> {
    [&message(6, authenticator), &entry.emit()[..], packet].concat()
}

fn created(entry: Entry) -> Change {
    Change::Created { port: entry.port, client: entry.client }
}

fn deleted(entry: Entry) -> Change {
    Change::Deleted { port: entry.port, client: entry.client }
}

fn conflict(entry: Entry) -> Change {
    Change::Conflict { port: entry.port, client: entry.client }
}

/// Makes an entry and returns it.
fn make(shard: &mut Shard, address: &str, port: u16) -> Entry {
    make_by(shard, &udp6(address, port), address, port)
}

/// The entry that this packet of the client makes.
fn make_by(shard: &mut Shard, packet: &[u8], address: &str, port: u16) -> Entry {
    let reply = shard.ask(&client_packet(packet));
    let entry =
        shard.server.entries().find(|(_, entry)| entry.client == client(address, port)).unwrap().1;
    assert_eq!(reply, answer(AUTHENTICATOR, entry, packet));
    entry
}

#[test]
fn section_3_a_report_with_a_packet_is_two_answers() {
    let mut shard = Shard::known();
    let reported = entry(5000, client(CLIENT, 1));
    let packet = udp6(CLIENT, 1);
    let sent = shard.send(&[report(b"a1", &[reported]), packet.clone()].concat());
    let replies: Vec<_> = sent.into_iter().map(|(_, reply)| reply).collect();
    assert_eq!(replies, [answer(b"a1", reported, &[]), answer(b"a1", reported, &packet)]);
    let packet = to_mapped(5000);
    let sent = shard.send(&[report(b"a1", &[reported]), packet.clone()].concat());
    assert_eq!(sent[1].1, answer(b"a1", reported, &packet));
    let mut refused = packet.clone();
    refused[9] = 255;
    assert_eq!(shard.send(&[report(b"a1", &[reported]), refused].concat()).len(), 2);
}

#[test]
fn section_4_an_answer_is_the_same_with_and_without_room_in_front() {
    let mut shard = Shard::known();
    let own = make(&mut shard, CLIENT, 1);
    let embedded = ip4(protocol::TCP, NAT64, LOCAL, &transport(own.port.0, 80));
    let error = ip4(1, LOCAL, NAT64, &[&[3, 3, 0, 0, 0, 0, 0, 0][..], &embedded].concat());
    let requests = [
        client_packet(&udp6(CLIENT, 1)),
        hinted(5, &udp6(CLIENT, 1)),
        [&[0x32, 20][..], &[0; 40], &client_packet(&udp6(CLIENT, 1))].concat(),
        service_packet(&to_mapped(own.port.0)),
        service_packet(&to_mapped(own.port.0 ^ 1)),
        service_packet(&error),
    ];
    let table = TableKey { local: LOCAL, nat64: NAT64 };
    for request in requests {
        let expected = shard.ask(&request);
        for free in [0, 1, 2, 10, 33, 34, 35, 60, HEAD_ROOM - 1] {
            let sent = shard.send_with_room(table, CONTROL, &request, free);
            assert_eq!(sent, [(SocketAddrV4::new(NAT64, CONTROL), expected.clone())], "{free}");
        }
    }
}

#[test]
fn two_nat64s_and_two_local_addresses_have_tables_of_their_own() {
    let mut shard = Shard::known();
    let own = make(&mut shard, CLIENT, 1);
    let other = Ipv4Addr::new(192, 0, 2, 8);
    shard.prove(other, CONTROL, TOKEN);
    let table = TableKey { local: LOCAL, nat64: other };
    let packet = to_mapped(own.port.0);
    let sent = shard.send_between(table, CONTROL, &service_packet(&packet));
    assert!(sent[0].1.starts_with(&message(4, TOKEN)), "returned: the other's entry is not found");
    let elsewhere = TableKey { local: Ipv4Addr::new(203, 0, 113, 6), nat64: NAT64 };
    let twice = [(); 2].map(|()| shard.send_between(elsewhere, CONTROL, &service_packet(&packet)));
    assert!(twice.concat().iter().all(|(to, _)| to.port() == 9), "not known there");
    assert_eq!(shard.server.entries().count(), 1);
}

/// One of two shards answers each request alone, the other prepares batches of them: with few
/// clients and small tables, so that what was prepared is often not so any more, and with NAT64s
/// that are admitted within a batch.
#[test]
fn what_is_prepared_never_alters_an_answer() {
    let small = |config: &mut ServerConfig| {
        config.limits.entries_max = 40;
    };
    let (mut alone, mut batched) = (Shard::new(small), Shard::new(small));
    let mut random = Random::new([9; SEED_LENGTH]);
    let mut below = |bound| random.below(bound);
    // What was returned of validation packets, and is not sent yet.
    let mut proofs: Vec<(TableKey, u16, Vec<u8>)> = Vec::new();
    let (mut answers, mut returned_proofs) = (0, 0);
    for round in 0..1000 {
        alone.time += Duration::from_millis(20);
        batched.time = alone.time;
        let mut request = || {
            let nat64 = Ipv4Addr::new(192, 0, 2, below(1 + round / 50) as u8);
            let number = below(60);
            let (host, port) =
                (format!("2001:db8:0:{:x}::{number:x}", number % 5), 1 + below(2) as u16);
            let mapped = 2000 + below(30) as u16;
            let reported = || entry(mapped, client(&host, port));
            let payload = match below(9) {
                0..4 => client_packet(&udp6(&host, port)),
                4 => hinted(mapped, &udp6(&host, port)),
                5 => service_packet(&to_mapped(mapped)),
                6 => report(AUTHENTICATOR, &[reported()]),
                7 => match proofs.pop() {
                    Some(proof) => {
                        returned_proofs += 1;
                        return proof;
                    }
                    None => vec![0; 3],
                },
                _ => report(AUTHENTICATOR, &[reported(), entry(mapped + 1, client(&host, 3))]),
            };
            (TableKey { local: LOCAL, nat64 }, CONTROL + below(2) as u16, payload)
        };
        let batch: Vec<_> = (0..1 + round % 64).map(|_| request()).collect();
        let mut prepared: Vec<_> = batch.iter().map(|_| Prepared::default()).collect();
        for (index, (table, _, payload)) in batch.iter().enumerate() {
            batched.server.prepare(*table, payload, index, &mut prepared);
        }
        batched.server.prefetch(&mut prepared);
        for ((table, port, payload), prepared) in batch.iter().zip(&prepared) {
            let sent = alone.send_between(*table, *port, payload);
            assert_eq!(batched.send_prepared(*table, *port, payload, HEAD_ROOM, prepared), sent);
            assert_eq!(batched.outbox.changes, alone.outbox.changes);
            answers += sent.len();
            for (to, octets) in sent.iter().filter(|(to, _)| to.port() == VALIDATION_PORT) {
                let proof = [message(4, TOKEN), returned(*to.ip(), octets)].concat();
                proofs.push((*table, *port, proof));
            }
        }
    }
    assert_eq!(alone.drops(), batched.drops());
    assert!(
        answers > 10_000 && returned_proofs > 50,
        "{answers} answers, {returned_proofs} proofs"
    );
}
