//! Who owns whom, as the watches tell it: a node for every object, by uid.
//!
//! An owner that a dependent names and no watch has shown yet is a *virtual* node; somebody has to ask the API
//! whether it exists. References may disagree about what a uid names (a wrong kind, another namespace); such a
//! node is asked for under each of its names in turn, and only dependents that use a name that is known to be
//! absent lose their owner.
//!
//! Pure: what is to be done comes back as [`Todo`]. Never: decides that an object goes; that takes a fresh
//! read.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

pub const FOREGROUND: &str = "foregroundDeletion";
pub const ORPHAN: &str = "orphan";
/// Absent owners that are remembered.
const ABSENT_MAX: usize = 500;

/// What an object is called, wherever it is spoken of.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    pub kind: String,
    pub api_version: String,
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

impl Identity {
    /// What a dependent in `namespace` means by a reference.
    pub fn of(reference: &OwnerReference, namespace: &str) -> Identity {
        Identity {
            kind: reference.kind.clone(),
            api_version: reference.api_version.clone(),
            namespace: namespace.into(),
            name: reference.name.clone(),
            uid: reference.uid.clone(),
        }
    }

    fn is_named_by(&self, reference: &OwnerReference) -> bool {
        self.uid == reference.uid
            && self.kind == reference.kind
            && self.api_version == reference.api_version
            && self.name == reference.name
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Identity { kind, api_version, namespace, name, uid } = self;
        write!(f, "[{api_version}/{kind}, namespace: {namespace}, name: {name}, uid: {uid}]")
    }
}

/// What is to be looked into, by uid.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Work {
    /// Does the object still have a reason to be?
    Delete(String),
    /// Its dependents are to lose it as their owner.
    Orphan(String),
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Work::Delete(uid) => write!(f, "uid {uid}"),
            Work::Orphan(uid) => write!(f, "dependents of uid {uid}"),
        }
    }
}

/// What a change of the graph calls for.
#[derive(Debug, Default)]
pub struct Todo {
    pub now: Vec<Work>,
    /// Not at once: the answer would be the same.
    pub later: Vec<Work>,
    /// Dependents that name an owner in another namespace.
    pub misplaced: Vec<(Identity, OwnerReference)>,
}

impl Todo {
    fn look_at(&mut self, uid: &str) {
        self.now.push(Work::Delete(uid.into()));
    }
}

#[derive(Clone, Debug, Default)]
struct Node {
    identity: Identity,
    owners: Vec<OwnerReference>,
    dependents: BTreeSet<String>,
    /// No watch has shown it.
    is_virtual: bool,
    being_deleted: bool,
    deleting_dependents: bool,
    orphaning: bool,
}

/// A node as a worker sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    pub identity: Identity,
    pub is_virtual: bool,
    pub being_deleted: bool,
    pub deleting_dependents: bool,
    pub dependents: Vec<Dependent>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dependent {
    pub identity: Identity,
    pub deleting_dependents: bool,
    /// Its owner has to wait for it (`blockOwnerDeletion`).
    pub blocks: bool,
}

#[derive(Default)]
pub struct Graph {
    nodes: HashMap<String, Node>,
    absent: Absent,
}

impl Graph {
    /// An object as a watch shows it.
    pub fn observe(&mut self, identity: Identity, metadata: &ObjectMeta) -> Todo {
        let mut todo = Todo::default();
        let uid = identity.uid.clone();
        let mut node = self.nodes.remove(&uid).unwrap_or_default();
        let known = !node.identity.uid.is_empty();
        if known && node.is_virtual && node.identity != identity {
            let (_, others) = self.partition(&node, &identity);
            for dependent in others {
                self.report_if_misplaced(&dependent, &identity, &mut todo);
                todo.look_at(&dependent);
            }
        }
        node.identity = identity;
        node.is_virtual = false;

        let before = std::mem::replace(
            &mut node.owners,
            metadata.owner_references.clone().unwrap_or_default(),
        );
        let has = |wanted: &str| metadata.finalizers.iter().flatten().any(|it| it == wanted);
        node.being_deleted = metadata.deletion_timestamp.is_some();
        let orphaning = node.being_deleted && has(ORPHAN);
        let foreground = node.being_deleted && has(FOREGROUND);
        let starts_orphaning = orphaning && !node.orphaning;
        let starts_foreground = foreground && !node.deleting_dependents;
        (node.orphaning, node.deleting_dependents) = (orphaning, foreground);
        if starts_orphaning {
            todo.now.push(Work::Orphan(uid.clone()));
        } else if starts_foreground {
            node.dependents.iter().for_each(|dependent| todo.look_at(dependent));
            todo.look_at(&uid);
        }

        let after = node.owners.clone();
        self.nodes.insert(uid.clone(), node);
        for removed in before.iter().filter(|old| !after.iter().any(|new| new.uid == old.uid)) {
            self.disown(&removed.uid, &uid);
        }
        for old in before.iter().filter(|old| old.block_owner_deletion == Some(true)) {
            let now = after.iter().find(|new| new.uid == old.uid);
            let blocks = now.is_some_and(|new| new.block_owner_deletion == Some(true));
            if !blocks && self.nodes.contains_key(&old.uid) {
                todo.look_at(&old.uid);
            }
        }
        let added = after.iter().filter(|new| !before.iter().any(|old| old.uid == new.uid));
        self.own(&uid, added.cloned().collect(), &mut todo);
        todo
    }

