//! The history: who had which port when, as Parquet files that are made of the event log.
//!
//! | file | what it is |
//! | --- | --- |
//! | `name` | what the files are called, and which of them have something of a time |
//! | `columns` | what stands in them |
//! | `write` | writes one |
//! | `read` | reads one |
//! | `piece` | the lines of the log that one is made of |
//! | `build` | makes files of the log, and removes old ones |
//! | `check` | reads all of them |
//!
//! Not here: who asks (`programs::who`), and the thread that builds while a server runs
//! (`programs::serve`).
//!
#![doc = include_str!("../../HISTORY.md")]

mod build;
mod check;
mod columns;
mod name;
mod piece;
mod read;
mod write;

use std::ffi::OsString;
use std::io;
use std::net::SocketAddrV4;
use std::ops::Range;
use std::path::{Path, PathBuf};

use ipnet::Ipv6Net;

use crate::disk::eventlog::LogPlace;
use crate::disk::fs::{Disk, RealDisk};
use crate::handoff::change::Timestamp;
use crate::handoff::holding::{Contradiction, Holding};

pub use build::{BuildError, Building, Built, Due};
pub use check::HistoryChecked;
use columns::{HistoryRow, Kind};
pub use name::PieceName;
use name::Times;
use read::{PieceFile, WantedRows};

/// The folder of a history, beside the log, where no other one is named.
pub const FOLDER: &str = "history";
/// The folders in it.
const HELD: &str = "held";
const CONFLICTS: &str = "conflicts";
/// What a file notes of itself.
const NOTE_VERSION: &str = "nat64handoff.version";
const NOTE_BEGIN: &str = "nat64handoff.begin";
const NOTE_END: &str = "nat64handoff.end";
const NOTE_REACHED: &str = "nat64handoff.reached";
const NOTE_LINES: &str = "nat64handoff.lines";
const NOTE_OPEN: &str = "nat64handoff.open";
const VERSION: &str = "1";

/// Where a history is, and of which log.
#[derive(Debug, Clone)]
pub struct HistoryPlace {
    folder: PathBuf,
    log: PathBuf,
}

impl HistoryPlace {
    pub fn new(folder: PathBuf, log: PathBuf) -> Self {
        Self { folder, log }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn name(&self) -> OsString {
        self.log.file_name().unwrap_or_default().to_owned()
    }

    fn path(&self, kind: Kind, name: PieceName) -> PathBuf {
        self.kind_folder(kind).join(name.file(&self.name()))
    }

    fn kind_folder(&self, kind: Kind) -> PathBuf {
        self.folder.join(match kind {
            Kind::Held => HELD,
            Kind::Conflicts => CONFLICTS,
        })
    }

    /// In the order of the log.
    fn names(&self, kind: Kind) -> io::Result<Vec<PieceName>> {
        let listed = match RealDisk.list(&self.kind_folder(kind)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            listed => listed?,
        };
        let log = self.name();
        let mut names: Vec<_> =
            listed.iter().filter_map(|name| PieceName::parse(&log, name)).collect();
        names.sort_unstable();
        Ok(names)
    }
}

/// How far a history goes.
#[derive(Debug, Clone, Copy)]
pub struct HistoryEnd {
    /// Up to which place of the log.
    pub place: LogPlace,
    /// The latest of the times of its lines.
    pub reached: Timestamp,
    /// How many clients had ports then, about.
    open: u64,
}

/// A history that is there, to be read.
pub struct History {
    place: HistoryPlace,
    names: Vec<PieceName>,
    times: Times,
    /// Those that have conflicts.
    conflicts: Vec<PieceName>,
    end: HistoryEnd,
}

/// A file of a history that cannot be read, and why.
pub type Unreadable = (PathBuf, io::Error);

impl History {
    /// None where there is none yet.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn open(place: HistoryPlace) -> Result<Option<Self>, Unreadable> {
        let listed = |error| (place.folder.clone(), error);
        let names = place.names(Kind::Held).map_err(listed)?;
        let conflicts = place.names(Kind::Conflicts).map_err(listed)?;
        let Some(last) = names.last() else { return Ok(None) };
        let newest = open(&place, Kind::Held, *last)?;
        let end = end_of(&newest).map_err(|error| (newest.path().to_owned(), error))?;
        let times = Times::of(&names);
        Ok(Some(Self { place, names, times, conflicts, end }))
    }

    pub fn end(&self) -> &HistoryEnd {
        &self.end
    }

    /// The number of its files that say who had ports. They have numbers from 0 on, in the order of
    /// the log.
    pub fn files(&self) -> usize {
        self.names.len()
    }

