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

    /// A time is as long as what is written of it: to the minute, all of that; a date, all of its
    /// day. Of two, the second has the date and the zone of the first, where it has none, and the
    /// first the zone of the second.
    pub fn parse(text: &str, now: Timestamp) -> Result<Self, NoTime> {
        let Some((from, until)) = text.split_once("..") else { return one(text, now, now) };
        let (from, until) = (from.trim(), until.trim());
        let (from_zone, until_zone) = (zone(from), zone(until));
        let with = |text: &str, own: &str, other: &str| match own {
            "" if is_time_of_day(text) || !other.is_empty() && text.contains(':') => {
                format!("{text} {other}")
            }
            _ => text.to_owned(),
        };
        let (from, until) = (with(from, from_zone, until_zone), with(until, until_zone, from_zone));
        let from = match from.trim() {
            "" => Timestamp::default(),
            from => one(from, now, now)?.from,
        };
        let until = match until.trim() {
            "" => now,
            until if is_time_of_day(until) => {
                one(until, now, if from == Timestamp::default() { now } else { from })?.until
            }
            until => one(until, now, now)?.until,
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

/// A time of day is one of the day of `day`; all else is told from `now`.
fn one(text: &str, now: Timestamp, day: Timestamp) -> Result<TimeSpan, NoTime> {
    let unknown = || NoTime::Unknown(text.to_owned());
    let base = if is_time_of_day(text) { day } else { now };
    let micros = i64::try_from(base.as_micros()).map_err(|_| unknown())?;
    let moment = Moment::from_microsecond(micros).map_err(|_| unknown())?;
    let base = Zoned::new(moment, TimeZone::UTC);
    let text = text.trim();
    if text.is_empty() {
        return Err(unknown());
    }
    let parsed = parse_datetime_at_date(base, text).map_err(|_| unknown())?;
    let parsed = parsed.into_zoned().ok_or_else(unknown)?.timestamp().as_microsecond();
    let from = u64::try_from(parsed).map_err(|_| unknown())?;
    let length = match written(text) {
        Some(length) => length,
        // A date, unless it is told from now.
        None if from % DAY == 0 => DAY,
        None => 1,
    };
    let until = Timestamp::from_micros(from + length - 1);
    Ok(TimeSpan { from: Timestamp::from_micros(from), until })
}

/// The zone at the end, as +01:00, -0500 or Z; empty where there is none.
fn zone(text: &str) -> &str {
    if text.ends_with(['Z', 'z']) && text.contains(':') {
        return &text[text.len() - 1..];
    }
    let Some(at) = text.rfind(['+', '-']) else { return "" };
    let digits = &text[at + 1..];
    let is_zone = (2..=5).contains(&digits.len())
        && digits.bytes().all(|octet| octet.is_ascii_digit() || octet == b':')
        // Else it is a part of a date.
        && text[..at].contains(':');
    if is_zone { &text[at..] } else { "" }
}

/// The time of day that is written, without its zone, and without what is written before.
fn time_of_day(text: &str) -> Option<&str> {
    let without = text[..text.len() - zone(text).len()].trim_end();
    let word = without.rsplit([' ', 'T']).next()?;
    word.contains(':').then_some(word)
}

fn is_time_of_day(text: &str) -> bool {
    let text = text.trim();
    time_of_day(text).is_some_and(|time| text.starts_with(time))
}

/// How long a time of day is, in microseconds: as long as its last digit.
fn written(text: &str) -> Option<u64> {
    let time = time_of_day(text)?;
    let fraction = time.split_once('.').map_or("", |(_, fraction)| fraction);
    Some(match (time.matches(':').count(), fraction.len()) {
        (1, _) => MINUTE,
        (_, digits @ 0..6) => 1_000_000 / 10_u64.pow(digits as u32),
        _ => 1,
    })
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
            ("2 hours ago", "at 2019-03-18 10:30:45.500000"),
            ("now", "at 2019-03-18 12:30:45.500000"),
            ("2019-03-18T10:06:28Z", "2019-03-18 10:06:28.000000 2019-03-18 10:06:28.999999"),
            ("2019-03-18T10:06:28.49Z", "2019-03-18 10:06:28.490000 2019-03-18 10:06:28.499999"),
            ("2019-03-18T10:06:28+01:00", "2019-03-18 09:06:28.000000 2019-03-18 09:06:28.999999"),
            ("2019-03-18 10:06:28 -0500", "2019-03-18 15:06:28.000000 2019-03-18 15:06:28.999999"),
            ("10:07", "2019-03-18 10:07:00.000000 2019-03-18 10:07:59.999999"),
            ("yesterday 10:07", "2019-03-17 10:07:00.000000 2019-03-17 10:07:59.999999"),
            ("2019-03-18T10:07+01:00", "2019-03-18 09:07:00.000000 2019-03-18 09:07:59.999999"),
            ("2019-03-18 12:00-05:00", "2019-03-18 17:00:00.000000 2019-03-18 17:00:59.999999"),
            ("2019-03-17", "2019-03-17 00:00:00.000000 2019-03-17 23:59:59.999999"),
            ("17 March 2019", "2019-03-17 00:00:00.000000 2019-03-17 23:59:59.999999"),
            ("10:00:00 .. 11:00:00", "2019-03-18 10:00:00.000000 2019-03-18 11:00:00.999999"),
            ("10:00..10:05", "2019-03-18 10:00:00.000000 2019-03-18 10:05:59.999999"),
            ("yesterday 10:00..11:00", "2019-03-17 10:00:00.000000 2019-03-17 11:00:59.999999"),
            ("2019-03-16 10:00..11:00", "2019-03-16 10:00:00.000000 2019-03-16 11:00:59.999999"),
            (
                "2019-03-16 10:00..2019-03-17 11:00",
                "2019-03-16 10:00:00.000000 2019-03-17 11:00:59.999999",
            ),
            ("10:00..11:00 +01:00", "2019-03-18 09:00:00.000000 2019-03-18 10:00:59.999999"),
            (
                "2019-03-16 10:00 +01:00..11:00",
                "2019-03-16 09:00:00.000000 2019-03-16 10:00:59.999999",
            ),
            ("2019-03-17..", "2019-03-17 00:00:00.000000 2019-03-18 12:30:45.500000"),
            ("..10:00:00", "1970-01-01 00:00:00.000000 2019-03-18 10:00:00.999999"),
            ("2 hours ago..now", "2019-03-18 10:30:45.500000 2019-03-18 12:30:45.500000"),
        ] {
            let expected = match expected.get(27..) {
                Some(_) if !expected.starts_with("at") => {
                    format!("from {} to {}", &expected[..26], &expected[27..])
                }
                _ => expected.to_owned(),
            };
            assert_eq!(parse(text), Some(expected), "{text}");
        }
        for text in ["", "sometime", "2019-13-18", "25:00", "11:00:00..10:00:00", "1960-01-01"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
