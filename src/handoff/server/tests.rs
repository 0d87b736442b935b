use super::*;
use crate::handoff::change::Now;
use crate::handoff::entry::{Client, MappedPort};
use crate::handoff::message::{
    self, HEAD_ROOM, PAYLOAD_MAX, PROTOCOL_IDENTIFIER, Prefix96, VALIDATION_PORT,
};
use crate::handoff::ports::PortSet;
use crate::handoff::stats::DropReason;
use crate::handoff::table::LivePorts;
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
            validation_rate: 1000,
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

    /// With so many octets in front that can be written to.
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
        self.batch.now.monotonic = self.time;
        let datagram = Datagram { index: 0, table, port, buffer: &mut buffer, payload, room };
        let (live, outbox) = (&mut *self.live, &mut self.outbox);
        self.server.handle_prepared(&self.batch, live, datagram, prepared, outbox);
        assert!(buffer[..room].iter().all(|&octet| octet == 0xee), "another's octets");
        assert_eq!(self.server.contradiction(), None);
        let body = |reply: &Reply| match reply.body.clone() {
            Body::InPlace(range) => buffer[range].to_vec(),
            Body::Copied(range) => self.outbox.copies()[range].to_vec(),
        };
        self.outbox.replies.iter().map(|reply| (reply.to, body(reply))).collect()
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

/// Transport headers: only the ports are looked at.
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
    let packet = udp6(address, port);
    let reply = shard.ask(&client_packet(&packet));
    let entry =
        shard.server.entries().find(|(_, entry)| entry.client == client(address, port)).unwrap().1;
    assert_eq!(reply, answer(AUTHENTICATOR, entry, &packet));
    entry
}

#[test]
fn section_5_nothing_is_kept_before_the_proof() {
    let mut shard = Shard::new(|_| {});
    for i in 0..100 {
        let table = TableKey { local: LOCAL, nat64: Ipv4Addr::from(0x0a00_0000 + i) };
        let payload = client_packet(&udp6(CLIENT, 1));
        for (to, reply) in shard.send_between(table, CONTROL, &payload) {
            assert_eq!(to, SocketAddrV4::new(table.nat64, 9));
            assert!(reply.len() <= payload.len());
        }
        assert_eq!((shard.server.nat64s(), shard.outbox.changes.len()), (0, 0));
    }
    assert_eq!(shard.server.stats().dropped(DropReason::Attenuated), shard.drops().len() as u64);
}

#[test]
fn section_5_proof_initializes_and_is_returned_with_ttl_1() {
    let mut shard = Shard::new(|_| {});
    let question = client_packet(&udp6(CLIENT, 1));
    let validation = shard.send(&question).remove(0).1;
    let mut packet = returned(NAT64, &validation);
    let proof = service_packet(&packet);
    let reply = shard.ask(&proof);
    assert_eq!(shard.events(), [Change::Initialized]);
    ipv4::set_ttl(&mut packet, 1);
    assert_eq!(reply, service_packet(&packet));
    // Another validation packet was under way: its proof is one still, and nothing is initialized again.
    assert_eq!(shard.ask(&proof), service_packet(&packet));
    assert_eq!(shard.outbox.changes, []);
}

#[test]
fn section_5_a_wrong_proof_is_none() {
    let mut shard = Shard::new(|_| {});
    let validation = shard.send(&client_packet(&udp6(CLIENT, 1))).remove(0).1;
    let proof = service_packet(&returned(NAT64, &validation));
    for at in proof.len() - 16..proof.len() {
        let mut wrong = proof.clone();
        wrong[at] ^= 0x10;
        shard.send(&wrong);
    }
    let elsewhere = [
        (TableKey { local: NAT64, nat64: NAT64 }, CONTROL),
        (TableKey { local: LOCAL, nat64: LOCAL }, CONTROL),
        (TableKey { local: LOCAL, nat64: NAT64 }, CONTROL + 1),
    ];
    for (table, port) in elsewhere {
        shard.send_between(table, port, &proof);
    }
    shard.send(&[message(4, b"other!"), returned(NAT64, &validation)].concat());
    assert_eq!(shard.server.nat64s(), 0);
    shard.time += Duration::from_secs(121);
    shard.send(&proof);
    assert_eq!(shard.server.nat64s(), 0);
}

