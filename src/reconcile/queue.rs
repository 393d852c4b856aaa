//! Keys that wait for a worker.
//!
//! Keeps: a key is in the queue once, however often it was added, and with no two workers at a time; one
//! that is added while a worker has it comes back when the worker is done. Of two wishes for "later" the
//! earlier wins.
//! Never: drops a key; grows past the number of keys that exist.
//!
//! The delays after failures are upstream's (client-go `DefaultTypedControllerRateLimiter`): 5 ms, doubled each
//! time, at most 1,000 s.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::metrics::QueueMetrics;

const BACKOFF_FIRST: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_secs(1000);

/// A queue of one loop. All clones are the same queue.
pub struct Queue<T>(Arc<Inner<T>>);

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Queue(self.0.clone())
    }
}

struct Inner<T> {
    state: Mutex<State<T>>,
    changed: Notify,
    metrics: QueueMetrics,
}

struct State<T> {
    ready: VecDeque<(T, Instant)>,
    /// In `ready`, or to go there when the worker that has it is done.
    dirty: HashSet<T>,
    /// Since when a worker has each.
    working: HashMap<T, Instant>,
    /// When each key that waits for its time is due; the heap may hold older wishes beside.
    due: HashMap<T, Instant>,
    later: BinaryHeap<Reverse<(Instant, u64)>>,
    /// What the numbers in `later` stand for.
    tickets: HashMap<u64, T>,
    next_ticket: u64,
    failures: HashMap<T, u32>,
    closed: bool,
}

impl<T: Eq + Hash + Clone> Queue<T> {
    #[must_use]
    pub fn new(metrics: QueueMetrics) -> Queue<T> {
        Queue(Arc::new(Inner {
            state: Mutex::new(State {
                ready: VecDeque::new(),
                dirty: HashSet::new(),
                working: HashMap::new(),
                due: HashMap::new(),
                later: BinaryHeap::new(),
                tickets: HashMap::new(),
                next_ticket: 0,
                failures: HashMap::new(),
                closed: false,
            }),
            changed: Notify::new(),
            metrics,
        }))
    }

    pub fn add(&self, key: T) {
        let mut state = self.0.state.lock();
        self.0.put(&mut state, key);
    }

    /// Adds the key when `delay` has passed, unless it is due earlier already.
    pub fn add_after(&self, key: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let at = Instant::now() + delay;
        let mut state = self.0.state.lock();
        if state.due.get(&key).is_some_and(|due| *due <= at) {
            return;
        }
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.due.insert(key.clone(), at);
        state.tickets.insert(ticket, key);
        state.later.push(Reverse((at, ticket)));
        self.0.changed.notify_one();
    }

    /// Adds the key after a delay that grows with each failure in a row.
    pub fn add_after_failure(&self, key: T) {
        let delay = {
            let mut state = self.0.state.lock();
            let failures = state.failures.entry(key.clone()).or_insert(0);
            *failures = failures.saturating_add(1);
            backoff(*failures)
        };
        self.0.metrics.retried();
        self.add_after(key, delay);
    }

    /// The key succeeded: its next failure is its first.
    pub fn forget(&self, key: &T) {
        self.0.state.lock().failures.remove(key);
    }

    /// How often the key failed in a row.
    #[must_use]
    pub fn failures(&self, key: &T) -> u32 {
        self.0.state.lock().failures.get(key).copied().unwrap_or(0)
    }

