//! What was before the event log begins, as its old files were removed: from its history, as events
//! in the order of time, one file of it after another.

use std::collections::VecDeque;
use std::io;
use std::path::Path;

use ipnet::Ipv6Net;

use crate::disk::eventlog::open_past_from;
use crate::disk::history::{History, HistoryPlace, Unreadable};
use crate::handoff::change::Timestamp;
use crate::handoff::holding::{Contradiction, Holding};
use crate::handoff::logged::{LoggedEntry, LoggedKind, LoggedLine};
use crate::kernel::stderr::warn;
use crate::programs::annotate::ports::PortHistory;

/// Events of the history, up to where the event log begins.
pub struct OlderEvents {
    history: History,
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
        let Some(history) = History::open(place.clone())? else { return Ok(None) };
        let (earliest, _) = history.bounds(0);
        if earliest >= until {
            return Ok(None);
        }
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
        Ok(Some(Self { history, next: first, first, until, events: VecDeque::new(), gap }))
    }

    /// Before that time it says nothing.
    pub fn since(&self) -> Timestamp {
        match self.first {
            0 => Timestamp::default(),
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
            if let Some(OlderEvent { line, doubt, .. }) = self.events.pop_front() {
                let has_room = match line.kind {
                    LoggedKind::Created(_) => ports.began(&line, doubt),
                    _ => ports.take(&line),
                };
                return Ok(Some((line.at, has_room)));
            }
            let is_there = |file| {
                file < self.history.files()
                    && (file == self.first || self.history.bounds(file).0 < self.until)
            };
            if !is_there(self.next) {
                if let Some(gap) = self.gap.take() {
                    ports.doubt_since(gap);
                }
                return Ok(None);
            }
            if !self.load(ports)? {
                return Ok(Some((Timestamp::default(), false)));
            }
        }
    }

    /// Reads the next file. False where there is no room for those that had ports before it.
    fn load(&mut self, ports: &mut PortHistory) -> Result<bool, Unreadable> {
        let file = self.next;
        self.next += 1;
        let (begin, _) = self.history.bounds(file);
        let (until, is_first) = (self.until, file == self.first);
        let mut events = Vec::new();
        let mut has_room = true;
        let all = Ipv6Net::default();
        self.history
            .of_clients(file, all, |held| {
                let from = held.from.unwrap_or_default();
                let doubt = held.perhaps_until.unwrap_or(Timestamp::MAX);
                let began = || line(&held, from, LoggedKind::Created);
                if from < begin {
                    // The files before have it.
                    has_room &= !is_first || ports.began(&began(), doubt);
                } else if from < until {
                    events.push(OlderEvent { line: began(), rank: 1, doubt });
                }
                if let Some(at) = held.until.filter(|&at| at < until) {
                    let (rank, doubt) = (if from < at { 0 } else { 2 }, Timestamp::MAX);
                    events.push(OlderEvent {
                        line: line(&held, at, LoggedKind::Deleted),
                        rank,
                        doubt,
                    });
                }
                match has_room {
                    true => Ok(()),
                    false => Err(io::ErrorKind::QuotaExceeded.into()),
                }
            })
            .or_else(|error| if has_room { Err(error) } else { Ok(()) })?;
        self.history.conflicts_of_clients(file, all, |said| {
            if said.at < until {
                events.push(OlderEvent { line: conflict(&said), rank: 3, doubt: Timestamp::MAX });
            }
            Ok(())
        })?;
        events.sort_by_key(|event| (event.line.at, event.rank));
        self.events = events.into();
        Ok(has_room)
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
