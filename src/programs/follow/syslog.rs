//! An event for syslog: RFC 5424, with structured data; on a stream with octet counting (RFC 6587).

use std::fmt::{Display, Write};

use rustix::system::uname;

use super::encoder::{EventEncoder, IDENTIFIER, notice, what};
use crate::disk::eventlog::Lost;
use crate::handoff::logged::LoggedLine;
use crate::handoff::names::client_text;

/// The facility `daemon`.
const FACILITY: u8 = 3;
/// The structured data's name. The number is that of documentation (RFC 5612): nobody else's.
const DATA: &str = "nat64@32473";
/// What a name of a host may have at most.
const HOST_MAX: usize = 255;
/// What goes into one write to a stream.
const STREAM_OCTETS: usize = 16 * 1024;

/// Messages of RFC 5424.
#[derive(Debug)]
pub struct SyslogEncoder {
    host: String,
    /// Each message begins with its length.
    is_stream: bool,
    text: String,
}

impl SyslogEncoder {
    /// Of this host.
    pub fn new(is_stream: bool) -> Self {
        let name = uname();
        let host: String = name.nodename().to_string_lossy().chars().take(HOST_MAX).collect();
        Self::of_host(&host, is_stream)
    }

    fn of_host(host: &str, is_stream: bool) -> Self {
        let is_name = !host.is_empty() && host.bytes().all(|octet| octet.is_ascii_graphic());
        let host = if is_name { host } else { "-" }.to_owned();
        Self { host, is_stream, text: String::new() }
    }

    fn begin(&mut self, severity: u8, at: impl Display, event: &str) {
        self.text.clear();
        let priority = 8 * FACILITY + severity;
        // Writing to a string cannot fail, here and below.
        let _ = write!(self.text, "<{priority}>1 {at} {} {IDENTIFIER} - {event} ", self.host);
    }

    fn parameter(&mut self, name: &str, value: Option<impl Display>) {
        // Addresses, numbers and words need no escapes.
        if let Some(value) = value {
            let _ = write!(self.text, " {name}=\"{value}\"");
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        if self.is_stream {
            out.extend(format!("{} ", self.text.len()).bytes());
        }
        out.extend_from_slice(self.text.as_bytes());
    }

    fn append(&mut self, event: &LoggedLine, out: &mut Vec<u8>) {
        self.begin(notice(event), event.at.rfc3339(), event.kind.name());
        let entry = event.entry();
        let _ = write!(self.text, "[{DATA}");
        let named = event.named();
        self.parameter(if named.is_some() { "pool" } else { "nat64" }, Some(event.nat64));
        self.parameter("port", entry.map(|entry| entry.port));
        self.parameter("client", entry.map(|entry| entry.client));
        self.parameter("client", named.map(client_text));
        self.parameter("client_port", entry.map(|entry| entry.client_port));
        self.parameter("to", event.local);
        self.parameter("prefix", entry.and_then(|entry| entry.prefix));
        let _ = write!(self.text, "] {}", what(event));
        self.end(out);
    }
}

impl EventEncoder for SyslogEncoder {
    fn message(&mut self, events: &[LoggedLine], out: &mut Vec<u8>) -> usize {
        for (number, event) in events.iter().enumerate() {
            if number > 0 && (!self.is_stream || out.len() > STREAM_OCTETS) {
                return number;
            }
            self.append(event, out);
        }
        events.len()
    }

    fn lost(&mut self, lost: &Lost, out: &mut Vec<u8>) {
        self.begin(4, lost.at().rfc3339(), "Lost");
        let _ = write!(self.text, "[{DATA}");
        self.parameter("why", Some(lost.why()));
        let _ = write!(self.text, "] {lost}");
        self.end(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handoff::change::Timestamp;

    const LINES: [&str; 3] = [
        "2019-03-18 10:06:28.491727 Created 192.0.2.7:3719 [2001:db8::17]:53186 to 203.0.113.5 via 64:ff9b::/96",
        "2019-03-18 10:06:28.491728 Conflict 192.0.2.7:1 [2001:db8::17]:2",
        "2019-03-18 10:06:28.491729 Named 100.64.0.7 [2001:db8::17]",
    ];
    const MESSAGES: [&str; 3] = [
        "<30>1 2019-03-18T10:06:28.491727Z host.example nat64handoff - Created [nat64@32473 nat64=\"192.0.2.7\" port=\"3719\" client=\"2001:db8::17\" client_port=\"53186\" to=\"203.0.113.5\" prefix=\"64:ff9b::/96\"] Created 192.0.2.7:3719 [2001:db8::17]:53186 to 203.0.113.5 via 64:ff9b::/96",
        "<29>1 2019-03-18T10:06:28.491728Z host.example nat64handoff - Conflict [nat64@32473 nat64=\"192.0.2.7\" port=\"1\" client=\"2001:db8::17\" client_port=\"2\"] Conflict 192.0.2.7:1 [2001:db8::17]:2",
        "<30>1 2019-03-18T10:06:28.491729Z host.example nat64handoff - Named [nat64@32473 pool=\"100.64.0.7\" client=\"2001:db8::17\"] Named 100.64.0.7 [2001:db8::17]",
    ];

    #[test]
    fn messages_alone_and_in_a_stream() {
        let events = LINES.map(|line| LoggedLine::parse(line).unwrap());
        let mut encoder = SyslogEncoder::of_host("host.example", false);
        for (number, expected) in MESSAGES.iter().enumerate() {
            let mut out = Vec::new();
            assert_eq!(encoder.message(&events[number..], &mut out), 1);
            assert_eq!(String::from_utf8(out).unwrap(), *expected);
        }
        let mut encoder = SyslogEncoder::of_host("host.example", true);
        let mut out = Vec::new();
        assert_eq!(encoder.message(&events, &mut out), 3);
        let framed = MESSAGES.map(|message| format!("{} {message}", message.len()));
        assert_eq!(String::from_utf8(out).unwrap(), framed.concat());
        let (many, mut out) = (vec![events[0].clone(); 1000], Vec::new());
        let some = encoder.message(&many, &mut out);
        assert!((10..1000).contains(&some) && out.len() < 2 * STREAM_OCTETS, "{some}");
    }

    #[test]
    fn what_is_no_name_of_a_host() {
        for (name, expected) in [("", "-"), ("two words", "-"), ("h\u{e4}", "-"), ("a.b", "a.b")] {
            assert_eq!(SyslogEncoder::of_host(name, false).host, expected);
        }
        let mut out = Vec::new();
        let lost = Lost::Removed(Timestamp::from_micros(1_552_903_588_491_727));
        SyslogEncoder::of_host("", false).lost(&lost, &mut out);
        let text = String::from_utf8(out).unwrap();
        let begin = "<28>1 2019-03-18T10:06:28.491727Z - nat64handoff - Lost [nat64@32473 why=\"removed\"] lines";
        assert!(text.starts_with(begin), "{text}");
    }
}
