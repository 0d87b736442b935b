//! What `GET /status` says: see [`Status`].

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;

use crate::disk::eventlog::QUEUE_EVENTS;
use crate::disk::fs::parent;
use crate::handoff::change::{Now, Timestamp};
use crate::handoff::histogram::{Histogram, HistogramCounts};
use crate::handoff::identity::SeenIdentity;
use crate::handoff::stats::{Concern, Counter, DropReason, Stats};
use crate::programs::options::{LogDestination, VERSION};
use crate::programs::report::{
    BatchStatus, Capacity, DiskStatus, DrainReport, DropStatus, FleetStatus, IdentityStatus,
    JournalStatus, LogStatus, Rated, Status, TableStatus, UpdateStatus, ValidationStatus, rfc3339,
};
use crate::programs::serve::admin::samples::Sample;
use crate::programs::serve::admin::survey::{Survey, Surveyed};
use crate::programs::serve::admin::{AdminShared, Gauges};
use crate::programs::serve::inquiry::{Inquiry, NoAnswer, Question};

/// How long a file system may take to say how full it is.
const DISK_WAIT: Duration = Duration::from_secs(1);
/// The most octets of what the last update left that are read.
const UPDATE_MAX: usize = 1024;

/// Says all, with at most so many tables. Where a reactor does not answer, none are told.
pub async fn status(shared: &AdminShared, tables_max: usize) -> Status {
    let survey = shared.state.surveys.lock().await.take(shared).await;
    let not_ready = not_ready(shared).await;
    let disks = disks(shared).await;
    let now = shared.clock.now();
    let gauges = shared.gauges.get();
    let sample = Sample::take(shared, now);
    let mut status = Status {
        version: VERSION.to_owned(),
        program: program().display().to_string(),
        process: process::id(),
        time: rfc3339(now.wall),
        since: rfc3339(shared.since),
        uptime_seconds: seconds(now.wall, shared.since),
        listen: shared.listen.iter().map(ToString::to_string).collect(),
        reactors: shared.desks.len(),
        io: shared.io.name().to_owned(),
        ready: not_ready.is_empty(),
        not_ready,
        nat64s: Capacity { used: sample.nat64s, max: shared.config.nat64s_max as u64 },
        entries: Capacity { used: sample.entries, max: shared.config.entries_max as u64 },
        bans: shared.bans.count(),
        pool: pool(shared),
        fleet: fleet(shared),
        batches: batches(shared),
        journal: gauges.and_then(|gauges| journal(shared, gauges)),
        disks,
        log: gauges.map(|gauges| log(shared, gauges)),
        update: update(&program()),
        ..Status::default()
    };
    shared.with_samples(|samples| rates(&mut status, &sample, samples.before(now.monotonic)));
    status.validation.rate_max = shared.config.validation_rate.into();
    if let Ok(survey) = survey {
        add_tables(&mut status, &survey, now, tables_max);
    }
    status
}

/// Why new clients are not answered, a line each.
pub async fn not_ready(shared: &AdminShared) -> Vec<String> {
    let mut lines = Vec::new();
    if shared.gauges.get().is_none() {
        lines.push("the event log is not complete yet, so nothing new can be recorded".to_owned());
    }
    let mut frozen: BTreeMap<&str, usize> = BTreeMap::new();
    for (reactor, answer) in ask_all(shared, |inquiry| inquiry.frozen).await.into_iter().enumerate()
    {
        match answer {
            Ok(None) => {}
            Ok(Some(reason)) => *frozen.entry(advice_of(reason)).or_default() += 1,
            Err(error) => lines.push(format!("reactor {reactor}: {error}")),
        }
    }
    if shared.fleet.as_ref().is_some_and(|fleet| !fleet.is_ready()) {
        let why = "--fleet: the cell was not read yet, or etcd does not answer, or this host stops";
        lines.push(why.to_owned());
    }
    let all = shared.desks.len();
    lines.extend(frozen.iter().map(|(why, count)| format!("{count} of {all} reactors: {why}")));
    lines
}

