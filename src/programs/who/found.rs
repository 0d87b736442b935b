//! Who had it, from the history as far as that goes, and from the event log for the rest.
//!
//! A question about a port reads a few pages of the newest file, of that of its time, and of some
//! up to the one in which who had it then stopped to have it. One about clients reads all files
//! that may have them. What comes out is what the event log alone would say, as far as an answer
//! needs it.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;

use ipnet::Ipv6Net;

use crate::disk::history::{History, LinesAbout, Unreadable};
use crate::handoff::change::Timestamp;
use crate::handoff::holding::{Contradiction, Holding, Holdings, sort_holdings};
use crate::handoff::logged::LoggedLine;
use crate::handoff::naming::Naming;
use crate::programs::exit::ExitError;
use crate::programs::options::Asked;
use crate::programs::who::when::TimeSpan;

/// The most that is found, so that an answer has room in memory: some hundred megabytes.
const FOUND_MAX: usize = 1 << 20;
/// The most ports of clients whose ends are looked up one by one: of more, all files are read.
const FOLLOWED_MAX: usize = 64;

/// What is looked for.
#[derive(Debug, Clone, Copy)]
pub struct Sought {
    pub asked: Asked,
    /// None: at any time.
    pub span: Option<TimeSpan>,
    /// At which address of the server; None: at any.
    pub to: Option<Ipv4Addr>,
}

/// All that an answer needs, and perhaps more.
#[derive(Debug, Default)]
pub struct FoundHoldings {
    /// In the order in which they began.
    pub holdings: Vec<Holding>,
    /// In the order of time.
    pub contradictions: Vec<Contradiction>,
    /// What addresses of the pool stood for, in the order in which that began.
    pub names: Vec<Naming>,
}

impl FoundHoldings {
    /// Whether an address and port were those of a NAT64, and not of the pool.
    pub fn is_of_nat64(&self, sought: Sought) -> bool {
        matches!(sought.asked, Asked::Port(_))
            && self.holdings.iter().any(|held| sought.is_within(held))
    }
}

impl Sought {
    /// Whether it was so at some time that is asked about.
    pub fn is_within(&self, held: &Holding) -> bool {
        self.has_time_of(held.from, held.until)
    }

    /// The same of what was so from one time until another.
    pub fn has_time_of(&self, from: Option<Timestamp>, until: Option<Timestamp>) -> bool {
        self.span.is_none_or(|span| {
            from.is_none_or(|from| from <= span.until)
                && until.is_none_or(|until| until > span.from)
        })
    }

    /// Whether it may be told: at the address that is asked about.
    fn is_at(&self, held: &Holding) -> bool {
        self.to.is_none_or(|to| held.local == Some(to))
    }

    fn ended_before(&self, held: &Holding) -> Option<Timestamp> {
        let span = self.span?;
        held.until.filter(|&until| until <= span.from && self.is_at(held))
    }

    fn began_after(&self, held: &Holding) -> Option<Timestamp> {
        let span = self.span?;
        held.from.filter(|&from| from > span.until && self.is_at(held))
    }

    /// From where on contradictions are told.
    fn since(&self, holdings: &[Holding]) -> Timestamp {
        let mut within = holdings.iter().filter(|held| self.is_within(held) && self.is_at(held));
        let before = || holdings.iter().filter_map(|held| self.ended_before(held)).max();
        match (within.next(), self.asked) {
            (Some(first), _) => first.from,
            (None, Asked::Port(_) | Asked::Pool(_)) => before(),
            (None, Asked::Clients(_)) => self.span.map(|span| span.from),
        }
        .unwrap_or_default()
    }
}

/// Looks into a history.
pub struct Search<'s> {
    sought: Sought,
    history: &'s History,
    found: FoundHoldings,
}

impl<'s> Search<'s> {
    /// `lines` are those of the log behind the history that may be about it; some are missing
    /// between, where a time is given since when.
    ///
    /// # Errors
    /// Where the history cannot be read, or too much is found.
    pub fn run(
        sought: Sought,
        history: &'s History,
        (lines, gap): (Vec<LoggedLine>, Option<Timestamp>),
    ) -> Result<FoundHoldings, ExitError> {
        let mut search = Self { sought, history, found: FoundHoldings::default() };
        search.behind(lines, gap)?;
        match sought.asked {
            Asked::Port(port) => search.port(port)?,
            // It is no NAT64.
            Asked::Pool(_) => return Ok(search.found),
            Asked::Clients(net) => search.clients(net)?,
        }
        sort_holdings(&mut search.found.holdings);
        search.conflicts()?;
        search.found.contradictions.sort();
        Ok(search.found)
    }

