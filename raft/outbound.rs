//! openraft's messages to peers, over whatever [`Transport`] there is.
//!
//! Keeps: entries, heartbeats and snapshots each have a link of their own, so that none queues behind
//! another. A message is never repeated here: openraft decides that.
//! Never: gives openraft a peer's refusal as an answer. A peer that says this member was removed is
//! believed at once: removal is agreed on, and ids are never used again.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, Stream, StreamExt};
use openraft::error::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{TransferLeaderRequest, TransferLeaderResponse};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::carry::{Awaited, carried};
use crate::network::{
    AppendRequest, AppendResponse, AppendResult, Link, LinkError, SnapshotResponse, Transport,
    VoteRequest, VoteResponse, convert,
};
use crate::snapshots::{SnapshotData, Snapshots};
use crate::types::{NodeId, Peer, TypeConfig, Vote};

type Snapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotData>;
type Rpc = RPCError<TypeConfig>;

/// What a member that was removed is told; looked for in what peers answer.
pub(crate) const WAS_REMOVED: &str = "was removed from the cluster";

/// Called with the words of a peer that turned this member away for good.
pub(crate) type OnRemoved = Arc<dyn Fn(&str) + Send + Sync>;

/// Opens links for openraft.
pub(crate) struct Outbound {
    pub transport: Arc<dyn Transport>,
    pub snapshots: Arc<Snapshots>,
    pub on_removed: OnRemoved,
    /// Least time a peer is given to answer: openraft would use the heartbeat interval, which a disk
    /// that is merely busy can exceed.
    pub patience: Duration,
    /// Breaks off what is under way when this member stops, which waits for it.
    pub stop: CancellationToken,
    /// What is not to be held back.
    pub awaited: Awaited,
    pub tasks: TaskTracker,
}

impl RaftNetworkFactory<TypeConfig> for Outbound {
    type Network = Way;

    async fn new_client(&mut self, target: NodeId, peer: &Peer) -> Way {
        Way {
            link: self.transport.link(target, peer),
            name: format!("{target} ({peer})"),
            snapshots: self.snapshots.clone(),
            on_removed: self.on_removed.clone(),
            patience: self.patience,
            stop: self.stop.clone(),
            awaited: self.awaited.clone(),
            _present: self.tasks.token(),
        }
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, peer: &Peer) -> Way {
        let mut way = self.new_client(target, peer).await;
        // A lost heartbeat must not keep back those that follow.
        way.patience = Duration::ZERO;
        way
    }
}

/// The way to one peer.
pub(crate) struct Way {
    link: Arc<dyn Link>,
    name: String,
    snapshots: Arc<Snapshots>,
    on_removed: OnRemoved,
    patience: Duration,
    stop: CancellationToken,
    awaited: Awaited,
    /// Stopping waits until openraft's tasks have let go of it.
    _present: TaskTrackerToken,
}

impl Way {
    fn deadline(&self, option: &RPCOption) -> Duration {
        option.hard_ttl().max(self.patience)
    }

    /// What a call comes to, in openraft's terms, unless this member stops before.
    async fn call<T>(&self, call: BoxFuture<'static, Result<T, LinkError>>) -> Result<T, Rpc> {
        match self.stop.run_until_cancelled(call).await {
            Some(answer) => answer.map_err(|error| rpc_error(error, &self.on_removed)),
            None => Err(stopped()),
        }
    }
}

fn stopped() -> Rpc {
    RPCError::Unreachable(Unreachable::from_string("this member stops"))
}

fn rpc_error(error: LinkError, on_removed: &OnRemoved) -> Rpc {
    if let LinkError::Refused { reason, .. } = &error
        && reason.contains(WAS_REMOVED)
    {
        on_removed(reason);
    }
    match &error {
        LinkError::NotSent { .. } | LinkError::Refused { .. } => {
            RPCError::Unreachable(Unreachable::new(&error))
        }
        LinkError::Unknown { .. } => RPCError::Network(NetworkError::new(&error)),
    }
}

impl RaftNetworkV2<TypeConfig> for Way {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendRequest,
        option: RPCOption,
    ) -> Result<AppendResponse, Rpc> {
        let deadline = self.deadline(&option);
        self.call(self.link.append(request, deadline)).await
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<AppendResult, Rpc>>, Rpc>>
    where
        S: Stream<Item = AppendRequest> + Send + Unpin + 'static,
    {
        let deadline = self.deadline(&option);
        let on_removed = self.on_removed.clone();
        let mut input = input;
        Box::pin(async move {
            // openraft makes its pause after errors while it produces a request. A transport that fails
            // before it has taken one would be tried again without any pause, for ever.
            let Some(first) = self.stop.run_until_cancelled(input.next()).await else {
                return Err(stopped());
            };
            let Some(first) = first else {
                return Ok(stream::empty().boxed());
            };
            let requests = carried(stream::iter([first]).chain(input), &self.awaited).boxed();
            let answers = self.call(self.link.append_stream(requests, deadline)).await?;
            Ok(answers.map(move |answer| answer.map_err(|e| rpc_error(e, &on_removed))).boxed())
        })
    }

    async fn vote(&mut self, request: VoteRequest, option: RPCOption) -> Result<VoteResponse, Rpc> {
        let deadline = self.deadline(&option);
        self.call(self.link.vote(request, deadline)).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest,
        option: RPCOption,
    ) -> Result<VoteResponse, Rpc> {
        let deadline = self.deadline(&option);
        self.call(self.link.pre_vote(request, deadline)).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse, StreamingError<TypeConfig>> {
        let sending = async {
            // openraft knows the snapshot by what is durable. What is sent is taken now and may hold
            // more, never less: the peer learns how much from the header.
            let least = snapshot.meta.last_log_id;
            let (mut header, chunks) = self.snapshots.export(least).await.map_err(|error| {
                StreamingError::Unreachable(Unreachable::from_string(format!(
                    "no snapshot can be taken for {}: {error}",
                    self.name
                )))
            })?;
            header.vote = convert::encode_vote(&vote);
            self.call(self.link.snapshot(header, chunks)).await.map_err(StreamingError::from)
        };
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = sending => sent,
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, Rpc> {
        let deadline = self.deadline(&option);
        self.call(self.link.transfer_leader(request, deadline)).await
    }
}
