//! [`CellLive`]: the live TCP connections with the NAT64s of a table are on whichever hosts the
//! network has led them to, and its owner alone deletes entries. So it asks the others for those of
//! the tables where an entry has to go for a new one, or soon will have to, and passes over these
//! as over its own (PROTOCOL.md section 6).
//!
//! - The owner asks about once a second, and the others tell it as often, as long as they are
//!   asked. Nothing is asked, told or kept about other tables.
//! - What a host said last stands until it says something else, also while it is silent: only
//!   where nothing at all was heard of its run for [`CellLive::LOST_AFTER`] are its connections
//!   taken for gone.
//! - What comes is of a host that the cell has, and no older than what came.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::datagram::HostDropReason;
use super::live_part::LivePart;
use super::transaction::{HostId, HostRun};
use crate::handoff::entry::TableKey;
use crate::handoff::ports::PortSet;

/// What a host said about a table.
#[derive(Debug)]
struct LiveWord {
    run: HostRun,
    /// Of the last datagram.
    number: u64,
    at: Duration,
    ports: PortSet,
}

/// What a host asked for.
#[derive(Debug)]
struct HostAsks {
    run: HostRun,
    /// Of the last datagram.
    number: u64,
    /// Each until when.
    tables: BTreeMap<TableKey, Duration>,
}

/// What a host knows of the live connections of others, and others want to know of it.
#[derive(Debug)]
pub struct CellLive {
    me: HostRun,
    /// The other hosts of the cell.
    hosts: BTreeMap<HostId, HostRun>,
    /// When a run was heard.
    heard: BTreeMap<HostRun, Duration>,
    /// What is wanted, with what was said.
    wanted: BTreeMap<TableKey, BTreeMap<HostId, LiveWord>>,
    /// The memory that this takes.
    octets: usize,
    asks: BTreeMap<HostId, HostAsks>,
}

/// What a word takes beside its ports, about.
const WORD_OCTETS: usize = size_of::<LiveWord>() + size_of::<HostId>();

impl CellLive {
    /// How often the others are asked.
    pub const ASKED_EACH: Duration = Duration::from_secs(1);
    /// They tell for so long after they were asked: some of that may be lost.
    pub const TOLD_FOR: Duration = Duration::from_secs(5);
    /// Nothing was heard for so long of a run that its word counts no more. Longer than a restart
    /// takes, as connections outlive that.
    pub const LOST_AFTER: Duration = Duration::from_secs(60);
    /// The most tables for which the others are asked, and of which each may ask.
    pub const TABLES_MAX: usize = 1024;
    /// The most octets for what others say: what eight hosts with many connections say about each
    /// of these tables.
    pub const OCTETS_MAX: usize = 64 << 20;

    /// Of this run, which knows of no other.
    pub fn new(me: HostRun) -> Self {
        let (hosts, heard, wanted, asks) = Default::default();
        Self { me, hosts, heard, wanted, octets: 0, asks }
    }

    /// The cell has this host, in this run; or has it no more.
    pub fn host(&mut self, host: HostId, run: Option<HostRun>) {
        match run {
            Some(run) if run != self.me => drop(self.hosts.insert(host, run)),
            Some(_) => {}
            None => {
                self.hosts.remove(&host);
                self.asks.remove(&host);
            }
        }
    }

    /// A run says that it is there.
    pub fn heard(&mut self, now: Duration, run: HostRun) {
        self.heard.insert(run, now);
    }

    fn is_of_cell(&self, run: HostRun) -> Result<(), HostDropReason> {
        let known = self.hosts.get(&run.host) == Some(&run);
        known.then_some(()).ok_or(HostDropReason::UnknownHost)
    }

    /// The tables of which live connections are to be known from now on: all of them, but at most
    /// [`CellLive::TABLES_MAX`]. Whether any was not wanted before: then the others are to be asked
    /// at once.
    pub fn want(&mut self, tables: impl Iterator<Item = TableKey>) -> bool {
        let tables: BTreeSet<_> = tables.take(Self::TABLES_MAX).collect();
        for (_, words) in self.wanted.extract_if(.., |table, _| !tables.contains(table)) {
            self.octets -= words.values().map(LiveWord::octets).sum::<usize>();
        }
        let before = self.wanted.len();
        for table in tables {
            self.wanted.entry(table).or_default();
        }
        self.wanted.len() > before
    }

    /// What is wanted.
    pub fn wanted(&self) -> impl Iterator<Item = TableKey> {
        self.wanted.keys().copied()
    }

