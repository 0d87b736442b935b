//! The world around the server: one queue of what happens next, by one seed, in one thread.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use nat64handoff::handoff::change::Now;
use nat64handoff::handoff::entry::{MappedPort, TableKey};
use nat64handoff::handoff::message::HANDOFF_PORT;
use nat64handoff::nat64::engine::ServerState;
use nat64handoff::nat64::gateway::{GatewayOutbox, ServerChange};

use crate::dice::Dice;
use crate::faults::Faults;
use crate::host::{Host, Setup, Tables, client_address, nat64_address, wall};
use crate::kind::{Kind, Place};
use crate::mutant::Mutant;
use crate::names::NameJudge;
use crate::nat64::Nat64Node;
use crate::net::Joining;
use crate::people::{Said, Talker};
use crate::plan::Plan;
use crate::stranger::Stranger;
use crate::trace::{Trace, Who};
use crate::verdict::{Judge, Property, Violation, shown};

/// The stream of what is no fault.
const STREAM: u64 = 1001;
/// How long it may take, when all is well again, until all is served.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Time between two checks of what must hold.
const CHECK_EVERY: Duration = Duration::from_secs(10);
/// How long a step of the server takes, at least and at most.
pub const STEP_MIN: Duration = Duration::from_micros(20);
pub const STEP_MAX: Duration = Duration::from_micros(300);
/// How long it takes until whoever starts servers tries again.
pub const START_AGAIN: Duration = Duration::from_millis(500);
/// How many peers may have names, where nothing is limited, and where much is.
const NAMES_MAX: u32 = 256;
const NAMES_FEW: u32 = 8;
/// The most that happens in a world.
const EVENTS_MAX: u64 = 200_000;
/// The wall clock at the beginning, in microseconds: 2026-01-01.
const WALL: u64 = 1_767_225_600_000_000;

/// What happens next.
#[derive(Debug)]
pub enum Event {
    /// A packet reaches the host.
    AtHost(Vec<u8>),
    /// A packet reaches a NAT64, or the NAT before it.
    AtNat64(usize, Vec<u8>),
    /// A second is over for a NAT64.
    Tick(usize),
    /// A client sends something.
    Speak(usize),
    /// The service sends something on an old connection.
    Recall(TableKey, u16),
    /// The server gets to run.
    Step,
    /// Whoever starts servers finds that it does not run.
    Start,
    Incident(Kind),
    /// The incident of that number is over.
    Over(Kind, usize),
    Check,
    /// All faults are over.
    Well,
}

