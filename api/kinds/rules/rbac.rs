//! Roles, and who has them.

use serde_json::Value;

use super::same::same;
use super::{Field, Found};
use crate::error::Cause;
use crate::object::names::bad_path_segment;

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) fn role(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    for rule in Field::of(object).at("rules").items() {
        check_rule(&rule, true, &mut found);
    }
    found
}

pub(super) fn cluster_role(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let role = Field::of(object);
    for rule in role.at("rules").items() {
        check_rule(&rule, false, &mut found);
    }
    if role.at("aggregationRule").is_set() {
        let selectors = role.at("aggregationRule.clusterRoleSelectors");
        if selectors.is_empty() {
            let why = "at least one clusterRoleSelector required if aggregationRule is non-nil";
            found.push(selectors.required(why));
        }
        for selector in selectors.items() {
            selector.must_be_selector(&mut found);
        }
    }
    found
}

fn check_rule(rule: &Field<'_>, in_namespace: bool, found: &mut Found) {
    if rule.at("verbs").is_empty() {
        found.push(rule.at("verbs").required("verbs must contain at least one value"));
    }
    let (paths, groups, resources) =
        (rule.at("nonResourceURLs"), rule.at("apiGroups"), rule.at("resources"));
    if !paths.is_empty() {
        if in_namespace {
            found.push(paths.invalid("namespaced rules cannot apply to non-resource URLs"));
        }
        if groups.len() + resources.len() + rule.at("resourceNames").len() > 0 {
            let why = "rules cannot apply to both regular resources and non-resource URLs";
            found.push(paths.invalid(why));
        }
        return;
    }
    if groups.is_empty() {
        found.push(groups.required("resource rules must supply at least one api group"));
    }
    if resources.is_empty() {
        found.push(resources.required("resource rules must supply at least one resource"));
    }
}

pub(super) fn binding(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let binding = Field::of(object);
    let in_namespace = binding.at("kind").text() == "RoleBinding";
    let role = binding.at("roleRef");
    role.at("apiGroup").must_be_one_of(&[GROUP], &mut found);
    let kinds: &[&str] = if in_namespace { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    role.at("kind").must_be_one_of(kinds, &mut found);
    if role.at("name").is_empty() {
        found.push(role.at("name").required(""));
    } else {
        role.at("name").must_be(bad_path_segment, &mut found);
    }
    for subject in binding.at("subjects").items() {
        check_subject(&subject, in_namespace, &mut found);
    }
    found
}

fn check_subject(subject: &Field<'_>, in_namespace: bool, found: &mut Found) {
    subject.at("name").must_not_be_empty(found);
    match subject.at("kind").text() {
        "ServiceAccount" => {
            if !subject.at("name").is_empty() {
                subject.at("name").must_be_subdomain(found);
            }
            subject.at("apiGroup").may_be_one_of(&[""], found);
            if !in_namespace && subject.at("namespace").is_empty() {
                found.push(subject.at("namespace").required(""));
            }
        }
        "User" | "Group" => subject.at("apiGroup").must_be_one_of(&[GROUP], found),
        _ => found.push(subject.at("kind").unsupported(&["ServiceAccount", "User", "Group"])),
    }
}

pub(super) fn binding_change(new: &Value, old: &Value) -> Vec<Cause> {
    let (new, old) = (Field::of(new).at("roleRef"), Field::of(old).at("roleRef"));
    if same(new.value, old.value) {
        return Found::new();
    }
    vec![new.invalid("cannot change roleRef")]
}
