//! Nodes without containers, many in one process: for tests and for load.
//!
//! To masters they are nodes: each holds a session by the code that agents do, is assigned pods, reports what
//! they do and lets go of those that are deleted. What a pod does is said by annotations on it ([`orders`])
//! and can be said anew while it runs; without any it runs and is ready at once. An annotation on a node
//! makes it fall silent.
//!
//! Keeps: what is reported follows from the pod alone, but for delays, which count from when this process
//! saw it first; a new process goes on where another stopped. A node that somebody deletes does not come
//! back by itself, as with a real one.
//! Never: runs anything; has a port; sees another node's pods as its own.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kontiki_api::client::Client;
use kontiki_api::object::time::Clock;
use tokio_util::sync::CancellationToken;

use crate::reconcile::metrics::QueueMetrics;
use crate::reconcile::{Delta, Informers, Key, Queue, run as run_loop};
use crate::session::Door;

mod addresses;
mod links;
mod nodes;
pub mod orders;
mod pods;
mod status;

use links::{Fleet, Links};
use nodes::Nodes;
use pods::Pods;

const NODE_WORKERS: usize = 16;
const POD_WORKERS: usize = 32;
/// Between the first words of two nodes.
const BETWEEN_STARTS: Duration = Duration::from_millis(1);

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

/// The way to masters for the session of a node.
pub type Doors = Arc<dyn Fn(&str) -> Door + Send + Sync>;

/// Runs the nodes until `stop`. What they are told to do is read by `client`; they speak through sessions.
pub async fn run(client: Client, doors: Doors, settings: Settings, stop: CancellationToken) {
    let informers = Informers::new(client);
    let nodes = informers.of::<Node>();
    let node_queue = Queue::new(QueueMetrics::unregistered("hollow-nodes"));
    let pod_queue = Queue::new(QueueMetrics::unregistered("hollow-pods"));
    let settings = Arc::new(settings);
    let fleet = Arc::new(Fleet::new(settings.nodes));
    nodes.on({
        let (queue, settings) = (node_queue.clone(), settings.clone());
        let (fleet, pod_queue) = (fleet.clone(), pod_queue.clone());
        move |delta| {
            let name = delta.object().metadata.name.as_deref().unwrap_or_default();
            let Some(number) = settings.number(name) else { return };
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
                fleet.tie(number).keys().into_iter().for_each(|key| pod_queue.add(key));
            }
        }
    });
    // Spread, so that they do not all speak at once.
    for number in 0..settings.nodes {
        let later = number.saturating_sub(NODE_WORKERS);
        let pause = BETWEEN_STARTS * u32::try_from(later).unwrap_or(u32::MAX);
        node_queue.add_after(Key::new("", &settings.name(number)), pause);
    }
    let pod_loop = Arc::new(Pods::new(settings.clone(), nodes.clone(), fleet.clone()));
    let links = Links::new(doors, fleet, pod_loop.clone(), pod_queue.clone(), stop.child_token());
    let node_loop = Arc::new(Nodes::new(settings, nodes, links));
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