struct Scheduled {
    at: Duration,
    order: u64,
    event: Event,
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Scheduled {}

/// What the service knows of a connection: who spoke last, and how.
#[derive(Debug, Clone, Copy)]
pub struct Conversation {
    pub said: Said,
    pub heard: Duration,
}

/// How it stands with the host.
#[derive(Default)]
pub struct HostState {
    /// It has no power.
    pub dark: bool,
    /// Nobody holds the sockets, so its kernel answers.
    pub closed: bool,
    /// The server gets no time until then.
    pub paused_until: Duration,
    /// The wall clock is ahead by so many microseconds.
    pub ahead: i64,
    /// When it was booted.
    pub booted: Duration,
    pub reactors: usize,
    /// When the next step is.
    pub step_at: Option<Duration>,
    /// Shards of the journal that is there.
    pub shards: usize,
    /// The power was cut since the last start, and there are several journals.
    pub may_exceed: bool,
    /// NAT64s and entries that the start after that found: see [`World::check_limits`].
    pub found: (usize, usize),
    /// Operations of the disk fail now.
    pub disk_fails: bool,
    /// Some did since the server was started.
    pub disk_failed: bool,
    /// The tables, as they were when the server was ended at once.
    pub before: Tables,
    /// Datagrams that its sockets got, since the server was started.
    pub delivered: u64,
    /// Payloads that it sent since.
    pub sent: u64,
    /// The server is killed after so many steps, once there is something to do.
    pub dies_after: Option<usize>,
    /// There was.
    pub is_dying: bool,
    pub joining: Joining,
    pub identification: u16,
}

/// See above.
pub struct World {
    pub plan: Plan,
    pub mutant: Mutant,
    pub now: Duration,
    queue: BinaryHeap<Scheduled>,
    order: u64,
    pub events: u64,
    pub dice: Dice,
    pub faults: Faults,
    pub host: Host,
    pub setup: Setup,
    pub state: HostState,
    pub locals: Vec<Ipv4Addr>,
    pub nat64s: Vec<Nat64Node>,
    pub talkers: Vec<Talker>,
    pub stranger: Stranger,
    pub conversations: BTreeMap<(TableKey, u16, bool), Conversation>,
    pub judge: Judge,
    pub names: NameJudge,
    pub trace: Trace,
    pub broken: Option<Violation>,
    outbox: GatewayOutbox,
}

impl World {
    pub fn new(plan: Plan, mutant: Option<Kind>, keeps_trace: bool) -> Self {
        let mut dice = Dice::new(plan.seed, STREAM);
        let faults = Faults::new(plan.clone());
        let locals: Vec<_> =
            (0..=dice.below(2) as u8).map(|last| Ipv4Addr::new(203, 0, 113, 5 + last)).collect();
        let has_nat = faults.has(Kind::Rebinding);
        let nat64 = |number, dice: &mut Dice| Nat64Node::new(nat64_address(number), dice, has_nat);
        let count = 1 + dice.below(3);
        let nat64s: Vec<_> = (0..count).map(|number| nat64(number, &mut dice)).collect();
        let setup = setup(&mut dice, faults.has(Kind::Limits));
        let mut state = HostState { reactors: 1 + dice.below(3), ..HostState::default() };
        state.joining.fills_holes = mutant == Some(Kind::LostFragments);
        let now = host_now(Duration::ZERO, &state);
        let mut believed = setup.clone();
        if mutant == Some(Kind::Limits) {
            // More is held than is allowed.
            (believed.nat64s_max, believed.entries_max) =
                (2 * setup.nat64s_max, 2 * setup.entries_max);
        }
        let mut host = Host::new(&believed, Dice::new(plan.seed, STREAM + 1), now);
        host.mutant = mutant;
        if mutant == Some(Kind::PowerCut) {
            host.disk.ignore_sync();
        }
        let stranger = Stranger::new(Dice::new(plan.seed, STREAM + 2));
        let trace = Trace { keeps: keeps_trace, ..Trace::default() };
        let mut world = Self {
            plan,
            mutant: Mutant::of(mutant),
            now: Duration::ZERO,
            queue: BinaryHeap::new(),
            order: 0,
            events: 0,
            dice,
            faults,
            host,
            setup,
            state,
            locals,
            nat64s,
            talkers: Vec::new(),
            stranger,
            conversations: BTreeMap::new(),
            judge: Judge::default(),
            names: NameJudge::default(),
            trace,
            broken: None,
            outbox: GatewayOutbox::default(),
        };
        world.settle();
        world
    }

    /// Clients come to live behind NAT64s, and all begins.
    fn settle(&mut self) {
        for nat64 in 0..self.nat64s.len() {
            let clients = 1 + self.dice.below(5);
            for client in 0..clients {
                let address = client_address(nat64, client);
                self.nat64s[nat64].clients.insert(address);
                let port = 40_000 + self.dice.below(3) as u16;
                let local = *self.dice.pick(&self.locals);
                let tcp = self.dice.chance(5000);
                self.talkers.push(Talker::new(nat64, address, port, local, tcp));
                let first = self.dice.time(Duration::ZERO, Duration::from_secs(5));
                self.at(first, Event::Speak(self.talkers.len() - 1));
            }
            self.at(Duration::from_secs(1), Event::Tick(nat64));
        }
        for kind in self.plan.kinds.iter().filter(|kind| kind.place() == Place::Incident) {
            if let Some(first) = self.faults.next_incident(kind, Duration::ZERO) {
                self.at(first, Event::Incident(kind));
            }
        }
        if self.faults.has(Kind::Limits) {
            self.faults.counts(Kind::Limits);
        }
        self.at(CHECK_EVERY, Event::Check);
        self.at(self.plan.faults_until, Event::Well);
        self.start_server();
    }

