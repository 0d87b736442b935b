//! What ownership relies on, of a real etcd: conditions, what is sent again, what is watched, and
//! how long nodes that are lost are noticed.

use std::time::{Duration, Instant};

use nat64handoff::disk::fleet::etcd::Etcd;
use nat64handoff::disk::fleet::{
    FleetEngine, FleetEngineError, FleetKey, FleetValue, FleetWatch, KeyRange, RecordKey, ShardRun,
    WatchEnded, body_of, changes_of, read_all, run_value,
};
use nat64handoff::handoff::change::{Change, Timestamp};
use nat64handoff::handoff::entry::{MappedPort, TableKey};
use nat64handoff::handoff::ownership::{
    Cause, Claim, HostId, HostRun, Outcome, Revision, Transaction,
};

use crate::cluster::{Cluster, run};

const A: ShardRun = ShardRun { run: HostRun { host: HostId(1), number: 11 }, shard: 0 };
const B: ShardRun = ShardRun { run: HostRun { host: HostId(2), number: 22 }, shard: 1 };

fn table(number: u8) -> TableKey {
    TableKey { local: [203, 0, 113, 5].into(), nat64: [192, 0, 2, number].into() }
}

fn claim(by: ShardRun, id: u64, table: TableKey, seen: Option<Revision>) -> Transaction {
    let cause = if seen.is_some() { Cause::Lost } else { Cause::New };
    Transaction::Claim { table, seen, claim: Claim { owner: by.run, cause, by: (by.run, id) } }
}

/// Asks until there is an answer: on a busy machine that may take longer than a node has.
async fn answered<T>(ask: impl AsyncFn() -> Result<T, FleetEngineError>) -> T {
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(FleetEngineError::Unanswered(_)) => {}
            Err(why) => panic!("{why}"),
        }
    }
}

/// Sends it until there is an outcome.
async fn known(engine: &Etcd, by: ShardRun, transaction: &Transaction, body: &[u8]) -> Outcome {
    loop {
        match engine.transact(by, transaction, body).await {
            Outcome::Unknown => {}
            outcome => return outcome,
        }
    }
}

async fn done(engine: &Etcd, by: ShardRun, transaction: &Transaction, body: &[u8]) -> Revision {
    match known(engine, by, transaction, body).await {
        Outcome::Done(revision) => revision,
        other => panic!("{transaction:?}: {other:?}"),
    }
}

/// Watches until a value with that key comes, and returns all up to it.
async fn until(engine: &Etcd, from: Revision, key: FleetKey) -> Vec<FleetValue> {
    let (mut all, mut next) = (Vec::<FleetValue>::new(), from);
    loop {
        let Ok(mut watch) = engine.watch(next).await else { continue };
        while let Ok(watched) = watch.next().await {
            all.extend(watched.values);
            if all.iter().any(|value| value.key == key) {
                return all;
            }
            next = all.last().map_or(next, |last| Revision(last.revision.0 + 1));
        }
        engine.leave_node();
    }
}

/// All that there is, in the order in which it was put.
async fn all_of(engine: &Etcd) -> (Revision, Vec<FleetValue>) {
    let (at, mut all) = read_all(engine, KeyRange::all(), None).await.unwrap();
    all.sort_unstable_by_key(|value| value.revision);
    (at, all)
}

/// What comes before the first record of a shard.
async fn begin(engine: &Etcd, by: ShardRun) {
    let run = FleetKey::Run(by.run.host);
    engine.put(&run, run_value(by.run).as_bytes()).await.unwrap();
    engine.put(&FleetKey::Record(RecordKey { by, number: 0 }), &[]).await.unwrap();
}

