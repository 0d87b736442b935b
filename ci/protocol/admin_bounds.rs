//! The admin socket and `--web` at their bounds: nothing there keeps a request of a NAT64 waiting.

use crate::harness::process::wait_until;
use crate::harness::program::free_port;
use crate::http::{ask, get, tcp, unix};
use crate::judge::PATIENCE;
use crate::judge::client::Client;
use crate::judge::nat64::Nat64;
use crate::server::Server;
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;

fn metric(server: &Server, name: &str) -> f64 {
    let body = get(&server.admin(), "/metrics").body;
    let line = body.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("{name}: {body}")).parse().unwrap()
}

#[test]
fn a_header_of_ten_megaoctets_is_refused() {
    let server = Server::start_single(&[]);
    let nat64 = Nat64::known(&server);
    for begin in ["GET /", "GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: "] {
        let mut stream = unix(&server.admin());
        stream.write_all(begin.as_bytes()).unwrap();
        let part = [b'x'; 64 * 1024];
        let sent = (0..160).take_while(|_| stream.write_all(&part).is_ok()).count();
        assert!(sent < 160, "it reads all of it");
        let mut said = Vec::new();
        // What it says may be lost with the connection that it closes.
        let _ = stream.read_to_end(&mut said);
        let said = String::from_utf8_lossy(&said);
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 4"), "{said}");
        nat64.fence();
    }
    let many: Vec<_> = (0..200).map(|number| format!("X-{number}: 1")).collect();
    let lines: Vec<_> =
        ["Host: localhost"].into_iter().chain(many.iter().map(String::as_str)).collect();
    assert_eq!(ask(unix(&server.admin()), "GET /status", &lines).code, 431);
    assert_eq!(get(&server.admin(), "/status").code, 200);
}

/// A log that nobody reads: new clients get no answer, and that is what is told.
#[test]
fn who_is_not_ready_says_so() {
    let pipe = tempfile::tempdir().unwrap();
    let path = pipe.path().join("log");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    // Nothing is read of it.
    let _reader = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let server = Server::start_single(&["--log", path.to_str().unwrap()]);
    let nat64 = Nat64::known(&server);
    let at = server.admin();
    assert_eq!(get(&at, "/readyz").code, 200);
    let is_answered = |number: u32| {
        let client = Client::nth(number);
        nat64.send(&nat64.client_request(&client.authenticator(), &client.udp(b"data")));
        nat64.try_reply(PATIENCE / 20).is_some()
    };
    let first = (0..60_000).find(|&number| !is_answered(number));
    assert!(first.is_some(), "it never waits");
    let ready = get(&at, "/readyz");
    assert_eq!(ready.code, 503, "{ready:?}");
    assert!(ready.body.contains("the event log does not take lines"), "{ready:?}");
    let said = get(&at, "/status").json();
    assert_eq!(said["ready"], false);
    assert!(said["not_ready"][0].as_str().unwrap().contains("1 of 1 reactors"), "{said}");
    assert_eq!(metric(&server, "nat64handoff_ready"), 0.0);
    assert_eq!(get(&at, "/healthz").code, 200, "it lives");
    let drop = format!("POST /tables/{}/drop", nat64.address);
    let refused = ask(unix(&at), &drop, &["Host: localhost"]);
    assert!(refused.code == 503 && refused.body.contains("nothing is changed"), "{refused:?}");
    assert!(nat64.is_known());
}

#[test]
fn a_thousand_connections_do_not_keep_others_out() {
    let web: SocketAddr = (Ipv4Addr::LOCALHOST, free_port()).into();
    let server = Server::start_single(&["--web", &web.to_string()]);
    let nat64 = Nat64::known(&server);
    let silent: Vec<_> = (0..1000).map(|_| tcp(web)).collect();
    nat64.map(Client::nth(1));
    // Those by the other way do not notice, and those that are too many are closed at once.
    assert_eq!(get(&server.admin(), "/readyz").code, 200);
    let refused = || metric(&server, "nat64handoff_admin_connections_refused_total") as usize;
    assert!(wait_until(PATIENCE, || refused() >= 900), "{}", refused());
    assert!(wait_until(PATIENCE, || server
        .stderr()
        .contains("connections to the admin socket or --web are refused")));
    let ends = |mut stream: &TcpStream| matches!(stream.read(&mut [0]), Ok(0) | Err(_));
    nat64.map(Client::nth(2));
    // The others when they have sent no request in time.
    assert!(silent.iter().all(ends));
    assert_eq!(ask(tcp(web), "GET /readyz", &["Host: localhost"]).code, 200);
}

#[test]
fn who_does_not_read_is_cut_off() {
    let server = Server::start_single(&["--create-rate", "1000000"]);
    let nat64 = Nat64::known(&server);
    // More than the buffers of a socket hold.
    for number in 0..20_000 {
        nat64.map(Client::nth(number));
    }
    let what = format!("/tables/{}", nat64.address);
    let slow: Vec<_> = (0..2)
        .map(|_| {
            let mut stream = unix(&server.admin());
            let request = format!("GET {what} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            stream.write_all(request.as_bytes()).unwrap();
            stream
        })
        .collect();
    // No more of that are made at once: the third is told so.
    let third = || get(&server.admin(), &what).code == 503;
    assert!(wait_until(PATIENCE, third));
    nat64.map(Client::nth(30_000));
    assert_eq!(get(&server.admin(), "/readyz").code, 200);
    let cut = || metric(&server, "nat64handoff_admin_cut_off_total") == 2.0;
    assert!(wait_until(PATIENCE, cut), "they are still there");
    for mut stream in slow {
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        let whole = get(&server.admin(), &what);
        assert!(whole.code == 200 && said.len() < whole.body.len(), "{}", said.len());
        let entries = whole.json()["tables"][0]["entries"].as_array().unwrap().len();
        assert_eq!(entries, 20_001);
    }
}
