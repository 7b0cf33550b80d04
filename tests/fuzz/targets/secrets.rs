#![no_main]
//! See `fuzz::secrets`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::secrets::check(data));
