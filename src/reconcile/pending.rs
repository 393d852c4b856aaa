//! What a loop has done and its informers do not show yet.
//!
//! A loop that creates three objects and looks again before its informer has heard of them would create three
//! more. Upstream counts expectations; here the store's revisions say it exactly: a create is seen when the
//! informer has reached its revision, a delete when the object is gone or shows that it is going.
//!
//! Keeps: a key with something pending is not decided on. A wish that is never seen (its watch is broken) is
//! given up after five minutes, as upstream does.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::ListableResource;
use kontiki_api::client::Typed;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Informer, Key, revision_of};

const PATIENCE: Duration = Duration::from_secs(300);

/// The changes of one loop to objects of one resource, by the key that it reconciles.
#[derive(Default)]
pub struct Pending(Mutex<HashMap<Key, Waiting>>);

struct Waiting {
    /// Everything up to this revision has to be seen.
    revision: u64,
    /// Deleted: (object, uid).
    deleted: Vec<(Key, String)>,
    since: Instant,
}

impl Pending {
    /// The loop wrote an object for `owner`, which came to be at the object's revision.
    pub fn wrote<K: Typed>(&self, owner: &Key, object: &K) {
        let mut waiting = self.0.lock();
        let waiting = waiting.entry(owner.clone()).or_insert_with(Waiting::new);
        waiting.revision = waiting.revision.max(revision_of(object.metadata()));
        waiting.since = Instant::now();
    }

    /// The loop deleted an object for `owner`.
    pub fn deleted<K: Typed>(&self, owner: &Key, object: &K) {
        let metadata = object.metadata();
        let mut waiting = self.0.lock();
        let waiting = waiting.entry(owner.clone()).or_insert_with(Waiting::new);
        waiting.deleted.push((Key::of(metadata), metadata.uid.clone().unwrap_or_default()));
        waiting.since = Instant::now();
    }

    /// Whether `informer` shows everything that was done for `owner`.
    pub fn seen<K: Typed + ListableResource>(&self, owner: &Key, informer: &Informer<K>) -> bool {
        let mut all = self.0.lock();
        let Some(waiting) = all.get_mut(owner) else { return true };
        waiting.deleted.retain(|(key, uid)| {
            informer.get(key).is_some_and(|object| {
                let metadata = object.metadata();
                metadata.uid.as_deref() == Some(uid) && metadata.deletion_timestamp.is_none()
            })
        });
        let seen = waiting.deleted.is_empty() && informer.revision() >= waiting.revision;
        if seen || waiting.since.elapsed() > PATIENCE {
            all.remove(owner);
            return true;
        }
        false
    }

    /// Nothing is waited for any more: the owner is gone.
    pub fn forget(&self, owner: &Key) {
        self.0.lock().remove(owner);
    }
}

impl Waiting {
    fn new() -> Waiting {
        Waiting { revision: 0, deleted: Vec::new(), since: Instant::now() }
    }
}
