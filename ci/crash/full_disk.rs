//! No room on the disk: for the journal, for the event log.

use crate::ask::{check_entries, compare, expect_client, expect_service};
use crate::dice::Dice;
use crate::field::Field;
use crate::harness::process::wait_until;
use crate::judge::client::{Client, Entry};
use crate::judge::nat64::Nat64;
use crate::judge::wire::Reply;
use crate::mount::Mounted;
use crate::record::{Record, key};
use crate::restart::check_known;
use crate::server::Server;
use crate::worker::Worker;
use std::collections::HashSet;
use std::thread;
use std::time::{Duration, Instant};

const STATE_KIB: usize = 32 * 1024;
const LOG_KIB: usize = 32 * 1024;
const KNOWN: usize = 10_000;
/// How long a disk may take until it is full to the server too.
const FILL_MAX: Duration = Duration::from_secs(30);
/// How long until room that was made is noticed.
const NOTICE: Duration = Duration::from_secs(2);

/// A NAT64 that asks for new clients, where some may stay without an answer.
struct Newcomers {
    nat64: Nat64,
    asked: u32,
    /// Each entry once, in order.
    told: Vec<Entry>,
    seen: HashSet<Entry>,
}

impl Newcomers {
    fn introduced(server: &Server) -> Newcomers {
        let nat64 = Nat64::unknown(server);
        nat64.introduce();
        Newcomers { nat64, asked: 0, told: Vec::new(), seen: HashSet::new() }
    }

    /// So many more new clients; how many of all that were asked for were answered now.
    fn ask(&mut self, count: u32, patience: Duration) -> usize {
        for _ in 0..count {
            let client = Client::nth(self.asked);
            self.asked += 1;
            self.send(client);
        }
        self.take(count as usize, patience)
    }

    fn send(&self, client: Client) {
        let packet = client.udp(b"new");
        self.nat64.send(&self.nat64.client_request(&client.authenticator(), &packet));
    }

    fn take(&mut self, count: usize, patience: Duration) -> usize {
        for taken in 0..count {
            let Some(reply) = self.nat64.try_reply(patience) else { return taken };
            let entry = reply.entry.unwrap_or_else(|| panic!("no entry in {reply:?}"));
            let (client, packet) = (entry.client, entry.client.udp(b"new"));
            assert_eq!(reply, Reply::mapping(&client.authenticator(), entry, &packet));
            if self.seen.insert(entry) {
                self.told.push(entry);
            }
        }
        count
    }

    /// Takes the room away until no new client is answered any more.
    fn until_full(&mut self, tmpfs: &Mounted) {
        let start = Instant::now();
        let mut silent = 0;
        while silent < 5 {
            assert!(start.elapsed() < FILL_MAX, "new entries are announced on a full disk");
            tmpfs.fill();
            match self.ask(64, Duration::from_millis(150)) {
                0 => silent += 1,
                _ => silent = 0,
            }
        }
    }

    /// A new client is answered soon after there is room.
    fn until_answered(&mut self) -> Duration {
        let start = Instant::now();
        let client = Client::nth(self.asked);
        self.asked += 1;
        while !self.told.iter().rev().take(200).any(|entry| entry.client == client) {
            assert!(start.elapsed() < NOTICE, "there is room, and new clients are not answered");
            self.send(client);
            self.take(100, Duration::from_millis(50));
        }
        // Answers to repeated requests.
        self.take(100, Duration::from_millis(100));
        start.elapsed()
    }
}

fn mentions_room(line: &str) -> bool {
    let line = line.to_lowercase();
    ["space", "enospc", "full", "room"].iter().any(|word| line.contains(word))
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
        assert_eq!(new.ask(50, Duration::from_secs(2)), 50, "with room, all are answered");
    }
    new.until_full(&tmpfs);
    println!("full after {} announced entries", new.told.len());
    let mut said = server.stderr();
    assert!(said.lines().any(mentions_room), "standard error does not say so:\n{said}");
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
    assert_eq!(server.stderr(), said, "it must be said once");
    assert_eq!(new.ask(20, Duration::from_millis(200)), 0, "an answer on a full disk");
    assert_eq!(new.told.len(), told);
    tmpfs.make_room();
    println!("noticed after {:?}", new.until_answered());
    for _ in 0..10 {
        assert_eq!(new.ask(50, Duration::from_secs(2)), 50, "with room again, all are answered");
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
        assert_eq!(new.ask(50, Duration::from_secs(2)), 50, "with room, all are answered");
    }
    new.until_full(&tmpfs);
    server.kill();
    tmpfs.make_room();
    server.start(&options);
    check_known("killed on a full disk", &new.nat64);
    check_entries("killed on a full disk", &new.nat64, &new.told[new.told.len() - 2000..]);
    assert_eq!(new.ask(50, Duration::from_secs(2)), 50, "with room again, all are answered");
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
