//! Whom addresses of the pool stand for, now and for some time back, from the lines of the event
//! log in their order.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::Ipv4Addr;

use foldhash::fast::RandomState;
use ipnet::Ipv6Net;

use crate::handoff::change::Timestamp;
use crate::handoff::entry::TableKey;
use crate::handoff::logged::{LoggedKind, LoggedLine};
use crate::handoff::naming::Naming;
use crate::programs::annotate::found::HadBy;
use crate::programs::annotate::ports::KEPT_FOR;
use crate::programs::who::when::TimeSpan;

/// The most that ended and are known: 100 MB. From then on less far back.
const ENDED_MAX: usize = 1 << 20;

/// All addresses.
#[derive(Debug, Default)]
pub struct PoolHistory {
    addresses: HashMap<Ipv4Addr, VecDeque<NamedTime>, RandomState>,
    /// Blocks of which an address was named at some time.
    blocks: HashSet<TableKey, RandomState>,
    /// Addresses whose first time ended, in that order.
    ended: VecDeque<(Timestamp, Ipv4Addr)>,
    /// What ended before is not known.
    since: Timestamp,
}

/// An address stands for a client for a time.
#[derive(Debug, Clone, Copy)]
struct NamedTime {
    client: Ipv6Net,
    from: Timestamp,
    /// MAX: still.
    until: Timestamp,
    /// From then on, perhaps not any more.
    doubt: Timestamp,
}

impl PoolHistory {
    /// Begins with what the history of the log says of the time before it.
    pub fn begin(&mut self, since: Timestamp, names: Vec<Naming>) {
        self.since = since;
        for Naming { pool, client, from, until, perhaps_until } in names {
            let time = NamedTime {
                client,
                from: from.unwrap_or_default(),
                until: Timestamp::MAX,
                doubt: perhaps_until.unwrap_or(Timestamp::MAX),
            };
            self.push(pool, time);
            if let Some(until) = until {
                self.end(pool, until);
            }
        }
    }

    /// The next line of the log.
    pub fn take(&mut self, line: &LoggedLine) {
        let (at, pool) = (line.at, line.nat64);
        let last = self.addresses.get(&pool).and_then(VecDeque::back).copied();
        let open = last.filter(|last| last.until == Timestamp::MAX);
        match line.kind {
            LoggedKind::Named(client) => {
                // A line that stands there twice says nothing new.
                let is_known = |last: NamedTime| last.client == client && last.doubt > at;
                if open.is_some_and(is_known) {
                    return;
                }
                self.end(pool, at);
                let never = Timestamp::MAX;
                self.push(pool, NamedTime { client, from: at, until: never, doubt: never });
            }
            LoggedKind::Unnamed(client) if open.is_some_and(|last| last.client == client) => {
                // In spite of any doubt, it was so.
                if let Some(last) = self.addresses.get_mut(&pool).and_then(VecDeque::back_mut) {
                    last.doubt = Timestamp::MAX;
                }
                self.end(pool, at);
            }
            LoggedKind::Unnamed(client) => {
                // It is not known since when: since the one before, or before the log begins.
                self.end(pool, at);
                let from = last.map_or(Timestamp::default(), |last| last.until.min(at));
                let never = Timestamp::MAX;
                self.push(pool, NamedTime { client, from, until: never, doubt: never });
                self.end(pool, at);
            }
            _ => {}
        }
    }

    fn push(&mut self, pool: Ipv4Addr, time: NamedTime) {
        self.blocks.insert(TableKey::block_of(pool));
        self.addresses.entry(pool).or_default().push_back(time);
    }

    /// Ends what there is of an address, if anything is.
    fn end(&mut self, pool: Ipv4Addr, at: Timestamp) {
        let Some(last) = self.addresses.get_mut(&pool).and_then(VecDeque::back_mut) else { return };
        if last.until != Timestamp::MAX {
            return;
        }
        last.until = at;
        self.ended.push_back((at, pool));
        while self.ended.len() > ENDED_MAX {
            self.forget_first();
        }
    }

    /// What ended so long before that time that nobody is to ask about it.
    pub fn forget_before(&mut self, at: Timestamp) {
        let old = at.as_micros().saturating_sub(KEPT_FOR);
        while self.ended.front().is_some_and(|(until, _)| until.as_micros() < old) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        let Some((until, pool)) = self.ended.pop_front() else { return };
        self.since = self.since.max(until);
        if let Some(times) = self.addresses.get_mut(&pool) {
            times.pop_front();
            if times.is_empty() {
                self.addresses.remove(&pool);
            }
        }
    }

    /// Whether an address of its block was named at some time.
    pub fn has(&self, pool: Ipv4Addr) -> bool {
        !self.blocks.is_empty() && self.blocks.contains(&TableKey::block_of(pool))
    }

