//! A line of the event log, read again (PROTOCOL.md section 8): the counterpart of `line`.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::UNIX_EPOCH;

use ipnet::Ipv6Net;

use crate::handoff::change::{Event, EventKind, Timestamp};
use crate::handoff::entry::{Client, MappedPort};
use crate::ip::address::Prefix96;

/// `2019-03-18 10:06:28.491727`
const TIME_LENGTH: usize = 26;
/// What a line of `--log-format json` begins with, before its time.
pub const JSON_BEGIN: &str = r#"{"at":""#;
/// `2019-03-18 10:06:28`
const SECOND_LENGTH: usize = 19;
const MICROS: u64 = 1_000_000;

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedLine {
    pub at: Timestamp,
    pub kind: LoggedKind,
    /// The NAT64's address; of `Named` and `Unnamed` that of the pool.
    pub nat64: Ipv4Addr,
    /// The server's address, where the log was written with `--log-format full` or `json`. A name
    /// has none.
    pub local: Option<Ipv4Addr>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoggedKind {
    Initialized,
    Forgotten,
    Created(LoggedEntry),
    Deleted(LoggedEntry),
    Conflict(LoggedEntry),
    /// Whom the address of the pool stands for from now on.
    Named(Ipv6Net),
    /// Whom it stood for until now.
    Unnamed(Ipv6Net),
}

/// An entry, as far as a line tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoggedEntry {
    /// That of the NAT64.
    pub port: u16,
    pub client: Ipv6Addr,
    pub client_port: u16,
    /// Where the log was written with `--log-format full` or `json`.
    pub prefix: Option<Prefix96>,
}

impl LoggedLine {
    /// The entry that it is about.
    pub fn entry(&self) -> Option<&LoggedEntry> {
        match &self.kind {
            LoggedKind::Initialized
            | LoggedKind::Forgotten
            | LoggedKind::Named(_)
            | LoggedKind::Unnamed(_) => None,
            LoggedKind::Created(entry)
            | LoggedKind::Deleted(entry)
            | LoggedKind::Conflict(entry) => Some(entry),
        }
    }

    /// Whom it names, or names no more. None where it is about a NAT64, and not about the pool.
    pub fn named(&self) -> Option<Ipv6Net> {
        match self.kind {
            LoggedKind::Named(client) | LoggedKind::Unnamed(client) => Some(client),
            _ => None,
        }
    }

    /// None where it is no line of the event log, in any of its formats. Lines of the original
    /// server are. For many of them there is [`LineReader`].
    pub fn parse(line: &str) -> Option<Self> {
        LineReader::default().read(line.as_bytes())
    }
}

impl LoggedKind {
    /// What it is called in a line.
    pub fn name(&self) -> &'static str {
        match self {
            LoggedKind::Initialized => "Initialized",
            LoggedKind::Forgotten => "Forgotten",
            LoggedKind::Created(_) => "Created",
            LoggedKind::Deleted(_) => "Deleted",
            LoggedKind::Conflict(_) => "Conflict",
            LoggedKind::Named(_) => "Named",
            LoggedKind::Unnamed(_) => "Unnamed",
        }
    }

    /// That of a line about the pool.
    fn of_name(name: &[u8], client: Ipv6Net) -> Option<Self> {
        match name {
            b"Named" => Some(LoggedKind::Named(client)),
            b"Unnamed" => Some(LoggedKind::Unnamed(client)),
            _ => None,
        }
    }

    fn of(name: &[u8], entry: Option<LoggedEntry>) -> Option<Self> {
        Some(match (name, entry) {
            (b"Initialized", None) => LoggedKind::Initialized,
            (b"Forgotten", None) => LoggedKind::Forgotten,
            (b"Created", Some(entry)) => LoggedKind::Created(entry),
            (b"Deleted", Some(entry)) => LoggedKind::Deleted(entry),
            (b"Conflict", Some(entry)) => LoggedKind::Conflict(entry),
            _ => return None,
        })
    }
}

