//! A walk through a master with kubectl.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::support::Cluster;

/// How long kubectl may wait for one answer.
const REQUEST: &str = "--request-timeout=40s";
/// How often a command is run at most until it says what is waited for.
const ATTEMPTS: usize = 600;

/// Where `.ci/clients` has put the clients.
pub fn clients() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/.ci/clients");
        let output = Command::new(script).stderr(Stdio::inherit()).output().expect("it runs");
        assert!(output.status.success(), "{script} failed");
        PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
    })
}

/// One kubectl, in one namespace.
pub struct Kubectl {
    program: PathBuf,
    /// Its minor release.
    pub minor: u32,
    pub namespace: String,
    /// Files of the walk, kubectl's cache, and the kubeconfig.
    pub folder: PathBuf,
}

pub struct Said {
    pub command: String,
    pub good: bool,
    pub out: String,
    pub err: String,
}

/// Walks through one master with each kubectl.
pub async fn tour(walk: impl Fn(&Kubectl) + Sync) {
    let cluster = Cluster::of_one().await;
    let master = &cluster.masters[0];
    let config = std::fs::read_to_string(master.directory.join("kubeconfig")).unwrap();
    let both = [("kubectl-1.32", 32), ("kubectl", 37)];
    let kubectls = both.map(|(name, minor)| {
        let folder = cluster.root.path().join(format!("walk-{minor}"));
        Kubectl::new(clients().join("bin").join(name), minor, folder, &config)
    });
    std::thread::scope(|scope| {
        for kubectl in &kubectls {
            scope.spawn(|| {
                kubectl.run(&["create", "namespace", &kubectl.namespace]).good();
                // What pods need is made by a controller.
                kubectl.until(&["get", "serviceaccount", "default"], |said| said.good);
                walk(kubectl);
            });
        }
    });
}

impl Kubectl {
    pub fn new(program: PathBuf, minor: u32, folder: PathBuf, config: &str) -> Kubectl {
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("kubeconfig"), config).unwrap();
        Kubectl { program, minor, namespace: format!("n{minor}"), folder }
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        let config = self.folder.join("kubeconfig");
        command
            .current_dir(&self.folder)
            .env_clear()
            .env("HOME", &self.folder)
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .arg("--kubeconfig")
            .arg(config)
            .args(["--namespace", &self.namespace, REQUEST])
            .args(arguments);
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Said {
        self.feed(arguments, "")
    }

    /// Runs a command with something to read.
    pub fn feed(&self, arguments: &[&str], input: &str) -> Said {
        self.finish(self.command(arguments), input)
    }

    /// `kubectl edit`, with a script of `sed` for an editor.
    pub fn edit(&self, arguments: &[&str], script: &str) -> Said {
        let editor = self.file("editor", &format!("#!/bin/sh\nsed -i '{script}' \"$1\"\n"));
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&editor, executable).unwrap();
        let mut command = self.command(arguments);
        command.env("KUBE_EDITOR", editor);
        self.finish(command, "")
    }

    fn finish(&self, mut command: Command, input: &str) -> Said {
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().expect("kubectl starts");
        let mut stdin = child.stdin.take().expect("it is piped");
        // It may end without reading all of it.
        stdin.write_all(input.as_bytes()).ok();
        drop(stdin);
        let output = child.wait_with_output().expect("kubectl ends");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut said = format!("kubectl 1.{}", self.minor);
        for argument in command.get_args().skip(5) {
            write!(said, " {}", argument.display()).unwrap();
        }
        Said {
            command: said,
            good: output.status.success(),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }

    /// Runs a command again and again until what it says is as wanted.
    #[track_caller]
    pub fn until(&self, arguments: &[&str], wanted: impl Fn(&Said) -> bool) -> Said {
        // A client is a process of its own: there is no need to wait between two of them.
        for _ in 0..ATTEMPTS {
            let said = self.run(arguments);
            if wanted(&said) {
                return said;
            }
        }
        panic!("it does not come to be: {}", self.run(arguments).told());
    }

    /// A file of the walk; returns its path.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// It succeeds, and prints exactly this (but for the last line's end).
    #[track_caller]
    pub fn says(&self, arguments: &[&str], wanted: &str) {
        let said = self.run(arguments).good();
        assert_eq!(said.out.trim_end(), wanted, "{}", said.told());
    }

    /// It succeeds, and all of these are in what it prints.
    #[track_caller]
    pub fn shows(&self, arguments: &[&str], wanted: &[&str]) -> Said {
        self.run(arguments).good().has(wanted)
    }

    /// It fails, with all of these in what it says of it.
    #[track_caller]
    pub fn fails(&self, arguments: &[&str], wanted: &[&str]) -> Said {
        let said = self.run(arguments);
        assert!(!said.good, "it should fail: {}", said.told());
        said.has(wanted)
    }

    /// How this release tells of a deletion.
    pub fn deleted(&self, what: &str) -> String {
        match self.minor {
            ..34 => format!("{what} deleted"),
            _ => format!("{what} deleted from {} namespace", self.namespace),
        }
    }
}

impl Said {
    pub fn told(&self) -> String {
        format!("{}\nstdout: {}\nstderr: {}", self.command, self.out, self.err)
    }

    #[track_caller]
    pub fn good(self) -> Said {
        assert!(self.good, "it should succeed: {}", self.told());
        self
    }

    #[track_caller]
    pub fn has(self, wanted: &[&str]) -> Said {
        for part in wanted {
            let there = self.out.contains(part) || self.err.contains(part);
            assert!(there, "{part:?} is missing: {}", self.told());
        }
        self
    }

    /// Each line's words.
    pub fn rows(&self) -> Vec<Vec<&str>> {
        self.out.lines().map(|line| line.split_whitespace().collect()).collect()
    }
}

/// A deployment as users write one.
pub fn deployment(replicas: u32) -> String {
    format!(
        "apiVersion: apps/v1\n\
         kind: Deployment\n\
         metadata:\n  name: web\n  labels: {{app: web}}\n\
         spec:\n  replicas: {replicas}\n  selector: {{matchLabels: {{app: web}}}}\n  \
         template:\n    metadata: {{labels: {{app: web}}}}\n    \
         spec:\n      containers:\n      - name: c\n        image: nginx\n        \
         ports: [{{containerPort: 80}}]\n"
    )
}