#[test]
fn section_5_rotation() {
    let mut shard = Shard::known();
    let packet = udp6(CLIENT, 1);
    let rotation = |old: &[u8]| {
        [&message(5, old), &message(4, b"new-token-"), &message(6, AUTHENTICATOR), &packet[..]]
            .concat()
    };
    assert_eq!(shard.send(&rotation(b"unknown!")).remove(0).0.port(), 9);
    let table = TableKey { local: LOCAL, nat64: NAT64 };
    let elsewhere = shard.send_between(table, CONTROL + 1, &rotation(TOKEN));
    assert!(elsewhere.iter().all(|(to, _)| to.port() == 9));
    assert!(shard.ask(&rotation(TOKEN)).ends_with(&packet));
    assert!(shard.server.is_known(table, ControlPort(CONTROL), b"new-token-"));
    assert!(shard.server.is_known(table, ControlPort(CONTROL), TOKEN));
}

#[test]
fn section_5_rotation_keeps_the_token_before() {
    let mut shard = Shard::known();
    for i in 0..3 {
        shard.prove(NAT64, 41000 + i, b"other!");
    }
    // Four are known, and the first is the least recently used: it is the one that rotates.
    let packet = udp6(CLIENT, 1);
    let request =
        [&message(5, TOKEN), &message(4, b"new-token-"), &message(6, AUTHENTICATOR), &packet[..]];
    assert!(shard.ask(&request.concat()).ends_with(&packet));
    assert!(shard.ask(&client_packet(&packet)).ends_with(&packet), "in flight with the old token");
}

#[test]
fn section_5_limits_are_silent() {
    let mut shard = Shard::new(|config| config.budget = Arc::new(Budget::new(1, 1000)));
    shard.prove(NAT64, CONTROL, TOKEN);
    let other = TableKey { local: LOCAL, nat64: Ipv4Addr::new(192, 0, 2, 8) };
    for _ in 0..5 {
        assert_eq!(shard.send_between(other, 5000, &client_packet(&udp6(CLIENT, 1))), []);
    }
    assert_eq!(shard.drops(), [DropReason::Nat64sLimit; 5]);

    let mut shard = Shard::new(|config| config.budget = Arc::new(Budget::new(10, 2)));
    shard.prove(NAT64, CONTROL, TOKEN);
    let first = make(&mut shard, "2001:db8::1", 1);
    make(&mut shard, "2001:db8::2", 1);
    assert_eq!(shard.send_between(other, 5000, &client_packet(&udp6(CLIENT, 1))), []);
    assert_eq!(shard.server.stats().dropped(DropReason::EntriesLimit), 1);
    // The table that exists goes on by replacing its own.
    let third = make(&mut shard, "2001:db8::3", 1);
    assert_eq!(third.port, first.port);
    assert_eq!(shard.server.entries().count(), 2);
}

#[test]
fn section_5_access_lists() {
    let net = |text: &str| text.parse::<Ipv4Net>().unwrap();
    let list = AccessList { allow: vec![net("192.0.2.0/24")], deny: vec![net("192.0.2.128/25")] };
    assert!(list.permits(NAT64));
    assert!(!list.permits(Ipv4Addr::new(192, 0, 2, 200)));
    assert!(!list.permits(Ipv4Addr::new(198, 51, 100, 1)));
    assert!(AccessList::default().permits(Ipv4Addr::new(198, 51, 100, 1)));
    let mut shard = Shard::new(|config| {
        config.access = Arc::new(AccessList { deny: vec![net("192.0.2.7/32")], ..list })
    });
    assert_eq!(shard.dropped(&client_packet(&udp6(CLIENT, 1))), DropReason::NotAllowed);
}

