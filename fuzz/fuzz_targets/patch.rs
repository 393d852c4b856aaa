//! libFuzzer's way into `objects::patch`.

#![no_main]

#[path = "../../tests/fuzz/objects.rs"]
#[allow(dead_code, reason = "each program is the way into one of them")]
mod objects;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| objects::patch(bytes));
