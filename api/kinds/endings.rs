//! How objects of a kind end: by and by, by themselves, or at once, which is the rule and needs nothing here.

use serde_json::{Value, json};

use super::Hooks;
use crate::object::meta;

/// Events are of interest for an hour.
const EVENT_SECONDS: i64 = 3600;

pub(super) fn of(group: &str, kind: &str) -> Hooks {
    match (group, kind) {
        ("", "Pod") => Hooks { grace: Some(grace_of_pod), ..Hooks::default() },
        ("", "Namespace") => Hooks {
            prepare_update: Some(keep_held),
            prepare_delete: Some(terminate),
            ..Hooks::default()
        },
        ("" | "events.k8s.io", "Event") => {
            Hooks { expires_after_seconds: Some(EVENT_SECONDS), ..Hooks::default() }
        }
        // A kubelet registers its node with what it knows of it.
        ("", "Node") => Hooks { keeps_status: true, ..Hooks::default() },
        _ => Hooks::default(),
    }
}

/// What was asked for, or else what the pod says. What runs nowhere goes at once.
fn grace_of_pod(pod: &Value, asked: Option<i64>) -> i64 {
    let own = meta::at(pod, &["spec", "terminationGracePeriodSeconds"]).and_then(Value::as_i64);
    let is_unscheduled = meta::text(pod, &["spec", "nodeName"]).is_empty();
    let has_ended = matches!(meta::text(pod, &["status", "phase"]), "Failed" | "Succeeded");
    if is_unscheduled || has_ended { 0 } else { asked.or(own).unwrap_or(0) }
}

/// What holds it is changed through `finalize` alone.
fn keep_held(namespace: &mut Value, old: &Value) {
    meta::copy_field(namespace, old, "spec");
}

fn terminate(namespace: &mut Value) {
    if !namespace.get("status").is_some_and(Value::is_object) {
        namespace["status"] = json!({});
    }
    namespace["status"]["phase"] = "Terminating".into();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_given_time_where_it_runs() {
        let pod = |node: &str, phase: &str| {
            json!({"spec": {"nodeName": node, "terminationGracePeriodSeconds": 30},
                "status": {"phase": phase}})
        };
        assert_eq!(grace_of_pod(&pod("n", "Running"), None), 30);
        assert_eq!(grace_of_pod(&pod("n", "Running"), Some(5)), 5);
        assert_eq!(grace_of_pod(&pod("", "Pending"), Some(5)), 0);
        assert_eq!(grace_of_pod(&pod("n", "Succeeded"), None), 0);
    }
}
