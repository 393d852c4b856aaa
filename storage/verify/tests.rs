//! Clean stores are called clean, whatever their history; each thing that can be wrong is planted and found.

use std::sync::Arc;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::compaction::Floor;
use crate::directory::Identity;
use crate::engine::memory::{Faults, Memory, MemoryDisk};
use crate::engine::rocks::RocksFactory;
use crate::engine::{Batch, Engine};
use crate::record::{EventKind, LeaseId};
use crate::request::{Command, Delete, Entry, KeyRange, Operation, Put, Transaction};
use crate::row::Head;
use crate::{Options, Store};

struct Bench {
    engine: Arc<dyn Engine>,
    store: Store,
    applied: u64,
}

impl Bench {
    fn new() -> Bench {
        let floor = Floor::new();
        let disk = MemoryDisk::new(1, Faults { reclaim_one_in: 2, ..Faults::default() });
        let engine: Arc<dyn Engine> = Memory::open(&disk, floor.retain());
        let store = Store::open(engine.clone(), floor, Options::default()).unwrap();
        Bench { engine, store, applied: 0 }
    }

    fn apply(&mut self, commands: Vec<Command>) {
        self.applied += 1;
        let mark = Bytes::from_static(b"mark");
        let entry = Entry { index: Index(self.applied), term: 1, mark, commands: commands.into() };
        self.store.apply(&[entry]).unwrap();
    }

    fn check(&self, known: &Known) -> Report {
        super::store(&*self.engine.snapshot(), known).unwrap()
    }
}

fn put(key: &str, value: &str, lease: i64) -> Put {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    Put { key: bytes(key), value: bytes(value), lease: LeaseId(lease), ..Put::default() }
}

fn one(key: &str) -> Delete {
    Delete { range: KeyRange::One(Bytes::copy_from_slice(key.as_bytes())), previous: false }
}

fn from(key: &str) -> Delete {
    Delete { range: KeyRange::From(Bytes::copy_from_slice(key.as_bytes())), previous: false }
}

fn transaction(operations: Vec<Operation>) -> Command {
    Command::Transaction(Transaction { success: operations, ..Transaction::default() })
}

/// Revisions 2 to 9, in which everything occurs that a plant needs.
fn some_history() -> Bench {
    let mut bench = Bench::new();
    bench.apply(vec![Command::LeaseGrant { id: LeaseId(1), ttl_s: 60 }]);
    bench.apply(vec![Command::Put(put("a", "1", 0)), Command::Put(put("a", "2", 0))]);
    bench.apply(vec![Command::Put(put("b", "1", 1))]);
    bench.apply(vec![Command::Delete(one("a"))]);
    bench.apply(vec![Command::Put(put("a", "3", 0))]);
    let both = ["c", "d"].map(|key| Operation::Put(put(key, "1", 0)));
    bench.apply(vec![transaction(both.to_vec())]);
    bench.apply(vec![Command::Put(put("d", "2", 0))]);
    bench.apply(vec![Command::Delete(one("c"))]);
    bench
}

fn past_key(key: &str, modified: u64) -> Vec<u8> {
    let mut row_key = Vec::new();
    keys::past(key.as_bytes(), Revision(modified), &mut row_key);
    row_key
}

fn head(created: u64, modified: u64, version: u64, lease: i64) -> Head {
    let lease = LeaseId(lease);
    Head { created: Revision(created), modified: Revision(modified), version, lease }
}

#[test]
fn a_store_that_is_as_it_should_be_is_clean() {
    for bench in [Bench::new(), some_history()] {
        let report = bench.check(&Known::default());
        assert_eq!(report.findings, []);
        assert_eq!(report.digest, DigestCheck::Agrees { from: Revision(1) });
        let facts = bench.store.facts();
        assert_eq!(report.state.map(|state| state.revision), Some(facts.revision));
    }
}

#[test]
fn any_history_is_clean_at_any_time_and_its_digest_agrees_from_any_revision_that_is_left() {
    for seed in 0..60 {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let mut bench = Bench::new();
        let mut digests = vec![bench.store.digest()];
        for _ in 0..60 {
            let command = any_command(&mut random, bench.store.revision().0);
            bench.apply(vec![command]);
            digests.push(bench.store.digest());
            if random.random_ratio(1, 8) {
                bench.store.sync().unwrap();
            }
        }
        let compacted = bench.store.compacted();
        let report = bench.check(&Known::default());
        assert_eq!(report.findings, []);
        for digest in digests {
            let known = Known { digest: Some(digest), ..Known::default() };
            let report = bench.check(&known);
            assert_eq!(report.findings, [], "from {digest:?}");
            let expected = if digest.revision >= compacted {
                DigestCheck::Agrees { from: digest.revision }
            } else if compacted <= Revision::EMPTY {
                DigestCheck::Agrees { from: Revision::EMPTY }
            } else {
                DigestCheck::Unchecked
            };
            assert_eq!(report.digest, expected, "from {digest:?}");
        }
    }
}

