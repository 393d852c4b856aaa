//! ReplicationControllers and ReplicaSets: whom they take in and let go, how they grow, and what stops them.

use k8s_openapi::ListableResource;
use k8s_openapi::api::apps::v1::{DaemonSet, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kontiki_api::client::{PatchKind, Typed};
use kontiki_api::request::Verb;
use serde_json::{Value, json};

use crate::bed::{NAMESPACE, Tour, is_true, name, template, workload};

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

#[tokio::test(flavor = "multi_thread")]
async fn a_job_takes_back_a_pod_that_lost_its_owner_and_lets_go_of_one_that_lost_its_labels() {
    let tour = Tour::with_nodes(1).await;
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "sum"},
        "spec": {"parallelism": 2, "completions": 2, "template": {
            "metadata": {"labels": {"part": "sum"}},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i:1"}]}}}});
    tour.kubectl.apply(&job).await;
    let pods = tour.until_ready("part=sum", 2).await;
    let (orphan, released) = (name(&pods[0]), name(&pods[1]));
    let nobodys = json!({"metadata": {"ownerReferences": null}});
    tour.run(&format!("patch pod {orphan} --type=merge -p {nobodys}")).await;
    tour.until::<Pod>(orphan, |pod| owner(pod) == "sum").await;
    let labels: serde_json::Map<String, Value> = pods[1]["metadata"]["labels"]
        .as_object()
        .unwrap()
        .keys()
        .map(|key| (key.clone(), Value::Null))
        .collect();
    let bare = json!({"metadata": {"labels": labels}});
    tour.run(&format!("patch pod {released} --type=merge -p {bare}")).await;
    tour.until::<Pod>(released, |pod| owner(pod).is_empty()).await;
    let pods = tour.until_ready("part=sum", 2).await;
    assert!(pods.iter().all(|pod| name(pod) != released), "it is replaced");
    tour.run("delete job sum").await;
    tour.until_gone::<Job>("sum").await;
}

/// Lists those with a label over all namespaces, and deletes them by one call.
async fn delete_all<K: Typed + ListableResource>(tour: &Tour, count: usize) {
    let labels = "collect=yes";
    assert_eq!(tour.list::<K>(labels).await.len(), count, "{}", K::KIND);
    let mut request = tour.client.request::<K>(Verb::List, "", "");
    request.options.label_selector = Some(labels.into());
    let everywhere: Value =
        serde_json::from_slice(&tour.client.call(request).await.unwrap()).unwrap();
    assert_eq!(everywhere["items"].as_array().unwrap().len(), count, "{}", K::KIND);
    let mut request = tour.client.request::<K>(Verb::DeleteCollection, NAMESPACE, "");
    request.options.label_selector = Some(labels.into());
    tour.client.call(request).await.unwrap();
    tour.until_all::<K>(labels, <[_]>::is_empty).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn collections_of_workloads_and_budgets_are_listed_and_deleted_by_their_labels() {
    let tour = Tour::with_nodes(1).await;
    for kind in ["ReplicaSet", "StatefulSet", "DaemonSet"] {
        for number in 0..2 {
            let app = format!("{}-{number}", kind.to_lowercase());
            let pods = template(&app, "i:1", json!({}));
            let mut object = workload(kind, &app, &pods, json!({}));
            if kind == "StatefulSet" {
                object["spec"]["serviceName"] = "none".into();
            }
            object["metadata"]["labels"] = json!({"collect": "yes"});
            tour.kubectl.apply(&object).await;
        }
    }
    for budget in ["a", "b"] {
        tour.run(&format!(
            "create poddisruptionbudget {budget} --selector=app=x --min-available=1"
        ))
        .await;
        tour.run(&format!("label poddisruptionbudget {budget} collect=yes")).await;
    }
    delete_all::<ReplicaSet>(&tour, 2).await;
    delete_all::<StatefulSet>(&tour, 2).await;
    delete_all::<DaemonSet>(&tour, 2).await;
    delete_all::<PodDisruptionBudget>(&tour, 2).await;
    tour.until_all::<Pod>("", <[_]>::is_empty).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sets_are_replaced_and_patched_and_a_status_is_patched_by_hand() {
    let tour = Tour::with_nodes(1).await;
    let mut set =
        workload("ReplicaSet", "set", &template("set", "i:1", json!({})), json!({"replicas": 1}));
    tour.kubectl.apply(&set).await;
    tour.until_ready("app=set", 1).await;
    set["spec"]["replicas"] = 3.into();
    tour.kubectl.feed("replace -f -", &set.to_string()).await.unwrap();
    tour.until_ready("app=set", 3).await;
    let patch = json!({"metadata": {"labels": {"patched": "yes"}},
        "spec": {"replicas": 2, "template": {"spec": {"terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": "i:2"}]}}}});
    tour.run(&format!("patch replicaset set --type=strategic -p {patch}")).await;
    let patched = tour.until::<ReplicaSet>("set", |it| it["status"]["replicas"] == 2).await;
    assert_eq!(patched["metadata"]["labels"]["patched"], "yes");
    assert_eq!(patched["spec"]["template"]["spec"]["containers"][0]["image"], "i:2");

    let controller = json!({"apiVersion": "v1", "kind": "ReplicationController",
        "metadata": {"name": "old", "labels": {"own": "yes"}}, "spec": {"replicas": 1,
            "selector": {"app": "old"}, "template": template("old", "i:1", json!({}))}});
    tour.kubectl.apply(&controller).await;
    tour.until_ready("app=old", 1).await;
    let patch = json!({"status": {"readyReplicas": 0, "availableReplicas": 0}});
    let (kind, status) = (PatchKind::Merge, Some("status"));
    let said = tour.client.patch::<ReplicationController>(NAMESPACE, "old", kind, &patch, status);
    let said = json!(said.await.unwrap());
    assert!(said["status"]["readyReplicas"].as_i64().unwrap_or(0) == 0, "{said}");
    // What is reckoned comes back, whatever was written there.
    tour.until::<ReplicationController>("old", |it| it["status"]["readyReplicas"] == 1).await;
    assert_eq!(tour.list::<ReplicationController>("own=yes").await.len(), 1);
    tour.run("scale replicationcontroller old --replicas=2").await;
    tour.until::<ReplicationController>("old", |it| it["status"]["availableReplicas"] == 2).await;
    tour.run("delete replicationcontroller -l own=yes").await;
    tour.until_gone::<ReplicationController>("old").await;
}
