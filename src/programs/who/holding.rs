//! The times in which ports were clients', from the lines of the event log.

use std::collections::BTreeMap;
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
    /// Perhaps not any more at that time: the server did not know the NAT64 then, or a table of
    /// another address of the server began, which the log does not say.
    pub perhaps_until: Option<Timestamp>,
}

/// A NAT64 said that a port was another client's than the table has on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contradiction {
    pub at: Timestamp,
    /// Address and port of the NAT64.
    pub nat64: SocketAddrV4,
    pub client: Ipv6Addr,
    pub client_port: u16,
    pub local: Option<Ipv4Addr>,
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
            perhaps_until: None,
        }
    }

    fn ended(self, at: Timestamp) -> Self {
        Self { until: Some(at), perhaps_until: None, ..self }
    }

    /// The same table, as far as the log says.
    fn is_at(&self, local: Option<Ipv4Addr>) -> bool {
        self.local.is_none() || local.is_none() || self.local == local
    }
}

/// Those of some ports, from all lines about these and those that begin tables.
#[derive(Debug, Default)]
pub struct Holdings {
    ended: Vec<Holding>,
    /// By address and port of the NAT64: several where there are several tables, of different
    /// addresses of the server.
    open: BTreeMap<SocketAddrV4, Vec<Holding>>,
    contradictions: Vec<Contradiction>,
}

impl Holdings {
    /// `lines` in the order of the log.
    pub fn of(lines: impl Iterator<Item = LoggedLine>) -> Self {
        let mut holdings = Self::default();
        lines.for_each(|line| holdings.take(&line));
        holdings
    }

    /// In the order in which they began; and what NAT64s said against the tables.
    pub fn into_all(self) -> (Vec<Holding>, Vec<Contradiction>) {
        let open = self.open.into_values().flatten();
        let mut all: Vec<_> = self.ended.into_iter().chain(open).collect();
        all.sort_by_key(|holding| (holding.from, holding.nat64, holding.local));
        (all, self.contradictions)
    }

    fn take(&mut self, line: &LoggedLine) {
        match &line.kind {
            LoggedKind::Created(entry) => self.created(line, entry),
            LoggedKind::Deleted(entry) => self.deleted(line, entry),
            LoggedKind::Conflict(entry) => self.contradictions.push(Contradiction {
                at: line.at,
                nat64: SocketAddrV4::new(line.nat64, entry.port),
                client: entry.client,
                client_port: entry.client_port,
                local: line.local,
            }),
            LoggedKind::Initialized => self.initialized(line),
            LoggedKind::Forgotten => {}
        }
    }

    fn created(&mut self, line: &LoggedLine, entry: &LoggedEntry) {
        let open = self.open.entry(SocketAddrV4::new(line.nat64, entry.port)).or_default();
        let is_clients = |held: &Holding| {
            held.is_at(line.local)
                && (held.client, held.client_port) == (entry.client, entry.client_port)
        };
        // A line that stands there twice says nothing new.
        if open.iter().any(|held| is_clients(held) && held.perhaps_until.is_none()) {
            return;
        }
        // A table has one client on a port. Without the server's address it may be another table.
        let is_over = |held: &mut Holding| {
            is_clients(held) || held.local.is_some() && held.local == line.local
        };
        let over = open.extract_if(.., is_over).map(|held| {
            let at = held.perhaps_until.unwrap_or(line.at);
            held.ended(at)
        });
        self.ended.extend(over);
        open.push(Holding::begun(line, entry, Some(line.at)));
    }

    fn deleted(&mut self, line: &LoggedLine, entry: &LoggedEntry) {
        let open = self.open.entry(SocketAddrV4::new(line.nat64, entry.port)).or_default();
        let is_it = |held: &Holding| {
            held.is_at(line.local)
                && (held.client, held.client_port) == (entry.client, entry.client_port)
        };
        let held = open.iter().position(is_it).map(|place| open.remove(place));
        let held = held.unwrap_or_else(|| Holding::begun(line, entry, None));
        self.ended.push(held.ended(line.at));
    }

    /// The server does not know the NAT64: it has no entry of it in that table.
    fn initialized(&mut self, line: &LoggedLine) {
        let first = SocketAddrV4::new(line.nat64, 0);
        let last = SocketAddrV4::new(line.nat64, u16::MAX);
        for open in self.open.range_mut(first..=last).map(|(_, open)| open) {
            let is_over = |held: &mut Holding| held.local.is_some() && held.local == line.local;
            self.ended.extend(open.extract_if(.., is_over).map(|held| held.ended(line.at)));
            for held in open.iter_mut().filter(|held| held.is_at(line.local)) {
                held.perhaps_until.get_or_insert(line.at);
            }
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
        let (all, _) = Holdings::of(lines.map(Option::unwrap)).into_all();
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

    #[test]
    fn a_log_that_says_the_servers_address_from_some_time_on() {
        let to = "to 203.0.113.5 via 64:ff9b::/96";
        let lines = [
            "02:00.000000 Created 192.0.2.7:3719 [2001:db8::17]:1".to_owned(),
            format!("03:00.000000 Deleted 192.0.2.7:3719 [2001:db8::17]:1 {to}"),
            format!("03:00.000000 Created 192.0.2.7:3719 [2001:db8::18]:1 {to}"),
            // A table has one on a port.
            format!("04:00.000000 Created 192.0.2.7:3719 [2001:db8::19]:1 {to}"),
            "05:00.000000 Initialized 192.0.2.7 to 203.0.113.6".to_owned(),
            "06:00.000000 Initialized 192.0.2.7 to 203.0.113.5".to_owned(),
        ];
        let client = |last: u8| format!("2001:db8::{last}");
        assert_eq!(
            of(&lines.iter().map(String::as_str).collect::<Vec<_>>()),
            [
                (client(17), Some(2), Some(3)),
                (client(18), Some(3), Some(4)),
                (client(19), Some(4), Some(6))
            ]
        );
    }

    #[test]
    fn a_table_that_begins_anew_may_have_ended_what_was() {
        let lines = [
            "2019-03-18 10:02:00.000000 Created 192.0.2.7:3719 [2001:db8::17]:1",
            "2019-03-18 10:03:00.000000 Initialized 192.0.2.8",
            "2019-03-18 10:04:00.000000 Initialized 192.0.2.7",
            "2019-03-18 10:05:00.000000 Initialized 192.0.2.7",
            "2019-03-18 10:06:00.000000 Created 192.0.2.7:3719 [2001:db8::18]:1",
            "2019-03-18 10:07:00.000000 Conflict 192.0.2.7:9 [2001:db8::19]:1",
        ];
        let lines = lines.iter().map(|line| LoggedLine::parse(line).unwrap());
        let (all, contradictions) = Holdings::of(lines).into_all();
        let first = "2019-03-18 10:04:00.000000";
        let perhaps = |held: &Holding| held.perhaps_until.map(|at| at.to_string());
        assert_eq!((all[0].until, perhaps(&all[0]).as_deref()), (None, Some(first)));
        assert_eq!((all[1].until, perhaps(&all[1])), (None, None));
        assert_eq!((all.len(), contradictions.len()), (2, 1));
    }
}