impl From<&Event> for LoggedLine {
    fn from(event: &Event) -> Self {
        let entry = |port: MappedPort, client: Client| LoggedEntry {
            port: port.0,
            client: client.address,
            client_port: client.port,
            prefix: Some(client.prefix),
        };
        let (mut nat64, mut local) = (event.table.nat64, Some(event.table.local));
        let mut name = |address, client| {
            (nat64, local) = (address, None);
            client
        };
        let kind = match event.kind {
            EventKind::Initialized => LoggedKind::Initialized,
            EventKind::Forgotten => LoggedKind::Forgotten,
            EventKind::Created { port, client } => LoggedKind::Created(entry(port, client)),
            EventKind::Deleted { port, client } => LoggedKind::Deleted(entry(port, client)),
            EventKind::Conflict { port, client } => LoggedKind::Conflict(entry(port, client)),
            EventKind::Named { address, client } => LoggedKind::Named(name(address, client)),
            EventKind::Unnamed { address, client } => LoggedKind::Unnamed(name(address, client)),
        };
        Self { at: event.at, kind, nat64, local }
    }
}

/// Reads lines. Knows which second the last one was of, as the next line is mostly of the same.
#[derive(Debug, Clone, Default)]
pub struct LineReader {
    /// As it is written.
    date: [u8; SECOND_LENGTH],
    /// Since 1970.
    second: Option<u64>,
}

impl LineReader {
    /// None where it is no line of the event log. By hand, as a history is made of all of them.
    pub fn read(&mut self, line: &[u8]) -> Option<LoggedLine> {
        if let Some(rest) = line.strip_prefix(JSON_BEGIN.as_bytes()) {
            return self.read_json(rest);
        }
        let at = self.time(line, b' ')?;
        let (kind, rest) = word(line.get(TIME_LENGTH..)?.strip_prefix(b" ")?)?;
        let (nat64, rest) = ipv4(rest)?;
        let (mut entry, mut rest) = match kind {
            b"Initialized" | b"Forgotten" => (None, rest),
            b"Created" | b"Deleted" | b"Conflict" => {
                let (entry, rest) = entry(rest)?;
                (Some(entry), rest)
            }
            _ => {
                let client = client_of(rest.strip_prefix(b" [")?.strip_suffix(b"]")?)?;
                let kind = LoggedKind::of_name(kind, client)?;
                return Some(LoggedLine { at, kind, nat64, local: None });
            }
        };
        let mut local = None;
        while !rest.is_empty() {
            let (name, value) = word(rest.strip_prefix(b" ")?)?;
            match (name, &mut entry) {
                (b"to", _) => {
                    let (address, after) = ipv4(value)?;
                    (local, rest) = (Some(address), after);
                }
                (b"via", Some(entry)) => {
                    let (address, after) = ipv6(value, b"/96")?;
                    entry.prefix = address.octets().first_chunk().copied().map(Prefix96);
                    rest = after;
                }
                _ => return None,
            }
        }
        let kind = LoggedKind::of(kind, entry)?;
        Some(LoggedLine { at, kind, nat64, local })
    }