    /// Since when and until when lines are missing in the history, of the time that is asked about;
    /// and which files do not say it, as they cannot be read: the answer may not need them.
    pub fn gaps(
        sought: Sought,
        history: &History,
    ) -> (Vec<(Timestamp, Timestamp)>, Vec<Unreadable>) {
        let (mut gaps, mut trouble) = (Vec::new(), Vec::new());
        let around = match sought.span {
            Some(span) => history.around(span.from, span.until),
            None => 0..history.files(),
        };
        let is_asked = |&(from, until): &(Timestamp, Timestamp)| {
            sought.span.is_none_or(|span| from <= span.until && until >= span.from)
        };
        for file in around.start..history.files().min(around.end + 1) {
            match history.gap_before(file) {
                Ok(gap) => gaps.extend(gap.filter(is_asked)),
                Err(error) => trouble.push(error),
            }
        }
        (gaps, trouble)
    }

    fn last(&self) -> usize {
        self.history.files() - 1
    }

    fn of_port(
        &self,
        file: usize,
        port: SocketAddrV4,
        clients: bool,
    ) -> Result<Vec<Holding>, ExitError> {
        self.history.of_port(file, port, clients).map_err(unreadable)
    }

    fn port(&mut self, port: SocketAddrV4) -> Result<(), ExitError> {
        let Some(span) = self.sought.span else {
            // A port is asked about at some time: by default, now.
            return Err(ExitError::usage("a port is asked about at a time"));
        };
        let around = self.history.around(span.from, span.until);
        // Without lines about it, a file has only what the next one has, too.
        let last = around.end.saturating_sub(1)..around.end;
        let before = around.start..last.start.max(around.start);
        let before = self.history.all_about(before, LinesAbout::Held, port).map_err(unreadable)?;
        for file in before.into_iter().chain(last) {
            let is_last = file + 1 == around.end;
            let rows = self.of_port(file, port, true)?;
            for held in &rows {
                // Those that have it still are in the next file, too.
                if held.until.is_some() {
                    self.keep(held.clone())?;
                } else if is_last {
                    self.follow(file, held, &rows)?;
                }
            }
        }
        let sought = self.sought;
        let behind = around.end..self.history.files();
        let older = self.history.all_about(behind, LinesAbout::Older, port);
        for file in older.map_err(unreadable)? {
            let rows = self.of_port(file, port, true)?.into_iter();
            rows.filter(|held| held.from.is_none() && sought.is_within(held))
                .try_for_each(|held| self.keep(held))?;
        }
        if !self
            .found
            .holdings
            .iter()
            .any(|held| self.sought.is_within(held) && self.sought.is_at(held))
        {
            self.before(around.start, port)?;
            self.after(around.end, port)?;
        }
        Ok(())
    }

    /// Who had a port at the end of a file, one of its `rows`: until when?
    fn follow(&mut self, file: usize, held: &Holding, rows: &[Holding]) -> Result<(), ExitError> {
        // To tell them by their clients takes longer, and is hardly ever needed.
        let clients = rows.iter().filter(|row| is_like(row, held)).count() > 1;
        let (mut there, mut there_last) = self.last_of(file, held, clients)?;
        if !clients && there_last > file {
            let mut rows = self.of_port(there_last, held.nat64, true)?.into_iter();
            if !rows.any(|row| is_like(&row, held) && row.client == held.client) {
                // It ended in the microsecond in which it began, when another client got the port.
                (there, there_last) = self.last_of(file, held, true)?;
            }
        }
        if there.until.is_none() && there_last == self.last() {
            // It is among those that the lines behind the history went on with.
            return Ok(());
        }
        if there.until.is_none() {
            // It ended in a file that is missing.
            there.doubt(self.history.bounds(there_last).1);
        }
        self.keep(Holding { client: held.client, ..there })
    }

    /// The last file that has it, from one on that does, and how it is there.
    fn last_of(
        &self,
        file: usize,
        held: &Holding,
        clients: bool,
    ) -> Result<(Holding, usize), ExitError> {
        let is_it = |row: &Holding| is_like(row, held) && (!clients || row.client == held.client);
        // It is in all files up to the one in which it ends.
        let (mut there, mut there_last) = (held.clone(), file);
        let (mut not_there, mut step) = (self.history.files(), 1);
        while there_last + 1 < not_there && there.until.is_none() {
            let next = match not_there == self.history.files() {
                true => (there_last + step).min(not_there - 1),
                false => usize::midpoint(there_last, not_there),
            };
            step *= 2;
            let rows = self.of_port(next, held.nat64, clients)?;
            match rows.into_iter().find(is_it) {
                Some(row) => (there, there_last) = (row, next),
                None => not_there = next,
            }
        }
        Ok((there, there_last))
    }

