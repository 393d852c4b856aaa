//! The binary as its users meet it: real processes, real sockets, the commands of the manual.
//! One file per behaviour.

#[path = "../support/mod.rs"]
mod support;

mod certificates;
mod life;
mod snapshots;
mod start;
mod tokens;
mod usage;
