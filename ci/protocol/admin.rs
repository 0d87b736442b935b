//! The admin socket and `--web`: who may ask, what is answered, and what a table is that was
//! dropped.

use crate::harness::process::{Process, wait_until};
use crate::harness::program::{command, free_port};
use crate::http::{Answered, ask, get, tcp, unix};
use crate::judge::PATIENCE;
use crate::judge::client::Client;
use crate::judge::eventlog::Kind;
use crate::judge::nat64::Nat64;
use crate::run::run;
use crate::server::Server;
use serde_json::Value;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

/// A command that asks it: exit code, and what it said.
pub fn asked(server: &Server, arguments: &[&str]) -> (i32, String) {
    let socket = server.admin();
    let (code, stdout, stderr) = run(&[arguments, &["--admin", socket.to_str().unwrap()]].concat());
    (code, stdout + &stderr)
}

fn status(server: &Server) -> Value {
    let answer = get(&server.admin(), "/status");
    assert_eq!(answer.code, 200, "{answer:?}");
    answer.json()
}

/// An address and port that `--web` can have.
fn web_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value}"))
}

/// The live connection of a service with a client of this NAT64.
fn live_connection(nat64: &Nat64) -> (TcpListener, TcpStream) {
    let listener = TcpListener::bind((nat64.address, 0)).unwrap();
    let service = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (listener, service)
}

#[test]
fn status_says_what_was_sent() {
    let server = Server::start_single(&["--max-nat64s", "7", "--max-entries", "500"]);
    let (busy, idle) = (Nat64::known(&server), Nat64::known(&server));
    for number in 0..40 {
        busy.map(Client::nth(number));
    }
    idle.map(Client::nth(100));
    busy.silent("no content", b"");
    // The connection ends at the NAT64's address, which is this host's as well.
    let (_listener, _service) = live_connection(&busy);
    let is_written = || number(&status(&server)["log"]["written"]) == 43;
    assert!(wait_until(PATIENCE, is_written), "{:?}", server.events());

    let said = status(&server);
    let version = run(&["--version"]).1;
    assert_eq!(version.trim(), format!("nat64handoff {}", said["version"].as_str().unwrap()));
    assert_eq!(said["program"], env!("CARGO_BIN_EXE_nat64handoff"));
    assert_eq!(number(&said["process"]), u64::from(server.pid()));
    assert_eq!(said["listen"], serde_json::json!([server.addr().to_string()]));
    assert_eq!((number(&said["reactors"]), said["ready"].as_bool()), (1, Some(true)));
    assert!(server.stderr().contains("io_uring") == (said["io"] == "uring"), "{said}");
    assert_eq!(said["nat64s"], serde_json::json!({"used": 2, "max": 7}));
    assert_eq!(said["entries"], serde_json::json!({"used": 41, "max": 500}));
    let uptime = said["uptime_seconds"].as_f64().unwrap();
    assert!(uptime > 0.0 && said["since"].as_str() < said["time"].as_str(), "{said}");

    let counter = |name: &str| number(&said["counters"][name]["total"]);
    assert_eq!((counter("created"), counter("deleted"), counter("initialized")), (41, 0, 2));
    assert_eq!((counter("client_packets"), counter("identities_learned")), (41, 2));
    assert!(counter("datagrams") > 41 && counter("replies") > 41, "{said}");
    assert_eq!(counter("datagrams"), server_datagrams(&said), "each was answered or dropped");
    assert_eq!(number(&said["validation"]["learned"]["total"]), 2);
    assert_eq!(number(&said["validation"]["rate_max"]), 10_000);
    assert!(number(&said["validation"]["sent"]["total"]) >= 2, "{said}");
    let dropped = said["drops"].as_array().unwrap().iter().find(|drops| drops["reason"] == "empty");
    let dropped = dropped.unwrap();
    assert_eq!((number(&dropped["total"]), dropped["concerns"].as_str()), (1, Some("sender")));
    assert!(dropped["advice"].as_str().unwrap().contains("without content"), "{dropped}");
    assert!(number(&said["batches"]["count"]) > 0 && number(&said["batches"]["datagrams_99"]) > 0);
    assert_eq!((number(&said["log"]["written"]), number(&said["log"]["waiting"]["used"])), (43, 0));
    assert_eq!(said["journal"]["sync"], "interval:100ms");
    assert!(number(&said["journal"]["octets"]) > 41 * 50 && said["journal"]["failed"] == false);
    let holds: Vec<_> =
        said["disks"].as_array().unwrap().iter().map(|disk| &disk["holds"]).collect();
    assert_eq!(holds, ["state", "log"]);
    assert!(said["disks"][0]["size_octets"].as_u64() >= said["disks"][0]["free_octets"].as_u64());

    of_tables(&said, &busy, &idle);
    assert!(!said.to_string().contains("token-of"), "a token is a secret");
    assert!(wait_until(PATIENCE, || status(&server)["journal"]["unsynced_records"] == 0));
    let mut more = (200..).map(Client::nth);
    let rises = || {
        idle.map(more.next().unwrap());
        let said = status(&server);
        let is_its = |table: &&Value| table["nat64"] == idle.address.to_string();
        let table = said["tables"].as_array().unwrap().iter().find(is_its).unwrap();
        let rates = [&said["counters"]["created"], &table["created"]];
        rates.iter().all(|rated| rated["per_second"].as_f64() > Some(0.0))
    };
    assert!(wait_until(PATIENCE, rises), "{}", status(&server));
}

