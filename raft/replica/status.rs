//! What a member says of itself, as a value that can be watched.

use std::collections::BTreeMap;
use std::sync::Arc;

use kontiki_storage::revision::Index;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;

use crate::replica::Inner;
use crate::types::{NodeId, position, position_of};

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

/// Keeps the status up to date until the replica stops.
pub(crate) async fn run(replica: Arc<Inner>) {
    let mut metrics = replica.raft().metrics();
    let mut members_at = None;
    loop {
        let mut moved = false;
        let mut now = {
            let metrics = metrics.borrow_and_update();
            if let Err(fatal) = &metrics.running_state {
                replica.note_fatal(fatal);
                return;
            }
            let at = *metrics.membership_config.log_id();
            if std::mem::replace(&mut members_at, at) != at {
                moved = true;
            }
            describe(&metrics)
        };
        // Not under the lock of the metrics: it reads them.
        if moved {
            replica.redirect();
        }
        now.applied = replica.progress.applied();
        now.durable = replica.progress.durable();
        if replica.was_removed(replica.id) {
            replica.note_removed("the agreed membership says so");
            now.role = Role::Removed;
            now.leader = None;
        }
        replica.status.send_if_modified(|status| {
            now.ready = status.ready;
            if matches!(status.role, Role::Stopped(_)) || *status == now {
                return false;
            }
            *status = now;
            true
        });
        tokio::select! {
            biased;
            changed = metrics.changed() => if changed.is_err() { return },
            () = replica.stop.cancelled() => return,
        }
    }
}

fn describe(metrics: &openraft::RaftMetrics<crate::types::TypeConfig>) -> Status {
    let last = metrics.last_log_index.map_or(Index(0), position);
    let behind = |matched: u64| last.0.saturating_sub(matched);
    Status {
        role: match metrics.state {
            ServerState::Leader => Role::Leader,
            ServerState::Follower => Role::Follower,
            ServerState::Candidate => Role::Candidate,
            ServerState::Learner => Role::Learner,
            ServerState::Shutdown => Role::Stopped("it was shut down".into()),
        },
        leader: metrics.current_leader,
        term: metrics.current_term,
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
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