#[test]
fn section_5_port_0_is_never_answered() {
    let mut shard = Shard::new(|_| {});
    let table = TableKey { local: LOCAL, nat64: NAT64 };
    assert_eq!(shard.send_between(table, 0, &client_packet(&udp6(CLIENT, 1))), []);
    assert_eq!(shard.drops(), [DropReason::SourcePortZero]);
}

#[test]
fn section_6_a_control_port_that_was_mapped() {
    let mut shard = Shard::known();
    shard.ask(&hinted(41000, &udp6(CLIENT, 1)));
    shard.prove(NAT64, 41000, b"second");
    assert_eq!(shard.events(), [deleted(entry(41000, client(CLIENT, 1)))]);
    let hinted = shard.ask(&hinted(41000, &udp6(CLIENT, 1)));
    assert_ne!(hinted[18..20], 41000_u16.to_be_bytes());
}

#[test]
fn section_6_reports() {
    let mut shard = Shard::known();
    let (one, two, three) = (client(CLIENT, 1), client(CLIENT, 2), client(CLIENT, 3));
    // Adopted, then agreed with.
    assert_eq!(
        shard.ask(&report(b"a1", &[entry(5000, one)])),
        answer(b"a1", entry(5000, one), &[])
    );
    assert_eq!(shard.events(), [created(entry(5000, one))]);
    assert_eq!(
        shard.ask(&report(b"a2", &[entry(5000, one)])),
        answer(b"a2", entry(5000, one), &[])
    );
    assert_eq!(shard.outbox.changes.len(), 1, "the authenticator is another");
    // The client has another port.
    assert_eq!(
        shard.ask(&report(b"a2", &[entry(5001, one)])),
        answer(b"a2", entry(5000, one), &[])
    );
    assert_eq!(shard.events(), [conflict(entry(5001, one))]);
    // The port is taken, or not eligible.
    for (port, client) in [(5000, two), (3544, three)] {
        let reply = shard.ask(&report(b"a2", &[entry(port, client)]));
        let events = shard.events();
        let [Change::Conflict { .. }, Change::Created { port: own, .. }] = events[..] else {
            panic!("{events:?}")
        };
        assert_eq!(events[0], conflict(entry(port, client)));
        assert_ne!(own.0, port);
        assert_eq!(reply, answer(b"a2", entry(own.0, client), &[]));
    }
    // What cannot be an entry.
    for bad in [entry(0, one), entry(5000, client(CLIENT, 0)), entry(5000, client("fe80::1", 1))] {
        assert_eq!(shard.dropped(&report(b"a2", &[bad])), DropReason::EntryInvalid);
    }
}

/// That a report was contradicted is in the log before the NAT64 hears of it.
#[test]
fn section_9_conflicts_are_recorded_before_they_are_answered() {
    let mut shard = Shard::known();
    let [one, two] = [1, 2].map(|port| entry(5000 + port, client(CLIENT, port)));
    shard.ask(&report(b"a1", &[one, two]));
    (shard.batch.record, shard.batch.durable) = (9, 8);
    let after = |shard: &mut Shard, entries: &[Entry]| {
        shard.ask(&report(b"a1", entries));
        shard.outbox.replies[0].after
    };
    assert_eq!(after(&mut shard, &[one]), 0);
    assert_eq!(after(&mut shard, &[entry(6000, one.client)]), 9);
    assert_eq!(after(&mut shard, &[one, entry(6000, two.client)]), 9);
    assert_eq!(after(&mut shard, &[one, two]), 0);
}

