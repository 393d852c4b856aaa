//! Finds out that the process that led is gone, so that its followers need not wait for its silence to end.
//!
//! A leader that is silent may be slow, stopped, or behind a cut, and is given an election timeout. One
//! cause can be told from all others at once: where the leader listened its machine answers that nobody
//! does ([`Link::is_deserted`]). Then its lease is worth nothing, and followers call an election, one after
//! the other so that they are not in each other's way.
//!
//! [`Link::is_deserted`]: crate::network::Link::is_deserted
//!
//! Keeps: whoever finds this out alone disturbs nobody. It asks by pre-votes only, and whoever hears the
//! leader still refuses them.
//! Never: takes silence for proof, nor asks about a leader that is heard from.

use std::sync::Arc;
use std::time::Duration;

use openraft::Instant as _;
use openraft::raft::TransferLeaderRequest;
use tokio::time::Instant;

use crate::batcher::RaftFatal;
use crate::replica::Inner;
use crate::types::{NodeId, Vote};

/// A leader that has not been heard from for so many heartbeats is looked after.
const SILENT_BEATS: u32 = 2;

/// How long the leader's machine may take to answer.
const ANSWER_BEATS: u32 = 5;

/// How long, for each voter before it, one waits with its election.
const TURN_BEATS: u32 = 2;

/// The leader that this member has voted for or follows, and for how long it has been silent.
struct Silence {
    vote: Vote,
    leader: NodeId,
    lasts: Duration,
}

pub(crate) async fn run(replica: Arc<Inner>) {
    let beat = Duration::from_millis(replica.config.heartbeat_ms);
    // The vote by which somebody led who is gone, and since when that is known.
    let mut gone: Option<(Vote, Instant)> = None;
    loop {
        tokio::select! {
            biased;
            () = tokio::time::sleep(beat) => {}
            () = replica.stop.cancelled() => return,
        }
        gone = match replica.stop.run_until_cancelled(look(&replica, beat, gone)).await {
            Some(Ok(gone)) => gone,
            Some(Err(fatal)) => {
                replica.note_fatal(&fatal);
                return;
            }
            None => return,
        };
    }
}

/// Looks once, and acts on what it finds.
async fn look(
    replica: &Inner,
    beat: Duration,
    before: Option<(Vote, Instant)>,
) -> Result<Option<(Vote, Instant)>, RaftFatal> {
    let Some(turn) = turn(replica) else { return Ok(None) };
    let Some(Silence { vote, leader, lasts }) = silence(replica).await? else { return Ok(None) };
    if lasts < beat * SILENT_BEATS || !is_deserted(replica, leader, beat).await {
        return Ok(None);
    }
    let since = match before {
        Some((known, since)) if known == vote => since,
        _ => {
            tracing::info!(%leader, "the leader's process is gone");
            // As if it had handed over to nobody: by this openraft lets go of the leader's lease, and of
            // nothing else. It is void where the vote has changed meanwhile.
            let nobody = TransferLeaderRequest::new(vote, leader, None);
            replica.raft().handle_transfer_leader(nobody).await?.ok();
            Instant::now()
        }
    };
    if since.elapsed() >= beat * TURN_BEATS * turn {
        replica.raft().trigger().elect(true).await?;
    }
    Ok(Some((vote, since)))
}

/// How many voters call an election before this one; `None` where it does not follow anybody, or does
/// not vote.
fn turn(replica: &Inner) -> Option<u32> {
    let leader = replica.leader().filter(|leader| *leader != replica.id)?;
    let membership = replica.membership();
    let mut voters: Vec<NodeId> = membership.voter_ids().filter(|id| *id != leader).collect();
    voters.sort_unstable();
    voters.dedup();
    voters.iter().position(|id| *id == replica.id).and_then(|turn| u32::try_from(turn).ok())
}

async fn silence(replica: &Inner) -> Result<Option<Silence>, RaftFatal> {
    replica
        .raft()
        .with_raft_state(|state| {
            let vote = *state.vote_ref();
            let lasts = state.vote_last_modified()?.elapsed();
            let leader = vote.leader_id.voted_for;
            vote.committed.then_some(Silence { vote, leader, lasts })
        })
        .await
}

async fn is_deserted(replica: &Inner, leader: NodeId, beat: Duration) -> bool {
    match replica.link(leader) {
        Some(link) => link.is_deserted(beat * ANSWER_BEATS).await,
        None => false,
    }
}
