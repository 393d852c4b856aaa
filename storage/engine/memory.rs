//! The engine in memory: for tests and simulation. It can crash, fail, fill up and forget by a seed.
//!
//! Keeps: the contract of [`Engine`], as the real one does; the same suite proves both.
//! Keeps: what it does depends on the seed and the calls alone, so a run can be repeated.
//! A [`MemoryDisk`] outlives the engines opened on it, as a disk outlives a process.
//!
//! A batch is the smallest thing a crash can leave behind: one that was torn fails its check and is left
//! out when a real engine opens, so here it simply is not there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{Batch, Change, Cursor, Engine, KeyAndValue, Open, Read, Retain, Size, Span, Table};
use crate::error::Error;

/// Name of the one file of a checkpoint.
const CHECKPOINT_FILE: &str = "rows";

/// Name of the file by which a factory knows the disk behind a directory again.
const DISK_FILE: &str = "disk";

/// What goes wrong, and how often. All zero: nothing does.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// The write with this number (from 1, counted over the disk's life) fails. Whether it reached the
    /// disk is decided by the seed.
    pub failing_write: Option<u64>,
    /// The sync with this number fails.
    pub failing_sync: Option<u64>,
    /// Bytes of keys and values that fit, what is not synced counted as written. A batch that puts nothing
    /// always fits: deletes are what makes room. One that does not fit fails as any write does: for good,
    /// until the disk is opened again.
    pub full_at_bytes: Option<u64>,
    /// At one in so many writes, syncs, snapshots and cursors some rows that are not retained go: under
    /// those who are reading, or on the disk, or both. 0 for never.
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
    unsynced_bytes: u64,
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
        MemoryDisk::holding(Rows::new(), seed, faults)
    }

    /// A new disk with what a checkpoint holds.
    ///
    /// # Errors
    /// [`Error::Damaged`] where the checkpoint is not what was written.
    pub fn from_checkpoint(
        directory: &Path,
        seed: u64,
        faults: Faults,
    ) -> Result<MemoryDisk, Error> {
        let file = directory.join(CHECKPOINT_FILE);
        let bytes = fs::read(&file)
            .map_err(|error| Error::engine(format!("read {}", file.display()), error))?;
        let rows = parse(&bytes)
            .ok_or_else(|| Error::Damaged(format!("{} fails its check", file.display())))?;
        Ok(MemoryDisk::holding(rows, seed, faults))
    }

    fn holding(durable: Rows, seed: u64, faults: Faults) -> MemoryDisk {
        MemoryDisk(Arc::new(Mutex::new(Disk {
            durable_bytes: durable.iter().map(|((_, key), value)| weight(key, value)).sum(),
            durable,
            unsynced: Vec::new(),
            unsynced_bytes: 0,
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
        disk.keep(kept);
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
            self.unsynced_bytes -= batch.weight() as u64;
            for change in batch.changes() {
                let (key, added, old) = match change {
                    Change::Put { table, key, value } => {
                        let row = Bytes::copy_from_slice(value);
                        let old = self.durable.insert((table, key.to_vec()), row);
                        (key, weight(key, value), old)
                    }
                    Change::Delete { table, key } => {
                        (key, 0, self.durable.remove(&(table, key.to_vec())))
                    }
                };
                let freed = old.map_or(0, |old| weight(key, &old));
                self.durable_bytes = self.durable_bytes + added - freed;
            }
        }
    }

    /// Makes the oldest `batches` batches durable and loses the others.
    fn keep(&mut self, batches: usize) {
        self.settle(batches);
        self.unsynced.clear();
        self.unsynced_bytes = 0;
    }

    fn push(&mut self, batch: &Batch) {
        self.unsynced_bytes += batch.weight() as u64;
        self.unsynced.push(batch.clone());
    }
}

fn weight(key: &[u8], value: &[u8]) -> u64 {
    (key.len() + value.len()) as u64
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
    /// Rows with versions that only a moment keeps.
    aged: BTreeSet<(Table, Vec<u8>)>,
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
        let rows = rows.map(|(key, value)| (key.clone(), vec![(0, Some(value.clone()))])).collect();
        let visible = Visible { rows, ..Visible::default() };
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
            let reason = if lost { "the power went" } else { "an earlier write or sync failed" };
            return Err(Error::engine(
                format!("{what} the store in memory"),
                io::Error::other(reason),
            ));
        }
        Ok(())
    }

    /// Drops some rows that nobody may miss, as a compaction in the background would.
    fn forget_some(&self, disk: &mut Disk) {
        let one_in = disk.faults.reclaim_one_in;
        if one_in == 0 || !disk.random.random_ratio(1, one_in) {
            return;
        }
        let mut visible = self.visible.write();
        let Visible { rows, aged, .. } = &mut *visible;
        rows.retain(|row, versions| {
            let newest = versions.last().and_then(|(_, value)| value.as_ref());
            let goes = newest.is_some_and(|value| self.may_forget(row, value))
                && disk.random.random_bool(0.5);
            if goes {
                aged.remove(row);
            }
            !goes
        });
        let Disk { durable, durable_bytes, random, .. } = disk;
        durable.retain(|row, value| {
            let goes = self.may_forget(row, value) && random.random_bool(0.5);
            if goes {
                *durable_bytes -= weight(&row.1, value);
            }
            !goes
        });
    }

    fn may_forget(&self, (table, key): &(Table, Vec<u8>), value: &[u8]) -> bool {
        table.forgets() && !(self.retain)(*table, key, value)
    }

    /// Holds the newest moment.
    fn hold(&self) -> Moment {
        let mut disk = self.disk.0.lock();
        self.forget_some(&mut disk);
        let mut visible = self.visible.write();
        let number = visible.newest;
        *visible.moments.entry(number).or_default() += 1;
        Moment { visible: self.visible.clone(), number }
    }
}

