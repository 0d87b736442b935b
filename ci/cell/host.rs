//! A host of the cell: the real ownership, and around it the simplest server that could be: a
//! table is a few ports and who has them.

use std::collections::BTreeMap;
use std::time::Duration;

use nat64handoff::handoff::entry::TableKey;
use nat64handoff::handoff::ownership::{
    HostId, HostProgress, HostRun, Outcome, Ownership, OwnershipLimits, PassedOn, Revision, ToDo,
    Transaction, WhoAnswers,
};

use crate::dice::Dice;
use crate::engine::{Change, Done, Engine, Entries, apply};
use crate::kind::Canary;

/// The ports of each table: fewer than there are clients, so that entries have to go.
const PORTS: u16 = 4;
/// The most requests that wait until it is known who answers them.
const KEPT_MAX: usize = 64;

#[derive(Debug, Clone, Copy)]
pub struct Request {
    pub id: u64,
    pub table: TableKey,
    pub client: u32,
    pub passed: Option<PassedOn>,
}

/// What a host does.
#[derive(Debug)]
pub enum Out {
    Send {
        id: u64,
        transaction: Transaction,
        changes: Vec<(TableKey, Change)>,
    },
    PassOn(HostId, Request),
    Answer {
        request: u64,
        table: TableKey,
        port: u16,
        client: u32,
    },
    /// The entry that was made for it went for another's in the same batch.
    Overtaken(u64),
}

/// An answer that waits for its record, of a table as it was won the last time.
#[derive(Debug, Clone, Copy)]
struct Held {
    request: u64,
    table: TableKey,
    era: u64,
    port: u16,
    client: u32,
}

struct Live {
    entries: Entries,
    era: u64,
}

#[derive(Default)]
struct Batch {
    number: u64,
    changes: Vec<(TableKey, u64, Change)>,
    held: Vec<Held>,
}

pub struct Host {
    pub run: HostRun,
    pub ownership: Ownership,
    leaves: bool,
    /// As watched.
    pub watched: BTreeMap<TableKey, Entries>,
    /// How much was watched.
    pub position: usize,
    live: BTreeMap<TableKey, Live>,
    /// What is to be recorded next.
    next: Batch,
    /// What is being recorded, with the number of the transaction.
    under_way: Option<Batch>,
    records: Vec<u64>,
    kept: Vec<Request>,
    eras: u64,
    dice: Dice,
    canary: Option<Canary>,
    /// For canaries: what was lost, and what was known when it was claimed.
    left: BTreeMap<TableKey, Entries>,
    at_claim: BTreeMap<TableKey, Entries>,
}

impl Host {
    pub fn new(run: HostRun, now: Duration, dice: Dice, canary: Option<Canary>) -> Self {
        let mut limits = OwnershipLimits::default();
        match canary {
            Some(Canary::DeletesAtOnce) => limits.keeps_all = Duration::ZERO,
            Some(Canary::NeverSilent) => limits.silent_after = Duration::MAX,
            Some(Canary::MovesAtOnce) => {
                (limits.window, limits.requests_least) = (Duration::ZERO, 1);
            }
            _ => {}
        }
        Self {
            run,
            ownership: Ownership::new(run, limits, now),
            leaves: false,
            watched: BTreeMap::new(),
            position: 0,
            live: BTreeMap::new(),
            next: Batch::default(),
            under_way: None,
            records: Vec::new(),
            kept: Vec::new(),
            eras: 0,
            dice,
            canary,
            left: BTreeMap::new(),
            at_claim: BTreeMap::new(),
        }
    }

    fn is(&self, canary: Canary) -> bool {
        self.canary == Some(canary)
    }

    pub fn leave(&mut self, now: Duration) {
        self.leaves = true;
        self.ownership.leave(now);
    }

    /// What it says to the others.
    pub fn progress(&self) -> HostProgress {
        let leaves = self.leaves && !self.is(Canary::LeavesUnsaid);
        HostProgress { watched: Revision(self.position as u64), leaves }
    }

    /// Whether it leaves, and nobody passes requests on to it any more.
    pub fn may_end(&self, now: Duration) -> bool {
        match self.is(Canary::EndsAtOnce) {
            true => self.leaves && self.ownership.owned() == 0,
            false => self.ownership.is_followed(now) && self.kept.is_empty(),
        }
    }

    pub fn ask(&mut self, now: Duration, request: Request, out: &mut Vec<Out>) {
        let mut actions = Vec::new();
        self.decide(now, request, &mut actions, out);
        self.act(now, actions, out);
    }

