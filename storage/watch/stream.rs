//! The watcher: a cursor, and a place in the group of its range.
//!
//! Keeps true: everything asked for before the cursor was delivered, or found not to be wanted;
//! nothing at or after it was. The cursor moves only when its delivery is handed out in the same
//! call, so a `next` that is dropped halfway loses nothing.
//! Never: events kept between two calls; a second reading of history before other tasks had a
//! turn.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use tokio::task::coop;

use super::catch_up;
use super::group::{Group, Match, Reading};
use super::hub::Inner;
use super::{Cut, Delivery, History, Request};
use crate::record::{Event, EventKind};
use crate::revision::Revision;

/// Looks in one poll that find nothing wanted (all filtered, or passing over foreign commits)
/// before other tasks get a turn.
const LOOKS_MAX: usize = 16;

/// Room for matches that a watcher keeps from one call to the next; what a large piece needed is
/// given back, or ten thousand watchers that once lagged would hold it for ever.
const BUFFER_KEPT_MAX: usize = 8;

/// One reader of the hub. Dropping it is the way to stop watching.
pub struct Watcher {
    hub: Arc<Inner>,
    history: Arc<dyn History>,
    request: Request,
    start: Revision,
    cursor: Revision,
    /// Empty once it was cut.
    place: Option<Place>,
    cut: Option<Cut>,
    /// The last poll read history: the next one lets others go first.
    has_read: bool,
    /// Empty between calls; kept for its room.
    buffer: Vec<Match>,
}

struct Place {
    group: Arc<Group>,
    number: usize,
}

/// What one look came to.
enum Look {
    Delivery(Delivery),
    /// The cursor moved, or others must go first: look again.
    Again,
    /// Look again, but not in this poll.
    Later,
    /// Nothing to tell. The waker is kept.
    Level,
    Cut(Cut),
}

impl Watcher {
    pub(super) fn new(
        hub: Arc<Inner>,
        request: Request,
        start: Revision,
        history: Arc<dyn History>,
        group: Arc<Group>,
        number: usize,
    ) -> Watcher {
        Watcher {
            hub,
            history,
            request,
            start,
            cursor: start,
            place: Some(Place { group, number }),
            cut: None,
            has_read: false,
            buffer: Vec::new(),
        }
    }

    /// A watcher that was cut before it began.
    pub(super) fn ended(
        hub: Arc<Inner>,
        request: Request,
        start: Revision,
        history: Arc<dyn History>,
        cut: Cut,
    ) -> Watcher {
        Watcher {
            hub,
            history,
            request,
            start,
            cursor: start,
            place: None,
            cut: Some(cut),
            has_read: false,
            buffer: Vec::new(),
        }
    }

