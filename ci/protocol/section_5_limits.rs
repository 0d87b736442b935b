//! Limits: `--validation-rate`, `--max-nat64s`, `--max-entries`, `--allow`, `--deny`.

use crate::harness::process::wait_until;
use crate::harness::program::{LOCAL, free_port};
use crate::judge::client::Client;
use crate::judge::eventlog::{self, Event, Kind};
use crate::judge::nat64::Nat64;
use crate::judge::{PATIENCE, SHORT};
use crate::run::run;
use crate::server::Server;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// No answer, no validation packet, for whatever it sends.
fn ignored(nat64: &Nat64, why: &str) {
    let client = Client::nth(9);
    for _ in 0..4 {
        nat64.send(&nat64.service_request(&nat64.unmapped_packet()));
        nat64.send(&nat64.client_request(b"authen", &client.udp(b"data")));
        nat64.send(&nat64.report_request(b"authen", client.at(20000)));
    }
    assert_eq!(nat64.try_challenge(SHORT), None, "{why}: challenged");
    assert_eq!(nat64.try_reply(SHORT / 6), None, "{why}: answered");
}

/// It is asked for its proof, which gets no answer.
fn refused(nat64: &Nat64, why: &str) {
    for _ in 0..2 {
        assert!(!tries(nat64), "{why}: answered");
    }
}

/// Asks and proves itself; returns whether it is admitted.
fn tries(nat64: &Nat64) -> bool {
    let challenge = nat64.challenge(&nat64.service_request(&nat64.unmapped_packet()));
    nat64.send(&nat64.service_request(&nat64.as_packet(&challenge)));
    nat64.try_reply(SHORT).is_some()
}

/// Validation packets are limited to `--validation-rate` a second, a tenth of them reserved for
/// known NAT64s.
#[test]
fn section_5_validation_rate() {
    const RATE: f64 = 40.0;
    let server = Server::start_single(&["--validation-rate", "40"]);
    let known = Nat64::known(&server);
    let stranger = Nat64::unknown(&server);
    let request = stranger.service_request(&stranger.unmapped_packet());
    // Some 500 a second for that long, also where this thread gets its core back late.
    let flood = |time: Duration| {
        let (start, mut sent, mut arrived) = (Instant::now(), 0, 0);
        while start.elapsed() < time {
            let due = start.elapsed().as_millis() / 2 - sent;
            (0..due.min(64)).for_each(|_| stranger.send(&request));
            sent += due;
            std::thread::sleep(Duration::from_millis(2));
            while stranger.waiting_challenge().is_some() {
                arrived += 1;
            }
        }
        (f64::from(arrived), start.elapsed().as_secs_f64())
    };
    // What was saved up goes first.
    flood(Duration::from_millis(500));
    // What a busy machine keeps from the server for a second does not come later: one of several
    // floods gets all of the rate.
    let gets_all = (0..10).any(|_| {
        let (arrived, elapsed) = flood(Duration::from_secs(1));
        // Bursts are not bounded by the text: two seconds' worth is accepted on top.
        assert!(arrived <= RATE * (elapsed + 2.0) + 2.0, "{arrived} in {elapsed} s");
        arrived >= RATE * 0.7 * elapsed
    });
    assert!(gets_all, "the rate is never reached");
    // While a flood uses up the rate, a known NAT64 with another port is challenged.
    flood(Duration::from_millis(200));
    let changed = known.other_port(0);
    let mut challenged = 0;
    for _ in 0..10 {
        flood(Duration::from_millis(20));
        changed.forget_challenges();
        changed.send(&changed.service_request(&changed.unmapped_packet()));
        known.fence();
        challenged += u32::from(changed.waiting_challenge().is_some());
    }
    assert!(challenged >= 1, "no part of the rate is reserved for known NAT64s");
}

/// The third NAT64 is not admitted where two are the limit and in use; the first two are served.
#[test]
fn section_5_max_nat64s() {
    let server = Server::start_single(&["--max-nat64s", "2"]);
    let (one, two) = (Nat64::known(&server), Nat64::known(&server));
    refused(&Nat64::unknown(&server), "at --max-nat64s");
    one.map(Client::nth(1));
    two.map(Client::nth(1));
    // Known addresses may change their tokens and ports.
    one.rebooted().introduce();
    refused(&Nat64::unknown(&server), "at --max-nat64s");
    let events = server.events_from(4);
    assert_eq!(events.iter().filter(|event| event.kind == Kind::Initialized).count(), 2);
}

/// A TCP connection between the server's host and a NAT64.
fn connect(nat64: &Nat64) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((nat64.address, 0)).unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    assert_eq!(ours.local_addr().unwrap().ip(), LOCAL);
    let (theirs, _) = listener.accept().unwrap();
    (ours, theirs)
}

