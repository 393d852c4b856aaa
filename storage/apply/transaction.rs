//! Transactions: what they will do is settled before anything is changed.
//!
//! As in etcd, the comparisons of all levels look at the state before the transaction, and whatever could
//! make an operation fail is asked about beforehand. So a transaction either fails whole, or cannot fail.
//! Its reads see its own earlier writes.

use std::cmp::Ordering;
use std::ops::ControlFlow;

use bytes::Bytes;

use super::Group;
use crate::error::Error;
use crate::record::{KeyValue, LeaseId};
use crate::request::{
    Compare, KeyRange, Operand, Operation, OperationAnswer, Put, Range, RangeAnswer, Relation,
    Transaction, TransactionAnswer,
};
use crate::row::Head;
use crate::view::{Moment, View};

/// What a transaction looks at.
pub(super) trait State {
    fn moment(&self) -> Moment;
    fn newest(&mut self, key: &Bytes) -> Result<Option<KeyValue>, Error>;
    fn has_lease(&mut self, id: LeaseId) -> Result<bool, Error>;
    fn range(&mut self, request: &Range) -> Result<RangeAnswer, Error>;
    fn scan_newest(
        &mut self,
        range: &KeyRange,
        visit: &mut dyn FnMut(Head, &[u8]) -> ControlFlow<()>,
    ) -> Result<(), Error>;
}

/// Which branch each transaction takes, from the outermost in, in the order in which they are met.
type Path = Vec<bool>;

pub(super) fn apply(
    group: &mut Group<'_>,
    transaction: &Transaction,
) -> Result<TransactionAnswer, Error> {
    let path = plan(group, transaction)?;
    run(group, transaction, &mut path.into_iter())
}

/// A transaction of nothing but reads, against a view.
pub(crate) fn read_only(
    view: &View,
    transaction: &Transaction,
) -> Result<TransactionAnswer, Error> {
    assert!(transaction.is_read_only(), "a transaction with writes belongs in the log");
    let mut view = view;
    let path = plan(&mut view, transaction)?;
    run_reads(&mut view, transaction, &mut path.into_iter())
}

fn plan<S: State>(state: &mut S, transaction: &Transaction) -> Result<Path, Error> {
    let mut path = Path::new();
    compare_all(state, transaction, &mut path)?;
    check_all(state, transaction, &mut path.iter().copied())?;
    Ok(path)
}

fn compare_all<S: State>(
    state: &mut S,
    transaction: &Transaction,
    path: &mut Path,
) -> Result<(), Error> {
    let mut succeeded = true;
    for compare in &transaction.compare {
        if !compare.holds(state)? {
            succeeded = false;
            break;
        }
    }
    path.push(succeeded);
    for operation in transaction.branch(succeeded) {
        if let Operation::Transaction(nested) = operation {
            compare_all(state, nested, path)?;
        }
    }
    Ok(())
}

fn check_all<S: State>(
    state: &mut S,
    transaction: &Transaction,
    path: &mut impl Iterator<Item = bool>,
) -> Result<(), Error> {
    for operation in transaction.branch(next(path)) {
        match operation {
            Operation::Range(range) => {
                state.moment().at(range.revision)?;
            }
            Operation::Put(put) => check_put(state, put)?,
            Operation::Delete(_) => {}
            Operation::Transaction(nested) => check_all(state, nested, path)?,
        }
    }
    Ok(())
}

/// Whether the state lets a put be carried out.
pub(super) fn check_put<S: State>(state: &mut S, put: &Put) -> Result<(), Error> {
    if !put.lease.is_none() && !state.has_lease(put.lease)? {
        return Err(Error::LeaseNotFound(put.lease));
    }
    if (put.ignore_value || put.ignore_lease) && state.newest(&put.key)?.is_none() {
        return Err(Error::KeyNotFound);
    }
    Ok(())
}

