//! What crosses the wire as an answer comes back as it was, and garbage comes back as an error.

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;

use super::*;

/// Over the wire and back, as bytes.
fn travelled(given: EntryAnswers) -> EntryAnswers {
    let bytes = wire_answers(given).encode_to_vec();
    answers(wire::Answers::decode(Bytes::from(bytes)).unwrap()).unwrap()
}

/// `Error`'s own equality compares the words; this one also the variant and its fields.
fn same(left: &Error, right: &Error) -> bool {
    format!("{left:?}") == format!("{right:?}")
}

fn any_text() -> impl Strategy<Value = String> {
    "[ -~äß\n]{0,20}"
}

fn any_key_value() -> impl Strategy<Value = KeyValue> {
    let bytes = proptest::collection::vec(any::<u8>(), 0..20);
    (bytes.clone(), bytes, any::<(u64, u64, u64, i64)>()).prop_map(
        |(key, value, (created, modified, version, lease))| KeyValue {
            key: key.into(),
            value: value.into(),
            created: Revision(created),
            modified: Revision(modified),
            version,
            lease: LeaseId(lease),
        },
    )
}

fn any_put() -> impl Strategy<Value = PutAnswer> {
    proptest::option::of(any_key_value()).prop_map(|previous| PutAnswer { previous })
}

fn any_delete() -> impl Strategy<Value = DeleteAnswer> {
    (any::<u64>(), proptest::collection::vec(any_key_value(), 0..4))
        .prop_map(|(deleted, previous)| DeleteAnswer { deleted, previous })
}

fn any_range() -> impl Strategy<Value = RangeAnswer> {
    (proptest::collection::vec(any_key_value(), 0..4), any::<bool>(), any::<u64>())
        .prop_map(|(kvs, more, count)| RangeAnswer { kvs, more, count })
}

fn any_transaction() -> impl Strategy<Value = TransactionAnswer> {
    let leaf = prop_oneof![
        any_range().prop_map(OperationAnswer::Range),
        any_put().prop_map(OperationAnswer::Put),
        any_delete().prop_map(OperationAnswer::Delete),
    ];
    let operation = leaf.prop_recursive(4, 24, 4, |inner| {
        (any::<bool>(), proptest::collection::vec(inner, 0..4)).prop_map(|(succeeded, answers)| {
            OperationAnswer::Transaction(TransactionAnswer { succeeded, answers })
        })
    });
    (any::<bool>(), proptest::collection::vec(operation, 0..4))
        .prop_map(|(succeeded, answers)| TransactionAnswer { succeeded, answers })
}

fn any_outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        any_put().prop_map(Outcome::Put),
        any_delete().prop_map(Outcome::Delete),
        any_transaction().prop_map(Outcome::Transaction),
        Just(Outcome::Compacted),
        any::<(i64, i64)>()
            .prop_map(|(id, ttl_s)| Outcome::LeaseGranted { id: LeaseId(id), ttl_s }),
        Just(Outcome::LeaseRevoked),
        any::<u64>().prop_map(Outcome::LeasesExpired),
        Just(Outcome::Checkpointed),
    ]
}

