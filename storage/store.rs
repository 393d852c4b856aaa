//! The whole: one writer, any number of readers, and what ties the tables, the watchers and the lease
//! feed together.
//!
//! Keeps:
//! - One batch per group of entries holds rows, revision, digest and consensus' mark: after a crash the
//!   state is one that there was, and says which.
//! - What is published is written. Readers see a group whole; watchers are told of it after they can read
//!   it.
//! - The floor of compaction rises only to what a sync has made durable.
//!
//! Never: waits for a reader; goes on after the engine failed; reads a clock.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::apply::Applier;
use crate::compaction::Floor;
use crate::damage::Damage;
use crate::engine::{Batch, Engine, Size, Span, Table};
use crate::error::Error;
use crate::keys;
use crate::lease::{Changes, Feed, Lease};
use crate::record::LeaseId;
use crate::request::{Entry, EntryAnswers, KeyRange, Range, RangeAnswer};
use crate::revision::{Index, Revision};
use crate::row::{self, State};
use crate::snapshot::Facts;
use crate::view::View;
use crate::watch::{self, History, Hub, Replay, Watcher};

pub use crate::apply::Digest;
pub use crate::view::HashAt;

/// How often a hash is begun anew when compactions overtake it.
const HASH_ATTEMPTS: usize = 3;

#[derive(Clone, Debug, Default)]
pub struct Options {
    pub watch: watch::Options,
    /// Where the engine keeps its files, to be named in errors.
    pub directory: PathBuf,
}

/// A revisioned, watchable key-value store. Clones are handles of the same store.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    options: Options,
    published: Arc<Published>,
    hub: Hub,
    feed: Feed,
    writer: Mutex<Writer>,
}

struct Writer {
    applier: Applier,
    /// Why nothing can be written any more.
    failed: Option<Error>,
}

/// What readers see. One pointer is swapped, so they see a group, or a whole new state, at once.
struct Published(ArcSwap<Current>);

struct Current {
    view: View,
    home: Arc<Home>,
}

/// An engine with what is known about it.
struct Home {
    engine: Arc<dyn Engine>,
    floor: Floor,
    /// The newest entry that is known to be durable, with what consensus had kept with it.
    durable: Mutex<(Index, Bytes)>,
    damage: Damage,
}

impl Store {
    /// Opens the store in `engine`, which must have been opened with the [`Floor::retain`] of `floor`. An
    /// engine without a row becomes an empty store.
    ///
    /// What is found counts as durable: whoever opened the engine has it from the disk.
    pub fn open(engine: Arc<dyn Engine>, floor: Floor, options: Options) -> Result<Store, Error> {
        let current = Current::open(engine, floor, &options)?;
        let (revision, compacted) = (current.view.revision(), current.view.compacted());
        let hub = Hub::new(options.watch.clone(), revision, compacted);
        Ok(Store(Arc::new(Inner {
            options,
            published: Arc::new(Published(ArcSwap::from_pointee(current))),
            hub,
            feed: Feed::new(),
            writer: Mutex::new(Writer { applier: Applier::new(), failed: None }),
        })))
    }

    /// Carries out entries that follow on [`Store::applied`], as one group. Returns what came of each
    /// command. An error is about the store and not about a command: the process must stop.
    pub fn apply(&self, entries: &[Entry]) -> Result<Vec<EntryAnswers>, Error> {
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let mut writer = self.0.writer.lock();
        if let Some(error) = &writer.failed {
            return Err(error.clone());
        }
        self.apply_with(&mut writer.applier, entries).inspect_err(|error| {
            writer.failed = Some(error.clone());
        })
    }

    fn apply_with(
        &self,
        applier: &mut Applier,
        entries: &[Entry],
    ) -> Result<Vec<EntryAnswers>, Error> {
        let current = self.current();
        let home = &current.home;
        let before = current.view.state();
        let applied = applier.apply(home.engine.as_ref(), before.clone(), entries)?;
        home.engine.write(applier.batch())?;
        let compacted = applied.state.compacted;
        let has_compacted = compacted > before.compacted;
        self.publish(applied.state, home);
        self.0.hub.publish(applied.commits);
        if has_compacted {
            // Before any row can go: that takes a sync, and a sync takes what is published.
            self.0.hub.compacted(compacted);
        }
        self.0.feed.publish(applied.lease_changes);
        Ok(applied.answers)
    }

