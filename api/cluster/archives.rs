//! How the archives fare that a master makes by schedule: told by whoever makes them, shown in its status.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::wire::{ArchiveFailure, Archives};

/// Clones are the same record.
#[derive(Clone, Default)]
pub struct ArchiveRecord(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    every_s: u64,
    target: Option<String>,
    made: Option<Instant>,
    failure: Option<Failure>,
}

struct Failure {
    reason: String,
    turns: u64,
    last: Instant,
}

impl ArchiveRecord {
    /// They are made so often from now on, and copied to `target`.
    pub fn scheduled(&self, every_s: u64, target: Option<String>) {
        let mut state = self.0.lock();
        (state.every_s, state.target) = (every_s, target);
    }

    /// All of a turn is done. What failed before is made good by it.
    pub fn made(&self) {
        let mut state = self.0.lock();
        state.made = Some(Instant::now());
        state.failure = None;
    }

    /// A turn came to nothing, or to a half of it.
    pub fn failed(&self, reason: &str) {
        let mut state = self.0.lock();
        let turns = state.failure.as_ref().map_or(0, |failure| failure.turns) + 1;
        state.failure = Some(Failure { reason: reason.to_owned(), turns, last: Instant::now() });
    }

    /// `None` where none are made.
    pub(super) fn shown(&self) -> Option<Archives> {
        let state = self.0.lock();
        let ago = |at: &Instant| at.elapsed().as_secs();
        let failure = state.failure.as_ref().map(|failure| ArchiveFailure {
            reason: failure.reason.clone(),
            turns: failure.turns,
            ago_s: ago(&failure.last),
        });
        (state.every_s > 0).then(|| Archives {
            every_s: state.every_s,
            target: state.target.clone(),
            made_ago_s: state.made.as_ref().map(ago),
            failure,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failures_are_counted_until_a_turn_is_done() {
        let record = ArchiveRecord::default();
        assert!(record.shown().is_none(), "none are made");
        record.scheduled(60, Some("s3://backups/prod".into()));
        let shown = record.shown().unwrap();
        assert!(shown.made_ago_s.is_none() && shown.failure.is_none());
        record.failed("no way");
        record.failed("no way still");
        tokio::time::advance(Duration::from_secs(30)).await;
        let failure = record.shown().unwrap().failure.unwrap();
        assert_eq!((failure.turns, failure.ago_s), (2, 30));
        assert_eq!(failure.reason, "no way still");
        record.made();
        let shown = record.shown().unwrap();
        assert_eq!((shown.made_ago_s, shown.failure.is_none()), (Some(0), true));
    }
}
