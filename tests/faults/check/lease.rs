//! What a lease is promised: it does not end before its time, it ends, and it takes its keys with it. And
//! of a lock: who is told that it holds it has the oldest key of it at that moment.

use std::collections::HashMap;

use super::log::Log;
use super::order::Replayed;
use super::{Violation, violation};
use crate::history::{History, LeaseAsk, LeaseOperation, LeaseOutcome, Micros};

/// How long after its time, and after the last fault, a lease may still be there: an election and a
/// turn of whoever looks for leases that ended.
const GRACE: Micros = 15_000_000;
const SECOND: Micros = 1_000_000;

#[must_use]
pub fn check(history: &History, log: &Log, replayed: &Replayed) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut of: HashMap<i64, Vec<&LeaseOperation>> = HashMap::new();
    for operation in &history.leases {
        of.entry(operation.lease).or_default().push(operation);
    }
    for (revision, lease) in &replayed.expiries {
        let seen = log.get(revision).map_or(0, |entry| entry.seen);
        found.extend(early(*revision, *lease, seen, of.get(lease).map_or(&[][..], |all| all)));
    }
    late(history, &of, &mut found);
    for operation in &history.leases {
        found.extend(held(operation, replayed));
    }
    found
}

/// A renewal counts from when it was asked for; that the keys went was seen no sooner than they did. On
/// simulated time what is asked may be carried out and seen at the same moment.
fn early(revision: u64, lease: i64, seen: Micros, all: &[&LeaseOperation]) -> Option<Violation> {
    if all.iter().any(|it| it.ask == LeaseAsk::Revoke && it.call <= seen) {
        return None;
    }
    let promised = all
        .iter()
        .filter(|it| it.end < seen)
        .filter_map(|it| match it.outcome {
            LeaseOutcome::Done { ttl_s } if ttl_s > 0 => {
                Some(it.call + ttl_s.unsigned_abs() * SECOND)
            }
            _ => None,
        })
        .max()?;
    (seen < promised).then(|| {
        violation(
            "a lease does not end early",
            format!(
                "lease {lease} ended at revision {revision}, seen at {seen}; it was promised until \
                 {promised}"
            ),
        )
    })
}

fn late(history: &History, of: &HashMap<i64, Vec<&LeaseOperation>>, found: &mut Vec<Violation>) {
    let rest = &history.rest;
    for (key, stored) in &rest.keys {
        let Some(all) = of.get(&stored.lease).filter(|_| stored.lease != 0) else { continue };
        let ttl = all.iter().filter_map(|it| match it.ask {
            LeaseAsk::Grant { ttl_s } => Some(ttl_s.unsigned_abs() * SECOND),
            _ => None,
        });
        let renewed = all.iter().map(|it| it.end).max().unwrap_or_default();
        let until = renewed.max(rest.healed) + ttl.max().unwrap_or_default() + GRACE;
        if rest.at > until {
            let what = format!(
                "{key} of lease {} is there at {}, not after {until}",
                stored.lease, rest.at
            );
            found.push(violation("a lease ends", what));
        }
    }
}

fn held(operation: &LeaseOperation, replayed: &Replayed) -> Option<Violation> {
    let LeaseAsk::Lock { name } = &operation.ask else { return None };
    let LeaseOutcome::Held { key, revision } = &operation.outcome else { return None };
    // What is locked behind the end of the log cannot be told.
    if *revision > replayed.newest {
        return None;
    }
    let Some(mine) = replayed.state.at(key, *revision) else {
        return Some(violation(
            "a lock that is given is held",
            format!("{operation:?}: its key is not there at revision {revision}"),
        ));
    };
    let older = replayed.state.oldest(&format!("{name}/"), *revision)?;
    (older.1.created < mine.created).then(|| {
        violation(
            "a lock is held by one",
            format!("{operation:?}: {} was there before it", older.0),
        )
    })
}