/// A fifth NAT64, where four are the limit, has clients whose connections it made by itself. It
/// gets the place of one that has no connection, each of whose entries is deleted, and then it is
/// forgotten. After a restart the tables are those.
#[test]
fn section_5_the_fifth_of_four() {
    for reactors in ["1", "2"] {
        let mut server = Server::start(&["--reactors", reactors, "--max-nat64s", "4"]);
        let four: Vec<_> = (0..4).map(|_| Nat64::known(&server)).collect();
        for (nat64, clients) in four.iter().zip([3, 5, 2, 2]) {
            (0..clients).for_each(|client| _ = nat64.map(Client::nth(client)));
        }
        let fifth = Nat64::unknown(&server);
        let mut connections = vec![connect(&four[2]), connect(&four[3])];
        refused(&fifth, "without a connection");
        connections.push(connect(&fifth));
        let begin = Instant::now();
        while !tries(&fifth) {
            assert!(begin.elapsed() < PATIENCE, "never admitted\n{}", server.stderr());
        }
        println!("admitted after {:?}", begin.elapsed());
        fifth.map(Client::nth(7));
        let events = server.events_from(4 + 12 + 1 + 3 + 2);
        let gone = events.iter().find(|event| event.kind == Kind::Forgotten).unwrap().nat64;
        let number = four.iter().position(|nat64| nat64.address == gone).unwrap();
        let deleted = events.iter().filter(|event| event.kind == Kind::Deleted);
        let deleted: Vec<_> = deleted.map(|event| event.nat64).collect();
        assert_eq!(deleted, vec![gone; [3, 5, 2, 2][number]]);
        assert!(wait_until(PATIENCE, || server.stderr().contains("forgotten: 1: ")));
        server.signal(libc::SIGKILL);
        server.wait_exit(PATIENCE);
        let server = server.restart();
        for (at, nat64) in four.iter().enumerate() {
            assert_eq!(nat64.is_known(), at != number);
        }
        assert!(fifth.is_known());
        assert_eq!(fifth.map(Client::nth(7)), fifth.map(Client::nth(7)));
        eventlog::check_consistency(&server.events());
        drop(connections);
    }
}

/// One NAT64 may have all entries, and replaces its own then. Where others come, it gives back what
/// is more than its share, the least recently used first, and nobody is held below his.
#[test]
fn section_5_max_entries() {
    let server = Server::start_single(&["--max-entries", "16"]);
    let one = Nat64::known(&server);
    (0..17).for_each(|number| _ = one.map(Client::nth(number)));
    // A known one still changes its port.
    one.rebooted().introduce();
    let events = server.events_from(19);
    let deleted = |events: &[Event]| -> Vec<_> {
        let deleted = events.iter().filter(|event| event.kind == Kind::Deleted);
        deleted.map(|event| (event.nat64, event.entry.unwrap().1)).collect()
    };
    assert_eq!(deleted(&events), [(one.address, Client::nth(0).address)]);
    let soon = |nat64: &Nat64| {
        let begin = Instant::now();
        while !tries(nat64) {
            assert!(begin.elapsed() < PATIENCE, "never admitted\n{}", server.stderr());
        }
    };
    let two = Nat64::unknown(&server);
    soon(&two);
    let ports: Vec<_> = (0..8).map(|number| two.map(Client::nth(100 + number))).collect();
    assert!(ports.iter().all(|&port| two.find(port).is_some()));
    let events = server.events_from(19 + 1 + 8 + 8);
    let expected = (0..9).map(|number| (one.address, Client::nth(number).address));
    assert_eq!(deleted(&events), expected.collect::<Vec<_>>());
    // Both have their share. The least recently used entry of its own goes: use the first.
    assert!(two.find(ports[0]).is_some());
    let before = events.len();
    two.map(Client::nth(108));
    two.report(Client::nth(109).at(two.eligible_port(7)));
    one.map(Client::nth(17));
    let events = server.events_from(before + 6);
    let expected = [(&two, 101), (&two, 102), (&one, 9)];
    let expected = expected.map(|(nat64, number)| (nat64.address, Client::nth(number).address));
    assert_eq!(deleted(&events[before..]), expected);
    // A third one has as much as they have.
    let three = Nat64::unknown(&server);
    soon(&three);
    let ports: Vec<_> = (0..5).map(|number| three.map(Client::nth(200 + number))).collect();
    assert!(ports.iter().all(|&port| three.find(port).is_some()));
    let held = |nat64: &Nat64| {
        let events = server.events();
        let count =
            |kind| events.iter().filter(|e| e.nat64 == nat64.address && e.kind == kind).count();
        count(Kind::Created) - count(Kind::Deleted)
    };
    let all = || [&one, &two, &three].map(held);
    assert!(wait_until(PATIENCE, || all()[2] == 5), "{:?}", all());
    assert!(all().iter().all(|&held| held >= 5) && all().iter().sum::<usize>() <= 16);
}

/// `--deny` and `--allow`, which need the NAT64s' addresses before the server starts.
#[test]
fn section_5_allow_and_deny() {
    // A server only to get addresses from; its own port is of no interest.
    let first = Server::start(&[]);
    let (listed, other) = (Nat64::unknown(&first), Nat64::unknown(&first));
    drop(first);
    let cidr = format!("{}/32", listed.address);
    let server = Server::start(&["--deny", &cidr]);
    let (denied, served) = (listed.towards(server.addr()), other.towards(server.addr()));
    served.introduce();
    ignored(&denied, "--deny");
    served.map(Client::nth(1));
    drop(server);
    let server = Server::start(&["--allow", &cidr]);
    let (served, denied) = (listed.towards(server.addr()), other.towards(server.addr()));
    served.introduce();
    ignored(&denied, "not in --allow");
    served.map(Client::nth(1));
    drop(server);
    // Several, and prefixes shorter than 32.
    let wide = "127.0.0.0/8";
    let server = Server::start(&["--allow", "192.0.2.0/24", "--allow", wide]);
    listed.towards(server.addr()).introduce();
    drop(server);
    let server = Server::start(&["--deny", "192.0.2.0/24", "--deny", wide]);
    ignored(&listed.towards(server.addr()), "--deny 127.0.0.0/8");
}

/// A bad number for a limit is a usage error.
#[test]
fn section_5_limits_must_be_numbers() {
    for option in ["--max-nat64s", "--max-entries", "--validation-rate", "--client-share"] {
        let listen = format!("{LOCAL}:{}", free_port());
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().to_str().unwrap();
        let arguments =
            ["serve", "--listen", &listen, "--state", state, "--log", "-", option, "many"];
        let (code, _, stderr) = run(&arguments);
        assert_eq!(code, 2, "{option}: {stderr}");
    }
}
