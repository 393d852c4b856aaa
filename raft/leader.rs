//! The search for the member that leads, as everyone who has something to ask of it makes it.
//!
//! Who leads can change between two attempts. Writes, reads and changes of membership ask alike: wait
//! until somebody is known to lead, ask, and when turned away ask again, after a pause that a new leader
//! cuts short.
//!
//! Keeps: a search ends by its deadline, and at once when this member stops.
//! Never: asks anything itself. What may be asked twice, only the asker knows.

use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use tokio::time::Instant;

use crate::error::Error;
use crate::replica::Inner;
use crate::types::NodeId;

/// How long who was turned away waits before it asks again, unless another leads before that.
const PAUSE: Duration = Duration::from_millis(20);

/// One search. [`LeaderSearch::next`] and [`LeaderSearch::turned_away`] alternate.
pub(crate) struct LeaderSearch<'r> {
    replica: &'r Inner,
    deadline: Instant,
    refusal: Option<(NodeId, String)>,
}

/// Why a search is over. Nobody has taken what was asked.
pub(crate) enum GaveUp {
    Stopped,
    /// Nobody is known to lead.
    NoLeader,
    /// The last who was asked did not take it, for this reason.
    TurnedAway(String),
}

impl GaveUp {
    /// For what was certainly not carried out.
    pub(crate) fn not_done(self, replica: &Inner) -> Error {
        match self {
            GaveUp::Stopped => replica.stopped(),
            GaveUp::NoLeader | GaveUp::TurnedAway(_) => replica.no_leader(),
        }
    }
}

impl<'r> LeaderSearch<'r> {
    pub(crate) fn new(replica: &'r Inner, deadline: Instant) -> LeaderSearch<'r> {
        LeaderSearch { replica, deadline, refusal: None }
    }

    /// Whom to ask now.
    pub(crate) async fn next(&mut self) -> Result<NodeId, GaveUp> {
        if let Some((refuser, reason)) = self.refusal.take() {
            if Instant::now() + PAUSE >= self.deadline {
                return Err(GaveUp::TurnedAway(reason));
            }
            self.wait_for(PAUSE, |leader| leader != refuser).await;
        }
        let leader = self.wait_for(self.left(), |_| true).await;
        if self.replica.stop.is_cancelled() {
            return Err(GaveUp::Stopped);
        }
        leader.ok_or(GaveUp::NoLeader)
    }

    /// Who was asked did not take it, and certainly did nothing.
    pub(crate) fn turned_away(&mut self, by: NodeId, reason: impl Into<String>) {
        let reason = reason.into();
        tracing::debug!(leader = %by, reason, "turned away, asking again");
        self.refusal = Some((by, reason));
    }

    /// How long an answer may be waited for.
    pub(crate) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Waits for a leader that satisfies `what`; `None` when `patience` is over before that.
    async fn wait_for(&self, patience: Duration, what: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        let mut metrics = self.replica.raft().server_metrics();
        let known = async {
            loop {
                let leader = metrics.borrow_and_update().current_leader;
                if let Some(leader) = leader.filter(|leader| what(*leader)) {
                    return Some(leader);
                }
                if metrics.changed().await.is_err() {
                    return None;
                }
            }
        };
        tokio::select! {
            biased;
            leader = known => leader,
            () = tokio::time::sleep(patience) => None,
            () = self.replica.stop.cancelled() => None,
        }
    }
}
