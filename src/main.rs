//! The one binary. No role can be started yet: the store below it is a library so far.

use std::process::ExitCode;

fn main() -> ExitCode {
    eprintln!(
        "kontiki {}: no role can be started yet; see README.md for what is there",
        env!("CARGO_PKG_VERSION")
    );
    ExitCode::FAILURE
}
