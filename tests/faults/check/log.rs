//! What was written, in the order of revisions, as the witnesses saw it.
//!
//! Witnesses watch everything from before the first write to after the last. They are checked like any
//! other watcher; here they are laid over each other, so that what one was not told another may have been.

use std::collections::BTreeMap;

use super::state::Change;
use super::{Violation, violation};
use crate::history::{Micros, Session};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub changes: Vec<Change>,
    /// When the first witness heard of it.
    pub seen: Micros,
}

pub type Log = BTreeMap<u64, Entry>;

#[must_use]
pub fn witnessed(sessions: &[Session]) -> (Log, Vec<Violation>) {
    let mut log = Log::new();
    let mut found = Vec::new();
    for session in sessions.iter().filter(|session| session.witness) {
        for (revision, entry) in of_one(session) {
            let Some(known) = log.get_mut(&revision) else {
                log.insert(revision, entry);
                continue;
            };
            known.seen = known.seen.min(entry.seen);
            if known.changes != entry.changes {
                found.push(violation(
                    "watchers are told the same",
                    format!("revision {revision}: {:?} and {:?}", known.changes, entry.changes),
                ));
                // Which of them left something out shows when the fuller one is taken.
                if entry.changes.len() > known.changes.len() {
                    known.changes = entry.changes;
                }
            }
        }
    }
    (log, found)
}

fn of_one(session: &Session) -> Log {
    let mut log = Log::new();
    for notice in &session.notices {
        for event in &notice.events {
            let fresh = || Entry { changes: Vec::new(), seen: notice.at };
            let entry = log.entry(event.revision).or_insert_with(fresh);
            let change = Change { key: event.key.clone(), now: event.now.clone() };
            if !entry.changes.contains(&change) {
                entry.changes.push(change);
            }
        }
    }
    log
}
