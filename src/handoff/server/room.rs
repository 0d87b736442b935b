//! [`Room`]: how the shards agree on whose table makes room for a newcomer (PROTOCOL.md section 5).
//!
//! A newcomer whose proof found no room leaves a mark here, and nothing else. While it stands, each
//! shard says what its least worthy table is worth, and the one with the least gives it up. Nobody
//! waits for another: a shard that says nothing for a while is done without. Two shards may see
//! each other's offer too late, and give up one table each: the second room is the next one's.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::demand::Demand;
use super::worth::{NEWCOMERS, Newcomer, Worth};

/// An offer that is older than this is none. A shard that has nothing to do looks once a second.
const OFFER_KEPT: Duration = Duration::from_millis(2500);
/// The most shards.
const SHARDS_MAX: usize = 256;

/// The part of all tables that may be given up in a minute: one in so many.
const GIVEN_UP_PART: u64 = 4;
/// At least this many, in a minute.
const GIVEN_UP_MIN: u64 = 16;
const MINUTE: u64 = 60_000_000_000;

/// What a shard offers.
#[derive(Debug)]
struct Offer {
    /// [`Worth::bits`]
    worth: AtomicU64,
    /// Milliseconds.
    at: AtomicU64,
}

/// What the shards know of each other.
#[derive(Debug)]
pub struct Room {
    nat64s_max: usize,
    /// By each kind of newcomer.
    wanted: Demand<{ NEWCOMERS.len() }>,
    /// Tables that were given up for crowded newcomers, and count as if they were there.
    pub owed: AtomicUsize,
    /// When all that may be given up at once may be given up again, in nanoseconds.
    given_up: AtomicU64,
    shards: AtomicUsize,
    offers: Box<[Offer]>,
}

fn millis(time: Duration) -> u64 {
    time.as_millis() as u64
}

impl Room {
    /// Nobody asked yet.
    pub fn new(nat64s_max: usize) -> Self {
        let offer = |_| Offer { worth: AtomicU64::new(u64::MAX), at: AtomicU64::new(0) };
        Self {
            nat64s_max,
            wanted: Demand::new(),
            owed: AtomicUsize::new(0),
            given_up: AtomicU64::new(0),
            shards: AtomicUsize::new(0),
            offers: (0..SHARDS_MAX).map(offer).collect(),
        }
    }

    /// The number of a new shard.
    pub fn join(&self) -> usize {
        self.shards.fetch_add(1, Ordering::Relaxed)
    }

    /// A newcomer found no room.
    pub fn want(&self, now: Duration, newcomer: Newcomer) {
        self.wanted.want(now, newcomer as usize);
    }

    /// A newcomer of this kind has room. Others that still want some will say so again.
    pub fn has(&self, newcomer: Newcomer) {
        self.wanted.has(newcomer as usize);
    }

    /// Whether a newcomer of this kind is waited for.
    pub fn is_wanted(&self, now: Duration, newcomer: Newcomer) -> bool {
        self.wanted.is_wanted(now, newcomer as usize)
    }

    /// Whether any is, or was not long ago.
    pub fn was_wanted(&self) -> bool {
        self.wanted.was_wanted()
    }

    /// Forgets those that are not waited for any more.
    pub fn forget(&self, now: Duration) {
        self.wanted.forget(now);
    }

    /// The least worthy table of a shard is worth this now.
    pub fn offer(&self, shard: usize, now: Duration, worth: Worth) {
        if let Some(offer) = self.offers.get(shard) {
            offer.worth.store(worth.bits(), Ordering::Relaxed);
            offer.at.store(millis(now).max(1), Ordering::Relaxed);
        }
    }

    /// Whether no shard has a table that is worth less. `since`: when this shard began to offer its
    /// own; it waits for the others no longer than an offer is kept.
    pub fn is_least(&self, shard: usize, worth: Worth, now: Duration, since: Duration) -> bool {
        let has_waited = now.saturating_sub(since) >= OFFER_KEPT;
        let shards = self.shards.load(Ordering::Relaxed);
        self.offers.iter().take(shards).enumerate().all(|(other, offer)| {
            let at = Duration::from_millis(offer.at.load(Ordering::Relaxed));
            if other == shard {
                true
            } else if at.is_zero() || now.saturating_sub(at) >= OFFER_KEPT {
                has_waited
            } else {
                let others = offer.worth.load(Ordering::Relaxed);
                (worth.bits(), shard) < (others, other)
            }
        })
    }

