//! DaemonSets, by what their plan says of nodes and pods.

use std::sync::Arc;

use serde_json::{Value, json};

use super::nodes::{Belongs, belongs, node_of};
use super::*;
use kontiki_api::object::time::Timestamp;

const NOW: &str = "2026-01-01T01:00:00Z";

fn set(strategy: &Value, template: &Value) -> DaemonSet {
    let mut pod = json!({"containers": [{"name": "c"}]});
    for (field, value) in template.as_object().unwrap() {
        pod[field] = value.clone();
    }
    serde_json::from_value(json!({
        "metadata": {"name": "logs", "namespace": "ops", "uid": "s", "generation": 4},
        "spec": {"selector": {"matchLabels": {"app": "logs"}}, "updateStrategy": strategy,
            "template": {"metadata": {"labels": {"app": "logs"}}, "spec": pod}}}))
    .unwrap()
}

fn rolling(surge: i32, unavailable: i32) -> DaemonSet {
    let amounts = json!({"maxSurge": surge, "maxUnavailable": unavailable});
    set(&json!({"type": "RollingUpdate", "rollingUpdate": amounts}), &json!({}))
}

fn node(name: &str, taints: &[(&str, &str)]) -> Arc<Node> {
    let taints: Vec<_> =
        taints.iter().map(|(key, effect)| json!({"key": key, "effect": effect})).collect();
    let object = json!({"metadata": {"name": name, "labels": {"disk": name}},
        "spec": {"taints": taints}});
    Arc::new(serde_json::from_value(object).unwrap())
}

