//! Lists and sets.

use super::build::{Store, both, get, put, saw};
use super::{breaks, holds};
use crate::check::elements::{LISTS, SET, check};
use crate::history::{Operation, Outcome, Rest};

fn lists() -> Store {
    let mut store = Store::new();
    store.run(both(get("x"), put("x", "1")));
    store.run(both(get("x"), put("x", "1 2")));
    store.run(both(get("x"), both(get("y"), put("y", "3"))));
    store.run(both(get("y"), put("x", "1 2 4")));
    for operation in &mut store.history.operations {
        operation.workload = LISTS.into();
    }
    store
}

fn found(operations: &[Operation]) -> Vec<String> {
    let found = check(operations, &Rest::default());
    found.into_iter().map(|violation| violation.promise).collect()
}

#[test]
fn lists_that_grow_are_right() {
    holds(lists().finish());
}

#[test]
fn an_element_that_was_lost_is_found() {
    let mut store = lists();
    saw(&mut store.history.operations[2], "2");
    assert_eq!(found(&store.history.operations), ["lists only grow"]);
}

#[test]
fn an_element_that_is_there_twice_is_found() {
    let mut store = lists();
    store.run(put("x", "1 2 4 2")).workload = LISTS.into();
    assert!(found(&store.history.operations).contains(&"nothing happens twice".to_owned()));
}

#[test]
fn transactions_that_each_miss_the_other_are_found() {
    // Write skew: both read what the other then changed.
    let mut store = Store::new();
    let mut one = store.apply(both(get("x"), both(get("y"), put("x", "1"))));
    let mut other = Store::new().apply(both(get("x"), both(get("y"), put("y", "2"))));
    one.workload = LISTS.into();
    other.workload = LISTS.into();
    assert_eq!(found(&[one, other]), ["transactions have an order"]);
}

#[test]
fn what_was_added_to_a_set_and_is_gone_is_found() {
    let mut store = Store::new();
    for number in 0..5 {
        store.run(put(&format!("s/{number}"), "")).workload = SET.into();
    }
    store.finish().rest.keys.remove(3);
    breaks(&store.history, "what was acknowledged is there");
    let mut store = Store::new();
    let added = store.run(put("s/1", ""));
    added.workload = SET.into();
    added.outcome = Outcome::Refused("no leader".into());
    breaks(store.finish(), "what was refused did not happen");
}
