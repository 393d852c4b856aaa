//! The engine in memory: for tests and simulation. It can crash, fail, fill up and forget by a seed.
//!
//! Keeps: the contract of [`Engine`], as the real one does; the same suite proves both.
//! Keeps: what it does depends on the seed and the calls alone, so a run can be repeated.
//! A [`MemoryDisk`] outlives the engines opened on it, as a disk outlives a process.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{Batch, Change, Cursor, Engine, KeyAndValue, Open, Read, Retain, Size, Span, Table};
use crate::error::Error;

/// Name of the one file of a checkpoint.
const CHECKPOINT_FILE: &str = "rows";

/// What goes wrong, and how often. All zero: nothing does.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// The write with this number (from 1, counted over the disk's life) fails. Whether it reached the
    /// disk is decided by the seed.
    pub failing_write: Option<u64>,
    /// The sync with this number fails.
    pub failing_sync: Option<u64>,
    /// Bytes of keys and values that fit. A batch that only deletes always fits: it is what makes room.
    pub full_at_bytes: Option<u64>,
    /// One in so many writes is followed by dropping rows that are not retained; 0 for never.
    pub reclaim_one_in: u32,
}

type Rows = BTreeMap<(Table, Vec<u8>), Bytes>;

/// What survives a crash.
#[derive(Clone)]
pub struct MemoryDisk(Arc<Mutex<Disk>>);

struct Disk {
    /// Everything that was synced.
    durable: Rows,
    durable_bytes: u64,
    /// Written since, in order.
    unsynced: Vec<Batch>,
    faults: Faults,
    random: StdRng,
    writes: u64,
    syncs: u64,
    /// Raised by a crash and by each opening: an engine of an earlier one has lost the disk.
    opening: u64,
}

impl MemoryDisk {
    #[must_use]
    pub fn new(seed: u64, faults: Faults) -> MemoryDisk {
        MemoryDisk(Arc::new(Mutex::new(Disk {
            durable: Rows::new(),
            durable_bytes: 0,
            unsynced: Vec::new(),
            faults,
            random: StdRng::seed_from_u64(seed),
            writes: 0,
            syncs: 0,
            opening: 0,
        })))
    }

    /// The power goes. What was synced stays, of the rest a random number of whole batches from the
    /// oldest on. Engines that are open can do nothing more.
    pub fn crash(&self) {
        let mut disk = self.0.lock();
        let batches = disk.unsynced.len();
        let kept = disk.random.random_range(0..=batches);
        disk.settle(kept);
        disk.unsynced.clear();
        disk.opening += 1;
    }

    pub fn set_faults(&self, faults: Faults) {
        self.0.lock().faults = faults;
    }
}

impl Disk {
    /// Makes the oldest `batches` batches durable.
    fn settle(&mut self, batches: usize) {
        for batch in self.unsynced.drain(..batches) {
            for change in batch.changes() {
                let (key, weight, old) = match change {
                    Change::Put { table, key, value } => {
                        let weight = (key.len() + value.len()) as u64;
                        let value = Bytes::copy_from_slice(value);
                        (
                            key,
                            weight,
                            self.durable.insert((table, key.to_vec()), value),
                        )
                    }
                    Change::Delete { table, key } => {
                        (key, 0, self.durable.remove(&(table, key.to_vec())))
                    }
                };
                let freed = old.map_or(0, |old| (key.len() + old.len()) as u64);
                self.durable_bytes = self.durable_bytes + weight - freed;
            }
        }
    }

    fn unsynced_bytes(&self) -> u64 {
        self.unsynced
            .iter()
            .map(|batch| batch.weight() as u64)
            .sum()
    }
}

/// An engine over a [`MemoryDisk`].
pub struct Memory {
    disk: MemoryDisk,
    opening: u64,
    visible: Arc<RwLock<Visible>>,
    retain: Retain,
    poisoned: Mutex<bool>,
}

/// The versions of a row, oldest first, by the number of the batch that made them. `None` is a delete.
type Versions = Vec<(u64, Option<Bytes>)>;

