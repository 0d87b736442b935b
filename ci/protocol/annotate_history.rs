//! `nat64handoff annotate` of lines that are older than the event log, by its history.

use crate::annotate::{Annotate, annotated};
use crate::run::run;
use std::fmt::Write;
use std::fs;
use std::path::Path;

const DAY: u64 = 86_400_000;
/// 2019-03-18, in milliseconds.
const START: u64 = 1_552_867_200_000;

fn history(log: &Path) {
    let (code, said, error) = run(&["history", "build", "--log", log.to_str().unwrap()]);
    assert!(code == 0, "{said}{error}");
}

/// `2019-03-18 10:06:28.491000`
fn clock(millis: u64) -> String {
    let (day, of_day) = ((millis - START) / DAY, (millis - START) % DAY);
    let (seconds, millis) = (of_day / 1000, of_day % 1000);
    let (minutes, second) = (seconds / 60, seconds % 60);
    format!(
        "2019-03-{} {:02}:{:02}:{second:02}.{millis:03}000",
        18 + day,
        minutes / 60,
        minutes % 60
    )
}

fn line(address: &str, at: u64, port: u16) -> String {
    let (seconds, millis) = (at / 1000, at % 1000);
    format!(
        "{address} - - [18/Mar/2019:10:00:00 +0000] \"GET / HTTP/1.1\" 200 3 \"-\" \"x\" port={port} time={seconds}.{millis:03}\n"
    )
}

/// The client is named as `who` names it, whether its entry is older than the log or the line is;
/// what is not sure stays as it is.
#[test]
fn section_8_annotate_by_the_history() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("events.log");
    let removed = folder.path().join("events.log-20190318");
    let older = "\
2019-03-18 10:00:00.000000 Initialized 192.0.2.7
2019-03-18 10:06:00.000000 Created 192.0.2.7:3719 [2001:db8::17]:1
2019-03-18 10:07:00.000000 Created 192.0.2.7:3720 [2001:db8::18]:1
2019-03-18 11:00:00.000000 Deleted 192.0.2.7:3719 [2001:db8::17]:1
2019-03-18 11:00:00.000000 Created 192.0.2.7:3719 [2001:db8::55]:1
2019-03-18 12:00:00.000000 Created 192.0.2.8:1000 [2001:db8::88]:1
";
    fs::write(&removed, older).unwrap();
    let later = "\
2019-03-19 09:00:00.000000 Deleted 192.0.2.7:3719 [2001:db8::55]:1
2019-03-19 09:00:00.000000 Created 192.0.2.7:3719 [2001:db8::66]:1
";
    fs::write(folder.path().join("events.log-20190319"), later).unwrap();
    fs::write(&log, "2019-03-20 00:00:00.000000 Initialized 192.0.2.9\n").unwrap();
    history(&log);
    fs::remove_file(&removed).unwrap();
    let hour = |day: u64, hour: u64, minute: u64| START + day * DAY + (60 * hour + minute) * 60_000;
    let asked = [
        (hour(0, 10, 30), "192.0.2.7", 3719, Some("2001:db8::17")),
        (hour(0, 10, 30), "192.0.2.8", 1000, None),
        (hour(0, 11, 30), "192.0.2.7", 3719, Some("2001:db8::55")),
        (hour(0, 13, 0), "192.0.2.8", 1000, Some("2001:db8::88")),
        (hour(1, 8, 0), "192.0.2.7", 3719, Some("2001:db8::55")),
        (hour(1, 10, 0), "192.0.2.7", 3719, Some("2001:db8::66")),
        (hour(1, 10, 0), "192.0.2.7", 3720, Some("2001:db8::18")),
        (hour(1, 10, 0), "192.0.2.8", 1000, Some("2001:db8::88")),
        (hour(1, 10, 0), "192.0.2.7", 4000, None),
        (hour(1, 10, 0), "192.0.2.99", 1000, None),
    ];
    let (mut access, mut expected) = (String::new(), String::new());
    for (at, nat64, port, client) in asked {
        let lines = line(nat64, at, port);
        access += &lines;
        expected += &client.map_or(lines, |client| line(client, at, 1));
        let time = format!("{}Z", clock(at));
        let who =
            ["who", &format!("{nat64}:{port}"), "--at", &time, "--log", log.to_str().unwrap()];
        let (code, said, error) = run(&who);
        assert!(code == 0 && said.contains(client.unwrap_or("nobody")), "{who:?}: {said}{error}");
    }
    let (out, said) = annotated(&log, access.as_bytes(), &[]);
    assert_eq!(String::from_utf8(out).unwrap(), expected, "{said}");
    // A line of now, where the entry is older than the log.
    let (out, _) = annotated(&log, line("192.0.2.8", hour(2, 1, 0), 1000).as_bytes(), &[]);
    assert_eq!(String::from_utf8(out).unwrap(), line("2001:db8::88", hour(2, 1, 0), 1));
    let (out, _) = annotated(&log, access.as_bytes(), &["--history", "off"]);
    assert_ne!(String::from_utf8(out).unwrap(), expected);
    // A file of the history that cannot be read is said, and what to do.
    let held = folder.path().join("history/held");
    let file = fs::read_dir(&held).unwrap().flatten().map(|entry| entry.path()).min().unwrap();
    fs::write(&file, "something else").unwrap();
    let file = folder.path().join("access.log");
    fs::write(&file, &access).unwrap();
    let (code, out, said) =
        run(&["annotate", "--log", log.to_str().unwrap(), file.to_str().unwrap()]);
    assert!(code == 1 && out == access && said.contains("--history off"), "{said}");
}

