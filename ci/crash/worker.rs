//! One NAT64 that keeps the server busy and remembers all that it was told.

use crate::dice::Dice;
use crate::judge::client::{Client, Entry, PUBLIC, SERVICE};
use crate::judge::nat64::Nat64;
use crate::judge::packet::{self, Ipv4};
use crate::judge::wire::{self, Reply, payload};
use crate::judge::{PATIENCE, SHORT};
use crate::record::{Key, key};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How many token pairs the server knows for each NAT64 (PROTOCOL section 5).
const TOKENS: usize = 4;
const WINDOW: usize = 16;
/// The first network of clients that come through several NAT64s.
const COMMON: u32 = 0xfff << 20;
/// Fewer than a NAT64 may have known at once: how fast they come depends on the machine.
const ROTATIONS_MAX: u32 = 800;
/// After this long without an answer (to requests that were sent to a dead server), more are sent.
const STALL: Duration = Duration::from_millis(5);

pub struct Worker {
    pub nat64: Nat64,
    /// Whether the server has answered as to a known identity.
    pub is_known: bool,
    /// Tokens that are known, oldest first; the last one is in use.
    pub tokens: VecDeque<Vec<u8>>,
    /// A token whose rotation was sent and not answered.
    pub maybe: Option<Vec<u8>>,
    /// All that was announced, in order, and how much of it has been checked.
    pub told: Vec<Entry>,
    pub checked: usize,
    /// What was reported against the table, as far as this end knows, and whether the answer said
    /// so.
    pub conflicts: HashMap<Key, Answer>,
    pub answered: usize,
    pending: Pending,
    number: u32,
    clients: u32,
    rotations: u32,
    serial: u64,
    dice: Dice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    None,
    Agrees,
    Differs,
}

#[derive(Default)]
struct Pending {
    /// By the packet that the answer brings back: what the answer must be, but for the port.
    packets: HashMap<Vec<u8>, Expected>,
    /// Reports, by client: which entry.
    reports: HashMap<Client, Entry>,
    /// Multi reports.
    groups: Vec<Vec<Entry>>,
    /// What is left of a multi report after its first answer: more answers may come or not.
    leftover: HashMap<Client, Entry>,
    /// Clients about which a request is under way.
    busy: HashSet<Client>,
}

enum Expected {
    Mapping(Client),
    /// To a port that may be mapped.
    Service(u16),
    /// To a port that cannot be mapped, from an identity with this token.
    Returned(Vec<u8>),
}

impl Worker {
    pub fn new(nat64: Nat64, number: u32, dice: Dice) -> Worker {
        Worker {
            tokens: VecDeque::from([nat64.token.clone()]),
            nat64,
            is_known: false,
            maybe: None,
            told: Vec::new(),
            checked: 0,
            conflicts: HashMap::new(),
            answered: 0,
            pending: Pending::default(),
            number,
            clients: 0,
            rotations: 0,
            serial: 0,
            dice,
        }
    }

    pub fn introduce(&mut self) {
        self.nat64.introduce();
        self.is_known = true;
    }

    fn outstanding(&self) -> usize {
        self.pending.packets.len() + self.pending.reports.len() + self.pending.groups.len()
    }

    /// Keeps requests under way until `stop`, of `news_max` new clients at most.
    pub fn load(&mut self, stop: &AtomicBool, news_max: u32) {
        let (clients_max, mut window) = (self.clients + news_max, WINDOW);
        // A server that is slow and not dead is not flooded: each time more is waited for.
        let mut stalls = 1;
        while !stop.load(Ordering::Relaxed) {
            if !self.is_known {
                self.knock();
                continue;
            }
            while self.outstanding() < window {
                self.request(clients_max);
            }
            match self.receive(STALL * stalls) {
                Some(octets) => {
                    self.take(&octets);
                    stalls = 1;
                }
                None => (window, stalls) = (window + 4, stalls + 1),
            }
        }
    }

    /// Waits until all that is under way is answered, and fails if something is not.
    pub fn settle(&mut self) {
        let start = Instant::now();
        while self.outstanding() > 0 {
            match self.receive(Duration::from_millis(100)) {
                Some(octets) => self.take(&octets),
                None if start.elapsed() < PATIENCE => {}
                None => panic!(
                    "{}: not answered: {} packets, reports {:?}, multi reports {:?}",
                    self.nat64.address,
                    self.pending.packets.len(),
                    self.pending.reports,
                    self.pending.groups
                ),
            }
        }
        self.drain();
        self.pending = Pending::default();
    }

