//! The engine that keeps bytes on a disk. Only this file and `rocks/` name RocksDB.
//!
//! Keeps: one column family for each table. All of them are flushed as one (`atomic_flush`), and RocksDB's
//! own log is off: what is on disk is always a moment between two batches, and the replicated log brings
//! back what came after it. `mark.rs` says how far that moment must reach.
//! Keeps: after a failed write or sync nothing is written any more. A failed flush is never tried again.
//! Never: serves a byte whose checksum was not verified when it came from the disk.
//!
//! Snapshots and cursors do not hold back the retain filter; see the head of `engine/mod.rs`.

use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    Cache, ColumnFamily, ColumnFamilyDescriptor, CompactOptions, DB, DBRawIteratorWithThreadMode,
    ErrorKind, FlushOptions, ReadOptions, WriteBatch, WriteOptions, properties,
};

use super::{
    Batch, Change, Cursor, Engine, KeyAndValue, Open, Read, Retain, Size, Span, Table, scan,
};
use crate::error::Error;

use mark::{Mark, sync_directory};
use reclaim::{Hint, Reclaimer};
use settings::{block_cache, database_options, table_options};

mod mark;
mod reclaim;
mod settings;
#[cfg(test)]
mod tests;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// How often a sync looks whether its flush has ended where RocksDB did not wait for it.
const FLUSH_PAUSE: Duration = Duration::from_millis(1);
/// After so many looks the writers are held up, so that it ends.
const FLUSH_ROUNDS: u64 = 2000;

/// What an engine may use. The defaults suit a master of an ordinary cluster.
#[derive(Clone, Debug)]
pub struct Options {
    /// Rows not yet on disk, all tables together. It is the replay after a crash, too. While one buffer
    /// is flushed another fills: the peak is about twice this.
    pub write_buffer_bytes: usize,
    /// Blocks, indexes and filters read from disk.
    pub block_cache_bytes: usize,
    /// Threads that flush and compact.
    pub background_threads: i32,
    /// Table files held open.
    pub open_files_max: i32,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            write_buffer_bytes: 32 * MIB,
            block_cache_bytes: 32 * MIB,
            background_threads: 2,
            open_files_max: 256,
        }
    }
}

/// Opens directories as [`Rocks`].
#[derive(Clone, Debug, Default)]
pub struct RocksFactory(pub Options);

impl Open for RocksFactory {
    fn open(&self, directory: &Path, retain: Retain) -> Result<Arc<dyn Engine>, Error> {
        Ok(Rocks::open(directory, &self.0, retain)?)
    }
}

/// An open directory. One process has it at a time.
pub struct Rocks {
    shared: Arc<Shared>,
    reclaimer: Reclaimer,
}

/// What snapshots and the reclaiming thread hold as well.
struct Shared {
    db: DB,
    directory: PathBuf,
    cache: Cache,
    retain: Retain,
    unsynced: AtomicU64,
    /// Each write holds it as a reader; a sync that would not end otherwise takes it alone.
    writers: RwLock<()>,
    /// The mark at rest. Its lock makes syncs and checkpoints come one after the other.
    mark: Mutex<Mark>,
    /// What went wrong first. Set once, and nothing is written any more.
    poison: OnceLock<Error>,
}

