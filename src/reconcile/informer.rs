//! What the API shows of one resource, kept typed and up to date: one copy for all loops of the process.
//!
//! Keeps: changes are seen in the order of their revisions, each once; `revision` never passes what was
//! seen, so "the informer is at revision r" means that everything up to r is in it. After a cut the
//! whole state is read again and the difference is told as if it had been watched. Where a folder is given for
//! it, what was seen last is on disk too, and is shown when no master answers.
//! Never: shows an object's `managedFields`, which nobody here reads and which are a third of its bytes
//! (an update that leaves them out keeps them, as the API rules).

use std::any::{Any, TypeId};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use k8s_openapi::ListableResource;
use kontiki_api::Status;
use kontiki_api::client::{Change, Client, Typed};
use kontiki_api::error::Reason;
use kontiki_api::request::Options;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Key, revision_of};
use crate::kept::{AFTER, Kept};

/// Pause before a watch that failed is opened again; doubled up to the most.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// A change as handlers see it. The objects are shared with the informer.
pub enum Delta<'a, K> {
    Added(&'a Arc<K>),
    Updated { old: &'a Arc<K>, new: &'a Arc<K> },
    Deleted(&'a Arc<K>),
}

impl<K> Delta<'_, K> {
    /// The object as it is now, or was last.
    #[must_use]
    pub fn object(&self) -> &Arc<K> {
        match self {
            Delta::Added(object) | Delta::Deleted(object) | Delta::Updated { new: object, .. } => {
                object
            }
        }
    }
}

type Handler<K> = Box<dyn Fn(&Delta<'_, K>) + Send + Sync>;
type IndexOf<K> = Box<dyn Fn(&K) -> Vec<String> + Send + Sync>;

/// All clones are the same informer.
pub struct Informer<K>(Arc<Inner<K>>);

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Informer(self.0.clone())
    }
}

struct Inner<K> {
    cache: RwLock<Cache<K>>,
    handlers: RwLock<Vec<Handler<K>>>,
    /// The revision that is seen; zero until the first state is whole.
    revision: watch::Sender<u64>,
    /// The state is what a master has said: a watch can go on from it.
    told: AtomicBool,
    /// Goes up with each change.
    changes: watch::Sender<u64>,
}

/// What is on disk of a resource.
#[derive(Deserialize)]
struct Remembered<K> {
    revision: u64,
    objects: Vec<K>,
}

#[derive(Serialize)]
struct Remembering<'a, K> {
    revision: u64,
    objects: Vec<&'a K>,
}

struct Cache<K> {
    objects: BTreeMap<Key, Arc<K>>,
    indexes: HashMap<&'static str, Index<K>>,
}

struct Index<K> {
    of: IndexOf<K>,
    keys: HashMap<String, BTreeSet<Key>>,
}

impl<K> Index<K> {
    /// The object is another than before, or new, or gone. Most changes leave it where it is.
    fn change(&mut self, key: &Key, before: Option<&K>, now: Option<&K>) {
        let values = |object: Option<&K>| object.map(|it| (self.of)(it)).unwrap_or_default();
        let (before, now) = (values(before), values(now));
        if before == now {
            return;
        }
        for value in before {
            if let Some(keys) = self.keys.get_mut(&value) {
                keys.remove(key);
                if keys.is_empty() {
                    self.keys.remove(&value);
                }
            }
        }
        for value in now {
            self.keys.entry(value).or_default().insert(key.clone());
        }
    }
}

impl<K> Cache<K> {
    fn put(&mut self, key: &Key, object: &Arc<K>) -> Option<Arc<K>> {
        let old = self.objects.insert(key.clone(), object.clone());
        for index in self.indexes.values_mut() {
            index.change(key, old.as_deref(), Some(object));
        }
        old
    }

