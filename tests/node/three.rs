//! Three machines, each with a master and a node: what users see when masters and nodes are lost.

use std::time::Duration;

use kontiki::agent::images::own;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::DEMO;
use super::kubectl::{Kubectl, PATIENCE, condition, is_ready};
use super::lab::{Lab, Process};

struct Cluster {
    lab: Lab,
    masters: Vec<Option<Process>>,
    nodes: Vec<Option<Process>>,
    /// For nodes.
    token: String,
}

impl Cluster {
    async fn start() -> Cluster {
        let lab = Lab::with(3).await;
        let mut cluster =
            Cluster { lab, masters: Vec::new(), nodes: Vec::new(), token: String::new() };
        cluster.masters.push(Some(cluster.master(0, "")));
        cluster.serves(0).await;
        let data = cluster.folder(0, "master");
        let first = &cluster.lab.hosts[0];
        let create = ["token", "create", "--data-dir", &data, "--role"];
        let token = first.runs(&[&create[..], &["master"]].concat()).await;
        cluster.token = first.runs(&[&create[..], &["node"]].concat()).await;
        for at in 1..3 {
            let master = cluster.master(at, &token);
            cluster.masters.push(Some(master));
        }
        cluster.serves(1).await;
        cluster.serves(2).await;
        for at in 0..3 {
            let node = cluster.node(at);
            cluster.nodes.push(Some(node));
        }
        for at in 0..3 {
            cluster.ask(0).until(&["node", &name(at)], is_ready).await;
        }
        cluster
    }

    fn folder(&self, at: usize, what: &str) -> String {
        self.lab.hosts[at].folder.join(what).display().to_string()
    }

    fn first(&self) -> String {
        format!("https://{}:6443", self.lab.hosts[0].address)
    }

    fn master(&self, at: usize, token: &str) -> Process {
        let (data, name, first) = (self.folder(at, "master"), format!("m{at}"), self.first());
        let mut arguments = vec!["master", "--data-dir", &data, "--name", &name];
        if !token.is_empty() {
            arguments.extend(["--join", &first, "--token", token]);
        }
        self.lab.hosts[at].starts("master", &arguments)
    }

    fn node(&self, at: usize) -> Process {
        let (data, name, first) = (self.folder(at, "node"), name(at), self.first());
        let labels = if at < 2 { "part=kept" } else { "part=lost" };
        self.lab.hosts[at].starts(
            "node",
            &[
                &["node", "--data-dir", &data, "--name", &name, "--node-labels", labels][..],
                &["--join", &first, "--token", &self.token],
            ]
            .concat(),
        )
    }

    /// Asks the master of a machine, there.
    fn ask(&self, at: usize) -> Kubectl {
        let logs = self.masters.iter().chain(&self.nodes).flatten().map(|it| it.log.clone());
        let kubeconfig = self.lab.hosts[at].folder.join("master/kubeconfig");
        Kubectl { inside: self.lab.hosts[at].inside(), kubeconfig, logs: logs.collect() }
    }

    async fn serves(&self, at: usize) {
        let until = Instant::now() + PATIENCE;
        loop {
            let ask = self.ask(at);
            if ask.kubeconfig.exists()
                && ask.run(&["get", "--raw", "/readyz"], "").await.status.success()
            {
                return;
            }
            assert!(Instant::now() < until, "master {at} does not serve\n{}", ask.log());
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// The machine of the master that has the session of a node.
    fn session(&self, at: usize) -> usize {
        let said = self.nodes[at].as_ref().unwrap().said();
        let line = said.lines().rfind(|it| it.contains("a session with a master"));
        let line = line.unwrap_or_else(|| panic!("no session\n{said}"));
        let found = (0..3).find(|it| line.contains(&format!("{}:", self.lab.hosts[*it].address)));
        found.unwrap_or_else(|| panic!("which master? {line}"))
    }

    async fn kill_master(&mut self, at: usize) {
        self.masters[at].take().unwrap().dies().await;
    }

    fn start_master(&mut self, at: usize) {
        self.masters[at] = Some(self.master(at, ""));
    }

    /// Container ids and restarts of all pods, by name.
    async fn containers(&self, ask: &Kubectl) -> Vec<(String, String, i64)> {
        let pods = ask.json(&["pods"]).await;
        let of = |pod: &Value| {
            let status = &pod["status"]["containerStatuses"][0];
            let text = |it: &Value| it.as_str().unwrap_or_default().to_owned();
            let restarts = status["restartCount"].as_i64().unwrap_or(-1);
            (text(&pod["metadata"]["name"]), text(&status["containerID"]), restarts)
        };
        pods["items"].as_array().unwrap().iter().map(of).collect()
    }
}

fn name(at: usize) -> String {
    format!("n{at}")
}

fn pod(name: &str, node: &str, command: &[&str]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "nodeName": node, "terminationGracePeriodSeconds": 5,
            "containers": [{"name": "main", "image": DEMO, "command": command,
                "readinessProbe": ready(command)}],
        },
    })
}

