//! Makes files of a history of the event log, from where the last one ends, and removes those that
//! are too old.
//!
//! A file is made of the lines of a day, or of a part of them, and of the clients that had ports at
//! the end of the file before it: so memory is bounded by the number of these lines. All that a
//! killed build leaves are files of other names, which the next one removes.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::columns::{HistoryRow, Kind, text_key};
use super::earlier::EarlierPorts;
use super::merge::{MergeTrouble, Merging};
use super::name::PieceName;
use super::names::{names_of, write_names};
use super::open::OpenHoldings;
use super::piece::{NoPiece, Piece, PieceSize};
use super::ports::NotedPorts;
use super::read::PieceFile;
use super::sum;
use super::write::{Writing, give, has_room, is_hidden};
use super::{
    HistoryEnd, HistoryPlace, LinesAbout, NOTE_BEGIN, NOTE_BEGUN, NOTE_END, NOTE_GAP, NOTE_LINES,
    NOTE_OPEN, NOTE_REACHED, NOTE_VERSION, VERSION, end_of, open,
};
use crate::disk::eventlog::{Day, LogReader, open_past_from};
use crate::disk::fs::{Disk, RealDisk, parent};
use crate::handoff::change::Timestamp;
use crate::kernel::clock;

/// Lines of which a file is made where few clients have ports, and at most.
const LINES_LEAST: u64 = 1 << 19;
const LINES_MOST: u64 = 1 << 22;
/// Each client that has a port stands in each file: so much more lines are in it.
const LINES_FOR_OPEN: u64 = 4;
/// The same the other way round: at the end of a day, a file is made of a line for so many, or some
/// days later; of any line where no more than these have ports.
const OPEN_FOR_LINES: u64 = 2;
const OPEN_FEW: u64 = 1 << 16;
/// Octets that a line has about.
const LINE_OCTETS: u64 = 80;
/// Where no file is younger than this many days, the clock may be wrong: nothing is removed.
const GAP_MAX: u64 = 32;
const LOCK: &str = ".lock";
/// What is put behind the name of a file that is damaged.
const DAMAGED: &str = ".damaged";

const _: () = assert!(LINES_MOST < u32::MAX as u64);

/// When the end of the log is made into a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// At once.
    Now,
    /// When its day is over, on this one or before, or when it is long.
    Later(Day),
}

/// How a history is built.
pub struct Building<'b> {
    pub place: &'b HistoryPlace,
    pub due: Due,
    /// Lines of which a file is made; by default, as many as fit its content.
    pub lines_max: Option<u64>,
    /// Whether to end before all is done.
    pub stop: &'b dyn Fn() -> bool,
    /// Is told of how many octets of the log how many were read.
    pub progress: &'b dyn Fn(u64, u64),
}

/// What was built.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Built {
    pub files: u64,
    pub lines: u64,
    pub rows: u64,
    /// The size of the files that say who had ports, in octets.
    pub octets: u64,
    /// The place where the history ended is not in the log any more: it went on behind this time.
    pub gap: Option<Timestamp>,
    /// A file that was damaged, and is called so now.
    pub damaged: Option<PathBuf>,
}

/// Why nothing more was built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("another process builds the history in {}: the server does, while it runs", .0.display())]
    Busy(PathBuf),
    #[error("the event log {path} cannot be read: {cause}", path = .0.display(), cause = .1)]
    Log(PathBuf, io::Error),
    #[error("the history cannot be written in {path}: {cause}", path = .0.display(), cause = .1)]
    Write(PathBuf, io::Error),
    #[error(
        "{path}, a file of the history, cannot be read: {cause}; move it and those with higher numbers away: \
         they are made anew, as far as the log goes back", path = .0.display(), cause = .1
    )]
    Read(PathBuf, io::Error),
    #[error("{path} is a file of the history that was damaged, and is put aside; {cause}", path = .0.display(), cause = .1)]
    PutAside(PathBuf, Box<BuildError>),
    #[error("stopped; what is done is done, and the rest is next time's")]
    Stopped,
}

