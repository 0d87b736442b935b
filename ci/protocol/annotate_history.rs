//! `nat64handoff annotate` of lines that are older than the event log, by its history.

use crate::annotate::annotated;
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

/// Of a log of days whose first ones were removed, the history makes of each line what the whole
/// log makes of it.
#[test]
fn section_8_annotate_by_the_history_is_as_by_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("events.log");
    let mut state = 7_u64;
    let mut random = |below: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut held = [None::<u64>; 40];
    let mut days = vec![String::new(); 4];
    let mut at = START;
    let mut client = 0;
    while at < START + 4 * DAY - 600_000 {
        at += 1 + random(120_000);
        let port = random(40) as usize;
        let day = &mut days[((at - START) / DAY) as usize];
        let rest = |client: u64| {
            format!(
                "192.0.2.7:{} [2001:db8::{client:x}]:1 to 203.0.113.5 via 64:ff9b::/96",
                1000 + port
            )
        };
        if random(500) == 0 {
            writeln!(day, "{} Initialized 192.0.2.7 to 203.0.113.5", clock(at)).unwrap();
            held = [None; 40];
        } else if let Some(before) = held[port].take() {
            writeln!(day, "{} Deleted {}", clock(at), rest(before)).unwrap();
        }
        if random(3) > 0 {
            client += 1;
            held[port] = Some(client);
            writeln!(day, "{} Created {}", clock(at), rest(client)).unwrap();
        }
    }
    for (number, day) in days.iter().enumerate() {
        let name = if number == 3 {
            "events.log".to_owned()
        } else {
            format!("events.log-2019031{}", 8 + number)
        };
        fs::write(folder.path().join(name), day).unwrap();
    }
    let access: String = (0..4 * 1440)
        .map(|minute| {
            line("192.0.2.7", START + 60_000 * minute + random(60_000), 1000 + random(42) as u16)
        })
        .collect();
    let (expected, _) = annotated(&log, access.as_bytes(), &["--history", "off"]);
    let expected = String::from_utf8(expected).unwrap();
    let named = expected.lines().filter(|line| line.starts_with("2001:db8:")).count();
    assert!(named > 2000, "{named}");
    history(&log);
    for removed in 0..3 {
        fs::remove_file(folder.path().join(format!("events.log-2019031{}", 8 + removed))).unwrap();
        let (out, said) = annotated(&log, access.as_bytes(), &[]);
        assert_eq!(String::from_utf8(out).unwrap(), expected, "{said}");
        // Such a log alone does not know them.
        let (out, _) = annotated(&log, access.as_bytes(), &["--history", "off"]);
        assert_ne!(String::from_utf8(out).unwrap(), expected);
    }
}
