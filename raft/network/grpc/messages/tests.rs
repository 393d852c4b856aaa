//! Messages come back as they were, and what is malformed is told apart.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::network::convert::EntryPayload;
use crate::types::Membership;
use crate::types::{Payload, RaftEntry, Vote};

/// Over the wire and back, as bytes.
fn travel<M: Message + Default>(message: &M) -> M {
    M::decode(Bytes::from(message.encode_to_vec())).unwrap()
}

fn any_log_id() -> impl Strategy<Value = LogId> {
    any::<(u64, u64)>().prop_map(|(term, index)| LogId::new(term.into(), index))
}

fn any_vote() -> impl Strategy<Value = Vote> {
    any::<(u64, u64, bool)>()
        .prop_map(|(term, node, committed)| vote(wire::Vote { term, node, committed }))
}

fn any_maybe() -> impl Strategy<Value = Option<LogId>> {
    proptest::option::of(any_log_id())
}

fn any_append() -> impl Strategy<Value = AppendRequest> {
    let payload = prop_oneof![
        Just(EntryPayload::Blank),
        any::<Vec<u8>>().prop_map(|bytes| EntryPayload::Normal(Payload(bytes.into()))),
        Just(EntryPayload::Membership(
            Membership::new(
                vec![BTreeSet::from([NodeId(3)])],
                BTreeMap::from([(NodeId(3), Peer::default())]),
            )
            .unwrap()
        )),
    ];
    let first = proptest::option::of((any::<u64>(), 0..1u64 << 60));
    (any_vote(), first, proptest::collection::vec(payload, 0..5), any_maybe()).prop_map(
        |(vote, previous, payloads, leader_commit)| {
            let prev_log_id = previous.map(|(term, index)| LogId::new(term.into(), index));
            let next = prev_log_id.map_or(0, |id| id.index + 1);
            let entries = (next..)
                .zip(payloads)
                .map(|(index, payload)| RaftEntry { log_id: LogId::new(7.into(), index), payload })
                .collect();
            AppendRequest { vote, prev_log_id, entries, leader_commit }
        },
    )
}

fn any_forward() -> impl Strategy<Value = Forward> {
    let id = || (1u64..).prop_map(NodeId);
    let peer = || {
        any::<(String, String, Vec<String>)>().prop_map(|(name, address, client_urls)| Peer {
            name,
            address,
            client_urls,
        })
    };
    prop_oneof![
        any::<Vec<u8>>().prop_map(|bytes| Forward::Propose(bytes.into())),
        Just(Forward::ReadIndex),
        any::<i64>().prop_map(Forward::LeaseKeepAlive),
        any::<i64>().prop_map(Forward::LeaseTimeToLive),
        (id(), peer()).prop_map(|(id, peer)| Forward::AddLearner { id, peer }),
        id().prop_map(Forward::Promote),
        id().prop_map(Forward::Remove),
        (id(), peer()).prop_map(|(id, peer)| Forward::Update { id, peer }),
        id().prop_map(Forward::TransferLeader),
    ]
}

fn any_refusal() -> impl Strategy<Value = MembershipError> {
    let id = || any::<u64>().prop_map(NodeId);
    let text = || any::<String>();
    prop_oneof![
        id().prop_map(MembershipError::NotFound),
        id().prop_map(MembershipError::Exists),
        text().prop_map(MembershipError::AddressTaken),
        text().prop_map(MembershipError::NameTaken),
        id().prop_map(MembershipError::Removed),
        id().prop_map(MembershipError::NotLearner),
        (id(), any::<u64>()).prop_map(|(id, behind)| MembershipError::NotCaughtUp { id, behind }),
        Just(MembershipError::InProgress),
        any::<usize>().prop_map(MembershipError::TooManyLearners),
        (id(), any::<usize>(), any::<usize>()).prop_map(|(id, healthy, voters)| {
            MembershipError::LosesQuorum { id, healthy, voters }
        }),
        id().prop_map(MembershipError::BadTransferee),
        any::<(u64, u64)>().prop_map(|(given, ours)| MembershipError::OtherCluster {
            given: ClusterId(given),
            ours: ClusterId(ours)
        }),
        text().prop_map(MembershipError::Other),
    ]
}

