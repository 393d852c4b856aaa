//! Which keys are the clients', and which are this front's own.
//!
//! The rows of authentication and alarms are replicated like any others, so they lie in the same
//! keyspace, at its far end. `docs/decisions/0007-reserved-keys.md` says why there.
//!
//! Keeps: nothing a client asks for reaches a reserved key. Ranges are clipped before they are read,
//! watched, compared or deleted, so such keys are not counted either; puts are refused.

use bytes::Bytes;
use kontiki_storage::request::KeyRange;

/// Every key from here on is reserved.
pub(crate) const RESERVED: &[u8] = b"\xff\xff\xff\xffkontiki/";

/// The row every guarded write looks at: it changes with each change of the others.
pub(crate) const STATE: &[u8] = b"\xff\xff\xff\xffkontiki/state";
const USERS: &[u8] = b"\xff\xff\xff\xffkontiki/user/";
const ROLES: &[u8] = b"\xff\xff\xff\xffkontiki/role/";

pub(crate) fn state() -> Bytes {
    Bytes::from_static(STATE)
}

pub(crate) fn all() -> KeyRange {
    KeyRange::From(Bytes::from_static(RESERVED))
}

pub(crate) fn user(name: &str) -> Bytes {
    [USERS, name.as_bytes()].concat().into()
}

pub(crate) fn role(name: &str) -> Bytes {
    [ROLES, name.as_bytes()].concat().into()
}

/// What a reserved key stands for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Row<'k> {
    State,
    User(&'k str),
    Role(&'k str),
}

pub(crate) fn read(key: &[u8]) -> Option<Row<'_>> {
    if key == STATE {
        return Some(Row::State);
    }
    let name = |prefix| key.strip_prefix(prefix).and_then(|name| std::str::from_utf8(name).ok());
    name(USERS).map(Row::User).or_else(|| name(ROLES).map(Row::Role))
}

pub(crate) fn is_reserved(key: &[u8]) -> bool {
    key >= RESERVED
}

/// The range a client means, without what it may not see. Perhaps an empty one.
pub(crate) fn clipped(key: Bytes, range_end: Bytes) -> KeyRange {
    let below = |start: Bytes| KeyRange::Between { start, end: Bytes::from_static(RESERVED) };
    match KeyRange::from_wire(key, range_end) {
        KeyRange::One(key) if is_reserved(&key) => below(key),
        KeyRange::Between { start, end } if is_reserved(&end) => below(start),
        KeyRange::From(start) => below(start),
        range => range,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> impl Strategy<Value = Bytes> {
        let near = [
            Bytes::from_static(RESERVED),
            Bytes::from_static(b"\xff\xff\xff\xffkontiki."),
            Bytes::from_static(b"\xff\xff\xff\xff\xff"),
            Bytes::from_static(b"\0"),
            state(),
            user("root"),
        ];
        prop_oneof![
            prop::sample::select(near.to_vec()),
            prop::collection::vec(any::<u8>(), 1..6).prop_map(Bytes::from),
        ]
    }

    proptest! {
        #[test]
        fn a_clipped_range_is_what_was_meant_without_what_is_reserved(
            start in key(), end in prop_oneof![Just(Bytes::new()), key()], probe in key(),
        ) {
            let meant = KeyRange::from_wire(start.clone(), end.clone()).contains(&probe);
            let found = clipped(start, end).contains(&probe);
            prop_assert_eq!(found, meant && !is_reserved(&probe));
        }
    }

    #[test]
    fn rows_are_known_by_their_keys() {
        assert_eq!(read(STATE), Some(Row::State));
        assert_eq!(read(&user("a/b")), Some(Row::User("a/b")));
        assert_eq!(read(&role("r")), Some(Row::Role("r")));
        assert_eq!(read(b"\xff\xff\xff\xffkontiki/other"), None);
        assert!(all().contains(&user("x")) && all().contains(STATE));
    }
}