    fn remove(&mut self, key: &Key) -> Option<Arc<K>> {
        let old = self.objects.remove(key)?;
        for index in self.indexes.values_mut() {
            index.change(key, Some(&old), None);
        }
        Some(old)
    }
}

impl<K: Typed + ListableResource> Informer<K> {
    fn new() -> Informer<K> {
        Informer(Arc::new(Inner {
            cache: RwLock::new(Cache { objects: BTreeMap::new(), indexes: HashMap::new() }),
            handlers: RwLock::new(Vec::new()),
            revision: watch::Sender::new(0),
            told: AtomicBool::new(false),
            changes: watch::Sender::new(0),
        }))
    }

    fn is_told(&self) -> bool {
        self.0.told.load(Ordering::Relaxed)
    }

    /// Is called for each change from here on, after it is in the informer, in order. It must be quick:
    /// put a key into a queue and return. What is there already is told at once, as added.
    pub fn on(&self, handler: impl Fn(&Delta<'_, K>) + Send + Sync + 'static) {
        // The handlers' lock is held over both, so that no change falls between.
        let mut handlers = self.0.handlers.write();
        let there: Vec<_> = self.0.cache.read().objects.values().cloned().collect();
        there.iter().for_each(|object| handler(&Delta::Added(object)));
        handlers.push(Box::new(handler));
    }

    /// Objects can be asked for by what `of` says of them. Naming an index twice keeps the first.
    pub fn index(
        &self,
        name: &'static str,
        of: impl Fn(&K) -> Vec<String> + Send + Sync + 'static,
    ) {
        let mut cache = self.0.cache.write();
        if cache.indexes.contains_key(name) {
            return;
        }
        let mut index = Index { of: Box::new(of), keys: HashMap::new() };
        for (key, object) in &cache.objects {
            index.change(key, None, Some(object));
        }
        cache.indexes.insert(name, index);
    }

    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.0.cache.read().objects.get(key).cloned()
    }

