//! apps, batch and autoscaling.

use serde_json::{Value, json};

use super::{each, inside, set, set_text, template, within};

pub fn replication_controller(it: &mut Value) {
    let labels = it.pointer("/spec/template/metadata/labels").cloned();
    let labels =
        labels.filter(|labels| labels.as_object().is_some_and(|labels| !labels.is_empty()));
    within(it, "spec", |spec| {
        set(spec, "replicas", || json!(1));
        template(spec, "template");
        if let Some(labels) = &labels {
            fill(spec, "selector", labels);
        }
    });
    if let Some(labels) = &labels {
        inside(it, "metadata", |metadata| fill(metadata, "labels", labels));
    }
}

/// Gives a map that is absent or empty these entries.
fn fill(object: &mut Value, field: &str, entries: &Value) {
    if object.get(field).and_then(Value::as_object).is_none_or(serde_json::Map::is_empty) {
        object[field] = entries.clone();
    }
}

pub fn replica_set(it: &mut Value) {
    within(it, "spec", |spec| {
        set(spec, "replicas", || json!(1));
        template(spec, "template");
    });
}

pub fn deployment(it: &mut Value) {
    within(it, "spec", |spec| {
        set(spec, "replicas", || json!(1));
        set(spec, "revisionHistoryLimit", || json!(10));
        set(spec, "progressDeadlineSeconds", || json!(600));
        inside(spec, "strategy", |strategy| {
            set_text(strategy, "type", "RollingUpdate");
            if strategy["type"] == "RollingUpdate" {
                inside(strategy, "rollingUpdate", |rolling| {
                    set(rolling, "maxUnavailable", || json!("25%"));
                    set(rolling, "maxSurge", || json!("25%"));
                });
            }
        });
        template(spec, "template");
    });
}

pub fn stateful_set(it: &mut Value) {
    within(it, "spec", |spec| {
        set(spec, "replicas", || json!(1));
        set(spec, "revisionHistoryLimit", || json!(10));
        set_text(spec, "podManagementPolicy", "OrderedReady");
        inside(spec, "updateStrategy", |strategy| {
            set_text(strategy, "type", "RollingUpdate");
            if strategy["type"] == "RollingUpdate" {
                inside(strategy, "rollingUpdate", |rolling| {
                    set(rolling, "partition", || json!(0));
                });
            }
        });
        inside(spec, "persistentVolumeClaimRetentionPolicy", |policy| {
            set_text(policy, "whenDeleted", "Retain");
            set_text(policy, "whenScaled", "Retain");
        });
        template(spec, "template");
        each(spec, "volumeClaimTemplates", |claim| {
            set_text(claim, "apiVersion", "v1");
            set_text(claim, "kind", "PersistentVolumeClaim");
            super::cluster::claim(claim);
        });
    });
}

pub fn daemon_set(it: &mut Value) {
    within(it, "spec", |spec| {
        set(spec, "revisionHistoryLimit", || json!(10));
        inside(spec, "updateStrategy", |strategy| {
            set_text(strategy, "type", "RollingUpdate");
            if strategy["type"] == "RollingUpdate" {
                inside(strategy, "rollingUpdate", |rolling| {
                    set(rolling, "maxUnavailable", || json!(1));
                    set(rolling, "maxSurge", || json!(0));
                });
            }
        });
        template(spec, "template");
    });
}

pub fn job(it: &mut Value) {
    within(it, "spec", job_spec);
    let labels = it.pointer("/spec/template/metadata/labels").cloned();
    if let Some(labels) = labels.filter(Value::is_object) {
        inside(it, "metadata", |metadata| fill(metadata, "labels", &labels));
    }
}

fn job_spec(spec: &mut Value) {
    let absent = |field: &str| spec.get(field).is_none_or(Value::is_null);
    let neither = absent("completions") && absent("parallelism");
    let per_index = !absent("backoffLimitPerIndex");
    let failure_policy = !absent("podFailurePolicy");
    if neither {
        spec["completions"] = json!(1);
    }
    set(spec, "parallelism", || json!(1));
    set(spec, "backoffLimit", || if per_index { json!(i32::MAX) } else { json!(6) });
    set_text(spec, "completionMode", "NonIndexed");
    set(spec, "suspend", || json!(false));
    set(spec, "manualSelector", || json!(false));
    let replacement = if failure_policy { "Failed" } else { "TerminatingOrFailed" };
    set_text(spec, "podReplacementPolicy", replacement);
    within(spec, "podFailurePolicy", |policy| {
        each(policy, "rules", |rule| {
            each(rule, "onPodConditions", |pattern| set_text(pattern, "status", "True"));
        });
    });
    template(spec, "template");
}

pub fn cron_job(it: &mut Value) {
    within(it, "spec", |spec| {
        set_text(spec, "concurrencyPolicy", "Allow");
        set(spec, "suspend", || json!(false));
        set(spec, "successfulJobsHistoryLimit", || json!(3));
        set(spec, "failedJobsHistoryLimit", || json!(1));
        within(spec, "jobTemplate", |job| {
            // The template is no job yet: it gets only what its pods get.
            within(job, "spec", |spec| template(spec, "template"));
        });
    });
}

pub fn autoscaler(it: &mut Value) {
    within(it, "spec", |spec| {
        set(spec, "minReplicas", || json!(1));
        set(spec, "metrics", || {
            json!([{"type": "Resource", "resource": {"name": "cpu",
                "target": {"type": "Utilization", "averageUtilization": 80}}}])
        });
        within(spec, "behavior", |behavior| {
            inside(behavior, "scaleUp", |rules| {
                set(rules, "stabilizationWindowSeconds", || json!(0));
                scaling(
                    rules,
                    &json!([
                    {"type": "Pods", "value": 4, "periodSeconds": 15},
                    {"type": "Percent", "value": 100, "periodSeconds": 15}]),
                );
            });
            inside(behavior, "scaleDown", |rules| {
                scaling(rules, &json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]));
            });
        });
    });
}

fn scaling(rules: &mut Value, policies: &Value) {
    set_text(rules, "selectPolicy", "Max");
    set(rules, "policies", || policies.clone());
}
