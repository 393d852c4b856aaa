//! What a CronJob does next. Pure.
//!
//! Of all times that were missed only the last is made up for, and only within `startingDeadlineSeconds`. A
//! Job's name says the minute that it was due, so that one minute never starts two.

use std::collections::HashSet;
use std::sync::Arc;

use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kontiki_api::object::schedule::{Schedule, time_zone};
use kontiki_api::object::time::Timestamp;

use crate::controllers::job::finished;
use crate::controllers::ownership::reference_to;
use crate::reconcile::events::reference;

const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// More missed times than this are worth a warning.
const MISSED_MAX: i64 = 100;
/// How long after the moment it is looked at, so that it has come for sure.
const AFTER_MOMENT_US: i64 = 100_000;

pub struct Seen<'a> {
    pub cron: &'a CronJob,
    /// The Jobs that it controls.
    pub jobs: &'a [Arc<Job>],
    /// Uids of active Jobs that are gone.
    pub gone: HashSet<String>,
    pub now: Timestamp,
}

#[derive(Debug, Default)]
pub struct Plan {
    pub delete: Vec<Arc<Job>>,
    /// The Job that is due, and since when.
    pub create: Option<(Box<Job>, Timestamp)>,
    /// Without the Job that is created.
    pub status: CronJobStatus,
    pub tell: Vec<Tell>,
    pub again_us: Option<i64>,
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tell {
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
}

#[must_use]
pub fn plan(seen: &Seen<'_>) -> Plan {
    let mut plan = Plan { status: seen.cron.status.clone().unwrap_or_default(), ..Plan::default() };
    plan.clean_up(seen);
    plan.follow_jobs(seen);
    let spec = &seen.cron.spec;
    if seen.cron.metadata.deletion_timestamp.is_none() {
        if let Err(error) = time_zone(spec.time_zone.as_deref().unwrap_or_default()) {
            let zone = spec.time_zone.as_deref().unwrap_or_default();
            plan.tell(true, "UnknownTimeZone", format!("invalid timeZone: {zone:?}: {error}"));
        } else if !spec.suspend.unwrap_or(false) {
            plan.keep_schedule(seen);
        }
    }
    plan.status.active = plan.status.active.take().filter(|active| !active.is_empty());
    plan
}

impl Plan {
    fn tell(&mut self, warning: bool, reason: &'static str, message: String) {
        self.tell.push(Tell { warning, reason, message });
    }

    fn active(&mut self) -> &mut Vec<ObjectReference> {
        self.status.active.get_or_insert_default()
    }

    fn forget(&mut self, uid: Option<&String>) {
        self.active().retain(|active| active.uid.as_ref() != uid);
    }

    fn delete(&mut self, job: &Arc<Job>) {
        self.forget(job.metadata.uid.as_ref());
        self.delete.push(job.clone());
    }

    /// Takes away the oldest Jobs that have ended, beyond those that are kept.
    fn clean_up(&mut self, seen: &Seen<'_>) {
        let spec = &seen.cron.spec;
        for (kind, limit) in [
            ("Complete", spec.successful_jobs_history_limit),
            ("Failed", spec.failed_jobs_history_limit),
        ] {
            let Some(limit) = limit else { continue };
            let ended = |job: &Job| finished(job).is_some_and(|condition| condition.type_ == kind);
            let mut ended: Vec<_> = seen.jobs.iter().filter(|job| ended(job)).collect();
            ended.sort_by_key(|job| {
                let started = job.status.as_ref().and_then(|it| it.start_time.as_ref());
                (started.is_none(), started.map(|time| time.0), job.metadata.name.clone())
            });
            ended.truncate(ended.len().saturating_sub(usize::try_from(limit).unwrap_or(0)));
            let ended = ended.into_iter().filter(|it| it.metadata.deletion_timestamp.is_none());
            ended.for_each(|job| self.delete(job));
        }
    }

