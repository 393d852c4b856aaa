//! A pod on a real containerd, by a real API server. Needs root, containerd, runc and busybox;
//! `.ci/setup` installs them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kontiki_api::client::{Client as ApiClient, DeleteOptions};
use kontiki_api::object::time::Clock;
use kontiki_api::sandbox::Sandbox;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{condition, object, settings};
use crate::agent::containerd::{Containerd, Places};
use crate::agent::cri::Runtime;
use crate::agent::cri::client::Client;
use crate::agent::images::archives;
use crate::agent::images::own::{Content, File, archive};
use crate::agent::{self, Settings, Way};
use crate::session::Door;

pub const BUSYBOX: &str = "kontiki.test/busybox:1";
/// Two cores shared with other tests, and a runtime that unpacks images.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A containerd with the image that the tests use.
pub struct Ground {
    pub client: Arc<Client>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), String>>,
    folder: tempfile::TempDir,
}

impl Ground {
    pub async fn lay() -> Ground {
        assert!(rustix::process::geteuid().is_root(), "this test runs containers: run it as root");
        // Short: a socket's path has a limit.
        let folder = tempfile::Builder::new().prefix("kt").tempdir_in("/var/tmp").unwrap();
        let places = Places::new(folder.path());
        let containerd = Containerd::start(places.clone()).await.unwrap();
        let client = Arc::new(Client::new(&containerd.endpoint()).unwrap());
        let busybox = std::fs::read("/bin/busybox").expect("busybox-static is installed");
        let file = File { path: "bin/busybox".into(), content: Content::Program(busybox.into()) };
        let tar = folder.path().join("busybox.tar");
        std::fs::write(&tar, archive(BUSYBOX, &[file], &json!({})).unwrap()).unwrap();
        archives::import(&places.socket(), &tar).await.unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(containerd.run(stop.clone()));
        Ground { client, stop, task, folder }
    }

    fn settings(&self) -> Settings {
        settings(self.folder.path())
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The object of a pod that had ended goes before what is left of it here.
    pub async fn is_empty(&self) {
        let empty = async {
            while !self.client.sandboxes(None).await.unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, empty).await.expect("nothing is left");
    }

    pub async fn clear(self) {
        assert!(self.client.sandboxes(None).await.unwrap().is_empty());
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
        let state = std::fs::read_link(self.folder.path().join("run/containerd")).unwrap();
        std::fs::remove_dir_all(state).unwrap();
    }
}

/// An agent that ends when this is dropped.
pub struct Agent {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), String>>,
}

impl Agent {
    pub fn start(ground: &Ground, api: &Sandbox) -> Agent {
        let stop = CancellationToken::new();
        let runtime: Arc<dyn Runtime> = ground.client.clone();
        let settings = ground.settings();
        let door = Door::Here(api.server.node_channel(&settings.node));
        let way = Way { client: api.client(), door, kept: None };
        let running = agent::run(settings, runtime, way, Clock::System, stop.clone());
        Agent { stop, task: tokio::spawn(running) }
    }

