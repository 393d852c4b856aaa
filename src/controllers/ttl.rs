//! Tells agents how long they may keep secrets and config maps, by an annotation on their node: longer, the
//! more nodes there are.

use k8s_openapi::api::core::v1::Node;
use kontiki_api::Status;
use kontiki_api::client::{Client, PatchKind};
use kontiki_api::error::Reason;
use parking_lot::Mutex;
use serde_json::json;

use super::{Context, Loop};
use crate::reconcile::{Delta, Informer, Key, Next, Reconcile};

const NAME: &str = "ttl-controller";
const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";

/// From so many nodes down to so many, so long in seconds; the steps overlap, so that a node that comes and
/// goes changes nothing.
const STEPS: [(usize, usize, u32); 5] =
    [(0, 100, 0), (90, 500, 15), (450, 1000, 30), (900, 2000, 60), (1800, usize::MAX, 300)];

struct Controller {
    client: Client,
    nodes: Informer<Node>,
    step: Mutex<usize>,
}

pub fn start(context: &Context) -> Vec<Loop> {
    let queue = context.queue(NAME);
    let nodes = context.informers.of::<Node>();
    nodes.on({
        let queue = queue.clone();
        move |delta| {
            if !matches!(delta, Delta::Deleted(_)) {
                queue.add(Key::of(&delta.object().metadata));
            }
        }
    });
    let controller = Controller { client: context.client(NAME), nodes, step: Mutex::new(0) };
    vec![Loop::new(controller, queue, 1)]
}

impl Reconcile for Controller {
    type Key = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Status> {
        let Some(node) = self.nodes.get(key) else { return Ok(Next::WhenChanged) };
        let wanted = {
            let mut step = self.step.lock();
            *step = next_step(*step, self.nodes.len());
            STEPS[*step].2.to_string()
        };
        let annotations = node.metadata.annotations.as_ref();
        if annotations.and_then(|all| all.get(ANNOTATION)) == Some(&wanted) {
            return Ok(Next::WhenChanged);
        }
        let patch = json!({"metadata": {"annotations": {ANNOTATION: wanted}}});
        match self.client.patch::<Node>("", &key.name, PatchKind::Merge, &patch, None).await {
            Err(status) if !status.is(Reason::NotFound) => Err(status),
            _ => Ok(Next::WhenChanged),
        }
    }
}

/// The step for a number of nodes, staying where it is as long as it may.
fn next_step(mut step: usize, nodes: usize) -> usize {
    while nodes > STEPS[step].1 {
        step += 1;
    }
    while nodes < STEPS[step].0 {
        step -= 1;
    }
    step
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_step_changes_only_when_it_has_to() {
        let table = [(0, 1, 0), (0, 100, 0), (0, 101, 1), (1, 95, 1), (1, 89, 0), (0, 5000, 4)];
        for (step, nodes, expected) in table {
            assert_eq!(next_step(step, nodes), expected, "{nodes} nodes from step {step}");
        }
    }
}
