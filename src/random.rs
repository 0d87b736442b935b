//! [`Random`]: numbers that nobody outside can predict, from a seed that the shell draws.
//!
//! The core draws no randomness of its own: given the same seed and the same requests, it does the same.
//! Mapped ports must be unpredictable (RFC 6056), and the keys of proofs secret, so this is ChaCha.
//!
//! [`SecretHash`] is how whatever a remote can choose is hashed.

use std::hash::{BuildHasher, Hasher};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use siphasher::sip::SipHasher13;

/// The octets of a seed.
pub const SEED_LENGTH: usize = 32;

/// A stream of unpredictable numbers.
#[derive(Debug, Clone)]
pub struct Random(ChaCha8Rng);

impl Random {
    /// The stream that belongs to `seed`.
    pub fn new(seed: [u8; SEED_LENGTH]) -> Self {
        Self(ChaCha8Rng::from_seed(seed))
    }

    /// A number below `bound`, each as likely as any other to within `bound` / 2^32.
    pub fn below(&mut self, bound: u32) -> u32 {
        ((u64::from(self.0.next_u32()) * u64::from(bound)) >> 32) as u32
    }

    /// Sixteen octets: a key.
    pub fn key(&mut self) -> [u8; 16] {
        let mut key = [0; 16];
        self.0.fill_bytes(&mut key);
        key
    }
}

/// A keyed hash: who does not know the key cannot make keys that collide.
#[derive(Debug, Clone, Copy)]
pub struct SecretHash {
    key: (u64, u64),
}

impl SecretHash {
    /// With this key, which must be secret.
    pub fn new(key: [u8; 16]) -> Self {
        let [low, high] = [0, 8].map(|at| u64::from_le_bytes(std::array::from_fn(|i| key[at + i])));
        Self { key: (low, high) }
    }

    /// The hash of `octets`.
    pub fn of(&self, octets: &[u8]) -> u64 {
        self.build_hasher().hash(octets)
    }

    /// The hash of a key of a fixed length. That of its octets is another.
    pub fn of_words<const N: usize>(&self, words: [u64; N]) -> u64 {
        let mut hasher = self.build_hasher();
        words.into_iter().for_each(|word| hasher.write_u64(word));
        hasher.finish()
    }
}

impl BuildHasher for SecretHash {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.key.0, self.key.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_same_numbers() {
        let (mut a, mut b) = (Random::new([7; 32]), Random::new([7; 32]));
        assert_eq!(a.key(), b.key());
        assert!((0..1000).all(|_| a.below(10) == b.below(10)));
        assert_ne!(a.key(), Random::new([8; 32]).key());
    }

    #[test]
    fn below_covers_its_range() {
        let mut random = Random::new([1; 32]);
        let mut seen = [0_u32; 5];
        (0..5000).for_each(|_| seen[random.below(5) as usize] += 1);
        assert!(seen.iter().all(|&n| (800..1200).contains(&n)), "{seen:?}");
    }
}
