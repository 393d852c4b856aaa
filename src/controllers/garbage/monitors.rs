//! Watches on the metadata of everything that can be deleted, as many as there are resources.
//!
//! Keeps: a resource that appears (a CRD) is watched soon after; after a cut, what has gone meanwhile is told
//! as gone. Never: keeps an object; the graph has all that matters of it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kontiki_api::Status;
use kontiki_api::client::{Client, EventKind, Served};
use kontiki_api::error::Reason;
use kontiki_api::object::GroupVersionResource;
use kontiki_api::request::Verb;
use parking_lot::RwLock;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::dynamic::{self, Partial, can};
use super::graph::Identity;

/// How often the list of resources is read when nothing hints at a change.
const REFRESH: Duration = Duration::from_secs(30);
/// A hint comes before what it hints at is served.
const SETTLE: Duration = Duration::from_millis(500);
/// How long work waits for the first state of a resource.
const PATIENCE: Duration = Duration::from_secs(30);
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// What the watches tell.
pub enum Told {
    Shown(Identity, Box<Partial>),
    Gone(String),
    /// The first state of a resource is whole: of its objects these are there, and no others.
    Whole {
        api_version: String,
        kind: String,
        uids: HashSet<String>,
    },
}

type Tell = Arc<dyn Fn(Told) + Send + Sync>;

/// Which resources there are, and how far their watches have come.
pub struct Monitors {
    client: Client,
    tell: Tell,
    /// Every version of every kind, for those who have a reference.
    kinds: RwLock<HashMap<(String, String), Served>>,
    /// Resources whose first state is not whole yet, since when.
    behind: RwLock<HashMap<GroupVersionResource, Instant>>,
    level: watch::Sender<bool>,
    pub changed: Notify,
}

impl Monitors {
    pub fn new(client: Client, tell: impl Fn(Told) + Send + Sync + 'static) -> Monitors {
        Monitors {
            client,
            tell: Arc::new(tell),
            kinds: RwLock::default(),
            behind: RwLock::default(),
            level: watch::Sender::new(false),
            changed: Notify::new(),
        }
    }

    /// The resource that a reference's kind is served as.
    pub fn served(&self, api_version: &str, kind: &str) -> Option<Served> {
        self.kinds.read().get(&(api_version.to_owned(), kind.to_owned())).cloned()
    }