/// Days of a log of 40 ports, and who had which port when.
struct Days {
    days: Vec<String>,
    /// Of each port, from when on it was whose; None: nobody's.
    had: Vec<Vec<(u64, Option<u64>)>>,
    state: u64,
}

impl Days {
    fn new() -> Self {
        Self { days: vec![String::new(); 4], had: vec![Vec::new(); 40], state: 7 }
    }

    fn random(&mut self, below: u64) -> u64 {
        let next = self.state.wrapping_mul(6_364_136_223_846_793_005);
        self.state = next.wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) % below
    }

    fn holder(&self, port: usize) -> Option<u64> {
        self.had[port].last().and_then(|&(_, holder)| holder)
    }

    /// `to` is what a line says of the server and its prefix.
    fn fill(&mut self, to: &str) {
        let mut at = START;
        let mut client = 0;
        while at < START + 4 * DAY - 600_000 {
            at += 1 + self.random(120_000);
            let port = self.random(40) as usize;
            let day = ((at - START) / DAY) as usize;
            if self.random(500) == 0 {
                writeln!(
                    self.days[day],
                    "{} Initialized 192.0.2.7{}",
                    clock(at),
                    to.split(" via").next().unwrap()
                )
                .unwrap();
                self.had.iter_mut().for_each(|had| had.push((at, None)));
            } else if let Some(before) = self.holder(port) {
                let rest = format!("192.0.2.7:{} [2001:db8::{before:x}]:1{to}", 1000 + port);
                writeln!(self.days[day], "{} Deleted {rest}", clock(at)).unwrap();
                self.had[port].push((at, None));
            }
            if self.random(3) > 0 && self.holder(port).is_none() {
                client += 1;
                let rest = format!("192.0.2.7:{} [2001:db8::{client:x}]:1{to}", 1000 + port);
                writeln!(self.days[day], "{} Created {rest}", clock(at)).unwrap();
                self.had[port].push((at, Some(client)));
            }
        }
    }

    fn write(&self, folder: &Path) {
        for (number, day) in self.days.iter().enumerate() {
            fs::write(file(folder, number), day).unwrap();
        }
    }

    /// A line for each minute: when, and of which port.
    fn asked(&mut self) -> Vec<(u64, u16)> {
        let asked = |minute: u64| {
            (START + 60_000 * minute + self.random(60_000), 1000 + self.random(42) as u16)
        };
        (0..4 * 1440_u64).map(asked).collect()
    }

    /// The client that had a port then, or that came to it in the ten seconds after.
    fn client(&self, at: u64, port: u16) -> Option<u64> {
        let had = self.had.get(usize::from(port) - 1000)?;
        let (before, behind) = had.split_at(had.partition_point(|&(from, _)| from <= at));
        let soon = behind.iter().take_while(|&&(from, _)| from <= at + 10_000);
        before.last().and_then(|had| had.1).or_else(|| soon.filter_map(|had| had.1).next())
    }
}

fn file(folder: &Path, day: usize) -> std::path::PathBuf {
    folder.join(if day == 3 {
        "events.log".into()
    } else {
        format!("events.log-201903{}", 18 + day)
    })
}

/// A log of days, in files, and lines of an access log that ask about it.
struct Written {
    folder: tempfile::TempDir,
    log: std::path::PathBuf,
    days: Days,
    asked: Vec<(u64, u16)>,
    access: String,
}

impl Written {
    /// `to`: how each line ends.
    fn new(to: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("events.log");
        let mut days = Days::new();
        days.fill(to);
        days.write(folder.path());
        let asked = days.asked();
        let access = asked.iter().map(|&(at, port)| line("192.0.2.7", at, port)).collect();
        Self { folder, log, days, asked, access }
    }
}

