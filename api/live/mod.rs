//! Tables that the road consults, each rebuilt from a feed.
//!
//! Keeps: after [`Live::ready`] every table has held the whole state of some moment, and from then on follows
//! each change in order. It may be behind by what this member has not applied yet: who must be strict reads
//! through `Objects`.
//! Never: writes, or decides. A feed that is cut makes its table read everything anew.

pub mod beats;
pub mod current;
pub mod nodes;
pub mod pod;
pub mod rbac;
pub mod table;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use kontiki_storage::request::Range;
use kontiki_storage::revision::Revision;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::error::Status;
use crate::kinds::kind::Stored;
use crate::objects::{self, ChangeKind, Object, Objects, key, scan};

use beats::Beats;
use nodes::{Item, NodeGraph};
use rbac::Rbac;
use table::Table;

/// Between two tries to read a table anew.
const RETRY: Duration = Duration::from_millis(500);
/// A large table is read in pieces of about this size.
const PAGE_BYTES: usize = 4 << 20;

/// All tables.
#[derive(Debug)]
pub struct Live {
    rbac: ArcSwap<Rbac>,
    /// Held while the next snapshot is made.
    rbac_writer: Mutex<()>,
    pub nodes: NodeGraph,
    pub beats: Arc<Beats>,
    pub namespaces: Table,
    pub service_accounts: Table,
    pub quotas: Table,
    pub priority_classes: Table,
    pub storage_classes: Table,
    pub ingress_classes: Table,
    pub runtime_classes: Table,
    filled: watch::Sender<usize>,
    /// How far the relations of pods have been followed, and who wants that to be said.
    pods_at: watch::Sender<Revision>,
    pods_asked: Notify,
}

/// What is known of one object now: it, or that it is gone.
struct Event {
    namespace: String,
    name: String,
    object: Option<Object>,
}

type Take = fn(&Live, &[Event]);

/// Group, resource, version, kind; and who takes what is known of them.
const SOURCES: [(&str, &str, &str, &str, Take); 21] = {
    const RBAC: &str = "rbac.authorization.k8s.io";
    [
        (RBAC, "clusterroles", "v1", "ClusterRole", |live, events| live.roles_are(events, true)),
        (RBAC, "roles", "v1", "Role", |live, events| live.roles_are(events, true)),
        (RBAC, "clusterrolebindings", "v1", "ClusterRoleBinding", |live, events| {
            live.roles_are(events, false);
        }),
        (RBAC, "rolebindings", "v1", "RoleBinding", |live, events| live.roles_are(events, false)),
        ("", "namespaces", "v1", "Namespace", |live, events| fill(&live.namespaces, events)),
        ("", "serviceaccounts", "v1", "ServiceAccount", |live, events| {
            fill(&live.service_accounts, events);
        }),
        ("", "resourcequotas", "v1", "ResourceQuota", |live, events| fill(&live.quotas, events)),
        ("scheduling.k8s.io", "priorityclasses", "v1", "PriorityClass", |live, events| {
            fill(&live.priority_classes, events);
        }),
        ("storage.k8s.io", "storageclasses", "v1", "StorageClass", |live, events| {
            fill(&live.storage_classes, events);
        }),
        ("networking.k8s.io", "ingressclasses", "v1", "IngressClass", |live, events| {
            fill(&live.ingress_classes, events);
        }),
        ("node.k8s.io", "runtimeclasses", "v1", "RuntimeClass", |live, events| {
            fill(&live.runtime_classes, events);
        }),
        ("", "pods", "v1", "Pod", |live, events| live.nodes.take(Item::Pod, events)),
        ("", "persistentvolumes", "v1", "PersistentVolume", |live, events| {
            live.nodes.take(Item::Volume, events);
        }),
        ("", "secrets", "v1", "Secret", |live, events| live.nodes.stir_by(Item::Secret, events)),
        ("", "configmaps", "v1", "ConfigMap", |live, events| {
            live.nodes.stir_by(Item::ConfigMap, events);
        }),
        ("", "persistentvolumeclaims", "v1", "PersistentVolumeClaim", |live, events| {
            live.nodes.stir_by(Item::Claim, events);
        }),
        ("", "services", "v1", "Service", |live, events| {
            for Event { namespace, name, .. } in events {
                live.nodes.service_changed(namespace, name);
            }
        }),
        ("", "nodes", "v1", "Node", |live, events| {
            events.iter().for_each(|event| live.nodes.node_changed(&event.name));
        }),
        ("storage.k8s.io", "volumeattachments", "v1", "VolumeAttachment", |live, events| {
            live.nodes.take(Item::Attachment, events);
        }),
        ("resource.k8s.io", "resourceslices", "v1", "ResourceSlice", |live, events| {
            live.nodes.take(Item::ResourceSlice, events);
        }),
        (
            "certificates.k8s.io",
            "podcertificaterequests",
            "v1",
            "PodCertificateRequest",
            |live, events| {
                live.nodes.take(Item::CertificateRequest, events);
            },
        ),
    ]
};

