#![no_main]
//! See `fuzz::logs`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::logs::check(data));
