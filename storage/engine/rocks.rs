//! The engine on disk: RocksDB. This is the only file that names it.
//!
//! Keeps: the write-ahead log is off, because the replicated log is the truth and the store replays from
//! it. Hence `atomic_flush`: all tables reach the disk together, so a crash leaves them as they were at
//! one moment, whatever that moment was.
//! Keeps: after the first failed write or sync nothing is written again; the process is to stop.
//! Never: serves bytes whose checksum is wrong. A damaged block is an [`Error::Damaged`] on every read.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use bytes::Bytes;
use parking_lot::Mutex;
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor,
    CompactOptions, DB, DBCompressionType, DBRawIteratorWithThreadMode, ErrorKind, FlushOptions,
    LogLevel, ReadOptions, SnapshotWithThreadMode, WriteBatch, WriteOptions, checkpoint,
    compaction_filter::Decision,
};

use super::{Batch, Change, Cursor, Engine, KeyAndValue, Open, Read, Retain, Size, Span, Table};
use crate::error::Error;

/// What an operator may choose. The defaults suit a master of a small cluster: little memory, and more of
/// it only as it is needed.
#[derive(Clone, Debug)]
pub struct Options {
    /// Memory for rows that are not flushed yet, over all tables. Bounds what a restart replays, too.
    pub write_buffer_bytes: usize,
    /// Memory for blocks read from disk, with their indexes and filters.
    pub block_cache_bytes: usize,
    /// Threads for flushing and compacting in the background.
    pub background_threads: i32,
    /// Open files at most.
    pub open_files_max: i32,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            write_buffer_bytes: 64 << 20,
            block_cache_bytes: 32 << 20,
            background_threads: 2,
            open_files_max: 512,
        }
    }
}

type Snapshot<'db> = SnapshotWithThreadMode<'db, DB>;

self_cell::self_cell!(
    /// One moment of the database, which it keeps open.
    struct Moment {
        owner: Arc<DB>,
        #[covariant]
        dependent: Snapshot,
    }
);

/// RocksDB behind the contract of [`Engine`].
pub struct Rocks {
    db: Arc<DB>,
    directory: PathBuf,
    /// Set by the first failed write or sync.
    poisoned: AtomicBool,
    /// One sync at a time: they are whole flushes.
    syncing: Mutex<()>,
    unsynced_bytes: AtomicU64,
    reclaimer: Option<Reclaimer>,
}

/// Opens RocksDB in whatever directory it is given.
#[derive(Clone, Debug, Default)]
pub struct RocksFactory(pub Options);

impl Open for RocksFactory {
    fn open(&self, directory: &Path, retain: Retain) -> Result<Arc<dyn Engine>, Error> {
        Ok(Rocks::open(directory, &self.0, retain)?)
    }
}

impl Rocks {
    /// Opens the database in `directory`, or makes one where the directory is absent or empty.
    ///
    /// # Errors
    /// [`Error::Refused`] for a directory of something else or of a later release, [`Error::Damaged`]
    /// where RocksDB finds its files wrong or missing, [`Error::Engine`] for the file system's errors.
    pub fn open(directory: &Path, options: &Options, retain: Retain) -> Result<Arc<Rocks>, Error> {
        let exists = directory.join("CURRENT").exists();
        let settings = database_options(options);
        if exists {
            let known: Vec<&str> = Table::ALL.iter().map(|table| table.name()).collect();
            let found = DB::list_cf(&settings, directory).map_err(|error| {
                failed(&error, format!("list tables of {}", directory.display()))
            })?;
            let foreign = found
                .iter()
                .find(|name| *name != "default" && !known.contains(&&***name));
            if let Some(foreign) = foreign {
                return Err(Error::Refused {
                    path: directory.to_owned(),
                    reason: format!("has a table `{foreign}` that this release does not know"),
                });
            }
        } else if std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Error::Refused {
                path: directory.to_owned(),
                reason: "is not empty and holds no store; give an empty one".to_owned(),
            });
        }
        let cache = Cache::new_lru_cache(options.block_cache_bytes);
        let tables = Table::ALL.iter().map(|table| {
            let settings = table_options(*table, options, &cache, &retain);
            ColumnFamilyDescriptor::new(table.name(), settings)
        });
        let db = DB::open_cf_descriptors(&settings, directory, tables)
            .map_err(|error| failed(&error, format!("open store in {}", directory.display())))?;
        let db = Arc::new(db);
        Ok(Arc::new(Rocks {
            reclaimer: Some(Reclaimer::start(db.clone())?),
            db,
            directory: directory.to_owned(),
            poisoned: AtomicBool::new(false),
            syncing: Mutex::new(()),
            unsynced_bytes: AtomicU64::new(0),
        }))
    }

    /// Reads every row of every table and with it every checksum.
    ///
    /// # Errors
    /// [`Error::Damaged`] at the first block that is not what was written.
    pub fn scrub(&self) -> Result<(), Error> {
        for table in Table::ALL {
            let mut reading = ReadOptions::default();
            reading.fill_cache(false);
            reading.set_verify_checksums(true);
            let mut rows = self
                .db
                .raw_iterator_cf_opt(handle(&self.db, table), reading);
            rows.seek_to_first();
            while rows.valid() {
                rows.next();
            }
            rows.status()
                .map_err(|error| failed(&error, format!("scrub {}", table.name())))?;
        }
        Ok(())
    }

    fn refuse_if_poisoned(&self, what: &str) -> Result<(), Error> {
        if self.poisoned.load(Ordering::Acquire) {
            let cause = io::Error::other("an earlier write or sync failed");
            return Err(Error::engine(
                format!("{what} {}", self.directory.display()),
                cause,
            ));
        }
        Ok(())
    }

    fn poison(&self, error: &rocksdb::Error, what: &str) -> Error {
        self.poisoned.store(true, Ordering::Release);
        failed(error, format!("{what} {}", self.directory.display()))
    }
}

