//! The one binary: parse, match the command, exit code.

mod cli;
mod failure;
mod pki;
mod remote;
mod roles;
mod tasks;
mod telemetry;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match cli::run(std::env::args_os()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("kontiki: {failure}");
            failure.exit_code()
        }
    }
}
