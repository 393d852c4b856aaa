//! What stands under the keys of every table, byte for byte. The keys are in [`crate::keys`].
//!
//! Keeps: reading what was written gives it back; anything else is [`Error::Damaged`], never a panic.
//! Values are read as slices of the bytes the engine handed out, without a copy. All numbers are big
//! endian. These bytes are on disk for ever: the tests at the foot pin them.
//!
//! ```text
//! Live       01 · created (8) · modified (8) · version (8) · lease (8) · value
//! Past       01 · created (8) · modified (8) · version (8) · lease (8) · superseded at (8) · value
//! Changes    kind (01 put, 02 delete) · previous modified (8, or 0) · user key
//! Leases     01 · ttl in s (8) · 00 | 01 · remaining in ms (8)
//! LeaseKeys  nothing
//! Meta       "format": 4 bytes; "state": 01 · next index (8) · revision (8) · compacted (8) ·
//!            digest (16) · mark
//! ```

use bytes::Bytes;

use crate::error::Error;
use crate::keys::{u32_at, u64_at};
use crate::lease::Lease;
use crate::record::{EventKind, KeyValue, LeaseId};
use crate::revision::{Index, Revision};

/// The layout this program writes. A store of a larger number is refused.
pub const FORMAT: u32 = 1;

/// The first byte of rows that may get a second form one day.
const FORM: u8 = 1;

/// Bytes before the value in a Live row, and in a Past row.
pub const LIVE_HEAD_BYTES: usize = 33;
pub const PAST_HEAD_BYTES: usize = LIVE_HEAD_BYTES + 8;

/// All of a version but its key and value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    pub created: Revision,
    pub modified: Revision,
    pub version: u64,
    pub lease: LeaseId,
}

impl Head {
    #[must_use]
    pub fn of(kv: &KeyValue) -> Head {
        Head { created: kv.created, modified: kv.modified, version: kv.version, lease: kv.lease }
    }

    #[must_use]
    pub fn with(self, key: Bytes, value: Bytes) -> KeyValue {
        let Head { created, modified, version, lease } = self;
        KeyValue { key, value, created, modified, version, lease }
    }

    /// What stands before the value in a Live row.
    #[must_use]
    pub fn live(self) -> [u8; LIVE_HEAD_BYTES] {
        let mut bytes = [0; LIVE_HEAD_BYTES];
        bytes[0] = FORM;
        bytes[1..9].copy_from_slice(&self.created.0.to_be_bytes());
        bytes[9..17].copy_from_slice(&self.modified.0.to_be_bytes());
        bytes[17..25].copy_from_slice(&self.version.to_be_bytes());
        bytes[25..33].copy_from_slice(&self.lease.0.to_be_bytes());
        bytes
    }

    /// What stands before the value in a Past row.
    #[must_use]
    pub fn past(self, superseded: Revision) -> [u8; PAST_HEAD_BYTES] {
        let mut bytes = [0; PAST_HEAD_BYTES];
        bytes[..LIVE_HEAD_BYTES].copy_from_slice(&self.live());
        bytes[LIVE_HEAD_BYTES..].copy_from_slice(&superseded.0.to_be_bytes());
        bytes
    }
}

/// The head and the value of a Live row.
pub fn read_live(row: &[u8]) -> Result<(Head, &[u8]), Error> {
    let (head, value) = row
        .split_first_chunk::<LIVE_HEAD_BYTES>()
        .ok_or_else(|| damaged("the newest version of a key", row))?;
    if head[0] != FORM {
        return Err(damaged("the newest version of a key", row));
    }
    let number = |at: usize| u64_at(head, at).expect("the head is long enough for all its numbers");
    let head = Head {
        created: Revision(number(1)),
        modified: Revision(number(9)),
        version: number(17),
        lease: LeaseId(number(25).cast_signed()),
    };
    Ok((head, value))
}

/// A Live row as a version of `key`; the value shares `row`.
pub fn read_live_shared(key: Bytes, row: &Bytes) -> Result<KeyValue, Error> {
    let (head, _) = read_live(row)?;
    Ok(head.with(key, row.slice(LIVE_HEAD_BYTES..)))
}

/// The head, the revision at which it was superseded, and the value of a Past row.
pub fn read_past(row: &[u8]) -> Result<(Head, Revision, &[u8]), Error> {
    let (head, rest) = read_live(row)?;
    let (superseded, value) =
        rest.split_first_chunk::<8>().ok_or_else(|| damaged("a past version", row))?;
    Ok((head, Revision(u64::from_be_bytes(*superseded)), value))
}

