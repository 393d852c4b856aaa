//! Jobs, by what their plan says of pods in certain states.

use serde_json::{Value, json};

use super::*;
use kontiki_api::object::time::Timestamp;

const NOW: &str = "2026-01-01T01:00:00Z";

fn job(spec: &Value, status: &Value) -> Job {
    let mut object = json!({
        "metadata": {"name": "sum", "namespace": "lab", "uid": "j"},
        "spec": {"parallelism": 2, "completions": 3, "backoffLimit": 6,
            "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]}}},
        "status": status});
    for (field, value) in spec.as_object().unwrap() {
        object["spec"][field] = value.clone();
    }
    serde_json::from_value(object).unwrap()
}

fn indexed(spec: &Value) -> Job {
    let mut with_mode = spec.clone();
    with_mode["completionMode"] = "Indexed".into();
    job(&with_mode, &json!({}))
}

fn pod(name: &str, phase: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "lab", "uid": name,
            "finalizers": [FINALIZER], "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"containers": []}, "status": {"phase": phase}})
}

fn at(index: i32, name: &str, phase: &str) -> Value {
    let mut pod = pod(name, phase);
    pod["metadata"]["annotations"][pods::INDEX] = index.to_string().into();
    pod
}

fn with(mut pod: Value, path: &str, value: Value) -> Value {
    let (parent, field) = path.rsplit_once('/').unwrap();
    pod.pointer_mut(parent).unwrap()[field] = value;
    pod
}

fn read(pods: &[Value]) -> Vec<Arc<Pod>> {
    let read = |pod: &Value| Arc::new(serde_json::from_value(pod.clone()).unwrap());
    pods.iter().map(read).collect()
}

fn look(job: &Job, pods: &[Value]) -> Plan {
    look_after(job, pods, Backoff::default())
}

fn look_after(job: &Job, pods: &[Value], backoff: Backoff) -> Plan {
    let now = Timestamp::parse(NOW).unwrap();
    let spec = job.spec.as_ref().unwrap();
    plan::plan(&Seen { job, spec, pods: &read(pods), backoff, now })
}

/// The conditions that hold, with their reasons.
fn conditions(plan: &Plan) -> Vec<(String, String)> {
    let all = plan.status.conditions.iter().flatten().filter(|it| it.status == "True");
    all.map(|it| (it.type_.clone(), it.reason.clone().unwrap())).collect()
}

fn is(kind: &str, reason: &str) -> (String, String) {
    (kind.into(), reason.into())
}

fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
    pods.iter().filter_map(|pod| pod.metadata.name.as_deref()).collect()
}

fn indexes(plan: &Plan) -> Vec<i32> {
    plan.create.iter().filter_map(pods::index_of).collect()
}

#[test]
fn pods_are_made_up_to_the_parallelism_and_no_more_than_are_missing() {
    let plan = look(&job(&json!({}), &json!({})), &[]);
    assert_eq!(plan.create.len(), 2);
    assert_eq!(plan.create[0].metadata.finalizers.as_deref(), Some(&[FINALIZER.to_owned()][..]));
    assert!(plan.status.start_time.is_some());
    let nearly = job(&json!({}), &json!({"succeeded": 2}));
    assert_eq!(look(&nearly, &[]).create.len(), 1);
    assert_eq!(look(&nearly, &[pod("a", "Running")]).create.len(), 0);
}

#[test]
fn a_pod_that_ended_is_taken_down_then_let_go_of_then_counted() {
    let first = look(&job(&json!({}), &json!({})), &[pod("a", "Succeeded")]);
    let uncounted = first.status.uncounted_terminated_pods.clone().unwrap();
    assert_eq!(uncounted.succeeded, Some(vec!["a".to_owned()]));
    assert_eq!(first.status.succeeded, None);
    assert_eq!(names(&first.untrack), ["a"]);
    let mut next = job(&json!({}), &json!({}));
    next.status = Some(first.status);
    // The finalizer is still there: nothing changes, and nothing is made for it again.
    let same = look(&next, &[pod("a", "Succeeded"), pod("b", "Running"), pod("c", "Running")]);
    assert_eq!(same.status.succeeded, None);
    assert!(same.create.is_empty());
    let free = with(pod("a", "Succeeded"), "/metadata/finalizers", json!([]));
    let counted = look(&next, &[free, pod("b", "Running"), pod("c", "Running")]);
    assert_eq!(counted.status.succeeded, Some(1));
    assert_eq!(counted.status.uncounted_terminated_pods.unwrap().succeeded, None);
    assert!(counted.create.is_empty() && counted.untrack.is_empty());
}

