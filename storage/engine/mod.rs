//! Where bytes rest: a small contract, and the two engines that keep it.
//!
//! [`rocks`] is the real one; it is the only file that names RocksDB.
//! [`memory`] is a seeded one that can crash, tear, fill up and fail, for tests and simulation.
//! Both pass the one suite in `engine/contract.rs`.
//!
//! What the contract says, and what `Store` relies on:
//! - A [`Batch`] is atomic: after a crash all of it is there or nothing, across all tables.
//! - Batches are ordered: after a crash, if one is there, so is every earlier one.
//! - A written batch can be read at once, but is durable only after a later [`Engine::sync`] returned.
//!   Durability in between is the duty of the log from which the store is replayed.
//! - An error from `write` or `sync` is final: the engine takes no more writes. What was written last may
//!   or may not be there after reopening.
//! - In the background the engine may drop any row of [`Table::Past`] and [`Table::Changes`] for which
//!   [`Retain`] says false, under snapshots and cursors too, and at once on disk: after a crash such a row
//!   may be gone although newer batches are gone as well. Engines do not hide what they have not dropped
//!   yet: readers pass over it, so that nobody can see whether it is still there.
//! - Dropping an engine syncs nothing: it is a crash that the operating system survives. Sync before, for a
//!   short replay at the next start.

pub mod memory;
pub mod rocks;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::Error;

#[cfg(test)]
mod contract;

/// The tables of the store. Numbers are on disk and are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// Small facts: format, identity, applied mark, revision, compaction.
    Meta = 0,
    /// The newest version of every key that exists. User key to record.
    Live = 1,
    /// Superseded versions and deletes, until they are compacted. Escaped key and revision to record.
    Past = 2,
    /// What changed in which revision. Revision and sub-number to a pointer at the key.
    Changes = 3,
    /// Leases by id.
    Leases = 4,
    /// Keys attached to leases: id and user key to nothing.
    LeaseKeys = 5,
    /// Users, roles and alarms; filled by later formats.
    System = 6,
}

impl Table {
    pub const ALL: [Table; 7] = [
        Table::Meta,
        Table::Live,
        Table::Past,
        Table::Changes,
        Table::Leases,
        Table::LeaseKeys,
        Table::System,
    ];

    /// The name under which an engine keeps the table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Table::Meta => "meta",
            Table::Live => "live",
            Table::Past => "past",
            Table::Changes => "changes",
            Table::Leases => "leases",
            Table::LeaseKeys => "lease_keys",
            Table::System => "system",
        }
    }

    /// Whether [`Retain`] is asked for the table's rows. All others stay until they are deleted.
    #[must_use]
    pub fn forgets(self) -> bool {
        matches!(self, Table::Past | Table::Changes)
    }
}

/// Changes that become visible, and after a crash are there, together. One buffer, however many rows.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    rows: Vec<Row>,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    table: Table,
    start: usize,
    key_end: usize,
    /// `None` deletes the key.
    value_end: Option<usize>,
}

/// One row of a [`Batch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'b> {
    Put { table: Table, key: &'b [u8], value: &'b [u8] },
    Delete { table: Table, key: &'b [u8] },
}

impl Batch {
    #[must_use]
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Sets `key` to `value`, each given in pieces that are laid end to end.
    pub fn put(&mut self, table: Table, key: &[&[u8]], value: &[&[u8]]) {
        let start = self.bytes.len();
        key.iter().for_each(|piece| self.bytes.extend_from_slice(piece));
        let key_end = self.bytes.len();
        value.iter().for_each(|piece| self.bytes.extend_from_slice(piece));
        self.rows.push(Row { table, start, key_end, value_end: Some(self.bytes.len()) });
    }

    pub fn delete(&mut self, table: Table, key: &[&[u8]]) {
        let start = self.bytes.len();
        key.iter().for_each(|piece| self.bytes.extend_from_slice(piece));
        self.rows.push(Row { table, start, key_end: self.bytes.len(), value_end: None });
    }

    /// The rows in the order in which they were added; a later one for the same key wins.
    pub fn changes(&self) -> impl Iterator<Item = Change<'_>> {
        self.rows.iter().map(|row| {
            let key = &self.bytes[row.start..row.key_end];
            match row.value_end {
                Some(end) => {
                    Change::Put { table: row.table, key, value: &self.bytes[row.key_end..end] }
                }
                None => Change::Delete { table: row.table, key },
            }
        })
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Bytes of keys and values in the batch.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.bytes.len()
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.rows.clear();
    }
}

