#![no_main]
//! See `fuzz::certs`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::certs::check(data));
