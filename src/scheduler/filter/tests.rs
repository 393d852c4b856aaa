//! Who can run where, and what is said of the rest.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use crate::reconcile::Key;
use crate::scheduler::cycle::schedule;
use crate::scheduler::nodes::Cluster;
use crate::scheduler::preempt;
use crate::scheduler::world::World;

fn node(name: &str, changes: &Value) -> Arc<Node> {
    let mut node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {}, "status": {"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "10"}}});
    merge(&mut node, changes);
    Arc::new(serde_json::from_value(node).unwrap())
}

fn pod(name: &str, spec: &Value) -> Arc<Pod> {
    let mut pod = json!({"metadata": {"name": name, "namespace": "ns", "labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "600m"}}}]}});
    merge(&mut pod["spec"], spec);
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn merge(into: &mut Value, changes: &Value) {
    for (field, value) in changes.as_object().unwrap() {
        if value.is_object() && into[field].is_object() {
            merge(&mut into[field], value);
        } else {
            into[field] = value.clone();
        }
    }
}

fn cluster(nodes: &[Arc<Node>], pods: &[(&str, Arc<Pod>)]) -> Cluster {
    let mut cluster = Cluster::default();
    nodes.iter().for_each(|node| cluster.put_node(node.clone()));
    for (at, (node, pod)) in pods.iter().enumerate() {
        cluster.assume(&Key::new("ns", &format!("there-{at}")), pod.clone(), node);
    }
    cluster
}

/// The node that the pod gets, or why it gets none.
fn check(cluster: &mut Cluster, pod: &Arc<Pod>, expected: &str) {
    let found = match schedule(pod, &cluster.snapshot(), &World::empty(), 0) {
        Ok(chosen) => chosen.node,
        Err(unfit) => unfit.explain(""),
    };
    assert_eq!(found, expected);
}

#[test]
fn a_pod_goes_where_there_is_room() {
    let nodes = [node("a", &json!({})), node("b", &json!({}))];
    let mut cluster = cluster(&nodes, &[("a", pod("x", &json!({})))]);
    check(&mut cluster, &pod("y", &json!({})), "b");
}

#[test]
fn what_is_short_is_told_for_each_node() {
    let nodes = [
        node("a", &json!({"spec": {"unschedulable": true}})),
        node("b", &json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}})),
        node("c", &json!({})),
    ];
    let mut cluster = cluster(&nodes, &[("c", pod("x", &json!({})))]);
    check(
        &mut cluster,
        &pod("y", &json!({})),
        "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s), \
         1 node(s) were unschedulable.",
    );
    let tolerates = json!({"tolerations": [{"key": "k", "operator": "Exists"}]});
    check(&mut cluster, &pod("y", &tolerates), "b");
}

#[test]
fn affinity_to_nodes_is_any_of_its_terms() {
    let nodes =
        [node("a", &json!({})), node("b", &json!({"metadata": {"labels": {"disk": "ssd"}}}))];
    let term = |key: &str, operator: &str| {
        let rule = json!({"key": key, "operator": operator});
        json!({"matchExpressions": [rule]})
    };
    let wants = |terms: Value| {
        json!({"affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
    };
    let mut cluster = cluster(&nodes, &[]);
    let any = wants(json!([term("gpu", "Exists"), term("disk", "Exists")]));
    check(&mut cluster, &pod("y", &any), "b");
    check(
        &mut cluster,
        &pod("y", &wants(json!([term("gpu", "Exists")]))),
        "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.",
    );
    check(&mut cluster, &pod("y", &json!({"nodeSelector": {"disk": "ssd"}})), "b");
}

#[test]
fn a_port_of_the_host_is_taken_once_per_address() {
    let port = |ip: &str| {
        json!({"containers": [{"name": "c",
        "ports": [{"containerPort": 80, "hostPort": 80, "hostIP": ip}]}]})
    };
    let mut cluster = cluster(&[node("a", &json!({}))], &[("a", pod("x", &port("127.0.0.1")))]);
    check(&mut cluster, &pod("y", &port("127.0.0.2")), "a");
    check(
        &mut cluster,
        &pod("y", &port("")),
        "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.",
    );
}

#[test]
fn anti_affinity_holds_both_ways() {
    let small = json!({"containers": [{"name": "c"}]});
    let away = |from: &str| {
        json!({"containers": [{"name": "c"}], "affinity": {"podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [{
                "topologyKey": "kubernetes.io/hostname",
                "labelSelector": {"matchLabels": {"app": from}}}]}}})
    };
    let mut there = cluster(&[node("a", &json!({}))], &[("a", pod("x", &small))]);
    check(
        &mut there,
        &pod("y", &away("x")),
        "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules.",
    );
    let mut guarded = cluster(&[node("a", &json!({}))], &[("a", pod("x", &away("y")))]);
    check(
        &mut guarded,
        &pod("y", &small),
        "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules.",
    );
}

#[test]
fn affinity_lets_the_first_of_a_kind_begin() {
    let together = json!({"containers": [{"name": "c"}], "affinity": {"podAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [{
            "topologyKey": "kubernetes.io/hostname",
            "labelSelector": {"matchLabels": {"app": "x"}}}]}}});
    let nodes = [node("a", &json!({})), node("b", &json!({}))];
    let mut empty = cluster(&nodes, &[]);
    check(&mut empty, &pod("x", &together), "a");
    let mut begun = cluster(&nodes, &[("b", pod("x", &together))]);
    check(&mut begun, &pod("x", &together), "b");
    check(
        &mut cluster(&nodes, &[]),
        &pod("other", &together),
        "0/2 nodes are available: 2 node(s) didn't match pod affinity rules.",
    );
}

