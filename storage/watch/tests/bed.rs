//! A store in miniature: a journal of all commits, which is both the history that watchers read
//! and the truth they are compared with; and wakers that remember.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;

use crate::error::Error;
use crate::record::{Event, EventKind, KeyValue};
use crate::request::KeyRange;
use crate::revision::Revision;
use crate::watch::*;

/// Bounds so narrow that everything overflows soon.
pub(super) fn small() -> Options {
    Options { ring_bytes: 8 << 10, delivery_bytes_max: 2 << 10, history_bytes_max: 1 << 10 }
}

pub(super) struct Bed {
    pub(super) hub: Hub,
    pub(super) journal: Arc<Journal>,
}

impl Bed {
    pub(super) fn new(options: Options) -> Bed {
        let hub = Hub::new(options, Revision::EMPTY, Revision::ZERO);
        Bed { hub, journal: Arc::default() }
    }

    /// A bed whose hub starts after `before` has happened, as after a restart.
    pub(super) fn reopened(options: Options, before: impl FnOnce(&Bed)) -> Bed {
        let bed = Bed::new(options.clone());
        before(&bed);
        let hub = Hub::new(options, bed.journal.revision(), bed.journal.compacted());
        Bed { hub, journal: bed.journal }
    }

    pub(super) fn put(&self, keys: &[&str]) {
        self.commit(keys.iter().map(|key| (EventKind::Put, (*key).to_owned(), 10)));
    }

    pub(super) fn delete(&self, keys: &[&str]) {
        self.commit(keys.iter().map(|key| (EventKind::Delete, (*key).to_owned(), 0)));
    }

    pub(super) fn commit(&self, changes: impl Iterator<Item = (EventKind, String, usize)>) {
        self.hub.publish(vec![self.journal.write(changes)]);
    }

    pub(super) fn compact(&self, revision: u64) {
        self.hub.compacted(Revision(revision));
        self.journal.compact(Revision(revision));
    }

    pub(super) fn watch(&self, request: Request) -> Watcher {
        self.hub.watch(request, self.journal.clone())
    }
}

type Hook = Box<dyn FnOnce() + Send>;

#[derive(Default)]
pub(super) struct Journal {
    log: Mutex<Log>,
    hook: Mutex<Option<Hook>>,
    readings: AtomicUsize,
    fails: AtomicBool,
}

#[derive(Default)]
struct Log {
    /// The first one makes revision 2.
    commits: Vec<Commit>,
    compacted: Revision,
}

impl Journal {
    /// The next commit, with a value of the given length for each key.
    pub(super) fn write(
        &self,
        changes: impl Iterator<Item = (EventKind, String, usize)>,
    ) -> Commit {
        let mut log = self.log.lock();
        let revision = Revision(log.commits.len() as u64 + 2);
        let events = changes
            .map(|(kind, key, length)| {
                let value = vec![b'v'; length].into();
                let kv =
                    KeyValue { key: key.into(), value, modified: revision, ..Default::default() };
                Arc::new(Event::new(kind, kv, None))
            })
            .collect();
        let commit = Commit { revision, events };
        log.commits.push(commit.clone());
        commit
    }

    pub(super) fn revision(&self) -> Revision {
        Revision(self.log.lock().commits.len() as u64 + 1)
    }

    pub(super) fn compacted(&self) -> Revision {
        self.log.lock().compacted
    }

    pub(super) fn compact(&self, revision: Revision) {
        let mut log = self.log.lock();
        log.compacted = log.compacted.max(revision);
    }

    pub(super) fn readings(&self) -> usize {
        self.readings.load(Ordering::Relaxed)
    }

    pub(super) fn fail(&self) {
        self.fails.store(true, Ordering::Relaxed);
    }

    /// Does something once, after the next reading has seen the data and before it answers.
    pub(super) fn during_next_reading(&self, hook: impl FnOnce() + Send + 'static) {
        *self.hook.lock() = Some(Box::new(hook));
    }

    /// All that happened from a revision on, compacted or not, and the newest revision.
    pub(super) fn commits_from(&self, from: Revision) -> (Revision, Vec<Commit>) {
        let log = self.log.lock();
        let first = (from.0.max(2) - 2) as usize;
        let newest = Revision(log.commits.len() as u64 + 1);
        (newest, log.commits.iter().skip(first).cloned().collect())
    }

    /// One commit.
    pub(super) fn commit_at(&self, revision: Revision) -> Commit {
        self.log.lock().commits[revision.0 as usize - 2].clone()
    }
}

impl History for Journal {
    fn events(
        &self,
        range: &KeyRange,
        from: Revision,
        budget_bytes: usize,
    ) -> Result<Replay, Error> {
        self.readings.fetch_add(1, Ordering::Relaxed);
        if self.fails.load(Ordering::Relaxed) {
            return Err(Error::Damaged("the journal is torn".to_owned()));
        }
        let compacted = self.compacted();
        if from < compacted {
            return Err(Error::Compacted { asked: from, oldest: compacted });
        }
        let mut complete_to = self.revision();
        let (mut looked_at, mut commits) = (0, Vec::new());
        let first = (from.0.max(2) - 2) as usize;
        for place in first.. {
            let Some(commit) = self.log.lock().commits.get(place).cloned() else {
                break;
            };
            looked_at += commit.events.iter().map(|event| event.weight()).sum::<usize>();
            if looked_at > budget_bytes && place > first {
                complete_to = commit.revision.previous();
                break;
            }
            complete_to = complete_to.max(commit.revision);
            let inside = commit.events.iter().filter(|event| range.contains(&event.kv.key));
            let events: Arc<[Arc<Event>]> = inside.cloned().collect();
            if !events.is_empty() {
                commits.push(Commit { revision: commit.revision, events });
            }
        }
        if let Some(hook) = self.hook.lock().take() {
            hook();
        }
        Ok(Replay { commits, complete_to })
    }
}

/// A waker that only remembers that it was called.
#[derive(Clone, Default)]
pub(super) struct Flag(Arc<Woken>);

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Flag {
    pub(super) fn poll(&self, watcher: &mut Watcher) -> Poll<Result<Delivery, Cut>> {
        let waker = Waker::from(self.0.clone());
        watcher.poll_next(&mut Context::from_waker(&waker))
    }

    /// Whether it was woken since the last time.
    pub(super) fn take(&self) -> bool {
        self.0.0.swap(false, Ordering::SeqCst)
    }

    /// Whether someone else still holds it as a waker.
    pub(super) fn is_held(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

/// Events as text: kind, key, revision.
pub(super) fn keys(delivery: &Delivery) -> Vec<String> {
    let text = |event: &Arc<Event>| {
        let kind = if event.kind == EventKind::Put { "put" } else { "delete" };
        let key = String::from_utf8_lossy(&event.kv.key);
        format!("{kind} {key} {}", event.kv.modified)
    };
    delivery.events.iter().map(text).collect()
}
