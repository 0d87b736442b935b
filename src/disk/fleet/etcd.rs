//! [`Etcd`]: etcd as the engine of a cell.
//!
//! One connection to each node, and one node that is asked, until it does not answer within a
//! deadline: then the next one is. What balances among nodes by itself goes on asking one that
//! hangs, and pings make etcd close the connection.
//!
//! A transaction whose outcome is unknown is sent again with the same keys: where a claim has the
//! number of this transaction, or a record is there, it was done.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, DeleteOptions, Error, EventType,
    GetOptions, Identity, KeyValue, TlsOptions, Txn, TxnOp, TxnOpResponse, TxnResponse,
    WatchOptions, WatchStream,
};
use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use super::{
    CellName, FleetCommit, FleetEngine, FleetEngineError, FleetKey, FleetPage, FleetValue,
    FleetWatch, KeyIs, KeyRange, RecordKey, ShardRun, WatchEnded, WatchedValues, claim_in,
    claim_value, run_value,
};
use crate::handoff::entry::TableKey;
use crate::handoff::ownership::{Claim, Outcome, Owned, Revision, Transaction};

/// How long a node has for an answer, and for a connection where there is none.
const DEADLINE: Duration = Duration::from_millis(250);
/// As often as no node answered, each in its turn, that is doubled: a cluster may be slow. Not at
/// once: what a node passes on to a leader that was killed is lost, and asked again it is not, as
/// soon as there is another leader.
const DOUBLED_MAX: u32 = 3;
/// How long a node has for a page of what is read.
const READ_DEADLINE: Duration = Duration::from_secs(10);
/// How long a node has for what nobody waits for, and may be much.
const LONG_DEADLINE: Duration = Duration::from_secs(5);
/// The most octets of a page, or of what is watched at a time.
const MESSAGE_MAX: usize = 128 << 20;
/// What does not answer at once is not asked again at once.
const PAUSE: Duration = Duration::from_millis(20);
/// How often a watch that says nothing is asked whether it is there.
const WATCH_ASKED_EACH: Duration = Duration::from_millis(200);
/// A watch that says nothing for so many of these is over.
const WATCH_SILENT: u32 = 3;

/// Where etcd is, and who we are there: as `etcdctl` is told.
#[derive(Debug, Clone, Default)]
pub struct EtcdAccess {
    /// `http://HOST:PORT` or `https://HOST:PORT`, of each node.
    pub nodes: Vec<String>,
    pub user: Option<(String, String)>,
    /// What the nodes' certificates are signed with, in PEM.
    pub authority: Option<Vec<u8>>,
    /// Our own certificate and its key, in PEM.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// etcd, as the engine of a cell. Of one thread.
pub struct Etcd {
    access: EtcdAccess,
    /// What all keys of the cell begin with.
    prefix: String,
    clients: RefCell<Vec<Option<Client>>>,
    /// The node that is asked.
    node: Cell<usize>,
    /// How often in a row there was no answer.
    unanswered: Cell<u32>,
    why: RefCell<String>,
}

impl Etcd {
    /// Connects to nobody yet.
    pub fn new(access: EtcdAccess, cell: &CellName) -> Self {
        let clients = RefCell::new(access.nodes.iter().map(|_| None).collect());
        Self {
            access,
            prefix: cell.prefix(),
            clients,
            node: Cell::new(0),
            unanswered: Cell::new(0),
            why: RefCell::default(),
        }
    }

    fn key(&self, key: &FleetKey) -> String {
        format!("{}{key}", self.prefix)
    }

    fn range(&self, KeyRange { from, until }: &KeyRange) -> KeyRange {
        let whole = |key| format!("{}{key}", self.prefix);
        KeyRange { from: whole(from), until: whole(until) }
    }

