//! A file of the event log that is being read: whole lines come out, and what stands before them is
//! known, so that it is noticed when somebody changes or truncates the file.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::os::unix::fs::FileExt;

use flate2::bufread::MultiGzDecoder;
use memchr::{memchr_iter, memrchr};

use super::cursor::{FollowCursor, Head, TAIL_OCTETS, tail};
use super::parts::LogPart;
use crate::disk::eventlog::place::Inode;
use crate::handoff::change::Timestamp;
use crate::handoff::logged::time_of;

/// Octets that are read at once, many more than a line has.
const PIECE_OCTETS: usize = 256 * 1024;

enum LogSource {
    /// May grow.
    Plain(File),
    Compressed(Box<dyn Read + Send>),
}

/// What a file gave.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Filled {
    Lines,
    /// There is no further whole line now.
    End,
    /// It is shorter than it was, or has other octets before the place.
    Changed,
}

/// A line of the log.
#[derive(Debug, Clone, Copy)]
pub struct FollowedLine<'a> {
    /// Without its line feed. Whatever somebody wrote into the file.
    pub octets: &'a [u8],
    /// Where it ends in the buffer, with its line feed.
    end: usize,
}

pub(super) struct Reading {
    source: LogSource,
    pub(super) inode: Inode,
    pub(super) head: Head,
    /// What the file after it began with, when this one was opened.
    pub(super) next: Option<Head>,
    /// The octets from `base` on: what is remembered, the lines that were given, and the rest.
    buffer: Vec<u8>,
    /// The offset of the first octet of the buffer.
    base: u64,
    /// The lines that were given last: from here,
    begin: usize,
    /// to here.
    end: usize,
    /// How much of the buffer is read.
    filled: usize,
    /// The octets before the place, as they were.
    before: Vec<u8>,
    /// The time of the last line that was given.
    at: Timestamp,
    /// A line is longer than the buffer: its end is passed over.
    is_inside: bool,
}

impl Reading {
    /// Opens a part that has a head, at an offset behind a line feed. None where it has not as
    /// many octets.
    pub(super) fn open(part: &LogPart, head: Head, offset: u64) -> io::Result<Option<Reading>> {
        let file = part.open()?;
        let mut reading = Reading {
            source: match part.is_compressed {
                true => {
                    let file = BufReader::with_capacity(PIECE_OCTETS, file);
                    LogSource::Compressed(Box::new(MultiGzDecoder::new(file)))
                }
                false => LogSource::Plain(file),
            },
            inode: part.inode,
            head,
            next: None,
            buffer: vec![0; PIECE_OCTETS],
            base: 0,
            begin: 0,
            end: 0,
            filled: 0,
            before: Vec::with_capacity(TAIL_OCTETS),
            at: Timestamp::default(),
            is_inside: false,
        };
        Ok(reading.seek(offset)?.then_some(reading))
    }

    pub(super) fn is_compressed(&self) -> bool {
        matches!(self.source, LogSource::Compressed(_))
    }

    /// Goes on to the end of the last whole line.
    pub(super) fn seek_end(&mut self) -> io::Result<()> {
        if let LogSource::Plain(file) = &self.source {
            let length = file.metadata()?.len();
            self.seek(length.saturating_sub(PIECE_OCTETS as u64 / 2))?;
            // Where no line begins, as likely as not.
            self.is_inside = self.base + self.end as u64 > 0;
        }
        while self.fill()? == Filled::Lines {}
        Ok(())
    }

    /// Whether there are so many octets.
    fn seek(&mut self, offset: u64) -> io::Result<bool> {
        let keep = offset.min(TAIL_OCTETS as u64);
        let from = offset - keep;
        // At most TAIL_OCTETS.
        let keep = keep as usize;
        let read = match &mut self.source {
            LogSource::Plain(file) => file.read_exact_at(&mut self.buffer[..keep], from),
            LogSource::Compressed(reader) => io::copy(&mut reader.take(from), &mut io::sink())
                .and_then(|octets| {
                    if octets < from {
                        return Err(ErrorKind::UnexpectedEof.into());
                    }
                    reader.read_exact(&mut self.buffer[..keep])
                }),
        };
        match read {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        }
        self.base = from;
        (self.begin, self.end, self.filled) = (keep, keep, keep);
        Ok(true)
    }

