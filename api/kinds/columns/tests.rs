//! What people see of a few telling objects.

use serde_json::{Value, json};

use super::of;
use crate::kinds::kind::Columns;
use crate::object::time::Timestamp;

/// The cells of `object` an hour after it was made, joined as kubectl would show them.
fn check(group: &str, kind: &str, mut object: Value, expected: &str) {
    object["metadata"]["name"] = "it".into();
    object["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
    let now = Timestamp::parse("2026-01-01T01:00:00Z").unwrap();
    let Columns::Printer(columns, print) = of(group, kind) else { panic!("{kind} has no printer") };
    let cells = print(&object, now);
    assert_eq!(cells.len(), columns.len(), "a cell for each column of {kind}");
    let shown: Vec<_> = cells.iter().map(super::cells::plain).collect();
    assert_eq!(shown.join(" | "), expected);
}

#[test]
fn every_printer_fills_every_column_of_an_empty_object() {
    let now = Timestamp::default();
    let tables = [
        super::core::TABLE,
        super::workloads::TABLE,
        super::network::TABLE,
        super::storage::TABLE,
        super::cluster::TABLE,
    ];
    for (_, kind, columns, print) in tables.into_iter().flatten() {
        for object in [json!({}), json!({"spec": 1, "status": []}), json!(null)] {
            assert_eq!(print(&object, now).len(), columns.len(), "{kind}");
        }
    }
}

#[test]
fn a_crashing_pod_says_so_and_when_it_last_did() {
    check(
        "",
        "Pod",
        json!({
            "spec": {"containers": [{}, {}], "nodeName": "n1"},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.42.0.7"}], "containerStatuses": [
                {"restartCount": 3, "ready": false,
                    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                 "lastState": {"terminated": {"finishedAt": "2026-01-01T00:55:00Z"}}},
                {"restartCount": 0, "ready": true, "state": {"running": {}}},
            ]},
        }),
        "it | 1/2 | CrashLoopBackOff | 3 (5m ago) | 60m | 10.42.0.7 | n1 | <none> | <none>",
    );
}

#[test]
fn a_pod_with_init_containers_counts_them_and_one_that_goes_is_terminating() {
    let pod = json!({
        "metadata": {},
        "spec": {"containers": [{}], "initContainers": [
            {"name": "a"}, {"name": "s", "restartPolicy": "Always"}]},
        "status": {"phase": "Pending", "initContainerStatuses": [
            {"name": "a", "restartCount": 0, "state": {"terminated": {"exitCode": 0}}},
            {"name": "s", "restartCount": 0, "state": {"waiting": {"reason": "PodInitializing"}}}]},
    });
    check(
        "",
        "Pod",
        pod.clone(),
        "it | 0/2 | Init:1/2 | 0 | 60m | <none> | <none> | <none> | <none>",
    );
    let mut going = pod;
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:59:00Z".into();
    check("", "Pod", going, "it | 0/2 | Terminating | 0 | 60m | <none> | <none> | <none> | <none>");
}

#[test]
fn a_service_shows_its_ports_and_that_its_balancer_is_pending() {
    check(
        "",
        "Service",
        json!({"spec": {"type": "LoadBalancer", "clusterIPs": ["10.43.0.9"], "selector": {"a": "b"},
            "ports": [{"port": 80, "nodePort": 30001, "protocol": "TCP"}]}}),
        "it | LoadBalancer | 10.43.0.9 | <pending> | 80:30001/TCP | 60m | a=b",
    );
}

#[test]
fn a_long_list_of_endpoints_is_cut() {
    let ips: Vec<_> = (1..=5).map(|n| json!({"ip": format!("10.0.0.{n}")})).collect();
    check(
        "",
        "Endpoints",
        json!({"subsets": [{"addresses": ips, "ports": [{"port": 80}]}]}),
        "it | 10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more... | 60m",
    );
}

#[test]
fn an_autoscaler_shows_what_is_over_what_should_be() {
    check(
        "autoscaling",
        "HorizontalPodAutoscaler",
        json!({"spec": {"scaleTargetRef": {"kind": "Deployment", "name": "web"}, "minReplicas": 1,
            "maxReplicas": 3, "metrics": [{"type": "Resource", "resource": {"name": "cpu",
            "target": {"averageUtilization": 80}}}]}}),
        "it | Deployment/web | cpu: <unknown>/80% | 1 | 3 | 0 | 60m",
    );
}
