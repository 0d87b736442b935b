//! The target `server`: a whole shard, under a little program of what NAT64s send it.
//!
//! The input is a list of operations, each of a few octets; see [`World::step`]. Limits are so
//! small that NAT64s are refused and entries evicted all the time. After every datagram all that
//! PROTOCOL.md says of an answer is checked, the changes are replayed into a plain model, and the
//! model is compared with the server.

mod answer;
mod model;
mod program;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use nat64handoff::handoff::change::{Change, Now, Timestamp};
use nat64handoff::handoff::entry::{ControlPort, TableKey};
use nat64handoff::handoff::message::{HANDOFF_PORT, HEAD_ROOM};
use nat64handoff::handoff::ports::PortSet;
use nat64handoff::handoff::server::{
    AccessList, Batch, Body, Budget, Datagram, LiveConnections, Outbox, Server, ServerConfig,
    TEND_EVENTS,
};
use nat64handoff::handoff::stats::Stats;
use nat64handoff::handoff::table::{LivePorts, TableLimits};
use nat64handoff::handoff::validation::ValidationRate;

use super::build;
use super::judge::wire::{self, Messages, message, read_validation};
use answer::{Answer, Origin, Sent, count_answers};
use model::{Nat64, count_rate};
use program::{Program, choose};

const ENTRIES_MAX: usize = 8;
const CLIENT_SHARE: f64 = 0.375;
const BUDGET_NAT64S: usize = 3;
const BUDGET_ENTRIES: usize = 20;
const IDENTITIES_MAX: usize = 4;
const ROOM_KEPT: Duration = Duration::from_secs(5);
const VALIDATION_RATE: usize = 20;
const ICMP_RATE: usize = 100;
/// Operations beyond these are not looked at: a longer program finds nothing that a shorter one
/// does not.
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

    fn any(&mut self, table: TableKey) -> Option<bool> {
        Some(is_connected(table))
    }
}

/// Every second NAT64 has a live connection.
fn is_connected(table: TableKey) -> bool {
    table.nat64.octets()[3].is_multiple_of(2)
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
    /// Changes of the last request but for those that were put off.
    in_time: usize,
    now: Duration,
    nat64s: BTreeMap<TableKey, Nat64>,
    proofs: Vec<Proof>,
    /// When validation packets were sent.
    validations: Vec<Duration>,
    /// When a NAT64 with a connection found no room: for a while, the last place is kept for it.
    refused: Option<Duration>,
}

impl World {
    fn new() -> Self {
        let budget = Arc::new(Budget::new(BUDGET_NAT64S, BUDGET_ENTRIES));
        let config = ServerConfig {
            handoff_port: HANDOFF_PORT,
            limits: TableLimits { entries_max: ENTRIES_MAX, client_share: CLIENT_SHARE },
            validation_rate: Arc::new(ValidationRate::new(VALIDATION_RATE as u32)),
            create_rate: 1_000_000_000,
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
            in_time: 0,
            now: Duration::ZERO,
            nat64s: BTreeMap::new(),
            proofs: Vec::new(),
            validations: Vec::new(),
            refused: None,
        }
    }

    /// One operation: what to do, who does it, and operands.
    fn step(&mut self, program: &mut Program<'_>) {
        let operation = program.octet() % 12;
        if operation == 0 {
            let units = u16::from_be_bytes([program.octet(), program.octet()]);
            self.now += 10 * Duration::from_millis(units.into());
            // The second time, what went the first time is counted out.
            return (0..2).for_each(|_| self.tend());
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
        let had_room = self.has_room(&asker.table);

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
            self.uses_before_rotation(asker, messages.first(5).unwrap_or_default());
        }
        let surely = rotated || proof_age.is_some_and(|age| age < Duration::from_secs(60));
        let maybe = rotated || proof_age.is_some_and(|age| age < Duration::from_secs(120));
        assert!(maybe || !learned, "an identity became known without a proof");
        assert!(learned || was_known || !had_room || !surely, "a proof was not accepted");
        assert!(!(learned && was_known));
        if maybe && !learned && !was_known && is_connected(asker.table) {
            self.refused = Some(self.now);
        }

        if !was_known && !learned {
            assert!(changes.is_empty() && sent.len() as u64 + drops == 1);
            self.compare();
            let sent = sent.into_iter().next()?;
            self.challenged(asker, token, &messages, payload.len(), &sent);
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

    /// The token before is used by its rotation: it is not the one that makes room.
    fn uses_before_rotation(&mut self, asker: &Asker, old: &[u8]) {
        if let Some(nat64) = self.nat64s.get_mut(&asker.table) {
            nat64.uses(asker.port, old);
        }
    }

    /// Whether a NAT64 is admitted, or would be.
    fn has_room(&self, table: &TableKey) -> bool {
        let waits = self.refused.is_some_and(|at| self.now < at + ROOM_KEPT);
        let kept = usize::from(waits && !is_connected(*table));
        self.nat64s.contains_key(table)
            || self.budget.nat64s() + kept < BUDGET_NAT64S && self.budget.entries() < BUDGET_ENTRIES
    }

    /// What the server does by itself.
    fn tend(&mut self) {
        let wall = Timestamp::from_micros(self.now.as_micros() as u64);
        let batch = Batch::at(Now { wall, monotonic: self.now });
        self.outbox.clear();
        self.server.tend(&batch, TEND_EVENTS, &mut self.live, &mut self.outbox);
        assert!(self.outbox.replies.is_empty());
        let changes = std::mem::take(&mut self.outbox.changes);
        self.given_up(changes);
    }

    /// An unknown identity was sent a validation packet.
    fn challenged(
        &mut self,
        asker: &Asker,
        token: &[u8],
        request: &Messages<'_>,
        length: usize,
        sent: &Sent,
    ) {
        count_rate(&mut self.validations, self.now, VALIDATION_RATE);
        assert_eq!(sent.to, SocketAddrV4::new(asker.table.nat64, 9));
        let octets = read_validation(&sent.payload, request, length).to_vec();
        // The asker of a raw payload has a token of its own, and cannot be asked to return it.
        if token == asker.token {
            let (asker, payload) = (asker.clone(), sent.payload.clone());
            self.proofs.push(Proof { asker, octets, at: self.now, payload });
        }
    }

    /// The payloads that were sent, and how many drops were counted.
    fn handle(&mut self, asker: &Asker, payload: &[u8]) -> (Vec<Sent>, u64) {
        let mut buffer = [&[0xc5; HEAD_ROOM][..], payload, &CANARY].concat();
        let end = HEAD_ROOM + payload.len();
        // Some came alone, others were joined to the one before. Not the longest, whose answers go
        // without their packets: where these are copies, they look like answers to reports.
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
        // As if it were a second later.
        self.in_time = self.outbox.changes.len();
        let later = Batch::at(Now { wall, monotonic: Duration::MAX });
        self.server.record_late(&later, &mut self.outbox);

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
}
