//! What the event logs of several hosts say together: an entry that one of them made is perhaps
//! ended by another, which took its table (PROTOCOL.md section 8 has the lines).
//!
//! It is what one log with the lines of all would say, in the order of their times. Clocks of hosts
//! differ: where lines of a table, by their times, cannot have come in that order, and could have
//! in another one in which no line moves by more than [`SKEW_MAX`], that one is taken. A line's
//! time is told as it is written.
//!
//! Not here: names. Each host gives its own.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::time::Duration;

use crate::handoff::change::Timestamp;
use crate::handoff::holding::{
    Beginning, Contradiction, Holding, HowEnded, PortHoldings, sort_holdings,
};
use crate::handoff::logged::{LoggedEntry, LoggedKind, LoggedLine};

/// By how much clocks of hosts may differ: who took a table deletes nothing that it found for so
/// long.
pub const SKEW_MAX: Duration = Duration::from_secs(3);
const SKEW_MICROS: u64 = SKEW_MAX.as_secs() * 1_000_000;

/// What one host's history and log say of what is asked about.
#[derive(Debug, Default)]
pub struct HostPast {
    /// Who had ports, by the host's own lines, up to where its history ends.
    pub holdings: Vec<Holding>,
    pub contradictions: Vec<Contradiction>,
    /// When tables began anew. None: the history does not have all of that.
    pub beginnings: Option<Vec<Beginning>>,
    /// Whether all who had those ports are there, and not only some clients.
    pub is_whole: bool,
    /// The lines behind the history, in the order of the log.
    pub rest: Vec<LoggedLine>,
}

/// What hosts say together.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ToldTogether {
    /// In the order in which they began.
    pub holdings: Vec<Holding>,
    /// In the order of time.
    pub contradictions: Vec<Contradiction>,
}

/// Lines of several hosts.
#[derive(Debug, Default)]
pub struct HostsLines {
    lines: Vec<PlacedLine>,
    /// What is in doubt as lines of a host are missing: since when.
    doubts: Vec<Holding>,
    /// Ends that a host's history has of what began there, and no line may say: somebody else came.
    /// Where another host had ended it before, they say nothing.
    ends: BTreeSet<(SocketAddrV4, Ipv6Addr, u16, Timestamp)>,
}

/// A line, and where it stands: mostly at its own time.
#[derive(Debug)]
struct PlacedLine {
    place: Timestamp,
    line: LoggedLine,
}

impl HostsLines {
    /// Adds what one host says.
    pub fn add(&mut self, past: HostPast) {
        let doubtful = past.holdings.iter().filter(|held| held.perhaps_until.is_some());
        self.doubts.extend(doubtful.cloned());
        let begun = past.holdings.iter().filter(|held| held.from.is_some());
        self.ends.extend(
            begun
                .filter(|held| held.ended == Some(HowEnded::Replaced))
                .filter_map(|held| Some((held.nat64, held.client, held.client_port, held.until?))),
        );
        let mut last = Timestamp::default();
        for line in past.into_lines() {
            // Reactors are late by little. Where a clock was set back, its new times are true.
            let late = last.as_micros().saturating_sub(line.at.as_micros());
            last = if late <= SKEW_MICROS { last.max(line.at) } else { line.at };
            self.lines.push(PlacedLine { place: last, line });
        }
    }

    /// How many lines there are.
    pub fn count(&self) -> usize {
        self.lines.len()
    }

