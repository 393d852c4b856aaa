//! One pod of a DaemonSet on every node that it belongs on.
//!
//! The decision is [`plan`], eligibility of nodes is in [`nodes`], the history of templates in `revisions`.
//!
//! Keeps: a pod is pinned to its node before it exists; nothing is decided before the informer shows what
//! was done.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use kontiki_api::Status;
use kontiki_api::client::Client;
use kontiki_api::error::Reason;
use kontiki_api::object::time::Clock;
use parking_lot::Mutex;

use super::ownership::{candidates, claim_all, enqueue_owner, index_by_controller, reference_to};
use super::pod_writer::PodWriter;
use super::revisions::{self, POD_LABEL};
use super::{Context, Loop, WORKERS};
use crate::reconcile::{Delta, Informer, Key, Next, Reconcile, Recorder, labels};

mod nodes;
mod plan;
#[cfg(test)]
mod tests;

use plan::{Backoffs, Plan, Seen};

const NAME: &str = "daemonset-controller";
const UNSEEN_RETRY: Duration = Duration::from_secs(2);

struct Controller {
    client: Client,
    recorder: Recorder,
    clock: Clock,
    sets: Informer<DaemonSet>,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    history: Informer<ControllerRevision>,
    writer: PodWriter,
    backoffs: Mutex<HashMap<Key, Backoffs>>,
}

pub fn start(context: &Context) -> Vec<Loop> {
    let queue = context.queue(NAME);
    let sets = context.informers.of::<DaemonSet>();
    let nodes = context.informers.of::<Node>();
    let pods = context.informers.of::<Pod>();
    let history = context.informers.of::<ControllerRevision>();
    index_by_controller(&pods);
    index_by_controller(&history);
    let selector = |set: &DaemonSet| set.spec.selector.clone();
    sets.on({
        let queue = queue.clone();
        move |delta| queue.add(Key::of(&delta.object().metadata))
    });
    pods.on({
        let (queue, sets) = (queue.clone(), sets.clone());
        move |delta| enqueue_owner(delta, &sets, &queue, selector)
    });
    history.on({
        let (queue, sets) = (queue.clone(), sets.clone());
        move |delta| enqueue_owner(delta, &sets, &queue, selector)
    });
    nodes.on({
        let (queue, sets) = (queue.clone(), sets.clone());
        move |delta| {
            if changes_eligibility(delta) {
                sets.list().iter().for_each(|set| queue.add(Key::of(&set.metadata)));
            }
        }
    });
    let (client, recorder) = (context.client(NAME), context.recorder.of(NAME));
    let controller = Controller {
        writer: PodWriter::new(client.clone(), recorder.clone()),
        client,
        recorder,
        clock: context.clock.clone(),
        sets,
        nodes,
        pods,
        history,
        backoffs: Mutex::default(),
    };
    vec![Loop::new(controller, queue, WORKERS)]
}

/// Most changes of a node are its heartbeats, which no DaemonSet asks about.
fn changes_eligibility(delta: &Delta<'_, Node>) -> bool {
    let Delta::Updated { old, new } = delta else { return true };
    let taints = |node: &Node| node.spec.as_ref().and_then(|spec| spec.taints.clone());
    old.metadata.labels != new.metadata.labels || taints(old) != taints(new)
}

impl Reconcile for Controller {
    type Key = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Status> {
        let set = self.sets.get(key).filter(|set| set.metadata.deletion_timestamp.is_none());
        let Some(set) = set else {
            self.writer.forget(key);
            self.backoffs.lock().remove(key);
            return Ok(Next::WhenChanged);
        };
        if !self.writer.seen(key, &self.pods) {
            return Ok(Next::After(UNSEEN_RETRY));
        }
        let selector = &set.spec.selector;
        let found = candidates(&self.pods, &set.metadata);
        let pods = claim_all(&self.client, set.as_ref(), found, |pod: &Pod| {
            labels::selects(selector, &pod.metadata)
        })
        .await?;
        let found = candidates(&self.history, &set.metadata);
        let known = claim_all(&self.client, set.as_ref(), found, |it: &ControllerRevision| {
            labels::selects(selector, &it.metadata)
        })
        .await?;
        let owner = revisions::Owner {
            metadata: &set.metadata,
            reference: reference_to(set.as_ref()),
            template: &set.spec.template,
            collisions: set.status.as_ref().and_then(|status| status.collision_count),
            hash_label: POD_LABEL,
        };
        let Some(current) = revisions::current(&self.client, &owner, &known).await? else {
            return self.collided(&set).await;
        };
        let hash = hash_of(&current);
        let backoffs = self.backoffs.lock().get(key).cloned().unwrap_or_default();
        let plan = plan::plan(&Seen {
            set: &set,
            nodes: &self.nodes.list(),
            pods: &pods,
            hash: &hash,
            backoffs: &backoffs,
            now: self.clock.now(),
        });
        let next = self.perform(key, &set, plan).await?;
        let mut live: HashSet<String> = pods.iter().filter_map(|pod| pod_hash(pod)).collect();
        live.insert(hash);
        let live = known.iter().filter(|it| live.contains(&hash_of(it)));
        let live = live.map(|it| revisions::name(it).to_owned()).collect();
        let old = revisions::forgotten(&known, &live, set.spec.revision_history_limit);
        revisions::forget(&self.client, old).await?;
        Ok(next)
    }
}

/// What pods of a revision are labelled with.
fn hash_of(revision: &ControllerRevision) -> String {
    let labels = revision.metadata.labels.as_ref();
    labels.and_then(|it| it.get(POD_LABEL).cloned()).unwrap_or_default()
}

fn pod_hash(pod: &Pod) -> Option<String> {
    pod.metadata.labels.as_ref()?.get(POD_LABEL).cloned()
}

impl Controller {
    /// Another object has the name of the revision that is needed; the next hash is another.
    async fn collided(&self, set: &DaemonSet) -> Result<Next, Status> {
        let mut status = set.status.clone().unwrap_or_default();
        status.collision_count = Some(status.collision_count.unwrap_or(0).saturating_add(1));
        let updated = DaemonSet { status: Some(status), ..set.clone() };
        self.client.update_status(&updated).await?;
        Ok(Next::Again)
    }

    async fn perform(&self, key: &Key, set: &DaemonSet, plan: Plan) -> Result<Next, Status> {
        for (warning, reason, message) in plan.tell {
            if warning {
                self.recorder.warning(set, reason, message);
            } else {
                self.recorder.normal(set, reason, message);
            }
        }
        self.backoffs.lock().insert(key.clone(), plan.backoffs);
        let created = self.writer.create(key, set, &plan.create).await;
        let gone = plan.delete.iter().map(AsRef::as_ref);
        let deleted = self.writer.delete_all(key, set, gone).await;
        if set.status.as_ref() != Some(&plan.status) {
            let updated = DaemonSet { status: Some(plan.status), ..set.clone() };
            match self.client.update_status(&updated).await {
                Err(status) if !status.is(Reason::NotFound) => return Err(status),
                _ => {}
            }
        }
        created.and(deleted)?;
        let again = plan.again_s.and_then(|seconds| u64::try_from(seconds).ok());
        Ok(again.map_or(Next::WhenChanged, |seconds| Next::After(Duration::from_secs(seconds))))
    }
}
