//! The page: what was tried beside what was aimed at, then the sums it rests on.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::Line;

const HEAD: &str = "# What was tried on the store, in figures\n\n\
    Made from `tests/ledger.jsonl` by `make ledger`; no figure here was typed. `make faults`, \
    `make sim` and `make mutants` add to it with `--ledger`. How each is done is in \
    [faults.md](faults.md); what each violation was, and what became of it, in \
    [tests/README.md](../tests/README.md).\n";

#[must_use]
pub fn page(lines: &[Line]) -> String {
    let mut page = HEAD.to_owned();
    aims(lines, &mut page);
    chaos(lines, &mut page);
    kinds(lines, &mut page);
    simulated(lines, &mut page);
    gaps(lines, &mut page);
    sweeps(lines, &mut page);
    mutants(lines, &mut page);
    page
}

/// All runs of real processes of one target, summed.
#[derive(Default)]
struct Chaos {
    runs: u64,
    seconds: u64,
    faults: u64,
    operations: u64,
    unknown: u64,
    events: u64,
    violations: u64,
    fell: u64,
    kinds: BTreeMap<String, u64>,
}

impl Chaos {
    /// Of runs with this target and, if any is named, so many members.
    fn of(lines: &[Line], wanted: &str, size: Option<u32>) -> Chaos {
        let mut sum = Chaos::default();
        for line in lines {
            let Line::Faults {
                target,
                members,
                seconds,
                faults,
                operations,
                unknown,
                events,
                violations,
                kinds,
                fell,
                ..
            } = line
            else {
                continue;
            };
            if target != wanted || size.is_some_and(|size| size != *members) {
                continue;
            }
            sum.runs += 1;
            sum.seconds += seconds;
            sum.faults += *faults as u64;
            sum.operations += *operations as u64;
            sum.unknown += *unknown as u64;
            sum.events += *events as u64;
            sum.violations += *violations as u64;
            sum.fell += *fell as u64;
            for (kind, count) in kinds {
                *sum.kinds.entry(kind.clone()).or_default() += *count as u64;
            }
        }
        sum
    }
}

/// All simulated runs, summed.
#[derive(Default)]
struct Simulated {
    seeds: u64,
    simulated: u64,
    real: u64,
    busy: u64,
    faults: u64,
    cuts: u64,
    damages: u64,
    known: u64,
    failed_disks: u64,
    changes: u64,
    operations: u64,
    violations: u64,
}

impl Simulated {
    fn of(lines: &[Line]) -> Simulated {
        let mut sum = Simulated::default();
        for line in lines {
            let Line::Sim {
                seeds,
                simulated_seconds,
                real_seconds,
                busy_seconds,
                faults,
                power_cuts,
                damages,
                damages_known,
                failed_disks,
                changes,
                operations,
                violations,
                ..
            } = line
            else {
                continue;
            };
            sum.seeds += seeds;
            sum.simulated += simulated_seconds;
            sum.real += real_seconds;
            sum.busy += busy_seconds;
            sum.faults += faults;
            sum.cuts += power_cuts;
            sum.damages += damages;
            sum.known += damages_known;
            sum.failed_disks += failed_disks;
            sum.changes += changes;
            sum.operations += operations;
            sum.violations += violations;
        }
        sum
    }
}

/// The newest of each mutant: a suite that stops catching one is to be seen.
fn newest_mutants(lines: &[Line]) -> BTreeMap<&str, &Line> {
    let mut newest = BTreeMap::new();
    for line in lines {
        if let Line::Mutant { name, .. } = line {
            newest.insert(name.as_str(), line);
        }
    }
    newest
}

fn gap(lines: &[Line], wanted: &str, wanted_loss: &[&str]) -> String {
    let mut said = Vec::new();
    for loss_wanted in wanted_loss {
        let newest = lines.iter().rev().find_map(|line| match line {
            Line::Gap { target, loss, p50_ms, max_ms, rounds, .. }
                if target == wanted && loss == loss_wanted =>
            {
                Some(format!("{loss}: p50 {p50_ms}, longest {max_ms} ms of {rounds}"))
            }
            _ => None,
        });
        said.extend(newest);
    }
    if said.is_empty() { "not measured".into() } else { said.join("; ") }
}

const CUTS: [&str; 2] = ["power-cut", "power-cut-all"];
const DAMAGES: [&str; 2] = ["damage", "damage-and-kill-leader"];
const CHANGES: [&str; 1] = ["replace"];
const CLOCKS: [&str; 1] = ["clock"];

