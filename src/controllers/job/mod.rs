//! Runs the pods of a Job until enough of them have succeeded, and counts each exactly once.
//!
//! The decision is [`plan`]; the rules it asks are in [`policy`], the sets of indexes in [`indexes`]. A
//! second loop ([`orphans`]) lets go of pods whose Job is gone or done, so that no finalizer outlives its
//! reason.
//!
//! Keeps: nothing is decided before the informers show the Job's status and the pods as this loop wrote
//! them last.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kontiki_api::Status;
use kontiki_api::client::{Client, PatchKind};
use kontiki_api::error::Reason;
use kontiki_api::object::time::Clock;
use parking_lot::Mutex;
use serde_json::json;

use super::ownership::{candidates, claim_all, enqueue_owner, index_by_controller};
use super::pod_writer::PodWriter;
use super::{Context, Loop, WORKERS};
use crate::reconcile::{Informer, Key, Next, Pending, Reconcile, Recorder, labels};

mod indexes;
mod orphans;
mod plan;
mod pods;
mod policy;
#[cfg(test)]
mod tests;

use plan::{Plan, Seen};
use pods::{FINALIZER, is_tracked};
use policy::Backoff;

pub use plan::finished;

const NAME: &str = "job-controller";
/// Who looks after a Job that names nobody.
const MANAGER: &str = "kubernetes.io/job-controller";
const UNSEEN_RETRY: Duration = Duration::from_secs(2);

struct Controller {
    client: Client,
    recorder: Recorder,
    clock: Clock,
    jobs: Informer<Job>,
    pods: Informer<Pod>,
    writer: PodWriter,
    pending_jobs: Pending,
    backoffs: Mutex<HashMap<Key, Backoff>>,
}

pub fn start(context: &Context) -> Vec<Loop> {
    let queue = context.queue(NAME);
    let jobs = context.informers.of::<Job>();
    let pods = context.informers.of::<Pod>();
    index_by_controller(&pods);
    jobs.on({
        let queue = queue.clone();
        move |delta| queue.add(Key::of(&delta.object().metadata))
    });
    pods.on({
        let (queue, jobs) = (queue.clone(), jobs.clone());
        move |delta| enqueue_owner(delta, &jobs, &queue, selector)
    });
    let orphans = orphans::prepare(context, &jobs, &pods);
    let (client, recorder) = (context.client(NAME), context.recorder.of(NAME));
    let controller = Controller {
        writer: PodWriter::new(client.clone(), recorder.clone()),
        client,
        recorder,
        clock: context.clock.clone(),
        jobs,
        pods,
        pending_jobs: Pending::default(),
        backoffs: Mutex::default(),
    };
    vec![Loop::new(controller, queue, WORKERS), orphans]
}

fn selector(job: &Job) -> LabelSelector {
    job.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default()
}

/// Whether somebody else looks after the Job.
fn is_foreign(job: &Job) -> bool {
    let manager = job.spec.as_ref().and_then(|spec| spec.managed_by.as_deref());
    manager.is_some_and(|manager| manager != MANAGER)
}

impl Reconcile for Controller {
    type Key = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Status> {
        let job = self.jobs.get(key).filter(|job| !is_foreign(job) && finished(job).is_none());
        let Some(job) = job else {
            self.forget(key);
            return Ok(Next::WhenChanged);
        };
        let Some(spec) = &job.spec else { return Ok(Next::WhenChanged) };
        if !self.pending_jobs.seen(key, &self.jobs) || !self.writer.seen(key, &self.pods) {
            return Ok(Next::After(UNSEEN_RETRY));
        }
        if !matches!(spec.completion_mode.as_deref(), None | Some("NonIndexed" | "Indexed")) {
            let message = "Skipped Job sync because completion mode is unknown";
            self.recorder.warning(job.as_ref(), "UnknownCompletionMode", message);
            return Ok(Next::WhenChanged);
        }
        let template = spec.template.metadata.clone().unwrap_or_default();
        if !labels::selects(&selector(&job), &template) {
            // Its pods would be let go of as soon as they are made, and made again without end.
            let message = "The Job's selector does not select the pods of its template";
            self.recorder.warning(job.as_ref(), "SelectorMismatch", message);
            return Ok(Next::WhenChanged);
        }
        let pods = self.claim(key, &job).await?;
        let backoff = self.backoffs.lock().get(key).copied().unwrap_or_default();
        let now = self.clock.now();
        let plan = plan::plan(&Seen { job: &job, spec, pods: &pods, backoff, now });
        self.perform(key, &job, plan).await
    }
}

