//! `kontiki ps`: which Kontiki processes run on this host, and what runs below its nodes, down to the
//! containers. Read from /proc and from the data directories alone: it works whatever has stopped.
//!
//! Keeps: what cannot be read is left out, not guessed. Nobody is asked anything.

mod containers;
mod proc;

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::config;
use super::output::{Output, bytes, table};
use crate::failure::Failure;
use crate::pki;
use crate::roles::ports::{self, Ports};
use containers::Runtime;
use proc::Entry;

#[derive(Args)]
pub struct List {
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Process {
    pid: u32,
    role: String,
    data_dir: PathBuf,
    resident_bytes: Option<u64>,
    ports: Option<Ports>,
    /// Names of the masters of its cluster, itself included, as it has last written them down.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    members: Vec<String>,
    /// What its node runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    runtime: Option<Runtime>,
}

impl List {
    pub fn run(self) -> Result<(), Failure> {
        let default = config::data_dir()?;
        let entries = proc::all(Path::new("/proc"));
        let processes: Vec<Process> =
            entries.iter().filter_map(|entry| look(entry, &entries, &default)).collect();
        self.output.show(&processes, |processes| say(processes))
    }
}

/// A table with a tree in its first columns.
fn say(processes: &[Process]) -> String {
    let mut rows = Vec::new();
    let memory = |it: Option<u64>| it.map_or("-".into(), bytes);
    for process in processes {
        let port = |of: fn(&Ports) -> u16| {
            process.ports.as_ref().map_or("-".into(), |ports| of(ports).to_string())
        };
        rows.push(vec![
            process.pid.to_string(),
            process.role.clone(),
            port(|it| it.api),
            port(|it| it.peer),
            port(|it| it.store),
            memory(process.resident_bytes),
            match process.members.is_empty() {
                true => "-".into(),
                false => process.members.join(","),
            },
            process.data_dir.display().to_string(),
        ]);
        let below = |depth: usize, pid: u32, name: String, resident: Option<u64>, what: String| {
            let empty = || String::new();
            let name = format!("{}{name}", "  ".repeat(depth));
            vec![pid.to_string(), name, empty(), empty(), empty(), memory(resident), empty(), what]
        };
        let Some(runtime) = &process.runtime else { continue };
        if let Some(pid) = runtime.pid {
            let socket = runtime.socket.display().to_string();
            rows.push(below(1, pid, runtime.name.clone(), runtime.resident_bytes, socket));
        }
        for pod in &runtime.pods {
            let name = format!("{}/{}", pod.namespace, pod.name);
            rows.push(below(2, pod.pid, name, pod.resident_bytes, String::new()));
            for it in &pod.containers {
                let what = it.command.join(" ");
                rows.push(below(3, it.pid, it.name.clone(), it.resident_bytes, what));
            }
        }
    }
    let head =
        ["PID", "ROLE", "API", "PEER", "STORE", "MEMORY", "MEMBERS", "DATA DIRECTORY OR COMMAND"];
    table(&head, rows)
}

/// What runs under one number of /proc, if it is one of ours.
fn look(entry: &Entry, all: &[Entry], default: &Path) -> Option<Process> {
    let (role, told) = parse(&entry.words)?;
    let directory = told.directory.or_else(|| entry.variable("KONTIKI_DATA_DIR").map(Into::into));
    let directory = directory.unwrap_or_else(|| default.to_owned());
    let data_dir = entry.folder().join(directory);
    let is_node = role.contains("node");
    let runtime = is_node.then(|| {
        let endpoint =
            told.runtime.or_else(|| entry.variable("KONTIKI_CONTAINER_RUNTIME_ENDPOINT"));
        containers::of(&data_dir, endpoint.as_deref(), all)
    });
    Some(Process {
        pid: entry.pid,
        ports: ports::read(&data_dir.join("run")).filter(|_| role != "node"),
        members: if role.starts_with("master") { members(&data_dir) } else { Vec::new() },
        role,
        runtime,
        resident_bytes: entry.resident_bytes,
        data_dir,
    })
}

fn members(data_dir: &Path) -> Vec<String> {
    let Ok(Some(origin)) = pki::origin(data_dir) else { return Vec::new() };
    let others = pki::read_peers(data_dir).ok().flatten().unwrap_or_default();
    let mut names: Vec<String> = others.into_iter().map(|it| it.name).collect();
    names.push(origin.name);
    names.sort();
    names
}

/// What a command line says beside the role.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    directory: Option<PathBuf>,
    runtime: Option<String>,
}

