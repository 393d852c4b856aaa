//! libFuzzer's way into `objects::patch`.

#![no_main]

#[path = "../../tests/fuzz/objects.rs"]
mod objects;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| objects::patch(bytes));
