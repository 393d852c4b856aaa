//! What the scheduler knows of nodes: each with its pods and what they ask for, kept up to date one change at a
//! time.
//!
//! Keeps: a pod that was given a node counts there at once (assumed), before any informer shows it; it
//! is forgotten when binding it fails. A change touches one node; a cycle reads a snapshot that shares
//! all others.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};

use super::resources::{Resources, requests, requests_for_scoring};
use crate::reconcile::Key;

/// A port of the host, as a pod takes it: (address, protocol, port).
pub type HostPort = (String, String, i32);

/// One node and what runs there.
#[derive(Clone, Default)]
pub struct NodeInfo {
    pub node: Arc<Node>,
    pub allocatable: Resources,
    pub pods_max: i64,
    pub pods: BTreeMap<Key, Arc<Pod>>,
    pub requested: Resources,
    /// The same for scoring.
    pub weighed: Resources,
    pub ports: Vec<HostPort>,
    /// Sizes of the images that are there, by each of their names.
    pub images: HashMap<String, i64>,
    /// How many of the pods keep others away, or want company.
    pub with_affinity: usize,
    pub with_required_anti_affinity: usize,
    /// Pods without a node that room was made for here.
    pub nominated: BTreeMap<Key, Arc<Pod>>,
}

impl NodeInfo {
    #[must_use]
    pub fn name(&self) -> &str {
        self.node.metadata.name.as_deref().unwrap_or_default()
    }

    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.node.metadata.labels.as_ref()?.get(key).map(String::as_str)
    }

    fn describe(&mut self, node: Arc<Node>) {
        let status = node.status.as_ref();
        let allocatable = status.and_then(|status| status.allocatable.as_ref());
        self.allocatable = Resources::of(allocatable);
        let pods = allocatable.and_then(|list| list.get("pods"));
        self.pods_max = pods.and_then(|pods| pods.0.parse().ok()).unwrap_or(0);
        self.images = status
            .and_then(|status| status.images.as_ref())
            .into_iter()
            .flatten()
            .flat_map(|image| {
                let size = image.size_bytes.unwrap_or(0);
                image.names.iter().flatten().map(move |name| (name.clone(), size))
            })
            .collect();
        self.node = node;
    }

    pub fn add(&mut self, key: Key, pod: Arc<Pod>) {
        self.requested.add(&requests(&pod));
        self.weighed.add(&requests_for_scoring(&pod));
        self.ports.extend(host_ports(&pod));
        self.with_affinity += usize::from(has_affinity(&pod));
        self.with_required_anti_affinity += usize::from(has_required_anti_affinity(&pod));
        self.pods.insert(key, pod);
    }

    pub fn remove(&mut self, key: &Key) -> Option<Arc<Pod>> {
        let pod = self.pods.remove(key)?;
        self.requested.subtract(&requests(&pod));
        self.weighed.subtract(&requests_for_scoring(&pod));
        for port in host_ports(&pod) {
            if let Some(at) = self.ports.iter().position(|taken| *taken == port) {
                self.ports.swap_remove(at);
            }
        }
        self.with_affinity -= usize::from(has_affinity(&pod));
        self.with_required_anti_affinity -= usize::from(has_required_anti_affinity(&pod));
        Some(pod)
    }
}

/// Ports of the host that a pod takes.
#[must_use]
pub fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let taken = |port: &k8s_openapi::api::core::v1::ContainerPort| {
        let number = port.host_port.filter(|number| *number > 0)?;
        let address = port.host_ip.as_deref().filter(|ip| !ip.is_empty()).unwrap_or("0.0.0.0");
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        Some((address.to_owned(), protocol.to_owned(), number))
    };
    let containers = spec.containers.iter().chain(sidecars);
    containers.flat_map(|container| container.ports.iter().flatten().filter_map(taken)).collect()
}

fn has_affinity(pod: &Pod) -> bool {
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    affinity.is_some_and(|it| it.pod_affinity.is_some() || it.pod_anti_affinity.is_some())
}

fn has_required_anti_affinity(pod: &Pod) -> bool {
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    affinity
        .and_then(|affinity| affinity.pod_anti_affinity.as_ref())
        .and_then(|anti| anti.required_during_scheduling_ignored_during_execution.as_ref())
        .is_some_and(|terms| !terms.is_empty())
}

/// All nodes at one moment. Cheap to clone.
#[derive(Clone, Default)]
pub struct Snapshot {
    nodes: Arc<Vec<Arc<NodeInfo>>>,
    by_name: Arc<HashMap<String, usize>>,
}