/// Which lines name their client; that of each is the one who had the port.
#[track_caller]
fn named(days: &Days, asked: &[(u64, u16)], out: &[u8]) -> Vec<bool> {
    let out = String::from_utf8(out.to_vec()).unwrap();
    assert_eq!(out.lines().count(), asked.len());
    let is_named = |(written, &(at, port)): (&str, &(u64, u16))| {
        let written = format!("{written}\n");
        let client =
            days.client(at, port).map(|client| line(&format!("2001:db8::{client:x}"), at, 1));
        let is_named = Some(&written) == client.as_ref();
        let as_it_was = line("192.0.2.7", at, port);
        assert!(is_named || written == as_it_was, "{written}{as_it_was}{client:?}");
        is_named
    };
    out.lines().zip(asked).map(is_named).collect()
}

const TO: &str = " to 203.0.113.5 via 64:ff9b::/96";

/// Of a log of days whose first ones were removed, the history makes of each line what the whole
/// log makes of it.
#[test]
fn section_8_annotate_by_the_history_is_as_by_the_log() {
    let Written { folder, log, days, asked, access } = Written::new(TO);
    let (expected, _) = annotated(&log, access.as_bytes(), &["--history", "off"]);
    let count = named(&days, &asked, &expected).into_iter().filter(|named| *named).count();
    assert!(count > 2000, "{count}");
    history(&log);
    for removed in 0..3 {
        fs::remove_file(file(folder.path(), removed)).unwrap();
        let (out, said) = annotated(&log, access.as_bytes(), &[]);
        assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(&expected), "{said}");
        // Such a log alone does not know them.
        let (out, _) = annotated(&log, access.as_bytes(), &["--history", "off"]);
        assert_ne!(out, expected);
    }
}

/// Where a file of the history is gone, as one that was damaged and moved away, who had ports
/// before it is not taken for who has them behind it. The newest one is not opened where the log
/// has all that the history has.
#[test]
fn section_8_annotate_by_a_history_with_a_gap() {
    let Written { folder, log, days, asked, access } = Written::new(TO);
    history(&log);
    let held = folder.path().join("history/held");
    let mut files: Vec<_> = fs::read_dir(&held).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 4);
    // The log has it all.
    let newest = fs::read(&files[3]).unwrap();
    fs::write(&files[3], "something else").unwrap();
    let (out, said) = annotated(&log, access.as_bytes(), &[]);
    let count = named(&days, &asked, &out).into_iter().filter(|named| *named).count();
    assert!(count > 2000, "{said}");
    fs::write(&files[3], newest).unwrap();
    (0..3).for_each(|day| fs::remove_file(file(folder.path(), day)).unwrap());
    fs::remove_file(&files[1]).unwrap();
    let (out, said) = annotated(&log, access.as_bytes(), &[]);
    let named = named(&days, &asked, &out);
    let of_day = |day: usize| named[1440 * day..1440 * (day + 1)].iter().filter(|it| **it).count();
    let counts = [0, 1, 2, 3].map(of_day);
    assert!(counts[0] > 500 && counts[2] > 500 && counts[3] > 500, "{counts:?} {said}");
}

/// A plain log, which leaves doubts: whoever is named had the port, and the history names each one
/// that the log names; also where lines between it and the log are missing.
#[test]
fn section_8_annotate_by_the_history_of_a_plain_log() {
    let Written { folder, log, days, asked, access } = Written::new("");
    let (by_log, _) = annotated(&log, access.as_bytes(), &["--history", "off"]);
    let by_log = named(&days, &asked, &by_log);
    assert!(by_log.iter().filter(|named| **named).count() > 2000);
    history(&log);
    for removed in 0..3 {
        fs::remove_file(file(folder.path(), removed)).unwrap();
        let (out, said) = annotated(&log, access.as_bytes(), &[]);
        let by_history = named(&days, &asked, &out);
        for ((by_log, by_history), asked) in by_log.iter().zip(&by_history).zip(&asked) {
            assert!(by_history >= by_log, "{} {}: {said}", clock(asked.0), asked.1);
        }
    }
    // The days between the history and the log are gone.
    fs::remove_dir_all(folder.path().join("history")).unwrap();
    days.write(folder.path());
    fs::write(&log, &days.days[0]).unwrap();
    (0..3).for_each(|day| fs::remove_file(file(folder.path(), day)).unwrap());
    history(&log);
    fs::write(&log, &days.days[3]).unwrap();
    let (out, said) = annotated(&log, access.as_bytes(), &[]);
    let named = named(&days, &asked, &out);
    let count = |range: std::ops::Range<usize>| named[range].iter().filter(|it| **it).count();
    assert!(count(0..1440) > 500 && count(3 * 1440..4 * 1440) > 300, "{said}");
}

