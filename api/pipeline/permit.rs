//! Whether the asker may, before anything else is looked at.

use super::Road;
use crate::auth::authorize::forbidden;
use crate::auth::{Attributes, Decision};
use crate::error::Status;
use crate::object::selector::Fields;
use crate::request::{Request, User, Verb};

impl Road {
    /// Refuses what the authorizer does not allow.
    pub(super) fn permit(&self, who: &User, request: &Request) -> Result<(), Status> {
        self.permit_verb(who, request, request.verb.name())
    }

    /// The same for another verb on the same object: a PUT or an apply that creates needs `create` too.
    pub(super) fn permit_verb(
        &self,
        who: &User,
        request: &Request,
        verb: &str,
    ) -> Result<(), Status> {
        asking(who, request, verb, |attributes| match self.authorizer.decide(attributes) {
            Decision::Allow(_) => Ok(()),
            Decision::Deny(why) | Decision::NoOpinion(why) => Err(forbidden(attributes, &why)),
        })
    }
}

/// Hands on the request as the authorizer is told of it.
pub(crate) fn asking<R>(
    who: &User,
    request: &Request,
    verb: &str,
    then: impl FnOnce(&Attributes<'_>) -> R,
) -> R {
    let selected = selected(request);
    let only = selected.iter().find(|(field, _)| field == "metadata.name");
    let only = only.map(|(_, value)| value.as_str());
    let name = request.name.as_deref().or(only).unwrap_or_default();
    let resource = &request.resource;
    // A namespace lies in itself, as far as rules are concerned.
    let is_namespace = resource.group.is_empty() && resource.resource == "namespaces";
    let namespace =
        if is_namespace { name } else { request.namespace.as_deref().unwrap_or_default() };
    then(&Attributes {
        group: &resource.group,
        version: &resource.version,
        resource: &resource.resource,
        subresource: request.subresource.as_deref().unwrap_or_default(),
        namespace,
        name,
        field_selector: &selected,
        ..Attributes::of(who, verb)
    })
}

/// What a list, watch or deletecollection is narrowed to.
fn selected(request: &Request) -> Vec<(String, String)> {
    let many = matches!(request.verb, Verb::List | Verb::Watch | Verb::DeleteCollection);
    let selector = request.options.field_selector.as_deref().filter(|_| many);
    let Some(Ok(fields)) = selector.map(Fields::parse) else { return Vec::new() };
    let exact = fields.terms().iter().filter(|term| term.equal);
    exact.map(|term| (term.field.clone(), term.value.clone())).collect()
}
