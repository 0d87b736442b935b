//! The event log's lines as they happen, at the admin socket (`/events`).

use crate::harness::process::wait_until;
use crate::http::{Answered, ask, get, unix};
use crate::judge::PATIENCE;
use crate::judge::client::Client;
use crate::judge::nat64::Nat64;
use crate::server::Server;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

/// One who listens, from now on.
fn listen(server: &Server) -> BufReader<UnixStream> {
    let mut stream = unix(&server.admin());
    stream.write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    BufReader::new(stream)
}

/// The lines that are heard up to one with this in it.
fn heard_up_to(listener: &mut BufReader<UnixStream>, last: &str) -> Vec<String> {
    let mut heard = Vec::new();
    loop {
        let mut line = String::new();
        assert_ne!(listener.read_line(&mut line).unwrap(), 0, "cut off after {heard:?}");
        assert_ne!(line, "event: missed\n", "after {heard:?}");
        if let Some(event) = line.trim_end().strip_prefix("data: ") {
            heard.push(event.to_owned());
            if event.contains(last) {
                return heard;
            }
        }
    }
}

fn metric(server: &Server, name: &str) -> u64 {
    let said = get(&server.admin(), "/metrics").body;
    let line = said.lines().find(|line| line.starts_with(name)).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// Those of the past, and then each one as it is written.
#[test]
fn events_are_heard_as_they_happen() {
    let server = Server::start_single(&[]);
    let nat64 = Nat64::known(&server);
    nat64.map(Client::nth(0));
    assert!(wait_until(PATIENCE, || server.events().len() == 2));
    let mut listeners: Vec<_> = (0..3).map(|_| listen(&server)).collect();
    let first = Client::nth(0).address.to_string();
    listeners.iter_mut().for_each(|listener| drop(heard_up_to(listener, &format!("[{first}]"))));
    for number in 1..500 {
        nat64.map(Client::nth(number));
    }
    let last = format!("[{}]", Client::nth(499).address);
    let heard: Vec<_> = listeners.iter_mut().map(|all| heard_up_to(all, &last)).collect();
    let log = std::fs::read_to_string(server.log_path()).unwrap();
    let log: Vec<_> = log.lines().skip(2).collect();
    assert_eq!(log.len(), 499);
    assert!(heard.iter().all(|heard| *heard == log));
}

/// Whoever does not read is cut off, and neither the log nor others notice.
#[test]
fn slow_listeners_are_cut_off_and_nothing_waits() {
    let server = Server::start_single(&[]);
    let nat64 = Nat64::known(&server);
    let _slow = listen(&server);
    let before = metric(&server, "nat64handoff_admin_cut_off_total");
    let request = |number| {
        let client = Client::nth(number);
        nat64.client_request(&client.authenticator(), &client.udp(b""))
    };
    let mut next = 0;
    let mut reader = listen(&server);
    let cut_off = wait_until(PATIENCE, || {
        nat64.pipeline((next..next + 500).map(request), |_| ());
        next += 500;
        heard_up_to(&mut reader, &format!("[{}]", Client::nth(next - 1).address));
        metric(&server, "nat64handoff_admin_cut_off_total") > before
    });
    assert!(cut_off, "after {next} events");
    assert!(wait_until(PATIENCE, || server.events().len() as u32 == next + 1));
    let dropped = ["log_unavailable", "journal_unavailable"];
    let said = get(&server.admin(), "/metrics").body;
    let is_lost = |line: &&str| dropped.iter().any(|name| line.contains(name));
    assert!(said.lines().filter(is_lost).all(|line| line.ends_with(" 0")), "{said}");
}

/// There are not many of them; and who went makes room.
#[test]
fn listeners_are_bounded() {
    let server = Server::start_single(&[]);
    let nat64 = Nat64::known(&server);
    assert!(wait_until(PATIENCE, || server.events().len() == 1));
    let mut all: Vec<_> = (0..8).map(|_| listen(&server)).collect();
    all.iter_mut().for_each(|listener| drop(heard_up_to(listener, "Initialized")));
    let refused: Answered = ask(unix(&server.admin()), "GET /events", &["Host: localhost"]);
    assert_eq!(refused.code, 503, "{refused:?}");
    all.truncate(7);
    let mut others = Vec::new();
    let has_room = wait_until(PATIENCE, || {
        nat64.map(Client::nth(1));
        let mut line = String::new();
        let mut other = listen(&server);
        other.read_line(&mut line).unwrap();
        others.push(other);
        line.contains("200")
    });
    assert!(has_room);
}

/// Who it was, in a bounded answer; and what cannot be asked.
#[test]
fn who_it_was_is_told_within_bounds() {
    const CLIENTS: u32 = 4000;
    const ANSWER_MAX: usize = 257 * 1024;
    let server = Server::start_single(&[]);
    let nat64 = Nat64::known(&server);
    let request = |number| {
        let client = Client::nth(number);
        nat64.client_request(&client.authenticator(), &client.udp(b""))
    };
    nat64.pipeline((0..CLIENTS).map(request), |_| ());
    assert!(wait_until(PATIENCE, || server.events().len() as u32 == CLIENTS + 1));
    let who = |query: &str| get(&server.admin(), &format!("/who?{query}"));
    let text = |answer: &Answered| answer.json()["text"].as_str().unwrap().to_owned();
    let client = Client::nth(7);
    let one = who(&format!("about={}&at=1+minute+ago..now", client.address));
    let said = text(&one);
    assert!(one.code == 200 && said.contains(&format!(" was {} port ", client.address)), "{one:?}");
    assert!(said.ends_with("until now\n") && said.lines().count() == 1, "{said}");
    let all = text(&who("about=2001:db8::%2F32"));
    assert!(all.len() < ANSWER_MAX && all.lines().count() > 1000, "{} octets", all.len());
    assert!(all.ends_with("and more: nat64handoff who 2001:db8::/32 has all\n"), "{all}");
    for (query, part) in [
        ("", "as 192.0.2.7:3719"),
        ("about=--help", "as 192.0.2.7:3719"),
        ("about=192.0.2.7:1&at=sometime", "is no time"),
        ("about=192.0.2.7:1&at=--log%3D%2Fetc%2Fpasswd", "is no time"),
    ] {
        let answer = who(query);
        assert!(answer.code == 400 && answer.body.contains(part), "{query}: {answer:?}");
    }
}
