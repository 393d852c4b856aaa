//! The one binary: parse, match the command, exit code.

use std::process::ExitCode;

use kontiki::cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    small_pages();
    match cli::run(std::env::args_os()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("kontiki: {failure}");
            failure.exit_code()
        }
    }
}

/// The allocator asks for huge pages. Each is zeroed as a whole at its first touch and kept as a whole for
/// as long as anything in it lives: measured under load, a third of the memory and no time gained.
fn small_pages() {
    // Where the kernel has no such switch, it is as it was.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}
