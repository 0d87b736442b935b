//! The text of a line of the event log, and of the times and addresses in it (PROTOCOL.md section
//! 8).
//!
//! By hand, as the log has a line for each new entry: the formatting machinery of the standard
//! library takes longer for one than all else that the log does with it. Tests compare with that.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, UNIX_EPOCH};

use ipnet::Ipv6Net;

use crate::handoff::change::{Event, EventKind, LogFormat, Timestamp};
use crate::handoff::logged::LoggedLine;
use crate::handoff::shown::shown;
use crate::ip::address::Prefix96;

/// The most octets of a line, without its line feed: one of [`LogFormat::Json`], with two addresses
/// of IPv4, one of IPv6, and a prefix.
pub const LINE_MAX: usize = r#"{"at":"2019-03-18T10:06:28.491727Z","event":"Conflict","#.len()
    + r#""nat64":"","port":65535,"client":"","client_port":65535,"to":"","prefix":"/96"}"#.len()
    + 2 * "255.255.255.255".len()
    + "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".len()
    + "ffff:ffff:ffff:ffff:ffff:ffff::".len();

/// `2019-03-18 10:06:28`
const SECOND_LENGTH: usize = 19;
/// `2019-03-18`
const DATE_LENGTH: usize = 10;
const MICROS: u64 = 1_000_000;

/// Writes lines. Knows how the last second is written, as the next line is mostly of the same.
#[derive(Debug, Clone, Default)]
pub struct LineWriter {
    /// Since 1970.
    second: Option<u64>,
    date: [u8; SECOND_LENGTH],
}

impl LineWriter {
    /// Appends the line of `event`, without a line feed.
    pub fn append(&mut self, out: &mut String, event: &Event, format: LogFormat) {
        let mut text = Text::default();
        self.event(&mut text, event, format);
        out.push_str(text.as_str());
    }

    /// Appends a line that was read, in this format, as far as it tells.
    pub fn append_again(&mut self, out: &mut String, line: &LoggedLine, format: LogFormat) {
        let mut text = Text::default();
        self.again(&mut text, line, format);
        out.push_str(text.as_str());
    }

    /// Apart from [`LineWriter::again`], as there is one for each new entry: to make a line of the
    /// event first would take a tenth longer.
    fn event(&mut self, text: &mut Text, event: &Event, format: LogFormat) {
        if format == LogFormat::Json {
            return self.json(text, &LoggedLine::from(event));
        }
        self.time(text, event.at, b' ');
        let (name, entry) = match &event.kind {
            EventKind::Initialized => (" Initialized ", None),
            EventKind::Forgotten => (" Forgotten ", None),
            EventKind::Created { port, client } => (" Created ", Some((port, client))),
            EventKind::Deleted { port, client } => (" Deleted ", Some((port, client))),
            EventKind::Conflict { port, client } => (" Conflict ", Some((port, client))),
            EventKind::Named { address, client } => {
                text.push(b" Named ");
                return text.name(*address, *client);
            }
            EventKind::Unnamed { address, client } => {
                text.push(b" Unnamed ");
                return text.name(*address, *client);
            }
        };
        text.push(name.as_bytes());
        text.ipv4(event.table.nat64);
        if let Some((port, client)) = entry {
            text.entry(port.0, client.address, client.port);
        }
        if format == LogFormat::Full {
            text.push(b" to ");
            text.ipv4(event.table.local);
            if let Some((_, client)) = entry {
                text.push(b" via ");
                text.prefix(client.prefix);
            }
        }
    }

    fn again(&mut self, text: &mut Text, line: &LoggedLine, format: LogFormat) {
        if format == LogFormat::Json {
            return self.json(text, line);
        }
        self.time(text, line.at, b' ');
        text.octet(b' ');
        text.push(line.kind.name().as_bytes());
        text.octet(b' ');
        if let Some(client) = line.named() {
            return text.name(line.nat64, client);
        }
        text.ipv4(line.nat64);
        if let Some(entry) = line.entry() {
            text.entry(entry.port, entry.client, entry.client_port);
        }
        if format == LogFormat::Plain {
            return;
        }
        if let Some(local) = line.local {
            text.push(b" to ");
            text.ipv4(local);
        }
        if let Some(prefix) = line.entry().and_then(|entry| entry.prefix) {
            text.push(b" via ");
            text.prefix(prefix);
        }
    }

