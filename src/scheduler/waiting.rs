//! Pods that wait for a node.
//!
//! Keeps: the most important first, then who has waited longest. A pod that found no node waits until something
//! changes that might help, and at least as long as its backoff; after five minutes it is tried anyway.
//! A change that comes while a pod is being decided on is not missed: it counts for that pod too.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::priority;
use crate::reconcile::Key;

/// Upstream's `podInitialBackoffSeconds` and `podMaxBackoffSeconds`.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Upstream's `podMaxInUnschedulablePodsDuration`.
const PATIENCE: Duration = Duration::from_secs(300);

type Rank = (Reverse<i32>, u64);

#[derive(Default)]
pub struct Waiting {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    pods: HashMap<Key, Entry>,
    active: BTreeSet<(Rank, Key)>,
    /// Due at a time: those that back off, and those whose patience ends.
    later: BTreeMap<(Instant, u64), Key>,
    number: u64,
    /// Those that wait for a change that might help.
    unfit: HashSet<Key>,
    /// Goes up with each change that might help.
    changes: u64,
}

struct Entry {
    pod: Arc<Pod>,
    attempts: u32,
    /// Since when, as a number that only grows.
    since: u64,
    seen: Instant,
    place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Active,
    /// Somebody decides on it, who saw this many changes.
    Taken {
        changes: u64,
    },
    /// Until a time, whatever happens.
    BackingOff {
        until: Instant,
        ticket: u64,
    },
    /// Until something changes, no sooner than `earliest`.
    Unfit {
        earliest: Instant,
        until: Instant,
        ticket: u64,
    },
}

/// How many pods wait, by what they wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub active: usize,
    pub backing_off: usize,
    pub unfit: usize,
}

impl Waiting {
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for entry in self.state.lock().pods.values() {
            match entry.place {
                Place::Active => counts.active += 1,
                Place::BackingOff { .. } => counts.backing_off += 1,
                Place::Unfit { .. } => counts.unfit += 1,
                Place::Taken { .. } => {}
            }
        }
        counts
    }

    /// A pod without a node, as it is now. One that is known already and has changed in what it asks for
    /// is tried at once.
    pub fn put(&self, key: &Key, pod: Arc<Pod>) {
        let mut state = self.state.lock();
        if let Some(entry) = state.pods.get_mut(key) {
            let same =
                entry.pod.spec == pod.spec && entry.pod.metadata.labels == pod.metadata.labels;
            entry.pod = pod;
            if same || !matches!(entry.place, Place::Unfit { .. }) {
                return;
            }
            state.activate(key);
        } else {
            let since = state.next_number();
            let (seen, place) = (Instant::now(), Place::Taken { changes: 0 });
            let entry = Entry { pod, attempts: 0, since, seen, place };
            state.pods.insert(key.clone(), entry);
            state.activate(key);
        }
        self.changed.notify_one();
    }

    /// The pod has a node, or is gone.
    pub fn remove(&self, key: &Key) {
        let mut state = self.state.lock();
        state.withdraw(key);
        state.pods.remove(key);
    }

    /// How often the pod was tried, and since when it has been known; nothing where it waits no more.
    #[must_use]
    pub fn tries(&self, key: &Key) -> Option<(u32, Duration)> {
        let state = self.state.lock();
        state.pods.get(key).map(|entry| (entry.attempts, entry.seen.elapsed()))
    }

    /// The next pod to decide on. It comes back by [`Waiting::failed`], or is removed.
    pub async fn next(&self) -> (Key, Arc<Pod>) {
        loop {
            let due = {
                let mut state = self.state.lock();
                state.promote(Instant::now());
                if let Some((_, key)) = state.active.pop_first() {
                    let changes = state.changes;
                    if let Some(entry) = state.pods.get_mut(&key) {
                        entry.place = Place::Taken { changes };
                        entry.attempts += 1;
                        return (key.clone(), entry.pod.clone());
                    }
                    continue;
                }
                state.later.first_key_value().map(|((at, _), _)| *at)
            };
            match due {
                Some(at) => tokio::select! {
                    () = self.changed.notified() => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => self.changed.notified().await,
            }
        }
    }

    /// The pod got no node. `soon` when that is no fault of the cluster (a binding that failed).
    pub fn failed(&self, key: &Key, soon: bool) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let changes = state.changes;
        let ticket = state.next_number();
        let Some(entry) = state.pods.get_mut(key) else { return };
        let Place::Taken { changes: seen } = entry.place else { return };
        let now = Instant::now();
        let earliest = now + backoff(entry.attempts);
        let until = if soon || changes != seen {
            entry.place = Place::BackingOff { until: earliest, ticket };
            earliest
        } else {
            entry.place = Place::Unfit { earliest, until: now + PATIENCE, ticket };
            state.unfit.insert(key.clone());
            now + PATIENCE
        };
        state.later.insert((until, ticket), key.clone());
        self.changed.notify_one();
    }

    /// Something changed that might give a pod a place.
    pub fn stir(&self) {
        let mut state = self.state.lock();
        state.changes += 1;
        if state.unfit.is_empty() {
            return;
        }
        let now = Instant::now();
        for key in std::mem::take(&mut state.unfit) {
            let Some(Place::Unfit { earliest, .. }) = state.pods.get(&key).map(|it| it.place)
            else {
                continue;
            };
            if earliest <= now {
                state.activate(&key);
            } else {
                state.withdraw(&key);
                let ticket = state.next_number();
                if let Some(entry) = state.pods.get_mut(&key) {
                    entry.place = Place::BackingOff { until: earliest, ticket };
                }
                state.later.insert((earliest, ticket), key);
            }
        }
        self.changed.notify_one();
    }
}

