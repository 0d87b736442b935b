//! Completes the log from the journal, after a crash: every line stands in it once.
//!
//! The [`Cursor`] says which file the log was, and where lines begin that may be compared with the
//! journal's events. That file is compared from there on, whatever its name in the same directory
//! is. If another file has the log's name by now (logrotate), the end of that one is compared too.
//! Lines that neither has are appended to the file that has the name.
//!
//! - Half a line at the end is cut off if it is the beginning of a missing line; else it gets a
//!   line feed.
//! - A line that belongs to no event was written by somebody else. It stays.
//! - The file is gone, or compressed: what the cursor counts was in it; the rest is written.
//! - The file is shorter than the cursor says, and had been synced: somebody has truncated it. The
//!   same.
//! - It is shorter, and had not been synced: a power cut, most likely. All that the journal has is
//!   compared with its end.
//! - There is no cursor: the same.
//! - Standard output: what the cursor does not count is written. It cannot be read.
//!
//! A crash during completion does no harm: the cursor moves at the end, so the next start does all
//! again.
//!
//! Not here: which lines are missing (`compare`), and the journal.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;

use super::compare::{Comparison, Ending};
use super::cursor::{Cursor, CursorFile, Unknown};
use super::error::LogError;
use super::output::Destination;
use super::output::{Output, inode_of};
use super::place::{Inode, LogPosition};
use super::{BATCH_OCTETS, BUSY_INTERVAL, LINE_MAX};
use crate::disk::fs::{Disk, parent};
use crate::disk::secret_hash;
use crate::handoff::change::{Event, LogFormat};
use crate::handoff::line::LineWriter;

/// No line is shorter, with its line feed: `Forgotten` and the shortest address.
const LINE_MIN: u64 = 45;
/// Octets that are read at once.
const READ_OCTETS: usize = 64 * 1024;

/// What [`complete`] found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Completed {
    /// Lines that were missing and are written now.
    pub appended: u64,
    /// Octets of half a line that were cut off.
    pub cut: u64,
    /// Lines of no event, where only ours should be.
    pub strangers: u64,
    /// Upper bound of the lines that may be missing and that the journal does not have any more.
    pub missing_max: u64,
}

/// For each shard of the epoch, the number of events that are surely in the log. None where that is
/// not known: then [`complete`] needs all events that the journal has.
pub fn known_events(disk: &dyn Disk, destination: &Destination, cursor: &Path) -> Option<Vec<u64>> {
    let cursor = Cursor::read(disk, cursor).ok()?;
    match destination {
        Destination::File(path) if find(path, &cursor).is_doubtful() => None,
        _ => Some(cursor.events),
    }
}

/// Writes what the log lacks of `unlogged`: for each shard of the epoch that ends, events with
/// their numbers, in order. Then the cursor counts them, durably. Returns the destination, for
/// [`EventLog::start`](super::EventLog::start).
///
/// To be called before anything is removed from the journal, or counted anew.
///
/// # Errors
/// The log cannot be read or written, or its cursor cannot be. It is as complete as before, or
/// more.
pub fn complete(
    disk: &dyn Disk,
    destination: Destination,
    format: LogFormat,
    cursor: &Path,
    unlogged: Vec<Vec<(u64, Event)>>,
) -> Result<(Destination, Completed), LogError> {
    complete_saying(disk, destination, format, cursor, unlogged, super::say)
}

