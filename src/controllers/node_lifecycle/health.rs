//! Whether a node is heard of, and what its status and taints say when it is not. Pure.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, NodeStatus, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kontiki_api::object::time::Timestamp;

use super::super::taints::{self, NO_EXECUTE, NO_SCHEDULE, NOT_READY, UNREACHABLE};

/// How long a node may be silent, and how long one that never said a word.
const GRACE_S: i64 = 50;
const STARTUP_GRACE_S: i64 = 60;
/// What the node itself says; `NetworkUnavailable` is said by others.
const SAID_BY_NODE: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// The taint that a condition stands for: (condition, its status, key).
const TAINT_OF: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    True,
    False,
    Unknown,
}

/// What was last heard of a node, and when we heard it: by our clock, since the node's may differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    pub heard: Timestamp,
    heartbeat: Option<Timestamp>,
    renewed: Option<Timestamp>,
}

#[must_use]
pub fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref());
    conditions.unwrap_or_default().iter().find(|it| it.type_ == kind)
}

/// `None` for a node that never said.
#[must_use]
pub fn ready(node: &Node) -> Option<Ready> {
    condition(node, "Ready").map(|it| match it.status.as_str() {
        "True" => Ready::True,
        "False" => Ready::False,
        _ => Ready::Unknown,
    })
}

/// What is known of the node after this look.
#[must_use]
pub fn listen(
    before: Option<&Health>,
    node: &Node,
    lease: Option<&Lease>,
    now: Timestamp,
) -> Health {
    let heartbeat = condition(node, "Ready")
        .and_then(|it| it.last_heartbeat_time.as_ref())
        .map(|time| Timestamp::from(time.0));
    let renewed = lease
        .and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref())
        .map(|time| Timestamp::from(time.0));
    let created = node.metadata.creation_timestamp.as_ref().map(|time| Timestamp::from(time.0));
    let heard = match before {
        Some(before) if before.heartbeat >= heartbeat && before.renewed >= renewed => before.heard,
        // One that never said anything is given time since it was made.
        None if heartbeat.is_none() && renewed.is_none() => created.unwrap_or(now),
        _ => now,
    };
    Health { heard, heartbeat, renewed }
}

#[must_use]
pub fn is_silent(health: &Health, node: &Node, now: Timestamp) -> bool {
    let grace_s = if ready(node).is_some() { GRACE_S } else { STARTUP_GRACE_S };
    now > health.heard.plus_seconds(grace_s)
}

/// The status of a node that is silent; `None` if it says so already.
#[must_use]
pub fn silenced(node: &Node, now: Timestamp) -> Option<NodeStatus> {
    let before = node.status.clone().unwrap_or_default();
    let mut status = before.clone();
    let conditions = status.conditions.get_or_insert_default();
    for kind in SAID_BY_NODE {
        match conditions.iter_mut().find(|it| it.type_ == kind) {
            Some(known) if known.status != "Unknown" => {
                known.status = "Unknown".into();
                known.reason = Some("NodeStatusUnknown".into());
                known.message = Some("Kubelet stopped posting node status.".into());
                known.last_transition_time = Some(Time(now.moment()));
            }
            Some(_) => {}
            None => conditions.push(NodeCondition {
                type_: kind.into(),
                status: "Unknown".into(),
                reason: Some("NodeStatusNeverUpdated".into()),
                message: Some("Kubelet never posted node status.".into()),
                last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                last_transition_time: Some(Time(now.moment())),
            }),
        }
    }
    (status != before).then_some(status)
}

/// The taints a node should have for its conditions and for being cordoned, beside those of others. `None` if
/// they are right.
#[must_use]
pub fn with_no_schedule(node: &Node) -> Option<Vec<Taint>> {
    let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
    let mut wanted: Vec<&str> = TAINT_OF
        .iter()
        .filter(|(kind, status, _)| condition(node, kind).is_some_and(|it| it.status == *status))
        .map(|(_, _, key)| *key)
        .collect();
    if cordoned {
        wanted.push(UNSCHEDULABLE);
    }
    let is_ours = |key: &str| key == UNSCHEDULABLE || TAINT_OF.iter().any(|it| it.2 == key);
    let before = taints::of(node);
    let mut after: Vec<Taint> = before.to_vec();
    after.retain(|it| {
        it.effect != NO_SCHEDULE || !is_ours(&it.key) || wanted.contains(&it.key.as_str())
    });
    for key in wanted {
        if !taints::has(node, key, NO_SCHEDULE) {
            after.push(taint(key, NO_SCHEDULE, None));
        }
    }
    (after != before).then_some(after)
}

