//! Which objects the pods of a node need: what the Node authorizer and NodeRestriction look up, and what is
//! sent to its agent.
//!
//! Keeps: an object is related to a node as long as a pod bound to it names the object, directly or over a
//! claim and its volume. Mirror pods relate nothing but themselves: their makers are the nodes.
//! Who waits for changes of what a node needs is told that there was one, not which.
//! Never: reads from the store. It is told of each change.

use std::collections::{HashMap, HashSet};

use parking_lot::{Mutex, RwLock};
use serde_json::Value;
use tokio::sync::watch;

use crate::live::pod;

/// What can be related to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Item {
    Pod,
    Secret,
    ConfigMap,
    Claim,
    Volume,
    ServiceAccount,
    ResourceClaim,
    Attachment,
    ResourceSlice,
    CertificateRequest,
    /// That pods of the node live in: they see its services.
    Namespace,
}

type Name = (String, String);
/// What, in which namespace, by which name.
pub type Related = (Item, String, String);

/// The relations of now.
#[derive(Debug, Default)]
pub struct NodeGraph {
    state: RwLock<State>,
    waiting: Mutex<HashMap<String, watch::Sender<u64>>>,
}

#[derive(Debug, Default)]
struct State {
    /// Object, then node: how many pods relate them.
    nodes_of: HashMap<Related, HashMap<String, usize>>,
    /// The same by node.
    of_node: HashMap<String, HashSet<Related>>,
    /// What each pod (or attachment, slice, request) relates, to take it back.
    told_by: HashMap<Related, (String, Vec<Related>)>,
    /// Volume: its claim, and the secrets that mounting it takes.
    volumes: HashMap<String, (Name, Vec<Name>)>,
    volumes_of_secret: HashMap<Name, HashSet<String>>,
}

impl NodeGraph {
    /// Whether the node has to do with the object.
    #[must_use]
    pub fn relates(&self, node: &str, item: Item, namespace: &str, name: &str) -> bool {
        let state = self.state.read();
        match item {
            Item::Volume => state.volume_relates(node, name),
            Item::Secret => {
                let volumes = state.volumes_of_secret.get(&(namespace.into(), name.into()));
                state.relates(node, item, namespace, name)
                    || volumes
                        .is_some_and(|all| all.iter().any(|it| state.volume_relates(node, it)))
            }
            _ => state.relates(node, item, namespace, name),
        }
    }

    /// All that the node has to do with, in no order; volumes by their claims alone.
    #[must_use]
    pub fn needs(&self, node: &str) -> Vec<Related> {
        let state = self.state.read();
        state.of_node.get(node).into_iter().flatten().cloned().collect()
    }

    /// Changes whenever something has changed that the node needs.
    #[must_use]
    pub fn changes(&self, node: &str) -> watch::Receiver<u64> {
        let mut waiting = self.waiting.lock();
        waiting.entry(node.to_owned()).or_insert_with(|| watch::Sender::new(0)).subscribe()
    }

    fn stir(&self, node: &str) {
        let mut waiting = self.waiting.lock();
        if let Some(sender) = waiting.get(node) {
            if sender.receiver_count() == 0 {
                waiting.remove(node);
            } else {
                sender.send_modify(|number| *number += 1);
            }
        }
    }

    /// The node's own object has changed.
    pub fn node_changed(&self, node: &str) {
        self.stir(node);
    }

    /// The content of something has changed.
    pub fn changed(&self, item: Item, namespace: &str, name: &str) {
        let related = (item, namespace.to_owned(), name.to_owned());
        let nodes: Vec<String> = {
            let state = self.state.read();
            state.nodes_of.get(&related).into_iter().flat_map(HashMap::keys).cloned().collect()
        };
        nodes.iter().for_each(|node| self.stir(node));
    }

    /// A service has changed, which the pods of its namespace see; `kubernetes` is seen by all.
    pub fn service_changed(&self, namespace: &str, name: &str) {
        self.changed(Item::Namespace, "", namespace);
        if (namespace, name) == ("default", "kubernetes") {
            let nodes: Vec<String> = self.waiting.lock().keys().cloned().collect();
            nodes.iter().for_each(|node| self.stir(node));
        }
    }

    pub fn pod_is(&self, pod: &Value) {
        let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
        let (namespace, name) = name_of(pod);
        let related = if node.is_empty() { Vec::new() } else { needs_of(pod) };
        let by = (Item::Pod, namespace, name);
        let before = {
            let mut state = self.state.write();
            let before = state.told_by.get(&by).map(|(node, _)| node.clone());
            state.tell(by, node, related);
            before
        };
        self.stir(node);
        if let Some(before) = before.filter(|before| before != node) {
            self.stir(&before);
        }
    }

    /// An attachment, slice or certificate request: related to the node that its spec names.
    pub fn own_is(&self, item: Item, object: &Value) {
        let node = object["spec"]["nodeName"].as_str().unwrap_or_default();
        let (namespace, name) = name_of(object);
        self.state.write().tell((item, namespace, name), node, Vec::new());
    }

