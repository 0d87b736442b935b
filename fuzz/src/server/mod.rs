//! The target `server`: a whole shard, under a little program of what NAT64s send it.
//!
//! The input is a list of operations, each of a few octets; see [`World::step`]. Limits are so small that
//! NAT64s are refused and entries evicted all the time. After every datagram all that PROTOCOL.md says of
//! an answer is checked, the changes are replayed into a plain model, and the model is compared with
//! the server.

mod answer;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use nat64handoff::handoff::change::{Change, Now, Timestamp};
use nat64handoff::handoff::entry::{ControlPort, MappedPort, TableKey};
use nat64handoff::handoff::message::{HANDOFF_PORT, HEAD_ROOM};
use nat64handoff::handoff::ports::PortSet;
use nat64handoff::handoff::server::{
    AccessList, Batch, Body, Budget, Datagram, LiveConnections, Outbox, Server, ServerConfig,
};
use nat64handoff::handoff::stats::Stats;
use nat64handoff::handoff::table::{LivePorts, TableLimits};

use super::build;
use super::judge::client::{Client, Entry};
use super::judge::wire::{self, Messages, message, read_validation};
use answer::{Answer, Origin, Sent, count_answers};

const ENTRIES_MAX: usize = 8;
const BUDGET_NAT64S: usize = 3;
const BUDGET_ENTRIES: usize = 20;
const IDENTITIES_MAX: usize = 4;
const VALIDATION_RATE: usize = 20;
const ICMP_RATE: usize = 100;
/// Operations beyond these are not looked at: a longer program finds nothing that a shorter one does not.
const STEPS_MAX: usize = 128;
/// Behind the payload in its buffer. Nothing may be written there.
const CANARY: [u8; 16] = [0xc5; 16];

/// What the operand of an operation chooses from.
const LOCALS: [Ipv4Addr; 2] = [build::SERVICE, Ipv4Addr::new(203, 0, 113, 6)];
const CONTROL_PORTS: [u16; 8] = [5000, 5001, 6000, 6081, 1024, 65535, 9, 0];
const TOKENS: [&[u8]; 4] = [&[], &[1, 2], &[0xab; 16], &[7; 510]];
const AUTHENTICATORS: [&[u8]; 4] = [&[], &[3, 4], &[0x66; 8], &[9; 510]];
const MAPPED_PORTS: [u16; 8] = [5000, 6000, 1024, 65535, 3544, HANDOFF_PORT, 80, 0];
const NO_CLIENTS: [&str; 4] = ["::", "ff02::1", "fe80::1", "::ffff:192.0.2.1"];

/// Ports with a live connection: every fourth. Now and then somebody looks anew, and sees the same.
struct EveryFourth {
    asked: u64,
    ports: PortSet,
}

impl EveryFourth {
    fn new() -> Self {
        Self {
            asked: 0,
            ports: PortSet::new((0..=u16::MAX).filter(|&port| is_live(port)).collect()),
        }
    }
}

impl LiveConnections for EveryFourth {
    fn of(&mut self, _: TableKey) -> Option<LivePorts<'_>> {
        self.asked += 1;
        Some(LivePorts { poll: 1 + self.asked / 8, ports: &self.ports })
    }
}

fn is_live(port: u16) -> bool {
    port.is_multiple_of(4)
}

/// `data` is a program.
pub fn check(data: &[u8]) {
    let mut program = Program(data);
    let mut world = World::new();
    for _ in 0..STEPS_MAX {
        if program.0.is_empty() {
            break;
        }
        world.step(&mut program);
    }
}

/// What is left of the input. Behind its end there are zeros.
struct Program<'a>(&'a [u8]);

impl<'a> Program<'a> {
    fn octet(&mut self) -> u8 {
        self.octets(1).first().copied().unwrap_or_default()
    }

    fn octets(&mut self, length: usize) -> &'a [u8] {
        let (octets, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        octets
    }
}

fn choose<T: Copy, const N: usize>(from: [T; N], octet: u8) -> T {
    from[usize::from(octet) % N]
}

/// Who sends a datagram: a control identity of section 5.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Asker {
    table: TableKey,
    port: u16,
    token: &'static [u8],
}