/// Where the objects of a built-in resource rest, for rooms below the registry.
#[must_use]
pub fn stored(group: &str, resource: &str, version: &str, kind: &str) -> Stored {
    Stored {
        group: group.into(),
        resource: resource.into(),
        version: version.into(),
        kind: kind.into(),
    }
}

/// One object. That it is not there is said only after this member has caught up with what was committed
/// before.
pub async fn find(
    objects: &Objects,
    of: &Stored,
    namespace: &str,
    name: &str,
) -> Result<Option<Object>, Status> {
    if let Some(found) = objects.get(of, namespace, name)? {
        return Ok(Some(found));
    }
    objects.barrier().await?;
    objects.get(of, namespace, name)
}

/// The first objects of a namespace, at most `max`, and how many there are.
pub fn first(
    objects: &Objects,
    of: &Stored,
    namespace: &str,
    max: u64,
) -> Result<(Vec<Object>, u64), Status> {
    let range = Range { limit: max, ..Range::new(key::range(of, Some(namespace))) };
    let answer = objects.view().range(&range).map_err(objects::stored)?;
    Ok((answer.kvs.into_iter().map(Object::from).collect(), answer.count))
}

impl Default for Live {
    fn default() -> Live {
        Live {
            rbac: ArcSwap::default(),
            rbac_writer: Mutex::default(),
            nodes: NodeGraph::default(),
            beats: Arc::default(),
            namespaces: Table::default(),
            service_accounts: Table::default(),
            quotas: Table::default(),
            priority_classes: Table::default(),
            storage_classes: Table::default(),
            ingress_classes: Table::default(),
            runtime_classes: Table::default(),
            filled: watch::Sender::new(0),
            pods_at: watch::Sender::new(Revision::ZERO),
            pods_asked: Notify::new(),
        }
    }
}

impl Live {
    /// All roles and bindings as of now.
    #[must_use]
    pub fn rbac(&self) -> Arc<Rbac> {
        self.rbac.load_full()
    }

    /// Follows the store as long as it is polled.
    pub async fn run(&self, objects: &Objects) {
        let follow = |&(group, resource, version, kind, take): &(_, _, _, _, Take)| async move {
            self.follow(objects, &stored(group, resource, version, kind), take).await;
        };
        let mut all: FuturesUnordered<_> = SOURCES.iter().map(follow).collect();
        while all.next().await.is_some() {}
    }

    /// Waits until every table has been filled once.
    pub async fn ready(&self) {
        let mut filled = self.filled.subscribe();
        // The sender lives as long as this does.
        let _ = filled.wait_for(|count| *count >= SOURCES.len()).await;
    }

    /// Waits until the relations of pods are not older than `revision`.
    pub async fn pods_seen(&self, revision: Revision) {
        const ASK_EVERY: Duration = Duration::from_millis(20);
        let mut at = self.pods_at.subscribe();
        while *at.borrow_and_update() < revision {
            self.pods_asked.notify_one();
            // It is asked again: what it was told last may have been before the store told its readers.
            let _ = tokio::time::timeout(ASK_EVERY, at.changed()).await;
        }
    }

