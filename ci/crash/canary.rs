//! Whether these tests can tell: with a server that was never killed all must agree, and whatever
//! is taken away from what it has must be missed.

use crate::dice::Dice;
use crate::field::Field;
use crate::harness::process::wait_until;
use crate::judge::PATIENCE;
use crate::record::Record;
use crate::worker::Worker;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::thread;
use std::time::Duration;

/// What the closure complains about.
fn complaint(what: &str, check: impl FnOnce()) -> String {
    let Err(panic) = catch_unwind(AssertUnwindSafe(check)) else {
        panic!("{what} was not noticed");
    };
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string())).unwrap()
}

fn busy_field(test: &str, options: &[&str], nat64s: u32) -> Field {
    let mut field = Field::new(&mut Dice::new(test), nat64s);
    field.server.start(options);
    field.workers.iter_mut().for_each(Worker::introduce);
    // Until there is something to be missed, however busy the cores are.
    let is_busy = |worker: &Worker| worker.told.len() > 100 && worker.tally()["conflicts"] > 0;
    for _ in 0..1000 {
        field.in_load(100, |_, _| thread::sleep(Duration::from_millis(30)));
        if field.workers.iter().all(is_busy) {
            return field;
        }
    }
    panic!("this is no load");
}

/// Load, evictions, rotations of tokens and of the log; nothing is killed: nothing may be missed.
#[test]
fn crash_control_nothing_happened() {
    let options = ["--reactors", "2", "--max-entries", "1500"];
    let mut field = busy_field("crash_control_nothing_happened", &options, 5);
    for round in 0..20 {
        field.in_load(60, |server, record| {
            thread::sleep(Duration::from_millis(20));
            if round % 4 == 0 {
                record.rename();
                server.signal(libc::SIGHUP);
                assert!(wait_until(PATIENCE, || server.log.exists()), "SIGHUP: no new log");
                thread::sleep(Duration::from_millis(10));
            }
        });
        field.workers.iter_mut().for_each(Worker::settle);
        field.verify(&format!("round {round}"), round % 5 == 0);
    }
    for worker in &field.workers {
        println!("  {}: {:?}", worker.nat64.address, worker.tally());
        let deleted = field.record.tables[&worker.nat64.address].deleted.len();
        assert!(deleted > 100, "only {deleted} evictions");
    }
    field.sweep();
    field.server.stop();
    field.check_log_at_end("after SIGTERM");
    field.record.check_final();
    field.check_conflicts();
}

#[test]
fn crash_canary_state_lost() {
    let mut field = busy_field("crash_canary_state_lost", &[], 2);
    field.server.kill();
    std::fs::remove_dir_all(&field.server.state).unwrap();
    field.server.start(&[]);
    // What is lost never comes.
    field.patience = Duration::from_secs(1);
    let said = complaint("a lost state directory", || field.verify("canary", true));
    assert!(said.contains("is not known any more"), "{said}");
    // Known again, with an empty table.
    field.workers.iter().for_each(|worker| worker.nat64.introduce());
    let said = complaint("a lost table", || field.verify_tables("canary", true));
    assert!(said.contains("wrong answers") || said.contains("nitialized"), "{said}");
}

#[test]
fn crash_canary_log_lines_changed() {
    let mut field = busy_field("crash_canary_log_lines_changed", &[], 1);
    field.workers[0].settle();
    field.server.stop();
    field.check_log_at_end("as it was");
    let log = field.server.log.clone();
    let whole = std::fs::read_to_string(&log).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    let announced = field.workers[0].told[field.workers[0].told.len() / 2];
    let wanted = format!(" [{}]:{}", announced.client.address, announced.client.port);
    let of_client = |line: &&str| line.contains(" Created ") && line.ends_with(&wanted);
    let created = lines.iter().position(of_client).unwrap();
    let mut missed = |what: &str, changed: Vec<&str>| {
        std::fs::write(&log, changed.join("\n") + "\n").unwrap();
        field.record = Record::new(Path::new(&log));
        field.workers[0].checked = 0;
        let said = complaint(what, || {
            field.check_log_at_end("canary");
            field.record.check_final();
            field.check_conflicts();
        });
        println!("{what}: {said}");
    };
    let without = |place: usize| [&lines[..place], &lines[place + 1..]].concat();
    missed("a lost Created", without(created));
    missed("a lost Initialized", without(0));
    missed("a doubled line", [&lines[..=created], &lines[created..]].concat());
    missed("a doubled Initialized", [&lines[..1], &lines[..]].concat());
    let conflict = lines.iter().position(|line| line.contains(" Conflict ")).unwrap();
    missed("a lost Conflict", without(conflict));
    missed("a doubled Conflict", [&lines[..=conflict], &lines[conflict..]].concat());
    let invented = lines[created].replace(" Created ", " Conflict ");
    missed("an invented Conflict", [&lines[..], &[&invented]].concat());
    let foreign = lines[created].replace(" Created ", " Deleted ");
    missed("Deleted before Created", [&lines[..created], &[&foreign], &lines[created..]].concat());
    missed(
        "half a line",
        [&lines[..created], &[&lines[created][..40]], &lines[created..]].concat(),
    );
}
