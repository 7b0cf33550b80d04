#![no_main]
//! See `fuzz::saved`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::saved::check(data));