/// What the first file of a history does not say, as the ones before it were removed, is not known:
/// also of a port that came to its client just behind the line's time. A file that is removed while
/// it runs is passed over.
#[test]
fn section_8_annotate_by_a_history_whose_files_go() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("events.log");
    let days = [
        "\
2019-03-18 10:00:00.000000 Created 192.0.2.7:3719 [2001:db8::17]:1
2019-03-18 23:59:55.000000 Deleted 192.0.2.7:3719 [2001:db8::17]:1
2019-03-18 23:59:56.000000 Created 192.0.2.7:3719 [2001:db8::18]:1
",
        "2019-03-19 12:00:00.000000 Created 192.0.2.7:3720 [2001:db8::19]:1\n",
        "\
2019-03-20 12:00:00.000000 Deleted 192.0.2.7:3720 [2001:db8::19]:1
2019-03-20 12:00:00.000000 Created 192.0.2.7:3720 [2001:db8::20]:1
",
        "2019-03-21 12:00:00.000000 Created 192.0.2.7:3721 [2001:db8::21]:1\n",
    ];
    for (number, day) in days.iter().enumerate() {
        fs::write(file(folder.path(), number), day).unwrap();
    }
    history(&log);
    (0..3).for_each(|day| fs::remove_file(file(folder.path(), day)).unwrap());
    let before = START + DAY - 10_000;
    let (out, said) = annotated(&log, line("192.0.2.7", before, 3719).as_bytes(), &[]);
    assert_eq!(String::from_utf8(out).unwrap(), line("2001:db8::17", before, 1), "{said}");
    let held = folder.path().join("history/held");
    let files = |number: &str| {
        let names = fs::read_dir(&held).unwrap().map(|file| file.unwrap().path());
        names.filter(|path| path.to_str().unwrap().contains(number)).collect::<Vec<_>>()
    };
    fs::remove_file(&files("-000001-")[0]).unwrap();
    let (out, said) = annotated(&log, line("192.0.2.7", before, 3719).as_bytes(), &[]);
    assert_eq!(String::from_utf8(out).unwrap(), line("192.0.2.7", before, 3719), "{said}");
    // The one of the third day goes while it runs: nothing of that day is known any more.
    let mut annotate = Annotate::start(&["--log", log.to_str().unwrap()]);
    let first = START + DAY + DAY / 4;
    annotate.write(line("192.0.2.7", first, 3719).as_bytes());
    assert_eq!(annotate.line(), line("2001:db8::18", first, 1));
    fs::remove_file(&files("-000003-")[0]).unwrap();
    let last = START + 3 * DAY + DAY / 4 * 3;
    for (port, client) in [(3719, "2001:db8::18"), (3720, "2001:db8::20"), (3721, "2001:db8::21")] {
        annotate.write(line("192.0.2.7", last, port).as_bytes());
        assert_eq!(annotate.line(), line(client, last, 1));
    }
    let between = START + 2 * DAY + DAY / 4;
    annotate.write(line("192.0.2.7", between, 3720).as_bytes());
    let _ = annotate.line();
    annotate.end();
}

/// A doubt that comes days after its client: from then on lines stay as they are.
#[test]
fn section_8_annotate_by_the_history_of_a_doubt_that_comes_later() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("events.log");
    for (day, event) in [
        "2019-03-18 10:00:00.000000 Created 192.0.2.7:3719 [2001:db8::17]:1",
        "2019-03-19 12:00:00.000000 Initialized 192.0.2.7",
        "2019-03-20 12:00:00.000000 Created 192.0.2.7:3720 [2001:db8::19]:1",
        "2019-03-21 12:00:00.000000 Created 192.0.2.7:3721 [2001:db8::21]:1",
    ]
    .iter()
    .enumerate()
    {
        fs::write(file(folder.path(), day), format!("{event}\n")).unwrap();
    }
    history(&log);
    (0..3).for_each(|day| fs::remove_file(file(folder.path(), day)).unwrap());
    let times = [DAY / 2, DAY + DAY / 4, DAY + DAY / 4 * 3, 3 * DAY + DAY / 4 * 3];
    let asked = times.map(|time| line("192.0.2.7", START + time, 3719)).concat();
    let expected = [true, true, false, false].iter().zip(times).map(|(is_named, time)| {
        let client = ("2001:db8::17", 1);
        let (address, port) = if *is_named { client } else { ("192.0.2.7", 3719) };
        line(address, START + time, port)
    });
    let (out, said) = annotated(&log, asked.as_bytes(), &[]);
    assert_eq!(String::from_utf8(out).unwrap(), expected.collect::<String>(), "{said}");
}