    /// The client of a node, which is connected to where it was not.
    async fn client(&self, node: usize) -> Result<Client, FleetEngineError> {
        if let Some(client) = self.clients.borrow().get(node).cloned().flatten() {
            return Ok(client);
        }
        let Some(url) = self.access.nodes.get(node) else {
            return Err(FleetEngineError::Unusable("no node of etcd is named".to_owned()));
        };
        let mut options = ConnectOptions::new()
            .with_require_leader(true)
            .with_auto_token_refresh(true)
            .with_keep_alive_while_idle(false);
        if let Some((name, password)) = &self.access.user {
            options = options.with_user(name, password);
        }
        if url.starts_with("https://") {
            let mut tls = TlsOptions::new();
            if let Some(authority) = &self.access.authority {
                tls = tls.ca_certificate(Certificate::from_pem(authority));
            }
            if let Some((certificate, key)) = &self.access.identity {
                tls = tls.identity(Identity::from_pem(certificate, key));
            }
            options = options.with_tls(tls);
        }
        let mut client = Client::connect([url], Some(options)).await.map_err(said)?;
        let status = client.status().await.map_err(said)?;
        if let Some(why) = refused(status.version()) {
            return Err(FleetEngineError::Unusable(format!("{url}: {why}")));
        }
        if let Some(place) = self.clients.borrow_mut().get_mut(node) {
            *place = Some(client.clone());
        }
        Ok(client)
    }

    /// Asks the node whose turn it is. Where it does not answer in time, it is the next one's.
    async fn ask<T>(
        &self,
        deadline: Duration,
        ask: impl AsyncFnOnce(Client) -> Result<T, Error>,
    ) -> Result<T, FleetEngineError> {
        let node = self.node.get();
        let rounds = self.unanswered.get() / self.access.nodes.len().max(1) as u32;
        let deadline = deadline * (1 << rounds.min(DOUBLED_MAX));
        let asked = async { ask(self.client(node).await?).await.map_err(said) };
        let answer = timeout(deadline, asked).await.unwrap_or_else(|_| {
            let url = self.access.nodes.get(node).map_or("", String::as_str);
            Err(FleetEngineError::Unanswered(format!("{url} does not answer")))
        });
        match &answer {
            Ok(_) => self.unanswered.set(0),
            // Any other would say the same.
            Err(FleetEngineError::Compacted) => self.unanswered.set(0),
            Err(why) => {
                self.why.replace(why.to_string());
                self.leave(node);
                sleep(PAUSE).await;
            }
        }
        answer
    }

    /// This node did not answer: others are asked, unless they are already.
    fn leave(&self, node: usize) {
        if self.node.get() == node {
            self.node.set((node + 1) % self.access.nodes.len().max(1));
            self.unanswered.set(self.unanswered.get().saturating_add(1));
        }
        if let Some(client) = self.clients.borrow_mut().get_mut(node) {
            *client = None;
        }
    }

    /// That the table has this claim, and no other, for all of them.
    fn owned(&self, tables: &[Owned]) -> Vec<Compare> {
        let compare = |&(table, claimed): &Owned| {
            let key = self.key(&FleetKey::Owner(table));
            Compare::mod_revision(key, CompareOp::Equal, claimed.0 as i64)
        };
        tables.iter().map(compare).collect()
    }

    fn get_owner(&self, table: TableKey) -> TxnOp {
        TxnOp::get(self.key(&FleetKey::Owner(table)), None)
    }

