//! `nat64handoff status`, for people.

use std::fmt::Write;

use crate::programs::ask::units::Units;
use crate::programs::report::{DropStatus, Rated, Status, TableStatus};

/// From this part of a limit on, it is one to look after.
const NEARLY_FULL: f64 = 0.875;
/// A file system with less room than this part of it, too.
const NEARLY_FULL_DISK: f64 = 0.05;

/// All of it, as lines.
pub fn text(status: &Status, units: Units) -> String {
    let mut text = String::new();
    head(&mut text, status, units);
    work(&mut text, status, units);
    records(&mut text, status, units);
    drops(&mut text, status, units);
    tables(&mut text, status, units);
    text
}

/// A line with what it is about in front.
fn line(text: &mut String, about: &str, said: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{about:<12}{said}");
}

fn head(text: &mut String, status: &Status, units: Units) {
    let up = units.seconds(status.uptime_seconds);
    let version = format!("nat64handoff {}, process {}", status.version, status.process);
    line(text, "runs", &format!("{version}, for {up}, since {}", status.since));
    line(text, "program", &status.program);
    let (listen, io) = (status.listen.join(", "), &status.io);
    line(text, "listens at", &format!("{listen}, {} reactors, {io}", status.reactors));
    match status.ready {
        true => line(text, "ready", "new clients are answered"),
        false => {
            line(text, "ready", &units.wrong("no: new clients get no answer, known ones do"));
            status.not_ready.iter().for_each(|why| line(text, "", &units.wrong(why)));
        }
    }
    if let Some(update) = &status.update {
        let last = update.last.as_deref().unwrap_or("no update was tried yet");
        line(text, "release", &format!("{}; last update: {last}", update.release));
    }
}

/// How much there is, and how fast it comes.
fn work(text: &mut String, status: &Status, units: Units) {
    let limited = [
        ("NAT64s", Some(status.nat64s), "--max-nat64s"),
        ("entries", Some(status.entries), "--max-entries"),
        ("IPv4 names", status.pool, "--peer-pool"),
    ];
    for (about, of, option) in limited {
        let Some(of) = of else { continue };
        let (used, max) = (units.count(of.used), units.count(of.max));
        let said = format!("{used} of {max} ({option}), {}", units.part(of.used, of.max));
        let is_near = of.used as f64 >= NEARLY_FULL * of.max as f64;
        line(text, about, &if is_near { units.warning(&said) } else { said });
    }
    if let Some(fleet) = &status.fleet {
        let (tables, revision) = (units.count(fleet.tables), fleet.revision);
        let said = format!(
            "host {} of cell {}: has {tables} tables{}, and all up to revision {revision}",
            fleet.host,
            fleet.cell,
            if fleet.drains { ", as it gives them away" } else { "" },
        );
        line(text, "fleet", &said);
        let done = fleet.transaction_seconds_ago;
        let done = done.map_or("never".to_owned(), |ago| format!("{ago:.1} s ago"));
        let said = format!(
            "{} of {} nodes answer, the last transaction was {done}; {} revisions and {:.1} s behind",
            fleet.nodes_answering,
            fleet.nodes,
            units.count(fleet.behind_revisions),
            fleet.behind_seconds,
        );
        let is_lacking = 2 * fleet.nodes_answering <= fleet.nodes;
        line(text, "etcd", &if is_lacking { units.warning(&said) } else { said });
    }
    let rated = |name: &str| {
        let Rated { total, per_second } = status.counters.get(name).copied().unwrap_or_default();
        let rate = units.rate_over(per_second, status.rates_over_seconds);
        format!("{rate} now, {} in all", units.count(total))
    };
    line(text, "requests", &rated("datagrams"));
    line(text, "answers", &rated("replies"));
    line(text, "new entries", &rated("created"));
    if status.bans > 0 {
        line(text, "banned", &format!("{}; see nat64handoff bans", units.count(status.bans)));
    }
    let sent = status.validation.sent;
    let most = units.count(status.validation.rate_max);
    line(
        text,
        "validation",
        &format!(
            "{} of {most}/s (--validation-rate), {} in all, {} identities learned",
            units.rate_over(sent.per_second, status.rates_over_seconds),
            units.count(sent.total),
            units.count(status.validation.learned.total)
        ),
    );
    let batches = &status.batches;
    if batches.count > 0 {
        let [half, most] = [batches.nanoseconds_half, batches.nanoseconds_99]
            .map(|nanos| units.seconds(nanos as f64 / 1e9));
        let sizes = format!("{} and {} requests", batches.datagrams_half, batches.datagrams_99);
        line(
            text,
            "batches",
            &format!("half and 99 of 100 have at most {sizes}, and take {half} and {most}"),
        );
    }
}

