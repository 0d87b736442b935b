//! A model of the engine that the hosts of a cell share: what is done, is done at one moment, in
//! one order. It also judges: what is recorded must fit what was recorded before.

use std::collections::{BTreeMap, BTreeSet};

use nat64handoff::handoff::entry::TableKey;
use nat64handoff::handoff::ownership::{
    Cause, Claim, HostRun, Outcome, Owned, Revision, Transaction,
};

/// What a change does to the entries of a table, here a port and the number of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Created(u16, u32),
    Deleted(u16, u32),
}

/// The entries of a table: who has each port.
pub type Entries = BTreeMap<u16, u32>;

/// Does what a change says, or says why that does not fit.
pub fn apply(entries: &mut Entries, change: Change) -> Result<(), String> {
    match change {
        Change::Created(port, client) => {
            if let Some((other, _)) = entries.iter().find(|&(_, &at)| at == client) {
                return Err(format!("client {client} gets port {port}, and has {other}"));
            }
            match entries.insert(port, client) {
                None => Ok(()),
                Some(other) => Err(format!("client {client} gets port {port}, which {other} has")),
            }
        }
        Change::Deleted(port, client) => match entries.remove(&port) {
            Some(had) if had == client => Ok(()),
            had => Err(format!("client {client} loses port {port}, which {had:?} has")),
        },
    }
}

/// One thing that was done: its revision is its place.
#[derive(Debug, Clone)]
pub enum Done {
    Claimed(TableKey, Claim),
    Recorded(Vec<(TableKey, Change)>),
}

/// What the engine does wrong, in a canary.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faulty {
    /// Claims have no condition.
    pub any_claim: bool,
    /// Records have none.
    pub any_record: bool,
    /// What was answered is forgotten now and then.
    pub forgets: bool,
}

#[derive(Default)]
pub struct Engine {
    pub log: Vec<Done>,
    pub claims: BTreeMap<TableKey, (Revision, Claim)>,
    pub truth: BTreeMap<TableKey, Entries>,
    recorded: BTreeMap<(HostRun, u64), Revision>,
    /// What is older is not kept for who watches.
    pub kept_from: usize,
    pub faulty: Faulty,
    /// Those that give all away.
    pub leaving: BTreeSet<HostRun>,
    /// When each table got its last claim.
    moved: BTreeMap<TableKey, u64>,
    moves_after: u64,
    pub broken: Option<String>,
}

impl Engine {
    /// A table moves no more often than after `moves_after` microseconds, where its owner gives it.
    pub fn new(faulty: Faulty, moves_after: u64) -> Self {
        Self { faulty, moves_after, ..Self::default() }
    }

    fn put(&mut self, done: Done) -> Revision {
        self.log.push(done);
        Revision(self.log.len() as u64)
    }

    fn fail(&mut self, what: String) {
        self.broken.get_or_insert(what);
    }

    fn other_claims(&self, tables: &[Owned]) -> Vec<TableKey> {
        let has = |table, revision| self.claims.get(table).is_some_and(|at| at.0 == revision);
        let others = tables.iter().filter(|(table, revision)| !has(table, *revision));
        others.map(|(table, _)| *table).collect()
    }

    /// Does what a host wants, at this time of the world in microseconds.
    pub fn execute(
        &mut self,
        at: u64,
        run: HostRun,
        transaction: &Transaction,
        changes: &[(TableKey, Change)],
    ) -> Outcome {
        match transaction {
            Transaction::Claim { table, seen, claim } => {
                let last = self.claims.get(table).copied();
                if let Some((revision, _)) = last.filter(|(_, last)| last.by == claim.by) {
                    return Outcome::Done(revision);
                }
                if last.map(|(revision, _)| revision) != *seen && !self.faulty.any_claim {
                    return Outcome::Refused(vec![*table]);
                }
                let since = self.moved.insert(*table, at).map(|last| at - last);
                let is_soon = since.is_some_and(|since| since < self.moves_after);
                if claim.cause == Cause::Given && is_soon && !self.leaving.contains(&run) {
                    self.fail(format!("{} us after it moved, {table:?} moves", since.unwrap_or(0)));
                }
                let revision = self.put(Done::Claimed(*table, *claim));
                self.claims.insert(*table, (revision, *claim));
                Outcome::Done(revision)
            }
            Transaction::Record { number, tables } => {
                if let Some(&revision) = self.recorded.get(&(run, *number)) {
                    return Outcome::Done(revision);
                }
                let others = self.other_claims(tables);
                let follows = *number == 1 || self.recorded.contains_key(&(run, number - 1));
                let may_be = others.is_empty() && follows;
                if !(may_be || self.faulty.any_record) {
                    return Outcome::Refused(others);
                }
                for &(table, change) in changes {
                    if let Err(what) = apply(self.truth.entry(table).or_default(), change) {
                        self.fail(format!("{run:?} records in {table:?} that {what}"));
                    }
                }
                let revision = self.put(Done::Recorded(changes.to_vec()));
                self.recorded.insert((run, *number), revision);
                Outcome::Done(revision)
            }
            Transaction::Confirm { tables } => {
                let others = self.other_claims(tables);
                match others.is_empty() {
                    true => Outcome::Done(Revision(self.log.len() as u64)),
                    false => Outcome::Refused(others),
                }
            }
        }
    }

    /// In a canary: the last record is gone, as if it had never been.
    pub fn forget(&mut self) {
        let Some(Done::Recorded(changes)) = self.log.last().cloned() else { return };
        for (table, change) in changes.into_iter().rev() {
            let back = match change {
                Change::Created(port, client) => Change::Deleted(port, client),
                Change::Deleted(port, client) => Change::Created(port, client),
            };
            // What does not fit is found where it is used.
            let _ = apply(self.truth.entry(table).or_default(), back);
        }
        let last = self.log.len();
        self.log[last - 1] = Done::Recorded(Vec::new());
    }
}
