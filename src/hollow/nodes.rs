//! Registers hollow nodes and keeps them alive: one key is one node, which comes back at each heartbeat.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kontiki_api::Status;
use kontiki_api::client::{Client, PatchKind};
use kontiki_api::error::Reason;
use kontiki_api::object::time::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Settings, orders};
use crate::reconcile::{Informer, Key, Next, Reconcile};

const LEASES: &str = "kube-node-lease";
/// What leases say that they last (the kubelet's).
const LEASE_SECONDS: i32 = 40;
/// How often the status is said again though nothing in it changed (the kubelet's).
const STATUS_EVERY: Duration = Duration::from_secs(300);
const VERSION: &str = "v1.37.0+hollow";

pub struct Nodes {
    client: Client,
    settings: Arc<Settings>,
    nodes: Informer<Node>,
    /// When each that is registered last said its status.
    told: Mutex<HashMap<String, Option<Instant>>>,
}

impl Nodes {
    pub fn new(client: Client, settings: Arc<Settings>, nodes: Informer<Node>) -> Nodes {
        Nodes { client, settings, nodes, told: Mutex::default() }
    }

    async fn register(&self, name: &str, number: usize) -> Result<(), Status> {
        let node: Node = serde_json::from_value(describe(&self.settings, name, number))
            .map_err(Status::internal)?;
        match self.client.create(&node).await {
            Err(status) if !status.is(Reason::AlreadyExists) => Err(status),
            _ => Ok(()),
        }
    }

    async fn renew(&self, node: &Node, name: &str, now: Timestamp) -> Result<(), Status> {
        let patch = json!({"spec": {"renewTime": now.rfc3339_micros(), "holderIdentity": name,
            "leaseDurationSeconds": LEASE_SECONDS}});
        let kind = PatchKind::Merge;
        match self.client.patch::<Lease>(LEASES, name, kind, &patch, None).await {
            Err(status) if status.is(Reason::NotFound) => {
                let mut lease = patch;
                lease["metadata"] = json!({"name": name, "namespace": LEASES, "ownerReferences": [
                    {"apiVersion": "v1", "kind": "Node", "name": name, "uid": node.metadata.uid}]});
                let lease: Lease = serde_json::from_value(lease).map_err(Status::internal)?;
                match self.client.create(&lease).await {
                    Err(status) if !status.is(Reason::AlreadyExists) => Err(status),
                    _ => Ok(()),
                }
            }
            other => other.map(drop),
        }
    }

    async fn tell(&self, node: &Node, name: &str, now: Timestamp) -> Result<(), Status> {
        let patch = json!({"status": {"conditions": conditions(node, now)}});
        let kind = PatchKind::Strategic;
        self.client.patch::<Node>("", name, kind, &patch, Some("status")).await?;
        self.told.lock().insert(name.to_owned(), Some(Instant::now()));
        Ok(())
    }
}

impl Reconcile for Nodes {
    type Key = Key;

    fn name(&self) -> &'static str {
        "hollow-nodes"
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Status> {
        let Some(number) = self.settings.number(&key.name) else { return Ok(Next::WhenChanged) };
        let Some(node) = self.nodes.get(key) else {
            // Registered once; what somebody deletes stays away.
            if !self.told.lock().contains_key(&key.name) {
                self.register(&key.name, number).await?;
                self.told.lock().insert(key.name.clone(), None);
            }
            return Ok(Next::WhenChanged);
        };
        if orders::is_silent(&node) {
            self.told.lock().insert(key.name.clone(), None);
            return Ok(Next::WhenChanged);
        }
        let now = self.settings.clock.now();
        let told = self.told.lock().get(&key.name).copied().flatten();
        if told.is_none_or(|at| at.elapsed() >= STATUS_EVERY) {
            self.tell(&node, &key.name, now).await?;
        }
        match self.renew(&node, &key.name, now).await {
            // It was deleted meanwhile, which the informer will say.
            Err(status) if !status.is(Reason::NotFound) => Err(status),
            _ => Ok(Next::After(self.settings.heartbeat)),
        }
    }
}

/// A node as it registers itself.
fn describe(settings: &Settings, name: &str, number: usize) -> Value {
    let zone = format!("zone-{}", number % settings.zones.max(1));
    let address = address(number).to_string();
    let has = json!({"cpu": settings.cpu, "memory": settings.memory,
        "pods": settings.pods.to_string(), "ephemeral-storage": "100Gi"});
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name, "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64", "topology.kubernetes.io/zone": zone,
            "topology.kubernetes.io/region": "hollow",
        }},
        "status": {
            "capacity": has, "allocatable": has,
            "addresses": [{"type": "InternalIP", "address": address},
                {"type": "Hostname", "address": name}],
            "nodeInfo": {"architecture": "amd64", "operatingSystem": "linux", "machineID": name,
                "systemUUID": name, "bootID": name, "kernelVersion": "", "osImage": "hollow",
                "containerRuntimeVersion": "hollow://1", "kubeletVersion": VERSION,
                "kubeProxyVersion": ""},
        },
    })
}

/// The address of a node: no other node's, and nobody is there.
pub fn address(number: usize) -> Ipv4Addr {
    let number = u32::try_from(number).unwrap_or(u32::MAX) % (1 << 17);
    // The range for measuring networks, 198.18.0.0/15.
    Ipv4Addr::from(0xc612_0000 + number)
}

fn conditions(node: &Node, now: Timestamp) -> Value {
    let before = node.status.as_ref().and_then(|status| status.conditions.as_deref());
    let one = |kind: &str, status: &str, reason: &str| {
        let before = before.unwrap_or_default().iter().find(|it| it.type_ == kind);
        let since = before
            .filter(|it| it.status == status)
            .and_then(|it| it.last_transition_time.as_ref())
            .map_or(now, |time| Timestamp::from(time.0));
        json!({"type": kind, "status": status, "reason": reason, "message": "",
            "lastHeartbeatTime": now.rfc3339(), "lastTransitionTime": since.rfc3339()})
    };
    json!([
        one("MemoryPressure", "False", "KubeletHasSufficientMemory"),
        one("DiskPressure", "False", "KubeletHasNoDiskPressure"),
        one("PIDPressure", "False", "KubeletHasSufficientPID"),
        one("Ready", "True", "KubeletReady"),
    ])
}