#[test]
fn an_owner_records_until_another_has_claimed_the_table() {
    let cluster = Cluster::start();
    run(async {
        let (a, b) = (cluster.engine("cell"), cluster.engine("cell"));
        begin(&a, A).await;
        let first = done(&a, A, &claim(A, 1, table(7), None), &[]).await;
        let other = done(&a, A, &claim(A, 2, table(8), None), &[]).await;
        assert!(other > first);
        let tables = vec![(table(7), first), (table(8), other)];
        let record = |number| Transaction::Record { number, tables: tables.clone() };
        let key = |number| RecordKey { by: A, number };
        let change = Change::Used { port: MappedPort(4000) };
        let changes = vec![(Timestamp::from_micros(5), table(7), change)];
        let recorded = done(&a, A, &record(1), &body_of(&key(1), &changes)).await;
        assert_eq!(known(&a, A, &record(1), b"x").await, Outcome::Done(recorded));
        // One that does not follow the last one: it was sent long ago, or never.
        assert_eq!(known(&a, A, &record(3), b"x").await, Outcome::Refused(Vec::new()));
        // Nor one of a run that has ended.
        let ended = ShardRun { run: HostRun { number: 10, ..A.run }, ..A };
        a.put(&FleetKey::Record(RecordKey { by: ended, number: 0 }), &[]).await.unwrap();
        assert_eq!(known(&a, ended, &record(1), b"x").await, Outcome::Refused(Vec::new()));
        // A claim whose condition does not hold, from somebody who has not seen the last.
        for seen in [None, Some(Revision(first.0 - 1)), Some(recorded)] {
            let outcome = known(&b, B, &claim(B, 1, table(7), seen), &[]).await;
            assert_eq!(outcome, Outcome::Refused(vec![table(7)]));
        }
        let confirm = Transaction::Confirm { tables: tables.clone() };
        assert!(matches!(known(&a, A, &confirm, &[]).await, Outcome::Done(_)));
        let taken = done(&b, B, &claim(B, 2, table(7), Some(first)), &[]).await;
        // All of it or nothing: the other table is A's still.
        assert_eq!(known(&a, A, &record(2), b"x").await, Outcome::Refused(vec![table(7)]));
        assert_eq!(known(&a, A, &confirm, &[]).await, Outcome::Refused(vec![table(7)]));
        let nothing = Transaction::Confirm { tables: Vec::new() };
        assert!(matches!(known(&a, A, &nothing, &[]).await, Outcome::Done(_)));
        // What A sends again was done before, and is not done again.
        assert_eq!(known(&a, A, &record(1), b"x").await, Outcome::Done(recorded));
        // What it claimed is another's.
        let again = claim(A, 1, table(7), None);
        assert_eq!(known(&a, A, &again, &[]).await, Outcome::Refused(vec![table(7)]));
        let again = claim(B, 2, table(7), Some(first));
        assert_eq!(known(&b, B, &again, &[]).await, Outcome::Done(taken));

        // Everybody sees the same, in the same order; and who comes later reads it.
        let seen = until(&b, first, FleetKey::Owner(table(7))).await;
        assert_eq!(seen[0].revision, first);
        let seen = until(&b, recorded, FleetKey::Owner(table(7))).await;
        let is_some = |value: &&FleetValue| value.value.as_deref() != Some(&[]);
        let revisions = seen.iter().filter(is_some).map(|value| value.revision);
        assert_eq!(revisions.collect::<Vec<_>>(), [recorded, taken]);
        assert_eq!(seen[0].key, FleetKey::Record(key(1)));
        let value = seen[0].value.as_deref().unwrap();
        assert_eq!(changes_of(&key(1), value), Ok(changes));
        let (at, all) = all_of(&b).await;
        assert_eq!(at, taken);
        let all = all.iter().filter(|value| !matches!(value.key, FleetKey::Run(_)));
        let revisions: Vec<_> = all.filter(is_some).map(|value| value.revision).collect();
        assert_eq!(revisions, [other, recorded, taken]);
        // Another cell on the same etcd has nothing of it.
        assert_eq!(all_of(&cluster.engine("cell2")).await.1, []);
    });
}

#[test]
fn what_two_hosts_put_first_is_one_thing_and_more_than_a_page_is_read() {
    let cluster = Cluster::start();
    run(async {
        let engine = cluster.engine("cell");
        let secret = FleetKey::Secret(0);
        let other = cluster.engine("cell");
        for (engine, value) in [(&engine, b"one"), (&other, b"two")] {
            let first = answered(async || engine.put_first(&secret, value).await).await;
            assert_eq!(first, b"one");
        }
        for number in 0..600 {
            answered(async || engine.put(&FleetKey::Host(HostId(number)), b"x").await).await;
        }
        let (_, all) = all_of(&engine).await;
        assert_eq!(all.len(), 601);
        assert!(all.is_sorted_by_key(|value| value.revision));
    });
}

