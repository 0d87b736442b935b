//! The fuzz target `translate`: what it checks is in `src/translate.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nat64handoff_fuzz::translate(data));
