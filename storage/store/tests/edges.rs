//! The edges of etcd's semantics, one by one.

use std::future::Future;
use std::task::{Context, Poll, Waker};

use super::*;
use crate::lease::{LeaseChange, Update};
use crate::record::{Event, EventKind};
use crate::request::{
    Bounds, Compare, Condition, Guarded, Operand, Operation, OperationAnswer, Order, Relation,
    Target, Transaction,
};
use crate::watch::{Cut, Delivery, Request};

fn all() -> Range {
    Range::new(KeyRange::all())
}

fn at(revision: u64) -> Range {
    Range { revision: Revision(revision), ..all() }
}

fn one(key: &str) -> KeyRange {
    KeyRange::One(bytes(key))
}

fn grant(id: i64) -> Command {
    Command::LeaseGrant { id: LeaseId(id), ttl_s: 60 }
}

fn transaction(operations: Vec<Operation>) -> Command {
    Command::Transaction(Transaction { success: operations, ..Transaction::default() })
}

fn put_operation(key: &str, value: &str) -> Operation {
    Operation::Put(Put { key: bytes(key), value: bytes(value), ..Put::default() })
}

fn delete_operation(range: KeyRange) -> Operation {
    Operation::Delete(Delete { range, previous: false })
}

fn nested(operations: Vec<Operation>) -> Operation {
    Operation::Transaction(Transaction { success: operations, ..Transaction::default() })
}

/// Kind, key, revision and previous value of each event from `from` on.
fn events(bench: &Bench, from: u64) -> Vec<(EventKind, String, u64, Option<String>)> {
    let view = bench.store.view();
    let everything = KeyRange::all();
    let (commits, _) = view
        .events(Revision(from), view.revision(), &everything, usize::MAX)
        .expect("not compacted");
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).expect("text");
    let told = commits.iter().flat_map(|commit| commit.events.iter());
    told.map(|event: &Arc<Event>| {
        let previous = event.previous.as_ref().map(|kv| text(&kv.value));
        (event.kind, text(&event.kv.key), event.kv.modified.0, previous)
    })
    .collect()
}

#[test]
fn an_empty_store_is_at_revision_1_and_can_be_read_there() {
    let bench = Bench::new();
    assert_eq!(bench.store.revision(), Revision(1));
    assert_eq!(bench.store.compacted(), Revision::ZERO);
    assert_eq!(bench.store.applied(), (Index(0), Bytes::new()));
    assert_eq!(bench.store.range(&at(1)), Ok((RangeAnswer::default(), Revision(1))));
    let future = Error::Future { asked: Revision(2), newest: Revision(1) };
    assert_eq!(bench.store.range(&at(2)), Err(future));
}

#[test]
fn the_first_write_is_revision_2_and_versions_count_from_1_and_start_again() {
    let mut bench = Bench::new();
    assert_eq!(bench.put("k", "1"), Revision(2));
    assert_eq!(bench.put("k", "2"), Revision(3));
    let kv = bench.store.view().get(&bytes("k")).expect("readable").expect("there");
    assert_eq!((kv.created, kv.modified, kv.version), (Revision(2), Revision(3), 2));
    bench.delete("k");
    bench.put("k", "3");
    let kv = bench.store.view().get(&bytes("k")).expect("readable").expect("there");
    assert_eq!((kv.created, kv.modified, kv.version), (Revision(5), Revision(5), 1));
}

#[test]
fn what_changes_nothing_takes_no_revision() {
    let mut bench = Bench::new();
    bench.put("a", "");
    assert_eq!(bench.delete("missing"), Revision(2));
    let answer = bench.command(transaction(vec![Operation::Range(all())])).expect("a plain read");
    assert_eq!(answer.revision, Revision(2));
    assert_eq!(bench.command(grant(1)).expect("a new id").revision, Revision(2));
    bench.compact(1);
    assert_eq!(bench.put("b", ""), Revision(3));
}

#[test]
fn the_changes_of_a_transaction_share_a_revision_and_keep_their_order() {
    let mut bench = Bench::new();
    bench.put("z", "old");
    let operations =
        vec![put_operation("z", "new"), delete_operation(one("a")), put_operation("b", "")];
    let answer = bench.command(transaction(operations)).expect("nothing against it");
    assert_eq!(answer.revision, Revision(3));
    let told = events(&bench, 3);
    assert_eq!(
        told,
        [
            (EventKind::Put, "z".into(), 3, Some("old".into())),
            (EventKind::Put, "b".into(), 3, None),
        ]
    );
}