impl Visible {
    fn take(&mut self, batch: &Batch) {
        self.newest += 1;
        for change in batch.changes() {
            let (table, key, value) = match change {
                Change::Put { table, key, value } => {
                    (table, key, Some(Bytes::copy_from_slice(value)))
                }
                Change::Delete { table, key } => (table, key, None),
            };
            let row = (table, key.to_vec());
            self.rows.entry(row.clone()).or_default().push((self.newest, value));
            self.prune(row);
        }
    }

    /// Drops the versions of a row that nobody can read any more.
    fn prune(&mut self, row: (Table, Vec<u8>)) {
        let Some(versions) = self.rows.get_mut(&row) else {
            return;
        };
        let mut followers = versions.iter().skip(1).map(|(number, _)| *number).collect::<Vec<_>>();
        followers.reverse();
        versions.retain(|(number, _)| match followers.pop() {
            Some(next) => self.moments.range(*number..next).next().is_some(),
            None => true,
        });
        // Before its first version a row is not there, and a delete says no more than that.
        let there = versions.iter().position(|(_, value)| value.is_some());
        versions.drain(..there.unwrap_or(versions.len()));
        match versions.len() {
            0 => {
                self.rows.remove(&row);
                self.aged.remove(&row);
            }
            1 => {
                self.aged.remove(&row);
            }
            _ => {
                self.aged.insert(row);
            }
        }
    }

    fn release(&mut self, moment: u64) {
        let holders = self.moments.get_mut(&moment).expect("a moment is released once");
        *holders -= 1;
        if *holders == 0 {
            self.moments.remove(&moment);
            for row in std::mem::take(&mut self.aged) {
                self.prune(row);
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
    let newest = versions.iter().rev().find(|(number, _)| *number <= moment)?;
    newest.1.clone()
}

impl Engine for Memory {
    fn snapshot(&self) -> Arc<dyn Read> {
        Arc::new(self.hold())
    }

    fn write(&self, batch: &Batch) -> Result<(), Error> {
        let mut poisoned = self.poisoned.lock();
        self.refuse_if_poisoned(*poisoned, "write to")?;
        let mut disk = self.disk.0.lock();
        disk.writes += 1;
        let puts = batch.changes().any(|change| matches!(change, Change::Put { .. }));
        let used = disk.durable_bytes + disk.unsynced_bytes + batch.weight() as u64;
        if puts && disk.faults.full_at_bytes.is_some_and(|full| used > full) {
            return Err(self.fail(&mut poisoned, "write to", io::ErrorKind::StorageFull));
        }
        if disk.faults.failing_write == Some(disk.writes) {
            if disk.random.random_bool(0.5) {
                disk.push(batch);
            }
            return Err(self.fail(&mut poisoned, "write to", io::ErrorKind::Other));
        }
        disk.push(batch);
        self.visible.write().take(batch);
        self.forget_some(&mut disk);
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
            disk.keep(kept);
            return Err(self.fail(&mut poisoned, "sync", io::ErrorKind::Other));
        }
        disk.settle(batches);
        self.forget_some(&mut disk);
        Ok(())
    }

    fn checkpoint(&self, directory: &Path) -> Result<(), Error> {
        self.refuse_if_poisoned(*self.poisoned.lock(), "checkpoint")?;
        if directory.exists() {
            return Err(Error::Refused {
                path: directory.to_owned(),
                reason: "a checkpoint needs a name that is free".to_owned(),
            });
        }
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
            fs::create_dir(directory)?;
            let file = directory.join(CHECKPOINT_FILE);
            fs::write(&file, &bytes)?;
            File::open(&file)?.sync_all()?;
            File::open(directory)?.sync_all()?;
            match directory.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                Some(parent) => File::open(parent)?.sync_all(),
                None => Ok(()),
            }
        };
        write()
            .map_err(|error| Error::engine(format!("checkpoint to {}", directory.display()), error))
    }

    fn reclaim(&self, _table: Table, _span: Span<'_>) {
        // Rows go by the seed (`Faults::reclaim_one_in`), not by hints.
    }

