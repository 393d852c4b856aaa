//! What pods take of this node, and whether one more fits: upstream's admission on the node.
//!
//! The scheduler has asked the same, of what it knew; a pod that names its node itself was never looked at.
//!
//! Keeps: what a pod was given counts until nothing of it runs any more. Who was let in once stays, but for
//! those that make room for a critical pod ([`preemption`]).
//! Never: lets in more than there is, whoever comes at the same time.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::preemption::{self, Candidate, Lack, Rank};
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
    taken: Mutex<All>,
    left: watch::Sender<u64>,
}

/// What a pod has here.
#[derive(Clone, Debug)]
struct Taken {
    asked: Candidate,
    ports: Vec<HostPort>,
    rank: Rank,
    /// It is being ended for another.
    goes: bool,
}

impl Taken {
    fn by(pod: &Pod) -> Taken {
        let (asked, ports) = (Candidate::new(pod), host_ports(pod));
        Taken { asked, ports, rank: Rank::of(pod), goes: false }
    }
}

/// What others have here.
#[derive(Clone, Debug, Default)]
struct Others {
    requests: Resources,
    ports: Vec<HostPort>,
    count: i64,
}

impl Others {
    fn of<'a>(all: impl Iterator<Item = &'a Taken>) -> Others {
        let mut others = Others::default();
        for it in all {
            others.requests.add(&it.asked.requests);
            others.ports.extend(it.ports.iter().cloned());
            others.count += 1;
        }
        others
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
        fits(pod, node, &Others::of(beside(&taken, pod)))?;
        taken.put(pod);
        Ok(())
    }

    /// Lets a pod in that comes. A critical one that lacks nothing but amounts is let in as well where others
    /// can make room: their uids are told, and it has to wait until they have left. They are to be ended.
    pub fn enter(&self, pod: &Pod, node: Option<&Node>) -> Result<BTreeSet<String>, Refusal> {
        let mut taken = self.taken.lock();
        let others = Others::of(beside(&taken, pod));
        let rank = Rank::of(pod);
        let mut go = BTreeSet::new();
        match fits(pod, node, &others) {
            Err(_) if rank.is_critical() => {
                runs_here(pod, node, &others)?;
                let lacks: Vec<Lack> = lacking(pod, node, &others).iter().map(Lack::from).collect();
                go = make_room(rank, &lacks, beside(&taken, pod))?;
            }
            fits => fits?,
        }
        for (_, it) in taken.iter_mut().filter(|(uid, _)| go.contains(*uid)) {
            it.goes = true;
        }
        taken.put(pod);
        Ok(go)
    }

    /// Whether none of these is here any more.
    pub fn have_left(&self, uids: &BTreeSet<String>) -> bool {
        let taken = self.taken.lock();
        !uids.iter().any(|uid| taken.contains_key(uid))
    }

    /// Whether the pod would fit on a node where nothing else is.
    pub fn is_feasible(pod: &Pod, node: Option<&Node>) -> bool {
        fits(pod, node, &Others::default()).is_ok()
    }

    /// The pod is here already.
    pub fn keep(&self, pod: &Pod) {
        self.taken.lock().put(pod);
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

/// By their uids.
type All = BTreeMap<String, Taken>;

trait Put {
    fn put(&mut self, pod: &Pod);
}

impl Put for All {
    /// Who goes, goes, whatever is put of it.
    fn put(&mut self, pod: &Pod) {
        let uid = view::uid(pod);
        let goes = self.get(uid).is_some_and(|it| it.goes);
        self.insert(uid.to_owned(), Taken { goes, ..Taken::by(pod) });
    }
}

fn beside<'a>(taken: &'a All, pod: &'a Pod) -> impl Iterator<Item = &'a Taken> {
    taken.iter().filter(|(uid, _)| *uid != view::uid(pod)).map(|(_, it)| it)
}

/// Who is to leave, or is leaving already, so that nothing lacks. Pure.
fn make_room<'a>(
    rank: Rank,
    lacks: &[Lack],
    others: impl Iterator<Item = &'a Taken>,
) -> Result<BTreeSet<String>, Refusal> {
    let (gone, stay): (Vec<&Taken>, Vec<&Taken>) = others.partition(|it| it.goes);
    let gone = gone.into_iter().map(|it| &it.asked);
    let lacks = preemption::left_after(lacks, gone.clone());
    let below = stay.into_iter().filter(|it| rank.is_above(it.rank));
    let candidates: Vec<Candidate> = below.map(|it| it.asked.clone()).collect();
    let chosen = preemption::choose(&candidates, &lacks).map_err(|missing| {
        let list: String =
            missing.iter().map(|it| format!("(res: {}, q: {}), ", it.name, it.amount)).collect();
        let message = format!(
            "Unexpected error while attempting to recover from admission failure: preemption: \
             error finding a set of pods to preempt: no set of running pods found to reclaim \
             resources: [{list}]"
        );
        Refusal::new("UnexpectedAdmissionError", &message)
    })?;
    Ok(gone.map(|it| it.uid.clone()).chain(chosen).collect())
}

