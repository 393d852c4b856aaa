//! Who belongs to the cluster, changed one step at a time by the leader.
//!
//! A master joins as a learner, is filled, and becomes a voter when it has caught up. A voter that is
//! removed becomes a learner first, so that it hears that it no longer votes, and is taken out after.
//!
//! Keeps: one change at a time, each agreed on before the next begins. A change that would leave fewer
//! healthy voters than a quorum is refused. Ids that were removed never come back.
//! Never: guesses who is healthy from what peers say of themselves: only what they acknowledged to this
//! leader within an election timeout counts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::error::{ChangeMembershipError, ClientWriteError, RaftError};
use tokio::time::Instant;

use crate::error::{Error, MembershipError};
use crate::leader::LeaderSearch;
use crate::network::{Forward, Forwarded, LinkError};
use crate::replica::Inner;
use crate::types::{NodeId, Peer, TypeConfig};

/// Most learners at a time: each is fed by the leader, beside its work.
pub const LEARNERS_MAX: usize = 2;

/// A learner this many entries behind, or fewer, is promoted however short the log is.
const PROMOTE_LAG_ENTRIES: u64 = 100;

/// A member, as everyone who belongs knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub id: NodeId,
    pub peer: Peer,
    /// It takes part in elections and is counted in quorums; a learner only follows.
    pub voter: bool,
}

pub(crate) fn members(replica: &Inner) -> Vec<Member> {
    let membership = replica.membership();
    let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
    membership
        .nodes()
        .map(|(id, peer)| Member { id: *id, peer: peer.clone(), voter: voters.contains(id) })
        .collect()
}

/// Adds a member that follows and does not vote.
pub(crate) async fn add_learner(replica: &Arc<Inner>, id: NodeId, peer: Peer) -> Result<(), Error> {
    let _alone = replica.changing.try_lock().map_err(|_| MembershipError::InProgress)?;
    let members = members(replica);
    if let Some(member) = members.iter().find(|member| member.id == id) {
        // Asked again by someone who did not hear the first answer.
        if member.peer == peer && !member.voter {
            return Ok(());
        }
        return Err(MembershipError::Exists(id).into());
    }
    if replica.was_removed(id) {
        return Err(MembershipError::Removed(id).into());
    }
    free_of_others(&members, id, &peer)?;
    if members.iter().filter(|member| !member.voter).count() >= LEARNERS_MAX {
        return Err(MembershipError::TooManyLearners(LEARNERS_MAX).into());
    }
    change(replica, ChangeMembers::AddNodes(BTreeMap::from([(id, peer)])), true).await
}

/// Makes a learner a voter, once it has caught up.
pub(crate) async fn promote(replica: &Arc<Inner>, id: NodeId) -> Result<(), Error> {
    let _alone = replica.changing.try_lock().map_err(|_| MembershipError::InProgress)?;
    let members = members(replica);
    let member = members.iter().find(|m| m.id == id).ok_or(MembershipError::NotFound(id))?;
    if member.voter {
        return Err(MembershipError::NotLearner(id).into());
    }
    let (last, matched) = replica.replicated_to(id);
    let behind = last.saturating_sub(matched);
    // As etcd: nine tenths of the leader's log. A short log is held to a number instead.
    let caught_up = behind <= PROMOTE_LAG_ENTRIES || matched >= last / 10 * 9;
    if matched == 0 || !caught_up {
        return Err(MembershipError::NotCaughtUp { id, behind }.into());
    }
    change(replica, ChangeMembers::AddVoterIds(BTreeSet::from([id])), true).await
}

/// Takes a member out for good.
pub(crate) async fn remove(replica: &Arc<Inner>, id: NodeId) -> Result<(), Error> {
    if id == replica.id {
        return remove_this(replica).await;
    }
    let _alone = replica.changing.try_lock().map_err(|_| MembershipError::InProgress)?;
    let members = members(replica);
    let member = members.iter().find(|m| m.id == id).ok_or(MembershipError::NotFound(id))?;
    if member.voter {
        quorum_stays(replica, &members, id).await?;
        change(replica, ChangeMembers::RemoveVoters(BTreeSet::from([id])), true).await?;
        // It is told that it votes no more, if it can be reached at all; then it is let go.
        let patience = Duration::from_millis(2 * replica.config.election_timeout_ms.1);
        if replica.is_healthy(id) {
            let (told, _) = replica.replicated_to(id);
            replica.wait_until(patience, |r| r.replicated_to(id).1 >= told).await;
        }
    }
    change(replica, ChangeMembers::RemoveNodes(BTreeSet::from([id])), false).await
}