/// A Past row as a version of `key`, with the revision at which it was superseded.
pub fn read_past_shared(key: Bytes, row: &Bytes) -> Result<(KeyValue, Revision), Error> {
    let (head, superseded, _) = read_past(row)?;
    Ok((head.with(key, row.slice(PAST_HEAD_BYTES..)), superseded))
}

/// When the version in a Past row was superseded; `None` where the row is not understood.
#[must_use]
pub fn superseded(row: &[u8]) -> Option<Revision> {
    (row.first() == Some(&FORM)).then(|| u64_at(row, LIVE_HEAD_BYTES).map(Revision)).flatten()
}

/// What stands before the user key in a Changes row.
#[must_use]
pub fn change(kind: EventKind, previous: Revision) -> [u8; 9] {
    let mut bytes = [0; 9];
    bytes[0] = kind_byte(kind);
    bytes[1..].copy_from_slice(&previous.0.to_be_bytes());
    bytes
}

/// The kind, the revision of the version before (zero for none) and the key of a Changes row.
pub fn read_change(row: &[u8]) -> Result<(EventKind, Revision, &[u8]), Error> {
    let (head, key) = row.split_first_chunk::<9>().ok_or_else(|| damaged("a change", row))?;
    let kind = match head[0] {
        1 => EventKind::Put,
        2 => EventKind::Delete,
        _ => return Err(damaged("a change", row)),
    };
    let previous = u64_at(head, 1).ok_or_else(|| damaged("a change", row))?;
    Ok((kind, Revision(previous), key))
}

/// The kind of a change as one byte, here and in the digest.
#[must_use]
pub fn kind_byte(kind: EventKind) -> u8 {
    match kind {
        EventKind::Put => 1,
        EventKind::Delete => 2,
    }
}

#[must_use]
pub fn lease(lease: &Lease) -> Vec<u8> {
    let mut bytes = vec![FORM];
    bytes.extend_from_slice(&lease.ttl_s.to_be_bytes());
    match lease.remaining_ms {
        None => bytes.push(0),
        Some(remaining) => {
            bytes.push(1);
            bytes.extend_from_slice(&remaining.to_be_bytes());
        }
    }
    bytes
}

pub fn read_lease(id: LeaseId, row: &[u8]) -> Result<Lease, Error> {
    let parse = || {
        let ttl_s = u64_at(row, 1)?.cast_signed();
        let remaining_ms = match (row.first()?, row.get(9)?, row.len()) {
            (&FORM, 0, 10) => None,
            (&FORM, 1, 18) => Some(u64_at(row, 10)?),
            _ => return None,
        };
        Some(Lease { id, ttl_s, remaining_ms })
    };
    parse().ok_or_else(|| damaged("a lease", row))
}

/// How far a store is. One row of Meta, written with every batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The newest applied entry; `None` before the first.
    pub applied: Option<Index>,
    /// What consensus wanted kept with the newest applied entry.
    pub mark: Bytes,
    pub revision: Revision,
    /// The oldest revision that can be read; zero where nothing was compacted.
    pub compacted: Revision,
    /// The digest over all changes up to `revision`.
    pub digest: u128,
}

impl State {
    /// The state of a store to which nothing was ever written.
    pub const EMPTY: State = State {
        applied: None,
        mark: Bytes::new(),
        revision: Revision::EMPTY,
        compacted: Revision::ZERO,
        digest: 0,
    };

    /// What stands before the mark in the row.
    #[must_use]
    pub fn head(&self) -> [u8; 41] {
        let mut bytes = [0; 41];
        bytes[0] = FORM;
        let next = self.applied.map_or(0, |index| index.next().0);
        bytes[1..9].copy_from_slice(&next.to_be_bytes());
        bytes[9..17].copy_from_slice(&self.revision.0.to_be_bytes());
        bytes[17..25].copy_from_slice(&self.compacted.0.to_be_bytes());
        bytes[25..41].copy_from_slice(&self.digest.to_be_bytes());
        bytes
    }

    pub fn read(row: &Bytes) -> Result<State, Error> {
        let (head, _) =
            row.split_first_chunk::<41>().ok_or_else(|| damaged("the state of the store", row))?;
        let number = |at: usize| u64_at(head, at).expect("the head is long enough");
        let digest = u128::from(number(25)) << 64 | u128::from(number(33));
        let state = State {
            applied: number(1).checked_sub(1).map(Index),
            mark: row.slice(41..),
            revision: Revision(number(9)),
            compacted: Revision(number(17)),
            digest,
        };
        let possible = head[0] == FORM
            && state.revision >= Revision::EMPTY
            && state.compacted <= state.revision;
        if possible { Ok(state) } else { Err(damaged("the state of the store", row)) }
    }
}

