//! No room on the disk: for the journal, for the event log.

use crate::ask::{check_entries, compare, expect_client, expect_service};
use crate::dice::Dice;
use crate::field::Field;
use crate::harness::process::wait_until;
use crate::judge::PATIENCE;
use crate::judge::client::Entry;
use crate::mount::Mounted;
use crate::newcomers::{NOTICE, Newcomers};
use crate::record::{Record, key};
use crate::restart::check_known;
use crate::server::Server;
use crate::worker::Worker;
use std::thread;
use std::time::Duration;

const STATE_KIB: usize = 32 * 1024;
const LOG_KIB: usize = 32 * 1024;
const KNOWN: usize = 10_000;

fn mentions_room(line: &str) -> bool {
    let line = line.to_lowercase();
    ["space", "enospc", "full", "room"].iter().any(|word| line.contains(word))
}

/// The lines that speak of room, but for the counts of what got no answer: those come each minute.
fn about_room(said: &str) -> Vec<&str> {
    let about = |line: &&str| mentions_room(line) && !line.contains("journal_unavailable: ");
    said.lines().filter(about).collect()
}

/// A full state directory: no new entry is announced, known ones are served, standard error says so
/// once; it goes on by itself when there is room; kill -9, and all that was announced is there.
#[test]
fn crash_no_room_for_the_journal() {
    let options = ["--reactors", "1", "--max-entries", "20000"];
    let mut server = Server::new();
    let tmpfs = Mounted::tmpfs(&server.state, STATE_KIB);
    server.start(&options);
    let mut new = Newcomers::introduced(&server);
    for _ in 0..KNOWN / 50 {
        assert_eq!(new.ask(50, PATIENCE), 50, "with room, all are answered");
    }
    new.until_full(&tmpfs);
    println!("full after {} announced entries", new.told.len());
    let mut said = server.stderr();
    assert!(!about_room(&said).is_empty(), "standard error does not say so:\n{said}");
    for _ in 0..5 {
        // The server may have found some room in what it keeps; then it may say so again.
        if new.ask(20, Duration::from_millis(200)) > 0 {
            new.until_full(&tmpfs);
            said = server.stderr();
        }
    }
    let told = new.told.len();
    // Those that were made last: older ones may have been replaced on the way.
    let known = new.told[new.told.len() - KNOWN..].to_vec();
    let half = KNOWN / 2;
    let nat64 = &new.nat64;
    for (what, wrong) in [
        ("client packets", compare(nat64, known.iter().map(|entry| expect_client(nat64, *entry)))),
        (
            "service packets",
            compare(
                nat64,
                known[half..].iter().map(|e| expect_service(nat64, e.mapped, Some(e.client))),
            ),
        ),
    ] {
        let (count, first) = (wrong.len(), wrong.first());
        assert!(wrong.is_empty(), "{count} known {what} not answered as before: {first:?}");
    }
    // A refreshed authenticator waits for the disk by itself.
    let entry = known[0];
    assert_eq!(nat64.map_with(entry.client, b"refreshed!"), entry.mapped);
    assert_eq!(nat64.map(entry.client), entry.mapped);
    assert_eq!(about_room(&server.stderr()), about_room(&said), "it must be said once");
    assert_eq!(new.ask(20, Duration::from_millis(200)), 0, "an answer on a full disk");
    assert_eq!(new.told.len(), told);
    tmpfs.make_room();
    println!("noticed after {:?}", new.until_answered());
    for _ in 0..10 {
        assert_eq!(new.ask(50, PATIENCE), 50, "with room again, all are answered");
    }
    server.kill();
    server.start(&options);
    check_known("after the full disk and a kill", &new.nat64);
    let recent = &new.told[new.told.len() - KNOWN..];
    check_entries("after the full disk and a kill", &new.nat64, recent);
    check_logged(&server, &new);
    server.stop();
}

/// Killed while the disk is full, started when there is room.
#[test]
fn crash_killed_with_no_room_for_the_journal() {
    let options = ["--reactors", "1", "--max-entries", "5000"];
    let mut server = Server::new();
    let tmpfs = Mounted::tmpfs(&server.state, STATE_KIB);
    server.start(&options);
    let mut new = Newcomers::introduced(&server);
    for _ in 0..40 {
        assert_eq!(new.ask(50, PATIENCE), 50, "with room, all are answered");
    }
    new.until_full(&tmpfs);
    server.kill();
    tmpfs.make_room();
    server.start(&options);
    check_known("killed on a full disk", &new.nat64);
    check_entries("killed on a full disk", &new.nat64, &new.told[new.told.len() - 2000..]);
    assert_eq!(new.ask(50, PATIENCE), 50, "with room again, all are answered");
    check_logged(&server, &new);
    server.stop();
}

/// Each announced entry has its line, and the log replays.
fn check_logged(server: &Server, new: &Newcomers) {
    let mut record = Record::new(&server.log);
    let address = new.nat64.address;
    let mut missing = None;
    wait_until(NOTICE, || {
        record.feed();
        let table = record.table(address);
        let absent = |entry: &&Entry| !table.has_created(key(entry.mapped, entry.client));
        missing = new.told.iter().find(absent);
        missing.is_none()
    });
    if let Some(entry) = missing {
        panic!(
            "{entry:?} was announced\n{}",
            record.about_entry(address, entry.mapped, entry.client)
        );
    }
}

