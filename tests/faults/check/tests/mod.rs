//! Each checker against histories that hold and histories that must not: a check that cannot fail proves
//! nothing.

mod build;
mod elements;
mod leases;
mod order;
mod search;
mod watches;

use super::judge;
use crate::history::History;

/// The promises that a history breaks.
fn broken(history: &History) -> Vec<String> {
    let mut promises: Vec<String> =
        judge(history).violations.into_iter().map(|violation| violation.promise).collect();
    promises.sort();
    promises.dedup();
    promises
}

#[track_caller]
fn holds(history: &History) {
    let verdict = judge(history);
    assert!(verdict.holds(), "{:#?}", verdict.violations);
}

#[track_caller]
fn breaks(history: &History, promise: &str) {
    let broken = broken(history);
    assert!(broken.iter().any(|it| it == promise), "{promise:?} is not among {broken:?}");
}
