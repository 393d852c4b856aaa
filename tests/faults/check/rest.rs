//! How a cluster must be when everything has healed: it goes on, its members hold the same, and that is
//! what the log adds up to; so does what was restored from a copy.

use std::collections::BTreeMap;

use super::order::Replayed;
use super::{Violation, violation};
use crate::history::{Rest, Stored};

#[must_use]
pub fn check(rest: &Rest, replayed: &Replayed) -> Vec<Violation> {
    let mut found: Vec<Violation> =
        rest.stuck.iter().map(|what| violation("what heals goes on", what.clone())).collect();
    if let Some((first, others)) = rest.hashes.split_first() {
        for other in others.iter().filter(|other| other.1 != first.1) {
            let what = format!("{first:?} and {other:?}");
            found.push(violation("members hold the same", what));
        }
    }
    found.extend(same("the state is what the log adds up to", rest.revision, &rest.keys, replayed));
    if let Some((revision, keys)) = &rest.restored {
        found.extend(same("a copy holds what was there", *revision, keys, replayed));
    }
    found
}

fn same(
    promise: &str,
    revision: u64,
    keys: &[(String, Stored)],
    replayed: &Replayed,
) -> Vec<Violation> {
    // A run that ended before it could look.
    if revision == 0 {
        return Vec::new();
    }
    let wanted = replayed.state.all_at(revision);
    let there: BTreeMap<String, Stored> = keys.iter().cloned().collect();
    let mut found = Vec::new();
    for (key, stored) in &there {
        let known = wanted.get(key);
        if known != Some(stored) {
            let what = format!("at {revision}: {key} is {stored:?} and should be {known:?}");
            found.push(violation(promise, what));
        }
    }
    for (key, stored) in wanted.iter().filter(|(key, _)| !there.contains_key(*key)) {
        found.push(violation(promise, format!("at {revision}: {key} is missing: {stored:?}")));
    }
    found
}
