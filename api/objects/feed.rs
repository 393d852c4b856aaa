//! Every change of some objects, in order: what watches, tables and informers drink from.
//!
//! A change is made from the store's event once and kept beside it, so whoever looks at the same event shares
//! its decoded object and its encoded bytes.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use kontiki_raft::Replica;
use kontiki_storage::record::{Event, EventKind};
use kontiki_storage::request::KeyRange;
use kontiki_storage::revision::Revision;
use kontiki_storage::watch::{Cut, Request, Watcher};
use parking_lot::Mutex;

use super::object::Object;
use crate::error::{Reason, Status};

/// Encodings of one change that are kept; past it they are made for each who asks.
const FORMS_MAX: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    Added,
    Modified,
    Deleted,
}

/// One change of one object, shared by everyone who watches it.
pub struct Change {
    pub kind: ChangeKind,
    /// What is now; of a delete the last state, at the revision of the delete.
    pub object: Object,
    /// What was before; absent on a create.
    pub previous: Option<Object>,
    forms: Mutex<Vec<(Form, Bytes)>>,
}

/// What one encoding of a change is told apart by: whoever makes it names all that went into it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Form {
    /// Under which it is shown; one object may have several.
    pub group: Arc<str>,
    pub version: Arc<str>,
    /// Which, is the affair of who encodes.
    pub encoding: u8,
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({:?})", self.kind, self.object)
    }
}

impl Change {
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.object.revision()
    }

    /// The change's bytes in one form: made the first time, shared afterwards.
    pub fn encoded(
        &self,
        form: Form,
        make: impl FnOnce() -> Result<Bytes, Status>,
    ) -> Result<Bytes, Status> {
        let found = |forms: &[(Form, Bytes)]| {
            forms.iter().find(|(there, _)| *there == form).map(|(_, bytes)| bytes.clone())
        };
        if let Some(bytes) = found(&self.forms.lock()) {
            return Ok(bytes);
        }
        let bytes = make()?;
        let mut forms = self.forms.lock();
        if let Some(bytes) = found(&forms) {
            return Ok(bytes);
        }
        if forms.len() < FORMS_MAX {
            forms.push((form, bytes.clone()));
        }
        Ok(bytes)
    }

    /// `None`: what was deleted is not known any more, because it was compacted meanwhile.
    fn new(event: &Event) -> Option<Change> {
        let previous = event.previous.clone().map(Object::from);
        let (kind, object) = match event.kind {
            EventKind::Delete => (ChangeKind::Deleted, previous.as_ref()?.at(event.kv.modified)),
            EventKind::Put => {
                let kind = if event.is_create() { ChangeKind::Added } else { ChangeKind::Modified };
                (kind, Object::from(event.kv.clone()))
            }
        };
        Some(Change { kind, object, previous, forms: Mutex::default() })
    }
}

/// A reader of changes. Dropping it is the way to stop.
pub struct Feed {
    watcher: Watcher,
    from: Revision,
    /// Set at the end; nothing comes afterwards.
    ended: Option<Status>,
}

impl Feed {
    pub(super) fn new(replica: &Replica, range: KeyRange, from: Revision) -> Feed {
        let watcher = replica.watch(Request::new(range).from(from.next()));
        Feed { watcher, from, ended: None }
    }

    /// The next changes, at least one. An error ends the feed: `Expired` when it was cut, and the reader
    /// has to list anew.
    pub async fn next(&mut self) -> Result<Vec<Arc<Change>>, Status> {
        if let Some(ended) = &self.ended {
            return Err(ended.clone());
        }
        match self.watcher.next().await {
            Ok(delivery) => {
                let changes: Option<Vec<_>> = delivery.events.iter().map(change).collect();
                changes.ok_or_else(|| self.end(self.too_old(delivery.revision)))
            }
            Err(cut) => Err(self.end(self.reason(&cut))),
        }
    }

    /// Everything at or before this revision was returned by [`Feed::next`]; `None` while that cannot be
    /// said.
    #[must_use]
    pub fn progress(&self) -> Option<Revision> {
        self.watcher.progress()
    }

    fn end(&mut self, status: Status) -> Status {
        self.ended = Some(status.clone());
        status
    }

    fn too_old(&self, oldest: Revision) -> Status {
        let from = self.from.max(self.watcher.cursor().previous());
        Status::expired(format!("too old resource version: {from} ({oldest})"))
    }

    fn reason(&self, cut: &Cut) -> Status {
        match cut {
            Cut::Compacted { compacted } => self.too_old(*compacted),
            Cut::TooOld { revision, .. } => self.too_old(*revision),
            Cut::Closed => Status::new(Reason::ServiceUnavailable, "the server is shutting down"),
            Cut::Failed(error) => Status::internal(error),
        }
    }
}

fn change(event: &Arc<Event>) -> Option<Arc<Change>> {
    let kept = event.attached(|event| Change::new(event).map(Arc::new));
    kept.as_ref().clone()
}
