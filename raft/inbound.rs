//! What peers send, checked and handed on.
//!
//! Keeps: a peer of another cluster, a member that was removed, and anyone once this member has stopped
//! is turned away. Ids that are merely unknown are let in: a member that lags behind has not heard of
//! the newest member yet and must not keep it from being elected, and whoever wants to join asks before
//! they belong.
//! Keeps: stopping breaks off what peers have under way here, and waits for it, so that nothing of a
//! stopped member works on in its directory.
//! Never: answers for a member that has stopped; silence and refusal are safe, a wrong answer is not.

use std::io;
use std::sync::{Arc, Weak};

use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt};
use kontiki_storage::LeaseId;
use tokio_util::task::task_tracker::TaskTrackerToken;

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

/// The replica as peers see it. It does not keep the member alive: who still holds a door after the
/// member was stopped finds it closed.
pub(crate) struct Door(pub(crate) Weak<Inner>);

/// A peer's request, for as long as this member runs.
struct Visit {
    replica: Arc<Inner>,
    /// Stopping waits until it is gone.
    _present: TaskTrackerToken,
}

impl Visit {
    /// What `work` comes to; `None` when this member stops before that.
    async fn unless_stopped<T, F>(self, work: impl FnOnce(Arc<Inner>) -> F) -> Option<T>
    where
        F: Future<Output = T>,
    {
        let stop = self.replica.stop.clone();
        stop.run_until_cancelled(work(self.replica)).await
    }
}

impl Door {
    fn open(&self) -> Result<Visit, String> {
        let replica = self.0.upgrade().ok_or_else(stopped)?;
        // Counted before the look: whoever stops this member waits for those who came in time.
        let visit = Visit { _present: replica.present(), replica };
        if visit.replica.stop.is_cancelled() {
            return Err(visit.replica.stopped().to_string());
        }
        Ok(visit)
    }

    /// Does `work` for a peer. What is not done when this member stops is broken off.
    fn attend<T, F, W>(&self, work: W) -> BoxFuture<'static, Result<T, String>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, String>> + Send + 'static,
        W: FnOnce(Arc<Inner>) -> F + Send + 'static,
    {
        let visit = self.open();
        Box::pin(async move { visit?.unless_stopped(work).await.unwrap_or_else(|| Err(stopped())) })
    }
}

fn stopped() -> String {
    "this member has stopped".into()
}

/// A removed member takes no part, whatever way its message took.
fn refuse_removed(replica: &Inner, from: &Vote) -> Result<(), String> {
    removed(replica, from.leader_id.voted_for)
}

fn removed(replica: &Inner, id: NodeId) -> Result<(), String> {
    if replica.was_removed(id) {
        return Err(format!("member {id} {WAS_REMOVED}"));
    }
    Ok(())
}

impl Inbound for Door {
    fn admit(&self, cluster: ClusterId, from: NodeId) -> Result<(), String> {
        let replica = self.open()?.replica;
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

    fn greeted(&self, from: NodeId) {
        if let Ok(visit) = self.open() {
            visit.replica.heard_from(from);
        }
    }

    fn append(&self, request: AppendRequest) -> BoxFuture<'static, Result<AppendResponse, String>> {
        self.attend(|replica| async move {
            refuse_removed(&replica, &request.vote)?;
            replica.raft().append_entries(request).await.map_err(|e| e.to_string())
        })
    }

    fn append_stream(
        &self,
        requests: BoxStream<'static, AppendRequest>,
    ) -> BoxStream<'static, Result<AppendResult, String>> {
        match self.open() {
            // What the stream holds keeps nothing of this member open, and it may be left unread for
            // long: it is not waited for.
            Ok(Visit { replica, .. }) => replica
                .raft()
                .stream_append(requests)
                .map(|answer| answer.map_err(|fatal| fatal.to_string()))
                .take_until(replica.stop.clone().cancelled_owned())
                .boxed(),
            Err(reason) => futures::stream::iter([Err(reason)]).boxed(),
        }
    }

    fn vote(&self, request: VoteRequest) -> BoxFuture<'static, Result<VoteResponse, String>> {
        self.attend(|replica| async move {
            refuse_removed(&replica, &request.vote)?;
            replica.raft().vote(request).await.map_err(|e| e.to_string())
        })
    }

    fn pre_vote(&self, request: VoteRequest) -> BoxFuture<'static, Result<VoteResponse, String>> {
        self.attend(|replica| async move {
            refuse_removed(&replica, &request.vote)?;
            replica.raft().pre_vote(request).await.map_err(|e| e.to_string())
        })
    }

    fn transfer_leader(
        &self,
        request: TransferRequest,
    ) -> BoxFuture<'static, Result<TransferResponse, String>> {
        self.attend(|replica| async move {
            replica.raft().handle_transfer_leader(request).await.map_err(|e| e.to_string())
        })
    }

    fn snapshot(
        &self,
        header: SnapshotHeader,
        chunks: BoxStream<'static, io::Result<SnapshotChunk>>,
    ) -> BoxFuture<'static, Result<SnapshotResponse, String>> {
        self.attend(|replica| async move {
            let vote: Vote = convert::decode_vote(&header.vote).map_err(|e| e.to_string())?;
            refuse_removed(&replica, &vote)?;
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
        let visit = self.open();
        Box::pin(async move {
            let Ok(visit) = visit else {
                // Certain, since nothing was begun.
                return Forwarded::NotLeader { leader: None };
            };
            let answered = visit.unless_stopped(|replica| answer(replica, request)).await;
            answered.unwrap_or_else(|| Forwarded::Unknown(stopped()))
        })
    }

    fn fetch_snapshot(
        &self,
    ) -> BoxFuture<
        'static,
        Result<(SnapshotHeader, BoxStream<'static, io::Result<SnapshotChunk>>), String>,
    > {
        self.attend(|replica| async move {
            replica.snapshots.export(None).await.map_err(|e| e.to_string())
        })
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
            Forward::Propose(payload) => {
                let answer = batcher::propose_forwarded(replica, payload).await;
                replica.awaited.note();
                answer
            }
            Forward::ReadIndex => match read::read_index(replica).await {
                Ok(index) => {
                    replica.awaited.note();
                    Forwarded::ReadIndex(index.0)
                }
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
