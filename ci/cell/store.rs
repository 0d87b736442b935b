//! A model of etcd, with its versions of each key, which judges what is recorded in it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::ops::Bound;
use std::rc::Rc;
use std::task::Poll;

use nat64handoff::disk::fleet::{
    FleetCommit, FleetEngine, FleetEngineError, FleetKey, FleetPage, FleetValue, FleetWatch, KeyIs,
    KeyRange, RecordKey, ShardRun, TimedChange, WatchEnded, WatchedValues, changes_of, claim_value,
    run_value,
};
use nat64handoff::handoff::change::Change;
use nat64handoff::handoff::entry::{Client, TableKey};
use nat64handoff::handoff::ownership::{Outcome, Owned, Revision, Transaction};

use crate::dice::Dice;

/// Who has each port of each table.
pub type Truth = BTreeMap<TableKey, BTreeMap<u16, Client>>;

/// Does what a change says, or says why that does not fit.
pub fn apply(truth: &mut Truth, table: TableKey, change: &Change) -> Result<(), String> {
    let entries = truth.entry(table).or_default();
    match *change {
        Change::Created { port, client } => {
            let has = entries.values().any(|&at| at == client);
            match entries.insert(port.0, client) {
                None if !has => Ok(()),
                _ => Err(format!("{port:?} of {table:?} or its client is in use")),
            }
        }
        Change::Deleted { port, client } => match entries.remove(&port.0) {
            Some(had) if had == client => Ok(()),
            had => Err(format!("{port:?} of {table:?} belongs to {had:?}")),
        },
        _ => Ok(()),
    }
}

/// What the engine, or who uses it, does wrong, to see that it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreCanary {
    /// A record does not want the one before it.
    NoPredecessor,
    /// A run that has ended records still.
    NoFence,
    /// The lines of all records are said to be written.
    EndlessCursor,
    /// A table gets a snapshot whatever it was made from.
    AnySnapshot,
    /// A snapshot that was put for a table is not.
    SnapshotsAreLost,
}

impl StoreCanary {
    pub const ALL: &[StoreCanary] = &[
        StoreCanary::NoPredecessor,
        StoreCanary::NoFence,
        StoreCanary::EndlessCursor,
        StoreCanary::AnySnapshot,
        StoreCanary::SnapshotsAreLost,
    ];
}

type Version = (u64, Option<Rc<[u8]>>);
type Sent = (ShardRun, Transaction, Vec<u8>);

pub struct State {
    revision: u64,
    keys: BTreeMap<String, Vec<Version>>,
    kept_from: u64,
    pub truth: Truth,
    /// As it was when it was something else.
    truths: BTreeMap<u64, Truth>,
    /// All that was recorded, in order, with who did.
    pub recorded: Vec<(ShardRun, Vec<TimedChange>)>,
    /// What was sent, and has not arrived.
    late: Vec<Sent>,
    pub dice: Dice,
    pub has_faults: bool,
    pub canary: Option<StoreCanary>,
    pub compactions: u64,
    pub broken: Option<String>,
}

#[derive(Clone)]
pub struct Store(pub Rc<RefCell<State>>);

/// Others go on.
pub async fn pause() {
    let mut is_first = true;
    poll_fn(|_| match std::mem::take(&mut is_first) {
        true => Poll::Pending,
        false => Poll::Ready(()),
    })
    .await;
}

impl State {
    fn last(&self, key: &str) -> Option<&Version> {
        self.keys.get(key)?.last()
    }

    /// When it was put the last time; 0 where it is not there.
    fn put_at(&self, key: &FleetKey) -> u64 {
        let last = self.last(&key.to_string());
        last.filter(|(_, value)| value.is_some()).map_or(0, |&(at, _)| at)
    }

    fn set(&mut self, key: String, value: Option<&[u8]>) {
        let version = (self.revision, value.map(Rc::from));
        self.keys.entry(key).or_default().push(version);
    }

    fn put(&mut self, key: &FleetKey, value: &[u8]) -> Revision {
        self.revision += 1;
        self.set(key.to_string(), Some(value));
        Revision(self.revision)
    }

    fn other_claims(&self, tables: &[Owned]) -> Vec<TableKey> {
        let has = |&&(table, at): &&Owned| self.put_at(&FleetKey::Owner(table)) != at.0;
        tables.iter().filter(has).map(|&(table, _)| table).collect()
    }

