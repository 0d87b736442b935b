//! What stands in `src/programs/service/examples` does what it says.

use crate::export::{Log, daemon, syslog};
use crate::harness::process::wait_until;
use crate::harness::program::{free_port, without_variables};
use crate::judge::{LEISURE, PATIENCE};
use crate::python::python_with;
use crate::run::run;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// rsyslog has each event with its fields, and that lines may be missing.
#[test]
fn export_to_rsyslog_as_in_the_example() {
    let mut log = Log::new(50);
    let port = free_port();
    let out = log.text("out");
    let example = include_str!("../../src/programs/service/examples/rsyslog.conf");
    let config = example.replace("/var/log/nat64.json", &out).replace("5140", &port.to_string());
    fs::write(log.path("config"), config).unwrap();
    let mut command = Command::new("rsyslogd");
    command.arg("-n").arg("-f").arg(log.path("config")).arg("-i").arg(log.path("pid"));
    let rsyslog = daemon(&mut command, "rsyslog");
    let to = format!("syslog+tcp://127.0.0.1:{port}");
    let came = || fs::read_to_string(&out).unwrap_or_default();
    let have_come = |lines| {
        let is_all = || came().lines().count() == lines && came().ends_with('\n');
        assert!(wait_until(LEISURE, is_all), "{}\n{}", came(), rsyslog.said());
    };
    let mut export = log.export(&to);
    have_come(50);
    export.signal(libc::SIGTERM);
    assert_eq!(export.wait(PATIENCE).unwrap().code(), Some(0));
    // The file with the last line goes.
    fs::remove_file(log.path("events.log")).unwrap();
    log.append(5);
    let mut export = log.export(&to);
    have_come(56);
    for (number, text) in came().lines().enumerate() {
        let object: serde_json::Value = serde_json::from_str(text).unwrap();
        if number == 50 {
            assert_eq!(object["at"], "2019-03-18T10:06:28.000049Z");
            assert_eq!(
                (&object["event"], &object["fields"]["why"]),
                (&"Lost".into(), &"removed".into())
            );
            continue;
        }
        let number = if number > 50 { number - 1 } else { number };
        let kind = if number % 4 == 3 { "Deleted" } else { "Created" };
        assert_eq!(object["at"], format!("2019-03-18T10:06:28.{number:06}Z"));
        assert_eq!(object["event"], kind);
        for (name, value) in [("client", "2001:db8::17"), ("port", "3719"), ("to", "203.0.113.5")] {
            assert_eq!(object["fields"][name], value, "{text}");
        }
    }
    export.signal(libc::SIGTERM);
    assert_eq!(export.wait(PATIENCE).unwrap().code(), Some(0));
}

/// ClickHouse in a process: what its client does, of a database in a folder.
const CLICKHOUSE: &str = r"
import sys, chdb.session
query = sys.argv[sys.argv.index('--query') + 1]
data = sys.stdin.read()
session = chdb.session.Session(sys.argv[1])
print(session.query(query + ('\n' + data if data else ''), 'TSVRaw'), end='')
";