/// Asked of those that serve.
fn ready(command: &[&str]) -> Value {
    match command {
        ["serve"] => json!({"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1}),
        _ => Value::Null,
    }
}

fn web() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": 4,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "nodeSelector": {"part": "kept"},
                    "topologySpreadConstraints": [{
                        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
                        "whenUnsatisfiable": "ScheduleAnyway",
                        "labelSelector": {"matchLabels": {"app": "web"}},
                    }],
                    "containers": [{"name": "main", "image": DEMO, "command": ["serve"],
                        "readinessProbe": ready(&["serve"])}],
                },
            },
        },
    })
}

fn service(name: &str, kind: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"type": kind, "selector": {"app": name},
            "ports": [{"port": 80, "targetPort": 8080}]},
    })
}

#[tokio::test]
async fn three_machines_are_one_cluster_whose_pods_do_not_notice_its_losses() {
    let mut cluster = Cluster::start().await;
    let ask = cluster.ask(0);
    ask.apply(&web()).await;
    ask.apply(&service("web", "NodePort")).await;
    ask.apply(&pod("lone", "n2", &["serve"])).await;
    ask.apply(&service("lone", "ClusterIP")).await;
    ask.apply(&pod("ticking", "n0", &["tick"])).await;
    ask.apply(&pod("inside", "n0", &["sleep", "100000"])).await;
    ask.does(&["rollout", "status", "deployment/web", "--timeout=100s"]).await;
    for pod in ["lone", "ticking", "inside"] {
        ask.until(&["pod", pod], is_ready).await;
    }
    everything_reaches_everything(&cluster, &ask).await;
    operators_see_what_runs_and_bring_in_images(&cluster).await;

    let before = cluster.containers(&ask).await;
    let lost = a_master_is_killed_while_others_carry_streams(&mut cluster).await;
    let (kept, ask) = match lost {
        0 => (1, cluster.ask(1)),
        _ => (0, cluster.ask(0)),
    };
    // The third node goes silent meanwhile. It takes long to be believed.
    cluster.nodes[2].take().unwrap().dies().await;
    ask.until(&["node", "n0"], is_ready).await;
    assert_eq!(cluster.containers(&ask).await, before, "nothing was restarted");
    cluster.start_master(lost);
    cluster.serves(lost).await;

    a_rollout_and_a_drain_lose_no_request(&ask).await;

    ask.until(&["node", "n2"], |node| condition(node, "Ready") == "Unknown").await;
    ask.until(&["pod", "lone"], |pod| condition(pod, "Ready") == "False").await;
    let refused = ask.run(&["exec", "inside", "--", "demo", "get", "http://lone/"], "").await;
    assert!(!refused.status.success(), "nobody is led to a node that is lost");
    cluster.nodes[2] = Some(cluster.node(2));
    ask.until(&["node", "n2"], is_ready).await;
    let lone = ask.until(&["pod", "lone"], is_ready).await;
    let id = &lone["status"]["containerStatuses"][0]["containerID"];
    assert!(before.iter().any(|(_, it, _)| id == it), "it has run all the time");
    let found = ask.until(&["endpointslices", "-l", "kubernetes.io/service-name=lone"], |it| {
        it["items"][0]["endpoints"][0]["conditions"]["ready"] == true
    });
    found.await;
    ask.does(&["exec", "inside", "--", "demo", "ask", "http://lone/", "1"]).await;

    pods_outlive_all_masters(&mut cluster, &ask, kept).await;
    for process in cluster.masters.drain(..).chain(cluster.nodes.drain(..)).flatten() {
        let log = process.log.clone();
        assert_eq!(process.stops().await, Some(0), "{}", log.display());
    }
}

