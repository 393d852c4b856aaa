//! The door for the one writer: takes commits, keeps the ring, tells the groups they reach.
//!
//! Keeps true: a commit is in the ring and in every group it reaches before the hub's revision
//! says so, and before anyone is woken for it. A batch is entered under one lock, so whoever
//! registers sees all of it or nothing.
//! Never: work for a group that a commit does not reach; a wait for a watcher. What others do
//! under the hub's lock is bounded: enter or remove a range, copy some pointers of the ring.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::Waker;

use parking_lot::Mutex;

use super::group::{Group, Match};
use super::ring::{Recent, Ring};
use super::router::{GroupId, Router};
use super::{Commit, Cut, History, Options, Request, Stats, Watcher};
use crate::record::Event;
use crate::request::KeyRange;
use crate::revision::Revision;

/// Where all watchers of one store meet its writer. Clones are handles of the same hub.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) options: Options,
    /// The newest revision that was published. Written under the lock, read by every watcher
    /// without.
    revision: AtomicU64,
    compacted: AtomicU64,
    watchers: AtomicUsize,
    state: Mutex<State>,
}

struct State {
    ring: Ring,
    router: Router,
    groups: Vec<Option<Registered>>,
    free: Vec<GroupId>,
    by_range: HashMap<KeyRange, GroupId>,
    closed: bool,
}

struct Registered {
    group: Arc<Group>,
    /// The commit that is being entered, if it reached this group, and the place in what it
    /// reached.
    reached: Option<(Revision, usize)>,
}

impl Hub {
    /// A hub for a store that is at `revision` and has forgotten what lies before `compacted`.
    /// Everything up to `revision` is history to it.
    #[must_use]
    pub fn new(options: Options, revision: Revision, compacted: Revision) -> Hub {
        let state = State {
            ring: Ring::new(options.ring_bytes, revision.next()),
            router: Router::default(),
            groups: Vec::new(),
            free: Vec::new(),
            by_range: HashMap::new(),
            closed: false,
        };
        let inner = Inner {
            options,
            revision: AtomicU64::new(revision.0),
            compacted: AtomicU64::new(compacted.0),
            watchers: AtomicUsize::new(0),
            state: Mutex::new(state),
        };
        Hub { inner: Arc::new(inner) }
    }

    /// Tells of commits whose batch is written. Called by the one writer, with ascending
    /// revisions.
    pub fn publish(&self, commits: Vec<Commit>) {
        let Some(newest) = commits.last().map(|commit| commit.revision) else {
            return;
        };
        let mut to_wake = Vec::new();
        let mut state = self.inner.state.lock();
        let mut before = self.inner.revision();
        for commit in commits {
            let revision = commit.revision;
            assert!(before < revision, "revision {revision} is published after {before}");
            before = revision;
            state.enter(commit, &mut to_wake);
        }
        self.inner.revision.store(newest.0, Ordering::Release);
        drop(state);
        for group in to_wake {
            group.wake();
        }
    }

    /// The store is at `revision` without anything to tell.
    pub fn advance(&self, revision: Revision) {
        let _state = self.inner.state.lock();
        let before = self.inner.revision();
        assert!(before <= revision, "revision {revision} is announced after {before}");
        self.inner.revision.store(revision.0, Ordering::Release);
    }

    /// What was superseded at or before `revision` is about to be forgotten. Who still reads older
    /// history is cut; who is served from memory is not.
    pub fn compacted(&self, revision: Revision) {
        self.inner.compacted.fetch_max(revision.0, Ordering::AcqRel);
    }

    /// A snapshot took the place of the data: every watcher is cut, and the hub begins anew.
    /// Called by the one writer, when new reads are answered from the new data already.
    pub fn reset(&self, revision: Revision, compacted: Revision) {
        let mut state = self.inner.state.lock();
        self.inner.revision.store(revision.0, Ordering::Release);
        self.inner.compacted.store(compacted.0, Ordering::Release);
        state.ring = Ring::new(self.inner.options.ring_bytes, revision.next());
        let wakers = state.cut_all(&Cut::TooOld { revision, compacted });
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// The store shuts down: watchers end, and so does every later one at once.
    pub fn close(&self) {
        let mut state = self.inner.state.lock();
        state.closed = true;
        let wakers = state.cut_all(&Cut::Closed);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Starts to watch. What is wrong with the request comes out of the watcher as its first
    /// answer.
    ///
    /// The hub has no bound on watchers: each belongs to a stream of a front, and those are
    /// counted there.
    #[must_use]
    pub fn watch(&self, request: Request, history: Arc<dyn History>) -> Watcher {
        let mut state = self.inner.state.lock();
        let now = self.inner.revision();
        let compacted = self.inner.oldest();
        let start = if request.start == Revision::ZERO { now.next() } else { request.start };
        if state.closed {
            return Watcher::ended(self.inner.clone(), request, start, history, Cut::Closed);
        }
        if request.start != Revision::ZERO && start < compacted {
            let cut = Cut::Compacted { compacted };
            return Watcher::ended(self.inner.clone(), request, start, history, cut);
        }
        let group = state.group_of(&request.range, now.next());
        let place = group.join(start);
        drop(state);
        self.inner.watchers.fetch_add(1, Ordering::Relaxed);
        Watcher::new(self.inner.clone(), request, start, history, group, place)
    }

    /// The newest revision that was published.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.inner.revision()
    }

    #[must_use]
    pub fn stats(&self) -> Stats {
        let state = self.inner.state.lock();
        let groups: Vec<Arc<Group>> =
            state.groups.iter().flatten().map(|registered| registered.group.clone()).collect();
        let (ring_commits, ring_bytes) = (state.ring.len(), state.ring.bytes());
        drop(state);
        Stats {
            watchers: self.inner.watchers.load(Ordering::Relaxed),
            groups: groups.len(),
            ring_commits,
            ring_bytes,
            lagging: groups.iter().map(|group| group.lagging()).sum(),
        }
    }
}

impl Inner {
    pub(super) fn revision(&self) -> Revision {
        Revision(self.revision.load(Ordering::Acquire))
    }

