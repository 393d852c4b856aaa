//! The messages of the command envelope, and the way from and to [`crate::request`].
//!
//! Field numbers are in the log for ever: they are never changed and never used again. A field that is
//! added must mean, where it is absent, what happened before there was such a field.

use bytes::Bytes;

use crate::error::Error;
use crate::record::LeaseId;
use crate::request::{self, Bounds, KeyRange, Operand, Order, Relation, Target};
use crate::revision::Revision;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Commands {
    #[prost(message, repeated, tag = "1")]
    pub(super) commands: Vec<Command>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Command {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Kind {
    #[prost(message, tag = "1")]
    Put(Put),
    #[prost(message, tag = "2")]
    Delete(Delete),
    #[prost(message, tag = "3")]
    Transaction(Transaction),
    #[prost(uint64, tag = "4")]
    Compact(u64),
    #[prost(message, tag = "5")]
    LeaseGrant(LeaseGrant),
    #[prost(sint64, tag = "6")]
    LeaseRevoke(i64),
    #[prost(message, tag = "7")]
    LeaseExpire(LeaseExpire),
    #[prost(message, tag = "8")]
    LeaseCheckpoint(LeaseCheckpoint),
    #[prost(message, tag = "9")]
    Guarded(Guarded),
}

#[derive(Clone, PartialEq, prost::Message)]
struct Guarded {
    #[prost(message, repeated, tag = "1")]
    conditions: Vec<Condition>,
    #[prost(message, optional, boxed, tag = "2")]
    command: Option<Box<Command>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Condition {
    #[prost(oneof = "ConditionKind", tags = "1, 2")]
    kind: Option<ConditionKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum ConditionKind {
    #[prost(message, tag = "1")]
    Compare(Compare),
    #[prost(message, tag = "2")]
    LeaseWithin(LeaseWithin),
}

#[derive(Clone, PartialEq, prost::Message)]
struct LeaseWithin {
    #[prost(sint64, tag = "1")]
    id: i64,
    #[prost(message, repeated, tag = "2")]
    ranges: Vec<Keys>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Put {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
    #[prost(sint64, tag = "3")]
    lease: i64,
    #[prost(bool, tag = "4")]
    previous: bool,
    #[prost(bool, tag = "5")]
    ignore_value: bool,
    #[prost(bool, tag = "6")]
    ignore_lease: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Range {
    #[prost(message, optional, tag = "1")]
    keys: Option<Keys>,
    #[prost(uint64, tag = "2")]
    limit: u64,
    #[prost(uint64, tag = "3")]
    revision: u64,
    /// 0 none, 1 ascending, 2 descending.
    #[prost(uint32, tag = "4")]
    order: u32,
    /// 0 key, 1 version, 2 created, 3 modified, 4 value.
    #[prost(uint32, tag = "5")]
    target: u32,
    #[prost(bool, tag = "6")]
    keys_only: bool,
    #[prost(bool, tag = "7")]
    count_only: bool,
    #[prost(uint64, tag = "8")]
    modified_min: u64,
    #[prost(uint64, tag = "9")]
    modified_max: u64,
    #[prost(uint64, tag = "10")]
    created_min: u64,
    #[prost(uint64, tag = "11")]
    created_max: u64,
}

/// Which keys: form 1 `start` alone, 2 from `start` to below `end`, 3 from `start` on.
#[derive(Clone, PartialEq, prost::Message)]
struct Keys {
    #[prost(uint32, tag = "1")]
    form: u32,
    #[prost(bytes = "bytes", tag = "2")]
    start: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    end: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Delete {
    #[prost(message, optional, tag = "1")]
    keys: Option<Keys>,
    #[prost(bool, tag = "2")]
    previous: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Transaction {
    #[prost(message, repeated, tag = "1")]
    compare: Vec<Compare>,
    #[prost(message, repeated, tag = "2")]
    success: Vec<Operation>,
    #[prost(message, repeated, tag = "3")]
    failure: Vec<Operation>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Operation {
    #[prost(oneof = "OperationKind", tags = "1, 2, 3, 4")]
    kind: Option<OperationKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum OperationKind {
    #[prost(message, tag = "1")]
    Range(Range),
    #[prost(message, tag = "2")]
    Put(Put),
    #[prost(message, tag = "3")]
    Delete(Delete),
    #[prost(message, tag = "4")]
    Transaction(Transaction),
}

#[derive(Clone, PartialEq, prost::Message)]
struct Compare {
    #[prost(message, optional, tag = "1")]
    keys: Option<Keys>,
    /// 0 equal, 1 greater, 2 less, 3 not equal.
    #[prost(uint32, tag = "2")]
    relation: u32,
    #[prost(oneof = "OperandKind", tags = "3, 4, 5, 6, 7")]
    operand: Option<OperandKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum OperandKind {
    #[prost(uint64, tag = "3")]
    Version(u64),
    #[prost(uint64, tag = "4")]
    Created(u64),
    #[prost(uint64, tag = "5")]
    Modified(u64),
    #[prost(bytes = "bytes", tag = "6")]
    Value(Bytes),
    #[prost(sint64, tag = "7")]
    Lease(i64),
}

#[derive(Clone, PartialEq, prost::Message)]
struct LeaseGrant {
    #[prost(sint64, tag = "1")]
    id: i64,
    #[prost(sint64, tag = "2")]
    ttl_s: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct LeaseExpire {
    #[prost(sint64, repeated, tag = "1")]
    ids: Vec<i64>,
    #[prost(uint64, tag = "2")]
    term: u64,
}

/// `ids` and `remaining_ms` are as long as each other.
#[derive(Clone, PartialEq, prost::Message)]
struct LeaseCheckpoint {
    #[prost(sint64, repeated, tag = "1")]
    ids: Vec<i64>,
    #[prost(uint64, repeated, tag = "2")]
    remaining_ms: Vec<u64>,
    #[prost(uint64, tag = "3")]
    term: u64,
}

fn malformed(what: &str) -> Error {
    Error::Malformed(format!("{what} is missing or unknown"))
}

impl From<&request::Command> for Command {
    fn from(command: &request::Command) -> Command {
        let kind = match command {
            request::Command::Put(put) => Kind::Put(put.into()),
            request::Command::Delete(delete) => Kind::Delete(delete.into()),
            request::Command::Transaction(transaction) => Kind::Transaction(transaction.into()),
            request::Command::Compact(revision) => Kind::Compact(revision.0),
            request::Command::LeaseGrant { id, ttl_s } => {
                Kind::LeaseGrant(LeaseGrant { id: id.0, ttl_s: *ttl_s })
            }
            request::Command::LeaseRevoke { id } => Kind::LeaseRevoke(id.0),
            request::Command::LeaseExpire { ids, term } => Kind::LeaseExpire(LeaseExpire {
                ids: ids.iter().map(|id| id.0).collect(),
                term: *term,
            }),
            request::Command::LeaseCheckpoint { remaining_ms, term } => {
                Kind::LeaseCheckpoint(LeaseCheckpoint {
                    ids: remaining_ms.iter().map(|(id, _)| id.0).collect(),
                    remaining_ms: remaining_ms.iter().map(|(_, left)| *left).collect(),
                    term: *term,
                })
            }
            request::Command::Guarded(guarded) => Kind::Guarded(guarded.into()),
        };
        Command { kind: Some(kind) }
    }
}

impl TryFrom<Command> for request::Command {
    type Error = Error;

    fn try_from(command: Command) -> Result<request::Command, Error> {
        Ok(match command.kind.ok_or_else(|| malformed("the kind of a command"))? {
            Kind::Put(put) => request::Command::Put(put.into()),
            Kind::Delete(delete) => request::Command::Delete(delete.try_into()?),
            Kind::Transaction(transaction) => {
                request::Command::Transaction(transaction.try_into()?)
            }
            Kind::Compact(revision) => request::Command::Compact(Revision(revision)),
            Kind::LeaseGrant(LeaseGrant { id, ttl_s }) => {
                request::Command::LeaseGrant { id: LeaseId(id), ttl_s }
            }
            Kind::LeaseRevoke(id) => request::Command::LeaseRevoke { id: LeaseId(id) },
            Kind::LeaseExpire(LeaseExpire { ids, term }) => {
                request::Command::LeaseExpire { ids: ids.into_iter().map(LeaseId).collect(), term }
            }
            Kind::LeaseCheckpoint(LeaseCheckpoint { ids, remaining_ms, term }) => {
                if ids.len() != remaining_ms.len() {
                    return Err(malformed("what is left of a lease"));
                }
                let remaining_ms = ids.into_iter().map(LeaseId).zip(remaining_ms).collect();
                request::Command::LeaseCheckpoint { remaining_ms, term }
            }
            Kind::Guarded(guarded) => request::Command::Guarded(guarded.try_into()?),
        })
    }
}

impl From<&request::Guarded> for Guarded {
    fn from(guarded: &request::Guarded) -> Guarded {
        let condition = |condition: &request::Condition| match condition {
            request::Condition::Compare(compare) => ConditionKind::Compare(compare.into()),
            request::Condition::LeaseWithin { id, ranges } => {
                let ranges = ranges.iter().map(Keys::from).collect();
                ConditionKind::LeaseWithin(LeaseWithin { id: id.0, ranges })
            }
        };
        let kinds = guarded.conditions.iter().map(condition);
        Guarded {
            conditions: kinds.map(|kind| Condition { kind: Some(kind) }).collect(),
            command: Some(Box::new(guarded.command.as_ref().into())),
        }
    }
}

impl TryFrom<Guarded> for request::Guarded {
    type Error = Error;

    fn try_from(guarded: Guarded) -> Result<request::Guarded, Error> {
        let condition = |condition: Condition| {
            Ok(match condition.kind.ok_or_else(|| malformed("the kind of a condition"))? {
                ConditionKind::Compare(compare) => request::Condition::Compare(compare.try_into()?),
                ConditionKind::LeaseWithin(LeaseWithin { id, ranges }) => {
                    let ranges = ranges.into_iter().map(|range| keys(Some(range)));
                    request::Condition::LeaseWithin {
                        id: LeaseId(id),
                        ranges: ranges.collect::<Result<_, Error>>()?,
                    }
                }
            })
        };
        let command = guarded.command.ok_or_else(|| malformed("a guarded command"))?;
        Ok(request::Guarded {
            conditions: guarded
                .conditions
                .into_iter()
                .map(condition)
                .collect::<Result<_, Error>>()?,
            command: Box::new((*command).try_into()?),
        })
    }
}

impl From<&request::Put> for Put {
    fn from(put: &request::Put) -> Put {
        Put {
            key: put.key.clone(),
            value: put.value.clone(),
            lease: put.lease.0,
            previous: put.previous,
            ignore_value: put.ignore_value,
            ignore_lease: put.ignore_lease,
        }
    }
}

impl From<Put> for request::Put {
    fn from(put: Put) -> request::Put {
        request::Put {
            key: put.key,
            value: put.value,
            lease: LeaseId(put.lease),
            previous: put.previous,
            ignore_value: put.ignore_value,
            ignore_lease: put.ignore_lease,
        }
    }
}

impl From<&request::Delete> for Delete {
    fn from(delete: &request::Delete) -> Delete {
        Delete { keys: Some((&delete.range).into()), previous: delete.previous }
    }
}

impl TryFrom<Delete> for request::Delete {
    type Error = Error;

    fn try_from(delete: Delete) -> Result<request::Delete, Error> {
        Ok(request::Delete { range: keys(delete.keys)?, previous: delete.previous })
    }
}

impl From<&request::Transaction> for Transaction {
    fn from(transaction: &request::Transaction) -> Transaction {
        Transaction {
            compare: transaction.compare.iter().map(Compare::from).collect(),
            success: transaction.success.iter().map(Operation::from).collect(),
            failure: transaction.failure.iter().map(Operation::from).collect(),
        }
    }
}

impl TryFrom<Transaction> for request::Transaction {
    type Error = Error;

    fn try_from(transaction: Transaction) -> Result<request::Transaction, Error> {
        let branch = |operations: Vec<Operation>| {
            operations.into_iter().map(request::Operation::try_from).collect::<Result<_, _>>()
        };
        Ok(request::Transaction {
            compare: transaction
                .compare
                .into_iter()
                .map(request::Compare::try_from)
                .collect::<Result<_, _>>()?,
            success: branch(transaction.success)?,
            failure: branch(transaction.failure)?,
        })
    }
}

impl From<&request::Operation> for Operation {
    fn from(operation: &request::Operation) -> Operation {
        let kind = match operation {
            request::Operation::Range(range) => OperationKind::Range(range.into()),
            request::Operation::Put(put) => OperationKind::Put(put.into()),
            request::Operation::Delete(delete) => OperationKind::Delete(delete.into()),
            request::Operation::Transaction(nested) => OperationKind::Transaction(nested.into()),
        };
        Operation { kind: Some(kind) }
    }
}

impl TryFrom<Operation> for request::Operation {
    type Error = Error;

    fn try_from(operation: Operation) -> Result<request::Operation, Error> {
        Ok(match operation.kind.ok_or_else(|| malformed("the kind of an operation"))? {
            OperationKind::Range(range) => request::Operation::Range(range.try_into()?),
            OperationKind::Put(put) => request::Operation::Put(put.into()),
            OperationKind::Delete(delete) => request::Operation::Delete(delete.try_into()?),
            OperationKind::Transaction(nested) => {
                request::Operation::Transaction(nested.try_into()?)
            }
        })
    }
}

impl From<&request::Range> for Range {
    fn from(range: &request::Range) -> Range {
        Range {
            keys: Some((&range.range).into()),
            limit: range.limit,
            revision: range.revision.0,
            order: match range.order {
                Order::None => 0,
                Order::Ascending => 1,
                Order::Descending => 2,
            },
            target: match range.target {
                Target::Key => 0,
                Target::Version => 1,
                Target::Created => 2,
                Target::Modified => 3,
                Target::Value => 4,
            },
            keys_only: range.keys_only,
            count_only: range.count_only,
            modified_min: range.modified.min.0,
            modified_max: range.modified.max.0,
            created_min: range.created.min.0,
            created_max: range.created.max.0,
        }
    }
}

impl TryFrom<Range> for request::Range {
    type Error = Error;

    fn try_from(range: Range) -> Result<request::Range, Error> {
        let bounds = |min, max| Bounds { min: Revision(min), max: Revision(max) };
        Ok(request::Range {
            range: keys(range.keys)?,
            limit: range.limit,
            revision: Revision(range.revision),
            order: match range.order {
                0 => Order::None,
                1 => Order::Ascending,
                2 => Order::Descending,
                _ => return Err(malformed("the order of a range")),
            },
            target: match range.target {
                0 => Target::Key,
                1 => Target::Version,
                2 => Target::Created,
                3 => Target::Modified,
                4 => Target::Value,
                _ => return Err(malformed("what a range is sorted by")),
            },
            keys_only: range.keys_only,
            count_only: range.count_only,
            modified: bounds(range.modified_min, range.modified_max),
            created: bounds(range.created_min, range.created_max),
        })
    }
}

impl From<&KeyRange> for Keys {
    fn from(range: &KeyRange) -> Keys {
        let (form, start, end) = match range {
            KeyRange::One(key) => (1, key.clone(), Bytes::new()),
            KeyRange::Between { start, end } => (2, start.clone(), end.clone()),
            KeyRange::From(start) => (3, start.clone(), Bytes::new()),
        };
        Keys { form, start, end }
    }
}

fn keys(keys: Option<Keys>) -> Result<KeyRange, Error> {
    let Keys { form, start, end } = keys.ok_or_else(|| malformed("a range of keys"))?;
    match form {
        1 => Ok(KeyRange::One(start)),
        2 => Ok(KeyRange::Between { start, end }),
        3 => Ok(KeyRange::From(start)),
        _ => Err(malformed("the form of a range of keys")),
    }
}

impl From<&request::Compare> for Compare {
    fn from(compare: &request::Compare) -> Compare {
        Compare {
            keys: Some((&compare.range).into()),
            relation: match compare.relation {
                Relation::Equal => 0,
                Relation::Greater => 1,
                Relation::Less => 2,
                Relation::NotEqual => 3,
            },
            operand: Some(match &compare.operand {
                Operand::Version(version) => OperandKind::Version(*version),
                Operand::Created(revision) => OperandKind::Created(revision.0),
                Operand::Modified(revision) => OperandKind::Modified(revision.0),
                Operand::Value(value) => OperandKind::Value(value.clone()),
                Operand::Lease(lease) => OperandKind::Lease(lease.0),
            }),
        }
    }
}

impl TryFrom<Compare> for request::Compare {
    type Error = Error;

    fn try_from(compare: Compare) -> Result<request::Compare, Error> {
        Ok(request::Compare {
            range: keys(compare.keys)?,
            relation: match compare.relation {
                0 => Relation::Equal,
                1 => Relation::Greater,
                2 => Relation::Less,
                3 => Relation::NotEqual,
                _ => return Err(malformed("the relation of a comparison")),
            },
            operand: match compare.operand.ok_or_else(|| malformed("what is compared"))? {
                OperandKind::Version(version) => Operand::Version(version),
                OperandKind::Created(revision) => Operand::Created(Revision(revision)),
                OperandKind::Modified(revision) => Operand::Modified(Revision(revision)),
                OperandKind::Value(value) => Operand::Value(value),
                OperandKind::Lease(lease) => Operand::Lease(LeaseId(lease)),
            },
        })
    }
}