/// What the loader brings is there once each, over several runs, and answers as the example says.
#[test]
fn export_to_clickhouse_as_in_the_example() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/programs/service/examples");
    let mut log = Log::new(250_000);
    let client = log.path("client.py");
    fs::write(&client, CLICKHOUSE).unwrap();
    let python = python_with(&["chdb"], "clickhouse");
    let client = format!("{} {} {}", python.display(), client.display(), log.text("database"));
    let done = |command: &mut Command| {
        let output = command.env("CLICKHOUSE_CLIENT", &client).stdin(Stdio::null()).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let ask = |query: &str| {
        let shell = "$CLICKHOUSE_CLIENT --query \"$0\"";
        done(Command::new("bash").args(["-c", shell, query]))
    };
    let program = Path::new(env!("CARGO_BIN_EXE_nat64handoff")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let load = |log: &Log| {
        let mut command = without_variables(Command::new("bash"));
        command.arg(examples.join("clickhouse-load")).env("PATH", &path);
        done(command.args(["--log", &log.text("events.log")]));
    };
    let sql = fs::read_to_string(examples.join("clickhouse.sql")).unwrap();
    let (table, question) = sql.split_once(";\n").unwrap();
    ask(table);
    load(&log);
    log.append(5);
    let last = "\
2019-03-18 11:00:00.000000 Deleted 192.0.2.7:3719 [2001:db8::17]:53186
2019-03-18 11:00:00.000000 Created 192.0.2.7:3719 [2001:db8::1:1]:1
2019-03-18 11:00:00.000000 Deleted 192.0.2.7:3719 [2001:db8::1:1]:1
2019-03-18 11:00:00.000000 Created 192.0.2.7:3719 [2001:db8::55]:1
";
    let file = fs::OpenOptions::new().append(true).open(log.path("events.log"));
    file.unwrap().write_all(last.as_bytes()).unwrap();
    load(&log);
    load(&log);
    let count = "SELECT count(), uniqExact(cursor) FROM nat64_events FINAL";
    assert_eq!(ask(count), "250009\t250009\n");
    let question = question.lines().filter_map(|line| line.strip_prefix("--   "));
    let answer = ask(&question.collect::<Vec<_>>().join(" "));
    assert_eq!(answer, "Created\t2001:db8::55\t1\t2019-03-18 11:00:00.000000\n");
    // Each member of our objects has its column.
    let columns = ask("SELECT name FROM system.columns WHERE table = 'nat64_events'");
    let columns: Vec<&str> = columns.lines().collect();
    let members = members(&log);
    assert!(members.iter().all(|member| columns.contains(&&**member)), "{members:?} {columns:?}");
}

/// Those of our objects, sorted.
fn members(log: &Log) -> Vec<String> {
    let one = ["follow", "--json", "--no-wait", "--from", "start", "--log"];
    let (_, objects, _) = run(&[&one[..], &[&log.text("events.log")]].concat());
    let object: serde_json::Value = serde_json::from_str(objects.lines().next().unwrap()).unwrap();
    let mut members: Vec<_> = object.as_object().unwrap().keys().cloned().collect();
    members.sort_unstable();
    members
}

/// Vector's configuration can be read, and what it makes of our messages has the members of our
/// objects.
#[test]
fn export_by_vector_as_in_the_example() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR"));
    let example = example.join("src/programs/service/examples/vector.yaml");
    let python = python_with(&["pyyaml"], "yaml");
    let read = r"
import json, sys, yaml
print(json.dumps(yaml.safe_load(open(sys.argv[1]))))
";
    let parsed = Command::new(&python).args(["-c", read]).arg(example).output().unwrap();
    assert!(parsed.status.success(), "{parsed:?}");
    let vector: serde_json::Value = serde_json::from_slice(&parsed.stdout).unwrap();
    assert_eq!(vector["sources"]["nat64handoff"]["type"], "syslog");
    assert_eq!(vector["sources"]["nat64handoff"]["mode"], "tcp");
    assert_eq!(vector["transforms"]["events"]["inputs"][0], "nat64handoff");
    for sink in ["loki", "clickhouse"] {
        assert_eq!(vector["sinks"][sink]["inputs"][0], "events");
    }
    assert_eq!(vector["sinks"]["clickhouse"]["table"], "nat64_events");
    let source = vector["transforms"]["events"]["source"].as_str().unwrap();
    // The event's own time, by the name that both sinks take it by.
    assert!(source.contains(r#""timestamp": .timestamp,"#), "{source}");
    // The structured data of our messages has the rest, by these names.
    let message = syslog(0);
    let data = message.split_once('[').unwrap().1.split_once("\"] ").unwrap().0;
    let mut words = data.split(' ');
    assert!(source.contains(&format!("object(.\"{}\")", words.next().unwrap())), "{source}");
    let mut names: Vec<&str> = words.map(|word| word.split_once('=').unwrap().0).collect();
    names.extend(
        ["at", "event"].into_iter().filter(|name| source.contains(&format!("\"{name}\": "))),
    );
    names.push("cursor");
    names.sort_unstable();
    assert_eq!(names, members(&Log::new(1)));
}
