//! kill -9 under load, again and again, on one state directory and one log. What any NAT64 was ever
//! told must be so afterwards, and must stand in the log once.

use crate::dice::Dice;
use crate::field::Field;
use crate::harness::process::wait_until;
use crate::harness::skip::cannot_run;
use crate::judge::PATIENCE;
use crate::judge::names::Names;
use crate::peers::Place;
use crate::record::Record;
use crate::worker::Worker;
use std::thread;
use std::time::{Duration, Instant};

const KILLS: usize = 200;
/// Rounds from one full comparison of the log with the server's answers to the next.
const FULL_EACH: usize = 20;

struct Plan<'a> {
    name: &'static str,
    /// Options of the server.
    sync: &'a [&'a str],
    max_entries: &'static str,
    nat64s: u32,
    /// Whether all NAT64s are known before the first kill (at the entry limit none is admitted).
    known_first: bool,
    /// How many kills of those that were asked for, in percent.
    share: usize,
    news_max: u32,
}

#[test]
fn crash_kill_sync_none() {
    run(&Plan {
        name: "crash_kill_sync_none",
        sync: &["--sync", "none"],
        max_entries: "1500",
        nat64s: 5,
        known_first: true,
        share: 40,
        news_max: 60,
    });
}

#[test]
fn crash_kill_sync_interval() {
    run(&Plan {
        name: "crash_kill_sync_interval",
        sync: &[],
        max_entries: "1000000",
        nat64s: 8,
        known_first: false,
        share: 40,
        news_max: 60,
    });
}

#[test]
fn crash_kill_sync_always() {
    run(&Plan {
        name: "crash_kill_sync_always",
        sync: &["--sync", "always"],
        max_entries: "2000",
        nat64s: 4,
        known_first: true,
        share: 20,
        news_max: 60,
    });
}

/// Clients get addresses of a pool that is too small for all, and are idle at once: each begins
/// and ends once, whenever the server is killed.
#[test]
fn crash_kill_names_full() {
    run_with_names("crash_kill_names_full", &["--log-format", "full", "--sync", "always"]);
}

#[test]
fn crash_kill_names_json() {
    run_with_names("crash_kill_names_json", &["--log-format", "json"]);
}

fn run_with_names(name: &'static str, more: &[&str]) {
    let place = Place::make().unwrap_or_else(|missing| cannot_run(&missing));
    let words = [place.attaching(), vec!["--peer-names".into(), "both".into()]].concat();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let (code, _, said) = crate::run::run(&words);
    assert_eq!(code, 0, "{said}");
    let maps = place.maps();
    let names = ["--peer-names", "both", "--peer-maps", &maps, "--peer-pool", "10.64.0.0/21"];
    let names =
        [&names[..], &["--peer-pool-for", "address", "--peer-pool-idle", "0s"], more].concat();
    let record = run(&Plan {
        name,
        sync: &names,
        max_entries: "1500",
        nat64s: 4,
        known_first: true,
        share: 20,
        news_max: 60,
    });
    let Names { named, unnamed, .. } = record.names;
    println!("{name}: {named} named, {unnamed} unnamed");
    assert!(named > 500 && unnamed > 100, "this was no load: {named} named, {unnamed} unnamed");
}

/// A tenth of the rounds of the others, each with a kill between logrotate's rename and SIGHUP: the
/// lines that the dead server owes belong to a file that has another name now.
#[test]
fn crash_kill_between_rename_and_reopen() {
    let mut dice = Dice::new("crash_kill_between_rename_and_reopen");
    let mut field = Field::new(&mut dice, 3);
    field.server.start(&["--reactors", "2"]);
    field.workers.iter_mut().for_each(Worker::introduce);
    for round in 1..=(kills() / 10).max(3) {
        field.in_load(40, |server, record| {
            thread::sleep(Duration::from_millis(dice.range(5, 20)));
            record.rename();
            thread::sleep(Duration::from_micros(dice.range(0, 3000)));
            if dice.percent(50) {
                server.signal(libc::SIGHUP);
            }
            server.kill();
        });
        field.server.start(&["--reactors", "2"]);
        field.verify(&format!("round {round}"), true);
    }
    field.finish(&[]);
}

pub fn kills() -> usize {
    match std::env::var("NAT64HANDOFF_KILLS") {
        Ok(count) => count.parse().expect("NAT64HANDOFF_KILLS is a number"),
        Err(_) => KILLS,
    }
}

fn run(plan: &Plan<'_>) -> Record {
    let start = Instant::now();
    let mut dice = Dice::new(plan.name);
    let rounds = (kills() * plan.share / 100).max(3);
    let mut field = Field::new(&mut dice, plan.nat64s);
    let base = [plan.sync, &["--max-entries", plan.max_entries]].concat();
    field.server.start(&[&base[..], &["--reactors", "2"]].concat());
    if plan.known_first {
        field.workers.iter_mut().for_each(Worker::introduce);
    }
    let mut killed = 0;
    let mut round = 0;
    while killed < rounds {
        round += 1;
        let load = Duration::from_micros(dice.range(2_000, 60_000));
        let (clean, rotate) = (dice.percent(10), dice.percent(10));
        field.in_load(plan.news_max, |server, record| {
            thread::sleep(load);
            if rotate {
                record.rename();
                server.signal(libc::SIGHUP);
                let log = server.log.clone();
                assert!(wait_until(PATIENCE, || log.exists()), "SIGHUP: no new log");
                thread::sleep(load / 4);
            }
            if clean {
                server.stop();
            } else {
                server.kill();
                killed += 1;
            }
        });
        if clean {
            field.check_log_at_end(&format!("round {round}, after SIGTERM"));
        }
        // Only known NAT64s count on what they find; the others come one by one.
        let reactors = ["1", "2", "3"][dice.below(3)];
        let options = [&base[..], &["--reactors", reactors]].concat();
        while dice.percent(25) && killed < rounds {
            // Killed while it starts, sometimes with requests at its door.
            field.server.spawn(&options);
            let load = Duration::from_micros(dice.range(0, 60_000));
            if dice.percent(50) {
                field.in_load(plan.news_max, |server, _| {
                    thread::sleep(load);
                    server.kill();
                });
            } else {
                thread::sleep(load);
                field.server.kill();
            }
            killed += 1;
        }
        field.server.start(&options);
        let what = format!("round {round}, {killed} kills, --reactors {reactors}");
        field.verify(&what, round % FULL_EACH == 0);
    }
    let announced = field.finish(&base);
    println!(
        "{}: {killed} kills in {} rounds, {announced} announcements, {} log lines, {:.1} s",
        plan.name,
        round,
        field.record.lines,
        start.elapsed().as_secs_f32()
    );
    assert!(announced > 20 * killed, "this was no load: {announced} announcements");
    field.record
}