    pub fn gone(&self, item: Item, namespace: &str, name: &str) {
        let mut state = self.state.write();
        if item == Item::Volume {
            let claim = state.forget_volume(name);
            drop(state);
            if let Some((namespace, name)) = claim {
                self.changed(Item::Claim, &namespace, &name);
            }
        } else {
            let node = state.forget(&(item, namespace.into(), name.into()));
            drop(state);
            if let Some(node) = node {
                self.stir(&node);
            }
        }
    }

    pub fn volume_is(&self, volume: &Value) {
        let name = volume["metadata"]["name"].as_str().unwrap_or_default();
        let mut state = self.state.write();
        let before = state.forget_volume(name);
        let reference = &volume["spec"]["claimRef"];
        let Some(claim) = reference["name"].as_str() else {
            drop(state);
            if let Some((namespace, name)) = before {
                self.changed(Item::Claim, &namespace, &name);
            }
            return;
        };
        let claim = (text(&reference["namespace"]), claim.to_owned());
        let secrets = secrets_of_volume(volume, &claim.0);
        for secret in &secrets {
            state.volumes_of_secret.entry(secret.clone()).or_default().insert(name.into());
        }
        state.volumes.insert(name.into(), (claim.clone(), secrets));
        drop(state);
        self.changed(Item::Claim, &claim.0, &claim.1);
    }
}

impl State {
    fn relates(&self, node: &str, item: Item, namespace: &str, name: &str) -> bool {
        let related = (item, namespace.to_owned(), name.to_owned());
        self.nodes_of.get(&related).is_some_and(|nodes| nodes.contains_key(node))
    }

    fn volume_relates(&self, node: &str, volume: &str) -> bool {
        let Some(((namespace, claim), _)) = self.volumes.get(volume) else { return false };
        self.relates(node, Item::Claim, namespace, claim)
    }

    fn tell(&mut self, by: Related, node: &str, mut related: Vec<Related>) {
        if self.told_by.get(&by).is_some_and(|(told, all)| {
            told == node && all.len() == related.len() + 1 && all[1..] == related[..]
        }) {
            return;
        }
        self.forget(&by);
        if node.is_empty() {
            return;
        }
        related.insert(0, by.clone());
        for it in &related {
            *self.nodes_of.entry(it.clone()).or_default().entry(node.into()).or_insert(0) += 1;
            self.of_node.entry(node.into()).or_default().insert(it.clone());
        }
        self.told_by.insert(by, (node.into(), related));
    }

    /// The node that it was told of.
    fn forget(&mut self, by: &Related) -> Option<String> {
        let (node, related) = self.told_by.remove(by)?;
        for it in &related {
            let Some(nodes) = self.nodes_of.get_mut(it) else { continue };
            if let Some(count) = nodes.get_mut(&node) {
                *count -= 1;
                if *count == 0 {
                    nodes.remove(&node);
                    if let Some(needs) = self.of_node.get_mut(&node) {
                        needs.remove(it);
                    }
                }
            }
            if nodes.is_empty() {
                self.nodes_of.remove(it);
            }
        }
        if self.of_node.get(&node).is_some_and(HashSet::is_empty) {
            self.of_node.remove(&node);
        }
        Some(node)
    }

    /// The claim that it was bound to.
    fn forget_volume(&mut self, name: &str) -> Option<Name> {
        let (claim, secrets) = self.volumes.remove(name)?;
        for secret in secrets {
            if let Some(volumes) = self.volumes_of_secret.get_mut(&secret) {
                volumes.remove(name);
                if volumes.is_empty() {
                    self.volumes_of_secret.remove(&secret);
                }
            }
        }
        Some(claim)
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn name_of(object: &Value) -> Name {
    (text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]))
}

/// Everything in its namespace that a pod needs on its node, each once.
fn needs_of(object: &Value) -> Vec<Related> {
    if pod::is_mirror(object) {
        return Vec::new();
    }
    let namespace = text(&object["metadata"]["namespace"]);
    let account = text(&object["spec"]["serviceAccountName"]);
    let account = Some(account).filter(|name| !name.is_empty());
    let all = [
        (Item::ServiceAccount, account.into_iter().collect()),
        (Item::Secret, pod::secret_names(object)),
        (Item::ConfigMap, pod::config_map_names(object)),
        (Item::Claim, pod::claim_names(object)),
        (Item::ResourceClaim, pod::resource_claim_names(object)),
    ];
    let mut seen = HashSet::new();
    let named =
        all.into_iter().flat_map(|(item, names)| names.into_iter().map(move |name| (item, name)));
    let once = named.filter(|it| seen.insert(it.clone()));
    let lives_in = (Item::Namespace, String::new(), namespace.clone());
    once.map(|(item, name)| (item, namespace.clone(), name)).chain([lives_in]).collect()
}