/// The only one who builds in a folder.
struct Lock(#[expect(dead_code, reason = "locked as long as it is open")] File);

impl Building<'_> {
    /// Makes all files that are due. A newest file that is damaged is put aside, and made again of
    /// the log, as far as that goes back: one file at most, as a disk that gives wrong octets of
    /// all files may give the right ones later.
    ///
    /// # Errors
    /// What is in the way. What was built before stays.
    pub fn build(&self) -> Result<Built, BuildError> {
        let (path, cause) = match self.build_on() {
            Err(BuildError::Read(path, cause)) => (path, cause),
            built => return built,
        };
        let Some(aside) = self.put_aside(&path)? else {
            return Err(BuildError::Read(path, cause));
        };
        match self.build_on() {
            Ok(built) => Ok(Built { damaged: Some(aside), ..built }),
            Err(error) => Err(BuildError::PutAside(aside, Box::new(error))),
        }
    }

    /// Renames a file, if it is damaged, and what NAT64s said in its time: where to.
    fn put_aside(&self, path: &Path) -> Result<Option<PathBuf>, BuildError> {
        let _lock = self.lock(&self.like()?)?;
        match File::open(path).and_then(|file| sum::verify(&file)) {
            Err(error) if sum::is_damage(&error) => {}
            _ => return Ok(None),
        }
        let failed = |error| self.failed(error);
        let held = PieceName::parse(&self.place.name(), path.file_name().unwrap_or_default());
        // The next file has its number.
        let is_of = |name: &PieceName| held.is_some_and(|held| name.serial == held.serial);
        for kind in Kind::ALL {
            for name in self.place.names(kind).map_err(failed)?.into_iter().filter(is_of) {
                let beside = self.place.path(kind, name);
                if beside != path {
                    call_damaged(&beside).map_err(failed)?;
                }
            }
        }
        call_damaged(path).map(Some).map_err(failed)
    }

    fn build_on(&self) -> Result<Built, BuildError> {
        let mut built = Built::default();
        let like = self.like()?;
        if !like.is_file() {
            // A pipe has a reader of its own.
            return Ok(built);
        }
        if self.due == Due::Now
            && let Some(newest) = self.newest()?
        {
            let verified = newest.verify();
            verified.map_err(|error| BuildError::Read(newest.path().to_owned(), error))?;
        }
        let mut end = self.end()?;
        let place = end.as_ref().map(|end| &end.place);
        let past = open_past_from(&self.place.log, place);
        let past = past.map_err(|(path, error)| BuildError::Log(path, error))?;
        if !past.is_found {
            built.gap = end.as_ref().map(|end| end.reached);
        }
        let mut log = LogReader::new(past.files);
        if !self.is_due(&mut log, end.as_ref())? {
            return Ok(built);
        }
        let _lock = self.lock(&like)?;
        if self.end()?.map(|end| end.place) != end.as_ref().map(|end| end.place) {
            // Another process has built meanwhile.
            return Ok(built);
        }
        self.tidy()?;
        let folder = File::open(self.place.kind_folder(Kind::Held));
        folder.and_then(|folder| has_room(&folder)).map_err(|error| self.failed(error))?;
        let mut open = None;
        loop {
            // Behind a gap, it does not go on where the file before it ends.
            let gap = built.gap.filter(|_| built.files == 0);
            let before = end.as_ref().filter(|_| gap.is_none());
            let begin = before.map_or(String::new(), |end| end.place.to_string());
            let size = self.size(end.as_ref());
            let piece = Piece::read(&mut log, &size, built.gap, || (self.stop)());
            let piece = piece.map_err(|why| match why {
                NoPiece::Stopped => BuildError::Stopped,
                NoPiece::Unreadable(path, error) => BuildError::Log(path, error),
            })?;
            let (octets, read) = log.progress();
            (self.progress)(octets, read);
            let (Some((first, last)), Some(place)) = (piece.times, log.place()) else { break };
            let is_enough = self.is_enough(Day::of(first), piece.octets, end.as_ref());
            if !piece.is_cut && !is_enough {
                break;
            }
            // What the history has is never lost by the log.
            log.sync().map_err(|(path, error)| BuildError::Log(path, error))?;
            let reached = piece.last.min(clock::wall());
            let end_there = HistoryEnd { place, reached, open: 0, names: 0 };
            let notes = (begin, gap, end_there);
            end = Some(self.write(&piece, (first, last), notes, (&like, &mut open), &mut built)?);
            if !piece.is_cut {
                break;
            }
        }
        Ok(built)
    }

    fn like(&self) -> Result<Metadata, BuildError> {
        let log = &self.place.log;
        fs::metadata(log).map_err(|error| BuildError::Log(log.clone(), error))
    }

    fn failed(&self, error: io::Error) -> BuildError {
        BuildError::Write(self.place.folder.clone(), error)
    }

    fn newest(&self) -> Result<Option<PieceFile>, BuildError> {
        let names = self.place.names(Kind::Held).map_err(|error| self.failed(error))?;
        let newest = names.last().map(|&name| open(self.place, Kind::Held, name));
        newest.transpose().map_err(|(path, error)| BuildError::Read(path, error))
    }

    fn end(&self) -> Result<Option<HistoryEnd>, BuildError> {
        let newest = self.newest()?;
        let end = |file: &PieceFile| {
            end_of(file).map_err(|error| BuildError::Read(file.path().to_owned(), error))
        };
        newest.as_ref().map(end).transpose()
    }

    fn size(&self, end: Option<&HistoryEnd>) -> PieceSize {
        let open = end.map_or(0, |end| end.open);
        let most = (open * LINES_FOR_OPEN).clamp(LINES_LEAST, LINES_MOST);
        let most = self.lines_max.unwrap_or(most);
        let day = if open > OPEN_FEW { open / OPEN_FOR_LINES } else { 0 };
        PieceSize { day: day.min(most), most }
    }

    /// Whether anything is to be done, without reading much of the log.
    fn is_due(&self, log: &mut LogReader, end: Option<&HistoryEnd>) -> Result<bool, BuildError> {
        let lines = log.lines().map_err(|(path, error)| BuildError::Log(path, error))?;
        let Some(first) = Day::of_first_line(lines) else { return Ok(!lines.is_empty()) };
        let (octets, _) = log.progress();
        let passed = log.place().map_or(0, |place| place.offset());
        Ok(self.is_enough(first, octets.saturating_sub(passed), end))
    }

    /// Whether the end of the log, from a day on, is to be made into a file.
    fn is_enough(&self, first: Day, octets: u64, end: Option<&HistoryEnd>) -> bool {
        let (size, lines) = (self.size(end), octets / LINE_OCTETS);
        match self.due {
            Due::Now => true,
            Due::Later(today) => lines >= size.most || size.is_enough(lines, first, today),
        }
    }

    fn lock(&self, like: &Metadata) -> Result<Lock, BuildError> {
        let folders = Kind::ALL.map(|kind| self.place.kind_folder(kind));
        let mut folders = std::iter::once(&self.place.folder).chain(&folders);
        folders.try_for_each(|folder| make(folder, like)).map_err(|e| self.failed(e))?;
        let path = self.place.folder.join(LOCK);
        let lock = open_lock(&path, like).map_err(|error| self.failed(error))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Lock(lock)),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(BuildError::Busy(self.place.folder.clone())),
            Err(error) => Err(self.failed(error.into())),
        }
    }

    /// Removes what a killed build has left.
    fn tidy(&self) -> Result<(), BuildError> {
        let newest = self.place.names(Kind::Held).map_err(|error| self.failed(error))?;
        let newest = newest.last().map_or(0, |name| name.serial);
        for kind in Kind::ALL {
            let folder = self.place.kind_folder(kind);
            let names = RealDisk.list(&folder).map_err(|error| self.failed(error))?;
            let log = self.place.name();
            let is_left = |name: &std::ffi::OsString| {
                let piece = PieceName::parse(&log, name);
                is_hidden(name) || piece.is_some_and(|piece| piece.serial > newest)
            };
            for name in names.iter().filter(|name| is_left(name)) {
                fs::remove_file(folder.join(name)).map_err(|error| self.failed(error))?;
            }
        }
        Ok(())
    }

    /// Writes the file of a piece, and that of its conflicts where there are some.
    fn write(
        &self,
        piece: &Piece,
        (first, last): (Timestamp, Timestamp),
        (begin, gap, mut end): (String, Option<Timestamp>, HistoryEnd),
        (like, open): (&Metadata, &mut Option<OpenHoldings>),
        built: &mut Built,
    ) -> Result<HistoryEnd, BuildError> {
        let failed = |error| self.failed(error);
        let newest = self.place.names(Kind::Held).map_err(failed)?.last().copied();
        let serial = newest.map_or(1, |newest| newest.serial.saturating_add(1));
        let name = PieceName::new(serial, first, last, false);
        let folder = File::open(self.place.kind_folder(Kind::Held)).map_err(failed)?;
        has_room(&folder).map_err(failed)?;
        let conflicts = conflicts_of(piece);
        self.write_beside(Kind::Conflicts, name, conflicts, like).map_err(failed)?;
        let begun: Vec<_> = piece.beginnings().into_iter().map(HistoryRow::Begun).collect();
        let noted_begun = (NOTE_BEGUN, begun.len().to_string());
        self.write_beside(Kind::Begun, name, begun, like).map_err(failed)?;
        let names = names_of(self.place, piece, gap);
        let names = names.map_err(|(path, error)| BuildError::Read(path, error))?;
        let noted_names = write_names(self.place, name, names, like).map_err(failed)?;
        let path = self.place.path(Kind::Held, name);
        let mut writing = Writing::begin(Kind::Held, &path, like).map_err(failed)?;
        let before = self.newest()?;
        let mut merging = Merging::new(piece, gap, &mut writing, self.stop);
        let merged = merging.merge(before.as_ref(), open.take());
        match (merging.trouble.take(), merged, before) {
            (Some(MergeTrouble::Stopped), ..) => return Err(BuildError::Stopped),
            (Some(MergeTrouble::Write(error)), ..) => return Err(failed(error)),
            (None, Err(error), Some(before)) => {
                return Err(BuildError::Read(before.path().to_owned(), error));
            }
            (None, Err(error), None) => return Err(failed(error)),
            (None, Ok(()), _) => {}
        }
        end.open = merging.open;
        *open = Some(std::mem::take(&mut merging.kept));
        let path = self.place.path(Kind::Held, PieceName { older: merging.older.any(), ..name });
        let mut conflicts = NotedPorts::default();
        piece.conflicts.iter().for_each(|said| conflicts.insert(said.nat64));
        let sets = [
            (LinesAbout::Held, std::mem::take(&mut merging.ports)),
            (LinesAbout::Older, std::mem::take(&mut merging.older)),
            (LinesAbout::Conflicts, conflicts),
        ];
        built.rows += writing.count;
        let mut notes = vec![
            (NOTE_VERSION, VERSION.to_owned()),
            (NOTE_BEGIN, begin),
            (NOTE_END, end.place.to_string()),
            (NOTE_REACHED, end.reached.as_micros().to_string()),
            (NOTE_LINES, piece.lines.to_string()),
            (NOTE_OPEN, end.open.to_string()),
            noted_begun,
        ];
        notes.extend(gap.map(|at| (NOTE_GAP, at.as_micros().to_string())));
        notes.extend(noted_names);
        let earlier = EarlierPorts::of(self.place, serial).map_err(failed)?;
        let sets = sets.into_iter().filter_map(|(what, ports)| earlier.with(what, ports));
        let sets: Vec<_> = sets.collect();
        built.octets += writing.finish(&path, notes, &sets).map_err(failed)?;
        built.files += 1;
        built.lines += piece.lines;
        Ok(end)
    }

    /// Writes a file that goes with one that says who had ports, where it has rows.
    fn write_beside(
        &self,
        kind: Kind,
        name: PieceName,
        rows: Vec<HistoryRow>,
        like: &Metadata,
    ) -> io::Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let path = self.place.path(kind, name);
        let mut writing = Writing::begin(kind, &path, like)?;
        rows.into_iter().try_for_each(|row| writing.push(row))?;
        writing.finish(&path, vec![(NOTE_VERSION, VERSION.to_owned())], &[]).map(drop)
    }

    /// Removes files whose last line is older than so many days; 0: none. One that is younger
    /// stays, with all behind it; and the newest, which has all who have ports now. Returns how
    /// many were removed.
    ///
    /// # Errors
    /// Where one cannot be removed.
    pub fn expire(&self, keep_days: u32, today: Day) -> Result<usize, BuildError> {
        let failed = |error| self.failed(error);
        let names = self.place.names(Kind::Held).map_err(failed)?;
        let Some((newest, older)) = names.split_last() else { return Ok(0) };
        if keep_days == 0 || today.since(Day::of(newest.last)) > GAP_MAX {
            return Ok(0);
        }
        let is_old = |name: &PieceName| today.since(Day::of(name.last)) > u64::from(keep_days);
        // One before it is as old, also where the clock was ahead for a while.
        let is_ahead = |name: &PieceName| Day::of(name.last) > today;
        let first = older.iter().take_while(|name| is_old(name) || is_ahead(name)).count();
        let old = older[..first].iter().rposition(is_old).map_or(0, |last| last + 1);
        let mut removed = 0;
        for &name in &older[..old] {
            for kind in Kind::ALL {
                let older = name.older && kind == Kind::Held;
                match fs::remove_file(self.place.path(kind, PieceName { older, ..name })) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(failed(error));
                    }
                    _ => {}
                }
            }
            removed += 1;
        }
        for kind in Kind::ALL {
            let damaged = self.damaged(kind).map_err(failed)?;
            for (_, path) in damaged.into_iter().filter(|(name, _)| is_old(name)) {
                fs::remove_file(path).map_err(failed)?;
            }
        }
        Ok(removed)
    }

    /// The files that were put aside as they are damaged.
    fn damaged(&self, kind: Kind) -> io::Result<Vec<(PieceName, PathBuf)>> {
        let (folder, log) = (self.place.kind_folder(kind), self.place.name());
        if !folder.exists() {
            return Ok(Vec::new());
        }
        let names = RealDisk.list(&folder)?.into_iter().filter_map(|name| {
            let piece = name.as_bytes().strip_suffix(DAMAGED.as_bytes())?;
            let piece = PieceName::parse(&log, OsStr::from_bytes(piece))?;
            Some((piece, folder.join(name)))
        });
        Ok(names.collect())
    }
}