    /// What has the form that `line` writes, and not any JSON that says the same.
    fn read_json(&mut self, text: &[u8]) -> Option<LoggedLine> {
        let at = self.time(text, b'T')?;
        let rest = text.get(TIME_LENGTH..)?.strip_prefix(br#"Z","event":""#)?;
        let (kind, rest) = rest.split_at(rest.iter().position(|&octet| octet == b'"')?);
        if let Some(rest) = rest.strip_prefix(br#"","pool":""#) {
            let (nat64, rest) = ipv4(rest)?;
            let client = rest.strip_prefix(br#"","client":""#)?.strip_suffix(b"\"}")?;
            let kind = LoggedKind::of_name(kind, client_of(client)?)?;
            return Some(LoggedLine { at, kind, nat64, local: None });
        }
        let (nat64, rest) = ipv4(rest.strip_prefix(br#"","nat64":""#)?)?;
        let mut rest = rest.strip_prefix(b"\"")?;
        let (mut entry, mut local) = (None, None);
        if let Some(after) = rest.strip_prefix(br#","port":"#) {
            let (port, after) = decimal(after)?;
            let after = after.strip_prefix(br#","client":""#)?;
            let (client, after) = ipv6(after, br#"","client_port":"#)?;
            let (client_port, after) = decimal(after)?;
            entry = Some(LoggedEntry { port, client, client_port, prefix: None });
            rest = after;
        }
        if let Some(after) = rest.strip_prefix(br#","to":""#) {
            let (address, after) = ipv4(after)?;
            (local, rest) = (Some(address), after.strip_prefix(b"\"")?);
        }
        if let Some(after) = rest.strip_prefix(br#","prefix":""#) {
            let (address, after) = ipv6(after, b"/96\"")?;
            entry.as_mut()?.prefix = address.octets().first_chunk().copied().map(Prefix96);
            rest = after;
        }
        let kind = LoggedKind::of(kind, entry)?;
        (rest == b"}").then_some(LoggedLine { at, kind, nat64, local })
    }

    /// Of a text that begins with it. `between` stands between date and time of day.
    fn time(&mut self, text: &[u8], between: u8) -> Option<Timestamp> {
        let (date, micros) = text.get(..TIME_LENGTH)?.split_first_chunk::<SECOND_LENGTH>()?;
        let second = match self.second {
            Some(second) if *date == self.date => second,
            _ => {
                let whole = time_text(text, between)?;
                let second = time_of_text(whole)?.as_micros() / MICROS;
                (self.date, self.second) = (*date, Some(second));
                second
            }
        };
        let mut fraction = 0;
        for digit in micros.strip_prefix(b".")? {
            fraction = 10 * fraction + u64::from(digit_of(*digit)?);
        }
        Some(Timestamp::from_micros(second * MICROS + fraction))
    }
}

/// What stands before the next space, and what behind it.
fn word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = text.iter().position(|&octet| octet == b' ')?;
    Some((&text[..end], &text[end + 1..]))
}

fn digit_of(octet: u8) -> Option<u8> {
    Some(octet.wrapping_sub(b'0')).filter(|&digit| digit < 10)
}

/// A number of up to five digits, and what stands behind it.
fn decimal(text: &[u8]) -> Option<(u16, &[u8])> {
    let mut number = 0_u32;
    let digits = text.iter().map_while(|&octet| digit_of(octet)).take(6);
    let length = digits.inspect(|&digit| number = 10 * number + u32::from(digit)).count();
    let number = u16::try_from(number).ok().filter(|_| (1..=5).contains(&length))?;
    Some((number, &text[length..]))
}

/// `192.0.2.7`
fn ipv4(mut text: &[u8]) -> Option<(Ipv4Addr, &[u8])> {
    let mut octets = [0; 4];
    for (index, octet) in octets.iter_mut().enumerate() {
        let digits = if index == 0 { text } else { text.strip_prefix(b".")? };
        let (number, rest) = decimal(digits)?;
        *octet = u8::try_from(number).ok()?;
        // Of an octet that begins with 0, others could think that it is octal.
        if digits[0] == b'0' && digits.len() - rest.len() > 1 {
            return None;
        }
        text = rest;
    }
    Some((Ipv4Addr::from(octets), text))
}

/// An address with what stands behind it at once, `end`, and what stands behind that.
fn ipv6<'t>(text: &'t [u8], end: &[u8]) -> Option<(Ipv6Addr, &'t [u8])> {
    let length = text.iter().position(|&octet| octet == end[0])?;
    let (address, rest) = text.split_at(length);
    let rest = rest.strip_prefix(end)?;
    Some((ipv6_of(address)?, rest))
}

/// An address as the log has it.
pub fn ipv6_of(text: &[u8]) -> Option<Ipv6Addr> {
    // Those with an IPv4 address in them are few.
    groups(text).or_else(|| std::str::from_utf8(text).ok()?.parse().ok())
}

/// Whom an address of the pool stands for, as the log has it: `2001:db8::17`, or
/// `2001:db8:0:1::/64`. Only as it is written: no /128, and nothing behind the network.
pub fn client_of(text: &[u8]) -> Option<Ipv6Net> {
    let Some(end) = text.iter().position(|&octet| octet == b'/') else {
        return Some(ipv6_of(text)?.into());
    };
    let (length, rest) = decimal(&text[end + 1..])?;
    let length = u8::try_from(length).ok().filter(|&length| length < 128 && rest.is_empty())?;
    let net = Ipv6Net::new(ipv6_of(&text[..end])?, length).ok()?;
    (net == net.trunc()).then_some(net)
}

/// An address that is written as hexadecimal groups. None where it is not, or where it is none.
fn groups(text: &[u8]) -> Option<Ipv6Addr> {
    let mut groups = [0_u16; 8];
    let (mut count, mut left_out, mut rest) = (0, None, text);
    if let Some(after) = rest.strip_prefix(b"::") {
        (left_out, rest) = (Some(0), after);
    }
    while !rest.is_empty() {
        let group = groups.get_mut(count)?;
        let mut digits = 0;
        while let Some(&octet) = rest.first().filter(|&&octet| octet != b':') {
            let digit = (octet as char).to_digit(16).filter(|_| digits < 4)?;
            *group = *group << 4 | digit as u16;
            (digits, rest) = (digits + 1, &rest[1..]);
        }
        count += 1;
        if digits == 0 {
            return None;
        }
        if let Some(after) = rest.strip_prefix(b"::").filter(|_| left_out.is_none()) {
            (left_out, rest) = (Some(count), after);
        } else if let Some(after) = rest.strip_prefix(b":") {
            // One colon has a group behind it.
            rest = Some(after).filter(|after| !after.is_empty())?;
        }
    }
    match left_out {
        None if count == 8 => {}
        // It stands for one group at least.
        Some(at) if count < 8 => {
            groups.copy_within(at..count, 8 - (count - at));
            groups[at..8 - (count - at)].fill(0);
        }
        _ => return None,
    }
    Some(Ipv6Addr::from(groups))
}

/// `:3719 [2001:db8::17]:53186`
fn entry(text: &[u8]) -> Option<(LoggedEntry, &[u8])> {
    let (port, rest) = decimal(text.strip_prefix(b":")?)?;
    let (client, rest) = ipv6(rest.strip_prefix(b" [")?, b"]:")?;
    let (client_port, rest) = decimal(rest)?;
    Some((LoggedEntry { port, client, client_port, prefix: None }, rest))
}

/// The time of a line that is no JSON, and what stands behind it.
pub fn split_time(line: &str) -> Option<(&str, &str)> {
    let rest = line.get(TIME_LENGTH..)?.strip_prefix(' ')?;
    Some((time_text(line.as_bytes(), b' ')?, rest))
}

/// The time that a text begins with.
fn time_text(text: &[u8], between: u8) -> Option<&str> {
    let time = text.get(..TIME_LENGTH)?;
    let is = |(octet, shape): (&u8, u8)| match shape {
        b'0' => octet.is_ascii_digit(),
        b' ' => *octet == between,
        _ => *octet == shape,
    };
    let shaped = time.iter().zip("0000-00-00 00:00:00.000000".bytes()).all(is);
    std::str::from_utf8(time).ok().filter(|_| shaped)
}

/// The time of a line of any format, if it begins with one.
pub fn time_of(line: &str) -> Option<Timestamp> {
    match line.strip_prefix(JSON_BEGIN) {
        Some(rest) => time_of_text(time_text(rest.as_bytes(), b'T')?),
        None => time_of_text(split_time(line)?.0),
    }
}

fn time_of_text(time: &str) -> Option<Timestamp> {
    let at = humantime::parse_rfc3339_weak(time).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(Timestamp::from_micros(u64::try_from(at.as_micros()).ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::handoff::change::LogFormat;
    use crate::handoff::entry::TableKey;

    proptest! {
        /// What the server writes is read as what it was.
        #[test]
        fn section_8_lines_are_read_as_they_were_written(
            (micros, nat64, local) in (0..4_000_000_000_000_000_u64, any::<u32>(), any::<u32>()),
            (kind, port, client, client_port) in (0..7, any::<u16>(), any::<u128>(), any::<u16>()),
            prefix: [u8; 12],
            format in 0..3_usize,
        ) {
            let full = format > 0;
            let at = Timestamp::from_micros(micros);
            let (nat64, local) = (Ipv4Addr::from(nat64), Ipv4Addr::from(local));
            let (address, prefix) = (Ipv6Addr::from(client), Prefix96(prefix));
            let port = MappedPort(port);
            let client = Client { prefix, address, port: client_port };
            let kind = match kind {
                0 => EventKind::Initialized,
                1 => EventKind::Forgotten,
                2 => EventKind::Created { port, client },
                3 => EventKind::Deleted { port, client },
                4 => EventKind::Conflict { port, client },
                named => {
                    let length = [128, 64][usize::from(client_port) % 2];
                    let client = Ipv6Net::new(address, length).unwrap().trunc();
                    match named {
                        5 => EventKind::Named { address: nat64, client },
                        _ => EventKind::Unnamed { address: nat64, client },
                    }
                }
            };
            let is_name = matches!(kind, EventKind::Named { .. } | EventKind::Unnamed { .. });
            let entry = LoggedEntry {
                port: port.0,
                client: address,
                client_port,
                prefix: full.then_some(prefix),
            };
            let expected = LoggedLine {
                at,
                kind: match kind {
                    EventKind::Initialized => LoggedKind::Initialized,
                    EventKind::Forgotten => LoggedKind::Forgotten,
                    EventKind::Created { .. } => LoggedKind::Created(entry),
                    EventKind::Deleted { .. } => LoggedKind::Deleted(entry),
                    EventKind::Conflict { .. } => LoggedKind::Conflict(entry),
                    EventKind::Named { client, .. } => LoggedKind::Named(client),
                    EventKind::Unnamed { client, .. } => LoggedKind::Unnamed(client),
                },
                nat64,
                local: (full && !is_name).then_some(local),
            };
            let format = [LogFormat::Plain, LogFormat::Full, LogFormat::Json][format];
            let line = Event { at, table: TableKey { local, nat64 }, kind }.line(format).to_string();
            prop_assert_eq!(time_of(&line), Some(at));
            prop_assert_eq!(&expected.line(format).to_string(), &line);
            let json = expected.line(LogFormat::Json).to_string();
            prop_assert_eq!(LoggedLine::parse(&json), Some(expected.clone()));
            prop_assert_eq!(LoggedLine::parse(&line), Some(expected));
            for end in 0..line.len() {
                // A line that was cut says something else, or nothing.
                prop_assert!(format != LogFormat::Json || LoggedLine::parse(&line[..end]).is_none());
            }
        }

        #[test]
        fn no_line_makes_it_panic(line: String) {
            let _ = LoggedLine::parse(&line);
        }

        /// As the standard library reads them.
        #[test]
        fn addresses_are_read_as_they_are_written(
            text in "[0-9a-f:]{0,40}|([0-9a-f]{0,5}:){0,8}[0-9a-f]{0,4}|[0-9.]{0,16}",
            octets: u128,
            zeros in 0..128_u32,
        ) {
            let sparse = Ipv6Addr::from(octets & (u128::MAX << zeros) & !(0xffff << (zeros / 2)));
            for text in [text, sparse.to_string()] {
                let behind = format!("{text}]:1");
                let read = ipv6(behind.as_bytes(), b"]:").map(|(address, _)| address);
                prop_assert_eq!(read, text.parse().ok(), "{}", text);
                let read = ipv4(text.as_bytes()).filter(|(_, rest)| rest.is_empty());
                prop_assert_eq!(read.map(|(address, _)| address), text.parse().ok(), "{}", text);
            }
        }

        /// One after another, as each of them alone.
        #[test]
        fn the_last_line_does_not_change_the_next(
            lines in prop::collection::vec((0..90_u64, any::<bool>()), 1..20),
        ) {
            let mut reader = LineReader::default();
            for (seconds, broken) in lines {
                let at = Timestamp::from_micros(1_552_912_245_500_000 + 700_000 * seconds);
                let line = format!("{at} Initialized 192.0.2.7{}", if broken { "x" } else { "" });
                prop_assert_eq!(reader.read(line.as_bytes()), LoggedLine::parse(&line));
                prop_assert_eq!(LoggedLine::parse(&line).map(|line| line.at), (!broken).then_some(at));
            }
        }
    }

    #[test]
    fn other_lines_are_none() {
        let line = "2019-03-18 10:06:28.491727 Created 192.0.2.7:3719 [2001:db8::17]:53186";
        assert!(LoggedLine::parse(line).is_some());
        for other in [
            "",
            "2019-03-18 10:06:28.491727",
            "2019-03-18 10:06:28.491727 Created 192.0.2.7:3719",
            "2019-03-18 10:06:28.491727 Created 192.0.2.7 [2001:db8::17]:53186",
            "2019-03-18 10:06:28.491727 Created 192.0.2.7:3719 [2001:db8::17]:531860",
            "2019-03-18 10:06:28.491727 Renamed 192.0.2.7:3719 [2001:db8::17]:53186",
            "2019-03-18 10:06:28.491727 Initialized 192.0.2.256",
            "2019-13-18 10:06:28.491727 Initialized 192.0.2.7",
            "2019-03-18 10:06:28.49172x Initialized 192.0.2.7",
            "2019-03-18 10:06:28.491727 Initialized 192.0.2.07",
            "2019-03-18 10:06:28.491727 Initialized 192.0.2.7 ",
            "2019-03-18 10:06:28.491727 Initialized 192.0.2.7 via 64:ff9b::/96",
            "2019-03-18 10:06:28.491727 Created 192.0.2.7:3719 [2001:db8:17]:53186",
            "2019-03-18 10:06:28.491727 Named 100.64.0.7",
            "2019-03-18 10:06:28.491727 Named 100.64.0.7 2001:db8::17",
            "2019-03-18 10:06:28.491727 Named 100.64.0.7 [2001:db8::17",
            "2019-03-18 10:06:28.491727 Named 100.64.0.7 [2001:db8::17]:1",
            "2019-03-18 10:06:28.491727 Named 100.64.0.7 [2001:db8::17/128]",
            "2019-03-18 10:06:28.491727 Named 100.64.0.7 [2001:db8::17/64]",
            "2019-03-18 10:06:28.491727 Named 100.64.0.7 [2001:db8::/640]",
            "2019-03-18 10:06:28.491727 Named 100.64.0.7 [2001:db8::/6x]",
            "2019-03-18 10:06:28.491727 Named 100.64.0.7:1 [2001:db8::17]",
            "2019-03-18 10:06:28.491727 Named 100.64.0.7 [2001:db8::17] to 203.0.113.5",
            "2019-03-18 10:06:28.491727 Initialized 100.64.0.7 [2001:db8::17]",
            r#"{"at":"2019-03-18T10:06:28.491727Z","event":"Named","nat64":"100.64.0.7"}"#,
            r#"{"at":"2019-03-18T10:06:28.491727Z","event":"Named","pool":"100.64.0.7"}"#,
            r#"{"at":"2019-03-18T10:06:28.491727Z","event":"Created","pool":"100.64.0.7","client":"::1"}"#,
            &format!("{line} to"),
            &format!("{line} via 64:ff9b::"),
        ] {
            assert_eq!(LoggedLine::parse(other), None, "{other}");
        }
    }
}
