//! The times in which ports were clients', from the lines of the event log.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};

use crate::handoff::change::Timestamp;
use crate::handoff::logged::{LoggedEntry, LoggedKind, LoggedLine};
use crate::ip::address::Prefix96;

/// The most of one port that are in doubt at once. They become more where a log does not say the
/// server's address, or where lines of it are missing: then the one that began first is given up.
const DOUBTFUL_MAX: usize = 4;

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
    /// Perhaps only until then, and not until `until` or now: the server did not know the NAT64
    /// then, or a table of another address of the server began, which the log does not say; or the
    /// log gave it to this client again then, perhaps in another table; or lines of the log are
    /// missing from then on.
    pub perhaps_until: Option<Timestamp>,
    /// How it ended, where it did.
    pub ended: Option<HowEnded>,
}

/// How a port stopped being a client's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HowEnded {
    /// The log says that it did.
    Deleted,
    /// The log gives it to another client of the same table, or again to this one, and does not say
    /// that it ended; or so many others got it that this one, which was in doubt, was given up.
    Replaced,
    /// The table began anew; or others came into doubt by that, and this one was given up.
    Initialized,
}

/// A NAT64 said that a port was another client's than the table has on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Contradiction {
    pub at: Timestamp,
    /// Address and port of the NAT64.
    pub nat64: SocketAddrV4,
    pub client: Ipv6Addr,
    pub client_port: u16,
    pub local: Option<Ipv4Addr>,
}

/// A table began anew: it has no entry from before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Beginning {
    pub at: Timestamp,
    /// Address of the NAT64.
    pub nat64: Ipv4Addr,
    pub local: Option<Ipv4Addr>,
}

impl Contradiction {
    /// What a line says. None where it says no such thing.
    pub fn of(line: &LoggedLine) -> Option<Self> {
        let LoggedKind::Conflict(entry) = &line.kind else { return None };
        let LoggedEntry { port, client, client_port, .. } = *entry;
        let nat64 = SocketAddrV4::new(line.nat64, port);
        Some(Self { at: line.at, nat64, client, client_port, local: line.local })
    }
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
            ended: None,
        }
    }

    /// It is not any more; when that came is still in doubt where it was.
    fn over(self, at: Timestamp, how: HowEnded) -> Self {
        Self { until: Some(at), ended: Some(how), ..self }
    }

    /// From then on, it is in doubt.
    pub fn doubt(&mut self, at: Timestamp) {
        self.perhaps_until.get_or_insert(at);
    }

    /// Perhaps it is over.
    fn is_doubtful(&self) -> bool {
        self.perhaps_until.is_some()
    }

    /// The same table, as far as the log says.
    fn is_at(&self, local: Option<Ipv4Addr>) -> bool {
        self.local.is_none() || local.is_none() || self.local == local
    }

    /// The same table, as the log says.
    fn is_surely_at(&self, local: Option<Ipv4Addr>) -> bool {
        self.local.is_some() && self.local == local
    }

    fn is_of(&self, line: &LoggedLine, entry: &LoggedEntry) -> bool {
        self.is_at(line.local)
            && (self.client, self.client_port) == (entry.client, entry.client_port)
    }

    /// In which order they are told: as they began and, of one time and port, as they ended.
    pub fn order(&self, other: &Self) -> Ordering {
        let until = |held: &Self| (held.until.is_none(), held.until);
        let rest = |held: &Self| (held.local, held.client, held.client_port);
        (self.from, self.nat64)
            .cmp(&(other.from, other.nat64))
            .then_with(|| until(self).cmp(&until(other)))
            .then_with(|| rest(self).cmp(&rest(other)))
    }
}

/// Puts those of one port, or of several, into the order in which they began.
pub fn sort_holdings(all: &mut [Holding]) {
    all.sort_by(Holding::order);
}

/// Who has one port of a NAT64: several where there are several tables, of different addresses of
/// the server.
#[derive(Debug, Default)]
pub struct PortHoldings {
    open: Vec<Holding>,
}

impl PortHoldings {
    /// Goes on with those that had it, in the order in which they began.
    pub fn of(open: Vec<Holding>) -> Self {
        Self { open }
    }

    /// Those that have it, in the order in which they began.
    pub fn into_open(self) -> Vec<Holding> {
        self.open
    }

