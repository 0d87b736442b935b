//! Which client has which port of a NAT64, now and for some time back, from the lines of the event
//! log in their order.
//!
//! What is held now is as much as the server's tables have. What ended is kept for [`KEPT_FOR`],
//! and at most [`ENDED_MAX`] of it.

use std::collections::{HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};

use foldhash::fast::RandomState;

use crate::handoff::change::Timestamp;
use crate::handoff::logged::{LoggedEntry, LoggedKind, LoggedLine};
use crate::programs::annotate::found::{FoundClients, HadBy};
use crate::programs::annotate::records::{HeldTime, PortRecord, PortRecords};
use crate::programs::who::when::TimeSpan;

/// How far back lines of an access log may be behind those above them.
pub const KEPT_FOR: u64 = 2 * 3_600 * 1_000_000;
/// The most that ended and is known: 320 MB. From then on less far back.
const ENDED_MAX: usize = 1 << 22;
/// The most ports that are held at once: 4 GB at most. The server's tables have fewer.
const HELD_MAX: usize = 1 << 25;
/// The most clients of one port that are looked at, back from now.
const LOOKED_AT_MAX: usize = 1 << 12;
/// An entry that a NAT64 made itself, as it did not know the server yet, is in the log when it is
/// reported, and its connection may be over by then.
pub const REPORTED_LATE: u64 = 10 * 1_000_000;
/// Of a port, what ended so much before something else in the log ended before it.
const DISORDER: u64 = 60 * 1_000_000;
/// No place among those that ended.
const NONE: u64 = u64::MAX;

/// All ports.
#[derive(Debug, Default)]
pub struct PortHistory {
    nat64s: HashMap<Ipv4Addr, Nat64Ports, RandomState>,
    held: usize,
    /// In the order of the log.
    ended: VecDeque<EndedTime>,
    /// The place of the first of them.
    first: u64,
    /// What ended before is not known.
    since: Timestamp,
    /// Lines of these times are missing: as many as files of the history are.
    gaps: Vec<TimeSpan>,
}

#[derive(Debug, Default)]
struct Nat64Ports {
    ports: PortRecords,
    /// The log showed that it has several tables.
    has_several: bool,
}

#[derive(Debug)]
struct EndedTime {
    nat64: SocketAddrV4,
    time: HeldTime,
    until: Timestamp,
    /// The place of the one before, of the same port.
    before: u64,
}

impl PortHistory {
    /// The next line of the log. False where it would be more than there is room for.
    #[must_use]
    pub fn take(&mut self, line: &LoggedLine) -> bool {
        match &line.kind {
            LoggedKind::Created(entry) => self.created(line, entry),
            LoggedKind::Deleted(entry) => self.deleted(line, entry),
            LoggedKind::Initialized => self.initialized(line),
            LoggedKind::Conflict(entry) => self.conflict(line, entry),
            LoggedKind::Forgotten | LoggedKind::Named(_) | LoggedKind::Unnamed(_) => {}
        }
        while self.ended.len() > ENDED_MAX {
            self.forget_first();
        }
        self.held <= HELD_MAX
    }

    /// A line of older days says that a port came to a client, by what was known later of when it
    /// began to be in doubt. False where there is no room.
    #[must_use]
    pub fn began(&mut self, line: &LoggedLine, doubt: Timestamp) -> bool {
        let Some(entry) = line.entry() else { return true };
        let client = (entry.client, entry.client_port);
        let port = self.port(line.nat64, entry.port);
        if port.all().any(|held| held.is_at(line.local) && held.client == client) {
            self.went_on(line, doubt);
        } else {
            self.begin(line, entry, doubt, |held| held.doubt <= line.at);
        }
        self.held <= HELD_MAX
    }

    /// What is known later of a client that has a port: from when on it is in doubt.
    pub fn went_on(&mut self, line: &LoggedLine, doubt: Timestamp) {
        let Some(entry) = line.entry() else { return };
        let client = (entry.client, entry.client_port);
        let mut all = self.port(line.nat64, entry.port).all_mut();
        if let Some(held) = all.find(|held| held.is_at(line.local) && held.client == client) {
            // It may have it in another table, too.
            held.doubt = if held.from == line.at { doubt } else { held.doubt.max(doubt) };
        }
    }