    fn transact(&mut self, by: ShardRun, transaction: &Transaction, body: &[u8]) -> Outcome {
        match transaction {
            Transaction::Claim { table, seen, claim } => {
                let key = FleetKey::Owner(*table);
                let at = self.put_at(&key);
                let value = claim_value(claim);
                if at > 0
                    && self.last(&key.to_string()).and_then(|(_, value)| value.as_deref())
                        == Some(value.as_bytes())
                {
                    return Outcome::Done(Revision(at));
                }
                match at == seen.unwrap_or_default().0 {
                    true => Outcome::Done(self.put(&key, value.as_bytes())),
                    false => Outcome::Refused(vec![*table]),
                }
            }
            Transaction::Record { number, tables } => {
                let key = RecordKey { by, number: *number };
                let before = FleetKey::Record(RecordKey { by, number: number - 1 });
                let at = self.put_at(&FleetKey::Record(key));
                if at > 0 {
                    return Outcome::Done(Revision(at));
                }
                let others = self.other_claims(tables);
                let follows =
                    self.put_at(&before) > 0 || self.canary == Some(StoreCanary::NoPredecessor);
                let run = self.last(&FleetKey::Run(by.run.host).to_string());
                let is_its = run.and_then(|(_, value)| value.as_deref())
                    == Some(run_value(by.run).as_bytes())
                    || self.canary == Some(StoreCanary::NoFence);
                if !others.is_empty() || !follows || !is_its {
                    return Outcome::Refused(others);
                }
                self.truths.insert(self.revision, self.truth.clone());
                let revision = self.put(&FleetKey::Record(key), body);
                let changes = changes_of(&key, body).expect("what was recorded");
                for (_, table, change) in &changes {
                    if let Err(what) = apply(&mut self.truth, *table, change) {
                        self.broken.get_or_insert(format!("{key:?}: {what}"));
                    }
                }
                self.recorded.push((by, changes));
                Outcome::Done(revision)
            }
            Transaction::Confirm { tables } => match self.other_claims(tables) {
                none if none.is_empty() => Outcome::Done(Revision(self.revision)),
                others => Outcome::Refused(others),
            },
        }
    }

    fn commit(&mut self, commit: &FleetCommit) -> bool {
        let holds = commit.conditions.iter().all(|(key, is)| match is {
            KeyIs::Absent => self.canary == Some(StoreCanary::AnySnapshot) || self.put_at(key) == 0,
            KeyIs::At(at) => {
                self.canary == Some(StoreCanary::AnySnapshot) || self.put_at(key) == at.0
            }
        });
        if !holds {
            return false;
        }
        self.revision += 1;
        for (key, value) in &commit.puts {
            let is_snapshot = matches!(key, FleetKey::Snapshot(_));
            if !is_snapshot || self.canary != Some(StoreCanary::SnapshotsAreLost) {
                self.set(key.to_string(), Some(value));
            }
        }
        for range in &commit.removes {
            let keys: Vec<_> = self
                .keys
                .range(range.from.clone()..range.until.clone())
                .filter(|(_, versions)| versions.last().is_some_and(|(_, at)| at.is_some()))
                .map(|(key, _)| key.clone())
                .collect();
            keys.into_iter().for_each(|key| self.set(key, None));
        }
        true
    }

    fn page(
        &self,
        range: &KeyRange,
        most: usize,
        at: Option<Revision>,
    ) -> Result<FleetPage, FleetEngineError> {
        let at = at.unwrap_or(Revision(self.revision));
        if at.0 < self.kept_from {
            return Err(FleetEngineError::Compacted);
        }
        let bounds = (Bound::Included(range.from.clone()), Bound::Excluded(range.until.clone()));
        let mut values = Vec::new();
        for (key, versions) in self.keys.range(bounds) {
            let Some((revision, Some(value))) = versions.iter().rev().find(|(put, _)| *put <= at.0)
            else {
                continue;
            };
            if values.len() == most {
                let last: &FleetValue = &values[most - 1];
                let rest = Some(range.behind(&last.key.to_string()));
                return Ok(FleetPage { revision: at, values, rest });
            }
            let key = FleetKey::parse(key.as_bytes()).expect("a key");
            let mut value = value.to_vec();
            if matches!(key, FleetKey::Cursor(_)) && self.canary == Some(StoreCanary::EndlessCursor)
            {
                value = b"1000000".to_vec();
            }
            values.push(FleetValue { key, value: Some(value), revision: Revision(*revision) });
        }
        Ok(FleetPage { revision: at, values, rest: None })
    }