impl Rocks {
    /// Opens `directory`, which is created where it is missing. Refuses what is not ours or in use, and
    /// calls damaged what does not hold everything a sync has promised.
    ///
    /// # Errors
    /// [`Error::Refused`] for a directory of something else, of a newer program, or in use;
    /// [`Error::Damaged`] where files are missing, wrong, or behind what was synced;
    /// [`Error::Engine`] for the file system's own errors.
    pub fn open(directory: &Path, options: &Options, retain: Retain) -> Result<Arc<Rocks>, Error> {
        let mark = prepare(directory)?;
        let cache = block_cache(options);
        let families = Table::ALL.map(|table| {
            let options = table_options(table, options, &cache, &retain);
            ColumnFamilyDescriptor::new(table.name(), options)
        });
        let database = database_options(options)?;
        let db = DB::open_cf_descriptors(&database, directory, families)
            .map_err(|error| cannot_open(directory, error))?;
        // The number comes from the manifest: the newest row in any flushed file.
        let sequence = db.latest_sequence_number();
        if sequence < mark.sequence {
            return Err(Error::Damaged(format!(
                "{} ends at row {sequence}, row {} was synced",
                directory.display(),
                mark.sequence
            )));
        }
        check_files(&db, directory)?;
        let shared = Arc::new(Shared {
            db,
            directory: directory.to_path_buf(),
            cache,
            retain,
            unsynced: AtomicU64::new(0),
            writers: RwLock::new(()),
            mark: Mutex::new(mark),
            poison: OnceLock::new(),
        });
        let reclaimer = Reclaimer::start({
            let shared = shared.clone();
            move |table, hint| shared.reclaim(table, &hint)
        })
        .map_err(|error| Error::engine("start the thread that reclaims space", error))?;
        Ok(Arc::new(Rocks { shared, reclaimer }))
    }
}

#[cfg(test)]
impl Rocks {
    /// Returns once everything that was hinted at is done.
    pub(crate) fn settle(&self) {
        self.reclaimer.settle();
    }

    /// How many buffers wait to be flushed, all tables together.
    pub(crate) fn full_buffers(&self) -> u64 {
        self.shared.full_buffers()
    }
}

impl Drop for Rocks {
    fn drop(&mut self) {
        self.reclaimer.end();
        // A compaction at work breaks off, so that its thread can be waited for. Nothing is flushed.
        self.shared.db.cancel_all_background_work(false);
    }
}

impl Read for Rocks {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let found = self.shared.db.get_pinned_cf(self.shared.family(table), key);
        let found = found.map_err(|error| cannot_read(table, error))?;
        Ok(found.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn cursor<'r>(&'r self, table: Table, span: Span<'r>) -> Result<Box<dyn Cursor + 'r>, Error> {
        let family = self.shared.family(table);
        let open = |options| self.shared.db.raw_iterator_cf_opt(family, options);
        Ok(Place::boxed(table, span, open))
    }
}

impl Engine for Rocks {
    fn snapshot(&self) -> Arc<dyn Read> {
        Arc::new(Moment::new(self.shared.clone(), |shared| shared.db.snapshot()))
    }

    fn write(&self, batch: &Batch) -> Result<(), Error> {
        self.shared.write(batch)
    }

    fn sync(&self) -> Result<(), Error> {
        self.shared.sync()
    }

    fn checkpoint(&self, directory: &Path) -> Result<(), Error> {
        self.shared.checkpoint(directory)
    }

    fn reclaim(&self, table: Table, span: Span<'_>) {
        self.reclaimer.hint(table, span);
    }

    fn scrub(&self, pace: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<(), Error> {
        self.shared.scrub(pace)
    }

    fn size(&self) -> Size {
        self.shared.size()
    }
}

impl Shared {
    fn family(&self, table: Table) -> &ColumnFamily {
        self.db.cf_handle(table.name()).expect("every table was opened with the database")
    }