    /// Asks, again where that is lost, until an answer comes: all that was asked before has been
    /// read. Twice, as an answer that announces a change may be later than one that does not.
    pub fn catch_up(&mut self) {
        for _ in 0..2 {
            let start = Instant::now();
            loop {
                let packet = self.send_service(7);
                while self.pending.packets.contains_key(&packet)
                    && let Some(octets) = self.receive(SHORT)
                {
                    self.take(&octets);
                }
                if !self.pending.packets.contains_key(&packet) {
                    break;
                }
                assert!(start.elapsed() < PATIENCE, "{} is not answered", self.nat64.address);
            }
        }
    }

    /// Takes what has arrived; what else is under way will not be answered any more.
    pub fn give_up(&mut self) {
        self.drain();
        self.pending = Pending::default();
    }

    pub fn drain(&mut self) {
        self.nat64.control.set_nonblocking(true).unwrap();
        while let Some(octets) = self.receive(STALL) {
            self.take(&octets);
        }
        self.nat64.control.set_nonblocking(false).unwrap();
    }

    fn receive(&self, patience: Duration) -> Option<Vec<u8>> {
        self.nat64.control.set_read_timeout(Some(patience)).unwrap();
        let mut octets = vec![0; 2048];
        match self.nat64.control.recv(&mut octets) {
            Ok(length) => {
                octets.truncate(length);
                Some(octets)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("receive: {error}"),
        }
    }

    /// A step towards being known: asks, and proves if there is something to prove.
    fn knock(&mut self) {
        let packet = self.nat64.unmapped_packet();
        let expected = Expected::Returned(self.nat64.token.clone());
        let aged = packet::with_ttl(&packet, packet::TTL - 1);
        self.pending.packets.insert(aged, expected);
        self.nat64.send(&self.nat64.service_request(&packet));
        if let Some(challenge) = self.nat64.try_challenge(STALL) {
            let packet = self.nat64.as_packet(&challenge);
            let expected = Expected::Returned(self.nat64.token.clone());
            self.pending.packets.insert(packet::with_ttl(&packet, 1), expected);
            self.nat64.send(&self.nat64.service_request(&packet));
        }
        if let Some(octets) = self.receive(STALL) {
            self.take(&octets);
        }
    }

    fn mark(&mut self) -> Vec<u8> {
        self.serial += 1;
        [b"mark", &self.serial.to_be_bytes()[..]].concat()
    }

    fn new_client(&mut self) -> Client {
        self.clients += 1;
        // Some come through several NAT64s.
        if self.clients.is_multiple_of(5) {
            let port = 1024 + self.clients % 60_000;
            return Client::within(COMMON + self.clients / 5 % 8, 1).port(port as u16);
        }
        // Mostly /64s of their own, some with company.
        let net = (self.number << 20) + self.clients - self.clients % 3;
        let client = Client::within(net, u64::from(self.clients % 3) + 1);
        client.port(1024 + self.dice.below(60_000) as u16)
    }

    /// One that was told, preferably of late, and about which nothing is under way.
    fn old_entry(&mut self) -> Option<Entry> {
        let count = self.told.len();
        let from = if self.dice.percent(70) { count.saturating_sub(200) } else { 0 };
        let entry = *self.told.get(from + self.dice.below((count - from).max(1)))?;
        (!self.pending.busy.contains(&entry.client)).then_some(entry)
    }

    fn random_port(&mut self) -> u16 {
        let number = self.dice.next() as u16;
        self.nat64.eligible_port(number)
    }

    fn request(&mut self, clients_max: u32) {
        let choice = self.dice.below(100);
        let choice = if self.clients >= clients_max { 60 + choice * 2 / 5 } else { choice };
        let old = self.old_entry();
        match (choice, old) {
            (0..30, _) => {
                let (client, hinted) = (self.new_client(), self.dice.percent(33));
                let hint = hinted.then(|| self.random_port());
                self.send_client(client, hint);
            }
            (30..42, _) => {
                let entry = self.new_client().at(self.random_port());
                self.send_report(entry);
            }
            (42..50, Some(old)) => {
                // The client is new, the port is taken.
                let entry = self.new_client().at(old.mapped);
                self.send_report(entry);
            }
            (50..60, Some(old)) => {
                let mut group: Vec<_> = (0..2 + self.dice.below(4))
                    .map(|_| self.new_client().at(self.random_port()))
                    .collect();
                if self.dice.percent(50) {
                    let place = self.dice.below(group.len());
                    group[place].mapped = old.mapped;
                }
                self.send_group(group);
            }
            (60..70, Some(old)) => {
                // The client has another port.
                let entry = old.client.at(self.random_port());
                self.send_report(entry);
            }
            (70..72, Some(old)) => self.send_report(old),
            (72..74, _) if self.rotations < ROTATIONS_MAX => self.send_rotation(),
            (72..85, Some(old)) => drop(self.send_service(old.mapped)),
            (85.., Some(old)) => self.send_client(old.client, None),
            (_, None) => drop(self.send_service(7)),
        }
    }

    fn send_client(&mut self, client: Client, hint: Option<u16>) {
        let mark = self.mark();
        let packet =
            if self.serial.is_multiple_of(2) { client.udp(&mark) } else { client.tcp(&mark) };
        let mut parts = self.nat64.token_message();
        parts.extend(wire::authenticator(&client.authenticator()));
        parts.extend(hint.map(wire::hint).unwrap_or_default());
        parts.extend(&packet);
        self.pending.packets.insert(packet, Expected::Mapping(client));
        self.pending.busy.insert(client);
        self.nat64.send(&parts);
    }

    /// The packet.
    fn send_service(&mut self, mapped: u16) -> Vec<u8> {
        let mark = self.mark();
        let packet = Ipv4::udp((SERVICE, 443), (PUBLIC, mapped), &mark).octets();
        self.pending.packets.insert(packet.clone(), Expected::Service(mapped));
        self.nat64.send(&self.nat64.service_request(&packet));
        packet
    }

    fn send_report(&mut self, entry: Entry) {
        // Each only once, so that each may stand in the log once as a conflict.
        let key = key(entry.mapped, entry.client);
        if self.conflicts.contains_key(&key) {
            return self.send_client(entry.client, None);
        }
        self.conflicts.insert(key, Answer::None);
        self.pending.reports.insert(entry.client, entry);
        self.pending.busy.insert(entry.client);
        let authenticator = entry.client.authenticator();
        self.nat64.send(&self.nat64.report_request(&authenticator, entry));
    }

    fn send_group(&mut self, group: Vec<Entry>) {
        for entry in &group {
            self.conflicts.insert(key(entry.mapped, entry.client), Answer::None);
            self.pending.busy.insert(entry.client);
        }
        self.nat64.send(&self.nat64.multi_request(&group));
        self.pending.groups.push(group);
    }

    /// Another token, shown with the one in use; repeated until it is answered.
    pub fn send_rotation(&mut self) {
        let fresh = match self.maybe.clone() {
            Some(token) => token,
            None => self.dice.next().to_be_bytes().to_vec(),
        };
        self.rotations += 1;
        self.maybe = Some(fresh.clone());
        let mark = self.mark();
        let packet = Ipv4::udp((SERVICE, 443), (PUBLIC, 7), &mark).octets();
        let request =
            payload(&[&wire::token(&fresh), &wire::rotation(self.tokens.back().unwrap()), &packet]);
        let aged = packet::with_ttl(&packet, packet::TTL - 1);
        self.pending.packets.insert(aged, Expected::Returned(fresh));
        self.nat64.send(&request);
    }

    /// The tokens that must be known: a rotation that may have happened may have cost the oldest.
    pub fn surely_known(&self) -> Vec<Vec<u8>> {
        let sure = TOKENS - usize::from(self.maybe.is_some());
        self.tokens.iter().rev().take(sure).rev().cloned().collect()
    }

    fn tell(&mut self, entry: Entry) {
        assert!(self.nat64.is_eligible(entry.mapped), "port {} is not eligible", entry.mapped);
        self.told.push(entry);
    }

    fn take(&mut self, octets: &[u8]) {
        let address = self.nat64.address;
        let reply = Reply::parse(octets).unwrap_or_else(|error| panic!("{error}: {octets:02x?}"));
        self.answered += 1;
        let Some(packet) = &reply.packet else {
            return self.take_report(&reply);
        };
        // Returned service packets come with their TTL decreased.
        let unaged = match packet[0] >> 4 {
            4 if reply.token.is_some() => packet::with_ttl(packet, packet::TTL),
            _ => packet.clone(),
        };
        let expected = self.pending.packets.remove(packet);
        let expected = expected.or_else(|| self.pending.packets.remove(&unaged));
        match expected {
            Some(Expected::Mapping(client)) => {
                self.pending.busy.remove(&client);
                let mapped = reply.entry.unwrap_or_else(|| panic!("no entry in {reply:?}")).mapped;
                let entry = client.at(mapped);
                assert_eq!(reply, Reply::mapping(&client.authenticator(), entry, packet));
                self.tell(entry);
            }
            Some(Expected::Service(mapped)) => match reply.entry {
                Some(entry) => {
                    assert_eq!(entry.mapped, mapped);
                    let authenticator = entry.client.authenticator();
                    assert_eq!(reply, Reply::mapping(&authenticator, entry, packet));
                    self.tell(entry);
                }
                None => {
                    let aged = packet::with_ttl(packet, packet::TTL - 1);
                    assert_eq!(reply, Reply::returned(self.nat64_token(&reply), &aged));
                }
            },
            Some(Expected::Returned(token)) => {
                assert_eq!(reply, Reply::returned(&token, packet));
                if !self.is_known {
                    self.is_known = true;
                    self.nat64.forget_challenges();
                }
                if self.maybe.as_ref() == Some(&token) {
                    self.maybe = None;
                    self.tokens.push_back(token.clone());
                    self.nat64.token = token;
                }
            }
            None => panic!("{address}: an answer to nothing that is under way: {reply:?}"),
        }
    }

    /// Requests that were sent before a rotation come back with the token of then.
    fn nat64_token<'a>(&'a self, reply: &'a Reply) -> &'a [u8] {
        let token = reply.token.as_ref().expect("a token");
        assert!(self.tokens.contains(token), "a token that was never used: {token:02x?}");
        token
    }

    fn take_report(&mut self, reply: &Reply) {
        let entry = reply.entry.expect("an entry, where there is no packet");
        assert_eq!(*reply, Reply::report(&entry.client.authenticator(), entry));
        if let Some(reported) = self.pending.reports.remove(&entry.client) {
            self.pending.busy.remove(&entry.client);
            self.answer(reported, entry);
            return self.tell(entry);
        }
        if let Some(reported) = self.pending.leftover.remove(&entry.client) {
            assert_ne!(reported, entry, "a second answer to a multi report, and it agrees");
            self.answer(reported, entry);
            return self.tell(entry);
        }
        let within = |group: &Vec<Entry>| group.iter().any(|other| other.client == entry.client);
        let Some(place) = self.pending.groups.iter().position(within) else {
            panic!("{}: an answer to no report under way: {entry:?}", self.nat64.address);
        };
        let group = self.pending.groups.remove(place);
        let reported = *group.iter().find(|other| other.client == entry.client).unwrap();
        if reported == entry {
            // None differs: this one answer speaks for all.
            assert_eq!(group[0], entry, "an answer that agrees must name the first");
            for entry in group {
                self.pending.busy.remove(&entry.client);
                self.answer(entry, entry);
                self.tell(entry);
            }
        } else {
            // Others of the group may follow; they cannot be told from those that agree.
            self.answer(reported, entry);
            self.tell(entry);
            for other in group.into_iter().filter(|other| other.client != entry.client) {
                self.pending.leftover.insert(other.client, other);
            }
        }
    }

    fn answer(&mut self, reported: Entry, entry: Entry) {
        let answer = if reported == entry { Answer::Agrees } else { Answer::Differs };
        self.conflicts.insert(key(reported.mapped, reported.client), answer);
    }

    /// A summary of what was sent, for failures.
    pub fn tally(&self) -> BTreeMap<&'static str, usize> {
        let differs = self.conflicts.values().filter(|answer| **answer == Answer::Differs);
        BTreeMap::from([
            ("answers", self.answered),
            ("announced", self.told.len()),
            ("conflicts", differs.count()),
            ("tokens", self.tokens.len()),
        ])
    }
}