    /// A line of older days says that a port is a client's no more, but not that it was until then.
    pub fn given_up(&mut self, line: &LoggedLine) {
        let Some(entry) = line.entry() else { return };
        let client = (entry.client, entry.client_port);
        let port = self.port(line.nat64, entry.port);
        if let Some(held) = port.take(|held| held.is_at(line.local) && held.client == client) {
            self.held -= 1;
            self.end(line.nat64, entry.port, held, line.at);
        }
    }

    /// Nothing is known of before that time.
    pub fn begin_at(&mut self, since: Timestamp) {
        self.since = since;
    }

    /// Lines are missing from that time on, until then: who has a port may have lost it.
    pub fn doubt_since(&mut self, at: Timestamp, until: Timestamp) {
        self.gap(at, until);
        let records = self.nat64s.values_mut().flat_map(|nat64| nat64.ports.iter_mut());
        for held in records.flat_map(|(_, record)| record.all_mut()) {
            held.doubt = held.doubt.min(at);
        }
    }

    /// Lines of that time are missing, and what comes next says anew who has ports. Only who had a
    /// port before, and has it behind that, had it in between.
    pub fn pass_gap(&mut self, from: Timestamp, until: Timestamp) {
        let mut over = Vec::new();
        for (&nat64, Nat64Ports { ports, .. }) in &mut self.nat64s {
            for (port, record) in ports.iter_mut() {
                while let Some(held) = record.take(|_| true) {
                    over.push((nat64, port, held));
                }
            }
        }
        self.held = 0;
        over.into_iter().for_each(|(nat64, port, held)| self.end(nat64, port, held, from));
        while self.ended.len() > ENDED_MAX {
            self.forget_first();
        }
        self.gap(from, until);
    }

    fn gap(&mut self, from: Timestamp, until: Timestamp) {
        // Who came just then may have come before, and the one who came first may be missing.
        let from = Timestamp::from_micros(from.as_micros().saturating_sub(REPORTED_LATE));
        self.gaps.push(TimeSpan { from, until });
    }

    /// What ended so long before that time that nobody is to ask about it.
    pub fn forget_before(&mut self, at: Timestamp) {
        let old = at.as_micros().saturating_sub(KEPT_FOR);
        while self.ended.front().is_some_and(|ended| ended.until.as_micros() < old) {
            self.forget_first();
        }
    }

    fn created(&mut self, line: &LoggedLine, entry: &LoggedEntry) {
        let client = (entry.client, entry.client_port);
        let port = self.port(line.nat64, entry.port);
        let is_clients = |held: &HeldTime| held.is_at(line.local) && held.client == client;
        // A line that stands there twice says nothing new.
        if !port.all().any(|held| is_clients(held) && !held.is_in_doubt()) {
            self.begin(line, entry, Timestamp::MAX, HeldTime::is_in_doubt);
        }
    }

    /// A port comes to a client, which has it in doubt from `doubt` on.
    fn begin(
        &mut self,
        line: &LoggedLine,
        entry: &LoggedEntry,
        doubt: Timestamp,
        is_in_doubt: impl Fn(&HeldTime) -> bool,
    ) {
        let client = (entry.client, entry.client_port);
        let nat64 = self.nat64s.entry(line.nat64).or_default();
        let port = nat64.ports.get_or_insert(entry.port, PortRecord::new(NONE));
        nat64.has_several |= port
            .all()
            .any(|held| !is_in_doubt(held) && (held.local.is_none() || line.local.is_none()));
        let has_several = nat64.has_several;
        // A table has one client on a port. Without the server's address it may be another table,
        // if the NAT64 has several.
        let is_over = |held: &HeldTime| {
            held.is_at(line.local) && held.client == client
                || held.local.is_some() && held.local == line.local
                || !has_several && is_in_doubt(held) && held.is_at(line.local)
        };
        let conflict = Timestamp::MAX;
        let mut over = Vec::new();
        while let Some(held) = port.take(is_over) {
            over.push(held);
        }
        port.push(HeldTime { client, local: line.local, from: line.at, doubt, conflict });
        self.held += 1;
        for held in over {
            self.held -= 1;
            self.end(line.nat64, entry.port, held, line.at);
        }
    }

