//! Completes the log from the journal, after a crash: every line stands in it once.
//!
//! The [`Cursor`] says which file the log was, and where lines begin that may be compared with the
//! journal's events. That file is compared from there on, whatever its name in the same directory
//! is. If another file has the log's name by now (logrotate), the end of that one is compared too.
//! So are the files between the two (`beside`): where the cursor could not be written, the log may
//! have been renamed more than once since. Where it is not known which file the log was, those
//! before it are compared from the end on, as far back as events are searched for. Lines that none
//! has are appended to the file that has the name.
//!
//! - Half a line at the end is cut off if it is the beginning of a missing line, or is ours and
//!   later than the journal; else it gets a line feed. Nothing is cut off a file that does not have
//!   our own content under the log's name: a file that was renamed is only read.
//! - A line that belongs to no event was written by somebody else. It stays. Where it is one of
//!   ours and later than the journal, the journal lost what it says: see `ahead`. So it is where
//!   the cursor counts more than the journal has: see `lost`. Copies of the log that somebody made
//!   tell nothing of that: see `since`.
//! - The file is gone, or compressed: what the cursor counts was in it; the rest is written.
//! - The file is shorter than the cursor says, and had been synced: somebody has truncated it. The
//!   same.
//! - It is shorter, and had not been synced: a power cut, most likely. All that the journal has is
//!   compared with its end.
//! - It has other octets where the last lines stood: the same as if it were shorter.
//! - There is no cursor: the same.
//! - Standard output, a pipe: what the cursor does not count is written. It cannot be read. A
//!   reader that takes nothing is waited for.
//!
//! A crash during completion does no harm, and nor does an error: the cursor moves at the end, so
//! the next start, or the next call, does all again. What cannot be read is only written when there
//! is room for the cursor.
//!
//! Not here: what is read of which files (`read`), which lines are missing (`compare`), and the
//! journal.

mod lost;
mod read;
mod since;

use std::fmt;
use std::io;
use std::path::Path;
use std::thread;

use super::compare::Comparison;
use super::cursor::{Cursor, CursorFile, Unknown};
use super::error::LogError;
use super::find::{Found, find};
use super::output::Destination;
use super::output::Output;
use super::place::LogPosition;
use super::{BATCH_OCTETS, BUSY_INTERVAL, LINE_MAX, RETRY_INTERVAL};
use crate::disk::fs::Disk;
use crate::disk::secret_hash;
use crate::handoff::change::{Event, LogFormat, Timestamp};
use crate::handoff::line::LineWriter;
use crate::kernel::clock;

pub use lost::JournalEnds;

/// No line is shorter, with its line feed: `Forgotten` and the shortest address.
const LINE_MIN: u64 = 45;
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
    /// Lines of ours that are later than what the journal has.
    pub ahead: u64,
    /// Lines written since the tables do not have what those say.
    pub taken_back: u64,
}

/// For each shard of the epoch, the number of events that are surely in the log. None where that is
/// not known: then [`complete`] needs all events that the journal has.
pub fn known_events(disk: &dyn Disk, destination: &Destination, cursor: &Path) -> Option<Vec<u64>> {
    let cursor = Cursor::read(disk, cursor).ok()?;
    match destination.path() {
        Some(path) if find(path, &cursor).is_doubtful() => None,
        _ => Some(cursor.events),
    }
}

/// Writes what the log lacks of `unlogged`: for each shard of the epoch that ends, events with
/// their numbers, in order. Then the cursor counts them, durably. Returns the destination, for
/// [`EventLog::start`](super::EventLog::start). Waits for the reader of a pipe or terminal, however
/// long it takes nothing.
///
/// To be called before anything is removed from the journal, or counted anew.
///
/// # Errors
/// The log cannot be read or written, or its cursor cannot be. It is as complete as before, or
/// more, and this can be called again with what it leaves of `unlogged`.
pub fn complete(
    disk: &dyn Disk,
    destination: Destination,
    format: LogFormat,
    cursor: &Path,
    unlogged: &mut [Vec<(u64, Event)>],
) -> Result<(Destination, Completed), LogError> {
    let log = LogToComplete { destination, format, cursor, now: clock::wall(), journal: None };
    complete_saying(disk, log, unlogged, super::say)
}

/// What is completed.
pub struct LogToComplete<'a> {
    /// Where it is.
    pub destination: Destination,
    /// The format of its lines.
    pub format: LogFormat,
    /// The path of its cursor.
    pub cursor: &'a Path,
    /// The present time, for lines that have no other.
    pub now: Timestamp,
    /// How far the journal is, if that is known.
    pub journal: Option<JournalEnds<'a>>,
}

