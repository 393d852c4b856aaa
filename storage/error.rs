//! Everything that can be wrong with a request or with the state, as values the fronts translate.

use std::path::PathBuf;
use std::sync::Arc;

use crate::record::LeaseId;
use crate::revision::{Index, Revision};

/// Why something was not done. Variants are cut by what a caller can do about them.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    // The request can never be right.
    #[error("key is not provided")]
    EmptyKey,
    #[error("too many operations in a transaction: {given}, at most {max}")]
    TooManyOperations { given: usize, max: usize },
    #[error("the same key is changed twice in one transaction")]
    DuplicateKey,
    #[error("a value is given although the present one is to be kept")]
    ValueProvided,
    #[error("a lease is given although the present one is to be kept")]
    LeaseProvided,
    #[error("lease of {ttl_s} s asked for, at most {max} s")]
    LeaseTtlTooLarge { ttl_s: i64, max: i64 },

    // The request is right, the state is not.
    #[error("revision {asked} has been compacted, the oldest kept is {oldest}")]
    Compacted { asked: Revision, oldest: Revision },
    #[error("revision {asked} is in the future, the newest is {newest}")]
    Future { asked: Revision, newest: Revision },
    #[error("key not found")]
    KeyNotFound,
    #[error("lease {0} not found")]
    LeaseNotFound(LeaseId),
    #[error("lease {0} already exists")]
    LeaseExists(LeaseId),
    #[error("a condition of a guarded command did not hold")]
    ConditionFailed,

    /// Bytes that should be commands are none. Whoever finds this in a committed entry must stop.
    #[error("commands that cannot be read: {0}")]
    Malformed(String),

    // The store itself.
    /// Writes that add data are refused; reads, deletes and compaction go on.
    #[error("no space left for new data in {path}: {free} bytes free, {reserved} in reserve")]
    NoSpace { path: PathBuf, free: u64, reserved: u64 },
    #[error("data directory {path}: {reason}")]
    Refused { path: PathBuf, reason: String },
    /// A snapshot can't be taken, sent or received. Nothing that was there before has changed, and nothing
    /// of what was received is kept: the caller tries again, or turns to another source.
    #[error("snapshot {what}: {reason}")]
    Snapshot { what: String, reason: String },
    /// The bytes at rest are not what was written. Nothing that is served may come from them.
    #[error("damaged data: {0}")]
    Damaged(String),
    #[error("apply out of order: entry {given} after {applied}")]
    OutOfOrder { given: Index, applied: Index },
    #[error("{context}")]
    Engine {
        context: String,
        #[source]
        source: Arc<std::io::Error>,
    },
}

impl Error {
    /// An input or output error of the engine, with what was being done.
    pub fn engine(context: impl Into<String>, source: impl Into<std::io::Error>) -> Error {
        Error::Engine { context: context.into(), source: Arc::new(source.into()) }
    }

    /// Whether the store can no longer be trusted to go on: the process must stop.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        matches!(self, Error::Damaged(_) | Error::OutOfOrder { .. } | Error::Engine { .. })
    }
}

impl PartialEq for Error {
    fn eq(&self, other: &Error) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Eq for Error {}
