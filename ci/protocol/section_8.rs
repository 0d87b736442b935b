//! The event log: form, order, `--log-format full`, standard output, SIGHUP; stopping and
//! restarting.

use crate::cores::before_others;
use crate::harness::process::wait_until;
use crate::judge::PATIENCE;
use crate::judge::client::{Client, OTHER_PREFIX};
use crate::judge::eventlog::{self, Kind};
use crate::judge::nat64::Nat64;
use crate::server::Server;
use std::net::Ipv4Addr;
use std::time::Duration;

/// The lines of a short life, exactly, and their times.
#[test]
fn section_8_lines() {
    let server = Server::start(&[]);
    let before = crate::watched::now();
    let nat64 = Nat64::known(&server);
    // Addresses that RFC 5952 has rules about.
    let clients = [
        Client::parse("2001:db8::17", 53186),
        Client::parse("2001:db8:0:1:0:0:0:1", 1),
        Client::parse("2001:db8:0:1:1:1:1:1", 65535),
        Client::parse("2001:0:0:1::1", 80),
        Client::parse("fd00:a:b:c:d:e:f:0", 1024),
        Client::parse("64:ff9b::1", 5),
        Client::parse("::fffe:1:2", 6),
    ];
    for (number, client) in clients.into_iter().enumerate() {
        assert_eq!(nat64.map_hinted(client, 20000 + number as u16), 20000 + number as u16);
    }
    nat64.report(clients[0].at(6000));
    server.events_from(2 + clients.len());
    let after = crate::watched::now();
    let text = std::fs::read_to_string(server.log_path()).unwrap();
    let own = nat64.address;
    let expected = [
        format!("Initialized {own}"),
        format!("Created {own}:20000 [2001:db8::17]:53186"),
        format!("Created {own}:20001 [2001:db8:0:1::1]:1"),
        format!("Created {own}:20002 [2001:db8:0:1:1:1:1:1]:65535"),
        format!("Created {own}:20003 [2001:0:0:1::1]:80"),
        format!("Created {own}:20004 [fd00:a:b:c:d:e:f:0]:1024"),
        format!("Created {own}:20005 [64:ff9b::1]:5"),
        format!("Created {own}:20006 [::fffe:1:2]:6"),
        format!("Conflict {own}:6000 [2001:db8::17]:53186"),
    ];
    let lines: Vec<_> = text.lines().collect();
    // `2019-03-18 10:06:28.436754 `
    assert_eq!(lines.iter().map(|line| &line[27..]).collect::<Vec<_>>(), expected);
    for line in &lines {
        assert!(before.as_str() <= &line[..26] && &line[..26] <= after.as_str(), "{line}");
    }
    assert!(text.ends_with('\n'));
    assert_eq!(server.stdout(), "", "standard output is for `--log -`");
}

/// The full form tells the local address and the prefix.
#[test]
fn section_8_full_format() {
    let second = Ipv4Addr::new(127, 0, 0, 2);
    let mut server =
        Server::start_on(&[crate::harness::program::LOCAL, second], &["--log-format", "full"]);
    server.check_log = false;
    let nat64 = Nat64::known(&server);
    let client = Client::parse("2001:db8::17", 53186);
    nat64.map_hinted(client, 20001);
    nat64.map_hinted(client.prefix(OTHER_PREFIX), 20002);
    nat64.report(client.at(6000));
    let elsewhere = nat64.towards(server.addr_at(second));
    elsewhere.introduce();
    elsewhere.map_hinted(client, 20001);
    let events = server.events_from(6);
    let full: Vec<_> = events.iter().map(|event| (event.kind, event.full.as_str())).collect();
    // Whether an `Initialized`, which has no prefix, tells the local address is not said.
    assert!(["", " to 127.0.0.1"].contains(&full[0].1), "{full:?}");
    assert!(["", " to 127.0.0.2"].contains(&full[4].1), "{full:?}");
    let (initialized, created) = (Kind::Initialized, Kind::Created);
    assert_eq!((full[0].0, full[4].0), (initialized, initialized));
    assert_eq!(full[1], (created, " to 127.0.0.1 via 64:ff9b::/96"));
    assert_eq!(full[2], (created, " to 127.0.0.1 via 2001:db8:64::/96"));
    assert_eq!(full[3], (Kind::Conflict, " to 127.0.0.1 via 64:ff9b::/96"));
    assert_eq!(full[5], (created, " to 127.0.0.2 via 64:ff9b::/96"));
}

