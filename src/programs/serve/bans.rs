//! [`BanBook`]: the bans of a server, from its start to its end, and over restarts.
//!
//! A ban counts by the monotonic clock while the server runs, so that it takes as long as was said,
//! however the wall clock jumps. Kept is when it ends by the wall clock, and since when it is: over
//! a restart it takes no longer than it was made for, also where the clock was set back meanwhile.
//!
#![doc = include_str!("../../BANS.md")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv6Net;

use crate::disk::bans::{self, BansLost, KeptBan};
use crate::disk::fs::Disk;
use crate::handoff::bans::{BANS_MAX, Bans};
use crate::handoff::change::{Now, Timestamp};
use crate::handoff::random::SecretHash;

/// A wall clock that was set by more than this has jumped.
const CLOCK_JUMP: Duration = Duration::from_secs(2);

/// A ban that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldBan {
    /// By the wall clock, as it is now.
    pub since: Timestamp,
    pub end: Option<Timestamp>,
    /// By the monotonic clock.
    ends_at: Duration,
}

/// Why a client is not banned, or not any more.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotBanned {
    /// There are as many bans as may be.
    #[error(
        "there are {BANS_MAX} bans, which is as many as may be; see `nat64handoff bans`, and ban networks \
         instead of addresses"
    )]
    TooMany,
    /// It was not banned.
    #[error("{} is not banned; see `nat64handoff bans`", of(*.0))]
    NotThere(Ipv6Net),
    /// A larger network is banned.
    #[error("{} is banned as a part of {}; unban that", of(*.net), of(*.by))]
    AsPart { net: Ipv6Net, by: Ipv6Net },
}

/// A network as people write it: an address alone without its length.
pub fn of(net: Ipv6Net) -> String {
    if net.prefix_len() == 128 { net.addr().to_string() } else { net.to_string() }
}

/// All bans.
#[derive(Debug, Clone)]
pub struct BanBook {
    held: BTreeMap<Ipv6Net, HeldBan>,
    /// The file of before can neither be read nor be put aside: it is not to be lost.
    pub is_frozen: bool,
    hash: SecretHash,
    /// The last time by both clocks.
    last: Now,
}

impl BanBook {
    /// Those that are kept in the state directory.
    pub fn open(
        disk: &dyn Disk,
        state: &Path,
        hash: SecretHash,
        now: Now,
    ) -> (Self, Option<BansLost>) {
        let (kept, lost) = match bans::read(disk, state) {
            Ok(kept) => (kept, None),
            Err(lost) => (Vec::new(), Some(lost)),
        };
        let held = kept.into_iter().take(BANS_MAX).filter_map(|kept| {
            let left = kept.end.map(|end| {
                let length = between(kept.since.min(end), end);
                // Where the clock was set back, the ban has been for an unknown time.
                between(now.wall, end).min(length)
            });
            // Where the clock is behind, it began now: it must not end before it began.
            let since = kept.since.min(now.wall);
            (left != Some(Duration::ZERO)).then(|| (kept.net, HeldBan::new(now, since, left)))
        });
        let is_frozen = matches!(lost, Some(BansLost::Unreadable { .. }));
        (Self { held: held.collect(), is_frozen, hash, last: now }, lost)
    }

    /// As the reactors want them. None: there are none.
    pub fn bans(&self) -> Option<Arc<Bans>> {
        let bans = Bans::of(self.hash, self.held.iter().map(|(&net, held)| (net, held.ends_at)));
        (!bans.is_empty()).then(|| Arc::new(bans))
    }

    /// The content of their file.
    pub fn file(&self) -> Vec<u8> {
        let kept =
            |(&net, held): (&Ipv6Net, &HeldBan)| KeptBan { net, since: held.since, end: held.end };
        bans::encode(self.held.iter().map(kept))
    }

    /// All of them, by network.
    pub fn held(&self) -> impl Iterator<Item = (Ipv6Net, HeldBan)> {
        self.held.iter().map(|(&net, &held)| (net, held))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.held.len()
    }

    /// The shortest banned network that holds `net`.
    fn holding(&self, net: Ipv6Net) -> Option<Ipv6Net> {
        let holding = |length| Ipv6Net::new(net.addr(), length).ok().map(|net| net.trunc());
        let mut lengths = 0..=net.prefix_len();
        lengths.find_map(|length| holding(length).filter(|net| self.held.contains_key(net)))
    }

    /// Bans a network from now on, for this time or for good, also where it was banned already.
    ///
    /// # Errors
    /// Where there are too many.
    pub fn ban(
        &mut self,
        net: Ipv6Net,
        length: Option<Duration>,
        now: Now,
    ) -> Result<HeldBan, NotBanned> {
        let net = net.trunc();
        if self.held.len() >= BANS_MAX && !self.held.contains_key(&net) {
            return Err(NotBanned::TooMany);
        }
        let held = HeldBan::new(now, now.wall, length);
        self.held.insert(net, held);
        Ok(held)
    }

