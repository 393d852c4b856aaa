//! Random histories: the store does what the model does, whatever the groups, the background, the crashes.
//!
//! A failure prints the history, shrunk, and proptest's seed for it.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::{Index as Pick, select};

use super::model::Model;
use super::*;
use crate::compaction::Floor;
use crate::engine::rocks::{self, Rocks};
use crate::request::{
    Bounds, Compare, Condition, Guarded, Operand, Operation, Order, Range, Relation, Target,
    Transaction,
};
use crate::view::View;

/// What happens to a store.
#[derive(Clone, Debug)]
enum Step {
    Group(Vec<Vec<Command>>),
    Sync,
    /// An orderly end and a new start.
    Reopen,
    /// The power goes; what is missing afterwards comes from the log again.
    Crash,
    Read(Range),
    Events(KeyRange, Revision, usize),
}

const KEYS: [&str; 7] = ["a", "a\0", "a\0\0b", "aa", "b", "b\u{1}", "c"];

fn key() -> impl Strategy<Value = Bytes> {
    select(KEYS.as_slice()).prop_map(bytes)
}

fn range_of_keys() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        4 => key().prop_map(KeyRange::One),
        3 => (key(), key()).prop_map(|(start, end)| KeyRange::Between { start, end }),
        1 => key().prop_map(KeyRange::From),
        1 => Just(KeyRange::all()),
        1 => Just(KeyRange::prefix("a")),
    ]
}

/// Of so short a history nearly every revision is hit now and then.
fn revision() -> impl Strategy<Value = Revision> {
    prop_oneof![1 => Just(0), 3 => 1..60u64].prop_map(Revision)
}

fn lease() -> impl Strategy<Value = LeaseId> {
    prop_oneof![3 => Just(0), 2 => 1..4i64].prop_map(LeaseId)
}

fn put_command() -> impl Strategy<Value = Put> {
    let keep =
        prop_oneof![6 => Just((false, false)), 1 => Just((true, false)), 1 => Just((false, true))];
    let value = select(["", "1", "2", "three"].as_slice()).prop_map(bytes);
    (key(), value, lease(), keep, any::<bool>()).prop_map(
        |(key, value, lease, (ignore_value, ignore_lease), previous)| Put {
            key,
            value: if ignore_value { Bytes::new() } else { value },
            lease: if ignore_lease { LeaseId::NONE } else { lease },
            previous,
            ignore_value,
            ignore_lease,
        },
    )
}

fn delete_command() -> impl Strategy<Value = Delete> {
    (range_of_keys(), any::<bool>()).prop_map(|(range, previous)| Delete { range, previous })
}

fn range() -> impl Strategy<Value = Range> {
    let bounds = || {
        let bounds = (revision(), revision()).prop_map(|(min, max)| Bounds { min, max });
        prop_oneof![3 => Just(Bounds::default()), 1 => bounds]
    };
    let order = select([Order::None, Order::Ascending, Order::Descending].as_slice());
    let target = prop_oneof![
        4 => Just(Target::Key),
        2 => select([Target::Version, Target::Created, Target::Modified, Target::Value].as_slice()),
    ];
    let when = prop_oneof![Just(Revision::ZERO), revision()];
    let flag = || prop::bool::weighted(0.2);
    (range_of_keys(), 0..4u64, when, order, target, flag(), flag(), bounds(), bounds()).prop_map(
        |(range, limit, revision, order, target, keys_only, count_only, modified, created)| Range {
            range,
            limit,
            revision,
            order,
            target,
            keys_only,
            count_only,
            modified,
            created,
        },
    )
}

fn compare() -> impl Strategy<Value = Compare> {
    let relation =
        select([Relation::Equal, Relation::Greater, Relation::Less, Relation::NotEqual].as_slice());
    let operand = prop_oneof![
        (0..4u64).prop_map(Operand::Version),
        revision().prop_map(Operand::Created),
        revision().prop_map(Operand::Modified),
        select(["", "1"].as_slice()).prop_map(|value| Operand::Value(bytes(value))),
        lease().prop_map(Operand::Lease),
    ];
    (range_of_keys(), relation, operand).prop_map(|(range, relation, operand)| Compare {
        range,
        relation,
        operand,
    })
}

