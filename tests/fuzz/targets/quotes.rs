#![no_main]
//! See `fuzz::quotes`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::quotes::check(data));
