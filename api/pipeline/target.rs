//! What a request is about: the row, and the object within it.

use std::sync::Arc;

use super::Road;
use crate::error::{Reason, Status};
use crate::kinds::{Kind, Verbs};
use crate::objects::{Object, key};
use crate::request::{Request, Verb};

/// One object of one row, or all of them.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub kind: Arc<Kind>,
    /// Empty for the object itself.
    pub sub: String,
    /// Empty for cluster scope and for all namespaces.
    pub namespace: String,
    /// Empty where many are meant, or one that has no name yet.
    pub name: String,
}

const UNKNOWN: &str = "the server could not find the requested resource";

/// Whether an error says that there is no such path at all, which has its own form over HTTP.
#[must_use]
pub fn is_unknown_path(status: &Status) -> bool {
    status.is(Reason::NotFound) && status.details().is_none() && status.message() == UNKNOWN
}

pub(super) fn unknown_path() -> Status {
    Status::new(Reason::NotFound, UNKNOWN)
}

impl Road {
    pub(super) fn resolve(&self, request: &Request) -> Result<Target, Status> {
        let kind = {
            let of = &request.resource;
            let kind = self.registry.find(&of.group, &of.version, &of.resource);
            kind.ok_or_else(unknown_path)?
        };
        let target = Target {
            sub: request.subresource.clone().unwrap_or_default(),
            namespace: request.namespace.clone().unwrap_or_default(),
            name: request.name.clone().unwrap_or_default(),
            kind,
        };
        target.check(request.verb)?;
        Ok(target)
    }
}

impl Target {
    fn check(&self, verb: Verb) -> Result<(), Status> {
        let kind = &self.kind;
        let verbs = if self.sub.is_empty() {
            kind.verbs
        } else {
            kind.subresource(&self.sub).ok_or_else(unknown_path)?.verbs
        };
        if !kind.namespaced && !self.namespace.is_empty() {
            return Err(unknown_path());
        }
        if kind.namespaced && self.namespace.is_empty() && !self.name.is_empty() {
            return Err(unknown_path());
        }
        let one = matches!(verb, Verb::Get | Verb::Update | Verb::Patch | Verb::Delete);
        let misses_name = self.name.is_empty() && (one || !self.sub.is_empty());
        let misses_namespace = kind.namespaced
            && self.namespace.is_empty()
            && matches!(verb, Verb::Create | Verb::DeleteCollection);
        if !may(verbs, verb) || misses_name || misses_namespace {
            return Err(self.not_allowed(verb));
        }
        Ok(())
    }

    fn not_allowed(&self, verb: Verb) -> Status {
        Status::method_not_allowed(&self.kind.group_resource(), verb.name())
    }

    /// The object as it is stored on this member now.
    pub(super) fn stored(&self, road: &Road) -> Result<Option<Object>, Status> {
        road.objects.get(&self.kind.stored, &self.namespace, &self.name)
    }

    pub(super) fn not_found(&self) -> Status {
        Status::not_found(&self.kind.group_resource(), &self.name)
    }

    pub(super) fn key(&self) -> bytes::Bytes {
        key::of_object(&self.kind.stored, &self.namespace, &self.name)
    }
}

fn may(verbs: Verbs, verb: Verb) -> bool {
    match verb {
        Verb::Get => verbs.get,
        Verb::List => verbs.list,
        Verb::Watch => verbs.watch,
        Verb::Create => verbs.create,
        Verb::Update => verbs.update,
        Verb::Patch => verbs.patch,
        Verb::Delete => verbs.delete,
        Verb::DeleteCollection => verbs.delete_collection,
    }
}