fn pod(node: &str, hash: &str, state: &str) -> Arc<Pod> {
    let (phase, ready) = match state {
        "ready" => ("Running", "True"),
        "unready" => ("Running", "False"),
        other => (other, "False"),
    };
    let object = json!({
        "metadata": {"name": format!("{node}-{hash}"), "namespace": "ops",
            "uid": format!("{node}{hash}"),
            "labels": {"app": "logs", "controller-revision-hash": hash}},
        "spec": {"nodeName": node, "containers": []},
        "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready,
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    Arc::new(serde_json::from_value(object).unwrap())
}

fn look(set: &DaemonSet, nodes: &[Arc<Node>], pods: &[Arc<Pod>]) -> Plan {
    look_after(set, nodes, pods, &Backoffs::default(), NOW)
}

fn look_after(
    set: &DaemonSet,
    nodes: &[Arc<Node>],
    pods: &[Arc<Pod>],
    backoffs: &Backoffs,
    now: &str,
) -> Plan {
    let now = Timestamp::parse(now).unwrap();
    plan::plan(&Seen { set, nodes, pods, hash: "new", backoffs, now })
}

fn created(plan: &Plan) -> Vec<&str> {
    plan.create.iter().filter_map(node_of).collect()
}

fn deleted(plan: &Plan) -> Vec<&str> {
    plan.delete.iter().filter_map(|pod| pod.metadata.name.as_deref()).collect()
}

fn three() -> [Arc<Node>; 3] {
    ["a", "b", "c"].map(|name| node(name, &[]))
}

#[test]
fn every_node_gets_one_pod_that_is_pinned_to_it() {
    let plan = look(&rolling(0, 1), &three(), &[pod("b", "new", "ready")]);
    assert_eq!(created(&plan), ["a", "c"]);
    let made = &plan.create[0];
    assert_eq!(made.metadata.labels.as_ref().unwrap()["controller-revision-hash"], "new");
    assert_eq!(made.spec.as_ref().unwrap().node_name, None, "the scheduler binds it");
    let counts = plan.status;
    assert_eq!((counts.desired_number_scheduled, counts.current_number_scheduled), (3, 1));
    assert_eq!((counts.number_ready, counts.number_unavailable), (1, Some(2)));
    assert_eq!(counts.observed_generation, Some(4));
}

#[test]
fn taints_selectors_and_names_say_where_pods_belong() {
    let plain = rolling(0, 1);
    for (taint, expected) in [
        (("node.kubernetes.io/unschedulable", "NoSchedule"), Belongs::Yes),
        (("node.kubernetes.io/not-ready", "NoExecute"), Belongs::Yes),
        (("node.kubernetes.io/network-unavailable", "NoSchedule"), Belongs::IfThere),
        (("gpu", "NoSchedule"), Belongs::IfThere),
        (("gpu", "PreferNoSchedule"), Belongs::Yes),
        (("gpu", "NoExecute"), Belongs::No),
    ] {
        assert_eq!(belongs(&plain, &node("a", &[taint])), expected, "{taint:?}");
    }
    let host = set(&json!({}), &json!({"hostNetwork": true}));
    let taint = ("node.kubernetes.io/network-unavailable", "NoSchedule");
    assert_eq!(belongs(&host, &node("a", &[taint])), Belongs::Yes);
    let selective = set(&json!({}), &json!({"nodeSelector": {"disk": "b"}}));
    assert_eq!(belongs(&selective, &node("a", &[])), Belongs::No);
    assert_eq!(belongs(&selective, &node("b", &[])), Belongs::Yes);
    let affine = json!({"affinity": {"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["c"]}]}]}}}});
    assert_eq!(belongs(&set(&json!({}), &affine), &node("c", &[])), Belongs::Yes);
    assert_eq!(belongs(&set(&json!({}), &affine), &node("a", &[])), Belongs::No);
}

#[test]
fn pods_leave_nodes_on_which_they_no_longer_belong() {
    let selective = set(&json!({}), &json!({"nodeSelector": {"disk": "b"}}));
    let pods = [pod("a", "new", "ready"), pod("b", "new", "ready")];
    let plan = look(&selective, &three(), &pods);
    assert_eq!((created(&plan), deleted(&plan)), (vec![], vec!["a-new"]));
    assert_eq!(plan.status.number_misscheduled, 1);
    let tainted = [node("a", &[("gpu", "NoSchedule")])];
    let plan = look(&rolling(0, 1), &tainted, &[pod("a", "new", "ready")]);
    assert!(plan.create.is_empty() && plan.delete.is_empty(), "it was there before the taint");
}

#[test]
fn a_failed_pod_is_replaced_and_each_time_later() {
    let nodes = [node("a", &[])];
    let failed = [pod("a", "new", "Failed")];
    let first = look(&rolling(0, 1), &nodes, &failed);
    assert_eq!(deleted(&first), ["a-new"]);
    assert_eq!(
        first.tell[0],
        (
            true,
            "FailedDaemonPod",
            "Found failed daemon pod ops/a-new on node a, will try to kill it".to_owned()
        )
    );
    let soon = look_after(&rolling(0, 1), &nodes, &failed, &first.backoffs, NOW);
    assert!(soon.delete.is_empty());
    assert_eq!(soon.again_s, Some(1));
    let later = "2026-01-01T01:00:01Z";
    let second = look_after(&rolling(0, 1), &nodes, &failed, &first.backoffs, later);
    assert_eq!(deleted(&second), ["a-new"]);
    let third = look_after(&rolling(0, 1), &nodes, &failed, &second.backoffs, later);
    assert_eq!(third.again_s, Some(2));
}

#[test]
fn a_rolling_update_keeps_no_more_pods_away_than_it_may() {
    let old = ["a", "b", "c"].map(|name| pod(name, "old", "ready"));
    assert_eq!(deleted(&look(&rolling(0, 1), &three(), &old)), ["a-old"]);
    assert_eq!(deleted(&look(&rolling(0, 2), &three(), &old)), ["a-old", "b-old"]);
    let under_way = [pod("a", "new", "unready"), old[1].clone(), old[2].clone()];
    assert!(look(&rolling(0, 1), &three(), &under_way).delete.is_empty());
    let broken = [pod("a", "new", "unready"), pod("b", "old", "unready"), old[2].clone()];
    assert_eq!(deleted(&look(&rolling(0, 1), &three(), &broken)), ["b-old"], "it serves nobody");
    let on_delete = set(&json!({"type": "OnDelete"}), &json!({}));
    assert!(look(&on_delete, &three(), &old).delete.is_empty());
}

#[test]
fn a_surging_update_makes_the_new_pod_before_the_old_one_goes() {
    let old = ["a", "b", "c"].map(|name| pod(name, "old", "ready"));
    let first = look(&rolling(1, 0), &three(), &old);
    assert_eq!((created(&first), deleted(&first)), (vec!["a"], vec![]));
    let beside = |state| [&old[..], &[pod("a", "new", state)]].concat();
    let waits = look(&rolling(1, 0), &three(), &beside("unready"));
    assert!(waits.create.is_empty() && waits.delete.is_empty());
    let swaps = look(&rolling(1, 0), &three(), &beside("ready"));
    assert_eq!((created(&swaps), deleted(&swaps)), (vec![], vec!["a-old"]));
}

#[test]
fn a_pod_for_a_node_that_is_gone_is_not_waited_for() {
    let plan = look(&rolling(0, 1), &[node("a", &[])], &[]);
    let unassigned = Arc::new(Pod { metadata: metadata("lost"), ..plan.create[0].clone() });
    let plan = look(&rolling(0, 1), &[], &[unassigned]);
    assert_eq!(deleted(&plan), ["lost"]);
}

fn metadata(name: &str) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
    let name = Some(name.into());
    k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta { name, ..Default::default() }
}
