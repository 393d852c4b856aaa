//! Rollouts, by what their plan says of sets of certain sizes.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::plan::{Plan, Seen, plan, size};
use super::*;
use kontiki_api::object::time::Timestamp;

const NOW: &str = "2026-01-01T01:00:00Z";

fn deployment(changes: &Value) -> Deployment {
    let mut object = json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "d", "generation": 1},
        "spec": {"replicas": 10, "progressDeadlineSeconds": 600, "revisionHistoryLimit": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}},
            "template": template("v1")}});
    for (path, value) in changes.as_object().unwrap() {
        let (parent, field) = path.rsplit_once('/').unwrap();
        object.pointer_mut(parent).unwrap()[field] = value.clone();
    }
    serde_json::from_value(object).unwrap()
}

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": image}]}})
}

/// A set of a version that is `replicas` large with `available` pods; `desired` is the size it was made for.
fn set(image: &str, replicas: i32, available: i32, desired: i32) -> ReplicaSet {
    serde_json::from_value(json!({
        "metadata": {"name": format!("web-{image}"), "namespace": "shop", "uid": image,
            "creationTimestamp": format!("2026-01-01T00:0{}:00Z", &image[1..]),
            "annotations": {"deployment.kubernetes.io/revision": &image[1..],
                "deployment.kubernetes.io/desired-replicas": desired.to_string(),
                "deployment.kubernetes.io/max-replicas": (desired + 3).to_string()}},
        "spec": {"replicas": replicas, "selector": {}, "template": template(image)},
        "status": {"replicas": replicas, "readyReplicas": available,
            "availableReplicas": available}}))
    .unwrap()
}

fn look(deployment: &Deployment, sets: &[ReplicaSet]) -> Plan {
    let now = Timestamp::parse(NOW).unwrap();
    plan(&Seen { deployment, sets, populated: HashSet::new(), now })
}

fn sizes(plan: &Plan) -> Vec<(String, i32)> {
    let named = |set: &ReplicaSet| (set.metadata.name.clone().unwrap(), size(set));
    plan.update.iter().map(|update| named(&update.set)).collect()
}

fn is(name: &str, size: i32) -> (String, i32) {
    (name.into(), size)
}

fn progressing(status: &DeploymentStatus) -> (String, String) {
    let mut found = status.conditions.iter().flatten().rev();
    let found = found.find(|it| it.type_.as_deref() == Some("Progressing")).unwrap();
    (found.status.clone().unwrap(), found.reason.clone().unwrap())
}

#[test]
fn the_first_set_is_made_whole_and_bears_the_first_revision() {
    let plan = look(&deployment(&json!({"/metadata/annotations": {"team": "a"}})), &[]);
    let set = plan.create.unwrap();
    assert_eq!(size(&set), 10);
    let annotations = set.metadata.annotations.unwrap();
    assert_eq!(annotations[REVISION], "1");
    assert_eq!(annotations["team"], "a");
    assert_eq!(annotations["deployment.kubernetes.io/max-replicas"], "13");
    assert_eq!(plan.revision.as_deref(), Some("1"));
    let hash = &set.metadata.labels.unwrap()["pod-template-hash"];
    assert_eq!(set.metadata.name.unwrap(), format!("web-{hash}"));
    assert_eq!(set.spec.selector.match_labels.unwrap()["pod-template-hash"], *hash);
    assert_eq!(progressing(&plan.status), ("True".into(), "NewReplicaSetCreated".into()));
}

#[test]
fn a_new_template_surges_first_and_then_replaces_what_is_available() {
    let v2 = deployment(&json!({"/spec/template": template("v2")}));
    let plan = look(&v2, &[set("v1", 10, 10, 10)]);
    assert_eq!(plan.create.map(|set| size(&set)), Some(3), "the surge");
    // Eight have to stay: five may go, of which three are new and not ready.
    let plan = look(&v2, &[set("v1", 10, 10, 10), set("v2", 3, 0, 10)]);
    assert_eq!(sizes(&plan), [is("web-v1", 8)]);
    let plan = look(&v2, &[set("v1", 8, 8, 10), set("v2", 3, 0, 10)]);
    assert_eq!(sizes(&plan), [is("web-v2", 5)]);
    let plan = look(&v2, &[set("v1", 0, 0, 10), set("v2", 10, 10, 10)]);
    assert!(plan.update.is_empty() && plan.create.is_none());
    assert_eq!(progressing(&plan.status), ("True".into(), "NewReplicaSetAvailable".into()));
}

#[test]
fn a_rollover_takes_unhealthy_pods_of_old_versions_first() {
    let v3 = deployment(&json!({"/spec/template": template("v3")}));
    let sets = [set("v1", 8, 8, 10), set("v2", 5, 0, 10), set("v3", 0, 0, 10)];
    assert_eq!(sizes(&look(&v3, &sets)), [is("web-v2", 0)]);
}

#[test]
fn pods_that_a_smaller_set_is_about_to_lose_are_not_counted_as_available() {
    let v2 = deployment(&json!({"/spec/template": template("v2")}));
    let mut shrunk = set("v1", 8, 10, 10);
    shrunk.status.as_mut().unwrap().replicas = 10;
    let plan = look(&v2, &[shrunk, set("v2", 5, 0, 10)]);
    assert_eq!(sizes(&plan), []);
}

