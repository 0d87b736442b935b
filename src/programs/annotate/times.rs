//! The times in lines of access logs, each in the form in which a program writes it.
//!
//! A time is as long as its last digit: one to the second is all of that second. One without a zone
//! is local time (that of `TZ`, or of the machine); where clocks were set back, it is both of the
//! times that it may be, and all between. One without a year is of the last year in which it is not
//! to come.

use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};

use crate::handoff::change::Timestamp;
use crate::programs::who::when::TimeSpan;

const SECOND: u64 = 1_000_000;
/// A clock that is late by this much may have written a time that is to come here.
const TO_COME_MAX: u64 = 86_400 * SECOND;
/// The longest text that is remembered.
const TEXT_MAX: usize = 48;
/// Digits of a number of seconds, milliseconds, microseconds and nanoseconds since 1970, from 2001
/// to 2286.
const EPOCH_DIGITS: [(usize, u32); 4] = [(10, 0), (13, 3), (16, 6), (19, 9)];

/// Reads times. Knows the last one, as the next line mostly has the same.
#[derive(Debug)]
pub struct TimeReader {
    zone: TimeZone,
    now: Timestamp,
    text: [u8; TEXT_MAX],
    length: usize,
    last: Option<TimeSpan>,
}

impl TimeReader {
    /// `zone` is that of times without one.
    pub fn new(zone: TimeZone) -> Self {
        Self { zone, now: Timestamp::MAX, text: [0; TEXT_MAX], length: 0, last: None }
    }

    /// From which the year of times without one is told.
    pub fn set_now(&mut self, now: Timestamp) {
        self.now = now;
    }

    /// None where it is no time of a form that is known.
    pub fn read(&mut self, text: &[u8]) -> Option<TimeSpan> {
        if text.len() > TEXT_MAX || text.is_empty() {
            return None;
        }
        if self.last.is_some() && self.text[..self.length] == *text {
            return self.last;
        }
        let read = self.parse(text);
        self.text[..text.len()].copy_from_slice(text);
        (self.length, self.last) = (text.len(), read);
        read
    }

    fn parse(&self, text: &[u8]) -> Option<TimeSpan> {
        let digits = text.iter().take_while(|octet| octet.is_ascii_digit()).count();
        match (digits, text.get(digits)) {
            (2, Some(b'/')) => self.common_log(text),
            (4, Some(b'-' | b'/')) => self.iso8601(text),
            (0, _) => self.named_month(text),
            _ => epoch(text, digits),
        }
    }

    /// `18/Mar/2019:11:06:28 +0100`; HAProxy has a fraction and no zone.
    fn common_log(&self, text: &[u8]) -> Option<TimeSpan> {
        let mut rest = Rest(text);
        let day = rest.number(2)?;
        let month = rest.octet(b'/')?.month()?;
        let year = rest.octet(b'/')?.number(4)?;
        rest.octet(b':')?;
        self.clock_time(year, month, day, rest)
    }

    /// `2019-03-18T11:06:28.491+01:00`, also with a space, slashes, a comma, no colon in the zone.
    fn iso8601(&self, text: &[u8]) -> Option<TimeSpan> {
        let mut rest = Rest(text);
        let year = rest.number(4)?;
        let month = rest.either(b"-/")?.number(2)?;
        let day = rest.either(b"-/")?.number(2)?;
        rest.either(b"T ")?;
        self.clock_time(year, month, day, rest)
    }

    /// `Mar 18 11:06:28`, `Mon Mar 18 11:06:28.491727 2019`.
    fn named_month(&self, text: &[u8]) -> Option<TimeSpan> {
        let mut rest = Rest(text);
        let month = match rest.month() {
            Some(month) => month,
            None => {
                rest = Rest(text.get(3..)?);
                rest.octet(b' ')?.month()?
            }
        };
        rest.octet(b' ')?;
        let day = match rest.octet(b' ') {
            Some(_) => rest.number(1)?,
            None => rest.number(2)?,
        };
        rest.octet(b' ')?;
        if let Some(year) = text.len().checked_sub(5).map(|at| &text[at..])
            && let Some(year) = Rest(year).octet(b' ').and_then(|rest| rest.number(4))
        {
            return self.clock_time(
                year,
                month,
                day,
                Rest(rest.0.get(..rest.0.len().checked_sub(5)?)?),
            );
        }
        let now = self.zone.to_datetime(moment(self.now));
        let is_past = |span: &TimeSpan| {
            span.from.as_micros() <= self.now.as_micros().saturating_add(TO_COME_MAX)
        };
        // Some years have no 29 February.
        let years = (0..=8).map(|back| now.year() + 1 - back);
        years.filter_map(|year| self.clock_time(year, month, day, Rest(rest.0))).find(is_past)
    }

