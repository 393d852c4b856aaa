//! What the commands of a group have changed so far, laid over what the engine holds.
//!
//! The rows themselves are in the group's batch already; this is how later commands of the group find
//! them. Keys that were only looked at are remembered too, because whoever compares a key mostly goes on
//! to write it.
//!
//! Keeps: reading through [`Overlay`] is reading the engine as it will be once the batch is written, for
//! the tables that `apply` reads: Live, Past, Leases and LeaseKeys.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::engine::{Cursor, KeyAndValue, Read, Span, Table};
use crate::error::Error;
use crate::keys;
use crate::lease::Lease;
use crate::record::{Event, EventKind, KeyValue, LeaseId};
use crate::revision::Revision;
use crate::row::{self, Head};

/// What is known of a key's newest version.
#[derive(Clone, Debug)]
pub(super) enum Slot {
    /// As the engine has it.
    Read(Option<KeyValue>),
    /// As the newest change of the group left it.
    Changed(Arc<Event>),
}

impl Slot {
    /// The version that is there now.
    pub(super) fn now(&self) -> Option<&KeyValue> {
        match self {
            Slot::Read(kv) => kv.as_ref(),
            Slot::Changed(event) => (event.kind == EventKind::Put).then_some(&event.kv),
        }
    }

    /// The version that was there before `revision` began, when that is the revision being made.
    pub(super) fn before(&self, revision: Revision) -> Option<&KeyValue> {
        match self {
            Slot::Changed(event) if event.kv.modified == revision => event.previous.as_ref(),
            Slot::Read(_) | Slot::Changed(_) => self.now(),
        }
    }
}

#[derive(Default)]
pub(super) struct Pending {
    live: BTreeMap<Bytes, Slot>,
    /// Every change of the group, in order: what it superseded is in Past.
    changes: Vec<Arc<Event>>,
    leases: BTreeMap<LeaseId, Option<Lease>>,
    /// LeaseKeys rows that were added (true) or removed.
    attached: BTreeMap<Bytes, bool>,
}

impl Pending {
    /// The newest version of a key, read from `base` the first time.
    pub(super) fn slot(&mut self, base: &dyn Read, key: &Bytes) -> Result<Slot, Error> {
        if let Some(slot) = self.live.get(key) {
            return Ok(slot.clone());
        }
        let row = base.get(Table::Live, key)?;
        let kv = row.map(|row| row::read_live_shared(key.clone(), &row)).transpose()?;
        let slot = Slot::Read(kv);
        self.live.insert(key.clone(), slot.clone());
        Ok(slot)
    }

    /// What is known of a key without reading.
    pub(super) fn known(&self, key: &[u8]) -> Option<&Slot> {
        self.live.get(key)
    }

    pub(super) fn changed(&mut self, event: &Arc<Event>) {
        self.live.insert(event.kv.key.clone(), Slot::Changed(Arc::clone(event)));
        self.changes.push(Arc::clone(event));
    }

    pub(super) fn lease(&mut self, base: &dyn Read, id: LeaseId) -> Result<Option<Lease>, Error> {
        if let Some(lease) = self.leases.get(&id) {
            return Ok(*lease);
        }
        let row = base.get(Table::Leases, &keys::lease(id))?;
        let lease = row.map(|row| row::read_lease(id, &row)).transpose()?;
        self.leases.insert(id, lease);
        Ok(lease)
    }

    pub(super) fn set_lease(&mut self, id: LeaseId, lease: Option<Lease>) {
        self.leases.insert(id, lease);
    }

    pub(super) fn set_attached(&mut self, id: LeaseId, key: &[u8], attached: bool) {
        let row_key = [keys::lease(id).as_slice(), key].concat();
        self.attached.insert(row_key.into(), attached);
    }

    /// The rows of `table` in `span` that differ from the engine's, by key; `None` for those that are gone.
    fn rows(&self, table: Table, span: Span<'_>) -> Vec<(Bytes, Option<Bytes>)> {
        match table {
            Table::Live => {
                let slots = self.live.range::<[u8], _>(bounds(span));
                let changed = slots.filter(|(_, slot)| matches!(slot, Slot::Changed(_)));
                changed.map(|(key, slot)| (key.clone(), slot.now().map(live_row))).collect()
            }
            Table::Past => self.past_rows(span),
            Table::LeaseKeys => {
                let rows = self.attached.range::<[u8], _>(bounds(span));
                rows.map(|(key, there)| (key.clone(), there.then(Bytes::new))).collect()
            }
            // Leases are looked up one by one, the others not at all.
            Table::Meta | Table::Changes | Table::Leases | Table::System => Vec::new(),
        }
    }

    /// Only a transaction that reads old history asks for these, so they are put together when asked for.
    /// A version that a change superseded within its own revision is left out: no read can see it.
    fn past_rows(&self, span: Span<'_>) -> Vec<(Bytes, Option<Bytes>)> {
        let mut rows = BTreeMap::new();
        for event in &self.changes {
            let Some(previous) = &event.previous else {
                continue;
            };
            let mut row_key = Vec::new();
            keys::past(&previous.key, previous.modified, &mut row_key);
            if span.lower <= row_key.as_slice()
                && span.upper.is_none_or(|upper| row_key.as_slice() < upper)
            {
                let head = Head::of(previous).past(event.kv.modified);
                let row = Bytes::from([head.as_slice(), &previous.value].concat());
                rows.insert(Bytes::from(row_key), Some(row));
            }
        }
        rows.into_iter().collect()
    }
}

