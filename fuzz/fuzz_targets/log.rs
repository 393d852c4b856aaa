//! libFuzzer's way into `targets::log_segment`.

#![no_main]

#[path = "../../tests/fuzz/targets.rs"]
#[allow(dead_code, reason = "each program is the way into one of them")]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::log_segment(bytes));
