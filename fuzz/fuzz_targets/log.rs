//! libFuzzer's way into `targets::log_segment`.

#![no_main]

#[path = "../../tests/fuzz/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::log_segment(bytes));