    /// What the lines behind the history say, with those that had ports at its end.
    fn behind(&mut self, lines: Vec<LoggedLine>, gap: Option<Timestamp>) -> Result<(), ExitError> {
        let mut open = Vec::new();
        match self.sought.asked {
            Asked::Port(port) => open = self.of_port(self.last(), port, true)?,
            Asked::Pool(_) => return Ok(()),
            Asked::Clients(net) => {
                let scanned = self.history.of_clients(self.last(), net, |held| {
                    if held.until.is_none() {
                        open.push(held);
                    }
                    room(open.len())
                });
                scanned.map_err(unreadable)?;
            }
        }
        open.retain(|held| held.until.is_none());
        if let Some(gap) = gap {
            open.iter_mut().for_each(|held| held.doubt(gap));
        }
        let (holdings, contradictions) = Holdings::continued(open, lines.into_iter()).into_all();
        self.found.contradictions.extend(contradictions);
        holdings.into_iter().try_for_each(|held| self.keep(held))
    }

    /// Who had it last before the time that is asked about.
    fn before(&mut self, mut files: usize, port: SocketAddrV4) -> Result<(), ExitError> {
        let latest = |found: &[Holding], sought: &Sought| {
            found.iter().filter_map(|held| sought.ended_before(held)).max()
        };
        let mut best = latest(&self.found.holdings, &self.sought);
        while let Some(file) = self.last_about(0..files, port)? {
            files = file;
            let (_, latest_line) = self.history.bounds(file);
            if best.is_some_and(|best| best >= latest_line) {
                break;
            }
            let mut rows = self.of_port(file, port, true)?;
            rows.retain(|held| self.sought.ended_before(held).is_some_and(|at| Some(at) >= best));
            best = latest(&rows, &self.sought).max(best);
            rows.into_iter().try_for_each(|held| self.keep(held))?;
        }
        Ok(())
    }

    fn last_about(
        &self,
        files: Range<usize>,
        port: SocketAddrV4,
    ) -> Result<Option<usize>, ExitError> {
        self.history.last_about(files, LinesAbout::Held, port).map_err(unreadable)
    }

    /// Who had it next behind that time.
    fn after(&mut self, mut begin: usize, port: SocketAddrV4) -> Result<(), ExitError> {
        let mut first = NextHolders::default();
        // It is looked at more and more files at a time: the next one is mostly soon.
        let mut count = 1;
        while begin < self.history.files() {
            let files = begin..self.history.files().min(begin + count);
            (begin, count) = (files.end, 2 * count);
            let about = self.history.all_about(files, LinesAbout::Held, port);
            for file in about.map_err(unreadable)? {
                let (earliest, _) = self.history.bounds(file);
                if first.from().is_some_and(|from| from < earliest) {
                    begin = self.history.files();
                    break;
                }
                first.take(file, &self.of_port(file, port, true)?, &self.sought);
            }
        }
        for (file, held, rows) in first.0 {
            match held.until {
                Some(_) => self.keep(held)?,
                None => self.follow(file, &held, &rows)?,
            }
        }
        Ok(())
    }

    /// Gives `take` what clients had, by one file.
    fn scan(
        &self,
        file: usize,
        net: Ipv6Net,
        mut take: impl FnMut(Holding),
    ) -> Result<(), ExitError> {
        let mut count = 0;
        let scanned = self.history.of_clients(file, net, |held| {
            if self.sought.is_within(&held) && (self.sought.to.is_none() || self.may_be_at(&held)) {
                count += 1;
                take(held);
            }
            room(count)
        });
        scanned.map_err(unreadable)
    }

    fn may_be_at(&self, held: &Holding) -> bool {
        held.local.is_none() || self.sought.is_at(held)
    }

    /// Those of some files that ended.
    fn ended(&mut self, files: Range<usize>, net: Ipv6Net) -> Result<(), ExitError> {
        for file in files {
            let mut rows = Vec::new();
            self.scan(file, net, |held| rows.extend(held.until.is_some().then_some(held)))?;
            rows.into_iter().try_for_each(|held| self.keep(held))?;
        }
        Ok(())
    }

    fn clients(&mut self, net: Ipv6Net) -> Result<(), ExitError> {
        let all = 0..self.history.files();
        let Some(span) = self.sought.span else { return self.ended(all, net) };
        let around = self.history.around(span.from, span.until);
        if let Some(last) = around.end.checked_sub(1)
            && !self.clients_then(around.start..last, last, net)?
        {
            return self.ended(last..all.end, net);
        }
        // Those of whom it is only known that they ended are in no file before.
        for file in (around.end..all.end).filter(|&file| self.history.has_older(file)) {
            let mut rows = Vec::new();
            self.scan(file, net, |held| rows.extend(held.from.is_none().then_some(held)))?;
            rows.into_iter().try_for_each(|held| self.keep(held))?;
        }
        Ok(())
    }

