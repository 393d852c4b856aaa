//! Hands leadership over when this member's disk is too slow to lead.
//!
//! A leader's disk is in the way of every write; a follower's only when two of three are slow. So a leader
//! whose log stands still for an election timeout, or is slow again and again, lets a healthy voter lead.
//!
//! Keeps: hands over at most once in a while. Where every disk is slow, nobody is the better leader, and
//! changing it over and over would only make it worse.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::log::{Histogram, SYNC_SECONDS_BOUNDS};
use crate::membership;
use crate::replica::Inner;

/// How often the log's pace is looked at.
const WINDOW: Duration = Duration::from_secs(10);

/// Syncs in a window without which nothing can be said of its pace.
const WINDOW_SYNCS_MIN: u64 = 20;

/// A member that handed over for being slow does not do so again before this.
const SLOW_AGAIN_AFTER: Duration = Duration::from_secs(300);

pub(crate) async fn run(replica: Arc<Inner>) {
    let timeout = Duration::from_millis(replica.config.election_timeout_ms.0);
    let mut window = (Instant::now(), replica.log_syncs());
    let mut handed_over: Option<Instant> = None;
    loop {
        tokio::select! {
            biased;
            () = tokio::time::sleep(timeout / 4) => {}
            () = replica.stop.cancelled() => return,
        }
        let stalled = replica.log_stall() >= timeout;
        let mut slow = false;
        if window.0.elapsed() >= WINDOW {
            let syncs = replica.log_syncs();
            slow = is_slow(&window.1, &syncs, timeout / 2);
            window = (Instant::now(), syncs);
        }
        let rest = if stalled { timeout * 4 } else { SLOW_AGAIN_AFTER };
        let rested = handed_over.is_none_or(|at| at.elapsed() >= rest);
        if (stalled || slow)
            && rested
            && replica.is_leader()
            && let Some(successor) = membership::successor(&replica)
        {
            tracing::warn!(stalled, %successor, "the disk is too slow to lead; handing over");
            handed_over = Some(Instant::now());
            if let Err(fatal) = replica.raft().trigger().transfer_leader(successor).await {
                replica.note_fatal(&fatal);
            }
        }
    }
}

/// Whether at least one in a hundred of the syncs in between took longer than `limit`.
fn is_slow(before: &Histogram, after: &Histogram, limit: Duration) -> bool {
    let count = after.count.saturating_sub(before.count);
    if count < WINDOW_SYNCS_MIN {
        return false;
    }
    // Buckets whose lower bound is the limit or more hold only what is surely slow.
    let first = SYNC_SECONDS_BOUNDS.partition_point(|bound| *bound < limit.as_secs_f64()) + 1;
    let slow: u64 = (first..after.buckets.len())
        .map(|bucket| after.buckets[bucket].saturating_sub(before.buckets[bucket]))
        .sum();
    slow * 100 >= count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn syncs(quick: u64, slow: u64) -> Histogram {
        let mut buckets = vec![0; SYNC_SECONDS_BOUNDS.len() + 1];
        buckets[1] = quick;
        buckets[SYNC_SECONDS_BOUNDS.len() - 2] = slow;
        Histogram { buckets, count: quick + slow, sum: 0.0 }
    }

    #[test]
    fn a_disk_is_slow_when_one_sync_in_a_hundred_is() {
        let limit = Duration::from_millis(500);
        assert!(!is_slow(&syncs(0, 0), &syncs(1000, 0), limit));
        assert!(!is_slow(&syncs(0, 0), &syncs(1000, 5), limit));
        assert!(is_slow(&syncs(0, 0), &syncs(1000, 20), limit));
        // What was slow before the window counts no more.
        assert!(!is_slow(&syncs(1000, 20), &syncs(2000, 20), limit));
        assert!(!is_slow(&syncs(0, 0), &syncs(0, 5), limit), "too few to say");
    }
}
