//! The one binary: parse, match the command, exit code.

use std::process::ExitCode;

use kontiki::cli;

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
