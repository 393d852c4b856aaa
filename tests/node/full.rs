//! A node whose disk is full: what runs goes on, what cannot begin says why, and begins when there is room.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::DEMO;
use super::kubectl::{Kubectl, PATIENCE, condition, is_ready};
use super::lab::Lab;

fn pod(name: &str) -> Value {
    let ready = json!({"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1});
    // Bound by hand, and at ease with a full disk: the scheduler would not send it there.
    super::pod(
        name,
        json!({
            "nodeName": "full", "terminationGracePeriodSeconds": 1,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "main", "image": DEMO, "readinessProbe": ready}],
        }),
    )
}

#[tokio::test]
async fn a_full_disk_stops_nothing_that_runs_and_says_why_other_things_do_not_begin() {
    let lab = Lab::with(2).await;
    let [first, second] = &lab.hosts[..] else { panic!("two machines") };
    let master_data = first.folder.join("master").display().to_string();
    let master = first.starts("master", &["master", "--data-dir", &master_data, "--name", "m"]);
    let kubectl = Kubectl {
        inside: first.inside(),
        kubeconfig: first.folder.join("master/kubeconfig"),
        logs: vec![master.log.clone()],
    };
    let until = Instant::now() + PATIENCE;
    while !kubectl.kubeconfig.exists()
        || !kubectl.run(&["get", "--raw", "/readyz"], "").await.status.success()
    {
        assert!(Instant::now() < until, "the master does not serve\n{}", kubectl.log());
        sleep(Duration::from_millis(100)).await;
    }
    let token =
        first.runs(&["token", "create", "--data-dir", &master_data, "--role", "node"]).await;

    // The node's directory is a small file system of its own.
    let data = second.folder.join("node").display().to_string();
    let does = async |words: &[&str]| {
        let done = second.does(words).await;
        assert!(done.status.success(), "{words:?}: {done:?}");
    };
    does(&["mkdir", &data]).await;
    does(&["mount", "-t", "tmpfs", "-o", "size=200M", "small", &data]).await;
    let join = format!("https://{}:6443", first.address);
    let arguments = ["node", "--data-dir", &data, "--name", "full", "--join", &join];
    let node = second.starts("node", &[&arguments[..], &["--token", &token]].concat());
    let kubectl = Kubectl { logs: vec![node.log.clone()], ..kubectl };
    kubectl.until(&["node", "full"], is_ready).await;
    kubectl.apply(&pod("stays")).await;
    let stays = kubectl.until(&["pod", "stays"], is_ready).await;

    let filler = format!("{data}/filler");
    let filled = second.does(&["dd", "if=/dev/zero", &format!("of={filler}"), "bs=64k"]).await;
    assert!(!filled.status.success(), "it is full: {filled:?}");
    let presses = |holds: &'static str| {
        move |node: &Value| condition(node, "DiskPressure") == holds && is_ready(node)
    };
    let full = kubectl.until(&["node", "full"], presses("True")).await;
    let taints = |node: &Value| {
        let taints = node["spec"]["taints"].as_array().into_iter().flatten();
        taints.into_iter().any(|it| it["key"] == "node.kubernetes.io/disk-pressure")
    };
    assert!(full["status"]["conditions"].is_array());
    kubectl.until(&["node", "full"], taints).await;

    kubectl.apply(&pod("late")).await;
    let said = |events: &Value| {
        let all = events["items"].as_array().into_iter().flatten();
        let mut of_it = all.filter(|it| it["involvedObject"]["name"] == "late");
        of_it.any(|it| {
            it["type"] == "Warning"
                && it["message"]
                    .as_str()
                    .is_some_and(|it| it.to_ascii_lowercase().contains("no space left on device"))
        })
    };
    kubectl.until(&["events"], said).await;
    let address = stays["status"]["podIP"].as_str().unwrap();
    let url = format!("http://{address}:8080/");
    let answer = second.does(&["curl", "--silent", "--fail", "--max-time", "10", &url]).await;
    assert!(answer.status.success(), "{answer:?}");
    assert!(String::from_utf8_lossy(&answer.stdout).contains("stays"), "{answer:?}");
    // Who is to make room can look around.
    let shell = kubectl.run(&["exec", "-i", "stays", "--", "demo", "cat"], "over and out").await;
    assert!(shell.status.success(), "{shell:?}");
    assert_eq!(String::from_utf8_lossy(&shell.stdout), "over and out");

    does(&["rm", &filler]).await;
    kubectl.until(&["node", "full"], presses("False")).await;
    kubectl.until(&["node", "full"], |node| !taints(node)).await;
    kubectl.until(&["pod", "late"], is_ready).await;
    let now = kubectl.json(&["pod", "stays"]).await;
    let container = |pod: &Value| pod["status"]["containerStatuses"][0].clone();
    assert_eq!(container(&now)["containerID"], container(&stays)["containerID"]);
    assert_eq!(container(&now)["restartCount"], 0, "it has run all the time");
    assert_eq!(node.stops().await, Some(0));
    assert_eq!(master.stops().await, Some(0));
}
