//! The one place that reads a clock. The pure rooms get the time as an argument.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::handoff::change::{Now, Timestamp};

/// Wall clock and monotonic clock together. A reactor reads them once for a batch.
#[derive(Debug, Clone)]
pub struct Clock {
    start: Instant,
    /// None: the time is that of the machine.
    hand: Option<SetByHand>,
}

/// Another time than that of the machine, as a simulation has it.
#[derive(Debug, Clone)]
struct SetByHand {
    hand: Arc<HandClock>,
    /// What its monotonic clock showed at the start.
    start: Duration,
}

/// A clock that goes on only when it is set.
#[derive(Debug)]
pub struct HandClock {
    wall_micros: AtomicU64,
    monotonic_nanos: AtomicU64,
}

impl HandClock {
    /// A clock that stands at this time.
    pub fn new(now: Now) -> Self {
        let clock = Self { wall_micros: AtomicU64::new(0), monotonic_nanos: AtomicU64::new(0) };
        clock.set(now);
        clock
    }

    /// From now on it is this time.
    pub fn set(&self, now: Now) {
        let nanos = u64::try_from(now.monotonic.as_nanos()).unwrap_or(u64::MAX);
        self.wall_micros.store(now.wall.as_micros(), Ordering::Relaxed);
        self.monotonic_nanos.store(nanos, Ordering::Relaxed);
    }

    /// What it was set to.
    pub fn now(&self) -> Now {
        Now { wall: self.wall(), monotonic: self.monotonic() }
    }

    fn wall(&self) -> Timestamp {
        Timestamp::from_micros(self.wall_micros.load(Ordering::Relaxed))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.monotonic_nanos.load(Ordering::Relaxed))
    }
}

impl Clock {
    /// Starts now.
    #[expect(clippy::new_without_default, reason = "reading a clock is not a default")]
    pub fn new() -> Self {
        Self { start: instant(), hand: None }
    }

    /// Starts now, by a clock that is set by hand.
    pub fn by_hand(hand: Arc<HandClock>) -> Self {
        let start = hand.monotonic();
        Self { start: instant(), hand: Some(SetByHand { hand, start }) }
    }

    /// The time by both clocks.
    pub fn now(&self) -> Now {
        Now { wall: self.wall(), monotonic: self.monotonic() }
    }

    /// The time by the wall clock.
    pub fn wall(&self) -> Timestamp {
        match &self.hand {
            None => wall(),
            Some(set) => set.hand.wall(),
        }
    }

    /// The time since [`Clock::new`].
    pub fn monotonic(&self) -> Duration {
        match &self.hand {
            None => self.start.elapsed(),
            Some(set) => set.hand.monotonic().saturating_sub(set.start),
        }
    }
}

/// The wall clock.
#[expect(clippy::disallowed_methods, reason = "the one reader of the wall clock")]
pub fn wall() -> Timestamp {
    timestamp(SystemTime::now())
}

/// A time of the wall clock, as of a file. One before 1970 is set wrong; the log shows it as 1970.
pub fn timestamp(at: SystemTime) -> Timestamp {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// The time since the machine was booted, with that in which it slept: what programs in the kernel
/// compare with.
pub fn since_boot() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// The monotonic clock, to measure how long something took.
#[expect(clippy::disallowed_methods, reason = "the one reader of the monotonic clock")]
pub fn instant() -> Instant {
    Instant::now()
}
