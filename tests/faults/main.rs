//! `faults`: see `--help`.

fn main() {}
