//! What became of the requests of a load: sent, answered, lost; how long answers took.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Longer latencies count as this one, in nanoseconds.
const LATENCY_MAX: u64 = 10_000_000_000;

/// What became of the requests of a load.
#[derive(Debug, Clone)]
pub struct Tally {
    pub sent: u64,
    /// By NAT64s that the server does not know. In none of the other numbers.
    pub sent_by_strangers: u64,
    pub answered: u64,
    pub lost: u64,
    /// Answered after they had been given up. Not among the lost.
    pub late: u64,
    /// Not sent, because the load was too slow.
    pub unsent: u64,
    /// Answered, but not in `latency`: an open loop was not running when it should have read these.
    pub disturbed: u64,
    pub elapsed: Duration,
    /// In nanoseconds.
    pub latency: Histogram<u64>,
    /// Counts for each [`SLICE`], by the time of sending.
    pub slices: Vec<Slice>,
}

/// A part of an open loop's time.
pub const SLICE: Duration = Duration::from_millis(5);

/// What became of the requests that were sent in a [`SLICE`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Slice {
    pub sent: u64,
    pub answered: u64,
    /// In nanoseconds.
    pub slowest: u64,
}

impl Tally {
    pub fn new() -> Tally {
        let latency = Histogram::new_with_bounds(1, LATENCY_MAX, 2).expect("bounds");
        Tally {
            sent: 0,
            sent_by_strangers: 0,
            answered: 0,
            lost: 0,
            late: 0,
            unsent: 0,
            disturbed: 0,
            elapsed: Duration::ZERO,
            latency,
            slices: Vec::new(),
        }
    }

    /// Of a part of an open loop that takes `time`.
    pub fn of_slices(time: Duration) -> Tally {
        let slices = vec![Slice::default(); time.as_nanos().div_ceil(SLICE.as_nanos()) as usize];
        Tally { elapsed: time, slices, ..Tally::new() }
    }

    /// Answers a second.
    pub fn rate(&self) -> f64 {
        self.answered as f64 / self.elapsed.as_secs_f64()
    }

    /// In microseconds.
    pub fn quantile(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1e3
    }

    /// Counts an answer and its latency.
    pub fn count(&mut self, nanoseconds: u64) {
        self.answered += 1;
        self.latency.saturating_record(nanoseconds.max(1));
    }
}