    /// All of them, ordered by key.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<K>> {
        self.0.cache.read().objects.values().cloned().collect()
    }

    #[must_use]
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let cache = self.0.cache.read();
        cache
            .objects
            .range(Key::new(namespace, "")..)
            .take_while(|(key, _)| key.namespace == namespace)
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// Those that an index puts under `value`, ordered by key; none for an index that was not named.
    #[must_use]
    pub fn by_index(&self, name: &'static str, value: &str) -> Vec<Arc<K>> {
        let cache = self.0.cache.read();
        let Some(keys) = cache.indexes.get(name).and_then(|index| index.keys.get(value)) else {
            return Vec::new();
        };
        keys.iter().filter_map(|key| cache.objects.get(key).cloned()).collect()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.0.cache.read().objects.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The revision up to which everything was seen.
    #[must_use]
    pub fn revision(&self) -> u64 {
        *self.0.revision.borrow()
    }

    /// Waits until the first state is whole.
    pub async fn synced(&self) {
        self.0.revision.subscribe().wait_for(|revision| *revision > 0).await.ok();
    }

    fn apply(&self, change: Change<K>) {
        match change {
            Change::Added(object) | Change::Modified(object) => self.put(object),
            Change::Deleted(object) => {
                let revision = revision_of(object.metadata());
                self.remove(&Key::of(object.metadata()));
                self.advance(revision);
            }
            Change::Bookmark { resource_version, .. } => {
                self.advance(resource_version.parse().unwrap_or(0));
            }
        }
    }

    fn put(&self, mut object: K) {
        object.metadata_mut().managed_fields = None;
        let revision = revision_of(object.metadata());
        let key = Key::of(object.metadata());
        let new = Arc::new(object);
        let handlers = self.0.handlers.read();
        let old = self.0.cache.write().put(&key, &new);
        let delta = match &old {
            // Told twice, by a watch that was opened again.
            Some(old) if revision_of(old.metadata()) == revision => return,
            Some(old) => Delta::Updated { old, new: &new },
            None => Delta::Added(&new),
        };
        handlers.iter().for_each(|handler| handler(&delta));
        drop(handlers);
        self.0.changes.send_modify(|number| *number += 1);
        if self.is_told() {
            self.advance(revision);
        }
    }

    fn remove(&self, key: &Key) {
        let handlers = self.0.handlers.read();
        let old = self.0.cache.write().remove(key);
        if let Some(old) = old {
            handlers.iter().for_each(|handler| handler(&Delta::Deleted(&old)));
            self.0.changes.send_modify(|number| *number += 1);
        }
    }

    fn advance(&self, revision: u64) {
        self.0.revision.send_if_modified(|seen| {
            let forward = revision > *seen;
            if forward {
                *seen = revision;
            }
            forward
        });
    }

    /// Watches until `stop`, reading the whole state first and again after each cut.
    async fn run(self, client: Client, stop: CancellationToken) {
        let mut pause = RETRY_FIRST;
        while !stop.is_cancelled() {
            let before = self.revision();
            let result = tokio::select! {
                result = self.follow(&client) => result,
                () = stop.cancelled() => return,
            };
            if self.revision() > before {
                pause = RETRY_FIRST;
            }
            match result {
                Ok(()) => continue,
                Err(status) if status.is(Reason::Expired) || status.is(Reason::Gone) => {
                    tracing::debug!(
                        resource = K::URL_PATH_SEGMENT,
                        "the watch was cut, reading all"
                    );
                    self.0.told.store(false, Ordering::Relaxed);
                    self.0.revision.send_replace(0);
                }
                Err(status) => {
                    tracing::debug!(resource = K::URL_PATH_SEGMENT, %status, "the watch failed");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return,
            }
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// One watch, to its end.
    async fn follow(&self, client: &Client) -> Result<(), Status> {
        let from = self.revision();
        let whole = !self.is_told();
        let options = Options {
            allow_watch_bookmarks: true,
            send_initial_events: whole.then_some(true),
            resource_version_match: whole.then(|| "NotOlderThan".to_owned()),
            resource_version: (!whole).then(|| from.to_string()),
            ..Options::default()
        };
        let mut changes = std::pin::pin!(client.watch_bare::<K>("", options).await?);
        // Keys of the state that is being read; what else is there has gone meanwhile.
        let mut seen = whole.then(HashSet::new);
        while let Some(change) = changes.next().await {
            let change = change?;
            if let (Some(keys), Change::Added(object)) = (&mut seen, &change) {
                keys.insert(Key::of(object.metadata()));
            }
            let complete = matches!(&change, Change::Bookmark { initial: true, .. });
            if complete && let Some(keys) = seen.take() {
                let gone: Vec<Key> = {
                    let cache = self.0.cache.read();
                    cache.objects.keys().filter(|key| !keys.contains(*key)).cloned().collect()
                };
                gone.iter().for_each(|key| self.remove(key));
                // From here on it is the master's, who may be behind what was remembered.
                self.0.told.store(true, Ordering::Relaxed);
                if let Change::Bookmark { resource_version, .. } = &change {
                    self.0.revision.send_replace(resource_version.parse().unwrap_or(0));
                }
                self.0.changes.send_modify(|number| *number += 1);
            }
            self.apply(change);
        }
        Ok(())
    }

    /// Shows what was seen last when no master answers, and writes down what they say. Is polled by the task
    /// that watches, so that neither comes into the middle of what the other puts.
    async fn keep(self, kept: Kept) {
        let remembered = kept.value::<Remembered<K>>().await;
        if let Some(remembered) = remembered
            && timeout(AFTER, self.synced()).await.is_err()
        {
            let resource = K::URL_PATH_SEGMENT;
            tracing::warn!(resource, "no master answers: they are shown as they were last");
            // A master may have begun to tell them: what it has told is right.
            let is_new = |object: &K| self.get(&Key::of(object.metadata())).is_none();
            remembered.objects.into_iter().filter(is_new).for_each(|object| self.put(object));
            self.0.revision.send_replace(remembered.revision.max(1));
        }
        let mut changes = self.0.changes.subscribe();
        changes.mark_changed();
        while changes.changed().await.is_ok() {
            if !self.is_told() {
                continue;
            }
            let body = {
                let cache = self.0.cache.read();
                let objects = cache.objects.values().map(AsRef::as_ref).collect();
                serde_json::to_vec(&Remembering { revision: self.revision(), objects })
            };
            let written = match body {
                Ok(body) => kept.put(body).await,
                Err(error) => Err(error.to_string()),
            };
            if let Err(why) = written {
                tracing::debug!(resource = K::URL_PATH_SEGMENT, why, "is written down later");
                changes.mark_changed();
            }
        }
    }
}

type Start = Box<dyn FnOnce(Client, CancellationToken) -> BoxFuture<'static, ()> + Send>;

/// The informers of a process. A resource that is asked for twice is watched once.
#[derive(Clone)]
pub struct Informers(Arc<Set>);

struct Set {
    client: Client,
    made: Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>,
    starts: Mutex<Vec<Start>>,
    waits: Mutex<Vec<Box<dyn Fn() -> BoxFuture<'static, ()> + Send>>>,
    running: AtomicBool,
    added: tokio::sync::Notify,
    /// Where what is seen is kept for the time when no master answers.
    kept: Option<PathBuf>,
}

impl Informers {
    #[must_use]
    pub fn new(client: Client) -> Informers {
        Informers::keeping(client, None)
    }

    /// With a folder in which each resource has a file, so that it is known also when no master answers.
    #[must_use]
    pub fn keeping(client: Client, kept: Option<PathBuf>) -> Informers {
        Informers(Arc::new(Set {
            client,
            kept,
            made: Mutex::default(),
            starts: Mutex::default(),
            waits: Mutex::default(),
            running: AtomicBool::new(false),
            added: tokio::sync::Notify::new(),
        }))
    }

    /// The informer of a resource, which is watched as long as [`Informers::run`] runs.
    #[must_use]
    pub fn of<K: Typed + ListableResource>(&self) -> Informer<K> {
        let mut made = self.0.made.lock();
        if let Some(informer) =
            made.get(&TypeId::of::<K>()).and_then(|any| any.downcast_ref::<Informer<K>>())
        {
            return informer.clone();
        }
        let informer = Informer::<K>::new();
        made.insert(TypeId::of::<K>(), Arc::new(informer.clone()));
        let watched = informer.clone();
        let kept = self
            .0
            .kept
            .as_ref()
            .map(|folder| Kept::new(folder.join(K::URL_PATH_SEGMENT), K::URL_PATH_SEGMENT));
        self.0.starts.lock().push(Box::new(move |client, stop: CancellationToken| {
            Box::pin(async move {
                let keeping = async {
                    match kept {
                        Some(kept) => watched.clone().keep(kept).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = watched.clone().run(client, stop) => {}
                    () = keeping => {}
                }
            })
        }));
        let waited = informer.clone();
        self.0.waits.lock().push(Box::new(move || {
            let informer = waited.clone();
            Box::pin(async move { informer.synced().await })
        }));
        self.0.added.notify_one();
        informer
    }

    /// Watches until `stop`. Informers that are made meanwhile begin at once.
    pub async fn run(&self, stop: CancellationToken) {
        assert!(!self.0.running.swap(true, Ordering::Relaxed), "informers run once");
        let mut watches = tokio::task::JoinSet::new();
        while !stop.is_cancelled() {
            for start in std::mem::take(&mut *self.0.starts.lock()) {
                watches.spawn(start(self.0.client.clone(), stop.clone()));
            }
            tokio::select! {
                () = self.0.added.notified() => {}
                () = stop.cancelled() => {}
            }
        }
        while watches.join_next().await.is_some() {}
    }

    /// Waits until every informer made so far holds its first state.
    pub async fn synced(&self) {
        let waits: Vec<_> = self.0.waits.lock().iter().map(|wait| wait()).collect();
        futures::future::join_all(waits).await;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kontiki_api::client::{Event, EventKind, Events, Served, Transport};
    use kontiki_api::request::Request;
    use serde_json::{Value, json};

    use super::*;

    /// A master that has these objects, or is away.
    struct Master(Option<Vec<Value>>);

    fn object(name: &str, text: &str, revision: u64) -> Value {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"text": text}, "metadata": {
            "name": name, "namespace": "n", "resourceVersion": revision.to_string()}})
    }

    impl Transport for Master {
        fn call(&self, _request: Request) -> BoxFuture<'static, Result<Bytes, Status>> {
            Box::pin(async { Err(Status::internal("it is only watched")) })
        }

        fn watch(&self, _request: Request) -> BoxFuture<'static, Result<Events, Status>> {
            let Some(objects) = &self.0 else {
                return Box::pin(async { Err(Status::internal("away")) });
            };
            let event = |kind, object: &Value| {
                let object = Bytes::from(serde_json::to_vec(object).unwrap());
                Ok(Event { kind, object })
            };
            let mut all: Vec<_> = objects.iter().map(|it| event(EventKind::Added, it)).collect();
            let bookmark = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {
                "resourceVersion": "7", "annotations": {"k8s.io/initial-events-end": "true"}}});
            all.push(event(EventKind::Bookmark, &bookmark));
            let events: Events =
                Box::pin(futures::stream::iter(all).chain(futures::stream::pending()));
            Box::pin(async { Ok(events) })
        }

        fn resources(&self) -> BoxFuture<'static, Result<Vec<Served>, Status>> {
            Box::pin(async { Ok(Vec::new()) })
        }
    }

    /// What is seen by one who starts in `folder`, as soon as it counts as whole.
    async fn seen(folder: &std::path::Path, master: Option<Vec<Value>>) -> Vec<(String, String)> {
        let told = master.is_some();
        let client = Client::new(Arc::new(Master(master)), "test");
        let informers = Informers::keeping(client, Some(folder.to_owned()));
        let maps = informers.of::<ConfigMap>();
        let stop = CancellationToken::new();
        let running = tokio::spawn({
            let (informers, stop) = (informers.clone(), stop.clone());
            async move { informers.run(stop).await }
        });
        maps.synced().await;
        let file = Kept::new(folder.join("configmaps"), "configmaps");
        let is_written = || {
            let Ok(Some(body)) = file.read() else { return false };
            serde_json::from_slice::<Value>(&body).unwrap()["objects"].as_array().unwrap().len()
                == maps.len()
        };
        while told && !is_written() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        stop.cancel();
        running.await.unwrap();
        let text = |it: &Arc<ConfigMap>| it.data.as_ref().unwrap()["text"].clone();
        maps.list().iter().map(|it| (it.metadata.name.clone().unwrap(), text(it))).collect()
    }

    fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
        all.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_seen_last_is_shown_without_a_master_and_put_right_by_one() {
        let folder = tempfile::tempdir().unwrap();
        let first = vec![object("a", "one", 5), object("b", "one", 6)];
        assert_eq!(seen(folder.path(), Some(first)).await, pairs(&[("a", "one"), ("b", "one")]));
        assert_eq!(seen(folder.path(), None).await, pairs(&[("a", "one"), ("b", "one")]));
        // Another history, and a shorter one: it is the master's all the same.
        let second = vec![object("a", "two", 3)];
        assert_eq!(seen(folder.path(), Some(second)).await, pairs(&[("a", "two")]));
        assert_eq!(seen(folder.path(), None).await, pairs(&[("a", "two")]));
    }
}
