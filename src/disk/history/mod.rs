//! The history: who had which port when, as Parquet files that are made of the event log.
//!
//! | file | what it is |
//! | --- | --- |
//! | `name` | what the files are called, and which of them have something of a time |
//! | `columns` | what stands in them |
//! | `write` | writes one |
//! | `read` | reads one |
//! | `content` | its octets, or those of a copy that is elsewhere |
//! | `open` | who has ports where it ends, for the next one |
//! | `ports` | which ports its lines are about, and those of files before it |
//! | `earlier` | those files |
//! | `sum` | its checksum |
//! | `piece` | the lines of the log that one is made of |
//! | `names` | whom addresses of the pool stood for |
//! | `merge` | what its rows are: these, and who had ports before |
//! | `build` | makes files of the log, and removes old ones |
//! | `check` | reads all of them |
//! | `told` | all that it says of a port, or of clients |
//! | `rest` | the lines of the log behind it, beside a copy of it |
//! | `copy` | copies it to where those of several hosts are |
//!
//! Not here: who asks (`programs::who`), and the thread that builds while a server runs
//! (`programs::serve`).
//!
#![doc = include_str!("../../HISTORY.md")]

mod build;
mod check;
mod columns;
mod content;
#[cfg(feature = "fleet")]
mod copy;
mod earlier;
mod merge;
mod name;
mod names;
mod open;
mod piece;
mod ports;
mod read;
mod rest;
mod sum;
mod told;
mod write;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::net::SocketAddrV4;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use ipnet::Ipv6Net;

use crate::disk::copies::CopyStore;
use crate::disk::eventlog::LogPlace;
use crate::disk::fs::{Disk, RealDisk};
use crate::handoff::change::Timestamp;
use crate::handoff::holding::{Contradiction, Holding};

pub use build::{BuildError, Building, Built, Due};
pub use check::HistoryChecked;
use columns::{HistoryRow, Kind};
use content::{CopiedContent, PieceContent};
#[cfg(feature = "fleet")]
pub use copy::{HistoryCopied, HistoryCopyError, HistoryCopying};
pub use name::PieceName;
use name::Times;
pub use names::{FoundNames, NamesOf};
use ports::begin_of;
use read::{PieceFile, WantedRows};
pub use rest::{OpenedRest, RestNote, last_time};
pub use told::ToldRows;

/// The folder of a history, beside the log, where no other one is named.
pub const FOLDER: &str = "history";
/// What the log is called in the folder of a host of a fleet.
pub const HOST_LOG: &str = "events.log";
/// Files that are open at once.
const OPENED_MAX: usize = 64;
/// What a file notes of itself.
const NOTE_VERSION: &str = "nat64handoff.version";
const NOTE_BEGIN: &str = "nat64handoff.begin";
const NOTE_END: &str = "nat64handoff.end";
const NOTE_REACHED: &str = "nat64handoff.reached";
const NOTE_LINES: &str = "nat64handoff.lines";
/// Where the lines before its own are missing: from which time on.
const NOTE_GAP: &str = "nat64handoff.gap";
const NOTE_OPEN: &str = "nat64handoff.open";
/// Of a file that has one with names beside it: how many there are at its end.
const NOTE_NAMES: &str = "nat64handoff.names";
/// How many tables its lines begin anew: files of older releases do not say it.
const NOTE_BEGUN: &str = "nat64handoff.begun";
/// Ports that its lines are about, those that are told of since before the log begins, and those
/// that NAT64s contradicted: of several files (`ports`).
const NOTE_PORTS: &str = "nat64handoff.ports";
const NOTE_OLDER_PORTS: &str = "nat64handoff.ports.older";
const NOTE_CONFLICT_PORTS: &str = "nat64handoff.ports.conflicts";
/// Its checksum. It is the last one.
const NOTE_SUM: &str = "nat64handoff.crc32c";
const VERSION: &str = "2";
/// That of files without a checksum, which are read, too.
const VERSION_WITHOUT_SUM: &str = "1";

/// Where a history is, and of which log.
#[derive(Debug, Clone)]
pub struct HistoryPlace {
    folder: PathBuf,
    log: PathBuf,
    /// Where its files are, and the folder there. None: they are files of this machine.
    copy: Option<(Arc<dyn CopyStore>, String)>,
}

impl HistoryPlace {
    pub fn new(folder: PathBuf, log: PathBuf) -> Self {
        Self { folder, log, copy: None }
    }

