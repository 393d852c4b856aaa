//! The keys of every table, byte for byte. What stands under them is in [`crate::row`].
//!
//! Keeps: the order of bytes at rest is the order the store needs (user keys ascending, versions of one
//! key newest first, changes in the order in which they happened). All numbers are big endian.
//! These bytes are on disk for ever: the tests at the foot pin them.
//!
//! ```text
//! Live       user key
//! Past       escaped user key · 00 00 · !modified (8)
//! Changes    revision (8) · sub-number (4)
//! Leases     lease id (8, sign flipped)
//! LeaseKeys  lease id (8, sign flipped) · user key
//! Meta       "format" | "state"
//! ```

use crate::error::Error;
use crate::record::LeaseId;
use crate::request::KeyRange;
use crate::revision::Revision;

/// Meta row: the number of the layout of everything else.
pub const FORMAT: &[u8] = b"format";

/// Meta row: how far the store is, see [`crate::row::State`].
pub const STATE: &[u8] = b"state";

/// What ends an escaped key. An escaped zero is `00 ff`, so this sorts before any longer key.
const END: [u8; 2] = [0x00, 0x00];

/// Bytes of a Past key that are not the escaped user key.
const PAST_SUFFIX_BYTES: usize = END.len() + 8;

/// Appends `key` so that the order of keys is kept and none is a prefix of another once it is ended.
pub fn escape(key: &[u8], into: &mut Vec<u8>) {
    for byte in key {
        into.push(*byte);
        if *byte == 0x00 {
            into.push(0xff);
        }
    }
}

/// The Past key of the version of `key` made at `modified`, appended to `into`.
pub fn past(key: &[u8], modified: Revision, into: &mut Vec<u8>) {
    escape(key, into);
    into.extend_from_slice(&END);
    // Inverted, so that the newest version of a key comes first.
    into.extend_from_slice(&(!modified.0).to_be_bytes());
}

/// The first Past key after all versions of `key`, appended to `into`.
pub fn after_past(key: &[u8], into: &mut Vec<u8>) {
    escape(key, into);
    into.extend_from_slice(&[END[0], END[1] + 1]);
}

/// The part of a Past key that all versions of a user key share.
pub fn past_prefix(row_key: &[u8]) -> Result<&[u8], Error> {
    let end = row_key.len().checked_sub(8).filter(|end| *end >= END.len());
    let end =
        end.ok_or_else(|| Error::Damaged(format!("key of a past version: {row_key:02x?}")))?;
    Ok(&row_key[..end])
}

/// Takes a Past key apart: the user key is appended to `key`, the version's revision is returned.
pub fn read_past(row_key: &[u8], key: &mut Vec<u8>) -> Result<Revision, Error> {
    let damaged = || Error::Damaged(format!("key of a past version: {row_key:02x?}"));
    let (escaped, rest) = row_key
        .len()
        .checked_sub(PAST_SUFFIX_BYTES)
        .and_then(|at| row_key.split_at_checked(at))
        .ok_or_else(damaged)?;
    let (end, modified) = rest.split_first_chunk::<2>().ok_or_else(damaged)?;
    if *end != END {
        return Err(damaged());
    }
    let mut bytes = escaped.iter();
    while let Some(byte) = bytes.next() {
        if *byte == 0x00 && bytes.next() != Some(&0xff) {
            return Err(damaged());
        }
        key.push(*byte);
    }
    Ok(Revision(!u64_at(modified, 0).ok_or_else(damaged)?))
}

/// Bounds of the Past rows of all keys in `range`; the upper one is absent for "to the end".
#[must_use]
pub fn past_span(range: &KeyRange) -> (Vec<u8>, Option<Vec<u8>>) {
    let mut lower = Vec::new();
    escape(range.start(), &mut lower);
    let upper = match range {
        KeyRange::One(_) => {
            let mut upper = Vec::new();
            after_past(range.start(), &mut upper);
            lower.extend_from_slice(&END);
            Some(upper)
        }
        KeyRange::Between { end, .. } => {
            let mut upper = Vec::new();
            escape(end, &mut upper);
            Some(upper)
        }
        KeyRange::From(_) => None,
    };
    (lower, upper)
}

/// Bounds of the Live rows of all keys in `range`; the upper one is absent for "to the end".
#[must_use]
pub fn live_span(range: &KeyRange) -> (&[u8], Option<Vec<u8>>) {
    let upper = match range {
        KeyRange::One(key) => {
            let mut upper = Vec::with_capacity(key.len() + 1);
            upper.extend_from_slice(key);
            upper.push(0);
            Some(upper)
        }
        KeyRange::Between { end, .. } => Some(end.to_vec()),
        KeyRange::From(_) => None,
    };
    (range.start(), upper)
}

#[must_use]
pub fn change(revision: Revision, sub: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&revision.0.to_be_bytes());
    key[8..].copy_from_slice(&sub.to_be_bytes());
    key
}

/// The revision and the sub-number of a Changes key.
pub fn read_change(row_key: &[u8]) -> Result<(Revision, u32), Error> {
    let parsed =
        (row_key.len() == 12).then(|| u64_at(row_key, 0).zip(u32_at(row_key, 8))).flatten();
    let (revision, sub) =
        parsed.ok_or_else(|| Error::Damaged(format!("key of a change: {row_key:02x?}")))?;
    Ok((Revision(revision), sub))
}