    fn txn(&self, by: ShardRun, transaction: &Transaction, body: &[u8]) -> Txn {
        match transaction {
            Transaction::Claim { table, seen, claim } => {
                let key = self.key(&FleetKey::Owner(*table));
                let seen = seen.map_or(0, |seen| seen.0 as i64);
                Txn::new()
                    .when([Compare::mod_revision(key.clone(), CompareOp::Equal, seen)])
                    .and_then([TxnOp::put(key, claim_value(claim), None)])
                    .or_else([self.get_owner(*table)])
            }
            Transaction::Record { number, tables } => {
                let key = self.key(&FleetKey::Record(RecordKey { by, number: *number }));
                let mut when = self.owned(tables);
                when.push(Compare::create_revision(key.clone(), CompareOp::Equal, 0));
                let before = RecordKey { by, number: number.saturating_sub(1) };
                let before = self.key(&FleetKey::Record(before));
                when.push(Compare::create_revision(before, CompareOp::Greater, 0));
                let run = self.key(&FleetKey::Run(by.run.host));
                when.push(Compare::value(run, CompareOp::Equal, run_value(by.run)));
                let mut or_else =
                    vec![TxnOp::get(key.clone(), Some(GetOptions::new().with_keys_only()))];
                or_else.extend(tables.iter().map(|&(table, _)| self.get_owner(table)));
                Txn::new().when(when).and_then([TxnOp::put(key, body, None)]).or_else(or_else)
            }
            Transaction::Confirm { tables } => {
                // What reads nothing is answered by one node for itself, which may be behind.
                let any = self.key(&FleetKey::Secret(0));
                let reads = TxnOp::get(any, Some(GetOptions::new().with_keys_only()));
                let mut or_else = vec![reads.clone()];
                or_else.extend(tables.iter().map(|&(table, _)| self.get_owner(table)));
                Txn::new().when(self.owned(tables)).and_then([reads]).or_else(or_else)
            }
        }
    }
}

/// Why a version of etcd is not used, where that is so.
fn refused(version: &str) -> Option<String> {
    let mut numbers = version.split(['.', '-', '+']).map(|number| number.parse().unwrap_or(0));
    let mut next = || -> u32 { numbers.next().unwrap_or(0) };
    let number = (next(), next(), next());
    if ((3, 5, 0)..=(3, 5, 2)).contains(&number) {
        return Some(format!(
            "etcd {version} loses what it has answered for when it is killed under load: take 3.5.3 or later, or \
             3.4"
        ));
    }
    (number < (3, 4, 0)).then(|| format!("etcd {version} is too old: take 3.4 or later"))
}

fn said(error: Error) -> FleetEngineError {
    match &error {
        Error::GRpcStatus(status) => {
            let why = status.message().to_owned();
            let is_refused = ["authentication failed", "permission denied", "user name is empty"];
            match is_refused.iter().any(|refused| why.contains(refused)) {
                true => FleetEngineError::Unusable(why),
                false if why.contains("has been compacted") => FleetEngineError::Compacted,
                false => FleetEngineError::Unanswered(why),
            }
        }
        Error::InvalidArgs(_) | Error::InvalidUri(_) => {
            FleetEngineError::Unusable(error.to_string())
        }
        _ => {
            // What went wrong stands at the end of the chain.
            let mut why = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(next) = source {
                why = next.to_string();
                source = next.source();
            }
            FleetEngineError::Unanswered(why)
        }
    }
}

fn revision_of(response: &TxnResponse) -> Revision {
    Revision(response.header().map_or(0, |header| header.revision()) as u64)
}

/// What one of the reads of a transaction found.
fn found(response: &TxnResponse) -> Vec<Option<KeyValue>> {
    let all = response.op_responses().into_iter().map(|response| match response {
        TxnOpResponse::Get(mut got) => got.take_kvs().pop(),
        _ => None,
    });
    all.collect()
}

/// Those of the tables that have another claim.
fn lost(tables: &[Owned], found: &[Option<KeyValue>]) -> Vec<TableKey> {
    let has = |at: &Option<KeyValue>, claimed: Revision| {
        at.as_ref().is_some_and(|at| at.mod_revision() as u64 == claimed.0)
    };
    let pairs = tables.iter().zip(found);
    pairs.filter(|((_, claimed), at)| !has(at, *claimed)).map(|((table, _), _)| *table).collect()
}

fn claim_outcome(table: TableKey, claim: &Claim, response: &TxnResponse) -> Outcome {
    if response.succeeded() {
        return Outcome::Done(revision_of(response));
    }
    match found(response).pop().flatten() {
        Some(at) if claim_in(at.value()).is_some_and(|last| last.by == claim.by) => {
            Outcome::Done(Revision(at.mod_revision() as u64))
        }
        _ => Outcome::Refused(vec![table]),
    }
}

fn outcome(transaction: &Transaction, response: &TxnResponse) -> Outcome {
    match transaction {
        Transaction::Claim { table, claim, .. } => claim_outcome(*table, claim, response),
        _ if response.succeeded() => Outcome::Done(revision_of(response)),
        Transaction::Record { tables, .. } => match found(response).as_slice() {
            [Some(record), ..] => Outcome::Done(Revision(record.mod_revision() as u64)),
            [None, owners @ ..] => Outcome::Refused(lost(tables, owners)),
            [] => Outcome::Unknown,
        },
        Transaction::Confirm { tables } => {
            Outcome::Refused(lost(tables, found(response).get(1..).unwrap_or(&[])))
        }
    }
}

impl FleetEngine for Etcd {
    type Watch = EtcdWatch;

