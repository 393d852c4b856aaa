//! Raft's nouns as bytes: votes, log ids, memberships and payloads, on the wire and at rest.
//!
//! At rest each is a version byte followed by a body:
//!
//! ```text
//! log id, vote, snapshot meta   01 | the message of proto/peer.proto
//! membership                    01 | openraft's type in bincode 1.3 (fixed-width little-endian integers)
//! payload                       01 | kind (1 blank, 2 normal, 3 membership) | body
//! ```
//!
//! Keeps: what was written once can be read for ever; the bytes are pinned by tests. A version this
//! binary does not know is refused by name.
//! Never: panics on bytes, whoever made them. Never takes a missing field for a zero.

use bincode::Options as _;
use bytes::{BufMut, Bytes, BytesMut};
use openraft::vote::RaftLeaderId as _;
use prost::Message;

use crate::network::wire;
use crate::types::{
    LogId, Membership, NodeId, Payload, Peer, RaftEntry, SnapshotMeta, StoredMembership, Vote,
};

pub(crate) type EntryPayload = openraft::EntryPayload<Payload, NodeId, Peer>;

type LeaderId = openraft::alias::LeaderIdOf<crate::types::TypeConfig>;

/// The version all of these are written in.
const VERSION: u8 = 1;

const KIND_BLANK: u8 = 1;
const KIND_NORMAL: u8 = 2;
const KIND_MEMBERSHIP: u8 = 3;

/// Bytes that do not say what they should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed {what}: {reason}")]
pub(crate) struct Malformed {
    pub(crate) what: &'static str,
    pub(crate) reason: String,
}

impl Malformed {
    pub(crate) fn new(what: &'static str, reason: impl ToString) -> Malformed {
        Malformed { what, reason: reason.to_string() }
    }

    /// A field that has to be there is not.
    pub(crate) fn missing(what: &'static str) -> Malformed {
        Malformed::new(what, "it is missing")
    }
}

pub(crate) fn encode_log_id(id: &LogId) -> Bytes {
    versioned(&wire_log_id(id))
}

pub(crate) fn decode_log_id(bytes: &[u8]) -> Result<LogId, Malformed> {
    Ok(log_id(decoded("log id", bytes)?))
}

pub(crate) fn encode_vote(vote: &Vote) -> Bytes {
    versioned(&wire_vote(vote))
}

pub(crate) fn decode_vote(bytes: &[u8]) -> Result<Vote, Malformed> {
    Ok(vote(decoded("vote", bytes)?))
}

pub(crate) fn encode_membership(membership: &Membership) -> Bytes {
    let mut bytes = vec![VERSION];
    positional()
        .serialize_into(&mut bytes, membership)
        .expect("a vector takes any length, and every type in a membership has a positional form");
    bytes.into()
}

/// Checks what openraft's own decoding does not: that every voter is described and no set of voters is
/// empty. Without that a damaged record could make quorums of nobody.
pub(crate) fn decode_membership(bytes: &[u8]) -> Result<Membership, Malformed> {
    const WHAT: &str = "membership";
    let body = body_of(WHAT, bytes)?;
    let membership: Membership =
        positional().deserialize(body).map_err(|error| Malformed::new(WHAT, error))?;
    let nodes: std::collections::BTreeMap<NodeId, Peer> =
        membership.nodes().map(|(id, peer)| (*id, peer.clone())).collect();
    Membership::new(membership.get_joint_config().clone(), nodes)
        .map_err(|error| Malformed::new(WHAT, error))
}

/// A snapshot's last log id and membership; also what the state machine keeps beside its data.
pub(crate) fn encode_snapshot_meta(meta: &SnapshotMeta) -> Bytes {
    versioned(&wire::SnapshotMeta {
        last_applied: meta.last_log_id.as_ref().map(wire_log_id),
        membership_at: meta.last_membership.log_id().as_ref().map(wire_log_id),
        membership: encode_membership(meta.last_membership.membership()),
    })
}

pub(crate) fn decode_snapshot_meta(bytes: &[u8]) -> Result<SnapshotMeta, Malformed> {
    let meta: wire::SnapshotMeta = decoded("snapshot meta", bytes)?;
    let membership = decode_membership(&meta.membership)?;
    Ok(SnapshotMeta {
        last_log_id: meta.last_applied.map(log_id),
        last_membership: StoredMembership::new(meta.membership_at.map(log_id), membership),
    })
}