/// The leader cannot well preside over its own removal: it hands over, and asks its successor.
async fn remove_this(replica: &Arc<Inner>) -> Result<(), Error> {
    let members = members(replica);
    quorum_stays(replica, &members, replica.id).await?;
    let successor = successor(replica).ok_or_else(|| {
        MembershipError::Other("the last voter cannot be removed; it is the cluster".into())
    })?;
    transfer_leader(replica, successor).await?;
    let request = Forward::Remove(replica.id);
    match ask_leader(replica, request).await {
        Ok(_) => Ok(()),
        // The answer may find this member removed already, and turned away.
        Err(unknown @ Error::Unknown(_)) => {
            let patience = Duration::from_millis(2 * replica.config.election_timeout_ms.1);
            let removed = replica.wait_until(patience, |r| r.was_removed(r.id)).await;
            if removed { Ok(()) } else { Err(unknown) }
        }
        Err(error) => Err(error),
    }
}

/// Changes what is known of a member: its name and where it is reached.
pub(crate) async fn update(replica: &Arc<Inner>, id: NodeId, peer: Peer) -> Result<(), Error> {
    let _alone = replica.changing.try_lock().map_err(|_| MembershipError::InProgress)?;
    let members = members(replica);
    let member = members.iter().find(|m| m.id == id).ok_or(MembershipError::NotFound(id))?;
    if member.peer == peer {
        return Ok(());
    }
    free_of_others(&members, id, &peer)?;
    change(replica, ChangeMembers::SetNodes(BTreeMap::from([(id, peer)])), true).await
}

/// Hands leadership to a voter, and returns when it leads.
pub(crate) async fn transfer_leader(replica: &Arc<Inner>, to: NodeId) -> Result<(), Error> {
    if to == replica.id {
        return Ok(());
    }
    if !members(replica).iter().any(|member| member.id == to && member.voter) {
        return Err(MembershipError::BadTransferee(to).into());
    }
    replica
        .raft()
        .trigger()
        .transfer_leader(to)
        .await
        .map_err(|fatal| replica.note_fatal(&fatal))?;
    let patience = Duration::from_millis(2 * replica.config.election_timeout_ms.1);
    if replica.wait_until(patience, |r| r.leader() == Some(to)).await {
        return Ok(());
    }
    let found = replica.leader().map_or("nobody".to_owned(), |leader| leader.to_string());
    Err(MembershipError::Other(format!(
        "{to} has not taken over in {} ms; {found} leads",
        patience.as_millis()
    ))
    .into())
}

/// The voter that would lead best after this one: healthy, and with the longest log.
pub(crate) fn successor(replica: &Inner) -> Option<NodeId> {
    members(replica)
        .into_iter()
        .filter(|m| m.voter && m.id != replica.id && replica.is_healthy(m.id))
        .max_by_key(|m| replica.replicated_to(m.id).1)
        .map(|m| m.id)
}

fn free_of_others(members: &[Member], id: NodeId, peer: &Peer) -> Result<(), Error> {
    for other in members.iter().filter(|member| member.id != id) {
        if other.peer.address == peer.address {
            return Err(MembershipError::AddressTaken(peer.address.clone()).into());
        }
        if !peer.name.is_empty() && other.peer.name == peer.name {
            return Err(MembershipError::NameTaken(peer.name.clone()).into());
        }
    }
    Ok(())
}

