//! `make sim`: runs seeds, says how much time that was, and tells of those that fail.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use kontiki_faults::ledger::{self, Line};
use kontiki_sim::run::{self, Ended};
use tokio::time::Instant;

/// Runs whole clusters on simulated time, network and disks
#[derive(Parser)]
#[command(after_help = "\
Examples:
  make sim
  make sim ARGS=\"--seeds 5000 --first 100000\"
  make sim ARGS=\"--minutes 90\"
  make sim ARGS=\"--first 4711 --seeds 1 --verbose\"
  make sim ARGS=\"--lying-disks --seeds 20\"")]
struct Flags {
    #[arg(long, default_value_t = 40)]
    seeds: u64,
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Go on with further seeds for so long, whatever --seeds says
    #[arg(long)]
    minutes: Option<f64>,
    /// Tell what befell each seed
    #[arg(long)]
    verbose: bool,
    /// Disks acknowledge what they did not sync: fails unless that is caught
    #[arg(long)]
    lying_disks: bool,
    /// Stop at the first seed that fails
    #[arg(long)]
    stop: bool,
    /// Add the figures to this file
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
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
    let began = Instant::now();
    let limit = flags.minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0));
    let mut sum = Sum::default();
    for seed in flags.first.. {
        let enough = match limit {
            Some(limit) => began.elapsed() > limit,
            None => seed >= flags.first.saturating_add(flags.seeds),
        };
        if enough || (flags.stop && !sum.failed.is_empty()) {
            break;
        }
        let ended = run::seed(seed, flags.lying_disks);
        tell(seed, &ended, flags.verbose);
        sum.add(seed, &ended);
    }
    let real = began.elapsed();
    let ratio = sum.simulated.as_secs_f64() / real.as_secs_f64().max(0.001);
    say(&format!(
        "{} seeds: {:.1} simulated minutes in {:.1} real seconds, {ratio:.0} times; {} faults, \
         {} power cuts, \
         {} operations judged; {} seeds failed {:?}",
        sum.seeds,
        sum.simulated.as_secs_f64() / 60.0,
        real.as_secs_f64(),
        sum.faults,
        sum.power_cuts,
        sum.operations,
        sum.failed.len(),
        sum.failed
    ));
    if let Some(path) = flags.ledger.filter(|_| !flags.lying_disks) {
        let line = Line::Sim {
            commit: ledger::commit(),
            first_seed: flags.first,
            seeds: sum.seeds,
            simulated_seconds: sum.simulated.as_secs(),
            real_seconds: real.as_secs(),
            faults: sum.faults,
            power_cuts: sum.power_cuts,
            operations: sum.operations,
            violations: sum.failed.len() as u64,
        };
        if let Err(error) = ledger::add(&path, &line) {
            say(&error);
            return ExitCode::FAILURE;
        }
    }
    if sum.failed.is_empty() == flags.lying_disks { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

#[derive(Default)]
struct Sum {
    seeds: u64,
    simulated: Duration,
    faults: u64,
    power_cuts: u64,
    operations: u64,
    failed: Vec<u64>,
}

impl Sum {
    fn add(&mut self, seed: u64, ended: &Ended) {
        self.seeds += 1;
        self.simulated += ended.simulated;
        self.faults += ended.faults;
        self.power_cuts += ended.power_cuts;
        self.operations += ended.verdict.operations as u64;
        if !ended.verdict.holds() {
            self.failed.push(seed);
        }
    }
}

fn tell(seed: u64, ended: &Ended, verbose: bool) {
    let holds = ended.verdict.holds();
    if !holds || verbose {
        let faults = &ended.history.faults;
        for fault in &faults[faults.len().saturating_sub(FAULTS_TOLD_MAX)..] {
            let (from, until) = (fault.from as f64 / 1e6, fault.until as f64 / 1e6);
            say(&format!("  {from:8.3} - {until:8.3} s: {}", fault.what));
        }
        say(&format!("seed {seed}: {:.0} s, {:?}", ended.simulated.as_secs_f64(), ended.verdict));
    }
    for violation in ended.verdict.violations.iter().take(TOLD_MAX) {
        say(&format!("seed {seed} FAILED: {}: {}", violation.promise, violation.what));
    }
    if !holds {
        say(&format!("again: make sim ARGS=\"--first {seed} --seeds 1 --verbose\""));
    }
}
