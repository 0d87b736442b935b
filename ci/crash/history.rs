//! The history of the log: made a day at a time while the server runs, killed while it is made, on
//! a disk that is full, and read by others.

use crate::clock::Clock;
use crate::harness::process::wait_until;
use crate::judge::client::Client;
use crate::judge::nat64::Nat64;
use crate::mount::Mounted;
use crate::python::python_with;
use crate::run::run;
use crate::server::Server;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write as _};
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const DAY: u64 = 24 * 3600;
/// The thread looks now and then, after all others: it gets next to nothing of busy cores.
const SOON: Duration = Duration::from_secs(900);

fn held(server: &Server) -> PathBuf {
    server.log.with_file_name("history").join("held")
}

/// The files that are whole, or those that are not.
fn files(server: &Server, whole: bool) -> Vec<PathBuf> {
    let entries = fs::read_dir(held(server)).into_iter().flatten().flatten();
    let is_it = |path: &PathBuf| path.extension().is_some_and(|end| (end == "parquet") == whole);
    let mut files: Vec<_> = entries.map(|entry| entry.path()).filter(is_it).collect();
    files.sort_unstable();
    files
}

/// A command about the server's log: exit code, standard output, standard error.
fn ask(server: &Server, arguments: &[&str]) -> (i32, String, String) {
    run(&[arguments, &["--log", server.log.to_str().unwrap()]].concat())
}

fn who(server: &Server, arguments: &[&str]) -> String {
    let (code, said, error) = ask(server, &[&["who"], arguments].concat());
    assert_eq!(code, 0, "{arguments:?}: {error}");
    said
}

/// By the history and the log, and by the log alone.
fn same(server: &Server, asked: &str, at: &str) -> String {
    let said = who(server, &[asked, "--at", at, "--json"]);
    let by_log = who(server, &[asked, "--at", at, "--json", "--history", "off"]);
    assert_eq!(said, by_log, "{asked} at {at}");
    said
}

fn has_files(server: &Server, count: usize) {
    let is_there = || files(server, true).len() >= count;
    assert!(wait_until(SOON, is_there), "{:?}\n{}", files(server, true), server.stderr());
}

/// Days pass, files of the log and of its history are removed, and who has a port since before is
/// still told.
#[test]
fn crash_a_history_outlives_its_log() {
    let mut server = Server::new();
    server.clock = Some(Clock::new());
    server.start(&["--log-keep", "2", "--log-format", "full"]);
    let nat64 = Nat64::known(&server);
    let clients: Vec<_> = (0..6).map(Client::nth).collect();
    let mut ports = Vec::new();
    for (day, client) in (1..).zip(&clients) {
        ports.push(nat64.map(*client));
        server.clock.as_ref().unwrap().set_wall_ahead(day * DAY);
        has_newest_of(&server, day);
    }
    let asked = |port: u16| format!("{}:{port}", nat64.address);
    let is_removed = || files(&server, true).len() <= 3;
    assert!(wait_until(SOON, is_removed), "{:?}", files(&server, true));
    let first = asked(ports[0]);
    let by_log = || who(&server, &[&first, "--at", "2099-01-01", "--history", "off"]);
    assert!(wait_until(SOON, || by_log().contains("nobody")), "the log has it still: {}", by_log());
    for (client, port) in clients.iter().zip(&ports) {
        let said = who(&server, &[&asked(*port), "--at", "2099-01-01"]);
        let expected = format!("{} port {} (to 127.0.0.1), since ", client.address, client.port);
        assert!(said.starts_with(&expected) && said.ends_with(", until now\n"), "{said}");
    }
    // Without any of the log, too.
    let elsewhere = tempfile::tempdir().unwrap();
    fs::rename(&server.log, elsewhere.path().join("events.log")).unwrap();
    let (code, said, error) = ask(&server, &["who", &first, "--at", "2099-01-01"]);
    assert!(code == 0 && said.contains(", until now"), "{said}{error}");
    assert!(error.contains("is not there: this is what its history has, up to "), "{error}");
    fs::rename(elsewhere.path().join("events.log"), &server.log).unwrap();
    server.stop();
    let (code, said, error) = ask(&server, &["history", "check"]);
    assert!(code == 0 && said.contains("6 ports are clients' at the end"), "{said}{error}");
}