    /// A watch showed that the object is gone.
    pub fn gone(&mut self, uid: &str) -> Todo {
        let mut todo = Todo::default();
        if self.nodes.get(uid).is_some_and(|node| !node.is_virtual) {
            self.remove(uid, &mut todo);
        }
        todo
    }

    /// The API says that nothing of this name and uid exists.
    pub fn is_absent(&mut self, identity: &Identity) -> Todo {
        let mut todo = Todo::default();
        let Some(node) = self.nodes.get(&identity.uid) else { return todo };
        let (matching, others) = self.partition(node, identity);
        let same = node.identity == *identity;
        let remove = if node.is_virtual { others.is_empty() } else { same };
        if remove {
            self.remove(&identity.uid, &mut todo);
            return todo;
        }
        if !matching.is_empty() {
            self.absent.add(identity.clone());
            matching.iter().for_each(|dependent| todo.look_at(dependent));
        }
        if node.is_virtual
            && same
            && let Some(other) = self.other_name(&others, identity)
        {
            let node = self.nodes.get_mut(&identity.uid).expect("it was found above");
            node.identity = other;
            todo.later.push(Work::Delete(identity.uid.clone()));
        }
        todo
    }

    /// The kind of a virtual node turned out to live in no namespace.
    pub fn leaves_namespace(&mut self, uid: &str) {
        if let Some(node) = self.nodes.get_mut(uid).filter(|node| node.is_virtual) {
            node.identity.namespace.clear();
        }
    }

    /// Whether the owner that a reference of an object in `namespace` names is known to be absent.
    #[must_use]
    pub fn knows_absent(&self, reference: &OwnerReference, namespace: &str) -> bool {
        self.absent.contains(&Identity::of(reference, ""))
            || self.absent.contains(&Identity::of(reference, namespace))
    }

    pub fn remember_absent(&mut self, identity: Identity) {
        self.absent.add(identity);
    }

    #[must_use]
    pub fn view(&self, uid: &str) -> Option<View> {
        let node = self.nodes.get(uid)?;
        let dependents = node.dependents.iter().filter_map(|it| self.nodes.get(it));
        let blocks = |dependent: &Node| {
            let mut owners = dependent.owners.iter();
            owners.any(|it| it.uid == uid && it.block_owner_deletion == Some(true))
        };
        Some(View {
            identity: node.identity.clone(),
            is_virtual: node.is_virtual,
            being_deleted: node.being_deleted,
            deleting_dependents: node.deleting_dependents,
            dependents: dependents
                .map(|it| Dependent {
                    identity: it.identity.clone(),
                    deleting_dependents: it.deleting_dependents,
                    blocks: blocks(it),
                })
                .collect(),
        })
    }

    /// The uids of all objects of a resource that a watch has shown.
    #[must_use]
    pub fn observed(&self, api_version: &str, kind: &str) -> HashSet<String> {
        let of_kind = |node: &&Node| {
            !node.is_virtual
                && node.identity.kind == kind
                && node.identity.api_version == api_version
        };
        self.nodes.values().filter(of_kind).map(|node| node.identity.uid.clone()).collect()
    }

    /// Makes `uid` a dependent of `owners`, which may have to be looked for first.
    fn own(&mut self, uid: &str, owners: Vec<OwnerReference>, todo: &mut Todo) {
        let namespace = self.nodes[uid].identity.namespace.clone();
        let mut doubtful = false;
        for owner in owners {
            let known = self.nodes.contains_key(&owner.uid);
            let node = self.nodes.entry(owner.uid.clone()).or_insert_with(|| Node {
                identity: Identity::of(&owner, &namespace),
                is_virtual: true,
                ..Node::default()
            });
            node.dependents.insert(uid.into());
            if !known {
                todo.look_at(&owner.uid);
                continue;
            }
            let theirs = &node.identity;
            let elsewhere = !theirs.namespace.is_empty() && theirs.namespace != namespace;
            let unlike = !theirs.is_named_by(&owner);
            // A missing owner of a kind with namespaces, named by an object that has none.
            let nowhere = theirs.namespace.is_empty() && !namespace.is_empty() && node.is_virtual;
            doubtful |= elsewhere || unlike || nowhere;
            if elsewhere && !node.is_virtual {
                todo.misplaced.push((self.nodes[uid].identity.clone(), owner));
            }
        }
        if doubtful {
            todo.look_at(uid);
        }
    }

