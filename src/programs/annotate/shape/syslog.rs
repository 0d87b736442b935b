//! Lines with a program's name in front: those of sshd, Postfix and HAProxy, and whatever else has
//! the client first.

use memchr::{memchr, memmem};

use super::text::{EndpointText, endpoint_at};
use super::{AccessLine, ClientPart, LineEdit, LineWriterKind, json, web};
use crate::programs::annotate::times::TimeReader;
use crate::programs::who::when::TimeSpan;

/// sshd cuts off messages that are a little longer.
const CUT_OCTETS: usize = 1000;
/// `Mar 18 11:06:28`
const OLD_TIME: usize = 15;

pub fn find(line: &[u8], times: &mut TimeReader, edits: &mut Vec<LineEdit>) -> Option<AccessLine> {
    let (time, program, start) = prefix(line)?;
    let message = &line[start..];
    let (writer, endpoint) = match program.rsplit(|&octet| octet == b'/').next()? {
        b"sshd" | b"sshd-session" | b"sshd-auth" => (LineWriterKind::Sshd, sshd(line, start)),
        b"smtpd" | b"postscreen" => (LineWriterKind::Postfix, postfix(line, start)),
        _ if message.starts_with(b"Connect from ") => {
            (LineWriterKind::HaProxy, endpoint_at(line, start + b"Connect from ".len()))
        }
        _ if message.starts_with(b"{") => {
            let time = times.read(time);
            let found = json::find(line, start, times, edits)?;
            return Some(AccessLine { time: found.time.or(time), ..found });
        }
        _ => {
            let found = web::find(line, start, times, edits)?;
            return Some(AccessLine { time: found.time.or_else(|| times.read(time)), ..found });
        }
    };
    let EndpointText { ip: address, address: place, port, .. } = endpoint?;
    let time: Option<TimeSpan> = times.read(time);
    edits.push(LineEdit { range: place, part: ClientPart::Address });
    let port = port.map(|(port, range)| {
        edits.push(LineEdit { range, part: ClientPart::Port });
        port
    });
    Some(AccessLine { address, port, time, writer })
}

/// The time, the program's name, and where its message begins, as behind
/// `<38>Mar 18 11:06:28 host sshd[7]:`.
fn prefix(line: &[u8]) -> Option<(&[u8], &[u8], usize)> {
    let mut at = 0;
    if line.first() == Some(&b'<') {
        at = memchr(b'>', line.get(..6).unwrap_or(line))? + 1;
    }
    let rest = &line[at..];
    let length = match rest.first()? {
        letter if letter.is_ascii_uppercase() => OLD_TIME,
        digit if digit.is_ascii_digit() => memchr(b' ', rest)?,
        _ => return None,
    };
    let time = rest.get(..length)?;
    if !time.contains(&b':') || *rest.get(length)? != b' ' {
        return None;
    }
    at += length + 1;
    // A host's name, or none.
    for _ in 0..2 {
        let word = &line[at..];
        let word = &word[..memchr(b' ', word)?];
        let next = at + word.len() + 1;
        if let Some(tag) = word.strip_suffix(b":") {
            let name = &tag[..memchr(b'[', tag).unwrap_or(tag.len())];
            return Some((time, name, next));
        }
        at = next;
    }
    None
}

/// Names of users are from outside, and come before the client; what a client says as it goes comes
/// behind it.
fn sshd(line: &[u8], start: usize) -> Option<EndpointText> {
    /// The client comes at once.
    const CLIENT_FIRST: [&[u8]; 11] = [
        b"Connection from ",
        b"Connection closed by ",
        b"Connection reset by ",
        b"Disconnected from ",
        b"Disconnecting ",
        b"Received disconnect from ",
        b"error: Received disconnect from ",
        b"Unable to negotiate with ",
        b"banner exchange: Connection from ",
        b"ssh_dispatch_run_fatal: Connection from ",
        b"Did not receive identification string from ",
    ];
    /// The client comes behind the user, and nothing from outside behind it.
    const USER_FIRST: [&[u8]; 10] = [
        b"Accepted ",
        b"Failed ",
        b"Postponed ",
        b"Invalid user ",
        b"Connection closed by ",
        b"Connection reset by ",
        b"Disconnected from ",
        b"Starting session: ",
        b"Close session: ",
        b"error: maximum authentication attempts exceeded for ",
    ];
    let message = &line[start..];
    let first = CLIENT_FIRST.iter().filter(|begin| message.starts_with(begin));
    let mut first = first.filter_map(|begin| with_port(line, start + begin.len()));
    if let Some(found) = first.next() {
        return Some(found);
    }
    if !USER_FIRST.iter().any(|begin| message.starts_with(begin)) {
        return None;
    }
    // Where another one fits, it cannot be told which is from outside; and a message may be cut off
    // before what the program wrote.
    if message.len() >= CUT_OCTETS {
        return None;
    }
    let ports = memmem::find_iter(message, b" port ");
    let mut fitting = ports.filter_map(|at| {
        let word = message[..at].iter().rposition(|&octet| octet == b' ')? + 1;
        with_port(line, start + word)
    });
    let found = fitting.next().filter(|_| fitting.next().is_none())?;
    let rest = &line[found.end..];
    let known: [&[u8]; 3] = [b" ssh2", b" [preauth]", b" id "];
    (rest.is_empty() || known.iter().any(|begin| rest.starts_with(begin))).then_some(found)
}

/// `192.0.2.7 port 3719`
fn with_port(line: &[u8], at: usize) -> Option<EndpointText> {
    let found = endpoint_at(line, at).filter(|found| found.port.is_none())?;
    let number = found.end + b" port ".len();
    if line.get(found.end..number)? != b" port " {
        return None;
    }
    let (port, end) = super::text::number_at(line, number)?;
    Some(EndpointText { port: Some((port, number..end)), end, ..found })
}

/// `connect from host.example.org[192.0.2.7]:3719`: the first in brackets, as only names of hosts
/// and commands come before it.
fn postfix(line: &[u8], start: usize) -> Option<EndpointText> {
    // What stands in others is from outside.
    endpoint_at(line, start + memchr(b'[', &line[start..])?)
}
