//! `nat64handoff who`: what the event log says of a port, or of a client.

use crate::judge::client::Client;
use crate::judge::nat64::Nat64;
use crate::run::run;
use crate::server::Server;
use std::time::Duration;

fn who(server: &Server, arguments: &[&str]) -> (i32, String) {
    let log = server.log_path();
    let (code, stdout, stderr) =
        run(&[&["who", "--log", log.to_str().unwrap()], arguments].concat());
    (code, stdout + &stderr)
}

/// Of a server that runs, and of one that does not any more.
#[test]
fn section_8_who_had_a_port() {
    let mut server = Server::start_single(&["--max-entries", "40", "--log-format", "full"]);
    let nat64 = Nat64::known(&server);
    let clients: Vec<_> = (0..40).map(Client::nth).collect();
    let ports: Vec<_> = clients.iter().map(|client| nat64.map(*client)).collect();
    // The least recently used one goes, and the newcomer gets its port.
    let newcomer = Client::nth(100);
    let port = nat64.map(newcomer);
    assert_eq!(port, ports[0]);
    let is_logged = || server.events().len() >= 43;
    assert!(crate::harness::process::wait_until(Duration::from_secs(60), is_logged));
    let at = |port: u16| format!("{}:{port}", nat64.address);
    for stopped in [false, true] {
        if stopped {
            server.process.signal(libc::SIGTERM);
            server.wait_exit(Duration::from_secs(60));
        }
        for (client, port) in clients.iter().zip(&ports).skip(1) {
            let (code, said) = who(&server, &[&at(*port)]);
            let expected =
                format!("{} port {} (to 127.0.0.1), since ", client.address, client.port);
            assert!(code == 0 && said.starts_with(&expected), "{said}");
            assert!(said.ends_with(", until now\n") && said.lines().count() == 1, "{said}");
        }
        let (_, now) = who(&server, &[&at(port)]);
        assert!(now.starts_with(&format!("{} port ", newcomer.address)), "{now}");
        let (_, both) = who(&server, &[&at(port), "--at", "1 hour ago..now"]);
        let (first, second) = both.split_once('\n').unwrap();
        assert!(first.starts_with(&format!("{} port ", clients[0].address)), "{both}");
        let until = first.rsplit_once("until ").unwrap().1;
        assert!(second.contains(&format!("since {until}, until now")), "{both}");
        let (_, before) = who(&server, &[&at(port), "--at", "1 hour ago"]);
        assert!(before.contains("nobody") && before.contains("later: "), "{before}");
        let (_, of) = who(&server, &[&clients[5].address.to_string()]);
        assert!(of.starts_with(&format!("{} was {}", at(ports[5]), clients[5].address)), "{of}");
        let (_, elsewhere) = who(&server, &[&at(port), "--to", "203.0.113.5"]);
        assert!(elsewhere.contains("nobody"), "{elsewhere}");
        let (_, json) = who(&server, &[&at(port), "--json"]);
        assert!(
            json.starts_with("{\n  \"held\": [\n") && json.contains("\"until\": null"),
            "{json}"
        );
    }
}

/// An access log has an address of the pool and the client's own port: of a /64, that tells which
/// client it was, and behind which NAT64.
#[test]
fn section_8_who_had_an_address_of_the_pool() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("events.log");
    let events = "\
2019-03-18 10:00:00.000000 Named 100.64.0.7 [2001:db8:0:1::/64]
2019-03-18 10:00:00.000000 Created 192.0.2.7:3719 [2001:db8:0:1::17]:53186
2019-03-18 10:00:00.000000 Created 192.0.2.8:1024 [2001:db8:0:1::18]:53187
2019-03-18 11:00:00.000000 Deleted 192.0.2.7:3719 [2001:db8:0:1::17]:53186
2019-03-18 11:00:00.000000 Created 192.0.2.7:3719 [2001:db8:0:1::19]:53186
2019-03-18 12:00:00.000000 Unnamed 100.64.0.7 [2001:db8:0:1::/64]
";
    std::fs::write(&log, events).unwrap();
    let name = "100.64.0.7 was 2001:db8:0:1::/64, since 2019-03-18 10:00:00.000000 UTC, until 2019-03-18 12:00:00.000000 UTC\n";
    let who = |arguments: &[&str]| {
        let log = ["who", "--log", log.to_str().unwrap(), "--at", "2019-03-18 10:30:00"];
        let (code, said, error) = run(&[&log[..], arguments].concat());
        assert_eq!(code, 0, "{error}");
        said
    };
    for built in [false, true] {
        if built {
            let (code, ..) = run(&["history", "build", "--log", log.to_str().unwrap()]);
            assert_eq!(code, 0);
        }
        assert_eq!(who(&["100.64.0.7"]), name);
        let client = "192.0.2.7:3719 was 2001:db8:0:1::17 port 53186, since 2019-03-18 10:00:00.000000 UTC, until 2019-03-18 11:00:00.000000 UTC\n";
        assert_eq!(who(&["100.64.0.7:53186"]), [name, client].concat());
        assert_eq!(who(&["100.64.0.7:1"]), name);
        let json: serde_json::Value =
            serde_json::from_str(&who(&["100.64.0.7:53186", "--json"])).unwrap();
        assert_eq!(json["held"][0]["client"], "2001:db8:0:1::17");
        assert_eq!(json["named"][0]["client"], "2001:db8:0:1::/64");
        let of_client = who(&["2001:db8:0:1::18"]);
        assert!(of_client.contains("192.0.2.8:1024 was ") && of_client.ends_with(name));
    }
}