/// Every version that somebody may still read.
#[derive(Default)]
struct Visible {
    rows: BTreeMap<(Table, Vec<u8>), Versions>,
    /// Number of the newest batch.
    newest: u64,
    /// Moments that are held, with how many hold them.
    moments: BTreeMap<u64, usize>,
}

impl Memory {
    /// Opens what is on the disk. An engine opened on it before can write no more.
    #[must_use]
    pub fn open(disk: &MemoryDisk, retain: Retain) -> Arc<Memory> {
        let mut state = disk.0.lock();
        state.opening += 1;
        // What an orderly end has written and not synced is there as long as the power is.
        let batches = state.unsynced.len();
        state.settle(batches);
        let rows = state.durable.iter();
        let rows = rows
            .map(|(key, value)| (key.clone(), vec![(0, Some(value.clone()))]))
            .collect();
        let visible = Visible {
            rows,
            ..Visible::default()
        };
        Arc::new(Memory {
            opening: state.opening,
            disk: disk.clone(),
            visible: Arc::new(RwLock::new(visible)),
            retain,
            poisoned: Mutex::new(false),
        })
    }

    fn fail(&self, poisoned: &mut bool, what: &str, kind: io::ErrorKind) -> Error {
        *poisoned = true;
        Error::engine(format!("{what} the store in memory"), io::Error::from(kind))
    }

    fn refuse_if_poisoned(&self, poisoned: bool, what: &str) -> Result<(), Error> {
        let lost = self.disk.0.lock().opening != self.opening;
        if poisoned || lost {
            let reason = if lost {
                "the power went"
            } else {
                "an earlier write or sync failed"
            };
            return Err(Error::engine(
                format!("{what} the store in memory"),
                io::Error::other(reason),
            ));
        }
        Ok(())
    }

    /// Drops some rows that nobody may miss, as a compaction in the background would.
    fn reclaim_some(&self, disk: &mut Disk) {
        let one_in = disk.faults.reclaim_one_in;
        if one_in == 0 || !disk.random.random_ratio(1, one_in) {
            return;
        }
        let mut batch = Batch::new();
        for ((table, key), versions) in &self.visible.read().rows {
            let Some((_, Some(value))) = versions.last() else {
                continue;
            };
            let forgettable = matches!(table, Table::Past | Table::Changes);
            if forgettable && !(self.retain)(*table, key, value) && disk.random.random_bool(0.5) {
                batch.delete(*table, &[key]);
            }
        }
        self.visible.write().take(&batch);
        disk.unsynced.push(batch);
    }
}

impl Visible {
    fn take(&mut self, batch: &Batch) {
        self.newest += 1;
        let oldest = self.moments.keys().next().copied().unwrap_or(self.newest);
        for change in batch.changes() {
            let (table, key, value) = match change {
                Change::Put { table, key, value } => {
                    (table, key, Some(Bytes::copy_from_slice(value)))
                }
                Change::Delete { table, key } => (table, key, None),
            };
            let versions = self.rows.entry((table, key.to_vec())).or_default();
            versions.push((self.newest, value));
            // Of the versions at or before the oldest moment only the newest can still be read.
            let needless = versions
                .iter()
                .rposition(|(number, _)| *number <= oldest)
                .unwrap_or(0);
            versions.drain(..needless);
            if let [(_, None)] = versions.as_slice() {
                self.rows.remove(&(table, key.to_vec()));
            }
        }
    }

    fn get(&self, table: Table, key: &[u8], moment: u64) -> Option<Bytes> {
        at(self.rows.get(&(table, key.to_vec()))?, moment)
    }

    /// The first row at or after `from` (or after it) at a moment.
    fn first(
        &self,
        table: Table,
        from: Bound<&[u8]>,
        upper: Option<&[u8]>,
        moment: u64,
    ) -> Option<(Vec<u8>, Bytes)> {
        let from = from.map(|key| (table, key.to_vec()));
        self.rows
            .range((from, Bound::Unbounded))
            .take_while(|((of, key), _)| {
                *of == table && upper.is_none_or(|upper| key.as_slice() < upper)
            })
            .find_map(|((_, key), versions)| Some((key.clone(), at(versions, moment)?)))
    }
}

fn at(versions: &[(u64, Option<Bytes>)], moment: u64) -> Option<Bytes> {
    versions
        .iter()
        .rev()
        .find(|(number, _)| *number <= moment)?
        .1
        .clone()
}