/// A file with all of the log up to then.
fn has_newest_of(server: &Server, day: u64) {
    let serial = format!("-{day:06}-");
    let is_it = || {
        let newest = files(server, true).pop();
        newest.is_some_and(|path| path.to_string_lossy().contains(&serial))
    };
    assert!(wait_until(SOON, is_it), "{:?}\n{}", files(server, true), server.stderr());
}

/// Lines of an old day, as many as two files and a half are made of.
fn old_log(server: &Server, lines: u64) -> PathBuf {
    let mut text = String::new();
    for line in 0..lines / 2 {
        let time = format!(
            "2019-03-18 {:02}:{:02}:{:02}.{:06}",
            line / 60_000 % 24,
            line / 1000 % 60,
            line / 17 % 60,
            line % 1_000_000
        );
        let (nat64, port) = (format!("192.0.2.{}", line % 7), 1024 + line % 5000);
        if line >= 5000 * 7 {
            let before = (line - 5000 * 7) & 0xffff;
            writeln!(text, "{time} Deleted {nat64}:{port} [2001:db8::{before:x}]:7").unwrap();
        }
        writeln!(text, "{time} Created {nat64}:{port} [2001:db8::{:x}]:7", line & 0xffff).unwrap();
    }
    let path = server.log.with_file_name("events.log-20190318");
    fs::write(&path, text).unwrap();
    fs::write(&server.log, "").unwrap();
    path
}

/// Killed while it is made: what has a name is whole, and the rest is made anew.
#[test]
fn crash_kill_while_history_is_made() {
    let mut server = Server::new();
    old_log(&server, 1_300_000);
    for _ in 0..4 {
        let before = files(&server, true);
        server.start(&[]);
        let is_made =
            || !files(&server, false).is_empty() || files(&server, true).len() > before.len();
        assert!(wait_until(SOON, is_made), "{}", server.stderr());
        server.kill();
    }
    server.start(&[]);
    has_files(&server, 3);
    assert!(wait_until(SOON, || files(&server, false).is_empty()), "{:?}", files(&server, false));
    server.stop();
    let (code, said, error) = ask(&server, &["history", "build"]);
    assert!(code == 0, "{said}{error}");
    let (code, said, error) = ask(&server, &["history", "check"]);
    assert!(code == 0 && said.contains("from 2019-03-18 00:"), "{said}{error}");
    for (port, at) in [(1024, "01:00"), (3000, "05:30:10"), (6023, "00:00:01"), (2500, "10:00")] {
        let nat64 = port % 7;
        let said = same(&server, &format!("192.0.2.{nat64}:{port}"), &format!("2019-03-18 {at}"));
        assert!(said.contains("held"), "{said}");
    }
    same(&server, "2001:db8::1234", "2019-03-18");
}

/// The last of the disk is the log's: without room there is no history, which is said once, and
/// the server serves. It comes when there is room.
#[test]
fn crash_no_room_for_the_history() {
    let mut server = Server::new();
    let place = server.directory.path().join("log");
    let tmpfs = Mounted::tmpfs(&place, 24 * 1024);
    server.log = place.join("events.log");
    old_log(&server, 20_000);
    let filler = place.join("filler");
    fs::write(&filler, vec![1; 10 << 20]).unwrap();
    server.start(&[]);
    let said = |server: &Server| {
        let said = server.stderr();
        said.lines().filter(|line| line.contains("the history cannot be written")).count()
    };
    assert!(wait_until(SOON, || said(&server) > 0), "{}", server.stderr());
    let nat64 = Nat64::known(&server);
    let client = Client::nth(1);
    let port = nat64.map(client);
    assert!(server.stderr().contains("make room"), "{}", server.stderr());
    assert_eq!((said(&server), files(&server, true).len()), (1, 0), "{}", server.stderr());
    fs::remove_file(&filler).unwrap();
    has_files(&server, 1);
    let now = || who(&server, &[&format!("{}:{port}", nat64.address)]);
    assert!(wait_until(SOON, || now().starts_with(&format!("{} ", client.address))), "{}", now());
    server.stop();
    same(&server, "192.0.2.3:1027", "2019-03-18");
    drop(tmpfs);
}

