//! Every change of some objects, as one client asked for it.
//!
//! A watch is a state followed by a feed: the state is read at one revision, and the feed begins behind it, so
//! nothing falls between.
//!
//! Keeps: events in revision order, each once. An object that starts to match a selector is ADDED, one that
//! stops is DELETED in its last matching state, at the revision of the change. A bookmark never overtakes an
//! event. Who cannot be served on is told so by one last error, and can resume from what it has seen.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use kontiki_storage::request::{KeyRange, Range};
use kontiki_storage::revision::Revision;
use kontiki_storage::view::{Pages, View};
use serde_json::json;
use tokio::time::{Instant, Sleep, sleep_until};

use super::Road;
use super::list;
use super::options::{Selection, Version, check_watch, read_version};
use super::renewals::{self, Beating, Renewals};
use super::shown::Shown;
use crate::client::EventKind;
use crate::error::Status;
use crate::kinds::Kind;
use crate::objects::{self, Change, ChangeKind, Feed, Object, Objects, key};
use crate::request::{Options, Request, User, Verb};

/// How often a quiet watch says where it stands.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// And how long before its end.
const BOOKMARK_BEFORE_END: Duration = Duration::from_secs(2);
/// A watch that says no time ends after one between these, so that not all end at once.
const SECONDS: std::ops::RangeInclusive<u64> = 1800..=3600;
/// How much of the first state is read at a time.
const PAGE_BYTES: usize = 1 << 20;

/// What a watch tells.
#[derive(Clone, Debug)]
pub enum Event {
    Object {
        /// Never [`EventKind::Bookmark`].
        kind: EventKind,
        shown: Shown,
        /// The change it comes from, beside which encodings are kept; absent for the first state, and for
        /// what a selector turned into something else.
        change: Option<Arc<Change>>,
    },
    /// Everything up to `revision` was told. `initial` ends the first state.
    Bookmark { revision: Revision, initial: bool },
}

/// One watch. It ends when it is dropped, at its deadline, or after an error.
pub struct Watch {
    kind: Arc<Kind>,
    selection: Selection,
    state: Option<State>,
    feed: Feed,
    ready: VecDeque<Event>,
    renewals: Renewals,
    /// Of leases of nodes: their renewals are told though nothing was written.
    beating: Option<Lively>,
    wants_bookmarks: bool,
    /// The last revision that was told of.
    told: Revision,
    next_bookmark: Instant,
    /// When it is told once more where it stands, shortly before the end.
    last_bookmark: Instant,
    deadline: Instant,
    /// A last bookmark was given, and then it ends.
    is_ending: bool,
    ended: bool,
    /// Rings at the next of these moments. It stays from event to event: to enter a timer into the
    /// runtime's for each would cost as much as the event.
    clock: Pin<Box<Sleep>>,
}

/// What it takes to tell of renewals.
struct Lively {
    beating: Beating,
    objects: Objects,
    range: KeyRange,
}

/// The first state that is still to be told.
struct State {
    pages: Box<Pages>,
    revision: Revision,
    /// Its end is marked by a bookmark.
    marks_end: bool,
}

/// How a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// With the state, not older than the request.
    Newest,
    /// With the state this member has.
    Any,
    /// With a state not older than this.
    NotBefore(Revision),
    /// With what comes after this.
    After(Revision),
    /// With what comes from now on.
    Now,
}

fn start(options: &Options) -> Result<Start, Status> {
    check_watch(options)?;
    let version = read_version(options.resource_version.as_deref())?;
    Ok(match (options.send_initial_events, version) {
        (None, Version::Unset) | (Some(true), Version::Unset) => Start::Newest,
        (None, Version::Any) | (Some(true), Version::Any) => Start::Any,
        (Some(true), Version::At(revision)) => Start::NotBefore(revision),
        (None | Some(false), Version::At(revision)) => Start::After(revision),
        (Some(false), Version::Unset | Version::Any) => Start::Now,
    })
}

