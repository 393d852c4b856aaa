//! Revisions, real time and what is read.

use super::build::{Store, both, delete, get, put, saw, swap, told, unknown};
use super::{breaks, holds};
use crate::history::{Outcome, Stored};

fn some() -> Store {
    let mut store = Store::new();
    store.run(put("a", "1"));
    store.run(get("a"));
    store.run(put("b", "2"));
    store.run(swap("a", "1", "3"));
    store.run(swap("a", "1", "4"));
    store.run(both(put("a", "5"), put("b", "6")));
    store.run(both(get("a"), get("b")));
    store.run(delete("a"));
    store.run(get("a"));
    store
}

#[test]
fn a_store_that_does_one_thing_after_another_is_right() {
    holds(some().finish());
}

#[test]
fn a_wrong_value_is_found() {
    let mut store = some();
    saw(&mut store.history.operations[1], "2");
    breaks(store.finish(), "a read shows the state of its revision");
}

#[test]
fn a_stale_read_is_found() {
    let mut store = Store::new();
    store.run(put("a", "1"));
    let mut read = store.apply(get("a"));
    store.run(put("a", "2"));
    // Begun after the second write had ended, answered from before it.
    (read.call, read.end) = (store.now + 20, store.now + 25);
    store.history.operations.push(read.clone());
    breaks(store.finish(), "real time is kept");
    // A member may answer so where it was allowed to.
    let mut store = Store::new();
    store.run(put("a", "1"));
    store.run(put("a", "2"));
    read.ask.stale = true;
    store.history.operations.push(read);
    holds(store.finish());
}

#[test]
fn a_lost_write_is_found() {
    let mut store = some();
    let mut lost = store.apply(put("c", "lost"));
    store = {
        let mut without = some();
        without.now = store.now;
        without
    };
    told(&mut lost, 99);
    store.history.operations.push(lost);
    breaks(store.finish(), "what was acknowledged is there");
}

#[test]
fn a_revision_that_is_given_twice_is_found() {
    let mut store = some();
    let mut again = store.history.operations[0].clone();
    again.ask = put("a", "1");
    store.history.operations.push(again);
    breaks(store.finish(), "a revision is given once");
}

#[test]
fn what_is_not_known_may_have_happened_once_or_never() {
    let mut store = some();
    unknown(store.run(put("a", "7")));
    store.run(get("a"));
    let mut never = store.history.operations[0].clone();
    never.ask = put("a", "8");
    unknown(&mut never);
    store.history.operations.push(never);
    unknown(store.run(delete("a")));
    holds(store.finish());
}

/// Two delete the same key; who did it never heard of it, and the other found nothing.
#[test]
fn who_found_nothing_left_to_delete_did_not_delete_it() {
    let twice = || {
        let mut store = some();
        store.run(put("a", "9"));
        unknown(store.run(delete("a")));
        store.run(delete("a"));
        store
    };
    holds(twice().finish());

    let mut alone = twice();
    alone.history.operations.retain(|it| !matches!(it.outcome, Outcome::Unknown(_)));
    breaks(alone.finish(), "nothing comes from nowhere");
}

#[test]
fn what_happens_twice_is_found() {
    let mut store = some();
    unknown(store.run(put("a", "7")));
    store.apply(put("a", "7"));
    breaks(store.finish(), "nothing happens twice");
}

#[test]
fn what_was_refused_and_happened_is_found() {
    let mut store = some();
    store.run(put("a", "7")).outcome = Outcome::Refused("no leader".into());
    breaks(store.finish(), "what was refused did not happen");
}

#[test]
fn what_nobody_wrote_is_found() {
    let mut store = some();
    store.apply(put("a", "7"));
    breaks(store.finish(), "nothing comes from nowhere");
    let mut store = some();
    store.expire(&["b"]);
    breaks(store.finish(), "nothing comes from nowhere");
}

#[test]
fn half_a_transaction_is_found() {
    let mut store = some();
    store.apply(put("a", "7"));
    let mut whole = store.history.operations[0].clone();
    whole.ask = both(put("a", "7"), put("b", "8"));
    unknown(&mut whole);
    store.history.operations.push(whole);
    breaks(store.finish(), "a transaction happens whole");
}

#[test]
fn a_transaction_that_reads_two_states_is_found() {
    let mut store = some();
    saw(&mut store.history.operations[6], "3");
    breaks(store.finish(), "a read shows the state of its revision");
}

#[test]
fn writes_that_stand_in_another_order_than_they_came_are_found() {
    let mut store = some();
    let first = &mut store.history.operations[0];
    (first.call, first.end) = (1000, 1010);
    breaks(store.finish(), "real time is kept");
}

#[test]
fn members_that_differ_are_found() {
    let mut store = some();
    store.finish().rest.hashes = vec![("m1".into(), 1), ("m2".into(), 1), ("m3".into(), 2)];
    breaks(&store.history, "members hold the same");
}

#[test]
fn a_state_that_is_not_what_was_written_is_found() {
    let mut store = some();
    store.finish().rest.keys.push(("c".into(), Stored::default()));
    breaks(&store.history, "the state is what the log adds up to");
    let mut store = some();
    store.finish().rest.keys.clear();
    breaks(&store.history, "the state is what the log adds up to");
}

#[test]
fn a_copy_that_lacks_something_is_found() {
    let mut store = some();
    let held = store.state.all_at(store.revision).into_iter().collect::<Vec<_>>();
    store.finish().rest.restored = Some((store.revision, held));
    holds(&store.history);
    store.history.rest.restored = Some((store.revision, Vec::new()));
    breaks(&store.history, "a copy holds what was there");
}

#[test]
fn a_cluster_that_does_not_go_on_is_found() {
    let mut store = some();
    store.finish().rest.stuck.push("m3 does not serve".into());
    breaks(&store.history, "what heals goes on");
}
