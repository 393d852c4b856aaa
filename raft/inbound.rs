//! What peers send, checked and handed on.
//!
//! Keeps: a peer of another cluster, a member that was removed, and anyone once this member has stopped
//! is turned away. Ids that are merely unknown are let in: a member that lags behind has not heard of
//! the newest member yet and must not keep it from being elected, and whoever wants to join asks before
//! they belong.
//! Never: answers for a member that has stopped; silence and refusal are safe, a wrong answer is not.

use std::io;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt};
use kontiki_storage::LeaseId;

use crate::batcher;
use crate::error::{Error, MembershipError};
use crate::membership;
use crate::network::{
    AppendRequest, AppendResponse, AppendResult, Forward, Forwarded, Inbound, SnapshotChunk,
    SnapshotHeader, SnapshotResponse, TransferRequest, TransferResponse, VoteRequest, VoteResponse,
    convert,
};
use crate::outbound::WAS_REMOVED;
use crate::read;
use crate::replica::Inner;
use crate::snapshots::SnapshotData;
use crate::types::{ClusterId, NodeId, SnapshotMeta, Vote};

/// The replica as peers see it.
pub(crate) struct Door(pub(crate) Arc<Inner>);

impl Door {
    fn open(&self) -> Result<Arc<Inner>, String> {
        if self.0.stop.is_cancelled() {
            return Err(self.0.stopped().to_string());
        }
        Ok(self.0.clone())
    }

    /// A removed member takes no part, whatever way its message took.
    fn refuse_removed(&self, from: &Vote) -> Result<(), String> {
        removed(&self.0, from.leader_id.voted_for)
    }
}

fn removed(replica: &Inner, id: NodeId) -> Result<(), String> {
    if replica.was_removed(id) {
        return Err(format!("member {id} {WAS_REMOVED}"));
    }
    Ok(())
}

impl Inbound for Door {
    fn admit(&self, cluster: ClusterId, from: NodeId) -> Result<(), String> {
        let replica = self.open()?;
        if cluster != replica.cluster {
            return Err(
                MembershipError::OtherCluster { given: cluster, ours: replica.cluster }.to_string()
            );
        }
        if from == replica.id {
            return Err(format!(
                "{from} is this member's own id; each member has its own directory"
            ));
        }
        removed(&replica, from)
    }

    fn append(&self, request: AppendRequest) -> BoxFuture<'static, Result<AppendResponse, String>> {
        let checked = self.open().and_then(|r| self.refuse_removed(&request.vote).map(|()| r));
        Box::pin(async move {
            let replica = checked?;
            replica.raft().append_entries(request).await.map_err(|e| e.to_string())
        })
    }

    fn append_stream(
        &self,
        requests: BoxStream<'static, AppendRequest>,
    ) -> BoxStream<'static, Result<AppendResult, String>> {
        match self.open() {
            Ok(replica) => replica
                .raft()
                .stream_append(requests)
                .map(|answer| answer.map_err(|fatal| fatal.to_string()))
                .boxed(),
            Err(reason) => futures::stream::iter([Err(reason)]).boxed(),
        }
    }

    fn vote(&self, request: VoteRequest) -> BoxFuture<'static, Result<VoteResponse, String>> {
        let checked = self.open().and_then(|r| self.refuse_removed(&request.vote).map(|()| r));
        Box::pin(async move { checked?.raft().vote(request).await.map_err(|e| e.to_string()) })
    }

    fn pre_vote(&self, request: VoteRequest) -> BoxFuture<'static, Result<VoteResponse, String>> {
        let checked = self.open().and_then(|r| self.refuse_removed(&request.vote).map(|()| r));
        Box::pin(async move { checked?.raft().pre_vote(request).await.map_err(|e| e.to_string()) })
    }

    fn transfer_leader(
        &self,
        request: TransferRequest,
    ) -> BoxFuture<'static, Result<TransferResponse, String>> {
        let replica = self.open();
        Box::pin(async move {
            replica?.raft().handle_transfer_leader(request).await.map_err(|e| e.to_string())
        })
    }

    fn snapshot(
        &self,
        header: SnapshotHeader,
        chunks: BoxStream<'static, io::Result<SnapshotChunk>>,
    ) -> BoxFuture<'static, Result<SnapshotResponse, String>> {
        let replica = self.open();
        Box::pin(async move {
            let replica = replica?;
            let vote: Vote = convert::decode_vote(&header.vote).map_err(|e| e.to_string())?;
            removed(&replica, vote.leader_id.voted_for)?;
            let meta: SnapshotMeta =
                convert::decode_snapshot_meta(&header.meta).map_err(|e| e.to_string())?;
            let received =
                replica.snapshots.receive(header, chunks).await.map_err(|e| e.to_string())?;
            let snapshot = openraft::Snapshot { meta, snapshot: SnapshotData::Received(received) };
            replica
                .raft()
                .install_full_snapshot(vote, snapshot)
                .await
                .map_err(|fatal| fatal.to_string())
        })
    }

    fn forward(&self, request: Forward) -> BoxFuture<'static, Forwarded> {
        let replica = self.open();
        Box::pin(async move {
            match replica {
                Ok(replica) => answer(replica, request).await,
                // Certain, since nothing was begun.
                Err(_) => Forwarded::NotLeader { leader: None },
            }
        })
    }

    fn fetch_snapshot(
        &self,
    ) -> BoxFuture<
        'static,
        Result<(SnapshotHeader, BoxStream<'static, io::Result<SnapshotChunk>>), String>,
    > {
        let replica = self.open();
        Box::pin(async move { replica?.snapshots.export(None).await.map_err(|e| e.to_string()) })
    }
}