    fn write(&self, batch: &Batch) -> Result<(), Error> {
        self.check_poison()?;
        if batch.is_empty() {
            return Ok(());
        }
        let families = Table::ALL.map(|table| self.family(table));
        // Beside its bytes a row takes a few more for its kind, table and lengths.
        let rows_bytes = batch.weight() + batch.rows.len() * 16;
        let mut rows = WriteBatch::with_capacity_bytes(rows_bytes + 16);
        for change in batch.changes() {
            match change {
                Change::Put { table, key, value } => {
                    rows.put_cf(families[table as usize], key, value);
                }
                Change::Delete { table, key } => rows.delete_cf(families[table as usize], key),
            }
        }
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        let _not_held_up = self.writers.read();
        self.db.write_opt(rows, &options).map_err(|error| {
            self.poisoned(translate(format!("write to {}", self.directory.display()), error))
        })?;
        self.unsynced.fetch_add(batch.weight() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn sync(&self) -> Result<(), Error> {
        let mut mark = self.mark.lock();
        self.check_poison()?;
        let unsynced = self.unsynced.load(Ordering::Relaxed);
        let sequence = self.db.latest_sequence_number();
        if sequence == mark.sequence {
            return Ok(());
        }
        self.flush().map_err(|error| {
            self.poisoned(translate(format!("sync {}", self.directory.display()), error))
        })?;
        let next = Mark { tables: Table::ALL.len() as u32, sequence };
        next.write(&self.directory).map_err(|error| self.poisoned(error))?;
        *mark = next;
        self.unsynced.fetch_sub(unsynced, Ordering::Relaxed);
        Ok(())
    }

    /// Everything written before the call is in the manifest when it returns.
    ///
    /// RocksDB alone does not keep that: an atomic flush waits for each table by the number of its newest
    /// buffer, and mixes up the tables' numbers (`DBImpl::AtomicFlushMemTables` in 11.8 pairs a list with the
    /// order of a hash map). While an older flush is at work it may return before its own has begun. So this
    /// looks at each table, and holds the writers up only when buffers fill as fast as they are flushed.
    fn flush(&self) -> Result<(), rocksdb::Error> {
        let families = Table::ALL.map(|table| self.family(table));
        let mut options = FlushOptions::default();
        options.set_wait(true);
        let flush = || self.db.flush_cfs_opt(&families.each_ref(), &options);
        flush()?;
        let mut waiting = families.to_vec();
        let mut writers_wait = None;
        for round in 0u64.. {
            let mut unknown = None;
            // A table that once had no full buffer has flushed all it had when the flush was asked for.
            waiting.retain(|family| {
                let buffers = properties::NUM_IMMUTABLE_MEM_TABLE;
                match self.db.property_int_value_cf(family, buffers) {
                    Ok(full) => full != Some(0),
                    Err(error) => {
                        unknown = Some(error);
                        true
                    }
                }
            });
            if let Some(error) = unknown {
                return Err(error);
            }
            if waiting.is_empty() {
                break;
            }
            if round == FLUSH_ROUNDS {
                writers_wait = Some(self.writers.write());
            }
            if self.db.property_int_value(properties::BACKGROUND_ERRORS)? != Some(0) {
                // It says what went wrong.
                flush()?;
            }
            // RocksDB has no call that waits for it; the state is what is looked at above.
            #[allow(clippy::disallowed_methods)]
            thread::sleep(FLUSH_PAUSE);
        }
        drop(writers_wait);
        Ok(())
    }

    #[cfg(test)]
    fn full_buffers(&self) -> u64 {
        let buffers = properties::NUM_IMMUTABLE_MEM_TABLE;
        let full = |table| self.db.property_int_value_cf(self.family(table), buffers);
        Table::ALL.map(|table| full(table).unwrap().unwrap()).iter().sum()
    }

    fn check_poison(&self) -> Result<(), Error> {
        match self.poison.get() {
            None => Ok(()),
            Some(first) => Err(Error::engine(
                format!(
                    "{} takes no more writes since one failed; restart the process",
                    self.directory.display()
                ),
                io::Error::other(first.clone()),
            )),
        }
    }

    fn poisoned(&self, error: Error) -> Error {
        // The first one tells the most; a second one at the same time changes nothing.
        let _ = self.poison.set(error.clone());
        error
    }

    /// Built beside `directory` and renamed into place, so that what bears the name is complete.
    fn checkpoint(&self, directory: &Path) -> Result<(), Error> {
        let _one_at_a_time = self.mark.lock();
        self.check_poison()?;
        let refused = |reason: &str| Error::Refused {
            path: directory.to_path_buf(),
            reason: reason.to_owned(),
        };
        if directory.exists() {
            return Err(refused("a checkpoint needs a name that is free"));
        }
        let (Some(parent), Some(name)) = (directory.parent(), directory.file_name()) else {
            return Err(refused("a checkpoint needs a name in a directory"));
        };
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        let mut building = name.to_owned();
        building.push(".building");
        let building = parent.join(building);
        let done = self.build_checkpoint(&building).and_then(|()| {
            let put = || {
                fs::rename(&building, directory)?;
                sync_directory(parent)
            };
            put().map_err(|error| {
                Error::engine(format!("put checkpoint {} in place", directory.display()), error)
            })
        });
        if done.is_err() {
            // Whatever is left is in nobody's way but the next checkpoint's, which removes it as well.
            let _ = fs::remove_dir_all(&building);
        }
        done
    }

    fn build_checkpoint(&self, building: &Path) -> Result<(), Error> {
        let context = || format!("build checkpoint {}", building.display());
        if building.exists() {
            fs::remove_dir_all(building).map_err(|error| Error::engine(context(), error))?;
        }
        let sequence = self.db.latest_sequence_number();
        // The checkpoint flushes as well, and returns as early; what it holds at least is flushed here.
        self.flush()
            .and_then(|()| Checkpoint::new(&self.db))
            .and_then(|checkpoint| checkpoint.create_checkpoint(building))
            .map_err(|error| translate(context(), error))?;
        let sync = || {
            for entry in fs::read_dir(building)? {
                File::open(entry?.path())?.sync_all()?;
            }
            Ok(())
        };
        sync().map_err(|error: io::Error| Error::engine(context(), error))?;
        Mark { tables: Table::ALL.len() as u32, sequence }.write(building)
    }

    /// On the reclaiming thread. Rows that are still needed are safe here whatever the hint says: whole
    /// files go only where [`Retain`] lets their last row go, all else goes through the filter.
    fn reclaim(&self, table: Table, hint: &Hint) {
        if table == Table::Changes
            && let Err(error) = self.drop_files(table, hint)
        {
            tracing::warn!(%error, table = table.name(), "cannot drop files that are not needed");
        }
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        let lower = Some(hint.lower.as_slice());
        self.db.compact_range_cf_opt(self.family(table), lower, hint.upper.as_deref(), &options);
    }

    /// Unlinks the files that lie within the hint, unread. Right only where retaining goes by key order,
    /// which [`Retain`] promises for one table.
    fn drop_files(&self, table: Table, hint: &Hint) -> Result<(), Error> {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(hint.lower.clone());
        if let Some(upper) = &hint.upper {
            options.set_iterate_upper_bound(upper.clone());
        }
        options.fill_cache(false);
        let mut rows = self.db.raw_iterator_cf_opt(self.family(table), options);
        rows.seek_to_last();
        let Some((last, value)) = rows.item() else {
            return rows.status().map_err(|error| cannot_read(table, error));
        };
        if (self.retain)(table, last, value) {
            return Ok(());
        }
        self.db
            .delete_file_in_range_cf(self.family(table), hint.lower.as_slice(), last)
            .map_err(|error| translate(format!("drop files of {}", table.name()), error))
    }

    fn scrub(&self, pace: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<(), Error> {
        for table in Table::ALL {
            let mut options = ReadOptions::default();
            // What is read once is not worth a place in the cache.
            options.fill_cache(false);
            options.set_readahead_size(256 * KIB);
            let rows = self.db.raw_iterator_cf_opt(self.family(table), options);
            if scan(&mut Place { rows, table, started: false }, pace)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn size(&self) -> Size {
        let sum = |property: &rocksdb::properties::PropName| {
            // A property RocksDB cannot tell counts as nothing: sizes guide, they decide nothing.
            let told = Table::ALL.map(|table| {
                self.db.property_int_value_cf(self.family(table), property).ok().flatten()
            });
            told.into_iter().flatten().sum::<u64>()
        };
        Size {
            disk: sum(properties::TOTAL_SST_FILES_SIZE),
            memory: sum(properties::SIZE_ALL_MEM_TABLES)
                + sum(properties::ESTIMATE_TABLE_READERS_MEM)
                + self.cache.get_usage() as u64,
            unsynced: self.unsynced.load(Ordering::Relaxed),
        }
    }
}

self_cell::self_cell!(
    /// A snapshot together with the database it belongs to, which it keeps open.
    struct Moment {
        owner: Arc<Shared>,
        #[covariant]
        dependent: Snapshot,
    }
);

type Snapshot<'s> = rocksdb::SnapshotWithThreadMode<'s, DB>;

impl Read for Moment {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let family = self.borrow_owner().family(table);
        let found = self.borrow_dependent().get_pinned_cf(family, key);
        let found = found.map_err(|error| cannot_read(table, error))?;
        Ok(found.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn cursor<'r>(&'r self, table: Table, span: Span<'r>) -> Result<Box<dyn Cursor + 'r>, Error> {
        let family = self.borrow_owner().family(table);
        let open = |options| self.borrow_dependent().raw_iterator_cf_opt(family, options);
        Ok(Place::boxed(table, span, open))
    }

    fn passing_cursor<'r>(
        &'r self,
        table: Table,
        span: Span<'r>,
    ) -> Result<Box<dyn Cursor + 'r>, Error> {
        let family = self.borrow_owner().family(table);
        Ok(Place::boxed(table, span, |mut options| {
            options.fill_cache(false);
            self.borrow_dependent().raw_iterator_cf_opt(family, options)
        }))
    }
}

/// A cursor. RocksDB clamps it to the span.
struct Place<'r> {
    rows: DBRawIteratorWithThreadMode<'r, DB>,
    table: Table,
    started: bool,
}

/// A cursor over no row at all. RocksDB is not asked about spans that are upside down.
struct Nowhere;

impl<'r> Place<'r> {
    fn boxed(
        table: Table,
        span: Span<'_>,
        open: impl FnOnce(ReadOptions) -> DBRawIteratorWithThreadMode<'r, DB>,
    ) -> Box<dyn Cursor + 'r> {
        if span.upper.is_some_and(|upper| upper <= span.lower) {
            return Box::new(Nowhere);
        }
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(span.lower);
        if let Some(upper) = span.upper {
            options.set_iterate_upper_bound(upper);
        }
        // A reader that lets go of the last hold on a file does not unlink it itself.
        options.set_background_purge_on_iterator_cleanup(true);
        Box::new(Place { rows: open(options), table, started: false })
    }

    /// The row at hand. Past the end it asks RocksDB whether it is the end or an error, each time.
    fn row(&self) -> Result<Option<KeyAndValue<'_>>, Error> {
        match self.rows.item() {
            Some(row) => Ok(Some(row)),
            None => {
                self.rows.status().map_err(|error| cannot_read(self.table, error))?;
                Ok(None)
            }
        }
    }
}

impl Cursor for Place<'_> {
    fn next(&mut self) -> Result<Option<KeyAndValue<'_>>, Error> {
        if !self.started {
            self.started = true;
            self.rows.seek_to_first();
        } else if self.rows.valid() {
            self.rows.next();
        }
        self.row()
    }

