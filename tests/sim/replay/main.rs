//! A seed is a run: two processes that are given the same one do the same, to the microsecond.

use std::process::Command;

/// What a run came to, but for what it cost.
fn told(seed: &str) -> serde_json::Value {
    let output = Command::new(env!("CARGO_BIN_EXE_sim"))
        .args(["--one", seed, "--rounds", "2", "--members", "3"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    told["took"].take();
    told
}

#[test]
fn a_seed_is_replayed_exactly() {
    let first = told("7");
    assert!(first["digest"].is_u64() && first["operations"].as_u64() > Some(0), "{first}");
    assert_eq!(first, told("7"));
    assert_ne!(first, told("8"));
}
