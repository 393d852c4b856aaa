//! The door to the replicated store: whoever holds a [`Replica`] never needs to know who leads.
//!
//! A write goes to the batcher, through openraft's log to a quorum, and from the state machine straight
//! back. A read waits for a barrier and is served from this member's own store. `docs/raft.md` walks
//! through one write, one read, one change of membership and one restart.
//!
//! Keeps: what is acknowledged is durable on a quorum. `Unknown` is an answer of its own; only what was
//! certainly not carried out is reported as failed, or sent again.
//! Never: serves or votes after a failure of its disk or its state. It stops, and says why.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use kontiki_storage::Store;
use kontiki_storage::directory::{Directory, Space};
use kontiki_storage::lease::Lease;
use kontiki_storage::request::{Answer, Command, Range, RangeAnswer};
use kontiki_storage::revision::{Index, Revision};
use kontiki_storage::snapshot::Snapshot;
use kontiki_storage::watch::{self as store_watch, Watcher};
use openraft::Instant as _;
use openraft::ServerState;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::batcher::{Decoded, Proposer, RaftFatal};
use crate::carry::Awaited;
use crate::duties::{self, lease_keeper::Leases};
use crate::error::Error;
use crate::inbound::Door;
use crate::log::{Histogram, Log};
use crate::membership::{self, Member};
use crate::network::{Forward, Inbound, Link, Transport};
use crate::progress::Progress;
use crate::read::Barriers;
use crate::snapshots::Snapshots;
use crate::state_machine::Roster;
use crate::types::{ClusterId, NodeId, Peer, Raft, StoredMembership, position_of};
use openraft::async_runtime::watch::WatchReceiver;

mod config;
mod disk;
mod leases;
mod start;
mod status;

#[cfg(test)]
mod tests;

pub use config::Config;
pub use leases::Granted;
pub use start::Parts;
pub use status::{Role, Status};

/// How fresh what a read shows has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Not older than the moment the read began, on whatever member.
    Linearizable,
    /// What this member has, which may be old.
    Serializable,
    /// At least this revision; waited for.
    AtLeast(Revision),
}

/// What an answer says of where and when it was made (etcd's `ResponseHeader`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub cluster: ClusterId,
    pub member: NodeId,
    pub revision: Revision,
    pub term: u64,
}

/// A member's part of the replicated store. Cheap to clone; all clones are the same member.
#[derive(Clone)]
pub struct Replica(Arc<Inner>);

/// Ways to members, with where each was reached when it was opened.
type Links = HashMap<NodeId, (Peer, Arc<dyn Link>)>;

/// What the rooms of this crate share.
pub(crate) struct Inner {
    pub id: NodeId,
    pub cluster: ClusterId,
    pub config: Config,
    pub stop: CancellationToken,
    /// What followers wait for, while this member leads.
    pub awaited: Awaited,
    pub progress: Arc<Progress>,
    pub decoded: Arc<Decoded>,
    pub snapshots: Arc<Snapshots>,
    pub barriers: Barriers,
    pub leases: Leases,
    /// Held during a change of membership: one at a time.
    pub changing: tokio::sync::Mutex<()>,
    /// Held while the store is synced.
    pub flushing: tokio::sync::Mutex<()>,
    store: Store,
    log: Log,
    /// Segments that were there when the log was opened, and how large each is.
    log_segments: usize,
    log_segment_bytes: u64,
    space: Option<Arc<Space>>,
    directory: Arc<Directory>,
    transport: Arc<dyn Transport>,
    /// Set once, right after openraft was built from everything else.
    raft: OnceLock<Raft>,
    proposer: Proposer,
    links: Mutex<Links>,
    roster: Arc<Mutex<Roster>>,
    status: watch::Sender<Status>,
    /// Why this member stopped; the first reason stays.
    failure: Mutex<Option<String>>,
    tasks: TaskTracker,
}

impl Replica {
    /// Opens this member's part: replays the log into the store, and takes up its place in the cluster.
    /// It neither votes nor serves when the directory is condemned or the log has forgotten something.
    pub async fn start(parts: Parts, config: Config) -> Result<Replica, Error> {
        start::start(parts, config).await.map(Replica)
    }

    /// What peers' messages arrive at.
    #[must_use]
    pub fn inbound(&self) -> Arc<dyn Inbound> {
        Arc::new(Door(Arc::downgrade(&self.0)))
    }

    /// Makes a cluster of this one member. Refused when anything is there already.
    pub async fn bootstrap(&self, peer: Peer) -> Result<(), Error> {
        start::bootstrap(&self.0, peer).await
    }

    /// Proposes one command and waits for its answer, on whatever member.
    pub async fn propose(&self, command: Command) -> Result<Answer, Error> {
        self.0.propose(command).await
    }

