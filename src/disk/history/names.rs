//! Whom addresses of the pool stood for: the files that have it, beside those that say who had
//! ports, and of the same lines. One is there where there are names; those that stand at its end
//! are in the next one, too.

use std::fs::Metadata;
use std::io;
use std::net::Ipv4Addr;

use ipnet::Ipv6Net;

use super::columns::{HistoryRow, Kind, text_key};
use super::name::PieceName;
use super::piece::Piece;
use super::read::WantedRows;
use super::write::Writing;
use super::{History, HistoryPlace, NOTE_NAMES, NOTE_VERSION, Unreadable, VERSION, open};
use crate::handoff::change::Timestamp;
use crate::handoff::naming::{Naming, Namings};

/// The most that an answer has.
const FOUND_MAX: usize = 1 << 20;

/// Whose names are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamesOf {
    /// Whom an address of the pool stood for.
    Address(Ipv4Addr),
    /// What stood for clients, or for a network that they are in.
    Clients(Ipv6Net),
    All,
}

/// What a history has of names.
#[derive(Debug, Default)]
pub struct FoundNames {
    /// Those that ended.
    pub ended: Vec<Naming>,
    /// Those that there are at its end: the lines behind it say what became of them.
    pub open: Vec<Naming>,
}

impl History {
    /// Whom addresses of the pool stood for, by all of its files from one on.
    ///
    /// # Errors
    /// Where a file cannot be read, or there are too many.
    pub fn names_from(&self, first: usize, of: NamesOf) -> Result<FoundNames, Unreadable> {
        let mut found = FoundNames::default();
        for file in first..self.files() {
            let rows = self.names(file, of)?;
            // What ended in a file that is missing is in none.
            let is_there = |name: &Naming| rows.iter().any(|row| is_same(row, name));
            let lost = found.open.extract_if(.., |name| !is_there(name));
            let last = file.checked_sub(1).map_or(Timestamp::default(), |last| self.bounds(last).1);
            found.ended.extend(lost.map(|mut name| {
                name.doubt(last);
                name
            }));
            let (open, ended): (Vec<_>, Vec<_>) =
                rows.into_iter().partition(|row| row.until.is_none());
            found.ended.extend(ended);
            found.open = open;
            if found.ended.len() + found.open.len() > FOUND_MAX {
                let error = format!("more than {FOUND_MAX}");
                let error = io::Error::new(io::ErrorKind::QuotaExceeded, error);
                return Err((self.place.folder().to_owned(), error));
            }
        }
        Ok(found)
    }

    /// The same, by one file: none where it has no names.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn names(&self, file: usize, of: NamesOf) -> Result<Vec<Naming>, Unreadable> {
        let Some(name) = self.with_names(file) else { return Ok(Vec::new()) };
        let file = open(&self.place, Kind::Names, name)?;
        let mut rows = Vec::new();
        let mut take = |row: HistoryRow| {
            rows.extend(row.name());
            Ok(())
        };
        let read = match of {
            NamesOf::Address(pool) => file.of_pool(pool).map(|found| rows = found),
            NamesOf::Clients(net) => file.scan(WantedRows::Clients(net), &mut take),
            NamesOf::All => file.scan(WantedRows::All, &mut take),
        };
        read.map_err(|error| (file.path().to_owned(), error))?;
        Ok(rows)
    }

    fn with_names(&self, file: usize) -> Option<PieceName> {
        let serial = self.names[file].serial;
        let found = self.with_names.binary_search_by_key(&serial, |name| name.serial);
        Some(self.with_names[found.ok()?])
    }
}

fn is_same(one: &Naming, other: &Naming) -> bool {
    (one.pool, one.client, one.from) == (other.pool, other.client, other.from)
}

/// The names of a piece, with those at the end of the file before it, where `gap` says since when
/// lines are missing between. Sorted as their file is.
pub(super) fn names_of(
    place: &HistoryPlace,
    piece: &Piece,
    gap: Option<Timestamp>,
) -> Result<Vec<Naming>, Unreadable> {
    let mut namings = Namings::continued(open_names(place, gap)?);
    piece.names.iter().for_each(|line| namings.take(line));
    let mut all = namings.into_all();
    // They are in the order of time.
    all.sort_by_cached_key(|name| text_key(name.pool));
    Ok(all)
}

/// Those that there are at the end of the newest file.
fn open_names(place: &HistoryPlace, gap: Option<Timestamp>) -> Result<Vec<Naming>, Unreadable> {
    let listed = |error| (place.folder().to_owned(), error);
    let held = place.names(Kind::Held).map_err(listed)?;
    let Some(newest) = held.last() else { return Ok(Vec::new()) };
    let names = place.names(Kind::Names).map_err(listed)?;
    let Some(&name) = names.iter().find(|name| name.serial == newest.serial) else {
        return Ok(Vec::new());
    };
    let file = open(place, Kind::Names, name)?;
    let mut all = Vec::new();
    let scanned = file.verify().and_then(|()| {
        file.scan(WantedRows::Open, |row| {
            all.extend(row.name());
            Ok(())
        })
    });
    scanned.map_err(|error| (file.path().to_owned(), error))?;
    if let Some(gap) = gap {
        all.iter_mut().for_each(|name| name.doubt(gap));
    }
    Ok(all)
}

/// Writes the file of names. Returns what the file of ports notes of it: how many there are at its
/// end.
pub(super) fn write_names(
    place: &HistoryPlace,
    name: PieceName,
    names: Vec<Naming>,
    like: &Metadata,
) -> io::Result<Option<(&'static str, String)>> {
    if names.is_empty() {
        return Ok(None);
    }
    let open = names.iter().filter(|name| name.until.is_none()).count();
    let path = place.path(Kind::Names, name);
    let mut writing = Writing::begin(Kind::Names, &path, like)?;
    names.into_iter().try_for_each(|name| writing.push(HistoryRow::Name(name)))?;
    writing.finish(&path, vec![(NOTE_VERSION, VERSION.to_owned())], &[])?;
    Ok(Some((NOTE_NAMES, open.to_string())))
}
