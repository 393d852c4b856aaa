//! Listens for nodes, and says in their status and taints what it hears.
//!
//! Two loops: one turns what a node says of itself into taints as soon as it says it; the other looks every
//! few seconds for those that say nothing (by the Lease that their agent's session renews), sets their
//! conditions to Unknown, their pods to not ready, and gives them up by a `NoExecute` taint, as fast as
//! [`zones`] allow.
//!
//! Keeps: silence is counted by a clock that nobody sets: a calendar that jumps silences no node.
//! Never: deletes a pod; `taint_eviction` does, by the taints.

mod health;
mod zones;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use kontiki_api::Status;
use kontiki_api::client::{Client, PatchKind};
use kontiki_api::error::Reason;
use kontiki_api::object::time::{Clock, Timestamp};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use self::health::{Health, Ready};
use self::zones::{Turn, Zones, zone_of};
use super::taints::{self, BY_NODE, NO_EXECUTE, NOT_READY, UNREACHABLE, index_by_node};
use super::{Context, Loop, pods};
use crate::reconcile::{Informer, Key, Next, Reconcile, Recorder, Steady};

const NAME: &str = "node-lifecycle-controller";
const WORKERS: usize = 8;
const LEASES: &str = "kube-node-lease";
const PERIOD: Duration = Duration::from_secs(5);
const EXCLUDED: &str = "node.kubernetes.io/exclude-disruption";
/// Labels of old that follow those of today.
const LABELS: [(&str, &str); 2] = [
    ("kubernetes.io/os", "beta.kubernetes.io/os"),
    ("kubernetes.io/arch", "beta.kubernetes.io/arch"),
];

pub fn start(context: &Context) -> Vec<Loop> {
    let queue = context.queue(NAME);
    let nodes = context.informers.of::<Node>();
    let pods = context.informers.of::<Pod>();
    index_by_node(&pods);
    nodes.on({
        let queue = queue.clone();
        move |delta| queue.add(Key::of(&delta.object().metadata))
    });
    let client = context.client(NAME);
    let taints = Taints { client: client.clone(), nodes: nodes.clone() };
    let monitor = Monitor {
        client,
        recorder: context.recorder.of(NAME),
        clock: context.clock.clone(),
        steady: Steady::from(&context.clock),
        nodes,
        pods,
        leases: context.informers.of::<Lease>(),
        healths: HashMap::new(),
        zones: Zones::default(),
        unmarked: BTreeSet::new(),
    };
    vec![Loop::new(taints, queue, WORKERS), Loop::task(move |stop| monitor.run(stop))]
}

/// Turns what nodes say of themselves into taints.
struct Taints {
    client: Client,
    nodes: Informer<Node>,
}

impl Reconcile for Taints {
    type Key = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Status> {
        let Some(node) = self.nodes.get(key) else { return Ok(Next::WhenChanged) };
        if let Some(taints) = health::with_no_schedule(&node) {
            write_taints(&self.client, &node, &taints).await?;
            // The rest follows when the node shows it.
            return Ok(Next::WhenChanged);
        }
        let labels = missing_labels(&node);
        if labels.as_object().is_some_and(|it| !it.is_empty()) {
            patch(&self.client, &node, json!({"metadata": {"labels": labels}})).await?;
        }
        Ok(Next::WhenChanged)
    }
}

fn missing_labels(node: &Node) -> Value {
    let mut missing = json!({});
    for (key, elder) in LABELS {
        let labels = node.metadata.labels.as_ref();
        let value = |key: &str| labels.and_then(|labels| labels.get(key));
        if let Some(now) = value(key).filter(|now| value(elder) != Some(now)) {
            missing[elder] = now.as_str().into();
        }
    }
    missing
}

async fn write_taints(client: &Client, node: &Node, taints: &[Taint]) -> Result<(), Status> {
    patch(client, node, json!({"metadata": {}, "spec": {"taints": taints}})).await
}