    fn json(&mut self, text: &mut Text, line: &LoggedLine) {
        text.push(br#"{"at":""#);
        self.time(text, line.at, b'T');
        text.push(br#"Z","event":""#);
        text.push(line.kind.name().as_bytes());
        if let Some(client) = line.named() {
            text.push(br#"","pool":""#);
            text.ipv4(line.nat64);
            text.push(br#"","client":""#);
            text.net(client);
            return text.push(b"\"}");
        }
        text.push(br#"","nat64":""#);
        text.ipv4(line.nat64);
        text.octet(b'"');
        if let Some(entry) = line.entry() {
            text.push(br#","port":"#);
            text.decimal(entry.port);
            text.push(br#","client":""#);
            text.ipv6(entry.client);
            text.push(br#"","client_port":"#);
            text.decimal(entry.client_port);
        }
        if let Some(local) = line.local {
            text.push(br#","to":""#);
            text.ipv4(local);
            text.octet(b'"');
        }
        if let Some(prefix) = line.entry().and_then(|entry| entry.prefix) {
            text.push(br#","prefix":""#);
            text.prefix(prefix);
            text.octet(b'"');
        }
        text.octet(b'}');
    }

    /// `between` stands between date and time of day.
    fn time(&mut self, text: &mut Text, at: Timestamp, between: u8) {
        let second = at.as_micros() / MICROS;
        if self.second != Some(second) {
            self.second = Some(second);
            self.date = date(second);
        }
        self.date[DATE_LENGTH] = between;
        text.push(&self.date);
        text.octet(b'.');
        // Below a million.
        let micros = (at.as_micros() % MICROS) as u32;
        for unit in [100_000, 10_000, 1_000, 100, 10, 1] {
            text.octet(b'0' + (micros / unit % 10) as u8);
        }
    }
}

/// RFC 3339 has `T` between date and time and `Z` at the end; the log has a space and nothing.
fn date(second: u64) -> [u8; SECOND_LENGTH] {
    let time = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(second));
    let mut text = Text::default();
    // A time up to `Timestamp::MAX` can be written, and is shorter than a line.
    let _ = fmt::Write::write_fmt(&mut text, format_args!("{time}"));
    let mut date = [0; SECOND_LENGTH];
    date.copy_from_slice(&text.octets[..SECOND_LENGTH]);
    date
}

/// `2019-03-18 10:06:28.491727`
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Text::default();
        LineWriter::default().time(&mut text, *self, b' ');
        f.write_str(text.as_str())
    }
}

/// Appends an address as the log has it.
pub fn ipv6(out: &mut Vec<u8>, address: Ipv6Addr) {
    let mut text = Text::default();
    text.ipv6(address);
    out.extend_from_slice(text.as_str().as_bytes());
}

impl Timestamp {
    /// `2019-03-18T10:06:28.491727Z`
    pub fn rfc3339(self) -> String {
        self.to_string().replace(' ', "T") + "Z"
    }
}

impl Event {
    /// The line, without its line feed. For many of them there is [`LineWriter`].
    pub fn line(&self, format: LogFormat) -> impl fmt::Display + '_ {
        shown(move |f| {
            let mut text = Text::default();
            LineWriter::default().event(&mut text, self, format);
            f.write_str(text.as_str())
        })
    }
}

impl LoggedLine {
    /// The line in this format, as far as it tells, without a line feed. For many of them there is
    /// [`LineWriter`].
    pub fn line(&self, format: LogFormat) -> impl fmt::Display + '_ {
        shown(move |f| {
            let mut text = Text::default();
            LineWriter::default().again(&mut text, self, format);
            f.write_str(text.as_str())
        })
    }
}

/// A line on the stack, so that writing one allocates nothing. ASCII alone.
struct Text {
    /// A hexadecimal number is written with four digits even where it has one.
    octets: [u8; LINE_MAX + 3],
    length: usize,
}

impl Default for Text {
    fn default() -> Self {
        Self { octets: [0; LINE_MAX + 3], length: 0 }
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if text.len() > LINE_MAX - self.length {
            return Err(fmt::Error);
        }
        self.push(text.as_bytes());
        Ok(())
    }
}

impl Text {
    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.octets[..self.length]).unwrap_or_default()
    }

    fn octet(&mut self, octet: u8) {
        self.octets[self.length] = octet;
        self.length += 1;
    }

    fn push(&mut self, octets: &[u8]) {
        self.octets[self.length..self.length + octets.len()].copy_from_slice(octets);
        self.length += octets.len();
    }

    fn decimal(&mut self, number: u16) {
        let digits = 1 + [10, 100, 1_000, 10_000].iter().filter(|&&least| number >= least).count();
        let mut rest = number;
        for at in (self.length..self.length + digits).rev() {
            self.octets[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        self.length += digits;
    }

    /// All four digits at once, each in an octet of a word, the first in the lowest; those that are
    /// not wanted are shifted out, or overwritten by what comes next.
    fn hexadecimal(&mut self, number: u16) {
        let digits = (u16::BITS - number.leading_zeros()).div_ceil(4).max(1);
        let number = u32::from(number) << (4 * (4 - digits));
        let word =
            number >> 12 & 0xf | number & 0xf00 | (number & 0xf0) << 12 | (number & 0xf) << 24;
        let is_letter = (word + 0x0606_0606) >> 4 & 0x0101_0101;
        let letters = is_letter * u32::from(b'a' - b'9' - 1);
        let octets = word + 0x3030_3030 + letters;
        self.octets[self.length..self.length + 4].copy_from_slice(&octets.to_le_bytes());
        self.length += digits as usize;
    }

    fn ipv4(&mut self, address: Ipv4Addr) {
        let [first, rest @ ..] = address.octets();
        self.decimal(first.into());
        for octet in rest {
            self.octet(b'.');
            self.decimal(octet.into());
        }
    }

    /// As RFC 5952 says: lower case, no leading zeros, the first of the longest runs of at least
    /// two zero groups left out, and addresses that are known to have an IPv4 address in them with
    /// that.
    fn ipv6(&mut self, address: Ipv6Addr) {
        if let Some(mapped) = address.to_ipv4_mapped() {
            self.push(b"::ffff:");
            return self.ipv4(mapped);
        }
        let groups = address.segments();
        let (mut left_out, mut run) = (0..0, 0..0);
        for (index, &group) in groups.iter().enumerate() {
            if group != 0 {
                run = index + 1..index + 1;
                continue;
            }
            run.end = index + 1;
            if run.len() > left_out.len() {
                left_out = run.clone();
            }
        }
        if left_out.len() < 2 {
            return self.groups(&groups);
        }
        self.groups(&groups[..left_out.start]);
        self.push(b"::");
        self.groups(&groups[left_out.end..]);
    }

    /// `:3719 [2001:db8::17]:53186`
    fn entry(&mut self, port: u16, client: Ipv6Addr, client_port: u16) {
        self.octet(b':');
        self.decimal(port);
        self.push(b" [");
        self.ipv6(client);
        self.push(b"]:");
        self.decimal(client_port);
    }

    /// `100.64.0.7 [2001:db8::17]`
    fn name(&mut self, address: Ipv4Addr, client: Ipv6Net) {
        self.ipv4(address);
        self.push(b" [");
        self.net(client);
        self.octet(b']');
    }

    /// `2001:db8::17`, or `2001:db8:0:1::/64` where it is more than one address.
    fn net(&mut self, net: Ipv6Net) {
        self.ipv6(net.addr());
        if net.prefix_len() < net.max_prefix_len() {
            self.octet(b'/');
            self.decimal(net.prefix_len().into());
        }
    }

    fn prefix(&mut self, prefix: Prefix96) {
        let mut octets = [0; 16];
        octets[..12].copy_from_slice(&prefix.0);
        self.ipv6(Ipv6Addr::from(octets));
        self.push(b"/96");
    }

    fn groups(&mut self, groups: &[u16]) {
        for (index, &group) in groups.iter().enumerate() {
            if index > 0 {
                self.octet(b':');
            }
            self.hexadecimal(group);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::handoff::entry::TableKey;
    use crate::handoff::entry::{Client, MappedPort};
    use crate::ip::address::Prefix96;

    fn event(kind: EventKind) -> Event {
        Event {
            at: Timestamp::from_micros(1_552_903_588_491_727),
            table: TableKey {
                local: Ipv4Addr::new(203, 0, 113, 5),
                nat64: Ipv4Addr::new(192, 0, 2, 7),
            },
            kind,
        }
    }

    fn client() -> Client {
        Client {
            prefix: Prefix96([0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0]),
            address: "2001:db8::17".parse().unwrap(),
            port: 53186,
        }
    }

    #[test]
    fn section_8_lines() {
        let line = event(EventKind::Initialized).line(LogFormat::Plain).to_string();
        assert_eq!(line, "2019-03-18 10:06:28.491727 Initialized 192.0.2.7");
        let line = event(EventKind::Forgotten).line(LogFormat::Plain).to_string();
        assert_eq!(line, "2019-03-18 10:06:28.491727 Forgotten 192.0.2.7");
        let entry = |kind| event(kind).line(LogFormat::Plain).to_string();
        let (port, client) = (MappedPort(3719), client());
        assert_eq!(
            entry(EventKind::Created { port, client }),
            "2019-03-18 10:06:28.491727 Created 192.0.2.7:3719 [2001:db8::17]:53186"
        );
        assert_eq!(
            entry(EventKind::Deleted { port, client }),
            "2019-03-18 10:06:28.491727 Deleted 192.0.2.7:3719 [2001:db8::17]:53186"
        );
        assert_eq!(
            entry(EventKind::Conflict { port, client }),
            "2019-03-18 10:06:28.491727 Conflict 192.0.2.7:3719 [2001:db8::17]:53186"
        );
    }

    #[test]
    fn section_8_full_lines() {
        let created = event(EventKind::Created { port: MappedPort(3719), client: client() });
        assert_eq!(
            created.line(LogFormat::Full).to_string(),
            "2019-03-18 10:06:28.491727 Created 192.0.2.7:3719 [2001:db8::17]:53186 to 203.0.113.5 via 64:ff9b::/96"
        );
        assert_eq!(
            event(EventKind::Initialized).line(LogFormat::Full).to_string(),
            "2019-03-18 10:06:28.491727 Initialized 192.0.2.7 to 203.0.113.5"
        );
        assert_eq!(
            event(EventKind::Forgotten).line(LogFormat::Full).to_string(),
            "2019-03-18 10:06:28.491727 Forgotten 192.0.2.7 to 203.0.113.5"
        );
    }

    #[test]
    fn section_8_json_lines() {
        let created = event(EventKind::Created { port: MappedPort(3719), client: client() });
        assert_eq!(
            created.line(LogFormat::Json).to_string(),
            r#"{"at":"2019-03-18T10:06:28.491727Z","event":"Created","nat64":"192.0.2.7","port":3719,"client":"2001:db8::17","client_port":53186,"to":"203.0.113.5","prefix":"64:ff9b::/96"}"#
        );
        assert_eq!(
            event(EventKind::Initialized).line(LogFormat::Json).to_string(),
            r#"{"at":"2019-03-18T10:06:28.491727Z","event":"Initialized","nat64":"192.0.2.7","to":"203.0.113.5"}"#
        );
        // What a line does not tell is left out.
        let plain = created.line(LogFormat::Plain).to_string();
        assert_eq!(
            LoggedLine::parse(&plain).unwrap().line(LogFormat::Json).to_string(),
            r#"{"at":"2019-03-18T10:06:28.491727Z","event":"Created","nat64":"192.0.2.7","port":3719,"client":"2001:db8::17","client_port":53186}"#
        );
    }

    #[test]
    fn lines_of_names_in_every_format() {
        let time = "2019-03-18 10:06:28.491727";
        let at = r#"{"at":"2019-03-18T10:06:28.491727Z","event":"#;
        for (client, text) in
            [("2001:db8::17/128", "2001:db8::17"), ("2001:db8:0:1::/64", "2001:db8:0:1::/64")]
        {
            let (address, client) = (Ipv4Addr::new(100, 64, 0, 7), client.parse().unwrap());
            let table = TableKey::block_of(address);
            for (kind, name) in [
                (EventKind::Named { address, client }, "Named"),
                (EventKind::Unnamed { address, client }, "Unnamed"),
            ] {
                let event = Event { table, ..event(kind) };
                let plain = format!("{time} {name} 100.64.0.7 [{text}]");
                let json = format!(r#"{at}"{name}","pool":"100.64.0.7","client":"{text}"}}"#);
                let formats = [LogFormat::Plain, LogFormat::Full, LogFormat::Json];
                for (format, expected) in formats.into_iter().zip([&plain, &plain, &json]) {
                    assert_eq!(event.line(format).to_string(), *expected);
                    let read = LoggedLine::parse(expected).unwrap();
                    assert_eq!(read, LoggedLine::from(&event));
                    assert_eq!(read.line(format).to_string(), *expected);
                }
            }
        }
    }

    #[test]
    fn section_8_addresses_as_rfc_5952_says() {
        for (text, expected) in [
            ("2001:DB8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),
            ("2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"),
            ("64:ff9b::c000:201", "64:ff9b::c000:201"),
        ] {
            let mut client = client();
            client.address = text.parse().unwrap();
            let line = event(EventKind::Created { port: MappedPort(1), client })
                .line(LogFormat::Plain)
                .to_string();
            assert!(line.contains(&format!("[{expected}]")), "{line}");
        }
    }

    #[test]
    fn times_at_the_edges() {
        assert_eq!(Timestamp::from_micros(0).to_string(), "1970-01-01 00:00:00.000000");
        assert_eq!(Timestamp::from_micros(u64::MAX).to_string(), "9999-12-31 23:59:59.999999");
    }

    /// Groups of which many are zero or small, as in addresses.
    fn address() -> impl Strategy<Value = Ipv6Addr> {
        let group = prop_oneof![4 => Just(0), 1 => 0..=0xff_u16, 1 => any::<u16>()];
        prop_oneof![
            4 => proptest::array::uniform8(group).prop_map(Ipv6Addr::from),
            1 => any::<u32>().prop_map(|v4| Ipv4Addr::from(v4).to_ipv6_mapped()),
            1 => any::<u32>().prop_map(|v4| Ipv6Addr::from_bits(v4.into())),
        ]
    }

    fn written(write: impl FnOnce(&mut Text)) -> String {
        let mut text = Text::default();
        write(&mut text);
        text.as_str().to_owned()
    }

    #[test]
    fn every_number_in_both_notations() {
        for number in 0..=u16::MAX {
            assert_eq!(written(|text| text.decimal(number)), number.to_string());
            assert_eq!(written(|text| text.hexadecimal(number)), format!("{number:x}"));
        }
    }

    /// All that leave zeros out in another way.
    #[test]
    fn every_pattern_of_zero_groups() {
        for pattern in 0_u32..1 << 8 {
            let groups = std::array::from_fn(|i| (pattern >> i & 1) as u16 * 0xab0);
            let address = Ipv6Addr::from(groups);
            assert_eq!(written(|text| text.ipv6(address)), address.to_string());
        }
    }

    #[test]
    fn the_longest_line_fits() {
        let prefix = Prefix96([0xff; 12]);
        let client = Client { prefix, address: Ipv6Addr::from([0xff; 16]), port: u16::MAX };
        let table = TableKey { local: Ipv4Addr::BROADCAST, nat64: Ipv4Addr::BROADCAST };
        let kind = EventKind::Conflict { port: MappedPort(u16::MAX), client };
        let line = Event { at: Timestamp::MAX, table, kind }.line(LogFormat::Json).to_string();
        assert_eq!(line.len(), LINE_MAX, "{line}");
    }

    proptest! {
        #[test]
        fn addresses_as_the_standard_library_writes_them(v6 in address(), v4: u32) {
            prop_assert_eq!(written(|text| text.ipv6(v6)), v6.to_string());
            let v4 = Ipv4Addr::from(v4);
            prop_assert_eq!(written(|text| text.ipv4(v4)), v4.to_string());
        }

        #[test]
        fn times_as_humantime_writes_them(micros in 0..=Timestamp::MAX.as_micros()) {
            let time = UNIX_EPOCH + Duration::from_micros(micros);
            let expected = humantime::format_rfc3339_micros(time).to_string();
            let expected = expected.replace('T', " ").replace('Z', "");
            prop_assert_eq!(Timestamp::from_micros(micros).to_string(), expected);
        }

        /// Times that stand still, go on and go back.
        #[test]
        fn lines_one_after_another_are_as_each_alone(
            events in proptest::collection::vec((0_u64..5_000_000, address(), any::<[u16; 2]>()), 1..20),
        ) {
            let mut writer = LineWriter::default();
            for (micros, address, [port, client_port]) in events {
                let prefix = Prefix96([0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0]);
                let client = Client { prefix, address, port: client_port };
                let nat64 = Ipv4Addr::new(192, 0, 2, 7);
                let local = Ipv4Addr::new(203, 0, 113, 5);
                let at = Timestamp::from_micros(1_552_903_588_491_727 + micros);
                let kind = EventKind::Created { port: MappedPort(port), client };
                let event = Event { at, table: TableKey { local, nat64 }, kind };
                let expected = format!(
                    "{at} Created {nat64}:{port} [{address}]:{client_port} to {local} via {prefix}"
                );
                let json = event.line(LogFormat::Json).to_string();
                let mut line = String::new();
                writer.append(&mut line, &event, LogFormat::Json);
                prop_assert_eq!(&line, &json);
                let mut line = String::from("> ");
                writer.append(&mut line, &event, LogFormat::Full);
                prop_assert_eq!(&line, &format!("> {expected}"));
                prop_assert_eq!(event.line(LogFormat::Full).to_string(), expected);
            }
        }
    }
}