    /// What they say together.
    pub fn together(mut self) -> ToldTogether {
        // Of one time, those of one host stay as they are.
        self.lines.sort_by_key(|line| line.place);
        let mut ports = BTreeMap::<SocketAddrV4, Vec<usize>>::new();
        let mut beginnings = BTreeMap::<Ipv4Addr, Vec<usize>>::new();
        let mut together = ToldTogether::default();
        for (index, PlacedLine { line, .. }) in self.lines.iter().enumerate() {
            together.contradictions.extend(Contradiction::of(line));
            match &line.kind {
                LoggedKind::Initialized => beginnings.entry(line.nat64).or_default().push(index),
                LoggedKind::Created(entry) | LoggedKind::Deleted(entry) => {
                    let port = SocketAddrV4::new(line.nat64, entry.port);
                    ports.entry(port).or_default().push(index);
                }
                _ => {}
            }
        }
        for (port, mut of_port) in ports {
            of_port.extend(beginnings.get(port.ip()).into_iter().flatten());
            of_port.sort_unstable();
            let lines = of_port.into_iter().map(|index| &self.lines[index]);
            let mut holder = PortHoldings::default();
            for line in settled(lines.collect()) {
                holder.take(line, &mut together.holdings);
            }
            together.holdings.append(&mut holder.into_open());
        }
        together.holdings.retain(|held| {
            let end = held.until.map(|until| (held.nat64, held.client, held.client_port, until));
            held.from.is_some() || end.is_none_or(|end| !self.ends.contains(&end))
        });
        doubt(&mut together.holdings, &self.doubts);
        sort_holdings(&mut together.holdings);
        together.contradictions.sort();
        together
    }
}

type HeldKey = (SocketAddrV4, Option<Timestamp>, Ipv6Addr, u16, Option<Ipv4Addr>);

fn key(held: &Holding) -> HeldKey {
    (held.nat64, held.from, held.client, held.client_port, held.local)
}

/// What one host has in doubt is, unless another one says that it was so all the time.
fn doubt(holdings: &mut [Holding], doubtful: &[Holding]) {
    let since: BTreeMap<_, _> =
        doubtful.iter().filter_map(|held| Some((key(held), held.perhaps_until?))).collect();
    for held in holdings.iter_mut().filter(|held| held.ended != Some(HowEnded::Deleted)) {
        if let Some(&at) = since.get(&key(held))
            && held.until.is_none_or(|until| until >= at)
        {
            held.perhaps_until = Some(held.perhaps_until.map_or(at, |since| since.min(at)));
        }
    }
}

/// In which order what is of one time came: what ends goes before what begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum LineTurn {
    Ended,
    /// What a table that begins anew at the same time ends.
    BegunBefore,
    Table,
    Begun,
}

impl HostPast {
    /// The lines that say it, in the order of the log.
    fn into_lines(self) -> Vec<LoggedLine> {
        let mut lines = Vec::new();
        self.lines_of_holdings(&mut lines);
        let begins = |begun: &Beginning| LoggedLine {
            at: begun.at,
            kind: LoggedKind::Initialized,
            nat64: begun.nat64,
            local: begun.local,
        };
        let beginnings = self.beginnings.iter().flatten();
        lines.extend(beginnings.map(|begun| (begun.at, LineTurn::Table, begins(begun))));
        for said in self.contradictions {
            let (port, client, client_port) = (said.nat64.port(), said.client, said.client_port);
            let entry = LoggedEntry { port, client, client_port, prefix: None };
            let (kind, nat64) = (LoggedKind::Conflict(entry), *said.nat64.ip());
            let line = LoggedLine { at: said.at, kind, nat64, local: said.local };
            lines.push((said.at, LineTurn::Begun, line));
        }
        lines.sort_by_key(|&(at, turn, _)| (at, turn));
        lines.into_iter().map(|(.., line)| line).chain(self.rest).collect()
    }

