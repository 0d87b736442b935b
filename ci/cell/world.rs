//! Hosts, NAT64s that ask them, the engine, and what goes wrong: by a seed, in simulated time.

#[path = "leaving.rs"]
mod leaving;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::Ipv4Addr;
use std::time::Duration;

use nat64handoff::handoff::entry::TableKey;
use nat64handoff::handoff::ownership::{HostId, HostProgress, HostRun, Outcome, Transaction};

use crate::dice::Dice;
use crate::engine::{Change, Engine, Faulty};
use crate::host::{Host, Out, Request};
use crate::kind::{Canary, Kind};
use leaving::Leavers;

/// Microseconds.
type Time = u64;

const MS: Time = 1000;
const SECOND: Time = 1000 * MS;
const TABLES: usize = 3;
const CLIENTS: usize = 7;
/// Faults end then.
const FAULTS_UNTIL: Time = 20 * SECOND;
/// Requests from then on are answered.
const WELL_FROM: Time = FAULTS_UNTIL + 7 * SECOND;
const END: Time = FAULTS_UNTIL + 12 * SECOND;
/// How many that are.
pub const SECONDS: u64 = END / SECOND;
/// Within so long.
const ANSWERED_WITHIN: Time = SECOND;
const TICK: Time = 100 * MS;
const WATCH: Time = 20 * MS;
/// A host waits so long for an answer of the engine.
const DEADLINE: Time = 250 * MS;
/// A request of each table's NAT64 comes as often, on average.
const REQUEST: Time = 60 * MS;
/// The same in a cell of another size.
const REQUEST_OF_MANY: Time = 2 * SECOND;
/// NAT64s of each local address.
const NAT64S: usize = 250;

#[derive(Debug, Clone)]
enum Event {
    Tick(HostRun),
    Heard(HostId, HostRun),
    Progressed(HostId, HostRun, HostProgress),
    Leave(HostId),
    /// It may end as soon as it is followed, and does so then at the latest.
    Leaves(HostRun, Time),
    Watch(HostRun),
    /// By a client, or by a host that passes it on.
    Asked(HostId, Request, Option<HostRun>),
    Execute(HostRun, u64, u64, Transaction, Vec<(TableKey, Change)>),
    Reply(HostRun, u64, u64, Outcome),
    Deadline(HostRun, u64, u64),
    Client(TableKey),
    Fault(Kind),
    Start(HostId),
    End(HostRun),
}

#[derive(Debug)]
struct Queued {
    at: Time,
    number: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl Queued {
    fn key(&self) -> Reverse<(Time, u64)> {
        Reverse((self.at, self.number))
    }
}

/// What a host is, whether it runs or not.
struct Place {
    host: Option<Host>,
    /// For each transaction that has no answer: which try it is.
    outstanding: BTreeMap<u64, u64>,
    /// The speed of its clock in millionths, and what it shows at the beginning.
    speed: u64,
    offset: Time,
    cut_from_engine: Time,
    cut_from_hosts: Time,
    paused: Time,
    watches_late: Time,
}

impl Place {
    /// What its clock shows.
    fn local(&self, now: Time) -> Duration {
        let since = u128::from(now) * u128::from(self.speed) / 1_000_000;
        Duration::from_micros(self.offset + since as u64)
    }
}

/// How a seed ended.
#[derive(Debug, Default)]
pub struct Verdict {
    pub broken: Option<String>,
    pub answers: u64,
    pub passed_on: u64,
    /// How often a table got another owner.
    pub moves: u64,
    /// What was asked of the engine: claims, records, confirmations.
    pub transactions: [u64; 3],
    pub trace: Vec<String>,
}

pub struct World {
    now: Time,
    events: BinaryHeap<Queued>,
    number: u64,
    places: Vec<Place>,
    engine: Engine,
    engine_down: Time,
    /// Where the requests of each table's NAT64 go.
    routes: BTreeMap<TableKey, HostId>,
    /// When each request was sent that has to be answered.
    open: BTreeMap<u64, Time>,
    requests: u64,
    tries: u64,
    runs: u64,
    kinds: BTreeSet<Kind>,
    canary: Option<Canary>,
    request_each: Time,
    dice: Dice,
    net: Dice,
    verdict: Verdict,
    leavers: Leavers,
    traces: bool,
    seed: u64,
}

impl World {
    pub fn new(seed: u64, kinds: &[Kind], canary: Option<Canary>, traces: bool) -> Self {
        let mut dice = Dice::new(seed, 0);
        let hosts = 3 + dice.below(2);
        Self::begin(seed, kinds, canary, traces, (hosts, TABLES, REQUEST), dice)
    }

