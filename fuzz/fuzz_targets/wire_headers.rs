//! See `moorline_wire::fuzz::fuzz_headers`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| moorline_wire::fuzz::fuzz_headers(data));
