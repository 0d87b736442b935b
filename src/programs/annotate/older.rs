//! What was before the event log begins, as its old files were removed: from its history, as events
//! in the order of time, one file of it after another.

use std::collections::VecDeque;
use std::io;
use std::path::Path;

use ipnet::Ipv6Net;

use crate::disk::eventlog::open_past_from;
use crate::disk::history::{FoundNames, History, HistoryPlace, NamesOf, Unreadable};
use crate::handoff::change::Timestamp;
use crate::handoff::holding::{Contradiction, Holding, HowEnded};
use crate::handoff::logged::{LoggedEntry, LoggedKind, LoggedLine};
use crate::handoff::naming::Naming;
use crate::kernel::stderr::warn;
use crate::programs::annotate::ports::PortHistory;

const SECOND: u64 = 1_000_000;

/// Events of the history, up to where the event log begins.
pub struct OlderEvents {
    history: History,
    /// It has all from its beginning on: no file of it was removed.
    is_first: bool,
    /// The file that is read next. Of the first one, those that had ports before count, too.
    next: usize,
    first: usize,
    /// Where the event log begins.
    until: Timestamp,
    /// Those of one file: as many as the log had lines then, at most 4,194,304, which take 400 MB.
    events: VecDeque<OlderEvent>,
    /// Lines are missing between the history, which goes up to there, and the log.
    gap: Option<Timestamp>,
}

struct OlderEvent {
    line: LoggedLine,
    /// The port is not the client's any more, and perhaps was not before.
    is_given_up: bool,
    /// Of two at once, the one with the lower rank is first.
    rank: u8,
    /// Where a port is somebody's: from when on, perhaps not any more.
    doubt: Timestamp,
}

impl OlderEvents {
    /// From that time on, or a little before, to that of the log's first line. None where the
    /// history has nothing of that.
    ///
    /// # Errors
    /// Where the history, or the log, cannot be read.
    pub fn open(
        place: &HistoryPlace,
        log: &Path,
        from: Timestamp,
        until: Timestamp,
    ) -> Result<Option<Self>, Unreadable> {
        let earliest = place.earliest().map_err(|error| (place.folder().to_owned(), error))?;
        // No file is opened where the log has all that the history has. The time of a file is that
        // of its first line, to the second.
        let Some((earliest, is_first)) = earliest else { return Ok(None) };
        let has_older = match is_first {
            true => earliest.as_micros().saturating_add(SECOND) <= until.as_micros(),
            // It has who had ports before that, too.
            false => earliest <= until,
        };
        let history = if has_older { History::open(place.clone())? } else { None };
        let Some(history) = history else { return Ok(None) };
        let from = from.min(until);
        let first = history.around(from, from).start;
        let end = *history.end();
        let mut gap = None;
        if !open_past_from(log, Some(&end.place))?.is_found {
            warn(format_args!(
                "where the history ends is not in the event log any more: from {} UTC on it is not sure who \
                 had a port until it comes to another client",
                end.reached
            ));
            gap = Some(end.reached);
        }
        let events = VecDeque::new();
        Ok(Some(Self { history, is_first, next: first, first, until, events, gap }))
    }

    /// Whom addresses of the pool stood for. What the log says comes behind that.
    ///
    /// # Errors
    /// Where the history cannot be read.
    pub fn names(&self) -> Result<Vec<Naming>, Unreadable> {
        let FoundNames { ended, open } = self.history.names_from(self.first, NamesOf::All)?;
        let mut names = ended;
        names.extend(open);
        names.retain(|name| name.from.is_none_or(|from| from < self.until));
        for name in &mut names {
            if name.until.is_some_and(|until| until >= self.until) {
                name.until = None;
            }
            if let Some(gap) = self.gap.filter(|_| name.until.is_none()) {
                name.doubt(gap);
            }
        }
        names.sort_by(Naming::order);
        Ok(names)
    }

    /// Before that time it says nothing.
    pub fn since(&self) -> Timestamp {
        match self.first {
            // The port's first `Deleted` says who had it before.
            0 if self.is_first => Timestamp::default(),
            first => self.history.bounds(first).0,
        }
    }

    /// Whether a file is read next, which takes a while.
    pub fn is_to_read(&self) -> bool {
        self.events.is_empty()
    }