    fn lines_of_holdings(&self, lines: &mut Vec<(Timestamp, LineTurn, LoggedLine)>) {
        let mut holdings: Vec<&Holding> = self.holdings.iter().collect();
        holdings.sort_by(|one, other| one.order(other));
        let begun: BTreeSet<_> = holdings.iter().map(|held| (held.nat64, held.from)).collect();
        for held in holdings {
            let entry = LoggedEntry {
                port: held.nat64.port(),
                client: held.client,
                client_port: held.client_port,
                prefix: held.prefix,
            };
            let (nat64, local) = (*held.nat64.ip(), held.local);
            let line = |at, kind| LoggedLine { at, kind, nat64, local };
            let is_table = held.ended == Some(HowEnded::Initialized);
            if let Some(at) = held.from {
                let is_before =
                    is_table && held.until == Some(at) || held.perhaps_until == Some(at);
                let turn = if is_before { LineTurn::BegunBefore } else { LineTurn::Begun };
                lines.push((at, turn, line(at, LoggedKind::Created(entry))));
            }
            let Some((until, ended)) = held.until.zip(held.ended) else { continue };
            let kind = match ended {
                HowEnded::Deleted => LoggedKind::Deleted(entry),
                HowEnded::Initialized if self.beginnings.is_none() => LoggedKind::Initialized,
                // Who got it is not among those that are asked about.
                HowEnded::Replaced
                    if !self.is_whole && !begun.contains(&(held.nat64, Some(until))) =>
                {
                    LoggedKind::Deleted(entry)
                }
                HowEnded::Initialized | HowEnded::Replaced => continue,
            };
            let (at, turn) = match kind {
                LoggedKind::Initialized => (until, LineTurn::Table),
                _ => end_of(held.from, until),
            };
            lines.push((at, turn, line(until, kind)));
        }
    }
}

/// Where an end stands: what ended when it began, or, of a late reactor, before, ends behind its
/// beginning.
fn end_of(from: Option<Timestamp>, until: Timestamp) -> (Timestamp, LineTurn) {
    match from {
        Some(from) if from >= until => (from, LineTurn::Begun),
        _ => (until, LineTurn::Ended),
    }
}

/// Who has a port of one table: the client, and since when by the line.
type TableHolder = (Ipv6Addr, u16, Timestamp);

/// The lines of a port, and those that begin tables of its NAT64, in an order in which they can
/// have come, where there is one near that of their times. Of lines that do not say the server's
/// address that is not known: they stay where they are.
fn settled(lines: Vec<&PlacedLine>) -> Vec<&LoggedLine> {
    let mut rest = VecDeque::from(lines);
    let mut holders = BTreeMap::<Ipv4Addr, TableHolder>::new();
    let mut all = Vec::with_capacity(rest.len());
    while let Some(next) = next_of(&rest, &holders).and_then(|next| rest.remove(next)) {
        let line = &next.line;
        if let Some(local) = line.local {
            let is_holder = |entry: &LoggedEntry| {
                holders.get(&local).is_some_and(|holder| is_of(entry, holder))
            };
            match &line.kind {
                LoggedKind::Created(entry) => {
                    holders.insert(local, (entry.client, entry.client_port, line.at));
                }
                LoggedKind::Deleted(entry) if is_holder(entry) => drop(holders.remove(&local)),
                LoggedKind::Initialized => drop(holders.remove(&local)),
                _ => {}
            }
        }
        all.push(line);
    }
    all
}

fn is_of(entry: &LoggedEntry, (client, client_port, _): &TableHolder) -> bool {
    (entry.client, entry.client_port) == (*client, *client_port)
}

