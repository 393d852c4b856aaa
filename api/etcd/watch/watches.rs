//! The watches of one stream.
//!
//! Each is woken by its own range, so a stream of ten thousand watches looks at the one that has
//! something to tell and at no other.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures::stream::{SelectAll, Stream, StreamExt};
use kontiki_storage::revision::Revision;
use kontiki_storage::watch::{Cut, Delivery, Request, Watcher};
use parking_lot::Mutex;

#[derive(Default)]
pub(super) struct Watches {
    by_id: HashMap<i64, Watch>,
    waiting: SelectAll<Waiting>,
    next_id: i64,
}

/// One watch, as its client wants it.
pub(super) struct Watch {
    pub(super) request: Request,
    pub(super) previous: bool,
    pub(super) fragment: bool,
    /// It wants to be told now and then how far it is.
    pub(super) progress: bool,
    /// Something was sent since that was last looked at.
    pub(super) told: bool,
    slot: Arc<Mutex<Slot>>,
}

struct Slot {
    /// Gone once the watch was canceled.
    watcher: Option<Watcher>,
    waker: Option<Waker>,
}

/// The part of a watch that waits.
struct Waiting {
    id: i64,
    slot: Arc<Mutex<Slot>>,
}

impl Watches {
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn contains(&self, id: i64) -> bool {
        self.by_id.contains_key(&id)
    }

    /// An id that no watch of this stream has.
    pub(super) fn free_id(&mut self) -> i64 {
        while self.by_id.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    pub(super) fn insert(&mut self, id: i64, watcher: Watcher, request: Request, flags: Flags) {
        let slot = Arc::new(Mutex::new(Slot { watcher: Some(watcher), waker: None }));
        let Flags { previous, fragment, progress } = flags;
        let watch =
            Watch { request, previous, fragment, progress, told: false, slot: slot.clone() };
        self.by_id.insert(id, watch);
        self.waiting.push(Waiting { id, slot });
    }

    pub(super) fn get_mut(&mut self, id: i64) -> Option<&mut Watch> {
        self.by_id.get_mut(&id)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (i64, &mut Watch)> {
        self.by_id.iter_mut().map(|(id, watch)| (*id, watch))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (i64, &Watch)> {
        self.by_id.iter().map(|(id, watch)| (*id, watch))
    }

    pub(super) fn remove(&mut self, id: i64) -> bool {
        let Some(watch) = self.by_id.remove(&id) else {
            return false;
        };
        let mut slot = watch.slot.lock();
        slot.watcher = None;
        // What waits for it finds that it is gone, and goes too.
        if let Some(waker) = slot.waker.take() {
            waker.wake();
        }
        true
    }

    /// The next that a watch has to tell.
    pub(super) fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<(i64, Result<Delivery, Cut>)> {
        loop {
            match self.waiting.poll_next_unpin(context) {
                // Of a watch that was canceled meanwhile nothing more is told.
                Poll::Ready(Some((id, _))) if !self.by_id.contains_key(&id) => {}
                Poll::Ready(Some(told)) => return Poll::Ready(told),
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Up to where every watch of the stream has been told all, if that can be said of each.
    pub(super) fn progress(&self, newest: Revision) -> Option<Revision> {
        self.by_id.values().try_fold(newest, |least, watch| Some(least.min(watch.progress()?)))
    }
}

/// How a watch wants its events.
#[derive(Clone, Copy)]
pub(super) struct Flags {
    pub(super) previous: bool,
    pub(super) fragment: bool,
    pub(super) progress: bool,
}

impl Watch {
    /// Up to where it has been told all.
    pub(super) fn progress(&self) -> Option<Revision> {
        self.slot.lock().watcher.as_ref()?.progress()
    }

    /// Where a new watcher would go on.
    pub(super) fn cursor(&self) -> Option<Revision> {
        self.slot.lock().watcher.as_ref().map(Watcher::cursor)
    }

    /// Goes on with another watcher in the place of one that was cut.
    pub(super) fn resume(&mut self, watcher: Watcher) {
        let mut slot = self.slot.lock();
        slot.watcher = Some(watcher);
        if let Some(waker) = slot.waker.take() {
            waker.wake();
        }
    }
}

impl Stream for Waiting {
    type Item = (i64, Result<Delivery, Cut>);

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut slot = self.slot.lock();
        let Some(watcher) = &mut slot.watcher else {
            return Poll::Ready(None);
        };
        let told = watcher.poll_next(context);
        match told {
            Poll::Ready(told) => Poll::Ready(Some((self.id, told))),
            Poll::Pending => {
                slot.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}
