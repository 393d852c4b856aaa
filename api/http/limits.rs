//! How many requests are served at a time, and how many wait for their turn.
//!
//! Keeps: who comes first is served first. Past what may wait, and past how long, a client is told to come
//! again: bursts are smoothed, overload is refused.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::error::Status;
use crate::request::Verb;

/// Upstream's `--max-requests-inflight` and `--max-mutating-requests-inflight`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub reads_max: usize,
    pub writes_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { reads_max: 400, writes_max: 200 }
    }
}

/// Requests that may wait, for each that is served. Of one that waits nothing is held but its head.
const WAITING_FOR_EACH: usize = 8;
/// Longer than a burst lasts; upstream's queues let go of a request after a quarter of its deadline.
const WAIT_MAX: Duration = Duration::from_secs(15);

/// Places that are still free. Long-running requests need none.
pub(super) struct Places {
    reads: Side,
    writes: Side,
}

struct Side {
    places: Arc<Semaphore>,
    waiting: Semaphore,
}

impl Side {
    fn new(places: usize) -> Side {
        let waiting = Semaphore::new(places * WAITING_FOR_EACH);
        Side { places: Arc::new(Semaphore::new(places)), waiting }
    }
}

impl Places {
    pub(super) fn new(limits: &Limits) -> Places {
        Places { reads: Side::new(limits.reads_max), writes: Side::new(limits.writes_max) }
    }

    /// A place until it is dropped, or the client is asked to come again.
    pub(super) async fn take(&self, verb: Verb) -> Result<OwnedSemaphorePermit, Status> {
        let side = match verb {
            Verb::Get | Verb::List | Verb::Watch => &self.reads,
            _ => &self.writes,
        };
        if let Ok(place) = side.places.clone().try_acquire_owned() {
            return Ok(place);
        }
        let busy = || Status::too_many_requests("Too many requests, please try again later.", 1);
        let _waiting = side.waiting.try_acquire().map_err(|_| busy())?;
        match timeout(WAIT_MAX, side.places.clone().acquire_owned()).await {
            Ok(Ok(place)) => Ok(place),
            _ => Err(busy()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn past_the_limit_a_request_waits_and_past_that_the_client_is_told_to_come_again() {
        let places = Places::new(&Limits { reads_max: 1, writes_max: 1 });
        let held = places.take(Verb::Get).await.unwrap();
        let refused = places.take(Verb::List).await.unwrap_err();
        assert_eq!((refused.code(), refused.details().unwrap().retry_after_seconds), (429, 1));
        assert!(places.take(Verb::Create).await.is_ok(), "writes have places of their own");
        let (waited, ()) = tokio::join!(places.take(Verb::List), async { drop(held) });
        let place = waited.expect("its turn has come");
        let mut waiting: Vec<_> =
            (0..=WAITING_FOR_EACH).map(|_| Box::pin(places.take(Verb::Get))).collect();
        let mut last = waiting.pop().unwrap();
        for one in &mut waiting {
            assert!(futures::poll!(one).is_pending());
        }
        let last = futures::poll!(&mut last);
        assert!(matches!(last, std::task::Poll::Ready(Err(_))), "so many may not wait");
        drop(place);
    }
}
