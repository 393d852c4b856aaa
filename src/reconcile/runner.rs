//! Takes keys out of a queue and has them reconciled, a number of them at a time.
//!
//! Keeps: a key that failed comes back, later each time; a key that succeeded starts afresh. When the token is
//! cancelled, what is under way ends where it next waits.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use kontiki_api::Status;
use kontiki_api::error::Reason;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::queue::Queue;

/// When a key is to be looked at again, apart from when something changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    WhenChanged,
    After(Duration),
    /// Soon, and later each time: what was needed is not there yet, which is no failure worth a word.
    Again,
}

/// One control loop: brings one object's world to what the object asks for.
pub trait Reconcile: Send + Sync + 'static {
    type Key: std::hash::Hash + Eq + Clone + Send + Sync + std::fmt::Display + 'static;

    /// As upstream's list of controllers names it.
    fn name(&self) -> &'static str;

    fn reconcile(&self, key: &Self::Key) -> impl Future<Output = Result<Next, Status>> + Send;
}

/// Runs `workers` workers of a loop until `stop`.
pub async fn run<R: Reconcile>(
    reconciler: Arc<R>,
    queue: Queue<R::Key>,
    workers: usize,
    stop: CancellationToken,
) {
    let mut running = JoinSet::new();
    for _ in 0..workers.max(1) {
        running.spawn(work(reconciler.clone(), queue.clone(), stop.clone()));
    }
    stop.cancelled().await;
    queue.close();
    while let Some(ended) = running.join_next().await {
        if let Err(error) = ended
            && error.is_panic()
        {
            tracing::error!(controller = reconciler.name(), "a worker panicked");
        }
    }
}

async fn work<R: Reconcile>(reconciler: Arc<R>, queue: Queue<R::Key>, stop: CancellationToken) {
    while let Some(key) = queue.next().await {
        // A panic of one key ends neither the worker nor the other keys.
        let attempt = tokio::spawn({
            let (reconciler, key) = (reconciler.clone(), key.clone());
            async move { reconciler.reconcile(&key).await }
        });
        let abort = attempt.abort_handle();
        let result = tokio::select! {
            result = attempt => result.unwrap_or_else(|panic| Err(Status::internal(panic))),
            () = stop.cancelled() => {
                abort.abort();
                return;
            }
        };
        settle(reconciler.name(), &queue, &key, &result);
        queue.done(&key);
    }
}

fn settle<K: std::hash::Hash + Eq + Clone + std::fmt::Display>(
    name: &str,
    queue: &Queue<K>,
    key: &K,
    result: &Result<Next, Status>,
) {
    match result {
        Ok(Next::WhenChanged) => queue.forget(key),
        Ok(Next::After(delay)) => {
            queue.forget(key);
            queue.add_after(key.clone(), *delay);
        }
        Ok(Next::Again) => queue.add_after_failure(key.clone()),
        Err(status) => {
            // A lost race is daily life: the next look sees what won.
            if status.is(Reason::Conflict) || status.is(Reason::AlreadyExists) {
                tracing::debug!(controller = name, %key, %status, "lost a race, trying again");
            } else {
                tracing::warn!(controller = name, %key, %status, "failed, trying again later");
            }
            queue.add_after_failure(key.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::reconcile::metrics::QueueMetrics;

    struct Fails(AtomicUsize);

    impl Reconcile for Fails {
        type Key = String;

        fn name(&self) -> &'static str {
            "fails"
        }

        async fn reconcile(&self, key: &String) -> Result<Next, Status> {
            let attempt = self.0.fetch_add(1, Ordering::Relaxed);
            match attempt {
                0 => Err(Status::internal("not yet")),
                1 => panic!("a bug in the loop of {key}"),
                _ => Ok(Next::WhenChanged),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_fails_or_panics_is_tried_until_it_succeeds() {
        let queue = Queue::new(QueueMetrics::unregistered("fails"));
        let stop = CancellationToken::new();
        let reconciler = Arc::new(Fails(AtomicUsize::new(0)));
        queue.add("a".to_owned());
        let running = tokio::spawn(run(reconciler.clone(), queue.clone(), 2, stop.clone()));
        while reconciler.0.load(Ordering::Relaxed) < 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(reconciler.0.load(Ordering::Relaxed), 3, "a success is not repeated");
        assert_eq!(queue.failures(&"a".to_owned()), 0);
        stop.cancel();
        running.await.unwrap();
    }
}