/// A request of a follower (or of this member's own), answered by the leader only. Boxed, since
/// a leader that is to be removed asks its successor in turn.
pub(crate) fn answer(replica: Arc<Inner>, request: Forward) -> BoxFuture<'static, Forwarded> {
    Box::pin(async move {
        let replica = &replica;
        if !replica.is_leader() {
            return Forwarded::NotLeader { leader: replica.leader() };
        }
        match request {
            Forward::Propose(payload) => batcher::propose_forwarded(replica, payload).await,
            Forward::ReadIndex => match read::read_index(replica).await {
                Ok(index) => Forwarded::ReadIndex(index.0),
                Err(_) => Forwarded::NotLeader { leader: replica.leader() },
            },
            Forward::LeaseKeepAlive(id) => {
                let renewed = replica.leases.keep_alive(replica, LeaseId(id)).await;
                lease(renewed.map(|ttl| ttl.map(|ttl| (ttl, ttl))))
            }
            Forward::LeaseTimeToLive(id) => {
                let found = replica.leases.time_to_live(replica, LeaseId(id)).await;
                lease(found.map(|found| found.map(|(granted_s, left_s)| (left_s, granted_s))))
            }
            Forward::AddLearner { id, peer } => {
                done(membership::add_learner(replica, id, peer).await)
            }
            Forward::Promote(id) => done(membership::promote(replica, id).await),
            Forward::Remove(id) => done(membership::remove(replica, id).await),
            Forward::Update { id, peer } => done(membership::update(replica, id, peer).await),
            Forward::TransferLeader(to) => done(membership::transfer_leader(replica, to).await),
        }
    })
}

fn lease(found: Result<Option<(i64, i64)>, Error>) -> Forwarded {
    match found {
        Ok(Some((ttl_s, granted_s))) => Forwarded::Lease { ttl_s, granted_s },
        Ok(None) => Forwarded::Lease { ttl_s: -1, granted_s: -1 },
        Err(Error::NoLeader(_)) => Forwarded::NotLeader { leader: None },
        Err(error) => Forwarded::Unknown(error.to_string()),
    }
}

fn done(result: Result<(), Error>) -> Forwarded {
    match result {
        Ok(()) => Forwarded::Done,
        Err(Error::Membership(refusal)) => Forwarded::Refused(refusal),
        Err(Error::NoLeader(_)) => Forwarded::NotLeader { leader: None },
        Err(error) => Forwarded::Unknown(error.to_string()),
    }
}
