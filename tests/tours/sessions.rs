//! What is known of nodes by the sessions of their agents, at whichever master one asks, while masters are
//! lost.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kontiki::kubeconfig::Access;
use kontiki_api::client::Client;
use serde_json::{Value, json};

use crate::bed::{Tour, is_ready, template, workload};
use crate::support::{Cluster, Master, wait_for};

const NODES: usize = 3;
const LEASES: &str = "kube-node-lease";

fn client(master: &Master) -> Client {
    Access::read(&master.directory.join("kubeconfig")).unwrap().client("tour").unwrap()
}

/// When each node's lease was renewed, and at which version it rests, as one master has it.
async fn renewals(client: &Client) -> Result<Vec<(String, String)>, String> {
    let mut all = Vec::new();
    for number in 0..NODES {
        let lease = client.get::<Lease>(LEASES, &format!("hollow-{number}")).await;
        let lease = json!(lease.map_err(|status| status.to_string())?);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        all.push((text(&lease["spec"]["renewTime"]), text(&lease["metadata"]["resourceVersion"])));
    }
    Ok(all)
}

/// Waits until all nodes were heard since, and nothing was written for it.
async fn until_renewed(client: &Client, before: &[(String, String)]) -> Vec<(String, String)> {
    wait_for("renewed leases", || async {
        let now = renewals(client).await?;
        let later = now.iter().zip(before).all(|((now, at), (before, was_at))| {
            assert_eq!(at, was_at, "a heartbeat was written");
            now > before
        });
        if later { Ok(now) } else { Err(format!("{now:?}")) }
    })
    .await
}

fn is_untouched(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let ready = conditions.iter().any(|it| it["type"] == "Ready" && it["status"] == "True");
    ready && node["spec"]["taints"].is_null()
}

fn uids(pods: &[Value]) -> Vec<String> {
    let mut all: Vec<String> = pods.iter().map(|pod| pod["metadata"]["uid"].to_string()).collect();
    all.sort();
    all
}

async fn deploy(tour: &Tour) -> Vec<String> {
    let four = json!({"replicas": 4});
    tour.kubectl
        .apply(&workload("Deployment", "web", &template("web", "i:0", json!({})), four))
        .await;
    uids(&tour.until_ready("app=web", 4).await)
}

async fn all_is_as_it_was(tour: &Tour, pods: &[String]) {
    for number in 0..NODES {
        let node = tour.get::<Node>(&format!("hollow-{number}")).await.unwrap();
        assert!(is_untouched(&node), "{node:#}");
    }
    let now = tour.list::<Pod>("app=web").await;
    assert_eq!(uids(&now), pods);
    assert!(now.iter().all(is_ready), "{now:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_master_knows_who_lives_and_a_lost_leader_is_nobodys_death() {
    let mut cluster = Cluster::of(3).await;
    for master in &mut cluster.masters {
        master.keep_ports();
    }
    let mut tour = Tour::on(cluster, NODES).await;
    let pods = deploy(&tour).await;
    for master in &tour.cluster.masters {
        let client = client(master);
        let before = renewals(&client).await.unwrap();
        until_renewed(&client, &before).await;
    }
    let leader = tour.cluster.leader().await;
    let survivor = client(&tour.cluster.masters[(leader + 1) % 3]);
    let before = renewals(&survivor).await.unwrap();
    tour.cluster.masters[leader].kill().await;
    // Twice, so that it is heard by a session that goes on.
    let now = until_renewed(&survivor, &before).await;
    until_renewed(&survivor, &now).await;
    all_is_as_it_was(&tour, &pods).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_masters_were_away_nodes_and_pods_are_as_before() {
    let mut cluster = Cluster::of_one().await;
    cluster.masters[0].keep_ports();
    let mut tour = Tour::on(cluster, NODES).await;
    let pods = deploy(&tour).await;
    let before = renewals(&client(&tour.cluster.masters[0])).await.unwrap();
    tour.cluster.masters[0].kill().await;
    tour.cluster.masters[0].start_ready().await;
    let client = client(&tour.cluster.masters[0]);
    let now = until_renewed(&client, &before).await;
    until_renewed(&client, &now).await;
    all_is_as_it_was(&tour, &pods).await;
}
