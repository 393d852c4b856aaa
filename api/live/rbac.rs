//! Roles and bindings, arranged so that a request's rules are found without looking at other people's bindings.
//!
//! Keeps: a snapshot never changes; readers hold it without a lock, changes make the next one. Only the scopes
//! that a batch of changes touched are copied.
//! Never: decides anything. What a rule allows is said in `auth::rbac`.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use crate::request::User;

/// One rule of a role, in the words of the object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    pub verbs: Vec<String>,
    pub groups: Vec<String>,
    pub resources: Vec<String>,
    pub names: Vec<String>,
    pub urls: Vec<String>,
}

impl Rule {
    /// Reads a `PolicyRule`. What is missing or of another type is empty: it allows nothing.
    #[must_use]
    pub fn read(rule: &Value) -> Rule {
        Rule {
            verbs: strings(&rule["verbs"]),
            groups: strings(&rule["apiGroups"]),
            resources: strings(&rule["resources"]),
            names: strings(&rule["resourceNames"]),
            urls: strings(&rule["nonResourceURLs"]),
        }
    }

    /// The rules of a Role or ClusterRole.
    #[must_use]
    pub fn read_all(role: &Value) -> Vec<Rule> {
        role["rules"].as_array().into_iter().flatten().map(Rule::read).collect()
    }
}

fn strings(list: &Value) -> Vec<String> {
    let items = list.as_array().into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Which role a binding grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleRef {
    pub group: String,
    pub kind: String,
    pub name: String,
}

impl RoleRef {
    #[must_use]
    pub fn read(reference: &Value) -> RoleRef {
        let text = |field: &str| reference[field].as_str().unwrap_or_default().to_owned();
        RoleRef { group: text("apiGroup"), kind: text("kind"), name: text("name") }
    }
}

/// To whom a binding grants its role.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Subject {
    kind: String,
    namespace: String,
    name: String,
}

/// A RoleBinding, or with an empty namespace a ClusterRoleBinding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    namespace: String,
    name: String,
    pub role: RoleRef,
    subjects: Vec<Subject>,
}

impl Binding {
    fn read(binding: &Value) -> Binding {
        let text =
            |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
        let subjects = binding["subjects"].as_array().into_iter().flatten().map(|it| Subject {
            kind: text(it, "kind"),
            namespace: text(it, "namespace"),
            name: text(it, "name"),
        });
        Binding {
            namespace: text(&binding["metadata"], "namespace"),
            name: text(&binding["metadata"], "name"),
            role: RoleRef::read(&binding["roleRef"]),
            subjects: subjects.collect(),
        }
    }

    /// Under which key of the index each subject is found.
    fn keys(&self) -> impl Iterator<Item = (usize, Key)> {
        self.subjects.iter().enumerate().filter_map(|(at, subject)| {
            let key = match subject.kind.as_str() {
                "User" => Key::User(subject.name.clone()),
                "Group" => Key::Group(subject.name.clone()),
                "ServiceAccount" => {
                    let namespace = match subject.namespace.as_str() {
                        "" => &self.namespace,
                        own => own,
                    };
                    if namespace.is_empty() {
                        return None;
                    }
                    Key::User(format!("system:serviceaccount:{namespace}:{}", subject.name))
                }
                _ => return None,
            };
            Some((at, key))
        })
    }
}

/// Which binding, and for which of its subjects, a rule comes from. Printed as clients see it in reasons.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    binding: &'a Binding,
    subject: &'a Subject,
}

impl fmt::Display for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Binding { namespace, name, role, .. } = self.binding;
        if namespace.is_empty() {
            write!(f, "ClusterRoleBinding \"{name}\"")?;
        } else {
            write!(f, "RoleBinding \"{name}/{namespace}\"")?;
        }
        write!(f, " of {} \"{}\" to {} ", role.kind, role.name, self.subject.kind)?;
        if self.subject.kind == "ServiceAccount" {
            let subject_namespace = match self.subject.namespace.as_str() {
                "" => namespace,
                own => own,
            };
            write!(f, "\"{}/{subject_namespace}\"", self.subject.name)
        } else {
            write!(f, "\"{}\"", self.subject.name)
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    User(String),
    Group(String),
}

/// Roles and bindings of one namespace, or of the cluster.
#[derive(Clone, Debug, Default)]
struct Scope {
    roles: HashMap<String, Arc<[Rule]>>,
    bindings: BTreeMap<String, Arc<Binding>>,
    by_subject: HashMap<Key, Vec<(Arc<Binding>, usize)>>,
}