/// The taints with the one that ends pods for `ready`, and without its opposite. `None` if they are right.
#[must_use]
pub fn with_no_execute(node: &Node, ready: Ready, now: Timestamp) -> Option<Vec<Taint>> {
    let wanted = match ready {
        Ready::True => None,
        Ready::False => Some(NOT_READY),
        Ready::Unknown => Some(UNREACHABLE),
    };
    let before = taints::of(node);
    let mut after: Vec<Taint> = before.to_vec();
    after.retain(|it| {
        it.effect != NO_EXECUTE
            || ![NOT_READY, UNREACHABLE].contains(&it.key.as_str())
            || wanted == Some(it.key.as_str())
    });
    if let Some(key) = wanted.filter(|key| !taints::has(node, key, NO_EXECUTE)) {
        after.push(taint(key, NO_EXECUTE, Some(now)));
    }
    (after != before).then_some(after)
}

fn taint(key: &str, effect: &str, since: Option<Timestamp>) -> Taint {
    Taint {
        key: key.into(),
        effect: effect.into(),
        value: None,
        time_added: since.map(|at| Time(at.moment())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(spec: Value, conditions: &[(&str, &str)]) -> Node {
        let conditions: Vec<_> = conditions
            .iter()
            .map(|(kind, status)| {
                json!({"type": kind, "status": status, "lastHeartbeatTime": "2026-01-01T00:00:00Z"})
            })
            .collect();
        serde_json::from_value(json!({"metadata": {"name": "n",
            "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": spec,
            "status": {"conditions": conditions}}))
        .unwrap()
    }

    fn lease(at: &str) -> Lease {
        serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": {"renewTime": at}}))
            .unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::parse("2026-01-01T00:00:00Z").unwrap().plus_seconds(seconds)
    }

    fn keys(taints: Option<Vec<Taint>>) -> Vec<String> {
        let taints = taints.unwrap_or_default();
        taints.iter().map(|it| format!("{}:{}", it.key, it.effect)).collect()
    }

    #[test]
    fn a_renewed_lease_is_a_word_and_silence_is_counted_by_our_clock() {
        let node = node(json!({}), &[("Ready", "True")]);
        let first = listen(None, &node, Some(&lease("2025-01-01T00:00:00.000000Z")), at(0));
        let again =
            listen(Some(&first), &node, Some(&lease("2025-01-01T00:00:00.000000Z")), at(40));
        assert!(!is_silent(&again, &node, at(50)));
        assert!(is_silent(&again, &node, at(51)));
        let renewed =
            listen(Some(&again), &node, Some(&lease("2025-01-01T00:00:10.000000Z")), at(45));
        assert!(!is_silent(&renewed, &node, at(90)));
    }

    #[test]
    fn a_node_that_never_spoke_has_a_minute() {
        let node = node(json!({}), &[]);
        let health = listen(None, &node, None, at(10));
        assert!(!is_silent(&health, &node, at(60)));
        assert!(is_silent(&health, &node, at(61)));
        let status = silenced(&node, at(61)).unwrap();
        let first = &status.conditions.as_ref().unwrap()[0];
        assert_eq!(first.reason.as_deref(), Some("NodeStatusNeverUpdated"));
        let known = Node { status: Some(status), ..node };
        assert_eq!(silenced(&known, at(99)), None, "it is written once");
    }

    #[test]
    fn conditions_are_taints_and_other_taints_stay() {
        let others = json!({"unschedulable": true, "taints": [
            {"key": "mine", "effect": "NoSchedule"},
            {"key": NOT_READY, "effect": "NoSchedule"},
            {"key": NOT_READY, "effect": "NoExecute"}]});
        let node = node(others, &[("Ready", "Unknown"), ("DiskPressure", "True")]);
        assert_eq!(
            keys(with_no_schedule(&node)),
            [
                "mine:NoSchedule",
                "node.kubernetes.io/not-ready:NoExecute",
                "node.kubernetes.io/unreachable:NoSchedule",
                "node.kubernetes.io/disk-pressure:NoSchedule",
                "node.kubernetes.io/unschedulable:NoSchedule",
            ]
        );
        let moved = keys(with_no_execute(&node, Ready::Unknown, at(0)));
        assert_eq!(moved.last().unwrap(), "node.kubernetes.io/unreachable:NoExecute");
        assert!(!moved.contains(&"node.kubernetes.io/not-ready:NoExecute".to_owned()));
        let cleared = keys(with_no_execute(&node, Ready::True, at(0)));
        assert!(cleared.iter().all(|it| !it.ends_with("NoExecute")));
    }
}
