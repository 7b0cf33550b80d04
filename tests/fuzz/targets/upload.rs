#![no_main]
//! See `fuzz::upload`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::upload::check(data));
