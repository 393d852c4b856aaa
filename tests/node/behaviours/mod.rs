//! What a node does for the pods on it, one behaviour after the other, as upstream's conformance suite asks for
//! it (`tests/conformance/node.tsv` says which of its tests each of these stands for).
//!
//! Many small pods on one machine: each runs a script, prints what it finds, and ends.

mod amounts;
mod images;
mod network;
mod processes;
mod volumes;
mod workloads;

use std::io::Read;

use kontiki::agent::images::own::{self, Content, File, archive};
use serde_json::{Value, json};

use super::kubectl::{Kubectl, is_ready};
use super::{Machine, pod};

pub const BUSYBOX: &str = "kontiki.test/busybox:1";
/// What scripts here call: of busybox, and of the demo program, which can look names up without a library.
const COMMANDS: [&str; 18] = [
    "cat", "chmod", "cut", "echo", "env", "grep", "id", "ls", "od", "rm", "seq", "sh", "sleep",
    "stat", "test", "touch", "tr", "true",
];
const OTHERS: [&str; 3] = ["ask", "get", "send"];

/// The demo program, out of the image that holds it.
fn demo() -> Vec<u8> {
    let (_, build) = own::all()[1];
    let mut archive = Vec::new();
    build(&mut archive).unwrap();
    let read = |entry: &mut dyn Read| {
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        bytes
    };
    for blob in tar::Archive::new(&archive[..]).entries().unwrap() {
        let blob = read(&mut blob.unwrap());
        // Not every blob is a layer.
        for mut file in tar::Archive::new(&blob[..]).entries().unwrap().map_while(Result::ok) {
            if file.path().is_ok_and(|it| it.ends_with("bin/demo")) {
                return read(&mut file);
            }
        }
    }
    panic!("the demo image has no demo");
}

/// A machine whose node brings in an image with a shell from the archives beside its data.
async fn machine() -> Machine {
    let machine = Machine::with_files(|data| {
        let folder = data.join("images");
        std::fs::create_dir_all(&folder).unwrap();
        let busybox = std::fs::read("/bin/busybox").expect("busybox-static is installed");
        let program = |name: &str, bytes: Vec<u8>| {
            let path = format!("bin/{name}");
            File { path, content: Content::Program(bytes.into()) }
        };
        let link =
            |name: &str, to| File { path: format!("bin/{name}"), content: Content::Link(to) };
        let mut files = vec![program("busybox", busybox), program("demo", demo())];
        files.extend(OTHERS.map(|name| link(name, "demo")));
        files.extend(COMMANDS.map(|name| link(name, "busybox")));
        let config = json!({"Cmd": ["/bin/sh", "-c", "echo of the image"], "Env": ["PATH=/bin"]});
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