impl Engine for Memory {
    fn snapshot(&self) -> Arc<dyn Read> {
        let mut visible = self.visible.write();
        let moment = visible.newest;
        *visible.moments.entry(moment).or_default() += 1;
        Arc::new(Moment {
            visible: self.visible.clone(),
            moment,
        })
    }

    fn write(&self, batch: &Batch) -> Result<(), Error> {
        let mut poisoned = self.poisoned.lock();
        self.refuse_if_poisoned(*poisoned, "write to")?;
        let mut disk = self.disk.0.lock();
        disk.writes += 1;
        let adds = batch
            .changes()
            .any(|change| matches!(change, Change::Put { .. }));
        let used = disk.durable_bytes + disk.unsynced_bytes() + batch.weight() as u64;
        if adds && disk.faults.full_at_bytes.is_some_and(|full| used > full) {
            return Err(self.fail(&mut poisoned, "write to", io::ErrorKind::StorageFull));
        }
        if disk.faults.failing_write == Some(disk.writes) {
            if disk.random.random_bool(0.5) {
                disk.unsynced.push(batch.clone());
            }
            return Err(self.fail(&mut poisoned, "write to", io::ErrorKind::Other));
        }
        disk.unsynced.push(batch.clone());
        self.visible.write().take(batch);
        self.reclaim_some(&mut disk);
        Ok(())
    }

    fn sync(&self) -> Result<(), Error> {
        let mut poisoned = self.poisoned.lock();
        self.refuse_if_poisoned(*poisoned, "sync")?;
        let mut disk = self.disk.0.lock();
        disk.syncs += 1;
        let batches = disk.unsynced.len();
        if disk.faults.failing_sync == Some(disk.syncs) {
            let kept = disk.random.random_range(0..=batches);
            disk.settle(kept);
            disk.unsynced.clear();
            return Err(self.fail(&mut poisoned, "sync", io::ErrorKind::Other));
        }
        disk.settle(batches);
        Ok(())
    }

    fn checkpoint(&self, directory: &Path) -> Result<(), Error> {
        let context = || format!("checkpoint to {}", directory.display());
        let mut bytes = Vec::new();
        {
            let visible = self.visible.read();
            for ((table, key), versions) in &visible.rows {
                let Some(value) = at(versions, visible.newest) else {
                    continue;
                };
                bytes.push(*table as u8);
                for piece in [key.as_slice(), &value] {
                    bytes.extend_from_slice(&(piece.len() as u32).to_be_bytes());
                    bytes.extend_from_slice(piece);
                }
            }
        }
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_be_bytes());
        let write = || {
            std::fs::create_dir(directory)?;
            let file = directory.join(CHECKPOINT_FILE);
            std::fs::write(&file, &bytes)?;
            std::fs::File::open(&file)?.sync_all()?;
            std::fs::File::open(directory)?.sync_all()?;
            directory
                .parent()
                .map_or(Ok(()), |parent| std::fs::File::open(parent)?.sync_all())
        };
        write().map_err(|error| Error::engine(context(), error))
    }

    fn reclaim(&self, _table: Table, _span: Span<'_>) {
        // Rows go by the seed (`Faults::reclaim_one_in`), not by hints.
    }

    fn size(&self) -> Size {
        let disk = self.disk.0.lock();
        let unsynced = disk.unsynced_bytes();
        Size {
            disk: disk.durable_bytes,
            memory: disk.durable_bytes + unsynced,
            unsynced,
        }
    }
}

impl Read for Memory {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Error> {
        Ok(self.visible.read().get(table, key, u64::MAX))
    }

    fn cursor<'r>(&'r self, table: Table, span: Span<'r>) -> Result<Box<dyn Cursor + 'r>, Error> {
        Ok(Box::new(Place {
            visible: &self.visible,
            table,
            span,
            moment: u64::MAX,
            row: None,
        }))
    }
}

/// A moment that is held: versions it can see are kept.
struct Moment {
    visible: Arc<RwLock<Visible>>,
    moment: u64,
}

impl Read for Moment {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Error> {
        Ok(self.visible.read().get(table, key, self.moment))
    }