impl Engine for Rocks {
    fn snapshot(&self) -> Arc<dyn Read> {
        Arc::new(Moment::new(self.db.clone(), |db| db.snapshot()))
    }

    fn write(&self, batch: &Batch) -> Result<(), Error> {
        self.refuse_if_poisoned("write to store in")?;
        let mut rows = WriteBatch::default();
        // One look-up of the table's handle per run of rows of one table would save little: the map
        // behind it has eight entries.
        for change in batch.changes() {
            match change {
                Change::Put { table, key, value } => {
                    rows.put_cf(handle(&self.db, table), key, value);
                }
                Change::Delete { table, key } => rows.delete_cf(handle(&self.db, table), key),
            }
        }
        let mut writing = WriteOptions::default();
        writing.disable_wal(true);
        self.db
            .write_opt(rows, &writing)
            .map_err(|error| self.poison(&error, "write to store in"))?;
        self.unsynced_bytes
            .fetch_add(batch.weight() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn sync(&self) -> Result<(), Error> {
        self.refuse_if_poisoned("sync store in")?;
        let _one = self.syncing.lock();
        let before = self.unsynced_bytes.load(Ordering::Relaxed);
        let tables: Vec<&ColumnFamily> = Table::ALL
            .iter()
            .map(|table| handle(&self.db, *table))
            .collect();
        let mut flush = FlushOptions::default();
        flush.set_wait(true);
        self.db
            .flush_cfs_opt(&tables.iter().collect::<Vec<_>>(), &flush)
            .map_err(|error| self.poison(&error, "sync store in"))?;
        self.unsynced_bytes.fetch_sub(before, Ordering::Relaxed);
        Ok(())
    }

    fn checkpoint(&self, directory: &Path) -> Result<(), Error> {
        let context = || format!("checkpoint to {}", directory.display());
        let _one = self.syncing.lock();
        checkpoint::Checkpoint::new(&*self.db)
            // Zero: flush first, whatever the size of a log that is not there.
            .and_then(|made| made.create_checkpoint_with_log_size(directory, 0))
            .map_err(|error| failed(&error, context()))?;
        sync_directory(directory).map_err(|error| Error::engine(context(), error))?;
        match directory.parent() {
            Some(parent) => sync_directory(parent).map_err(|error| Error::engine(context(), error)),
            None => Ok(()),
        }
    }

    fn reclaim(&self, table: Table, span: Span<'_>) {
        if let Some(reclaimer) = &self.reclaimer {
            reclaimer.ask(table, span);
        }
    }

    fn size(&self) -> Size {
        let sum = |name: &str| -> u64 {
            Table::ALL
                .iter()
                .filter_map(|table| {
                    self.db
                        .property_int_value_cf(handle(&self.db, *table), name)
                        .ok()
                        .flatten()
                })
                .sum()
        };
        Size {
            disk: sum("rocksdb.total-sst-files-size"),
            memory: sum("rocksdb.cur-size-all-mem-tables")
                // Shared by all tables: asked of one.
                + self
                    .db
                    .property_int_value_cf(
                        handle(&self.db, Table::Live),
                        "rocksdb.block-cache-usage",
                    )
                    .ok()
                    .flatten()
                    .unwrap_or(0),
            unsynced: self.unsynced_bytes.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Rocks {
    fn drop(&mut self) {
        // What is not synced is replayed from the log at the next start: nothing to wait for but the
        // thread that holds the database.
        drop(self.reclaimer.take());
        self.db.cancel_all_background_work(true);
    }
}

impl Read for Rocks {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let found = self.db.get_pinned_cf(handle(&self.db, table), key);
        found
            .map(|row| row.map(|row| Bytes::copy_from_slice(&row)))
            .map_err(|error| failed(&error, format!("read from {}", table.name())))
    }

    fn cursor<'r>(&'r self, table: Table, span: Span<'r>) -> Result<Box<dyn Cursor + 'r>, Error> {
        let rows = self
            .db
            .raw_iterator_cf_opt(handle(&self.db, table), bounded(span));
        Ok(Box::new(Rows::over(rows, table, span)))
    }
}

impl Read for Moment {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let found = self
            .borrow_dependent()
            .get_pinned_cf(handle(self.borrow_owner(), table), key);
        found
            .map(|row| row.map(|row| Bytes::copy_from_slice(&row)))
            .map_err(|error| failed(&error, format!("read from {}", table.name())))
    }

    fn cursor<'r>(&'r self, table: Table, span: Span<'r>) -> Result<Box<dyn Cursor + 'r>, Error> {
        let table_handle = handle(self.borrow_owner(), table);
        let rows = self
            .borrow_dependent()
            .raw_iterator_cf_opt(table_handle, bounded(span));
        Ok(Box::new(Rows::over(rows, table, span)))
    }
}

/// A cursor. RocksDB stops at the upper bound by itself.
struct Rows<'r> {
    rows: DBRawIteratorWithThreadMode<'r, DB>,
    table: Table,
    lower: &'r [u8],
    started: bool,
}

impl<'r> Rows<'r> {
    fn over(rows: DBRawIteratorWithThreadMode<'r, DB>, table: Table, span: Span<'r>) -> Rows<'r> {
        Rows {
            rows,
            table,
            lower: span.lower,
            started: false,
        }
    }

    fn here(&self) -> Result<Option<KeyAndValue<'_>>, Error> {
        match self.rows.item() {
            Some(row) => Ok(Some(row)),
            // Not valid: the end, or a block that could not be read.
            None => match self.rows.status() {
                Ok(()) => Ok(None),
                Err(error) => Err(failed(&error, format!("scan {}", self.table.name()))),
            },
        }
    }
}

