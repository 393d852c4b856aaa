//! Figures of runs, one line each, only ever added to; and the page that is made of them.
//!
//! Never: a figure that was typed. What the page says is the sum of the ledger's lines.

mod page;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use page::page;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Line {
    /// Real processes, broken and judged.
    Faults {
        target: String,
        commit: String,
        seed: u64,
        members: u32,
        seconds: u64,
        faults: usize,
        operations: usize,
        unknown: usize,
        events: usize,
        violations: usize,
        /// How often each fault was begun.
        #[serde(default)]
        kinds: BTreeMap<String, usize>,
        /// Members that ended by themselves, told to by a fault or not.
        #[serde(default)]
        fell: usize,
    },
    /// Whole clusters on simulated time.
    Sim {
        commit: String,
        first_seed: u64,
        seeds: u64,
        simulated_seconds: u64,
        real_seconds: u64,
        /// Of processors, together. The first line counts what its processes waited for one, too.
        #[serde(default)]
        busy_seconds: u64,
        faults: u64,
        power_cuts: u64,
        #[serde(default)]
        damages: u64,
        #[serde(default)]
        damages_known: u64,
        #[serde(default)]
        failed_disks: u64,
        #[serde(default)]
        changes: u64,
        operations: u64,
        violations: u64,
    },
    /// The time without writes after the leader was lost.
    Gap {
        target: String,
        commit: String,
        loss: String,
        members: u32,
        rounds: usize,
        p50_ms: u64,
        p99_ms: u64,
        max_ms: u64,
    },
    /// A planted bug, and what found it.
    Mutant {
        name: String,
        commit: String,
        caught_by: String,
        /// The promise whose breach gave it away.
        promise: String,
        /// Seeds until then.
        seeds: u64,
        seconds: u64,
        caught: bool,
    },
    /// One call to the disk after another fails, under a member that is written to.
    Sweep {
        target: String,
        commit: String,
        error: String,
        sites: usize,
        stopped: usize,
        violations: usize,
    },
}

/// The tree that is measured, as git names it; with a mark where anything but the ledger was changed since.
#[must_use]
pub fn commit() -> String {
    let git = |arguments: &[&str]| std::process::Command::new("git").args(arguments).output();
    let described = git(&["describe", "--always", "--abbrev=10"]);
    let Some(described) = described.ok().filter(|output| output.status.success()) else {
        return "unknown".to_owned();
    };
    let commit = String::from_utf8_lossy(&described.stdout).trim().to_owned();
    let but = [":(top,exclude)tests/ledger.jsonl", ":(top,exclude)docs/ledger.md"];
    let changed = git(&["diff", "--quiet", "HEAD", "--", ":/", but[0], but[1]]);
    match changed {
        Ok(output) if output.status.success() => commit,
        _ => commit + "-dirty",
    }
}

pub fn add(path: &Path, line: &Line) -> Result<(), String> {
    let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let mut text = serde_json::to_string(line).map_err(|error| wrong(&error))?;
    text.push('\n');
    let file = OpenOptions::new().create(true).append(true).open(path);
    let mut file = file.map_err(|error| wrong(&error))?;
    file.write_all(text.as_bytes()).map_err(|error| wrong(&error))
}

pub fn read(path: &Path) -> Result<Vec<Line>, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text = fs::read_to_string(path).map_err(|error| wrong(&error))?;
    text.lines().map(|line| serde_json::from_str(line).map_err(|error| wrong(&error))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_is_read_and_summed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.jsonl");
        let run = |seconds| Line::Faults {
            target: "kontiki".into(),
            commit: "abc".into(),
            seed: 1,
            members: 3,
            seconds,
            faults: 10,
            operations: 1000,
            unknown: 5,
            events: 700,
            violations: 0,
            kinds: BTreeMap::from([("kill".to_owned(), 4)]),
            fell: 0,
        };
        let caught = |caught| Line::Mutant {
            name: "a".into(),
            commit: "abc".into(),
            caught_by: "sim".into(),
            promise: "nothing happens twice".into(),
            seeds: 2,
            seconds: 3,
            caught,
        };
        for line in [run(60), caught(false), run(120), caught(true)] {
            add(&path, &line).unwrap();
        }
        let page = page(&read(&path).unwrap());
        assert!(
            page.contains("| kontiki | 3 | 2 | 3.0 | 20 | 2000 | 10 | 1400 | 0 | 0 |"),
            "{page}"
        );
        assert!(page.contains("| a | yes | sim | nothing happens twice | 2 | 3 s |"), "{page}");
        assert!(page.contains("| kill | 8 | 0 |") && !page.contains("**no**"), "{page}");
    }

    #[test]
    fn a_fault_is_charged_with_what_was_violated_in_its_own_runs() {
        let run = |kind: &str, count, violations| Line::Faults {
            target: "kontiki".into(),
            commit: "abc".into(),
            seed: 1,
            members: 3,
            seconds: 60,
            faults: count,
            operations: 1000,
            unknown: 5,
            events: 700,
            violations,
            kinds: BTreeMap::from([(kind.to_owned(), count)]),
            fell: 0,
        };
        let cuts = [run("power-cut", 9, 0), run("power-cut-all", 5, 2), run("power-cut", 7, 0)];
        let page = page(&[&cuts[..], &[run("damage", 3, 0)]].concat());
        let said = "21 under real processes, 2 violations in these runs, none in the last 7";
        assert!(page.contains(said), "{page}");
        assert!(page.contains("3 under real processes, 0 violations"), "{page}");
    }
}
