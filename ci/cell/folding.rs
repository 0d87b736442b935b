//! The log of a cell is folded while hosts record, start and end at any moment: by a seed. The
//! folding and reading are the real ones, on a model of etcd.
//!
//! What has to hold: whoever reads the cell knows exactly what was recorded until then; nothing is
//! recorded twice, however late it arrives; each host's log has the line of each of its records
//! once; and when all faults have ended, the log is as good as empty.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Waker};

use nat64handoff::disk::fleet::{
    CellReader, FleetEngine, FleetEngineError, FleetKey, FoldLimits, Folder, RecordKey, ShardRun,
    TimedChange, body_of, changes_in_part, changes_of, fold, host_value, run_value,
};
use nat64handoff::handoff::change::{Change, Timestamp};
use nat64handoff::handoff::entry::{Client, MappedPort, TableKey};
use nat64handoff::handoff::ownership::{
    Cause, Claim, HostId, HostRun, Outcome, Revision, Transaction,
};
use nat64handoff::handoff::random::SecretHash;
use nat64handoff::ip::address::Prefix96;

use crate::dice::Dice;
use crate::store::{Store, StoreCanary, Truth, apply, pause};

const HOSTS: u32 = 3;
const TABLES: u8 = 4;
const PORTS: u16 = 12;
/// Faults end after so many steps.
const STEPS: u32 = 6_000;

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// What survives the end of a host: the lines of its event log.
#[derive(Default)]
struct HostLog {
    /// The record, and its lines.
    written: Vec<(RecordKey, Vec<TimedChange>)>,
}

type HostLogs = Rc<RefCell<BTreeMap<u32, HostLog>>>;

fn table(number: u8) -> TableKey {
    TableKey { local: [203, 0, 113, 5].into(), nat64: [192, 0, 2, number].into() }
}

fn client(number: u16) -> Client {
    let address = "2001:db8::17".parse().expect("an address");
    Client { prefix: Prefix96([0; 12]), address, port: number }
}

/// All that is there, as a host that starts reads it.
async fn read(
    store: &Store,
    damage: &mut Option<String>,
) -> Result<(Revision, Truth), FleetEngineError> {
    let (beside, mut reader) = CellReader::open(store).await?;
    let mut read = Truth::new();
    while let Some(values) = reader.next(store).await? {
        for value in values {
            let octets = value.value.as_deref().unwrap_or_default();
            let changes = match &value.key {
                FleetKey::Record(key) => changes_of(key, octets),
                FleetKey::Part(key) => changes_in_part(key, octets),
                _ => continue,
            };
            for (_, table, change) in changes.expect("what was put") {
                if beside.is_new(&value, table)
                    && let Err(what) = apply(&mut read, table, &change)
                {
                    damage.get_or_insert(format!("read {}: {what}", value.key));
                }
            }
        }
    }
    Ok((beside.revision, read))
}

/// Hosts that start read the cell, again and again.
async fn reads(store: Store, totals: Rc<RefCell<(u64, u64)>>) {
    loop {
        pause().await;
        let mut damage = None;
        match read(&store, &mut damage).await {
            Err(FleetEngineError::Compacted) => totals.borrow_mut().1 += 1,
            Err(_) => {}
            Ok((at, mut read)) => {
                totals.borrow_mut().0 += 1;
                let mut state = store.0.borrow_mut();
                let mut truth = state.truth_at(at).clone();
                truth.retain(|_, entries| !entries.is_empty());
                read.retain(|_, entries| !entries.is_empty());
                if read != truth {
                    let what = damage.unwrap_or_else(|| format!("{read:?} is not {truth:?}"));
                    state.broken.get_or_insert(format!("at {at:?}: {what}"));
                }
            }
        }
    }
}

/// One of the hosts that fold, as long as it is not ended.
async fn folds(store: Store, run: HostRun, memory: usize) {
    let limits = FoldLimits { memory, removed_each: 3 };
    let hash = SecretHash::new([7; 16]);
    let folder = Folder { by: run, handoff_port: 64064, hash, limits };
    loop {
        pause().await;
        // It is tried again.
        let _ = fold(&store, &folder).await;
    }
}