    /// The oldest revision from which history is complete.
    pub(super) fn oldest(&self) -> Revision {
        Revision(self.compacted.load(Ordering::Acquire))
    }

    pub(super) fn recent(&self, from: Revision) -> Recent {
        let state = self.state.lock();
        state.ring.recent(from, self.revision())
    }

    /// A watcher is gone; returns where it stood. The last of a group takes the group with it.
    pub(super) fn leave(&self, group: &Arc<Group>, place: usize) -> Revision {
        self.watchers.fetch_sub(1, Ordering::Relaxed);
        let (cursor, empty) = group.leave(place);
        if empty {
            // Someone may have joined meanwhile, or another may have removed it already: under the
            // lock it is decided once.
            self.state.lock().remove_if_empty(group);
        }
        cursor
    }
}

impl State {
    /// Puts a commit into the groups it reaches and into the ring. Adds to `to_wake` each group
    /// that did not have to be woken already.
    fn enter(&mut self, commit: Commit, to_wake: &mut Vec<Arc<Group>>) {
        let reached = self.route(&commit);
        let mut groups = Vec::with_capacity(reached.len());
        for (group, events) in reached {
            let all = events.len() == commit.events.len();
            let events = if all { commit.events.clone() } else { events.into() };
            if group.push(Match::new(commit.revision, events)) {
                to_wake.push(group.clone());
            }
            groups.push(group);
        }
        self.ring.push(commit, groups);
    }

    /// The groups a commit reaches, each with its events in sub order.
    fn route(&mut self, commit: &Commit) -> Vec<(Arc<Group>, Vec<Arc<Event>>)> {
        let mut all: Vec<(Arc<Group>, Vec<Arc<Event>>)> = Vec::new();
        let (router, groups) = (&self.router, &mut self.groups);
        for event in commit.events.iter() {
            router.reach(&event.kv.key, |id| {
                let registered = groups[id].as_mut().expect("the router knows no other groups");
                match registered.reached {
                    Some((revision, place)) if revision == commit.revision => {
                        all[place].1.push(event.clone());
                    }
                    _ => {
                        registered.reached = Some((commit.revision, all.len()));
                        all.push((registered.group.clone(), vec![event.clone()]));
                    }
                }
            });
        }
        all
    }

    /// The group of a range; a new one is told of everything from `floor` on.
    fn group_of(&mut self, range: &KeyRange, floor: Revision) -> Arc<Group> {
        if let Some(id) = self.by_range.get(range) {
            let registered = self.groups[*id].as_ref();
            return registered.expect("a listed range has a group").group.clone();
        }
        let group = Arc::new(Group::new(range.clone(), floor));
        let registered = Some(Registered { group: group.clone(), reached: None });
        let id = match self.free.pop() {
            Some(id) => {
                self.groups[id] = registered;
                id
            }
            None => {
                self.groups.push(registered);
                self.groups.len() - 1
            }
        };
        self.by_range.insert(range.clone(), id);
        self.router.insert(range, id);
        group
    }

    fn remove_if_empty(&mut self, group: &Arc<Group>) {
        let Some(id) = self.by_range.get(&group.range).copied() else {
            return;
        };
        let registered = self.groups[id].as_ref().expect("a listed range has a group");
        if !Arc::ptr_eq(&registered.group, group) || !group.is_empty() {
            return;
        }
        self.by_range.remove(&group.range);
        self.router.remove(&group.range, id);
        self.groups[id] = None;
        self.free.push(id);
        group.retire();
    }

    /// Cuts every watcher and forgets the groups. Returns the wakers to call once no lock is held.
    fn cut_all(&mut self, cut: &Cut) -> Vec<Waker> {
        self.by_range.clear();
        self.router = Router::default();
        self.free.clear();
        let groups = mem::take(&mut self.groups);
        groups.iter().flatten().flat_map(|registered| registered.group.cut(cut)).collect()
    }
}
