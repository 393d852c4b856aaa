//! What a node is: open, named, tainted, labelled.

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorTerm, Pod, Taint, Toleration};

use super::{NodeInfo, Refusal};
use crate::reconcile::node_rules::{self, tolerates};

const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

fn tolerations(pod: &Pod) -> &[Toleration] {
    pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default()
}

pub fn schedulable(pod: &Pod, info: &NodeInfo) -> Result<(), Refusal> {
    if info.node.spec.as_ref().and_then(|spec| spec.unschedulable) != Some(true) {
        return Ok(());
    }
    let taint =
        Taint { key: UNSCHEDULABLE.into(), effect: "NoSchedule".into(), ..Taint::default() };
    if !tolerations(pod).iter().any(|it| tolerates(it, &taint)) {
        return Err(Refusal::for_good("node(s) were unschedulable"));
    }
    Ok(())
}

pub fn named(pod: &Pod, info: &NodeInfo) -> Result<(), Refusal> {
    let wanted = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
    if wanted.is_empty() || wanted == info.name() {
        return Ok(());
    }
    Err(Refusal::for_good("node(s) didn't match the requested node name"))
}

/// Taints that keep pods away; others are a matter of taste.
pub fn taints(info: &NodeInfo) -> &[Taint] {
    node_rules::taints(&info.node)
}

/// Whether the pod is kept away by a taint of the node.
#[must_use]
pub fn is_tolerated(pod: &Pod, info: &NodeInfo) -> bool {
    taints(info)
        .iter()
        .filter(|taint| taint.effect != "PreferNoSchedule")
        .all(|taint| tolerations(pod).iter().any(|toleration| tolerates(toleration, taint)))
}

pub fn tolerated(pod: &Pod, info: &NodeInfo) -> Result<(), Refusal> {
    if is_tolerated(pod, info) {
        Ok(())
    } else {
        Err(Refusal::for_good("node(s) had untolerated taint(s)"))
    }
}

/// Taints that the pod would rather avoid.
#[must_use]
pub fn disliked(pod: &Pod, info: &NodeInfo) -> i64 {
    let soft = taints(info).iter().filter(|taint| taint.effect == "PreferNoSchedule");
    let disliked = soft.filter(|taint| {
        !tolerations(pod)
            .iter()
            .filter(|it| matches!(it.effect.as_deref(), None | Some("" | "PreferNoSchedule")))
            .any(|toleration| tolerates(toleration, taint))
    });
    i64::try_from(disliked.count()).unwrap_or(i64::MAX)
}

/// Whether the node is one that the pod asks for by labels, names or affinity.
#[must_use]
pub fn is_selected(pod: &Pod, info: &NodeInfo) -> bool {
    pod.spec.as_ref().is_none_or(|spec| node_rules::is_selected(spec, &info.node))
}

pub fn selected(pod: &Pod, info: &NodeInfo) -> Result<(), Refusal> {
    if is_selected(pod, info) {
        Ok(())
    } else {
        Err(Refusal::for_good("node(s) didn't match Pod's node affinity/selector"))
    }
}

/// Terms are alternatives; one that asks for nothing matches nothing.
#[must_use]
pub fn selects(selector: &NodeSelector, info: &NodeInfo) -> bool {
    node_rules::selects(selector, &info.node)
}

#[must_use]
pub fn term_matches(term: &NodeSelectorTerm, info: &NodeInfo) -> bool {
    node_rules::term_matches(term, &info.node)
}
