//! History as events: what changed in a span of revisions, read back from the tables.
//!
//! A row of Changes says which key changed; the version itself is found in Live or in Past.
//!
//! Keeps: whole revisions only, in order, whatever the budget; the same events whether the background has
//! got round to dropping rows or not.

use std::sync::Arc;

use bytes::Bytes;

use super::Moment;
use crate::engine::{Read, Span, Table};
use crate::error::Error;
use crate::keys;
use crate::record::{Event, EventKind, KeyValue};
use crate::request::KeyRange;
use crate::revision::Revision;
use crate::row;
use crate::watch::Commit;

/// What looking at a change costs of the budget, besides the bytes it brings.
const LOOK_BYTES: usize = 32;

/// Events of `range` from `from` to `to`, both included, and the revision up to which they are complete.
pub(super) fn events(
    read: &dyn Read,
    moment: Moment,
    range: &KeyRange,
    from: Revision,
    to: Revision,
    budget_bytes: usize,
) -> Result<(Vec<Commit>, Revision), Error> {
    if from < moment.compacted {
        return Err(Error::Compacted { asked: from, oldest: moment.compacted });
    }
    let to = to.min(moment.revision);
    let mut commits = Vec::new();
    if from > to {
        return Ok((commits, to));
    }
    let (lower, upper) = (keys::change(from, 0), keys::change(to.next(), 0));
    let span = Span { lower: &lower, upper: Some(&upper) };
    let mut cursor = read.cursor(Table::Changes, span)?;
    let mut open = Revision::ZERO;
    let mut events: Vec<Arc<Event>> = Vec::new();
    let mut spent = 0;
    let close = |revision, events: &mut Vec<Arc<Event>>, commits: &mut Vec<Commit>| {
        if !events.is_empty() {
            commits.push(Commit { revision, events: events.drain(..).collect() });
        }
    };
    while let Some((row_key, change)) = cursor.next()? {
        let (revision, _) = keys::read_change(row_key)?;
        if revision != open {
            close(open, &mut events, &mut commits);
            if open != Revision::ZERO && spent >= budget_bytes {
                return Ok((commits, revision.previous()));
            }
            open = revision;
        }
        let (kind, previous, key) = row::read_change(change)?;
        spent += LOOK_BYTES + row_key.len() + change.len();
        if !range.contains(key) {
            continue;
        }
        let change = Change { revision, kind, previous, key: Bytes::copy_from_slice(key) };
        if let Some(event) = change.event(read, moment.compacted)? {
            spent += event.weight();
            events.push(Arc::new(event));
        }
    }
    close(open, &mut events, &mut commits);
    Ok((commits, to))
}

struct Change {
    revision: Revision,
    kind: EventKind,
    previous: Revision,
    key: Bytes,
}

impl Change {
    /// `None` where the version was superseded at the compacted revision itself, by a later change of its
    /// own transaction: there it is forgotten, and only the later change is told.
    fn event(self, read: &dyn Read, compacted: Revision) -> Result<Option<Event>, Error> {
        let kv = match self.kind {
            EventKind::Delete => {
                KeyValue { key: self.key.clone(), modified: self.revision, ..KeyValue::default() }
            }
            EventKind::Put => match self.put(read, compacted)? {
                Some(kv) => kv,
                None => return Ok(None),
            },
        };
        // What was there before is what a read one revision earlier would find, if it were allowed.
        let previous = if self.previous == Revision::ZERO || self.revision <= compacted {
            None
        } else {
            let (kv, _) =
                past(read, &self.key, self.previous)?.ok_or_else(|| self.missing(self.previous))?;
            Some(kv)
        };
        Ok(Some(Event::new(self.kind, kv, previous)))
    }

    fn put(&self, read: &dyn Read, compacted: Revision) -> Result<Option<KeyValue>, Error> {
        if let Some(row) = read.get(Table::Live, &self.key)? {
            let kv = row::read_live_shared(self.key.clone(), &row)?;
            if kv.modified == self.revision {
                return Ok(Some(kv));
            }
        }
        match past(read, &self.key, self.revision)? {
            Some((kv, superseded)) if superseded > compacted => Ok(Some(kv)),
            None if self.revision > compacted => Err(self.missing(self.revision)),
            Some(_) | None => Ok(None),
        }
    }

    fn missing(&self, modified: Revision) -> Error {
        Error::Damaged(format!(
            "the change of {:02x?} at revision {} has no version of revision {modified}",
            self.key, self.revision
        ))
    }
}

fn past(
    read: &dyn Read,
    key: &Bytes,
    modified: Revision,
) -> Result<Option<(KeyValue, Revision)>, Error> {
    let mut row_key = Vec::with_capacity(key.len() + 16);
    keys::past(key, modified, &mut row_key);
    let row = read.get(Table::Past, &row_key)?;
    row.map(|row| row::read_past_shared(key.clone(), &row)).transpose()
}
