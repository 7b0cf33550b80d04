#![no_main]
//! See `fuzz::leases`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::leases::check(data));