impl Controller {
    fn forget(&self, key: &Key) {
        self.pending_jobs.forget(key);
        self.writer.forget(key);
        self.backoffs.lock().remove(key);
    }

    /// The Job's pods. One that was adopted while it runs is tracked from then on.
    async fn claim(&self, key: &Key, job: &Job) -> Result<Vec<Arc<Pod>>, Status> {
        let selector = selector(job);
        let selected = |pod: &Pod| labels::selects(&selector, &pod.metadata);
        let found = candidates(&self.pods, &job.metadata);
        let mut ours = claim_all(&self.client, job, found, selected).await?;
        for pod in &mut ours {
            if super::pods::is_active(pod)
                && !is_tracked(pod)
                && let Some(tracked) = self.set_tracked(key, pod, true).await?
            {
                *pod = Arc::new(tracked);
            }
        }
        Ok(ours)
    }

    async fn set_tracked(&self, key: &Key, pod: &Pod, to: bool) -> Result<Option<Pod>, Status> {
        let written = patch_finalizer(&self.client, pod, to).await?;
        if let Some(written) = &written {
            self.writer.pending.wrote(key, written);
        }
        Ok(written)
    }

    async fn perform(&self, key: &Key, job: &Job, plan: Plan) -> Result<Next, Status> {
        let dismissed = join_all(plan.dismiss.iter().map(|pod| async {
            self.set_tracked(key, pod, false).await?;
            self.writer.delete(key, job, pod).await
        }));
        let stopped = self.writer.delete_all(key, job, plan.stop.iter().map(AsRef::as_ref));
        for result in dismissed.await {
            result?;
        }
        stopped.await?;
        let created = self.writer.create(key, job, &plan.create).await;
        if self.report(key, job, plan.status).await? {
            self.backoffs.lock().insert(key.clone(), plan.backoff);
            for tell in plan.tell {
                if tell.warning {
                    self.recorder.warning(job, &tell.reason, tell.message);
                } else {
                    self.recorder.normal(job, &tell.reason, tell.message);
                }
            }
        }
        // What ended is in the status now, and the pods may go.
        let untracked = plan.untrack.iter().map(|pod| self.set_tracked(key, pod, false));
        for result in join_all(untracked).await {
            result?;
        }
        created?;
        let again = plan.again_s.and_then(|seconds| u64::try_from(seconds).ok());
        Ok(again.map_or(Next::WhenChanged, |seconds| Next::After(Duration::from_secs(seconds))))
    }

    /// Writes the status if it changed, and says whether it did.
    async fn report(&self, key: &Key, job: &Job, status: JobStatus) -> Result<bool, Status> {
        if job.status.as_ref() == Some(&status) {
            return Ok(false);
        }
        let updated = Job { status: Some(status), ..job.clone() };
        let written = self.client.update_status(&updated).await?;
        self.pending_jobs.wrote(key, &written);
        Ok(true)
    }
}

/// Puts the tracking finalizer on a pod, or takes it off. `None` when there is nothing to do any more.
async fn patch_finalizer(client: &Client, pod: &Pod, to: bool) -> Result<Option<Pod>, Status> {
    if is_tracked(pod) == to {
        return Ok(None);
    }
    let list = if to { "finalizers" } else { "$deleteFromPrimitiveList/finalizers" };
    let patch = json!({"metadata": {"uid": pod.metadata.uid, list: [FINALIZER]}});
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    match client.patch::<Pod>(namespace, name, PatchKind::Strategic, &patch, None).await {
        Ok(patched) => Ok(Some(patched)),
        // Gone, or another pod of that name by now.
        Err(status) if status.is(Reason::NotFound) || status.is(Reason::Conflict) => Ok(None),
        Err(status) => Err(status),
    }
}
