//! The status of a Deployment: its counts and its three conditions. Pure.
//!
//! Reasons and messages are upstream's: `kubectl rollout status`, Helm and the conformance suite read them.

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentCondition, DeploymentSpec, DeploymentStatus, ReplicaSet,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kontiki_api::object::time::Timestamp;

use super::plan::{Bounds, size};
use crate::controllers::amount::unless_zero;

pub const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const NEW_AVAILABLE: &str = "NewReplicaSetAvailable";
const PAUSED: &str = "DeploymentPaused";

/// A condition that is to be so from now on.
pub struct Condition<'a> {
    kind: &'a str,
    status: &'a str,
    reason: &'a str,
    message: &'a str,
}

impl<'a> Condition<'a> {
    pub fn new(kind: &'a str, status: &'a str, reason: &'a str, message: &'a str) -> Self {
        Condition { kind, status, reason, message }
    }

    /// Sets it, unless it is so already for the same reason.
    pub fn set(&self, status: &mut DeploymentStatus, now: Timestamp) {
        let known = find(status, self.kind).cloned();
        let same_status =
            known.as_ref().is_some_and(|it| it.status.as_deref() == Some(self.status));
        if same_status && known.as_ref().and_then(|it| it.reason.as_deref()) == Some(self.reason) {
            return;
        }
        let since = known.filter(|_| same_status).and_then(|it| it.last_transition_time);
        self.put(status, since, now);
    }

    /// Sets it with a fresh time of update in any case.
    fn refresh(&self, status: &mut DeploymentStatus, now: Timestamp) {
        let known = find(status, self.kind).cloned();
        let since = known
            .filter(|it| it.status.as_deref() == Some(self.status))
            .and_then(|it| it.last_transition_time);
        self.put(status, since, now);
    }

    fn put(&self, status: &mut DeploymentStatus, since: Option<Time>, now: Timestamp) {
        let now = Time(now.moment());
        remove(status, self.kind);
        status.conditions.get_or_insert_default().push(DeploymentCondition {
            type_: Some(self.kind.into()),
            status: Some(self.status.into()),
            reason: Some(self.reason.into()),
            message: Some(self.message.into()),
            last_transition_time: Some(since.unwrap_or_else(|| now.clone())),
            last_update_time: Some(now),
        });
    }
}

fn find<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.iter().flatten().find(|it| it.type_.as_deref() == Some(kind))
}

fn remove(status: &mut DeploymentStatus, kind: &str) {
    if let Some(all) = &mut status.conditions {
        all.retain(|it| it.type_.as_deref() != Some(kind));
    }
}

fn reason<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a str> {
    find(status, kind)?.reason.as_deref()
}

pub fn has_deadline(spec: &DeploymentSpec) -> bool {
    spec.progress_deadline_seconds.is_some_and(|seconds| seconds != i32::MAX)
}

/// Says that a rollout stands still by wish, or no longer does.
pub fn pause(status: &mut DeploymentStatus, spec: &DeploymentSpec, paused: bool, now: Timestamp) {
    let known = reason(status, PROGRESSING);
    if !has_deadline(spec) || known == Some(TIMED_OUT) {
        return;
    }
    match (paused, known == Some(PAUSED)) {
        (true, false) => {
            Condition::new(PROGRESSING, "Unknown", PAUSED, "Deployment is paused").set(status, now);
        }
        (false, true) => {
            let message = "Deployment is resumed";
            Condition::new(PROGRESSING, "Unknown", "DeploymentResumed", message).set(status, now);
        }
        _ => {}
    }
}

/// A set with the wanted template was there already.
pub fn found(status: &mut DeploymentStatus, spec: &DeploymentSpec, name: &str, now: Timestamp) {
    if has_deadline(spec) && find(status, PROGRESSING).is_none() {
        let message = format!("Found new replica set {name:?}");
        Condition::new(PROGRESSING, "True", "FoundNewReplicaSet", &message).set(status, now);
    }
}

pub fn created(status: &mut DeploymentStatus, spec: &DeploymentSpec, name: &str, now: Timestamp) {
    if has_deadline(spec) {
        let message = format!("Created new replica set {name:?}");
        Condition::new(PROGRESSING, "True", "NewReplicaSetCreated", &message).set(status, now);
    }
}

/// The counts, with the conditions of `before` and the one about availability.
pub fn count(
    deployment: &Deployment,
    before: &DeploymentStatus,
    sets: &[ReplicaSet],
    new: Option<&ReplicaSet>,
    now: Timestamp,
) -> DeploymentStatus {
    let sum = |of: fn(&ReplicaSet) -> i32| sets.iter().map(of).fold(0, i32::saturating_add);
    let actual = |set: &ReplicaSet| set.status.as_ref().map_or(0, |status| status.replicas);
    let available =
        sum(|set| set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0));
    let ready =
        sum(|set| set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0));
    let terminating: Option<i32> = sets
        .iter()
        .map(|set| set.status.as_ref().map_or(Some(0), |status| status.terminating_replicas))
        .sum();
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation.filter(|it| *it != 0),
        replicas: unless_zero(sum(actual)),
        updated_replicas: unless_zero(new.map_or(0, actual)),
        ready_replicas: unless_zero(ready),
        available_replicas: unless_zero(available),
        unavailable_replicas: unless_zero(sum(size).saturating_sub(available).max(0)),
        terminating_replicas: terminating,
        collision_count: before.collision_count,
        conditions: before.conditions.clone(),
    };
    let bounds = Bounds::of(deployment);
    let (value, reason, message) = if available >= bounds.replicas - bounds.max_unavailable {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        let message = "Deployment does not have minimum availability.";
        ("False", "MinimumReplicasUnavailable", message)
    };
    Condition::new(AVAILABLE, value, reason, message).set(&mut status, now);
    status
}

