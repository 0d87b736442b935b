//! [`Worth`]: which table goes first when a newcomer finds no room, and for whom (PROTOCOL.md
//! section 5).

use std::time::Duration;

/// A table that was used within this time counts as in use: it goes only for a newcomer that has a
/// live connection. A NAT64 that was just admitted has this long to make its first entry.
const IN_USE_MIN: Duration = Duration::from_secs(60);
/// An older table counts as in use for this part of its age: one in so many. So those that come in
/// crowds do not push out those that were here before and are silent for a while.
const IN_USE_PART: u32 = 8;
/// But for no longer than this, as an identity that is not used for longer is not known any more.
const IN_USE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Entries that are told apart.
const ENTRIES_MAX: usize = (1 << ENTRIES_BITS) - 1;
const ENTRIES_BITS: u32 = 17;
const SECONDS_BITS: u32 = 40;

/// A newcomer whose proof found no room, the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Newcomer {
    /// Its address or network has its share.
    Crowded,
    /// This host has no live connection with it, or does not know.
    Stranger,
    /// This host has a live connection with it.
    Connected,
}

/// All of them, in order.
pub const NEWCOMERS: [Newcomer; 3] = [Newcomer::Crowded, Newcomer::Stranger, Newcomer::Connected];

/// What is known of a table that may go.
#[derive(Debug, Clone, Copy)]
pub struct Merits {
    /// Its address or network has more than its share.
    pub is_crowded: bool,
    /// Whether this host has a live connection with its NAT64, if that is known.
    pub is_live: Option<bool>,
    /// For how long it was not used.
    pub unused: Duration,
    /// For how long it has been there, or the server.
    pub age: Duration,
    pub entries: usize,
}

/// What a table is worth, the least first. For the tables of all shards to be compared, the time of
/// the last use is in it, not the time since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Worth(u64);

/// The tiers of tables, the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum WorthTier {
    CrowdedUnused,
    CrowdedUsed,
    Unused,
    Used,
    /// Live connections protect an address or network up to its share.
    CrowdedLive,
}

impl Worth {
    /// More than any table is worth.
    pub const NONE: Worth = Worth(u64::MAX);

    /// None where the table must not go: it has a live connection, and is within its share. Where
    /// live connections are not known, use counts as one. `now`: since any moment that is the same
    /// for all tables.
    pub fn of(merits: Merits, now: Duration) -> Option<Self> {
        let Merits { is_crowded, is_live, unused, age, entries } = merits;
        let is_used = unused < (age / IN_USE_PART).clamp(IN_USE_MIN, IN_USE_MAX);
        let is_live = is_live.unwrap_or(is_used && !is_crowded);
        let tier = match (is_crowded, is_live, is_used) {
            (true, false, false) => WorthTier::CrowdedUnused,
            (true, false, true) => WorthTier::CrowdedUsed,
            (true, true, _) => WorthTier::CrowdedLive,
            (false, false, false) => WorthTier::Unused,
            (false, false, true) => WorthTier::Used,
            (false, true, _) => return None,
        };
        let seconds = now.saturating_sub(unused).as_secs().min((1 << SECONDS_BITS) - 1);
        let mut worth = tier as u64;
        worth = worth << 1 | u64::from(entries > 0);
        worth = worth << SECONDS_BITS | seconds;
        Some(Self(worth << ENTRIES_BITS | entries.min(ENTRIES_MAX) as u64))
    }

    /// Whether such a table goes for such a newcomer.
    pub fn goes_for(self, newcomer: Newcomer) -> bool {
        let last = match newcomer {
            Newcomer::Crowded => WorthTier::CrowdedUnused,
            Newcomer::Stranger => WorthTier::Unused,
            Newcomer::Connected => WorthTier::CrowdedLive,
        };
        self.0 >> (1 + SECONDS_BITS + ENTRIES_BITS) <= last as u64
    }

    /// As a number, in the same order.
    pub fn bits(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worth(
        is_crowded: bool,
        is_live: Option<bool>,
        unused: u64,
        entries: usize,
    ) -> Option<Worth> {
        aged(is_crowded, is_live, unused, 100, entries)
    }

    fn aged(
        is_crowded: bool,
        is_live: Option<bool>,
        unused: u64,
        age: u64,
        entries: usize,
    ) -> Option<Worth> {
        let [unused, age] = [unused, age].map(Duration::from_secs);
        let merits = Merits { is_crowded, is_live, unused, age, entries };
        Worth::of(merits, Duration::from_secs(10_000_000))
    }

    #[test]
    fn section_5_an_older_table_is_in_use_for_longer() {
        let goes = |unused, age| {
            aged(false, Some(false), unused, age, 1).unwrap().goes_for(Newcomer::Stranger)
        };
        let (hour, day) = (3600, 86_400);
        assert!(!goes(59, 10) && goes(60, 10));
        assert!(!goes(449, hour) && goes(450, hour));
        assert!(!goes(3 * hour - 1, day) && goes(3 * hour, day));
        assert!(!goes(day - 1, 30 * day) && goes(day, 30 * day));
    }

    #[test]
    fn section_5_who_goes_first() {
        let known = Some(false);
        let order = [
            worth(true, known, 61, 0),
            worth(true, known, 500, 7),
            worth(true, known, 5, 0),
            worth(true, None, 5, 7),
            worth(false, known, 70, 0),
            worth(false, known, 60, 0),
            worth(false, None, 9000, 100_000),
            worth(false, known, 60, 1),
            worth(false, known, 60, 2),
            worth(false, known, 30, 0),
            worth(false, known, 59, 3),
            worth(false, known, 30, 3),
            worth(true, Some(true), 500, 3),
            Some(Worth::NONE),
        ];
        assert!(order.iter().all(Option::is_some));
        assert!(order.is_sorted(), "{order:?}");
        // These never go.
        assert_eq!(worth(false, Some(true), 9000, 0), None);
        assert_eq!(worth(false, None, 59, 0), None);
    }

    #[test]
    fn section_5_for_whom() {
        let cases = [
            (worth(true, Some(false), 60, 9), [true, true, true]),
            (worth(true, Some(false), 59, 9), [false, true, true]),
            (worth(false, Some(false), 60, 9), [false, true, true]),
            (worth(false, Some(false), 59, 9), [false, false, true]),
            (worth(true, Some(true), 9000, 9), [false, false, true]),
            (Some(Worth::NONE), [false; 3]),
        ];
        for (worth, goes) in cases {
            assert_eq!(NEWCOMERS.map(|newcomer| worth.unwrap().goes_for(newcomer)), goes);
        }
    }
}
