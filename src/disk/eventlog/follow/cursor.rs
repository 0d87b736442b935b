//! A place in the event log, as a short text, that holds wherever the lines go: it names the file
//! by its first line and the place by what stands before it, and not by names or inodes. So it
//! survives that the file is renamed, compressed or copied, and that either side starts anew.

use std::fmt;
use std::str::FromStr;

use siphasher::sip::SipHasher13;

use crate::handoff::change::Timestamp;
use crate::handoff::logged::time_of;

/// Octets of a [`FollowCursor`] as text: always the same.
pub const CURSOR_OCTETS: usize = 2 + 16 + 1 + 15 + 1 + 12 + 1 + 16 + 1 + 15;
/// The octets before the place that are compared.
pub(super) const TAIL_OCTETS: usize = 256;
/// The octets at the beginning of a file that are looked at.
pub(super) const HEAD_OCTETS: usize = 4096;
const VERSION: &str = "1";

/// What a file begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// Of the first line; never 0.
    pub(super) hash: u64,
    /// The first time in it; 1970 where there is none.
    pub(super) at: Timestamp,
}

impl Head {
    /// None: there is no whole line yet.
    pub(super) fn of(octets: &[u8]) -> Option<Head> {
        let octets = &octets[..octets.len().min(HEAD_OCTETS)];
        let end = octets.iter().position(|&octet| octet == b'\n');
        let first = &octets[..end.or((octets.len() == HEAD_OCTETS).then_some(HEAD_OCTETS))?];
        let lines = octets.split(|&octet| octet == b'\n');
        let at = lines.filter_map(|line| time_of(std::str::from_utf8(line).ok()?)).next();
        Some(Head { hash: hash(first).max(1), at: at.unwrap_or_default() })
    }
}

/// Where to go on. As text it is one word of [`CURSOR_OCTETS`] octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowCursor {
    /// The file. None: no line was given yet, and all from `at` on are to be.
    pub(super) head: Option<Head>,
    /// Octets of the file, as it is when it is not compressed, before this place.
    pub(super) offset: u64,
    /// Of the last of those octets.
    pub(super) tail: u64,
    /// The time of the last line before this place.
    pub(super) at: Timestamp,
}

/// A text that is none.
#[derive(Debug, thiserror::Error)]
#[error(
    "no cursor: give one as it was printed, a word of {CURSOR_OCTETS} letters that begins with 1-"
)]
pub struct NoFollowCursor;

impl FollowCursor {
    /// For who wants all lines from a time on.
    pub(super) fn from(at: Timestamp) -> Self {
        Self { head: None, offset: 0, tail: 0, at }
    }

    /// The time of the last line before it.
    pub fn at(&self) -> Timestamp {
        self.at
    }
}

/// Of the octets before a place, of which more may be given. Stays the same in all versions.
pub(super) fn tail(octets: &[u8]) -> u64 {
    hash(&octets[octets.len().saturating_sub(TAIL_OCTETS)..])
}

fn hash(octets: &[u8]) -> u64 {
    SipHasher13::new().hash(octets)
}

impl fmt::Display for FollowCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (hash, from) = self.head.map_or((0, 0), |head| (head.hash, head.at.as_micros()));
        let Self { offset, tail, at, .. } = self;
        let at = at.as_micros();
        write!(f, "{VERSION}-{hash:016x}-{from:015x}-{offset:012x}-{tail:016x}-{at:015x}")
    }
}

impl FromStr for FollowCursor {
    type Err = NoFollowCursor;

    fn from_str(text: &str) -> Result<Self, NoFollowCursor> {
        let text = text.trim();
        let mut words = text.split('-');
        let version = words.next();
        let mut number = || u64::from_str_radix(words.next().unwrap_or_default(), 16).ok();
        let mut parsed = || -> Option<FollowCursor> {
            let (hash, from) = (number()?, Timestamp::from_micros(number()?));
            let head = (hash != 0).then_some(Head { hash, at: from });
            let (offset, tail) = (number()?, number()?);
            Some(Self { head, offset, tail, at: Timestamp::from_micros(number()?) })
        };
        let parsed = parsed().filter(|_| version == Some(VERSION));
        // What is written otherwise is another text.
        parsed.filter(|parsed| parsed.to_string() == text).ok_or(NoFollowCursor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_cursor_is_read_as_it_was_written(
            hash: u64, offset in 0..1_u64 << 48, tail: u64, from: u64, at: u64,
        ) {
            let at = Timestamp::from_micros(at);
            let head = Some(Head { hash: hash.max(1), at: Timestamp::from_micros(from) });
            let cursor = FollowCursor { head, offset, tail, at };
            let text = cursor.to_string();
            prop_assert_eq!(text.len(), CURSOR_OCTETS);
            prop_assert_eq!(text.parse::<FollowCursor>().unwrap(), cursor);
            prop_assert!(text[1..].parse::<FollowCursor>().is_err());
        }

        #[test]
        fn no_text_makes_it_panic(text: String) {
            let _ = text.parse::<FollowCursor>();
        }
    }

    /// What an earlier version printed must hold for ever.
    #[test]
    fn the_text_of_a_place() {
        let line = b"2019-03-18 10:06:28.436754 Initialized 192.0.2.7\n";
        let head = Head::of(line).unwrap();
        let offset = line.len() as u64;
        let cursor = FollowCursor { head: Some(head), offset, tail: tail(line), at: head.at };
        let text =
            "1-64d78fd7541e967f-005845b8ac25b12-000000000031-b94bf9de240ba402-005845b8ac25b12";
        assert_eq!(cursor.to_string(), text);
        assert!(Head::of(&line[..line.len() - 1]).is_none(), "no whole line yet");
        assert!("1-0-0-0-0-0".parse::<FollowCursor>().is_err());
    }
}