    /// What was sent long ago arrives.
    fn arrives(&mut self) {
        if !self.late.is_empty() && self.dice.chance(30) {
            let number = self.dice.below(self.late.len());
            let (by, transaction, body) = self.late.swap_remove(number);
            self.transact(by, &transaction, &body);
        }
    }

    /// At which revision a table was claimed the last time.
    pub fn owner(&self, table: TableKey) -> Option<Revision> {
        Some(self.put_at(&FleetKey::Owner(table))).filter(|&at| at > 0).map(Revision)
    }

    pub fn truth_at(&self, at: Revision) -> &Truth {
        // As it was before the next change.
        self.truths.range(at.0..).next().map_or(&self.truth, |(_, truth)| truth)
    }

    pub fn count(&self, prefix: &str) -> usize {
        let keys = self.keys.iter().filter(|(key, _)| key.starts_with(prefix));
        keys.filter(|(_, versions)| versions.last().is_some_and(|(_, at)| at.is_some())).count()
    }

    fn is_lost(&mut self) -> bool {
        self.has_faults && self.dice.chance(300)
    }
}

impl Store {
    pub fn new(dice: Dice, canary: Option<StoreCanary>) -> Self {
        Self(Rc::new(RefCell::new(State {
            revision: 1,
            keys: BTreeMap::new(),
            kept_from: 0,
            truth: Truth::new(),
            truths: BTreeMap::new(),
            recorded: Vec::new(),
            late: Vec::new(),
            dice,
            has_faults: true,
            canary,
            compactions: 0,
            broken: None,
        })))
    }

    /// It is done at one moment, somewhere between question and answer; one of which may be lost.
    async fn act<T>(&self, act: impl FnOnce(&mut State) -> T) -> Result<T, FleetEngineError> {
        let lost = || Err(FleetEngineError::Unanswered("lost".to_owned()));
        pause().await;
        if self.0.borrow_mut().is_lost() {
            return lost();
        }
        let done = {
            let mut state = self.0.borrow_mut();
            state.arrives();
            act(&mut state)
        };
        pause().await;
        if self.0.borrow_mut().is_lost() { lost() } else { Ok(done) }
    }
}

impl FleetEngine for Store {
    type Watch = NoWatch;

    async fn transact(&self, by: ShardRun, transaction: &Transaction, body: &[u8]) -> Outcome {
        {
            let mut state = self.0.borrow_mut();
            if state.has_faults && state.dice.chance(1000) {
                state.late.push((by, transaction.clone(), body.to_vec()));
            }
        }
        let done = self.act(|state| state.transact(by, transaction, body)).await;
        done.unwrap_or(Outcome::Unknown)
    }

    async fn put(&self, key: &FleetKey, value: &[u8]) -> Result<(), FleetEngineError> {
        self.act(|state| _ = state.put(key, value)).await
    }

    async fn put_first(&self, key: &FleetKey, value: &[u8]) -> Result<Vec<u8>, FleetEngineError> {
        self.put(key, value).await.map(|()| value.to_vec())
    }

    async fn page(
        &self,
        range: &KeyRange,
        most: usize,
        at: Option<Revision>,
    ) -> Result<FleetPage, FleetEngineError> {
        // So that there is more than one.
        self.act(|state| state.page(range, most.min(3), at)).await?
    }

    async fn commit(&self, commit: &FleetCommit) -> Result<bool, FleetEngineError> {
        self.act(|state| state.commit(commit)).await
    }

    async fn compact(&self, before: Revision) -> Result<(), FleetEngineError> {
        let compact = |state: &mut State| {
            state.kept_from = state.kept_from.max(before.0);
            state.compactions += 1;
        };
        self.act(compact).await
    }

    async fn watch(&self, _: Revision) -> Result<NoWatch, FleetEngineError> {
        Err(FleetEngineError::Unusable("nobody watches here".to_owned()))
    }

    async fn answering(&self) -> (usize, usize) {
        (1, 1)
    }

    fn why_away(&self) -> String {
        String::new()
    }

    fn leave_node(&self) {}
}

/// Nobody watches.
pub struct NoWatch;

impl FleetWatch for NoWatch {
    async fn next(&mut self) -> Result<WatchedValues, WatchEnded> {
        Err(WatchEnded::Compacted)
    }
}
