//! `nat64handoff annotate`: access logs with the client in the place of each NAT64.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::harness::program::command;
use crate::judge::client::Client;
use crate::judge::nat64::Nat64;
use crate::run::run;
use crate::server::Server;

const PATIENCE: Duration = Duration::from_secs(60);
const EVENTS: &str = "\
2019-03-18 10:00:00.000000 Initialized 192.0.2.7
2019-03-18 10:06:28.491727 Created 192.0.2.7:3719 [2001:db8::17]:53186
2019-03-18 10:06:29.000000 Created 192.0.2.7:3720 [2001:db8::18]:1024
2019-03-18 15:22:02.500000 Deleted 192.0.2.7:3719 [2001:db8::17]:53186
2019-03-18 15:22:02.500000 Created 192.0.2.7:3719 [2001:db8::55]:34643
";

/// An `annotate` that reads what it is given.
pub struct Annotate {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Receiver<Vec<u8>>,
    stderr: thread::JoinHandle<String>,
}

impl Annotate {
    pub fn start(arguments: &[&str]) -> Annotate {
        let mut command = command();
        command.arg("annotate").args(arguments).env("TZ", "UTC");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (lines, stdout) = channel();
        let mut reader = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|octets| octets > 0) {
                if lines.send(std::mem::take(&mut line)).is_err() {
                    return;
                }
            }
        });
        let mut reader = child.stderr.take().unwrap();
        let stderr = thread::spawn(move || {
            let mut said = String::new();
            reader.read_to_string(&mut said).unwrap();
            said
        });
        let stdin = child.stdin.take();
        Annotate { child, stdin, stdout, stderr }
    }

    pub fn write(&mut self, octets: &[u8]) {
        self.stdin.as_mut().unwrap().write_all(octets).unwrap();
    }

    pub fn line(&self) -> String {
        String::from_utf8(self.stdout.recv_timeout(PATIENCE).expect("a line")).unwrap()
    }

    /// The rest of the output, and what it said.
    pub fn end(mut self) -> (Vec<u8>, String) {
        self.stdin = None;
        let rest = self.stdout.iter().flatten().collect();
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        (rest, self.stderr.join().unwrap())
    }
}

/// A folder with this event log.
fn log_of(events: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("events.log");
    fs::write(&log, events).unwrap();
    (folder, log)
}

/// What comes out of it: standard output, and what is said.
pub fn annotated(log: &Path, access: &[u8], arguments: &[&str]) -> (Vec<u8>, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    fs::write(&file, access).unwrap();
    let log = log.to_str().unwrap();
    let mut from_pipe = Annotate::start(&[&["--log", log][..], arguments].concat());
    from_pipe.write(access);
    let (piped, said) = from_pipe.end();
    let files = [&["--log", log, file.to_str().unwrap()][..], arguments].concat();
    let (read, also_said) = Annotate::start(&files).end();
    assert_eq!((&piped, &said), (&read, &also_said), "the same from a file");
    (piped, said)
}

fn nginx(address: &str, time: &str, port: &str) -> String {
    format!("{address} - - [18/Mar/2019:{time} +0000] \"GET / HTTP/1.1\" 200 3 \"-\" \"x\"{port}\n")
}