impl Asker {
    /// Two bits of NAT64, one of local address, three of port, two of token.
    fn from_octet(who: u8) -> Self {
        let nat64 = Ipv4Addr::new(192, 0, 2, 7 + (who & 3));
        Self {
            table: TableKey { local: choose(LOCALS, who >> 2), nat64 },
            port: choose(CONTROL_PORTS, who >> 3),
            token: choose(TOKENS, who >> 6),
        }
    }
}

/// What the server must know of one NAT64.
#[derive(Debug, Default)]
struct Nat64 {
    /// By mapped port.
    entries: BTreeMap<u16, Entry>,
    /// By client address.
    authenticators: BTreeMap<Ipv6Addr, Vec<u8>>,
    /// Port and token, the most recently used first.
    identities: Vec<(u16, Vec<u8>)>,
    /// When it was sent ICMP messages of the server's own.
    icmp: Vec<Duration>,
}

impl Nat64 {
    fn authenticator(&self, address: Ipv6Addr) -> &[u8] {
        self.authenticators.get(&address).map(Vec::as_slice).unwrap_or_default()
    }

    fn uses(&mut self, port: u16, token: &[u8]) {
        self.identities.retain(|known| *known != (port, token.to_vec()));
        self.identities.insert(0, (port, token.to_vec()));
        self.identities.truncate(IDENTITIES_MAX);
    }

    fn is_eligible(&self, port: u16) -> bool {
        port >= 1024
            && ![3544, 6081, HANDOFF_PORT].contains(&port)
            && !self.identities.iter().any(|known| known.0 == port)
    }
}

/// A proof that the server handed out.
struct Proof {
    asker: Asker,
    octets: Vec<u8>,
    at: Duration,
    /// The payload that it came in.
    payload: Vec<u8>,
}

struct World {
    server: Server,
    budget: Arc<Budget>,
    live: EveryFourth,
    /// How many requests there were.
    asked: usize,
    outbox: Outbox,
    now: Duration,
    nat64s: BTreeMap<TableKey, Nat64>,
    proofs: Vec<Proof>,
    /// When validation packets were sent.
    validations: Vec<Duration>,
}

impl World {
    fn new() -> Self {
        let budget = Arc::new(Budget::new(BUDGET_NAT64S, BUDGET_ENTRIES));
        let config = ServerConfig {
            handoff_port: HANDOFF_PORT,
            limits: TableLimits { entries_max: ENTRIES_MAX, client_share: 0.375 },
            validation_rate: VALIDATION_RATE as u32,
            budget: Arc::clone(&budget),
            access: Arc::new(AccessList::default()),
        };
        let stats = Arc::new(Stats::default());
        Self {
            server: Server::new(config, [0x64; 32], Duration::ZERO, stats),
            live: EveryFourth::new(),
            asked: 0,
            budget,
            outbox: Outbox::default(),
            now: Duration::ZERO,
            nat64s: BTreeMap::new(),
            proofs: Vec::new(),
            validations: Vec::new(),
        }
    }

    /// One operation: what to do, who does it, and operands.
    fn step(&mut self, program: &mut Program<'_>) {
        let operation = program.octet() % 12;
        if operation == 0 {
            let units = u16::from_be_bytes([program.octet(), program.octet()]);
            self.now += 10 * Duration::from_millis(units.into());
            return;
        }
        let asker = Asker::from_octet(program.octet());
        match operation {
            1 => {
                let length = program.octet();
                self.send(&asker, program.octets(length.into()));
            }
            2 => self.validate(&asker),
            3 => self.prove_again(&asker, program.octet()),
            4 => {
                let rest = self.multi_report(&asker.table, program);
                self.request(&asker, rest, &[], program);
            }
            // The rest is what NAT64s send most.
            5 | 6 => {
                let [authenticator, entry] = self.report(&asker.table, program);
                let packet = match program.octet() % 4 {
                    0 => self.ipv6(&asker.table, program),
                    1 => self.ipv4(&asker.table, program),
                    _ => Vec::new(),
                };
                self.request(
                    &asker,
                    vec![wire::identifier(), authenticator, entry],
                    &packet,
                    program,
                );
            }
            7..=9 => {
                let authenticator = message(6, choose(AUTHENTICATORS, program.octet()));
                let mut messages = vec![authenticator];
                let hint = program.octet();
                if hint > 0 {
                    let port = self.mapped_port(&asker.table, hint);
                    messages.push(message(8, &port.to_be_bytes()));
                }
                let packet = self.ipv6(&asker.table, program);
                self.request(&asker, messages, &packet, program);
            }
            _ => {
                let packet = self.ipv4(&asker.table, program);
                self.request(&asker, Vec::new(), &packet, program);
            }
        }
    }

