//! Workloads that keep pods running, and the revisions they write down.

use serde_json::Value;

use super::{Field, Found, pod};
use crate::error::Cause;
use crate::schema::causes;

const SELECTS_OTHERS: &str = "`selector` does not match template `labels`";

pub(super) fn replication_controller(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let spec = Field::of(object).at("spec");
    spec.at("minReadySeconds").must_not_be_negative(&mut found);
    let selector = spec.at("selector");
    selector.must_not_be_empty(&mut found);
    spec.at("replicas").must_not_be_negative(&mut found);
    let template = spec.at("template");
    let labels = template.at("metadata.labels");
    let label = |name: &String| labels.map().and_then(|map| map.get(name));
    if !selector.map().into_iter().flatten().all(|(name, value)| label(name) == Some(value)) {
        found.push(labels.invalid(SELECTS_OTHERS));
    }
    pod::template(&template, &[], &mut found);
    always(&template, "ReplicationController", &mut found);
    found
}

pub(super) fn replica_set(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let spec = Field::of(object).at("spec");
    spec.at("replicas").must_not_be_negative(&mut found);
    spec.at("minReadySeconds").must_not_be_negative(&mut found);
    selects(&spec, "replicaset", &mut found);
    pod::template(&spec.at("template"), &[], &mut found);
    always(&spec.at("template"), "ReplicaSet", &mut found);
    found
}

pub(super) fn deployment(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let spec = Field::of(object).at("spec");
    spec.at("replicas").must_not_be_negative(&mut found);
    selects(&spec, "deployment", &mut found);
    pod::template(&spec.at("template"), &[], &mut found);
    always(&spec.at("template"), "ReplicaSet", &mut found);
    deployment_strategy(&spec.at("strategy"), &mut found);
    for name in ["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"] {
        spec.at(name).must_not_be_negative(&mut found);
    }
    let deadline = spec.at("progressDeadlineSeconds");
    let least = spec.at("minReadySeconds").number().unwrap_or_default();
    if deadline.number().is_some_and(|seconds| seconds <= least) {
        found.push(deadline.invalid("must be greater than minReadySeconds"));
    }
    found
}

fn deployment_strategy(strategy: &Field<'_>, found: &mut Found) {
    let rolling = strategy.at("rollingUpdate");
    match strategy.at("type").text() {
        "Recreate" if rolling.is_set() => {
            found
                .push(rolling.forbidden("may not be specified when strategy `type` is 'Recreate'"));
        }
        "Recreate" => {}
        "RollingUpdate" => {
            let (missing, extra) = (rolling.at("maxUnavailable"), rolling.at("maxSurge"));
            missing.must_be_number_or_percent(found);
            extra.must_be_number_or_percent(found);
            if missing.number_or_percent() == 0 && extra.number_or_percent() == 0 {
                found.push(missing.invalid("may not be 0 when `maxSurge` is 0"));
            }
            missing.must_not_pass_100_percent(found);
        }
        _ => found.push(strategy.unsupported(&["Recreate", "RollingUpdate"])),
    }
}

pub(super) fn daemon_set(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let spec = Field::of(object).at("spec");
    selects(&spec, "daemonset", &mut found);
    pod::template(&spec.at("template"), &[], &mut found);
    always(&spec.at("template"), "DaemonSet", &mut found);
    for name in ["minReadySeconds", "revisionHistoryLimit"] {
        spec.at(name).must_not_be_negative(&mut found);
    }
    let strategy = spec.at("updateStrategy");
    match strategy.at("type").text() {
        "OnDelete" => {}
        "RollingUpdate" => {
            let rolling = strategy.at("rollingUpdate");
            let (missing, extra) = (rolling.at("maxUnavailable"), rolling.at("maxSurge"));
            for field in [&missing, &extra] {
                field.must_be_number_or_percent(&mut found);
                field.must_not_pass_100_percent(&mut found);
            }
            match (missing.number_or_percent() != 0, extra.number_or_percent() != 0) {
                (true, true) => {
                    found.push(extra.invalid("may not be set when maxUnavailable is non-zero"));
                }
                (false, false) => found.push(missing.required("cannot be 0 when maxSurge is 0")),
                _ => {}
            }
        }
        _ => found.push(strategy.unsupported(&["RollingUpdate", "OnDelete"])),
    }
    found
}

