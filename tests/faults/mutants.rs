//! The bugs that `make mutants` plants are patches against this tree, and they must go on to apply to it:
//! together, for they are built into one program.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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
    // As one patch: each by itself would be held against the tree without the others.
    let all = NAMES.iter().chain([&"switch"]).map(|name| std::fs::read(patch(name)).unwrap());
    let all: Vec<u8> = all.flatten().collect();
    let mut git = Command::new("git")
        .current_dir(root())
        .args(["apply", "--check", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    git.stdin.take().unwrap().write_all(&all).unwrap();
    let output = git.wait_with_output().unwrap();
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