    /// From the hour on.
    fn clock_time(&self, year: i16, month: i8, day: i16, mut rest: Rest<'_>) -> Option<TimeSpan> {
        let hour: i16 = rest.number(2)?;
        let minute: i16 = rest.octet(b':')?.number(2)?;
        // 60 is a leap second.
        let second = rest.octet(b':')?.number::<i8>(2).filter(|&second| second <= 60)?.min(59);
        let (fraction, length) = rest.fraction()?;
        let at = DateTime::new(year, month, day as i8, hour as i8, minute as i8, second, 0);
        let at = at.ok()?;
        let (first, last) = match rest.zone()? {
            Some(offset) => (offset, offset),
            None => match self.zone.to_ambiguous_timestamp(at).offset() {
                AmbiguousOffset::Unambiguous { offset } => (offset, offset),
                // No clock shows it; this is the later of what may be meant.
                AmbiguousOffset::Gap { before, .. } => (before, before),
                AmbiguousOffset::Fold { before, after } => (before, after),
            },
        };
        let micros = |offset: Offset| {
            let micros = offset.to_timestamp(at).ok()?.as_microsecond();
            u64::try_from(micros).ok().map(|micros| micros + fraction)
        };
        Some(span(micros(first)?, micros(last)? + length - 1))
    }
}

fn span(from: u64, until: u64) -> TimeSpan {
    TimeSpan { from: Timestamp::from_micros(from), until: Timestamp::from_micros(until) }
}