/// Journal, log and disks.
fn records(text: &mut String, status: &Status, units: Units) {
    match &status.journal {
        Some(journal) => {
            let said = format!(
                "{}, {} of the limit; {} records not durable yet (--sync {}); a sync takes {}, 99 of \
                 100 at most {}",
                units.octets(journal.octets),
                units.part(journal.fullest.used, journal.fullest.max),
                units.count(journal.unsynced_records),
                journal.sync,
                units.seconds(journal.sync_microseconds_half as f64 / 1e6),
                units.seconds(journal.sync_microseconds_99 as f64 / 1e6),
            );
            line(text, "journal", &said);
            if journal.failed {
                line(
                    text,
                    "",
                    &units.wrong(
                        "it cannot be written any more: see the kernel's log, and start again",
                    ),
                );
            }
        }
        None => line(text, "journal", "none"),
    }
    if let Some(log) = &status.log {
        let waits = if log.waits_for_system { ", which is waited for" } else { "" };
        let said = format!(
            "{}{waits}; {} of at most {} lines wait; {} written",
            log.name,
            units.count(log.waiting.used),
            units.count(log.waiting.max),
            units.count(log.written)
        );
        let is_near = log.waiting.used as f64 >= log.waiting.max as f64 / 2.0;
        line(text, "log", &if is_near { units.warning(&said) } else { said });
    }
    for disk in &status.disks {
        let (free, size) = (units.octets(disk.free_octets), units.octets(disk.size_octets));
        let said =
            format!("{free} of {size} are free, with the {} in {}", disk.holds, disk.directory);
        let is_near = (disk.free_octets as f64) < NEARLY_FULL_DISK * disk.size_octets as f64;
        line(text, "disk", &if is_near { units.warning(&said) } else { said });
    }
}

fn drops(text: &mut String, status: &Status, units: Units) {
    if status.drops.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{}", units.heading("Without an answer, and what to do"));
    for DropStatus { reason, total, per_second, concerns, advice } in &status.drops {
        let rate = units.rate_over(*per_second, status.rates_over_seconds);
        let total = units.count(*total);
        let said = format!("{reason:<28}{total:>8} {rate:>10}  {advice}");
        let is_now = concerns == "operator" && *per_second > 0.0;
        let _ = writeln!(text, "{}", if is_now { units.warning(&said) } else { said });
    }
}

fn tables(text: &mut String, status: &Status, units: Units) {
    if status.tables.is_empty() {
        return;
    }
    let columns =
        ["NAT64", "at", "entries", "of", "live", "requests", "new", "last seen", "identities"];
    let over = status.tables_rates_over_seconds;
    let rows = status.tables.iter().map(|table| row(table, over, units));
    let rows: Vec<_> = [columns.map(str::to_owned)].into_iter().chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns.len()).map(width).collect();
    let _ = writeln!(text);
    for (number, row) in rows.iter().enumerate() {
        let cells = row.iter().zip(&widths).enumerate();
        let cells = cells.map(|(column, (cell, &width))| match column {
            0 | 1 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        let said = cells.collect::<Vec<_>>().join("  ");
        let _ = writeln!(text, "{}", if number == 0 { units.heading(&said) } else { said });
    }
    let more = status.tables_all - status.tables.len().min(status.tables_all);
    if more > 0 {
        let _ = writeln!(
            text,
            "and {more} more, which are not as full: --tables {}",
            status.tables_all
        );
    }
}

fn row(table: &TableStatus, over: f64, units: Units) -> [String; 9] {
    let going = if table.going { ", going" } else { "" };
    [
        table.nat64.clone(),
        table.local.clone(),
        units.count(table.entries.used),
        units.part(table.entries.used, table.entries.max),
        table.live_connections.map_or("?".into(), |live| units.count(live)),
        units.rate_over(table.requests.per_second, over),
        units.rate_over(table.created.per_second, over),
        format!("{} ago{going}", units.seconds(table.last_seen_seconds)),
        table.identities.iter().filter(|identity| identity.known).count().to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::programs::report::{Capacity, JournalStatus, LogStatus};

    #[test]
    fn what_is_wrong_is_named() {
        let mut status = Status {
            version: "1.2.3".into(),
            ready: false,
            not_ready: vec!["reactor 1 cannot record".into()],
            nat64s: Capacity { used: 999, max: 1000 },
            pool: Some(Capacity { used: 77, max: 1_048_574 }),
            journal: Some(JournalStatus { failed: true, ..JournalStatus::default() }),
            log: Some(LogStatus { waits_for_system: true, ..LogStatus::default() }),
            tables_all: 30,
            ..Status::default()
        };
        let drops = DropStatus { reason: "no_port".into(), total: 1234, ..DropStatus::default() };
        status.drops.push(drops);
        status.tables.push(TableStatus { nat64: "192.0.2.7".into(), ..TableStatus::default() });
        let people = text(&status, Units { for_people: true });
        let programs = text(&status, Units { for_people: false });
        for said in [
            "1.2.3",
            "new clients get no answer",
            "reactor 1 cannot record",
            "999 of 1000",
            "77 of 1048574 (--peer-pool)",
            "cannot be written any more",
            "which is waited for",
            "no_port",
            "192.0.2.7",
            "29 more",
        ] {
            assert!(programs.contains(said), "{said}: {programs}");
        }
        assert!(programs.contains(" 1234 ") && people.contains(" 1.2 k "), "{people}");
        assert!(people.contains("\x1b[1;31m") && !programs.contains('\x1b'));
    }
}
