//! DaemonSets: a pod on every node it belongs on, and another image on all of them.

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use crate::bed::{Tour, image, is_ready, node, template, workload};

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_set_follows_the_nodes_and_is_rolled_over_and_back() {
    let tour = Tour::with_nodes(3).await;
    let mut pods = template("logs", "logs:1", json!({}));
    pods["spec"]["nodeSelector"] = json!({"disk": "ssd"});
    tour.kubectl.apply(&workload("DaemonSet", "logs", &pods, json!({}))).await;
    let said = tour.run("get daemonset logs").await;
    assert!(said.contains("disk=ssd"), "{said}");
    tour.run("label node hollow-0 hollow-1 disk=ssd").await;
    let pods = tour.until_ready("app=logs", 2).await;
    let mut nodes: Vec<&str> = pods.iter().map(node).collect();
    nodes.sort_unstable();
    assert_eq!(nodes, ["hollow-0", "hollow-1"]);
    tour.run("label node hollow-2 disk=ssd").await;
    tour.run("label node hollow-0 disk-").await;
    tour.until_all::<Pod>("app=logs", |pods| {
        let mut nodes: Vec<&str> = pods.iter().map(node).collect();
        nodes.sort_unstable();
        nodes == ["hollow-1", "hollow-2"] && pods.iter().all(is_ready)
    })
    .await;
    // It runs where nobody else is let.
    tour.run("cordon hollow-0").await;
    tour.run("label node hollow-0 disk=ssd").await;
    tour.until_ready("app=logs", 3).await;

    tour.run("set image daemonset/logs c=logs:2").await;
    tour.run("rollout status daemonset/logs --timeout=60s").await;
    let pods = tour.until_ready("app=logs", 3).await;
    assert!(pods.iter().all(|pod| image(pod) == "logs:2"), "{pods:?}");
    tour.run("rollout undo daemonset/logs").await;
    tour.run("rollout status daemonset/logs --timeout=60s").await;
    let pods = tour.until_ready("app=logs", 3).await;
    assert!(pods.iter().all(|pod| image(pod) == "logs:1"), "{pods:?}");
    let history = tour.run("rollout history daemonset/logs").await;
    assert!(history.lines().count() >= 4, "{history}");
}
