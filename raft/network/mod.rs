//! How masters speak to each other.
//!
//! [`Transport`] opens a [`Link`] to a peer; [`Inbound`] is what a peer's messages arrive at. Two
//! transports keep the contract: [`grpc`] (tonic, HTTP/2, mutual TLS) between processes, and [`memory`]
//! inside one, which can delay, drop, duplicate, reorder and cut, by a seed.
//!
//! Keeps: heartbeats, votes and read barriers never queue behind bulk. Snapshots go by a connection of
//! their own.
//! Never: repeats a message by itself. Who sent it decides, because only they know whether a second one
//! does harm.

pub mod grpc;
pub mod memory;

mod convert;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use kontiki_storage::request::EntryAnswers;

use crate::types::{ClusterId, NodeId, Peer, TypeConfig};

pub(crate) type AppendRequest = openraft::raft::AppendEntriesRequest<TypeConfig>;
pub(crate) type AppendResponse = openraft::raft::AppendEntriesResponse<TypeConfig>;
pub(crate) type AppendResult = openraft::raft::StreamAppendResult<TypeConfig>;
pub(crate) type VoteRequest = openraft::raft::VoteRequest<TypeConfig>;
pub(crate) type VoteResponse = openraft::raft::VoteResponse<TypeConfig>;
pub(crate) type TransferRequest = openraft::raft::message::TransferLeaderRequest<TypeConfig>;
pub(crate) type TransferResponse = openraft::raft::message::TransferLeaderResponse<TypeConfig>;
pub(crate) type SnapshotResponse = openraft::raft::SnapshotResponse<TypeConfig>;

/// Why a message got no answer. What matters to the caller is whether it can have arrived.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LinkError {
    /// It was certainly not delivered: no connection, refused before it was sent.
    #[error("cannot reach {peer}: {reason}")]
    NotSent { peer: String, reason: String },
    /// It may have been delivered and carried out: connection lost or time over while waiting.
    #[error("no answer from {peer}: {reason}")]
    Unknown { peer: String, reason: String },
    /// The peer answered that it will not: wrong cluster, removed member, not the leader.
    #[error("{peer} refused: {reason}")]
    Refused { peer: String, reason: String },
}

/// Opens links. Cheap to call: a link connects when first used and again whenever it has broken.
pub trait Transport: Send + Sync + 'static {
    fn link(&self, target: NodeId, peer: &Peer) -> Arc<dyn Link>;
}

/// A way to one peer.
pub trait Link: Send + Sync + 'static {
    /// One message of entries (or none: a heartbeat).
    fn append(
        &self,
        request: AppendRequest,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<AppendResponse, LinkError>>;

    /// Many messages in order over one bidirectional stream, their answers in the same order. The stream
    /// ends with the first answer that is not plain success, or with an error.
    fn append_stream(
        &self,
        requests: BoxStream<'static, AppendRequest>,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<AppendResult, LinkError>>, LinkError>>;

    fn vote(
        &self,
        request: VoteRequest,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<VoteResponse, LinkError>>;

    fn pre_vote(
        &self,
        request: VoteRequest,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<VoteResponse, LinkError>>;

    fn transfer_leader(
        &self,
        request: TransferRequest,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<TransferResponse, LinkError>>;

    /// A whole store. Chunks are read from `snapshot` as the peer takes them, each with a checksum.
    fn snapshot(
        &self,
        header: SnapshotHeader,
        chunks: BoxStream<'static, std::io::Result<SnapshotChunk>>,
    ) -> BoxFuture<'static, Result<SnapshotResponse, LinkError>>;

    /// A request of a follower to the leader.
    fn forward(
        &self,
        request: Forward,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Forwarded, LinkError>>;

    /// Asks the peer for its newest snapshot, so that a learner can be filled by a follower.
    fn fetch_snapshot(
        &self,
    ) -> BoxFuture<
        'static,
        Result<(SnapshotHeader, BoxStream<'static, std::io::Result<SnapshotChunk>>), LinkError>,
    >;
}

/// What arrives from peers. Implemented by the replica; called by the servers of both transports.
pub trait Inbound: Send + Sync + 'static {
    /// Checked for every connection: a peer of another cluster, or one that was removed, is turned away.
    fn admit(&self, cluster: ClusterId, from: NodeId) -> Result<(), String>;
    fn append(&self, request: AppendRequest) -> BoxFuture<'static, Result<AppendResponse, String>>;
    fn append_stream(
        &self,
        requests: BoxStream<'static, AppendRequest>,
    ) -> BoxStream<'static, Result<AppendResult, String>>;
    fn vote(&self, request: VoteRequest) -> BoxFuture<'static, Result<VoteResponse, String>>;
    fn pre_vote(&self, request: VoteRequest) -> BoxFuture<'static, Result<VoteResponse, String>>;
    fn transfer_leader(
        &self,
        request: TransferRequest,
    ) -> BoxFuture<'static, Result<TransferResponse, String>>;
    fn snapshot(
        &self,
        header: SnapshotHeader,
        chunks: BoxStream<'static, std::io::Result<SnapshotChunk>>,
    ) -> BoxFuture<'static, Result<SnapshotResponse, String>>;
    fn forward(&self, request: Forward) -> BoxFuture<'static, Forwarded>;
    fn fetch_snapshot(
        &self,
    ) -> BoxFuture<
        'static,
        Result<(SnapshotHeader, BoxStream<'static, std::io::Result<SnapshotChunk>>), String>,
    >;
}

/// What comes before a snapshot's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotHeader {
    /// The sender's vote, encoded (`convert`); empty when the snapshot was fetched, not sent.
    pub vote: Bytes,
    /// openraft's description of the snapshot: last log id and membership, encoded.
    pub meta: Bytes,
    /// The manifest of `kontiki_storage::snapshot`: files, lengths, checksums.
    pub manifest: Bytes,
}

/// A piece of one file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotChunk {
    /// Which file of the manifest.
    pub file: u32,
    pub offset: u64,
    pub bytes: Bytes,
    /// CRC32C of `bytes`.
    pub checksum: u32,
}

/// What a follower asks of the leader.
#[derive(Clone, Debug)]
pub enum Forward {
    /// Encoded commands (`kontiki_storage::codec`), to be proposed as they are.
    Propose(Bytes),
    /// Up to which log index must be applied for a read that begins now to be linearizable?
    ReadIndex,
    LeaseKeepAlive(i64),
    LeaseTimeToLive(i64),
    AddLearner { id: NodeId, peer: Peer },
    Promote(NodeId),
    Remove(NodeId),
    Update { id: NodeId, peer: Peer },
    TransferLeader(NodeId),
}

/// The leader's answer. `NotLeader` is certain: nothing was done.
#[derive(Clone, Debug)]
pub enum Forwarded {
    NotLeader { leader: Option<NodeId> },
    Proposed(EntryAnswers),
    /// The command may or may not be carried out.
    Unknown(String),
    ReadIndex(u64),
    /// Seconds granted anew, or left; -1 where there is no such lease.
    Lease { ttl_s: i64, granted_s: i64 },
    Done,
    Refused(crate::error::MembershipError),
}
