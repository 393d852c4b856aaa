//! ReplicationControllers and ReplicaSets: whom they take in and let go, how they grow, and what stops them.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use serde_json::{Value, json};

use crate::bed::{Tour, is_true, name, template, workload};

fn owner(pod: &Value) -> &str {
    pod["metadata"]["ownerReferences"][0]["name"].as_str().unwrap_or_default()
}

fn lone(name: &str, app: &str) -> Value {
    let mut pod = template(app, "i:1", json!({}));
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    pod["metadata"]["name"] = name.into();
    pod
}

/// Runs the same tour with either kind.
async fn adopts_and_releases(tour: &Tour, kind: &str, app: &str, object: Value) {
    let before = lone(&format!("{app}-before"), app);
    tour.kubectl.apply(&before).await;
    tour.kubectl.apply(&object).await;
    let labels = format!("app={app}");
    let pods = tour.until_ready(&labels, 2).await;
    assert!(pods.iter().any(|pod| name(pod) == name(&before)), "it is taken in");
    assert!(pods.iter().all(|pod| owner(pod) == app), "{pods:?}");
    tour.run(&format!("label pod {} app=nobody --overwrite", name(&before))).await;
    tour.until::<Pod>(name(&before), |pod| owner(pod).is_empty()).await;
    let pods = tour.until_ready(&labels, 2).await;
    assert!(pods.iter().all(|pod| name(pod) != name(&before)), "it is replaced");
    tour.run(&format!("scale {kind} {app} --replicas=4 --current-replicas=2")).await;
    tour.until_ready(&labels, 4).await;
    tour.run(&format!("scale {kind} {app} --replicas=1")).await;
    tour.until_ready(&labels, 1).await;
    assert!(
        tour.kubectl
            .try_run(&format!("scale {kind} {app} --replicas=2 --current-replicas=9"))
            .await
            .is_err()
    );
    let pods = tour.list::<Pod>(&labels).await;
    let patch = "{\"metadata\":{\"annotations\":{\"patched\":\"yes\"}}}";
    tour.run(&format!("patch pod {} -p {patch}", name(&pods[0]))).await;
    tour.until::<Pod>(name(&pods[0]), |pod| pod["metadata"]["annotations"]["patched"] == "yes")
        .await;
    tour.run(&format!("delete {kind} {app}")).await;
    tour.until_all::<Pod>(&labels, <[_]>::is_empty).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_match_are_taken_in_and_those_that_no_longer_do_are_let_go() {
    let tour = Tour::with_nodes(2).await;
    let set =
        workload("ReplicaSet", "set", &template("set", "i:1", json!({})), json!({"replicas": 2}));
    adopts_and_releases(&tour, "replicaset", "set", set).await;
    let controller = json!({"apiVersion": "v1", "kind": "ReplicationController",
        "metadata": {"name": "old"}, "spec": {"replicas": 2, "selector": {"app": "old"},
        "template": template("old", "i:1", json!({}))}});
    adopts_and_releases(&tour, "replicationcontroller", "old", controller).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_made_is_a_condition_that_goes_when_it_can() {
    let tour = Tour::with_nodes(1).await;
    tour.run("create quota two --hard=pods=2").await;
    let controller = json!({"apiVersion": "v1", "kind": "ReplicationController",
        "metadata": {"name": "old"}, "spec": {"replicas": 3, "selector": {"app": "old"},
        "template": template("old", "i:1", json!({}))}});
    tour.kubectl.apply(&controller).await;
    tour.until::<ReplicationController>("old", |it| is_true(it, "ReplicaFailure")).await;
    tour.run("scale replicationcontroller old --replicas=2").await;
    tour.until::<ReplicationController>("old", |it| !is_true(it, "ReplicaFailure")).await;
    tour.run("expose replicationcontroller old --port=80").await;
    assert!(tour.run("get service old -o yaml").await.contains("app: old"));
    tour.run("delete quota two").await;

    // Nobody may have pods that the selector does not choose, and two that choose the same do not fight.
    let wrong = workload("ReplicaSet", "wrong", &template("other", "i:1", json!({})), json!({}));
    let said = tour.kubectl.feed("apply -f -", &wrong.to_string()).await.unwrap_err();
    assert!(said.contains("`selector` does not match template `labels`"), "{said}");
    for set in ["a", "b"] {
        let mut same = workload(
            "ReplicaSet",
            set,
            &template("same", "i:1", json!({})),
            json!({"replicas": 2, "selector": {"matchLabels": {"app": "same"}}}),
        );
        same["metadata"]["name"] = set.into();
        tour.kubectl.apply(&same).await;
    }
    let pods = tour.until_ready("app=same", 4).await;
    assert_eq!(pods.iter().filter(|pod| owner(pod) == "a").count(), 2);
    tour.until::<ReplicaSet>("b", |set| set["status"]["readyReplicas"] == 2).await;
}
