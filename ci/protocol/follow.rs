//! `nat64handoff follow`: each event once, whatever happens to the server, to itself and to the
//! log's files.

use crate::clock::Clock;
use crate::harness::process::{Process, wait_until};
use crate::harness::program::{LOCAL, command, free_port};
use crate::judge::client::Client;
use crate::judge::nat64::Nat64;
use crate::judge::{LEISURE, PATIENCE};
use crate::run::run;
use crate::server::{Server, fresh_directory};
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

const DAY: u64 = 24 * 3600;
/// What is written to a pipe at once.
const GROUP: usize = 4096;

/// All lines of all files, in the order of time.
fn logged(log: &Path) -> Vec<String> {
    let begin = format!("{}-", log.display());
    let entries = fs::read_dir(log.parent().unwrap()).unwrap().flatten();
    let paths = entries.map(|entry| entry.path().to_str().unwrap().to_owned());
    let mut former: Vec<_> = paths.filter(|path| path.starts_with(&begin)).collect();
    former.sort_by_key(|path| path.trim_end_matches(".gz").to_owned());
    // Both are there for a moment.
    former.dedup_by_key(|path| path.trim_end_matches(".gz").to_owned());
    let mut text = String::new();
    for path in former {
        // It was compressed meanwhile.
        let Ok(file) = File::open(&path) else { return logged(log) };
        match path.ends_with(".gz") {
            true => flate2::read::MultiGzDecoder::new(file).read_to_string(&mut text).unwrap(),
            false => { file }.read_to_string(&mut text).unwrap(),
        };
    }
    text += &fs::read_to_string(log).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(str::to_owned).collect()
}

