//! The times in which addresses of the pool stood for clients, from the lines of the event log.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv6Net;

use crate::handoff::change::Timestamp;
use crate::handoff::logged::{LoggedKind, LoggedLine};

/// An address of the pool stood for a client for a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Naming {
    /// The address of the pool.
    pub pool: Ipv4Addr,
    /// Of one address, or all of a network.
    pub client: Ipv6Net,
    /// None: since before the log begins.
    pub from: Option<Timestamp>,
    /// Not any more at that time. None: still.
    pub until: Option<Timestamp>,
    /// Perhaps only until then: lines of the log are missing from then on.
    pub perhaps_until: Option<Timestamp>,
}

impl Naming {
    fn over(self, at: Timestamp) -> Self {
        Self { until: Some(at), ..self }
    }

    /// From then on, it is in doubt.
    pub fn doubt(&mut self, at: Timestamp) {
        self.perhaps_until.get_or_insert(at);
    }

    /// In which order they are told: as they began and, of one time and address, as they ended.
    pub fn order(&self, other: &Self) -> Ordering {
        let key = |name: &Self| (name.from, name.pool, name.until.is_none(), name.until);
        key(self).cmp(&key(other)).then_with(|| self.client.cmp(&other.client))
    }
}

/// Those of some addresses.
#[derive(Debug, Default)]
pub struct Namings {
    ended: Vec<Naming>,
    /// An address stands for one client.
    open: BTreeMap<Ipv4Addr, Naming>,
}

impl Namings {
    /// Goes on with those that there were before the first line.
    pub fn continued(open: impl IntoIterator<Item = Naming>) -> Self {
        let open = open.into_iter().map(|name| (name.pool, name)).collect();
        Self { ended: Vec::new(), open }
    }

    /// The next line of the log. Those about NAT64s say nothing.
    pub fn take(&mut self, line: &LoggedLine) {
        match line.kind {
            LoggedKind::Named(client) => self.named(line.nat64, client, line.at),
            LoggedKind::Unnamed(client) => self.unnamed(line.nat64, client, line.at),
            _ => {}
        }
    }

    fn named(&mut self, pool: Ipv4Addr, client: Ipv6Net, at: Timestamp) {
        let before = self.open.get(&pool);
        // A line that stands there twice says nothing new.
        if before.is_some_and(|name| name.client == client && name.perhaps_until.is_none()) {
            return;
        }
        let name = Naming { pool, client, from: Some(at), until: None, perhaps_until: None };
        let before = self.open.insert(pool, name);
        self.ended.extend(before.map(|name| name.over(at)));
    }

    fn unnamed(&mut self, pool: Ipv4Addr, client: Ipv6Net, at: Timestamp) {
        let unknown = Naming { pool, client, from: None, until: None, perhaps_until: None };
        let ended = match self.open.remove(&pool) {
            // It was so all the time.
            Some(name) if name.client == client => Naming { perhaps_until: None, ..name },
            Some(other) => {
                self.ended.push(other.over(at));
                unknown
            }
            None => unknown,
        };
        self.ended.push(ended.over(at));
    }

    /// In the order in which they began.
    pub fn into_all(self) -> Vec<Naming> {
        let mut all = self.ended;
        all.extend(self.open.into_values());
        all.sort_by(Naming::order);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Client, from, until, perhaps until, as minutes of an hour.
    type Told = (String, Option<u64>, Option<u64>, Option<u64>);

    fn told(open: Option<Naming>, lines: &[&str]) -> Vec<Told> {
        let mut namings = Namings::continued(open);
        for line in lines {
            let (minute, rest) = line.split_once(' ').unwrap();
            let line = format!("2019-03-18 10:{minute}:00.000000 {rest}");
            namings.take(&LoggedLine::parse(&line).unwrap());
        }
        let minute = |at: Option<Timestamp>| at.map(|at| at.as_micros() / 60_000_000 % 60);
        let all = namings.into_all().into_iter().map(|name| {
            let client = name.client.addr().to_string();
            (client, minute(name.from), minute(name.until), minute(name.perhaps_until))
        });
        all.collect()
    }

    fn of(last: u8, from: Option<u64>, until: Option<u64>, perhaps: Option<u64>) -> Told {
        (format!("2001:db8::{last:x}"), from, until, perhaps)
    }

    #[test]
    fn from_named_until_unnamed() {
        let lines = [
            "01 Initialized 192.0.2.7",
            "02 Named 100.64.0.7 [2001:db8::1]",
            // Twice.
            "03 Named 100.64.0.7 [2001:db8::1]",
            "04 Named 100.64.0.8 [2001:db8::2]",
            "05 Unnamed 100.64.0.7 [2001:db8::1]",
            "05 Named 100.64.0.7 [2001:db8::3]",
            // The line between is missing.
            "06 Named 100.64.0.7 [2001:db8::4]",
            "07 Unnamed 100.64.0.9 [2001:db8::5]",
        ];
        let expected = [
            of(5, None, Some(7), None),
            of(1, Some(2), Some(5), None),
            of(2, Some(4), None, None),
            of(3, Some(5), Some(6), None),
            of(4, Some(6), None, None),
        ];
        assert_eq!(told(None, &lines), expected);
        assert_eq!(told(None, &[]), []);
    }

    #[test]
    fn what_lines_are_missing_about_is_in_doubt() {
        let minute =
            |minute: u64| Timestamp::from_micros(1_552_903_200_000_000 + minute * 60_000_000);
        let open = |perhaps: Option<u64>| Naming {
            pool: Ipv4Addr::new(100, 64, 0, 7),
            client: "2001:db8::1/128".parse().unwrap(),
            from: Some(minute(1)),
            until: None,
            perhaps_until: perhaps.map(minute),
        };
        let mut doubtful = open(None);
        doubtful.doubt(minute(2));
        doubtful.doubt(minute(3));
        assert_eq!(doubtful, open(Some(2)));
        let with = |line: &str| told(Some(doubtful), &[line]);
        assert_eq!(
            with("05 Unnamed 100.64.0.7 [2001:db8::1]"),
            [of(1, Some(1), Some(5), None)],
            "it was so all the time"
        );
        assert_eq!(
            with("05 Named 100.64.0.7 [2001:db8::1]"),
            [of(1, Some(1), Some(5), Some(2)), of(1, Some(5), None, None)]
        );
        assert_eq!(
            with("05 Unnamed 100.64.0.7 [2001:db8::2]"),
            [of(2, None, Some(5), None), of(1, Some(1), Some(5), Some(2))]
        );
    }
}