    /// Reads on. What was given before is done with.
    pub(super) fn fill(&mut self) -> io::Result<Filled> {
        loop {
            self.at = self.last_time(self.end);
            let read = match self.is_compressed() {
                true => self.read_on()?,
                false if !self.read_again()? => return Ok(Filled::Changed),
                false => self.filled > self.end,
            };
            if self.base == 0
                && self.begin == 0
                && let Some(head) = Head::of(&self.buffer[..self.filled])
            {
                self.head = head;
            }
            if self.is_inside {
                match memchr::memchr(b'\n', &self.buffer[self.end..self.filled]) {
                    Some(line_feed) => {
                        self.end += line_feed + 1;
                        self.is_inside = false;
                    }
                    None => self.end = self.filled,
                }
                self.begin = self.end;
            }
            match memrchr(b'\n', &self.buffer[self.end..self.filled]) {
                Some(line_feed) => {
                    self.end += line_feed + 1;
                    return Ok(Filled::Lines);
                }
                None if self.filled == self.buffer.len() => {
                    // No line of ours is as long.
                    (self.begin, self.end, self.is_inside) = (self.filled, self.filled, true);
                }
                None if !read => return Ok(Filled::End),
                None if !self.is_compressed() => return Ok(Filled::End),
                None => {}
            }
        }
    }

    /// Moves what is needed of the buffer to its beginning. Returns how much is remembered.
    fn shift(&mut self) -> usize {
        let keep = self.end.min(TAIL_OCTETS);
        let from = self.end - keep;
        self.buffer.copy_within(from..self.filled, 0);
        self.base += from as u64;
        (self.begin, self.end, self.filled) = (keep, keep, self.filled - from);
        keep
    }

    /// Of a compressed file, which does not change. Whether something came.
    fn read_on(&mut self) -> io::Result<bool> {
        self.shift();
        let LogSource::Compressed(reader) = &mut self.source else { return Ok(false) };
        loop {
            match reader.read(&mut self.buffer[self.filled..]) {
                Ok(octets) => {
                    self.filled += octets;
                    return Ok(octets > 0);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Of a file that others may write: from what is remembered on, once more, as half a line may
    /// have become another one. Whether it is as it was.
    fn read_again(&mut self) -> io::Result<bool> {
        let keep = self.shift();
        self.before.clear();
        self.before.extend_from_slice(&self.buffer[..keep]);
        let LogSource::Plain(file) = &self.source else { return Ok(false) };
        let read = loop {
            match file.read_at(&mut self.buffer, self.base) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        let is_same = read >= keep && self.buffer[..keep] == self.before[..];
        self.filled = if is_same { read } else { keep };
        if !is_same {
            self.buffer[..keep].copy_from_slice(&self.before);
        }
        Ok(is_same)
    }

    /// Whether anything was given of it, and is not done with.
    pub(super) fn has_lines(&self) -> bool {
        self.begin < self.end
    }

    pub(super) fn lines(&self) -> impl Iterator<Item = FollowedLine<'_>> {
        let lines = &self.buffer[self.begin..self.end];
        let mut begin = self.begin;
        memchr_iter(b'\n', lines).map(move |line_feed| {
            let end = self.begin + line_feed;
            let octets = &self.buffer[begin..end];
            begin = end + 1;
            FollowedLine { octets, end: begin }
        })
    }

    /// The first lines that were given count as done with, up to the first that `is_wanted`.
    pub(super) fn skip_until(&mut self, mut is_wanted: impl FnMut(&[u8]) -> bool) -> bool {
        let wanted = self.lines().find(|line| is_wanted(line.octets));
        let begin = wanted.map(|line| line.end - line.octets.len() - 1);
        self.begin = begin.unwrap_or(self.end);
        begin.is_some()
    }

    /// The place behind a line, or behind all that was given.
    pub(super) fn cursor(&self, line: Option<&FollowedLine<'_>>) -> FollowCursor {
        let end = line.map_or(self.end, |line| line.end);
        FollowCursor {
            head: Some(self.head),
            offset: self.base + end as u64,
            tail: tail(&self.buffer[..end]),
            at: self.last_time(end),
        }
    }

    /// The time of the last line before this.
    fn last_time(&self, end: usize) -> Timestamp {
        let before = self.buffer[..end].strip_suffix(b"\n").unwrap_or_default();
        let begin = memrchr(b'\n', before).map_or(0, |line_feed| line_feed + 1);
        let line = std::str::from_utf8(&before[begin..]);
        line.ok().and_then(time_of).unwrap_or(self.at)
    }
}
