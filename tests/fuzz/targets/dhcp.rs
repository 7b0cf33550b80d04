#![no_main]
//! See `fuzz::dhcp`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::dhcp::check(data));
