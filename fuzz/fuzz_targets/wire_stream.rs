//! See `moorline_wire::fuzz::fuzz_stream`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| moorline_wire::fuzz::fuzz_stream(data));
