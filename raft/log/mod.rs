//! A segmented, append-only log: entries, the vote and what goes with them, durable in one order.
//!
//! It knows nothing of openraft: ids, votes and payloads are bytes. `docs/formats/log.md` draws
//! the files and says what each kind of damage leads to; [`verdict`] decides it.
//!
//! Keeps: what a callback reported durable is there after any crash, unaltered and in order, or
//! opening fails with [`OpenError::Amnesia`]; never less, never silently. What was not reported
//! may be gone, from the end backwards only. A torn end is cut off and told apart from damage.
//! Keeps: any error of the disk is final. The same file is never written again after one.
//!
//! The way of a record: [`Log::append`] puts it into the `cache` (readable at once) and the queue
//! (`stream`); the `flusher` encodes what waits (`format`), writes it as a group with a ring slot,
//! syncs once and calls back; `segment` remembers where each entry lies; `spares` keeps the next
//! segment ready. `recovery` reads it all again (`scan`, `replay`), and `verdict` judges the end.
//!
//! Memory: the cache, one group's buffer, four to eight bytes per entry that was not purged.
//! Indexes begin at one; openraft's begin at zero, so whoever adapts the two adds one.

mod awake;
mod cache;
mod disk;
mod error;
mod files;
mod flusher;
mod format;
mod metrics;
mod read;
mod recovery;
mod replay;
mod scan;
mod segment;
mod sim_disk;
mod spares;
mod stream;
mod verdict;

#[cfg(test)]
mod tests;

use std::any::Any;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

pub use disk::{Disk, File, RealDisk};
pub use error::OpenError;
pub use metrics::{GROUP_RECORDS_BOUNDS, Histogram, Metrics, SYNC_SECONDS_BOUNDS};
pub use sim_disk::{Faults, SimDisk};

use cache::Cache;
use error::Doing;
use flusher::Flusher;
use format::{Carry, DATA_OFFSET, PAGE_BYTES, record_bytes};
use read::{read_entry, read_run};
use spares::Spares;
use stream::{Core, Operation, Shared, Submitted, closed, share};

/// Whose log it is. Another one's files are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cluster: u64,
    pub node: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlusherMode {
    /// A thread writes and syncs, another one prepares segments.
    Thread,
    /// Every call writes and syncs before it returns: for simulation, where nothing may run by
    /// itself.
    Inline,
}

impl FlusherMode {
    fn has_threads(self) -> bool {
        self == FlusherMode::Thread
    }
}

#[derive(Clone, Debug)]
pub struct Options {
    /// Of new segments; whole pages, below 4 GiB.
    pub segment_bytes: u64,
    /// For entries in memory. What is not durable is kept beyond it.
    pub cache_bytes: usize,
    pub flusher: FlusherMode,
    /// A write that takes longer counts as failed. Time in which the whole process stood still is left out.
    pub stall_max: Duration,
    /// A group grows no larger, unless by a single record.
    pub group_bytes_max: usize,
    /// How long without work until the anchor vouches for the last group.
    pub vouch_after: Duration,
    /// Write zeros over all of a segment before it is used. Without it, on a file system that fails under
    /// the process, a sync may succeed and what it was for be gone (`files` says how).
    pub zeros_written_ahead: bool,
}

/// The first segment's length where zeros are written ahead: a first start waits for little.
const FIRST_SEGMENT_BYTES: u64 = 8 << 20;

impl Default for Options {
    fn default() -> Options {
        Options {
            segment_bytes: 64 << 20,
            cache_bytes: 16 << 20,
            flusher: FlusherMode::Thread,
            stall_max: Duration::from_secs(10),
            group_bytes_max: 4 << 20,
            vouch_after: Duration::from_millis(200),
            zeros_written_ahead: true,
        }
    }
}

/// An entry. Cheap to clone: the bytes are shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// From one on, without gaps.
    pub index: u64,
    /// The log id, opaque and small.
    pub id: Bytes,
    pub payload: Bytes,
}

impl Record {
    fn bytes(&self) -> usize {
        self.id.len() + self.payload.len()
    }
}

/// Called once, when the operation and all before it are durable, or never will be; in the order
/// of submission, mostly on the flusher's thread: it should be short and must not block.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// What an opened log holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The first entry that is there, or would be: one above the last purged.
    pub first: u64,
    /// The last entry, or the last purged one when no entry is left.
    pub last: Option<(u64, Bytes)>,
    pub purged: Option<(u64, Bytes)>,
    pub vote: Option<Bytes>,
    pub committed: Option<Bytes>,
    /// Of an unacknowledged write that was cut off.
    pub truncated_tail_bytes: u64,
    pub segments: usize,
    /// The directory was empty. Whoever knows that this member has been here before must treat
    /// that as amnesia.
    pub created: bool,
    /// Witnesses that were damaged or missing, and written anew because the records were whole.
    pub repaired: Vec<String>,
}

