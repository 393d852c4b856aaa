//! Lets go of learners that were added and never came: a join that failed must not stay in the membership.
//!
//! Keeps: only the leader decides, and only about learners, which no quorum counts. One that takes
//! anything in, however slowly, is no stray.

use std::collections::BTreeMap;
use std::time::Duration;

use kontiki_raft::membership::Member;
use kontiki_raft::replica::{Role, Status};
use kontiki_raft::{NodeId, Replica};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a learner that is behind may take nothing in. Longer than a machine takes to restart.
const SILENCE_MAX: Duration = Duration::from_secs(600);
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// How far each learner had come when it was last seen to move.
type Seen = BTreeMap<NodeId, (u64, Instant)>;

pub async fn run(replica: Replica, stop: CancellationToken) -> Result<(), String> {
    let mut seen = Seen::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = stop.cancelled() => return Ok(()),
        }
        let status = replica.status().borrow().clone();
        for id in strays(&mut seen, &replica.members(), &status, Instant::now()) {
            match replica.remove(id).await {
                Ok(()) => tracing::warn!(member = %id, "a learner that never came was let go"),
                Err(error) => tracing::warn!(member = %id, %error, "a learner does not come"),
            }
        }
    }
}

/// Which learners have taken nothing in for too long. Pure but for what it remembers in `seen`.
fn strays(seen: &mut Seen, members: &[Member], status: &Status, now: Instant) -> Vec<NodeId> {
    if status.role != Role::Leader {
        seen.clear();
        return Vec::new();
    }
    let learners = members.iter().filter(|member| !member.voter).map(|member| member.id);
    let standing: Seen = learners
        .filter_map(|id| {
            let behind = status.behind.get(&id).copied().unwrap_or(status.last.0);
            let reached = status.last.0.saturating_sub(behind);
            let since = match seen.get(&id) {
                Some((before, since)) if *before == reached => *since,
                _ => now,
            };
            (behind > 0).then_some((id, (reached, since)))
        })
        .collect();
    *seen = standing;
    let silent = |since: Instant| now.duration_since(since) >= SILENCE_MAX;
    seen.iter().filter(|(_, (_, since))| silent(*since)).map(|(id, _)| *id).collect()
}

#[cfg(test)]
mod tests {
    use kontiki_raft::Peer;
    use kontiki_raft::storage::Index;

    use super::*;

    const LEARNER: NodeId = NodeId(2);

    fn members() -> [Member; 2] {
        let member = |id: u64, voter: bool| Member { id: NodeId(id), peer: Peer::default(), voter };
        [member(1, true), member(2, false)]
    }

    fn leading(last: u64, behind: u64) -> Status {
        let behind = BTreeMap::from([(LEARNER, behind)]);
        Status { role: Role::Leader, last: Index(last), behind, ..Status::default() }
    }

    #[test]
    fn a_learner_that_takes_nothing_in_for_long_is_a_stray() {
        let (mut seen, began) = (Seen::new(), Instant::now());
        assert!(strays(&mut seen, &members(), &leading(9, 9), began).is_empty());
        // The log goes on; the learner does not.
        let later = began + SILENCE_MAX;
        assert_eq!(strays(&mut seen, &members(), &leading(50, 50), later), [LEARNER]);
    }

    #[test]
    fn one_that_moves_or_has_everything_is_none() {
        let (mut seen, began) = (Seen::new(), Instant::now());
        strays(&mut seen, &members(), &leading(9, 9), began);
        let later = began + SILENCE_MAX;
        assert!(strays(&mut seen, &members(), &leading(50, 49), later).is_empty());
        let later = later + SILENCE_MAX;
        assert!(strays(&mut seen, &members(), &leading(50, 0), later).is_empty());
        assert!(strays(&mut seen, &members(), &leading(60, 10), later + SILENCE_MAX).is_empty());
    }

    #[test]
    fn who_does_not_lead_judges_nobody_and_begins_anew_when_it_does() {
        let (mut seen, began) = (Seen::new(), Instant::now());
        strays(&mut seen, &members(), &leading(9, 9), began);
        let later = began + SILENCE_MAX;
        assert!(strays(&mut seen, &members(), &Status::default(), later).is_empty());
        assert!(strays(&mut seen, &members(), &leading(9, 9), later).is_empty());
    }
}
