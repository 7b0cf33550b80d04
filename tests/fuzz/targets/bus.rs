#![no_main]
//! See `fuzz::bus`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::bus::check(data));