#[test]
fn count_is_of_the_whole_range_whatever_limit_and_bounds_let_through() {
    let mut bench = Bench::new();
    for key in ["a", "b", "c", "d"] {
        bench.put(key, key);
    }
    let read = |request: Range| {
        let (answer, _) = bench.store.range(&request).expect("readable");
        (keys_of(&answer.kvs).join(""), answer.more, answer.count)
    };
    assert_eq!(read(Range { limit: 2, ..all() }), ("ab".into(), true, 4));
    assert_eq!(read(Range { limit: 4, ..all() }), ("abcd".into(), false, 4));
    let late = Bounds { min: Revision(4), max: Revision::ZERO };
    assert_eq!(read(Range { modified: late, ..all() }), ("cd".into(), false, 4));
    assert_eq!(read(Range { modified: late, limit: 1, ..all() }), ("c".into(), true, 4));
    assert_eq!(read(Range { count_only: true, limit: 1, ..all() }), (String::new(), false, 4));
}

#[test]
fn the_limit_cuts_after_the_sort() {
    let mut bench = Bench::new();
    for (key, value) in [("a", "2"), ("b", "3"), ("c", "1")] {
        bench.put(key, value);
    }
    let read = |order, target, keys_only| {
        let request = Range { order, target, keys_only, limit: 2, ..all() };
        let (answer, _) = bench.store.range(&request).expect("readable");
        assert!(answer.more);
        let values: Vec<_> = answer.kvs.iter().map(|kv| kv.value.len()).collect();
        (keys_of(&answer.kvs).join(""), values)
    };
    assert_eq!(read(Order::Descending, Target::Key, false), ("cb".into(), vec![1, 1]));
    assert_eq!(read(Order::Ascending, Target::Value, false), ("ca".into(), vec![1, 1]));
    // By another target without an order means ascending.
    assert_eq!(read(Order::None, Target::Value, false), ("ca".into(), vec![1, 1]));
    assert_eq!(read(Order::Descending, Target::Created, false), ("cb".into(), vec![1, 1]));
    // The values are sorted by and then left out.
    assert_eq!(read(Order::Descending, Target::Value, true), ("ba".into(), vec![0, 0]));
}

#[test]
fn an_upside_down_range_is_empty() {
    let mut bench = Bench::new();
    bench.put("b", "");
    let upside_down = KeyRange::Between { start: bytes("c"), end: bytes("a") };
    let empty = KeyRange::Between { start: bytes("b"), end: bytes("b") };
    for range in [upside_down, empty] {
        let (answer, _) = bench.store.range(&Range::new(range)).expect("readable");
        assert_eq!(answer.count, 0);
    }
}

#[test]
fn the_compacted_revision_can_be_read_and_the_one_before_cannot() {
    let mut bench = Bench::new();
    bench.put("k", "1");
    bench.put("k", "2");
    bench.put("k", "3");
    bench.compact(3);
    let (answer, _) = bench.store.range(&at(3)).expect("at the compacted revision");
    assert_eq!(answer.kvs[0].value, "2");
    let compacted = Error::Compacted { asked: Revision(2), oldest: Revision(3) };
    assert_eq!(bench.store.range(&at(2)), Err(compacted));
    assert_eq!(
        bench.command(Command::Compact(Revision(3))),
        Err(Error::Compacted { asked: Revision(3), oldest: Revision(3) })
    );
    assert_eq!(
        bench.command(Command::Compact(Revision(5))),
        Err(Error::Future { asked: Revision(5), newest: Revision(4) })
    );
}

#[test]
fn a_delete_at_the_compacted_revision_is_still_told() {
    let eager = Faults { reclaim_one_in: 1, ..Faults::default() };
    let mut bench = Bench::with(1, eager);
    bench.put("k", "1");
    bench.delete("k");
    bench.put("other", "");
    bench.compact(3);
    bench.store.sync().expect("the engine works");
    bench.put("other", "2");
    assert_eq!(
        events(&bench, 3),
        [
            // What was there before it is forgotten.
            (EventKind::Delete, "k".into(), 3, None),
            (EventKind::Put, "other".into(), 4, None),
            (EventKind::Put, "other".into(), 5, Some(String::new())),
        ]
    );
    let view = bench.store.view();
    let compacted = Error::Compacted { asked: Revision(2), oldest: Revision(3) };
    let early = view.events(Revision(2), view.revision(), &KeyRange::all(), usize::MAX);
    assert_eq!(early.err(), Some(compacted));
}

