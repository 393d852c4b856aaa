//! Nobody grants what they do not hold: the check on writes of roles and bindings.
//!
//! Keeps: a rule is covered only if each of its smallest parts (one verb, one group, one resource, one name) is
//! covered by a single rule of the writer. Verbs `escalate` (roles) and `bind` (bindings) lift the check, as
//! does `system:masters`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::aggregate;
use crate::auth::{Attributes, Authorizer, Decision, GROUP_MASTERS};
use crate::error::Status;
use crate::live::rbac::{Rbac, RoleRef, Rule};
use crate::object::GroupResource;
use crate::request::User;

pub const GROUP: &str = "rbac.authorization.k8s.io";

/// A write of a Role, ClusterRole, RoleBinding or ClusterRoleBinding.
#[derive(Clone, Copy, Debug)]
pub struct Grant<'a> {
    pub user: &'a User,
    /// `roles`, `clusterroles`, `rolebindings` or `clusterrolebindings`.
    pub resource: &'a str,
    pub namespace: &'a str,
    /// As the request names it: empty on create.
    pub request_name: &'a str,
    pub new: &'a Value,
    pub old: Option<&'a Value>,
}

/// Refuses a grant of more than the user holds.
pub fn check(rbac: &Rbac, authorizer: &dyn Authorizer, grant: &Grant<'_>) -> Result<(), Status> {
    if grant.user.groups.iter().any(|group| group == GROUP_MASTERS) {
        return Ok(());
    }
    match grant.resource {
        "roles" | "clusterroles" => check_role(rbac, authorizer, grant),
        "rolebindings" | "clusterrolebindings" => check_binding(rbac, authorizer, grant),
        _ => Ok(()),
    }
}

fn check_role(rbac: &Rbac, authorizer: &dyn Authorizer, grant: &Grant<'_>) -> Result<(), Status> {
    let may_escalate = Attributes {
        group: GROUP,
        version: "*",
        resource: grant.resource,
        namespace: grant.namespace,
        name: grant.request_name,
        ..Attributes::of(grant.user, "escalate")
    };
    if matches!(authorizer.decide(&may_escalate), Decision::Allow(_))
        || grant.old.is_some_and(|old| only_metadata_for_deletion_differs(grant.new, old))
    {
        return Ok(());
    }
    holds(rbac, grant, &Rule::read_all(grant.new))?;
    let aggregates = |role: &Value| {
        let selectors = role["aggregationRule"]["clusterRoleSelectors"].as_array();
        selectors.is_some_and(|list| !list.is_empty())
    };
    if grant.resource == "clusterroles"
        && (aggregates(grant.new) || grant.old.is_some_and(aggregates))
        && holds(rbac, grant, &everything()).is_err()
    {
        let why = "must have cluster-admin privileges to use the aggregationRule";
        return Err(refused(grant, why));
    }
    Ok(())
}

fn check_binding(
    rbac: &Rbac,
    authorizer: &dyn Authorizer,
    grant: &Grant<'_>,
) -> Result<(), Status> {
    if grant.old.is_some_and(|old| only_metadata_for_deletion_differs(grant.new, old)) {
        return Ok(());
    }
    let role = RoleRef::read(&grant.new["roleRef"]);
    let resource = match role.kind.as_str() {
        "ClusterRole" => Some("clusterroles"),
        "Role" => Some("roles"),
        _ => None,
    };
    if let Some(resource) = resource {
        let may_bind = Attributes {
            group: &role.group,
            version: "*",
            resource,
            namespace: grant.namespace,
            name: &role.name,
            ..Attributes::of(grant.user, "bind")
        };
        if matches!(authorizer.decide(&may_bind), Decision::Allow(_)) {
            return Ok(());
        }
    }
    let rules = rbac.rules_of(&role, grant.namespace).map_err(|reason| match resource {
        Some(resource) => Status::not_found(&GroupResource::new(GROUP, resource), &role.name),
        None => Status::internal(reason),
    })?;
    holds(rbac, grant, &rules)
}

fn refused(grant: &Grant<'_>, why: &str) -> Status {
    let name = grant.new["metadata"]["name"].as_str().unwrap_or_default();
    Status::forbidden(&GroupResource::new(GROUP, grant.resource), name, why)
}

fn everything() -> [Rule; 2] {
    let star = || vec!["*".to_owned()];
    [
        Rule { verbs: star(), groups: star(), resources: star(), ..Rule::default() },
        Rule { verbs: star(), urls: star(), ..Rule::default() },
    ]
}