    /// With so many hosts and tables, of which each is asked about less often.
    pub fn sized(seed: u64, kinds: &[Kind], hosts: usize, tables: usize) -> Self {
        let size = (hosts, tables, REQUEST_OF_MANY);
        Self::begin(seed, kinds, None, false, size, Dice::new(seed, 0))
    }

    fn begin(
        seed: u64,
        kinds: &[Kind],
        canary: Option<Canary>,
        traces: bool,
        (hosts, tables, request_each): (usize, usize, Time),
        dice: Dice,
    ) -> Self {
        let kinds: BTreeSet<_> = kinds.iter().copied().collect();
        let faulty = Faulty {
            any_claim: canary == Some(Canary::AnyClaim),
            any_record: canary == Some(Canary::AnyRecord),
            forgets: canary == Some(Canary::EngineForgets),
        };
        let engine = Engine::new(faulty, 9 * SECOND);
        let mut speeds = Dice::new(seed, 1);
        let places = (0..hosts).map(|at| {
            let drifts = kinds.contains(&Kind::Drift);
            let drift = if drifts { speeds.below(10_000) as u64 } else { 5000 };
            let slow = canary == Some(Canary::SlowClock) && at == 0;
            Place {
                host: None,
                outstanding: BTreeMap::new(),
                // Half a percent slower to half a percent faster.
                speed: if slow { 250_000 } else { 995_000 + drift },
                offset: speeds.below(1_000_000) as Time * MS,
                cut_from_engine: 0,
                cut_from_hosts: 0,
                paused: 0,
                watches_late: 0,
            }
        });
        let mut world = Self {
            now: 0,
            events: BinaryHeap::new(),
            number: 0,
            places: places.collect(),
            engine,
            engine_down: 0,
            routes: BTreeMap::new(),
            open: BTreeMap::new(),
            requests: 0,
            tries: 0,
            runs: 0,
            kinds,
            canary,
            request_each,
            dice,
            net: Dice::new(seed, 2),
            verdict: Verdict::default(),
            leavers: Leavers::default(),
            traces,
            seed,
        };
        for host in 0..hosts {
            world.push(0, Event::Start(HostId(host as u32)));
        }
        for number in 0..tables {
            let local = Ipv4Addr::new(203, 0, 113, 5 + (number / NAT64S) as u8);
            let nat64 = Ipv4Addr::new(192, 0, 2, 1 + (number % NAT64S) as u8);
            let table = TableKey { local, nat64 };
            world.routes.insert(table, HostId(world.dice.below(hosts) as u32));
            world.push(100 * MS, Event::Client(table));
        }
        for kind in world.kinds.clone() {
            let first = world.dice.below(3000) as Time * MS;
            world.push(first, Event::Fault(kind));
        }
        world
    }

    pub fn run(mut self) -> Verdict {
        while let Some(Queued { at, event, .. }) = self.events.pop() {
            if at >= END || self.verdict.broken.is_some() {
                break;
            }
            self.now = at;
            self.happens(event);
            if let Some(what) = self.engine.broken.take() {
                self.fail(what);
            }
        }
        self.judge_the_end();
        self.verdict
    }

    fn fail(&mut self, what: String) {
        self.say(|| what.clone());
        self.verdict.broken.get_or_insert(what);
    }

    fn say(&mut self, what: impl FnOnce() -> String) {
        if self.traces {
            let line = format!("{:10.6} {}", self.now as f64 / 1e6, shortened(&what()));
            self.verdict.trace.push(line);
        }
    }

    fn push(&mut self, after: Time, event: Event) {
        self.number += 1;
        self.events.push(Queued { at: self.now + after, number: self.number, event });
    }

