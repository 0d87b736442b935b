//! [`Rate`]: a rate limit that holds in any second, with no burst beyond it at the edge of a
//! window.

use std::time::Duration;

use crate::handoff::stats::DropReason;

/// The most ICMP messages of our own to one NAT64 in a second, echo replies included (PROTOCOL.md
/// section 7).
pub const ICMP_RATE_MAX: u32 = 100;

/// The length of a slot.
const SLOT: Duration = Duration::from_millis(100);
/// The current slot, and those before it that make a second.
const SLOTS: usize = 11;

const _: () = assert!((SLOTS as u128 - 1) * SLOT.as_millis() == 1000);

/// What was used in the last second, in tenths.
#[derive(Debug, Clone, Default)]
pub struct Rate {
    slots: [u32; SLOTS],
    current: u64,
    sum: u32,
}

impl Rate {
    /// Uses one more, if fewer than `limit` were used in the second before `now`.
    pub fn take(&mut self, now: Duration, limit: u32) -> bool {
        let slot = (now.as_millis() / SLOT.as_millis()) as u64;
        if slot > self.current {
            for passed in 1..=(slot - self.current).min(SLOTS as u64) {
                let gone = &mut self.slots[((self.current + passed) % SLOTS as u64) as usize];
                self.sum -= std::mem::take(gone);
            }
            self.current = slot;
        }
        if self.sum >= limit {
            return false;
        }
        self.slots[(self.current % SLOTS as u64) as usize] += 1;
        self.sum += 1;
        true
    }

    /// Uses one more of the ICMP messages of our own that one NAT64 may be sent.
    ///
    /// # Errors
    /// As many were used in the second before `now`.
    pub fn take_icmp(&mut self, now: Duration) -> Result<(), DropReason> {
        self.take(now, ICMP_RATE_MAX).then_some(()).ok_or(DropReason::IcmpRate)
    }
}

/// A token bucket: how much of something there was of late, in the eight octets of a time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bucket {
    /// When it is full again, in nanoseconds.
    full_at: u64,
}

impl Bucket {
    /// Takes `cost` out, if that much is in. `rate` flow in each second, until `depth` are in.
    #[must_use]
    pub fn take(&mut self, now: Duration, rate: u32, depth: u32, cost: u32) -> Option<()> {
        let full_at = self.full_after(now, rate, cost);
        let depth = time_of(depth, rate);
        (full_at <= nanos(now).saturating_add(depth)).then(|| self.full_at = full_at)
    }

    /// Takes `cost` out, also if not that much is in: what was done already.
    pub fn charge(&mut self, now: Duration, rate: u32, cost: u32) {
        self.full_at = self.full_after(now, rate, cost);
    }

    /// When it is full again once `cost` is out.
    fn full_after(&self, now: Duration, rate: u32, cost: u32) -> u64 {
        self.full_at.max(nanos(now)).saturating_add(time_of(cost, rate))
    }
}

/// The time in which so many units flow in, in nanoseconds.
fn time_of(units: u32, rate: u32) -> u64 {
    u64::from(units) * 1_000_000_000 / u64::from(rate.max(1))
}

fn nanos(time: Duration) -> u64 {
    time.as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_has_its_depth_at_once_and_its_rate_for_ever() {
        let mut bucket = Bucket::default();
        let mut take = |ms: u64, cost| bucket.take(Duration::from_millis(ms), 10, 50, cost);
        assert_eq!((0..100).filter(|_| take(5000, 1).is_some()).count(), 50);
        assert_eq!((0..1000).filter(|i| take(5000 + 10 * i, 1).is_some()).count(), 99);
        assert_eq!((take(1_000_000, 51), take(1_000_000, 50)), (None, Some(())));
        assert_eq!((take(1_000_000, 0), take(1_000_000, 1)), (Some(()), None));
    }

    #[test]
    fn a_bucket_can_be_charged_more_than_is_in() {
        let mut bucket = Bucket::default();
        bucket.charge(Duration::from_secs(5), 10, 70);
        let mut take = |s: u64| bucket.take(Duration::from_secs(s), 10, 50, 1);
        assert_eq!((take(5), take(6), take(7), take(8)), (None, None, None, Some(())));
    }

    #[test]
    fn never_more_than_the_limit_in_any_second() {
        let mut rate = Rate::default();
        let mut taken = Vec::new();
        // Every 3 ms for 20 s, with a long pause in between.
        for ms in (0..10_000_u64).step_by(3).chain((100_000..110_000).step_by(3)) {
            if rate.take(Duration::from_millis(ms), 25) {
                taken.push(ms);
            }
        }
        for &start in &taken {
            let second = taken.iter().filter(|&&ms| (start..start + 1000).contains(&ms)).count();
            assert!(second <= 25, "{second} from {start} ms on");
        }
        // And not many fewer: the slots cost a tenth at the most.
        assert!(taken.len() >= 20 * 25 * 9 / 10, "{}", taken.len());
    }

    #[test]
    fn limits_can_differ_from_call_to_call() {
        let mut rate = Rate::default();
        assert!((0..9).all(|_| rate.take(Duration::ZERO, 9)));
        assert!(!rate.take(Duration::ZERO, 9));
        assert!(rate.take(Duration::ZERO, 10));
        assert!(!rate.take(Duration::ZERO, 10));
        assert!(!rate.take(Duration::ZERO, 0));
    }
}