/// One shard of a host, which claims a table and changes it, and writes its lines some time later.
async fn records(store: Store, run: HostRun, logs: HostLogs, mut dice: Dice) {
    let by = ShardRun { run, shard: 0 };
    let first = FleetKey::Record(RecordKey { by, number: 0 });
    let host = FleetKey::Host(run.host);
    let at = "198.51.100.1:1".parse().expect("an address");
    let run_key = FleetKey::Run(run.host);
    while store.put(&run_key, run_value(run).as_bytes()).await.is_err() {}
    while store.put(&first, &[]).await.is_err() {}
    while store.put(&host, host_value(run, at).as_bytes()).await.is_err() {}
    complete(&store, run, &logs).await;
    let (mut number, mut id) = (0, 0);
    // Records whose lines are not written.
    let mut unwritten: Vec<(RecordKey, Vec<TimedChange>, Revision)> = Vec::new();
    loop {
        let other = dice.below(TABLES as usize) as u8;
        let table = table(if dice.chance(2000) { other } else { run.host.0 as u8 });
        let seen = store.0.borrow().owner(table);
        id += 1;
        let claim = Claim { owner: run, cause: Cause::Lost, by: (run, id) };
        let claim = Transaction::Claim { table, seen, claim };
        let Outcome::Done(claimed) = known(&store, by, &claim, &[]).await else { continue };
        // What was recorded until it was claimed is what it is: nobody else can change it.
        let mut has = {
            let state = store.0.borrow();
            if state.owner(table) != Some(claimed) {
                continue;
            }
            state.truth.get(&table).cloned().unwrap_or_default()
        };
        for _ in 0..dice.below(30) {
            number += 1;
            let changes = some_changes(&mut has, table, number, &mut dice);
            let key = RecordKey { by, number };
            let body = body_of(&key, &changes);
            let record = Transaction::Record { number, tables: vec![(table, claimed)] };
            match known(&store, by, &record, &body).await {
                Outcome::Done(at) => unwritten.push((key, changes, at)),
                // The number was not used.
                _ => {
                    number -= 1;
                    break;
                }
            }
            if dice.chance(3000) {
                let upto = write(&mut unwritten, run, &logs);
                let cursor = FleetKey::Cursor(run.host);
                let _ = store.put(&cursor, upto.0.to_string().as_bytes()).await;
            }
        }
    }
}

/// The lines of all records are in the log. Returns up to which revision that is.
fn write(
    unwritten: &mut Vec<(RecordKey, Vec<TimedChange>, Revision)>,
    run: HostRun,
    logs: &HostLogs,
) -> Revision {
    let upto = unwritten.last().map_or(Revision(0), |(_, _, at)| *at);
    let mut logs = logs.borrow_mut();
    let lines = unwritten.drain(..).map(|(key, changes, _)| (key, changes));
    logs.entry(run.host.0).or_default().written.extend(lines);
    upto
}

/// The log gets the lines that earlier runs of the host have not written.
async fn complete(store: &Store, run: HostRun, logs: &HostLogs) {
    loop {
        let Ok((_, mut reader)) = CellReader::open(store).await else { continue };
        let mut missing = Vec::new();
        let is_read = loop {
            match reader.next(store).await {
                Err(_) => break false,
                Ok(None) => break true,
                Ok(Some(values)) => missing.extend(values.into_iter().filter_map(|value| {
                    let FleetKey::Record(key) = value.key else { return None };
                    let its = key.by.run.host == run.host && key.by.run != run;
                    its.then(|| (key, changes_of(&key, &value.value.unwrap_or_default()).unwrap()))
                })),
            }
        };
        if is_read {
            let mut logs = logs.borrow_mut();
            let written = &mut logs.entry(run.host.0).or_default().written;
            for (key, changes) in missing {
                if !changes.is_empty() && !written.iter().any(|(at, _)| *at == key) {
                    written.push((key, changes));
                }
            }
            return;
        }
    }
}

fn some_changes(
    has: &mut BTreeMap<u16, Client>,
    table: TableKey,
    number: u64,
    dice: &mut Dice,
) -> Vec<TimedChange> {
    let at = Timestamp::from_micros(number);
    let changes = (0..1 + dice.below(4)).map(|_| {
        let port = 2000 + dice.below(PORTS as usize) as u16;
        let free = (0..PORTS * 2).map(client).find(|it| !has.values().any(|at| at == it));
        let change = match has.remove(&port) {
            Some(client) => Change::Deleted { port: MappedPort(port), client },
            None => {
                let client = free.expect("there are more clients than ports");
                has.insert(port, client);
                Change::Created { port: MappedPort(port), client }
            }
        };
        (at, table, change)
    });
    changes.collect()
}

async fn known(store: &Store, by: ShardRun, transaction: &Transaction, body: &[u8]) -> Outcome {
    loop {
        match store.transact(by, transaction, body).await {
            Outcome::Unknown => {}
            outcome => return outcome,
        }
    }
}

#[derive(Default)]
pub struct Figures {
    pub records: usize,
    pub reads: u64,
    pub compacted: u64,
    pub ends: u64,
    pub compactions: u64,
}