/// A disk has changed an octet of the newest file: the server says so once, puts it aside, and
/// makes it again.
#[test]
fn crash_a_damaged_history_is_made_again() {
    let mut server = Server::new();
    old_log(&server, 20_000);
    let (code, said, error) = ask(&server, &["history", "build"]);
    assert!(code == 0, "{said}{error}");
    let newest = files(&server, true).pop().unwrap();
    let mut octets = fs::read(&newest).unwrap();
    let middle = octets.len() / 2;
    octets[middle] ^= 1;
    fs::write(&newest, octets).unwrap();
    let (code, said, error) = ask(&server, &["history", "check"]);
    let name = newest.to_str().unwrap();
    assert!(code == 1 && said.contains(name) && said.contains("history build"), "{said}{error}");
    let line = "2019-03-19 00:00:00.000000 Created 192.0.2.99:1 [2001:db8::1]:7\n";
    fs::write(&server.log, line).unwrap();
    server.start(&[]);
    has_files(&server, 2);
    let told = || server.stderr().matches("that was damaged").count();
    assert!(wait_until(SOON, || told() == 1), "{}", server.stderr());
    assert_eq!(files(&server, true)[0], newest);
    server.stop();
    let (code, said, error) = ask(&server, &["history", "check"]);
    assert!(code == 0 && said.starts_with("2 files, "), "{said}{error}");
    let said = same(&server, "192.0.2.3:1027", "2019-03-18 00:00:05");
    assert!(said.contains("held"), "{said}");
    assert!(newest.with_extension("parquet.damaged").exists());
}

const READ_BY_OTHERS: &str = r#"
import sys, glob
held = sys.argv[1]
import duckdb
rows = duckdb.sql(f"""
    SELECT client, client_port, since::VARCHAR, until::VARCHAR FROM '{held}/*.parquet'
    WHERE nat64 = '192.0.2.3' AND port = 1027 AND since <= TIMESTAMPTZ '2019-03-18 00:00:05Z'
    ORDER BY since DESC LIMIT 1""").fetchall()
print(rows[0][0], rows[0][1])
print(duckdb.sql(f"SELECT count(*) FROM '{held}/*.parquet' WHERE client = '2001:db8::3'").fetchall()[0][0])
import pyarrow.parquet as parquet
table = parquet.read_table(glob.glob(held + "/*.parquet")[0])
print(table.num_rows, table.schema.field("port").type, table.schema.field("since").type)
metadata = parquet.ParquetFile(glob.glob(held + "/*.parquet")[0]).metadata
column = metadata.row_group(0).column(0)
print(column.has_column_index, column.compression, metadata.row_group(0).sorting_columns[0].column_index)
"#;

/// What HISTORY.md says, in the folder that has `history`; with another time as argument.
const DOCUMENTED: &str = r#"
import sys, duckdb
connection = duckdb.connect()
sql = sys.argv[1].replace('2026-03-18 11:00Z', sys.argv[2])
for statement in sql.split(';'):
    if 'CREATE' in statement:
        connection.execute(statement)
    elif statement.strip():
        names = [name for name, *_ in connection.execute(statement).description]
        rows = [dict(zip(names, row)) for row in connection.fetchall()]
        print([row['client'] + (', perhaps' if row.get('perhaps_until') else '') for row in rows])
"#;

/// What reads it.
const READERS: [&str; 2] = ["duckdb", "pyarrow"];