impl Road {
    /// Opens a watch.
    pub async fn watch(&self, who: &User, mut request: Request) -> Result<Watch, Status> {
        self.permit(who, &request)?;
        // A watch of one object is one of all that have its name.
        let name = request.name.take();
        let target = self.resolve(&request)?;
        if request.verb != Verb::Watch || !target.sub.is_empty() {
            return Err(super::target::unknown_path());
        }
        if let Some(name) = name {
            let fields = request.options.field_selector.take().unwrap_or_default();
            let own = format!("metadata.name={name}");
            let both = if fields.is_empty() { own } else { format!("{own},{fields}") };
            request.options.field_selector = Some(both);
        }
        let options = &request.options;
        let start = start(options)?;
        let selection = Selection::read(&target.kind, options)?;
        match start {
            Start::Newest | Start::Now => self.objects.barrier().await?,
            Start::NotBefore(revision) => self.reach(revision).await?,
            Start::Any | Start::After(_) => {}
        }
        let view = self.objects.view();
        let range = list::narrow(&target, &selection);
        let (state, from) = match start {
            Start::After(revision) => (None, revision),
            Start::Now => (None, view.revision()),
            Start::Newest | Start::Any | Start::NotBefore(_) => {
                let marks_end =
                    options.send_initial_events == Some(true) && options.allow_watch_bookmarks;
                (Some(State::new(&view, range.clone(), marks_end)), view.revision())
            }
        };
        let seconds = options.timeout_seconds.filter(|seconds| *seconds > 0);
        let seconds = seconds.unwrap_or_else(|| rand::random_range(SECONDS));
        let beating = self.renewals.beating(&target, state.is_some()).map(|beating| {
            let (objects, range) = (self.objects.clone(), range.clone());
            Lively { beating, objects, range }
        });
        let lasts = Duration::from_secs(seconds.min(10 * 365 * 24 * 3600));
        let now = Instant::now();
        let deadline = now + lasts;
        Ok(Watch {
            feed: self.objects.feed_of(range, from),
            kind: target.kind,
            selection,
            state,
            ready: VecDeque::new(),
            renewals: self.renewals.clone(),
            beating,
            wants_bookmarks: options.allow_watch_bookmarks,
            told: from,
            next_bookmark: now + BOOKMARK_EVERY,
            last_bookmark: deadline - BOOKMARK_BEFORE_END.min(lasts / 2),
            deadline,
            is_ending: false,
            ended: false,
            clock: Box::pin(sleep_until(deadline)),
        })
    }
}

impl State {
    fn new(view: &View, range: KeyRange, marks_end: bool) -> State {
        let pages = Box::new(view.pages(Range::new(range)));
        State { pages, revision: view.revision(), marks_end }
    }
}

impl Watch {
    #[must_use]
    pub fn kind(&self) -> &Arc<Kind> {
        &self.kind
    }

