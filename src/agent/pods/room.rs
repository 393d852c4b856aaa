//! What pods take of this node, and whether one more fits: upstream's admission on the node.
//!
//! The scheduler has asked the same, of what it knew; a pod that names its node itself was never looked at.
//!
//! Keeps: what a pod was given counts until nothing of it runs any more. Who was let in once stays.
//! Never: lets in more than there is, whoever comes at the same time.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::view;
use crate::reconcile::amounts::{Resources, Short, requests};
use crate::reconcile::node_rules::{self, HostPort, clash, host_ports, tolerates};

const OS: &str = "linux";
const OS_LABEL: &str = "kubernetes.io/os";
/// The one effect that concerns a pod which is on its node already.
const NO_EXECUTE: &str = "NoExecute";

/// Why a pod is not run here, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reason: String,
    pub message: String,
}

impl Refusal {
    fn new(reason: &str, message: &str) -> Refusal {
        Refusal { reason: reason.into(), message: message.into() }
    }

    fn by(predicate: &str, why: &str) -> Refusal {
        Refusal::new(predicate, &format!("Predicate {predicate} failed: {why}"))
    }

    fn out_of(short: &Short) -> Refusal {
        let Short { name, wanted, used, have } = short;
        let message = format!(
            "Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, \
             capacity: {have}"
        );
        Refusal { reason: format!("OutOf{name}"), message }
    }
}

/// The node's room.
pub struct Room {
    taken: Mutex<BTreeMap<String, Taken>>,
    left: watch::Sender<u64>,
}

/// What a pod has here.
#[derive(Clone, Debug, Default)]
struct Taken {
    requests: Resources,
    ports: Vec<HostPort>,
}

impl Taken {
    fn by(pod: &Pod) -> Taken {
        Taken { requests: requests(pod), ports: host_ports(pod) }
    }
}

impl Default for Room {
    fn default() -> Room {
        Room { taken: Mutex::default(), left: watch::Sender::new(0) }
    }
}

impl Room {
    /// Lets the pod in if it fits beside the others, with what it asks for now. Where the node's object is not
    /// known, its ports alone are looked at.
    pub fn admit(&self, pod: &Pod, node: Option<&Node>) -> Result<(), Refusal> {
        let mut taken = self.taken.lock();
        let mut others = Taken::default();
        let mut count = 0;
        for (_, other) in taken.iter().filter(|(uid, _)| *uid != view::uid(pod)) {
            others.requests.add(&other.requests);
            others.ports.extend(other.ports.iter().cloned());
            count += 1;
        }
        fits(pod, node, &others, count)?;
        taken.insert(view::uid(pod).to_owned(), Taken::by(pod));
        Ok(())
    }

    /// Whether the pod would fit on a node where nothing else is.
    pub fn is_feasible(pod: &Pod, node: Option<&Node>) -> bool {
        fits(pod, node, &Taken::default(), 0).is_ok()
    }

    /// The pod is here already.
    pub fn keep(&self, pod: &Pod) {
        self.taken.lock().insert(view::uid(pod).to_owned(), Taken::by(pod));
    }

    /// Nothing of the pod runs here any more.
    pub fn leave(&self, uid: &str) {
        if self.taken.lock().remove(uid).is_some() {
            self.left.send_modify(|number| *number += 1);
        }
    }

    /// Changes when somebody has left.
    pub fn left(&self) -> watch::Receiver<u64> {
        self.left.subscribe()
    }
}

/// Whether the pod can run beside `others`. Pure; the first reason in upstream's order is told.
fn fits(pod: &Pod, node: Option<&Node>, others: &Taken, count: i64) -> Result<(), Refusal> {
    let asked = pod.metadata.labels.as_ref().and_then(|it| it.get(OS_LABEL));
    if asked.is_some_and(|it| it != OS) {
        return Err(Refusal::new(
            "PodOSSelectorNodeLabelDoesNotMatch",
            "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label",
        ));
    }
    if view::spec(pod).os.as_ref().is_some_and(|it| it.name != OS) {
        return Err(Refusal::new(
            "PodOSNotSupported",
            "Failed to admit pod as the OS field doesn't match node OS",
        ));
    }
    if let Some(node) = node {
        resources(pod, node, others, count)?;
        if !node_rules::is_selected(view::spec(pod), node) {
            return Err(Refusal::by(
                "NodeAffinity",
                "node(s) didn't match Pod's node affinity/selector",
            ));
        }
    }
    let ours = host_ports(pod);
    if ours.iter().any(|it| others.ports.iter().any(|other| clash(it, other))) {
        return Err(Refusal::by(
            "NodePorts",
            "node(s) didn't have free ports for the requested pod ports",
        ));
    }
    let tolerations = view::spec(pod).tolerations.as_deref().unwrap_or_default();
    let taints = node.map(node_rules::taints).unwrap_or_default();
    let mut hard = taints.iter().filter(|it| it.effect == NO_EXECUTE);
    if hard.any(|taint| !tolerations.iter().any(|it| tolerates(it, taint))) {
        return Err(Refusal::by(
            "TaintToleration",
            "node(s) had taints that the pod didn't tolerate",
        ));
    }
    Ok(())
}

