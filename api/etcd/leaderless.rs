//! Ends streams whose clients asked for a leader, when there has been none for a while.
//!
//! A stream on a member that is cut off would otherwise stay silent for ever, and its client would not
//! look for another member. A follower that hears nothing goes on naming the leader it had, so what it
//! says is not asked: a read barrier is, which needs a leader that a quorum follows.
//!
//! Keeps: however many streams ask, one barrier at a time is waited for, and its outcome is good for all
//! for a while.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::front::{Front, wants_leader};
use super::status;

/// What was found last, shared by all streams of a front.
#[derive(Default)]
pub(crate) struct Leadership {
    found: Mutex<Option<(Instant, bool)>>,
    looking: tokio::sync::Mutex<()>,
}

impl Leadership {
    /// Whether somebody led within the last `patience`.
    async fn is_there(&self, front: &Front, patience: Duration) -> bool {
        if let Some(found) = self.recent(patience) {
            return found;
        }
        let _turn = self.looking.lock().await;
        if let Some(found) = self.recent(patience) {
            return found;
        }
        let barrier = tokio::time::timeout(patience, front.replica().read_barrier()).await;
        let found = matches!(barrier, Ok(Ok(())));
        *self.found.lock() = Some((Instant::now(), found));
        found
    }

    fn recent(&self, patience: Duration) -> Option<bool> {
        self.found.lock().filter(|(at, _)| at.elapsed() < patience).map(|(_, found)| found)
    }
}

/// A stream's wish for a leader.
pub(crate) struct Led {
    front: Option<Front>,
    patience: Duration,
}

impl Led {
    pub(crate) fn of(front: &Front, metadata: &MetadataMap) -> Led {
        let patience = front.config().leaderless_for;
        Led { front: wants_leader(metadata).then(|| front.clone()), patience }
    }

    /// Returns when there has been no leader for too long; never for a client that did not ask. Cancel
    /// safe, and begins anew each time.
    pub(crate) async fn lost(&self) -> Status {
        let Some(front) = &self.front else {
            return std::future::pending().await;
        };
        loop {
            tokio::time::sleep(self.patience).await;
            if !front.leadership().is_there(front, self.patience).await {
                return status::no_leader();
            }
        }
    }
}
