#![no_main]
//! See `fuzz::tools`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::tools::check(data));