/// Which of the lines comes next. None: there is none.
fn next_of(
    rest: &VecDeque<&PlacedLine>,
    holders: &BTreeMap<Ipv4Addr, TableHolder>,
) -> Option<usize> {
    let first = rest.front()?;
    let Some(local) = first.line.local else { return Some(0) };
    let latest = first.place.as_micros().saturating_add(SKEW_MICROS);
    // What comes behind it in the same table, of about that time.
    let near = rest.iter().enumerate().skip(1);
    let near = near.take_while(|(_, other)| other.place.as_micros() <= latest);
    let mut near = near.filter(|(_, other)| other.line.local == Some(local));
    match (&first.line.kind, holders.get(&local)) {
        // Somebody has the port still: it was ended before.
        (LoggedKind::Created(entry), Some(holder))
            if !(is_of(entry, holder) && first.line.at == holder.2) =>
        {
            Some(end_near(near, holder).unwrap_or(0))
        }
        (LoggedKind::Initialized, Some(holder)) => Some(end_near(near, holder).unwrap_or(0)),
        // Somebody else gets it next, and loses it soon: that was before.
        (LoggedKind::Created(_), None) => {
            let Some((next, PlacedLine { line, .. })) = near.next() else { return Some(0) };
            let LoggedKind::Created(entry) = &line.kind else { return Some(0) };
            let holder = (entry.client, entry.client_port, line.at);
            Some(end_near(near, &holder).map_or(0, |_| next))
        }
        // It is not that client's yet: first it became so.
        (LoggedKind::Deleted(entry), holder)
            if !holder.is_some_and(|holder| is_of(entry, holder)) =>
        {
            let ended = (entry.client, entry.client_port, first.line.at);
            let Some(begin) = begin_near(rest, local, latest, &ended) else { return Some(0) };
            // Who had it before that has it no more.
            let end = holder.and_then(|holder| end_near(near, holder));
            Some(end.filter(|&end| end < begin).unwrap_or(begin))
        }
        _ => Some(0),
    }
}

/// Where the line is that makes a port a client's, whose end comes first by its time. None where
/// there is none near; or where it is ended again behind that, so it was the client's since before
/// the log begins.
fn begin_near(
    rest: &VecDeque<&PlacedLine>,
    local: Ipv4Addr,
    latest: u64,
    ended: &TableHolder,
) -> Option<usize> {
    let of_table = rest.iter().enumerate().skip(1);
    let mut of_table = of_table.filter(|(_, other)| other.line.local == Some(local)).peekable();
    let is_near = |other: &PlacedLine| other.place.as_micros() <= latest;
    while let Some((begin, other)) = of_table.next().filter(|(_, other)| is_near(other)) {
        match &other.line.kind {
            LoggedKind::Created(entry) if is_of(entry, ended) => {
                let behind = of_table.peek().map(|(_, behind)| &behind.line.kind);
                let is_again = |kind: &LoggedKind| matches!(kind, LoggedKind::Deleted(entry) if is_of(entry, ended));
                return (!behind.is_some_and(is_again)).then_some(begin);
            }
            LoggedKind::Deleted(entry) if is_of(entry, ended) => return None,
            _ => {}
        }
    }
    None
}