    async fn follow(&self, objects: &Objects, of: &Stored, take: Take) {
        let mut known: HashSet<(String, String)> = HashSet::new();
        let mut first = true;
        loop {
            match self.read_and_follow(objects, of, take, &mut known, &mut first).await {
                Ok(never) => match never {},
                Err(status) => {
                    tracing::debug!(resource = %of.resource, %status, "a live table reads anew");
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn read_and_follow(
        &self,
        objects: &Objects,
        of: &Stored,
        take: Take,
        known: &mut HashSet<(String, String)>,
        first: &mut bool,
    ) -> Result<std::convert::Infallible, Status> {
        let view = objects.view();
        let revision = view.revision();
        let mut pages = view.pages(Range::new(key::range(of, None)));
        let mut gone = std::mem::take(known);
        while let Some(page) = pages.next_page(PAGE_BYTES).map_err(objects::stored)? {
            let there = page.into_iter().map(|kv| event(of, Some(Object::from(kv)), None));
            let events: Vec<Event> = there.flatten().collect();
            for it in &events {
                let name = (it.namespace.clone(), it.name.clone());
                gone.remove(&name);
                known.insert(name);
            }
            take(self, &events);
        }
        drop((pages, view));
        let gone = gone.into_iter();
        let gone = gone.map(|(namespace, name)| Event { namespace, name, object: None });
        take(self, &gone.collect::<Vec<_>>());
        if std::mem::take(first) {
            self.filled.send_modify(|count| *count += 1);
        }
        let mut feed = objects.feed(of, revision);
        let is_pods = of.group.is_empty() && &*of.resource == "pods";
        if is_pods {
            self.pods_at.send_replace(revision);
        }
        loop {
            let changes = tokio::select! {
                changes = feed.next() => changes?,
                () = self.pods_asked.notified(), if is_pods => {
                    if let Some(progress) = feed.progress() {
                        self.pods_at.send_if_modified(|at| advance(at, progress));
                    }
                    continue;
                }
            };
            let events = changes.iter().filter_map(|change| {
                let is_there = change.kind != ChangeKind::Deleted;
                event(of, is_there.then(|| change.object.clone()), Some(change.object.key()))
            });
            let events: Vec<Event> = events.collect();
            for it in &events {
                let name = (it.namespace.clone(), it.name.clone());
                match it.object {
                    Some(_) => known.insert(name),
                    None => known.remove(&name),
                };
            }
            take(self, &events);
            if let Some(last) = changes.last().filter(|_| is_pods) {
                self.pods_at.send_if_modified(|at| advance(at, last.revision()));
            }
        }
    }

    fn roles_are(&self, events: &[Event], roles: bool) {
        let _writer = self.rbac_writer.lock();
        let changes = events.iter().filter_map(|event| {
            let Event { namespace, name, object } = event;
            Some(match object {
                Some(object) if roles => rbac::Change::Role(readable(object)?),
                Some(object) => rbac::Change::Binding(readable(object)?),
                None if roles => rbac::Change::RoleGone { namespace, name },
                None => rbac::Change::BindingGone { namespace, name },
            })
        });
        let next = self.rbac.load().after(changes);
        self.rbac.store(Arc::new(next));
    }
}

fn advance(at: &mut Revision, to: Revision) -> bool {
    let moves = to > *at;
    *at = to.max(*at);
    moves
}

/// Names the object as its key does: of `object`, or of a `key` whose object is gone.
fn event(of: &Stored, object: Option<Object>, key: Option<&Bytes>) -> Option<Event> {
    let within = key::within(of, key.or(object.as_ref().map(Object::key))?)?;
    let (namespace, name) = within.split_once('/').unwrap_or(("", within));
    Some(Event { namespace: namespace.into(), name: name.into(), object })
}

fn readable(object: &Object) -> Option<&serde_json::Value> {
    let told = |status: &Status| tracing::warn!(%status, "a live table skips an object");
    object.value().inspect_err(told).ok()
}

fn has_node(pod: &Object) -> bool {
    scan::find(pod.at_rest(), ["spec", "nodeName"]).is_some()
}

fn fill(table: &Table, events: &[Event]) {
    for Event { namespace, name, object } in events {
        match object {
            Some(object) => table.is(namespace, name, object.clone()),
            None => table.gone(namespace, name),
        }
    }
}

impl NodeGraph {
    fn stir_by(&self, item: Item, events: &[Event]) {
        events.iter().for_each(|event| self.changed(item, &event.namespace, &event.name));
    }

    fn take(&self, item: Item, events: &[Event]) {
        for Event { namespace, name, object } in events {
            let object = match item {
                // Most that are made have no node yet, and need not be decoded for that to be known.
                Item::Pod => object.as_ref().filter(|pod| has_node(pod)),
                _ => object.as_ref(),
            };
            match (object.map(readable), item) {
                (None, _) => self.gone(item, namespace, name),
                (Some(None), _) => {}
                (Some(Some(pod)), Item::Pod) => self.pod_is(pod),
                (Some(Some(volume)), Item::Volume) => self.volume_is(volume),
                (Some(Some(own)), _) => self.own_is(item, own),
            }
        }
    }
}

#[cfg(test)]
mod tests;
