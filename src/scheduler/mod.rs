//! Gives pods their nodes.
//!
//! One loop decides, on a picture of the cluster that is kept up to date change by change; what it decides is
//! assumed at once and carried out beside it, many writes at a time, which the log takes in few entries.
//! The decision itself ([`cycle`]) is pure; filters and scores are upstream's default plugins by meaning
//! and weight.
//!
//! Keeps: a pod is decided on once at a time: it is back in the queue when all that was decided is written.
//! Never: waits for a write before it decides on the next pod, whether a node was found or room is made.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kontiki_api::client::Client;
use kontiki_api::error::Reason;
use kontiki_api::object::time::Clock;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::reconcile::{Delta, Informers, Key, Recorder};

mod bind;
mod cycle;
mod filter;
mod metrics;
mod nodes;
mod preempt;
mod score;
mod waiting;
mod world;

use bind::Nomination;
use cycle::{Chosen, Unfit};
pub use metrics::Metrics;
use metrics::Outcome;
use nodes::Cluster;
use waiting::Waiting;
use world::World;

/// The name in `spec.schedulerName` that means this scheduler, and under which it speaks.
pub const NAME: &str = "default-scheduler";

/// Writes under way at a time. Who waits for a place is a pod that was decided on, of which there are no
/// more than pods.
const WRITES_MAX: usize = 256;

/// What the scheduler is given.
pub struct Context {
    pub client: Client,
    pub informers: Informers,
    pub recorder: Recorder,
    pub clock: Clock,
    pub metrics: Metrics,
}

/// Importance of a pod.
pub(crate) fn priority(pod: &Pod) -> i32 {
    pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0)
}

pub(crate) fn is_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// A pod that wants a node from us, and is let have one.
fn is_waiting(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    spec.node_name.as_deref().is_none_or(str::is_empty)
        && spec.scheduler_name.as_deref().unwrap_or(NAME) == NAME
        && spec.scheduling_gates.as_ref().is_none_or(Vec::is_empty)
        && pod.metadata.deletion_timestamp.is_none()
        && !is_finished(pod)
}

/// The node that room was made on for a pod.
fn nominated(pod: &Pod) -> Option<&str> {
    let status = pod.status.as_ref()?;
    status.nominated_node_name.as_deref().filter(|name| !name.is_empty())
}

struct Scheduler {
    client: Client,
    recorder: Recorder,
    clock: Clock,
    metrics: Metrics,
    cluster: Mutex<Cluster>,
    waiting: Waiting,
    world: World,
    writes: Semaphore,
}

/// What room there is for a pod that no node will do for.
struct Room {
    plan: Option<preempt::Plan>,
    nomination: Nomination,
    /// Why it has no node, as it is told.
    message: String,
}

/// A scheduler that hears of every change from now on; its future runs until `stop`.
pub fn start(context: Context, stop: CancellationToken) -> impl Future<Output = ()> + Send {
    let scheduler = Arc::new(Scheduler {
        client: context.client.named(NAME),
        recorder: context.recorder.of(NAME),
        clock: context.clock,
        metrics: context.metrics,
        cluster: Mutex::default(),
        waiting: Waiting::default(),
        world: World::live(&context.informers),
        writes: Semaphore::new(WRITES_MAX),
    });
    scheduler.metrics.follow(&scheduler);
    listen(&scheduler, &context.informers);
    let informers = context.informers;
    async move {
        tokio::select! {
            () = informers.synced() => {}
            () = stop.cancelled() => return,
        }
        scheduler.run(&stop).await;
    }
}

/// Keeps picture and queue up to date with what informers hear.
fn listen(scheduler: &Arc<Scheduler>, informers: &Informers) {
    let it = scheduler.clone();
    informers.of::<Node>().on(move |delta| {
        let name = delta.object().metadata.name.clone().unwrap_or_default();
        match delta {
            Delta::Deleted(_) => it.cluster.lock().remove_node(&name),
            Delta::Added(node) => it.cluster.lock().put_node((*node).clone()),
            Delta::Updated { old, new } => {
                it.cluster.lock().put_node((*new).clone());
                // Conditions alone open no place.
                let matters = |node: &Node| {
                    let allocatable = node.status.as_ref().and_then(|it| it.allocatable.clone());
                    (node.spec.clone(), node.metadata.labels.clone(), allocatable)
                };
                if matters(old) == matters(new) {
                    return;
                }
            }
        }
        it.waiting.stir();
    });
    let it = scheduler.clone();
    informers.of::<Pod>().on(move |delta| it.hear_of_pod(delta));
    let it = scheduler.clone();
    informers.of::<PersistentVolumeClaim>().on(move |_| it.waiting.stir());
    let it = scheduler.clone();
    informers.of::<PersistentVolume>().on(move |_| it.waiting.stir());
    let it = scheduler.clone();
    informers.of::<StorageClass>().on(move |_| it.waiting.stir());
}