    /// Waits for the next events. Cancel safe: what was not returned comes again.
    ///
    /// While the watcher is behind the ring this reads the tables on the calling thread, one
    /// bounded piece ([`super::Options::history_bytes_max`]) at a time with other tasks in
    /// between.
    pub async fn next(&mut self) -> Result<Delivery, Cut> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// As [`Watcher::next`]. Only the waker of the last call is woken.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Delivery, Cut>> {
        // Someone who is always ready must still give way.
        let turn = ready!(coop::poll_proceed(context));
        match self.advance(Some(context.waker())) {
            Some(answer) => {
                turn.made_progress();
                Poll::Ready(answer)
            }
            None => Poll::Pending,
        }
    }

    /// What is at hand now. While catching up `None` may also mean that a piece of history held
    /// nothing of interest; [`Watcher::progress`] tells the difference.
    pub fn try_next(&mut self) -> Option<Result<Delivery, Cut>> {
        self.advance(None)
    }

    /// Whether [`Watcher::try_next`] may have an answer; false only if it has none. Costs next to nothing.
    #[must_use]
    pub fn has_unread(&self) -> bool {
        self.place.as_ref().is_none_or(|place| place.group.has_unread(self.cursor))
    }

    /// `Some(r)`: every event at or before `r` that was asked for has been returned by `next`.
    /// `None` while that cannot be said: it is catching up, was cut, or starts in the future.
    ///
    /// Between calls of `next` it never goes back, and it never names a revision beyond the
    /// store's.
    #[must_use]
    pub fn progress(&self) -> Option<Revision> {
        let place = self.place.as_ref()?;
        // Read first: what is published later is then in the group already, or not counted.
        let published = self.hub.revision();
        if self.cursor == self.start && published < self.start.previous() {
            return None;
        }
        place.group.progress(place.number, self.cursor, published)
    }

    /// The next revision it waits for: a watcher that starts here goes on where this one stands.
    #[must_use]
    pub fn cursor(&self) -> Revision {
        let known = self.progress().map_or(self.cursor, Revision::next);
        let told = self.place.as_ref().map(|place| place.group.told(place.number));
        known.max(told.unwrap_or(self.cursor)).max(self.cursor)
    }

    #[must_use]
    pub fn request(&self) -> &Request {
        &self.request
    }

    #[cfg(test)]
    pub(super) fn buffer_room(&self) -> usize {
        self.buffer.capacity()
    }

    fn advance(&mut self, waker: Option<&Waker>) -> Option<Result<Delivery, Cut>> {
        if let Some(cut) = &self.cut {
            return Some(Err(cut.clone()));
        }
        for _ in 0..LOOKS_MAX {
            match self.look(waker) {
                Look::Delivery(delivery) => return Some(Ok(delivery)),
                Look::Again => {}
                Look::Later => break,
                Look::Level => return None,
                Look::Cut(cut) => {
                    self.leave();
                    self.cut = Some(cut.clone());
                    return Some(Err(cut));
                }
            }
        }
        if let Some(waker) = waker {
            waker.wake_by_ref();
        }
        None
    }

    fn look(&mut self, waker: Option<&Waker>) -> Look {
        let place = self.place.as_ref().expect("a watcher that was not cut has its place");
        // Before the group is read: see `State::copy` in `group.rs`.
        let published = self.hub.revision();
        let reading = place.group.read(
            place.number,
            self.cursor,
            published,
            self.hub.options.delivery_bytes_max,
            &mut self.buffer,
            waker,
        );
        match reading {
            Reading::Matches(cursor) => {
                self.cursor = cursor;
                self.deliver()
            }
            Reading::Level(cursor) => {
                self.cursor = cursor;
                Look::Level
            }
            Reading::Behind(cursor) => {
                self.cursor = cursor;
                self.catch_up(waker.is_some())
            }
            Reading::Cut(cut) => Look::Cut(cut),
        }
    }

    fn catch_up(&mut self, gives_way: bool) -> Look {
        let place = self.place.as_ref().expect("a watcher that was not cut has its place");
        let range = &self.request.range;
        let (piece, read) = match catch_up::from_ring(&self.hub, range, self.cursor) {
            Some(piece) => (Ok(piece), false),
            None if gives_way && self.has_read => {
                self.has_read = false;
                return Look::Later;
            }
            None => {
                let history = &self.history;
                (catch_up::from_history(&self.hub, history, range, self.cursor), true)
            }
        };
        // A reset in the meantime: the piece may come from before or after it, and nobody can
        // tell.
        if let Some(cut) = place.group.why_cut() {
            return Look::Cut(cut);
        }
        let mut piece = match piece {
            Ok(piece) => piece,
            Err(cut) => return Look::Cut(cut),
        };
        self.has_read = read;
        self.cursor = piece.complete_to.next().max(self.cursor);
        self.buffer.append(&mut piece.matches);
        match self.deliver() {
            Look::Again if read && gives_way => Look::Later,
            look => look,
        }
    }

    /// Empties the buffer into a delivery, if it holds anything that is wanted.
    fn deliver(&mut self) -> Look {
        let everything = self.request.puts && self.request.deletes;
        let mut delivery = Delivery { revision: Revision::ZERO, events: Vec::new(), bytes: 0 };
        for one in self.buffer.drain(..) {
            if everything {
                delivery.events.extend_from_slice(&one.events);
                delivery.bytes += one.bytes;
                delivery.revision = one.revision;
                continue;
            }
            for event in one.events.iter().filter(|event| wants(&self.request, event)) {
                delivery.events.push(event.clone());
                delivery.bytes += event.weight();
                delivery.revision = one.revision;
            }
        }
        if self.buffer.capacity() > BUFFER_KEPT_MAX {
            self.buffer = Vec::new();
        }
        if delivery.events.is_empty() { Look::Again } else { Look::Delivery(delivery) }
    }

    fn leave(&mut self) {
        if let Some(place) = self.place.take() {
            self.cursor = self.cursor.max(self.hub.leave(&place.group, place.number));
        }
    }
}

fn wants(request: &Request, event: &Event) -> bool {
    match event.kind {
        EventKind::Put => request.puts,
        EventKind::Delete => request.deletes,
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.leave();
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher")
            .field("request", &self.request)
            .field("cursor", &self.cursor)
            .field("cut", &self.cut)
            .finish_non_exhaustive()
    }
}