/// Each line an object that says what the full form does, in the order that is given.
#[test]
fn section_8_json_format() {
    let mut server = Server::start_single(&["--log-format", "json", "--max-entries", "20"]);
    server.check_log = false;
    let nat64 = Nat64::known(&server);
    let client = Client::parse("2001:db8::17", 53186);
    assert_eq!(nat64.map_hinted(client, 20001), 20001);
    nat64.report(client.at(6000));
    let lines = || {
        let text = std::fs::read_to_string(server.log_path()).unwrap();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(wait_until(PATIENCE, || lines().len() == 3));
    let own = nat64.address;
    let about = format!(
        r#""nat64":"{own}","port":PORT,"client":"2001:db8::17","client_port":53186,"to":"127.0.0.1","prefix":"64:ff9b::/96"}}"#
    );
    let expected = [
        format!(r#""event":"Initialized","nat64":"{own}","to":"127.0.0.1"}}"#),
        format!(r#""event":"Created",{}"#, about.replace("PORT", "20001")),
        format!(r#""event":"Conflict",{}"#, about.replace("PORT", "6000")),
    ];
    for (line, expected) in lines().iter().zip(&expected) {
        let (time, rest) = line.split_at(r#"{"at":"2019-03-18T10:06:28.491727Z","#.len());
        assert!(time.starts_with(r#"{"at":"2"#) && time.ends_with(r#"Z","#), "{line}");
        assert_eq!(rest, expected);
    }
    // Killed: each line is there once, and what reads the log reads this.
    for number in 0..12 {
        nat64.map(Client::nth(number));
    }
    server.signal(libc::SIGKILL);
    server.wait_exit(PATIENCE);
    let events: Vec<_> = server.objects().iter().map(|line| line["event"].clone()).collect();
    let server = server.restart_with(&["--reactors", "1", "--log-format", "json"]);
    let again: Vec<_> = server.objects().iter().map(|line| line["event"].clone()).collect();
    assert_eq!(again.iter().filter(|event| *event == "Created").count(), 13);
    assert_eq!((again.len(), &again[..events.len()]), (15, &events[..]));
    let log = server.log_path();
    let (code, said, _) =
        crate::run::run(&["who", &format!("{own}:20001"), "--log", log.to_str().unwrap()]);
    assert!(
        code == 0 && said.starts_with("2001:db8::17 port 53186 (to 127.0.0.1), since"),
        "{said}"
    );
    let (_, said, _) = crate::run::run(&["who", "2001:db8::17", "--log", log.to_str().unwrap()]);
    assert!(said.starts_with(&format!("{own}:20001 was 2001:db8::17")), "{said}");
}

/// `--log -`: events alone, on standard output.
#[test]
fn section_8_standard_output() {
    let server = Server::start(&["--log", "-"]);
    let nat64 = Nat64::known(&server);
    let mapped = nat64.map(Client::nth(1));
    wait_until(PATIENCE, || server.stdout().lines().count() >= 2);
    let events = eventlog::parse_all(&server.stdout());
    assert_eq!(events.len(), 2);
    assert_eq!(events[0].what(), (Kind::Initialized, None));
    let client = Client::nth(1);
    assert_eq!(events[1].what(), (Kind::Created, Some((mapped, client.address, client.port))));
    assert!(!server.log_path().exists());
}

/// After a rename, SIGHUP makes the server write to a new file; no line is lost or doubled.
#[test]
fn section_8_sighup_reopens_the_log() {
    let mut server = Server::start(&[]);
    server.check_log = false;
    let nat64 = Nat64::known(&server);
    nat64.map(Client::nth(0));
    server.events_from(2);
    let old = server.directory.path().join("events.log.1");
    std::fs::rename(server.log_path(), &old).unwrap();
    // Until the signal, the old file is written.
    nat64.map(Client::nth(1));
    assert!(wait_until(PATIENCE, || crate::server::events_of(&old).len() == 3));
    server.signal(libc::SIGHUP);
    let mut count = 2;
    assert!(wait_until(PATIENCE, || {
        nat64.map(Client::nth(count));
        count += 1;
        server.log_path().exists() && !server.events().is_empty()
    }));
    let total = 1 + count as usize;
    let both = || [crate::server::events_of(&old), server.events()].concat();
    assert!(wait_until(PATIENCE, || both().len() == total));
    eventlog::check_consistency(&both());
    for (number, event) in both()[1..].iter().enumerate() {
        assert_eq!(event.entry.unwrap().1, Client::nth(number as u32).address);
    }
    // Once more, without a rename: the log goes on where it is.
    nat64.map(Client::nth(count));
    server.signal(libc::SIGHUP);
    for more in 1..100 {
        nat64.map(Client::nth(count + more));
    }
    assert!(wait_until(PATIENCE, || both().len() == total + 100));
    nat64.fence();
}

/// SIGTERM and SIGINT: exit code 0 within a second, everything logged.
#[test]
fn section_8_stopping() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let mut server = before_others(|| Server::start(&[]));
        let nat64 = Nat64::known(&server);
        // So many that the log has some way to go, the last ones without waiting for answers.
        let request = |number| {
            let client = Client::nth(number);
            nat64.client_request(&client.authenticator(), &client.udp(b""))
        };
        nat64.pipeline((0..3000).map(request), |_| ());
        (3000..3040).for_each(|number| nat64.send(&request(number)));
        let status = before_others(|| {
            server.signal(signal);
            server.wait_exit(Duration::from_secs(1))
        });
        assert_eq!(status.code(), Some(0), "after signal {signal}\n{}", server.stderr());
        let events = server.events();
        assert!(events.len() > 3000, "the queue is not drained: {}", events.len());
        // What was answered last is in the log.
        let mapped: Vec<_> = events.iter().filter_map(|event| event.entry).collect();
        while let Some(reply) = nat64.try_reply(Duration::from_millis(20)) {
            let entry = reply.entry.unwrap();
            assert!(mapped.iter().any(|logged| logged.0 == entry.mapped), "{entry:?}");
        }
    }
}

/// Stopped or killed: entries and tokens are known after a restart, without a new validation round,
/// and each event stands in the log exactly once.
#[test]
fn section_9_restarts() {
    let mut server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let mut ports = Vec::new();
    for (round, signal) in
        [libc::SIGTERM, libc::SIGKILL, libc::SIGINT, libc::SIGKILL].into_iter().enumerate()
    {
        for number in 0..100 {
            ports.push(nat64.map(Client::nth(100 * round as u32 + number)));
        }
        server.signal(signal);
        server.wait_exit(PATIENCE);
        server = server.restart();
        for (number, &port) in ports.iter().enumerate() {
            let client = Client::nth(number as u32);
            assert_eq!(nat64.find(port), Some((client.at(port), client.authenticator())));
        }
        assert_eq!(server.events_from(1 + ports.len()).len(), 1 + ports.len());
    }
}

/// Times never go back within one table, and events of many NAT64s at once do not tear lines.
#[test]
fn section_8_many_at_once() {
    let server = Server::start(&[]);
    let nat64s: Vec<_> = (0..8).map(|_| Nat64::known(&server)).collect();
    std::thread::scope(|scope| {
        for nat64 in nat64s {
            scope.spawn(move || {
                let requests = (0..2000).map(|number| {
                    let client = Client::nth(number);
                    nat64.client_request(&client.authenticator(), &client.udp(b""))
                });
                nat64.pipeline(requests, |_| ());
            });
        }
    });
    // The drop of the server replays the whole log.
    assert_eq!(server.events_from(8 * 2001).len(), 8 * 2001);
}
