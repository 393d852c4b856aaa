//! The bugs that `make mutants` plants are patches against this tree, and they must go on to apply to it:
//! together, for they are built into one program.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What at least is planted: a hole that every one of these fell through in some store, once.
const NAMES: [&str; 18] = [
    "acknowledged-before-sync",
    "amnesia-not-written-down",
    "damaged-log-cut-short",
    "event-again-after-resume",
    "event-dropped-at-compaction",
    "forwarded-write-twice",
    "future-watch-shows-the-past",
    "half-a-transaction-told",
    "id-reused-after-wipe",
    "lease-read-under-skew",
    "progress-ahead",
    "read-without-quorum",
    "revision-from-rows",
    "snapshot-keeps-old-history",
    "snapshot-leaves-old-keys",
    "stale-read-after-pause",
    "unknown-called-refused",
    "vote-not-persisted",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

fn patch(name: &str) -> PathBuf {
    root().join("tests/faults/mutants").join(name).with_extension("patch")
}

#[test]
fn all_planted_bugs_apply_together() {
    let patches = NAMES.iter().chain([&"switch"]).map(|name| patch(name));
    let output = Command::new("git")
        .current_dir(root())
        .args(["apply", "--check"])
        .args(patches)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn each_planted_bug_says_what_it_is_and_asks_for_itself() {
    for name in NAMES {
        let text = std::fs::read_to_string(patch(name)).unwrap();
        assert!(text.contains(&format!("planted(\"{name}\")")), "{name}");
        assert!(text.lines().next().unwrap().ends_with('.'), "{name}");
    }
}