#[test]
fn the_newest_version_of_a_live_key_outlives_every_compaction() {
    let eager = Faults { reclaim_one_in: 1, ..Faults::default() };
    let mut bench = Bench::with(1, eager);
    bench.put("old", "kept");
    for _ in 0..5 {
        bench.put("busy", "x");
    }
    bench.compact(7);
    bench.store.sync().expect("the engine works");
    bench.put("busy", "y");
    let (answer, _) = bench.store.range(&at(7)).expect("at the compacted revision");
    assert_eq!(keys_of(&answer.kvs), ["busy", "old"]);
    assert_eq!(answer.kvs[1].value, "kept");
}

#[test]
fn rows_go_only_after_the_compaction_is_durable() {
    let eager = Faults { reclaim_one_in: 1, ..Faults::default() };
    let mut bench = Bench::with(1, eager);
    bench.put("k", "1");
    bench.put("k", "2");
    bench.store.sync().expect("the engine works");
    bench.compact(3);
    bench.put("other", "");
    let past = |bench: &Bench| {
        let engine = bench.store.engine();
        let mut cursor =
            engine.cursor(Table::Past, Span { lower: b"", upper: None }).expect("readable");
        std::iter::from_fn(|| cursor.next().expect("readable").map(drop)).count()
    };
    assert_eq!(past(&bench), 1, "the compaction may still be lost in a crash");
    bench.store.sync().expect("the engine works");
    bench.put("other", "2");
    bench.compact(5);
    assert_eq!(past(&bench), 1, "only the version of `other` that revision 4 may be read for");
}

#[test]
fn a_read_of_history_that_a_compaction_overtook_says_so() {
    let mut bench = Bench::new();
    bench.put("k", "1");
    bench.put("k", "2");
    bench.put("k", "3");
    let view = bench.store.view();
    let mut pages = view.pages(at(2));
    bench.compact(4);
    assert!(view.range(&at(2)).is_ok(), "the view is older than the compaction");
    bench.store.sync().expect("the engine works");
    let compacted = || Some(Error::Compacted { asked: Revision(2), oldest: Revision(4) });
    assert_eq!(view.range(&at(2)).err(), compacted());
    assert_eq!(pages.next_page(1).err(), compacted());
    assert_eq!(pages.next_page(1).err(), compacted(), "an error is not the end");
    let early = view.events(Revision(2), Revision(4), &KeyRange::all(), usize::MAX);
    assert_eq!(early.err(), compacted());
    assert!(view.range(&all()).is_ok(), "the newest state needs no history");
    assert!(view.range(&at(4)).is_ok());
}

#[test]
fn a_read_inside_a_transaction_sees_its_writes_and_none_after_it() {
    let mut bench = Bench::new();
    bench.put("a", "1");
    let read = |revision| Operation::Range(Range { revision: Revision(revision), ..all() });
    let operations =
        vec![put_operation("b", "2"), read(0), read(2), delete_operation(one("a")), read(0)];
    let answer = bench.command(transaction(operations)).expect("nothing against it");
    let Outcome::Transaction(answer) = answer.outcome else { panic!("a transaction") };
    let seen = |place: usize| match &answer.answers[place] {
        OperationAnswer::Range(answer) => keys_of(&answer.kvs).join(""),
        other => panic!("{other:?}"),
    };
    assert_eq!((seen(1), seen(2), seen(4)), ("ab".into(), "a".into(), "b".into()));
}