    /// That of a host, which was copied: it is read and nothing else.
    pub fn copied(store: &Arc<dyn CopyStore>, host: &str) -> Self {
        let there = PathBuf::from(format!("{store}/{host}"));
        let copy = (Arc::clone(store), format!("{host}/{FOLDER}"));
        Self { folder: there.join(FOLDER), log: there.join(HOST_LOG), copy: Some(copy) }
    }

    /// Whether it is a copy that is not on this machine.
    pub fn is_copied(&self) -> bool {
        self.copy.is_some()
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The time of its earliest line, to the second, and whether its first file is still there.
    /// None where there is no file. Opens none.
    ///
    /// # Errors
    /// Where its folder cannot be read.
    pub fn earliest(&self) -> io::Result<Option<(Timestamp, bool)>> {
        let names = self.names(Kind::Held)?;
        let is_first = names.first().is_some_and(|name| name.serial == 1);
        Ok(names.iter().map(|name| name.first).min().map(|earliest| (earliest, is_first)))
    }

    fn name(&self) -> OsString {
        self.log.file_name().unwrap_or_default().to_owned()
    }

    fn path(&self, kind: Kind, name: PieceName) -> PathBuf {
        self.kind_folder(kind).join(name.file(&self.name()))
    }

    fn kind_folder(&self, kind: Kind) -> PathBuf {
        self.folder.join(kind.folder())
    }

    /// A file in its folder.
    fn open(&self, path: &Path) -> io::Result<File> {
        match &self.copy {
            None => File::open(path),
            Some((store, folder)) => store.open(&self.path_there(folder, path)),
        }
    }

    /// The same, to be read in parts.
    fn content(&self, path: &Path) -> io::Result<PieceContent> {
        match &self.copy {
            None => File::open(path).map(PieceContent::Here),
            Some((store, folder)) => {
                let copied = CopiedContent::open(store, self.path_there(folder, path));
                copied.map(PieceContent::There)
            }
        }
    }

    fn path_there(&self, folder: &str, path: &Path) -> String {
        let within = path.strip_prefix(&self.folder).unwrap_or(path);
        format!("{folder}/{}", within.display())
    }

    /// What was listed may be different by now.
    fn forget(&self) {
        if let Some((store, _)) = &self.copy {
            store.forget();
        }
    }

    /// In the order of the log.
    fn names(&self, kind: Kind) -> io::Result<Vec<PieceName>> {
        let listed: Vec<OsString> = match &self.copy {
            Some((store, folder)) => {
                let files = store.list(&format!("{folder}/{}", kind.folder()))?;
                files.into_iter().map(|file| file.name.into()).collect()
            }
            None => match RealDisk.list(&self.kind_folder(kind)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
                listed => listed?,
            },
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
    /// The time of its last line: where the log does not have that place any more, what is later is
    /// behind it.
    pub reached: Timestamp,
    /// How many clients had ports then, about.
    open: u64,
    /// How many names there were.
    names: u64,
}

/// A history that is there, to be read.
pub struct History {
    place: HistoryPlace,
    names: Vec<PieceName>,
    times: Times,
    /// Those that have conflicts.
    conflicts: Vec<PieceName>,
    /// Those that have names.
    with_names: Vec<PieceName>,
    /// Those in whose time tables began anew.
    begun: Vec<PieceName>,
    end: HistoryEnd,
    /// Those that say who had ports, which were opened lately.
    opened: RefCell<BTreeMap<usize, Rc<PieceFile>>>,
}

/// What the lines of a file are to say of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinesAbout {
    /// That it became somebody's, or stopped to be.
    Held,
    /// That it was somebody's since before the log begins.
    Older,
    /// That its NAT64 contradicted the table.
    Conflicts,
}

impl LinesAbout {
    /// Where a file notes which ports have such lines.
    fn note(self) -> &'static str {
        match self {
            Self::Held => NOTE_PORTS,
            Self::Older => NOTE_OLDER_PORTS,
            Self::Conflicts => NOTE_CONFLICT_PORTS,
        }
    }
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
        let with_names = place.names(Kind::Names).map_err(listed)?;
        let begun = place.names(Kind::Begun).map_err(listed)?;
        let Some(last) = names.last() else { return Ok(None) };
        let newest = open(&place, Kind::Held, *last)?;
        let end = end_of(&newest).map_err(|error| (newest.path().to_owned(), error))?;
        let times = Times::of(&names);
        let opened = RefCell::new(BTreeMap::from([(names.len() - 1, Rc::new(newest))]));
        Ok(Some(Self { place, names, times, conflicts, with_names, begun, end, opened }))
    }

    pub fn end(&self) -> &HistoryEnd {
        &self.end
    }

