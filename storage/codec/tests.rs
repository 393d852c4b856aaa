//! Tests of this room through its door.

use proptest::prelude::*;

use super::*;
use crate::record::LeaseId;
use crate::request::{
    Bounds, Compare, Condition, Delete, Guarded, KeyRange, Operand, Operation, Order, Put, Range,
    Relation, TRANSACTION_DEPTH_MAX, Target, Transaction,
};
use crate::revision::Revision;

fn bytes() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..6).prop_map(Bytes::from)
}

fn range_of_keys() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        bytes().prop_map(KeyRange::One),
        (bytes(), bytes()).prop_map(|(start, end)| KeyRange::Between { start, end }),
        bytes().prop_map(KeyRange::From),
    ]
}

fn revision() -> impl Strategy<Value = Revision> {
    prop_oneof![Just(0), 1..9u64, any::<u64>()].prop_map(Revision)
}

fn lease() -> impl Strategy<Value = LeaseId> {
    prop_oneof![Just(0), any::<i64>()].prop_map(LeaseId)
}

fn put() -> impl Strategy<Value = Put> {
    (bytes(), bytes(), lease(), any::<[bool; 3]>()).prop_map(|(key, value, lease, flags)| {
        let [previous, ignore_value, ignore_lease] = flags;
        Put { key, value, lease, previous, ignore_value, ignore_lease }
    })
}

fn delete() -> impl Strategy<Value = Delete> {
    (range_of_keys(), any::<bool>()).prop_map(|(range, previous)| Delete { range, previous })
}

fn range() -> impl Strategy<Value = Range> {
    let bounds = || (revision(), revision()).prop_map(|(min, max)| Bounds { min, max });
    let order = prop::sample::select(vec![Order::None, Order::Ascending, Order::Descending]);
    let target = prop::sample::select(vec![
        Target::Key,
        Target::Version,
        Target::Created,
        Target::Modified,
        Target::Value,
    ]);
    (
        range_of_keys(),
        any::<u64>(),
        revision(),
        order,
        target,
        any::<[bool; 2]>(),
        bounds(),
        bounds(),
    )
        .prop_map(|(range, limit, revision, order, target, flags, modified, created)| {
            let [keys_only, count_only] = flags;
            Range {
                range,
                limit,
                revision,
                order,
                target,
                keys_only,
                count_only,
                modified,
                created,
            }
        })
}

fn compare() -> impl Strategy<Value = Compare> {
    let relation = prop::sample::select(vec![
        Relation::Equal,
        Relation::Greater,
        Relation::Less,
        Relation::NotEqual,
    ]);
    let operand = prop_oneof![
        any::<u64>().prop_map(Operand::Version),
        revision().prop_map(Operand::Created),
        revision().prop_map(Operand::Modified),
        bytes().prop_map(Operand::Value),
        lease().prop_map(Operand::Lease),
    ];
    (range_of_keys(), relation, operand).prop_map(|(range, relation, operand)| Compare {
        range,
        relation,
        operand,
    })
}

fn transaction() -> impl Strategy<Value = Transaction> {
    let leaf = prop_oneof![
        range().prop_map(Operation::Range),
        put().prop_map(Operation::Put),
        delete().prop_map(Operation::Delete),
    ];
    let operation = leaf.prop_recursive(3, 12, 3, |inner| {
        (
            prop::collection::vec(compare(), 0..3),
            prop::collection::vec(inner.clone(), 0..3),
            prop::collection::vec(inner, 0..3),
        )
            .prop_map(|(compare, success, failure)| {
                Operation::Transaction(Transaction { compare, success, failure })
            })
    });
    (
        prop::collection::vec(compare(), 0..3),
        prop::collection::vec(operation.clone(), 0..3),
        prop::collection::vec(operation, 0..3),
    )
        .prop_map(|(compare, success, failure)| Transaction { compare, success, failure })
}

fn command() -> impl Strategy<Value = Command> {
    let condition = prop_oneof![
        compare().prop_map(Condition::Compare),
        (lease(), prop::collection::vec(range_of_keys(), 0..3))
            .prop_map(|(id, ranges)| Condition::LeaseWithin { id, ranges }),
    ];
    let conditions = prop::collection::vec(condition, 0..3);
    prop_oneof![
        4 => plain_command(),
        1 => (conditions, plain_command()).prop_map(|(conditions, command)| {
            Command::Guarded(Guarded { conditions, command: Box::new(command) })
        }),
    ]
}

fn plain_command() -> impl Strategy<Value = Command> {
    prop_oneof![
        put().prop_map(Command::Put),
        delete().prop_map(Command::Delete),
        transaction().prop_map(Command::Transaction),
        revision().prop_map(Command::Compact),
        (lease(), any::<i64>()).prop_map(|(id, ttl_s)| Command::LeaseGrant { id, ttl_s }),
        lease().prop_map(|id| Command::LeaseRevoke { id }),
        (prop::collection::vec(lease(), 0..4), any::<u64>())
            .prop_map(|(ids, term)| Command::LeaseExpire { ids, term }),
        (prop::collection::vec((lease(), any::<u64>()), 0..4), any::<u64>())
            .prop_map(|(remaining_ms, term)| Command::LeaseCheckpoint { remaining_ms, term }),
    ]
}

