//! What goes with its owner, what stays, and namespaces that go whole.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, ReplicationController};
use serde_json::json;

use crate::bed::{Tour, is_going, template};

#[tokio::test(flavor = "multi_thread")]
async fn deletes_cascade_as_they_are_asked_to() {
    let tour = Tour::with_nodes(1).await;
    tour.run("create deployment web --image=web:1 --replicas=2").await;
    tour.run("rollout status deployment/web --timeout=60s").await;
    tour.run("delete deployment web --cascade=orphan").await;
    let sets = tour
        .until_all::<ReplicaSet>("app=web", |sets| {
            sets.len() == 1 && sets[0]["metadata"]["ownerReferences"].is_null()
        })
        .await;
    assert_eq!(tour.until_ready("app=web", 2).await.len(), 2);
    // A new one of the same selector and template takes them in.
    tour.run("create deployment web --image=web:1 --replicas=2").await;
    tour.run("rollout status deployment/web --timeout=60s").await;
    let adopted = tour.list::<ReplicaSet>("app=web").await;
    assert_eq!(adopted.len(), 1);
    assert_eq!(adopted[0]["metadata"]["uid"], sets[0]["metadata"]["uid"]);
    assert_eq!(adopted[0]["metadata"]["ownerReferences"][0]["kind"], "Deployment");

    // In the foreground the owner goes last: kubectl waits until all are gone.
    tour.run(
        "patch deployment web -p {\"spec\":{\"template\":{\"metadata\":{\"annotations\":{\
              \"hollow.kontiki.io/ends-after\":\"300ms\"}}}}}",
    )
    .await;
    tour.run("rollout status deployment/web --timeout=60s").await;
    tour.run("delete deployment web --cascade=foreground --timeout=60s").await;
    assert!(tour.list::<Pod>("app=web").await.is_empty(), "they went before it");
    assert!(tour.list::<ReplicaSet>("app=web").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_goes_with_all_that_is_in_it_and_says_what_holds_it() {
    let tour = Tour::with_nodes(1).await;
    tour.run("create namespace shop").await;
    tour.until::<ConfigMap>("shop/kube-root-ca.crt", |_| true).await;
    tour.run("create deployment web --image=web:1 --replicas=2 -n shop").await;
    tour.run("create configmap held -n shop --from-literal=a=b").await;
    tour.run("expose deployment web --port=80 -n shop").await;
    tour.run("rollout status deployment/web -n shop --timeout=60s").await;
    let hold = json!({"metadata": {"finalizers": ["example.com/hold"]}});
    tour.run(&format!("patch configmap held -n shop --type=merge -p {hold}")).await;
    tour.run("delete namespace shop --wait=false").await;
    let held = tour
        .until::<Namespace>("shop", |it| {
            let conditions = it["status"]["conditions"].as_array().cloned().unwrap_or_default();
            conditions
                .iter()
                .any(|it| it["type"] == "NamespaceFinalizersRemaining" && it["status"] == "True")
        })
        .await;
    assert!(held.to_string().contains("example.com/hold in 1 resource instances"), "{held:#}");
    let refused = tour.kubectl.try_run("create configmap late -n shop").await.unwrap_err();
    assert!(refused.contains("being terminated"), "{refused}");
    assert!(is_going(&tour.get::<ConfigMap>("shop/held").await.unwrap()));
    let free = json!({"metadata": {"finalizers": null}});
    tour.run(&format!("patch configmap held -n shop --type=merge -p {free}")).await;
    tour.run("wait --for=delete namespace/shop --timeout=60s").await;
    assert!(tour.get::<Deployment>("shop/web").await.unwrap_err().contains("not found"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_loses_its_pods_before_all_else() {
    let tour = Tour::with_nodes(1).await;
    tour.run("create namespace shop").await;
    tour.until::<ConfigMap>("shop/kube-root-ca.crt", |_| true).await;
    tour.run("create configmap needed -n shop").await;
    tour.until::<k8s_openapi::api::core::v1::ServiceAccount>("shop/default", |_| true).await;
    tour.run("run web -n shop --image=web:1").await;
    tour.run("wait --for=condition=ready pod/web -n shop --timeout=60s").await;
    let hold = json!({"metadata": {"finalizers": ["example.com/hold"]}});
    tour.run(&format!("patch pod web -n shop --type=merge -p {hold}")).await;
    tour.run("delete namespace shop --wait=false").await;
    tour.until::<Pod>("shop/web", is_going).await;
    tour.until::<Namespace>("shop", |it| it.to_string().contains("NamespaceFinalizersRemaining"))
        .await;
    let needed = tour.get::<ConfigMap>("shop/needed").await.unwrap();
    assert!(!is_going(&needed), "a pod that ends may need it");
    let free = json!({"metadata": {"finalizers": null}});
    tour.run(&format!("patch pod web -n shop --type=merge -p {free}")).await;
    tour.run("wait --for=delete namespace/shop --timeout=60s").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replication_controller_leaves_its_pods_or_goes_after_them() {
    let tour = Tour::with_nodes(1).await;
    let controller = |name: &str| {
        json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": name},
            "spec": {"replicas": 2, "selector": {"app": name},
                "template": template(name, "i:1", json!({}))}})
    };
    tour.kubectl.apply(&controller("left")).await;
    let pods = tour.until_ready("app=left", 2).await;
    tour.run("delete replicationcontroller left --cascade=orphan").await;
    let orphans = |all: &[serde_json::Value]| {
        all.len() == 2 && all.iter().all(|pod| pod["metadata"]["ownerReferences"].is_null())
    };
    let left = tour.until_all::<Pod>("app=left", orphans).await;
    let uid = |pod: &serde_json::Value| pod["metadata"]["uid"].clone();
    assert!(left.iter().all(|pod| pods.iter().any(|it| uid(it) == uid(pod))), "the same pods");

    tour.kubectl.apply(&controller("last")).await;
    let pods = tour.until_ready("app=last", 2).await;
    let hold = json!({"metadata": {"finalizers": ["example.com/hold"]}});
    let held = pods[0]["metadata"]["name"].as_str().unwrap();
    tour.run(&format!("patch pod {held} --type=merge -p {hold}")).await;
    tour.run("delete replicationcontroller last --cascade=foreground --wait=false").await;
    tour.until_all::<Pod>("app=last", |pods| pods.len() == 1 && is_going(&pods[0])).await;
    let waits = tour.get::<ReplicationController>("last").await.unwrap();
    assert_eq!(waits["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    let free = json!({"metadata": {"finalizers": null}});
    tour.run(&format!("patch pod {held} --type=merge -p {free}")).await;
    tour.until_gone::<ReplicationController>("last").await;
    assert!(tour.list::<Pod>("app=last").await.is_empty(), "they went before it");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_certificate_comes_back_as_it_was_when_it_is_deleted_or_changed() {
    let tour = Tour::with_nodes(0).await;
    let root = "kube-root-ca.crt";
    let before = tour.until::<ConfigMap>(root, |_| true).await;
    tour.run(&format!("delete configmap {root}")).await;
    let uid = before["metadata"]["uid"].clone();
    let back = tour.until::<ConfigMap>(root, |it| it["metadata"]["uid"] != uid).await;
    assert_eq!(back["data"], before["data"]);
    let other = json!({"data": {"ca.crt": "nothing"}});
    tour.run(&format!("patch configmap {root} -p {other}")).await;
    tour.until::<ConfigMap>(root, |it| it["data"] == before["data"]).await;
}