impl Snapshot {
    #[must_use]
    pub fn new(nodes: Vec<Arc<NodeInfo>>) -> Snapshot {
        let by_name = nodes.iter().enumerate().map(|(at, info)| (info.name().to_owned(), at));
        Snapshot { by_name: Arc::new(by_name.collect()), nodes: Arc::new(nodes) }
    }

    #[must_use]
    pub fn nodes(&self) -> &[Arc<NodeInfo>] {
        &self.nodes
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<NodeInfo>> {
        self.by_name.get(name).map(|at| &self.nodes[*at])
    }

    /// The same picture with one node imagined otherwise.
    #[must_use]
    pub fn with(&self, info: NodeInfo) -> Snapshot {
        let mut nodes = Vec::clone(&self.nodes);
        if let Some(at) = self.by_name.get(info.name()) {
            nodes[*at] = Arc::new(info);
        }
        Snapshot { nodes: Arc::new(nodes), by_name: self.by_name.clone() }
    }
}

/// How much of each the picture holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub nodes: usize,
    pub pods: usize,
    pub assumed: usize,
}

/// The living picture that snapshots are taken of.
#[derive(Default)]
pub struct Cluster {
    nodes: BTreeMap<String, Arc<NodeInfo>>,
    /// Where each pod counts.
    places: HashMap<Key, Place>,
    /// Where room was made for each pod that has no node yet.
    nominations: HashMap<Key, String>,
    snapshot: Snapshot,
    stale: Stale,
}

/// What the last snapshot does not show yet.
#[derive(Default)]
struct Stale {
    /// A node came or went.
    whole: bool,
    /// Nodes that changed.
    nodes: BTreeSet<String>,
}

struct Place {
    node: String,
    /// Given a node by us, not yet seen to have it.
    assumed: bool,
}

impl Cluster {
    pub fn put_node(&mut self, node: Arc<Node>) {
        let name = node.metadata.name.clone().unwrap_or_default();
        let info = self.nodes.entry(name.clone()).or_default();
        self.stale.whole |= info.name().is_empty();
        self.stale.nodes.insert(name);
        Arc::make_mut(info).describe(node);
    }

    /// The node is gone. Pods that still name it are kept for when it is back.
    pub fn remove_node(&mut self, name: &str) {
        self.stale.whole = true;
        let Some(info) = self.nodes.get_mut(name) else { return };
        if info.pods.is_empty() {
            self.nodes.remove(name);
        } else {
            Arc::make_mut(info).describe(Arc::default());
        }
    }

    /// A pod as an informer shows it. One without a node, or that is done, counts nowhere, unless it was
    /// assumed.
    pub fn put_pod(&mut self, key: &Key, pod: Arc<Pod>) {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
        if crate::scheduler::is_finished(&pod) {
            self.remove_pod(key);
        } else if !node.is_empty() {
            self.place(key, pod, node, false);
        }
    }

    pub fn remove_pod(&mut self, key: &Key) {
        if let Some(place) = self.places.remove(key)
            && let Some(info) = self.nodes.get_mut(&place.node)
        {
            self.stale.nodes.insert(place.node.clone());
            Arc::make_mut(info).remove(key);
            if info.pods.is_empty() && info.name().is_empty() {
                self.nodes.remove(&place.node);
            }
        }
    }

    /// The pod counts on the node from now on.
    pub fn assume(&mut self, key: &Key, pod: Arc<Pod>, node: &str) {
        self.place(key, pod, node.to_owned(), true);
    }

    /// Room was made for the pod on the node: nobody less important is to take it.
    pub fn nominate(&mut self, key: &Key, pod: Arc<Pod>, node: &str) {
        self.take_back_nomination(key);
        if let Some(info) = self.nodes.get_mut(node) {
            self.stale.nodes.insert(node.to_owned());
            Arc::make_mut(info).nominated.insert(key.clone(), pod);
            self.nominations.insert(key.clone(), node.to_owned());
        }
    }

    /// No room is kept for the pod any more.
    pub fn take_back_nomination(&mut self, key: &Key) {
        if let Some(node) = self.nominations.remove(key)
            && let Some(info) = self.nodes.get_mut(&node)
        {
            Arc::make_mut(info).nominated.remove(key);
            self.stale.nodes.insert(node);
        }
    }

    /// Binding failed: an assumed pod counts nowhere again.
    pub fn forget(&mut self, key: &Key) {
        if self.places.get(key).is_some_and(|place| place.assumed) {
            self.remove_pod(key);
        }
    }

