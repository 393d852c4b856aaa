//! Which nodes a pod may be on by what it says of them: taints and tolerations, labels and affinity, ports of
//! the host. Pure.
//!
//! The scheduler asks for any node, a DaemonSet for each, a node for itself; all have to mean the same.

use k8s_openapi::api::core::v1::{
    ContainerPort, Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec,
    Taint, Toleration,
};

/// A port of the host, as a pod takes it: (address, protocol, port).
pub type HostPort = (String, String, i32);

/// Every address of the host.
const ANY: &str = "0.0.0.0";

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

/// Ports of the host that a pod takes.
#[must_use]
pub fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let taken = |port: &ContainerPort| {
        let number = port.host_port.filter(|number| *number > 0)?;
        let address = port.host_ip.as_deref().filter(|ip| !ip.is_empty()).unwrap_or(ANY);
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        Some((address.to_owned(), protocol.to_owned(), number))
    };
    let containers = spec.containers.iter().chain(sidecars);
    containers.flat_map(|container| container.ports.iter().flatten().filter_map(taken)).collect()
}

/// Whether two pods cannot have these ports side by side: on different addresses they can.
#[must_use]
pub fn clash(one: &HostPort, other: &HostPort) -> bool {
    let same = one.0 == other.0 || one.0 == ANY || other.0 == ANY;
    same && one.1 == other.1 && one.2 == other.2
}

#[must_use]
pub fn taints(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
}

/// Whether the node is one that the pod asks for by labels, names or affinity.
#[must_use]
pub fn is_selected(spec: &PodSpec, node: &Node) -> bool {
    let by_labels =
        spec.node_selector.iter().flatten().all(|(key, value)| label(node, key) == Some(value));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|node| node.required_during_scheduling_ignored_during_execution.as_ref());
    by_labels && required.is_none_or(|selector| selects(selector, node))
}

/// Terms are alternatives; one that asks for nothing matches nothing.
#[must_use]
pub fn selects(selector: &NodeSelector, node: &Node) -> bool {
    selector.node_selector_terms.iter().any(|term| term_matches(term, node))
}

#[must_use]
pub fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let name = node.metadata.name.as_deref();
    expressions.iter().all(|rule| requirement(rule, label(node, &rule.key)))
        && fields.iter().all(|rule| rule.key == "metadata.name" && requirement(rule, name))
}

fn label<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    node.metadata.labels.as_ref()?.get(key).map(String::as_str)
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