/// How it does in its fleet, if it has one.
pub fn fleet(shared: &AdminShared) -> Option<FleetStatus> {
    let (state, options) = (shared.fleet.as_ref()?, shared.config.fleet_options()?);
    let gauges = state.gauges();
    let read = |gauge: &AtomicU64| gauge.load(Ordering::Acquire);
    let now = shared.clock.now().monotonic.as_micros() as u64;
    let ago = |at: u64| now.saturating_sub(at) as f64 / 1e6;
    let revision = read(&gauges.watched);
    let done_at = Some(read(&gauges.done_at)).filter(|&at| at > 0);
    Some(FleetStatus {
        cell: options.cell.to_string(),
        host: options.host,
        tables: state.owned(),
        revision,
        behind_revisions: read(&gauges.newest).saturating_sub(revision),
        behind_seconds: ago(read(&gauges.watched_at)),
        nodes_answering: read(&gauges.answering),
        nodes: read(&gauges.nodes),
        transaction_seconds_ago: done_at.map(ago),
        log_octets: read(&gauges.log),
        snapshot_octets: read(&gauges.snapshots),
        hears_others: state.hears_others(),
        drains: state.leaves(),
    })
}

/// How long a host that drains is waited for.
const DRAIN_WAIT: Duration = Duration::from_secs(10);
/// How often it is looked.
const DRAIN_LOOKED: Duration = Duration::from_millis(50);

/// Has this host give all its tables to others, and waits for that.
///
/// # Errors
/// There is no fleet, or nobody else.
pub async fn drain(shared: &AdminShared) -> Result<DrainReport, String> {
    let Some(state) = &shared.fleet else {
        return Err("this server shares its tables with no other host: there is no --fleet".into());
    };
    if !state.hears_others() {
        return Err(
            "no other host of the cell is heard that does not leave itself: nobody could answer"
                .into(),
        );
    }
    let tables = state.owned();
    state.leave();
    for _ in 0..DRAIN_WAIT.as_millis() / DRAIN_LOOKED.as_millis() {
        // It is seen with the next tick.
        tokio::time::sleep(DRAIN_LOOKED).await;
        if state.owned() == 0 && !state.is_ready() {
            return Ok(DrainReport { tables });
        }
    }
    Err(format!(
        "{} of {tables} tables are not given away yet: see whether etcd and the others answer, and ask again",
        state.owned()
    ))
}

/// Which reactors make no turns, a line each.
pub async fn not_answering(shared: &AdminShared) -> Vec<String> {
    let answers = ask_all(shared, |_| ()).await.into_iter().enumerate();
    let silent = answers.filter_map(|(reactor, answer)| Some((reactor, answer.err()?)));
    silent.map(|(reactor, error)| format!("reactor {reactor}: {error}")).collect()
}

/// Asks all reactors at once whether they make turns.
async fn ask_all<T>(
    shared: &AdminShared,
    read: impl Fn(&Inquiry) -> T + Copy,
) -> Vec<Result<T, NoAnswer>> {
    let ask = |reactor| shared.ask(reactor, Question::Alive, read);
    join_all((0..shared.desks.len()).map(ask)).await
}

fn advice_of(reason: DropReason) -> &'static str {
    reason.advice().map_or("", |advice| advice.text)
}

/// What stands in [`Status`] as a number since the start, and a rate.
fn rates(status: &mut Status, sample: &Sample, before: Option<&Sample>) {
    let over = before.map_or(Duration::ZERO, |before| sample.at.saturating_sub(before.at));
    let rated = |of: &dyn Fn(&Sample) -> u64| {
        let total = of(sample);
        let risen = before.map_or(0, |before| total.saturating_sub(of(before)));
        Rated { total, per_second: per_second(risen, over) }
    };
    status.rates_over_seconds = over.as_secs_f64();
    let counter = |counter: Counter| rated(&move |sample| sample.counter(counter));
    let named = |&each: &Counter| (each.name().to_owned(), counter(each));
    status.counters = Counter::ALL.iter().map(named).collect();
    status.validation = ValidationStatus {
        sent: counter(Counter::ValidationPackets),
        rate_max: 0,
        learned: counter(Counter::IdentitiesLearned),
    };
    let drops = DropReason::ALL.iter().filter(|&&reason| sample.dropped(reason) > 0);
    let drops = drops.map(|&reason| {
        let Rated { total, per_second } = rated(&move |sample| sample.dropped(reason));
        let advice = reason.advice();
        let concerns = match advice.map(|advice| advice.concern) {
            Some(Concern::Us) => "operator",
            _ => "sender",
        };
        DropStatus {
            reason: reason.name().to_owned(),
            total,
            per_second,
            concerns: concerns.to_owned(),
            advice: advice_of(reason).to_owned(),
        }
    });
    status.drops = drops.collect();
    let key = |drops: &DropStatus| (drops.concerns == "operator", drops.per_second, drops.total);
    status.drops.sort_by(|a, b| key(b).partial_cmp(&key(a)).unwrap_or(std::cmp::Ordering::Equal));
}