    fn place(&mut self, host: HostId) -> &mut Place {
        &mut self.places[host.0 as usize]
    }

    fn has(&self, kind: Kind) -> bool {
        self.kinds.contains(&kind)
    }

    fn faults(&self) -> bool {
        self.now < FAULTS_UNTIL
    }

    /// Whose event it is, where it waits for a host that is stopped.
    fn of(event: &Event) -> Option<HostId> {
        match event {
            Event::Tick(run) | Event::Watch(run) | Event::Reply(run, ..) => Some(run.host),
            Event::Deadline(run, ..) | Event::End(run) => Some(run.host),
            Event::Leaves(run, _) => Some(run.host),
            Event::Heard(host, _) | Event::Asked(host, ..) | Event::Leave(host) => Some(*host),
            Event::Progressed(host, ..) => Some(*host),
            _ => None,
        }
    }

    /// Lets a run do something, if it is still there, and does what comes of it.
    fn with(
        &mut self,
        id: HostId,
        run: Option<HostRun>,
        act: impl FnOnce(&mut Host, Duration, &Engine, &mut Vec<Out>),
    ) {
        let now = self.now;
        let place = &mut self.places[id.0 as usize];
        let local = place.local(now);
        let mut out = Vec::new();
        let Some(host) = &mut place.host else { return };
        let at = host.run;
        if run.is_some_and(|run| run != at) {
            return;
        }
        act(host, local, &self.engine, &mut out);
        for out in out {
            self.does(at, out);
        }
    }

    fn does(&mut self, run: HostRun, out: Out) {
        match out {
            Out::Send { id, transaction, changes } => {
                self.say(|| format!("{run:?} sends {id}: {transaction:?} {changes:?}"));
                self.judge_gift(run, &transaction);
                self.tries += 1;
                let number = self.tries;
                self.verdict.transactions[match transaction {
                    Transaction::Claim { .. } => 0,
                    Transaction::Record { .. } => 1,
                    Transaction::Confirm { .. } => 2,
                }] += 1;
                self.place(run.host).outstanding.insert(id, number);
                self.push(DEADLINE, Event::Deadline(run, id, number));
                if self.is_lost(run.host) {
                    return;
                }
                let mut after = MS + self.net.below(2000) as Time;
                if self.has(Kind::Late) && self.faults() && self.net.chance(300) {
                    after += self.net.below(1500) as Time * MS;
                }
                self.push(after, Event::Execute(run, id, number, transaction, changes));
            }
            Out::PassOn(to, request) => {
                self.verdict.passed_on += 1;
                if !self.is_cut(run.host, to) {
                    let after = 100 + self.net.below(1000) as Time;
                    self.push(after, Event::Asked(to, request, Some(run)));
                }
            }
            Out::Overtaken(request) => drop(self.open.remove(&request)),
            Out::Answer { request, table, port, client } => {
                self.say(|| format!("{run:?} answers {request}: {table:?} {port} is {client}"));
                self.verdict.answers += 1;
                self.open.remove(&request);
                let has = self.engine.truth.get(&table).and_then(|entries| entries.get(&port));
                if has != Some(&client) {
                    let what =
                        format!("{run:?} says that {port} of {table:?} is {client}: {has:?}");
                    self.fail(what);
                }
            }
        }
    }

    /// Whether something between a host and the engine is lost.
    fn is_lost(&mut self, host: HostId) -> bool {
        self.now < self.place(host).cut_from_engine
            || (self.has(Kind::Loss) && self.faults() && self.net.chance(500))
    }

    fn is_cut(&self, one: HostId, other: HostId) -> bool {
        [one, other].iter().any(|host| self.now < self.places[host.0 as usize].cut_from_hosts)
    }

