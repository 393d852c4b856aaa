//! What a data directory is in the life of a member, and the way back for one that lost its memory.
//!
//! ```text
//!   Blank ──bootstrap──────────────────────► Member ──remove──► Removed
//!     └────add_learner──► Standby ──promote──┘  │
//!                            ▲                  └─ damage, amnesia ──► Condemned
//!                            └── rejoin: the old id is removed, a new one added ──┘
//! ```
//!
//! Keeps: an id whose directory is condemned, or that was removed, never votes and never serves again.
//! What comes back comes under a new id, as a learner: a member that forgot its vote or an entry it had
//! acknowledged could help to elect a second leader, or to lose what was agreed on.
//! Never: empties a directory before the cluster has agreed that its old id is gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kontiki_storage::directory::{Directory, Identity};
use tokio::time::Instant;

use crate::encoding::Mark;
use crate::error::{Error, MembershipError};
use crate::network::{Forward, Forwarded, LinkError, Transport};
use crate::outbound::WAS_REMOVED;
use crate::types::{NodeId, Peer};

/// Pause between two attempts to find somebody who can help.
const PAUSE: Duration = Duration::from_millis(100);

/// Where a directory stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Nothing was ever agreed on here: to be bootstrapped, or to be added to a cluster.
    Blank,
    /// Follows, and does not vote yet.
    Standby,
    /// Votes.
    Member,
    /// Was taken out of the cluster.
    Removed,
    /// Lost what it had acknowledged, for this reason.
    Condemned(String),
}

impl Stage {
    /// Where the directory of `id` stands, by what its store says of the membership.
    pub(crate) fn of(id: NodeId, condemned: Option<String>, mark: &Mark) -> Stage {
        if let Some(reason) = condemned {
            return if reason.contains(WAS_REMOVED) {
                Stage::Removed
            } else {
                Stage::Condemned(reason)
            };
        }
        if mark.removed.contains(&id) {
            return Stage::Removed;
        }
        if mark.log_id.is_none() {
            return Stage::Blank;
        }
        if mark.membership.voter_ids().any(|voter| voter == id) {
            Stage::Member
        } else {
            Stage::Standby
        }
    }

    /// What to tell the user of a directory that can't be started from.
    pub(crate) fn refusal(&self) -> Option<String> {
        match self {
            Stage::Removed => Some(format!(
                "this member {WAS_REMOVED} and stays out; \
                 start with an empty directory to join anew"
            )),
            Stage::Condemned(reason) => Some(format!(
                "this member has lost data that it had acknowledged ({reason}); it must come back \
                 under a new id, which happens by itself while the other members have a quorum"
            )),
            Stage::Blank | Stage::Standby | Stage::Member => None,
        }
    }
}

/// What is wrong with a directory that can't be started from: [`Stage::Removed`] or [`Stage::Condemned`].
pub fn verdict(directory: &Directory) -> Result<Option<Stage>, Error> {
    let id = NodeId(directory.identity().node);
    let condemned = directory.condemned()?;
    Ok(condemned.map(|reason| Stage::of(id, Some(reason), &Mark::default())))
}

/// Opens links under an id: the old one until it is removed, the new one after.
pub type TransportAs<'t> = &'t (dyn Fn(NodeId) -> Arc<dyn Transport> + Sync);

/// Brings a condemned directory back: has its old id removed, empties it, and has the new id added as a
/// learner. Can be broken off at any point and begun again.
pub async fn rejoin(
    directory: &mut Directory,
    new: Identity,
    me: Peer,
    peers: &BTreeMap<NodeId, Peer>,
    transport_as: TransportAs<'_>,
    limit: Duration,
) -> Result<(), Error> {
    let deadline = Instant::now() + limit;
    let old = NodeId(directory.identity().node);
    let new_id = NodeId(new.node);
    ask_somebody(&*transport_as(old), peers, &Forward::Remove(old), deadline).await?;
    directory.reset_identity(new)?;
    join_until(&*transport_as(new_id), new_id, me, peers, deadline).await
}

