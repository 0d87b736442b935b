//! What `GET /metrics` says. Nothing in it has a label whose values a remote can choose, so its
//! length does not grow.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::handoff::ownership::HostDropReason;
use crate::handoff::stats::{Counter, DropReason};
use crate::programs::options::VERSION;
use crate::programs::prometheus::Metrics;
use crate::programs::serve::admin::samples::Sample;
use crate::programs::serve::admin::{AdminShared, status};

/// The buckets that a histogram tells, as powers of two.
const SIZES: [usize; 10] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
const BATCH_NANOS: [usize; 12] = [10, 11, 12, 13, 14, 15, 16, 17, 18, 20, 23, 27];
const SYNC_MICROS: [usize; 12] = [6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 18, 20];

/// All of them.
pub async fn metrics(shared: &AdminShared) -> String {
    let mut metrics = Metrics::default();
    let is_ready = status::not_ready(shared).await.is_empty();
    let disks = status::disks(shared).await;
    let sample = Sample::take(shared, shared.clock.now());
    let all = &mut metrics;
    all.begin("info", "gauge", "The program that runs.");
    all.value("info", &[("version", VERSION), ("io", shared.io.name())], 1);
    all.gauge(
        "start_time_seconds",
        "When it began to serve, since 1970.",
        shared.since.as_micros() as f64 / 1e6,
    );
    all.gauge("ready", "Whether new clients are answered: 1 or 0.", u8::from(is_ready));
    all.gauge("reactors", "Threads that handle requests.", shared.desks.len());
    all.gauge("nat64s", "NAT64s that are known.", sample.nat64s);
    all.gauge("nat64s_limit", "The most NAT64s (--max-nat64s).", shared.config.nat64s_max);
    all.gauge("entries", "Entries in all tables; an empty table counts as one.", sample.entries);
    all.gauge("entries_limit", "The most entries (--max-entries).", shared.config.entries_max);
    all.gauge("bans", "Clients and networks that are banned.", shared.bans.count());
    if let Some(pool) = status::pool(shared) {
        all.gauge("pool_used", "Addresses of the pool that stand for clients.", pool.used);
        all.gauge("pool_addresses", "Addresses of the pool (--peer-pool).", pool.max);
    }
    of_fleet(all, shared);
    for &counter in Counter::ALL {
        let name = format!("{}_total", counter.name());
        all.counter(&name, counter.meaning(), sample.counter(counter));
    }
    let help = "Requests, or parts of some, that got no answer, by reason.";
    all.begin("drops_total", "counter", help);
    for &reason in DropReason::ALL {
        all.value("drops_total", &[("reason", reason.name())], sample.dropped(reason));
    }
    of_batches(all, shared);
    of_records(all, shared);
    all.begin("disk_free_bytes", "gauge", "Room on the file system of the state and of the log.");
    for disk in &disks {
        all.value("disk_free_bytes", &[("holds", &disk.holds)], disk.free_octets);
    }
    all.begin("disk_size_bytes", "gauge", "Size of the file system of the state and of the log.");
    for disk in &disks {
        all.value("disk_size_bytes", &[("holds", &disk.holds)], disk.size_octets);
    }
    let help =
        "Times that the history of the event log could not be gone on with; it is tried again.";
    all.counter("history_failures_total", help, shared.history_failures.load(Ordering::Relaxed));
    let counts = &shared.state.counts;
    let help = "Connections to the admin socket or --web that were too many.";
    all.counter(
        "admin_connections_refused_total",
        help,
        counts.connections_refused.load(Ordering::Relaxed),
    );
    let help = "Answers of the admin socket or --web that were not read in time.";
    all.counter("admin_cut_off_total", help, counts.cut_off.load(Ordering::Relaxed));
    let help = "Requests to the admin socket or --web without the token, of another site or name.";
    all.counter(
        "admin_requests_refused_total",
        help,
        counts.requests_refused.load(Ordering::Relaxed),
    );
    metrics.into_text()
}