pub(crate) fn wire_log_id(id: &LogId) -> wire::LogId {
    wire::LogId { term: id.leader_id.term, index: id.index }
}

pub(crate) fn log_id(id: wire::LogId) -> LogId {
    LogId::new(id.term.into(), id.index)
}

pub(crate) fn wire_vote(vote: &Vote) -> wire::Vote {
    wire::Vote {
        term: vote.leader_id.term,
        node: vote.leader_id.voted_for.0,
        committed: vote.committed,
    }
}

pub(crate) fn vote(vote: wire::Vote) -> Vote {
    Vote { leader_id: LeaderId::new(vote.term, NodeId(vote.node)), committed: vote.committed }
}

/// A vote that a message can't do without.
pub(crate) fn needed_vote(given: Option<wire::Vote>) -> Result<Vote, Malformed> {
    given.map(vote).ok_or(Malformed::missing("vote"))
}

pub(crate) fn wire_entry(entry: RaftEntry) -> wire::Entry {
    let (kind, payload) = match entry.payload {
        EntryPayload::Blank => (wire::EntryKind::Blank, Bytes::new()),
        EntryPayload::Normal(commands) => (wire::EntryKind::Normal, commands.0),
        EntryPayload::Membership(membership) => {
            (wire::EntryKind::Membership, encode_membership(&membership))
        }
    };
    let wire::LogId { term, index } = wire_log_id(&entry.log_id);
    wire::Entry { term, index, kind: kind.into(), payload }
}

pub(crate) fn entry(entry: wire::Entry) -> Result<RaftEntry, Malformed> {
    // The numbers on the wire and at rest are the same ones.
    let kind = u8::try_from(entry.kind).unwrap_or(0);
    let payload = payload_of(kind, entry.payload)?;
    let log_id = log_id(wire::LogId { term: entry.term, index: entry.index });
    Ok(RaftEntry { log_id, payload })
}

pub(crate) fn wire_peer(peer: Peer) -> wire::Member {
    wire::Member { name: peer.name, address: peer.address, client_urls: peer.client_urls }
}

pub(crate) fn peer(member: wire::Member) -> Peer {
    Peer { name: member.name, address: member.address, client_urls: member.client_urls }
}

/// Ids are never zero: a zero on the wire is a field that was forgotten.
pub(crate) fn needed_node(id: u64) -> Result<NodeId, Malformed> {
    if id == 0 { Err(Malformed::missing("node id")) } else { Ok(NodeId(id)) }
}

fn payload_of(kind: u8, body: Bytes) -> Result<EntryPayload, Malformed> {
    const WHAT: &str = "payload";
    match kind {
        KIND_BLANK if body.is_empty() => Ok(EntryPayload::Blank),
        KIND_BLANK => Err(Malformed::new(WHAT, "a blank entry carries bytes")),
        KIND_NORMAL => Ok(EntryPayload::Normal(Payload(body))),
        KIND_MEMBERSHIP => {
            let membership = decode_membership(&body)?;
            // Legal as "nothing known yet" in a snapshot's meta, but as an entry it would make every
            // set of nodes a quorum.
            if membership.get_joint_config().is_empty() {
                return Err(Malformed::new(WHAT, "a membership entry names no voters"));
            }
            Ok(EntryPayload::Membership(membership))
        }
        other => Err(Malformed::new(WHAT, format!("unknown kind {other}"))),
    }
}

/// bincode as this file pins it. Reading from a slice it allocates no more than the slice could fill.
fn positional() -> impl bincode::Options {
    bincode::DefaultOptions::new().with_fixint_encoding().reject_trailing_bytes()
}

fn versioned(message: &impl Message) -> Bytes {
    let mut bytes = BytesMut::with_capacity(1 + message.encoded_len());
    bytes.put_u8(VERSION);
    message.encode_raw(&mut bytes);
    bytes.freeze()
}

fn decoded<M: Message + Default>(what: &'static str, bytes: &[u8]) -> Result<M, Malformed> {
    M::decode(body_of(what, bytes)?).map_err(|error| Malformed::new(what, error))
}

fn body_of<'a>(what: &'static str, bytes: &'a [u8]) -> Result<&'a [u8], Malformed> {
    match bytes.split_first() {
        Some((&VERSION, body)) => Ok(body),
        Some((version, _)) => Err(Malformed::new(
            what,
            format!("version {version}, this binary reads {VERSION}; a newer one wrote it"),
        )),
        None => Err(Malformed::new(what, "it is empty")),
    }
}

#[cfg(test)]
mod tests;
