//! Which nodes a DaemonSet has pods on, and how a pod is bound to its node. Pure.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod,
    PodSpec, Toleration,
};

use crate::controllers::ownership::reference_to;
use crate::controllers::pods::from_template;
use crate::controllers::revisions::POD_LABEL;
use crate::reconcile::node_rules::{is_selected, taints, tolerates};

const GENERATION: &str = "deprecated.daemonset.template.generation";
const GENERATION_LABEL: &str = "pod-template-generation";

/// Whether a pod belongs on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Belongs {
    Yes,
    /// It may stay if it is there, but is not made: the node was tainted against new pods.
    IfThere,
    No,
}

/// What pods of a DaemonSet put up with: they are the last to go from a node in trouble.
fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut all = vec![
        ("node.kubernetes.io/not-ready", "NoExecute"),
        ("node.kubernetes.io/unreachable", "NoExecute"),
        ("node.kubernetes.io/disk-pressure", "NoSchedule"),
        ("node.kubernetes.io/memory-pressure", "NoSchedule"),
        ("node.kubernetes.io/pid-pressure", "NoSchedule"),
        ("node.kubernetes.io/unschedulable", "NoSchedule"),
    ];
    if spec.host_network.unwrap_or(false) {
        all.push(("node.kubernetes.io/network-unavailable", "NoSchedule"));
    }
    let added = all.into_iter().map(|(key, effect)| Toleration {
        key: Some(key.into()),
        operator: Some("Exists".into()),
        effect: Some(effect.into()),
        ..Toleration::default()
    });
    let mut tolerations = spec.tolerations.clone().unwrap_or_default();
    for toleration in added {
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
    tolerations
}

#[must_use]
pub fn belongs(set: &DaemonSet, node: &Node) -> Belongs {
    let Some(spec) = &set.spec.template.spec else { return Belongs::No };
    let named = spec.node_name.as_deref().filter(|name| !name.is_empty());
    if named.is_some_and(|name| node.metadata.name.as_deref() != Some(name))
        || !is_selected(spec, node)
    {
        return Belongs::No;
    }
    let tolerations = tolerations(spec);
    let repels = |effect: &str| {
        let mut repelling = taints(node).iter().filter(|taint| taint.effect == effect);
        repelling.any(|taint| !tolerations.iter().any(|it| tolerates(it, taint)))
    };
    if repels("NoExecute") {
        Belongs::No
    } else if repels("NoSchedule") {
        Belongs::IfThere
    } else {
        Belongs::Yes
    }
}

/// The node that a pod is on, or was made for.
#[must_use]
pub fn node_of(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    if let Some(name) = spec.node_name.as_deref().filter(|name| !name.is_empty()) {
        return Some(name);
    }
    let required = spec
        .affinity
        .as_ref()?
        .node_affinity
        .as_ref()?
        .required_during_scheduling_ignored_during_execution
        .as_ref()?;
    let terms = required.node_selector_terms.iter();
    terms.flat_map(|term| term.match_fields.iter().flatten()).find_map(|rule| {
        match (rule.key.as_str(), rule.operator.as_str(), rule.values.as_deref()) {
            ("metadata.name", "In", Some([name])) => Some(name.as_str()),
            _ => None,
        }
    })
}

#[must_use]
pub fn new_pod(set: &DaemonSet, node: &str, hash: &str) -> Pod {
    let name = set.metadata.name.as_deref().unwrap_or_default();
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    let mut pod = from_template(&set.spec.template, namespace, name, reference_to(set));
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_LABEL.into(), hash.into());
    if let Some(generation) = generation(set) {
        labels.insert(GENERATION_LABEL.into(), generation.into());
    }
    if let Some(spec) = &mut pod.spec {
        spec.tolerations = Some(tolerations(spec));
        pin(spec.affinity.get_or_insert_default(), node);
    }
    pod
}

/// Says that only this node will do; what the template asks of nodes has been looked at.
fn pin(affinity: &mut Affinity, node: &str) {
    let term = NodeSelectorTerm {
        match_fields: Some(vec![NodeSelectorRequirement {
            key: "metadata.name".into(),
            operator: "In".into(),
            values: Some(vec![node.into()]),
        }]),
        ..NodeSelectorTerm::default()
    };
    let selector = NodeSelector { node_selector_terms: vec![term] };
    let affinity: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    affinity.required_during_scheduling_ignored_during_execution = Some(selector);
}

fn generation(set: &DaemonSet) -> Option<&str> {
    let text = set.metadata.annotations.as_ref()?.get(GENERATION)?;
    text.parse::<i64>().ok().map(|_| text.as_str())
}

/// Whether a pod is of the template as it is now.
#[must_use]
pub fn is_updated(set: &DaemonSet, pod: &Pod, hash: &str) -> bool {
    let label = |key: &str| pod.metadata.labels.as_ref()?.get(key).map(String::as_str);
    let by_generation = generation(set).is_some_and(|it| label(GENERATION_LABEL) == Some(it));
    by_generation || label(POD_LABEL) == Some(hash)
}
