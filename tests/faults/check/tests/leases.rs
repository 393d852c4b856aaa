//! Leases and locks.

use super::build::{Store, put_leased};
use super::{breaks, holds};
use crate::history::{LeaseAsk, LeaseOperation, LeaseOutcome};

const SECOND: u64 = 1_000_000;

fn asked(ask: LeaseAsk, at: u64, outcome: LeaseOutcome) -> LeaseOperation {
    LeaseOperation { client: 1, member: 1, call: at, end: at + 10, lease: 7, ask, outcome }
}

fn granted(at: u64) -> LeaseOperation {
    asked(LeaseAsk::Grant { ttl_s: 5 }, at, LeaseOutcome::Done { ttl_s: 5 })
}

fn renewed(at: u64) -> LeaseOperation {
    asked(LeaseAsk::KeepAlive, at, LeaseOutcome::Done { ttl_s: 5 })
}

/// A lease of five seconds with two keys, which go at the second `gone`.
fn leased(operations: Vec<LeaseOperation>, gone: u64) -> Store {
    let mut store = Store::new();
    store.run(put_leased("a", "1", 7));
    store.run(put_leased("b", "2", 7));
    store.history.leases = operations;
    store.now = gone * SECOND;
    store.expire(&["a", "b"]);
    store
}

#[test]
fn a_lease_that_ends_in_its_time_is_right() {
    holds(leased(vec![granted(0)], 5).finish());
    holds(leased(vec![granted(0), renewed(4 * SECOND)], 9).finish());
    let revoked = asked(LeaseAsk::Revoke, SECOND, LeaseOutcome::Done { ttl_s: 0 });
    holds(leased(vec![granted(0), revoked], 2).finish());
    let at_once = asked(LeaseAsk::Revoke, 2 * SECOND, LeaseOutcome::Done { ttl_s: 0 });
    holds(leased(vec![granted(0), at_once], 2).finish());
    // A renewal that was not answered promises nothing.
    let unknown = asked(LeaseAsk::KeepAlive, 4 * SECOND, LeaseOutcome::Unknown(String::new()));
    holds(leased(vec![granted(0), unknown], 6).finish());
}

#[test]
fn a_lease_that_ends_early_is_found() {
    breaks(leased(vec![granted(0)], 4).finish(), "a lease does not end early");
    let renewed = vec![granted(0), renewed(4 * SECOND)];
    breaks(leased(renewed, 8).finish(), "a lease does not end early");
}

#[test]
fn a_lease_that_does_not_end_is_found() {
    let mut store = Store::new();
    store.run(put_leased("a", "1", 7));
    store.history.leases = vec![granted(0)];
    store.finish().rest.at = 100 * SECOND;
    breaks(&store.history, "a lease ends");
    store.history.rest.healed = 90 * SECOND;
    holds(&store.history);
}

#[test]
fn a_lease_that_leaves_a_key_behind_is_found() {
    let mut store = Store::new();
    store.run(put_leased("a", "1", 7));
    store.run(put_leased("b", "2", 7));
    store.expire(&["a"]);
    breaks(store.finish(), "a lease takes all its keys at once");
}

#[test]
fn a_lock_that_is_given_to_two_or_to_nobody_is_found() {
    let lock = |key: &str, revision| {
        let held = LeaseOutcome::Held { key: key.into(), revision };
        asked(LeaseAsk::Lock { name: "l".into() }, 30, held)
    };
    let locked = |lock: LeaseOperation| {
        let mut store = Store::new();
        store.run(put_leased("l/1", "1", 1));
        store.run(put_leased("l/2", "2", 2));
        store.expire(&["l/1"]);
        store.expire(&["l/2"]);
        store.history.leases.push(lock);
        store.finish().clone()
    };
    holds(&locked(lock("l/1", 2)));
    holds(&locked(lock("l/2", 4)));
    breaks(&locked(lock("l/2", 3)), "a lock is held by one");
    breaks(&locked(lock("l/1", 5)), "a lock that is given is held");
}
