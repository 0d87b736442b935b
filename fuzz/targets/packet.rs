//! The fuzz target `packet`: what it checks is in `src/packet.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nat64handoff_fuzz::packet(data));
