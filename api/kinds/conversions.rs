//! Objects that rest in one version and are served in another: how each is turned into the other.
//!
//! Keeps: what one version cannot say is kept for the other, in annotations; there and back is no change.

use serde_json::{Map, Value, json};

use super::defaults;
use crate::object::meta;

type Convert = fn(&mut Value);

/// From what rests to this version, and back; `None` where it rests in this version.
pub(super) fn of(group: &str, version: &str, kind: &str) -> Option<(Convert, Convert)> {
    match (group, version, kind) {
        ("autoscaling", "v1", "HorizontalPodAutoscaler") => Some((older_scaler, newer_scaler)),
        ("events.k8s.io", "v1", "Event") => Some((newer_event, older_event)),
        _ => None,
    }
}

/// A field of the core group's events, and what `events.k8s.io` calls it.
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

fn newer_event(event: &mut Value) {
    rename(event, EVENT_FIELDS.iter().copied());
}

fn older_event(event: &mut Value) {
    rename(event, EVENT_FIELDS.iter().map(|(core, newer)| (*newer, *core)));
}

fn rename(object: &mut Value, names: impl Iterator<Item = (&'static str, &'static str)>) {
    let Some(fields) = object.as_object_mut() else { return };
    for (from, to) in names {
        if let Some(value) = fields.remove(from) {
            fields.insert(to.into(), value);
        }
    }
}

/// What `autoscaling/v1` has no field for: where in a later object, and in which annotation.
const KEPT: &[(&str, &str, &str)] = &[
    ("spec", "metrics", "autoscaling.alpha.kubernetes.io/metrics"),
    ("spec", "behavior", "autoscaling.alpha.kubernetes.io/behavior"),
    ("status", "conditions", "autoscaling.alpha.kubernetes.io/conditions"),
    ("status", "currentMetrics", "autoscaling.alpha.kubernetes.io/current-metrics"),
];
const CPU: &str = "targetCPUUtilizationPercentage";
const CURRENT_CPU: &str = "currentCPUUtilizationPercentage";

fn older_scaler(scaler: &mut Value) {
    let mut notes = Map::new();
    for (part, field, note) in KEPT {
        let Some(there) = scaler.get_mut(part).and_then(Value::as_object_mut) else { continue };
        let Some(mut value) = there.remove(*field) else { continue };
        if let Some(list) = value.as_array_mut() {
            let (shown, place) = match *field {
                "metrics" => (CPU, "/resource/target/averageUtilization"),
                _ => (CURRENT_CPU, "/resource/current/averageUtilization"),
            };
            let is_cpu = |it: &Value| {
                it.pointer("/resource/name") == Some(&json!("cpu")) && it.pointer(place).is_some()
            };
            if *field != "conditions"
                && let Some(at) = list.iter().position(is_cpu)
            {
                let metric = list.remove(at);
                let percent = metric.pointer(place).cloned().unwrap_or_default();
                there.insert(shown.into(), percent);
            }
            if list.is_empty() {
                continue;
            }
        }
        if !value.is_null() {
            notes.insert((*note).into(), value.to_string().into());
        }
    }
    if notes.is_empty() {
        return;
    }
    if !scaler["metadata"]["annotations"].is_object() {
        scaler["metadata"]["annotations"] = json!({});
    }
    if let Some(annotations) = scaler["metadata"]["annotations"].as_object_mut() {
        annotations.extend(notes);
    }
}

fn newer_scaler(scaler: &mut Value) {
    for (part, field, note) in KEPT {
        let Some(text) = meta::annotation(scaler, note).map(str::to_owned) else { continue };
        // Whoever writes nonsense there has none of it kept.
        let kept = serde_json::from_str::<Value>(&text)
            .ok()
            .filter(|kept| if *field == "behavior" { kept.is_object() } else { kept.is_array() });
        if let Some(kept) = kept {
            if !scaler[*part].is_object() {
                scaler[*part] = json!({});
            }
            scaler[*part][*field] = kept;
        }
        if let Some(all) = scaler["metadata"]["annotations"].as_object_mut() {
            all.remove(*note);
            if all.is_empty() {
                meta::unset(scaler, "annotations");
            }
        }
    }
    for (part, field, shown, side) in
        [("spec", "metrics", CPU, "target"), ("status", "currentMetrics", CURRENT_CPU, "current")]
    {
        let Some(there) = scaler.get_mut(part).and_then(Value::as_object_mut) else { continue };
        let Some(percent) = there.remove(shown).filter(|percent| !percent.is_null()) else {
            continue;
        };
        let mut value = json!({"averageUtilization": percent});
        if side == "target" {
            value["type"] = "Utilization".into();
        }
        let metric = json!({"type": "Resource", "resource": {"name": "cpu", side: value}});
        match there.entry(field).or_insert_with(|| json!([])) {
            Value::Array(list) => list.insert(0, metric),
            other => *other = json!([metric]),
        }
    }
    if let Some(default) = defaults::of("autoscaling", "v2", "HorizontalPodAutoscaler") {
        default(scaler);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_autoscaler_has_one_percentage_in_v1_and_metrics_in_v2() {
        let v1 = json!({"metadata": {"name": "a"}, "spec": {"maxReplicas": 3, "minReplicas": 1,
            "scaleTargetRef": {"kind": "Deployment", "name": "d"}, CPU: 80}});
        let (older, newer) = of("autoscaling", "v1", "HorizontalPodAutoscaler").unwrap();
        let mut value = v1.clone();
        newer(&mut value);
        assert_eq!(
            value["spec"]["metrics"],
            json!([{"type": "Resource", "resource": {"name": "cpu",
                "target": {"type": "Utilization", "averageUtilization": 80}}}])
        );
        assert!(value["spec"].get(CPU).is_none());
        older(&mut value);
        assert_eq!(value, v1);
    }

    #[test]
    fn what_v1_cannot_say_is_kept_for_v2() {
        let (older, newer) = of("autoscaling", "v1", "HorizontalPodAutoscaler").unwrap();
        let v2 = json!({"metadata": {"name": "a"}, "spec": {"maxReplicas": 3, "minReplicas": 1,
            "metrics": [{"type": "Pods", "pods": {"metric": {"name": "m"},
                "target": {"type": "AverageValue", "averageValue": "1"}}}]},
            "status": {"conditions": [{"type": "ScalingActive", "status": "True"}]}});
        let mut value = v2.clone();
        older(&mut value);
        assert!(value["spec"].get("metrics").is_none());
        newer(&mut value);
        assert_eq!(value, v2);
    }

    #[test]
    fn an_event_is_told_in_the_words_of_either_group() {
        let (newer, older) = of("events.k8s.io", "v1", "Event").unwrap();
        let core = json!({"involvedObject": {"kind": "Pod"}, "message": "m", "count": 2});
        let mut value = core.clone();
        newer(&mut value);
        assert_eq!(value["regarding"]["kind"], "Pod");
        assert_eq!(value["note"], "m");
        older(&mut value);
        assert_eq!(value, core);
    }
}
