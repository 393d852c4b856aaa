//! Deletes pods from nodes whose `NoExecute` taints they do not tolerate, or not that long.
//!
//! Keeps: a pod's time begins when its node was first seen tainted, and goes on when taints change; it ends
//! with the last taint. It is really waited for, whatever becomes of the calendar. A new leader gives every
//! pod its whole time again, as upstream does.

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
use crate::reconcile::{Delta, Informer, Key, Next, Reconcile, Recorder, Steady};

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
    steady: Steady,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    since: Mutex<HashMap<Key, Tainted>>,
}

/// What is remembered of a pod on a tainted node.
struct Tainted {
    uid: String,
    since: Timestamp,
    /// It was told to go when its time is up.
    ends: bool,
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
        steady: Steady::from(&context.clock),
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
        let Some(pod) = pod else {
            self.since.lock().remove(key);
            return Ok(Next::WhenChanged);
        };
        if taints.is_empty() {
            let known = self.since.lock().remove(key);
            if known.is_some_and(|it| it.ends && Some(it.uid) == pod.metadata.uid) {
                let message = format!("Cancelling deletion of Pod {key}");
                self.recorder.normal(pod.as_ref(), "TaintManagerEviction", message);
            }
            return Ok(Next::WhenChanged);
        }
        let (now, stay) = (self.steady.now(), stay(&pod, &taints));
        let since = self.since(key, &pod, stay, now);
        match due(stay, since) {
            None => Ok(Next::WhenChanged),
            Some(due) if due > now => {
                let micros = u64::try_from(due.micros_since(now)).unwrap_or(0);
                Ok(Next::After(Duration::from_micros(micros)))
            }
            Some(_) => self.evict(key, &pod).await,
        }
    }
}

impl Controller {
    fn since(&self, key: &Key, pod: &Pod, stay: Stay, now: Timestamp) -> Timestamp {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let mut all = self.since.lock();
        let known = all.entry(key.clone()).or_insert_with(|| Tainted {
            uid: uid.clone(),
            since: now,
            ends: false,
        });
        if known.uid != uid {
            (known.uid, known.since) = (uid, now);
        }
        known.ends = matches!(stay, Stay::Seconds(_));
        known.since
    }

    async fn evict(&self, key: &Key, pod: &Pod) -> Result<Next, Status> {
        self.recorder.normal(
            pod,
            "TaintManagerEviction",
            format!("Marking for deletion Pod {key}"),
        );
        announce(&self.client, pod, NOTICE, self.clock.now()).await?;
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
