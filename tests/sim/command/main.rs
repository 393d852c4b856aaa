//! `make sim`: runs seeds, each in a process of its own, says how much time that was, and tells of those
//! that fail.

mod one;
mod sum;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Parser;
use kontiki_faults::ledger::{self, Line};
use kontiki_sim::run::Choice;
use kontiki_sim::swarm::Kind;
use parking_lot::Mutex;
use tokio::time::Instant;

use one::Told;
use sum::Sum;

/// As the product has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs whole clusters on simulated time, network and disks
#[derive(Clone, Parser)]
#[command(after_help = "\
Examples:
  make sim
  make sim ARGS=\"--seeds 5000 --first 100000\"
  make sim ARGS=\"--minutes 90\"
  make sim ARGS=\"--first 4711 --seeds 1 --verbose\"
  make sim ARGS=\"--only damage --members 3 --seeds 100\"
  make sim ARGS=\"--lying-disks --seeds 20\"")]
struct Flags {
    #[arg(long, default_value_t = 40)]
    seeds: u64,
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Go on with further seeds for so long, whatever --seeds says
    #[arg(long)]
    minutes: Option<f64>,
    /// Seeds that run at a time [default: as many as there are processors]
    #[arg(long)]
    jobs: Option<usize>,
    /// These faults alone, instead of what each seed draws
    #[arg(long, value_delimiter = ',')]
    only: Vec<Kind>,
    /// So many members, instead of what each seed draws
    #[arg(long)]
    members: Option<u64>,
    /// So many faults one after another, instead of what each seed draws
    #[arg(long)]
    rounds: Option<usize>,
    /// Tell what befell each seed
    #[arg(long)]
    verbose: bool,
    /// Run each seed twice: both must be the same run
    #[arg(long)]
    twice: bool,
    /// Disks acknowledge what they did not sync: fails unless that is caught
    #[arg(long)]
    lying_disks: bool,
    /// Stop at the first seed that fails
    #[arg(long)]
    stop: bool,
    /// A bug of this name is planted in the program (`make mutants`): fails unless it is caught
    #[arg(long, value_name = "NAME")]
    planted: Option<String>,
    /// Add the figures to this file
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// Write what clients saw to this file, one record a line, for `faults --judge`; for one seed
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// Run this seed in this process, and print what came of it
    #[arg(long, value_name = "SEED", hide = true)]
    one: Option<u64>,
}

/// Violations that are told of one seed.
const TOLD_MAX: usize = 5;
/// Faults before the end that are told of one seed.
const FAULTS_TOLD_MAX: usize = 30;

fn say(line: &str) {
    writeln!(std::io::stdout(), "{line}").ok();
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let choice = Choice {
        lying: flags.lying_disks,
        only: flags.only.clone(),
        members: flags.members,
        rounds: flags.rounds,
        ..Choice::default()
    };
    if let Some(seed) = flags.one {
        say(&one::here(seed, &choice, flags.history.as_deref()));
        return ExitCode::SUCCESS;
    }
    let began = Instant::now();
    let sum = all(&flags, began);
    let real = began.elapsed();
    say(&sum.text(real));
    if let Some(path) = &flags.ledger
        && let Err(error) = ledger::add(path, &line(&flags, &sum, real))
    {
        say(&error);
        return ExitCode::FAILURE;
    }
    let must_fail = flags.lying_disks || flags.planted.is_some();
    if sum.failed.is_empty() == must_fail { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Hands out seeds to as many threads as are to run at a time, each of which waits for processes.
fn all(flags: &Flags, began: Instant) -> Sum {
    let limit = flags.minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0));
    let (next, sum) = (AtomicU64::new(flags.first), Mutex::new(Sum::default()));
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|threads| {
        for _ in 0..flags.jobs.unwrap_or(processors).max(1) {
            threads.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let enough = match limit {
                        Some(limit) => began.elapsed() > limit,
                        None => seed >= flags.first.saturating_add(flags.seeds),
                    };
                    if enough || (flags.stop && !sum.lock().failed.is_empty()) {
                        return;
                    }
                    let mut told = one::elsewhere(seed, flags);
                    if flags.twice {
                        let again = one::elsewhere(seed, flags);
                        told.compare(&again);
                    }
                    let mut sum = sum.lock();
                    tell(&told, flags.verbose);
                    sum.add(&told);
                }
            });
        }
    });
    sum.into_inner()
}

fn line(flags: &Flags, sum: &Sum, real: Duration) -> Line {
    let lie = flags.lying_disks.then(|| "a disk that lies".to_owned());
    if let Some(name) = flags.planted.clone().or(lie) {
        return Line::Mutant {
            name,
            commit: ledger::commit(),
            caught_by: "sim".into(),
            promise: sum.first.clone().unwrap_or_default(),
            seeds: sum.seeds,
            seconds: real.as_secs_f64().round() as u64,
            caught: !sum.failed.is_empty(),
        };
    }
    Line::Sim {
        commit: ledger::commit(),
        first_seed: flags.first,
        seeds: sum.seeds,
        simulated_seconds: sum.simulated.as_secs(),
        real_seconds: real.as_secs(),
        busy_seconds: sum.busy.as_secs(),
        faults: sum.counts.faults,
        power_cuts: sum.counts.power_cuts,
        damages: sum.counts.damages,
        damages_known: sum.counts.found,
        failed_disks: sum.counts.failed_disks,
        changes: sum.counts.changes,
        operations: sum.operations,
        violations: sum.failed.len() as u64,
    }
}

fn tell(told: &Told, verbose: bool) {
    let (seed, holds) = (told.seed, told.violations.is_empty());
    if !holds || verbose {
        for fault in &told.faults[told.faults.len().saturating_sub(FAULTS_TOLD_MAX)..] {
            say(&format!("  {fault}"));
        }
        say(&format!(
            "seed {seed}: {:.0} s in {:.2} s, digest {:016x}, {} operations, {:?}",
            told.simulated.as_secs_f64(),
            told.took.as_secs_f64(),
            told.digest,
            told.operations,
            told.counts
        ));
    }
    for violation in told.violations.iter().take(TOLD_MAX) {
        say(&format!("seed {seed} FAILED: {}: {}", violation.promise, violation.what));
    }
    if !holds {
        say(&format!("again: make sim ARGS=\"--first {seed} --seeds 1 --verbose\""));
    }
}