    /// Waits until this member has applied everything that was agreed on before the call.
    pub async fn read_barrier(&self) -> Result<(), Error> {
        self.0.read_barrier().await
    }

    pub async fn range(
        &self,
        request: &Range,
        freshness: Freshness,
    ) -> Result<(RangeAnswer, Header), Error> {
        self.0.serving()?;
        match freshness {
            Freshness::Linearizable => self.read_barrier().await?,
            Freshness::Serializable => {}
            Freshness::AtLeast(revision) => self.wait_for(revision).await?,
        }
        let (answer, revision) = self.0.store.range(request)?;
        Ok((answer, Header { revision, ..self.header() }))
    }

    /// Waits until this member shows `revision`.
    pub async fn wait_for(&self, revision: Revision) -> Result<(), Error> {
        let limit = self.0.config.request_timeout();
        let reached = self.0.progress.reached_revision(revision);
        tokio::select! {
            biased;
            result = tokio::time::timeout(limit, reached) => result.map_err(|_| {
                Error::ReadTimeout(format!("revision {revision} has not come"))
            }),
            () = self.0.stop.cancelled() => Err(self.0.stopped()),
        }
    }

    #[must_use]
    pub fn watch(&self, request: store_watch::Request) -> Watcher {
        self.0.store.watch(request)
    }

    #[must_use]
    pub fn store(&self) -> &Store {
        self.0.store()
    }

    #[must_use]
    pub fn header(&self) -> Header {
        self.0.header()
    }

    #[must_use]
    pub fn id(&self) -> NodeId {
        self.0.id
    }

    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.0.cluster
    }

    /// Adds a member that follows; it asks to become a voter itself when it has caught up. This member
    /// lists it from then on, as after any of the changes below.
    pub async fn add_learner(&self, id: NodeId, peer: Peer) -> Result<(), Error> {
        self.change_members(Forward::AddLearner { id, peer }).await
    }

    /// Makes a learner that has caught up a voter.
    pub async fn promote(&self, id: NodeId) -> Result<(), Error> {
        self.change_members(Forward::Promote(id)).await
    }

    /// Takes a member out for good: its id never comes back.
    pub async fn remove(&self, id: NodeId) -> Result<(), Error> {
        self.change_members(Forward::Remove(id)).await
    }

    pub async fn update(&self, id: NodeId, peer: Peer) -> Result<(), Error> {
        self.change_members(Forward::Update { id, peer }).await
    }

    async fn change_members(&self, change: Forward) -> Result<(), Error> {
        let leaves = matches!(&change, Forward::Remove(id) if *id == self.0.id);
        membership::ask_leader(&self.0, change).await?;
        if !leaves && !self.0.is_leader() {
            // Agreed on, whatever comes of this: a follower may only hear of it late.
            self.0.read_barrier().await.ok();
        }
        Ok(())
    }

    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), Error> {
        let request = Forward::TransferLeader(to);
        membership::ask_leader(&self.0, request).await.map(|_| ())
    }

    /// The members as this one knows them.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        membership::members(&self.0)
    }

    /// What this member is and how far it is. It begins with what holds now; role, leader and term are
    /// told at once when they change, positions a moment later (50 ms at most).
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.0.status()
    }

    /// Waits until the status satisfies `what`. `None` when that takes longer than `limit`.
    pub async fn wait(&self, limit: Duration, what: impl Fn(&Status) -> bool) -> Option<Status> {
        let mut status = self.status();
        let waiting = status.wait_for(|status| what(status));
        let found = tokio::time::timeout(limit, waiting).await.ok()?.ok()?.clone();
        Some(found)
    }

    /// What was met of damage in this member's state, as long as no other has taken its place: in words, for
    /// people. What is asked of it is answered as far as it can be read; started again, the member asks the
    /// others for a place under a new id.
    #[must_use]
    pub fn damage(&self) -> Option<String> {
        let noted = self.0.directory.doubted().unwrap_or_else(|error| Some(error.to_string()));
        noted.or_else(|| self.0.store.damage().map(|error| error.to_string()))
    }

    /// All leases there are, by id, as of now.
    pub async fn leases(&self) -> Result<Vec<Lease>, Error> {
        self.read_barrier().await?;
        Ok(self.0.store.leases()?)
    }

    /// The whole store as this member has it, as files; `kontiki_storage::snapshot::archive::write` makes
    /// one file of them. It stays on the disk for as long as it is held.
    pub async fn take_snapshot(&self) -> Result<Arc<Snapshot>, Error> {
        self.0.serving()?;
        Ok(self.0.snapshots.take_now().await?)
    }

    /// How long each sync of this member's log has taken since it was started.
    #[must_use]
    pub fn log_syncs(&self) -> Histogram {
        self.0.log_syncs()
    }

    /// Makes the store durable now, instead of at the next turn.
    pub async fn flush(&self) -> Result<(), Error> {
        if duties::flusher::flush(&self.0).await { Ok(()) } else { Err(self.0.stopped()) }
    }

    /// Hands leadership over if there is someone to take it, makes the store durable and stops. What is
    /// still under way is answered `Unknown` or `Stopped`. The directory is free for another process, or
    /// another start, when this has returned and the last clone of the replica and of its store is gone.
    pub async fn shutdown(&self) {
        start::shutdown(&self.0).await;
    }

    /// Stops without any of the courtesies of [`Replica::shutdown`]: what a crash leaves behind.
    pub async fn kill(&self) {
        start::halt(&self.0).await;
    }
}