    fn seek(&mut self, key: &[u8]) -> Result<Option<KeyAndValue<'_>>, Error> {
        self.started = true;
        self.rows.seek(key);
        self.row()
    }
}

impl Cursor for Nowhere {
    fn next(&mut self) -> Result<Option<KeyAndValue<'_>>, Error> {
        Ok(None)
    }

    fn seek(&mut self, _key: &[u8]) -> Result<Option<KeyAndValue<'_>>, Error> {
        Ok(None)
    }
}

/// Looks at `directory` before RocksDB does, which takes any directory, would make an empty database of one
/// that has lost its head, and changes what it opens.
fn prepare(directory: &Path) -> Result<Mark, Error> {
    let refused = |reason: String| Error::Refused { path: directory.to_path_buf(), reason };
    let failed = |error| Error::engine(format!("prepare {}", directory.display()), error);
    let Some(mark) = Mark::read(directory)? else {
        fs::create_dir_all(directory).map_err(failed)?;
        if let Some(parent) = directory.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_directory(parent).map_err(failed)?;
        }
        let foreign = fs::read_dir(directory)
            .and_then(|entries| entries.collect::<Result<Vec<_>, _>>())
            .map_err(failed)?
            .into_iter()
            .find(|entry| entry.file_name() != mark::NAME_NEXT);
        if let Some(foreign) = foreign {
            return Err(refused(format!(
                "it holds {:?}, which is not of a store's making; give an empty directory",
                foreign.file_name()
            )));
        }
        let first = Mark { tables: Table::ALL.len() as u32, sequence: 0 };
        first.write(directory)?;
        return Ok(first);
    };
    if mark.tables > Table::ALL.len() as u32 {
        return Err(refused(format!(
            "it has {} tables, this program knows {}; run the newer program",
            mark.tables,
            Table::ALL.len()
        )));
    }
    if !directory.join("CURRENT").exists() {
        // Nothing was ever promised of a directory whose making was cut short.
        if mark.sequence == 0 {
            return Ok(mark);
        }
        return Err(Error::Damaged(format!("{} has no CURRENT", directory.display())));
    }
    let families = DB::list_cf(&rocksdb::Options::default(), directory)
        .map_err(|error| cannot_open(directory, error))?;
    let known = |name: &str| {
        name == rocksdb::DEFAULT_COLUMN_FAMILY_NAME
            || Table::ALL.iter().any(|table| table.name() == name)
    };
    if let Some(foreign) = families.iter().find(|name| !known(name)) {
        return Err(refused(format!(
            "it has a table {foreign:?}, which this program does not know; run the newer program"
        )));
    }
    let promised = &Table::ALL[..mark.tables as usize];
    let is_there = |table: &Table| families.iter().any(|name| name == table.name());
    match promised.iter().find(|table| mark.sequence > 0 && !is_there(table)) {
        Some(lost) => Err(Error::Damaged(format!(
            "{} has lost its table {:?}",
            directory.display(),
            lost.name()
        ))),
        None => Ok(mark),
    }
}

