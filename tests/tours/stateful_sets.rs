//! StatefulSets: one after the other, up, over and down.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use serde_json::{Value, json};

use crate::bed::{Tour, image, is_going, is_ready, name, template, workload};

/// That no pod is there before all below it are ready, and none comes twice.
fn in_order(pods: &[Value]) -> Option<String> {
    let mut set: Vec<&Value> = pods.iter().filter(|pod| name(pod).starts_with("db-")).collect();
    set.sort_by_key(|pod| name(pod).to_owned());
    let twice = set.windows(2).any(|pair| name(pair[0]) == name(pair[1]));
    let fresh = set.last().filter(|pod| !is_ready(pod) && !is_going(pod))?;
    let below = set.iter().filter(|pod| name(pod) < name(fresh));
    let early = below.clone().any(|pod| !is_ready(pod) && !is_going(pod));
    (twice || early).then(|| format!("{} was early or twice", name(fresh)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stateful_set_goes_up_over_and_down_one_by_one() {
    let tour = Tour::with_nodes(2).await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "dbs"},
        "spec": {"clusterIP": "None", "selector": {"app": "db"}, "ports": [{"port": 5432}]}});
    tour.kubectl.apply(&service).await;
    let claims = json!([{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "storageClassName": "none", "resources": {"requests": {"storage": "1Gi"}}}}]);
    // Volumes are there before, so that pods can be given nodes.
    for number in 0..3 {
        let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume",
            "metadata": {"name": format!("v{number}")}, "spec": {"capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"], "storageClassName": "none",
            "hostPath": {"path": "/tmp"}}});
        tour.kubectl.apply(&volume).await;
    }
    let spec = json!({"replicas": 3, "serviceName": "dbs", "volumeClaimTemplates": claims});
    let orders = json!({"after": "100ms"});
    let witness = tour.witness(in_order).await;
    let set = |image: &str| {
        workload("StatefulSet", "db", &template("db", image, orders.clone()), spec.clone())
    };
    tour.kubectl.apply(&set("db:1")).await;
    tour.run("rollout status statefulset/db --timeout=60s").await;
    witness.end();
    let pods = tour.until_ready("app=db", 3).await;
    assert_eq!(pods.iter().map(name).collect::<Vec<_>>(), ["db-0", "db-1", "db-2"]);
    let claims = tour.list::<PersistentVolumeClaim>("").await;
    let names: Vec<&str> = claims.iter().map(name).collect();
    assert_eq!(names, ["data-db-0", "data-db-1", "data-db-2"]);

    // Over, the last one first, and no further than the partition.
    let partition = json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": 2}}}});
    tour.run(&format!("patch statefulset db -p {partition}")).await;
    tour.run("set image statefulset/db c=db:2").await;
    let over = |wanted: [&'static str; 3]| {
        move |pods: &[Value]| {
            pods.len() == 3
                && pods.iter().zip(wanted).all(|(pod, want)| image(pod) == want && is_ready(pod))
        }
    };
    tour.until_all::<Pod>("app=db", over(["db:1", "db:1", "db:2"])).await;
    let partition = json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": 0}}}});
    tour.run(&format!("patch statefulset db -p {partition}")).await;
    tour.until_all::<Pod>("app=db", over(["db:2"; 3])).await;
    tour.run("rollout status statefulset/db --timeout=60s").await;
    tour.run("rollout undo statefulset/db").await;
    tour.until_all::<Pod>("app=db", over(["db:1"; 3])).await;

    // Down, the last one first; claims stay.
    let witness = tour
        .witness(|pods| {
            let going: Vec<_> = pods.iter().filter(|pod| is_going(pod)).map(name).collect();
            (going.len() > 1).then(|| format!("{going:?} go at once"))
        })
        .await;
    tour.run("scale statefulset db --replicas=1").await;
    tour.until_all::<Pod>("app=db", |pods| pods.len() == 1 && name(&pods[0]) == "db-0").await;
    witness.end();
    assert_eq!(tour.list::<PersistentVolumeClaim>("").await.len(), 3);
    tour.until::<StatefulSet>("db", |set| set["status"]["availableReplicas"] == 1).await;
}
