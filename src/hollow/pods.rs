//! Says of each pod of a hollow node what its orders say that it does, and lets go of those that are
//! deleted: one key is one pod.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Pod};
use kontiki_api::Status;
use kontiki_api::client::{Client, DeleteOptions, PatchKind, Preconditions};
use kontiki_api::error::Reason;
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use super::addresses::Addresses;
use super::orders::{Orders, is_silent};
use super::status::{self, Moment, Step};
use super::{BY_NODE, Settings, nodes};
use crate::reconcile::{Informer, Key, Next, Reconcile};

pub struct Pods {
    client: Client,
    settings: Arc<Settings>,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    addresses: Addresses,
    /// Since when each pod, by uid, has been here, and has been ending.
    since: Mutex<HashMap<String, Since>>,
}

#[derive(Clone, Copy)]
struct Since {
    here: Instant,
    ending: Option<Instant>,
}

/// The node that a pod was given.
pub fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

impl Pods {
    pub fn new(
        client: Client,
        settings: Arc<Settings>,
        nodes: Informer<Node>,
        pods: Informer<Pod>,
    ) -> Pods {
        let (addresses, since) = Default::default();
        Pods { client, settings, nodes, pods, addresses, since }
    }

    /// The pod is gone.
    pub fn forget(&self, pod: &Pod) {
        self.since.lock().remove(uid(pod));
        self.addresses.take_back(node_of(pod).unwrap_or_default(), uid(pod));
    }

    fn moment(&self, pod: &Pod) -> Moment {
        let now = Instant::now();
        let mut since = self.since.lock();
        let fresh = Since { here: now, ending: None };
        let since = since.entry(uid(pod).to_owned()).or_insert(fresh);
        if pod.metadata.deletion_timestamp.is_some() {
            since.ending.get_or_insert(now);
        }
        Moment {
            now: self.settings.clock.now(),
            here: now - since.here,
            ending: since.ending.map(|begin| now - begin),
        }
    }

    /// Where the pod is reached. None as long as its node has no network.
    fn address(&self, pod: &Pod, node: &Node, name: &str) -> Option<IpAddr> {
        let shown = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
        if let Some(address) = shown.and_then(|ip| ip.parse().ok()) {
            return Some(address);
        }
        if pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true) {
            return Some(self.host(name).into());
        }
        let cidr = node.spec.as_ref().and_then(|spec| spec.pod_cidr.as_deref())?;
        let network: IpNet = cidr.parse().ok()?;
        let others = self.pods.by_index(BY_NODE, name);
        let taken = others.iter().filter_map(|pod| pod.status.as_ref()?.pod_ip.as_deref());
        let taken: Vec<IpAddr> = taken.filter_map(|ip| ip.parse().ok()).collect();
        self.addresses.give(name, &network, uid(pod), taken.into_iter())
    }

    fn host(&self, name: &str) -> std::net::Ipv4Addr {
        nodes::address(self.settings.number(name).unwrap_or(0))
    }

    async fn say(&self, key: &Key, pod: &Pod, status: serde_json::Value) -> Result<(), Status> {
        // The uid is whom it is said of: another pod of this name must not be given it.
        let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": status});
        let kind = PatchKind::Strategic;
        let said =
            self.client.patch::<Pod>(&key.namespace, &key.name, kind, &patch, Some("status")).await;
        match said {
            Err(status) if !status.is(Reason::NotFound) => Err(status),
            _ => Ok(()),
        }
    }

    async fn let_go(&self, key: &Key, pod: &Pod) -> Result<(), Status> {
        let uid = pod.metadata.uid.clone();
        let options = DeleteOptions {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid, resource_version: None }),
            ..DeleteOptions::default()
        };
        match self.client.delete::<Pod>(&key.namespace, &key.name, &options).await {
            // Gone, or another has taken the name.
            Err(status) if !status.is(Reason::NotFound) && !status.is(Reason::Conflict) => {
                Err(status)
            }
            _ => Ok(()),
        }
    }
}

impl Reconcile for Pods {
    type Key = Key;

    fn name(&self) -> &'static str {
        "hollow-pods"
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Status> {
        let Some(pod) = self.pods.get(key) else { return Ok(Next::WhenChanged) };
        let Some(name) = node_of(&pod) else { return Ok(Next::WhenChanged) };
        // A node that is gone runs nothing any more, and one that is silent says nothing.
        let Some(node) = self.nodes.get(&Key::new("", name)) else { return Ok(Next::WhenChanged) };
        if is_silent(&node) {
            return Ok(Next::WhenChanged);
        }
        let Some(address) = self.address(&pod, &node, name) else { return Ok(Next::Again) };
        let place = status::Place { host: self.host(name).into(), pod: address };
        match status::step(&pod, &Orders::of(&pod), &self.moment(&pod), &place) {
            Step::Rest => Ok(Next::WhenChanged),
            Step::Wait(pause) => Ok(Next::After(pause.max(Duration::from_millis(1)))),
            Step::LetGo => self.let_go(key, &pod).await.map(|()| Next::WhenChanged),
            Step::Say { status, again } => {
                self.say(key, &pod, status).await?;
                Ok(again.map_or(Next::WhenChanged, Next::After))
            }
        }
    }
}
