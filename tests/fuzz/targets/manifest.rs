#![no_main]
//! See `fuzz::manifest`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::manifest::check(data));