impl Inner {
    pub(crate) fn raft(&self) -> &Raft {
        self.raft.get().expect("openraft is there before anything else runs")
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn status(&self) -> watch::Receiver<Status> {
        self.look();
        self.status.subscribe()
    }

    pub(crate) fn header(&self) -> Header {
        Header {
            cluster: self.cluster,
            member: self.id,
            revision: self.store.revision(),
            term: self.term(),
        }
    }

    /// For something that stopping this member has to wait for.
    pub(crate) fn present(&self) -> TaskTrackerToken {
        self.tasks.token()
    }

    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// A task that belongs to this member and ends with it.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    pub(crate) async fn propose(&self, command: Command) -> Result<Answer, Error> {
        self.serving()?;
        command.check()?;
        let weight = command.weight();
        if weight > self.config.request_bytes_max {
            return Err(Error::TooLarge { bytes: weight, max: self.config.request_bytes_max });
        }
        self.proposer.propose(command, weight, self.config.request_timeout()).await
    }

    pub(crate) async fn read_barrier(&self) -> Result<(), Error> {
        self.serving()?;
        tokio::select! {
            biased;
            result = self.barriers.wait(self.config.request_timeout()) => result,
            () = self.stop.cancelled() => Err(self.stopped()),
        }
    }

    fn serving(&self) -> Result<(), Error> {
        if self.stop.is_cancelled() { Err(self.stopped()) } else { Ok(()) }
    }

    /// Why nothing is served any more.
    pub(crate) fn stopped(&self) -> Error {
        let reason = self.failure.lock().clone();
        Error::Stopped(reason.unwrap_or_else(|| "it was shut down".into()))
    }

    /// Stops this member for good: its disk or its state can't be trusted. Nothing is acknowledged from
    /// here on.
    pub(crate) fn fail(&self, reason: String) {
        {
            let mut failure = self.failure.lock();
            if failure.is_some() || self.stop.is_cancelled() {
                return;
            }
            tracing::error!(%reason, member = %self.id, "this member stops");
            *failure = Some(reason.clone());
        }
        self.stop.cancel();
        self.status.send_modify(|status| status.role = Role::Stopped(reason.clone()));
        let raft = self.raft.get().cloned();
        if let Some(raft) = raft {
            self.tasks.spawn(async move {
                raft.shutdown().await.ok();
            });
        }
    }

    /// openraft has given up: so does this member.
    pub(crate) fn note_fatal(&self, fatal: &RaftFatal) -> Error {
        if !self.stop.is_cancelled() {
            self.fail(format!("consensus stopped: {fatal}"));
        }
        self.stopped()
    }

    pub(crate) fn no_leader(&self) -> Error {
        Error::NoLeader(match self.leader() {
            Some(leader) => format!("{leader} was asked and does not lead, or cannot be reached"),
            None => "none is known; a quorum of members may be down or cut off".into(),
        })
    }

    pub(crate) fn leader(&self) -> Option<NodeId> {
        self.raft().server_metrics().borrow_watched().current_leader
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.raft().server_metrics().borrow_watched().state == ServerState::Leader
    }

    pub(crate) fn term(&self) -> u64 {
        self.raft().server_metrics().borrow_watched().vote.leader_id.term
    }

    /// The newest membership this member knows of. What openraft has taken up is published a moment later
    /// than what was agreed on is applied and answered, and may stand in the log before that.
    pub(crate) fn membership(&self) -> Arc<StoredMembership> {
        let known = self.raft().server_metrics().borrow_watched().membership_config.clone();
        let agreed = self.roster.lock().agreed.clone();
        if agreed.log_id() > known.log_id() { agreed } else { known }
    }