/// Each host's log has what that host did while it owned the table: together they say who it was,
/// with a history or without one.
#[test]
fn section_8_who_had_a_port_of_a_fleet() {
    let folder = tempfile::tempdir().unwrap();
    let log = |host: &str| folder.path().join(host).join("events.log");
    let line = |time: &str, what: &str, client: &str| {
        format!(
            "2019-03-18 {time}.000000 {what} 192.0.2.7:3719 [{client}]:53186 to 203.0.113.5 via 64:ff9b::/96\n"
        )
    };
    let begun =
        |time: &str| format!("2019-03-18 {time}.000000 Initialized 192.0.2.7 to 203.0.113.5\n");
    let first = [
        begun("10:00:00"),
        line("10:00:00", "Created", "2001:db8::17"),
        line("13:00:00", "Created", "2001:db8::19"),
    ];
    let second = [
        line("11:00:00", "Deleted", "2001:db8::17"),
        line("11:00:00", "Created", "2001:db8::18"),
        line("12:00:00", "Deleted", "2001:db8::18"),
        begun("14:00:00"),
    ];
    for (host, lines) in [("a", &first[..]), ("b", &second[..])] {
        std::fs::create_dir(folder.path().join(host)).unwrap();
        std::fs::write(log(host), lines.concat()).unwrap();
    }
    let who = |arguments: &[&str]| {
        let fleet = ["who", "--fleet", folder.path().to_str().unwrap()];
        run(&[&fleet[..], arguments].concat())
    };
    for built in [&[][..], &["b"], &["a"]] {
        for host in built {
            let log = log(host);
            let (code, _, error) = run(&["history", "build", "--log", log.to_str().unwrap()]);
            assert_eq!(code, 0, "{error}");
        }
        for (at, expected) in [
            ("10:30:00", Some(("17", "10:00:00", "11:00:00"))),
            ("11:30:00", Some(("18", "11:00:00", "12:00:00"))),
            ("12:30:00", None),
            ("13:30:00", Some(("19", "13:00:00", "14:00:00"))),
            ("14:30:00", None),
        ] {
            let (code, said, error) = who(&["192.0.2.7:3719", "--at", &format!("2019-03-18 {at}")]);
            assert_eq!(code, 0, "{error}");
            let expected = expected.map_or("192.0.2.7:3719: nobody".to_owned(), |told| {
                let (client, since, until) = told;
                format!("2001:db8::{client} port 53186 (to 203.0.113.5), since 2019-03-18 {since}.000000 UTC, until 2019-03-18 {until}.000000 UTC\n")
            });
            assert!(said.starts_with(&expected), "{built:?} {at}: {said}");
            let is_old = at > "13:00:00";
            let older = "lines end before the time that is asked about: of host a at 2019-03-18 13:00:00.000000 UTC";
            assert_eq!(error.contains(older), is_old, "{at}: {error}");
        }
        let (_, json, _) = who(&["2001:db8::/64", "--json"]);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let held = json["held"].as_array().unwrap();
        let until: Vec<_> = held.iter().map(|held| held["until"].as_str().unwrap()).collect();
        let hours = [11, 12, 14].map(|hour| format!("2019-03-18T{hour}:00:00.000000Z"));
        assert_eq!(until, hours, "{built:?}");
    }
    std::fs::create_dir(folder.path().join("c")).unwrap();
    let (code, said, error) = who(&["192.0.2.7:3719", "--at", "2019-03-18 10:30:00"]);
    assert!(code == 0 && said.starts_with("2001:db8::17"), "{said}");
    assert!(
        error.contains("host c: its event log") && error.contains("not in this answer"),
        "{error}"
    );
    let (code, _, error) = who(&["192.0.2.7:3719", "--log", "events.log"]);
    assert!(code == 2 && error.contains("--log"), "{error}");
}

/// What cannot be answered says why, and what to do.
#[test]
fn section_8_who_asks_for_what_is_missing() {
    let server = Server::start(&[]);
    for (arguments, code, part) in [
        (&["192.0.2"][..], 2, "as 192.0.2.7:3719"),
        (&["192.0.2.7"], 0, "is asked about with its port"),
        (&["192.0.2.7:1", "--at", "sometime"], 2, "is no time"),
        (&["192.0.2.7:1", "--at", "11:00..10:00"], 2, "is after"),
        (&["192.0.2.7:1", "--log", "/nowhere/events.log"], 2, "--log"),
        (&["192.0.2.7:1"], 0, "192.0.2.7:1: nobody at "),
        (&["2001:db8::1"], 0, "2001:db8::1: not in the event log"),
    ] {
        let (status, said) = who(&server, arguments);
        assert!(status == code && said.contains(part), "{arguments:?}: {status} {said}");
    }
    let (code, _, stderr) = run(&["who", "192.0.2.7:1", "--log", "/nowhere/events.log"]);
    assert!(code == 1 && stderr.contains("name it by --log"), "{stderr}");
    let (code, _, stderr) = run(&["who", "192.0.2.7:1"]);
    assert!(code == 2 && stderr.contains("name it by --log, or -"), "{stderr}");
}
