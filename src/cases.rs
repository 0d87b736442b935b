//! Which cases the property tests try.

use proptest::test_runner::{Config, RngSeed};

/// The same 512 each time, so that a checkout gets the same verdict again; as many as
/// `PROPTEST_CASES` says, and others for each `PROPTEST_RNG_SEED`, a number.
pub fn config() -> Config {
    let said = Config::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { said.cases } else { 512 };
    let rng_seed = match said.rng_seed {
        RngSeed::Random => RngSeed::Fixed(64),
        fixed => fixed,
    };
    Config {
        cases,
        rng_seed,
        max_global_rejects: cases.saturating_mul(16),
        failure_persistence: None,
        ..said
    }
}
