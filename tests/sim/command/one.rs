//! One seed, in this process or in one of its own.
//!
//! Keeps: a process runs one seed and ends, so that what an earlier one left behind decides nothing.

use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use kontiki_faults::check::Violation;
use kontiki_sim::run::{self, Choice, Counts};
use serde::{Deserialize, Serialize};

use crate::Flags;

/// No seed takes so long; one that does stands still without its time going on.
const REAL_MAX: Duration = Duration::from_secs(900);
const STACK_BYTES: usize = 16 << 20;

/// The variable by which a program with planted bugs is told which of them it has.
const PLANTED: &str = "KONTIKI_PLANTED";

#[derive(Default, Serialize, Deserialize)]
pub struct Told {
    pub seed: u64,
    pub simulated: Duration,
    /// Processor time; not part of what must be the same.
    pub took: Duration,
    pub digest: u64,
    pub operations: u64,
    pub counts: Counts,
    pub violations: Vec<Violation>,
    pub faults: Vec<String>,
}

impl Told {
    fn broken(seed: u64, what: String) -> Told {
        let violations = vec![Violation { promise: "it goes on".into(), what }];
        Told { seed, violations, ..Told::default() }
    }

    /// Complains where a second run of the same seed was another one.
    pub fn compare(&mut self, again: &Told) {
        if self.digest != again.digest || self.simulated != again.simulated {
            let what = format!("digests {:x} and {:x}", self.digest, again.digest);
            self.violations.push(Violation { promise: "a seed is a run".into(), what });
        }
    }
}

/// Runs a seed and returns what is to be told of it, as one line.
pub fn here(seed: u64, choice: &Choice, history: Option<&Path>) -> String {
    let (choice, history) = (choice.clone(), history.map(Path::to_owned));
    let (sender, ended) = mpsc::channel();
    // A thread of its own begins with the same chance whatever came before.
    let thread = thread::Builder::new().stack_size(STACK_BYTES);
    let ran = thread.spawn(move || drop(sender.send(run(seed, &choice, history.as_deref()))));
    let told = match (ran, ended.recv_timeout(REAL_MAX)) {
        (Ok(_), Ok(told)) => told,
        (Ok(_), Err(mpsc::RecvTimeoutError::Disconnected)) => {
            Told::broken(seed, "it panicked".into())
        }
        (Ok(_), Err(mpsc::RecvTimeoutError::Timeout)) => {
            Told::broken(seed, format!("it has not ended in {REAL_MAX:?} of real time"))
        }
        (Err(error), _) => Told::broken(seed, error.to_string()),
    };
    serde_json::to_string(&told).unwrap_or_default()
}

fn run(seed: u64, choice: &Choice, history: Option<&Path>) -> Told {
    let ended = run::seed(seed, choice);
    if let Some(path) = history
        && let Err(what) = ended.history.write(path)
    {
        return Told::broken(seed, what);
    }
    let faults = ended.history.faults.iter().map(|fault| {
        let (from, until) = (fault.from as f64 / 1e6, fault.until as f64 / 1e6);
        format!("{from:8.3} - {until:8.3} s: {}", fault.what)
    });
    Told {
        seed,
        simulated: ended.simulated,
        took: processor_time(),
        digest: ended.digest(),
        operations: ended.verdict.operations as u64,
        counts: ended.counts,
        faults: faults.collect(),
        violations: ended.verdict.violations,
    }
}

/// What this thread has had of a processor so far, whoever else had it meanwhile.
fn processor_time() -> Duration {
    let said = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = said.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.unwrap_or_default())
}

/// The same in a process of its own.
pub fn elsewhere(seed: u64, flags: &Flags) -> Told {
    ask(seed, flags).unwrap_or_else(|what| Told::broken(seed, what))
}

fn ask(seed: u64, flags: &Flags) -> Result<Told, String> {
    let own = std::env::current_exe().map_err(|error| format!("this program: {error}"))?;
    let mut command = Command::new(own);
    command.arg("--one").arg(seed.to_string());
    if flags.lying_disks {
        command.arg("--lying-disks");
    }
    for kind in &flags.only {
        if let Some(kind) = clap::ValueEnum::to_possible_value(kind) {
            command.args(["--only", kind.get_name()]);
        }
    }
    if let Some(members) = flags.members {
        command.args(["--members", &members.to_string()]);
    }
    if let Some(rounds) = flags.rounds {
        command.args(["--rounds", &rounds.to_string()]);
    }
    if let Some(path) = &flags.history {
        command.arg("--history").arg(path);
    }
    if let Some(planted) = &flags.planted {
        command.env(PLANTED, planted);
    }
    let output = command.output().map_err(|error| format!("a process for it: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().last().unwrap_or_default();
    serde_json::from_str(line).map_err(|_| {
        let said = String::from_utf8_lossy(&output.stderr);
        format!("its process ended with {}: {}", output.status, said.trim())
    })
}