/// A server whose log has a small file system of its own, full; its NAT64s under load.
fn full_log(test: &str) -> (Field, Mounted) {
    let mut dice = Dice::new(test);
    let mut server = Server::new();
    let place = server.directory.path().join("log");
    let tmpfs = Mounted::tmpfs(&place, LOG_KIB);
    server.log = place.join("events.log");
    let mut field = Field::with(server, &mut dice, 2);
    field.server.start(&["--reactors", "2"]);
    field.workers.iter_mut().for_each(Worker::introduce);
    field.in_load(200, |_, _| thread::sleep(Duration::from_millis(50)));
    tmpfs.fill();
    // Some of this may wait until there is room: the audit log comes first.
    field.in_load(2000, |_, _| thread::sleep(Duration::from_millis(500)));
    let said = field.server.stderr();
    assert!(said.lines().any(mentions_room), "standard error does not say so:\n{said}");
    (field, tmpfs)
}

/// No room for the log: lines wait, none is lost or cut in two when there is room.
#[test]
fn crash_no_room_for_the_log() {
    let (mut field, tmpfs) = full_log("crash_no_room_for_the_log");
    tmpfs.make_room();
    field.workers.iter_mut().for_each(Worker::catch_up);
    field.workers.iter_mut().for_each(Worker::give_up);
    field.check_log("with room for the log again");
    field.finish(&["--reactors", "2"]);
}

/// Killed meanwhile: the log is completed from the journal.
#[test]
fn crash_killed_with_no_room_for_the_log() {
    let (mut field, tmpfs) = full_log("crash_killed_with_no_room_for_the_log");
    field.server.kill();
    field.workers.iter_mut().for_each(Worker::drain);
    tmpfs.make_room();
    field.server.start(&["--reactors", "2"]);
    field.verify("killed with a full log", true);
    field.finish(&["--reactors", "2"]);
}

/// Nothing can be recorded at the start: `start` starts the server once more, after it was killed.
/// It must serve what it knew, say once why new clients wait, and go on by itself when `make_room`
/// has made room.
fn check_start(
    server: &mut Server,
    new: &mut Newcomers,
    start: impl Fn(&mut Server),
    make_room: impl FnOnce(),
) {
    server.kill();
    start(server);
    let said = server.stderr();
    let is_it = |line: &&str| mentions_room(line) && line.contains("known clients are served");
    assert_eq!(said.lines().filter(is_it).count(), 1, "it must say so in one line:\n{said}");
    check_known("started without room", &new.nat64);
    check_entries("started without room", &new.nat64, &new.told);
    // Longer than it takes to try again.
    assert_eq!(new.ask(20, Duration::from_millis(1500)), 0, "an answer that nothing records");
    check_entries("without room", &new.nat64, &new.told);
    assert_eq!(server.stderr().lines().filter(is_it).count(), 1, "it must be said once");
    make_room();
    println!("noticed after {:?}", new.until_answered());
    assert_eq!(new.ask(50, PATIENCE), 50, "with room, all are answered");
    let entries = new.told.clone();
    check_entries("with room again", &new.nat64, &entries);
    server.kill();
    start(server);
    check_known("after a kill", &new.nat64);
    check_entries("after a kill", &new.nat64, &entries);
    check_logged(server, new);
    server.stop();
}

/// Started while the disk of the state is full, with as many reactors as before, and with others,
/// which needs new files.
#[test]
fn crash_start_with_no_room_for_the_state() {
    for reactors in ["1", "2"] {
        let options = ["--reactors", reactors, "--max-entries", "5000"];
        let mut server = Server::new();
        let tmpfs = Mounted::tmpfs(&server.state, STATE_KIB);
        server.start(&["--reactors", "1", "--max-entries", "5000"]);
        let mut new = Newcomers::introduced(&server);
        for _ in 0..40 {
            assert_eq!(new.ask(50, PATIENCE), 50, "with room, all are answered");
        }
        tmpfs.fill();
        let start = |server: &mut Server| {
            server.start(&options);
        };
        check_start(&mut server, &mut new, start, || tmpfs.make_room());
    }
}

/// The disk has room, and the quota of the state directory has not: standard error says which.
#[test]
fn crash_no_room_within_a_quota() {
    let options = ["--reactors", "1", "--max-entries", "5000"];
    let mut server = Server::new();
    let quota = Mounted::quota(server.directory.path(), "quota", "16M");
    server.state = quota.path.join("state");
    server.start(&options);
    let mut new = Newcomers::introduced(&server);
    for _ in 0..20 {
        assert_eq!(new.ask(50, PATIENCE), 50, "with room, all are answered");
    }
    new.until_full(&quota);
    let is_it = |line: &&str| line.contains("quota exceeded") && line.contains("raise its quota");
    let said = server.stderr();
    assert_eq!(said.lines().filter(is_it).count(), 1, "it must say so in one line:\n{said}");
    check_entries("without room", &new.nat64, &new.told[new.told.len() - 500..]);
    server.kill();
    server.start(&options);
    let said = server.stderr();
    assert_eq!(said.lines().filter(is_it).count(), 1, "started, it must say so:\n{said}");
    check_known("started without room", &new.nat64);
    check_entries("started without room", &new.nat64, &new.told[new.told.len() - 500..]);
    quota.make_room();
    new.until_answered();
    check_logged(&server, &new);
    server.stop();
}

/// Started while the disk of the log is full, on which lines are missing.
#[test]
fn crash_start_with_no_room_for_the_log() {
    let options = ["--reactors", "1", "--max-entries", "5000"];
    let mut server = Server::new();
    let place = server.directory.path().join("log");
    let tmpfs = Mounted::tmpfs(&place, LOG_KIB);
    server.log = place.join("events.log");
    server.start(&options);
    let mut new = Newcomers::introduced(&server);
    tmpfs.fill();
    for _ in 0..10 {
        assert_eq!(new.ask(50, PATIENCE), 50, "lines wait, and clients do not");
    }
    let start = |server: &mut Server| {
        server.start(&options);
    };
    check_start(&mut server, &mut new, start, || tmpfs.make_room());
}
