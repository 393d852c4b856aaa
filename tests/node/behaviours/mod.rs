//! What a node does for the pods on it, one behaviour after the other, as upstream's conformance suite asks for
//! it (`tests/conformance/node.tsv` says which of its tests each of these stands for).
//!
//! Many small pods on one machine: each runs a script, prints what it finds, and ends.

mod network;
mod processes;
mod volumes;
mod workloads;

use kontiki::agent::images::own::{Content, File, archive};
use serde_json::{Value, json};

use super::kubectl::{Kubectl, is_ready};
use super::{Machine, pod};

pub const BUSYBOX: &str = "kontiki.test/busybox:1";
/// What scripts here call.
const COMMANDS: [&str; 19] = [
    "cat", "chmod", "cut", "echo", "env", "grep", "id", "ls", "od", "rm", "seq", "sh", "sleep",
    "stat", "test", "touch", "tr", "true", "wget",
];

/// A machine whose node brings in an image with a shell from the archives beside its data.
async fn machine() -> Machine {
    let machine =
        Machine::with_files(|data| {
            let folder = data.join("images");
            std::fs::create_dir_all(&folder).unwrap();
            let busybox = std::fs::read("/bin/busybox").expect("busybox-static is installed");
            let mut files =
                vec![File { path: "bin/busybox".into(), content: Content::Program(busybox) }];
            files.extend(COMMANDS.map(|name| File {
                path: format!("bin/{name}"),
                content: Content::Link("busybox"),
            }));
            let config =
                json!({"Cmd": ["/bin/sh", "-c", "echo the image's own"], "Env": ["PATH=/bin"]});
            let image = archive(BUSYBOX, &files, &config).unwrap();
            std::fs::write(folder.join("busybox.tar"), image).unwrap();
        })
        .await;
    machine.until(&["node", "machine"], is_ready).await;
    machine
}

/// A container that runs a script; `more` is what else is said of it.
fn runs(script: &str, more: Value) -> Value {
    let mut container = json!({"name": "main", "image": BUSYBOX, "command": ["sh", "-c", script]});
    extend(&mut container, more);
    container
}

fn extend(object: &mut Value, more: Value) {
    let Value::Object(more) = more else { return };
    object.as_object_mut().expect("an object").extend(more);
}

/// What a container may have, and asks for.
fn amounts() -> Value {
    let limits = json!({"cpu": "2", "memory": "64Mi"});
    json!({"limits": limits, "requests": {"cpu": "1", "memory": "32Mi"}})
}

/// A pod of one container that is run once; `more` is what else is said of the pod.
fn once(name: &str, container: Value, more: Value) -> Value {
    let mut spec = json!({
        "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container],
    });
    extend(&mut spec, more);
    pod(name, spec)
}

/// Waits until a pod has ended well, and returns what it said.
async fn said(kubectl: &Kubectl, name: &str) -> String {
    let over =
        |pod: &Value| matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    let pod = kubectl.until(&["pod", name], over).await;
    let said = kubectl.does(&["logs", name, "--all-containers"]).await;
    assert_eq!(pod["status"]["phase"], "Succeeded", "{name}: {said}\n{:#}", pod["status"]);
    said
}

/// The same, line by line.
#[track_caller]
fn says(said: &str, wanted: &[&str]) {
    assert_eq!(said.lines().collect::<Vec<_>>(), wanted);
}
