//! One file a day (UTC): whose day a line is of, and what the file of a day is called when it is
//! not the log any more.
//!
//! `events.log` of 18 March 2019 becomes `events.log-20190318`, and later `events.log-20190318.gz`;
//! what logrotate calls them too, with `dateext`. Where there are more files of a day, the second
//! one is `events.log-20190318.1`. The day is that of the file's last line, or of the file before,
//! if that is later.
//!
//! Not here: when that happens (`logger`), and what becomes of them (`archive`).

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::disk::fs::{Disk, RealDisk, parent};
use crate::handoff::change::Timestamp;
use crate::handoff::logged::time_of;

const DAY: Duration = Duration::from_hours(24);
const DAY_MICROS: u64 = DAY.as_micros() as u64;
/// The most files of one day.
const FILES_MAX: u32 = 100_000;
/// The end of a compressed file's name.
pub(super) const COMPRESSED: &str = ".gz";

/// A day, UTC: how many are between it and 1970-01-01.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Day(u64);

impl Day {
    pub fn of(at: Timestamp) -> Day {
        Day(at.as_micros() / DAY_MICROS)
    }

    /// How long it lasts after `at`, which is in it.
    pub(super) fn rest(at: Timestamp) -> Duration {
        Duration::from_micros(DAY_MICROS - at.as_micros() % DAY_MICROS)
    }

    /// Whether a line of `at` may stand in the file of this day. Reactors that write at midnight
    /// may be late.
    pub(super) fn has_room_for(self, at: Timestamp) -> bool {
        let begin = self.0.saturating_sub(1) * DAY_MICROS;
        at.as_micros() >= begin && at.as_micros() - begin < (self.0 + 1) * DAY_MICROS - begin
    }

    /// That of the last line that has one.
    pub(super) fn of_last_line(lines: &[u8]) -> Option<Day> {
        let lines = lines.rsplit(|&octet| octet == b'\n');
        lines.filter_map(|line| time_of(std::str::from_utf8(line).ok()?)).map(Day::of).next()
    }

    /// That of the first line that has one.
    pub fn of_first_line(lines: &[u8]) -> Option<Day> {
        let lines = lines.split(|&octet| octet == b'\n');
        lines.filter_map(|line| time_of(std::str::from_utf8(line).ok()?)).map(Day::of).next()
    }

    /// The number of days that it is after another one; 0 where it is before that.
    pub fn since(self, other: Day) -> u64 {
        self.0.saturating_sub(other.0)
    }

    /// `20190318`
    fn digits(self) -> String {
        let begin = Timestamp::from_micros(self.0 * DAY_MICROS).to_string();
        begin.chars().take(10).filter(char::is_ascii_digit).collect()
    }

    fn of_digits(digits: &str) -> Option<Day> {
        let (year, day) = digits.split_at_checked(4)?;
        let (month, day) = day.split_at_checked(2)?;
        let midnight = format!("{year}-{month}-{day} 00:00:00");
        let at: SystemTime = humantime::parse_rfc3339_weak(&midnight).ok()?;
        let days = at.duration_since(UNIX_EPOCH).ok()?.as_secs() / DAY.as_secs();
        // What is written otherwise is another name.
        Some(Day(days)).filter(|day| day.digits() == digits)
    }
}

/// A file that was the log: what its name says. In the order of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Former {
    pub(super) day: Day,
    number: u32,
    pub(super) is_compressed: bool,
}

impl Former {
    /// None where the file `name` never was the log of this name.
    pub(super) fn parse(log: &OsStr, name: &OsStr) -> Option<Former> {
        let rest = name.as_bytes().strip_prefix(log.as_bytes())?.strip_prefix(b"-")?;
        let rest = std::str::from_utf8(rest).ok()?;
        let (rest, is_compressed) = match rest.strip_suffix(COMPRESSED) {
            Some(rest) => (rest, true),
            None => (rest, false),
        };
        let (day, number) = rest.split_once('.').unwrap_or((rest, "0"));
        let parsed =
            Former { day: Day::of_digits(day)?, number: number.parse().ok()?, is_compressed };
        Some(parsed).filter(|parsed| parsed.name(log) == name)
    }

    /// Whether both are the same part of the log, of which one may be compressed.
    pub(super) fn is_same_as(self, other: Former) -> bool {
        (self.day, self.number) == (other.day, other.number)
    }

    fn name(self, log: &OsStr) -> OsString {
        let mut name = [log.as_bytes(), b"-", self.day.digits().as_bytes()].concat();
        if self.number > 0 {
            name.extend(format!(".{}", self.number).bytes());
        }
        if self.is_compressed {
            name.extend(COMPRESSED.bytes());
        }
        OsString::from_vec(name)
    }
}

/// Gives the log the name of a day, one that no file has. Returns the new path.
///
/// Those who read the log order its files by their names, so it gets no day before that of another
/// file, as it would where the clock was set back; and no day that is still to come, unless another
/// file has one, or there is none: then it is the clock that may be behind.
pub(super) fn put_aside(log: &Path, day: Day, today: Day) -> io::Result<PathBuf> {
    let name = log.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let former = RealDisk.list(parent(log))?;
    let former = former.iter().filter_map(|other| Former::parse(name, other));
    let latest = former.max_by_key(|former| (former.day, former.number));
    let day = match latest {
        Some(latest) if latest.day <= today => day.min(today).max(latest.day),
        Some(latest) => day.max(latest.day),
        None => day,
    };
    let first = latest.filter(|latest| latest.day == day).map_or(0, |latest| latest.number);
    for number in first..FILES_MAX {
        let [path, compressed] = [false, true].map(|is_compressed| {
            parent(log).join(Former { day, number, is_compressed }.name(name))
        });
        if fs::symlink_metadata(&compressed).is_err() {
            match rename_to_new(log, &path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                renamed => return renamed.map(|()| path),
            }
        }
    }
    Err(io::Error::other(format!("there are {FILES_MAX} files of one day")))
}

