//! Nodes without containers, many in one process: for tests and for load.
//!
//! To the API they are nodes: they register, renew their leases, report what their pods do and let go of
//! those that are deleted. What a pod does is said by annotations on it ([`orders`]) and can be said anew
//! while it runs; without any it runs and is ready at once. An annotation on a node makes it fall silent.
//!
//! Keeps: what is reported follows from the pod alone, but for delays, which count from when this process
//! saw it first; a new process goes on where another stopped. A node that somebody deletes does not come
//! back by itself, as with a real one.
//! Never: runs anything; has a port; sees another node's pods as its own.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kontiki_api::client::Client;
use kontiki_api::object::time::Clock;
use tokio_util::sync::CancellationToken;

use crate::reconcile::metrics::QueueMetrics;
use crate::reconcile::{Delta, Informers, Key, Queue, run as run_loop};

mod addresses;
mod nodes;
pub mod orders;
mod pods;
mod status;

use nodes::Nodes;
use pods::Pods;

const NODE_WORKERS: usize = 16;
const POD_WORKERS: usize = 32;
/// Finds the pods of a node.
const BY_NODE: &str = "node";

/// Which nodes there are, and what they claim to have.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Nodes are called `PREFIX-0` and so on.
    pub prefix: String,
    pub nodes: usize,
    pub cpu: String,
    pub memory: String,
    pub pods: u32,
    /// Nodes lie in as many zones, in turn.
    pub zones: usize,
    /// How often each renews its lease.
    pub heartbeat: Duration,
    pub clock: Clock,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            prefix: "hollow".into(),
            nodes: 1,
            cpu: "8".into(),
            memory: "32Gi".into(),
            pods: 110,
            zones: 3,
            heartbeat: Duration::from_secs(10),
            clock: Clock::System,
        }
    }
}

impl Settings {
    fn name(&self, number: usize) -> String {
        format!("{}-{number}", self.prefix)
    }

    /// The number of a node of ours.
    fn number(&self, name: &str) -> Option<usize> {
        let number = name.strip_prefix(&*self.prefix)?.strip_prefix('-')?.parse().ok()?;
        (number < self.nodes && self.name(number) == name).then_some(number)
    }
}

/// Runs the nodes until `stop`.
pub async fn run(client: Client, settings: Settings, stop: CancellationToken) {
    let informers = Informers::new(client.clone());
    let (nodes, pods) = (informers.of::<Node>(), informers.of::<Pod>());
    let node_queue = Queue::new(QueueMetrics::unregistered("hollow-nodes"));
    let pod_queue = Queue::new(QueueMetrics::unregistered("hollow-pods"));
    pods.index(BY_NODE, |pod| pods::node_of(pod).map(str::to_owned).into_iter().collect());
    let settings = Arc::new(settings);
    nodes.on({
        let (queue, settings) = (node_queue.clone(), settings.clone());
        let (pods, pod_queue) = (pods.clone(), pod_queue.clone());
        move |delta| {
            let name = delta.object().metadata.name.as_deref().unwrap_or_default();
            if settings.number(name).is_none() {
                return;
            }
            // A node that speaks only of its health changes nothing for itself.
            let matters = |node: &Node| {
                let cidr = node.spec.as_ref().and_then(|spec| spec.pod_cidr.clone());
                (orders::is_silent(node), cidr)
            };
            let stirs = match delta {
                Delta::Updated { old, new } => matters(old) != matters(new),
                Delta::Added(_) | Delta::Deleted(_) => true,
            };
            if stirs {
                queue.add(Key::new("", name));
                for pod in pods.by_index(BY_NODE, name) {
                    pod_queue.add(Key::of(&pod.metadata));
                }
            }
        }
    });
    let pod_loop =
        Arc::new(Pods::new(client.clone(), settings.clone(), nodes.clone(), pods.clone()));
    pods.on({
        let (queue, settings, pod_loop) = (pod_queue.clone(), settings.clone(), pod_loop.clone());
        move |delta| {
            let pod = delta.object();
            if pods::node_of(pod).is_none_or(|name| settings.number(name).is_none()) {
                return;
            }
            match delta {
                Delta::Deleted(pod) => pod_loop.forget(pod),
                Delta::Added(_) | Delta::Updated { .. } => queue.add(Key::of(&pod.metadata)),
            }
        }
    });
    // Spread over a heartbeat, so that they do not all speak at once.
    let step = settings.heartbeat / u32::try_from(settings.nodes.max(1)).unwrap_or(u32::MAX);
    let first = settings.nodes.min(NODE_WORKERS);
    for number in 0..settings.nodes {
        let pause = step * u32::try_from(number.saturating_sub(first)).unwrap_or(u32::MAX) / 4;
        node_queue.add_after(Key::new("", &settings.name(number)), pause);
    }
    let node_loop = Arc::new(Nodes::new(client, settings, nodes));
    tokio::join!(informers.run(stop.clone()), async {
        tokio::select! {
            () = informers.synced() => {}
            () = stop.cancelled() => return,
        }
        tokio::join!(
            run_loop(node_loop, node_queue, NODE_WORKERS, stop.clone()),
            run_loop(pod_loop, pod_queue, POD_WORKERS, stop.clone()),
        );
    },);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_ours_by_its_name() {
        let settings = Settings { nodes: 12, ..Settings::default() };
        assert_eq!(settings.number("hollow-11"), Some(11));
        for other in ["hollow-12", "hollow-01", "hollow-", "hollow", "real-1"] {
            assert_eq!(settings.number(other), None, "{other}");
        }
    }
}