    fn happens(&mut self, event: Event) {
        if let Some(host) = Self::of(&event)
            && self.now < self.place(host).paused
        {
            let after = self.place(host).paused - self.now;
            return self.push(after, event);
        }
        match event {
            Event::Start(id) => self.start(id),
            Event::Tick(run) => self.tick(run),
            Event::Heard(host, run) => {
                self.with(host, None, |host, now, _, _| host.ownership.heard(now, run));
            }
            Event::Watch(run) => self.watch(run),
            Event::Progressed(host, run, progress) => {
                self.with(host, None, |host, now, _, _| {
                    host.ownership.progressed(now, run, progress);
                });
            }
            Event::Leave(host) => self.leave(host),
            Event::Leaves(run, until) => self.leaves(run, until),
            Event::Asked(host, request, by) => {
                self.judge_passed(by, host, &request);
                self.with(host, None, |host, now, _, out| host.ask(now, request, out));
            }
            Event::Execute(run, id, number, transaction, changes) => {
                self.execute(run, id, number, transaction, changes);
            }
            Event::Reply(run, id, number, outcome) => self.outcome(run, id, number, outcome),
            Event::Deadline(run, id, number) => self.outcome(run, id, number, Outcome::Unknown),
            Event::Client(table) => self.client(table),
            Event::Fault(kind) => self.fault(kind),
            Event::End(run) => self.end(run),
        }
    }

    fn start(&mut self, id: HostId) {
        if self.place(id).host.is_some() {
            return;
        }
        self.runs += 1;
        let number = if self.canary == Some(Canary::SameRun) { 0 } else { self.runs };
        let run = HostRun { host: id, number };
        let dice = Dice::new(self.seed, 100 + self.runs);
        let (now, canary) = (self.now, self.canary);
        let place = self.place(id);
        place.host = Some(Host::new(run, place.local(now), dice, canary));
        place.outstanding.clear();
        self.say(|| format!("{run:?} starts"));
        let after = self.net.below(100) as Time * MS;
        self.push(after, Event::Tick(run));
        self.push(MS, Event::Watch(run));
    }

    fn end(&mut self, run: HostRun) {
        if self.place(run.host).host.as_ref().is_some_and(|host| host.run == run) {
            self.say(|| format!("{run:?} ends"));
            self.place(run.host).host = None;
            let after = 50 * MS + self.net.below(3000) as Time * MS;
            self.push(after, Event::Start(run.host));
        }
    }

    fn tick(&mut self, run: HostRun) {
        if self.places[run.host.0 as usize].host.as_ref().is_none_or(|host| host.run != run) {
            return;
        }
        let (mut is_there, mut progress) = (false, None);
        self.with(run.host, Some(run), |host, now, _, out| {
            host.tick(now, out);
            is_there = host.ownership.is_there(now);
            progress = Some(host.progress());
        });
        self.push(TICK, Event::Tick(run));
        self.says_progress(run, progress);
        for to in (0..self.places.len()).map(|to| HostId(to as u32)) {
            if is_there && to != run.host && !self.is_cut(run.host, to) {
                let after = 100 + self.net.below(1000) as Time;
                self.push(after, Event::Heard(to, run));
            }
        }
    }

    fn watch(&mut self, run: HostRun) {
        let (now, down) = (self.now, self.now < self.engine_down);
        let place = self.place(run.host);
        if place.host.as_ref().is_none_or(|host| host.run != run) {
            return;
        }
        if !down && now >= place.cut_from_engine && now >= place.watches_late {
            self.with(run.host, Some(run), |host, now, engine, out| host.watch(now, engine, out));
        }
        let after = WATCH / 2 + self.net.below(WATCH as usize) as Time;
        self.push(after, Event::Watch(run));
    }

    fn execute(
        &mut self,
        run: HostRun,
        id: u64,
        number: u64,
        transaction: Transaction,
        changes: Vec<(TableKey, Change)>,
    ) {
        if self.now < self.engine_down {
            // It comes to nothing, or waits.
            if self.net.chance(5000) {
                let after = self.engine_down - self.now + self.net.below(20_000) as Time;
                self.push(after, Event::Execute(run, id, number, transaction, changes));
            }
            return;
        }
        let claims = self.engine.claims.len();
        let before = self.engine.log.len();
        let outcome = self.engine.execute(self.now, run, &transaction, &changes);
        self.say(|| format!("the engine does {id} of {run:?}: {outcome:?}"));
        let is_claim = matches!(transaction, Transaction::Claim { .. });
        if is_claim && self.engine.log.len() > before && self.engine.claims.len() == claims {
            self.verdict.moves += 1;
        }
        if !self.is_lost(run.host) {
            let after = MS + self.net.below(2000) as Time;
            self.push(after, Event::Reply(run, id, number, outcome));
        }
    }