/// How many addresses of the pool stand for clients.
pub fn pool(shared: &AdminShared) -> Option<Capacity> {
    let pool = shared.pool.as_ref()?;
    Some(Capacity { used: pool.named(), max: pool.settings().addresses() })
}

fn per_second(risen: u64, over: Duration) -> f64 {
    if over.is_zero() { 0.0 } else { risen as f64 / over.as_secs_f64() }
}

fn seconds(now: Timestamp, then: Timestamp) -> f64 {
    now.as_micros().saturating_sub(then.as_micros()) as f64 / 1e6
}

/// Of all reactors together.
pub fn counted(shared: &AdminShared, of: impl Fn(&Stats) -> &Histogram) -> HistogramCounts {
    let mut counts = HistogramCounts::default();
    shared.stats.iter().for_each(|stats| counts.add(of(stats)));
    counts
}

fn batches(shared: &AdminShared) -> BatchStatus {
    let sizes = counted(shared, |stats| &stats.batch_sizes);
    let nanos = counted(shared, |stats| &stats.batch_nanos);
    let of = |counts: &HistogramCounts, part| counts.quantile(part).unwrap_or(0);
    BatchStatus {
        count: sizes.total(),
        datagrams_half: of(&sizes, 0.5),
        datagrams_99: of(&sizes, 0.99),
        nanoseconds_half: of(&nanos, 0.5),
        nanoseconds_99: of(&nanos, 0.99),
    }
}

fn journal(shared: &AdminShared, gauges: &Gauges) -> Option<JournalStatus> {
    let figures = gauges.journal.as_ref()?.read();
    Some(JournalStatus {
        sync: shared.config.sync.to_string(),
        octets: figures.octets,
        fullest: Capacity { used: figures.fullest.0, max: figures.fullest.1 },
        unsynced_records: figures.unsynced,
        syncs: figures.syncs.total(),
        sync_microseconds_half: figures.syncs.quantile(0.5).unwrap_or(0),
        sync_microseconds_99: figures.syncs.quantile(0.99).unwrap_or(0),
        failed: figures.failed,
    })
}

fn log(shared: &AdminShared, gauges: &Gauges) -> LogStatus {
    let max = (QUEUE_EVENTS * shared.desks.len()) as u64;
    LogStatus {
        name: gauges.log.name().to_owned(),
        written: gauges.log.written(),
        waiting: Capacity { used: gauges.log.unwritten(), max },
        waits_for_system: gauges.log.waits_for_system(),
    }
}

/// The file systems that the server writes to. One that hangs keeps one thread, and what was known
/// of all of them before is told.
pub async fn disks(shared: &AdminShared) -> Vec<DiskStatus> {
    let known = Arc::clone(&shared.state.disks);
    let told =
        |known: &KnownDisks| known.told.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if known.is_asked.swap(true, Ordering::AcqRel) {
        return told(&known);
    }
    let mut places = vec![("state", shared.config.state.clone())];
    if let LogDestination::File(path) = &shared.config.log {
        places.push(("log", parent(path).to_owned()));
    }
    let asking = Arc::clone(&known);
    let ask = tokio::task::spawn_blocking(move || {
        let disks = places.into_iter().filter_map(|(holds, path)| disk(holds, &path)).collect();
        *asking.told.lock().unwrap_or_else(PoisonError::into_inner) = disks;
        asking.is_asked.store(false, Ordering::Release);
    });
    // Who hangs goes on by itself.
    let _ = tokio::time::timeout(DISK_WAIT, ask).await;
    told(&known)
}

/// What is known of the file systems.
#[derive(Debug, Default)]
pub struct KnownDisks {
    /// They are being asked.
    is_asked: AtomicBool,
    told: Mutex<Vec<DiskStatus>>,
}

fn disk(holds: &str, path: &Path) -> Option<DiskStatus> {
    let told = rustix::fs::statvfs(path).ok()?;
    Some(DiskStatus {
        holds: holds.to_owned(),
        directory: path.display().to_string(),
        free_octets: told.f_bavail.saturating_mul(told.f_frsize),
        size_octets: told.f_blocks.saturating_mul(told.f_frsize),
    })
}

fn program() -> PathBuf {
    env::current_exe().unwrap_or_default()
}