/// An object as the line of the full form that says the same.
fn as_line(text: &str) -> String {
    let object: serde_json::Value = serde_json::from_str(text).unwrap();
    let of = |name: &str| match &object[name] {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let at = of("at").replace('T', " ").replace('Z', "");
    let mut line = format!("{at} {} {}", of("event"), of("nat64"));
    if object.get("port").is_some() {
        line += &format!(":{} [{}]:{}", of("port"), of("client"), of("client_port"));
    }
    for (word, name) in [(" to ", "to"), (" via ", "prefix")] {
        if object.get(name).is_some() {
            line += &format!("{word}{}", of(name));
        }
    }
    line
}

fn follow(log: &Path, arguments: &[&str]) -> Process {
    Process::spawn(command().arg("follow").arg("--log").arg(log).args(arguments))
}

/// A reader that keeps the cursor itself, with what it was told.
struct Keeper {
    process: Process,
    told: Vec<String>,
}

impl Keeper {
    fn begin(log: &Path) -> Self {
        Self { process: follow(log, &["--json", "--from", "start"]), told: Vec::new() }
    }

    fn kill(&mut self) {
        self.process.signal(libc::SIGKILL);
        self.process.wait(PATIENCE).unwrap();
        assert_eq!(self.process.stderr.get(), "");
        self.told.extend(self.process.stdout.get().lines().map(str::to_owned));
    }

    fn go_on(&mut self, log: &Path) {
        let last = self.told.last().map(|line| serde_json::from_str(line).unwrap());
        self.process = match last {
            Some::<serde_json::Value>(last) => {
                follow(log, &["--json", "--after", last["cursor"].as_str().unwrap()])
            }
            None => follow(log, &["--json", "--from", "start"]),
        };
    }
}

/// A reader that leaves the cursor to `--cursor`.
struct Trusting {
    process: Process,
    told: Vec<String>,
    /// The one before was not killed.
    ended_well: bool,
}

impl Trusting {
    fn begin(log: &Path, cursor: &str) -> Self {
        let process = follow(log, &["--cursor", cursor, "--from", "start"]);
        Self { process, told: Vec::new(), ended_well: true }
    }

    /// Takes what it said in this life: at most a group of lines comes again.
    fn end(&mut self, signal: i32) {
        self.process.signal(signal);
        self.process.wait(PATIENCE).unwrap();
        assert_eq!(self.process.stderr.get(), "");
        let said: Vec<_> = self.process.stdout.get().lines().map(str::to_owned).collect();
        let fits = |again: &usize| {
            let again = *again.min(&said.len());
            self.told.ends_with(&said[..again])
        };
        let again = (0..=said.len()).rev().find(fits).unwrap();
        assert!(!self.ended_well || again == 0, "{again} lines again");
        self.ended_well = signal == libc::SIGTERM;
        assert!(said[..again].iter().map(|line| line.len() + 1).sum::<usize>() <= GROUP);
        self.told.extend_from_slice(&said[again..]);
    }
}

/// Days end, files are compressed, and the server and both readers are killed while all are busy.
#[test]
fn follow_each_event_once() {
    for format in ["full", "json"] {
        let clock = Clock::new();
        let options = ["--reactors", "1", "--log-format", format, "--log-keep", "0"];
        let launch = |directory, port| {
            let mut command = command();
            clock.drives(&mut command);
            let mut server = Server::launch(command, directory, port, vec![LOCAL], &options);
            server.check_log = false;
            server
        };
        let mut server = launch(fresh_directory(), free_port());
        let log = server.log_path();
        let cursor = server.directory.path().join("cursor");
        let cursor = cursor.to_str().unwrap();
        let nat64 = Nat64::known(&server);
        let (mut keeper, mut trusting) = (Keeper::begin(&log), Trusting::begin(&log, cursor));
        for round in 0..12 {
            let before = logged(&log).len();
            for number in 0..300 {
                let client = Client::nth(1000 * round + number);
                nat64.send(&nat64.client_request(&client.authenticator(), &client.udp(b"")));
            }
            assert!(wait_until(PATIENCE, || logged(&log).len() > before + 20), "{round}");
            match round % 4 {
                0 => clock.set_wall_ahead(u64::from(round / 4 + 1) * DAY),
                1 => {
                    server.signal(libc::SIGKILL);
                    server.wait_exit(PATIENCE);
                    let fresh = tempfile::tempdir().unwrap();
                    let directory = std::mem::replace(&mut server.directory, fresh);
                    let port = server.port;
                    drop(server);
                    server = launch(directory, port);
                }
                2 => {
                    keeper.kill();
                    keeper.go_on(&log);
                }
                _ => {
                    trusting.end(if round == 3 { libc::SIGTERM } else { libc::SIGKILL });
                    trusting.process = follow(&log, &["--cursor", cursor]);
                }
            }
        }
        server.stop();
        let all = logged(&log);
        let last = all.last().unwrap();
        let (last_line, last_at) = (format!("{last}\n"), last.len());
        // It may have been given to the one that was killed last.
        let was_told = trusting.told.last() == Some(last);
        assert!(was_told || trusting.process.says(&last_line, LEISURE), "{last}");
        let at_end = || {
            let said = keeper.process.stdout.get();
            said.lines().last().is_some_and(|line| as_line(line)[..26] == as_text(last)[..26])
        };
        assert!(wait_until(LEISURE, at_end), "{last_at}");
        keeper.kill();
        trusting.end(libc::SIGTERM);
        assert_eq!(trusting.process.ended().unwrap().code(), Some(0));
        let all: Vec<_> = all.iter().map(|line| as_text(line)).collect();
        assert!(all.len() > 500, "{}", all.len());
        let told: Vec<_> = keeper.told.iter().map(|line| as_line(line)).collect();
        assert_eq!(told, all, "{format}");
        let told: Vec<_> = trusting.told.iter().map(|line| as_text(line)).collect();
        assert_eq!(told, all, "{format}");
    }
}

/// A line of any form in the full one.
fn as_text(line: &str) -> String {
    if line.starts_with('{') { as_line(line) } else { line.to_owned() }
}

/// What follows the cursor was removed: it is said, and the rest is given.
#[test]
fn follow_says_what_was_removed() {
    let folder = tempfile::tempdir().unwrap();
    let (log, cursor) = (folder.path().join("events.log"), folder.path().join("cursor"));
    let [log_text, cursor_text] = [&log, &cursor].map(|path| path.to_str().unwrap());
    let line = |day: u32| format!("2019-03-{day} 10:06:28.436754 Initialized 192.0.2.7\n");
    fs::write(&log, line(18)).unwrap();
    let follow = || {
        run(&["follow", "--log", log_text, "--cursor", cursor_text, "--from", "start", "--no-wait"])
    };
    assert_eq!(follow(), (0, line(18), String::new()));
    assert_eq!(follow(), (0, String::new(), String::new()));
    let aside = |day: u32| fs::rename(&log, format!("{log_text}-201903{day}")).unwrap();
    aside(18);
    fs::write(&log, line(19)).unwrap();
    aside(19);
    fs::write(&log, line(20)).unwrap();
    fs::remove_file(format!("{log_text}-20190318")).unwrap();
    fs::remove_file(format!("{log_text}-20190319")).unwrap();
    let before = fs::read(&cursor).unwrap();
    let (code, said, why) = follow();
    assert_eq!((code, said), (0, line(20)));
    assert!(why.contains("lines after 2019-03-18 10:06:28.436754 UTC may be missing"), "{why}");
    assert_eq!(follow(), (0, String::new(), String::new()));
    fs::write(&cursor, before).unwrap();
    let json = ["follow", "--log", log_text, "--cursor", cursor_text, "--no-wait", "--json"];
    let (_, said, _) = run(&json);
    let objects = said.lines().map(|line| serde_json::from_str(line).unwrap());
    let objects: Vec<serde_json::Value> = objects.collect();
    assert_eq!((&objects[0]["event"], &objects[0]["why"]), (&"Lost".into(), &"removed".into()));
    assert_eq!((&objects[1]["event"], objects.len()), (&"Initialized".into(), 2));
}

#[test]
fn follow_ends_well() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let log = server.log_path();
    // At a signal, and when nobody reads any more: it does not wait for the next line.
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        let mut process = follow(&log, &["--from", "start"]);
        assert!(process.says("Initialized", PATIENCE));
        process.signal(signal);
        assert_eq!(process.wait(PATIENCE).unwrap().code(), Some(0));
        assert_eq!(process.stderr.get(), "");
    }
    let (reader, writer) = std::io::pipe().unwrap();
    let mut follower = command();
    let mut child = Process::spawn_to(
        follower.arg("follow").arg("--log").arg(&log).args(["--from", "start", "--json"]),
        writer.into(),
    );
    drop(follower);
    let mut begin = [0; 5];
    { reader }.read_exact(&mut begin).unwrap();
    assert_eq!(child.wait(PATIENCE).unwrap().code(), Some(0));
    assert_eq!((&begin, child.stderr.get()), (br#"{"at""#, String::new()));
    // A reader that stops: a signal ends the wait.
    nat64.pipeline(
        (0..3000).map(|n| {
            nat64.client_request(&Client::nth(n).authenticator(), &Client::nth(n).udp(b""))
        }),
        |_| (),
    );
    server.events_from(3001);
    let (reader, writer) = std::io::pipe().unwrap();
    let mut stuck = Process::spawn_to(
        command().arg("follow").arg("--log").arg(&log).args(["--from", "start"]),
        writer.into(),
    );
    let sleeps = || {
        let stat = fs::read_to_string(format!("/proc/{}/wchan", stuck.id)).unwrap_or_default();
        stat.contains("poll")
    };
    assert!(wait_until(PATIENCE, sleeps));
    stuck.signal(libc::SIGTERM);
    assert_eq!(stuck.wait(PATIENCE).unwrap().code(), Some(0));
    drop(reader);
}

#[test]
fn follow_usage() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("events.log");
    fs::write(&log, "2019-03-18 10:06:28.436754 Initialized 192.0.2.7\nby hand\n").unwrap();
    let log = log.to_str().unwrap();
    let cursor = "1-64d78fd7541e967f-005845b8ac25b12-000000000031-b94bf9de240ba402-005845b8ac25b12";
    let (code, said, why) = run(&["follow", "--log", log, "--after", cursor, "--no-wait"]);
    assert_eq!((code, said.as_str(), why.as_str()), (0, "by hand\n", ""));
    let (code, said, why) =
        run(&["follow", "--log", log, "--from", "2019-03-18", "--json", "--no-wait"]);
    let object: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &object["cursor"]), (0, &cursor.into()));
    assert!(why.contains("1 lines of the log are no events"), "{why}");
    let none = folder.path().join("none/events.log");
    for (arguments, code, part) in [
        (&["--from", "sometime"][..], 2, "is no time"),
        (&["--after", "1-2-3"], 2, "no cursor"),
        (&["--to", "nowhere"], 2, "no collector: give journald"),
        (&["--cursor", "/nowhere/cursor"], 1, "--cursor: /nowhere/cursor cannot be used"),
        (&["--cursor", log], 1, "has no cursor in it"),
        (&["--log", "-"], 2, "standard input cannot be followed"),
        (&["--log", none.to_str().unwrap()], 1, "there is no such directory; name it by --log"),
        (&["--log", folder.path().to_str().unwrap()], 1, "it is no file"),
    ] {
        let with_log = ["follow", "--log", log, "--no-wait"];
        let given = if arguments[0] == "--log" { &["follow", "--no-wait"] } else { &with_log[..] };
        let (status, _, said) = run(&[given, arguments].concat());
        assert!(status == code && said.contains(part), "{arguments:?}: {status} {said}");
    }
}

