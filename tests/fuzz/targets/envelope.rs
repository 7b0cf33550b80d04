#![no_main]
//! See `fuzz::envelope`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::envelope::check(data));
