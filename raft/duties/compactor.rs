//! Forgets history, on the leader only: what is older than an interval, where one is set; and, where the
//! disk is nearly full, all but the newest.
//!
//! Keeps: what was the newest revision `interval` ago, and everything after it, can still be read; on a
//! nearly full disk, what was the newest [`KEPT_WHEN_FULL`] ago. A new leader starts to count anew, so
//! history is kept longer after a change of leader, never shorter.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use kontiki_storage::request::Command;
use kontiki_storage::revision::Revision;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::replica::Inner;

/// History that stays when there is no space for data. Who watches is hardly further behind.
const KEPT_WHEN_FULL: Duration = Duration::from_secs(60);

/// How finely the age of revisions is known: this many samples in one interval.
const SAMPLES_PER_INTERVAL: u32 = 10;

pub(crate) async fn run(replica: Arc<Inner>, interval: Option<Duration>, stop: CancellationToken) {
    let shortest = interval.map_or(KEPT_WHEN_FULL, |interval| interval.min(KEPT_WHEN_FULL));
    let mut samples: VecDeque<(Instant, Revision)> = VecDeque::new();
    loop {
        samples.push_back((Instant::now(), replica.header().revision));
        let full = replica.room().is_err();
        // Where nothing is to be forgotten, samples still are.
        let kept = if full { shortest } else { interval.unwrap_or(shortest) };
        if let Some(revision) = outlived(&mut samples, Instant::now(), kept)
            && (full || interval.is_some())
            && revision > replica.store().compacted()
        {
            match replica.propose(Command::Compact(revision)).await {
                Ok(_) => tracing::debug!(%revision, full, "history is forgotten up to here"),
                // Someone else compacted further; or there was no leader, and the next round comes.
                Err(error) => tracing::debug!(%revision, %error, "not compacted"),
            }
        }
        tokio::select! {
            biased;
            () = tokio::time::sleep(shortest / SAMPLES_PER_INTERVAL) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// The newest revision that was the newest an interval ago. Samples up to it are dropped.
fn outlived(
    samples: &mut VecDeque<(Instant, Revision)>,
    now: Instant,
    interval: Duration,
) -> Option<Revision> {
    let mut found = None;
    while let Some((taken, revision)) = samples.front()
        && now.duration_since(*taken) >= interval
    {
        found = Some(*revision);
        samples.pop_front();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_what_is_older_than_the_interval_is_forgotten() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut samples: VecDeque<_> =
            (0..10).map(|i| (start + i * second, Revision(100 + u64::from(i)))).collect();
        assert_eq!(outlived(&mut samples, start + 4 * second, 5 * second), None);
        assert_eq!(outlived(&mut samples, start + 7 * second, 5 * second), Some(Revision(102)));
        assert_eq!(outlived(&mut samples, start + 7 * second, 5 * second), None);
        assert_eq!(samples.len(), 7);
    }
}
