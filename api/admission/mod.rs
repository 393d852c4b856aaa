//! What is asked of every write on its way: plugins that fill in, refuse, and charge.
//!
//! A plugin sees the object as it will be, in the version of the URL, and what it replaces. Mutating comes
//! first and may run again, so it must come to the same result on its own outcome; validating changes
//! nothing; charging comes last and puts what has to be written with the object into the same commit.
//!
//! Never: a plugin writes by itself what belongs to the attempt.

mod certificates;
mod default_classes;
mod default_tolerations;
mod external_ips;
mod limit_ranger;
mod namespace_lifecycle;
mod node_restriction;
mod node_taint;
pub mod pod_security;
mod priority;
pub mod quota;
mod rbac_escalation;
pub mod resources;
mod runtime_class;
mod service_account;
mod storage_protection;
mod topology_labels;
mod volume_resize;

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::Value;

use crate::auth::Authorizer;
use crate::error::Status;
use crate::kinds::Kind;
use crate::live::Live;
use crate::object::time::Clock;
use crate::objects::{Objects, Write};
use crate::request::User;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    Create,
    Update,
    Delete,
    /// `exec`, `attach`, `portforward`, `proxy`: `object` holds the options.
    Connect,
}

impl Operation {
    /// As admission reviews and webhook rules name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

/// A write that is about to happen.
#[derive(Debug)]
pub struct Attempt<'a> {
    pub user: &'a User,
    pub operation: Operation,
    /// The row of the URL.
    pub kind: &'a Kind,
    /// Empty for the object itself.
    pub subresource: &'a str,
    /// Empty for cluster scope.
    pub namespace: &'a str,
    /// Empty on a create with a generated name, until the name is made.
    pub name: &'a str,
    /// What will be; `None` on a delete. For a subresource of another kind (Binding, Eviction, Scale) it is
    /// that.
    pub object: Option<Value>,
    /// What is; `None` on a create.
    pub old: Option<&'a Value>,
    /// CreateOptions, UpdateOptions, PatchOptions or DeleteOptions.
    pub options: &'a Value,
    pub dry_run: bool,
    /// Told to the client.
    pub warnings: Vec<String>,
    /// Kept with the request in the audit log: (key, value).
    pub annotations: Vec<(String, String)>,
    /// Further writes that must be in the same commit (a quota's new usage). Filled by
    /// [`Plugin::charge`]; if one of them is outrun, it is asked again with an empty list.
    pub along: Vec<Write>,
    /// Turns that a plugin waited for: whoever writes next in a place waits until this attempt is over.
    /// Filled by [`Plugin::charge`], and given back before it is asked again.
    pub held: Vec<tokio::sync::OwnedMutexGuard<()>>,
}

impl Attempt<'_> {
    /// Whether it is about the resource itself, whatever version.
    #[must_use]
    pub fn is_of(&self, group: &str, resource: &str) -> bool {
        self.subresource.is_empty() && self.is_below(group, resource)
    }

    /// Whether it is about the resource or one of its subresources.
    #[must_use]
    pub fn is_below(&self, group: &str, resource: &str) -> bool {
        *self.kind.group == *group && *self.kind.resource == *resource
    }

    #[must_use]
    pub fn is_create(&self) -> bool {
        self.operation == Operation::Create
    }

    /// What clients are told when a plugin refuses.
    #[must_use]
    pub fn forbidden(&self, why: &str) -> Status {
        let of_object = |field: &str| {
            let name = self.object.as_ref().map(|it| &it["metadata"][field]);
            name.and_then(Value::as_str).filter(|name| !name.is_empty())
        };
        let given = Some(self.name).filter(|name| !name.is_empty());
        let name = given.or(of_object("name")).or(of_object("generateName"));
        Status::forbidden(&self.kind.group_resource(), name.unwrap_or("Unknown"), why)
    }
}

/// Each phase may be left out.
pub trait Plugin: Send + Sync {
    /// Upstream's name (`NamespaceLifecycle`).
    fn name(&self) -> &'static str;

