//! Random choices. What is decided for one purpose is drawn from a stream of its own, so that
//! another purpose less leaves it as it is.

use std::time::Duration;

use nat64handoff::handoff::random::Random;

/// A stream of choices.
pub struct Dice(Random);

impl Dice {
    /// The stream of that number of a seed.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(&stream.to_le_bytes());
        Self(Random::new(key))
    }

    /// Less than the limit, or 0.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0.below((limit as u32).max(1)) as usize
    }

    /// With this probability, in parts of 10,000.
    pub fn chance(&mut self, parts: u32) -> bool {
        self.0.below(10_000) < parts
    }

    /// At least `from`, less than `to`.
    pub fn time(&mut self, from: Duration, to: Duration) -> Duration {
        let micros = (to.saturating_sub(from).as_micros() as u32).max(1);
        from + Duration::from_micros(u64::from(self.0.below(micros)))
    }

    /// About the mean: from nothing to four times as long, short times the more often.
    pub fn around(&mut self, mean: Duration) -> Duration {
        let parts = (1 + self.below(1000)) * (1 + self.below(1000));
        mean.saturating_mul(parts as u32 / 250) / 1000
    }

    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    /// The seed of what the library draws.
    pub fn seed(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        seed[..16].copy_from_slice(&self.0.key());
        seed[16..].copy_from_slice(&self.0.key());
        seed
    }

    /// What the library wants to draw from.
    pub fn random(&mut self) -> &mut Random {
        &mut self.0
    }
}