    /// Bans a network no more. Returns a larger one that is still banned.
    ///
    /// # Errors
    /// Where it was not banned by itself.
    pub fn unban(&mut self, net: Ipv6Net) -> Result<Option<Ipv6Net>, NotBanned> {
        let net = net.trunc();
        let was_there = self.held.remove(&net).is_some();
        match self.holding(net) {
            by if was_there => Ok(by),
            Some(by) => Err(NotBanned::AsPart { net, by }),
            None => Err(NotBanned::NotThere(net)),
        }
    }

    /// Forgets what has ended, and follows a wall clock that jumped. Returns what ended, and
    /// whether the file is to be written anew.
    pub fn pass(&mut self, now: Now) -> (Vec<Ipv6Net>, bool) {
        let jump = self.jump(now);
        self.last = now;
        if jump != 0 {
            for held in self.held.values_mut() {
                let left = held.end.is_some().then(|| held.ends_at.saturating_sub(now.monotonic));
                let since = held.since.as_micros().saturating_add_signed(jump);
                *held = HeldBan {
                    ends_at: held.ends_at,
                    ..HeldBan::new(now, Timestamp::from_micros(since), left)
                };
            }
        }
        let ended = |held: &HeldBan| held.ends_at <= now.monotonic;
        let gone: Vec<_> = self.held.extract_if(.., |_, held| ended(held)).collect();
        let is_changed = jump != 0 && !self.held.is_empty() || !gone.is_empty();
        (gone.into_iter().map(|(net, _)| net).collect(), is_changed)
    }

    /// By how many microseconds the wall clock has jumped since the last look.
    fn jump(&self, now: Now) -> i64 {
        let passed = now.monotonic.saturating_sub(self.last.monotonic).as_micros() as u64;
        let expected = self.last.wall.as_micros().saturating_add(passed);
        let jump = now.wall.as_micros() as i64 - expected as i64;
        if Duration::from_micros(jump.unsigned_abs()) > CLOCK_JUMP { jump } else { 0 }
    }
}

impl HeldBan {
    fn new(now: Now, since: Timestamp, left: Option<Duration>) -> Self {
        let end = left.map(|left| later(now.wall, left));
        let ends_at = left.map_or(Duration::MAX, |left| now.monotonic.saturating_add(left));
        Self { since, end, ends_at }
    }
}

fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::from_micros(to.as_micros().saturating_sub(from.as_micros()))
}