    /// Fills in `attempt.object`.
    fn mutate<'a>(&'a self, attempt: &'a mut Attempt<'_>) -> BoxFuture<'a, Result<(), Status>> {
        let _ = attempt;
        Box::pin(async { Ok(()) })
    }

    /// Refuses what may not be. It may warn, and changes nothing.
    fn validate<'a>(&'a self, attempt: &'a mut Attempt<'_>) -> BoxFuture<'a, Result<(), Status>> {
        let _ = attempt;
        Box::pin(async { Ok(()) })
    }

    /// Adds to `attempt.along`, or refuses. Not asked on a dry run's behalf to write: what it adds is
    /// dropped then.
    fn charge<'a>(&'a self, attempt: &'a mut Attempt<'_>) -> BoxFuture<'a, Result<(), Status>> {
        let _ = attempt;
        Box::pin(async { Ok(()) })
    }
}

/// The plugins in the order in which they are asked.
#[derive(Clone, Default)]
pub struct Chain(pub Vec<Arc<dyn Plugin>>);

/// What the plugins look things up in.
#[derive(Clone)]
pub struct Sources {
    pub live: Arc<Live>,
    pub objects: Objects,
    pub authorizer: Arc<dyn Authorizer>,
    pub clock: Clock,
}

/// The built-in plugins, in upstream's order. What charges comes last; webhooks stand before it.
#[must_use]
pub fn plugins(sources: &Sources, deny_external_ips: bool) -> Chain {
    let Sources { live, objects, authorizer, clock } = sources;
    let live = || live.clone();
    let objects = || objects.clone();
    let authorizer = || authorizer.clone();
    let mut all: Vec<Arc<dyn Plugin>> = vec![
        Arc::new(namespace_lifecycle::NamespaceLifecycle::new(live(), objects())),
        Arc::new(limit_ranger::LimitRanger::new(objects())),
        Arc::new(service_account::ServiceAccount::new(live(), objects())),
        Arc::new(node_restriction::NodeRestriction::new(objects(), authorizer())),
        Arc::new(node_taint::NodeTaint),
        Arc::new(pod_security::PodSecurity::new(live(), objects())),
        Arc::new(priority::Priority::new(live(), objects())),
        Arc::new(default_tolerations::DefaultTolerations),
        Arc::new(default_classes::DefaultStorageClass(live())),
        Arc::new(storage_protection::StorageProtection),
        Arc::new(volume_resize::VolumeResize::new(live(), objects())),
        Arc::new(runtime_class::RuntimeClass::new(live(), objects())),
        Arc::new(certificates::Approval(authorizer())),
        Arc::new(certificates::Signing(authorizer())),
        Arc::new(certificates::TrustBundleAttest(authorizer())),
        Arc::new(certificates::SubjectRestriction),
        Arc::new(default_classes::DefaultIngressClass(live())),
        Arc::new(topology_labels::TopologyLabels::new(objects())),
        Arc::new(rbac_escalation::RbacEscalation { live: live(), authorizer: authorizer() }),
    ];
    if deny_external_ips {
        all.push(Arc::new(external_ips::DenyServiceExternalIps));
    }
    all.push(Arc::new(quota::ResourceQuota::new(live(), objects(), clock.clone())));
    Chain(all)
}

impl Chain {
    pub async fn mutate(&self, attempt: &mut Attempt<'_>) -> Result<(), Status> {
        for plugin in &self.0 {
            plugin.mutate(attempt).await?;
        }
        Ok(())
    }

    pub async fn validate(&self, attempt: &mut Attempt<'_>) -> Result<(), Status> {
        for plugin in &self.0 {
            plugin.validate(attempt).await?;
        }
        Ok(())
    }

    /// Asks anew what has to be written along.
    pub async fn charge(&self, attempt: &mut Attempt<'_>) -> Result<(), Status> {
        attempt.along.clear();
        attempt.held.clear();
        for plugin in &self.0 {
            plugin.charge(attempt).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
