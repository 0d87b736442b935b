//! The fuzz target `geneve`: what it checks is in `src/geneve.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nat64handoff_fuzz::geneve(data));