fn later(than: Timestamp, by: Duration) -> Timestamp {
    let micros = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
    Timestamp::from_micros(than.as_micros().saturating_add(micros))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::fs::RealDisk;
    use std::net::Ipv6Addr;

    /// 2026, and a monotonic clock that began at the start.
    const START: u64 = 1_790_000_000;

    fn at(wall: u64, monotonic: u64) -> Now {
        let wall = Timestamp::from_micros((START + wall) * 1_000_000);
        Now { wall, monotonic: Duration::from_secs(monotonic) }
    }

    fn net(text: &str) -> Ipv6Net {
        text.parse().unwrap()
    }

    fn opened(state: &Path, now: Now) -> BanBook {
        let (book, lost) = BanBook::open(&RealDisk, state, SecretHash::new([1; 16]), now);
        assert!(lost.is_none(), "{lost:?}");
        book
    }

    fn has(book: &BanBook, address: &str, now: Now) -> bool {
        let address = address.parse().unwrap();
        book.bans().is_some_and(|bans| bans.has(address, now.monotonic))
    }

    const MINUTE: Option<Duration> = Some(Duration::from_secs(60));

    #[test]
    fn bans_come_and_go() {
        let state = tempfile::tempdir().unwrap();
        let mut book = opened(state.path(), at(0, 5));
        assert!(book.bans().is_none());
        book.ban(net("2001:db8::17/128"), MINUTE, at(0, 5)).unwrap();
        book.ban(net("2001:db8:5::9/64"), None, at(0, 5)).unwrap();
        assert!(has(&book, "2001:db8::17", at(59, 64)) && !has(&book, "2001:db8::18", at(0, 5)));
        assert!(has(&book, "2001:db8:5::1", at(999, 9999)));
        assert!(!has(&book, "2001:db8::17", at(60, 65)));
        assert_eq!(book.pass(at(59, 64)), (vec![], false));
        assert_eq!(book.pass(at(60, 65)), (vec![net("2001:db8::17/128")], true));
        assert_eq!(book.count(), 1);
        let (one, all) = (net("2001:db8:5::9/128"), net("2001:db8:5::/64"));
        assert_eq!(book.unban(one), Err(NotBanned::AsPart { net: one, by: all }));
        book.ban(one, None, at(60, 65)).unwrap();
        assert_eq!(book.unban(one), Ok(Some(all)));
        let other = net("2001:db8:6::/64");
        assert_eq!(book.unban(other), Err(NotBanned::NotThere(other)));
        assert_eq!(book.unban(all), Ok(None));
        assert!(book.bans().is_none());
    }

    #[test]
    fn a_ban_survives_a_restart_for_the_rest_of_its_time() {
        let state = tempfile::tempdir().unwrap();
        let mut book = opened(state.path(), at(0, 100));
        book.ban(net("2001:db8::17/128"), MINUTE, at(0, 100)).unwrap();
        book.ban(net("2001:db8::18/128"), None, at(0, 100)).unwrap();
        bans::write(&RealDisk, state.path(), &book.file()).unwrap();
        // Another monotonic clock, 40 s later.
        let after = opened(state.path(), at(40, 3));
        assert!(
            has(&after, "2001:db8::17", at(59, 22)) && !has(&after, "2001:db8::17", at(60, 23))
        );
        assert!(has(&after, "2001:db8::18", at(60, 23)));
        // After its end; and where the clock was set back by a day.
        assert_eq!(opened(state.path(), at(61, 3)).count(), 1);
        let back = opened(state.path(), at(0, 0).wall_ahead(-86_400));
        assert!(has(&back, "2001:db8::17", at(0, 59)) && !has(&back, "2001:db8::17", at(0, 60)));
    }

    impl Now {
        fn wall_ahead(self, seconds: i64) -> Self {
            let micros = self.wall.as_micros().saturating_add_signed(seconds * 1_000_000);
            Self { wall: Timestamp::from_micros(micros), ..self }
        }
    }

    /// A board without a clock of its own: at the start it is behind, and is set right then.
    #[test]
    fn a_ban_survives_restarts_with_a_clock_that_is_behind() {
        let state = tempfile::tempdir().unwrap();
        let mut book = opened(state.path(), at(0, 0));
        book.ban(net("2001:db8::17/128"), MINUTE, at(0, 0)).unwrap();
        bans::write(&RealDisk, state.path(), &book.file()).unwrap();
        let behind = |book: &mut BanBook, with_other: bool| {
            if with_other {
                book.ban(net("2001:db8::99/128"), None, at(1, 1).wall_ahead(-86_400)).unwrap();
            }
            bans::write(&RealDisk, state.path(), &book.file()).unwrap();
        };
        for with_other in [true, false] {
            let mut book = opened(state.path(), at(0, 0).wall_ahead(-86_400));
            behind(&mut book, with_other);
            assert!(has(
                &opened(state.path(), at(2, 0).wall_ahead(-86_400)),
                "2001:db8::17",
                at(0, 9)
            ));
            // NTP sets it right.
            assert!(book.pass(at(3, 3)).1);
            bans::write(&RealDisk, state.path(), &book.file()).unwrap();
            assert!(has(&opened(state.path(), at(4, 0)), "2001:db8::17", at(0, 9)));
        }
    }

    #[test]
    fn a_clock_that_jumps_neither_ends_nor_prolongs_a_ban() {
        for jump in [-86_400, 86_400] {
            let state = tempfile::tempdir().unwrap();
            let mut book = opened(state.path(), at(0, 0));
            book.ban(net("2001:db8::17/128"), MINUTE, at(0, 0)).unwrap();
            let (ended, is_changed) = book.pass(at(10, 10).wall_ahead(jump));
            assert!(ended.is_empty() && is_changed, "what is kept follows the clock");
            assert_eq!(book.pass(at(11, 11).wall_ahead(jump)), (vec![], false));
            assert!(has(&book, "2001:db8::17", at(59, 59).wall_ahead(jump)));
            assert!(!has(&book, "2001:db8::17", at(60, 60).wall_ahead(jump)));
            bans::write(&RealDisk, state.path(), &book.file()).unwrap();
            let after = opened(state.path(), at(30, 0).wall_ahead(jump));
            assert!(
                has(&after, "2001:db8::17", at(0, 29)) && !has(&after, "2001:db8::17", at(0, 30))
            );
        }
    }

    #[test]
    fn there_are_not_too_many() {
        let state = tempfile::tempdir().unwrap();
        let mut book = opened(state.path(), at(0, 0));
        let nth =
            |number: usize| Ipv6Net::from(Ipv6Addr::from_bits(0x2001_0db8 << 96 | number as u128));
        for number in 0..BANS_MAX {
            book.ban(nth(number), None, at(0, 0)).unwrap();
        }
        assert_eq!(book.ban(nth(BANS_MAX), None, at(0, 0)), Err(NotBanned::TooMany));
        book.ban(nth(7), MINUTE, at(0, 0)).unwrap();
        bans::write(&RealDisk, state.path(), &book.file()).unwrap();
        assert_eq!(opened(state.path(), at(1, 1)).count(), BANS_MAX);
    }
}
