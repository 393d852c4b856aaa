//! What the log and the store keep of openraft's, besides what `network::convert` has bytes for.
//!
//! Commands are not here: their bytes are the storage crate's, and are handed on as they are.
//!
//! ```text
//! entry id        version(1) kind(1) term(8 LE)             the log keeps the index itself
//! applied mark    version(1) term(8 LE) index(8 LE) members
//! members         has id(1) term(8 LE) index(8 LE) removed(4 LE) { node id(8 LE) } membership
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::EntryPayload;

use crate::network::convert::{self, Malformed};
use crate::types::{LogId, NodeId, Payload, RaftEntry, StoredMembership};

const VERSION: u8 = 1;

/// How many removed members are remembered. Ids are random: to forget the oldest after so many does no
/// harm that a stray, long-forgotten machine could make use of without the cluster's keys.
pub(crate) const REMOVED_MAX: usize = 4096;

fn malformed(what: &'static str, reason: impl ToString) -> Malformed {
    Malformed::new(what, reason)
}

/// Bytes at rest that cannot be read end the member: what is acknowledged may be lost.
pub(crate) fn unreadable(malformed: Malformed) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, malformed)
}

pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new_term_index(term, index)
}

const KIND_BLANK: u8 = 0;
const KIND_COMMANDS: u8 = 1;
const KIND_MEMBERSHIP: u8 = 2;

/// What the log keeps of an entry besides its index: who wrote it (and what kind it is), and its bytes.
/// The bytes of commands are handed on as they are, shared.
pub(crate) fn encode_entry(entry: &RaftEntry) -> (Bytes, Bytes) {
    let (kind, payload) = match &entry.payload {
        EntryPayload::Blank => (KIND_BLANK, Bytes::new()),
        EntryPayload::Normal(payload) => (KIND_COMMANDS, payload.0.clone()),
        EntryPayload::Membership(membership) => {
            (KIND_MEMBERSHIP, convert::encode_membership(membership))
        }
    };
    (encode_entry_id(&entry.log_id, kind), payload)
}

fn encode_entry_id(log_id: &LogId, kind: u8) -> Bytes {
    let mut id = [0u8; 10];
    id[0] = VERSION;
    id[1] = kind;
    id[2..].copy_from_slice(&log_id.leader_id.term.to_le_bytes());
    Bytes::copy_from_slice(&id)
}

/// The log id of which `id` is the kept part.
pub(crate) fn decode_entry_id(index: u64, id: &[u8]) -> Result<LogId, Malformed> {
    let (log_id, _) = split_entry_id(index, id)?;
    Ok(log_id)
}

/// An id for a place in the log of which no entry is kept (everything up to it is purged).
pub(crate) fn encode_place(log_id: &LogId) -> Bytes {
    encode_entry_id(log_id, KIND_BLANK)
}

fn split_entry_id(index: u64, id: &[u8]) -> Result<(LogId, u8), Malformed> {
    match id {
        [VERSION, kind, term @ ..] => {
            let term: [u8; 8] =
                term.try_into().map_err(|_| malformed("an entry's id", "its length is wrong"))?;
            Ok((log_id(u64::from_le_bytes(term), index), *kind))
        }
        _ => Err(malformed("an entry's id", "its version is not known")),
    }
}

pub(crate) fn decode_entry(index: u64, id: &[u8], payload: Bytes) -> Result<RaftEntry, Malformed> {
    let (log_id, kind) = split_entry_id(index, id)?;
    let payload = match kind {
        KIND_BLANK => EntryPayload::Blank,
        KIND_COMMANDS => EntryPayload::Normal(Payload(payload)),
        KIND_MEMBERSHIP => EntryPayload::Membership(convert::decode_membership(&payload)?),
        other => return Err(malformed("an entry", format!("kind {other} is not known"))),
    };
    Ok(RaftEntry { log_id, payload })
}

/// What rests in the store beside the data, in the same batch: how far the history was applied, who
/// was a member then, and who has ever been removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    pub log_id: Option<LogId>,
    pub membership: StoredMembership,
    /// Oldest first.
    pub removed: Vec<NodeId>,
}

impl Mark {
    /// The mark of a store; an empty one belongs to a store to which nothing was applied.
    pub(crate) fn decode(bytes: &Bytes) -> Result<Mark, Malformed> {
        const WHAT: &str = "the store's applied mark";
        if bytes.is_empty() {
            return Ok(Mark::default());
        }
        if bytes[0] != VERSION {
            return Err(malformed(WHAT, "its version is not known"));
        }
        let mut rest = bytes.slice(1..);
        let at = take_log_id(&mut rest).ok_or_else(|| malformed(WHAT, "it is too short"))?;
        let (membership, removed) =
            decode_members(rest).ok_or_else(|| malformed(WHAT, "its members are cut short"))?;
        let membership = convert::decode_membership(&membership.1)
            .map(|it| StoredMembership::new(membership.0, it))?;
        Ok(Mark { log_id: Some(at), membership, removed })
    }

