//! What may be asked of the store, and what it answers.
//!
//! Requests are checked before they are proposed ([`Command::check`], which needs no state) and again by
//! `apply` where the answer depends on the state. Nothing here names a wire format: the fronts translate.

mod check;

use std::sync::Arc;

use bytes::Bytes;

use crate::error::Error;
use crate::record::{KeyValue, LeaseId};
use crate::revision::Revision;

/// Most comparisons, and most operations in one branch, of a transaction (etcd's `--max-txn-ops`).
pub const TRANSACTION_OPERATIONS_MAX: usize = 128;

/// How deep transactions may be nested. Decoders stop at a depth of about 50, so it must be less.
pub const TRANSACTION_DEPTH_MAX: usize = 32;

/// Longest lease, in seconds, that can be granted (etcd's limit).
pub const LEASE_TTL_MAX_S: i64 = 9_000_000_000;

/// Which keys are meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeyRange {
    /// Exactly this key.
    One(Bytes),
    /// `start` and everything after it, below `end`. An empty range when `end <= start`.
    Between { start: Bytes, end: Bytes },
    /// `start` and everything after it.
    From(Bytes),
}

impl KeyRange {
    /// Every key of the store.
    #[must_use]
    pub fn all() -> KeyRange {
        KeyRange::From(Bytes::new())
    }

    /// Every key that begins with `prefix`.
    #[must_use]
    pub fn prefix(prefix: impl Into<Bytes>) -> KeyRange {
        let start: Bytes = prefix.into();
        match after_prefix(&start) {
            Some(end) => KeyRange::Between { start, end },
            None => KeyRange::From(start),
        }
    }

    /// The range a client means by `key` and `range_end` (etcd's rules: an empty end is the single key,
    /// one zero byte as the end is "from key on").
    #[must_use]
    pub fn from_wire(key: Bytes, range_end: Bytes) -> KeyRange {
        match range_end.as_ref() {
            [] => KeyRange::One(key),
            [0] => {
                // A key of one zero byte is the smallest a client can name: the whole store.
                KeyRange::From(if key.as_ref() == [0] { Bytes::new() } else { key })
            }
            _ => KeyRange::Between { start: key, end: range_end },
        }
    }

    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            KeyRange::One(one) => one.as_ref() == key,
            KeyRange::Between { start, end } => start.as_ref() <= key && key < end.as_ref(),
            KeyRange::From(start) => start.as_ref() <= key,
        }
    }

    /// The first key that can be in the range.
    #[must_use]
    pub fn start(&self) -> &Bytes {
        match self {
            KeyRange::One(start) | KeyRange::Between { start, .. } | KeyRange::From(start) => start,
        }
    }
}

/// The smallest key that is larger than every key with this prefix; `None` where there is no such key.
#[must_use]
pub fn after_prefix(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end.into())
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    pub range: KeyRange,
    /// Most keys to return; 0 for no limit.
    pub limit: u64,
    /// The point in history to read at; zero for now.
    pub revision: Revision,
    pub order: Order,
    pub target: Target,
    pub keys_only: bool,
    pub count_only: bool,
    /// Bounds on the versions returned, each inclusive, zero for none. They do not touch `count`.
    pub modified: Bounds,
    pub created: Bounds,
}

impl Range {
    /// All of `range`, now, in key order.
    #[must_use]
    pub fn new(range: KeyRange) -> Range {
        Range {
            range,
            limit: 0,
            revision: Revision::ZERO,
            order: Order::None,
            target: Target::Key,
            keys_only: false,
            count_only: false,
            modified: Bounds::default(),
            created: Bounds::default(),
        }
    }
}

/// Inclusive bounds on a revision; zero means unbounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    pub min: Revision,
    pub max: Revision,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    #[default]
    None,
    Ascending,
    Descending,
}