    // --- What is sent

    /// Sends `messages` and a token, in a shape that the next octet says, with `packet` at the end.
    fn request(
        &mut self,
        asker: &Asker,
        mut messages: Vec<Vec<u8>>,
        packet: &[u8],
        program: &mut Program<'_>,
    ) {
        let shape = program.octet();
        messages.insert(0, message(4, asker.token));
        if shape & 1 != 0 {
            messages.reverse();
        }
        if shape & 2 != 0 {
            // A no-op, and a type that does not exist yet.
            messages.insert(0, message(2, b"noop"));
            messages.insert(0, message(15, &[]));
        }
        if shape & 4 != 0 {
            // Only the first of each type counts.
            messages.push(message(4, b"not this"));
            messages.push(message(8, &[0xff, 0xff]));
        }
        if shape & 8 != 0 {
            messages.push(message(5, choose(TOKENS, shape >> 6)));
        }
        let mut payload = messages.concat();
        payload.extend_from_slice(packet);
        if shape & 16 != 0 && !packet.is_empty() {
            payload.extend_from_slice(b"behind the packet");
        }
        if shape & 32 != 0 {
            payload.pop();
        }
        self.send(asker, &payload);
    }

    /// The whole round of section 5.
    fn validate(&mut self, asker: &Asker) {
        let request = [message(4, asker.token), build::ipv4(0, 443)].concat();
        // Attenuation drops the first of two at the most.
        for _ in 0..2 {
            if let Some(validation) = self.send(asker, &request) {
                self.prove(asker, &validation);
                return;
            }
        }
    }

    fn prove(&mut self, asker: &Asker, validation: &[u8]) {
        let packet = build::validation_datagram(validation);
        self.send(asker, &[message(4, asker.token), packet].concat());
    }

    /// Some proof from before, which may be another's, or too old.
    fn prove_again(&mut self, asker: &Asker, which: u8) {
        if !self.proofs.is_empty() {
            let proof = &self.proofs[usize::from(which) % self.proofs.len()];
            self.prove(asker, &proof.payload.clone());
        }
    }

    fn multi_report(&self, table: &TableKey, program: &mut Program<'_>) -> Vec<Vec<u8>> {
        let mut messages = vec![wire::identifier()];
        for _ in 0..program.octet() % 12 {
            let [authenticator, entry] = self.report(table, program);
            // Entries of one client stand behind one authenticator.
            if program.octet().is_multiple_of(2) {
                messages.push(authenticator);
            }
            messages.push(entry);
        }
        messages
    }

    fn report(&self, table: &TableKey, program: &mut Program<'_>) -> [Vec<u8>; 2] {
        let authenticator = message(6, choose(AUTHENTICATORS, program.octet()));
        let entry = self.entry(table, program);
        [authenticator, wire::entry(entry)]
    }

    fn ipv6(&self, table: &TableKey, program: &mut Program<'_>) -> Vec<u8> {
        let kind = program.octet();
        let entry = self.entry(table, program);
        Self::altered(build::ipv6(kind, entry, kind >> 6), kind >> 4, program)
    }

    fn ipv4(&self, table: &TableKey, program: &mut Program<'_>) -> Vec<u8> {
        let kind = program.octet();
        let port = self.mapped_port(table, program.octet());
        Self::altered(build::ipv4(kind, port), kind >> 4, program)
    }

    /// The packet, in which the input says one octet anew where `how` is 3.
    fn altered(mut packet: Vec<u8>, how: u8, program: &mut Program<'_>) -> Vec<u8> {
        if how & 3 == 3 {
            let at = usize::from(program.octet()) % packet.len();
            packet[at] = program.octet();
        }
        packet
    }