    /// What a line says of the port, or of all ports of its NAT64. `ended` gets those that have it
    /// no more.
    pub fn take(&mut self, line: &LoggedLine, ended: &mut Vec<Holding>) {
        match &line.kind {
            LoggedKind::Created(entry) => self.created(line, entry, ended),
            LoggedKind::Deleted(entry) => self.deleted(line, entry, ended),
            LoggedKind::Initialized => self.initialized(line, ended),
            LoggedKind::Conflict(_)
            | LoggedKind::Forgotten
            | LoggedKind::Named(_)
            | LoggedKind::Unnamed(_) => {}
        }
    }

    fn created(&mut self, line: &LoggedLine, entry: &LoggedEntry, ended: &mut Vec<Holding>) {
        // A line that stands there twice says nothing new. A later one says that it ended between:
        // on another host of a fleet, or by a line that is missing.
        let is_said = |held: &Holding| {
            held.is_of(line, entry) && held.from == Some(line.at) && !held.is_doubtful()
        };
        if self.open.iter().any(is_said) {
            return;
        }
        // A table has one client on a port. Without the server's address it may be another table:
        // then who had it may have it still, also where it is the same client.
        for held in self.open.iter_mut().filter(|held| held.is_of(line, entry)) {
            if !held.is_surely_at(line.local) {
                held.doubt(line.at);
            }
        }
        let same = self.open.iter().filter(|held| held.is_of(line, entry));
        let first = same.min_by(|one, other| one.order(other)).cloned();
        let is_over = |held: &mut Holding| {
            let is_same = held.is_of(line, entry) && first.as_ref() != Some(&*held);
            is_same
                || held.is_surely_at(line.local)
                || held.from == Some(line.at) && held.is_of(line, entry)
        };
        let over = self.open.extract_if(.., is_over);
        ended.extend(over.map(|held| held.over(line.at, HowEnded::Replaced)));
        self.open.push(Holding::begun(line, entry, Some(line.at)));
        self.give_up(line.at, HowEnded::Replaced, ended);
    }

    fn deleted(&mut self, line: &LoggedLine, entry: &LoggedEntry, ended: &mut Vec<Holding>) {
        let rank = |held: &Holding| (held.is_surely_at(line.local), !held.is_doubtful());
        let all = self.open.iter().enumerate().filter(|(_, held)| held.is_of(line, entry));
        // Of several tables, one: of that one, if the log says so. What is left is in doubt.
        let held = all.max_by(|(_, one), (_, other)| {
            rank(one).cmp(&rank(other)).then_with(|| one.order(other))
        });
        let place = held.map(|(place, _)| place);
        let held = place.map(|place| self.open.remove(place));
        let mut held = held.unwrap_or_else(|| Holding::begun(line, entry, None));
        // It was so all the time.
        held.perhaps_until = None;
        ended.push(held.over(line.at, HowEnded::Deleted));
    }

    /// The server does not know the NAT64: it has no entry of it in that table.
    fn initialized(&mut self, line: &LoggedLine, ended: &mut Vec<Holding>) {
        let over = self.open.extract_if(.., |held| held.is_surely_at(line.local));
        ended.extend(over.map(|held| held.over(line.at, HowEnded::Initialized)));
        let open = self.open.iter_mut().filter(|held| held.is_at(line.local));
        open.for_each(|held| held.doubt(line.at));
        self.give_up(line.at, HowEnded::Initialized, ended);
    }

    /// Ends those in doubt that are too many.
    fn give_up(&mut self, at: Timestamp, how: HowEnded, ended: &mut Vec<Holding>) {
        while self.open.iter().filter(|held| held.is_doubtful()).count() > DOUBTFUL_MAX {
            let doubtful = self.open.iter().enumerate().filter(|(_, held)| held.is_doubtful());
            let first = doubtful.min_by(|(_, one), (_, other)| one.order(other));
            let Some((place, _)) = first else { return };
            ended.push(self.open.remove(place).over(at, how));
        }
    }
}

/// Those of some ports, from all lines about these and those that begin tables.
#[derive(Debug, Default)]
pub struct Holdings {
    ended: Vec<Holding>,
    /// By address and port of the NAT64.
    open: BTreeMap<SocketAddrV4, PortHoldings>,
    contradictions: Vec<Contradiction>,
}

impl Holdings {
    /// `lines` in the order of the log.
    pub fn of(lines: impl Iterator<Item = LoggedLine>) -> Self {
        Self::continued([], lines)
    }

    /// `open` are those that had ports before the first of the lines, for each port in the order in
    /// which they began.
    pub fn continued(
        open: impl IntoIterator<Item = Holding>,
        lines: impl Iterator<Item = LoggedLine>,
    ) -> Self {
        let mut holdings = Self::default();
        for held in open {
            holdings.open.entry(held.nat64).or_default().open.push(held);
        }
        lines.for_each(|line| holdings.take(&line));
        holdings
    }

