//! Deletes pods that nobody else will: those on nodes that are gone, those that were never put on one and are
//! going, those on nodes declared out of service, and the oldest of too many that have ended.
//!
//! Keeps: a node counts as gone only after it has been missing for a while and the API says so too.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kontiki_api::Status;
use kontiki_api::client::{Client, DeleteOptions, Preconditions};
use kontiki_api::error::Reason;
use kontiki_api::object::time::{Clock, Timestamp};
use tokio_util::sync::CancellationToken;

use super::disruption_target::{Notice, announce};
use super::taints::{self, OUT_OF_SERVICE, node_of};
use super::{Context, Loop, pods};
use crate::reconcile::{Informer, Key};

const NAME: &str = "pod-garbage-collector-controller";
const PERIOD: Duration = Duration::from_secs(20);
/// How long a node has to be missing.
const QUARANTINE_S: i64 = 40;
/// Pods that have ended and are kept for those who want to look at them.
const ENDED_MAX: usize = 12_500;

struct Collector {
    client: Client,
    clock: Clock,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    /// Since when nodes that pods name are missing.
    missing: HashMap<String, Timestamp>,
}

pub fn start(context: &Context) -> Vec<Loop> {
    let collector = Collector {
        client: context.client(NAME),
        clock: context.clock.clone(),
        pods: context.informers.of::<Pod>(),
        nodes: context.informers.of::<Node>(),
        missing: HashMap::new(),
    };
    vec![Loop::task(move |stop| collector.run(stop))]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Ended,
    NeverPlaced,
    OutOfService,
    NodeGone,
}

impl Why {
    fn notice(self) -> Notice {
        match self {
            Why::Ended => Notice { target: None, failed: false },
            Why::NeverPlaced => Notice { target: None, failed: true },
            Why::OutOfService => Notice {
                target: Some(("DeletionByPodGC", "PodGC: node out-of-service")),
                failed: true,
            },
            Why::NodeGone => Notice {
                target: Some(("DeletionByPodGC", "PodGC: node no longer exists")),
                failed: true,
            },
        }
    }
}

impl Collector {
    async fn run(mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
            tokio::select! {
                () = self.collect() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn collect(&mut self) {
        let now = self.clock.now();
        let pods = self.pods.list();
        let named: BTreeSet<_> = pods.iter().filter_map(|pod| node_of(pod)).collect();
        let gone = self.gone(&named, now).await;
        let node = |name: &str| self.nodes.get(&Key::new("", name));
        for (pod, why) in doomed(&pods, &gone, node, ENDED_MAX) {
            if let Err(status) = self.delete(&pod, why, now).await {
                tracing::warn!(pod = %Key::of(&pod.metadata), %status, "a pod was not collected");
            }
        }
    }

    /// The nodes that are missing for long enough, and really.
    async fn gone(&mut self, named: &BTreeSet<&str>, now: Timestamp) -> BTreeSet<String> {
        let missing = |name: &str| self.nodes.get(&Key::new("", name)).is_none();
        self.missing.retain(|name, _| named.contains(name.as_str()) && missing(name));
        for name in named.iter().filter(|name| missing(name)) {
            self.missing.entry((*name).to_owned()).or_insert(now);
        }
        let mut gone = BTreeSet::new();
        for (name, since) in &self.missing {
            if now < since.plus_seconds(QUARANTINE_S) {
                continue;
            }
            match self.client.get::<Node>("", name).await {
                Err(status) if status.is(Reason::NotFound) => drop(gone.insert(name.clone())),
                _ => {}
            }
        }
        gone
    }

    async fn delete(&self, pod: &Pod, why: Why, now: Timestamp) -> Result<(), Status> {
        announce(&self.client, pod, why.notice(), now).await?;
        let key = Key::of(&pod.metadata);
        let uid = pod.metadata.uid.clone();
        let options = DeleteOptions {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid, resource_version: None }),
            ..DeleteOptions::default()
        };
        tracing::debug!(pod = %key, ?why, "collected");
        match self.client.delete::<Pod>(&key.namespace, &key.name, &options).await {
            Err(status) if !status.is(Reason::NotFound) && !status.is(Reason::Conflict) => {
                Err(status)
            }
            _ => Ok(()),
        }
    }
}

/// The pods that are to go, each once, with the reason. Pure.
fn doomed(
    pods: &[Arc<Pod>],
    gone: &BTreeSet<String>,
    node: impl Fn(&str) -> Option<Arc<Node>>,
    ended_max: usize,
) -> Vec<(Arc<Pod>, Why)> {
    let is_going = |pod: &Pod| pod.metadata.deletion_timestamp.is_some();
    let out_of_service = |name: &str| {
        node(name).is_some_and(|node| {
            let tainted = taints::of(&node).iter().any(|it| it.key == OUT_OF_SERVICE);
            tainted && !is_ready(&node)
        })
    };
    let mut doomed = Vec::new();
    let mut ended = Vec::new();
    for pod in pods {
        let why = match node_of(pod) {
            Some(name) if gone.contains(name) => Some(Why::NodeGone),
            Some(name) if is_going(pod) && out_of_service(name) => Some(Why::OutOfService),
            None if is_going(pod) => Some(Why::NeverPlaced),
            _ => None,
        };
        match why {
            Some(why) => doomed.push((pod.clone(), why)),
            None if pods::is_finished(pod) => ended.push(pod.clone()),
            None => {}
        }
    }
    let surplus = ended.len().saturating_sub(ended_max);
    ended.sort_by_key(|pod| {
        let metadata = &pod.metadata;
        (metadata.creation_timestamp.as_ref().map(|time| time.0), metadata.name.clone())
    });
    doomed.extend(ended.into_iter().take(surplus).map(|pod| (pod, Why::Ended)));
    doomed
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref());
    let ready = conditions.unwrap_or_default().iter().find(|it| it.type_ == "Ready");
    ready.is_some_and(|it| it.status == "True")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, node: &str, phase: &str, going: bool) -> Arc<Pod> {
        let deletion = if going { json!("2026-01-01T00:00:00Z") } else { Value::Null };
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "deletionTimestamp": deletion,
                    "creationTimestamp": format!("2026-01-01T00:00:0{}Z", name.len())},
                "spec": {"nodeName": node, "containers": []}, "status": {"phase": phase}}))
            .unwrap(),
        )
    }

    #[test]
    fn pods_go_that_nobody_else_would_take_away() {
        let pods = [
            pod("fine", "up", "Running", false),
            pod("lost", "gone", "Running", false),
            pod("waits", "", "Pending", true),
            pod("stuck", "out", "Running", true),
            pod("still", "out", "Running", false),
            pod("x", "up", "Failed", false),
            pod("xx", "up", "Succeeded", false),
        ];
        let node = |name: &str| -> Option<Arc<Node>> {
            let taints = match name {
                "out" => json!([{"key": OUT_OF_SERVICE, "effect": "NoExecute"}]),
                _ => json!([]),
            };
            let value = json!({"metadata": {"name": name}, "spec": {"taints": taints}});
            Some(Arc::new(serde_json::from_value(value).unwrap()))
        };
        let gone = BTreeSet::from(["gone".to_owned()]);
        let found: Vec<_> = doomed(&pods, &gone, node, 1)
            .into_iter()
            .map(|(pod, why)| (pod.metadata.name.clone().unwrap(), why))
            .collect();
        assert_eq!(
            found,
            [
                ("lost".into(), Why::NodeGone),
                ("waits".into(), Why::NeverPlaced),
                ("stuck".into(), Why::OutOfService),
                ("x".into(), Why::Ended),
            ]
        );
    }
}