    fn deleted(&mut self, line: &LoggedLine, entry: &LoggedEntry) {
        let client = (entry.client, entry.client_port);
        let port = self.port(line.nat64, entry.port);
        let is_it = |held: &HeldTime| held.is_at(line.local) && held.client == client;
        let (found, last) = (port.take(is_it), port.ended);
        self.held -= usize::from(found.is_some());
        if found.is_some_and(|found| found.is_in_doubt()) {
            self.nat64s.entry(line.nat64).or_default().has_several = true;
        }
        // Where it is not known since when, since the one before, or before the log begins; but not
        // while lines were missing.
        let gap = self.gaps.last().map_or(Timestamp::default(), |gap| gap.until);
        let from = || self.place(last).map_or(gap, |ended| ended.until.max(gap));
        let held = match found {
            // In spite of any doubt, it was there.
            Some(found) => HeldTime { doubt: Timestamp::MAX, ..found },
            None => {
                let never = Timestamp::MAX;
                HeldTime { client, local: line.local, from: from(), doubt: never, conflict: never }
            }
        };
        self.end(line.nat64, entry.port, held, line.at);
    }

    fn end(&mut self, nat64: Ipv4Addr, port: u16, time: HeldTime, at: Timestamp) {
        let place = self.first + self.ended.len() as u64;
        let before = std::mem::replace(&mut self.port(nat64, port).ended, place);
        let nat64 = SocketAddrV4::new(nat64, port);
        self.ended.push_back(EndedTime { nat64, time, until: at.min(time.doubt), before });
    }

    /// What the NAT64 said may have been so for a while.
    fn conflict(&mut self, line: &LoggedLine, entry: &LoggedEntry) {
        let record = self.port(line.nat64, entry.port);
        record.set_conflict(line.at);
        let since = line.at.as_micros().saturating_sub(REPORTED_LATE);
        for held in record.all_mut().filter(|held| held.is_at(line.local)) {
            held.conflict = held.conflict.min(Timestamp::from_micros(since));
        }
    }

    /// The server does not know the NAT64: it has no entry of it in that table.
    fn initialized(&mut self, line: &LoggedLine) {
        let mut over = Vec::new();
        for (port, record) in self.nat64s.entry(line.nat64).or_default().ports.iter_mut() {
            while let Some(held) =
                record.take(|held| held.local.is_some() && held.local == line.local)
            {
                over.push((port, held));
            }
            for held in record.all_mut().filter(|held| held.is_at(line.local)) {
                held.doubt = held.doubt.min(line.at);
            }
        }
        for (port, held) in over {
            self.held -= 1;
            self.end(line.nat64, port, held, line.at);
        }
    }

    fn port(&mut self, nat64: Ipv4Addr, port: u16) -> &mut PortRecord {
        let nat64 = self.nat64s.entry(nat64).or_default();
        nat64.ports.get_or_insert(port, PortRecord::new(NONE))
    }

    fn forget_first(&mut self) {
        let Some(ended) = self.ended.pop_front() else { return };
        self.since = self.since.max(ended.until);
        let place = self.first;
        self.first += 1;
        let (nat64, port) = (*ended.nat64.ip(), ended.nat64.port());
        // A NAT64 stays known.
        let Some(Nat64Ports { ports, .. }) = self.nat64s.get_mut(&nat64) else { return };
        if ports.get(port).is_some_and(|record| record.ended == place && record.is_free()) {
            ports.remove(port);
        }
    }

    /// Whether the log has the NAT64.
    pub fn knows(&self, nat64: Ipv4Addr) -> bool {
        self.nat64s.contains_key(&nat64)
    }

    /// Who had it; `local` is the address of the server, if that is asked for.
    pub fn had_by(&self, nat64: SocketAddrV4, local: Option<Ipv4Addr>, span: TimeSpan) -> HadBy {
        let Some(Nat64Ports { ports, .. }) = self.nat64s.get(nat64.ip()) else {
            return HadBy::Stranger;
        };
        let is_gap = |gap: &TimeSpan| span.from < gap.until && span.until >= gap.from;
        let unknown = match span.from < self.since {
            true => Some(HadBy::Past),
            false => self.gaps.iter().any(is_gap).then_some(HadBy::Doubtful),
        };
        let Some(record) = ports.get(nat64.port()) else {
            return unknown.unwrap_or(HadBy::Nobody);
        };
        let (had_by, is_covered) = self.holder(record, local, span);
        if let Some(unknown) = unknown {
            // Who had it before and after had it all the time.
            let is_sure = is_covered && matches!(had_by, HadBy::Client(_));
            return if is_sure { had_by } else { unknown };
        }
        let is_contradicted = record.conflict().is_some_and(|at| {
            at.as_micros().saturating_add(2 * REPORTED_LATE) >= span.from.as_micros()
        });
        if had_by != HadBy::Nobody || is_contradicted {
            return had_by;
        }
        let until = Timestamp::from_micros(span.until.as_micros().saturating_add(REPORTED_LATE));
        self.holder(record, local, TimeSpan { until, ..span }).0
    }