    /// In the order in which they began; and what NAT64s said against the tables, in the order of
    /// time.
    pub fn into_all(self) -> (Vec<Holding>, Vec<Contradiction>) {
        let open = self.open.into_values().flat_map(PortHoldings::into_open);
        let mut all: Vec<_> = self.ended.into_iter().chain(open).collect();
        sort_holdings(&mut all);
        let mut contradictions = self.contradictions;
        contradictions.sort();
        (all, contradictions)
    }

    fn take(&mut self, line: &LoggedLine) {
        match line.entry() {
            None if line.named().is_some() => {}
            Some(entry) => {
                self.contradictions.extend(Contradiction::of(line));
                let port = SocketAddrV4::new(line.nat64, entry.port);
                self.open.entry(port).or_default().take(line, &mut self.ended);
            }
            None => {
                let first = SocketAddrV4::new(line.nat64, 0);
                let last = SocketAddrV4::new(line.nat64, u16::MAX);
                for (_, port) in self.open.range_mut(first..=last) {
                    port.take(line, &mut self.ended);
                }
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
            // Twice.
            "05:00.000000 Created 192.0.2.7:3719 [2001:db8::18]:1",
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
            "2019-03-18 10:06:00.000000 Created 192.0.2.7:3720 [2001:db8::18]:1",
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

    /// Client, from, until, perhaps until, as minutes, and whether it was given up.
    fn doubts(lines: &[&str]) -> Vec<(u8, u64, Option<u64>, Option<u64>)> {
        let lines = lines.iter().map(|line| {
            let (time, rest) = line.split_once(' ').unwrap();
            let (kind, client) = rest.split_once(' ').unwrap_or((rest, ""));
            let rest = match client {
                "" => "192.0.2.7".to_owned(),
                client => format!("192.0.2.7:3719 [2001:db8::{client}]:1"),
            };
            LoggedLine::parse(&format!("2019-03-18 10:{time}:00.000000 {kind} {rest}")).unwrap()
        });
        let minute = |at: Timestamp| at.as_micros() / 60_000_000 % 60;
        let told = Holdings::of(lines).into_all().0.into_iter().map(|held| {
            let [.., client] = held.client.octets();
            let from = held.from.map_or(99, minute);
            (client, from, held.until.map(minute), held.perhaps_until.map(minute))
        });
        told.collect()
    }

    /// Tables of other addresses of the server begin, which a log does not say: who is in doubt
    /// may have it all the time, and does where a line says so later.
    #[test]
    fn who_is_in_doubt_is_not_forgotten() {
        let begin = ["02 Created 1", "04 Initialized", "06 Initialized"];
        let with = |rest: &[&'static str]| doubts(&[&begin[..], rest].concat());
        assert_eq!(with(&[]), [(1, 2, None, Some(4))]);
        assert_eq!(with(&["08 Deleted 1"]), [(1, 2, Some(8), None)]);
        let other = with(&["08 Created 2", "09 Deleted 1"]);
        assert_eq!(other, [(1, 2, Some(9), None), (2, 8, None, None)]);
    }

    /// A NAT64 uses a port for a client towards two addresses of the server.
    #[test]
    fn a_client_in_two_tables() {
        let begin = ["02 Created 1", "04 Created 1"];
        let with = |rest: &[&'static str]| doubts(&[&begin[..], rest].concat());
        assert_eq!(with(&["06 Deleted 1"]), [(1, 2, None, Some(4)), (1, 4, Some(6), None)]);
        let both = with(&["06 Deleted 1", "08 Deleted 1"]);
        assert_eq!(both, [(1, 2, Some(8), None), (1, 4, Some(6), None)]);
        // More tables are not told from one that was restored from a copy.
        let three = with(&["06 Created 1"]);
        assert_eq!(three, [(1, 2, None, Some(4)), (1, 4, Some(6), Some(6)), (1, 6, None, None)]);
    }

    #[test]
    fn what_is_in_doubt_does_not_become_more_and_more() {
        let lines: Vec<String> = (1..=7)
            .flat_map(|client| {
                let minute = 2 * client;
                [format!("{minute:02} Created {client}"), format!("{:02} Initialized", minute + 1)]
            })
            .collect();
        let told = doubts(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        let open = told.iter().filter(|(_, _, until, _)| until.is_none());
        assert_eq!(open.map(|(client, ..)| *client).collect::<Vec<_>>(), [4, 5, 6, 7]);
        assert_eq!(told[0], (1, 2, Some(11), Some(3)), "given up, and until when it was in doubt");
    }
}