#[test]
fn who_watches_what_is_not_kept_reads_all_anew() {
    let cluster = Cluster::start();
    run(async {
        let engine = cluster.engine("cell");
        let first = done(&engine, A, &claim(A, 1, table(7), None), &[]).await;
        let last = done(&engine, A, &claim(A, 2, table(7), Some(first)), &[]).await;
        cluster.ask(&["compaction", &last.0.to_string()]).expect("it is compacted");
        let ended = async {
            loop {
                let Ok(mut watch) = engine.watch(first).await else { continue };
                loop {
                    match watch.next().await {
                        Ok(_) => {}
                        Err(WatchEnded::Compacted) => return,
                        Err(WatchEnded::Away(_)) => break,
                    }
                }
            }
        };
        ended.await;
        let (at, all) = all_of(&engine).await;
        assert_eq!((at, all.len(), all[0].revision), (last, 1, last));
        assert_eq!(until(&engine, last, FleetKey::Owner(table(7))).await.len(), 1);
    });
}

/// Records until a node that is struck was noticed; then what was recorded is there, once each.
/// Returns the longest time between two that were.
fn records_while(cluster: &mut Cluster, strike: impl FnOnce(&mut Cluster)) -> Duration {
    const BEFORE: u64 = 50;
    const AFTER: u64 = 50;
    run(async {
        let engine = cluster.engine("cell");
        begin(&engine, A).await;
        let claimed = done(&engine, A, &claim(A, 1, table(7), None), &[]).await;
        let tables = vec![(table(7), claimed)];
        let (mut longest, mut last, mut strike) = (Duration::ZERO, Instant::now(), Some(strike));
        for number in 1..=BEFORE + AFTER {
            if number == BEFORE
                && let Some(strike) = strike.take()
            {
                strike(cluster);
                last = Instant::now();
            }
            let record = Transaction::Record { number, tables: tables.clone() };
            done(&engine, A, &record, format!("{number}").as_bytes()).await;
            if number >= BEFORE {
                longest = longest.max(last.elapsed());
            }
            last = Instant::now();
        }
        let end = FleetKey::Record(RecordKey { by: A, number: BEFORE + AFTER });
        let all = until(&engine, claimed, end).await;
        let numbers: Vec<_> = all
            .iter()
            .filter_map(|value| match value.key {
                FleetKey::Record(key) => Some(key.number),
                _ => None,
            })
            .collect();
        assert_eq!(numbers, (1..=BEFORE + AFTER).collect::<Vec<_>>());
        longest
    })
}

#[test]
fn a_leader_that_is_killed_loses_nothing_that_was_recorded() {
    let mut cluster = Cluster::start();
    let leader = cluster.wait_for_leader();
    let gap = records_while(&mut cluster, |cluster| cluster.kill(leader));
    println!("leader killed: {gap:?} without a record");
    cluster.begin(leader);
    cluster.wait_for_leader();
}

#[test]
fn a_leader_that_is_stopped_is_left() {
    let mut cluster = Cluster::start();
    let leader = cluster.wait_for_leader();
    let gap = records_while(&mut cluster, |cluster| cluster.signal(leader, libc::SIGSTOP));
    println!("leader stopped: {gap:?} without a record");
    cluster.signal(leader, libc::SIGCONT);
}

#[test]
fn without_a_majority_nothing_is_known_and_then_it_is() {
    let cluster = Cluster::start();
    run(async {
        let engine = cluster.engine("cell");
        begin(&engine, A).await;
        let claimed = done(&engine, A, &claim(A, 1, table(7), None), &[]).await;
        let tables = vec![(table(7), claimed)];
        let record = Transaction::Record { number: 1, tables: tables.clone() };
        let confirm = Transaction::Confirm { tables };
        (0..2).for_each(|node| cluster.signal(node, libc::SIGSTOP));
        // What only reads is not answered by one node for itself.
        for _ in 0..4 {
            assert_eq!(engine.transact(A, &record, b"1").await, Outcome::Unknown);
            assert_eq!(engine.transact(A, &confirm, &[]).await, Outcome::Unknown);
        }
        assert!(!engine.why_away().is_empty());
        (0..2).for_each(|node| cluster.signal(node, libc::SIGCONT));
        let at = done(&engine, A, &record, b"1").await;
        let key = FleetKey::Record(RecordKey { by: A, number: 1 });
        let all = until(&engine, claimed, key).await;
        assert_eq!(all.iter().map(|value| value.revision).collect::<Vec<_>>(), [claimed, at]);
    });
}
