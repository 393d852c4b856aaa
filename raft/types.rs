//! openraft's type parameters, filled in once, and the ids that stand for masters and clusters.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use kontiki_storage::request::EntryAnswers;
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

openraft::declare_raft_types!(
    /// Terms hold one leader each (`leader_id_std`), as etcd's `raft_term` does; it is on disk, so it
    /// can't be changed later.
    pub TypeConfig:
        D = Payload,
        R = Response,
        NodeId = NodeId,
        Node = Peer,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, NodeId>,
);

pub(crate) type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = openraft::alias::VoteOf<TypeConfig>;
pub(crate) type RaftEntry = openraft::alias::EntryOf<TypeConfig>;
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
