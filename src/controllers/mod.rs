//! The core control loops, by upstream's names.
//!
//! Each loop is one file: it says which informers it reads and which of their changes concern which key,
//! decides by a pure function, and performs the decision through the client. Loops know each other only
//! through objects.
//!
//! Keeps: a term of leadership starts from full lists and ends with one token; every write says what it saw
//! (a uid, a resourceVersion), so that what a deposed leader still has under way can do no harm.

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use kontiki_api::client::Client;
use kontiki_api::object::time::Clock;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::reconcile::{Informers, Key, Metrics, Queue, Reconcile, Recorder, run};

mod amount;
mod cron_job;
mod daemon_set;
mod deployment;
mod job;
mod ownership;
mod pod_writer;
mod pods;
mod replica_set;
mod revisions;
mod root_ca;
mod service_account;
mod stateful_set;
mod template;
mod ttl_after_finished;

/// Workers of a loop that says nothing else (upstream's `--concurrent-*` defaults are 5 for most).
const WORKERS: usize = 5;

/// What a loop is given.
#[derive(Clone)]
pub struct Context {
    pub client: Client,
    pub informers: Informers,
    pub recorder: Recorder,
    pub metrics: Metrics,
    pub clock: Clock,
    pub settings: Settings,
}

/// What loops need to know of the cluster.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// PEM of the certificates that pods verify the API server with.
    pub root_ca: String,
    /// PEM of the CA that signs certificate requests, with its key; empty where this process may not sign.
    pub signing_certificate: String,
    pub signing_key: String,
    /// Where nodes' pod networks are cut from, and how long their prefixes are.
    pub cluster_cidr: String,
    pub node_prefix_length: u8,
    pub service_cidr: String,
}

