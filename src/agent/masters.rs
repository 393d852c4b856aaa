//! What the agent asks of the masters, and what it tells them.
//!
//! [`Masters`] is small on purpose: assignments come as one full set and then as increments,
//! whatever carries them. [`Api`] carries them by watching pods with the node's certificate.
//!
//! Keeps: after a broken stream the full set is told again; there is no partial repair.
//! Never: keeps a copy of a secret.

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::{
    ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount,
};
use kontiki_api::Status;
use kontiki_api::client::{Change, Client, DeleteOptions, PatchKind, Preconditions};
use kontiki_api::error::Reason;
use kontiki_api::object::time::Timestamp;
use kontiki_api::request::Options;
use serde_json::{Value, json};

/// A change of what this node has to run.
#[derive(Clone, Debug)]
pub enum Assignment {
    /// Everything. What is not in it is no longer wanted.
    All(Vec<Pod>),
    Put(Box<Pod>),
    /// The pod is gone from the store.
    Remove(Box<Pod>),
}

/// A token for a service account, and when it ends.
#[derive(Clone, Debug)]
pub struct Token {
    pub token: String,
    pub expires: Timestamp,
}

/// Which token is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenWanted {
    pub account: String,
    pub audience: Option<String>,
    pub seconds: i64,
}

pub type Answer<'a, T> = BoxFuture<'a, Result<T, Status>>;

pub trait Masters: Send + Sync + 'static {
    /// The full set, then increments, until it breaks.
    fn assignments(&self) -> Answer<'_, BoxStream<'static, Result<Assignment, Status>>>;

    fn secret<'a>(&'a self, namespace: &'a str, name: &'a str) -> Answer<'a, Secret>;
    fn config_map<'a>(&'a self, namespace: &'a str, name: &'a str) -> Answer<'a, ConfigMap>;
    fn services<'a>(&'a self, namespace: &'a str) -> Answer<'a, Vec<Service>>;
    /// The volume that a claim of this namespace is bound to.
    fn volume<'a>(&'a self, namespace: &'a str, claim: &'a str) -> Answer<'a, PersistentVolume>;
    /// A token bound to the pod.
    fn token<'a>(&'a self, pod: &'a Pod, wanted: &'a TokenWanted) -> Answer<'a, Token>;

    /// Patches the pod's status.
    fn report<'a>(&'a self, pod: &'a Pod, status: Value) -> Answer<'a, ()>;
    /// Nothing of the pod is left on this node: its object may go.
    fn forget<'a>(&'a self, pod: &'a Pod) -> Answer<'a, ()>;
}

/// The masters' API.
pub struct Api {
    client: Client,
    node: String,
}

impl Api {
    #[must_use]
    pub fn new(client: Client, node: String) -> Api {
        Api { client, node }
    }

    fn mine(&self) -> Options {
        Options {
            field_selector: Some(format!("spec.nodeName={}", self.node)),
            ..Options::default()
        }
    }
}

impl Masters for Api {
    fn assignments(&self) -> Answer<'_, BoxStream<'static, Result<Assignment, Status>>> {
        Box::pin(async move {
            let all = self.client.list::<Pod>("", self.mine()).await?;
            let options = Options {
                resource_version: Some(all.resource_version),
                allow_watch_bookmarks: true,
                ..self.mine()
            };
            let changes = self.client.watch::<Pod>("", options).await?;
            let changes = changes.filter_map(|change| async move {
                Some(match change {
                    Ok(Change::Added(pod) | Change::Modified(pod)) => {
                        Ok(Assignment::Put(Box::new(pod)))
                    }
                    Ok(Change::Deleted(pod)) => Ok(Assignment::Remove(Box::new(pod))),
                    Ok(Change::Bookmark { .. }) => return None,
                    Err(status) => Err(status),
                })
            });
            let first = stream::iter([Ok(Assignment::All(all.items))]);
            Ok(first.chain(changes).boxed())
        })
    }

    fn secret<'a>(&'a self, namespace: &'a str, name: &'a str) -> Answer<'a, Secret> {
        Box::pin(self.client.get(namespace, name))
    }

    fn config_map<'a>(&'a self, namespace: &'a str, name: &'a str) -> Answer<'a, ConfigMap> {
        Box::pin(self.client.get(namespace, name))
    }

    fn services<'a>(&'a self, namespace: &'a str) -> Answer<'a, Vec<Service>> {
        Box::pin(async move {
            Ok(self.client.list::<Service>(namespace, Options::default()).await?.items)
        })
    }

    fn volume<'a>(&'a self, namespace: &'a str, claim: &'a str) -> Answer<'a, PersistentVolume> {
        Box::pin(async move {
            let object: PersistentVolumeClaim = self.client.get(namespace, claim).await?;
            let bound = object.status.and_then(|it| it.phase).as_deref() == Some("Bound");
            let name = object.spec.and_then(|it| it.volume_name).unwrap_or_default();
            if !bound || name.is_empty() {
                let message = format!("persistentvolumeclaim {claim:?} is not bound");
                return Err(Status::new(Reason::Conflict, message));
            }
            self.client.get("", &name).await
        })
    }

    fn token<'a>(&'a self, pod: &'a Pod, wanted: &'a TokenWanted) -> Answer<'a, Token> {
        Box::pin(async move {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let body = json!({
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {
                    "audiences": wanted.audience.iter().collect::<Vec<_>>(),
                    "expirationSeconds": wanted.seconds,
                    "boundObjectRef": {
                        "apiVersion": "v1",
                        "kind": "Pod",
                        "name": pod.metadata.name,
                        "uid": pod.metadata.uid,
                    },
                },
            });
            let answer = self
                .client
                .create_subresource::<ServiceAccount>(namespace, &wanted.account, "token", body)
                .await?;
            let answer: Value = serde_json::from_slice(&answer).map_err(Status::internal)?;
            let text = |field: &str| answer["status"][field].as_str().unwrap_or_default();
            let (token, expires) = (text("token"), Timestamp::parse(text("expirationTimestamp")));
            match expires {
                Some(expires) if !token.is_empty() => {
                    Ok(Token { token: token.to_owned(), expires })
                }
                _ => Err(Status::internal("an answer to a TokenRequest has no token")),
            }
        })
    }

    fn report<'a>(&'a self, pod: &'a Pod, status: Value) -> Answer<'a, ()> {
        Box::pin(async move {
            // The uid is what the patch is for: another pod of this name must not be given it.
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": status});
            self.client
                .patch::<Pod>(
                    pod.metadata.namespace.as_deref().unwrap_or_default(),
                    pod.metadata.name.as_deref().unwrap_or_default(),
                    PatchKind::Strategic,
                    &patch,
                    Some("status"),
                )
                .await
                .map(drop)
        })
    }

    fn forget<'a>(&'a self, pod: &'a Pod) -> Answer<'a, ()> {
        Box::pin(async move {
            let options = DeleteOptions {
                grace_period_seconds: Some(0),
                preconditions: Some(Preconditions {
                    uid: pod.metadata.uid.clone(),
                    resource_version: None,
                }),
                ..DeleteOptions::default()
            };
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            match self.client.delete::<Pod>(namespace, name, &options).await {
                // Gone, or another has taken the name.
                Err(status) if status.is(Reason::NotFound) || status.is(Reason::Conflict) => Ok(()),
                other => other,
            }
        })
    }
}
