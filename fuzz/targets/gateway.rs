//! The fuzz target `gateway`: what it checks is in `src/gateway.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nat64handoff_fuzz::gateway(data));
