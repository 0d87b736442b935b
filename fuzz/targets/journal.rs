//! The fuzz target `journal`: what it checks is in `src/journal`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nat64handoff_fuzz::journal(data));