/// What `install` left, where it put the program: `releases/NAME/nat64handoff`.
fn update(program: &Path) -> Option<UpdateStatus> {
    let release = program.parent()?;
    let releases = release.parent().filter(|path| path.ends_with("releases"))?;
    let last = fs::read_to_string(releases.parent()?.join("last-update")).ok();
    let last = last.map(|text| text.trim_end().chars().take(UPDATE_MAX).collect());
    Some(UpdateStatus { release: release.file_name()?.to_string_lossy().into_owned(), last })
}

fn add_tables(status: &mut Status, survey: &Survey, now: Now, most: usize) {
    let fullness =
        |table: &Surveyed| f64::from(table.seen.entries) / f64::from(table.seen.capacity.max(1));
    let mut tables: Vec<_> = survey.tables.values().collect();
    let worst_first = |a: &&Surveyed, b: &&Surveyed| {
        let by_fullness = fullness(b).total_cmp(&fullness(a));
        by_fullness.then(b.requests.cmp(&a.requests)).then(a.seen.key.cmp(&b.seen.key))
    };
    if most < tables.len() && most > 0 {
        tables.select_nth_unstable_by(most - 1, worst_first);
    }
    tables.truncate(most);
    tables.sort_unstable_by(worst_first);
    let over = survey.over.unwrap_or_default();
    status.tables = tables.into_iter().map(|table| table_status(table, now, over)).collect();
    status.tables_all = survey.tables.len();
    status.tables_age_seconds = now.monotonic.saturating_sub(survey.at).as_secs_f64();
    status.tables_rates_over_seconds = over.as_secs_f64();
}

fn table_status(
    Surveyed { seen, live, requests, created, .. }: &Surveyed,
    now: Now,
    over: Duration,
) -> TableStatus {
    let rated = |total, risen| Rated { total, per_second: per_second(risen, over) };
    TableStatus {
        nat64: seen.key.nat64.to_string(),
        local: seen.key.local.to_string(),
        entries: Capacity { used: seen.entries.into(), max: seen.capacity.into() },
        live_connections: *live,
        requests: rated(seen.requests, *requests),
        created: rated(seen.created, *created),
        since: rfc3339(wall(now, seen.since)),
        last_seen: rfc3339(wall(now, seen.last_used)),
        last_seen_seconds: now.monotonic.saturating_sub(seen.last_used).as_secs_f64(),
        identities: seen
            .identities()
            .iter()
            .map(|identity| identity_status(identity, now))
            .collect(),
        going: seen.is_going,
    }
}

/// What an operator may know of an identity.
pub fn identity_status(identity: &SeenIdentity, now: Now) -> IdentityStatus {
    let at = |second: u32| rfc3339(wall(now, Duration::from_secs(second.into())));
    IdentityStatus {
        port: identity.port,
        proved: at(identity.proved),
        last_used: at(identity.used),
        known: identity.is_known(now.monotonic.as_secs() as u32),
    }
}

/// The time of the wall clock that the monotonic clock was at.
fn wall(now: Now, then: Duration) -> Timestamp {
    let ago = now.monotonic.saturating_sub(then).as_micros() as u64;
    Timestamp::from_micros(now.wall.as_micros().saturating_sub(ago))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_is_known_by_where_the_program_is() {
        let home = tempfile::tempdir().unwrap();
        let release = home.path().join("releases").join("0123456789ab");
        fs::create_dir_all(&release).unwrap();
        let update = |path: &Path| update(path).map(|update| (update.release, update.last));
        assert_eq!(update(Path::new("/usr/bin/nat64handoff")), None);
        let program = release.join("nat64handoff");
        assert_eq!(update(&program), Some(("0123456789ab".to_owned(), None)));
        fs::write(home.path().join("last-update"), "2026-01-02 03:04:05 is current\n").unwrap();
        let last = Some("2026-01-02 03:04:05 is current".to_owned());
        assert_eq!(update(&program), Some(("0123456789ab".to_owned(), last)));
    }

    #[test]
    fn a_monotonic_time_is_one_of_the_wall_clock() {
        let now =
            Now { wall: Timestamp::from_micros(10_000_000), monotonic: Duration::from_secs(7) };
        assert_eq!(wall(now, Duration::from_secs(5)).as_micros(), 8_000_000);
        assert_eq!(wall(now, Duration::from_secs(9)).as_micros(), 10_000_000, "not later");
        assert_eq!(rfc3339(wall(now, Duration::from_secs(5))), "1970-01-01T00:00:08Z");
    }
}
