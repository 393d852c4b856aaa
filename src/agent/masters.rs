//! What the agent asks of the masters, and what it tells them.
//!
//! [`Masters`] is small on purpose: assignments come as one full set and then as increments,
//! whatever carries them. [`Session`] answers from the set that the node's session holds, and says
//! what is to be said through its outbox. Tokens alone are asked for when they are wanted.
//!
//! Keeps: what a pod was assigned with is there as long as the pod is, whether a master answers or
//! not.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, ready};
use futures::stream::{self, BoxStream, StreamExt as _};
use k8s_openapi::api::certificates::v1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::{
    ConfigMap, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount,
};
use kontiki_api::Status;
use kontiki_api::client::Client;
use kontiki_api::error::Reason;
use kontiki_api::object::GroupResource;
use kontiki_api::object::time::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::timeout;

use super::tokens::Tokens;
use crate::kept::AFTER;
use crate::reconcile::Informers;
use crate::session::{Origin, Outbox, Set, named};

/// Until what is watched was seen once, or is known from disk.
const SEEN_WAIT_MAX: Duration = AFTER.saturating_mul(2);

/// A change of what this node has to run.
#[derive(Clone, Debug)]
pub enum Assignment {
    /// Everything. What is not in it is no longer wanted.
    All(Vec<Pod>),
    /// What was assigned when a master answered last. There may be more by now.
    Kept(Vec<Pod>),
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

    /// The node's own object, as it was last known.
    fn node(&self) -> Option<Node>;
    fn secret<'a>(&'a self, namespace: &'a str, name: &'a str) -> Answer<'a, Secret>;
    fn config_map<'a>(&'a self, namespace: &'a str, name: &'a str) -> Answer<'a, ConfigMap>;
    fn services<'a>(&'a self, namespace: &'a str) -> Answer<'a, Vec<Service>>;
    /// The volume that a claim of this namespace is bound to.
    fn volume<'a>(&'a self, namespace: &'a str, claim: &'a str) -> Answer<'a, PersistentVolume>;
    /// All that the cluster has; empty is not the same as not known.
    fn trust_bundles(&self) -> Answer<'_, Vec<Arc<ClusterTrustBundle>>>;
    /// A token bound to the pod.
    fn token<'a>(&'a self, pod: &'a Pod, wanted: &'a TokenWanted) -> Answer<'a, Token>;

    /// Says how the pod is: a patch of its status. It arrives when a master answers.
    fn report<'a>(&'a self, pod: &'a Pod, status: Value) -> Answer<'a, ()>;
    /// Nothing of the pod is left on this node: its object may go. As before.
    fn forget<'a>(&'a self, pod: &'a Pod) -> Answer<'a, ()>;
}

/// The session of this node.
pub struct Session {
    set: Arc<Set>,
    outbox: Arc<Outbox>,
    tokens: Tokens,
    /// For new tokens.
    client: Client,
    /// What is no node's own, and watched once a pod asks for it.
    informers: Informers,
}

impl Session {
    #[must_use]
    pub fn new(
        set: Arc<Set>,
        outbox: Arc<Outbox>,
        tokens: Tokens,
        client: Client,
        informers: Informers,
    ) -> Session {
        Session { set, outbox, tokens, client, informers }
    }

    fn find<T: DeserializeOwned>(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<T, Status> {
        let missing = || Status::not_found(&GroupResource::new("", resource), name);
        let held = self.set.get(resource, namespace, name).ok_or_else(missing)?;
        held.read().map_err(Status::internal)
    }

    async fn ask_for_token(&self, pod: &Pod, wanted: &TokenWanted) -> Result<Token, Status> {
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
            Some(expires) if !token.is_empty() => Ok(Token { token: token.to_owned(), expires }),
            _ => Err(Status::internal("an answer to a TokenRequest has no token")),
        }
    }

    fn bound(&self, namespace: &str, claim: &str) -> Result<PersistentVolume, Status> {
        let object: PersistentVolumeClaim =
            self.find("persistentvolumeclaims", namespace, claim)?;
        let bound = object.status.and_then(|it| it.phase).as_deref() == Some("Bound");
        let name = object.spec.and_then(|it| it.volume_name).unwrap_or_default();
        if !bound || name.is_empty() {
            let message = format!("persistentvolumeclaim {claim:?} is not bound");
            return Err(Status::new(Reason::Conflict, message));
        }
        self.find("persistentvolumes", "", &name)
    }
}

impl Masters for Session {
    fn assignments(&self) -> Answer<'_, BoxStream<'static, Result<Assignment, Status>>> {
        let following = Following {
            changes: self.set.changes(),
            set: self.set.clone(),
            known: BTreeMap::new(),
            said_by: Origin::Nobody,
            next: VecDeque::new(),
        };
        let all = stream::unfold(following, |mut following| async {
            let next = following.next().await?;
            Some((Ok(next), following))
        });
        Box::pin(ready(Ok(all.boxed())))
    }

