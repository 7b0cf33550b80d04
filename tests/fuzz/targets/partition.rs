#![no_main]
//! See `fuzz::partition`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::partition::check(data));
