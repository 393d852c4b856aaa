//! A seed is a run: two processes that are given the same one do the same, to the microsecond.

use std::process::Command;

fn told(seed: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_sim"))
        .args(["--one", seed, "--rounds", "2", "--members", "3"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_seed_is_replayed_exactly() {
    let first = told("7");
    assert!(first.contains("\"digest\""), "{first}");
    assert_eq!(first, told("7"));
    assert_ne!(first, told("8"));
}