/// A loop that is ready to run: everything it watches is known.
pub struct Loop(Box<dyn FnOnce(CancellationToken) -> BoxFuture<'static, ()> + Send>);

impl Loop {
    /// A reconciler on its queue.
    pub fn new<R: Reconcile>(reconciler: R, queue: Queue<R::Key>, workers: usize) -> Loop {
        Loop(Box::new(move |stop| {
            Box::pin(run(std::sync::Arc::new(reconciler), queue, workers, stop))
        }))
    }

    /// Anything else that runs until its token ends.
    pub fn task<F>(task: impl FnOnce(CancellationToken) -> F + Send + 'static) -> Loop
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Loop(Box::new(|stop| Box::pin(task(stop))))
    }
}

/// One line of the roster.
pub struct Entry {
    pub name: &'static str,
    /// What it looks after, for the help text.
    pub about: &'static str,
    pub on_by_default: bool,
    /// Prepares the loop; a controller may have several.
    start: fn(&Context) -> Vec<Loop>,
}

/// Every loop there is, in the order in which they are started.
pub const ROSTER: &[Entry] = &[
    Entry {
        name: "serviceaccount-controller",
        about: "the `default` ServiceAccount of every namespace",
        on_by_default: true,
        start: service_account::start,
    },
    Entry {
        name: "root-ca-certificate-publisher-controller",
        about: "the ConfigMap `kube-root-ca.crt` of every namespace",
        on_by_default: true,
        start: root_ca::start,
    },
    Entry {
        name: "replicaset-controller",
        about: "the pods of ReplicaSets",
        on_by_default: true,
        start: replica_set::start,
    },
    Entry {
        name: "replicationcontroller-controller",
        about: "the pods of ReplicationControllers",
        on_by_default: true,
        start: replica_set::start_replication_controllers,
    },
    Entry {
        name: "deployment-controller",
        about: "the ReplicaSets of Deployments, and their rollouts",
        on_by_default: true,
        start: deployment::start,
    },
    Entry {
        name: "daemonset-controller",
        about: "one pod of each DaemonSet on every node it belongs on",
        on_by_default: true,
        start: daemon_set::start,
    },
    Entry {
        name: "statefulset-controller",
        about: "the pods of StatefulSets, with names and claims of their own",
        on_by_default: true,
        start: stateful_set::start,
    },
    Entry {
        name: "job-controller",
        about: "the pods of Jobs, each counted once",
        on_by_default: true,
        start: job::start,
    },
    Entry {
        name: "cronjob-controller",
        about: "Jobs that are due again and again",
        on_by_default: true,
        start: cron_job::start,
    },
    Entry {
        name: "ttl-after-finished-controller",
        about: "the end of Jobs that ended long enough ago",
        on_by_default: true,
        start: ttl_after_finished::start,
    },
];

/// Which loops run: `*` for those that are on by default, `name` for one more, `-name` for one less.
#[derive(Clone, Debug)]
pub struct Selection(Vec<String>);

impl Default for Selection {
    fn default() -> Self {
        Selection(vec!["*".into()])
    }
}

impl Selection {
    /// Refuses a name that is not on the roster.
    pub fn new(names: Vec<String>) -> Result<Selection, String> {
        for name in &names {
            let bare = name.strip_prefix('-').unwrap_or(name);
            if bare != "*" && !ROSTER.iter().any(|entry| entry.name == bare) {
                return Err(format!(
                    "no controller is named {bare:?}; `kontiki start master controllers --help` lists them"
                ));
            }
        }
        Ok(Selection(names))
    }

    #[must_use]
    pub fn contains(&self, entry: &Entry) -> bool {
        let named = |text: &str| self.0.iter().any(|name| name == text);
        if named(&format!("-{}", entry.name)) {
            return false;
        }
        named(entry.name) || entry.on_by_default && named("*")
    }
}

/// The roster as a text for people.
#[must_use]
pub fn roster() -> String {
    let longest = ROSTER.iter().map(|entry| entry.name.len()).max().unwrap_or(0);
    let lines: BTreeMap<_, _> = ROSTER
        .iter()
        .map(|entry| {
            let off = if entry.on_by_default { "" } else { " (off by default)" };
            (entry.name, format!("  {:longest$}  {}{off}\n", entry.name, entry.about))
        })
        .collect();
    lines.into_values().collect()
}

/// Runs the selected loops until `stop`: informers first, loops when everything is known.
pub async fn run_all(context: Context, selection: &Selection, stop: CancellationToken) {
    let loops: Vec<_> = ROSTER
        .iter()
        .filter(|entry| selection.contains(entry))
        .flat_map(|entry| (entry.start)(&context))
        .collect();
    let informers = context.informers.clone();
    let mut running = JoinSet::new();
    running.spawn({
        let (informers, stop) = (informers.clone(), stop.clone());
        async move { informers.run(stop).await }
    });
    tokio::select! {
        () = informers.synced() => {}
        () = stop.cancelled() => {}
    }
    if !stop.is_cancelled() {
        tracing::info!(loops = loops.len(), "controllers run");
        for Loop(start) in loops {
            running.spawn(start(stop.clone()));
        }
    }
    while running.join_next().await.is_some() {}
}

impl Context {
    /// The queue of a loop, with its metrics.
    #[must_use]
    pub fn queue(&self, name: &str) -> Queue<Key> {
        Queue::new(self.metrics.queue(name))
    }

    /// The client under the loop's own name, which its writes carry as field manager.
    #[must_use]
    pub fn client(&self, name: &str) -> Client {
        self.client.named(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(names: &[&str]) -> Vec<&'static str> {
        let selection = Selection::new(names.iter().map(|name| (*name).into()).collect()).unwrap();
        let chosen = ROSTER.iter().filter(|entry| selection.contains(entry));
        chosen.map(|entry| entry.name).collect()
    }

    #[test]
    fn a_selection_adds_to_the_defaults_and_takes_from_them() {
        let on = ROSTER.iter().filter(|entry| entry.on_by_default).count();
        assert_eq!(chosen(&["*"]).len(), on);
        assert_eq!(chosen(&["replicaset-controller"]), ["replicaset-controller"]);
        assert!(!chosen(&["*", "-replicaset-controller"]).contains(&"replicaset-controller"));
        assert!(Selection::new(vec!["no-such".into()]).is_err());
    }
}
