#![no_main]
//! See `fuzz::images`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::images::check(data));