impl Scheduler {
    fn hear_of_pod(&self, delta: &Delta<'_, Pod>) {
        let pod = delta.object();
        let key = Key::of(&pod.metadata);
        if let Delta::Deleted(_) = delta {
            self.waiting.remove(&key);
            {
                let mut cluster = self.cluster.lock();
                cluster.remove_pod(&key);
                cluster.take_back_nomination(&key);
            }
            return self.waiting.stir();
        }
        if is_waiting(pod) {
            match (nominated(pod), delta) {
                (Some(node), _) => self.cluster.lock().nominate(&key, (*pod).clone(), node),
                (None, Delta::Updated { old, .. }) if nominated(old).is_some() => {
                    self.cluster.lock().take_back_nomination(&key);
                }
                // What is nominated here may not be written yet.
                (None, _) => {}
            }
            return self.waiting.put(&key, (*pod).clone());
        }
        self.cluster.lock().take_back_nomination(&key);
        self.waiting.remove(&key);
        self.cluster.lock().put_pod(&key, (*pod).clone());
        let had_place = matches!(delta, Delta::Updated { old, .. } if !is_finished(old));
        let relabelled = matches!(delta, Delta::Updated { old, new }
            if old.metadata.labels != new.metadata.labels);
        if is_finished(pod) && had_place || relabelled {
            self.waiting.stir();
        }
    }

    async fn run(self: Arc<Self>, stop: &CancellationToken) {
        let mut under_way = JoinSet::new();
        let mut turn = 0_usize;
        loop {
            let (key, pod) = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(_) = under_way.join_next(), if !under_way.is_empty() => continue,
                next = self.waiting.next() => next,
            };
            turn = turn.wrapping_add(1);
            let begin = Instant::now();
            let snapshot = self.cluster.lock().snapshot();
            let decision = cycle::schedule(&pod, &snapshot, &self.world, turn);
            self.metrics.decided(begin.elapsed());
            let it = self.clone();
            match decision {
                Ok(chosen) => {
                    self.cluster.lock().assume(&key, pod, &chosen.node);
                    under_way.spawn(async move {
                        let outcome = it.carry_out(key, chosen).await;
                        it.metrics.attempted(outcome, begin.elapsed());
                    });
                }
                Err(unfit) => {
                    let room = self.look_for_room(&key, &pod, &unfit, &snapshot);
                    under_way.spawn(async move {
                        it.make_room(key, pod, room).await;
                        it.metrics.attempted(Outcome::Unschedulable, begin.elapsed());
                    });
                }
            }
        }
        under_way.shutdown().await;
    }

    async fn carry_out(&self, key: Key, chosen: Chosen) -> Outcome {
        let tries = self.waiting.tries(&key);
        let pod = chosen.prepared.pod.clone();
        let bound = async {
            // What volumes wait for may take minutes; they hold no place meanwhile.
            bind::bind_volumes(&self.client, &self.world, &chosen).await?;
            let _place = self.writes.acquire().await;
            bind::bind(&self.client, &key, &chosen).await
        };
        match bound.await {
            Ok(()) => {
                self.waiting.remove(&key);
                let message = format!("Successfully assigned {key} to {}", chosen.node);
                let about = crate::reconcile::events::reference(pod.as_ref());
                let severity = crate::reconcile::events::Severity::Normal;
                self.recorder.say(about, severity, "Scheduled", message, "Binding");
                if let Some((attempts, since_seen)) = tries {
                    self.metrics.scheduled(attempts, since_seen);
                }
                Outcome::Scheduled
            }
            Err(status) => {
                self.cluster.lock().forget(&key);
                // Gone, or another gave it a node: the informer will say.
                if !status.is(Reason::NotFound) && !status.is(Reason::Conflict) {
                    tracing::warn!(%key, %status, node = chosen.node, "binding failed");
                    self.recorder.warning(pod.as_ref(), "FailedScheduling", status.message());
                }
                self.waiting.failed(&key, true);
                self.waiting.stir();
                Outcome::Error
            }
        }
    }

    /// No node will do as things are: somebody less important goes, or the pod waits. What is decided
    /// counts from now on.
    fn look_for_room(
        &self,
        key: &Key,
        pod: &Arc<Pod>,
        unfit: &Unfit,
        snapshot: &nodes::Snapshot,
    ) -> Room {
        let plan = preempt::plan(pod, unfit, snapshot, &self.world);
        self.metrics.preempted(plan.as_ref().ok().map(|plan| plan.victims.len()));
        let (plan, nomination, said) = match plan {
            Ok(plan) => {
                self.cluster.lock().nominate(key, pod.clone(), &plan.node);
                let node = plan.node.clone();
                (Some(plan), Nomination::Set(node), String::new())
            }
            Err(said) if preempt::is_making_room(pod, snapshot) => (None, Nomination::Keep, said),
            Err(said) => {
                self.cluster.lock().take_back_nomination(key);
                (None, Nomination::Clear, said)
            }
        };
        Room { plan, nomination, message: unfit.explain(&said) }
    }

    /// Carries out what [`Scheduler::look_for_room`] found, and has the pod wait.
    async fn make_room(&self, key: Key, pod: Arc<Pod>, room: Room) {
        let Room { plan, nomination, message } = room;
        let now = self.clock.now();
        tracing::debug!(%key, message, "no node");
        let about = crate::reconcile::events::reference(pod.as_ref());
        let severity = crate::reconcile::events::Severity::Warning;
        self.recorder.say(about, severity, "FailedScheduling", message.clone(), "Scheduling");
        let written = async {
            let _place = self.writes.acquire().await;
            let reason = "Unschedulable";
            bind::report_unfit(&self.client, &pod, &key, reason, &message, nomination, now).await?;
            match &plan {
                Some(plan) => bind::evict(&self.client, &self.recorder, &pod, plan, now).await,
                None => Ok(()),
            }
        };
        if let Err(status) = written.await {
            tracing::warn!(%key, %status, "the pod was not told why it has no node");
        }
        self.waiting.failed(&key, false);
    }
}

#[cfg(test)]
mod tests;