pub(super) fn stateful_set(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let spec = Field::of(object).at("spec");
    let order = spec.at("podManagementPolicy");
    if !matches!(order.text(), "OrderedReady" | "Parallel") {
        found.push(order.invalid("must be 'OrderedReady' or 'Parallel'"));
    }
    let strategy = spec.at("updateStrategy");
    let rolling = strategy.at("rollingUpdate");
    match strategy.at("type").text() {
        "OnDelete" if rolling.is_set() => {
            found.push(rolling.invalid("only allowed for updateStrategy 'RollingUpdate'"));
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            rolling.at("partition").must_not_be_negative(&mut found);
            let missing = rolling.at("maxUnavailable");
            if missing.is_set() {
                missing.must_be_number_or_percent(&mut found);
                if missing.number_or_percent() == 0 {
                    found.push(missing.invalid("cannot be 0"));
                }
                missing.must_not_pass_100_percent(&mut found);
            }
        }
        _ => found.push(strategy.invalid("must be 'RollingUpdate' or 'OnDelete'")),
    }
    let kept = spec.at("persistentVolumeClaimRetentionPolicy");
    for name in ["whenDeleted", "whenScaled"] {
        kept.at(name).may_be_one_of(&["Retain", "Delete"], &mut found);
    }
    for name in ["replicas", "minReadySeconds", "ordinals.start", "revisionHistoryLimit"] {
        spec.at(name).must_not_be_negative(&mut found);
    }
    let service = spec.at("serviceName");
    if !service.is_empty() {
        service.must_be_label(&mut found);
    }
    selects(&spec, "statefulset", &mut found);
    let claims: Vec<&str> =
        spec.at("volumeClaimTemplates").items().map(|it| it.at("metadata.name").text()).collect();
    for claim in spec.at("volumeClaimTemplates").items() {
        super::claims::check_spec(&claim.at("spec"), &mut found);
    }
    pod::template(&spec.at("template"), &claims, &mut found);
    always(&spec.at("template"), "StatefulSet", &mut found);
    found
}

pub(super) fn stateful_set_change(new: &Value, old: &Value) -> Vec<Cause> {
    let (new, old) = (Field::of(new).at("spec"), Field::of(old).at("spec"));
    let mut rest = new.value.clone();
    for free in [
        "replicas",
        "template",
        "updateStrategy",
        "minReadySeconds",
        "ordinals",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
    ] {
        rest[free] = old.at(free).value.clone();
    }
    if super::same::same(&rest, old.value) {
        return Found::new();
    }
    vec![new.forbidden(
        "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
         'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
         'minReadySeconds' are forbidden",
    )]
}

/// Which pods are a workload's is decided once.
pub(super) fn keeps_selector(new: &Value, old: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let selector = |object| Field::of(object).at("spec.selector");
    selector(new).must_stay(&selector(old), &mut found);
    found
}

/// The selector chooses, and chooses what the template makes.
fn selects(spec: &Field<'_>, kind: &str, found: &mut Found) {
    let selector = spec.at("selector");
    if !selector.is_set() {
        found.push(selector.required(""));
    } else {
        selector.must_be_selector(found);
        if selector.selects_nothing() {
            found.push(selector.invalid(&format!("empty selector is invalid for {kind}")));
        }
    }
    match selector.selector() {
        Some(chosen) => {
            let labels = spec.at("template.metadata.labels");
            if !chosen.matches(labels.map()) {
                let shown = labels.map().cloned().map_or(Value::Null, Value::Object);
                found.push(causes::invalid(&labels.path, &shown, SELECTS_OTHERS));
            }
        }
        None if selector.is_set() => found.push(selector.invalid("invalid label selector")),
        None => {}
    }
}

/// Pods that are to be kept running start again, and have no end.
fn always(template: &Field<'_>, kind: &str, found: &mut Found) {
    template.at("spec.restartPolicy").must_be_one_of(&["Always"], found);
    let deadline = template.at("spec.activeDeadlineSeconds");
    if deadline.is_set() {
        let why = format!("activeDeadlineSeconds in {kind} is not Supported");
        found.push(deadline.forbidden(&why));
    }
}

pub(super) fn revision(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let object = Field::of(object);
    object.at("revision").must_not_be_negative(&mut found);
    let data = object.at("data");
    if !data.is_set() {
        found.push(data.required("data is mandatory"));
    } else if data.map().is_none() {
        found.push(data.required("data must be a valid JSON object"));
    }
    found
}

pub(super) fn revision_change(new: &Value, old: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    Field::of(new).at("data").must_stay(&Field::of(old).at("data"), &mut found);
    found
}
