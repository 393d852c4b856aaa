//! What workloads go through when the master that leads is killed, again and again.

use std::collections::HashSet;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use kontiki_api::client::PatchKind;
use serde_json::{Value, json};

use crate::bed::{NAMESPACE, Tour, image, is_going, is_ready, name, template, workload};
use crate::support::kubectl::Kubectl;
use crate::support::{Cluster, wait_for};

const REPLICAS: usize = 6;
const NODES: usize = 3;

/// How often the leader is killed.
fn kills() -> usize {
    std::env::var("KONTIKI_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(2)
}

/// Surge and unavailability of the rollout.
const SLACK: usize = 1 + 1;

/// Whatever happens, there is never more of anything than was asked for.
fn within_limits(pods: &[Value]) -> Option<String> {
    let of =
        |app: &'static str| pods.iter().filter(move |pod| pod["metadata"]["labels"]["app"] == app);
    let web: Vec<&Value> = of("web").filter(|pod| !is_going(pod)).collect();
    // A deployment counts what it asks of its sets, as upstream does: one more than there should be. Of
    // the old set it may have asked for as many fewer as it may surge and miss together, and the leader
    // has fallen before the set has let go of them.
    if web.len() > REPLICAS + 1 + SLACK {
        return Some(format!("{} pods of one deployment", web.len()));
    }
    let set = |pod: &Value| pod["metadata"]["labels"]["pod-template-hash"].clone();
    for pod in &web {
        let same = web.iter().filter(|it| set(it) == set(pod)).count();
        if same > REPLICAS {
            return Some(format!("{same} pods of one set"));
        }
    }
    let names: Vec<&str> = of("db").map(name).collect();
    let distinct: HashSet<&&str> = names.iter().collect();
    (distinct.len() != names.len() || names.len() > 3).then(|| format!("{names:?}"))
}

/// Writes to whoever is there, until it is written.
async fn set_image(tour: &Tour, image: &str) {
    let container = json!([{"name": "c", "image": image}]);
    let patch = json!({"spec": {"template": {"spec": {"containers": container}}}});
    wait_for("a write", || async {
        let kind = PatchKind::Strategic;
        let client = &tour.client;
        let web = client.patch::<Deployment>(NAMESPACE, "web", kind, &patch, None).await;
        let db = client.patch::<StatefulSet>(NAMESPACE, "db", kind, &patch, None).await;
        web.map(drop).and(db.map(drop)).map_err(|status| status.to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rollouts_and_drains_end_well_though_the_leader_is_killed_in_each() {
    let mut cluster = Cluster::of(3).await;
    for master in &mut cluster.masters {
        master.keep_ports();
    }
    let mut tour = Tour::on(cluster, NODES).await;
    let one = json!({"replicas": REPLICAS, "strategy": {
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}}});
    let orders = || json!({"after": "300ms"});
    tour.kubectl
        .apply(&workload("Deployment", "web", &template("web", "i:0", orders()), one))
        .await;
    let three = json!({"replicas": 3, "serviceName": "db"});
    tour.kubectl
        .apply(&workload("StatefulSet", "db", &template("db", "i:0", orders()), three))
        .await;
    tour.until_ready("app=web", REPLICAS).await;
    tour.until_ready("app=db", 3).await;
    let witness = tour.witness(within_limits).await;
    for round in 1..=kills() {
        let leader = tour.cluster.leader().await;
        let survivor = (leader + 1) % 3;
        let kubeconfig = tour.cluster.masters[survivor].directory.join("kubeconfig");
        let kubectl = Kubectl::new(&kubeconfig, tour.cluster.root.path());
        let wanted = format!("i:{round}");
        set_image(&tour, &wanted).await;
        let under_way = |pods: &[Value]| pods.iter().any(|pod| image(pod) == wanted);
        tour.until_all::<Pod>("app=web", under_way).await;
        tour.cluster.masters[leader].kill().await;
        let drained = format!("hollow-{}", round % NODES);
        let line = format!("drain {drained} --timeout=30s");
        wait_for("a drain", || kubectl.try_run(&line)).await;
        let over = |count: usize| {
            let wanted = &wanted;
            move |pods: &[Value]| {
                let mut new = pods.iter().filter(|pod| image(pod) == wanted);
                pods.len() == count
                    && new.all(is_ready)
                    && pods.iter().all(|pod| image(pod) == wanted)
            }
        };
        tour.until_all::<Pod>("app=web", over(REPLICAS)).await;
        tour.until_all::<Pod>("app=db", over(3)).await;
        let line = format!("uncordon {drained}");
        wait_for("an open node", || kubectl.try_run(&line)).await;
        tour.cluster.masters[leader].start_ready().await;
        tour.cluster.masters[leader].until_voters(3).await;
    }
    witness.end();
    // Nothing is left that nobody owns.
    let uid = |object: &Value| object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let mut owners: HashSet<String> = tour.list::<ReplicaSet>("").await.iter().map(uid).collect();
    owners.extend(tour.list::<StatefulSet>("").await.iter().map(uid));
    for pod in tour.list::<Pod>("").await {
        let owner = pod["metadata"]["ownerReferences"][0]["uid"].as_str().unwrap_or_default();
        assert!(owners.contains(owner), "{} is an orphan", name(&pod));
    }
    let web = tour.get::<Deployment>("web").await.unwrap();
    for set in tour.list::<ReplicaSet>("app=web").await {
        assert_eq!(set["metadata"]["ownerReferences"][0]["uid"], web["metadata"]["uid"]);
    }
}