/// How often faults of these names befell real processes, in the order of the runs: what was violated in
/// runs with them, and how many there were after the last of those.
fn befell(lines: &[Line], wanted: &str, names: &[&str]) -> String {
    let (mut all, mut since, mut broken) = (0, 0, 0);
    for line in lines {
        let Line::Faults { target, kinds, violations, .. } = line else { continue };
        let here: usize = names.iter().filter_map(|name| kinds.get(*name)).sum();
        if target != wanted || here == 0 {
            continue;
        }
        (all, since, broken) = (all + here, since + here, broken + violations);
        since = if *violations > 0 { 0 } else { since };
    }
    match (all, broken) {
        (0, _) => "none tried".to_owned(),
        (_, 0) => format!("{all} under real processes, 0 violations"),
        _ => format!(
            "{all} under real processes, {broken} violations in these runs, none in the \
             last {since}"
        ),
    }
}

/// The rows of the goal, each with what the lines come to.
fn aims(lines: &[Line], page: &mut String) {
    let (ours, theirs) = (Chaos::of(lines, "kontiki", None), Chaos::of(lines, "etcd", None));
    let sim = Simulated::of(lines);
    let days = sim.simulated as f64 / 86_400.0;
    let hours = |chaos: &Chaos| chaos.seconds as f64 / 3600.0;
    let mutants = newest_mutants(lines);
    let caught = mutants.values().filter(|it| matches!(it, Line::Mutant { caught: true, .. }));
    let slowest = mutants.values().filter_map(|it| match it {
        Line::Mutant { seconds, caught: true, .. } => Some(*seconds),
        _ => None,
    });
    let sweep = |wanted: &str| {
        let (mut sites, mut stopped, mut violations) = (0, 0, 0);
        for line in lines {
            if let Line::Sweep { target, sites: s, stopped: n, violations: v, .. } = line
                && target == wanted
            {
                (sites, stopped, violations) = (sites + s, stopped + n, violations + v);
            }
        }
        match sites {
            0 => "not tried".to_owned(),
            _ => format!("{sites} calls failed, {stopped} stopped it, {violations} violations"),
        }
    };
    let rows = [
        (
            "1 faults, overlapping, and violations",
            format!(
                "{} simulated + {} of real processes, {} + {} violations",
                sim.faults, ours.faults, sim.violations, ours.violations
            ),
            format!("{} of real processes, {} violations", theirs.faults, theirs.violations),
            "100,000 + 2,000, 0 violations",
        ),
        (
            "2 simulated time",
            format!(
                "{days:.2} days, {} times processor time, {} faults an hour",
                sim.simulated / sim.busy.max(1),
                sim.faults * 3600 / sim.simulated.max(1)
            ),
            "-".into(),
            "30 days",
        ),
        (
            "3 real processes under faults",
            format!("{:.2} h, {} operations", hours(&ours), ours.operations),
            format!("{:.2} h, {} operations", hours(&theirs), theirs.operations),
            "2 h (24 h a release)",
        ),
        (
            "4 power cuts",
            format!("{} simulated; {}", sim.cuts, befell(lines, "kontiki", &CUTS)),
            befell(lines, "etcd", &CUTS),
            "2,000, 0 acknowledged writes lost",
        ),
        (
            "5, 6 damaged copies, with and without loss of the leader",
            format!("{} simulated; {}", sim.damages, befell(lines, "kontiki", &DAMAGES)),
            befell(lines, "etcd", &DAMAGES),
            "1,000, 0 wrong values served",
        ),
        (
            "7 errors of each call to the disk",
            format!("{} failed disks simulated; {}", sim.failed_disks, sweep("kontiki")),
            sweep("etcd"),
            "each call, never acknowledged",
        ),
        (
            "8 time without writes, leader killed",
            gap(lines, "kontiki", &["kill"]),
            gap(lines, "etcd", &["kill"]),
            "p50 at most 1000 ms",
        ),
        (
            "9 the same, leader cut off or paused",
            gap(lines, "kontiki", &["cut", "pause"]),
            gap(lines, "etcd", &["cut", "pause"]),
            "the same",
        ),
        (
            "11 planted bugs caught",
            format!(
                "{} of {}, the slowest after {} s",
                caught.count(),
                mutants.len(),
                slowest.max().unwrap_or_default()
            ),
            "-".into(),
            "16, each within 600 s",
        ),
        (
            "13 members that came or went under faults",
            format!("{} simulated; {}", sim.changes, befell(lines, "kontiki", &CHANGES)),
            befell(lines, "etcd", &CHANGES),
            "1,000",
        ),
        (
            "14 jumps of the clock",
            befell(lines, "kontiki", &CLOCKS),
            befell(lines, "etcd", &CLOCKS),
            "no lease ends early",
        ),
    ];
    page.push_str(
        "\n## Beside what is aimed at\n\n| measure | Kontiki | Debian's etcd, same driver | aim |\n\
         |---|---|---|---|\n",
    );
    for (measure, ours, theirs, aim) in rows {
        let _ = writeln!(page, "| {measure} | {ours} | {theirs} | {aim} |");
    }
}