fn moment(at: Timestamp) -> jiff::Timestamp {
    let micros = i64::try_from(at.as_micros()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_microsecond(micros).unwrap_or(jiff::Timestamp::MAX)
}

/// `1552903588.491`, `1552903588491`.
fn epoch(text: &[u8], digits: usize) -> Option<TimeSpan> {
    let (_, decimals) = *EPOCH_DIGITS.iter().find(|&&(length, _)| length == digits)?;
    let number = Rest(text).number::<u64>(digits)?;
    let mut rest = Rest(&text[digits..]);
    let (fraction, length) = if decimals == 0 { rest.fraction()? } else { (0, 0) };
    let unit = 10_u64.pow(decimals);
    let from = match decimals {
        0 => number * SECOND + fraction,
        1..=6 => number * (SECOND / unit),
        _ => number / 1_000,
    };
    let length = if decimals == 0 { length } else { (SECOND / unit).max(1) };
    rest.0.is_empty().then(|| span(from, from + length - 1))
}

/// What is not read yet.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    /// That many digits.
    fn number<N: TryFrom<u64>>(&mut self, digits: usize) -> Option<N> {
        let text = self.0.get(..digits)?;
        let mut number = 0_u64;
        for octet in text {
            let digit = octet.is_ascii_digit().then_some(u64::from(octet & 0xf))?;
            number = number.checked_mul(10)?.checked_add(digit)?;
        }
        self.0 = &self.0[digits..];
        N::try_from(number).ok()
    }

    fn octet(&mut self, octet: u8) -> Option<&mut Self> {
        self.either(&[octet])
    }

    fn either(&mut self, octets: &[u8]) -> Option<&mut Self> {
        let (first, rest) = self.0.split_first()?;
        self.0 = octets.contains(first).then_some(rest)?;
        Some(self)
    }

    /// `Mar`
    fn month(&mut self) -> Option<i8> {
        const MONTHS: &[u8] = b"JanFebMarAprMayJunJulAugSepOctNovDec";
        let name = self.0.get(..3)?;
        let month = MONTHS.chunks(3).position(|month| month == name)?;
        self.0 = &self.0[3..];
        i8::try_from(month + 1).ok()
    }

    /// A fraction of a second in microseconds, if there is one, and how long its last digit is.
    fn fraction(&mut self) -> Option<(u64, u64)> {
        if self.either(b".,").is_none() {
            return Some((0, SECOND));
        }
        let digits = self.0.iter().take_while(|octet| octet.is_ascii_digit()).count();
        let read = digits.min(6);
        let length = 10_u64.pow(6 - read as u32);
        let fraction = self.number::<u64>(read).filter(|_| read > 0)? * length;
        self.0 = &self.0[digits - read..];
        Some((fraction, length))
    }

    /// The zone at the end, if there is one. None where something else is there.
    fn zone(&mut self) -> Option<Option<Offset>> {
        let _ = self.octet(b' ');
        let sign = match self.0 {
            b"" => return Some(None),
            b"Z" | b"z" | b"UTC" | b"GMT" => return Some(Some(Offset::UTC)),
            [b'+', ..] => 1,
            [b'-', ..] => -1,
            _ => return None,
        };
        self.0 = &self.0[1..];
        let hours: i32 = self.number(2)?;
        let _ = self.octet(b':');
        let minutes: i32 = if self.0.is_empty() { 0 } else { self.number(2)? };
        let offset = Offset::from_seconds(sign * (hours * 3_600 + minutes * 60)).ok()?;
        self.0.is_empty().then_some(Some(offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader() -> TimeReader {
        let mut reader = TimeReader::new(TimeZone::get("Europe/Berlin").unwrap());
        // 2019-03-18 12:30:45.5 UTC
        reader.set_now(Timestamp::from_micros(1_552_912_245_500_000));
        reader
    }

    fn read(text: &str) -> Option<String> {
        reader().read(text.as_bytes()).map(|span| {
            let length = span.until.as_micros() + 1 - span.from.as_micros();
            format!("{} {length}", span.from)
        })
    }

    #[test]
    fn each_program_writes_time_in_its_own_form() {
        for (text, expected) in [
            ("18/Mar/2019:11:06:28 +0100", "2019-03-18 10:06:28.000000 1000000"),
            ("18/Mar/2019:11:06:28 -0530", "2019-03-18 16:36:28.000000 1000000"),
            ("18/Mar/2019:11:06:28.491", "2019-03-18 10:06:28.491000 1000"),
            ("18/Jul/2018:11:06:28.4", "2018-07-18 09:06:28.400000 100000"),
            ("2019-03-18T11:06:28+01:00", "2019-03-18 10:06:28.000000 1000000"),
            ("2019-03-18T11:06:28+0100", "2019-03-18 10:06:28.000000 1000000"),
            ("2019-03-18T11:06:28.491727+01:00", "2019-03-18 10:06:28.491727 1"),
            ("2019-03-18T10:06:28.491727999Z", "2019-03-18 10:06:28.491727 1"),
            ("2019-03-18 10:06:28,491 UTC", "2019-03-18 10:06:28.491000 1000"),
            ("2019/03/18 11:06:28", "2019-03-18 10:06:28.000000 1000000"),
            ("Mar 18 11:06:28", "2019-03-18 10:06:28.000000 1000000"),
            ("Mar  8 11:06:28", "2019-03-08 10:06:28.000000 1000000"),
            ("Mar 19 11:06:28", "2019-03-19 10:06:28.000000 1000000"),
            ("Mar 20 11:06:28", "2018-03-20 10:06:28.000000 1000000"),
            ("Dec 31 23:59:60", "2018-12-31 22:59:59.000000 1000000"),
            ("Feb 29 12:00:00", "2016-02-29 11:00:00.000000 1000000"),
            ("Mon Mar 18 11:06:28.491727 2019", "2019-03-18 10:06:28.491727 1"),
            ("Mon Mar  4 11:06:28 2019", "2019-03-04 10:06:28.000000 1000000"),
            ("1552903588", "2019-03-18 10:06:28.000000 1000000"),
            ("1552903588.491", "2019-03-18 10:06:28.491000 1000"),
            ("1552903588.4917271", "2019-03-18 10:06:28.491727 1"),
            ("1552903588491", "2019-03-18 10:06:28.491000 1000"),
            ("1552903588491727", "2019-03-18 10:06:28.491727 1"),
            ("1552903588491727123", "2019-03-18 10:06:28.491727 1"),
            // Twice in that night: an hour and a second long.
            ("28/Oct/2018:02:30:00.0", "2018-10-28 00:30:00.000000 3600100000"),
            ("28/Oct/2018:02:30:00 +0200", "2018-10-28 00:30:00.000000 1000000"),
            // Never.
            ("31/Mar/2019:02:30:00", "2019-03-31 01:30:00.000000 1000000"),
        ] {
            assert_eq!(read(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_time() {
        for text in [
            "Mar 18 2019",
            "Mon Mar 18 2019",
            "Mar 18  2019",
            "",
            "-",
            "18",
            "x",
            "18/Mar/2019",
            "18/Mar/2019:11:06",
            "30/Feb/2019:11:06:28 +0100",
            "18/Mar/2019:11:06:28 +0100 x",
            "18/Mar/2019:25:06:28 +0100",
            "2019-13-18T11:06:28",
            "2019-03-18T11:06:28.",
            "2019-03-18",
            "Mar 18",
            "Foo 18 11:06:28",
            "155290358",
            "15529035881",
            "1552903588.",
            "1552903588.x",
            "1552903588491.7",
            "99999999999999999999",
            "Mon Mar 18 11:06:28 20x9",
            "18/Mar/2019:11:06:28 +99:99",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn the_last_one_is_remembered_and_no_other() {
        let mut reader = reader();
        let first = reader.read(b"1552903588").unwrap();
        assert_eq!(reader.read(b"1552903588"), Some(first));
        assert_eq!(reader.read(b"155290358"), None);
        assert_eq!(reader.read(b"1552903589").unwrap().from.as_micros(), 1_552_903_589_000_000);
        assert_eq!(reader.read(&[b'1'; 100]), None);
    }
}