pub(super) fn complete_saying(
    disk: &dyn Disk,
    destination: Destination,
    format: LogFormat,
    path: &Path,
    unlogged: Vec<Vec<(u64, Event)>>,
    mut say: impl FnMut(fmt::Arguments<'_>),
) -> Result<(Destination, Completed), LogError> {
    let cursor = match Cursor::read(disk, path) {
        Ok(cursor) if cursor.events.len() == unlogged.len() => Some(cursor),
        // A server that never ran has no cursor, and nothing to write.
        Err(Unknown::Missing) if unlogged.iter().all(Vec::is_empty) => {
            return Ok((destination, Completed::default()));
        }
        result => {
            let reason = match result {
                Err(reason) => reason.to_string(),
                Ok(_) => "it is for another number of shards".to_owned(),
            };
            say(format_args!(
                "no log cursor {}: {reason}; all that the journal has is compared with the end of \
                 the event log",
                path.display()
            ));
            None
        }
    };
    // Before the log is opened, which may create it, with the inode of one that was removed.
    let found = match (&destination, &cursor) {
        (Destination::File(log), Some(cursor)) => find(log, cursor),
        (_, Some(_)) => Found::Elsewhere,
        (_, None) => Found::Unknown,
    };
    let mut completion = Completion {
        disk,
        output: Output::open_as_is(destination)?,
        format,
        counted: cursor.map_or_else(|| vec![0; unlogged.len()], |cursor| cursor.events),
        unlogged,
        path,
        done: Completed::default(),
    };
    let name = completion.output.name();
    found.explain(&name, &mut say);
    completion.run(&found).map_err(|error| match error {
        Failed::Log(cause) => LogError::Incomplete { log: name.clone(), cause },
        Failed::Cursor(cause) => LogError::Cursor { path: path.to_owned(), cause },
    })?;
    completion.done.explain(&name, &mut say);
    Ok((completion.output.close(), completion.done))
}

enum Failed {
    Log(io::Error),
    Cursor(io::Error),
}

impl From<io::Error> for Failed {
    fn from(cause: io::Error) -> Self {
        Failed::Log(cause)
    }
}

struct Completion<'a> {
    disk: &'a dyn Disk,
    output: Output,
    format: LogFormat,
    counted: Vec<u64>,
    unlogged: Vec<Vec<(u64, Event)>>,
    path: &'a Path,
    done: Completed,
}

