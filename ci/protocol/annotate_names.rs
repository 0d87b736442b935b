//! `nat64handoff annotate` of lines with addresses of the pool, which stand for clients.

use std::fs;

use crate::annotate::annotated;
use crate::run::run;

const EVENTS: &str = "\
2019-03-18 10:00:00.000000 Initialized 192.0.2.7
2019-03-18 10:00:00.000000 Created 192.0.2.7:3719 [2001:db8::99]:1
2019-03-18 10:06:28.000000 Named 100.64.0.7 [2001:db8::17]
2019-03-18 11:00:00.500000 Unnamed 100.64.0.7 [2001:db8::17]
2019-03-18 11:00:00.500000 Named 100.64.0.7 [2001:db8::18]
2019-03-18 12:00:00.000000 Named 100.64.0.8 [2001:db8:0:1::/64]
2019-03-18 13:00:00.000000 Unnamed 100.64.0.7 [2001:db8::18]
";

/// As nginx writes it.
fn line(address: &str, time: &str) -> String {
    format!("{address} - - [18/Mar/2019:{time} +0000] \"GET / HTTP/1.1\" 200 3 \"-\" \"x\"\n")
}

/// Each line, and what comes out of it.
fn lines() -> Vec<(String, String)> {
    let same = |line: String| (line.clone(), line);
    let to = |address: &str, client: &str, time: &str| (line(address, time), line(client, time));
    vec![
        same(line("100.64.0.7", "10:06:27")),
        to("100.64.0.7", "2001:db8::17", "10:06:28"),
        // A port is the client's own, and stays.
        (
            "100.64.0.7 - - [18/Mar/2019:10:30:00 +0000] \"GET /100.64.0.7 HTTP/1.1\" 200 3 \"-\" \"x\" port=53186 time=1552905000.204\n".to_owned(),
            "2001:db8::17 - - [18/Mar/2019:10:30:00 +0000] \"GET /100.64.0.7 HTTP/1.1\" 200 3 \"-\" \"x\" port=53186 time=1552905000.204\n".to_owned(),
        ),
        (
            "2019-03-18T10:31:00+00:00 host sshd[7]: Failed password for root from 100.64.0.7 port 4000 ssh2\n".to_owned(),
            "2019-03-18T10:31:00+00:00 host sshd[7]: Failed password for root from 2001:db8::17 port 4000 ssh2\n".to_owned(),
        ),
        (
            "{\"remote_addr\":\"100.64.0.7\",\"time\":\"2019-03-18T10:32:00Z\"}\n".to_owned(),
            "{\"remote_addr\":\"2001:db8::17\",\"time\":\"2019-03-18T10:32:00Z\"}\n".to_owned(),
        ),
        // Within this second it came to another client.
        same(line("100.64.0.7", "11:00:00")),
        to("100.64.0.7", "2001:db8::18", "11:00:01"),
        to("100.64.0.8", "2001:db8:0:1::/64", "12:30:00"),
        same(line("100.64.0.9", "12:30:00")),
        same(line("100.65.0.7", "12:30:00")),
        same(line("198.51.100.7", "12:30:00")),
        same(line("100.64.0.7", "13:00:00")),
        to("100.64.0.8", "2001:db8:0:1::/64", "23:00:00"),
    ]
}

#[test]
fn section_8_annotate_an_address_of_the_pool() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("events.log");
    let (access, expected): (Vec<_>, Vec<_>) = lines().into_iter().unzip();
    let in_json = EVENTS.lines().map(|line| {
        let (time, rest) = (line[..26].replace(' ', "T"), &line[27..]);
        match rest.split_once(' ').unwrap() {
            (kind @ ("Named" | "Unnamed"), what) => {
                let (pool, client) = what.split_once(" [").unwrap();
                let client = client.trim_end_matches(']');
                format!("{{\"at\":\"{time}Z\",\"event\":\"{kind}\",\"pool\":\"{pool}\",\"client\":\"{client}\"}}\n")
            }
            _ => line.to_owned() + "\n",
        }
    });
    for events in [EVENTS.to_owned(), in_json.collect()] {
        fs::write(&log, events).unwrap();
        let (out, said) = annotated(&log, access.concat().as_bytes(), &[]);
        assert_eq!(String::from_utf8(out).unwrap(), expected.concat(), "{said}");
        assert!(said.contains("3 lines of NAT64s stay as they are, as they have an address of the pool that stood for nobody"), "{said}");
        assert!(said.contains("1 line of NAT64s stay as they are, as they have an address of the pool that came to another"), "{said}");
    }
    let other = line("100.64.0.7", "11:00:00");
    let (out, _) = annotated(&log, other.as_bytes(), &["--newcomer"]);
    assert_eq!(String::from_utf8(out).unwrap(), line("2001:db8::18", "11:00:00"));
    let (out, _) = annotated(&log, access[1].as_bytes(), &["--append"]);
    assert_eq!(String::from_utf8(out).unwrap(), access[1].replace('\n', " [2001:db8::17]\n"));
    let (out, _) = annotated(&log, access[4].as_bytes(), &["--append"]);
    let appended = access[4].replace('}', ",\"nat64_client\":\"2001:db8::17\"}");
    assert_eq!(String::from_utf8(out).unwrap(), appended);
}

/// What the log does not have any more, the history does.
#[test]
fn section_8_annotate_an_address_of_the_pool_by_the_history() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("events.log");
    let removed = folder.path().join("events.log-20190318");
    fs::write(&removed, EVENTS).unwrap();
    let later = "\
2019-03-19 09:00:00.000000 Unnamed 100.64.0.8 [2001:db8:0:1::/64]
2019-03-19 10:00:00.000000 Named 100.64.0.8 [2001:db8::20]
";
    fs::write(&log, later).unwrap();
    let (code, said, error) = run(&["history", "build", "--log", log.to_str().unwrap()]);
    assert!(code == 0, "{said}{error}");
    fs::remove_file(&removed).unwrap();
    let (mut access, mut expected): (Vec<_>, Vec<_>) = lines().into_iter().unzip();
    for (address, client, time) in [
        ("100.64.0.8", "2001:db8:0:1::/64", "08:00:00"),
        ("100.64.0.8", "100.64.0.8", "09:30:00"),
        ("100.64.0.8", "2001:db8::20", "11:00:00"),
    ] {
        access.push(line(address, time).replace("18/Mar", "19/Mar"));
        expected.push(line(client, time).replace("18/Mar", "19/Mar"));
    }
    let (out, said) = annotated(&log, access.concat().as_bytes(), &[]);
    assert_eq!(String::from_utf8(out).unwrap(), expected.concat(), "{said}");
    // What follows the last one that is known.
    let (out, _) = annotated(&log, access.last().unwrap().as_bytes(), &[]);
    assert_eq!(String::from_utf8(out).unwrap(), *expected.last().unwrap());
}
