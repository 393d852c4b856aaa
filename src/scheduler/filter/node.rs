//! What a node is: open, named, tainted, labelled.

use k8s_openapi::api::core::v1::{
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, Taint, Toleration,
};

use super::{NodeInfo, Refusal};

const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

fn tolerations(pod: &Pod) -> &[Toleration] {
    pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default()
}

/// Whether a toleration is meant for a taint (upstream's `ToleratesTaint`).
#[must_use]
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (effect, key) = (text(&toleration.effect), text(&toleration.key));
    if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
        return false;
    }
    let value = text(&taint.value);
    let numbers = || Some((value.parse::<i64>().ok()?, text(&toleration.value).parse().ok()?));
    match toleration.operator.as_deref().unwrap_or_default() {
        "" | "Equal" => text(&toleration.value) == value,
        "Exists" => true,
        "Lt" => numbers().is_some_and(|(taint, bound)| taint < bound),
        "Gt" => numbers().is_some_and(|(taint, bound)| taint > bound),
        _ => false,
    }
}

pub fn schedulable(pod: &Pod, info: &NodeInfo) -> Result<(), Refusal> {
    let closed = info.node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
    let taint =
        Taint { key: UNSCHEDULABLE.into(), effect: "NoSchedule".into(), ..Taint::default() };
    if closed && !tolerations(pod).iter().any(|it| tolerates(it, &taint)) {
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
    info.node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
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
    let Some(spec) = &pod.spec else { return true };
    let by_labels =
        spec.node_selector.iter().flatten().all(|(key, value)| info.label(key) == Some(value));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|node| node.required_during_scheduling_ignored_during_execution.as_ref());
    by_labels && required.is_none_or(|selector| selects(selector, info))
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
    selector.node_selector_terms.iter().any(|term| term_matches(term, info))
}

#[must_use]
pub fn term_matches(term: &NodeSelectorTerm, info: &NodeInfo) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    expressions.iter().all(|rule| requirement(rule, info.label(&rule.key)))
        && fields
            .iter()
            .all(|rule| rule.key == "metadata.name" && requirement(rule, Some(info.name())))
}

fn requirement(rule: &NodeSelectorRequirement, found: Option<&str>) -> bool {
    let values = rule.values.as_deref().unwrap_or_default();
    let among = || found.is_some_and(|found| values.iter().any(|value| value == found));
    let compare = || {
        let bound = values.first()?.parse::<i64>().ok()?;
        Some(found?.parse::<i64>().ok()?.cmp(&bound))
    };
    match rule.operator.as_str() {
        "In" => among(),
        "NotIn" => !among(),
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        "Gt" => compare() == Some(std::cmp::Ordering::Greater),
        "Lt" => compare() == Some(std::cmp::Ordering::Less),
        _ => false,
    }
}
