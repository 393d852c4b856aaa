//! Taints of nodes and tolerations of pods, as loops reason about them. Pure.

use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};

pub const NO_EXECUTE: &str = "NoExecute";
pub const NO_SCHEDULE: &str = "NoSchedule";
pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
pub const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// The index by which an informer finds the pods of a node.
pub const BY_NODE: &str = "node";

#[must_use]
pub fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

/// Lets `pods` be asked for the pods of a node.
pub fn index_by_node(pods: &crate::reconcile::Informer<Pod>) {
    pods.index(BY_NODE, |pod| node_of(pod).map(str::to_owned).into_iter().collect());
}

#[must_use]
pub fn of(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
}

#[must_use]
pub fn has(node: &Node, key: &str, effect: &str) -> bool {
    of(node).iter().any(|taint| taint.key == key && taint.effect == effect)
}

/// Whether the toleration is meant for the taint: empty fields mean all.
#[must_use]
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    fn text(text: &Option<String>) -> &str {
        text.as_deref().unwrap_or_default()
    }
    let effect = text(&toleration.effect);
    let key = text(&toleration.key);
    if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
        return false;
    }
    let number = |text: &str| text.parse::<i64>().ok();
    let compared = || number(text(&taint.value)).zip(number(text(&toleration.value)));
    match text(&toleration.operator) {
        "" | "Equal" => !key.is_empty() && text(&toleration.value) == text(&taint.value),
        "Exists" => true,
        "Lt" => compared().is_some_and(|(taint, toleration)| taint < toleration),
        "Gt" => compared().is_some_and(|(taint, toleration)| taint > toleration),
        _ => false,
    }
}

/// How long a pod may stay on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stay {
    Forever,
    Seconds(i64),
    Not,
}

/// How long the pod tolerates the node's `NoExecute` taints, all of them together.
#[must_use]
pub fn stay(pod: &Pod, taints: &[Taint]) -> Stay {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref());
    let tolerations = tolerations.unwrap_or_default();
    let mut shortest: Option<i64> = None;
    for taint in taints.iter().filter(|taint| taint.effect == NO_EXECUTE) {
        let mut matching = tolerations.iter().filter(|it| tolerates(it, taint)).peekable();
        if matching.peek().is_none() {
            return Stay::Not;
        }
        for seconds in matching.filter_map(|it| it.toleration_seconds) {
            shortest = Some(shortest.map_or(seconds, |known| known.min(seconds)));
        }
    }
    match shortest {
        None => Stay::Forever,
        Some(seconds) if seconds <= 0 => Stay::Not,
        Some(seconds) => Stay::Seconds(seconds),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_pod_stays_as_long_as_its_shortest_toleration() {
        let taint = |key: &str| -> Taint {
            serde_json::from_value(json!({"key": key, "value": "v", "effect": "NoExecute"}))
                .unwrap()
        };
        let pod = |tolerations: Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p"},
                "spec": {"containers": [], "tolerations": tolerations}}))
            .unwrap()
        };
        let table = [
            (json!([]), Stay::Not),
            (json!([{"key": "a", "operator": "Exists"}]), Stay::Not),
            (json!([{"operator": "Exists"}]), Stay::Forever),
            (json!([{"operator": "Exists", "tolerationSeconds": 0}]), Stay::Not),
            (
                json!([{"key": "a", "value": "v", "tolerationSeconds": 9},
                    {"key": "b", "operator": "Exists", "tolerationSeconds": 5}]),
                Stay::Seconds(5),
            ),
            (json!([{"key": "a", "value": "x"}, {"key": "b", "operator": "Exists"}]), Stay::Not),
            (json!([{"operator": "Exists", "effect": "NoSchedule"}]), Stay::Not),
        ];
        for (tolerations, expected) in table {
            let pod = pod(tolerations.clone());
            assert_eq!(stay(&pod, &[taint("a"), taint("b")]), expected, "{tolerations}");
        }
        assert_eq!(stay(&pod(json!([])), &[]), Stay::Forever);
    }
}
