//! The fuzz target `server`: what it checks is in `src/server`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nat64handoff_fuzz::server(data));
