//! Real kubectl, of two releases, against a real master: commands as users type them, and what they print.
//!
//! `.ci/clients` brings kubectl 1.32 and 1.37. Each test starts one master and walks through it with both at
//! the same time, each in a namespace of its own.

mod access;
mod apply;
mod audit;
mod changes;
mod creation;
mod deletion;
mod describing;
mod nodes;
mod outage;
mod output;
mod refusals;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "other suites use what this one does not")]
mod support;
mod tour;
mod watching;