/// [`complete`], which tells the operator by `say` what it finds and did.
///
/// # Errors
/// Those of [`complete`].
pub fn complete_saying(
    disk: &dyn Disk,
    log: LogToComplete<'_>,
    unlogged: &mut [Vec<(u64, Event)>],
    mut say: impl FnMut(fmt::Arguments<'_>),
) -> Result<(Destination, Completed), LogError> {
    let LogToComplete { destination, format, cursor: path, now, journal } = log;
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
    let found = match (destination.path(), &cursor) {
        (Some(log), Some(cursor)) => find(log, cursor),
        (_, Some(_)) => Found::Elsewhere,
        (_, None) => Found::Unknown,
    };
    let mut completion = Completion {
        disk,
        output: Output::open_as_is(destination)?,
        format,
        now,
        journal,
        lost: 0,
        counted: cursor.map_or_else(|| vec![0; unlogged.len()], |cursor| cursor.events),
        path,
        done: Completed::default(),
    };
    let name = completion.output.name();
    found.explain(&name, &mut say);
    completion.run(&found, unlogged).map_err(|error| match error {
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
    now: Timestamp,
    journal: Option<JournalEnds<'a>>,
    /// Lines that the cursor counts, of events that the journal does not have.
    lost: u64,
    counted: Vec<u64>,
    path: &'a Path,
    done: Completed,
}

impl Completion<'_> {
    fn run(&mut self, found: &Found, unlogged: &mut [Vec<(u64, Event)>]) -> Result<(), Failed> {
        // Computed before the events that the log has are dropped from the list.
        let mut ends: Vec<u64> = unlogged
            .iter()
            .zip(&self.counted)
            .map(|(events, &counted)| events.last().map_or(0, |&(last, _)| last + 1).max(counted))
            .collect();
        // What the journal has lost has other numbers when it happens again.
        let next_events = self.journal.iter().flat_map(|journal| journal.next_events);
        ends.iter_mut().zip(next_events).for_each(|(end, &next)| *end = next.min(*end));
        if !found.is_doubtful() {
            for (events, &counted) in unlogged.iter_mut().zip(&self.counted) {
                events.drain(..events.partition_point(|&(number, _)| number < counted));
            }
        }
        let mut comparison = Comparison::new(unlogged, secret_hash());
        if self.output.is_regular() {
            // A new file must not be compared as if it were the old one after another crash.
            if matches!(found, Found::Gone)
                && self.output.position(0).is_some_and(|position| position.offset == 0)
            {
                self.move_cursor(self.counted.clone())?;
            }
            self.compare(found, &mut comparison)?;
            self.done.missing_max = self.missing_max(found, unlogged, &comparison);
            self.done.ahead += self.lost;
        } else if comparison.events() > 0 {
            return self.append_unread(&comparison, ends);
        }
        self.append(&comparison)?;
        if self.done.ahead > 0 {
            self.take_back(&comparison)?;
        }
        self.move_cursor(ends)
    }

    /// Appends to what cannot be read again, so that no line may be written once more: what could
    /// fail for lack of room is done before.
    fn append_unread(&mut self, comparison: &Comparison<'_>, ends: Vec<u64>) -> Result<(), Failed> {
        let mut cursor = Cursor { events: self.counted.clone(), position: None };
        let file = CursorFile::create(self.disk, self.path, &cursor);
        let mut file = file.map_err(Failed::Cursor)?;
        self.append(comparison)?;
        cursor.events = ends;
        file.write(&cursor).and_then(|()| file.sync()).map_err(Failed::Cursor)
    }

    /// Appends what ends the entries that the tables do not have.
    fn take_back(&mut self, comparison: &Comparison<'_>) -> io::Result<()> {
        for line in comparison.ahead.taken_back(self.now, self.format) {
            self.write(line.as_bytes())?;
            self.done.taken_back += 1;
        }
        self.output.sync()
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
            let (mut forgotten, mut doubtful) = (0, 0);
            for (shard, (events, &counted)) in unlogged.iter().zip(&self.counted).enumerate() {
                let first = events.first().map_or(counted, |&(first, _)| first);
                let before = first.saturating_sub(counted);
                forgotten += before;
                // As below.
                doubtful += if comparison.begins(shard) { 0 } else { before };
            }
            // Lines of events that the journal forgot were counted as strangers.
            let strangers = self.done.strangers;
            self.done.strangers = strangers.saturating_sub(forgotten.max(self.done.ahead));
            if forgotten > 0 {
                // Nobody can tell which lines are of those.
                (self.done.ahead, self.lost) = (0, 0);
            }
            return doubtful.saturating_sub(strangers);
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
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    thread::sleep(BUSY_INTERVAL);
                }
                Err(error) if self.output.may_be_read_again(&error) => {
                    thread::sleep(RETRY_INTERVAL);
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

impl Completed {
    fn explain(&self, name: &str, say: &mut impl FnMut(fmt::Arguments<'_>)) {
        let s = |number: u64| if number == 1 { "" } else { "s" };
        let &Completed { appended, cut, strangers, missing_max, ahead, taken_back } = self;
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
        if ahead > 0 {
            say(format_args!(
                "{name} is ahead of the state by {ahead} line{}: the state was lost in a power cut, \
                 or restored from an older copy; {taken_back} line{} written, so that the log says \
                 what the state has",
                s(ahead),
                s(taken_back)
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