#[test]
fn a_transaction_that_asks_for_what_cannot_be_read_changes_nothing() {
    let mut bench = Bench::new();
    bench.put("a", "1");
    bench.put("a", "2");
    bench.compact(3);
    let with = |operation| transaction(vec![put_operation("b", ""), nested(vec![operation])]);
    let read = |revision| Operation::Range(Range { revision: Revision(revision), ..all() });
    let keep = |ignore_value, ignore_lease| {
        let put = Put { key: bytes("new"), ignore_value, ignore_lease, ..Put::default() };
        Operation::Put(put)
    };
    let leased = Operation::Put(Put { key: bytes("c"), lease: LeaseId(9), ..Put::default() });
    for (operation, wanted) in [
        (read(2), Error::Compacted { asked: Revision(2), oldest: Revision(3) }),
        // The revision of the transaction itself is still to come.
        (read(4), Error::Future { asked: Revision(4), newest: Revision(3) }),
        (keep(true, false), Error::KeyNotFound),
        (keep(false, true), Error::KeyNotFound),
        (leased, Error::LeaseNotFound(LeaseId(9))),
    ] {
        assert_eq!(bench.command(with(operation)), Err(wanted));
    }
    assert_eq!(bench.store.revision(), Revision(3));
    assert_eq!(bench.store.view().count(&KeyRange::all()), Ok(1));
    // A branch that is not taken is not asked.
    let either = Command::Transaction(Transaction {
        success: vec![put_operation("b", "")],
        failure: vec![read(2)],
        ..Transaction::default()
    });
    assert!(bench.command(either).is_ok());
}

#[test]
fn nested_comparisons_look_at_the_state_before_the_transaction() {
    let mut bench = Bench::new();
    let absent =
        Compare { range: one("a"), relation: Relation::Equal, operand: Operand::Version(0) };
    let inner = Transaction {
        compare: vec![absent],
        success: vec![put_operation("saw nothing", "")],
        failure: vec![put_operation("saw a", "")],
    };
    let outer = transaction(vec![put_operation("a", ""), Operation::Transaction(inner)]);
    bench.command(outer).expect("nothing against it");
    let (answer, _) = bench.store.range(&all()).expect("readable");
    assert_eq!(keys_of(&answer.kvs), ["a", "saw nothing"]);
}

#[test]
fn a_comparison_of_a_range_must_hold_for_every_key_in_it() {
    let mut bench = Bench::new();
    bench.put("a", "1");
    bench.put("b", "2");
    let holds = |bench: &Bench, range, relation, operand| {
        let compare = vec![Compare { range, relation, operand }];
        let transaction = Transaction { compare, ..Transaction::default() };
        bench.store.view().transaction(&transaction).expect("a plain read").succeeded
    };
    let value = |text| Operand::Value(bytes(text));
    assert!(holds(&bench, KeyRange::all(), Relation::Less, value("3")));
    assert!(!holds(&bench, KeyRange::all(), Relation::Less, value("2")));
    // A missing key has no value, and zeros for the rest.
    assert!(!holds(&bench, one("x"), Relation::Equal, value("")));
    assert!(!holds(&bench, one("x"), Relation::NotEqual, value("1")));
    assert!(holds(
        &bench,
        KeyRange::prefix("x"),
        Relation::Equal,
        Operand::Created(Revision::ZERO)
    ));
    assert!(holds(&bench, one("x"), Relation::Less, Operand::Lease(LeaseId(1))));
}

#[test]
fn a_key_put_and_deleted_in_one_transaction_leaves_two_events_and_no_trace() {
    let eager = Faults { reclaim_one_in: 1, ..Faults::default() };
    let mut bench = Bench::with(1, eager);
    bench.put("k", "old");
    let both =
        vec![nested(vec![put_operation("k", "new")]), nested(vec![delete_operation(one("k"))])];
    bench.command(transaction(both)).expect("etcd lets this through");
    assert_eq!(bench.store.view().count(&KeyRange::all()), Ok(0));
    // What was before is what a read at the revision before would find.
    assert_eq!(
        events(&bench, 3),
        [
            (EventKind::Put, "k".into(), 3, Some("old".into())),
            (EventKind::Delete, "k".into(), 3, Some("old".into())),
        ]
    );
    bench.put("other", "");
    bench.compact(3);
    assert_eq!(events(&bench, 3)[0], (EventKind::Delete, "k".into(), 3, None));
    bench.store.sync().expect("the engine works");
    bench.put("other", "2");
    assert_eq!(events(&bench, 3)[0], (EventKind::Delete, "k".into(), 3, None));
}

