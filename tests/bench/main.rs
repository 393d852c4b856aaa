//! What the replicated store costs, beside what the machine could do at most.
//!
//! Everything runs in this process: real replicas over real logs and RocksDB, three of them joined by the
//! network in memory. `make bench` runs all of it, `make bench ARGS=--quick` a minute's worth.
//! `docs/benchmarks.md` says what each line means and keeps a table.
//!
//! Keeps: the limit that a figure is held against was measured in the same run, on the same disk, with as
//! many at once and as many bytes.
//! Never: fails because a figure is low. It says which goals are missed.

mod ground;
mod leases;
mod limit;
mod load;
mod meter;
mod options;
mod reads;
mod report;
mod restart;
mod watchers;
mod writes;

use std::process::ExitCode;

use options::Options;
use report::Report;

// As the binary has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a part of the run hands back when the ground under it gives way.
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let done = runtime
        .map_err(Failure::from)
        .and_then(|runtime| runtime.block_on(run(&options)))
        .and_then(|report| report.print(&options));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("bench: {failure}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<Report, Failure> {
    let mut report = Report::default();
    for value_bytes in [256, 4096] {
        if options.wants("put") || options.wants("transaction") {
            for at_once in load::AT_ONCE {
                report.limit(limit::measure(options, at_once, value_bytes).await?);
            }
        }
        if options.wants("apply") {
            writes::apply_alone(options, value_bytes, &mut report)?;
        }
        for members in [1, 3] {
            if options.quick && members == 3 && value_bytes == 4096 {
                continue;
            }
            writes::measure(options, members, value_bytes, &mut report).await?;
        }
    }
    for members in [1, 3] {
        reads::measure(options, members, &mut report).await?;
    }
    watchers::measure(options, &mut report).await?;
    leases::measure(options, &mut report).await?;
    writes::while_compacting(options, &mut report).await?;
    restart::measure(options, &mut report).await?;
    Ok(report)
}