    pub fn at(&mut self, at: Duration, event: Event) {
        self.order += 1;
        self.queue.push(Scheduled { at, order: self.order, event });
    }

    pub fn after(&mut self, delay: Duration, event: Event) {
        self.at(self.now + delay, event);
    }

    pub fn note(&mut self, who: Who, mark: u64, what: impl FnOnce() -> String) {
        self.trace.note(self.now, who, mark, what);
    }

    /// A property does not hold: the first one counts.
    pub fn breaks(&mut self, violation: Violation) {
        if self.broken.is_none() {
            let mark = violation.property as u64;
            let line = format!("{:?} is broken: {}", violation.property, violation.what);
            self.note(Who::Network, mark, || line);
            self.broken = Some(violation);
        }
    }

    pub fn holds(&mut self, outcome: Result<(), Violation>) {
        if let Err(violation) = outcome {
            self.breaks(violation);
        }
    }

    /// Lets everything happen, until all is well and served, or something is broken.
    pub fn run(&mut self) {
        let end = self.plan.faults_until + PATIENCE;
        while self.broken.is_none() {
            let Some(next) = self.queue.pop() else { break };
            self.now = next.at;
            self.host.set_time(host_now(self.now, &self.state));
            self.events += 1;
            if self.events > EVENTS_MAX {
                let what = format!("{EVENTS_MAX} events are not enough");
                self.breaks(Violation::new(Property::WithinBudget, what));
            }
            if matches!(next.event, Event::Check) && self.now > self.plan.faults_until {
                self.check();
                let unserved = self.unserved();
                if unserved.is_none() {
                    self.judge_the_end();
                    break;
                }
                if self.now >= end {
                    self.breaks(Violation::new(
                        Property::ServedInTheEnd,
                        unserved.unwrap_or_default(),
                    ));
                }
                self.newcomers();
                self.after(CHECK_EVERY / 2, Event::Check);
                continue;
            }
            self.happens(next.event);
        }
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::AtHost(packet) => self.at_host(packet),
            Event::AtNat64(number, packet) => self.at_nat64(number, packet),
            Event::Tick(number) => {
                let now = self.now;
                self.with_gateway(number, |gateway, out| gateway.tick(now, out));
                self.after(Duration::from_secs(1), Event::Tick(number));
            }
            Event::Speak(talker) => self.speak(talker),
            Event::Recall(table, port) => self.recall(table, port),
            Event::Step => self.step_server(),
            Event::Start => self.start_server(),
            Event::Incident(kind) => {
                if let Some(next) = self.faults.next_incident(kind, self.now) {
                    self.at(next, Event::Incident(kind));
                }
                self.incident(kind);
            }
            Event::Over(kind, which) => self.over(kind, which),
            Event::Check => {
                self.check();
                self.after(CHECK_EVERY, Event::Check);
            }
            Event::Well => self.well(),
        }
    }

    /// Gives a gateway an input, and carries on what it writes.
    pub fn with_gateway(
        &mut self,
        number: usize,
        tell: impl FnOnce(&mut nat64handoff::nat64::gateway::Gateway, &mut GatewayOutbox),
    ) {
        let mut out = std::mem::take(&mut self.outbox);
        tell(&mut self.nat64s[number].gateway, &mut out);
        for packet in out.packets() {
            match packet[0] >> 4 {
                6 => self.at_client(number, packet),
                _ => self.leaves_nat64(number, packet),
            }
        }
        for index in 0..out.notices().len() {
            let change = out.notices()[index].change;
            self.note(Who::Nat64(number), change as u64, || format!("its server is {change:?}"));
            if change == ServerChange::Down && !self.nat64s[number].was_told {
                let what = format!("nat64 {number} takes its server for dead, which nobody said");
                self.breaks(Violation::new(Property::ForgeryIsNotBelieved, what));
            }
        }
        out.clear();
        self.outbox = out;
    }

    /// Who is not served, of all clients; and which NAT64 does not know that there is a server.
    fn unserved(&self) -> Option<String> {
        let since = self.plan.faults_until;
        for (number, talker) in self.talkers.iter().enumerate() {
            if talker.answered.is_none_or(|at| at < since) {
                return Some(format!("client {number} gets no answer"));
            }
            let nat64 = self.nat64s[talker.nat64].gateway.nat64();
            let state = nat64.state(talker.local);
            if state != ServerState::Alive && !self.faults.has(Kind::Limits) {
                let (nat64, local) = (talker.nat64, talker.local);
                return Some(format!("for nat64 {nat64} the server at {local} is {state:?}"));
            }
        }
        None
    }

