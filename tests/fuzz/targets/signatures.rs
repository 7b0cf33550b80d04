#![no_main]
//! See `fuzz::signatures`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::signatures::check(data));
