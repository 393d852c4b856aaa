//! The roles and bindings that every cluster has, read from one table (`roles.txt`).
//!
//! Keeps: the objects are what a client expects of a fresh Kubernetes (names, labels, annotations, sorted
//! verbs). A mistake in the table is a bug of ours, found by the tests.

use serde_json::{Map, Value, json};

use crate::live::rbac::Rule;

const TABLE: &str = include_str!("roles.txt");
const GROUP: &str = "rbac.authorization.k8s.io";
const READ: [&str; 3] = ["get", "list", "watch"];
const WRITE: [&str; 5] = ["create", "delete", "deletecollection", "patch", "update"];

/// All default objects: ClusterRoles and Roles first, then their bindings.
#[must_use]
pub fn objects() -> Vec<Value> {
    let lines = lines();
    let mut roles: Vec<Value> = Vec::new();
    let mut bindings: Vec<Value> = Vec::new();
    for line in &lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        if !line.starts_with(' ') && words[0] == "role" {
            let role = role(&words[1..]);
            let name = role["metadata"]["name"].as_str().unwrap_or_default();
            if let Some(account) = name.strip_prefix("system:controller:")
                && role["kind"] == "ClusterRole"
            {
                bindings.push(binding(&["", name, name, &format!("sa:kube-system/{account}")]));
            }
            roles.push(role);
        } else if !line.starts_with(' ') {
            bindings.push(bind(&words));
        } else if let Some(role) = roles.last_mut() {
            match role["rules"].as_array_mut() {
                Some(rules) => rules.push(rule(&words)),
                None => role["rules"] = json!([rule(&words)]),
            }
        }
    }
    roles.append(&mut bindings);
    roles
}

/// The rules of one of the ClusterRoles.
#[must_use]
pub fn rules_of_cluster_role(name: &str) -> Vec<Rule> {
    let is_it = |role: &Value| role["kind"] == "ClusterRole" && role["metadata"]["name"] == name;
    objects().iter().find(|role| is_it(role)).map(Rule::read_all).unwrap_or_default()
}

/// Without remarks and empty lines; what was wrapped is one line again.
fn lines() -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for line in TABLE.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match (line.strip_prefix("      "), lines.last_mut()) {
            (Some(rest), Some(last)) => {
                if !last.ends_with(',') {
                    last.push(' ');
                }
                last.push_str(rest);
            }
            _ => lines.push(line.to_owned()),
        }
    }
    lines
}

fn named(kind: &str, path: &str) -> Value {
    let mut metadata = json!({
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
    });
    let kind = match path.split_once('/') {
        Some((namespace, name)) => {
            metadata["namespace"] = namespace.into();
            metadata["name"] = name.into();
            kind.to_owned()
        }
        None => {
            metadata["name"] = path.into();
            format!("Cluster{kind}")
        }
    };
    json!({"apiVersion": format!("{GROUP}/v1"), "kind": kind, "metadata": metadata})
}

fn role(words: &[&str]) -> Value {
    let mut role = named("Role", words[0]);
    let label = |to: &str| format!("{GROUP}/aggregate-to-{to}");
    for option in words[1..].chunks_exact(2) {
        match option[0] {
            "aggregate-to" => {
                for to in option[1].split(',') {
                    role["metadata"]["labels"][label(to)] = "true".into();
                }
            }
            "aggregates" => {
                let selector = |of: &str| json!({"matchLabels": {(label(of)): "true"}});
                let selectors: Vec<Value> = option[1].split(',').map(selector).collect();
                role["aggregationRule"] = json!({ "clusterRoleSelectors": selectors });
                // What it holds is gathered by a controller.
                role["rules"] = Value::Null;
            }
            other => unreachable!("the table of roles says {other:?} of a role"),
        }
    }
    role
}

fn rule(words: &[&str]) -> Value {
    let split = |list: &str| list.split(',').map(str::to_owned).collect::<Vec<_>>();
    if words == ["record"] {
        return json!({"apiGroups": ["", "events.k8s.io"], "resources": ["events"],
                      "verbs": ["create", "patch", "update"]});
    }
    let mut verbs: Vec<&str> = words[0]
        .split(',')
        .flat_map(|verb| match verb {
            "read" => READ.to_vec(),
            "write" => WRITE.to_vec(),
            one => vec![one],
        })
        .collect();
    verbs.sort_unstable();
    let mut rule = Map::new();
    rule.insert("verbs".into(), json!(verbs));
    if words[1] == "urls" {
        rule.insert("nonResourceURLs".into(), json!(split(words[2])));
        return Value::Object(rule);
    }
    let groups = words[1].split(',').map(|group| if group == "core" { "" } else { group });
    rule.insert("apiGroups".into(), groups.collect());
    rule.insert("resources".into(), json!(split(words[2])));
    if let [_, _, _, "named", names] = words {
        rule.insert("resourceNames".into(), json!(split(names)));
    }
    Value::Object(rule)
}