    /// Whom an address stood for in all of a time.
    pub fn named(&self, pool: Ipv4Addr, span: TimeSpan) -> HadBy<Ipv6Net> {
        if !self.has(pool) {
            return HadBy::Stranger;
        }
        let times = self.addresses.get(&pool).into_iter().flatten();
        let mut then = times.rev().filter(|time| time.from <= span.until && time.until > span.from);
        match then.next() {
            Some(last) if last.doubt <= span.until => HadBy::Doubtful,
            Some(last) if then.any(|before| before.client != last.client) => {
                HadBy::Several(last.client)
            }
            Some(last) if last.from <= span.from || span.from >= self.since => {
                HadBy::Client(last.client)
            }
            _ if span.from < self.since => HadBy::Past,
            _ => HadBy::Nobody,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 7);

    fn minute(minute: u64) -> Timestamp {
        Timestamp::from_micros(1_552_903_200_000_000 + minute * 60_000_000)
    }

    fn history(lines: &[&str]) -> PoolHistory {
        let mut history = PoolHistory::default();
        for line in lines {
            let (minute, rest) = line.split_once(' ').unwrap();
            let line = format!("2019-03-18 10:{minute}:00.000000 {rest}");
            history.take(&LoggedLine::parse(&line).unwrap());
        }
        history
    }

    fn at(history: &PoolHistory, from: u64, until: u64) -> HadBy<Ipv6Net> {
        history.named(POOL, TimeSpan { from: minute(from), until: minute(until) })
    }

    fn client(last: u8) -> Ipv6Net {
        format!("2001:db8::{last:x}/128").parse().unwrap()
    }

    #[test]
    fn only_in_the_time_in_which_it_was_named() {
        let history = history(&[
            "10 Named 100.64.0.7 [2001:db8::1]",
            "11 Named 100.64.0.7 [2001:db8::1]",
            "20 Unnamed 100.64.0.7 [2001:db8::1]",
            "30 Named 100.64.0.7 [2001:db8::2]",
            "40 Named 100.64.0.7 [2001:db8::3]",
            "50 Unnamed 100.64.0.9 [2001:db8::9]",
        ]);
        for (from, until, expected) in [
            (5, 9, HadBy::Nobody),
            (5, 10, HadBy::Client(client(1))),
            (10, 19, HadBy::Client(client(1))),
            (20, 29, HadBy::Nobody),
            (19, 30, HadBy::Several(client(2))),
            (30, 39, HadBy::Client(client(2))),
            (39, 40, HadBy::Several(client(3))),
            (50, 50, HadBy::Client(client(3))),
        ] {
            assert_eq!(at(&history, from, until), expected, "{from} {until}");
        }
        let other = |last: u8, then: u64| {
            let span = TimeSpan::moment(minute(then));
            history.named(Ipv4Addr::new(100, 64, 0, last), span)
        };
        assert_eq!(other(9, 40), HadBy::Client(client(9)), "since before the log begins");
        assert_eq!(other(9, 50), HadBy::Nobody);
        assert_eq!(other(8, 40), HadBy::Nobody, "of its block");
        assert_eq!(other(64, 40), HadBy::Stranger);
        assert_eq!(at(&PoolHistory::default(), 1, 1), HadBy::Stranger);
    }

    #[test]
    fn what_the_history_says_and_what_is_in_doubt() {
        let name = |last, from, until: Option<u64>, doubt: Option<u64>| Naming {
            pool: POOL,
            client: client(last),
            from: Some(minute(from)),
            until: until.map(minute),
            perhaps_until: doubt.map(minute),
        };
        let names = vec![name(1, 2, Some(8), None), name(2, 8, None, Some(12))];
        let mut history = PoolHistory::default();
        history.begin(minute(1), names);
        assert_eq!(at(&history, 0, 0), HadBy::Past);
        assert_eq!(at(&history, 2, 7), HadBy::Client(client(1)));
        assert_eq!(at(&history, 8, 11), HadBy::Client(client(2)));
        assert_eq!(at(&history, 8, 12), HadBy::Doubtful);
        let line = "2019-03-18 10:20:00.000000 Unnamed 100.64.0.7 [2001:db8::2]";
        history.take(&LoggedLine::parse(line).unwrap());
        assert_eq!(at(&history, 12, 19), HadBy::Client(client(2)), "it was so");
    }

    #[test]
    fn what_ended_long_ago_is_forgotten() {
        let mut history = history(&[
            "10 Named 100.64.0.7 [2001:db8::1]",
            "20 Unnamed 100.64.0.7 [2001:db8::1]",
            "30 Named 100.64.0.7 [2001:db8::2]",
        ]);
        history.forget_before(minute(20 + 120));
        assert_eq!(at(&history, 15, 15), HadBy::Client(client(1)));
        history.forget_before(minute(21 + 120));
        assert_eq!(at(&history, 15, 15), HadBy::Past);
        assert_eq!(at(&history, 35, 35), HadBy::Client(client(2)));
        assert_eq!(history.ended.len(), 0);
    }
}