    /// Whether one more table may be given up now, for such a newcomer. At once it is a quarter of
    /// what it may be in a minute; a part of that is kept for those that have a live connection.
    pub fn take_turn(&self, now: Duration, newcomer: Newcomer) -> bool {
        let in_minute = (self.nat64s_max as u64 / GIVEN_UP_PART).max(GIVEN_UP_MIN);
        let at_once = in_minute / 4;
        let at_once = match newcomer {
            Newcomer::Connected => at_once,
            Newcomer::Stranger => at_once / 2,
            Newcomer::Crowded => at_once / 4,
        };
        let each = MINUTE / in_minute;
        let now = now.as_nanos() as u64;
        let next = |full_at: u64| {
            let full_at = full_at.max(now) + each;
            (full_at <= now + each * at_once).then_some(full_at)
        };
        self.given_up.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::super::worth::Merits;
    use super::*;

    fn worth(unused: u64) -> Worth {
        let unused = Duration::from_secs(unused);
        let (is_live, age) = (Some(false), Duration::ZERO);
        let merits = Merits { is_crowded: false, is_live, unused, age, entries: 1 };
        Worth::of(merits, Duration::from_secs(100_000)).unwrap()
    }

    #[test]
    fn section_5_the_shard_with_the_least_worthy_table_gives_it_up() {
        let room = Room::new(1000);
        assert_eq!([room.join(), room.join(), room.join()], [0, 1, 2]);
        let at = |millis: u64| Duration::from_millis(100_000 + millis);
        let worths = [worth(100), worth(300), worth(300)];
        let gives = |shard: usize, now| room.is_least(shard, worths[shard], now, at(0));
        room.offer(0, at(0), worths[0]);
        room.offer(1, at(0), worths[1]);
        // The third one said nothing yet.
        assert_eq!([0, 1].map(|shard| gives(shard, at(100))), [false; 2]);
        room.offer(2, at(200), worths[2]);
        assert_eq!([0, 1, 2].map(|shard| gives(shard, at(200))), [false, true, false]);
        room.offer(1, at(300), Worth::NONE);
        assert_eq!([0, 2].map(|shard| gives(shard, at(400))), [false, true]);
        // It sleeps: the others have waited for it long enough.
        room.offer(0, at(2600), worths[0]);
        room.offer(1, at(2600), worths[1]);
        assert_eq!([0, 1].map(|shard| gives(shard, at(2700))), [false, true]);
    }

    #[test]
    fn section_5_tables_are_given_up_at_a_bounded_rate() {
        let room = Room::new(1000);
        let taken = |seconds: u64, newcomer| {
            let times = (0..10_000).map(|tenth| Duration::from_millis(seconds * 1000 + tenth));
            times.filter(|&now| room.take_turn(now, newcomer)).count()
        };
        // In ten seconds: a part at once, and ten seconds' worth.
        assert!((15 + 41..=15 + 43).contains(&taken(100, Newcomer::Crowded)));
        // What is left at once is of those that matter more.
        assert!((16 + 41..=17 + 43).contains(&taken(110, Newcomer::Stranger)));
        assert!((31 + 41..=32 + 43).contains(&taken(120, Newcomer::Connected)));
        assert!((10..=12).contains(&taken(130, Newcomer::Stranger)), "it waits");
        // In an hour.
        let hour = (0..36_000).map(|tenth| Duration::from_millis(10_000_000 + 100 * tenth));
        let hour = hour.filter(|&now| room.take_turn(now, Newcomer::Connected)).count();
        assert!((250 * 60..=250 * 60 + 63).contains(&hour), "{hour}");
    }

    #[test]
    fn section_5_newcomers_are_waited_for() {
        let room = Room::new(10);
        let at = Duration::from_secs;
        assert!(!room.was_wanted());
        room.want(at(10), Newcomer::Stranger);
        assert!(room.is_wanted(at(14), Newcomer::Stranger) && room.was_wanted());
        assert!(!room.is_wanted(at(14), Newcomer::Connected));
        room.forget(at(14));
        assert!(room.was_wanted());
        room.forget(at(15));
        assert!(!room.is_wanted(at(15), Newcomer::Stranger) && !room.was_wanted());
    }
}
