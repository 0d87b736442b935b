//! Random numbers whose seed is printed.

/// xorshift64*.
pub struct Random(u64);

impl Random {
    /// Prints the seed: cargo shows it when the test fails. Set PROTOCOL_SEED to repeat a run.
    pub fn new(test: &str) -> Random {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let seed = match std::env::var("PROTOCOL_SEED") {
            Ok(seed) => seed.parse().unwrap(),
            Err(_) => (now.as_nanos() as u64) | 1,
        };
        println!("{test}: PROTOCOL_SEED={seed}");
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Less than the limit.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 16) as usize % limit
    }

    pub fn octets(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| (self.next() >> 32) as u8).collect()
    }
}
