//! The watchers of one range, and the recent commits that reach them.
//!
//! Keeps true: from `floor` on, every published commit that touches the range is in `matches`,
//! whether or not anyone still has to read it. `floor` moves only when a match is evicted with its
//! commit from the ring; a range in which nothing happens keeps its floor, so an idle watcher
//! never falls behind. A member that waits was level when it began to wait, and is woken by the
//! next match.
//! Never: a queue per watcher; a waker called under the lock; more done under the lock than
//! copying pointers, `COPY_COMMITS_MAX` of them at most.
//!
//! Lock order: the hub's state, then one group. A watcher that is level takes only the group's.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;

use parking_lot::Mutex;

use super::Cut;
use crate::record::Event;
use crate::request::KeyRange;
use crate::revision::Revision;

/// Matches handed out at a time.
const COPY_COMMITS_MAX: usize = 512;

/// A deque that has seen a burst gives memory back once it is this much too large.
const SLACK_MAX: usize = 4;

pub(super) struct Group {
    pub(super) range: KeyRange,
    /// The revision of the newest match, or what came before the first; the largest there is once all are
    /// cut. Written under the lock, read without.
    newest: AtomicU64,
    state: Mutex<State>,
}

/// The events of one commit that lie in one range.
#[derive(Clone)]
pub(super) struct Match {
    pub(super) revision: Revision,
    pub(super) events: Arc<[Arc<Event>]>,
    /// What the events weigh.
    pub(super) bytes: usize,
}

struct State {
    matches: VecDeque<Match>,
    floor: Revision,
    /// The first match since the waiting were last woken.
    unannounced: Option<Revision>,
    members: Vec<Member>,
    free: Vec<usize>,
    waiting: Vec<Waiting>,
    /// Set once, when all watchers of the hub are cut.
    cut: Option<Cut>,
}

#[derive(Default)]
struct Member {
    /// False for a place that is free.
    present: bool,
    /// Nothing before this concerns the watcher any more: where it stood when it last looked, the
    /// match that woke it since (it was level before), or what it was told as its progress.
    /// Without this, a watcher that was told of its progress while its range was quiet would have
    /// to read history from where it last looked, should a burst then overtake it.
    cursor: Revision,
    /// Its place in `waiting`.
    waiting: Option<usize>,
}

struct Waiting {
    waker: Waker,
    member: usize,
}

/// What a watcher finds in its group. The revision is its new cursor.
pub(super) enum Reading {
    /// Something was put into the buffer.
    Matches(Revision),
    /// There is nothing to read; the waker is kept.
    Level(Revision),
    /// What it must read next is not, or no longer, here.
    Behind(Revision),
    Cut(Cut),
}

impl Match {
    pub(super) fn new(revision: Revision, events: Arc<[Arc<Event>]>) -> Match {
        let bytes = events.iter().map(|event| event.weight()).sum();
        Match { revision, events, bytes }
    }
}

impl Group {
    /// A group that will be told of everything from `floor` on.
    pub(super) fn new(range: KeyRange, floor: Revision) -> Group {
        let state = State {
            matches: VecDeque::new(),
            floor,
            unannounced: None,
            members: Vec::new(),
            free: Vec::new(),
            waiting: Vec::new(),
            cut: None,
        };
        Group { range, newest: AtomicU64::new(floor.previous().0), state: Mutex::new(state) }
    }

    /// Adds a watcher. Returns its place.
    pub(super) fn join(&self, cursor: Revision) -> usize {
        let mut state = self.state.lock();
        let member = Member { present: true, cursor, ..Member::default() };
        match state.free.pop() {
            Some(place) => {
                state.members[place] = member;
                place
            }
            None => {
                state.members.push(member);
                state.members.len() - 1
            }
        }
    }

