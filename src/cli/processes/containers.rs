//! What a node's container runtime runs: a shim for each pod, and below it the first process of each container.
//! Names are in the bundles that the runtime has written for them.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::proc::Entry;

/// Where the system's containerd answers.
const DEFAULT: &str = "/run/containerd/containerd.sock";

#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Runtime {
    /// `None`: it is not there, or it is none that we know the look of.
    pub pid: Option<u32>,
    pub name: String,
    pub socket: PathBuf,
    pub resident_bytes: Option<u64>,
    pub pods: Vec<Pod>,
}

/// A pod, by its shim.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    pub pid: u32,
    pub resident_bytes: Option<u64>,
    pub containers: Vec<Container>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Container {
    pub name: String,
    pub id: String,
    pub pid: u32,
    pub command: Vec<String>,
    pub resident_bytes: Option<u64>,
}

/// The runtime of the node in `data_dir`: the one that was asked for, its own, or the system's.
pub fn of(data_dir: &Path, endpoint: Option<&str>, all: &[Entry]) -> Runtime {
    let config = data_dir.join("containerd/config.toml");
    let own = all.iter().find(|it| {
        it.program() == Some("containerd")
            && it.flag("--config").is_some_and(|it| Path::new(it) == config)
    });
    let (found, socket) = match (endpoint, own) {
        (None, Some(own)) => (Some(own), data_dir.join("run/containerd.sock")),
        _ => {
            let socket = endpoint.map_or(DEFAULT, |it| it.strip_prefix("unix://").unwrap_or(it));
            let is_default = socket == DEFAULT;
            let system = all.iter().find(|it| {
                is_default && it.program() == Some("containerd") && it.flag("--config").is_none()
            });
            (system, PathBuf::from(socket))
        }
    };
    let shims = all.iter().filter(|it| {
        it.program().is_some_and(|it| it.starts_with("containerd-shim"))
            && it.flag("-address").is_some_and(|it| Path::new(it) == socket)
    });
    Runtime {
        pid: found.map(|it| it.pid),
        name: "containerd".into(),
        resident_bytes: found.and_then(|it| it.resident_bytes),
        pods: shims.map(|shim| pod(shim, all)).collect(),
        socket,
    }
}

fn pod(shim: &Entry, all: &[Entry]) -> Pod {
    let id = shim.flag("-id").unwrap_or_default();
    // A shim is at work in the bundle of its sandbox; the others' lie beside that.
    let bundle = shim.folder();
    let bundles = bundle.parent().unwrap_or(&bundle);
    let told = annotations(&bundle);
    let text = |key: &str| told[key].as_str().map(str::to_owned);
    let containers = all.iter().filter(|it| it.parent == shim.pid).map(|it| {
        let of = it.group().unwrap_or_default();
        let named = &annotations(&bundles.join(&of))["io.kubernetes.cri.container-name"];
        let name = match named.as_str() {
            Some(name) => name.to_owned(),
            None if of == id => "pause".into(),
            None => "?".into(),
        };
        let (command, resident_bytes) = (it.words.clone(), it.resident_bytes);
        Container { name, id: of, pid: it.pid, command, resident_bytes }
    });
    Pod {
        namespace: text("io.kubernetes.cri.sandbox-namespace").unwrap_or_else(|| "?".into()),
        name: text("io.kubernetes.cri.sandbox-name").unwrap_or_else(|| id.to_owned()),
        pid: shim.pid,
        resident_bytes: shim.resident_bytes,
        containers: containers.collect(),
    }
}

/// What the runtime has noted about a container.
fn annotations(bundle: &Path) -> Value {
    let text = fs::read(bundle.join("config.json")).unwrap_or_default();
    let mut config: Value = serde_json::from_slice(&text).unwrap_or_default();
    config.get_mut("annotations").map(Value::take).unwrap_or_default()
}