    /// The files that have all who had a port at some time between these, if they had one at all.
    pub fn around(&self, from: Timestamp, until: Timestamp) -> Range<usize> {
        let end = self.times.begun(until);
        self.times.behind(from).min(end.saturating_sub(1))..end
    }

    /// The files that have lines of these times, and perhaps others.
    pub fn between(&self, from: Timestamp, until: Timestamp) -> Range<usize> {
        let before = Timestamp::from_micros(from.as_micros().saturating_sub(1));
        let (begin, end) = (self.times.behind(before), self.times.begun(until));
        begin.min(end)..end
    }

    /// The earliest line of this file and all behind it, and the latest of it and all before.
    pub fn bounds(&self, file: usize) -> (Timestamp, Timestamp) {
        self.times.bounds(file)
    }

    /// Whether a file has clients that had a port since before the log begins, as far as it tells.
    pub fn has_older(&self, file: usize) -> bool {
        self.names[file].older
    }

    /// Who had a port, by one file: those that have it at its end, too, with no end. Without
    /// `clients`, all of them have the unspecified address.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn of_port(
        &self,
        file: usize,
        port: SocketAddrV4,
        clients: bool,
    ) -> Result<Vec<Holding>, Unreadable> {
        let file = open(&self.place, Kind::Held, self.names[file])?;
        let rows = file.of_port(port, clients);
        let rows = rows.map_err(|error| (file.path().to_owned(), error))?;
        Ok(rows.into_iter().filter_map(|row| row.held().cloned()).collect())
    }

    /// What a NAT64 said of a port against that, by one file.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn conflicts_of_port(
        &self,
        file: usize,
        port: SocketAddrV4,
    ) -> Result<Vec<Contradiction>, Unreadable> {
        let Some(file) = self.conflicts(file)? else { return Ok(Vec::new()) };
        let rows = file.of_port(port, true);
        let rows = rows.map_err(|error| (file.path().to_owned(), error))?;
        Ok(rows.into_iter().filter_map(said).collect())
    }

    /// Gives `take` what clients had, by one file, as [`Self::of_port`] does.
    ///
    /// # Errors
    /// Where the file cannot be read, or `take` fails.
    pub fn of_clients(
        &self,
        file: usize,
        clients: Ipv6Net,
        mut take: impl FnMut(Holding) -> io::Result<()>,
    ) -> Result<(), Unreadable> {
        let file = open(&self.place, Kind::Held, self.names[file])?;
        let scanned = file.scan(WantedRows::Clients(clients), |row| match row {
            HistoryRow::Held(held) => take(held),
            HistoryRow::Conflict(_) => Ok(()),
        });
        scanned.map_err(|error| (file.path().to_owned(), error))
    }

    /// What NAT64s said of clients against that, by one file.
    ///
    /// # Errors
    /// Where the file cannot be read, or `take` fails.
    pub fn conflicts_of_clients(
        &self,
        file: usize,
        clients: Ipv6Net,
        mut take: impl FnMut(Contradiction) -> io::Result<()>,
    ) -> Result<(), Unreadable> {
        let Some(file) = self.conflicts(file)? else { return Ok(()) };
        let scanned =
            file.scan(WantedRows::Clients(clients), |row| said(row).map_or(Ok(()), &mut take));
        scanned.map_err(|error| (file.path().to_owned(), error))
    }

    fn conflicts(&self, file: usize) -> Result<Option<PieceFile>, Unreadable> {
        let serial = self.names[file].serial;
        let found = self.conflicts.binary_search_by_key(&serial, |name| name.serial);
        let name = found.ok().map(|index| self.conflicts[index]);
        name.map(|name| open(&self.place, Kind::Conflicts, name)).transpose()
    }
}

fn said(row: HistoryRow) -> Option<Contradiction> {
    match row {
        HistoryRow::Conflict(said) => Some(said),
        HistoryRow::Held(_) => None,
    }
}

fn open(place: &HistoryPlace, kind: Kind, name: PieceName) -> Result<PieceFile, Unreadable> {
    let path = place.path(kind, name);
    PieceFile::open(kind, path.clone()).map_err(|error| (path, error))
}

/// What a file notes.
fn end_of(file: &PieceFile) -> io::Result<HistoryEnd> {
    let missing = || io::Error::new(io::ErrorKind::InvalidData, "it does not say how far it goes");
    let note = |name| file.note(name).ok_or_else(missing);
    let number = |name| note(name)?.parse::<u64>().map_err(|_| missing());
    if note(NOTE_VERSION)? != VERSION {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a newer release wrote it"));
    }
    Ok(HistoryEnd {
        place: note(NOTE_END)?.parse().map_err(|_| missing())?,
        reached: Timestamp::from_micros(number(NOTE_REACHED)?),
        open: number(NOTE_OPEN)?,
    })
}
