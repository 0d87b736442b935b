//! Counters of all reactors together, once a second: for rates, and what the last hour was like.

use std::collections::VecDeque;
use std::time::Duration;

use crate::handoff::change::{Now, Timestamp};
use crate::handoff::stats::{Counter, DropReason};
use crate::programs::report::{HourReport, rfc3339};
use crate::programs::serve::admin::AdminShared;

/// Rates are over this time, or since the start.
const RATES_OVER: Duration = Duration::from_secs(10);
/// Samples of seconds: what rates are over, and one more.
const RECENT_MAX: usize = 11;
/// Samples of the last hour, one each so often.
pub const HOUR_EVERY: Duration = Duration::from_secs(10);
pub const HOUR_MAX: usize = 360;

const _: () = assert!(HOUR_EVERY.as_secs() as usize * HOUR_MAX == 3600);

/// All counters at one time.
#[derive(Debug, Clone)]
pub struct Sample {
    pub at: Duration,
    pub wall: Timestamp,
    pub counters: [u64; Counter::ALL.len()],
    pub drops: [u64; DropReason::ALL.len()],
    pub nat64s: u64,
    pub entries: u64,
}

/// The last ones.
#[derive(Debug, Default)]
pub struct Samples {
    recent: VecDeque<Sample>,
    hour: VecDeque<Sample>,
}

impl Sample {
    /// What is counted now.
    pub fn take(shared: &AdminShared, now: Now) -> Self {
        let all = &shared.stats;
        let counter = |at: usize| all.iter().map(|stats| stats.get(Counter::ALL[at])).sum();
        let drops = |at: usize| all.iter().map(|stats| stats.dropped(DropReason::ALL[at])).sum();
        Self {
            at: now.monotonic,
            wall: now.wall,
            counters: std::array::from_fn(counter),
            drops: std::array::from_fn(drops),
            nat64s: shared.budget.nat64s() as u64,
            entries: shared.budget.entries() as u64,
        }
    }

    pub fn counter(&self, counter: Counter) -> u64 {
        self.counters[counter as usize]
    }

    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }
}

impl Samples {
    pub fn add(&mut self, sample: Sample) {
        let is_due = self.hour.back().is_none_or(|last| sample.at >= last.at + HOUR_EVERY);
        if is_due {
            push(&mut self.hour, HOUR_MAX, sample.clone());
        }
        push(&mut self.recent, RECENT_MAX, sample);
    }

    /// The sample that rates up to `now` are measured from.
    pub fn before(&self, now: Duration) -> Option<&Sample> {
        let is_within = |sample: &&Sample| now.saturating_sub(sample.at) <= RATES_OVER;
        self.recent.iter().find(is_within).filter(|sample| sample.at < now)
    }

    /// The last hour, with the present.
    pub fn hour(&self) -> HourReport {
        let mut report = HourReport::default();
        let newest = self.recent.back();
        let newest =
            newest.filter(|newest| self.hour.back().is_some_and(|last| last.at < newest.at));
        let mut before: Option<&Sample> = None;
        for sample in self.hour.iter().chain(newest) {
            let over = before.map_or(Duration::ZERO, |before| sample.at.saturating_sub(before.at));
            let risen = |of: fn(&Sample) -> u64| {
                let risen = before.map_or(0, |before| of(sample).saturating_sub(of(before)));
                if over.is_zero() { 0.0 } else { risen as f64 / over.as_secs_f64() }
            };
            report.times.push(rfc3339(sample.wall));
            report.nat64s.push(sample.nat64s);
            report.entries.push(sample.entries);
            report.requests.push(risen(|sample| sample.counter(Counter::Datagrams)));
            report.created.push(risen(|sample| sample.counter(Counter::Created)));
            report.drops.push(risen(|sample| sample.drops.iter().sum()));
            before = Some(sample);
        }
        report
    }
}

fn push(samples: &mut VecDeque<Sample>, most: usize, sample: Sample) {
    if samples.len() == most {
        samples.pop_front();
    }
    samples.push_back(sample);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_over_ten_seconds_and_an_hour_is_kept() {
        let sample = |second: u64| Sample {
            at: Duration::from_secs(second),
            wall: Timestamp::default(),
            counters: [second; Counter::ALL.len()],
            drops: [0; DropReason::ALL.len()],
            nat64s: 0,
            entries: 0,
        };
        let mut samples = Samples::default();
        assert!(samples.before(Duration::from_secs(1)).is_none());
        samples.add(sample(0));
        assert!(samples.before(Duration::ZERO).is_none(), "no time has passed");
        assert_eq!(samples.before(Duration::from_millis(10)).unwrap().at, Duration::ZERO);
        (1..10_000).for_each(|second| samples.add(sample(second)));
        let before = samples.before(Duration::from_millis(9_999_500)).unwrap();
        assert_eq!(before.counter(Counter::Created), 9990);
        assert!(samples.before(Duration::from_secs(20_000)).is_none());
        let hour = samples.hour();
        assert_eq!((hour.times.len(), hour.requests.len()), (HOUR_MAX + 1, HOUR_MAX + 1));
        assert_eq!((hour.requests[0], hour.requests[1], hour.created[HOUR_MAX]), (0.0, 1.0, 1.0));
        assert_eq!(samples.recent.len(), RECENT_MAX);
    }
}