/// Changes the node unless it changed since. One that is gone needs nothing.
async fn patch(client: &Client, node: &Node, mut patch: Value) -> Result<(), Status> {
    patch["metadata"]["resourceVersion"] = json!(node.metadata.resource_version);
    let name = node.metadata.name.as_deref().unwrap_or_default();
    match client.patch::<Node>("", name, PatchKind::Merge, &patch, None).await {
        Err(status) if !status.is(Reason::NotFound) => Err(status),
        _ => Ok(()),
    }
}

/// Looks for nodes that say nothing.
struct Monitor {
    client: Client,
    recorder: Recorder,
    clock: Clock,
    /// Since when nothing is heard, and how fast nodes are given up, is counted by this one.
    steady: Steady,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    leases: Informer<Lease>,
    healths: HashMap<String, Health>,
    zones: Zones,
    /// Silent nodes with pods that still count as ready.
    unmarked: BTreeSet<String>,
}

impl Monitor {
    async fn run(mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
            tokio::select! {
                () = self.look() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// One look at all nodes.
    async fn look(&mut self) {
        let now = self.steady.now();
        let nodes = self.nodes.list();
        self.meet(&nodes);
        let mut picture: BTreeMap<String, Vec<Option<Ready>>> = BTreeMap::new();
        for node in &nodes {
            let ready = match self.listen_to(node, now).await {
                Ok(ready) => ready,
                Err(status) => {
                    tracing::debug!(%status, "the status of a node was not written");
                    health::ready(node)
                }
            };
            let labels = node.metadata.labels.as_ref();
            if labels.is_none_or(|labels| !labels.contains_key(EXCLUDED)) {
                picture.entry(zone_of(node)).or_default().push(ready);
            }
        }
        match self.zones.look(&picture, now) {
            Turn::Usual => {}
            Turn::AllSilent => {
                tracing::warn!("no node is heard of; none is given up until one is");
                for node in &nodes {
                    self.take_back(node).await;
                }
            }
            Turn::HeardAgain => {
                tracing::info!("nodes are heard of again");
                self.healths.values_mut().for_each(|health| health.heard = now);
            }
        }
        for name in self.zones.due(now) {
            self.give_up(&name, now).await;
        }
    }

    /// Says whom it sees for the first time, and whom no longer.
    fn meet(&mut self, nodes: &[Arc<Node>]) {
        for node in nodes {
            let name = node.metadata.name.as_deref().unwrap_or_default();
            if !self.healths.contains_key(name) {
                let message = format!("Node {name} event: Registered Node {name} in Controller");
                self.recorder.normal(node.as_ref(), "RegisteredNode", message);
            }
        }
        let known: BTreeSet<_> =
            nodes.iter().filter_map(|node| node.metadata.name.as_deref()).collect();
        let zones = &mut self.zones;
        self.healths.retain(|name, _| {
            let stays = known.contains(name.as_str());
            if !stays {
                zones.take_back(name);
            }
            stays
        });
        self.unmarked.retain(|name| known.contains(name.as_str()));
    }

    /// What is heard of one node, after what follows from it was written.
    async fn listen_to(&mut self, node: &Node, now: Timestamp) -> Result<Option<Ready>, Status> {
        let name = node.metadata.name.clone().unwrap_or_default();
        let lease = self.leases.get(&Key::new(LEASES, &name));
        let health = health::listen(self.healths.get(&name), node, lease.as_deref(), now);
        let silent = health::is_silent(&health, node, now);
        self.healths.insert(name.clone(), health);
        let before = health::ready(node);
        let mut ready = before;
        if silent {
            if let Some(status) = health::silenced(node, self.clock.now()) {
                let silenced = Node { status: Some(status), ..node.clone() };
                self.client.update_status(&silenced).await?;
            }
            ready = Some(Ready::Unknown);
        }
        match ready {
            Some(Ready::True) => {
                self.unmarked.remove(&name);
                self.take_back(node).await;
            }
            Some(state) => {
                let tainted = [NOT_READY, UNREACHABLE].map(|it| taints::has(node, it, NO_EXECUTE));
                if tainted.contains(&true) {
                    // It is given up already; only the reason may differ.
                    if let Some(taints) = health::with_no_execute(node, state, self.clock.now()) {
                        write_taints(&self.client, node, &taints).await?;
                    }
                } else {
                    self.zones.give_up(&zone_of(node), &name);
                }
                self.mark_pods(node, before).await;
            }
            None => {}
        }
        Ok(ready)
    }

    /// Its pods are not ready any more. Said once for each time it falls silent; it may still speak for them.
    async fn mark_pods(&mut self, node: &Node, before: Option<Ready>) {
        let name = node.metadata.name.clone().unwrap_or_default();
        let since =
            health::condition(node, "Ready").and_then(|it| it.last_transition_time.as_ref());
        let lately = since.is_some_and(|at| {
            self.clock.now().micros_since(at.0.into())
                < 2 * i64::try_from(PERIOD.as_micros()).unwrap_or(0)
        });
        if before != Some(Ready::True) && !lately && !self.unmarked.contains(&name) {
            return;
        }
        let mut all_marked = true;
        for pod in self.pods.by_index(BY_NODE, &name) {
            if !pods::is_ready(&pod) {
                continue;
            }
            if let Err(status) = self.mark(&pod).await {
                tracing::debug!(%status, node = name, "a pod was not marked as not ready");
                all_marked = false;
            }
        }
        if all_marked {
            self.unmarked.remove(&name);
        } else {
            self.unmarked.insert(name);
        }
    }

    async fn mark(&self, pod: &Pod) -> Result<(), Status> {
        let key = Key::of(&pod.metadata);
        let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [{
            "type": "Ready", "status": "False",
            "lastTransitionTime": self.clock.now().rfc3339()}]}});
        let kind = PatchKind::Strategic;
        let status = Some("status");
        match self.client.patch::<Pod>(&key.namespace, &key.name, kind, &patch, status).await {
            Ok(_) => {
                self.recorder.warning(pod, "NodeNotReady", "Node is not ready");
                Ok(())
            }
            Err(status) if status.is(Reason::NotFound) || status.is(Reason::Conflict) => Ok(()),
            Err(status) => Err(status),
        }
    }

    async fn give_up(&mut self, name: &str, now: Timestamp) {
        let Some(node) = self.nodes.get(&Key::new("", name)) else { return };
        let silent = self.healths.get(name).is_some_and(|it| health::is_silent(it, &node, now));
        let state = if silent { Some(Ready::Unknown) } else { health::ready(&node) };
        let taints = state
            .filter(|state| *state != Ready::True)
            .and_then(|state| health::with_no_execute(&node, state, self.clock.now()));
        if let Some(taints) = taints
            && let Err(status) = write_taints(&self.client, &node, &taints).await
        {
            tracing::debug!(%status, node = name, "a node was not given up yet");
            self.zones.give_up(&zone_of(&node), name);
        }
    }

    async fn take_back(&mut self, node: &Node) {
        self.zones.take_back(node.metadata.name.as_deref().unwrap_or_default());
        if let Some(taints) = health::with_no_execute(node, Ready::True, self.clock.now())
            && let Err(status) = write_taints(&self.client, node, &taints).await
        {
            // The next look tries again.
            tracing::debug!(%status, "a node was not taken back yet");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_old_follow_those_of_today() {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n", "labels": {
            "kubernetes.io/os": "linux", "kubernetes.io/arch": "arm64",
            "beta.kubernetes.io/os": "linux"}}}))
        .unwrap();
        assert_eq!(missing_labels(&node), json!({"beta.kubernetes.io/arch": "arm64"}));
    }
}
