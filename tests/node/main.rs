//! `kontiki start` on one machine, as its users meet it: real containers, the images that it brings along,
//! and the system's own kubectl. Needs root; `.ci/setup` installs the rest.
//!
//! Keeps: each cluster has a network, mounts and processes of its own, so that tests can run beside each
//! other and nothing of them is left, however they end.

mod behaviours;
mod full;
mod kubectl;
mod lab;
mod registry;
mod three;

use std::ops::Deref;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use kubectl::{Kubectl, PATIENCE, is_ready};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

const DEMO: &str = "kontiki.local/demo:1";

/// A machine of its own, in which a Kontiki is everything.
struct Machine {
    folder: TempDir,
    /// Holds the namespaces: when it ends, the kernel ends all that is in them.
    process: Child,
    kubectl: Kubectl,
}

impl Deref for Machine {
    type Target = Kubectl;

    fn deref(&self) -> &Kubectl {
        &self.kubectl
    }
}

impl Machine {
    async fn start() -> Machine {
        Machine::with_files(|_| {}).await
    }

    /// With what `lay` puts into its data directory before.
    async fn with_files(lay: impl FnOnce(&Path)) -> Machine {
        assert!(rustix::process::geteuid().is_root(), "this test runs containers: run it as root");
        // Short: a socket's path has a limit.
        let folder = tempfile::Builder::new().prefix("kt").tempdir_in("/var/tmp").unwrap();
        let log = folder.path().join("log");
        lay(&folder.path().join("data"));
        let mut command = Command::new("unshare");
        command
            .args(["--net", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child", "--"])
            .args([
                "sh",
                "-c",
                "ip link set lo up && mount -t tmpfs tmpfs /run && exec \"$@\"",
                "machine",
            ])
            .args([env!("CARGO_BIN_EXE_kontiki"), "start", "--name", "machine", "--data-dir"])
            .arg(folder.path().join("data"))
            .args(["--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1"])
            .args(["--api-port", "0", "--peer-port", "0", "--store-port", "0"])
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .kill_on_drop(true);
        let process = command.spawn().unwrap();
        let kubeconfig = folder.path().join("data/kubeconfig");
        let kubectl = Kubectl { inside: 0, kubeconfig, logs: vec![log] };
        let mut machine = Machine { folder, process, kubectl };
        let until = Instant::now() + PATIENCE;
        while !machine.kubeconfig.exists() {
            let ended = machine.process.try_wait().unwrap();
            assert!(ended.is_none(), "it ended: {ended:?}\n{}", machine.log());
            assert!(Instant::now() < until, "there is no kubeconfig\n{}", machine.log());
            sleep(Duration::from_millis(20)).await;
        }
        machine.kubectl.inside = lab::child_of(&machine.process);
        machine
    }

    /// As an operator stops it. Returns the exit code.
    async fn stop(&mut self) -> Option<i32> {
        let inside = rustix::process::Pid::from_raw(self.inside).unwrap();
        rustix::process::kill_process(inside, rustix::process::Signal::TERM).unwrap();
        let ended = tokio::time::timeout(PATIENCE, self.process.wait()).await;
        ended.unwrap_or_else(|_| panic!("it does not end\n{}", self.log())).unwrap().code()
    }

    /// It is the first process of its machine: what the runtime's helpers leave to it does not stay.
    async fn takes_in_orphans(&self) {
        let zombies = || {
            let inside = self.inside;
            let children = format!("/proc/{inside}/task/{inside}/children");
            let children = std::fs::read_to_string(children).unwrap();
            let ended = |number: &&str| {
                let stat = std::fs::read_to_string(format!("/proc/{number}/stat"));
                stat.is_ok_and(|it| it.contains(") Z "))
            };
            children.split_whitespace().filter(ended).count()
        };
        let until = Instant::now() + PATIENCE;
        while zombies() > 0 {
            assert!(Instant::now() < until, "{} zombies are left", zombies());
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Nothing below the data directory is still mounted, and no log of a pod is left.
    fn is_left_by(&self, pod: &Value) -> bool {
        let uid = pod["metadata"]["uid"].as_str().expect("an object has a uid");
        let holds = |folder: &Path| {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            entries.into_iter().any(|it| it.file_name().to_string_lossy().contains(uid))
        };
        !holds(&self.folder.path().join("data/pods")) && !holds(Path::new("/var/log/pods"))
    }
}

fn pod(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn one_command_is_a_cluster_whose_pods_serve_restart_end_and_go() {
    let mut machine = Machine::start().await;
    machine.until(&["node", "machine"], is_ready).await;

    let server = json!({"containers": [{
        "name": "main", "image": DEMO,
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1},
    }]});
    machine.apply(&pod("server", server)).await;
    let server = machine.until(&["pod", "server"], is_ready).await;
    assert_eq!(server["status"]["phase"], "Running");
    let address = server["status"]["podIP"].as_str().unwrap().to_owned();

    // Another pod reaches it by its address.
    let command = ["get", &format!("http://{address}:8080/")];
    let client = json!({"restartPolicy": "Never", "containers": [
        {"name": "main", "image": DEMO, "command": command, "terminationMessagePath": "/end"},
    ]});
    machine.apply(&pod("client", client)).await;
    let over =
        |pod: &Value| matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    let client = machine.until(&["pod", "client"], over).await;
    assert_eq!(client["status"]["phase"], "Succeeded", "{client:#}");

    let fails = json!({"containers": [{"name": "main", "image": DEMO, "command": ["exit", "3"]}]});
    machine.apply(&pod("fails", fails)).await;
    let fails = machine
        .until(&["pod", "fails"], |pod| {
            let status = &pod["status"]["containerStatuses"][0];
            status["restartCount"].as_i64() >= Some(1)
                && status["lastState"]["terminated"]["exitCode"] == 3
        })
        .await;

    let lacks = json!({"containers": [{"name": "main", "image": "kontiki.local/lacks:1",
        "imagePullPolicy": "Never"}]});
    machine.apply(&pod("lacks", lacks)).await;
    let lacks = machine
        .until(&["pod", "lacks"], |pod| {
            let waits = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
            waits["reason"] == "ErrImageNeverPull"
        })
        .await;

    machine.does(&["delete", "pod", "server", "client", "fails", "lacks"]).await;
    for pod in [&server, &client, &fails, &lacks] {
        assert!(machine.is_left_by(pod), "{} has left something", pod["metadata"]["name"]);
    }
    machine.takes_in_orphans().await;
    assert_eq!(machine.stop().await, Some(0), "{}", machine.log());
    assert!(!machine.log().contains("ERROR"), "{}", machine.log());
}

#[tokio::test]
async fn a_service_is_found_by_its_name_and_people_reach_into_pods() {
    let mut machine = Machine::start().await;
    machine.until(&["node", "machine"], is_ready).await;
    machine.does(&["create", "deployment", "web", "--image", DEMO, "--replicas", "2"]).await;
    machine.does(&["expose", "deployment", "web", "--port", "80", "--target-port", "8080"]).await;
    machine.does(&["rollout", "status", "deployment/web", "--timeout=100s"]).await;
    machine.does(&["run", "inside", "--image", DEMO]).await;
    machine.until(&["pod", "inside"], is_ready).await;

    let both = |slices: &Value| {
        let ready = slices["items"][0]["endpoints"].as_array().into_iter().flatten();
        ready.filter(|it| it["conditions"]["ready"] == true).count() == 2
    };
    machine.until(&["endpointslices", "-l", "kubernetes.io/service-name=web"], both).await;
    for url in ["http://web/", "http://web.default.svc.cluster.local/"] {
        let said = machine.does(&["exec", "inside", "--", "demo", "get", url]).await;
        assert!(said.contains("web-"), "{said}");
    }

    let said = machine.does(&["logs", "deployment/web"]).await;
    assert!(said.contains("listening"), "{said}");
    let ended = machine.run(&["exec", "inside", "--", "demo", "exit", "7"], "").await;
    assert_eq!(ended.status.code(), Some(7), "{ended:?}");
    let echo = machine.run(&["exec", "-i", "inside", "--", "demo", "cat"], "over and out").await;
    assert_eq!(String::from_utf8_lossy(&echo.stdout), "over and out", "{echo:?}");

    // Whoever asks while all pods are replaced is always answered.
    let mut load = machine.starts(&["exec", "inside", "--", "demo", "ask", "http://web/", "8"]);
    assert!(load.line().await.is_some_and(|it| it.starts_with("asking")));
    machine.does(&["set", "env", "deployment/web", "COLOUR=red"]).await;
    machine.does(&["rollout", "status", "deployment/web", "--timeout=100s"]).await;
    let (said, code) = load.end().await;
    assert_eq!(code, Some(0), "{said:#?}\n{}", machine.log());
    assert_eq!(machine.stop().await, Some(0), "{}", machine.log());
}
