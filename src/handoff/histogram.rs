//! [`Histogram`]: how often a number was how large, by powers of two. One thread counts, any thread
//! reads.

use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets, the last of which has all that are larger.
pub const BUCKETS: usize = 32;

/// Counts numbers by their size: bucket `i` has those up to 2^i that no bucket before it has.
#[derive(Debug)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: [const { AtomicU64::new(0) }; BUCKETS], sum: AtomicU64::new(0) }
    }
}

/// What a [`Histogram`] had counted, or several together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HistogramCounts {
    pub buckets: [u64; BUCKETS],
    pub sum: u64,
}

impl Histogram {
    /// Counts a number. One writer, so a plain load and store suffice.
    #[inline]
    pub fn count(&self, number: u64) {
        let bucket = &self.buckets[bucket_of(number)];
        bucket.store(bucket.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        self.sum.store(self.sum.load(Ordering::Relaxed).wrapping_add(number), Ordering::Relaxed);
    }
}

fn bucket_of(number: u64) -> usize {
    let bits = u64::BITS - number.saturating_sub(1).leading_zeros();
    (bits as usize).min(BUCKETS - 1)
}

impl HistogramCounts {
    /// Adds what `histogram` has counted.
    pub fn add(&mut self, histogram: &Histogram) {
        for (count, bucket) in self.buckets.iter_mut().zip(&histogram.buckets) {
            *count += bucket.load(Ordering::Relaxed);
        }
        self.sum = self.sum.wrapping_add(histogram.sum.load(Ordering::Relaxed));
    }

    /// How many numbers were counted.
    pub fn total(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The least power of two that at least this part of the numbers, 0 to 1, does not exceed.
    pub fn quantile(&self, part: f64) -> Option<u64> {
        let total = self.total();
        let wanted = (total as f64 * part).ceil().max(1.0) as u64;
        let mut seen = 0;
        let found = self.buckets.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        (total > 0).then(|| 1 << found.unwrap_or(BUCKETS - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_in_the_bucket_of_their_power_of_two() {
        let numbers = [0, 1, 2, 3, 4, 5, 8, 9, 1 << 31, u64::MAX];
        assert_eq!(numbers.map(bucket_of), [0, 0, 1, 2, 2, 3, 3, 4, 31, 31]);
        let histogram = Histogram::default();
        [1, 2, 3, 4, 100].into_iter().for_each(|number| histogram.count(number));
        let mut counts = HistogramCounts::default();
        counts.add(&histogram);
        counts.add(&histogram);
        assert_eq!((counts.total(), counts.sum), (10, 220));
        assert_eq!(counts.buckets[..8], [2, 2, 4, 0, 0, 0, 0, 2]);
        let quantiles = [0.0, 0.2, 0.5, 0.8, 0.9, 1.0].map(|part| counts.quantile(part));
        assert_eq!(quantiles, [1, 1, 4, 4, 128, 128].map(Some));
        assert_eq!(HistogramCounts::default().quantile(0.5), None);
    }
}