    fn size(&self) -> Size {
        let disk = self.disk.0.lock();
        Size {
            disk: disk.durable_bytes,
            memory: disk.durable_bytes + disk.unsynced_bytes,
            unsynced: disk.unsynced_bytes,
        }
    }
}

impl Read for Memory {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Error> {
        Ok(self.visible.read().get(table, key, u64::MAX))
    }

    fn cursor<'r>(&'r self, table: Table, span: Span<'r>) -> Result<Box<dyn Cursor + 'r>, Error> {
        let held = self.hold();
        let (visible, moment) = (&*self.visible, held.number);
        Ok(Box::new(Place { visible, _held: Some(held), table, span, moment, at: At::Start }))
    }
}

/// A moment that is held: versions it can see are kept.
struct Moment {
    visible: Arc<RwLock<Visible>>,
    number: u64,
}

impl Read for Moment {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Error> {
        Ok(self.visible.read().get(table, key, self.number))
    }

    fn cursor<'r>(&'r self, table: Table, span: Span<'r>) -> Result<Box<dyn Cursor + 'r>, Error> {
        let (visible, moment) = (&*self.visible, self.number);
        Ok(Box::new(Place { visible, _held: None, table, span, moment, at: At::Start }))
    }
}

impl Drop for Moment {
    fn drop(&mut self) {
        self.visible.write().release(self.number);
    }
}

struct Place<'r> {
    visible: &'r RwLock<Visible>,
    /// The moment of a cursor that has one of its own.
    _held: Option<Moment>,
    table: Table,
    span: Span<'r>,
    moment: u64,
    at: At,
}

enum At {
    Start,
    Row(Vec<u8>, Bytes),
    End,
}

impl Place<'_> {
    fn go(&mut self, from: Bound<&[u8]>) -> Option<KeyAndValue<'_>> {
        let found = self.visible.read().first(self.table, from, self.span.upper, self.moment);
        self.at = found.map_or(At::End, |(key, value)| At::Row(key, value));
        match &self.at {
            At::Row(key, value) => Some((key, value)),
            At::Start | At::End => None,
        }
    }
}

impl Cursor for Place<'_> {
    fn next(&mut self) -> Result<Option<KeyAndValue<'_>>, Error> {
        Ok(match std::mem::replace(&mut self.at, At::End) {
            At::Start => self.go(Bound::Included(self.span.lower)),
            At::Row(key, _) => self.go(Bound::Excluded(&key)),
            At::End => None,
        })
    }

    fn seek(&mut self, key: &[u8]) -> Result<Option<KeyAndValue<'_>>, Error> {
        Ok(self.go(Bound::Included(key.max(self.span.lower))))
    }
}

/// Opens an engine in memory for whatever directory it is given, and the same one again for the same
/// directory. A directory that holds a checkpoint is loaded from it. One that was removed and made anew is
/// a new one, whatever its name.
pub struct MemoryFactory {
    seed: u64,
    disks: Mutex<HashMap<PathBuf, Known>>,
}

struct Known {
    /// What the disk's file in the directory says.
    name: String,
    disk: MemoryDisk,
}

impl MemoryFactory {
    #[must_use]
    pub fn new(seed: u64) -> MemoryFactory {
        MemoryFactory { seed, disks: Mutex::new(HashMap::new()) }
    }

    /// The disk behind a directory that was opened.
    #[must_use]
    pub fn disk(&self, directory: &Path) -> Option<MemoryDisk> {
        self.disks.lock().get(directory).map(|known| known.disk.clone())
    }

    fn make(&self, directory: &Path, number: u64) -> Result<Known, Error> {
        // Names are never given twice, by any factory: a directory may be copied to another's.
        static NAMED: AtomicU64 = AtomicU64::new(0);
        let name = NAMED.fetch_add(1, Ordering::Relaxed).to_string();
        let seed = self.seed + number;
        let disk = if directory.join(CHECKPOINT_FILE).exists() {
            MemoryDisk::from_checkpoint(directory, seed, Faults::default())?
        } else {
            MemoryDisk::new(seed, Faults::default())
        };
        fs::create_dir_all(directory)
            .and_then(|()| fs::write(directory.join(DISK_FILE), &name))
            .map_err(|error| Error::engine(format!("open {}", directory.display()), error))?;
        Ok(Known { name, disk })
    }
}

impl Open for MemoryFactory {
    fn open(&self, directory: &Path, retain: Retain) -> Result<Arc<dyn Engine>, Error> {
        let mut disks = self.disks.lock();
        let name = fs::read_to_string(directory.join(DISK_FILE)).ok();
        if let Some(known) = disks.get(directory)
            && name.as_ref() == Some(&known.name)
        {
            return Ok(Memory::open(&known.disk, retain));
        }
        let made = self.make(directory, disks.len() as u64)?;
        let engine = Memory::open(&made.disk, retain);
        disks.insert(directory.to_owned(), made);
        Ok(engine)
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
        let table = Table::ALL.into_iter().find(|table| *table as u8 == *number)?;
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
