//! Quotas, and budgets of disruption.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, ResourceQuota};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use serde_json::{Value, json};

use crate::bed::{Tour, is_ready, node, template};

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_stops_pods_says_so_once_and_lets_them_in_when_it_is_raised() {
    let tour = Tour::with_nodes(1).await;
    tour.run("create quota q --hard=pods=2,count/configmaps=5").await;
    tour.until::<ResourceQuota>("q", |it| it["status"]["used"]["pods"] == "0").await;
    tour.run("create deployment web --image=web:1 --replicas=3").await;
    tour.until_ready("app=web", 2).await;
    tour.until::<ResourceQuota>("q", |it| it["status"]["used"]["pods"] == "2").await;
    let sets = tour
        .until_all::<ReplicaSet>("app=web", |sets| {
            sets.iter().any(|set| set.to_string().contains("exceeded quota"))
        })
        .await;
    assert_eq!(sets.len(), 1);
    let described = tour.run("describe replicaset").await;
    assert!(described.contains("FailedCreate"), "{described}");
    let said = tour.run("get events --field-selector=reason=FailedCreate -o name").await;
    // What is much alike is one event that counts, after the first ten.
    assert!(said.lines().count() <= 12, "a storm of events:\n{said}");
    tour.run("patch quota q -p {\"spec\":{\"hard\":{\"pods\":\"3\"}}}").await;
    tour.until_ready("app=web", 3).await;
    tour.run("scale deployment web --replicas=0").await;
    tour.until::<ResourceQuota>("q", |it| it["status"]["used"]["pods"] == "0").await;
    let shown = tour.run("describe quota q").await;
    assert!(shown.contains("pods"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_counts_what_comes_and_goes() {
    let tour = Tour::with_nodes(1).await;
    let hard =
        "services=5,secrets=5,configmaps=9,replicationcontrollers=5,count/replicasets.apps=5";
    tour.run(&format!("create quota q --hard={hard}")).await;
    let used = |name: &'static str, count: &'static str| {
        move |quota: &serde_json::Value| quota["status"]["used"][name] == count
    };
    tour.until::<ResourceQuota>("q", used("services", "0")).await;
    tour.run("create service clusterip s --tcp=80").await;
    tour.run("create secret generic s --from-literal=a=b").await;
    tour.run("create deployment d --image=i:1 --replicas=0").await;
    tour.until::<ResourceQuota>("q", used("services", "1")).await;
    tour.until::<ResourceQuota>("q", used("secrets", "1")).await;
    tour.until::<ResourceQuota>("q", used("count/replicasets.apps", "1")).await;
    tour.run("delete service/s secret/s deployment/d").await;
    tour.until::<ResourceQuota>("q", used("services", "0")).await;
    tour.until::<ResourceQuota>("q", used("secrets", "0")).await;
    tour.until::<ResourceQuota>("q", used("count/replicasets.apps", "0")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_keeps_to_the_budget_and_is_held_up_by_one_that_allows_nothing() {
    let tour = Tour::with_nodes(3).await;
    tour.run("create deployment web --image=web:1 --replicas=4").await;
    tour.run("rollout status deployment/web --timeout=60s").await;
    tour.run("create poddisruptionbudget web --selector=app=web --min-available=3").await;
    tour.until::<PodDisruptionBudget>("web", |it| it["status"]["disruptionsAllowed"] == 1).await;
    let witness = tour
        .witness(|pods| {
            let ready = pods.iter().filter(|pod| is_ready(pod)).count();
            (ready < 3).then(|| format!("{ready} were ready"))
        })
        .await;
    let pods = tour.until_ready("app=web", 4).await;
    let drained = node(&pods[0]).to_owned();
    let said = tour.run(&format!("drain {drained} --ignore-daemonsets --timeout=60s")).await;
    assert!(said.contains("evicting pod") || said.contains("drained"), "{said}");
    let pods = tour.until_ready("app=web", 4).await;
    assert!(pods.iter().all(|pod| node(pod) != drained), "{pods:?}");
    witness.end();
    tour.run(&format!("uncordon {drained}")).await;

    tour.run("delete pdb web").await;
    tour.run("create poddisruptionbudget web --selector=app=web --max-unavailable=0").await;
    tour.until::<PodDisruptionBudget>("web", |it| it["status"]["disruptionsAllowed"] == 0).await;
    let held = node(&pods[0]).to_owned();
    let said = tour.kubectl.try_run(&format!("drain {held} --timeout=2s")).await.unwrap_err();
    assert!(said.contains("would violate the pod's disruption budget"), "{said}");
    assert_eq!(tour.until_ready("app=web", 4).await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_full_at_its_edge_and_scopes_say_which_pods_it_counts() {
    let tour = Tour::with_nodes(1).await;
    let used = |name: &'static str, count: &'static str| {
        move |quota: &Value| quota["status"]["used"][name] == count
    };
    tour.run("create quota edge --hard=replicationcontrollers=1").await;
    tour.until::<ResourceQuota>("edge", used("replicationcontrollers", "0")).await;
    let controller = |name: &str| {
        json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": name},
            "spec": {"replicas": 0, "selector": {"app": name},
                "template": template(name, "i:1", json!({}))}})
    };
    tour.kubectl.apply(&controller("one")).await;
    tour.until::<ResourceQuota>("edge", used("replicationcontrollers", "1")).await;
    let said = tour.kubectl.feed("create -f -", &controller("two").to_string()).await.unwrap_err();
    assert!(said.contains("exceeded quota: edge"), "{said}");
    tour.run("delete replicationcontroller one").await;
    tour.until::<ResourceQuota>("edge", used("replicationcontrollers", "0")).await;
    tour.kubectl.apply(&controller("two")).await;

    for (name, scope) in [
        ("best", "BestEffort"),
        ("paid", "NotBestEffort"),
        ("ending", "Terminating"),
        ("staying", "NotTerminating"),
    ] {
        tour.run(&format!("create quota {name} --hard=pods=5 --scopes={scope}")).await;
        tour.until::<ResourceQuota>(name, used("pods", "0")).await;
    }
    let pod = |name: &str, more: Value, resources: Value| {
        let mut pod = template(name, "i:1", json!({}));
        pod["apiVersion"] = "v1".into();
        pod["kind"] = "Pod".into();
        pod["metadata"]["name"] = name.into();
        pod["spec"]["containers"][0]["resources"] = resources;
        crate::bed::merge(&mut pod["spec"], more);
        pod
    };
    let asks = json!({"requests": {"cpu": "100m", "memory": "32Mi"}});
    tour.kubectl.apply(&pod("cheap", json!({}), json!({}))).await;
    tour.kubectl.apply(&pod("short", json!({"activeDeadlineSeconds": 3600}), asks)).await;
    let counts = async |expected: [&'static str; 4]| {
        for (name, count) in ["best", "paid", "ending", "staying"].into_iter().zip(expected) {
            tour.until::<ResourceQuota>(name, used("pods", count)).await;
        }
    };
    counts(["1", "1", "1", "1"]).await;
    tour.run("delete pod cheap").await;
    tour.until_gone::<Pod>("cheap").await;
    counts(["0", "1", "1", "0"]).await;
    tour.run("delete pod short").await;
    counts(["0", "0", "0", "0"]).await;
}