    /// Those of some files, and of the last one behind them: until when they have the ports that
    /// they have at its end, too. False where these are many, and nothing of the last one was kept.
    fn clients_then(
        &mut self,
        files: Range<usize>,
        last: usize,
        net: Ipv6Net,
    ) -> Result<bool, ExitError> {
        self.ended(files, net)?;
        let mut rows = Vec::new();
        self.scan(last, net, |held| rows.push(held))?;
        let open = || rows.iter().filter(|held| held.until.is_none());
        if open().count() > FOLLOWED_MAX {
            return Ok(false);
        }
        let ports: BTreeSet<_> = open().map(|held| held.nat64).collect();
        for port in ports {
            let all = self.of_port(last, port, false)?;
            for held in open().filter(|held| held.nat64 == port) {
                self.follow(last, held, &all)?;
            }
        }
        let mut ended = rows.into_iter().filter(|held| held.until.is_some());
        ended.try_for_each(|held| self.keep(held)).map(|()| true)
    }

    /// What NAT64s said against the tables.
    fn conflicts(&mut self) -> Result<(), ExitError> {
        let files: Range<usize> = match self.sought.span {
            None => 0..self.history.files(),
            Some(span) => {
                let since = self.sought.since(&self.found.holdings);
                self.history.between(since, span.until)
            }
        };
        let files = match self.sought.asked {
            Asked::Port(port) => {
                let about = self.history.all_about(files, LinesAbout::Conflicts, port);
                about.map_err(unreadable)?
            }
            Asked::Clients(_) => files.collect(),
            Asked::Pool(_) => Vec::new(),
        };
        for file in files {
            let said = &mut self.found.contradictions;
            match self.sought.asked {
                Asked::Port(port) => {
                    said.extend(self.history.conflicts_of_port(file, port).map_err(unreadable)?);
                }
                Asked::Clients(net) => {
                    let scanned = self.history.conflicts_of_clients(file, net, |conflict| {
                        said.push(conflict);
                        room(said.len())
                    });
                    scanned.map_err(unreadable)?;
                }
                Asked::Pool(_) => {}
            }
            room(said.len()).map_err(too_much)?;
        }
        Ok(())
    }

    fn keep(&mut self, held: Holding) -> Result<(), ExitError> {
        self.found.holdings.push(held);
        room(self.found.holdings.len()).map_err(too_much)
    }
}

/// Who had a port next, by which file, with all rows of it there. Of several that began at once,
/// those that ended are told first: that is seen later.
#[derive(Default)]
struct NextHolders(Vec<(usize, Holding, Vec<Holding>)>);

impl NextHolders {
    fn from(&self) -> Option<Timestamp> {
        self.0.first().and_then(|(_, held, _)| held.from)
    }

    fn take(&mut self, file: usize, rows: &[Holding], sought: &Sought) {
        for held in rows.iter().filter(|held| sought.began_after(held).is_some()) {
            if self.from().is_some() && held.from < self.from() {
                self.0.clear();
            }
            let is_same = |(_, other, _): &(usize, Holding, Vec<Holding>)| {
                (other.client, other.client_port, other.local)
                    == (held.client, held.client_port, held.local)
            };
            let is_first = self.from().is_none() || held.from == self.from();
            if is_first && !self.0.iter().any(is_same) {
                self.0.push((file, held.clone(), rows.to_vec()));
            }
        }
    }
}

/// Whether it is the same, but for the client.
fn is_like(row: &Holding, held: &Holding) -> bool {
    (row.from, row.client_port, row.local) == (held.from, held.client_port, held.local)
}

/// Fails where more was found than there is room for.
pub fn room(count: usize) -> io::Result<()> {
    match count > FOUND_MAX {
        true => Err(io::Error::new(io::ErrorKind::QuotaExceeded, format!("more than {FOUND_MAX}"))),
        false => Ok(()),
    }
}

pub fn too_much(why: io::Error) -> ExitError {
    ExitError::failed(format_args!(
        "{why} are found: ask about a longer prefix, or about less time (--at)"
    ))
}

pub fn unreadable((path, error): Unreadable) -> ExitError {
    if error.kind() == io::ErrorKind::QuotaExceeded {
        return too_much(error);
    }
    ExitError::failed(format_args!(
        "{}, a file of the history, cannot be read: {error}; --history off reads the event log alone",
        path.display()
    ))
}
