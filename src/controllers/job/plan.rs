//! What a Job does next. Pure.
//!
//! A pod that ended is counted in two steps, so that none is counted twice or not at all whatever is lost
//! between: its uid goes into `uncountedTerminatedPods` (or its index into `completedIndexes`), and only
//! then its finalizer goes; when a pod no longer bears the finalizer, its uid becomes a number. A look that
//! finds a Job at its end says so first (`FailureTarget`, `SuccessCriteriaMet`), and when all is counted
//! and no pod is left, for good.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kontiki_api::object::time::Timestamp;

use super::indexes::Indexes;
use super::pods::{
    all_index_failures, finished_at, has_failed, index, index_failures, index_of, is_indexed,
    is_terminating, is_tracked, new_pod, replaces_only_failed, uid,
};
use super::policy::{self, Backoff};
use crate::controllers::amount::{count, unless_zero};
use crate::controllers::pods::{deleted_first, is_active, is_ready, phase};

/// Pods that one look creates or deletes at most.
const BURST: usize = 500;
/// Pods that are counted in one write of the status at most.
const UNCOUNTED_MAX: usize = 500;

pub struct Seen<'a> {
    pub job: &'a Job,
    pub spec: &'a JobSpec,
    /// All pods that the Job controls.
    pub pods: &'a [Arc<Pod>],
    pub backoff: Backoff,
    pub now: Timestamp,
}

/// What is to be done, in this order.
#[derive(Debug, Default)]
pub struct Plan {
    /// Deleted because too many; their end is nobody's failure, so they are let go of first.
    pub dismiss: Vec<Arc<Pod>>,
    /// Deleted because the Job is at its end.
    pub stop: Vec<Arc<Pod>>,
    pub create: Vec<Pod>,
    pub status: JobStatus,
    /// Let go of once the status is written.
    pub untrack: Vec<Arc<Pod>>,
    pub backoff: Backoff,
    pub tell: Vec<Tell>,
    pub again_s: Option<i64>,
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tell {
    pub warning: bool,
    pub reason: String,
    pub message: String,
}

/// How a Job ends.
#[derive(Clone, Debug, PartialEq, Eq)]
struct End {
    failed: bool,
    reason: String,
    message: String,
}

impl End {
    fn failed(reason: &str, message: &str) -> End {
        End { failed: true, reason: reason.into(), message: message.into() }
    }

    fn succeeded(reason: &str, message: &str) -> End {
        End { failed: false, reason: reason.into(), message: message.into() }
    }

    fn first(&self) -> &'static str {
        if self.failed { "FailureTarget" } else { "SuccessCriteriaMet" }
    }

    fn last(&self) -> &'static str {
        if self.failed { "Failed" } else { "Complete" }
    }
}

pub fn condition<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a JobCondition> {
    let all = status.conditions.as_deref().unwrap_or_default();
    all.iter().find(|it| it.type_ == kind && it.status == "True")
}

/// The condition by which a Job has ended.
pub fn finished(job: &Job) -> Option<&JobCondition> {
    let status = job.status.as_ref()?;
    condition(status, "Complete").or_else(|| condition(status, "Failed"))
}

pub fn is_suspended(spec: &JobSpec) -> bool {
    spec.suspend.unwrap_or(false)
}

/// The Job and its pods while a plan is being made.
struct Draft<'a> {
    seen: &'a Seen<'a>,
    spec: &'a JobSpec,
    status: JobStatus,
    active: Vec<Arc<Pod>>,
    uncounted: (BTreeSet<String>, BTreeSet<String>),
    /// Indexes that had succeeded before this look, and with what ended since.
    succeeded_before: Indexes,
    succeeded_indexes: Indexes,
    failed_indexes: Option<Indexes>,
    /// Of each index that waits for another try: the pod that failed last.
    awaiting_retry: BTreeMap<i32, Arc<Pod>>,
    succeeded: i32,
    failed: i32,
    plan: Plan,
}

#[must_use]
pub fn plan(seen: &Seen<'_>) -> Plan {
    let mut draft = Draft::new(seen);
    if draft.status.start_time.is_none() && !is_suspended(seen.spec) {
        draft.status.start_time = Some(Time(seen.now.moment()));
    }
    let mut end = draft.known_end().or_else(|| draft.failure()).or_else(|| draft.content());
    if end.is_some() {
        draft.plan.stop = draft.active.clone();
    } else {
        if seen.job.metadata.deletion_timestamp.is_none() {
            draft.manage();
        }
        let idle = draft.active.len() == draft.plan.dismiss.len() && draft.plan.create.is_empty();
        let enough = match seen.spec.completions {
            None => draft.succeeded > 0,
            Some(completions) => draft.succeeded >= completions,
        };
        if enough && idle {
            let message = "Reached expected number of succeeded pods";
            end = Some(End::succeeded("CompletionsReached", message));
        } else if seen.job.metadata.deletion_timestamp.is_none() {
            draft.note_suspension();
        }
    }
    draft.count_ended(end.as_ref());
    draft.finish(end)
}