/// What is shared with other hosts.
fn of_fleet(all: &mut Metrics, shared: &AdminShared) {
    let (Some(fleet), Some(state)) = (status::fleet(shared), &shared.fleet) else { return };
    all.gauge("fleet_tables", "Tables that this host has.", fleet.tables);
    all.gauge("fleet_revision", "The revision of etcd up to which all was seen.", fleet.revision);
    let help = "Revisions of etcd that were not seen yet.";
    all.gauge("fleet_behind_revisions", help, fleet.behind_revisions);
    let help = "How long etcd has told nothing, not even that there is nothing.";
    all.gauge("fleet_behind_seconds", help, fleet.behind_seconds);
    all.gauge("fleet_nodes", "Nodes of etcd that are named.", fleet.nodes);
    all.gauge("fleet_nodes_answering", "Nodes of etcd that answer.", fleet.nodes_answering);
    if let Some(ago) = fleet.transaction_seconds_ago {
        all.gauge("fleet_transaction_age_seconds", "Since etcd did what was asked.", ago);
    }
    all.gauge("fleet_log_bytes", "Records in etcd.", fleet.log_octets);
    all.gauge("fleet_snapshot_bytes", "Snapshots in etcd.", fleet.snapshot_octets);
    all.gauge("fleet_drains", "Whether it gives its tables away: 1 or 0.", u8::from(fleet.drains));
    let help = "Ports with live connections on other hosts, of nearly full tables of this one.";
    all.gauge("fleet_live_elsewhere", help, state.live_elsewhere());
    let gauges = state.gauges();
    let read = |gauge: &AtomicU64| gauge.load(Ordering::Acquire);
    all.counter("fleet_transactions_total", "Transactions of etcd.", read(&gauges.done));
    let help = "Transactions that etcd did not answer in time; they were sent again.";
    all.counter("fleet_unanswered_total", help, read(&gauges.unanswered));
    let help = "How often this host has folded records into snapshots.";
    all.counter("fleet_folds_total", help, read(&gauges.folds));
    let help = "Datagrams that came as from other hosts and were dropped, by reason.";
    all.begin("fleet_datagrams_dropped_total", "counter", help);
    for reason in HostDropReason::ALL {
        let labels = [("reason", reason.name())];
        all.value("fleet_datagrams_dropped_total", &labels, gauges.dropped(reason));
    }
}

fn of_batches(all: &mut Metrics, shared: &AdminShared) {
    let sizes = status::counted(shared, |stats| &stats.batch_sizes);
    all.histogram("batch_datagrams", "Datagrams that were handled together.", &SIZES, 1.0, &sizes);
    let nanos = status::counted(shared, |stats| &stats.batch_nanos);
    let help = "From the receipt of one in 16 batches until its answers left, but for those that wait for the disk.";
    all.histogram("batch_duration_seconds", help, &BATCH_NANOS, 1e-9, &nanos);
}

/// Journal and event log.
fn of_records(all: &mut Metrics, shared: &AdminShared) {
    let Some(gauges) = shared.gauges.get() else { return };
    if let Some(journal) = &gauges.journal {
        let figures = journal.read();
        let (octets, limit) = figures.fullest;
        let fullest = octets as f64 / limit.max(1) as f64;
        all.gauge("journal_bytes", "What the journal takes besides its snapshots.", figures.octets);
        let help = "Part of its limit that the journal of a reactor has reached: at 1 there are no changes.";
        all.gauge("journal_fullest_ratio", help, fullest);
        let help = "Records that a power cut would take.";
        all.gauge("journal_unsynced_records", help, figures.unsynced);
        let help = "Whether a journal cannot be written until a restart: 1 or 0.";
        all.gauge("journal_failed", help, u8::from(figures.failed));
        let help = "How long it took to make the journal durable.";
        all.histogram("journal_sync_duration_seconds", help, &SYNC_MICROS, 1e-6, &figures.syncs);
    }
    all.counter("log_lines_total", "Lines written to the event log.", gauges.log.written());
    all.gauge("log_waiting_lines", "Lines of the event log that wait.", gauges.log.unwritten());
    let help = "Whether the event log waits for its disk or reader: 1 or 0.";
    all.gauge("log_waits_for_system", help, u8::from(gauges.log.waits_for_system()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handoff::stats::Concern;

    #[test]
    fn an_alert_knows_each_drop_that_is_the_operators() {
        let rules = include_str!("../../service/alerts.yml");
        let reasons = rules.split_once("reason=~\"").unwrap().1.split_once('"').unwrap().0;
        let is_ours = |reason: &&DropReason| {
            reason.advice().is_some_and(|advice| advice.concern == Concern::Us)
        };
        let ours: Vec<_> = DropReason::ALL.iter().filter(is_ours).map(|each| each.name()).collect();
        assert_eq!(reasons.split('|').collect::<Vec<_>>(), ours);
    }
}
