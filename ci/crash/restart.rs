//! Stopping and starting without load: one server at a time, a start that is immediate, what is
//! kept beside the entries.

use crate::ask::{check_entries, compare, expect_service};
use crate::cores::before_others;
use crate::dice::Dice;
use crate::harness::process::wait_until;
use crate::judge::PATIENCE;
use crate::judge::client::{Client, Entry};
use crate::judge::eventlog::Kind;
use crate::judge::nat64::Nat64;
use crate::judge::packet;
use crate::judge::wire::Reply;
use crate::server::Server;
use std::time::Duration;

const CAPACITY: usize = 64508;
/// From the start to being ready with a full table. Without optimization, no more than a hint.
const START_MAX: Duration = Duration::from_millis(if cfg!(debug_assertions) { 5000 } else { 500 });

pub fn map_all(nat64: &Nat64, clients: impl IntoIterator<Item = Client>) -> Vec<Entry> {
    clients.into_iter().map(|client| client.at(nat64.map(client))).collect()
}

/// Known without a validation round. A request that waits while a hand-over changes the number of
/// reactors is lost, and asked again, as NAT64s do.
pub fn check_known(what: &str, nat64: &Nat64) {
    const ASKED_AGAIN: Duration = Duration::from_secs(5);
    let mut expected = Vec::new();
    let is_known = wait_until(PATIENCE, || {
        let packet = nat64.unmapped_packet();
        nat64.send(&nat64.service_request(&packet));
        let aged = packet::with_ttl(&packet, packet::TTL - 1);
        expected.push(Reply::returned(&nat64.token, &aged));
        let reply = nat64.try_reply(ASKED_AGAIN);
        let challenge = nat64.waiting_challenge();
        assert!(challenge.is_none(), "{what}: {} must prove itself again", nat64.address);
        assert!(reply.is_none() || expected.contains(reply.as_ref().unwrap()), "{what}: {reply:?}");
        reply.is_some()
    });
    assert!(is_known, "{what}: {} is not answered", nat64.address);
    // The others may come yet.
    (1..expected.len()).for_each(|_| drop(nat64.try_reply(ASKED_AGAIN / 5)));
}

/// A second server on the same state directory: exit code 1, one line with the directory and the
/// first's number; the first lives on.
#[test]
fn crash_second_server_names_the_first() {
    let mut first = Server::started(&[]);
    let nat64 = Nat64::unknown(&first);
    nat64.introduce();
    let before = map_all(&nat64, (0..50).map(Client::nth));
    let mut second = Server::new();
    second.state.clone_from(&first.state);
    for _ in 0..3 {
        let line = second.refuses(&[]);
        let pid = first.pid().to_string();
        let mut words = line.split(|c: char| !c.is_ascii_digit());
        assert!(words.any(|word| word == pid), "process {pid} is not named: {line}");
        assert!(line.contains(&first.state.display().to_string()), "{line}");
        check_entries("beside the second server", &nat64, &before);
    }
    // The lock is not a file that is left over.
    first.kill();
    first.start(&[]);
    check_known("after a kill", &nat64);
    check_entries("after a kill", &nat64, &before);
}

/// Entries and tokens of many NAT64s, whatever the number of reactors was and is.
#[test]
fn crash_other_number_of_reactors() {
    let mut server = Server::started(&["--reactors", "2"]);
    let nat64s: Vec<_> = (0..12).map(|_| Nat64::unknown(&server)).collect();
    nat64s.iter().for_each(Nat64::introduce);
    let mut told: Vec<Vec<Entry>> = vec![Vec::new(); nat64s.len()];
    for (round, reactors) in ["1", "3", "2", "4", "1", "2"].into_iter().enumerate() {
        for (nat64, told) in nat64s.iter().zip(&mut told) {
            let first = 100 * round as u32;
            told.extend(map_all(nat64, (first..first + 30).map(Client::nth)));
        }
        if round % 2 == 0 {
            server.kill();
        } else {
            server.stop();
        }
        server.start(&["--reactors", reactors]);
        let what = format!("restart {round}, now with --reactors {reactors}");
        for (nat64, told) in nat64s.iter().zip(&told) {
            check_known(&what, nat64);
            check_entries(&what, nat64, told);
        }
    }
}

