//! A month under attack (PROTOCOL.md section 5): somebody with 65,536 proven addresses, of which
//! 32,768 are whole networks and have live connections, and one is proven at 1,000 local addresses,
//! against 500 honest NAT64s, of which one leaves and one comes each hour. He comes first, never
//! stops, and uses all tables that he gets. Twice the server is started again.

use super::admission::Connected;
use super::*;
use std::collections::BTreeMap;

const SHARDS: usize = 4;
const NAT64S_MAX: usize = 1000;
const HONEST: usize = 500;
const HOURS: usize = 30 * 24;
const STEP: Duration = Duration::from_millis(250);
/// What he proves in a step: 200 addresses a second.
const ATTACKS: usize = 50;
const MINUTE: Duration = Duration::from_secs(60);

struct Month {
    shards: Vec<Server>,
    budget: Arc<Budget>,
    connected: Connected,
    outbox: Outbox,
    /// What a journal would have, but for uses.
    journal: BTreeMap<TableKey, Vec<Change>>,
    /// Since the start of the server, and of the month.
    time: Duration,
    started: u8,
    noise: Random,
    honest: Vec<Ipv4Addr>,
    /// His tables that were admitted.
    his: Vec<TableKey>,
    attacks: u32,
    forgotten: usize,
    waits: Vec<Duration>,
}

fn shard_of(nat64: Ipv4Addr) -> usize {
    (nat64.to_bits().wrapping_mul(0x9e37_79b1) >> 16) as usize % SHARDS
}

fn at_local(nat64: Ipv4Addr) -> TableKey {
    TableKey { local: LOCAL, nat64 }
}

fn servers(start: u8, budget: &Arc<Budget>) -> Vec<Server> {
    let validation_rate = Arc::new(ValidationRate::new(10_000));
    let server = |number: usize| {
        let config = ServerConfig {
            handoff_port: 64064,
            limits: TableLimits::default(),
            validation_rate: Arc::clone(&validation_rate),
            create_rate: 2000,
            budget: Arc::clone(budget),
            access: Arc::default(),
        };
        let seed = [start * SHARDS as u8 + number as u8; SEED_LENGTH];
        Server::new(config, seed, Duration::ZERO, Arc::new(Stats::default()))
    };
    (0..SHARDS).map(server).collect()
}

impl Month {
    fn new() -> Self {
        let budget = Arc::new(Budget::new(NAT64S_MAX, 1_000_000));
        let connected = Connected::default();
        // His networks are connected for all the month, and so is the address that he has alone.
        let networks =
            (0..32_768).map(|number| at_local(Ipv4Addr::from_bits(0xc612_0000 + number)));
        connected.0.lock().unwrap().extend(networks.chain((0..1000).map(alone)));
        Self {
            shards: servers(0, &budget),
            budget,
            connected,
            outbox: Outbox::default(),
            journal: BTreeMap::new(),
            time: Duration::from_secs(1),
            started: 0,
            noise: Random::new([9; SEED_LENGTH]),
            honest: Vec::new(),
            his: Vec::new(),
            attacks: 0,
            forgotten: 0,
            waits: Vec::new(),
        }
    }

    fn batch(&self) -> Batch {
        Batch::at(Now { wall: Default::default(), monotonic: self.time })
    }

    /// What the server sends for a payload.
    fn send(&mut self, table: TableKey, payload: &[u8]) -> Vec<(SocketAddrV4, Vec<u8>)> {
        let mut buffer = [&[0; HEAD_ROOM], payload].concat();
        let payload = HEAD_ROOM..buffer.len();
        let datagram =
            Datagram { index: 0, table, port: CONTROL, buffer: &mut buffer, payload, room: 0 };
        self.outbox.clear();
        let (batch, server) = (self.batch(), &mut self.shards[shard_of(table.nat64)]);
        server.handle(&batch, &mut self.connected, datagram, &mut self.outbox);
        let octets = |reply: &Reply| match reply.body.clone() {
            Body::InPlace(range) => buffer[range].to_vec(),
            Body::Copied(range) => self.outbox.copies()[range].to_vec(),
        };
        let sent = self.outbox.replies.iter().map(|reply| (reply.to, octets(reply))).collect();
        self.record();
        sent
    }

    /// Keeps what changed, and sees that no honest NAT64 with a live connection loses anything.
    fn record(&mut self) {
        let connected = self.connected.0.lock().unwrap();
        for (table, change) in self.outbox.changes.drain(..) {
            if matches!(change, Change::Deleted { .. } | Change::Forgotten) {
                let is_honest = self.honest.contains(&table.nat64);
                assert!(!is_honest || !connected.contains(&table), "{table:?} lost {change:?}");
            }
            match change {
                Change::Used { .. } => {}
                Change::Forgotten => {
                    self.forgotten += 1;
                    self.journal.remove(&table);
                }
                change => self.journal.entry(table).or_default().push(change),
            }
        }
        assert!(self.budget.nat64s() <= NAT64S_MAX);
    }

    /// A NAT64 asks for a client, and proves its address where it has to. Returns whether it was
    /// answered.
    fn asks(&mut self, table: TableKey) -> bool {
        let question = client_packet(&udp6(CLIENT, 1));
        for _ in 0..2 {
            let sent = self.send(table, &question);
            match sent.first() {
                Some((to, _)) if to.port() == CONTROL => return true,
                Some((_, validation)) => {
                    self.send(table, &service_packet(&returned(table.nat64, validation)));
                }
                None => {}
            }
        }
        false
    }

