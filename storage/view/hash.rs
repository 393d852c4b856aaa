//! One number for all that a reader of a stretch of history can see, to be compared between members.
//!
//! It covers every version that is visible at any revision from the compacted one to the one asked for,
//! with the revision at which it ended if that lies within. So it is the same on a member that has gone
//! further since, and on one that has dropped more or fewer rows in the background.

use xxhash_rust::xxh3::Xxh3Default;

use crate::engine::{Cursor, Read, Span, Table};
use crate::error::Error;
use crate::keys;
use crate::revision::Revision;
use crate::row::{self, Head};

/// A hash with the span of history it is about. Only hashes of the same span can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashAt {
    pub hash: u64,
    pub compacted: Revision,
    pub revision: Revision,
}

const ALL: Span<'static> = Span { lower: b"", upper: None };

pub(super) fn hash(
    read: &dyn Read,
    compacted: Revision,
    revision: Revision,
) -> Result<HashAt, Error> {
    let mut hasher = VersionHasher { compacted, revision, hasher: Xxh3Default::new() };
    let mut live = read.cursor(Table::Live, ALL)?;
    let mut past = PastRow::new(read.cursor(Table::Past, ALL)?);
    past.advance()?;
    // By key, and the versions of a key from the newest on, whichever table they are in by now.
    while let Some((key, row)) = live.next()? {
        while past.present && past.key.as_slice() < key {
            hasher.past(&past);
            past.advance()?;
        }
        let (head, value) = row::read_live(row)?;
        hasher.version(key, head, None, value);
    }
    while past.present {
        hasher.past(&past);
        past.advance()?;
    }
    Ok(HashAt { hash: hasher.hasher.digest(), compacted, revision })
}

struct VersionHasher {
    compacted: Revision,
    revision: Revision,
    hasher: Xxh3Default,
}

impl VersionHasher {
    fn past(&mut self, past: &PastRow<'_>) {
        self.version(&past.key, past.head, Some(past.superseded), &past.value);
    }

    fn version(&mut self, key: &[u8], head: Head, superseded: Option<Revision>, value: &[u8]) {
        let forgotten = superseded.is_some_and(|at| at <= self.compacted);
        if head.modified > self.revision || forgotten {
            return;
        }
        // What ended it later than the revision asked for is not known there yet.
        let ended = superseded.filter(|at| *at <= self.revision).unwrap_or_default();
        self.hasher.update(&head.past(ended));
        self.hasher.update(&(key.len() as u64).to_be_bytes());
        self.hasher.update(&(value.len() as u64).to_be_bytes());
        self.hasher.update(key);
        self.hasher.update(value);
    }
}

struct PastRow<'r> {
    cursor: Box<dyn Cursor + 'r>,
    present: bool,
    key: Vec<u8>,
    head: Head,
    superseded: Revision,
    value: Vec<u8>,
}

impl<'r> PastRow<'r> {
    fn new(cursor: Box<dyn Cursor + 'r>) -> PastRow<'r> {
        PastRow {
            cursor,
            present: false,
            key: Vec::new(),
            head: Head::default(),
            superseded: Revision::ZERO,
            value: Vec::new(),
        }
    }

    fn advance(&mut self) -> Result<(), Error> {
        self.present = false;
        if let Some((row_key, row)) = self.cursor.next()? {
            self.key.clear();
            keys::read_past(row_key, &mut self.key)?;
            let (head, superseded, value) = row::read_past(row)?;
            (self.head, self.superseded) = (head, superseded);
            self.value.clear();
            self.value.extend_from_slice(value);
            self.present = true;
        }
        Ok(())
    }
}
