//! How far this member has come: what it has applied, and what of that is durable.
//!
//! Keeps: purged <= snapshot <= durable <= applied <= committed. Nothing here ever goes back.

use std::sync::atomic::{AtomicU64, Ordering};

use kontiki_storage::revision::{Index, Revision};
use tokio::sync::{Notify, watch};

/// What is applied, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    pub index: Index,
    pub revision: Revision,
}

#[derive(Debug)]
pub(crate) struct Progress {
    applied: watch::Sender<Applied>,
    durable: AtomicU64,
    /// Bytes applied since the store was last synced, by the weight of what was applied.
    unsynced_bytes: AtomicU64,
    flush_bytes: u64,
    pub flush_wanted: Notify,
}

impl Progress {
    pub(crate) fn new(applied: Applied, durable: Index, flush_bytes: u64) -> Progress {
        Progress {
            applied: watch::Sender::new(applied),
            durable: AtomicU64::new(durable.0),
            unsynced_bytes: AtomicU64::new(0),
            flush_bytes,
            flush_wanted: Notify::new(),
        }
    }

    pub(crate) fn applied(&self) -> Index {
        self.applied.borrow().index
    }

    pub(crate) fn durable(&self) -> Index {
        Index(self.durable.load(Ordering::Acquire))
    }

    /// Told by the state machine after each group it applied.
    pub(crate) fn note_applied(&self, applied: Applied, bytes: u64) {
        self.applied.send_modify(|known| {
            assert!(
                applied.index >= known.index && applied.revision >= known.revision,
                "applied goes back from {known:?} to {applied:?}"
            );
            *known = applied;
        });
        let before = self.unsynced_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before < self.flush_bytes && before + bytes >= self.flush_bytes {
            self.flush_wanted.notify_one();
        }
    }

    /// Told before the store is synced, so that what is applied meanwhile counts for the next time.
    pub(crate) fn note_flush_begins(&self) {
        self.unsynced_bytes.store(0, Ordering::Relaxed);
    }

    pub(crate) fn note_durable(&self, durable: Index) {
        let before = self.durable.fetch_max(durable.0, Ordering::AcqRel);
        assert!(
            durable <= self.applied(),
            "entry {durable} is durable, {} is applied, {before} was durable",
            self.applied()
        );
    }

    /// Waits until the entry at `index` is applied.
    pub(crate) async fn reached(&self, index: Index) {
        let mut applied = self.applied.subscribe();
        applied.wait_for(|applied| applied.index >= index).await.ok();
    }

    /// Waits until the store shows `revision`.
    pub(crate) async fn reached_revision(&self, revision: Revision) {
        let mut applied = self.applied.subscribe();
        applied.wait_for(|applied| applied.revision >= revision).await.ok();
    }
}
