//! A line of the event log, read again (PROTOCOL.md section 8): the counterpart of `line`.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::UNIX_EPOCH;

use crate::handoff::change::Timestamp;
use crate::ip::address::Prefix96;

/// `2019-03-18 10:06:28.491727`
const TIME_LENGTH: usize = 26;

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedLine {
    pub at: Timestamp,
    pub kind: LoggedKind,
    pub nat64: Ipv4Addr,
    /// The server's address, where the log was written with `--log-format full`.
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
}

/// An entry, as far as a line tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoggedEntry {
    /// That of the NAT64.
    pub port: u16,
    pub client: Ipv6Addr,
    pub client_port: u16,
    /// Where the log was written with `--log-format full`.
    pub prefix: Option<Prefix96>,
}

impl LoggedLine {
    /// The entry that it is about.
    pub fn entry(&self) -> Option<&LoggedEntry> {
        match &self.kind {
            LoggedKind::Initialized | LoggedKind::Forgotten => None,
            LoggedKind::Created(entry)
            | LoggedKind::Deleted(entry)
            | LoggedKind::Conflict(entry) => Some(entry),
        }
    }

    /// None where it is no line of the event log. Lines of the original server are.
    pub fn parse(line: &str) -> Option<Self> {
        let (at, (_, rest)) = (time_of(line)?, split_time(line)?);
        let mut words = rest.split(' ');
        let (kind, place) = (words.next()?, words.next()?);
        let mut entry = match kind {
            "Initialized" | "Forgotten" => None,
            _ => Some(entry(place, words.next()?)?),
        };
        let nat64 = place.split(':').next()?.parse().ok()?;
        let mut local = None;
        while let Some(word) = words.next() {
            let value = words.next()?;
            match (word, &mut entry) {
                ("to", _) => local = Some(value.parse().ok()?),
                ("via", Some(entry)) => entry.prefix = Some(prefix(value)?),
                _ => return None,
            }
        }
        let kind = match (kind, entry) {
            ("Initialized", None) => LoggedKind::Initialized,
            ("Forgotten", None) => LoggedKind::Forgotten,
            ("Created", Some(entry)) => LoggedKind::Created(entry),
            ("Deleted", Some(entry)) => LoggedKind::Deleted(entry),
            ("Conflict", Some(entry)) => LoggedKind::Conflict(entry),
            _ => return None,
        };
        Some(Self { at, kind, nat64, local })
    }
}

/// The time of a line, and what stands behind it.
pub fn split_time(line: &str) -> Option<(&str, &str)> {
    let (time, rest) = (line.get(..TIME_LENGTH)?, line.get(TIME_LENGTH..)?);
    let shaped = time
        .bytes()
        .zip("0000-00-00 00:00:00.000000".bytes())
        .all(|(octet, shape)| if shape == b'0' { octet.is_ascii_digit() } else { octet == shape });
    Some((time, rest.strip_prefix(' ')?)).filter(|_| shaped)
}

/// The time of a line, if it begins with one.
pub fn time_of(line: &str) -> Option<Timestamp> {
    let (time, _) = split_time(line)?;
    let at = humantime::parse_rfc3339_weak(time).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(Timestamp::from_micros(u64::try_from(at.as_micros()).ok()?))
}

/// `192.0.2.7:3719 [2001:db8::17]:53186`
fn entry(place: &str, client: &str) -> Option<LoggedEntry> {
    let (_, port) = place.split_once(':')?;
    let (address, client_port) = client.strip_prefix('[')?.split_once("]:")?;
    Some(LoggedEntry {
        port: port.parse().ok()?,
        client: address.parse().ok()?,
        client_port: client_port.parse().ok()?,
        prefix: None,
    })
}

/// `64:ff9b::/96`
fn prefix(text: &str) -> Option<Prefix96> {
    let address: Ipv6Addr = text.strip_suffix("/96")?.parse().ok()?;
    address.octets().first_chunk().copied().map(Prefix96)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::handoff::change::{Event, EventKind, LogFormat};
    use crate::handoff::entry::{Client, MappedPort, TableKey};

    proptest! {
        /// What the server writes is read as what it was.
        #[test]
        fn section_8_lines_are_read_as_they_were_written(
            (micros, nat64, local) in (0..4_000_000_000_000_000_u64, any::<u32>(), any::<u32>()),
            (kind, port, client, client_port) in (0..5, any::<u16>(), any::<u128>(), any::<u16>()),
            prefix: [u8; 12],
            full: bool,
        ) {
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
                _ => EventKind::Conflict { port, client },
            };
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
                },
                nat64,
                local: full.then_some(local),
            };
            let format = if full { LogFormat::Full } else { LogFormat::Plain };
            let line = Event { at, table: TableKey { local, nat64 }, kind }.line(format).to_string();
            prop_assert_eq!(LoggedLine::parse(&line), Some(expected));
        }

        #[test]
        fn no_line_makes_it_panic(line: String) {
            let _ = LoggedLine::parse(&line);
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
            &format!("{line} to"),
            &format!("{line} via 64:ff9b::"),
        ] {
            assert_eq!(LoggedLine::parse(other), None, "{other}");
        }
    }
}
