//! Figures of runs, one line each, only ever added to; and the table that is made of them.
//!
//! Never: a figure that was typed. What the table says is the sum of the ledger's lines.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

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
    },
    /// Whole clusters on simulated time.
    Sim {
        commit: String,
        first_seed: u64,
        seeds: u64,
        simulated_seconds: u64,
        real_seconds: u64,
        faults: u64,
        power_cuts: u64,
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
    Mutant { name: String, commit: String, caught_by: String, seconds: u64, caught: bool },
}

/// The tree that is measured, as git names it; with a mark where it was changed since.
#[must_use]
pub fn commit() -> String {
    let described = std::process::Command::new("git")
        .args(["describe", "--always", "--dirty", "--abbrev=10"])
        .output();
    match described {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        _ => "unknown".to_owned(),
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

/// The page of the ledger.
#[must_use]
pub fn page(lines: &[Line]) -> String {
    let mut page = String::from(
        "# What was tried on the store, in figures\n\n\
         Made from `tests/ledger.jsonl` by `make ledger`; no figure here was typed. `make \
         faults`, `make sim` \
         and `make mutants` add to it with `--ledger`.\n",
    );
    chaos(lines, &mut page);
    simulated(lines, &mut page);
    gaps(lines, &mut page);
    mutants(lines, &mut page);
    page
}

fn chaos(lines: &[Line], page: &mut String) {
    let mut rows: BTreeMap<(&str, u32), [u64; 7]> = BTreeMap::new();
    for line in lines {
        if let Line::Faults {
            target,
            members,
            seconds,
            faults,
            operations,
            unknown,
            events,
            violations,
            ..
        } = line
        {
            let row = rows.entry((target, *members)).or_default();
            let counts = [*faults, *operations, *unknown, *events, *violations];
            row[0] += 1;
            row[1] += seconds;
            for (sum, count) in row[2..].iter_mut().zip(counts) {
                *sum += count as u64;
            }
        }
    }
    page.push_str(
        "\n## Real processes under faults\n\n\
         | target | members | runs | minutes | faults | operations judged | not answered | \
         events | violations |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for ((target, members), [runs, seconds, faults, operations, unknown, events, violations]) in
        rows
    {
        let minutes = seconds as f64 / 60.0;
        let _ = writeln!(
            page,
            "| {target} | {members} | {runs} | {minutes:.1} | {faults} | {operations} | \
             {unknown} | {events} | \
             {violations} |"
        );
    }
}

fn simulated(lines: &[Line], page: &mut String) {
    let mut sums = [0; 7];
    for line in lines {
        if let Line::Sim {
            seeds,
            simulated_seconds,
            real_seconds,
            faults,
            power_cuts,
            operations,
            violations,
            ..
        } = line
        {
            let counts = [
                *seeds,
                *simulated_seconds,
                *real_seconds,
                *faults,
                *power_cuts,
                *operations,
                *violations,
            ];
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
    }
    let [seeds, simulated, real, faults, cuts, operations, violations] = sums;
    let hours = simulated as f64 / 3600.0;
    let ratio = simulated as f64 / real.max(1) as f64;
    let _ = write!(
        page,
        "\n## Simulated clusters\n\n\
         | seeds | simulated hours | simulated over real time | faults | power cuts | \
         operations judged | violations |\n\
         |---|---|---|---|---|---|---|\n\
         | {seeds} | {hours:.1} | {ratio:.0} | {faults} | {cuts} | {operations} | {violations} \
         |\n"
    );
}

fn gaps(lines: &[Line], page: &mut String) {
    page.push_str(
        "\n## Time without writes after the leader is lost\n\n\
         Both with the timers they have by themselves, under one driver on one machine.\n\n\
         | target | loss | members | rounds | p50 | p99 | longest | commit \
         |\n|---|---|---|---|---|---|---|---|\n",
    );
    for line in lines {
        if let Line::Gap { target, commit, loss, members, rounds, p50_ms, p99_ms, max_ms } = line {
            let _ = writeln!(
                page,
                "| {target} | {loss} | {members} | {rounds} | {p50_ms} ms | {p99_ms} ms | \
                 {max_ms} ms | {commit} |"
            );
        }
    }
}

fn mutants(lines: &[Line], page: &mut String) {
    // The newest line of each counts: a suite that stops catching one is to be seen.
    let mut newest: BTreeMap<&str, &Line> = BTreeMap::new();
    for line in lines {
        if let Line::Mutant { name, .. } = line {
            newest.insert(name, line);
        }
    }
    page.push_str("\n## Planted bugs\n\n| bug | caught | by | after |\n|---|---|---|---|\n");
    for (name, line) in newest {
        if let Line::Mutant { caught_by, seconds, caught, .. } = line {
            let caught = if *caught { "yes" } else { "**no**" };
            let _ = writeln!(page, "| {name} | {caught} | {caught_by} | {seconds} s |");
        }
    }
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
        };
        let caught = |caught| Line::Mutant {
            name: "a".into(),
            commit: "abc".into(),
            caught_by: "sim".into(),
            seconds: 3,
            caught,
        };
        for line in [run(60), caught(false), run(120), caught(true)] {
            add(&path, &line).unwrap();
        }
        let page = page(&read(&path).unwrap());
        assert!(page.contains("| kontiki | 3 | 2 | 3.0 | 20 | 2000 | 10 | 1400 | 0 |"), "{page}");
        assert!(page.contains("| a | yes | sim | 3 s |") && !page.contains("**no**"), "{page}");
    }
}
