//! StatefulSets, by what their plan says of pods in certain states.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kontiki_api::object::time::Timestamp;
use serde_json::{Value, json};

use super::*;

const NOW: &str = "2026-01-01T01:00:00Z";

fn set(changes: &Value) -> StatefulSet {
    let mut object = json!({
        "metadata": {"name": "db", "namespace": "shop", "uid": "s", "generation": 2},
        "spec": {"replicas": 3, "serviceName": "dbs",
            "selector": {"matchLabels": {"app": "db"}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "template": {"metadata": {"labels": {"app": "db"}},
                "spec": {"containers": [{"name": "c"}], "volumes": [{"name": "tmp"}]}}}});
    for (field, value) in changes.as_object().unwrap() {
        object["spec"][field] = value.clone();
    }
    serde_json::from_value(object).unwrap()
}

fn template(image: &str) -> PodTemplateSpec {
    serde_json::from_value(json!({"metadata": {"labels": {"app": "db"}},
        "spec": {"containers": [{"name": "c", "image": image}]}}))
    .unwrap()
}

/// `state`: ready, unready, going, or a phase.
fn pod(ordinal: i32, revision: &str, state: &str) -> Arc<Pod> {
    let (phase, ready) = match state {
        "ready" | "going" => ("Running", "True"),
        "unready" => ("Running", "False"),
        other => (other, "False"),
    };
    let name = format!("db-{ordinal}");
    let mut object = json!({
        "metadata": {"name": name, "namespace": "shop", "uid": name, "labels": {
            "app": "db", "controller-revision-hash": revision,
            "statefulset.kubernetes.io/pod-name": name}},
        "spec": {"containers": []},
        "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready,
            "lastTransitionTime": "2026-01-01T00:59:55Z"}]}});
    if state == "going" {
        object["metadata"]["deletionTimestamp"] = NOW.into();
    }
    Arc::new(serde_json::from_value(object).unwrap())
}

/// A rollout from `old` to `new`.
fn look(set: &StatefulSet, pods: &[Arc<Pod>]) -> Plan {
    plan::plan(&Seen {
        set,
        pods,
        current: Version { name: "old", template: &template("v1") },
        update: Version { name: "new", template: &template("v2") },
        now: Timestamp::parse(NOW).unwrap(),
    })
}

fn created(plan: &Plan) -> Vec<(&str, &str)> {
    let name = |pod: &'_ Pod| pod.metadata.name.clone().unwrap_or_default();
    assert!(plan.create.iter().all(|pod| name(pod).starts_with("db-")));
    plan.create
        .iter()
        .map(|pod| (pod.metadata.name.as_deref().unwrap(), pods::revision(pod)))
        .collect()
}

fn deleted(plan: &Plan) -> Vec<&str> {
    plan.delete.iter().filter_map(|pod| pod.metadata.name.as_deref()).collect()
}

fn all(states: &[(&str, &str)]) -> Vec<Arc<Pod>> {
    let numbered = states.iter().zip(0..);
    numbered.map(|((revision, state), ordinal)| pod(ordinal, revision, state)).collect()
}

#[test]
fn pods_are_made_one_after_the_other_each_when_the_last_is_available() {
    let set = set(&json!({}));
    assert_eq!(created(&look(&set, &[])), [("db-0", "new")]);
    assert!(look(&set, &all(&[("new", "unready")])).create.is_empty());
    assert_eq!(created(&look(&set, &all(&[("new", "ready")]))), [("db-1", "new")]);
    let hole = [pod(0, "new", "ready"), pod(2, "new", "ready")];
    assert_eq!(created(&look(&set, &hole)), [("db-1", "new")]);
}

#[test]
fn a_pod_has_its_own_name_host_and_claims() {
    let claims = json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]});
    let plan = look(&set(&claims), &[]);
    let pod = &plan.create[0];
    let labels = pod.metadata.labels.as_ref().unwrap();
    assert_eq!(labels["statefulset.kubernetes.io/pod-name"], "db-0");
    assert_eq!(labels["apps.kubernetes.io/pod-index"], "0");
    let spec = pod.spec.as_ref().unwrap();
    assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("db-0"), Some("dbs")));
    let volume = &spec.volumes.as_ref().unwrap()[0];
    assert_eq!(volume.persistent_volume_claim.as_ref().unwrap().claim_name, "data-db-0");
    let claim = &pods::claims(&set(&claims), 0)["data"].metadata;
    assert_eq!(claim.labels.as_ref().unwrap()["app"], "db");
}

#[test]
fn a_parallel_set_makes_and_takes_away_all_at_once() {
    let parallel = json!({"podManagementPolicy": "Parallel", "replicas": 2});
    let plan = look(&set(&parallel), &[pod(3, "new", "unready"), pod(4, "new", "ready")]);
    assert_eq!(created(&plan), [("db-0", "new"), ("db-1", "new")]);
    assert_eq!(deleted(&plan), ["db-4", "db-3"]);
}

#[test]
fn ordinals_may_start_anywhere() {
    let shifted = set(&json!({"ordinals": {"start": 5}, "replicas": 1}));
    assert_eq!(created(&look(&shifted, &[])), [("db-5", "new")]);
    let plan = look(&shifted, &[pod(0, "new", "ready"), pod(5, "new", "ready")]);
    assert_eq!(deleted(&plan), ["db-0"]);
}

