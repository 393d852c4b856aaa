//! A read at one moment: whatever is written afterwards, a view stays as it was.
//!
//! Everything is read through one engine snapshot, which all views of a moment share.
//!
//! Keeps: a read of the newest state needs nothing that a compaction drops, so it holds for as long as the
//! view is kept. A read of older history can be overtaken by a compaction whose rows vanish even from
//! under a snapshot; it looks at the floor after reading and answers [`Error::Compacted`] then.
//! Never: shows a revision that is compacted, even while its rows are still there.

mod events;
mod gather;
mod hash;
mod pages;
mod range;
mod scan;

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use crate::apply::transaction;
use crate::compaction::Floor;
use crate::damage::Damage;
use crate::engine::{Read, Span, Table};
use crate::error::Error;
use crate::keys;
use crate::lease::Lease;
use crate::record::{KeyValue, LeaseId};
use crate::request::{KeyRange, Range, RangeAnswer, Transaction, TransactionAnswer};
use crate::revision::{Index, Revision};
use crate::row::{self, State};
use crate::watch::Commit;

pub use hash::HashAt;
pub use pages::Pages;

pub(crate) use gather::Gathered;
pub(crate) use range::{Moment, range};
pub(crate) use scan::{At, scan};

/// One moment of a store. Cheap to clone; it holds an engine snapshot, so drop it soon.
#[derive(Clone)]
pub struct View(Arc<Seen>);

struct Seen {
    read: Arc<dyn Read>,
    state: State,
    floor: Floor,
    damage: Damage,
}

impl View {
    /// `read` must be a snapshot in which `state` is the state of the store.
    pub(crate) fn new(read: Arc<dyn Read>, state: State, floor: Floor, damage: Damage) -> View {
        View(Arc::new(Seen { read, state, floor, damage }))
    }

    #[must_use]
    pub fn revision(&self) -> Revision {
        self.0.state.revision
    }

    /// The oldest revision that can be read; zero where nothing was compacted.
    #[must_use]
    pub fn compacted(&self) -> Revision {
        self.0.state.compacted
    }

    /// The newest entry whose changes are in the view, with what consensus had kept beside it. Index 0 and
    /// no bytes before the first.
    #[must_use]
    pub fn applied(&self) -> (Index, Bytes) {
        (self.0.state.applied.unwrap_or_default(), self.0.state.mark.clone())
    }

    pub fn range(&self, request: &Range) -> Result<RangeAnswer, Error> {
        request.check()?;
        let answer = self.noted(range(self.read(), self.moment(), request));
        self.still_there(self.moment().at(request.revision)?)?;
        answer
    }

    /// The newest version of a key.
    pub fn get(&self, key: &Bytes) -> Result<Option<KeyValue>, Error> {
        let row = self.read().get(Table::Live, key);
        let read = |row: Bytes| row::read_live_shared(key.clone(), &row);
        self.noted(row.and_then(|row| row.map(read).transpose()))
    }

    /// How many keys there are in `range`.
    pub fn count(&self, range: &KeyRange) -> Result<u64, Error> {
        self.count_at(self.read(), range, At::Newest)
    }

    /// The keys of `request` in pieces of bounded size.
    #[must_use]
    pub fn pages(&self, request: Range) -> Pages {
        Pages::new(self.clone(), request)
    }

    /// A transaction that changes nothing ([`Transaction::is_read_only`]).
    ///
    /// # Panics
    /// If it could change something: that belongs in the log.
    pub fn transaction(&self, transaction: &Transaction) -> Result<TransactionAnswer, Error> {
        transaction.check()?;
        self.noted(transaction::read_only(self, transaction))
    }

    /// What changed in `range` from `from` to `to`, both included, in order and in whole revisions, and
    /// the revision up to which that is complete. `budget_bytes` bounds what is looked at; at least one
    /// revision is.
    pub fn events(
        &self,
        from: Revision,
        to: Revision,
        range: &KeyRange,
        budget_bytes: usize,
    ) -> Result<(Vec<Commit>, Revision), Error> {
        let events = events::events(self.read(), self.moment(), range, from, to, budget_bytes);
        let events = self.noted(events);
        self.still_there(At::Revision(from))?;
        events
    }

    /// The hash over all that could be seen from the compacted revision to `revision` (zero for now).
    /// It reads everything, so it takes a while.
    pub fn hash_at(&self, revision: Revision) -> Result<HashAt, Error> {
        let Moment { revision: newest, compacted } = self.moment();
        let revision = if revision == Revision::ZERO { newest } else { revision };
        self.moment().at(revision)?;
        let hash = self.noted(hash::hash(self.read(), compacted, revision));
        self.still_there(At::Revision(compacted))?;
        hash
    }

    pub fn lease(&self, id: LeaseId) -> Result<Option<Lease>, Error> {
        let row = self.read().get(Table::Leases, &keys::lease(id));
        self.noted(row.and_then(|row| row.map(|row| row::read_lease(id, &row)).transpose()))
    }

    /// All leases, by id.
    pub fn leases(&self) -> Result<Vec<Lease>, Error> {
        self.noted(leases(self.read()))
    }

    /// The keys attached to a lease, in order.
    pub fn lease_keys(&self, id: LeaseId) -> Result<Vec<Bytes>, Error> {
        self.noted(lease_keys(self.read(), id))
    }

    pub(crate) fn state(&self) -> &State {
        &self.0.state
    }

    pub(crate) fn read(&self) -> &dyn Read {
        self.0.read.as_ref()
    }

    pub(crate) fn moment(&self) -> Moment {
        Moment { revision: self.revision(), compacted: self.compacted() }
    }

    fn count_at(&self, read: &dyn Read, range: &KeyRange, at: At) -> Result<u64, Error> {
        let mut count = 0;
        self.noted(scan(read, range, at, |_, _, _| {
            count += 1;
            ControlFlow::Continue(())
        }))?;
        self.still_there(at)?;
        Ok(count)
    }

    /// `result`, noted if it is damage.
    fn noted<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        self.0.damage.noted(result)
    }

    /// Whether what was just read can have been complete. The floor rises before the first row goes, so
    /// if it is still low now, nothing had gone.
    fn still_there(&self, at: At) -> Result<(), Error> {
        let floor = self.0.floor.get();
        match at {
            At::Revision(asked) if asked < floor => Err(Error::Compacted { asked, oldest: floor }),
            At::Revision(_) | At::Newest => Ok(()),
        }
    }
}

fn leases(read: &dyn Read) -> Result<Vec<Lease>, Error> {
    let span = Span { lower: b"", upper: None };
    let mut cursor = read.cursor(Table::Leases, span)?;
    let mut leases = Vec::new();
    while let Some((key, row)) = cursor.next()? {
        leases.push(row::read_lease(keys::read_lease(key)?, row)?);
    }
    Ok(leases)
}

/// The keys attached to a lease, in order.
pub(crate) fn lease_keys(read: &dyn Read, id: LeaseId) -> Result<Vec<Bytes>, Error> {
    let (lower, upper) = keys::lease_keys_span(id);
    let span = Span { lower: &lower, upper: upper.as_ref().map(<[u8; 8]>::as_slice) };
    let mut cursor = read.cursor(Table::LeaseKeys, span)?;
    let mut attached = Vec::new();
    while let Some((row_key, _)) = cursor.next()? {
        attached.push(Bytes::copy_from_slice(keys::read_lease_key(row_key)?));
    }
    Ok(attached)
}
