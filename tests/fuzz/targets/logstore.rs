#![no_main]
//! See `fuzz::logstore`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::logstore::check(data));
