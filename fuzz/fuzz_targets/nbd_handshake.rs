//! See `moorline_nbd::fuzzing::fuzz_handshake`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| moorline_nbd::fuzzing::fuzz_handshake(data));
