//! The messages of `proto/peer.proto` for the messages of this crate, and back.
//!
//! Keeps: what is decoded is whole; a message that lacks something is malformed, not half understood.
//! Never: copies the bytes of commands or of snapshots on the way in.

use std::io;

use futures::Stream;
use openraft::raft::{StreamAppendError, TransferLeaderError};
use tokio::time::timeout;
use tonic::Streaming;

use crate::error::MembershipError;
use crate::network::answers::{answers, wire_answers};
use crate::network::convert::{
    Malformed, entry, log_id, needed_node, needed_vote, peer, vote, wire_entry, wire_log_id,
    wire_peer, wire_vote,
};
use crate::network::grpc::PART_WAIT_MAX;
use crate::network::{
    AppendRequest, AppendResponse, AppendResult, Forward, Forwarded, SnapshotChunk, SnapshotHeader,
    SnapshotResponse, TransferRequest, TransferResponse, VoteRequest, VoteResponse, wire,
};
use crate::types::{ClusterId, LogId, NodeId, Peer};

const NOTHING: wire::Nothing = wire::Nothing {};

pub(super) fn wire_append(request: AppendRequest) -> wire::AppendRequest {
    wire::AppendRequest {
        vote: Some(wire_vote(&request.vote)),
        previous: request.prev_log_id.as_ref().map(wire_log_id),
        entries: request.entries.into_iter().map(wire_entry).collect(),
        leader_commit: request.leader_commit.as_ref().map(wire_log_id),
    }
}

/// The entries must follow one another and what they say they follow: consensus counts on it, and
/// would stop this member if they did not.
pub(super) fn append(request: wire::AppendRequest) -> Result<AppendRequest, Malformed> {
    let prev_log_id = request.previous.map(log_id);
    let mut expected = prev_log_id.map_or(0, |id| id.index.saturating_add(1));
    let mut entries = Vec::with_capacity(request.entries.len());
    for given in request.entries {
        let entry = entry(given)?;
        if entry.log_id.index != expected {
            let found = entry.log_id.index;
            return Err(Malformed::new(
                "entries",
                format!("{found} stands where {expected} should"),
            ));
        }
        expected = expected.saturating_add(1);
        entries.push(entry);
    }
    Ok(AppendRequest {
        vote: needed_vote(request.vote)?,
        prev_log_id,
        entries,
        leader_commit: request.leader_commit.map(log_id),
    })
}

pub(super) fn wire_appended(response: AppendResponse) -> wire::AppendResponse {
    use wire::append_response::Outcome as Wire;
    let outcome = match response {
        AppendResponse::Success => Wire::Success(NOTHING),
        AppendResponse::PartialSuccess(id) => Wire::Partial(wire_maybe(id.as_ref())),
        AppendResponse::Conflict => Wire::Conflict(NOTHING),
        AppendResponse::HigherVote(vote) => Wire::HigherVote(wire_vote(&vote)),
    };
    wire::AppendResponse { outcome: Some(outcome) }
}

pub(super) fn appended(response: wire::AppendResponse) -> Result<AppendResponse, Malformed> {
    use wire::append_response::Outcome as Wire;
    Ok(match response.outcome.ok_or(Malformed::missing("append's outcome"))? {
        Wire::Success(_) => AppendResponse::Success,
        Wire::Partial(id) => AppendResponse::PartialSuccess(id.id.map(log_id)),
        Wire::Conflict(_) => AppendResponse::Conflict,
        Wire::HigherVote(given) => AppendResponse::HigherVote(vote(given)),
    })
}

pub(super) fn wire_streamed(result: AppendResult) -> wire::StreamedAppend {
    use wire::streamed_append::Outcome as Wire;
    let outcome = match result {
        Ok(id) => Wire::Matched(wire_maybe(id.as_ref())),
        Err(StreamAppendError::Conflict(id)) => Wire::Conflict(wire_log_id(&id)),
        Err(StreamAppendError::HigherVote(vote)) => Wire::HigherVote(wire_vote(&vote)),
    };
    wire::StreamedAppend { outcome: Some(outcome) }
}

pub(super) fn streamed(result: wire::StreamedAppend) -> Result<AppendResult, Malformed> {
    use wire::streamed_append::Outcome as Wire;
    Ok(match result.outcome.ok_or(Malformed::missing("append's outcome"))? {
        Wire::Matched(id) => Ok(id.id.map(log_id)),
        Wire::Conflict(id) => Err(StreamAppendError::Conflict(log_id(id))),
        Wire::HigherVote(given) => Err(StreamAppendError::HigherVote(vote(given))),
    })
}

pub(super) fn wire_vote_request(request: &VoteRequest) -> wire::VoteRequest {
    wire::VoteRequest {
        vote: Some(wire_vote(&request.vote)),
        last: request.last_log_id.as_ref().map(wire_log_id),
        leadership_transfer: request.leadership_transfer,
    }
}