    /// A host said something about a table. Whether nothing was known of that host and table
    /// before.
    ///
    /// # Errors
    /// Why it is dropped.
    pub fn said(
        &mut self,
        now: Duration,
        from: HostRun,
        number: u64,
        part: &LivePart<'_>,
    ) -> Result<bool, HostDropReason> {
        self.is_of_cell(from)?;
        let words = self.wanted.get_mut(&part.table).ok_or(HostDropReason::Unasked)?;
        let before = words.get(&from.host);
        if before.is_some_and(|word| word.run == from && word.number > number) {
            return Err(HostDropReason::Old);
        }
        let is_other = |port: &u16| !(part.first..=part.last).contains(port);
        let others = before.into_iter().flat_map(|word| word.ports.iter());
        let others = others.map(|port| port.0).filter(is_other);
        let ports = PortSet::new(others.chain(part.ports()).collect());
        let (freed, word) =
            (before.map_or(0, LiveWord::octets), LiveWord { run: from, number, at: now, ports });
        let octets = self.octets - freed + word.octets();
        if octets > Self::OCTETS_MAX {
            return Err(HostDropReason::NoRoom);
        }
        self.octets = octets;
        Ok(words.insert(from.host, word).is_none())
    }

    /// Adds the ports of the table's NAT64 that are live elsewhere to `ports`.
    pub fn gather(&self, table: TableKey, ports: &mut Vec<u16>) {
        let words = self.wanted.get(&table).into_iter().flat_map(BTreeMap::values);
        ports.extend(words.flat_map(|word| word.ports.iter()).map(|port| port.0));
    }

    /// What was said by runs that are lost counts no more, and who asked long ago is told nothing
    /// more. To be called now and then.
    pub fn forget(&mut self, now: Duration) {
        let is_long_ago = |at: Duration| now.saturating_sub(at) >= Self::LOST_AFTER;
        self.heard.retain(|_, at| !is_long_ago(*at));
        let (heard, octets) = (&self.heard, &mut self.octets);
        for words in self.wanted.values_mut() {
            words.retain(|_, word| {
                let stands = !is_long_ago(word.at) || heard.contains_key(&word.run);
                *octets -= if stands { 0 } else { word.octets() };
                stands
            });
        }
        self.asks.retain(|_, asks| {
            asks.tables.retain(|_, until| now < *until);
            !asks.tables.is_empty()
        });
    }

    /// A host asked for the live connections of a table here. Whether nobody did before.
    ///
    /// # Errors
    /// Why that is dropped.
    pub fn asked(
        &mut self,
        now: Duration,
        from: HostRun,
        number: u64,
        tables: impl Iterator<Item = TableKey>,
    ) -> Result<bool, HostDropReason> {
        self.is_of_cell(from)?;
        let new = || HostAsks { run: from, number, tables: BTreeMap::new() };
        let asks = self.asks.entry(from.host).or_insert_with(new);
        if asks.run != from {
            *asks = new();
        }
        if number < asks.number {
            return Err(HostDropReason::Old);
        }
        asks.number = number;
        let mut asked = Ok(false);
        for table in tables {
            if asks.tables.len() >= Self::TABLES_MAX && !asks.tables.contains_key(&table) {
                asked = Err(HostDropReason::NoRoom);
                break;
            }
            let is_new = asks.tables.insert(table, now + Self::TOLD_FOR).is_none();
            asked = asked.map(|any| any | is_new);
        }
        asked
    }

    /// The tables that anybody asks for, each once.
    pub fn asked_tables(&self) -> BTreeSet<TableKey> {
        self.asks.values().flat_map(|asks| asks.tables.keys()).copied().collect()
    }

    /// Who asks for this table.
    pub fn askers(&self, table: TableKey) -> impl Iterator<Item = HostId> {
        let asks = move |(_, asks): &(&HostId, &HostAsks)| asks.tables.contains_key(&table);
        self.asks.iter().filter(asks).map(|(&host, _)| host)
    }
}

