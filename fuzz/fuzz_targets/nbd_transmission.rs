//! See `moorline_nbd::fuzzing::fuzz_transmission`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| moorline_nbd::fuzzing::fuzz_transmission(data));
