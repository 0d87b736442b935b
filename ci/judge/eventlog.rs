//! The event log, read strictly by the form that PROTOCOL section 8 gives.

use super::names::Names;
use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Initialized,
    Created,
    Deleted,
    Conflict,
    Forgotten,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// As written: `2019-03-18 10:06:28.436754`. Sorts by time.
    pub when: String,
    pub kind: Kind,
    pub nat64: Ipv4Addr,
    /// Mapped port, client address and port; none for `Initialized` and `Forgotten`.
    pub entry: Option<(u16, Ipv6Addr, u16)>,
    /// What follows the form that all lines have: ` to 203.0.113.5 via 64:ff9b::/96`, or nothing.
    pub full: String,
}

impl Event {
    pub fn parse(line: &str) -> Result<Event, String> {
        parse(line).ok_or_else(|| format!("not an event: {line:?}"))
    }

    /// Kind and entry, without time and NAT64.
    pub fn what(&self) -> (Kind, Option<(u16, Ipv6Addr, u16)>) {
        (self.kind, self.entry)
    }
}

fn parse(line: &str) -> Option<Event> {
    let mut words = line.splitn(4, ' ');
    let (date, time) = (words.next()?, words.next()?);
    let when = format!("{date} {time}");
    let form = "dddd-dd-dd dd:dd:dd.dddddd";
    let fits = |(have, form): (char, char)| match form {
        'd' => have.is_ascii_digit(),
        _ => have == form,
    };
    if when.len() != form.len() || !when.chars().zip(form.chars()).all(fits) {
        return None;
    }
    let kind = match words.next()? {
        "Initialized" => Kind::Initialized,
        "Created" => Kind::Created,
        "Deleted" => Kind::Deleted,
        "Conflict" => Kind::Conflict,
        "Forgotten" => Kind::Forgotten,
        _ => return None,
    };
    let rest = words.next()?;
    let (rest, full) = match rest.find(" to ") {
        Some(place) => rest.split_at(place),
        None => (rest, ""),
    };
    let (nat64, entry) = if matches!(kind, Kind::Initialized | Kind::Forgotten) {
        (rest, None)
    } else {
        let (left, right) = rest.split_once(' ')?;
        let (nat64, mapped) = left.split_once(':')?;
        let (address, port) = right.strip_prefix('[')?.split_once("]:")?;
        let entry = (decimal(mapped)?, rfc5952(address)?, decimal(port)?);
        (nat64, Some(entry))
    };
    let nat64: Ipv4Addr = nat64.parse().ok()?;
    full_is_right(full, kind).then_some(Event { when, kind, nat64, entry, full: full.into() })
}

/// Without sign or leading zeros.
fn decimal(text: &str) -> Option<u16> {
    let number: u16 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// The standard library prints as RFC 5952 says.
pub fn rfc5952(text: &str) -> Option<Ipv6Addr> {
    let address: Ipv6Addr = text.parse().ok()?;
    (address.to_string() == text).then_some(address)
}

fn full_is_right(full: &str, kind: Kind) -> bool {
    let Some(text) = full.strip_prefix(" to ") else {
        return full.is_empty();
    };
    match (kind, text.split_once(" via ")) {
        (Kind::Initialized | Kind::Forgotten, None) => text.parse::<Ipv4Addr>().is_ok(),
        (Kind::Initialized | Kind::Forgotten, Some(_)) | (_, None) => false,
        (_, Some((local, prefix))) => {
            let prefix = prefix.strip_suffix("/96").and_then(rfc5952);
            local.parse::<Ipv4Addr>().is_ok()
                && prefix.is_some_and(|prefix| prefix.octets()[12..] == [0; 4])
        }
    }
}

/// All lines of a log; a last line without its end is not read.
pub fn parse_all(text: &str) -> Vec<Event> {
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    // Of the pool of names, only that each line can stand where it stands.
    let mut names = Names::default();
    let mut is_of_pool = |line: &str| names.take(line).map(Result::unwrap).is_some();
    let lines = complete.lines().filter(|line| !is_of_pool(line));
    lines.map(|line| Event::parse(line).unwrap()).collect()
}

/// Replays a log from the beginning: `Initialized` first for each NAT64, and again only after a
/// `Forgotten`, which stands behind the `Deleted` of each entry; a `Created` only
/// on a free port and for a client that has none, a `Deleted` only of what stands there, times
/// never going back within one NAT64. The one-line form hides prefixes, so clients are checked by
/// port.
pub fn check_consistency(events: &[Event]) {
    let mut tables: HashMap<(Ipv4Addr, String), HashMap<u16, (Ipv6Addr, u16)>> = HashMap::new();
    let mut times: HashMap<Ipv4Addr, &str> = HashMap::new();
    for event in events {
        let local = event.full.split(" via ").next().unwrap_or_default().to_string();
        let last = times.entry(event.nat64).or_default();
        assert!(*last <= event.when.as_str(), "time goes back: {event:?}");
        *last = &event.when;
        let table = (event.nat64, local);
        let Some((mapped, address, port)) = event.entry else {
            if event.kind == Kind::Forgotten {
                let entries = tables.remove(&table);
                assert_eq!(entries, Some(HashMap::new()), "forgotten with entries: {event:?}");
                continue;
            }
            let again = tables.insert(table, HashMap::new());
            assert!(again.is_none(), "initialized twice: {event:?}");
            continue;
        };
        let entries = tables.get_mut(&table);
        let entries = entries.unwrap_or_else(|| panic!("before Initialized: {event:?}"));
        match event.kind {
            Kind::Created => {
                let old = entries.insert(mapped, (address, port));
                assert_eq!(old, None, "created over another: {event:?}");
            }
            Kind::Deleted => {
                let old = entries.remove(&mapped);
                assert_eq!(old, Some((address, port)), "deleted what was not: {event:?}");
            }
            Kind::Conflict | Kind::Initialized | Kind::Forgotten => {}
        }
    }
}

/// A time since 1970, as the log writes it.
pub fn stamp(seconds: u64, micros: u32) -> String {
    let leap =
        |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let (mut day, mut year) = (seconds / 86400, 1970);
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let mut month = 0;
    for length in [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        month += 1;
        if day < length {
            break;
        }
        day -= length;
    }
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let day = day + 1;
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{micros:06}")
}