    /// Brings the list of active Jobs up to date.
    fn follow_jobs(&mut self, seen: &Seen<'_>) {
        for job in seen.jobs {
            let uid = job.metadata.uid.as_ref();
            let name = job.metadata.name.as_deref().unwrap_or_default();
            let was_active = seen.cron.status.iter().flat_map(|it| it.active.iter().flatten());
            let was_active = was_active.into_iter().any(|active| active.uid.as_ref() == uid);
            match finished(job) {
                None if was_active => {}
                // Ours: what said so was lost, to a failed write or to a fall.
                None if let Some(due) = scheduled(seen, job) => {
                    started(&mut self.status, reference(&**job), due);
                }
                None => {
                    let message =
                        format!("Saw a job that the controller did not create or forgot: {name}");
                    self.tell(true, "UnexpectedJob", message);
                }
                Some(condition) => {
                    if was_active {
                        self.forget(uid);
                        let kind = &condition.type_;
                        let message = format!("Saw completed job: {name}, condition: {kind}");
                        self.tell(false, "SawCompletedJob", message);
                    }
                    let completed = job.status.as_ref().and_then(|it| it.completion_time.as_ref());
                    if condition.type_ == "Complete" {
                        let last = self.status.last_successful_time.take();
                        let later = last.into_iter().chain(completed.cloned());
                        self.status.last_successful_time = later.max_by_key(|time| time.0);
                    }
                }
            }
        }
        let lost = |active: &&ObjectReference| {
            active.uid.as_ref().is_some_and(|uid| seen.gone.contains(uid))
        };
        let lost: Vec<_> = self.active().iter().filter(lost).cloned().collect();
        for active in lost {
            self.forget(active.uid.as_ref());
            let name = active.name.unwrap_or_default();
            self.tell(false, "MissingJob", format!("Active job went missing: {name}"));
        }
    }

    fn keep_schedule(&mut self, seen: &Seen<'_>) {
        let (spec, now) = (&seen.cron.spec, seen.now);
        if spec.schedule.contains("TZ") {
            let message = format!(
                "CRON_TZ or TZ used in schedule {:?} is not officially supported, see \
                 https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ \
                 for more details",
                spec.schedule
            );
            self.tell(true, "UnsupportedSchedule", message);
        }
        let schedule = match Schedule::parse(&spec.schedule, spec.time_zone.as_deref()) {
            Ok(schedule) => schedule,
            Err(error) => {
                let message = format!("unparseable schedule: {:?} : {error}", spec.schedule);
                self.tell(true, "UnparseableSchedule", message);
                return;
            }
        };
        self.again_us = next_look_us(&schedule, now);
        let deadline = spec.starting_deadline_seconds.map(|seconds| now.plus_seconds(-seconds));
        let since = self.begin(seen.cron).max(deadline.unwrap_or_default());
        let Some((due, missed)) = last_due(&schedule, since, now) else { return };
        if missed > MISSED_MAX {
            let message = "too many missed start times. Set or decrease \
                           .spec.startingDeadlineSeconds or check clock skew";
            self.tell(true, "TooManyMissedTimes", message.to_owned());
        }
        if deadline.is_some_and(|deadline| due < deadline) {
            let when = due.moment().strftime("%a, %d %b %Y %H:%M:%S UTC");
            let message = format!("Missed scheduled time to start a job: {when}");
            self.tell(true, "MissSchedule", message);
            return;
        }
        self.start(seen, &schedule, due);
    }

    /// From when on a CronJob's times count.
    fn begin(&self, cron: &CronJob) -> Timestamp {
        let last = self.status.last_schedule_time.as_ref();
        let begin = last.or(cron.metadata.creation_timestamp.as_ref());
        begin.map(|time| Timestamp::from(time.0)).unwrap_or_default()
    }

