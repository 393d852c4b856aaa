//! Nodes: closed and opened, tainted, lost and found.

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use crate::bed::{Tour, is_going, is_ready, is_true, name, node, template, workload};

fn pod(name: &str, tolerations: Value) -> Value {
    let mut pod = template(name, "i:1", json!({}));
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    pod["metadata"]["name"] = name.into();
    pod["spec"]["tolerations"] = tolerations;
    pod["spec"]["terminationGracePeriodSeconds"] = 1.into();
    pod
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cordoned_node_gets_no_pods_until_it_is_uncordoned() {
    let tour = Tour::with_nodes(2).await;
    tour.run("cordon hollow-0").await;
    assert!(tour.run("get node hollow-0").await.contains("SchedulingDisabled"));
    tour.run("create deployment web --image=web:1 --replicas=3").await;
    let pods = tour.until_ready("app=web", 3).await;
    assert!(pods.iter().all(|pod| node(pod) == "hollow-1"), "{pods:?}");
    tour.run("cordon hollow-1").await;
    tour.run("run late --image=i:1").await;
    let unfit = |pod: &Value| {
        pod.to_string().contains("0/2 nodes are available: 2 node(s) were unschedulable.")
    };
    tour.until::<Pod>("late", unfit).await;
    let described = tour.run("describe pod late").await;
    assert!(described.contains("FailedScheduling"), "{described}");
    tour.run("uncordon hollow-0").await;
    tour.run("wait --for=condition=ready pod/late --timeout=60s").await;
    assert_eq!(node(&tour.get::<Pod>("late").await.unwrap()), "hollow-0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taint_drives_out_who_does_not_tolerate_it_when_their_time_is_up() {
    let tour = Tour::with_nodes(1).await;
    let tolerates = |seconds: Option<i64>| {
        json!([{"key": "fire", "operator": "Exists", "effect": "NoExecute",
            "tolerationSeconds": seconds}])
    };
    tour.kubectl.apply(&pod("stays", tolerates(None))).await;
    tour.kubectl.apply(&pod("leaves-later", tolerates(Some(1)))).await;
    tour.kubectl.apply(&pod("leaves", json!([]))).await;
    for it in ["stays", "leaves-later", "leaves"] {
        tour.run(&format!("wait --for=condition=ready pod/{it} --timeout=60s")).await;
    }
    tour.run("taint node hollow-0 fire=yes:NoExecute").await;
    tour.run("wait --for=delete pod/leaves pod/leaves-later --timeout=60s").await;
    assert!(is_ready(&tour.get::<Pod>("stays").await.unwrap()));
    let events = tour.run("get events --field-selector=reason=TaintManagerEviction").await;
    assert!(events.contains("pod/leaves"), "{events}");
    tour.kubectl.apply(&pod("kept-out", json!([]))).await;
    tour.until::<Pod>("kept-out", |pod| {
        pod.to_string().contains("1 node(s) had untolerated taint")
    })
    .await;
    tour.run("taint node hollow-0 fire-").await;
    tour.run("wait --for=condition=ready pod/kept-out --timeout=60s").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_a_node_that_falls_silent_are_replaced_and_it_is_taken_back_when_it_speaks() {
    let tour = Tour::with_nodes(2).await;
    // Who tolerates a lost node for no time at all.
    let mut pods = template("web", "web:1", json!({}));
    pods["spec"]["tolerations"] = json!([
        {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute",
            "tolerationSeconds": 0}]);
    tour.kubectl.apply(&workload("Deployment", "web", &pods, json!({"replicas": 4}))).await;
    let pods = tour.until_ready("app=web", 4).await;
    let lost = node(&pods[0]).to_owned();
    tour.run(&format!("annotate node {lost} hollow.kontiki.io/silent=true")).await;
    let unknown = |node: &Value| {
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|it| it["type"] == "Ready" && it["status"] == "Unknown")
    };
    tour.until_for::<Node>(&lost, 120, unknown).await;
    assert!(tour.run(&format!("get node {lost}")).await.contains("NotReady"));
    // Their places are taken elsewhere; they themselves cannot be said to have ended.
    let pods = tour
        .until_all::<Pod>("app=web", |pods| {
            pods.iter().filter(|pod| is_ready(pod) && node(pod) != lost).count() == 4
        })
        .await;
    assert!(pods.iter().any(|pod| node(pod) == lost && is_going(pod)), "{pods:?}");
    tour.run(&format!("annotate node {lost} hollow.kontiki.io/silent-")).await;
    tour.until::<Node>(&lost, |node| is_true(node, "Ready") && node["spec"]["taints"].is_null())
        .await;
    let pods = tour.until_ready("app=web", 4).await;
    assert!(pods.iter().all(|pod| !name(pod).is_empty() && node(pod) != lost), "{pods:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_was_to_leave_stays_when_the_taint_is_taken_away() {
    let tour = Tour::with_nodes(1).await;
    let tolerates = json!([{"key": "fire", "operator": "Exists", "effect": "NoExecute",
        "tolerationSeconds": 60}]);
    tour.kubectl.apply(&pod("calm", tolerates)).await;
    tour.run("wait --for=condition=ready pod/calm --timeout=60s").await;
    tour.run("taint node hollow-0 fire=yes:NoExecute").await;
    tour.until::<Node>("hollow-0", |node| node["spec"]["taints"][0]["key"] == "fire").await;
    // That it is counted is seen by a pod that has no time at all.
    tour.kubectl
        .apply(&{
            let mut bound = pod("hasty", json!([]));
            bound["spec"]["nodeName"] = "hollow-0".into();
            bound
        })
        .await;
    tour.run("wait --for=delete pod/hasty --timeout=60s").await;
    tour.run("taint node hollow-0 fire-").await;
    tour.until_all::<k8s_openapi::api::core::v1::Event>("", |events| {
        events.iter().any(|event| {
            event["involvedObject"]["name"] == "calm"
                && event["message"] == "Cancelling deletion of Pod default/calm"
        })
    })
    .await;
    assert!(is_ready(&tour.get::<Pod>("calm").await.unwrap()));
}