#[test]
fn a_key_deleted_and_put_in_one_transaction_begins_anew() {
    let mut bench = Bench::new();
    bench.put("k", "old");
    let both = vec![delete_operation(KeyRange::From(bytes("a"))), put_operation("k", "new")];
    bench.command(transaction(both)).expect("etcd lets this through");
    let kv = bench.store.view().get(&bytes("k")).expect("readable").expect("there");
    assert_eq!((kv.created, kv.version, kv.value), (Revision(3), 1, bytes("new")));
    assert_eq!(
        events(&bench, 3),
        [
            (EventKind::Delete, "k".into(), 3, Some("old".into())),
            (EventKind::Put, "k".into(), 3, Some("old".into())),
        ]
    );
    let (answer, _) = bench.store.range(&at(2)).expect("not compacted");
    assert_eq!(answer.kvs[0].value, "old");
}

#[test]
fn a_put_keeps_what_it_is_told_to_keep_and_answers_with_what_was_there() {
    let mut bench = Bench::new();
    bench.command(grant(1)).expect("a new id");
    let first = Put { key: bytes("k"), value: bytes("v"), lease: LeaseId(1), ..Put::default() };
    bench.command(Command::Put(first)).expect("a plain put");
    let value = Put { key: bytes("k"), ignore_value: true, ignore_lease: true, ..Put::default() };
    bench.command(Command::Put(value)).expect("it is there");
    let kv = bench.store.view().get(&bytes("k")).expect("readable").expect("there");
    assert_eq!((&kv.value, kv.lease, kv.version), (&bytes("v"), LeaseId(1), 2));
    // A put that says nothing of a lease takes it away.
    let plain = Put { key: bytes("k"), previous: true, ..Put::default() };
    let answer = bench.command(Command::Put(plain)).expect("a plain put");
    assert_eq!(answer.outcome, Outcome::Put(crate::request::PutAnswer { previous: Some(kv) }));
    assert_eq!(bench.store.lease_keys(LeaseId(1)), Ok(Vec::new()));
    let missing = Put { key: bytes("x"), ignore_lease: true, ..Put::default() };
    assert_eq!(bench.command(Command::Put(missing)), Err(Error::KeyNotFound));
}

#[test]
fn a_lease_takes_its_keys_with_it_at_one_revision() {
    let mut bench = Bench::new();
    bench.command(grant(1)).expect("a new id");
    assert_eq!(bench.command(grant(1)), Err(Error::LeaseExists(LeaseId(1))));
    assert_eq!(bench.command(put_leased("k", 2)), Err(Error::LeaseNotFound(LeaseId(2))));
    for key in ["b", "a", "moved"] {
        bench.command(put_leased(key, 1)).expect("the lease is there");
    }
    bench.command(grant(2)).expect("a new id");
    bench.command(put_leased("moved", 2)).expect("the lease is there");
    assert_eq!(bench.store.lease_keys(LeaseId(1)), Ok(vec![bytes("a"), bytes("b")]));
    let answer = bench.command(Command::LeaseRevoke { id: LeaseId(1) }).expect("it is there");
    assert_eq!(answer.revision, Revision(6));
    assert_eq!(
        events(&bench, 6),
        [
            (EventKind::Delete, "a".into(), 6, Some(String::new())),
            (EventKind::Delete, "b".into(), 6, Some(String::new())),
        ]
    );
    let again = bench.command(Command::LeaseRevoke { id: LeaseId(1) });
    assert_eq!(again, Err(Error::LeaseNotFound(LeaseId(1))));
    // A lease without keys goes without a revision.
    bench.command(grant(3)).expect("a new id");
    let answer = bench.command(Command::LeaseRevoke { id: LeaseId(3) }).expect("it is there");
    assert_eq!(answer.revision, Revision(6));
}

#[test]
fn leases_granted_used_and_ended_in_one_group_leave_nothing() {
    let mut bench = Bench::new();
    let answers = bench.group(vec![
        vec![grant(1), put_leased("k", 1)],
        vec![put_leased("l", 1), Command::LeaseRevoke { id: LeaseId(1) }, put_leased("m", 1)],
    ]);
    assert_eq!(answers[1][2], Err(Error::LeaseNotFound(LeaseId(1))));
    let (answer, revision) = bench.store.range(&all()).expect("readable");
    assert_eq!((answer.count, revision), (0, Revision(4)));
    assert_eq!(bench.store.leases(), Ok(Vec::new()));
    assert_eq!(bench.store.lease_keys(LeaseId(1)), Ok(Vec::new()));
}