#[test]
fn going_back_reuses_the_old_set_and_gives_it_a_new_revision() {
    let v1 = deployment(&json!({}));
    let plan = look(&v1, &[set("v1", 0, 0, 10), set("v2", 10, 10, 10)]);
    assert_eq!(sizes(&plan), [is("web-v1", 3)]);
    let annotations = plan.update[0].set.metadata.annotations.as_ref().unwrap();
    assert_eq!(annotations[REVISION], "3");
    assert_eq!(annotations["deployment.kubernetes.io/revision-history"], "1");
    assert_eq!(plan.revision.as_deref(), Some("3"));
}

#[test]
fn a_new_size_in_the_middle_of_a_rollout_is_shared_in_proportion() {
    // The conformance suite's numbers: 8 and 5 of 13 become 20 and 13 of 33.
    let larger = deployment(&json!({"/spec/template": template("v2"), "/spec/replicas": 30}));
    let plan = look(&larger, &[set("v1", 8, 8, 10), set("v2", 5, 0, 10)]);
    assert_eq!(sizes(&plan), [is("web-v1", 20), is("web-v2", 13)]);
    for update in &plan.update {
        let annotations = update.set.metadata.annotations.as_ref().unwrap();
        assert_eq!(annotations["deployment.kubernetes.io/desired-replicas"], "30");
    }
}

#[test]
fn a_paused_deployment_is_scaled_but_not_rolled_out() {
    let paused = deployment(
        &json!({"/spec/template": template("v2"), "/spec/paused": true, "/spec/replicas": 4}),
    );
    let plan = look(&paused, &[set("v1", 10, 10, 10)]);
    assert_eq!(sizes(&plan), [is("web-v1", 4)]);
    assert!(plan.create.is_none());
    assert_eq!(progressing(&plan.status), ("Unknown".into(), "DeploymentPaused".into()));
}

#[test]
fn recreate_waits_until_no_old_pod_is_left() {
    let recreate =
        json!({"/spec/template": template("v2"), "/spec/strategy": {"type": "Recreate"}});
    let recreate = deployment(&recreate);
    let plan = look(&recreate, &[set("v1", 10, 10, 10)]);
    assert_eq!(sizes(&plan), [is("web-v1", 0)]);
    assert!(plan.create.is_none());
    let emptied = [set("v1", 0, 0, 10)];
    let now = Timestamp::parse(NOW).unwrap();
    let seen = |populated| Seen { deployment: &recreate, sets: &emptied, populated, now };
    assert!(plan::plan(&seen(HashSet::from(["v1".to_owned()]))).create.is_none());
    assert_eq!(plan::plan(&seen(HashSet::new())).create.map(|set| size(&set)), Some(10));
}

#[test]
fn only_as_many_old_sets_are_kept_as_the_history_is_long() {
    let done = json!({"/spec/template": template("v5"), "/status": {"replicas": 10,
        "updatedReplicas": 10, "availableReplicas": 10, "observedGeneration": 1}});
    let old = ["v1", "v2", "v3", "v4"].map(|image| set(image, 0, 0, 10));
    let sets: Vec<_> = old.into_iter().chain([set("v5", 10, 10, 10)]).collect();
    let plan = look(&deployment(&done), &sets);
    let gone: Vec<_> = plan.delete.iter().filter_map(|set| set.metadata.uid.as_deref()).collect();
    assert_eq!(gone, ["v1", "v2"]);
}

#[test]
fn a_rollout_that_does_not_move_is_reported_after_its_deadline_and_not_before() {
    let since = |time: &str| {
        deployment(&json!({"/spec/template": template("v2"), "/status": {"replicas": 13,
            "updatedReplicas": 3, "readyReplicas": 8, "availableReplicas": 8, "conditions": [
            {"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated",
                "lastUpdateTime": time, "lastTransitionTime": time}]}}))
    };
    let sets = [set("v1", 8, 8, 10), set("v2", 5, 0, 10)];
    let plan = look(&since("2026-01-01T00:55:00Z"), &sets);
    assert_eq!(progressing(&plan.status).1, "ReplicaSetUpdated");
    assert!(plan.again_s.is_some_and(|seconds| seconds > 0));
    let mut stuck = since("2026-01-01T00:40:00Z");
    stuck.status.as_mut().unwrap().updated_replicas = Some(5);
    let plan = look(&stuck, &sets);
    assert_eq!(progressing(&plan.status), ("False".into(), "ProgressDeadlineExceeded".into()));
}

#[test]
fn a_failure_of_a_set_is_told_and_taken_back() {
    let mut failing = set("v1", 10, 4, 10);
    failing.status.as_mut().unwrap().conditions = serde_json::from_value(json!([
        {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate"}]))
    .unwrap();
    let told = look(&deployment(&json!({})), &[failing]).status;
    let has = |status: &DeploymentStatus| {
        status.conditions.iter().flatten().any(|it| it.reason.as_deref() == Some("FailedCreate"))
    };
    assert!(has(&told));
    let mut recovered = deployment(&json!({}));
    recovered.status = Some(told);
    assert!(!has(&look(&recovered, &[set("v1", 10, 10, 10)]).status));
}

#[test]
fn an_unchanged_world_asks_for_nothing() {
    let sets = [set("v1", 10, 10, 10)];
    let first = look(&deployment(&json!({})), &sets);
    let mut told = deployment(&json!({"/metadata/annotations": {REVISION: "1"}}));
    told.status = Some(first.status.clone());
    let second = look(&told, &sets);
    assert_eq!(second.status, first.status);
    assert!(second.update.is_empty() && second.create.is_none() && second.revision.is_none());
    assert_eq!(second.again_s, None);
}