impl Completion<'_> {
    fn run(&mut self, found: &Found) -> Result<(), Failed> {
        // Computed before the events that the log has are dropped from the list.
        let ends: Vec<u64> = self
            .unlogged
            .iter()
            .zip(&self.counted)
            .map(|(events, &counted)| events.last().map_or(0, |&(last, _)| last + 1).max(counted))
            .collect();
        if !found.is_doubtful() {
            for (events, &counted) in self.unlogged.iter_mut().zip(&self.counted) {
                events.drain(..events.partition_point(|&(number, _)| number < counted));
            }
        }
        let unlogged = std::mem::take(&mut self.unlogged);
        let mut comparison = Comparison::new(&unlogged, secret_hash());
        if self.output.is_regular() {
            // A new file must not be compared as if it were the old one after another crash.
            if matches!(found, Found::Gone)
                && self.output.position()?.is_some_and(|position| position.offset == 0)
            {
                self.move_cursor(self.counted.clone())?;
            }
            self.compare(found, &mut comparison)?;
            self.done.missing_max = self.missing_max(found, &unlogged, &comparison);
        }
        self.append(&comparison)?;
        self.move_cursor(ends)
    }

    /// Reads what there is of the log, and leaves whole lines at its end.
    fn compare(&mut self, found: &Found, comparison: &mut Comparison<'_>) -> io::Result<()> {
        // The lines that are searched for stand together at the end.
        let lookback = (comparison.events() as u64 + 1).saturating_mul(LINE_MAX as u64);
        let (old, from) = match found {
            Found::Same { offset } => (None, Some(*offset)),
            Found::Renamed { path, offset } => (Some((path, Some(*offset))), None),
            Found::Short { path, .. } => (path.as_ref().map(|path| (path, None)), None),
            Found::Gone | Found::Elsewhere | Found::Unknown => (None, None),
        };
        if let Some((path, from)) = old {
            let file = OpenOptions::new().read(true).write(true).open(path)?;
            if let Ending::Half(at) = self.read(&file, from, lookback, comparison)? {
                self.cut(&file, at)?;
                file.sync_data()?;
            }
        }
        let Output::File(log) = &self.output else {
            return Ok(());
        };
        let file = OpenOptions::new().read(true).write(true).open(&log.path)?;
        if inode_of(&file)? != log.id {
            return Err(io::Error::other("it was renamed just now"));
        }
        match self.read(&file, from, lookback, comparison)? {
            Ending::Whole => {}
            Ending::Half(at) => self.cut(&file, at)?,
            Ending::Strange => self.write(b"\n")?,
        }
        Ok(())
    }

    /// Reads from an offset where a line begins; without one, the last `lookback` octets of the
    /// file, which may have lines before ours.
    fn read(
        &mut self,
        file: &File,
        from: Option<u64>,
        lookback: u64,
        comparison: &mut Comparison<'_>,
    ) -> io::Result<Ending> {
        let strangers = comparison.strangers();
        let mut offset = match from {
            Some(offset) => {
                comparison.begin(offset);
                offset
            }
            None => {
                let offset = file.metadata()?.len().saturating_sub(lookback);
                if offset == 0 {
                    comparison.begin(0)
                } else {
                    comparison.begin_inside(offset)
                }
                offset
            }
        };
        let mut octets = vec![0; READ_OCTETS];
        loop {
            match file.read_at(&mut octets, offset) {
                Ok(0) => break,
                Ok(length) => {
                    comparison.feed(&octets[..length]);
                    offset += length as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if from.is_some() {
            self.done.strangers += comparison.strangers() - strangers;
        }
        Ok(comparison.end())
    }

    fn cut(&mut self, file: &File, at: u64) -> io::Result<()> {
        self.done.cut += file.metadata()?.len().saturating_sub(at);
        file.set_len(at)
    }

    /// Upper bound of the lines that the journal has forgotten and of which nobody can tell whether
    /// the log has them.
    fn missing_max(
        &mut self,
        found: &Found,
        unlogged: &[Vec<(u64, Event)>],
        comparison: &Comparison<'_>,
    ) -> u64 {
        let Found::Short { length, offset, synced: false, .. } = found else {
            // Lines of events that the journal forgot were counted as strangers.
            let forgotten = unlogged
                .iter()
                .zip(&self.counted)
                .filter_map(|(events, &counted)| events.first()?.0.checked_sub(counted))
                .sum::<u64>();
            let strangers = self.done.strangers;
            self.done.strangers = strangers.saturating_sub(forgotten);
            return forgotten.saturating_sub(strangers);
        };
        // If a shard's first pending event has a line, all before it have one.
        let before = unlogged
            .iter()
            .zip(&self.counted)
            .enumerate()
            .filter(|&(shard, _)| !comparison.begins(shard))
            .map(|(_, (events, &counted))| events.first().map_or(counted, |&(first, _)| first))
            .sum::<u64>();
        before.min((offset - length).div_ceil(LINE_MIN))
    }

    /// Appends what is missing, durably.
    fn append(&mut self, comparison: &Comparison<'_>) -> io::Result<()> {
        let mut batch = String::with_capacity(BATCH_OCTETS);
        let mut lines = LineWriter::default();
        for (_, event) in comparison.missing() {
            lines.append(&mut batch, &event, self.format);
            batch.push('\n');
            self.done.appended += 1;
            if batch.len() + LINE_MAX > BATCH_OCTETS {
                self.write(batch.as_bytes())?;
                batch.clear();
            }
        }
        self.write(batch.as_bytes())?;
        self.output.sync()?;
        self.output.sync_name()
    }

    fn write(&mut self, mut octets: &[u8]) -> io::Result<()> {
        while !octets.is_empty() {
            match self.output.write(octets) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => octets = octets.get(length..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A pipe or terminal that is only slow.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    thread::sleep(BUSY_INTERVAL);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Moves the cursor to the end of the log.
    fn move_cursor(&mut self, events: Vec<u64>) -> Result<(), Failed> {
        // `append` has synced the log.
        let position = self.output.end()?.map(|position| LogPosition { synced: true, ..position });
        if events.is_empty() {
            return Ok(());
        }
        CursorFile::create(self.disk, self.path, &Cursor { events, position })
            .map_err(Failed::Cursor)?;
        Ok(())
    }
}

/// What became of the file that the cursor names.
#[derive(Debug)]
enum Found {
    /// It still is the log.
    Same { offset: u64 },
    /// It has another name, in the same directory.
    Renamed { path: PathBuf, offset: u64 },
    /// It is shorter than it was. `path` is its other name, if it has one.
    Short { path: Option<PathBuf>, length: u64, offset: u64, synced: bool },
    /// It is not in the directory.
    Gone,
    /// The log was no file, or is none now.
    Elsewhere,
    /// There is no cursor.
    Unknown,
}

impl Found {
    /// Whether the log may lack what the cursor counts.
    fn is_doubtful(&self) -> bool {
        matches!(self, Found::Short { synced: false, .. } | Found::Unknown)
    }

    fn explain(&self, name: &str, say: &mut impl FnMut(fmt::Arguments<'_>)) {
        match self {
            Found::Renamed { path, .. } => {
                say(format_args!("{name} was renamed to {}; both are compared", path.display()));
            }
            Found::Short { path, length, offset, synced } => {
                let path = path.as_ref().map(|path| format!(", now {},", path.display()));
                say(format_args!(
                    "{name}{} is shorter than it was, {length} octets after {offset}; {}",
                    path.unwrap_or_default(),
                    if *synced {
                        "what was taken away is not written again"
                    } else {
                        "all that the journal has is compared with its end"
                    }
                ));
            }
            Found::Gone => say(format_args!(
                "the file that {name} was is not in its directory any more; lines that were written \
                 just before the crash may be in both"
            )),
            Found::Same { .. } | Found::Elsewhere | Found::Unknown => {}
        }
    }
}

/// Looks for the cursor's file, first where it was.
fn find(log: &Path, cursor: &Cursor) -> Found {
    let Some(LogPosition { file: id, offset, synced }) = cursor.position else {
        return Found::Elsewhere;
    };
    let is_it = |metadata: &fs::Metadata| {
        metadata.is_file() && id == Inode { device: metadata.dev(), inode: metadata.ino() }
    };
    if let Ok(metadata) = fs::metadata(log)
        && is_it(&metadata)
    {
        let length = metadata.len();
        if length < offset {
            return Found::Short { path: None, length, offset, synced };
        }
        return Found::Same { offset };
    }
    let mut directories = vec![parent(log).to_owned()];
    // The target of a symbolic link is renamed in the target's directory.
    directories.extend(fs::canonicalize(log).ok().map(|path| parent(&path).to_owned()));
    for directory in directories {
        // Directory entries that vanish meanwhile are skipped.
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if let Ok(metadata) = entry.metadata()
                && is_it(&metadata)
            {
                let (path, length) = (entry.path(), metadata.len());
                if length < offset {
                    return Found::Short { path: Some(path), length, offset, synced };
                }
                return Found::Renamed { path, offset };
            }
        }
    }
    Found::Gone
}

impl Completed {
    fn explain(&self, name: &str, say: &mut impl FnMut(fmt::Arguments<'_>)) {
        let s = |number: u64| if number == 1 { "" } else { "s" };
        let &Completed { appended, cut, strangers, missing_max } = self;
        if appended > 0 || cut > 0 {
            say(format_args!(
                "{name} was completed from the journal: {appended} line{} written, {cut} octet{} of \
                 half a line cut",
                s(appended),
                s(cut)
            ));
        }
        if strangers > 0 {
            say(format_args!(
                "{name} has {strangers} line{} at its end that this server did not write; left as \
                 {} are",
                s(strangers),
                if strangers == 1 { "it" } else { "they" },
            ));
        }
        if missing_max > 0 {
            say(format_args!(
                "{name} may lack up to {missing_max} line{} that the journal does not have any more",
                s(missing_max)
            ));
        }
    }
}

#[cfg(test)]
mod tests;
