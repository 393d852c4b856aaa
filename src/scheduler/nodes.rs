//! What the scheduler knows of nodes: each with its pods and what they ask for, kept up to date one change at a
//! time.
//!
//! Keeps: a pod that was given a node counts there at once (assumed), before any informer shows it; it
//! is forgotten when binding it fails. A change touches one node; a cycle reads a snapshot that shares
//! all others.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};

use crate::reconcile::Key;
use crate::reconcile::amounts::{Resources, counted, requests_for_scoring};
use crate::reconcile::node_rules::{HostPort, host_ports};

/// A pod on a node, with all that is reckoned from it once.
struct Placed {
    key: Key,
    pod: Arc<Pod>,
    requests: Resources,
    weighed: Resources,
    ports: Vec<HostPort>,
    has_affinity: bool,
    has_required_anti_affinity: bool,
}

impl Placed {
    fn new(key: Key, pod: Arc<Pod>) -> Placed {
        Placed {
            requests: counted(&pod),
            weighed: requests_for_scoring(&pod),
            ports: host_ports(&pod),
            has_affinity: has_affinity(&pod),
            has_required_anti_affinity: has_required_anti_affinity(&pod),
            key,
            pod,
        }
    }
}

/// One node and what runs there. A clone shares the pods, so that the living picture and a snapshot differ
/// in pointers and sums alone.
#[derive(Clone, Default)]
pub struct NodeInfo {
    pub node: Arc<Node>,
    pub allocatable: Resources,
    pub pods_max: i64,
    pods: Vec<Arc<Placed>>,
    pub requested: Resources,
    /// The same for scoring.
    pub weighed: Resources,
    pub ports: Vec<HostPort>,
    /// Sizes of the images that are there, by each of their names.
    pub images: Arc<HashMap<String, i64>>,
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
        let images = status
            .and_then(|status| status.images.as_ref())
            .into_iter()
            .flatten()
            .flat_map(|image| {
                let size = image.size_bytes.unwrap_or(0);
                image.names.iter().flatten().map(move |name| (name.clone(), size))
            })
            .collect();
        self.images = Arc::new(images);
        self.node = node;
    }

    /// In no order that means anything.
    pub fn pods(&self) -> impl Iterator<Item = (&Key, &Arc<Pod>)> {
        self.pods.iter().map(|placed| (&placed.key, &placed.pod))
    }

    #[must_use]
    pub fn pods_count(&self) -> usize {
        self.pods.len()
    }

    pub fn add(&mut self, key: Key, pod: Arc<Pod>) {
        let placed = Placed::new(key, pod);
        self.requested.add(&placed.requests);
        self.weighed.add(&placed.weighed);
        self.ports.extend(placed.ports.iter().cloned());
        self.with_affinity += usize::from(placed.has_affinity);
        self.with_required_anti_affinity += usize::from(placed.has_required_anti_affinity);
        self.pods.push(Arc::new(placed));
    }

    pub fn remove(&mut self, key: &Key) -> Option<Arc<Pod>> {
        let at = self.pods.iter().position(|placed| placed.key == *key)?;
        let placed = self.pods.swap_remove(at);
        self.requested.subtract(&placed.requests);
        self.weighed.subtract(&placed.weighed);
        for port in &placed.ports {
            if let Some(at) = self.ports.iter().position(|taken| taken == port) {
                self.ports.swap_remove(at);
            }
        }
        self.with_affinity -= usize::from(placed.has_affinity);
        self.with_required_anti_affinity -= usize::from(placed.has_required_anti_affinity);
        Some(placed.pod.clone())
    }
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
    /// Where in `nodes` those are whose pods have something to say about others.
    with_affinity: Arc<BTreeSet<usize>>,
    with_required_anti_affinity: Arc<BTreeSet<usize>>,
    /// One that is looked at as if it were otherwise.
    imagined: Option<(usize, Arc<NodeInfo>)>,
}

