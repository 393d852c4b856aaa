//! Tables that the road consults, each rebuilt from a feed.
//!
//! Keeps: after [`Live::ready`] every table has held the whole state of some moment, and from then on follows
//! each change in order. It may be behind by what this member has not applied yet: who must be strict reads
//! through `Objects`.
//! Never: writes, or decides. A feed that is cut makes its table read everything anew.

pub mod nodes;
pub mod pod;
pub mod rbac;
pub mod table;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::future::join_all;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::error::Status;
use crate::kinds::kind::Stored;
use crate::objects::{ChangeKind, Object, Objects, key};

use nodes::{Item, NodeGraph};
use rbac::Rbac;
use table::Table;

/// Between two tries to read a table anew.
const RETRY: Duration = Duration::from_millis(500);

/// All tables.
#[derive(Debug)]
pub struct Live {
    rbac: ArcSwap<Rbac>,
    /// Held while the next snapshot is made.
    rbac_writer: Mutex<()>,
    pub nodes: NodeGraph,
    pub namespaces: Table,
    pub service_accounts: Table,
    pub limit_ranges: Table,
    pub quotas: Table,
    pub priority_classes: Table,
    pub storage_classes: Table,
    pub ingress_classes: Table,
    pub runtime_classes: Table,
    filled: watch::Sender<usize>,
}

/// What is known of one object now.
enum Event {
    Is(Object),
    Gone { namespace: String, name: String },
}

type Take = fn(&Live, &[Event]);

/// Group, resource, version, kind; and who takes what is known of them.
const SOURCES: [(&str, &str, &str, &str, Take); 17] = {
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
        ("", "limitranges", "v1", "LimitRange", |live, events| fill(&live.limit_ranges, events)),
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

impl Default for Live {
    fn default() -> Live {
        Live {
            rbac: ArcSwap::default(),
            rbac_writer: Mutex::default(),
            nodes: NodeGraph::default(),
            namespaces: Table::default(),
            service_accounts: Table::default(),
            limit_ranges: Table::default(),
            quotas: Table::default(),
            priority_classes: Table::default(),
            storage_classes: Table::default(),
            ingress_classes: Table::default(),
            runtime_classes: Table::default(),
            filled: watch::Sender::new(0),
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
        let follow = |&(group, resource, version, kind, take): &(_, _, _, _, Take)| {
            let of = stored(group, resource, version, kind);
            async move { self.follow(objects, &of, take).await }
        };
        join_all(SOURCES.iter().map(follow)).await;
    }

    /// Waits until every table has been filled once.
    pub async fn ready(&self) {
        let mut filled = self.filled.subscribe();
        // The sender lives as long as this does.
        let _ = filled.wait_for(|count| *count >= SOURCES.len()).await;
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
        let (there, revision) = objects.list(of, None)?;
        let now: HashSet<_> = there.iter().map(|object| name_of(of, object)).collect();
        let gone = known.difference(&now).cloned();
        let gone = gone.map(|(namespace, name)| Event::Gone { namespace, name });
        let events: Vec<Event> = gone.chain(there.into_iter().map(Event::Is)).collect();
        take(self, &events);
        *known = now;
        if std::mem::take(first) {
            self.filled.send_modify(|count| *count += 1);
        }
        let mut feed = objects.feed(of, revision);
        loop {
            let changes = feed.next().await?;
            let event = |change: &Arc<crate::objects::Change>| {
                let (namespace, name) = name_of(of, &change.object);
                match change.kind {
                    ChangeKind::Deleted => Event::Gone { namespace, name },
                    _ => Event::Is(change.object.clone()),
                }
            };
            let events: Vec<Event> = changes.iter().map(event).collect();
            for event in &events {
                match event {
                    Event::Is(object) => drop(known.insert(name_of(of, object))),
                    Event::Gone { namespace, name } => {
                        known.remove(&(namespace.clone(), name.clone()));
                    }
                }
            }
            take(self, &events);
        }
    }

    fn roles_are(&self, events: &[Event], roles: bool) {
        let _writer = self.rbac_writer.lock();
        let changes = events.iter().filter_map(|event| match event {
            Event::Is(object) => {
                let value = readable(object)?;
                Some(if roles { rbac::Change::Role(value) } else { rbac::Change::Binding(value) })
            }
            Event::Gone { namespace, name } if roles => {
                Some(rbac::Change::RoleGone { namespace, name })
            }
            Event::Gone { namespace, name } => Some(rbac::Change::BindingGone { namespace, name }),
        });
        let next = self.rbac.load().after(changes);
        self.rbac.store(Arc::new(next));
    }
}

/// Namespace (empty for cluster scope) and name, as the key has them.
fn name_of(of: &Stored, object: &Object) -> (String, String) {
    let within = key::within(of, object.key()).unwrap_or_default();
    let (namespace, name) = within.split_once('/').unwrap_or(("", within));
    (namespace.into(), name.into())
}

fn readable(object: &Object) -> Option<&serde_json::Value> {
    object
        .value()
        .inspect_err(|status| tracing::warn!(%status, "a live table skips an object"))
        .ok()
}

fn fill(table: &Table, events: &[Event]) {
    for event in events {
        match event {
            Event::Is(object) => {
                if let Some(value) = readable(object) {
                    let text = |field: &str| value["metadata"][field].as_str().unwrap_or_default();
                    table.is(text("namespace"), text("name"), object.clone());
                }
            }
            Event::Gone { namespace, name } => table.gone(namespace, name),
        }
    }
}

impl NodeGraph {
    fn take(&self, item: Item, events: &[Event]) {
        for event in events {
            match event {
                Event::Gone { namespace, name } => self.gone(item, namespace, name),
                Event::Is(object) => {
                    let Some(value) = readable(object) else { continue };
                    match item {
                        Item::Pod => self.pod_is(value),
                        Item::Volume => self.volume_is(value),
                        _ => self.own_is(item, value),
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