proptest! {
    #[test]
    fn decoding_gives_back_what_was_encoded(commands in prop::collection::vec(command(), 0..5)) {
        let decoded = decode_commands(encode_commands(&commands)).expect("just encoded");
        prop_assert_eq!(decoded, commands);
    }

    #[test]
    fn any_bytes_are_commands_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut bytes = bytes;
        bytes.insert(0, VERSION);
        let _ = decode_commands(Bytes::from(bytes));
    }

    #[test]
    fn damaged_commands_are_commands_or_an_error(
        commands in prop::collection::vec(command(), 1..4),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<bool>(),
    ) {
        let mut bytes = encode_commands(&commands).to_vec();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        // Whatever it says now, it can be said again.
        if let Ok(commands) = decode_commands(Bytes::from(bytes)) {
            let again = decode_commands(encode_commands(&commands)).expect("just encoded");
            prop_assert_eq!(again, commands);
        }
    }
}

#[test]
fn commands_in_the_log_are_these_bytes() {
    let put = Put { key: "k".into(), value: "v".into(), lease: LeaseId(1), ..Put::default() };
    let create = Transaction {
        compare: vec![Compare {
            range: KeyRange::One("k".into()),
            relation: Relation::Equal,
            operand: Operand::Modified(Revision::ZERO),
        }],
        success: vec![Operation::Put(put.clone())],
        failure: vec![Operation::Range(Range::new(KeyRange::One("k".into())))],
    };
    let golden: [(Command, &[u8]); 8] = [
        (Command::Put(put), b"\x01\x0a\x0a\x0a\x08\x0a\x01k\x12\x01v\x18\x02"),
        (
            Command::Delete(Delete { range: KeyRange::prefix("p"), previous: true }),
            b"\x01\x0a\x0e\x12\x0c\x0a\x08\x08\x02\x12\x01p\x1a\x01q\x10\x01",
        ),
        (
            Command::Transaction(create),
            b"\x01\x0a\x24\x1a\x22\x0a\x09\x0a\x05\x08\x01\x12\x01k\x28\x00\
              \x12\x0a\x12\x08\x0a\x01k\x12\x01v\x18\x02\x1a\x09\x0a\x07\x0a\x05\x08\x01\x12\x01k",
        ),
        (Command::Compact(Revision(300)), b"\x01\x0a\x03\x20\xac\x02"),
        (
            Command::LeaseGrant { id: LeaseId(-1), ttl_s: 60 },
            b"\x01\x0a\x06\x2a\x04\x08\x01\x10\x78",
        ),
        (Command::LeaseRevoke { id: LeaseId(2) }, b"\x01\x0a\x02\x30\x04"),
        (
            Command::LeaseExpire { ids: vec![LeaseId(1), LeaseId(2)], term: 7 },
            b"\x01\x0a\x08\x3a\x06\x0a\x02\x02\x04\x10\x07",
        ),
        (
            Command::LeaseCheckpoint { remaining_ms: vec![(LeaseId(1), 9)], term: 7 },
            b"\x01\x0a\x0a\x42\x08\x0a\x01\x02\x12\x01\x09\x18\x07",
        ),
    ];
    for (command, wanted) in golden {
        let encoded = encode_commands(std::slice::from_ref(&command));
        assert_eq!(encoded, wanted, "{command:?}");
        assert_eq!(decode_commands(encoded), Ok(vec![command]));
    }
    assert_eq!(encode_commands(&[]), b"\x01".as_slice());
}

#[test]
fn another_version_and_nothing_at_all_are_errors() {
    for bytes in [b"".as_slice(), b"\0", b"\x02\x0a\x00", b"\xff"] {
        assert!(matches!(decode_commands(Bytes::copy_from_slice(bytes)), Err(Error::Malformed(_))));
    }
}

#[test]
fn a_command_of_a_kind_that_came_later_is_an_error() {
    let unknown = Bytes::from_static(b"\x01\x0a\x03\xa0\x06\x01");
    assert!(matches!(decode_commands(unknown), Err(Error::Malformed(_))));
}

#[test]
fn the_deepest_transaction_that_is_allowed_survives_the_log() {
    let deepest = (1..TRANSACTION_DEPTH_MAX).fold(Transaction::default(), |inner, _| Transaction {
        success: vec![Operation::Transaction(inner)],
        ..Transaction::default()
    });
    let command = Command::Transaction(deepest);
    assert_eq!(command.check(), Ok(()));
    let encoded = encode_commands(std::slice::from_ref(&command));
    assert_eq!(decode_commands(encoded), Ok(vec![command]));
}

#[test]
fn values_of_decoded_commands_share_the_buffer_they_came_in() {
    let put = Put { key: "k".into(), value: vec![7; 1000].into(), ..Put::default() };
    let encoded = encode_commands(&[Command::Put(put)]);
    let decoded = decode_commands(encoded.clone()).expect("just encoded");
    let [Command::Put(put)] = decoded.as_slice() else { panic!("one put") };
    assert!(encoded.as_ptr_range().contains(&put.value.as_ptr()));
}
