//! The API in one process and controllers in two others, of which one works.

use std::path::Path;
use std::process::Stdio;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::coordination::v1::Lease;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::Child;

use crate::bed::Tour;
use crate::support::{Cluster, Master, command, text, wait_for};

const LEASE: &str = "kube-system/kube-controller-manager";

/// A port that nobody has just now.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// What a process tells at its port, by whoever has this token.
async fn page(port: u16, path: &str, token: &str) -> String {
    let url = format!("https://127.0.0.1:{port}{path}");
    let bearer = format!("Authorization: Bearer {token}");
    let curl = ["--silent", "--insecure", "--header", &bearer, &url];
    let output = tokio::process::Command::new("curl").args(curl).output().await.unwrap();
    text(&output.stdout)
}

fn controllers(root: &Path, kubeconfig: &Path, name: &str, port: u16) -> Child {
    let log = std::fs::File::create(root.join(format!("{name}.log"))).unwrap();
    let kubeconfig = kubeconfig.to_str().unwrap();
    let arguments = ["start", "master", "controllers", "--kubeconfig", kubeconfig, "--name", name];
    let address = format!("127.0.0.1:{port}");
    let port = ["--metrics-bind-address", &address];
    command(arguments.into_iter().chain(port)).stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// Which of the processes holds the lease.
async fn holder(tour: &Tour, of: &[&str]) -> String {
    wait_for("a holder", || async {
        let lease = tour.get::<Lease>(LEASE).await?;
        let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
        let name = holder.split('_').next().unwrap_or_default().to_owned();
        if of.contains(&&*name) { Ok(name) } else { Err(lease.to_string()) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn controllers_work_in_processes_of_their_own_and_one_takes_over_from_another_that_is_killed()
{
    let root: TempDir = tempfile::tempdir().unwrap();
    let mut api = Master::new(root.path(), "api").with(["api"]);
    api.start_ready().await;
    let kubeconfig = api.directory.join("kubeconfig");
    let folder = root.path().to_owned();
    let ports = [free_port(), free_port()];
    let mut first = controllers(&folder, &kubeconfig, "c1", ports[0]);
    let mut second = controllers(&folder, &kubeconfig, "c2", ports[1]);
    let tour = Tour::on(Cluster { root, masters: vec![api] }, 2).await;
    // The API itself runs no loops.
    let metrics = tour.run("get --raw /metrics").await;
    assert!(metrics.contains("apiserver_request_total"), "{metrics}");
    assert!(!metrics.contains("workqueue_"), "{metrics}");

    tour.run("create deployment one --image=i:1 --replicas=3").await;
    tour.run("rollout status deployment/one --timeout=60s").await;
    let holding = holder(&tour, &["c1", "c2"]).await;
    let at = usize::from(holding == "c2");
    let (works, waits) = (ports[at], ports[1 - at]);
    assert_eq!(page(works, "/healthz", "").await, "ok");
    assert_eq!(page(waits, "/healthz", "").await, "ok");
    tour.run("create clusterrole metrics --verb=get --non-resource-url=/metrics").await;
    let binding = "create clusterrolebinding metrics --clusterrole=metrics --serviceaccount=";
    tour.run(&format!("{binding}default:default")).await;
    let token = tour.run("create token default").await;
    let told = wait_for("metrics", || async {
        let told = page(works, "/metrics", token.trim()).await;
        if told.contains("# EOF") { Ok(told) } else { Err(told) }
    })
    .await;
    for line in [
        "workqueue_adds_total{name=\"replicaset-controller\"}",
        "scheduler_schedule_attempts_total{profile=\"default-scheduler\",result=\"scheduled\"} 3",
        "rest_client_requests_total{code=\"201\",method=\"POST\"",
        "leader_election_master_status{name=\"kube-controller-manager\"} 1",
    ] {
        assert!(told.contains(line), "{line} is missing in\n{told}");
    }
    assert_eq!(page(works, "/metrics", "").await, "", "not for everybody");
    let told = page(waits, "/metrics", token.trim()).await;
    let line = "leader_election_master_status{name=\"kube-controller-manager\"} 0";
    assert!(told.contains(line), "{told}");
    let (killed, mut left, other) =
        if holding == "c1" { (&mut first, second, "c2") } else { (&mut second, first, "c1") };
    signal(killed, Signal::KILL);
    killed.wait().await.unwrap();
    tour.run("create deployment two --image=i:1 --replicas=3").await;
    holder(&tour, &[other]).await;
    tour.run("rollout status deployment/two --timeout=60s").await;
    assert_eq!(tour.list::<ReplicaSet>("").await.len(), 2);

    // One that is asked to end gives the lease up and is gone.
    signal(&left, Signal::TERM);
    assert_eq!(left.wait().await.unwrap().code(), Some(0));
    tour.until::<Lease>(LEASE, |lease| lease["spec"]["holderIdentity"] == "").await;
}