    fn judge_the_end(&mut self) {
        let mut strangers = BTreeSet::new();
        for (table, client) in self.judge.clients() {
            let nat64 = self.nat64s.iter().find(|nat64| nat64.address == table.nat64);
            if nat64.is_some_and(|nat64| !nat64.has(client.address)) {
                strangers.insert((table.nat64, client.address));
            }
        }
        for nat64 in &self.nat64s {
            let cached = self.locals.iter().flat_map(|&local| nat64.gateway.nat64().entries(local));
            let addresses = cached.map(|entry| entry.client.address);
            let wrong = addresses.filter(|address| !nat64.clients.contains(address));
            strangers.extend(wrong.map(|address| (nat64.address, address)));
        }
        if let Some((nat64, address)) = strangers.first() {
            let what = format!("{nat64} never spoke for {address}");
            self.breaks(Violation::new(Property::ForgeryIsNotBelieved, what));
        }
        self.judge_names();
    }

    /// The log tells who was behind each port that was just used, unless a fault kept the NAT64 or
    /// the server from saying so.
    fn judge_names(&mut self) {
        let hindering = [
            Kind::Loss,
            Kind::Corruption,
            Kind::LostFragments,
            Kind::PowerCut,
            Kind::Pause,
            Kind::Limits,
            Kind::DropTable,
            Kind::DiskError,
            Kind::DiskFull,
            Kind::Ban,
        ];
        if hindering.iter().any(|&kind| self.faults.has(kind)) {
            return;
        }
        let since = self.plan.faults_until + CHECK_EVERY / 2;
        let nameless = self.conversations.iter().find_map(|(&(table, port, _), conversation)| {
            let client = self.talkers[conversation.said.talker].client;
            let placed = (table, mapped(port), client);
            let fine = conversation.heard < since || self.judge.names(&placed);
            (!fine).then(|| shown(&placed))
        });
        if let Some(placed) = nameless {
            let what = format!("it does not tell who was behind a port: {placed}");
            self.breaks(Violation::new(Property::LogIsTrue, what));
        }
    }

    /// The table of a NAT64 at a local address.
    pub fn key(&self, number: usize, local: Ipv4Addr) -> TableKey {
        TableKey { local, nat64: self.nat64s[number].address }
    }

    /// The NAT64 with that address.
    pub fn number_of(&self, address: Ipv4Addr) -> Option<usize> {
        self.nat64s.iter().position(|nat64| nat64.address == address)
    }

    pub fn control_source(&self, number: usize) -> SocketAddrV4 {
        let nat64 = &self.nat64s[number];
        SocketAddrV4::new(nat64.address, nat64.control_port())
    }
}

fn setup(dice: &mut Dice, limited: bool) -> Setup {
    let few = |dice: &mut Dice| 2 + dice.below(12);
    Setup {
        nat64s_max: if limited { 1 + dice.below(3) } else { 1000 },
        entries_max: if limited { few(dice) } else { 100_000 },
        table_max: if limited { few(dice) } else { 60_000 },
        names_max: if limited { NAMES_FEW } else { NAMES_MAX },
        always: dice.chance(5000),
        small_journal: dice.chance(5000),
        batch_max: *dice.pick(&[1, 4, 32]),
    }
}

/// The clocks of the host.
pub fn host_now(now: Duration, state: &HostState) -> Now {
    let micros = WALL + now.as_micros() as u64;
    let monotonic = now - state.booted + Duration::from_secs(100);
    Now { wall: wall(micros.saturating_add_signed(state.ahead)), monotonic }
}

/// The port of the server.
pub fn handoff(local: Ipv4Addr) -> SocketAddrV4 {
    SocketAddrV4::new(local, HANDOFF_PORT)
}

/// A port as an entry names it.
pub fn mapped(port: u16) -> MappedPort {
    MappedPort(port)
}
