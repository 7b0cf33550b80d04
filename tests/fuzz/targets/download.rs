#![no_main]
//! See `fuzz::download`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::download::check(data));