#[test]
fn a_smaller_set_loses_its_highest_pod_first_and_one_at_a_time() {
    let one = set(&json!({"replicas": 1}));
    let three = all(&[("new", "ready"), ("new", "ready"), ("new", "ready")]);
    assert_eq!(deleted(&look(&one, &three)), ["db-2"]);
    let waiting = all(&[("new", "ready"), ("new", "ready"), ("new", "going")]);
    assert!(look(&one, &waiting).delete.is_empty());
    let unwell = all(&[("new", "ready"), ("new", "unready"), ("new", "ready")]);
    assert_eq!(deleted(&look(&one, &unwell)), ["db-2"]);
    let base = all(&[("new", "unready"), ("new", "ready")]);
    assert!(look(&one, &base).delete.is_empty(), "not while a pod that stays is unwell");
}

#[test]
fn a_failed_pod_is_deleted_and_made_again() {
    let set = set(&json!({}));
    assert_eq!(deleted(&look(&set, &all(&[("new", "Failed")]))), ["db-0"]);
    assert_eq!(created(&look(&set, &[])), [("db-0", "new")]);
}

#[test]
fn an_update_goes_from_the_highest_ordinal_down_to_the_partition() {
    let three = all(&[("old", "ready"), ("old", "ready"), ("old", "ready")]);
    assert_eq!(deleted(&look(&set(&json!({})), &three)), ["db-2"]);
    let under_way = all(&[("old", "ready"), ("old", "ready"), ("new", "unready")]);
    assert!(look(&set(&json!({})), &under_way).delete.is_empty());
    let next = all(&[("old", "ready"), ("old", "ready"), ("new", "ready")]);
    assert_eq!(deleted(&look(&set(&json!({})), &next)), ["db-1"]);
    let canary = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 2}});
    let canary = set(&json!({"updateStrategy": canary}));
    let plan = look(&canary, &next);
    assert!(plan.delete.is_empty());
    assert_eq!((plan.status.current_replicas, plan.status.updated_replicas), (Some(2), Some(1)));
    // A pod below the partition that is lost comes back as it was.
    let lost = [pod(1, "old", "ready"), pod(2, "new", "ready")];
    assert_eq!(created(&look(&canary, &lost)), [("db-0", "old")]);
    let two = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2}});
    assert_eq!(deleted(&look(&set(&json!({"updateStrategy": two})), &three)), ["db-2", "db-1"]);
    let on_delete = set(&json!({"updateStrategy": {"type": "OnDelete"}}));
    assert!(look(&on_delete, &three).delete.is_empty());
    assert_eq!(created(&look(&on_delete, &three[1..])), [("db-0", "new")]);
}

#[test]
fn the_current_revision_follows_when_the_update_is_complete() {
    let done = all(&[("new", "ready"), ("new", "ready"), ("new", "ready")]);
    let status = look(&set(&json!({})), &done).status;
    assert_eq!(status.current_revision.as_deref(), Some("new"));
    assert_eq!((status.current_replicas, status.ready_replicas), (Some(3), Some(3)));
    assert_eq!(status.observed_generation, Some(2));
    let almost = all(&[("new", "ready"), ("new", "ready"), ("old", "ready")]);
    assert_eq!(look(&set(&json!({})), &almost).status.current_revision.as_deref(), Some("old"));
}

#[test]
fn a_pod_is_available_when_it_has_been_ready_long_enough() {
    let patient = set(&json!({"minReadySeconds": 10}));
    let plan = look(&patient, &all(&[("new", "ready")]));
    assert!(plan.create.is_empty());
    assert_eq!((plan.status.available_replicas, plan.again_s), (Some(0), Some(5)));
}

#[test]
fn a_pod_that_lost_its_labels_gets_them_back() {
    let mut stranger = pod(0, "new", "ready").as_ref().clone();
    stranger.metadata.labels.as_mut().unwrap().remove("statefulset.kubernetes.io/pod-name");
    assert_eq!(look(&set(&json!({})), &[Arc::new(stranger)]).identify.len(), 1);
    assert!(look(&set(&json!({})), &[pod(0, "new", "ready")]).identify.is_empty());
}

#[test]
fn claims_go_with_the_set_or_with_a_pod_that_is_scaled_away_as_asked() {
    let owners = |deleted: &str, scaled: &str, ordinal: i32| {
        let policy = json!({"whenDeleted": deleted, "whenScaled": scaled});
        let set = set(&json!({"persistentVolumeClaimRetentionPolicy": policy}));
        let pod = pod(ordinal, "new", "ready");
        let owners = pods::owners(&set, &pod, ordinal, &ObjectMeta::default());
        owners.map(|all| all.into_iter().map(|owner| owner.kind).collect::<Vec<_>>())
    };
    let kinds = |kind: &str| Some(vec![kind.to_owned()]);
    assert_eq!(owners("Retain", "Retain", 0), None);
    assert_eq!(owners("Delete", "Retain", 0), kinds("StatefulSet"));
    assert_eq!(owners("Delete", "Retain", 9), kinds("StatefulSet"));
    assert_eq!(owners("Retain", "Delete", 0), None);
    assert_eq!(owners("Retain", "Delete", 9), kinds("Pod"));
    assert_eq!(owners("Delete", "Delete", 0), kinds("StatefulSet"));
    assert_eq!(owners("Delete", "Delete", 9), kinds("Pod"));
}