/// Bounds of a scan: `lower` included, `upper` excluded, `None` for the table's end.
#[derive(Clone, Copy, Debug)]
pub struct Span<'k> {
    pub lower: &'k [u8],
    pub upper: Option<&'k [u8]>,
}

/// A row as a cursor shows it.
pub type KeyAndValue<'c> = (&'c [u8], &'c [u8]);

/// A place in a table, at the moment at which it was made. It starts before the first row of its span: call
/// [`Cursor::next`] first. A span whose upper bound is not above its lower one is empty.
pub trait Cursor {
    /// Steps to the next row in key order; `None` at the end. The slices hold until the next call.
    fn next(&mut self) -> Result<Option<KeyAndValue<'_>>, Error>;

    /// Goes to the first row at or after `key` (never before the span) and returns it.
    fn seek(&mut self, key: &[u8]) -> Result<Option<KeyAndValue<'_>>, Error>;
}

/// What can be read: the engine itself, or one moment of it.
pub trait Read: Send + Sync {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Error>;

    fn cursor<'r>(&'r self, table: Table, span: Span<'r>) -> Result<Box<dyn Cursor + 'r>, Error>;

    /// The same over so much that a cache would keep nothing else: what it reads is kept in none.
    fn passing_cursor<'r>(
        &'r self,
        table: Table,
        span: Span<'r>,
    ) -> Result<Box<dyn Cursor + 'r>, Error> {
        self.cursor(table, span)
    }
}

/// Whether a row is still needed. Asked in the background, for any row of a table that
/// [forgets](Table::forgets), any number of times, from any thread; once it has said false for a row, it
/// never says true for that row again, not even after a crash: it must go by what a [`Engine::sync`] has
/// made durable. In [`Table::Changes`] it goes by key order: where it says false, it says so for every row
/// before.
pub type Retain = Arc<dyn Fn(Table, &[u8], &[u8]) -> bool + Send + Sync>;

/// Bytes at rest. Opening is each engine's own affair; see the head of this file for what they promise.
pub trait Engine: Read + 'static {
    /// One consistent moment, whatever is written afterwards. It holds resources: drop it soon.
    fn snapshot(&self) -> Arc<dyn Read>;

    /// Makes all rows of `batch` visible at once. Not durable by itself.
    fn write(&self, batch: &Batch) -> Result<(), Error>;

    /// Everything written before the call is durable when it returns. May take seconds; blocks no writer
    /// for longer than it takes to swap a buffer.
    fn sync(&self) -> Result<(), Error>;

    /// Writes a consistent copy of everything into `directory`, which must not exist, cheaply where the
    /// file system can link. The copy is durable when it returns, directory entry included.
    fn checkpoint(&self, directory: &Path) -> Result<(), Error>;

    /// A hint that many rows of `span` are no longer retained: give their space back, in the background.
    /// Returns at once. Hints that wait for the same table become one.
    fn reclaim(&self, table: Table, span: Span<'_>);

    /// Reads everything at rest and checks it. `pace` is told of the bytes read every mebibyte or so: it
    /// may sleep there so as not to crowd out others, or break off.
    fn scrub(&self, pace: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<(), Error> {
        let everything = Span { lower: &[], upper: None };
        for table in Table::ALL {
            if scan(&mut *self.cursor(table, everything)?, pace)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Bytes at rest, and bytes in memory.
    fn size(&self) -> Size;
}

/// How much a scrub reads before it tells its pace.
const SCRUB_STEP_BYTES: u64 = 1 << 20;

/// Reads on to the end, or until `pace` breaks off.
fn scan(
    rows: &mut (dyn Cursor + '_),
    pace: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, Error> {
    let mut read_bytes = 0;
    while let Some((key, value)) = rows.next()? {
        read_bytes += (key.len() + value.len()) as u64;
        if read_bytes >= SCRUB_STEP_BYTES && pace(std::mem::take(&mut read_bytes)).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(pace(read_bytes))
}

/// How an engine comes from a directory: for whoever must open one again, as after a snapshot was put in
/// its place, without knowing which engine it is.
///
/// A directory that is missing or empty becomes an empty engine. One directory has one engine at a time:
/// the former one, its snapshots and its cursors must be gone before.
pub trait Open: Send + Sync {
    fn open(&self, directory: &Path, retain: Retain) -> Result<Arc<dyn Engine>, Error>;
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    pub disk: u64,
    pub memory: u64,
    /// Bytes written since the last sync: what a restart would have to replay.
    pub unsynced: u64,
}