fn transaction() -> impl Strategy<Value = Transaction> {
    let leaf = prop_oneof![
        2 => range().prop_map(Operation::Range),
        4 => put_command().prop_map(Operation::Put),
        2 => delete_command().prop_map(Operation::Delete),
    ];
    let operation = leaf.prop_recursive(2, 8, 3, |inner| {
        let branch = || prop::collection::vec(inner.clone(), 0..3);
        (prop::collection::vec(compare(), 0..2), branch(), branch()).prop_map(
            |(compare, success, failure)| {
                Operation::Transaction(Transaction { compare, success, failure })
            },
        )
    });
    let branch = || prop::collection::vec(operation.clone(), 0..4);
    (prop::collection::vec(compare(), 0..3), branch(), branch())
        .prop_map(|(compare, success, failure)| Transaction { compare, success, failure })
}

fn command() -> impl Strategy<Value = Command> {
    let condition = prop_oneof![
        compare().prop_map(Condition::Compare),
        ((1..4i64).prop_map(LeaseId), prop::collection::vec(range_of_keys(), 0..3))
            .prop_map(|(id, ranges)| Condition::LeaseWithin { id, ranges }),
    ];
    let conditions = prop::collection::vec(condition, 0..3);
    prop_oneof![
        5 => plain_command(),
        1 => (conditions, plain_command()).prop_map(|(conditions, command)| {
            Command::Guarded(Guarded { conditions, command: Box::new(command) })
        }),
    ]
}

fn plain_command() -> impl Strategy<Value = Command> {
    let id = || (1..4i64).prop_map(LeaseId);
    let term = || prop_oneof![4 => Just(TERM), 1 => Just(TERM - 1)];
    prop_oneof![
        8 => put_command().prop_map(Command::Put),
        4 => delete_command().prop_map(Command::Delete),
        8 => transaction().prop_map(Command::Transaction),
        2 => revision().prop_map(Command::Compact),
        3 => (id(), 1..100i64).prop_map(|(id, ttl_s)| Command::LeaseGrant { id, ttl_s }),
        1 => id().prop_map(|id| Command::LeaseRevoke { id }),
        1 => (prop::collection::vec(id(), 0..4), term())
            .prop_map(|(ids, term)| Command::LeaseExpire { ids, term }),
        1 => (prop::collection::vec((id(), 0..9u64), 0..3), term())
            .prop_map(|(remaining_ms, term)| Command::LeaseCheckpoint { remaining_ms, term }),
    ]
}

fn group() -> impl Strategy<Value = Vec<Vec<Command>>> {
    prop::collection::vec(prop::collection::vec(command(), 0..4), 1..4)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => group().prop_map(Step::Group),
        2 => Just(Step::Sync),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
        6 => range().prop_map(Step::Read),
        3 => (range_of_keys(), revision(), 0..600usize)
            .prop_map(|(range, from, budget)| Step::Events(range, from, budget)),
    ];
    prop::collection::vec(step, 1..24)
}

/// A view taken in the middle of a history, with what must be seen through it to the end.
struct Held {
    view: View,
    model: Model,
}

impl Held {
    fn check(&self) -> Result<(), TestCaseError> {
        prop_assert_eq!(self.view.revision(), self.model.revision);
        let all = Range::new(KeyRange::all());
        prop_assert_eq!(self.view.range(&all), self.model.range(&all));
        Ok(())
    }
}

fn check_read(view: &View, model: &Model, request: &Range) -> Result<(), TestCaseError> {
    let wanted = model.range(request);
    prop_assert_eq!(&view.range(request), &wanted, "{:?}", request);
    // The same in pages of any size.
    for bytes_max in [1, 200, 1 << 20] {
        let mut pages = view.pages(request.clone());
        let mut kvs = Vec::new();
        let paged = loop {
            match pages.next_page(bytes_max) {
                Ok(Some(page)) => {
                    prop_assert!(!page.is_empty());
                    kvs.extend(page);
                }
                Ok(None) => {
                    break pages.totals().map(|(count, more)| crate::request::RangeAnswer {
                        kvs,
                        more,
                        count,
                    });
                }
                Err(error) => break Err(error),
            }
        };
        prop_assert_eq!(&paged, &wanted, "in pages of {}: {:?}", bytes_max, request);
    }
    // And as a transaction that only reads.
    let transaction =
        Transaction { success: vec![Operation::Range(request.clone())], ..Transaction::default() };
    let answer = view.transaction(&transaction).map(|mut answer| answer.answers.remove(0));
    prop_assert_eq!(answer, wanted.map(crate::request::OperationAnswer::Range));
    Ok(())
}