impl Snapshot {
    #[must_use]
    pub fn new(nodes: Vec<Arc<NodeInfo>>) -> Snapshot {
        let by_name = nodes.iter().enumerate().map(|(at, info)| (info.name().to_owned(), at));
        let those = |of: fn(&NodeInfo) -> usize| {
            let found = nodes.iter().enumerate().filter(|(_, info)| of(info) > 0);
            Arc::new(found.map(|(at, _)| at).collect())
        };
        Snapshot {
            by_name: Arc::new(by_name.collect()),
            with_affinity: those(|info| info.with_affinity),
            with_required_anti_affinity: those(|info| info.with_required_anti_affinity),
            nodes: Arc::new(nodes),
            imagined: None,
        }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// By its place, which is less than [`Snapshot::len`].
    #[must_use]
    pub fn at(&self, at: usize) -> &Arc<NodeInfo> {
        match &self.imagined {
            Some((place, info)) if *place == at => info,
            _ => &self.nodes[at],
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<NodeInfo>> {
        (0..self.len()).map(|at| self.at(at))
    }

    /// Those whose pods keep others away or want company; the others need not be looked at for that.
    pub fn with_affinity(&self) -> impl Iterator<Item = &Arc<NodeInfo>> {
        self.with_affinity.iter().map(|at| self.at(*at))
    }

    /// Those whose pods must not have some others beside them.
    pub fn with_required_anti_affinity(&self) -> impl Iterator<Item = &Arc<NodeInfo>> {
        self.with_required_anti_affinity.iter().map(|at| self.at(*at))
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<NodeInfo>> {
        self.by_name.get(name).map(|at| self.at(*at))
    }

    /// The same picture with some pods of one node taken away. Costs nothing that grows with the nodes.
    #[must_use]
    pub fn with(&self, info: NodeInfo) -> Snapshot {
        let at = self.by_name.get(info.name()).copied();
        Snapshot { imagined: at.map(|at| (at, Arc::new(info))), ..self.clone() }
    }

    /// Shows a node as it is now, if it was there before.
    fn show(&mut self, name: &str, info: &Arc<NodeInfo>) {
        let Some(at) = self.by_name.get(name).copied() else { return };
        let mark = |places: &mut Arc<BTreeSet<usize>>, is_one: bool| {
            if places.contains(&at) != is_one {
                let places = Arc::make_mut(places);
                if is_one {
                    places.insert(at)
                } else {
                    places.remove(&at)
                };
            }
        };
        mark(&mut self.with_affinity, info.with_affinity > 0);
        mark(&mut self.with_required_anti_affinity, info.with_required_anti_affinity > 0);
        Arc::make_mut(&mut self.nodes)[at] = info.clone();
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
        } else {
            for name in stale.nodes {
                if let Some(info) = self.nodes.get(&name) {
                    self.snapshot.show(&name, info);
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
        assert!(cluster.snapshot().is_empty());
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
        assert!(cluster.snapshot().is_empty());
        assert_eq!(cluster.counts(), Counts { nodes: 0, pods: 1, assumed: 0 });
        cluster.put_node(node("a"));
        assert_eq!(cluster.snapshot().get("a").unwrap().requested.cpu, 500);
        cluster.remove_node("a");
        cluster.remove_pod(&key);
        assert!(cluster.nodes.is_empty(), "nobody names it any more");
    }

    #[test]
    fn nodes_whose_pods_mind_others_are_known_by_that_as_pods_come_and_go() {
        let apart = json!({"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "kubernetes.io/hostname", "labelSelector": {}}]});
        let shy = json!({"spec": {"containers": [], "affinity": {"podAntiAffinity": apart}}});
        let shy: Arc<Pod> = Arc::new(serde_json::from_value(shy).unwrap());
        let mut cluster = Cluster::default();
        cluster.put_node(node("a"));
        cluster.put_node(node("b"));
        let minding = |cluster: &mut Cluster| -> Vec<String> {
            let snapshot = cluster.snapshot();
            let found = snapshot.with_required_anti_affinity().map(|it| it.name().to_owned());
            let found: Vec<_> = found.collect();
            assert_eq!(found.len(), snapshot.with_affinity().count());
            found
        };
        assert!(minding(&mut cluster).is_empty());
        let key = Key::new("ns", "p");
        cluster.assume(&key, shy, "b");
        assert_eq!(minding(&mut cluster), ["b"]);
        cluster.put_node(node("c"));
        assert_eq!(minding(&mut cluster), ["b"], "all were looked at anew");
        cluster.remove_pod(&key);
        assert!(minding(&mut cluster).is_empty());
    }

    #[test]
    fn a_node_can_be_imagined_otherwise_and_the_picture_stays() {
        let mut cluster = Cluster::default();
        cluster.put_node(node("a"));
        cluster.put_node(node("b"));
        let key = Key::new("ns", "p");
        cluster.assume(&key, pod(""), "b");
        let snapshot = cluster.snapshot();
        let mut emptied = NodeInfo::clone(snapshot.get("b").unwrap());
        emptied.remove(&key);
        let imagined = snapshot.with(emptied);
        let used = |snapshot: &Snapshot| -> Vec<i64> {
            snapshot.iter().map(|info| info.requested.cpu).collect()
        };
        assert_eq!(used(&imagined), [0, 0]);
        assert_eq!(used(&snapshot), [0, 500]);
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
        let names: Vec<&str> = last.iter().map(|info| info.name()).collect();
        assert_eq!(names, ["b", "c"]);
        assert_eq!(last.get("b").unwrap().requested.cpu, 500);
    }
}