/// DuckDB and pyarrow read it as it is.
#[test]
fn crash_others_read_the_history() {
    let server = Server::new();
    old_log(&server, 20_000);
    let (code, said, error) = ask(&server, &["history", "build"]);
    assert!(code == 0 && said.starts_with("1 files of 10000 lines, "), "{said}{error}");
    let output = Command::new(python_with(&READERS, "parquet-readers"))
        .args(["-c", READ_BY_OTHERS, held(&server).to_str().unwrap()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let mut lines = said.lines();
    let error = String::from_utf8_lossy(&output.stderr);
    let by_who = who(&server, &["192.0.2.3:1027", "--at", "2019-03-18 00:00:05"]);
    let (client, port) = lines.next().unwrap_or_else(|| panic!("{error}")).split_once(' ').unwrap();
    assert!(by_who.starts_with(&format!("{client} port {port}, ")), "{by_who} {said}");
    assert_eq!(lines.next(), Some("1"), "{said}");
    assert_eq!(lines.next(), Some("10000 uint16 timestamp[us, tz=UTC]"), "{said}");
    assert_eq!(lines.next(), Some("True ZSTD 0"), "{said}");
}

/// What the documentation has to be asked tells who had a port, and nobody else, over many files.
#[test]
fn crash_the_documented_questions_are_right() {
    let server = Server::new();
    let lines = "\
2026-03-16 10:00:00.000000 Created 192.0.2.7:3719 [2001:db8:17::1]:7
2026-03-17 10:00:00.000000 Deleted 192.0.2.7:3719 [2001:db8:17::1]:7
2026-03-17 10:00:00.000000 Created 192.0.2.7:3719 [2001:db8:17::2]:7
2026-03-17 12:00:00.000000 Initialized 192.0.2.7
2026-03-18 12:00:00.000000 Deleted 192.0.2.7:3719 [2001:db8:17::2]:7
2026-03-19 12:00:00.000000 Created 192.0.2.7:3719 [2001:db8:17::3]:7
2026-03-20 12:00:00.000000 Created 192.0.2.7:3720 [2001:db8:17::3]:8
2026-03-24 12:00:00.000000 Initialized 192.0.2.7
";
    fs::write(&server.log, lines).unwrap();
    let (code, said, error) = ask(&server, &["history", "build"]);
    assert!(code == 0 && said.starts_with("6 files of 8 lines, "), "{said}{error}");
    let page = include_str!("../../src/HISTORY.md");
    let sql = page.split_once("```sql\n").unwrap().1.split_once("```").unwrap().0;
    let python = python_with(&READERS, "parquet-readers");
    for (at, expected) in [
        ("2026-03-15 11:00Z", "[]"),
        ("2026-03-16 11:00Z", "['2001:db8:17::1']"),
        ("2026-03-18 11:00Z", "['2001:db8:17::2']"),
        ("2026-03-18 12:30Z", "[]"),
        ("2026-03-25 11:00Z", "['2001:db8:17::3, perhaps']"),
    ] {
        let mut asked = Command::new(&python);
        asked.args(["-c", DOCUMENTED, sql, at]).current_dir(server.directory.path());
        let output = asked.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let week = "['2001:db8:17::1', '2001:db8:17::2', '2001:db8:17::3']";
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(said, format!("{expected}\n{week}\n"), "{at} {error}");
    }
}

/// The same of whom an address of the pool stood for.
#[test]
fn crash_the_documented_question_about_names_is_right() {
    let server = Server::new();
    let lines = "\
2026-03-16 10:00:00.000000 Named 100.64.0.7 [2001:db8:17::1]
2026-03-16 10:00:00.000000 Named 100.64.0.8 [2001:db8:17::9]
2026-03-17 10:00:00.000000 Unnamed 100.64.0.7 [2001:db8:17::1]
2026-03-17 11:00:00.000000 Named 100.64.0.7 [2001:db8:17:1::/64]
2026-03-19 12:00:00.000000 Unnamed 100.64.0.7 [2001:db8:17:1::/64]
2026-03-20 12:00:00.000000 Named 100.64.0.7 [2001:db8:17::3]
2026-03-21 12:00:00.000000 Created 192.0.2.7:3720 [2001:db8:17::3]:8
";
    fs::write(&server.log, lines).unwrap();
    let (code, said, error) = ask(&server, &["history", "build"]);
    assert!(code == 0 && said.starts_with("5 files of 7 lines, "), "{said}{error}");
    let page = include_str!("../../src/HISTORY.md");
    let sql = page.split("```sql\n").nth(2).unwrap().split_once("```").unwrap().0;
    let python = python_with(&READERS, "parquet-readers");
    for (at, expected) in [
        ("2026-03-15 11:00Z", ""),
        ("2026-03-16 11:00Z", "2001:db8:17::1"),
        ("2026-03-17 10:30Z", ""),
        ("2026-03-18 11:00Z", "2001:db8:17:1::/64"),
        ("2026-03-25 11:00Z", "2001:db8:17::3"),
    ] {
        let mut asked = Command::new(&python);
        asked.args(["-c", DOCUMENTED, sql, at]).current_dir(server.directory.path());
        let output = asked.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let error = String::from_utf8_lossy(&output.stderr);
        let row = if expected.is_empty() { "[]\n".to_owned() } else { format!("['{expected}']\n") };
        assert_eq!(said, row, "{at} {error}");
        let by_who = who(&server, &["100.64.0.7", "--at", at.trim_end_matches('Z')]);
        let answer = match expected {
            "" => "100.64.0.7: nobody".to_owned(),
            client => format!("100.64.0.7 was {client}, since"),
        };
        assert!(by_who.starts_with(&answer), "{by_who}");
    }
}

/// The same of a port that hosts of a fleet had one after another.
#[test]
fn crash_the_documented_question_about_several_hosts_is_right() {
    let to = "192.0.2.7:3719 [2001:db8:17::";
    let by = "]:7 to 203.0.113.5 via 64:ff9b::/96";
    let first = format!(
        "2026-03-16 10:00:00.000000 Created {to}1{by}\n\
         2026-03-18 10:00:00.000000 Created {to}3{by}\n"
    );
    let second = format!(
        "2026-03-17 10:00:00.000000 Deleted {to}1{by}\n\
         2026-03-17 10:00:00.000000 Created {to}2{by}\n\
         2026-03-17 20:00:00.000000 Deleted {to}2{by}\n\
         2026-03-19 10:00:00.000000 Initialized 192.0.2.7 to 203.0.113.5\n"
    );
    let server = Server::new();
    let fleet = server.directory.path().join("fleet");
    for (host, lines) in [("a", first), ("b", second)] {
        let log = fleet.join(host).join("events.log");
        fs::create_dir_all(log.parent().unwrap()).unwrap();
        fs::write(&log, lines).unwrap();
        let (code, _, error) = run(&["history", "build", "--log", log.to_str().unwrap()]);
        assert_eq!(code, 0, "{error}");
    }
    let page = include_str!("../../src/HISTORY.md");
    let sql = page.split("```sql\n").nth(3).unwrap().split_once("```").unwrap().0;
    let python = python_with(&READERS, "parquet-readers");
    for (at, expected) in [
        ("2026-03-15 11:00Z", ""),
        ("2026-03-16 11:00Z", "2001:db8:17::1"),
        ("2026-03-17 11:00Z", "2001:db8:17::2"),
        ("2026-03-17 21:00Z", ""),
        ("2026-03-18 11:00Z", "2001:db8:17::3"),
        ("2026-03-19 11:00Z", ""),
    ] {
        let mut asked = Command::new(&python);
        asked.args(["-c", DOCUMENTED, sql, at]).current_dir(&fleet);
        let output = asked.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let error = String::from_utf8_lossy(&output.stderr);
        let row = if expected.is_empty() { "[]\n".to_owned() } else { format!("['{expected}']\n") };
        assert_eq!(said, row, "{at} {error}");
        let fleet = fleet.to_str().unwrap();
        let at = at.trim_end_matches('Z');
        let (_, by_who, _) = run(&["who", "192.0.2.7:3719", "--at", at, "--fleet", fleet]);
        let answer = if expected.is_empty() { "192.0.2.7:3719: nobody" } else { expected };
        assert!(by_who.starts_with(answer), "{by_who}");
    }
}

/// Root makes the history of a log of another user, who cannot have root give files away.
#[test]
fn crash_no_link_is_followed_in_a_history() {
    let server = Server::new();
    fs::write(
        &server.log,
        "2026-03-16 10:00:00.000000 Created 192.0.2.7:3719 [2001:db8:17::1]:7\n",
    )
    .unwrap();
    chown(&server.log, Some(12_345), Some(12_345)).unwrap();
    let theirs = server.directory.path().join("theirs");
    fs::write(&theirs, "root's").unwrap();
    let folder = server.log.with_file_name("history");
    fs::create_dir(&folder).unwrap();
    symlink(&theirs, folder.join(".lock")).unwrap();
    let (code, said, error) = ask(&server, &["history", "build"]);
    assert!(code == 1 && error.contains("cannot be written"), "{said}{error}");
    assert_eq!(fs::metadata(&theirs).unwrap().uid(), 0);
    fs::remove_file(folder.join(".lock")).unwrap();
    let (code, said, error) = ask(&server, &["history", "build"]);
    assert!(code == 0 && said.starts_with("1 files of 1 lines, "), "{said}{error}");
    assert_eq!(fs::metadata(files(&server, true).pop().unwrap()).unwrap().uid(), 12_345);
}

/// Of a log that is a pipe, no line is taken from its reader.
#[test]
fn crash_a_pipe_has_no_history() {
    let server = Server::new();
    let made = Command::new("mkfifo").arg(&server.log).status().unwrap();
    assert!(made.success());
    let mut pipe = fs::OpenOptions::new().read(true).write(true).open(&server.log).unwrap();
    let line = "2026-03-16 10:00:00.000000 Created 192.0.2.7:3719 [2001:db8:17::1]:7\n";
    pipe.write_all(line.as_bytes()).unwrap();
    let (code, said, error) = ask(&server, &["history", "build"]);
    assert!(code == 0 && said.starts_with("0 files of 0 lines, "), "{said}{error}");
    let mut read = vec![0; line.len()];
    pipe.read_exact(&mut read).unwrap();
    assert_eq!(read, line.as_bytes());
}
