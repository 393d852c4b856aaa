//! What every workload asks of pods: are they ready, since when, which one goes first, and how a new one is
//! made.
//!
//! All of it is pure; times come in.

use std::cmp::Ordering;

use k8s_openapi::api::core::v1::{Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kontiki_api::object::time::Timestamp;

/// Neither done nor going.
#[must_use]
pub fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && pod.metadata.deletion_timestamp.is_none()
}

#[must_use]
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

/// Its containers have ended for good.
#[must_use]
pub fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

#[must_use]
pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref());
    conditions.unwrap_or_default().iter().find(|condition| condition.type_ == kind)
}

#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

/// Ready for at least `min_ready_s` seconds.
#[must_use]
pub fn is_available(pod: &Pod, min_ready_s: i32, now: Timestamp) -> bool {
    is_ready(pod) && (min_ready_s == 0 || available_in_s(pod, min_ready_s, now) == Some(0))
}

/// Seconds until a ready pod counts as available; `None` for one that is not ready.
#[must_use]
pub fn available_in_s(pod: &Pod, min_ready_s: i32, now: Timestamp) -> Option<i64> {
    let since = ready_since(pod)?;
    let ready_us = now.micros_since(since);
    let wanted_us = i64::from(min_ready_s) * 1_000_000;
    Some(((wanted_us - ready_us).max(0) + 999_999) / 1_000_000)
}

/// Since when the pod is ready.
#[must_use]
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|ready| ready.status == "True")?;
    ready.last_transition_time.as_ref().map(|time| Timestamp::from(time.0))
}

#[must_use]
pub fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref());
    statuses.unwrap_or_default().iter().map(|status| status.restart_count).max().unwrap_or(0)
}

/// Which of two pods is deleted first when there are too many (upstream's `ActivePodsWithRanks`). `crowd`
/// says how many pods of the same owner share the pod's node.
#[must_use]
pub fn deleted_first(a: &Pod, b: &Pod, crowd: impl Fn(&Pod) -> usize) -> Ordering {
    let node = |pod: &Pod| {
        pod.spec
            .as_ref()
            .and_then(|spec| spec.node_name.as_deref())
            .is_some_and(|it| !it.is_empty())
    };
    let rank = |pod: &Pod| match phase(pod) {
        "Pending" => 0,
        "Running" => 2,
        _ => 1,
    };
    let cost = |pod: &Pod| {
        let costs = pod.metadata.annotations.as_ref();
        let cost = costs.and_then(|all| all.get("controller.kubernetes.io/pod-deletion-cost"));
        cost.and_then(|text| text.parse::<i32>().ok()).unwrap_or(0)
    };
    let made = |pod: &Pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    // Not on a node, then pending, then not ready, then cheap, then crowded, then young, ready but lately,
    // restarted.
    node(a)
        .cmp(&node(b))
        .then(rank(a).cmp(&rank(b)))
        .then(is_ready(a).cmp(&is_ready(b)))
        .then(cost(a).cmp(&cost(b)))
        .then(crowd(b).cmp(&crowd(a)))
        .then(ready_since(b).cmp(&ready_since(a)))
        .then(restarts(b).cmp(&restarts(a)))
        .then(made(b).cmp(&made(a)))
}

/// A pod from a workload's template, named by the server after `prefix`.
#[must_use]
pub fn from_template(
    template: &PodTemplateSpec,
    namespace: &str,
    prefix: &str,
    owner: OwnerReference,
) -> Pod {
    let metadata = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(prefix_of(prefix)),
            namespace: Some(namespace.into()),
            labels: metadata.labels,
            annotations: metadata.annotations,
            finalizers: metadata.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// The name with a dash, unless that would leave no room for a valid name.
fn prefix_of(name: &str) -> String {
    if name.len() < 253 { format!("{name}-") } else { name.into() }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, changes: &Value) -> Pod {
        let mut pod = json!({"metadata": {"name": name},
            "spec": {"nodeName": "n", "containers": []},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True",
                "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        for (path, value) in changes.as_object().unwrap() {
            let (parent, field) = path.rsplit_once('/').unwrap();
            pod.pointer_mut(parent).unwrap()[field] = value.clone();
        }
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn the_least_useful_pod_is_deleted_first() {
        let now = "2026-01-01T00:30:00Z";
        let in_order = [
            pod("unassigned", &json!({"/spec/nodeName": null, "/status/phase": "Pending"})),
            pod("pending", &json!({"/status/phase": "Pending"})),
            pod("unready", &json!({"/status/conditions": []})),
            pod(
                "cheap",
                &json!({"/metadata/annotations":
                {"controller.kubernetes.io/pod-deletion-cost": "-5"}}),
            ),
            pod(
                "lately",
                &json!({"/status/conditions": [{"type": "Ready", "status": "True",
                "lastTransitionTime": now}]}),
            ),
            pod("settled", &json!({})),
        ];
        let mut shuffled: Vec<_> = in_order.iter().rev().collect();
        shuffled.sort_by(|a, b| deleted_first(a, b, |_| 1));
        let names = |pods: &[&Pod]| -> Vec<_> {
            pods.iter().map(|pod| pod.metadata.name.clone().unwrap()).collect()
        };
        assert_eq!(names(&shuffled), names(&in_order.iter().collect::<Vec<_>>()));
    }

    #[test]
    fn a_pod_is_available_when_it_has_been_ready_long_enough() {
        let pod = pod("p", &json!({}));
        let at = |text: &str| Timestamp::parse(text).unwrap();
        assert!(is_available(&pod, 0, at("2026-01-01T00:00:00Z")));
        assert!(!is_available(&pod, 10, at("2026-01-01T00:00:09Z")));
        assert!(is_available(&pod, 10, at("2026-01-01T00:00:10Z")));
        assert_eq!(available_in_s(&pod, 10, at("2026-01-01T00:00:03Z")), Some(7));
    }
}