/// Renames a file, and replaces none.
pub(super) fn rename_to_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // This file system cannot do that.
        Err(Errno::INVAL | Errno::NOSYS) if fs::symlink_metadata(to).is_err() => {
            fs::rename(from, to)
        }
        Err(Errno::INVAL | Errno::NOSYS) => Err(io::ErrorKind::AlreadyExists.into()),
        renamed => Ok(renamed?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(text: &str) -> Day {
        Day::of_digits(text).unwrap()
    }

    #[test]
    fn a_file_is_of_the_day_of_its_last_line() {
        let line = "2019-03-18 23:59:59.999999 Initialized 192.0.2.7\n";
        for (text, expected) in [
            (line.to_owned(), Some("20190318")),
            (format!("{line}2019-03-19 00:00:00.000000 Initialized 192.0.2.7\n"), Some("20190319")),
            (format!("{line}2019-03-19 00:0"), Some("20190318")),
            (format!("{line}by hand\n\n"), Some("20190318")),
            ("by hand\n".to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(Day::of_last_line(text.as_bytes()), expected.map(day), "{text:?}");
        }
    }

    #[test]
    fn lines_of_a_day_and_those_that_are_late() {
        let at = |text: &str| time_of(&format!("{text} Initialized 192.0.2.7")).unwrap();
        let today = day("20190318");
        for (time, fits) in [
            ("2019-03-16 23:59:59.999999", false),
            ("2019-03-17 00:00:00.000000", true),
            ("2019-03-18 00:00:00.000000", true),
            ("2019-03-18 23:59:59.999999", true),
            ("2019-03-19 00:00:00.000000", false),
        ] {
            assert_eq!(today.has_room_for(at(time)), fits, "{time}");
        }
        assert!(Day::of(Timestamp::default()).has_room_for(Timestamp::default()));
        assert!(Day::of(Timestamp::MAX).has_room_for(Timestamp::MAX));
        assert_eq!(Day::rest(at("2019-03-18 23:59:59.999999")), Duration::from_micros(1));
        assert_eq!(Day::rest(at("2019-03-18 00:00:00.000000")), DAY);
    }

    #[test]
    fn names_are_told_from_those_of_others() {
        let log = OsStr::new("events.log");
        for name in ["events.log-20190318", "events.log-20190318.2", "events.log-20190318.999.gz"] {
            let former = Former::parse(log, OsStr::new(name)).expect(name);
            assert_eq!((former.day, former.name(log)), (day("20190318"), name.into()));
        }
        for name in [
            "events.log",
            "events.log-",
            "events.log.1",
            "events.log-20190230",
            "events.log-2019031",
            "events.log-201903180",
            "events.log-20190318.0",
            "events.log-20190318.01",
            "events.log-20190318.gz.gz",
            "events.log-20190318.gz.tmp",
            ".events.log-20190318.gz",
            "others.log-20190318",
            "events.log-+0190318",
        ] {
            assert_eq!(Former::parse(log, OsStr::new(name)), None, "{name}");
        }
    }

    #[test]
    fn no_file_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("a-20190318"), "first").unwrap();
        fs::write(path("a-20190318.1.gz"), "second").unwrap();
        fs::write(path("a"), "third").unwrap();
        let aside = put_aside(&path("a"), day("20190318"), day("20190319")).unwrap();
        assert_eq!(aside, path("a-20190318.2"));
        assert_eq!(fs::read(aside).unwrap(), b"third");
        assert_eq!(fs::read(path("a-20190318")).unwrap(), b"first");
        assert_eq!(fs::read(path("a-20190318.1.gz")).unwrap(), b"second");
        assert!(put_aside(&path("a"), day("20190318"), day("20190319")).is_err(), "it is gone");
    }

    /// Files stand in the order in which they were written, and none is of a time that is not.
    #[test]
    fn a_clock_that_is_wrong_does_not_change_the_order() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for (last_line, today, name) in [
            // At the first start, the clock was behind.
            ("20190318", "20160101", "a-20190318"),
            ("20160101", "20190319", "a-20190318.1"),
            // It was two days ahead over midnight.
            ("20190321", "20190322", "a-20190321"),
            ("20190322", "20190319", "a-20190322"),
            ("20190320", "20190321", "a-20190322.1"),
            ("20190322", "20190323", "a-20190322.2"),
            // It was years ahead for a moment.
            ("20290322", "20190324", "a-20190324"),
            // It is years behind at a boot, for a moment and over midnight.
            ("20190325", "20160101", "a-20190325"),
            ("20160101", "20160102", "a-20190325.1"),
            ("20160102", "20190327", "a-20190325.2"),
            ("20190327", "20190328", "a-20190327"),
            // It was years ahead over midnight: what follows has that day.
            ("20290322", "20290323", "a-20290322"),
            ("20190328", "20190329", "a-20290322.1"),
        ] {
            fs::write(path("a"), last_line).unwrap();
            let aside = put_aside(&path("a"), day(last_line), day(today)).unwrap();
            assert_eq!(aside, path(name), "{last_line}, today {today}");
        }
    }
}
