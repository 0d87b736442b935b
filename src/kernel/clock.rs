//! The one place that reads a clock. The pure rooms get the time as an argument.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::handoff::change::{Now, Timestamp};

/// Wall clock and monotonic clock together. A reactor reads them once for a batch.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// Starts now.
    #[expect(clippy::new_without_default, reason = "reading a clock is not a default")]
    pub fn new() -> Self {
        Self { start: instant() }
    }

    /// The time by both clocks.
    pub fn now(&self) -> Now {
        Now { wall: wall(), monotonic: self.monotonic() }
    }

    /// The time since [`Clock::new`].
    pub fn monotonic(&self) -> Duration {
        self.start.elapsed()
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