impl State {
    fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    fn activate(&mut self, key: &Key) {
        self.withdraw(key);
        if let Some(entry) = self.pods.get_mut(key) {
            entry.place = Place::Active;
            self.active.insert(((Reverse(priority(&entry.pod)), entry.since), key.clone()));
        }
    }

    /// Takes the key out of where it waits.
    fn withdraw(&mut self, key: &Key) {
        let Some(entry) = self.pods.get(key) else { return };
        match entry.place {
            Place::Active => {
                let rank = (Reverse(priority(&entry.pod)), entry.since);
                self.active.remove(&(rank, key.clone()));
            }
            Place::BackingOff { until, ticket } => {
                self.later.remove(&(until, ticket));
            }
            Place::Unfit { until, ticket, .. } => {
                self.later.remove(&(until, ticket));
                self.unfit.remove(key);
            }
            Place::Taken { .. } => {}
        }
    }

    fn promote(&mut self, now: Instant) {
        while let Some(entry) = self.later.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let key = entry.remove();
            self.activate(&key);
        }
    }
}

fn backoff(attempts: u32) -> Duration {
    BACKOFF_FIRST.saturating_mul(1 << attempts.saturating_sub(1).min(8)).min(BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(priority: i32) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({"spec": {"priority": priority, "containers": []}}))
                .unwrap(),
        )
    }

    fn key(name: &str) -> Key {
        Key::new("ns", name)
    }

    #[tokio::test(start_paused = true)]
    async fn the_most_important_goes_first_then_who_came_first() {
        let waiting = Waiting::default();
        for (name, priority) in [("low", 0), ("high", 9), ("low-too", 0)] {
            waiting.put(&key(name), pod(priority));
        }
        for expected in ["high", "low", "low-too"] {
            assert_eq!(waiting.next().await.0.name, expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_fits_nowhere_waits_for_a_change_and_its_backoff() {
        let waiting = Waiting::default();
        waiting.put(&key("p"), pod(0));
        waiting.next().await;
        waiting.failed(&key("p"), false);
        let begin = Instant::now();
        waiting.stir();
        waiting.next().await;
        assert_eq!(begin.elapsed(), BACKOFF_FIRST);
        waiting.failed(&key("p"), false);
        let begin = Instant::now();
        waiting.next().await;
        assert_eq!(begin.elapsed(), PATIENCE, "nothing changed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_while_it_is_decided_on_counts() {
        let waiting = Waiting::default();
        waiting.put(&key("p"), pod(0));
        waiting.next().await;
        waiting.stir();
        waiting.failed(&key("p"), false);
        let begin = Instant::now();
        waiting.next().await;
        assert_eq!(begin.elapsed(), BACKOFF_FIRST);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_is_gone_is_not_handed_out() {
        let waiting = Waiting::default();
        waiting.put(&key("p"), pod(0));
        waiting.remove(&key("p"));
        waiting.put(&key("q"), pod(0));
        assert_eq!(waiting.next().await.0.name, "q");
    }
}
