//! DaemonSets: a pod on every node it belongs on, and another image on all of them.

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::Pod;
use kontiki_api::client::PatchKind;
use serde_json::{Value, json};

use crate::bed::{NAMESPACE, Tour, image, is_ready, name, node, template, workload};

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

fn uids(pods: &[Value]) -> Vec<String> {
    pods.iter().map(|pod| pod["metadata"]["uid"].to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_pod_that_fails_or_is_deleted_comes_back_and_a_rollout_is_taken_back_half_way() {
    let tour = Tour::with_nodes(2).await;
    let good = template("logs", "logs:1", json!({}));
    tour.kubectl.apply(&workload("DaemonSet", "logs", &good, json!({}))).await;
    let pods = tour.until_ready("app=logs", 2).await;
    tour.run(&format!("delete pod {}", name(&pods[0]))).await;
    let pods = tour.until_ready("app=logs", 2).await;
    let failed = json!({"status": {"phase": "Failed"}});
    let (kind, status) = (PatchKind::Merge, Some("status"));
    let patched = tour.client.patch::<Pod>(NAMESPACE, name(&pods[0]), kind, &failed, status).await;
    patched.unwrap();
    tour.until_gone::<Pod>(name(&pods[0])).await;
    let before = uids(&tour.until_ready("app=logs", 2).await);

    let bad = template("logs", "logs:2", json!({"does": "unready"}));
    tour.kubectl.apply(&workload("DaemonSet", "logs", &bad, json!({}))).await;
    let half = |pods: &[Value]| {
        pods.len() == 2
            && pods.iter().any(|pod| image(pod) == "logs:2")
            && pods.iter().any(|pod| image(pod) == "logs:1" && is_ready(pod))
    };
    let pods = tour.until_all::<Pod>("app=logs", half).await;
    let kept: Vec<_> = uids(&pods).into_iter().filter(|uid| before.contains(uid)).collect();
    assert_eq!(kept.len(), 1, "one at a time");
    tour.run("rollout undo daemonset/logs").await;
    tour.until_all::<Pod>("app=logs", |pods| {
        pods.len() == 2 && pods.iter().all(|pod| image(pod) == "logs:1" && is_ready(pod))
    })
    .await;
    let after = uids(&tour.list::<Pod>("app=logs").await);
    assert!(after.contains(&kept[0]), "what was never rolled over is not restarted");

    // What stands behind the history can be read and marked; what is deleted is made again.
    let revisions = tour.list::<ControllerRevision>("app=logs").await;
    assert_eq!(revisions.len(), 2);
    let newest = |all: &[Value]| -> Value {
        all.iter().max_by_key(|it| it["revision"].as_i64()).cloned().unwrap_or_default()
    };
    let current = newest(&revisions);
    tour.run(&format!("label controllerrevision {} seen=yes", name(&current))).await;
    assert_eq!(tour.list::<ControllerRevision>("seen=yes").await.len(), 1);
    tour.run(&format!("delete controllerrevision {}", name(&current))).await;
    tour.run("annotate daemonset logs looked=at").await;
    tour.until_all::<ControllerRevision>("app=logs", |all| {
        all.iter().any(|it| it["data"] == current["data"] && it["metadata"] != current["metadata"])
    })
    .await;
    tour.run("delete daemonset logs").await;
    tour.until_gone::<DaemonSet>("logs").await;
    tour.until_all::<ControllerRevision>("app=logs", <[_]>::is_empty).await;
}