#[test]
fn a_job_is_complete_when_all_is_counted_and_not_before() {
    let status = json!({"succeeded": 2, "startTime": NOW});
    let almost = look(&job(&json!({}), &status), &[pod("c", "Succeeded")]);
    assert_eq!(conditions(&almost), [is("SuccessCriteriaMet", "CompletionsReached")]);
    let mut next = job(&json!({}), &json!({}));
    next.status = Some(almost.status);
    let done = look(&next, &[]);
    assert_eq!(
        conditions(&done),
        [is("SuccessCriteriaMet", "CompletionsReached"), is("Complete", "CompletionsReached")]
    );
    assert_eq!(done.status.succeeded, Some(3));
    assert!(done.status.completion_time.is_some());
    assert_eq!(done.tell[0].reason, "Completed");
}

#[test]
fn a_work_queue_ends_with_its_first_success_when_nobody_works_any_more() {
    let queue = |status: &Value| job(&json!({"completions": null}), status);
    let plan = look(&queue(&json!({"succeeded": 1})), &[pod("a", "Running")]);
    assert!(plan.create.is_empty() && conditions(&plan).is_empty());
    let plan = look(&queue(&json!({"succeeded": 1})), &[]);
    assert_eq!(conditions(&plan).last(), Some(&is("Complete", "CompletionsReached")));
}

#[test]
fn too_many_failures_end_a_job_and_its_running_pods() {
    let failing = job(&json!({"backoffLimit": 1}), &json!({"failed": 1}));
    let first = look(&failing, &[pod("a", "Failed"), pod("b", "Running")]);
    assert_eq!(conditions(&first), [is("FailureTarget", "BackoffLimitExceeded")]);
    assert_eq!(names(&first.stop), ["b"]);
    assert_eq!(names(&first.untrack), ["a", "b"]);
    let mut next = failing.clone();
    next.status = Some(first.status);
    let going = with(pod("b", "Running"), "/metadata/deletionTimestamp", json!(NOW));
    let going = with(going, "/metadata/finalizers", json!([]));
    let waits = look(&next, std::slice::from_ref(&going));
    assert_eq!(conditions(&waits).len(), 1, "a pod is still there");
    assert_eq!(waits.status.terminating, Some(1));
    next.status = Some(waits.status);
    let done = look(&next, &[]);
    assert_eq!(conditions(&done)[1], is("Failed", "BackoffLimitExceeded"));
    assert_eq!(done.status.failed, Some(3));
    assert_eq!(done.status.active, None);
}

#[test]
fn pods_are_made_anew_later_after_each_failure() {
    let failed = |ended: &str| {
        with(
            pod("a", "Failed"),
            "/status/containerStatuses",
            json!([{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 1, "finishedAt": ended}}}]),
        )
    };
    let waits = look(&job(&json!({}), &json!({})), &[failed("2026-01-01T00:59:57Z")]);
    assert!(waits.create.is_empty());
    assert_eq!(waits.again_s, Some(7), "ten seconds after the first failure");
    let again = look_after(&job(&json!({}), &json!({})), &[], waits.backoff);
    assert_eq!(again.again_s, Some(7), "the failure is remembered when it is counted");
    let goes_on = look(&job(&json!({}), &json!({})), &[failed("2026-01-01T00:59:40Z")]);
    assert_eq!(goes_on.create.len(), 2);
}

#[test]
fn a_suspended_job_has_no_pods_and_no_start_and_goes_on_when_resumed() {
    let suspended = job(&json!({"suspend": true}), &json!({"startTime": NOW}));
    let plan = look(&suspended, &[pod("a", "Running")]);
    assert_eq!(names(&plan.dismiss), ["a"]);
    assert!(plan.untrack.is_empty() && plan.status.failed.is_none(), "nobody failed");
    assert_eq!(conditions(&plan), [is("Suspended", "JobSuspended")]);
    assert_eq!((plan.status.start_time.clone(), plan.tell[0].reason.as_str()), (None, "Suspended"));
    let mut resumed = job(&json!({}), &json!({}));
    resumed.status = Some(plan.status);
    let plan = look(&resumed, &[]);
    assert_eq!(plan.create.len(), 2);
    assert!(conditions(&plan).is_empty());
    assert_eq!(plan.tell[0].reason, "Resumed");
}

#[test]
fn a_deadline_ends_a_job() {
    let started = json!({"startTime": "2026-01-01T00:59:00Z"});
    let in_time = job(&json!({"activeDeadlineSeconds": 100}), &started);
    assert_eq!(look(&in_time, &[pod("a", "Running"), pod("b", "Running")]).again_s, Some(40));
    let late = job(&json!({"activeDeadlineSeconds": 60}), &started);
    let plan = look(&late, &[pod("a", "Running")]);
    assert_eq!(conditions(&plan), [is("FailureTarget", "DeadlineExceeded")]);
}