/// What a range is sorted by, or what a comparison looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Target {
    #[default]
    Key,
    Version,
    Created,
    Modified,
    Value,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Put {
    pub key: Bytes,
    pub value: Bytes,
    pub lease: LeaseId,
    /// Return the version that was replaced.
    pub previous: bool,
    /// Keep the value that is there; it is an error if there is none.
    pub ignore_value: bool,
    /// Keep the lease that is there; it is an error if there is no key.
    pub ignore_lease: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delete {
    pub range: KeyRange,
    /// Return the versions that were deleted.
    pub previous: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    pub compare: Vec<Compare>,
    pub success: Vec<Operation>,
    pub failure: Vec<Operation>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    Range(Range),
    Put(Put),
    Delete(Delete),
    Transaction(Transaction),
}

/// A condition on one key, or on every key of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    pub range: KeyRange,
    pub relation: Relation,
    pub operand: Operand,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    Equal,
    Greater,
    Less,
    NotEqual,
}

/// What is compared, with the value it is compared to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operand {
    Version(u64),
    Created(Revision),
    Modified(Revision),
    Value(Bytes),
    Lease(LeaseId),
}

/// A change of the store, as it stands in the replicated log. It carries all that `apply` needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Put(Put),
    Delete(Delete),
    Transaction(Transaction),
    /// Forget what was superseded at or before this revision.
    Compact(Revision),
    LeaseGrant {
        id: LeaseId,
        ttl_s: i64,
    },
    /// A client's wish: the lease and its keys go, at one revision.
    LeaseRevoke {
        id: LeaseId,
    },
    /// The lease keeper's verdict: these have run out. It holds only in the term in which it was reached
    /// (`term` equal to the term of the entry that carries it), so a keeper that was paused and lost the
    /// leadership meanwhile can do no harm. Leases that are gone by then are passed over.
    LeaseExpire {
        ids: Vec<LeaseId>,
        term: u64,
    },
    /// What is left of some leases, in milliseconds, so that it survives a change of leader. Fenced by
    /// `term` as `LeaseExpire` is.
    LeaseCheckpoint {
        remaining_ms: Vec<(LeaseId, u64)>,
        term: u64,
    },
    Guarded(Guarded),
}

/// A command that holds only if something else is still so when it is applied. Else it changes nothing
/// and is answered [`Error::ConditionFailed`]. For a front that judges a request by rows of its own: who
/// races with a change of those rows is caught here, and may judge again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guarded {
    /// All must hold, in the state before the command.
    pub conditions: Vec<Condition>,
    /// Not guarded itself.
    pub command: Box<Command>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    Compare(Compare),
    /// Every key attached to the lease lies in one of the ranges. Holds for a lease that is not there.
    LeaseWithin {
        id: LeaseId,
        ranges: Vec<KeyRange>,
    },
}

/// What a command came to. `revision` is the store's revision after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub revision: Revision,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Put(PutAnswer),
    Delete(DeleteAnswer),
    Transaction(TransactionAnswer),
    Compacted,
    LeaseGranted {
        id: LeaseId,
        ttl_s: i64,
    },
    LeaseRevoked,
    /// How many leases were ended by a [`Command::LeaseExpire`]; 0 when it came from another term.
    LeasesExpired(u64),
    Checkpointed,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutAnswer {
    pub previous: Option<KeyValue>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteAnswer {
    pub deleted: u64,
    pub previous: Vec<KeyValue>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeAnswer {
    pub kvs: Vec<KeyValue>,
    /// More keys were there than the limit let through.
    pub more: bool,
    /// Keys in the range at that revision, whatever the limit and the bounds.
    pub count: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TransactionAnswer {
    pub succeeded: bool,
    pub answers: Vec<OperationAnswer>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperationAnswer {
    Range(RangeAnswer),
    Put(PutAnswer),
    Delete(DeleteAnswer),
    Transaction(TransactionAnswer),
}

/// One entry of the log, as the store sees it.
#[derive(Clone, Debug)]
pub struct Entry {
    pub index: crate::revision::Index,
    /// The term in which the entry was proposed; fences what a lease keeper decided.
    pub term: u64,
    /// What consensus wants kept with the state in the same batch (its log id and membership). Opaque.
    pub mark: Bytes,
    pub commands: Arc<[Command]>,
}

/// What came of an entry: one result for each of its commands, in order.
pub type EntryAnswers = Vec<Result<Answer, Error>>;
