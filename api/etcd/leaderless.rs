//! Ends streams whose clients asked for a leader, when there has been none for a while.
//!
//! As etcd: three election timeouts. A stream on a member that is cut off would otherwise stay silent for
//! ever, and its client would not look for another member.

use std::time::Duration;

use kontiki_raft::replica::Status as ReplicaStatus;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::front::{Front, wants_leader};
use super::status;

pub(crate) struct Led {
    /// `None` for a client that did not ask.
    replica: Option<watch::Receiver<ReplicaStatus>>,
    patience: Duration,
    leaderless_since: Option<Instant>,
}

impl Led {
    pub(crate) fn of(front: &Front, metadata: &MetadataMap) -> Led {
        let replica = wants_leader(metadata).then(|| front.watch_status());
        Led { replica, patience: front.config().leaderless_for, leaderless_since: None }
    }

    /// Returns when there has been no leader for too long. Cancel safe.
    pub(crate) async fn lost(&mut self) -> Status {
        let Some(replica) = &mut self.replica else {
            return std::future::pending().await;
        };
        loop {
            let Some(since) = self.leaderless_since else {
                if replica.wait_for(|status| status.leader.is_none()).await.is_err() {
                    return status::stopped();
                }
                self.leaderless_since = Some(Instant::now());
                continue;
            };
            let found = replica.wait_for(|status| status.leader.is_some());
            match tokio::time::timeout_at(since + self.patience, found).await {
                Ok(Ok(_)) => self.leaderless_since = None,
                Ok(Err(_)) => return status::stopped(),
                Err(_) => return status::no_leader(),
            }
        }
    }
}
