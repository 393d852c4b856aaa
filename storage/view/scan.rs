//! Walks the keys of a range as they were at one point in history, in key order.
//!
//! The version of a key that is visible at a revision R is the one with `modified <= R` that was not yet
//! superseded at R. The spans of a key's versions do not overlap, so at most one row of the two tables
//! fits, and a walk at R is two filtered walks, Live and Past, merged by key. The newest state needs Live
//! alone.
//!
//! Never: copies what the visitor does not want.

use std::ops::ControlFlow;

use crate::engine::{Cursor, Read, Span, Table};
use crate::error::Error;
use crate::keys;
use crate::request::KeyRange;
use crate::revision::Revision;
use crate::row::{self, Head};

/// Rows of one key that are stepped over before the rest of them is skipped by a seek, which costs about
/// as much as this many steps.
const STEPS_MAX: usize = 8;

/// The point in history that is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// What is there now, whatever its revision.
    Newest,
    Revision(Revision),
}

/// Calls `visit` with key, head and value of each visible version, until it says to stop.
pub(crate) fn scan(
    read: &dyn Read,
    range: &KeyRange,
    at: At,
    visit: impl FnMut(&[u8], Head, &[u8]) -> ControlFlow<()>,
) -> Result<(), Error> {
    if let KeyRange::Between { start, end } = range
        && end <= start
    {
        return Ok(());
    }
    match (range, at) {
        (KeyRange::One(key), _) => one(read, key, at, visit),
        (_, At::Newest) => newest(read, range, visit),
        (_, At::Revision(revision)) => merged(read, range, revision, visit),
    }
}

fn one(
    read: &dyn Read,
    key: &[u8],
    at: At,
    mut visit: impl FnMut(&[u8], Head, &[u8]) -> ControlFlow<()>,
) -> Result<(), Error> {
    if let Some(row) = read.get(Table::Live, key)? {
        let (head, value) = row::read_live(&row)?;
        if at == At::Newest || matches!(at, At::Revision(revision) if head.modified <= revision) {
            let _ = visit(key, head, value);
            return Ok(());
        }
    }
    let At::Revision(revision) = at else {
        return Ok(());
    };
    let mut lower = Vec::new();
    keys::past(key, revision, &mut lower);
    let mut upper = Vec::new();
    keys::after_past(key, &mut upper);
    let mut cursor = read.cursor(Table::Past, Span { lower: &lower, upper: Some(&upper) })?;
    if let Some((_, row)) = cursor.next()? {
        let (head, superseded, value) = row::read_past(row)?;
        if superseded > revision {
            let _ = visit(key, head, value);
        }
    }
    Ok(())
}

fn newest(
    read: &dyn Read,
    range: &KeyRange,
    mut visit: impl FnMut(&[u8], Head, &[u8]) -> ControlFlow<()>,
) -> Result<(), Error> {
    let (lower, upper) = keys::live_span(range);
    let mut live = read.cursor(Table::Live, Span { lower, upper: upper.as_deref() })?;
    while let Some((key, row)) = live.next()? {
        let (head, value) = row::read_live(row)?;
        if visit(key, head, value).is_break() {
            break;
        }
    }
    Ok(())
}

fn merged(
    read: &dyn Read,
    range: &KeyRange,
    revision: Revision,
    mut visit: impl FnMut(&[u8], Head, &[u8]) -> ControlFlow<()>,
) -> Result<(), Error> {
    let (lower, upper) = keys::live_span(range);
    let mut live = read.cursor(Table::Live, Span { lower, upper: upper.as_deref() })?;
    let (past_lower, past_upper) = keys::past_span(range);
    let past_span = Span { lower: &past_lower, upper: past_upper.as_deref() };
    let mut past = PastAt::new(read.cursor(Table::Past, past_span)?, revision);
    past.advance()?;
    while let Some((key, row)) = live.next()? {
        let (head, value) = row::read_live(row)?;
        if head.modified > revision {
            continue;
        }
        while past.found.is_some_and(|_| past.key.as_slice() < key) {
            if past.visit(&mut visit).is_break() {
                return Ok(());
            }
            past.advance()?;
        }
        if visit(key, head, value).is_break() {
            return Ok(());
        }
    }
    while past.found.is_some() {
        if past.visit(&mut visit).is_break() {
            return Ok(());
        }
        past.advance()?;
    }
    Ok(())
}

/// The Past rows that are visible at one revision. The row it stands on is copied, so that another cursor
/// can be stepped meanwhile.
struct PastAt<'r> {
    cursor: Box<dyn Cursor + 'r>,
    revision: Revision,
    key: Vec<u8>,
    value: Vec<u8>,
    /// The head of the visible version of `key`; `None` at the end.
    found: Option<Head>,
}

impl<'r> PastAt<'r> {
    fn new(cursor: Box<dyn Cursor + 'r>, revision: Revision) -> PastAt<'r> {
        PastAt { cursor, revision, key: Vec::new(), value: Vec::new(), found: None }
    }

    fn visit(
        &self,
        visit: &mut impl FnMut(&[u8], Head, &[u8]) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        self.found.map_or(ControlFlow::Continue(()), |head| visit(&self.key, head, &self.value))
    }

    fn advance(&mut self) -> Result<(), Error> {
        self.found = None;
        let mut steps = 0;
        let mut target = None;
        // The key whose rows are being stepped over, as it stands in the row keys.
        let mut escaped: Vec<u8> = Vec::new();
        loop {
            let row = match target.take() {
                Some(target) => self.cursor.seek(Vec::as_slice(&target))?,
                None => self.cursor.next()?,
            };
            let Some((row_key, row)) = row else {
                return Ok(());
            };
            let (head, superseded, value) = row::read_past(row)?;
            if head.modified <= self.revision && self.revision < superseded {
                self.key.clear();
                let modified = keys::read_past(row_key, &mut self.key)?;
                if modified != head.modified {
                    return Err(Error::Damaged(format!(
                        "a past version of {:02x?} stands at revision {modified} and says {}",
                        self.key, head.modified
                    )));
                }
                self.value.clear();
                self.value.extend_from_slice(value);
                self.found = Some(head);
                return Ok(());
            }
            let prefix = keys::past_prefix(row_key)?;
            if prefix == escaped.as_slice() {
                steps += 1;
            } else {
                steps = 0;
                escaped.clear();
                escaped.extend_from_slice(prefix);
            }
            if steps >= STEPS_MAX {
                steps = 0;
                // Newer than wanted: on to the first that is old enough. Otherwise the key was not there
                // at the revision, and all its older versions are of no interest.
                let mut key = Vec::new();
                keys::read_past(row_key, &mut key)?;
                let mut next = Vec::new();
                if head.modified > self.revision {
                    keys::past(&key, self.revision, &mut next);
                } else {
                    keys::after_past(&key, &mut next);
                }
                target = Some(next);
            }
        }
    }
}
