//! What the system decides about an object when it is created: its first status, and what is derived from it.

use serde_json::{Value, json};

use crate::object::meta;
use crate::object::quantity::Quantity;

type Prepare = fn(&mut Value);

/// What begins an object of the kind; `None` where there is nothing to begin.
pub(super) fn of(group: &str, kind: &str) -> Option<Prepare> {
    let prepare: Prepare = match (group, kind) {
        ("", "Namespace") => |it| {
            it["spec"] = json!({"finalizers": ["kubernetes"]});
            it["status"] = json!({"phase": "Active"});
        },
        ("", "Pod") => |it| it["status"] = json!({"phase": "Pending", "qosClass": qos_class(it)}),
        ("", "PersistentVolume" | "PersistentVolumeClaim") => {
            |it| it["status"] = json!({"phase": "Pending"})
        }
        ("", "Service") => |it| it["status"] = json!({"loadBalancer": {}}),
        ("batch", "Job") => select_own_pods,
        _ => return None,
    };
    Some(prepare)
}

/// A job selects its pods by its own uid, unless its author took that on (`manualSelector`).
fn select_own_pods(job: &mut Value) {
    if job.pointer("/spec/manualSelector") == Some(&json!(true)) || !job["spec"].is_object() {
        return;
    }
    let (name, uid) =
        (meta::name(job).to_owned(), meta::text(job, &["metadata", "uid"]).to_owned());
    if let Some(template) = job.pointer_mut("/spec/template").filter(|it| it.is_object()) {
        if !template["metadata"].is_object() {
            template["metadata"] = json!({});
        }
        if !template["metadata"]["labels"].is_object() {
            template["metadata"]["labels"] = json!({});
        }
        let labels = &mut template["metadata"]["labels"];
        // Each under its old name, too.
        for (label, value) in [
            ("controller-uid", &uid),
            ("job-name", &name),
            ("batch.kubernetes.io/controller-uid", &uid),
            ("batch.kubernetes.io/job-name", &name),
        ] {
            labels[label] = value.clone().into();
        }
    }
    job["spec"]["selector"] = json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}});
}

/// How a pod is treated when resources run short, from what it asks for and is limited to.
#[must_use]
pub fn qos_class(pod: &Value) -> &'static str {
    const COUNTED: [&str; 2] = ["cpu", "memory"];
    let amount = |of: &Value, list: &str, resource: &str| {
        let written = of.pointer(&format!("/resources/{list}/{resource}"))?;
        Quantity::from_json(written).ok().filter(|quantity| !quantity.is_zero())
    };
    let containers: Vec<&Value> = ["containers", "initContainers"]
        .iter()
        .filter_map(|list| pod.pointer(&format!("/spec/{list}"))?.as_array())
        .flatten()
        .collect();
    // What is said of the whole pod stands for its containers.
    let whole = [&pod["spec"]];
    let speakers = if pod.pointer("/spec/resources").is_some_and(Value::is_object) {
        &whole[..]
    } else {
        &containers[..]
    };
    let says = |of: &&Value| {
        COUNTED.iter().any(|resource| {
            amount(of, "requests", resource).is_some() || amount(of, "limits", resource).is_some()
        })
    };
    let is_fixed = |of: &&Value| {
        COUNTED.iter().all(|resource| {
            let limit = amount(of, "limits", resource);
            let request = amount(of, "requests", resource).or(limit);
            limit.is_some() && request == limit
        })
    };
    if !speakers.iter().any(says) {
        "BestEffort"
    } else if speakers.iter().all(is_fixed) {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_guaranteed_what_it_is_limited_to_in_every_container() {
        let pod = |containers: Value| json!({"spec": {"containers": containers}});
        let fixed = json!({"resources": {"limits": {"cpu": "1", "memory": "1Gi"},
            "requests": {"cpu": "1000m", "memory": "1Gi"}}});
        let loose = json!({"resources": {"requests": {"cpu": "1"}}});
        assert_eq!(qos_class(&pod(json!([{}]))), "BestEffort");
        assert_eq!(qos_class(&pod(json!([fixed]))), "Guaranteed");
        assert_eq!(qos_class(&pod(json!([fixed, {}]))), "Burstable");
        assert_eq!(qos_class(&pod(json!([loose]))), "Burstable");
    }

    #[test]
    fn a_job_selects_its_pods_by_its_uid() {
        let mut job = json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": {}}});
        of("batch", "Job").unwrap()(&mut job);
        let labels = &job["spec"]["template"]["metadata"]["labels"];
        assert_eq!(labels["batch.kubernetes.io/job-name"], "j");
        assert_eq!(
            job["spec"]["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"],
            labels["batch.kubernetes.io/controller-uid"]
        );
        let mut own = json!({"metadata": {}, "spec": {"manualSelector": true}});
        let before = own.clone();
        of("batch", "Job").unwrap()(&mut own);
        assert_eq!(own, before);
    }
}