#[test]
fn a_keepers_verdict_holds_in_its_own_term_only() {
    let mut bench = Bench::new();
    let expire =
        |term| Command::LeaseExpire { ids: vec![LeaseId(1), LeaseId(9), LeaseId(2)], term };
    let checkpoint = |term| Command::LeaseCheckpoint {
        remaining_ms: vec![(LeaseId(1), 500), (LeaseId(9), 1)],
        term,
    };
    bench.entry(vec![grant(1), grant(2), put_leased("a", 1), put_leased("b", 2)]);
    let outcome = |answer: Result<Answer, Error>| answer.expect("never refused").outcome;
    assert_eq!(outcome(bench.command(expire(TERM - 1))), Outcome::LeasesExpired(0));
    assert_eq!(outcome(bench.command(checkpoint(TERM - 1))), Outcome::Checkpointed);
    let fresh = Lease { id: LeaseId(1), ttl_s: 60, remaining_ms: None };
    assert_eq!(bench.store.lease(LeaseId(1)), Ok(Some(fresh)));
    assert_eq!(outcome(bench.command(checkpoint(TERM))), Outcome::Checkpointed);
    let aged = Lease { remaining_ms: Some(500), ..fresh };
    assert_eq!(bench.store.lease(LeaseId(1)), Ok(Some(aged)));
    // One revision for each, and what is gone already is passed over.
    let answer = bench.command(expire(TERM)).expect("never refused");
    assert_eq!((answer.outcome, answer.revision), (Outcome::LeasesExpired(2), Revision(5)));
    assert_eq!(bench.store.leases(), Ok(Vec::new()));
}

#[test]
fn the_lease_keeper_is_told_what_came_of_leases() {
    let mut bench = Bench::new();
    let mut changes = bench.store.lease_changes();
    let checkpoint = Command::LeaseCheckpoint { remaining_ms: vec![(LeaseId(1), 5)], term: TERM };
    bench.entry(vec![grant(1), grant(1), checkpoint]);
    bench.command(Command::LeaseRevoke { id: LeaseId(1) }).expect("it is there");
    assert_eq!(
        changes.try_next(),
        Some(Update::Changes(vec![
            LeaseChange::Granted { id: LeaseId(1), ttl_s: 60 },
            LeaseChange::Checkpointed { id: LeaseId(1), remaining_ms: 5 },
            LeaseChange::Revoked { id: LeaseId(1) },
        ]))
    );
}

#[test]
fn entries_come_one_after_the_other_from_0_or_1_on() {
    let start = |index| {
        let bench = Bench::new();
        let first = bench.store.apply(&[entry(Index(index), vec![put("k", "")])]);
        (first.map(|answers| answers.len()), bench.store)
    };
    assert_eq!(start(0).0, Ok(1));
    assert_eq!(start(1).0, Ok(1));
    let out_of_order =
        |given, applied| Some(Error::OutOfOrder { given: Index(given), applied: Index(applied) });
    assert_eq!(start(2).0.err(), out_of_order(2, 0));
    for given in [0, 1, 3] {
        let (_, store) = start(1);
        assert_eq!(store.apply(&[entry(Index(given), vec![])]).err(), out_of_order(given, 1));
        let next = store.apply(&[entry(Index(2), vec![])]);
        assert_eq!(next.err(), out_of_order(given, 1), "after a fatal error nothing is applied");
    }
}

#[test]
fn an_entry_without_commands_moves_the_mark_alone() {
    let mut bench = Bench::new();
    assert_eq!(bench.entry(vec![]), Vec::new());
    assert_eq!(bench.store.applied(), (Index(1), bytes("mark 1")));
    assert_eq!(bench.store.revision(), Revision(1));
}

#[test]
fn a_group_with_an_entry_out_of_order_leaves_nothing_behind() {
    let bench = Bench::new();
    let before = bench.store.digest();
    let group = [entry(Index(1), vec![put("k", "")]), entry(Index(3), vec![])];
    assert!(bench.store.apply(&group).is_err());
    assert_eq!(bench.store.applied().0, Index(0));
    assert_eq!(bench.store.digest(), before);
    assert_eq!(open(&bench.disk).view().count(&KeyRange::all()), Ok(0));
}

