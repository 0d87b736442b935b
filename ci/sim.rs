//! A simulator: a real server process on simulated time, driven step by step from a seed.

#[path = "judge/mod.rs"]
mod judge;
#[allow(dead_code, reason = "the world around it uses the rest")]
#[path = "sim/process.rs"]
mod process;
#[path = "sim/process_tests.rs"]
mod process_tests;
#[allow(dead_code, unused_imports, reason = "the tests of the storage use the rest")]
#[path = "storage/sim.rs"]
mod sim;
