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
mod certificates;
mod cluster_role_aggregation;
mod cron_job;
mod daemon_set;
mod deployment;
mod disruption;
mod disruption_target;
mod dynamic;
mod endpoint;
mod endpoint_slice;
mod endpoint_slice_mirroring;
mod garbage;
mod job;
#[cfg(test)]
mod live_tests;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod ownership;
mod persistent_volume;
mod pod_garbage;
mod pod_writer;
mod pods;
mod replica_set;
mod resource_quota;
mod revisions;
mod root_ca;
mod service_account;
mod service_account_token;
mod service_cidr;
mod slices;
mod stateful_set;
mod taint_eviction;
mod taints;
mod template;
mod token_cleaner;
mod ttl;
mod ttl_after_finished;
mod volume_protection;
#[cfg(test)]
mod workload_tests;

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
        name: "namespace-controller",
        about: "empties namespaces that are going",
        on_by_default: true,
        start: namespace::start,
    },
    Entry {
        name: "garbage-collector-controller",
        about: "deletes what has lost its owners",
        on_by_default: true,
        start: garbage::start,
    },
    Entry {
        name: "endpointslice-controller",
        about: "the EndpointSlices of services that select pods",
        on_by_default: true,
        start: endpoint_slice::start,
    },
    Entry {
        name: "endpoints-controller",
        about: "the Endpoints of services that select pods",
        on_by_default: true,
        start: endpoint::start,
    },
    Entry {
        name: "endpointslice-mirroring-controller",
        about: "Endpoints that people keep, as EndpointSlices",
        on_by_default: true,
        start: endpoint_slice_mirroring::start,
    },
    Entry {
        name: "node-lifecycle-controller",
        about: "what is heard of nodes, in conditions and taints",
        on_by_default: true,
        start: node_lifecycle::start,
    },
    Entry {
        name: "taint-eviction-controller",
        about: "pods on nodes that they do not tolerate",
        on_by_default: true,
        start: taint_eviction::start,
    },
    Entry {
        name: "pod-garbage-collector-controller",
        about: "pods that nobody else takes away",
        on_by_default: true,
        start: pod_garbage::start,
    },
    Entry {
        name: "disruption-controller",
        about: "the status of PodDisruptionBudgets",
        on_by_default: true,
        start: disruption::start,
    },
    Entry {
        name: "node-ipam-controller",
        about: "each node's piece of the pod network",
        on_by_default: true,
        start: node_ipam::start,
    },
    Entry {
        name: "ttl-controller",
        about: "how long agents may keep secrets and config maps",
        on_by_default: true,
        start: ttl::start,
    },
    Entry {
        name: "clusterrole-aggregation-controller",
        about: "the rules of ClusterRoles that gather others",
        on_by_default: true,
        start: cluster_role_aggregation::start,
    },
    Entry {
        name: "certificatesigningrequest-approving-controller",
        about: "approves the certificates that nodes ask for themselves",
        on_by_default: true,
        start: certificates::approving::start,
    },
    Entry {
        name: "certificatesigningrequest-signing-controller",
        about: "signs approved certificate requests",
        on_by_default: true,
        start: certificates::signing::start,
    },
    Entry {
        name: "certificatesigningrequest-cleaner-controller",
        about: "certificate requests that nobody needs any more",
        on_by_default: true,
        start: certificates::cleaning::start,
    },
    Entry {
        name: "token-cleaner-controller",
        about: "bootstrap tokens whose time is over",
        on_by_default: true,
        start: token_cleaner::start,
    },
    Entry {
        name: "resourcequota-controller",
        about: "what quotas limit, counted anew",
        on_by_default: true,
        start: resource_quota::start,
    },
    Entry {
        name: "serviceaccount-token-controller",
        about: "Secrets that ask for a ServiceAccount's token",
        on_by_default: true,
        start: service_account_token::start,
    },
    Entry {
        name: "service-cidr-controller",
        about: "whether ServiceCIDRs are ready, and may go",
        on_by_default: true,
        start: service_cidr::start,
    },
    Entry {
        name: "persistentvolumeclaim-protection-controller",
        about: "claims that pods use",
        on_by_default: true,
        start: volume_protection::start_claims,
    },
    Entry {
        name: "persistentvolume-protection-controller",
        about: "volumes that claims use",
        on_by_default: true,
        start: volume_protection::start_volumes,
    },
    Entry {
        name: "volumeattributesclass-protection-controller",
        about: "classes of volume attributes that claims and volumes name",
        on_by_default: true,
        start: volume_protection::start_classes,
    },
    Entry {
        name: "persistentvolume-binder-controller",
        about: "brings claims and volumes together, and makes directories on nodes",
        on_by_default: true,
        start: persistent_volume::start,
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
#[derive(Clone, Debug, PartialEq, Eq)]
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
            if name != "*" && !ROSTER.iter().any(|entry| entry.name == bare) {
                let mut known: Vec<_> = ROSTER.iter().map(|entry| entry.name).collect();
                known.sort_unstable();
                return Err(format!(
                    "no controller is named {bare:?}; there are {}",
                    known.join(", ")
                ));
            }
        }
        Ok(Selection(names))
    }

    /// As upstream reads it: what a loop's own name says comes first, whatever the order.
    #[must_use]
    pub fn contains(&self, entry: &Entry) -> bool {
        let own = self.0.iter().find(|name| name.strip_prefix('-').unwrap_or(name) == entry.name);
        match own {
            Some(name) => !name.starts_with('-'),
            None => entry.on_by_default && self.0.iter().any(|name| name == "*"),
        }
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
        assert!(chosen(&["-replicaset-controller"]).is_empty(), "nothing was asked for");
        let refused = Selection::new(vec!["no-such".into()]).unwrap_err();
        assert!(refused.contains("no-such") && refused.contains("ttl-controller"), "{refused}");
        assert!(Selection::new(vec!["-*".into()]).is_err());
    }
}