/// Pods by their addresses, services by address, name and port of any machine.
async fn everything_reaches_everything(cluster: &Cluster, ask: &Kubectl) {
    let pods = ask.json(&["pods", "-l", "app in (web, lone)"]).await;
    for pod in pods["items"].as_array().unwrap() {
        let url = format!("http://{}:8080/", pod["status"]["podIP"].as_str().unwrap());
        ask.does(&["exec", "inside", "--", "demo", "get", &url]).await;
    }
    let web = ask.json(&["service", "web"]).await;
    let address = web["spec"]["clusterIP"].as_str().unwrap();
    let port = web["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    for url in [
        format!("http://{address}/"),
        "http://web/".into(),
        "http://web.default.svc.cluster.local/".into(),
        "http://lone/".into(),
        format!("http://{}:{port}/", cluster.lab.hosts[2].address),
    ] {
        // Often enough that both nodes have answered.
        ask.does(&["exec", "inside", "--", "demo", "ask", &url, "1"]).await;
    }
    for host in &cluster.lab.hosts {
        for _ in 0..4 {
            let said = cluster.lab.fetch(&format!("http://{}:{port}/", host.address)).await;
            assert!(said.as_ref().is_ok_and(|it| it.contains("web-")), "{said:?}\n{}", ask.log());
        }
    }
}