    /// The part that stays the same from entry to entry, made once per change of membership.
    pub(crate) fn encode_members(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        let at = self.membership.log_id();
        bytes.put_u8(u8::from(at.is_some()));
        put_log_id(&mut bytes, &at.unwrap_or_else(|| log_id(0, 0)));
        bytes.put_u32_le(self.removed.len() as u32);
        self.removed.iter().for_each(|id| bytes.put_u64_le(id.0));
        bytes.put_slice(&convert::encode_membership(self.membership.membership()));
        bytes.freeze()
    }

    /// The mark of `log_id`, with what [`Mark::encode_members`] made.
    pub(crate) fn encode(log_id: &LogId, members: &[u8]) -> Bytes {
        let mut mark = BytesMut::with_capacity(17 + members.len());
        mark.put_u8(VERSION);
        put_log_id(&mut mark, log_id);
        mark.put_slice(members);
        mark.freeze()
    }

    /// Takes in a membership entry: who was there before and is gone now has been removed for good.
    pub(crate) fn change_membership(&mut self, membership: StoredMembership) {
        let gone: Vec<NodeId> = self
            .membership
            .nodes()
            .map(|(id, _)| *id)
            .filter(|id| membership.get_node(id).is_none() && !self.removed.contains(id))
            .collect();
        self.removed.extend(gone);
        let excess = self.removed.len().saturating_sub(REMOVED_MAX);
        self.removed.drain(..excess);
        self.membership = membership;
    }
}

fn put_log_id(bytes: &mut BytesMut, log_id: &LogId) {
    bytes.put_u64_le(log_id.leader_id.term);
    bytes.put_u64_le(log_id.index);
}

fn take_log_id(bytes: &mut Bytes) -> Option<LogId> {
    let term = bytes.try_get_u64_le().ok()?;
    let index = bytes.try_get_u64_le().ok()?;
    Some(log_id(term, index))
}

type Members = ((Option<LogId>, Bytes), Vec<NodeId>);

fn decode_members(mut bytes: Bytes) -> Option<Members> {
    let has_id = bytes.try_get_u8().ok()? == 1;
    let at = take_log_id(&mut bytes)?;
    let count = bytes.try_get_u32_le().ok()? as usize;
    if count > REMOVED_MAX {
        return None;
    }
    let mut removed = Vec::with_capacity(count);
    for _ in 0..count {
        removed.push(NodeId(bytes.try_get_u64_le().ok()?));
    }
    Some(((has_id.then_some(at), bytes), removed))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::types::Peer;

    fn membership(ids: &[u64]) -> crate::types::Membership {
        let voters: BTreeSet<NodeId> = ids.iter().map(|id| NodeId(*id)).collect();
        let nodes: BTreeMap<NodeId, Peer> = voters
            .iter()
            .map(|id| (*id, Peer { name: id.to_string(), ..Peer::default() }))
            .collect();
        crate::types::Membership::new(vec![voters], nodes).expect("a plain membership is valid")
    }

    #[test]
    fn entries_of_every_kind_come_back_as_they_were() {
        let payloads = [
            EntryPayload::Blank,
            EntryPayload::Normal(Payload(Bytes::from_static(b"\x07commands"))),
            EntryPayload::Membership(membership(&[1, 2, 3])),
        ];
        for (index, payload) in payloads.into_iter().enumerate() {
            let entry = RaftEntry { log_id: log_id(7, index as u64), payload };
            let (id, bytes) = encode_entry(&entry);
            assert_eq!(decode_entry(index as u64, &id, bytes).unwrap(), entry);
        }
    }

    #[test]
    fn the_bytes_of_commands_are_shared_not_copied() {
        let bytes = Bytes::from(vec![1u8; 64]);
        let payload = EntryPayload::Normal(Payload(bytes.clone()));
        let (_, kept) = encode_entry(&RaftEntry { log_id: log_id(1, 1), payload });
        assert_eq!(kept.as_ptr(), bytes.as_ptr());
    }

    #[test]
    fn an_unknown_version_is_refused() {
        assert!(decode_entry(1, &[9, 0, 0, 0, 0, 0, 0, 0, 0, 0], Bytes::new()).is_err());
        assert!(Mark::decode(&Bytes::from_static(&[9; 40])).is_err());
    }

    #[test]
    fn a_mark_remembers_who_was_removed() {
        let mut mark = Mark::default();
        let stored =
            |index, ids: &[u64]| StoredMembership::new(Some(log_id(1, index)), membership(ids));
        mark.change_membership(stored(0, &[1, 2, 3]));
        mark.change_membership(stored(4, &[1, 3]));
        mark.log_id = Some(log_id(2, 9));
        let bytes = Mark::encode(&log_id(2, 9), &mark.encode_members());
        let read = Mark::decode(&bytes).unwrap();
        assert_eq!(read, mark);
        assert_eq!(read.removed, [NodeId(2)]);
    }

    #[test]
    fn an_empty_mark_is_that_of_an_empty_store() {
        assert_eq!(Mark::decode(&Bytes::new()).unwrap(), Mark::default());
    }
}