    /// Takes a watcher out. Where it stood, and whether the group is now empty.
    pub(super) fn leave(&self, place: usize) -> (Revision, bool) {
        let mut state = self.state.lock();
        let waker = state.stop_waiting(place);
        assert!(state.members[place].present, "a watcher leaves its group twice");
        let cursor = mem::take(&mut state.members[place]).cursor;
        state.free.push(place);
        let empty = state.is_empty();
        drop(state);
        // Dropping a waker may drop the task behind it, and with it another watcher of this group.
        drop(waker);
        (cursor, empty)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.state.lock().is_empty()
    }

    /// Forgets the matches of a group that left the hub: the ring still points at it for a while.
    pub(super) fn retire(&self) {
        self.state.lock().matches = VecDeque::new();
    }

    /// Takes the newest match. Whether it is the first since [`Group::wake`], which must follow.
    pub(super) fn push(&self, newest: Match) -> bool {
        let mut state = self.state.lock();
        if let Some(last) = state.matches.back() {
            assert!(
                last.revision < newest.revision,
                "revision {} is published after {}",
                newest.revision,
                last.revision
            );
        }
        self.newest.store(newest.revision.0, Ordering::Release);
        let first = state.unannounced.is_none();
        if first {
            state.unannounced = Some(newest.revision);
        }
        state.matches.push_back(newest);
        first
    }

    /// The ring lets go of a commit that reached this group.
    pub(super) fn evict(&self, revision: Revision) {
        let mut state = self.state.lock();
        // A retired group has none, and a cut one neither.
        if state.matches.front().is_none_or(|first| first.revision != revision) {
            return;
        }
        state.matches.pop_front();
        state.floor = revision.next();
        if state.matches.len() * SLACK_MAX < state.matches.capacity() {
            let room = state.matches.len() * 2;
            state.matches.shrink_to(room);
        }
    }

    /// Wakes everyone who waits, for the matches pushed since the last time.
    pub(super) fn wake(&self) {
        let mut state = self.state.lock();
        let Some(first) = state.unannounced.take() else {
            return;
        };
        let waiting = state.take_waiting();
        for one in &waiting {
            let member = &mut state.members[one.member];
            member.cursor = member.cursor.max(first);
        }
        drop(state);
        for one in waiting {
            one.waker.wake();
        }
    }

    /// Ends every member. Returns the wakers to call once no lock is held.
    pub(super) fn cut(&self, cut: &Cut) -> Vec<Waker> {
        let mut state = self.state.lock();
        self.newest.store(u64::MAX, Ordering::Release);
        state.cut = Some(cut.clone());
        state.matches = VecDeque::new();
        state.take_waiting().into_iter().map(|one| one.waker).collect()
    }

    pub(super) fn why_cut(&self) -> Option<Cut> {
        self.state.lock().cut.clone()
    }

    /// Whether there may be anything to read at or after `cursor`. When one commit has been read here, this
    /// tells of every commit before it in whatever other group.
    pub(super) fn has_unread(&self, cursor: Revision) -> bool {
        cursor.0 <= self.newest.load(Ordering::Acquire)
    }

    /// What lies at and after `cursor` for the member at `place`: copied into `buffer`, no more
    /// than `bytes_max` unless the first match alone is larger. `published` is the hub's revision,
    /// read before.
    pub(super) fn read(
        &self,
        place: usize,
        cursor: Revision,
        published: Revision,
        bytes_max: usize,
        buffer: &mut Vec<Match>,
        waker: Option<&Waker>,
    ) -> Reading {
        let mut state = self.state.lock();
        if let Some(cut) = &state.cut {
            return Reading::Cut(cut.clone());
        }
        let cursor = cursor.max(state.members[place].cursor);
        let (cursor, reading) = if cursor < state.floor {
            (cursor, Reading::Behind(cursor))
        } else {
            state.copy(cursor, published, bytes_max, buffer)
        };
        state.members[place].cursor = cursor;
        let replaced = match (&reading, waker) {
            (Reading::Level(_), Some(waker)) => state.wait(place, waker),
            _ => None,
        };
        drop(state);
        // As in `leave`: not under the lock.
        drop(replaced);
        reading
    }