/// Refuses a removal after which the voters that are known to live would be no quorum. Who has led for
/// less than an election timeout has not heard from everybody yet, so they are given that time.
async fn quorum_stays(replica: &Inner, members: &[Member], id: NodeId) -> Result<(), Error> {
    let left: Vec<NodeId> =
        members.iter().filter(|m| m.voter && m.id != id).map(|m| m.id).collect();
    let voters = left.len();
    if voters == 0 {
        let reason = "the last voter cannot be removed; it is the cluster";
        return Err(MembershipError::Other(reason.into()).into());
    }
    let healthy = |replica: &Inner| left.iter().filter(|id| replica.is_healthy(**id)).count();
    let patience = Duration::from_millis(replica.config.election_timeout_ms.1);
    if replica.wait_until(patience, |replica| healthy(replica) > voters / 2).await {
        return Ok(());
    }
    Err(MembershipError::LosesQuorum { id, healthy: healthy(replica), voters }.into())
}

/// One change, agreed on when this returns. A change that a former leader left behind, or that is only
/// about to be agreed on, is waited for a little.
async fn change(
    replica: &Inner,
    changes: ChangeMembers<NodeId, Peer>,
    retain: bool,
) -> Result<(), Error> {
    const PAUSE: Duration = Duration::from_millis(20);
    let limit = replica.config.request_timeout();
    let patient_until =
        Instant::now() + Duration::from_millis(replica.config.election_timeout_ms.1);
    loop {
        let changing = replica.raft().change_membership(changes.clone(), retain);
        let result = match tokio::time::timeout(limit, changing).await {
            Ok(result) => result,
            Err(_) => {
                let reason = format!("no quorum agreed to the change in {} ms", limit.as_millis());
                return Err(Error::Unknown(reason));
            }
        };
        match result {
            Ok(_) => return Ok(()),
            Err(RaftError::Fatal(fatal)) => return Err(replica.note_fatal(&fatal)),
            Err(RaftError::APIError(error)) => match refusal(replica, error) {
                Error::Membership(MembershipError::InProgress)
                    if Instant::now() < patient_until =>
                {
                    tokio::time::sleep(PAUSE).await;
                }
                error => return Err(error),
            },
        }
    }
}

fn refusal(replica: &Inner, error: ClientWriteError<TypeConfig>) -> Error {
    match error {
        ClientWriteError::ForwardToLeader(_) => replica.no_leader(),
        ClientWriteError::LogEntryDiscarded(_) => {
            Error::Unknown("the leader changed before the change was agreed on".into())
        }
        ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(_)) => {
            MembershipError::InProgress.into()
        }
        ClientWriteError::ChangeMembershipError(ChangeMembershipError::LearnerNotFound(e)) => {
            MembershipError::NotFound(e.node_id).into()
        }
        other => MembershipError::Other(other.to_string()).into(),
    }
}

/// Brings a request to whoever leads, this member included. It is sent again only when it certainly was
/// not carried out.
pub(crate) async fn ask_leader(replica: &Arc<Inner>, request: Forward) -> Result<Forwarded, Error> {
    let mut search = LeaderSearch::new(replica, Instant::now() + replica.config.request_timeout());
    loop {
        let leader = search.next().await.map_err(|gave_up| gave_up.not_done(replica))?;
        let answer = if leader == replica.id {
            Ok(crate::inbound::answer(replica.clone(), request.clone()).await)
        } else if let Some(link) = replica.link(leader) {
            link.forward(request.clone(), search.left()).await
        } else {
            search.turned_away(leader, "it is no member");
            continue;
        };
        match answer {
            Ok(Forwarded::NotLeader { .. }) => search.turned_away(leader, "it does not lead"),
            Ok(answer) => return understood(answer),
            Err(error @ (LinkError::NotSent { .. } | LinkError::Refused { .. })) => {
                search.turned_away(leader, error.to_string());
            }
            Err(unknown @ LinkError::Unknown { .. }) => {
                return Err(Error::Unknown(unknown.to_string()));
            }
        }
    }
}

fn understood(answer: Forwarded) -> Result<Forwarded, Error> {
    match answer {
        Forwarded::Refused(refusal) => Err(refusal.into()),
        Forwarded::Unknown(reason) => Err(Error::Unknown(reason)),
        answer => Ok(answer),
    }
}
