//! Lines as the programs wrote them (nginx 1.22, Apache 2.4, HAProxy 2.6, Caddy 2.6, OpenSSH 9.2),
//! and as their documentation has them (Postfix, Traefik), with the addresses of examples.

use jiff::tz::{Offset, TimeZone};

use super::*;
use crate::handoff::change::Timestamp;

fn finder(pattern: Option<&str>) -> LineFinder {
    let mut times = TimeReader::new(TimeZone::fixed(Offset::from_seconds(3_600).unwrap()));
    // 2019-03-18 12:30:45.5 UTC
    times.set_now(Timestamp::from_micros(1_552_912_245_500_000));
    LineFinder::new(pattern.map(|text| LinePattern::new(text).unwrap()), times)
}

/// With A and P where the address and the port are: and address, port and time.
fn marked(finder: &mut LineFinder, line: &str) -> Option<(String, String)> {
    let found = finder.find(line.as_bytes())?;
    let (mut text, mut at) = (String::new(), 0);
    for LineEdit { range, part } in &finder.edits {
        text += &line[at..range.start];
        text += match part {
            ClientPart::Address => "A",
            ClientPart::InBrackets => "[A]",
            ClientPart::Port => "P",
        };
        at = range.end;
    }
    let port = found.port.map_or("-".to_owned(), |port| port.to_string());
    let time = found.time.map_or("-".to_owned(), |span| {
        let length = span.until.as_micros() + 1 - span.from.as_micros();
        format!("{} {length}", &span.from.to_string()[11..])
    });
    Some((text + &line[at..], format!("{}:{port} {time} {:?}", found.address, found.writer)))
}

#[track_caller]
fn check(line: &str, expected: &str, says: &str) {
    let found = marked(&mut finder(None), line).unwrap_or_else(|| panic!("not found: {line}"));
    assert_eq!((found.0.as_str(), found.1.as_str()), (expected, says));
}

/// What `A`, `P` and the rest make of the line is the line.
#[track_caller]
fn check_same(line: &str, says: &str) {
    let expected = line.replace("::ffff:192.0.2.7", "A").replace("192.0.2.7", "A");
    check(line, &expected.replace("3719", "P"), says);
}

const FORGED: &str = "x [01/Jan/2020:00:00:00 +0000] y";