/// What is said of the tables of a NAT64 with 40 entries, and of one with a single one.
fn of_tables(said: &Value, busy: &Nat64, idle: &Nat64) {
    // The fullest one is first.
    let tables = said["tables"].as_array().unwrap();
    assert_eq!((tables.len(), number(&said["tables_all"])), (2, 2));
    for (table, nat64, entries, live) in [(&tables[0], busy, 40, 1), (&tables[1], idle, 1, 0)] {
        assert_eq!(table["nat64"], nat64.address.to_string());
        assert_eq!(table["local"], "127.0.0.1");
        assert_eq!(
            (number(&table["entries"]["used"]), number(&table["created"]["total"])),
            (entries, entries)
        );
        assert!(number(&table["entries"]["max"]) > 60_000, "{table}");
        assert!(number(&table["requests"]["total"]) > entries, "{table}");
        assert_eq!(number(&table["live_connections"]), live, "{table}");
        assert!(table["last_seen_seconds"].as_f64() <= said["uptime_seconds"].as_f64(), "{table}");
        let identities = table["identities"].as_array().unwrap();
        assert_eq!((identities.len(), number(&identities[0]["port"])), (1, nat64.port().into()));
        assert_eq!(
            (&identities[0]["known"], &table["going"]),
            (&Value::Bool(true), &Value::Bool(false))
        );
    }
}

/// Replies, validation packets among them, and drops.
fn server_datagrams(said: &Value) -> u64 {
    let drops = said["drops"].as_array().unwrap().iter().map(|drops| number(&drops["total"]));
    number(&said["counters"]["replies"]["total"]) + drops.sum::<u64>()
}

#[test]
fn commands_say_it_to_people() {
    let server = Server::start_single(&[]);
    let nat64 = Nat64::known(&server);
    let ports: Vec<_> = (0..3).map(|number| nat64.map(Client::nth(number))).collect();
    let (code, said) = asked(&server, &["status"]);
    assert!(code == 0 && said.contains("new clients are answered"), "{said}");
    assert!(
        said.contains(&format!("\n{} ", nat64.address)) && said.contains("--max-nat64s"),
        "{said}"
    );
    let (code, table) = asked(&server, &["table", &nat64.address.to_string()]);
    assert_eq!((code, table.lines().count()), (0, 3), "{table}");
    for (number, port) in ports.iter().enumerate() {
        let client = Client::nth(number as u32);
        let line = format!(
            "{}:{port} [{}]:{} to 127.0.0.1 via 64:ff9b::/96\n",
            nat64.address, client.address, client.port
        );
        assert!(table.contains(&line), "{line}{table}");
    }
    let one = format!("{}/64", Client::nth(1).address);
    let (_, table) =
        asked(&server, &["table", &nat64.address.to_string(), "--client", &one, "--json"]);
    let table: Value = serde_json::from_str(&table).unwrap();
    let entries = table["tables"][0]["entries"].as_array().unwrap();
    assert_eq!((entries.len(), &entries[0]["port"]), (1, &Value::from(ports[1])));
    let (_, identities) = asked(&server, &["identities"]);
    assert!(
        identities.starts_with(&format!(
            "{}:{} to 127.0.0.1, proved ",
            nat64.address,
            nat64.port()
        )),
        "{identities}"
    );
    let (code, said) = asked(&server, &["table", "192.0.2.200"]);
    assert!(code == 1 && said.contains("no table of 192.0.2.200"), "{said}");
}