/// `bind PATH [to ROLE] for SUBJECT…`
fn bind(words: &[&str]) -> Value {
    let path = words[1];
    let (namespace, name) = path.split_once('/').unwrap_or(("", path));
    let (to, subjects) = match words {
        [_, _, "to", role, "for", subjects @ ..] => (*role, subjects),
        [_, _, "for", subjects @ ..] => (name, subjects),
        _ => unreachable!("the table of roles has the line {words:?}"),
    };
    let mut all = vec![namespace, name, to];
    all.extend(subjects);
    binding(&all)
}

/// Namespace, name, role, then the subjects.
fn binding(words: &[&str]) -> Value {
    let [namespace, name, role, subjects @ ..] = words else { unreachable!("a binding's words") };
    let path =
        if namespace.is_empty() { (*name).to_owned() } else { format!("{namespace}/{name}") };
    let mut binding = named("RoleBinding", &path);
    let kind = if namespace.is_empty() { "ClusterRole" } else { "Role" };
    binding["roleRef"] = json!({"apiGroup": GROUP, "kind": kind, "name": role});
    let subjects: Vec<Value> =
        subjects.iter().filter_map(|subject| self::subject(subject)).collect();
    if !subjects.is_empty() {
        binding["subjects"] = subjects.into();
    }
    binding
}

fn subject(text: &str) -> Option<Value> {
    let (kind, name) = text.split_once(':')?;
    Some(match kind {
        "sa" => {
            let (namespace, name) = name.split_once('/')?;
            json!({"kind": "ServiceAccount", "name": name, "namespace": namespace})
        }
        "user" => json!({"apiGroup": GROUP, "kind": "User", "name": name}),
        _ => json!({"apiGroup": GROUP, "kind": "Group", "name": name}),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(kind: &str, name: &str) -> Value {
        let all = objects();
        let found = all.into_iter().find(|it| it["kind"] == kind && it["metadata"]["name"] == name);
        found.unwrap_or_else(|| panic!("{kind} {name} is missing"))
    }

    #[test]
    fn every_rule_of_the_table_is_complete() {
        let all = objects();
        for object in &all {
            for rule in object["rules"].as_array().into_iter().flatten() {
                let full =
                    |field: &str| rule[field].as_array().is_some_and(|list| !list.is_empty());
                let resources = full("apiGroups") && full("resources");
                assert!(full("verbs") && (resources != full("nonResourceURLs")), "{object}");
            }
        }
        let count = |kind: &str| all.iter().filter(|it| it["kind"] == kind).count();
        assert_eq!(count("Role"), count("RoleBinding"));
        let controllers = all.iter().filter(|it| {
            let name = it["metadata"]["name"].as_str().unwrap_or_default();
            it["kind"] == "ClusterRoleBinding" && name.starts_with("system:controller:")
        });
        assert_eq!(controllers.count(), 41);
    }

    #[test]
    fn the_administrators_role_is_everything() {
        let admin = find("ClusterRole", "cluster-admin");
        assert_eq!(
            admin["rules"],
            json!([
                {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]},
                {"verbs": ["*"], "nonResourceURLs": ["*"]},
            ])
        );
        let bound = find("ClusterRoleBinding", "cluster-admin");
        assert_eq!(
            bound["subjects"],
            json!([{"apiGroup": GROUP, "kind": "Group", "name": "system:masters"}])
        );
    }

    #[test]
    fn wrapped_lines_and_abbreviations_are_read() {
        let edit = find("ClusterRole", "edit");
        assert_eq!(edit["metadata"]["labels"][format!("{GROUP}/aggregate-to-admin")], "true");
        assert_eq!(
            edit["aggregationRule"]["clusterRoleSelectors"][0]["matchLabels"],
            json!({(format!("{GROUP}/aggregate-to-edit")): "true"})
        );
        let signing = find("ClusterRole", "system:controller:certificate-controller");
        assert_eq!(signing["rules"][3]["resourceNames"].as_array().unwrap().len(), 4);
        let leases = find("ClusterRole", "system:aggregate-to-edit")["rules"]
            .as_array()
            .unwrap()
            .iter()
            .find(|rule| rule["resources"] == json!(["leases"]))
            .cloned()
            .unwrap();
        assert_eq!(leases["verbs"].as_array().unwrap().len(), 8);
        let locking = find("RoleBinding", "system::leader-locking-kube-controller-manager");
        assert_eq!(locking["subjects"].as_array().unwrap().len(), 3);
        assert_eq!(find("ClusterRoleBinding", "system:node").get("subjects"), None);
    }
}
