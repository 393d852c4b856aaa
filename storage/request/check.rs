//! What can be said of a command without knowing the state.
//!
//! The fronts ask before they propose, so that nonsense never enters the log; `apply` asks again, because
//! everything it relies on must hold whatever the log says. The rules are etcd's, with one bound of our
//! own: transactions are nested at most [`TRANSACTION_DEPTH_MAX`] deep, so that what was encoded can
//! always be decoded.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    Command, Condition, Delete, Guarded, KeyRange, LEASE_TTL_MAX_S, Operation, Put, Range,
    TRANSACTION_DEPTH_MAX, TRANSACTION_OPERATIONS_MAX, Transaction,
};
use crate::error::Error;

/// What a command is taken to weigh besides its keys and values: its place in entry and answer.
const COMMAND_BYTES: usize = 64;

impl Command {
    /// Refuses what can never be right, whatever the state.
    pub fn check(&self) -> Result<(), Error> {
        match self {
            Command::Put(put) => put.check(),
            Command::Delete(delete) => delete.check(),
            Command::Transaction(transaction) => transaction.check(),
            Command::LeaseGrant { ttl_s, .. } if *ttl_s > LEASE_TTL_MAX_S => {
                Err(Error::LeaseTtlTooLarge { ttl_s: *ttl_s, max: LEASE_TTL_MAX_S })
            }
            Command::LeaseGrant { .. }
            | Command::Compact(_)
            | Command::LeaseRevoke { .. }
            | Command::LeaseExpire { .. }
            | Command::LeaseCheckpoint { .. } => Ok(()),
            Command::Guarded(guarded) => guarded.check(),
        }
    }

    /// About how many bytes the command takes in the log and in memory.
    #[must_use]
    pub fn weight(&self) -> usize {
        let own = match self {
            Command::Put(put) => put.weight(),
            Command::Delete(delete) => delete.range.weight(),
            Command::Transaction(transaction) => transaction.weight(),
            Command::Compact(_) | Command::LeaseGrant { .. } | Command::LeaseRevoke { .. } => 0,
            Command::LeaseExpire { ids, .. } => ids.len() * 8,
            Command::LeaseCheckpoint { remaining_ms, .. } => remaining_ms.len() * 16,
            Command::Guarded(guarded) => guarded.weight(),
        };
        COMMAND_BYTES + own
    }

    /// Whether the store may be larger afterwards: what a full disk refuses.
    #[must_use]
    pub fn adds_data(&self) -> bool {
        match self {
            Command::Put(_) | Command::LeaseGrant { .. } => true,
            Command::Transaction(transaction) => transaction.puts(),
            Command::Delete(_)
            | Command::Compact(_)
            | Command::LeaseRevoke { .. }
            | Command::LeaseExpire { .. }
            | Command::LeaseCheckpoint { .. } => false,
            Command::Guarded(guarded) => guarded.command.adds_data(),
        }
    }
}

impl Guarded {
    fn check(&self) -> Result<(), Error> {
        if let Command::Guarded(_) = *self.command {
            return Err(Error::TooManyOperations { given: 2, max: 1 });
        }
        self.conditions.iter().try_for_each(|condition| match condition {
            Condition::Compare(compare) => compare.range.check(),
            Condition::LeaseWithin { ranges, .. } => ranges.iter().try_for_each(KeyRange::check),
        })?;
        self.command.check()
    }

    fn weight(&self) -> usize {
        let conditions = self.conditions.iter().map(|condition| match condition {
            Condition::Compare(compare) => compare.range.weight(),
            Condition::LeaseWithin { ranges, .. } => ranges.iter().map(KeyRange::weight).sum(),
        });
        conditions.sum::<usize>() + self.command.weight()
    }
}

impl KeyRange {
    fn check(&self) -> Result<(), Error> {
        match self {
            KeyRange::One(key) if key.is_empty() => Err(Error::EmptyKey),
            // An empty start is our own way to say "from the beginning".
            KeyRange::One(_) | KeyRange::Between { .. } | KeyRange::From(_) => Ok(()),
        }
    }

    fn weight(&self) -> usize {
        match self {
            KeyRange::One(key) | KeyRange::From(key) => key.len(),
            KeyRange::Between { start, end } => start.len() + end.len(),
        }
    }
}

impl Put {
    fn check(&self) -> Result<(), Error> {
        if self.key.is_empty() {
            return Err(Error::EmptyKey);
        }
        if self.ignore_value && !self.value.is_empty() {
            return Err(Error::ValueProvided);
        }
        if self.ignore_lease && !self.lease.is_none() {
            return Err(Error::LeaseProvided);
        }
        Ok(())
    }