#[test]
fn only_user_and_group_may_ask() {
    let server = Server::start_single(&[]);
    let path = server.admin();
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!(metadata.mode() & 0o7777, 0o660);
    let groups = fs::read_to_string("/etc/group").unwrap();
    let group = groups.lines().find_map(|line| line.strip_prefix("nat64ho:x:"));
    let group = group.map(|rest| rest.split(':').next().unwrap().parse().unwrap());
    let own = fs::metadata("/proc/self").unwrap().gid();
    assert_eq!(metadata.gid(), group.unwrap_or(own));
    // So that the mode of the socket alone keeps a stranger out.
    for directory in [server.directory.path(), &server.directory.path().join("state")] {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut stranger = Command::new("setpriv");
    stranger
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .arg(command().get_program());
    stranger.args(["status", "--admin"]).arg(&path);
    let mut stranger = Process::spawn(&mut stranger);
    let code = stranger.wait(PATIENCE).unwrap().code();
    let said = stranger.stderr.get();
    assert!(code == Some(1) && said.contains("may not ask") && said.contains("sudo"), "{said}");
}

#[test]
fn without_a_server_the_next_step_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    let at = |path: &Path| run(&["status", "--admin", path.to_str().unwrap()]);
    let (code, _, said) = at(&path);
    assert!(code == 1 && said.contains("start one") && said.contains("--admin"), "{said}");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    drop(listener);
    // A process that another test forks just now holds it, too, until it calls execve.
    let is_gone = || UnixStream::connect(&path).is_err();
    assert!(wait_until(PATIENCE, is_gone));
    let (code, _, said) = at(&path);
    assert!(code == 1 && said.contains("any more"), "{said}");
    assert!(said.lines().count() == 1, "{said}");
}

#[test]
fn a_table_that_was_dropped_is_gone_for_good() {
    let mut server = Server::start_single(&[]);
    let (wrong, right) = (Nat64::known(&server), Nat64::known(&server));
    let clients: Vec<_> = (0..700).map(Client::nth).collect();
    for client in clients {
        wrong.map(client);
    }
    right.map(Client::nth(0));
    let address = wrong.address.to_string();
    let (code, said) = asked(&server, &["drop-table", &address]);
    assert!(code == 2 && said.contains("--yes"), "{said}");
    assert!(wrong.is_known(), "nothing was changed");
    let (code, said) = asked(&server, &["drop-table", &address, "--yes"]);
    assert!(code == 0 && said.contains("700 entries"), "{said}");
    // What was said holds, whatever happens next.
    server.process.signal(libc::SIGKILL);
    server.wait_exit(PATIENCE);
    let server = server.restart();
    let is_whole = || server.events().len() >= 1404;
    assert!(wait_until(PATIENCE, is_whole), "{}", server.events().len());
    let events = server.events();
    let its = events.iter().filter(|event| event.nat64 == wrong.address);
    let kinds: Vec<_> = its.map(|event| event.kind).collect();
    let of = |kind| kinds.iter().filter(|other| **other == kind).count();
    assert_eq!((of(Kind::Created), of(Kind::Deleted), of(Kind::Forgotten)), (700, 700, 1));
    assert_eq!(kinds.last(), Some(&Kind::Forgotten));
    assert!(!wrong.is_known() && right.is_known());
    let said = status(&server);
    assert_eq!((number(&said["nat64s"]["used"]), number(&said["entries"]["used"])), (1, 1));
    // It can come again, and has nothing.
    wrong.introduce();
    let (code, said) = asked(&server, &["drop-table", &address, "--yes", "--json"]);
    assert!(code == 0 && said.contains("\"entries\": 0"), "{said}");
    let (code, said) = asked(&server, &["drop-table", &address, "--yes"]);
    assert!(code == 1 && said.contains("no table"), "{said}");
}

