//! Registers without revisions.

use super::build::{Store, get, put, saw, swap, unknown};
use crate::check::search::{REGISTERS, Searched, check};
use crate::history::Operation;

fn searched(operations: &[Operation]) -> Searched {
    let registers = |it: &Operation| Operation { workload: REGISTERS.into(), ..it.clone() };
    check(&operations.iter().map(registers).collect::<Vec<_>>())
}

fn some() -> Vec<Operation> {
    let mut store = Store::new();
    for number in 0..60 {
        store.run(put("a", &format!("{number}")));
        store.run(get("a"));
        store.run(swap("a", &format!("{number}"), &format!("{number}s")));
        store.run(swap("a", "nothing", "never"));
        store.run(get("a"));
    }
    store.history.operations
}

fn broken(operations: &[Operation]) -> usize {
    let searched = searched(operations);
    assert_eq!((searched.keys, searched.undecided), (1, 0));
    searched.violations.len()
}

#[test]
fn registers_that_do_one_thing_after_another_are_right() {
    assert_eq!(broken(&some()), 0);
}

#[test]
fn operations_at_one_time_have_any_order() {
    let mut operations = some();
    for chunk in operations.chunks_mut(4) {
        let (call, end) = (chunk[0].call, chunk[chunk.len() - 1].end);
        for operation in chunk {
            (operation.call, operation.end) = (call, end);
        }
    }
    assert_eq!(broken(&operations), 0);
}

#[test]
fn a_read_that_goes_back_is_found() {
    let mut operations = some();
    saw(&mut operations[100], "3");
    // What it is said to have seen was there before; never mind the revision.
    let read = operations.iter().rposition(|it| it.ask == get("a")).unwrap();
    saw(&mut operations[read], "3");
    assert_eq!(broken(&operations), 1);
}

#[test]
fn a_swap_that_lies_is_found() {
    let mut store = Store::new();
    store.run(put("a", "1"));
    let mut lie = store.apply(swap("a", "2", "3"));
    if let crate::history::Outcome::Done { succeeded, .. } = &mut lie.outcome {
        *succeeded = true;
    }
    store.history.operations.push(lie);
    store.run(get("a"));
    assert_eq!(broken(&store.history.operations), 1);
}

#[test]
fn what_was_not_answered_may_be_seen_late_or_never() {
    let mut store = Store::new();
    store.run(put("a", "1"));
    let mut late = store.apply(put("a", "2"));
    unknown(&mut late);
    store.state = Store::new().state;
    store.history.operations.push(late);
    let mut operations = store.history.operations;
    let mut reads = Store::new();
    reads.now = 1000;
    reads.apply(put("a", "1"));
    let first = reads.apply(get("a"));
    reads.apply(put("a", "2"));
    let second = reads.apply(get("a"));
    operations.extend([first.clone(), second.clone()]);
    assert_eq!(broken(&operations), 0);
    // But it is not undone.
    let mut third = first;
    (third.call, third.end) = (5000, 5010);
    operations.push(third);
    assert_eq!(broken(&operations), 1);
}

#[test]
fn a_key_that_is_too_large_is_undecided_and_not_right() {
    // Writes at one time that nobody reads in the end: every order of them is to be tried.
    let mut store = Store::new();
    for number in 0..26 {
        let write = store.run(put("a", &format!("{number}")));
        (write.call, write.end) = (0, 1_000_000);
    }
    let read = store.run(get("a"));
    (read.call, read.end) = (2_000_000, 2_000_010);
    saw(read, "none of them");
    let searched = searched(&store.history.operations);
    assert_eq!(searched.undecided, 1);
}