fn check_events(
    view: &View,
    model: &Model,
    range: &KeyRange,
    from: Revision,
    budget_bytes: usize,
) -> Result<(), TestCaseError> {
    let from = from.max(Revision(1));
    let wanted = model.events(range, from);
    let mut commits = Vec::new();
    let mut next = from;
    while next <= view.revision() || wanted.is_err() {
        match view.events(next, view.revision(), range, budget_bytes) {
            Ok((more, complete_to)) => {
                prop_assert!(complete_to >= next, "no progress at {}", next);
                commits.extend(more);
                next = complete_to.next();
            }
            Err(error) => {
                prop_assert_eq!(Some(error), wanted.err());
                return Ok(());
            }
        }
    }
    let told = |commits: &[crate::watch::Commit]| {
        let events = commits.iter().map(|commit| (commit.revision, commit.events.to_vec()));
        events.collect::<Vec<_>>()
    };
    prop_assert_eq!(told(&commits), told(&wanted.expect("no error came")));
    Ok(())
}

fn check_whole(store: &Store, model: &Model) -> Result<(), TestCaseError> {
    let view = store.view();
    prop_assert_eq!((view.revision(), view.compacted()), (model.revision, model.compacted));
    check_read(&view, model, &Range::new(KeyRange::all()))?;
    let leases: Vec<_> = model.leases.values().copied().collect();
    prop_assert_eq!(view.leases().expect("readable"), leases);
    for id in (0..5).map(LeaseId) {
        prop_assert_eq!(
            view.lease_keys(id).expect("readable"),
            match id {
                // Keys without a lease are not attached to anything.
                LeaseId::NONE => Vec::new(),
                id => model.lease_keys(id),
            }
        );
    }
    Ok(())
}

/// Every revision that can be read, each way it can be read.
fn check_history(store: &Store, model: &Model) -> Result<(), TestCaseError> {
    let view = store.view();
    for revision in model.compacted.0.max(1)..=model.revision.0 {
        let at = Range { revision: Revision(revision), ..Range::new(KeyRange::all()) };
        check_read(&view, model, &at)?;
        for key in KEYS {
            let one = Range { range: KeyRange::One(bytes(key)), ..at.clone() };
            prop_assert_eq!(view.range(&one), model.range(&one));
        }
    }
    let from = model.compacted.max(Revision(1));
    check_events(&view, model, &KeyRange::all(), from, usize::MAX)
}

/// Rows that a compaction would leave, whether or not it has come round to the others.
fn rows_kept(store: &Store) -> Vec<(Table, Vec<u8>, Vec<u8>)> {
    let floor = Floor::new();
    floor.raise(store.compacted());
    let retain = floor.retain();
    let engine = store.engine();
    let mut rows = Vec::new();
    for table in Table::ALL {
        let mut cursor = engine.cursor(table, Span { lower: b"", upper: None }).expect("readable");
        while let Some((key, row)) = cursor.next().expect("readable") {
            if retain(table, key, row) {
                rows.push((table, key.to_vec(), row.to_vec()));
            }
        }
    }
    rows
}

