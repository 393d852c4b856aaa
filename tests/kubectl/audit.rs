//! The audit log, by its flags: what kubectl asked is in it, and what a controller made of it.

use std::path::Path;

use serde_json::Value;

use crate::support::{Master, refused, wait_for};
use crate::tour::{Kubectl, clients, deployment};

const POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: RequestResponse
  users: [kubernetes-admin]
  resources: [{group: '', resources: [configmaps]}]
- {level: Metadata, users: [kubernetes-admin]}
- {level: Metadata, verbs: [create], resources: [{group: '', resources: [pods]}]}
";

fn events(log: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    // The last line may be on its way.
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Files of the log that were put aside.
fn aside(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| name.to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("audit-") && name.ends_with(".log")).collect()
}

#[tokio::test]
async fn what_users_ask_is_written_as_the_flags_say() {
    let root = tempfile::tempdir().unwrap();
    let (log, policy) = (root.path().join("audit.log"), root.path().join("policy.yaml"));
    std::fs::write(&policy, POLICY).unwrap();
    let path = |path: &Path| path.display().to_string();
    let flags = [
        "--audit-log-path".to_owned(),
        path(&log),
        "--audit-policy-file".to_owned(),
        path(&policy),
        "--audit-log-maxsize=1".to_owned(),
        "--audit-log-maxbackup=2".to_owned(),
        "--audit-log-maxage=3".to_owned(),
    ];
    let mut master = Master::new(root.path(), "m1").with(flags);
    master.start_ready().await;
    let config = std::fs::read_to_string(master.directory.join("kubeconfig")).unwrap();
    let program = clients().join("bin/kubectl");
    let kubectl = Kubectl::new(program, 37, root.path().join("walk"), &config);
    kubectl.run(&["create", "namespace", &kubectl.namespace]).good();
    kubectl.until(&["get", "serviceaccount", "default"], |said| said.good);
    kubectl.run(&["create", "configmap", "small", "--from-literal=a=b"]).good();
    kubectl.run(&["get", "secret", "none"]);
    kubectl.run(&["get", "configmap", "small", "--as=jo"]);
    kubectl.feed(&["create", "-f", "-"], &deployment(1)).good();

    let made = |event: &Value| {
        event["verb"] == "create"
            && event["objectRef"]["resource"] == "pods"
            && event["user"]["username"] != "kubernetes-admin"
    };
    // A controller of this process made the pod; its request is an event like any other.
    let of_pod = wait_for("the event of a pod", || async {
        events(&log).into_iter().find(|event| made(event)).ok_or_else(|| "it is not there".into())
    })
    .await;
    assert_eq!(of_pod["responseStatus"]["code"], 201, "{of_pod}");
    assert_eq!(of_pod["userAgent"], "replicaset-controller", "{of_pod}");

    let all = events(&log);
    let find = |verb: &str, resource: &str, name: &str| -> &Value {
        let is = |event: &&Value| {
            let of = &event["objectRef"];
            event["verb"] == verb && of["resource"] == resource && of["name"] == name
        };
        all.iter().find(is).unwrap_or_else(|| panic!("{verb} {resource} {name}: {all:#?}"))
    };
    let small = find("create", "configmaps", "small");
    assert_eq!(small["user"]["username"], "kubernetes-admin");
    assert_eq!(small["objectRef"]["namespace"], kubectl.namespace.as_str());
    assert_eq!(small["requestObject"]["data"]["a"], "b");
    assert_eq!(small["responseObject"]["kind"], "ConfigMap");
    assert!(small["userAgent"].as_str().unwrap().starts_with("kubectl/"), "{small}");
    assert!(small["sourceIPs"][0] == "127.0.0.1", "{small}");
    let missing = find("get", "secrets", "none");
    assert_eq!(missing["responseStatus"]["code"], 404);
    assert_eq!((&missing["level"], &missing["responseObject"]), (&"Metadata".into(), &Value::Null));
    let other = find("get", "configmaps", "small");
    assert_eq!(other["impersonatedUser"]["username"], "jo");
    assert_eq!(other["responseStatus"]["code"], 403);
    assert!(all.iter().all(|event| event["stage"] != "RequestReceived"));

    // Each of these is in its event twice, as it was sent and as it was answered: a file holds none but one.
    let large = kubectl.file("large", &"x".repeat(400_000));
    for number in 0..5 {
        let name = format!("large-{number}");
        kubectl.run(&["create", "configmap", &name, "--from-file", &large]).good();
    }
    wait_for("files that are put aside", || async {
        let kept = aside(root.path());
        let last = events(&log).iter().any(|event| event["objectRef"]["name"] == "large-4");
        if kept.len() == 2 && last { Ok(()) } else { Err(format!("{kept:?}")) }
    })
    .await;
    assert_eq!(master.stop().await, Some(0));
}

#[tokio::test]
async fn a_log_without_a_policy_that_can_be_followed_is_refused_at_the_start() {
    let root = tempfile::tempdir().unwrap();
    let (log, policy) = (root.path().join("audit.log"), root.path().join("policy.yaml"));
    let master = |policy: Option<&Path>| {
        let mut flags = vec!["--audit-log-path".to_owned(), log.display().to_string()];
        if let Some(policy) = policy {
            flags.extend(["--audit-policy-file".to_owned(), policy.display().to_string()]);
        }
        Master::new(root.path(), "m1").with(flags).arguments()
    };
    let (code, said) = refused(master(None)).await;
    assert!(code == Some(2) && said.contains("--audit-policy-file"), "{code:?}: {said}");
    for (text, why) in [
        (None, "policy.yaml"),
        (Some("kind: Policy"), "policy.yaml"),
        (Some("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: All}]"), "level"),
        (
            Some("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: None, user: [a]}]"),
            "user",
        ),
    ] {
        if let Some(text) = text {
            std::fs::write(&policy, text).unwrap();
        }
        let (code, said) = refused(master(Some(&policy))).await;
        assert!(code == Some(2) && said.contains(why), "{text:?}: {code:?}: {said}");
    }
    assert!(!log.exists() && !root.path().join("m1").exists(), "nothing is half written");
}