#[test]
fn section_6_multi_reports() {
    let mut shard = Shard::known();
    let [one, two, three] = [1, 2, 3].map(|port| entry(5000 + port, client(CLIENT, port)));
    // None differs: exactly the first.
    assert_eq!(shard.ask(&report(b"a1", &[one, two])), answer(b"a1", one, &[]));
    assert_eq!(shard.events(), [created(one), created(two)]);
    // Each that differs is answered, under its own authenticator.
    let other = client("2001:db8::99", 9);
    let payload = [
        report(b"a1", &[one, entry(6000, two.client), entry(0, one.client)]),
        message(6, b"b1"),
        entry(5001, other).emit().to_vec(),
        three.emit().to_vec(),
    ];
    let sent = shard.send(&payload.concat());
    let own = shard.server.entries().find(|(_, entry)| entry.client == other).unwrap().1;
    let replies: Vec<_> = sent.into_iter().map(|(_, reply)| reply).collect();
    assert_eq!(replies, [answer(b"a1", two, &[]), answer(b"b1", own, &[])]);
    let expected = [
        conflict(entry(6000, two.client)),
        conflict(entry(5001, other)),
        created(own),
        created(three),
    ];
    assert_eq!(shard.events(), expected);
    assert_eq!(shard.server.stats().dropped(DropReason::EntryInvalid), 1);
    let nothing = report(b"a1", &[entry(0, one.client), entry(0, two.client)]);
    assert_eq!(shard.send(&nothing), []);
    assert_eq!(shard.server.stats().dropped(DropReason::EntryInvalid), 3);
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
fn section_7_client_packets() {
    let mut shard = Shard::known();
    let one = make(&mut shard, CLIENT, 1);
    assert_eq!(shard.events(), [created(one)]);
    // The same client again, by TCP and behind extension headers, to another port of the service.
    let tcp = ip6(protocol::TCP, CLIENT, "64:ff9b::c633:6401", &transport(1, 443));
    assert_eq!(shard.ask(&client_packet(&tcp)), answer(AUTHENTICATOR, one, &tcp));
    let extended = [&[protocol::UDP, 0, 1, 4, 0, 0, 0, 0][..], &transport(1, 80)].concat();
    let extended = ip6(protocol::DESTINATION_OPTIONS, CLIENT, SERVICE, &extended);
    assert_eq!(shard.ask(&client_packet(&extended)), answer(AUTHENTICATOR, one, &extended));
    assert_eq!(shard.outbox.changes, []);
    // Another prefix is another client.
    let elsewhere = ip6(protocol::UDP, CLIENT, "2001:db8:64::cb00:7105", &transport(1, 80));
    shard.ask(&client_packet(&elsewhere));
    assert_eq!(shard.events().len(), 1);
    for source in ["::", "::1", "ff02::1", "::ffff:192.0.2.1", "fe80::1"] {
        assert_eq!(shard.dropped(&client_packet(&udp6(source, 1))), DropReason::ClientAddress);
    }
    assert_eq!(shard.dropped(&client_packet(&udp6(CLIENT, 0))), DropReason::EntryInvalid);
    let short = ip6(protocol::UDP, CLIENT, SERVICE, &[0, 1, 0]);
    assert_eq!(shard.dropped(&client_packet(&short)), DropReason::HeaderTruncated);
}

#[test]
fn section_7_ipv6_fragments() {
    let mut shard = Shard::known();
    let fragment = |identification: u8, flags: u8, data: &[u8]| {
        let header = [protocol::UDP, 0, 0, flags, 0, 0, 0, identification];
        ip6(protocol::FRAGMENT, CLIENT, SERVICE, &[&header[..], data].concat())
    };
    let (first, later) = (fragment(1, 1, &transport(7, 80)), fragment(1, 16, &[1, 2, 3]));
    assert_eq!(shard.dropped(&client_packet(&later)), DropReason::FragmentUnknown);
    shard.ask(&client_packet(&first));
    let own = shard.server.entries().next().unwrap().1;
    assert_eq!(own.client, client(CLIENT, 7));
    assert_eq!(shard.ask(&client_packet(&later)), answer(AUTHENTICATOR, own, &later));
    assert_eq!(shard.dropped(&client_packet(&fragment(2, 16, &[1]))), DropReason::FragmentUnknown);
    shard.time += Duration::from_secs(15);
    assert_eq!(shard.dropped(&client_packet(&later)), DropReason::FragmentUnknown);
}

#[test]
fn section_7_ipv4_fragments() {
    let mut shard = Shard::known();
    let own = make(&mut shard, CLIENT, 1);
    let fragment = |flags: [u8; 2], data: &[u8]| {
        let mut packet = ip4(protocol::UDP, LOCAL, NAT64, data);
        packet[6..8].copy_from_slice(&flags);
        packet
    };
    let (first, later) =
        (fragment([0x20, 0], &transport(80, own.port.0)), fragment([0, 3], &[9; 5]));
    assert_eq!(shard.dropped(&service_packet(&later)), DropReason::FragmentUnknown);
    assert_eq!(shard.ask(&service_packet(&first)), answer(AUTHENTICATOR, own, &first));
    assert_eq!(shard.ask(&service_packet(&later)), answer(AUTHENTICATOR, own, &later));
}

#[test]
fn section_7_ping_and_other_icmpv6() {
    let mut shard = Shard::known();
    let icmp = |kind: u8| {
        let (source, destination): (Ipv6Addr, Ipv6Addr) =
            (CLIENT.parse().unwrap(), SERVICE.parse().unwrap());
        let mut data = [kind, 0, 0, 0, 1, 2, 3, 4, 5];
        let checksum = checksum::icmpv6(source, destination, &data);
        data[2..4].copy_from_slice(&checksum.to_be_bytes());
        ip6(protocol::ICMPV6, CLIENT, SERVICE, &data)
    };
    let reply = shard.ask(&client_packet(&icmp(128)));
    let echoed = reply.strip_prefix(&message(6, AUTHENTICATOR)[..]).unwrap();
    assert_eq!((echoed[40], &echoed[44..]), (129, &[1, 2, 3, 4, 5][..]));
    assert_eq!(echoed[8..24], icmp(128)[24..40]);
    let mut wrong = icmp(128);
    wrong[42] ^= 1;
    assert_eq!(shard.dropped(&client_packet(&wrong)), DropReason::EchoChecksum);
    for kind in [129, 133, 200, 255] {
        assert_eq!(shard.dropped(&client_packet(&icmp(kind))), DropReason::IcmpIgnored);
    }
    let fragment = [&[protocol::ICMPV6, 0, 0, 0, 0, 0, 0, 1][..], &icmp(128)[40..]].concat();
    let fragment = client_packet(&ip6(protocol::FRAGMENT, CLIENT, SERVICE, &fragment));
    assert_eq!(shard.dropped(&fragment), DropReason::IcmpFragment);
    // 99 more in this second, of whatever kind.
    let unknown = client_packet(&ip6(132, CLIENT, SERVICE, &[1, 2, 3]));
    let problem = shard.ask(&unknown);
    assert_eq!(problem[16..][40..42], [4, 1]);
    for _ in 0..98 {
        shard.ask(&client_packet(&icmp(128)));
    }
    assert_eq!(shard.dropped(&unknown), DropReason::IcmpRate);
    assert_eq!(shard.dropped(&client_packet(&icmp(128))), DropReason::IcmpRate);
    shard.time += Duration::from_millis(1100);
    shard.ask(&unknown);
}

#[test]
fn section_7_icmpv6_errors() {
    let mut shard = Shard::known();
    let own = make(&mut shard, CLIENT, 7);
    let about = |port: u16| {
        let embedded = ip6(protocol::UDP, SERVICE, CLIENT, &transport(80, port));
        let data = [&[1, 4, 0, 0, 0, 0, 0, 0][..], &embedded].concat();
        let packet = ip6(protocol::ICMPV6, "2001:db8:ffff::1", SERVICE, &data);
        ([&message(4, TOKEN), &message(6, b"router"), &packet[..]].concat(), packet)
    };
    let (request, packet) = about(7);
    assert_eq!(shard.ask(&request), answer(AUTHENTICATOR, own, &packet));
    assert_eq!(shard.outbox.changes, [], "the router's authenticator is not the client's");
    assert_eq!(shard.dropped(&about(8).0), DropReason::IcmpErrorUnmatched);
    for cut in [1, 30, 60] {
        let mut data = [&[1, 4, 0, 0, 0, 0, 0, 0][..], &packet[48..]].concat();
        data.truncate(8 + cut);
        let cut = client_packet(&ip6(protocol::ICMPV6, "2001:db8:ffff::1", SERVICE, &data));
        let answered = !shard.send(&cut).is_empty();
        assert_eq!(answered, data.len() >= 8 + 44);
    }
}

#[test]
fn section_7_service_packets() {
    let mut shard = Shard::known();
    let own = make(&mut shard, CLIENT, 1);
    let packet = to_mapped(own.port.0);
    assert_eq!(shard.ask(&service_packet(&packet)), answer(AUTHENTICATOR, own, &packet));
    // Not found: returned, one hop older, until there is none left.
    let mut packet = to_mapped(own.port.0 ^ 1);
    let reply = shard.ask(&service_packet(&packet));
    ipv4::set_ttl(&mut packet, 63);
    assert_eq!(reply, service_packet(&packet));
    for ttl in [1, 0] {
        ipv4::set_ttl(&mut packet, ttl);
        assert_eq!(shard.dropped(&service_packet(&packet)), DropReason::TtlExpired);
    }
    // The client speaks with another authenticator: that is the one from now on.
    let again = [message(4, TOKEN), message(6, b"fresh!"), udp6(CLIENT, 2)].concat();
    shard.ask(&again);
    let packet = to_mapped(own.port.0);
    assert_eq!(shard.ask(&service_packet(&packet)), answer(b"fresh!", own, &packet));
}

#[test]
fn section_7_icmp_errors_and_other_protocols() {
    let mut shard = Shard::known();
    let own = make(&mut shard, CLIENT, 1);
    let about = |protocol: u8, port: u16| {
        let embedded = ip4(protocol, NAT64, LOCAL, &transport(port, 80));
        ip4(1, LOCAL, NAT64, &[&[3, 3, 0, 0, 0, 0, 0, 0][..], &embedded].concat())
    };
    let packet = about(protocol::TCP, own.port.0);
    assert_eq!(shard.ask(&service_packet(&packet)), answer(AUTHENTICATOR, own, &packet));
    let mut packet = about(protocol::UDP, own.port.0 ^ 1);
    let reply = shard.ask(&service_packet(&packet));
    ipv4::set_ttl(&mut packet, 63);
    assert_eq!(reply, service_packet(&packet));
    assert_eq!(shard.dropped(&service_packet(&about(1, 1))), DropReason::IcmpErrorUnmatched);
    for data in [&[8, 0, 0, 0, 0, 0, 0, 0][..], &[42, 0, 0, 0]] {
        let packet = ip4(1, LOCAL, NAT64, data);
        if data[0] == 8 {
            let reply = shard.ask(&service_packet(&packet));
            assert_eq!(reply[8..][20..22], [3, 2]);
        } else {
            assert_eq!(shard.dropped(&service_packet(&packet)), DropReason::IcmpIgnored);
        }
    }
    // A first fragment counts as its transport header says, and leaves a note.
    let mut first = about(protocol::TCP, own.port.0);
    first[6] = 0x20;
    assert_eq!(shard.ask(&service_packet(&first)), answer(AUTHENTICATOR, own, &first));
    let mut later = ip4(1, LOCAL, NAT64, &[9; 5]);
    later[7] = 6;
    assert_eq!(shard.ask(&service_packet(&later)), answer(AUTHENTICATOR, own, &later));
    let packet = ip4(132, LOCAL, NAT64, &[1, 2, 3]);
    let reply = shard.ask(&service_packet(&packet));
    assert!(reply.starts_with(&message(4, TOKEN)) && reply.ends_with(&packet));
    assert_eq!(reply[8..][20..22], [3, 2]);
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
fn section_7_too_long_an_answer_goes_without_its_packet() {
    let mut shard = Shard::known();
    let own = make(&mut shard, CLIENT, 1);
    let data = |length| [transport(80, own.port.0), vec![7; length]].concat();
    let room = PAYLOAD_MAX - 2 - TOKEN.len();
    let longest = service_packet(&ip4(protocol::UDP, LOCAL, NAT64, &data(room - 40)));
    assert_eq!(longest.len(), PAYLOAD_MAX);
    assert_eq!(shard.ask(&longest), answer(AUTHENTICATOR, own, &[]));
    let fits = PAYLOAD_MAX - 2 - AUTHENTICATOR.len() - 34;
    let packet = ip4(protocol::UDP, LOCAL, NAT64, &data(fits - 40));
    assert_eq!(shard.ask(&service_packet(&packet)), answer(AUTHENTICATOR, own, &packet));
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

#[test]
fn section_9_an_answer_waits_for_what_it_announces() {
    let mut shard = Shard::known();
    let mut in_batch = |record, durable, payload: &[u8]| {
        (shard.batch.record, shard.batch.durable) = (record, durable);
        shard.send(payload);
        shard.outbox.replies.iter().map(|reply| reply.after).collect::<Vec<_>>()
    };
    let (one, two) = (client_packet(&udp6(CLIENT, 1)), client_packet(&udp6(CLIENT, 2)));
    assert_eq!(in_batch(5, 4, &one), [5]);
    assert_eq!(in_batch(6, 4, &one), [5], "a later look-up announces it too");
    assert_eq!(in_batch(6, 4, &two), [6]);
    assert_eq!(in_batch(7, 5, &one), [5], "not above what is durable");
    assert_eq!(in_batch(7, 6, &one), [0]);
    assert_eq!(in_batch(7, 6, &two), [0]);
    let reported = report(b"a1", &[entry(5000, client(CLIENT, 3)), entry(5001, client(CLIENT, 1))]);
    assert_eq!(in_batch(8, 6, &reported), [8], "it announces the conflict");
    let reported = report(b"a1", &[entry(5000, client(CLIENT, 3)), entry(5002, client(CLIENT, 4))]);
    assert_eq!(in_batch(9, 8, &reported), [9], "the first speaks for all of them");
    assert_eq!(in_batch(10, 9, &reported), [0], "nothing changed");
    // A successor's answers wait for the record that makes it known.
    let rotated = [
        &message(5, TOKEN),
        &message(4, b"next"),
        &message(6, AUTHENTICATOR),
        &udp6(CLIENT, 1)[..],
    ];
    assert_eq!(in_batch(9, 8, &rotated.concat()), [9]);
    assert_eq!(in_batch(10, 8, &rotated.concat()), [9]);
}

#[test]
fn section_9_what_cannot_be_recorded_does_not_happen() {
    let mut shard = Shard::known();
    let own = make(&mut shard, CLIENT, 1);
    shard.batch.frozen = true;
    let packet = udp6(CLIENT, 1);
    let fresh = [message(4, TOKEN), message(6, b"fresh!"), packet.clone()].concat();
    assert_eq!(shard.ask(&fresh), answer(b"fresh!", own, &packet));
    let packet = to_mapped(own.port.0);
    assert_eq!(shard.ask(&service_packet(&packet)), answer(AUTHENTICATOR, own, &packet));
    for refused in [
        client_packet(&udp6(CLIENT, 2)),
        report(b"a1", &[entry(5000, client(CLIENT, 2))]),
        report(b"a1", &[entry(5000, own.client)]),
        [message(5, TOKEN), message(4, b"next"), message(6, b""), udp6(CLIENT, 1)].concat(),
    ] {
        assert_eq!(shard.dropped(&refused), DropReason::JournalUnavailable);
        assert_eq!(shard.outbox.changes, []);
    }
    shard.batch.frozen = false;
    make(&mut shard, CLIENT, 2);
}

#[test]
fn section_9_replay_gives_the_same_shard() {
    let mut shard = Shard::new(|config| config.limits.entries_max = 3);
    let mut changes = Vec::new();
    let mut keep = |shard: &Shard| changes.extend_from_slice(&shard.outbox.changes);
    let question = client_packet(&udp6(CLIENT, 1));
    let validation = shard.send(&question).remove(0).1;
    shard.send(&service_packet(&returned(NAT64, &validation)));
    keep(&shard);
    for port in [1, 2, 3, 1, 4, 5] {
        shard.time += Duration::from_secs(3600);
        shard.send(&client_packet(&udp6(CLIENT, port)));
        keep(&shard);
    }
    shard.send(&report(b"a1", &[entry(5000, client(CLIENT, 5))]));
    keep(&shard);
    let mut replayed = Shard::new(|config| config.limits.entries_max = 3);
    changes.iter().for_each(|(table, change)| replayed.server.replay(*table, change));
    let entries = |shard: &Shard| shard.server.entries().collect::<Vec<_>>();
    assert_eq!(entries(&replayed), entries(&shard));
    assert_eq!(
        entries(&replayed).iter().map(|(_, entry)| entry.client.port).collect::<Vec<_>>(),
        [1, 4, 5]
    );
    assert_eq!(replayed.server.contradiction(), None);
    let packet = to_mapped(entries(&shard)[0].1.port.0);
    assert_eq!(replayed.ask(&service_packet(&packet)), shard.ask(&service_packet(&packet)));
}

/// One of two shards answers each request alone, the other prepares batches of them: with few clients and small
/// tables, so that what was prepared is often not so any more, and with NAT64s that are admitted within a batch.
#[test]
fn what_is_prepared_never_alters_an_answer() {
    let small = |config: &mut ServerConfig| {
        config.limits.entries_max = 40;
        config.validation_rate = 1000;
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

/// Connections that a test says there are, and how often it was asked for them.
#[derive(Clone)]
struct Said(Arc<Mutex<(u64, Vec<u16>)>>, Arc<PortSet>);

impl LiveConnections for Said {
    fn of(&mut self, table: TableKey) -> Option<LivePorts<'_>> {
        assert_eq!(table, TableKey { local: LOCAL, nat64: NAT64 });
        let mut said = self.0.lock().unwrap();
        said.0 += 1;
        self.1 = Arc::new(PortSet::new(said.1.clone()));
        Some(LivePorts { poll: said.0, ports: &self.1 })
    }
}

/// The table is limited by itself, or by what all may hold together.
#[test]
fn section_6_live_connections_at_a_full_table() {
    for of_all in [false, true] {
        let said = Said(Arc::default(), Arc::new(PortSet::new(Vec::new())));
        let mut shard = Shard::with_live(Box::new(said.clone()), |config| {
            match of_all {
                true => config.budget = Arc::new(Budget::new(100, 16)),
                false => config.limits.entries_max = 16,
            }
            config.limits.client_share = 1.0;
        });
        shard.prove(NAT64, CONTROL, TOKEN);
        let idle = make(&mut shard, CLIENT, 1);
        // Nobody asks before it is nearly full...
        for port in 2..13 {
            make(&mut shard, CLIENT, port);
        }
        assert_eq!((said.0.lock().unwrap().0, shard.server.nearly_full().count()), (0, 0));
        // ...and then for each new client, before one has to go.
        for port in 13..17 {
            make(&mut shard, CLIENT, port);
        }
        assert_eq!((said.0.lock().unwrap().0, shard.server.nearly_full().count()), (3, 1));
        // It stays, however many come.
        said.0.lock().unwrap().1 = vec![idle.port.0];
        for port in 100..200 {
            make(&mut shard, CLIENT, port);
            assert_eq!(shard.outbox.changes.len(), 2, "{:?}", shard.outbox.changes);
            assert!(!shard.outbox.changes.iter().any(|(_, change)| *change == deleted(idle)));
        }
        assert!(shard.server.entries().any(|(_, entry)| entry == idle));
        // When it is over, it goes in its time.
        said.0.lock().unwrap().1.clear();
        let went = (200..216).filter(|&port| {
            make(&mut shard, CLIENT, port);
            shard.outbox.changes.iter().any(|(_, change)| *change == deleted(idle))
        });
        assert_eq!(went.count(), 1);
        // While nothing can be recorded, nothing is passed over either.
        shard.batch.frozen = true;
        let asked = said.0.lock().unwrap().0;
        assert_eq!(
            shard.dropped(&client_packet(&udp6(CLIENT, 300))),
            DropReason::JournalUnavailable
        );
        assert_eq!(said.0.lock().unwrap().0, asked);
    }
}