/// Often several changes of one key, in every order that a transaction lets through.
fn any_command(random: &mut StdRng, revision: u64) -> Command {
    let key = |random: &mut StdRng| ["a", "b", "c", "\u{0}"][random.random_range(0..4)];
    let lease = random.random_range(0..3);
    match random.random_range(0..12) {
        0 => Command::LeaseGrant { id: LeaseId(random.random_range(1..3)), ttl_s: 60 },
        1 => Command::LeaseRevoke { id: LeaseId(random.random_range(1..3)) },
        2 => Command::Delete(one(key(random))),
        3 => Command::Delete(from(key(random))),
        4 => Command::Compact(Revision(random.random_range(0..=revision))),
        5 => transaction(vec![
            Operation::Put(put(key(random), "x", 0)),
            Operation::Delete(from(key(random))),
        ]),
        6 => transaction(vec![
            Operation::Delete(from(key(random))),
            Operation::Put(put(key(random), "y", 0)),
        ]),
        7 => transaction(vec![
            Operation::Delete(from(key(random))),
            Operation::Put(put(key(random), "z", 0)),
            Operation::Delete(from(key(random))),
        ]),
        _ => Command::Put(put(key(random), &revision.to_string(), lease)),
    }
}

/// What a plant changes: rows that the store would never write so.
type Plant = fn(&mut Batch, &State);