/// What a command line says; `None` where it is not ours.
fn parse(words: &[String]) -> Option<(String, Told)> {
    let (program, words) = words.split_first()?;
    if Path::new(program).file_name()? != "kontiki" || words.first()? != "start" {
        return None;
    }
    let role: Vec<&str> =
        words[1..].iter().map(String::as_str).take_while(|word| !word.starts_with('-')).collect();
    let role = if role.is_empty() { "master+node".to_owned() } else { role.join(" ") };
    let value = |flag: &str| {
        let mut found = None;
        for (at, word) in words.iter().enumerate() {
            if word == flag {
                found = words.get(at + 1).cloned();
            } else if let Some(said) = word.strip_prefix(flag).and_then(|it| it.strip_prefix('=')) {
                found = Some(said.to_owned());
            }
        }
        found
    };
    let told = Told {
        directory: value("--data-dir").map(PathBuf::from),
        runtime: value("--container-runtime-endpoint"),
    };
    Some((role, told))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_command_line_tells_role_directory_and_runtime() {
        let told = |line: &str| parse(&words(line));
        let here = |runtime: Option<&str>| Told {
            directory: Some("/d".into()),
            runtime: runtime.map(str::to_owned),
        };
        assert_eq!(
            told("/usr/bin/kontiki start master api --data-dir /d"),
            Some(("master api".into(), here(None)))
        );
        assert_eq!(told("kontiki start --data-dir=/d"), Some(("master+node".into(), here(None))));
        assert_eq!(
            told("kontiki start node --container-runtime-endpoint unix:///r --data-dir /d"),
            Some(("node".into(), here(Some("unix:///r"))))
        );
        assert_eq!(told("kontiki start node"), Some(("node".into(), Told::default())));
        assert_eq!(told("kontiki status"), None);
        assert_eq!(told("vim kontiki start"), None);
    }

    /// A process as the kernel shows it.
    fn process(root: &Path, pid: u32, parent: u32, line: &str, group: &str, folder: &Path) {
        let it = root.join(pid.to_string());
        fs::create_dir_all(&it).unwrap();
        fs::write(it.join("cmdline"), line.replace(' ', "\0") + "\0").unwrap();
        fs::write(it.join("stat"), format!("{pid} (a (name) S 1) S {parent} 1 1")).unwrap();
        fs::write(it.join("status"), "Name:\tit\nVmRSS:\t   2048 kB\n").unwrap();
        fs::write(it.join("cgroup"), format!("3:cpu:/\n2:memory:{group}\n0::/\n")).unwrap();
        fs::write(it.join("environ"), "A=b\0").unwrap();
        std::os::unix::fs::symlink(folder, it.join("cwd")).unwrap();
    }

    #[test]
    fn a_node_is_shown_with_its_runtime_its_pods_and_their_containers() {
        let folder = tempfile::tempdir().unwrap();
        let (root, data) = (folder.path().join("proc"), folder.path().join("data"));
        let socket = data.join("run/containerd.sock");
        let bundles = data.join("run/containerd/k8s.io");
        for (id, text) in [
            (
                "sandbox1",
                r#"{"annotations": {"io.kubernetes.cri.sandbox-name": "web",
                "io.kubernetes.cri.sandbox-namespace": "shop"}}"#,
            ),
            ("id2", r#"{"annotations": {"io.kubernetes.cri.container-name": "main"}}"#),
        ] {
            fs::create_dir_all(bundles.join(id)).unwrap();
            fs::write(bundles.join(id).join("config.json"), text).unwrap();
        }
        let home = folder.path();
        let line = format!("kontiki start node --data-dir {}", data.display());
        process(&root, 10, 1, &line, "/", home);
        let line = format!("containerd --config {}/containerd/config.toml", data.display());
        process(&root, 20, 10, &line, "/", home);
        let shim = |id: &str, socket: &Path| {
            let socket = socket.display();
            format!("containerd-shim-runc-v2 -namespace k8s.io -id {id} -address {socket}")
        };
        process(&root, 30, 1, &shim("sandbox1", &socket), "/", &bundles.join("sandbox1"));
        process(&root, 31, 30, "/pause", "/kubepods/podx/sandbox1", home);
        process(&root, 32, 30, "demo serve", "/kubepods/podx/id2", home);
        process(&root, 33, 32, "not the first of its container", "/kubepods/podx/id2", home);
        // Another runtime's.
        process(&root, 40, 1, &shim("sandbox9", Path::new("/other.sock")), "/", home);
        let entries = proc::all(&root);
        let found: Vec<_> = entries.iter().filter_map(|it| look(it, &entries, home)).collect();
        let [node] = &found[..] else { panic!("{found:#?}") };
        let runtime = node.runtime.as_ref().unwrap();
        assert_eq!((runtime.pid, &runtime.socket, runtime.pods.len()), (Some(20), &socket, 1));
        let pod = &runtime.pods[0];
        assert_eq!((&*pod.namespace, &*pod.name, pod.pid), ("shop", "web", 30));
        let containers: Vec<_> = pod.containers.iter().map(|it| (it.pid, &*it.name)).collect();
        assert_eq!(containers, [(31, "pause"), (32, "main")]);
        assert_eq!(pod.containers[1].resident_bytes, Some(2 << 20));
        let said = say(&found);
        let places = ["node", "  containerd", "    shop/web", "      main"];
        let lines: Vec<_> =
            places.map(|it| said.find(it).unwrap_or_else(|| panic!("{said}"))).into();
        assert!(lines.is_sorted(), "{said}");
    }
}