pub(super) fn vote_request(request: wire::VoteRequest) -> Result<VoteRequest, Malformed> {
    let mut asked = VoteRequest::new(needed_vote(request.vote)?, request.last.map(log_id));
    asked.leadership_transfer = request.leadership_transfer;
    Ok(asked)
}

pub(super) fn wire_voted(response: &VoteResponse) -> wire::VoteResponse {
    wire::VoteResponse {
        vote: Some(wire_vote(&response.vote)),
        granted: response.vote_granted,
        last: response.last_log_id.as_ref().map(wire_log_id),
    }
}

pub(super) fn voted(response: wire::VoteResponse) -> Result<VoteResponse, Malformed> {
    let vote = needed_vote(response.vote)?;
    Ok(VoteResponse::new(vote, response.last.map(log_id), response.granted))
}

pub(super) fn wire_transfer(request: &TransferRequest) -> wire::TransferRequest {
    wire::TransferRequest {
        from_leader: Some(wire_vote(request.from_leader())),
        to: request.to_node_id().0,
        last: request.last_log_id().map(wire_log_id),
    }
}

pub(super) fn transfer(request: wire::TransferRequest) -> Result<TransferRequest, Malformed> {
    let from = needed_vote(request.from_leader)?;
    Ok(TransferRequest::new(from, needed_node(request.to)?, request.last.map(log_id)))
}

pub(super) fn wire_transferred(response: &TransferResponse) -> wire::TransferResponse {
    use wire::transfer_response::{LogNotFlushed, Outcome as Wire, VoteChanged};
    let outcome = match response {
        Ok(()) => Wire::Accepted(NOTHING),
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            Wire::VoteChanged(VoteChanged {
                expected: Some(wire_vote(expected)),
                actual: Some(wire_vote(actual)),
            })
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            Wire::LogNotFlushed(LogNotFlushed {
                expected: expected.as_ref().map(wire_log_id),
                actual: actual.as_ref().map(wire_log_id),
            })
        }
    };
    wire::TransferResponse { outcome: Some(outcome) }
}

pub(super) fn transferred(response: wire::TransferResponse) -> Result<TransferResponse, Malformed> {
    use wire::transfer_response::Outcome as Wire;
    Ok(match response.outcome.ok_or(Malformed::missing("transfer's outcome"))? {
        Wire::Accepted(_) => Ok(()),
        Wire::VoteChanged(of) => Err(TransferLeaderError::VoteChanged {
            expected: needed_vote(of.expected)?,
            actual: needed_vote(of.actual)?,
        }),
        Wire::LogNotFlushed(of) => Err(TransferLeaderError::LogNotFlushed {
            expected: of.expected.map(log_id),
            actual: of.actual.map(log_id),
        }),
    })
}

pub(super) fn wire_header(header: SnapshotHeader) -> wire::SnapshotPart {
    let SnapshotHeader { vote, meta, manifest } = header;
    let header = wire::SnapshotHeader { vote, meta, manifest };
    wire::SnapshotPart { part: Some(wire::snapshot_part::Part::Header(header)) }
}

pub(super) fn wire_chunk(chunk: SnapshotChunk) -> wire::SnapshotPart {
    let SnapshotChunk { file, offset, bytes, checksum } = chunk;
    let chunk = wire::SnapshotChunk { file, offset, bytes, checksum };
    wire::SnapshotPart { part: Some(wire::snapshot_part::Part::Chunk(chunk)) }
}

pub(super) fn wire_end() -> wire::SnapshotPart {
    wire::SnapshotPart { part: Some(wire::snapshot_part::Part::End(NOTHING)) }
}

pub(super) fn header(header: wire::SnapshotHeader) -> SnapshotHeader {
    let wire::SnapshotHeader { vote, meta, manifest } = header;
    SnapshotHeader { vote, meta, manifest }
}

/// Verifies the checksum: a chunk that was damaged on the way goes no further.
pub(super) fn chunk(chunk: wire::SnapshotChunk) -> Result<SnapshotChunk, Malformed> {
    let wire::SnapshotChunk { file, offset, bytes, checksum } = chunk;
    let actual = crc32c::crc32c(&bytes);
    if actual != checksum {
        let reason = format!(
            "{} bytes at {offset} of file {file} have checksum {actual:08x}, \
             expected {checksum:08x}",
            bytes.len()
        );
        return Err(Malformed::new("snapshot chunk", reason));
    }
    Ok(SnapshotChunk { file, offset, bytes, checksum })
}