#[test]
fn browsers_of_others_get_nothing() {
    let web = web_address();
    let server = Server::start_single(&["--web", &web.to_string()]);
    let nat64 = Nat64::known(&server);
    nat64.map(Client::nth(1));
    let own = format!("Host: {web}");
    let with = |what: &str, lines: &[&str]| ask(tcp(web), what, lines);
    let mut answers: Vec<Answered> = Vec::new();
    let mut code = |what: &str, lines: &[&str]| {
        answers.push(with(what, lines));
        answers.last().unwrap().code
    };
    assert_eq!(code("GET /status", &[&own]), 200);
    assert_eq!(code("GET /status", &["Host: localhost"]), 200);
    assert_eq!(code("GET /status", &["Host: nat64.evil.example"]), 421);
    assert_eq!(code("GET /status", &[]), 421);
    assert_eq!(code("GET /status", &[&own, "Origin: http://evil.example"]), 403);
    assert_eq!(code("GET /status", &[&own, &format!("Origin: http://{web}")]), 200);
    assert_eq!(code("GET /status", &[&own, "Sec-Fetch-Site: cross-site"]), 403);
    let drop = format!("/tables/{}/drop", nat64.address);
    assert_eq!(code(&format!("GET {drop}"), &[&own]), 405, "nothing changes by it");
    assert_eq!(code(&format!("POST {drop}"), &[&own]), 403, "nor without a token");
    assert_eq!(code("POST /status", &[&own]), 403);
    assert_eq!(code("OPTIONS /status", &[&own, "Origin: http://evil.example"]), 403);
    assert_eq!(code("GET /nothing", &[&own]), 404);
    assert_eq!(code("GET /tables/2001:db8::1", &[&own]), 400);
    assert!(nat64.is_known());
    for answer in &answers {
        assert!(!answer.headers.contains("access-control"), "{answer:?}");
        assert!(answer.headers.contains("x-content-type-options: nosniff"), "{answer:?}");
    }
    // By the socket of this user, it may be changed.
    let drop = ask(unix(&server.admin()), &format!("POST {drop}"), &["Host: localhost"]);
    assert_eq!(drop.code, 200, "{drop:?}");
}

#[test]
fn a_token_is_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    fs::write(&token, "0123456789abcdef0123\n").unwrap();
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    let web = web_address();
    let arguments = ["--web", &web.to_string(), "--web-token-file", token.to_str().unwrap()];
    let server = Server::start_single(&arguments);
    let nat64 = Nat64::known(&server);
    let with = |what: &str, line: &str| ask(tcp(web), what, &["Host: nat64.example.org", line]);
    let refused = with("GET /metrics", "Accept: */*");
    assert!(
        refused.code == 401 && refused.headers.contains("www-authenticate: basic"),
        "{refused:?}"
    );
    assert_eq!(with("GET /metrics", "Authorization: Bearer 0123456789abcdef0124").code, 401);
    let right = "Authorization: Bearer 0123456789abcdef0123";
    assert_eq!(with("GET /metrics", right).code, 200);
    let drop = format!("POST /tables/{}/drop", nat64.address);
    assert_eq!(with(&drop, "Accept: */*").code, 401);
    assert_eq!(with(&drop, right).code, 200);
    assert!(!nat64.is_known());
    // Others than this host are not answered without.
    let (code, _, said) = run(&["check-config", "--web", "0.0.0.0:8064"]);
    assert!(code == 2 && said.contains("--web-token-file"), "{said}");
}
