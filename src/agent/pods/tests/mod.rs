//! Pods through the manager: with a runtime of plain values, and with a real one.

mod amounts;
mod lives;
mod real;
mod trouble;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::{ConfigMap, Node, PersistentVolume, Pod, Secret, Service};
use kontiki_api::Status;
use kontiki_api::client::{Client, Events, Served, Transport};
use kontiki_api::object::GroupResource;
use kontiki_api::object::time::{Clock, Timestamp};
use kontiki_api::request::Request;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Manager, Parts, view};
use crate::agent::cri::Runtime;
use crate::agent::masters::{Answer, Assignment, Masters, Token, TokenWanted};
use crate::agent::{Directories, Settings};
use crate::reconcile::events;

const PATIENCE: Duration = Duration::from_secs(60);

/// Masters that a test plays.
pub struct Played {
    assignments: Mutex<Option<mpsc::UnboundedReceiver<Assignment>>>,
    send: mpsc::UnboundedSender<Assignment>,
    /// The pods as they are told, by name.
    pods: watch::Sender<BTreeMap<String, Pod>>,
    node: Mutex<Option<Node>>,
}

impl Masters for Played {
    fn assignments(&self) -> Answer<'_, BoxStream<'static, Result<Assignment, Status>>> {
        let receiver = self.assignments.lock().take();
        Box::pin(async move {
            let Some(receiver) = receiver else { return Err(Status::internal("told once")) };
            Ok(stream::unfold(receiver, |mut it| async { Some((Ok(it.recv().await?), it)) })
                .boxed())
        })
    }

    fn node(&self) -> Option<Node> {
        self.node.lock().clone()
    }

    fn secret<'a>(&'a self, _namespace: &'a str, name: &'a str) -> Answer<'a, Secret> {
        Box::pin(async move {
            if name != "secret" {
                return Err(Status::not_found(&GroupResource::new("", "secrets"), name));
            }
            let data = [("key".to_owned(), ByteString(b"hidden".to_vec()))].into();
            Ok(Secret { data: Some(data), ..Secret::default() })
        })
    }

    fn config_map<'a>(&'a self, _namespace: &'a str, name: &'a str) -> Answer<'a, ConfigMap> {
        Box::pin(async move {
            if name != "map" {
                return Err(Status::not_found(&GroupResource::new("", "configmaps"), name));
            }
            let data = [("key".to_owned(), "value".to_owned())].into();
            Ok(ConfigMap { data: Some(data), ..ConfigMap::default() })
        })
    }

    fn services<'a>(&'a self, _namespace: &'a str) -> Answer<'a, Vec<Service>> {
        Box::pin(async {
            Ok(vec![object(json!({
                "metadata": {"name": "kubernetes"},
                "spec": {"clusterIP": "10.43.0.1", "ports": [{"name": "https", "port": 443}]},
            }))])
        })
    }

    fn volume<'a>(&'a self, _namespace: &'a str, claim: &'a str) -> Answer<'a, PersistentVolume> {
        let claims = GroupResource::new("", "persistentvolumeclaims");
        Box::pin(async move { Err(Status::not_found(&claims, claim)) })
    }

    fn trust_bundles(&self) -> Answer<'_, Vec<Arc<ClusterTrustBundle>>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn token<'a>(&'a self, _pod: &'a Pod, wanted: &'a TokenWanted) -> Answer<'a, Token> {
        Box::pin(async move {
            let token = format!("token of {}", wanted.account);
            Ok(Token { token, expires: Timestamp::from_seconds(i64::from(u32::MAX)) })
        })
    }

    fn report<'a>(&'a self, pod: &'a Pod, status: Value) -> Answer<'a, ()> {
        let mut told = None;
        self.pods.send_modify(|pods| {
            let Some(pod) = pods.get_mut(view::name(pod)) else { return };
            let mut all = serde_json::to_value(&*pod).unwrap();
            for (field, mut value) in status.as_object().unwrap().clone() {
                if let Some(list) = value.as_array_mut() {
                    list.retain(|it| it.get("$patch").is_none());
                }
                all["status"][field] = value;
            }
            *pod = object(all);
            told = Some(pod.clone());
        });
        if let Some(pod) = told {
            self.send.send(Assignment::Put(Box::new(pod))).ok();
        }
        Box::pin(async { Ok(()) })
    }

    fn forget<'a>(&'a self, pod: &'a Pod) -> Answer<'a, ()> {
        self.pods.send_modify(|pods| drop(pods.remove(view::name(pod))));
        self.send.send(Assignment::Remove(Box::new(pod.clone()))).ok();
        Box::pin(async { Ok(()) })
    }
}

/// Takes events and forgets them.
struct Nowhere;

impl Transport for Nowhere {
    fn call(
        &self,
        _request: Request,
    ) -> futures::future::BoxFuture<'static, Result<bytes::Bytes, Status>> {
        Box::pin(async { Err(Status::internal("nowhere")) })
    }

    fn watch(
        &self,
        _request: Request,
    ) -> futures::future::BoxFuture<'static, Result<Events, Status>> {
        Box::pin(async { Err(Status::internal("nowhere")) })
    }

    fn resources(&self) -> futures::future::BoxFuture<'static, Result<Vec<Served>, Status>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}

pub fn object<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

/// A node with its agent; the agent ends with it.
pub struct Stage {
    masters: Arc<Played>,
    pub folder: tempfile::TempDir,
    /// Whom services lead to.
    pub served: watch::Sender<BTreeSet<IpAddr>>,
    _stop: DropGuard,
}

