//! Random choices whose seed is printed.

/// Random choices (splitmix64).
pub struct Dice(u64);

impl Dice {
    /// Prints the seed: cargo shows it when the test fails.
    pub fn new(test: &str) -> Dice {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let seed = match std::env::var("NAT64HANDOFF_SEED") {
            Ok(seed) => seed.parse().expect("NAT64HANDOFF_SEED is a number"),
            Err(_) => now.as_nanos() as u64,
        };
        println!("{test}: NAT64HANDOFF_SEED={seed}");
        Dice(seed)
    }

    /// Another one, that depends on this one's seed.
    pub fn fork(&mut self) -> Dice {
        Dice(self.next())
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Less than the limit.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 16) as usize % limit
    }

    pub fn range(&mut self, from: u64, to: u64) -> u64 {
        from + self.below((to - from) as usize) as u64
    }

    pub fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }
}