    /// Takes the next event into `ports`: when that was, and whether there is room for it. None at
    /// the end.
    ///
    /// # Errors
    /// Where the history cannot be read.
    pub fn take(
        &mut self,
        ports: &mut PortHistory,
    ) -> Result<Option<(Timestamp, bool)>, Unreadable> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some((event.line.at, event.take(ports))));
            }
            let file = self.next;
            // Where lines before it are missing, it says who had ports where the log begins, too.
            let is_there = file < self.history.files()
                && (file == self.first
                    || self.history.bounds(file).0 < self.until
                    || self.gap_before(file)?.is_some());
            if !is_there {
                if let Some(gap) = self.gap.take() {
                    ports.doubt_since(gap, self.until);
                }
                return Ok(None);
            }
            if !self.load(ports)? {
                return Ok(Some((Timestamp::default(), false)));
            }
        }
    }

    /// Since when lines before those of a file are missing, that the log does not have.
    fn gap_before(&self, file: usize) -> Result<Option<Timestamp>, Unreadable> {
        let gap = self.history.gap_before(file)?.filter(|&(since, _)| since < self.until);
        // That of a file's last line is the end of its second.
        let since = gap.map(|(since, _)| since.as_micros().saturating_sub(SECOND));
        Ok(since.map(Timestamp::from_micros))
    }

    /// Reads the next file. False where there is no room for those that had ports before it.
    fn load(&mut self, ports: &mut PortHistory) -> Result<bool, Unreadable> {
        let file = self.next;
        self.next += 1;
        let (begin, _) = self.history.bounds(file);
        let mut is_first = file == self.first;
        if !is_first && let Some(from) = self.gap_before(file)? {
            // Who had ports before it, and perhaps lost them since, it says itself.
            ports.pass_gap(from, begin.min(self.until));
            is_first = true;
        }
        let until = self.until;
        let mut events = Vec::new();
        let mut has_room = true;
        let all = Ipv6Net::default();
        self.history
            .of_clients(file, all, |held| {
                let from = held.from.unwrap_or_default();
                let began = Some(OlderEvent::began(&held, from)).filter(|_| from < until);
                match began {
                    Some(began) if from >= begin => events.push(began),
                    Some(began) if is_first => has_room &= began.take(ports),
                    // The files before have it.
                    Some(began) => ports.went_on(&began.line, began.doubt),
                    None => {}
                }
                if let Some(at) = held.until.filter(|&at| at < until) {
                    events.push(OlderEvent::ended(&held, from, at));
                }
                match has_room {
                    true => Ok(()),
                    false => Err(io::ErrorKind::QuotaExceeded.into()),
                }
            })
            .or_else(|error| if has_room { Err(error) } else { Ok(()) })?;
        self.history.conflicts_of_clients(file, all, |said| {
            if said.at < until {
                events.push(OlderEvent::said(&said));
            }
            Ok(())
        })?;
        // Those of one port at once have ranks.
        events.sort_unstable_by_key(|event| (event.line.at, event.rank));
        self.events = events.into();
        Ok(has_room)
    }
}

impl OlderEvent {
    fn began(held: &Holding, from: Timestamp) -> Self {
        let line = line(held, from, LoggedKind::Created);
        let doubt = held.perhaps_until.unwrap_or(Timestamp::MAX);
        Self { line, is_given_up: false, rank: 1, doubt }
    }

    fn ended(held: &Holding, from: Timestamp, at: Timestamp) -> Self {
        let line = line(held, at, LoggedKind::Deleted);
        let is_given_up = held.ended != Some(HowEnded::Deleted);
        Self { line, is_given_up, rank: if from < at { 0 } else { 2 }, doubt: Timestamp::MAX }
    }

    fn said(said: &Contradiction) -> Self {
        Self { line: conflict(said), is_given_up: false, rank: 3, doubt: Timestamp::MAX }
    }

    /// False where there is no room for it.
    fn take(&self, ports: &mut PortHistory) -> bool {
        match self.line.kind {
            LoggedKind::Created(_) => ports.began(&self.line, self.doubt),
            _ if self.is_given_up => {
                ports.given_up(&self.line);
                true
            }
            _ => ports.take(&self.line),
        }
    }
}

fn line(held: &Holding, at: Timestamp, kind: fn(LoggedEntry) -> LoggedKind) -> LoggedLine {
    let Holding { client, client_port, prefix, local, .. } = *held;
    let entry = LoggedEntry { port: held.nat64.port(), client, client_port, prefix };
    LoggedLine { at, kind: kind(entry), nat64: *held.nat64.ip(), local }
}

fn conflict(said: &Contradiction) -> LoggedLine {
    let Contradiction { at, nat64, client, client_port, local } = *said;
    let entry = LoggedEntry { port: nat64.port(), client, client_port, prefix: None };
    LoggedLine { at, kind: LoggedKind::Conflict(entry), nat64: *nat64.ip(), local }
}
