//! What callers and the flusher share: the state as submitted, the queue, and what became of it.
//!
//! Keeps: the state is ahead of the disk, in the same order; operations are numbered from one, and
//! `durable` of them are on disk. Once `stopped` is set nothing is accepted and it stays set.
//! The queue has no bound of its own: its callers must not block, and what they may have in flight
//! is bounded by openraft and the batcher. `Metrics::pending_bytes` shows it.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use super::awake::Awake;
use super::cache::Cache;
use super::disk::Disk;
use super::metrics::Metrics;
use super::segment::Segments;
use super::spares::Spares;
use super::{Done, Identity, Options, Record};

pub(super) enum Operation {
    Append(Vec<Record>),
    Vote(Bytes),
    Truncate(u64),
    Purge(u64, Bytes),
}

pub(super) struct Submitted {
    pub(super) operation: Operation,
    pub(super) bytes: u64,
    pub(super) done: Done,
}

pub(super) struct Shared {
    pub(super) last: u64,
    pub(super) last_id: Option<Bytes>,
    pub(super) purged: Option<(u64, Bytes)>,
    pub(super) vote: Option<Bytes>,
    pub(super) committed: Option<Bytes>,
    /// The newest committed mark is not in the stream yet.
    pub(super) committed_due: bool,
    pub(super) cache: Cache,
    /// As of `durable`.
    pub(super) segments: Segments,
    /// Grows when entries are dropped from the end, so that a read in steps can start over.
    pub(super) truncations: u64,
    pub(super) submitted: u64,
    pub(super) durable: u64,
    pub(super) queue: VecDeque<Submitted>,
    pub(super) closing: bool,
    pub(super) stopped: Option<Arc<io::Error>>,
}

impl Shared {
    pub(super) fn first(&self) -> u64 {
        self.purged.as_ref().map_or(0, |(index, _)| *index) + 1
    }

    pub(super) fn durable_index(&self) -> u64 {
        self.cache.first_pending(self.durable).map_or(self.last, |pending| pending - 1)
    }
}

pub(super) struct Core {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) identity: Identity,
    pub(super) options: Options,
    pub(super) shared: Mutex<Shared>,
    /// The queue is no longer empty, or the log is closing.
    pub(super) work: Condvar,
    pub(super) spares: Spares,
    pub(super) metrics: Arc<Metrics>,
    pub(super) failed: watch::Sender<Option<Arc<io::Error>>>,
    /// What the active segment can still take.
    pub(super) active_room: AtomicU64,
    /// By which writes are timed.
    pub(super) awake: Awake,
    /// When the write under way began, in microseconds of `awake`; zero when there is none.
    busy_since: AtomicU64,
}

impl Core {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        identity: Identity,
        options: Options,
        shared: Shared,
        spares: Spares,
        metrics: Arc<Metrics>,
    ) -> Core {
        let awake = Awake::new(options.flusher.has_threads());
        Core {
            disk,
            identity,
            options,
            shared: Mutex::new(shared),
            work: Condvar::new(),
            spares,
            metrics,
            failed: watch::Sender::new(None),
            active_room: AtomicU64::new(0),
            awake,
            busy_since: AtomicU64::new(0),
        }
    }

    /// The log's files can't be trusted to take another write. The first reason stays.
    pub(super) fn fail(&self, error: io::Error) -> Arc<io::Error> {
        let mut shared = self.shared.lock();
        if let Some(error) = self.failed.borrow().clone() {
            return error;
        }
        let error = Arc::new(error);
        tracing::error!(%error, "the log has failed for good");
        shared.stopped = Some(error.clone());
        self.failed.send_replace(Some(error.clone()));
        error
    }

    /// Marks the time between two calls as spent on the disk.
    pub(super) fn busy(&self, busy: bool) {
        let since = match busy {
            true => self.awake.now().as_micros() as u64 + 1,
            false => 0,
        };
        self.busy_since.store(since, Ordering::Release);
    }

    pub(super) fn check_stall(&self) -> Option<io::Error> {
        let since = self.busy_since.load(Ordering::Acquire);
        let now = self.awake.now().as_micros() as u64 + 1;
        let stalled = if since == 0 { 0 } else { now.saturating_sub(since) };
        self.metrics.stall_micros.store(stalled, Ordering::Relaxed);
        let max = self.options.stall_max;
        (u128::from(stalled) > max.as_micros()).then(|| stall(max))
    }
}

pub(super) fn stall(max: std::time::Duration) -> io::Error {
    io::Error::new(
        io::ErrorKind::TimedOut,
        format!("the log's disk took longer than {max:?} to write; check the disk, then restart"),
    )
}

/// An error for one of many: they share the cause.
pub(super) fn share(error: &Arc<io::Error>) -> io::Error {
    io::Error::new(error.kind(), error.clone())
}

pub(super) fn closed() -> Arc<io::Error> {
    Arc::new(io::Error::new(io::ErrorKind::BrokenPipe, "the log is closed"))
}