/// Whom addresses of the pool stand for goes through, in either form of the log, from any time on.
#[test]
fn section_8_follow_names_of_the_pool() {
    let folder = fresh_directory();
    let log = folder.path().join("events.log");
    let plain = "\
2019-03-18 10:06:28.491727 Named 100.64.0.7 [2001:db8::17]
2019-03-18 10:06:29.491727 Unnamed 100.64.0.7 [2001:db8::17]
2019-03-18 10:06:30.491727 Named 100.64.0.7 [2001:db8:0:1::/64]
";
    let json = |second: &str, kind: &str, client: &str| {
        format!(
            r#"{{"at":"2019-03-18T10:06:{second}.491727Z","event":"{kind}","pool":"100.64.0.7","client":"{client}""#
        )
    };
    let expected = [
        json("28", "Named", "2001:db8::17"),
        json("29", "Unnamed", "2001:db8::17"),
        json("30", "Named", "2001:db8:0:1::/64"),
    ];
    let in_json: String = expected.iter().map(|line| format!("{line}}}\n")).collect();
    for events in [plain, &in_json] {
        fs::write(&log, events).unwrap();
        let followed = |arguments: &[&str]| {
            let all = [&["follow", "--log", log.to_str().unwrap(), "--no-wait"], arguments];
            let (code, said, error) = run(&all.concat());
            assert!(code == 0 && error.is_empty(), "{error}");
            said
        };
        assert_eq!(followed(&["--from", "start"]), events);
        let said = followed(&["--json", "--from", "start"]);
        for (line, expected) in said.lines().zip(&expected) {
            assert!(line.starts_with(&format!("{expected},\"cursor\":")), "{line}");
        }
        assert_eq!(said.lines().count(), 3);
        let later = followed(&["--json", "--from", "2019-03-18 10:06:29"]);
        assert!(later.starts_with(&expected[1]) && later.lines().count() == 2, "{later}");
    }
}
