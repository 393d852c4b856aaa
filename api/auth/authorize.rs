//! The authorizers in order: any that allows, allows; without one, the request is forbidden.

use std::sync::Arc;

use super::node::NodeAuthorizer;
use super::rbac::RoleBased;
use super::{Attributes, Authorizer, Decision, GROUP_MASTERS};
use crate::error::{Details, Reason, Status};
use crate::live::Live;
use crate::object::GroupResource;

/// Everybody may ask whether the server lives.
const PATHS_OF_ALL: [&str; 3] = ["/healthz", "/livez", "/readyz"];

/// Masters, health, nodes, roles.
pub struct Authorization {
    node: NodeAuthorizer,
    roles: RoleBased,
}

impl Authorization {
    #[must_use]
    pub fn new(live: Arc<Live>) -> Authorization {
        Authorization { node: NodeAuthorizer::new(live.clone()), roles: RoleBased::new(live) }
    }
}

impl Authorizer for Authorization {
    fn decide(&self, attributes: &Attributes<'_>) -> Decision {
        if attributes.user.groups.iter().any(|group| group == GROUP_MASTERS)
            || (!attributes.is_resource() && PATHS_OF_ALL.contains(&attributes.path))
        {
            return Decision::Allow(String::new());
        }
        let mut reasons = Vec::new();
        for authorizer in [&self.node as &dyn Authorizer, &self.roles] {
            match authorizer.decide(attributes) {
                Decision::NoOpinion(reason) if reason.is_empty() => {}
                Decision::NoOpinion(reason) => reasons.push(reason),
                decided => return decided,
            }
        }
        Decision::NoOpinion(reasons.join("\n"))
    }
}

/// What the client is told when a request is not allowed.
#[must_use]
pub fn forbidden(asked: &Attributes<'_>, reason: &str) -> Status {
    let Attributes { user, verb, group, resource, namespace, .. } = asked;
    let user = &user.name;
    let mut why = if asked.is_resource() {
        let resource = match asked.subresource {
            "" => (*resource).to_owned(),
            sub => format!("{resource}/{sub}"),
        };
        let scope = match *namespace {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace {namespace:?}"),
        };
        format!("User {user:?} cannot {verb} resource {resource:?} in API group {group:?} {scope}")
    } else {
        format!("User {user:?} cannot {verb} path {:?}", asked.path)
    };
    if !reason.is_empty() {
        why = format!("{why}: {reason}");
    }
    if asked.is_resource() {
        return Status::forbidden(&GroupResource::new(group, resource), asked.name, &why);
    }
    Status::new(Reason::Forbidden, format!("forbidden: {why}")).with_details(Details::default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::User;

    #[test]
    fn what_is_refused_is_told_in_the_words_clients_know() {
        let user = User { name: "u".into(), ..User::default() };
        let pods = Attributes { resource: "pods", ..Attributes::of(&user, "list") };
        assert_eq!(
            forbidden(&Attributes { namespace: "ns", ..pods }, "").message(),
            "pods is forbidden: User \"u\" cannot list resource \"pods\" in API group \"\" in the \
             namespace \"ns\""
        );
        let scale = Attributes {
            group: "apps",
            resource: "deployments",
            subresource: "scale",
            name: "web",
            ..Attributes::of(&user, "update")
        };
        assert_eq!(
            forbidden(&scale, "because").message(),
            "deployments.apps \"web\" is forbidden: User \"u\" cannot update resource \
             \"deployments/scale\" in API group \"apps\" at the cluster scope: because"
        );
        let path = Attributes { path: "/metrics", ..Attributes::of(&user, "get") };
        assert_eq!(
            forbidden(&path, "").message(),
            "forbidden: User \"u\" cannot get path \"/metrics\""
        );
    }

    #[test]
    fn masters_may_everything_and_all_may_ask_for_health() {
        let authorization = Authorization::new(Arc::default());
        let nobody = User::default();
        let master = User { groups: vec![GROUP_MASTERS.into()], ..User::default() };
        let decide = |asked: Attributes<'_>| authorization.decide(&asked).allows();
        assert!(decide(Attributes { resource: "pods", ..Attributes::of(&master, "delete") }));
        assert!(!decide(Attributes { resource: "pods", ..Attributes::of(&nobody, "delete") }));
        assert!(decide(Attributes { path: "/readyz", ..Attributes::of(&nobody, "get") }));
        assert!(!decide(Attributes { path: "/readyz/etcd", ..Attributes::of(&nobody, "get") }));
    }
}