    fn entry(&self, table: &TableKey, program: &mut Program<'_>) -> Entry {
        let port = self.mapped_port(table, program.octet());
        let (client, client_port) = (program.octet(), program.octet());
        // Four hosts in each of four /64s, by one of two prefixes.
        let (subnet, host) = (u16::from(client >> 2 & 3), u16::from(client & 3));
        let address = match client >> 5 {
            7 => choose(NO_CLIENTS, client).parse().unwrap(),
            _ => Ipv6Addr::new(0x2001, 0xdb8, 0, subnet, 0, 0, 0, 1 + host),
        };
        let mut prefix = [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0];
        prefix[11] = client >> 4 & 1;
        Client { prefix, address, port: client_port.into() }.at(port)
    }

    /// One that is taken, one that is special, or any other.
    fn mapped_port(&self, table: &TableKey, which: u8) -> u16 {
        let entries = self.nat64s.get(table).map(|nat64| &nat64.entries);
        let taken = entries.filter(|entries| which & 0x80 != 0 && !entries.is_empty());
        match (taken, which & 0x40) {
            (Some(entries), _) => {
                let nth = usize::from(which & 0x7f) % entries.len();
                *entries.keys().nth(nth).unwrap()
            }
            (None, 0) => choose(MAPPED_PORTS, which),
            (None, _) => 20_000 + u16::from(which),
        }
    }

    // --- What comes of it

    /// Has the server handle `payload` and checks all that comes of it. Returns the payload of the
    /// validation packet, if it was answered with one.
    fn send(&mut self, asker: &Asker, payload: &[u8]) -> Option<Vec<u8>> {
        let request = Messages::split(payload)
            .filter(|_| asker.port != 0)
            .and_then(|messages| Some((messages.shape()?, messages)));
        // The token that counts is the payload's, which the input may have made another.
        let token =
            request.as_ref().and_then(|(_, messages)| messages.first(4)).unwrap_or_default();
        let was_known = self.is_known(asker, token);
        assert_eq!(self.server.is_known(asker.table, ControlPort(asker.port), token), was_known);
        let had_room = self.nat64s.contains_key(&asker.table)
            || self.nat64s.len() < BUDGET_NAT64S && self.budget.entries() < BUDGET_ENTRIES;

        let (sent, drops) = self.handle(asker, payload);
        let changes = std::mem::take(&mut self.outbox.changes);
        assert!(changes.iter().all(|(table, _)| *table == asker.table));
        let Some((shape, messages)) = request else {
            assert!(sent.is_empty() && changes.is_empty() && drops == 1);
            self.compare();
            return None;
        };

        let learned =
            changes.iter().any(|(_, change)| matches!(change, Change::IdentityKnown { .. }));
        let proof_age = self.proof_age(asker, token, &messages);
        let rotated = messages.first(5).is_some_and(|old| self.is_known(asker, old));
        if rotated && !was_known {
            // The token before is used by its rotation: it is not the one that makes room.
            let old = messages.first(5).unwrap_or_default();
            if let Some(nat64) = self.nat64s.get_mut(&asker.table) {
                nat64.uses(asker.port, old);
            }
        }
        let surely = rotated || proof_age.is_some_and(|age| age < Duration::from_secs(60));
        let maybe = rotated || proof_age.is_some_and(|age| age < Duration::from_secs(120));
        assert!(maybe || !learned, "an identity became known without a proof");
        assert!(learned || was_known || !had_room || !surely, "a proof was not accepted");
        assert!(!(learned && was_known));

        if !was_known && !learned {
            assert!(changes.is_empty() && sent.len() as u64 + drops == 1);
            self.compare();
            let sent = sent.into_iter().next()?;
            count_rate(&mut self.validations, self.now, VALIDATION_RATE);
            assert!(had_room, "a NAT64 that cannot be admitted was asked for a proof");
            assert_eq!(sent.to, SocketAddrV4::new(asker.table.nat64, 9));
            let proof = read_validation(&sent.payload, &messages, payload.len()).to_vec();
            // The asker of a raw payload has a token of its own, and cannot be asked to return it.
            if token == asker.token {
                self.proofs.push(Proof {
                    asker: asker.clone(),
                    octets: proof,
                    at: self.now,
                    payload: sent.payload.clone(),
                });
            }
            return Some(sent.payload);
        }

        let mapped_before = self.mapped(&asker.table);
        if was_known {
            self.nat64s.get_mut(&asker.table).unwrap().uses(asker.port, token);
        }
        let ever_mapped = self.replay(asker, token, &changes);
        self.compare();
        count_answers(shape, &messages, sent.len() as u64, drops);
        for sent in &sent {
            assert_eq!(sent.to, SocketAddrV4::new(asker.table.nat64, asker.port));
            let answer = Answer {
                request: &messages,
                shape,
                carries_proof: proof_age.is_some(),
                mapped_before: &mapped_before,
                ever_mapped: &ever_mapped,
                nat64: &self.nat64s[&asker.table],
            };
            if answer.check(sent) == Origin::Server {
                let nat64 = self.nat64s.get_mut(&asker.table).unwrap();
                count_rate(&mut nat64.icmp, self.now, ICMP_RATE);
            }
        }
        None
    }

