//! Why a proposal, a read or a change of membership came to nothing.

use std::path::PathBuf;

use crate::types::{ClusterId, NodeId};

#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The store refused the command; it took part in the history and changed nothing.
    #[error(transparent)]
    Store(#[from] kontiki_storage::Error),
    /// Nobody leads, or nobody could be reached before the deadline. Certainly not carried out.
    #[error("no leader: {0}")]
    NoLeader(String),
    /// The command may have been carried out, now or later. Never to be reported as failed.
    #[error("fate unknown: {0}")]
    Unknown(String),
    /// More is waiting than may wait. Not carried out; try again later.
    #[error("too many requests: {waiting} are waiting, at most {max}")]
    Overloaded { waiting: usize, max: usize },
    /// The command is larger than an entry may be. Not carried out.
    #[error("request is too large: {bytes} bytes, at most {max}")]
    TooLarge { bytes: usize, max: usize },
    /// No quorum answered a read barrier in time.
    #[error("read timed out: {0}")]
    ReadTimeout(String),
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// This member stopped for good: its disk failed, its data is damaged, or it was told to.
    #[error("this member has stopped: {0}")]
    Stopped(String),
    /// The data directory can't be used as it is; says why and what to do.
    #[error("data directory {path}: {reason}")]
    Directory { path: PathBuf, reason: String },
}

/// Why the membership stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    #[error("member {0} not found")]
    NotFound(NodeId),
    #[error("member {0} is already there")]
    Exists(NodeId),
    #[error("the address {0} belongs to another member already")]
    AddressTaken(String),
    #[error("the name {0} belongs to another member already")]
    NameTaken(String),
    #[error("member {0} was removed and stays out; start it with an empty data directory")]
    Removed(NodeId),
    #[error("member {0} is no learner")]
    NotLearner(NodeId),
    #[error("learner {id} is {behind} entries behind; it is promoted when it has caught up")]
    NotCaughtUp { id: NodeId, behind: u64 },
    #[error("another change of membership is under way")]
    InProgress,
    #[error("too many learners: {0} at most at a time")]
    TooManyLearners(usize),
    #[error("removing {id} would leave {healthy} of {voters} voters healthy, fewer than a quorum")]
    LosesQuorum { id: NodeId, healthy: usize, voters: usize },
    #[error("{0} is not a voter and cannot lead")]
    BadTransferee(NodeId),
    #[error("cluster {given} is not this cluster ({ours})")]
    OtherCluster { given: ClusterId, ours: ClusterId },
    #[error("{0}")]
    Other(String),
}
