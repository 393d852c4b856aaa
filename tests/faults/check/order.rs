//! Strict serializability by the order that the store itself gives.
//!
//! Every answer carries a revision. Writes are replayed in its order and must be what the log says; what
//! was read is what the state held at the answer's revision; and nothing ended before something began that
//! stands before it in that order. That is exact, for transactions over many keys as for one, and takes no
//! search.
//!
//! What was not answered is looked for in the log: values are written once in a run, so a value names its
//! writer. What is found happened, once; what is not found did not happen.

use std::collections::HashMap;

use super::log::Log;
use super::state::{Change, Effect, State};
use super::{Violation, violation};
use crate::history::{History, LeaseAsk, Micros, Operation, Outcome, Step};

/// The log replayed.
#[derive(Default)]
pub struct Replayed {
    pub state: State,
    pub checked: usize,
    pub unknown: usize,
    pub refused: usize,
    /// Revisions at which keys went that no client had deleted, with the lease they hung on.
    pub expiries: Vec<(u64, i64)>,
    /// The newest revision that the log has.
    pub newest: u64,
}

struct Ordered<'h> {
    done: HashMap<u64, Vec<&'h Operation>>,
    /// Who may have written a value without being answered.
    by_value: HashMap<&'h str, &'h Operation>,
    /// Deletions that were not answered.
    deletions: Vec<&'h Operation>,
    /// Below these the store itself writes: who holds a lock, and who waits for it.
    locks: Vec<String>,
}

fn values(operation: &Operation) -> impl Iterator<Item = &str> {
    let steps = operation.ask.then.iter().chain(&operation.ask.otherwise);
    steps.filter_map(|step| match step {
        Step::Put { value, .. } => Some(value.as_str()),
        Step::Get { .. } | Step::Delete { .. } => None,
    })
}

fn deletes(operation: &Operation) -> bool {
    let mut steps = operation.ask.then.iter().chain(&operation.ask.otherwise);
    steps.any(|step| matches!(step, Step::Delete { .. }))
}

fn sort<'h>(history: &'h History, replayed: &mut Replayed) -> (Ordered<'h>, Vec<u64>) {
    let mut ordered = Ordered {
        done: HashMap::new(),
        by_value: HashMap::new(),
        deletions: Vec::new(),
        locks: Vec::new(),
    };
    for lease in &history.leases {
        if let LeaseAsk::Lock { name } = &lease.ask {
            ordered.locks.push(format!("{name}/"));
        }
    }
    ordered.locks.sort();
    ordered.locks.dedup();
    for operation in &history.operations {
        match &operation.outcome {
            Outcome::Done { revision, .. } => {
                replayed.checked += 1;
                ordered.done.entry(*revision).or_default().push(operation);
                continue;
            }
            Outcome::Refused(_) => replayed.refused += 1,
            Outcome::Unknown(_) => replayed.unknown += 1,
        }
        ordered.by_value.extend(values(operation).map(|value| (value, operation)));
        if deletes(operation) && values(operation).next().is_none() {
            ordered.deletions.push(operation);
        }
    }
    let mut revisions: Vec<u64> = ordered.done.keys().copied().collect();
    revisions.sort_unstable();
    (ordered, revisions)
}

/// The latest beginning of anything so far in the order.
#[derive(Clone, Copy, Default)]
struct Latest {
    call: Micros,
    revision: u64,
}

impl Latest {
    fn note(&mut self, call: Micros, revision: u64) {
        if call > self.call {
            *self = Latest { call, revision };
        }
    }
}

#[must_use]
pub fn check(history: &History, log: &Log) -> (Replayed, Vec<Violation>) {
    let mut replayed = Replayed::default();
    let (ordered, answered) = sort(history, &mut replayed);
    let mut revisions: Vec<u64> = log.keys().copied().chain(answered).collect();
    revisions.sort_unstable();
    revisions.dedup();
    replayed.newest = log.keys().next_back().copied().unwrap_or_default();
    let mut walk = Walk {
        ordered,
        replayed,
        found: Vec::new(),
        latest: Latest::default(),
        taken: HashMap::new(),
    };
    for revision in revisions {
        walk.step(revision, log);
    }
    (walk.replayed, walk.found)
}

struct Walk<'h> {
    ordered: Ordered<'h>,
    replayed: Replayed,
    found: Vec<Violation>,
    latest: Latest,
    /// Operations that were not answered and are in the log, with the revision.
    taken: HashMap<*const Operation, u64>,
}

impl<'h> Walk<'h> {
    fn complain(&mut self, promise: &str, what: String) {
        self.found.push(violation(promise, what));
    }

