//! Registers hollow nodes and gives them a session: one key is one node.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use kontiki_api::Status;
use kontiki_api::object::time::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::links::Links;
use super::{Settings, orders};
use crate::reconcile::{Informer, Key, Next, Reconcile};

const VERSION: &str = "v1.37.0+hollow";

pub struct Nodes {
    settings: Arc<Settings>,
    nodes: Informer<Node>,
    links: Links,
    /// Those that have registered, and whether they have spoken since they were silent.
    told: Mutex<HashMap<String, bool>>,
}

impl Nodes {
    pub fn new(settings: Arc<Settings>, nodes: Informer<Node>, links: Links) -> Nodes {
        Nodes { settings, nodes, links, told: Mutex::default() }
    }

    /// Says how the node is, and who it is.
    fn register(&self, name: &str, number: usize) {
        let mut node = describe(&self.settings, name, number);
        let labels = serde_json::from_value(node["metadata"]["labels"].take()).unwrap_or_default();
        node["status"]["conditions"] = conditions(&Node::default(), self.settings.clock.now());
        self.links.open(number, name);
        self.links.tie(number).outbox.node(&node["status"], Some(labels));
    }

    fn tell(&self, node: &Node, name: &str, number: usize) {
        let status = json!({"conditions": conditions(node, self.settings.clock.now())});
        self.links.open(number, name);
        self.links.tie(number).outbox.node(&status, None);
    }
}

impl Reconcile for Nodes {
    type Key = Key;

    fn name(&self) -> &'static str {
        "hollow-nodes"
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Status> {
        let Some(number) = self.settings.number(&key.name) else { return Ok(Next::WhenChanged) };
        let mut told = self.told.lock();
        match self.nodes.get(key) {
            // Registered once; what somebody deletes stays away.
            None if told.contains_key(&key.name) => {
                if told.insert(key.name.clone(), false) == Some(true) {
                    self.links.close(number);
                }
            }
            None => {
                told.insert(key.name.clone(), true);
                self.register(&key.name, number);
            }
            Some(node) if orders::is_silent(&node) => {
                told.insert(key.name.clone(), false);
                self.links.close(number);
            }
            Some(node) => {
                if told.insert(key.name.clone(), true) != Some(true) {
                    self.tell(&node, &key.name, number);
                }
            }
        }
        Ok(Next::WhenChanged)
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