impl Stage {
    pub fn new(runtime: Arc<dyn Runtime>, clock: Clock) -> Stage {
        Stage::in_folder(tempfile::tempdir().unwrap(), runtime, clock, Vec::new())
    }

    /// With pods that are there from the beginning.
    pub fn in_folder(
        folder: tempfile::TempDir,
        runtime: Arc<dyn Runtime>,
        clock: Clock,
        pods: Vec<Pod>,
    ) -> Stage {
        let (send, receive) = mpsc::unbounded_channel();
        send.send(Assignment::All(pods.clone())).unwrap();
        let pods = pods.into_iter().map(|pod| (view::name(&pod).to_owned(), pod)).collect();
        let masters = Arc::new(Played {
            assignments: Mutex::new(Some(receive)),
            send,
            pods: watch::Sender::new(pods),
            node: Mutex::default(),
        });
        let (recorder, _) = events::recorder(Client::new(Arc::new(Nowhere), "test"), clock.clone());
        let (served, told) = watch::channel(BTreeSet::new());
        let manager = Manager::new(Parts {
            settings: Arc::new(Settings { served: told, ..settings(folder.path()) }),
            runtime,
            masters: masters.clone(),
            recorder,
            clock,
        });
        let stop = CancellationToken::new();
        tokio::spawn(manager.run(stop.clone()));
        Stage { masters, folder, served, _stop: stop.drop_guard() }
    }

    /// Assigns a pod.
    pub fn put(&self, name: &str, spec: Value) {
        let pod: Pod = object(json!({
            "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"),
                "labels": {"app": name}},
            "spec": spec,
            "status": {"phase": "Pending", "qosClass": "BestEffort"},
        }));
        self.masters.pods.send_modify(|pods| drop(pods.insert(name.to_owned(), pod.clone())));
        self.masters.send.send(Assignment::Put(Box::new(pod))).unwrap();
    }

    /// The node's object is known from now on.
    pub fn has(&self, allocatable: Value) {
        let node = json!({"metadata": {"name": "node"}, "status": {"allocatable": allocatable}});
        *self.masters.node.lock() = Some(object(node));
    }

    /// The pod has another spec, as after a client's change.
    pub fn change(&self, name: &str, spec: Value) {
        let mut told = None;
        self.masters.pods.send_modify(|pods| {
            let pod = pods.get_mut(name).unwrap();
            pod.spec = Some(object(spec));
            told = Some(pod.clone());
        });
        self.masters.send.send(Assignment::Put(Box::new(told.unwrap()))).unwrap();
    }

    /// Begins a pod's deletion, as a client's DELETE does.
    pub fn delete(&self, name: &str, grace_s: i64) {
        let mut told = None;
        self.masters.pods.send_modify(|pods| {
            let pod = pods.get_mut(name).unwrap();
            let mut value = serde_json::to_value(&*pod).unwrap();
            value["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            value["metadata"]["deletionGracePeriodSeconds"] = grace_s.into();
            *pod = object(value);
            told = Some(pod.clone());
        });
        self.masters.send.send(Assignment::Put(Box::new(told.unwrap()))).unwrap();
    }

    /// All pods as they are told now.
    pub fn pods(&self) -> Vec<Pod> {
        self.masters.pods.borrow().values().cloned().collect()
    }

    /// The agent ends; what it has on disk stays.
    pub fn ends(self) -> tempfile::TempDir {
        self.folder
    }

    /// The pod as it is told now.
    pub fn pod(&self, name: &str) -> Option<Value> {
        self.masters.pods.borrow().get(name).map(|pod| serde_json::to_value(pod).unwrap())
    }

    /// Waits until the pod is told like this.
    pub async fn until(&self, name: &str, what: impl Fn(&Value) -> bool) -> Value {
        let mut pods = self.masters.pods.subscribe();
        let value = |pods: &BTreeMap<String, Pod>| {
            pods.get(name).map(|pod| serde_json::to_value(pod).unwrap())
        };
        let seen = pods.wait_for(|pods| value(pods).is_some_and(|it| what(&it)));
        match tokio::time::timeout(PATIENCE, seen).await {
            Ok(pods) => value(&pods.unwrap()).unwrap(),
            Err(_) => panic!("{name} is still {:#}", self.pod(name).unwrap_or_default()["status"]),
        }
    }

    /// Waits until nothing is left of the pod.
    pub async fn until_gone(&self, name: &str) {
        let mut pods = self.masters.pods.subscribe();
        let gone = pods.wait_for(|pods| !pods.contains_key(name));
        let gone = tokio::time::timeout(PATIENCE, gone).await.map(drop);
        assert!(gone.is_ok(), "{name} is still {:#}", self.pod(name).unwrap_or_default());
    }
}

pub fn settings(folder: &Path) -> Settings {
    Settings {
        node: "node".into(),
        addresses: vec![[192, 0, 2, 7].into()],
        labels: Vec::new(),
        directories: Directories {
            pods: folder.join("pods"),
            logs: folder.join("logs"),
            network: folder.join("net"),
            addresses: folder.join("addresses"),
        },
        dns: Vec::new(),
        domain: "cluster.local".into(),
        pods_max: 110,
        pod_pids_max: 64,
        served: watch::channel(BTreeSet::new()).1,
        metrics: Arc::default(),
    }
}

pub fn phase(pod: &Value) -> &str {
    pod["status"]["phase"].as_str().unwrap_or_default()
}

/// Of a condition: its status.
pub fn condition<'a>(pod: &'a Value, kind: &str) -> &'a str {
    let all = pod["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found = all.iter().find(|it| it["type"] == kind);
    found.and_then(|it| it["status"].as_str()).unwrap_or_default()
}