#[test]
fn web_servers() {
    let rest =
        r#"[18/Mar/2019:11:06:28 +0100] "GET /q?3720 HTTP/1.1" 200 3 "-" "my \x22agent\x5C port=1"#;
    let second = "192.0.2.7:3719 10:06:28.000000 1000000 Web";
    let milli = "192.0.2.7:3719 10:06:28.491000 1000 Web";
    for user in ["-", "bob", FORGED, "x [01/Jan/2020", r"x [01/Jan/2020:00:00:00 +0000] \x22"] {
        for address in ["192.0.2.7", "::ffff:192.0.2.7"] {
            check_same(&format!("{address}:3719 - {user} {rest}\""), second);
            check_same(&format!("{address} 3719 - {user} {rest}\""), second);
            check_same(&format!("{address} - {user} {rest}\" port=3719"), second);
            check_same(&format!("{address} - {user} {rest}\" 0.003 port=3719 x=y"), second);
            let line = format!("{address} - {user} {rest}\" port=3719 time=1552903588.491");
            check_same(&line, milli);
            check_same(&format!("example.org:443 {line}"), milli);
            check_same(&format!("Mar 18 11:06:30 host nginx: {line}"), milli);
            let none = format!("{address} - {user} {rest}\"");
            check_same(&none, "192.0.2.7:- 10:06:28.000000 1000000 Web");
        }
        check_same(&format!("[::ffff:192.0.2.7]:3719 - {user} {rest}\""), second);
    }
    let apache = r#"192.0.2.7:3719 - "\"] [18/Mar/2019" [18/Mar/2019:11:06:28 +0100] "GET / HTTP/1.1" 404 397"#;
    check_same(apache, "192.0.2.7:3719 - Web");
    check_same(
        r#"192.0.2.7:3719 - a\"] [18/Mar/2019 [18/Mar/2019:11:06:28 +0100] "GET /" 404 397"#,
        "192.0.2.7:3719 - Web",
    );
    check_same(r#"192.0.2.7:3719 - - [2019-03-18T11:06:28+01:00] "GET / HTTP/1.1" 200 3"#, second);
    check_same("192.0.2.7:3719 GET /large HTTP/1.1", "192.0.2.7:3719 - Web");
    // Cut off in what is from outside, or there twice.
    for end in [" port=3719 time=1552903588.491", "\\\" port=3719", "\" port=3719 port=3719"] {
        let line = format!("192.0.2.7 - - {rest}\" \"-\" \"x{end}");
        let found = finder(None).find(line.as_bytes()).unwrap();
        assert_eq!(found.port, None, "{line}");
    }
    let forwarded = format!("192.0.2.7 - - {rest}\" port=3719");
    for client in ["2001:db8::9", "198.51.100.9", "[2001:db8::9]:1"] {
        let line = format!("{client} {forwarded}");
        let found = finder(None).find(line.as_bytes());
        assert!(found.is_none_or(|found| found.address.octets()[0] != 192), "{line}");
    }
    // Numbers that are no ports: an identity, a length.
    let none = "192.0.2.7:- 10:06:28.000000 1000000 Web";
    check_same(r#"192.0.2.7 3720 - [18/Mar/2019:11:06:28 +0100] "GET /" 200 3"#, none);
    check_same(r#"192.0.2.7 - - [18/Mar/2019:11:06:28 +0100] "GET /" 200 3 "-" "-" 3720"#, none);
}

#[test]
fn apaches_error_log() {
    let time = "[Mon Mar 18 11:06:28.491727 2019] [core:info]";
    let says = "192.0.2.7:3719 10:06:28.491727 1 Web";
    for text in [
        "[pid 23376:tid 23382] [client 192.0.2.7:3719] AH00128: File does not exist: /q [client 192.0.2.9:1]",
        "[pid 1] (13)Permission denied: [client 192.0.2.7:3719] AH00035: access to ] [client 192.0.2.9:1]",
    ] {
        check_same(&format!("{time} {text}"), says);
    }
    assert_eq!(marked(&mut finder(None), &format!("{time} [pid 1] AH00094: Command line")), None);
}

#[test]
fn haproxy() {
    let prefix = "<134>Mar 18 11:06:29 haproxy[23375]: ";
    let says = "192.0.2.7:3719 10:06:28.491000 1000 HaProxy";
    let lines = [
        r#"192.0.2.7:3719 [18/Mar/2019:11:06:28.491] f b/s 0/0/0/0/0 200 125 - - ---- 1/1/0/0/0 0/0 "GET /q HTTP/1.1""#,
        "::ffff:192.0.2.7:3719 [18/Mar/2019:11:06:28.491] t bt/s 1/0/0 150 -- 1/1/0/0/0 0/0",
        "192.0.2.7:3719 [18/Mar/2019:11:06:28.491] f/1: SSL handshake failure",
    ];
    for line in lines {
        check_same(line, says);
        check_same(&format!("{prefix}{line}"), says);
        check_same(&format!("Mar 18 11:06:29 lb haproxy[1]: {line}"), says);
        check_same(&format!("2019-03-18T11:06:29.1+01:00 lb haproxy[1]: {line}"), says);
    }
    check(
        &format!("{prefix}Connect from 192.0.2.7:3719 to 192.0.2.9:80 (h/HTTP)"),
        &format!("{prefix}Connect from A:P to 192.0.2.9:80 (h/HTTP)"),
        "192.0.2.7:3719 10:06:29.000000 1000000 HaProxy",
    );
}

#[test]
fn sshd() {
    let says = "192.0.2.7:3719 10:06:28.000000 1000000 Sshd";
    let forged = "bob from 192.0.2.9 port 22";
    let key = "ED25519 SHA256:zEEPOirePvFUdwW/c+rx6hrQxXqAKQIpTYn6Cj4072w";
    for message in [
        "Connection from 192.0.2.7 port 3719 on 203.0.113.5 port 18120 rdomain \"\"",
        "Invalid user bob from 192.0.2.7 port 3719",
        "Connection closed by invalid user bob 192.0.2.7 port 3719 [preauth]",
        "Failed password for invalid user bob from 192.0.2.7 port 3719 ssh2",
        "Postponed publickey for root from 192.0.2.7 port 3719 ssh2 [preauth]",
        &format!("Accepted publickey for root from 192.0.2.7 port 3719 ssh2: {key}"),
        "Starting session: command for root from 192.0.2.7 port 3719 id 0",
        "Close session: user root from 192.0.2.7 port 3719 id 0",
        "Received disconnect from 192.0.2.7 port 3719:11: from 192.0.2.9 port 22 [preauth]",
        "Disconnected from user root 192.0.2.7 port 3719",
        "Disconnected from 192.0.2.7 port 3719",
        "Connection closed by 192.0.2.7 port 3719 [preauth]",
        "Unable to negotiate with 192.0.2.7 port 3719: no matching key exchange method found. Their offer: from 192.0.2.9 port 22",
        "banner exchange: Connection from 192.0.2.7 port 3719: invalid format",
        "error: maximum authentication attempts exceeded for root from 192.0.2.7 port 3719 ssh2 [preauth]",
    ] {
        check_same(&format!("Mar 18 11:06:28 host sshd[7]: {message}"), says);
        check_same(&format!("2019-03-18T11:06:28+01:00 host sshd-session[7]: {message}"), says);
    }
    for message in [
        // Two that fit: one of them is from outside.
        &format!("Invalid user {forged} from 192.0.2.7 port 3719"),
        &format!("Connection closed by invalid user {forged} 192.0.2.7 port 3719 [preauth]"),
        &format!(
            "Failed publickey for root from 192.0.2.7 port 3719 ssh2: ED25519-CERT SHA256:x ID z from \
             192.0.2.9 port 4000 ssh2 (serial 0) CA {key}"
        ),
        &format!("Invalid user {}{forged}", "a".repeat(1000)),
        "kex_exchange_identification: client sent invalid protocol identifier \"GET / from 192.0.2.9 port 3\"",
        "kex_exchange_identification: client sent invalid protocol identifier \"x from 192.0.2.9 port 3 ssh2: \"",
        "Disconnecting invalid user a 192.0.2.7 port 3719: Change of username or service not allowed: (192.0.2.9 port 3,ssh-connection) [preauth]",
        "Server listening on 0.0.0.0 port 18120.",
        "pam_unix(sshd:auth): authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost=192.0.2.7",
    ] {
        let line = format!("Mar 18 11:06:28 host sshd[7]: {message}");
        assert_eq!(marked(&mut finder(None), &line), None, "{line}");
    }
}

#[test]
fn postfix() {
    let says = "192.0.2.7:3719 10:06:28.000000 1000000 Postfix";
    let prefix = "Mar 18 11:06:28 mx postfix/smtpd[7]:";
    for message in [
        "connect from unknown[192.0.2.7]:3719",
        "disconnect from host.example.org[192.0.2.7]:3719 ehlo=1 quit=1 commands=2",
        "lost connection after AUTH from unknown[192.0.2.7]:3719",
        "4F2B1: client=unknown[192.0.2.7]:3719, sasl_method=PLAIN, sasl_username=[192.0.2.9]:1",
        "NOQUEUE: reject: RCPT from unknown[192.0.2.7]:3719: 554 5.7.1 <a@example.org>: Relay access denied; \
         from=<b@example.org> to=<a@example.org> proto=ESMTP helo=<[192.0.2.9]:1>",
        "warning: unknown[192.0.2.7]:3719: SASL LOGIN authentication failed: UGFzc3dvcmQ6",
    ] {
        check_same(&format!("{prefix} {message}"), says);
        check_same(&format!("Mar 18 11:06:28 mx postfix/submission/smtpd[7]: {message}"), says);
    }
    check(
        "Mar 18 11:06:28 mx postfix/postscreen[7]: CONNECT from [192.0.2.7]:3719 to [203.0.113.5]:25",
        "Mar 18 11:06:28 mx postfix/postscreen[7]: CONNECT from [A]:P to [203.0.113.5]:25",
        says,
    );
    check_same(
        &format!("{prefix} connect from unknown[192.0.2.7]"),
        "192.0.2.7:- 10:06:28.000000 1000000 Postfix",
    );
    // The first is no IPv4 address: what else is there is from outside.
    for message in [
        "NOQUEUE: reject: RCPT from unknown[2001:db8::bad]:5000: 554 x; helo=<[192.0.2.7]:3719>",
        "NOQUEUE: reject: RCPT from unknown[unknown]: 554 x; from=<\"[192.0.2.7]:3719\"@x>",
    ] {
        let line = format!("{prefix} {message}");
        assert_eq!(marked(&mut finder(None), &line), None, "{line}");
    }
    // What it connects to itself.
    let line =
        "Mar 18 11:06:28 mx postfix/smtp[7]: 4F2B1: to=<a@example.org>, relay=mx[192.0.2.7]:25";
    assert_eq!(marked(&mut finder(None), line), None);
}

#[test]
fn json() {
    let says = "192.0.2.7:3719 10:06:28.491727 1 Json";
    let headers = r#""headers":{"remote_ip":["192.0.2.9"],"remote_port":"1","ts":1}"#;
    let caddy = format!(
        r#"{{"level":"info","ts":1552903588.491727,"msg":"handled request","request":{{"remote_ip":"192.0.2.7","remote_port":"3719","client_ip":"192.0.2.7","uri":"/q\",\"remote_port\":\"1",{headers}}},"status":200}}"#
    );
    check_same(&caddy, says);
    check_same(&format!("Mar 18 11:06:28 host caddy[7]: {caddy}"), says);
    let second = "192.0.2.7:3719 10:06:28.000000 1000000 Json";
    for line in [
        r#"{"time":"2019-03-18T11:06:28+01:00","remote_addr":"::ffff:192.0.2.7","remote_port":"3719","ua":"my \"agent\\"}"#,
        r#"{"time_local":"18/Mar/2019:11:06:28 +0100","remote_addr":"[::ffff:192.0.2.7]:3719"}"#,
        r#"{"ClientAddr":"[192.0.2.7]:3719","ClientHost":"192.0.2.7","ClientPort":"3719","StartUTC":"2019-03-18T10:06:28Z"}"#,
        r#"{"time":1552903588,"req":{"remoteAddress":"::ffff:192.0.2.7","remotePort":3719,"headers":{}}}"#,
        r#"{"@timestamp":"2019-03-18T10:06:28Z","client":{"ip":"192.0.2.7","port":3719},"server":{"ip":"192.0.2.9","port":80}}"#,
        r#" {"ts": 1552903588, "peer": "[192.0.2.7]:3719"} "#,
    ] {
        check_same(line.trim_start(), second);
    }
    check(
        r#"{"ts":1552903588,"peer":"192.0.2.7:3719"}"#,
        r#"{"ts":1552903588,"peer":"[A]:P"}"#,
        second,
    );
    check(
        r#"{"client_ip":"192.0.2.9","remote_ip":"192.0.2.7","remote_port":3719,"ts":1552903588}"#,
        r#"{"client_ip":"192.0.2.9","remote_ip":"A","remote_port":P,"ts":1552903588}"#,
        second,
    );
    check_same(
        r#"{"remote_addr":"192.0.2.7","msec":"1552903588.491727"}"#,
        "192.0.2.7:- 10:06:28.491727 1 Json",
    );
    for name in ["ua", "request"] {
        let mut octets = format!("{{\"ts\":1552903588,\"{name}\":").into_bytes();
        octets.extend(b"\"\xff\",\"remote_ip\":\"192.0.2.7\",\"remote_port\":3719}");
        assert_eq!(finder(None).find(&octets).unwrap().port, Some(3719), "whatever is in {name}");
    }
    for line in
        ["{", "{}", "{}}", r#"{"remote_ip":"2001:db8::17","remote_port":3719}"#, "[1]", "{1}"]
    {
        assert_eq!(marked(&mut finder(None), line), None, "{line}");
    }
}

#[test]
fn a_pattern() {
    let mut by_pattern = finder(Some(r"^\S+ (?<port>\d+)/(?<ip>\S+) at=(?<time>\S+)"));
    let found = marked(&mut by_pattern, "x 3719/192.0.2.7 at=1552903588 y").unwrap();
    assert_eq!(found.0, "x P/A at=1552903588 y");
    assert_eq!(found.1, "192.0.2.7:3719 10:06:28.000000 1000000 Pattern");
    assert_eq!(marked(&mut by_pattern, "192.0.2.7:3719 - - [x]"), None, "no other shape");
    assert_eq!(marked(&mut by_pattern, "x 3719/2001:db8::17 at=1552903588 y"), None);
    for (text, part) in [
        ("(?<ip>x", "unclosed group"),
        ("(?<ip>x)", "(?<port>...)"),
        ("(?<port>x)", "(?<ip>...)"),
        ("(?<ip>x)(?<port>x)(?<when>x)", "\"when\""),
    ] {
        let error = LinePattern::new(text).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn other_lines() {
    for line in [
        "",
        " ",
        "192.0.2.7",
        "192.0.2.7 ",
        "192.0.2.7 - -",
        "2001:db8::17 - - [18/Mar/2019:11:06:28 +0100] \"GET / HTTP/1.1\" 200 3",
        "host.example.org - - [18/Mar/2019:11:06:28 +0100] \"GET / HTTP/1.1\" 200 3",
        "2019/03/18 11:06:28 [error] 7#7: *1 open() failed, client: 192.0.2.7, server: _",
        "Mar 18 11:06:28 host cron[7]: 192.0.2",
        "<134",
        "<134>",
        "Mar 18 11:06:28 host",
        "\"192.0.2.7 - - [18/Mar/2019:11:06:28 +0100] \"",
        "[Mar 18 2019]",
        "192.0.2.7 - - [Mar 18 2019] \"GET",
    ] {
        assert_eq!(marked(&mut finder(None), line), None, "{line}");
    }
}

proptest::proptest! {
    #[test]
    fn no_line_makes_it_panic(
        octets in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
        text in r#"[ -~]{0,20}(192\.0\.2\.7|::ffff:192\.0\.2\.7)?[]\[ :{}"=a-zA-Z0-9./-]{0,60}"#,
    ) {
        let mut finder = finder(None);
        for line in [&octets[..], text.as_bytes()] {
            if finder.find(line).is_some() {
                let mut end = 0;
                for edit in &finder.edits {
                    assert!(end <= edit.range.start && edit.range.end <= line.len());
                    end = edit.range.end;
                }
            }
        }
    }
}