fn any_forwarded() -> impl Strategy<Value = Forwarded> {
    prop_oneof![
        proptest::option::of((1u64..).prop_map(NodeId))
            .prop_map(|leader| Forwarded::NotLeader { leader }),
        Just(Forwarded::Proposed(vec![Err(kontiki_storage::Error::KeyNotFound)])),
        any::<String>().prop_map(Forwarded::Unknown),
        any::<u64>().prop_map(Forwarded::ReadIndex),
        any::<(i64, i64)>().prop_map(|(ttl_s, granted_s)| Forwarded::Lease { ttl_s, granted_s }),
        Just(Forwarded::Done),
        any_refusal().prop_map(Forwarded::Refused),
    ]
}

proptest! {
    #[test]
    fn appends_come_back(given in any_append()) {
        let arrived = append(travel(&wire_append(given.clone()))).unwrap();
        prop_assert_eq!(format!("{arrived:?}"), format!("{given:?}"));
    }

    #[test]
    fn answers_to_appends_come_back(id in any_maybe(), vote in any_vote(), at in any_log_id()) {
        for given in [
            AppendResponse::Success,
            AppendResponse::PartialSuccess(id),
            AppendResponse::Conflict,
            AppendResponse::HigherVote(vote),
        ] {
            prop_assert_eq!(appended(travel(&wire_appended(given.clone()))), Ok(given));
        }
        for given in [
            Ok(id),
            Err(StreamAppendError::Conflict(at)),
            Err(StreamAppendError::HigherVote(vote)),
        ] {
            let given: AppendResult = given;
            prop_assert_eq!(streamed(travel(&wire_streamed(given.clone()))), Ok(given));
        }
    }

    #[test]
    fn votes_come_back(vote in any_vote(), last in any_maybe(), flag: bool) {
        let mut asked = VoteRequest::new(vote, last);
        asked.leadership_transfer = flag;
        prop_assert_eq!(vote_request(travel(&wire_vote_request(&asked))), Ok(asked));
        let given = VoteResponse::new(vote, last, flag);
        prop_assert_eq!(voted(travel(&wire_voted(&given))), Ok(given));
        let response = SnapshotResponse::new(vote);
        prop_assert_eq!(installed(travel(&wire_installed(&response))), Ok(response));
    }

    #[test]
    fn transfers_come_back(
        (one, two) in (any_vote(), any_vote()), to in 1u64.., (a, b) in (any_maybe(), any_maybe()),
    ) {
        let asked = TransferRequest::new(one, NodeId(to), a);
        prop_assert_eq!(transfer(travel(&wire_transfer(&asked))), Ok(asked));
        for given in [
            Ok(()),
            Err(TransferLeaderError::VoteChanged { expected: one, actual: two }),
            Err(TransferLeaderError::LogNotFlushed { expected: a, actual: b }),
        ] {
            prop_assert_eq!(transferred(travel(&wire_transferred(&given))), Ok(given));
        }
    }

    #[test]
    fn forwards_come_back(asked in any_forward(), given in any_forwarded()) {
        let arrived = forward(travel(&wire_forward(asked.clone()))).unwrap();
        prop_assert_eq!(format!("{arrived:?}"), format!("{asked:?}"));
        let arrived = forwarded(travel(&wire_forwarded(given.clone()))).unwrap();
        prop_assert_eq!(format!("{arrived:?}"), format!("{given:?}"));
    }

    #[test]
    fn no_bytes_can_make_decoding_panic(bytes: Vec<u8>) {
        let bytes = Bytes::from(bytes);
        let _ = wire::AppendRequest::decode(bytes.clone()).map(append);
        let _ = wire::AppendResponse::decode(bytes.clone()).map(appended);
        let _ = wire::StreamedAppend::decode(bytes.clone()).map(streamed);
        let _ = wire::VoteRequest::decode(bytes.clone()).map(vote_request);
        let _ = wire::VoteResponse::decode(bytes.clone()).map(voted);
        let _ = wire::TransferRequest::decode(bytes.clone()).map(transfer);
        let _ = wire::TransferResponse::decode(bytes.clone()).map(transferred);
        let _ = wire::SnapshotChunk::decode(bytes.clone()).map(chunk);
        let _ = wire::ForwardRequest::decode(bytes.clone()).map(forward);
        let _ = wire::ForwardResponse::decode(bytes).map(forwarded);
    }

    #[test]
    fn no_flipped_byte_can_make_decoding_panic(
        given in any_append(), at: prop::sample::Index, to: u8,
    ) {
        let mut bytes = wire_append(given).encode_to_vec();
        let at = at.index(bytes.len());
        bytes[at] = to;
        let _ = wire::AppendRequest::decode(Bytes::from(bytes)).map(append);
    }
}