    /// Up to where a member with this cursor has been told everything; `None` if it is behind or
    /// cut.
    pub(super) fn progress(
        &self,
        place: usize,
        cursor: Revision,
        published: Revision,
    ) -> Option<Revision> {
        let mut state = self.state.lock();
        let cursor = cursor.max(state.members[place].cursor);
        if state.cut.is_some() || cursor < state.floor {
            return None;
        }
        let progress = match state.matches.get(state.first_from(cursor)) {
            Some(unread) => unread.revision.previous(),
            None => published.max(cursor.previous()),
        };
        state.members[place].cursor = cursor.max(progress.next());
        Some(progress)
    }

    /// From where a member was last told that it has everything before: it holds when the member has fallen
    /// behind since.
    pub(super) fn told(&self, place: usize) -> Revision {
        self.state.lock().members[place].cursor
    }

    /// How many members must read elsewhere before they can read here.
    pub(super) fn lagging(&self) -> usize {
        let state = self.state.lock();
        // Whoever waits is level, however long ago it last looked.
        let behind = |member: &&Member| member.waiting.is_none() && member.cursor < state.floor;
        state.members.iter().filter(|member| member.present).filter(behind).count()
    }
}

impl State {
    fn is_empty(&self) -> bool {
        self.members.len() == self.free.len()
    }

    /// The place of the first match at or after `cursor`.
    fn first_from(&self, cursor: Revision) -> usize {
        match self.matches.back() {
            // Where nearly everyone stands: at the end, or one before it.
            Some(last) if last.revision >= cursor => {
                self.matches.partition_point(|one| one.revision < cursor)
            }
            _ => self.matches.len(),
        }
    }

    fn copy(
        &self,
        cursor: Revision,
        published: Revision,
        bytes_max: usize,
        buffer: &mut Vec<Match>,
    ) -> (Revision, Reading) {
        let first = self.first_from(cursor);
        let mut bytes = 0;
        for one in self.matches.range(first..).take(COPY_COMMITS_MAX) {
            if bytes > 0 && bytes + one.bytes > bytes_max {
                break;
            }
            bytes += one.bytes;
            buffer.push(one.clone());
        }
        // Every match up to `published` was pushed before that number was, so a member that has
        // read all there is has been told everything up to it.
        let level = cursor.max(published.next());
        match buffer.last() {
            None => (level, Reading::Level(level)),
            Some(last) => {
                let after = last.revision.next();
                let all = first + buffer.len() == self.matches.len();
                let cursor = if all { after.max(level) } else { after };
                (cursor, Reading::Matches(cursor))
            }
        }
    }

    /// Keeps the waker of a member that is level. Returns the one it replaces.
    fn wait(&mut self, place: usize, waker: &Waker) -> Option<Waker> {
        match self.members[place].waiting {
            Some(at) if self.waiting[at].waker.will_wake(waker) => None,
            Some(at) => Some(mem::replace(&mut self.waiting[at].waker, waker.clone())),
            None => {
                self.members[place].waiting = Some(self.waiting.len());
                self.waiting.push(Waiting { waker: waker.clone(), member: place });
                None
            }
        }
    }

    fn stop_waiting(&mut self, place: usize) -> Option<Waker> {
        let at = self.members[place].waiting.take()?;
        let gone = self.waiting.swap_remove(at);
        if let Some(moved) = self.waiting.get(at) {
            self.members[moved.member].waiting = Some(at);
        }
        Some(gone.waker)
    }

    /// Everyone who waits. Most of them will be back in a moment, so their room is kept.
    fn take_waiting(&mut self) -> Vec<Waiting> {
        let room = Vec::with_capacity(self.waiting.len());
        let waiting = mem::replace(&mut self.waiting, room);
        for one in &waiting {
            self.members[one.member].waiting = None;
        }
        waiting
    }
}