    fn weight(&self) -> usize {
        self.key.len() + self.value.len()
    }
}

impl Delete {
    fn check(&self) -> Result<(), Error> {
        self.range.check()
    }
}

impl Range {
    /// Refuses what can never be read.
    pub fn check(&self) -> Result<(), Error> {
        self.range.check()
    }
}

impl Transaction {
    /// Refuses what can never be right, whatever the state.
    pub fn check(&self) -> Result<(), Error> {
        self.check_within(TRANSACTION_OPERATIONS_MAX, 1)?;
        for branch in [&self.success, &self.failure] {
            if needs_overlap_check(branch) {
                Touched::by(branch)?;
            }
        }
        Ok(())
    }

    /// Whether nothing can be changed by it, so that it need not go through the log.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.operations().all(|operation| match operation {
            Operation::Range(_) => true,
            Operation::Put(_) | Operation::Delete(_) => false,
            Operation::Transaction(nested) => nested.is_read_only(),
        })
    }

    fn check_within(&self, operations_max: usize, depth: usize) -> Result<(), Error> {
        let given = self.compare.len().max(self.success.len()).max(self.failure.len());
        if given > operations_max {
            return Err(Error::TooManyOperations { given, max: operations_max });
        }
        if depth > TRANSACTION_DEPTH_MAX {
            return Err(Error::TooManyOperations { given: depth, max: TRANSACTION_DEPTH_MAX });
        }
        self.compare.iter().try_for_each(|compare| compare.range.check())?;
        self.operations().try_for_each(|operation| match operation {
            Operation::Range(range) => range.check(),
            Operation::Put(put) => put.check(),
            Operation::Delete(delete) => delete.check(),
            // What this level uses up is not there for the levels below.
            Operation::Transaction(nested) => {
                nested.check_within(operations_max - given, depth + 1)
            }
        })
    }

    fn operations(&self) -> impl Iterator<Item = &Operation> {
        self.success.iter().chain(&self.failure)
    }

    fn puts(&self) -> bool {
        self.operations().any(|operation| match operation {
            Operation::Put(_) => true,
            Operation::Range(_) | Operation::Delete(_) => false,
            Operation::Transaction(nested) => nested.puts(),
        })
    }

    fn weight(&self) -> usize {
        let compare = self.compare.iter().map(|compare| compare.range.weight() + COMMAND_BYTES);
        let operations = self.operations().map(|operation| {
            COMMAND_BYTES
                + match operation {
                    Operation::Range(range) => range.range.weight(),
                    Operation::Put(put) => put.weight(),
                    Operation::Delete(delete) => delete.range.weight(),
                    Operation::Transaction(nested) => nested.weight(),
                }
        });
        compare.sum::<usize>() + operations.sum::<usize>()
    }
}

/// A branch of one operation, the usual case, cannot overlap with itself unless it is nested.
fn needs_overlap_check(branch: &[Operation]) -> bool {
    branch.len() > 1 || matches!(branch, [Operation::Transaction(_)])
}

/// What the operations of a branch may change. A key that is put may be touched by nothing else in the
/// branch, nested transactions included, or the outcome would hang on the order of operations.
/// Deleting twice is harmless. As in etcd, and for its clients' sake:
/// - the two branches of one nested transaction exclude each other, so both may put a key;
/// - a delete in a nested transaction is held against puts of later ones and of the levels above, but not
///   of earlier ones;
/// - a delete "from a key on", without an end, is held against nothing, except against puts that keep the
///   value or the lease: there might be nothing left to keep, and a transaction must not fail halfway
///   (etcd panics).
///
/// `apply` therefore copes with a key that is put and deleted, once each, in one revision.
#[derive(Default)]
struct Touched<'t> {
    /// Each key that is put, and whether something of it is to be kept.
    puts: BTreeMap<&'t Bytes, bool>,
    deletes: Vec<&'t KeyRange>,
}

