//! What a member says of itself, as a value that can be watched.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kontiki_storage::revision::Index;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::metrics::RaftServerMetrics;

use crate::replica::Inner;
use crate::types::{NodeId, TypeConfig, position, position_of};

/// What a member is in its cluster at the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Role {
    Leader,
    Follower,
    /// Follows and does not vote; also a member that nobody has added yet.
    #[default]
    Learner,
    Candidate,
    /// Was taken out of the cluster, and stays out.
    Removed,
    /// Serves no more, for this reason.
    Stopped(String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    pub role: Role,
    pub leader: Option<NodeId>,
    pub term: u64,
    /// The newest entry in this member's log.
    pub last: Index,
    pub committed: Index,
    pub applied: Index,
    pub durable: Index,
    pub purged: Index,
    /// A read barrier has succeeded since the start: this member knew then all there was to know.
    pub ready: bool,
    /// On the leader: how many entries each other member is behind.
    pub behind: BTreeMap<NodeId, u64>,
}

/// How far positions lag behind in a status that is watched. They move with every write, and each look at
/// them wakes whoever waits for a role or a leader.
const BEAT: Duration = Duration::from_millis(50);

/// Keeps the status up to date until the replica stops: role, leader and term at once, positions a
/// [`BEAT`] later.
pub(crate) async fn run(replica: Arc<Inner>) {
    let mut all = replica.raft().metrics();
    let mut server = replica.raft().server_metrics();
    let mut members_at = None;
    loop {
        let at = *server.borrow_and_update().membership_config.log_id();
        if std::mem::replace(&mut members_at, at) != at {
            replica.redirect();
        }
        let fatal = all.borrow_and_update().running_state.clone();
        if let Err(fatal) = fatal {
            replica.note_fatal(&fatal);
            return;
        }
        if replica.was_removed(replica.id) {
            replica.note_removed("the agreed membership says so");
        }
        replica.look();
        let moved = async {
            tokio::time::sleep(BEAT).await;
            all.changed().await
        };
        tokio::select! {
            biased;
            () = replica.stop.cancelled() => return,
            changed = server.changed() => if changed.is_err() { return },
            changed = moved => if changed.is_err() { return },
        }
    }
}

impl Inner {
    /// Brings the status up to date.
    pub(super) fn look(&self) {
        let Some(raft) = self.raft.get() else { return };
        let (all, server) = (raft.metrics(), raft.server_metrics());
        let removed = self.was_removed(self.id);
        self.status.send_if_modified(|status| {
            // Under the status' lock, so that of two who look the later one has the last word.
            let mut now = describe(&all.borrow_watched(), &server.borrow_watched());
            // Each before what it never exceeds, for all of them move meanwhile.
            now.durable = self.progress.durable();
            now.applied = self.progress.applied();
            now.last = now.last.max(now.applied);
            if removed {
                now.role = Role::Removed;
                now.leader = None;
            }
            now.ready = status.ready;
            if matches!(status.role, Role::Stopped(_)) || *status == now {
                return false;
            }
            *status = now;
            true
        });
    }
}

fn describe(
    metrics: &openraft::RaftMetrics<TypeConfig>,
    server: &RaftServerMetrics<TypeConfig>,
) -> Status {
    let last = metrics.last_log_index.map_or(Index(0), position);
    let behind = |matched: u64| last.0.saturating_sub(matched);
    Status {
        role: match server.state {
            ServerState::Leader => Role::Leader,
            ServerState::Follower => Role::Follower,
            ServerState::Candidate => Role::Candidate,
            ServerState::Learner => Role::Learner,
            ServerState::Shutdown => Role::Stopped("it was shut down".into()),
        },
        leader: server.current_leader,
        term: server.vote.leader_id.term,
        last,
        committed: position_of(metrics.local_committed.as_ref()),
        applied: Index(0),
        durable: Index(0),
        purged: position_of(metrics.purged.as_ref()),
        ready: false,
        behind: metrics
            .replication
            .iter()
            .flatten()
            .filter(|(id, _)| **id != metrics.id)
            .map(|(id, matched)| (*id, behind(position_of(matched.as_ref()).0)))
            .collect(),
    }
}

/// Waits for the first read barrier, and says so.
pub(crate) async fn become_ready(replica: Arc<Inner>) {
    loop {
        match replica.read_barrier().await {
            Ok(()) => {
                replica.status.send_modify(|status| status.ready = true);
                return;
            }
            Err(error) => tracing::debug!(%error, "not ready yet"),
        }
        if replica.stop.is_cancelled() {
            return;
        }
        // A barrier has waited for a leader already; this only keeps failures from spinning.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