    fn cursor<'r>(&'r self, table: Table, span: Span<'r>) -> Result<Box<dyn Cursor + 'r>, Error> {
        let moment = self.moment;
        Ok(Box::new(Place {
            visible: &self.visible,
            table,
            span,
            moment,
            row: None,
        }))
    }
}

impl Drop for Moment {
    fn drop(&mut self) {
        let mut visible = self.visible.write();
        if let Some(holders) = visible.moments.get_mut(&self.moment) {
            *holders -= 1;
            if *holders == 0 {
                visible.moments.remove(&self.moment);
            }
        }
    }
}

struct Place<'r> {
    visible: &'r RwLock<Visible>,
    table: Table,
    span: Span<'r>,
    moment: u64,
    row: Option<(Vec<u8>, Bytes)>,
}

impl Place<'_> {
    fn go(&mut self, from: Bound<&[u8]>) -> Option<KeyAndValue<'_>> {
        self.row = self
            .visible
            .read()
            .first(self.table, from, self.span.upper, self.moment);
        self.row
            .as_ref()
            .map(|(key, value)| (key.as_slice(), value.as_ref()))
    }
}

impl Cursor for Place<'_> {
    fn next(&mut self) -> Result<Option<KeyAndValue<'_>>, Error> {
        Ok(match self.row.take() {
            None => self.go(Bound::Included(self.span.lower)),
            Some((key, _)) => self.go(Bound::Excluded(&key)),
        })
    }

    fn seek(&mut self, key: &[u8]) -> Result<Option<KeyAndValue<'_>>, Error> {
        Ok(self.go(Bound::Included(key.max(self.span.lower))))
    }
}

/// Opens an engine in memory for whatever directory it is given, and the same one again for the same
/// directory. A directory that holds a checkpoint is loaded from it.
pub struct MemoryFactory {
    seed: u64,
    disks: Mutex<HashMap<PathBuf, MemoryDisk>>,
}

impl MemoryFactory {
    #[must_use]
    pub fn new(seed: u64) -> MemoryFactory {
        MemoryFactory {
            seed,
            disks: Mutex::new(HashMap::new()),
        }
    }

    /// The disk behind a directory that was opened.
    #[must_use]
    pub fn disk(&self, directory: &Path) -> Option<MemoryDisk> {
        self.disks.lock().get(directory).cloned()
    }
}

impl Open for MemoryFactory {
    fn open(&self, directory: &Path, retain: Retain) -> Result<Arc<dyn Engine>, Error> {
        let mut disks = self.disks.lock();
        if let Some(disk) = disks.get(directory) {
            return Ok(Memory::open(disk, retain));
        }
        let context = || format!("open {}", directory.display());
        std::fs::create_dir_all(directory).map_err(|error| Error::engine(context(), error))?;
        let disk = MemoryDisk::new(self.seed + disks.len() as u64, Faults::default());
        let file = directory.join(CHECKPOINT_FILE);
        if file.exists() {
            let bytes = std::fs::read(&file).map_err(|error| Error::engine(context(), error))?;
            let rows = parse(&bytes)
                .ok_or_else(|| Error::Damaged(format!("checkpoint {}", file.display())))?;
            disk.0.lock().durable = rows;
        }
        disks.insert(directory.to_owned(), disk.clone());
        Ok(Memory::open(&disk, retain))
    }
}

/// Reads a checkpoint: rows of table, key length, key, value length, value, then the checksum of it all.
fn parse(bytes: &[u8]) -> Option<Rows> {
    let (mut rest, checksum) = bytes.split_last_chunk::<4>()?;
    if crc32c::crc32c(rest) != u32::from_be_bytes(*checksum) {
        return None;
    }
    let mut rows = Rows::new();
    while let Some((number, after)) = rest.split_first() {
        let table = Table::ALL
            .into_iter()
            .find(|table| *table as u8 == *number)?;
        let (key, after) = piece(after)?;
        let (value, after) = piece(after)?;
        rows.insert((table, key.to_vec()), Bytes::copy_from_slice(value));
        rest = after;
    }
    Some(rows)
}

fn piece(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_be_bytes(*length) as usize)
}
