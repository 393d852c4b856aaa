//! Roles and bindings grant no more than their writer holds. No plugin upstream: there each of the four
//! resources asks by itself; here it stands where all writes pass.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::{Attempt, Operation, Plugin};
use crate::auth::Authorizer;
use crate::auth::rbac::escalation::{GROUP, Grant, check};
use crate::error::Status;
use crate::live::Live;

pub(super) struct RbacEscalation {
    pub(super) live: Arc<Live>,
    pub(super) authorizer: Arc<dyn Authorizer>,
}

impl Plugin for RbacEscalation {
    fn name(&self) -> &'static str {
        "RBACEscalation"
    }

    fn validate<'a>(&'a self, attempt: &'a mut Attempt<'_>) -> BoxFuture<'a, Result<(), Status>> {
        let writes = matches!(attempt.operation, Operation::Create | Operation::Update);
        let checked = match &attempt.object {
            Some(new)
                if writes && attempt.subresource.is_empty() && *attempt.kind.group == *GROUP =>
            {
                let grant = Grant {
                    user: attempt.user,
                    resource: &attempt.kind.resource,
                    namespace: attempt.namespace,
                    request_name: if attempt.is_create() { "" } else { attempt.name },
                    new,
                    old: attempt.old,
                };
                check(&self.live.rbac(), self.authorizer.as_ref(), &grant)
            }
            _ => Ok(()),
        };
        Box::pin(async { checked })
    }
}