impl LiveWord {
    fn octets(&self) -> usize {
        WORD_OCTETS + self.ports.octets()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: HostRun = HostRun { host: HostId(1), number: 10 };
    const OTHER: HostRun = HostRun { host: HostId(2), number: 20 };
    const THIRD: HostRun = HostRun { host: HostId(3), number: 30 };

    fn table(number: u8) -> TableKey {
        TableKey { local: [203, 0, 113, 5].into(), nat64: [192, 0, 2, number].into() }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Whether `port` is live anywhere else.
    fn is_live(cell: &CellLive, table: TableKey, port: u16) -> bool {
        let mut ports = Vec::new();
        cell.gather(table, &mut ports);
        ports.contains(&port)
    }

    /// In a cell with the two others.
    fn cell() -> CellLive {
        let mut cell = CellLive::new(ME);
        for run in [ME, OTHER, THIRD] {
            cell.host(run.host, Some(run));
        }
        cell
    }

    /// All that is said about the ports of a table; what each part came to.
    fn say(
        cell: &mut CellLive,
        now: Duration,
        (from, number): (HostRun, u64),
        table: TableKey,
        ports: &[u16],
    ) -> Vec<Result<bool, HostDropReason>> {
        let mut came = Vec::new();
        LivePart::each_of(table, ports, |part| came.push(cell.said(now, from, number, &part)));
        came
    }

    #[test]
    fn section_6_what_others_say_counts_together_and_the_last_word_stands() {
        let mut cell = cell();
        assert_eq!(
            say(&mut cell, at(0), (OTHER, 1), table(7), &[3719]),
            [Err(HostDropReason::Unasked)]
        );
        assert!(cell.want([table(7)].into_iter()) && !cell.want([table(7)].into_iter()));
        assert!(cell.wanted().eq([table(7)]));
        assert_eq!(say(&mut cell, at(1), (OTHER, 2), table(7), &[3719]), [Ok(true)]);
        assert_eq!(say(&mut cell, at(1), (THIRD, 1), table(7), &[4000]), [Ok(true)]);
        assert!(is_live(&cell, table(7), 3719) && is_live(&cell, table(7), 4000));
        // What came before and comes again, and what is of the same time.
        let old = [Err(HostDropReason::Old)];
        assert_eq!(say(&mut cell, at(2), (OTHER, 1), table(7), &[]), old);
        assert!(is_live(&cell, table(7), 3719));
        assert_eq!(say(&mut cell, at(2), (OTHER, 2), table(7), &[3720]), [Ok(false)]);
        assert!(!is_live(&cell, table(7), 3719) && is_live(&cell, table(7), 3720));
        // One is silent, and there: for ever. The other says nothing at all.
        for second in 2..500 {
            cell.heard(at(second), OTHER);
            cell.forget(at(second));
            assert!(is_live(&cell, table(7), 3720));
            assert_eq!(is_live(&cell, table(7), 4000), second < 61, "{second}");
        }
        // It is lost.
        cell.forget(at(558));
        assert!(is_live(&cell, table(7), 3720));
        cell.forget(at(559));
        assert!(!is_live(&cell, table(7), 3720));
        assert_eq!(cell.octets, 0);
        // One that is not heard, but says this, as it has given its tables away.
        for (number, second) in (600..900).enumerate() {
            let came = say(&mut cell, at(second), (THIRD, 2 + number as u64), table(7), &[1024]);
            assert_eq!(came, [Ok(number == 0)]);
            cell.forget(at(second));
        }
        assert!(is_live(&cell, table(7), 1024));
        // Nobody wants to know it any more.
        assert!(!cell.want(std::iter::empty()));
        assert_eq!((cell.octets, cell.wanted().count()), (0, 0));
        assert!(!is_live(&cell, table(7), 1024));
    }

    #[test]
    fn section_6_a_part_that_is_lost_leaves_what_was_said_before() {
        let mut cell = cell();
        cell.want([table(7)].into_iter());
        let all: Vec<u16> = (0..=u16::MAX).collect();
        assert!(say(&mut cell, at(0), (OTHER, 1), table(7), &all).len() > 1);
        // Few are live now; what says so of the others is lost.
        let few: Vec<u16> = (100..=660).collect();
        LivePart::each_of(table(7), &few, |part| {
            if part.first == 0 {
                assert_eq!(part.last, 8959);
                assert_eq!(cell.said(at(1), OTHER, 2, &part), Ok(false));
            }
        });
        let expected = [(99, false), (100, true), (8959, false), (8960, true), (u16::MAX, true)];
        for (port, expected) in expected {
            assert_eq!(is_live(&cell, table(7), port), expected, "{port}");
        }
    }

    #[test]
    fn section_6_a_run_counts_that_the_cell_has() {
        let mut cell = cell();
        cell.want([table(7)].into_iter());
        let next = HostRun { number: 21, ..OTHER };
        let unknown = HostRun { host: HostId(9), number: 1 };
        for run in [next, unknown, ME] {
            let came = say(&mut cell, at(0), (run, 1), table(7), &[3719]);
            assert_eq!(came, [Err(HostDropReason::UnknownHost)]);
            let asked = cell.asked(at(0), run, 1, [table(7)].into_iter());
            assert_eq!(asked, Err(HostDropReason::UnknownHost));
        }
        say(&mut cell, at(0), (OTHER, 1000), table(7), &[3719]);
        // It begins again, with its connections: its last word stands until the next one.
        cell.host(OTHER.host, Some(next));
        cell.heard(at(30), next);
        cell.forget(at(59));
        assert!(is_live(&cell, table(7), 3719));
        let came = say(&mut cell, at(59), (OTHER, 1001), table(7), &[]);
        assert_eq!(came, [Err(HostDropReason::UnknownHost)]);
        assert_eq!(say(&mut cell, at(59), (next, 1), table(7), &[4000]), [Ok(false)]);
        assert!(!is_live(&cell, table(7), 3719) && is_live(&cell, table(7), 4000));
        // Or with a version that says nothing about connections.
        let older = HostRun { number: 22, ..OTHER };
        cell.host(OTHER.host, Some(older));
        for second in 60..119 {
            cell.heard(at(second), older);
            cell.forget(at(second));
            assert!(is_live(&cell, table(7), 4000));
        }
        cell.forget(at(119));
        assert!(!is_live(&cell, table(7), 4000));
    }

    #[test]
    fn section_6_who_asks_is_told_for_a_while() {
        let mut cell = cell();
        let both = || [table(7), table(8)].into_iter();
        assert!(cell.asked_tables().is_empty());
        assert_eq!(cell.asked(at(0), OTHER, 5, both()), Ok(true));
        assert_eq!(cell.asked(at(1), OTHER, 6, [table(7)].into_iter()), Ok(false));
        assert_eq!(cell.asked(at(1), THIRD, 1, [table(8)].into_iter()), Ok(true));
        // One that is sent again by somebody else does not go on with it.
        assert_eq!(cell.asked(at(4), OTHER, 5, both()), Err(HostDropReason::Old));
        assert!(cell.asked_tables().into_iter().eq(both()));
        assert!(cell.askers(table(7)).eq([OTHER.host]));
        assert!(cell.askers(table(8)).eq([OTHER.host, THIRD.host]));
        cell.forget(at(5));
        assert!(cell.askers(table(8)).eq([THIRD.host]));
        cell.forget(at(6));
        assert!(cell.asked_tables().is_empty() && cell.asks.is_empty());
        // Another run, and one that leaves the cell.
        assert_eq!(cell.asked(at(7), OTHER, 7, both()), Ok(true));
        let next = HostRun { number: 21, ..OTHER };
        cell.host(OTHER.host, Some(next));
        assert_eq!(cell.asked(at(8), next, 1, [table(8)].into_iter()), Ok(true));
        assert!(cell.asked_tables().into_iter().eq([table(8)]));
        cell.host(OTHER.host, None);
        assert!(cell.asked_tables().is_empty());
    }

    #[test]
    fn section_6_what_others_say_and_ask_is_bounded() {
        let mut cell = cell();
        let many = |count: usize| {
            (0..count as u32).map(|nat64| TableKey { nat64: nat64.into(), ..table(0) })
        };
        assert!(cell.want(many(CellLive::TABLES_MAX + 1)));
        assert_eq!(cell.wanted().count(), CellLive::TABLES_MAX);
        let asked = cell.asked(at(0), OTHER, 1, many(CellLive::TABLES_MAX + 1));
        assert_eq!(asked, Err(HostDropReason::NoRoom));
        assert_eq!(cell.asked_tables().len(), CellLive::TABLES_MAX);
        assert_eq!(cell.asked(at(0), OTHER, 1, many(1)), Ok(false));
        // A bitmap.
        let all: Vec<u16> = (1024..1024 + 4097).collect();
        let mut refused = 0;
        for host in 4..20 {
            let run = HostRun { host: HostId(host), number: 1 };
            cell.host(run.host, Some(run));
            for table in many(CellLive::TABLES_MAX) {
                let came = say(&mut cell, at(0), (run, 1), table, &all);
                refused += usize::from(came.contains(&Err(HostDropReason::NoRoom)));
            }
            let words = cell.wanted.values().flat_map(BTreeMap::values);
            assert_eq!(cell.octets, words.map(LiveWord::octets).sum::<usize>());
            assert!(cell.octets <= CellLive::OCTETS_MAX);
        }
        assert!(refused > 0);
        // There is room again, where somebody says less.
        let first = HostRun { host: HostId(4), number: 1 };
        let before = cell.octets;
        assert_eq!(say(&mut cell, at(1), (first, 2), many(1).next().unwrap(), &[]), [Ok(false)]);
        assert!(cell.octets < before);
        cell.forget(at(61));
        assert_eq!(cell.octets, 0);
    }
}
