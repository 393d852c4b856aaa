//! The watches of one stream.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Context, Poll, Wake as _};

use kontiki_storage::revision::Revision;
use kontiki_storage::watch::{Cut, Delivery, Request, Watcher};

use super::bells::{Bell, Bells, Source};

pub(super) struct Watches {
    by_id: HashMap<i64, Watch>,
    bells: Bells,
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
    watcher: Watcher,
    bell: Arc<Bell>,
}

impl Watches {
    /// None yet. Each that comes has a bell among `bells`.
    pub(super) fn new(bells: Bells) -> Watches {
        Watches { by_id: HashMap::new(), bells, next_id: 0 }
    }

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
        let bell = self.bells.hang(Source::Watch(id));
        let Flags { previous, fragment, progress } = flags;
        let watch = Watch { request, previous, fragment, progress, told: false, watcher, bell };
        self.by_id.insert(id, watch);
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

    pub(super) fn remove(&mut self, id: i64) {
        self.by_id.remove(&id);
    }

    /// The next that a watch has to tell. Of one that was canceled nothing more is told.
    pub(super) fn poll(
        &mut self,
        id: i64,
        context: &mut Context<'_>,
    ) -> Poll<Result<Delivery, Cut>> {
        match self.by_id.get_mut(&id) {
            Some(watch) => watch.watcher.poll_next(context),
            None => Poll::Pending,
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
        self.watcher.progress()
    }

    /// Where a new watcher would go on.
    pub(super) fn cursor(&self) -> Revision {
        self.watcher.cursor()
    }

    /// Goes on with another watcher in the place of one that was cut.
    pub(super) fn resume(&mut self, watcher: Watcher) {
        self.watcher = watcher;
        self.bell.wake_by_ref();
    }
}
