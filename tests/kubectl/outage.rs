//! Three masters, any of which may be lost: kubectl goes on, watches go on elsewhere, and time goes forward.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::support::{Cluster, Master};
use crate::tour::{Kubectl, clients};

/// kubectl with a kubeconfig that lists every master, and a context for each.
fn kubectl_for(cluster: &Cluster) -> Kubectl {
    let config = cluster.masters[0].directory.join("kubeconfig");
    let config = std::fs::read_to_string(config).unwrap();
    let folder = cluster.root.path().join("walk");
    let mut kubectl = Kubectl::new(clients().join("bin/kubectl"), 37, folder, &config);
    kubectl.namespace = "default".into();
    for master in &cluster.masters {
        enlist(&kubectl, master);
    }
    kubectl
}

/// Says where a master is: another place after each start.
fn enlist(kubectl: &Kubectl, master: &Master) {
    let (name, server) = (&master.name, format!("--server={}", master.api()));
    let authority = format!(
        "--certificate-authority={}",
        master.directory.join("pki/cluster/ca.crt").display()
    );
    kubectl.run(&["config", "set-cluster", name, &server, &authority]).good();
    let cluster = format!("--cluster={name}");
    let user = "--user=kubernetes-admin";
    kubectl.run(&["config", "set-context", name, &cluster, user]).good();
}

/// The revision of the newest list that a master gives.
fn newest(kubectl: &Kubectl, context: &str) -> u64 {
    let path = "/api/v1/namespaces/default/configmaps";
    let said = kubectl.until(&["--context", context, "get", "--raw", path], |said| said.good);
    let list: Value = serde_json::from_str(&said.out).unwrap();
    list["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

/// A watch at one master, from a revision on.
struct Watch {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Watch {
    fn start(kubectl: &Kubectl, context: &str, from: u64) -> Watch {
        let path =
            format!("/api/v1/namespaces/default/configmaps?watch=true&resourceVersion={from}");
        let mut command = kubectl.command(&["--context", context]);
        command.args(["--request-timeout=0", "get", "--raw", &path]);
        let piped = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = piped.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Watch { child, lines }
    }

    /// The next new object's name and revision; `None` when the watch has ended.
    fn next(&mut self) -> Option<(String, u64)> {
        let line = self.lines.next()?.ok()?;
        let event: Value = serde_json::from_str(&line).ok()?;
        assert_eq!(event["type"], "ADDED", "{event}");
        let metadata = &event["object"]["metadata"];
        let revision = metadata["resourceVersion"].as_str().unwrap().parse().unwrap();
        Some((metadata["name"].as_str().unwrap().to_owned(), revision))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_master_can_be_lost_and_nothing_is_missed() {
    let mut cluster = Cluster::of(3).await;
    let kubectl = kubectl_for(&cluster);
    kubectl.until(&["get", "configmap", "kube-root-ca.crt"], |said| said.good);
    let mut highest = 0;
    for lost in 0..3 {
        let others: Vec<String> =
            (0..3).filter(|at| *at != lost).map(|at| cluster.masters[at].name.clone()).collect();
        let going = cluster.masters[lost].name.clone();
        // Whoever answers knows of all that anybody was told of.
        for context in others.iter().chain([&going]) {
            let now = newest(&kubectl, context);
            assert!(now >= highest, "{context}: {now} after {highest}");
            highest = now;
        }
        let mut seen = Vec::new();
        let mut last = highest;
        let mut watch = Watch::start(&kubectl, &going, last);
        let create = |context: &str, name: &str| {
            // Asked again where it is not known whether it was done: then it is there.
            let command = ["--context", context, "create", "configmap", name];
            kubectl.until(&command, |said| said.good || said.err.contains("already exists"));
        };
        let first = format!("before-{lost}");
        create(&others[0], &first);
        let (name, revision) = watch.next().expect("the watch goes on");
        seen.push(name);
        last = revision.max(last);
        cluster.masters[lost].kill().await;
        let second = format!("during-{lost}");
        for (at, context) in others.iter().enumerate() {
            create(context, &format!("{second}-{at}"));
        }
        // What came before the end, and then the rest elsewhere, from there on.
        while let Some((name, revision)) = watch.next() {
            seen.push(name);
            last = revision;
        }
        let mut watch = Watch::start(&kubectl, &others[1], last);
        while seen.len() < 3 {
            let (name, revision) = watch.next().expect("the watch goes on");
            assert!(revision > last, "{name}: {revision} after {last}");
            seen.push(name);
            last = revision;
        }
        assert_eq!(seen, [first, format!("{second}-0"), format!("{second}-1")]);
        highest = highest.max(last);
        cluster.masters[lost].start_ready().await;
        enlist(&kubectl, &cluster.masters[lost]);
        cluster.masters[lost].until_voters(3).await;
    }
    let names = kubectl.until(&["get", "configmaps", "-o", "name"], |said| said.good);
    for lost in 0..3 {
        assert_eq!(names.out.matches(&format!("during-{lost}-")).count(), 2, "{}", names.told());
    }
}
