//! DenyServiceExternalIPs: no service takes addresses it was not given. Off unless asked for.

use futures::future::BoxFuture;
use serde_json::Value;

use super::{Attempt, Operation, Plugin};
use crate::error::Status;
use crate::live::pod::items;

pub(super) struct DenyServiceExternalIps;

impl Plugin for DenyServiceExternalIps {
    fn name(&self) -> &'static str {
        "DenyServiceExternalIPs"
    }

    fn validate<'a>(&'a self, attempt: &'a mut Attempt<'_>) -> BoxFuture<'a, Result<(), Status>> {
        let writes = matches!(attempt.operation, Operation::Create | Operation::Update);
        let refused = writes
            && attempt.is_of("", "services")
            && attempt.object.as_ref().is_some_and(|new| adds(new, attempt.old));
        let why = "Use of external IPs is denied by admission control.";
        let checked = if refused { Err(attempt.forbidden(why)) } else { Ok(()) };
        Box::pin(async { checked })
    }
}

/// Those that a service has already may stay.
fn adds(new: &Value, old: Option<&Value>) -> bool {
    let addresses = |service: &'_ Value| -> Vec<Value> {
        items(&service["spec"]["externalIPs"]).cloned().collect()
    };
    let before = old.map(addresses).unwrap_or_default();
    addresses(new).iter().any(|address| !before.contains(address))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses_may_stay_and_go_and_not_come() {
        let service = |ips: Value| json!({"spec": {"externalIPs": ips}});
        assert!(adds(&service(json!(["1.1.1.1"])), None));
        assert!(!adds(&service(json!(["1.1.1.1"])), Some(&service(json!(["1.1.1.1", "2.2.2.2"])))));
        assert!(!adds(&json!({}), None));
    }
}