/// A seed, until its end or until something is broken.
pub fn simulate(seed: u64, canary: Option<StoreCanary>) -> Result<Figures, String> {
    let mut dice = Dice::new(seed, 20);
    let store = Store::new(Dice::new(seed, 21), canary);
    let logs = HostLogs::default();
    let totals = Rc::new(RefCell::new((0, 0)));
    let (mut runs, mut ends) = (0, 0);
    let memory = 200 + dice.below(20_000);
    let mut task = |kind: u32| -> Task {
        runs += 1;
        let run = HostRun { host: HostId(kind % HOSTS), number: runs };
        let dice = Dice::new(seed, 100 + runs);
        let (store, logs) = (store.clone(), Rc::clone(&logs));
        match kind {
            ..HOSTS => Box::pin(records(store, run, logs, dice)),
            3 | 4 => Box::pin(folds(store, run, memory)),
            _ => Box::pin(reads(store, Rc::clone(&totals))),
        }
    };
    const KINDS: u32 = HOSTS + 3;
    let mut tasks: Vec<Task> = (0..KINDS).map(&mut task).collect();
    let mut context = Context::from_waker(Waker::noop());
    let broken = || store.0.borrow().broken.clone();
    for _ in 0..STEPS {
        let number = dice.below(tasks.len());
        if dice.chance(30) {
            // It ends, and another begins.
            tasks[number] = task(number as u32);
            ends += 1;
        }
        let _ = tasks[number].as_mut().poll(&mut context);
        if let Some(what) = broken() {
            return Err(what);
        }
    }
    // All hosts end, start again, and write what they have not; then all is folded.
    drop(tasks);
    store.0.borrow_mut().has_faults = false;
    run_to_its_end(ends_well(&store, &logs))?;
    judge_logs(&store, &logs)?;
    let state = store.0.borrow();
    // A table that did not change since has parts of who was ended over its snapshot.
    let (log, parts) = (state.count("log/"), state.count("part/"));
    if canary.is_none() && (log > 0 || parts > 3 * usize::from(TABLES)) {
        return Err(format!("{log} records and {parts} parts are left"));
    }
    let (reads, compacted) = *totals.borrow();
    let (records, compactions) = (state.recorded.len(), state.compactions);
    Ok(Figures { records, reads, compacted, ends, compactions })
}

/// All hosts start once more, and write what they have not; then all is folded, and read.
async fn ends_well(store: &Store, logs: &HostLogs) -> Result<(), String> {
    let at = "198.51.100.1:1".parse().expect("an address");
    for host in 0..HOSTS {
        let run = HostRun { host: HostId(host), number: 1_000_000 };
        let run_key = FleetKey::Run(run.host);
        store.put(&run_key, run_value(run).as_bytes()).await.expect("it is put");
        complete(store, run, logs).await;
        let put = [
            (FleetKey::Host(run.host), host_value(run, at)),
            (FleetKey::Cursor(run.host), "1000000".to_owned()),
        ];
        for (key, value) in put {
            store.put(&key, value.as_bytes()).await.expect("it is put");
        }
    }
    let limits = FoldLimits { memory: usize::MAX, removed_each: 100 };
    let run = HostRun { host: HostId(9), number: 1 };
    let hash = SecretHash::new([7; 16]);
    let folder = Folder { by: run, handoff_port: 64064, hash, limits };
    for _ in 0..2 {
        fold(store, &folder).await.map_err(|why| why.to_string())?;
    }
    let mut damage = None;
    let (_, mut read) = read(store, &mut damage).await.map_err(|why| why.to_string())?;
    let mut truth = store.0.borrow().truth.clone();
    read.retain(|_, entries| !entries.is_empty());
    truth.retain(|_, entries| !entries.is_empty());
    if read != truth {
        return Err(damage.unwrap_or_else(|| format!("at the end {read:?} is not {truth:?}")));
    }
    Ok(())
}

fn run_to_its_end<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let std::task::Poll::Ready(done) = future.as_mut().poll(&mut context) {
            return done;
        }
    }
}

/// Each record has its lines in the log of its host, once.
fn judge_logs(store: &Store, logs: &HostLogs) -> Result<(), String> {
    let (state, logs) = (store.0.borrow(), logs.borrow());
    for host in 0..HOSTS {
        let recorded = state.recorded.iter().filter(|(by, _)| by.run.host.0 == host);
        let mut recorded: Vec<_> = recorded.map(|(by, changes)| (by.run, changes)).collect();
        let written = logs.get(&host).map_or(&[][..], |log| &log.written);
        let mut written: Vec<_> =
            written.iter().map(|(key, changes)| (key.by.run, changes)).collect();
        let by_time = |it: &(HostRun, &Vec<TimedChange>)| (it.0.number, it.1[0].0);
        recorded.sort_by_key(by_time);
        written.sort_by_key(by_time);
        if recorded != written {
            let (has, wants) = (written.len(), recorded.len());
            return Err(format!("host {host} has the lines of {has} records, and made {wants}"));
        }
    }
    Ok(())
}