    /// The number of its newest file, as its name has it: from 1 on.
    fn newest(&self) -> u32 {
        self.names.last().map_or(0, |name| name.serial)
    }

    /// Whether its files are others by now: new ones are there, or old ones were removed.
    pub fn is_outdated(&self) -> bool {
        self.place.forget();
        let is =
            |kind, known: &[PieceName]| self.place.names(kind).is_ok_and(|names| names == known);
        !is(Kind::Held, &self.names)
            || !is(Kind::Conflicts, &self.conflicts)
            || !is(Kind::Names, &self.with_names)
            || !is(Kind::Begun, &self.begun)
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

    /// Since when lines of the log are missing before those of a file, and until when at most.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn gap_before(&self, file: usize) -> Result<Option<(Timestamp, Timestamp)>, Unreadable> {
        let name = self.names[file];
        let before = file.checked_sub(1).map(|before| self.names[before]);
        let since = match before.filter(|before| before.serial + 1 != name.serial) {
            // A file is.
            Some(before) => Some(before.last),
            None => {
                let noted = self.held(file)?.note(NOTE_GAP).and_then(|at| at.parse().ok());
                noted.map(Timestamp::from_micros)
            }
        };
        Ok(since.map(|since| (since, name.first)))
    }

    /// Whether a file has clients that had a port since before the log begins, as far as it tells.
    pub fn has_older(&self, file: usize) -> bool {
        self.names[file].older
    }

    /// The last of some files that may have such lines about a port. Opens few of them.
    ///
    /// # Errors
    /// Where a file cannot be read.
    pub fn last_about(
        &self,
        files: Range<usize>,
        what: LinesAbout,
        port: SocketAddrV4,
    ) -> Result<Option<usize>, Unreadable> {
        let mut end = files.end;
        while end > files.start {
            let file = self.held(end - 1)?;
            let may_have = file.may_have(what.note(), port);
            if may_have.map_err(|error| (file.path().to_owned(), error))? {
                return Ok(Some(end - 1));
            }
            // Nor has any of those before it whose ports it has, too.
            let begin = begin_of(self.names[end - 1].serial);
            end = self.names.partition_point(|name| name.serial <= begin);
        }
        Ok(None)
    }

    /// All of them, in order.
    ///
    /// # Errors
    /// Where a file cannot be read.
    pub fn all_about(
        &self,
        mut files: Range<usize>,
        what: LinesAbout,
        port: SocketAddrV4,
    ) -> Result<Vec<usize>, Unreadable> {
        let mut all = Vec::new();
        while let Some(file) = self.last_about(files.clone(), what, port)? {
            all.push(file);
            files.end = file;
        }
        all.reverse();
        Ok(all)
    }

    fn held(&self, file: usize) -> Result<Rc<PieceFile>, Unreadable> {
        let mut opened = self.opened.borrow_mut();
        if let Some(file) = opened.get(&file) {
            return Ok(Rc::clone(file));
        }
        if opened.len() >= OPENED_MAX {
            opened.clear();
        }
        let piece = Rc::new(open(&self.place, Kind::Held, self.names[file])?);
        opened.insert(file, Rc::clone(&piece));
        Ok(piece)
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
        let file = self.held(file)?;
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
        let file = self.held(file)?;
        let scanned = file.scan(WantedRows::Clients(clients), |row| match row {
            HistoryRow::Held(held) => take(held),
            _ => Ok(()),
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
        _ => None,
    }
}

fn open(place: &HistoryPlace, kind: Kind, name: PieceName) -> Result<PieceFile, Unreadable> {
    let path = place.path(kind, name);
    let opened = place.content(&path).and_then(|file| PieceFile::of(kind, path.clone(), file));
    opened.map_err(|error| (path, error))
}

/// What a file notes.
fn end_of(file: &PieceFile) -> io::Result<HistoryEnd> {
    let missing = || io::Error::new(io::ErrorKind::InvalidData, "it does not say how far it goes");
    let note = |name| file.note(name).ok_or_else(missing);
    let number = |name| note(name)?.parse::<u64>().map_err(|_| missing());
    if ![VERSION, VERSION_WITHOUT_SUM].contains(&note(NOTE_VERSION)?) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a newer release wrote it"));
    }
    Ok(HistoryEnd {
        place: note(NOTE_END)?.parse().map_err(|_| missing())?,
        reached: Timestamp::from_micros(number(NOTE_REACHED)?),
        open: number(NOTE_OPEN)?,
        names: file.note(NOTE_NAMES).map_or(Ok(0), |_| number(NOTE_NAMES))?,
    })
}

#[cfg(test)]
mod tests;
