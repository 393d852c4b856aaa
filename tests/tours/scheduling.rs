//! Where pods go, and who has to make room.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::bed::{Tour, is_going, is_true, merge, name, node, template, workload};

fn pod(name: &str, more: Value) -> Value {
    let mut pod = template(name, "i:1", json!({}));
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    pod["metadata"]["name"] = name.into();
    merge(&mut pod["spec"], more);
    pod
}

fn asking(cpu: &str, more: Value) -> Value {
    let mut spec = json!({"containers": [{"name": "c", "image": "i:1",
        "resources": {"requests": {"cpu": cpu}}}]});
    merge(&mut spec, more);
    spec
}

async fn refused(tour: &Tour, name: &str, reason: &str) {
    tour.until::<Pod>(name, |pod| {
        !is_true(pod, "PodScheduled") && pod.to_string().contains(reason)
    })
    .await;
}

async fn placed(tour: &Tour, name: &str) -> Value {
    tour.run(&format!("wait --for=condition=ready pod/{name} --timeout=60s")).await;
    tour.get::<Pod>(name).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_go_where_labels_room_and_ports_let_them_and_are_told_why_not() {
    let tour = Tour::with_nodes(2).await;
    tour.kubectl.apply(&pod("picky", json!({"nodeSelector": {"disk": "ssd"}}))).await;
    let reason = "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.";
    refused(&tour, "picky", reason).await;
    tour.run("label node hollow-1 disk=ssd").await;
    assert_eq!(node(&placed(&tour, "picky").await), "hollow-1");

    // Each node has eight cores.
    let there = json!({"nodeSelector": {"disk": "ssd"}});
    tour.kubectl.apply(&pod("large", asking("7", there.clone()))).await;
    placed(&tour, "large").await;
    tour.kubectl.apply(&pod("larger", asking("2", there.clone()))).await;
    refused(&tour, "larger", "1 Insufficient cpu").await;
    tour.run("delete pod large").await;
    placed(&tour, "larger").await;

    let port = |address: &str, protocol: &str| {
        let mut spec = there.clone();
        merge(
            &mut spec,
            json!({"containers": [{"name": "c", "image": "i:1", "ports": [
            {"containerPort": 80, "hostPort": 8080, "hostIP": address, "protocol": protocol}]}]}),
        );
        spec
    };
    tour.kubectl.apply(&pod("everywhere", port("0.0.0.0", "TCP"))).await;
    placed(&tour, "everywhere").await;
    tour.kubectl.apply(&pod("datagrams", port("0.0.0.0", "UDP"))).await;
    placed(&tour, "datagrams").await;
    tour.kubectl.apply(&pod("here", port("198.18.0.1", "TCP"))).await;
    refused(&tour, "here", "didn't have free ports").await;

    // A class of runtimes says what pods cost beside what they ask for, and where they may be.
    let class = json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass",
        "metadata": {"name": "heavy"}, "handler": "heavy",
        "overhead": {"podFixed": {"cpu": "7500m"}},
        "scheduling": {"nodeSelector": {"disk": "ssd"}}});
    tour.kubectl.apply(&class).await;
    let class = json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass",
        "metadata": {"name": "light"}, "handler": "light"});
    tour.kubectl.apply(&class).await;
    tour.kubectl.apply(&pod("light", json!({"runtimeClassName": "light"}))).await;
    assert!(placed(&tour, "light").await["spec"]["overhead"].is_null());
    tour.kubectl.apply(&pod("heavy", asking("100m", json!({"runtimeClassName": "heavy"})))).await;
    let heavy = tour.get::<Pod>("heavy").await.unwrap();
    assert_eq!(heavy["spec"]["overhead"]["cpu"], "7500m");
    assert_eq!(heavy["spec"]["nodeSelector"]["disk"], "ssd");
    refused(&tour, "heavy", "1 Insufficient cpu").await;
    tour.run("delete pod larger").await;
    placed(&tour, "heavy").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_more_important_pod_takes_the_place_of_a_less_important_one() {
    let tour = Tour::with_nodes(1).await;
    for (name, value) in [("low", 1), ("high", 1000)] {
        let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
            "metadata": {"name": name}, "value": value});
        tour.kubectl.apply(&class).await;
    }
    let spec = |cpu: &str, class: &str| {
        asking(cpu, json!({"priorityClassName": class, "terminationGracePeriodSeconds": 1}))
    };
    let mut held = pod("victim", spec("6", "low"));
    // It shows what was said to it before it goes.
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    tour.kubectl.apply(&held).await;
    placed(&tour, "victim").await;
    tour.kubectl.apply(&pod("bystander", spec("1", "low"))).await;
    placed(&tour, "bystander").await;
    tour.kubectl.apply(&pod("mighty", spec("6", "high"))).await;
    let victim = tour.until::<Pod>("victim", is_going).await;
    assert!(is_true(&victim, "DisruptionTarget"), "{victim:#}");
    assert!(victim.to_string().contains("PreemptionByScheduler"), "{victim:#}");
    tour.run("patch pod victim --type=merge -p {\"metadata\":{\"finalizers\":null}}").await;
    let mighty = placed(&tour, "mighty").await;
    assert_eq!(node(&mighty), "hollow-0");
    assert!(
        is_true(&tour.get::<Pod>("bystander").await.unwrap(), "Ready"),
        "it was not in the way"
    );
    let events = tour.run("get events --field-selector=reason=Preempted").await;
    assert!(events.contains("victim"), "{events}");

    // Replicas of less importance wait, and come back when there is room.
    let mut low = template("low", "i:1", json!({}));
    merge(&mut low["spec"], spec("2", "low"));
    tour.kubectl.apply(&workload("ReplicaSet", "low", &low, json!({"replicas": 2}))).await;
    tour.until_all::<Pod>("app=low", |pods| pods.len() == 2).await;
    tour.run("delete pod mighty").await;
    tour.until_ready("app=low", 2).await;
    tour.kubectl
        .apply(&pod(
            "critical",
            asking(
                "5",
                json!({
        "priorityClassName": "system-node-critical"}),
            ),
        ))
        .await;
    placed(&tour, "critical").await;
    let pods = tour.until_all::<Pod>("app=low", |pods| pods.len() == 2).await;
    let waiting = pods.iter().filter(|pod| node(pod).is_empty()).map(name).count();
    assert!(waiting >= 1, "{pods:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_sets_of_four_importances_only_the_least_important_makes_room() {
    let tour = Tour::with_nodes(1).await;
    for value in 1..=4 {
        tour.run(&format!("create priorityclass p{value} --value={value}")).await;
    }
    let set = |importance: u32, cpu: &str, replicas: usize| {
        let app = format!("p{importance}");
        let mut pods = template(&app, "i:1", json!({}));
        let more = json!({"priorityClassName": app, "terminationGracePeriodSeconds": 1});
        merge(&mut pods["spec"], asking(cpu, more));
        workload("ReplicaSet", &app, &pods, json!({"replicas": replicas}))
    };
    // 1.6 and 1.6 and 3.04 of eight cores.
    for (importance, cpu, replicas) in [(1, "320m", 5), (2, "400m", 4), (3, "760m", 4)] {
        tour.kubectl.apply(&set(importance, cpu, replicas)).await;
        tour.until_ready(&format!("app=p{importance}"), replicas).await;
    }
    let uids = async |labels: &str| -> Vec<Value> {
        let pods = tour.list::<Pod>(labels).await;
        pods.iter().map(|pod| pod["metadata"]["uid"].clone()).collect()
    };
    let before = (uids("app=p2").await, uids("app=p3").await);
    tour.kubectl.apply(&set(4, "3200m", 1)).await;
    tour.until_ready("app=p4", 1).await;
    assert_eq!((uids("app=p2").await, uids("app=p3").await), before);
    tour.until_all::<Pod>("app=p1", |pods| {
        pods.len() == 5 && pods.iter().all(|pod| node(pod).is_empty())
    })
    .await;
}