impl<'a> Draft<'a> {
    fn new(seen: &'a Seen<'a>) -> Draft<'a> {
        let spec = seen.spec;
        let status = seen.job.status.clone().unwrap_or_default();
        let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
        let set = |uids: Option<Vec<String>>| uids.into_iter().flatten().collect::<BTreeSet<_>>();
        let uncounted = (set(uncounted.succeeded), set(uncounted.failed));
        let completions = spec.completions.unwrap_or(0);
        let before =
            Indexes::parse(status.completed_indexes.as_deref().unwrap_or_default(), completions);
        let mut draft = Draft {
            seen,
            spec,
            active: seen.pods.iter().filter(|pod| is_active(pod)).cloned().collect(),
            succeeded_indexes: before.clone(),
            succeeded_before: before,
            failed_indexes: None,
            awaiting_retry: BTreeMap::new(),
            succeeded: 0,
            failed: 0,
            uncounted,
            status,
            plan: Plan::default(),
        };
        draft.tally();
        draft
    }

    /// Pods that are not counted in any way yet.
    fn fresh(&self) -> Vec<&'a Arc<Pod>> {
        let known =
            |pod: &Pod| self.uncounted.0.contains(uid(pod)) || self.uncounted.1.contains(uid(pod));
        let pods = self.seen.pods.iter();
        pods.filter(|pod| is_tracked(pod) && !known(pod) && self.is_of_the_job(pod)).collect()
    }

    /// In an indexed Job, a pod without an index counts for nothing.
    fn is_of_the_job(&self, pod: &Pod) -> bool {
        !is_indexed(self.spec) || index(pod, self.spec).is_some()
    }

    fn tally(&mut self) {
        let fresh = self.fresh();
        let succeeded: Vec<&Pod> =
            fresh.iter().map(|pod| pod.as_ref()).filter(|pod| phase(pod) == "Succeeded").collect();
        let failed: Vec<&Pod> =
            fresh.iter().map(|pod| pod.as_ref()).filter(|pod| has_failed(pod, self.spec)).collect();
        let policy = self.spec.pod_failure_policy.as_ref();
        let counted = failed.iter().filter(|pod| policy::judge(policy, pod).counts).count();
        let sum = |before: Option<i32>, new: usize, uncounted: usize| {
            before.unwrap_or(0).saturating_add(count(new + uncounted))
        };
        self.succeeded = sum(self.status.succeeded, succeeded.len(), self.uncounted.0.len());
        self.failed = sum(self.status.failed, counted, self.uncounted.1.len());
        self.plan.backoff = self.seen.backoff.after(&succeeded, &failed);
        if is_indexed(self.spec) {
            self.tally_indexes();
        }
    }

    fn tally_indexes(&mut self) {
        let spec = self.spec;
        let tracked = self.seen.pods.iter().filter(|pod| is_tracked(pod));
        let indexed: Vec<_> = tracked.filter_map(|pod| Some((index(pod, spec)?, pod))).collect();
        let succeeded = indexed.iter().filter(|(_, pod)| phase(pod) == "Succeeded");
        self.succeeded_indexes = self.succeeded_before.with(succeeded.map(|(index, _)| *index));
        self.succeeded = self.succeeded_indexes.len();
        let Some(limit) = spec.backoff_limit_per_index else { return };
        let before = self.status.failed_indexes.as_deref().unwrap_or_default();
        let gone = indexed.iter().filter(|(_, pod)| has_exhausted(pod, spec, limit));
        let failed = Indexes::parse(before, spec.completions.unwrap_or(0))
            .with(gone.map(|(index, _)| *index));
        let active: BTreeSet<i32> = self.active.iter().filter_map(|pod| index_of(pod)).collect();
        for (index, pod) in indexed {
            let settled = self.succeeded_indexes.contains(index)
                || failed.contains(index)
                || active.contains(&index);
            if !settled && has_failed(pod, spec) {
                let order = |pod: &Pod| (all_index_failures(pod), finished_at(pod));
                let last = self.awaiting_retry.entry(index).or_insert_with(|| pod.clone());
                if order(last) < order(pod) {
                    *last = pod.clone();
                }
            }
        }
        self.failed_indexes = Some(failed);
    }

    /// The end that an earlier look found.
    fn known_end(&self) -> Option<End> {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let end = |failed| {
            let kind = if failed { "FailureTarget" } else { "SuccessCriteriaMet" };
            let found = condition(&self.status, kind)?;
            Some(End { failed, reason: text(&found.reason), message: text(&found.message) })
        };
        end(false).or_else(|| end(true))
    }

    fn failure(&mut self) -> Option<End> {
        let spec = self.spec;
        let policy = spec.pod_failure_policy.as_ref();
        let failed = self.seen.pods.iter().filter(|pod| has_failed(pod, spec));
        if let Some(message) =
            failed.filter(|_| policy.is_some()).find_map(|pod| policy::judge(policy, pod).fails_job)
        {
            return Some(End::failed("PodFailurePolicy", &message));
        }
        let limit = spec.backoff_limit.unwrap_or(6);
        if self.failed > limit || self.restarts_exceed(limit) {
            let message = "Job has reached the specified backoff limit";
            return Some(End::failed("BackoffLimitExceeded", message));
        }
        if let Some(left) = self.deadline_left_s() {
            if left <= 0 {
                let message = "Job was active longer than specified deadline";
                return Some(End::failed("DeadlineExceeded", message));
            }
            self.look_again_in(left);
        }
        let failed = self.failed_indexes.as_ref()?.len();
        if spec.max_failed_indexes.is_some_and(|most| failed > most) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return Some(End::failed("MaxFailedIndexesExceeded", message));
        }
        let all = failed + self.succeeded_indexes.len() >= spec.completions.unwrap_or(0);
        (failed > 0 && all).then(|| End::failed("FailedIndexes", "Job has failed indexes"))
    }

    /// Containers that are restarted where they are count as failures too.
    fn restarts_exceed(&self, limit: i32) -> bool {
        let template = self.spec.template.spec.as_ref();
        if template.and_then(|it| it.restart_policy.as_deref()) != Some("OnFailure") {
            return false;
        }
        let running = self.seen.pods.iter().filter(|it| matches!(phase(it), "Running" | "Pending"));
        let statuses = running.filter_map(|pod| pod.status.as_ref()).flat_map(|status| {
            let init = status.init_container_statuses.iter().flatten();
            init.chain(status.container_statuses.iter().flatten())
        });
        let restarts: i32 = statuses.map(|it| it.restart_count).fold(0, i32::saturating_add);
        if limit == 0 { restarts > 0 } else { restarts >= limit }
    }

    fn deadline_left_s(&self) -> Option<i64> {
        let deadline = self.spec.active_deadline_seconds?;
        let started = self.status.start_time.as_ref().filter(|_| !is_suspended(self.spec))?;
        let left = Timestamp::from(started.0).plus_seconds(deadline).micros_since(self.seen.now);
        Some((left + 999_999).div_euclid(1_000_000))
    }

    fn content(&self) -> Option<End> {
        if !is_indexed(self.spec) {
            return None;
        }
        let completions = self.spec.completions.unwrap_or(0);
        let policy = self.spec.success_policy.as_ref();
        let message = policy::is_content(policy, completions, &self.succeeded_indexes)?;
        Some(End::succeeded("SuccessPolicy", &message))
    }

    fn look_again_in(&mut self, seconds: i64) {
        let soonest = self.plan.again_s.map_or(seconds, |before| before.min(seconds));
        self.plan.again_s = Some(soonest);
    }

    /// Makes or takes away pods until as many are active as should be.
    fn manage(&mut self) {
        let active = self.active.len();
        if is_suspended(self.spec) {
            self.plan.dismiss = self.active.clone();
            return;
        }
        let parallelism = whole(self.spec.parallelism.unwrap_or(1));
        let wanted = match self.spec.completions {
            // A work queue: once one has succeeded, the others are only waited for.
            None if self.succeeded > 0 => active,
            None => parallelism,
            Some(completions) => whole(completions - self.succeeded).min(parallelism),
        };
        let surplus = self.surplus(active.saturating_sub(wanted));
        if !surplus.is_empty() {
            self.plan.dismiss = surplus;
            return;
        }
        let terminating = match replaces_only_failed(self.spec) {
            true => self.seen.pods.iter().filter(|pod| is_terminating(pod)).count(),
            false => 0,
        };
        let missing = wanted.saturating_sub(terminating + active).min(BURST);
        if missing > 0 {
            self.create(missing);
        }
    }

    fn create(&mut self, missing: usize) {
        let (job, spec, now) = (self.seen.job, self.spec, self.seen.now);
        let per_index = spec.backoff_limit_per_index.is_some();
        let left = self.plan.backoff.left_s(now);
        if !per_index && left > 0 {
            self.look_again_in(left);
            return;
        }
        if !is_indexed(spec) {
            self.plan.create = (0..missing).map(|_| new_pod(job, spec, None, None)).collect();
            return;
        }
        let mut taken: Vec<i32> = self.active.iter().filter_map(|pod| index_of(pod)).collect();
        if replaces_only_failed(spec) {
            let going = self.seen.pods.iter().filter(|pod| is_terminating(pod));
            taken.extend(going.filter_map(|pod| index_of(pod)));
        }
        let taken = self.succeeded_indexes.with(taken);
        let taken = taken.and(&self.failed_indexes.clone().unwrap_or_default());
        for index in taken.missing(spec.completions.unwrap_or(0), missing) {
            let replaced = self.awaiting_retry.get(&index).cloned();
            let left = replaced.as_ref().filter(|_| per_index).map_or(0, |pod| {
                policy::left_s(all_index_failures(pod) + 1, finished_at(pod), now)
            });
            if left > 0 {
                self.look_again_in(left);
            } else {
                self.plan.create.push(new_pod(job, spec, Some(index), replaced.as_deref()));
            }
        }
    }

    /// The pods that go: `at_least` so many, and whatever stands for an index that has another or that is
    /// none.
    fn surplus(&self, at_least: usize) -> Vec<Arc<Pod>> {
        let mut left = self.active.clone();
        left.sort_by(|a, b| deleted_first(a, b, |_| 1));
        let mut gone = Vec::new();
        if is_indexed(self.spec) {
            // The last in that order is the best; it stands for its index.
            let mut best = BTreeMap::new();
            for pod in &left {
                best.insert(index(pod, self.spec), uid(pod).to_owned());
            }
            let stays = |pod: &Pod| {
                let index = index(pod, self.spec);
                index.is_some() && best.get(&index).is_some_and(|it| it == uid(pod))
            };
            (left, gone) = left.into_iter().partition(|pod| stays(pod));
        }
        let more = at_least.saturating_sub(gone.len());
        gone.extend(left.into_iter().take(more));
        gone.truncate(BURST);
        gone
    }

    fn note_suspension(&mut self) {
        let now = self.seen.now;
        let known = self.status.conditions.iter().flatten().find(|it| it.type_ == "Suspended");
        let known = known.map(|it| it.status == "True");
        let (value, reason, message, event) = match (is_suspended(self.spec), known) {
            (true, None | Some(false)) => ("True", "JobSuspended", "Job suspended", "Suspended"),
            (false, Some(true)) => ("False", "JobResumed", "Job resumed", "Resumed"),
            _ => return,
        };
        self.put_condition("Suspended", value, reason, message);
        self.status.start_time = (value == "False").then(|| Time(now.moment()));
        self.tell(false, event, message);
    }

    fn tell(&mut self, warning: bool, reason: &str, message: &str) {
        let (reason, message) = (reason.into(), message.into());
        self.plan.tell.push(Tell { warning, reason, message });
    }

    fn put_condition(&mut self, kind: &str, value: &str, reason: &str, message: &str) {
        let now = Time(self.seen.now.moment());
        let conditions = self.status.conditions.get_or_insert_default();
        conditions.retain(|it| it.type_ != kind);
        conditions.push(JobCondition {
            type_: kind.into(),
            status: value.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_probe_time: Some(now.clone()),
            last_transition_time: Some(now),
        });
    }

    /// Takes down what ended, and turns what was taken down into numbers.
    fn count_ended(&mut self, end: Option<&End>) {
        let tracked: BTreeSet<&str> =
            self.seen.pods.iter().filter(|pod| is_tracked(pod)).map(|pod| uid(pod)).collect();
        let settle = |uids: &mut BTreeSet<String>, number: &mut Option<i32>| {
            let before = uids.len();
            uids.retain(|uid| tracked.contains(uid.as_str()));
            let total = number.unwrap_or(0).saturating_add(count(before - uids.len()));
            *number = unless_zero(total);
        };
        settle(&mut self.uncounted.0, &mut self.status.succeeded);
        settle(&mut self.uncounted.1, &mut self.status.failed);
        let mut indexes = Vec::new();
        for pod in self.seen.pods.iter().filter(|pod| is_tracked(pod)) {
            if indexes.len() + self.uncounted.0.len() + self.uncounted.1.len() >= UNCOUNTED_MAX {
                break;
            }
            if !self.may_untrack(pod, end) {
                continue;
            }
            self.plan.untrack.push(pod.clone());
            self.take_down(pod, end, &mut indexes);
        }
        if is_indexed(self.spec) {
            let all = self.succeeded_before.with(indexes);
            self.status.succeeded = unless_zero(all.len());
            self.status.completed_indexes = Some(all.to_string()).filter(|text| !text.is_empty());
            self.status.failed_indexes = self.failed_indexes.as_ref().map(ToString::to_string);
        }
        let list = |uids: &BTreeSet<String>| {
            Some(uids.iter().cloned().collect::<Vec<_>>()).filter(|all| !all.is_empty())
        };
        self.status.uncounted_terminated_pods = Some(UncountedTerminatedPods {
            succeeded: list(&self.uncounted.0),
            failed: list(&self.uncounted.1),
        });
    }

    fn may_untrack(&self, pod: &Pod, end: Option<&End>) -> bool {
        let dismissed = |it: &Arc<Pod>| uid(it) == uid(pod);
        if self.plan.dismiss.iter().any(dismissed) {
            return false;
        }
        if self.seen.job.metadata.deletion_timestamp.is_some()
            || end.is_some()
            || phase(pod) == "Succeeded"
        {
            return true;
        }
        // The pod that failed last at an index is the record of its failures until it is replaced.
        let waits = index_of(pod).and_then(|index| self.awaiting_retry.get(&index));
        has_failed(pod, self.spec) && waits.is_none_or(|it| uid(it) != uid(pod))
    }

    fn take_down(&mut self, pod: &Pod, end: Option<&End>, indexes: &mut Vec<i32>) {
        let spec = self.spec;
        if self.uncounted.1.contains(uid(pod)) || !self.is_of_the_job(pod) {
            return;
        }
        if phase(pod) == "Succeeded" {
            match index(pod, spec).filter(|_| is_indexed(spec)) {
                Some(index) if !self.succeeded_before.contains(index) => indexes.push(index),
                Some(_) => {}
                None => {
                    self.uncounted.0.insert(uid(pod).into());
                }
            }
        } else if (has_failed(pod, spec) || end.is_some_and(|end| end.failed))
            && policy::judge(spec.pod_failure_policy.as_ref(), pod).counts
        {
            self.uncounted.1.insert(uid(pod).into());
        }
    }

    fn finish(mut self, end: Option<End>) -> Plan {
        let going = self.plan.dismiss.iter().chain(&self.plan.stop).count();
        let terminating = self.seen.pods.iter().filter(|pod| is_terminating(pod)).count() + going;
        let leaving: BTreeSet<&str> =
            self.plan.dismiss.iter().chain(&self.plan.stop).map(|pod| uid(pod)).collect();
        let staying = self.active.iter().filter(|pod| !leaving.contains(uid(pod)));
        let staying: Vec<_> = staying.collect();
        self.status.active = unless_zero(count(staying.len()));
        self.status.ready = Some(count(staying.iter().filter(|pod| is_ready(pod)).count()));
        self.status.terminating = Some(count(terminating));
        if let Some(end) = end {
            if condition(&self.status, end.first()).is_none() {
                self.put_condition(end.first(), "True", &end.reason, &end.message);
            }
            let counted = self.uncounted.0.is_empty() && self.uncounted.1.is_empty();
            if counted && terminating == 0 && self.plan.untrack.is_empty() {
                self.put_condition(end.last(), "True", &end.reason, &end.message);
                if end.failed {
                    self.tell(true, &end.reason, &end.message);
                } else {
                    self.status.completion_time = Some(Time(self.seen.now.moment()));
                    self.tell(false, "Completed", "Job completed");
                }
            }
        }
        Plan { status: self.status, ..self.plan }
    }
}

/// Whether the pod's index has failed as often as it may.
fn has_exhausted(pod: &Pod, spec: &JobSpec, limit: i32) -> bool {
    if !has_failed(pod, spec) {
        return false;
    }
    let verdict = policy::judge(spec.pod_failure_policy.as_ref(), pod);
    verdict.fails_index || verdict.counts && index_failures(pod) >= limit
}

fn whole(number: i32) -> usize {
    usize::try_from(number).unwrap_or(0)
}