    /// The next event. `None` at the end; an error is the last thing before it. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Event, Status>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            if self.ended {
                return None;
            }
            if let Err(error) = self.advance().await {
                self.ended = true;
                return Some(Err(error));
            }
        }
    }

    /// What can be had without waiting: a front sends it in one piece.
    pub fn next_ready(&mut self) -> Option<Event> {
        self.ready.pop_front()
    }

    /// Whether all that is known was told: the first state, and what was read of the feed.
    #[must_use]
    pub fn is_level(&self) -> bool {
        self.state.is_none() && self.ready.is_empty()
    }

    async fn advance(&mut self) -> Result<(), Status> {
        if self.state.is_some() {
            return self.advance_state();
        }
        let wakes = if !self.wants_bookmarks || self.is_ending {
            self.deadline
        } else {
            self.next_bookmark.min(self.last_bookmark).min(self.deadline)
        };
        if self.clock.deadline() != wakes {
            self.clock.as_mut().reset(wakes);
        }
        tokio::select! {
            // The clock first: a feed that always has something would never let it in.
            biased;
            () = self.clock.as_mut() => {
                let now = Instant::now();
                self.is_ending |= now >= self.last_bookmark;
                self.ended = now >= self.deadline;
                self.next_bookmark = now + BOOKMARK_EVERY;
                if self.wants_bookmarks && !self.ended {
                    let revision = self.feed.progress().unwrap_or(self.told).max(self.told);
                    self.ready.push_back(Event::Bookmark { revision, initial: false });
                }
            }
            nodes = beating(&mut self.beating) => self.tell_renewals(&nodes)?,
            changes = self.feed.next() => {
                for change in changes? {
                    self.told = self.told.max(change.revision());
                    if let Some(event) = event(&self.kind, &self.selection, &change)? {
                        self.ready.push_back(event);
                    }
                }
            }
        }
        Ok(())
    }

    /// Leases whose nodes were heard, as they are now; they say how far the watch is, as bookmarks do.
    fn tell_renewals(&mut self, nodes: &[Arc<str>]) -> Result<(), Status> {
        let Some(Lively { objects, range, .. }) = &self.beating else { return Ok(()) };
        let told = self.feed.progress().unwrap_or(self.told).max(self.told);
        let of = &self.kind.stored;
        for node in nodes {
            let key = key::of_object(of, renewals::NAMESPACE, node);
            if !range.contains(&key) {
                continue;
            }
            // What is newer than the watch comes with its own change.
            let there = objects.get(of, renewals::NAMESPACE, node)?;
            let Some(lease) = there.filter(|lease| lease.revision() <= told) else { continue };
            let shown = Shown::new(&self.kind, self.renewals.show(lease.at(told)))?;
            if self.selection.is_everything() || self.selection.matches(shown.value()?) {
                let kind = EventKind::Modified;
                self.ready.push_back(Event::Object { kind, shown, change: None });
            }
        }
        self.told = told;
        Ok(())
    }

    fn advance_state(&mut self) -> Result<(), Status> {
        let Some(state) = &mut self.state else { return Ok(()) };
        if let Some(page) = state.pages.next_page(PAGE_BYTES).map_err(objects::stored)? {
            let objects = page.into_iter().map(|kv| self.renewals.show(Object::from(kv)));
            for shown in list::select(&self.kind, &self.selection, objects)? {
                let kind = EventKind::Added;
                self.ready.push_back(Event::Object { kind, shown, change: None });
            }
            return Ok(());
        }
        if state.marks_end {
            let revision = state.revision;
            self.ready.push_back(Event::Bookmark { revision, initial: true });
        }
        self.state = None;
        Ok(())
    }
}

async fn beating(lively: &mut Option<Lively>) -> Vec<Arc<str>> {
    match lively {
        Some(lively) => lively.beating.next().await,
        None => std::future::pending().await,
    }
}

/// The object of a bookmark.
#[must_use]
pub fn bookmark(kind: &Kind, revision: Revision, initial: bool) -> serde_json::Value {
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    if initial {
        metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    json!({
        "kind": kind.kind.as_ref(),
        "apiVersion": kind.group_version().to_string(),
        "metadata": metadata,
    })
}

/// What a change is to one who selects.
fn event(
    kind: &Arc<Kind>,
    selection: &Selection,
    change: &Arc<Change>,
) -> Result<Option<Event>, Status> {
    let natural = match change.kind {
        ChangeKind::Added => EventKind::Added,
        ChangeKind::Modified => EventKind::Modified,
        ChangeKind::Deleted => EventKind::Deleted,
    };
    let whole = |shown| Event::Object { kind: natural, shown, change: Some(change.clone()) };
    let now = Shown::new(kind, change.object.clone())?;
    if selection.is_everything() {
        return Ok(Some(whole(now)));
    }
    let matches_now = selection.matches(now.value()?);
    if change.kind != ChangeKind::Modified {
        return Ok(matches_now.then(|| whole(now)));
    }
    let matched_before = match &change.previous {
        Some(previous) => selection.matches(Shown::new(kind, previous.clone())?.value()?),
        // It was compacted meanwhile. To tell of it once too often does no harm.
        None => true,
    };
    Ok(match (matched_before, matches_now) {
        (true, true) => Some(whole(now)),
        (false, true) => Some(Event::Object { kind: EventKind::Added, shown: now, change: None }),
        (true, false) => {
            let last = change.previous.as_ref().unwrap_or(&change.object);
            let shown = Shown::new(kind, last.at(change.revision()))?;
            Some(Event::Object { kind: EventKind::Deleted, shown, change: None })
        }
        (false, false) => None,
    })
}
