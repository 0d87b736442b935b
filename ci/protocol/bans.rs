//! `ban`, `unban` and `bans`: what becomes of a client, of its NAT64 and of its neighbours.

use crate::admin::asked;
use crate::clock::Clock;
use crate::harness::process::wait_until;
use crate::harness::program::{LOCAL, command, free_port};
use crate::http::{ask, get, unix};
use crate::judge::PATIENCE;
use crate::judge::client::{Client, PUBLIC, SERVICE};
use crate::judge::eventlog::Kind;
use crate::judge::nat64::Nat64;
use crate::judge::packet;
use crate::judge::wire::Reply;
use crate::run::run;
use crate::server::{Server, fresh_directory};
use std::fs;

fn done(server: &Server, arguments: &[&str]) -> String {
    let (code, said) = asked(server, arguments);
    assert_eq!(code, 0, "{arguments:?}: {said}");
    said
}

/// A packet of the client is refused: by an ICMPv6 error in the name of the service.
fn refused(nat64: &Nat64, client: Client) {
    let packet = client.udp(b"data of a client");
    let reply = nat64.ask(&nat64.client_request(&client.authenticator(), &packet));
    assert_eq!((reply.entry, reply.token), (None, None), "{:?}", reply.packet);
    assert_eq!(reply.authenticator, Some(client.authenticator()));
    let error = reply.packet.expect("a packet");
    assert_eq!(packet::addresses6(&error), (client.service(), client.address));
    assert_eq!((error[40], error[41]), (1, 1), "administratively prohibited");
    assert!(packet::icmpv6_checksum_holds(&error) && error.ends_with(&packet));
}

/// What says nothing but that the server is there.
fn quiet(nat64: &Nat64, server: &Server) -> Reply {
    let mut packet = packet::Ipv4::new(*server.addr().ip(), nat64.address, 59, &[]);
    (packet.ttl, packet.id, packet.dont_fragment) = (1, 0, true);
    Reply::returned(&nat64.token, &packet.octets())
}

#[test]
fn section_7_a_banned_client_is_out_and_its_neighbour_is_served() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let (attacker, neighbour) = (Client::within(1, 1), Client::within(1, 2));
    let port = nat64.map(attacker);
    let said = done(&server, &["ban", &attacker.address.to_string(), "--for", "1h"]);
    assert!(said.starts_with(&format!("{} is banned since ", attacker.address)), "{said}");
    assert!(said.contains(" until ") && said.contains("1 entry"), "{said}");
    let line = format!("{}:{port} [{}]:{} ", nat64.address, attacker.address, attacker.port);
    assert!(said.contains(&line), "{line}{said}");
    refused(&nat64, attacker);
    refused(&nat64, attacker.port(7));
    let packet = packet::Ipv4::udp((SERVICE, 443), (PUBLIC, port), b"for it").octets();
    let returned = Reply::returned(&nat64.token, &packet::with_ttl(&packet, 1));
    assert_eq!(nat64.ask(&nat64.service_request(&packet)), returned, "there is no entry for it");
    nat64.map(neighbour);
    let report = nat64.report_request(b"a1", attacker.at(port));
    assert_eq!(nat64.ask(&report), quiet(&nat64, &server));
    let bans = done(&server, &["bans"]);
    assert!(bans.starts_with(&format!("{} is banned since ", attacker.address)), "{bans}");
    let status = get(&server.admin(), "/status").json();
    assert_eq!(status["bans"], 1);
    assert_eq!(status["counters"]["banned"]["total"], 2);
    assert_eq!(status["counters"]["banned_quietly"]["total"], 2);
    assert!(done(&server, &["status"]).contains("\nbanned      1; see nat64handoff bans\n"));
    let said = done(&server, &["unban", &attacker.address.to_string()]);
    assert_eq!(said, format!("{} is not banned any more\n", attacker.address));
    assert_eq!(nat64.map(attacker), port, "it has its entry still");
    assert_eq!(done(&server, &["bans"]), "");
    let deleted = server.events().into_iter().filter(|event| event.kind == Kind::Deleted).count();
    assert_eq!(deleted, 0);
    let told = format!("{} is banned until ", attacker.address);
    assert!(wait_until(PATIENCE, || server.stderr().matches(&told).count() == 1));
}

