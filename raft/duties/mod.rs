//! What a member does on its own account: [`flusher`], [`disk_watch`], [`leader_watch`] and [`scrubber`] on
//! every member; [`lease_keeper`], [`compactor`] and finishing a change of membership on the leader only.
//!
//! Keeps: the leader's duties begin when this member leads, and stop when it does not, for every term
//! anew. For a moment they can run twice in a cluster; each of them is right even then, because what it
//! proposes says from which term, or at which revision, it speaks.

pub(crate) mod compactor;
pub(crate) mod disk_watch;
pub(crate) mod flusher;
pub(crate) mod leader_watch;
pub(crate) mod lease_keeper;
pub(crate) mod scrubber;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use openraft::ChangeMembers;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::replica::{Inner, Role};

/// Starts and stops the leader's duties as leadership comes and goes.
pub(crate) async fn run(replica: Arc<Inner>) {
    let mut status = replica.status();
    loop {
        let leading = {
            let status = status.borrow_and_update();
            (status.role == Role::Leader).then_some(status.term)
        };
        if let Some(term) = leading {
            let stop = replica.stop.child_token();
            let mut duties = begin(&replica, term, &stop);
            let changed = status.wait_for(|s| s.role != Role::Leader || s.term != term);
            tokio::select! {
                biased;
                _ = changed => {}
                () = replica.stop.cancelled() => {}
            }
            stop.cancel();
            while duties.join_next().await.is_some() {}
        }
        if replica.stop.is_cancelled() {
            return;
        }
        tokio::select! {
            biased;
            changed = status.wait_for(|s| s.role == Role::Leader) => if changed.is_err() { return },
            () = replica.stop.cancelled() => return,
        }
    }
}

fn begin(replica: &Arc<Inner>, term: u64, stop: &CancellationToken) -> JoinSet<()> {
    let mut duties = JoinSet::new();
    duties.spawn(lease_keeper::run(replica.clone(), term, stop.clone()));
    duties.spawn(finish_membership_change(replica.clone(), stop.clone()));
    let interval = replica.config.compaction_interval;
    duties.spawn(compactor::run(replica.clone(), interval, stop.clone()));
    duties
}

/// A change of voters goes through a joint membership. If its leader fell in between, the next one
/// brings it to its end; until then every further change would be refused.
async fn finish_membership_change(replica: Arc<Inner>, stop: CancellationToken) {
    let pause = Duration::from_millis(replica.config.election_timeout_ms.0);
    loop {
        if replica.membership().get_joint_config().len() > 1
            && let Ok(_alone) = replica.changing.try_lock()
        {
            let nothing = ChangeMembers::AddVoterIds(BTreeSet::new());
            if let Err(error) = replica.raft().change_membership(nothing, true).await {
                tracing::debug!(%error, "the change of membership is not finished yet");
            }
        }
        tokio::select! {
            biased;
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
    }
}