    fn node(&self) -> Option<Node> {
        let (nodes, _) = self.set.list("nodes", "");
        nodes.first().and_then(|(_, held)| held.read().ok())
    }

    fn secret<'a>(&'a self, namespace: &'a str, name: &'a str) -> Answer<'a, Secret> {
        Box::pin(ready(self.find("secrets", namespace, name)))
    }

    fn config_map<'a>(&'a self, namespace: &'a str, name: &'a str) -> Answer<'a, ConfigMap> {
        Box::pin(ready(self.find("configmaps", namespace, name)))
    }

    fn services<'a>(&'a self, namespace: &'a str) -> Answer<'a, Vec<Service>> {
        let (all, _) = self.set.list("services", namespace);
        let read = all.iter().map(|(_, held)| held.read().map_err(Status::internal));
        Box::pin(ready(read.collect()))
    }

    fn volume<'a>(&'a self, namespace: &'a str, claim: &'a str) -> Answer<'a, PersistentVolume> {
        Box::pin(ready(self.bound(namespace, claim)))
    }

    fn trust_bundles(&self) -> Answer<'_, Vec<Arc<ClusterTrustBundle>>> {
        let informer = self.informers.of::<ClusterTrustBundle>();
        Box::pin(async move {
            match timeout(SEEN_WAIT_MAX, informer.synced()).await {
                Ok(()) => Ok(informer.list()),
                Err(_) => Err(Status::internal("clustertrustbundles are not known yet")),
            }
        })
    }

    fn token<'a>(&'a self, pod: &'a Pod, wanted: &'a TokenWanted) -> Answer<'a, Token> {
        Box::pin(async move {
            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
            match self.ask_for_token(pod, wanted).await {
                Ok(token) => {
                    let (pods, _) = self.set.list("pods", "");
                    let is_assigned = |uid: &str| pods.iter().any(|(_, held)| held.uid == uid);
                    self.tokens.keep(uid, wanted, &token, is_assigned).await;
                    Ok(token)
                }
                // Nobody could say no.
                Err(status) if status.code() >= 500 || status.code() == 429 => {
                    self.tokens.of(uid, wanted).ok_or(status)
                }
                Err(status) => Err(status),
            }
        })
    }

    fn report<'a>(&'a self, pod: &'a Pod, status: Value) -> Answer<'a, ()> {
        self.outbox.pod(named(&pod.metadata), &status);
        Box::pin(ready(Ok(())))
    }

    fn forget<'a>(&'a self, pod: &'a Pod) -> Answer<'a, ()> {
        self.outbox.gone(named(&pod.metadata));
        Box::pin(ready(Ok(())))
    }
}

/// A reader of the set's pods.
struct Following {
    set: Arc<Set>,
    changes: watch::Receiver<u64>,
    /// What was given of each, by its uid.
    known: BTreeMap<String, (String, Pod)>,
    said_by: Origin,
    next: VecDeque<Assignment>,
}

impl Following {
    async fn next(&mut self) -> Option<Assignment> {
        loop {
            if let Some(next) = self.next.pop_front() {
                return Some(next);
            }
            self.changes.changed().await.ok()?;
            self.look();
        }
    }

    fn look(&mut self) {
        let (all, origin) = self.set.list("pods", "");
        if origin == Origin::Nobody {
            return;
        }
        let mut before = std::mem::take(&mut self.known);
        let mut put = Vec::new();
        for (name, held) in all {
            let same = before.remove(&held.uid).filter(|(version, _)| *version == held.version);
            let pod = match same {
                Some((_, pod)) => pod,
                None => match held.read::<Pod>() {
                    Ok(pod) => {
                        put.push(pod.clone());
                        pod
                    }
                    Err(why) => {
                        tracing::error!(pod = name.name, why, "a pod is passed over");
                        continue;
                    }
                },
            };
            self.known.insert(held.uid, (held.version, pod));
        }
        if self.said_by != origin {
            self.said_by = origin;
            let all = self.known.values().map(|(_, pod)| pod.clone()).collect();
            self.next.push_back(match origin {
                Origin::Master => Assignment::All(all),
                _ => Assignment::Kept(all),
            });
            return;
        }
        let known = &self.known;
        let gone = before.into_iter().filter(|(uid, _)| !known.contains_key(uid));
        self.next.extend(gone.map(|(_, (_, pod))| Assignment::Remove(Box::new(pod))));
        self.next.extend(put.into_iter().map(|pod| Assignment::Put(Box::new(pod))));
    }
}