    fn decide(
        &mut self,
        now: Duration,
        request: Request,
        actions: &mut Vec<ToDo>,
        out: &mut Vec<Out>,
    ) {
        match self.ownership.asked(now, request.table, request.passed, actions) {
            WhoAnswers::Answer { deletes } => self.answer(request, deletes, out),
            WhoAnswers::PassOn(host, claimed) => {
                let passed = Some(PassedOn::on(request.passed, self.run.host, claimed));
                out.push(Out::PassOn(host, Request { passed, ..request }));
            }
            WhoAnswers::Wait if self.kept.len() < KEPT_MAX => self.kept.push(request),
            WhoAnswers::Wait | WhoAnswers::Silent(_) => {}
        }
    }

    fn answer(&mut self, request: Request, deletes: bool, out: &mut Vec<Out>) {
        let Request { id, table, client, .. } = request;
        let announces_before = self.is(Canary::AnnouncesBefore);
        let live = self.live.get_mut(&table).expect("what is won is there until it is lost");
        let era = live.era;
        let known = live.entries.iter().find(|&(_, &at)| at == client).map(|(&port, _)| port);
        let port = match known {
            Some(port) => port,
            None => {
                let free = (1..=PORTS).find(|port| !live.entries.contains_key(port));
                let port = match free {
                    Some(port) => port,
                    None if deletes => {
                        let ports: Vec<u16> = live.entries.keys().copied().collect();
                        let port = *self.dice.pick(&ports);
                        let gone = live.entries.remove(&port).unwrap_or_default();
                        self.next.changes.push((table, era, Change::Deleted(port, gone)));
                        port
                    }
                    None => return,
                };
                live.entries.insert(port, client);
                self.next.changes.push((table, era, Change::Created(port, client)));
                port
            }
        };
        let created = (table, era, Change::Created(port, client));
        let held = Held { request: id, table, era, port, client };
        if announces_before {
            out.push(Out::Answer { request: id, table, port, client });
        } else if self.next.changes.contains(&created) {
            self.next.held.push(held);
        } else if let Some(batch) =
            self.under_way.as_mut().filter(|at| at.changes.contains(&created))
        {
            batch.held.push(held);
        } else {
            out.push(Out::Answer { request: id, table, port, client });
        }
    }

    pub fn outcome(&mut self, now: Duration, id: u64, outcome: Outcome, out: &mut Vec<Out>) {
        let is_record = self.records.contains(&id);
        let outcome = match outcome {
            Outcome::Unknown if is_record && self.is(Canary::UnknownIsDone) => {
                Outcome::Done(Revision(0))
            }
            Outcome::Unknown if is_record && self.is(Canary::UnknownIsRefused) => {
                Outcome::Refused(Vec::new())
            }
            outcome => outcome,
        };
        if outcome != Outcome::Unknown {
            self.records.retain(|&at| at != id);
        }
        let mut actions = Vec::new();
        self.ownership.outcome(now, id, outcome, &mut actions);
        self.act(now, actions, out);
    }

    /// Watches what the engine has that it has not seen, or reads all anew where that is not kept.
    pub fn watch(&mut self, now: Duration, engine: &Engine, out: &mut Vec<Out>) {
        let mut actions = Vec::new();
        if self.position < engine.kept_from {
            self.watched.clone_from(&engine.truth);
            self.position = engine.log.len();
            let revision = Revision(self.position as u64);
            let claims = engine.claims.iter().map(|(&table, &(at, claim))| (table, at, claim));
            self.ownership.read_anew(now, revision, claims, &mut actions);
            self.act(now, actions, out);
            return;
        }
        while let Some(done) = engine.log.get(self.position) {
            self.position += 1;
            let mut claim = None;
            match done {
                Done::Claimed(table, at) => claim = Some((*table, *at)),
                Done::Recorded(changes) => {
                    let misses = self.is(Canary::MissesRecords) && self.dice.chance(500);
                    for &(table, change) in changes.iter().filter(|_| !misses) {
                        // The engine judges what does not fit.
                        let _ = apply(self.watched.entry(table).or_default(), change);
                    }
                }
            }
            let revision = Revision(self.position as u64);
            self.ownership.watched(now, revision, claim, &mut actions);
            // Won is what was watched until then.
            self.act(now, std::mem::take(&mut actions), out);
        }
        self.go_on(now, out);
    }

