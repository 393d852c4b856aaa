//! TaintNodesByCondition: a new node takes no pods until it is known to be ready.

use futures::future::BoxFuture;
use serde_json::json;

use super::{Attempt, Plugin};
use crate::error::Status;
use crate::live::pod::items;

const NOT_READY: &str = "node.kubernetes.io/not-ready";

pub(super) struct NodeTaint;

impl Plugin for NodeTaint {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn mutate<'a>(&'a self, attempt: &'a mut Attempt<'_>) -> BoxFuture<'a, Result<(), Status>> {
        if attempt.is_create()
            && attempt.is_of("", "nodes")
            && let Some(node) = attempt.object.as_mut()
        {
            let spec = &mut node["spec"];
            let tainted = items(&spec["taints"])
                .any(|taint| taint["key"] == NOT_READY && taint["effect"] == "NoSchedule");
            if !tainted {
                let taint = json!({"key": NOT_READY, "effect": "NoSchedule"});
                match spec["taints"].as_array_mut() {
                    Some(taints) => taints.push(taint),
                    None => spec["taints"] = json!([taint]),
                }
            }
        }
        Box::pin(async { Ok(()) })
    }
}