    /// And whether one had it before and after.
    fn holder(
        &self,
        record: &PortRecord,
        local: Option<Ipv4Addr>,
        span: TimeSpan,
    ) -> (HadBy, bool) {
        let mut found = FoundClients::default();
        for held in record.all().filter(|held| held.is_at(local) && held.from <= span.until) {
            found.doubt |= held.doubt <= span.until;
            found.add(held, held.from <= span.from, span);
        }
        let mut place = record.ended;
        for _ in 0..LOOKED_AT_MAX {
            // What was forgotten ended before the time that is asked about.
            let Some(ended) = self.place(place) else { return found.had_by() };
            let EndedTime { time, until, before, .. } = ended;
            if until.as_micros().saturating_add(DISORDER) < span.from.as_micros() {
                return found.had_by();
            }
            if *until > span.from && time.is_at(local) && time.from <= span.until {
                found.add(time, time.from <= span.from && *until > span.until, span);
            }
            place = *before;
        }
        (HadBy::Past, false)
    }

    fn place(&self, place: u64) -> Option<&EndedTime> {
        let index = place.checked_sub(self.first)?;
        self.ended.get(usize::try_from(index).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;
    use crate::programs::annotate::records::ClientPort;

    /// Minutes of an hour, as those of lines.
    fn at(minute: u64, micros: u64) -> Timestamp {
        Timestamp::from_micros(1_552_903_200_000_000 + minute * 60_000_000 + micros)
    }

    fn history(lines: &[&str]) -> PortHistory {
        let mut history = PortHistory::default();
        for line in lines {
            let line = LoggedLine::parse(&format!("2019-03-18 10:{line}")).unwrap();
            assert!(history.take(&line));
        }
        history
    }

    fn nat64() -> SocketAddrV4 {
        "192.0.2.7:3719".parse().unwrap()
    }

    fn client(last: u16) -> ClientPort {
        (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last), 1)
    }

    fn second(minute: u64) -> TimeSpan {
        TimeSpan { from: at(minute, 0), until: at(minute, 999_999) }
    }

    #[test]
    fn who_had_a_port_in_a_second() {
        let history = history(&[
            "01:00.000000 Initialized 192.0.2.7",
            "02:00.500000 Created 192.0.2.7:3719 [2001:db8::a]:1",
            "03:00.500000 Deleted 192.0.2.7:3719 [2001:db8::a]:1",
            "03:00.500000 Created 192.0.2.7:3719 [2001:db8::b]:1",
            "04:00.500000 Deleted 192.0.2.7:3719 [2001:db8::b]:1",
            "05:00.500000 Created 192.0.2.7:3719 [2001:db8::a]:1",
            "05:30.000000 Conflict 192.0.2.7:3720 [2001:db8::c]:1",
            "06:00.500000 Deleted 192.0.2.7:3719 [2001:db8::a]:1",
            "06:00.600000 Created 192.0.2.7:3719 [2001:db8::a]:1",
        ]);
        let had_by = |minute| history.had_by(nat64(), None, second(minute));
        let expected = [
            (1, HadBy::Nobody),
            // Nobody else had it in that second.
            (2, HadBy::Client(client(0xa))),
            (3, HadBy::Several(client(0xb))),
            (4, HadBy::Client(client(0xb))),
            (5, HadBy::Client(client(0xa))),
            (6, HadBy::Client(client(0xa))),
            (7, HadBy::Client(client(0xa))),
        ];
        for (minute, expected) in expected {
            assert_eq!(had_by(minute), expected, "{minute}");
        }
        // It was reported a few seconds later.
        let before = |seconds: u64| {
            let at = Timestamp::from_micros(at(2, 500_000).as_micros() - seconds * 1_000_000);
            history.had_by(nat64(), None, TimeSpan::moment(at))
        };
        assert_eq!((before(10), before(11)), (HadBy::Client(client(0xa)), HadBy::Nobody));
        let moment = |micros| TimeSpan::moment(at(3, micros));
        let had_at = |micros| history.had_by(nat64(), None, moment(micros));
        assert_eq!(had_at(499_999), HadBy::Client(client(0xa)));
        assert_eq!(had_at(500_000), HadBy::Client(client(0xb)), "from then on");
        let other = SocketAddrV4::new(*nat64().ip(), 3720);
        assert_eq!(history.had_by(other, None, second(3)), HadBy::Nobody);
        let stranger = "192.0.2.8:3719".parse().unwrap();
        assert_eq!(history.had_by(stranger, None, second(3)), HadBy::Stranger);
        assert!(history.knows(*nat64().ip()) && !history.knows(*stranger.ip()));
    }

    #[test]
    fn what_the_log_begins_with() {
        let history = history(&[
            "03:00.500000 Deleted 192.0.2.7:3719 [2001:db8::a]:1",
            "03:00.500000 Created 192.0.2.7:3719 [2001:db8::b]:1",
        ]);
        assert_eq!(history.had_by(nat64(), None, second(2)), HadBy::Client(client(0xa)));
    }

    #[test]
    fn tables_of_several_addresses_of_the_server() {
        let [first, second_local] = [5, 6].map(|last| Some(Ipv4Addr::new(203, 0, 113, last)));
        let lines = [
            "01:00.000000 Initialized 192.0.2.7 to 203.0.113.5",
            "02:00.000000 Created 192.0.2.7:3719 [2001:db8::a]:1 to 203.0.113.5 via 64:ff9b::/96",
            "03:00.000000 Initialized 192.0.2.7 to 203.0.113.6",
            "03:00.000000 Created 192.0.2.7:3719 [2001:db8::b]:1 to 203.0.113.6 via 64:ff9b::/96",
            "05:00.000000 Created 192.0.2.7:3719 [2001:db8::c]:1 to 203.0.113.6 via 64:ff9b::/96",
            "06:00.000000 Initialized 192.0.2.7 to 203.0.113.5",
        ];
        let history = history(&lines);
        let had_by = |local, minute| history.had_by(nat64(), local, second(minute));
        assert_eq!(had_by(first, 4), HadBy::Client(client(0xa)));
        assert_eq!(had_by(second_local, 4), HadBy::Client(client(0xb)));
        assert_eq!(had_by(None, 4), HadBy::Several(client(0xb)));
        assert_eq!(had_by(second_local, 7), HadBy::Client(client(0xc)));
        assert_eq!(had_by(first, 7), HadBy::Nobody);
        assert_eq!(had_by(None, 7), HadBy::Client(client(0xc)));
    }

    #[test]
    fn a_table_that_begins_anew_leaves_a_doubt() {
        let mut history = history(&[
            "02:00.000000 Created 192.0.2.7:3719 [2001:db8::a]:1",
            "04:00.000000 Initialized 192.0.2.7",
        ]);
        let had_by = |history: &PortHistory| history.had_by(nat64(), None, second(5));
        assert_eq!(history.had_by(nat64(), None, second(3)), HadBy::Client(client(0xa)));
        assert_eq!(had_by(&history), HadBy::Doubtful);
        let line = "2019-03-18 10:06:00.000000 Deleted 192.0.2.7:3719 [2001:db8::a]:1";
        assert!(history.take(&LoggedLine::parse(line).unwrap()));
        assert_eq!(had_by(&history), HadBy::Client(client(0xa)), "it was another table");
    }

    #[test]
    fn a_new_client_ends_the_doubt_where_there_is_one_table() {
        let lines = [
            "02:00.000000 Created 192.0.2.7:3719 [2001:db8::a]:1",
            "04:00.000000 Initialized 192.0.2.7",
            "06:00.000000 Created 192.0.2.7:3719 [2001:db8::b]:1",
        ];
        let had_by = |lines: &[&str], minute| history(lines).had_by(nat64(), None, second(minute));
        assert_eq!(had_by(&lines, 7), HadBy::Client(client(0xb)));
        // Another port showed that there are two.
        let two = [
            "01:00.000000 Created 192.0.2.7:9 [2001:db8::c]:1",
            "01:01.000000 Created 192.0.2.7:9 [2001:db8::d]:1",
        ];
        assert_eq!(had_by(&[&two[..], &lines].concat(), 7), HadBy::Doubtful);
    }

    #[test]
    fn what_the_nat64_contradicts_is_in_doubt() {
        let history = history(&[
            "02:00.000000 Created 192.0.2.7:3719 [2001:db8::a]:1",
            "04:00.000000 Conflict 192.0.2.7:3719 [2001:db8::c]:1",
            "06:00.000000 Deleted 192.0.2.7:3719 [2001:db8::a]:1",
            "06:00.000000 Created 192.0.2.7:3719 [2001:db8::b]:1",
        ]);
        let had_at = |time| history.had_by(nat64(), None, TimeSpan::moment(time));
        assert_eq!(had_at(at(3, 49_999_999)), HadBy::Client(client(0xa)));
        assert_eq!(had_at(at(3, 50_000_000)), HadBy::Doubtful, "it was so before it was said");
        assert_eq!(had_at(at(5, 0)), HadBy::Doubtful);
        assert_eq!(had_at(at(6, 0)), HadBy::Client(client(0xb)));
    }

    #[test]
    fn what_ended_long_ago_is_forgotten() {
        let mut history = history(&[
            "01:00.000000 Created 192.0.2.7:1 [2001:db8::a]:1",
            "02:00.000000 Created 192.0.2.7:3719 [2001:db8::a]:1",
            "03:00.000000 Deleted 192.0.2.7:3719 [2001:db8::a]:1",
        ]);
        let line = "2019-03-18 12:03:00.000001 Created 192.0.2.7:2 [2001:db8::a]:1";
        let line = LoggedLine::parse(line).unwrap();
        assert!(history.take(&line));
        history.forget_before(line.at);
        assert_eq!(history.ended.len(), 0);
        assert_eq!(history.nat64s[nat64().ip()].ports.len(), 2);
        assert_eq!(history.had_by(nat64(), None, second(2)), HadBy::Past);
        assert_eq!(history.had_by(nat64(), None, second(3)), HadBy::Nobody);
        let held = SocketAddrV4::new(*nat64().ip(), 1);
        assert_eq!(history.had_by(held, None, second(4)), HadBy::Client(client(0xa)));
        let all_the_time = history.had_by(held, None, second(2));
        assert_eq!(all_the_time, HadBy::Client(client(0xa)), "whatever is forgotten");
    }

    #[test]
    fn lines_that_are_missing() {
        let mut history = history(&[
            "01:00.000000 Created 192.0.2.7:3719 [2001:db8::a]:1",
            "01:00.000000 Created 192.0.2.7:3720 [2001:db8::b]:1",
        ]);
        history.pass_gap(at(10, 0), at(20, 0));
        for (port, client, from) in [(3719, 'c', 15), (3720, 'b', 1)] {
            let line = format!("{} Created 192.0.2.7:{port} [2001:db8::{client}]:1", at(from, 0));
            assert!(history.began(&LoggedLine::parse(&line).unwrap(), Timestamp::MAX));
        }
        let had_by = |minute| history.had_by(nat64(), None, second(minute));
        let (a, c) = (HadBy::Client(client(0xa)), HadBy::Client(client(0xc)));
        let expected =
            [(5, a), (9, a), (10, HadBy::Doubtful), (14, HadBy::Doubtful), (16, c), (25, c)];
        assert_eq!(expected.map(|(minute, _)| (minute, had_by(minute))), expected);
        let other = SocketAddrV4::new(*nat64().ip(), 3720);
        for minute in [5, 10, 14, 25] {
            assert_eq!(history.had_by(other, None, second(minute)), HadBy::Client(client(0xb)));
        }
        let never = SocketAddrV4::new(*nat64().ip(), 3721);
        assert_eq!(history.had_by(never, None, second(14)), HadBy::Doubtful);
        assert_eq!(history.had_by(never, None, second(25)), HadBy::Nobody);
    }

    /// A port that changes hands all the time, and nothing more than the bound is kept.
    #[test]
    fn a_port_that_changes_hands_all_the_time() {
        let mut history = PortHistory::default();
        for number in 0..2 * LOOKED_AT_MAX as u64 {
            let client = |number: u64| format!("[2001:db8::{number:x}]:1");
            let time = at(0, 100_000 * number);
            for (kind, number) in [("Deleted", number), ("Created", number + 1)] {
                let line = format!("{time} {kind} 192.0.2.7:3719 {}", client(number));
                assert!(history.take(&LoggedLine::parse(&line).unwrap()));
            }
        }
        let had_at =
            |micros| history.had_by(nat64(), None, TimeSpan::moment(at(0, 100_000 * micros)));
        assert!(matches!(had_at(2 * LOOKED_AT_MAX as u64 - 10), HadBy::Client(_)));
        assert_eq!(had_at(1), HadBy::Past);
    }
}