#[test]
fn after_a_failed_write_nothing_is_applied_and_what_was_read_stays() {
    let mut bench = Bench::new();
    bench.put("k", "1");
    bench.disk.set_faults(Faults { failing_write: Some(3), ..Faults::default() });
    let failed = bench.store.apply(&[entry(Index(2), vec![put("k", "2")])]);
    assert!(failed.as_ref().is_err_and(Error::is_fatal), "{failed:?}");
    assert_eq!(bench.store.revision(), Revision(2));
    assert_eq!(bench.store.apply(&[entry(Index(2), vec![])]).err(), failed.err());
    let (answer, _) = bench.store.range(&all()).expect("readable");
    assert_eq!(answer.kvs[0].value, "1");
}

#[test]
fn what_is_durable_is_what_a_sync_returned_or_an_opening_found() {
    let mut bench = Bench::new();
    bench.put("k", "1");
    assert_eq!(bench.store.durable(), Index(0));
    assert_eq!(bench.store.sync(), Ok((Index(1), bytes("mark 1"))));
    bench.put("k", "2");
    assert_eq!(bench.store.durable(), Index(1));
    bench.disk.crash();
    let store = open(&bench.disk);
    assert!(store.durable() >= Index(1));
    assert_eq!(store.durable(), store.applied().0);
}

#[test]
fn a_directory_of_a_later_release_is_refused_and_one_without_a_format_is_damaged() {
    let disk = MemoryDisk::new(1, Faults::default());
    let floor = Floor::new();
    let engine = Memory::open(&disk, floor.retain());
    let mut batch = Batch::new();
    batch.put(Table::Meta, &[keys::FORMAT], &[&2u32.to_be_bytes()]);
    engine.write(&batch).expect("the engine works");
    let options = Options { directory: "/data/state".into(), ..Options::default() };
    let refused = Store::open(engine.clone(), floor.clone(), options.clone()).err();
    let Some(Error::Refused { path, reason }) = refused else { panic!("{refused:?}") };
    assert_eq!(path, options.directory);
    assert!(reason.contains("layout 2"), "{reason}");
    batch.clear();
    batch.delete(Table::Meta, &[keys::FORMAT]);
    batch.put(Table::Live, &[b"k"], &[b"row"]);
    engine.write(&batch).expect("the engine works");
    let damaged = Store::open(engine, floor, options).err();
    assert!(matches!(damaged, Some(Error::Damaged(_))), "{damaged:?}");
}

#[test]
fn damaged_rows_are_errors_for_readers_and_the_end_for_the_writer() {
    let mut bench = Bench::new();
    bench.put("k", "1");
    let mut batch = Batch::new();
    batch.put(Table::Live, &[b"k"], &[b"\x01 too short"]);
    batch.put(Table::Leases, &[&keys::lease(LeaseId(1))], &[b"no lease"]);
    bench.store.engine().write(&batch).expect("the engine works");
    let damaged = bench.store.apply(&[entry(Index(2), vec![put("k", "2")])]);
    assert!(matches!(damaged, Err(Error::Damaged(_))), "{damaged:?}");
    for read in ["a range", "a key", "a hash", "a count", "pages", "a lease", "leases"] {
        let store = open(&bench.disk);
        let view = store.view();
        assert_eq!(store.damage(), None, "a start reads no rows");
        let met = match read {
            "a range" => view.range(&all()).err(),
            "a key" => view.get(&"k".into()).err(),
            "a hash" => view.hash_at(Revision::ZERO).err(),
            "a count" => view.count(&all().range).err(),
            "a lease" => view.lease(LeaseId(1)).err(),
            "leases" => view.leases().err(),
            _ => view.pages(all()).next_page(1 << 20).err(),
        };
        assert!(matches!(met, Some(Error::Damaged(_))), "{read}: {met:?}");
        assert_eq!(store.damage(), met, "whoever looks after the store hears of it");
    }
}

#[test]
fn a_hash_needs_a_revision_that_can_be_read() {
    let mut bench = Bench::new();
    bench.put("k", "1");
    bench.put("k", "2");
    bench.compact(3);
    let hash = bench.store.hash_at(Revision::ZERO).expect("readable");
    assert_eq!((hash.compacted, hash.revision), (Revision(3), Revision(3)));
    assert!(matches!(bench.store.hash_at(Revision(2)), Err(Error::Compacted { .. })));
    assert!(matches!(bench.store.hash_at(Revision(4)), Err(Error::Future { .. })));
    bench.put("k", "3");
    assert_ne!(bench.store.hash_at(Revision::ZERO).expect("readable").hash, hash.hash);
    assert_eq!(bench.store.hash_at(Revision(3)), Ok(hash));
}

