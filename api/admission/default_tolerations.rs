//! DefaultTolerationSeconds: a pod stays for five minutes on a node that is not ready or cannot be reached.

use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::{Attempt, Operation, Plugin};
use crate::error::Status;
use crate::live::pod::items;

const SECONDS: u32 = 300;

pub(super) struct DefaultTolerations;

impl Plugin for DefaultTolerations {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn mutate<'a>(&'a self, attempt: &'a mut Attempt<'_>) -> BoxFuture<'a, Result<(), Status>> {
        let writes = matches!(attempt.operation, Operation::Create | Operation::Update);
        if writes
            && attempt.is_of("", "pods")
            && let Some(pod) = attempt.object.as_mut()
        {
            add(pod);
        }
        Box::pin(async { Ok(()) })
    }
}

fn add(pod: &mut Value) {
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let spec = &mut pod["spec"];
        let either = |value: &Value, wanted: &str| {
            value.as_str().is_none_or(|it| it.is_empty() || it == wanted)
        };
        let tolerated = items(&spec["tolerations"])
            .any(|it| either(&it["key"], key) && either(&it["effect"], "NoExecute"));
        if tolerated {
            continue;
        }
        let toleration = json!({"key": key, "operator": "Exists", "effect": "NoExecute",
            "tolerationSeconds": SECONDS});
        match spec["tolerations"].as_array_mut() {
            Some(tolerations) => tolerations.push(toleration),
            None => spec["tolerations"] = json!([toleration]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_pod_tolerates_itself_is_left_alone() {
        let count = |tolerations: Value| {
            let mut pod = json!({"spec": {"tolerations": tolerations}});
            add(&mut pod);
            add(&mut pod);
            pod["spec"]["tolerations"].as_array().unwrap().len()
        };
        assert_eq!(count(json!([])), 2);
        assert_eq!(count(json!([{"operator": "Exists"}])), 1);
        assert_eq!(
            count(json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}])),
            2
        );
        assert_eq!(
            count(json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}])),
            3
        );
    }
}
