#![no_main]
//! See `fuzz::qmp`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::qmp::check(data));