    pub async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

pub async fn until(client: &ApiClient, name: &str, what: impl Fn(&Value) -> bool) -> Value {
    let look = async {
        loop {
            let pod: Pod = client.get("default", name).await.unwrap();
            let pod = serde_json::to_value(pod).unwrap();
            if what(&pod) {
                return pod;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, look).await {
        Ok(pod) => pod,
        Err(_) => {
            let pod: Pod = client.get("default", name).await.unwrap();
            panic!("{name} is still {:#}", serde_json::to_value(pod).unwrap()["status"]);
        }
    }
}

pub async fn until_gone(client: &ApiClient, name: &str) {
    let look = async {
        while client.get::<Pod>("default", name).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, look).await.expect("the pod goes");
}

pub async fn account(client: &ApiClient) {
    let account = json!({"metadata": {"name": "default", "namespace": "default"}});
    client.create::<k8s_openapi::api::core::v1::ServiceAccount>(&object(account)).await.unwrap();
    let map = json!({"metadata": {"name": "kube-root-ca.crt", "namespace": "default"},
        "data": {"ca.crt": "certificate"}});
    client.create::<k8s_openapi::api::core::v1::ConfigMap>(&object(map)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_lives_on_a_real_runtime_through_a_restart_of_the_agent() {
    let ground = Ground::lay().await;
    let api = Sandbox::start().await;
    let client = api.client();
    account(&client).await;
    let agent = Agent::start(&ground, &api);
    let script = "trap 'echo bye > /dev/termination-log; exit 7' TERM; \
                  echo \"hello $WHO\"; \
                  /bin/busybox cp /var/run/secrets/kubernetes.io/serviceaccount/ca.crt \
                  /data/ca; \
                  echo > /data/ready; while :; do /bin/busybox sleep 0.1; done";
    let pod = json!({
        "metadata": {"name": "first", "namespace": "default"},
        "spec": {
            "nodeName": "node",
            // No network of its own is needed, and none is touched.
            "hostNetwork": true,
            "terminationGracePeriodSeconds": 20,
            "initContainers": [{
                "name": "before", "image": BUSYBOX,
                "command": ["/bin/busybox", "sh", "-c", "echo init > /data/init"],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }],
            "containers": [{
                "name": "main", "image": BUSYBOX,
                "command": ["/bin/busybox", "sh", "-c", script],
                "env": [{"name": "WHO", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}},
                "readinessProbe": {
                    "exec": {"command": ["/bin/busybox", "test", "-f", "/data/ready"]},
                    "periodSeconds": 1,
                },
            }],
            "volumes": [{"name": "data", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}],
        },
    });
    client.create::<Pod>(&object(pod)).await.unwrap();
    let ready = until(&client, "first", |pod| condition(pod, "Ready") == "True").await;
    assert_eq!(ready["status"]["phase"], "Running");
    assert_eq!(ready["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"], 0);
    let uid = ready["metadata"]["uid"].as_str().unwrap();
    let data = ground.folder.path().join("pods").join(uid).join("volumes/data");
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    assert_eq!(read(&data.join("init")), "init\n");
    assert_eq!(read(&data.join("ca")), "certificate");
    let log = ground.folder.path().join(format!("logs/default_first_{uid}/main/0.log"));
    assert!(read(&log).contains("stdout F hello first"), "{}", read(&log));
    let node: Node = client.get("", "node").await.unwrap();
    let node = serde_json::to_value(node).unwrap();
    assert!(
        node["status"]["nodeInfo"]["containerRuntimeVersion"]
            .as_str()
            .unwrap()
            .starts_with("containerd://")
    );

    agent.end().await;
    let agent = Agent::start(&ground, &api);
    let options = DeleteOptions::default();
    let again = until(&client, "first", |pod| condition(pod, "Ready") == "True").await;
    let identity = |pod: &Value| pod["status"]["containerStatuses"][0]["containerID"].clone();
    assert_eq!(identity(&again), identity(&ready));

    client.delete::<Pod>("default", "first", &options).await.unwrap();
    until_gone(&client, "first").await;
    assert!(!ground.folder.path().join("pods").join(uid).exists());
    agent.end().await;
    ground.clear().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_container_that_fails_says_why_and_is_started_again() {
    let ground = Ground::lay().await;
    let api = Sandbox::start().await;
    let client = api.client();
    account(&client).await;
    let agent = Agent::start(&ground, &api);
    let script = "echo because > /dev/termination-log; exit 3";
    let pod = json!({
        "metadata": {"name": "fails", "namespace": "default"},
        "spec": {
            "nodeName": "node",
            "hostNetwork": true,
            "containers": [{
                "name": "main", "image": BUSYBOX,
                "command": ["/bin/busybox", "sh", "-c", script],
            }],
        },
    });
    client.create::<Pod>(&object(pod)).await.unwrap();
    let crashed = |pod: &Value| {
        let status = &pod["status"]["containerStatuses"][0];
        status["state"]["waiting"]["reason"] == "CrashLoopBackOff" && status["restartCount"] == 1
    };
    let pod = until(&client, "fails", crashed).await;
    let last = &pod["status"]["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!((&last["exitCode"], &last["message"]), (&json!(3), &json!("because\n")));
    let grace = DeleteOptions { grace_period_seconds: Some(1), ..DeleteOptions::default() };
    client.delete::<Pod>("default", "fails", &grace).await.unwrap();
    until_gone(&client, "fails").await;
    agent.end().await;
    ground.clear().await;
}
