#![no_main]
//! See `fuzz::units`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::units::check(data));
