//! Deletes Jobs that ended longer ago than they ask to be kept.

use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use kontiki_api::Status;
use kontiki_api::client::{Client, DeleteOptions, Preconditions};
use kontiki_api::error::Reason;
use kontiki_api::object::time::{Clock, Timestamp};

use super::job::finished;
use super::{Context, Loop, WORKERS};
use crate::reconcile::{Delta, Informer, Key, Next, Reconcile};

const NAME: &str = "ttl-after-finished-controller";

struct Controller {
    client: Client,
    clock: Clock,
    jobs: Informer<Job>,
}

pub fn start(context: &Context) -> Vec<Loop> {
    let queue = context.queue(NAME);
    let jobs = context.informers.of::<Job>();
    jobs.on({
        let queue = queue.clone();
        move |delta| {
            if !matches!(delta, Delta::Deleted(_)) && expires_at(delta.object()).is_some() {
                queue.add(Key::of(&delta.object().metadata));
            }
        }
    });
    let controller =
        Controller { client: context.client(NAME), clock: context.clock.clone(), jobs };
    vec![Loop::new(controller, queue, WORKERS)]
}

/// When a Job may be deleted; `None` for one that runs, is going already, or asks to be kept. Pure.
fn expires_at(job: &Job) -> Option<Timestamp> {
    let keep_s = job.spec.as_ref()?.ttl_seconds_after_finished?;
    if job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let ended = finished(job)?.last_transition_time.as_ref()?;
    Some(Timestamp::from(ended.0).plus_seconds(i64::from(keep_s)))
}

/// How long it has left, rounded up to what a timer can wait.
fn left(job: &Job, now: Timestamp) -> Option<Duration> {
    let left_us = expires_at(job)?.micros_since(now).max(0);
    Some(Duration::from_micros(u64::try_from(left_us).unwrap_or(0)))
}

impl Reconcile for Controller {
    type Key = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Status> {
        let known = self.jobs.get(key);
        let Some(left_known) = known.and_then(|job| left(&job, self.clock.now())) else {
            return Ok(Next::WhenChanged);
        };
        if !left_known.is_zero() {
            return Ok(Next::After(left_known));
        }
        // The time may have been raised a moment ago: the API has the last word.
        let fresh = match self.client.get::<Job>(&key.namespace, &key.name).await {
            Err(status) if status.is(Reason::NotFound) => return Ok(Next::WhenChanged),
            fresh => fresh?,
        };
        match left(&fresh, self.clock.now()) {
            None => return Ok(Next::WhenChanged),
            Some(left) if !left.is_zero() => return Ok(Next::After(left)),
            Some(_) => {}
        }
        let preconditions = Preconditions {
            uid: fresh.metadata.uid.clone(),
            resource_version: fresh.metadata.resource_version.clone(),
        };
        let options = DeleteOptions {
            propagation_policy: Some("Foreground"),
            preconditions: Some(preconditions),
            ..DeleteOptions::default()
        };
        match self.client.delete::<Job>(&key.namespace, &key.name, &options).await {
            Err(status) if !status.is(Reason::NotFound) => Err(status),
            _ => Ok(Next::WhenChanged),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn job(spec: &Value, conditions: &Value) -> Job {
        serde_json::from_value(json!({"metadata": {"name": "sum"},
            "spec": spec, "status": {"conditions": conditions}}))
        .unwrap()
    }

    #[test]
    fn a_job_expires_a_time_after_it_ended_if_it_says_so() {
        let ended = |kind: &str| {
            json!([{"type": kind, "status": "True",
                "lastTransitionTime": "2026-01-01T00:00:00Z"}])
        };
        let spec = json!({"ttlSecondsAfterFinished": 100, "template": {}});
        let at = |text: &str| Timestamp::parse(text).unwrap();
        let complete = job(&spec, &ended("Complete"));
        assert_eq!(expires_at(&complete), Some(at("2026-01-01T00:01:40Z")));
        assert_eq!(expires_at(&job(&spec, &ended("Failed"))), Some(at("2026-01-01T00:01:40Z")));
        assert_eq!(expires_at(&job(&spec, &ended("Suspended"))), None);
        assert_eq!(expires_at(&job(&json!({"template": {}}), &ended("Complete"))), None);
        assert_eq!(left(&complete, at("2026-01-01T00:01:39Z")), Some(Duration::from_secs(1)));
        assert_eq!(left(&complete, at("2026-01-01T00:02:00Z")), Some(Duration::ZERO));
    }
}