    /// Waits until everything is seen that was there, or it has taken too long.
    pub async fn level(&self) {
        let mut level = self.level.subscribe();
        loop {
            let patience = {
                let behind = self.behind.read();
                let oldest = behind.values().min().copied();
                oldest.map(|since| PATIENCE.saturating_sub(since.elapsed()))
            };
            match patience {
                None if *level.borrow_and_update() => return,
                Some(left) if left.is_zero() => return,
                left => {
                    let wait = left.unwrap_or(PATIENCE);
                    let _ = tokio::time::timeout(wait, level.changed()).await;
                }
            }
        }
    }

    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut running: HashMap<GroupVersionResource, CancellationToken> = HashMap::new();
        let mut watches = JoinSet::new();
        while !stop.is_cancelled() {
            match self.client.resources().await {
                Ok(served) => self.follow(served, &mut running, &mut watches, &stop),
                Err(status) => tracing::warn!(%status, "the list of resources cannot be read"),
            }
            tokio::select! {
                () = self.changed.notified() => tokio::time::sleep(SETTLE).await,
                () = tokio::time::sleep(REFRESH) => {}
                () = stop.cancelled() => {}
            }
            while watches.try_join_next().is_some() {}
        }
        while watches.join_next().await.is_some() {}
    }

    fn follow(
        self: &Arc<Self>,
        served: Vec<Served>,
        running: &mut HashMap<GroupVersionResource, CancellationToken>,
        watches: &mut JoinSet<()>,
        stop: &CancellationToken,
    ) {
        let named = |one: &Served| {
            ((one.resource.group_version().to_string(), one.kind.clone()), one.clone())
        };
        *self.kinds.write() = served.iter().map(named).collect();
        let wanted: Vec<_> = dynamic::preferred(served).into_iter().filter(is_followed).collect();
        running.retain(|resource, token| {
            let stays = wanted.iter().any(|one| one.resource == *resource);
            if !stays {
                token.cancel();
                self.caught_up(resource);
            }
            stays
        });
        for one in wanted {
            if running.contains_key(&one.resource) {
                continue;
            }
            let token = stop.child_token();
            running.insert(one.resource.clone(), token.clone());
            self.behind.write().insert(one.resource.clone(), Instant::now());
            self.level.send_replace(false);
            watches.spawn(self.clone().watch(one, token));
        }
        if self.behind.read().is_empty() {
            self.level.send_replace(true);
        }
    }

    fn caught_up(&self, resource: &GroupVersionResource) {
        let mut behind = self.behind.write();
        behind.remove(resource);
        if behind.is_empty() {
            self.level.send_replace(true);
        }
    }

    /// Follows one resource until `stop`.
    async fn watch(self: Arc<Self>, served: Served, stop: CancellationToken) {
        let mut from = None;
        let mut pause = RETRY_FIRST;
        while !stop.is_cancelled() {
            let before = from.clone();
            let result = tokio::select! {
                result = self.watch_once(&served, &mut from) => result,
                () = stop.cancelled() => return,
            };
            if from != before {
                pause = RETRY_FIRST;
            }
            match result {
                Ok(()) => continue,
                Err(status) => {
                    tracing::debug!(resource = %served.resource, %status, "the watch failed");
                    if status.is(Reason::Expired) || status.is(Reason::Gone) {
                        from = None;
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return,
            }
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    async fn watch_once(&self, served: &Served, from: &mut Option<String>) -> Result<(), Status> {
        let mut request = dynamic::request(Verb::Watch, &served.resource, "", "");
        request.options.allow_watch_bookmarks = true;
        request.options.resource_version.clone_from(from);
        if from.is_none() {
            request.options.send_initial_events = Some(true);
            request.options.resource_version_match = Some("NotOlderThan".into());
        }
        let api_version = served.resource.group_version().to_string();
        let mut events = self.client.watch_raw(request).await?;
        let mut first = from.is_none().then(HashSet::new);
        while let Some(event) = events.next().await {
            let event = event?;
            let partial: Partial =
                serde_json::from_slice(&event.object).map_err(Status::internal)?;
            let metadata = &partial.metadata;
            let uid = metadata.uid.clone().unwrap_or_default();
            let revision = metadata.resource_version.clone();
            match event.kind {
                EventKind::Added | EventKind::Modified => {
                    if let Some(uids) = &mut first {
                        uids.insert(uid.clone());
                    }
                    let text = |text: &Option<String>| text.clone().unwrap_or_default();
                    let identity = Identity {
                        kind: served.kind.clone(),
                        api_version: api_version.clone(),
                        namespace: text(&metadata.namespace),
                        name: text(&metadata.name),
                        uid,
                    };
                    (self.tell)(Told::Shown(identity, Box::new(partial)));
                }
                EventKind::Deleted => (self.tell)(Told::Gone(uid)),
                EventKind::Bookmark => {
                    if let Some(uids) = first.take_if(|_| ends_first_state(metadata)) {
                        let (api_version, kind) = (api_version.clone(), served.kind.clone());
                        (self.tell)(Told::Whole { api_version, kind, uids });
                        self.caught_up(&served.resource);
                    }
                }
            }
            // Before the first state is whole, there is nothing to go on from.
            if first.is_none() && revision.is_some() {
                *from = revision;
            }
        }
        Ok(())
    }
}

fn ends_first_state(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> bool {
    let annotations = metadata.annotations.as_ref();
    annotations.and_then(|all| all.get("k8s.io/initial-events-end")).is_some_and(|it| it == "true")
}

/// Events come by the thousand, own nothing and go by themselves.
fn is_followed(served: &Served) -> bool {
    let events = served.resource.resource == "events"
        && matches!(served.resource.group.as_str(), "" | "events.k8s.io");
    !events && ["delete", "list", "watch"].iter().all(|verb| can(served, verb))
}