    pub fn tick(&mut self, now: Duration, out: &mut Vec<Out>) {
        let mut actions = Vec::new();
        let (next, under_way) = (&self.next, &self.under_way);
        let is_recorded = |table: TableKey| {
            let mut batches = [next].into_iter().chain(under_way);
            !batches.any(|batch| batch.changes.iter().any(|at| at.0 == table))
        };
        self.ownership.tick(now, is_recorded, &mut actions);
        self.act(now, actions, out);
    }

    fn act(&mut self, now: Duration, actions: Vec<ToDo>, out: &mut Vec<Out>) {
        for action in actions {
            match action {
                ToDo::Send { id, transaction } => self.send(id, transaction, out),
                ToDo::Won(table) => self.won(table),
                ToDo::Lost(table) => {
                    let lost = self.live.remove(&table);
                    self.left.extend(lost.map(|live| (table, live.entries)));
                    self.next.changes.retain(|at| at.0 != table);
                    self.next.held.retain(|held| held.table != table);
                }
                ToDo::Recorded(number) => self.recorded(now, number, out),
                ToDo::Refused(number) => {
                    let batch = self.under_way.take_if(|batch| batch.number == number);
                    let Batch { mut changes, mut held, .. } = batch.unwrap_or_default();
                    changes.retain(|at| self.is_of_now(at.0, at.1));
                    held.retain(|held| self.is_of_now(held.table, held.era));
                    changes.append(&mut self.next.changes);
                    held.append(&mut self.next.held);
                    self.next = Batch { number: 0, changes, held };
                }
            }
        }
        self.go_on(now, out);
    }

    /// Records what waits, and asks again about what was kept.
    fn go_on(&mut self, now: Duration, out: &mut Vec<Out>) {
        let mut actions = Vec::new();
        for request in std::mem::take(&mut self.kept) {
            self.decide(now, request, &mut actions, out);
        }
        self.send_all(actions, out);
        if self.under_way.is_some() || self.next.changes.is_empty() {
            return;
        }
        let mut tables: Vec<_> = self.next.changes.iter().map(|at| at.0).collect();
        tables.sort_unstable();
        tables.dedup();
        let mut actions = Vec::new();
        if let Some(number) = self.ownership.record(now, tables, &mut actions) {
            self.under_way = Some(Batch { number, ..std::mem::take(&mut self.next) });
            self.send_all(actions, out);
        }
    }

    /// There is nothing but that.
    fn send_all(&mut self, actions: Vec<ToDo>, out: &mut Vec<Out>) {
        for action in actions {
            let ToDo::Send { id, transaction } = action else { unreachable!("{action:?}") };
            self.send(id, transaction, out);
        }
    }

    fn send(&mut self, id: u64, transaction: Transaction, out: &mut Vec<Out>) {
        let mut changes = Vec::new();
        match &transaction {
            Transaction::Record { number, .. } => {
                if !self.records.contains(&id) {
                    self.records.push(id);
                }
                let batch = self.under_way.iter().find(|batch| batch.number == *number);
                let all = batch.into_iter().flat_map(|batch| &batch.changes);
                changes.extend(all.map(|&(table, _, change)| (table, change)));
            }
            Transaction::Claim { table, .. } => {
                self.at_claim.insert(*table, self.watched.get(table).cloned().unwrap_or_default());
            }
            Transaction::Confirm { .. } => {}
        }
        out.push(Out::Send { id, transaction, changes });
    }

    fn won(&mut self, table: TableKey) {
        self.eras += 1;
        let mut from = &self.watched;
        if self.is(Canary::KeepsWhatItLost) && self.left.contains_key(&table) {
            from = &self.left;
        }
        if self.is(Canary::OwnsBeforeItWatched) && self.at_claim.contains_key(&table) {
            from = &self.at_claim;
        }
        let entries = from.get(&table).cloned().unwrap_or_default();
        self.live.insert(table, Live { entries, era: self.eras });
    }

    fn is_of_now(&self, table: TableKey, era: u64) -> bool {
        self.live.get(&table).is_some_and(|live| live.era == era)
    }

    fn recorded(&mut self, now: Duration, number: u64, out: &mut Vec<Out>) {
        let batch = self.under_way.take_if(|batch| batch.number == number).unwrap_or_default();
        for Held { request, table, era, port, client } in batch.held {
            let may = self.is_of_now(table, era) && self.ownership.may_answer(now, table);
            let deleted = (table, era, Change::Deleted(port, client));
            if batch.changes.contains(&deleted) {
                out.push(Out::Overtaken(request));
            } else if may || self.is(Canary::AnswersLate) {
                out.push(Out::Answer { request, table, port, client });
            }
        }
    }
}