/// Every pod is of the new template and available, and no other is left.
pub fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = deployment.spec.replicas.unwrap_or(1);
    let all = [status.updated_replicas, status.replicas, status.available_replicas];
    all.into_iter().all(|count| count.unwrap_or(0) == wanted)
        && status.observed_generation.unwrap_or(0) >= deployment.metadata.generation.unwrap_or(0)
}

fn has_moved(before: &DeploymentStatus, now: &DeploymentStatus) -> bool {
    let more = |before: Option<i32>, now: Option<i32>| now.unwrap_or(0) > before.unwrap_or(0);
    let old = |it: &DeploymentStatus| it.replicas.unwrap_or(0) - it.updated_replicas.unwrap_or(0);
    more(before.updated_replicas, now.updated_replicas)
        || old(now) < old(before)
        || more(before.ready_replicas, now.ready_replicas)
        || more(before.available_replicas, now.available_replicas)
}

/// Says how the rollout goes, and what keeps sets from making pods.
pub fn progress(
    deployment: &Deployment,
    before: &DeploymentStatus,
    status: &mut DeploymentStatus,
    sets: &[ReplicaSet],
    new: Option<&ReplicaSet>,
    now: Timestamp,
) {
    if has_deadline(&deployment.spec) {
        say_progress(deployment, before, status, new, now);
    } else {
        remove(status, PROGRESSING);
    }
    remove_or_take_failure(status, sets, new);
    status.conditions = status.conditions.take().filter(|all| !all.is_empty());
}

fn say_progress(
    deployment: &Deployment,
    before: &DeploymentStatus,
    status: &mut DeploymentStatus,
    new: Option<&ReplicaSet>,
    now: Timestamp,
) {
    // A rollout that has ended stays ended; pods that fail later are no part of it.
    let ended = status.replicas == status.updated_replicas
        && reason(before, PROGRESSING) == Some(NEW_AVAILABLE);
    if ended {
        return;
    }
    let who = match new.and_then(|set| set.metadata.name.as_deref()) {
        Some(name) => format!("ReplicaSet {name:?}"),
        None => {
            format!("Deployment {:?}", deployment.metadata.name.as_deref().unwrap_or_default())
        }
    };
    if is_complete(deployment, status) {
        let message = format!("{who} has successfully progressed.");
        Condition::new(PROGRESSING, "True", NEW_AVAILABLE, &message).set(status, now);
    } else if has_moved(before, status) {
        let message = format!("{who} is progressing.");
        Condition::new(PROGRESSING, "True", "ReplicaSetUpdated", &message).refresh(status, now);
    } else if due_in_s(deployment, status, now).is_some_and(|seconds| seconds < 0) {
        let message = format!("{who} has timed out progressing.");
        Condition::new(PROGRESSING, "False", TIMED_OUT, &message).set(status, now);
    }
}

fn remove_or_take_failure(
    status: &mut DeploymentStatus,
    sets: &[ReplicaSet],
    new: Option<&ReplicaSet>,
) {
    let failures = new.into_iter().chain(sets).filter_map(|set| {
        let conditions = set.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|it| it.type_.as_deref() == Some(REPLICA_FAILURE))
    });
    let failure = failures.into_iter().next();
    let known = find(status, REPLICA_FAILURE);
    if let (Some(failure), Some(known)) = (failure, known)
        && known.reason == failure.reason
        && known.status == failure.status
    {
        return;
    }
    remove(status, REPLICA_FAILURE);
    status.conditions.get_or_insert_default().extend(failure.map(|it| DeploymentCondition {
        type_: it.type_.clone(),
        status: it.status.clone(),
        reason: it.reason.clone(),
        message: it.message.clone(),
        last_transition_time: it.last_transition_time.clone(),
        last_update_time: it.last_transition_time.clone(),
    }));
}

/// Seconds until a rollout that does not move counts as stuck; below zero when it does already.
fn due_in_s(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> Option<i64> {
    let condition = find(status, PROGRESSING)?;
    let reason = condition.reason.as_deref()?;
    if reason == NEW_AVAILABLE || reason == TIMED_OUT {
        return None;
    }
    let since = Timestamp::from(condition.last_update_time.as_ref()?.0);
    let deadline = deployment.spec.progress_deadline_seconds?;
    let left_us = since.plus_seconds(i64::from(deadline)).micros_since(now);
    Some(left_us.div_euclid(1_000_000))
}

/// When to look whether the rollout is stuck.
pub fn check_progress_in_s(
    deployment: &Deployment,
    status: &DeploymentStatus,
    now: Timestamp,
) -> Option<i64> {
    if !has_deadline(&deployment.spec) || is_complete(deployment, status) {
        return None;
    }
    due_in_s(deployment, status, now).map(|seconds| seconds.max(0) + 1)
}