#[test]
fn each_thing_that_can_be_wrong_is_found() {
    use Rule::{Changes, Decodes, Digest, Layout, Leases, Order, State as Stated, Versions};
    use Table as T;
    let plants: &[(&str, Rule, Plant)] = &[
        ("no layout", Layout, |b, _| b.delete(T::Meta, &[keys::FORMAT])),
        ("another layout", Layout, |b, _| b.put(T::Meta, &[keys::FORMAT], &[&[0, 0, 0, 9]])),
        ("a layout that is none", Layout, |b, _| b.put(T::Meta, &[keys::FORMAT], &[b"?"])),
        ("a foreign fact", Layout, |b, _| b.put(T::Meta, &[b"x"], &[b"y"])),
        ("a foreign system row", Layout, |b, _| b.put(T::System, &[b"x"], &[b"y"])),
        ("no state", Stated, |b, _| b.delete(T::Meta, &[keys::STATE])),
        ("a state that is none", Stated, |b, _| b.put(T::Meta, &[keys::STATE], &[b"?"])),
        ("a live row that is none", Decodes, |b, _| b.put(T::Live, &[b"a"], &[b"?"])),
        ("a key without a byte", Decodes, |b, _| b.put(T::Live, &[], &[&head(2, 2, 1, 0).live()])),
        ("a past row that is none", Decodes, |b, _| b.put(T::Past, &[&past_key("a", 2)], &[b"?"])),
        ("a past key that is none", Decodes, |b, _| b.put(T::Past, &[b"?"], &[b"?"])),
        ("a change that is none", Decodes, |b, _| b.put(T::Changes, &[&at(2, 0)], &[b"?"])),
        ("the key of a change that is none", Decodes, |b, _| b.put(T::Changes, &[b"?"], &[b"?"])),
        ("a lease that is none", Decodes, |b, _| b.put(T::Leases, &[&lease(1)], &[b"?"])),
        ("an attached key that is none", Decodes, |b, _| b.put(T::LeaseKeys, &[b"?"], &[])),
        ("an attached key with a value", Decodes, |b, _| {
            b.put(T::LeaseKeys, &[&lease(1), b"b"], &[b"?"]);
        }),
        ("a state ahead of its changes", Order, |b, state| {
            write_state(b, State { revision: Revision(10), ..state.clone() });
        }),
        ("a state behind its changes", Order, |b, state| {
            write_state(b, State { revision: Revision(8), ..state.clone() });
        }),
        ("a revision without a change", Order, |b, _| b.delete(T::Changes, &[&at(5, 0)])),
        ("a number left out", Order, |b, _| {
            b.delete(T::Changes, &[&at(7, 1)]);
            b.put(T::Changes, &[&at(7, 2)], &[&row::change(EventKind::Put, Revision(0)), b"d"]);
        }),
        ("a version from the future", Order, |b, _| {
            b.put(T::Live, &[b"a"], &[&head(6, 60, 2, 0).live(), b"3"]);
        }),
        ("a live key lost", Changes, |b, _| b.delete(T::Live, &[b"a"])),
        ("a live key brought back", Changes, |b, _| {
            b.put(T::Live, &[b"a"], &[&head(2, 3, 2, 0).live(), b"2"]);
        }),
        ("a wrong number of puts", Versions, |b, _| {
            b.put(T::Live, &[b"d"], &[&head(7, 8, 3, 0).live(), b"2"]);
        }),
        ("a wrong beginning", Versions, |b, _| {
            b.put(T::Live, &[b"d"], &[&head(6, 8, 2, 0).live(), b"2"]);
        }),
        ("a first version that was not created", Versions, |b, _| {
            b.put(T::Live, &[b"a"], &[&head(5, 6, 1, 0).live(), b"3"]);
        }),
        ("a version that ends too early", Versions, |b, _| past(b, "d", head(7, 7, 1, 0), 5)),
        ("two versions at once", Versions, |b, _| past(b, "a", head(2, 3, 2, 0), 7)),
        ("a version that ends too late", Changes, |b, _| past(b, "a", head(2, 3, 2, 0), 6)),
        ("a version in another's place", Versions, |b, _| {
            b.put(T::Past, &[&past_key("a", 3)], &[&head(2, 2, 1, 0).past(Revision(5)), b"2"]);
        }),
        ("a past version lost", Changes, |b, _| b.delete(T::Past, &[&past_key("a", 3)])),
        ("a past version too many", Changes, |b, _| past(b, "x", head(4, 4, 1, 0), 6)),
        ("a live key too many", Changes, |b, _| {
            b.put(T::Live, &[b"x"], &[&head(4, 4, 1, 0).live(), b""]);
        }),
        ("a change of another key", Changes, |b, _| {
            b.put(T::Changes, &[&at(4, 0)], &[&row::change(EventKind::Put, Revision(0)), b"x"]);
        }),
        ("a delete for a put", Changes, |b, _| {
            b.put(T::Changes, &[&at(6, 0)], &[&row::change(EventKind::Delete, Revision(0)), b"a"]);
        }),
        ("a put for a delete", Changes, |b, _| {
            b.put(T::Changes, &[&at(5, 0)], &[&row::change(EventKind::Put, Revision(3)), b"a"]);
        }),
        ("a wrong version before", Changes, |b, _| {
            b.put(T::Changes, &[&at(8, 0)], &[&row::change(EventKind::Put, Revision(6)), b"d"]);
        }),
        ("a lease lost", Leases, |b, _| b.delete(T::Leases, &[&lease(1)])),
        ("a lease of nobody's", Leases, |b, _| {
            b.put(T::LeaseKeys, &[&lease(2), b"a"], &[]);
        }),
        ("a lease without a name", Leases, |b, _| {
            let none = crate::lease::Lease { id: LeaseId::NONE, ttl_s: 60, remaining_ms: None };
            b.put(T::Leases, &[&lease(0)], &[&row::lease(&none)]);
        }),
        ("an attached key lost", Leases, |b, _| b.delete(T::LeaseKeys, &[&lease(1), b"b"])),
        ("an attached key that is gone", Leases, |b, _| {
            b.put(T::LeaseKeys, &[&lease(1), b"c"], &[]);
        }),
        ("another value", Digest, |b, _| {
            b.put(T::Live, &[b"a"], &[&head(6, 6, 1, 0).live(), b"4"]);
        }),
        ("another past value", Digest, |b, _| {
            b.put(T::Past, &[&past_key("a", 2)], &[&head(2, 2, 1, 0).past(Revision(3)), b"4"]);
        }),
        ("another digest", Digest, |b, state| {
            write_state(b, State { digest: state.digest ^ 1, ..state.clone() });
        }),
    ];
    for (name, rule, plant) in plants {
        let bench = some_history();
        let mut batch = Batch::new();
        plant(&mut batch, bench.store.view().state());
        bench.engine.write(&batch).unwrap();
        let report = bench.check(&Known::default());
        let rules: Vec<Rule> = report.findings.iter().map(|finding| finding.rule).collect();
        assert!(rules.contains(rule), "{name}: {rule:?} not in {:#?}", report.findings);
    }
}