fn poll(watcher: &mut crate::watch::Watcher) -> Poll<Result<Delivery, Cut>> {
    let mut context = Context::from_waker(Waker::noop());
    std::pin::pin!(watcher.next()).poll(&mut context)
}

#[test]
fn a_watcher_is_told_of_the_past_from_the_tables_and_of_the_present_as_it_happens() {
    let mut bench = Bench::new();
    bench.put("a", "1");
    bench.put("b", "1");
    bench.reopen();
    let mut watcher = bench.store.watch(Request::new(one("a")).from(Revision(2)));
    let Poll::Ready(Ok(delivery)) = poll(&mut watcher) else { panic!("revision 2 is there") };
    assert_eq!(delivery.events[0].kv.value, "1");
    assert!(poll(&mut watcher).is_pending());
    bench.put("a", "2");
    let Poll::Ready(Ok(delivery)) = poll(&mut watcher) else { panic!("revision 4 is there") };
    assert_eq!(delivery.revision, Revision(4));
    assert_eq!(delivery.events[0].previous.as_ref().expect("an update").value, "1");
}

#[test]
fn an_installed_state_takes_the_place_of_the_old_one_and_cuts_watchers() {
    let mut bench = Bench::new();
    bench.put("old", "");
    let mut other = Bench::new();
    for _ in 0..5 {
        other.put("new", "");
    }
    other.compact(3);
    other.store.sync().expect("the engine works");

    let mut watcher = bench.store.watch(Request::new(KeyRange::all()));
    let mut lease_changes = bench.store.lease_changes();
    let before = bench.store.view();
    let floor = Floor::new();
    let engine = Memory::open(&other.disk, floor.retain());
    bench.store.install(engine, floor.clone()).expect("nothing is damaged");

    assert_eq!(bench.store.revision(), Revision(6));
    assert_eq!(bench.store.compacted(), Revision(3));
    assert_eq!(floor.get(), Revision(3));
    assert_eq!(bench.store.durable(), Index(6));
    assert_eq!(bench.store.digest(), other.store.digest());
    assert_eq!(keys_of(&before.range(&all()).expect("the old state").kvs), ["old"]);
    let cut = Cut::TooOld { revision: Revision(6), compacted: Revision(3) };
    assert_eq!(poll(&mut watcher), Poll::Ready(Err(cut)));
    assert_eq!(lease_changes.try_next(), Some(Update::Reload));
    // It goes on from where the other was.
    let next = bench.store.apply(&[entry(Index(7), vec![put("new", "")])]);
    assert_eq!(
        next.expect("the engine works")[0][0].as_ref().expect("a put").revision,
        Revision(7)
    );
}

#[test]
fn a_guarded_command_is_carried_out_only_while_its_conditions_hold() {
    let mut bench = Bench::new();
    bench.command(put("rule", "1")).unwrap();
    let version = |version| {
        Condition::Compare(Compare {
            range: one("rule"),
            relation: Relation::Equal,
            operand: Operand::Version(version),
        })
    };
    let guarded = |conditions: Vec<Condition>, command: Command| {
        Command::Guarded(Guarded { conditions, command: Box::new(command) })
    };
    bench.command(guarded(vec![version(1)], put("a", "1"))).unwrap();
    let revision = bench.store.revision();
    let refused = bench.command(guarded(vec![version(1), version(2)], put("a", "2")));
    assert_eq!(refused, Err(Error::ConditionFailed));
    assert_eq!(bench.store.revision(), revision);

    bench.command(grant(1)).unwrap();
    let within = |range: KeyRange| Condition::LeaseWithin { id: LeaseId(1), ranges: vec![range] };
    let revoke = Command::LeaseRevoke { id: LeaseId(1) };
    for key in ["a1", "b1"] {
        let put = Put { key: bytes(key), lease: LeaseId(1), ..Put::default() };
        bench.command(guarded(vec![within(KeyRange::prefix("a"))], Command::Put(put))).unwrap();
    }
    let refused = bench.command(guarded(vec![within(KeyRange::prefix("a"))], revoke.clone()));
    assert_eq!(refused, Err(Error::ConditionFailed));
    bench.command(guarded(vec![within(KeyRange::all())], revoke)).unwrap();
}
