//! Times as people write them. One without a zone is UTC, as the event log is.

use std::fmt;

use jiff::{Timestamp as Moment, Zoned, tz::TimeZone};
use parse_datetime::parse_datetime_at_date;

use crate::handoff::change::Timestamp;

const MINUTE: u64 = 60_000_000;
const DAY: u64 = 24 * 60 * MINUTE;

/// From a time on, up to another one: both of them, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeSpan {
    pub from: Timestamp,
    pub until: Timestamp,
}

/// What is no time.
#[derive(Debug, thiserror::Error)]
pub enum NoTime {
    #[error(
        "{0:?} is no time: write 2019-03-18 10:07:30, 2019-03-18T10:07:30+01:00, 10:07, 'yesterday 10:07', \
         '2 hours ago', or two of these with .. between"
    )]
    Unknown(String),
    #[error("{0} is after {1}")]
    Backwards(Timestamp, Timestamp),
}

impl TimeSpan {
    pub fn moment(at: Timestamp) -> Self {
        Self { from: at, until: at }
    }

    /// A time that is written to the minute is all of that, and a date all of its day.
    pub fn parse(text: &str, now: Timestamp) -> Result<Self, NoTime> {
        let Some((from, until)) = text.split_once("..") else { return one(text, now) };
        let from = match from.trim() {
            "" => Timestamp::default(),
            from => one(from, now)?.from,
        };
        let until = match until.trim() {
            "" => now,
            until => one(until, now)?.until,
        };
        match from <= until {
            true => Ok(Self { from, until }),
            false => Err(NoTime::Backwards(from, until)),
        }
    }
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.from == self.until {
            true => write!(f, "at {}", self.from),
            false => write!(f, "from {} to {}", self.from, self.until),
        }
    }
}

fn one(text: &str, now: Timestamp) -> Result<TimeSpan, NoTime> {
    let unknown = || NoTime::Unknown(text.to_owned());
    let micros = i64::try_from(now.as_micros()).map_err(|_| unknown())?;
    let moment = Moment::from_microsecond(micros).map_err(|_| unknown())?;
    let now = Zoned::new(moment, TimeZone::UTC);
    let text = text.trim();
    if text.is_empty() {
        return Err(unknown());
    }
    let parsed = parse_datetime_at_date(now, text).map_err(|_| unknown())?;
    let parsed = parsed.into_zoned().ok_or_else(unknown)?.timestamp().as_microsecond();
    let from = u64::try_from(parsed).map_err(|_| unknown())?;
    let length = if is_date(text) {
        DAY
    } else if is_to_the_minute(text) {
        MINUTE
    } else {
        1
    };
    let from = from / length * length;
    Ok(TimeSpan {
        from: Timestamp::from_micros(from),
        until: Timestamp::from_micros(from + length - 1),
    })
}

/// `2019-03-18`
fn is_date(text: &str) -> bool {
    let shape = |octet: u8| if octet.is_ascii_digit() { b'0' } else { octet };
    text.bytes().map(shape).eq(*b"0000-00-00")
}

/// Whether there is one time of day in it, as 10:07, and no second.
fn is_to_the_minute(text: &str) -> bool {
    // What follows is the offset of a zone, as +01:00.
    let time = text.rsplit_once('+').map_or(text, |(time, _)| time);
    let time = time.rsplit_once(" -").map_or(time, |(time, _)| time);
    let time = match time.split_once('T') {
        Some((date, of_day)) if is_date(date) => of_day.split('-').next().unwrap_or_default(),
        _ => time,
    };
    time.matches(':').count() == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<String> {
        // 2019-03-18 12:30:45.5
        let now = Timestamp::from_micros(1_552_912_245_500_000);
        TimeSpan::parse(text, now).ok().map(|span| span.to_string())
    }

    #[test]
    fn times_as_people_write_them() {
        for (text, expected) in [
            ("2019-03-18 10:06:28.491727", "at 2019-03-18 10:06:28.491727"),
            ("2019-03-18T10:06:28Z", "at 2019-03-18 10:06:28.000000"),
            ("2019-03-18T10:06:28+01:00", "at 2019-03-18 09:06:28.000000"),
            ("2019-03-18 10:06:28 -0500", "at 2019-03-18 15:06:28.000000"),
            ("2 hours ago", "at 2019-03-18 10:30:45.500000"),
            ("now", "at 2019-03-18 12:30:45.500000"),
            ("10:07", "from 2019-03-18 10:07:00.000000 to 2019-03-18 10:07:59.999999"),
            ("yesterday 10:07", "from 2019-03-17 10:07:00.000000 to 2019-03-17 10:07:59.999999"),
            (
                "2019-03-18T10:07+01:00",
                "from 2019-03-18 09:07:00.000000 to 2019-03-18 09:07:59.999999",
            ),
            ("2019-03-17", "from 2019-03-17 00:00:00.000000 to 2019-03-17 23:59:59.999999"),
            (
                "10:00:00 .. 11:00:00",
                "from 2019-03-18 10:00:00.000000 to 2019-03-18 11:00:00.000000",
            ),
            ("10:00..10:05", "from 2019-03-18 10:00:00.000000 to 2019-03-18 10:05:59.999999"),
            ("2019-03-17..", "from 2019-03-17 00:00:00.000000 to 2019-03-18 12:30:45.500000"),
            ("..10:00:00", "from 1970-01-01 00:00:00.000000 to 2019-03-18 10:00:00.000000"),
        ] {
            assert_eq!(parse(text).as_deref(), Some(expected), "{text}");
        }
        for text in ["", "sometime", "2019-13-18", "25:00", "11:00:00..10:00:00", "1960-01-01"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