    /// `uid` is no dependent of `owner` any more. A virtual owner without dependents is nobody's concern.
    fn disown(&mut self, owner: &str, uid: &str) {
        let Some(node) = self.nodes.get_mut(owner) else { return };
        node.dependents.remove(uid);
        if node.is_virtual && node.dependents.is_empty() {
            self.nodes.remove(owner);
        }
    }

    fn remove(&mut self, uid: &str, todo: &mut Todo) {
        let Some(node) = self.nodes.remove(uid) else { return };
        for owner in &node.owners {
            self.disown(&owner.uid, uid);
            // It may have waited for this one.
            if self.nodes.get(&owner.uid).is_some_and(|it| it.deleting_dependents) {
                todo.look_at(&owner.uid);
            }
        }
        if !node.dependents.is_empty() {
            self.absent.add(node.identity);
        }
        node.dependents.iter().for_each(|dependent| todo.look_at(dependent));
    }

    /// The dependents of `node` that name it as `identity`, and those that name it otherwise; one with several
    /// references may be in both.
    fn partition(&self, node: &Node, identity: &Identity) -> (Vec<String>, Vec<String>) {
        let (mut matching, mut others) = (Vec::new(), Vec::new());
        for uid in &node.dependents {
            let Some(dependent) = self.nodes.get(uid) else { continue };
            if !identity.namespace.is_empty() && identity.namespace != dependent.identity.namespace
            {
                others.push(uid.clone());
                continue;
            }
            let mut references = dependent.owners.iter().filter(|it| it.uid == identity.uid);
            if references.clone().any(|it| identity.is_named_by(it)) {
                matching.push(uid.clone());
            }
            if references.any(|it| !identity.is_named_by(it)) {
                others.push(uid.clone());
            }
        }
        (matching, others)
    }

    /// Another name that `dependents` have for an owner which is absent under `identity`: the next in order.
    fn other_name(&self, dependents: &[String], identity: &Identity) -> Option<Identity> {
        let mut names = BTreeSet::new();
        for dependent in dependents.iter().filter_map(|uid| self.nodes.get(uid)) {
            let namespace = &dependent.identity.namespace;
            for reference in dependent.owners.iter().filter(|it| it.uid == identity.uid) {
                let mut name = Identity::of(reference, namespace);
                let same_kind =
                    name.kind == identity.kind && name.api_version == identity.api_version;
                if identity.namespace.is_empty() && same_kind {
                    name.namespace.clear();
                }
                names.insert(name);
            }
        }
        names.remove(identity);
        names.range(identity.clone()..).next().or_else(|| names.first()).cloned()
    }

    fn report_if_misplaced(&self, dependent: &str, owner: &Identity, todo: &mut Todo) {
        let Some(node) = self.nodes.get(dependent) else { return };
        if owner.namespace.is_empty() || owner.namespace == node.identity.namespace {
            return;
        }
        if let Some(reference) = node.owners.iter().find(|it| it.uid == owner.uid) {
            todo.misplaced.push((node.identity.clone(), reference.clone()));
        }
    }
}

/// Names that were found to be absent; a uid never comes back, so they stay so. The oldest is forgotten.
#[derive(Default)]
struct Absent {
    known: HashSet<Identity>,
    order: VecDeque<Identity>,
}

