//! Bad luck on a real containerd: memory that runs out, a container that forks without end, a runtime that is
//! killed.

use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kontiki_api::client::DeleteOptions;
use kontiki_api::sandbox::Sandbox;
use serde_json::{Value, json};

use super::real::{Agent, BUSYBOX, Ground, account, until, until_gone};
use super::{condition, object};
use crate::agent::cri::Runtime;

fn pod(name: &str, restart: &str, script: &str, memory: &str) -> Pod {
    object(json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "nodeName": "node", "hostNetwork": true, "restartPolicy": restart,
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "main", "image": BUSYBOX,
                "command": ["/bin/busybox", "sh", "-c", script],
                "resources": {"limits": {"memory": memory}},
            }],
        },
    }))
}

fn ended(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]["state"]["terminated"]
}

fn is_over(pod: &Value) -> bool {
    ended(pod).is_object() && pod["status"]["phase"] == "Failed"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_too_much_memory_or_forks_without_end_harms_nobody_else_and_is_told() {
    let ground = Ground::lay().await;
    let api = Sandbox::start().await;
    let client = api.client();
    account(&client).await;
    let agent = Agent::start(&ground, &api);
    // Doubles a variable until the memory is gone.
    let eats = "x=0123456789abcdef; while :; do x=$x$x; done";
    let forks = "while :; do /bin/busybox sleep 1000 & done";
    client.create(&pod("eats", "Never", eats, "16Mi")).await.unwrap();
    client.create(&pod("forks", "Never", forks, "256Mi")).await.unwrap();

    let eats = until(&client, "eats", is_over).await;
    assert_eq!(
        (&ended(&eats)["reason"], &ended(&eats)["exitCode"]),
        (&json!("OOMKilled"), &json!(137))
    );
    let forks = until(&client, "forks", is_over).await;
    assert_ne!(ended(&forks)["exitCode"], 0);
    let uid = forks["metadata"]["uid"].as_str().unwrap();
    let log = ground.path().join(format!("logs/default_forks_{uid}/main/0.log"));
    let said = std::fs::read_to_string(log).unwrap();
    assert!(said.contains("can't fork"), "{said}");
    for name in ["eats", "forks"] {
        client.delete::<Pod>("default", name, &DeleteOptions::default()).await.unwrap();
        until_gone(&client, name).await;
    }
    ground.is_empty().await;
    agent.end().await;
    ground.clear().await;
}

/// The containerd of a folder.
fn containerd_of(folder: &Path) -> Option<rustix::process::Pid> {
    let config = folder.join("containerd/config.toml").display().to_string();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let found = entries.into_iter().find(|entry| {
        let words = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        words.starts_with("containerd\0") && words.contains(&config)
    });
    rustix::process::Pid::from_raw(found?.file_name().to_str()?.parse().ok()?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runtime_that_is_killed_comes_back_and_containers_have_gone_on() {
    let ground = Ground::lay().await;
    let api = Sandbox::start().await;
    let client = api.client();
    account(&client).await;
    let agent = Agent::start(&ground, &api);
    let script = "while ! [ -e /tmp/end ]; do /bin/busybox sleep 0.1; done; exit 3";
    client.create(&pod("stays", "Always", script, "64Mi")).await.unwrap();
    let before = until(&client, "stays", |pod| condition(pod, "Ready") == "True").await;
    let id = |pod: &Value| pod["status"]["containerStatuses"][0]["containerID"].clone();

    let first = containerd_of(ground.path()).expect("it runs");
    rustix::process::kill_process(first, rustix::process::Signal::KILL).unwrap();
    let back = async {
        while containerd_of(ground.path()).is_none_or(|it| it == first)
            || ground.client.version().await.is_err()
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(super::real::PATIENCE, back).await.expect("it comes back");
    let after = until(&client, "stays", |pod| condition(pod, "Ready") == "True").await;
    assert_eq!(id(&after), id(&before));
    // What it does from now on is seen.
    let container = id(&before).as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    let end = ["/bin/busybox", "sh", "-c", "/bin/busybox mkdir -p /tmp && > /tmp/end"];
    ground.client.exec_sync(&container, &end.map(str::to_owned), 10).await.unwrap();
    let restarted =
        until(&client, "stays", |pod| pod["status"]["containerStatuses"][0]["restartCount"] == 1);
    let last = restarted.await["status"]["containerStatuses"][0]["lastState"].clone();
    assert_eq!(last["terminated"]["exitCode"], 3);
    client.delete::<Pod>("default", "stays", &DeleteOptions::default()).await.unwrap();
    until_gone(&client, "stays").await;
    agent.end().await;
    ground.clear().await;
}