#[test]
fn an_indexed_job_makes_one_pod_for_each_index() {
    let plan = look(&indexed(&json!({})), &[]);
    assert_eq!(indexes(&plan), [0, 1]);
    let made = &plan.create[1];
    assert_eq!(made.metadata.generate_name.as_deref(), Some("sum-1-"));
    assert_eq!(made.metadata.labels.as_ref().unwrap()[pods::INDEX], "1");
    let spec = made.spec.as_ref().unwrap();
    assert_eq!(spec.hostname.as_deref(), Some("sum-1"));
    assert_eq!(spec.containers[0].env.as_ref().unwrap()[0].name, "JOB_COMPLETION_INDEX");
    let pods = [at(0, "a", "Succeeded"), at(1, "b", "Running"), at(1, "b2", "Pending")];
    let plan = look(&indexed(&json!({})), &pods);
    assert_eq!(names(&plan.dismiss), ["b2"], "one pod stands for an index");
    assert_eq!(plan.status.completed_indexes.as_deref(), Some("0"));
    assert_eq!(plan.status.succeeded, Some(1));
}

#[test]
fn an_index_may_fail_so_often_and_the_others_go_on() {
    let spec = json!({"backoffLimitPerIndex": 0, "maxFailedIndexes": 5, "backoffLimit": 99});
    let plan = look(&indexed(&spec), &[at(0, "a", "Failed"), at(1, "b", "Running")]);
    assert_eq!(plan.status.failed_indexes.as_deref(), Some("0"));
    assert_eq!(indexes(&plan), [2]);
    let ended = [at(0, "a", "Failed"), at(1, "b", "Succeeded"), at(2, "c", "Succeeded")];
    let plan = look(&indexed(&spec), &ended);
    assert_eq!(conditions(&plan), [is("FailureTarget", "FailedIndexes")]);
    let few = json!({"backoffLimitPerIndex": 0, "maxFailedIndexes": 0, "backoffLimit": 99});
    let plan = look(&indexed(&few), &[at(0, "a", "Failed")]);
    assert_eq!(conditions(&plan), [is("FailureTarget", "MaxFailedIndexesExceeded")]);
}

#[test]
fn a_failed_pod_is_kept_until_its_index_has_another_and_hands_its_failures_on() {
    let spec = json!({"backoffLimitPerIndex": 2, "backoffLimit": 99, "completions": 1});
    let plan = look(&indexed(&spec), &[at(0, "a", "Failed")]);
    assert!(plan.untrack.is_empty());
    let annotations = plan.create[0].metadata.annotations.as_ref().unwrap();
    assert_eq!(annotations["batch.kubernetes.io/job-index-failure-count"], "1");
    let plan = look(&indexed(&spec), &[at(0, "a", "Failed"), at(0, "b", "Running")]);
    assert_eq!(names(&plan.untrack), ["a"]);
}

#[test]
fn a_failure_policy_ignores_fails_the_index_or_fails_the_job() {
    let policy = |action: &str| {
        json!({"podFailurePolicy": {"rules": [{"action": action,
            "onExitCodes": {"operator": "In", "values": [42]}}]}, "backoffLimit": 0,
            "backoffLimitPerIndex": 3})
    };
    let failed = with(
        at(0, "a", "Failed"),
        "/status/containerStatuses",
        json!([{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 42, "finishedAt": "2026-01-01T00:00:00Z"}}}]),
    );
    let pods = [failed];
    assert!(conditions(&look(&indexed(&policy("Ignore")), &pods)).is_empty());
    let plan = look(&indexed(&policy("FailJob")), &pods);
    assert_eq!(conditions(&plan), [is("FailureTarget", "PodFailurePolicy")]);
    assert_eq!(
        plan.status.conditions.unwrap()[0].message.as_deref(),
        Some("Container c for pod lab/a failed with exit code 42 matching FailJob rule at index 0")
    );
    let mut index = policy("FailIndex");
    index["backoffLimit"] = 9.into();
    assert_eq!(look(&indexed(&index), &pods).status.failed_indexes.as_deref(), Some("0"));
}

#[test]
fn a_success_policy_ends_a_job_early_and_its_other_pods_did_not_fail() {
    let spec = json!({"successPolicy": {"rules": [{"succeededIndexes": "0"}]}});
    let plan = look(&indexed(&spec), &[at(0, "a", "Succeeded"), at(1, "b", "Running")]);
    assert_eq!(conditions(&plan), [is("SuccessCriteriaMet", "SuccessPolicy")]);
    assert_eq!(names(&plan.stop), ["b"]);
    assert_eq!(plan.status.uncounted_terminated_pods.unwrap().failed, None);
}

#[test]
fn pods_that_are_being_deleted_are_replaced_at_once_or_when_they_failed_as_asked() {
    let going = with(pod("a", "Running"), "/metadata/deletionTimestamp", json!(NOW));
    let going = with(going, "/metadata/deletionGracePeriodSeconds", json!(60));
    let pods = [going, pod("b", "Running")];
    let failed = json!({"podReplacementPolicy": "Failed"});
    let plan = look(&job(&failed, &json!({})), &pods);
    assert!(plan.create.is_empty());
    assert_eq!((plan.status.active, plan.status.terminating), (Some(1), Some(1)));
    assert_eq!(look(&job(&json!({}), &json!({})), &pods).create.len(), 1);
}
