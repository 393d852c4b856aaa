//! Deployments: roll out, look back, go back, stop half-way, grow, and get stuck.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use crate::bed::{Tour, image, is_going, is_ready, name, template, workload};

fn revision(deployment: &serde_json::Value) -> &str {
    let annotations = &deployment["metadata"]["annotations"];
    annotations["deployment.kubernetes.io/revision"].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_is_rolled_out_looked_back_on_and_taken_back() {
    let tour = Tour::with_nodes(2).await;
    tour.run("create deployment web --image=web:1 --replicas=3").await;
    let said = tour.run("rollout status deployment/web --timeout=60s").await;
    assert!(said.contains("successfully rolled out"), "{said}");
    // As the defaults say: a quarter may be missing, a quarter may be too many.
    let witness = tour
        .witness(|pods| {
            let ready = pods.iter().filter(|pod| is_ready(pod)).count();
            let there = pods.iter().filter(|pod| !is_going(pod)).count();
            (ready < 3 || there > 4).then(|| format!("{ready} of {there} pods were ready"))
        })
        .await;
    tour.run("set image deployment/web web=web:2").await;
    tour.run("annotate deployment/web kubernetes.io/change-cause=the-second").await;
    tour.run("rollout status deployment/web --timeout=60s").await;
    witness.end();
    let pods = tour.until_ready("app=web", 3).await;
    assert!(pods.iter().all(|pod| image(pod) == "web:2"), "{pods:?}");

    let history = tour.run("rollout history deployment/web").await;
    assert!(history.contains("the-second"), "{history}");
    let first = tour.run("rollout history deployment/web --revision=1").await;
    assert!(first.contains("web:1"), "{first}");
    tour.run("rollout undo deployment/web").await;
    tour.run("rollout status deployment/web --timeout=60s").await;
    let pods = tour.until_ready("app=web", 3).await;
    assert!(pods.iter().all(|pod| image(pod) == "web:1"), "{pods:?}");
    let deployment = tour.get::<Deployment>("web").await.unwrap();
    assert_eq!(revision(&deployment), "3");
    tour.run("rollout undo deployment/web --to-revision=2").await;
    tour.run("rollout status deployment/web --timeout=60s").await;
    assert_eq!(tour.list::<ReplicaSet>("app=web").await.len(), 2, "sets are used again");

    let described = tour.run("describe deployment/web").await;
    for part in ["NewReplicaSetAvailable", "ScalingReplicaSet", "web:2", "3 desired"] {
        assert!(described.contains(part), "{part} is missing in\n{described}");
    }
    let metrics = tour.run("get --raw /metrics").await;
    for line in [
        "workqueue_adds_total{name=\"deployment-controller\"}",
        "workqueue_longest_running_processor_seconds{name=\"replicaset-controller\"}",
        "scheduler_schedule_attempts_total{profile=\"default-scheduler\",result=\"scheduled\"}",
        "scheduler_cache_size{type=\"nodes\"} 2",
        "scheduler_pending_pods{queue=\"active\"} 0",
    ] {
        assert!(metrics.contains(line), "{line} is missing in\n{metrics}");
    }
    tour.run("delete deployment web").await;
    tour.until_all::<Pod>("app=web", <[_]>::is_empty).await;
    tour.until_all::<ReplicaSet>("app=web", <[_]>::is_empty).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_is_paused_waits_and_one_that_is_scaled_or_restarted_does_so() {
    let tour = Tour::with_nodes(2).await;
    tour.run("create deployment web --image=web:1 --replicas=2").await;
    tour.run("rollout status deployment/web --timeout=60s").await;
    tour.run("rollout pause deployment/web").await;
    tour.run("set image deployment/web web=web:2").await;
    tour.run("scale deployment/web --replicas=4").await;
    // A paused one is scaled, with the pods it has.
    let pods = tour.until_ready("app=web", 4).await;
    assert!(pods.iter().all(|pod| image(pod) == "web:1"), "{pods:?}");
    assert_eq!(tour.list::<ReplicaSet>("app=web").await.len(), 1);
    tour.run("rollout resume deployment/web").await;
    tour.run("rollout status deployment/web --timeout=60s").await;
    let pods = tour.until_ready("app=web", 4).await;
    assert!(pods.iter().all(|pod| image(pod) == "web:2"), "{pods:?}");

    let before: Vec<String> = pods.iter().map(|pod| name(pod).to_owned()).collect();
    tour.run("rollout restart deployment/web").await;
    tour.run("rollout status deployment/web --timeout=60s").await;
    let pods = tour.until_ready("app=web", 4).await;
    assert!(pods.iter().all(|pod| !before.iter().any(|old| old == name(pod))), "all are new");

    tour.run("autoscale deployment/web --min=2 --max=5 --cpu-percent=50").await;
    assert!(tour.run("get hpa web").await.contains("Deployment/web"));
    let events = tour.run("get events --field-selector=reason=ScalingReplicaSet").await;
    assert!(events.contains("Scaled up replica set"), "{events}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_that_gets_stuck_says_so_keeps_the_old_pods_and_is_undone() {
    let tour = Tour::with_nodes(2).await;
    let spec = json!({"replicas": 3, "progressDeadlineSeconds": 2, "strategy": {
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}});
    let good = workload("Deployment", "web", &template("web", "web:1", json!({})), spec.clone());
    tour.kubectl.apply(&good).await;
    tour.run("rollout status deployment/web --timeout=60s").await;
    let bad = template("web", "web:2", json!({"does": "unready"}));
    tour.kubectl.apply(&workload("Deployment", "web", &bad, spec)).await;
    let said = tour.kubectl.try_run("rollout status deployment/web --timeout=60s").await;
    let said = said.unwrap_err();
    assert!(said.contains("exceeded its progress deadline"), "{said}");
    let pods = tour.list::<Pod>("app=web").await;
    let old = pods.iter().filter(|pod| image(pod) == "web:1" && is_ready(pod)).count();
    assert_eq!((old, pods.len()), (3, 4), "nothing old was given up");
    tour.run("rollout undo deployment/web").await;
    tour.run("rollout status deployment/web --timeout=60s").await;
    let pods = tour.until_ready("app=web", 3).await;
    assert!(pods.iter().all(|pod| image(pod) == "web:1"), "{pods:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn old_sets_go_what_never_ran_is_skipped_and_a_new_size_is_shared_in_proportion() {
    let tour = Tour::with_nodes(2).await;
    let spec = |more: serde_json::Value| {
        let mut spec = json!({"replicas": 10, "revisionHistoryLimit": 0, "strategy": {
            "rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}}});
        crate::bed::merge(&mut spec, more);
        spec
    };
    let apply = async |version: &str, orders: serde_json::Value, more: serde_json::Value| {
        let template = template("web", version, orders);
        tour.kubectl.apply(&workload("Deployment", "web", &template, spec(more))).await;
    };
    apply("web:1", json!({}), json!({})).await;
    tour.until_ready("app=web", 10).await;
    let sizes = |sets: &[serde_json::Value], version: &str| {
        let of = |set: &&serde_json::Value| image(&set["spec"]["template"]) == version;
        sets.iter().find(of).and_then(|set| set["spec"]["replicas"].as_i64())
    };
    // Eight of the old stay, five of the new are there and never ready.
    apply("web:2", json!({"does": "unready"}), json!({})).await;
    tour.until_all::<ReplicaSet>("app=web", |sets| {
        sizes(sets, "web:1") == Some(8) && sizes(sets, "web:2") == Some(5)
    })
    .await;
    tour.run("scale deployment web --replicas=30").await;
    tour.until_all::<ReplicaSet>("app=web", |sets| {
        sizes(sets, "web:1") == Some(20) && sizes(sets, "web:2") == Some(13)
    })
    .await;
    // Another version takes the place of one that never ran.
    apply("web:3", json!({}), json!({"replicas": 6})).await;
    tour.run("rollout status deployment/web --timeout=60s").await;
    let pods = tour.until_ready("app=web", 6).await;
    assert!(pods.iter().all(|pod| image(pod) == "web:3"), "{pods:?}");
    tour.until_all::<ReplicaSet>("app=web", |sets| {
        sets.len() == 1 && sizes(sets, "web:3") == Some(6)
    })
    .await;
}