/// Secrets that a node reads to mount the volume. A reference without a namespace means the claim's.
fn secrets_of_volume(volume: &Value, claim_namespace: &str) -> Vec<Name> {
    let spec = &volume["spec"];
    let mut secrets = Vec::new();
    let mut reference = |it: &Value| {
        if let Some(name) = it["name"].as_str().filter(|name| !name.is_empty()) {
            let namespace = it["namespace"].as_str().filter(|it| !it.is_empty());
            secrets.push((namespace.unwrap_or(claim_namespace).to_owned(), name.to_owned()));
        }
    };
    for source in ["cephfs", "cinder", "rbd", "scaleIO", "iscsi", "flexVolume", "storageos"] {
        reference(&spec[source]["secretRef"]);
    }
    for of_node in ["nodePublishSecretRef", "nodeStageSecretRef", "nodeExpandSecretRef"] {
        reference(&spec["csi"][of_node]);
    }
    let azure = &spec["azureFile"];
    if let Some(name) = azure["secretName"].as_str().filter(|name| !name.is_empty()) {
        let namespace = azure["secretNamespace"].as_str().filter(|it| !it.is_empty());
        secrets.push((namespace.unwrap_or(claim_namespace).to_owned(), name.to_owned()));
    }
    secrets
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, node: &str) -> Value {
        json!({
            "metadata": {"namespace": "ns", "name": name},
            "spec": {
                "nodeName": node, "serviceAccountName": "bot",
                "imagePullSecrets": [{"name": "pull"}],
                "containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": "env"}}]}],
                "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}],
            },
        })
    }

    #[test]
    fn a_node_reaches_what_its_pods_name_until_the_last_is_gone() {
        let graph = NodeGraph::default();
        graph.pod_is(&pod("one", "n1"));
        graph.pod_is(&pod("two", "n1"));
        for (item, name) in [
            (Item::Pod, "one"),
            (Item::ServiceAccount, "bot"),
            (Item::Secret, "pull"),
            (Item::ConfigMap, "env"),
            (Item::Claim, "data"),
        ] {
            assert!(graph.relates("n1", item, "ns", name), "{item:?} {name}");
            assert!(!graph.relates("n2", item, "ns", name), "{item:?} {name}");
            assert!(!graph.relates("n1", item, "other", name), "{item:?} {name}");
        }
        graph.gone(Item::Pod, "ns", "one");
        assert!(graph.relates("n1", Item::Secret, "ns", "pull"));
        graph.gone(Item::Pod, "ns", "two");
        assert!(!graph.relates("n1", Item::Secret, "ns", "pull"));
    }

    #[test]
    fn whoever_waits_for_a_node_learns_that_something_it_needs_has_changed() {
        let graph = NodeGraph::default();
        let (mut one, mut other) = (graph.changes("n1"), graph.changes("n2"));
        let mut stirred = |changes: [bool; 2]| {
            let seen = [&mut one, &mut other].map(|it| it.has_changed().unwrap());
            assert_eq!(seen, changes);
            one.mark_unchanged();
            other.mark_unchanged();
        };
        graph.pod_is(&pod("one", "n1"));
        stirred([true, false]);
        graph.changed(Item::Secret, "ns", "pull");
        stirred([true, false]);
        graph.changed(Item::Secret, "ns", "another");
        stirred([false, false]);
        graph.service_changed("ns", "web");
        stirred([true, false]);
        graph.service_changed("default", "kubernetes");
        stirred([true, true]);
        graph.pod_is(&pod("one", "n2"));
        stirred([true, true]);
        let claim = json!({"metadata": {"name": "pv"},
            "spec": {"claimRef": {"namespace": "ns", "name": "data"}}});
        graph.volume_is(&claim);
        stirred([false, true]);
        graph.gone(Item::Pod, "ns", "one");
        stirred([false, true]);
        assert_eq!(graph.needs("n2"), []);
    }

    #[test]
    fn a_volumes_secret_is_reached_over_the_claim() {
        let graph = NodeGraph::default();
        let volume = json!({
            "metadata": {"name": "pv"},
            "spec": {
                "claimRef": {"namespace": "ns", "name": "data"},
                "csi": {"nodeStageSecretRef": {"namespace": "storage", "name": "key"}},
            },
        });
        graph.volume_is(&volume);
        assert!(!graph.relates("n1", Item::Volume, "", "pv"));
        graph.pod_is(&pod("one", "n1"));
        assert!(graph.relates("n1", Item::Volume, "", "pv"));
        assert!(graph.relates("n1", Item::Secret, "storage", "key"));
        graph.gone(Item::Volume, "", "pv");
        assert!(!graph.relates("n1", Item::Secret, "storage", "key"));
    }

    #[test]
    fn a_pod_that_moves_or_mirrors_takes_its_relations_along() {
        let graph = NodeGraph::default();
        graph.pod_is(&pod("one", ""));
        assert!(!graph.relates("", Item::Pod, "ns", "one"));
        graph.pod_is(&pod("one", "n1"));
        assert!(graph.relates("n1", Item::ConfigMap, "ns", "env"));
        let mut mirror = pod("one", "n1");
        mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "hash"});
        graph.pod_is(&mirror);
        assert!(graph.relates("n1", Item::Pod, "ns", "one"));
        assert!(!graph.relates("n1", Item::ConfigMap, "ns", "env"));
    }
}
