//! What the files of a history are called, and which of them have something of a time.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::handoff::change::Timestamp;
use crate::handoff::logged::time_of;

/// The end of a file's name.
const EXTENSION: &str = ".parquet";
/// What stands before it where the file has clients that had a port since before the log begins.
const OLDER: &str = "-older";
const SECOND: u64 = 1_000_000;

/// What a file's name says: `events.log-000007-20190318T100628-20190318T152202.parquet`. In the
/// order of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PieceName {
    /// Its number, from 1 on.
    pub serial: u32,
    /// The time of the earliest of its lines, to the second.
    pub first: Timestamp,
    /// That of the latest one: the last microsecond of that second.
    pub last: Timestamp,
    /// Whether it has clients that had a port since before the log begins, as far as that tells: a
    /// time long before may be asked about.
    pub older: bool,
}

impl PieceName {
    /// That of a file with lines of these times.
    pub(super) fn new(serial: u32, first: Timestamp, last: Timestamp, older: bool) -> Self {
        let [first, last] = [first, last].map(|at| at.as_micros() / SECOND * SECOND);
        Self {
            serial,
            first: Timestamp::from_micros(first),
            last: Timestamp::from_micros(last + SECOND - 1),
            older,
        }
    }

    /// The name, in the history of the log that is called `log`.
    pub(super) fn file(self, log: &OsStr) -> OsString {
        let Self { serial, first, last, older } = self;
        let older = if older { OLDER } else { "" };
        let rest = format!("-{serial:06}-{}-{}{older}{EXTENSION}", digits(first), digits(last));
        OsString::from_vec([log.as_bytes(), rest.as_bytes()].concat())
    }

    /// None where the file `name` is none of the history of the log that is called `log`.
    pub(super) fn parse(log: &OsStr, name: &OsStr) -> Option<Self> {
        let rest = name.as_bytes().strip_prefix(log.as_bytes())?.strip_prefix(b"-")?;
        let rest = std::str::from_utf8(rest).ok()?.strip_suffix(EXTENSION)?;
        let (rest, older) = match rest.strip_suffix(OLDER) {
            Some(rest) => (rest, true),
            None => (rest, false),
        };
        let mut parts = rest.split('-');
        let (serial, first, last) = (parts.next()?, parts.next()?, parts.next()?);
        let parsed = Self::new(serial.parse().ok()?, of_digits(first)?, of_digits(last)?, older);
        Some(parsed).filter(|parsed| parsed.file(log) == name)
    }
}

/// `20190318T100628`
fn digits(at: Timestamp) -> String {
    let written = at.to_string();
    let digits = |text: &str| text.chars().filter(char::is_ascii_digit).collect::<String>();
    format!("{}T{}", digits(&written[..10]), digits(&written[11..19]))
}

fn of_digits(text: &str) -> Option<Timestamp> {
    let (date, time) = text.split_once('T')?;
    let (year, date) = date.split_at_checked(4)?;
    let (month, day) = date.split_at_checked(2)?;
    let (hour, time) = time.split_at_checked(2)?;
    let (minute, second) = time.split_at_checked(2)?;
    time_of(&format!("{year}-{month}-{day} {hour}:{minute}:{second}.000000 "))
}

/// Which files have something of a time, in the order of the log. Its lines are nearly in the order
/// of time: reactors may be late, and a clock may be set back.
#[derive(Debug)]
pub(super) struct Times {
    /// For each file, the earliest line of it and of all behind it.
    earliest: Vec<Timestamp>,
    /// For each file, the latest line of it and of all before it.
    latest: Vec<Timestamp>,
}

impl Times {
    pub(super) fn of(names: &[PieceName]) -> Self {
        let mut earliest: Vec<_> = names.iter().map(|name| name.first).collect();
        let mut latest: Vec<_> = names.iter().map(|name| name.last).collect();
        for index in (1..names.len()).rev() {
            earliest[index - 1] = earliest[index - 1].min(earliest[index]);
        }
        for index in 1..names.len() {
            latest[index] = latest[index].max(latest[index - 1]);
        }
        Self { earliest, latest }
    }

    /// How many files, from the first on, have lines of that time or before, or are before such
    /// files.
    pub(super) fn begun(&self, until: Timestamp) -> usize {
        self.earliest.partition_point(|&earliest| earliest <= until)
    }

    /// The earliest line of a file and of all behind it, and the latest of it and of all before it.
    pub(super) fn bounds(&self, file: usize) -> (Timestamp, Timestamp) {
        (self.earliest[file], self.latest[file])
    }

    /// The first file that has a line behind that time, or is behind such a file.
    pub(super) fn behind(&self, from: Timestamp) -> usize {
        self.latest.partition_point(|&latest| latest <= from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        of_digits(text).unwrap()
    }

    #[test]
    fn names_are_told_from_those_of_others() {
        let log = OsStr::new("events.log");
        let (first, last) = (at("20190318T100628"), at("20190318T152202"));
        let first = Timestamp::from_micros(first.as_micros() + 491_727);
        for (older, file) in [
            (false, "events.log-000007-20190318T100628-20190318T152202.parquet"),
            (true, "events.log-000007-20190318T100628-20190318T152202-older.parquet"),
        ] {
            let name = PieceName::new(7, first, last, older);
            assert_eq!(name.file(log), file);
            assert_eq!(PieceName::parse(log, OsStr::new(file)), Some(name));
        }
        for other in [
            "events.log",
            "events.log-7-20190318T100628-20190318T152202.parquet",
            "events.log-000007-20190318T100628-20190318T152202.parquet.tmp",
            "events.log-000007-20190318T100628.parquet",
            "events.log-000007-20190318T100628-20191318T152202.parquet",
            "others.log-000007-20190318T100628-20190318T152202.parquet",
        ] {
            assert_eq!(PieceName::parse(log, OsStr::new(other)), None, "{other}");
        }
    }

    /// What began and ended in some files is found by any moment between.
    #[test]
    fn which_files_have_something_of_a_time() {
        let pieces = [(10, 20), (20, 30), (15, 25), (40, 50)];
        let second = |at: u64| Timestamp::from_micros(at * SECOND);
        let names = pieces.iter().zip(1..).map(|(&(first, last), serial)| {
            PieceName::new(serial, second(first), second(last), false)
        });
        let times = Times::of(&names.collect::<Vec<_>>());
        for (begun, (begin, _)) in pieces.iter().enumerate() {
            for (ended, (_, end)) in pieces.iter().enumerate().skip(begun) {
                for moment in *begin..*end {
                    let (last, first) = (times.begun(second(moment)), times.behind(second(moment)));
                    let found = first.min(last.saturating_sub(1))..last;
                    let has = found.clone().any(|file| (begun..=ended).contains(&file));
                    assert!(has, "{begun} {ended} {moment}: {found:?}");
                }
            }
        }
        assert_eq!((times.begun(second(9)), times.behind(second(51))), (0, 4));
    }
}
