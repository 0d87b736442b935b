//! [`Random`]: numbers that nobody outside can predict, from a seed that the shell draws.
//!
//! The core draws no randomness of its own: given the same seed and the same requests, it does the
//! same. Mapped ports must be unpredictable (RFC 6056), and the keys of proofs secret, so this is
//! ChaCha.
//!
//! [`SecretHash`] is how whatever a remote can choose is hashed.

use std::hash::BuildHasher;

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

/// A keyed hash: without the key, nobody can choose values that collide.
#[derive(Debug, Clone, Copy)]
pub struct SecretHash {
    key: (u64, u64),
    /// For keys of a fixed length.
    words: [u64; WORDS_MAX + 2],
}

/// The longest keys of a fixed length, in words of 8 octets.
const WORDS_MAX: usize = 4;

impl SecretHash {
    /// A hash with this key, which must be secret.
    pub fn new(key: [u8; 16]) -> Self {
        let [low, high] = [0, 8].map(|at| u64::from_le_bytes(std::array::from_fn(|i| key[at + i])));
        let mut hash = Self { key: (low, high), words: [0; WORDS_MAX + 2] };
        hash.words = std::array::from_fn(|i| hash.of(&[b"word", &[i as u8][..]].concat()));
        hash
    }

    /// The hash of `octets`.
    pub fn of(&self, octets: &[u8]) -> u64 {
        self.build_hasher().hash(octets)
    }

    /// NH hash of `N` words, `N` even and at most 4. Not equal to [`SecretHash::of`] on the same
    /// octets.
    ///
    /// NH is that of UMAC (RFC 4418 section 5.2), with words of 64 bits: without the secret, two
    /// keys that collide are found with a probability of 2^-64. A product with its halves folded
    /// reduces 128 bits to 64.
    #[inline(always)] // A call would pass the words through memory.
    pub fn of_words<const N: usize>(&self, words: [u64; N]) -> u64 {
        const { assert!(N <= WORDS_MAX && N.is_multiple_of(2)) };
        let mut sum = 0_u128;
        for i in (0..N).step_by(2) {
            let [a, b] = [i, i + 1].map(|i| words[i].wrapping_add(self.words[i]));
            sum = sum.wrapping_add(u128::from(a) * u128::from(b));
        }
        let [a, b] =
            [sum as u64 ^ self.words[WORDS_MAX], (sum >> 64) as u64 ^ self.words[WORDS_MAX + 1]];
        let product = u128::from(a) * u128::from(b);
        product as u64 ^ (product >> 64) as u64
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

    /// Keys that differ in few bits, as addresses and ports do, spread over all values of any few
    /// bits of the hash.
    #[test]
    fn hashes_of_words_spread() {
        let hash = SecretHash::new([5; 16]);
        let (mut low, mut high) = ([0_u32; 256], [0_u32; 256]);
        let prefix = 0x2001_0db8_u64 << 32;
        for number in 0..1_u64 << 16 {
            let words = [0x64 << 48, number & 3, prefix, number >> 2];
            let of_words = hash.of_words(words);
            low[of_words as u8 as usize] += 1;
            high[(of_words >> 56) as usize] += 1;
        }
        for counts in [low, high] {
            assert!(counts.iter().all(|&n| (160..360).contains(&n)), "{counts:?}");
        }
        assert_ne!(hash.of_words([1, 2]), SecretHash::new([6; 16]).of_words([1, 2]));
        assert_ne!(hash.of_words([1, 2]), hash.of_words([2, 1]));
    }

    #[test]
    fn below_covers_its_range() {
        let mut random = Random::new([1; 32]);
        let mut seen = [0_u32; 5];
        (0..5000).for_each(|_| seen[random.below(5) as usize] += 1);
        assert!(seen.iter().all(|&n| (800..1200).contains(&n)), "{seen:?}");
    }
}