    fn start(&mut self, seen: &Seen<'_>, schedule: &Schedule, due: Timestamp) {
        let name = job_name(seen.cron, due);
        let last = self.status.last_schedule_time.as_ref();
        let is_done = last.is_some_and(|last| Timestamp::from(last.0) == due);
        if is_done || self.active().iter().any(|active| active.name.as_ref() == Some(&name)) {
            return;
        }
        match seen.cron.spec.concurrency_policy.as_deref() {
            Some("Forbid") if !self.active().is_empty() => {
                let message = "Not starting job because prior execution is running and \
                               concurrency policy is Forbid";
                self.tell(false, "JobAlreadyActive", message.to_owned());
                return;
            }
            Some("Replace") => {
                let active = self.active().clone();
                let replaced = seen.jobs.iter().filter(|job| {
                    active.iter().any(|it| it.uid.is_some() && it.uid == job.metadata.uid)
                });
                replaced.for_each(|job| self.delete(job));
            }
            _ => {}
        }
        let job = new_job(seen.cron, name, schedule.local_time(due));
        self.create = Some((Box::new(job), due));
    }
}

/// When to look again: a little after the next moment.
pub fn next_look_us(schedule: &Schedule, now: Timestamp) -> Option<i64> {
    Some(schedule.next(now)?.micros_since(now).saturating_add(AFTER_MOMENT_US))
}

/// The last moment after `since` that has come, and about how many there were.
fn last_due(schedule: &Schedule, since: Timestamp, now: Timestamp) -> Option<(Timestamp, i64)> {
    let first = schedule.next(since).filter(|first| *first <= now)?;
    let Some(second) = schedule.next(first).filter(|second| *second <= now) else {
        return Some((first, 1));
    };
    // Schedules are even enough to jump close to now; from there each moment is looked at.
    let apart = (second.as_seconds() - first.as_seconds()).max(1);
    let missed = (now.as_seconds() - first.as_seconds()) / apart + 1;
    let mut due = second.max(first.plus_seconds((missed - 2).max(0) * apart));
    let near = schedule.next(due.plus_seconds(-apart)).filter(|near| *near <= now);
    due = near.unwrap_or(second);
    while let Some(next) = schedule.next(due).filter(|next| *next <= now) {
        due = next;
    }
    Some((due, missed))
}

/// When a Job was due that was started by the schedule, and is not on its way out; `None` for what
/// somebody else made in the CronJob's name, as `kubectl create job --from` does.
fn scheduled(seen: &Seen<'_>, job: &Job) -> Option<Timestamp> {
    let metadata = &job.metadata;
    let planned = metadata.annotations.as_ref().is_some_and(|it| it.contains_key(SCHEDULED_AT));
    if !planned || metadata.deletion_timestamp.is_some() {
        return None;
    }
    let name = metadata.name.as_deref()?;
    let minute = name.strip_prefix(seen.cron.metadata.name.as_deref()?)?.strip_prefix('-')?;
    let due = Timestamp::from_seconds(minute.parse::<i64>().ok()?.checked_mul(60)?);
    (due <= seen.now).then_some(due)
}

fn job_name(cron: &CronJob, due: Timestamp) -> String {
    let minute = due.as_seconds().div_euclid(60);
    format!("{}-{minute}", cron.metadata.name.as_deref().unwrap_or_default())
}

fn new_job(cron: &CronJob, name: String, due: String) -> Job {
    let template = &cron.spec.job_template;
    let metadata = template.metadata.clone().unwrap_or_default();
    let mut annotations = metadata.annotations.unwrap_or_default();
    annotations.insert(SCHEDULED_AT.into(), due);
    Job {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: cron.metadata.namespace.clone(),
            labels: metadata.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![reference_to(cron)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// The status when the Job that was due is there. Times never go back.
pub fn started(status: &mut CronJobStatus, job: ObjectReference, due: Timestamp) {
    let active = status.active.get_or_insert_default();
    if !active.iter().any(|it| it.uid == job.uid) {
        active.push(job);
    }
    let last = status.last_schedule_time.as_ref().map(|last| Timestamp::from(last.0));
    status.last_schedule_time = Some(Time(last.unwrap_or_default().max(due).moment()));
}
