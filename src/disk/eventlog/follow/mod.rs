//! Follows the event log: from any point in the past, over the files of former days, to the line
//! that is written just now. Each whole line is given once and in order, and never half a line.
//!
//! The log is only read, and nothing is asked of who writes it: [`Follower::read`] gives what is
//! there, [`Follower::wait`] waits for more, and a [`FollowCursor`] says where to go on another
//! time. What happens to the files meanwhile:
//!
//! - A file is renamed (at the end of a day, or by logrotate): it is read to its end, as who writes
//!   it may go on until the new file has a line. Then comes the file after it.
//! - A file is compressed: it is known by its first line.
//! - A file is copied and truncated (`copytruncate`): the copy is read to its end, then the file.
//! - Half a line, which a crash left, is cut off or made whole by the server: it is read again.
//! - What comes next was removed (`--log-keep`), or the file has other content than it had: that
//!   is said, as [`FollowStep::Lost`], and it goes on with what is there. What is not sure to have
//!   been given is given again then.
//!
//! | file | what it is |
//! | --- | --- |
//! | `cursor` | a place in the log, as a text |
//! | `parts` | the files of the log, in the order of time |
//! | `reading` | whole lines of one file |
//! | `watch` | waits for changes |
//!
//! Not here: what becomes of the lines (`programs::follow`).

mod cursor;
mod parts;
mod reading;
mod watch;

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use super::past::{OPEN_INTERVAL, OPEN_TRIES};
use crate::handoff::change::Timestamp;
use crate::handoff::logged::time_of;
use crate::kernel::clock;
use cursor::Head;
pub use cursor::{CURSOR_OCTETS, FollowCursor, NoFollowCursor};
use parts::{LogPart, LogParts};
pub use reading::FollowedLine;
use reading::{Filled, Reading};
use watch::DirectoryWatch;

/// Where the file has other lines than those before the cursor, those of this time before the last
/// one are given again: after a power cut they are written anew, in another order perhaps.
const REPEATED: Duration = Duration::from_secs(60);
/// Who did not look for so long may have missed several files, of which none has to be there any
/// more.
const LOOK_MAX: Duration = Duration::from_secs(60);

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FollowStart {
    /// With the first line that there is.
    Beginning,
    /// With the next line that is written.
    Now,
    /// With the first line of this time, or of a later one.
    Time(Timestamp),
    /// With what follows.
    After(FollowCursor),
}

/// What [`Follower::read`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FollowStep {
    /// Lines: [`Follower::lines`] has them.
    Lines,
    /// Lines may be missing, or come again. What is there comes next.
    Lost(Lost),
    /// Nothing now.
    Nothing,
}

/// Why the lines that come next may not be those that follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// The file that had the last line is not there any more. What followed it, after this time,
    /// may be missing.
    Removed(Timestamp),
    /// The file does not have the last line, which is of this time, where it was. Some may come
    /// again.
    Changed(Timestamp),
}

impl Lost {
    /// The time that it is about.
    pub fn at(self) -> Timestamp {
        match self {
            Lost::Removed(at) | Lost::Changed(at) => at,
        }
    }

    /// In a word.
    pub fn why(self) -> &'static str {
        match self {
            Lost::Removed(_) => "removed",
            Lost::Changed(_) => "changed",
        }
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lost::Removed(at) => write!(
                f,
                "lines after {at} UTC may be missing: the file that they were in was removed \
                 (--log-keep), or moved away; it goes on with the first that is there"
            ),
            Lost::Changed(at) => write!(
                f,
                "the file does not have the last line, of {at} UTC, where it was: it was cut, edited \
                 or restored; lines of the minute before are repeated"
            ),
        }
    }
}

/// Reads the event log as it grows.
pub struct Follower {
    parts: LogParts,
    watch: DirectoryWatch,
    /// None: what `start` asks for is not there yet.
    reading: Option<Reading>,
    start: FollowStart,
    /// Lines before this time are passed over, up to the first that is not before it.
    skip: Option<Timestamp>,
    /// The file after this one has a line. Who writes the log was done with this one before.
    following: Option<u64>,
    /// When it was last seen that no file was missing.
    seen: Instant,
    /// Files of the log that come before this one, whatever their names say: a clock may be set
    /// back. No more than are there.
    done: Vec<u64>,
}

impl Follower {
    /// The log need not be there yet, but its directory has to be.
    ///
    /// # Errors
    /// Where the directory or a file cannot be read, or the log is no file.
    pub fn open(log: &Path, start: FollowStart) -> io::Result<Follower> {
        let mut follower = Follower {
            parts: LogParts::new(log),
            watch: DirectoryWatch::default(),
            reading: None,
            start,
            skip: None,
            following: None,
            seen: clock::instant(),
            done: Vec::new(),
        };
        // First, so that nothing happens between.
        follower.watch.on(&follower.parts.place());
        let parts = follower.parts.list()?;
        if start == FollowStart::Now {
            if let Some(error) = parts.last().filter(|part| part.is_live).and_then(LogPart::trouble)
            {
                return Err(error);
            }
            let last = parts.iter().rposition(|part| part.head.is_some());
            if let Some(last) = last {
                follower.go_to(&parts, last, 0)?;
            }
            if let Some(reading) = &mut follower.reading {
                reading.seek_end()?;
            }
        }
        Ok(follower)
    }

