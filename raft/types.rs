//! openraft's type parameters, filled in once, and the ids that stand for masters and clusters.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use kontiki_storage::request::EntryAnswers;
use kontiki_storage::revision::Index;
use serde::{Deserialize, Serialize};

/// A master, for as long as it holds its data. Random, never zero, never used again: a master that lost
/// its data comes back under a new one (a member that forgot its vote could help to elect two leaders).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As etcd prints member ids.
        write!(f, "{:x}", self.0)
    }
}

/// The cluster a data directory belongs to. Random, chosen when the cluster is created.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct ClusterId(pub u64);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// What every member knows of a member: it is part of the replicated membership.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    pub name: String,
    /// Where its peer port is reached, as `host:port`.
    pub address: String,
    /// Where clients reach its store port, as URLs; empty when it serves none to others.
    pub client_urls: Vec<String>,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.name, self.address)
    }
}

/// What an entry carries: encoded commands (`kontiki_storage::codec`), behind a version byte.
/// Bytes, so that the log, every follower's stream and the state machine share one buffer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload(#[serde(with = "payload_bytes")] pub Bytes);

mod payload_bytes {
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &Bytes, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
        Vec::<u8>::deserialize(from).map(Bytes::from)
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// What came of an entry, one result per command. Empty for entries of openraft's own, and on followers.
#[derive(Clone, Debug, Default)]
pub struct Response(pub Arc<EntryAnswers>);

impl fmt::Display for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} answers", self.0.len())
    }
}

/// openraft asks for this of answers, which it would need if it sent them itself. It never does: answers
/// stay in the process, or travel as our own messages.
impl Serialize for Response {
    fn serialize<S: serde::Serializer>(&self, _to: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("answers are not sent by consensus"))
    }
}

impl<'de> Deserialize<'de> for Response {
    fn deserialize<D: serde::Deserializer<'de>>(_from: D) -> Result<Response, D::Error> {
        Err(serde::de::Error::custom("answers are not sent by consensus"))
    }
}

/// openraft's type parameters. Terms hold one leader each (`leader_id_std`), as etcd's `raft_term` does;
/// it is on disk, so it can't be changed later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TypeConfig;

impl openraft::RaftTypeConfig for TypeConfig {
    type D = Payload;
    type R = Response;
    type NodeId = NodeId;
    type Node = Peer;
    type Term = u64;
    type LeaderId = openraft::impls::leader_id_std::LeaderId<u64, NodeId>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Payload, NodeId, Peer>;
    type Entry =
        openraft::Entry<<Self::LeaderId as openraft::vote::RaftLeaderId>::Committed, Self::Payload>;
    type Responder<T>
        = Callback<T>
    where
        T: Send + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: Send + 'static;
    type AsyncRuntime = crate::runtime::Runtime;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

/// Where the outcome of an entry goes: straight from the task that applied it to those who wait, with
/// no channel in between. Dropped uncalled when consensus stops; the waiters notice and call it unknown.
pub struct Callback<T>(Box<dyn FnOnce(T) + Send>);

impl<T> Callback<T> {
    pub(crate) fn new(call: impl FnOnce(T) + Send + 'static) -> Callback<T> {
        Callback(Box::new(call))
    }
}

impl<C, T> openraft::raft::responder::Responder<C, T> for Callback<T>
where
    C: openraft::RaftTypeConfig,
    T: Send + 'static,
{
    fn on_complete(self, outcome: T) {
        (self.0)(outcome);
    }
}

pub(crate) type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = openraft::alias::VoteOf<TypeConfig>;
pub(crate) type RaftEntry = openraft::alias::EntryOf<TypeConfig>;
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type Raft = openraft::Raft<TypeConfig, crate::state_machine::StateMachine>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;

/// Where an entry stands in the store's count. openraft counts from 0; the store from 1, so that 0 can
/// mean "nothing applied yet". Everything that is shown to others counts from 1, as etcd does.
pub(crate) fn position(log_index: u64) -> Index {
    Index(log_index + 1)
}

/// The position of an entry that may not exist; 0 for none.
pub(crate) fn position_of(log_id: Option<&LogId>) -> Index {
    log_id.map_or(Index(0), |id| position(id.index))
}
pub(crate) type Membership = openraft::Membership<NodeId, Peer>;
