//! Bytes at rest and on the wire are pinned, and any others are an error.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

fn peer(name: &str) -> Peer {
    Peer {
        name: name.into(),
        address: format!("{name}:2380"),
        client_urls: vec![format!("https://{name}:2379")],
    }
}

fn membership() -> Membership {
    let nodes = BTreeMap::from([(NodeId(1), peer("a")), (NodeId(2), peer("b"))]);
    Membership::new(vec![BTreeSet::from([NodeId(1)])], nodes).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_log_id_keeps_its_bytes() {
    let id = LogId::new(7.into(), 300);
    assert_eq!(hex(&encode_log_id(&id)), "01080710ac02");
    assert_eq!(decode_log_id(&encode_log_id(&id)), Ok(id));
    let first = LogId::new(0.into(), 0);
    assert_eq!(hex(&encode_log_id(&first)), "01");
    assert_eq!(decode_log_id(&[1]), Ok(first));
}

#[test]
fn a_vote_keeps_its_bytes() {
    let granted = Vote::new_committed(7, NodeId(0xabc));
    assert_eq!(hex(&encode_vote(&granted)), "01080710bc151801");
    assert_eq!(decode_vote(&encode_vote(&granted)), Ok(granted));
    let asked = Vote::new(7, NodeId(0xabc));
    assert_eq!(hex(&encode_vote(&asked)), "01080710bc15");
}

#[test]
fn a_membership_keeps_its_bytes() {
    let expected = concat!(
        "01",               // version
        "0100000000000000", // one set of voters,
        "0100000000000000", // of one
        "0100000000000000", // id 1
        "0200000000000000", // two members
        "0100000000000000", // id 1
        "010000000000000061",
        "0600000000000000613a32333830",
        "0100000000000000",
        "0e0000000000000068747470733a2f2f613a32333739",
        "0200000000000000", // id 2
        "010000000000000062",
        "0600000000000000623a32333830",
        "0100000000000000",
        "0e0000000000000068747470733a2f2f623a32333739",
    );
    assert_eq!(hex(&encode_membership(&membership())), expected);
    assert_eq!(decode_membership(&encode_membership(&membership())), Ok(membership()));
}

#[test]
fn a_snapshot_meta_keeps_its_bytes() {
    let meta = SnapshotMeta {
        last_log_id: Some(LogId::new(3.into(), 9)),
        last_membership: StoredMembership::new(Some(LogId::new(2.into(), 4)), membership()),
    };
    let bytes = encode_snapshot_meta(&meta);
    assert_eq!(hex(&bytes[..16]), "010a0408031009120408021004".to_owned() + "1a9b01");
    assert_eq!(decode_snapshot_meta(&bytes), Ok(meta));
    let nothing = SnapshotMeta::default();
    assert_eq!(decode_snapshot_meta(&encode_snapshot_meta(&nothing)), Ok(nothing));
}

#[test]
fn commands_are_not_copied() {
    let bytes = Bytes::from(vec![7; 100]);
    let payload = EntryPayload::Normal(Payload(bytes.clone()));
    let wire = wire_entry(RaftEntry { log_id: LogId::new(1.into(), 1), payload });
    assert_eq!(wire.payload.as_ptr(), bytes.as_ptr());
    let EntryPayload::Normal(decoded) = entry(wire).unwrap().payload else { panic!() };
    assert_eq!(decoded.0.as_ptr(), bytes.as_ptr());
}

#[test]
fn a_version_of_the_future_is_refused_by_name() {
    let error = decode_vote(&[9, 8, 7]).unwrap_err().to_string();
    assert!(error.contains("malformed vote: version 9"), "{error}");
    assert!(decode_log_id(&[]).unwrap_err().to_string().contains("empty"));
}

#[test]
fn a_membership_whose_voters_nobody_knows_is_refused() {
    let mut bytes = vec![VERSION];
    let voters: Vec<BTreeSet<NodeId>> = vec![BTreeSet::from([NodeId(9)])];
    let nodes: BTreeMap<NodeId, Peer> = BTreeMap::new();
    positional().serialize_into(&mut bytes, &(voters, &nodes)).unwrap();
    assert!(decode_membership(&bytes).is_err());

    let mut bytes = vec![VERSION];
    let nobody: Vec<BTreeSet<NodeId>> = vec![BTreeSet::new()];
    positional().serialize_into(&mut bytes, &(nobody, &nodes)).unwrap();
    assert!(decode_membership(&bytes).is_err());
}

#[test]
fn an_entry_without_voters_is_refused() {
    let payload = EntryPayload::Membership(Membership::default());
    let given = wire_entry(RaftEntry { log_id: LogId::new(1.into(), 1), payload });
    assert!(entry(given).is_err());
    // As the membership of a state that has none yet, it is right.
    assert!(decode_membership(&encode_membership(&Membership::default())).is_ok());
}

#[test]
fn a_length_that_promises_too_much_is_refused_without_taking_memory() {
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(&u64::MAX.to_le_bytes());
    bytes.extend_from_slice(&u64::MAX.to_le_bytes());
    assert!(decode_membership(&bytes).is_err());
}

#[test]
fn an_entry_of_no_kind_is_refused() {
    let forgotten = wire::Entry { term: 1, index: 1, kind: 0, payload: Bytes::new() };
    assert!(entry(forgotten).is_err());
    let negative = wire::Entry { term: 1, index: 1, kind: -255, payload: Bytes::new() };
    assert!(entry(negative).is_err());
    // 257 must not be cut down to the 1 of a blank entry.
    let wide = wire::Entry { term: 1, index: 1, kind: 257, payload: Bytes::new() };
    assert!(entry(wide).is_err());
}

fn any_membership() -> impl Strategy<Value = Membership> {
    let ids = proptest::collection::btree_set(1u64.., 1..6);
    (ids, 1..3usize, "[a-z]{0,9}").prop_map(|(ids, sets, name)| {
        let voters: BTreeSet<NodeId> = ids.iter().copied().map(NodeId).collect();
        let nodes: BTreeMap<NodeId, Peer> =
            voters.iter().map(|id| (*id, peer(&format!("{name}{id}")))).collect();
        Membership::new(vec![voters; sets], nodes).unwrap()
    })
}

proptest! {
    #[test]
    fn log_ids_and_votes_come_back(term: u64, node: u64, index: u64, committed: bool) {
        let id = LogId::new(term.into(), index);
        prop_assert_eq!(decode_log_id(&encode_log_id(&id)), Ok(id));
        let given = wire::Vote { term, node, committed };
        prop_assert_eq!(wire_vote(&decode_vote(&encode_vote(&vote(given))).unwrap()), given);
    }

    #[test]
    fn memberships_come_back(membership in any_membership()) {
        prop_assert_eq!(decode_membership(&encode_membership(&membership)), Ok(membership));
    }

    #[test]
    fn entries_come_back(
        term: u64, index: u64, bytes: Vec<u8>, kind in 0..3, m in any_membership(),
    ) {
        let payload = match kind {
            0 => EntryPayload::Blank,
            1 => EntryPayload::Normal(Payload(bytes.into())),
            _ => EntryPayload::Membership(m),
        };
        let given = RaftEntry { log_id: LogId::new(term.into(), index), payload };
        prop_assert_eq!(entry(wire_entry(given.clone())), Ok(given));
    }

    #[test]
    fn no_bytes_can_make_decoding_panic(version in 0..3u8, bytes: Vec<u8>) {
        let mut all = vec![version];
        all.extend(bytes);
        let _ = decode_log_id(&all);
        let _ = decode_vote(&all);
        let _ = decode_membership(&all);
        let _ = decode_snapshot_meta(&all);
    }

    #[test]
    fn no_flipped_byte_can_make_decoding_panic(
        membership in any_membership(), at: prop::sample::Index, to: u8,
    ) {
        let mut bytes = encode_membership(&membership).to_vec();
        let at = at.index(bytes.len());
        bytes[at] = to;
        let _ = decode_membership(&bytes);
    }
}
