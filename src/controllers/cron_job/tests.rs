//! CronJobs, by what their plan says at certain times.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::*;

fn cron(spec: &Value, status: &Value) -> CronJob {
    let mut object = json!({
        "metadata": {"name": "report", "namespace": "shop", "uid": "c",
            "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"schedule": "*/10 * * * *", "successfulJobsHistoryLimit": 1,
            "failedJobsHistoryLimit": 1,
            "jobTemplate": {"metadata": {"labels": {"app": "report"}},
                "spec": {"template": {}}}},
        "status": status});
    for (field, value) in spec.as_object().unwrap() {
        object["spec"][field] = value.clone();
    }
    serde_json::from_value(object).unwrap()
}

fn job(name: &str, ended: Option<&str>, started: &str) -> Arc<Job> {
    let conditions: Vec<_> =
        ended.map(|kind| json!({"type": kind, "status": "True"})).into_iter().collect();
    let object = json!({"metadata": {"name": name, "namespace": "shop", "uid": name},
        "status": {"startTime": started, "completionTime": started, "conditions": conditions}});
    Arc::new(serde_json::from_value(object).unwrap())
}

fn look(cron: &CronJob, jobs: &[Arc<Job>], now: &str) -> Plan {
    let now = Timestamp::parse(now).unwrap();
    plan::plan(&Seen { cron, jobs, gone: HashSet::new(), now })
}

/// The Job that is started and when it was due.
fn started(plan: &Plan) -> Option<(String, String)> {
    let (job, due) = plan.create.as_ref()?;
    Some((job.metadata.name.clone().unwrap(), due.rfc3339()))
}

fn reasons(plan: &Plan) -> Vec<&str> {
    plan.tell.iter().map(|tell| tell.reason).collect()
}

fn deleted(plan: &Plan) -> Vec<&str> {
    plan.delete.iter().filter_map(|job| job.metadata.name.as_deref()).collect()
}

fn active(name: &str) -> Value {
    json!({"active": [{"name": name, "uid": name}]})
}

#[test]
fn a_job_is_started_when_it_is_due_and_named_by_its_minute() {
    let plan = look(&cron(&json!({}), &json!({})), &[], "2026-01-01T00:09:59Z");
    assert_eq!(started(&plan), None);
    assert_eq!(plan.again_us, Some(1_100_000));
    let plan = look(&cron(&json!({}), &json!({})), &[], "2026-01-01T00:10:00Z");
    let minute = Timestamp::parse("2026-01-01T00:10:00Z").unwrap().as_seconds() / 60;
    assert_eq!(started(&plan), Some((format!("report-{minute}"), "2026-01-01T00:10:00Z".into())));
    let (job, _) = plan.create.unwrap();
    let annotations = job.metadata.annotations.unwrap();
    assert_eq!(
        annotations["batch.kubernetes.io/cronjob-scheduled-timestamp"],
        "2026-01-01T00:10:00Z"
    );
    assert_eq!(job.metadata.labels.unwrap()["app"], "report");
}

#[test]
fn of_missed_times_only_the_last_is_made_up_for() {
    let last = json!({"lastScheduleTime": "2026-01-01T00:10:00Z"});
    let plan = look(&cron(&json!({}), &last), &[], "2026-01-01T00:47:00Z");
    assert_eq!(started(&plan).unwrap().1, "2026-01-01T00:40:00Z");
    assert!(reasons(&plan).is_empty());
    let plan = look(&cron(&json!({}), &last), &[], "2026-03-01T00:47:00Z");
    assert_eq!(started(&plan).unwrap().1, "2026-03-01T00:40:00Z");
    assert_eq!(reasons(&plan), ["TooManyMissedTimes"]);
    let monthly = cron(&json!({"schedule": "@monthly"}), &last);
    assert_eq!(
        started(&look(&monthly, &[], "2026-04-15T00:00:00Z")).unwrap().1,
        "2026-04-01T00:00:00Z"
    );
    let plan = look(&cron(&json!({}), &last), &[], "2026-01-01T00:19:00Z");
    assert_eq!(started(&plan), None, "that one was started");
}

#[test]
fn a_job_that_is_too_late_is_not_started() {
    let strict = cron(&json!({"startingDeadlineSeconds": 60}), &json!({}));
    assert_eq!(started(&look(&strict, &[], "2026-01-01T00:12:00Z")), None);
    assert!(started(&look(&strict, &[], "2026-01-01T00:10:30Z")).is_some());
}

#[test]
fn a_suspended_or_unreadable_schedule_starts_nothing() {
    let now = "2026-01-01T00:10:00Z";
    assert_eq!(started(&look(&cron(&json!({"suspend": true}), &json!({})), &[], now)), None);
    let plan = look(&cron(&json!({"schedule": "often"}), &json!({})), &[], now);
    assert_eq!((started(&plan), reasons(&plan)), (None, vec!["UnparseableSchedule"]));
    let plan = look(&cron(&json!({"timeZone": "Mars/Olympus"}), &json!({})), &[], now);
    assert_eq!((started(&plan), reasons(&plan)), (None, vec!["UnknownTimeZone"]));
}

#[test]
fn the_concurrency_policy_says_what_becomes_of_a_job_that_still_runs() {
    let (now, running) = ("2026-01-01T00:10:00Z", [job("before", None, "2026-01-01T00:00:00Z")]);
    let policy = |policy: &str| cron(&json!({"concurrencyPolicy": policy}), &active("before"));
    assert!(started(&look(&policy("Allow"), &running, now)).is_some());
    let plan = look(&policy("Forbid"), &running, now);
    assert_eq!((started(&plan), reasons(&plan)), (None, vec!["JobAlreadyActive"]));
    let plan = look(&policy("Replace"), &running, now);
    assert!(started(&plan).is_some());
    assert_eq!(deleted(&plan), ["before"]);
    assert_eq!(plan.status.active, None);
}