impl Scope {
    fn index(&mut self) {
        self.by_subject.clear();
        for binding in self.bindings.values() {
            for (at, key) in binding.keys() {
                self.by_subject.entry(key).or_default().push((binding.clone(), at));
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.roles.is_empty() && self.bindings.is_empty()
    }
}

/// All roles and bindings at one moment.
#[derive(Clone, Debug, Default)]
pub struct Rbac {
    cluster: Arc<Scope>,
    namespaces: HashMap<String, Arc<Scope>>,
}

/// What changed: the object as it is now, or that it is gone.
#[derive(Clone, Debug)]
pub enum Change<'a> {
    Role(&'a Value),
    Binding(&'a Value),
    RoleGone { namespace: &'a str, name: &'a str },
    BindingGone { namespace: &'a str, name: &'a str },
}

impl Change<'_> {
    fn namespace(&self) -> &str {
        match self {
            Change::Role(object) | Change::Binding(object) => {
                object["metadata"]["namespace"].as_str().unwrap_or_default()
            }
            Change::RoleGone { namespace, .. } | Change::BindingGone { namespace, .. } => namespace,
        }
    }
}

impl Rbac {
    /// The next snapshot.
    #[must_use]
    pub fn after<'a>(&self, changes: impl IntoIterator<Item = Change<'a>>) -> Rbac {
        let mut next = self.clone();
        let mut touched: HashMap<String, Scope> = HashMap::new();
        for change in changes {
            let namespace = change.namespace();
            if !touched.contains_key(namespace) {
                touched.insert(
                    namespace.to_owned(),
                    self.scope(namespace).cloned().unwrap_or_default(),
                );
            }
            if let Some(scope) = touched.get_mut(namespace) {
                scope.apply(&change);
            }
        }
        for (namespace, mut scope) in touched {
            scope.index();
            if namespace.is_empty() {
                next.cluster = Arc::new(scope);
            } else if scope.is_empty() {
                next.namespaces.remove(&namespace);
            } else {
                next.namespaces.insert(namespace, Arc::new(scope));
            }
        }
        next
    }

    fn scope(&self, namespace: &str) -> Option<&Scope> {
        if namespace.is_empty() {
            return Some(&self.cluster);
        }
        self.namespaces.get(namespace).map(Arc::as_ref)
    }

    /// The rules of a role that a binding in `namespace` names; the error is a reason, as clients see it.
    pub fn rules_of(&self, role: &RoleRef, namespace: &str) -> Result<Arc<[Rule]>, String> {
        let (scope, resource) = match role.kind.as_str() {
            "Role" => (self.scope(namespace), "role"),
            "ClusterRole" => (Some(&*self.cluster), "clusterrole"),
            other => return Err(format!("unsupported role reference kind: \"{other}\"")),
        };
        let rules = scope.and_then(|scope| scope.roles.get(&role.name)).cloned();
        rules.ok_or_else(|| {
            format!("{resource}.rbac.authorization.k8s.io \"{}\" not found", role.name)
        })
    }

    /// Shows each rule that the user has in the namespace (empty: cluster-wide alone), until `found` says stop
    /// by answering true. Returns what could not be resolved.
    pub fn visit(
        &self,
        user: &User,
        namespace: &str,
        mut found: impl FnMut(Source<'_>, &Rule) -> bool,
    ) -> Vec<String> {
        let mut unresolved = Vec::new();
        let local = if namespace.is_empty() { None } else { self.namespaces.get(namespace) };
        for scope in std::iter::once(&self.cluster).chain(local) {
            for (binding, at) in scope.bound(user) {
                match self.rules_of(&binding.role, &binding.namespace) {
                    Err(reason) => unresolved.push(reason),
                    Ok(rules) => {
                        let source = Source { binding, subject: &binding.subjects[at] };
                        if rules.iter().any(|rule| found(source, rule)) {
                            return unresolved;
                        }
                    }
                }
            }
        }
        unresolved
    }

    /// All rules that the user has in the namespace, with what could not be resolved.
    #[must_use]
    pub fn rules_for(&self, user: &User, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        let mut rules = Vec::new();
        let unresolved = self.visit(user, namespace, |_, rule| {
            rules.push(rule.clone());
            false
        });
        (rules, unresolved)
    }
}

impl Scope {
    fn apply(&mut self, change: &Change<'_>) {
        let name_of = |object: &Value| object["metadata"]["name"].as_str().map(str::to_owned);
        match change {
            Change::Role(role) => {
                if let Some(name) = name_of(role) {
                    self.roles.insert(name, Rule::read_all(role).into());
                }
            }
            Change::Binding(binding) => {
                if let Some(name) = name_of(binding) {
                    self.bindings.insert(name, Arc::new(Binding::read(binding)));
                }
            }
            Change::RoleGone { name, .. } => drop(self.roles.remove(*name)),
            Change::BindingGone { name, .. } => drop(self.bindings.remove(*name)),
        }
    }

    /// Bindings that name the user, each once, with the first subject that does.
    fn bound<'a>(&'a self, user: &User) -> Vec<(&'a Binding, usize)> {
        let groups = user.groups.iter().map(|group| Key::Group(group.clone()));
        let keys = std::iter::once(Key::User(user.name.clone())).chain(groups);
        let mut bound: Vec<(&Binding, usize)> = keys
            .filter_map(|key| self.by_subject.get(&key))
            .flatten()
            .map(|(binding, at)| (binding.as_ref(), *at))
            .collect();
        bound.sort_by(|(a, at), (b, bt)| (&a.name, at).cmp(&(&b.name, bt)));
        bound.dedup_by(|(a, _), (b, _)| a.name == b.name);
        bound
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn user(name: &str, groups: &[&str]) -> User {
        User {
            name: name.into(),
            groups: groups.iter().map(|&group| group.into()).collect(),
            ..User::default()
        }
    }

    fn role(namespace: &str, name: &str, verb: &str) -> Value {
        json!({"metadata": {"name": name, "namespace": namespace},
               "rules": [{"verbs": [verb], "apiGroups": [""], "resources": ["pods"]}]})
    }

    fn binding(namespace: &str, name: &str, kind: &str, role: &str, subject: &Value) -> Value {
        json!({"metadata": {"name": name, "namespace": namespace},
               "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
               "subjects": [subject]})
    }

    fn verbs(rbac: &Rbac, user: &User, namespace: &str) -> Vec<String> {
        rbac.rules_for(user, namespace).0.into_iter().flat_map(|rule| rule.verbs).collect()
    }

    #[test]
    fn a_role_binding_grants_a_cluster_role_in_its_namespace_alone() {
        let clusterwide = role("", "reader", "list");
        let bound =
            binding("a", "b", "ClusterRole", "reader", &json!({"kind": "Group", "name": "devs"}));
        let rbac = Rbac::default().after([Change::Role(&clusterwide), Change::Binding(&bound)]);
        let dev = user("eve", &["devs"]);
        assert_eq!(verbs(&rbac, &dev, "a"), ["list"]);
        assert!(verbs(&rbac, &dev, "b").is_empty());
        assert!(verbs(&rbac, &dev, "").is_empty());
    }

    #[test]
    fn a_service_account_without_a_namespace_is_the_bindings_own() {
        let local = role("a", "r", "get");
        let bound =
            binding("a", "b", "Role", "r", &json!({"kind": "ServiceAccount", "name": "bot"}));
        let rbac = Rbac::default().after([Change::Role(&local), Change::Binding(&bound)]);
        assert_eq!(verbs(&rbac, &user("system:serviceaccount:a:bot", &[]), "a"), ["get"]);
        assert!(verbs(&rbac, &user("system:serviceaccount:b:bot", &[]), "a").is_empty());
        let mut told = String::new();
        rbac.visit(&user("system:serviceaccount:a:bot", &[]), "a", |source, _| {
            told = source.to_string();
            true
        });
        assert_eq!(told, r#"RoleBinding "b/a" of Role "r" to ServiceAccount "bot/a""#);
    }

    #[test]
    fn a_binding_that_is_gone_grants_nothing_and_older_snapshots_stay() {
        let before = Rbac::default().after([
            Change::Role(&role("", "r", "get")),
            Change::Binding(&binding(
                "",
                "b",
                "ClusterRole",
                "r",
                &json!({"kind": "User", "name": "u"}),
            )),
        ]);
        let after = before.after([Change::BindingGone { namespace: "", name: "b" }]);
        assert_eq!(verbs(&before, &user("u", &[]), "x"), ["get"]);
        assert!(verbs(&after, &user("u", &[]), "x").is_empty());
    }

    #[test]
    fn a_missing_role_is_told() {
        let bound = binding("", "b", "ClusterRole", "none", &json!({"kind": "User", "name": "u"}));
        let rbac = Rbac::default().after([Change::Binding(&bound)]);
        let (_, unresolved) = rbac.rules_for(&user("u", &[]), "");
        assert_eq!(unresolved, [r#"clusterrole.rbac.authorization.k8s.io "none" not found"#]);
    }
}
