#![no_main]
//! See `fuzz::answers`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::answers::check(data));
