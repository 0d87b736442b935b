//! The fuzz target `payload`: what it checks is in `src/payload.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nat64handoff_fuzz::payload(data));