    /// One for each try: what comes later is not heard.
    fn outcome(&mut self, run: HostRun, id: u64, number: u64, outcome: Outcome) {
        let place = self.place(run.host);
        let is_of = place.host.as_ref().is_some_and(|host| host.run == run);
        if is_of && place.outstanding.get(&id) == Some(&number) {
            place.outstanding.remove(&id);
            self.with(run.host, Some(run), |host, now, _, out| host.outcome(now, id, outcome, out));
        }
    }

    fn client(&mut self, table: TableKey) {
        let after = self.request_each / 2 + self.net.below(self.request_each as usize) as Time;
        self.push(after, Event::Client(table));
        let hosts = self.places.len();
        if self.has(Kind::Flapping) && self.faults() || self.net.chance(50) {
            let to = HostId(self.net.below(hosts) as u32);
            self.routes.insert(table, to);
        }
        self.requests += 1;
        let client = self.net.below(CLIENTS) as u32;
        let request = Request { id: self.requests, table, client, passed: None };
        if self.now >= WELL_FROM && self.now + ANSWERED_WITHIN < END {
            self.open.insert(request.id, self.now);
        }
        let to = self.routes[&table];
        self.push(100, Event::Asked(to, request, None));
    }

    fn fault(&mut self, kind: Kind) {
        if !self.faults() {
            return;
        }
        let (now, left) = (self.now, FAULTS_UNTIL - self.now);
        let hosts = self.places.len();
        let id = HostId(self.dice.below(hosts) as u32);
        let mut lasting = |most: usize| (self.dice.below(most) as Time * MS).min(left);
        match kind {
            Kind::EngineDown => {
                self.engine_down = now + lasting(3000);
                if self.engine.faulty.forgets {
                    self.engine.forget();
                }
            }
            Kind::CutFromEngine => self.places[id.0 as usize].cut_from_engine = now + lasting(6000),
            Kind::CutFromHosts => {
                let until = now + lasting(6000);
                let both = self.dice.chance(5000);
                let place = self.place(id);
                place.cut_from_hosts = until;
                if both {
                    place.cut_from_engine = until;
                }
            }
            Kind::Pause => self.places[id.0 as usize].paused = now + lasting(6000),
            Kind::Kill => {
                if let Some(run) = self.place(id).host.as_ref().map(|host| host.run) {
                    self.end(run);
                }
            }
            Kind::WatchLag => self.places[id.0 as usize].watches_late = now + lasting(3000),
            Kind::Compaction => self.engine.kept_from = self.engine.log.len(),
            Kind::Leaving => self.some_leave(id),
            Kind::Loss | Kind::Late | Kind::Flapping | Kind::Drift => return,
        }
        self.say(|| format!("{kind:?} {id:?}"));
        let next = 500 * MS + self.dice.below(6000) as Time * MS;
        self.push(next, Event::Fault(kind));
    }

    fn judge_the_end(&mut self) {
        if self.verdict.broken.is_some() {
            return;
        }
        let late = self.open.iter().find(|(_, at)| **at + ANSWERED_WITHIN < END);
        if let Some((request, &at)) = late {
            return self.fail(format!("request {request} of {:.3} has no answer", at as f64 / 1e6));
        }
        let is_there = |run: HostRun| {
            let place = &self.places[run.host.0 as usize];
            place.host.as_ref().is_some_and(|host| host.run == run)
        };
        let claims = self.engine.claims.iter();
        let lost = claims.filter(|(_, (_, claim))| !is_there(claim.owner));
        let lost: Vec<_> = lost.map(|(table, _)| *table).collect();
        if !lost.is_empty() {
            self.fail(format!("at the end nobody has {lost:?}"));
        }
    }
}

/// Hosts and tables as a reader wants them in a trace.
fn shortened(line: &str) -> String {
    let line = line.replace("HostRun { host: HostId(", "host ").replace("), number: ", " run ");
    line.replace(" }", "").replace("TableKey { local: 203.0.113.5, nat64: 192.0.2.", "table ")
}
