//! [`Sketch`]: about how often something was seen of late, in a memory that does not grow with how
//! many different things there are (a count-min sketch with conservative update).
//!
//! What is counted comes as a keyed hash, so nobody outside can choose things that share cells. A
//! count is never too low, but for decay: all counts are halved each [`HALVED_EVERY`].

use std::time::Duration;

/// How often counts are halved.
pub const HALVED_EVERY: Duration = Duration::from_secs(8);

/// Each thing has a cell in each row; the lowest of them is its count.
const ROWS: usize = 4;
/// Cells are halved in this many parts, one after the other, so that no request waits for all.
const PARTS: u32 = 128;

/// Counts of things, by their hashes.
#[derive(Debug)]
pub struct Sketch {
    /// Row by row.
    cells: Box<[u16]>,
    /// The bits that choose a cell within a row.
    bits: u32,
    /// How many parts were halved since the start, rounds included.
    halved: u64,
    /// Nothing was counted since all cells were cleared.
    is_clear: bool,
}

impl Sketch {
    /// With 2^`bits` cells in each of four rows, of two octets each: `bits` from 7 to 16.
    pub fn new(bits: u32) -> Self {
        assert!((7..=16).contains(&bits));
        let cells = vec![0; ROWS << bits].into_boxed_slice();
        Self { cells, bits, halved: 0, is_clear: true }
    }

    /// About how often the thing with this hash was counted.
    pub fn count(&mut self, now: Duration, hash: u64) -> u16 {
        self.decay(now);
        self.places(hash).map(|place| self.cells[place]).into_iter().min().unwrap_or(0)
    }

    /// Counts the thing with this hash once more, and returns its count.
    pub fn add(&mut self, now: Duration, hash: u64) -> u16 {
        let count = self.count(now, hash).saturating_add(1);
        self.is_clear = false;
        for place in self.places(hash) {
            let cell = &mut self.cells[place];
            *cell = (*cell).max(count);
        }
        count
    }

    /// Each row takes bits of its own.
    fn places(&self, hash: u64) -> [usize; ROWS] {
        let mask = (1 << self.bits) - 1;
        std::array::from_fn(|row| {
            let within = (hash >> (16 * row)) as usize & mask;
            (row << self.bits) + within
        })
    }

    fn decay(&mut self, now: Duration) {
        let due = (now.as_micros() * u128::from(PARTS) / HALVED_EVERY.as_micros()) as u64;
        if due <= self.halved {
            return;
        }
        // After a long silence there is nothing left worth keeping.
        if due - self.halved > u64::from(2 * PARTS) && !self.is_clear {
            self.cells.fill(0);
            self.is_clear = true;
        }
        if self.is_clear {
            // Memory that nobody has used is not touched.
            self.halved = due;
        }
        let length = self.cells.len() / PARTS as usize;
        for part in self.halved..due {
            let start = (part % u64::from(PARTS)) as usize * length;
            self.cells[start..start + length].iter_mut().for_each(|cell| *cell /= 2);
        }
        self.halved = due;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handoff::random::SecretHash;

    #[test]
    fn counts_are_never_too_low_and_seldom_too_high() {
        let (mut sketch, hash) = (Sketch::new(12), SecretHash::new([3; 16]));
        let now = Duration::from_secs(1);
        for round in 1..=3 {
            for thing in 0..1000 {
                assert!(sketch.add(now, hash.of_words([thing, 0])) >= round);
            }
        }
        let exact = |&thing: &u64| sketch.count(now, hash.of_words([thing, 0])) == 3;
        let exact = (0..1000).filter(exact).count();
        assert!(exact >= 990, "{exact}");
    }

    #[test]
    fn counts_are_halved_in_time() {
        let (mut sketch, hash) = (Sketch::new(7), 0x0123_4567_89ab_cdef);
        (0..64).for_each(|_| _ = sketch.add(Duration::ZERO, hash));
        for (round, count) in [64, 32, 16].into_iter().enumerate() {
            let now = HALVED_EVERY * round as u32;
            assert_eq!(sketch.count(now, hash), count);
        }
        assert_eq!(sketch.count(HALVED_EVERY * 100, hash), 0);
        (0..100_000).for_each(|_| _ = sketch.add(HALVED_EVERY * 100, hash));
        assert_eq!(sketch.count(HALVED_EVERY * 100, hash), u16::MAX);
    }
}