fn holds(rbac: &Rbac, grant: &Grant<'_>, wanted: &[Rule]) -> Result<(), Status> {
    let (held, unresolved) = rbac.rules_for(grant.user, grant.namespace);
    let missing = uncovered(&held, wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let described: BTreeSet<String> = compact(missing).iter().map(describe).collect();
    let groups: Vec<String> = grant.user.groups.iter().map(|it| format!("{it:?}")).collect();
    let mut why = format!(
        "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
        grant.user.name,
        groups.join(" "),
        described.into_iter().collect::<Vec<_>>().join("\n")
    );
    if !unresolved.is_empty() {
        why.push_str(&format!("; resolution errors: [{}]", aggregate(&unresolved)));
    }
    Err(refused(grant, &why))
}

/// The collector must be able to finish a deletion without holding the role: finalizers and owners may change.
pub fn only_metadata_for_deletion_differs(new: &Value, old: &Value) -> bool {
    let without = |object: &Value| {
        let mut object = object.clone();
        if let Some(metadata) = object["metadata"].as_object_mut() {
            for field in ["ownerReferences", "finalizers", "managedFields", "resourceVersion"] {
                metadata.remove(field);
            }
        }
        object
    };
    without(new) == without(old)
}

/// The smallest parts of `wanted` that no single rule of `held` covers.
#[must_use]
pub fn uncovered(held: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let parts = wanted.iter().flat_map(parts);
    parts.filter(|part| !held.iter().any(|owner| covers(owner, part))).collect()
}

fn parts(rule: &Rule) -> Vec<Rule> {
    let mut parts = Vec::new();
    for group in &rule.groups {
        for resource in &rule.resources {
            for verb in &rule.verbs {
                let part = Rule {
                    verbs: vec![verb.clone()],
                    groups: vec![group.clone()],
                    resources: vec![resource.clone()],
                    ..Rule::default()
                };
                if rule.names.is_empty() {
                    parts.push(part);
                    continue;
                }
                let named = |name: &String| Rule { names: vec![name.clone()], ..part.clone() };
                parts.extend(rule.names.iter().map(named));
            }
        }
    }
    for url in &rule.urls {
        let one = |verb: &String| Rule {
            verbs: vec![verb.clone()],
            urls: vec![url.clone()],
            ..Rule::default()
        };
        parts.extend(rule.verbs.iter().map(one));
    }
    parts
}

fn covers(owner: &Rule, part: &Rule) -> bool {
    let all = |owned: &[String], wanted: &[String]| {
        owned.iter().any(|it| it == "*") || wanted.iter().all(|it| owned.contains(it))
    };
    let resource = |wanted: &String| {
        let below = wanted.split_once('/').map(|(_, sub)| format!("*/{sub}"));
        owner.resources.iter().any(|it| it == "*" || it == wanted || Some(it) == below.as_ref())
    };
    let url = |wanted: &String| {
        owner.urls.iter().any(|it| {
            it == wanted || (it.ends_with('*') && wanted.starts_with(it.trim_end_matches('*')))
        })
    };
    all(&owner.verbs, &part.verbs)
        && all(&owner.groups, &part.groups)
        && part.resources.iter().all(resource)
        && part.urls.iter().all(url)
        && (owner.names.is_empty()
            || (!part.names.is_empty() && part.names.iter().all(|it| owner.names.contains(it))))
}

/// Joins parts that differ in the verb alone.
fn compact(parts: Vec<Rule>) -> Vec<Rule> {
    let mut simple: BTreeMap<(Vec<String>, Vec<String>, Vec<String>), Rule> = BTreeMap::new();
    let mut compacted = Vec::new();
    for part in parts {
        if !part.urls.is_empty() {
            compacted.push(part);
            continue;
        }
        let key = (part.groups.clone(), part.resources.clone(), part.names.clone());
        match simple.get_mut(&key) {
            Some(rule) => rule.verbs.extend(part.verbs),
            None => drop(simple.insert(key, part)),
        }
    }
    compacted.extend(simple.into_values());
    compacted
}

/// A rule as the message to the client lists it.
fn describe(rule: &Rule) -> String {
    let fields = [
        ("APIGroups", &rule.groups),
        ("Resources", &rule.resources),
        ("NonResourceURLs", &rule.urls),
        ("ResourceNames", &rule.names),
        ("Verbs", &rule.verbs),
    ];
    let told = fields.into_iter().filter(|(_, list)| !list.is_empty()).map(|(name, list)| {
        let quoted: Vec<String> = list.iter().map(|it| format!("{it:?}")).collect();
        format!("{name}:[{}]", quoted.join(" "))
    });
    format!("{{{}}}", told.collect::<Vec<_>>().join(", "))
}
