#![no_main]
//! See `fuzz::bundle`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::bundle::check(data));
