//! The common log format of web servers, with what is in front of it and behind it; HAProxy's
//! lines; Apache's error log.
//!
//! A program escapes quotation marks in all that comes from outside. So the first one ends what it
//! writes itself and the user's name, which is from outside and may look like a time; and behind
//! the last one it writes itself again.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use memchr::{memchr, memchr2, memmem, memrchr};

use super::text::{EndpointText, endpoint_at, number_at};
use super::{AccessLine, ClientPart, LineEdit, LineWriterKind, text};
use crate::programs::annotate::times::TimeReader;

/// A line that begins with the client, at `start`.
pub fn find(
    line: &[u8],
    start: usize,
    times: &mut TimeReader,
    edits: &mut Vec<LineEdit>,
) -> Option<AccessLine> {
    let EndpointText { ip: address, address: place, port, end } = endpoint_at(line, start)?;
    if *line.get(end)? != b' ' {
        return None;
    }
    edits.push(LineEdit { range: place, part: ClientPart::Address });
    if let (Some((port, range)), Some(b'[')) = (&port, line.get(end + 1)) {
        edits.push(LineEdit { range: range.clone(), part: ClientPart::Port });
        let time = in_brackets(line, end + 1).and_then(|range| times.read(&line[range]));
        let writer = LineWriterKind::HaProxy;
        return Some(AccessLine { address, port: Some(*port), time, writer });
    }
    let quote = memchr(b'"', &line[end..]).map(|at| end + at);
    let own = &line[..quote.unwrap_or(line.len())];
    let time_place = quote.and_then(|_| time_before(own));
    let mut time = time_place.clone().and_then(|range| times.read(&line[range]));
    let mut port = port.or_else(|| port_behind(line, end, time_place.as_ref()?.start));
    let is_twice =
        |name: &[u8]| values_behind(line).filter(|(other, _)| *other == name).count() > 1;
    let is_sure = !is_twice(b"port") && !is_twice(b"time");
    for (name, value) in values_behind(line).filter(|_| is_sure) {
        match name {
            b"port" if port.is_none() => {
                port = text::port(&line[value.clone()]).map(|number| (number, value));
            }
            b"time" => time = times.read(&line[value]).or(time),
            _ => {}
        }
    }
    if time.is_none() && port.is_none() {
        edits.clear();
        return None;
    }
    let writer = LineWriterKind::Web;
    let port = port.map(|(port, range)| {
        edits.push(LineEdit { range, part: ClientPart::Port });
        port
    });
    Some(AccessLine { address, port, time, writer })
}

/// The same behind the name of a virtual host.
pub fn behind_a_word(
    line: &[u8],
    times: &mut TimeReader,
    edits: &mut Vec<LineEdit>,
) -> Option<AccessLine> {
    let space = memchr2(b' ', b'"', line)?;
    // An address there may be what a client says of itself, or a client without a NAT64.
    let word = std::str::from_utf8(&line[..space]).ok()?;
    let is_address = word.parse::<IpAddr>().is_ok() || word.parse::<SocketAddr>().is_ok();
    if line[space] != b' ' || is_address {
        return None;
    }
    // Behind a word that others may have chosen, as the name of a host, only with a time.
    find(line, space + 1, times, edits).filter(|found| found.time.is_some())
}

/// Apache's error log: `[Mon Mar 18 11:06:28.491727 2019] ... [client 192.0.2.7:3719] ...`.
pub fn error(line: &[u8], times: &mut TimeReader, edits: &mut Vec<LineEdit>) -> Option<AccessLine> {
    let time = times.read(&line[in_brackets(line, 0)?])?;
    let places = [&b"] [client "[..], b": [client "].into_iter();
    let places = places.filter_map(|before| Some(memmem::find(line, before)? + before.len()));
    let at = places.min()?;
    let EndpointText { ip: address, address: place, port, end } = endpoint_at(line, at)?;
    if *line.get(end)? != b']' {
        return None;
    }
    edits.push(LineEdit { range: place, part: ClientPart::Address });
    let port = port.map(|(port, range)| {
        edits.push(LineEdit { range, part: ClientPart::Port });
        port
    });
    Some(AccessLine { address, port, time: Some(time), writer: LineWriterKind::Web })
}

/// Behind an opening bracket up to the closing one.
fn in_brackets(line: &[u8], open: usize) -> Option<Range<usize>> {
    let start = open + 1;
    let length = memchr(b']', line.get(start..)?)?;
    Some(start..start + length)
}

/// The brackets at the end of what stands before the request.
fn time_before(own: &[u8]) -> Option<Range<usize>> {
    let inner = own.strip_suffix(b"] ")?;
    let open = memrchr(b'[', inner)?;
    Some(open + 1..inner.len())
}

/// `192.0.2.7 3719 - - [...`: a number, and two words behind it.
fn port_behind(line: &[u8], end: usize, time: usize) -> Option<(u16, Range<usize>)> {
    let start = end + 1;
    let (port, over) = number_at(line, start)?;
    let words = line.get(over..time.checked_sub(1)?)?.strip_prefix(b" ")?;
    let (ident, user) = words.split_at(memchr(b' ', words)?);
    (!ident.is_empty() && user.len() > 2).then_some((port, start..over))
}

/// `... "user agent" port=3719 time=1552903588.491`: names and values behind the last quotation
/// mark.
fn values_behind(line: &[u8]) -> impl Iterator<Item = (&[u8], Range<usize>)> {
    let mut at = behind_quotes(line).unwrap_or(line.len());
    std::iter::from_fn(move || {
        while line.get(at) == Some(&b' ') {
            at += 1;
        }
        let word = &line[at..];
        let word = &word[..memchr(b' ', word).unwrap_or(word.len())];
        let start = at;
        at += word.len();
        let equals = memchr(b'=', word).unwrap_or(word.len());
        let value = (start + equals + 1).min(at)..at;
        (!word.is_empty()).then_some((&word[..equals], value))
    })
}

/// Behind the last quotation mark. None where one is open: the line was cut off in what is from
/// outside.
fn behind_quotes(line: &[u8]) -> Option<usize> {
    let (mut at, mut last, mut is_open) = (0, None, false);
    while let Some(found) = memchr2(b'"', b'\\', line.get(at..)?) {
        at += found + 1;
        match line[at - 1] {
            b'"' => (last, is_open) = (Some(at), !is_open),
            // What is behind it is escaped.
            _ => at += 1,
        }
    }
    last.filter(|_| !is_open)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_at_the_end() {
        let values = |text: &'static str| -> Vec<_> {
            let values = values_behind(text.as_bytes());
            values.map(|(name, value)| (std::str::from_utf8(name).unwrap(), &text[value])).collect()
        };
        assert_eq!(values("a=1 \"b=2\" c=3 d  e="), [("c", "3"), ("d", ""), ("e", "")]);
        assert_eq!(values("a=1"), []);
        assert_eq!(values("\""), []);
    }
}
