#![no_main]
//! See `fuzz::access`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::access::check(data));