fn at(revision: u64, sub: u32) -> [u8; 12] {
    keys::change(Revision(revision), sub)
}

fn lease(id: i64) -> [u8; 8] {
    keys::lease(LeaseId(id))
}

fn past(batch: &mut Batch, key: &str, head: Head, ended: u64) {
    let row_key = past_key(key, head.modified.0);
    batch.put(Table::Past, &[&row_key], &[&head.past(Revision(ended)), b"2"]);
}

fn write_state(batch: &mut Batch, state: State) {
    batch.put(Table::Meta, &[keys::STATE], &[&state.head(), &state.mark]);
}

#[test]
fn below_the_compaction_rows_may_be_there_or_gone_and_above_it_none_may_be_missing() {
    let mut bench = some_history();
    bench.apply(vec![Command::Compact(Revision(6))]);
    for gone in [false, true] {
        let mut batch = Batch::new();
        if gone {
            batch.delete(Table::Past, &[&past_key("a", 2)]);
            batch.delete(Table::Changes, &[&at(3, 0)]);
            batch.delete(Table::Changes, &[&at(5, 0)]);
        }
        bench.engine.write(&batch).unwrap();
        assert_eq!(bench.check(&Known::default()).findings, []);
    }
    let mut batch = Batch::new();
    batch.delete(Table::Past, &[&past_key("d", 7)]);
    bench.engine.write(&batch).unwrap();
    assert!(!bench.check(&Known::default()).is_clean());
}

#[test]
fn a_store_beside_its_log_is_held_against_it() {
    let bench = some_history();
    let applied = bench.applied;
    let findings = |first, last| {
        let known = Known { log: Some((Index(first), Index(last))), ..Known::default() };
        bench.check(&known).findings
    };
    assert_eq!(findings(1, applied), []);
    assert_eq!(findings(applied + 1, applied), [], "a log that is empty and goes on from there");
    assert_eq!(findings(1, applied - 1)[0].rule, Rule::Log);
    assert_eq!(findings(applied + 2, applied + 9)[0].rule, Rule::Log);
}

#[test]
fn another_members_digest_that_differs_is_found_even_where_history_is_compacted() {
    let mut bench = some_history();
    bench.apply(vec![Command::Compact(Revision(9))]);
    let Digest { revision, value } = bench.store.digest();
    let check = |value| {
        let digest = Some(Digest { revision, value });
        bench.check(&Known { digest, ..Known::default() })
    };
    assert_eq!(check(value).digest, DigestCheck::Agrees { from: revision });
    let report = check(value ^ 1);
    assert_eq!(report.digest, DigestCheck::Differs { from: revision });
    assert_eq!(report.findings[0].rule, Rule::Digest);
}

#[test]
fn many_findings_are_counted_and_not_all_listed() {
    let bench = Bench::new();
    let mut batch = Batch::new();
    for number in 0..(FINDINGS_MAX as u32 + 50) {
        batch.put(Table::System, &[&number.to_be_bytes()], &[]);
    }
    bench.engine.write(&batch).unwrap();
    let report = bench.check(&Known::default());
    assert_eq!((report.findings.len(), report.unlisted), (FINDINGS_MAX, 50));
}

#[test]
fn a_closed_data_directory_is_looked_at_and_one_without_data_or_in_use_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("data");
    let factory = RocksFactory::default();
    let refused = directory(&path, &factory, &Known::default());
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    let identity = Identity { cluster: 1, node: 1, name: "anna".into(), release: "0.1.0".into() };
    let open = || Directory::open_or_create(&path, &Expect::default(), || identity.clone());
    let held = open().unwrap();
    {
        let floor = Floor::new();
        let engine = factory.open(&held.state().unwrap(), floor.retain()).unwrap();
        let store = Store::open(engine, floor, Options::default()).unwrap();
        let commands = vec![Command::Put(put("a", "1", 0))].into();
        let entry = Entry { index: Index(1), term: 1, mark: Bytes::new(), commands };
        store.apply(&[entry]).unwrap();
        store.sync().unwrap();
    }
    let refused = directory(&path, &factory, &Known::default());
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    drop(held);
    let report = directory(&path, &factory, &Known::default()).unwrap();
    assert_eq!(report.findings, []);
    assert_eq!(report.rows, 4, "layout, state, version, change");
}