    /// The payloads that were sent, and how many drops were counted.
    fn handle(&mut self, asker: &Asker, payload: &[u8]) -> (Vec<Sent>, u64) {
        let mut buffer = [&[0xc5; HEAD_ROOM][..], payload, &CANARY].concat();
        let end = HEAD_ROOM + payload.len();
        // Some came alone, others were joined to the one before. Not the longest, whose answers go without their
        // packets: where these are copies, they look like answers to reports.
        let alone = payload.len() % 4 < 2 || payload.len() > 60_000;
        let room = if alone { 0 } else { HEAD_ROOM };
        self.asked += 1;
        let datagram = Datagram {
            index: self.asked,
            table: asker.table,
            port: asker.port,
            buffer: &mut buffer,
            payload: HEAD_ROOM..end,
            room,
        };
        let wall = Timestamp::from_micros(self.now.as_micros() as u64);
        let drops_before = self.server.stats().dropped_all();
        self.outbox.clear();
        let batch = Batch::at(Now { wall, monotonic: self.now });
        self.server.handle(&batch, &mut self.live, datagram, &mut self.outbox);

        assert_eq!(buffer[end..], CANARY);
        assert_eq!(buffer[..room], [0xc5; HEAD_ROOM][..room]);
        let sent: Vec<_> = (self.outbox.replies.iter())
            .map(|reply| {
                assert_eq!(reply.datagram, self.asked);
                let (in_place, payload) = match &reply.body {
                    Body::InPlace(range) => {
                        assert!(range.start < range.end && range.end <= end);
                        (true, &buffer[range.clone()])
                    }
                    Body::Copied(range) => (false, &self.outbox.copies()[range.clone()]),
                };
                Sent { to: reply.to, in_place, payload: payload.to_vec() }
            })
            .collect();
        let in_place = sent.iter().filter(|sent| sent.in_place).count();
        assert!(in_place <= 1, "replies that overlap");
        (sent, self.server.stats().dropped_all() - drops_before)
    }

    fn is_known(&self, asker: &Asker, token: &[u8]) -> bool {
        let known = self.nat64s.get(&asker.table);
        known.is_some_and(|nat64| nat64.identities.contains(&(asker.port, token.to_vec())))
    }

    /// How old the proof is that an IPv4 packet ends with, if it is one for this identity.
    fn proof_age(&self, asker: &Asker, token: &[u8], request: &Messages<'_>) -> Option<Duration> {
        let packet = request.packet.filter(|packet| packet[0] >> 4 == 4)?;
        let data = &packet[4 * usize::from(packet[0] & 15)..];
        let proof = data.last_chunk::<16>()?;
        let mine = self.proofs.iter().filter(|issued| {
            issued.asker == *asker && issued.asker.token == token && issued.octets == proof
        });
        mine.map(|issued| self.now - issued.at).min()
    }

    fn mapped(&self, table: &TableKey) -> BTreeSet<Entry> {
        let known = self.nat64s.get(table);
        known.map(|nat64| nat64.entries.values().copied().collect()).unwrap_or_default()
    }