#[test]
fn entries_share_the_buffer_they_arrived_in() {
    let payload = EntryPayload::Normal(Payload(Bytes::from(vec![7; 1000])));
    let entries = vec![RaftEntry { log_id: LogId::new(1.into(), 0), payload }];
    let vote = Vote::new(1, NodeId(1));
    let given = AppendRequest { vote, prev_log_id: None, entries, leader_commit: None };
    let bytes = Bytes::from(wire_append(given).encode_to_vec());
    let arrived = append(wire::AppendRequest::decode(bytes.clone()).unwrap()).unwrap();
    let EntryPayload::Normal(commands) = &arrived.entries[0].payload else { panic!() };
    assert!(bytes.as_ptr_range().contains(&commands.0.as_ptr()));
}

#[test]
fn entries_with_a_gap_are_malformed() {
    let blank = |index| wire::Entry { term: 1, index, kind: 1, payload: Bytes::new() };
    let message = |previous, entries| wire::AppendRequest {
        vote: Some(wire::Vote { term: 1, node: 1, committed: true }),
        previous,
        entries,
        leader_commit: None,
    };
    let five = Some(wire::LogId { term: 1, index: 5 });
    assert!(append(message(five, vec![blank(6), blank(7)])).is_ok());
    assert!(append(message(five, vec![blank(6), blank(8)])).is_err());
    assert!(append(message(five, vec![blank(7)])).is_err());
    assert!(append(message(None, vec![blank(0)])).is_ok());
    assert!(append(message(None, vec![blank(1)])).is_err());
}

#[test]
fn what_lacks_a_vote_or_an_outcome_is_malformed() {
    assert!(append(wire::AppendRequest::default()).is_err());
    assert!(vote_request(wire::VoteRequest::default()).is_err());
    assert!(voted(wire::VoteResponse::default()).is_err());
    assert!(appended(wire::AppendResponse::default()).is_err());
    assert!(streamed(wire::StreamedAppend::default()).is_err());
    assert!(transferred(wire::TransferResponse::default()).is_err());
    assert!(forward(wire::ForwardRequest::default()).is_err());
    assert!(forwarded(wire::ForwardResponse::default()).is_err());
}

#[test]
fn a_damaged_chunk_is_refused() {
    let bytes = Bytes::from_static(b"some bytes");
    let checksum = crc32c::crc32c(&bytes);
    let whole = wire::SnapshotChunk { file: 1, offset: 2, bytes, checksum };
    assert!(chunk(whole.clone()).is_ok());
    let damaged = wire::SnapshotChunk { bytes: Bytes::from_static(b"some bytez"), ..whole };
    let error = chunk(damaged).unwrap_err().to_string();
    assert!(error.contains("at 2 of file 1"), "{error}");
}