/// The chunks among the parts of a snapshot, after its header. Ends with the part that says so; a stream
/// that ends without it, stands still, or carries something damaged, ends with an error.
pub(super) fn chunks(
    parts: Streaming<wire::SnapshotPart>,
) -> impl Stream<Item = io::Result<SnapshotChunk>> + Send + 'static {
    futures::stream::unfold(Some(parts), |parts| async {
        let mut parts = parts?;
        let (chunk, goes_on) = match next_chunk(&mut parts).await {
            Ok(Some(chunk)) => (Ok(chunk), true),
            Ok(None) => return None,
            Err(error) => (Err(error), false),
        };
        Some((chunk, goes_on.then_some(parts)))
    })
}

async fn next_chunk(
    parts: &mut Streaming<wire::SnapshotPart>,
) -> io::Result<Option<SnapshotChunk>> {
    use wire::snapshot_part::Part;
    let cut_off = |reason: &str| io::Error::new(io::ErrorKind::UnexpectedEof, reason.to_owned());
    let part = timeout(PART_WAIT_MAX, parts.message()).await.map_err(|_| {
        let reason = format!("no part of the snapshot came in {PART_WAIT_MAX:?}");
        io::Error::new(io::ErrorKind::TimedOut, reason)
    })?;
    match part.map_err(|status| cut_off(status.message()))?.and_then(|part| part.part) {
        Some(Part::Chunk(given)) => {
            let damaged = |error| io::Error::new(io::ErrorKind::InvalidData, error);
            chunk(given).map(Some).map_err(damaged)
        }
        Some(Part::End(_)) => Ok(None),
        Some(Part::Header(_)) => {
            Err(io::Error::new(io::ErrorKind::InvalidData, "a second header in one snapshot"))
        }
        None => Err(cut_off("the snapshot was cut off before its end")),
    }
}

pub(super) fn wire_installed(response: &SnapshotResponse) -> wire::SnapshotResponse {
    wire::SnapshotResponse { vote: Some(wire_vote(&response.vote)) }
}

pub(super) fn installed(response: wire::SnapshotResponse) -> Result<SnapshotResponse, Malformed> {
    Ok(SnapshotResponse::new(needed_vote(response.vote)?))
}

pub(super) fn wire_forward(request: Forward) -> wire::ForwardRequest {
    use wire::forward_request::Request as Wire;
    let request = match request {
        Forward::Propose(commands) => Wire::Propose(commands),
        Forward::ReadIndex => Wire::ReadIndex(NOTHING),
        Forward::LeaseKeepAlive(id) => Wire::LeaseKeepAlive(id),
        Forward::LeaseTimeToLive(id) => Wire::LeaseTimeToLive(id),
        Forward::AddLearner { id, peer } => Wire::AddLearner(wire_member(id, peer)),
        Forward::Promote(id) => Wire::Promote(id.0),
        Forward::Remove(id) => Wire::Remove(id.0),
        Forward::Update { id, peer } => Wire::Update(wire_member(id, peer)),
        Forward::TransferLeader(id) => Wire::TransferLeader(id.0),
    };
    wire::ForwardRequest { request: Some(request) }
}

pub(super) fn forward(request: wire::ForwardRequest) -> Result<Forward, Malformed> {
    use wire::forward_request::Request as Wire;
    Ok(match request.request.ok_or(Malformed::missing("forwarded request"))? {
        Wire::Propose(commands) => Forward::Propose(commands),
        Wire::ReadIndex(_) => Forward::ReadIndex,
        Wire::LeaseKeepAlive(id) => Forward::LeaseKeepAlive(id),
        Wire::LeaseTimeToLive(id) => Forward::LeaseTimeToLive(id),
        Wire::AddLearner(given) => {
            let (id, peer) = member(given)?;
            Forward::AddLearner { id, peer }
        }
        Wire::Promote(id) => Forward::Promote(NodeId(id)),
        Wire::Remove(id) => Forward::Remove(NodeId(id)),
        Wire::Update(given) => {
            let (id, peer) = member(given)?;
            Forward::Update { id, peer }
        }
        Wire::TransferLeader(id) => Forward::TransferLeader(NodeId(id)),
    })
}

pub(super) fn wire_forwarded(response: Forwarded) -> wire::ForwardResponse {
    use wire::forward_response::{Lease, NotLeader, Outcome as Wire};
    let outcome = match response {
        Forwarded::NotLeader { leader } => {
            Wire::NotLeader(NotLeader { leader: leader.map_or(0, |id| id.0) })
        }
        Forwarded::Proposed(given) => Wire::Proposed(wire_answers(given)),
        Forwarded::Unknown(reason) => Wire::Unknown(reason),
        Forwarded::ReadIndex(index) => Wire::ReadIndex(index),
        Forwarded::Lease { ttl_s, granted_s } => Wire::Lease(Lease { ttl_s, granted_s }),
        Forwarded::Done => Wire::Done(NOTHING),
        Forwarded::Refused(reason) => Wire::Refused(wire_membership_error(reason)),
    };
    wire::ForwardResponse { outcome: Some(outcome) }
}

