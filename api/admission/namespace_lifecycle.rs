//! NamespaceLifecycle: nothing is made in a namespace that is not there or is going, and three never go.
//!
//! Keeps: that a namespace is missing is said only after this member has caught up with what was committed.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::{Attempt, Operation, Plugin};
use crate::error::{Cause, Status};
use crate::kinds::kind::Stored;
use crate::live::{self, Live};
use crate::object::GroupResource;
use crate::objects::{Object, Objects};

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub(super) struct NamespaceLifecycle {
    live: Arc<Live>,
    objects: Objects,
    namespaces: Stored,
}

impl NamespaceLifecycle {
    pub(super) fn new(live: Arc<Live>, objects: Objects) -> NamespaceLifecycle {
        let namespaces = live::stored("", "namespaces", "v1", "Namespace");
        NamespaceLifecycle { live, objects, namespaces }
    }

    async fn find(&self, name: &str) -> Result<Option<Object>, Status> {
        if let Some(found) = self.live.namespaces.get("", name) {
            return Ok(Some(found));
        }
        live::find(&self.objects, &self.namespaces, "", name).await
    }

    async fn check(&self, attempt: &Attempt<'_>) -> Result<(), Status> {
        if attempt.is_below("", "namespaces") {
            let protected = attempt.operation == Operation::Delete
                && attempt.subresource.is_empty()
                && IMMORTAL.contains(&attempt.name);
            if protected {
                return Err(attempt.forbidden("this namespace may not be deleted"));
            }
            return Ok(());
        }
        let is_review = attempt.is_of("authorization.k8s.io", "localsubjectaccessreviews");
        if attempt.namespace.is_empty() || attempt.operation == Operation::Delete || is_review {
            return Ok(());
        }
        let name = attempt.namespace;
        let found = self.find(name).await?;
        let namespace =
            found.ok_or_else(|| Status::not_found(&GroupResource::new("", "namespaces"), name))?;
        if attempt.is_create() && namespace.value()?["status"]["phase"] == "Terminating" {
            return Err(attempt
                .forbidden(&format!(
                    "unable to create new content in namespace {name} because it is being \
                     terminated"
                ))
                .with_cause(Cause {
                    reason: "NamespaceTerminating".into(),
                    message: format!("namespace {name} is being terminated"),
                    field: "metadata.namespace".into(),
                }));
        }
        Ok(())
    }
}

impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    /// Looked at before anything is filled in: who makes nothing here learns that first.
    fn mutate<'a>(&'a self, attempt: &'a mut Attempt<'_>) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move { self.check(attempt).await })
    }
}