    fn publish(&self, state: State, home: &Arc<Home>) {
        let view =
            View::new(home.engine.snapshot(), state, home.floor.clone(), home.damage.clone());
        let current = Current { view, home: Arc::clone(home) };
        self.0.published.0.store(Arc::new(current));
    }

    /// The newest applied entry, and what consensus had kept with it. Index 0 and no bytes before the
    /// first.
    #[must_use]
    pub fn applied(&self) -> (Index, Bytes) {
        self.current().view.applied()
    }

    /// Makes everything applied so far durable, and returns up to where that is. May take seconds; the
    /// writer is not held up. A failed sync is final.
    pub fn sync(&self) -> Result<(Index, Bytes), Error> {
        // Read before the sync, so that all of it was written before the sync began.
        let current = self.current();
        let home = &current.home;
        home.engine.sync()?;
        let (index, mark) = current.view.applied();
        {
            let mut durable = home.durable.lock();
            // Of two syncs at once the one that began later may end first.
            if durable.0 <= index {
                *durable = (index, mark.clone());
            }
        }
        home.raise_floor(current.view.compacted());
        Ok((index, mark))
    }

    /// The newest index that is known to be durable: of the last sync, or what was found on opening.
    #[must_use]
    pub fn durable(&self) -> Index {
        self.durable_mark().0
    }

    /// The same with what consensus had kept with it.
    #[must_use]
    pub fn durable_mark(&self) -> (Index, Bytes) {
        self.current().home.durable.lock().clone()
    }

    /// What a snapshot of this moment says of itself.
    #[must_use]
    pub fn facts(&self) -> Facts {
        let view = self.view();
        let State { applied, mark, revision, compacted, digest } = view.state().clone();
        Facts { applied, mark, revision, compacted, digest }
    }

    /// The newest state, to read from.
    #[must_use]
    pub fn view(&self) -> View {
        self.0.published.view()
    }

    #[must_use]
    pub fn revision(&self) -> Revision {
        self.current().view.revision()
    }

    /// The oldest revision that can be read; zero where nothing was compacted.
    #[must_use]
    pub fn compacted(&self) -> Revision {
        self.current().view.compacted()
    }

    /// One range, with the revision at which the store was when it was read.
    pub fn range(&self, request: &Range) -> Result<(RangeAnswer, Revision), Error> {
        let view = self.view();
        Ok((view.range(request)?, view.revision()))
    }

    #[must_use]
    pub fn watch(&self, request: watch::Request) -> Watcher {
        self.0.hub.watch(request, Arc::clone(&self.0.published) as Arc<dyn History>)
    }

    /// Where all watchers of this store meet; for metrics, and to close them.
    #[must_use]
    pub fn hub(&self) -> &Hub {
        &self.0.hub
    }

    /// All leases, by id.
    pub fn leases(&self) -> Result<Vec<Lease>, Error> {
        self.view().leases()
    }

    pub fn lease(&self, id: LeaseId) -> Result<Option<Lease>, Error> {
        self.view().lease(id)
    }

    /// The keys attached to a lease, in order.
    pub fn lease_keys(&self, id: LeaseId) -> Result<Vec<Bytes>, Error> {
        self.view().lease_keys(id)
    }

    /// Tells of leases that come and go from now on.
    #[must_use]
    pub fn lease_changes(&self) -> Changes {
        self.0.feed.subscribe()
    }