async fn operators_see_what_runs_and_bring_in_images(cluster: &Cluster) {
    let host = &cluster.lab.hosts[0];
    let read = |text: String| -> Value { serde_json::from_str(&text).unwrap() };
    let listed = read(host.runs(&["ps", "--output", "json"]).await);
    let by_role = |role: &str| {
        let found = listed.as_array().unwrap().iter().find(|it| it["role"] == role);
        found.unwrap_or_else(|| panic!("{role}: {listed:#}")).clone()
    };
    assert_eq!(by_role("master")["members"], json!(["m0", "m1", "m2"]));
    let runtime = &by_role("node")["runtime"];
    assert!(runtime["pid"].is_u64(), "{runtime:#}");
    let pods = runtime["pods"].as_array().unwrap();
    let inside = pods.iter().find(|it| it["name"] == "inside");
    let inside = inside.unwrap_or_else(|| panic!("{runtime:#}"));
    let containers = inside["containers"].as_array().unwrap().iter();
    let mut names: Vec<_> = containers.map(|it| it["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["main", "pause"]);

    let archive = host.folder.join("own.tar");
    let image = own::archive("registry.test/own:1", &[], &json!({})).unwrap();
    std::fs::write(&archive, image).unwrap();
    let (archive, data) = (archive.display().to_string(), cluster.folder(0, "node"));
    let import = ["image", "import", &archive, "--data-dir", &data];
    assert_eq!(host.runs(&import).await, "registry.test/own:1");
    assert!(host.runs(&import).await.ends_with("all of it is there"));
    let list = ["image", "list", "--output", "json", "--data-dir", &data];
    let until = Instant::now() + PATIENCE;
    loop {
        let images = read(host.runs(&list).await);
        let is_own = |it: &Value| it["names"][0] == "registry.test/own:1";
        if images.as_array().unwrap().iter().any(is_own) {
            return;
        }
        assert!(Instant::now() < until, "{images:#}");
        sleep(Duration::from_millis(100)).await;
    }
}

/// A shell and a log through the master that has the node's session, and through one that has not. The third is
/// killed. Returns which that was.
async fn a_master_is_killed_while_others_carry_streams(cluster: &mut Cluster) -> usize {
    let session = cluster.session(0);
    let (other, lost) = ((session + 1) % 3, (session + 2) % 3);
    let mut followed = Vec::new();
    let mut shells = Vec::new();
    for at in [session, other] {
        let ask = cluster.ask(at);
        let mut log = ask.starts(&["logs", "-f", "--tail=1", "ticking"]);
        let first: u64 = log.line().await.expect("it ticks").parse().unwrap();
        followed.push((log, first));
        let mut shell = ask.starts(&["exec", "inside", "--", "demo", "tick", "6"]);
        assert_eq!(shell.line().await.as_deref(), Some("0"));
        shells.push(shell);
    }
    cluster.kill_master(lost).await;
    for shell in shells {
        let (said, code) = shell.end().await;
        assert_eq!((said.join(" "), code), ("1 2 3 4 5".into(), Some(0)));
    }
    for (mut log, first) in followed {
        for number in first + 1..first + 6 {
            assert_eq!(log.line().await, Some(number.to_string()));
        }
    }
    let ask = cluster.ask(session);
    let ended = ask.run(&["exec", "inside", "--", "demo", "exit", "7"], "").await;
    assert_eq!(ended.status.code(), Some(7), "{ended:?}");
    let echo = ask.run(&["exec", "-i", "inside", "--", "demo", "cat"], "over and out").await;
    assert_eq!(String::from_utf8_lossy(&echo.stdout), "over and out", "{echo:?}");
    lost
}

async fn a_rollout_and_a_drain_lose_no_request(ask: &Kubectl) {
    for deed in ["rollout", "drain"] {
        let mut load = ask.starts(&["exec", "inside", "--", "demo", "ask", "http://web/", "12"]);
        assert!(load.line().await.is_some_and(|it| it.starts_with("asking")));
        if deed == "rollout" {
            ask.does(&["set", "env", "deployment/web", "COLOUR=red"]).await;
        } else {
            let flags = ["--force", "--ignore-daemonsets", "--delete-emptydir-data"];
            ask.does(&[&["drain", "n1", "--timeout=100s"], &flags[..]].concat()).await;
        }
        ask.does(&["rollout", "status", "deployment/web", "--timeout=100s"]).await;
        let (said, code) = load.end().await;
        assert_eq!(code, Some(0), "{deed}: {said:#?}\n{}", ask.log());
    }
    let pods = ask.json(&["pods", "-l", "app=web"]).await;
    let is_moved = |pod: &Value| {
        pod["spec"]["nodeName"] == "n0" || !pod["metadata"]["deletionTimestamp"].is_null()
    };
    assert!(pods["items"].as_array().unwrap().iter().all(is_moved), "{pods:#}");
    ask.does(&["uncordon", "n1"]).await;
}

/// Names, addresses of services and ways to other nodes are what they were, although a node begins with none of
/// them in its kernel and nobody to ask.
async fn services_are_known_to_a_node_that_starts_without_a_master(cluster: &mut Cluster) {
    let listed = cluster.lab.hosts[0].runs(&["ps", "--output", "json"]).await;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let node = listed.as_array().unwrap().iter().find(|it| it["role"] == "node");
    let pods = node.unwrap()["runtime"]["pods"].as_array().unwrap();
    let inside = pods.iter().find(|it| it["name"] == "inside").unwrap();
    let main = inside["containers"].as_array().unwrap().iter().find(|it| it["name"] == "main");
    let process = main.unwrap()["pid"].to_string();
    let get = async |cluster: &Cluster, url: &str| {
        let enter = ["nsenter", "--net", "--mount", "--target", &process, "--"];
        let words = [&enter[..], &["/bin/demo", "get", url]].concat();
        cluster.lab.hosts[0].does(&words).await
    };
    cluster.nodes[0].take().unwrap().dies().await;
    let host = &cluster.lab.hosts[0];
    for words in [
        &["nft", "delete", "table", "inet", "kontiki"][..],
        &["ip", "address", "delete", "10.43.0.10/32", "dev", "lo"],
        &["ip", "route", "flush", "proto", "107"],
    ] {
        let done = host.does(words).await;
        assert!(done.status.success(), "{words:?}: {done:?}");
    }
    assert!(!get(cluster, "http://web/").await.status.success(), "nobody knows it now");
    cluster.nodes[0] = Some(cluster.node(0));
    for url in ["http://web/", "http://web.default.svc.cluster.local/", "http://lone/"] {
        let until = Instant::now() + PATIENCE;
        loop {
            let said = get(cluster, url).await;
            if said.status.success() {
                break;
            }
            let log = cluster.nodes[0].as_ref().unwrap().said();
            assert!(Instant::now() < until, "{url}: {said:?}\n{log}");
            sleep(Duration::from_millis(200)).await;
        }
    }
}

async fn pods_outlive_all_masters(cluster: &mut Cluster, ask: &Kubectl, kept: usize) {
    let web = ask.json(&["service", "web"]).await;
    let port = web["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    let before = cluster.containers(ask).await;
    for at in 0..3 {
        cluster.kill_master(at).await;
    }
    for host in &cluster.lab.hosts {
        let said = cluster.lab.fetch(&format!("http://{}:{port}/", host.address)).await;
        assert!(said.is_ok(), "{said:?}");
    }
    services_are_known_to_a_node_that_starts_without_a_master(cluster).await;
    for at in 0..3 {
        cluster.start_master(at);
    }
    cluster.serves(kept).await;
    for at in 0..3 {
        ask.until(&["node", &name(at)], is_ready).await;
    }
    // Nodes hear from masters again when a shell can be had on each.
    for pod in ["inside", "lone"] {
        let until = Instant::now() + PATIENCE;
        while !ask.run(&["exec", pod, "--", "demo", "echo", "here"], "").await.status.success() {
            assert!(Instant::now() < until, "no shell in {pod}\n{}", ask.log());
        }
    }
    assert_eq!(cluster.containers(ask).await, before, "nothing was restarted");
}