fn any_error() -> impl Strategy<Value = Error> {
    let numbers = any::<(u64, u64)>();
    prop_oneof![
        Just(Error::EmptyKey),
        any::<(usize, usize)>().prop_map(|(given, max)| Error::TooManyOperations { given, max }),
        Just(Error::DuplicateKey),
        Just(Error::ValueProvided),
        Just(Error::LeaseProvided),
        any::<(i64, i64)>().prop_map(|(ttl_s, max)| Error::LeaseTtlTooLarge { ttl_s, max }),
        numbers.prop_map(|(asked, oldest)| Error::Compacted {
            asked: Revision(asked),
            oldest: Revision(oldest)
        }),
        numbers.prop_map(|(asked, newest)| Error::Future {
            asked: Revision(asked),
            newest: Revision(newest)
        }),
        Just(Error::KeyNotFound),
        any::<i64>().prop_map(|id| Error::LeaseNotFound(LeaseId(id))),
        any::<i64>().prop_map(|id| Error::LeaseExists(LeaseId(id))),
        Just(Error::ConditionFailed),
        (any_text(), numbers).prop_map(|(path, (free, reserved))| Error::NoSpace {
            path: path.into(),
            free,
            reserved
        }),
        (any_text(), any_text())
            .prop_map(|(path, reason)| Error::Refused { path: path.into(), reason }),
        any_text().prop_map(Error::Damaged),
        numbers.prop_map(|(given, applied)| Error::OutOfOrder {
            given: Index(given),
            applied: Index(applied)
        }),
        (any_text(), any_text())
            .prop_map(|(context, source)| Error::engine(context, io::Error::other(source))),
    ]
}

proptest! {
    #[test]
    fn every_outcome_arrives_as_it_was(revision: u64, outcome in any_outcome()) {
        let answer = Answer { revision: Revision(revision), outcome };
        prop_assert_eq!(travelled(vec![Ok(answer.clone())]), vec![Ok(answer)]);
    }

    #[test]
    fn every_error_arrives_as_the_same_variant(error in any_error()) {
        let arrived = travelled(vec![Err(error.clone())]).remove(0).unwrap_err();
        prop_assert!(same(&arrived, &error), "{error:?} became {arrived:?}");
        prop_assert_eq!(arrived.to_string(), error.to_string());
    }

    #[test]
    fn no_bytes_can_make_decoding_panic(bytes: Vec<u8>) {
        if let Ok(message) = wire::Answers::decode(Bytes::from(bytes)) {
            let _ = answers(message);
        }
    }
}

#[test]
fn results_keep_their_order() {
    let given: EntryAnswers = (0..50)
        .map(|n| {
            if n % 3 == 0 {
                Err(Error::LeaseNotFound(LeaseId(n)))
            } else {
                let outcome = Outcome::LeasesExpired(n as u64);
                Ok(Answer { revision: Revision(n as u64), outcome })
            }
        })
        .collect();
    assert_eq!(travelled(given.clone()), given);
    assert_eq!(travelled(Vec::new()), Vec::new());
}

#[test]
fn an_error_newer_than_this_binary_keeps_its_words() {
    // Field 99 is a variant that does not exist yet.
    let mut bytes = vec![0x9a, 0x06, 0x00];
    wire::StoreError { error: None, text: "the moon is full".into() }.encode_raw(&mut bytes);
    let decoded = error(wire::StoreError::decode(Bytes::from(bytes)).unwrap());
    assert_eq!(decoded.to_string(), "the moon is full");
}

#[test]
fn an_outcome_newer_than_this_binary_is_malformed() {
    let newer = wire::Answers {
        results: vec![wire::CommandResult {
            result: Some(wire::command_result::Result::Answer(wire::Answer {
                revision: 1,
                outcome: None,
            })),
        }],
    };
    assert!(answers(newer).is_err());
    assert!(
        answers(wire::Answers { results: vec![wire::CommandResult { result: None }] }).is_err()
    );
}

#[test]
fn values_share_the_buffer_they_arrived_in() {
    let kv = KeyValue { value: Bytes::from(vec![7; 1000]), ..KeyValue::default() };
    let outcome = Outcome::Put(PutAnswer { previous: Some(kv) });
    let answer = Answer { revision: Revision(1), outcome };
    let bytes = Bytes::from(wire_answers(vec![Ok(answer)]).encode_to_vec());
    let arrived = answers(wire::Answers::decode(bytes.clone()).unwrap()).unwrap();
    let Ok(Answer { outcome: Outcome::Put(put), .. }) = &arrived[0] else { panic!() };
    let value = &put.previous.as_ref().unwrap().value;
    assert!(bytes.as_ptr_range().contains(&value.as_ptr()));
}