impl Absent {
    fn add(&mut self, identity: Identity) {
        if !self.known.insert(identity.clone()) {
            return;
        }
        self.order.push_back(identity);
        if self.order.len() > ABSENT_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    fn contains(&self, identity: &Identity) -> bool {
        self.known.contains(identity)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn identity(namespace: &str, name: &str) -> Identity {
        Identity {
            kind: "Thing".into(),
            api_version: "shop/v1".into(),
            namespace: namespace.into(),
            name: name.into(),
            uid: format!("u-{name}"),
        }
    }

    fn owner(name: &str, blocks: bool) -> Value {
        json!({"apiVersion": "shop/v1", "kind": "Thing", "name": name,
            "uid": format!("u-{name}"), "blockOwnerDeletion": blocks})
    }

    fn metadata(value: Value) -> ObjectMeta {
        serde_json::from_value(value).unwrap()
    }

    fn observe(graph: &mut Graph, namespace: &str, name: &str, value: Value) -> Vec<String> {
        told(&graph.observe(identity(namespace, name), &metadata(value)))
    }

    fn told(todo: &Todo) -> Vec<String> {
        todo.now.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_owner_that_was_not_seen_is_asked_for_and_its_dependents_follow_it() {
        let mut graph = Graph::default();
        let owned = json!({"ownerReferences": [owner("a", false)]});
        assert_eq!(observe(&mut graph, "n", "b", owned.clone()), ["uid u-a"]);
        assert!(graph.view("u-a").unwrap().is_virtual);
        assert_eq!(told(&graph.is_absent(&identity("n", "a"))), ["uid u-b"]);
        assert!(graph.view("u-a").is_none());
        let reference = serde_json::from_value(owner("a", false)).unwrap();
        assert!(graph.knows_absent(&reference, "n"));

        assert!(observe(&mut graph, "n", "c", json!({})).is_empty());
        let owned = json!({"ownerReferences": [owner("c", false)]});
        assert!(observe(&mut graph, "n", "d", owned).is_empty(), "its owner is there");
        assert_eq!(told(&graph.gone("u-c")), ["uid u-d"]);
    }

    #[test]
    fn an_owner_that_is_seen_after_its_dependent_is_virtual_no_more() {
        let mut graph = Graph::default();
        observe(&mut graph, "n", "b", json!({"ownerReferences": [owner("a", false)]}));
        assert!(observe(&mut graph, "n", "a", json!({})).is_empty());
        let view = graph.view("u-a").unwrap();
        assert!(!view.is_virtual);
        assert_eq!(view.dependents.len(), 1);
        // What the API said before the watch showed it is out of date for other names only.
        assert!(told(&graph.is_absent(&identity("m", "a"))).is_empty());
        assert!(graph.view("u-a").is_some());
    }

    #[test]
    fn foreground_deletion_looks_at_dependents_and_at_the_owner_when_they_are_gone() {
        let mut graph = Graph::default();
        observe(&mut graph, "n", "a", json!({}));
        observe(&mut graph, "n", "b", json!({"ownerReferences": [owner("a", true)]}));
        let going = json!({"deletionTimestamp": "2026-01-01T00:00:00Z",
            "finalizers": [FOREGROUND]});
        assert_eq!(observe(&mut graph, "n", "a", going.clone()), ["uid u-b", "uid u-a"]);
        assert!(observe(&mut graph, "n", "a", going).is_empty(), "told once");
        let view = graph.view("u-a").unwrap();
        assert!(view.deleting_dependents && view.dependents[0].blocks);
        let unblocked = json!({"ownerReferences": [owner("a", false)]});
        assert_eq!(observe(&mut graph, "n", "b", unblocked), ["uid u-a"]);
        assert_eq!(told(&graph.gone("u-b")), ["uid u-a"]);
        assert!(graph.view("u-a").unwrap().dependents.is_empty());
    }

    #[test]
    fn orphaning_is_its_own_work() {
        let mut graph = Graph::default();
        observe(&mut graph, "n", "a", json!({}));
        let going = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [ORPHAN]});
        assert_eq!(observe(&mut graph, "n", "a", going), ["dependents of uid u-a"]);
    }

    #[test]
    fn an_owner_in_another_namespace_is_reported_and_the_dependent_looked_at() {
        let mut graph = Graph::default();
        observe(&mut graph, "n", "a", json!({}));
        let owned = metadata(json!({"ownerReferences": [owner("a", false)]}));
        let todo = graph.observe(identity("m", "b"), &owned);
        assert_eq!(told(&todo), ["uid u-b"]);
        assert_eq!(todo.misplaced.len(), 1);
    }

    #[test]
    fn an_owner_that_is_named_differently_is_asked_for_under_each_name() {
        let mut graph = Graph::default();
        let owned = json!({"ownerReferences": [owner("a", false)]});
        observe(&mut graph, "m", "b", owned.clone());
        observe(&mut graph, "n", "c", owned);
        let todo = graph.is_absent(&identity("m", "a"));
        assert_eq!(told(&todo), ["uid u-b"], "only who means this one");
        assert_eq!(todo.later, [Work::Delete("u-a".into())]);
        assert_eq!(graph.view("u-a").unwrap().identity.namespace, "n");
    }

    #[test]
    fn a_circle_of_owners_is_no_endless_walk() {
        let mut graph = Graph::default();
        observe(&mut graph, "n", "a", json!({"ownerReferences": [owner("b", true)]}));
        observe(&mut graph, "n", "b", json!({"ownerReferences": [owner("a", true)]}));
        assert_eq!(told(&graph.gone("u-a")), ["uid u-b"]);
        let left = graph.view("u-b").unwrap();
        assert!(left.dependents.is_empty());
        assert_eq!(told(&graph.gone("u-b")), Vec::<String>::new());
    }
}
