//! Clients in other languages against a real master: Python, kopf, Helm of two lines, and kube-rs.
//!
//! `.ci/clients` installs them. Each script beside this file is one walk; it says what is wrong and fails.

mod rust;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "other suites use what this one does not")]
mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::Cluster;

/// Where `.ci/clients` has put the clients.
fn clients() -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/.ci/clients");
    let output = Command::new(script).stderr(Stdio::inherit()).output().expect("it runs");
    assert!(output.status.success(), "{script} failed");
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

/// Runs a script against a master of its own.
async fn walk(program: &str, script: &str) {
    let cluster = Cluster::of_one().await;
    let bin = clients().join("bin");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new(bin.join(program))
        .arg(folder.join(script))
        .current_dir(cluster.root.path())
        .env_clear()
        .env("PATH", format!("{}:{path}", bin.display()))
        .env("HOME", cluster.root.path())
        .env("KUBECONFIG", cluster.masters[0].directory.join("kubeconfig"))
        .env("CLIENTS", &folder)
        .output()
        .expect("it starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{script}: {}\n{out}\n{err}", output.status);
}

#[tokio::test]
async fn the_python_client_works() {
    walk("python", "walk.py").await;
}

#[tokio::test]
async fn an_operator_of_kopf_works() {
    walk("python", "operator_walk.py").await;
}

#[tokio::test]
async fn helm_as_a_library_installs_upgrades_and_takes_away() {
    walk("python", "helm_walk.py").await;
}

#[tokio::test]
async fn helm_on_the_command_line_installs_upgrades_and_goes_back() {
    let cluster = Cluster::of_one().await;
    let bin = clients().join("bin");
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/chart");
    let chart = chart.display().to_string();
    let helm = |arguments: &[&str]| {
        let output = Command::new(bin.join("helm"))
            .args(["--namespace", "charts"])
            .args(arguments)
            .env_clear()
            .env("HOME", cluster.root.path())
            .env("KUBECONFIG", cluster.masters[0].directory.join("kubeconfig"))
            .output()
            .expect("helm starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "helm {arguments:?}\n{out}\n{err}");
        out
    };
    let colour = || {
        let said = helm(&["get", "manifest", "demo"]);
        said.lines().find(|line| line.contains("color:")).unwrap_or_default().trim().to_owned()
    };
    helm(&["install", "demo", &chart, "--create-namespace"]);
    assert_eq!(colour(), "color: red");
    helm(&["upgrade", "demo", &chart, "--set", "color=blue,replicas=2"]);
    assert_eq!(colour(), "color: blue");
    helm(&["rollback", "demo", "1"]);
    assert_eq!(colour(), "color: red");
    let history = helm(&["history", "demo"]);
    assert!(history.contains("Rollback to 1"), "{history}");
    assert!(helm(&["list"]).contains("demo-0.1.0"));
    helm(&["uninstall", "demo"]);
    assert!(!helm(&["list", "--all"]).contains("demo-0.1.0"));
}
