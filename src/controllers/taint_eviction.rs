//! Deletes pods from nodes whose `NoExecute` taints they do not tolerate, or not that long.
//!
//! Keeps: a pod's time begins when its node was first seen tainted, and goes on when taints change; it ends
//! with the last taint. A new leader gives every pod its whole time again, as upstream does.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use kontiki_api::Status;
use kontiki_api::client::{Client, DeleteOptions, Preconditions};
use kontiki_api::error::Reason;
use kontiki_api::object::time::{Clock, Timestamp};
use parking_lot::Mutex;

use super::disruption_target::{Notice, announce};
use super::taints::{self, BY_NODE, NO_EXECUTE, Stay, index_by_node, node_of, stay};
use super::{Context, Loop};
use crate::reconcile::{Delta, Informer, Key, Next, Reconcile, Recorder};

const NAME: &str = "taint-eviction-controller";
const WORKERS: usize = 8;
const NOTICE: Notice = Notice {
    target: Some(("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")),
    failed: false,
};

struct Controller {
    client: Client,
    recorder: Recorder,
    clock: Clock,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    /// Since when each pod's node is known to be tainted, with the pod's uid.
    since: Mutex<HashMap<Key, (String, Timestamp)>>,
}

pub fn start(context: &Context) -> Vec<Loop> {
    let queue = context.queue(NAME);
    let pods = context.informers.of::<Pod>();
    let nodes = context.informers.of::<Node>();
    index_by_node(&pods);
    pods.on({
        let queue = queue.clone();
        move |delta| {
            let tolerations = |pod: &Pod| pod.spec.as_ref().and_then(|it| it.tolerations.clone());
            let same = matches!(delta, Delta::Updated { old, new }
                if node_of(old) == node_of(new) && tolerations(old) == tolerations(new));
            if !same && node_of(delta.object()).is_some() {
                queue.add(Key::of(&delta.object().metadata));
            }
        }
    });
    nodes.on({
        let (queue, pods) = (queue.clone(), pods.clone());
        move |delta| {
            let node = delta.object();
            let before = match delta {
                Delta::Updated { old, .. } => no_execute(old),
                _ => Vec::new(),
            };
            if before != no_execute(node) {
                let name = node.metadata.name.as_deref().unwrap_or_default();
                for pod in pods.by_index(BY_NODE, name) {
                    queue.add(Key::of(&pod.metadata));
                }
            }
        }
    });
    let controller = Controller {
        client: context.client(NAME),
        recorder: context.recorder.of(NAME),
        clock: context.clock.clone(),
        pods,
        nodes,
        since: Mutex::default(),
    };
    vec![Loop::new(controller, queue, WORKERS)]
}

fn no_execute(node: &Node) -> Vec<Taint> {
    taints::of(node).iter().filter(|taint| taint.effect == NO_EXECUTE).cloned().collect()
}

impl Reconcile for Controller {
    type Key = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Status> {
        let pod = self.pods.get(key).filter(|pod| pod.metadata.deletion_timestamp.is_none());
        let node = pod.as_deref().and_then(node_of);
        let node = node.and_then(|name| self.nodes.get(&Key::new("", name)));
        let taints = node.map(|node| no_execute(&node)).unwrap_or_default();
        let Some(pod) = pod.filter(|_| !taints.is_empty()) else {
            self.since.lock().remove(key);
            return Ok(Next::WhenChanged);
        };
        let now = self.clock.now();
        let since = self.since(key, &pod, now);
        match due(stay(&pod, &taints), since) {
            None => Ok(Next::WhenChanged),
            Some(due) if due > now => {
                let micros = u64::try_from(due.micros_since(now)).unwrap_or(0);
                Ok(Next::After(Duration::from_micros(micros)))
            }
            Some(_) => self.evict(key, &pod, now).await,
        }
    }
}

impl Controller {
    fn since(&self, key: &Key, pod: &Pod, now: Timestamp) -> Timestamp {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let mut all = self.since.lock();
        let (known, since) = all.entry(key.clone()).or_insert_with(|| (uid.clone(), now));
        if *known != uid {
            (*known, *since) = (uid, now);
        }
        *since
    }

    async fn evict(&self, key: &Key, pod: &Pod, now: Timestamp) -> Result<Next, Status> {
        self.recorder.normal(
            pod,
            "TaintManagerEviction",
            format!("Marking for deletion Pod {key}"),
        );
        announce(&self.client, pod, NOTICE, now).await?;
        let preconditions =
            Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None });
        let options = DeleteOptions { preconditions, ..DeleteOptions::default() };
        match self.client.delete::<Pod>(&key.namespace, &key.name, &options).await {
            Err(status) if !status.is(Reason::NotFound) && !status.is(Reason::Conflict) => {
                Err(status)
            }
            _ => {
                self.since.lock().remove(key);
                Ok(Next::WhenChanged)
            }
        }
    }
}

/// When a pod has to go.
fn due(stay: Stay, since: Timestamp) -> Option<Timestamp> {
    match stay {
        Stay::Forever => None,
        Stay::Not => Some(since),
        Stay::Seconds(seconds) => Some(since.plus_seconds(seconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_goes_when_its_time_is_over() {
        let since = Timestamp::from_seconds(100);
        assert_eq!(due(Stay::Forever, since), None);
        assert_eq!(due(Stay::Not, since), Some(since));
        assert_eq!(due(Stay::Seconds(300), since), Some(Timestamp::from_seconds(400)));
    }
}