/// The Job was made, and the write of the status that names it failed: under `Forbid` a second one ran
/// beside it when the schedule's next moment came before the next attempt.
#[test]
fn a_job_that_the_status_does_not_name_is_found_and_counts_as_active() {
    let due = Timestamp::parse("2026-01-01T00:10:00Z").unwrap();
    let made = look(&cron(&json!({}), &json!({})), &[], "2026-01-01T00:10:01Z").create.unwrap().0;
    let made = Arc::new(Job {
        metadata: ObjectMeta { uid: Some("u".into()), ..made.metadata.clone() },
        ..(*made).clone()
    });
    let policy = |policy: &str| cron(&json!({"concurrencyPolicy": policy}), &json!({}));
    let plan = look(&policy("Forbid"), std::slice::from_ref(&made), "2026-01-01T00:20:01Z");
    assert_eq!((started(&plan), reasons(&plan)), (None, vec!["JobAlreadyActive"]));
    assert_eq!(plan.status.active.unwrap()[0].name, made.metadata.name);
    let last = plan.status.last_schedule_time.map(|time| Timestamp::from(time.0));
    assert_eq!(last, Some(due));
    let plan = look(&policy("Replace"), std::slice::from_ref(&made), "2026-01-01T00:20:01Z");
    assert_eq!(deleted(&plan), [made.metadata.name.as_deref().unwrap()]);
    assert_eq!(started(&plan).unwrap().1, "2026-01-01T00:20:00Z");
    // Made by hand in the CronJob's name: it is told of, and holds nothing up.
    let by_hand = [job("report-by-hand", None, "2026-01-01T00:10:00Z")];
    let plan = look(&policy("Forbid"), &by_hand, "2026-01-01T00:20:01Z");
    assert_eq!(reasons(&plan), ["UnexpectedJob"]);
    assert!(started(&plan).is_some());
}

#[test]
fn a_job_that_ended_is_no_longer_active_and_its_success_is_noted() {
    let ended = [job("before", Some("Complete"), "2026-01-01T00:05:00Z")];
    let plan = look(&cron(&json!({}), &active("before")), &ended, "2026-01-01T00:06:00Z");
    assert_eq!(plan.status.active, None);
    assert_eq!(plan.tell[0].message, "Saw completed job: before, condition: Complete");
    let last = plan.status.last_successful_time.map(|time| Timestamp::from(time.0).rfc3339());
    assert_eq!(last.as_deref(), Some("2026-01-01T00:05:00Z"));
    let gone = HashSet::from(["before".to_owned()]);
    let cron = cron(&json!({}), &active("before"));
    let now = Timestamp::parse("2026-01-01T00:06:00Z").unwrap();
    let plan = plan::plan(&Seen { cron: &cron, jobs: &[], gone, now });
    assert_eq!((plan.status.active.clone(), reasons(&plan)), (None, vec!["MissingJob"]));
}

#[test]
fn only_the_last_jobs_that_ended_are_kept() {
    let jobs = [
        job("a", Some("Complete"), "2026-01-01T00:00:00Z"),
        job("c", Some("Complete"), "2026-01-01T00:02:00Z"),
        job("b", Some("Complete"), "2026-01-01T00:01:00Z"),
        job("f", Some("Failed"), "2026-01-01T00:00:00Z"),
        job("running", None, "2026-01-01T00:00:00Z"),
    ];
    let plan = look(&cron(&json!({}), &active("running")), &jobs, "2026-01-01T00:03:00Z");
    assert_eq!(deleted(&plan), ["a", "b"]);
    let none = cron(&json!({"failedJobsHistoryLimit": 0}), &active("running"));
    assert_eq!(deleted(&look(&none, &jobs, "2026-01-01T00:03:00Z")), ["a", "b", "f"]);
}

#[test]
fn a_line_that_never_comes_starts_nothing_and_is_not_looked_at_again() {
    for line in ["0 0 30 2 *", "0 0 31 4,6,9,11 *"] {
        let never = cron(&json!({"schedule": line}), &json!({}));
        let plan = look(&never, &[], "2031-01-01T00:10:00Z");
        assert_eq!((started(&plan), reasons(&plan)), (None, vec![]), "{line}");
        assert_eq!(plan.again_us, None, "{line}");
    }
}

#[test]
fn a_clock_that_jumps_forth_starts_one_job_and_one_that_goes_back_none_twice() {
    let last = |at: &str| cron(&json!({}), &json!({"lastScheduleTime": at}));
    let forth = look(&last("2026-01-01T00:10:00Z"), &[], "2027-01-01T00:05:00Z");
    let (name, due) = started(&forth).unwrap();
    assert_eq!(due, "2027-01-01T00:00:00Z");
    assert_eq!(reasons(&forth), ["TooManyMissedTimes"]);
    // Back where it was: what was started stands for all times until then, and is not started again.
    for now in ["2026-01-01T00:20:00Z", "2026-12-31T23:59:00Z", "2027-01-01T00:09:00Z"] {
        let back = look(&last(&due), &[], now);
        assert_eq!((started(&back), reasons(&back)), (None, vec![]), "{now}");
        assert!(back.again_us.is_some(), "{now}");
    }
    let on = look(&last(&due), &[], "2027-01-01T00:10:00Z");
    assert_ne!(started(&on).unwrap().0, name);
}
