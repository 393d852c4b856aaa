//! Drives a connection once for all that has happened to it, not once for each thing.
//!
//! One change can have something to say on a thousand streams of a few connections. Each stream is a task
//! and wakes its connection, and the scheduler runs what was woken last at once: so every answer would be
//! written by itself. A connection that is busy waits here until what can run has run, a few times at
//! most while more comes, and then writes all of it together.
//!
//! Keeps: whoever wakes the connection is heard. Who is alone on it waits for nobody.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::task::AtomicWaker;

/// How often a connection lets others go first while more comes in for it.
const PASSES_MAX: u32 = 4;

/// What the connection is woken by: its task hears of the first ring only.
#[derive(Default)]
struct Bell {
    task: AtomicWaker,
    rings: AtomicU64,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.rings.fetch_add(1, Ordering::AcqRel) == 0 {
            self.task.wake();
        }
    }
}

pub(super) struct Turn {
    bell: Arc<Bell>,
    waker: Waker,
    /// Rings when the connection last let others go first.
    heard: u64,
    passes: u32,
}

impl Turn {
    /// Of a connection that is to be driven at once.
    pub(super) fn new() -> Turn {
        let bell = Arc::new(Bell { rings: AtomicU64::new(1), ..Bell::default() });
        Turn { waker: Waker::from(bell.clone()), bell, heard: 0, passes: 0 }
    }

    /// Has the connection driven although nothing has happened to it.
    pub(super) fn ring(&self) {
        self.waker.wake_by_ref();
    }

    /// Calls `drive` when something has happened to the connection. `busy`: several may have something to
    /// say on it.
    pub(super) fn poll<T>(
        &mut self,
        context: &mut Context<'_>,
        busy: bool,
        drive: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        self.bell.task.register(context.waker());
        let rings = self.bell.rings.load(Ordering::Acquire);
        if rings == 0 {
            return Poll::Pending;
        }
        if busy && rings != self.heard && self.passes < PASSES_MAX {
            (self.heard, self.passes) = (rings, self.passes + 1);
            let_others_run(context);
            return Poll::Pending;
        }
        (self.heard, self.passes) = (0, 0);
        // From here on a ring is for the next turn.
        self.bell.rings.swap(0, Ordering::AcqRel);
        drive(&mut Context::from_waker(&self.waker))
    }
}

/// Has the runtime wake this task once others have had their turn.
fn let_others_run(context: &mut Context<'_>) {
    let mut yielding = pin!(tokio::task::yield_now());
    // It asks for that when it is polled first, and does nothing afterwards.
    let asked = yielding.as_mut().poll(context);
    debug_assert!(asked.is_pending(), "a yield that does not yield");
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::AtomicUsize;

    use tokio::sync::Semaphore;
    use tokio::task::JoinSet;

    use super::*;

    /// A connection on which many say something at the same moment. How often it is driven for that.
    async fn driven(many: usize, busy: bool) -> usize {
        let said = Arc::new(AtomicUsize::new(0));
        let waker = Arc::new(AtomicWaker::new());
        let (driven, at_rest) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let begun = Arc::new(Semaphore::new(0));
        let mut tasks = JoinSet::new();
        for _ in 0..many {
            let (said, waker, begun) = (said.clone(), waker.clone(), begun.clone());
            tasks.spawn(async move {
                begun.acquire().await.unwrap().forget();
                said.fetch_add(1, Ordering::AcqRel);
                waker.wake();
            });
        }
        let connection = tokio::spawn({
            let (said, waker, driven, at_rest) =
                (said.clone(), waker.clone(), driven.clone(), at_rest.clone());
            async move {
                let mut turn = Turn::new();
                poll_fn(|context| {
                    turn.poll(context, busy, |context| {
                        waker.register(context.waker());
                        // Before it is told that it rests: what is said from there on is for another turn.
                        let heard = said.load(Ordering::Acquire);
                        driven.fetch_add(1, Ordering::Relaxed);
                        at_rest.add_permits(1);
                        if heard == many { Poll::Ready(()) } else { Poll::Pending }
                    })
                })
                .await;
            }
        });
        at_rest.acquire().await.unwrap().forget();
        driven.store(0, Ordering::Relaxed);
        begun.add_permits(many);
        connection.await.unwrap();
        driven.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn a_busy_connection_is_driven_once_for_all_that_was_said_at_a_time() {
        assert_eq!(driven(40, true).await, 1);
    }

    #[tokio::test]
    async fn a_connection_with_one_request_is_driven_at_once() {
        assert_eq!(driven(1, false).await, 1);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn nothing_that_was_said_is_missed_from_whatever_thread() {
        for busy in [true, false] {
            for many in [1, 2, 50, 500] {
                // It returns: all were heard.
                assert!(driven(many, busy).await >= 1);
            }
        }
    }

    #[tokio::test]
    async fn who_rings_without_a_cause_has_it_driven() {
        let mut turn = Turn::new();
        let mut context = Context::from_waker(Waker::noop());
        let pending = |_: &mut Context<'_>| Poll::<()>::Pending;
        assert!(turn.poll(&mut context, false, |_| Poll::Ready(())).is_ready());
        assert!(turn.poll(&mut context, false, pending).is_pending());
        assert!(turn.poll(&mut context, false, |_| Poll::Ready(())).is_pending(), "nothing rang");
        turn.ring();
        assert!(turn.poll(&mut context, false, |_| Poll::Ready(())).is_ready());
    }
}
