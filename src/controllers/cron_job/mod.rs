//! Starts the Jobs of a CronJob when they are due.
//!
//! The decision is [`plan`]; what schedules mean is in `kontiki_api::object::schedule`.
//!
//! Keeps: a Job that was started stands in the status before the next is; one that the status misses is
//! found by its name.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use kontiki_api::Status;
use kontiki_api::client::{Client, DeleteOptions, Preconditions};
use kontiki_api::error::Reason;
use kontiki_api::object::schedule::Schedule;
use kontiki_api::object::time::{Clock, Timestamp};

use super::ownership::{BY_CONTROLLER, controller_of, enqueue_owner, index_by_controller};
use super::service_account::is_settled;
use super::{Context, Loop, WORKERS};
use crate::reconcile::events::reference;
use crate::reconcile::{Delta, Informer, Key, Next, Pending, Queue, Reconcile, Recorder};

mod plan;
#[cfg(test)]
mod tests;

use plan::{Plan, Seen};

const NAME: &str = "cronjob-controller";
const UNSEEN_RETRY: Duration = Duration::from_secs(2);

struct Controller {
    client: Client,
    recorder: Recorder,
    clock: Clock,
    crons: Informer<CronJob>,
    jobs: Informer<Job>,
    pending_jobs: Pending,
    pending_crons: Pending,
}

pub fn start(context: &Context) -> Vec<Loop> {
    let queue = context.queue(NAME);
    let crons = context.informers.of::<CronJob>();
    let jobs = context.informers.of::<Job>();
    index_by_controller(&jobs);
    crons.on({
        let (queue, clock) = (queue.clone(), context.clock.clone());
        move |delta| enqueue(delta, &queue, &clock)
    });
    jobs.on({
        let (queue, crons) = (queue.clone(), crons.clone());
        // CronJobs adopt nothing: no selector selects.
        move |delta| enqueue_owner(delta, &crons, &queue, |_: &CronJob| Default::default())
    });
    let controller = Controller {
        client: context.client(NAME),
        recorder: context.recorder.of(NAME),
        clock: context.clock.clone(),
        crons,
        jobs,
        pending_jobs: Pending::default(),
        pending_crons: Pending::default(),
    };
    vec![Loop::new(controller, queue, WORKERS)]
}

/// A schedule that was changed begins with its next moment, not with those it would have had before.
fn enqueue(delta: &Delta<'_, CronJob>, queue: &Queue<Key>, clock: &Clock) {
    let key = Key::of(&delta.object().metadata);
    if let Delta::Updated { old, new } = delta
        && (old.spec.schedule != new.spec.schedule || old.spec.time_zone != new.spec.time_zone)
        && let Ok(schedule) = Schedule::parse(&new.spec.schedule, new.spec.time_zone.as_deref())
    {
        if let Some(delay) = plan::next_look_us(&schedule, clock.now()) {
            queue.add_after(key, micros(delay));
        }
        return;
    }
    queue.add(key);
}

fn micros(delay: i64) -> Duration {
    Duration::from_micros(u64::try_from(delay).unwrap_or(0))
}

impl Reconcile for Controller {
    type Key = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Status> {
        let Some(cron) = self.crons.get(key) else {
            self.pending_jobs.forget(key);
            self.pending_crons.forget(key);
            return Ok(Next::WhenChanged);
        };
        if !self.pending_jobs.seen(key, &self.jobs) || !self.pending_crons.seen(key, &self.crons) {
            return Ok(Next::After(UNSEEN_RETRY));
        }
        let uid = cron.metadata.uid.as_deref().unwrap_or_default();
        let jobs = self.jobs.by_index(BY_CONTROLLER, uid);
        let gone = self.gone(&cron, &jobs).await?;
        let now = self.clock.now();
        let plan = plan::plan(&Seen { cron: &cron, jobs: &jobs, gone, now });
        self.perform(key, &cron, plan).await
    }
}

