//! Role-based access: what a rule allows, and whether any rule of a user allows a request.
//!
//! Keeps: rules only ever add; without one that allows, there is no opinion. Decisions are pure over one
//! snapshot of the live table.

pub mod escalation;
pub mod policy;

use crate::auth::{Attributes, Authorizer, Decision};
use crate::live::Live;
use crate::live::rbac::{Rbac, Rule};

/// Decides by the roles and bindings that are stored.
pub struct RoleBased {
    live: std::sync::Arc<Live>,
}

impl RoleBased {
    #[must_use]
    pub fn new(live: std::sync::Arc<Live>) -> RoleBased {
        RoleBased { live }
    }
}

impl Authorizer for RoleBased {
    fn decide(&self, attributes: &Attributes<'_>) -> Decision {
        decide(&self.live.rbac(), attributes)
    }
}

/// Whether any rule of the user allows the request.
#[must_use]
pub fn decide(rbac: &Rbac, attributes: &Attributes<'_>) -> Decision {
    let mut allowed = None;
    let unresolved = rbac.visit(attributes.user, attributes.namespace, |source, rule| {
        if !allows(rule, attributes) {
            return false;
        }
        allowed = Some(format!("RBAC: allowed by {source}"));
        true
    });
    match allowed {
        Some(reason) => Decision::Allow(reason),
        None if unresolved.is_empty() => Decision::NoOpinion(String::new()),
        None => Decision::NoOpinion(format!("RBAC: {}", aggregate(&unresolved))),
    }
}

/// Several errors in one line, each once.
pub(crate) fn aggregate(errors: &[String]) -> String {
    let mut once: Vec<&str> = Vec::new();
    for error in errors {
        if !once.contains(&error.as_str()) {
            once.push(error);
        }
    }
    match once.as_slice() {
        [one] => (*one).to_owned(),
        several => format!("[{}]", several.join(", ")),
    }
}

/// Whether this one rule allows the request.
#[must_use]
pub fn allows(rule: &Rule, attributes: &Attributes<'_>) -> bool {
    if !has_or_star(&rule.verbs, attributes.verb) {
        return false;
    }
    if attributes.is_resource() {
        has_or_star(&rule.groups, attributes.group)
            && resource_matches(rule, attributes.resource, attributes.subresource)
            && (rule.names.is_empty() || has(&rule.names, attributes.name))
    } else {
        rule.urls.iter().any(|url| url_matches(url, attributes.path))
    }
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|it| it == wanted)
}

fn has_or_star(list: &[String], wanted: &str) -> bool {
    list.iter().any(|it| it == "*" || it == wanted)
}

fn resource_matches(rule: &Rule, resource: &str, subresource: &str) -> bool {
    rule.resources.iter().any(|named| {
        if named == "*" {
            return true;
        }
        match named.split_once('/') {
            None => subresource.is_empty() && named == resource,
            // `*/scale` is the subresource of whatever has it.
            Some((of, sub)) => {
                !subresource.is_empty() && sub == subresource && (of == "*" || of == resource)
            }
        }
    })
}

/// `/healthz/*` covers everything below; a star elsewhere is a character like others.
pub(crate) fn url_matches(url: &str, path: &str) -> bool {
    if url == "*" || url == path {
        return true;
    }
    url.ends_with('*') && path.starts_with(url.trim_end_matches('*'))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::request::User;

    fn check(rule: serde_json::Value, asked: &str) -> bool {
        let rule = Rule::read(&rule);
        let user = User::default();
        let words: Vec<&str> = asked.split(' ').collect();
        let mut attributes = Attributes::of(&user, words[0]);
        if words[1].starts_with('/') {
            attributes.path = words[1];
        } else {
            let (resource, subresource) = words[1].split_once('/').unwrap_or((words[1], ""));
            (attributes.resource, attributes.group) =
                resource.split_once('.').unwrap_or((resource, ""));
            attributes.subresource = subresource;
            attributes.name = words.get(2).copied().unwrap_or_default();
        }
        allows(&rule, &attributes)
    }

    #[test]
    fn a_rule_allows_what_it_names_and_nothing_beside() {
        let named = |verbs: serde_json::Value| {
            let mut rule = json!({"verbs": verbs, "apiGroups": [""], "resources": ["pods"]});
            rule["resourceNames"] = json!(["a"]);
            rule
        };
        let cases = [
            (json!({"verbs":["get"],"apiGroups":[""],"resources":["pods"]}), "get pods", true),
            (json!({"verbs":["get"],"apiGroups":[""],"resources":["pods"]}), "list pods", false),
            (json!({"verbs":["get"],"apiGroups":[""],"resources":["pods"]}), "get pods/log", false),
            (
                json!({"verbs":["get"],"apiGroups":[""],"resources":["pods/log"]}),
                "get pods/log x",
                true,
            ),
            (
                json!({"verbs":["get"],"apiGroups":[""],"resources":["pods/log"]}),
                "get pods x",
                false,
            ),
            (
                json!({"verbs":["*"],"apiGroups":["*"],"resources":["*"]}),
                "bind roles.rbac/x y",
                true,
            ),
            (
                json!({"verbs":["*"],"apiGroups":["*"],"resources":["*/scale"]}),
                "get pods.x/scale y",
                true,
            ),
            (json!({"verbs":["*"],"apiGroups":["*"],"resources":["*/scale"]}), "get scale", false),
            (json!({"verbs":["*"],"apiGroups":["apps"],"resources":["*"]}), "get pods", false),
            (named(json!(["get"])), "get pods a", true),
            (named(json!(["get"])), "get pods b", false),
            (named(json!(["list"])), "list pods", false),
            (json!({"verbs":["get"],"nonResourceURLs":["/healthz"]}), "get /healthz", true),
            (json!({"verbs":["get"],"nonResourceURLs":["/healthz"]}), "get /healthz/etcd", false),
            (json!({"verbs":["get"],"nonResourceURLs":["/healthz/*"]}), "get /healthz/etcd", true),
            (json!({"verbs":["get"],"nonResourceURLs":["*"]}), "get /metrics", true),
            (json!({"verbs":["get"],"nonResourceURLs":["/m*s"]}), "get /metrics", false),
            (json!({"verbs":["*"],"apiGroups":["*"],"resources":["*"]}), "get /metrics", false),
        ];
        for (rule, asked, expected) in cases {
            assert_eq!(check(rule.clone(), asked), expected, "{rule} for {asked}");
        }
    }
}
