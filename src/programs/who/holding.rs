//! The times in which ports were clients', from the lines of the event log.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};

use crate::handoff::change::Timestamp;
use crate::handoff::logged::{LoggedEntry, LoggedKind, LoggedLine};
use crate::ip::address::Prefix96;

/// A port was a client's for a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// Address and port of the NAT64.
    pub nat64: SocketAddrV4,
    pub client: Ipv6Addr,
    pub client_port: u16,
    /// At which address of the server, and by which prefix, where the log says it.
    pub local: Option<Ipv4Addr>,
    pub prefix: Option<Prefix96>,
    /// None: since before the log begins.
    pub from: Option<Timestamp>,
    /// Not any more at that time. None: still.
    pub until: Option<Timestamp>,
    /// What the NAT64 reported against it.
    pub conflicts: Vec<Contradiction>,
}

/// A NAT64 said that a port was another client's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contradiction {
    pub at: Timestamp,
    pub client: Ipv6Addr,
    pub client_port: u16,
}

impl Holding {
    fn begun(line: &LoggedLine, entry: &LoggedEntry, from: Option<Timestamp>) -> Self {
        Self {
            nat64: SocketAddrV4::new(line.nat64, entry.port),
            client: entry.client,
            client_port: entry.client_port,
            local: line.local,
            prefix: entry.prefix,
            from,
            until: None,
            conflicts: Vec::new(),
        }
    }
}

/// Those of some ports, from all lines about these.
#[derive(Debug, Default)]
pub struct Holdings {
    ended: Vec<Holding>,
    /// By address and port of the NAT64, and address of the server: where the log does not say
    /// that, there may be several.
    open: HashMap<(SocketAddrV4, Option<Ipv4Addr>), Vec<Holding>>,
}

impl Holdings {
    /// `lines` in the order of the log.
    pub fn of(lines: impl Iterator<Item = LoggedLine>) -> Self {
        let mut holdings = Self::default();
        lines.for_each(|line| holdings.take(&line));
        holdings
    }

    /// In the order in which they began.
    pub fn into_all(self) -> Vec<Holding> {
        let open = self.open.into_values().flatten();
        let mut all: Vec<_> = self.ended.into_iter().chain(open).collect();
        all.sort_by_key(|holding| (holding.from, holding.nat64, holding.local));
        all
    }

    fn take(&mut self, line: &LoggedLine) {
        let Some(entry) = line.entry() else { return };
        let port = (SocketAddrV4::new(line.nat64, entry.port), line.local);
        let open = self.open.entry(port).or_default();
        let is_clients =
            |open: &Holding| (open.client, open.client_port) == (entry.client, entry.client_port);
        let place = open.iter().position(is_clients);
        match &line.kind {
            // A line that stands there twice says nothing new.
            LoggedKind::Created(_) if place.is_none() => {
                open.push(Holding::begun(line, entry, Some(line.at)));
            }
            LoggedKind::Deleted(_) => {
                let held = place.map(|place| open.remove(place));
                let held = held.unwrap_or_else(|| Holding::begun(line, entry, None));
                self.ended.push(Holding { until: Some(line.at), ..held });
            }
            LoggedKind::Conflict(_) => {
                let (at, client, client_port) = (line.at, entry.client, entry.client_port);
                let reported = Contradiction { at, client, client_port };
                open.iter_mut().for_each(|open| open.conflicts.push(reported));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Client, from, until, as minutes of an hour.
    fn of(lines: &[&str]) -> Vec<(String, Option<u64>, Option<u64>)> {
        let lines = lines.iter().map(|line| LoggedLine::parse(&format!("2019-03-18 10:{line}")));
        let minute = |at: Timestamp| at.as_micros() / 60_000_000 % 60;
        let all = Holdings::of(lines.map(Option::unwrap)).into_all();
        let told = all
            .into_iter()
            .map(|held| (held.client.to_string(), held.from.map(minute), held.until.map(minute)));
        told.collect()
    }

    #[test]
    fn from_created_until_deleted() {
        assert_eq!(of(&[]), []);
        let lines = [
            "01:00.000000 Initialized 192.0.2.7",
            "02:00.000000 Created 192.0.2.7:3719 [2001:db8::17]:1",
            // One after another in the same microsecond.
            "05:00.000000 Deleted 192.0.2.7:3719 [2001:db8::17]:1",
            "05:00.000000 Created 192.0.2.7:3719 [2001:db8::18]:1",
            // Twice, as after a restored copy.
            "06:00.000000 Created 192.0.2.7:3719 [2001:db8::18]:1",
        ];
        let first = ("2001:db8::17".to_owned(), Some(2), Some(5));
        let second = ("2001:db8::18".to_owned(), Some(5), None);
        assert_eq!(of(&lines), [first, second]);
    }

    #[test]
    fn what_began_before_the_log() {
        let lines = ["05:00.000000 Deleted 192.0.2.7:3719 [2001:db8::17]:1"];
        assert_eq!(of(&lines), [("2001:db8::17".to_owned(), None, Some(5))]);
    }

    #[test]
    fn two_addresses_of_the_server_are_two_tables() {
        let lines = [
            "02:00.000000 Created 192.0.2.7:3719 [2001:db8::17]:1 to 203.0.113.5 via 64:ff9b::/96",
            "03:00.000000 Created 192.0.2.7:3719 [2001:db8::17]:1 to 203.0.113.6 via 64:ff9b::/96",
            "04:00.000000 Deleted 192.0.2.7:3719 [2001:db8::17]:1 to 203.0.113.6 via 64:ff9b::/96",
        ];
        let client = || "2001:db8::17".to_owned();
        assert_eq!(of(&lines), [(client(), Some(2), None), (client(), Some(3), Some(4))]);
    }
}