    async fn transact(&self, by: ShardRun, transaction: &Transaction, body: &[u8]) -> Outcome {
        let txn = self.txn(by, transaction, body);
        let answer = self.ask(DEADLINE, async |mut client: Client| client.txn(txn).await).await;
        answer.map_or(Outcome::Unknown, |response| outcome(transaction, &response))
    }

    async fn put(&self, key: &FleetKey, value: &[u8]) -> Result<(), FleetEngineError> {
        let key = self.key(key);
        self.ask(DEADLINE, async |mut client: Client| client.put(key, value, None).await).await?;
        Ok(())
    }

    async fn put_first(&self, key: &FleetKey, value: &[u8]) -> Result<Vec<u8>, FleetEngineError> {
        let key = self.key(key);
        let txn = Txn::new()
            .when([Compare::create_revision(key.clone(), CompareOp::Equal, 0)])
            .and_then([TxnOp::put(key.clone(), value, None)])
            .or_else([TxnOp::get(key, None)]);
        let response = self.ask(DEADLINE, async |mut client: Client| client.txn(txn).await).await?;
        let there = found(&response).pop().flatten();
        Ok(there.map_or_else(|| value.to_vec(), |there| there.value().to_vec()))
    }

    async fn page(
        &self,
        range: &KeyRange,
        most: usize,
        at: Option<Revision>,
    ) -> Result<FleetPage, FleetEngineError> {
        let KeyRange { from, until } = self.range(range);
        let revision = at.unwrap_or_default().0 as i64;
        let options =
            GetOptions::new().with_range(until).with_limit(most as i64).with_revision(revision);
        let mut page = self
            .ask(READ_DEADLINE, async |client: Client| {
                let kv = client.kv_client();
                kv.max_decoding_message_size(MESSAGE_MAX).get(from, Some(options)).await
            })
            .await?;
        let there = page.header().map_or(0, |header| header.revision()) as u64;
        let (more, kvs) = (page.more(), page.take_kvs());
        let last = kvs.last().and_then(|kv| {
            let key = std::str::from_utf8(kv.key()).ok()?.strip_prefix(&self.prefix)?;
            Some(range.behind(key))
        });
        let rest = last.filter(|_| more);
        let values = kvs.into_iter().filter_map(|kv| self.value(kv, true)).collect();
        Ok(FleetPage { revision: at.unwrap_or(Revision(there)), values, rest })
    }

    async fn commit(&self, commit: &FleetCommit) -> Result<bool, FleetEngineError> {
        let when = commit.conditions.iter().map(|(key, is)| {
            let key = self.key(key);
            match is {
                KeyIs::Absent => Compare::create_revision(key, CompareOp::Equal, 0),
                KeyIs::At(at) => Compare::mod_revision(key, CompareOp::Equal, at.0 as i64),
            }
        });
        let puts = commit.puts.iter().map(|(key, value)| {
            let value = value.clone();
            TxnOp::put(self.key(key), value, None)
        });
        let removes = commit.removes.iter().map(|range| {
            let KeyRange { from, until } = self.range(range);
            TxnOp::delete(from, Some(DeleteOptions::new().with_range(until)))
        });
        let then: Vec<TxnOp> = puts.chain(removes).collect();
        let txn = Txn::new().when(when.collect::<Vec<_>>()).and_then(then);
        let answer = self.ask(LONG_DEADLINE, async |mut client: Client| client.txn(txn).await);
        Ok(answer.await?.succeeded())
    }