    /// Does to the model what the changes say, and nothing that cannot be. Returns every entry that was
    /// there at some time meanwhile.
    fn replay(
        &mut self,
        asker: &Asker,
        token: &[u8],
        changes: &[(TableKey, Change)],
    ) -> BTreeSet<Entry> {
        let mut ever_mapped = self.mapped(&asker.table);
        for (n, (table, change)) in changes.iter().enumerate() {
            if *change == Change::Initialized {
                assert!(self.nat64s.insert(*table, Nat64::default()).is_none());
                continue;
            }
            let nat64 = self.nat64s.get_mut(table).expect("a change of no table");
            match *change {
                Change::Initialized => {}
                Change::Used { port } => {
                    assert!(nat64.entries.contains_key(&port.0), "{port} used, and not mapped");
                }
                Change::Created { port, client } => {
                    let entry = entry(port, client);
                    assert!(
                        nat64.is_eligible(entry.mapped),
                        "{entry:?} on a port that none may have"
                    );
                    assert!(!NO_CLIENTS.contains(&entry.client.address.to_string().as_str()));
                    let twice = |other: &Entry| other.client == entry.client;
                    assert!(!nat64.entries.values().any(twice), "{entry:?} created twice");
                    assert_eq!(nat64.entries.insert(entry.mapped, entry), None);
                    ever_mapped.insert(entry);
                }
                Change::Deleted { port, client } => {
                    let entry = entry(port, client);
                    assert_eq!(nat64.entries.remove(&entry.mapped), Some(entry));
                    if !nat64
                        .entries
                        .values()
                        .any(|other| other.client.address == entry.client.address)
                    {
                        nat64.authenticators.remove(&entry.client.address);
                    }
                    match changes.get(n + 1) {
                        Some((_, Change::Created { .. })) => assert!(
                            !is_live(entry.mapped)
                                || nat64.entries.keys().all(|&port| is_live(port)),
                            "an entry in use went before one that was not"
                        ),
                        Some((
                            _,
                            Change::IdentityKnown { .. } | Change::IdentityForgotten { .. },
                        )) => {
                            assert_eq!(asker.port, entry.mapped)
                        }
                        next => panic!("{entry:?} was deleted for {next:?}"),
                    }
                }
                Change::Conflict { port, client } => {
                    let entry = entry(port, client);
                    assert_ne!(nat64.entries.get(&entry.mapped), Some(&entry));
                }
                Change::IdentityKnown { port, token: ref learned } => {
                    assert_eq!((port.0, learned.octets()), (asker.port, token));
                    nat64.uses(port.0, token);
                    assert!(!nat64.entries.contains_key(&port.0));
                }
                Change::IdentityForgotten { port, ref token } => {
                    let oldest = (port.0, token.octets().to_vec());
                    assert_eq!(nat64.identities.len(), IDENTITIES_MAX);
                    assert_eq!(nat64.identities.pop(), Some(oldest));
                }
                Change::AuthenticatorLearned { address, ref authenticator } => {
                    assert_ne!(nat64.authenticator(address), authenticator.octets());
                    assert!(nat64.entries.values().any(|entry| entry.client.address == address));
                    nat64.authenticators.insert(address, authenticator.octets().to_vec());
                }
            }
        }
        ever_mapped
    }

    /// The server holds what the model holds, of every NAT64, and keeps its limits.
    fn compare(&self) {
        assert_eq!(self.server.contradiction(), None);
        let held: BTreeSet<_> = (self.server.entries())
            .map(|(table, held)| (table, entry(held.port, held.client)))
            .collect();
        let expected = (self.nat64s.iter())
            .flat_map(|(&table, nat64)| nat64.entries.values().map(move |&entry| (table, entry)));
        assert!(held.iter().copied().eq(expected.collect::<BTreeSet<_>>()));
        assert_eq!(self.server.nat64s(), self.nat64s.len());
        assert_eq!(self.budget.nat64s(), self.nat64s.len());
        let lengths = || self.nat64s.values().map(|nat64| nat64.entries.len());
        assert_eq!(self.budget.entries(), lengths().map(|length| length.max(1)).sum::<usize>());
        assert!(self.nat64s.len() <= BUDGET_NAT64S && self.budget.entries() <= BUDGET_ENTRIES);
        assert!(lengths().all(|length| length <= ENTRIES_MAX));
    }
}

/// One more at `now`, of no more than `limit` in any second.
fn count_rate(sent: &mut Vec<Duration>, now: Duration, limit: usize) {
    sent.retain(|at| now - *at < Duration::from_secs(1));
    sent.push(now);
    assert!(sent.len() <= limit, "more than {limit} in a second");
}

fn entry(port: MappedPort, client: nat64handoff::handoff::entry::Client) -> Entry {
    Client { prefix: client.prefix.0, address: client.address, port: client.port }.at(port.0)
}
