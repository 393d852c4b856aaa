//! The one binary: parse what was typed, match the role, return the exit code.

fn main() {}