    /// Waits until `what` holds, looking again whenever anything changes; false when it takes too long.
    pub(crate) async fn wait_until(
        &self,
        patience: Duration,
        what: impl Fn(&Inner) -> bool,
    ) -> bool {
        let mut metrics = self.raft().metrics();
        let holds = async {
            loop {
                metrics.borrow_and_update();
                if what(self) {
                    return true;
                }
                if metrics.changed().await.is_err() {
                    return false;
                }
            }
        };
        tokio::select! {
            biased;
            held = holds => held,
            () = tokio::time::sleep(patience) => what(self),
            () = self.stop.cancelled() => false,
        }
    }

    /// The way to a member, for requests of ours; `None` where there is no such member.
    pub(crate) fn link(&self, id: NodeId) -> Option<Arc<dyn Link>> {
        let peer = self.membership().get_node(&id)?.clone();
        let mut links = self.links.lock();
        if let Some((known, link)) = links.get(&id)
            && *known == peer
        {
            return Some(link.clone());
        }
        let link = self.transport.link(id, &peer);
        links.insert(id, (peer, link.clone()));
        Some(link)
    }

    pub(crate) fn heard_from(&self, peer: NodeId) {
        self.transport.heard_from(peer);
    }

    /// After a change of membership: lets go of the ways to members that are none any more, and tells
    /// those to members that have moved, which openraft keeps as they are.
    pub(crate) fn redirect(&self) {
        for (id, _) in self.membership().nodes().filter(|(id, _)| **id != self.id) {
            self.link(*id);
        }
        let removed = self.roster.lock().removed.clone();
        for id in removed {
            self.links.lock().remove(&id);
            self.transport.forget(id);
        }
    }

    pub(crate) fn was_removed(&self, id: NodeId) -> bool {
        self.roster.lock().removed.contains(&id)
    }

    /// The last position in this leader's log, and up to which one `id` has it (0 for nothing).
    pub(crate) fn replicated_to(&self, id: NodeId) -> (u64, u64) {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let last = metrics.last_log_index.map_or(0, |index| index + 1);
        if id == self.id {
            return (last, last);
        }
        let matched = metrics.replication.as_ref().and_then(|all| all.get(&id)).cloned().flatten();
        (last, position_of(matched.as_ref()).0)
    }

    /// Whether a member has acknowledged anything to this leader within an election timeout.
    pub(crate) fn is_healthy(&self, id: NodeId) -> bool {
        if id == self.id {
            return true;
        }
        let limit = Duration::from_millis(self.config.election_timeout_ms.1);
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let acknowledged =
            metrics.heartbeat.as_ref().and_then(|all| all.get(&id)).cloned().flatten();
        acknowledged.is_some_and(|at| at.into_inner().elapsed() < limit)
    }

    /// Whether data may be added: there is space for it on this member's disk and in its log.
    pub(crate) fn room(&self) -> Result<(), kontiki_storage::Error> {
        if let Some(space) = &self.space {
            match space.check(0) {
                Ok(()) => {}
                Err(full @ kontiki_storage::Error::NoSpace { .. }) => return Err(full),
                // Not to know is no reason to refuse: the disk itself says when it is full.
                Err(error) => tracing::warn!(%error, "how much space is left is not known"),
            }
        }
        // Low for a moment whenever a segment ends; low and no new one to be had is another matter.
        let unprepared = self.log.metrics().prepare_failures.load(Ordering::Relaxed) > 0;
        let free = self.log.room();
        let reserved = 2 * self.config.batch_bytes_max as u64;
        if unprepared && free < reserved {
            let path = self.directory.log();
            return Err(kontiki_storage::Error::NoSpace { path, free, reserved });
        }
        Ok(())
    }

    /// Looks at the disk, which fills and empties also while nobody writes.
    pub(crate) fn observe_space(&self) {
        if let Some(space) = &self.space
            && let Err(error) = space.observe()
        {
            tracing::warn!(%error, "how much space is left is not known");
        }
    }

    /// The first and last position the log holds, and its bytes.
    pub(crate) fn log_extent(&self) -> (Index, Index, u64) {
        let state = self.log.state();
        let metrics = self.log.metrics();
        let begun = self.log_segments as u64 + metrics.rotations.load(Ordering::Relaxed);
        let segments = begun.saturating_sub(metrics.segments_removed.load(Ordering::Relaxed));
        let last = state.last.map_or(Index(0), |(index, _)| Index(index));
        (Index(state.first), last, segments * self.log_segment_bytes)
    }

    /// How long each sync of the log has taken so far.
    pub(crate) fn log_syncs(&self) -> Histogram {
        self.log.metrics().sync_seconds()
    }

    /// For how long the log's disk has been at the write that is under way. Fails this member when that
    /// is too long to go on.
    pub(crate) fn log_stall(&self) -> Duration {
        if let Err(error) = self.log.health() {
            self.fail(format!("the log failed: {error}"));
        }
        Duration::from_micros(self.log.metrics().stall_micros.load(Ordering::Relaxed))
    }
}