    /// The next key, which nobody else gets before [`Queue::done`]. `None` when the queue is closed.
    pub async fn next(&self) -> Option<T> {
        loop {
            let wake_at = {
                let mut state = self.0.state.lock();
                if state.closed {
                    return None;
                }
                let now = Instant::now();
                self.0.promote(&mut state, now);
                if let Some((key, since)) = state.ready.pop_front() {
                    state.dirty.remove(&key);
                    state.working.insert(key.clone(), now);
                    self.0.metrics.taken(since, now, state.ready.len());
                    if !state.ready.is_empty() {
                        self.0.changed.notify_one();
                    }
                    return Some(key);
                }
                state.later.peek().map(|Reverse((at, _))| *at)
            };
            match wake_at {
                Some(at) => tokio::select! {
                    () = self.0.changed.notified() => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => self.0.changed.notified().await,
            }
        }
    }

    /// The worker is done with the key.
    pub fn done(&self, key: &T) {
        let mut state = self.0.state.lock();
        if let Some(begin) = state.working.remove(key) {
            self.0.metrics.worked(begin, begin.elapsed());
        }
        if state.dirty.contains(key) {
            state.ready.push_back((key.clone(), Instant::now()));
            self.0.metrics.depth(state.ready.len());
            self.0.changed.notify_one();
        }
    }

    /// Nobody gets anything from here on.
    pub fn close(&self) {
        self.0.state.lock().closed = true;
        self.0.changed.notify_waiters();
        self.0.changed.notify_one();
    }

    /// Keys that wait for a worker now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.state.lock().ready.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T: Eq + Hash + Clone> Inner<T> {
    fn put(&self, state: &mut State<T>, key: T) {
        state.due.remove(&key);
        if state.closed || !state.dirty.insert(key.clone()) {
            return;
        }
        self.metrics.added();
        if !state.working.contains_key(&key) {
            state.ready.push_back((key, Instant::now()));
            self.metrics.depth(state.ready.len());
            self.changed.notify_one();
        }
    }

    /// What is due goes to the others that are ready.
    fn promote(&self, state: &mut State<T>, now: Instant) {
        while let Some(Reverse((at, ticket))) = state.later.peek().copied() {
            if at > now {
                return;
            }
            state.later.pop();
            let Some(key) = state.tickets.remove(&ticket) else { continue };
            // An earlier wish, or an `add` meanwhile, has taken this one's place.
            if state.due.get(&key) == Some(&at) {
                self.put(state, key);
            }
        }
    }
}

fn backoff(failures: u32) -> Duration {
    let doubled = failures.saturating_sub(1).min(20);
    BACKOFF_FIRST.saturating_mul(1 << doubled).min(BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> Queue<&'static str> {
        Queue::new(QueueMetrics::unregistered("test"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_twice_is_worked_on_once() {
        let queue = queue();
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.next().await, Some("a"));
        assert_eq!(queue.next().await, Some("b"));
        assert!(queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_while_it_is_worked_on_comes_back_when_done() {
        let queue = queue();
        queue.add("a");
        assert_eq!(queue.next().await, Some("a"));
        queue.add("a");
        assert!(queue.is_empty(), "no second worker gets it");
        queue.done(&"a");
        assert_eq!(queue.next().await, Some("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_wishes_for_later_the_earlier_wins() {
        let queue = queue();
        let begin = Instant::now();
        queue.add_after("a", Duration::from_secs(30));
        queue.add_after("a", Duration::from_secs(10));
        queue.add_after("a", Duration::from_secs(20));
        assert_eq!(queue.next().await, Some("a"));
        assert_eq!(begin.elapsed().as_secs(), 10);
        queue.done(&"a");
        let again = tokio::time::timeout(Duration::from_secs(60), queue.next()).await;
        assert!(again.is_err(), "the later wishes are gone");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_wait_longer_each_time_and_success_forgets_them() {
        let queue = queue();
        let mut waits = Vec::new();
        for _ in 0..4 {
            let begin = Instant::now();
            queue.add_after_failure("a");
            assert_eq!(queue.next().await, Some("a"));
            waits.push(begin.elapsed().as_millis());
            queue.done(&"a");
        }
        assert!(waits.windows(2).all(|pair| pair[0] < pair[1]), "{waits:?}");
        queue.forget(&"a");
        assert_eq!(queue.failures(&"a"), 0);
        assert_eq!(backoff(60), BACKOFF_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_queue_lets_its_workers_go() {
        let queue = queue();
        let waiting = tokio::spawn({
            let queue = queue.clone();
            async move { queue.next().await }
        });
        tokio::task::yield_now().await;
        queue.close();
        assert_eq!(waiting.await.unwrap(), None);
    }
}