/// What was submitted so far; ahead of the disk, except `durable_index`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    pub first: u64,
    pub last: Option<(u64, Bytes)>,
    pub purged: Option<(u64, Bytes)>,
    pub vote: Option<Bytes>,
    pub committed: Option<Bytes>,
    /// Entries up to here are durable.
    pub durable_index: u64,
}

/// A handle; clones are the same log, and dropping the last one closes it.
#[derive(Clone)]
pub struct Log {
    handle: Arc<Handle>,
}

struct Handle {
    core: Arc<Core>,
    /// With [`FlusherMode::Inline`].
    inline: Option<Mutex<Flusher>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Others are kept out while this is here.
    directory_lock: Mutex<Option<Box<dyn Any + Send + Sync>>>,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("state", &self.state()).finish_non_exhaustive()
    }
}

/// How many entries' places are looked up at a time while reading.
const RUN_ENTRIES_MAX: usize = 1024;
/// What a segment keeps free for the state it carries over: a vote, two ids and their frames.
const CARRY_BYTES_MAX: u64 = 4096;
/// Votes, ids and committed marks are small; three of them have to fit into `CARRY_BYTES_MAX`.
const MARK_BYTES_MAX: usize = 1024;

impl Log {
    /// Opens the log on `disk`, or creates one when the disk is empty.
    pub fn open(
        disk: Arc<dyn Disk>,
        identity: Identity,
        options: Options,
    ) -> Result<(Log, Opened), OpenError> {
        let Options { segment_bytes, .. } = options;
        assert!(
            segment_bytes.is_multiple_of(PAGE_BYTES)
                && segment_bytes >= DATA_OFFSET + 2 * CARRY_BYTES_MAX
                && u32::try_from(segment_bytes).is_ok(),
            "segments of {segment_bytes} bytes"
        );
        let directory_lock = disk.lock().map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => OpenError::Refused {
                what: "another process has the log open".to_owned(),
                advice: "stop that process, or give this one a data directory of its own"
                    .to_owned(),
            },
            _ => OpenError::Io { what: "lock the log's directory".to_owned(), source: error },
        })?;
        let written_ahead = options.zeros_written_ahead;
        let bytes =
            if written_ahead { segment_bytes.min(FIRST_SEGMENT_BYTES) } else { segment_bytes };
        let first = recovery::First { bytes, written_ahead };
        let recovered = recovery::recover(&*disk, identity, first)?;
        let opened = recovery::opened(&recovered);
        let recovery::Recovered { segments, active, anchor, replay, .. } = recovered;
        let metrics = Arc::new(Metrics::default());
        let carry = Carry {
            vote: replay.vote.clone(),
            purged: replay.purged.clone(),
            committed: replay.committed.clone(),
        };
        let last = replay.last;
        let shared = Shared {
            last,
            last_id: replay.last_id,
            purged: replay.purged,
            vote: replay.vote,
            committed: replay.committed,
            committed_due: false,
            cache: Cache::new(options.cache_bytes),
            segments,
            truncations: 0,
            submitted: 0,
            durable: 0,
            queue: Default::default(),
            closing: false,
            stopped: None,
        };
        let spares = Spares::new(disk.clone(), segment_bytes, written_ahead, metrics.clone());
        let threads = options.flusher.has_threads();
        let core = Arc::new(Core::new(disk, identity, options, shared, spares, metrics));
        let flusher = Flusher::new(core.clone(), active, anchor, carry, last);
        let mut handle = Handle {
            core: core.clone(),
            inline: None,
            threads: Mutex::new(Vec::new()),
            directory_lock: Mutex::new(Some(directory_lock)),
        };
        if threads {
            let clock = core.clone();
            let spares = move || {
                if let Err(error) = core.spares.run() {
                    core.fail(error);
                }
            };
            let spawned = [
                spawn("log-flusher", move || flusher.run())?,
                spawn("log-spares", spares)?,
                spawn("log-awake", move || clock.awake.run())?,
            ];
            handle.threads = Mutex::new(spawned.into());
        } else {
            handle.inline = Some(Mutex::new(flusher));
        }
        Ok((Log { handle: Arc::new(handle) }, opened))
    }

    /// Appends entries. They can be read at once; `done` is called when they are durable.
    /// Never blocks on the disk (but with [`FlusherMode::Inline`]); see [`Log::pending_bytes`].
    pub fn append(&self, records: Vec<Record>, done: Done) {
        let bytes = records.iter().map(|r| record_bytes(r.id.len(), r.payload.len())).sum();
        let max = self.record_bytes_max();
        let is_long = |r: &&Record| record_bytes(r.id.len(), r.payload.len()) > max;
        if let Some(Record { index, .. }) = records.iter().find(is_long) {
            // It may come from a peer that was set up otherwise; this member cannot go on without it.
            let reason = format!(
                "entry {index} does not fit into a segment, which takes {max} bytes; start this \
                 member with larger segments"
            );
            return done(Err(share(&self.core().fail(io::Error::other(reason)))));
        }
        self.submit(bytes, done, |shared| {
            let operation = shared.submitted;
            for record in &records {
                let next = shared.last + 1;
                assert_eq!(record.index, next, "entries must follow each other");
                shared.last = record.index;
                shared.last_id = Some(record.id.clone());
                shared.cache.push(operation, record.clone());
            }
            Ok(Operation::Append(records))
        });
    }

    pub fn save_vote(&self, vote: Bytes, done: Done) {
        assert_mark("vote", &vote);
        self.submit(record_bytes(0, vote.len()), done, |shared| {
            shared.vote = Some(vote.clone());
            Ok(Operation::Vote(vote))
        });
    }

    /// Goes with the next group; lost if there is none before a crash. Never causes a sync.
    pub fn save_committed(&self, committed: Bytes) {
        assert_mark("committed mark", &committed);
        let mut shared = self.core().shared.lock();
        shared.committed = Some(committed);
        shared.committed_due = true;
    }

    /// Drops the entries above `index_kept`; zero keeps none.
    pub fn truncate_after(&self, index_kept: u64, done: Done) {
        self.submit(record_bytes(0, 0), done, |shared| {
            let first = shared.first();
            assert!(index_kept + 1 >= first, "entries below {first} are purged, not truncated");
            if index_kept < shared.last {
                shared.last_id = id_of(shared, index_kept)?;
                shared.last = index_kept;
                shared.cache.truncate_after(index_kept);
                shared.truncations += 1;
            }
            Ok(Operation::Truncate(index_kept))
        });
    }

    /// Forgets the entries up to `upto`, whose id is `id`; it may lie above the last one, which
    /// the next entry then follows. Segments nobody needs are removed some time after the mark is
    /// durable.
    pub fn purge(&self, upto: u64, id: Bytes, done: Done) {
        assert_mark("id", &id);
        self.submit(record_bytes(id.len(), 0), done, |shared| {
            assert!(upto + 1 >= shared.first(), "purging up to {upto} would take back a purge");
            if upto >= shared.last {
                shared.last = upto;
                shared.last_id = Some(id.clone());
            }
            shared.purged = Some((upto, id.clone()));
            shared.cache.purge(upto);
            Ok(Operation::Purge(upto, id))
        });
    }

    /// The entries from `from` on and below `to_exclusive` that are there, without a gap, until
    /// they hold `bytes_max` bytes; at least one if there is any. From memory if they are recent,
    /// else from disk (blocking), where their checksums are verified: damage is an error of kind
    /// `InvalidData`.
    pub fn read(&self, from: u64, to_exclusive: u64, bytes_max: usize) -> io::Result<Vec<Record>> {
        let mut records: Vec<Record> = Vec::new();
        let mut truncations = None;
        loop {
            let shared = self.core().shared.lock();
            // Entries that were read and those still to read must be of one history.
            if truncations.replace(shared.truncations).is_some_and(|t| t != shared.truncations) {
                records.clear();
            }
            let next = records.last().map_or(from.max(shared.first()), |last| last.index + 1);
            let end = to_exclusive.min(shared.last + 1);
            if next >= end {
                return Ok(records);
            }
            let cached = shared.cache.first().unwrap_or(u64::MAX);
            if next >= cached {
                let mut bytes: usize = records.iter().map(Record::bytes).sum();
                for index in next..end {
                    if bytes >= bytes_max && !records.is_empty() {
                        break;
                    }
                    let record = shared.cache.get(index).expect("the cache reaches to the end");
                    bytes += record.bytes();
                    records.push(record.clone());
                }
                return Ok(records);
            }
            let count = (end.min(cached) - next).min(RUN_ENTRIES_MAX as u64) as usize;
            // A purge may have overtaken a read in steps; what it has is still right.
            let Some(run) = shared.segments.run(next, count) else {
                assert!(next < shared.first(), "entry {next} lies nowhere");
                return Ok(records);
            };
            drop(shared);
            if !read_run(&run, bytes_max, &mut records)? {
                return Ok(records);
            }
        }
    }

    pub fn state(&self) -> State {
        let shared = self.core().shared.lock();
        State {
            first: shared.first(),
            last: shared.last_id.clone().map(|id| (shared.last, id)),
            purged: shared.purged.clone(),
            vote: shared.vote.clone(),
            committed: shared.committed.clone(),
            durable_index: shared.durable_index(),
        }
    }

    pub fn metrics(&self) -> Arc<Metrics> {
        self.core().metrics.clone()
    }

    /// Becomes `Some` once, when the log has failed for good.
    pub fn failed(&self) -> watch::Receiver<Option<Arc<io::Error>>> {
        self.core().failed.subscribe()
    }

    /// To be asked regularly: an error when the log has failed, or when a write lasts longer than
    /// `stall_max`, which makes it fail. The owner then stops the process: a write that hangs
    /// can't be called back.
    pub fn health(&self) -> Result<(), Arc<io::Error>> {
        let failed = self.core().failed.borrow().clone();
        match failed {
            Some(error) => Err(error),
            None => match self.core().check_stall() {
                Some(stall) => Err(self.core().fail(stall)),
                None => Ok(()),
            },
        }
    }

    /// Submitted and not yet durable. There is no other bound: callers limit what they have in
    /// flight.
    pub fn pending_bytes(&self) -> u64 {
        self.core().metrics.pending_bytes.load(Ordering::Relaxed)
    }

    /// How much can certainly be written to space that is reserved already, in entries of up to 2
    /// MiB each and groups of whatever size. Below some segment's share, or shrinking: refuse new
    /// work, let through what frees space.
    pub fn room(&self) -> u64 {
        // What the end of a segment may waste, because the next entry doesn't fit.
        const WASTE_BYTES_MAX: u64 = 2 << 20;
        let core = self.core();
        let active = core.active_room.load(Ordering::Relaxed);
        let spare = match core.spares.is_ready() {
            true => core.options.segment_bytes - DATA_OFFSET - CARRY_BYTES_MAX,
            false => 0,
        };
        let both = active.saturating_sub(WASTE_BYTES_MAX.min(active)) + spare;
        both.max(active).saturating_sub(self.pending_bytes())
    }

    /// Writes what waits, vouches for it and ends the threads. What is submitted later fails.
    pub fn close(&self) {
        self.handle.close();
    }

    fn core(&self) -> &Core {
        &self.handle.core
    }

    fn record_bytes_max(&self) -> usize {
        (self.core().options.segment_bytes - DATA_OFFSET - CARRY_BYTES_MAX) as usize
    }

    /// Changes the state and queues the operation, as one step.
    fn submit(
        &self,
        bytes: usize,
        done: Done,
        apply: impl FnOnce(&mut Shared) -> io::Result<Operation>,
    ) {
        let core = self.core();
        let mut shared = core.shared.lock();
        let stopped = match shared.closing {
            true => Some(shared.stopped.clone().unwrap_or_else(closed)),
            false => shared.stopped.clone(),
        };
        if let Some(error) = stopped {
            drop(shared);
            return done(Err(share(&error)));
        }
        shared.submitted += 1;
        match apply(&mut shared) {
            Ok(operation) => {
                let bytes = bytes as u64;
                core.metrics.pending_bytes.fetch_add(bytes, Ordering::Relaxed);
                shared.queue.push_back(Submitted { operation, bytes, done });
                drop(shared);
            }
            Err(error) => {
                drop(shared);
                return done(Err(share(&core.fail(error))));
            }
        }
        match &self.handle.inline {
            None => {
                core.work.notify_one();
            }
            // Called from a callback: whoever holds the flusher goes on until the queue is empty.
            Some(inline) => {
                if let Some(mut flusher) = inline.try_lock() {
                    flusher.drain();
                }
            }
        }
    }
}