    async fn compact(&self, before: Revision) -> Result<(), FleetEngineError> {
        let done = self.ask(LONG_DEADLINE, async |mut client: Client| {
            client.compact(before.0 as i64, None).await
        });
        match done.await {
            // Somebody else did.
            Err(FleetEngineError::Compacted) => Ok(()),
            done => done.map(drop),
        }
    }

    async fn watch(&self, from: Revision) -> Result<EtcdWatch, FleetEngineError> {
        let KeyRange { from: first, until } = self.range(&KeyRange::watched());
        let options = WatchOptions::new().with_range(until).with_start_revision(from.0 as i64);
        let stream = self.ask(DEADLINE, async |client: Client| {
            let watch = client.watch_client().max_decoding_message_size(MESSAGE_MAX);
            let mut watch = watch;
            watch.watch(first, Some(options)).await
        });
        Ok(EtcdWatch { prefix: self.prefix.clone(), stream: stream.await?, silent: 0 })
    }

    async fn answering(&self) -> (usize, usize) {
        let nodes = self.access.nodes.len();
        let asked = (0..nodes).map(|node| async move {
            let asks = async {
                let mut client = self.client(node).await?;
                client.status().await.map_err(said)
            };
            matches!(timeout(DEADLINE, asks).await, Ok(Ok(_)))
        });
        let answers = join_all(asked).await;
        (answers.into_iter().filter(|&answers| answers).count(), nodes)
    }

    fn why_away(&self) -> String {
        self.why.borrow().clone()
    }

    fn leave_node(&self) {
        self.leave(self.node.get());
    }
}

impl Etcd {
    fn value(&self, kv: KeyValue, is_there: bool) -> Option<FleetValue> {
        value_of(&self.prefix, kv, is_there)
    }
}

/// What stands there; `None` where a later version put it.
fn value_of(prefix: &str, kv: KeyValue, is_there: bool) -> Option<FleetValue> {
    let key = FleetKey::parse(kv.key().strip_prefix(prefix.as_bytes())?)?;
    let revision = Revision(kv.mod_revision() as u64);
    let value = is_there.then(|| kv.into_key_value().1);
    Some(FleetValue { key, value, revision })
}

/// What is done, as one node tells it.
pub struct EtcdWatch {
    prefix: String,
    stream: WatchStream,
    /// How often it was asked whether it is there since it said anything.
    silent: u32,
}

impl FleetWatch for EtcdWatch {
    async fn next(&mut self) -> Result<WatchedValues, WatchEnded> {
        let away = |why: Error| match said(why) {
            FleetEngineError::Unanswered(why) | FleetEngineError::Unusable(why) => {
                WatchEnded::Away(why)
            }
            FleetEngineError::Compacted => WatchEnded::Compacted,
        };
        let Ok(message) = timeout(WATCH_ASKED_EACH, self.stream.message()).await else {
            if self.silent >= WATCH_SILENT {
                return Err(WatchEnded::Away("it tells nothing more".to_owned()));
            }
            self.silent += 1;
            self.stream.request_progress().await.map_err(away)?;
            return Ok(WatchedValues { values: Vec::new(), revision: None });
        };
        self.silent = 0;
        let Some(response) = message.map_err(away)? else {
            return Err(WatchEnded::Away("it has ended".to_owned()));
        };
        if response.compact_revision() > 0 {
            return Err(WatchEnded::Compacted);
        }
        if response.canceled() {
            return Err(WatchEnded::Away(response.cancel_reason().to_owned()));
        }
        let values = response.events().iter().filter_map(|event| {
            let is_there = event.event_type() == EventType::Put;
            value_of(&self.prefix, event.kv()?.clone(), is_there)
        });
        let revision = response.header().map(|header| Revision(header.revision() as u64));
        Ok(WatchedValues { values: values.collect(), revision })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_lose_data_are_refused() {
        for (version, fine) in [
            ("3.4.23", true),
            ("3.4.0", true),
            ("3.3.27", false),
            ("3.5.0", false),
            ("3.5.0-rc.1", false),
            ("3.5.2", false),
            ("3.5.3", true),
            ("3.6.1", true),
            ("4.0.0", true),
            ("", false),
        ] {
            assert_eq!(refused(version).is_none(), fine, "{version}");
        }
    }
}