    fn step(&mut self, revision: u64, log: &Log) {
        let here = self.ordered.done.remove(&revision).unwrap_or_default();
        let changes = log.get(&revision).map_or(&[][..], |entry| &entry.changes);
        let before = self.latest;
        let mut writers = Vec::new();
        let mut readers = Vec::new();
        for operation in here {
            let effect = self.replayed.state.effect(&operation.ask, revision);
            let said = matches!(
                &operation.outcome,
                Outcome::Done { succeeded, .. } if *succeeded == effect.succeeded
            );
            // What changed something stands at its own revision; what did not, behind it.
            if said && !effect.changes.is_empty() && effect.changes == changes {
                writers.push((operation, effect));
            } else {
                readers.push(operation);
            }
        }
        // One that found nothing left to change would have changed the same, a moment before. Who did is one
        // that says so, or one that was not answered.
        let is_told = |operation: &Operation, effect: &Effect| match &operation.outcome {
            Outcome::Done { answers, .. } => *answers == effect.answers,
            Outcome::Refused(_) | Outcome::Unknown(_) => false,
        };
        if writers.iter().any(|(operation, effect)| !is_told(operation, effect)) {
            // All keys and their past: only where somebody was told something else.
            let mut then = self.replayed.state.clone();
            then.change(revision, changes);
            writers.retain(|(operation, effect)| {
                let Outcome::Done { answers, .. } = &operation.outcome else { return true };
                let late = then.effect(&operation.ask, revision);
                let found_nothing = late.changes.is_empty() && late.answers == *answers;
                let is_writer = is_told(operation, effect) || !found_nothing;
                if !is_writer {
                    readers.push(*operation);
                }
                is_writer
            });
        }
        if writers.len() > 1 {
            let first = writers[0].0;
            let what = format!(
                "two writes were told revision {revision}: {first:?} and {:?}",
                writers[1].0
            );
            self.complain("a revision is given once", what);
        }
        if let Some((writer, effect)) = writers.first() {
            let Outcome::Done { answers, .. } = &writer.outcome else { return };
            if *answers != effect.answers {
                let what = format!("{writer:?} should have been answered {:?}", effect.answers);
                self.complain("a transaction reads one state", what);
            }
            self.in_time(writer, before, revision);
            self.latest.note(writer.call, revision);
        } else if !changes.is_empty() {
            self.unanswered(revision, changes);
        }
        self.replayed.state.change(revision, changes);
        let after = self.latest;
        for reader in readers {
            self.read(reader, revision, after);
        }
    }

    fn in_time(&mut self, operation: &Operation, latest: Latest, revision: u64) {
        if operation.end < latest.call {
            let what = format!(
                "{operation:?} ended at {} and stands behind one of revision {} that began at \
                 {}; it was \
                 told revision {revision}",
                operation.end, latest.revision, latest.call
            );
            self.complain("real time is kept", what);
        }
    }

    fn read(&mut self, reader: &Operation, revision: u64, latest: Latest) {
        let Outcome::Done { succeeded, answers, .. } = &reader.outcome else { return };
        let effect = self.replayed.state.effect(&reader.ask, revision);
        if !effect.changes.is_empty() {
            let what = format!("{reader:?} is not in the log at revision {revision}");
            self.complain("what was acknowledged is there", what);
            return;
        }
        if (effect.succeeded, &effect.answers) != (*succeeded, answers) {
            let what = format!(
                "{reader:?} should have been answered {} {:?}",
                effect.succeeded, effect.answers
            );
            self.complain("a read shows the state of its revision", what);
        }
        if !reader.ask.stale {
            self.in_time(reader, latest, revision);
            self.latest.note(reader.call, revision);
        }
    }

    /// A change that nobody was told the revision of: of a client that got no answer, or of the store.
    fn unanswered(&mut self, revision: u64, changes: &[Change]) {
        let lock =
            |change: &Change| self.ordered.locks.iter().any(|name| change.key.starts_with(name));
        if changes.iter().all(lock) {
            return;
        }
        let value = changes.iter().find_map(|change| change.now.as_ref());
        let writer = match value {
            Some(stored) => {
                let Some(writer) = self.ordered.by_value.get(stored.value.as_str()) else {
                    let what = format!("revision {revision}: {changes:?}");
                    return self.complain("nothing comes from nowhere", what);
                };
                *writer
            }
            None => {
                let state = &self.replayed.state;
                let able = self.ordered.deletions.iter().copied().filter(|operation| {
                    !self.taken.contains_key(&std::ptr::from_ref(*operation))
                        && state.effect(&operation.ask, revision).changes == changes
                });
                // Any that was not answered will do; the one that began first leaves the others most room. One
                // that was refused is meant only where there is no other.
                let refused = |it: &Operation| matches!(it.outcome, Outcome::Refused(_));
                match able.min_by_key(|operation| (refused(operation), operation.call)) {
                    Some(writer) => writer,
                    None => return self.expired(revision, changes),
                }
            }
        };
        if let Some(earlier) = self.taken.insert(writer, revision) {
            let what = format!("{writer:?} is in the log at revision {earlier} and {revision}");
            return self.complain("nothing happens twice", what);
        }
        if let Outcome::Refused(why) = &writer.outcome {
            let what = format!("{writer:?} was refused ({why}) and is in the log at {revision}");
            self.complain("what was refused did not happen", what);
        }
        if self.replayed.state.effect(&writer.ask, revision).changes != changes {
            let what = format!("revision {revision} has {changes:?} of {writer:?}");
            self.complain("a transaction happens whole", what);
        }
        self.latest.note(writer.call, revision);
    }

    fn expired(&mut self, revision: u64, changes: &[Change]) {
        let keys = &self.replayed.state.keys;
        let leases: Vec<i64> = changes
            .iter()
            .map(|change| keys.get(&change.key).map_or(0, |stored| stored.lease))
            .collect();
        let lease = leases[0];
        if lease == 0 || leases.iter().any(|other| *other != lease) {
            let what = format!("revision {revision}: {changes:?} with leases {leases:?}");
            return self.complain("nothing comes from nowhere", what);
        }
        let all = keys.iter().filter(|(_, stored)| stored.lease == lease).count();
        if all != changes.len() {
            let what = format!(
                "revision {revision} deletes {} keys of lease {lease}, of {all}",
                changes.len()
            );
            self.complain("a lease takes all its keys at once", what);
        }
        self.replayed.expiries.push((revision, lease));
    }
}