fn assert_mark(what: &str, bytes: &Bytes) {
    assert!(bytes.len() <= MARK_BYTES_MAX, "a {what} of {} bytes", bytes.len());
}

/// The id of an entry that is there, or of the last purged one. Rarely needs the disk.
fn id_of(shared: &Shared, index: u64) -> io::Result<Option<Bytes>> {
    if index < shared.first() {
        return Ok(shared.purged.as_ref().map(|(_, id)| id.clone()));
    }
    if let Some(record) = shared.cache.get(index) {
        return Ok(Some(record.id.clone()));
    }
    let run = shared.segments.run(index, 1).expect("an entry is in the cache or on disk");
    Ok(Some(read_entry(&run)?.id))
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, OpenError> {
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(run);
    Ok(spawned.doing("start the thread", name)?)
}

impl Handle {
    fn close(&self) {
        let core = &self.core;
        core.shared.lock().closing = true;
        core.work.notify_all();
        if let Some(mut inline) = self.inline.as_ref().and_then(Mutex::try_lock) {
            inline.close();
        }
        core.spares.stop();
        core.awake.stop();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            // The last handle may be dropped by a callback, on the flusher's own thread.
            if thread.thread().id() != thread::current().id() {
                // A panic has been reported through `failed` already.
                let _ = thread.join();
            }
        }
        *self.directory_lock.lock() = None;
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}