impl Cursor for Rows<'_> {
    fn next(&mut self) -> Result<Option<KeyAndValue<'_>>, Error> {
        if !self.started {
            return self.seek(self.lower);
        }
        // Stepping on from beyond the end is not allowed by RocksDB.
        if self.rows.valid() {
            self.rows.next();
        }
        self.here()
    }

    fn seek(&mut self, key: &[u8]) -> Result<Option<KeyAndValue<'_>>, Error> {
        self.started = true;
        self.rows.seek(key.max(self.lower));
        self.here()
    }
}

/// The thread that gives space back. It is given hints; one that comes while as many wait as there are
/// tables is dropped, since the next compaction brings another.
struct Reclaimer {
    hints: Option<SyncSender<Hint>>,
    thread: Option<JoinHandle<()>>,
}

struct Hint {
    table: Table,
    lower: Vec<u8>,
    upper: Option<Vec<u8>>,
}

impl Reclaimer {
    fn start(db: Arc<DB>) -> Result<Reclaimer, Error> {
        let (hints, waiting) = sync_channel::<Hint>(Table::ALL.len());
        let thread = std::thread::Builder::new()
            .name("store-reclaim".to_owned())
            .spawn(move || {
                while let Ok(hint) = waiting.recv() {
                    reclaim(&db, &hint);
                }
            })
            .map_err(|error| Error::engine("start the thread that reclaims space", error))?;
        Ok(Reclaimer {
            hints: Some(hints),
            thread: Some(thread),
        })
    }

    fn ask(&self, table: Table, span: Span<'_>) {
        let hint = Hint {
            table,
            lower: span.lower.to_vec(),
            upper: span.upper.map(<[u8]>::to_vec),
        };
        if let Some(hints) = &self.hints {
            match hints.try_send(hint) {
                Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
            }
        }
    }
}