    /// The digest over all changes up to the newest revision.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let current = self.current();
        Digest { revision: current.view.revision(), value: current.view.state().digest }
    }

    /// The hash over all that can be seen up to `revision` (zero for now). It reads everything.
    pub fn hash_at(&self, revision: Revision) -> Result<HashAt, Error> {
        let mut hash = self.view().hash_at(revision);
        for _ in 1..HASH_ATTEMPTS {
            // Rows may vanish under it while it reads; what is left then begins at a later revision.
            let Err(Error::Compacted { .. }) = hash else {
                break;
            };
            hash = self.view().hash_at(revision);
        }
        hash
    }

    /// Puts another engine's state in the place of this one, as after a snapshot. Readers see the old
    /// state or the new one; every watcher is cut.
    ///
    /// `floor` is the one with which `engine` was opened. The old engine goes when its last view does.
    pub fn install(&self, engine: Arc<dyn Engine>, floor: Floor) -> Result<(), Error> {
        let mut writer = self.0.writer.lock();
        let current = Current::open(engine, floor, &self.0.options)?;
        let (revision, compacted) = (current.view.revision(), current.view.compacted());
        self.0.published.0.store(Arc::new(current));
        self.0.hub.reset(revision, compacted);
        self.0.feed.reset();
        writer.failed = None;
        Ok(())
    }

    #[must_use]
    pub fn engine(&self) -> Arc<dyn Engine> {
        Arc::clone(&self.current().home.engine)
    }

    /// Gives back, in the background, the space of all that was deleted, replaced or compacted. It happens
    /// by itself sooner or later; this is for a disk that is nearly full, for it rewrites whole tables.
    pub fn reclaim(&self) {
        let engine = self.engine();
        for table in Table::ALL {
            engine.reclaim(table, Span { lower: b"", upper: None });
        }
    }

    #[must_use]
    pub fn size(&self) -> Size {
        self.engine().size()
    }

    /// Reads everything at rest, where damage is found that nobody reads; see [`Engine::scrub`] for `pace`.
    pub fn scrub(&self, pace: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<(), Error> {
        let home = Arc::clone(&self.current().home);
        home.damage.noted(home.engine.scrub(pace))
    }

    /// The first damage that was met by a read of the present state, or by a scrub ([`Error::Damaged`]).
    #[must_use]
    pub fn damage(&self) -> Option<Error> {
        self.current().home.damage.get().cloned()
    }

    fn current(&self) -> Arc<Current> {
        self.0.published.0.load_full()
    }
}

impl Current {
    fn open(engine: Arc<dyn Engine>, floor: Floor, options: &Options) -> Result<Current, Error> {
        let state = match read_state(engine.as_ref(), options)? {
            Some(state) => state,
            None => {
                let mut batch = Batch::new();
                batch.put(Table::Meta, &[keys::FORMAT], &[&row::FORMAT.to_be_bytes()]);
                batch.put(Table::Meta, &[keys::STATE], &[&State::EMPTY.head()]);
                engine.write(&batch)?;
                State::EMPTY
            }
        };
        let durable = Mutex::new((state.applied.unwrap_or_default(), state.mark.clone()));
        let home = Home { engine, floor, durable, damage: Damage::default() };
        // It was found on the disk, so it is durable.
        home.raise_floor(state.compacted);
        let view =
            View::new(home.engine.snapshot(), state, home.floor.clone(), home.damage.clone());
        Ok(Current { view, home: Arc::new(home) })
    }
}

/// The state found in an engine; `None` in one without a row.
fn read_state(engine: &dyn Engine, options: &Options) -> Result<Option<State>, Error> {
    let Some(format) = engine.get(Table::Meta, keys::FORMAT)? else {
        for table in Table::ALL {
            let mut cursor = engine.cursor(table, Span { lower: b"", upper: None })?;
            if cursor.next()?.is_some() {
                let table = table.name();
                return Err(Error::Damaged(format!(
                    "the number of the layout is missing, but there are rows in {table}"
                )));
            }
        }
        return Ok(None);
    };
    let format = row::read_format(&format)?;
    if format != row::FORMAT {
        return Err(Error::Refused {
            path: options.directory.clone(),
            reason: format!(
                "its rows are of layout {format} and this program knows layout {}; \
                 start the release that wrote it, or a later one",
                row::FORMAT
            ),
        });
    }
    let state = engine
        .get(Table::Meta, keys::STATE)?
        .ok_or_else(|| Error::Damaged("the state of the store is missing".into()))?;
    State::read(&state).map(Some)
}

impl Home {
    /// Lets the engine drop what lies below `compacted`, which is durable.
    fn raise_floor(&self, compacted: Revision) {
        if compacted <= self.floor.get() {
            return;
        }
        self.floor.raise(compacted);
        self.engine.reclaim(Table::Past, Span { lower: b"", upper: None });
        let upper = keys::change(compacted, 0);
        self.engine.reclaim(Table::Changes, Span { lower: b"", upper: Some(&upper) });
    }
}

impl Published {
    fn view(&self) -> View {
        self.0.load().view.clone()
    }
}

impl History for Published {
    fn events(
        &self,
        range: &KeyRange,
        from: Revision,
        budget_bytes: usize,
    ) -> Result<Replay, Error> {
        let view = self.view();
        let (commits, complete_to) = view.events(from, view.revision(), range, budget_bytes)?;
        Ok(Replay { commits, complete_to })
    }
}

#[cfg(test)]
mod tests;
