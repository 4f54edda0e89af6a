//! See `moorline_wire::fuzz::fuzz_preamble`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| moorline_wire::fuzz::fuzz_preamble(data));