/// Where the line is that ends what the holder has, if it has no other one of the same before it.
fn end_near<'l>(
    near: impl Iterator<Item = (usize, &'l &'l PlacedLine)>,
    holder: &TableHolder,
) -> Option<usize> {
    for (index, PlacedLine { line, .. }) in near {
        match &line.kind {
            LoggedKind::Deleted(entry) if is_of(entry, holder) => return Some(index),
            LoggedKind::Created(entry) if is_of(entry, holder) => return None,
            LoggedKind::Initialized => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handoff::ownership::OwnershipLimits;

    const TO: &str = " to 203.0.113.5 via 64:ff9b::/96";

    /// Seconds, a word, and a client; of each host.
    fn told(hosts: &[&[(f64, &str, u8)]]) -> Vec<(u8, Option<f64>, Option<f64>)> {
        let mut lines = HostsLines::default();
        for host in hosts {
            let rest = host.iter().map(|&(second, word, client)| {
                let entry = format!(":3719 [2001:db8::{client}]:1{TO}");
                let entry = if word == "Initialized" { " to 203.0.113.5" } else { &entry };
                let line = format!("2019-03-18 10:00:{second:09.6} {word} 192.0.2.7{entry}");
                LoggedLine::parse(&line).unwrap()
            });
            lines.add(HostPast { rest: rest.collect(), ..HostPast::default() });
        }
        let second = |at: Timestamp| (at.as_micros() % 60_000_000) as f64 / 1e6;
        let all = lines.together().holdings.into_iter().map(|held| {
            let client = held.client.octets()[15];
            // It is written in decimal.
            let client = client / 16 * 10 + client % 16;
            (client, held.from.map(second), held.until.map(second))
        });
        all.collect()
    }

    #[test]
    fn clocks_differ_by_no_more_than_an_owner_keeps_all() {
        assert_eq!(SKEW_MAX, OwnershipLimits::default().keeps_all);
    }

    #[test]
    fn what_one_host_made_another_one_ends() {
        let first: &[_] = &[(1.0, "Created", 1), (20.0, "Created", 3)];
        let second: &[_] = &[(10.0, "Deleted", 1), (10.0, "Created", 2), (30.0, "Initialized", 0)];
        let third: &[_] = &[(15.0, "Deleted", 2)];
        let all =
            [(1, Some(1.0), Some(10.0)), (2, Some(10.0), Some(15.0)), (3, Some(20.0), Some(30.0))];
        assert_eq!(told(&[first, second, third]), all);
        assert_eq!(told(&[third, second, first]), all);
    }

    /// The clock of who had the table is ahead of that of who has it.
    #[test]
    fn what_was_ended_before_is_ended_though_its_time_is_later() {
        let first: &[_] = &[(1.0, "Created", 1), (12.0, "Deleted", 1)];
        let expected = [(1, Some(1.0), Some(12.0)), (2, Some(10.0), None)];
        assert_eq!(told(&[first, &[(10.0, "Created", 2)]]), expected);
        let again = [(1, Some(1.0), Some(12.0)), (1, Some(10.0), None)];
        assert_eq!(told(&[first, &[(10.0, "Created", 1)]]), again);
        let begun: &[_] = &[(10.0, "Initialized", 0), (10.5, "Created", 2)];
        let expected = [(1, Some(1.0), Some(12.0)), (2, Some(10.5), None)];
        assert_eq!(told(&[first, begun]), expected);
        // Who had it between by the one clock had it before.
        let first: &[_] = &[
            (11.0, "Created", 1),
            (12.0, "Deleted", 1),
            (12.1, "Created", 3),
            (12.2, "Deleted", 3),
        ];
        let expected =
            [(2, Some(10.0), None), (1, Some(11.0), Some(12.0)), (3, Some(12.1), Some(12.2))];
        assert_eq!(told(&[first, &[(10.0, "Created", 2)]]), expected);
        // Farther apart, they are what they say.
        let first: &[_] = &[(1.0, "Created", 1), (14.0, "Deleted", 1)];
        let expected = [(1, None, Some(14.0)), (1, Some(1.0), Some(10.0)), (2, Some(10.0), None)];
        assert_eq!(told(&[first, &[(10.0, "Created", 2)]]), expected);
    }

    #[test]
    fn what_is_ended_was_begun_before_though_its_time_is_later() {
        let first: &[_] = &[(12.0, "Created", 1)];
        let second: &[_] = &[(10.0, "Deleted", 1), (10.0, "Created", 2)];
        let expected = [(2, Some(10.0), None), (1, Some(12.0), Some(10.0))];
        assert_eq!(told(&[first, second]), expected);
        // What began before all lines, and was the same client's again later.
        let first: &[_] = &[(10.0, "Deleted", 1), (11.0, "Created", 1), (40.0, "Deleted", 1)];
        let expected = [(1, None, Some(10.0)), (1, Some(11.0), Some(40.0))];
        assert_eq!(told(&[first]), expected);
    }

    /// Within one second a table is lost, and a port is the same client's again and then not.
    #[test]
    fn what_comes_soon_after_another_stays_where_it_is() {
        let lines: &[_] = &[
            (1.0, "Created", 1),
            (10.0, "Initialized", 0),
            (10.1, "Created", 1),
            (10.2, "Deleted", 1),
            (10.3, "Created", 1),
            // A line that stands there twice.
            (10.3, "Created", 1),
            (10.4, "Deleted", 1),
        ];
        let all =
            [(1, Some(1.0), Some(10.0)), (1, Some(10.1), Some(10.2)), (1, Some(10.3), Some(10.4))];
        assert_eq!(told(&[lines]), all);
    }
}