#[test]
fn pods_spread_over_zones() {
    let zone =
        |name: &str, zone: &str| node(name, &json!({"metadata": {"labels": {"zone": zone}}}));
    let spread = json!({"containers": [{"name": "c"}], "topologySpreadConstraints": [{
        "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "x"}}}]});
    let nodes = [zone("a", "1"), zone("b", "1"), zone("c", "2"), node("d", &json!({}))];
    let mut cluster = cluster(&nodes, &[("a", pod("x", &spread))]);
    check(&mut cluster, &pod("x", &spread), "c");
    let twice = cluster.snapshot();
    drop(twice);
    cluster.put_node(node(
        "c",
        &json!({"spec": {"unschedulable": true},
        "metadata": {"labels": {"zone": "2"}}}),
    ));
    check(
        &mut cluster,
        &pod("x", &spread),
        "0/4 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing \
         required label), 1 node(s) were unschedulable, 2 node(s) didn't match pod topology spread \
         constraints.",
    );
}

#[test]
fn the_least_important_pod_makes_room() {
    let important = |priority: i32| json!({"priority": priority});
    let nodes = [node("a", &json!({})), node("b", &json!({}))];
    let mut cluster =
        cluster(&nodes, &[("a", pod("x", &important(5))), ("b", pod("x", &important(1)))]);
    let snapshot = cluster.snapshot();
    let world = World::empty();
    let plan_for = |priority: i32| {
        let pod = pod("y", &important(priority));
        let unfit = schedule(&pod, &snapshot, &world, 0).err().expect("there is no room");
        preempt::plan(&pod, &unfit, &snapshot, &world)
    };
    let plan = plan_for(9).unwrap();
    assert_eq!((plan.node.as_str(), plan.victims.len()), ("b", 1));
    assert_eq!(
        plan_for(1).unwrap_err(),
        "preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod."
    );
}

#[test]
fn room_that_was_made_for_somebody_is_taken_by_nobody_less_important() {
    let pod_of = |name: &str, priority: i32| {
        let mut pod = Pod::clone(&pod(name, &json!({"priority": priority})));
        pod.metadata.uid = Some(name.into());
        Arc::new(pod)
    };
    let mut cluster = cluster(&[node("a", &json!({}))], &[]);
    let (key, mighty) = (Key::new("ns", "mighty"), pod_of("mighty", 5));
    cluster.nominate(&key, mighty.clone(), "a");
    check(&mut cluster, &pod_of("low", 1), "0/1 nodes are available: 1 Insufficient cpu.");
    check(&mut cluster, &pod_of("equal", 5), "0/1 nodes are available: 1 Insufficient cpu.");
    check(&mut cluster, &pod_of("mightier", 9), "a");
    check(&mut cluster, &mighty, "a");
    cluster.take_back_nomination(&key);
    check(&mut cluster, &pod_of("low", 1), "a");
}
