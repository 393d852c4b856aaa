//! The condition `DisruptionTarget` of a pod, which says who is about to end it and why.

use k8s_openapi::api::core::v1::Pod;
use kontiki_api::Status;
use kontiki_api::client::{Client, PatchKind};
use kontiki_api::error::Reason;
use kontiki_api::object::time::Timestamp;
use serde_json::{Value, json};

/// What a loop says of a pod before it deletes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The reason and the message of the condition, if there is to be one.
    pub target: Option<(&'static str, &'static str)>,
    /// The pod is to count as failed: nobody is left who could say how it ended.
    pub failed: bool,
}

/// Writes the notice into the pod's status. A pod that is gone, or another by now, is nobody's concern.
pub async fn announce(
    client: &Client,
    pod: &Pod,
    notice: Notice,
    now: Timestamp,
) -> Result<(), Status> {
    let Some(patch) = patch(pod, notice, now) else { return Ok(()) };
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let kind = PatchKind::Strategic;
    match client.patch::<Pod>(namespace, name, kind, &patch, Some("status")).await {
        Err(status) if !status.is(Reason::NotFound) && !status.is(Reason::Conflict) => Err(status),
        _ => Ok(()),
    }
}

fn patch(pod: &Pod, notice: Notice, now: Timestamp) -> Option<Value> {
    let mut status = json!({});
    if notice.failed && !super::pods::is_finished(pod) {
        status["phase"] = "Failed".into();
    }
    if let Some((reason, message)) = notice.target {
        let known = super::pods::condition(pod, "DisruptionTarget");
        let same =
            known.is_some_and(|it| it.status == "True" && it.reason.as_deref() == Some(reason));
        if !same {
            status["conditions"] = json!([{
                "type": "DisruptionTarget", "status": "True", "reason": reason,
                "message": message, "lastTransitionTime": now.rfc3339(),
                "observedGeneration": pod.metadata.generation,
            }]);
        }
    }
    let says_something = status.as_object().is_some_and(|it| !it.is_empty());
    says_something.then(|| json!({"metadata": {"uid": pod.metadata.uid}, "status": status}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_already_is_not_said_again() {
        let notice = Notice { target: Some(("DeletionByPodGC", "gone")), failed: true };
        let pod = |status: Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"},
                "status": status}))
            .unwrap()
        };
        let now = Timestamp::default();
        let first = patch(&pod(json!({"phase": "Running"})), notice, now).unwrap();
        assert_eq!(first["status"]["phase"], "Failed");
        assert_eq!(first["status"]["conditions"][0]["reason"], "DeletionByPodGC");
        let told = pod(json!({"phase": "Failed", "conditions": [
            {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC"}]}));
        assert_eq!(patch(&told, notice, now), None);
    }
}