fn run(bench: &mut Bench, steps: Vec<Step>, can_crash: bool) -> Result<(), TestCaseError> {
    let mut model = Model::new();
    let mut held: Vec<Held> = Vec::new();
    for step in steps {
        match step {
            Step::Group(entries) => {
                let mut wanted = Vec::new();
                for commands in &entries {
                    let answers = commands.iter().map(|command| model.command(command, TERM));
                    wanted.push(answers.collect::<Vec<_>>());
                }
                prop_assert_eq!(bench.group(entries.clone()), wanted, "{:#?}", entries);
                let digest = bench.store.digest();
                prop_assert_eq!(digest.revision, model.revision);
                held.push(Held { view: bench.store.view(), model: model.clone() });
            }
            Step::Sync => {
                let applied = bench.store.applied();
                prop_assert_eq!(bench.store.sync().expect("the engine works"), applied.clone());
                prop_assert_eq!(bench.store.durable(), applied.0);
            }
            Step::Reopen | Step::Crash if !can_crash => {}
            Step::Reopen => bench.reopen(),
            Step::Crash => {
                // Views of a store whose machine is gone are gone with it.
                held.clear();
                bench.disk.crash();
                bench.reopen();
            }
            Step::Read(request) => check_read(&bench.store.view(), &model, &request)?,
            Step::Events(range, from, budget) => {
                check_events(&bench.store.view(), &model, &range, from, budget)?;
            }
        }
        check_whole(&bench.store, &model)?;
    }
    check_history(&bench.store, &model)?;
    held.iter().try_for_each(Held::check)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_store_does_what_the_model_does(steps in steps(), seed in any::<u64>()) {
        // Rows are dropped in the background as soon as they may be.
        let faults = Faults { reclaim_one_in: 1, ..Faults::default() };
        run(&mut Bench::with(seed, faults), steps, true)?;
    }

    #[test]
    fn members_agree_whatever_their_groups_and_their_background(
        groups in prop::collection::vec(group(), 1..12),
        cuts in prop::collection::vec(any::<Pick>(), 8),
        seed in any::<u64>(),
    ) {
        let eager = Faults { reclaim_one_in: 1, ..Faults::default() };
        let (mut one, other) = (Bench::new(), Bench::with(seed, eager));
        for group in &groups {
            one.group(group.clone());
        }
        // The same entries again, cut into other groups and with syncs that let rows go.
        let mut rest = one.log.as_slice();
        let mut answers = Vec::new();
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (group, later) = rest.split_at(cut.index(rest.len()) + 1);
            answers.extend(other.store.apply(group).expect("the engine works"));
            other.store.sync().expect("the engine works");
            rest = later;
        }
        prop_assert_eq!(answers.len(), one.log.len());
        prop_assert_eq!(one.store.digest(), other.store.digest());
        prop_assert_eq!(one.store.applied(), other.store.applied());
        for revision in one.store.compacted().0.max(1)..=one.store.revision().0 {
            let hash = one.store.hash_at(Revision(revision));
            prop_assert_eq!(hash, other.store.hash_at(Revision(revision)));
        }
        prop_assert_eq!(rows_kept(&one.store), rows_kept(&other.store));
    }

    #[test]
    fn a_hash_does_not_change_when_the_store_goes_on(
        before in prop::collection::vec(group(), 1..6),
        after in prop::collection::vec(group(), 1..6),
    ) {
        let mut bench = Bench::new();
        before.into_iter().for_each(|group| drop(bench.group(group)));
        let revision = bench.store.revision();
        let then = bench.store.hash_at(revision).expect("readable");
        for group in after {
            // A compaction changes what is hashed, and says so.
            let plain = |command: &Command| match command {
                Command::Guarded(guarded) => !matches!(*guarded.command, Command::Compact(_)),
                command => !matches!(command, Command::Compact(_)),
            };
            let group = group.into_iter();
            bench.group(group.map(|entry| entry.into_iter().filter(plain).collect()).collect());
        }
        prop_assert_eq!(bench.store.hash_at(revision), Ok(then));
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 12,
        max_shrink_iters: 50,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_store_on_rocksdb_does_what_the_model_does(steps in steps()) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let floor = Floor::new();
        let engine: Arc<dyn Engine> =
            Rocks::open(&directory.path().join("state"), &rocks::Options::default(), floor.retain())
                .expect("a new directory");
        let store = Store::open(engine, floor, Options::default()).expect("an empty store");
        let mut bench = Bench { store, ..Bench::new() };
        run(&mut bench, steps, false)?;
    }
}
