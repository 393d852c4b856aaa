//! Whether the asker may, before anything else is looked at.

use super::Road;
use crate::auth::{Attributes, Decision};
use crate::error::{Reason, Status};
use crate::object::GroupResource;
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
        let only = single_name(request);
        let name = request.name.as_deref().or(only.as_deref()).unwrap_or_default();
        let resource = &request.resource;
        // A namespace lies in itself, as far as rules are concerned.
        let is_namespace = resource.group.is_empty() && resource.resource == "namespaces";
        let namespace =
            if is_namespace { name } else { request.namespace.as_deref().unwrap_or_default() };
        let attributes = Attributes {
            user: who,
            verb,
            group: &resource.group,
            version: &resource.version,
            resource: &resource.resource,
            subresource: request.subresource.as_deref().unwrap_or_default(),
            namespace,
            name,
            path: "",
        };
        match self.authorizer.decide(&attributes) {
            Decision::Allow(_) => Ok(()),
            Decision::Deny(why) | Decision::NoOpinion(why) => Err(forbidden(&attributes, &why)),
        }
    }
}

/// The one object that a list, watch or deletecollection asks for by `metadata.name=`.
fn single_name(request: &Request) -> Option<String> {
    let many = matches!(request.verb, Verb::List | Verb::Watch | Verb::DeleteCollection);
    let selector = request.options.field_selector.as_deref().filter(|_| many)?;
    Fields::parse(selector).ok()?.exactly("metadata.name").map(str::to_owned)
}

/// Told as upstream's clients know it.
#[must_use]
pub fn forbidden(attributes: &Attributes<'_>, why: &str) -> Status {
    let Attributes { user, verb, group, resource, subresource, namespace, name, path, .. } =
        attributes;
    let user = &user.name;
    let why = if why.is_empty() { String::new() } else { format!(": {why}") };
    if !attributes.is_resource() {
        let message = format!("forbidden: User \"{user}\" cannot {verb} path \"{path}\"{why}");
        return Status::new(Reason::Forbidden, message);
    }
    let full = if subresource.is_empty() {
        (*resource).to_owned()
    } else {
        format!("{resource}/{subresource}")
    };
    let scope = if namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace \"{namespace}\"")
    };
    let text = format!(
        "User \"{user}\" cannot {verb} resource \"{full}\" in API group \"{group}\" {scope}{why}"
    );
    Status::forbidden(&GroupResource::new(group, resource), name, &text)
}
