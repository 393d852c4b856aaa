//! `kontiki start` on one machine, as its users meet it: real containers, the images that it brings along,
//! and the system's own kubectl. Needs root; `.ci/setup` installs the rest.
//!
//! Keeps: each cluster has a network, mounts and processes of its own, so that tests can run beside each
//! other and nothing of them is left, however they end.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

/// Far longer than anything takes on a machine that is merely busy.
const PATIENCE: Duration = Duration::from_secs(120);
const DEMO: &str = "kontiki.local/demo:1";

/// A machine of its own, in which a Kontiki is everything.
struct Machine {
    folder: TempDir,
    /// Holds the namespaces: when it ends, the kernel ends all that is in them.
    process: Child,
}

impl Machine {
    async fn start() -> Machine {
        assert!(rustix::process::geteuid().is_root(), "this test runs containers: run it as root");
        // Short: a socket's path has a limit.
        let folder = tempfile::Builder::new().prefix("kt").tempdir_in("/var/tmp").unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let mut command = Command::new("unshare");
        command
            .args(["--net", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child", "--"])
            .args(["sh", "-c", "ip link set lo up && exec \"$@\"", "machine"])
            .args([env!("CARGO_BIN_EXE_kontiki"), "start", "--name", "machine", "--data-dir"])
            .arg(folder.path().join("data"))
            .args(["--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1"])
            .args(["--api-port", "0", "--peer-port", "0", "--store-port", "0"])
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true);
        let process = command.spawn().unwrap();
        let mut machine = Machine { folder, process };
        let until = Instant::now() + PATIENCE;
        while !machine.kubeconfig().exists() {
            let ended = machine.process.try_wait().unwrap();
            assert!(ended.is_none(), "it ended: {ended:?}\n{}", machine.log());
            assert!(Instant::now() < until, "there is no kubeconfig\n{}", machine.log());
            sleep(Duration::from_millis(20)).await;
        }
        machine
    }

    fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("data/kubeconfig")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// The process number of Kontiki itself, as it is seen from outside.
    fn inside(&self) -> i32 {
        let outside = self.process.id().expect("it runs");
        let children = format!("/proc/{outside}/task/{outside}/children");
        let children = std::fs::read_to_string(children).unwrap();
        children.split_whitespace().next().expect("it has one child").parse().unwrap()
    }

    /// Runs kubectl on that machine.
    async fn kubectl(&self, arguments: &[&str], input: &str) -> Output {
        let file = self.folder.path().join("input");
        std::fs::write(&file, input).unwrap();
        let mut command = Command::new("nsenter");
        command
            .args(["--net", "--target", &self.inside().to_string(), "--", "kubectl"])
            .args(arguments)
            .env("KUBECONFIG", self.kubeconfig())
            .stdin(std::fs::File::open(&file).unwrap())
            .kill_on_drop(true);
        let ended = tokio::time::timeout(PATIENCE, command.output()).await;
        ended.expect("kubectl ends").expect("kubectl is installed")
    }

    /// Runs kubectl, which must succeed, and returns what it printed.
    async fn does(&self, arguments: &[&str]) -> String {
        let output = self.kubectl(arguments, "").await;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, error) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {out}{error}\n{}", self.log());
        out
    }

    async fn apply(&self, object: &Value) {
        let output = self.kubectl(&["apply", "-f", "-"], &object.to_string()).await;
        assert!(output.status.success(), "{output:?}");
    }

    /// Waits until what kubectl prints for an object fits.
    async fn until(&self, what: &[&str], fits: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + PATIENCE;
        let arguments = [&["get", "-o", "json"], what].concat();
        loop {
            let output = self.kubectl(&arguments, "").await;
            let seen = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
            if fits(&seen) {
                return seen;
            }
            if Instant::now() > until {
                let events = self.does(&["get", "events", "-A"]).await;
                panic!("{what:?} is still {:#}\n{events}\n{}", seen["status"], self.log());
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// As an operator stops it. Returns the exit code.
    async fn stop(&mut self) -> Option<i32> {
        let inside = rustix::process::Pid::from_raw(self.inside()).unwrap();
        rustix::process::kill_process(inside, rustix::process::Signal::TERM).unwrap();
        let ended = tokio::time::timeout(PATIENCE, self.process.wait()).await;
        ended.unwrap_or_else(|_| panic!("it does not end\n{}", self.log())).unwrap().code()
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

fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    let all = object["status"]["conditions"].as_array();
    let found = all.and_then(|all| all.iter().find(|it| it["type"] == kind));
    found.and_then(|it| it["status"].as_str()).unwrap_or_default()
}

fn pod(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn one_command_is_a_cluster_whose_pods_serve_restart_end_and_go() {
    let mut machine = Machine::start().await;
    machine.until(&["node", "machine"], |node| condition(node, "Ready") == "True").await;

    let server = json!({"containers": [{
        "name": "main", "image": DEMO,
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1},
    }]});
    machine.apply(&pod("server", server)).await;
    let server = machine.until(&["pod", "server"], |pod| condition(pod, "Ready") == "True").await;
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
    assert_eq!(machine.stop().await, Some(0), "{}", machine.log());
    assert!(!machine.log().contains("ERROR"), "{}", machine.log());
}

#[tokio::test]
async fn a_service_is_found_by_its_name_and_people_reach_into_pods() {
    let mut machine = Machine::start().await;
    machine.until(&["node", "machine"], |node| condition(node, "Ready") == "True").await;
    machine.does(&["create", "deployment", "web", "--image", DEMO, "--replicas", "2"]).await;
    machine.does(&["expose", "deployment", "web", "--port", "80", "--target-port", "8080"]).await;
    machine.does(&["rollout", "status", "deployment/web", "--timeout=100s"]).await;
    machine.does(&["run", "inside", "--image", DEMO]).await;
    machine.until(&["pod", "inside"], |pod| condition(pod, "Ready") == "True").await;

    let fetch = |url: &str| {
        let words = ["exec", "inside", "--", "demo", "get", url].map(str::to_owned);
        let machine = &machine;
        async move { machine.kubectl(&words.each_ref().map(String::as_str), "").await }
    };
    // The node hears of a change a moment after kubectl does.
    let reach = async || {
        let until = Instant::now() + PATIENCE;
        loop {
            let output = fetch("http://web/").await;
            if output.status.success() {
                return;
            }
            assert!(Instant::now() < until, "{output:?}\n{}", machine.log());
            sleep(Duration::from_millis(100)).await;
        }
    };
    reach().await;
    for _ in 0..8 {
        let output = fetch("http://web.default.svc.cluster.local/").await;
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("web-"), "{output:?}");
    }

    let said = machine.does(&["logs", "deployment/web"]).await;
    assert!(said.contains("listening"), "{said}");
    let ended = machine.kubectl(&["exec", "inside", "--", "demo", "exit", "7"], "").await;
    assert_eq!(ended.status.code(), Some(7), "{ended:?}");
    let echo =
        machine.kubectl(&["exec", "-i", "inside", "--", "demo", "cat"], "over and out").await;
    assert_eq!(String::from_utf8_lossy(&echo.stdout), "over and out", "{echo:?}");

    machine.does(&["set", "env", "deployment/web", "COLOUR=red"]).await;
    machine.does(&["rollout", "status", "deployment/web", "--timeout=100s"]).await;
    reach().await;
    assert_eq!(machine.stop().await, Some(0), "{}", machine.log());
}