fn run(
    group: &mut Group<'_>,
    transaction: &Transaction,
    path: &mut impl Iterator<Item = bool>,
) -> Result<TransactionAnswer, Error> {
    let succeeded = next(path);
    let branch = transaction.branch(succeeded);
    let mut answers = Vec::with_capacity(branch.len());
    for operation in branch {
        let answer = match operation {
            Operation::Range(range) => group.range(range).map(OperationAnswer::Range),
            Operation::Put(put) => group.put(put).map(OperationAnswer::Put),
            Operation::Delete(delete) => group.delete(delete).map(OperationAnswer::Delete),
            Operation::Transaction(nested) => {
                run(group, nested, path).map(OperationAnswer::Transaction)
            }
        };
        answers.push(answer.map_err(halfway)?);
    }
    Ok(TransactionAnswer { succeeded, answers })
}

/// Everything that can refuse an operation was asked beforehand. If one is refused all the same, part of
/// the transaction may be done already, and other members may have done another part.
fn halfway(error: Error) -> Error {
    if error.is_fatal() {
        return error;
    }
    Error::Damaged(format!("a transaction failed halfway: {error}"))
}

fn run_reads<S: State>(
    state: &mut S,
    transaction: &Transaction,
    path: &mut impl Iterator<Item = bool>,
) -> Result<TransactionAnswer, Error> {
    let succeeded = next(path);
    let mut answers = Vec::new();
    for operation in transaction.branch(succeeded) {
        answers.push(match operation {
            Operation::Range(range) => OperationAnswer::Range(state.range(range)?),
            Operation::Transaction(nested) => {
                OperationAnswer::Transaction(run_reads(state, nested, path)?)
            }
            Operation::Put(_) | Operation::Delete(_) => {
                unreachable!("a transaction with writes was refused above")
            }
        });
    }
    Ok(TransactionAnswer { succeeded, answers })
}

fn next(path: &mut impl Iterator<Item = bool>) -> bool {
    path.next().expect("the path has a branch for every transaction on it")
}

impl Transaction {
    fn branch(&self, succeeded: bool) -> &[Operation] {
        if succeeded { &self.success } else { &self.failure }
    }
}

impl Compare {
    pub(super) fn holds<S: State>(&self, state: &mut S) -> Result<bool, Error> {
        let (mut any, mut all) = (false, true);
        if let KeyRange::One(key) = &self.range {
            if let Some(kv) = state.newest(key)? {
                (any, all) = (true, self.holds_for(Head::of(&kv), &kv.value));
            }
        } else {
            state.scan_newest(&self.range, &mut |head, value| {
                any = true;
                all = self.holds_for(head, value);
                if all { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
        }
        Ok(match (any, &self.operand) {
            (true, _) => all,
            // No value is not the empty value.
            (false, Operand::Value(_)) => false,
            (false, _) => self.holds_for(Head::default(), b""),
        })
    }

    fn holds_for(&self, head: Head, value: &[u8]) -> bool {
        let order = match &self.operand {
            Operand::Version(version) => head.version.cmp(version),
            Operand::Created(revision) => head.created.cmp(revision),
            Operand::Modified(revision) => head.modified.cmp(revision),
            Operand::Value(wanted) => value.cmp(wanted.as_ref()),
            Operand::Lease(lease) => head.lease.cmp(lease),
        };
        match self.relation {
            Relation::Equal => order == Ordering::Equal,
            Relation::NotEqual => order != Ordering::Equal,
            Relation::Greater => order == Ordering::Greater,
            Relation::Less => order == Ordering::Less,
        }
    }
}

impl State for &View {
    fn moment(&self) -> Moment {
        View::moment(self)
    }

    fn newest(&mut self, key: &Bytes) -> Result<Option<KeyValue>, Error> {
        self.get(key)
    }

    fn has_lease(&mut self, id: LeaseId) -> Result<bool, Error> {
        Ok(self.lease(id)?.is_some())
    }

    fn range(&mut self, request: &Range) -> Result<RangeAnswer, Error> {
        View::range(self, request)
    }

    fn scan_newest(
        &mut self,
        range: &KeyRange,
        visit: &mut dyn FnMut(Head, &[u8]) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        crate::view::scan(self.read(), range, crate::view::At::Newest, |_, head, value| {
            visit(head, value)
        })
    }
}