fn live_row(kv: &KeyValue) -> Bytes {
    [Head::of(kv).live().as_slice(), &kv.value].concat().into()
}

fn bounds(span: Span<'_>) -> (Bound<&[u8]>, Bound<&[u8]>) {
    match span.upper {
        // A range over a map must not be upside down; this one is empty instead.
        Some(upper) if upper <= span.lower => {
            (Bound::Included(span.lower), Bound::Excluded(span.lower))
        }
        Some(upper) => (Bound::Included(span.lower), Bound::Excluded(upper)),
        None => (Bound::Included(span.lower), Bound::Unbounded),
    }
}

/// The engine with the group's changes over it.
pub(super) struct Overlay<'o> {
    pub(super) base: &'o dyn Read,
    pub(super) pending: &'o Pending,
}

impl Read for Overlay<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Error> {
        match table {
            Table::Live => match self.pending.live.get(key) {
                Some(slot) => Ok(slot.now().map(live_row)),
                None => self.base.get(table, key),
            },
            Table::Leases => match self.pending.leases.get(&keys::read_lease(key)?) {
                Some(lease) => Ok(lease.map(|lease| row::lease(&lease).into())),
                None => self.base.get(table, key),
            },
            Table::Past | Table::LeaseKeys => {
                let upper = [key, &[0]].concat();
                let span = Span { lower: key, upper: Some(&upper) };
                match self.pending.rows(table, span).pop() {
                    Some((_, row)) => Ok(row),
                    None => self.base.get(table, key),
                }
            }
            Table::Meta | Table::Changes | Table::System => self.base.get(table, key),
        }
    }

    fn cursor<'r>(&'r self, table: Table, span: Span<'r>) -> Result<Box<dyn Cursor + 'r>, Error> {
        let base = self.base.cursor(table, span)?;
        let rows = self.pending.rows(table, span);
        if rows.is_empty() {
            return Ok(base);
        }
        Ok(Box::new(Merged { base, ahead: Ahead::Unknown, rows, at: 0, begun: false }))
    }
}

/// Two sorted runs of rows as one; where both have a key, the group's row wins.
struct Merged<'r> {
    base: Box<dyn Cursor + 'r>,
    /// The engine's next row, copied so that the other run can be looked at.
    ahead: Ahead,
    rows: Vec<(Bytes, Option<Bytes>)>,
    at: usize,
    /// Whether the last row handed out is still to be stepped over.
    begun: bool,
}

enum Ahead {
    Unknown,
    Row(Vec<u8>, Vec<u8>),
    End,
}

impl Merged<'_> {
    fn fill(&mut self) -> Result<(), Error> {
        if matches!(self.ahead, Ahead::Unknown) {
            self.ahead = Ahead::of(self.base.next()?);
        }
        Ok(())
    }

    /// The row both runs stand on, once those that are gone have been passed over.
    fn settle(&mut self) -> Result<Option<KeyAndValue<'_>>, Error> {
        loop {
            self.fill()?;
            let Some((key, row)) = self.rows.get(self.at) else {
                break;
            };
            if let Ahead::Row(ahead, _) = &self.ahead {
                if ahead.as_slice() < key.as_ref() {
                    break;
                }
                if ahead.as_slice() == key.as_ref() {
                    self.ahead = Ahead::Unknown;
                    continue;
                }
            }
            if row.is_some() {
                break;
            }
            self.at += 1;
        }
        self.begun = true;
        Ok(match (&self.ahead, self.rows.get(self.at)) {
            (Ahead::Row(ahead, value), Some((key, _))) if ahead.as_slice() < key.as_ref() => {
                Some((ahead, value))
            }
            (_, Some((key, row))) => row.as_ref().map(|row| (key.as_ref(), row.as_ref())),
            (Ahead::Row(ahead, value), None) => Some((ahead, value)),
            (Ahead::Unknown | Ahead::End, None) => None,
        })
    }

    /// Steps over the row that was handed out last: the smaller of the two.
    fn step(&mut self) {
        match (&self.ahead, self.rows.get(self.at)) {
            (Ahead::Row(ahead, _), Some((key, _))) if ahead.as_slice() < key.as_ref() => {
                self.ahead = Ahead::Unknown;
            }
            (_, Some(_)) => self.at += 1,
            (Ahead::Row(..), None) => self.ahead = Ahead::Unknown,
            (Ahead::Unknown | Ahead::End, None) => {}
        }
    }
}

impl Ahead {
    fn of(row: Option<(&[u8], &[u8])>) -> Ahead {
        row.map_or(Ahead::End, |(key, row)| Ahead::Row(key.to_vec(), row.to_vec()))
    }
}

impl Cursor for Merged<'_> {
    fn next(&mut self) -> Result<Option<KeyAndValue<'_>>, Error> {
        if std::mem::take(&mut self.begun) {
            self.step();
        }
        self.settle()
    }

    fn seek(&mut self, key: &[u8]) -> Result<Option<KeyAndValue<'_>>, Error> {
        self.ahead = Ahead::of(self.base.seek(key)?);
        self.at = self.rows.partition_point(|(row_key, _)| row_key.as_ref() < key);
        self.settle()
    }
}