#[test]
fn section_8_annotate_names_the_client_of_the_lines_time() {
    let (_folder, log) = log_of(EVENTS);
    let to = |client: &str, port: &str| {
        let at = |time| nginx(client, time, &format!(" port={port}"));
        at("12:00:00")
    };
    for (line, expected) in [
        (to("192.0.2.7", "3719"), to("2001:db8::17", "53186")),
        (to("::ffff:192.0.2.7", "3720"), to("2001:db8::18", "1024")),
        (nginx("192.0.2.7:3719", "15:22:03", ""), nginx("2001:db8::55:34643", "15:22:03", "")),
        // Not known, not in the log, no time, no port.
        (to("192.0.2.7", "3721"), to("192.0.2.7", "3721")),
        (to("192.0.2.8", "3719"), to("192.0.2.8", "3719")),
        (nginx("192.0.2.7", "12:00:00", ""), nginx("192.0.2.7", "12:00:00", "")),
        // Before anybody had it; and while it came to another client.
        (nginx("192.0.2.7:3719", "10:06:17", ""), nginx("192.0.2.7:3719", "10:06:17", "")),
        (nginx("192.0.2.7:3719", "15:22:02", ""), nginx("192.0.2.7:3719", "15:22:02", "")),
    ] {
        let (out, _) = annotated(&log, line.as_bytes(), &[]);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
    let line = nginx("192.0.2.7:3719", "15:22:02", "");
    let (out, said) = annotated(&log, line.as_bytes(), &["--newcomer"]);
    assert_eq!(String::from_utf8(out).unwrap(), nginx("2001:db8::55:34643", "15:22:02", ""));
    assert_eq!(said, "");
    let exact = nginx("192.0.2.7", "15:22:02", " port=3719 time=1552922522.499");
    let (out, _) = annotated(&log, exact.as_bytes(), &[]);
    assert!(out.starts_with(b"2001:db8::17 - - "), "{}", String::from_utf8_lossy(&out));
}

#[test]
fn section_8_annotate_leaves_other_lines_as_they_are() {
    let (_folder, log) = log_of(EVENTS);
    let line = nginx("192.0.2.7", "12:00:00", " port=3719");
    let named = nginx("2001:db8::17", "12:00:00", " port=53186");
    let long = "y".repeat(3_000_000) + "\n";
    let other: [&[u8]; 8] = [
        b"",
        b"\n\n",
        b"\xff\xfe\x00 192.0.2.7:3719\n",
        b"\r\n",
        long.as_bytes(),
        b"\n",
        b"198.51.100.9:3719 - - [18/Mar/2019:12:00:00 +0000] \"GET / HTTP/1.1\" 200 3\r\n",
        b"x",
    ];
    let (mut access, mut expected) = (Vec::new(), Vec::new());
    for octets in other {
        access.extend([line.as_bytes(), octets].concat());
        expected.extend([named.as_bytes(), octets].concat());
    }
    for (before, after) in [(&line, &named)] {
        for end in ["\r\n", ""] {
            access.extend([b"\n", before.trim_end().as_bytes(), end.as_bytes()].concat());
            expected.extend([b"\n", after.trim_end().as_bytes(), end.as_bytes()].concat());
        }
    }
    let (out, _) = annotated(&log, &access, &[]);
    assert!(out == expected, "not to the octet");
    // Behind the line, and before its end.
    let crlf =
        [line.trim_end(), "\r\n{\"ts\":1552910400,\"peer\":\"192.0.2.7:3719\"}\nother"].concat();
    let (out, _) = annotated(&log, crlf.as_bytes(), &["--append"]);
    let expected = format!(
        "{} [2001:db8::17]:53186\r\n{}",
        line.trim_end(),
        "{\"ts\":1552910400,\"peer\":\"192.0.2.7:3719\",\"nat64_client\":\"2001:db8::17\",\
         \"nat64_client_port\":53186}\nother"
    );
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn section_8_annotate_says_what_is_missing_once() {
    let (_folder, log) = log_of(EVENTS);
    let known = nginx("192.0.2.7:3720", "12:00:00", "");
    let said = |line: String, arguments: &[&str]| {
        annotated(&log, (known.clone() + &line + &line).as_bytes(), arguments).1
    };
    let cases = [
        (
            nginx("192.0.2.7", "12:00:00", ""),
            "2 lines of NAT64s stay as they are, as they have no client port; end them",
        ),
        (nginx("192.0.2.7:3719", "12:60:00", ""), "have no time that can be read"),
        (nginx("192.0.2.7:3721", "12:00:00", ""), "name a port that nobody had then"),
        (nginx("192.0.2.7:3719", "15:22:02", ""), "their port came to another client"),
    ];
    for (line, expected) in cases {
        let said = said(line, &[]);
        assert!(said.lines().count() == 1 && said.contains(expected), "{said}");
    }
    assert_eq!(said(nginx("198.51.100.9", "12:00:00", ""), &[]), "", "nobody's concern");
    let (_, unknown) = annotated(&log, b"some\nother\n", &[]);
    assert!(unknown.contains("--pattern"), "{unknown}");
    let (code, _, stderr) = run(&["annotate", "--log", "/nowhere/events.log"]);
    assert!(code == 1 && stderr.contains("name it by --log"), "{stderr}");
    let log = log.to_str().unwrap();
    let (code, _, stderr) = run(&["annotate", "--log", log, "/nowhere/access.log"]);
    assert!(code == 1 && stderr.contains("/nowhere/access.log cannot be read"), "{stderr}");
    let (code, _, stderr) = run(&["annotate", "--log", log, "--pattern", "(?<ip>x)"]);
    assert!(code == 2 && stderr.contains("--pattern: it has no group (?<port>"), "{stderr}");
    let (code, _, stderr) = run(&["annotate", "--log", "-"]);
    assert!(code == 2 && stderr.contains("must be a file"), "{stderr}");
}

/// A log of several days, of which one is compressed, and lines that are hours out of order.
#[test]
fn section_8_annotate_goes_back_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let day = |day: u32, from: u32| -> String {
        let line = |hour: u32, kind: &str, number: u32| {
            format!(
                "2019-03-{day} {hour:02}:00:00.000000 {kind} 192.0.2.7:3719 [2001:db8::{number}]:1\n"
            )
        };
        (0..24)
            .map(|hour| {
                line(hour, "Deleted", from + hour) + &line(hour, "Created", from + hour + 1)
            })
            .collect()
    };
    fs::write(path("events.log-20190317"), day(17, 100)).unwrap();
    let status = std::process::Command::new("gzip").arg(path("events.log-20190317")).status();
    assert!(status.unwrap().success());
    fs::write(path("events.log-20190318"), day(18, 124)).unwrap();
    fs::write(path("events.log"), day(19, 148)).unwrap();
    let line = |client: &str, day: u32, hour: u32| {
        format!(
            "{client} - - [{day}/Mar/2019:{hour:02}:30:00 +0000] \"GET / HTTP/1.1\" 200 3 \"-\" \"-\"\n"
        )
    };
    let times = [(17, 1), (19, 3), (18, 2), (17, 22), (19, 23), (19, 22), (17, 0)];
    let access: String =
        times.iter().map(|&(day, hour)| line("192.0.2.7:3719", day, hour)).collect();
    let expected: String = times
        .iter()
        .map(|&(day, hour)| {
            let client = format!("2001:db8::{}:1", 101 + 24 * (day - 17) + hour);
            line(&client, day, hour)
        })
        .collect();
    fs::write(path("access.log"), access).unwrap();
    let (log, access) = (path("events.log"), path("access.log"));
    let files = ["--log", log.to_str().unwrap(), access.to_str().unwrap()];
    let (out, said) = Annotate::start(&files).end();
    assert_eq!((String::from_utf8(out).unwrap(), said), (expected, String::new()));
}

/// Lines of a clock that was wrong do not keep it from those behind them.
#[test]
fn section_8_annotate_reads_on_behind_lines_of_a_wrong_clock() {
    let begin: String = EVENTS.split_inclusive('\n').take(3).collect();
    let wrong = "9000-03-18 11:00:00.000000 Created 192.0.2.8:1 [2001:db8::1]:1\n".repeat(100);
    let early = "2019-03-18 14:00:00.000000 Created 192.0.2.8:2 [2001:db8::1]:1\n";
    let last = "2019-03-18 11:00:00.000000 Created 192.0.2.7:3722 [2001:db8::66]:7\n";
    let (_folder, log) = log_of(&[begin.as_str(), &wrong, early, last].concat());
    let line = nginx("192.0.2.7:3722", "12:00:00", "");
    let (out, said) = annotated(&log, line.as_bytes(), &[]);
    assert_eq!(String::from_utf8(out).unwrap(), nginx("2001:db8::66:7", "12:00:00", ""));
    assert_eq!(said, "");
    assert_eq!(annotated(&log, b"", &[]), (Vec::new(), String::new()), "nothing is to be said");
}

/// A file of the event log that cannot be read takes no line away.
#[test]
fn section_8_annotate_goes_on_where_the_event_log_cannot_be_read() {
    let (folder, log) = log_of(EVENTS);
    fs::write(folder.path().join("events.log-20190317.gz"), "no gzip").unwrap();
    let access = nginx("192.0.2.7:3719", "12:00:00", "").repeat(10_000);
    let path = folder.path().join("access.log");
    fs::write(&path, &access).unwrap();
    let (code, out, said) =
        run(&["annotate", "--log", log.to_str().unwrap(), path.to_str().unwrap()]);
    assert_eq!((code, out == access), (1, true), "{said}");
    assert!(said.contains("cannot be read") && said.contains("came out as they are"), "{said}");
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// As `tail -F` has it: each line comes out as it comes in, and the client that came just now is
/// known.
#[test]
fn section_8_annotate_of_a_server_that_runs() {
    let server = Server::start(&[]);
    let log = server.log_path();
    // The log's directory is there, and the log soon.
    let nat64 = Nat64::known(&server);
    nat64.map(Client::nth(0));
    let is_logged = || !server.events().is_empty();
    assert!(crate::harness::process::wait_until(PATIENCE, is_logged));
    let mut annotate = Annotate::start(&["--log", log.to_str().unwrap()]);
    for number in 1..100 {
        let client = Client::nth(number);
        let port = nat64.map(client);
        // However late the server's logger gets a core.
        let created = format!(" {}:{port} [", nat64.address);
        let is_logged = || fs::read_to_string(&log).unwrap().contains(&created);
        assert!(crate::harness::process::wait_until(PATIENCE, is_logged));
        let line = |address: &str, port: u16| {
            format!(
                "{address} - - [x] \"GET /{number} HTTP/1.1\" 200 3 \"-\" \"-\" port={port} time={:.3}\n",
                now()
            )
        };
        let access = line(&nat64.address.to_string(), port);
        // In parts: nothing comes out before it is whole.
        let (first, rest) = access.split_at(access.len() / 2);
        annotate.write(first.as_bytes());
        annotate.write(rest.as_bytes());
        let out = annotate.line();
        assert!(out.starts_with(&format!("{} - - [x]", client.address)), "{access}{out}");
        assert!(out.contains(&format!(" port={} time=", client.port)), "{out}");
    }
    let stranger = format!("{}:9 - - [x] \"GET / HTTP/1.1\" 200\n", Ipv4Addr::new(192, 0, 2, 9));
    annotate.write(stranger.as_bytes());
    assert_eq!(annotate.line(), stranger);
    let (rest, said) = annotate.end();
    assert_eq!((rest.as_slice(), said.as_str()), (&b""[..], ""));
}

/// A reader that has read enough.
#[test]
fn section_8_annotate_ends_with_its_reader() {
    let (_folder, log) = log_of(EVENTS);
    let mut command = command();
    command.args(["annotate", "--log", log.to_str().unwrap()]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let mut stdin = child.stdin.take().unwrap();
    while stdin.write_all(b"x\n").is_ok() {}
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
}

/// The most that it ever had, in octets.
fn peak(child: &Child) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// 200 MB of access log, half of it one line, and 2 million events in which a port is nobody's for
/// long, need no more memory than the first of it.
#[test]
fn section_8_annotate_needs_little_memory() {
    const OCTETS_MAX: u64 = 48 << 20;
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("events.log");
    let mut file = std::io::BufWriter::new(fs::File::create(&log).unwrap());
    for number in 0..1_000_000_u32 {
        // A day, of which two hours are remembered.
        let second = number / 12;
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        for kind in ["Created", "Deleted"] {
            writeln!(
                file,
                "2019-03-18 {hour:02}:{minute:02}:{second:02}.000000 {kind} 192.0.2.7:{} [2001:db8::{number:x}]:1",
                1024 + number % 64_000
            )
            .unwrap();
        }
    }
    file.into_inner().unwrap();
    let mut annotate = Annotate::start(&["--log", log.to_str().unwrap()]);
    let line = nginx("192.0.2.7:1024", "23:00:00", "");
    let lines = line.repeat(1_000);
    thread::scope(|scope| {
        let mut stdin = annotate.stdin.take().unwrap();
        let writer = scope.spawn(move || {
            for _ in 0..1_000 {
                stdin.write_all(lines.as_bytes()).unwrap();
            }
            for _ in 0..100 {
                stdin.write_all(&[b'x'; 1_000_000]).unwrap();
            }
            stdin
        });
        let mut octets = 0;
        while octets < 1_000_000 * line.len() {
            octets += annotate.stdout.recv_timeout(PATIENCE).unwrap().len();
        }
        let stdin = writer.join().unwrap();
        let peak = peak(&annotate.child);
        assert!(peak < OCTETS_MAX, "{peak} octets");
        drop(stdin);
    });
    let (rest, _) = annotate.end();
    assert_eq!(rest.len(), 100_000_000);
}
