//! How many requests are served at a time.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

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

/// Places that are still free. Long-running requests need none.
pub(super) struct Places {
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
}

impl Places {
    pub(super) fn new(limits: &Limits) -> Places {
        Places {
            reads: Arc::new(Semaphore::new(limits.reads_max)),
            writes: Arc::new(Semaphore::new(limits.writes_max)),
        }
    }

    /// A place until it is dropped, or the client is asked to come again.
    pub(super) fn take(&self, verb: Verb) -> Result<OwnedSemaphorePermit, Status> {
        let places = match verb {
            Verb::Get | Verb::List | Verb::Watch => &self.reads,
            _ => &self.writes,
        };
        places
            .clone()
            .try_acquire_owned()
            .map_err(|_| Status::too_many_requests("Too many requests, please try again later.", 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn past_the_limit_the_client_is_told_to_come_again() {
        let places = Places::new(&Limits { reads_max: 1, writes_max: 1 });
        let held = places.take(Verb::Get).unwrap();
        let refused = places.take(Verb::List).unwrap_err();
        assert_eq!((refused.code(), refused.details().unwrap().retry_after_seconds), (429, 1));
        assert!(places.take(Verb::Create).is_ok(), "writes have places of their own");
        drop(held);
        assert!(places.take(Verb::List).is_ok());
    }
}