impl Controller {
    /// Active Jobs that are not there, as a fresh read says.
    async fn gone(&self, cron: &CronJob, jobs: &[Arc<Job>]) -> Result<HashSet<String>, Status> {
        let mut gone = HashSet::new();
        for active in cron.status.iter().flat_map(|status| status.active.iter().flatten()) {
            let Some(uid) = &active.uid else { continue };
            if jobs.iter().any(|job| job.metadata.uid.as_ref() == Some(uid)) {
                continue;
            }
            let namespace = cron.metadata.namespace.as_deref().unwrap_or_default();
            let name = active.name.as_deref().unwrap_or_default();
            match self.client.get::<Job>(namespace, name).await {
                Ok(job) if job.metadata.uid.as_ref() == Some(uid) => {}
                Ok(_) => {
                    gone.insert(uid.clone());
                }
                Err(status) if status.is(Reason::NotFound) => {
                    gone.insert(uid.clone());
                }
                Err(status) => return Err(status),
            }
        }
        Ok(gone)
    }

    async fn perform(&self, key: &Key, cron: &CronJob, plan: Plan) -> Result<Next, Status> {
        for tell in plan.tell {
            if tell.warning {
                self.recorder.warning(cron, tell.reason, tell.message);
            } else {
                self.recorder.normal(cron, tell.reason, tell.message);
            }
        }
        for job in &plan.delete {
            self.delete(key, cron, job).await?;
        }
        let mut status = plan.status;
        let mut failed = None;
        if let Some((job, due)) = plan.create {
            failed = self.create(key, cron, &job, due, &mut status).await.err();
        }
        self.report(key, cron, status).await?;
        match failed {
            Some(status) => Err(status),
            None => Ok(plan.again_us.map_or(Next::WhenChanged, |us| Next::After(micros(us)))),
        }
    }

    async fn create(
        &self,
        key: &Key,
        cron: &CronJob,
        job: &Job,
        due: Timestamp,
        status: &mut CronJobStatus,
    ) -> Result<(), Status> {
        let made = match self.client.create(job).await {
            Ok(made) => {
                let name = made.metadata.name.as_deref().unwrap_or_default();
                self.recorder.normal(cron, "SuccessfulCreate", format!("Created job {name}"));
                self.pending_jobs.wrote(key, &made);
                made
            }
            Err(error) if error.is(Reason::AlreadyExists) => {
                // Ours, from before a status was lost; or somebody else's, which we leave alone.
                let name = job.metadata.name.as_deref().unwrap_or_default();
                let there: Job = self.client.get(&key.namespace, name).await?;
                let owner = controller_of(&there.metadata).map(|owner| &owner.uid);
                if owner != cron.metadata.uid.as_ref() {
                    return Ok(());
                }
                there
            }
            Err(error) if is_settled(&error) => return Ok(()),
            Err(error) => {
                let message = format!("Error creating job: {error}");
                self.recorder.warning(cron, "FailedCreate", message);
                return Err(error);
            }
        };
        plan::started(status, reference(&made), due);
        Ok(())
    }

    async fn delete(&self, key: &Key, cron: &CronJob, job: &Job) -> Result<(), Status> {
        let preconditions =
            Some(Preconditions { uid: job.metadata.uid.clone(), resource_version: None });
        let options = DeleteOptions {
            propagation_policy: Some("Background"),
            preconditions,
            ..DeleteOptions::default()
        };
        let name = job.metadata.name.as_deref().unwrap_or_default();
        match self.client.delete::<Job>(&key.namespace, name, &options).await {
            Ok(()) => {
                self.pending_jobs.deleted(key, job);
                self.recorder.normal(cron, "SuccessfulDelete", format!("Deleted job {name}"));
                Ok(())
            }
            Err(status) if status.is(Reason::NotFound) => Ok(()),
            Err(status) => {
                self.recorder.warning(cron, "FailedDelete", format!("Deleted job: {status}"));
                Err(status)
            }
        }
    }

    async fn report(&self, key: &Key, cron: &CronJob, status: CronJobStatus) -> Result<(), Status> {
        if cron.status.clone().unwrap_or_default() == status {
            return Ok(());
        }
        let updated = CronJob { status: Some(status), ..cron.clone() };
        match self.client.update_status(&updated).await {
            Ok(written) => self.pending_crons.wrote(key, &written),
            Err(status) if status.is(Reason::NotFound) => {}
            Err(status) => return Err(status),
        }
        Ok(())
    }
}
