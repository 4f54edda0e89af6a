//! See `moorline_wal::fuzz::fuzz_frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| moorline_wal::fuzz::fuzz_frame(data));
