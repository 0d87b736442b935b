//! All that a history says of a port, or of clients: what is put together with what other hosts of
//! a fleet say, who may have ended what began here.

use std::collections::HashSet;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};

use ipnet::Ipv6Net;

use super::columns::{HistoryRow, Kind};
use super::read::WantedRows;
use super::{History, LinesAbout, NOTE_BEGUN, Unreadable, open};
use crate::handoff::change::Timestamp;
use crate::handoff::holding::{Beginning, Contradiction, Holding};

/// What a history says, each thing once.
#[derive(Debug, Default)]
pub struct ToldRows {
    pub holdings: Vec<Holding>,
    pub contradictions: Vec<Contradiction>,
    /// Those that had ports at the end of the last file that was taken.
    open: Vec<Holding>,
}

impl ToldRows {
    fn take(&mut self, rows: Vec<Holding>, before: Timestamp) {
        let there: HashSet<_> = rows.iter().map(key).collect();
        for mut held in std::mem::take(&mut self.open) {
            // What ended in a file that is missing is in none.
            if !there.contains(&key(&held)) {
                held.doubt(before);
                self.holdings.push(held);
            }
        }
        for held in rows {
            match held.until {
                Some(_) => self.holdings.push(held),
                None => self.open.push(held),
            }
        }
    }

    fn count(&self) -> usize {
        self.holdings.len() + self.open.len() + self.contradictions.len()
    }

    fn end(mut self) -> Self {
        self.holdings.append(&mut self.open);
        self
    }
}

type ToldKey = (SocketAddrV4, Ipv6Addr, u16, Option<Ipv4Addr>, Option<Timestamp>);

fn key(held: &Holding) -> ToldKey {
    (held.nat64, held.client, held.client_port, held.local, held.from)
}

impl History {
    /// All that it says of a port. `room` is asked whether there is room for so many.
    ///
    /// # Errors
    /// Where a file cannot be read, or there is no room.
    pub fn told_of_port(
        &self,
        port: SocketAddrV4,
        room: impl Fn(usize) -> io::Result<()>,
    ) -> Result<ToldRows, Unreadable> {
        let mut told = ToldRows::default();
        let mut files = self.all_about(0..self.files(), LinesAbout::Held, port)?;
        // It has those, too, whose first file was removed.
        let newest = self.files() - 1;
        files.extend((files.last() != Some(&newest)).then_some(newest));
        for file in files {
            told.take(self.of_port(file, port, true)?, self.end_before(file));
            room(told.count()).map_err(|error| self.failed(error))?;
        }
        for file in self.all_about(0..self.files(), LinesAbout::Conflicts, port)? {
            told.contradictions.extend(self.conflicts_of_port(file, port)?);
            room(told.count()).map_err(|error| self.failed(error))?;
        }
        Ok(told.end())
    }

    /// The same of clients.
    ///
    /// # Errors
    /// As [`Self::told_of_port`].
    pub fn told_of_clients(
        &self,
        clients: Ipv6Net,
        room: impl Fn(usize) -> io::Result<()>,
    ) -> Result<ToldRows, Unreadable> {
        let mut told = ToldRows::default();
        for file in 0..self.files() {
            let (mut rows, count) = (Vec::new(), told.count());
            self.of_clients(file, clients, |held| {
                rows.push(held);
                room(count + rows.len())
            })?;
            told.take(rows, self.end_before(file));
            let (said, count) = (&mut told.contradictions, told.holdings.len());
            self.conflicts_of_clients(file, clients, |conflict| {
                said.push(conflict);
                room(count + said.len())
            })?;
        }
        Ok(told.end())
    }

    /// When tables of some NAT64s began anew.
    ///
    /// # Errors
    /// As [`Self::told_of_port`].
    pub fn beginnings(
        &self,
        is_asked: impl Fn(Ipv4Addr) -> bool,
        room: impl Fn(usize) -> io::Result<()>,
    ) -> Result<Vec<Beginning>, Unreadable> {
        let mut all = Vec::new();
        for &name in &self.begun {
            let file = open(&self.place, Kind::Begun, name)?;
            let scanned = file.scan(WantedRows::All, |row| {
                if let HistoryRow::Begun(begun) = row
                    && is_asked(begun.nat64)
                {
                    all.push(begun);
                }
                room(all.len())
            });
            scanned.map_err(|error| (file.path().to_owned(), error))?;
        }
        Ok(all)
    }

    /// Whether its first file says when tables began anew: those of older releases do not.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn tells_beginnings(&self) -> Result<bool, Unreadable> {
        Ok(self.held(0)?.note(NOTE_BEGUN).is_some())
    }

    /// The latest line of all files before one.
    fn end_before(&self, file: usize) -> Timestamp {
        file.checked_sub(1).map_or_else(Timestamp::default, |before| self.bounds(before).1)
    }

    fn failed(&self, error: io::Error) -> Unreadable {
        (self.place.folder().to_owned(), error)
    }
}
