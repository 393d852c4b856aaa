//! Writes that happen together or not at all.

use bytes::Bytes;
use kontiki_storage::record::LeaseId;
use kontiki_storage::request::{
    Compare, Delete, KeyRange, Operand, Operation, Put, Range, Relation, Transaction,
};
use kontiki_storage::revision::Revision;
use serde_json::Value;

use super::{key, object};
use crate::kinds::kind::Stored;

/// One write of a commit: it holds only if its object is still at `expected` (zero: not there).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    pub(super) key: Bytes,
    /// The bytes at rest; `None` deletes.
    pub(super) rest: Option<Bytes>,
    pub(super) expected: Revision,
    /// What it goes with, by itself.
    pub(super) lease: LeaseId,
}

impl Write {
    #[must_use]
    pub fn put(
        of: &Stored,
        namespace: &str,
        name: &str,
        value: &Value,
        expected: Revision,
    ) -> Write {
        Write::put_encoded(of, namespace, name, object::encode(value), expected)
    }

    /// The same of bytes as they are to rest ([`object::encode`]).
    #[must_use]
    pub fn put_encoded(
        of: &Stored,
        namespace: &str,
        name: &str,
        rest: Bytes,
        expected: Revision,
    ) -> Write {
        let key = key::of_object(of, namespace, name);
        Write { key, rest: Some(rest), expected, lease: LeaseId::NONE }
    }

    #[must_use]
    pub fn delete(of: &Stored, namespace: &str, name: &str, expected: Revision) -> Write {
        Write {
            key: key::of_object(of, namespace, name),
            rest: None,
            expected,
            lease: LeaseId::NONE,
        }
    }

    /// The object goes when the lease does.
    #[must_use]
    pub fn with_lease(self, lease: LeaseId) -> Write {
        Write { lease, ..self }
    }

    fn condition(&self) -> Compare {
        Compare {
            range: KeyRange::One(self.key.clone()),
            relation: Relation::Equal,
            operand: Operand::Modified(self.expected),
        }
    }

    fn operation(&self) -> Operation {
        match &self.rest {
            Some(rest) => Operation::Put(Put {
                key: self.key.clone(),
                value: rest.clone(),
                lease: self.lease,
                ..Put::default()
            }),
            None => Operation::Delete(Delete {
                range: KeyRange::One(self.key.clone()),
                previous: false,
            }),
        }
    }
}

/// All of them if nothing has changed; otherwise what is there instead.
pub(super) fn transaction(writes: &[Write]) -> Transaction {
    let look = |write: &Write| Operation::Range(Range::new(KeyRange::One(write.key.clone())));
    Transaction {
        compare: writes.iter().map(Write::condition).collect(),
        success: writes.iter().map(Write::operation).collect(),
        failure: writes.iter().map(look).collect(),
    }
}