/// Asks a cluster to take in `id` as a learner. Done when it has agreed; asked twice it agrees twice.
pub async fn join(
    transport: &dyn Transport,
    id: NodeId,
    me: Peer,
    peers: &BTreeMap<NodeId, Peer>,
    limit: Duration,
) -> Result<(), Error> {
    join_until(transport, id, me, peers, Instant::now() + limit).await
}

async fn join_until(
    transport: &dyn Transport,
    id: NodeId,
    me: Peer,
    peers: &BTreeMap<NodeId, Peer>,
    deadline: Instant,
) -> Result<(), Error> {
    ask_somebody(transport, peers, &Forward::AddLearner { id, peer: me }, deadline).await
}

/// What one peer made of a request.
enum Heard {
    Done,
    /// Another leads, or nobody does, or it can't be reached: somebody else may know more.
    TryElsewhere(String),
}

/// Asks one peer after the other until the one who leads has done it. The requests that come here can
/// be repeated: they are carried out once, whoever asks how often.
async fn ask_somebody(
    transport: &dyn Transport,
    peers: &BTreeMap<NodeId, Peer>,
    request: &Forward,
    deadline: Instant,
) -> Result<(), Error> {
    let mut last = "no peer is known".to_owned();
    loop {
        for (id, peer) in peers {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::NoLeader(last));
            }
            let answer = transport.link(*id, peer).forward(request.clone(), left).await;
            match hear(answer)? {
                Heard::Done => return Ok(()),
                Heard::TryElsewhere(reason) => last = format!("{id} ({peer}): {reason}"),
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn hear(answer: Result<Forwarded, LinkError>) -> Result<Heard, Error> {
    match answer {
        Ok(Forwarded::Done) => Ok(Heard::Done),
        // The change that was asked for has been made before.
        Ok(Forwarded::Refused(MembershipError::NotFound(_) | MembershipError::Removed(_))) => {
            Ok(Heard::Done)
        }
        Err(LinkError::Refused { reason, .. }) if reason.contains(WAS_REMOVED) => Ok(Heard::Done),
        Ok(Forwarded::Refused(MembershipError::InProgress)) => {
            Ok(Heard::TryElsewhere("another change is under way".into()))
        }
        Ok(Forwarded::Refused(refusal)) => Err(refusal.into()),
        Ok(other) => Ok(Heard::TryElsewhere(format!("{other:?}"))),
        Err(error) => Ok(Heard::TryElsewhere(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::encoding::log_id;
    use crate::types::{Membership, StoredMembership};

    fn mark(voters: &[u64], learners: &[u64]) -> Mark {
        let ids: BTreeSet<NodeId> = voters.iter().map(|id| NodeId(*id)).collect();
        let nodes: BTreeMap<NodeId, Peer> =
            voters.iter().chain(learners).map(|id| (NodeId(*id), Peer::default())).collect();
        let membership = Membership::new(vec![ids], nodes).unwrap();
        let at = Some(log_id(1, 5));
        Mark { log_id: at, membership: StoredMembership::new(at, membership), removed: vec![] }
    }

    #[test]
    fn a_directory_is_what_its_store_says() {
        let one = NodeId(1);
        assert_eq!(Stage::of(one, None, &Mark::default()), Stage::Blank);
        assert_eq!(Stage::of(one, None, &mark(&[2], &[1])), Stage::Standby);
        assert_eq!(Stage::of(one, None, &mark(&[1, 2], &[])), Stage::Member);
        let mut gone = mark(&[2], &[]);
        gone.removed.push(one);
        assert_eq!(Stage::of(one, None, &gone), Stage::Removed);
    }

    #[test]
    fn a_condemned_directory_stays_condemned_whatever_it_holds() {
        let stage = Stage::of(NodeId(1), Some("the log is shorter".into()), &mark(&[1], &[]));
        assert!(matches!(stage, Stage::Condemned(_)));
        assert!(stage.refusal().unwrap().contains("the log is shorter"));
    }
}