impl<'t> Touched<'t> {
    fn by(branch: &'t [Operation]) -> Result<Touched<'t>, Error> {
        let mut touched = Touched::default();
        for operation in branch {
            if let Operation::Delete(delete) = operation {
                touched.deletes.push(&delete.range);
            }
        }
        for operation in branch {
            if let Operation::Transaction(nested) = operation {
                let success = Touched::by(&nested.success)?;
                let failure = Touched::by(&nested.failure)?;
                let mut puts = success.puts;
                for (key, keeps) in failure.puts {
                    *puts.entry(key).or_default() |= keeps;
                }
                touched.put_all(puts.into_iter())?;
                touched.deletes.extend(success.deletes);
                touched.deletes.extend(failure.deletes);
            }
        }
        touched.put_all(branch.iter().filter_map(|operation| match operation {
            Operation::Put(put) => Some((&put.key, put.ignore_value || put.ignore_lease)),
            _ => None,
        }))?;
        Ok(touched)
    }

    fn put_all(&mut self, puts: impl Iterator<Item = (&'t Bytes, bool)>) -> Result<(), Error> {
        for (key, keeps) in puts {
            if self.deletes(key, keeps) || self.puts.insert(key, keeps).is_some() {
                return Err(Error::DuplicateKey);
            }
        }
        Ok(())
    }

    fn deletes(&self, key: &[u8], keeps: bool) -> bool {
        self.deletes.iter().any(|range| match range {
            KeyRange::One(_) | KeyRange::Between { .. } => range.contains(key),
            KeyRange::From(_) => keeps && range.contains(key),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::LeaseId;
    use crate::request::{Compare, Operand, Relation};

    fn put(key: &'static str) -> Operation {
        Operation::Put(Put { key: key.into(), ..Put::default() })
    }

    fn delete(start: &'static str, end: &'static str) -> Operation {
        let range = KeyRange::from_wire(start.into(), end.into());
        Operation::Delete(Delete { range, previous: false })
    }

    fn both(success: Vec<Operation>, failure: Vec<Operation>) -> Transaction {
        Transaction { compare: Vec::new(), success, failure }
    }

    fn then(success: Vec<Operation>) -> Operation {
        Operation::Transaction(both(success, Vec::new()))
    }

    #[track_caller]
    fn check(branch: Vec<Operation>, wanted: Result<(), Error>) {
        assert_eq!(both(branch.clone(), Vec::new()).check(), wanted);
        assert_eq!(both(Vec::new(), branch).check(), wanted);
    }

    #[test]
    fn a_key_is_needed() {
        check(vec![put("")], Err(Error::EmptyKey));
        check(vec![delete("", "")], Err(Error::EmptyKey));
        check(
            vec![Operation::Range(Range::new(KeyRange::One(Bytes::new())))],
            Err(Error::EmptyKey),
        );
        let compare = Compare {
            range: KeyRange::One(Bytes::new()),
            relation: Relation::Equal,
            operand: Operand::Version(0),
        };
        let transaction = Transaction { compare: vec![compare], ..Transaction::default() };
        assert_eq!(transaction.check(), Err(Error::EmptyKey));
        assert_eq!(Command::Put(Put::default()).check(), Err(Error::EmptyKey));
    }

    #[test]
    fn what_is_to_be_kept_may_not_be_given() {
        let kept = Put { key: "k".into(), ignore_value: true, ..Put::default() };
        assert_eq!(Command::Put(kept.clone()).check(), Ok(()));
        let given = Put { value: "v".into(), ..kept };
        assert_eq!(Command::Put(given).check(), Err(Error::ValueProvided));
        let kept = Put { key: "k".into(), ignore_lease: true, ..Put::default() };
        assert_eq!(Command::Put(kept.clone()).check(), Ok(()));
        let given = Put { lease: LeaseId(1), ..kept };
        assert_eq!(Command::Put(given).check(), Err(Error::LeaseProvided));
    }

    #[test]
    fn a_lease_may_last_285_years_and_no_longer() {
        let grant = |ttl_s| Command::LeaseGrant { id: LeaseId(1), ttl_s };
        assert_eq!(grant(LEASE_TTL_MAX_S).check(), Ok(()));
        let too_large =
            Error::LeaseTtlTooLarge { ttl_s: LEASE_TTL_MAX_S + 1, max: LEASE_TTL_MAX_S };
        assert_eq!(grant(LEASE_TTL_MAX_S + 1).check(), Err(too_large));
    }

    #[test]
    fn a_guard_is_checked_with_what_it_guards_and_guards_no_guard() {
        let guarded = |command: Command| {
            Command::Guarded(Guarded { conditions: Vec::new(), command: Box::new(command) })
        };
        let good = Command::Put(Put { key: "k".into(), ..Put::default() });
        assert_eq!(guarded(good.clone()).check(), Ok(()));
        assert!(guarded(good.clone()).adds_data());
        assert_eq!(guarded(Command::Put(Put::default())).check(), Err(Error::EmptyKey));
        let twice = guarded(guarded(good.clone())).check();
        assert_eq!(twice, Err(Error::TooManyOperations { given: 2, max: 1 }));
        let within =
            Condition::LeaseWithin { id: LeaseId(1), ranges: vec![KeyRange::One(Bytes::new())] };
        let command =
            Command::Guarded(Guarded { conditions: vec![within], command: Box::new(good) });
        assert_eq!(command.check(), Err(Error::EmptyKey));
    }

    #[test]
    fn nested_transactions_share_one_allowance() {
        let range = || Operation::Range(Range::new(KeyRange::all()));
        let ranges = |n: usize| (0..n).map(|_| range()).collect::<Vec<_>>();
        check(ranges(128), Ok(()));
        check(ranges(129), Err(Error::TooManyOperations { given: 129, max: 128 }));
        check(vec![then(ranges(127))], Ok(()));
        check(vec![then(ranges(128))], Err(Error::TooManyOperations { given: 128, max: 127 }));
        let mut full = ranges(127);
        full.push(then(vec![range()]));
        check(full, Err(Error::TooManyOperations { given: 1, max: 0 }));
    }

    #[test]
    fn nesting_has_a_bound() {
        let nest = |depth: usize| {
            (1..depth).fold(both(vec![], vec![]), |inner, _| {
                both(vec![Operation::Transaction(inner)], vec![])
            })
        };
        assert_eq!(nest(TRANSACTION_DEPTH_MAX).check(), Ok(()));
        assert!(nest(TRANSACTION_DEPTH_MAX + 1).check().is_err());
    }

    #[test]
    fn a_put_may_meet_no_other_change_of_its_key() {
        let duplicate = || Err(Error::DuplicateKey);
        check(vec![put("a"), put("b")], Ok(()));
        check(vec![put("a"), put("a")], duplicate());
        check(vec![put("a"), delete("a", "")], duplicate());
        check(vec![delete("a", "c"), put("b")], duplicate());
        check(vec![delete("a", "c"), put("c")], Ok(()));
        check(vec![then(vec![put("a")]), put("a")], duplicate());
        check(vec![then(vec![put("a")]), then(vec![put("a")])], duplicate());
        check(vec![put("a"), then(vec![delete("a", "b")])], duplicate());
        check(vec![then(vec![delete("a", "")]), then(vec![put("a")])], duplicate());
        check(vec![then(vec![put("a"), put("a")])], duplicate());
    }

    #[test]
    fn overlaps_that_etcd_lets_through_are_let_through() {
        check(vec![delete("a", ""), delete("a", "c")], Ok(()));
        let either = Operation::Transaction(both(vec![put("a")], vec![put("a")]));
        check(vec![either.clone()], Ok(()));
        check(vec![either, put("a")], Err(Error::DuplicateKey));
        check(vec![then(vec![put("a")]), then(vec![delete("a", "")])], Ok(()));
        check(vec![delete("a", "\0"), put("b")], Ok(()));
        check(vec![delete("b", "a"), put("b")], Ok(()));
    }

    #[test]
    fn a_put_that_keeps_something_may_not_meet_a_delete_from_a_key_on() {
        let keep = |ignore_value, ignore_lease| {
            let put = Put { key: "b".into(), ignore_value, ignore_lease, ..Put::default() };
            Operation::Put(put)
        };
        for keep in [keep(true, false), keep(false, true)] {
            check(vec![delete("a", "\0"), keep.clone()], Err(Error::DuplicateKey));
            check(vec![delete("a", "\0"), then(vec![keep.clone()])], Err(Error::DuplicateKey));
            let earlier = then(vec![then(vec![delete("a", "\0")])]);
            check(vec![earlier, then(vec![keep.clone()])], Err(Error::DuplicateKey));
            check(vec![delete("c", "\0"), keep], Ok(()));
        }
    }

    #[test]
    fn a_full_disk_refuses_what_adds_data_and_nothing_else() {
        let transaction = |operations| Command::Transaction(both(vec![], operations));
        assert!(Command::Put(Put::default()).adds_data());
        assert!(Command::LeaseGrant { id: LeaseId(1), ttl_s: 1 }.adds_data());
        assert!(transaction(vec![then(vec![put("a")])]).adds_data());
        assert!(!transaction(vec![delete("a", "")]).adds_data());
        assert!(!Command::Compact(crate::revision::Revision(1)).adds_data());
        assert!(!Command::LeaseRevoke { id: LeaseId(1) }.adds_data());
    }

    #[test]
    fn only_ranges_make_a_transaction_read_only() {
        let range = || Operation::Range(Range::new(KeyRange::all()));
        assert!(both(vec![range()], vec![then(vec![range()])]).is_read_only());
        assert!(!both(vec![range()], vec![then(vec![delete("a", "")])]).is_read_only());
    }
}