    fn place(&mut self, key: &Key, pod: Arc<Pod>, node: String, assumed: bool) {
        self.remove_pod(key);
        self.take_back_nomination(key);
        self.stale.nodes.insert(node.clone());
        // A pod may be heard of before its node.
        let info = self.nodes.entry(node.clone()).or_default();
        Arc::make_mut(info).add(key.clone(), pod);
        self.places.insert(key.clone(), Place { node, assumed });
    }

    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            nodes: self.nodes.values().filter(|info| !info.name().is_empty()).count(),
            pods: self.places.len(),
            assumed: self.places.values().filter(|place| place.assumed).count(),
        }
    }

    /// All nodes as they are now; those that were only named by pods are left out. What it costs is what
    /// changed since the last one, unless that is still held or nodes came or went.
    pub fn snapshot(&mut self) -> Snapshot {
        let stale = std::mem::take(&mut self.stale);
        if stale.whole {
            let known = self.nodes.values().filter(|info| !info.name().is_empty());
            self.snapshot = Snapshot::new(known.cloned().collect());
        } else if !stale.nodes.is_empty() {
            let shown = Arc::make_mut(&mut self.snapshot.nodes);
            for name in stale.nodes {
                if let (Some(at), Some(info)) =
                    (self.snapshot.by_name.get(&name), self.nodes.get(&name))
                {
                    shown[*at] = info.clone();
                }
            }
        }
        self.snapshot.clone()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str) -> Arc<Node> {
        let node = json!({"metadata": {"name": name},
            "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "10"}}});
        Arc::new(serde_json::from_value(node).unwrap())
    }

    fn pod(node: &str) -> Arc<Pod> {
        let pod = json!({"spec": {"nodeName": node, "containers": [{"name": "a",
            "ports": [{"containerPort": 80, "hostPort": 80}],
            "resources": {"requests": {"cpu": "500m"}}}]}});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn an_assumed_pod_counts_at_once_and_until_it_is_forgotten_or_seen() {
        let mut cluster = Cluster::default();
        cluster.put_node(node("a"));
        let key = Key::new("ns", "p");
        cluster.assume(&key, pod(""), "a");
        assert_eq!(cluster.snapshot().get("a").unwrap().requested.cpu, 500);
        cluster.forget(&key);
        assert_eq!(cluster.snapshot().get("a").unwrap().requested.cpu, 0);
        assert!(cluster.snapshot().get("a").unwrap().ports.is_empty());
        cluster.assume(&key, pod(""), "a");
        cluster.put_pod(&key, pod("a"));
        cluster.forget(&key);
        assert_eq!(cluster.snapshot().get("a").unwrap().requested.cpu, 500, "it is really there");
    }

    #[test]
    fn a_pod_may_be_heard_of_before_its_node() {
        let mut cluster = Cluster::default();
        cluster.put_pod(&Key::new("ns", "p"), pod("a"));
        assert!(cluster.snapshot().nodes().is_empty());
        cluster.put_node(node("a"));
        assert_eq!(cluster.snapshot().get("a").unwrap().requested.cpu, 500);
    }

    #[test]
    fn a_node_that_comes_back_has_the_pods_that_never_left() {
        let mut cluster = Cluster::default();
        cluster.put_node(node("a"));
        let key = Key::new("ns", "p");
        cluster.put_pod(&key, pod("a"));
        cluster.remove_node("a");
        assert!(cluster.snapshot().nodes().is_empty());
        assert_eq!(cluster.counts(), Counts { nodes: 0, pods: 1, assumed: 0 });
        cluster.put_node(node("a"));
        assert_eq!(cluster.snapshot().get("a").unwrap().requested.cpu, 500);
        cluster.remove_node("a");
        cluster.remove_pod(&key);
        assert!(cluster.nodes.is_empty(), "nobody names it any more");
    }

    #[test]
    fn a_snapshot_stays_as_it_was_taken_and_the_next_shows_what_changed() {
        let mut cluster = Cluster::default();
        cluster.put_node(node("a"));
        cluster.put_node(node("b"));
        let before = cluster.snapshot();
        cluster.assume(&Key::new("ns", "p"), pod(""), "b");
        assert_eq!(before.get("b").unwrap().requested.cpu, 0);
        let after = cluster.snapshot();
        assert_eq!(after.get("b").unwrap().requested.cpu, 500);
        drop((before, after));
        cluster.put_node(node("c"));
        cluster.remove_node("a");
        let last = cluster.snapshot();
        let names: Vec<&str> = last.nodes().iter().map(|info| info.name()).collect();
        assert_eq!(names, ["b", "c"]);
        assert_eq!(last.get("b").unwrap().requested.cpu, 500);
    }
}