/// RocksDB opens table files when it needs them. One that is gone or cut is better found before anything is
/// served than in the middle of it.
fn check_files(db: &DB, directory: &Path) -> Result<(), Error> {
    let listed = || db.live_files().map_err(|error| cannot_open(directory, error));
    for file in listed()? {
        // The name comes with a slash before it.
        let path = directory.join(file.name.trim_start_matches('/'));
        let length = match fs::metadata(&path) {
            Ok(found) => Some(found.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                return Err(Error::engine(format!("look at {}", path.display()), error));
            }
        };
        if length == Some(file.size as u64) {
            continue;
        }
        // A compaction may have removed it since.
        if listed()?.iter().any(|still| still.name == file.name) {
            let found = length.map_or("is gone".to_owned(), |length| format!("has {length}"));
            return Err(Error::Damaged(format!(
                "{} {found}, it should have {} bytes",
                path.display(),
                file.size
            )));
        }
    }
    Ok(())
}

fn cannot_open(directory: &Path, error: rocksdb::Error) -> Error {
    let refused =
        |reason: &str| Error::Refused { path: directory.to_path_buf(), reason: reason.to_owned() };
    match error.kind() {
        ErrorKind::IOError if error.as_ref().contains("/LOCK:") => {
            refused("another process has it open, or this one still does; stop that one first")
        }
        ErrorKind::InvalidArgument | ErrorKind::NotSupported => refused(error.as_ref()),
        _ => translate(format!("open {}", directory.display()), error),
    }
}

fn cannot_read(table: Table, error: rocksdb::Error) -> Error {
    translate(format!("read table {}", table.name()), error)
}

/// A file that RocksDB counts on and that is gone is damage, as wrong bytes are.
fn translate(context: String, error: rocksdb::Error) -> Error {
    let text = error.as_ref();
    match error.kind() {
        ErrorKind::Corruption => Error::Damaged(format!("{context}: {text}")),
        ErrorKind::IOError if text.contains("No such file or directory") => {
            Error::Damaged(format!("{context}: {text}"))
        }
        ErrorKind::IOError if text.contains("No space left on device") => {
            Error::engine(context, io::Error::new(io::ErrorKind::StorageFull, error))
        }
        _ => Error::engine(context, io::Error::other(error)),
    }
}