    /// He proves some of his addresses, of each kind, and uses one of his tables.
    fn attack(&mut self) {
        for _ in 0..ATTACKS {
            let number = self.noise.below(32_768);
            self.attacks += 1;
            let table = match self.attacks % 3 {
                0 => at_local(Ipv4Addr::from_bits(0xc612_0000 + number)),
                // Everywhere.
                1 => at_local(Ipv4Addr::from_bits((number + 1).wrapping_mul(0x9e37_79b1))),
                _ => alone(number % 1000),
            };
            if self.asks(table) && !self.his.contains(&table) {
                self.his.push(table);
            }
        }
    }

    /// He uses all his tables.
    fn uses(&mut self) {
        for table in std::mem::take(&mut self.his) {
            let server = &self.shards[shard_of(table.nat64)];
            if server.is_known(table, ControlPort(CONTROL), TOKEN) && self.asks(table) {
                self.his.push(table);
            }
        }
    }

    fn step(&mut self) {
        self.time += STEP;
        self.attack();
        for number in 0..SHARDS {
            let batch = self.batch();
            let server = &mut self.shards[number];
            self.outbox.clear();
            server.tend(&batch, TEND_EVENTS, &mut self.connected, &mut self.outbox);
            self.record();
        }
    }

    /// An honest NAT64 has a client, whose connection it makes without us, and asks once a second.
    fn comes(&mut self, nat64: Ipv4Addr) {
        let (table, begin) = (at_local(nat64), self.time);
        self.honest.push(nat64);
        let mut steps = 0;
        while steps % 4 != 0 || !self.asks(table) {
            assert!(self.time < begin + MINUTE, "{nat64} was not admitted within a minute");
            self.step();
            steps += 1;
            // Somebody has looked meanwhile.
            if steps == 4 {
                self.connected.0.lock().unwrap().insert(table);
            }
        }
        self.connected.0.lock().unwrap().insert(table);
        self.waits.push(self.time - begin);
    }

    fn leaves(&mut self) -> Ipv4Addr {
        let number = self.noise.below(self.honest.len() as u32) as usize;
        let nat64 = self.honest.swap_remove(number);
        self.connected.0.lock().unwrap().remove(&at_local(nat64));
        nat64
    }

    /// The server is started again. His tables, and those of others, come back.
    fn start_again(&mut self) {
        self.started += 1;
        self.budget = Arc::new(Budget::new(NAT64S_MAX, 1_000_000));
        self.shards = servers(self.started, &self.budget);
        self.time = Duration::from_secs(1);
        for (table, changes) in &self.journal {
            let server = &mut self.shards[shard_of(table.nat64)];
            changes.iter().for_each(|change| server.replay(*table, change));
        }
        assert_eq!(self.budget.nat64s(), self.journal.len());
    }
}

/// His one address, towards a local one of many.
fn alone(number: u32) -> TableKey {
    let local = Ipv4Addr::from_bits(0x0a00_0000 + number);
    TableKey { local, nat64: Ipv4Addr::new(198, 51, 100, 66) }
}

/// An honest NAT64: some share a network, most do not.
fn honest(number: usize) -> Ipv4Addr {
    let [.., high, low] = (number as u32 / 3).to_be_bytes();
    Ipv4Addr::new(100 + high, low, 7, (number % 3) as u8)
}

#[test]
fn section_5_a_month_under_attack() {
    let mut month = Month::new();
    // He is first, and has all that there is.
    for _ in 0..400 {
        month.step();
    }
    let his = month.budget.nat64s();
    assert!(his > NAT64S_MAX * 9 / 10, "{his}");
    for number in 0..HONEST {
        month.comes(honest(number));
    }
    let mut left = Vec::new();
    for hour in 0..HOURS {
        month.time += 60 * MINUTE;
        month.uses();
        if hour % 240 == 239 {
            month.start_again();
        }
        left.push(month.leaves());
        // Those that come are new, or were here before.
        let nat64 = match hour % 2 {
            0 => honest(HONEST + hour),
            _ => left.swap_remove(month.noise.below(left.len() as u32) as usize),
        };
        month.comes(nat64);
    }
    let Month { shards, budget, connected, honest, waits, forgotten, .. } = &month;
    for &nat64 in honest {
        let (server, table) = (&shards[shard_of(nat64)], at_local(nat64));
        assert!(server.is_known(table, ControlPort(CONTROL), TOKEN), "{nat64} was lost");
        assert!(connected.0.lock().unwrap().contains(&table));
        assert_eq!(server.entries().filter(|(of, _)| *of == table).count(), 1);
    }
    assert!(shards.iter().all(|server| server.contradiction().is_none()));
    let known: usize = shards.iter().map(Server::nat64s).sum();
    assert!(known <= budget.nat64s() && budget.nat64s() <= NAT64S_MAX);
    let (longest, all) = (waits.iter().max().unwrap(), waits.len() as u32);
    let mean = waits.iter().sum::<Duration>() / all;
    eprintln!(
        "{all} newcomers admitted after {mean:?}, {longest:?} at most; {forgotten} tables of {} \
         attempts forgotten",
        month.attacks
    );
    assert!(*longest <= MINUTE && *forgotten > 500);
}