/// A table of 64508 entries: SIGTERM, and the server is ready again in less than half a second. A
/// full table goes on with replacing what was made first.
#[test]
fn crash_clean_stop_then_immediate_start() {
    let mut server = Server::started(&[]);
    let nat64 = Nat64::unknown(&server);
    nat64.introduce();
    let ports = (1024..=u16::MAX).filter(|port| nat64.is_eligible(*port));
    let entries: Vec<_> = (0..).map(Client::nth).zip(ports).map(|(c, port)| c.at(port)).collect();
    assert_eq!(entries.len(), CAPACITY);
    nat64.fill(&entries);
    let mut took = Vec::new();
    for _ in 0..3 {
        server.stop();
        took.push(before_others(|| server.start(&[])));
        check_known("after SIGTERM", &nat64);
    }
    println!("ready after {took:?}");
    let best = took.iter().min().unwrap();
    assert!(*best < START_MAX, "ready only after {took:?}");
    // Looking each up is a use: only those that were made last are looked up here.
    check_entries("after SIGTERM", &nat64, &entries[CAPACITY / 2..]);
    oldest_go_first("after SIGTERM", &server, &nat64, &entries, CAPACITY / 2);
}

/// The same order after kill -9, in a table that is full by `--max-entries`.
#[test]
fn crash_order_of_creation_survives() {
    const LIMIT: usize = 2000;
    let options = ["--reactors", "1", "--max-entries", "2000"];
    let mut server = Server::started(&options);
    let nat64 = Nat64::unknown(&server);
    nat64.introduce();
    let mut entries = map_all(&nat64, (0..LIMIT as u32).map(Client::nth));
    server.kill();
    server.start(&options);
    check_known("after SIGKILL", &nat64);
    entries.extend(oldest_go_first("after SIGKILL", &server, &nat64, &entries, LIMIT / 4));
    server.stop();
    server.start(&options);
    check_known("after SIGTERM", &nat64);
    // The newest of all are there.
    check_entries("after SIGTERM", &nat64, &entries[LIMIT / 2..]);
}

/// New clients evict entries from among the oldest, and each takes the place of one. (The order is
/// promised to within an hour only, so which of them is open.)
fn oldest_go_first(
    what: &str,
    server: &Server,
    nat64: &Nat64,
    entries: &[Entry],
    first: usize,
) -> Vec<Entry> {
    const NEWCOMERS: u32 = 64;
    let fresh = (0..NEWCOMERS).map(|number| Client::nth(0x0100_0000 + number));
    let fresh = map_all(nat64, fresh);
    let mut gone: Vec<Entry> = Vec::new();
    wait_until(PATIENCE, || {
        let text = std::fs::read_to_string(&server.log).unwrap();
        let events = crate::judge::eventlog::parse_all(&text);
        let deleted = events.iter().filter(|event| event.kind == Kind::Deleted);
        let entry = |(mapped, address, port)| {
            let client = Client { prefix: crate::judge::client::PREFIX, address, port };
            client.at(mapped)
        };
        gone = deleted.map(|event| entry(event.entry.unwrap())).collect();
        gone.len() >= fresh.len()
    });
    assert_eq!(gone.len(), fresh.len(), "{what}: Deleted lines for {NEWCOMERS} newcomers");
    let ages: Vec<_> = gone.iter().map(|gone| entries.iter().position(|e| e == gone)).collect();
    assert!(
        ages.iter().all(|age| age.is_some_and(|age| age < first)),
        "{what}: of {} entries these went (0 was made first): {ages:?}",
        entries.len()
    );
    for (gone, fresh) in gone.iter().zip(&fresh) {
        assert_eq!(
            gone.mapped, fresh.mapped,
            "{what}: the newcomer takes the port of whom it replaces"
        );
    }
    fresh
}

/// An authenticator that was refreshed reaches the disk within a second.
#[test]
fn crash_refreshed_authenticators_survive() {
    let mut dice = Dice::new("crash_refreshed_authenticators_survive");
    let mut server = Server::started(&[]);
    let nat64 = Nat64::unknown(&server);
    nat64.introduce();
    let entries = map_all(&nat64, (0..300).map(Client::nth));
    let fresh: Vec<Vec<u8>> = entries
        .iter()
        .map(|_| {
            let length = 2 * dice.below(256);
            (0..length).map(|_| dice.next() as u8).collect()
        })
        .collect();
    for (entry, fresh) in entries.iter().zip(&fresh) {
        assert_eq!(nat64.map_with(entry.client, fresh), entry.mapped);
    }
    // The bound for a refreshed authenticator to be kept: nothing tells when it is.
    std::thread::sleep(Duration::from_millis(1500));
    for clean in [false, true] {
        if clean {
            server.stop();
        } else {
            server.kill();
        }
        server.start(&[]);
        check_known("after a restart", &nat64);
        let wanted = entries.iter().zip(&fresh).map(|(entry, fresh)| {
            let (request, reply) = expect_service(&nat64, entry.mapped, Some(entry.client));
            (request, Reply { authenticator: Some(fresh.clone()), ..reply })
        });
        let wrong = compare(&nat64, wanted);
        let (count, first) = (wrong.len(), wrong.first());
        assert!(wrong.is_empty(), "{count} stale or lost authenticators, the first: {first:?}");
    }
}