pub(super) fn forwarded(response: wire::ForwardResponse) -> Result<Forwarded, Malformed> {
    use wire::forward_response::Outcome as Wire;
    Ok(match response.outcome.ok_or(Malformed::missing("forward's outcome"))? {
        Wire::NotLeader(of) => {
            let leader = (of.leader != 0).then_some(NodeId(of.leader));
            Forwarded::NotLeader { leader }
        }
        Wire::Proposed(given) => Forwarded::Proposed(answers(given)?),
        Wire::Unknown(reason) => Forwarded::Unknown(reason),
        Wire::ReadIndex(index) => Forwarded::ReadIndex(index),
        Wire::Lease(of) => Forwarded::Lease { ttl_s: of.ttl_s, granted_s: of.granted_s },
        Wire::Done(_) => Forwarded::Done,
        Wire::Refused(reason) => Forwarded::Refused(membership_error(reason)),
    })
}

fn wire_maybe(id: Option<&LogId>) -> wire::MaybeLogId {
    wire::MaybeLogId { id: id.map(wire_log_id) }
}

fn wire_member(id: NodeId, peer: Peer) -> wire::MemberWithId {
    wire::MemberWithId { id: id.0, member: Some(wire_peer(peer)) }
}

fn member(given: wire::MemberWithId) -> Result<(NodeId, Peer), Malformed> {
    let described = given.member.ok_or(Malformed::missing("member"))?;
    Ok((needed_node(given.id)?, peer(described)))
}

fn wire_membership_error(error: MembershipError) -> wire::MembershipRefusal {
    use wire::membership_refusal::{LosesQuorum, NotCaughtUp, OtherCluster, Reason as Wire};
    let reason = match error {
        MembershipError::NotFound(id) => Wire::NotFound(id.0),
        MembershipError::Exists(id) => Wire::Exists(id.0),
        MembershipError::AddressTaken(address) => Wire::AddressTaken(address),
        MembershipError::NameTaken(name) => Wire::NameTaken(name),
        MembershipError::Removed(id) => Wire::Removed(id.0),
        MembershipError::NotLearner(id) => Wire::NotLearner(id.0),
        MembershipError::NotCaughtUp { id, behind } => {
            Wire::NotCaughtUp(NotCaughtUp { id: id.0, behind })
        }
        MembershipError::InProgress => Wire::InProgress(NOTHING),
        MembershipError::TooManyLearners(max) => Wire::TooManyLearners(max as u64),
        MembershipError::LosesQuorum { id, healthy, voters } => Wire::LosesQuorum(LosesQuorum {
            id: id.0,
            healthy: healthy as u64,
            voters: voters as u64,
        }),
        MembershipError::BadTransferee(id) => Wire::BadTransferee(id.0),
        MembershipError::OtherCluster { given, ours } => {
            Wire::OtherCluster(OtherCluster { given: given.0, ours: ours.0 })
        }
        MembershipError::Other(text) => Wire::Other(text),
    };
    wire::MembershipRefusal { reason: Some(reason) }
}

/// A reason newer than this binary is still a refusal: nothing was changed.
fn membership_error(refusal: wire::MembershipRefusal) -> MembershipError {
    use wire::membership_refusal::Reason as Wire;
    let count = |given: u64| usize::try_from(given).unwrap_or(usize::MAX);
    let Some(reason) = refusal.reason else {
        let text = "refused for a reason this version has no name for";
        return MembershipError::Other(text.to_owned());
    };
    match reason {
        Wire::NotFound(id) => MembershipError::NotFound(NodeId(id)),
        Wire::Exists(id) => MembershipError::Exists(NodeId(id)),
        Wire::AddressTaken(address) => MembershipError::AddressTaken(address),
        Wire::NameTaken(name) => MembershipError::NameTaken(name),
        Wire::Removed(id) => MembershipError::Removed(NodeId(id)),
        Wire::NotLearner(id) => MembershipError::NotLearner(NodeId(id)),
        Wire::NotCaughtUp(of) => {
            MembershipError::NotCaughtUp { id: NodeId(of.id), behind: of.behind }
        }
        Wire::InProgress(_) => MembershipError::InProgress,
        Wire::TooManyLearners(max) => MembershipError::TooManyLearners(count(max)),
        Wire::LosesQuorum(of) => MembershipError::LosesQuorum {
            id: NodeId(of.id),
            healthy: count(of.healthy),
            voters: count(of.voters),
        },
        Wire::BadTransferee(id) => MembershipError::BadTransferee(NodeId(id)),
        Wire::OtherCluster(of) => {
            MembershipError::OtherCluster { given: ClusterId(of.given), ours: ClusterId(of.ours) }
        }
        Wire::Other(text) => MembershipError::Other(text),
    }
}

#[cfg(test)]
mod tests;
