//! Who had it, from the history as far as that goes, and from the event log for the rest.
//!
//! A question about a port reads a few pages of the newest file, of that of its time, and of some
//! up to the one in which who had it then stopped to have it. One about clients reads all files
//! that may have them. What comes out is what the event log alone would say, as far as an answer
//! needs it.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;

use ipnet::Ipv6Net;

use crate::disk::history::{History, Unreadable};
use crate::handoff::change::Timestamp;
use crate::handoff::holding::{Contradiction, Holding, Holdings, sort_holdings};
use crate::handoff::logged::LoggedLine;
use crate::programs::exit::ExitError;
use crate::programs::options::Asked;
use crate::programs::who::when::TimeSpan;

/// The most that is found, so that an answer has room in memory: some hundred megabytes.
const FOUND_MAX: usize = 1 << 20;

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
}

impl Sought {
    /// Whether it was so at some time that is asked about.
    pub fn is_within(&self, held: &Holding) -> bool {
        self.span.is_none_or(|span| {
            held.from.is_none_or(|from| from <= span.until)
                && held.until.is_none_or(|until| until > span.from)
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
        match within.next() {
            Some(first) => first.from,
            None => before(),
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
    /// `lines` are those of the log behind the history that may be about it.
    ///
    /// # Errors
    /// Where the history cannot be read, or too much is found.
    pub fn run(
        sought: Sought,
        history: &'s History,
        lines: Vec<LoggedLine>,
    ) -> Result<FoundHoldings, ExitError> {
        let mut search = Self { sought, history, found: FoundHoldings::default() };
        search.behind(lines)?;
        match sought.asked {
            Asked::Port(port) => search.port(port)?,
            Asked::Clients(net) => search.clients(net)?,
        }
        sort_holdings(&mut search.found.holdings);
        search.conflicts()?;
        search.found.contradictions.sort();
        Ok(search.found)
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
        for file in around.clone() {
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
        for file in (around.end..self.history.files()).filter(|&file| self.history.has_older(file))
        {
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
            self.before(around.start)?;
            self.after(around.end, port)?;
        }
        Ok(())
    }

    /// Who had a port at the end of a file, one of its `rows`: until when?
    fn follow(&mut self, file: usize, held: &Holding, rows: &[Holding]) -> Result<(), ExitError> {
        let is_like = |other: &Holding| {
            (other.from, other.client_port, other.local)
                == (held.from, held.client_port, held.local)
        };
        // To tell them by their clients takes longer, and is hardly ever needed.
        let clients = rows.iter().filter(|row| is_like(row)).count() > 1;
        let is_it = |row: &Holding| is_like(row) && (!clients || row.client == held.client);
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
        if there.until.is_none() && there_last == self.last() {
            // It is among those that the lines behind the history went on with.
            return Ok(());
        }
        self.keep(Holding { client: held.client, ..there })
    }

    /// What the lines behind the history say, with those that had ports at its end.
    fn behind(&mut self, lines: Vec<LoggedLine>) -> Result<(), ExitError> {
        let mut open = Vec::new();
        match self.sought.asked {
            Asked::Port(port) => open = self.of_port(self.last(), port, true)?,
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
        let (holdings, contradictions) = Holdings::continued(open, lines.into_iter()).into_all();
        self.found.contradictions.extend(contradictions);
        holdings.into_iter().try_for_each(|held| self.keep(held))
    }

    /// Who had it last before the time that is asked about.
    fn before(&mut self, files: usize) -> Result<(), ExitError> {
        let latest = |found: &[Holding], sought: &Sought| {
            found.iter().filter_map(|held| sought.ended_before(held)).max()
        };
        let mut best = latest(&self.found.holdings, &self.sought);
        for file in (0..files).rev() {
            let (_, latest_line) = self.history.bounds(file);
            if best.is_some_and(|best| best >= latest_line) {
                break;
            }
            let mut rows = Vec::new();
            match self.sought.asked {
                Asked::Port(port) => rows = self.of_port(file, port, true)?,
                Asked::Clients(net) => self.scan(file, net, |held| rows.push(held))?,
            }
            rows.retain(|held| self.sought.ended_before(held).is_some_and(|at| Some(at) >= best));
            best = latest(&rows, &self.sought).max(best);
            rows.into_iter().try_for_each(|held| self.keep(held))?;
        }
        Ok(())
    }

    /// Who had it next behind that time.
    fn after(&mut self, files: usize, port: SocketAddrV4) -> Result<(), ExitError> {
        let sought = self.sought;
        // Of several that began at once, those that ended are told first: that is seen later.
        let mut first: Vec<(usize, Holding, Vec<Holding>)> = Vec::new();
        for file in files..self.history.files() {
            let (earliest, _) = self.history.bounds(file);
            if first.first().is_some_and(|(_, first, _)| first.from < Some(earliest)) {
                break;
            }
            let rows = self.of_port(file, port, true)?;
            for held in rows.iter().filter(|held| sought.began_after(held).is_some()) {
                if first.first().is_some_and(|(_, first, _)| held.from < first.from) {
                    first.clear();
                }
                let is_same = |(_, other, _): &(usize, Holding, Vec<Holding>)| {
                    (other.client, other.client_port, other.local)
                        == (held.client, held.client_port, held.local)
                };
                let is_first = first.first().is_none_or(|(_, first, _)| held.from == first.from);
                if is_first && !first.iter().any(is_same) {
                    first.push((file, held.clone(), rows.clone()));
                }
            }
        }
        for (file, held, rows) in first {
            match held.until {
                Some(_) => self.keep(held)?,
                None => self.follow(file, &held, &rows)?,
            }
        }
        Ok(())
    }

    fn scan(
        &self,
        file: usize,
        net: Ipv6Net,
        mut take: impl FnMut(Holding),
    ) -> Result<(), ExitError> {
        let mut count = 0;
        let scanned = self.history.of_clients(file, net, |held| {
            if held.until.is_some() && (self.sought.to.is_none() || self.may_be_at(&held)) {
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

    fn clients(&mut self, net: Ipv6Net) -> Result<(), ExitError> {
        let begin =
            self.sought.span.map_or(0, |span| self.history.around(span.from, span.until).start);
        let (sought, mut after) = (self.sought, None::<Holding>);
        for file in begin..self.history.files() {
            let mut rows = Vec::new();
            self.scan(file, net, |held| {
                if sought.is_within(&held) || sought.ended_before(&held).is_some() {
                    rows.push(held);
                } else if sought.began_after(&held).is_some()
                    && after.as_ref().is_none_or(|after| held.order(after).is_lt())
                {
                    after = Some(held);
                }
            })?;
            rows.into_iter().try_for_each(|held| self.keep(held))?;
        }
        after.into_iter().try_for_each(|held| self.keep(held))?;
        match self.found.holdings.iter().any(|held| sought.is_within(held) && sought.is_at(held)) {
            true => Ok(()),
            false => self.before(begin),
        }
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

/// Fails where more was found than there is room for.
fn room(count: usize) -> io::Result<()> {
    match count > FOUND_MAX {
        true => Err(io::Error::new(io::ErrorKind::QuotaExceeded, format!("more than {FOUND_MAX}"))),
        false => Ok(()),
    }
}

fn too_much(why: io::Error) -> ExitError {
    ExitError::failed(format_args!(
        "{why} are found: ask about a longer prefix, or about less time (--at)"
    ))
}

fn unreadable((path, error): Unreadable) -> ExitError {
    if error.kind() == io::ErrorKind::QuotaExceeded {
        return too_much(error);
    }
    ExitError::failed(format_args!(
        "{}, a file of the history, cannot be read: {error}; --history off reads the event log alone",
        path.display()
    ))
}