#[test]
fn networks_are_banned_and_all_reactors_know() {
    let server = Server::start(&["--reactors", "4"]);
    let nat64s: Vec<_> = (0..8).map(|_| Nat64::known(&server)).collect();
    done(&server, &["ban", "2001:db8:0:7::99/64"]);
    for nat64 in &nat64s {
        refused(nat64, Client::within(7, 5));
        nat64.map(Client::within(8, 5));
    }
    let json = done(&server, &["bans", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["bans"][0]["client"], "2001:db8:0:7::/64");
    assert_eq!(json["bans"][0]["until"], serde_json::Value::Null);
    let (code, said) = asked(&server, &["unban", "2001:db8:0:7::5"]);
    assert!(code == 1 && said.contains("part of 2001:db8:0:7::/64; unban that"), "{said}");
    done(&server, &["unban", "2001:db8:0:7::/64"]);
    for nat64 in &nat64s {
        nat64.map(Client::within(7, 5));
    }
}

#[test]
fn a_ban_ends_when_its_time_is_over() {
    let clock = Clock::new();
    let mut program = command();
    clock.drives(&mut program);
    let server = Server::launch(program, fresh_directory(), free_port(), vec![LOCAL], &[]);
    let nat64 = Nat64::known(&server);
    let client = Client::nth(1);
    done(&server, &["ban", &client.address.to_string(), "--for", "30m"]);
    refused(&nat64, client);
    // A wall clock that is set does nothing to it.
    clock.set_wall_ahead(86_400);
    refused(&nat64, client);
    clock.set_ahead(1790);
    refused(&nat64, client);
    clock.set_ahead(1801);
    assert!(wait_until(PATIENCE, || {
        let packet = client.udp(b"data of a client");
        nat64.ask(&nat64.client_request(&client.authenticator(), &packet)).entry.is_some()
    }));
    assert!(wait_until(PATIENCE, || done(&server, &["bans"]).is_empty()));
    let file = server.directory.path().join("state/bans");
    assert!(wait_until(PATIENCE, || fs::read_to_string(&file).unwrap().lines().count() == 2));
}

#[test]
fn what_cannot_be_banned_says_what_to_do() {
    let server = Server::start_single(&[]);
    for (arguments, code, says) in [
        (&["ban", "192.0.2.7"][..], 2, "who ADDRESS:PORT"),
        (&["ban", "2001::/16"], 2, "--wide"),
        (&["ban", "example.org"], 2, "like 2001:db8::17"),
        (&["ban", "2001:db8::1", "--for", "soon"], 2, "like 90s, 10m or 2h"),
        (&["unban", "2001:db8::1"], 1, "see `nat64handoff bans`"),
    ] {
        let (got, said) = asked(&server, arguments);
        assert!(got == code && said.contains(says), "{arguments:?}: {got} {said}");
    }
    let no_server = ["ban", "2001:db8::1", "--admin", "/nowhere/admin.sock"];
    let (code, _, said) = run(&no_server);
    assert!(code == 1 && said.contains("no server can be asked at"), "{said}");
    // And over HTTP, where the command does not look at it first.
    let post = |what: &str| {
        let answer = ask(unix(&server.admin()), &format!("POST {what}"), &["Host: localhost"]);
        (answer.code, answer.json()["error"].as_str().unwrap_or_default().to_owned())
    };
    for (what, code, says) in [
        ("/ban?client=2001::/16", 400, "--wide"),
        ("/ban?client=192.0.2.7", 400, "who ADDRESS:PORT"),
        ("/ban", 400, "like 2001:db8::17"),
        ("/ban?client=2001:db8::1&for=0", 400, "like 90s"),
        ("/unban?client=2001:db8::1", 404, "not banned"),
        ("/ban?client=2001:db8::1&length=10m", 400, "no length="),
        ("/ban?client=2001:db8::1&wide=0", 400, "wide has no value"),
        ("/bans", 405, "GET"),
    ] {
        let (got, said) = post(what);
        assert!(got == code && said.contains(says), "{what}: {got} {said}");
    }
    assert_eq!(get(&server.admin(), "/ban?client=2001:db8::1").code, 405);
    assert_eq!(get(&server.admin(), "/bans").json()["bans"], serde_json::json!([]));
    assert_eq!(post("/ban?client=2001:db8::1&for=90").0, 200);
    assert_eq!(post("/ban?client=2000::/3&wide").0, 200);
}

#[test]
fn damaged_bans_are_put_aside_and_the_server_starts() {
    let mut server = Server::start(&[]);
    let state = server.directory.path().join("state");
    done(&server, &["ban", "2001:db8::17"]);
    server.process.signal(libc::SIGTERM);
    server.wait_exit(PATIENCE);
    let text = fs::read_to_string(state.join("bans")).unwrap();
    fs::write(state.join("bans"), text.replace("::17", "::18")).unwrap();
    let directory = std::mem::replace(&mut server.directory, fresh_directory());
    let server = Server::launch(command(), directory, server.port, vec![LOCAL], &[]);
    let aside = state.join("bans.damaged");
    let told = format!("its checksum is wrong); it is {} now", aside.display());
    assert!(server.stderr().contains(&told), "{}", server.stderr());
    assert!(fs::read_to_string(aside).unwrap().contains("2001:db8::18/128"));
    Nat64::known(&server).map(Client::nth(1));
    assert_eq!(done(&server, &["bans"]), "");
}