fn targets(lines: &[Line]) -> Vec<(&str, u32)> {
    let mut found: Vec<(&str, u32)> = lines
        .iter()
        .filter_map(|line| match line {
            Line::Faults { target, members, .. } => Some((target.as_str(), *members)),
            _ => None,
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn chaos(lines: &[Line], page: &mut String) {
    page.push_str(
        "\n## Real processes under faults\n\n\
         | target | members | runs | minutes | faults | operations judged | not answered | \
         events | ended by themselves | violations |\n|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for (target, members) in targets(lines) {
        let sum = Chaos::of(lines, target, Some(members));
        let minutes = sum.seconds as f64 / 60.0;
        let Chaos { runs, faults, operations, unknown, events, fell, violations, .. } = sum;
        let _ = writeln!(
            page,
            "| {target} | {members} | {runs} | {minutes:.1} | {faults} | {operations} | \
             {unknown} | {events} | {fell} | {violations} |"
        );
    }
}

/// How often each fault was begun.
fn kinds(lines: &[Line], page: &mut String) {
    let (ours, theirs) = (Chaos::of(lines, "kontiki", None), Chaos::of(lines, "etcd", None));
    let mut names: Vec<&String> = ours.kinds.keys().chain(theirs.kinds.keys()).collect();
    names.sort();
    names.dedup();
    page.push_str("\n| fault | Kontiki | etcd |\n|---|---|---|\n");
    for name in names {
        let count = |sum: &Chaos| sum.kinds.get(name).copied().unwrap_or_default();
        let _ = writeln!(page, "| {name} | {} | {} |", count(&ours), count(&theirs));
    }
}

fn simulated(lines: &[Line], page: &mut String) {
    let sum = Simulated::of(lines);
    let hours = sum.simulated as f64 / 3600.0;
    let ratio = sum.simulated as f64 / sum.real.max(1) as f64;
    let each = sum.simulated as f64 / sum.busy.max(1) as f64;
    let hourly = sum.faults as f64 / hours.max(0.001);
    let Simulated { seeds, faults, cuts, damages, known, changes, operations, .. } = sum;
    let _ = write!(
        page,
        "\n## Simulated clusters\n\n\
         | seeds | simulated hours | over real time | over processor time | faults | a simulated \
         hour | power cuts | damaged logs | of these refused | members changed | operations judged \
         | violations |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n\
         | {seeds} | {hours:.1} | {ratio:.0} | {each:.0} | {faults} | {hourly:.0} | {cuts} | \
         {damages} | {known} | {changes} | {operations} | {} |\n",
        sum.violations
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

fn sweeps(lines: &[Line], page: &mut String) {
    page.push_str(
        "\n## Errors of the disk, one call after another\n\n\
         | target | error | calls | stopped | violations | commit |\n|---|---|---|---|---|---|\n",
    );
    for line in lines {
        if let Line::Sweep { target, commit, error, sites, stopped, violations } = line {
            let _ = writeln!(
                page,
                "| {target} | {error} | {sites} | {stopped} | {violations} | {commit} |"
            );
        }
    }
}

fn mutants(lines: &[Line], page: &mut String) {
    page.push_str(
        "\n## Planted bugs\n\n| bug | caught | by | promise that was broken | seeds | after |\n\
         |---|---|---|---|---|---|\n",
    );
    for (name, line) in newest_mutants(lines) {
        if let Line::Mutant { caught_by, promise, seeds, seconds, caught, .. } = line {
            let caught = if *caught { "yes" } else { "**no**" };
            let _ = writeln!(
                page,
                "| {name} | {caught} | {caught_by} | {promise} | {seeds} | {seconds} s |"
            );
        }
    }
}