/// What NAT64s said against the tables, in the order of a file of that.
fn conflicts_of(piece: &Piece) -> Vec<HistoryRow> {
    let mut conflicts = piece.conflicts.clone();
    conflicts.sort_by_cached_key(|said| (text_key(*said.nat64.ip()), said.nat64.port(), *said));
    conflicts.into_iter().map(HistoryRow::Conflict).collect()
}

/// Renames a file that is damaged, or goes with one: where to.
fn call_damaged(path: &Path) -> io::Result<PathBuf> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(DAMAGED);
    let aside = PathBuf::from(aside);
    fs::rename(path, &aside)?;
    RealDisk.sync_dir(parent(path))?;
    Ok(aside)
}

/// Makes a folder, for whom the log is for. Where root makes it, others may change what it is in:
/// only what is made here is given away, and no link is followed.
fn make(folder: &Path, like: &Metadata) -> io::Result<()> {
    let read = like.permissions().mode() & 0o444;
    match DirBuilder::new().mode(0o700 | read | read >> 2).create(folder) {
        Ok(()) => {
            let flags = libc::O_NOFOLLOW | libc::O_DIRECTORY;
            let made = OpenOptions::new().read(true).custom_flags(flags).open(folder)?;
            let is_fresh = made.metadata()?.uid() == rustix::process::geteuid().as_raw()
                && RealDisk.list(folder)?.is_empty();
            if is_fresh {
                give(&made, like);
            }
            RealDisk.sync_dir(parent(folder))
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Opens the file that is locked. It is given away only as it is made.
fn open_lock(path: &Path, like: &Metadata) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).mode(0o600);
    match options.clone().create_new(true).open(path) {
        Ok(lock) => {
            give(&lock, like);
            Ok(lock)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => options.open(path),
        Err(error) => Err(error),
    }
}
