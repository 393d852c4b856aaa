//! The rows against the facts of upstream's resources.

use std::collections::BTreeMap;

use super::*;
use crate::kinds::Verbs;
use crate::schema::Form;

/// What a 1.37 server's discovery says: group, version, resource, kind, scope, short names, categories, verbs,
/// and the group and version of a subresource's kind.
const PUBLISHED: &str = include_str!("tests/resources.tsv");

fn verbs(verbs: Verbs) -> String {
    if verbs == Verbs::ALL { "all".into() } else { verbs.names().join(",") }
}

fn published() -> BTreeMap<String, String> {
    let line = |line: &str| {
        let columns: Vec<&str> = line.split('\t').collect();
        (columns[..3].join(" "), columns[3..].join(" "))
    };
    PUBLISHED.lines().map(line).collect()
}

fn ours() -> BTreeMap<String, String> {
    let mut rows = BTreeMap::new();
    let list = |texts: &[std::sync::Arc<str>]| {
        let texts = texts.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(",");
        if texts.is_empty() { "-".into() } else { texts }
    };
    for kind in kinds() {
        let group = if kind.group.is_empty() { "core" } else { &*kind.group };
        let name = format!("{group} {} {}", kind.version, kind.resource);
        let scope = if kind.namespaced { "n" } else { "c" };
        for sub in &kind.subresources {
            let (sub_kind, foreign) = match &sub.kind {
                None => (kind.kind.to_string(), "-".to_owned()),
                Some(it) if it.group_version() == kind.group_version() => {
                    (it.kind.clone(), "-".to_owned())
                }
                Some(it) => (it.kind.clone(), it.group_version().to_string()),
            };
            let facts = format!("{sub_kind} {scope} - - {} {foreign}", verbs(sub.verbs));
            rows.insert(format!("{name}/{}", sub.name), facts);
        }
        let (short, categories) = (list(&kind.short_names), list(&kind.categories));
        let facts = format!("{} {scope} {short} {categories} {} -", kind.kind, verbs(kind.verbs));
        rows.insert(name, facts);
    }
    rows
}

#[test]
fn the_rows_are_what_a_1_37_server_publishes() {
    assert_eq!(ours(), published());
    assert_eq!(kinds().len(), 72);
}

#[test]
fn every_row_has_a_type_with_a_kind_and_metadata() {
    for kind in kinds() {
        let Form::Object(object) = &kind.schema.resolve().form else { panic!("{kind:?}") };
        for field in ["apiVersion", "kind", "metadata"] {
            assert!(object.field(field).is_some(), "{kind:?} has no {field}");
        }
        assert_eq!(kind.has_status, kind.subresource("status").is_some(), "{kind:?}");
        assert!(!kind.has_status || object.field("status").is_some(), "{kind:?}");
    }
}

#[test]
fn each_selectable_field_is_a_field_of_the_type() {
    // What the two renamed ones mean is known where selectors are matched.
    const OTHER: &[&str] = &["spec.host", "source", "status.successful", "reportingController"];
    for kind in kinds() {
        for path in kind.selectable.iter().filter(|path| !OTHER.contains(&path.as_ref())) {
            let mut node = crate::schema::Node::clone(&kind.schema);
            for step in path.split('.') {
                let field = node.field(step).unwrap_or_else(|| panic!("{kind:?} {path}"));
                node = field.node.clone();
            }
        }
    }
}

#[test]
fn each_object_has_one_row_in_the_version_in_which_it_is_stored() {
    let kinds = kinds();
    for kind in kinds.iter().filter(|kind| kind.is_stored()) {
        let homes = kinds.iter().filter(|it| it.stored == kind.stored && it.is_stored_version());
        assert_eq!(homes.count(), 1, "{kind:?}");
    }
}