fn resources(pod: &Pod, node: &Node, others: &Taken, count: i64) -> Result<(), Refusal> {
    let allocatable = node.status.as_ref().and_then(|it| it.allocatable.as_ref());
    let Some(allocatable) = allocatable.filter(|it| !it.is_empty()) else { return Ok(()) };
    let most = allocatable.get("pods").and_then(|it| it.0.parse::<i64>().ok());
    if let Some(most) = most.filter(|most| count >= *most) {
        let name = "pods".to_owned();
        return Err(Refusal::out_of(&Short { name, wanted: 1, used: count, have: most }));
    }
    let have = Resources::of(Some(allocatable));
    let mut wanted = requests(pod);
    // What a node does not know of is the cluster's affair.
    wanted.others.retain(|name, _| !is_extended(name) || have.others.contains_key(name));
    match wanted.short(&others.requests, &have).first() {
        Some(short) => Err(Refusal::out_of(short)),
        None => Ok(()),
    }
}

fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, spec: Value) -> Pod {
        let object = json!({"metadata": {"name": name, "uid": name}, "spec": spec});
        serde_json::from_value(object).unwrap()
    }

    fn asks(name: &str, cpu: &str, memory: &str) -> Pod {
        let requests = json!({"cpu": cpu, "memory": memory});
        let container = json!({"name": "main", "resources": {"requests": requests}});
        pod(name, json!({"containers": [container]}))
    }

    fn on_port(name: &str, number: u16, address: &str, protocol: &str) -> Pod {
        let port = json!({"containerPort": 1, "hostPort": number, "hostIP": address,
            "protocol": protocol});
        pod(name, json!({"containers": [{"name": "main", "ports": [port]}]}))
    }

    fn node() -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "node", "labels": {"disk": "fast"}},
            "spec": {"taints": [
                {"key": "soft", "effect": "NoSchedule"}, {"key": "hard", "effect": "NoExecute"}]},
            "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "3", "a.b/chip": "1"}},
        }))
        .unwrap()
    }

    fn tolerant(mut pod: Pod) -> Pod {
        let tolerations = json!([{"key": "hard", "operator": "Exists"}]);
        pod.spec.as_mut().unwrap().tolerations = serde_json::from_value(tolerations).unwrap();
        pod
    }

    #[test]
    fn who_does_not_fit_is_refused_in_upstreams_words() {
        let room = Room::default();
        let node = node();
        let admit = |pod: Pod| room.admit(&tolerant(pod), Some(&node));
        let refused = |pod: Pod| {
            let Refusal { reason, message } = admit(pod).unwrap_err();
            (reason, message)
        };
        admit(asks("a", "1500m", "600Mi")).unwrap();
        let (reason, message) = refused(asks("b", "1", "1Mi"));
        assert_eq!(reason, "OutOfcpu");
        assert_eq!(
            message,
            "Node didn't have enough resource: cpu, requested: 1000, used: 1500, capacity: 2000"
        );
        assert_eq!(refused(asks("b", "1m", "600Mi")).0, "OutOfmemory");
        let wants = |resource: &str, amount: &str| {
            let requests = json!({resource: amount});
            let container = json!({"name": "main", "resources": {"requests": requests}});
            pod("b", json!({"containers": [container]}))
        };
        assert_eq!(refused(wants("a.b/chip", "2")).0, "OutOfa.b/chip");
        admit(wants("of.others/chip", "2")).unwrap();
        let (reason, message) = refused(pod("c", json!({"nodeSelector": {"disk": "slow"}})));
        assert_eq!(reason, "NodeAffinity");
        let words = "Predicate NodeAffinity failed: node(s) didn't match Pod's node \
                     affinity/selector";
        assert_eq!(message, words);
        let taints = room.admit(&pod("c", json!({})), Some(&node)).unwrap_err();
        assert_eq!(taints.reason, "TaintToleration");
        assert_eq!(refused(pod("c", json!({"os": {"name": "windows"}}))).0, "PodOSNotSupported");
        admit(pod("c", json!({}))).unwrap();
        let (reason, message) = refused(pod("d", json!({})));
        assert_eq!(reason, "OutOfpods");
        assert!(message.ends_with("requested: 1, used: 3, capacity: 3"), "{message}");
    }

    #[test]
    fn a_port_is_free_again_when_its_pod_has_left_and_who_is_here_may_ask_for_other_amounts() {
        let room = Room::default();
        room.admit(&on_port("a", 80, "10.0.0.1", "TCP"), None).unwrap();
        room.admit(&on_port("b", 80, "10.0.0.2", "TCP"), None).unwrap();
        room.admit(&on_port("c", 80, "10.0.0.1", "UDP"), None).unwrap();
        let any = on_port("d", 80, "", "TCP");
        let refusal = room.admit(&any, None).unwrap_err();
        assert_eq!(refusal.reason, "NodePorts");
        let left = room.left();
        room.leave("a");
        room.leave("b");
        assert!(left.has_changed().unwrap());
        room.admit(&any, None).unwrap();
        room.leave("d");
        room.leave("c");
        let node = node();
        room.keep(&tolerant(asks("a", "2", "1Mi")));
        room.admit(&tolerant(asks("a", "1", "1Mi")), Some(&node)).unwrap();
        room.admit(&tolerant(asks("b", "1", "1Mi")), Some(&node)).unwrap();
        assert!(room.admit(&tolerant(asks("a", "1001m", "1Mi")), Some(&node)).is_err());
    }
}