impl Drop for Reclaimer {
    fn drop(&mut self) {
        drop(self.hints.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by the thread itself and leaves only space behind.
            let _ = thread.join();
        }
    }
}

fn reclaim(db: &DB, hint: &Hint) {
    let table = handle(db, hint.table);
    if hint.table == Table::Changes
        && let Some(upper) = &hint.upper
    {
        // Changes are ordered by revision and forgotten by revision: whole files below the span's end
        // hold nothing that is retained, and going by file costs no reading at all.
        if let Err(error) = db.delete_file_in_range_cf(table, &hint.lower, upper) {
            tracing::warn!(%error, "could not drop files of forgotten changes");
        }
        return;
    }
    let mut how = CompactOptions::default();
    how.set_exclusive_manual_compaction(false);
    db.compact_range_cf_opt(table, Some(&hint.lower), hint.upper.as_ref(), &how);
}

fn bounded(span: Span<'_>) -> ReadOptions {
    let mut reading = ReadOptions::default();
    if let Some(upper) = span.upper {
        reading.set_iterate_upper_bound(upper);
    }
    reading
}

fn handle(db: &DB, table: Table) -> &ColumnFamily {
    db.cf_handle(table.name())
        .expect("every table is opened with the database")
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    std::fs::File::open(directory)?.sync_all()
}

/// Sorts RocksDB's errors by what a caller can do: damage is never served, anything else stops.
fn failed(error: &rocksdb::Error, context: String) -> Error {
    match error.kind() {
        ErrorKind::Corruption | ErrorKind::NotFound => {
            Error::Damaged(format!("{context}: {error}"))
        }
        ErrorKind::InvalidArgument | ErrorKind::NotSupported => {
            Error::Damaged(format!("{context}: {error}"))
        }
        _ => {
            let text = error.to_string();
            let kind = if text.contains("No space left") {
                io::ErrorKind::StorageFull
            } else {
                io::ErrorKind::Other
            };
            Error::engine(context, io::Error::new(kind, text))
        }
    }
}

fn database_options(options: &Options) -> rocksdb::Options {
    let mut settings = rocksdb::Options::default();
    settings.create_if_missing(true);
    settings.create_missing_column_families(true);
    settings.set_atomic_flush(true);
    settings.set_paranoid_checks(true);
    settings.set_db_write_buffer_size(options.write_buffer_bytes);
    settings.set_max_background_jobs(options.background_threads);
    settings.set_max_open_files(options.open_files_max);
    settings.set_max_file_opening_threads(1);
    settings.set_bytes_per_sync(1 << 20);
    settings.set_max_manifest_file_size(8 << 20);
    // RocksDB's own diary: small, and only what is wrong.
    settings.set_log_level(LogLevel::Warn);
    settings.set_max_log_file_size(1 << 20);
    settings.set_keep_log_file_num(2);
    settings.set_stats_dump_period_sec(0);
    settings
}

fn table_options(
    table: Table,
    options: &Options,
    cache: &Cache,
    retain: &Retain,
) -> rocksdb::Options {
    let mut settings = rocksdb::Options::default();
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    blocks.set_format_version(6);
    if table == Table::Live {
        // Most creates ask for a key that is not there.
        blocks.set_bloom_filter(10.0, false);
        blocks.set_index_type(BlockBasedIndexType::BinarySearch);
        settings.set_memtable_prefix_bloom_ratio(0.02);
        settings.set_memtable_whole_key_filtering(true);
    } else {
        blocks.set_block_size(16 << 10);
    }
    settings.set_block_based_table_factory(&blocks);
    settings.set_compression_type(DBCompressionType::Lz4);
    settings.set_bottommost_compression_type(DBCompressionType::Zstd);
    settings.set_level_compaction_dynamic_level_bytes(true);
    // A quarter of the whole for one table's buffer, so that one can fill while another is flushed.
    settings.set_write_buffer_size((options.write_buffer_bytes / 4).max(1 << 20));
    settings.set_max_write_buffer_number(4);
    settings.set_target_file_size_base(32 << 20);
    settings.set_max_bytes_for_level_base(128 << 20);
    if matches!(table, Table::Past | Table::Changes) {
        let retain = retain.clone();
        settings.set_compaction_filter("retain", move |_level, key, value| {
            if retain(table, key, value) {
                Decision::Keep
            } else {
                Decision::Remove
            }
        });
    }
    settings
}