/// Whether the pod can run beside `others`. Pure; the first reason in upstream's order is told.
fn fits(pod: &Pod, node: Option<&Node>, others: &Others) -> Result<(), Refusal> {
    is_for_this_system(pod)?;
    match lacking(pod, node, others).first() {
        Some(short) => Err(Refusal::out_of(short)),
        None => runs_here(pod, node, others),
    }
}

fn is_for_this_system(pod: &Pod) -> Result<(), Refusal> {
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
    Ok(())
}

/// Whether the pod can run here, however much there is.
fn runs_here(pod: &Pod, node: Option<&Node>, others: &Others) -> Result<(), Refusal> {
    is_for_this_system(pod)?;
    if node.is_some_and(|node| !node_rules::is_selected(view::spec(pod), node)) {
        return Err(Refusal::by(
            "NodeAffinity",
            "node(s) didn't match Pod's node affinity/selector",
        ));
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

/// Of what there is not enough beside the others.
fn lacking(pod: &Pod, node: Option<&Node>, others: &Others) -> Vec<Short> {
    let status = node.and_then(|it| it.status.as_ref());
    let allocatable = status.and_then(|it| it.allocatable.as_ref());
    let Some(allocatable) = allocatable.filter(|it| !it.is_empty()) else { return Vec::new() };
    let most = allocatable.get("pods").and_then(|it| it.0.parse::<i64>().ok());
    let (wanted, used) = (1, others.count);
    let pods = most.filter(|have| wanted > have - used);
    let pods = pods.map(|have| Short { name: "pods".into(), wanted, used, have });
    let have = Resources::of(Some(allocatable));
    let mut wanted = requests(pod);
    // What a node does not know of is the cluster's affair.
    wanted.others.retain(|name, _| !is_extended(name) || have.others.contains_key(name));
    pods.into_iter().chain(wanted.short(&others.requests, &have)).collect()
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

    fn critical(mut pod: Pod) -> Pod {
        pod.spec.as_mut().unwrap().priority = Some(2_000_001_000);
        tolerant(pod)
    }

    #[test]
    fn for_a_critical_pod_others_go_and_those_that_go_already_count() {
        let (room, node) = (Room::default(), node());
        let enter = |pod: &Pod| room.enter(pod, Some(&node));
        let set = |uids: &[&str]| uids.iter().map(|it| (*it).to_owned()).collect::<BTreeSet<_>>();
        assert!(enter(&tolerant(asks("a", "500m", "1Mi"))).unwrap().is_empty());
        assert!(enter(&tolerant(asks("b", "1", "1Mi"))).unwrap().is_empty());
        let refusal = enter(&tolerant(asks("plain", "1", "1Mi"))).unwrap_err();
        assert_eq!(refusal.reason, "OutOfcpu", "who is not critical ends nobody");
        let mut elsewhere = critical(asks("elsewhere", "1", "1Mi"));
        elsewhere.spec.as_mut().unwrap().node_selector = Some([("a".into(), "b".into())].into());
        assert_eq!(enter(&elsewhere).unwrap_err().reason, "NodeAffinity", "it would not help");
        let refusal = enter(&critical(asks("huge", "2001m", "1Mi"))).unwrap_err();
        assert_eq!(refusal.reason, "UnexpectedAdmissionError");
        assert!(refusal.message.ends_with("[(res: cpu, q: 1), ]"), "{}", refusal.message);

        assert_eq!(enter(&critical(asks("first", "600m", "1Mi"))).unwrap(), set(&["a"]));
        assert!(!room.have_left(&set(&["a"])));
        // The room of `a` is given away: 400m of it are left when it has gone.
        assert_eq!(enter(&critical(asks("second", "400m", "1Mi"))).unwrap(), set(&["a"]));
        assert_eq!(room.enter(&tolerant(asks("c", "1m", "1Mi")), None), Ok(set(&[])));
        room.leave("c");
        room.leave("a");
        assert!(room.have_left(&set(&["a"])));
        let refusal = enter(&tolerant(asks("late", "1m", "1Mi"))).unwrap_err();
        assert_eq!(refusal.reason, "OutOfpods", "nobody gets between");
    }
}