    /// What comes next. The lines that were given before are done with.
    ///
    /// # Errors
    /// Where a file cannot be read. It can be called again.
    pub fn read(&mut self) -> io::Result<FollowStep> {
        for _ in 1..OPEN_TRIES {
            match self.read_once() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    thread::sleep(OPEN_INTERVAL);
                }
                step => return step,
            }
        }
        self.read_once()
    }

    fn read_once(&mut self) -> io::Result<FollowStep> {
        loop {
            let Some(reading) = &mut self.reading else {
                match self.begin()? {
                    Some(lost) => return Ok(FollowStep::Lost(lost)),
                    None if self.reading.is_some() => continue,
                    None => return Ok(FollowStep::Nothing),
                }
            };
            match reading.fill()? {
                Filled::Lines => {
                    if self.skip_lines() {
                        return Ok(FollowStep::Lines);
                    }
                }
                Filled::End => {
                    if let Some(step) = self.go_on()? {
                        return Ok(step);
                    }
                }
                Filled::Changed => {
                    self.start = FollowStart::After(self.cursor());
                    self.reading = None;
                }
            }
        }
    }

    /// The lines that [`Follower::read`] found.
    pub fn lines(&self) -> impl Iterator<Item = FollowedLine<'_>> {
        self.reading.iter().flat_map(Reading::lines)
    }

    /// The place behind all lines that were given.
    pub fn cursor(&self) -> FollowCursor {
        match (&self.reading, self.skip, self.start) {
            (Some(reading), None, _) => reading.cursor(None),
            (_, _, FollowStart::After(cursor)) => cursor,
            (_, Some(at), _) | (_, None, FollowStart::Time(at)) => FollowCursor::from(at),
            (_, None, FollowStart::Beginning | FollowStart::Now) => {
                FollowCursor::from(Timestamp::default())
            }
        }
    }

    /// The place behind one of the lines that [`Follower::lines`] gives.
    pub fn cursor_after(&self, line: &FollowedLine<'_>) -> FollowCursor {
        self.reading.as_ref().map_or_else(|| self.cursor(), |reading| reading.cursor(Some(line)))
    }

    /// Waits until there may be more lines, one of `also` is ready or has an error, or `patience`
    /// is over; at most a second. Returns whether one of `also` is.
    ///
    /// # Errors
    /// Where the system refuses it, for lack of memory.
    pub fn wait(
        &mut self,
        also: &[(BorrowedFd<'_>, PollFlags)],
        patience: Duration,
    ) -> io::Result<bool> {
        let ready = self.watch.wait(also, patience)?;
        // A link may lead elsewhere by now.
        self.watch.on(&self.parts.place());
        Ok(ready)
    }

    /// Whether some of the lines are to be given.
    fn skip_lines(&mut self) -> bool {
        let (Some(reading), Some(from)) = (&mut self.reading, self.skip) else { return true };
        let is_wanted = |line: &[u8]| {
            let line = std::str::from_utf8(line);
            line.ok().and_then(time_of).is_some_and(|at| at >= from)
        };
        if reading.skip_until(is_wanted) {
            self.skip = None;
        }
        reading.has_lines()
    }

    /// Finds where to begin. Where that is not there yet, nothing is read.
    fn begin(&mut self) -> io::Result<Option<Lost>> {
        let parts = self.parts.list()?;
        match self.start {
            FollowStart::Beginning => self.go_to_first(&parts, |_| true).map(|()| None),
            FollowStart::Now => {
                // There was none when it was opened.
                let first = parts.iter().position(|part| part.head.is_some());
                first.map_or(Ok(false), |first| self.go_to(&parts, first, 0)).map(|_| None)
            }
            FollowStart::After(FollowCursor { head: None, at, .. }) | FollowStart::Time(at) => {
                let is_before = |head: Head| head.at <= before(at);
                let last = parts.iter().rposition(|part| part.head.is_some_and(is_before));
                match last {
                    Some(last) => drop(self.go_to(&parts, last, 0)?),
                    None => self.go_to_first(&parts, |_| true)?,
                }
                self.skip = self.reading.is_some().then_some(at);
                Ok(None)
            }
            FollowStart::After(cursor) => match cursor.head {
                Some(head) => self.find(&parts, cursor, head),
                None => Ok(None),
            },
        }
    }

    /// Finds the place of a cursor again.
    fn find(
        &mut self,
        parts: &[LogPart],
        cursor: FollowCursor,
        head: Head,
    ) -> io::Result<Option<Lost>> {
        let Some(same) = position(parts, head) else {
            if let Some(next) = next_of_none(parts, head, &self.done) {
                self.go_to(parts, next, 0)?;
            }
            return Ok(self.reading.as_ref().map(|_| Lost::Removed(cursor.at)));
        };
        if self.go_to(parts, same, cursor.offset)? {
            let has_tail = |reading: &Reading| reading.cursor(None).tail == cursor.tail;
            if self.reading.as_ref().is_some_and(has_tail) {
                return Ok(None);
            }
        } else if parts.len() > same + 1 {
            // All that it has was given, and more: it was copied before that was written.
            self.go_to_first(&parts[same + 1..], |_| true)?;
            return Ok(None);
        }
        self.go_to(parts, same, 0)?;
        self.skip = Some(before(cursor.at));
        Ok(Some(Lost::Changed(cursor.at)))
    }

    /// At the end of a file. None: there is more to read.
    fn go_on(&mut self) -> io::Result<Option<FollowStep>> {
        let Some(reading) = &self.reading else { return Ok(None) };
        let live = self.parts.live()?.map(|(inode, _)| inode);
        if !reading.is_compressed() && live == Some(reading.inode) {
            self.seen = clock::instant();
            return Ok(Some(FollowStep::Nothing));
        }
        let parts = self.parts.list()?;
        let same = position(&parts, reading.head);
        if let Some(other) = same.and_then(|same| parts.get(same))
            && !other.is_compressed
            && other.inode != reading.inode
        {
            // A copy stands in its place.
            self.start = FollowStart::After(self.cursor());
            self.reading = None;
            return Ok(None);
        }
        let (head, known_next) = (reading.head, reading.next);
        let next = match same {
            Some(same) => {
                let is_new = |there: Head| !self.done.contains(&there.hash);
                first(&parts[same + 1..], is_new)?.map(|(number, _)| same + 1 + number)
            }
            None => next_of_none(&parts, head, &self.done),
        };
        let Some((number, next)) = next.and_then(|number| Some((number, parts[number].head?)))
        else {
            return Ok(Some(FollowStep::Nothing));
        };
        if !reading.is_compressed() && self.following.replace(next.hash) != Some(next.hash) {
            return Ok(None);
        }
        let is_lost = match known_next {
            Some(next) => position(&parts, next).is_none(),
            None => {
                let ago = clock::instant().saturating_duration_since(self.seen);
                same.is_none() && ago > LOOK_MAX
            }
        };
        let lost = Lost::Removed(self.cursor().at);
        self.done.push(head.hash);
        self.go_to(&parts, number, 0)?;
        Ok(is_lost.then_some(FollowStep::Lost(lost)))
    }

    /// Goes to the first part that fits, if there is one.
    fn go_to_first(&mut self, parts: &[LogPart], fits: impl Fn(Head) -> bool) -> io::Result<()> {
        match first(parts, fits)? {
            Some((number, _)) => self.go_to(parts, number, 0).map(drop),
            None => Ok(()),
        }
    }

    /// Goes to a place in a part, if it has that many octets.
    fn go_to(&mut self, parts: &[LogPart], number: usize, offset: u64) -> io::Result<bool> {
        let Some((part, head)) = parts.get(number).and_then(|part| Some((part, part.head?))) else {
            return Ok(false);
        };
        let Some(mut reading) = Reading::open(part, head, offset)? else { return Ok(false) };
        reading.next = parts.get(number + 1).and_then(|next| next.head);
        self.reading = Some(reading);
        (self.skip, self.following, self.seen) = (None, None, clock::instant());
        let hashes = |parts: &[LogPart]| -> Vec<u64> {
            parts.iter().filter_map(|part| Some(part.head?.hash)).collect()
        };
        let there = hashes(parts);
        self.done.retain(|hash| *hash != head.hash && there.contains(hash));
        self.done.extend(hashes(&parts[..number]));
        self.done.sort_unstable();
        self.done.dedup();
        Ok(true)
    }
}

/// The first part with a line that fits, with its number.
fn first(parts: &[LogPart], fits: impl Fn(Head) -> bool) -> io::Result<Option<(usize, Head)>> {
    for (number, part) in parts.iter().enumerate() {
        if let Some(error) = part.trouble() {
            return Err(error);
        }
        if let Some(head) = part.head.filter(|head| fits(*head)) {
            return Ok(Some((number, head)));
        }
    }
    Ok(None)
}

/// Where to go on when the file that was read is not there any more: with the first that begins
/// later; where none does, the log began anew by another clock, and it is the log's file.
fn next_of_none(parts: &[LogPart], gone: Head, done: &[u64]) -> Option<usize> {
    let fits = |part: &LogPart, later: bool| {
        let is_wanted = |head: Head| {
            head.hash != gone.hash && !done.contains(&head.hash) && (!later || head.at > gone.at)
        };
        part.head.is_some_and(is_wanted)
    };
    let later = parts.iter().position(|part| fits(part, true));
    later.or_else(|| parts.iter().rposition(|part| part.is_live && fits(part, false)))
}

fn position(parts: &[LogPart], head: Head) -> Option<usize> {
    parts.iter().position(|part| part.head.is_some_and(|there| there.hash == head.hash))
}

/// A time so long before that lines of several reactors are in order.
fn before(at: Timestamp) -> Timestamp {
    let repeated = u64::try_from(REPEATED.as_micros()).unwrap_or_default();
    Timestamp::from_micros(at.as_micros().saturating_sub(repeated))
}

#[cfg(test)]
mod tests;
