//! Judges a history after the fact. Pure: no clock, no network, no chance.
//!
//! The store gives every change a revision, so most of it needs no search: `log` finds out what was
//! written in which order, `order` replays it and holds every answer against it, `watch` and `lease` hold
//! watchers and leases against it. That rests on what the store itself says; `search` and `elements` look
//! at values and real time alone and do not believe any revision.
//!
//! Keeps: what is not known is no violation. An operation that was not answered may have happened, once.

pub mod elements;
pub mod lease;
pub mod log;
pub mod order;
pub mod rest;
pub mod search;
pub mod state;
pub mod watch;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::history::History;

/// Something that must not happen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Which promise was broken, in a word.
    pub promise: String,
    pub what: String,
}

pub(crate) fn violation(promise: &str, what: String) -> Violation {
    Violation { promise: promise.to_owned(), what }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Verdict {
    pub violations: Vec<Violation>,
    /// Operations that were held against the order of revisions.
    pub operations: usize,
    pub unknown: usize,
    pub refused: usize,
    pub revisions: usize,
    pub events: usize,
    pub sessions: usize,
    pub leases: usize,
    /// Keys whose histories were searched without revisions, and those too large to be decided.
    pub searched: usize,
    pub undecided: usize,
}

impl Verdict {
    #[must_use]
    pub fn holds(&self) -> bool {
        self.violations.is_empty()
    }
}

/// Most violations of one kind that are told; the rest say no more.
const TOLD_MAX: usize = 20;

#[must_use]
pub fn judge(history: &History) -> Verdict {
    let mut verdict = Verdict { sessions: history.sessions.len(), ..Verdict::default() };
    let (log, mut found) = log::witnessed(&history.sessions);
    verdict.revisions = log.len();
    let (replayed, more) = order::check(history, &log);
    found.extend(more);
    verdict.operations = replayed.checked;
    verdict.unknown = replayed.unknown;
    verdict.refused = replayed.refused;
    for session in &history.sessions {
        verdict.events += session.notices.iter().map(|notice| notice.events.len()).sum::<usize>();
    }
    found.extend(watch::check(&history.sessions, &log, &replayed, history.rest.compacted));
    verdict.leases = history.leases.len();
    found.extend(lease::check(history, &log, &replayed));
    found.extend(rest::check(&history.rest, &replayed));
    found.extend(elements::check(&history.operations, &history.rest));
    let searched = search::check(&history.operations);
    verdict.searched = searched.keys;
    verdict.undecided = searched.undecided;
    found.extend(searched.violations);
    let mut told: std::collections::BTreeMap<String, usize> = Default::default();
    for violation in found {
        let count = told.entry(violation.promise.clone()).or_default();
        *count += 1;
        if *count <= TOLD_MAX {
            verdict.violations.push(violation);
        }
    }
    verdict
}
