//! What comes back out of the store: every change, once, in order, to everyone who asked for it.
//!
//! A [`Watcher`] is a cursor: the next revision it waits for. It owns no queue, so a slow one
//! costs nothing but its own delay. Recent commits lie in one ring with a bound in bytes
//! ([`ring`]); watchers of the same range share a [`group`], which holds pointers to the ring's
//! commits that touch it; [`router`] finds the groups of a changed key without looking at the
//! others; [`hub`] is the door for the one writer; [`stream`] is the watcher's side; whoever is
//! behind the ring reads the tables through [`History`] in [`catch_up`].
//!
//! Keeps true, for each watcher and from its start on:
//! - ordered, unique, reliable: every matching event once, in revision and then sub order, or a
//!   [`Cut`];
//! - atomic: the events of a revision arrive together;
//! - resumable: a new watcher that starts at [`Watcher::cursor`] misses and repeats nothing;
//! - bookmarkable: [`Watcher::progress`] never overtakes an event that was not delivered.
//!
//! Never: the writer waits for a watcher, anything is buffered per watcher, a revision is invented
//! here.

mod catch_up;
mod group;
mod hub;
mod intervals;
mod ring;
mod router;
mod stream;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::error::Error;
use crate::record::Event;
use crate::request::KeyRange;
use crate::revision::Revision;

pub use hub::Hub;
pub use stream::Watcher;

/// The bounds of one hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Memory for recent commits, with what it takes to know who wants them. The newest commit is
    /// kept even if it alone is larger. What the fronts keep beside an event
    /// ([`crate::record::Encoding`]) comes on top, and so does a larger buffer of which a key or
    /// value is only a slice.
    pub ring_bytes: usize,
    /// A delivery takes no further revision once it holds this much.
    pub delivery_bytes_max: usize,
    /// What one reading of [`History`] may look at. It is read in the watcher's own `poll`, on
    /// whatever thread polls it, so this is also how long that thread is held: half a mebibyte is
    /// a few milliseconds.
    pub history_bytes_max: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { ring_bytes: 16 << 20, delivery_bytes_max: 1 << 20, history_bytes_max: 512 << 10 }
    }
}

/// All changes of one revision, in sub order.
#[derive(Clone, Debug)]
pub struct Commit {
    pub revision: Revision,
    pub events: Arc<[Arc<Event>]>,
}

/// What one watcher wants to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub range: KeyRange,
    /// The first revision of interest; zero for only what comes after now. It may lie in the
    /// future.
    pub start: Revision,
    pub puts: bool,
    pub deletes: bool,
    /// Whether the reader wants the version that was replaced. A hint for the fronts: an event
    /// carries it wherever it is known.
    pub previous: bool,
}

impl Request {
    /// Everything that happens in `range` from now on.
    #[must_use]
    pub fn new(range: KeyRange) -> Request {
        Request { range, start: Revision::ZERO, puts: true, deletes: true, previous: true }
    }

    /// The same from `start` on.
    #[must_use]
    pub fn from(self, start: Revision) -> Request {
        Request { start, ..self }
    }
}

/// Where history older than the ring is read; the store implements it over its tables.
///
/// What the hub relies on:
/// - A commit handed to [`Hub::publish`] can be read here already.
/// - `from` below the compaction revision is [`Error::Compacted`], at it is legal. The store calls
///   [`Hub::compacted`] before the first row can vanish: a reading that a compaction overtook is
///   thrown away then, however complete it looks.
/// - It answers from the data it was handed out for. After a snapshot was installed it may go on
///   doing so or fail; [`Hub::reset`] has cut its watcher either way.
pub trait History: Send + Sync {
    /// The events of `range` at and after `from`, in order and in whole revisions.
    ///
    /// `budget_bytes` bounds what is looked at, not what is found, so that a range in which little
    /// happens cannot hold the thread; at least one revision is looked at. Called from `poll`: it
    /// must not wait for anything but the disk.
    fn events(
        &self,
        range: &KeyRange,
        from: Revision,
        budget_bytes: usize,
    ) -> Result<Replay, Error>;
}

/// A piece of history.
#[derive(Clone, Debug)]
pub struct Replay {
    /// Only what matches; revisions without a match are left out.
    pub commits: Vec<Commit>,
    /// Every event up to and including this revision has been looked at. At least the revision
    /// asked for.
    pub complete_to: Revision,
}

/// Events for one watcher: whole revisions, one or more.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// The revision of the last event. Everything the watcher asked for up to here has been
    /// delivered.
    pub revision: Revision,
    pub events: Vec<Arc<Event>>,
    /// What the events weigh in memory.
    pub bytes: usize,
}

/// Why a watcher ended. Nothing is delivered afterwards; the same cut is answered again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cut {
    /// What it still had to see is forgotten. It may list anew and resume from `compacted`.
    Compacted { compacted: Revision },
    /// A snapshot was installed: the store is now at `revision` with a history that begins at
    /// `compacted`, and what happened in between was never seen here one by one.
    TooOld { revision: Revision, compacted: Revision },
    /// The store is shutting down.
    Closed,
    /// History could not be read.
    Failed(Error),
}

/// What the hub holds, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub watchers: usize,
    /// Distinct ranges that are watched.
    pub groups: usize,
    pub ring_commits: usize,
    pub ring_bytes: usize,
    /// Watchers whose next event is no longer (or not yet) in their group: they read the ring or
    /// the tables.
    pub lagging: usize,
}