pub fn read_format(row: &[u8]) -> Result<u32, Error> {
    let format = (row.len() == 4).then(|| u32_at(row, 0)).flatten();
    format.ok_or_else(|| damaged("the number of the layout", row))
}

fn damaged(what: &str, row: &[u8]) -> Error {
    let head = &row[..row.len().min(48)];
    Error::Damaged(format!("{what} is no such row: {} bytes, first {head:02x?}", row.len()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEAD: Head =
        Head { created: Revision(2), modified: Revision(0x0304), version: 5, lease: LeaseId(-2) };

    const LIVE: [u8; 33] = [
        1, // form
        0, 0, 0, 0, 0, 0, 0, 2, // created
        0, 0, 0, 0, 0, 0, 3, 4, // modified
        0, 0, 0, 0, 0, 0, 0, 5, // version
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe, // lease
    ];

    #[test]
    fn rows_at_rest_are_these_bytes() {
        assert_eq!(HEAD.live(), LIVE);
        assert_eq!(HEAD.past(Revision(9))[..33], LIVE);
        assert_eq!(HEAD.past(Revision(9))[33..], [0, 0, 0, 0, 0, 0, 0, 9]);
        assert_eq!(change(EventKind::Put, Revision(7)), [1, 0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(change(EventKind::Delete, Revision::ZERO), [2, 0, 0, 0, 0, 0, 0, 0, 0]);
        let fresh = Lease { id: LeaseId(1), ttl_s: 60, remaining_ms: None };
        assert_eq!(lease(&fresh), [1, 0, 0, 0, 0, 0, 0, 0, 60, 0]);
        let aged = Lease { remaining_ms: Some(258), ..fresh };
        assert_eq!(lease(&aged), [1, 0, 0, 0, 0, 0, 0, 0, 60, 1, 0, 0, 0, 0, 0, 0, 1, 2]);
        let state = State {
            applied: Some(Index(8)),
            mark: Bytes::from_static(b"mark"),
            revision: Revision(0x10),
            compacted: Revision(0x0f),
            digest: 0x0102,
        };
        let wanted = [
            1, // form
            0, 0, 0, 0, 0, 0, 0, 9, // next index
            0, 0, 0, 0, 0, 0, 0, 0x10, // revision
            0, 0, 0, 0, 0, 0, 0, 0x0f, // compacted
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, // digest
        ];
        assert_eq!(state.head(), wanted);
        let row = [wanted.as_slice(), b"mark"].concat().into();
        assert_eq!(State::read(&row).expect("well formed"), state);
    }

    #[test]
    fn values_share_the_row_they_are_read_from() {
        let row = Bytes::from([LIVE.as_slice(), b"value"].concat());
        let kv = read_live_shared(Bytes::from_static(b"k"), &row).expect("well formed");
        assert_eq!(kv.value, b"value".as_slice());
        assert_eq!(kv.value.as_ptr(), row[33..].as_ptr());
        assert_eq!(Head::of(&kv), HEAD);
    }

    #[test]
    fn a_store_cannot_be_compacted_beyond_its_revision() {
        let state = State { revision: Revision(4), compacted: Revision(5), ..State::EMPTY };
        assert!(State::read(&Bytes::copy_from_slice(&state.head())).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_read_as_a_row_or_as_damage(
            bytes in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut bytes = bytes;
            for form in [None, Some(1u8), Some(2)] {
                if let (Some(form), Some(first)) = (form, bytes.first_mut()) {
                    *first = form;
                }
                let shared = Bytes::copy_from_slice(&bytes);
                if let Ok((head, value)) = read_live(&bytes) {
                    prop_assert_eq!([head.live().as_slice(), value].concat(), bytes.clone());
                }
                if let Ok((head, at, value)) = read_past(&bytes) {
                    prop_assert_eq!([head.past(at).as_slice(), value].concat(), bytes.clone());
                    prop_assert_eq!(superseded(&bytes), Some(at));
                }
                if let Ok((kind, previous, key)) = read_change(&bytes) {
                    let written = [change(kind, previous).as_slice(), key].concat();
                    prop_assert_eq!(written, bytes.clone());
                }
                if let Ok(read) = read_lease(LeaseId(1), &bytes) {
                    prop_assert_eq!(lease(&read), bytes.clone());
                }
                if let Ok(state) = State::read(&shared) {
                    prop_assert_eq!([state.head().as_slice(), &state.mark].concat(), bytes.clone());
                }
            }
        }
    }
}