#[must_use]
pub fn lease(id: LeaseId) -> [u8; 8] {
    // With the sign flipped, the order of bytes is the order of ids.
    (id.0 ^ i64::MIN).to_be_bytes()
}

pub fn read_lease(row_key: &[u8]) -> Result<LeaseId, Error> {
    let id = (row_key.len() == 8).then(|| u64_at(row_key, 0)).flatten();
    let id = id.ok_or_else(|| Error::Damaged(format!("key of a lease: {row_key:02x?}")))?;
    Ok(LeaseId(id.cast_signed() ^ i64::MIN))
}

/// The user key in a LeaseKeys key.
pub fn read_lease_key(row_key: &[u8]) -> Result<&[u8], Error> {
    row_key
        .get(8..)
        .ok_or_else(|| Error::Damaged(format!("key attached to a lease: {row_key:02x?}")))
}

/// Bounds of the LeaseKeys rows of one lease.
#[must_use]
pub fn lease_keys_span(id: LeaseId) -> ([u8; 8], Option<[u8; 8]>) {
    let lower = lease(id);
    let upper = id.0.checked_add(1).map(|next| lease(LeaseId(next)));
    (lower, upper)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn past_key(key: &[u8], modified: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        past(key, Revision(modified), &mut bytes);
        bytes
    }

    #[test]
    fn keys_at_rest_are_these_bytes() {
        assert_eq!(
            past_key(b"a\0b", 2),
            [b'a', 0x00, 0xff, b'b', 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfd]
        );
        assert_eq!(change(Revision(0x0102), 3), [0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 3]);
        assert_eq!(lease(LeaseId(1)), [0x80, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(lease(LeaseId(-1)), [0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!((FORMAT, STATE), (b"format".as_slice(), b"state".as_slice()));
    }

    #[test]
    fn a_key_that_is_cut_or_not_escaped_is_damage() {
        let whole = past_key(b"a\0b", 9);
        for end in 0..PAST_SUFFIX_BYTES {
            assert!(read_past(&whole[..end], &mut Vec::new()).is_err(), "{end} bytes");
        }
        let mut bare_zero = vec![b'a', 0x00, b'b'];
        bare_zero.extend_from_slice(&whole[whole.len() - PAST_SUFFIX_BYTES..]);
        assert!(read_past(&bare_zero, &mut Vec::new()).is_err());
        assert!(read_change(&[0; 11]).is_err());
        assert!(read_change(&[0; 13]).is_err());
        assert!(read_lease(&[0; 9]).is_err());
        assert!(read_lease_key(&[0; 7]).is_err());
    }

    #[test]
    fn the_last_lease_id_has_an_open_span() {
        assert_eq!(lease_keys_span(LeaseId(i64::MAX)).1, None);
    }

    /// Keys that are often prefixes of each other and full of the bytes that escaping is about.
    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::sample::select(vec![0x00, 0x01, b'a', 0xfe, 0xff]), 0..6)
    }

    fn within(row: &[u8], span: &(Vec<u8>, Option<Vec<u8>>)) -> bool {
        span.0.as_slice() <= row && span.1.as_deref().is_none_or(|upper| row < upper)
    }

    proptest! {
        #[test]
        fn past_keys_sort_by_user_key_and_then_newest_first(
            a in key(), b in key(), x in any::<u64>(), y in any::<u64>(),
        ) {
            let wanted = a.cmp(&b).then(y.cmp(&x));
            prop_assert_eq!(past_key(&a, x).cmp(&past_key(&b, y)), wanted);
        }

        #[test]
        fn past_keys_read_back(key in key(), modified in any::<u64>()) {
            let mut back = Vec::new();
            let revision = read_past(&past_key(&key, modified), &mut back).expect("well formed");
            prop_assert_eq!((back, revision), (key, Revision(modified)));
        }

        #[test]
        fn any_bytes_read_as_a_past_key_or_as_damage(
            bytes in prop::collection::vec(any::<u8>(), 0..24),
        ) {
            let mut key = Vec::new();
            if let Ok(modified) = read_past(&bytes, &mut key) {
                prop_assert_eq!(past_key(&key, modified.0), bytes);
            }
        }

        #[test]
        fn spans_hold_exactly_the_rows_of_their_range(
            a in key(), b in key(), probe in key(), modified in any::<u64>(),
        ) {
            let (start, end) = (bytes::Bytes::from(a), bytes::Bytes::from(b));
            for range in [
                KeyRange::One(start.clone()),
                KeyRange::Between { start: start.clone(), end },
                KeyRange::From(start),
            ] {
                let row = past_key(&probe, modified);
                prop_assert_eq!(within(&row, &past_span(&range)), range.contains(&probe));
                let (lower, upper) = live_span(&range);
                prop_assert_eq!(within(&probe, &(lower.to_vec(), upper)), range.contains(&probe));
            }
        }

        #[test]
        fn leases_sort_by_id(a in any::<i64>(), b in any::<i64>()) {
            prop_assert_eq!(lease(LeaseId(a)).cmp(&lease(LeaseId(b))), a.cmp(&b));
            prop_assert_eq!(read_lease(&lease(LeaseId(a))).expect("eight bytes"), LeaseId(a));
        }
    }
}
